//! Lanes without subscriptions: how long each is kept, for clients that leave and come back.

use std::collections::VecDeque;
use std::time::Duration;

use crate::logic::cells::Slack;
use crate::logic::session::Carrier;
use crate::logic::wheel::Tick;

use super::lanes::Lane;
use super::settings::ticks;

/// The time for which a lane is kept that has had events.
const USED_KEPT: Duration = Duration::from_secs(30);
/// The time for which the lane of polls is kept that never had an event: the clients of polls come back at once. Other
/// lanes without an event go with the next tick, so that a channel on which nothing is published costs nothing.
const SILENT_POLLS_KEPT: Duration = Duration::from_secs(2);

/// The kinds of lanes, by the time for which they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The lane never had an event.
    Silent,
    /// The lane never had an event, and its clients poll.
    SilentPolls,
    /// The lane has had events.
    Used,
}

impl Kept {
    const ALL: [Kept; 3] = [Kept::Silent, Kept::SilentPolls, Kept::Used];

    /// The kind of a lane.
    pub(super) fn of(lane: &Lane) -> Kept {
        match lane.key.protocol().carrier() {
            _ if lane.log.head() > 0 => Kept::Used,
            Carrier::Poll => Kept::SilentPolls,
            _ => Kept::Silent,
        }
    }

    /// The time for which a lane is kept after its last subscription.
    pub(super) fn time(self) -> Tick {
        match self {
            Kept::Silent => 1,
            Kept::SilentPolls => ticks(SILENT_POLLS_KEPT),
            Kept::Used => ticks(USED_KEPT),
        }
    }
}

/// Lanes without subscriptions, each with the time at which it is looked at, in a queue for each kind.
#[derive(Debug, Default)]
pub(super) struct Unused([VecDeque<(Tick, u32)>; Kept::ALL.len()]);

impl Unused {
    /// Adds a lane that is kept from now on.
    pub(super) fn add(&mut self, lane: u32, kept: Kept, now: Tick) {
        self.0[kept as usize].push_back((now + kept.time(), lane));
    }

    /// Whether a lane is to be looked at.
    pub(super) fn has_next(&self, now: Tick) -> bool {
        Kept::ALL.into_iter().any(|kept| self.is_due(kept, now))
    }

    /// The next lane that is to be looked at, and its kind when it was added.
    pub(super) fn next(&mut self, now: Tick) -> Option<(Kept, u32)> {
        let kept = Kept::ALL.into_iter().find(|kept| self.is_due(*kept, now))?;
        self.0[kept as usize].pop_front().map(|(_, lane)| (kept, lane))
    }

    /// Gives back the memory of queues that were long once.
    pub(super) fn give_back_slack(&mut self) {
        self.0.iter_mut().for_each(Slack::give_back_slack);
    }

    fn is_due(&self, kept: Kept, now: Tick) -> bool {
        self.0[kept as usize].front().is_some_and(|(due, _)| *due <= now)
    }
}
