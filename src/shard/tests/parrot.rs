//! The made-up protocol on a real shard: its own requests, replies, heartbeats and close codes.

use crate::logic::reason::Reason;

use super::*;

/// The text of the first frame and the rest, after the response's head if there is one.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        bytes = &bytes[end + 4..];
    }
    let mut found = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at(usize::from(*length));
        found.push((first & 15, payload.to_vec()));
        bytes = rest;
    }
    found
}

fn read_all(model: &mut Model, mut far: &UnixStream) -> Vec<(u8, Vec<u8>)> {
    model.turns(5);
    let mut buffer = vec![0; 64 * 1024];
    let length = far.read(&mut buffer).unwrap_or(0);
    frames(&buffer[..length])
}

fn lines(model: &mut Model, far: &UnixStream) -> Vec<String> {
    let text = read_all(model, far).into_iter().filter(|frame| frame.0 == 1);
    text.map(|frame| String::from_utf8(frame.1).unwrap()).collect()
}

#[test]
fn a_protocol_has_its_own_words_for_everything() {
    let mut model = Model::new(1);
    let (slot, far) = model.open("/parrot/any?channel=d:1");
    assert_eq!(lines(&mut model, &far), [format!("HELLO {} 1000000-0", model.shard.slots.name(0, slot))]);
    say_to(&far, "r1 JOIN d:2,g:1");
    assert_eq!(lines(&mut model, &far), ["r1 OK 1000000-0"]);
    say_to(&far, "r2 POLLY");
    say_to(&far, "r3 PART d:9");
    say_to(&far, "r4 SAY 1");
    let expected = [
        "r2 POLLY",
        "r3 NO not_subscribed there is no subscription to \"d:9\"",
        "r4 NO no_backend no backend listens to messages at the moment",
    ];
    assert_eq!(lines(&mut model, &far), expected);
    model.publish_on("d:2", "x");
    let id = model.newest_on("d:2");
    model.say(r#"{"op":"end","channel":"g:1"}"#);
    assert_eq!(lines(&mut model, &far), [format!("EVENT {id} d:2 \"x\""), "END g:1".into()]);
    // The protocol's heartbeat is due after a while.
    model.shard.deadlines.pass(Duration::from_secs(60));
    model.shard.note_tick();
    assert_eq!(lines(&mut model, &far), ["TICK"]);
    model.say(r#"{"op":"kick","channel":"d:1","reason":"away"}"#);
    let last = read_all(&mut model, &far);
    assert_eq!(last[0].1, b"BYE kicked 3000 away");
    let code = 4900 + Reason::Kicked as u16;
    assert_eq!((last[1].0, &last[1].1[..2]), (8, &code.to_be_bytes()[..]));
}
