//! The records of a shard: its numbers, its listeners, channels and lanes, and its connections.
//!
//! Times are ticks of the shard's clock, which goes on. Channels, dialects and lanes are named by their place among their kind.

use prost::Message;

pub use super::secrets::{Direction, Tls};

/// The numbers of a shard that go on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Shard {
    /// The shard's time.
    #[prost(uint32, tag = "1")]
    pub now: u32,
    /// The id up to which the shard has had every event.
    #[prost(fixed64, tag = "2")]
    pub seen: u64,
    /// The id before which events may be missing on every channel.
    #[prost(fixed64, tag = "3")]
    pub lost_until: u64,
    /// The number of questions to the backend, from which the next one has its number.
    #[prost(uint64, tag = "4")]
    pub questions: u64,
    /// The number of resumes from the hub, from which the next one has its number.
    #[prost(uint64, tag = "5")]
    pub resumes: u64,
    /// A generation that no slot has had.
    #[prost(uint32, tag = "6")]
    pub generation: u32,
    /// What backends listen to: messages (1), connections (2), questions (4).
    #[prost(uint32, tag = "7")]
    pub listening: u32,
    /// The bytes of clients' messages on the shard's account.
    #[prost(uint64, tag = "8")]
    pub upstream: u64,
    /// The slots whose connections come, in order.
    #[prost(uint32, repeated, tag = "9")]
    pub slots: Vec<u32>,
}

/// A listener, whose descriptor comes with it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Listener {
    /// The kind of the socket: TCP (0), Unix (1), or opened by the service manager (2).
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Whether its clients speak TLS.
    #[prost(bool, tag = "2")]
    pub is_tls: bool,
}

/// A protocol in a coding, which lanes and connections name by its place.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Dialect {
    /// The protocol's name.
    #[prost(string, tag = "1")]
    pub protocol: String,
    /// Whether its bytes are wrapped in chunks.
    #[prost(bool, tag = "2")]
    pub is_chunked: bool,
}

/// A channel with subscriptions.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Channel {
    /// The channel's name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A lane with subscriptions.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Lane {
    /// The lane's channel.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
    /// The lane's dialect.
    #[prost(uint32, tag = "2")]
    pub dialect: u32,
    /// The position of the first frame that comes with it, or of the head.
    #[prost(uint64, tag = "3")]
    pub start: u64,
    /// The id since which the log is complete, if that is known.
    #[prost(fixed64, optional, tag = "4")]
    pub since: Option<u64>,
    /// The time at which an event was last appended.
    #[prost(uint32, tag = "5")]
    pub touched: u32,
}

/// Frames of a lane's log, in their order.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Frames {
    /// The lane.
    #[prost(uint32, tag = "1")]
    pub lane: u32,
    /// The id of each frame's event.
    #[prost(fixed64, repeated, tag = "2")]
    pub ids: Vec<u64>,
    /// The length of each frame.
    #[prost(uint32, repeated, tag = "3")]
    pub lengths: Vec<u32>,
    /// The frames themselves.
    #[prost(bytes = "vec", tag = "4")]
    pub bytes: Vec<u8>,
}

/// A subscription of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Subscription {
    /// The lane.
    #[prost(uint32, tag = "1")]
    pub lane: u32,
    /// The position in the lane's log, if the subscription reads it.
    #[prost(uint64, optional, tag = "2")]
    pub cursor: Option<u64>,
}

/// A message of a client whose fragments are not complete.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Decoder {
    /// Whether the message is text.
    #[prost(bool, tag = "1")]
    pub is_text: bool,
    /// The message so far.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
    /// The frame whose payload is still to come in part.
    #[prost(message, optional, tag = "3")]
    pub frame: Option<Frame>,
}

/// A frame of a client whose payload is still to come in part.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Frame {
    /// Whether it is its message's last one.
    #[prost(bool, tag = "1")]
    pub fin: bool,
    /// The mask, from the next byte's key on.
    #[prost(fixed32, tag = "2")]
    pub mask: u32,
    /// The bytes that are still to come.
    #[prost(uint64, tag = "3")]
    pub left: u64,
}

