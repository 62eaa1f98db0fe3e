//! The hub without sockets and threads, for measuring what it does with a command.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::link::{HubMessage, LocalChannel, ToShard};
use crate::logic::idempotency::IdempotencyKeys;
use crate::logic::protocol::feed::{FeedError, Request};

use super::HistoryPolicy;
use super::channels::HubChannels;
use super::core::Core;
use super::ids::IdSource;

/// Order, history and routes, driven by hand.
pub struct BareHub {
    core: Core,
}

impl BareHub {
    /// A hub that remembers what `history` says and routes to `shards`.
    pub fn new(ids: IdSource, shards: Vec<ToShard>, history: HistoryPolicy) -> BareHub {
        let core = Core {
            channels: HubChannels::new(shards.len(), ids.last(), history),
            ids,
            shards,
            keys: IdempotencyKeys::new(0, 0),
            channels_max: usize::MAX / 2,
            figures: Arc::default(),
            figures_writer: Box::new(|_| ()),
            kicks: HashMap::new(),
            kick_answered: Rc::default(),
            next_kick: 0,
            drained: 0,
            cut: 0,
            is_stopped: false,
        };
        BareHub { core }
    }

    /// Has a shard follow a channel.
    pub fn follow(&mut self, shard: u16, local: LocalChannel, name: &str) {
        self.core.hear(HubMessage::Follow { shard, local, name: name.into() }, 0);
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
