//! Clients' messages within a session, and the replies to them.

use arcstr::ArcStr;

use crate::link::{HubMessage, Speaker};
use crate::logic::code::Code;
use crate::logic::event::Draft;
use crate::logic::id::Id;
use crate::logic::json;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{ChannelArg, Intent, Notice, Outcome, Payload, Said};

use super::super::access::Denied;
use super::super::connection::State;
use super::super::context::Ending;
use super::super::settings::TICKS_PER_SECOND;
use super::super::subscriptions::{check_room_for_channels, subscribe, unsubscribe_from};
use super::super::waiting::{Aside, Hold, Waiting};
use super::permission::{self, Permission};
use super::{Shard, ending, requests};

/// Reads and carries out messages as long as replies find room.
pub(super) fn read(shard: &mut Shard, slot: u32, bytes: &mut [u8]) {
    let protocol = shard.slots[slot].key.protocol();
    let extra = shard.slots[slot].extra();
    let mut held = std::mem::take(&mut extra.input);
    let mut decoder = std::mem::take(&mut extra.decoder);
    let mut rest = bytes;
    if !held.is_empty() {
        held.extend_from_slice(rest);
        rest = &mut held;
    }
    let max_message = shard.cx.settings.config.websocket.max_message;
    while take_share(shard, slot) {
        let consumed = match protocol.parse(rest, &mut decoder, max_message) {
            Ok(parsed) => {
                if let Some(said) = parsed.said {
                    hear(shard, slot, said);
                }
                parsed.consumed
            }
            Err(violation) => {
                ending::end(shard, slot, &violation.into());
                break;
            }
        };
        if consumed == 0 {
            break;
        }
        rest = &mut rest[consumed..];
    }
    let connection = &mut shard.slots[slot];
    if connection.state == State::WebSocket {
        let extra = connection.extra();
        extra.input = rest.to_vec();
        decoder.tidy();
        extra.decoder = decoder;
        shard.slots.tidy(slot);
        if shard.slots[slot].out_waiting() > 0 {
            shard.slots.queue(slot);
        }
    }
}

/// Takes a message off the turn's budget; returns whether the client's next message may be carried out now.
fn take_share(shard: &mut Shard, slot: u32) -> bool {
    let connection = &mut shard.slots[slot];
    if connection.state != State::WebSocket || !connection.holds().is_empty() {
        return false;
    }
    if connection.out_waiting() > shard.cx.settings.config.limits.replies {
        connection.hold(Hold::REPLIES);
        return false;
    }
    let has_share = shard.reading.take();
    if !has_share {
        shard.slots.read_later(slot);
    }
    has_share
}

fn hear(shard: &mut Shard, slot: u32, said: Said<'_>) {
    let second = shard.cx.now / TICKS_PER_SECOND;
    if !shard.access.talk.count(slot, said.weight, &shard.cx.settings.talk, second) {
        return ending::end(shard, slot, &Ending::new(Reason::Flooding));
    }
    let has_channels = shard.slots[slot].key.protocol().has_channels();
    shard.cx.counters.messages_in += u64::from(has_channels && said.payload.is_some());
    carry_out(shard, slot, said.intent, said.payload);
    shard.carry_out();
}

