//! What the hub does, without waiting: order, history, routes.
//!
//! Publishing is two steps, *order* (an id) and *deliver* (history and queues). Here both happen at once; a
//! broker that decides ids would stand between them.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::figures::Stats;
use crate::link::{ConnectionId, FIGURES_CHANNEL, HubMessage, LocalChannel, Replay, ShardMessage, Target, ToShard};
use crate::logic::auth::LEEWAY_MAX_S;
use crate::logic::event::{ChannelName, Draft, Event};
use crate::logic::id::Id;
use crate::logic::idempotency::IdempotencyKeys;
use crate::logic::protocol::dialect::write_event_json;
use crate::logic::protocol::feed::{
    Command, FeedError, KickTarget, Listening, Publish, Request, write_ids, write_ok, write_ok_with,
};

use super::HubFigures;
use super::busiest::Busiest;
use super::channels::{HistoryPolicy, HubChannels};
use super::ids::IdSource;
use super::listeners::{Listeners, Owed};
use super::looks::PendingLook;
use super::notify::Notify;
use super::presence::Presence;
use super::revocations::Revocations;
use super::trace::Traces;

/// What a page of missed events weighs at most.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// How long a revoked token is refused if nobody says when it expires: 30 days.
const REVOKED_FOR_S: u64 = 30 * 86400;

/// A kick whose answers are being waited for.
#[derive(Debug, Default)]
pub(super) struct PendingKick {
    pub(super) missing: usize,
    pub(super) count: u64,
}

/// What is left to do after a command was taken.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing: its answer is written.
    Done,
    /// The connection is to be a listener; the answer follows then.
    Listen(Listening),
    /// The connection gets a copy of a channel's events; the answer follows then.
    Trace(ChannelName),
    /// The answer follows once all shards have said what they see.
    Look(u64),
    /// The answer follows once all shards have said how many it concerned.
    Kick {
        /// Its number.
        request: u64,
        /// What the count is called in the answer.
        counted: &'static str,
    },
}

/// The hub's state. One thread owns it; its tasks borrow it between their waits.
pub(super) struct Core {
    pub(super) ids: IdSource,
    pub(super) channels: HubChannels,
    pub(super) shards: Vec<ToShard>,
    pub(super) keys: IdempotencyKeys,
    pub(super) channels_max: usize,
    pub(super) figures: Arc<HubFigures>,
    /// The server's figures, the hub's own among them.
    pub(super) stats: Arc<Stats>,
    pub(super) kicks: HashMap<u64, PendingKick>,
    pub(super) answered: Rc<Notify>,
    pub(super) next_request: u64,
    pub(super) looks: HashMap<u64, PendingLook>,
    pub(super) busiest: Busiest,
    /// Who gets a copy of which channel's events.
    pub(super) traces: Traces,
    pub(super) listeners: Listeners,
    pub(super) revocations: Revocations,
    /// What clients have published and shards have no room for yet: it is owed to the clients' shards.
    pub(super) held: Vec<Rc<Owed>>,
    pub(super) presence: Presence,
    /// Shards that have let all their clients go, and how many they cut.
    pub(super) drained: usize,
    pub(super) cut: u64,
    pub(super) is_stopped: bool,
}

impl Core {
    /// A hub that has heard nothing yet, remembers no keys, writes nothing down, and has no bound of channels and nobody
    /// to show figures to.
    pub(super) fn new(ids: IdSource, shards: Vec<ToShard>, history: HistoryPolicy) -> Core {
        Core {
            channels: HubChannels::new(shards.len(), ids.last(), history),
            ids,
            shards,
            keys: IdempotencyKeys::new(0, 0),
            channels_max: usize::MAX / 2,
            figures: Arc::default(),
            stats: Arc::default(),
            kicks: HashMap::new(),
            answered: Rc::default(),
            next_request: 0,
            looks: HashMap::new(),
            busiest: Busiest::default(),
            traces: Traces::default(),
            listeners: Listeners::default(),
            revocations: Revocations::default(),
            held: Vec::new(),
            presence: Presence::default(),
            drained: 0,
            cut: 0,
            is_stopped: false,
        }
    }

    /// Sends every shard what is staged for it.
    pub(super) fn flush(&mut self) {
        self.repay();
        for shard in &mut self.shards {
            shard.flush();
        }
    }

    /// Whether a shard's queue is too full for more.
    pub(super) fn is_congested(&self) -> bool {
        self.shards.iter().any(ToShard::is_congested)
    }

