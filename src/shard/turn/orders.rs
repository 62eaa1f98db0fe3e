//! The hub's messages: events, pages of missed events, and orders.

use std::sync::Arc;
use std::time::Duration;

use crate::link::{ConnectionId, HubMessage, LocalChannel, Replay, ShardMessage, Target};
use crate::logic::cells::NONE;
use crate::logic::event::{Draft, Event};
use crate::logic::id::Id;
use crate::logic::protocol::feed::FeedError;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Notice, Outcome};

use super::super::connection::{Flags, State};
use super::super::context::{Budget, Ending};
use super::super::drain::Cause;
use super::super::lanes::Following;
use super::super::polls;
use super::super::resume::Page;
use super::super::subscriptions::unsubscribe_from;
use super::super::survey::View;
use super::{Shard, ending, identified, messages, permission, time};

/// The most messages of the hub in one turn, and the time that they may take.
const MESSAGES: (usize, Duration) = (64 * 1024, Duration::from_millis(4));

/// A kick that may take several turns. The hub's later messages wait for its end.
pub(super) struct Kick {
    request: u64,
    /// The connections that end: their slots and generations.
    connections: std::vec::IntoIter<(u32, u32)>,
    /// How many of them were open when the kick came.
    count: u64,
    reason: Arc<str>,
}

/// Works off the hub's messages, up to a budget. No message is taken while a walk holds events back: publishers then
/// wait for the shard, and clients are not taken for slow because the shard is.
pub(super) fn work_off(shard: &mut Shard) {
    let has_work = shard.kick.is_some() || shard.upstream.has_messages();
    if !has_work || shard.walks.holds_events_back() || shard.is_short_of_memory() {
        return;
    }
    shard.upstream.clear_wake();
    let mut budget = Budget::new(MESSAGES.0, MESSAGES.1);
    loop {
        go_on_kicking(shard, &mut budget);
        let is_held_back = shard.walks.holds_events_back() || shard.is_short_of_memory();
        if shard.kick.is_some() || is_held_back || !budget.take() {
            return;
        }
        let Some(message) = shard.upstream.next() else { return };
        carry_out(shard, message);
        shard.carry_out();
    }
}

/// Ends connections that the present kick is for, and answers it once all have ended.
fn go_on_kicking(shard: &mut Shard, budget: &mut Budget) {
    let Some(mut kick) = shard.kick.take() else { return };
    while !shard.is_short_of_memory() && budget.take() {
        let Some((slot, generation)) = kick.connections.next() else {
            shard.cx.tell_hub(HubMessage::Kicked { request: kick.request, count: kick.count });
            return;
        };
        if shard.slots[slot].generation == generation {
            ending::end(shard, slot, &Ending::in_words(Reason::Kicked, &kick.reason));
            shard.carry_out();
        }
    }
    shard.kick = Some(kick);
}

fn carry_out(shard: &mut Shard, message: ShardMessage) {
    match message {
        ShardMessage::Event(channel, event) => on_event(shard, channel, &event),
        ShardMessage::Followed(channel, since) => on_followed(shard, channel, since),
        ShardMessage::Unfollowed(channel) => {
            if shard.lanes.channels[channel].following == Following::GivenUp {
                shard.lanes.remove(channel);
            }
        }
        ShardMessage::Replay(replay) => on_replay(shard, &replay),
        ShardMessage::Ended(channel) => on_ended(shard, channel),
        ShardMessage::Kick { request, target, reason } => {
            begin_kick(shard, request, &target, reason);
        }
        ShardMessage::SendUser(user, draft) => {
            for slot in shard.access.identities.of_user(&user) {
                send_direct(shard, slot, &draft);
            }
        }
        ShardMessage::Send(connection, draft) => {
            if let Some(slot) = shard.slots.find(shard.cx.index, connection) {
                send_direct(shard, slot, &draft);
            }
        }
        ShardMessage::Listening(listening) => shard.upstream.listening = listening,
        ShardMessage::Heard(bytes) => {
            shard.upstream.free(bytes);
            while let Some(slot) = shard.upstream.next_with_room(&shard.slots, &shard.cx) {
                messages::hear_again(shard, slot);
            }
        }
        ShardMessage::Answered { connection, number, answer } => {
            permission::on_answer(shard, connection, number, answer);
        }
        ShardMessage::Published { connection, reference, result } => {
            on_published(shard, connection, reference.as_deref(), result);
        }
        ShardMessage::Look { request, look } => {
            let Shard { slots, lanes, cx, access, surveys, .. } = shard;
            surveys.look(&View { slots, lanes, identity: &|slot| identified(access, slot) }, cx, request, &look);
        }
        ShardMessage::Pause(true) => time::begin_drain(shard, Cause::Pause),
        ShardMessage::Pause(false) => time::end_pause(shard),
        ShardMessage::Keys(keyring) => shard.access.keyring = Some(keyring),
        ShardMessage::Drain => time::begin_drain(shard, Cause::End),
    }
}

