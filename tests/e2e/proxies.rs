//! Real proxies from Debian's packages in front of the real server, with the configurations of tuning/proxies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::clients::{Http, Socket, Stream, get};
use super::proxy::{Proxy, nginx, replace, shipped, start};
use super::server::{PATIENCE, Server};

/// Longer than the proxies wait by default for a backend that says nothing: nginx 60 s, HAProxy as Debian sets it up 50 s.
const IDLE: Duration = Duration::from_secs(65);
/// The client's address, which the server must learn from the proxy.
const CLIENT: [u8; 4] = [127, 0, 0, 9];

fn haproxy(backend: SocketAddr) -> Proxy {
    start("/usr/sbin/haproxy", |folder, port| {
        let text = replace(&shipped("haproxy.cfg"), "    bind :80\n", &format!("    bind 127.0.0.1:{port}\n"));
        let text = replace(&text, "server local 127.0.0.1:8080", &format!("server local {backend}"));
        // This machine's limit on descriptors allows no more.
        let text = replace(&text, "maxconn 100000", "maxconn 1000");
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        ["-db", "-f", &file.display().to_string()].map(Into::into).into()
    })
}

fn caddy(backend: SocketAddr) -> Proxy {
    start("/usr/bin/caddy", |folder, port| {
        let text = replace(&shipped("Caddyfile"), ":80 {\n", &format!(":{port} {{\n\tbind 127.0.0.1\n"));
        let text = replace(&text, "reverse_proxy 127.0.0.1:8080", &format!("reverse_proxy {backend}"));
        let file = folder.join("Caddyfile");
        std::fs::write(&file, format!("{{\n\tadmin off\n}}\n{text}")).unwrap();
        ["run", "--adapter", "caddyfile", "--config", &file.display().to_string()].map(Into::into).into()
    })
}

/// Checks the behaviour that every proxy must preserve.
fn passes_everything(start: fn(SocketAddr) -> Proxy) {
    let server = Server::start("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[http]\nretry = \"1s\"");
    let proxy = start(server.address);
    let address = proxy.address;
    // The proxy names the client's address, and the client's own fields are ignored.
    let fields = "X-Forwarded-For: 10.6.6.6\r\nForwarded: for=10.6.6.6\r\n";
    let mut stream = Stream::over(Http::connect_from(CLIENT, address), "/sse?channel=a", fields);
    let rows = server.feed().call(serde_json::json!({ "op": "connections" })).unwrap();
    assert_eq!(rows["connections"][0]["address"], "127.0.0.9:0", "{rows}");
    // Events pass without delay, including the first one and small ones.
    for number in 0..5 {
        let begun = Instant::now();
        server.publish("a", &number.to_string());
        assert_eq!(stream.next().unwrap().data, number.to_string());
        assert!(begun.elapsed() < Duration::from_secs(1), "an event took {:?}", begun.elapsed());
    }
    let mut socket = Socket::open(address, "/ws?channel=a");
    let mut quiet_stream = Stream::over(Http::connect(address), "/sse?channel=quiet", "");
    let mut quiet_socket = Socket::open(address, "/ws?channel=quiet");
    quiet_stream.http.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    server.publish("a", "to both");
    assert_eq!(socket.json()["data"], "to both");
    assert_eq!(stream.next().unwrap().data, "to both");
    socket.say(r#"{"subscribe":["b"],"ref":1}"#);
    assert_eq!(socket.json()["ok"], true);
    // Polls succeed each other on one connection, including held ones.
    let mut polls = Http::connect(address);
    let mut next = polls.get("/poll?channel=a&wait=0").json()["next"].as_str().unwrap().to_owned();
    for number in 0..3 {
        polls.send(&format!("GET /poll?channel=a&after={next}&wait=10 HTTP/1.1\r\nHost: a\r\n\r\n"));
        server.await_figure("connections_poll", 1);
        server.publish("a", &format!("polled {number}"));
        let answer = chunked_or_sized(&mut polls);
        assert_eq!(answer["events"][0]["data"], format!("polled {number}"));
        next = answer["next"].as_str().unwrap().to_owned();
    }
    // When a client leaves, its connection to the server ends.
    drop(stream);
    server.await_figure("connections_sse", 1);
    // Heartbeats keep streams open that are quiet for longer than the proxy's default timeout.
    let quiet_since = Instant::now();
    quiet_stream.http.stream.set_read_timeout(Some(IDLE + PATIENCE)).unwrap();
    quiet_socket.socket.get_ref().set_read_timeout(Some(IDLE + PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(quiet_stream.next().unwrap().data, "at last"));
        scope.spawn(|| assert_eq!(quiet_socket.json()["data"], "at last"));
        // The test is about elapsed time, so it must wait.
        std::thread::sleep(IDLE.saturating_sub(quiet_since.elapsed()));
        server.publish("quiet", "at last");
    });
    // The goodbye of a drain passes the proxy, and the response ends in order.
    let mut stream = Stream::open(address, "/sse?channel=a");
    server.signal(libc::SIGTERM);
    assert_eq!(stream.next().unwrap().name, "ringcast.bye");
    assert!(stream.next().is_none());
    drop(server);
    tells_streams_to_come_back(address);
}

