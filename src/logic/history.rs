//! A channel's history: the newest events, within limits, and the id since which they are complete.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Event;
use super::id::Id;

/// How much a channel's history may hold. Zero events means that none is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// The most events.
    pub events_max: usize,
    /// The most bytes, as [`Event::weight`] counts them.
    pub bytes_max: usize,
    /// The greatest age, in milliseconds.
    pub age_max_ms: u64,
}

/// The most events that one call drops for their age. The rest is dropped by later calls, so that no call takes long.
const EXPIRED_MAX: usize = 256;
/// Room for events that an emptying history keeps.
const ROOM_MIN: usize = 64;

/// The bytes that one kept event takes beside those that [`Event::weight`] counts: its place here, and the event itself.
pub const EVENT_OVERHEAD: usize = 112;

/// An event with the time at which it arrived. The id does not tell that time: ids run ahead of a clock that was set
/// back.
#[derive(Debug)]
struct Kept {
    event: Arc<Event>,
    arrived_ms: u64,
}

/// The newest events of one channel.
///
/// Times are milliseconds of any clock that only goes forwards.
///
/// # Invariants
/// - Events are in the order of their ids.
/// - Every event of the channel whose id is greater than `complete_since` is kept.
#[derive(Debug, Default)]
pub struct History {
    events: VecDeque<Kept>,
    bytes: usize,
    complete_since: Id,
}

impl History {
    /// An empty history of a channel that had no event after `complete_since`.
    pub fn new(complete_since: Id) -> History {
        History { events: VecDeque::new(), bytes: 0, complete_since }
    }

    /// Adds the newest event, which has arrived at `now_ms`, and drops events that are over the limits.
    pub fn push(&mut self, event: Arc<Event>, limits: &HistoryLimits, now_ms: u64) {
        debug_assert!(self.events.back().is_none_or(|newest| newest.event.id < event.id), "events come in order");
        self.bytes += event.weight();
        self.events.push_back(Kept { event, arrived_ms: now_ms });
        self.trim(limits, now_ms);
    }

    /// Drops the events that are over the limits at `now_ms`. Returns whether all are dropped that are too old: one call
    /// drops only so many.
    pub fn trim(&mut self, limits: &HistoryLimits, now_ms: u64) -> bool {
        while self.events.len() > limits.events_max || self.bytes > limits.bytes_max {
            self.drop_oldest();
        }
        self.expire(limits.age_max_ms, now_ms)
    }

    /// Drops events older than `age_max_ms` at `now_ms`. Returns whether all of them are dropped: one call drops only so
    /// many.
    pub fn expire(&mut self, age_max_ms: u64, now_ms: u64) -> bool {
        let is_old = |oldest: &Kept| now_ms.saturating_sub(oldest.arrived_ms) > age_max_ms;
        for _ in 0..EXPIRED_MAX {
            if !self.events.front().is_some_and(is_old) {
                return true;
            }
            self.drop_oldest();
        }
        !self.events.front().is_some_and(is_old)
    }

    /// Drops the oldest event, if there is one. Room that was needed for many events is given back when few are left.
    pub fn drop_oldest(&mut self) {
        let Some(oldest) = self.events.pop_front() else { return };
        self.bytes -= oldest.event.weight();
        self.complete_since = oldest.event.id;
        if self.events.is_empty() {
            self.events = VecDeque::new();
        } else if self.events.capacity() > ROOM_MIN && self.events.len() < self.events.capacity() / 8 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }

    /// The id since which the history is complete. A resume from before it may have missed events.
    pub fn complete_since(&self) -> Id {
        self.complete_since
    }

