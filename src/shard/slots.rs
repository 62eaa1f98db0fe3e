//! The connections' slots, and the lists of slots that the turn has to look at.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};
use std::os::fd::{AsFd, OwnedFd};

use std::collections::VecDeque;

use crate::link::ConnectionId;
use crate::logic::cells::{Cells, NONE, Slack};
use crate::logic::tls::Alert;
use crate::logic::wheel::Tick;
use crate::sys::socket;

use super::account::Buffers;
use super::connection::{Connection, Flags, Peer, State};
use super::h2::H2;
use super::tls::Tls;

/// The bits of a generation. The others are left for the marks beside it in a poll's `user_data`.
pub(super) const GENERATION_MASK: u32 = 0x0fff_ffff;

/// The numbers of connections in the states that are shown as figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) http: u64,
    pub(super) sse: u64,
    pub(super) websocket: u64,
    pub(super) poll: u64,
}

/// All connections of a shard, and the lists of those that need attention.
#[derive(Debug)]
pub(super) struct Slots {
    cells: Cells<Connection>,
    /// Connections that may have something to send: those with [`Flags::QUEUED`].
    pub(super) ready: VecDeque<u32>,
    /// Connections whose input is read: those with [`Flags::UNREAD`].
    unread: VecDeque<u32>,
    /// Connections whose next time in the wheel may have changed.
    pub(super) rescheduled: Vec<u32>,
    /// Dead slots without a poll in the ring, which can be freed.
    graves: Vec<u32>,
    /// Dead slots that are not free yet.
    dying: usize,
    /// Connections that are being told that there is no room for them.
    pub(super) refusals: usize,
    open: Open,
    /// The bytes of memory that all connections' buffers hold, as far as they are weighed.
    pub(super) buffers: Buffers,
    /// The connections that speak TLS.
    pub(super) tls: Tls,
    /// The least generation of new connections: a predecessor's slots have had lower ones.
    generation_min: u32,
    /// The connections that speak HTTP/2, and their streams.
    pub(super) h2: H2,
}

impl Index<u32> for Slots {
    type Output = Connection;

    fn index(&self, slot: u32) -> &Connection {
        &self.cells[slot]
    }
}

impl IndexMut<u32> for Slots {
    fn index_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.cells[slot]
    }
}

impl Slots {
    pub(super) fn new() -> Slots {
        Slots {
            cells: Cells::new(),
            ready: VecDeque::new(),
            unread: VecDeque::new(),
            rescheduled: Vec::new(),
            graves: Vec::new(),
            dying: 0,
            refusals: 0,
            open: Open::default(),
            buffers: Buffers::default(),
            tls: Tls::default(),
            generation_min: 0,
            h2: H2::default(),
        }
    }

    /// A generation that no slot has had.
    pub(super) fn next_generation(&self) -> u32 {
        let generations = (0..self.capacity()).map(|slot| self.cells[slot].generation);
        generations.max().map_or(0, |newest| newest + 1).max(self.generation_min) & GENERATION_MASK
    }

    /// Makes room for connections that come from a predecessor, in these slots of a new table. Other connections have
    /// generations from `generation_min` on.
    pub(super) fn make_room(&mut self, slots: &[u32], generation_min: u32) {
        self.cells.take_these(slots);
        self.generation_min = generation_min;
    }

    /// Fills a slot that was made room for.
    pub(super) fn restore(&mut self, slot: u32, connection: Connection, state: State) {
        self.refusals += usize::from(connection.flags.intersects(Flags::REFUSED));
        self.cells[slot] = connection;
        self.enter_state(slot, state);
    }

    /// A connection together with the table of those that speak TLS.
    pub(super) fn with_tls(&mut self, slot: u32) -> (&Connection, &mut Tls) {
        (&self.cells[slot], &mut self.tls)
    }

    /// Brings the account up to date with what waits on a connection that speaks TLS.
    pub(super) fn weigh_tls(&mut self, slot: u32) {
        self.tls.weigh(slot, &mut self.buffers);
    }

