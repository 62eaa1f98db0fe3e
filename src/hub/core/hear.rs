//! Messages of the shards and of the server: channels that are followed, clients' messages and publishes, connects and
//! disconnects, and answers to the hub's questions.

use arcstr::ArcStr;

use crate::link::{
    FIGURES_CHANNEL, HubMessage, LocalChannel, Question, Replay, ShardMessage, Speaker, upstream_weight,
};
use crate::logic::event::{ChannelName, Draft, Kind};
use crate::logic::json;
use crate::logic::protocol::feed::{FeedError, Notice, write_said};

use super::super::outbox::OUTBOX_BYTES_MAX;
use super::{Core, HubFigures};

/// The work that a message counts for: a page of missed events is put together from histories.
pub(super) fn cost(message: &HubMessage) -> usize {
    match message {
        HubMessage::Resume { after: Some(_), .. } => 16,
        _ => 1,
    }
}

impl Core {
    /// Carries out one message of a shard or the server.
    pub(in crate::hub) fn hear(&mut self, message: HubMessage, now_ms: u64) {
        match message {
            HubMessage::Follow { shard, local, name } => self.follow(shard, local, &name),
            HubMessage::Unfollow { shard, local } => {
                self.channels.unfollow(shard, local);
                self.shards.stage(shard, ShardMessage::Unfollowed(local));
            }
            HubMessage::Resume { shard, slot, generation, number, channels, after } => {
                let replay = self.channels.replay(shard, &channels, after, self.applied, now_ms);
                self.shards.stage(shard, ShardMessage::Replay(Box::new(Replay { slot, generation, number, ..replay })));
            }
            HubMessage::Kicked { request, count } => {
                let asker = self.questions.ended(request, count);
                self.send_answers_of(asker);
            }
            HubMessage::Seen { request, seen } => {
                let asker = self.questions.seen(request, seen);
                self.send_answers_of(asker);
            }
            HubMessage::Said { from, data } => self.said(&from, &data),
            HubMessage::Ask { who, question } => self.ask(&who, &question),
            HubMessage::Came { who, address, transport } => {
                let user = who.user.as_deref();
                let conn = &who.connection;
                self.tell_of_connection(&Notice::Connect { conn, user, address: &address, transport });
            }
            HubMessage::Gone { who, reason } => {
                let user = who.user.as_deref();
                self.tell_of_connection(&Notice::Disconnect { conn: &who.connection, user, reason });
            }
            HubMessage::Publish { from, channel, draft, reference } => {
                self.client_publishes(&from, channel, draft, reference, now_ms);
            }
            HubMessage::Join { shard, local, user } => self.join(shard, local, user, now_ms),
            HubMessage::Leave { shard, local, user } => self.leave(shard, local, user, now_ms),
            HubMessage::Drained { cut, .. } => {
                self.drained += 1;
                self.cut += cut;
            }
            HubMessage::Figures(draft) => {
                if let Err(error) = self.publish_to(FIGURES_CHANNEL.into(), draft, now_ms) {
                    tracing::debug!(error = error.message, "the figures could not be published");
                }
            }
            HubMessage::Pause(on) => self.shards.stage_all(|| ShardMessage::Pause(on)),
            HubMessage::Keys(keyring) => self.shards.stage_all(|| ShardMessage::Keys(keyring.clone())),
            HubMessage::Drain => self.shards.stage_all(|| ShardMessage::Drain),
            HubMessage::Stop => self.is_stopped = true,
        }
    }

    fn follow(&mut self, shard: u16, local: LocalChannel, name: &ChannelName) {
        let index = self.channels.find_or_add(name);
        self.channels.follow(index, shard, local);
        self.shards.stage(shard, ShardMessage::Followed(local, self.applied));
        if self.channels.get(index).ended {
            self.shards.stage(shard, ShardMessage::Ended(local));
        }
    }

    /// Has the turn send the answer of a publisher whose question all shards have answered, if there is one.
    fn send_answers_of(&mut self, asker: Option<usize>) {
        if let Some(asker) = asker {
            self.publishers.mark_unsent(asker);
        }
    }

