//! The wire: the ring's reports about connections, reading their bytes, and sending batches.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::figures::Measure;
use crate::logic::cells::Slack;
use crate::logic::log::Position;
use crate::logic::reason::Reason;
use crate::sys::clock::unix_ms;
use crate::sys::ring::{self, Completion};
use crate::sys::wake::Wake;

use super::batch::{Batch, Carried, Piece, Plan, heartbeat};
use super::connection::{Flags, State};
use super::context::{Context, Effect, Ending};
use super::frames;
use super::io::Io;
use super::lanes::Lanes;
use super::merge::{Merge, Stretch};
use super::next::is_caught_up;
use super::slots::{GENERATION_MASK, Slots};

/// The most bytes that one read takes.
const SCRATCH_BYTES: usize = 64 * 1024;
/// The most reports that one turn looks at.
const REPORTS_PER_TURN: usize = 1024;
/// The most reports that wait in the ring's own queue; more wait in the kernel.
const COMPLETION_QUEUE: u32 = 16_384;
/// The events that a connection without input is polled for.
const POLLED: u32 = ring::POLL_IN | ring::POLL_RDHUP;
/// The bit of `user_data` that marks polls for room.
const FOR_ROOM: u64 = 1 << 60;
/// The inbox's `user_data`: no slot has this number in its lower half.
const INBOX: u64 = u32::MAX as u64;

/// The result of a turn's look at the ring, beside the marks on the slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reports {
    /// There may be more reports.
    pub(super) has_more: bool,
    /// The hub has sent messages.
    pub(super) inbox: bool,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The read has put this many bytes into the scratch buffer.
    Bytes(usize),
    /// Nothing has come yet.
    Nothing,
    /// The client has closed its sending side.
    End,
    /// The connection is broken.
    Broken,
}

/// The ring and the memory for batches and reads; see the module's documentation.
pub(super) struct Wire {
    pub(super) io: Io,
    pub(super) batch: Batch,
    /// The buffer of reads, whose bytes are not kept from one read to the next.
    pub(super) scratch: Vec<u8>,
    completions: Vec<Completion>,
    results: Vec<i32>,
    /// The stretches that a merged send has moved its connection over.
    stretches: Vec<Stretch>,
    /// The connections for whose bytes the kernel had no memory. No poll reports when it has, so they are tried again
    /// at each tick.
    starved: Vec<u32>,
}

impl Wire {
    pub(super) fn new() -> io::Result<Wire> {
        Ok(Wire {
            io: Io::new(COMPLETION_QUEUE)?,
            batch: Batch::default(),
            scratch: vec![0; SCRATCH_BYTES],
            completions: Vec::new(),
            results: Vec::new(),
            stretches: Vec::new(),
            starved: Vec::new(),
        })
    }

    /// A descriptor that is readable while the ring has reports.
    pub(super) fn waitable(&self) -> io::Result<OwnedFd> {
        self.io.waitable()
    }

    /// Has the ring report each message from the hub.
    pub(super) fn watch_inbox(&mut self, wake: &Wake) -> io::Result<()> {
        self.io.arm_multishot_poll(wake.as_fd(), INBOX)
    }

    /// Takes the ring's reports and marks the slots that they are about.
    pub(super) fn take_reports(&mut self, slots: &mut Slots, inbox: &Wake) -> io::Result<Reports> {
        let has_more = self.io.completions(&mut self.completions, REPORTS_PER_TURN);
        let mut reports = Reports { has_more, inbox: false };
        for completion in self.completions.drain(..) {
            if completion.user_data == INBOX {
                reports.inbox = true;
                if !completion.armed {
                    self.io.arm_multishot_poll(inbox.as_fd(), INBOX)?;
                }
            } else {
                mark(slots, completion);
            }
        }
        Ok(reports)
    }

    /// Has the ring report the connection's next input, if the connection may be read now.
    pub(super) fn await_input(&mut self, slots: &mut Slots, slot: u32) -> io::Result<()> {
        let connection = &slots[slot];
        let is_awaited = connection.flags.intersects(Flags::ARMED | Flags::UNREAD);
        if is_awaited || !connection.may_be_read() || connection.state == State::Dead {
            return Ok(());
        }
        self.arm(slots, slot, POLLED, 0, Flags::ARMED)
    }

    /// Blocks sends to the connection until the ring reports room for more bytes.
    fn await_room(&mut self, slots: &mut Slots, slot: u32) -> io::Result<()> {
        slots[slot].flags.insert(Flags::BLOCKED);
        if slots[slot].flags.intersects(Flags::ARMED_OUT) {
            return Ok(());
        }
        self.arm(slots, slot, ring::POLL_OUT, FOR_ROOM, Flags::ARMED_OUT)
    }

