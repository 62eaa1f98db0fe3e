//! The inputs of one turn and their order, and the reasons not to read a connection.

use super::*;
use crate::shard::waiting::Hold;

/// One turn of the shard alone, without one of the hub.
fn turn(model: &mut Model) {
    model.shard.turn().unwrap();
    model.shard.slots.check_invariants();
    model.shard.lanes.check_invariants();
}

#[test]
fn a_request_is_answered_after_the_hubs_messages_that_came_before_it() {
    let mut model = Model::new(1);
    let _other = model.open("/ws?channel=d:1");
    model.say(r#"{"op":"publish","channel":"d:1","data":"acknowledged"}"#);
    // The event waits in the queue to the shard. The client's request may follow it at once, before the shard's turn.
    let id = model.newest_on("d:1");
    let (slot, far) = model.come(None);
    (&far).write_all(b"GET /poll?channel=d:1&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    turn(&mut model);
    let answer = take(&far, 4096);
    assert!(answer.contains(&format!("\"events\":[],\"next\":\"{id}\"")), "{answer}");
    assert!(model.shard.slots[slot].holds().is_empty());
}

#[test]
fn a_reason_not_to_read_goes_alone() {
    let mut model = Model::new(1);
    let (slot, far) = model.open("/ws?channel=d:1");
    model.shard.slots[slot].hold(Hold::BACKEND | Hold::REPLIES);
    say_to(&far, r#"{"ping":1}"#);
    model.turns(5);
    // No bytes wait to be sent any more, but the backend has not answered.
    model.shard.slots.queue(slot);
    model.turns(5);
    assert_eq!(model.shard.slots[slot].holds(), Hold::BACKEND);
    assert!(!take(&far, 4096).contains("pong"));
    model.shard.slots[slot].release(Hold::BACKEND);
    model.shard.slots.read_later(slot);
    model.turns(5);
    assert!(take(&far, 4096).contains(r#"{"pong":1}"#));
}

#[test]
fn a_client_that_says_much_is_heard_over_several_turns() {
    const PINGS: usize = 10_000;
    let mut model = Model::new(1);
    model.configure(|config| {
        config.websocket.message_rate = 0;
        config.websocket.byte_rate = 0;
    });
    let (slot, far) = model.open("/ws?channel=d:1");
    take(&far, 64 * 1024);
    socket2::SockRef::from(&far).set_send_buffer_size(1 << 20).unwrap();
    let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(PINGS);
    (&far).write_all(&pings).unwrap();
    let before = model.shard.cx.counters.sent_bytes;
    let mut pongs = 0;
    let mut buffer = vec![0; 64 * 1024];
    for turns in 0..1000 {
        turn(&mut model);
        let waiting = model.shard.slots[slot].out_waiting();
        let new = (&far).read(&mut buffer).unwrap_or(0) / 2;
        assert!(waiting / 2 + new <= 2 * 4096, "one turn has a bound: {waiting} {new}");
        pongs += new;
        if pongs == PINGS {
            assert!(turns > 0, "more than one turn");
            assert_eq!(model.shard.cx.counters.sent_bytes - before, 2 * PINGS as u64);
            return;
        }
    }
    panic!("{pongs} pongs have come");
}

#[test]
fn a_drain_begins_after_the_events_that_came_before_it() {
    let mut model = Model::new(1);
    let (_, far) = model.open("/sse?channel=d:1");
    take(&far, 64 * 1024);
    model.publish_on("d:1", "last");
    // The event and the order to drain come in the same turn.
    hooks::work_off(&mut model.shard);
    hooks::begin_drain(&mut model.shard);
    model.turns(5);
    let told = take(&far, 64 * 1024);
    let places = ["data: last", "event: ringcast.bye"].map(|words| told.find(words));
    assert!(places[0].is_some() && places[0] < places[1], "{told}");
}
