//! Those who are still being told what they have missed: they may leave, be sent away, and ask for more.

use std::io::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::clients::{Http, Socket, get};
use super::server::{Server, eventually, publish};

const HISTORY: &str = "[namespace.\"*\"]\nhistory_bytes = \"64MiB\"\nmax_lag = \"64KiB\"\n";
const MISSED: usize = 300;

/// A server with more on `b` than the kernel keeps for a client that does not read: its replay has a pause.
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
    Socket { socket }
}

/// Reads until something wanted; returns how many events of each of `a` and `b` came before.
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
fn what_is_unsubscribed_within_its_replay_is_told_no_further() {
    let server = server_with_much_on_b("");
    let mut socket = open(server.address, "/ws?channel=a,b&last_event_id=1-0");
    server.await_figure("resumed_hub", 1);
    socket.say(r#"{"unsubscribe":["b"],"ref":1}"#);
    let before = read_until(&mut socket, |said| said["ref"] == 1);
    server.publish("b", "late");
    server.publish("a", "end");
    let after = read_until(&mut socket, |said| said["data"] == "end");
    assert!(before[1] < MISSED, "the replay was not over: {before:?}");
    assert_eq!(after[1], 0, "nothing of it comes after it was let go");
}

#[test]
fn a_channel_is_kicked_with_those_who_are_still_catching_up() {
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
fn asking_again_and_again_for_the_same_takes_no_memory_and_tells_it_once() {
    let server = Server::start_with(HISTORY, &["--shards", "1"]);
    let mut feed = server.feed();
    let text = "x".repeat(50_000);
    publish(&mut feed, "a", &text);
    let mut socket = Socket::open(server.address, "/ws");
    let mut burst = Vec::new();
    let mut say = |message: &str| {
        burst.extend([0x81, 0x80 | message.len() as u8, 0, 0, 0, 0]);
        burst.extend(message.as_bytes());
    };
    // Little enough for one read.
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
    // Three, unless some was told between two of its changes of mind.
    let told = server.figure("deliveries");
    assert!((3..10).contains(&told), "{told}");
}

#[test]
fn a_held_poll_that_is_kicked_is_told_what_came_before() {
    let server = Server::start_with("", &["--shards", "1"]);
    for round in 0..20 {
        let mut http = Http::connect(server.address);
        http.send("GET /poll?channel=a&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n");
        server.await_figure("connections_poll", 1);
        // Both in one line's breath, so that the shard hears of both at once.
        let mut feed = std::os::unix::net::UnixStream::connect(&server.feed_path).unwrap();
        let line = format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":{round}}}\n");
        feed.write_all(format!("{line}{{\"op\":\"kick\",\"channel\":\"a\"}}\n").as_bytes()).unwrap();
        let answer = http.answer(false).json();
        assert_eq!(answer["events"][0]["data"], round, "{answer}");
        eventually("it is gone", || (server.figure("connections_poll") == 0).then_some(()));
    }
}

#[test]
fn who_comes_from_nowhere_by_a_proxys_word_is_not_the_server_itself() {
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
fn a_proxys_connection_is_whose_request_it_brings() {
    let server = Server::start("[server]\nper_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let ask = |http: &mut Http, client: &str, path: &str| {
        http.request("GET", path, &format!("X-Forwarded-For: {client}\r\n")).status
    };
    let mut pooled = Http::connect(server.address);
    assert_eq!(ask(&mut pooled, "10.0.0.1", "/healthz"), 200);
    assert_eq!(ask(&mut pooled, "10.0.0.2", "/healthz"), 200);
    let mut other = Http::connect(server.address);
    assert_eq!(ask(&mut other, "10.0.0.1", "/healthz"), 200, "it has gone from the first connection");
    let mut third = Http::connect(server.address);
    assert_eq!(ask(&mut third, "10.0.0.2", "/healthz"), 429, "it has come to the first connection");
    // An answered poll leaves the connection to whoever is next.
    assert_eq!(ask(&mut other, "10.0.0.1", "/poll?channel=a&wait=0"), 200);
    let mut fourth = Http::connect(server.address);
    assert_eq!(ask(&mut fourth, "10.0.0.1", "/poll?channel=a&wait=0"), 200);
    assert_eq!(get(server.address, "/healthz").status, 200);
    // Nor does a request that names nobody come from whom the one before it came from.
    assert_eq!(ask(&mut fourth, "10.0.0.1", "/healthz"), 200);
    assert_eq!(ask(&mut Http::connect(server.address), "10.0.0.1", "/healthz"), 429);
    fourth.send("GET /poll?channel=held&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n");
    server.await_figure("connections_poll", 1);
    let seen = server.feed().call(json!({ "op": "connections", "channel": "held" })).unwrap();
    assert!(seen["connections"][0]["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{seen}");
    assert_eq!(ask(&mut Http::connect(server.address), "10.0.0.1", "/healthz"), 200, "its place is free");
}

#[test]
fn all_who_come_back_at_once_are_told_everything() {
    let server = Server::start_with(HISTORY, &["--shards", "1"]);
    let mut feed = server.feed();
    publish(&mut feed, "a", "first");
    let text = "x".repeat(20_000);
    (0..10).for_each(|_| drop(publish(&mut feed, "a", &text)));
    let head = "GET /sse?channel=a&last_event_id=1-0 HTTP/1.1\r\nHost: x\r\n\r\n";
    // Some leave while they wait for their turn.
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
