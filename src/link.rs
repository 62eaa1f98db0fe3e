//! The queues between the hub and the shards: what is said, and the bounds.
//!
//! Both directions are lock-free queues with one wake-up per batch. Hub to shard, order is everything: an
//! answer to a subscription stands in the same queue as live events, so that replay and live can neither
//! overlap nor leave a hole. That queue is bounded by the bytes waiting in it; the hub looks at
//! [`ToShard::is_congested`] and slows its publishers down. Nothing in it is ever dropped.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arcstr::ArcStr;
use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::logic::auth::Keyring;
use crate::logic::event::{ChannelName, Draft, Event};
use crate::logic::id::Id;
pub use crate::logic::protocol::feed::{Answer, Listening};
use crate::sys::wake::Wake;

/// A channel's number within one shard. It is used again only after the hub has confirmed that it routes
/// nothing to it any more.
pub type LocalChannel = u32;

/// A connection's name for the outside: `<shard>.<slot>.<generation>` in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The shard that owns it.
    pub shard: u16,
    /// Its slot in the shard's table.
    pub slot: u32,
    /// Tells it from others that used the slot before or will after it.
    pub generation: u32,
}

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.shard, self.slot, self.generation)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = ();

    fn from_str(text: &str) -> Result<ConnectionId, ()> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok()).ok_or(());
        let shard = u16::try_from(part()?).map_err(|_| ())?;
        Ok(ConnectionId { shard, slot: part()?, generation: part()? })
    }
}

/// A client, as the backend knows it.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// The connection.
    pub connection: ConnectionId,
    /// The user, if it came with a token that names one.
    pub user: Option<ArcStr>,
}

/// A question to the backend: may this client, which has no token, subscribe to these channels?
#[derive(Debug)]
pub struct Question {
    /// The shard's number for it.
    pub number: u32,
    /// The channels.
    pub channels: Vec<String>,
    /// Where the client is.
    pub address: Box<str>,
    /// The request's `Authorization`.
    pub authorization: Option<Box<str>>,
    /// Its `Cookie`.
    pub cookie: Option<Box<str>>,
    /// Its `Origin`.
    pub origin: Option<Box<str>>,
}

/// What something that a client has said or published counts for on its shard's account: its bytes, and what comes
/// with them.
pub fn upstream_weight(bytes: usize) -> usize {
    bytes + 128
}

/// Whom a kick is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One connection.
    Connection(ConnectionId),
    /// Everyone subscribed to a channel.
    Channel(ChannelName),
    /// All connections of a user.
    User(ArcStr),
    /// All connections that came with a token, which is refused from now on.
    Token {
        /// Its id.
        id: ArcStr,
        /// Until when it is refused, in seconds since 1970.
        until_s: u64,
    },
    /// A user's subscriptions to a channel; the connections stay.
    Subscription {
        /// The user.
        user: ArcStr,
        /// The channel.
        channel: ChannelName,
    },
}

/// Events that were missed, or the news that some are lost.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Who asked.
    pub slot: u32,
    /// The slot's generation when it asked.
    pub generation: u32,
    /// The position that was asked for; `None` for a question after the present position only.
    pub after: Option<Id>,
    /// The events, oldest first.
    pub events: Vec<Arc<Event>>,
    /// If something after `after` is lost: since which id everything is there.
    pub gap: Option<Id>,
    /// Up to where `events` are complete: events after this id are yet to come, live or with the next page.
    pub until: Id,
    /// Whether this was the last page, so that live events follow it without a hole.
    pub last: bool,
}

