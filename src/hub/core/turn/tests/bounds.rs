//! Bounds: of one line's effect, of publishers, of what waits for them, and of a sweep.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::super::*;
use super::MS;
use super::world::{World, world};
use crate::hub::core::LOG_TICKS_PER_SECOND;
use crate::hub::roles::Admission;
use crate::link::{HubMessage, ShardMessage};
use crate::logic::id::Id;
use crate::logic::line_budget::LineBudget;

/// A batch of `count` events on the channel `a`, numbered from 0.
fn batch(count: usize) -> String {
    let items: Vec<String> = (0..count).map(|n| format!("{{\"channel\":\"a\",\"data\":{n}}}")).collect();
    format!("{{\"op\":\"batch\",\"items\":[{}],\"ref\":1}}", items.join(","))
}

fn payloads(world: &mut World, shard: usize) -> Vec<String> {
    let payload = |message| match message {
        ShardMessage::Event(_, event) => Some(event.text().to_owned()),
        _ => None,
    };
    world.received(shard).into_iter().filter_map(payload).collect()
}

#[test]
fn a_long_line_goes_on_as_the_shards_have_room_and_is_answered_at_its_end() {
    let mut world = world(10_000);
    world.to_hub.send(HubMessage::Follow { shard: 1, local: 0, name: "a".into() });
    let (mut long, mut other) = (world.publisher(), world.publisher());
    let count = 2000;
    long.say(&batch(count));
    long.say(r#"{"op":"publish","channel":"a","data":"after","ref":2}"#);
    world.turn();
    other.say(r#"{"op":"publish","channel":"a","data":"other","ref":3}"#);
    let mut received = Vec::new();
    while received.len() < count + 2 {
        world.settle();
        let queued = world.queues[1].waiting_bytes();
        assert!(queued < 40_000, "{queued} bytes of 130,000 wait");
        assert!(received.len() > count || world.core.congested_since.is_some() || queued > 0, "{}", received.len());
        if received.len() + 600 < count {
            assert!(long.lines().is_empty() && other.lines().is_empty(), "no other line comes between");
        }
        received.extend(payloads(&mut world, 1));
    }
    world.settle();
    assert!(received[..count].iter().enumerate().all(|(n, payload)| *payload == n.to_string()));
    let lines = long.lines();
    let ids: Vec<Id> =
        lines[0]["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().parse().unwrap()).collect();
    assert!(ids.len() == count && ids.is_sorted_by(|a, b| a < b), "one id for each, in order");
    assert_eq!((lines[1]["ref"].clone(), other.refs()), (json!(2), vec![json!(3)]));
}

#[test]
fn a_long_line_takes_several_turns_and_is_published_whole_though_its_publisher_goes() {
    let mut world = world(1 << 30);
    world.to_hub.send(HubMessage::Follow { shard: 1, local: 0, name: "a".into() });
    world.settle();
    let mut far = world.publisher();
    far.say(r#"{"op":"kick","user":"u","ref":0}"#);
    far.say(&batch(2000));
    // Each look at the clock moves it on by half a millisecond, and there is one for every 32 events.
    world.time.set((Duration::ZERO, MS / 2));
    let mut turns = 0;
    while world.core.applying.is_none() {
        assert_eq!(world.turn(), Next::Again);
    }
    while world.core.applying.is_some() && turns < 10 {
        let before = world.core.figures.events_published.load(Ordering::Relaxed);
        world.turn();
        turns += 1;
        assert!(world.core.figures.events_published.load(Ordering::Relaxed) - before <= 3 * 32);
    }
    assert_eq!(turns, 10, "the line is not over");
    let number = far.number;
    world.core.turn(&world.ports, &mut vec![Mark::Broken(number)]);
    let mut next = world.publisher();
    assert_eq!(next.number, number, "the number is another publisher's");
    next.say(r#"{"op":"publish","channel":"a","data":"next","ref":7}"#);
    world.time.set((Duration::ZERO, Duration::ZERO));
    world.settle();
    assert_eq!(next.refs(), [7]);
    let received = payloads(&mut world, 1);
    assert_eq!((received.len(), received.last().map(String::as_str)), (2001, Some("next")));
    assert!(world.core.questions.deadline().is_none() || world.core.questions.expire(world.core.now.instant).is_none());
}

#[test]
fn so_many_publishers_are_let_in_and_the_next_one_is_told_so() {
    let mut world = world(1 << 20);
    world.core.admission = Admission { publishers_max: 2, ..Admission::default() };
    let path = world.folder.path().join("feed.sock");
    let own = UnixStream::pair().unwrap();
    world.core.open_own(own.0.into());
    let connect = |world: &mut World| {
        let stream = UnixStream::connect(&path).unwrap();
        world.settle();
        stream
    };
    let kept = [connect(&mut world), connect(&mut world)];
    let refused = |mut stream: UnixStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(r#"{"error":{"code":"full""#), "{text}");
    };
    refused(connect(&mut world));
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let figures = world.core.figures.clone();
    assert_eq!((count(&figures.publishers), count(&figures.publishers_refused)), (2, 1));
    drop(kept);
    world.settle();
    let _again = connect(&mut world);
    assert_eq!((count(&figures.publishers), count(&figures.publishers_refused)), (1, 1));
    // The last descriptors are kept for everything else.
    world.core.admission = Admission { descriptors_max: 40, ..Admission::default() };
    refused(connect(&mut world));
}

#[test]
fn lines_about_publishers_are_bounded_per_second() {
    let mut world = world(1 << 20);
    world.core.log_lines = LineBudget::new(2, LOG_TICKS_PER_SECOND);
    let path = world.folder.path().join("feed.sock");
    let streams: Vec<_> = (0..5).map(|_| UnixStream::connect(&path).unwrap()).collect();
    world.settle();
    assert_eq!(world.core.figures.lines_suppressed.load(Ordering::Relaxed), 3);
    drop(streams);
}

#[test]
fn while_too_many_answers_wait_only_publishers_that_read_go_on() {
    let mut world = world(1 << 20);
    let (mut deaf, mut reading) = (world.publisher(), world.publisher());
    let data = "x".repeat(10_000);
    for _ in 0..50 {
        deaf.say(&format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":\"{data}\"}}"));
        world.settle();
    }
    world.core.publishers.limit_to(100_000);
    for n in 0..4 {
        deaf.say(&format!("{{\"op\":\"history\",\"channel\":\"a\",\"ref\":{n}}}"));
    }
    world.settle();
    assert!(world.core.publishers.are_full());
    let waiting = world.core.publishers.waiting_bytes();
    assert!(waiting < 700_000, "{waiting} bytes of two megabytes wait");
    for n in 0..10 {
        reading.say(&format!("{{\"op\":\"history\",\"channel\":\"a\",\"ref\":{n}}}"));
        world.settle();
        let line = &reading.lines()[0];
        assert_eq!((&line["ref"], &line["more"]), (&json!(n), &json!(true)), "the answer is a short one");
    }
    assert_eq!(world.turn(), Next::Wait, "nothing turns in vain");
    let mut refs = Vec::new();
    while refs.len() < 4 {
        refs.extend(deaf.refs());
        world.settle();
    }
    assert_eq!(refs, [0, 1, 2, 3]);
    assert_eq!(world.core.publishers.waiting_bytes(), 0);
}

#[test]
fn a_sweep_is_divided_over_turns() {
    let mut world = world(1 << 20);
    for local in 0..2000 {
        world.to_hub.send(HubMessage::Follow { shard: 0, local, name: format!("c{local}").as_str().into() });
    }
    world.settle();
    world.pass(Duration::from_secs(2));
    world.time.set((world.time.get().0, MS / 2));
    world.turn();
    let left = world.core.sweep_left;
    assert!(left > 1000, "{left} channels are left");
    assert_eq!(world.turn(), Next::Again);
    assert!(world.core.sweep_left < left);
    world.time.set((world.time.get().0, Duration::ZERO));
    world.settle();
    assert_eq!(world.core.sweep_left, 0);
}
