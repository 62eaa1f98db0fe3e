//! What the hub says: events, answers to resumes, and orders.

use std::sync::Arc;

use crate::link::{ConnectionId, FromHub, HubMessage, LocalChannel, Replay, ShardMessage, Target};
use crate::logic::cells::NONE;
use crate::logic::event::{Draft, Event};
use crate::logic::protocol::ws;
use crate::logic::reason::Reason;

use super::Shard;
use super::channels::Following;
use super::connection::{Flags, State};
use super::settings::ticks;

/// Batches from the hub in one turn.
const BATCHES_PER_TURN: usize = 16;
/// How old an event in a log may get before it is let go, if everyone has read it.
pub(super) const LOG_KEPT: std::time::Duration = std::time::Duration::from_secs(30);

impl Shard {
    /// Works off what the hub has said, up to a budget.
    pub(super) fn take_inbox(&mut self) {
        if self.from_hub.wake.is_rung() {
            self.from_hub.wake.clear();
        }
        for _ in 0..BATCHES_PER_TURN {
            // A lane that grows faster than its readers are walked is walked first: publishers wait for the
            // shard then, and no client is taken for slow because the shard is.
            if self.held_by.is_some() {
                return;
            }
            let Some(batch) = self.from_hub.next() else {
                self.inbox_waits = false;
                return;
            };
            let weight = FromHub::weigh(&batch);
            for message in batch {
                self.obey(message);
            }
            self.from_hub.done(weight);
        }
    }

    /// Works off what the hub has said already, so that whoever asks after an acknowledgement has come sees
    /// what it is about.
    pub(super) fn catch_up(&mut self) {
        if !self.from_hub.is_empty() {
            self.inbox_waits = true;
            self.take_inbox();
        }
    }