    /// Hears what shards and the server say.
    pub(super) fn hear(&mut self, message: HubMessage, now_ms: u64) {
        match message {
            HubMessage::Follow { shard, local, name } => self.follow(shard, local, &name),
            HubMessage::Unfollow { shard, local } => {
                self.channels.unfollow(shard, local);
                self.stage(shard, ShardMessage::Unfollowed(local));
            }
            HubMessage::Resume { shard, slot, generation, number, channels, after } => {
                let replay = self.replay(shard, &channels, after, now_ms);
                self.stage(shard, ShardMessage::Replay(Box::new(Replay { slot, generation, number, ..replay })));
            }
            HubMessage::Kicked { request, count } => {
                if let Some(kick) = self.kicks.get_mut(&request) {
                    kick.missing -= 1;
                    kick.count += count;
                    self.answered.notify();
                }
            }
            HubMessage::Said { from, data } => self.said(&from, &data),
            HubMessage::Ask { who, question } => self.listeners.ask(&who, &question),
            HubMessage::Came { who, address, transport } => self.listeners.came(&who, &address, transport),
            HubMessage::Gone { who, reason } => self.listeners.gone(&who, reason),
            HubMessage::Publish { from, channel, draft, reference } => {
                self.client_publishes(&from, channel, draft, reference, now_ms);
            }
            HubMessage::Join { shard, local, user } => self.join(shard, local, user, now_ms),
            HubMessage::Leave { shard, local, user } => self.leave(shard, local, user, now_ms),
            HubMessage::Drained { cut, .. } => {
                self.drained += 1;
                self.cut += cut;
            }
            HubMessage::Seen { request, seen } => self.seen(request, seen),
            HubMessage::Figures(draft) => {
                if let Err(error) = self.publish_to(FIGURES_CHANNEL.into(), draft, now_ms) {
                    tracing::debug!(error = error.message, "the figures could not be published");
                }
            }
            HubMessage::Pause(on) => self.stage_all(|| ShardMessage::Pause(on)),
            HubMessage::Keys(keyring) => self.stage_all(|| ShardMessage::Keys(keyring.clone())),
            HubMessage::Drain => self.stage_all(|| ShardMessage::Drain),
            HubMessage::Stop => self.is_stopped = true,
        }
    }

    pub(super) fn stage(&mut self, shard: u16, message: ShardMessage) {
        if let Some(shard) = self.shards.get_mut(usize::from(shard)) {
            shard.stage(message);
        }
    }

    pub(super) fn stage_all(&mut self, message: impl Fn() -> ShardMessage) {
        for shard in &mut self.shards {
            shard.stage(message());
        }
    }

    fn follow(&mut self, shard: u16, local: LocalChannel, name: &ChannelName) {
        let index = self.channels.find_or_add(name);
        self.channels.follow(index, shard, local);
        self.stage(shard, ShardMessage::Followed(local, self.ids.last()));
        if self.channels.get(index).ended {
            self.stage(shard, ShardMessage::Ended(local));
        }
    }

    /// A page of what was published on some channels after an id, in the order of ids.
    fn replay(&mut self, shard: u16, locals: &[LocalChannel], after: Option<Id>, now_ms: u64) -> Replay {
        let last_id = self.ids.last();
        let mut replay = Replay { after, until: last_id, last: true, ..Replay::default() };
        let Some(after) = after else { return replay };
        if after > last_id {
            // An id that this server never gave: of another one, or from before its state was lost.
            replay.gap = Some(last_id);
            return replay;
        }
        let indexes: Vec<u32> = locals.iter().filter_map(|local| self.channels.by_local(shard, *local)).collect();
        for index in &indexes {
            self.channels.trim(*index, now_ms);
            let since = self.channels.complete_since(*index);
            if since > after {
                replay.gap = replay.gap.max(Some(since));
            }
        }
        let histories = indexes.iter().filter_map(|index| self.channels.history(*index));
        let mut sources: Vec<_> = histories.map(|history| history.after(after).peekable()).collect();
        let mut weight = 0;
        loop {
            let next = sources.iter_mut().filter_map(|source| source.peek().map(|event| event.id)).min();
            let Some(id) = next else { break };
            if weight >= PAGE_BYTES_MAX {
                replay.last = false;
                break;
            }
            // Ids are unique, so exactly one source stands at it.
            let Some(event) = sources.iter_mut().find_map(|source| source.next_if(|event| event.id == id)) else {
                break;
            };
            weight += event.weight() + 64;
            replay.events.push(event.clone());
        }
        if !replay.last {
            replay.until = replay.events.last().map_or(after, |event| event.id);
        }
        replay
    }

