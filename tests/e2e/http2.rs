//! HTTP/2 with the real binary: curl over TLS, the crate `h2` in clear text, and clients that mean harm.

use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use serde_json::json;

use super::server::{PATIENCE, Server};
use super::tls::Secured;

const CLEARTEXT: &str = "[http2]\ncleartext = true\n";

/// curl with a stream that is open.
struct Curl {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Curl {
    fn open(secured: &Secured, path: &str) -> Curl {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http2", "-N", "-i", "--max-time", "20", "--cacert"]).arg(&secured.own.chain);
        curl.arg(format!("https://localhost:{}{path}", secured.address.port()));
        let mut child = curl.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Curl { child, output }
    }

    /// Reads lines until one begins so.
    fn await_line(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "no line begins with {start}");
            if line.starts_with(start) {
                return line.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn curl_gets_events_over_tls() {
    let secured = Secured::start("");
    let mut curl = Curl::open(&secured, "/sse?channel=a");
    assert_eq!(curl.await_line("HTTP/2"), "HTTP/2 200");
    assert_eq!(curl.await_line("content-type"), "content-type: text/event-stream");
    curl.await_line("event: ringcast.hello");
    secured.server.await_figure("h2_streams", 1);
    secured.server.publish("a", "over HTTP/2");
    assert_eq!(curl.await_line("data: over"), "data: over HTTP/2");
    drop(curl);
    secured.server.await_figure("h2_connections", 0);
    let head = ["--http2", "-I", "-w", "%{http_version}"];
    assert!(secured.curl(&head, "/sse?channel=a").ends_with('2'));
    for (arguments, path, expected) in [
        (&["--http2"][..], "/healthz", "ok\n"),
        (&["--http2", "-o", "/dev/null", "-w", "%{http_code}"], "/nothing", "404"),
        (&["--http2", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE"], "/sse", "405"),
        (&["--http2", "-o", "/dev/null", "-w", "%{http_code}", "-d", "a body"], "/sse", "413"),
        (&["--http2", "-o", "/dev/null", "-w", "%{http_code}", "-X", "OPTIONS"], "/sse", "204"),
        (&["--http1.1", "-w", "%{http_version}"], "/healthz", "ok\n1.1"),
    ] {
        assert_eq!(secured.curl(arguments, path), expected, "{arguments:?} {path}");
    }
}

#[test]
fn a_server_may_speak_http_1_1_alone() {
    let secured = Secured::start("http2 = false\n");
    assert_eq!(secured.curl(&["--http2", "-w", "%{http_version}"], "/healthz"), "ok\n1.1");
    let server = Server::start("");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 505"), "{answer}");
}

/// Runs a client of the crate `h2`.
fn run<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async { tokio::time::timeout(PATIENCE, client).await.expect("in time") }))
}

/// A connection, and the task that ends with it.
async fn connect(
    address: SocketAddr,
    window: u32,
) -> (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (send, connection) = builder.initial_window_size(window).handshake(stream).await.unwrap();
    (send, tokio::task::spawn_local(connection))
}

/// An event stream.
struct Events {
    body: RecvStream,
    text: String,
    /// Whether the server is given room for what has come.
    gives_room: bool,
}

async fn open(send: &mut SendRequest<Bytes>, path: &str, last_event_id: Option<&str>) -> Events {
    let mut request = http::Request::get(format!("http://localhost{path}"));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let mut send = send.clone().ready().await.unwrap();
    let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    Events { body: response.into_body(), text: String::new(), gives_room: true }
}

impl Events {
    /// Reads until a text has come.
    async fn read_until(&mut self, text: &str) {
        while !self.text.contains(text) {
            let data = self.body.data().await.unwrap_or_else(|| panic!("{text:?} never comes: {}", self.text)).unwrap();
            if self.gives_room {
                self.body.flow_control().release_capacity(data.len()).unwrap();
            }
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// Reads to the end; returns the error that ended the stream, if one did.
    async fn read_to_end(&mut self) -> Option<Reason> {
        while let Some(data) = self.body.data().await {
            match data {
                Ok(data) => self.text.push_str(std::str::from_utf8(&data).unwrap()),
                Err(error) => return error.reason(),
            }
        }
        None
    }
}

#[test]
fn twenty_streams_share_a_connection() {
    let server = Server::start(CLEARTEXT);
    run(async {
        let (mut send, _connection) = connect(server.address, 65_535).await;
        let mut all = Vec::new();
        for number in 0..20 {
            all.push(open(&mut send, &format!("/sse?channel=c{}", number % 2), None).await);
        }
        server.await_figure("connections_sse", 20);
        assert_eq!((server.figure("h2_connections"), server.figure("h2_streams")), (1, 20));
        let id = server.publish("c0", "first");
        server.publish("c1", "second");
        for (number, events) in all.iter_mut().enumerate() {
            events.read_until(if number % 2 == 0 { "data: first\n\n" } else { "data: second\n\n" }).await;
        }
        // A stream that comes back goes on where it was.
        server.publish("c0", "missed");
        let mut resumed = open(&mut send, "/sse?channel=c0", Some(&id)).await;
        resumed.read_until("data: missed\n\n").await;
        assert!(!resumed.text.contains("first"), "{}", resumed.text);
        // A kick ends streams in good order, and leaves the others alone.
        server.feed().call(json!({ "op": "kick", "channel": "c0" })).unwrap();
        assert_eq!(resumed.read_to_end().await, None);
        assert!(resumed.text.contains("ringcast.bye"));
        server.publish("c1", "still there");
        all[1].read_until("still there").await;
        // A client that drops a stream resets it.
        all.truncate(2);
        while server.figure("h2_streams") != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    server.await_figure("h2_connections", 0);
}

#[test]
fn a_stream_gets_no_more_than_its_client_has_room_for() {
    let server = Server::start("[http2]\ncleartext = true\n[namespace.slow]\nslow = \"gap\"\nmax_lag = \"8KiB\"\n");
    run(async {
        let (mut send, _connection) = connect(server.address, 2000).await;
        let mut slow = open(&mut send, "/sse?channel=slow:1", None).await;
        slow.read_until("ringcast.hello").await;
        slow.gives_room = false;
        let told = slow.text.len();
        let mut other = open(&mut send, "/sse?channel=slow:1", None).await;
        for number in 0..50 {
            server.publish("slow:1", &format!("{number} {}", "x".repeat(1000)));
            other.read_until(&format!("data: {number} ")).await;
        }
        assert!(!other.text.contains("ringcast.gap"), "{}", other.text);
        slow.read_until("data: 0 ").await;
        server.await_at_least("slow_gaps", 1);
        let kept = slow.text.len() - told;
        slow.body.flow_control().release_capacity(kept).unwrap();
        slow.gives_room = true;
        slow.read_until("ringcast.gap").await;
        slow.read_until("data: 49 ").await;
    });
}

#[test]
fn a_server_that_ends_says_so_first() {
    let mut server = Server::start(CLEARTEXT);
    run(async {
        let (mut send, connection) = connect(server.address, 65_535).await;
        let mut events = open(&mut send, "/sse?channel=a", None).await;
        events.read_until("ringcast.hello").await;
        server.signal(libc::SIGTERM);
        assert_eq!(events.read_to_end().await, None);
        assert!(events.text.contains("\"code\":\"draining\""), "{}", events.text);
        drop(send);
        connection.await.unwrap().unwrap();
    });
    assert!(server.await_exit().success());
}

#[test]
fn a_websocket_is_a_stream_too() {
    let server = Server::start(CLEARTEXT);
    run(async {
        let (send, _connection) = connect(server.address, 65_535).await;
        let mut send = send.ready().await.unwrap();
        while !send.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri("http://localhost/ws?channel=a")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", "ringcast.v1")
            .body(())
            .unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, mut upload) = send.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "ringcast.v1");
        let mut socket = Events { body: response.into_body(), text: String::new(), gives_room: true };
        let mut read = async |text: &str| {
            while !socket.text.contains(text) {
                let data = socket.body.data().await.unwrap().unwrap();
                socket.body.flow_control().release_capacity(data.len()).unwrap();
                socket.text.push_str(&String::from_utf8_lossy(&data));
            }
        };
        read("\"hello\"").await;
        server.await_figure("connections_ws", 1);
        server.publish("a", "over a stream");
        read("over a stream").await;
        let say = |text: &[u8]| [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0][..], text].concat();
        upload.send_data(say(br#"{"subscribe":["b"],"ref":7}"#).into(), false).unwrap();
        read("\"ref\":7").await;
        server.publish("b", "of another channel");
        read("of another channel").await;
        // The client's close frame is answered, and the stream ends.
        upload.send_data(vec![0x88, 0x82, 0, 0, 0, 0, 3, 0xe8].into(), false).unwrap();
        let last = poll_fn(|cx| socket.body.poll_data(cx)).await.unwrap().unwrap();
        assert_eq!(last[..4], [0x88, last[1], 3, 0xe8]);
        assert!(socket.body.data().await.is_none());
        server.await_figure("h2_streams", 0);
    });
}

#[test]
fn a_websocket_gives_its_client_room_for_more() {
    let server = Server::start("[http2]\ncleartext = true\n[diagnostics]\necho_path = \"/echo\"\n");
    run(async {
        let (send, _connection) = connect(server.address, 65_535).await;
        let mut send = send.ready().await.unwrap();
        while !send.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let request = http::Request::builder().method("CONNECT").uri("http://localhost/echo");
        let mut request = request.header("sec-websocket-version", "13").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, mut upload) = send.send_request(request, false).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut echoed = 0;
        for _ in 0..10 {
            // Each message is most of a window, so the server must give room for the next.
            let length = 50_000u16;
            let head = [0x82, 0x80 | 126, length.to_be_bytes()[0], length.to_be_bytes()[1], 0, 0, 0, 0];
            let mut rest = Bytes::from([&head[..], &vec![7; length.into()]].concat());
            while !rest.is_empty() {
                upload.reserve_capacity(rest.len());
                let room = poll_fn(|cx| upload.poll_capacity(cx)).await.unwrap().unwrap();
                upload.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
            }
            echoed += 4 + usize::from(length);
            while echoed > 0 {
                let data = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                echoed -= data.len();
            }
        }
    });
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&[length[1], length[2], length[3], kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// `GET /healthz` as a block of fields.
const GET: &[u8] = b"\x82\x86\x04\x08/healthz\x01\x01x";

/// Sends frames until the server ends the connection; returns the code that it gives.
fn attack(server: &Server, frames: impl Fn(u32) -> Vec<u8>) -> u32 {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let all: Vec<u8> = (0..20_000).flat_map(frames).collect();
    let thread = std::thread::spawn(move || drop(writer.write_all(&all)));
    let mut input = Vec::new();
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        input.extend_from_slice(&buffer[..length]);
    }
    thread.join().unwrap();
    let mut rest = &input[..];
    while rest.len() >= 9 {
        let length = usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest[3] == 7 {
            return u32::from_be_bytes(rest[13..17].try_into().unwrap());
        }
        rest = &rest[9 + length..];
    }
    panic!("no GOAWAY has come");
}

#[test]
fn attacks_end_their_own_connections_alone() {
    let server = Server::start("[http2]\ncleartext = true\n[limits]\nrequest_rate = 0\n");
    let mut honest = TcpStream::connect(server.address).unwrap();
    honest.write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    server.await_figure("connections_sse", 1);
    let before = server.resident_bytes();
    let calm = u32::from(Reason::ENHANCE_YOUR_CALM);
    let rapid_reset = |round| {
        let id = 2 * round + 1;
        [frame(1, 5, id, b"\x82\x86\x04\x0e/sse?channel=a\x01\x01x"), frame(3, 0, id, &[0, 0, 0, 8])].concat()
    };
    assert_eq!(attack(&server, rapid_reset), calm, "CVE-2023-44487");
    let continuations = |round| match round {
        0 => frame(1, 1, 1, GET),
        _ => frame(9, 0, 1, b"\x00\x01a\x01b"),
    };
    assert_eq!(attack(&server, continuations), calm, "CVE-2024-27316");
    assert_eq!(attack(&server, |_| frame(6, 0, 0, &[0; 8])), calm, "CVE-2019-9512");
    assert_eq!(attack(&server, |_| frame(4, 0, 0, &[])), calm, "CVE-2019-9515");
    assert_eq!(attack(&server, |_| frame(2, 0, 1, &[0, 0, 0, 3, 9])), calm, "CVE-2019-9513");
    let updates = |round| match round {
        0 => frame(1, 5, 1, b"\x82\x86\x04\x0e/sse?channel=a\x01\x01x"),
        _ => frame(8, 0, 1, &[0, 0, 0, 1]),
    };
    assert_eq!(attack(&server, updates), calm, "WINDOW_UPDATE");
    let bomb = |round: u32| {
        let entry = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
        frame(1, 5, 2 * round + 1, &[GET, &entry, &[0xbe; 7000]].concat())
    };
    assert_eq!(attack(&server, bomb), calm, "CVE-2026-49975");
    let made = |round: u32| [frame(1, 5, 2 * round + 1, GET), frame(8, 0, 2 * round + 1, &[0; 4])].concat();
    assert_eq!(attack(&server, made), u32::from(Reason::PROTOCOL_ERROR), "CVE-2025-8671");
    let after = server.resident_bytes();
    assert!(after < before + (8 << 20), "memory is flat: {before} and {after}");
    server.publish("a", "the honest client is served");
    let mut all = String::new();
    let mut buffer = [0; 4096];
    honest.set_read_timeout(Some(PATIENCE)).unwrap();
    while !all.contains("the honest client is served") {
        let length = honest.read(&mut buffer).unwrap();
        all.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    server.await_figure("h2_errors", 8);
    server.await_figure("h2_connections", 0);
}
