//! What the nodes of a cluster decide together beside events: presence, kicks, revocations, messages to users, and which
//! nodes are alive.

use std::sync::Arc;

use arcstr::ArcStr;
use serde_json::value::RawValue;
use tracing::{info, warn};

use crate::figures::{HubFigures, ServerFigures};
use crate::link::{ConnectionId, ShardMessage, Target};
use crate::logic::entry::{Content, Control, KickOf, Message};
use crate::logic::event::{ChannelName, Draft};
use crate::logic::id::Id;
use crate::logic::protocol::feed::{
    Command, FeedError, KickTarget, PresenceAnswer, PresentUser, SendTarget, write_members,
};

use super::super::Order;
use super::super::answers::Later;
use super::super::census::Source;
use super::super::cluster::Change;
use super::super::order::Whom;
use super::super::questions::Gathered;
use super::Core;
use super::budget::Now;
use super::commands::{ended_form, revoked_until};
use super::hear::presence_draft;

/// Whether a kick or a message is for other nodes too, and so becomes an entry of the log.
pub(super) fn is_for_nodes(command: &Command) -> bool {
    match command {
        Command::Kick { target: KickTarget::Connection(name), .. } => ConnectionId::is_elsewhere(name),
        Command::Send { target: SendTarget::Connection(name), .. } => ConnectionId::is_elsewhere(name),
        Command::Kick { .. } | Command::Send { .. } => true,
        _ => false,
    }
}

impl Core {
    fn submit_control(&mut self, control: Control, whom: Whom, is_lasting: bool) {
        if let Order::Log(log) = &mut self.order {
            log.submit(vec![Content::Control(control)], whom, is_lasting);
        }
    }

    fn mark(&self) -> Option<ArcStr> {
        match &self.order {
            Order::Local(_) => None,
            Order::Log(log) => Some(log.parts.mark.clone()),
        }
    }

    /// Puts a kick to all nodes. The answer comes when they have counted, or after some time.
    pub(super) fn kick_everywhere(
        &mut self,
        from: Option<usize>,
        target: KickTarget,
        reason: Box<str>,
        reference: Option<&RawValue>,
        now: Now,
    ) -> Option<Later> {
        let form = ended_form(&target);
        let of = match target {
            KickTarget::Channel(name) => KickOf::Channel(name),
            KickTarget::Connection(name) => KickOf::Connection((*name).into()),
            KickTarget::User(user) => KickOf::User(user),
            KickTarget::Token { id, until_s } => KickOf::Token(id, revoked_until(until_s, now)),
            KickTarget::Subscription { user, channel } => KickOf::Subscription(user, channel),
        };
        let request = self.questions.number();
        self.submit_control(Control::Kick { request, of, reason }, Whom::Question(request), false);
        let others = self.cluster.nodes().len().saturating_sub(1);
        reference.map(|reference| {
            let shards = self.shards.len() + others;
            self.later_of(from, request, Gathered::Ended(form, 0), reference, shards)
        })
    }

    /// The entry of a message to a user, or to a connection of another node.
    pub(super) fn send_everywhere(target: SendTarget, draft: &Draft) -> Content {
        let (user, conn) = match target {
            SendTarget::User(user) => (Some(user), None),
            SendTarget::Connection(name) => (None, Some((*name).into())),
        };
        Content::Control(Control::Send { user, conn, message: Message::of(draft) })
    }

    /// Submits that a user has come to this node or left it. Returns whether there is a log for it.
    pub(super) fn submit_presence(&mut self, index: u32, user: Option<&ArcStr>, is_join: bool) -> bool {
        let channel = self.channels.get(index).name.clone();
        if self.is_local() {
            return false;
        }
        if let (Some(channel), Some(user)) = (channel, user) {
            let entry = self.cluster.set_local(&channel, user, is_join);
            self.write_presence(entry);
        }
        true
    }

    fn write_presence(&mut self, entry: Option<Control>) {
        let Some(entry) = entry else { return };
        let (Control::Join { channel, user } | Control::Leave { channel, user, .. }) = &entry else { return };
        let whom = Whom::Presence(channel.clone(), user.clone());
        self.submit_control(entry, whom, true);
    }