/// Checks the proxy's answers while the server is away: a browser's `EventSource` gives up for good at any status but 200.
fn tells_streams_to_come_back(address: SocketAddr) {
    let fields = "Origin: https://app.example\r\nAccept: text/event-stream\r\n";
    for target in ["/sse?channel=a", "/events?channel=a"] {
        let answer = Http::connect(address).request("GET", target, fields);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")), "{target}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
        let lines: Vec<&str> = answer.body.lines().collect();
        let retry: u64 = lines[0].strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((1000..=5000).contains(&retry), "{retry}");
        assert_eq!(lines[1], "event: ringcast.bye");
        let bye: serde_json::Value = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&bye["code"], &bye["retry_ms"]), (&"unavailable".into(), &retry.into()));
        assert!(answer.body.ends_with("\n\n"));
    }
    let poll = Http::connect(address).request("GET", "/events?channel=a", "");
    assert!(poll.status >= 500, "a poll is refused: {}", poll.status);
}

/// An answer's JSON, with either framing: chunks or a length.
fn chunked_or_sized(http: &mut Http) -> serde_json::Value {
    let head = http.head().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    if let Some(length) = head.split("content-length: ").nth(1) {
        let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
        while http.waiting.len() < length {
            assert!(http.fill());
        }
        let rest = http.waiting.split_off(length);
        return serde_json::from_slice(&std::mem::replace(&mut http.waiting, rest)).unwrap();
    }
    while !http.waiting.ends_with(b"0\r\n\r\n") {
        assert!(http.fill());
    }
    let text = String::from_utf8(std::mem::take(&mut http.waiting)).unwrap();
    let body: String = text.split("\r\n").skip(1).step_by(2).collect();
    serde_json::from_str(&body).unwrap()
}

/// Checks that an error of the server's own is not taken for the proxy's, which a stream is told with status 200.
fn passes_errors(start: fn(SocketAddr) -> Proxy) {
    let server = Server::start("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[limits]\nchannels = 1");
    let proxy = start(server.address);
    let _first = Stream::open(proxy.address, "/sse?channel=a");
    let answer = get(proxy.address, "/sse?channel=b");
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("channels")));
}

/// Tests the proxies at the same time, because most of the time is waiting.
#[test]
fn nginx_haproxy_and_caddy_pass_everything() {
    std::thread::scope(|scope| {
        for (name, start) in [("nginx", nginx as fn(SocketAddr) -> Proxy), ("haproxy", haproxy), ("caddy", caddy)] {
            let thread = std::thread::Builder::new().name(name.into());
            thread
                .spawn_scoped(scope, move || {
                    passes_errors(start);
                    passes_everything(start);
                })
                .unwrap();
        }
    });
}
