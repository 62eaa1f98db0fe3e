use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Socket as RawSocket, Type};

use super::clients::{Http, Socket, Stream};
use super::server::{PATIENCE, Server, eventually, publish};

/// A client with a small receive buffer, which does not read until [`read_on`].
pub fn lazy(server: &Server, target: &str) -> Http {
    let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    Http { stream, waiting: Vec::new() }
}

/// Publishes until `figure` moves.
fn flood(server: &Server, figure: &str) -> u64 {
    flood_at_pace(server, figure, |_| true)
}

/// As [`flood`], but publishes each number only after `may_follow` returns true for it.
fn flood_at_pace(server: &Server, figure: &str, may_follow: impl Fn(u64) -> bool) -> u64 {
    let mut feed = server.feed();
    let padding = "x".repeat(4000);
    for number in 0.. {
        eventually("the next number may be published", || may_follow(number).then_some(()));
        publish(&mut feed, "a", &format!("{number} {padding}"));
        if number % 50 == 0 && server.figure(figure) > 0 {
            return number;
        }
        assert!(number < 100_000, "{figure} never moved");
    }
    unreachable!()
}

/// Reads the events of a lazy client's stream as (name, data).
fn read_on(http: &mut Http, until: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    loop {
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut http.waiting)));
        if until(&text) || !http.fill() {
            return text;
        }
    }
}

#[test]
fn a_burst_cuts_no_client_that_reads() {
    let server = Server::start("[namespace.\"*\"]\nhistory_bytes = \"2MiB\"");
    let mut streams: Vec<Stream> = (0..10).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    let mut socket = Socket::open(server.address, "/ws?channel=a,b");
    socket.hello();
    let padding = "x".repeat(100_000);
    let mut feed = server.feed();
    let ids: Vec<String> = (0..10).map(|number| publish(&mut feed, "a", &format!("{number} {padding}"))).collect();
    server.await_at_least("slow_caught_up", 1);
    for stream in &mut streams {
        let got: Vec<String> = (0..10)
            .map(|_| stream.next().unwrap())
            .inspect(|event| assert_eq!(event.name, ""))
            .map(|event| event.id)
            .collect();
        assert_eq!(got, ids);
    }
    let got: Vec<_> = (0..10).map(|_| socket.json()["id"].clone()).collect();
    assert_eq!(got, ids);
    server.publish("a", "live");
    assert!(streams.iter_mut().all(|stream| stream.next().unwrap().data == "live"));
    assert_eq!((server.figure("slow_disconnected"), server.figure("gaps")), (0, 0));
}

/// What a lazy client gets that reads on only after much was published on two channels, up to the event "end".
fn after_much(config: &str) -> (Server, String) {
    let server = Server::start(config);
    let mut slow = lazy(&server, "/sse?channel=a,b");
    server.await_figure("connections_sse", 1);
    let padding = "x".repeat(4000);
    let mut feed = server.feed();
    for number in 0..4000 {
        publish(&mut feed, if number % 3 == 0 { "a" } else { "b" }, &format!("{number} {padding}"));
    }
    server.await_figure("slow_caught_up", 1);
    publish(&mut feed, "b", "end");
    let text = read_on(&mut slow, |text| text.contains("\"end\"}\n\n"));
    server.publish("a", "live");
    assert!(read_on(&mut slow, |text| text.contains("\"live\"}\n\n")).contains("live"));
    assert_eq!(server.figure("connections_sse"), 1, "the client is still connected");
    (server, text)
}

fn numbers(text: &str) -> Vec<u64> {
    let data = text.split("\"data\":\"").skip(1);
    data.filter_map(|data| data.split(' ').next()?.parse().ok()).collect()
}

#[test]
fn a_slow_client_goes_on_from_history_in_place() {
    let (server, text) =
        after_much("[namespace.\"*\"]\nmax_lag = \"64KiB\"\nhistory_bytes = \"64MiB\"\nhistory_events = 10000");
    assert!(!text.contains("ringcast.gap"));
    assert_eq!(numbers(&text), (0..4000).collect::<Vec<u64>>(), "in order over both channels, and each once");
    assert_eq!((server.figure("slow_disconnected"), server.figure("gaps")), (0, 0));
    assert!(server.figure("lagging_bytes") < 1 << 20, "the log was not kept for the client");
}

