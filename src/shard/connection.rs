//! What a connection is while nothing happens on it: a slot of 80 bytes, and beside it only what it needs
//! at the moment.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::link::LocalChannel;
use crate::logic::id::Id;
use crate::logic::log::Position;
use crate::logic::protocol::dialect::Dialect;
use crate::logic::protocol::http::Reject;
use crate::logic::protocol::ws::Decoder;
use crate::logic::wheel::Tick;

use crate::logic::cells::{Cell, NONE, wastes_nothing};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Nothing: the slot is free.
    Free,
    /// Waiting for what its proxy says about it.
    Proxied,
    /// Waiting for a request, or for the rest of one.
    Http,
    /// An event stream is open.
    Stream,
    /// A WebSocket is open.
    WebSocket,
    /// A poll is held until there is an event or its time is over.
    Poll,
    /// What is in `out` still goes out, then the sending side is shut down.
    Closing,
    /// Everything is sent; waiting for the peer to close, so that it can read it all.
    Lingering,
    /// Waiting for the last completion of its poll; then the slot is free.
    Dead,
}

/// Single facts about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

impl Flags {
    /// The kernel has no room, or no memory: nothing is sent until there is.
    pub(super) const BLOCKED: Flags = Flags(1);
    /// The first subscription with `mid` set has a frame sent in part; its rest comes before anything else.
    pub(super) const MID_FRAME: Flags = Flags(1 << 1);
    /// A heartbeat is due.
    pub(super) const HEARTBEAT: Flags = Flags(1 << 2);
    /// Stands in the list of those that may have something to send.
    pub(super) const QUEUED: Flags = Flags(1 << 3);
    /// Part of the batch that is being put together.
    pub(super) const PLANNED: Flags = Flags(1 << 4);
    /// The ring reports when there is something to read, or when it is over.
    pub(super) const ARMED: Flags = Flags(1 << 5);
    /// Missed events are being sent; live ones wait.
    pub(super) const REPLAYING: Flags = Flags(1 << 6);
    /// Nothing is read until what waits to be sent has gone.
    pub(super) const PAUSED: Flags = Flags(1 << 7);
    /// A WebSocket ping is out and nothing has come since.
    pub(super) const PINGED: Flags = Flags(1 << 8);
    /// The answer to the held poll leaves the connection open for the next request.
    pub(super) const KEEP_ALIVE: Flags = Flags(1 << 9);
    /// The request came as HTTP/1.1.
    pub(super) const HTTP_1_1: Flags = Flags(1 << 10);
    /// Counts towards its address's limit.
    pub(super) const COUNTED: Flags = Flags(1 << 11);
    /// A WebSocket that gets its own messages back, for conformance suites.
    pub(super) const ECHO: Flags = Flags(1 << 12);
    /// Waits in the list of those whose input is read further next turn.
    pub(super) const UNREAD: Flags = Flags(1 << 13);
    /// Has been written to the log as connected, so its end is written too.
    pub(super) const LOGGED: Flags = Flags(1 << 14);
    /// Is only there to be told that there is no room.
    pub(super) const REFUSED: Flags = Flags(1 << 15);
    /// The ring reports when there is room again.
    pub(super) const ARMED_OUT: Flags = Flags(1 << 16);
    /// This process itself is at the other end.
    pub(super) const OWN: Flags = Flags(1 << 17);
    /// Comes through a trusted proxy, which says with each request whose it is.
    pub(super) const VIA_PROXY: Flags = Flags(1 << 18);
    /// Has a page of missed events in `out` that is still to be sent for the first time, and one of the places for those.
    pub(super) const PAGE: Flags = Flags(1 << 19);

    pub(super) fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    pub(super) fn clear(&mut self, other: Flags) {
        self.0 &= !other.0;
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// A subscription: where in which lane the connection stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    /// The lane, or [`NONE`].
    pub(super) lane: u32,
    /// Its place in the lane's list of subscribers, so that removal needs no search; [`NONE`] while the
    /// connection still gets missed events and does not follow the lane yet.
    pub(super) place: u32,
    /// Everything before it has been taken by the kernel.
    pub(super) cursor: Position,
}

impl Default for Subscription {
    fn default() -> Subscription {
        Subscription { lane: NONE, place: NONE, cursor: 0 }
    }
}

/// A peer's address in 18 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    ip: [u8; 16],
    port: u16,
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Peer {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Peer { ip: ip.octets(), port: address.port() }
    }

    /// This process itself.
    pub(super) const OWN: Peer = Peer { ip: [0; 16], port: 1 };