    /// Carries out a publisher's command and writes its answer.
    pub(super) fn execute(&mut self, request: Request, now_ms: u64, out: &mut Vec<u8>) -> Result<Outcome, FeedError> {
        let reference = request.reference.as_deref();
        match request.command {
            Command::Publish(publish) => {
                let is_list = publish.is_list;
                let ids = self.publish(std::slice::from_ref(&publish), now_ms)?;
                if let Some(reference) = reference {
                    write_ids(out, reference, &ids, is_list);
                }
            }
            Command::Batch(items) => {
                let ids = self.publish(&items, now_ms)?;
                if let Some(reference) = reference {
                    write_ids(out, reference, &ids, true);
                }
            }
            Command::End(channel) => {
                self.end(&channel)?;
                if let Some(reference) = reference {
                    write_ok(out, reference);
                }
            }
            Command::Kick { target, reason } => {
                let counted = match target {
                    KickTarget::Subscription { .. } => "unsubscribed",
                    _ => "kicked",
                };
                let request = self.kick(target, &reason, now_ms)?;
                return Ok(Outcome::Kick { request, counted });
            }
            Command::Send { target, draft } => {
                self.send_to(target, draft)?;
                if let Some(reference) = reference {
                    write_ok(out, reference);
                }
            }
            Command::Listen(what) => return Ok(Outcome::Listen(what)),
            Command::Trace(channel) => return Ok(Outcome::Trace(channel)),
            Command::Channels(filter) => return Ok(Outcome::Look(self.look_at_channels(&filter, now_ms))),
            Command::Connections(filter) => return Ok(Outcome::Look(self.look_for_connections(filter))),
            Command::Connection(name) => return self.look_at_connection(&name).map(Outcome::Look),
            Command::Authorized { connection, number, answer } => {
                let id = self.connection_of_a_shard(&connection)?;
                self.stage(id.shard, ShardMessage::Answered { connection: id, number, answer });
                if let Some(reference) = reference {
                    write_ok(out, reference);
                }
            }
            Command::Presence(channel) => self.write_presence(&channel, reference.unwrap_or("null"), out),
            Command::Stats => {
                self.publish_figures();
                write_ok_with(out, reference.unwrap_or("null"), |out| {
                    out.extend_from_slice(b",\"stats\":");
                    self.stats.write_json(out);
                });
            }
            Command::History { channel, after, limit } => {
                self.write_history(&channel, after, limit, now_ms, reference.unwrap_or("null"), out);
            }
        }
        Ok(Outcome::Done)
    }

    /// Publishes all of `items` or, if that cannot be, none.
    pub(super) fn publish(&mut self, items: &[Publish], now_ms: u64) -> Result<Vec<Id>, FeedError> {
        let names = items.iter().flat_map(|item| &item.channels);
        if self.channels.used() + names.clone().count() > self.channels_max {
            let new = names.filter(|name| self.channels.find(name).is_none()).count();
            if self.channels.used() + new > self.channels_max {
                let message = format!("there are {} channels, and no more are allowed", self.channels_max);
                return Err(FeedError::new("channels", message));
            }
        }
        self.check_keys(items, now_ms)?;
        if !self.ids.is_reserved(now_ms) {
            self.ids.reserve(now_ms).map_err(|error| FeedError::new("state", error.to_string()))?;
        }
        let mut ids = Vec::with_capacity(items.len());
        for item in items {
            if let Some(known) = item.key.as_deref().and_then(|key| self.keys.get(key, now_ms)) {
                ids.extend_from_slice(known);
                continue;
            }
            let first = ids.len();
            for name in &item.channels {
                ids.push(self.publish_one(name, item, now_ms));
            }
            if let Some(key) = &item.key {
                self.keys.insert(key, &ids[first..], now_ms);
            }
        }
        Ok(ids)
    }

    /// A key stands for one publish: what comes with it again must be to as many channels, or its answer would be another's.
    fn check_keys(&mut self, items: &[Publish], now_ms: u64) -> Result<(), FeedError> {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for item in items {
            let Some(key) = item.key.as_deref() else { continue };
            let channels = item.channels.len();
            let known = self.keys.get(key, now_ms).map_or_else(|| *seen.entry(key).or_insert(channels), <[Id]>::len);
            if known != channels {
                let message = format!(
                    "the field key: {key:?} was used before for a publish to {known} channels, and this one is to {channels}"
                );
                return Err(FeedError::new("bad_field", message));
            }
        }
        Ok(())
    }

    /// Publishes one event to one channel, for somebody who is no publisher.
    pub(super) fn publish_to(&mut self, channel: ChannelName, draft: Draft, now_ms: u64) -> Result<Id, FeedError> {
        let publish = Publish { channels: vec![channel], is_list: false, draft, key: None };
        Ok(self.publish(&[publish], now_ms)?.first().copied().unwrap_or_default())
    }

