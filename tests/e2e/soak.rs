//! All kinds of load at once: publishers at full speed, and clients that connect, fall behind, subscribe, unsubscribe,
//! break off and resume at random. Each client must see whole events, in order, and without a loss that was not announced.
//!
//! The test runs for a few seconds; `RINGCAST_SOAK_SECONDS=600 cargo test --test e2e soak` sets the time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::Message;
use tungstenite::error::ProtocolError;

use super::clients::{Http, Socket, Stream};
use super::server::Server;

const CHANNELS: [&str; 12] = ["d:0", "d:1", "d:2", "g:0", "g:1", "g:2", "l:0", "l:1", "l:2", "x:0", "x:1", "x:2"];
const CONFIG: &str = "[namespace.d]\nslow = \"disconnect\"\nmax_lag = \"16KiB\"\n[namespace.g]\nslow = \"gap\"\n\
    max_lag = \"8KiB\"\n[namespace.l]\nslow = \"latest\"\nmax_lag = \"8KiB\"\n[namespace.x]\nmax_lag = \"16MiB\"\n\
    [namespace.\"*\"]\nhistory_events = 200\n[limits]\nretained = \"64KiB\"\nqueue = \"256KiB\"\n\
    [heartbeat]\nsse = \"300ms\"\nws = \"300ms\"\n[log]\nconnections_per_second = 5";

/// The events that one connection has seen.
#[derive(Default)]
struct Seen {
    last_id: Option<(u64, u64)>,
    numbers: HashMap<String, u64>,
    /// A gap was announced, so the next numbers may be any.
    had_gap: bool,
}

fn id(text: &str) -> (u64, u64) {
    let (ms, n) = text.split_once('-').unwrap();
    (ms.parse().unwrap(), n.parse().unwrap())
}

impl Seen {
    /// Checks an event whose data is `<number>:<length> <padding of that length>`.
    fn event(&mut self, event_id: &str, channel: &str, data: &str) {
        let (head, padding) = data.split_once(' ').unwrap();
        let (number, length) = head.split_once(':').unwrap();
        assert_eq!(padding.len(), length.parse::<usize>().unwrap(), "whole");
        let event_id = id(event_id);
        assert!(self.last_id.is_none_or(|last| last < event_id), "in order: {:?} before {event_id:?}", self.last_id);
        self.last_id = Some(event_id);
        let number: u64 = number.parse().unwrap();
        if let Some(last) = self.numbers.insert(channel.to_string(), number) {
            assert!(number > last, "once");
            let may_skip = channel.starts_with("l:") || self.had_gap;
            assert!(number == last + 1 || may_skip, "{channel}: {number} after {last} without a notice");
        }
    }
}

struct Client {
    address: SocketAddr,
    random: fastrand::Rng,
    stop: Arc<AtomicBool>,
    last_id: String,
}

