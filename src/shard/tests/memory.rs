//! Slow clients and the memory that they make the shard hold.

use std::os::unix::net::UnixStream;

use super::super::account::{LAST_WORDS_MAX, used};
use super::super::connection::{Flags, State};
use super::super::merge::PAGE_FRAMED_MAX;
use super::*;

impl Model {
    /// Opens a WebSocket on some channels and publishes on the first one until the kernel takes no more for it.
    fn open_stuck(&mut self, channels: &str, data: &str) -> (u32, UnixStream) {
        let (slot, far) = self.open(&format!("/ws?channel={channels}"));
        let first = channels.split(',').next().unwrap();
        for _ in 0..200 {
            if self.shard.slots[slot].flags.intersects(Flags::BLOCKED) {
                return (slot, far);
            }
            self.publish_on(first, data);
            self.turns(2);
        }
        panic!("the kernel takes everything");
    }

    fn set_memory(&mut self, bytes: u64) {
        self.shard.cx.settings.lag_memory = bytes;
    }

    fn used(&self) -> u64 {
        used(&self.shard.slots, &self.shard.lanes)
    }

    fn is_open(&self, slot: u32) -> bool {
        self.shard.slots[slot].state == State::WebSocket
    }

    fn cut(&self) -> u64 {
        self.shard.cx.counters.memory_disconnected
    }
}

/// Everything that a client gets before its connection ends, which must be soon.
fn rest_of(model: &mut Model, far: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..1000 {
        model.turn();
        match (&*far).read(&mut buffer) {
            Ok(0) => return all,
            Ok(length) => {
                all.extend_from_slice(&buffer[..length]);
                if all.contains(&0x88) {
                    // Answers the close frame. The server may have gone by now.
                    let _ = (&*far).write_all(b"\x88\x80\0\0\0\0");
                }
            }
            Err(_) => {}
        }
    }
    panic!("the connection does not end");
}

fn has_close_code(bytes: &[u8], code: u16) -> bool {
    bytes.windows(4).any(|four| four[0] == 0x88 && four[2..] == code.to_be_bytes())
}

#[test]
fn a_client_that_is_cut_off_within_a_long_frame_leaves_no_copy_of_it() {
    let mut model = Model::new(1);
    let (slot, far) = model.open_stuck("d:1", &"x".repeat(30_000));
    assert!(model.shard.slots[slot].mid_frame().is_some());
    let mut most = 0;
    while model.shard.cx.counters.slow_disconnected == 0 {
        model.publish_on("d:1", &"x".repeat(30_000));
        model.turn();
        most = most.max(model.shard.slots.buffers.output);
    }
    assert!(most <= LAST_WORDS_MAX, "{most} bytes were copied");
    assert!(!model.is_open(slot));
    assert_eq!(model.shard.cx.counters.closed[Reason::Slow as usize], 1);
    let bytes = rest_of(&mut model, &far);
    assert!(!has_close_code(&bytes, 1013), "no goodbye can follow within a frame");
}

#[test]
fn a_client_that_is_cut_off_within_a_short_frame_is_told_why() {
    let mut model = Model::new(1);
    let (_, far) = model.open_stuck("d:1", &"x".repeat(1000));
    while model.shard.cx.counters.slow_disconnected == 0 {
        model.publish_on("d:1", &"x".repeat(1000));
        model.turn();
    }
    let bytes = rest_of(&mut model, &far);
    assert!(has_close_code(&bytes, 1013), "the last frame says 1013");
}

