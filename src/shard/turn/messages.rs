//! Clients' messages within a session, and the replies to them.

use std::collections::HashSet;

use arcstr::ArcStr;

use crate::link::{HubMessage, Speaker};
use crate::logic::code::Code;
use crate::logic::event::Draft;
use crate::logic::id::Id;
use crate::logic::json;
use crate::logic::protocol::ws::Decoder;
use crate::logic::reason::Reason;
use crate::logic::refusal::Refusal;
use crate::logic::session::{Carrier, ChannelArg, Intent, Notice, Outcome, Payload, Said};

use super::super::connection::{Flags, State};
use super::super::context::Ending;
use super::super::limits;
use super::super::opening::Opening;
use super::super::settings::TICKS_PER_SECOND;
use super::super::subscriptions::{
    check_room_for_channels, is_subscribed, note_coming, subscribe, take_back, unsubscribe_from,
};
use super::super::waiting::{Aside, Hold, Waiting, Wanted};
use super::input::BYTES_PER_PIECE;
use super::permission::{self, Permission};
use super::{Shard, ending, sessions};

/// The pieces of the turn's budget that a token costs: verifying a signature takes up to a quarter of a millisecond. The
/// clock is looked at after each token.
pub(super) const TOKEN_PIECES: usize = 64;

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
    let state = shard.slots[slot].state;
    if matches!(state, State::WebSocket | State::Closing) {
        keep(shard, slot, rest, decoder);
        if shard.slots[slot].out_waiting() > 0 {
            shard.slots.queue(slot);
        }
    }
    if state == State::Closing {
        // The client's close frame may be there already.
        read_to_close(shard, slot, &mut []);
    }
}

/// Keeps what is left of a WebSocket's input.
fn keep(shard: &mut Shard, slot: u32, rest: &[u8], mut decoder: Decoder) {
    let extra = shard.slots[slot].extra();
    extra.input = rest.to_vec();
    decoder.tidy();
    extra.decoder = decoder;
    shard.slots.tidy(slot);
}

