//! The messages between the hub and the shards.

use std::os::unix::net::UnixListener;
use std::sync::{Arc, OnceLock};

use arcstr::ArcStr;

use crate::logic::auth::Keyring;
use crate::logic::event::{ChannelName, Draft, Event};
use crate::logic::id::Id;
use crate::logic::protocol::feed::{Answer, ConnectionFilter, Listening};

use super::backplane::FromBroker;
use super::handover::{HubParting, Part};

/// A channel's number within one shard. The shard uses a number again only after the hub has confirmed that it routes
/// no more events to it.
pub type LocalChannel = u32;

/// The name of this node, with which connections' names begin in a cluster.
static NODE: OnceLock<ArcStr> = OnceLock::new();

/// A connection's name for backends and operators, written `<shard>.<slot>.<generation>`, and in a cluster
/// `<node>.<shard>.<slot>.<generation>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The shard that owns the connection.
    pub shard: u16,
    /// The connection's slot in the shard's table.
    pub slot: u32,
    /// The slot's generation, which tells the connection from earlier and later ones in the same slot.
    pub generation: u32,
}

impl ConnectionId {
    /// Has all names begin with the name of this node. It is called once, before there are connections.
    pub fn set_node(node: ArcStr) {
        let _ = NODE.set(node);
    }

    /// Whether a text is the name of a connection of another node.
    pub fn is_elsewhere(text: &str) -> bool {
        NODE.get().is_some() && text.parse::<ConnectionId>().is_err() && text.matches('.').count() == 3
    }
}

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(node) = NODE.get() {
            write!(f, "{node}.")?;
        }
        write!(f, "{}.{}.{}", self.shard, self.slot, self.generation)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = ();

    fn from_str(text: &str) -> Result<ConnectionId, ()> {
        let text = match NODE.get() {
            Some(node) => text.strip_prefix(node.as_str()).and_then(|text| text.strip_prefix('.')).ok_or(())?,
            None => text,
        };
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok()).ok_or(());
        let shard = u16::try_from(part()?).map_err(|_| ())?;
        Ok(ConnectionId { shard, slot: part()?, generation: part()? })
    }
}

/// A client as the backend knows it: by its connection and its user.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// The client's connection.
    pub connection: ConnectionId,
    /// The user that the client's token or the backend names, if any.
    pub user: Option<ArcStr>,
}

/// A question to the backend: may this client, which has no token, subscribe to these channels?
#[derive(Debug)]
pub struct Question {
    /// The question's number, which the shard has chosen.
    pub number: u32,
    /// The channels that the client asks for.
    pub channels: Vec<String>,
    /// The client's address.
    pub address: Box<str>,
    /// The `Authorization` field of the client's request.
    pub authorization: Option<Box<str>>,
    /// The `Cookie` field of the client's request.
    pub cookie: Option<Box<str>>,
    /// The `Origin` field of the client's request.
    pub origin: Option<Box<str>>,
}

/// The bytes that a client's message or publish counts for on its shard's account: the content, and a fixed share for
/// the memory around it.
pub fn upstream_weight(bytes: usize) -> usize {
    bytes + 128
}

/// The connections or subscriptions that a kick ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one connection of this name.
    Connection(ConnectionId),
    /// All connections that are subscribed to a channel.
    Channel(ChannelName),
    /// All connections of this user.
    User(ArcStr),
    /// All connections that came with a token. The token is refused from now on.
    Token {
        /// The token's id (`jti`).
        id: ArcStr,
        /// The time until which the token is refused, in seconds since 1970.
        until_s: u64,
    },
    /// A user's subscriptions to a channel. The user's connections stay open.
    Subscription {
        /// The user whose subscriptions end.
        user: ArcStr,
        /// The channel that the user is taken off.
        channel: ChannelName,
    },
}

/// A page of the events that a connection has missed, with a gap if some of them are lost.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// The slot of the connection that resumes.
    pub slot: u32,
    /// The slot's generation when the connection asked for the page.
    pub generation: u32,
    /// The question's number, copied from [`HubMessage::Resume`].
    pub number: u32,
    /// The position to resume after; `None` if the shard has asked for the present position alone.
    pub after: Option<Id>,
    /// The page's events, oldest first.
    pub events: Vec<Arc<Event>>,
    /// Set if events after `after` are lost: the id since which all events are kept.
    pub gap: Option<Id>,
    /// The position up to which the page is complete. Later events come live or with the next page.
    pub until: Id,
    /// Whether this is the last page: live events follow it without a hole.
    pub last: bool,
}

