//! Refusals in the form that the client understands: browsers give up for good at a status, so event streams are told in
//! events, and pages' WebSockets in close frames.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;

use super::admin::call;
use super::clients::{Http, Socket, Stream, UPGRADE, get};
use super::server::{Server, eventually};
use super::tokens::{KEYS, now, token};

const EVENT_STREAM: &str = "Accept: text/event-stream\r\nOrigin: https://page.example\r\n";
const PAGES: &str = "[http]\ncors_origins = [\"https://page.example\"]\n";

/// What an event stream that is refused says.
fn bye(address: SocketAddr, target: &str) -> Value {
    let mut http = Http::connect(address);
    http.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{EVENT_STREAM}\r\n"));
    let head = http.head();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("Content-Type: text/event-stream"), "{head}");
    assert!(head.contains("Access-Control-Allow-Origin: https://page.example"), "{head}");
    while !http.waiting.ends_with(b"0\r\n\r\n") {
        assert!(http.fill(), "{}", String::from_utf8_lossy(&http.waiting));
    }
    assert!(http.is_closed_after_body());
    let body = String::from_utf8(http.waiting).unwrap();
    let field = |name: &str| body.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    assert_eq!(field("event: "), "ringcast.bye", "{body}");
    let bye: Value = serde_json::from_str(&field("data: ")).unwrap();
    assert_eq!(field("retry: "), bye["retry_ms"].to_string());
    assert!(bye["retry_ms"].as_u64().unwrap() >= 1000 && !bye["reason"].as_str().unwrap().is_empty(), "{bye}");
    bye
}

/// The same request of a client that reads statuses.
fn status(address: SocketAddr, target: &str) -> (u16, Value) {
    let answer = Http::connect(address).request("GET", target, "Origin: https://page.example\r\n");
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    assert_eq!(answer.header("access-control-expose-headers"), Some("Retry-After"), "{}", answer.head);
    assert!(answer.header("date").is_some(), "{}", answer.head);
    (answer.status, answer.json()["error"]["code"].clone())
}

#[test]
fn a_refusal_that_passes_leaves_an_event_source_alive() {
    for (config, expected, code) in [
        ("[server]\nmax_connections = 1", 503, "full"),
        ("[server]\nper_address = 1", 429, "too_many"),
        ("[server]\nconnect_rate = 1", 429, "too_many"),
    ] {
        let server = Server::start(&format!("{PAGES}{config}"));
        let stream = Stream::open(server.address, "/sse?channel=a");
        assert_eq!(bye(server.address, "/sse?channel=a")["code"], code, "{config}");
        assert_eq!(status(server.address, "/sse?channel=a"), (expected, code.into()), "{config}");
        assert_eq!(status(server.address, "/poll?channel=a"), (expected, code.into()), "{config}");
        drop(stream);
    }
}

#[test]
fn a_user_with_too_many_connections_is_told_in_a_stream() {
    let server = Server::start(&format!("{PAGES}{KEYS}[server]\nper_user = 1"));
    let token = token(json!({ "sub": "u", "channels": ["*"] }));
    let target = format!("/sse?channel=a&token={token}");
    let _stream = Stream::open(server.address, &target);
    assert_eq!(bye(server.address, &target)["code"], "too_many");
    assert_eq!(status(server.address, &target), (429, "too_many".into()));
}

#[test]
fn refusals_that_stay_have_their_status() {
    let server = Server::start(&format!("{PAGES}{KEYS}"));
    let expired = token(json!({ "sub": "u", "exp": now() - 3600 }));
    for (target, expected) in [
        ("/sse?channel=a".to_owned(), 401),
        (format!("/sse?channel=a&token={expired}"), 401),
        ("/sse?channel=$a".to_owned(), 400),
        ("/nothing".to_owned(), 404),
    ] {
        let answer = Http::connect(server.address).request("GET", &target, EVENT_STREAM);
        assert_eq!(answer.status, expected, "{target}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://page.example"), "{target}");
    }
}

