//! What happens once a second, some at a time: old events are dropped, unused channels forgotten, revocations written
//! anew, and the figures brought up to date.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::link::ShardMessage;
use crate::sys::memory;

use super::super::Order;
use super::{Core, HubFigures};

/// Time between two sweeps.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Time between two sweeps while histories take too much of the budget.
const PRESSED_SWEEP_EVERY: Duration = Duration::from_millis(20);
/// Channels that one sweep visits.
const CHANNELS_PER_SWEEP: u32 = 10_000;
/// Dropped events that count for as much work as a visit.
const EVENTS_PER_WORK: u64 = 2;
/// Giving memory back takes at most one part in so many of the hub's time.
const GIVING_BACK_SHARE: u32 = 50;
/// The distance between ids and the clock from which on it is a fault: after a crash ids run up to ten seconds ahead.
const AHEAD_MS: u64 = 60_000;

impl Core {
    /// Sweeps some channels, and once a second does the rest of what is due.
    pub(super) fn sweep(&mut self) {
        if self.now.instant >= self.sweep_at {
            self.begin_sweep();
        }
        if self.sweep_left == 0 {
            return;
        }
        let mut budget = self.begin_stage(usize::MAX);
        while self.sweep_left > 0 && !budget.is_spent() {
            self.sweep_left -= 1;
            let dropped = self.channels.sweep_next(self.now.steady_ms);
            budget.spend(1 + (dropped / EVENTS_PER_WORK) as usize, &self.clock, &mut self.now);
        }
    }

    /// Whether channels are left to sweep at once.
    pub(super) fn is_sweeping(&self) -> bool {
        self.sweep_left > 0
    }

    fn begin_sweep(&mut self) {
        self.sweep_left = CHANNELS_PER_SWEEP.min(self.channels.places());
        let pause = if self.channels.is_pressed() { PRESSED_SWEEP_EVERY } else { SWEEP_EVERY };
        self.sweep_at = self.now.instant + pause;
        if self.now.instant < self.rounds_at {
            return;
        }
        self.rounds_at = self.now.instant + SWEEP_EVERY;
        self.busiest.pass_time(self.now.steady_ms);
        self.announce_position();
        self.note_ids_ahead();
        self.look_after_cluster();
        self.report_left_out_lines();
        if let Err(error) = self.revocations.go_on(self.now.unix_ms / 1000)
            && self.may_log()
        {
            warn!(%error, "revocations could not be written down; the tokens are refused until the server ends");
        }
        self.publish_figures();
        self.give_memory_back();
    }

    /// Tells the shards up to where they have had every event. Without it a shard whose channels are quiet would have clients
    /// resume from an old position.
    fn announce_position(&mut self) {
        if self.announced < self.applied {
            self.announced = self.applied;
            self.shards.stage_all(|| ShardMessage::Position(self.applied));
        }
    }

    /// Says once that ids run ahead of the clock, and once that they no longer do.
    fn note_ids_ahead(&mut self) {
        let Order::Local(ids) = &self.order else { return };
        let ahead_ms = ids.last().ms().saturating_sub(self.now.unix_ms);
        HubFigures::set(&self.figures.ids_ahead_ms, ahead_ms);
        let is_ahead = ahead_ms >= AHEAD_MS;
        if is_ahead == self.are_ids_ahead {
            return;
        }
        self.are_ids_ahead = is_ahead;
        let seconds = ahead_ms / 1000;
        if is_ahead {
            warn!(seconds, "ids run ahead of the clock: the clock is wrong, or was; nothing is lost");
        } else {
            info!(seconds, "ids no longer run ahead of the clock");
        }
    }

    /// Gives free memory back to the kernel, less often if that takes long.
    fn give_memory_back(&mut self) {
        if self.now.instant < self.give_back_at {
            return;
        }
        let begun = Instant::now();
        memory::give_back();
        self.give_back_at = self.now.instant + begun.elapsed() * GIVING_BACK_SHARE;
    }

    /// Counts the time of a turn that began at `begun`.
    pub(super) fn note_turn(&mut self, begun: Instant) {
        let now = (self.clock)();
        let at = Duration::from_millis(now.steady_ms);
        self.longest.note(now.instant.saturating_duration_since(begun), at);
        HubFigures::set(&self.figures.turn_longest_us, self.longest.us(at));
    }
}
