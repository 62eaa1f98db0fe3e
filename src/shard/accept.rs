//! Taking new connections, and turning them away when there is no room.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::logic::protocol::http::{Reject, ResponseHeaders, write_error};
use crate::logic::reason::Reason;
use crate::sys::readiness::Readiness;
use crate::sys::socket;

use super::admission::Refused;
use super::connection::{Flags, Peer, State};
use super::{Listener, Shard};

/// Connections taken at once, before other things have their turn.
const BURST: usize = 64;
/// Connections that are being told that there is no room, at most; more are closed without a word.
const REFUSALS_MAX: usize = 64;
/// Rounds of the ring's reports that are worked off at most before a connection is refused.
const REPORTS_MAX: usize = 64;
/// How long to leave the queue alone when the kernel has no descriptor or memory to give.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What a burst came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Burst {
    /// The queue is empty, or others have their turn.
    Taken,
    /// The kernel has nothing to give.
    Exhausted,
    /// The shard listens no more.
    Over,
}

impl Listener {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Inherited(listener) => listener.as_fd(),
            Listener::Own(listener) => listener.as_fd(),
        }
    }
}

/// A descriptor that is given up when there are no others, to take a connection and close it: else it would
/// stay in the queue, its client waiting and the listener readable for ever.
#[derive(Debug, Default)]
pub(super) struct Reserve(Option<OwnedFd>);

impl Reserve {
    pub(super) fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok().map(OwnedFd::from);
        }
    }
}

/// Accepts from one of the shard's listeners until the shard listens no more.
pub(super) async fn accept_loop(shard: Rc<RefCell<Shard>>, listener: usize) -> io::Result<()> {
    let descriptor = match shard.borrow().listeners.get(listener) {
        Some(listener) => listener.as_fd().try_clone_to_owned()?,
        None => return Ok(()),
    };
    let readiness = Readiness::new(descriptor)?;
    loop {
        readiness.wait().await?;
        let burst = shard.borrow_mut().accept_burst(listener)?;
        match burst {
            Burst::Taken => {}
            Burst::Exhausted => monoio::time::sleep(EXHAUSTED_PAUSE).await,
            Burst::Over => return Ok(()),
        }
    }
}

impl Shard {
    /// Takes what waits in a listener's queue, up to a burst.
    pub(super) fn accept_burst(&mut self, listener: usize) -> io::Result<Burst> {
        let mut outcome = Burst::Taken;
        for _ in 0..BURST {
            let Some(listener) = self.listeners.get(listener) else {
                outcome = Burst::Over;
                break;
            };
            let is_own = matches!(listener, Listener::Own(_));
            match socket::accept(listener.as_fd()) {
                Ok(Some((fd, _))) if is_own => self.admit_own(fd),
                Ok(Some((fd, address))) => {
                    // The kernel has kept a TCP connection until its request was there.
                    let has_spoken = address.is_some();
                    match self.admit(fd, address) {
                        Some(slot) if has_spoken => self.read(slot, false),
                        Some(slot) => self.await_input(slot),
                        None => {}
                    }
                }
                Ok(None) => break,
                Err(error) if socket::is_exhaustion(&error) => {
                    self.turn_one_away();
                    outcome = Burst::Exhausted;
                    break;
                }
                // The client was gone before it was taken; the next one may not be.
                Err(_) => {}
            }
        }
        // What the first requests have set off is done by the engine.
        self.call_engine()?;
        Ok(outcome)
    }

    /// Takes a place for a connection, if there is one. When everybody comes back at once, those who have just gone
    /// still have theirs, and are seen out first.
    fn enter(&mut self, take_place: impl Fn(&Shard) -> Result<(), Refused>) -> Result<(), Refused> {
        let first = take_place(self);
        if first != Err(Refused::TooMany) {
            return first;
        }
        if let Err(error) = self.see_out_the_gone() {
            self.failure = Some(error);
        }
        take_place(self)
    }

    /// Works off what the ring has to report, and frees the slots of connections that have ended.
    ///
    /// Not when the shard stops listening: that may happen in the middle of a connection's input, and the ring's
    /// reports may be about that one.
    fn see_out_the_gone(&mut self) -> io::Result<()> {
        if self.listeners.is_empty() {
            return Ok(());
        }
        for _ in 0..REPORTS_MAX {
            let more = self.take_completions()?;
            // Shutting a connection down brings its polls' last words, after which the slot is free.
            self.ring.submit()?;
            if !more && !self.take_completions()? {
                break;
            }
        }
        self.bury_all();
        Ok(())
    }

