//! Messages of the shards and of the server: channels that are followed, clients' messages and publishes, connects and
//! disconnects, and answers to the hub's questions.

use arcstr::ArcStr;

use crate::link::{ConnectionId, HubMessage, LocalChannel, Question, Replay, ShardMessage, Speaker, upstream_weight};
use crate::logic::event::{ChannelName, Draft, Kind};
use crate::logic::id::Id;
use crate::logic::json;
use crate::logic::protocol::feed::{FeedError, Notice, write_said};

use super::super::Order;
use super::super::order::{Resume, Whom};
use super::super::outbox::OUTBOX_BYTES_MAX;
use super::super::watch::Want;
use super::budget::Now;
use super::{Core, HubFigures};

/// Bytes of a line for a listener that count for one unit of work.
const LINE_BYTES_PER_WORK: usize = 512;

impl Core {
    /// The work that a message counts for: a page of missed events is put together from histories, and each listener gets a
    /// copy of a line.
    pub(super) fn cost(&self, message: &HubMessage) -> usize {
        match message {
            HubMessage::Resume { after: Some(_), channels, .. } => 32 + channels.len(),
            HubMessage::Said { data, .. } => 1 + self.listeners.len() * (1 + data.len() / LINE_BYTES_PER_WORK),
            HubMessage::Came { .. } | HubMessage::Gone { .. } => 1 + self.listeners.len(),
            HubMessage::Publish { draft, .. } => 1 + draft.payload.len() / LINE_BYTES_PER_WORK,
            HubMessage::Seen { .. } => 16,
            _ => 1,
        }
    }

    /// Carries out one message of a shard or the server.
    pub(in crate::hub) fn hear(&mut self, message: HubMessage, now: Now) {
        match message {
            HubMessage::Follow { shard, local, name } => self.follow(shard, local, &name),
            HubMessage::Unfollow { shard, local } => {
                self.channels.unfollow(shard, local);
                self.shards.stage(shard, ShardMessage::Unfollowed(local));
            }
            HubMessage::Resume { shard, slot, generation, number, channels, after } => {
                self.resume(Resume { shard, slot, generation, number, channels, after }, now);
            }
            HubMessage::Kicked { request, count } => {
                if !self.answer_node(request, count) {
                    let asker = self.questions.ended(request, count);
                    self.send_answers_of(asker);
                }
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
                self.client_publishes(&from, channel, draft, reference, now);
            }
            HubMessage::Join { shard, local, user } => self.join(shard, local, user, now),
            HubMessage::Leave { shard, local, user } => self.leave(shard, local, user, now),
            HubMessage::Drained { cut, .. } => {
                self.drained += 1;
                self.cut += cut;
                if self.drained == self.shards.len() {
                    self.leave_cluster();
                }
            }
            HubMessage::Pause(on) => self.shards.stage_all(|| ShardMessage::Pause(on)),
            HubMessage::Feed(listener) => {
                self.rebound = Some(listener);
                self.wants.push(Want::Rebind);
            }
            HubMessage::Broker(message) => self.hear_broker(message),
            HubMessage::Keys(keyring) => self.shards.stage_all(|| ShardMessage::Keys(keyring.clone())),
            // A hand-over is for a turn, and quiet shards are waited for within it.
            HubMessage::HandOver(_) | HubMessage::Quiet { .. } => {}
            HubMessage::Drain => self.shards.stage_all(|| ShardMessage::Drain),
            HubMessage::Stop => self.is_stopped = true,
        }
    }

    /// Answers a connection that resumes, or holds its question back until this node has read so far.
    fn resume(&mut self, resume: Resume, now: Now) {
        match self.hold_if_ahead(resume) {
            Some(resume) => self.replay(resume, now),
            None => HubFigures::add(&self.figures.resumes_held, 1),
        }
    }

    /// Answers a connection that resumes.
    pub(super) fn replay(&mut self, resume: Resume, now: Now) {
        let Resume { shard, slot, generation, number, channels, after } = resume;
        let replay = self.channels.replay(shard, &channels, after, self.applied, now.steady_ms);
        self.shards.stage(shard, ShardMessage::Replay(Box::new(Replay { slot, generation, number, ..replay })));
    }

