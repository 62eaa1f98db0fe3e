//! The shard's budget of memory for slow clients: what is on the `account` beyond it is given back by those connections
//! that make the shard keep the most.
//!
//! Giving back has three steps, each in slices over turns. Walks that are under way end first, so that no connection pays
//! for what the shard has not got round to. Then each log drops what none of its readers needs any more. If that is not
//! enough, all connections are looked at, and those furthest behind are cut off until an eighth of the budget is free; if
//! buffers take more than logs do, those that hold the most are. Bytes count by the time for which they have stood: a
//! client that reads slowly is cut off after one with as much that reads nothing. The shard reads no input and takes no
//! events meanwhile.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tracing::warn;

use crate::logic::log::Position;
use crate::logic::wheel::Tick;

use super::account::{backlog, can_be_cut, is_over, used};
use super::context::{Budget, Context};
use super::lag::cut;
use super::lanes::Lanes;
use super::settings::TICKS_PER_SECOND;
use super::slots::Slots;

/// What the steps may take of one turn: any number of slots, lanes, readers and subscriptions, for this time.
const SLICE: (usize, Duration) = (usize::MAX, Duration::from_millis(1));
/// The most connections that are cut off after one look at all of them.
const CUTS_MAX: usize = 64;
/// The most readers of a log that is trimmed. There are few lanes with more readers.
const READERS_MAX: usize = 32 * 1024;
/// The time before the next try if no connection could be cut off.
const REST: Tick = TICKS_PER_SECOND;
/// The least time between two warnings.
const WARN_EVERY: Tick = 10 * TICKS_PER_SECOND;

/// A step that is under way, with the number of the next lane or slot to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The logs drop what no reader needs.
    Trim(u32),
    /// The connections are looked at for those that make the shard keep the most.
    Search(u32),
}

/// The budget and the step that is under way; see the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Memory {
    step: Option<Step>,
    /// The connections with the largest backlogs among those that were looked at.
    furthest: Top,
    /// The connections with the largest buffers among those that were looked at.
    fullest: Top,
    /// The time until which nothing is tried, because no connection could be cut off.
    resting_until: Tick,
    /// The time of the last warning.
    warned: Option<Tick>,
}

/// The connections with the largest weights: slot and generation. A weight is a number of bytes, times the ticks for
/// which they have stood.
#[derive(Debug, Default)]
struct Top(BinaryHeap<Reverse<(u64, u32, u32)>>);

impl Top {
    fn add(&mut self, weight: u64, slot: u32, generation: u32) {
        if weight == 0 {
            return;
        }
        if self.0.len() < CUTS_MAX {
            self.0.push(Reverse((weight, slot, generation)));
        } else if let Some(mut least) = self.0.peek_mut()
            && least.0.0 < weight
        {
            *least = Reverse((weight, slot, generation));
        }
    }

    /// Takes out all connections, the one with the largest weight first.
    fn take(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.0)
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse((_, slot, generation))| (slot, generation))
            .collect()
    }
}

impl Memory {
    /// Whether the shard must give memory back before it takes more input and events.
    pub(super) fn is_short(&self, slots: &Slots, lanes: &Lanes, cx: &Context) -> bool {
        is_over(slots, lanes, cx, 0) && cx.now >= self.resting_until
    }

    /// Goes on with giving memory back; returns whether there is more to give back. `is_walking`: walks are under way,
    /// which may free memory by themselves.
    pub(super) fn go_on(&mut self, slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, is_walking: bool) -> bool {
        if !self.is_short(slots, lanes, cx) {
            self.step = None;
            // What was found may be caught up by the next time.
            self.furthest = Top::default();
            self.fullest = Top::default();
            return false;
        }
        if is_walking {
            return true;
        }
        match self.step.unwrap_or(Step::Trim(0)) {
            Step::Trim(lane) => {
                let next = trim_logs(slots, lanes, lane);
                self.step = Some(next.map_or(Step::Search(0), Step::Trim));
            }
            Step::Search(slot) => match self.search(slots, lanes, cx.now, slot) {
                Some(next) => self.step = Some(Step::Search(next)),
                None => {
                    self.step = None;
                    self.cut_off(slots, lanes, cx);
                }
            },
        }
        true
    }

