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
use super::connection::{Flags, Resume, State, Subscription};
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
    (lanes.lost_until..=lanes.seen).contains(&after)
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

/// Adds a resume from the hub's history after those that a connection has already, and gives it its number. Live events wait
/// until it is over.
pub(super) fn add_resume(slots: &mut Slots, cx: &mut Context, slot: u32, resume: Resume) {
    cx.counters.resumed_hub += 1;
    let number = cx.counters.resumed_hub as u32;
    let connection = &mut slots[slot];
    connection.flags.insert(Flags::REPLAYING);
    connection.extra().resumes.push_back(Resume { number, ..resume });
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::connection::Resume;
    use super::super::opening::Opening;
    use super::super::settings::{Policy, Settings};
    use super::super::tests::tables::{Tables, id};
    use super::*;
    use crate::config::{Config, SlowPolicy};
    use crate::logic::session::{LaneKey, Spoken};

    /// The effects since the last call, in short.
    fn effects(tables: &mut Tables) -> Vec<String> {
        let in_short = |effect| match effect {
            Effect::ToHub(HubMessage::Follow { local, name, .. }) => format!("follow {name} as {local}"),
            Effect::Presence { channel, is_coming: true, .. } => format!("comes to {channel}"),
            Effect::Presence { channel, is_coming: false, .. } => format!("leaves {channel}"),
            Effect::End { ending, .. } => format!("ends: {}", ending.reason.name()),
            Effect::Drop { reason, .. } => format!("is dropped: {}", reason.name()),
            other => panic!("{other:?}"),
        };
        tables.cx.effects.drain(..).map(in_short).collect()
    }

    fn subscribe_to(tables: &mut Tables, slot: u32, names: &[&str]) {
        let Tables { slots, lanes, cx, .. } = tables;
        names.iter().for_each(|name| subscribe(slots, lanes, cx, slot, name));
    }

    /// A stream whose subscriptions to these lanes do not read yet.
    fn waiting(tables: &mut Tables, lanes: &[u32]) -> u32 {
        let slot = tables.stream(&[]);
        for lane in lanes {
            tables.lanes.enter(*lane);
            tables.slots[slot].add_subscription(Subscription { lane: *lane, place: NONE, cursor: 0 });
        }
        slot
    }

    /// The lanes of a connection's subscriptions, by number.
    fn lanes_of(tables: &Tables, slot: u32) -> Vec<u32> {
        tables.slots[slot].subscriptions_from(0).map(|subscription| subscription.lane).collect()
    }

    fn check(tables: &Tables) {
        tables.slots.check_invariants();
        tables.lanes.check_invariants();
    }

    #[test]
    fn only_channels_that_are_new_to_the_shard_need_room() {
        for (known, names, has_room) in [
            (0, "a b c", true),
            (0, "a b c d", false),
            (2, "c0 c1 x", true),
            (2, "c0 x y", false),
            (3, "c0 c2", true),
            (3, "c0 x", false),
        ] {
            let mut tables = Tables::new();
            let mut config = Config::default();
            config.limits.channels = 3;
            tables.cx.settings = Settings::new(Arc::new(config), u64::MAX);
            (0..known).for_each(|_| assert_ne!(tables.lane(SlowPolicy::Gap), NONE));
            let names: Vec<&str> = names.split(' ').collect();
            let refusal = check_room_for_channels(&tables.lanes, &tables.cx, &names).err();
            let refused = refusal.map(|refusal| (refusal.code, refusal.retry_after_secs));
            assert_eq!(refused, (!has_room).then_some((Code::Channels, Some(5))), "{known} {names:?}");
        }
    }

    #[test]
    fn a_channel_is_followed_once_and_again_after_it_was_given_up() {
        let mut tables = Tables::new();
        let slot = tables.stream(&[]);
        subscribe_to(&mut tables, slot, &["a", "b", "a", "b"]);
        assert_eq!(effects(&mut tables), ["follow a as 0", "follow b as 1"]);
        assert_eq!(lanes_of(&tables, slot).len(), 2, "each channel once");
        let other = tables.stream(&[]);
        subscribe_to(&mut tables, other, &["b"]);
        assert_eq!(
            (effects(&mut tables), lanes_of(&tables, other)),
            (Vec::new(), lanes_of(&tables, slot)[1..].to_vec())
        );
        tables.lanes.channels[1].following = Following::GivenUp;
        tables.lanes.channels[1].ended = true;
        let third = tables.stream(&[]);
        subscribe_to(&mut tables, third, &["b"]);
        assert_eq!(effects(&mut tables), ["follow b as 1"]);
        assert_eq!((tables.lanes.channels[1].following, tables.lanes.channels[1].ended), (Following::Asked, false));
        check(&tables);
    }

    #[test]
    fn sessions_are_present_where_the_policy_says_so_and_polls_never() {
        let mut tables = Tables::new();
        let plain = tables.lane(SlowPolicy::Gap);
        let policy = tables.lanes.policy_number(Policy { max_lag: 1000, slow: SlowPolicy::Gap, presence: true });
        let channel = tables.lanes.add("p".into(), policy);
        let [lane, polled] =
            [Spoken::SSE, Spoken::POLL].map(|spoken| tables.lanes.lane(channel, LaneKey::of(spoken, true)));
        let session = tables.stream(&[lane, plain]);
        let poll = tables.stream(&[polled]);
        tables.slots[poll].key = LaneKey::of(Spoken::POLL, true);
        for (slot, first, noted) in [(session, 0, true), (session, 1, false), (poll, 0, false)] {
            note_coming(&tables.slots, &tables.lanes, &mut tables.cx, slot, first);
            let expected = if noted { vec![format!("comes to {channel}")] } else { Vec::new() };
            assert_eq!(effects(&mut tables), expected, "{slot} {first}");
        }
        for slot in [session, poll] {
            let Tables { slots, lanes, cx, .. } = &mut tables;
            unsubscribe_all(slots, lanes, cx, slot);
            assert_eq!(slots[slot].subscriptions(), 0);
        }
        assert_eq!(effects(&mut tables), [format!("leaves {channel}")]);
        check(&tables);
    }

    #[test]
    fn subscriptions_start_after_a_position_that_the_logs_reach_back_to() {
        let mut tables = Tables::new();
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        (1..=4).for_each(|number| tables.append(lanes[number as usize % 2], number, 10));
        tables.lanes.see(id(4));
        let slot = waiting(&mut tables, &lanes);
        let start = |tables: &mut Tables, first, number| {
            let Tables { slots, lanes, cx, .. } = tables;
            (start_after(slots, lanes, cx, slot, first, id(number)), cx.counters.resumed_here)
        };
        assert_eq!(start(&mut tables, 0, 5), (false, 0), "the hub has not sent so much yet");
        assert_eq!(start(&mut tables, 2, 5), (true, 0), "there is nothing to start");
        assert_eq!(start(&mut tables, 0, 2), (true, 1));
        assert_eq!([0, 1].map(|index| tables.cursor(slot, index)), [10, 10]);
        assert!(lanes.iter().all(|lane| tables.lanes.readers(*lane).len() == 1));
        let all = [4, 2, 1, 0];
        let can =
            |tables: &Tables| all.map(|number| can_resume_here(&tables.slots, &tables.lanes, slot, 0, id(number)));
        assert_eq!(can(&tables), [true; 4]);
        tables.lanes.trim(lanes[1], 10);
        assert_eq!(can(&tables), [true, true, true, false]);
        let channel = tables.lanes[lanes[0]].channel;
        tables.lanes.channels[channel].following = Following::Asked;
        assert_eq!(can(&tables), [false; 4]);
        let follows = |first| follows_all(&tables.slots, &tables.lanes, slot, first);
        assert_eq!([0, 1].map(follows), [false, true]);
        check(&tables);
    }

    #[test]
    fn frames_before_the_floor_do_not_count_for_a_resume() {
        let mut tables = Tables::new();
        let lane = tables.lane(SlowPolicy::Gap);
        (1..=15).for_each(|number| tables.append(lane, number, 100));
        tables.lanes.see(id(15));
        let slot = waiting(&mut tables, &[lane]);
        let can = |number| can_resume_here(&tables.slots, &tables.lanes, slot, 0, id(number));
        assert_eq!([4, 5, 15].map(can), [false, true, true], "a thousand bytes are kept in any case");
        start_from_now(&mut tables.slots, &mut tables.lanes, slot, 1);
        assert!(tables.lanes.readers(lane).is_empty());
        start_from_now(&mut tables.slots, &mut tables.lanes, slot, 0);
        assert_eq!((tables.lanes.readers(lane), tables.cursor(slot, 0)), (&[Tables::reader(slot)][..], 1500));
        check(&tables);
    }

    #[test]
    fn the_last_subscription_takes_the_number_of_one_that_ends() {
        let mut tables = Tables::new();
        let lanes = [(); 3].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = tables.stream(&lanes);
        let other = tables.stream(&lanes[..1]);
        tables.append(lanes[2], 1, 10);
        tables.set_cursor(slot, 2, 4, true);
        let end = |tables: &mut Tables, slot, index| {
            let Tables { slots, lanes, cx, .. } = tables;
            unsubscribe(slots, lanes, cx, slot, index);
            check(tables);
        };
        end(&mut tables, slot, 0);
        assert_eq!((lanes_of(&tables, slot), tables.slots[slot].mid_frame()), (vec![lanes[2], lanes[1]], Some(0)));
        assert_eq!(tables.lanes.readers(lanes[2]), [Tables::reader(slot)]);
        // The reader that stood last on the lane has the place of the one that has left.
        assert_eq!(tables.lanes.readers(lanes[0]), [Tables::reader(other)]);
        assert_eq!(tables.slots[other].subscription(0).map(|subscription| subscription.place), Some(0));
        end(&mut tables, slot, 1);
        assert_eq!((lanes_of(&tables, slot), tables.slots[slot].mid_frame()), (vec![lanes[2]], Some(0)));
        assert!(tables.lanes[lanes[1]].is_unused() && !tables.lanes[lanes[0]].is_unused());
        end(&mut tables, slot, 0);
        assert_eq!((tables.out(slot), tables.slots[slot].mid_frame()), ("111111", None), "a frame is finished");
        tables.append(lanes[0], 2, 10);
        tables.set_cursor(other, 0, 4, true);
        tables.slots.kill(other);
        end(&mut tables, other, 0);
        assert_eq!((tables.out(other), tables.slots[other].subscriptions()), ("", 0), "not on a dead connection");
    }

    #[test]
    fn a_subscription_that_does_not_read_has_no_place_to_rename() {
        let mut tables = Tables::new();
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        let others = tables.stream(&[lanes[0], lanes[1]]);
        let slot = waiting(&mut tables, &lanes);
        let Tables { slots, lanes: table, cx, .. } = &mut tables;
        unsubscribe(slots, table, cx, slot, 0);
        assert_eq!(lanes_of(&tables, slot), [lanes[1]]);
        assert_eq!(tables.lanes.readers(lanes[1]), [Reader { slot: others, subscription: 1 }]);
        check(&tables);
    }

    #[test]
    fn a_channel_that_is_left_is_taken_out_of_the_resumes() {
        let mut tables = Tables::new();
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = waiting(&mut tables, &lanes);
        let [a, b] = lanes.map(|lane| tables.lanes[lane].channel);
        for (number, channels) in [(1, vec![a, b]), (2, vec![a]), (3, vec![a]), (4, vec![b, a])] {
            let opening = (number == 3).then(|| Opening::reply("1"));
            let resume = Resume { number, channels, sent: Vec::new(), after: None, page_due: false, wait: 0, opening };
            tables.slots[slot].extra().resumes.push_back(resume);
        }
        let left = |tables: &mut Tables, channel| {
            let Tables { slots, lanes, cx, .. } = tables;
            assert!(
                unsubscribe_from(slots, lanes, cx, slot, channel) && !unsubscribe_from(slots, lanes, cx, slot, channel)
            );
            let resumes = tables.slots[slot].extra().resumes.iter();
            resumes.map(|resume| (resume.number, resume.channels.clone())).collect::<Vec<_>>()
        };
        assert_eq!(left(&mut tables, a), [(1, vec![b]), (3, vec![]), (4, vec![b])]);
        assert_eq!(left(&mut tables, b), [(1, vec![]), (3, vec![])], "the page of the first one is on its way");
    }

    #[test]
    fn a_subscription_is_found_by_its_channel_and_can_be_taken_back() {
        let mut tables = Tables::new();
        let lanes = [(); 3].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = tables.stream(&lanes[..2]);
        let is_there = |tables: &Tables| {
            let by_number = lanes.map(|lane| is_on(&tables.slots, &tables.lanes, slot, tables.lanes[lane].channel));
            let by_name = ["c0", "c1", "c2"].map(|name| is_subscribed(&tables.slots, &tables.lanes, slot, name));
            assert_eq!(by_number, by_name);
            by_name
        };
        assert_eq!(is_there(&tables), [true, true, false]);
        assert!(!is_subscribed(&tables.slots, &tables.lanes, slot, "none"));
        let back = ["c0", "c2", "none"].map(|name| {
            let Tables { slots, lanes, cx, .. } = &mut tables;
            take_back(slots, lanes, cx, slot, name)
        });
        assert_eq!((back, is_there(&tables)), ([true, false, false], [true, true, false]));
        assert_eq!(lanes_of(&tables, slot), [lanes[1], lanes[0]]);
        assert!(tables.lanes.readers(lanes[0]).is_empty() && tables.lanes[lanes[0]].has_waiting(0));
        assert_eq!(tables.lanes.readers(lanes[1]), [Tables::reader(slot)]);
        let Tables { slots, lanes: table, cx, .. } = &mut tables;
        assert!(unsubscribe_from(slots, table, cx, slot, table[lanes[1]].channel));
        assert_eq!(is_there(&tables), [true, false, false]);
        check(&tables);
    }

    #[test]
    fn subscriptions_stop_reading_if_they_read_and_the_hub_has_confirmed_their_channel() {
        let mut tables = Tables::new();
        let [read, asked, missed] = [(); 3].map(|()| tables.lane(SlowPolicy::Gap));
        let other = tables.stream(&[missed]);
        let slot = tables.stream(&[read, asked]);
        tables.lanes.enter(missed);
        tables.slots[slot].add_subscription(Subscription { lane: missed, place: NONE, cursor: 0 });
        let channels = [read, asked].map(|lane| tables.lanes[lane].channel);
        tables.lanes.channels[channels[1]].following = Following::Asked;
        [read, missed].into_iter().for_each(|lane| tables.append(lane, 3, 10));
        let Tables { slots, lanes, cx, .. } = &mut tables;
        assert_eq!(stop_reading(slots, lanes, cx, slot), [(channels[0], id(3).before())]);
        let places = slots[slot].subscriptions_from(0).map(|subscription| subscription.place == NONE);
        assert_eq!(places.collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(lanes.readers(missed), [Tables::reader(other)]);
        check(&tables);
    }

    #[test]
    fn a_long_rest_of_a_frame_is_copied_only_within_the_memory() {
        let (short, long) = (LAST_WORDS_MAX, LAST_WORDS_MAX + 1);
        for (memory, rest, is_copied) in [(u64::MAX, long, true), (0, long, false), (0, short, true)] {
            let mut tables = Tables::new();
            let lane = tables.lane(SlowPolicy::Gap);
            let slot = tables.stream(&[lane]);
            tables.append(lane, 1, rest + 5);
            tables.set_cursor(slot, 0, 5, true);
            assert_eq!(rest_of_frame(&tables.slots, &tables.lanes, slot), rest);
            tables.cx.settings.lag_memory = memory;
            let Tables { slots, lanes, cx, .. } = &mut tables;
            finish_frame(slots, lanes, cx, slot, 0);
            assert_eq!(slots[slot].mid_frame(), None);
            let expected: &[&str] = if is_copied { &[] } else { &["is dropped: slow"] };
            assert_eq!(effects(&mut tables), expected);
            let copied = if is_copied { (rest, 1, 1) } else { (0, 0, 0) };
            let connection = &tables.slots[slot];
            assert_eq!((connection.out_waiting(), connection.events, tables.cx.counters.deliveries), copied);
            assert_eq!(tables.lanes.is_read(lane), is_copied);
            assert_eq!(tables.slots[slot].flags.intersects(Flags::BLOCKED), !is_copied);
            check(&tables);
        }
    }

    #[test]
    fn a_connection_leaves_channels_that_have_ended_once_it_has_everything() {
        let mut tables = Tables::new();
        let lanes = [(); 4].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = tables.stream(&lanes[..3]);
        tables.lanes.enter(lanes[3]);
        tables.slots[slot].add_subscription(Subscription { lane: lanes[3], place: NONE, cursor: 0 });
        tables.append(lanes[1], 1, 10);
        let end = |tables: &mut Tables, lane| {
            let channel = tables.lanes[lane].channel;
            tables.lanes.channels[channel].ended = true;
        };
        let leave = |tables: &mut Tables| {
            let Tables { slots, lanes, cx, .. } = tables;
            leave_ended(slots, lanes, cx, slot);
            check(tables);
            lanes_of(tables, slot)
        };
        [lanes[0], lanes[1], lanes[3]].into_iter().for_each(|lane| end(&mut tables, lane));
        // The first one has ended; of the second one an event is to come; the last one does not read yet.
        assert_eq!(leave(&mut tables), [lanes[3], lanes[1], lanes[2]]);
        assert_eq!(tables.out(slot).matches("ringcast.end").count(), 1);
        assert!(tables.out(slot).contains(r#"{"channel":"c0"}"#), "{}", tables.out(slot));
        tables.set_cursor(slot, 1, 10, false);
        tables.lanes[lanes[1]].at_head = 1;
        assert_eq!(leave(&mut tables), [lanes[3], lanes[2]]);
        read_from_head(&mut tables.slots, &mut tables.lanes, slot, 0);
        assert_eq!(leave(&mut tables), [lanes[2]]);
        assert_eq!(effects(&mut tables), [""; 0]);
        end(&mut tables, lanes[2]);
        assert_eq!(leave(&mut tables), [0; 0]);
        assert_eq!(effects(&mut tables), ["ends: ended"]);
        assert_eq!(tables.out(slot).matches("ringcast.end").count(), 4);
    }
}
