//! Accepting new connections, and refusing them when there is no room.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::logic::code::Code;
use crate::logic::protocol::http::{Exchange, Parsed, Request, last_untrusted, parse};
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::tls::Alert;
use crate::sys::socket;

use super::admission::Refused;
use super::connection::{Flags, Peer, State};
use super::context::{Budget, Context};
use super::refusals;
use super::slots::Slots;
use super::waiting::Waiting;
use super::{Listener, ListenerKind};

/// The most connections that one turn accepts from one listener.
const BURST: usize = 64;
/// The pieces of the budget that accepting a connection costs.
const ACCEPT_PIECES: usize = 8;
/// The most connections that wait for a place and are looked at again in one turn.
const COMERS_PER_TURN: usize = 64;
/// The most connections at a time that get a refusal with a slot of their own; beyond that the answer is sent once and
/// the connection closed.
const REFUSALS_MAX: usize = 64;
/// The most turns for which a new connection waits for the place of one that is ending.
const TURNS_WAITED_MAX: u32 = 64;
/// The most bytes of a request that are read when it is refused without a slot.
const REQUEST_BYTES: usize = 4096;
/// The descriptors of a shard's table that are not for connections: the shard's own, and some for refusals.
const OTHER_DESCRIPTORS: u64 = 128;

impl Listener {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            ListenerKind::Tcp(listener) => listener.as_fd(),
            ListenerKind::Unix(listener) => listener.as_fd(),
            ListenerKind::Inherited(listener) => listener.as_fd(),
        }
    }
}

/// A reserved descriptor for the case that there are no others: it is given up to accept a connection and close it.
/// Without that the connection would stay in the queue, its client would wait, and the listener would always be
/// readable.
#[derive(Debug, Default)]
struct Reserve(Option<OwnedFd>);

impl Reserve {
    fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok().map(OwnedFd::from);
        }
    }
}

/// Whether connections may be taken from a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// The listener's queue is empty, as far as the shard knows.
    Empty,
    /// The listener's queue may have connections.
    Ready,
    /// The kernel has no descriptor or memory to give; the queue is left alone for a while.
    Exhausted,
    /// The shard no longer listens on it.
    Closed,
}

/// An accepted connection that waits for the place of one that is ending.
#[derive(Debug)]
struct Comer {
    fd: OwnedFd,
    address: Option<SocketAddr>,
    /// The client speaks TLS.
    is_tls: bool,
    /// The turns for which it may still wait.
    turns_left: u32,
}

/// The listeners of a shard, and the connections that wait for a place.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    queues: Vec<Queue>,
    reserve: Reserve,
    comers: VecDeque<Comer>,
    /// The listener whose queue is taken from first in this turn.
    first: usize,
    /// The ring has reports that were not taken, so connections that have ended may still have their places.
    may_free_places: bool,
    /// The number of connections that this thread's descriptor table has room for.
    descriptors_max: usize,
}

impl Acceptor {
    /// The listeners of a thread whose table has room for `descriptors` descriptors.
    pub(super) fn new(listeners: Vec<Listener>, descriptors: u64) -> Acceptor {
        let mut reserve = Reserve::default();
        reserve.refill();
        Acceptor {
            queues: vec![Queue::Empty; listeners.len()],
            listeners,
            reserve,
            comers: VecDeque::new(),
            first: 0,
            may_free_places: false,
            descriptors_max: descriptors.saturating_sub(OTHER_DESCRIPTORS) as usize,
        }
    }

    /// The number of connections that this thread's descriptor table has room for.
    pub(super) fn descriptors_max(&self) -> usize {
        self.descriptors_max
    }

    /// The listeners, in the order of their numbers.
    pub(super) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The state of a listener's queue.
    pub(super) fn queue(&self, listener: usize) -> Queue {
        self.queues.get(listener).copied().unwrap_or(Queue::Closed)
    }

    /// Notes that a listener's queue has connections.
    pub(super) fn note_ready(&mut self, listener: usize) {
        if let Some(queue) = self.queues.get_mut(listener).filter(|queue| **queue != Queue::Closed) {
            *queue = Queue::Ready;
        }
    }

