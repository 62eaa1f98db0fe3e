//! The records of the hub: its numbers, channels with their histories, keys, revocations, and the feed's connections.
//!
//! Times are ages, in milliseconds before the record was made.

use prost::Message;

/// The numbers of the hub that go on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hub {
    /// The id of the newest event.
    #[prost(fixed64, tag = "1")]
    pub applied: u64,
    /// The last id that was given.
    #[prost(fixed64, tag = "2")]
    pub last: u64,
    /// The millisecond up to which the mark on disk covers ids.
    #[prost(uint64, tag = "3")]
    pub mark_ms: u64,
    /// The id after which no event was published on a channel that the hub does not know.
    #[prost(fixed64, tag = "4")]
    pub floor: u64,
    /// The id before which events may be missing on every channel.
    #[prost(fixed64, tag = "5")]
    pub lost_until: u64,
    /// The number of the newest question to the shards.
    #[prost(uint64, tag = "6")]
    pub questions: u64,
    /// The bytes and the lines of the revocations' file.
    #[prost(uint64, tag = "7")]
    pub revoked_bytes: u64,
    /// The lines of the revocations' file.
    #[prost(uint64, tag = "8")]
    pub revoked_lines: u64,
}

/// A channel of the hub.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HubChannel {
    /// The channel's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The id since which its history is complete.
    #[prost(fixed64, tag = "2")]
    pub since: u64,
    /// The id of its end, if it has ended.
    #[prost(fixed64, optional, tag = "3")]
    pub ended: Option<u64>,
    /// Whether it is counted among those of publishers.
    #[prost(bool, tag = "4")]
    pub is_published: bool,
}

/// An event of a history.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Event {
    /// The id.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// The name.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// The kind of the payload: text (0), JSON (1), any bytes (2).
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: bytes::Bytes,
    /// The event's age.
    #[prost(uint64, tag = "5")]
    pub age_ms: u64,
}

/// Events of the channel of the last record about one, in their order.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Events {
    /// The events.
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<Event>,
}

/// An idempotency key with its ids.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Key {
    /// The key itself.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The number that tells its channels from others.
    #[prost(fixed64, tag = "2")]
    pub channels: u64,
    /// The ids of its publish.
    #[prost(fixed64, repeated, tag = "3")]
    pub ids: Vec<u64>,
    /// The key's age.
    #[prost(uint64, tag = "4")]
    pub age_ms: u64,
}

/// A token that was revoked.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Revoked {
    /// The token's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The time until which it is refused, in seconds since 1970.
    #[prost(uint64, tag = "2")]
    pub until_s: u64,
    /// Whether the file does not have it yet.
    #[prost(bool, tag = "3")]
    pub is_unwritten: bool,
}

/// A client's message that waits for listeners, on its shard's account.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Account {
    /// The number by which outboxes name it.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The shard.
    #[prost(uint32, tag = "2")]
    pub shard: u32,
    /// The bytes on the account.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// The listeners that do not have it yet.
    #[prost(uint32, tag = "4")]
    pub holders: u32,
}

/// A client's message in an outbox.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Owed {
    /// The place of its end in the outbox's bytes.
    #[prost(uint64, tag = "1")]
    pub end: u64,
    /// The message's number among the accounts.
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

/// A connection of the feed, whose descriptor comes with it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Publisher {
    /// Whether it may only look.
    #[prost(bool, tag = "1")]
    pub is_reader: bool,
    /// Whether it has sent its last byte.
    #[prost(bool, tag = "2")]
    pub has_ended: bool,
    /// Whether its socket refuses bytes for ever.
    #[prost(bool, tag = "3")]
    pub is_deaf: bool,
    /// The bytes that are not carried out.
    #[prost(bytes = "vec", tag = "4")]
    pub input: Vec<u8>,
    /// Whether they begin within a line that is skipped.
    #[prost(bool, tag = "5")]
    pub is_skipping: bool,
    /// The bytes that its socket has not taken.
    #[prost(bytes = "vec", tag = "6")]
    pub outbox: Vec<u8>,
    /// Clients' messages among them.
    #[prost(message, repeated, tag = "7")]
    pub owed: Vec<Owed>,
    /// The lines that were left out after them.
    #[prost(uint64, tag = "8")]
    pub lost: u64,
    /// The answers that come after the outbox.
    #[prost(bytes = "vec", tag = "9")]
    pub answers: Vec<u8>,
    /// Whether it has begun to listen or to trace.
    #[prost(bool, tag = "10")]
    pub is_told: bool,
    /// The channels that it traces.
    #[prost(string, repeated, tag = "11")]
    pub traces: Vec<String>,
}

/// A connection of the feed that listens. The newest comes last.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Ear {
    /// The place of its connection among the records of that kind.
    #[prost(uint32, tag = "1")]
    pub publisher: u32,
    /// What it listens to: messages (1), connections (2), questions (4).
    #[prost(uint32, tag = "2")]
    pub what: u32,
    /// The ages of the first questions since its last answer.
    #[prost(uint64, repeated, tag = "3")]
    pub asked_ms: Vec<u64>,
    /// Whether it was passed over since its last answer.
    #[prost(bool, tag = "4")]
    pub is_passed_over: bool,
}
