//! What one turn does at most, whatever clients send, and what a client holds at most.

use super::*;
use crate::logic::auth::{KeyMaterial, Keyring, Rules};
use crate::shard::turn::LISTED_MAX;

/// The most requests on a hundred channels that a turn carries out: each costs twice its channels.
const POLLS_MAX: u64 = 4096 / 200 + 1;
/// The most tokens that a turn looks at.
const TOKENS_MAX: u64 = 4096 / 64 + 1;

/// Has the far end of a connection send as much as fits without waiting; returns the number of bytes.
fn send_much(mut far: &UnixStream, bytes: &[u8]) -> usize {
    socket2::SockRef::from(far).set_send_buffer_size(1 << 20).unwrap();
    far.write(bytes).unwrap()
}

/// A client's text message.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Turns until a counter has come to a number; returns by how much it grew in one turn at most.
fn growth(model: &mut Model, far: &UnixStream, until: u64, counter: impl Fn(&Model) -> u64) -> u64 {
    let mut most = 0;
    for _ in 0..100_000 {
        let before = counter(model);
        model.hear_shard();
        model.shard.turn().unwrap();
        most = most.max(counter(model) - before);
        take(far, 1 << 20);
        if counter(model) >= until {
            return most;
        }
    }
    panic!("only {} have come", counter(model));
}