    /// Whether connections wait that the next turn could accept or refuse.
    pub(super) fn has_waiting(&self) -> bool {
        !self.comers.is_empty() || self.queues.contains(&Queue::Ready)
    }

    /// Accepts waiting connections, up to a burst for each listener. They are read in this turn, because a TCP
    /// connection is accepted together with its request. `may_free_places`: the ring has reports that this turn has not
    /// taken.
    pub(super) fn take(&mut self, slots: &mut Slots, cx: &mut Context, mut budget: Budget, may_free_places: bool) {
        self.may_free_places = may_free_places;
        for _ in 0..self.comers.len().min(COMERS_PER_TURN) {
            let Some(comer) = self.comers.pop_front() else { break };
            budget.take();
            self.admit(slots, cx, comer);
        }
        // Another listener is the first in each turn, so that one with a full queue keeps no other from its share.
        self.first = (self.first + 1) % self.listeners.len().max(1);
        for number in 0..self.listeners.len() {
            let listener = (self.first + number) % self.listeners.len();
            if self.queues[listener] == Queue::Ready {
                self.queues[listener] = self.take_burst(slots, cx, listener, &mut budget);
            }
        }
    }

    fn take_burst(&mut self, slots: &mut Slots, cx: &mut Context, listener: usize, budget: &mut Budget) -> Queue {
        for _ in 0..BURST {
            if budget.is_spent() {
                break;
            }
            budget.spend(ACCEPT_PIECES);
            let listener = &self.listeners[listener];
            if listener.is_tls && slots.tls.greetings() >= cx.settings.config.tls.handshakes_max {
                // The kernel keeps further connections until some of the handshakes are over.
                return Queue::Exhausted;
            }
            match socket::accept(listener.as_fd()) {
                Ok(Some((fd, address))) => {
                    cx.counters.accepted += 1;
                    let is_tls = listener.is_tls;
                    self.admit(slots, cx, Comer { fd, address, is_tls, turns_left: TURNS_WAITED_MAX });
                }
                Ok(None) => return Queue::Empty,
                Err(error) if socket::is_exhaustion(&error) => {
                    self.turn_one_away(cx);
                    return Queue::Exhausted;
                }
                // This client has gone before its connection was accepted. Others may wait behind it.
                Err(_) => {}
            }
        }
        Queue::Ready
    }

    /// Gives a connection a slot, which is returned, or refuses it. If there is no place while connections are ending,
    /// the new connection waits some turns for one of theirs: when all clients come back at once, their old connections
    /// still have the places.
    fn admit(&mut self, slots: &mut Slots, cx: &mut Context, mut comer: Comer) -> Option<u32> {
        let peer = comer.address.map(Peer::new).unwrap_or_default();
        let is_counted = cx.admission.counts_addresses() && comer.address.is_some() && !cx.settings.trusts(peer.ip());
        let (reason, refusal) = match self.take_places(slots, cx, is_counted.then(|| peer.ip())) {
            Ok(()) => return Some(occupy(slots, cx, comer, peer, is_counted)),
            Err(refused) => refused,
        };
        let may_wait = reason == Refused::TooMany && comer.turns_left > 0;
        if may_wait && (slots.has_dying() || self.may_free_places) {
            comer.turns_left -= 1;
            self.comers.push_back(comer);
            return None;
        }
        refuse(slots, cx, comer, peer, refusal);
        None
    }

    /// Takes one of the server's places and, if the connection counts towards an address, one of the address's
    /// places.
    fn take_places(&self, slots: &Slots, cx: &Context, address: Option<IpAddr>) -> Result<(), (Refused, Refusal)> {
        if slots.used() - slots.h2.streams() >= self.descriptors_max || !cx.admission.enter() {
            let refusal = Refusal::fatal(Code::Full, "this server has no room for more connections");
            return Err((Refused::TooMany, refusal));
        }
        match address.map(|address| cx.admission.enter_from(address, true)) {
            Some(Err(reason)) => {
                cx.admission.leave();
                Err((reason, reason.refusal()))
            }
            _ => Ok(()),
        }
    }

