use super::super::census::ChannelLimits;
use super::*;
use crate::hub::ids::IdSource;
use crate::link::{FromHub, HubMessage, Replay, Target, to_shard};
use crate::logic::auth::LEEWAY_MAX_S;
use crate::logic::event::{Draft, Kind};
use crate::logic::history::HistoryLimits;
use crate::logic::protocol::feed::{Request, parse};
use crate::sys::wake::Wake;

struct World {
    core: Core,
    queues: Vec<FromHub>,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let hub = Wake::new().unwrap();
    let (shards, queues): (Vec<_>, Vec<_>) = (0..2).map(|_| to_shard(1 << 20, hub.clone()).unwrap()).unzip();
    let limits = HistoryLimits { events_max: 5, bytes_max: 1 << 20, age_max_ms: 1000 };
    let ids = IdSource::open(&folder.path().join("x.ids"), 1000).unwrap();
    let mut core = Core::new(crate::hub::Order::Local(ids), shards, Box::new(move |_| limits));
    core.keys = Keys::new(Duration::from_millis(100), 10);
    core.channels.census.limit_to(ChannelLimits { published_max: 4, followed_max: 4, memory_max: u64::MAX });
    World { core, queues, _folder: folder }
}

impl World {
    fn say(&mut self, line: &str, now_ms: u64) -> serde_json::Value {
        let mut out = Vec::new();
        let Request { reference, command } = parse(line.as_bytes()).unwrap();
        match self.core.execute(None, command, reference.as_deref(), self.core.at(now_ms), &mut out) {
            Ok(_) if out.is_empty() => serde_json::Value::Null,
            Ok(_) => serde_json::from_slice(&out).unwrap(),
            Err(error) => serde_json::Value::String(error.code.into()),
        }
    }

