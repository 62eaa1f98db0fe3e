//! Time: deadlines, heartbeats, and what is let go after a while.

use tracing::info;

use crate::link::HubMessage;
use crate::logic::cells::NONE;
use crate::logic::protocol::ws;
use crate::logic::reason::Reason;
use crate::logic::wheel::Tick;
use crate::sys::memory;

use super::Shard;
use super::channels::Following;
use super::connection::{Connection, Flags, State};
use super::inbox::LOG_KEPT;
use super::settings::{Settings, TICK_MS, ticks};
use super::subscribe::UNUSED_LANE_KEPT;

/// Every so many ticks unused memory is given back.
const TIDY_EVERY: Tick = 10;

/// An entry of the wheel: look at this connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    slot: u32,
    generation: u32,
}

/// Lines about connections that may still be written this second.
#[derive(Debug)]
pub(super) struct LineBudget {
    per_second: u32,
    second: Tick,
    used: u32,
    /// Left out in seconds before, and not said yet.
    left_out: u32,
}

impl LineBudget {
    pub(super) fn new(per_second: u32) -> LineBudget {
        LineBudget { per_second, second: 0, used: 0, left_out: 0 }
    }

    /// Takes one line's place; returns whether there was one.
    pub(super) fn take(&mut self, now: Tick) -> bool {
        self.pass_time(now);
        self.used += 1;
        self.used <= self.per_second
    }

    fn pass_time(&mut self, now: Tick) {
        let second = now / (1000 / TICK_MS as Tick);
        if second != self.second {
            self.second = second;
            self.left_out += self.used.saturating_sub(self.per_second);
            self.used = 0;
        }
    }

    /// How many lines were left out in the seconds that are over; each is told once.
    fn left_out(&mut self, now: Tick) -> u32 {
        self.pass_time(now);
        std::mem::take(&mut self.left_out)
    }
}

/// Makes a connection's interval up to a fifth shorter, by an amount of its own, so that many that came in the
/// same instant do not beat in the same instant for ever.
fn spread(interval: Tick, slot: u32) -> Tick {
    let hash = slot.wrapping_mul(0x9e37_79b1) >> 8;
    interval - hash % (interval / 5 + 1)
}

/// When the connection is to be looked at next; `None` if time changes nothing about it.
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
            // One that has no room gets none; it is looked at again later.
            Some(if due > now { due } else { now + interval })
        }
        State::WebSocket if !connection.flags.has(Flags::PINGED) => {
            Some(connection.received + spread(settings.heartbeat_ws, slot))
        }
        _ => None,
    };
    match (deadline, beat) {
        (Some(deadline), Some(beat)) => Some(deadline.min(beat)),
        (deadline, beat) => deadline.or(beat),
    }
}

impl Shard {
    /// Takes the present from the clock.
    pub(super) fn look_at_clock(&mut self) {
        let elapsed = self.started.elapsed().as_millis() as u64 / TICK_MS;
        self.now = Tick::try_from(elapsed + 1).unwrap_or(Tick::MAX);
    }

    /// Sets when the connection ends whatever happens.
    pub(super) fn set_deadline(&mut self, slot: u32, deadline: Tick) {
        self.connections[slot].deadline = deadline;
        self.schedule(slot);
    }

    /// Sees to it that the wheel has an entry that is early enough.
    pub(super) fn schedule(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let token_ends = self.token_ends(slot);
        let Some(due) = next_due(connection, slot, &self.settings, self.now, token_ends) else { return };
        if connection.timer == 0 || due < connection.timer {
            let hint = Hint { slot, generation: connection.generation };
            self.connections[slot].timer = self.wheel.insert(hint, due);
        }
    }

    /// Does what is due.
    pub(super) fn pass_time(&mut self) {
        while let Some(fired) = self.wheel.advance(self.now) {
            let tick = self.wheel.now();
            for hint in fired {
                self.fire(hint, tick);
            }
        }
        for slot in std::mem::take(&mut self.starved) {
            let connection = &mut self.connections[slot];
            if connection.state != State::Free {
                connection.flags.clear(Flags::BLOCKED);
                self.queue(slot);
            }
        }
        let left_out = self.lines.left_out(self.now);
        if left_out > 0 && self.settings.config.log.connections_per_second > 0 {
            info!(target: "ringcast::connection", shard = self.index, left_out, "lines about connections were left out");
        }
        self.let_lanes_go();
        self.let_logs_go();
        self.go_on_draining();
        if self.now.is_multiple_of(TIDY_EVERY) {
            memory::give_back();
        }
        if self.now.is_multiple_of(60 * TIDY_EVERY) {
            self.tidy_access();
        }
    }