/// What the hub tells a shard.
#[derive(Debug)]
pub enum ShardMessage {
    /// An event on a channel that the shard follows.
    Event(LocalChannel, Arc<Event>),
    /// From here on every event of the channel is in this queue; the id is the newest one before that.
    Followed(LocalChannel, Id),
    /// From here on no event of the channel is in this queue.
    Unfollowed(LocalChannel),
    /// An answer to [`HubMessage::Resume`].
    Replay(Box<Replay>),
    /// The channel has ended.
    Ended(LocalChannel),
    /// End connections; answer with [`HubMessage::Kicked`].
    Kick {
        /// Comes back with the answer.
        request: u64,
        /// Whom.
        target: Target,
        /// Said to the client.
        reason: Arc<str>,
    },
    /// The keys by which tokens are verified from now on.
    Keys(Arc<Keyring>),
    /// Something for one connection alone.
    Send(ConnectionId, Draft),
    /// Something for all connections of a user.
    SendUser(ArcStr, Draft),
    /// What anyone listens to from here on.
    Listening(Listening),
    /// So many bytes of what clients have said or published are off the shard's account.
    Heard(usize),
    /// The backend has answered a question.
    Answered {
        /// About whom.
        connection: ConnectionId,
        /// Which question.
        number: u32,
        /// What.
        answer: Answer,
    },
    /// What became of something a client has published.
    Published {
        /// Who.
        connection: ConnectionId,
        /// The client's own.
        reference: Option<Box<str>>,
        /// Its id, or a word and a sentence why not.
        result: Result<Id, (&'static str, String)>,
    },
    /// Close the listeners and let the clients go at a spread pace.
    Drain,
}

/// What a shard tells the hub.
#[derive(Debug)]
pub enum HubMessage {
    /// The shard wants every event of the channel, under this number.
    Follow {
        /// Who says it.
        shard: u16,
        /// The shard's number for the channel.
        local: LocalChannel,
        /// The channel's name.
        name: ChannelName,
    },
    /// The shard wants no more events of the channel.
    Unfollow {
        /// Who says it.
        shard: u16,
        /// The shard's number for the channel.
        local: LocalChannel,
    },
    /// A connection wants what it has missed on channels that the shard follows.
    Resume {
        /// Who says it.
        shard: u16,
        /// The connection's slot and generation.
        slot: u32,
        /// See `slot`.
        generation: u32,
        /// The channels, by the shard's numbers.
        channels: Vec<LocalChannel>,
        /// The position after which to begin; `None` asks only for the present position.
        after: Option<Id>,
    },
    /// A client has said something to the backend; on the shard's account until it is [`ShardMessage::Heard`].
    Said {
        /// Who.
        from: Speaker,
        /// JSON on one line.
        data: Box<str>,
    },
    /// A client without a token waits for the backend's word.
    Ask {
        /// Who.
        who: Speaker,
        /// What it wants.
        question: Box<Question>,
    },
    /// A stream or WebSocket is open.
    Came {
        /// Who.
        who: Speaker,
        /// Where from.
        address: Box<str>,
        /// `sse` or `ws`.
        transport: &'static str,
    },
    /// It has ended.
    Gone {
        /// Who.
        who: Speaker,
        /// Why.
        reason: &'static str,
    },
    /// A client publishes; on the shard's account as [`HubMessage::Said`] is.
    Publish {
        /// Who.
        from: Speaker,
        /// Where to.
        channel: ChannelName,
        /// What.
        draft: Draft,
        /// The client's own, if it wants an answer.
        reference: Option<Box<str>>,
    },
    /// A connection is on a channel whose coming and going counts.
    Join {
        /// Who says it.
        shard: u16,
        /// The channel.
        local: LocalChannel,
        /// Whose connection it is.
        user: Option<ArcStr>,
    },
    /// It is on it no more.
    Leave {
        /// Who says it.
        shard: u16,
        /// The channel.
        local: LocalChannel,
        /// Whose connection it was.
        user: Option<ArcStr>,
    },
    /// The answer to [`ShardMessage::Kick`].
    Kicked {
        /// As in the question.
        request: u64,
        /// How many connections were ended.
        count: u64,
    },
    /// The shard has let all of its clients go, or gave up on the rest at the deadline.
    Drained {
        /// Who says it.
        shard: u16,
        /// How many connections were cut at the deadline.
        cut: u64,
    },
    /// From the server: the keys by which tokens are verified from now on.
    Keys(Arc<Keyring>),
    /// From the server: stop taking publishers' commands and let everyone go.
    Drain,
    /// From the server: write the last id down and stop.
    Stop,
}

/// The most batches that wait in a queue to a shard.
const BATCHES_MAX: usize = 4096;

/// What both ends of a queue know of it.
#[derive(Default)]
struct Load {
    bytes: AtomicUsize,
    /// Set by the hub when it waits for room, cleared by the shard when it tells that there is some.
    awaited: AtomicBool,
}

/// The hub's end of the queue to one shard.
pub struct ToShard {
    sender: Sender<Vec<ShardMessage>>,
    wake: Wake,
    load: Arc<Load>,
    bytes_max: usize,
    staged: Vec<ShardMessage>,
    staged_bytes: usize,
}

/// The shard's end of the queue from the hub.
pub struct FromHub {
    receiver: Receiver<Vec<ShardMessage>>,
    /// What rings when there is something.
    pub wake: Wake,
    load: Arc<Load>,
    hub: Wake,
    bytes_max: usize,
}

/// What a message counts for in the queue's bound.
fn weight(message: &ShardMessage) -> usize {
    64 + match message {
        ShardMessage::Event(_, event) => event.weight(),
        ShardMessage::Send(_, draft) | ShardMessage::SendUser(_, draft) => draft.payload.len(),
        // A replay's events are in the history anyway.
        _ => 0,
    }
}

/// Makes the queue to one shard; `hub` is rung when a congested queue has room again.
pub fn to_shard(bytes_max: usize, hub: Wake) -> std::io::Result<(ToShard, FromHub)> {
    let (sender, receiver) = crossbeam_channel::bounded(BATCHES_MAX);
    let wake = Wake::new()?;
    let load = Arc::new(Load::default());
    let to = ToShard { sender, wake: wake.clone(), load: load.clone(), bytes_max, staged: Vec::new(), staged_bytes: 0 };
    Ok((to, FromHub { receiver, wake, load, hub, bytes_max }))
}

impl ToShard {
    /// Adds a message to the batch that the next [`ToShard::flush`] sends.
    pub fn stage(&mut self, message: ShardMessage) {
        self.staged_bytes += weight(&message);
        self.staged.push(message);
    }