impl Client {
    fn channels(&mut self) -> Vec<&'static str> {
        let mut all = CHANNELS.to_vec();
        self.random.shuffle(&mut all);
        all.truncate(self.random.usize(1..5));
        all
    }

    /// Pauses at times, so that the client falls behind.
    fn dawdle(&mut self) {
        if self.random.u8(..) < 6 {
            std::thread::sleep(Duration::from_millis(self.random.u64(1..60)));
        }
    }

    fn goes_on(&mut self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.random.u16(..400) != 0
    }

    /// Makes the end of the connection a reset instead of a close, half of the time.
    fn break_off(&mut self, stream: &std::net::TcpStream) {
        if self.random.bool() {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.random.u8(..4) {
                0 => self.stream(),
                1 => self.socket(),
                2 => self.polls(),
                _ => self.sleeper(),
            }
        }
    }

    fn stream(&mut self) {
        let channels = self.channels().join(",");
        let fields = match self.random.bool() && !self.last_id.is_empty() {
            true => format!("Last-Event-ID: {}\r\n", self.last_id),
            false => String::new(),
        };
        let mut stream = Stream::open_with(self.address, &format!("/sse?channel={channels}&envelope=1"), &fields);
        let mut seen = Seen::default();
        while self.goes_on() {
            self.dawdle();
            let Some(event) = stream.next() else {
                // A slow client may be cut off within a long frame.
                assert!(stream.is_over || channels.contains("d:"), "an end, not a cut");
                return;
            };
            if event.name == "ringcast.gap" {
                seen.had_gap = true;
                continue;
            }
            let envelope: serde_json::Value = serde_json::from_str(&event.data).unwrap();
            seen.event(&event.id, envelope["channel"].as_str().unwrap(), envelope["data"].as_str().unwrap());
            self.last_id = event.id;
        }
        self.break_off(&stream.http.stream);
    }

    fn socket(&mut self) {
        let channels = self.channels().join(",");
        let mut socket = Socket::open(self.address, &format!("/ws?channel={channels}"));
        let mut seen = Seen::default();
        while self.goes_on() {
            self.dawdle();
            let said = match self.random.u16(..300) {
                0 => Some(Message::text(json!({ "subscribe": self.channels() }).to_string())),
                1 => Some(Message::text(json!({ "unsubscribe": self.channels(), "ref": 1 }).to_string())),
                2 if !self.last_id.is_empty() => {
                    // Resumed events may be older than those seen on other channels.
                    let message = json!({ "subscribe": self.channels(), "after": self.last_id, "ref": 2 });
                    seen.last_id = None;
                    seen.numbers.clear();
                    seen.had_gap = true;
                    Some(Message::text(message.to_string()))
                }
                3 => Some(Message::Ping(vec![7; 20].into())),
                _ => None,
            };
            // The server may have cut the connection off within a long frame.
            if said.is_some_and(|said| socket.socket.send(said).is_err()) {
                return;
            }
            let message = match socket.socket.read() {
                Ok(Message::Text(text)) => serde_json::from_str::<serde_json::Value>(&text).unwrap(),
                Ok(Message::Close(frame)) => {
                    assert_eq!(u16::from(frame.unwrap().code), 1013);
                    return;
                }
                Ok(_) => continue,
                Err(tungstenite::Error::Io(error)) => {
                    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "nothing came in time");
                    return;
                }
                Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return,
                Err(error) => panic!("{error}"),
            };
            if message["gap"].is_object() {
                seen.had_gap = true;
            } else if let Some(event_id) = message["id"].as_str().filter(|_| message["channel"].is_string()) {
                let (channel, data) = (message["channel"].as_str().unwrap(), message["data"].as_str().unwrap());
                if seen.had_gap && seen.last_id.is_some_and(|last| last >= id(event_id)) {
                    // Events of a resumed channel may come after newer ones of the others.
                    seen.last_id = None;
                    seen.numbers.remove(channel);
                }
                seen.event(event_id, channel, data);
                self.last_id = event_id.to_string();
            }
            if message["ref"].is_number() {
                // The numbers of unsubscribed channels do not go on.
                seen.numbers.clear();
            }
        }
        self.break_off(socket.socket.get_ref());
    }

    fn polls(&mut self) {
        let channels = self.channels().join(",");
        let mut http = Http::connect(self.address);
        let answer = http.get(&format!("/poll?channel={channels}&wait=0")).json();
        let mut next = answer["next"].as_str().unwrap().to_string();
        let mut seen = Seen::default();
        while self.goes_on() {
            self.dawdle();
            let answer = http.get(&format!("/poll?channel={channels}&after={next}&wait=5")).json();
            // No policy for slow clients applies to polls: missed events are in history or announced as a gap.
            seen.had_gap |= answer["gap"] == true;
            for event in answer["events"].as_array().unwrap() {
                let text = |name: &str| event[name].as_str().unwrap();
                seen.event(text("id"), text("channel"), text("data"));
            }
            let after = answer["next"].as_str().unwrap();
            assert!(id(after) >= id(&next), "a position never goes back");
            next = after.to_string();
        }
        self.last_id = next;
    }

    /// Connects and reads nothing.
    fn sleeper(&mut self) {
        let mut http = Http::connect(self.address);
        http.send(&format!("GET /sse?channel={} HTTP/1.1\r\nHost: x\r\n\r\n", self.channels().join(",")));
        for _ in 0..self.random.u32(1..30) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.break_off(&http.stream);
    }
}

fn publish(server: &Server, channels: &'static [&'static str], stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let mut feed = server.feed();
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(channels.len() as u64);
        let mut numbers = vec![0u64; channels.len()];
        let mut total = 0;
        while !stop.load(Ordering::Relaxed) {
            let items: Vec<_> = (0..random.usize(1..20))
                .map(|_| {
                    let index = random.usize(..channels.len());
                    let length = if random.u8(..) == 0 { random.usize(..100_000) } else { random.usize(..2000) };
                    numbers[index] += 1;
                    let data = format!("{}:{length} {}", numbers[index], "x".repeat(length));
                    json!({ "channel": channels[index], "data": data })
                })
                .collect();
            total += items.len() as u64;
            feed.call(json!({ "op": "batch", "items": items })).unwrap();
        }
        total
    })
}

#[test]
fn no_client_sees_an_event_out_of_order_cut_or_twice() {
    let seconds = std::env::var("RINGCAST_SOAK_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    let mut server = Server::start_with(CONFIG, &["--shards", "2", "--no-pin"]);
    let stop = Arc::new(AtomicBool::new(false));
    let publishers = [publish(&server, &CHANNELS[..5], &stop), publish(&server, &CHANNELS[5..], &stop)];
    let clients: Vec<_> = (0..16)
        .map(|seed| {
            let random = fastrand::Rng::with_seed(seed);
            let client = Client { address: server.address, random, stop: stop.clone(), last_id: String::new() };
            std::thread::spawn(move || client.run())
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline && clients.iter().all(|client| !client.is_finished()) {
        std::thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let published: u64 = publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum();
    assert!(published > 1000, "{published}");
    // The load did cause gaps, resumes and replays.
    for figure in ["slow_disconnected", "slow_gaps", "slow_skips", "resumed_here", "resumed_hub", "sends_blocked"] {
        server.await_at_least(figure, 1);
    }
    // The figures are shown only if an assertion fails.
    println!("{}", server.stats());
    server.await_figure("slots", 0);
    for transport in ["http", "sse", "ws", "poll"] {
        server.await_figure(&format!("connections_{transport}"), 0);
    }
    assert!(server.resident_bytes() < 300 << 20, "{} bytes", server.resident_bytes());
    server.signal(libc::SIGTERM);
    assert!(server.await_exit().success());
}
