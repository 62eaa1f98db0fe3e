//! Carrying out publishers' commands.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::link::{ConnectionId, Look, ShardMessage, Target};
use crate::logic::auth::LEEWAY_MAX_S;
use crate::logic::event::Draft;
use crate::logic::id::Id;
use crate::logic::protocol::feed::{
    ChannelFilter, ChannelsAnswer, Command, Ended, FeedError, KickTarget, SendTarget, write_ids, write_members,
    write_ok, write_ready_made,
};

use super::super::answers::{Awaited, Form, Later};
use super::super::census::Source;
use super::super::looks::View;
use super::super::questions::Gathered;
use super::Core;
use super::budget::Now;
use super::log::is_logged;

/// The time for which a revoked token is refused where its expiry is not named: 30 days, in seconds.
const REVOKED_FOR_S: u64 = 30 * 86400;
/// Users that one answer to `presence` names, at most.
const USERS_MAX: usize = 10_000;
/// Bytes of one answer to `history` beyond which the rest is left for the next question, and the same while too many
/// answers wait to be read.
const HISTORY_BYTES_MAX: usize = 4 << 20;
const HISTORY_BYTES_FEW: usize = 64 << 10;

/// The outcome of a command: its answer is written, or comes later, or is an error.
type Outcome = Result<Option<Later>, FeedError>;

impl Core {
    /// Carries out a command of the publisher `from`, and appends its answer to `out`. A command without a `reference` is
    /// answered only if it asks for something.
    ///
    /// # Errors
    /// The error that the publisher is to be answered with.
    pub(in crate::hub) fn execute(
        &mut self,
        from: Option<usize>,
        command: Command,
        reference: Option<&RawValue>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if !self.is_local() && is_logged(&command) {
            return self.submit_command(from, command, reference, now, out);
        }
        match command {
            Command::Publish(publish) => {
                let ids = self.publish(std::slice::from_ref(&publish), Source::Publisher, now)?;
                if let Some(reference) = reference {
                    write_ids(out, reference, &ids, publish.is_list);
                }
                return Ok(None);
            }
            Command::Batch(items) => {
                let ids = self.publish(&items, Source::Publisher, now)?;
                if let Some(reference) = reference {
                    write_ids(out, reference, &ids, true);
                }
                return Ok(None);
            }
            Command::Kick { target, reason } => return self.kick(from, target, &reason, reference, now),
            Command::End(channel) => self.end(&channel, now)?,
            Command::Send { target, draft } => self.send_to(target, draft)?,
            Command::Authorized { connection, number, answer } => {
                self.note_authorized(from);
                let id = self.connection_of_a_shard(&connection)?;
                self.shards.stage(id.shard, ShardMessage::Answered { connection: id, number, answer });
            }
            Command::Listen(what) => {
                let listener = from.filter(|from| self.publishers.begin_telling(*from));
                if listener.is_some_and(|listener| self.listeners.set(listener, what)) {
                    self.announce_listening();
                }
            }
            Command::Trace(channel) => {
                if let Some(from) = from.filter(|from| self.publishers.begin_telling(*from)) {
                    self.traces.add(channel, from)?;
                }
            }
            Command::Untrace(channel) => {
                if let Some(from) = from {
                    self.traces.end(&channel, from);
                }
            }
            question => return self.answer(from, question, reference.unwrap_or(RawValue::NULL), now, out),
        }
        if let Some(reference) = reference {
            write_ok(out, reference);
        }
        Ok(None)
    }

    /// Answers a command that asks for something.
    fn answer(
        &mut self,
        from: Option<usize>,
        question: Command,
        reference: &RawValue,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let (look, view) = match question {
            Command::Channels(filter) => self.channels_to_show(&filter, now),
            Command::Connections(filter) => {
                let view = View::of_connections(filter.limit, filter.slowest_first);
                (Look::Connections(filter), view)
            }
            Command::Connection(name) => {
                (Look::Connection(self.connection_of_a_shard(&name)?), View::of_connection(&name))
            }
            Command::Presence(channel) if !self.is_local() => {
                self.write_cluster_presence(&channel, USERS_MAX, reference, out);
                return Ok(None);
            }
            Command::Presence(channel) => {
                let index = self.channels.find(&channel);
                let answer = self.presence.answer(index, USERS_MAX);
                write_members(out, reference, &answer);
                return Ok(None);
            }
            Command::Stats => {
                self.publish_figures();
                write_ready_made(out, reference, |out| {
                    out.extend_from_slice(b",\"stats\":");
                    self.stats.write_json(out);
                });
                return Ok(None);
            }
            Command::History { channel, after, limit } => {
                self.write_history(&channel, after, limit, now, reference, out);
                return Ok(None);
            }
            // The other commands have no answer of their own.
            _ => return Ok(None),
        };
        Ok(Some(self.look(from, look, view, reference)))
    }

    /// Asks all shards for a view; the answer comes later.
    fn look(&mut self, from: Option<usize>, look: Look, view: View, reference: &RawValue) -> Later {
        let request = self.questions.number();
        let look = Arc::new(look);
        self.shards.stage_all(|| ShardMessage::Look { request, look: look.clone() });
        self.later(from, request, Gathered::Seen(view), reference)
    }

    /// Begins to wait for all shards' answers to a question.
    fn later(&mut self, from: Option<usize>, question: u64, gathered: Gathered, reference: &RawValue) -> Later {
        self.later_of(from, question, gathered, reference, self.shards.len())
    }

    /// Begins to wait for so many answers to a question.
    pub(super) fn later_of(
        &mut self,
        from: Option<usize>,
        question: u64,
        gathered: Gathered,
        reference: &RawValue,
        answers: usize,
    ) -> Later {
        if let Some(from) = from {
            self.questions.wait(question, from, answers, gathered, self.now.instant);
        }
        Later { awaited: Awaited::Question(question), reference: Some(reference.to_owned()), form: Form::Done }
    }

