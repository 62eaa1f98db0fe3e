//! Deadlines: the times at which connections must be looked at, and heartbeats.

use std::collections::VecDeque;
use std::time::Instant;

use crate::logic::cells::Slack;
use crate::logic::wheel::{Tick, Wheel};

use super::connection::{Connection, Flags, State};
use super::context::Context;
use super::settings::{Settings, TICK_MS, TICKS_PER_SECOND};
use super::slots::Slots;

/// An entry of the wheel: a connection that must be looked at.
#[derive(Clone, Copy, Debug)]
struct Hint {
    slot: u32,
    generation: u32,
}

/// A connection that must be looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) slot: u32,
    /// The connection's deadline is over.
    pub(super) is_deadline: bool,
}

/// The wheel, its clock, and the entries that have fired and are not worked off yet.
pub(super) struct Deadlines {
    wheel: Wheel<Hint>,
    started: Instant,
    fired: VecDeque<(Hint, Tick)>,
    /// The budget of log lines about connections.
    pub(super) lines: LineBudget,
}

/// Makes a connection's interval up to a fifth shorter, by an amount that depends on its slot, so that connections
/// which came in the same instant do not have their heartbeats in the same instant.
fn spread(interval: Tick, slot: u32) -> Tick {
    let hash = slot.wrapping_mul(0x9e37_79b1) >> 8;
    interval - hash % (interval / 5 + 1)
}

/// The time at which the connection must be looked at next; `None` if no time matters to it.
fn next_due(
    connection: &Connection,
    slot: u32,
    settings: &Settings,
    now: Tick,
    token_ends: Option<Tick>,
) -> Option<Tick> {
    let deadline = (connection.deadline != 0).then_some(connection.deadline);
    let deadline = deadline.into_iter().chain(token_ends).min();
    let beat = match connection.state {
        State::Stream => {
            let interval = spread(settings.heartbeat_sse, slot);
            let due = connection.sent + interval;
            // A connection without room gets no heartbeat and is looked at again after another interval.
            Some(if due > now { due } else { now + interval })
        }
        State::WebSocket if !connection.flags.intersects(Flags::PINGED) => {
            Some(connection.received + spread(settings.heartbeat_ws, slot))
        }
        _ => None,
    };
    match (deadline, beat) {
        (Some(deadline), Some(beat)) => Some(deadline.min(beat)),
        (deadline, beat) => deadline.or(beat),
    }
}

impl Deadlines {
    /// A wheel that starts now. `lines_per_second` limits the log lines about connections.
    pub(super) fn new(lines_per_second: u32) -> Deadlines {
        Deadlines {
            wheel: Wheel::new(1),
            started: Instant::now(),
            fired: VecDeque::new(),
            lines: LineBudget::new(lines_per_second),
        }
    }

    /// The present time by the clock.
    pub(super) fn now(&self) -> Tick {
        let elapsed = self.started.elapsed().as_millis() as u64 / TICK_MS;
        Tick::try_from(elapsed + 1).unwrap_or(Tick::MAX)
    }

    /// Sets the clock ahead by a duration, for tests.
    #[cfg(test)]
    pub(super) fn pass(&mut self, time: std::time::Duration) {
        self.started -= time;
    }

    /// Gives the wheel an early enough entry for each connection whose time may have changed. `token_ends` says when a
    /// connection's identity expires.
    pub(super) fn schedule_all(&mut self, slots: &mut Slots, cx: &Context, token_ends: impl Fn(u32) -> Option<Tick>) {
        while let Some(slot) = slots.rescheduled.pop() {
            let connection = &mut slots[slot];
            let Some(due) = next_due(connection, slot, &cx.settings, cx.now, token_ends(slot)) else { continue };
            if connection.timer == 0 || due < connection.timer {
                let hint = Hint { slot, generation: connection.generation };
                connection.timer = self.wheel.insert(hint, due);
            }
        }
    }

    /// Moves the wheel on to the present time.
    pub(super) fn advance(&mut self, now: Tick) {
        while let Some(hints) = self.wheel.advance(now) {
            let tick = self.wheel.now();
            self.fired.extend(hints.map(|hint| (hint, tick)));
        }
    }

