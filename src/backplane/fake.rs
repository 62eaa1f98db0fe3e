//! A log in memory, with faults on order, and the driver's tests over it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::broker::{Appended, Broker, BrokerError, Continuity, Page, Reader, Tail, Writer};
use super::*;
use crate::config::Config;
use crate::figures::ServerFigures;
use crate::link::backplane::Unordered;
use crate::link::backplane::{BrokerQueue, BrokerState, FromBroker, Loss, ToBroker, to_broker};
use crate::link::{HubInbox, HubMessage, to_hub};
use crate::logic::entry::Entry;
use crate::logic::entry::{Content, Control, Logged, Origin, Part};
use crate::logic::event::{Draft, Kind};
use crate::logic::id::Id;

/// What goes wrong with the next append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The entries are in the log, and the reply is lost with the connection.
    ReplyLost,
    /// The first entry alone is in the log, and the connection breaks.
    Half,
    /// The connection breaks before the entries are in the log.
    Cut,
    /// The broker refuses the entries.
    Refuse,
    /// The broker takes no entries.
    Elsewhere,
    /// Too few replicas confirm the entries.
    Unconfirmed,
}

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    last: u64,
    faults: VecDeque<Fault>,
    continuity: VecDeque<Continuity>,
    is_away: bool,
    /// The sentence with which the broker refuses connections.
    refusal: Option<String>,
    opened: u32,
}

impl Log {
    fn add(&mut self, origin: Option<Origin>, content: Content) {
        self.last += 1;
        self.entries.push(Entry { id: Id::new(self.last, 0), at_ms: self.last, origin, content });
    }
}

/// A broker whose log is shared with the test.
#[derive(Clone, Default)]
struct Fake {
    log: Rc<RefCell<Log>>,
    mark: ArcStr,
}

fn away() -> BrokerError {
    BrokerError::Away("away".into())
}

impl Broker for Fake {
    type Writer = Fake;
    type Reader = Fake;

    async fn open(&mut self) -> Result<(Fake, Fake, Tail), BrokerError> {
        let mut log = self.log.borrow_mut();
        if let Some(why) = &log.refusal {
            return Err(BrokerError::Refused(why.clone()));
        }
        if log.is_away {
            return Err(away());
        }
        log.opened += 1;
        let from = log.entries.first().map_or(Id::new(log.last, 0), |entry| entry.id.before());
        let tail = Tail { from, last: Id::new(log.last, 0), now_ms: log.last, is_fenced_off: true };
        Ok((self.clone(), self.clone(), tail))
    }
}

impl Writer for Fake {
    async fn append(&mut self, entries: &[Unordered], is_whole: bool) -> Result<Vec<Appended>, BrokerError> {
        let mut log = self.log.borrow_mut();
        if log.is_away {
            return Err(away());
        }
        let fault = log.faults.pop_front();
        let count = match fault {
            Some(Fault::Cut | Fault::Refuse | Fault::Elsewhere) => 0,
            Some(Fault::Half) if !is_whole => 1,
            Some(Fault::Half) => 0,
            _ => entries.len(),
        };
        for entry in &entries[..count] {
            log.add(Some(Origin { node: self.mark.clone(), number: entry.number }), entry.content.clone());
        }
        match fault {
            Some(Fault::ReplyLost | Fault::Half | Fault::Cut) => Err(away()),
            Some(Fault::Refuse) => Ok(vec![Appended::Refused("OOM".into()); entries.len()]),
            Some(Fault::Elsewhere) => Ok(vec![Appended::Again("READONLY".into()); entries.len()]),
            Some(Fault::Unconfirmed) => Ok(vec![Appended::Unconfirmed("0 of 1".into()); entries.len()]),
            None => Ok(vec![Appended::Done; entries.len()]),
        }
    }

    async fn check(&mut self, _position: Id, _is_entry: bool) -> Result<Continuity, BrokerError> {
        let mut log = self.log.borrow_mut();
        if log.is_away {
            return Err(away());
        }
        Ok(log.continuity.pop_front().unwrap_or(Continuity::Whole))
    }

    async fn forget(&mut self) {}

    async fn fence(&mut self, _position: Id, after: Id) -> Result<(), BrokerError> {
        self.log.borrow_mut().add(None, Content::Control(Control::Fence { after }));
        Ok(())
    }
}

