//! What clients say to the backend and publish themselves, on its way to the hub.
//!
//! It is on the shard's account until the hub has passed it on. When too much is, a client that says more is not read
//! any further until there is room: a slow backend slows its clients and costs no memory beyond the account.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::link::{ConnectionId, HubMessage, Listening, Speaker, upstream_weight};
use crate::logic::event::{Draft, check_channel_name};
use crate::logic::id::Id;
use crate::logic::protocol::feed::draft_of;
use crate::logic::reason::Reason;

use super::connection::{Flags, State};
use super::messages::{Refusal, refusal};
use super::{Shard, connection_id};

/// The account.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    pub(super) listening: Listening,
    bytes: usize,
    /// Connections that have something to say and no room, with their slots' generations.
    waiting: VecDeque<(u32, u32)>,
}

/// `{"publish":{…}}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted<'a> {
    channel: String,
    #[serde(default)]
    event: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Shard {
    /// Whether a client may say something more now; else its message is kept and it is read no further.
    pub(super) fn has_room_upstream(&mut self, slot: u32, message: &str) -> bool {
        if self.upstream.bytes < self.settings.config.limits.upstream {
            return true;
        }
        let connection = &mut self.connections[slot];
        connection.flags.set(Flags::PAUSED);
        connection.extra().unsaid = Some(message.into());
        self.upstream.waiting.push_back((slot, connection.generation));
        self.counters.messages_held += 1;
        false
    }

    /// A client as the backend knows it.
    pub(super) fn speaker(&self, slot: u32) -> Speaker {
        let connection = connection_id(self.index, slot, self.connections[slot].generation);
        Speaker { connection, user: self.user(slot).cloned() }
    }

    /// Passes what a client says to the backend.
    pub(super) fn say(&mut self, slot: u32, data: &RawValue) -> Result<(), Refusal> {
        if !self.upstream.listening.messages {
            return Err(refusal("no_backend", "nobody listens to messages at the moment"));
        }
        let data = String::from_utf8(crate::logic::json::compact(data.get())).unwrap_or_default().into_boxed_str();
        self.upstream.bytes += upstream_weight(data.len());
        let from = self.speaker(slot);
        self.tell_hub(HubMessage::Said { from, data });
        Ok(())
    }

    /// Publishes for a client whose token allows it; the answer comes from the hub.
    pub(super) fn publish_for(&mut self, slot: u32, said: &RawValue, reference: Option<&str>) -> Result<(), Refusal> {
        let wanted: Wanted<'_> =
            serde_json::from_str(said.get()).map_err(|error| refusal("bad_message", error.to_string()))?;
        check_channel_name(&wanted.channel).map_err(|error| refusal("bad_channel", error.to_string()))?;
        let is_open = self.settings.config.namespace(&wanted.channel).client_publish;
        let is_granted = self.identities.get(slot).is_some_and(|known| known.may_publish(&wanted.channel));
        if !is_open || !is_granted {
            let message = format!("this connection may not publish to {:?}", wanted.channel);
            return Err(Refusal { channels: vec![wanted.channel], ..refusal("forbidden", message) });
        }
        let draft =
            draft_of(wanted.data, wanted.event.as_deref()).map_err(|error| refusal(error.code, error.message))?;
        self.upstream.bytes += upstream_weight(draft.payload.len());
        let from = self.speaker(slot);
        let channel = wanted.channel.into();
        self.tell_hub(HubMessage::Publish { from, channel, draft, reference: reference.map(Into::into) });
        Ok(())
    }

    /// So much is off the account: whoever waited for room goes on.
    pub(super) fn on_heard(&mut self, bytes: usize) {
        self.upstream.bytes = self.upstream.bytes.saturating_sub(bytes);
        for _ in 0..self.upstream.waiting.len() {
            if self.upstream.bytes >= self.settings.config.limits.upstream {
                break;
            }
            let Some((slot, generation)) = self.upstream.waiting.pop_front() else { break };
            let connection = &mut self.connections[slot];
            if connection.generation != generation || connection.state != State::WebSocket {
                continue;
            }
            self.say_again(slot);
        }
    }

    /// Has a client say once more what had to wait, and reads on.
    pub(super) fn say_again(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let Some(message) = connection.extra.as_mut().and_then(|extra| extra.unsaid.take()) else { return };
        connection.flags.clear(Flags::PAUSED);
        self.hear_json(slot, &message);
        let connection = &self.connections[slot];
        if connection.state == State::WebSocket && !connection.flags.has(Flags::PAUSED) {
            self.read_later(slot);
        }
        self.queue(slot);
    }

    /// What became of something a client has published.
    pub(super) fn on_published(
        &mut self,
        id: ConnectionId,
        reference: Option<&str>,
        result: Result<Id, (&'static str, String)>,
    ) {
        let Some(slot) = self.find(id).filter(|slot| self.connections[*slot].state == State::WebSocket) else { return };
        match result {
            Ok(id) => self.reply_with_id(slot, reference, id),
            Err((code, message)) => self.reply(slot, reference, Err(refusal(code, message))),
        }
        self.queue(slot);
    }

    /// Sends something to all connections of a user.
    pub(super) fn send_to_user(&mut self, user: &str, draft: &Draft) {
        for slot in self.identities.of_user(user) {
            let id = connection_id(self.index, slot, self.connections[slot].generation);
            self.send_direct(id, draft);
        }
    }

    /// Tells those who listen that a client has come.
    pub(super) fn tell_came(&mut self, slot: u32) {
        if !self.upstream.listening.connections || self.connections[slot].is_own() {
            return;
        }
        let who = self.speaker(slot);
        let connection = &self.connections[slot];
        let transport = if connection.state == State::Stream { "sse" } else { "ws" };
        let address = connection.peer.to_string().into();
        self.tell_hub(HubMessage::Came { who, address, transport });
    }

    /// Tells those who listen that a client has gone.
    pub(super) fn tell_gone(&mut self, slot: u32, reason: Reason) {
        let connection = &self.connections[slot];
        let is_client = matches!(connection.state, State::Stream | State::WebSocket) && !connection.is_own();
        if self.upstream.listening.connections && is_client {
            let who = self.speaker(slot);
            self.tell_hub(HubMessage::Gone { who, reason: reason.name() });
        }
    }

    /// Tells the hub that a connection is on a lane's channel, if its coming and going counts.
    pub(super) fn tell_presence(&mut self, slot: u32, lane: u32, is_coming: bool) {
        let channel = self.channels.lanes[lane].channel;
        // A poll comes and goes with each request, and means nothing by it.
        let is_counted = self.policies.get(self.channels.channels[channel].policy).presence
            && self.connections[slot].dialect != crate::logic::protocol::dialect::Dialect::Poll;
        if !is_counted {
            return;
        }
        let (shard, local, user) = (self.index, channel, self.user(slot).cloned());
        self.tell_hub(match is_coming {
            true => HubMessage::Join { shard, local, user },
            false => HubMessage::Leave { shard, local, user },
        });
    }

    /// Has all presence of a connection told anew under another identity, by doing `change` in between.
    pub(super) fn change_user<T>(&mut self, slot: u32, change: impl FnOnce(&mut Shard) -> T) -> T {
        let connection = &self.connections[slot];
        let lanes: Vec<u32> = connection.subscriptions_from(0).map(|s| s.lane).collect();
        for lane in &lanes {
            self.tell_presence(slot, *lane, false);
        }
        let result = change(self);
        for lane in &lanes {
            self.tell_presence(slot, *lane, true);
        }
        result
    }
}
