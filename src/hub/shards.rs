//! The queues to the shards.

use crate::link::{ShardMessage, ToShard};

/// The queues, by the shards' numbers.
pub(super) struct Shards {
    list: Vec<ToShard>,
}

impl Shards {
    /// The hub's ends of these queues.
    pub(super) fn new(list: Vec<ToShard>) -> Shards {
        Shards { list }
    }

    /// The number of shards.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Adds a message to the batch that the next [`Shards::flush`] gives a shard. A message for a shard that does not exist
    /// is dropped.
    pub(super) fn stage(&mut self, shard: u16, message: ShardMessage) {
        if let Some(shard) = self.list.get_mut(usize::from(shard)) {
            shard.stage(message);
        }
    }

    /// Adds a message to the batch of every shard.
    pub(super) fn stage_all(&mut self, message: impl Fn() -> ShardMessage) {
        for shard in &mut self.list {
            shard.stage(message());
        }
    }

    /// Gives every shard its batch.
    pub(super) fn flush(&mut self) {
        self.list.iter_mut().for_each(ToShard::flush);
    }

    /// Whether some shard has not been given its batch.
    pub(super) fn has_staged(&self) -> bool {
        self.list.iter().any(ToShard::has_staged)
    }

    /// Whether some shard's queue is too full for more.
    pub(super) fn is_congested(&self) -> bool {
        self.list.iter().any(ToShard::is_congested)
    }

    /// The first shard whose queue is too full for more. It rings the hub when there is room.
    pub(super) fn await_room(&self) -> Option<usize> {
        self.list.iter().position(ToShard::await_room)
    }

    /// The number of bytes that wait in all queues.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.list.iter().map(ToShard::waiting_bytes).sum()
    }
}
