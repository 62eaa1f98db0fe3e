//! Going away: no new clients, a word to each of those there are, at a pace that does not bring all of them
//! down on the next host in one instant.

use crate::link::HubMessage;
use crate::logic::protocol::ws;
use crate::logic::reason::Reason;
use crate::logic::wheel::Tick;

use super::Shard;
use super::connection::State;

/// Connections let go per tick, at least: few clients need no pace.
const PER_TICK_MIN: usize = 100;

/// How far the shard has come with going away.
#[derive(Debug)]
pub(super) struct Drain {
    deadline: Tick,
    /// The next slot to look at.
    position: u32,
    per_tick: usize,
    /// Connections that were still open at the deadline.
    cut: u64,
    /// The shard may take clients again.
    is_pause: bool,
    is_over: bool,
}

impl Shard {
    pub(super) fn begin_drain(&mut self) {
        if self.drain.as_ref().is_some_and(|drain| !drain.is_pause) {
            return;
        }
        if let Err(error) = self.stop_listening() {
            self.failure = Some(error);
        }
        self.let_go(false);
    }

    /// Takes no new clients and lets those there are go, or takes new ones again.
    pub(super) fn pause(&mut self, on: bool) {
        match &self.drain {
            Some(drain) if drain.is_pause && !on => self.drain = None,
            None if on => self.let_go(true),
            _ => {}
        }
    }

    fn let_go(&mut self, is_pause: bool) {
        let pace = (self.settings.drain / 2).max(1) as usize;
        let per_tick = self.connections.used().div_ceil(pace).max(PER_TICK_MIN);
        let deadline = self.now + self.settings.drain;
        self.drain = Some(Drain { deadline, position: 0, per_tick, cut: 0, is_pause, is_over: false });
        self.go_on_draining();
    }

    /// Lets go as many as a tick's share; reports once all are gone.
    pub(super) fn go_on_draining(&mut self) {
        let Some(mut drain) = self.drain.take() else { return };
        let mut left = drain.per_tick;
        while left > 0 && drain.position < self.connections.capacity() {
            let slot = drain.position;
            drain.position += 1;
            if self.connections[slot].state != State::Free {
                left -= 1;
            }
            // Who looks after the server wants to see that.
            if !drain.is_pause || !self.connections[slot].is_own() {
                self.close(slot, Reason::Drained, ws::CLOSE_GOING_AWAY, "the server is going away");
            }
        }
        if drain.is_pause {
            self.drain = Some(drain);
            return;
        }
        if drain.deadline <= self.now {
            for slot in 0..self.connections.capacity() {
                let state = self.connections[slot].state;
                drain.cut += u64::from(!matches!(state, State::Free | State::Dead | State::Lingering));
                self.drop_connection(slot, Reason::Drained);
            }
        }
        if self.connections.used() == 0 && !drain.is_over {
            drain.is_over = true;
            self.tell_hub(HubMessage::Drained { shard: self.index, cut: drain.cut });
        }
        self.drain = Some(drain);
    }

    /// Whether all have gone.
    pub(super) fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.is_over)
    }
}