    /// The memory that the connection's buffers hold, as far as they are weighed.
    pub(super) fn held(&self, slot: u32) -> Buffers {
        let mut held = self.cells[slot].extra.as_ref().map_or(Buffers::default(), |extra| extra.counted);
        held.replace(Buffers::default(), self.tls.held(slot));
        held.input += self.h2.held(slot);
        held
    }

    /// The connection in a slot, if the slot was ever used.
    pub(super) fn get(&self, slot: u32) -> Option<&Connection> {
        self.cells.get(slot)
    }

    /// The number of slots in use.
    pub(super) fn used(&self) -> usize {
        self.cells.used()
    }

    /// The number of slots, used or free.
    pub(super) fn capacity(&self) -> u32 {
        self.cells.capacity()
    }

    /// The numbers of connections by state, for the figures.
    pub(super) fn open(&self) -> Open {
        self.open
    }

    /// Whether connections have ended whose slots are not free yet.
    pub(super) fn has_dying(&self) -> bool {
        self.dying > 0
    }

    /// A connection's name for backends and operators.
    pub(super) fn name(&self, shard: u16, slot: u32) -> ConnectionId {
        ConnectionId { shard, slot, generation: self.cells[slot].generation }
    }

    /// The slot of a connection, if the connection still exists.
    pub(super) fn find(&self, shard: u16, id: ConnectionId) -> Option<u32> {
        let connection = self.cells.get(id.slot)?;
        (id.shard == shard && connection.generation == id.generation && connection.state != State::Free)
            .then_some(id.slot)
    }

    /// Fills a free slot with a new connection.
    pub(super) fn occupy(&mut self, fd: OwnedFd, peer: Peer, state: State, now: Tick) -> u32 {
        let slot = self.cells.take();
        let generation = self.cells[slot].generation.max(self.generation_min);
        self.cells[slot] = Connection {
            fd: Some(fd),
            generation,
            opened: now,
            sent: now,
            received: now,
            peer,
            ..Connection::default()
        };
        self.enter_state(slot, state);
        slot
    }

    /// Fills a free slot with a new stream of a connection that speaks HTTP/2.
    pub(super) fn occupy_stream(&mut self, carrier: u32, id: NonZeroU32, client_ended: bool, now: Tick) -> u32 {
        let slot = self.cells.take();
        let generation = self.cells[slot].generation.max(self.generation_min);
        let peer = self.cells[carrier].peer;
        let times = Connection { opened: now, sent: now, received: now, ..Connection::default() };
        self.cells[slot] = Connection { generation, peer, flags: Flags::CARRIED, ..times };
        self.h2.open(slot, carrier, id, client_ended);
        self.enter_state(slot, State::Http);
        slot
    }

    fn gauge(&mut self, state: State) -> Option<&mut u64> {
        match state {
            State::Proxied | State::Greeting | State::Http => Some(&mut self.open.http),
            State::Stream => Some(&mut self.open.sse),
            State::WebSocket => Some(&mut self.open.websocket),
            State::Poll => Some(&mut self.open.poll),
            _ => None,
        }
    }

    /// Moves a connection to another state.
    pub(super) fn enter_state(&mut self, slot: u32, state: State) {
        let before = std::mem::replace(&mut self.cells[slot].state, state);
        if let Some(gauge) = self.gauge(before) {
            *gauge -= 1;
        }
        if let Some(gauge) = self.gauge(state) {
            *gauge += 1;
        }
    }

    /// Has this turn or the next one look for bytes to send to the connection.
    pub(super) fn queue(&mut self, slot: u32) {
        let flags = &mut self.cells[slot].flags;
        if flags.intersects(Flags::QUEUED) {
            return;
        }
        flags.insert(Flags::QUEUED);
        if flags.intersects(Flags::CARRIED) {
            if let Some(carrier) = self.h2.carrier_of(slot) {
                self.queue(carrier);
            }
        } else {
            self.ready.push_back(slot);
        }
    }

    /// Has the connection's input read, to its end.
    pub(super) fn read_later(&mut self, slot: u32) {
        self.cells[slot].flags.insert(Flags::TO_END);
        self.read_soon(slot);
    }