#[test]
fn a_slow_client_is_told_where_history_has_a_gap() {
    let (server, text) = after_much("[namespace.\"*\"]\nmax_lag = \"64KiB\"\nhistory_events = 20");
    let numbers = numbers(&text);
    let (before, after) = text.split_once("ringcast.gap").unwrap();
    assert!(!after.contains("ringcast.gap"));
    assert_eq!(numbers.last(), Some(&3999));
    assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{numbers:?}");
    let jump = numbers.windows(2).position(|two| two[0] + 1 != two[1]).unwrap();
    assert!(before.contains(&format!("\"{} x", numbers[jump])), "the gap is told where it is");
    assert_eq!(server.figure("gaps"), 1);
}

#[test]
fn the_disconnect_policy_cuts_off_slow_clients_alone() {
    let server = Server::start("[namespace.\"*\"]\nslow = \"disconnect\"\nmax_lag = \"64KiB\"");
    let mut slow = lazy(&server, "/sse?channel=a");
    let mut lively = Stream::open(server.address, "/sse?channel=a");
    server.await_figure("connections_sse", 2);
    let read = Arc::new(AtomicU64::new(0));
    let count = read.clone();
    let reader = std::thread::spawn(move || {
        while let Some(event) = lively.next() {
            if event.data == "end" {
                return true;
            }
            assert!(event.name.is_empty(), "{event:?}");
            count.fetch_add(1, Ordering::Relaxed);
        }
        false
    });
    // Events are published as fast as the other client reads them.
    let last = flood_at_pace(&server, "slow_disconnected", |number| read.load(Ordering::Relaxed) + 5 > number);
    server.publish("a", "end");
    assert!(reader.join().unwrap(), "the client that reads got every event");
    assert_eq!(read.load(Ordering::Relaxed), last + 1);
    let text = read_on(&mut slow, |_| false);
    assert!(text.contains("data: 0 x") && !text.contains("data: end"));
    server.await_figure("closed.slow", 1);
}

#[test]
fn the_gap_policy_names_the_lost_events_and_continues() {
    let server = Server::start("[namespace.\"*\"]\nslow = \"gap\"\nmax_lag = \"64KiB\"");
    let mut slow = lazy(&server, "/sse?channel=a");
    server.await_figure("connections_sse", 1);
    flood(&server, "slow_gaps");
    server.publish("a", "end");
    let text = read_on(&mut slow, |text| text.contains("data: end\n\n"));
    assert!(text.contains("event: ringcast.gap\n"), "a notice");
    assert!(text.ends_with("data: end\n\n\r\n"));
    // Every frame is whole, also around the gap: all chunks can be parsed.
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let mut rest = body;
    let mut last_number = None;
    let mut gaps = 0;
    while !rest.is_empty() {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let chunk = &after[..size];
        assert!(chunk.ends_with("\n\n") && after[size..].starts_with("\r\n"));
        gaps += usize::from(chunk.contains("ringcast.gap"));
        if let Some((_, data)) = chunk.split_once("data: ")
            && let Ok(number) = data.split(' ').next().unwrap().parse::<u64>()
        {
            if let Some(last) = last_number {
                assert!(number == last + 1 || (number > last && gaps > 0), "{number} after {last}");
            }
            last_number = Some(number);
        }
        rest = &after[size + 2..];
    }
    assert!(gaps >= 1);
    assert_eq!(server.figure("connections_sse"), 1, "the client is still connected");
}

