//! Orders about many connections: kicks, and messages to a user. They are carried out within a budget, over several
//! turns if need be; the hub's later messages wait for the end of an order.

use std::sync::Arc;

use crate::link::{HubMessage, LocalChannel, Target};
use crate::logic::code::Code;
use crate::logic::event::{ChannelName, Draft};
use crate::logic::id::Id;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Notice, Outcome};
use crate::logic::wheel::Tick;

use super::super::closing::refuse;
use super::super::connection::{Gap, State};
use super::super::context::{Budget, Ending};
use super::super::lag::note_gap;
use super::super::polls;
use super::super::subscriptions::{is_on, unsubscribe_all, unsubscribe_from};
use super::{Shard, ending, messages, orders};

/// The most connections that are put on a list when an order begins. For more of them all slots are looked at, some in
/// each turn.
pub(in crate::shard) const LISTED_MAX: usize = 1024;

/// An order that is being carried out.
pub(in crate::shard) struct Order {
    action: Action,
    connections: Connections,
    /// The connections or subscriptions that the order has ended.
    count: u64,
}

/// What an order does to each of its connections.
pub(super) enum Action {
    /// The connection ends, and the hub is told how many did.
    Kick { request: u64, reason: Arc<str> },
    /// The connection's subscription to a channel ends, and the hub is told how many did.
    Unsubscribe { request: u64, name: ChannelName, channel: LocalChannel, reason: Arc<str> },
    /// The connection gets a message.
    Send(Draft),
    /// The connection is taken off a channel for which the hub has no room.
    NoRoom { name: ChannelName, channel: LocalChannel },
    /// The connection is told that events may be lost on every channel.
    Lost(Gap),
}

/// The connections that an order is about.
enum Connections {
    /// The connections in these slots with their generations.
    Listed(std::vec::IntoIter<(u32, u32)>),
    /// All connections that fit and were accepted before the order came, from a slot on.
    Fitting { position: u32, fits: Fits, until: Tick },
}

/// How the connections of an order are told from others.
enum Fits {
    All,
    Channel(LocalChannel),
    Target(Target),
}

/// Begins to end connections, or a user's subscriptions.
pub(super) fn begin_kick(shard: &mut Shard, request: u64, target: Target, reason: Arc<str>) {
    if let Target::Token { id, until_s } = &target {
        shard.access.identities.revoked.add(id.clone(), *until_s);
    }
    let mut action = Action::Kick { request, reason: reason.clone() };
    let connections = match target {
        Target::Connection(id) => list(shard, shard.slots.find(shard.cx.index, id).into_iter().collect()),
        Target::Channel(name) => on_channel(shard, &name),
        Target::Subscription { user, channel: name } => {
            let Some(channel) = shard.lanes.find(&name) else {
                return shard.cx.tell_hub(HubMessage::Kicked { request, count: 0 });
            };
            action = Action::Unsubscribe { request, name, channel, reason };
            of_target(shard, Target::User(user))
        }
        target => of_target(shard, target),
    };
    begin(shard, action, connections);
}

/// Begins to send a message to all connections of a user.
pub(super) fn begin_send(shard: &mut Shard, user: arcstr::ArcStr, draft: Draft) {
    let connections = of_target(shard, Target::User(user));
    begin(shard, Action::Send(draft), connections);
}

/// Begins to take the subscribers off a channel for which the hub has no room.
pub(super) fn begin_no_room(shard: &mut Shard, channel: LocalChannel) {
    let name = shard.lanes.channels[channel].name.clone().unwrap_or_default();
    let connections = on_channel(shard, &name);
    begin(shard, Action::NoRoom { name, channel }, connections);
}

/// Begins to tell all connections that events between two positions may be lost. Nobody resumes here from before.
pub(super) fn begin_lost(shard: &mut Shard, after: Id, resumed: Id) {
    shard.lanes.lost_until = shard.lanes.lost_until.max(resumed);
    let connections = fitting(shard, Fits::All);
    begin(shard, Action::Lost(Gap { after, resumed }), connections);
}

