//! A connection's slot of 80 bytes, and a box beside it for the fields that a connection needs only at times.

mod peer;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bitflags::bitflags;

use crate::link::LocalChannel;
use crate::logic::id::Id;
use crate::logic::log::Position;
use crate::logic::protocol::ws::Decoder;
use crate::logic::session::{Beat, Carrier, LaneKey};
use crate::logic::wheel::Tick;

use crate::logic::cells::{Cell, NONE, wastes_nothing};

pub(super) use peer::Peer;

use super::account::Buffers;
use super::opening::Opening;
use super::waiting::{Asking, Hold, Waiting};

/// The state of a slot's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// The slot is free.
    Free,
    /// The connection waits for the header of the PROXY protocol.
    Proxied,
    /// The TLS handshake is under way.
    Greeting,
    /// The connection speaks HTTP/2 and carries streams.
    Carrying,
    /// The connection waits for a request, or for the rest of one.
    Http,
    /// An event stream is open.
    Stream,
    /// A WebSocket is open.
    WebSocket,
    /// A poll is held until there is an event or its time is over.
    Poll,
    /// The bytes in `out` are sent, and then the sending side is shut down.
    Closing,
    /// Everything is sent. The connection waits for the peer to close, so that the peer can read everything.
    Lingering,
    /// The connection waits for the last report of its polls; then the slot is free.
    Dead,
}

bitflags! {
    /// Yes-or-no facts about a connection.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        /// The kernel has no room or no memory for the connection's bytes: nothing is sent until it has.
        const BLOCKED = 1;
        /// A frame is sent in part; its rest comes before anything else. `Extra::mid` is the subscription.
        const MID_FRAME = 1 << 1;
        /// A heartbeat is due.
        const HEARTBEAT = 1 << 2;
        /// The slot stands in the list of connections that may have something to send.
        const QUEUED = 1 << 3;
        /// The connection is part of the batch that is being put together.
        const PLANNED = 1 << 4;
        /// The ring has a poll that reports input, or the connection's end.
        const ARMED = 1 << 5;
        /// Missed events are being sent; live events wait.
        const REPLAYING = 1 << 6;
        /// The next read goes on after a short one, because the connection's end may follow.
        const TO_END = 1 << 7;
        /// A WebSocket ping is sent, and no byte has come from the client since.
        const PINGED = 1 << 8;
        /// The connection stays open for another request after the answer to this one.
        const KEEP_ALIVE = 1 << 9;
        /// The request came as HTTP/1.1.
        const HTTP_1_1 = 1 << 10;
        /// The connection counts towards its address's limit.
        const COUNTED = 1 << 11;
        /// The slot stands in the list of connections whose input is read.
        const UNREAD = 1 << 12;
        /// The log has a line about the connection's beginning, so the end gets a line too.
        const LOGGED = 1 << 13;
        /// The connection has no place and gets only the answer that there is no room.
        const REFUSED = 1 << 14;
        /// The ring has a poll that reports room for more bytes.
        const ARMED_OUT = 1 << 15;
        /// The connection comes through a trusted proxy, which names the client with each request.
        const VIA_PROXY = 1 << 16;
        /// `out` has a page of missed events that is not sent yet; the page counts towards the pages asked for.
        const PAGE = 1 << 17;
        /// The connection has made a request, so that its further requests have a rate.
        const ASKED = 1 << 18;
        /// The connection speaks TLS, and its handshake is over: what is sent is sealed.
        const SEALED = 1 << 19;
        /// The slot is a stream of HTTP/2, which has no socket: another slot carries it.
        const CARRIED = 1 << 29;
        /// A close frame has come from a WebSocket's client.
        const CLIENT_CLOSED = 1 << 31;
    }
}

/// The first bit of the [`Beat`]'s number within the slot's word of flags.
const BEAT_SHIFT: u32 = 20;
/// The first bit of the holds within the slot's word of flags.
const HOLD_SHIFT: u32 = BEAT_SHIFT + Beat::BITS;
const _: () = assert!((Hold::all().bits() as u32) << HOLD_SHIFT < Flags::CARRIED.bits(), "each fact has its own bits");

/// A subscription: a lane, and the connection's position in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    /// The lane's number, or [`NONE`].
    pub(super) lane: u32,
    /// The place in the lane's list of readers; [`NONE`] while the connection gets missed events and does not read yet.
    pub(super) place: u32,
    /// The position in the lane's log before which the kernel has taken all bytes.
    pub(super) cursor: Position,
}

impl Default for Subscription {
    fn default() -> Subscription {
        Subscription { lane: NONE, place: NONE, cursor: 0 }
    }
}