    /// The kept events with ids greater than `after`, oldest first.
    pub fn after(&self, after: Id) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|kept| kept.event.id <= after);
        self.events.range(start..).map(|kept| &kept.event)
    }

    /// The kept events with ids greater than `after`, oldest first, each with the time at which it arrived.
    pub fn arrived_after(&self, after: Id) -> impl Iterator<Item = (&Arc<Event>, u64)> {
        let start = self.events.partition_point(|kept| kept.event.id <= after);
        self.events.range(start..).map(|kept| (&kept.event, kept.arrived_ms))
    }

    /// Drops the events up to an id.
    pub fn drop_until(&mut self, id: Id) {
        while self.events.front().is_some_and(|oldest| oldest.event.id <= id) {
            self.drop_oldest();
        }
    }

    /// The id of the newest event, if one is kept.
    pub fn newest(&self) -> Option<Id> {
        self.events.back().map(|kept| kept.event.id)
    }

    /// Whether no event is kept.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The number of kept events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// The bytes of memory that the kept events take, about.
    pub fn cost(&self) -> usize {
        self.bytes + self.events.len() * EVENT_OVERHEAD
    }

    /// The kept bytes, as [`Event::weight`] counts them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::event::{Draft, Kind};
    use proptest::prelude::*;

    fn event(ms: u64, size: usize) -> Arc<Event> {
        let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; size].into() };
        Arc::new(Event { id: Id::new(ms, 0), channel: "".into(), draft })
    }

    #[test]
    fn keeps_within_each_limit_and_knows_since_when_it_is_complete() {
        let limits = HistoryLimits { events_max: 3, bytes_max: 100, age_max_ms: 1000 };
        let mut history = History::new(Id::ZERO);
        for ms in 1..=4 {
            history.push(event(ms, 10), &limits, 4);
        }
        assert_eq!((history.len(), history.complete_since()), (3, Id::new(1, 0)));
        history.push(event(5, 85), &limits, 5);
        assert_eq!((history.len(), history.complete_since()), (2, Id::new(3, 0)));
        history.trim(&limits, 1005);
        assert_eq!((history.len(), history.complete_since()), (1, Id::new(4, 0)));
        history.trim(&limits, 1006);
        assert_eq!((history.len(), history.bytes(), history.complete_since()), (0, 0, Id::new(5, 0)));
    }

    #[test]
    fn the_age_of_an_event_is_counted_from_its_arrival_and_not_from_its_id() {
        let limits = HistoryLimits { events_max: 10, bytes_max: 100, age_max_ms: 1000 };
        let mut history = History::new(Id::ZERO);
        // Ids run a day ahead of the clock.
        for arrived_ms in [10, 20] {
            history.push(event(86_400_000 + arrived_ms, 1), &limits, arrived_ms);
        }
        assert!(history.trim(&limits, 1010));
        assert_eq!(history.len(), 2);
        assert!(history.trim(&limits, 1011));
        assert_eq!((history.len(), history.complete_since()), (1, Id::new(86_400_010, 0)));
        assert!(history.trim(&limits, 1021) && history.is_empty());
    }

    #[test]
    fn one_call_drops_so_many_old_events_and_says_whether_there_are_more() {
        let limits = HistoryLimits { events_max: usize::MAX, bytes_max: usize::MAX, age_max_ms: 10 };
        let mut history = History::new(Id::ZERO);
        let count = EXPIRED_MAX * 2 + 1;
        for ms in 0..count as u64 {
            history.push(event(ms + 1, 1), &limits, 0);
        }
        assert!(history.trim(&limits, 10));
        for left in [EXPIRED_MAX + 1, 1] {
            assert!(!history.trim(&limits, 11));
            assert_eq!(history.len(), left);
        }
        assert!(history.trim(&limits, 11) && history.is_empty());
        assert_eq!(history.complete_since(), Id::new(count as u64, 0));
    }

    #[test]
    fn room_for_many_events_is_given_back_when_few_are_left() {
        let limits = HistoryLimits { events_max: usize::MAX, bytes_max: usize::MAX, age_max_ms: 10 };
        // The numbers of events that are left when the room changes, with the room from then on.
        let changes = |count: usize| {
            let mut history = History::new(Id::ZERO);
            (1..=count as u64).for_each(|ms| history.push(event(ms, 1), &limits, 0));
            let mut room = history.events.capacity();
            assert_eq!(room, count);
            let mut changes = Vec::new();
            for _ in 0..count {
                history.drop_oldest();
                if std::mem::replace(&mut room, history.events.capacity()) != history.events.capacity() {
                    changes.push((history.len(), room));
                }
            }
            changes
        };
        assert_eq!(changes(4096), [(511, 1022), (126, 252), (30, 60), (0, 0)]);
        assert_eq!(changes(64), [(0, 0)]);
    }

    #[test]
    fn an_event_over_all_limits_is_not_kept_but_remembered_as_missing() {
        let mut history = History::new(Id::ZERO);
        history.push(event(7, 10), &HistoryLimits { events_max: 0, bytes_max: 0, age_max_ms: 0 }, 7);
        assert!(history.is_empty());
        assert_eq!(history.complete_since(), Id::new(7, 0));
    }

    proptest! {
        /// Events come one per millisecond, and the last one is now.
        #[test]
        fn the_longest_row_of_newest_events_within_the_limits_is_kept(
            sizes in prop::collection::vec(0usize..50, 0..80), events_max in 0usize..20, bytes_max in 0usize..400,
            age_max_ms in 0u64..30, after in 0u64..90,
        ) {
            let limits = HistoryLimits { events_max, bytes_max, age_max_ms };
            let mut history = History::new(Id::ZERO);
            let all: Vec<_> = sizes.iter().enumerate().map(|(i, size)| event(i as u64 + 1, *size)).collect();
            for e in &all {
                history.push(e.clone(), &limits, e.id.ms());
            }
            let now = all.len() as u64;
            let bytes = |events: &[Arc<Event>]| events.iter().map(|e| e.draft.payload.len()).sum::<usize>();
            let fits = |events: &[Arc<Event>]| {
                events.len() <= events_max && bytes(events) <= bytes_max && events.iter().all(|e| now - e.id.ms() <= age_max_ms)
            };
            let dropped = (0..=all.len()).find(|dropped| fits(&all[*dropped..])).unwrap();
            let kept = &all[dropped..];
            prop_assert_eq!((history.len(), history.is_empty(), history.bytes()), (kept.len(), kept.is_empty(), bytes(kept)));
            prop_assert_eq!(history.cost(), bytes(kept) + 112 * kept.len());
            prop_assert_eq!(history.complete_since(), Id::new(dropped as u64, 0));
            let after = Id::new(after, 0);
            let expected: Vec<_> = kept.iter().filter(|e| e.id > after).collect();
            prop_assert_eq!(history.after(after).collect::<Vec<_>>(), expected);
        }
    }
}
