//! Clients within their replay: they unsubscribe, are kicked, and subscribe to more.

use std::io::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::clients::{Http, Socket, get};
use super::server::{Server, eventually, publish};

const HISTORY: &str = "[namespace.\"*\"]\nhistory_bytes = \"64MiB\"\nmax_lag = \"64KiB\"\n";
const MISSED: usize = 300;

/// A server with more events on `b` than the kernel buffers for a client that does not read, so that a replay pauses.
fn server_with_much_on_b(config: &str) -> Server {
    let server = Server::start_with(&format!("{HISTORY}{config}"), &["--shards", "1"]);
    let mut feed = server.feed();
    publish(&mut feed, "a", "first");
    let text = "x".repeat(60_000);
    (0..MISSED).for_each(|_| drop(publish(&mut feed, "b", &text)));
    server
}

/// A WebSocket with a small receive buffer.
fn open(address: SocketAddr, target: &str) -> Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(super::server::PATIENCE)).unwrap();
    let (socket, _) = tungstenite::client(format!("ws://{address}{target}"), stream).unwrap();
    Socket { socket, hello: Value::Null }
}

/// Reads up to the wanted message; returns the number of events of `a` and of `b` before it.
fn read_until(socket: &mut Socket, is_wanted: impl Fn(&Value) -> bool) -> [usize; 2] {
    let mut events = [0, 0];
    loop {
        let said = socket.json();
        if is_wanted(&said) {
            return events;
        }
        match said["channel"].as_str() {
            Some("a") => events[0] += 1,
            Some("b") => events[1] += 1,
            _ => {}
        }
    }
}

