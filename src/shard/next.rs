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
use super::frames;
use super::lanes::Lanes;
use super::merge::{is_short_enough, merge};
use super::slots::Slots;
use super::subscriptions;
use super::waiting::Hold;

/// Plans the connection's next send, if it has bytes to send and can take them.
pub(super) fn plan(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, batch: &mut Batch, slot: u32) {
    let connection = &slots[slot];
    if connection.flags.intersects(Flags::CARRIED) {
        return frames::mark(slots, cx, slot);
    }
    if connection.state == State::Carrying {
        return frames::plan(slots, lanes, cx, batch, slot);
    }
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
        // Nothing but the rest of earlier records must be sent.
        None if slots[slot].flags.intersects(Flags::SEALED) && slots.tls.has_rest(slot) => {
            slots[slot].flags.insert(Flags::PLANNED);
            batch.add(Plan { slot, piece: Piece::Out });
        }
        None => on_all_sent(slots, lanes, cx, slot),
    }
}

/// The bytes that the connection is sent next, if it has some.
pub(super) fn next_piece(
    slots: &mut Slots,
    lanes: &Lanes,
    cx: &mut Context,
    batch: &mut Batch,
    slot: u32,
) -> Option<Piece> {
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
    if connection.holds_head() {
        return None;
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
    next_frames(slots, lanes, batch, slot)
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

/// The next frames of a connection's channels, in the order of ids over all channels.
fn next_frames(slots: &Slots, lanes: &Lanes, batch: &mut Batch, slot: u32) -> Option<Piece> {
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
    slots.weigh(slot);
}

/// Goes on with the steps of a connection that had to wait until all of its bytes were sent.
pub(super) fn on_all_sent(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
    slots.tidy(slot);
    let connection = &mut slots[slot];
    // The last record says that nothing more follows. A browser takes it for the end of a WebSocket, as it takes TCP's.
    let is_last = connection.state == State::Closing && !connection.awaits_close_frame();
    if is_last && connection.flags.intersects(Flags::SEALED) && slots.tls.end(slot) {
        slots.weigh_tls(slot);
        return slots.queue(slot);
    }
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

/// Whether a connection has the common state after a send: one channel, nothing else pending, everything sent.
pub(super) fn is_caught_up(slots: &Slots, lanes: &Lanes, slot: u32) -> bool {
    let connection = &slots[slot];
    if connection.extra.is_some() || connection.flags.intersects(Flags::HEARTBEAT) || connection.first.lane == NONE {
        return false;
    }
    let lane = &lanes[connection.first.lane];
    connection.state != State::Closing
        && connection.first.cursor == lane.log.head()
        && !lanes.channels[lane.channel].ended
}

#[cfg(test)]
mod tests {
    use super::super::connection::{Gap, Resume, Subscription};
    use super::super::tests::tables::{Tables, id};
    use super::*;
    use crate::config::SlowPolicy;

    /// The next piece for a connection, which is not sent.
    fn next(tables: &mut Tables, slot: u32) -> Option<Piece> {
        let Tables { slots, lanes, cx, batch } = tables;
        batch.plans.clear();
        plan(slots, lanes, cx, batch, slot);
        slots[slot].flags.remove(Flags::PLANNED);
        batch.plans.pop().map(|plan| plan.piece)
    }

    /// A stream on a lane with two events of ten bytes.
    fn with_two() -> (Tables, u32) {
        let mut tables = Tables::new();
        let lane = tables.lane(SlowPolicy::Gap);
        let slot = tables.stream(&[lane]);
        (1..=2).for_each(|number| tables.append(lane, number, 10));
        (tables, slot)
    }

    fn run(piece: Option<Piece>) -> Option<(Position, Position)> {
        match piece? {
            Piece::Run { start, end, .. } => Some((start, end)),
            _ => None,
        }
    }

    #[test]
    fn one_send_has_everything_up_to_the_head() {
        let (mut tables, slot) = with_two();
        assert_eq!(run(next(&mut tables, slot)), Some((0, 20)));
        tables.set_cursor(slot, 0, 13, true);
        assert_eq!(run(next(&mut tables, slot)), Some((13, 20)), "a frame that is sent in part too");
        tables.set_cursor(slot, 0, 20, false);
        assert!(next(&mut tables, slot).is_none());
        tables.slots[slot].extra();
        tables.set_cursor(slot, 0, 3, true);
        assert_eq!(run(next(&mut tables, slot)), Some((3, 20)), "nothing else waits for the frame's end");
    }

    #[test]
    fn a_frame_is_finished_before_anything_else_is_sent() {
        for flag in [Flags::HEARTBEAT, Flags::REPLAYING, Flags::empty()] {
            let (mut tables, slot) = with_two();
            tables.set_cursor(slot, 0, 3, true);
            tables.slots[slot].flags.insert(flag);
            if flag.is_empty() {
                tables.slots[slot].out().extend_from_slice(b"reply");
            }
            assert_eq!(run(next(&mut tables, slot)), Some((3, 10)), "{flag:?}");
        }
        let (mut tables, slot) = with_two();
        tables.set_cursor(slot, 0, 3, true);
        tables.slots[slot].extra().gap = Some(Box::new(Gap { after: id(1), resumed: id(2) }));
        assert_eq!(run(next(&mut tables, slot)), Some((3, 10)), "a gap is told after the frame");
        assert!(tables.slots[slot].extra().gap.is_some());
    }

    #[test]
    fn a_frame_of_one_of_several_channels_is_finished_first() {
        let mut tables = Tables::new();
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = tables.stream(&lanes);
        tables.append(lanes[0], 1, 10);
        tables.append(lanes[1], 2, 10);
        tables.set_cursor(slot, 1, 4, true);
        assert_eq!(run(next(&mut tables, slot)), Some((4, 10)));
        tables.set_cursor(slot, 1, 10, false);
        assert_eq!(run(next(&mut tables, slot)), Some((0, 10)), "one lane alone is not copied");
        tables.set_cursor(slot, 1, 0, false);
        assert!(matches!(next(&mut tables, slot), Some(Piece::Merged { start: 0, end: 20 })));
    }

    #[test]
    fn answers_go_before_heartbeats_and_these_before_events() {
        let (mut tables, slot) = with_two();
        tables.slots[slot].out().extend_from_slice(b"reply");
        tables.slots[slot].flags.insert(Flags::HEARTBEAT);
        assert!(matches!(next(&mut tables, slot), Some(Piece::Out)));
        tables.slots[slot].extra().out.clear();
        assert!(matches!(next(&mut tables, slot), Some(Piece::Heartbeat)));
        tables.slots[slot].flags.remove(Flags::HEARTBEAT);
        tables.slots[slot].flags.insert(Flags::REPLAYING);
        assert!(next(&mut tables, slot).is_none(), "live events wait for the missed ones");
        tables.slots[slot].flags.remove(Flags::REPLAYING);
        assert_eq!(run(next(&mut tables, slot)), Some((0, 20)));
    }

    #[test]
    fn a_gap_is_told_between_two_frames() {
        let (mut tables, slot) = with_two();
        tables.slots[slot].extra().gap = Some(Box::new(Gap { after: id(1), resumed: id(2) }));
        assert!(matches!(next(&mut tables, slot), Some(Piece::Out)));
        assert!(
            tables.out(slot).contains("ringcast.gap") && tables.out(slot).contains("id: 2-0"),
            "{}",
            tables.out(slot)
        );
        assert_eq!(tables.cx.counters.gaps, 1);
        tables.slots.check_invariants();
    }

    #[test]
    fn a_connection_without_room_or_in_a_plan_gets_no_other() {
        for (flag, state) in [
            (Flags::BLOCKED, State::Stream),
            (Flags::PLANNED, State::Stream),
            (Flags::empty(), State::Lingering),
            (Flags::empty(), State::Dead),
        ] {
            let (mut tables, slot) = with_two();
            tables.slots[slot].out().extend_from_slice(b"bytes");
            tables.slots[slot].flags.insert(flag);
            tables.slots.enter_state(slot, state);
            assert!(next(&mut tables, slot).is_none(), "{flag:?} {state:?}");
        }
        let (mut tables, slot) = with_two();
        tables.slots.enter_state(slot, State::Closing);
        assert!(next(&mut tables, slot).is_none(), "a connection that ends gets no event");
        assert_eq!(tables.slots[slot].state, State::Lingering, "it has everything");
        assert_eq!(tables.slots[slot].deadline, 1 + 20, "it has two seconds from now on");
    }

    #[test]
    fn polls_and_subscriptions_that_do_not_read_yet_get_no_frames() {
        let (mut tables, slot) = with_two();
        tables.slots.enter_state(slot, State::Poll);
        assert!(next(&mut tables, slot).is_none());
        tables.slots.enter_state(slot, State::Stream);
        let waiting = tables.lane(SlowPolicy::Gap);
        tables.append(waiting, 3, 10);
        let subscription = Subscription { lane: waiting, place: NONE, cursor: 0 };
        tables.slots[slot].add_subscription(subscription);
        assert_eq!(run(next(&mut tables, slot)), Some((0, 20)));
        let alone = tables.stream(&[]);
        tables.slots[alone].add_subscription(subscription);
        assert!(next(&mut tables, alone).is_none());
    }

    #[test]
    fn a_short_rest_over_the_end_of_a_chunk_is_copied_if_there_is_room() {
        let mut tables = Tables::new();
        let lane = tables.lane(SlowPolicy::Gap);
        let slot = tables.stream(&[lane]);
        // The first chunk of the log ends with the second frame.
        [100_000, 60_000, 10].into_iter().zip(1..).for_each(|(bytes, number)| tables.append(lane, number, bytes));
        assert_eq!(run(next(&mut tables, slot)), Some((0, 160_000)), "there is much to copy");
        tables.set_cursor(slot, 0, 100_000, false);
        assert!(matches!(next(&mut tables, slot), Some(Piece::Merged { start: 0, end: 60_010 })));
        tables.set_cursor(slot, 0, 160_000, false);
        assert_eq!(run(next(&mut tables, slot)), Some((160_000, 160_010)));
        tables.batch.arena.resize(4 << 20, 0);
        tables.set_cursor(slot, 0, 100_000, false);
        assert_eq!(run(next(&mut tables, slot)), Some((100_000, 160_000)));
    }

    #[test]
    fn a_client_is_read_again_when_all_is_sent_that_its_requests_have_waited_for() {
        for (state, waited, has_input, sent, is_read) in [
            (State::Http, true, false, 0, true),
            (State::Http, false, true, 1, true),
            (State::Http, false, true, 0, false),
            (State::Http, false, false, 1, false),
            (State::Stream, true, false, 0, true),
            (State::WebSocket, true, false, 0, true),
            (State::WebSocket, false, true, 1, false),
            (State::Poll, true, true, 1, false),
        ] {
            let mut tables = Tables::new();
            let slot = tables.stream(&[]);
            tables.slots.enter_state(slot, state);
            tables.slots[slot].sent = sent;
            if waited {
                tables.slots[slot].hold(Hold::REPLIES);
            }
            if has_input {
                tables.slots[slot].extra().input.extend_from_slice(b"GET");
            }
            assert!(next(&mut tables, slot).is_none());
            let is_to_be_read = tables.slots.next_unread() == Some(slot);
            assert_eq!(is_to_be_read, is_read, "{state:?} {waited} {has_input} {sent}");
            assert_eq!(tables.slots[slot].holds(), Hold::empty());
            tables.slots.check_invariants();
        }
    }

    #[test]
    fn the_next_page_is_asked_for_once_when_the_one_before_is_sent() {
        for page_due in [false, true] {
            let (mut tables, slot) = with_two();
            let resume = Resume {
                number: 7,
                channels: vec![0],
                sent: Vec::new(),
                after: None,
                page_due,
                wait: 0,
                opening: None,
            };
            tables.slots[slot].extra().resumes.push_back(resume);
            tables.slots[slot].flags.insert(Flags::REPLAYING);
            (0..2).for_each(|_| assert!(next(&mut tables, slot).is_none()));
            let asked = tables
                .cx
                .effects
                .iter()
                .filter(|effect| matches!(effect, Effect::AskForPage { slot: of, number: 7 } if *of == slot));
            assert_eq!((asked.count(), tables.cx.effects.len()), (usize::from(page_due), usize::from(page_due)));
        }
    }
}
