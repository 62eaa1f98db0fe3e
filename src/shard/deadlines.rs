//! Deadlines: the times at which connections must be looked at, and heartbeats.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::logic::cells::Slack;
use crate::logic::line_budget::LineBudget;
use crate::logic::session::Notice;
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

/// The time between two turns from which on the shard, and not its clients, has stood still. The clock ticks ten times
/// in it.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The wheel, its clock, and the entries that have fired and are not worked off yet.
pub(super) struct Deadlines {
    wheel: Wheel<Hint>,
    /// The start of the shard's time. Pauses of the process move it, so that no time passes in them.
    started: Instant,
    /// The time of the last look at the clock, since `started`.
    looked: Duration,
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
    let stall = connection.flags.intersects(Flags::BLOCKED).then(|| connection.sent + settings.stall);
    let deadline = deadline.into_iter().chain(token_ends).chain(stall).min();
    let beat = beat_interval(connection, slot, settings).map(|interval| {
        let due = connection.sent + interval;
        // A connection without room gets no heartbeat and is looked at again after another interval.
        if due > now { due } else { now + interval }
    });
    let is_pinged = connection.state != State::WebSocket || connection.flags.intersects(Flags::PINGED);
    let ping = (!is_pinged).then(|| connection.received + spread(settings.heartbeat_ws, slot));
    deadline.into_iter().chain(beat).chain(ping).min()
}

/// The time without bytes for the client after which it gets a heartbeat; `None` if it gets none. (A WebSocket is pinged
/// beside that, by the time without bytes from the client.)
fn beat_interval(connection: &Connection, slot: u32, settings: &Settings) -> Option<Tick> {
    let asked = || connection.beat().map(|beat| beat.secs() * TICKS_PER_SECOND);
    let interval = match connection.state {
        State::Stream => Some(asked().unwrap_or(settings.heartbeat_sse)),
        State::WebSocket => asked(),
        _ => None,
    };
    interval.map(|interval| spread(interval, slot))
}

impl Deadlines {
    /// A wheel that starts now. `lines_per_second` limits the log lines about connections.
    pub(super) fn new(lines_per_second: u32) -> Deadlines {
        Deadlines {
            wheel: Wheel::new(1),
            started: Instant::now(),
            looked: Duration::ZERO,
            fired: VecDeque::new(),
            lines: LineBudget::new(lines_per_second, TICKS_PER_SECOND),
        }
    }

    /// Goes on with a predecessor's time.
    pub(super) fn restore(&mut self, now: Tick) {
        let passed = Duration::from_millis(u64::from(now.saturating_sub(1)) * TICK_MS);
        self.wheel = Wheel::new(now);
        self.started = Instant::now().checked_sub(passed).unwrap_or(self.started);
        self.looked = passed;
    }

    /// The present time, and the ticks for which the shard has stood still since the last look. These are left out of the
    /// time: what clients have sent meanwhile is not read yet, so no deadline may come nearer by them.
    pub(super) fn read_clock(&mut self) -> (Tick, Tick) {
        let elapsed = self.started.elapsed();
        let gap = elapsed.saturating_sub(self.looked);
        let paused = if gap >= PAUSE_MIN { gap.as_millis() as u64 / TICK_MS } else { 0 };
        let pause = Duration::from_millis(paused * TICK_MS);
        self.started += pause;
        self.looked = elapsed - pause;
        let now = self.looked.as_millis() as u64 / TICK_MS;
        (Tick::try_from(now + 1).unwrap_or(Tick::MAX), Tick::try_from(paused).unwrap_or(Tick::MAX))
    }

    /// Sets the clock ahead by a duration in which the shard has not stood still, for tests.
    #[cfg(test)]
    pub(super) fn pass(&mut self, time: Duration) {
        self.started -= time;
        self.looked += time;
    }

