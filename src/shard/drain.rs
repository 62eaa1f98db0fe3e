//! Draining: the shard takes no new clients and ends the connections that it has, at a pace, so that their clients do
//! not all connect to the next host in one instant.

use crate::logic::wheel::Tick;

use super::connection::State;
use super::slots::Slots;

/// The fewest connections that end per tick, because few clients need no pace.
const PER_TICK_MIN: usize = 100;

/// The cause of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server is ending.
    End,
    /// An operator has paused the server; the shard may take clients again later.
    Pause,
}

/// The progress of a drain.
#[derive(Debug)]
pub(super) struct Drain {
    cause: Cause,
    deadline: Tick,
    /// The next slot to look at.
    position: u32,
    per_tick: usize,
    /// The number of connections that may still end in this tick.
    left: usize,
    /// The number of connections that were still open at the deadline.
    cut: u64,
    /// No connection ends yet, because events that came before the drain may wait to be sent. A tick ends this.
    is_waiting: bool,
    /// The deadline is over: connections are cut, without a pace.
    is_cutting: bool,
    is_over: bool,
}

/// The next step of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The connection in this slot ends in good order.
    End(u32),
    /// The connection in this slot is cut, because the deadline is over.
    Cut(u32),
    /// All connections have ended; this many were cut.
    Over(u64),
}

impl Drain {
    /// A drain that begins now and may take `ticks` ticks.
    pub(super) fn new(cause: Cause, slots: &Slots, now: Tick, ticks: Tick) -> Drain {
        let pace = (ticks / 2).max(1) as usize;
        let per_tick = slots.used().div_ceil(pace).max(PER_TICK_MIN);
        Drain {
            cause,
            deadline: now + ticks,
            position: 0,
            per_tick,
            left: per_tick,
            cut: 0,
            is_waiting: true,
            is_cutting: false,
            is_over: false,
        }
    }

    /// The cause of the drain.
    pub(super) fn cause(&self) -> Cause {
        self.cause
    }

    /// Begins another tick, in which more connections may end.
    pub(super) fn on_tick(&mut self, now: Tick) {
        self.left = self.per_tick;
        self.is_waiting = false;
        if self.cause == Cause::End && self.deadline <= now && !self.is_cutting {
            (self.is_cutting, self.position) = (true, 0);
        }
    }

    /// Whether no connection may end yet, where `has_walks` says that events wait to be sent.
    pub(super) fn must_wait(&mut self, has_walks: bool) -> bool {
        self.is_waiting &= has_walks;
        self.is_waiting
    }

    /// The ticks until every connection has been told to go, at the drain's pace.
    pub(super) fn ticks_left(&self, slots: &Slots) -> Tick {
        let left = slots.capacity().saturating_sub(self.position) as usize;
        Tick::try_from(left.min(slots.used()).div_ceil(self.per_tick)).unwrap_or(Tick::MAX)
    }

    /// The next step in this tick, if there is one.
    pub(super) fn next(&mut self, slots: &Slots) -> Option<Step> {
        while self.has_more(slots) {
            let slot = self.position;
            self.position += 1;
            let state = slots[slot].state;
            if state == State::Free {
                continue;
            }
            if self.is_cutting {
                self.cut += u64::from(!matches!(state, State::Dead | State::Lingering));
                return Some(Step::Cut(slot));
            }
            self.left -= 1;
            return Some(Step::End(slot));
        }
        if self.cause == Cause::End && slots.used() == 0 && !self.is_over {
            self.is_over = true;
            return Some(Step::Over(self.cut));
        }
        None
    }

    /// Whether there are more steps in this tick.
    pub(super) fn has_more(&self, slots: &Slots) -> bool {
        (self.left > 0 || self.is_cutting) && self.position < slots.capacity()
    }

    /// Whether all connections have ended.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}