    fn arm(&mut self, slots: &mut Slots, slot: u32, events: u32, tag: u64, flag: Flags) -> io::Result<()> {
        let connection = &mut slots[slot];
        let Some(fd) = &connection.fd else { return Ok(()) };
        let user_data = u64::from(connection.generation) << 32 | u64::from(slot) | tag;
        self.io.arm_poll(fd.as_fd(), events, user_data)?;
        connection.flags.insert(flag);
        Ok(())
    }

    /// Reads some of a connection's bytes into the scratch buffer from `start` on, `bytes_max` at most.
    pub(super) fn receive(&mut self, slots: &Slots, slot: u32, start: usize, bytes_max: usize) -> Received {
        let Some(fd) = &slots[slot].fd else { return Received::Nothing };
        let end = start.saturating_add(bytes_max).min(self.scratch.len());
        loop {
            return match self.io.receive(fd.as_fd(), &mut self.scratch[start..end]) {
                Ok(0) => Received::End,
                Ok(length) => Received::Bytes(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => Received::Broken,
            };
        }
    }

    /// Has sends tried again to the connections for which the kernel had no memory.
    pub(super) fn feed_starved(&mut self, slots: &mut Slots) {
        for slot in self.starved.drain(..) {
            if slots[slot].state != State::Free {
                slots[slot].flags.remove(Flags::BLOCKED);
                slots.queue(slot);
            }
        }
    }

    /// Gives back the memory of batches that were large once.
    pub(super) fn give_back_slack(&mut self) {
        self.batch.give_back_slack();
        self.completions.give_back_slack();
        self.results.give_back_slack();
        self.stretches.give_back_slack();
        self.starved.give_back_slack();
    }

    /// Sends the batch and moves every connection on by the bytes that the kernel took.
    pub(super) fn send(&mut self, slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context) -> io::Result<()> {
        if self.batch.plans.is_empty() {
            return Ok(());
        }
        for slot in self.batch.seal(slots, lanes) {
            cx.effect(Effect::Drop { slot, reason: Reason::Tls });
        }
        self.io.send_batch(self.batch.sends(slots, lanes), &mut self.results)?;
        debug_assert_eq!(self.results.len(), self.batch.plans.len(), "each planned send has a result");
        cx.counters.batches += 1;
        let mut account = Account { cx, sent_ms: unix_ms() };
        let mut plans = std::mem::take(&mut self.batch.plans);
        let results = std::mem::take(&mut self.results);
        let mut sealed = 0;
        for (plan, result) in plans.drain(..).zip(&results) {
            if slots[plan.slot].flags.intersects(Flags::SEALED) {
                self.account_sealed(slots, lanes, &mut account, &plan, (sealed, *result))?;
                sealed += 1;
            } else {
                self.account(slots, lanes, &mut account, &plan, *result)?;
            }
        }
        self.batch.plans = plans;
        self.results = results;
        self.batch.clear();
        Ok(())
    }

    fn account(
        &mut self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        account: &mut Account<'_>,
        plan: &Plan,
        result: i32,
    ) -> io::Result<()> {
        let slot = plan.slot;
        slots[slot].flags.remove(Flags::PLANNED);
        let taken = usize::try_from(result).ok().filter(|_| slots[slot].state != State::Dead);
        let Some(taken) = taken else {
            self.give_back(slots, lanes, account, plan);
            return self.on_refused(slots, account.cx, slot, -result);
        };
        account.cx.counters.sends += 1;
        account.cx.counters.sent_bytes += taken as u64;
        slots[slot].sent = account.cx.now;
        let planned = self.move_on(slots, lanes, account, plan, taken);
        self.after_send(slots, lanes, account.cx, slot, taken >= planned)
    }

    /// Does the same for a connection that speaks TLS, of whose sealed bytes the kernel took some: `sealed` is the number of
    /// the send among those of the batch, with its result.
    fn account_sealed(
        &mut self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        account: &mut Account<'_>,
        plan: &Plan,
        (sealed, result): (usize, i32),
    ) -> io::Result<()> {
        let slot = plan.slot;
        slots[slot].flags.remove(Flags::PLANNED);
        let bytes = usize::try_from(result).unwrap_or(0);
        let taken = slots.tls.account(slot, self.batch.sealed[sealed], &self.batch.records, bytes);
        slots.weigh_tls(slot);
        if result < 0 || slots[slot].state == State::Dead {
            self.give_back(slots, lanes, account, plan);
            return self.on_refused(slots, account.cx, slot, -result);
        }
        account.cx.counters.sends += 1;
        account.cx.counters.sent_bytes += bytes as u64;
        slots[slot].sent = account.cx.now;
        let planned = match taken.plain {
            // Nothing but the rest of earlier records was sent, and something may wait behind it.
            0 => {
                self.give_back(slots, lanes, account, plan);
                usize::MAX
            }
            plain => self.move_on(slots, lanes, account, plan, plain),
        };
        if slots.tls.is_worn_out(slot) {
            account.cx.effect(Effect::End { slot, ending: Ending::new(Reason::Drained) });
        }
        // A send has a part of what is planned if that is much.
        if taken.is_all && taken.plain < planned {
            slots.queue(slot);
        }
        self.after_send(slots, lanes, account.cx, slot, taken.is_all)
    }

    /// Moves a connection on by the plaintext that was taken of a planned send; returns how much was planned.
    fn move_on(
        &mut self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        account: &mut Account<'_>,
        plan: &Plan,
        taken: usize,
    ) -> usize {
        let slot = plan.slot;
        match plan.piece {
            Piece::Run { subscription, lane, start, end } => {
                account.run(slots, lanes, slot, Stretch { index: subscription as usize, lane, start, end }, taken);
                (end - start) as usize
            }
            Piece::Out => account_out(slots, slot, taken),
            Piece::Heartbeat => account_heartbeat(slots, account.cx, slot, taken),
            Piece::Merged { start, end } => {
                let (cursors, stretches) = (&mut self.batch.cursors, &mut self.stretches);
                account.merged(slots, lanes, slot, taken, cursors, stretches);
                end - start
            }
            Piece::Carried(carried) => {
                self.account_carried(slots, lanes, account, (slot, carried), taken);
                carried.end - carried.start
            }
        }
    }

    /// Moves the streams of a connection on by what was taken of their frames.
    fn account_carried(
        &mut self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        account: &mut Account<'_>,
        (carrier, carried): (u32, Carried),
        taken: usize,
    ) {
        account_out(slots, carrier, taken.min(carried.out));
        frames::divide(slots, &mut self.batch, (carrier, carried), taken);
        let mut shares = std::mem::take(&mut self.batch.shares);
        for share in shares.drain(..) {
            let slot = share.slot;
            if slots[slot].state == State::Dead {
                continue;
            }
            if share.bytes > 0 {
                slots[slot].sent = account.cx.now;
                self.move_on(slots, lanes, account, &Plan { slot, piece: share.piece }, share.bytes);
                slots.weigh(slot);
            }
            let is_caught_up = is_caught_up(slots, lanes, slot);
            frames::after(slots, account.cx, &share, is_caught_up);
        }
        self.batch.shares = shares;
        if carried.is_cut {
            slots.queue(carrier);
        }
    }

    /// Gives the streams of a connection their bytes back of which the kernel took none.
    fn give_back(&mut self, slots: &mut Slots, lanes: &mut Lanes, account: &mut Account<'_>, plan: &Plan) {
        if let Piece::Carried(carried) = plan.piece {
            self.account_carried(slots, lanes, account, (plan.slot, carried), 0);
        }
    }

    /// Goes on after a send: waits for room if the kernel did not take all of it, or looks for more to send.
    fn after_send(
        &mut self,
        slots: &mut Slots,
        lanes: &Lanes,
        cx: &mut Context,
        slot: u32,
        is_all: bool,
    ) -> io::Result<()> {
        slots.weigh(slot);
        if !is_all {
            cx.counters.sends_blocked += 1;
            self.await_room(slots, slot)?;
            slots.look_by(slot, cx.now + cx.settings.stall);
        } else if !is_caught_up(slots, lanes, slot) {
            slots.queue(slot);
        }
        Ok(())
    }

    /// Handles a send of which the kernel took nothing.
    fn on_refused(&mut self, slots: &mut Slots, cx: &mut Context, slot: u32, error: i32) -> io::Result<()> {
        if slots[slot].state == State::Dead {
            return Ok(());
        }
        let has_no_memory = matches!(error, libc::ENOBUFS | libc::ENOMEM);
        if error != libc::EAGAIN && !has_no_memory {
            cx.effect(Effect::Drop { slot, reason: Reason::Broken });
            return Ok(());
        }
        cx.counters.sends_blocked += 1;
        cx.counters.sends_refused += 1;
        if has_no_memory {
            slots[slot].flags.insert(Flags::BLOCKED);
            self.starved.push(slot);
            return Ok(());
        }
        slots.look_by(slot, cx.now + cx.settings.stall);
        self.await_room(slots, slot)
    }
}

/// Marks the slot that a report is about.
fn mark(slots: &mut Slots, completion: Completion) {
    let slot = completion.user_data as u32;
    let generation = (completion.user_data >> 32) as u32 & GENERATION_MASK;
    if slots.get(slot).is_none_or(|connection| connection.generation != generation) {
        debug_assert!(false, "a slot is free only after its last report");
        return;
    }
    let connection = &mut slots[slot];
    let is_for_room = completion.user_data & FOR_ROOM != 0;
    connection.flags.remove(if is_for_room { Flags::ARMED_OUT } else { Flags::ARMED });
    if connection.state == State::Dead {
        if !connection.flags.intersects(Flags::ARMED | Flags::ARMED_OUT) {
            slots.bury(slot);
        }
    } else if is_for_room {
        // The report may also mean the connection's end, which the next send finds.
        connection.flags.remove(Flags::BLOCKED);
        slots.queue(slot);
    } else {
        let is_ending = completion.result & !(ring::POLL_IN as i32) != 0;
        if is_ending { slots.read_later(slot) } else { slots.read_soon(slot) }
    }
}

fn account_out(slots: &mut Slots, slot: u32, taken: usize) -> usize {
    let Some(extra) = &mut slots[slot].extra else { return 0 };
    let planned = extra.out.len() - extra.out_sent;
    extra.out_sent += taken;
    if extra.out_sent == extra.out.len() {
        // The memory goes back at once, because big answers are rare.
        extra.out = Vec::new();
        extra.out_sent = 0;
    }
    planned
}

fn account_heartbeat(slots: &mut Slots, cx: &mut Context, slot: u32, taken: usize) -> usize {
    cx.counters.heartbeats += 1;
    let connection = &mut slots[slot];
    connection.flags.remove(Flags::HEARTBEAT);
    let bytes = heartbeat(connection);
    if taken < bytes.len() {
        connection.put_first(&bytes[taken..]);
    }
    bytes.len()
}

/// The accounting of a batch: it moves connections over the frames that the kernel took.
struct Account<'a> {
    cx: &'a mut Context,
    /// The time after the sends, by the clock of event ids.
    sent_ms: u64,
}

