//! The hub without sockets and threads, for tests of shards and for measuring the cost of commands.

use std::os::fd::BorrowedFd;

use crate::link::handover::{HandoverError, Incoming, Moved};
use crate::link::{HubInbox, HubMessage, LocalChannel, ToShard};
use crate::logic::protocol::feed::{FeedError, Request};

use super::HistoryPolicy;
use super::Order;
use super::core::{Core, Sent};
use super::ids::IdSource;

/// What was sent to a successor ahead; by default nothing.
#[derive(Default)]
pub struct SentAhead(Sent);

/// The hub's order, history and routes, driven by hand.
pub struct BareHub {
    core: Core,
}

impl BareHub {
    /// A hub that keeps histories within the limits that `history` names, and routes to `shards`.
    pub fn new(ids: IdSource, shards: Vec<ToShard>, history: HistoryPolicy) -> BareHub {
        BareHub { core: Core::new(Order::Local(ids), shards, history) }
    }

    /// A hub over a cluster's log, whose broker the caller plays.
    #[cfg(test)]
    pub(crate) fn over_log(log: super::order::LogOrder, shards: Vec<ToShard>, history: HistoryPolicy) -> BareHub {
        BareHub { core: Core::new(Order::Log(Box::new(log)), shards, history) }
    }

    /// Applies what the broker has told of, and flushes the queues to the shards.
    #[cfg(test)]
    pub(crate) fn read_log(&mut self) {
        self.core.read_log();
        self.core.flush();
    }

    /// Makes a shard follow a channel.
    pub fn follow(&mut self, shard: u16, local: LocalChannel, name: &str) {
        self.core.hear(HubMessage::Follow { shard, local, name: name.into() }, self.core.at(0));
    }

    /// Hears one message of a shard, and flushes the queues to the shards.
    pub fn hear(&mut self, message: HubMessage, now_ms: u64) {
        self.hear_all([message], now_ms);
    }

    /// Hears several messages, and flushes the queues to the shards once.
    pub fn hear_all(&mut self, messages: impl IntoIterator<Item = HubMessage>, now_ms: u64) {
        let now = self.core.at(now_ms);
        messages.into_iter().for_each(|message| self.core.hear(message, now));
        self.core.flush();
    }

    /// Sends everything that a successor needs but the feed's listener.
    ///
    /// # Errors
    /// If the successor has gone.
    pub fn send_all(&mut self, carrier: BorrowedFd<'_>, ahead: SentAhead) -> Result<Moved, HandoverError> {
        self.core.settle_answers();
        self.core.send_all(None, carrier, ahead.0, || {})
    }

    /// Sends the histories of this moment ahead.
    ///
    /// # Errors
    /// If the successor has gone.
    pub fn send_ahead(&mut self, carrier: BorrowedFd<'_>) -> Result<SentAhead, HandoverError> {
        Ok(SentAhead(self.core.send_ahead(carrier)?))
    }

    /// Takes everything that a predecessor has sent.
    ///
    /// # Errors
    /// If the records cannot be used.
    pub fn take_all(&mut self, carrier: BorrowedFd<'_>) -> Result<Moved, HandoverError> {
        Ok(self.core.take_all(Incoming::new(carrier))?.0)
    }

    /// Hears what the shards follow that have taken a predecessor's over.
    pub fn hear_adopted(&mut self, inbox: &HubInbox) {
        self.core.hear_adopted(inbox);
    }

    /// Carries out a command, and flushes the queues to the shards. The answer is appended to `out`; an answer that waits for
    /// shards is left out.
    ///
    /// # Errors
    /// The error that a publisher would be answered with.
    pub fn execute(&mut self, request: Request, now_ms: u64, out: &mut Vec<u8>) -> Result<(), FeedError> {
        let now = self.core.at(now_ms);
        self.core.execute(None, request.command, request.reference.as_deref(), now, out)?;
        self.core.flush();
        Ok(())
    }
}