/// A question about a shard's connections or subscribers.
#[derive(Debug)]
pub enum Look {
    /// The connections that a filter selects, each as a row.
    Connections(ConnectionFilter),
    /// All details of one connection.
    Connection(ConnectionId),
    /// The numbers of subscribers of these channels.
    Subscribers(Vec<ChannelName>),
}

/// A shard's answer to a [`Look`].
#[derive(Debug)]
pub enum Seen {
    /// The rows of connections.
    Rows {
        /// Each connection's backlog in bytes, and its details as a JSON object.
        rows: Vec<(u64, Box<str>)>,
        /// The number of connections that the filter selects, beyond its limit too.
        matched: u64,
    },
    /// The numbers of subscribers, in the order of the question's channels.
    Counts(Vec<u32>),
}

/// A message from the hub to a shard.
#[derive(Debug)]
pub enum ShardMessage {
    /// An event on a channel that the shard follows.
    Event(LocalChannel, Arc<Event>),
    /// The queue has every event of the channel from here on. The id is the newest one before that.
    Followed(LocalChannel, Id),
    /// The queue has had every event up to this id of the channels that the shard follows.
    Position(Id),
    /// The queue has no event of the channel from here on.
    Unfollowed(LocalChannel),
    /// The answer to [`HubMessage::Follow`] where the hub has no room for a channel that no publisher has published to:
    /// the queue has no event of the channel.
    NoRoom(LocalChannel),
    /// A page of missed events, the answer to [`HubMessage::Resume`].
    Replay(Box<Replay>),
    /// The publisher has ended the channel, with this id.
    Ended(LocalChannel, Id),
    /// The shard must end connections and answer with [`HubMessage::Kicked`].
    Kick {
        /// The kick's number, which the answer repeats.
        request: u64,
        /// The connections or subscriptions to end.
        target: Target,
        /// The reason that the clients are told.
        reason: Arc<str>,
    },
    /// The keys by which the shard verifies tokens from now on.
    Keys(Arc<Keyring>),
    /// A message to one connection alone.
    Send(ConnectionId, Draft),
    /// A message to all connections of a user.
    SendUser(ArcStr, Draft),
    /// The kinds of messages that at least one backend listens to from now on.
    Listening(Listening),
    /// The hub has passed on so many bytes of clients' messages, which are off the shard's account.
    Heard(usize),
    /// The backend has answered a question about a connection.
    Answered {
        /// The connection that the question was about.
        connection: ConnectionId,
        /// The question's number.
        number: u32,
        /// The backend's answer.
        answer: Answer,
    },
    /// The outcome of a client's publish.
    Published {
        /// The connection of the client that has published.
        connection: ConnectionId,
        /// The client's reference for the publish.
        reference: Option<Box<str>>,
        /// The event's id, or the code and the sentence of the refusal.
        result: Result<Id, (&'static str, String)>,
    },
    /// The shard must answer a look with [`HubMessage::Seen`].
    Look {
        /// The look's number, which the answer repeats.
        request: u64,
        /// The question to answer.
        look: Arc<Look>,
    },
    /// Events between two positions may be lost on every channel: each connection is told of a gap.
    Lost {
        /// The last position without a loss.
        after: Id,
        /// The position from which on nothing is lost.
        resumed: Id,
    },
    /// `true`: the shard must take no new clients and end its connections at a spread pace. `false`: the shard must
    /// take
    /// new clients again.
    Pause(bool),
    /// The shard must close its listeners and end its connections at a spread pace.
    Drain,
    /// The shard must touch no client from here on, say [`HubMessage::Quiet`], and then work off further messages alone.
    Quiet(Box<Part>),
    /// The queue has no message after this one: the shard must hand everything over to the successor.
    Part,
}

/// A message from a shard, or from the server, to the hub.
#[derive(Debug)]
pub enum HubMessage {
    /// The shard subscribes to a channel, under a number of its own.
    Follow {
        /// The number of the shard that follows the channel.
        shard: u16,
        /// The shard's number for the channel.
        local: LocalChannel,
        /// The channel's name.
        name: ChannelName,
    },
    /// The shard gives the channel up.
    Unfollow {
        /// The number of the shard that gives the channel up.
        shard: u16,
        /// The shard's number for the channel.
        local: LocalChannel,
    },
    /// A connection asks for the events that it has missed on channels that the shard follows.
    Resume {
        /// The number of the connection's shard.
        shard: u16,
        /// The connection's slot.
        slot: u32,
        /// The generation of the connection's slot.
        generation: u32,
        /// The question's number, which tells its answer from those to the connection's other questions.
        number: u32,
        /// The channels to resume on, by the shard's numbers.
        channels: Vec<LocalChannel>,
        /// The position to resume after; `None` asks for the present position alone.
        after: Option<Id>,
    },
    /// A client has sent a message to the backend. Its bytes are on the shard's account until
    /// [`ShardMessage::Heard`].
    Said {
        /// The client that has sent the message.
        from: Speaker,
        /// The message: JSON on one line.
        data: Box<str>,
    },
    /// A client without a token waits for the backend's decision.
    Ask {
        /// The client that waits.
        who: Speaker,
        /// The channels and the fields of the client's request.
        question: Box<Question>,
    },
    /// A client has opened a stream or a WebSocket.
    Came {
        /// The client that has come.
        who: Speaker,
        /// The client's address.
        address: Box<str>,
        /// The session's transport, `sse` or `ws`.
        transport: &'static str,
    },
    /// A stream or a WebSocket has ended.
    Gone {
        /// The client that has gone.
        who: Speaker,
        /// The name of the reason for the end.
        reason: &'static str,
    },
    /// A client publishes an event. Its bytes are on the shard's account until [`ShardMessage::Heard`].
    Publish {
        /// The client that publishes.
        from: Speaker,
        /// The channel to publish to.
        channel: ChannelName,
        /// The event's content.
        draft: Draft,
        /// The client's reference, if the client asks for an answer.
        reference: Option<Box<str>>,
    },
    /// A connection has joined a channel with presence.
    Join {
        /// The number of the connection's shard.
        shard: u16,
        /// The shard's number for the channel.
        local: LocalChannel,
        /// The connection's user, if it has one.
        user: Option<ArcStr>,
    },
    /// A connection has left a channel with presence.
    Leave {
        /// The number of the connection's shard.
        shard: u16,
        /// The shard's number for the channel.
        local: LocalChannel,
        /// The connection's user, if it had one.
        user: Option<ArcStr>,
    },
    /// The answer to [`ShardMessage::Kick`].
    Kicked {
        /// The kick's number, copied from [`ShardMessage::Kick`].
        request: u64,
        /// The number of connections or subscriptions that the shard has ended.
        count: u64,
    },
    /// The answer to [`ShardMessage::Look`].
    Seen {
        /// The look's number, copied from [`ShardMessage::Look`].
        request: u64,
        /// The connections or counts that the shard has found.
        seen: Seen,
    },
    /// From the server: the shards must take no new clients (`true`), or take them again (`false`).
    Pause(bool),
    /// The shard has ended all of its connections: in good order, or by cutting the rest at the deadline.
    Drained {
        /// The number of the drained shard.
        shard: u16,
        /// The number of connections that were cut at the deadline.
        cut: u64,
    },
    /// The feed's socket was bound again: publishers connect here from now on.
    Feed(UnixListener),
    /// From the server: the keys by which tokens are verified from now on.
    Keys(Arc<Keyring>),
    /// From the thread that speaks with the broker.
    Broker(FromBroker),
    /// The shard touches no client any more, and has said everything that it had to say.
    Quiet {
        /// The number of the attempt, copied from [`ShardMessage::Quiet`].
        attempt: u64,
    },
    /// From the server: hub and shards must hand everything over to a successor.
    HandOver(Box<HubParting>),
    /// From the server: the hub must have every shard end its connections.
    Drain,
    /// From the server: the hub must write the last id down and stop.
    Stop,
}
