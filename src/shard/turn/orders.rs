//! The hub's messages: events, pages of missed events, and orders.

use std::sync::Arc;
use std::time::Duration;

use crate::link::{ConnectionId, LocalChannel, Replay, ShardMessage};
use crate::logic::cells::NONE;
use crate::logic::event::{Draft, Event};
use crate::logic::id::Id;
use crate::logic::protocol::feed::FeedError;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Notice, Outcome};

use super::super::connection::State;
use super::super::context::{Budget, Ending};
use super::super::drain::Cause;
use super::super::lanes::Following;
use super::super::polls;
use super::super::resume::Page;
use super::super::survey::View;
use super::{Shard, ending, identified, messages, parting, permission, sweep, time};

/// The most messages of the hub in one turn, and the time that they may take.
pub(super) const MESSAGES: (usize, Duration) = (64 * 1024, Duration::from_millis(4));

/// Works off the hub's messages, up to a budget. No message is taken while a walk holds events back: publishers then
/// wait for the shard, and clients are not taken for slow because the shard is.
pub(super) fn work_off(shard: &mut Shard) {
    if !has_work(shard) || shard.walks.holds_events_back() || shard.is_short_of_memory() {
        return;
    }
    shard.upstream.clear_wake();
    let mut budget = Budget::new(MESSAGES);
    loop {
        hear_with_room(shard, &mut budget);
        sweep::go_on(shard, &mut budget);
        let is_held_back = shard.walks.holds_events_back() || shard.is_short_of_memory();
        if shard.order.is_some() || is_held_back || !budget.take() {
            return;
        }
        let Some(message) = shard.upstream.next() else { return };
        let cost = cost(&message);
        carry_out(shard, message);
        shard.carry_out();
        budget.spend(cost);
    }
}

/// Whether there is something to work off.
pub(super) fn has_work(shard: &Shard) -> bool {
    shard.order.is_some() || shard.upstream.has_messages() || shard.upstream.has_waiting_with_room(&shard.cx)
}

/// The pieces of the budget that a message costs beside the one of every message.
fn cost(message: &ShardMessage) -> usize {
    const BYTES_PER_PIECE: usize = 1024;
    match message {
        ShardMessage::Event(_, event) => event.weight() / BYTES_PER_PIECE,
        ShardMessage::Replay(replay) => {
            let bytes: usize = replay.events.iter().map(|event| event.weight()).sum();
            replay.events.len() + bytes / BYTES_PER_PIECE
        }
        // A message of the client may be carried out, with all of its channels.
        ShardMessage::Answered { .. } => 64,
        ShardMessage::Look { .. } | ShardMessage::Pause(_) | ShardMessage::Drain => 64,
        _ => 0,
    }
}

/// Carries out the clients' messages that have waited for room on their way to the backend, as far as there is room.
fn hear_with_room(shard: &mut Shard, budget: &mut Budget) {
    while shard.upstream.has_waiting_with_room(&shard.cx) && budget.take() {
        if let Some(slot) = shard.upstream.next_with_room(&shard.slots, &shard.cx) {
            messages::hear_again(shard, slot);
            budget.spend(4);
        }
    }
}

pub(super) fn carry_out(shard: &mut Shard, message: ShardMessage) {
    match message {
        ShardMessage::Event(channel, event) => on_event(shard, channel, &event),
        ShardMessage::Followed(channel, since) => on_followed(shard, channel, since),
        ShardMessage::Position(id) => shard.lanes.see(id),
        ShardMessage::Unfollowed(channel) => {
            if shard.lanes.channels[channel].following == Following::GivenUp {
                shard.lanes.remove(channel);
            }
        }
        ShardMessage::NoRoom(channel) => on_no_room(shard, channel),
        ShardMessage::Replay(replay) => on_replay(shard, &replay),
        ShardMessage::Ended(channel, id) => on_ended(shard, channel, id),
        ShardMessage::Kick { request, target, reason } => {
            sweep::begin_kick(shard, request, target, reason);
        }
        ShardMessage::SendUser(user, draft) => sweep::begin_send(shard, user, draft),
        ShardMessage::Send(connection, draft) => {
            if let Some(slot) = shard.slots.find(shard.cx.index, connection) {
                send_direct(shard, slot, &draft);
            }
        }
        ShardMessage::Listening(listening) => shard.upstream.listening = listening,
        ShardMessage::Heard(bytes) => shard.upstream.free(bytes),
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
        ShardMessage::Lost { after, resumed } => sweep::begin_lost(shard, after, resumed),
        ShardMessage::Pause(true) => time::begin_drain(shard, Cause::Pause),
        ShardMessage::Pause(false) => time::end_pause(shard),
        ShardMessage::Keys(keyring) => shard.access.keyring = Some(keyring),
        ShardMessage::Drain => time::begin_drain(shard, Cause::End),
        ShardMessage::Quiet(part) => parting::part(shard, &part),
        // A hand-over that was called off has left it.
        ShardMessage::Part => {}
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
    let mut lane = cell.lanes;
    // If the channel has ended, another message of the hub follows that says so.
    lanes.revive(channel);
    while lane != NONE {
        lanes[lane].log.set_since(since);
        lane = lanes.next_lane(lane);
    }
}

/// Gives up a channel for which the hub has no room. The shard asks again for the next subscriber.
fn on_no_room(shard: &mut Shard, channel: LocalChannel) {
    if shard.lanes.channels[channel].following == Following::Asked {
        shard.lanes.channels[channel].following = Following::GivenUp;
        sweep::begin_no_room(shard, channel);
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
    lanes.revive(channel);
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

fn on_ended(shard: &mut Shard, channel: LocalChannel, id: Id) {
    let Shard { lanes, walks, .. } = shard;
    lanes.end(channel, id);
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
        Page::HoldPoll(wait) => polls::settle(slots, lanes, cx, replay.slot, (replay.after, replay.until), wait),
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

/// Sends a message to one connection alone.
pub(super) fn send_direct(shard: &mut Shard, slot: u32, draft: &Draft) {
    let connection = &mut shard.slots[slot];
    if !matches!(connection.state, State::Stream | State::WebSocket) {
        return;
    }
    if connection.out_waiting() > shard.cx.settings.config.limits.replies {
        let ending = Ending::in_words(Reason::Slow, &"too many messages wait to be read".into());
        return ending::end(shard, slot, &ending);
    }
    connection.key.notify(&Notice::Direct(draft), connection.words());
    shard.slots.weigh(slot);
    shard.slots.queue(slot);
}
