//! The queues between the hub and the shards, and their bounds; `messages` defines what they carry.
//!
//! Both directions are lock-free queues with one wake-up per batch. The queue to a shard keeps its order: the answer to
//! a subscription stands between the live events, so that missed and live events neither overlap nor leave a hole. That
//! queue is bounded by the bytes in it: when [`ToShard::is_congested`], the hub slows its publishers down. No message
//! to a running shard is dropped.

pub mod backplane;
pub mod handover;
mod messages;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};

pub use crate::logic::protocol::feed::{Answer, ConnectionFilter, Listening};
use crate::sys::wake::Wake;

pub use messages::{
    ConnectionId, HubMessage, LocalChannel, Look, Question, Replay, Seen, ShardMessage, Speaker, Target,
    upstream_weight,
};

/// The most batches that wait in a queue to a shard.
const BATCHES_MAX: usize = 4096;

/// The fill level of a queue to a shard, which both of its ends see.
#[derive(Default)]
struct Load {
    bytes: AtomicUsize,
    /// The hub sets this when it waits for room in the queue; the shard clears it when it wakes the hub.
    awaited: AtomicBool,
}

/// The hub's end of the queue to one shard.
pub struct ToShard {
    sender: Sender<Vec<ShardMessage>>,
    wake: Wake,
    load: Arc<Load>,
    bytes_max: usize,
    staged: Vec<ShardMessage>,
    staged_bytes: usize,
}

/// The shard's end of the queue from the hub.
pub struct FromHub {
    receiver: Receiver<Vec<ShardMessage>>,
    /// The wake-up that the hub rings when it has sent a batch.
    pub wake: Wake,
    load: Arc<Load>,
    hub: Wake,
    bytes_max: usize,
    batches_max: usize,
}

/// The bytes that a message counts for in the queue's bound.
fn weight(message: &ShardMessage) -> usize {
    64 + match message {
        ShardMessage::Event(_, event) => event.weight(),
        ShardMessage::Send(_, draft) | ShardMessage::SendUser(_, draft) => draft.payload.len(),
        // The events of a replay take no memory of their own: the history holds them.
        _ => 0,
    }
}

/// Makes the queue to one shard. The shard rings `hub` when a congested queue has room again.
pub fn to_shard(bytes_max: usize, hub: Wake) -> std::io::Result<(ToShard, FromHub)> {
    to_shard_with(bytes_max, BATCHES_MAX, hub)
}

/// Makes a queue as [`to_shard`] does, with room for `batches_max` batches.
pub fn to_shard_with(bytes_max: usize, batches_max: usize, hub: Wake) -> std::io::Result<(ToShard, FromHub)> {
    let (sender, receiver) = crossbeam_channel::bounded(batches_max);
    let wake = Wake::new()?;
    let load = Arc::new(Load::default());
    let to = ToShard { sender, wake: wake.clone(), load: load.clone(), bytes_max, staged: Vec::new(), staged_bytes: 0 };
    Ok((to, FromHub { receiver, wake, load, hub, bytes_max, batches_max }))
}

impl ToShard {
    /// Adds a message to the batch that the next [`ToShard::flush`] sends.
    pub fn stage(&mut self, message: ShardMessage) {
        self.staged_bytes += weight(&message);
        self.staged.push(message);
    }

    /// Sends the batch, with one wake-up. If the queue is full, the batch stays staged, and the shard rings the hub
    /// when there is room, so that the hub flushes again. A batch for a shard that has ended is dropped.
    pub fn flush(&mut self) {
        if self.staged.is_empty() || self.try_flush() {
            return;
        }
        // The shard may have made room before it could see `awaited`, and would then ring nobody.
        self.load.awaited.store(true, Ordering::SeqCst);
        self.try_flush();
    }

    /// Tries to send the batch; returns whether nothing is staged any more.
    fn try_flush(&mut self) -> bool {
        let bytes = std::mem::take(&mut self.staged_bytes);
        // The bytes are added before the send, so that the shard never subtracts bytes that were not added yet.
        self.load.bytes.fetch_add(bytes, Ordering::SeqCst);
        match self.sender.try_send(std::mem::take(&mut self.staged)) {
            Ok(()) => self.wake.ring(),
            Err(TrySendError::Full(batch)) => {
                self.load.bytes.fetch_sub(bytes, Ordering::SeqCst);
                self.staged = batch;
                self.staged_bytes = bytes;
                return false;
            }
            Err(TrySendError::Disconnected(_)) => {
                self.load.bytes.fetch_sub(bytes, Ordering::SeqCst);
            }
        }
        true
    }

    /// Whether messages wait for a flush that finds room.
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Whether so many bytes or batches wait in the queue that publishers must wait too.
    pub fn is_congested(&self) -> bool {
        !self.staged.is_empty() && self.sender.is_full() || self.load.bytes.load(Ordering::SeqCst) > self.bytes_max
    }

    /// Has the shard ring the hub when the queue has room. Returns whether it has none even now: the queue is looked at
    /// again after the request, because room that came before it is not rung for.
    pub fn await_room(&self) -> bool {
        self.is_congested() && {
            self.load.awaited.store(true, Ordering::SeqCst);
            self.is_congested()
        }
    }

    /// The bytes that wait in the queue.
    pub fn waiting_bytes(&self) -> usize {
        self.load.bytes.load(Ordering::Relaxed) + self.staged_bytes
    }
}