/// Lost events of which a client must be told.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Gap {
    /// The newest id before the lost events.
    #[prost(fixed64, tag = "1")]
    pub after: u64,
    /// The id after which no event is lost.
    #[prost(fixed64, tag = "2")]
    pub resumed: u64,
}

/// The facts about a held poll that not every poll has.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeldPoll {
    /// The origin of the page that may read the answer.
    #[prost(string, optional, tag = "1")]
    pub origin: Option<String>,
    /// The position up to which the client was told of channels' ends.
    #[prost(fixed64, tag = "2")]
    pub told: u64,
}

/// A message that is put aside.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Aside {
    /// Whether the message is text.
    #[prost(bool, tag = "1")]
    pub is_text: bool,
    /// The message's bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
}

/// The refusal of a request or message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refusal {
    /// The code's name.
    #[prost(string, tag = "1")]
    pub code: String,
    /// The sentence for people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The channels that are refused.
    #[prost(string, repeated, tag = "3")]
    pub channels: Vec<String>,
    /// Whether the connection cannot be used any further.
    #[prost(bool, tag = "4")]
    pub close: bool,
    /// When to try again, in seconds.
    #[prost(uint32, optional, tag = "5")]
    pub retry_after_secs: Option<u32>,
}

/// The channels that a WebSocket without a token has named in its request.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Wanted {
    /// The channels' names.
    #[prost(string, repeated, tag = "1")]
    pub channels: Vec<String>,
    /// The position to resume after.
    #[prost(fixed64, optional, tag = "2")]
    pub after: Option<u64>,
}

/// A question to the backend that waits for its answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Asking {
    /// The question's number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The channels that the question is about.
    #[prost(string, repeated, tag = "2")]
    pub channels: Vec<String>,
    /// The message that waits, if it is no request.
    #[prost(message, optional, tag = "3")]
    pub message: Option<Aside>,
}

/// The backend's decision that is not carried out yet.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Decided {
    /// The refusal, unless the connection may go on.
    #[prost(message, optional, tag = "1")]
    pub refusal: Option<Refusal>,
    /// The message that has waited, if it is no request.
    #[prost(message, optional, tag = "2")]
    pub message: Option<Aside>,
}

/// The cause for which a connection's next request or message waits; one of the fields is set.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Waiting {
    /// The WebSocket waits for its first token.
    #[prost(message, optional, tag = "1")]
    pub token: Option<Wanted>,
    /// This message waits for room on its way to the backend.
    #[prost(message, optional, tag = "2")]
    pub upstream: Option<Aside>,
    /// The request or message waits for the backend's answer.
    #[prost(message, optional, tag = "3")]
    pub backend: Option<Asking>,
    /// The backend has answered.
    #[prost(message, optional, tag = "4")]
    pub decided: Option<Decided>,
    /// The connection has no place, and its request will be answered with this.
    #[prost(message, optional, tag = "5")]
    pub refused: Option<Refusal>,
}

/// The response in place of a stream's, if there is nothing to tell.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Nothing {
    /// The origin of the page that has asked.
    #[prost(string, optional, tag = "1")]
    pub origin: Option<String>,
    /// Where the stream's own head begins in `out`.
    #[prost(uint32, tag = "2")]
    pub start: u32,
    /// Where the head ends.
    #[prost(uint32, tag = "3")]
    pub end: u32,
}

/// Words that name the position at which subscriptions begin.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Opening {
    /// The reference of the request that they reply to; without one they are the session's welcome.
    #[prost(string, optional, tag = "1")]
    pub reply: Option<String>,
    /// The response in their place, if there is nothing to tell.
    #[prost(message, optional, tag = "2")]
    pub nothing: Option<Nothing>,
    /// The bytes that follow them.
    #[prost(bytes = "vec", tag = "3")]
    pub then: Vec<u8>,
}

/// A channel with the id up to which a connection has everything of it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Sent {
    /// The channel.
    #[prost(uint32, tag = "1")]
    pub channel: u32,
    /// The id.
    #[prost(fixed64, tag = "2")]
    pub id: u64,
}

