//! Submitting entries to a cluster's log, and acting on them when they are read back.

use serde_json::value::RawValue;
use tracing::{debug, warn};

use crate::figures::HubFigures;
use crate::link::ShardMessage;
use crate::link::backplane::{BrokerState, FromBroker};
use crate::logic::entry::{Content, Control, Entry, EntryError, Logged, Part};
use crate::logic::event::{ChannelName, Draft};
use crate::logic::id::Id;
use crate::logic::protocol::feed::{Command, FeedError, Publish, write_error, write_ids, write_ok};

use super::super::Order;
use super::super::answers::{Awaited, Form, Later};
use super::super::census::Source;
use super::super::keys::{fingerprint, other_channels};
use super::super::order::{Group, Incoming, LogOrder, Resume, Settled, Whom};
use super::Core;
use super::budget::Now;
use super::nodes::is_for_nodes;

/// Work of one turn on entries of the log.
const ENTRIES_MAX: usize = 10_000;
/// Bytes of an entry that count for one unit of work.
const ENTRY_BYTES_PER_WORK: usize = 1024;

/// Whether a command becomes an entry of the log, where there is one.
pub(super) fn is_logged(command: &Command) -> bool {
    matches!(command, Command::Publish(_) | Command::Batch(_) | Command::End(_)) || is_for_nodes(command)
}

/// Writes the answer to a line whose ticket is settled; returns whether it is.
pub(super) fn write_answer(
    order: &mut Order,
    figures: &HubFigures,
    ticket: u64,
    later: &Later,
    out: &mut Vec<u8>,
) -> bool {
    let Order::Log(log) = order else { return true };
    if !log.tickets.is_settled(ticket) {
        return false;
    }
    let reference = later.reference.as_deref();
    match (log.tickets.take(ticket), reference, later.form) {
        (Some(Err(error)), ..) => {
            HubFigures::add(&figures.feed_errors, 1);
            write_error(out, reference, &error);
        }
        (Some(Ok(ids)), Some(reference), Form::Id) => write_ids(out, reference, &ids, false),
        (Some(Ok(ids)), Some(reference), Form::Ids) => write_ids(out, reference, &ids, true),
        (Some(Ok(_)), Some(reference), Form::Done) => write_ok(out, reference),
        (Some(Ok(_)), None, _) | (None, ..) => {}
    }
    true
}

