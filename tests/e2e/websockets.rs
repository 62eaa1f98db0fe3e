use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tungstenite::Message;

use super::clients::{Socket, UPGRADE};
use super::server::{PATIENCE, Server};

#[test]
fn json_messages_carry_id_and_channel() {
    let server = Server::start("");
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    let id = server.publish("a", "hello");
    assert_eq!(socket.json(), json!({ "id": id, "channel": "a", "data": "hello" }));
    socket.say(r#"{"ping":{"n":1}}"#);
    assert_eq!(socket.json(), json!({ "pong": { "n": 1 } }));
}

#[test]
fn raw_messages_are_the_payload_alone() {
    let server = Server::start("");
    let mut socket = Socket::open(server.address, "/events?channel=a&format=raw");
    server.publish("a", "text");
    assert_eq!(socket.next(), Message::Text("text".into()));
    server.feed().call(json!({ "op": "publish", "channel": "a", "data_b64": "AP8=" })).unwrap();
    assert_eq!(socket.next(), Message::Binary(vec![0, 255].into()));
}

#[test]
fn channels_come_and_go_at_run_time() {
    let server = Server::start("");
    let mut socket = Socket::open(server.address, "/ws");
    let first = server.publish("a", "before");
    server.publish("a", "missed");
    socket.say(&format!(r#"{{"subscribe":["a"],"after":"{first}","ref":"r"}}"#));
    assert_eq!(socket.json(), json!({ "ref": "r", "ok": true, "id": first }));
    assert_eq!(socket.json()["data"], "missed");
    socket.say(r#"{"subscribe":["b"],"ref":2}"#);
    assert_eq!(socket.json()["ref"], 2);
    server.publish("b", "live");
    assert_eq!(socket.json()["data"], "live");
    socket.say(r#"{"unsubscribe":["a"],"ref":3}"#);
    assert_eq!(socket.json()["ref"], 3);
    server.publish("a", "not for us");
    server.publish("b", "for us");
    assert_eq!(socket.json()["data"], "for us");
    for (say, code) in [
        (r#"{"unsubscribe":["a"],"ref":4}"#, "not_subscribed"),
        (r#"{"subscribe":["a b"],"ref":5}"#, "bad_channel"),
        (r#"{"subscribe":["a"],"unsubscribe":["b"],"ref":5}"#, "bad_message"),
        (r#"{"publish":{"channel":"a","data":1},"ref":6}"#, "forbidden"),
        (r#"{"nothing":1}"#, "bad_message"),
        ("no json", "bad_message"),
    ] {
        socket.say(say);
        assert_eq!(socket.json()["error"]["code"], code, "{say}");
    }
}

#[test]
fn pings_are_answered_and_closes_returned() {
    let server = Server::start("");
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    socket.socket.send(Message::Ping(b"abc".to_vec().into())).unwrap();
    assert_eq!(socket.next(), Message::Pong(b"abc".to_vec().into()));
    let frame = tungstenite::protocol::CloseFrame { code: 4321.into(), reason: "done".into() };
    socket.socket.close(Some(frame)).unwrap();
    assert_eq!(socket.close_code(), 4321);
    server.await_figure("connections_ws", 0);
    server.await_figure("slots", 0);
}

#[test]
fn fragments_and_many_messages_are_put_together() {
    let server = Server::start("[diagnostics]\necho_path = \"/echo\"");
    let mut socket = Socket::open(server.address, "/echo");
    let text = "äöü".repeat(10_000);
    for _ in 0..20 {
        socket.say(&text);
    }
    for _ in 0..20 {
        assert_eq!(socket.next(), Message::Text(text.as_str().into()));
    }
    socket.socket.send(Message::Binary(vec![7; 65536].into())).unwrap();
    assert_eq!(socket.next(), Message::Binary(vec![7; 65536].into()));
}

/// The close code with which the server answers these raw bytes.
fn close_code(server: &Server, bytes: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(
            b"GET /ws?channel=a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    // The bytes come together with the handshake, and belong to the WebSocket.
    stream.write_all(bytes).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let hello = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    // The first words may still have been on their way.
    let start = if all[hello] == 0x81 { hello + 2 + usize::from(all[hello + 1]) } else { hello };
    assert_eq!(all[start], 0x88, "{:?}", &all[start..]);
    u16::from_be_bytes([all[start + 2], all[start + 3]])
}

#[test]
fn violations_are_closed_with_their_code() {
    let server = Server::start("[websocket]\nmax_message = 1000");
    assert_eq!(close_code(&server, &[0x81, 1, b'x']), 1002, "not masked");
    assert_eq!(close_code(&server, &[0xc1, 0x81, 0, 0, 0, 0, b'x']), 1002, "a reserved bit");
    assert_eq!(close_code(&server, &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xff]), 1007, "no UTF-8");
    assert_eq!(close_code(&server, &[0x82, 0xfe, 0x10, 0, 0, 0, 0, 0]), 1009, "too big");
    assert_eq!(close_code(&server, &[0x88, 0x81, 0, 0, 0, 0, 1]), 1002, "half a close code");
    server.await_figure("closed.violation", 3);
    server.await_figure("closed.invalid_data", 1);
    server.await_figure("closed.too_big", 1);
}

#[test]
fn a_silent_client_is_pinged_and_then_reaped() {
    let server = Server::start("[heartbeat]\nws = \"200ms\"\nreap = \"300ms\"");
    let mut lively = Socket::open(server.address, "/ws?channel=a");
    let silent = Socket::open(server.address, "/ws?channel=a");
    for _ in 0..5 {
        assert!(matches!(lively.next(), Message::Ping(_)));
    }
    server.await_figure("closed.unresponsive", 1);
    drop(silent);
    server.publish("a", "still here");
    assert_eq!(lively.json()["data"], "still here");
}

#[test]
fn other_sites_pages_may_not_connect() {
    let server = Server::start("[websocket]\norigins = [\"https://app.example\"]");
    let fields = |origin: &str| {
        format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nOrigin: {origin}\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: ringcast.v1\r\n"
        )
    };
    let ask =
        |origin: &str| super::clients::Http::connect(server.address).request("GET", "/ws?channel=a", &fields(origin));
    // The page is told by a close frame, because it cannot read a status.
    let mut evil = super::clients::Http::connect(server.address);
    assert_eq!(evil.request("GET", "/ws?channel=a", &fields("https://evil.example")).status, 101);
    while !evil.waiting.windows(8).any(|bytes| bytes == b"origin: ") {
        assert!(evil.fill(), "{:?}", String::from_utf8_lossy(&evil.waiting));
    }
    assert!(evil.waiting.windows(2).any(|two| two == 4003_u16.to_be_bytes()));
    assert_eq!(server.figure("origins_refused"), 1);
    let answer = ask("https://app.example");
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("ringcast.v1")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(ask("http://localhost").status, 101, "the server's own host");
}

#[test]
fn a_server_that_has_stood_still_takes_no_client_for_dead() {
    const SOCKETS: usize = 300;
    const REAP: std::time::Duration = std::time::Duration::from_secs(1);
    let server = Server::start("[heartbeat]\nws = \"300ms\"\nreap = \"1s\"");
    let mut sockets: Vec<TcpStream> = (0..SOCKETS)
        .map(|_| {
            let socket = Socket::open(server.address, "/ws?channel=a");
            let stream = socket.socket.get_ref().try_clone().unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    // Each client answers each ping as soon as it has come.
    let mut answer = || {
        let mut buffer = [0; 4096];
        for stream in &mut sockets {
            let pings = stream.read(&mut buffer).map_or(0, |length| length / 2);
            (0..pings).for_each(|_| stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).unwrap());
        }
    };
    for _ in 0..3 {
        let heartbeats = server.figure("heartbeats");
        answer();
        super::server::eventually("every client is pinged and has not answered", || {
            (server.figure("heartbeats") >= heartbeats + SOCKETS as u64 * 9 / 10).then_some(())
        });
        server.signal(libc::SIGSTOP);
        let until = std::time::Instant::now() + REAP * 2;
        while std::time::Instant::now() < until {
            answer();
        }
        server.signal(libc::SIGCONT);
    }
    let turns = server.figure("turns");
    super::server::eventually("the server goes on", || {
        answer();
        (server.figure("turns") > turns + 20).then_some(())
    });
    assert_eq!((server.figure("closed.unresponsive"), server.figure("connections_ws")), (0, SOCKETS as u64));
    assert!(server.figure("pauses") >= 3);
}

#[test]
fn the_server_waits_for_the_close_frame_before_it_ends_the_connection() {
    let server = Server::start("");
    let mut http = super::clients::Http::connect(server.address);
    assert_eq!(http.request("GET", "/ws?channel=a", UPGRADE).status, 101);
    // The client is in the middle of a message when the server closes.
    http.stream.write_all(b"\x81\x85\0\0\0\0he").unwrap();
    server.await_at_least("input_bytes", 1);
    server.feed().call(serde_json::json!({ "op": "kick", "channel": "a", "reason": "enough" })).unwrap();
    while !http.waiting.ends_with(b"kicked: enough") {
        assert!(http.fill());
    }
    http.stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let error = http.stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection is open");
    http.stream.set_read_timeout(Some(super::server::PATIENCE)).unwrap();
    http.stream.write_all(b"llo\x88\x82\0\0\0\0\x0f\xa3").unwrap();
    let begun = std::time::Instant::now();
    assert!(!http.fill(), "the connection ends with the client's close frame");
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!(server.figure("closed.kicked"), 1);
}

#[test]
fn the_first_words_come_before_the_answer_to_an_early_message() {
    let server = Server::start("");
    for number in 0..100 {
        let mut socket = Socket::open(server.address, &format!("/ws?channel=new:{number}"));
        socket.say("{\"send\":1,\"ref\":1}");
        socket.hello();
        let answer = socket.json();
        assert_eq!((&answer["ref"], &answer["error"]["code"]), (&json!(1), &json!("no_backend")), "{answer}");
    }
}
