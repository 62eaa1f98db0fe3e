//! Faults: after each, every gauge has its value of before, and no descriptor is left.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::clients::{Http, Socket, Stream};
use super::server::{PATIENCE, Server, eventually};

/// The state that a fault must not change: the descriptors of each thread, and the gauges.
fn standing(server: &Server) -> Value {
    let mut descriptors: Vec<(String, usize)> = std::fs::read_dir(format!("/proc/{}/task", server.id()))
        .unwrap()
        .filter_map(|task| {
            let path = task.ok()?.path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            Some((name, std::fs::read_dir(path.join("fd")).ok()?.count()))
        })
        .filter(|(name, _)| name.starts_with("shard") || name.starts_with("hub"))
        .collect();
    descriptors.sort();
    let stats = server.stats();
    let shard = &stats["shards"][0];
    let of_shard = ["slots", "connections_http", "connections_sse", "connections_ws", "connections_poll", "identified"]
        .map(|name| shard[name].clone());
    json!({ "descriptors": descriptors, "shard": of_shard, "connections": stats["node"]["connections"] })
}

/// The looks in a row without a change after which a server is quiet.
const LOOKS_QUIET: u32 = 20;

/// Causes a fault, and waits until the state is as before. A client that subscribed before the fault and one that
/// subscribes after it both get the next event.
fn survives(server: &Server, fault: impl FnOnce()) {
    let mut witness = Stream::open(server.address, "/sse?channel=witness");
    server.await_fresh_figures();
    let mut before = Value::Null;
    let mut same = 0;
    // The server's own connections to the feed come some time after it is ready.
    eventually("it is quiet", || {
        let now = standing(server);
        same = if now == before { same + 1 } else { 0 };
        before = now;
        (same == LOOKS_QUIET).then_some(())
    });
    fault();
    server.await_fresh_figures();
    eventually(&format!("it stands as before: {before}, not {}", standing(server)), || {
        (standing(server) == before).then_some(())
    });
    let mut other = Stream::open(server.address, "/sse?channel=witness");
    server.publish("witness", "still here");
    assert_eq!(witness.next().unwrap().data, "still here");
    assert_eq!(other.next().unwrap().data, "still here");
}

#[test]
fn a_publisher_that_dies_within_a_line() {
    let server = Server::start("");
    let mut reader = Stream::open(server.address, "/sse?channel=a");
    survives(&server, || {
        for cut in [1, 20, 45] {
            let mut stream = UnixStream::connect(&server.feed_path).unwrap();
            let line = r#"{"op":"publish","channel":"a","data":"never"}"#;
            stream.write_all(format!("{line}\n").replace("never", "whole").as_bytes()).unwrap();
            stream.write_all(&line.as_bytes()[..cut]).unwrap();
        }
    });
    let data = || reader.next().unwrap().data;
    assert_eq!(std::iter::repeat_with(data).take(3).collect::<Vec<_>>(), ["whole"; 3], "what was whole was published");
}