/// A resume from the hub's history.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Resume {
    /// The resume's number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The channels.
    #[prost(uint32, repeated, tag = "2")]
    pub channels: Vec<u32>,
    /// The channels that the connection has read further.
    #[prost(message, repeated, tag = "3")]
    pub sent: Vec<Sent>,
    /// The position after which the next page begins.
    #[prost(fixed64, optional, tag = "4")]
    pub after: Option<u64>,
    /// Whether the next page is asked for only once the bytes in `out` are sent.
    #[prost(bool, tag = "5")]
    pub page_due: bool,
    /// The time that a poll may be held if nothing was missed.
    #[prost(uint32, tag = "6")]
    pub wait: u32,
    /// The words that come before the first page.
    #[prost(message, optional, tag = "7")]
    pub opening: Option<Opening>,
}

/// A client by its certificate.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Certified {
    /// The user.
    #[prost(string, optional, tag = "1")]
    pub user: Option<String>,
    /// The certificate's id.
    #[prost(string, tag = "2")]
    pub id: String,
    /// The time at which the certificate expires, in seconds since 1970.
    #[prost(uint64, tag = "3")]
    pub expires_s: u64,
}

/// The identity of a connection.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Identity {
    /// The user.
    #[prost(string, optional, tag = "1")]
    pub user: Option<String>,
    /// The token's id.
    #[prost(string, optional, tag = "2")]
    pub token: Option<String>,
    /// The patterns of channels to subscribe to.
    #[prost(string, repeated, tag = "3")]
    pub subscribe: Vec<String>,
    /// The patterns of channels to publish to.
    #[prost(string, repeated, tag = "4")]
    pub publish: Vec<String>,
    /// The exact names of channels to subscribe to.
    #[prost(string, repeated, tag = "5")]
    pub names: Vec<String>,
    /// The time of the end, in milliseconds since 1970, if there is one.
    #[prost(uint64, optional, tag = "6")]
    pub ends_ms: Option<u64>,
    /// Whether it comes from the backend's decision.
    #[prost(bool, tag = "7")]
    pub is_asked: bool,
}

