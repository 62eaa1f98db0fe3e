//! A broker that dies, hangs, forgets, or is another one than before.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::broker::{Broker, KEY, Redis, figure, node};
use crate::clients::{Stream, get};
use crate::server::{Server, code, eventually};

pub fn publish(node: &Server, key: &str) -> Result<String, String> {
    let line = json!({ "op": "publish", "channel": "x", "data": key, "key": key });
    node.feed().call(line).map(|answer| answer["id"].as_str().unwrap().to_owned()).map_err(code)
}

/// Publishes until it succeeds, and returns the id.
pub fn publish_at_last(node: &Server, key: &str) -> String {
    eventually("the publish succeeds", || publish(node, key).ok())
}

/// Reads up to an event with that id, and returns what came before.
pub fn read_up_to(stream: &mut Stream, id: &str) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    loop {
        let event = stream.next().unwrap();
        if event.id == id && event.name.is_empty() {
            return seen;
        }
        seen.push((event.name, event.data));
    }
}

pub fn gaps(seen: &[(String, String)]) -> usize {
    seen.iter().filter(|(name, _)| name == "ringcast.gap").count()
}

#[test]
fn a_broker_that_restarts_with_its_log_loses_nothing() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (a, b) = (node(&redis, "a", ""), node(&redis, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    publish(&a, "1").unwrap();
    redis.crash_and_restart();
    let id = publish_at_last(&a, "2");
    let seen = read_up_to(&mut stream, &id);
    assert_eq!(seen, [(String::new(), "1".to_owned())], "nothing is lost, and no gap is told");
    assert_eq!(figure(&b, "log_gaps"), 0);
}

#[test]
fn a_broker_that_forgets_everything_is_told_as_one_gap_on_all_nodes() {
    let mut redis = Redis::start();
    let (a, b) = (node(&redis, "a", ""), node(&redis, "b", ""));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=x"));
    publish(&a, "1").unwrap();
    // A look at the log must have come after the event, so that the loss can be told from a start.
    eventually("the log was looked at", || (figure(&b, "backplane_nodes") == 2).then_some(()));
    std::thread::sleep(Duration::from_millis(2500));
    redis.crash_and_restart();
    let id = publish_at_last(&a, "2");
    for stream in &mut streams {
        let seen = read_up_to(stream, &id);
        assert!(gaps(&seen) <= 1, "{seen:?}");
    }
    for node in [&a, &b] {
        eventually("the gap is counted", || (figure(node, "log_gaps") == 1).then_some(()));
    }
    // The gap may be found after the event, which then came before it.
    let id = publish_at_last(&b, "3");
    for stream in &mut streams {
        read_up_to(stream, &id);
    }
    let old = format!("/poll?channel=x&wait=0&after={}", "1-0");
    assert_eq!(get(a.address, &old).json()["gap"], true);
}

#[test]
fn a_log_that_is_emptied_under_a_blocked_read_is_noticed() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, "a", ""), node(&redis, "b", ""));
    publish(&a, "1").unwrap();
    for command in [&["FLUSHALL"][..], &["DEL", KEY]] {
        let before = [&a, &b].map(|node| figure(node, "log_gaps"));
        std::thread::sleep(Duration::from_millis(2500));
        redis.ask(command);
        publish_at_last(&a, &format!("after {command:?}"));
        for (node, before) in [&a, &b].into_iter().zip(before) {
            eventually("the gap is told", || (figure(node, "log_gaps") == before + 1).then_some(()));
        }
    }
}

#[test]
fn a_node_that_the_log_was_trimmed_past_is_told_so_and_no_other() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, "a", ""), node(&redis, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    publish(&a, "1").unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    b.signal(libc::SIGSTOP);
    for number in 2..20 {
        publish(&a, &number.to_string()).unwrap();
    }
    redis.ask(&["XTRIM", KEY, "MAXLEN", "1"]);
    b.signal(libc::SIGCONT);
    eventually("the gap is told", || (figure(&b, "log_gaps") == 1).then_some(()));
    let id = publish_at_last(&a, "last");
    let seen = read_up_to(&mut stream, &id);
    assert_eq!(gaps(&seen), 1, "{seen:?}");
    assert_eq!(figure(&a, "log_gaps"), 0);
}

