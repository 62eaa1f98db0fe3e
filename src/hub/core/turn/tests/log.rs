//! The hub over a cluster's log.

use std::time::Duration;

use bytes::Bytes;

use super::world::world;
use crate::hub::Order;
use crate::hub::order::{LogOrder, LogParts};
use crate::link::backplane::{FromBroker, Loss, to_broker};
use crate::link::{HubMessage, ShardMessage};
use crate::logic::entry::{Content, Entry, Logged, Part};
use crate::logic::event::{Draft, Kind};
use crate::logic::id::Id;

fn entry(ms: u64) -> Entry {
    let draft = Draft { name: None, kind: Kind::Text, payload: Bytes::from_static(b"x") };
    let logged = Logged { channel: "c".into(), draft, key: None, part: Part::ONLY, is_client: false };
    Entry { id: Id::new(ms, 0), at_ms: ms, origin: None, content: Content::Event(logged) }
}

#[test]
fn a_gap_is_told_after_the_entries_that_were_read_before_it() {
    let mut world = world(1 << 20);
    let (queue, _inbox) = to_broker().unwrap();
    let (caught_up, _caught_up) = crossbeam_channel::bounded(1);
    let mut log = LogOrder::new(LogParts {
        queue,
        node: "a".into(),
        mark: "a~1".into(),
        pending_max: 1 << 20,
        resume_wait: Duration::ZERO,
        needs_confirmation: false,
        caught_up,
    });
    log.is_caught_up = true;
    world.core.order = Order::Log(Box::new(log));
    world.to_hub.send(HubMessage::Follow { shard: 0, local: 1, name: "c".into() });
    let (after, resumed) = (Id::new(5001, 0), Id::new(6000, 0));
    for message in [
        FromBroker::Entries(vec![entry(5000), entry(5001)]),
        FromBroker::Gap { after, resumed, loss: Loss::Trimmed },
        FromBroker::Entries(vec![entry(7000)]),
    ] {
        world.to_hub.send(HubMessage::Broker(message));
    }
    world.to_hub.ring();
    world.settle();
    let told: Vec<String> = world
        .received(0)
        .into_iter()
        .filter_map(|message| match message {
            ShardMessage::Event(_, event) => Some(event.id.to_string()),
            ShardMessage::Lost { after, resumed } => Some(format!("{after} to {resumed}")),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["5000-0", "5001-0", "5001-0 to 6000-0", "7000-0"]);
}
