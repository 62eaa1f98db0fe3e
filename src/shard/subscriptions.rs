//! Subscriptions: following a channel, taking a place among a lane's readers, and leaving it. These functions change
//! the slots and the lanes together, so that both always agree about a subscription.
//!
//! No function here waits. A follow is in the queue to the hub before the client reads that it is subscribed, and the
//! hub works that queue off before it takes later events: an event that is published after the client has read the
//! answer reaches the client.

use crate::link::{HubMessage, LocalChannel};
use crate::logic::cells::NONE;
use crate::logic::code::Code;
use crate::logic::event::ChannelName;
use crate::logic::id::Id;
use crate::logic::log::Position;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Carrier, Notice};

use super::account::{LAST_WORDS_MAX, is_over};
use super::connection::{Flags, State, Subscription};
use super::context::{Context, Effect, Ending};
use super::lanes::{Following, Lanes, Reader};
use super::slots::Slots;

/// Checks that the channels which the shard does not know yet can be added.
pub(super) fn check_room_for_channels(lanes: &Lanes, cx: &Context, names: &[impl AsRef<str>]) -> Result<(), Refusal> {
    let channels_max = cx.settings.config.limits.channels;
    if lanes.channels.used() + names.len() <= channels_max {
        return Ok(());
    }
    let new = names.iter().filter(|name| lanes.find(name.as_ref()).is_none()).count();
    if lanes.channels.used() + new > channels_max {
        return Err(Refusal::new(Code::Channels, "this server has no room for more channels").retry_after(5));
    }
    Ok(())
}

/// The channel of that name; the shard follows it from now on if it does not already.
fn follow(lanes: &mut Lanes, cx: &mut Context, name: &str) -> u32 {
    let channel = match lanes.find(name) {
        Some(channel) if lanes.channels[channel].following != Following::GivenUp => return channel,
        Some(channel) => channel,
        None => {
            let policy = lanes.policy_number(cx.settings.policy(name));
            lanes.add(name.into(), policy)
        }
    };
    let cell = &mut lanes.channels[channel];
    cell.following = Following::Asked;
    let name: ChannelName = cell.name.clone().unwrap_or_default();
    // The channel may have gone on since it was given up. If it is still ended, the hub says so.
    lanes.revive(channel);
    cx.tell_hub(HubMessage::Follow { shard: cx.index, local: channel, name });
    channel
}

/// Adds a subscription, which does not read yet, unless the connection has one to the channel already. Presence is noted
/// apart, by [`note_coming`].
pub(super) fn subscribe(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, name: &str) {
    let channel = follow(lanes, cx, name);
    let lane = lanes.lane(channel, slots[slot].key);
    if slots[slot].subscriptions_from(0).any(|subscription| subscription.lane == lane) {
        return;
    }
    lanes.enter(lane);
    slots[slot].add_subscription(Subscription { lane, place: NONE, cursor: 0 });
}

/// Notes that a connection has joined the channels of its subscriptions from number `first` on. It comes after the question
/// where these begin, so that the client reads of its own coming.
pub(super) fn note_coming(slots: &Slots, lanes: &Lanes, cx: &mut Context, slot: u32, first: usize) {
    for subscription in slots[slot].subscriptions_from(first) {
        note_presence(slots, lanes, cx, slot, subscription.lane, true);
    }
}

/// Notes that a connection has joined or left a lane's channel, if the channel's namespace has presence.
pub(super) fn note_presence(slots: &Slots, lanes: &Lanes, cx: &mut Context, slot: u32, lane: u32, is_coming: bool) {
    // Polls are not counted, because they begin and end with each request.
    if lanes.policy_of(lane).presence && slots[slot].key.protocol().carrier() != Carrier::Poll {
        cx.effect(Effect::Presence { slot, channel: lanes[lane].channel, is_coming });
    }
}