    /// Routes a channel's events to a shard, unless clients have brought too many channels into being.
    fn follow(&mut self, shard: u16, local: LocalChannel, name: &ChannelName) {
        let index = match self.is_adopting {
            true => Some(self.channels.find_or_add(name)),
            false => self.channels.find_or_add_followed(name),
        };
        let Some(index) = index else {
            HubFigures::add(&self.figures.follows_refused, 1);
            self.shards.stage(shard, ShardMessage::NoRoom(local));
            return;
        };
        self.channels.follow(index, shard, local);
        self.shards.stage(shard, ShardMessage::Followed(local, self.applied));
        if self.channels.get(index).ended {
            self.shards.stage(shard, ShardMessage::Ended(local, self.channels.ends.of(index)));
        }
    }

    /// Has the turn send the answer of a publisher whose question all shards have answered, if there is one.
    pub(super) fn send_answers_of(&mut self, asker: Option<usize>) {
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
        let Some(chosen) = self.listeners.choose_authorizer(self.now.steady_ms) else { return };
        if chosen.newly_silent > 0 {
            HubFigures::add(&self.figures.authorizers_passed_over, chosen.newly_silent as u64);
            tracing::warn!(
                "a backend has not answered three questions in a row; another one is asked until it answers"
            );
        }
        let listener = chosen.publisher;
        if self.publishers.unsent_bytes(listener) > OUTBOX_BYTES_MAX || self.publishers.are_full() {
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

    /// Notes that a publisher has answered a question about a client.
    pub(super) fn note_authorized(&mut self, publisher: Option<usize>) {
        if publisher.is_some_and(|publisher| self.listeners.note_answer(publisher)) {
            tracing::info!("a backend that had been silent answers again, and is asked again");
        }
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
        now: Now,
    ) {
        let bytes = upstream_weight(draft.payload.len());
        let connection = from.connection;
        let result = match self.order {
            Order::Local(_) => self.publish_to(channel, draft, now),
            Order::Log(_) => {
                let whom = Whom::Client { connection, reference: reference.clone(), bytes };
                match self.submit_for_client(channel, draft, whom) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
        };
        self.answer_client(connection, reference, bytes, result);
    }

    /// Tells a client the outcome of its publish, and takes the publish off its shard's account.
    pub(super) fn answer_client(
        &mut self,
        connection: ConnectionId,
        reference: Option<Box<str>>,
        bytes: usize,
        result: Result<Id, FeedError>,
    ) {
        let shard = connection.shard;
        if reference.is_some() || result.is_err() {
            let result = result.map_err(|FeedError { code, message }| (code, message));
            self.shards.stage(shard, ShardMessage::Published { connection, reference, result });
        }
        if self.shards.is_congested() {
            self.accounts.hold(shard, bytes);
        } else {
            self.accounts.repay(shard, bytes);
        }
    }

    /// Counts a connection on a channel whose users are counted.
    fn join(&mut self, shard: u16, local: LocalChannel, user: Option<ArcStr>, now: Now) {
        let Some(index) = self.channels.by_local(shard, local) else { return };
        let is_first = self.presence.join(index, user.as_ref()) && !self.is_adopting;
        if is_first && !self.submit_presence(index, user.as_ref(), true) {
            self.publish_presence(index, "ringcast.join", user, now);
        }
    }

    /// Counts a connection on such a channel no more.
    fn leave(&mut self, shard: u16, local: LocalChannel, user: Option<ArcStr>, now: Now) {
        let Some(index) = self.channels.by_local(shard, local) else { return };
        if self.presence.leave(index, user.as_ref()) && !self.submit_presence(index, user.as_ref(), false) {
            self.publish_presence(index, "ringcast.leave", user, now);
        }
    }

    /// Publishes on a channel that a user has come or gone. A channel that was ended gets no such event: an event would take
    /// the end back, which only publishers may.
    fn publish_presence(&mut self, index: u32, name: &str, user: Option<ArcStr>, now: Now) {
        let entry = self.channels.get(index);
        if entry.ended {
            return;
        }
        let (Some(channel), Some(user)) = (entry.name.clone(), user) else { return };
        let draft = presence_draft(name, &user);
        if let Err(error) = self.publish_to(channel, draft, now) {
            tracing::warn!(error = error.message, "a user's join or leave could not be published");
        }
    }
}

/// The event that a user has come or gone.
pub(super) fn presence_draft(name: &str, user: &ArcStr) -> Draft {
    let mut payload = Vec::new();
    json::write(&serde_json::json!({ "user": user.as_str() }), &mut payload);
    Draft { name: Some(name.into()), kind: Kind::Json, payload: payload.into() }
}