    fn publish(&mut self, channel: &str, now_ms: u64) -> Id {
        let answer = self.say(&format!(r#"{{"op":"publish","channel":"{channel}","data":"x","ref":1}}"#), now_ms);
        answer["id"].as_str().unwrap().parse().unwrap()
    }

    fn follow(&mut self, shard: u16, local: u32, name: &str) {
        self.core.hear(HubMessage::Follow { shard, local, name: name.into() }, self.core.at(0));
    }

    fn received(&mut self, shard: usize) -> Vec<ShardMessage> {
        self.core.flush();
        std::iter::from_fn(|| self.queues[shard].next()).flatten().collect()
    }

    fn resume(&mut self, locals: &[u32], after: Option<Id>, now_ms: u64) -> Replay {
        self.received(0);
        let channels = locals.to_vec();
        let now = self.core.at(now_ms);
        self.core.hear(HubMessage::Resume { shard: 0, slot: 1, generation: 2, number: 3, channels, after }, now);
        match self.received(0).pop() {
            Some(ShardMessage::Replay(replay)) => *replay,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn events_go_in_order_to_the_shards_that_follow() {
    let mut world = world();
    world.follow(0, 7, "a");
    world.follow(1, 3, "b");
    let first = world.publish("a", 2000);
    let second = world.publish("a", 1500);
    assert!(second > first, "the clock may go backwards, ids do not");
    world.publish("b", 2000);
    let received = world.received(0);
    assert!(matches!(received[0], ShardMessage::Followed(7, _)));
    let ids: Vec<Id> = received
        .iter()
        .filter_map(|message| match message {
            ShardMessage::Event(7, event) => Some(event.id),
            _ => None,
        })
        .collect();
    assert_eq!(ids, [first, second]);
    assert_eq!(world.received(1).len(), 2);
    world.core.hear(HubMessage::Unfollow { shard: 0, local: 7 }, world.core.at(0));
    world.publish("a", 2000);
    assert!(matches!(world.received(0)[..], [ShardMessage::Unfollowed(7)]));
}

#[test]
fn one_id_per_channel_and_one_answer_per_key() {
    let mut world = world();
    let line = r#"{"op":"publish","channels":["a","b"],"data":1,"key":"k","ref":"r"}"#;
    let first = world.say(line, 2000);
    assert_eq!(first["ids"].as_array().unwrap().len(), 2);
    assert_eq!(world.say(line, 2050), first);
    assert_ne!(world.say(line, 2200), first, "the window is over");
}

#[test]
fn a_key_that_comes_again_with_another_number_of_channels_is_refused() {
    let mut world = world();
    world.say(r#"{"op":"publish","channels":["a","b"],"data":1,"key":"k","ref":1}"#, 2000);
    world.say(r#"{"op":"publish","channel":"a","data":1,"key":"one","ref":1}"#, 2000);
    let before = world.core.applied;
    for line in [
        r#"{"op":"publish","channel":"a","data":1,"key":"k","ref":1}"#,
        r#"{"op":"publish","channels":["a","b"],"data":1,"key":"one","ref":1}"#,
        r#"{"op":"batch","items":[{"channel":"a","data":1},{"channel":"a","data":1,"key":"k"}],"ref":1}"#,
        r#"{"op":"batch","items":[{"channel":"a","data":1,"key":"new"},{"channels":["a","b"],"data":1,"key":"new"}]}"#,
    ] {
        assert_eq!(world.say(line, 2050), "bad_field", "{line}");
    }
    assert_eq!(world.core.applied, before, "nothing of it was published");
    let list = world.say(r#"{"op":"publish","channels":["a"],"data":1,"key":"one","ref":1}"#, 2050);
    assert_eq!(list["ids"].as_array().unwrap().len(), 1, "the answer has the form that was asked for");
}

#[test]
fn a_batch_is_all_or_nothing() {
    let mut world = world();
    let batch = r#"{"op":"batch","items":[{"channel":"a","data":1},{"channel":"b","data":2}],"ref":1}"#;
    assert_eq!(world.say(batch, 2000)["ids"].as_array().unwrap().len(), 2);
    let too_many = r#"{"op":"batch","items":[{"channel":"c","data":1},{"channels":["d","e"],"data":2}],"ref":1}"#;
    let before = world.core.applied;
    assert_eq!(world.say(too_many, 2000), "channels");
    assert_eq!(world.core.applied, before);
}

#[test]
fn a_resume_has_everything_after_it_once_and_in_order() {
    let mut world = world();
    world.follow(0, 0, "a");
    world.follow(0, 1, "b");
    let ids: Vec<Id> = ["a", "b", "a", "b"].into_iter().map(|channel| world.publish(channel, 2000)).collect();
    let replay = world.resume(&[0, 1], Some(ids[0]), 2000);
    let replayed: Vec<Id> = replay.events.iter().map(|event| event.id).collect();
    assert_eq!(replayed, ids[1..]);
    assert_eq!((replay.gap, replay.until, replay.last), (None, ids[3], true));
    assert_eq!(world.resume(&[0], Some(ids[1]), 2000).events.len(), 1);
    let present = world.resume(&[0], None, 2000);
    assert_eq!((present.events.len(), present.until), (0, ids[3]));
}

#[test]
fn lost_events_are_told_as_a_gap() {
    let mut world = world();
    world.follow(0, 0, "a");
    let ids: Vec<Id> = (0..8).map(|_| world.publish("a", 2000)).collect();
    let replay = world.resume(&[0], Some(ids[0]), 2000);
    assert_eq!((replay.gap, replay.events.len()), (Some(ids[2]), 5));
    assert_eq!(world.resume(&[0], Some(ids[2]), 2000).gap, None);
    let expired = world.resume(&[0], Some(ids[5]), 9000);
    assert_eq!((expired.gap, expired.events.len()), (Some(ids[7]), 0));
    let unknown = world.resume(&[0], Some(Id::new(99_999, 0)), 2000);
    assert_eq!((unknown.gap, unknown.until), (Some(ids[7]), ids[7]));
}

#[test]
fn long_replays_come_in_pages() {
    let mut world = world();
    world.follow(0, 0, "a");
    let data = "x".repeat(40_000);
    let before = world.core.applied;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let answer = world.say(&format!(r#"{{"op":"publish","channel":"a","data":"{data}","ref":1}}"#), 2000);
        ids.push(answer["id"].as_str().unwrap().parse::<Id>().unwrap());
    }
    let (mut after, mut got) = (before, Vec::new());
    loop {
        let replay = world.resume(&[0], Some(after), 2000);
        got.extend(replay.events.iter().map(|event| event.id));
        after = replay.until;
        if replay.last {
            break;
        }
        assert!(replay.events.len() < 5);
    }
    assert_eq!(got, ids);
}

#[test]
fn an_ended_channel_stays_ended_until_something_is_published() {
    let mut world = world();
    world.follow(0, 0, "a");
    world.say(r#"{"op":"end","channel":"a"}"#, 2000);
    let [_, ShardMessage::Ended(0, end)] = world.received(0)[..] else { panic!() };
    world.say(r#"{"op":"end","channel":"a"}"#, 2000);
    assert!(world.received(0).is_empty(), "the channel has ended already");
    world.follow(1, 5, "a");
    let [ShardMessage::Followed(5, position), ShardMessage::Ended(5, known)] = world.received(1)[..] else { panic!() };
    assert!(known == end && position >= end, "the position of a new follower lies after the end");
    assert!(world.publish("a", 2000) > end);
    world.follow(1, 5, "a");
    assert!(!world.received(1).iter().any(|message| matches!(message, ShardMessage::Ended(..))));
    assert_eq!(world.say(r#"{"op":"end","channel":"nobody"}"#, 2000), "no_channel");
}

#[test]
fn every_shard_is_asked_to_end_connections_and_only_known_names_are_taken() {
    let mut world = world();
    world.say(r#"{"op":"kick","channel":"a","ref":1}"#, 0);
    let asked = [0, 1].map(|shard| match &world.received(shard)[..] {
        [ShardMessage::Kick { request, target: Target::Channel(name), .. }] if name == "a" => *request,
        other => panic!("{other:?}"),
    });
    assert_eq!(asked[0], asked[1]);
    assert_eq!(world.say(r#"{"op":"kick","conn":"x"}"#, 0), "no_connection");
}

#[test]
fn a_token_is_revoked_for_as_long_as_it_counts() {
    let mut world = world();
    for (expires, until_s) in [(",\"expires\":100", 100 + LEEWAY_MAX_S), ("", 30 * 86400 + 50)] {
        world.say(&format!(r#"{{"op":"kick","jti":"t"{expires}}}"#), 50_000);
        assert!(world.core.revocations.known().contains("t", until_s - 1), "{expires}");
        assert!(!world.core.revocations.known().contains("t", until_s), "{expires}");
        let told = match world.received(0).pop() {
            Some(ShardMessage::Kick { target: Target::Token { until_s, .. }, .. }) => until_s,
            other => panic!("{other:?}"),
        };
        assert_eq!(told, until_s, "shards refuse it for as long");
    }
}

#[test]
fn a_shard_is_told_where_clients_have_too_many_channels_and_publishers_go_on() {
    let mut world = world();
    for (local, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        world.follow(0, local as u32, name);
    }
    let received = world.received(0);
    assert!(matches!(received[3], ShardMessage::Followed(3, _)));
    assert!(matches!(received[4], ShardMessage::NoRoom(4)), "{received:?}");
    let id = world.publish("e", 2000);
    assert!(world.received(0).is_empty());
    world.follow(0, 4, "e");
    assert!(matches!(world.received(0)[..], [ShardMessage::Followed(4, since)] if since == id));
    // A client's event makes no room for itself either.
    let draft = Draft { name: None, kind: Kind::Text, payload: "x".into() };
    let now = world.core.at(2000);
    assert_eq!(world.core.publish_to("f".into(), draft.clone(), now).unwrap_err().code, "channels");
    assert!(world.core.publish_to("a".into(), draft, now).is_ok());
    // A channel that is given up leaves room at once.
    world.core.hear(HubMessage::Unfollow { shard: 0, local: 1 }, now);
    world.follow(0, 1, "f");
    assert!(matches!(world.received(0)[..], [.., ShardMessage::Followed(1, _)]));
}

#[test]
fn ages_do_not_depend_on_the_clock_that_ids_follow() {
    let mut world = world();
    world.follow(0, 0, "a");
    let base = world.core.at(0);
    let at = |unix_ms, steady_ms| Now { unix_ms, steady_ms, ..base };
    let count = |world: &mut World, now: Now| {
        let index = world.core.channels.find("a").unwrap();
        world.core.channels.trim(index, now.steady_ms);
        world.core.channels.history(index).map_or(0, |history| history.len())
    };
    let draft = || Draft { name: None, kind: Kind::Text, payload: "x".into() };
    // Ids are a day ahead of the clock from here on.
    let ahead = at(86_400_000, 0);
    world.core.publish_to("a".into(), draft(), ahead).unwrap();
    let now = at(2000, 100);
    world.core.publish_to("a".into(), draft(), now).unwrap();
    assert_eq!(count(&mut world, at(3000, 1000)), 2);
    assert_eq!(count(&mut world, at(3100, 1001)), 1);
    assert_eq!(count(&mut world, at(3200, 1101)), 0);
    // Neither do idempotency keys, whichever way the clock is set.
    let line = r#"{"op":"publish","channel":"a","data":1,"key":"k","ref":1}"#;
    let Request { reference, command } = parse(line.as_bytes()).unwrap();
    let mut ids = Vec::new();
    for (unix_ms, steady_ms) in [(3000, 2000), (90_000_000, 2050), (0, 2099), (3000, 2100)] {
        let (mut out, now) = (Vec::new(), at(unix_ms, steady_ms));
        world.core.execute(None, command.clone(), reference.as_deref(), now, &mut out).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&out).unwrap();
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    assert_eq!((&ids[1], &ids[2]), (&ids[0], &ids[0]));
    assert_ne!(ids[3], ids[0], "the window is over");
}

#[test]
fn a_long_history_is_answered_in_parts() {
    let mut world = world();
    let limits = HistoryLimits { events_max: 100, bytes_max: 1 << 30, age_max_ms: 1_000_000 };
    world.core.channels = HubChannels::new(2, world.core.applied, Box::new(move |_| limits));
    let data = "x".repeat(900_000);
    for _ in 0..7 {
        world.say(&format!(r#"{{"op":"publish","channel":"a","data":"{data}"}}"#), 2000);
    }
    let mut got = Vec::new();
    let mut after = "0-0".to_owned();
    loop {
        let answer = world.say(&format!(r#"{{"op":"history","channel":"a","ref":1,"after":"{after}"}}"#), 2000);
        let events = answer["events"].as_array().unwrap();
        got.push(events.len());
        after = events.last().unwrap()["id"].as_str().unwrap().to_owned();
        if answer.get("more").is_none() {
            break;
        }
    }
    assert_eq!(got, [5, 2]);
}

#[test]
fn history_is_readable() {
    let mut world = world();
    let first = world.publish("a", 2000);
    world.publish("a", 2000);
    let answer = world.say(r#"{"op":"history","channel":"a","ref":1,"limit":1}"#, 2000);
    assert_eq!(answer["events"].as_array().unwrap().len(), 1);
    let answer = world.say(&format!(r#"{{"op":"history","channel":"a","ref":1,"after":"{first}"}}"#), 2000);
    assert_eq!(answer["events"].as_array().unwrap().len(), 1);
    let history = world.core.channels.history(world.core.channels.find("a").unwrap()).unwrap();
    assert!(history.after(Id::ZERO).all(|event| event.draft.kind == Kind::Text));
}