fn begin(shard: &mut Shard, action: Action, connections: Connections) {
    debug_assert!(shard.order.is_none(), "the hub's messages wait for the end of an order");
    shard.order = Some(Order { action, connections, count: 0 });
}

fn list(shard: &Shard, slots: Vec<u32>) -> Connections {
    let listed: Vec<_> = slots.into_iter().map(|slot| (slot, shard.slots[slot].generation)).collect();
    Connections::Listed(listed.into_iter())
}

fn fitting(shard: &Shard, fits: Fits) -> Connections {
    Connections::Fitting { position: 0, fits, until: shard.cx.now }
}

/// The connections of a user or of a token.
fn of_target(shard: &Shard, target: Target) -> Connections {
    let few = |all: &mut dyn Iterator<Item = u32>| all.take(LISTED_MAX + 1).collect::<Vec<u32>>();
    let slots = match &target {
        Target::User(user) => few(&mut shard.access.identities.of_user(user)),
        Target::Token { id, .. } => few(&mut shard.access.identities.of_token(id)),
        Target::Connection(_) | Target::Channel(_) | Target::Subscription { .. } => Vec::new(),
    };
    if slots.len() > LISTED_MAX { fitting(shard, Fits::Target(target)) } else { list(shard, slots) }
}

/// The connections that are subscribed to a channel. No list names those that get missed events and do not read their
/// lane yet.
fn on_channel(shard: &Shard, name: &str) -> Connections {
    let Some(channel) = shard.lanes.find(name) else { return list(shard, Vec::new()) };
    let mut slots = Vec::new();
    for lane in shard.lanes.lanes_of(channel) {
        let readers = shard.lanes.readers(lane);
        if slots.len() + readers.len() > LISTED_MAX || shard.lanes[lane].has_waiting(readers.len()) {
            return fitting(shard, Fits::Channel(channel));
        }
        slots.extend(readers.iter().map(|reader| reader.slot));
    }
    list(shard, slots)
}

/// Goes on with the present order, and answers it when it is carried out.
pub(super) fn go_on(shard: &mut Shard, budget: &mut Budget) {
    let Some(mut order) = shard.order.take() else { return };
    while !shard.is_short_of_memory() && budget.take() {
        match order.connections.next(shard, budget) {
            Step::Found(slot) => {
                budget.spend(1 + shard.slots[slot].subscriptions());
                order.count += u64::from(order.action.apply(shard, slot));
                shard.carry_out();
            }
            Step::Passed => {}
            Step::Over => return order.finish(shard),
        }
    }
    shard.order = Some(order);
}

/// A look for the next connection of an order.
enum Step {
    /// The connection in this slot is one.
    Found(u32),
    /// The slot that was looked at holds none.
    Passed,
    /// There are no more.
    Over,
}

impl Connections {
    fn next(&mut self, shard: &Shard, budget: &mut Budget) -> Step {
        match self {
            Connections::Listed(all) => match all.next() {
                Some((slot, generation)) if shard.slots[slot].generation == generation => Step::Found(slot),
                Some(_) => Step::Passed,
                None => Step::Over,
            },
            Connections::Fitting { position, .. } if *position >= shard.slots.capacity() => Step::Over,
            Connections::Fitting { position, fits, until } => {
                let slot = *position;
                *position += 1;
                let connection = &shard.slots[slot];
                budget.spend(connection.subscriptions() / 8);
                let is_old = !matches!(connection.state, State::Free | State::Dead) && connection.opened <= *until;
                if is_old && fits.fits(shard, slot) { Step::Found(slot) } else { Step::Passed }
            }
        }
    }
}

impl Fits {
    fn fits(&self, shard: &Shard, slot: u32) -> bool {
        let known = shard.access.identities.get(slot);
        match self {
            Fits::All => true,
            Fits::Channel(channel) => is_on(&shard.slots, &shard.lanes, slot, *channel),
            Fits::Target(Target::User(user)) => known.is_some_and(|known| known.user.as_ref() == Some(user)),
            Fits::Target(Target::Token { id, .. }) => known.is_some_and(|known| known.token.as_ref() == Some(id)),
            Fits::Target(_) => false,
        }
    }
}