    /// Sends the batch, with one wake-up. What finds no room stays staged, and the hub is rung when there is
    /// some, so that it flushes again. What is for a shard that has ended is let go.
    pub fn flush(&mut self) {
        if self.staged.is_empty() || self.try_flush() {
            return;
        }
        // The shard may have taken the last batch before it could see that this is waited for.
        self.load.awaited.store(true, Ordering::SeqCst);
        self.try_flush();
    }

    /// Returns whether nothing is staged any more.
    fn try_flush(&mut self) -> bool {
        let bytes = std::mem::take(&mut self.staged_bytes);
        // Before the send, so that the shard never subtracts what was not added yet.
        self.load.bytes.fetch_add(bytes, Ordering::SeqCst);
        match self.sender.try_send(std::mem::take(&mut self.staged)) {
            Ok(()) => self.wake.ring(),
            Err(TrySendError::Full(batch)) => {
                self.load.bytes.fetch_sub(bytes, Ordering::SeqCst);
                self.staged = batch;
                self.staged_bytes = bytes;
                return false;
            }
            Err(TrySendError::Disconnected(_)) => {
                self.load.bytes.fetch_sub(bytes, Ordering::SeqCst);
            }
        }
        true
    }

    /// Whether so much waits for the shard that publishers must wait too.
    pub fn is_congested(&self) -> bool {
        !self.staged.is_empty() && self.sender.is_full() || self.load.bytes.load(Ordering::SeqCst) > self.bytes_max
    }

    /// Asks to be rung when there is room; returns whether there is still none, so that nothing slips between.
    pub fn await_room(&self) -> bool {
        self.is_congested() && {
            self.load.awaited.store(true, Ordering::SeqCst);
            self.is_congested()
        }
    }

    /// The bytes that wait in the queue.
    pub fn waiting_bytes(&self) -> usize {
        self.load.bytes.load(Ordering::Relaxed) + self.staged_bytes
    }
}

impl FromHub {
    /// The next batch, if one waits. The batch counts as waiting until [`FromHub::done`] is told of it.
    pub fn next(&self) -> Option<Vec<ShardMessage>> {
        self.receiver.try_recv().ok()
    }

    /// What a batch counts for.
    pub fn weigh(batch: &[ShardMessage]) -> usize {
        batch.iter().map(weight).sum()
    }

    /// Tells that a batch which weighed `bytes` is worked off, and wakes the hub if it waits for that.
    pub fn done(&self, bytes: usize) {
        let left = self.load.bytes.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let has_room = left <= self.bytes_max / 2 && self.receiver.len() <= BATCHES_MAX / 2;
        if has_room && self.load.awaited.load(Ordering::SeqCst) && self.load.awaited.swap(false, Ordering::SeqCst) {
            self.hub.ring();
        }
    }

