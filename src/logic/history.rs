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

/// The newest events of one channel.
///
/// # Invariants
/// - Events are in the order of their ids.
/// - Every event of the channel whose id is greater than `complete_since` is kept.
#[derive(Debug, Default)]
pub struct History {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    complete_since: Id,
}

impl History {
    /// An empty history of a channel that had no event after `complete_since`.
    pub fn new(complete_since: Id) -> History {
        History { events: VecDeque::new(), bytes: 0, complete_since }
    }

    /// Adds the newest event and drops events that are over the limits.
    pub fn push(&mut self, event: Arc<Event>, limits: &HistoryLimits, now_ms: u64) {
        debug_assert!(self.events.back().is_none_or(|newest| newest.id < event.id), "events come in order");
        self.bytes += event.weight();
        self.events.push_back(event);
        self.trim(limits, now_ms);
    }

    /// Drops the events that are over the limits at `now_ms`.
    pub fn trim(&mut self, limits: &HistoryLimits, now_ms: u64) {
        while let Some(oldest) = self.events.front() {
            let over = self.events.len() > limits.events_max
                || self.bytes > limits.bytes_max
                || now_ms.saturating_sub(oldest.id.ms()) > limits.age_max_ms;
            if !over {
                break;
            }
            self.bytes -= oldest.weight();
            self.complete_since = oldest.id;
            self.events.pop_front();
        }
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
    }

    /// The id since which the history is complete. A resume from before it may have missed events.
    pub fn complete_since(&self) -> Id {
        self.complete_since
    }

    /// The kept events with ids greater than `after`, oldest first.
    pub fn after(&self, after: Id) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|event| event.id <= after);
        self.events.range(start..)
    }

    /// Whether no event is kept.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The number of kept events.
    pub fn len(&self) -> usize {
        self.events.len()
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
            prop_assert_eq!(history.complete_since(), Id::new(dropped as u64, 0));
            let after = Id::new(after, 0);
            let expected: Vec<_> = kept.iter().filter(|e| e.id > after).collect();
            prop_assert_eq!(history.after(after).collect::<Vec<_>>(), expected);
        }
    }
}