impl Action {
    /// Does the order's work on one connection; returns whether that counts.
    fn apply(&self, shard: &mut Shard, slot: u32) -> bool {
        let is_open = matches!(shard.slots[slot].state, State::Stream | State::WebSocket | State::Poll);
        match self {
            Action::Kick { reason, .. } => {
                ending::end(shard, slot, &Ending::in_words(Reason::Kicked, reason));
                is_open
            }
            Action::Unsubscribe { name, channel, reason, .. } => unsubscribe(shard, slot, (name, *channel), reason),
            Action::Send(draft) => {
                orders::send_direct(shard, slot, draft);
                false
            }
            Action::NoRoom { name, channel } => {
                refuse_room(shard, slot, (name, *channel));
                false
            }
            Action::Lost(gap) => {
                tell_lost(shard, slot, *gap);
                false
            }
        }
    }
}

impl Order {
    fn finish(self, shard: &mut Shard) {
        match self.action {
            Action::Kick { request, .. } | Action::Unsubscribe { request, .. } => {
                shard.cx.tell_hub(HubMessage::Kicked { request, count: self.count });
            }
            Action::Lost(gap) => shard.lanes.see(gap.resumed),
            Action::Send(_) | Action::NoRoom { .. } => {}
        }
    }
}

/// Takes a connection off a channel; returns whether it was subscribed.
fn unsubscribe(shard: &mut Shard, slot: u32, (name, channel): (&str, LocalChannel), reason: &Arc<str>) -> bool {
    let Shard { slots, lanes, cx, .. } = &mut *shard;
    if !is_on(slots, lanes, slot, channel) {
        return false;
    }
    if slots[slot].state == State::Poll {
        ending::end(shard, slot, &Ending::in_words(Reason::Kicked, reason));
        return true;
    }
    unsubscribe_from(slots, lanes, cx, slot, channel);
    let connection = &mut slots[slot];
    connection.key.notify(&Notice::Unsubscribed { channel: name, reason }, connection.words());
    slots.weigh(slot);
    let connection = &slots[slot];
    if connection.subscriptions() == 0 && !connection.key.protocol().takes_requests() {
        ending::end(shard, slot, &Ending::in_words(Reason::Kicked, reason));
    }
    shard.slots.queue(slot);
    true
}

/// Tells a connection of lost events. A connection that waits for missed events is told with them.
fn tell_lost(shard: &mut Shard, slot: u32, gap: Gap) {
    let Shard { slots, lanes, cx, .. } = shard;
    match slots[slot].state {
        State::Stream | State::WebSocket if slots[slot].subscriptions() > 0 && slots[slot].resume().is_none() => {
            note_gap(slots, slot, Some(gap));
            slots.queue(slot);
        }
        State::Poll => polls::answer_lost(slots, lanes, cx, slot, gap.resumed),
        _ => {}
    }
}

/// Takes a connection off a channel for which the hub has no room, and says so.
fn refuse_room(shard: &mut Shard, slot: u32, (name, channel): (&str, LocalChannel)) {
    let words = Reason::NoRoom.words();
    let refusal = Refusal::new(Code::Channels, words).retry_after(shard.cx.retry_after_secs());
    let Shard { slots, lanes, cx, .. } = &mut *shard;
    if slots[slot].state == State::Poll {
        unsubscribe_all(slots, lanes, cx, slot);
        return refuse(slots, cx, slot, &refusal, Reason::NoRoom);
    }
    unsubscribe_from(slots, lanes, cx, slot, channel);
    if slots[slot].key.protocol().takes_requests() {
        let refusal = refusal.of_channels(vec![name.to_owned()]);
        messages::reply(shard, slot, None, Outcome::Refused(&refusal));
    } else if slots[slot].subscriptions() == 0 {
        ending::end(shard, slot, &Ending::new(Reason::NoRoom));
    } else {
        let notice = Notice::Unsubscribed { channel: name, reason: words };
        let connection = &mut slots[slot];
        connection.key.notify(&notice, connection.out());
    }
    shard.slots.weigh(slot);
    shard.slots.queue(slot);
}