/// Whether the shard knows that it has every event of the channels of the subscriptions from number `first` on.
pub(super) fn follows_all(slots: &Slots, lanes: &Lanes, slot: u32, first: usize) -> bool {
    slots[slot]
        .subscriptions_from(first)
        .all(|subscription| lanes.channel_of(subscription.lane).following == Following::Yes)
}

/// Starts the subscriptions from number `first` on with the next event.
pub(super) fn start_from_now(slots: &mut Slots, lanes: &mut Lanes, slot: u32, first: usize) {
    for index in first..slots[slot].subscriptions() {
        read_from_head(slots, lanes, slot, index);
    }
}

/// Starts the subscriptions from number `first` on after a position, if the shard's own logs reach back so far; returns
/// whether they do.
pub(super) fn start_after(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    slot: u32,
    first: usize,
    after: Id,
) -> bool {
    if first == slots[slot].subscriptions() {
        return true;
    }
    if !can_resume_here(slots, lanes, slot, first, after) {
        return false;
    }
    cx.counters.resumed_here += 1;
    for index in first..slots[slot].subscriptions() {
        let Some(lane) = slots[slot].subscription(index).map(|subscription| subscription.lane) else { continue };
        let log = &lanes[lane].log;
        let cursor = log.position_after(after).unwrap_or(log.head());
        read_from(slots, lanes, slot, index, cursor);
    }
    true
}

/// Whether the shard's logs hold everything after `after` and keep it until it is sent. Frames before the floor do not
/// count, because the end of a walk may drop them.
pub(super) fn can_resume_here(slots: &Slots, lanes: &Lanes, slot: u32, first: usize, after: Id) -> bool {
    after <= lanes.seen
        && slots[slot].subscriptions_from(first).all(|subscription| {
            let log = &lanes[subscription.lane].log;
            let floor = log.floor(lanes.max_lag(subscription.lane));
            lanes.channel_of(subscription.lane).following == Following::Yes
                && log.position_after(after).is_some_and(|position| position >= floor)
        })
}

/// Puts a subscription among its lane's readers, at the head.
pub(super) fn read_from_head(slots: &mut Slots, lanes: &mut Lanes, slot: u32, index: usize) {
    let Some(lane) = slots[slot].subscription(index).map(|subscription| subscription.lane) else { return };
    let head = lanes[lane].log.head();
    read_from(slots, lanes, slot, index, head);
}

fn read_from(slots: &mut Slots, lanes: &mut Lanes, slot: u32, index: usize, cursor: u64) {
    let Some(subscription) = slots[slot].subscription_mut(index) else { return };
    debug_assert_eq!(subscription.place, NONE, "a subscription enters the list of readers once");
    let reader = Reader { slot, subscription: index as u32 };
    subscription.cursor = cursor;
    subscription.place = lanes.add_reader(subscription.lane, reader, cursor);
    slots.queue(slot);
}

/// Ends one subscription. The connection's last subscription takes its number.
pub(super) fn unsubscribe(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, index: usize) {
    let Some(lane) = slots[slot].subscription(index).map(|subscription| subscription.lane) else { return };
    note_presence(slots, lanes, cx, slot, lane, false);
    remove(slots, lanes, cx, slot, index);
}

/// The number of the connection's subscription to a channel, if it has one.
fn subscription_on(slots: &Slots, lanes: &Lanes, slot: u32, channel: u32) -> Option<usize> {
    slots[slot].subscriptions_from(0).position(|subscription| lanes[subscription.lane].channel == channel)
}

/// Whether the connection has a subscription to a channel, which is given by its number.
pub(super) fn is_on(slots: &Slots, lanes: &Lanes, slot: u32, channel: u32) -> bool {
    subscription_on(slots, lanes, slot, channel).is_some()
}

/// The number of the connection's subscription to a channel that is given by its name, if it has one.
fn subscription_to(slots: &Slots, lanes: &Lanes, slot: u32, name: &str) -> Option<usize> {
    subscription_on(slots, lanes, slot, lanes.find(name)?)
}

