//! The hub without sockets and threads: for tests of shards, and for measuring what a command costs.

use crate::link::{HubMessage, LocalChannel, ToShard};
use crate::logic::protocol::feed::{FeedError, Request};

use super::HistoryPolicy;
use super::core::Core;
use super::ids::IdSource;

/// Order, history and routes, driven by hand.
pub struct BareHub {
    core: Core,
}

impl BareHub {
    /// A hub that remembers what `history` says and routes to `shards`.
    pub fn new(ids: IdSource, shards: Vec<ToShard>, history: HistoryPolicy) -> BareHub {
        BareHub { core: Core::new(ids, shards, history) }
    }

    /// Has a shard follow a channel.
    pub fn follow(&mut self, shard: u16, local: LocalChannel, name: &str) {
        self.core.hear(HubMessage::Follow { shard, local, name: name.into() }, 0);
    }

    /// Hears what a shard says, and gives the shards what comes of it.
    pub fn hear(&mut self, message: HubMessage, now_ms: u64) {
        self.hear_all([message], now_ms);
    }

    /// Hears several messages, and gives the shards all that comes of them at once.
    pub fn hear_all(&mut self, messages: impl IntoIterator<Item = HubMessage>, now_ms: u64) {
        messages.into_iter().for_each(|message| self.core.hear(message, now_ms));
        self.core.flush();
    }

    /// Carries out a command and gives the shards what comes of it. The answer is appended to `out`, unless it waits for
    /// the shards: then there is none.
    ///
    /// # Errors
    /// As a publisher would be told.
    pub fn execute(&mut self, request: Request, now_ms: u64, out: &mut Vec<u8>) -> Result<(), FeedError> {
        self.core.execute(None, request.command, request.reference.as_deref(), now_ms, out)?;
        self.core.flush();
        Ok(())
    }
}