/// Carries out a message's intent. `message` is the message itself, which is put aside if it has to wait.
fn carry_out(shard: &mut Shard, slot: u32, intent: Intent<'_>, message: Option<Payload<'_>>) {
    let connection = &mut shard.slots[slot];
    let key = connection.key;
    let intent = match connection.awaits_token() {
        true => intent.before_token(key.protocol().token_first()),
        false => intent,
    };
    let needs_room = matches!(intent, Intent::Send { .. } | Intent::Publish { .. });
    if let Some(message) = message.filter(|_| needs_room && !shard.upstream.has_room(&shard.cx)) {
        return shard.upstream.put_aside(&mut shard.slots, &mut shard.cx, slot, message);
    }
    let (reference, result) = match intent {
        Intent::Alive => return,
        Intent::Reply(notice) => return key.notify(&notice, connection.out()),
        // The answer repeats the client's close code (RFC 6455 §5.5.1).
        Intent::Leave(code) => {
            let ending = Ending { echoed: Some(code), ..Ending::new(Reason::Client) };
            return ending::end(shard, slot, &ending);
        }
        Intent::Refuse { refusal, reference, .. } => (reference, Err(refusal)),
        Intent::Token { token, reference } => (reference, take_token(shard, slot, &token, reference)),
        Intent::Subscribe { channels, after, reference } => {
            (reference, subscribe_more(shard, slot, &channels, after, reference, message))
        }
        Intent::Unsubscribe { channels, reference } => {
            let result = unsubscribe_some(shard, slot, &channels);
            (reference, result.map(|()| reply(shard, slot, reference, Outcome::Done)))
        }
        Intent::Send { data, reference } => {
            let result = send(shard, slot, data);
            (reference, result.map(|()| reply(shard, slot, reference, Outcome::Done)))
        }
        Intent::Publish { channel, draft, reference } => (reference, publish(shard, slot, &channel, draft, reference)),
    };
    if let Err(refusal) = result {
        reply(shard, slot, reference, Outcome::Refused(&refusal));
    }
}

/// Carries out the message that was put aside, and reads on.
pub(super) fn hear_again(shard: &mut Shard, slot: u32) {
    let connection = &mut shard.slots[slot];
    let message = match connection.waiting_mut() {
        Some(Waiting::Decided(decided)) => decided.message.take(),
        Some(waiting @ Waiting::Upstream(_)) => match std::mem::take(waiting) {
            Waiting::Upstream(message) => Some(message),
            _ => None,
        },
        _ => None,
    };
    connection.release(Hold::UPSTREAM);
    let Some(message) = message else { return };
    let payload = message.payload();
    let intent = shard.slots[slot].key.protocol().interpret(payload);
    carry_out(shard, slot, intent, Some(payload));
    shard.carry_out();
    let connection = &mut shard.slots[slot];
    if connection.is_decided() {
        // The backend's decision was about this message alone.
        connection.take_waiting();
    }
    if connection.state == State::WebSocket && connection.holds().is_empty() {
        shard.slots.read_later(slot);
    }
    shard.slots.weigh(slot);
    shard.slots.queue(slot);
}

