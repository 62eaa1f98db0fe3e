//! The hub without sockets and threads, for measuring what it does with a command.

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

    /// Hears what a shard says, and lets the shards have what comes of it.
    pub fn hear(&mut self, message: HubMessage, now_ms: u64) {
        self.core.hear(message, now_ms);
        self.core.flush();
    }

    /// As [`BareHub::hear`] for all that waits at once, which the shards then have at once, too.
    pub fn hear_all(&mut self, messages: impl IntoIterator<Item = HubMessage>, now_ms: u64) {
        messages.into_iter().for_each(|message| self.core.hear(message, now_ms));
        self.core.flush();
    }

    /// Carries out a command and lets the shards have what came of it; the answer is appended to `out`.
    ///
    /// # Errors
    /// As a publisher would be told.
    pub fn execute(&mut self, request: Request, now_ms: u64, out: &mut Vec<u8>) -> Result<(), FeedError> {
        self.core.execute(request, now_ms, out)?;
        self.core.flush();
        Ok(())
    }
}