/// Reads on a WebSocket that the server has ended, up to the client's close frame, with which the server ends its sending
/// side. Nothing else is carried out any more.
pub(super) fn read_to_close(shard: &mut Shard, slot: u32, bytes: &mut [u8]) {
    let connection = &mut shard.slots[slot];
    if connection.key.protocol().carrier() != Carrier::WebSocket || connection.flags.intersects(Flags::CLIENT_CLOSED) {
        return;
    }
    let protocol = connection.key.protocol();
    let extra = connection.extra();
    let mut decoder = std::mem::take(&mut extra.decoder);
    let mut input = std::mem::take(&mut extra.input);
    input.extend_from_slice(bytes);
    let mut rest = &mut input[..];
    let max_message = shard.cx.settings.config.websocket.max_message;
    // After a break of the protocol the rest cannot be read, and the deadline ends the wait.
    while let Ok(parsed) = protocol.parse(rest, &mut decoder, max_message) {
        if parsed.consumed == 0 {
            return keep(shard, slot, rest, decoder);
        }
        if matches!(parsed.said, Some(Said { intent: Intent::Leave(_), .. })) {
            shard.slots[slot].flags.insert(Flags::CLIENT_CLOSED);
            break;
        }
        let consumed = parsed.consumed;
        rest = &mut rest[consumed..];
    }
    shard.slots.tidy(slot);
    let connection = &shard.slots[slot];
    if connection.state == State::Lingering && connection.flags.intersects(Flags::CLIENT_CLOSED) {
        let deadline = connection.deadline;
        shard.slots.linger(slot, deadline);
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
    shard.reading.spend(said.weight / BYTES_PER_PIECE + cost(&said.intent));
    let has_channels = shard.slots[slot].key.protocol().has_channels();
    shard.cx.counters.messages_in += u64::from(has_channels && said.payload.is_some());
    carry_out(shard, slot, said.intent, said.payload);
    shard.carry_out();
}

/// The pieces of the turn's budget that an intent costs beside the one of every message. Channels are looked up, entered
/// and left one by one.
fn cost(intent: &Intent<'_>) -> usize {
    match intent {
        Intent::Subscribe { channels, .. } => channels.len(),
        Intent::Unsubscribe { channels, .. } => channels.len(),
        // Verifying the token takes longer by two orders of magnitude than anything else.
        Intent::Token { .. } => TOKEN_PIECES,
        _ => 0,
    }
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
        Intent::Reply(notice) => return key.notify(&notice, connection.words()),
        // The answer repeats the client's close code (RFC 6455 §5.5.1).
        Intent::Leave(code) => {
            let ending = Ending { echoed: Some(code), ..Ending::new(Reason::Client) };
            return ending::end(shard, slot, &ending);
        }
        Intent::Refuse { refusal, reference, .. } => (reference, Err(refusal)),
        Intent::Token { token, reference } => (reference, take_token(shard, slot, &token, reference)),
        Intent::Subscribe { channels, reference } => {
            (reference, subscribe_more(shard, slot, channels, reference, message))
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

/// Subscribes an open connection to more channels, or to channels that it has from other positions. The reply comes before
/// the first event of these channels.
fn subscribe_more(
    shard: &mut Shard,
    slot: u32,
    wanted: Vec<(ChannelArg<'_>, Option<Id>)>,
    reference: Option<&str>,
    message: Option<Payload<'_>>,
) -> Result<(), Refusal> {
    let (channels, positions): (Vec<ChannelArg<'_>>, Vec<Option<Id>>) = wanted.into_iter().unzip();
    // The limit is checked first, so that the backend is not asked about a message that is refused anyway.
    let subscriptions_max = shard.cx.settings.config.limits.subscriptions;
    let Shard { slots, lanes, .. } = &*shard;
    let new = channels.iter().filter(|name| !is_subscribed(slots, lanes, slot, name.as_str())).count();
    if slots[slot].subscriptions() + new > subscriptions_max {
        let message = format!("a connection may have at most {subscriptions_max} channels");
        return Err(Refusal::new(Code::TooMany, message));
    }
    if permission::obtain(shard, slot, &channels, None)? == Permission::Pending {
        if let Some(Waiting::Backend(asking)) = shard.slots[slot].waiting_mut() {
            asking.message = message.map(Aside::new);
        }
        return Ok(());
    }
    check_room_for_channels(&shard.lanes, &shard.cx, &channels)?;
    admit_channels(shard, slot, &channels)?;
    let mut refused: Option<Refusal> = None;
    let mut allowed = Vec::with_capacity(channels.len());
    let mut known = HashSet::with_capacity(channels.len());
    for (name, after) in channels.iter().map(ChannelArg::as_str).zip(positions) {
        if !known.insert(name) {
            continue;
        }
        match shard.access.may_subscribe(&shard.cx, slot, name) {
            Ok(()) => allowed.push((name, after)),
            Err(denied) => refused.get_or_insert_with(|| denied.refusal(name)).channels.push(name.to_owned()),
        }
    }
    // The reply names the position of the channels that begin now, if there are some.
    allowed.sort_by_key(|(_, after)| after.is_some());
    let mut opening = reference.filter(|_| refused.is_none()).map(Opening::reply);
    if let Some(refusal) = refused {
        // The channels that are allowed stay subscribed.
        reply(shard, slot, reference, Outcome::Refused(&refusal));
    }
    if allowed.is_empty() {
        let subscriptions = shard.slots[slot].subscriptions();
        sessions::start(shard, slot, subscriptions, None, opening.take());
    }
    for run in allowed.chunk_by(|one, next| one.1 == next.1) {
        subscribe_from(shard, slot, run, opening.take());
    }
    Ok(())
}

/// Subscribes to channels that begin after the same position. A channel that the connection has already is read again
/// from there.
fn subscribe_from(shard: &mut Shard, slot: u32, channels: &[(&str, Option<Id>)], opening: Option<Opening>) {
    let Shard { slots, lanes, cx, .. } = &mut *shard;
    let after = channels.first().and_then(|(_, after)| *after);
    let taken_back = match after {
        Some(_) => channels.iter().filter(|(name, _)| take_back(slots, lanes, cx, slot, name)).count(),
        None => 0,
    };
    // Subscriptions that were taken back are the last ones, and new ones follow them.
    let first = slots[slot].subscriptions() - taken_back;
    for (name, _) in channels {
        subscribe(slots, lanes, cx, slot, name);
    }
    sessions::start(shard, slot, first, after, opening);
    note_coming(&shard.slots, &shard.lanes, &mut shard.cx, slot, first + taken_back);
}

/// Takes a token within the connection: the first one, if the connection waits for it, or the next one.
fn take_token(shard: &mut Shard, slot: u32, token: &str, reference: Option<&str>) -> Result<(), Refusal> {
    match permission::take_token(shard, slot, token) {
        Err(refusal) => return on_refused_token(shard, slot, refusal, reference),
        Ok(None) => reply(shard, slot, reference, Outcome::Done),
        Ok(Some(wanted)) => begin_with_token(shard, slot, *wanted, reference),
    }
    for name in shard.access.no_longer_granted(&shard.cx, &shard.slots, &shard.lanes, slot) {
        let _ = unsubscribe_some(shard, slot, &[&*name]);
        let connection = &mut shard.slots[slot];
        let notice = Notice::Unsubscribed { channel: &name, reason: "the new token does not allow it" };
        connection.key.notify(&notice, connection.words());
    }
    Ok(())
}

/// Begins the session of a connection that has sent its first token. The welcome comes before the reply to the token.
fn begin_with_token(shard: &mut Shard, slot: u32, mut wanted: Wanted, reference: Option<&str>) {
    let mut opening = Opening::welcome();
    write_reply(shard, slot, reference, Outcome::Done, opening.then());
    shard.reading.spend(wanted.channels.len());
    // Other connections may have taken the room that there was when the connection was opened.
    let room = check_room_for_channels(&shard.lanes, &shard.cx, &wanted.channels);
    if let Err(refusal) = room.and_then(|()| admit_channels(shard, slot, &wanted.channels)) {
        let refusal = refusal.of_channels(std::mem::take(&mut wanted.channels));
        write_reply(shard, slot, None, Outcome::Refused(&refusal), opening.then());
    }
    sessions::begin_subscriptions(shard, slot, &wanted.channels, wanted.after, opening);
}

/// Has a WebSocket whose tokens fail one after the other closed. A token that verifies, but is of another user, is no
/// failure.
fn on_refused_token(shard: &mut Shard, slot: u32, refusal: Refusal, reference: Option<&str>) -> Result<(), Refusal> {
    let has_failed = matches!(refusal.code, Code::InvalidToken | Code::TokenExpired | Code::FailedTokens);
    if !has_failed || shard.access.count_failure(slot) < shard.cx.settings.config.limits.token_tries {
        return Err(refusal);
    }
    reply(shard, slot, reference, Outcome::Refused(&refusal));
    ending::end(shard, slot, &Ending::new(Reason::BadTokens));
    Ok(())
}

/// Counts the channels among `names` that are new to the shard, and those that have presence.
pub(super) fn admit_channels(shard: &mut Shard, slot: u32, names: &[impl AsRef<str>]) -> Result<(), Refusal> {
    admit_names(shard, slot, names)?;
    let Shard { slots, cx, access, .. } = shard;
    let user = access.user(slot).map(|user| user.as_str());
    limits::admit_joins(cx, (slot, &slots[slot]), user, names)
}

/// Counts the channels among `names` that are new to the shard. This is enough for a poll, which joins no channel.
pub(super) fn admit_names(shard: &mut Shard, slot: u32, names: &[impl AsRef<str>]) -> Result<(), Refusal> {
    let Shard { slots, lanes, cx, access, .. } = shard;
    let user = access.user(slot).map(|user| user.as_str());
    limits::admit_names(cx, lanes, (slot, &slots[slot]), user, names)
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
    connection.key.notify(&Notice::Reply { reference, outcome }, connection.words());
}

/// Appends the outcome of a request to bytes that are sent later.
pub(super) fn write_reply(
    shard: &mut Shard,
    slot: u32,
    reference: Option<&str>,
    outcome: Outcome<'_>,
    bytes: &mut Vec<u8>,
) {
    shard.cx.counters.errors += u64::from(matches!(outcome, Outcome::Refused(_)));
    shard.slots[slot].key.notify(&Notice::Reply { reference, outcome }, bytes);
}
