//! Held polls and their answers. A poll's subscriptions end with its answer.

use crate::link::Replay;
use crate::logic::cells::NONE;
use crate::logic::event::ChannelName;
use crate::logic::id::Id;
use crate::logic::protocol::http::{Cors, Exchange, Response, encode};
use crate::logic::session::Notice;
use crate::logic::wheel::Tick;

use super::closing::after_answer;
use super::connection::{Flags, State};
use super::context::{Context, Effect};
use super::lanes::Lanes;
use super::merge::{frame_page, take_pending};
use super::refusals::cors_of_unknown;
use super::slots::Slots;
use super::subscriptions::unsubscribe_all;
use super::waiting::Hold;

/// The bytes of events in one answer, beyond which further events are left for the next answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Whether events of a lane wait that the connection has not been sent.
pub(super) fn has_unread(slots: &Slots, lanes: &Lanes, slot: u32) -> bool {
    slots[slot].subscriptions_from(0).any(|s| s.place != NONE && s.cursor < lanes[s.lane].log.head())
}

/// Whether a poll has something to answer with: events, or the end of a channel that the client was not told of.
fn has_news(slots: &Slots, lanes: &Lanes, slot: u32) -> bool {
    let told = told(slots, slot);
    let mut ends = slots[slot].subscriptions_from(0).filter_map(|s| lanes.end_of(s.lane));
    has_unread(slots, lanes, slot) || ends.any(|end| end > told)
}

/// The position up to which a poll's client was told of channels' ends.
fn told(slots: &Slots, slot: u32) -> Id {
    slots[slot].extra.as_ref().and_then(|extra| extra.poll.as_ref()).map_or(Id::ZERO, |poll| poll.told)
}

/// Answers a poll whose subscriptions have begun, or holds it for `wait`. `after` is the position that its client has asked
/// for, `position` the one from which the subscriptions read. A client that was told of the ends of all its channels is
/// answered that nothing will come.
pub(super) fn settle(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    slot: u32,
    (after, position): (Option<Id>, Id),
    wait: Tick,
) {
    let has_ended = |slots: &Slots, index| {
        slots[slot].subscription(index).is_some_and(|subscription| lanes.channel_of(subscription.lane).ended)
    };
    let ended = (0..slots[slot].subscriptions()).filter(|index| has_ended(slots, *index)).count();
    if let Some(after) = after.filter(|after| ended > 0 && *after <= lanes.seen) {
        slots[slot].extra().poll.get_or_insert_default().told = after;
    }
    if wait == 0 || has_news(slots, lanes, slot) {
        answer_from(slots, lanes, cx, slot, position);
    } else if ended == slots[slot].subscriptions() {
        respond(slots, lanes, cx, slot, Response::nothing());
        await_request(slots, cx, slot);
    } else {
        slots.set_deadline(slot, cx.now + wait);
    }
}

/// Answers a held poll if it has something to answer with.
pub(super) fn answer(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    if has_news(slots, lanes, slot) {
        let position = lanes.seen;
        answer_from(slots, lanes, cx, slot, position);
    }
}

/// Answers with everything between the cursors and the heads; `next` in the answer is at least `position`.
fn answer_from(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, position: Id) {
    write_pending(slots, lanes, cx, slot, position);
    await_request(slots, cx, slot);
}

/// Answers a held poll whose time is over. The answer is empty if no event has come.
pub(super) fn answer_empty(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    write_rest(slots, lanes, cx, slot);
    await_request(slots, cx, slot);
}

fn write_pending(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, position: Id) {
    let mut events = Vec::new();
    let (count, last) = take_pending(slots, lanes, slot, &mut events, ANSWER_BYTES_MAX);
    let is_whole = !has_unread(slots, lanes, slot);
    // An answer with everything lets the client go on after all ids that the shard has seen, on other channels too.
    let next = match is_whole {
        true => last.unwrap_or(position).max(lanes.seen).max(position),
        false => last.unwrap_or(position),
    };
    count_events(slots, cx, slot, count);
    let told = told(slots, slot);
    write_answer(slots, lanes, cx, slot, Answer { events: &events, next, gap: None, is_whole, told });
}

/// Writes the answer of a held poll that is ended. The answer is empty if no event has come.
pub(super) fn write_rest(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    // The lane's walk may not have reached the poll yet.
    if has_unread(slots, lanes, slot) {
        let position = lanes.seen;
        write_pending(slots, lanes, cx, slot, position);
        return;
    }
    // The position must stay before missed events that the hub has not sent yet.
    let asked = slots[slot].resume().map(|resume| resume.after);
    let next = asked.map_or(lanes.seen, |after| after.unwrap_or(lanes.seen));
    let told = told(slots, slot);
    write_answer(slots, lanes, cx, slot, Answer { events: &[], next, gap: None, is_whole: asked.is_none(), told });
}

