//! The bytes of streams in frames of HTTP/2: what a connection's next send has of each of its streams, and which of that the
//! kernel took.
//!
//! A stream chooses its bytes as a connection does; they are copied behind a frame's head into the batch. A frame of which the
//! kernel took a byte counts as sent, and its rest goes to the front of the carrier's `out`; frames that it did not touch are
//! given back. One send has the bytes of all streams of its connection, each in its turn.

use crate::logic::h2::{ErrorCode, FRAME_MAX, Flag, HEADER, Kind, Link, write_goaway, write_header, write_reset};
use crate::logic::reason::Reason;

use super::batch::{Batch, Carried, Piece, Plan, plain};
use super::closing::finish;
use super::connection::{Flags, State};
use super::context::{Context, Effect};
use super::h2::Stream;
use super::lanes::Lanes;
use super::next::{next_piece, on_all_sent};
use super::slots::Slots;
use super::waiting::Hold;

/// The most data of one frame: with its head it fits into a record of TLS.
const DATA_MAX: usize = 4096 - HEADER;
/// The bytes of one send beyond which no stream's bytes are added.
const SEND_MAX: usize = 16 * 1024;
/// The room that a client must have before it is sent a page of missed events.
const PAGE_ROOM: i32 = 1024;

/// A frame in a planned send.
#[derive(Debug)]
pub(super) struct Sent {
    /// The stream's slot.
    pub(super) slot: u32,
    /// The stream's bytes that the frame has some of.
    pub(super) piece: Piece,
    /// The frame's end among the batch's frames.
    pub(super) end: usize,
    /// The bytes of the piece that the frame has.
    pub(super) bytes: usize,
    /// The bytes of data that count towards the windows.
    pub(super) data: usize,
    /// The frame ends the stream.
    pub(super) ends: bool,
}

/// What the kernel took of one stream's bytes.
#[derive(Debug)]
pub(super) struct Share {
    /// The stream's slot.
    pub(super) slot: u32,
    /// The stream's bytes of which some were planned.
    pub(super) piece: Piece,
    /// The bytes that were taken.
    pub(super) bytes: usize,
    /// The end of the stream was taken too.
    pub(super) has_ended: bool,
    /// Everything that was planned was taken.
    pub(super) is_all: bool,
}

/// Has a stream's carrier send what the stream has. A stream that cannot be sent to now counts as one that takes no bytes.
pub(super) fn mark(slots: &mut Slots, cx: &Context, slot: u32) {
    let Some(stream) = slots.h2.stream(slot) else { return };
    let is_blocked = slots[stream.carrier].flags.intersects(Flags::BLOCKED);
    if is_blocked || stream.window <= 0 || slots.h2.room(stream.carrier) <= 0 {
        block(slots, cx, slot);
    }
    slots.queue(slot);
}

/// Blocks a stream until its client has room.
fn block(slots: &mut Slots, cx: &Context, slot: u32) {
    if slots[slot].flags.intersects(Flags::BLOCKED) {
        return;
    }
    if let Some(stream) = slots.h2.stream_mut(slot) {
        stream.has_no_room = true;
    }
    slots[slot].flags.insert(Flags::BLOCKED);
    // The time in which the client must take some bytes begins now.
    slots[slot].sent = cx.now;
    slots.look_by(slot, cx.now + cx.settings.stall);
}

/// Plans the next send of a connection that speaks HTTP/2.
pub(super) fn plan(slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, batch: &mut Batch, slot: u32) {
    note_pages(slots, cx, slot);
    if slots[slot].flags.intersects(Flags::BLOCKED | Flags::PLANNED) {
        return;
    }
    let (start, first) = (batch.frames.len(), batch.sent.len());
    batch.frames.extend_from_slice(slots[slot].out_bytes());
    let out = batch.frames.len() - start;
    let is_cut = add_streams(slots, lanes, cx, batch, slot, start);
    let end = batch.frames.len();
    if end > start || slots[slot].flags.intersects(Flags::SEALED) && slots.tls.has_rest(slot) {
        slots[slot].flags.insert(Flags::PLANNED);
        let count = batch.sent.len() - first;
        batch.add(Plan { slot, piece: Piece::Carried(Carried { start, end, out, first, count, is_cut }) });
    } else {
        on_carrier_idle(slots, cx, slot);
    }
}

/// Gives the places of pages back that are about to be sent.
fn note_pages(slots: &mut Slots, cx: &mut Context, carrier: u32) {
    let mut at = slots.h2.first_in_turn(carrier);
    for _ in 0..slots.h2.count(carrier) {
        let Some(slot) = at else { break };
        if slots[slot].flags.intersects(Flags::PAGE) {
            slots[slot].flags.remove(Flags::PAGE);
            cx.effect(Effect::PageSent);
        }
        at = slots.h2.next_in_turn(slot);
    }
}