#[test]
fn a_client_that_reads_nothing_of_its_replay_is_disconnected() {
    let config = "[limits]\nstall_timeout = \"1s\"\n[namespace.\"*\"]\nhistory_bytes = \"64MiB\"";
    let server = Server::start(config);
    let mut feed = server.feed();
    let padding = "x".repeat(50_000);
    (0..200).for_each(|_| drop(publish(&mut feed, "a", &padding)));
    let _slow = lazy(&server, "/sse?channel=a&last_event_id=1-0");
    server.await_figure("closed.slow", 1);
    server.await_figure("connections_sse", 0);
}

#[test]
fn the_latest_policy_skips_to_the_newest_event() {
    let server = Server::start("[namespace.\"*\"]\nslow = \"latest\"\nmax_lag = \"64KiB\"");
    let mut slow = lazy(&server, "/sse?channel=a");
    server.await_figure("connections_sse", 1);
    flood(&server, "slow_skips");
    server.publish("a", "end");
    let text = read_on(&mut slow, |text| text.contains("data: end\n\n"));
    assert!(!text.contains("ringcast.gap") && text.contains("data: end\n\n"));
    server.await_at_least("slow_events_dropped", 1);
}

#[test]
fn a_websocket_that_is_too_slow_is_told_1013() {
    let server = Server::start("[namespace.\"*\"]\nslow = \"disconnect\"\nmax_lag = \"64KiB\"");
    let mut slow = lazy(&server, "/healthz");
    slow.answer(false);
    slow.send(
        "GET /ws?channel=a&format=raw HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    server.await_figure("connections_ws", 1);
    flood(&server, "slow_disconnected");
    let mut all = Vec::new();
    slow.stream.read_to_end(&mut all).unwrap();
    let close = all.windows(4).rposition(|four| four[0] == 0x88 && four[2..] == 1013u16.to_be_bytes());
    assert!(close.is_some(), "the last frame says 1013");
}

#[test]
fn a_client_that_never_reads_costs_its_kernel_buffers_and_a_cursor() {
    let server = Server::start("[namespace.\"*\"]\nslow = \"gap\"\nmax_lag = \"64KiB\"\nhistory_events = 10");
    let clients: Vec<Http> = (0..200).map(|_| lazy(&server, "/sse?channel=a")).collect();
    server.await_figure("connections_sse", 200);
    flood(&server, "slow_gaps");
    let before = server.resident_bytes();
    let mut feed = server.feed();
    let padding = "x".repeat(4000);
    for _ in 0..5000 {
        publish(&mut feed, "a", &padding);
    }
    // 20 MB were published to 200 clients that have not read. The events that wait for the shard leave memory soon.
    eventually("the memory has its size of before", || (server.resident_bytes() < before + (8 << 20)).then_some(()));
    assert_eq!(server.figure("connections_sse"), 200);
    drop(clients);
}

#[test]
fn a_client_that_never_reads_does_not_shorten_the_sends_to_others() {
    let server = Server::start("[namespace.\"*\"]\nslow = \"gap\"\nmax_lag = \"64KiB\"");
    let _slow = lazy(&server, "/sse?channel=a");
    server.await_figure("connections_sse", 1);
    flood(&server, "slow_gaps");
    // From here on the log has its full length and consists of small events.
    let line = b"{\"op\":\"publish\",\"channel\":\"a\",\"data\":\"x\"}\n";
    let mut feed = std::os::unix::net::UnixStream::connect(&server.feed_path).unwrap();
    feed.write_all(line.repeat(3000).as_slice()).unwrap();
    server.publish("a", "x");
    // These clients have room for the events to come, and are too many for one turn.
    let connect = |_| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    };
    let others: Vec<TcpStream> = (0..600).map(connect).collect();
    server.await_figure("connections_sse", 601);
    let before = (server.figure("sends"), server.figure("deliveries"));
    // Events are published one by one, so that the shard gets them one by one.
    let mut feed = server.feed();
    for _ in 0..500 {
        publish(&mut feed, "a", "x");
    }
    eventually("the other clients have got every event", || {
        (server.figure("deliveries") >= before.1 + 300_000).then_some(())
    });
    let sends = server.figure("sends") - before.0;
    assert!(sends < 50_000, "{sends} sends for 300,000 deliveries");
    drop(others);
}