#[test]
fn a_turn_looks_at_few_tokens() {
    const TOKENS: u64 = 500;
    let mut model = Model::new(1);
    model.configure(|config| config.limits.token_tries = 1000);
    let mut keyring = Keyring::new(Rules::default());
    keyring.add(None, "HS256", &KeyMaterial::Secret(b"a secret of at least 32 bytes, yes".to_vec())).unwrap();
    model.shard.access.keyring = Some(Arc::new(keyring));
    let (_, far) = model.open("/ws?channel=d:1");
    let all = frame(r#"{"token":"bad"}"#).repeat(TOKENS as usize);
    assert_eq!(send_much(&far, &all), all.len());
    let most = growth(&mut model, &far, TOKENS, |model| model.shard.cx.counters.tokens_refused);
    assert!(most <= TOKENS_MAX, "{most} tokens in one turn");
}

#[test]
fn a_turn_carries_out_few_requests_on_many_channels() {
    const POLLS: u64 = 200;
    let mut model = Model::new(1);
    let names: Vec<String> = (0..100).map(|number| format!("d:{number}")).collect();
    let (_, far) = model.come(None);
    model.turns(2);
    let request = format!("GET /poll?wait=0&channel={} HTTP/1.1\r\nHost: x\r\n\r\n", names.join(","));
    let all = request.repeat(POLLS as usize);
    assert_eq!(send_much(&far, all.as_bytes()), all.len());
    let most = growth(&mut model, &far, POLLS, |model| model.shard.cx.counters.requests);
    assert!(most <= POLLS_MAX, "{most} polls in one turn");
}

#[test]
fn a_turn_carries_out_few_messages_on_many_channels() {
    const MESSAGES: u64 = 200;
    let mut model = Model::new(1);
    model.configure(|config| (config.limits.new_names, config.websocket.message_rate) = (0, 0));
    let (_, far) = model.open("/ws");
    let names: Vec<String> = (0..50).map(|number| format!("\"d{number}\"")).collect();
    let all = |verb: &str| {
        let text = format!("{{\"{verb}\":[{}]}}", names.join(","));
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        frame
    };
    let both = [all("subscribe"), all("unsubscribe")].concat().repeat(MESSAGES as usize / 2);
    assert_eq!(send_much(&far, &both), both.len());
    let most = growth(&mut model, &far, MESSAGES, |model| model.shard.cx.counters.messages_in);
    assert!(most <= 4096 / 50 + 1, "{most} messages in one turn");
}

#[test]
fn a_kick_of_many_ends_each_of_them_once_and_no_other() {
    crate::sys::fdtable::raise_descriptor_limit().unwrap();
    let many = LISTED_MAX + 100;
    let mut model = Model::new(1);
    let all: Vec<_> = (0..many)
        .map(|_| {
            let (slot, far) = model.come(None);
            (&far).write_all(b"GET /sse?channel=d:1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            (slot, far)
        })
        .collect();
    let (other, _far) = model.ask("GET /sse?channel=d:2 HTTP/1.1\r\nHost: x\r\n");
    for _ in 0..1000 {
        if model.shard.slots.open().sse == many as u64 + 1 {
            break;
        }
        model.turn();
    }
    assert_eq!(model.shard.slots.open().sse, many as u64 + 1);
    model.say(r#"{"op":"kick","channel":"d:1","reason":"over"}"#);
    for _ in 0..1000 {
        model.turn();
        if model.shard.order.is_none() && model.shard.slots.open().sse == 1 {
            break;
        }
    }
    for _ in 0..1000 {
        if model.shard.slots.ready.is_empty() {
            break;
        }
        model.turn();
    }
    model.turns(50);
    assert_eq!(model.shard.slots[other].state, State::Stream);
    assert_eq!(model.shard.cx.counters.closed[Reason::Kicked as usize], many as u64);
    assert!(all.iter().all(|(_, far)| take(far, 64 * 1024).contains("over")), "each is told");
}

#[test]
fn a_client_holds_no_more_input_than_it_may() {
    const MOST: usize = 64 * 1024;
    let held = |model: &Model, slot: u32| {
        let extra = model.shard.slots[slot].extra.as_ref();
        extra.map_or(0, |extra| extra.input.capacity() + extra.decoder.held())
    };
    // Requests that come behind a held poll.
    let mut model = Model::new(1);
    let (slot, far) = model.ask("GET /poll?channel=d:1&wait=20 HTTP/1.1\r\nHost: x\r\n");
    assert!(send_much(&far, &[b'x'; 300_000]) > MOST);
    model.turns(20);
    assert_eq!(held(&model, slot), MOST);
    // A message that is not whole, and frames behind it that cannot be read yet.
    let (slot, far) = model.open("/ws?channel=d:1");
    let mut part = vec![0x01, 0x80 | 127];
    part.extend_from_slice(&(MOST as u64).to_be_bytes());
    part.extend_from_slice(&[0; 4]);
    part.extend_from_slice(&[b'x'; MOST - 100]);
    send_much(&far, &part);
    model.turns(20);
    assert!((MOST - 200..=MOST).contains(&held(&model, slot)), "{}", held(&model, slot));
    // A message that waits for the backend, and others behind it.
    model.configure(|config| config.limits.upstream = 0);
    let (slot, far) = model.open("/ws");
    let text = format!("{{\"send\":\"{}\"}}", "x".repeat(40_000));
    let mut message = vec![0x81, 0x80 | 126];
    message.extend_from_slice(&(text.len() as u16).to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(text.as_bytes());
    send_much(&far, &message.repeat(5));
    model.turns(20);
    assert!(model.shard.slots[slot].is_put_aside());
    assert!(held(&model, slot) + text.len() <= MOST, "{}", held(&model, slot));
}

#[test]
fn time_in_which_the_shard_stands_still_ends_no_connection() {
    let mut model = Model::new(1);
    let (socket, far) = model.open("/ws?channel=d:1");
    let (waiting, _far) = model.come(None);
    // The client is pinged, and the answer waits while the shard stands still.
    model.shard.deadlines.pass(Duration::from_secs(31));
    model.shard.slots.set_deadline(waiting, model.shard.cx.now + 400);
    model.shard.note_tick();
    model.turns(5);
    assert!(model.shard.slots[socket].flags.intersects(super::super::connection::Flags::PINGED));
    model.shard.deadlines.stand_still(Duration::from_secs(600));
    model.shard.note_tick();
    model.turns(2);
    assert_eq!(model.shard.slots[waiting].state, State::Http, "the time for a request stands still too");
    assert_eq!(model.shard.slots[socket].state, State::WebSocket);
    // An answer that waits at the deadline has come in time.
    (&far).write_all(&[0x8a, 0x80, 0, 0, 0, 0]).unwrap();
    model.shard.deadlines.pass(Duration::from_secs(31));
    model.shard.note_tick();
    model.turns(5);
    assert_eq!(model.shard.slots[socket].state, State::WebSocket);
    assert!(model.shard.cx.counters.pauses >= 1);
}

#[test]
fn a_token_expires_by_the_time_of_the_day_though_the_shard_stood_still() {
    let mut model = Model::new(1);
    let (slot, _far) = model.open("/ws?channel=d:1");
    let identity = crate::logic::auth::Identity {
        user: None,
        token: None,
        grants: Default::default(),
        expires_s: crate::sys::clock::unix_ms() / 1000 + 300,
    };
    let Shard { access, cx, .. } = &mut model.shard;
    access.remember(cx, slot, identity).unwrap();
    model.shard.deadlines.stand_still(Duration::from_secs(200));
    model.turns(3);
    assert_eq!(model.shard.slots[slot].state, State::WebSocket);
    model.shard.deadlines.stand_still(Duration::from_secs(200));
    model.shard.note_tick();
    model.turns(3);
    model.shard.deadlines.pass(Duration::from_secs(1));
    model.shard.note_tick();
    model.turns(3);
    assert_eq!(model.shard.cx.counters.closed[Reason::Expired as usize], 1);
}