/// Adds frames of all streams that have something to send; returns whether some are left out because the send is long.
fn add_streams(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    batch: &mut Batch,
    carrier: u32,
    start: usize,
) -> bool {
    let mut room = slots.h2.room(carrier);
    let mut at = slots.h2.first_in_turn(carrier);
    for _ in 0..slots.h2.count(carrier) {
        let Some(slot) = at else { break };
        if batch.frames.len() - start >= SEND_MAX {
            slots.h2.give_turn(carrier, slot);
            return true;
        }
        add_stream(slots, lanes, cx, batch, slot, (start, &mut room));
        at = slots.h2.next_in_turn(slot);
    }
    false
}

fn add_stream(
    slots: &mut Slots,
    lanes: &mut Lanes,
    cx: &mut Context,
    batch: &mut Batch,
    slot: u32,
    (start, room): (usize, &mut i32),
) {
    let awaits_page = slots[slot].resume().is_some_and(|resume| resume.page_due) && slots[slot].out_waiting() == 0;
    let initial = slots.h2.carrier_of(slot).and_then(|carrier| slots.h2.link(carrier)).map_or(0, |link| link.initial());
    // A client with a small window never has more room than that.
    let needed = if awaits_page { PAGE_ROOM.min(initial / 2).max(1) } else { 1 };
    let Some(stream) = slots.h2.stream_mut(slot) else { return };
    let most = stream.window.min(*room);
    if stream.has_no_room && most >= needed {
        stream.has_no_room = false;
        slots[slot].flags.remove(Flags::BLOCKED);
        slots[slot].flags.insert(Flags::QUEUED);
    }
    let connection = &mut slots[slot];
    let can_send = !matches!(connection.state, State::Free | State::Dead | State::Lingering);
    if !can_send || connection.flags.intersects(Flags::BLOCKED) || !connection.flags.intersects(Flags::QUEUED) {
        return;
    }
    connection.flags.remove(Flags::QUEUED);
    match next_piece(slots, lanes, cx, batch, slot) {
        Some(piece) => {
            let frames = batch.sent.len();
            add_piece(slots, lanes, batch, (slot, piece), (start, room));
            if batch.sent.len() > frames {
                slots[slot].flags.insert(Flags::PLANNED);
            } else {
                block(slots, cx, slot);
            }
        }
        None if slots[slot].state == State::Closing && !slots[slot].awaits_close_frame() => {
            add_end(slots, cx, batch, slot);
        }
        None if awaits_page && most < needed => block(slots, cx, slot),
        None => on_all_sent(slots, lanes, cx, slot),
    }
}

/// Ends a stream that has sent everything with an empty frame. A stream that was never answered is reset.
fn add_end(slots: &mut Slots, cx: &mut Context, batch: &mut Batch, slot: u32) {
    let Some(stream) = slots.h2.stream(slot) else { return };
    if stream.owes_head {
        return cx.effect(Effect::Drop { slot, reason: Reason::Lingered });
    }
    write_header(Kind::Data, Flag::END_STREAM, stream.id.get(), 0, &mut batch.frames);
    let end = batch.frames.len();
    batch.sent.push(Sent { slot, piece: Piece::Out, end, bytes: 0, data: 0, ends: true });
    slots[slot].flags.insert(Flags::PLANNED);
}

/// Adds frames with as many bytes of a piece as the client has room for.
fn add_piece(
    slots: &mut Slots,
    lanes: &Lanes,
    batch: &mut Batch,
    (slot, piece): (u32, Piece),
    (start, room): (usize, &mut i32),
) {
    let Some(&Stream { id, carrier, window, owes_head, .. }) = slots.h2.stream(slot) else { return };
    let owes_size = slots.h2.link(carrier).is_some_and(|link| link.owes_size());
    let Batch { arena, frames, sent, .. } = batch;
    let connection = &slots[slot];
    let all = plain(piece, connection, lanes, arena, &[]);
    // Nothing is added to `out` once the stream closes.
    let is_last = matches!(piece, Piece::Out) && connection.state == State::Closing && !connection.awaits_close_frame();
    let mut rest = all;
    if owes_head {
        let Some((block, body)) = split_head(all) else { return };
        let ends = is_last && body.is_empty();
        write_block(id.get(), block, owes_size, ends, frames);
        sent.push(Sent { slot, piece, end: frames.len(), bytes: all.len() - body.len(), data: 0, ends });
        rest = body;
    }
    let mut left = window.min(*room).max(0) as usize;
    while !rest.is_empty() && left > 0 && frames.len() - start < SEND_MAX {
        let (data, others) = rest.split_at(rest.len().min(left).min(DATA_MAX));
        let ends = is_last && others.is_empty();
        write_header(Kind::Data, if ends { Flag::END_STREAM } else { 0 }, id.get(), data.len(), frames);
        frames.extend_from_slice(data);
        sent.push(Sent { slot, piece, end: frames.len(), bytes: data.len(), data: data.len(), ends });
        left -= data.len();
        *room -= data.len() as i32;
        rest = others;
    }
}