#[test]
fn a_feed_full_of_garbage() {
    let server = Server::start("[feed]\nmax_line = \"4KiB\"");
    let mut rng = fastrand::Rng::with_seed(7);
    let before = server.resident_bytes();
    survives(&server, || {
        let stream = UnixStream::connect(&server.feed_path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut garbage = Vec::new();
        let mut lines = 0;
        while garbage.len() < 8 << 20 {
            // Some lines are too long, and none is empty, because empty lines are not answered.
            let length = if rng.u8(..50) == 0 { 6000 } else { rng.usize(1..300) };
            garbage.extend(std::iter::repeat_with(|| rng.u8(..)).filter(|byte| !b"\n\r".contains(byte)).take(length));
            garbage.push(b'\n');
            lines += 1;
        }
        let thread = std::thread::spawn(move || {
            writer.write_all(&garbage).unwrap();
            writer.write_all(b"{\"op\":\"publish\",\"channel\":\"b\",\"data\":1,\"ref\":\"end\"}\n").unwrap();
        });
        let mut answers = 0;
        for answer in BufReader::new(stream).lines() {
            let answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
            if answer["ref"] == "end" {
                assert_eq!(answer["ok"], true, "the connection stays usable");
                break;
            }
            assert!(answer["error"]["message"].is_string());
            answers += 1;
        }
        thread.join().unwrap();
        assert_eq!(answers, lines, "each line is answered once");
    });
    eventually("the memory is given back", || (server.resident_bytes() < before + (8 << 20)).then_some(()));
}

#[test]
fn five_thousand_clients_that_never_read() {
    let server = Server::start("[namespace.\"*\"]\nslow = \"disconnect\"\nmax_lag = \"16KiB\"\nhistory_events = 10");
    survives(&server, || {
        let deaf: Vec<Http> = (0..5000)
            .map(|number| {
                let mut http = Http::connect(server.address);
                let path = if number % 2 == 0 { "/sse?channel=loud" } else { "/poll?channel=quiet&wait=60" };
                http.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
                http
            })
            .collect();
        eventually("all are there", || {
            (server.figure("connections_sse") + server.figure("connections_poll") == 5001).then_some(())
        });
        let mut feed = server.feed();
        let data = "x".repeat(32 << 10);
        // The kernel buffers some megabytes for each client before it is behind.
        eventually("those who do not read are cut off", || {
            for _ in 0..20 {
                feed.call(json!({ "op": "publish", "channel": "loud", "data": data })).unwrap();
            }
            (server.figure("closed.slow") == 2500).then_some(())
        });
        eventually("their log is gone", || (server.figure("log_bytes") < 1 << 20).then_some(()));
        drop(deaf);
    });
}

#[test]
fn clients_that_reset_within_a_frame() {
    let server = Server::start("");
    survives(&server, || {
        for number in 0..300 {
            let mut socket = Socket::open(server.address, "/ws?channel=a");
            let stream = socket.socket.get_mut();
            // A frame of 1,000 bytes, of which only the first `number` are sent.
            let mut frame = vec![0x81, 0xfe, 0x03, 0xe8, 0, 0, 0, 0];
            frame.extend(std::iter::repeat_n(b'x', number));
            stream.write_all(&frame).unwrap();
            if number % 3 == 0 {
                server.publish("a", "meanwhile");
            }
            socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
}

#[test]
fn a_process_that_stands_still() {
    let server = Server::start("[heartbeat]\nws = \"500ms\"\nreap = \"500ms\"");
    survives(&server, || {
        let mut socket = Socket::open(server.address, "/ws?channel=a");
        server.publish("a", "before");
        assert_eq!(socket.json()["data"], "before");
        server.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(300));
        // Requests wait in the kernel meanwhile.
        let mut late = Http::connect(server.address);
        late.send("GET /poll?channel=a&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n");
        socket.say(r#"{"ping":1}"#);
        server.signal(libc::SIGCONT);
        assert_eq!(late.answer(false).status, 200);
        assert_eq!(socket.json(), json!({ "pong": 1 }));
        server.publish("a", "after");
        assert_eq!(socket.json()["data"], "after");
    });
}

#[test]
fn a_shard_that_is_given_more_than_it_can_do() {
    let server =
        Server::start("[limits]\nqueue = \"256KiB\"\n[namespace.\"*\"]\nmax_lag = \"8MiB\"\nhistory_events = 10");
    survives(&server, || {
        let readers: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = Stream::open(server.address, "/sse?channel=flood");
                std::thread::spawn(move || {
                    let (mut count, mut gaps) = (0u64, 0);
                    loop {
                        let event = stream.next().expect("nobody is cut off for the shard's sake");
                        match event.name.as_str() {
                            "ringcast.gap" => gaps += 1,
                            "end" => return (count, gaps),
                            _ => count += 1,
                        }
                    }
                })
            })
            .collect();
        // More events than one core can send, until publishers have had to wait.
        let mut feed = server.feed();
        let data = "x".repeat(16 << 10);
        let mut published = 0;
        eventually("publishers must wait", || {
            for _ in 0..100 {
                feed.call(json!({ "op": "publish", "channel": "flood", "data": data })).unwrap();
                published += 1;
            }
            (server.stats()["node"]["congestions"].as_u64().unwrap() > 0).then_some(())
        });
        feed.call(json!({ "op": "publish", "channel": "flood", "data": "", "event": "end" })).unwrap();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), (published, 0), "everybody who reads gets everything");
        }
    });
    assert_eq!(server.stats()["node"]["queued_bytes"], 0);
}

/// libfaketime, which is loaded before the C library and replaces its clock.
const FAKE_CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[test]
fn a_clock_that_is_set_back() {
    use std::path::Path;
    assert!(Path::new(FAKE_CLOCK).exists(), "the tests need {FAKE_CLOCK} (Debian: libfaketime)");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).unwrap();
    set("+0");
    let environment = [
        ("LD_PRELOAD", Path::new(FAKE_CLOCK)),
        ("FAKETIME_TIMESTAMP_FILE", &*clock),
        ("FAKETIME_NO_CACHE", Path::new("1")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
    ];
    let config = format!("[heartbeat]\nsse = \"200ms\"\n{}allow_anonymous = true\n", super::tokens::KEYS);
    let server = Server::start_with_environment(folder, &config, &[], &environment);
    let id = |text: &str| text.parse::<ringcast::logic::id::Id>().unwrap();
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    let mut last = id(&server.publish("a", "0"));
    let begun = last.ms();
    // An hour back, a day ahead, and back again: ids only go up, and every client gets every event once.
    for (number, offset) in ["-1h", "+1d", "-1d", "+0"].iter().enumerate() {
        set(offset);
        for part in 0..3 {
            let now = id(&server.publish("a", &format!("{number}.{part}")));
            assert!(now > last, "{now} after {last}");
            last = now;
        }
    }
    assert!(last.ms() >= begun + 86_000_000, "the day ahead was seen, and is not taken back");
    let data: Vec<String> = (0..13).map(|_| stream.next().unwrap().data).collect();
    assert_eq!((data[0].as_str(), data[12].as_str()), ("0", "3.2"));
    // A client that resumes from before the jumps gets the events after it, in order.
    let position = stream.last_id.clone();
    server.publish("a", "after");
    let mut resumed = Stream::open(server.address, &format!("/sse?channel=a&last_event_id={position}"));
    assert_eq!((resumed.next().unwrap().data, stream.next().unwrap().data), ("after".into(), "after".into()));
    // Heartbeats and deadlines use the monotonic clock.
    server.await_figure("closed.idle", 0);
    eventually("heartbeats go on", || (server.figure("heartbeats") > 2).then_some(()));
    // A start on the state of this server continues its ids.
    let folder = server.stop();
    let server = Server::start_in(folder, &config, &[]);
    assert!(id(&server.publish("a", "later")) > last);
}