/// Answers with a page of missed events.
pub(super) fn answer_replay(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, replay: &Replay) {
    let slot = replay.slot;
    let mut events = Vec::new();
    let (count, until) = frame_page(slots[slot].key, &replay.events, |_| true, &mut events);
    count_events(slots, cx, slot, count);
    cx.counters.gaps += u64::from(replay.gap.is_some());
    let (next, is_whole) = (until.unwrap_or(replay.until), replay.last && until.is_none());
    let told = replay.after.filter(|_| replay.gap.is_none()).unwrap_or(Id::ZERO);
    let answer = Answer { events: &events, next, gap: replay.gap, is_whole, told };
    write_answer(slots, lanes, cx, slot, answer);
    await_request(slots, cx, slot);
}

/// Answers a held poll that events are lost for everybody, up to `resumed`. Events that wait are answered instead: the
/// client's next poll comes with an earlier position and is told.
pub(super) fn answer_lost(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, resumed: Id) {
    if has_unread(slots, lanes, slot) || slots[slot].resume().is_some() {
        return;
    }
    cx.counters.gaps += 1;
    let answer = Answer { events: &[], next: resumed, gap: Some(resumed), is_whole: true, told: Id::ZERO };
    write_answer(slots, lanes, cx, slot, answer);
    await_request(slots, cx, slot);
}

fn count_events(slots: &mut Slots, cx: &mut Context, slot: u32, count: u64) {
    cx.counters.deliveries += count;
    slots[slot].events = slots[slot].events.saturating_add(count as u32);
}

/// The content of a poll's answer.
struct Answer<'a> {
    /// The events' frames, one after the other.
    events: &'a [u8],
    /// The position for the next poll.
    next: Id,
    /// The id up to which events are lost, if some are.
    gap: Option<Id>,
    /// Whether the answer has all events that there are.
    is_whole: bool,
    /// The position up to which the client was told of channels' ends.
    told: Id,
}

/// Writes the answer and ends the subscriptions.
fn write_answer(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, answer: Answer<'_>) {
    let ended = if answer.is_whole { ended_channels(slots, lanes, slot, answer.told) } else { Vec::new() };
    let ended: Vec<&str> = ended.iter().map(|name| name.as_str()).collect();
    let notice = Notice::PollAnswer { events: answer.events, next: answer.next, gap: answer.gap, ended: &ended };
    let mut body = Vec::new();
    slots[slot].key.notify(&notice, &mut body);
    respond(slots, lanes, cx, slot, Response::json(&body[..]));
}

/// Writes a response to a poll, and ends its subscriptions.
fn respond(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32, response: Response<'_>) {
    unsubscribe_all(slots, lanes, cx, slot);
    let date = Some(cx.date());
    let connection = &mut slots[slot];
    connection.flags.remove(Flags::REPLAYING);
    if cx.is_draining() {
        connection.flags.remove(Flags::KEEP_ALIVE);
    }
    let origin = connection.extra.as_mut().and_then(|extra| extra.poll.take()).and_then(|poll| poll.origin);
    let cors = match &origin {
        Some(origin) => Cors::Origin(origin),
        None => cors_of_unknown(cx),
    };
    let exchange = Exchange {
        keep_alive: connection.flags.intersects(Flags::KEEP_ALIVE),
        is_http_1_1: connection.flags.intersects(Flags::HTTP_1_1),
        is_http_2: connection.flags.intersects(Flags::CARRIED),
        head_only: false,
        date,
    };
    if let Some(extra) = &mut connection.extra {
        extra.resumes.clear();
    }
    encode(&response.with_cors(cors), &exchange, connection.out());
    slots.enter_state(slot, State::Http);
    cx.effect(Effect::PollAnswered(slot));
}

/// Has the connection go on with its next request.
fn await_request(slots: &mut Slots, cx: &mut Context, slot: u32) {
    after_answer(slots, cx, slot);
    slots[slot].release(Hold::AHEAD);
    if slots[slot].extra.as_ref().is_some_and(|extra| !extra.input.is_empty()) {
        slots.read_later(slot);
    }
}

/// The connection's channels that have ended after `told`, for which the client need not ask again.
fn ended_channels(slots: &Slots, lanes: &Lanes, slot: u32, told: Id) -> Vec<ChannelName> {
    let ended = slots[slot].subscriptions_from(0).filter(|s| lanes.end_of(s.lane).is_some_and(|end| end > told));
    ended.filter_map(|s| lanes.channel_of(s.lane).name.clone()).collect()
}
