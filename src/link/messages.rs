//! What hub and shards say to each other.

use std::sync::Arc;

use arcstr::ArcStr;

use crate::logic::auth::Keyring;
use crate::logic::event::{ChannelName, Draft, Event};
use crate::logic::id::Id;
use crate::logic::protocol::feed::{Answer, ConnectionFilter, Listening};

/// The server's own channel, on which it publishes its figures while somebody looks at them.
pub const FIGURES_CHANNEL: &str = "$figures";

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
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Who asked.
    pub slot: u32,
    /// The slot's generation when it asked.
    pub generation: u32,
    /// The question's number, as it was asked.
    pub number: u32,
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

/// What someone wants to see of the shards.
#[derive(Debug)]
pub enum Look {
    /// Connections, each a row.
    Connections(ConnectionFilter),
    /// All about one connection.
    Connection(ConnectionId),
    /// How many subscribers these channels have.
    Subscribers(Vec<ChannelName>),
}

/// What a shard has seen.
#[derive(Debug)]
pub enum Seen {
    /// Connections.
    Rows {
        /// How far behind each is, in bytes, and all about it as a JSON object.
        rows: Vec<(u64, Box<str>)>,
        /// How many there would be without a limit.
        matched: u64,
    },
    /// Subscribers, by the channel's place in the question.
    Counts(Vec<u32>),
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
    /// Show something; answer with [`HubMessage::Seen`].
    Look {
        /// Comes back with the answer.
        request: u64,
        /// What.
        look: Arc<Look>,
    },
    /// Take no new clients and let those there are go at a spread pace, or take new ones again.
    Pause(bool),
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
        /// Tells the answer from those to the connection's other questions.
        number: u32,
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
    /// The answer to [`ShardMessage::Look`].
    Seen {
        /// As in the question.
        request: u64,
        /// What there is.
        seen: Seen,
    },
    /// From the server: an event for its own channel, [`FIGURES_CHANNEL`].
    Figures(Draft),
    /// From the server: take no new clients, or take them again.
    Pause(bool),
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