/// The slot of one connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) fd: Option<OwnedFd>,
    /// The slot's generation, which goes up with each use of the slot.
    pub(super) generation: u32,
    /// The first subscription; more are in `extra`. While the slot is free, `lane` links the free slots.
    pub(super) first: Subscription,
    pub(super) extra: Option<Box<Extra>>,
    /// The time at which the connection was accepted.
    pub(super) opened: Tick,
    /// The time at which the kernel last took bytes for the connection.
    pub(super) sent: Tick,
    /// The time at which bytes last came from the client.
    pub(super) received: Tick,
    /// The time at which the connection's handshake, held poll or linger ends, whatever else happens. 0 stands for never.
    pub(super) deadline: Tick,
    /// The time at which the connection's entry in the wheel fires. Entries that fire at another time are stale.
    pub(super) timer: Tick,
    /// The number of delivered events.
    pub(super) events: u32,
    pub(super) peer: Peer,
    pub(super) flags: Flags,
    pub(super) state: State,
    /// The connection's protocol and coding.
    pub(super) key: LaneKey,
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
            key: LaneKey::default(),
        }
    }
}

impl Cell for Connection {
    fn link(&mut self) -> &mut u32 {
        &mut self.first.lane
    }
}

/// A resume: missed events that are on their way from the hub.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The resume's number, which tells its pages from those of earlier resumes.
    pub(super) number: u32,
    /// The channels to resume, by the shard's numbers; channels that were unsubscribed since are taken out.
    pub(super) channels: Vec<LocalChannel>,
    /// The channels that were read further than `after`, in the order of their numbers, with the id up to which each was.
    pub(super) sent: Vec<(LocalChannel, Id)>,
    /// The position after which the next page begins.
    pub(super) after: Option<Id>,
    /// Whether the next page must be asked for once the bytes in `out` are sent.
    pub(super) page_due: bool,
    /// The time that a poll may be held if nothing was missed.
    pub(super) wait: Tick,
    /// The words that come before the first page.
    pub(super) opening: Option<Opening>,
}

/// The lost events that a connection was moved past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// The newest id before the lost events.
    pub(super) after: Id,
    /// The id after which no event is lost.
    pub(super) resumed: Id,
}

/// The facts about a held poll that not every poll has.
#[derive(Debug, Default)]
pub(super) struct HeldPoll {
    /// The origin of the page that may read the answer, if it is another one than the server's.
    pub(super) origin: Option<Box<str>>,
    /// The position up to which the client was told of channels' ends.
    pub(super) told: Id,
}

/// The fields that a connection needs only at times.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Answers, replies, notices and missed events that wait to be sent, in order.
    pub(super) out: Vec<u8>,
    /// The number of bytes of `out` that are sent.
    pub(super) out_sent: usize,
    /// Received bytes of an unfinished request or message, or of requests after the present one.
    pub(super) input: Vec<u8>,
    /// The decoder of WebSocket frames, with a message whose fragments are not complete.
    pub(super) decoder: Decoder,
    /// Subscriptions after the first.
    pub(super) more: Vec<Subscription>,
    /// The subscription whose frame is sent in part, while [`Flags::MID_FRAME`] is set.
    pub(super) mid: u32,
    /// The lost events of which the client must still be told.
    pub(super) gap: Option<Box<Gap>>,
    /// The facts about a held poll that not every poll has.
    pub(super) poll: Option<Box<HeldPoll>>,
    /// The cause for which the next request or message waits.
    pub(super) waiting: Waiting,
    /// The resumes in the order of the client's requests; the first one is under way.
    pub(super) resumes: VecDeque<Resume>,
    /// The bytes of the buffers that stand on the shard's account.
    pub(super) counted: Buffers,
}

const _: () = assert!(size_of::<Extra>() == 184, "each connection on several channels has one");

impl Extra {
    /// The bytes of memory that the buffers hold now.
    pub(super) fn buffers(&self) -> Buffers {
        let input = self.input.capacity() + self.decoder.memory_bytes() + self.waiting.memory_bytes();
        Buffers { output: self.out.capacity(), input }
    }

    /// Whether no field is in use, so that the box can be dropped.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty()
            && self.input.is_empty()
            && self.more.is_empty()
            && self.resumes.is_empty()
            && self.gap.is_none()
            && self.poll.is_none()
            && matches!(self.waiting, Waiting::Nothing)
            && self.decoder.is_idle()
    }
}

impl State {
    /// The state of an open session, by what carries it.
    pub(super) fn of(carrier: Carrier) -> State {
        match carrier {
            Carrier::Stream => State::Stream,
            Carrier::WebSocket => State::WebSocket,
            Carrier::Poll => State::Poll,
        }
    }
}

impl Connection {
    /// The box of fields that are needed at times; it is made if there is none.
    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The resume that is under way, if there is one.
    pub(super) fn resume(&self) -> Option<&Resume> {
        self.extra.as_ref()?.resumes.front()
    }

    /// The resume that is under way, to be changed.
    pub(super) fn resume_mut(&mut self) -> Option<&mut Resume> {
        self.extra.as_mut()?.resumes.front_mut()
    }

    /// The heartbeats that the client has asked for, if it has.
    pub(super) fn beat(&self) -> Option<Beat> {
        Beat::from_number((self.flags.bits() >> BEAT_SHIFT) as u8 & ((1 << Beat::BITS) - 1))
    }

    /// Gives the client heartbeats that scripts can see. The connection must have none yet.
    pub(super) fn set_beat(&mut self, beat: Beat) {
        debug_assert_eq!(self.beat(), None, "a session begins once");
        self.flags = Flags::from_bits_retain(self.flags.bits() | u32::from(beat.number()) << BEAT_SHIFT);
    }

