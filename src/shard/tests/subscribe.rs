//! Subscribing and unsubscribing while missed events are being sent, and while the hub's answers are on their way.

use super::*;

/// Turns and reads until nothing more comes.
fn take_all(model: &mut Model, stream: &UnixStream) -> String {
    let mut all = String::new();
    let mut quiet = 0;
    while quiet < 10 {
        model.turn();
        let some = take(stream, 64 * 1024);
        quiet = if some.is_empty() { quiet + 1 } else { 0 };
        all.push_str(&some);
    }
    all
}

fn fill(model: &mut Model, channel: &str, count: usize) {
    let data = "x".repeat(20_000);
    (0..count).for_each(|_| model.publish_on(channel, &data));
}

/// A WebSocket that reads `g:1` live and gets the first of `count` long missed events of `d:1`.
fn catching_up_with(count: usize) -> (Model, u32, UnixStream) {
    let mut model = Model::new(1);
    fill(&mut model, "d:1", count);
    let (slot, far) = model.open("/ws?channel=g:1");
    say_to(&far, r#"{"subscribe":["d:1"],"after":"1-0"}"#);
    model.turns(10);
    (model, slot, far)
}

#[test]
fn live_events_go_on_when_a_replay_is_unsubscribed() {
    let (mut model, slot, far) = catching_up_with(30);
    let mut all = String::new();
    // Few enough bytes wait that the client's messages are read, and the next page is not asked for yet.
    while model.shard.slots[slot].out_waiting() > 60_000 {
        all.push_str(&take(&far, 4096));
        model.turn();
    }
    assert!(model.shard.slots[slot].out_waiting() > 10_000);
    model.publish_on("g:1", "live");
    model.turns(5);
    say_to(&far, r#"{"unsubscribe":["d:1"]}"#);
    model.turns(5);
    assert_eq!(model.shard.slots[slot].subscriptions(), 1, "it was heard");
    all.push_str(&take_all(&mut model, &far));
    assert_eq!(all.matches(r#""live""#).count(), 1);
    say_to(&far, r#"{"ping":1}"#);
    assert!(take_all(&mut model, &far).contains(r#"{"pong":1}"#));
}

#[test]
fn a_client_that_is_catching_up_is_heard_between_two_pages() {
    let (mut model, slot, far) = catching_up_with(40);
    model.configure(|config| config.limits.replies = 32 * 1024);
    let waiting = model.shard.slots[slot].out_waiting();
    assert!(waiting > model.shard.cx.settings.config.limits.replies, "too much for it to be heard now");
    say_to(&far, r#"{"unsubscribe":["d:1"],"ref":7}"#);
    model.turns(5);
    let all = take_all(&mut model, &far);
    assert_eq!(all.matches(r#""ref":7"#).count(), 1);
    let told = all.matches(r#""channel":"d:1""#).count();
    assert!((1..20).contains(&told), "it is told no further: {told}");
}

#[test]
fn no_page_is_sent_twice_while_live_events_come() {
    let (mut model, _, far) = catching_up_with(40);
    let mut all = String::new();
    // Each turn walks the live channel, and so looks at a connection that has sent its page in the same turn.
    for _ in 0..200 {
        all.push_str(&take(&far, 64 * 1024));
        model.publish_on("g:1", "live");
        model.turn();
    }
    all.push_str(&take_all(&mut model, &far));
    // The first id is that of the welcome.
    let mut ids: Vec<&str> =
        all.split(r#"{"id":""#).skip(2).map(|rest| rest.split('"').next().unwrap_or_default()).collect();
    assert!(ids.len() >= 40, "the missed events came: {}", ids.len());
    ids.sort_unstable();
    let count = ids.len();
    let twice = ids.iter().zip(&ids[1..]).find(|(one, next)| one == next);
    assert_eq!(twice, None, "each of {count} events came once");
}

#[test]
fn a_channel_that_goes_on_while_it_is_taken_up_again_has_not_ended() {
    let mut model = Model::new(1);
    let (slot, far) = model.open("/ws?channel=d:1");
    let channel = model.shard.lanes.find("d:1").unwrap();
    say_to(&far, r#"{"subscribe":["d:2"]}"#);
    model.turns(3);
    model.say(r#"{"op":"end","channel":"d:1"}"#);
    model.turns(3);
    assert!(model.shard.lanes.channels[channel].ended);
    // The event is in the queue while the shard gives the channel up and another client subscribes to it.
    model.publish_on("d:1", "on");
    model.shard.deadlines.pass(Duration::from_secs(100));
    model.shard.note_tick();
    model.shard.turn().unwrap();
    assert_eq!(model.shard.lanes.channels[channel].following, Following::GivenUp);
    say_to(&far, r#"{"subscribe":["d:1"]}"#);
    model.shard.turn().unwrap();
    model.turns(5);
    let said = take(&far, 64 * 1024);
    assert_eq!(said.matches(r#""end""#).count(), 1, "it has ended once: {said}");
    assert_eq!(model.shard.slots[slot].subscriptions(), 2);
    // A second end of the channel is told too.
    say_to(&far, r#"{"unsubscribe":["d:1"]}"#);
    model.turns(3);
    model.say(r#"{"op":"end","channel":"d:1"}"#);
    model.turns(3);
    model.shard.deadlines.pass(Duration::from_secs(100));
    model.shard.note_tick();
    model.turns(6);
    say_to(&far, r#"{"subscribe":["d:1"]}"#);
    model.turns(5);
    let said = take(&far, 64 * 1024);
    assert_eq!(said.matches(r#""end""#).count(), 1, "{said}");
}

#[test]
fn pages_for_clients_that_come_back_at_once_do_not_pile_up() {
    const CLIENTS: usize = 700;
    crate::sys::fdtable::raise_descriptor_limit().unwrap();
    let mut model = Model::new(1);
    fill(&mut model, "d:1", 3);
    let all: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (slot, far) = model.come(None);
            socket2::SockRef::from(model.shard.slots[slot].fd.as_ref().unwrap())
                .set_send_buffer_size(256 * 1024)
                .unwrap();
            (&far).write_all(b"GET /sse?channel=d:1&last_event_id=1-0 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            (slot, far)
        })
        .collect();
    let (mut most, mut told) = (0, 0);
    for _ in 0..200 {
        // All answers come in one batch, as in a turn of the hub.
        let messages: Vec<_> = std::iter::from_fn(|| model.inbox.next()).collect();
        model.hub.hear_all(messages, model.now_ms);
        model.shard.turn().unwrap();
        let waiting = all.iter().filter(|(slot, _)| model.shard.slots[*slot].out_waiting() > 50_000);
        most = most.max(waiting.count());
        told += all.iter().map(|(_, far)| take(far, 256 * 1024).matches("data: x").count()).sum::<usize>();
        if told == 3 * CLIENTS {
            break;
        }
    }
    assert_eq!((told, model.shard.resumes.pending()), (3 * CLIENTS, (0, 0)));
    assert!(most <= PAGES_ASKED_MAX, "{most} pages wait to be sent");
}