fn on_followed(shard: &mut Shard, channel: LocalChannel, since: Id) {
    let lanes = &mut shard.lanes;
    lanes.see(since);
    let cell = &mut lanes.channels[channel];
    if cell.following != Following::Asked {
        return;
    }
    cell.following = Following::Yes;
    // If the channel has ended, another message of the hub follows that says so.
    cell.ended = false;
    let mut lane = cell.lanes;
    while lane != NONE {
        lanes[lane].log.set_since(since);
        lane = lanes.next_lane(lane);
    }
}

/// Frames an event once for each lane of its channel, and begins a walk over each lane's readers.
fn on_event(shard: &mut Shard, channel: LocalChannel, event: &Arc<Event>) {
    let Shard { lanes, cx, walks, .. } = shard;
    cx.counters.events_received += 1;
    lanes.see(event.id);
    // The event was in the queue when the shard gave the channel up. It is left out, because later events may be
    // missing up to the one from which the shard follows the channel again.
    if lanes.channels[channel].following != Following::Yes {
        return;
    }
    lanes.channels[channel].ended = false;
    let retained = cx.settings.config.limits.retained as u64;
    let mut lane = lanes.channels[channel].lanes;
    while lane != NONE {
        let key = lanes[lane].key;
        lanes.append(lane, event.id, cx.now, |out| key.frame(event, out));
        walks.begin(lanes, lane);
        // A lane without readers has no walk that would settle it.
        lanes.settle(lane, retained);
        lane = lanes.next_lane(lane);
    }
}

fn on_ended(shard: &mut Shard, channel: LocalChannel) {
    let Shard { lanes, walks, .. } = shard;
    lanes.channels[channel].ended = true;
    let mut lane = lanes.channels[channel].lanes;
    while lane != NONE {
        walks.begin(lanes, lane);
        lane = lanes.next_lane(lane);
    }
}

/// Takes a page of events that a connection has missed.
fn on_replay(shard: &mut Shard, replay: &Replay) {
    let Shard { slots, lanes, cx, resumes, .. } = shard;
    match resumes.take(slots, lanes, cx, replay) {
        Page::Done => {}
        Page::AnswerPoll => polls::answer_replay(slots, lanes, cx, replay),
        Page::HoldPoll => polls::answer(slots, lanes, cx, replay.slot),
    }
    resumes.note_page(slots, cx, replay.slot);
}

