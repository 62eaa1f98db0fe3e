//! States, and the ways a connection ends.
//!
//! An end in good order goes `Closing` (what waits is sent), `Lingering` (the peer reads it and closes), `Dead`
//! (the ring says its last word), free. A broken connection goes straight to `Dead`.

use std::os::fd::AsFd;

use tracing::info;

use crate::logic::cells::NONE;
use crate::logic::protocol::{dialect, ws};
use crate::logic::reason::Reason;
use crate::logic::wheel::Tick;
use crate::sys::socket;

use super::connection::{Connection, Flags, State};
use super::{Shard, connection_id};

impl Shard {
    fn gauge(&mut self, state: State) -> Option<&mut u64> {
        match state {
            State::Proxied | State::Http => Some(&mut self.counters.connections_http),
            State::Stream => Some(&mut self.counters.connections_sse),
            State::WebSocket => Some(&mut self.counters.connections_ws),
            State::Poll => Some(&mut self.counters.connections_poll),
            _ => None,
        }
    }

    /// Moves a connection to another state.
    pub(super) fn enter_state(&mut self, slot: u32, state: State) {
        let before = std::mem::replace(&mut self.connections[slot].state, state);
        if let Some(gauge) = self.gauge(before) {
            *gauge -= 1;
        }
        if let Some(gauge) = self.gauge(state) {
            *gauge += 1;
        }
    }

    /// Ends a connection in good order: what its client must still be told is written, then it is closed.
    ///
    /// `code` and `words` are for WebSocket clients and, where they should come back, for event streams.
    pub(super) fn close(&mut self, slot: u32, reason: Reason, code: u16, words: &str) {
        let state = self.connections[slot].state;
        if !matches!(state, State::Proxied | State::Http | State::Stream | State::WebSocket | State::Poll) {
            return;
        }
        if state == State::Poll {
            // The answer says that it is the connection's last.
            self.connections[slot].flags.clear(Flags::KEEP_ALIVE);
            self.write_rest(slot);
        }
        self.unsubscribe_all(slot);
        let retry_ms = self.spread_retry(reason);
        let connection = &mut self.connections[slot];
        connection.flags.clear(Flags::HEARTBEAT | Flags::REPLAYING | Flags::KEEP_ALIVE | Flags::PINGED);
        if let Some(extra) = &mut connection.extra {
            extra.resumes.clear();
            extra.gap = None;
            extra.awaited = None;
            extra.unsaid = None;
            extra.asking = None;
            extra.input = Vec::new();
        }
        let dialect = connection.dialect;
        let says_bye = matches!(reason, Reason::Drained | Reason::Kicked | Reason::Expired);
        match state {
            State::Stream => {
                if says_bye {
                    dialect.write_bye(words, retry_ms, connection.out());
                }
                if dialect.is_chunked() {
                    connection.out().extend_from_slice(dialect::LAST_CHUNK);
                }
            }
            State::WebSocket => {
                if says_bye {
                    dialect.write_bye(words, retry_ms, connection.out());
                }
                ws::write_close(connection.out(), code, words);
            }
            _ => {}
        }
        self.finish(slot, reason);
    }

    /// What a client that is sent away is told to wait: random, so that not all come back at once.
    fn spread_retry(&mut self, reason: Reason) -> u64 {
        let base = self.settings.retry_ms.max(100);
        if reason == Reason::Drained { self.rng.u64(base / 2..=base * 3) } else { base }
    }

    /// Sends what waits in `out` and closes.
    pub(super) fn finish(&mut self, slot: u32, reason: Reason) {
        self.record_end(slot, reason);
        self.enter_state(slot, State::Closing);
        let deadline = self.now + self.settings.linger;
        self.set_deadline(slot, deadline);
        self.queue(slot);
    }

    /// Everything is sent: ends the sending side, so that the client reads it all and then the end.
    pub(super) fn linger(&mut self, slot: u32) {
        if let Some(fd) = &self.connections[slot].fd {
            socket::shutdown_write(fd.as_fd());
        }
        self.enter_state(slot, State::Lingering);
        self.connections[slot].extra = None;
        let deadline = self.now + self.settings.linger;
        self.set_deadline(slot, deadline);
        if !self.connections[slot].flags.has(Flags::ARMED) {
            // Its end may have come already.
            self.read_later(slot);
        }
    }

    fn record_end(&mut self, slot: u32, reason: Reason) {
        if !self.connections[slot].flags.has(Flags::ECHO) {
            self.tell_gone(slot, reason);
        }
        self.counters.closed[reason as usize] += 1;
        let connection = &self.connections[slot];
        if connection.flags.has(Flags::LOGGED) {
            info!(
                target: "ringcast::connection",
                conn = %connection_id(self.index, slot, connection.generation),
                address = %connection.peer,
                reason = reason.name(),
                seconds = Tick::saturating_sub(self.now, connection.opened) as u64 * super::TICK_MS / 1000,
                events = connection.events,
                "disconnected"
            );
        }
    }

    /// Ends a connection at once, whatever waits for it.
    pub(super) fn drop_connection(&mut self, slot: u32, reason: Reason) {
        let state = self.connections[slot].state;
        match state {
            State::Free | State::Dead => return,
            State::Closing | State::Lingering => {}
            _ => self.record_end(slot, reason),
        }
        self.connections[slot].set_mid_frame(None);
        self.unsubscribe_all(slot);
        let flags = self.connections[slot].flags;
        if flags.has(Flags::PAGE) {
            self.connections[slot].flags.clear(Flags::PAGE);
            self.page_has_gone();
        }
        if flags.has(Flags::REFUSED) {
            self.refusals -= 1;
        } else {
            self.room.leave();
        }
        if flags.has(Flags::COUNTED) {
            self.room.leave_from(self.connections[slot].peer.ip());
        }
        self.forget(slot);
        self.enter_state(slot, State::Dead);
        let connection = &mut self.connections[slot];
        connection.extra = None;
        match &connection.fd {
            // What is polled is told, and says its last word.
            Some(fd) if flags.has(Flags::ARMED | Flags::ARMED_OUT) => socket::shutdown(fd.as_fd()),
            _ => self.graves.push(slot),
        }
    }

    /// The ring knows nothing of the slot any more: closes the descriptor and frees the slot.
    pub(super) fn bury(&mut self, slot: u32) {
        debug_assert_eq!(self.connections[slot].state, State::Dead, "only the dead are buried");
        let generation = self.connections[slot].generation.wrapping_add(1) & super::GENERATION_MASK;
        self.connections[slot] = Connection { generation, ..Connection::default() };
        debug_assert_eq!(self.connections[slot].first.lane, NONE, "no subscription outlives its connection");
        self.connections.give_back(slot);
    }

    /// Frees the slots of connections that died while nothing was polled.
    pub(super) fn bury_all(&mut self) {
        while let Some(slot) = self.graves.pop() {
            if self.connections[slot].state == State::Dead {
                self.bury(slot);
            }
        }
    }
}