#[test]
fn a_broker_that_hangs_for_a_while_costs_time_and_nothing_else() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, "a", ""), node(&redis, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    publish(&a, "1").unwrap();
    redis.signal(libc::SIGSTOP);
    let id = std::thread::scope(|scope| {
        let late = scope.spawn(|| publish(&a, "2"));
        std::thread::sleep(Duration::from_millis(700));
        redis.signal(libc::SIGCONT);
        late.join().unwrap().unwrap()
    });
    assert_eq!(read_up_to(&mut stream, &id), [(String::new(), "1".to_owned())]);
}

#[test]
fn publishers_are_told_the_truth_while_the_broker_hangs_for_long() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, "a", "[backplane]\npublish_timeout = \"1s\""), node(&redis, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let before = publish(&a, "before").unwrap();
    redis.signal(libc::SIGSTOP);
    let begun = Instant::now();
    let refusal = publish(&a, "k").unwrap_err();
    assert!(["unsure", "unavailable"].contains(&refusal.as_str()), "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    eventually("the broker is away", || (figure(&a, "backplane_up") == 0).then_some(()));
    assert_eq!(publish(&a, "never").unwrap_err(), "unavailable");
    // Clients stay, and histories answer.
    let answer = get(b.address, &format!("/poll?channel=x&wait=0&after={before}")).json();
    assert_eq!(answer["gap"], false);
    redis.signal(libc::SIGCONT);
    // Repeating with the key is exact.
    let id = publish_at_last(&a, "k");
    let last = publish_at_last(&a, "last");
    let seen = read_up_to(&mut stream, &last);
    let events: Vec<&str> = seen.iter().map(|(_, data)| data.as_str()).collect();
    assert_eq!(events, ["before", "k"], "{id}");
}

#[test]
fn a_broker_without_room_refuses_and_says_why() {
    let redis = Redis::start();
    let a = node(&redis, "a", "");
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = a.feed().call(json!({ "op": "publish", "channel": "x", "data": 1 })).unwrap_err();
    assert!(error.to_string().contains("OOM"), "{error}");
    assert_eq!(code(error), "unavailable");
    let batch = json!({ "op": "batch", "items": [{ "channel": "x", "data": 1 }, { "channel": "y", "data": 2 }] });
    assert_eq!(code(a.feed().call(batch).unwrap_err()), "unavailable");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    publish(&a, "1").unwrap();
}

#[test]
fn a_primary_that_became_a_replica_takes_no_writes() {
    let (redis, other) = (Redis::start(), Redis::start());
    let a = node(&redis, "a", "[backplane]\npublish_timeout = \"1s\"");
    publish(&a, "1").unwrap();
    redis.ask(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    // An event that is under way at this moment may have arrived or not.
    eventually("the node has noticed", || (figure(&a, "backplane_up") == 0).then_some(()));
    assert_eq!(publish(&a, "2").unwrap_err(), "unavailable");
    redis.ask(&["REPLICAOF", "NO", "ONE"]);
    publish_at_last(&a, "3");
}

#[test]
fn entries_that_a_broker_has_lost_are_told_as_a_gap_and_ids_go_on() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, "a", ""), node(&redis, "b", ""));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=x"));
    publish(&a, "kept").unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    let lost = publish(&a, "lost").unwrap();
    eventually("the log was looked at since", || {
        let before = figure(&a, "entries_read");
        std::thread::sleep(Duration::from_millis(1500));
        (before > 0).then_some(())
    });
    redis.ask(&["XDEL", KEY, &lost]);
    for node in [&a, &b] {
        eventually("the loss is told", || (figure(node, "log_gaps") >= 1).then_some(()));
    }
    let id = publish_at_last(&b, "next");
    assert!(id > lost);
    for stream in &mut streams {
        let seen = read_up_to(stream, &id);
        assert!(gaps(&seen) >= 1, "{seen:?}");
    }
}

#[test]
fn an_id_far_in_the_future_stops_nothing() {
    let redis = Redis::start();
    let a = node(&redis, "a", "");
    let mut stream = Stream::open(a.address, "/sse?channel=x");
    redis.ask(&["XADD", KEY, "4000000000000-0", "c", "x", "d", "1"]);
    assert_eq!(stream.next().unwrap().id, "4000000000000-0");
    let id = publish(&a, "2").unwrap();
    assert!(id.starts_with("4000000000000-"), "{id}");
    assert_eq!(stream.next().unwrap().id, id);
}
