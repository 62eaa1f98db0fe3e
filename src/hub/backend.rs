//! What passes between clients and the backend beside events: messages, comings and goings, presence, and what
//! clients publish themselves.

use arcstr::ArcStr;

use crate::link::{LocalChannel, ShardMessage, Speaker, upstream_weight};
use crate::logic::event::{ChannelName, Draft, Kind};
use crate::logic::json;
use crate::logic::protocol::feed::{FeedError, SendTarget, write_ok_with};

use super::core::Core;
use super::listeners::Owed;

/// Users that one answer about presence names at most.
const USERS_MAX: usize = 10_000;

impl Core {
    /// A client has said something to the backend.
    pub(super) fn said(&mut self, from: &Speaker, data: &str) {
        if !self.listeners.said(from, data) {
            super::HubFigures::add(&self.figures.messages_unheard, 1);
        }
    }

    /// Tells every shard what is listened to.
    pub(super) fn tell_what_is_heard(&mut self) {
        let any = self.listeners.any();
        self.stage_all(|| ShardMessage::Listening(any));
    }

    /// A client publishes.
    pub(super) fn client_publishes(
        &mut self,
        from: &Speaker,
        channel: ChannelName,
        draft: Draft,
        reference: Option<Box<str>>,
        now_ms: u64,
    ) {
        let shard = from.connection.shard;
        let owed = Owed::new(shard, upstream_weight(draft.payload.len()), self.listeners.repaid.clone());
        let result = self.publish_to(channel, draft, now_ms);
        let is_refused = result.is_err();
        if reference.is_some() || is_refused {
            let result = result.map_err(|FeedError { code, message }| (code, message));
            self.stage(shard, ShardMessage::Published { connection: from.connection, reference, result });
        }
        if self.is_congested() {
            self.held.push(owed);
        }
    }

    /// A connection is on a channel whose coming and going counts.
    pub(super) fn join(&mut self, shard: u16, local: LocalChannel, user: Option<ArcStr>, now_ms: u64) {
        let Some(index) = self.channels.by_local(shard, local) else { return };
        if self.presence.join(index, user.as_ref()) {
            self.tell_presence(index, "ringcast.join", user, now_ms);
        }
    }

    /// A connection is on it no more.
    pub(super) fn leave(&mut self, shard: u16, local: LocalChannel, user: Option<ArcStr>, now_ms: u64) {
        let Some(index) = self.channels.by_local(shard, local) else { return };
        if self.presence.leave(index, user.as_ref()) {
            self.tell_presence(index, "ringcast.leave", user, now_ms);
        }
    }

    /// Publishes that a user has come or gone, as an event of the channel like any other.
    fn tell_presence(&mut self, index: u32, name: &str, user: Option<ArcStr>, now_ms: u64) {
        let entry = self.channels.get(index);
        if entry.ended {
            // An event would take the end back, and it is the publisher's word.
            return;
        }
        let (Some(channel), Some(user)) = (entry.name.clone(), user) else { return };
        let mut payload = b"{\"user\":".to_vec();
        json::write_string(&user, &mut payload);
        payload.push(b'}');
        let draft = Draft { name: Some(name.into()), kind: Kind::Json, payload: payload.into() };
        if let Err(error) = self.publish_to(channel, draft, now_ms) {
            tracing::warn!(error = error.message, "a coming or going could not be published");
        }
    }

    /// Answers who is on a channel.
    pub(super) fn write_presence(&self, channel: &str, reference: &str, out: &mut Vec<u8>) {
        let present = self.channels.find(channel).and_then(|index| self.presence.on(index));
        write_ok_with(out, reference, |out| {
            let connections = present.map_or(0, super::presence::Present::connections);
            let count = present.map_or(0, |present| present.users().count());
            out.extend_from_slice(format!(",\"connections\":{connections},\"count\":{count},\"users\":[").as_bytes());
            let users = present.into_iter().flat_map(super::presence::Present::users).take(USERS_MAX);
            for (place, (user, connections)) in users.enumerate() {
                out.extend_from_slice(if place > 0 { b",{\"user\":" } else { b"{\"user\":" });
                json::write_string(user, out);
                out.extend_from_slice(format!(",\"connections\":{connections}}}").as_bytes());
            }
            out.push(b']');
        });
    }

    /// Sends something to one connection, or to all of a user.
    pub(super) fn send_to(&mut self, target: SendTarget, draft: Draft) -> Result<(), FeedError> {
        match target {
            SendTarget::Connection(name) => {
                let id = self.connection_of_a_shard(&name)?;
                self.stage(id.shard, ShardMessage::Send(id, draft));
            }
            SendTarget::User(user) => {
                self.stage_all(|| ShardMessage::SendUser(user.clone(), draft.clone()));
            }
        }
        Ok(())
    }

    /// Lets shards know what they are owed no more.
    pub(super) fn repay(&mut self) {
        if !self.held.is_empty() {
            // Whoever is rung for room calls this again.
            let congested = self.shards.iter().filter(|shard| shard.await_room()).count();
            if congested == 0 {
                self.held.clear();
            }
        }
        for (shard, bytes) in self.listeners.repaid.take() {
            self.stage(shard, ShardMessage::Heard(bytes));
        }
    }
}