impl FromHub {
    /// The next batch, if one waits. The batch counts as waiting until [`FromHub::done`] is told of it.
    pub fn next(&self) -> Option<Vec<ShardMessage>> {
        self.receiver.try_recv().ok()
    }

    /// The bytes that a batch counts for in the queue's bound.
    pub fn weigh(batch: &[ShardMessage]) -> usize {
        batch.iter().map(weight).sum()
    }

    /// The bytes that wait in the queue.
    pub fn waiting_bytes(&self) -> usize {
        self.load.bytes.load(Ordering::Relaxed)
    }

    /// Takes a batch of `bytes` out of the queue's bound, because it is worked off; wakes the hub if the hub waits
    /// for room.
    pub fn done(&self, bytes: usize) {
        let left = self.load.bytes.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let has_room = left <= self.bytes_max / 2 && self.receiver.len() <= self.batches_max / 2;
        if has_room && self.load.awaited.load(Ordering::SeqCst) && self.load.awaited.swap(false, Ordering::SeqCst) {
            self.hub.ring();
        }
    }

    /// The descriptors that a thread which takes a private table must keep for this end to work.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.wake.as_fd(), self.hub.as_fd()]
    }

    /// Whether no batch waits in the queue.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

/// A shard's (or the server's) end of the queue to the hub.
#[derive(Clone)]
pub struct ToHub {
    sender: Sender<HubMessage>,
    wake: Wake,
}

/// The hub's end of the queue that the shards and the server send to.
pub struct HubInbox {
    receiver: Receiver<HubMessage>,
    /// The wake-up that the senders ring when they have queued messages.
    pub wake: Wake,
}

/// Makes the queue that leads to the hub. The queue has no bound of its own: a shard queues at most a few messages per
/// connection and channel, and the bytes of clients' messages are bounded by the shard's account.
pub fn to_hub() -> std::io::Result<(ToHub, HubInbox)> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let wake = Wake::new()?;
    Ok((ToHub { sender, wake: wake.clone() }, HubInbox { receiver, wake }))
}

impl ToHub {
    /// Queues a message; [`ToHub::ring`] tells the hub of it.
    pub fn send(&self, message: HubMessage) {
        // The send fails only when the hub has ended, at the end of the process.
        let _ = self.sender.send(message);
    }

    /// The descriptor that a thread which takes a private table must keep for this end to work.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Wakes the hub to take the queued messages.
    pub fn ring(&self) {
        self.wake.ring();
    }
}

impl HubInbox {
    /// The next message, if one waits.
    pub fn next(&self) -> Option<HubMessage> {
        self.receiver.try_recv().ok()
    }

    /// How many messages wait: at least all that were queued before this call.
    pub fn waiting(&self) -> usize {
        self.receiver.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::event::{Draft, Event, Kind};
    use crate::logic::id::Id;

    fn event(size: usize) -> ShardMessage {
        let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; size].into() };
        ShardMessage::Event(0, Arc::new(Event { id: Id::ZERO, channel: "c".into(), draft }))
    }

    #[test]
    fn a_full_queue_is_congested_until_it_is_worked_off() {
        let (mut to, from) = to_shard(1000, Wake::new().unwrap()).unwrap();
        to.stage(event(600));
        to.flush();
        assert!(!to.is_congested());
        to.stage(event(600));
        to.flush();
        assert!(to.is_congested());
        while let Some(batch) = from.next() {
            from.done(FromHub::weigh(&batch));
        }
        assert!(!to.is_congested());
        assert_eq!(to.waiting_bytes(), 0);
    }

    #[test]
    fn nothing_is_dropped_when_the_queue_has_no_room() {
        let (mut to, from) = to_shard(usize::MAX, Wake::new().unwrap()).unwrap();
        for _ in 0..BATCHES_MAX + 10 {
            to.stage(event(1));
            to.flush();
        }
        assert!(to.is_congested());
        let mut count = 0;
        loop {
            while let Some(batch) = from.next() {
                count += batch.len();
            }
            to.flush();
            if from.is_empty() {
                break;
            }
        }
        assert_eq!(count, BATCHES_MAX + 10);
    }

    #[test]
    fn a_hub_without_room_is_rung_when_there_is_some() {
        let hub = Wake::new().unwrap();
        let (mut to, from) = to_shard(usize::MAX, hub.clone()).unwrap();
        for _ in 0..=BATCHES_MAX {
            to.stage(event(1));
            to.flush();
        }
        assert!(!to.staged.is_empty() && !hub.is_rung());
        while let Some(batch) = from.next() {
            from.done(FromHub::weigh(&batch));
        }
        assert!(hub.is_rung(), "without it the staged batch would never be flushed");
        to.flush();
        assert_eq!(from.next().map(|batch| batch.len()), Some(1));
    }

    #[test]
    fn messages_for_an_ended_shard_are_dropped() {
        let (mut to, from) = to_shard(1000, Wake::new().unwrap()).unwrap();
        drop(from);
        for _ in 0..10 {
            to.stage(event(600));
            to.flush();
        }
        assert!(to.staged.is_empty() && !to.is_congested());
        assert_eq!(to.waiting_bytes(), 0);
    }

    #[test]
    fn connection_ids_round_trip() {
        let id = ConnectionId { shard: 3, slot: 70_000, generation: 9 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1.2", "1.2.x", "70000.1.1"] {
            assert!(bad.parse::<ConnectionId>().is_err());
        }
    }
}