fn on_published(
    shard: &mut Shard,
    id: ConnectionId,
    reference: Option<&str>,
    result: Result<Id, (&'static str, String)>,
) {
    let Some(slot) = shard.slots.find(shard.cx.index, id) else { return };
    if shard.slots[slot].state != State::WebSocket {
        return;
    }
    match result {
        Ok(id) => messages::reply(shard, slot, reference, Outcome::Published(id)),
        Err((code, message)) => {
            let refusal = Refusal::from(FeedError::new(code, message));
            messages::reply(shard, slot, reference, Outcome::Refused(&refusal));
        }
    }
    shard.slots.weigh(slot);
    shard.slots.queue(slot);
}

/// Begins to end the connections that a kick is for. Subscriptions of a user end at once: a user has few connections.
fn begin_kick(shard: &mut Shard, request: u64, target: &Target, reason: Arc<str>) {
    let slots = match target {
        Target::Connection(id) => shard.slots.find(shard.cx.index, *id).into_iter().collect(),
        Target::User(user) => shard.access.identities.of_user(user),
        Target::Token { id, until_s } => {
            shard.access.identities.revoked.add(id.clone(), *until_s);
            shard.access.identities.of_token(id)
        }
        Target::Channel(name) => on_channel(shard, name),
        Target::Subscription { user, channel } => {
            let count = unsubscribe_user(shard, user, channel, &reason);
            shard.cx.tell_hub(HubMessage::Kicked { request, count });
            return;
        }
    };
    let is_open = |slot: &&u32| matches!(shard.slots[**slot].state, State::Stream | State::WebSocket | State::Poll);
    let count = slots.iter().filter(is_open).count() as u64;
    let connections: Vec<(u32, u32)> = slots.into_iter().map(|slot| (slot, shard.slots[slot].generation)).collect();
    debug_assert!(shard.kick.is_none(), "the hub's messages wait for the end of a kick");
    shard.kick = Some(Kick { request, connections: connections.into_iter(), count, reason });
}

/// The connections that are subscribed to a channel.
fn on_channel(shard: &Shard, name: &str) -> Vec<u32> {
    let mut slots = Vec::new();
    let channel = shard.lanes.find(name);
    for lane in channel.into_iter().flat_map(|channel| shard.lanes.lanes_of(channel)) {
        let readers = shard.lanes.readers(lane);
        slots.extend(readers.iter().map(|reader| reader.slot));
        if shard.lanes[lane].has_waiting(readers.len()) {
            slots.extend(catching_up_on(shard, lane));
        }
    }
    slots
}

/// The connections that get missed events of a lane and do not read it yet. No list names them, so all slots are looked
/// at.
fn catching_up_on(shard: &Shard, lane: u32) -> Vec<u32> {
    let is_on = |slot: &u32| {
        let connection = &shard.slots[*slot];
        connection.flags.intersects(Flags::REPLAYING)
            && connection.subscriptions_from(0).any(|s| s.lane == lane && s.place == NONE)
    };
    (0..shard.slots.capacity()).filter(is_on).collect()
}

/// Takes a user's connections off a channel; returns the number of subscriptions that ended.
fn unsubscribe_user(shard: &mut Shard, user: &str, channel: &str, reason: &Arc<str>) -> u64 {
    let Some(number) = shard.lanes.find(channel) else { return 0 };
    let mut count = 0;
    for slot in shard.access.identities.of_user(user) {
        let Shard { slots, lanes, cx, .. } = &mut *shard;
        let is_subscribed = slots[slot].subscriptions_from(0).any(|s| lanes[s.lane].channel == number);
        if !is_subscribed {
            continue;
        }
        count += 1;
        if slots[slot].state == State::Poll {
            ending::end(shard, slot, &Ending::in_words(Reason::Kicked, reason));
            continue;
        }
        unsubscribe_from(slots, lanes, cx, slot, number);
        let connection = &mut slots[slot];
        connection.key.notify(&Notice::Unsubscribed { channel, reason }, connection.out());
        slots.weigh(slot);
        let connection = &slots[slot];
        if connection.subscriptions() == 0 && !connection.key.protocol().takes_requests() {
            ending::end(shard, slot, &Ending::in_words(Reason::Kicked, reason));
        }
        shard.slots.queue(slot);
    }
    count
}

/// Sends a message to one connection alone.
fn send_direct(shard: &mut Shard, slot: u32, draft: &Draft) {
    let connection = &mut shard.slots[slot];
    if !matches!(connection.state, State::Stream | State::WebSocket) {
        return;
    }
    if connection.out_waiting() > shard.cx.settings.config.limits.replies {
        let ending = Ending::in_words(Reason::Slow, &"too many messages wait to be read".into());
        return ending::end(shard, slot, &ending);
    }
    connection.key.notify(&Notice::Direct(draft), connection.out());
    shard.slots.weigh(slot);
    shard.slots.queue(slot);
}
