//! The hub without sockets and threads, for tests of shards and for measuring the cost of commands.

use crate::link::{HubMessage, LocalChannel, ToShard};
use crate::logic::protocol::feed::{FeedError, Request};

use super::HistoryPolicy;
use super::Order;
use super::core::Core;
use super::ids::IdSource;

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