/// Subscribes an open connection to more channels. The reply comes before the first event of these channels.
fn subscribe_more(
    shard: &mut Shard,
    slot: u32,
    channels: &[ChannelArg<'_>],
    after: Option<Id>,
    reference: Option<&str>,
    message: Option<Payload<'_>>,
) -> Result<(), Refusal> {
    // The limit is checked first, so that the backend is not asked about a message that is refused anyway.
    let first = shard.slots[slot].subscriptions();
    let subscriptions_max = shard.cx.settings.config.limits.subscriptions;
    if first + channels.len() > subscriptions_max {
        let message = format!("a connection may have at most {subscriptions_max} channels");
        return Err(Refusal::new(Code::TooMany, message));
    }
    if permission::obtain(shard, slot, channels, None)? == Permission::Pending {
        if let Some(Waiting::Backend(asking)) = shard.slots[slot].waiting_mut() {
            asking.message = message.map(Aside::new);
        }
        return Ok(());
    }
    check_room_for_channels(&shard.lanes, &shard.cx, channels)?;
    let mut refused: Option<Refusal> = None;
    for name in channels.iter().map(ChannelArg::as_str) {
        match shard.access.may_subscribe(&shard.cx, slot, &shard.slots[slot], name) {
            Ok(()) => subscribe(&mut shard.slots, &mut shard.lanes, &mut shard.cx, slot, name),
            Err(denied) => refused.get_or_insert_with(|| denied.refusal(name)).channels.push(name.to_owned()),
        }
    }
    // The channels that are allowed stay subscribed.
    reply(shard, slot, reference, refused.as_ref().map_or(Outcome::Done, Outcome::Refused));
    requests::start(shard, slot, first, after, 0);
    Ok(())
}

/// Takes a token within the connection: the first one, if the connection waits for it, or the next one.
fn take_token(shard: &mut Shard, slot: u32, token: &str, reference: Option<&str>) -> Result<(), Refusal> {
    let wanted = permission::take_token(shard, slot, token)?;
    reply(shard, slot, reference, Outcome::Done);
    if let Some(wanted) = wanted {
        // Other connections may have taken the room that there was when the connection was opened.
        match check_room_for_channels(&shard.lanes, &shard.cx, &wanted.channels) {
            Ok(()) => requests::begin_subscriptions(shard, slot, &wanted.channels, wanted.after),
            Err(refusal) => reply(shard, slot, None, Outcome::Refused(&refusal.of_channels(wanted.channels))),
        }
    }
    for name in shard.access.no_longer_granted(&shard.cx, &shard.slots, &shard.lanes, slot) {
        let _ = unsubscribe_some(shard, slot, &[&*name]);
        let connection = &mut shard.slots[slot];
        let notice = Notice::Unsubscribed { channel: &name, reason: "the new token does not allow it" };
        connection.key.notify(&notice, connection.out());
    }
    Ok(())
}

/// Tells the client that a channel which it named when the connection was opened is refused.
pub(super) fn refuse_channel(shard: &mut Shard, slot: u32, denied: Denied, channel: &str) {
    let refusal = denied.refusal(channel).of_channels(vec![channel.to_owned()]);
    reply(shard, slot, None, Outcome::Refused(&refusal));
}

fn unsubscribe_some(shard: &mut Shard, slot: u32, names: &[impl AsRef<str>]) -> Result<(), Refusal> {
    let Shard { slots, lanes, cx, .. } = shard;
    for name in names.iter().map(AsRef::as_ref) {
        let channel = lanes.find(name);
        if !channel.is_some_and(|channel| unsubscribe_from(slots, lanes, cx, slot, channel)) {
            return Err(Refusal::new(Code::NotSubscribed, format!("there is no subscription to {name:?}")));
        }
    }
    Ok(())
}

/// The client of a connection, as the backend knows it.
pub(super) fn speaker(shard: &Shard, slot: u32) -> Speaker {
    Speaker { connection: shard.slots.name(shard.cx.index, slot), user: shard.access.user(slot).cloned() }
}

/// Passes a client's message to the backend.
fn send(shard: &mut Shard, slot: u32, data: &str) -> Result<(), Refusal> {
    if !shard.upstream.listening.messages {
        return Err(Refusal::new(Code::NoBackend, "no backend listens to messages at the moment"));
    }
    let data = String::from_utf8(json::compact(data)).unwrap_or_default().into_boxed_str();
    let from = speaker(shard, slot);
    shard.cx.tell_hub(HubMessage::Said { from, data });
    Ok(())
}

/// Publishes for a client whose token allows it. The client's answer comes from the hub.
fn publish(
    shard: &mut Shard,
    slot: u32,
    channel: &ChannelArg<'_>,
    draft: Draft,
    reference: Option<&str>,
) -> Result<(), Refusal> {
    let name = channel.as_str();
    if !shard.access.may_publish(&shard.cx, slot, name) {
        let refusal = Refusal::new(Code::Forbidden, format!("this connection may not publish to {name:?}"));
        return Err(refusal.of_channels(vec![name.to_owned()]));
    }
    let from = speaker(shard, slot);
    let (channel, reference) = (ArcStr::from(name), reference.map(Into::into));
    shard.cx.tell_hub(HubMessage::Publish { from, channel, draft, reference });
    Ok(())
}

/// Replies with the outcome of a request.
pub(super) fn reply(shard: &mut Shard, slot: u32, reference: Option<&str>, outcome: Outcome<'_>) {
    shard.cx.counters.errors += u64::from(matches!(outcome, Outcome::Refused(_)));
    let connection = &mut shard.slots[slot];
    connection.key.notify(&Notice::Reply { reference, outcome }, connection.out());
}