    fn fire(&mut self, hint: Hint, tick: Tick) {
        let slot = hint.slot;
        let now = self.now;
        let connection = &mut self.connections[slot];
        let is_current = connection.generation == hint.generation && connection.timer == tick;
        if !is_current || matches!(connection.state, State::Free | State::Dead) {
            return;
        }
        connection.timer = 0;
        if connection.deadline != 0 && connection.deadline <= now {
            connection.deadline = 0;
            self.on_deadline(slot);
        }
        if self.end_expired(slot) {
            return;
        }
        let connection = &mut self.connections[slot];
        match connection.state {
            State::Stream => {
                let is_due = now.saturating_sub(connection.sent) >= spread(self.settings.heartbeat_sse, slot);
                if is_due && !connection.flags.has(Flags::BLOCKED) {
                    connection.flags.set(Flags::HEARTBEAT);
                    self.queue(slot);
                }
            }
            State::WebSocket
                if !connection.flags.has(Flags::PINGED)
                    && !connection.awaits_token()
                    && !connection.is_held_back()
                    && now.saturating_sub(connection.received) >= spread(self.settings.heartbeat_ws, slot) =>
            {
                connection.flags.set(Flags::PINGED | Flags::HEARTBEAT);
                connection.deadline = now + self.settings.reap;
                self.queue(slot);
            }
            _ => {}
        }
        if self.connections[slot].timer == 0 {
            self.schedule(slot);
        }
    }

    fn on_deadline(&mut self, slot: u32) {
        if self.answer_by_default(slot) {
            return;
        }
        match self.connections[slot].state {
            State::Proxied => self.drop_connection(slot, Reason::HandshakeTimeout),
            State::Http => self.on_request_timeout(slot),
            State::Poll => self.answer_empty(slot),
            State::WebSocket if self.connections[slot].awaits_token() => {
                self.close(slot, Reason::Unauthorized, ws::CLOSE_POLICY, "no token came in time");
            }
            State::WebSocket => self.drop_connection(slot, Reason::Unresponsive),
            State::Closing | State::Lingering => self.drop_connection(slot, Reason::Lingered),
            State::Stream | State::Dead | State::Free => {}
        }
    }

    /// Frees lanes that have had no users for a while, and gives up channels without lanes.
    fn let_lanes_go(&mut self) {
        while let Some((due, lane)) = self.unused_lanes.front().copied() {
            if due > self.now {
                break;
            }
            self.unused_lanes.pop_front();
            let cell = &self.channels.lanes[lane];
            let is_old = cell.touched + ticks(UNUSED_LANE_KEPT) <= self.now;
            // Who came and went again since has an entry of its own.
            if cell.channel == NONE || !cell.is_unused() || !is_old {
                continue;
            }
            if cell.walking {
                self.unused_lanes.push_back((self.now + 1, lane));
                break;
            }
            let channel = cell.channel;
            if self.channels.remove_lane(lane) {
                self.channels.channels[channel].following = Following::GivenUp;
                self.tell_hub(HubMessage::Unfollow { shard: self.index, local: channel });
            }
        }
    }

    /// Empties logs that everyone has read and that had no event for a while.
    fn let_logs_go(&mut self) {
        while let Some((due, lane)) = self.aging_logs.front().copied() {
            if due > self.now {
                break;
            }
            self.aging_logs.pop_front();
            let is_read = self.channels.is_read(lane);
            let cell = &mut self.channels.lanes[lane];
            if cell.log.is_empty() {
                cell.aging = false;
            } else if is_read && (cell.is_unused() || cell.touched + ticks(LOG_KEPT) <= self.now) {
                cell.aging = false;
                self.channels.clear_log(lane);
            } else {
                self.aging_logs.push_back((self.now + ticks(LOG_KEPT), lane));
            }
        }
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