    /// The reasons why the connection is not read.
    pub(super) fn holds(&self) -> Hold {
        Hold::from_bits_truncate((self.flags.bits() >> HOLD_SHIFT) as u8)
    }

    /// Adds a reason not to read the connection.
    pub(super) fn hold(&mut self, hold: Hold) {
        self.flags = Flags::from_bits_retain(self.flags.bits() | u32::from(hold.bits()) << HOLD_SHIFT);
    }

    /// Takes a reason not to read the connection away.
    pub(super) fn release(&mut self, hold: Hold) {
        self.flags = Flags::from_bits_retain(self.flags.bits() & !(u32::from(hold.bits()) << HOLD_SHIFT));
    }

    /// Whether the connection's input may be read now. The holds do not count for a finished connection, whose input is
    /// thrown away.
    pub(super) fn may_be_read(&self) -> bool {
        self.state == State::Lingering || self.holds().is_empty()
    }

    /// Whether a request or message of the connection is put aside until the backend has answered or has room.
    pub(super) fn is_put_aside(&self) -> bool {
        self.holds().intersects(Hold::BACKEND | Hold::UPSTREAM)
    }

    /// The cause for which the next request or message waits, to be changed.
    pub(super) fn waiting_mut(&mut self) -> Option<&mut Waiting> {
        self.extra.as_mut().map(|extra| &mut extra.waiting)
    }

    /// Takes out the cause for which the next request or message waits, so that it waits no longer.
    pub(super) fn take_waiting(&mut self) -> Waiting {
        self.extra.as_mut().map(|extra| std::mem::take(&mut extra.waiting)).unwrap_or_default()
    }

    /// The question that the backend is asked about the connection, if it has not answered yet.
    pub(super) fn asking(&self) -> Option<&Asking> {
        match self.extra.as_ref().map(|extra| &extra.waiting) {
            Some(Waiting::Backend(asking)) => Some(asking),
            _ => None,
        }
    }

    /// Whether the connection's identity comes with the backend's decision on the present request.
    pub(super) fn is_decided(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| matches!(extra.waiting, Waiting::Decided(_)))
    }

    /// Whether a WebSocket may do nothing before it has sent its first token.
    pub(super) fn awaits_token(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| matches!(extra.waiting, Waiting::Token(_)))
    }

    /// The buffer whose bytes are sent before any live event.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.extra().out
    }

    /// Whether `out` has the head of a response that may still be taken back, so that nothing is sent.
    pub(super) fn holds_head(&self) -> bool {
        self.resume().and_then(|resume| resume.opening.as_ref()).is_some_and(Opening::holds_head)
    }

    /// Whether the client's close frame must come before the server ends the connection: a WebSocket whose server ends first
    /// has failed for its client.
    pub(super) fn awaits_close_frame(&self) -> bool {
        self.key.protocol().carrier() == Carrier::WebSocket && !self.flags.intersects(Flags::CLIENT_CLOSED)
    }

    /// The bytes that wait in `out`.
    pub(super) fn out_bytes(&self) -> &[u8] {
        self.extra.as_ref().map_or(&[], |extra| &extra.out[extra.out_sent..])
    }

    /// The number of bytes that wait in `out`.
    pub(super) fn out_waiting(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.out.len() - extra.out_sent)
    }

    /// The number of the connection's subscriptions.
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

    /// The subscription at `index`, to be changed.
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

    /// Puts `bytes` before everything else that waits in `out`, of which nothing is sent in part.
    pub(super) fn put_first(&mut self, bytes: &[u8]) {
        let extra = self.extra();
        debug_assert_eq!(extra.out_sent, 0, "a frame and an answer are never both sent in part");
        extra.out.splice(extra.out_sent..extra.out_sent, bytes.iter().copied());
    }

    /// The position that a notice of a gap may carry: none with several channels, because events of the other channels
    /// from before the gap's end may still be to come.
    pub(super) fn gap_position(&self, gap: &Gap) -> Option<Id> {
        (self.subscriptions() <= 1).then_some(gap.resumed)
    }

    /// The subscription whose frame is sent in part.
    pub(super) fn mid_frame(&self) -> Option<usize> {
        self.flags.intersects(Flags::MID_FRAME).then(|| self.extra.as_ref().map_or(0, |extra| extra.mid as usize))
    }

    /// Notes the subscription whose frame is sent in part; `None` if no frame is.
    pub(super) fn set_mid_frame(&mut self, index: Option<usize>) {
        match index {
            None => self.flags.remove(Flags::MID_FRAME),
            Some(index) => {
                self.flags.insert(Flags::MID_FRAME);
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
        assert!(connection.extra.is_some_and(|extra| extra.is_idle()));
    }

    #[test]
    fn a_peer_is_shown_as_it_came() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:443"] {
            assert_eq!(Peer::new(text.parse().unwrap()).to_string(), text);
        }
        assert_eq!(Peer::default().to_string(), "unix");
    }
}