/// A connection, whose descriptor comes with it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Connection {
    /// The slot.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// The slot's generation.
    #[prost(uint32, tag = "2")]
    pub generation: u32,
    /// The state's number.
    #[prost(uint32, tag = "3")]
    pub state: u32,
    /// The facts about it, by bits.
    #[prost(fixed32, tag = "4")]
    pub facts: u32,
    /// The reasons why it is not read, by bits.
    #[prost(uint32, tag = "5")]
    pub holds: u32,
    /// The number of the heartbeats that the client has asked for.
    #[prost(uint32, tag = "6")]
    pub beat: u32,
    /// The peer's address, as one of IPv6.
    #[prost(bytes = "vec", tag = "7")]
    pub ip: Vec<u8>,
    /// The peer's port.
    #[prost(uint32, tag = "8")]
    pub port: u32,
    /// The dialect.
    #[prost(uint32, tag = "9")]
    pub dialect: u32,
    /// The time at which the connection was accepted.
    #[prost(uint32, tag = "10")]
    pub opened: u32,
    /// The time at which the kernel last took bytes.
    #[prost(uint32, tag = "11")]
    pub sent: u32,
    /// The time at which bytes last came.
    #[prost(uint32, tag = "12")]
    pub received: u32,
    /// The time at which it ends whatever happens.
    #[prost(uint32, tag = "13")]
    pub deadline: u32,
    /// The number of delivered events.
    #[prost(uint32, tag = "14")]
    pub events: u32,
    /// The subscriptions.
    #[prost(message, repeated, tag = "15")]
    pub subscriptions: Vec<Subscription>,
    /// The bytes that wait to be sent.
    #[prost(bytes = "vec", tag = "16")]
    pub out: Vec<u8>,
    /// The received bytes that are not carried out.
    #[prost(bytes = "vec", tag = "17")]
    pub input: Vec<u8>,
    /// The message whose fragments are not complete.
    #[prost(message, optional, tag = "18")]
    pub decoder: Option<Decoder>,
    /// The subscription whose frame is sent in part.
    #[prost(uint32, optional, tag = "19")]
    pub mid: Option<u32>,
    /// Lost events of which the client must be told.
    #[prost(message, optional, tag = "20")]
    pub gap: Option<Gap>,
    /// The facts about a held poll.
    #[prost(message, optional, tag = "21")]
    pub poll: Option<HeldPoll>,
    /// The cause for which the next request or message waits.
    #[prost(message, optional, tag = "22")]
    pub waiting: Option<Waiting>,
    /// The resumes, in their order.
    #[prost(message, repeated, tag = "23")]
    pub resumes: Vec<Resume>,
    /// The identity.
    #[prost(message, optional, boxed, tag = "24")]
    pub identity: Option<Box<Identity>>,
    /// What is kept of TLS.
    #[prost(message, optional, boxed, tag = "25")]
    pub tls: Option<Box<Tls>>,
    /// The tokens that have failed one after the other.
    #[prost(uint32, tag = "26")]
    pub failed_tokens: u32,
    /// The client by its certificate.
    #[prost(message, optional, boxed, tag = "28")]
    pub certified: Option<Box<Certified>>,
    /// Whether its handshake of TLS has not begun.
    #[prost(bool, tag = "27")]
    pub is_greeting: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record as the first version of the format has written it.
    const GOLDEN: &[u8] = &[
        0x08, 7, 0x10, 2, 0x18, 4, 0x25, 0x11, 0, 0, 0, 0x40, 80, 0x48, 1, 0x7a, 5, 0x08, 1, 0x10, 0xac, 2, 0x82, 1, 2,
        b'a', b'b', 0x98, 1, 0,
    ];

    #[test]
    fn a_record_of_the_first_version_is_read_as_it_was_meant() {
        let connection = Connection {
            slot: 7,
            generation: 2,
            state: 4,
            facts: 0x11,
            port: 80,
            dialect: 1,
            subscriptions: vec![Subscription { lane: 1, cursor: Some(300) }],
            out: b"ab".to_vec(),
            mid: Some(0),
            ..Connection::default()
        };
        assert_eq!(Connection::decode(GOLDEN), Ok(connection.clone()));
        assert_eq!(connection.encode_to_vec(), GOLDEN);
        // A field of a later version.
        let later = [GOLDEN, &[0xf8, 7, 1]].concat();
        assert_eq!(Connection::decode(&later[..]), Ok(connection));
    }

    #[test]
    fn secrets_are_not_shown() {
        let direction = Direction { secret: vec![77; 4], key: vec![77; 4], iv: vec![77; 4], sequence: 1 };
        let tls = Tls { send: Some(direction), ..Tls::default() };
        assert!(!format!("{tls:?}").contains("77"));
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            numbers in prop::collection::vec(any::<u32>(), 8), out in prop::collection::vec(any::<u8>(), 0..200),
            text in ".{0,20}", cursor in prop::option::of(any::<u64>()), has_more in any::<bool>(),
        ) {
            let opening = Opening { reply: Some(text.clone()), nothing: None, then: out.clone() };
            let resume = Resume { number: numbers[0], channels: numbers.clone(), opening: Some(opening), ..Resume::default() };
            let asking = Asking { number: numbers[1], channels: vec![text.clone()], message: None };
            let connection = Connection {
                slot: numbers[2],
                facts: numbers[3],
                subscriptions: vec![Subscription { lane: numbers[4], cursor }; 3],
                out,
                resumes: if has_more { vec![resume] } else { Vec::new() },
                waiting: has_more.then(|| Waiting { backend: Some(asking), ..Waiting::default() }),
                identity: has_more.then(|| Box::new(Identity { user: Some(text), ..Identity::default() })),
                ..Connection::default()
            };
            prop_assert_eq!(Connection::decode(&connection.encode_to_vec()[..]), Ok(connection));
        }
    }
}
