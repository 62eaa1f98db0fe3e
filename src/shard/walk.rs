//! Walks: passes over the readers of lanes with new events. A walk visits each reader and plans a send with everything
//! up to the head. Walks take turns, short ones first.

use std::collections::VecDeque;

use crate::figures::Measure;
use crate::logic::log::Position;

use super::batch::Batch;
use super::connection::{Flags, State};
use super::context::Context;
use super::lag::overrun;
use super::lanes::{Lanes, Reader};
use super::next::plan;
use super::polls;
use super::slots::Slots;

/// The readers of one lane that are visited before the next lane has its turn. A walk of at most that many is short.
const VISITS_MAX: usize = 64;
/// The most readers visited in one turn, with those that need no send.
const VISITS_PER_TURN: usize = 4096;

/// The pieces of a batch's budget that a poll's answer costs, beside one for each of its channels.
const POLL_PIECES: usize = 4;

/// A pass over the readers of a lane, from the last one down, so that no reader is missed when another one leaves during
/// the pass.
#[derive(Debug, Default)]
struct Walk {
    lane: u32,
    /// Readers before this place are still to be visited.
    position: usize,
    /// The position that marks slow readers: one that stands before it while the kernel has no room for its bytes.
    floor: Position,
    /// The head when the pass began.
    head: Position,
    /// Whether the pass has begun. It begins with its first visit, so that it covers every event that came together
    /// with the first one.
    has_begun: bool,
    /// Some reader stands before the floor only because the shard has not sent to it yet.
    stragglers: bool,
    lag_max: u64,
    /// The number of planned sends.
    sends: u64,
}

/// The length of a walk, which decides its share of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Short,
    Long,
}

/// The walks that are under way. Short walks go before long ones within their share of a batch, so that an event for
/// few readers never waits for events for many.
#[derive(Debug, Default)]
pub(super) struct Walks {
    short: VecDeque<Walk>,
    long: VecDeque<Walk>,
    /// The lane whose readers must be walked before the shard takes more events, if there is one.
    held_by: Option<u32>,
}

impl Walks {
    fn of(&mut self, length: Length) -> &mut VecDeque<Walk> {
        match length {
            Length::Short => &mut self.short,
            Length::Long => &mut self.long,
        }
    }

    /// Adds a walk after those of its length.
    fn add(&mut self, walk: Walk, readers: usize) {
        let length = if readers <= VISITS_MAX { Length::Short } else { Length::Long };
        self.of(length).push_back(walk);
    }