    /// Has the connection's input read, up to the first short read.
    pub(super) fn read_soon(&mut self, slot: u32) {
        let flags = &mut self.cells[slot].flags;
        if !flags.intersects(Flags::UNREAD) {
            flags.insert(Flags::UNREAD);
            self.unread.push_back(slot);
        }
    }

    /// The next connection to read, if one waits for that.
    pub(super) fn next_unread(&mut self) -> Option<u32> {
        while let Some(slot) = self.unread.pop_front() {
            let flags = &mut self.cells[slot].flags;
            if flags.intersects(Flags::UNREAD) {
                flags.remove(Flags::UNREAD);
                return Some(slot);
            }
        }
        None
    }

    /// The number of connections that wait to be read.
    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    /// Brings the account up to date with what the connection's buffers hold. Each function that lets them grow or shrink
    /// calls this at its end.
    pub(super) fn weigh(&mut self, slot: u32) {
        if let Some(extra) = &mut self.cells[slot].extra {
            let now = extra.buffers();
            if now != extra.counted {
                self.buffers.replace(extra.counted, now);
                extra.counted = now;
            }
        }
    }

    /// Drops the connection's box of fields if none of them is in use, and weighs it else.
    pub(super) fn tidy(&mut self, slot: u32) {
        match &self.cells[slot].extra {
            Some(extra) if extra.is_idle() => self.drop_extra(slot),
            _ => self.weigh(slot),
        }
    }

    /// Drops the connection's box of fields, and takes its buffers off the account.
    fn drop_extra(&mut self, slot: u32) {
        if let Some(extra) = self.cells[slot].extra.take() {
            self.buffers.replace(extra.counted, Buffers::default());
        }
    }

    /// Sets the connection's deadline, at which it ends whatever else happens.
    pub(super) fn set_deadline(&mut self, slot: u32, deadline: Tick) {
        self.cells[slot].deadline = deadline;
        self.reschedule(slot);
    }

    /// Has the connection looked at by `due`, if it is not looked at earlier.
    pub(super) fn look_by(&mut self, slot: u32, due: Tick) {
        let timer = self.cells[slot].timer;
        if timer == 0 || timer > due {
            self.reschedule(slot);
        }
    }

    /// Notes that the time at which the connection must be looked at may have changed.
    pub(super) fn reschedule(&mut self, slot: u32) {
        self.rescheduled.push(slot);
    }

    /// Has a connection that has sent everything wait for the client to close. The end of its sending side tells the client
    /// so, except on a WebSocket: its close frame was that, and a browser for which TCP ends before it has sent its own close
    /// frame takes the end for a failure (RFC 6455 §7.1.1).
    pub(super) fn linger(&mut self, slot: u32, deadline: Tick) {
        let connection = &self.cells[slot];
        let awaits_frame = connection.awaits_close_frame();
        if connection.flags.intersects(Flags::CARRIED) && !awaits_frame {
            // The stream's end is sent, and that is all.
            self.enter_state(slot, State::Closing);
            self.set_deadline(slot, deadline);
            return self.queue(slot);
        }
        if let Some(fd) = connection.fd.as_ref().filter(|_| !awaits_frame) {
            let goodbye = self.tls.last_alert(slot, Alert::CloseNotify);
            if !goodbye.is_empty() {
                let _ = socket::send(fd.as_fd(), &goodbye);
            }
            socket::shutdown_write(fd.as_fd());
        }
        self.enter_state(slot, State::Lingering);
        if awaits_frame {
            self.tidy(slot);
        } else {
            self.drop_extra(slot);
        }
        self.set_deadline(slot, deadline);
        if !self.cells[slot].flags.intersects(Flags::ARMED) {
            // The client's end may have come already.
            self.read_later(slot);
        }
    }