impl Reader for Fake {
    async fn read(&mut self, after: Id, is_entry: bool) -> Result<Page, BrokerError> {
        for _ in 0..100 {
            {
                let log = self.log.borrow();
                if log.is_away {
                    return Err(away());
                }
                let found: Vec<_> = log.entries.iter().filter(|entry| entry.id > after).take(3).cloned().collect();
                if !found.is_empty() {
                    let has_hole = is_entry && !log.entries.iter().any(|entry| entry.id == after);
                    return Ok(Page { entries: found, has_hole });
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Page::default())
    }
}

/// A driver over a fake log, with the hub's ends in the test's hands.
struct World {
    log: Rc<RefCell<Log>>,
    queue: BrokerQueue,
    hub: HubInbox,
    next: u64,
    /// What the driver has told, in its order.
    told: Vec<FromBroker>,
}

fn content(text: &str) -> Content {
    let draft = Draft { name: None, kind: Kind::Text, payload: Bytes::copy_from_slice(text.as_bytes()) };
    Content::Event(Logged { channel: "c".into(), draft, key: None, part: Part::ONLY, is_client: false })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a test beside a driver over a fake log.
fn with_world(before: impl FnOnce(&mut Log), test: impl AsyncFnOnce(&mut World)) {
    let (world, fake, parts, _started) = world(before);
    let mut world = world;
    runtime().block_on(async {
        tokio::select! {
            () = driver::run(fake, parts) => panic!("the driver has ended"),
            () = test(&mut world) => {}
        }
    });
}

type Started = crossbeam_channel::Receiver<Result<(), String>>;

/// A fake log, and what a driver over it is made of.
fn world(before: impl FnOnce(&mut Log)) -> (World, Fake, BackplaneParts, Started) {
    let (queue, inbox) = to_broker().unwrap();
    let (to_hub, hub) = to_hub().unwrap();
    let mut config = Config::default().backplane;
    config.publish_timeout = Duration::from_millis(400);
    let mark = ArcStr::from("n~1");
    let fake = Fake { log: Rc::default(), mark: mark.clone() };
    before(&mut fake.log.borrow_mut());
    let figures = Arc::new(ServerFigures::default());
    let (started, has_started) = crossbeam_channel::bounded(1);
    let state = Arc::default();
    let parts = BackplaneParts { config, mark, inbox, to_hub, state, figures, started };
    let world = World { log: fake.log.clone(), queue, hub, next: 1, told: Vec::new() };
    (world, fake, parts, has_started)
}

impl World {
    fn submit(&mut self, texts: &[&str], is_whole: bool) {
        let entry = |text: &&str| {
            self.next += 1;
            Unordered { number: self.next - 1, content: content(text) }
        };
        let entries = texts.iter().map(entry).collect();
        self.queue.send(ToBroker::Append { entries, is_whole, is_lasting: false });
        self.queue.ring();
    }

    /// Waits until the driver has told something that `holds`.
    async fn await_told(&mut self, what: &str, mut holds: impl FnMut(&[FromBroker]) -> bool) {
        for _ in 0..5000 {
            while let Some(message) = self.hub.next() {
                if let HubMessage::Broker(message) = message {
                    if let FromBroker::Entries(entries) = &message {
                        self.queue.applied(entries.iter().map(|entry| entry.content.weight()).sum());
                    }
                    self.told.push(message);
                }
            }
            if holds(&self.told) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{what}: {:?}", self.told);
    }

    async fn await_live(&mut self) {
        self.await_told("the driver is live", |told| {
            matches!(told.last(), Some(FromBroker::State(BrokerState::Live))) || told.len() > 1
        })
        .await;
    }

    /// Waits until so many events were read, and returns their texts.
    async fn await_events(&mut self, count: usize) -> Vec<String> {
        self.await_told("events are read", |told| texts(told).len() >= count).await;
        texts(&self.told)
    }
}

/// The texts of the events that were read.
fn texts(told: &[FromBroker]) -> Vec<String> {
    let entries = told.iter().filter_map(|message| match message {
        FromBroker::Entries(entries) => Some(entries),
        _ => None,
    });
    let text = |entry: &Entry| match &entry.content {
        Content::Event(event) => Some(String::from_utf8_lossy(&event.draft.payload).into_owned()),
        _ => None,
    };
    entries.flatten().filter_map(text).collect()
}

/// The numbers that were refused, and whether that is certain.
fn refused(told: &[FromBroker]) -> Vec<(u64, bool)> {
    let number = |message: &FromBroker| match message {
        FromBroker::Refused { number, is_certain, .. } => Some((*number, *is_certain)),
        _ => None,
    };
    told.iter().filter_map(number).collect()
}

#[test]
fn a_broker_that_refuses_the_node_ends_the_start_at_once() {
    let (_world, fake, parts, started) = world(|log| log.refusal = Some("WRONGTYPE".into()));
    runtime().block_on(driver::run(fake, parts));
    assert_eq!(started.try_recv(), Ok(Err("WRONGTYPE".to_owned())));
}

#[test]
fn a_start_reads_what_is_in_the_log_and_goes_on() {
    let before = |log: &mut Log| ["a", "b", "c", "d"].iter().for_each(|text| log.add(None, content(text)));
    with_world(before, async |world| {
        assert_eq!(world.await_events(4).await, ["a", "b", "c", "d"]);
        let first = &world.told[0];
        let catching_up = BrokerState::CatchingUp { from: Id::new(1, 0).before(), until: Id::new(4, 0), now_ms: 4 };
        assert!(matches!(first, FromBroker::State(state) if *state == catching_up), "{first:?}");
        world.submit(&["e"], false);
        world.submit(&["f", "g"], true);
        assert_eq!(world.await_events(7).await[4..], ["e", "f", "g"]);
        let is_confirmed = |message: &FromBroker| matches!(message, FromBroker::Confirmed(3));
        world.await_told("all are confirmed", |told| told.iter().any(is_confirmed)).await;
    });
}

#[test]
fn entries_whose_outcome_is_unknown_arrive_once_and_in_order() {
    for fault in [Fault::ReplyLost, Fault::Half, Fault::Cut, Fault::Elsewhere] {
        with_world(
            |log| log.faults.push_back(fault),
            async |world| {
                world.await_live().await;
                world.submit(&["a"], false);
                world.submit(&["b"], false);
                world.submit(&["c", "d"], true);
                assert_eq!(world.await_events(4).await, ["a", "b", "c", "d"], "{fault:?}");
                world.submit(&["e"], false);
                assert_eq!(world.await_events(5).await[4..], ["e"], "{fault:?}");
                assert_eq!((refused(&world.told), world.log.borrow().opened), (vec![], 2), "{fault:?}");
            },
        );
    }
}

#[test]
fn a_refused_entry_is_told_as_surely_not_published_and_an_unconfirmed_one_as_unsure() {
    with_world(
        |_| {},
        async |world| {
            world.await_live().await;
            world.log.borrow_mut().faults.push_back(Fault::Refuse);
            world.submit(&["a"], false);
            world.await_told("the first is refused", |told| refused(told) == [(1, true)]).await;
            world.log.borrow_mut().faults.push_back(Fault::Unconfirmed);
            world.submit(&["b"], false);
            world.await_told("the second is unsure", |told| refused(told) == [(1, true), (2, false)]).await;
            world.submit(&["c"], false);
            assert_eq!(world.await_events(2).await, ["b", "c"]);
        },
    );
}

#[test]
fn a_publisher_is_told_the_truth_while_the_broker_is_away() {
    with_world(
        |_| {},
        async |world| {
            world.await_live().await;
            world.log.borrow_mut().is_away = true;
            world
                .await_told("the broker is away", |told| {
                    told.iter().any(|message| matches!(message, FromBroker::State(BrokerState::Away)))
                })
                .await;
            world.submit(&["a"], false);
            world.await_told("it was not published", |told| refused(told) == [(1, true)]).await;
            world.submit(&["b"], false);
            world.log.borrow_mut().is_away = false;
            assert_eq!(world.await_events(1).await, ["b"], "one that waits is published when the broker is back");
        },
    );
}

#[test]
fn a_hole_in_what_is_read_is_told_before_the_entries_after_it() {
    with_world(
        |log| log.add(None, content("a")),
        async |world| {
            world.await_events(1).await;
            {
                let mut log = world.log.borrow_mut();
                log.add(None, content("trimmed"));
                log.entries.clear();
                log.add(None, content("c"));
            }
            assert_eq!(world.await_events(2).await, ["a", "c"]);
            let gap =
                world.told.iter().position(|message| matches!(message, FromBroker::Gap { loss: Loss::Trimmed, .. }));
            let Some(FromBroker::Gap { after, resumed, .. }) = gap.map(|place| &world.told[place]) else { panic!() };
            assert_eq!((*after, *resumed), (Id::new(1, 0), Id::new(3, 0).before()));
        },
    );
}

#[test]
fn a_loss_is_told_and_lost_entries_are_fenced() {
    with_world(
        |log| log.add(None, content("a")),
        async |world| {
            world.await_events(1).await;
            world.log.borrow_mut().continuity.push_back(Continuity::Lost(Id::new(1, 0)));
            world
                .await_told("the fence is read", |told| {
                    let is_fence =
                        |entry: &Entry| entry.content == Content::Control(Control::Fence { after: Id::new(1, 0) });
                    told.iter()
                        .any(|message| matches!(message, FromBroker::Entries(entries) if entries.iter().any(is_fence)))
                })
                .await;
            for (continuity, expected) in [
                (Continuity::Trimmed(Id::new(7, 0)), Loss::Trimmed),
                (Continuity::Emptied(Id::new(9, 0)), Loss::Emptied),
            ] {
                world.log.borrow_mut().continuity.push_back(continuity);
                world
                    .await_told(
                        "the gap is told",
                        |told| matches!(told.last(), Some(FromBroker::Gap { loss, .. }) if *loss == expected),
                    )
                    .await;
            }
            let Some(FromBroker::Gap { after, resumed, .. }) = world.told.last() else { panic!("{:?}", world.told) };
            assert_eq!((*after, *resumed), (Id::new(7, 0), Id::new(9, 0)));
        },
    );
}