    /// The address; unspecified for peers on a Unix socket.
    pub(super) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Peer::OWN => f.write_str("own"),
            peer if peer == Peer::default() => f.write_str("unix"),
            peer => SocketAddr::new(peer.ip(), peer.port).fmt(f),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) fd: Option<OwnedFd>,
    /// Goes up with each use of the slot.
    pub(super) generation: u32,
    /// The first subscription; more are in `extra`. While the slot is free, `lane` links the free slots.
    pub(super) first: Subscription,
    pub(super) extra: Option<Box<Extra>>,
    /// When it was accepted.
    pub(super) opened: Tick,
    /// When the kernel last took bytes for it.
    pub(super) sent: Tick,
    /// When bytes last came from it.
    pub(super) received: Tick,
    /// When it ends whatever happens: the handshake's, the held poll's or the linger's end. 0: never.
    pub(super) deadline: Tick,
    /// When its entry in the wheel fires; entries that fire at another time are stale.
    pub(super) timer: Tick,
    /// Events delivered.
    pub(super) events: u32,
    pub(super) peer: Peer,
    pub(super) flags: Flags,
    pub(super) state: State,
    pub(super) dialect: Dialect,
}

const _: () = assert!(size_of::<Connection>() == 80, "a connection's slot is what a million of them cost");
const _: () = assert!(wastes_nothing::<Connection>());

impl Default for Connection {
    fn default() -> Connection {
        Connection {
            fd: None,
            generation: 0,
            first: Subscription::default(),
            extra: None,
            opened: 0,
            sent: 0,
            received: 0,
            deadline: 0,
            timer: 0,
            events: 0,
            peer: Peer::default(),
            flags: Flags::default(),
            state: State::Free,
            dialect: Dialect::Sse,
        }
    }
}

impl Cell for Connection {
    fn link(&mut self) -> &mut u32 {
        &mut self.first.lane
    }
}

/// Missed events that are on their way from the hub.
#[derive(Debug)]
pub(super) struct Resume {
    /// Tells its answers from those to earlier ones.
    pub(super) number: u32,
    /// The channels, by this shard's numbers; those that were unsubscribed since are taken out.
    pub(super) channels: Vec<LocalChannel>,
    /// What to ask for next.
    pub(super) after: Option<Id>,
    /// Whether the next page must be asked for once what is in `out` has gone.
    pub(super) page_due: bool,
    /// For a poll: how long it may be held if nothing was missed.
    pub(super) wait: Tick,
}

/// Events that a connection was moved past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// The newest id before the lost events.
    pub(super) after: Id,
    /// The id after which everything comes again.
    pub(super) resumed: Id,
}

/// A question to the backend that a connection waits for.
#[derive(Debug)]
pub(super) struct Asking {
    /// Tells its answer from those to earlier questions.
    pub(super) number: u32,
    /// The channels that it is asked about.
    pub(super) channels: Vec<String>,
    /// What has come of the answer, until the request is looked at again.
    pub(super) outcome: Option<Result<(), Reject>>,
}

/// What a WebSocket that came without a token has asked for.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) channels: Vec<String>,
    pub(super) after: Option<Id>,
}

/// What a connection needs only at times.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Answers, replies, notices and missed events that wait to be sent, in order.
    pub(super) out: Vec<u8>,
    /// How much of `out` is sent.
    pub(super) out_sent: usize,
    /// Bytes that came and are not whole yet, or not the present request's.
    pub(super) input: Vec<u8>,
    /// A message of several fragments in the making.
    pub(super) decoder: Decoder,
    /// Subscriptions after the first.
    pub(super) more: Vec<Subscription>,
    /// Which subscription [`Flags::MID_FRAME`] is about.
    pub(super) mid: u32,
    /// A notice of lost events is due.
    pub(super) gap: Option<Gap>,
    /// The page that a held poll's answer may be read by, if it is of another origin.
    pub(super) origin: Option<Box<str>>,
    /// A message that waits for room on its way to the backend.
    pub(super) unsaid: Option<Box<str>>,
    /// What the backend is being asked about it.
    pub(super) asking: Option<Box<Asking>>,
    /// What is asked for once a token has come.
    pub(super) awaited: Option<Box<Awaited>>,
    /// What is being resumed, in the order it was asked for; the first is under way.
    pub(super) resumes: VecDeque<Resume>,
}

impl Extra {
    /// Whether it can be dropped.
    fn is_idle(&self) -> bool {
        self.out.is_empty()
            && self.input.is_empty()
            && self.more.is_empty()
            && self.resumes.is_empty()
            && self.gap.is_none()
            && self.origin.is_none()
            && self.awaited.is_none()
            && self.unsaid.is_none()
            && self.asking.is_none()
            && self.decoder.is_idle()
    }
}

impl Connection {
    /// Whether this process itself is at the other end.
    pub(super) fn is_own(&self) -> bool {
        self.flags.has(Flags::OWN)
    }

    /// What it needs at times, made if it is not there.
    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// What is being resumed: the first of those that wait for pages of what they missed.
    pub(super) fn resume(&self) -> Option<&Resume> {
        self.extra.as_ref()?.resumes.front()
    }

    /// As [`Connection::resume`], to be changed.
    pub(super) fn resume_mut(&mut self) -> Option<&mut Resume> {
        self.extra.as_mut()?.resumes.front_mut()
    }