    /// Acts on an entry that is no event. `node` is its writer, and `is_own` says whether that is this node.
    pub(super) fn apply_control(&mut self, id: Id, node: Option<ArcStr>, control: Control, now: Now) {
        let is_own = node.is_some() && node == self.mark();
        let is_live = matches!(&self.order, Order::Log(log) if log.is_caught_up);
        match control {
            Control::End { channel } => {
                if let Some(index) = self.channels.find(&channel).filter(|index| !self.channels.get(*index).ended) {
                    self.apply_end(index, id);
                }
            }
            Control::Fence { after } => {
                warn!(%after, resumed = %id, "the broker has lost events: clients are told of a gap");
                self.lose(after, id);
            }
            Control::Join { channel, user } => {
                if let Some(node) = node {
                    self.apply_presence(id, (&channel, &user), (&node, true), is_own, now);
                }
            }
            Control::Leave { channel, user, of } => {
                let is_own = is_own && of.is_none();
                if let Some(node) = of.or(node) {
                    self.apply_presence(id, (&channel, &user), (&node, false), is_own, now);
                }
            }
            Control::Kick { request, of, reason } => self.apply_kick(node, is_own, request, of, &reason, is_live),
            Control::Send { user, conn, message } if is_live => self.apply_send(user, conn, &message),
            control => self.apply_node_control(node, is_own, control),
        }
    }

    /// Acts on what a node says of itself or of another one.
    fn apply_node_control(&mut self, node: Option<ArcStr>, is_own: bool, control: Control) {
        let Some(mark) = self.mark() else { return };
        let Order::Log(log) = &mut self.order else { return };
        let Some(node) = node else { return };
        match control {
            Control::Beat { position, version, name } => self.cluster.beat(&node, name, version, position),
            Control::Hello {} if !is_own && log.is_caught_up => {
                let revoked = self.revocations.known().iter().map(|(id, until_s)| (id.clone(), until_s)).collect();
                for part in self.cluster.state(revoked) {
                    self.submit_control(part, Whom::Hub, true);
                }
            }
            Control::State { present, revoked, last } if !is_own => {
                self.cluster.take_state(&node, present, last);
                revoked.into_iter().for_each(|(token, until_s)| self.revoke(token, until_s));
            }
            Control::Gone { node: gone } => {
                info!(node = gone.as_str(), "a node of the cluster is gone");
                self.cluster.forget(&gone);
                if gone == mark {
                    // The others have taken this node for gone, and hear of it again with its next entry.
                    warn!("the other nodes have taken this one for gone: it was silent for too long");
                }
            }
            Control::Kicked { node: asker, request, count } if asker == mark => {
                let asker = self.questions.ended(request, count);
                self.send_answers_of(asker);
            }
            _ => {}
        }
    }

    fn apply_presence(
        &mut self,
        id: Id,
        (channel, user): (&ChannelName, &ArcStr),
        node: (&ArcStr, bool),
        is_own: bool,
        now: Now,
    ) {
        let (change, entry) = self.cluster.apply(channel, user, node, is_own);
        let name = match change {
            Change::Came => "ringcast.join",
            Change::Left => "ringcast.leave",
            Change::None => return self.write_presence(entry),
        };
        // An event would take the end of a channel back, which only publishers may.
        let is_ended = self.channels.find(channel).is_some_and(|index| self.channels.get(index).ended);
        if !is_ended && self.channels.has_room_for_client(channel) {
            self.apply(id, channel, &presence_draft(name, user), Source::Client, now);
        }
        self.write_presence(entry);
    }

    fn apply_kick(
        &mut self,
        node: Option<ArcStr>,
        is_own: bool,
        request: u64,
        of: KickOf,
        reason: &str,
        is_live: bool,
    ) {
        let target = match of {
            KickOf::Channel(name) => Target::Channel(name),
            KickOf::User(user) => Target::User(user),
            KickOf::Subscription(user, channel) => Target::Subscription { user, channel },
            KickOf::Token(id, until_s) => {
                self.note_revoked(&id, until_s);
                Target::Token { id, until_s }
            }
            KickOf::Connection(name) => match name.parse() {
                Ok(connection) => Target::Connection(connection),
                Err(()) => return self.reply_to_kick(node, request),
            },
        };
        // What was kicked before this node's start is gone, but revoked tokens stay refused.
        if !is_live && !matches!(target, Target::Token { .. }) {
            return;
        }
        let question = if is_own { request } else { self.questions.number() };
        if let (false, Some(node)) = (is_own, node) {
            self.cluster.begin_answer(question, node, request, self.shards.len());
        }
        let reason: Arc<str> = reason.into();
        let kick = || ShardMessage::Kick { request: question, target: target.clone(), reason: reason.clone() };
        self.shards.stage_all(kick);
    }

    /// Answers another node's kick of a connection that this node does not have.
    fn reply_to_kick(&mut self, node: Option<ArcStr>, request: u64) {
        if let Some(node) = node.filter(|node| Some(node) != self.mark().as_ref()) {
            self.submit_control(Control::Kicked { node, request, count: 0 }, Whom::Hub, false);
        }
    }