    fn iter(&self) -> impl Iterator<Item = &Walk> {
        self.short.iter().chain(&self.long)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    /// Whether the shard must not take more events before a walk is over.
    pub(super) fn holds_events_back(&self) -> bool {
        self.held_by.is_some()
    }

    /// Begins a pass over the lane's readers, unless one is under way, which then goes on to the new head. If the lane
    /// has outgrown that walk, the shard takes no more events until the walk is over.
    pub(super) fn begin(&mut self, lanes: &mut Lanes, lane: u32) {
        if self.is_outgrown(lanes, lane) {
            self.held_by = Some(lane);
        }
        let readers = lanes.readers(lane).len();
        if readers > 0 && !std::mem::replace(&mut lanes[lane].walking, true) {
            self.add(Walk { lane, ..Walk::default() }, readers);
        }
    }

    /// Whether a lane has grown so much since its present pass began that the last readers would exceed their backlog
    /// only because of the shard. Readers that were slow before do not hold up the others.
    fn is_outgrown(&self, lanes: &Lanes, lane: u32) -> bool {
        let (log, max_lag) = (&lanes[lane].log, lanes.max_lag(lane));
        let is_behind = |walk: &Walk| walk.lane == lane && walk.has_begun && log.head() - walk.head > max_lag;
        log.kept_bytes() > max_lag && self.iter().any(is_behind)
    }

    /// Goes on with walks of one length, in turn, until the batch has a number of sends.
    pub(super) fn go_on(
        &mut self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        cx: &mut Context,
        batch: &mut Batch,
        (length, plans_max): (Length, usize),
    ) {
        let mut visits = VISITS_PER_TURN;
        while !batch.is_full(plans_max) && visits > 0 {
            let Some(mut walk) = self.of(length).pop_front() else { break };
            if !walk.has_begun {
                walk.set_out(lanes);
            }
            let mut left = VISITS_MAX.min(visits);
            visits -= left;
            let mut must_send = false;
            while left > 0 && !must_send && !batch.is_full(plans_max) {
                let readers = lanes.readers(walk.lane);
                walk.position = walk.position.min(readers.len());
                let Some(reader) = walk.position.checked_sub(1).and_then(|place| readers.get(place).copied()) else {
                    break;
                };
                if walk.visit(slots, lanes, cx, batch, reader) {
                    walk.position -= 1;
                } else {
                    must_send = true;
                }
                left -= 1;
            }
            let readers = lanes.readers(walk.lane).len();
            if must_send || walk.position > 0 {
                self.add(walk, readers);
            } else {
                self.end(lanes, cx, &walk);
            }
            if must_send {
                break;
            }
        }
    }

    /// Ends a pass: drops frames that are too old, and begins another pass if events have come meanwhile.
    fn end(&mut self, lanes: &mut Lanes, cx: &mut Context, walk: &Walk) {
        let lane = &mut lanes[walk.lane];
        lane.walking = false;
        let has_news = lane.log.head() != walk.head;
        cx.counters.walks += 1;
        if walk.sends > 0 {
            cx.measures.record(Measure::Pass, walk.sends);
        }
        cx.counters.lag_max_bytes = cx.counters.lag_max_bytes.max(walk.lag_max);
        if self.held_by == Some(walk.lane) {
            self.held_by = None;
        }
        if !walk.stragglers {
            lanes.trim(walk.lane, walk.floor);
        }
        if has_news || walk.stragglers {
            self.begin(lanes, walk.lane);
        }
    }
}

impl Walk {
    /// Begins the pass with the present readers. A reader that comes later starts behind the floor.
    fn set_out(&mut self, lanes: &Lanes) {
        let log = &lanes[self.lane].log;
        self.position = lanes.readers(self.lane).len();
        self.floor = log.floor(lanes.max_lag(self.lane));
        self.head = log.head();
        self.has_begun = true;
    }