/// The block of fields at the beginning of a stream's `out`, and what follows it.
fn split_head(out: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = out.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

/// Appends a block of fields in frames.
fn write_block(id: u32, block: &[u8], owes_size: bool, ends: bool, out: &mut Vec<u8>) {
    let size: &[u8] = if owes_size { &[Link::SIZE] } else { &[] };
    let (mut first, rest) = block.split_at(block.len().min(FRAME_MAX - size.len()));
    let mut flags = if ends { Flag::END_STREAM } else { 0 };
    if rest.is_empty() {
        flags |= Flag::END_HEADERS;
    }
    write_header(Kind::Headers, flags, id, size.len() + first.len(), out);
    out.extend_from_slice(size);
    out.extend_from_slice(first);
    let mut parts = rest.chunks(FRAME_MAX).peekable();
    while let Some(part) = parts.next() {
        first = part;
        let flags = if parts.peek().is_none() { Flag::END_HEADERS } else { 0 };
        write_header(Kind::Continuation, flags, id, first.len(), out);
        out.extend_from_slice(first);
    }
}

/// Goes on with a connection that has nothing to send.
fn on_carrier_idle(slots: &mut Slots, cx: &mut Context, slot: u32) {
    slots.tidy(slot);
    let connection = &mut slots[slot];
    if connection.holds().intersects(Hold::REPLIES) {
        connection.release(Hold::REPLIES);
        slots.read_later(slot);
    }
    if slots.h2.is_leaving(slot) && slots.h2.count(slot) == 0 {
        let last = slots.h2.link(slot).map_or(0, |link| link.last());
        write_goaway(last, ErrorCode::No, slots[slot].out());
        finish(slots, cx, slot, Reason::Drained);
    }
}

/// Divides what the kernel took of a planned send among the streams. The rest of a frame that it took in part goes to the
/// carrier's `out`.
pub(super) fn divide(slots: &mut Slots, batch: &mut Batch, (carrier, carried): (u32, Carried), taken: usize) {
    let Batch { frames, sent, shares, .. } = batch;
    let until = carried.start + taken;
    let mut from = carried.start + carried.out;
    let all = &sent[carried.first..carried.first + carried.count];
    for of_stream in all.chunk_by(|one, other| one.slot == other.slot) {
        let Sent { slot, piece, .. } = of_stream[0];
        let mut share = Share { slot, piece, bytes: 0, has_ended: false, is_all: true };
        slots[slot].flags.remove(Flags::PLANNED);
        for frame in of_stream {
            if until <= from {
                share.is_all = false;
            } else {
                share.bytes += frame.bytes;
                share.has_ended |= frame.ends;
                note_sent(slots, carrier, frame);
                put_rest(slots, carrier, frames.get(until..frame.end).unwrap_or_default());
            }
            from = frame.end;
        }
        shares.push(share);
    }
}

/// Notes that a frame is sent, or will be before anything else.
fn note_sent(slots: &mut Slots, carrier: u32, frame: &Sent) {
    let has_head = frame.data == 0 && frame.bytes > 0;
    if let Some(stream) = slots.h2.stream_mut(frame.slot).filter(|stream| stream.carrier == carrier) {
        stream.window -= frame.data as i32;
        stream.owes_head &= !has_head;
        stream.has_ended |= frame.ends;
    }
    if let Some(link) = slots.h2.link(carrier) {
        link.note_sent(frame.data);
        if has_head {
            link.note_size_sent();
        }
    }
}

/// Puts the rest of a frame before everything that is written later.
fn put_rest(slots: &mut Slots, carrier: u32, rest: &[u8]) {
    if !rest.is_empty() {
        let extra = slots[carrier].extra();
        extra.out.splice(extra.out_sent..extra.out_sent, rest.iter().copied());
    }
}

/// Goes on with a stream of which something was planned. `is_caught_up`: it has nothing more to send.
pub(super) fn after(slots: &mut Slots, cx: &mut Context, share: &Share, is_caught_up: bool) {
    let slot = share.slot;
    if share.has_ended {
        slots.enter_state(slot, State::Lingering);
        if slots.h2.stream(slot).is_some_and(|stream| !stream.client_ended) {
            // The client may still be sending its request's body.
            slots.tidy(slot);
            return slots.set_deadline(slot, cx.now + cx.settings.linger);
        }
        cx.effect(Effect::Drop { slot, reason: Reason::Lingered });
    } else if !share.is_all || !is_caught_up {
        slots.queue(slot);
    }
}

/// Tells the client that a stream is over, unless it knows.
pub(super) fn reset(slots: &mut Slots, slot: u32) {
    let Some(&Stream { id, carrier, client_ended, has_ended, owes_head, .. }) = slots.h2.stream(slot) else { return };
    if client_ended && has_ended {
        return;
    }
    let Some(link) = slots.h2.link(carrier) else { return };
    if !client_ended {
        link.note_cut(id.get());
    }
    let code = match (has_ended, owes_head) {
        // The rest of a request is not needed (RFC 9113 §8.1).
        (true, _) => ErrorCode::No,
        (false, true) => ErrorCode::RefusedStream,
        (false, false) => ErrorCode::Cancel,
    };
    if slots[carrier].state == State::Carrying {
        write_reset(id.get(), code, slots[carrier].out());
        slots.weigh(carrier);
        slots.queue(carrier);
    }
}