    /// The descriptors that a thread which takes a private table must keep for this end to work.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.wake.as_fd(), self.hub.as_fd()]
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

/// A shard's (or the server's) end of the queue to the hub.
#[derive(Clone)]
pub struct ToHub {
    sender: Sender<HubMessage>,
    wake: Wake,
}

/// The hub's end of that queue.
pub struct HubInbox {
    receiver: Receiver<HubMessage>,
    /// What rings when there is something.
    pub wake: Wake,
}

/// Makes the queue that leads to the hub. It has no bound of its own: shards put at most a few messages per
/// connection and channel into it, and what clients say is bounded by what a shard may have on its account.
pub fn to_hub() -> std::io::Result<(ToHub, HubInbox)> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let wake = Wake::new()?;
    Ok((ToHub { sender, wake: wake.clone() }, HubInbox { receiver, wake }))
}

impl ToHub {
    /// Queues a message; [`ToHub::ring`] tells the hub of it.
    pub fn send(&self, message: HubMessage) {
        // Fails only once the hub is gone, and then nobody is left to care.
        let _ = self.sender.send(message);
    }

    /// The descriptor that a thread which takes a private table must keep for this end to work.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Wakes the hub.
    pub fn ring(&self) {
        self.wake.ring();
    }
}

impl HubInbox {
    /// The next message, if one waits.
    pub fn next(&self) -> Option<HubMessage> {
        self.receiver.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::event::Kind;

    fn event(size: usize) -> ShardMessage {
        let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; size].into() };
        ShardMessage::Event(0, Arc::new(Event { id: Id::ZERO, channel: "c".into(), draft }))
    }

    #[test]
    fn a_full_queue_is_congested_until_it_is_worked_off() {
        let (mut to, from) = to_shard(1000, Wake::new().unwrap()).unwrap();
        to.stage(event(600));
        to.flush();
        assert!(!to.is_congested());
        to.stage(event(600));
        to.flush();
        assert!(to.is_congested());
        while let Some(batch) = from.next() {
            from.done(FromHub::weigh(&batch));
        }
        assert!(!to.is_congested());
        assert_eq!(to.waiting_bytes(), 0);
    }

    #[test]
    fn nothing_is_dropped_when_the_queue_has_no_room() {
        let (mut to, from) = to_shard(usize::MAX, Wake::new().unwrap()).unwrap();
        for _ in 0..BATCHES_MAX + 10 {
            to.stage(event(1));
            to.flush();
        }
        assert!(to.is_congested());
        let mut count = 0;
        loop {
            while let Some(batch) = from.next() {
                count += batch.len();
            }
            to.flush();
            if from.is_empty() {
                break;
            }
        }
        assert_eq!(count, BATCHES_MAX + 10);
    }

    #[test]
    fn what_found_no_room_is_rung_for() {
        let hub = Wake::new().unwrap();
        let (mut to, from) = to_shard(usize::MAX, hub.clone()).unwrap();
        for _ in 0..=BATCHES_MAX {
            to.stage(event(1));
            to.flush();
        }
        assert!(!to.staged.is_empty() && !hub.is_rung());
        while let Some(batch) = from.next() {
            from.done(FromHub::weigh(&batch));
        }
        assert!(hub.is_rung(), "nobody else would flush what was acknowledged");
        to.flush();
        assert_eq!(from.next().map(|batch| batch.len()), Some(1));
    }

    #[test]
    fn what_is_for_an_ended_shard_is_let_go() {
        let (mut to, from) = to_shard(1000, Wake::new().unwrap()).unwrap();
        drop(from);
        for _ in 0..10 {
            to.stage(event(600));
            to.flush();
        }
        assert!(to.staged.is_empty() && !to.is_congested());
        assert_eq!(to.waiting_bytes(), 0);
    }

    #[test]
    fn connection_ids_round_trip() {
        let id = ConnectionId { shard: 3, slot: 70_000, generation: 9 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1.2", "1.2.x", "70000.1.1"] {
            assert!(bad.parse::<ConnectionId>().is_err());
        }
    }
}