#[test]
fn a_kicked_client_gets_the_rest_of_its_frame_while_there_is_memory() {
    for (memory, is_told) in [(u64::MAX, true), (8192, false)] {
        let mut model = Model::new(1);
        let (slot, far) = model.open_stuck("g:1", &"x".repeat(30_000));
        assert!(model.shard.slots[slot].mid_frame().is_some());
        // The budget must not be used up before, because the client would be cut off for that.
        let before = model.used();
        model.set_memory(memory.max(before));
        model.say(r#"{"op":"kick","channel":"g:1"}"#);
        model.turns(3);
        assert!(!model.is_open(slot));
        assert_eq!(model.shard.slots[slot].out_waiting() > 10_000, is_told, "the rest is copied");
        assert_eq!(model.shard.cx.counters.closed[Reason::Kicked as usize], 1);
        model.set_memory(u64::MAX);
        let bytes = rest_of(&mut model, &far);
        assert_eq!(has_close_code(&bytes, 4003), is_told);
    }
}

#[test]
fn a_client_that_is_moved_on_without_memory_for_its_frame_is_dropped() {
    for channel in ["g:1", "l:1"] {
        let mut model = Model::new(1);
        let (slot, _far) = model.open_stuck(channel, &"x".repeat(30_000));
        // The walk comes with the event that uses the budget up.
        model.set_memory(model.used() + 40_000);
        model.publish_on(channel, &"x".repeat(30_000));
        model.turns(10);
        assert!(!model.is_open(slot), "{channel}");
        assert_eq!(model.used(), 0, "nothing is kept");
    }
}

#[test]
fn those_furthest_behind_are_cut_off_first() {
    let mut model = Model::new(1);
    let (near, _near_far) = model.open_stuck("g:1", &"x".repeat(1500));
    let (far, _far_far) = model.open_stuck("g:2,l:1,l:2", &"x".repeat(1500));
    for channel in ["g:2", "l:1", "l:2"] {
        (0..4).for_each(|_| model.publish_on(channel, &"x".repeat(1500)));
        model.turns(3);
    }
    let (reading, reader) = model.open("/ws?channel=g:1,g:2,l:1,l:2");
    assert_eq!(model.cut(), 0);
    model.set_memory(12_000);
    model.turns(20);
    assert_eq!(model.cut(), 1);
    assert!(model.is_open(near) && !model.is_open(far) && model.is_open(reading));
    let limit = model.shard.cx.settings.lag_memory;
    assert!(model.used() <= limit - limit / 8, "an eighth is free: {} of {limit}", model.used());
    model.publish_on("g:2", "after");
    model.turns(3);
    assert!(take(&reader, 64 * 1024).contains("after"), "the others get their events");
}

#[test]
fn those_that_hold_the_most_input_are_cut_off_where_buffers_take_the_most() {
    let mut model = Model::new(1);
    let lengths = [3_000, 40_000, 14_000, 25_000];
    let clients = lengths.map(|length: u16| {
        let (slot, far) = model.open("/ws?channel=g:1");
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(u16::MAX.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(vec![b'x'; usize::from(length)]);
        far.set_nonblocking(false).unwrap();
        for part in frame.chunks(2000) {
            (&far).write_all(part).unwrap();
            model.turn();
        }
        (slot, far)
    });
    model.turns(5);
    let input = model.shard.slots.buffers.input;
    assert!((82_000..300_000).contains(&input), "{input}");
    model.set_memory(model.used() - 1);
    model.turns(10);
    assert_eq!(model.cut(), 1);
    let open = clients.each_ref().map(|(slot, _)| model.is_open(*slot));
    assert_eq!(open, [true, false, true, true], "the one that holds the most is cut off");
}

#[test]
fn logs_drop_what_no_reader_needs_before_anybody_is_cut_off() {
    let mut model = Model::new(1);
    let (slot, _far) = model.open_stuck("g:1", &"x".repeat(1000));
    // The log has more than the client still needs, because an earlier position may be resumed from.
    let lane = model.shard.slots[slot].first.lane;
    let behind = model.shard.lanes[lane].log.head() - model.shard.slots[slot].first.cursor;
    assert!((1..3000).contains(&behind), "{behind}");
    let before = model.used();
    assert!(before > 6000, "{before}");
    model.set_memory(before - 1);
    model.turns(10);
    assert_eq!(model.cut(), 0);
    assert!(model.is_open(slot) && model.used() < 4500, "{}", model.used());
}

#[test]
fn without_anybody_to_cut_off_the_shard_goes_on() {
    let mut model = Model::new(1);
    let (slot, far) = model.open("/ws?channel=g:1");
    model.set_memory(1);
    for text in ["one", "two", "three"] {
        model.publish_on("g:1", text);
        model.turns(5);
        assert!(take(&far, 4096).contains(text));
    }
    assert!(model.is_open(slot));
    say_to(&far, r#"{"ping":1}"#);
    model.turns(5);
    assert!(take(&far, 4096).contains(r#"{"pong":1}"#));
}

#[test]
fn a_page_that_grows_manifold_when_it_is_framed_comes_in_parts() {
    let mut model = Model::new(1);
    // In JSON each of these characters takes six bytes.
    let data = "\\u0001".repeat(9000);
    (0..12).for_each(|_| model.publish_on("d:1", &data));
    let (slot, far) = model.open("/ws?channel=d:1&last_event_id=1-0");
    let held = model.shard.slots[slot].out_waiting();
    assert!((PAGE_FRAMED_MAX / 3..=PAGE_FRAMED_MAX).contains(&held), "{held}");
    let mut all = String::new();
    for _ in 0..2000 {
        model.turn();
        all.push_str(&take(&far, 64 * 1024));
        assert!(model.shard.slots.buffers.output <= PAGE_FRAMED_MAX + 4096, "the memory of a page");
    }
    assert_eq!(all.matches(r#""channel":"d:1""#).count(), 12);
    let mut poll = String::new();
    let mut after = "1-0".to_owned();
    let mut answers = 0;
    while poll.matches(r#""channel":"d:1""#).count() < 12 {
        let (_, far) = model.ask(&format!("GET /poll?channel=d:1&wait=0&after={after} HTTP/1.1\r\nHost: x\r\n"));
        let mut answer = String::new();
        while !answer.contains(r#""next":""#) {
            model.turn();
            answer.push_str(&take(&far, 64 * 1024));
        }
        after = answer.split(r#""next":""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
        poll.push_str(&answer);
        answers += 1;
        assert!(answers < 20, "polls go on after what they got");
    }
    assert_eq!(poll.matches(r#""channel":"d:1""#).count(), 12, "each event comes once");
}

#[test]
fn a_large_event_has_a_page_of_its_own() {
    let mut model = Model::new(1);
    for size in [1000, 200_000, 1000] {
        model.publish_on("d:1", &"x".repeat(size));
    }
    let (slot, far) = model.open("/ws?channel=d:1&last_event_id=1-0");
    let mut most = 0;
    let mut bytes = 0;
    for _ in 0..2000 {
        model.turn();
        most = most.max(model.shard.slots[slot].out_waiting());
        bytes += take(&far, 64 * 1024).len();
    }
    assert!(bytes > 202_000, "{bytes}");
    assert!(most < 200_500, "no other event is in the large one's page: {most}");
}
