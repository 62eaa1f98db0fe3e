//! The backend's decision about clients without a token: the request or message waits, and is carried out with the answer.

use arcstr::ArcStr;

use crate::config::Verdict;
use crate::link::{Answer, ConnectionId, HubMessage, Question};
use crate::logic::auth::Identity;
use crate::logic::code::Code;
use crate::logic::protocol::http::Request;
use crate::logic::refusal::Refusal;

use super::super::access::Access;
use super::super::connection::State;
use super::super::context::Context;
use super::super::subscriptions::note_presence;
use super::super::waiting::{Asking, Decided, Hold, Waiting, Wanted};
use super::{Shard, messages};

/// The channels that a decision allows: the channels of the question, or those that the answer names. The identity
/// keeps only the last names of a long list, so the channels of the question are put last.
fn allowed_channels(asked: Vec<String>, named: Option<Vec<String>>) -> Vec<String> {
    let Some(mut named) = named else { return asked };
    named.sort_by_cached_key(|name| asked.contains(name));
    named
}

/// Whether a connection may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// The connection may go on: its allowed channels are known.
    Known,
    /// The backend was asked, and the request or message waits for its answer.
    Pending,
}

/// Obtains the backend's decision on channels, if the connection has no token and the channels are neither public nor
/// allowed already. After the decision the same request or message calls this again. The backend is told some fields
/// of
/// `request`.
///
/// # Errors
/// If the decision names a user that has too many connections.
pub(super) fn obtain(
    shard: &mut Shard,
    slot: u32,
    channels: &[impl AsRef<str>],
    request: Option<&Request<'_>>,
) -> Result<Permission, Refusal> {
    let auth = &shard.cx.settings.config.auth;
    if !auth.ask_backend || auth.allow_anonymous || shard.access.has_token(slot) {
        return Ok(Permission::Known);
    }
    if shard.slots[slot].is_decided()
        && let Waiting::Decided(decided) = shard.slots[slot].take_waiting()
    {
        return decided.outcome.map(|()| Permission::Known);
    }
    let is_denied = |name: &&str| shard.access.may_subscribe(&shard.cx, slot, name).is_err();
    let unknown: Vec<String> = channels.iter().map(AsRef::as_ref).filter(is_denied).map(str::to_owned).collect();
    if unknown.is_empty() {
        return Ok(Permission::Known);
    }
    if !shard.upstream.listening.authorize {
        let allowed = if auth.ask_default == Verdict::Allow { unknown } else { Vec::new() };
        allow(shard, slot, &allowed, None)?;
        return Ok(Permission::Known);
    }
    ask(shard, slot, unknown, request);
    Ok(Permission::Pending)
}

fn ask(shard: &mut Shard, slot: u32, channels: Vec<String>, request: Option<&Request<'_>>) {
    shard.cx.counters.questions += 1;
    let number = shard.cx.counters.questions as u32;
    let connection = &mut shard.slots[slot];
    connection.hold(Hold::BACKEND);
    let asking = Asking { number, channels: channels.clone(), message: None };
    connection.extra().waiting = Waiting::Backend(Box::new(asking));
    let cookies = request.map(|request| request.cookies.join("; ")).filter(|cookies| !cookies.is_empty());
    let question = Question {
        number,
        channels,
        address: connection.peer.to_string().into(),
        authorization: request.and_then(|request| request.authorization).map(Into::into),
        cookie: cookies.map(Into::into),
        origin: request.and_then(|request| request.origin).map(Into::into),
    };
    let who = messages::speaker(shard, slot);
    shard.cx.tell_hub(HubMessage::Ask { who, question: Box::new(question) });
    shard.slots.set_deadline(slot, shard.cx.now + shard.cx.settings.ask_timeout);
}

