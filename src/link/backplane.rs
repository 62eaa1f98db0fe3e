//! The queues between the hub and the thread that speaks with a broker.
//!
//! The hub hands entries over and hears of them again when that thread has read them from the log. The entries that
//! are read and not applied yet have a bound in bytes: the thread reads on only while the hub keeps up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender};

use crate::logic::entry::{Content, Entry};
use crate::logic::id::Id;
use crate::sys::wake::Wake;

/// The bytes of entries that were read and not applied yet, beyond which no more are read.
const UNAPPLIED_MAX: usize = 8 << 20;

/// An entry that has no place in the order yet.
#[derive(Clone, Debug)]
pub struct Unordered {
    /// The entry's number among those of this node.
    pub number: u64,
    /// The content.
    pub content: Content,
}

/// A message from the hub to the broker's thread.
#[derive(Debug)]
pub enum ToBroker {
    /// Entries to append in this order.
    Append {
        /// The entries, with numbers that follow each other.
        entries: Vec<Unordered>,
        /// Whether all of them are appended or none, with nothing in between.
        is_whole: bool,
        /// Whether the entries wait as long as the broker is away. Others are refused after the time for publishing.
        is_lasting: bool,
    },
}

/// The reason why a part of the log is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The log was trimmed beyond this node's position.
    Trimmed,
    /// The log was emptied.
    Emptied,
    /// The broker has lost entries that this node had read.
    Lost,
}

/// The state of the link to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerState {
    /// The node reads entries that were in the log before it was there.
    CatchingUp {
        /// The position that the node reads on from. Nothing before it is known.
        from: Id,
        /// The newest entry when the node began.
        until: Id,
        /// The broker's time at that moment, in milliseconds since 1970.
        now_ms: u64,
    },
    /// The node reads entries as they come.
    Live,
    /// The broker cannot be reached.
    Away,
}

/// A message from the broker's thread to the hub.
#[derive(Debug)]
pub enum FromBroker {
    /// Entries of the log, in order, without a hole since the ones before.
    Entries(Vec<Entry>),
    /// An entry of this node that is not in the log.
    Refused {
        /// The entry's number.
        number: u64,
        /// Whether the entry surely never will be in the log.
        is_certain: bool,
        /// The reason, as a sentence.
        why: Arc<str>,
    },
    /// So many replicas have the entries of this node up to a number as were asked for.
    Confirmed(u64),
    /// Events between two ids are lost for this node.
    Gap {
        /// The last position without a loss.
        after: Id,
        /// The position from which on nothing is lost.
        resumed: Id,
        /// The reason.
        loss: Loss,
    },
    /// The state of the link.
    State(BrokerState),
}

/// The hub's end of the queue to the broker's thread.
#[derive(Debug)]
pub struct BrokerQueue {
    sender: Sender<ToBroker>,
    wake: Wake,
    unapplied: Arc<AtomicUsize>,
}

/// The end of the broker's thread.
pub struct BrokerInbox {
    receiver: Receiver<ToBroker>,
    /// The wake-up that the hub rings for messages and for room.
    pub wake: Wake,
    unapplied: Arc<AtomicUsize>,
}

/// Makes the queue from the hub to the broker's thread.
///
/// # Errors
/// If there is no descriptor for the wake-up.
pub fn to_broker() -> std::io::Result<(BrokerQueue, BrokerInbox)> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let wake = Wake::new()?;
    let unapplied = Arc::new(AtomicUsize::new(0));
    let queue = BrokerQueue { sender, wake: wake.clone(), unapplied: unapplied.clone() };
    Ok((queue, BrokerInbox { receiver, wake, unapplied }))
}

impl BrokerQueue {
    /// Queues a message; [`BrokerQueue::ring`] tells the thread of it.
    pub fn send(&self, message: ToBroker) {
        // The send fails only when the thread has ended, at the end of the process.
        let _ = self.sender.send(message);
    }

    /// Wakes the thread to take the queued messages.
    pub fn ring(&self) {
        self.wake.ring();
    }

    /// Takes `bytes` of applied entries off the bound.
    pub fn applied(&self, bytes: usize) {
        let before = self.unapplied.fetch_sub(bytes, Ordering::SeqCst);
        if before > UNAPPLIED_MAX && before - bytes <= UNAPPLIED_MAX {
            self.wake.ring();
        }
    }
}

impl BrokerInbox {
    /// The next message, if one waits.
    pub fn next(&self) -> Option<ToBroker> {
        self.receiver.try_recv().ok()
    }

    /// Counts entries that are on their way to the hub.
    pub fn note_read(&self, entries: &[Entry]) {
        let bytes = entries.iter().map(|entry| entry.content.weight()).sum();
        self.unapplied.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Whether the hub is so far behind that no more entries are to be read.
    pub fn is_full(&self) -> bool {
        self.unapplied.load(Ordering::SeqCst) > UNAPPLIED_MAX
    }
}
