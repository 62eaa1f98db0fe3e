//! The backend's decisions about clients without a token, and commands about these clients right after.

use super::*;
use crate::link::Answer;
use crate::logic::reason::Reason;

/// A model with `ask_backend = true`.
fn model_with_backend() -> Model {
    let mut model = Model::new(1);
    model.configure(|config| config.auth.ask_backend = true);
    model.shard.upstream.listening.authorize = true;
    model
}

/// The number of the question that a connection waits for.
fn question(model: &Model, slot: u32) -> u32 {
    model.shard.slots[slot].asking().expect("it waits for the backend").number
}

fn answer(model: &mut Model, slot: u32, allowed: Option<Vec<String>>, user: Option<&str>) {
    let number = question(model, slot);
    let id = model.shard.slots.name(0, slot);
    hooks::answer(&mut model.shard, id, number, Answer { allowed, user: user.map(Into::into) });
    model.turns(3);
}

#[test]
fn a_user_whom_the_backend_names_later_is_known() {
    let mut model = model_with_backend();
    model.configure(|config| config.server.per_user = 1);
    model.shard.upstream.listening.authorize = false;
    let (slot, far) = model.open("/ws");
    // No backend listens yet, so the default holds, which is no.
    say_to(&far, r#"{"subscribe":["d:1"],"ref":1}"#);
    model.turns(3);
    model.shard.upstream.listening.authorize = true;
    say_to(&far, r#"{"subscribe":["d:2"],"ref":2}"#);
    model.turns(3);
    answer(&mut model, slot, None, Some("42"));
    assert_eq!(model.shard.slots[slot].subscriptions(), 1);
    assert!(model.shard.access.identities.of_user("42").eq([slot]));
    // The connection keeps its user, whichever the backend names later, and counts once.
    say_to(&far, r#"{"subscribe":["d:3"],"ref":3}"#);
    model.turns(3);
    answer(&mut model, slot, None, Some("43"));
    assert_eq!(model.shard.slots[slot].subscriptions(), 2);
    assert!(model.shard.access.identities.of_user("42").eq([slot]));
    assert!(model.shard.cx.admission.enter_as(&"43".into()) && !model.shard.cx.admission.enter_as(&"42".into()));
    drop(far);
    model.turns(3);
    assert!(model.shard.cx.admission.enter_as(&"42".into()), "its place is free");
}

#[test]
fn a_user_named_later_with_too_many_connections_is_told_so() {
    let mut model = model_with_backend();
    model.configure(|config| config.server.per_user = 1);
    let (first, _far) = model.ask("GET /sse?channel=d:1 HTTP/1.1\r\nHost: x\r\n");
    answer(&mut model, first, None, Some("42"));
    let (slot, far) = model.open("/ws");
    say_to(&far, r#"{"subscribe":["d:1"]}"#);
    model.turns(3);
    answer(&mut model, slot, None, None);
    say_to(&far, r#"{"subscribe":["d:2"]}"#);
    model.turns(3);
    answer(&mut model, slot, None, Some("42"));
    assert!(take(&far, 4096).contains(r#""too_many""#));
    assert_eq!(model.shard.slots[slot].subscriptions(), 1);
    assert!(model.shard.access.identities.of_user("42").eq([first]));
    assert_eq!(model.shard.cx.counters.refused, 1);
}

#[test]
fn a_user_kicked_right_after_being_named_is_disconnected() {
    let mut model = model_with_backend();
    model.configure(|config| config.server.per_user = 1);
    let (slot, far) = model.ask("GET /sse?channel=d:1 HTTP/1.1\r\nHost: x\r\n");
    let number = question(&model, slot);
    let name = model.shard.slots.name(0, slot);
    // The answer and the kick are both queued before the request is read again.
    for line in [
        format!(r#"{{"op":"authorized","conn":"{name}","ask":{number},"allow":true,"user":"42"}}"#),
        r#"{"op":"kick","user":"42"}"#.to_owned(),
    ] {
        model.hub.execute(parse(line.as_bytes()).unwrap(), model.now_ms, &mut Vec::new()).unwrap();
    }
    model.turns(5);
    assert!(model.shard.slots[slot].state != State::Stream);
    assert_eq!(model.shard.cx.counters.closed[Reason::Kicked as usize], 1);
    drop(far);
    model.turns(3);
    assert!(model.shard.cx.admission.enter_as(&"42".into()), "its place is free");
}

#[test]
fn a_user_with_too_many_connections_is_refused_once() {
    let mut model = model_with_backend();
    model.configure(|config| config.server.per_user = 1);
    let head = "GET /sse?channel=d:1 HTTP/1.1\r\nHost: x\r\n";
    let (first, stream) = model.ask(head);
    answer(&mut model, first, None, Some("42"));
    assert!(take(&stream, 4096).starts_with("HTTP/1.1 200"));
    let (second, refused) = model.ask(head);
    answer(&mut model, second, None, Some("42"));
    let said = take(&refused, 4096);
    assert!(said.starts_with("HTTP/1.1 429") && said.contains("Retry-After"), "{said}");
    assert_eq!(model.shard.cx.counters.refused, 1);
    // The connection is kept and may carry another user's request next.
    (&refused).write_all(format!("{head}\r\n").as_bytes()).unwrap();
    model.turns(3);
    answer(&mut model, second, None, Some("43"));
    assert!(take(&refused, 4096).starts_with("HTTP/1.1 200"));
    drop(stream);
    model.turns(3);
    assert!(model.shard.cx.admission.enter_as(&"42".into()) && !model.shard.cx.admission.enter_as(&"43".into()));
}

#[test]
fn a_channel_that_the_backend_allows_is_kept_from_a_long_list() {
    let mut model = model_with_backend();
    let max = model.shard.cx.settings.config.limits.subscriptions;
    let (slot, far) = model.open("/ws");
    say_to(&far, r#"{"subscribe":["d:1","d:0"]}"#);
    model.turns(3);
    let allowed = (1..=max + 1).map(|number| format!("d:{number}")).collect();
    answer(&mut model, slot, Some(allowed), None);
    assert_eq!(model.shard.slots[slot].subscriptions(), 1, "d:1 and not d:0");
    assert!(take(&far, 4096).contains(r#""channels":["d:0"]"#));
}
