//! What the driver asks of a broker.

use std::time::Duration;

use crate::link::backplane::Unordered;
use crate::logic::entry::Entry;
use crate::logic::id::Id;

/// The reason why a broker cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokerError {
    /// The broker cannot be reached, or the connection has broken.
    #[error("{0}")]
    Away(String),
    /// The broker refuses what the node needs. Trying again does not help at a start.
    #[error("{0}")]
    Refused(String),
}

/// The log as it is when a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// The position from which on the log has every entry that is not older than the retention.
    pub(super) from: Id,
    /// The newest id that the log has given.
    pub(super) last: Id,
    /// The broker's time, in milliseconds since 1970.
    pub(super) now_ms: u64,
    /// Whether nothing of an earlier connection of this node can still reach the log.
    pub(super) is_fenced_off: bool,
}

/// The outcome of appending an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// The entry is in the log.
    Done,
    /// The entry is surely not in the log, for this reason.
    Refused(String),
    /// The entry is surely not in the log, because this server takes no entries: it is to be given to another one.
    Again(String),
    /// The entry is in the log of the primary, and too few replicas have confirmed it.
    #[cfg_attr(not(any(feature = "redis", test)), allow(dead_code))]
    Unconfirmed(String),
}

/// The outcome of a look whether the log still is what this node has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    /// Nothing is missing.
    Whole,
    /// Entries between the node's position and this one were trimmed.
    Trimmed(Id),
    /// The log was emptied; it has entries after this position.
    Emptied(Id),
    /// The broker has lost entries after this one, which nodes had read.
    Lost(Id),
}

/// Entries that were read together.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// Whether entries before these may be missing, because the log did not have the position any more.
    pub(super) has_hole: bool,
}

/// A broker that keeps a log.
pub(super) trait Broker {
    /// The connection that appends.
    type Writer: Writer;
    /// The connection that reads.
    type Reader: Reader;

    /// Connects, and sees to it that nothing of an earlier connection can still reach the log.
    async fn open(&mut self) -> Result<(Self::Writer, Self::Reader, Tail), BrokerError>;
}

/// A connection that appends.
pub(super) trait Writer {
    /// Appends entries in their order; returns the outcome of each. `is_whole`: all or none, with nothing in between.
    async fn append(&mut self, entries: &[Unordered], is_whole: bool) -> Result<Vec<Appended>, BrokerError>;

    /// Looks whether the log still has what this node has read up to `position`, which `is_entry` if it is that of an entry.
    async fn check(&mut self, position: Id, is_entry: bool) -> Result<Continuity, BrokerError>;

    /// Forgets which positions the log had, because the loss of them was told.
    async fn forget(&mut self);

    /// Appends a fence beyond `position`: entries after `after` may be lost.
    async fn fence(&mut self, position: Id, after: Id) -> Result<(), BrokerError>;
}

/// A connection that reads.
pub(super) trait Reader {
    /// Reads the entries after a position, and waits about a second for one if there is none. `is_entry`: the position is
    /// that of an entry, which the log should still have.
    async fn read(&mut self, after: Id, is_entry: bool) -> Result<Page, BrokerError>;
}

/// The least and the greatest pause between two attempts to connect.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(50);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The time after which a broker that does not answer is taken for away.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(2);