    /// Passes a client's message on to all listeners of messages.
    fn said(&mut self, from: &Speaker, data: &str) {
        let shard = from.connection.shard;
        let bytes = upstream_weight(data.len());
        let holders = self.listeners.of_messages().count();
        if holders == 0 {
            self.accounts.repay(shard, bytes);
            HubFigures::add(&self.figures.messages_unheard, 1);
            return;
        }
        let owed = self.accounts.keep(shard, bytes, holders);
        let mut line = self.take_line();
        write_said(&mut line, &from.connection, from.user.as_deref(), data);
        for listener in self.listeners.of_messages() {
            self.publishers.tell_owed(listener, &line, owed);
        }
        self.line = line;
    }

    /// Asks the backend about a client without a token. A backend that is far behind would answer too late, and is not
    /// asked: the client is treated as configured for that case.
    fn ask(&mut self, who: &Speaker, question: &Question) {
        let Some(listener) = self.listeners.authorizer() else { return };
        if self.publishers.unsent_bytes(listener) > OUTBOX_BYTES_MAX {
            return;
        }
        let Question { number, channels, address, authorization, cookie, origin } = question;
        let notice = Notice::Authorize {
            conn: &who.connection,
            ask: *number,
            channels,
            address,
            authorization: authorization.as_deref(),
            cookie: cookie.as_deref(),
            origin: origin.as_deref(),
        };
        let mut line = self.take_line();
        notice.write(&mut line);
        self.publishers.tell(listener, &line);
        self.line = line;
    }

    /// Tells the listeners of connections of a connect or disconnect.
    fn tell_of_connection(&mut self, notice: &Notice<'_>) {
        let mut line = self.take_line();
        notice.write(&mut line);
        for listener in self.listeners.of_connections() {
            self.publishers.tell_or_count(listener, &line);
        }
        self.line = line;
    }

    /// Tells every shard what the listeners listen to.
    pub(super) fn announce_listening(&mut self) {
        let any = self.listeners.any();
        self.shards.stage_all(|| ShardMessage::Listening(any));
    }

    /// Publishes for a client. The bytes stay on the shard's account while some shard's queue is full.
    fn client_publishes(
        &mut self,
        from: &Speaker,
        channel: ChannelName,
        draft: Draft,
        reference: Option<Box<str>>,
        now_ms: u64,
    ) {
        let shard = from.connection.shard;
        let bytes = upstream_weight(draft.payload.len());
        let result = self.publish_to(channel, draft, now_ms);
        if reference.is_some() || result.is_err() {
            let result = result.map_err(|FeedError { code, message }| (code, message));
            self.shards.stage(shard, ShardMessage::Published { connection: from.connection, reference, result });
        }
        if self.shards.is_congested() {
            self.accounts.hold(shard, bytes);
        } else {
            self.accounts.repay(shard, bytes);
        }
    }

    /// Counts a connection on a channel whose users are counted.
    fn join(&mut self, shard: u16, local: LocalChannel, user: Option<ArcStr>, now_ms: u64) {
        let Some(index) = self.channels.by_local(shard, local) else { return };
        if self.presence.join(index, user.as_ref()) {
            self.publish_presence(index, "ringcast.join", user, now_ms);
        }
    }

    /// Counts a connection on such a channel no more.
    fn leave(&mut self, shard: u16, local: LocalChannel, user: Option<ArcStr>, now_ms: u64) {
        let Some(index) = self.channels.by_local(shard, local) else { return };
        if self.presence.leave(index, user.as_ref()) {
            self.publish_presence(index, "ringcast.leave", user, now_ms);
        }
    }

    /// Publishes on a channel that a user has come or gone. A channel that was ended gets no such event: an event would take
    /// the end back, which only publishers may.
    fn publish_presence(&mut self, index: u32, name: &str, user: Option<ArcStr>, now_ms: u64) {
        let entry = self.channels.get(index);
        if entry.ended {
            return;
        }
        let (Some(channel), Some(user)) = (entry.name.clone(), user) else { return };
        let mut payload = Vec::new();
        json::write(&serde_json::json!({ "user": user.as_str() }), &mut payload);
        let draft = Draft { name: Some(name.into()), kind: Kind::Json, payload: payload.into() };
        if let Err(error) = self.publish_to(channel, draft, now_ms) {
            tracing::warn!(error = error.message, "a user's join or leave could not be published");
        }
    }
}