/// Whether the connection has a subscription to a channel.
pub(super) fn is_subscribed(slots: &Slots, lanes: &Lanes, slot: u32, name: &str) -> bool {
    subscription_to(slots, lanes, slot, name).is_some()
}

/// Has the connection's subscription to a channel stop reading, so that it can be started from another position; returns
/// whether there is one. It becomes the connection's last subscription. Its user stays on the channel.
pub(super) fn take_back(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, name: &str) -> bool {
    let Some(index) = subscription_to(slots, lanes, slot, name) else { return false };
    let Some(lane) = slots[slot].subscription(index).map(|subscription| subscription.lane) else { return false };
    // The lane has a user all the time, so that it is not freed meanwhile.
    lanes.enter(lane);
    remove(slots, lanes, cx, slot, index);
    slots[slot].add_subscription(Subscription { lane, place: NONE, cursor: 0 });
    true
}

/// Has all of a connection's subscriptions stop reading, and returns their channels with the id up to which the connection has
/// everything of each. The rest of a frame that is sent in part is copied. A subscription whose channel the hub has not confirmed yet
/// has no backlog, and reads on.
pub(super) fn stop_reading(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    slot: u32,
) -> Vec<(LocalChannel, Id)> {
    if let Some(index) = slots[slot].mid_frame() {
        finish_frame(slots, lanes, cx, slot, index);
    }
    let mut stopped = Vec::new();
    for index in 0..slots[slot].subscriptions() {
        let Some(&Subscription { lane, place, cursor }) = slots[slot].subscription(index) else { continue };
        let channel = lanes[lane].channel;
        if place == NONE || lanes.channels[channel].following != Following::Yes {
            continue;
        }
        stopped.push((channel, lanes[lane].log.id_at(cursor).map_or(lanes.seen, Id::before)));
        leave_readers(slots, lanes, cx, (lane, place, cursor));
        if let Some(subscription) = slots[slot].subscription_mut(index) {
            subscription.place = NONE;
        }
    }
    stopped
}

/// Takes a subscription out of its lane's list of readers.
fn leave_readers(slots: &mut Slots, lanes: &mut Lanes, cx: &Context, (lane, place, cursor): (u32, u32, Position)) {
    if let Some(moved) = lanes.remove_reader(lane, place, cursor)
        && let Some(subscription) = slots[moved.slot].subscription_mut(moved.subscription as usize)
    {
        subscription.place = place;
    }
    lanes.settle(lane, cx.settings.config.limits.retained as u64);
}

/// Removes one subscription. The connection's last subscription takes its number.
fn remove(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, index: usize) {
    if slots[slot].state != State::Dead {
        finish_frame(slots, lanes, cx, slot, index);
    }
    let Some(&Subscription { lane, place, cursor }) = slots[slot].subscription(index) else { return };
    if place == NONE {
        forget_missed(slots, slot, lanes[lane].channel);
    } else {
        leave_readers(slots, lanes, cx, (lane, place, cursor));
    }
    lanes.leave(lane, cx.now);
    let connection = &mut slots[slot];
    let last = connection.subscriptions() - 1;
    let mid = connection.mid_frame();
    connection.remove_subscription(index);
    if index == last {
        return;
    }
    if mid == Some(last) {
        connection.set_mid_frame(Some(index));
    }
    if let Some(moved) = connection.subscription(index)
        && moved.place != NONE
    {
        lanes.rename_reader(moved.lane, moved.place, index as u32);
    }
}

/// Takes a channel out of a connection's resumes, because the channel's number may be given to another channel.
fn forget_missed(slots: &mut Slots, slot: u32, channel: u32) {
    let Some(extra) = &mut slots[slot].extra else { return };
    extra.resumes.iter_mut().for_each(|resume| resume.channels.retain(|number| *number != channel));
    // The first resume stays, even without channels, because its page is on its way, and one whose words are owed stays.
    let mut is_first = true;
    extra
        .resumes
        .retain(|resume| std::mem::take(&mut is_first) || !resume.channels.is_empty() || resume.opening.is_some());
}

