//! Slots and lanes by themselves, for tests of the functions over them.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, SlowPolicy};
use crate::figures::{Counters, Measure, Measures, SharedMeasures};
use crate::logic::id::Id;
use crate::logic::session::LaneKey;

use super::super::admission::Admission;
use super::super::batch::Batch;
use super::super::connection::{Peer, State, Subscription};
use super::super::context::{Budget, Context};
use super::super::lanes::{Following, Lanes, Reader};
use super::super::rates::Rates;
use super::super::settings::{Policy, Settings};
use super::super::slots::Slots;
use super::super::subscriptions::read_from_head;
use crate::logic::cells::NONE;

/// The two tables and what functions over them are given.
pub(in crate::shard) struct Tables {
    pub(in crate::shard) slots: Slots,
    pub(in crate::shard) lanes: Lanes,
    pub(in crate::shard) cx: Context,
    pub(in crate::shard) batch: Batch,
}

/// The id of the event that many tests number so.
pub(in crate::shard) fn id(number: u64) -> Id {
    Id::new(number, 0)
}

impl Tables {
    pub(in crate::shard) fn new() -> Tables {
        let config = Config::default();
        let cx = Context {
            index: 0,
            admission: Arc::new(Admission::new(&config.server)),
            settings: Settings::new(Arc::new(config), u64::MAX),
            now: 1,
            counters: Counters::default(),
            measures: Measures::default(),
            effects: Vec::new(),
            rates: Rates::new(),
            drain_ends: None,
            dated: None,
            rng: fastrand::Rng::with_seed(1),
        };
        let mut batch = Batch::default();
        batch.budget = Budget::new((1_000_000, Duration::from_secs(60)));
        Tables { slots: Slots::new(), lanes: Lanes::new(), cx, batch }
    }

    /// A lane of a new channel that is followed since the beginning.
    pub(in crate::shard) fn lane(&mut self, slow: SlowPolicy) -> u32 {
        let policy = self.lanes.policy_number(Policy { max_lag: 1000, slow, presence: false });
        let channel = self.lanes.add(format!("c{}", self.lanes.channels.used()).into(), policy);
        self.lanes.channels[channel].following = Following::Yes;
        self.lanes.lane(channel, LaneKey::default())
    }

    /// An open stream that reads these lanes from their heads on.
    pub(in crate::shard) fn stream(&mut self, lanes: &[u32]) -> u32 {
        let (near, _) = UnixStream::pair().unwrap();
        let slot = self.slots.occupy(near.into(), Peer::default(), State::Stream, 1);
        for lane in lanes {
            self.lanes.enter(*lane);
            let index = self.slots[slot].add_subscription(Subscription { lane: *lane, place: NONE, cursor: 0 });
            read_from_head(&mut self.slots, &mut self.lanes, slot, index);
        }
        slot
    }

    /// Appends an event whose frame is that many bytes, each the last digit of the event's number.
    pub(in crate::shard) fn append(&mut self, lane: u32, number: u64, bytes: usize) {
        let digit = b'0' + (number % 10) as u8;
        self.lanes.append(lane, id(number), 1, |out| out.extend(std::iter::repeat_n(digit, bytes)));
    }

    /// Moves the only subscription of a stream to a position within its lane's frames.
    pub(in crate::shard) fn set_cursor(&mut self, slot: u32, index: usize, cursor: u64, is_mid: bool) {
        self.slots[slot].subscription_mut(index).unwrap().cursor = cursor;
        self.slots[slot].set_mid_frame(is_mid.then_some(index));
    }

    pub(in crate::shard) fn cursor(&self, slot: u32, index: usize) -> u64 {
        self.slots[slot].subscription(index).unwrap().cursor
    }

    pub(in crate::shard) fn reader(slot: u32) -> Reader {
        Reader { slot, subscription: 0 }
    }

    /// The number of values of a measure, and their sum.
    pub(in crate::shard) fn measured(&self, measure: Measure) -> (u64, u64) {
        let shared = SharedMeasures::default();
        self.cx.measures.publish(&shared);
        let (counts, sum) = shared.get(measure);
        (counts.iter().sum(), sum)
    }

    /// What waits in a connection's `out`, as text.
    pub(in crate::shard) fn out(&self, slot: u32) -> &str {
        std::str::from_utf8(self.slots[slot].out_bytes()).unwrap()
    }
}