    /// Gives every connection that waits for a place a slot, whatever the limits say.
    pub(super) fn place_comers(&mut self, slots: &mut Slots, cx: &Context) {
        for comer in std::mem::take(&mut self.comers) {
            cx.admission.restore(None);
            let peer = comer.address.map(Peer::new).unwrap_or_default();
            occupy(slots, cx, comer, peer, false);
        }
    }

    /// Adds a listener that a predecessor has handed over.
    pub(super) fn add(&mut self, listener: Listener) {
        self.listeners.push(listener);
        self.queues.push(Queue::Ready);
    }

    /// Accepts one connection with the reserved descriptor, because there is no other, and closes it.
    fn turn_one_away(&mut self, cx: &mut Context) {
        self.reserve.0 = None;
        for listener in &self.listeners {
            if let Ok(Some((fd, _))) = socket::accept(listener.as_fd()) {
                cx.counters.accepted += 1;
                cx.counters.refused += 1;
                let refusal = Refusal::fatal(Code::Full, "this server has no descriptors left");
                let refusal = refusal.retry_after(cx.retry_after_secs());
                refuse_at_once(cx, fd.as_fd(), listener.is_tls, &refusal);
                break;
            }
        }
        self.reserve.refill();
    }

    /// Accepts the connections that are left in the queues, as far as the budget reaches, and stops listening.
    pub(super) fn stop(&mut self, slots: &mut Slots, cx: &mut Context, mut budget: Budget) {
        for listener in std::mem::take(&mut self.listeners) {
            if matches!(listener.kind, ListenerKind::Inherited(_)) {
                // The service manager keeps the socket for the next process.
                continue;
            }
            while !budget.is_spent()
                && let Ok(Some((fd, address))) = socket::accept(listener.as_fd())
            {
                budget.spend(ACCEPT_PIECES);
                cx.counters.accepted += 1;
                self.admit(slots, cx, Comer { fd, address, is_tls: listener.is_tls, turns_left: 0 });
            }
            // The driver has a copy of the descriptor, whose wait ends with this.
            socket::stop_listening(listener.as_fd());
        }
        self.queues.fill(Queue::Closed);
    }
}

/// Fills a slot with a connection that has taken its places.
fn occupy(slots: &mut Slots, cx: &Context, comer: Comer, peer: Peer, is_counted: bool) -> u32 {
    let comes_from_proxy = comer.address.is_none() || cx.settings.trusts(peer.ip());
    let is_proxied = cx.settings.config.server.proxy_protocol && comes_from_proxy;
    let state = match comer.is_tls {
        _ if is_proxied => State::Proxied,
        true => State::Greeting,
        false => State::Http,
    };
    let slot = slots.occupy(comer.fd, peer, state, cx.now);
    if comer.is_tls {
        slots.tls.greet(slot);
    }
    if is_counted {
        slots[slot].flags.insert(Flags::COUNTED);
    }
    slots.set_deadline(slot, cx.now + cx.settings.handshake);
    slots.read_soon(slot);
    slot
}

/// Has the request of a connection without a place answered with a refusal, and the connection closed. If many wait for
/// that already, the connection is answered by what has come of its request.
fn refuse(slots: &mut Slots, cx: &mut Context, comer: Comer, peer: Peer, refusal: Refusal) {
    cx.counters.refused += 1;
    let refusal = refusal.retry_after(cx.retry_after_secs());
    // A handshake would cost more than what is refused, and browsers come back after an alert.
    if slots.refusals >= REFUSALS_MAX || comer.is_tls {
        refuse_at_once(cx, comer.fd.as_fd(), comer.is_tls, &refusal);
        return;
    }
    slots.refusals += 1;
    let slot = occupy(slots, cx, comer, peer, false);
    slots[slot].flags.insert(Flags::REFUSED);
    slots[slot].extra().waiting = Waiting::Refused(Box::new(refusal));
    slots.set_deadline(slot, cx.now + cx.settings.linger.min(cx.settings.handshake));
}

