//! Resumes from positions ahead of this node, which wait until the node has read that far.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::link::LocalChannel;
use crate::logic::id::Id;

/// The most resumes that wait; more are told of a gap at once.
const HELD_MAX: usize = 100_000;

/// A shard's question for the events that a connection has missed; the fields are those of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub) struct Resume {
    pub(in crate::hub) shard: u16,
    pub(in crate::hub) slot: u32,
    pub(in crate::hub) generation: u32,
    pub(in crate::hub) number: u32,
    pub(in crate::hub) channels: Vec<LocalChannel>,
    pub(in crate::hub) after: Option<Id>,
}

/// All resumes that wait.
#[derive(Debug)]
pub(in crate::hub) struct HeldResumes {
    /// By position, and a number that tells resumes of one position apart.
    waiting: BTreeMap<(Id, u64), Resume>,
    /// The times at which waits end, in their order.
    ends: VecDeque<(Instant, (Id, u64))>,
    next: u64,
    wait: Duration,
}

impl HeldResumes {
    pub(super) fn new(wait: Duration) -> HeldResumes {
        HeldResumes { waiting: BTreeMap::new(), ends: VecDeque::new(), next: 0, wait }
    }

    /// Holds a resume back; returns it if too many wait already, or none may.
    pub(in crate::hub) fn hold(&mut self, held: Resume, now: Instant) -> Option<Resume> {
        // A position that no node can give is not worth a wait.
        let after = held.after.filter(|after| *after != Id::MAX && !self.wait.is_zero());
        let Some(after) = after.filter(|_| self.waiting.len() < HELD_MAX) else { return Some(held) };
        let key = (after, self.next);
        self.next += 1;
        self.ends.push_back((now + self.wait, key));
        self.waiting.insert(key, held);
        None
    }

    /// The next resume that the position `applied` is enough for.
    pub(in crate::hub) fn next_reached(&mut self, applied: Id) -> Option<Resume> {
        let entry = self.waiting.first_entry()?;
        (entry.key().0 <= applied).then(|| entry.remove())
    }

    /// The next resume whose wait is over.
    pub(in crate::hub) fn next_expired(&mut self, now: Instant) -> Option<Resume> {
        while let Some((_, key)) = self.ends.pop_front_if(|(end, _)| *end <= now) {
            if let Some(held) = self.waiting.remove(&key) {
                return Some(held);
            }
        }
        None
    }

    /// The time at which the next wait may end.
    pub(in crate::hub) fn deadline(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end).filter(|_| !self.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_waits_for_its_position_but_not_for_ever() {
        let start = Instant::now();
        let held = |slot, ms| Resume {
            shard: 0,
            slot,
            generation: 1,
            number: 1,
            channels: vec![1],
            after: Some(Id::new(ms, 0)),
        };
        let mut all = HeldResumes::new(Duration::from_secs(5));
        for (slot, ms) in [(1, 30), (2, 10), (3, 20)] {
            assert_eq!(all.hold(held(slot, ms), start + Duration::from_secs(slot.into())), None);
        }
        assert_eq!(all.next_reached(Id::new(9, 9)), None);
        assert_eq!(all.next_reached(Id::new(10, 0)), Some(held(2, 10)));
        assert_eq!(all.deadline(), Some(start + Duration::from_secs(6)));
        assert_eq!(all.next_expired(start + Duration::from_secs(5)), None);
        assert_eq!(all.next_expired(start + Duration::from_secs(7)), Some(held(1, 30)));
        assert_eq!(all.next_expired(start + Duration::from_secs(7)), None);
        assert_eq!(all.next_reached(Id::new(20, 0)), Some(held(3, 20)));
        assert_eq!((all.next_expired(start + Duration::from_secs(9)), all.deadline()), (None, None));
        let unknown = Resume { after: Some(Id::MAX), ..held(4, 1) };
        assert_eq!(all.hold(unknown.clone(), start), Some(unknown), "no node can give that position");
    }
}