    /// Looks at some more connections; returns the next slot to look at, if there are more.
    fn search(&mut self, slots: &Slots, lanes: &Lanes, now: Tick, first: u32) -> Option<u32> {
        let mut slice = Budget::new(SLICE);
        for slot in first..slots.capacity() {
            let connection = &slots[slot];
            let mut pieces = 1;
            if can_be_cut(connection) {
                let held = slots.held(slot);
                let changed = if held.output >= held.input { connection.sent } else { connection.received };
                let stood = |since: Tick| u64::from(now.saturating_sub(since)) + 1;
                let (behind, looks) = backlog(connection, lanes);
                self.furthest.add(behind * stood(connection.sent), slot, connection.generation);
                self.fullest.add(held.total() * stood(changed), slot, connection.generation);
                pieces += looks;
            }
            slice.spend(pieces);
            if slice.is_spent() {
                return Some(slot + 1);
            }
        }
        None
    }

    /// Cuts off the connections that were found, those with the largest weights first, until an eighth of the budget is free.
    fn cut_off(&mut self, slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context) {
        let (furthest, fullest) = (self.furthest.take(), self.fullest.take());
        let is_for_logs = lanes.lagging_bytes > slots.buffers.total();
        let victims = if furthest.is_empty() || !is_for_logs && !fullest.is_empty() { fullest } else { furthest };
        let before = used(slots, lanes);
        let target = cx.settings.lag_memory - cx.settings.lag_memory / 8;
        // Buffers are freed when the turn carries the ends out.
        let mut to_be_freed = 0;
        let mut count = 0;
        for (slot, generation) in victims {
            if used(slots, lanes).saturating_sub(to_be_freed) <= target {
                break;
            }
            if slots[slot].generation == generation && can_be_cut(&slots[slot]) {
                cut(slots, lanes, cx, slot);
                to_be_freed += slots.held(slot).total();
                count += 1;
            }
        }
        cx.counters.memory_disconnected += count;
        if count == 0 {
            self.resting_until = cx.now + REST;
        } else if self.warned.is_none_or(|warned| cx.now >= warned + WARN_EVERY) {
            self.warned = Some(cx.now);
            let (shard, budget) = (cx.index, cx.settings.lag_memory);
            warn!(
                shard,
                count,
                bytes = before,
                budget,
                "connections were cut off: slow clients used up [limits] lag_memory"
            );
        }
    }
}

/// Has some more logs drop what none of their readers needs any more; returns the next lane to look at, if there are
/// more.
fn trim_logs(slots: &Slots, lanes: &mut Lanes, first: u32) -> Option<u32> {
    let mut slice = Budget::new(SLICE);
    for lane in first..lanes.capacity() {
        let mut pieces = 1;
        if lanes.lags(lane) && lanes.readers(lane).len() <= READERS_MAX {
            pieces += lanes.readers(lane).len() + lanes[lane].log.kept_bytes() as usize / 1024;
            if let Some(least) = least_cursor(slots, lanes, lane) {
                lanes.trim(lane, least);
                lanes.compact(lane);
            }
        }
        slice.spend(pieces);
        if slice.is_spent() {
            return Some(lane + 1);
        }
    }
    None
}

/// The position before which every reader of a lane has everything.
fn least_cursor(slots: &Slots, lanes: &Lanes, lane: u32) -> Option<Position> {
    let cursor = |reader: &super::lanes::Reader| {
        slots[reader.slot].subscription(reader.subscription as usize).map(|subscription| subscription.cursor)
    };
    lanes.readers(lane).iter().filter_map(cursor).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_taken_in_their_order() {
        let mut top = Top::default();
        for number in 0..1000u32 {
            let bytes = u64::from(number * 7919 % 1000);
            top.add(bytes, number, number + 1);
        }
        let taken = top.take();
        assert_eq!(taken.len(), CUTS_MAX);
        for (place, (slot, generation)) in taken.into_iter().enumerate() {
            assert_eq!((slot * 7919 % 1000, generation), (999 - place as u32, slot + 1));
        }
        assert!(top.take().is_empty());
        top.add(0, 1, 1);
        assert!(top.take().is_empty(), "a connection that takes nothing is not named");
    }
}