/// Answers a connection by what has come of its request, without a slot. The client may see a reset instead of the end.
/// A client that speaks TLS gets an alert.
fn refuse_at_once(cx: &mut Context, fd: BorrowedFd<'_>, is_tls: bool, refusal: &Refusal) {
    cx.counters.count_rejection(refusal.code.status());
    cx.counters.closed[Reason::Refused as usize] += 1;
    let mut request = [0; REQUEST_BYTES];
    let length = socket::receive(fd, &mut request).unwrap_or(0);
    if is_tls {
        let _ = socket::send(fd, &Alert::InternalError.in_clear());
        return;
    }
    let mut answer = Vec::new();
    match parse(&request[..length], &cx.settings.head) {
        Parsed::Complete { request, .. } => {
            let exchange = Exchange { keep_alive: false, ..Exchange::of(&request, cx.date()) };
            refusals::write(cx, &request, refusal, exchange, &mut answer);
        }
        _ => refusals::write_unread(cx, refusal, false, &mut answer),
    }
    let _ = socket::send(fd, &answer);
}

/// Sets the address of a connection behind a trusted proxy to the client's. Each request sets it anew, because the
/// proxy may bring the requests of several clients on one connection.
pub(super) fn learn_client(
    slots: &mut Slots,
    cx: &mut Context,
    slot: u32,
    request: &Request<'_>,
) -> Result<(), Refusal> {
    if !cx.settings.trusted {
        return Ok(());
    }
    let connection = &mut slots[slot];
    let before = connection.peer.ip();
    let was_via_proxy = connection.flags.intersects(Flags::VIA_PROXY);
    if !was_via_proxy && (connection.flags.intersects(Flags::COUNTED) || !cx.settings.trusts(before)) {
        return Ok(());
    }
    connection.flags.insert(Flags::VIA_PROXY);
    let Some(client) = last_untrusted(request, |address| cx.settings.trusts(address)) else {
        if was_via_proxy && !cx.settings.trusts(before) {
            // This request names no client and may come from another one than the request before.
            give_back_address(slots, cx, slot);
            slots[slot].peer = own_peer(slots, slot);
        }
        return Ok(());
    };
    let is_same = was_via_proxy && client == before;
    if is_same && slots[slot].flags.intersects(Flags::COUNTED) {
        return Ok(());
    }
    give_back_address(slots, cx, slot);
    count_address(slots, cx, slot, client, !is_same)?;
    slots[slot].peer = Peer::new((client, 0).into());
    Ok(())
}

/// The address of a connection's peer by its socket, without regard to proxies.
fn own_peer(slots: &Slots, slot: u32) -> Peer {
    let fd = slots[slot].fd.as_ref();
    fd.and_then(|fd| socket::peer_address(fd.as_fd())).map(Peer::new).unwrap_or_default()
}

/// Gives back the connection's place among those of its address, if it has one.
pub(super) fn give_back_address(slots: &mut Slots, cx: &Context, slot: u32) {
    if let Some(address) = slots.uncount(slot) {
        cx.admission.leave_from(address);
    }
}

/// Takes one of an address's places for a connection behind a proxy. The caller sets the peer to that address.
/// `is_new`:
/// the connection counts towards the address's rate of new connections too.
pub(super) fn count_address(
    slots: &mut Slots,
    cx: &mut Context,
    slot: u32,
    client: IpAddr,
    is_new: bool,
) -> Result<(), Refusal> {
    if cx.admission.counts_addresses() {
        if let Err(refused) = cx.admission.enter_from(client, is_new) {
            cx.counters.refused += 1;
            return Err(refused.refusal().retry_after(cx.retry_after_secs()));
        }
        slots[slot].flags.insert(Flags::COUNTED);
    }
    Ok(())
}

#[cfg(test)]
impl Acceptor {
    /// Admits a connection that did not come from a listener.
    pub(super) fn admit_now(
        &mut self,
        slots: &mut Slots,
        cx: &mut Context,
        fd: OwnedFd,
        address: Option<SocketAddr>,
    ) -> Option<u32> {
        cx.counters.accepted += 1;
        self.admit(slots, cx, Comer { fd, address, is_tls: false, turns_left: 0 })
    }

    /// Admits a connection whose client speaks TLS.
    pub(super) fn admit_tls(&mut self, slots: &mut Slots, cx: &mut Context, fd: OwnedFd) -> Option<u32> {
        cx.counters.accepted += 1;
        self.admit(slots, cx, Comer { fd, address: None, is_tls: true, turns_left: 0 })
    }
}