impl Account<'_> {
    fn run(&mut self, slots: &mut Slots, lanes: &mut Lanes, slot: u32, run: Stretch, taken: usize) {
        self.measure_delivery(lanes, run.lane, run.start);
        let cursor = run.start + taken as u64;
        self.move_cursor(slots, lanes, slot, &run, cursor);
        // Only a run that is taken in part can end within a frame, because a frame lies in one chunk of its log.
        let is_mid = cursor != run.end && lanes[run.lane].log.frame_boundary(cursor) != cursor;
        slots[slot].set_mid_frame(is_mid.then_some(run.index));
        lanes.settle(run.lane, self.cx.settings.config.limits.retained as u64);
    }

    /// Repeats the merge up to the bytes that the kernel took. No log has changed since, so the stretches are the
    /// same.
    fn merged(
        &mut self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        slot: u32,
        taken: usize,
        cursors: &mut Vec<Position>,
        stretches: &mut Vec<Stretch>,
    ) {
        let mut left = taken as u64;
        let mut merge = Merge::new(slots, slot, cursors);
        while left > 0
            && let Some(stretch) = merge.next(lanes)
        {
            let end = stretch.end.min(stretch.start + left);
            merge.advance(&stretch, end);
            left -= end - stretch.start;
            stretches.push(Stretch { end, ..stretch });
        }
        debug_assert_eq!(left, 0, "the kernel took no more than was merged");
        if let Some(first) = stretches.first() {
            self.measure_delivery(lanes, first.lane, first.start);
        }
        for stretch in stretches.drain(..) {
            self.move_cursor(slots, lanes, slot, &stretch, stretch.end);
            let is_mid = lanes[stretch.lane].log.frame_boundary(stretch.end) != stretch.end;
            slots[slot].set_mid_frame(is_mid.then_some(stretch.index));
            lanes.settle(stretch.lane, self.cx.settings.config.limits.retained as u64);
        }
    }

    /// Records the age of the event at a position at the time of its send.
    fn measure_delivery(&mut self, lanes: &Lanes, lane: u32, position: Position) {
        let has_times = self.cx.settings.config.backplane.has_times_in_ids();
        if let Some(id) = lanes[lane].log.id_at(position).filter(|_| has_times) {
            self.cx.measures.record(Measure::Delivery, self.sent_ms.saturating_sub(id.ms()));
        }
    }

    fn move_cursor(&mut self, slots: &mut Slots, lanes: &mut Lanes, slot: u32, from: &Stretch, to: Position) {
        let connection = &mut slots[slot];
        let lane = &mut lanes[from.lane];
        let events = lane.log.events_between(from.start, to) as u32;
        connection.events = connection.events.saturating_add(events);
        self.cx.counters.deliveries += u64::from(events);
        if let Some(subscription) = connection.subscription_mut(from.index) {
            subscription.cursor = to;
        }
        lane.at_head += u32::from(to == lane.log.head() && from.start != to);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::super::connection::{Peer, Subscription};
    use super::super::subscriptions::read_from_head;
    use super::super::tests::tables::{Tables, id};
    use super::super::waiting::Hold;
    use super::*;
    use crate::config::SlowPolicy;
    use crate::logic::cells::NONE;

    fn accounted(tables: &mut Tables, slot: u32, run: Stretch, taken: usize) {
        let Tables { slots, lanes, cx, .. } = tables;
        Account { cx, sent_ms: 1 }.run(slots, lanes, slot, run, taken);
    }

    #[test]
    fn a_run_moves_the_cursor_by_what_the_kernel_took() {
        // Three frames of ten bytes: what is taken, and then the cursor, the events, whether a frame is sent in part.
        for (taken, events, is_mid) in
            [(0, 0, true), (7, 1, false), (8, 1, true), (17, 2, false), (26, 2, true), (27, 3, false)]
        {
            let mut tables = Tables::new();
            let lane = tables.lane(SlowPolicy::Gap);
            let slot = tables.stream(&[lane]);
            (1..=3).for_each(|number| tables.append(lane, number, 10));
            tables.set_cursor(slot, 0, 3, true);
            accounted(&mut tables, slot, Stretch { index: 0, lane, start: 3, end: 30 }, taken);
            assert_eq!(tables.cursor(slot, 0), 3 + taken as u64);
            assert_eq!(
                (tables.slots[slot].events, tables.cx.counters.deliveries),
                (events, u64::from(events)),
                "{taken}"
            );
            assert_eq!(tables.slots[slot].mid_frame(), is_mid.then_some(0), "{taken}");
            assert_eq!(tables.lanes.is_read(lane), taken == 27);
            tables.lanes.check_invariants();
        }
    }

    #[test]
    fn a_merged_send_moves_all_cursors_that_it_went_over() {
        let mut tables = Tables::new();
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        let slot = tables.stream(&lanes);
        for (number, lane) in [(1, 0), (2, 1), (3, 0)] {
            tables.append(lanes[lane], number, 10);
        }
        let (mut cursors, mut stretches) = (Vec::new(), Vec::new());
        let Tables { slots, lanes: table, cx, .. } = &mut tables;
        Account { cx, sent_ms: 1 }.merged(slots, table, slot, 14, &mut cursors, &mut stretches);
        assert_eq!((tables.cursor(slot, 0), tables.cursor(slot, 1)), (10, 4));
        assert_eq!((tables.slots[slot].mid_frame(), tables.slots[slot].events), (Some(1), 1));
        let Tables { slots, lanes: table, cx, .. } = &mut tables;
        Account { cx, sent_ms: 1 }.merged(slots, table, slot, 16, &mut cursors, &mut stretches);
        assert_eq!((tables.cursor(slot, 0), tables.cursor(slot, 1)), (20, 10));
        assert_eq!((tables.slots[slot].mid_frame(), tables.slots[slot].events), (None, 3));
        assert_eq!(tables.cx.counters.deliveries, 3);
        assert!(lanes.iter().all(|lane| tables.lanes.is_read(*lane)) && stretches.is_empty());
        tables.lanes.check_invariants();
    }

    #[test]
    fn an_answer_goes_on_where_the_kernel_stopped_and_leaves_no_memory() {
        let mut tables = Tables::new();
        let slot = tables.stream(&[]);
        tables.slots[slot].out().extend_from_slice(b"0123456789");
        assert_eq!(account_out(&mut tables.slots, slot, 4), 10);
        assert_eq!(tables.out(slot), "456789");
        assert_eq!(account_out(&mut tables.slots, slot, 6), 6);
        let extra = tables.slots[slot].extra();
        assert_eq!((extra.out.capacity(), extra.out_sent), (0, 0));
        assert_eq!(account_out(&mut tables.slots, slot, 0), 0);
    }

    #[test]
    fn the_rest_of_a_heartbeat_comes_first() {
        let mut tables = Tables::new();
        let slot = tables.stream(&[]);
        tables.slots[slot].flags.insert(Flags::HEARTBEAT);
        let whole = heartbeat(&tables.slots[slot]);
        tables.slots[slot].out().extend_from_slice(b"reply");
        assert_eq!(account_heartbeat(&mut tables.slots, &mut tables.cx, slot, whole.len() - 1), whole.len());
        assert_eq!(tables.slots[slot].out_bytes(), [&whole[whole.len() - 1..], b"reply"].concat());
        assert!(!tables.slots[slot].flags.intersects(Flags::HEARTBEAT));
        tables.slots[slot].extra().out.clear();
        account_heartbeat(&mut tables.slots, &mut tables.cx, slot, whole.len());
        assert_eq!((tables.out(slot), tables.cx.counters.heartbeats), ("", 2));
        let idle = tables.stream(&[]);
        account_heartbeat(&mut tables.slots, &mut tables.cx, idle, whole.len());
        assert!(tables.slots[idle].extra.is_none(), "one that is sent whole takes no memory");
    }

    #[test]
    fn a_connection_is_caught_up_if_nothing_is_pending() {
        let mut tables = Tables::new();
        let lane = tables.lane(SlowPolicy::Gap);
        let slot = tables.stream(&[lane]);
        tables.append(lane, 1, 10);
        assert!(!is_caught_up(&tables.slots, &tables.lanes, slot));
        tables.set_cursor(slot, 0, 10, false);
        assert!(is_caught_up(&tables.slots, &tables.lanes, slot));
        tables.slots[slot].flags.insert(Flags::HEARTBEAT);
        assert!(!is_caught_up(&tables.slots, &tables.lanes, slot));
        tables.slots[slot].flags.remove(Flags::HEARTBEAT);
        let channel = tables.lanes[lane].channel;
        tables.lanes.channels[channel].ended = true;
        assert!(!is_caught_up(&tables.slots, &tables.lanes, slot), "the end must be told");
        tables.lanes.channels[channel].ended = false;
        tables.slots[slot].extra();
        assert!(!is_caught_up(&tables.slots, &tables.lanes, slot));
        tables.slots.tidy(slot);
        tables.slots.enter_state(slot, State::Closing);
        assert!(!is_caught_up(&tables.slots, &tables.lanes, slot));
        let idle = tables.stream(&[]);
        assert!(!is_caught_up(&tables.slots, &tables.lanes, idle));
        assert_eq!(tables.lanes[lane].log.id_at(0), Some(id(1)));
    }

    /// The bits that an input report has if the client has only sent bytes.
    const INPUT: i32 = ring::POLL_IN as i32;

    /// A stream on no channel, with the client's end of its socket.
    fn connected(tables: &mut Tables) -> (u32, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (tables.slots.occupy(near.into(), Peer::default(), State::Stream, 1), far)
    }

    #[test]
    fn a_read_takes_what_has_come_up_to_a_bound() {
        let (mut tables, mut wire) = (Tables::new(), Wire::new().unwrap());
        let (slot, mut far) = connected(&mut tables);
        assert_eq!(wire.receive(&tables.slots, slot, 0, 100), Received::Nothing);
        far.write_all(b"hello").unwrap();
        assert_eq!((wire.receive(&tables.slots, slot, 0, 3), &wire.scratch[..3]), (Received::Bytes(3), &b"hel"[..]));
        assert_eq!(
            (wire.receive(&tables.slots, slot, 0, usize::MAX), &wire.scratch[..2]),
            (Received::Bytes(2), &b"lo"[..])
        );
        assert_eq!(wire.scratch.len(), 65_536);
        drop(far);
        assert_eq!(wire.receive(&tables.slots, slot, 0, 100), Received::End);
        tables.slots[slot].fd = Some(std::fs::File::open("/dev/null").unwrap().into());
        assert_eq!(wire.receive(&tables.slots, slot, 0, 100), Received::Broken, "this is no socket");
        tables.slots[slot].fd = None;
        assert_eq!(wire.receive(&tables.slots, slot, 0, 100), Received::Nothing);
    }

    #[test]
    fn memory_of_a_large_turn_is_given_back() {
        let mut wire = Wire::new().unwrap();
        wire.batch.arena.reserve(5000);
        wire.batch.cursors.reserve(5000);
        wire.batch.plans.reserve(5000);
        wire.completions.reserve(5000);
        wire.results.reserve(5000);
        wire.stretches.reserve(5000);
        wire.starved.reserve(5000);
        wire.give_back_slack();
        let Wire { batch, completions, results, stretches, starved, .. } = &wire;
        let batch = [batch.arena.capacity(), batch.cursors.capacity(), batch.plans.capacity()];
        assert_eq!(batch, [1024; 3]);
        let others = [completions.capacity(), results.capacity(), stretches.capacity(), starved.capacity()];
        assert_eq!(others, [1024; 4]);
    }

    #[test]
    fn input_is_awaited_once_and_reported() {
        let (mut tables, mut wire) = (Tables::new(), Wire::new().unwrap());
        let wake = Wake::new().unwrap();
        wire.watch_inbox(&wake).unwrap();
        for (flags, state, hold, is_armed) in [
            (Flags::ARMED, State::Stream, Hold::empty(), false),
            (Flags::UNREAD, State::Stream, Hold::empty(), false),
            (Flags::empty(), State::Stream, Hold::REPLIES, false),
            (Flags::empty(), State::Dead, Hold::empty(), false),
            (Flags::empty(), State::Stream, Hold::empty(), true),
        ] {
            let (slot, mut far) = connected(&mut tables);
            tables.slots.enter_state(slot, state);
            tables.slots[slot].flags.insert(flags);
            tables.slots[slot].hold(hold);
            wire.await_input(&mut tables.slots, slot).unwrap();
            assert_eq!(tables.slots[slot].flags.intersects(Flags::ARMED), is_armed || flags.intersects(Flags::ARMED));
            wire.io.submit().unwrap();
            far.write_all(b"x").unwrap();
            wake.ring();
            let until = Instant::now() + Duration::from_secs(5);
            let mut reports = wire.take_reports(&mut tables.slots, &wake).unwrap();
            while !reports.inbox || is_armed && !tables.slots[slot].flags.intersects(Flags::UNREAD) {
                let more = wire.take_reports(&mut tables.slots, &wake).unwrap();
                reports.inbox |= more.inbox;
                assert!(Instant::now() < until, "no report has come");
            }
            wake.clear();
            let unread = tables.slots[slot].flags.intersects(Flags::UNREAD);
            assert_eq!(unread, is_armed || flags.intersects(Flags::UNREAD), "{flags:?} {state:?}");
        }
    }

    #[test]
    fn a_report_says_what_the_connection_can_do_now() {
        let (read, rest) = (Flags::UNREAD, Flags::UNREAD | Flags::TO_END);
        for (before, tag, result, after) in [
            (Flags::ARMED, 0, INPUT, read),
            (Flags::ARMED, 0, INPUT | ring::POLL_RDHUP as i32, rest),
            (Flags::ARMED | Flags::BLOCKED, 0, ring::POLL_HUP as i32, rest | Flags::BLOCKED),
            (Flags::ARMED_OUT | Flags::BLOCKED | Flags::ARMED, FOR_ROOM, 0, Flags::QUEUED | Flags::ARMED),
        ] {
            let mut tables = Tables::new();
            let slots = [(); 3].map(|()| connected(&mut tables).0);
            let slot = slots[1];
            tables.slots[slot].generation = 0x123;
            tables.slots[slot].flags.insert(before);
            mark(
                &mut tables.slots,
                Completion { user_data: 0x123 << 32 | u64::from(slot) | tag, result, armed: false },
            );
            assert_eq!(tables.slots[slot].flags, after);
            assert!([0, 2].into_iter().all(|other| tables.slots[slots[other]].flags.is_empty()));
        }
    }

    #[test]
    fn a_dead_connection_is_buried_with_its_last_report() {
        let mut tables = Tables::new();
        let (slot, _far) = connected(&mut tables);
        tables.slots[slot].flags.insert(Flags::ARMED | Flags::ARMED_OUT);
        tables.slots.kill(slot);
        for (tag, state) in [(FOR_ROOM, State::Dead), (0, State::Free)] {
            mark(&mut tables.slots, Completion { user_data: u64::from(slot) | tag, result: INPUT, armed: false });
            assert_eq!(tables.slots[slot].state, state);
        }
        assert_eq!(tables.slots[slot].generation, 1);
    }

    #[test]
    fn a_send_is_accounted_for_by_what_the_kernel_took() {
        let (full, part) = (Flags::empty(), Flags::BLOCKED | Flags::ARMED_OUT);
        // The result, and then: bytes sent, whether the send counts as blocked, as refused, and the flags.
        for (result, sent_bytes, blocked, refused, flags, is_looked_at) in [
            (10, 10, 0, 0, full, false),
            (4, 4, 1, 0, part | Flags::MID_FRAME, true),
            (0, 0, 1, 0, part, true),
            (-libc::EAGAIN, 0, 1, 1, part, true),
            (-libc::ENOBUFS, 0, 1, 1, Flags::BLOCKED, false),
            (-libc::ENOMEM, 0, 1, 1, Flags::BLOCKED, false),
            (-libc::EPIPE, 0, 0, 0, full, false),
        ] {
            let (mut tables, mut wire) = (Tables::new(), Wire::new().unwrap());
            let lane = tables.lane(SlowPolicy::Gap);
            let slot = tables.stream(&[lane]);
            tables.append(lane, 1, 10);
            tables.slots.ready.clear();
            tables.slots[slot].flags = Flags::PLANNED;
            // The connection would be looked at one tick too late.
            tables.slots[slot].timer = 7 + tables.cx.settings.stall + 1;
            let Tables { slots, lanes, cx, .. } = &mut tables;
            cx.now = 7;
            let plan = Plan { slot, piece: Piece::Run { subscription: 0, lane, start: 0, end: 10 } };
            wire.account(slots, lanes, &mut Account { cx, sent_ms: 5 }, &plan, result).unwrap();
            assert_eq!(slots[slot].flags, flags, "{result}");
            let sends = u64::from(result >= 0);
            let counters = &cx.counters;
            let counted = (counters.sends, counters.sent_bytes, counters.sends_blocked, counters.sends_refused);
            assert_eq!(counted, (sends, sent_bytes, blocked, refused), "{result}");
            assert_eq!(slots[slot].sent, if result >= 0 { 7 } else { 1 });
            let drops =
                cx.effects.iter().filter(|effect| matches!(effect, Effect::Drop { reason: Reason::Broken, .. }));
            assert_eq!(drops.count(), usize::from(result == -libc::EPIPE));
            assert_eq!(wire.starved.len(), usize::from(flags == Flags::BLOCKED));
            assert_eq!(slots.rescheduled.contains(&slot), is_looked_at, "{result}");
            wire.feed_starved(slots);
            let is_tried_again = flags == Flags::BLOCKED;
            assert_eq!(slots[slot].flags.intersects(Flags::QUEUED), is_tried_again);
            assert_eq!(slots[slot].flags.intersects(Flags::BLOCKED), flags.intersects(Flags::ARMED_OUT));
            assert_eq!(tables.measured(Measure::Delivery), (sends, 4 * sends), "{result}");
        }
    }

    #[test]
    fn a_connection_that_is_not_caught_up_has_another_turn() {
        let (mut tables, mut wire) = (Tables::new(), Wire::new().unwrap());
        let lanes = [(); 2].map(|()| tables.lane(SlowPolicy::Gap));
        let (slot, mut far) = connected(&mut tables);
        for lane in lanes {
            tables.lanes.enter(lane);
            let index = tables.slots[slot].add_subscription(Subscription { lane, place: NONE, cursor: 0 });
            read_from_head(&mut tables.slots, &mut tables.lanes, slot, index);
        }
        (1..=4).for_each(|number| tables.append(lanes[number as usize % 2], number, 10));
        tables.slots[slot].flags.remove(Flags::QUEUED);
        let Tables { slots, lanes: table, cx, batch } = &mut tables;
        std::mem::swap(&mut wire.batch, batch);
        super::super::next::plan(slots, table, cx, &mut wire.batch, slot);
        assert_eq!(wire.batch.len(), 1);
        wire.send(slots, table, cx).unwrap();
        assert!(slots[slot].flags.intersects(Flags::QUEUED) && wire.batch.plans.is_empty());
        assert_eq!((cx.counters.batches, cx.counters.sent_bytes, cx.counters.deliveries), (1, 40, 4));
        let mut got = [0; 40];
        far.read_exact(&mut got).unwrap();
        assert_eq!(got.iter().step_by(10).copied().collect::<Vec<u8>>(), b"1234");
        wire.send(slots, table, cx).unwrap();
        assert_eq!(cx.counters.batches, 1, "there is nothing to send");
        assert!(wire.batch.arena.is_empty());
        tables.lanes.check_invariants();
    }
}
