//! The order of events as a cluster's log gives it.
//!
//! The hub submits entries and acts on them when it reads them back, as every other node does. The
//! publisher of an entry is answered then: a *ticket* is the answer in the making.

mod held;
mod tickets;

use arcstr::ArcStr;
use std::collections::VecDeque;
use std::time::Duration;

use crate::link::backplane::{BrokerQueue, BrokerState, ToBroker, Unordered};
use crate::logic::entry::{Content, Entry, Origin};
use crate::logic::event::ChannelName;
use crate::logic::id::Id;
use crate::logic::idempotency::Fingerprint;

pub(super) use held::{HeldResumes, Resume};
pub(super) use tickets::{Settled, Tickets, Whom};

/// What a hub is told of its log.
#[derive(Debug)]
pub struct LogParts {
    /// The queue to the thread that speaks with the broker.
    pub queue: BrokerQueue,
    /// The node's name.
    pub node: ArcStr,
    /// The node's name with a mark of this start, which is the origin of its entries.
    pub mark: ArcStr,
    /// The bytes of entries that may wait until they are read back.
    pub pending_max: usize,
    /// The time for which a client waits that comes with a position ahead of this node.
    pub resume_wait: Duration,
    /// Whether entries count only once replicas have confirmed them.
    pub needs_confirmation: bool,
    /// The channel on which the hub reports that it has caught up with the log.
    pub caught_up: crossbeam_channel::Sender<()>,
}

/// A publish with a key, whose entries follow each other in the log.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: Box<str>,
    /// The ids and the channels of the first publish with the key, if this one repeats it.
    pub(super) known: Option<(Vec<Id>, Fingerprint)>,
    pub(super) channels: Vec<ChannelName>,
    /// The ids that the publish is answered with.
    pub(super) ids: Vec<Id>,
}

/// What was read from the log and is not applied yet.
#[derive(Debug)]
pub(super) enum Incoming {
    /// An entry.
    Entry(Entry),
    /// Events between two positions are lost for this node.
    Gap {
        /// The last position without a loss.
        after: Id,
        /// The position from which on nothing is lost.
        resumed: Id,
    },
}

/// The hub's side of a log.
#[derive(Debug)]
pub struct LogOrder {
    pub(super) parts: LogParts,
    pub(super) tickets: Tickets,
    pub(super) held: HeldResumes,
    /// What was read and not applied yet. A gap stands among the entries, because those before it are not lost.
    pub(super) incoming: VecDeque<Incoming>,
    pub(super) state: BrokerState,
    /// Whether the node has once read everything that was in the log at its start.
    pub(super) is_caught_up: bool,
    /// The time by the broker's clock at the start of catching up.
    pub(super) began_ms: u64,
    /// The time by the broker's clock of the newest entry.
    pub(super) newest_ms: u64,
    /// The publish with a key whose entries are being read.
    pub(super) group: Option<Group>,
    /// Whether the thread has messages that it was not woken for.
    is_unrung: bool,
}

impl LogOrder {
    /// A log of which nothing was read yet.
    pub fn new(parts: LogParts) -> LogOrder {
        LogOrder {
            tickets: Tickets::new(parts.needs_confirmation),
            held: HeldResumes::new(parts.resume_wait),
            parts,
            incoming: VecDeque::new(),
            state: BrokerState::Away,
            is_caught_up: false,
            began_ms: 0,
            newest_ms: 0,
            group: None,
            is_unrung: false,
        }
    }

    /// The time in the log from the entry that is applied next to the newest that was read, in milliseconds.
    pub(super) fn lag_ms(&self) -> u64 {
        let at = |incoming: &Incoming| match incoming {
            Incoming::Entry(entry) => Some(entry.at_ms),
            Incoming::Gap { .. } => None,
        };
        let (first, last) = (self.incoming.iter().find_map(at), self.incoming.iter().rev().find_map(at));
        last.unwrap_or(0).saturating_sub(first.unwrap_or(0))
    }

    /// Whether so many bytes wait to be read back that publishers wait.
    pub(super) fn is_full(&self) -> bool {
        self.tickets.pending_bytes() > self.parts.pending_max
    }

    /// Submits entries of one ticket, which is `whom`'s. All of them are appended or none.
    pub(super) fn submit(&mut self, contents: Vec<Content>, whom: Whom, is_lasting: bool) -> u64 {
        let is_whole = contents.len() > 1;
        let weights = contents.iter().map(|content| content.weight() as u32);
        let (ticket, first) = self.tickets.open(whom, weights);
        let number = |(place, content)| Unordered { number: first + place as u64, content };
        let entries = contents.into_iter().enumerate().map(number).collect();
        self.parts.queue.send(ToBroker::Append { entries, is_whole, is_lasting });
        self.is_unrung = true;
        ticket
    }

    /// Wakes the broker's thread if it has new messages.
    pub(super) fn ring(&mut self) {
        if std::mem::take(&mut self.is_unrung) {
            self.parts.queue.ring();
        }
    }

    /// The next entry or gap to apply. The bytes of an entry are off the bound of what may be read ahead.
    pub(super) fn next_incoming(&mut self) -> Option<Incoming> {
        let next = self.incoming.pop_front()?;
        if let Incoming::Entry(entry) = &next {
            self.parts.queue.applied(entry.content.weight());
        }
        Some(next)
    }

    /// Notes that an entry was read back, if it is one of this node's own; its publish is answered with `id`.
    pub(super) fn read_back(&mut self, own: Option<u64>, id: Id) {
        if let Some(number) = own {
            self.tickets.read_back(number, id);
        }
    }

    /// The number of an entry that this node has written since its start.
    pub(super) fn own_number(&self, origin: Option<&Origin>) -> Option<u64> {
        origin.filter(|origin| origin.node == self.parts.mark).map(|origin| origin.number)
    }
}
