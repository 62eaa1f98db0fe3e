//! Reading: what the ring reports about connections, and the bytes that came.

use std::io;
use std::os::fd::AsFd;

use crate::logic::protocol::http::{Parsed, Reject, parse};
use crate::logic::reason::Reason;
use crate::sys::ring::{self, Completion};
use crate::sys::socket;

use super::connection::{Flags, State};
use super::{COMPLETIONS_PER_TURN, FOR_ROOM, GENERATION_MASK, INBOX, NUDGE, POLLED, Shard};

/// Reads of one connection in one turn.
const READS_MAX: usize = 4;

impl Shard {
    /// Works off what the ring reports; returns whether there may be more.
    pub(super) fn take_completions(&mut self) -> io::Result<bool> {
        let mut completions = std::mem::take(&mut self.completions);
        let more = self.ring.completions(&mut completions, COMPLETIONS_PER_TURN);
        for completion in completions.drain(..) {
            match completion.user_data {
                NUDGE => {}
                INBOX => {
                    self.inbox_waits = true;
                    if !completion.armed {
                        self.ring.arm_multishot_poll(self.from_hub.wake.as_fd(), INBOX)?;
                    }
                }
                _ => self.on_poll(completion),
            }
        }
        self.completions = completions;
        Ok(more)
    }

    fn on_poll(&mut self, completion: Completion) {
        let slot = completion.user_data as u32;
        let generation = (completion.user_data >> 32) as u32 & GENERATION_MASK;
        let is_current = self.connections.get(slot).is_some_and(|connection| connection.generation == generation);
        if !is_current {
            debug_assert!(false, "a slot is free only after its last completion");
            return;
        }
        let connection = &mut self.connections[slot];
        let is_for_room = completion.user_data & FOR_ROOM != 0;
        connection.flags.clear(if is_for_room { Flags::ARMED_OUT } else { Flags::ARMED });
        if connection.state == State::Dead {
            if !connection.flags.has(Flags::ARMED | Flags::ARMED_OUT) {
                self.bury(slot);
            }
        } else if is_for_room {
            // Or it is over, which sending will show.
            connection.flags.clear(Flags::BLOCKED);
            self.queue(slot);
        } else {
            let is_ending = completion.result & !(ring::POLL_IN as i32) != 0;
            self.read(slot, is_ending);
        }
    }

    /// Has the ring report the next input, unless it is not to be read yet: then whoever has it read on asks for this.
    pub(super) fn await_input(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let flags = connection.flags;
        let is_paused = flags.has(Flags::PAUSED) && connection.state != State::Lingering;
        if is_paused || flags.has(Flags::ARMED | Flags::UNREAD) || connection.state == State::Dead {
            return;
        }
        self.arm(slot, POLLED, 0, Flags::ARMED);
    }

    /// Sends nothing more before the ring has reported that there is room.
    pub(super) fn await_room(&mut self, slot: u32) {
        self.connections[slot].flags.set(Flags::BLOCKED);
        if !self.connections[slot].flags.has(Flags::ARMED_OUT) {
            self.arm(slot, ring::POLL_OUT, FOR_ROOM, Flags::ARMED_OUT);
        }
    }

    fn arm(&mut self, slot: u32, events: u32, tag: u64, flag: Flags) {
        let user_data = self.user_data(slot) | tag;
        let connection = &mut self.connections[slot];
        let Some(fd) = &connection.fd else { return };
        match self.ring.arm_poll(fd.as_fd(), events, user_data) {
            Ok(()) => connection.flags.set(flag),
            Err(error) => self.failure = Some(error),
        }
    }

    /// Reads on where reading was put off.
    pub(super) fn read_unread(&mut self) {
        for _ in 0..self.unread.len() {
            let Some(slot) = self.unread.pop_front() else { break };
            let connection = &mut self.connections[slot];
            if !connection.flags.has(Flags::UNREAD) {
                continue;
            }
            connection.flags.clear(Flags::UNREAD);
            // Reading goes on once what it has to say has found room.
            if connection.is_held_back() {
                continue;
            }
            self.take_held_input(slot);
            self.read(slot, true);
        }
    }

    /// Has the connection's input read further next turn.
    pub(super) fn read_later(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        if !connection.flags.has(Flags::UNREAD) {
            connection.flags.set(Flags::UNREAD);
            self.unread.push_back(slot);
        }
    }