impl Core {
    /// Whether this process gives ids itself.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.order, Order::Local(_))
    }

    fn log(&mut self) -> Option<&mut LogOrder> {
        match &mut self.order {
            Order::Local(_) => None,
            Order::Log(log) => Some(log),
        }
    }

    /// The time by which the windows of idempotency keys are measured: on every node the same.
    pub(super) fn key_ms(&self, now: Now) -> u64 {
        match &self.order {
            Order::Local(_) => now.steady_ms,
            Order::Log(log) => log.newest_ms,
        }
    }

    /// Holds publishers' lines back while the node catches up with the log, or while too many entries wait to be read
    /// back. Returns whether that is so.
    pub(super) fn hold_back_for_log(&self) -> bool {
        match &self.order {
            Order::Local(_) => false,
            Order::Log(log) => !log.is_caught_up || log.is_full(),
        }
    }

    /// Whether entries wait to be applied.
    pub(super) fn has_entries(&self) -> bool {
        matches!(&self.order, Order::Log(log) if !log.incoming.is_empty())
    }

    /// The time at which a resume has waited long enough.
    pub(super) fn held_until(&self) -> Option<std::time::Instant> {
        match &self.order {
            Order::Local(_) => None,
            Order::Log(log) => log.held.deadline(),
        }
    }

    /// Holds a resume back that comes with a position ahead of this node; returns it if it does not, or cannot wait.
    pub(super) fn hold_if_ahead(&mut self, resume: Resume) -> Option<Resume> {
        let (applied, now) = (self.applied, self.now.instant);
        match &mut self.order {
            Order::Log(log) if resume.after.is_some_and(|after| after > applied) => log.held.hold(resume, now),
            _ => Some(resume),
        }
    }

    /// Submits what a command asks for. The answer comes when the log has it.
    ///
    /// # Errors
    /// If the command cannot be carried out, which the log does not have to decide.
    pub(super) fn submit_command(
        &mut self,
        from: Option<usize>,
        command: Command,
        reference: Option<&RawValue>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<Option<Later>, FeedError> {
        let (contents, form) = match command {
            Command::Publish(publish) => {
                let form = if publish.is_list { Form::Ids } else { Form::Id };
                (self.contents_of(std::slice::from_ref(&publish), now)?, form)
            }
            Command::Batch(items) => (self.contents_of(&items, now)?, Form::Ids),
            Command::End(channel) => (vec![Content::Control(Control::End { channel })], Form::Done),
            Command::Send { target, draft } => (vec![Core::send_everywhere(target, &draft)], Form::Done),
            Command::Kick { target, reason } => return Ok(self.kick_everywhere(from, target, reason, reference, now)),
            _ => return Ok(None),
        };
        if contents.is_empty() {
            if let Some(reference) = reference {
                write_ids(out, reference, &[], true);
            }
            return Ok(None);
        }
        let Some(log) = self.log() else { return Ok(None) };
        let weight: usize = contents.iter().map(Content::weight).sum();
        let max = log.parts.pending_max;
        if weight > max {
            let message = format!("the events of this line take {weight} bytes, and [backplane] pending is {max}");
            return Err(FeedError::new("too_long", message));
        }
        let whom = from.map_or(Whom::Hub, Whom::Publisher);
        let ticket = log.submit(contents, whom, false);
        Ok(Some(Later { awaited: Awaited::Ticket(ticket), reference: reference.map(RawValue::to_owned), form }))
    }

    /// The entries of publishes, of which there is one for each channel.
    fn contents_of(&mut self, items: &[Publish], now: Now) -> Result<Vec<Content>, FeedError> {
        self.check(items, Source::Publisher, now)?;
        let mut contents = Vec::with_capacity(items.len());
        for item in items {
            let count = item.channels.len() as u32;
            for (index, channel) in item.channels.iter().enumerate() {
                let part = Part { index: index as u32, count };
                let (channel, draft, key) = (channel.clone(), item.draft.clone(), item.key.clone());
                contents.push(Content::Event(Logged { channel, draft, key, part, is_client: false }));
            }
        }
        Ok(contents)
    }

    /// Submits a client's event, which `whom` is told the outcome of.
    ///
    /// # Errors
    /// If clients have too many channels, or the broker has been away for too long to take more.
    pub(super) fn submit_for_client(
        &mut self,
        channel: ChannelName,
        draft: Draft,
        whom: Whom,
    ) -> Result<(), FeedError> {
        self.channels.check_room_for_client(&channel)?;
        let Some(log) = self.log() else { return Ok(()) };
        if log.is_full() {
            return Err(FeedError::new("unavailable", "too many events wait for the broker; nothing was published"));
        }
        let logged = Logged { channel, draft, key: None, part: Part::ONLY, is_client: true };
        log.submit(vec![Content::Event(logged)], whom, false);
        Ok(())
    }

    /// Takes a message of the thread that speaks with the broker.
    pub(super) fn hear_broker(&mut self, message: FromBroker) {
        let Some(log) = self.log() else { return };
        match message {
            FromBroker::Entries(entries) => log.incoming.extend(entries.into_iter().map(Incoming::Entry)),
            FromBroker::Refused { number, is_certain, why } => {
                let error = match is_certain {
                    true => FeedError::new("unavailable", format!("{why}; it was not published")),
                    false => {
                        FeedError::new("unsure", format!("{why}; it may still be published: repeat it with a key"))
                    }
                };
                log.tickets.refuse(number, error);
            }
            FromBroker::Confirmed(number) => log.tickets.confirm(number),
            FromBroker::Gap { after, resumed, loss } => {
                warn!(?loss, %after, %resumed, "events are missing from the log: clients are told of a gap");
                log.incoming.push_back(Incoming::Gap { after, resumed });
            }
            FromBroker::State(state) => self.note_broker(state),
        }
    }

    fn note_broker(&mut self, state: BrokerState) {
        let Some(log) = self.log() else { return };
        log.state = state;
        if let BrokerState::CatchingUp { from, now_ms, .. } = state {
            log.began_ms = now_ms;
            self.applied = self.applied.max(from);
            self.channels.lose_until(from);
        }
    }

    /// Reports, once, that everything is applied that was in the log at the start.
    fn note_caught_up(&mut self) {
        let applied = self.applied;
        let Some(log) = self.log() else { return };
        let is_there = match log.state {
            BrokerState::CatchingUp { until, .. } => applied >= until,
            BrokerState::Live => log.incoming.is_empty(),
            BrokerState::Away => false,
        };
        if !is_there || log.is_caught_up || !self.join_cluster() {
            return;
        }
        if let Some(log) = self.log() {
            log.is_caught_up = true;
            let _ = log.parts.caught_up.try_send(());
        }
    }

    /// Applies what was read from the log, while there is room in the shards' queues, and answers those who waited for it.
    pub(in crate::hub) fn read_log(&mut self) {
        if self.is_local() {
            return;
        }
        let mut budget = self.begin_stage(ENTRIES_MAX);
        while !budget.is_spent() && self.has_entries() && !self.hold_back_for_room() {
            let Some(next) = self.log().and_then(LogOrder::next_incoming) else { break };
            let cost = match next {
                Incoming::Entry(entry) => {
                    let cost = 1 + entry.content.weight() / ENTRY_BYTES_PER_WORK;
                    self.apply_entry(entry);
                    cost
                }
                Incoming::Gap { after, resumed } => {
                    self.lose(after, resumed);
                    1
                }
            };
            budget.spend(cost, &self.clock, &mut self.now);
        }
        self.release_held();
        self.note_caught_up();
        self.answer_settled();
    }

    /// Answers resumes that have waited for this node's position, or for too long.
    fn release_held(&mut self) {
        let (applied, now) = (self.applied, self.now);
        while let Some(resume) = self.log().and_then(|log| log.held.next_reached(applied)) {
            self.replay(resume, now);
        }
        while let Some(resume) = self.log().and_then(|log| log.held.next_expired(now.instant)) {
            HubFigures::add(&self.figures.resumes_expired, 1);
            self.replay(resume, now);
        }
    }

    fn apply_entry(&mut self, entry: Entry) {
        let now = self.now;
        let Some(log) = self.log() else { return };
        let Entry { id, at_ms, origin, content } = entry;
        let own = log.own_number(origin.as_ref());
        log.newest_ms = log.newest_ms.max(at_ms);
        // Entries from before the start are as old as the broker's clock says.
        let age_ms = if log.is_caught_up { 0 } else { log.began_ms.saturating_sub(at_ms) };
        let at = Now { steady_ms: now.steady_ms.saturating_sub(age_ms), ..now };
        if id <= self.applied {
            debug!(%id, "an entry was read for the second time");
            return;
        }
        if let Some(origin) = &origin {
            self.hear_node(&origin.node, at_ms);
        }
        match content {
            Content::Event(logged) => self.apply_logged(id, own, logged, at),
            Content::Control(control) => {
                self.apply_control(id, origin.map(|origin| origin.node), control, at);
                if let Some(log) = self.log() {
                    log.read_back(own, id);
                }
            }
            Content::Bad(error) => self.skip(id, &error),
        }
        self.applied = id;
    }

    /// Counts an entry that cannot be read.
    fn skip(&mut self, id: Id, error: &EntryError) {
        HubFigures::add(&self.figures.entries_bad, 1);
        if self.may_log() {
            warn!(%id, %error, "an entry of the log cannot be read and is skipped");
        }
    }

    /// Applies an event of the log, unless its publish repeats an earlier one.
    fn apply_logged(&mut self, id: Id, own: Option<u64>, logged: Logged, now: Now) {
        let Some(key) = &logged.key else {
            self.apply_with_room(id, &logged, now);
            if let Some(log) = self.log() {
                log.read_back(own, id);
            }
            return;
        };
        let mut group = self.group_of(key, logged.part);
        let place = logged.part.index as usize;
        let answer = match &group.known {
            Some((ids, _)) => ids.get(place).copied().unwrap_or_default(),
            None => {
                self.apply_with_room(id, &logged, now);
                id
            }
        };
        group.channels.push(logged.channel);
        group.ids.push(answer);
        if logged.part.index + 1 == logged.part.count {
            return self.end_group(group, own);
        }
        if let Some(log) = self.log() {
            log.group = Some(group);
        }
    }

    /// The publish that an event with a key belongs to.
    fn group_of(&mut self, key: &str, part: Part) -> Group {
        let goes_on = |group: &Group| *group.key == *key && group.channels.len() == part.index as usize;
        let begun = self.log().and_then(|log| log.group.take());
        if let Some(group) = begun.filter(|group| part.index > 0 && goes_on(group)) {
            return group;
        }
        let known = self.keys.known(key, self.key_ms(self.now));
        Group { key: key.into(), known, channels: Vec::new(), ids: Vec::new() }
    }

    /// Answers a publish with a key, whose last event was read, and remembers the key.
    fn end_group(&mut self, group: Group, own: Option<u64>) {
        let Core { order, keys, figures, .. } = self;
        let Order::Log(log) = order else { return };
        let count = group.ids.len() as u64;
        let first = own.map(|number| (number + 1).saturating_sub(count));
        match &group.known {
            Some((_, channels)) => {
                HubFigures::add(&figures.publishes_suppressed, 1);
                if *channels != fingerprint(&group.channels) {
                    let error = other_channels(&group.key);
                    for number in first.into_iter().flat_map(|first| first..first + count) {
                        log.tickets.refuse(number, error.clone());
                    }
                    return;
                }
            }
            None => keys.remember_channels(&group.key, &group.channels, &group.ids, log.newest_ms),
        }
        for (number, id) in first.into_iter().flat_map(|first| first..).zip(group.ids) {
            log.tickets.read_back(number, id);
        }
    }

    /// Applies an event if there is room for its channel. Without room it counts as lost on channels that are not known.
    fn apply_with_room(&mut self, id: Id, logged: &Logged, now: Now) {
        let source = if logged.is_client { Source::Client } else { Source::Publisher };
        let has_room = match source {
            Source::Publisher => {
                self.channels.census.has_room_for_published(1) || self.channels.find(&logged.channel).is_some()
            }
            Source::Client => self.channels.has_room_for_client(&logged.channel),
        };
        if has_room {
            self.apply(id, &logged.channel, &logged.draft, source, now);
        } else {
            HubFigures::add(&self.figures.entries_left_out, 1);
            self.channels.leave_out(id);
        }
    }

    /// Notes that events between two positions may be missing on every channel, and has all clients told of it.
    pub(super) fn lose(&mut self, after: Id, resumed: Id) {
        HubFigures::add(&self.figures.log_gaps, 1);
        self.channels.lose_until(resumed);
        self.applied = self.applied.max(resumed);
        self.shards.stage_all(|| ShardMessage::Lost { after, resumed });
    }

    /// Tells those whose tickets are settled: publishers in this turn's sends, clients through their shards.
    fn answer_settled(&mut self) {
        while let Some(Settled { whom, ticket }) = self.log().and_then(|log| log.tickets.next_settled()) {
            if let Whom::Publisher(number) = whom {
                self.publishers.mark_unsent(number);
                continue;
            }
            let Some(outcome) = self.log().and_then(|log| log.tickets.take(ticket)) else { continue };
            match (whom, outcome) {
                (Whom::Client { connection, reference, bytes }, outcome) => {
                    let result = outcome.map(|ids| ids.first().copied().unwrap_or_default());
                    self.answer_client(connection, reference, bytes, result);
                }
                (Whom::Presence(channel, user), Err(_)) => self.cluster.note_refused(channel, user),
                (Whom::Question(question), Err(error)) => self.fail_question(question, error),
                _ => {}
            }
        }
    }
}