    /// What the backend was asked, until the request or message is looked at again with the answer.
    pub(super) fn asking(&self) -> Option<&Asking> {
        self.extra.as_ref()?.asking.as_deref()
    }

    /// As [`Connection::asking`], to be changed.
    pub(super) fn asking_mut(&mut self) -> Option<&mut Asking> {
        self.extra.as_mut()?.asking.as_deref_mut()
    }

    /// Whether it waits for room for what it says, or for the backend's word, and is not read meanwhile.
    pub(super) fn is_held_back(&self) -> bool {
        let Some(extra) = &self.extra else { return false };
        extra.unsaid.is_some() || self.asking().is_some_and(|asking| asking.outcome.is_none())
    }

    /// Whether nothing is open to it before it has sent a token.
    pub(super) fn awaits_token(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.awaited.is_some())
    }

    /// Drops what it does not need at the moment.
    pub(super) fn tidy(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.is_idle()) {
            self.extra = None;
        }
    }

    /// The buffer whose bytes are sent before any live event.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.extra().out
    }

    /// How many bytes wait in `out`.
    pub(super) fn out_waiting(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.out.len() - extra.out_sent)
    }

    /// How many subscriptions there are.
    pub(super) fn subscriptions(&self) -> usize {
        if self.first.lane == NONE {
            return 0;
        }
        1 + self.extra.as_ref().map_or(0, |extra| extra.more.len())
    }

    /// The subscription at `index`, from 0 on.
    pub(super) fn subscription(&self, index: usize) -> Option<&Subscription> {
        match index {
            0 => (self.first.lane != NONE).then_some(&self.first),
            _ => self.extra.as_ref()?.more.get(index - 1),
        }
    }

    /// The subscriptions from number `first` on.
    pub(super) fn subscriptions_from(&self, first: usize) -> impl Iterator<Item = &Subscription> {
        (first..self.subscriptions()).filter_map(|index| self.subscription(index))
    }

    /// As [`Connection::subscription`], to change it.
    pub(super) fn subscription_mut(&mut self, index: usize) -> Option<&mut Subscription> {
        match index {
            0 => (self.first.lane != NONE).then_some(&mut self.first),
            _ => self.extra.as_mut()?.more.get_mut(index - 1),
        }
    }

    /// Adds a subscription and returns its index.
    pub(super) fn add_subscription(&mut self, subscription: Subscription) -> usize {
        if self.first.lane == NONE {
            self.first = subscription;
            return 0;
        }
        let more = &mut self.extra().more;
        more.push(subscription);
        more.len()
    }

    /// Takes the subscription at `index` out; the last one moves to its place.
    pub(super) fn remove_subscription(&mut self, index: usize) {
        let more = self.extra.as_mut().map(|extra| &mut extra.more);
        match (index, more) {
            (0, more) => self.first = more.and_then(Vec::pop).unwrap_or_default(),
            (_, Some(more)) => drop(more.swap_remove(index - 1)),
            (_, None) => debug_assert!(false, "a second subscription is in `more`"),
        }
    }

    /// The subscription whose frame is sent in part.
    pub(super) fn mid_frame(&self) -> Option<usize> {
        self.flags.has(Flags::MID_FRAME).then(|| self.extra.as_ref().map_or(0, |extra| extra.mid as usize))
    }

    /// Says which subscription's frame is sent in part, if any is.
    pub(super) fn set_mid_frame(&mut self, index: Option<usize>) {
        match index {
            None => self.flags.clear(Flags::MID_FRAME),
            Some(index) => {
                self.flags.set(Flags::MID_FRAME);
                if let Some(extra) = &mut self.extra {
                    extra.mid = index as u32;
                } else {
                    debug_assert_eq!(index, 0, "a second subscription is in `extra`");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(lane: u32) -> Subscription {
        Subscription { lane, place: 0, cursor: 0 }
    }

    #[test]
    fn removing_a_subscription_moves_the_last_one() {
        let mut connection = Connection::default();
        for lane in 10..14 {
            connection.add_subscription(on(lane));
        }
        let lanes =
            |connection: &Connection| -> Vec<u32> { connection.subscriptions_from(0).map(|s| s.lane).collect() };
        connection.remove_subscription(1);
        assert_eq!(lanes(&connection), [10, 13, 12]);
        connection.remove_subscription(0);
        assert_eq!(lanes(&connection), [12, 13]);
        connection.remove_subscription(1);
        connection.remove_subscription(0);
        assert_eq!(connection.subscriptions(), 0);
        connection.tidy();
        assert!(connection.extra.is_none());
    }

    #[test]
    fn a_peer_is_shown_as_it_came() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:443"] {
            assert_eq!(Peer::new(text.parse().unwrap()).to_string(), text);
        }
        assert_eq!(Peer::default().to_string(), "unix");
    }
}