#[test]
fn unsubscribing_within_a_replay_ends_the_replay() {
    let server = server_with_much_on_b("");
    let mut socket = open(server.address, "/ws?channel=a,b&last_event_id=1-0");
    server.await_figure("resumed_hub", 1);
    socket.say(r#"{"unsubscribe":["b"],"ref":1}"#);
    let before = read_until(&mut socket, |said| said["ref"] == 1);
    server.publish("b", "late");
    server.publish("a", "end");
    let after = read_until(&mut socket, |said| said["data"] == "end");
    assert!(before[1] < MISSED, "the replay was not over: {before:?}");
    assert_eq!(after[1], 0, "no event of the channel comes after the unsubscription");
}

#[test]
fn a_kick_by_channel_reaches_clients_within_their_replay() {
    let server = server_with_much_on_b("");
    let mut socket = open(server.address, "/ws?channel=b&last_event_id=1-0");
    server.await_figure("resumed_hub", 1);
    let kicked = server.feed().call(json!({ "op": "kick", "channel": "b" })).unwrap();
    assert_eq!(kicked["kicked"], 1);
    let seen = read_until(&mut socket, |said| said["bye"].is_object());
    assert!(seen[1] < MISSED, "the replay was not over: {seen:?}");
    assert_eq!(socket.close_code(), 4003);
}

#[test]
fn repeated_subscriptions_take_no_memory_and_replay_once() {
    let server = Server::start_with(&format!("{HISTORY}[websocket]\nmessage_rate = 0"), &["--shards", "1"]);
    let mut feed = server.feed();
    let text = "x".repeat(50_000);
    publish(&mut feed, "a", &text);
    let mut socket = Socket::open(server.address, "/ws");
    let mut burst = Vec::new();
    let mut say = |message: &str| {
        burst.extend([0x81, 0x80 | message.len() as u8, 0, 0, 0, 0]);
        burst.extend(message.as_bytes());
    };
    // The server reads all of this at once.
    for _ in 0..500 {
        say(r#"{"subscribe":["a"],"after":"1-0"}"#);
        say(r#"{"unsubscribe":["a"]}"#);
    }
    say(r#"{"subscribe":[],"after":"99999999999999-0"}"#);
    say(r#"{"subscribe":["a"],"after":"1-0","ref":1}"#);
    socket.socket.get_mut().write_all(&burst).unwrap();
    read_until(&mut socket, |said| said["ref"] == 1);
    for text in ["one", "two"] {
        publish(&mut feed, "a", text);
        read_until(&mut socket, |said| said["data"] == text);
    }
    server.await_fresh_figures();
    // Three, or some more if a replay began between a subscription and its end.
    let told = server.figure("deliveries");
    assert!((3..10).contains(&told), "{told}");
}

#[test]
fn a_kicked_poll_is_answered_with_the_events_before_the_kick() {
    let server = Server::start_with("", &["--shards", "1"]);
    for round in 0..20 {
        let mut http = Http::connect(server.address);
        http.send("GET /poll?channel=a&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n");
        server.await_figure("connections_poll", 1);
        // One write for both lines, so that the shard gets both at once.
        let mut feed = std::os::unix::net::UnixStream::connect(&server.feed_path).unwrap();
        let line = format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":{round}}}\n");
        feed.write_all(format!("{line}{{\"op\":\"kick\",\"channel\":\"a\"}}\n").as_bytes()).unwrap();
        let answer = http.answer(false).json();
        assert_eq!(answer["events"][0]["data"], round, "{answer}");
        eventually("the poll has ended", || (server.figure("connections_poll") == 0).then_some(()));
    }
}

#[test]
fn the_unspecified_address_in_a_proxy_header_is_not_the_server_itself() {
    let config =
        format!("{}[server]\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1/32\"]\n", super::tokens::KEYS);
    let server = Server::start(&config);
    let mut http = Http::connect(server.address);
    http.send("PROXY TCP6 :: ::1 1 2\r\nGET /poll?channel=secret&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(http.answer(false).status, 401);
    assert_eq!(get_over_proxy(&server, "/figures"), 404);
}

fn get_over_proxy(server: &Server, path: &str) -> u16 {
    let mut http = Http::connect(server.address);
    http.send(&format!("PROXY TCP6 :: ::1 1 2\r\nGET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    http.answer(false).status
}

#[test]
fn a_proxys_connection_counts_for_the_client_of_each_request() {
    let server = Server::start("[server]\nper_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let ask = |http: &mut Http, client: &str, path: &str| {
        http.request("GET", path, &format!("X-Forwarded-For: {client}\r\n")).status
    };
    let mut pooled = Http::connect(server.address);
    assert_eq!(ask(&mut pooled, "10.0.0.1", "/healthz"), 200);
    assert_eq!(ask(&mut pooled, "10.0.0.2", "/healthz"), 200);
    let mut other = Http::connect(server.address);
    assert_eq!(ask(&mut other, "10.0.0.1", "/healthz"), 200, "the client's place on the first connection is free");
    let mut third = Http::connect(server.address);
    assert_eq!(ask(&mut third, "10.0.0.2", "/healthz"), 429, "the client has its place on the first connection");
    // After the answer to a poll the connection counts for the client of the next request.
    assert_eq!(ask(&mut other, "10.0.0.1", "/poll?channel=a&wait=0"), 200);
    let mut fourth = Http::connect(server.address);
    assert_eq!(ask(&mut fourth, "10.0.0.1", "/poll?channel=a&wait=0"), 200);
    assert_eq!(get(server.address, "/healthz").status, 200);
    // A request without a client's address counts for the proxy, not for the client of the request before it.
    assert_eq!(ask(&mut fourth, "10.0.0.1", "/healthz"), 200);
    assert_eq!(ask(&mut Http::connect(server.address), "10.0.0.1", "/healthz"), 429);
    fourth.send("GET /poll?channel=held&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n");
    server.await_figure("connections_poll", 1);
    let seen = server.feed().call(json!({ "op": "connections", "channel": "held" })).unwrap();
    assert!(seen["connections"][0]["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{seen}");
    assert_eq!(ask(&mut Http::connect(server.address), "10.0.0.1", "/healthz"), 200, "its place is free");
}

#[test]
fn clients_that_all_resume_at_once_get_every_event() {
    let server = Server::start_with(HISTORY, &["--shards", "1"]);
    let mut feed = server.feed();
    publish(&mut feed, "a", "first");
    let text = "x".repeat(20_000);
    (0..10).for_each(|_| drop(publish(&mut feed, "a", &text)));
    let head = "GET /sse?channel=a&last_event_id=1-0 HTTP/1.1\r\nHost: x\r\n\r\n";
    // Some clients leave before their replay begins.
    let gone: Vec<Http> = (0..200).map(|_| Http::connect(server.address)).collect();
    let mut clients: Vec<Http> = (0..900).map(|_| Http::connect(server.address)).collect();
    for mut http in gone {
        http.send(head);
    }
    clients.iter_mut().for_each(|http| http.send(head));
    for http in clients {
        let mut stream = super::clients::Stream::of(http);
        let texts = std::iter::from_fn(|| stream.next()).filter(|event| event.name.is_empty()).skip(1).take(10);
        assert_eq!(texts.filter(|event| event.data.len() == 20_000).count(), 10);
    }
    server.await_at_least("resumed_hub", 900);
}