    fn publish_one(&mut self, name: &ChannelName, item: &Publish, now_ms: u64) -> Id {
        let id = self.ids.next(now_ms);
        let index = self.channels.find_or_add(name);
        // The channel's own name, so that equal names are not kept many times.
        let channel = self.channels.get(index).name.clone().unwrap_or_else(|| name.clone());
        self.busiest.count(index);
        let event = Arc::new(Event { id, channel, draft: item.draft.clone() });
        self.traces.copy(&event);
        self.channels.remember(index, &event, now_ms);
        for route in self.channels.routes(index) {
            if let Some(shard) = self.shards.get_mut(usize::from(route.shard)) {
                shard.stage(ShardMessage::Event(route.local, event.clone()));
            }
        }
        HubFigures::add(&self.figures.events_published, 1);
        id
    }

    fn end(&mut self, name: &str) -> Result<(), FeedError> {
        let Some(index) = self.channels.find(name) else {
            return Err(FeedError::new(
                "no_channel",
                format!("there is no channel {name:?} with subscribers or history"),
            ));
        };
        self.channels.get_mut(index).ended = true;
        for route in self.channels.routes(index) {
            if let Some(shard) = self.shards.get_mut(usize::from(route.shard)) {
                shard.stage(ShardMessage::Ended(route.local));
            }
        }
        Ok(())
    }

    /// Reads a connection's name, which must be one that a shard could have given.
    pub(super) fn connection_of_a_shard(&self, name: &str) -> Result<ConnectionId, FeedError> {
        let id = connection_id(name)?;
        if usize::from(id.shard) < self.shards.len() { Ok(id) } else { Err(no_connection(name)) }
    }

    fn kick(&mut self, target: KickTarget, reason: &str, now_ms: u64) -> Result<u64, FeedError> {
        let mut kept = Ok(());
        let target = match target {
            KickTarget::Channel(name) => Target::Channel(name),
            KickTarget::Connection(name) => Target::Connection(connection_id(&name)?),
            KickTarget::User(user) => Target::User(user),
            KickTarget::Token { id, until_s } => {
                // A token counts for the leeway after its expiry: so long it must be refused, too. After a restart that
                // may be another one.
                let until_s = match until_s {
                    Some(expires_s) => expires_s.saturating_add(LEEWAY_MAX_S),
                    None => now_ms / 1000 + REVOKED_FOR_S,
                };
                kept = self.revocations.add(&id, until_s, now_ms / 1000);
                Target::Token { id, until_s }
            }
            KickTarget::Subscription { user, channel } => Target::Subscription { user, channel },
        };
        let request = self.next_request;
        self.next_request += 1;
        let reason: Arc<str> = reason.into();
        self.stage_all(|| ShardMessage::Kick { request, target: target.clone(), reason: reason.clone() });
        kept.map_err(|error| FeedError::new("not_kept", format!("revoked only until the server ends: {error}")))?;
        self.kicks.insert(request, PendingKick { missing: self.shards.len(), count: 0 });
        Ok(request)
    }

    fn write_history(
        &mut self,
        name: &str,
        after: Option<Id>,
        limit: usize,
        now_ms: u64,
        reference: &str,
        out: &mut Vec<u8>,
    ) {
        let index = self.channels.find(name);
        if let Some(index) = index {
            self.channels.trim(index, now_ms);
        }
        write_ok_with(out, reference, |out| {
            out.extend_from_slice(b",\"events\":[");
            let start = out.len();
            let history = index.and_then(|index| self.channels.history(index));
            for event in history.into_iter().flat_map(|history| history.after(after.unwrap_or(Id::ZERO))).take(limit) {
                write_event_json(event, out);
                out.push(b',');
            }
            if out.len() > start {
                out.pop();
            }
            out.extend_from_slice(b"],\"complete_since\":\"");
            index.map_or(self.ids.last(), |index| self.channels.complete_since(index)).write(out);
            out.push(b'"');
        });
    }

    /// Makes the present figures readable for others.
    pub(super) fn publish_figures(&self) {
        HubFigures::set(&self.figures.channels, self.channels.used() as u64);
        HubFigures::set(&self.figures.history_events, self.channels.history_events);
        HubFigures::set(&self.figures.history_bytes, self.channels.history_bytes);
        let waiting = self.shards.iter().map(ToShard::waiting_bytes).sum::<usize>();
        HubFigures::set(&self.figures.queued_bytes, waiting as u64);
    }
}

fn no_connection(name: &str) -> FeedError {
    FeedError::new("no_connection", format!("{name:?} is no connection's name; they look like 0.17.3"))
}

/// Reads a connection's name.
fn connection_id(name: &str) -> Result<ConnectionId, FeedError> {
    name.parse().map_err(|()| no_connection(name))
}

#[cfg(test)]
mod tests;