/// Takes the backend's answer, or the configured one if the backend is silent, and has the connection go on.
pub(super) fn on_answer(shard: &mut Shard, id: ConnectionId, number: u32, answer: Answer) {
    let Some(slot) = shard.slots.find(shard.cx.index, id) else { return };
    if shard.slots[slot].asking().is_none_or(|asking| asking.number != number) {
        return;
    }
    let Waiting::Backend(asking) = shard.slots[slot].take_waiting() else { return };
    // The identity is set now and not with the request, because a kick of its user may come before the request.
    let outcome = allow(shard, slot, &allowed_channels(asking.channels, answer.allowed), answer.user);
    let connection = &mut shard.slots[slot];
    connection.extra().waiting = Waiting::Decided(Box::new(Decided { outcome, message: asking.message }));
    connection.release(Hold::BACKEND);
    shard.slots.set_deadline(slot, 0);
    shard.slots.weigh(slot);
    if shard.slots[slot].state == State::WebSocket {
        messages::hear_again(shard, slot);
    } else {
        shard.slots.read_later(slot);
    }
}

/// Decides by the configured default after the backend's time is over; returns whether the connection waited for it.
pub(super) fn answer_by_default(shard: &mut Shard, slot: u32) -> bool {
    let Some(number) = shard.slots[slot].asking().map(|asking| asking.number) else { return false };
    let is_allowed = shard.cx.settings.config.auth.ask_default == Verdict::Allow;
    let allowed = if is_allowed { None } else { Some(Vec::new()) };
    let id = shard.slots.name(shard.cx.index, slot);
    shard.cx.counters.questions_unanswered += 1;
    on_answer(shard, id, number, Answer { allowed, user: None });
    true
}

/// Gives the connection the identity and the channels that the backend has allowed.
fn allow(shard: &mut Shard, slot: u32, channels: &[String], user: Option<ArcStr>) -> Result<(), Refusal> {
    let known = shard.access.decided(&shard.cx, slot, channels, user);
    let changes_user = known.user.as_ref() != shard.access.user(slot);
    change_identity(shard, slot, changes_user, |access, cx| access.set(cx, slot, known))
}

/// Changes a connection's identity. If its user changes, presence on the connection's channels is told anew.
fn change_identity<T>(
    shard: &mut Shard,
    slot: u32,
    changes_user: bool,
    change: impl FnOnce(&mut Access, &mut Context) -> T,
) -> T {
    let note_all = |shard: &mut Shard, is_coming: bool| {
        let Shard { slots, lanes, cx, .. } = &mut *shard;
        let subscribed: Vec<u32> = slots[slot].subscriptions_from(0).map(|s| s.lane).collect();
        for lane in subscribed {
            note_presence(slots, lanes, cx, slot, lane, is_coming);
        }
        // The notices of leaving must carry the identity from before the change.
        shard.carry_out();
    };
    if changes_user {
        note_all(shard, false);
    }
    let result = change(&mut shard.access, &mut shard.cx);
    if changes_user {
        note_all(shard, true);
    }
    result
}

/// Takes a token within a WebSocket: the first one, or the next one. Returns the channels that the client has named
/// before its first token.
pub(super) fn take_token(shard: &mut Shard, slot: u32, token: &str) -> Result<Option<Box<Wanted>>, Refusal> {
    if shard.access.keyring.is_none() {
        return Err(Refusal::new(Code::Unavailable, "this server verifies no tokens"));
    }
    let Shard { slots, cx, access, .. } = &mut *shard;
    let identity: Identity = access.verify_of(cx, &slots[slot], token)?;
    if let Some(known) = shard.access.identities.get(slot)
        && known.user != identity.user
    {
        return Err(Refusal::new(Code::Forbidden, "the token is of another user; connect again with it"));
    }
    let changes_user = identity.user.as_ref() != shard.access.user(slot);
    change_identity(shard, slot, changes_user, |access, cx| access.remember(cx, slot, identity))?;
    shard.slots.reschedule(slot);
    if !shard.slots[slot].awaits_token() {
        return Ok(None);
    }
    shard.slots[slot].deadline = 0;
    match shard.slots[slot].take_waiting() {
        Waiting::Token(wanted) => Ok(Some(wanted)),
        _ => Ok(None),
    }
}
