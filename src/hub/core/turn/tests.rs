//! Turns over socket pairs, step by step. The test acts as the driver.

mod bounds;
mod log;
mod world;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;
use crate::hub::core::sweep::SWEEP_EVERY;
use crate::hub::roles::Admission;
use crate::link::{ConnectionId, HubMessage, Listening, Seen, ShardMessage, Speaker, upstream_weight};
use crate::logic::event::{Draft, Kind};
use crate::sys::socket;

use world::{Far, World, world};

const MS: Duration = Duration::from_millis(1);

fn speaker(shard: u16) -> Speaker {
    Speaker { connection: ConnectionId { shard, slot: 1, generation: 2 }, user: None }
}

#[test]
fn a_kick_that_takes_long_holds_back_answers_and_not_lines() {
    let mut world = world(1 << 20);
    world.to_hub.send(HubMessage::Follow { shard: 0, local: 7, name: "a".into() });
    let mut far = world.publisher();
    far.say(r#"{"op":"publish","channel":"a","data":0,"ref":0}"#);
    far.say(r#"{"op":"kick","user":"u","ref":1}"#);
    far.say(r#"{"op":"publish","channel":"a","data":1,"ref":2}"#);
    far.say(r#"{"op":"unsubscribe","user":"u","channel":"a","ref":3}"#);
    far.say(r#"{"op":"connections","ref":4}"#);
    far.say(r#"{"op":"fly","ref":5}"#);
    world.settle();
    assert_eq!(far.refs(), [0]);
    let messages = world.received(0);
    let is_event = |message: &&ShardMessage| matches!(message, ShardMessage::Event(7, _));
    assert_eq!(messages.iter().filter(is_event).count(), 2, "the line after the kick was carried out");
    let asked = world.asked(1);
    assert_eq!(asked.len(), 3);
    let answer = |world: &mut World, message| {
        world.to_hub.send(message);
        world.settle();
    };
    // The last question is answered first, and then each question by one shard after the other.
    for _ in 0..2 {
        answer(&mut world, HubMessage::Seen { request: asked[2], seen: Seen::Rows { rows: vec![], matched: 3 } });
    }
    for count in [2, 3] {
        assert_eq!(far.refs().len(), 0);
        answer(&mut world, HubMessage::Kicked { request: asked[0], count });
    }
    let lines = far.lines();
    assert_eq!((lines[0].clone(), lines[1]["ref"].clone()), (json!({ "ref": 1, "ok": true, "kicked": 5 }), json!(2)));
    assert_eq!(lines.len(), 2);
    for _ in 0..2 {
        answer(&mut world, HubMessage::Kicked { request: asked[1], count: 0 });
    }
    let lines = far.lines();
    assert_eq!(lines[0]["unsubscribed"], 0);
    assert_eq!(lines[1], json!({ "ref": 4, "ok": true, "matched": 6, "connections": [] }));
    assert_eq!(lines[2]["error"]["code"], "unknown_op");
}

#[test]
fn shards_have_five_seconds_to_answer() {
    let mut world = world(1 << 20);
    let mut far = world.publisher();
    far.say("{\"op\":\"kick\",\"user\":\"u\",\"ref\":1}\n{\"op\":\"stats\",\"ref\":2}");
    world.settle();
    assert!(world.core.wants.iter().any(|want| matches!(want, Want::Tick(time) if *time <= SWEEP_EVERY)));
    let request = world.asked(0)[0];
    world.to_hub.send(HubMessage::Kicked { request, count: 4 });
    world.pass(Duration::from_millis(4999));
    world.settle();
    assert_eq!(far.refs().len(), 0);
    world.pass(MS);
    world.settle();
    let lines = far.lines();
    assert_eq!(lines[0]["kicked"], 4);
    assert!(lines[1]["stats"]["node"].is_object());
    world.to_hub.send(HubMessage::Kicked { request, count: 4 });
    world.settle();
    assert_eq!(far.lines().len(), 0, "a shard that answers too late changes nothing");
}

#[test]
fn so_many_questions_of_one_publisher_wait_and_the_rest_of_its_lines() {
    let mut world = world(1 << 20);
    let mut far = world.publisher();
    for n in 0..20 {
        far.say(&format!("{{\"op\":\"kick\",\"user\":\"u\",\"ref\":{n}}}"));
    }
    world.settle();
    let asked = world.asked(0);
    assert_eq!(asked.len(), 16);
    assert!(!world.wanted(Want::Readable(far.number)), "it is not read meanwhile");
    for request in [asked[0], asked[0], asked[1], asked[1]] {
        world.to_hub.send(HubMessage::Kicked { request, count: 0 });
    }
    world.settle();
    assert_eq!((far.refs(), world.asked(0).len()), (vec![json!(0), json!(1)], 2));
    // The publisher's questions are forgotten when it has gone.
    drop(far);
    world.pass(Duration::from_secs(6));
    world.settle();
    world.settle();
    assert_eq!(world.core.questions.deadline(), None);
}

#[test]
fn a_flood_of_lines_keeps_others_waiting_only_for_its_share_of_a_turn() {
    let mut world = world(1 << 30);
    let (mut flooding, mut modest) = (world.publisher(), world.publisher());
    let sent = 20_000;
    flooding.flood("flood", sent as usize);
    modest.say(r#"{"op":"publish","channel":"a","data":1,"ref":1}"#);
    // The clock stands still, so the count decides.
    assert_eq!(world.turn(), Next::Again);
    assert_eq!(modest.refs(), [1], "256 lines and then those of others");
    let done = |world: &World| world.core.figures.events_published.load(Ordering::Relaxed);
    assert!(done(&world) < sent);
    // Each look at the clock moves it on by half a millisecond.
    world.time.set((Duration::ZERO, MS / 2));
    modest.say(r#"{"op":"publish","channel":"a","data":1,"ref":2}"#);
    let before = done(&world);
    for _ in 0..3 {
        assert_eq!(world.turn(), Next::Again);
    }
    assert_eq!(modest.refs(), [2]);
    assert!(done(&world) - before <= 3 * 64, "no turn takes longer than its time");
    world.time.set((Duration::ZERO, Duration::ZERO));
    while done(&world) < sent + 2 {
        flooding.write_rest();
        world.settle();
    }
}

#[test]
fn shards_messages_from_before_a_line_are_heard_before_it_is_carried_out() {
    let mut world = world(1 << 20);
    for _ in 0..HEARD_MAX {
        world.to_hub.send(HubMessage::Unfollow { shard: 1, local: 0 });
    }
    world.to_hub.send(HubMessage::Follow { shard: 0, local: 3, name: "a".into() });
    let mut far = world.publisher();
    far.say(r#"{"op":"publish","channel":"a","data":1,"ref":1}"#);
    assert_eq!(world.turn(), Next::Again);
    assert_eq!((world.core.heard, far.refs().len()), (HEARD_MAX as u64, 0), "the turn's budget is spent before");
    world.settle();
    assert_eq!(far.refs(), [1]);
    assert!(matches!(world.received(0)[..], [ShardMessage::Followed(3, _), ShardMessage::Event(3, _)]));
}

#[test]
fn a_full_queue_holds_publishers_back_and_nothing_is_lost() {
    let mut world = world(10_000);
    world.to_hub.send(HubMessage::Follow { shard: 1, local: 0, name: "a".into() });
    let mut far = world.publisher();
    let sent = 50_000;
    far.flood("a", sent);
    let (mut received, mut waits) = (0, 0);
    while received < sent {
        world.settle();
        let figures = &world.core.figures;
        if world.core.congested_since.is_some() {
            waits += 1;
            assert_eq!(figures.congestions.load(Ordering::Relaxed), waits);
            assert_eq!(figures.congested_shard.load(Ordering::Relaxed), 1);
            assert!(!world.wanted(Want::Readable(far.number)), "it is not read");
            let queued = world.queues[1].waiting_bytes();
            assert!(queued < 100_000, "{queued} bytes wait");
            world.pass(MS * 3);
        }
        received += world.received(1).iter().filter(|message| matches!(message, ShardMessage::Event(0, _))).count();
        far.write_rest();
    }
    world.settle();
    assert!(waits > 10 && received == sent, "{waits} waits, {received} of {sent}");
    assert_eq!(world.core.figures.congested_ms.load(Ordering::Relaxed), waits * 3);
    assert_eq!(world.core.congested_since, None);
}

#[test]
fn a_full_queue_keeps_clients_publishes_on_account() {
    let mut world = world(130);
    world.to_hub.send(HubMessage::Follow { shard: 1, local: 0, name: "a".into() });
    world.settle();
    world.received(1);
    let publish = |world: &mut World| {
        let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; 100].into() };
        let from = speaker(0);
        world.to_hub.send(HubMessage::Publish { from, channel: "a".into(), draft, reference: Some("7".into()) });
        world.settle();
        world.received(0)
    };
    let bytes = upstream_weight(100);
    assert!(
        matches!(publish(&mut world)[..], [ShardMessage::Published { .. }, ShardMessage::Heard(heard)] if heard == bytes)
    );
    assert!(matches!(publish(&mut world)[..], [ShardMessage::Published { .. }]), "shard 1 has not taken the first");
    assert!(!world.ports.inbox.wake.is_rung());
    world.received(1);
    assert!(world.ports.inbox.wake.is_rung(), "it rings for room");
    world.settle();
    assert!(matches!(world.received(0)[..], [ShardMessage::Heard(heard)] if heard == bytes));
}

#[test]
fn answers_that_are_not_read_hold_the_publisher_back_and_come_whole_and_in_order() {
    let mut world = world(1 << 20);
    let mut far = world.publisher();
    let data = "x".repeat(5000);
    for _ in 0..50 {
        far.say(&format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":\"{data}\"}}"));
        world.settle();
    }
    // Each answer is a quarter of a megabyte.
    for n in 0..100 {
        far.say(&format!("{{\"op\":\"history\",\"channel\":\"a\",\"ref\":{n}}}"));
    }
    world.settle();
    assert!(world.wanted(Want::Writable(far.number)) && !world.wanted(Want::Readable(far.number)));
    let waiting = world.core.publishers.unsent_bytes(far.number);
    assert!(waiting < 1 << 20, "{waiting} bytes of 25 MB wait");
    let mut refs = Vec::new();
    while refs.len() < 100 {
        let lines = far.lines();
        assert!(lines.iter().all(|line| line["events"].as_array().unwrap().len() == 50));
        refs.extend(lines.into_iter().map(|line| line["ref"].as_u64().unwrap()));
        world.settle();
    }
    assert!(refs.into_iter().eq(0..100));
    far.say(r#"{"op":"history","channel":"none","ref":"last"}"#);
    world.settle();
    assert_eq!(far.refs(), ["last"]);
}

#[test]
fn a_message_is_on_account_until_every_listeners_socket_has_it() {
    let mut world = world(1 << 20);
    let (mut reading, mut slow) = (world.publisher(), world.publisher());
    for far in [&mut reading, &mut slow] {
        far.say(r#"{"op":"listen","what":["messages"],"ref":1}"#);
    }
    world.settle();
    assert_eq!(reading.lines(), [json!({ "ref": 1, "ok": true })]);
    let heard = |world: &mut World, shard| {
        let bytes = |message| match message {
            ShardMessage::Heard(bytes) => bytes,
            ShardMessage::Listening(Listening { messages: true, .. }) => 0,
            other => panic!("{other:?}"),
        };
        world.received(shard).into_iter().map(bytes).sum::<usize>()
    };
    // One of the sockets fills up. A message that only one of the listeners has stays on the account.
    let data = format!("\"{}\"", "x".repeat(10_000));
    let mut said = 0;
    while !world.wanted(Want::Writable(slow.number)) {
        world.to_hub.send(HubMessage::Said { from: speaker(1), data: data.as_str().into() });
        world.turn();
        said += 1;
        assert_eq!(reading.lines().len(), 1);
    }
    world.to_hub.send(HubMessage::Said { from: speaker(1), data: "2".into() });
    world.settle();
    assert_eq!(reading.lines()[0], json!({ "op": "message", "conn": "1.1.2", "data": 2 }));
    let weight = upstream_weight(data.len());
    assert_eq!(heard(&mut world, 1), (said - 1) * weight);
    // The messages of a listener that has gone are released, and the shards hear that only one is left.
    drop(slow);
    world.settle();
    assert_eq!(heard(&mut world, 1), weight + upstream_weight(1));
    drop(reading);
    world.settle();
    assert!(
        world
            .received(0)
            .iter()
            .any(|message| matches!(message, ShardMessage::Listening(Listening { messages: false, .. })))
    );
}

#[test]
fn a_listener_that_hears_nothing_any_more_may_publish_until_an_answer_is_due() {
    let mut world = world(1 << 20);
    let mut far = world.publisher();
    far.say(r#"{"op":"listen","what":["messages","connections"]}"#);
    far.say(r#"{"op":"trace","channel":"a"}"#);
    far.stream.shutdown(Shutdown::Read).unwrap();
    world.settle();
    world.received(1);
    for _ in 0..2 {
        world.to_hub.send(HubMessage::Said { from: speaker(1), data: "1".into() });
        world.settle();
    }
    assert!(matches!(
        world.received(1)[..],
        [
            ShardMessage::Listening(Listening { messages: false, connections: false, .. }),
            ShardMessage::Heard(_),
            ShardMessage::Heard(_)
        ]
    ));
    assert_eq!(world.core.figures.messages_unheard.load(Ordering::Relaxed), 1);
    far.say(r#"{"op":"publish","channel":"a","data":1}"#);
    world.settle();
    assert_eq!(world.core.figures.events_published.load(Ordering::Relaxed), 1);
    far.say(r#"{"op":"publish","channel":"a","data":1,"ref":1}"#);
    world.settle();
    assert!(world.wanted(Want::Closed(far.number)));
}

#[test]
fn a_publisher_that_ends_gets_its_answers_and_then_the_end() {
    let mut world = world(1 << 20);
    let (mut asking, mut cut) = (world.publisher(), world.publisher());
    asking.say(r#"{"op":"kick","user":"u","ref":1}"#);
    cut.stream.write_all(b"{\"op\":\"publish\",").unwrap();
    for far in [&asking, &cut] {
        far.stream.shutdown(Shutdown::Write).unwrap();
    }
    while !world.wanted(Want::Closed(cut.number)) {
        world.turn();
    }
    let mut text = String::new();
    cut.stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with(r#"{"error":{"code":"cut""#), "{text}");
    let request = world.asked(0)[0];
    for _ in 0..2 {
        assert!(!world.wanted(Want::Closed(asking.number)));
        world.to_hub.send(HubMessage::Kicked { request, count: 1 });
        world.turn();
    }
    assert!(world.wanted(Want::Closed(asking.number)));
    text.clear();
    asking.stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "{\"ref\":1,\"ok\":true,\"kicked\":2}\n");
    assert_eq!(world.core.figures.feed_errors.load(Ordering::Relaxed), 1);
}

#[test]
fn users_are_let_in_as_the_configuration_says() {
    let mut world = world(1 << 20);
    let own = socket::peer(UnixStream::pair().unwrap().0.as_fd()).unwrap().uid;
    let path = world.folder.path().join("feed.sock");
    let connect = |world: &mut World, allowed_users: &[u32], readers: &[u32]| {
        world.core.admission =
            Admission { allowed_users: allowed_users.into(), readers: readers.into(), ..Admission::default() };
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_nonblocking(true).unwrap();
        world.settle();
        Far::new(stream, usize::MAX)
    };
    let publishers = |world: &World| world.core.figures.publishers.load(Ordering::Relaxed);
    let mut stranger = connect(&mut world, &[own + 1], &[]);
    let mut text = String::new();
    stranger.stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with(r#"{"error":{"code":"forbidden""#), "{text}");
    assert_eq!(publishers(&world), 0);
    let mut reader = connect(&mut world, &[own], &[own]);
    reader.say("{\"op\":\"publish\",\"channel\":\"a\",\"data\":1}\n{\"op\":\"history\",\"channel\":\"a\",\"ref\":1}");
    world.settle();
    let lines = reader.lines();
    assert_eq!((&lines[0]["error"]["code"], &lines[1]["ok"]), (&json!("forbidden"), &json!(true)));
    let mut publisher = connect(&mut world, &[own], &[]);
    publisher.say(r#"{"op":"publish","channel":"a","data":1,"ref":1}"#);
    world.settle();
    assert_eq!((publisher.refs(), publishers(&world)), (vec![json!(1)], 2));
    drop((publisher, reader));
    world.settle();
    assert_eq!(publishers(&world), 0);
}

#[test]
fn the_server_is_told_when_all_shards_have_let_their_clients_go() {
    let mut world = world(1 << 20);
    world.to_hub.send(HubMessage::Drained { shard: 0, cut: 3 });
    world.settle();
    assert!(world.drained.is_empty());
    world.to_hub.send(HubMessage::Drained { shard: 1, cut: 4 });
    world.settle();
    world.settle();
    assert_eq!(world.drained.try_iter().collect::<Vec<_>>(), [7]);
    world.to_hub.send(HubMessage::Stop);
    assert_eq!(world.turn(), Next::Stop);
}