#[test]
fn a_drain_that_is_taken_back_leaves_every_client_alive() {
    let server = Server::start(PAGES);
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    call(&server, "PUT", "/v1/drain", &json!({ "draining": true }));
    assert_eq!(stream.next().unwrap().name, "ringcast.bye");
    eventually("the shard drains", || (get(server.address, "/sse?channel=a").status == 503).then_some(()));
    let told = bye(server.address, "/sse?channel=a");
    assert_eq!(told["code"], "draining");
    let mut page = page(server.address, "/ws?channel=a");
    assert_eq!(page.json()["bye"]["code"], "draining");
    assert_eq!(page.close_code(), 1013);
    call(&server, "PUT", "/v1/drain", &json!({ "draining": false }));
    eventually("the server takes clients again", || {
        (get(server.address, "/poll?channel=a&wait=0").status == 200).then_some(())
    });
    Stream::open(server.address, "/sse?channel=a");
}

/// A page's WebSocket.
fn page(address: SocketAddr, target: &str) -> Socket {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(super::server::PATIENCE)).unwrap();
    let mut request = format!("ws://{address}{target}").into_client_request().unwrap();
    request.headers_mut().insert("Origin", format!("http://{address}").parse().unwrap());
    request.headers_mut().insert("Sec-WebSocket-Protocol", "ringcast.v1".parse().unwrap());
    let (socket, response) = tungstenite::client(request, stream).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "ringcast.v1");
    Socket { socket, hello: Value::Null }
}

#[test]
fn a_page_learns_why_its_websocket_is_refused() {
    let server = Server::start(&format!("{KEYS}[server]\nmax_connections = 1"));
    let expired = token(json!({ "sub": "u", "exp": now() - 3600 }));
    for (target, code, close_code) in [
        (format!("/ws?channel=a&token={expired}"), "token_expired", 4001),
        ("/ws?channel=a&token=x".to_owned(), "invalid_token", 4001),
    ] {
        let mut socket = page(server.address, &target);
        let bye = socket.json()["bye"].clone();
        assert_eq!(bye["code"], code);
        assert!(bye["retry_ms"].is_u64() && bye["reason"].is_string(), "{bye}");
        match socket.next() {
            tungstenite::Message::Close(Some(frame)) => {
                assert_eq!(u16::from(frame.code), close_code);
                assert!(frame.reason.starts_with(&format!("{code}: ")), "{}", frame.reason);
            }
            other => panic!("no close: {other:?}"),
        }
        drop(socket);
        eventually("there is room", || (server.figure("slots") == 0).then_some(()));
        // A program reads the status.
        assert_eq!(Http::connect(server.address).request("GET", &target, UPGRADE).status, 401);
        eventually("there is room again", || (server.figure("slots") == 0).then_some(()));
    }
    let token = token(json!({ "sub": "u", "channels": ["*"] }));
    let _stream = Stream::open(server.address, &format!("/sse?channel=a&token={token}"));
    let mut socket = page(server.address, "/ws?channel=a");
    assert_eq!(socket.json()["bye"]["code"], "full");
    assert_eq!(socket.close_code(), 1013);
    assert_eq!(Http::connect(server.address).request("GET", "/ws?channel=a", UPGRADE).status, 503);
}

#[test]
fn a_server_that_ends_tells_no_client_to_come_back_before_its_end() {
    let mut server =
        Server::start_with("[server]\ndrain_timeout = \"4s\"\n[http]\nretry = \"200ms\"", &["--shards", "2"]);
    let streams: Vec<Stream> = (0..600).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    let stopped = Instant::now();
    server.signal(libc::SIGTERM);
    let mut comeback = Duration::MAX;
    for mut stream in streams {
        let bye = stream.next().unwrap();
        comeback = comeback.min(stopped.elapsed() + Duration::from_millis(bye.retry.parse().unwrap()));
        assert!(stream.next().is_none() && stream.is_over);
    }
    assert!(server.await_exit().success());
    assert!(comeback >= stopped.elapsed(), "{comeback:?} {:?}", stopped.elapsed());
}