    /// Gives back the memory of a list that was long once.
    pub(super) fn give_back_slack(&mut self) {
        self.fired.give_back_slack();
    }

    /// Whether entries have fired that are not worked off yet.
    pub(super) fn has_fired(&self) -> bool {
        !self.fired.is_empty()
    }

    /// The next connection for which an entry has fired.
    pub(super) fn next(&mut self, slots: &mut Slots, now: Tick) -> Option<Due> {
        while let Some((hint, tick)) = self.fired.pop_front() {
            let connection = &mut slots[hint.slot];
            let is_current = connection.generation == hint.generation && connection.timer == tick;
            if !is_current || matches!(connection.state, State::Free | State::Dead) {
                continue;
            }
            connection.timer = 0;
            let is_deadline = connection.deadline != 0 && connection.deadline <= now;
            if is_deadline {
                connection.deadline = 0;
            }
            slots.reschedule(hint.slot);
            return Some(Due { slot: hint.slot, is_deadline });
        }
        None
    }
}

/// Has a heartbeat sent to the connection if one is due.
pub(super) fn beat(slots: &mut Slots, cx: &Context, slot: u32) {
    let (now, settings) = (cx.now, &cx.settings);
    let connection = &mut slots[slot];
    match connection.state {
        State::Stream => {
            let is_due = now.saturating_sub(connection.sent) >= spread(settings.heartbeat_sse, slot);
            if is_due && !connection.flags.intersects(Flags::BLOCKED) {
                connection.flags.insert(Flags::HEARTBEAT);
                slots.queue(slot);
            }
        }
        State::WebSocket
            if !connection.flags.intersects(Flags::PINGED)
                && !connection.awaits_token()
                && !connection.is_put_aside()
                && now.saturating_sub(connection.received) >= spread(settings.heartbeat_ws, slot) =>
        {
            connection.flags.insert(Flags::PINGED | Flags::HEARTBEAT);
            slots.set_deadline(slot, now + settings.reap);
            slots.queue(slot);
        }
        _ => {}
    }
}

/// The number of log lines about connections that are left in this second.
#[derive(Debug)]
pub(super) struct LineBudget {
    per_second: u32,
    second: Tick,
    used: u32,
    /// The lines left out in earlier seconds that are not reported yet.
    left_out: u32,
}

impl LineBudget {
    pub(super) fn new(per_second: u32) -> LineBudget {
        LineBudget { per_second, second: 0, used: 0, left_out: 0 }
    }

    /// Takes one line off the budget; returns whether one was left.
    pub(super) fn take(&mut self, now: Tick) -> bool {
        self.pass_time(now);
        self.used += 1;
        self.used <= self.per_second
    }

    fn pass_time(&mut self, now: Tick) {
        let second = now / TICKS_PER_SECOND;
        if second != self.second {
            self.second = second;
            self.left_out += self.used.saturating_sub(self.per_second);
            self.used = 0;
        }
    }

    /// The number of lines left out in the seconds that are over. Each line is reported once.
    pub(super) fn left_out(&mut self, now: Tick) -> u32 {
        self.pass_time(now);
        let left_out = std::mem::take(&mut self.left_out);
        if self.per_second > 0 { left_out } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_spread_over_a_fifth() {
        let beats: Vec<Tick> = (0..10_000).map(|slot| spread(250, slot)).collect();
        assert!(beats.iter().all(|beat| (200..=250).contains(beat)));
        for beat in 200..=250 {
            let count = beats.iter().filter(|other| **other == beat).count();
            assert!((100..400).contains(&count), "{count} of 10,000 beat at {beat}");
        }
        assert_eq!(spread(1, 77), 1);
    }

    #[test]
    fn lines_are_bounded_per_second() {
        let mut lines = LineBudget::new(2);
        assert!(lines.take(10) && lines.take(11));
        assert!(!lines.take(12));
        assert_eq!(lines.left_out(12), 0, "the second is not over");
        assert!(lines.take(20));
        assert_eq!((lines.left_out(20), lines.left_out(21)), (1, 0));
        assert!(!LineBudget::new(0).take(5));
    }
}
