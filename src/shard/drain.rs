//! Letting connections go: no new clients, and a word to each of those that are there, at a pace that does not bring all
//! of them down on the next host in one instant.

use crate::logic::wheel::Tick;

use super::connection::State;
use super::slots::Slots;

/// Connections let go per tick, at least: few clients need no pace.
const PER_TICK_MIN: usize = 100;

/// Why the shard lets its connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server goes away.
    End,
    /// An operator has sent the clients away; the shard may take clients again.
    Pause,
}

/// How far the shard has come with letting its connections go.
#[derive(Debug)]
pub(super) struct Drain {
    cause: Cause,
    deadline: Tick,
    /// The next slot to look at.
    position: u32,
    per_tick: usize,
    /// Connections that may still be let go in this tick.
    left: usize,
    /// Connections that were still open at the deadline.
    cut: u64,
    /// The time is over: connections are cut, without a pace.
    is_cutting: bool,
    is_over: bool,
}

/// What a drain does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The connection in this slot ends in good order.
    End(u32),
    /// The connection in this slot is cut: the time is over.
    Cut(u32),
    /// All connections have gone; so many were cut.
    Over(u64),
}

impl Drain {
    /// A drain that begins now and may take so many ticks.
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
            is_cutting: false,
            is_over: false,
        }
    }

    /// Why the shard lets its connections go.
    pub(super) fn cause(&self) -> Cause {
        self.cause
    }

    /// A tick has passed: more connections may be let go.
    pub(super) fn on_tick(&mut self, now: Tick) {
        self.left = self.per_tick;
        if self.cause == Cause::End && self.deadline <= now {
            (self.is_cutting, self.position) = (true, 0);
        }
    }

    /// What is to be done next, if anything is in this tick.
    pub(super) fn next(&mut self, slots: &Slots) -> Option<Step> {
        while (self.left > 0 || self.is_cutting) && self.position < slots.capacity() {
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
            // The operator's own connections stay through a pause, to see what it does.
            if self.cause == Cause::End || !slots[slot].is_own() {
                return Some(Step::End(slot));
            }
        }
        if self.cause == Cause::End && slots.used() == 0 && !self.is_over {
            self.is_over = true;
            return Some(Step::Over(self.cut));
        }
        None
    }

    /// Whether all connections have gone.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}
