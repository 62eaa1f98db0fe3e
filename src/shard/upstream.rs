//! The queues to and from the hub, and the bytes of clients' messages on their way to it.
//!
//! A message is on the shard's account until the hub has passed it on. When the account is full, clients that send more
//! messages are not read until there is room, so that a slow backend slows its clients and costs no further memory.

use std::collections::VecDeque;

use crate::link::{FromHub, HubMessage, Listening, ShardMessage, ToHub, upstream_weight};
use crate::logic::session::Payload;
use crate::sys::wake::Wake;

use super::connection::State;
use super::context::Context;
use super::slots::Slots;
use super::waiting::{Aside, Hold, Waiting};

/// A batch from the hub that is being worked off.
struct Batch {
    messages: std::vec::IntoIter<ShardMessage>,
    /// The bytes that the batch counts for in the queue's bound.
    weight: usize,
}

/// The queues to and from the hub, and the account; see the module's documentation.
pub(super) struct Upstream {
    to_hub: ToHub,
    from_hub: FromHub,
    /// The queue to the hub has messages that the hub has not been woken for.
    must_ring: bool,
    /// The queue from the hub may have messages.
    has_messages: bool,
    batch: Option<Batch>,
    /// The kinds of messages that backends listen to.
    pub(super) listening: Listening,
    /// The bytes on the shard's account.
    bytes: usize,
    /// The connections whose message to the backend waits for room, with their slots' generations.
    waiting: VecDeque<(u32, u32)>,
}

impl Upstream {
    pub(super) fn new(to_hub: ToHub, from_hub: FromHub) -> Upstream {
        Upstream {
            to_hub,
            from_hub,
            must_ring: false,
            has_messages: true,
            batch: None,
            listening: Listening::default(),
            bytes: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Queues a message to the hub, which is woken at the end of the turn.
    pub(super) fn send(&mut self, message: HubMessage) {
        match &message {
            HubMessage::Said { data, .. } => self.bytes += upstream_weight(data.len()),
            HubMessage::Publish { draft, .. } => self.bytes += upstream_weight(draft.payload.len()),
            _ => {}
        }
        self.to_hub.send(message);
        self.must_ring = true;
    }

    /// Wakes the hub if it has messages that it was not woken for.
    pub(super) fn ring(&mut self) {
        if std::mem::take(&mut self.must_ring) {
            self.to_hub.ring();
        }
    }

    /// The wake-up that the hub rings when it has sent messages.
    pub(super) fn wake(&self) -> &Wake {
        &self.from_hub.wake
    }

    /// Notes that the hub has sent messages.
    pub(super) fn note_messages(&mut self) {
        self.has_messages = true;
    }

    /// Whether messages from the hub may wait.
    pub(super) fn has_messages(&self) -> bool {
        self.has_messages
    }

    /// Whether messages from the hub wait now, looked up in the queue itself.
    pub(super) fn is_behind(&self) -> bool {
        self.batch.is_some() || !self.from_hub.is_empty()
    }

    /// The number of bytes that wait in the queue from the hub.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.from_hub.waiting_bytes()
    }

    /// Resets the hub's wake-up, before the messages are taken.
    pub(super) fn clear_wake(&self) {
        if self.from_hub.wake.is_rung() {
            self.from_hub.wake.clear();
        }
    }

    /// The next message from the hub.
    pub(super) fn next(&mut self) -> Option<ShardMessage> {
        loop {
            if let Some(batch) = &mut self.batch {
                if let Some(message) = batch.messages.next() {
                    return Some(message);
                }
                self.from_hub.done(batch.weight);
                self.batch = None;
            }
            let Some(messages) = self.from_hub.next() else {
                self.has_messages = false;
                return None;
            };
            let weight = FromHub::weigh(&messages);
            self.batch = Some(Batch { messages: messages.into_iter(), weight });
        }
    }

    /// Whether the account has room for another message to the backend.
    pub(super) fn has_room(&self, cx: &Context) -> bool {
        self.bytes < cx.settings.config.limits.upstream
    }

    /// Puts a client's message aside until the account has room. The client is not read meanwhile.
    pub(super) fn put_aside(&mut self, slots: &mut Slots, cx: &mut Context, slot: u32, message: Payload<'_>) {
        let connection = &mut slots[slot];
        connection.hold(Hold::UPSTREAM);
        connection.extra().waiting = Waiting::Upstream(Aside::new(message));
        self.waiting.push_back((slot, connection.generation));
        cx.counters.messages_held += 1;
    }

    /// The bytes on the shard's account.
    pub(super) fn account(&self) -> usize {
        self.bytes
    }

    /// Goes on with a predecessor's account.
    pub(super) fn restore(&mut self, bytes: usize, listening: Listening) {
        (self.bytes, self.listening) = (bytes, listening);
    }

    /// Has a connection of a predecessor wait for room for its message.
    pub(super) fn wait(&mut self, slot: u32, generation: u32) {
        self.waiting.push_back((slot, generation));
    }

    /// Takes bytes off the account.
    pub(super) fn free(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether connections may wait whose message finds room now.
    pub(super) fn has_waiting_with_room(&self, cx: &Context) -> bool {
        !self.waiting.is_empty() && self.has_room(cx)
    }

    /// The next connection whose message finds room now.
    pub(super) fn next_with_room(&mut self, slots: &Slots, cx: &Context) -> Option<u32> {
        while self.has_room(cx) {
            let (slot, generation) = self.waiting.pop_front()?;
            let connection = &slots[slot];
            if connection.generation == generation && connection.state == State::WebSocket {
                return Some(slot);
            }
        }
        None
    }
}
