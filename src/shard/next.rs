//! Choosing a connection's next bytes: one send has everything that is pending, so that under load sends grow longer
//! instead of more numerous.
//!
//! The order of the kinds of bytes keeps frames whole: a frame that is sent in part is finished first; then come
//! `out`
//! (answers, notices, missed events), a heartbeat, and the lanes' frames.

use crate::logic::cells::NONE;
use crate::logic::log::Position;
use crate::logic::session::Notice;

use super::batch::{Batch, Piece, Plan};
use super::connection::{Flags, State};
use super::context::{Context, Effect};
use super::lanes::Lanes;
use super::merge::{is_short_enough, merge};
use super::slots::Slots;
use super::subscriptions;
use super::waiting::Hold;

/// Plans the connection's next send, if it has bytes to send and can take them.
pub(super) fn plan(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, batch: &mut Batch, slot: u32) {
    let connection = &slots[slot];
    let can_send = !matches!(connection.state, State::Free | State::Dead | State::Lingering);
    if !can_send || connection.flags.intersects(Flags::BLOCKED | Flags::PLANNED) {
        return;
    }
    match next_piece(slots, lanes, cx, batch, slot) {
        Some(piece) => {
            debug_assert!(slots[slot].fd.is_some(), "a connection that can be sent to has a socket");
            slots[slot].flags.insert(Flags::PLANNED);
            batch.add(Plan { slot, piece });
        }
        None => on_all_sent(slots, lanes, cx, slot),
    }
}

fn next_piece(slots: &mut Slots, lanes: &Lanes, cx: &mut Context, batch: &mut Batch, slot: u32) -> Option<Piece> {
    let connection = &slots[slot];
    let flags = connection.flags;
    let is_live = matches!(connection.state, State::Stream | State::WebSocket);
    if is_live && connection.extra.is_none() && !flags.intersects(Flags::HEARTBEAT | Flags::REPLAYING) {
        return run_to_head(slots, lanes, batch, slot, 0);
    }
    let out_waits = connection.out_waiting() > 0 || connection.extra.as_ref().is_some_and(|e| e.gap.is_some());
    if let Some(index) = connection.mid_frame() {
        let is_alone = connection.subscriptions() == 1;
        if out_waits || !is_alone || flags.intersects(Flags::HEARTBEAT | Flags::REPLAYING) {
            return rest_of_frame(slots, lanes, slot, index);
        }
    }
    write_gap_notice(slots, cx, slot);
    let connection = &slots[slot];
    if connection.out_waiting() > 0 {
        return Some(Piece::Out);
    }
    if flags.intersects(Flags::HEARTBEAT) {
        return Some(Piece::Heartbeat);
    }
    if flags.intersects(Flags::REPLAYING) || !is_live {
        return None;
    }
    match connection.subscriptions() {
        0 => None,
        1 => run_to_head(slots, lanes, batch, slot, 0),
        _ => next_of_several(slots, lanes, batch, slot),
    }
}

/// The frames between a subscription's cursor and the head, up to what one send can have.
fn run_to_head(slots: &Slots, lanes: &Lanes, batch: &mut Batch, slot: u32, index: usize) -> Option<Piece> {
    let subscription = *slots[slot].subscription(index)?;
    if subscription.place == NONE {
        return None;
    }
    let head = lanes[subscription.lane].log.head();
    match run(lanes, index, subscription.lane, subscription.cursor, head)? {
        Piece::Run { start, end, .. } if end < head && is_short_enough(start, head) && batch.has_room_to_copy() => {
            Some(merge(slots, lanes, batch, slot))
        }
        piece => Some(piece),
    }
}

fn rest_of_frame(slots: &Slots, lanes: &Lanes, slot: u32, index: usize) -> Option<Piece> {
    let subscription = slots[slot].subscription(index)?;
    let end = lanes[subscription.lane].log.frame_boundary(subscription.cursor);
    run(lanes, index, subscription.lane, subscription.cursor, end)
}

fn run(lanes: &Lanes, index: usize, lane: u32, start: Position, end: Position) -> Option<Piece> {
    let length = lanes[lane].log.bytes(start, end).len() as u64;
    (length > 0).then_some(Piece::Run { subscription: index as u32, lane, start, end: start + length })
}

/// The next bytes of a connection on several channels, in the order of ids over all channels.
fn next_of_several(slots: &Slots, lanes: &Lanes, batch: &mut Batch, slot: u32) -> Option<Piece> {
    let connection = &slots[slot];
    let is_behind = |index: &usize| {
        connection.subscription(*index).is_some_and(|s| s.place != NONE && s.cursor < lanes[s.lane].log.head())
    };
    let mut behind = (0..connection.subscriptions()).filter(is_behind);
    let only = behind.next()?;
    if behind.next().is_none() {
        return run_to_head(slots, lanes, batch, slot, only);
    }
    Some(merge(slots, lanes, batch, slot))
}

/// Writes the notice of lost events, because the client can take bytes now.
fn write_gap_notice(slots: &mut Slots, cx: &mut Context, slot: u32) {
    let connection = &mut slots[slot];
    let Some(gap) = connection.extra.as_mut().and_then(|extra| extra.gap.take()) else { return };
    cx.counters.gaps += 1;
    let position = connection.gap_position(&gap);
    let notice = Notice::Gap { after: gap.after, resumed: gap.resumed, position };
    connection.key.notify(&notice, connection.out());
}

/// Goes on with the steps of a connection that had to wait until all of its bytes were sent.
fn on_all_sent(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    slots[slot].tidy();
    let connection = &mut slots[slot];
    let waited_for_room = connection.holds().intersects(Hold::REPLIES);
    connection.release(Hold::REPLIES);
    let has_input = connection.extra.as_ref().is_some_and(|extra| !extra.input.is_empty());
    match connection.state {
        State::Closing => slots.linger(slot, cx.now + cx.settings.linger),
        State::Http if waited_for_room => slots.read_later(slot),
        // The kept input may be a whole request, which is carried out, or the beginning of one, which waits for its
        // rest.
        State::Http if has_input && connection.sent == cx.now => slots.read_later(slot),
        State::Stream | State::WebSocket => {
            // The mark is taken now, because a connection can come here again before the effect is carried out.
            if let Some(resume) = connection.resume_mut()
                && std::mem::take(&mut resume.page_due)
            {
                cx.effect(Effect::AskForPage { slot, number: resume.number });
            }
            // The client's messages are read between two pages too, because it may unsubscribe from the rest of them.
            if waited_for_room {
                slots.read_later(slot);
            }
            subscriptions::leave_ended(slots, lanes, cx, slot);
        }
        _ => {}
    }
}