    /// Reads what there is, and waits for more. `to_the_end`: a short read may be followed by the end, so it does not
    /// stop there.
    pub(super) fn read(&mut self, slot: u32, to_the_end: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut has_all = false;
        for round in 0.. {
            let connection = &self.connections[slot];
            let Some(fd) = connection.fd.as_ref().filter(|_| connection.state != State::Dead) else { break };
            if connection.flags.has(Flags::PAUSED) && connection.state != State::Lingering {
                break;
            }
            if round == READS_MAX {
                self.read_later(slot);
                break;
            }
            match socket::receive(fd.as_fd(), &mut scratch) {
                Ok(0) => {
                    self.on_end(slot);
                    break;
                }
                Ok(length) => {
                    self.counters.received_bytes += length as u64;
                    self.on_bytes(slot, &mut scratch[..length]);
                    if length < scratch.len() && !to_the_end {
                        has_all = true;
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    has_all = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.drop_connection(slot, Reason::Broken);
                    break;
                }
            }
        }
        self.scratch = scratch;
        if has_all {
            self.await_input(slot);
        }
    }

    /// The client has closed its sending side. None of the protocols has a use for a half-open connection.
    fn on_end(&mut self, slot: u32) {
        match self.connections[slot].state {
            // Answers on their way are still sent; a client may end its side right after its request.
            State::Http if self.connections[slot].out_waiting() > 0 => self.finish(slot, Reason::Client),
            State::Closing => {}
            _ => self.drop_connection(slot, Reason::Client),
        }
    }

    fn on_bytes(&mut self, slot: u32, bytes: &mut [u8]) {
        let now = self.now;
        let connection = &mut self.connections[slot];
        connection.received = now;
        match connection.state {
            State::Proxied => self.proxy_input(slot, bytes),
            State::Http => self.http_input(slot, bytes),
            State::Poll => self.hold_input(slot, bytes),
            State::WebSocket => {
                if connection.flags.has(Flags::PINGED) {
                    connection.flags.clear(Flags::PINGED);
                    connection.deadline = 0;
                    // The wheel's entry stands at the deadline; the next ping is due before that.
                    self.schedule(slot);
                }
                self.websocket_input(slot, bytes);
            }
            // Nothing is expected here.
            State::Stream | State::Closing | State::Lingering | State::Dead | State::Free => {}
        }
    }

    /// Keeps what came while a poll is held: the next request, which follows its answer.
    fn hold_input(&mut self, slot: u32, bytes: &[u8]) {
        let inbound_max = self.settings.config.limits.inbound;
        let connection = &mut self.connections[slot];
        let input = &mut connection.extra().input;
        input.extend_from_slice(bytes);
        if input.len() >= inbound_max {
            connection.flags.set(Flags::PAUSED);
        }
    }

    /// Goes on with input that was kept, once its turn has come.
    fn take_held_input(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        connection.flags.clear(Flags::PAUSED);
        let Some(extra) = &mut connection.extra else { return };
        let mut input = std::mem::take(&mut extra.input);
        if input.is_empty() {
            return;
        }
        match connection.state {
            State::Http => self.http_input(slot, &input),
            State::WebSocket => self.websocket_input(slot, &mut input),
            // An earlier part of it was a poll that is held meanwhile.
            State::Poll => self.hold_input(slot, &input),
            _ => {}
        }
    }

    /// Reads requests, one after the other, until one is held, opens a stream, or is not all there.
    pub(super) fn http_input(&mut self, slot: u32, bytes: &[u8]) {
        let mut held = std::mem::take(&mut self.connections[slot].extra().input);
        let mut rest = bytes;
        if !held.is_empty() {
            held.extend_from_slice(bytes);
            rest = &held;
        }
        while !rest.is_empty() && self.connections[slot].state == State::Http {
            if self.connections[slot].out_waiting() > self.settings.config.limits.replies {
                self.connections[slot].flags.set(Flags::PAUSED);
                break;
            }
            match parse(rest, &self.settings.head) {
                Parsed::Partial => {
                    self.expect_rest_of_head(slot);
                    break;
                }
                Parsed::Complete { request, consumed } => {
                    self.request(slot, &request);
                    if self.connections[slot].is_held_back() {
                        // It is looked at again once the backend has answered.
                        break;
                    }
                    rest = &rest[consumed..];
                }
                Parsed::Rejected(reject) => {
                    self.counters.requests += 1;
                    self.reject(slot, &reject);
                    rest = &[];
                }
            }
        }
        match self.connections[slot].state {
            State::Http | State::Poll => self.connections[slot].extra().input = rest.to_vec(),
            State::WebSocket if !rest.is_empty() => self.websocket_input(slot, &mut rest.to_vec()),
            _ => {}
        }
        self.connections[slot].tidy();
    }

    /// Gives a head that has begun its time, counted from its first byte.
    fn expect_rest_of_head(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let limit = self.now + self.settings.handshake;
        if connection.deadline == 0 || connection.deadline > limit {
            self.set_deadline(slot, limit);
        }
    }

    /// The time for a request is over.
    pub(super) fn on_request_timeout(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let has_begun = connection.extra.as_ref().is_some_and(|extra| !extra.input.is_empty());
        if has_begun {
            let message = "the request did not arrive in time";
            self.reject_as(slot, &Reject::fatal(408, "timeout", message), Reason::HandshakeTimeout);
        } else if connection.out_waiting() > 0 {
            self.drop_connection(slot, Reason::Slow);
        } else {
            let reason = if connection.sent == connection.opened { Reason::HandshakeTimeout } else { Reason::Idle };
            self.finish(slot, reason);
        }
    }
}