    /// Gives the connection a slot, whose input is not waited for yet, or turns it away.
    pub(super) fn admit(&mut self, fd: OwnedFd, address: Option<SocketAddr>) -> Option<u32> {
        self.counters.accepted += 1;
        let peer = address.map(Peer::new).unwrap_or_default();
        let take_place = |shard: &Shard| {
            let has_taken = shard.connections.used() < shard.descriptors_max && shard.room.enter();
            if has_taken { Ok(()) } else { Err(Refused::TooMany) }
        };
        if self.enter(take_place).is_err() {
            self.refuse(fd, peer, Reject::fatal(503, "full", "this server has no room for more connections"));
            return None;
        }
        let counted = self.room.counts_addresses() && address.is_some() && !self.settings.trusts(peer.ip());
        if counted && let Err(refused) = self.enter(|shard| shard.room.enter_from(peer.ip(), true)) {
            self.room.leave();
            self.refuse(fd, peer, refused.reject());
            return None;
        }
        let is_proxied =
            self.settings.config.server.proxy_protocol && (address.is_none() || self.settings.trusts(peer.ip()));
        let slot = self.occupy(fd, peer, if is_proxied { State::Proxied } else { State::Http });
        let deadline = self.now + self.settings.handshake;
        let connection = &mut self.connections[slot];
        if counted {
            connection.flags.set(Flags::COUNTED);
        }
        self.set_deadline(slot, deadline);
        Some(slot)
    }

    /// Gives a connection of this process a slot.
    fn admit_own(&mut self, fd: OwnedFd) {
        // The address is no secret; who is at the other end is what counts.
        if socket::is_own_process(fd.as_fd()) && self.room.enter() {
            let slot = self.occupy(fd, Peer::OWN, State::Http);
            self.connections[slot].flags.set(Flags::OWN);
            self.await_input(slot);
            self.set_deadline(slot, self.now + self.settings.handshake);
        }
    }

    /// Fills a free slot.
    fn occupy(&mut self, fd: OwnedFd, peer: Peer, state: State) -> u32 {
        let slot = self.connections.take();
        let connection = &mut self.connections[slot];
        let generation = connection.generation;
        *connection = super::Connection {
            fd: Some(fd),
            generation,
            opened: self.now,
            sent: self.now,
            received: self.now,
            peer,
            ..super::Connection::default()
        };
        self.enter_state(slot, state);
        slot
    }

    /// Says in one answer why there is no room, and closes.
    fn refuse(&mut self, fd: OwnedFd, peer: Peer, reject: Reject) {
        self.counters.refused += 1;
        self.counters.count_rejection(reject.status);
        let reject = reject.retry_after(self.rng.u32(1..=5));
        let mut answer = Vec::new();
        write_error(&mut answer, &reject, &ResponseHeaders::default());
        if self.refusals >= REFUSALS_MAX {
            // At worst the client sees a reset instead of the answer.
            let _ = socket::send(fd.as_fd(), &answer);
            return;
        }
        self.refusals += 1;
        let slot = self.occupy(fd, peer, State::Closing);
        self.await_input(slot);
        self.counters.closed[Reason::Refused as usize] += 1;
        let connection = &mut self.connections[slot];
        connection.flags.set(Flags::REFUSED);
        *connection.out() = answer;
        self.set_deadline(slot, self.now + self.settings.linger);
        self.queue(slot);
    }

    /// Without a descriptor for it, takes one connection with the reserve's and closes it.
    fn turn_one_away(&mut self) {
        self.reserve.0 = None;
        for listener in &self.listeners {
            if let Ok(Some((fd, _))) = socket::accept(listener.as_fd()) {
                self.counters.accepted += 1;
                self.counters.refused += 1;
                let mut answer = Vec::new();
                let reject = Reject::fatal(503, "full", "this server has no descriptors left").retry_after(2);
                write_error(&mut answer, &reject, &ResponseHeaders::default());
                let _ = socket::send(fd.as_fd(), &answer);
                break;
            }
        }
        self.reserve.refill();
    }

    /// Takes what is left in the queues and stops listening.
    pub(super) fn stop_listening(&mut self) -> io::Result<()> {
        for listener in std::mem::take(&mut self.listeners) {
            if matches!(listener, Listener::Inherited(_)) {
                // It goes on listening for whoever comes after this process.
                continue;
            }
            while let Ok(Some((fd, address))) = socket::accept(listener.as_fd()) {
                if matches!(listener, Listener::Own(_)) {
                    continue;
                }
                // It is read later: this may be in the middle of another connection's input.
                if let Some(slot) = self.admit(fd, address) {
                    self.await_input(slot);
                }
            }
            // The accept task holds a copy of the descriptor; this ends its wait.
            socket::stop_listening(listener.as_fd());
        }
        self.ring.submit()
    }
}