    fn obey(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Event(channel, event) => self.on_event(channel, &event),
            ShardMessage::Followed(channel, since) => {
                self.seen = self.seen.max(since);
                if self.channels.channels[channel].following == Following::Asked {
                    self.channels.channels[channel].following = Following::Yes;
                    // If it still has, the hub says so after this.
                    self.channels.channels[channel].ended = false;
                    let mut lane = self.channels.channels[channel].lanes;
                    while lane != NONE {
                        self.channels.lanes[lane].log.set_since(since);
                        lane = self.channels.next_lane(lane);
                    }
                }
            }
            ShardMessage::Unfollowed(channel) => {
                if self.channels.channels[channel].following == Following::GivenUp {
                    self.channels.remove(channel);
                }
            }
            ShardMessage::Replay(replay) => self.on_replay(&replay),
            ShardMessage::Ended(channel) => self.on_ended(channel),
            ShardMessage::Kick { request, target, reason } => {
                let count = self.kick(&target, &reason);
                self.tell_hub(HubMessage::Kicked { request, count });
            }
            ShardMessage::SendUser(user, draft) => self.send_to_user(&user, &draft),
            ShardMessage::Listening(listening) => self.upstream.listening = listening,
            ShardMessage::Heard(bytes) => self.on_heard(bytes),
            ShardMessage::Answered { connection, number, answer } => self.on_answer(connection, number, answer),
            ShardMessage::Published { connection, reference, result } => {
                self.on_published(connection, reference.as_deref(), result);
            }
            ShardMessage::Look { request, look } => self.look(request, &look),
            ShardMessage::Pause(on) => self.pause(on),
            ShardMessage::Keys(keyring) => self.keyring = Some(keyring),
            ShardMessage::Send(connection, draft) => self.send_direct(connection, &draft),
            ShardMessage::Drain => self.begin_drain(),
        }
    }

    /// Frames the event once per dialect that has a lane.
    fn on_event(&mut self, channel: LocalChannel, event: &Arc<Event>) {
        self.counters.events_received += 1;
        self.seen = self.seen.max(event.id);
        // What was on its way when the channel was given up: what lies between it and the new beginning is not known.
        if self.channels.channels[channel].following != Following::Yes {
            return;
        }
        self.channels.channels[channel].ended = false;
        let mut lane = self.channels.channels[channel].lanes;
        while lane != NONE {
            let dialect = self.channels.lanes[lane].dialect;
            self.channels.append(lane, event.id, self.now, |out| dialect.write_event(event, out));
            if !std::mem::replace(&mut self.channels.lanes[lane].aging, true) {
                self.aging_logs.push_back((self.now + ticks(LOG_KEPT), lane));
            }
            if self.outgrows_its_walk(lane) {
                self.held_by = Some(lane);
            }
            self.begin_walk(lane);
            // Without readers there is no pass that would do it.
            self.settle(lane);
            lane = self.channels.next_lane(lane);
        }
    }

    fn on_ended(&mut self, channel: LocalChannel) {
        self.channels.channels[channel].ended = true;
        let mut lane = self.channels.channels[channel].lanes;
        while lane != NONE {
            self.begin_walk(lane);
            lane = self.channels.next_lane(lane);
        }
    }

    /// A page of what a connection has missed. Its place is given back once it is sent, unless the client takes nothing.
    fn on_replay(&mut self, replay: &Replay) {
        if self.take_replay(replay) {
            let connection = &mut self.connections[replay.slot];
            let flags = connection.flags;
            if connection.out_waiting() > 0 && flags.has(Flags::QUEUED) && !flags.has(Flags::BLOCKED | Flags::PAGE) {
                connection.flags.set(Flags::PAGE);
                return;
            }
        }
        self.page_has_gone();
    }

    /// Returns whether somebody waits for it.
    fn take_replay(&mut self, replay: &Replay) -> bool {
        if replay.last {
            self.seen = self.seen.max(replay.until);
        }
        let slot = replay.slot;
        let Some(connection) = self.connections.get(slot) else { return false };
        let state = connection.state;
        let awaited = connection.resume().map(|resume| resume.number);
        if connection.generation != replay.generation || awaited != Some(replay.number) {
            return false;
        }
        match state {
            State::Poll => self.on_poll_replay(slot, replay),
            State::Stream | State::WebSocket => self.on_stream_replay(slot, replay),
            _ => {}
        }
        true
    }

    fn on_poll_replay(&mut self, slot: u32, replay: &Replay) {
        let wait = self.connections[slot].resume().map_or(0, |resume| resume.wait);
        if !replay.events.is_empty() || replay.gap.is_some() || wait == 0 {
            self.answer_replay(slot, replay);
            return;
        }
        self.end_resume(slot);
        self.set_deadline(slot, self.now + wait);
        self.answer_poll(slot);
    }

    fn on_stream_replay(&mut self, slot: u32, replay: &Replay) {
        let connection = &mut self.connections[slot];
        let dialect = connection.dialect;
        let is_single = connection.subscriptions() == 1;
        let wanted = connection.resume().map(|resume| resume.channels.clone()).unwrap_or_default();
        if wanted.is_empty() {
            self.end_resume(slot);
            // What is live has waited for this, and so may have what the client says.
            self.queue(slot);
            return;
        }
        if let (Some(after), Some(resumed)) = (replay.after, replay.gap) {
            self.counters.gaps += 1;
            dialect.write_gap(after, resumed, is_single.then_some(resumed), connection.out());
        }
        let mut count = 0;
        for event in &replay.events {
            // Whatever was unsubscribed while it was being fetched is not wanted any more.
            if self.channels.find(&event.channel).is_some_and(|channel| wanted.contains(&channel)) {
                dialect.write_event(event, self.connections[slot].out());
                count += 1;
            }
        }
        self.counters.deliveries += count;
        let connection = &mut self.connections[slot];
        connection.events = connection.events.saturating_add(count as u32);
        if replay.last {
            self.end_resume(slot);
        } else if let Some(resume) = connection.resume_mut() {
            resume.after = Some(replay.until);
            resume.page_due = true;
        }
        self.queue(slot);
    }

    /// Everything missed is told: the subscriptions read on from here, and the next resume has its turn.
    fn end_resume(&mut self, slot: u32) {
        let Some(resume) = self.connections[slot].extra().resumes.pop_front() else { return };
        for index in 0..self.connections[slot].subscriptions() {
            let Some(subscription) = self.connections[slot].subscription(index) else { continue };
            let channel = self.channels.lanes[subscription.lane].channel;
            if subscription.place == NONE && resume.channels.contains(&channel) {
                self.read_from_head(slot, index);
            }
        }
        let is_sent = self.connections[slot].out_waiting() == 0;
        match self.connections[slot].resume_mut() {
            None => self.connections[slot].flags.clear(Flags::REPLAYING),
            Some(_) if is_sent => self.ask_for_page(slot),
            // One page at a time, however much is asked for.
            Some(next) => next.page_due = true,
        }
    }

    fn kick(&mut self, target: &Target, reason: &str) -> u64 {
        let mut slots = Vec::new();
        match target {
            Target::Connection(id) => slots.extend(self.find(*id)),
            Target::User(user) => slots = self.identities.of_user(user),
            Target::Token { id, until_s } => {
                self.identities.revoked.add(id.clone(), *until_s);
                slots = self.identities.of_token(id);
            }
            Target::Subscription { user, channel } => return self.unsubscribe_user(user, channel, reason),
            Target::Channel(name) => {
                let lanes = self.channels.find(name).map(|channel| self.channels.lanes_of(channel));
                for lane in lanes.into_iter().flatten() {
                    slots.extend(self.channels.readers(lane).iter().map(|reader| reader.slot));
                    if self.channels.lanes[lane].has_waiting(self.channels.readers(lane).len()) {
                        slots.extend(self.catching_up_on(lane));
                    }
                }
            }
        }
        let is_open =
            |slot: &&u32| matches!(self.connections[**slot].state, State::Stream | State::WebSocket | State::Poll);
        let count = slots.iter().filter(is_open).count() as u64;
        for slot in slots {
            self.close(slot, Reason::Kicked, ws::CLOSE_KICKED, reason);
        }
        count
    }

    /// The connections that get what they have missed on a lane and do not read it yet. They stand in no list.
    fn catching_up_on(&self, lane: u32) -> Vec<u32> {
        let is_on = |slot: &u32| {
            let connection = &self.connections[*slot];
            connection.flags.has(Flags::REPLAYING)
                && connection.subscriptions_from(0).any(|s| s.lane == lane && s.place == NONE)
        };
        (0..self.connections.capacity()).filter(is_on).collect()
    }

    /// The slot of a connection, if it is still there.
    pub(super) fn find(&self, id: ConnectionId) -> Option<u32> {
        let connection = self.connections.get(id.slot)?;
        (id.shard == self.index && connection.generation == id.generation && connection.state != State::Free)
            .then_some(id.slot)
    }

    /// Sends something to one connection alone.
    pub(super) fn send_direct(&mut self, id: ConnectionId, draft: &Draft) {
        let Some(slot) = self.find(id) else { return };
        let connection = &mut self.connections[slot];
        if !matches!(connection.state, State::Stream | State::WebSocket) {
            return;
        }
        if connection.out_waiting() > self.settings.config.limits.replies {
            self.close(slot, Reason::Slow, ws::CLOSE_TOO_SLOW, "too many messages wait to be read");
            return;
        }
        connection.dialect.write_direct(draft, connection.out());
        self.queue(slot);
    }
}
