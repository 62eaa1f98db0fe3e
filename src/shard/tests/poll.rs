//! The ends of held polls, and their answers.

use crate::logic::reason::Reason;

use super::*;

/// The answer's head and its body.
fn split(answer: &str) -> (&str, serde_json::Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head, serde_json::from_str(body).unwrap())
}

#[test]
fn a_held_poll_that_is_sent_away_is_counted_once_and_told_that_it_ends() {
    for (fields, drains) in [("Connection: close\r\n", false), ("", false), ("", true)] {
        let mut model = Model::new(1);
        let (slot, far) = model.ask(&format!("GET /poll?channel=d:1&wait=20 HTTP/1.1\r\nHost: x\r\n{fields}"));
        assert_eq!(model.shard.slots[slot].state, State::Poll);
        let reason = if drains { Reason::Drained } else { Reason::Kicked };
        if drains {
            hooks::begin_drain(&mut model.shard);
        } else {
            model.say(r#"{"op":"kick","channel":"d:1"}"#);
        }
        model.turns(5);
        let answer = take(&far, 4096);
        let (head, body) = split(&answer);
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("Connection: close"), "{head}");
        assert_eq!(body["events"], serde_json::json!([]));
        let closed = &model.shard.cx.counters.closed;
        assert_eq!((closed[reason as usize], closed.iter().sum::<u64>()), (1, 1), "{fields:?} {drains}");
        assert_eq!(model.shard.slots[slot].state, State::Lingering);
    }
}

/// Reads a poll's whole answer; returns its number of events, whether it names an ended channel, and the next
/// position.
fn answer(model: &mut Model, far: &UnixStream) -> (usize, bool, String) {
    let mut answer = String::new();
    for _ in 0..200 {
        model.turn();
        answer.push_str(&take(far, 64 * 1024));
    }
    let (_, body) = split(&answer);
    (body["events"].as_array().unwrap().len(), body["ended"].is_array(), body["next"].as_str().unwrap().to_owned())
}

/// Polls until an answer names `d:1` as ended; returns the numbers of events and of answers.
fn poll_to_the_end(model: &mut Model, mut after: String) -> (usize, usize) {
    let mut events = 0;
    for answers in 1..10 {
        let (_, far) = model.ask(&format!("GET /poll?channel=d:1&after={after}&wait=0 HTTP/1.1\r\nHost: x\r\n"));
        let (count, has_ended, next) = answer(model, &far);
        events += count;
        after = next;
        if has_ended {
            return (events, answers);
        }
    }
    panic!("the end of the channel must be told");
}

#[test]
fn a_channels_end_is_told_with_the_last_of_what_was_missed() {
    let mut model = Model::new(1);
    let data = "x".repeat(20_000);
    (0..10).for_each(|_| model.publish_on("d:1", &data));
    model.say(r#"{"op":"end","channel":"d:1"}"#);
    let (events, answers) = poll_to_the_end(&mut model, "1-0".to_owned());
    assert!(events == 10 && answers > 1, "{events} in {answers} answers");
}

#[test]
fn a_channels_end_is_told_with_the_last_of_what_has_come() {
    let mut model = Model::new(1);
    model.configure(|config| config.namespace.values_mut().for_each(|namespace| namespace.max_lag = Some(1 << 20)));
    let (_, far) = model.ask("GET /poll?channel=d:1&wait=20 HTTP/1.1\r\nHost: x\r\n");
    // The events are more than one answer holds, and all of them are there before the poll is answered.
    let item = format!(r#"{{"channel":"d:1","data":"{}"}}"#, "x".repeat(20_000));
    model.say(&format!(r#"{{"op":"batch","items":[{}]}}"#, vec![item; 20].join(",")));
    model.say(r#"{"op":"end","channel":"d:1"}"#);
    let (first, has_ended, next) = answer(&mut model, &far);
    assert!((1..20).contains(&first) && !has_ended, "{first} {has_ended}");
    assert_eq!(first + poll_to_the_end(&mut model, next).0, 20);
}

#[test]
fn a_poll_that_is_sent_away_before_it_was_told_what_it_missed_hears_of_no_end() {
    let mut model = Model::new(1);
    model.publish_on("d:1", "missed");
    let _others = model.open("/ws?channel=d:1,d:2");
    model.say(r#"{"op":"end","channel":"d:1"}"#);
    model.turns(3);
    let (slot, far) = model.come(None);
    (&far).write_all(b"GET /poll?channel=d:1&after=1-0&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // The hub has no turn here.
    for _ in 0..3 {
        model.shard.turn().unwrap();
    }
    assert_eq!(model.shard.slots[slot].state, State::Poll);
    hooks::begin_drain(&mut model.shard);
    assert_eq!(answer(&mut model, &far), (0, false, "1-0".to_owned()));
}