/// Ends all subscriptions of a connection.
pub(super) fn unsubscribe_all(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    while let Some(last) = slots[slot].subscriptions().checked_sub(1) {
        unsubscribe(slots, lanes, cx, slot, last);
    }
}

/// Ends the connection's subscription to a channel; returns whether it had one.
pub(super) fn unsubscribe_from(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    slot: u32,
    channel: u32,
) -> bool {
    let position = subscription_on(slots, lanes, slot, channel);
    if let Some(index) = position {
        unsubscribe(slots, lanes, cx, slot, index);
    }
    position.is_some()
}

/// The number of bytes that are left of the frame that is sent in part; 0 if no frame is.
pub(super) fn rest_of_frame(slots: &Slots, lanes: &Lanes, slot: u32) -> usize {
    let connection = &slots[slot];
    let subscription = connection.mid_frame().and_then(|index| connection.subscription(index));
    subscription.map_or(0, |s| (lanes[s.lane].log.frame_boundary(s.cursor) - s.cursor) as usize)
}

/// Has a connection dropped that may have got part of a frame; it gets nothing more until then.
pub(super) fn give_up(slots: &mut Slots, cx: &mut Context, slot: u32) {
    slots[slot].set_mid_frame(None);
    slots[slot].flags.insert(Flags::BLOCKED);
    cx.effect(Effect::Drop { slot, reason: Reason::Slow });
}

/// Copies the rest of a subscription's frame to the front of `out`, if the frame is sent in part. The cursor then
/// stands between two frames and can be moved.
///
/// If the shard has no memory for a long rest, the connection is dropped instead: nothing can follow within a frame.
pub(super) fn finish_frame(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, index: usize) {
    if slots[slot].mid_frame() != Some(index) {
        return;
    }
    let rest = rest_of_frame(slots, lanes, slot);
    if rest > LAST_WORDS_MAX && is_over(slots, lanes, cx, rest as u64) {
        return give_up(slots, cx, slot);
    }
    let connection = &mut slots[slot];
    connection.set_mid_frame(None);
    let Some(&Subscription { lane, cursor, .. }) = connection.subscription(index) else { return };
    let cell = &mut lanes[lane];
    let boundary = cell.log.frame_boundary(cursor);
    connection.put_first(cell.log.bytes(cursor, boundary));
    if let Some(subscription) = connection.subscription_mut(index) {
        subscription.cursor = boundary;
    }
    let events = cell.log.events_between(cursor, boundary) as u32;
    connection.events = connection.events.saturating_add(events);
    cx.counters.deliveries += u64::from(events);
    cell.at_head += u32::from(boundary == cell.log.head());
    lanes.settle(lane, cx.settings.config.limits.retained as u64);
    slots.weigh(slot);
}

/// Takes a connection that has everything off the channels that have ended. The connection ends with its last
/// channel.
pub(super) fn leave_ended(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    let mut index = 0;
    while let Some(subscription) = slots[slot].subscription(index) {
        let lane = &lanes[subscription.lane];
        let has_everything = subscription.place != NONE && subscription.cursor == lane.log.head();
        let channel = lanes.channel_of(subscription.lane);
        if !has_everything || !channel.ended {
            index += 1;
            continue;
        }
        let name = channel.name.clone().unwrap_or_default();
        unsubscribe(slots, lanes, cx, slot, index);
        let connection = &mut slots[slot];
        connection.key.notify(&Notice::Ended { channel: &name }, connection.out());
        slots.weigh(slot);
        if slots[slot].subscriptions() == 0 {
            cx.effect(Effect::End { slot, ending: Ending::new(Reason::Ended) });
            return;
        }
        slots.queue(slot);
    }
}