    /// Plans a reader's next send; returns whether the walk can go on without sending the batch first.
    fn visit(
        &mut self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        cx: &mut Context,
        batch: &mut Batch,
        reader: Reader,
    ) -> bool {
        let connection = &slots[reader.slot];
        let Some(cursor) = connection.subscription(reader.subscription as usize).map(|s| s.cursor) else {
            debug_assert!(false, "a reader has its subscription");
            return true;
        };
        let lane = &lanes[self.lane];
        if cursor == lane.log.head() && !lanes.channels[lane.channel].ended {
            return true;
        }
        self.lag_max = self.lag_max.max(self.head.saturating_sub(cursor));
        let is_overrun = cursor < self.floor;
        let flags = connection.flags;
        if flags.intersects(Flags::PLANNED) {
            return !is_overrun;
        }
        if flags.intersects(Flags::BLOCKED) {
            cx.measures.record(Measure::Lag, self.head.saturating_sub(cursor));
        }
        if connection.state == State::Poll {
            batch.budget.spend(POLL_PIECES + connection.subscriptions());
            polls::answer(slots, lanes, cx, reader.slot);
            batch.budget.look();
        } else if is_overrun {
            if flags.intersects(Flags::BLOCKED | Flags::REPLAYING) {
                overrun(slots, lanes, cx, reader, self.lane, self.floor);
                return true;
            }
            self.stragglers = true;
        }
        let planned = batch.len();
        plan(slots, lanes, cx, batch, reader.slot);
        self.sends += (batch.len() - planned) as u64;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::context::Budget;
    use super::super::tests::tables::Tables;
    use super::*;
    use crate::config::SlowPolicy;

    /// Goes on with the walks of a length and takes the planned sends out, without sending them.
    fn go_on(walks: &mut Walks, tables: &mut Tables, length: Length, plans_max: usize) -> Vec<u32> {
        let Tables { slots, lanes, cx, batch } = tables;
        walks.go_on(slots, lanes, cx, batch, (length, plans_max));
        batch.plans.drain(..).map(|plan| plan.slot).inspect(|slot| slots[*slot].flags.remove(Flags::PLANNED)).collect()
    }

    /// A lane that keeps at most 1000 bytes for a slow reader, and its readers.
    fn with_readers(count: usize) -> (Tables, u32, Vec<u32>) {
        let mut tables = Tables::new();
        let lane = tables.lane(SlowPolicy::Gap);
        let slots = (0..count).map(|_| tables.stream(&[lane])).collect();
        (tables, lane, slots)
    }

    #[test]
    fn every_reader_is_visited_once_from_the_last_one_down() {
        let (mut tables, lane, slots) = with_readers(5);
        tables.append(lane, 1, 10);
        let mut walks = Walks::default();
        walks.begin(&mut tables.lanes, lane);
        walks.begin(&mut tables.lanes, lane);
        assert_eq!((walks.short.len(), walks.long.len()), (1, 0), "one walk for a lane");
        assert_eq!(go_on(&mut walks, &mut tables, Length::Long, 100), [0u32; 0]);
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 2), [slots[4], slots[3]]);
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 100), [slots[2], slots[1], slots[0]]);
        assert!(walks.is_empty() && !tables.lanes[lane].walking);
        assert_eq!((tables.cx.counters.walks, tables.measured(Measure::Pass)), (1, (1, 5)));
    }

    #[test]
    fn one_turn_visits_a_number_of_readers() {
        let mut tables = Tables::new();
        let lanes: Vec<u32> = (0..VISITS_PER_TURN / VISITS_MAX + 1).map(|_| tables.lane(SlowPolicy::Gap)).collect();
        for _ in 0..VISITS_MAX {
            tables.stream(&lanes);
        }
        let mut walks = Walks::default();
        lanes.iter().for_each(|lane| walks.begin(&mut tables.lanes, *lane));
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 100), [0u32; 0]);
        assert_eq!((tables.cx.counters.walks, walks.short.len()), (64, 1), "4096 readers are visited");
        go_on(&mut walks, &mut tables, Length::Short, 100);
        assert!(walks.is_empty());
        assert_eq!(tables.measured(Measure::Pass), (0, 0), "a walk without a send is not measured");
    }

    #[test]
    fn the_answer_of_a_poll_costs_the_budget_five_pieces() {
        let (mut tables, lane, slots) = with_readers(3);
        tables.append(lane, 1, 10);
        slots.iter().for_each(|slot| tables.slots.enter_state(*slot, State::Poll));
        tables.batch.budget = Budget::new((10, Duration::from_secs(60)));
        let mut walks = Walks::default();
        walks.begin(&mut tables.lanes, lane);
        go_on(&mut walks, &mut tables, Length::Short, 100);
        let subscriptions = slots.iter().map(|slot| tables.slots[*slot].subscriptions());
        assert_eq!(subscriptions.collect::<Vec<_>>(), [1, 0, 0]);
    }

    #[test]
    fn a_walk_of_many_readers_is_long_and_one_of_none_does_not_begin() {
        for (count, lengths) in [(0, (0, 0)), (VISITS_MAX, (1, 0)), (VISITS_MAX + 1, (0, 1))] {
            let (mut tables, lane, _) = with_readers(count);
            let mut walks = Walks::default();
            walks.begin(&mut tables.lanes, lane);
            assert_eq!((walks.short.len(), walks.long.len()), lengths, "{count}");
            assert_eq!(tables.lanes[lane].walking, count > 0);
        }
    }

    #[test]
    fn readers_with_everything_and_readers_without_room_get_no_send() {
        let (mut tables, lane, slots) = with_readers(3);
        tables.append(lane, 1, 10);
        tables.set_cursor(slots[1], 0, 10, false);
        tables.slots[slots[2]].flags.insert(Flags::BLOCKED);
        let mut walks = Walks::default();
        walks.begin(&mut tables.lanes, lane);
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 100), [slots[0]]);
        assert_eq!(tables.cx.counters.lag_max_bytes, 10);
        assert_eq!([Measure::Pass, Measure::Lag].map(|measure| tables.measured(measure)), [(1, 1), (1, 10)]);
    }

    #[test]
    fn a_reader_without_room_before_the_floor_is_moved_on_and_the_log_is_trimmed() {
        let (mut tables, lane, slots) = with_readers(2);
        (1..=12).for_each(|number| tables.append(lane, number, 100));
        tables.slots[slots[0]].flags.insert(Flags::BLOCKED);
        tables.set_cursor(slots[1], 0, 1200, false);
        let mut walks = Walks::default();
        walks.begin(&mut tables.lanes, lane);
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 100), [0u32; 0]);
        assert_eq!((tables.cursor(slots[0], 0), tables.cx.counters.slow_gaps), (200, 1));
        assert_eq!(tables.lanes[lane].log.tail(), 200, "a thousand bytes are kept");
        assert!(walks.is_empty());
    }

    #[test]
    fn a_reader_that_the_shard_has_not_got_round_to_keeps_its_frames() {
        let (mut tables, lane, slots) = with_readers(1);
        (1..=12).for_each(|number| tables.append(lane, number, 100));
        let mut walks = Walks::default();
        walks.begin(&mut tables.lanes, lane);
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 100)[0], slots[0]);
        assert_eq!((tables.cursor(slots[0], 0), tables.lanes[lane].log.tail()), (0, 0), "nothing is dropped");
        assert_eq!(tables.cx.counters.slow_gaps, 0);
        assert!(!walks.is_empty(), "another walk follows");
    }

    #[test]
    fn a_planned_reader_before_the_floor_is_sent_to_first() {
        let (mut tables, lane, slots) = with_readers(2);
        (1..=12).for_each(|number| tables.append(lane, number, 100));
        tables.slots[slots[1]].flags.insert(Flags::PLANNED);
        let mut walks = Walks::default();
        walks.begin(&mut tables.lanes, lane);
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 100), [0u32; 0]);
        assert_eq!(walks.short[0].position, 2, "the walk waits for the batch");
        tables.set_cursor(slots[1], 0, 300, false);
        tables.slots[slots[1]].flags.insert(Flags::PLANNED);
        assert_eq!(go_on(&mut walks, &mut tables, Length::Short, 1), [slots[0]], "after the floor it may wait");
    }

    #[test]
    fn a_lane_that_outgrows_its_walk_holds_events_back_until_the_walk_is_over() {
        let (mut tables, lane, _) = with_readers(2);
        tables.append(lane, 1, 500);
        let mut walks = Walks::default();
        walks.begin(&mut tables.lanes, lane);
        tables.append(lane, 2, 1500);
        walks.begin(&mut tables.lanes, lane);
        assert!(!walks.holds_events_back(), "the walk has not begun");
        go_on(&mut walks, &mut tables, Length::Short, 1);
        tables.append(lane, 3, 1000);
        walks.begin(&mut tables.lanes, lane);
        assert!(!walks.holds_events_back(), "it has grown by what a reader may be behind");
        tables.append(lane, 4, 1);
        walks.begin(&mut tables.lanes, lane);
        assert!(walks.holds_events_back());
        go_on(&mut walks, &mut tables, Length::Short, 100);
        assert!(!walks.holds_events_back());
    }

    #[test]
    fn a_log_that_keeps_no_more_than_a_reader_may_be_behind_holds_nothing_back() {
        for (tail, holds) in [(2000, true), (2001, false)] {
            let (mut tables, lane, _) = with_readers(1);
            [2000, 1, 1000].into_iter().zip(1..).for_each(|(bytes, number)| tables.append(lane, number, bytes));
            tables.lanes.trim(lane, tail);
            let mut walks = Walks::default();
            walks.short.push_back(Walk { lane, head: 2000, has_begun: true, ..Walk::default() });
            walks.begin(&mut tables.lanes, lane);
            assert_eq!(walks.holds_events_back(), holds, "{tail}");
        }
    }

    #[test]
    fn long_walks_take_turns_of_64_visits() {
        let mut tables = Tables::new();
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        let slots = lanes.map(|lane| [(); 100].map(|()| tables.stream(&[lane])));
        let mut walks = Walks::default();
        for lane in lanes {
            tables.append(lane, 1, 10);
            walks.begin(&mut tables.lanes, lane);
        }
        // Each walk goes from the last reader down.
        let turns = [&slots[0][36..], &slots[1][36..], &slots[0][..36], &slots[1][..36]];
        let expected: Vec<u32> = turns.iter().flat_map(|turn| turn.iter().rev().copied()).collect();
        assert_eq!(go_on(&mut walks, &mut tables, Length::Long, 1000), expected);
        assert!(walks.is_empty());
    }
}
