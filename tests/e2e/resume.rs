use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::clients::{Socket, Stream, get};
use super::server::{Server, publish};

/// Publishes numbers to `channel` until told to stop; returns how many.
fn publish_numbers(
    server: &Server,
    channels: &'static [&'static str],
) -> (Arc<AtomicBool>, std::thread::JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let mut feed = server.feed();
    let publisher = std::thread::spawn(move || {
        let mut number = 0;
        while !flag.load(Ordering::Relaxed) {
            let channel = channels[number as usize % channels.len()];
            publish(&mut feed, channel, &number.to_string());
            number += 1;
        }
        number
    });
    (stop, publisher)
}

fn number(data: &str) -> u64 {
    // With several channels an envelope contains the data.
    data.rsplit("\"data\":").next().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

fn cut_fifty_times(server: &Server, channels: &'static [&'static str], query: &str) {
    let mut last_id = publish(&mut server.feed(), channels[0], "start");
    let (stop, publisher) = publish_numbers(server, channels);
    let mut expected = 0;
    for cut in 0..=50 {
        let fields = format!("Last-Event-ID: {last_id}\r\n");
        let mut stream = Stream::open_with(server.address, &format!("/sse?{query}"), &fields);
        // The number of events differs each time, so that cuts fall into replays and into live events.
        for _ in 0..(cut * 7) % 40 + 1 {
            let event = stream.next().unwrap();
            assert_ne!(event.name, "ringcast.gap", "{event:?}");
            assert_eq!(number(&event.data), expected, "after {cut} cuts");
            expected += 1;
            last_id = event.id;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let published = publisher.join().unwrap();
    assert!(published >= expected);
}

#[test]
fn a_stream_that_is_cut_fifty_times_misses_and_repeats_nothing() {
    let config = "[namespace.\"*\"]\nhistory_events = 1000000\nhistory_bytes = \"100MiB\"";
    let server = Server::start(config);
    cut_fifty_times(&server, &["a"], "channel=a");
}

#[test]
fn a_cut_stream_on_several_channels_and_shards_misses_and_repeats_nothing() {
    let config = "[namespace.\"*\"]\nhistory_events = 1000000\nhistory_bytes = \"100MiB\"";
    let server = Server::start_with(config, &["--shards", "3", "--no-pin"]);
    cut_fifty_times(&server, &["a", "b", "c"], "channel=a,b,c");
}

#[test]
fn a_cut_stream_resumes_from_history_when_the_shard_keeps_nothing() {
    let config = "[namespace.\"*\"]\nhistory_events = 1000000\nhistory_bytes = \"100MiB\"\n[limits]\nretained = 0";
    let server = Server::start(config);
    cut_fifty_times(&server, &["a", "b"], "channel=a,b");
    server.await_at_least("resumed_hub", 1);
}

#[test]
fn a_websocket_resumes_as_well() {
    let server = Server::start("[namespace.\"*\"]\nhistory_events = 1000000\nhistory_bytes = \"100MiB\"");
    let mut last_id = server.publish("a", "start");
    let (stop, publisher) = publish_numbers(&server, &["a"]);
    let mut expected = 0;
    for cut in 0..50 {
        let mut socket = Socket::open(server.address, &format!("/ws?channel=a&last_event_id={last_id}"));
        for _ in 0..(cut * 11) % 30 + 1 {
            let event = socket.json();
            assert_eq!(event["data"].as_str().unwrap().parse::<u64>().unwrap(), expected);
            expected += 1;
            last_id = event["id"].as_str().unwrap().to_string();
        }
    }
    stop.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
}

#[test]
fn a_long_replay_comes_in_pages_and_then_live_events_follow() {
    let server = Server::start("[namespace.\"*\"]\nhistory_events = 10000\nhistory_bytes = \"10MiB\"");
    let first = server.publish("a", "0");
    let mut feed = server.feed();
    let padding = "x".repeat(500);
    for number in 1..3000 {
        publish(&mut feed, "a", &format!("{number} {padding}"));
    }
    let mut stream = Stream::open(server.address, &format!("/sse?channel=a&last_event_id={first}"));
    publish(&mut feed, "a", "3000 live");
    for expected in 1..=3000 {
        let event = stream.next().unwrap();
        assert_eq!(event.data.split(' ').next(), Some(expected.to_string().as_str()));
    }
}

#[test]
fn a_stream_is_told_of_events_that_history_has_lost_and_continues() {
    let server = Server::start("[namespace.\"*\"]\nhistory_events = 3");
    let first = server.publish("a", "0");
    for number in 1..10 {
        server.publish("a", &number.to_string());
    }
    let mut stream = Stream::open(server.address, &format!("/sse?channel=a&last_event_id={first}"));
    let gap = stream.next().unwrap();
    assert_eq!(gap.name, "ringcast.gap");
    assert!(gap.data.contains(&format!("\"after\":\"{first}\"")), "{}", gap.data);
    for expected in 7..10 {
        assert_eq!(stream.next().unwrap().data, expected.to_string());
    }
    server.publish("a", "10");
    assert_eq!(stream.next().unwrap().data, "10");
    let mut socket = Socket::open(server.address, &format!("/ws?channel=a&last_event_id={first}"));
    assert_eq!(socket.json()["gap"]["after"], first);
}

#[test]
fn an_id_from_the_future_is_a_gap_not_silence() {
    let server = Server::start("");
    server.publish("a", "x");
    let mut stream = Stream::open(server.address, "/sse?channel=a&last_event_id=99999999999999-0");
    assert_eq!(stream.next().unwrap().name, "ringcast.gap");
    server.publish("a", "y");
    assert_eq!(stream.next().unwrap().data, "y");
}

#[test]
fn ids_go_on_after_a_crash_and_an_old_position_is_a_gap() {
    let server = Server::start("");
    let before = server.publish("a", "lost with the process");
    let folder = server.crash();
    let server = Server::start_in(folder, "", &[]);
    let mut stream = Stream::open(server.address, &format!("/sse?channel=a&last_event_id={before}"));
    assert_eq!(stream.next().unwrap().name, "ringcast.gap");
    let after = server.publish("a", "new");
    let ms = |id: &str| id.split('-').next().unwrap().parse::<u64>().unwrap();
    assert!(ms(&after) > ms(&before));
    assert_eq!(stream.next().unwrap().id, after);
}

#[test]
fn a_reconnect_storm_is_answered_without_the_hub() {
    let server = Server::start("");
    let keep = Stream::open(server.address, "/sse?channel=a");
    let id = server.publish("a", "1");
    server.publish("a", "2");
    let asked = server.figure("resumed_hub");
    for _ in 0..200 {
        let mut stream = Stream::open(server.address, &format!("/sse?channel=a&last_event_id={id}"));
        assert_eq!(stream.next().unwrap().data, "2");
    }
    server.await_figure("resumed_hub", asked);
    drop(keep);
}

#[test]
fn a_client_that_is_cut_before_its_first_event_loses_none() {
    let server = Server::start("");
    for (elsewhere, channel) in ["new", "new", "other"].into_iter().enumerate() {
        // Events of other channels move the position on.
        let before = server.publish("elsewhere", "x");
        let stream = Stream::open(server.address, &format!("/sse?channel={channel}"));
        let position = stream.hello.id.clone();
        if channel == "other" || elsewhere == 0 {
            assert_eq!(position, before, "a channel that nobody follows begins at the newest event");
        }
        let hello: Value = serde_json::from_str(&stream.hello.data).unwrap();
        assert_eq!((hello["id"].as_str(), hello["beat_ms"].as_u64()), (Some(&*position), Some(25_000)));
        assert!(hello["conn"].is_string(), "{hello}");
        let mut socket = Socket::open(server.address, &format!("/ws?channel={channel}"));
        assert!(socket.hello()["id"].is_string());
        drop((stream, socket));
        let missed = server.publish(channel, "missed");
        let mut stream = Stream::open_with(
            server.address,
            &format!("/sse?channel={channel}"),
            &format!("Last-Event-ID: {position}\r\n"),
        );
        assert_eq!(stream.hello.id, position, "a stream that is cut again resumes from the same place");
        assert_eq!(stream.next().unwrap().id, missed);
        let mut socket = Socket::open(server.address, &format!("/ws?channel={channel}&lastEventId={position}"));
        assert_eq!(socket.hello()["id"], *position);
        assert_eq!(socket.json()["id"], *missed);
    }
}

#[test]
fn a_reply_to_subscribe_names_the_position() {
    let server = Server::start("");
    let mut socket = Socket::open(server.address, "/ws");
    socket.hello();
    let before = server.publish("elsewhere", "x");
    socket.say(r#"{"subscribe":["a"],"ref":1}"#);
    assert_eq!(socket.json(), json!({ "ref": 1, "ok": true, "id": before }));
    let first = server.publish("a", "one");
    let second = server.publish("a", "two");
    assert_eq!((socket.json()["id"].take(), socket.json()["id"].take()), (first.clone().into(), second.clone().into()));
    // The same channel again, from a position: what came after it is told again.
    socket.say(&format!(r#"{{"subscribe":["a"],"after":"{first}","ref":2}}"#));
    assert_eq!(socket.json(), json!({ "ref": 2, "ok": true, "id": first }));
    assert_eq!(socket.json()["id"], *second);
    // A position for each channel.
    let third = server.publish("b", "three");
    socket.say(&format!(r#"{{"subscribe":{{"a":"{before}","b":null}},"ref":3}}"#));
    assert_eq!(socket.json(), json!({ "ref": 3, "ok": true, "id": third }));
    assert_eq!((socket.json()["id"].take(), socket.json()["id"].take()), (first.into(), second.into()));
    let last = server.publish("b", "four");
    assert_eq!(socket.json()["id"], *last);
}

#[test]
fn a_position_of_another_server_is_served_from_the_newest_event_with_a_gap() {
    let server = Server::start("");
    server.publish("a", "old");
    let newest = server.publish("a", "newest");
    for foreign in ["urn:uuid:6a7c2a10", "null", "undefined", "17", "words"] {
        for target in [format!("/sse?channel=a&last_event_id={foreign}"), "/sse?channel=a".into()] {
            let mut stream = Stream::open_with(server.address, &target, &format!("Last-Event-ID: {foreign}\r\n"));
            assert_eq!(stream.hello.id, newest, "{foreign}");
            let gap = stream.next().unwrap();
            assert_eq!((gap.name.as_str(), gap.id.as_str()), ("ringcast.gap", newest.as_str()));
        }
        let mut socket = Socket::open(server.address, &format!("/ws?channel=a&lastEventId={foreign}"));
        assert_eq!(socket.hello()["id"], *newest);
        assert_eq!(socket.json()["gap"]["resumed"], *newest);
        socket.say(&format!(r#"{{"subscribe":["a"],"after":"{foreign}","ref":1}}"#));
        assert_eq!(socket.json()["id"], *newest);
        assert_eq!(socket.json()["gap"]["resumed"], *newest);
        let poll: Value =
            serde_json::from_str(&get(server.address, &format!("/poll?channel=a&after={foreign}")).body).unwrap();
        assert_eq!((poll["gap"].as_bool(), poll["next"].as_str()), (Some(true), Some(&*newest)));
    }
    let answer = get(server.address, "/sse?channel=a&chanel=b");
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("there is no parameter \\\"chanel\\\""), "{}", answer.body);
}