    /// Ends a connection's life. Its slot is free once the ring has no poll of it any more. Returns the connection whose last
    /// stream this was.
    pub(super) fn kill(&mut self, slot: u32) -> Option<u32> {
        let flags = self.cells[slot].flags;
        debug_assert!(!matches!(self.cells[slot].state, State::Free | State::Dead), "a connection dies once");
        self.enter_state(slot, State::Dead);
        self.dying += 1;
        if flags.intersects(Flags::REFUSED) {
            self.refusals -= 1;
        }
        self.drop_extra(slot);
        self.tls.forget(slot, &mut self.buffers);
        let idle = self.h2.forget(slot);
        let connection = &mut self.cells[slot];
        match &connection.fd {
            // A poll reports the shutdown and ends with that.
            Some(fd) if flags.intersects(Flags::ARMED | Flags::ARMED_OUT) => socket::shutdown(fd.as_fd()),
            _ => self.graves.push(slot),
        }
        idle
    }

    /// Closes the descriptor of a dead connection and frees its slot: the ring has no poll of it.
    pub(super) fn bury(&mut self, slot: u32) {
        let connection = &self.cells[slot];
        debug_assert_eq!(connection.state, State::Dead, "only a dead connection is buried");
        debug_assert_eq!(connection.first.lane, NONE, "no subscription outlives its connection");
        let generation = connection.generation.wrapping_add(1) & GENERATION_MASK;
        self.cells[slot] = Connection { generation, ..Connection::default() };
        self.cells.give_back(slot);
        self.dying -= 1;
    }

    /// Frees up to `most` slots of connections that died while the ring had no poll of them; returns whether there are
    /// more.
    pub(super) fn bury_some(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(slot) = self.graves.pop() else { return false };
            if self.cells[slot].state == State::Dead {
                self.bury(slot);
            }
        }
        !self.graves.is_empty()
    }

    /// Gives back the memory of lists that were long once.
    pub(super) fn give_back_slack(&mut self) {
        self.ready.give_back_slack();
        self.unread.give_back_slack();
        self.rescheduled.give_back_slack();
        self.graves.give_back_slack();
        self.tls.give_back_slack();
    }

    /// Stops counting a connection towards its address; returns the address if the connection was counted.
    pub(super) fn uncount(&mut self, slot: u32) -> Option<IpAddr> {
        let connection = &mut self.cells[slot];
        let is_counted = connection.flags.intersects(Flags::COUNTED);
        connection.flags.remove(Flags::COUNTED);
        is_counted.then(|| connection.peer.ip())
    }

    /// Checks the invariants of the slots between two turns.
    ///
    /// # Panics
    /// If an invariant does not hold.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let (mut dying, mut used, mut refusals) = (0, 0, 0);
        let mut counted = Slots::new();
        let mut buffers = Buffers::default();
        for slot in 0..self.capacity() {
            let connection = &self.cells[slot];
            let flags = connection.flags;
            used += usize::from(connection.state != State::Free);
            dying += usize::from(connection.state == State::Dead);
            if let Some(gauge) = counted.gauge(connection.state) {
                *gauge += 1;
            }
            if let Some(extra) = &connection.extra {
                assert_eq!(extra.counted, extra.buffers(), "{slot} {connection:?} is weighed");
                buffers.replace(Buffers::default(), extra.counted);
            }
            buffers.replace(Buffers::default(), self.tls.held(slot));
            if connection.state == State::Free {
                assert_eq!(self.tls.held(slot), Buffers::default());
                continue;
            }
            refusals += usize::from(flags.intersects(Flags::REFUSED) && connection.state != State::Dead);
            // A list may still name a slot whose connection has gone.
            let is_listed = flags.intersects(Flags::CARRIED) || self.ready.contains(&slot);
            assert!(!flags.intersects(Flags::QUEUED) || is_listed, "{slot} {connection:?}");
            assert!(!flags.intersects(Flags::UNREAD) || self.unread.contains(&slot), "{slot} {connection:?}");
            assert!(!flags.intersects(Flags::PLANNED), "a batch is accounted for within its turn");
            let is_carried = flags.intersects(Flags::CARRIED);
            assert_eq!(connection.fd.is_some(), !is_carried, "a connection has a socket, or is carried");
            assert!(!is_carried || connection.state == State::Dead || self.h2.stream(slot).is_some());
        }
        assert_eq!((counted.open, dying, used, refusals), (self.open, self.dying, self.used(), self.refusals));
        assert_eq!(buffers, self.buffers, "the sum is that of the parts");
    }
}