    /// The view of channels that a filter names, and the question to the shards for the channels' subscribers.
    fn channels_to_show(&self, filter: &ChannelFilter, now: Now) -> (Look, View) {
        let busiest = self.busiest.list(now.steady_ms);
        let (indexes, cursor) = match filter {
            ChannelFilter::Busiest { limit } => {
                let known = busiest.iter().map(|(index, _)| *index);
                let named = known.filter(|index| self.channels.known_name(*index).is_some());
                (named.take(*limit).collect(), None)
            }
            ChannelFilter::Named { prefix, cursor, limit } => self.channels.page(prefix, *cursor, *limit),
        };
        let rates: std::collections::HashMap<u32, f64> = busiest.into_iter().collect();
        let rows = indexes.iter().filter_map(|index| {
            let rate = rates.get(index).copied().unwrap_or(0.0);
            self.channels.row(*index, (rate * 100.0).round() / 100.0)
        });
        let channels: Vec<_> = rows.collect();
        let names = channels.iter().map(|row| row.channel.clone()).collect();
        (Look::Subscribers(names), View::of_channels(ChannelsAnswer { channels, cursor }))
    }

    /// Has all shards end connections or subscriptions. The answer comes later, if the command has a reference.
    fn kick(
        &mut self,
        from: Option<usize>,
        target: KickTarget,
        reason: &str,
        reference: Option<&RawValue>,
        now: Now,
    ) -> Outcome {
        let mut kept = Ok(());
        let ended = ended_form(&target);
        let target = match target {
            KickTarget::Channel(name) => Target::Channel(name),
            KickTarget::Connection(name) => Target::Connection(connection_id(&name)?),
            KickTarget::User(user) => Target::User(user),
            KickTarget::Token { id, until_s } => {
                let until_s = revoked_until(until_s, now);
                kept = self.revocations.add(&id, until_s);
                Target::Token { id, until_s }
            }
            KickTarget::Subscription { user, channel } => Target::Subscription { user, channel },
        };
        let request = self.questions.number();
        let reason: Arc<str> = reason.into();
        self.shards.stage_all(|| ShardMessage::Kick { request, target: target.clone(), reason: reason.clone() });
        kept.map_err(|error| FeedError::new("not_kept", format!("revoked only until the server ends: {error}")))?;
        Ok(reference.map(|reference| self.later(from, request, Gathered::Ended(ended, 0), reference)))
    }

    /// Sends a message to one connection, or to all connections of a user.
    fn send_to(&mut self, target: SendTarget, draft: Draft) -> Result<(), FeedError> {
        match target {
            SendTarget::Connection(name) => {
                let id = self.connection_of_a_shard(&name)?;
                self.shards.stage(id.shard, ShardMessage::Send(id, draft));
            }
            SendTarget::User(user) => {
                self.shards.stage_all(|| ShardMessage::SendUser(user.clone(), draft.clone()));
            }
        }
        Ok(())
    }

    fn write_history(
        &mut self,
        name: &str,
        after: Option<Id>,
        limit: usize,
        now: Now,
        reference: &RawValue,
        out: &mut Vec<u8>,
    ) {
        let index = self.channels.find(name);
        let bytes_max = if self.publishers.are_full() { HISTORY_BYTES_FEW } else { HISTORY_BYTES_MAX };
        if let Some(index) = index {
            self.channels.trim(index, now.steady_ms);
        }
        write_ready_made(out, reference, |out| {
            out.extend_from_slice(b",\"events\":[");
            let start = out.len();
            let history = index.and_then(|index| self.channels.history(index));
            let mut has_more = false;
            for event in history.into_iter().flat_map(|history| history.after(after.unwrap_or(Id::ZERO))).take(limit) {
                has_more = out.len() - start >= bytes_max;
                if has_more {
                    break;
                }
                event.write_json(out);
                out.push(b',');
            }
            if out.len() > start {
                out.pop();
            }
            out.extend_from_slice(b"],\"complete_since\":\"");
            index.map_or(self.applied, |index| self.channels.complete_since(index)).write(out);
            out.push(b'"');
            if has_more {
                out.extend_from_slice(b",\"more\":true");
            }
        });
    }

    /// Reads a connection's name, which must name an existing shard.
    fn connection_of_a_shard(&self, name: &str) -> Result<ConnectionId, FeedError> {
        let id = connection_id(name)?;
        if usize::from(id.shard) < self.shards.len() { Ok(id) } else { Err(no_connection(name)) }
    }
}

/// The form of the answer to a kick.
pub(super) fn ended_form(target: &KickTarget) -> fn(u64) -> Ended {
    match target {
        KickTarget::Subscription { .. } => Ended::Unsubscribed,
        _ => Ended::Kicked,
    }
}

/// The time until which a token is refused, in seconds since 1970. A token is valid for the leeway after its expiry, and a
/// restart may bring a longer leeway, so the revocation covers the longest one.
pub(super) fn revoked_until(expires_s: Option<u64>, now: Now) -> u64 {
    match expires_s {
        Some(expires_s) => expires_s.saturating_add(LEEWAY_MAX_S),
        None => now.unix_ms / 1000 + REVOKED_FOR_S,
    }
}

fn no_connection(name: &str) -> FeedError {
    FeedError::new("no_connection", format!("{name:?} is no connection's name; they look like 0.17.3"))
}

/// Reads a connection's name.
fn connection_id(name: &str) -> Result<ConnectionId, FeedError> {
    name.parse().map_err(|()| no_connection(name))
}