    /// Refuses a token that another node knows as revoked.
    fn revoke(&mut self, id: ArcStr, until_s: u64) {
        self.note_revoked(&id, until_s);
        // Nobody waits for the answer to this kick.
        let request = self.questions.number();
        let (target, reason) = (Target::Token { id, until_s }, Arc::<str>::from("revoked"));
        self.shards.stage_all(|| ShardMessage::Kick { request, target: target.clone(), reason: reason.clone() });
    }

    fn note_revoked(&mut self, token: &ArcStr, until_s: u64) {
        if let Err(error) = self.revocations.add(token, until_s)
            && self.may_log()
        {
            warn!(%error, "a revocation of the cluster could not be written down");
        }
    }

    fn apply_send(&mut self, user: Option<ArcStr>, conn: Option<ArcStr>, message: &Message) {
        let Some(draft) = message.draft() else { return };
        if let Some(user) = user {
            self.shards.stage_all(|| ShardMessage::SendUser(user.clone(), draft.clone()));
        } else if let Some(connection) = conn.and_then(|name| name.parse::<ConnectionId>().ok()) {
            self.shards.stage(connection.shard, ShardMessage::Send(connection, draft));
        }
    }

    /// Takes a shard's answer to another node's kick; returns whether it is one.
    pub(super) fn answer_node(&mut self, question: u64, count: u64) -> bool {
        let Some(reply) = self.cluster.answered(question, count) else { return false };
        if let Some(reply) = reply {
            self.submit_control(reply, Whom::Hub, false);
        }
        true
    }

    /// Tells the asker of a kick that it could not be put to the other nodes.
    pub(super) fn fail_question(&mut self, question: u64, error: FeedError) {
        let asker = self.questions.fail(question, error);
        self.send_answers_of(asker);
    }

    /// Appends the answer to `presence` for all nodes. A connection on another node counts once per user.
    pub(super) fn write_cluster_presence(
        &self,
        channel: &str,
        users_max: usize,
        reference: &RawValue,
        out: &mut Vec<u8>,
    ) {
        let index = self.channels.find(channel);
        let own = self.presence.answer(index, 0);
        let all: Vec<(&ArcStr, usize)> = self.cluster.users(channel).collect();
        let elsewhere: usize = all.iter().map(|(_, others)| others).sum();
        let answer = PresenceAnswer {
            connections: own.connections + elsewhere as u64,
            count: all.len(),
            users: all
                .iter()
                .take(users_max)
                .map(|(user, others)| PresentUser {
                    user,
                    connections: self.presence.connections_of(index, user) + *others as u32,
                })
                .collect(),
        };
        write_members(out, reference, &answer);
    }

    /// What a node does once a second: it says that it is alive, says which node is gone, and writes again what was refused.
    pub(super) fn look_after_cluster(&mut self) {
        let (now, applied) = (self.now.instant, self.applied);
        let Order::Log(log) = &mut self.order else { return };
        ServerFigures::set(&self.stats.server.backplane_nodes, self.cluster.nodes().len() as u64);
        ServerFigures::set(&self.stats.server.backplane_lag_entries, log.incoming.len() as u64);
        ServerFigures::set(&self.stats.server.backplane_lag_ms, log.lag_ms());
        self.stats.nodes.set(self.cluster.nodes().map(|node| node.seen(log.newest_ms)).collect());
        ServerFigures::set(&self.stats.server.backplane_pending_bytes, log.tickets.pending_bytes() as u64);
        if !log.is_caught_up {
            return;
        }
        let mut entries = self.cluster.bury(log.newest_ms);
        let unwritten = self.cluster.take_unwritten();
        if self.cluster.is_beat_due(now) {
            let name = log.parts.node.as_str().into();
            entries.push(Control::Beat { position: applied, version: env!("CARGO_PKG_VERSION").into(), name });
        }
        entries.into_iter().for_each(|entry| self.submit_control(entry, Whom::Hub, false));
        unwritten.into_iter().for_each(|entry| self.write_presence(Some(entry)));
    }

    /// Says that this node ends, because its clients have gone.
    pub(super) fn leave_cluster(&mut self) {
        if self.is_local() {
            return;
        }
        for entry in self.cluster.end() {
            self.submit_control(entry, Whom::Hub, false);
        }
    }

    /// Asks the other nodes for their state, once this one has read the log. Returns whether it has joined.
    pub(super) fn join_cluster(&mut self) -> bool {
        let now = self.now.instant;
        let Order::Log(log) = &mut self.order else { return true };
        if self.cluster.ask_for_state(log.newest_ms.max(log.began_ms), now) {
            self.submit_control(Control::Hello {}, Whom::Hub, false);
        }
        self.cluster.has_joined(now)
    }

    /// Counts an entry for its writer, who is alive.
    pub(super) fn hear_node(&mut self, node: &ArcStr, at_ms: u64) {
        self.cluster.hear(node, at_ms);
        HubFigures::add(&self.figures.entries_read, 1);
    }
}