    /// Sets the clock ahead by a duration in which the shard has stood still, for tests.
    #[cfg(test)]
    pub(super) fn stand_still(&mut self, time: Duration) {
        self.started -= time;
    }

    /// Gives the wheel an early enough entry for each connection whose time may have changed. `token_ends` says when a
    /// connection's identity expires.
    pub(super) fn schedule_all(&mut self, slots: &mut Slots, cx: &Context, token_ends: impl Fn(u32) -> Option<Tick>) {
        while let Some(slot) = slots.rescheduled.pop() {
            let unfinished = slots.tls.unfinished_since(slot).map(|since| since + cx.settings.handshake);
            let connection = &mut slots[slot];
            let ends = token_ends(slot).into_iter().chain(unfinished).min();
            let Some(due) = next_due(connection, slot, &cx.settings, cx.now, ends) else { continue };
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

/// Whether a client has taken none of the bytes that wait for it for too long. Over TCP the kernel finds most of these
/// clients too; over a Unix socket it finds none.
pub(super) fn is_stalled(connection: &Connection, settings: &Settings, now: Tick) -> bool {
    connection.flags.intersects(Flags::BLOCKED) && connection.sent + settings.stall <= now
}

/// Has a heartbeat sent to the connection if one is due.
pub(super) fn beat(slots: &mut Slots, cx: &Context, slot: u32) {
    let (now, settings) = (cx.now, &cx.settings);
    let connection = &mut slots[slot];
    let is_due = beat_interval(connection, slot, settings)
        .is_some_and(|interval| Tick::saturating_sub(now, connection.sent) >= interval);
    if is_due && !connection.flags.intersects(Flags::BLOCKED) && !connection.awaits_token() {
        if connection.beat().is_some() {
            connection.key.notify(&Notice::Beat, connection.out());
        } else {
            connection.flags.insert(Flags::HEARTBEAT);
        }
        slots.weigh(slot);
        slots.queue(slot);
    }
    let connection = &mut slots[slot];
    if connection.state == State::WebSocket
        && !connection.flags.intersects(Flags::PINGED)
        && !connection.awaits_token()
        && !connection.is_put_aside()
        && now.saturating_sub(connection.received) >= spread(settings.heartbeat_ws, slot)
    {
        connection.flags.insert(Flags::PINGED | Flags::HEARTBEAT);
        slots.set_deadline(slot, now + settings.reap);
        slots.queue(slot);
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
    fn time_stands_still_while_the_shard_does() {
        let mut deadlines = Deadlines::new(0);
        let (before, _) = deadlines.read_clock();
        deadlines.stand_still(Duration::from_secs(100));
        let (now, paused) = deadlines.read_clock();
        assert!((1000..=1010).contains(&paused) && now - before <= 10, "{paused} {now}");
        deadlines.pass(Duration::from_secs(100));
        let (now, paused) = deadlines.read_clock();
        assert!(paused == 0 && (1000..=1010).contains(&(now - before)), "{paused} {now}");
        deadlines.stand_still(PAUSE_MIN / 2);
        assert_eq!(deadlines.read_clock().1, 0, "a late tick is no pause");
    }

    #[test]
    fn a_client_that_takes_nothing_has_a_deadline_of_its_own() {
        let settings = Settings::new(Default::default(), u64::MAX);
        let mut connection = Connection { state: State::Stream, sent: 100, ..Connection::default() };
        assert!(!is_stalled(&connection, &settings, Tick::MAX));
        let due = |connection: &Connection| next_due(connection, 0, &settings, 200, None);
        assert_eq!(due(&connection), Some(100 + settings.heartbeat_sse));
        connection.flags.insert(Flags::BLOCKED);
        (connection.state, connection.deadline) = (State::Closing, 2000);
        assert_eq!(due(&connection), Some(100 + settings.stall));
        let end = 100 + settings.stall;
        assert!(!is_stalled(&connection, &settings, end - 1) && is_stalled(&connection, &settings, end));
    }
}
