//! Delivering: choosing each connection's next bytes, and sending them in batches.
//!
//! One send per connection and batch, with everything that is pending for it: under load sends grow longer,
//! not more numerous. A batch is planned, sent and accounted for within one turn, so nothing that a plan
//! refers to can change before it is sent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::figures::Measure;
use crate::logic::cells::NONE;
use crate::logic::log::Position;
use crate::logic::protocol::{dialect, ws};
use crate::logic::reason::Reason;
use crate::sys::clock::unix_ms;

use super::Shard;
use super::connection::{Connection, Flags, State};
use super::walk::Length;

/// Sends in one batch, at most: about two milliseconds of the kernel's time.
const BATCH_MAX: usize = 256;
/// Of these, those of short walks while others wait.
const SHORT_MAX: usize = 96;
/// Of these, connections that are not part of a walk.
const READY_MAX: usize = 96;
/// What a kept log holds at most for the sake of cheap resumes, once everyone has read it.
const RETAINED_PER_LOG: u64 = 64 * 1024;
/// What keeping a log costs beside its bytes.
const LOG_OVERHEAD: u64 = 512;

/// What one connection is sent next.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Frames of one lane, from one position to another.
    Run { subscription: u32, lane: u32, start: Position, end: Position },
    /// What waits in `out`.
    Out,
    /// A heartbeat.
    Heartbeat,
    /// Frames of several lanes, from one offset of the arena to another.
    Merged { start: usize, end: usize },
}

#[derive(Debug)]
struct Plan {
    slot: u32,
    what: What,
}

/// The sends that are being put together, and the memory they need; kept from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Batch {
    plans: Vec<Plan>,
    results: Vec<i32>,
    /// When the sends had been made, by the clock that ids are made of.
    sent_ms: u64,
    /// Where frames of several lanes are put together.
    pub(super) arena: Vec<u8>,
    pub(super) cursors: Vec<Position>,
}

impl Batch {
    /// The sends that are planned.
    pub(super) fn len(&self) -> usize {
        self.plans.len()
    }
}

impl Shard {
    /// Sends one batch; returns whether there is more to send.
    pub(super) fn deliver(&mut self) -> io::Result<bool> {
        self.walk(Length::Short, SHORT_MAX);
        self.plan_ready();
        self.walk(Length::Long, BATCH_MAX);
        self.walk(Length::Short, BATCH_MAX);
        self.send_planned()?;
        Ok(!self.ready.is_empty() || !self.walks.is_empty())
    }

    /// Has the connection looked at for something to send.
    pub(super) fn queue(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        if !connection.flags.has(Flags::QUEUED) {
            connection.flags.set(Flags::QUEUED);
            self.ready.push_back(slot);
        }
    }

    fn plan_ready(&mut self) {
        for _ in 0..self.ready.len().min(READY_MAX) {
            let Some(slot) = self.ready.pop_front() else { break };
            let connection = &mut self.connections[slot];
            let has_page = connection.flags.has(Flags::PAGE);
            connection.flags.clear(Flags::QUEUED | Flags::PAGE);
            self.plan(slot);
            if has_page {
                // It is part of the batch.
                self.page_has_gone();
            }
        }
    }

    /// Chooses the connection's next bytes, if it can take any.
    pub(super) fn plan(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let can_send = !matches!(connection.state, State::Free | State::Dead | State::Lingering);
        if !can_send || connection.flags.has(Flags::BLOCKED | Flags::PLANNED) {
            return;
        }
        match self.next_bytes(slot) {
            Some(what) => {
                self.connections[slot].flags.set(Flags::PLANNED);
                self.batch.plans.push(Plan { slot, what });
            }
            None => self.all_sent(slot),
        }
    }

    fn next_bytes(&mut self, slot: u32) -> Option<What> {
        let connection = &self.connections[slot];
        let flags = connection.flags;
        let is_live = matches!(connection.state, State::Stream | State::WebSocket);
        if is_live && connection.extra.is_none() && !flags.has(Flags::HEARTBEAT | Flags::REPLAYING) {
            return self.run_to_head(slot, 0);
        }
        let out_waits = connection.out_waiting() > 0 || connection.extra.as_ref().is_some_and(|e| e.gap.is_some());
        if let Some(index) = connection.mid_frame() {
            let is_alone = connection.subscriptions() == 1;
            if out_waits || !is_alone || flags.has(Flags::HEARTBEAT | Flags::REPLAYING) {
                return self.rest_of_frame(slot, index);
            }
        }
        self.write_gap_notice(slot);
        let connection = &mut self.connections[slot];
        if connection.out_waiting() > 0 {
            return Some(What::Out);
        }
        if flags.has(Flags::HEARTBEAT) {
            return Some(What::Heartbeat);
        }
        if flags.has(Flags::REPLAYING) || !is_live {
            return None;
        }
        match connection.subscriptions() {
            0 => None,
            1 => self.run_to_head(slot, 0),
            _ => self.plan_several(slot),
        }
    }

    /// Everything between the subscription's cursor and the head, as far as it can go in one send.
    pub(super) fn run_to_head(&mut self, slot: u32, index: usize) -> Option<What> {
        let subscription = *self.connections[slot].subscription(index)?;
        if subscription.place == NONE {
            return None;
        }
        let head = self.channels.lanes[subscription.lane].log.head();
        let run = self.run(index, subscription.lane, subscription.cursor, head)?;
        match run {
            What::Run { start, end, .. } if end < head && self.is_worth_merging(start, head) => Some(self.merge(slot)),
            run => Some(run),
        }
    }

    fn rest_of_frame(&self, slot: u32, index: usize) -> Option<What> {
        let subscription = self.connections[slot].subscription(index)?;
        let log = &self.channels.lanes[subscription.lane].log;
        self.run(index, subscription.lane, subscription.cursor, log.frame_boundary(subscription.cursor))
    }

    fn run(&self, index: usize, lane: u32, start: Position, end: Position) -> Option<What> {
        let length = self.channels.lanes[lane].log.bytes(start, end).len() as u64;
        let end = start + length;
        (length > 0).then_some(What::Run { subscription: index as u32, lane, start, end })
    }

    fn send_planned(&mut self) -> io::Result<()> {
        if self.batch.plans.is_empty() {
            return Ok(());
        }
        let Shard { ring, batch, connections, channels, .. } = self;
        let Batch { plans, results, arena, .. } = batch;
        plans.retain(|plan| connections[plan.slot].fd.is_some());
        let sends = plans.iter().filter_map(|plan| {
            let connection = &connections[plan.slot];
            let bytes = match plan.what {
                What::Run { lane, start, end, .. } => channels.lanes[lane].log.bytes(start, end),
                What::Out => waiting(connection),
                What::Heartbeat => heartbeat(connection),
                What::Merged { start, end } => &arena[start..end],
            };
            Some((as_fd(connection)?, bytes))
        });
        ring.send_batch(sends, results)?;
        self.counters.batches += 1;
        self.batch.sent_ms = unix_ms();
        let mut plans = std::mem::take(&mut self.batch.plans);
        let results = std::mem::take(&mut self.batch.results);
        for (plan, result) in plans.drain(..).zip(&results) {
            self.account(plan, *result);
        }
        self.batch.plans = plans;
        self.batch.results = results;
        self.batch.arena.clear();
        Ok(())
    }

    /// Moves the connection on by what the kernel took.
    fn account(&mut self, plan: Plan, result: i32) {
        let slot = plan.slot;
        self.connections[slot].flags.clear(Flags::PLANNED);
        let Ok(taken) = usize::try_from(result) else {
            if result == -libc::EAGAIN || result == -libc::ENOBUFS || result == -libc::ENOMEM {
                self.counters.sends_blocked += 1;
                self.counters.sends_refused += 1;
                if result == -libc::EAGAIN {
                    self.await_room(slot);
                } else {
                    // Nobody tells when there is memory again: the clock asks.
                    self.connections[slot].flags.set(Flags::BLOCKED);
                    self.starved.push(slot);
                }
            } else {
                self.drop_connection(slot, Reason::Broken);
            }
            return;
        };
        self.counters.sends += 1;
        self.counters.sent_bytes += taken as u64;
        self.connections[slot].sent = self.now;
        let planned = match plan.what {
            What::Run { subscription, lane, start, end } => {
                self.account_run(slot, subscription as usize, lane, start, taken, end);
                (end - start) as usize
            }
            What::Out => self.account_out(slot, taken),
            What::Heartbeat => self.account_heartbeat(slot, taken),
            What::Merged { start, end } => {
                self.account_merged(slot, taken);
                end - start
            }
        };
        if taken < planned {
            self.counters.sends_blocked += 1;
            self.await_room(slot);
        } else if !self.is_caught_up(slot) {
            self.queue(slot);
        }
    }

    /// The common case: one channel, nothing else pending, everything sent.
    fn is_caught_up(&self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        if connection.extra.is_some() || connection.flags.has(Flags::HEARTBEAT) || connection.first.lane == NONE {
            return false;
        }
        let lane = &self.channels.lanes[connection.first.lane];
        connection.state != State::Closing
            && connection.first.cursor == lane.log.head()
            && !self.channels.channels[lane.channel].ended
    }

    fn account_run(&mut self, slot: u32, index: usize, lane: u32, start: Position, taken: usize, end: Position) {
        self.measure_delivery(lane, start);
        let cursor = start + taken as u64;
        self.move_cursor(slot, index, lane, start, cursor);
        let is_mid = cursor < end && self.channels.lanes[lane].log.frame_boundary(cursor) != cursor;
        // A run may also end within a frame that goes on in no other piece: a frame lies in one piece.
        let connection = &mut self.connections[slot];
        if is_mid {
            connection.set_mid_frame(Some(index));
        } else if taken > 0 {
            connection.set_mid_frame(None);
        }
        self.settle(lane);
    }

    /// Records how old the event at a position has become until now, when it was sent.
    pub(super) fn measure_delivery(&mut self, lane: u32, position: Position) {
        if let Some(id) = self.channels.lanes[lane].log.id_at(position) {
            self.measures.record(Measure::Delivery, self.batch.sent_ms.saturating_sub(id.ms()));
        }
    }

    pub(super) fn move_cursor(&mut self, slot: u32, index: usize, lane: u32, from: Position, to: Position) {
        let connection = &mut self.connections[slot];
        let lane = &mut self.channels.lanes[lane];
        let events = lane.log.events_between(from, to) as u32;
        connection.events = connection.events.saturating_add(events);
        self.counters.deliveries += u64::from(events);
        if let Some(subscription) = connection.subscription_mut(index) {
            subscription.cursor = to;
        }
        lane.at_head += u32::from(to == lane.log.head() && from != to);
    }

    fn account_out(&mut self, slot: u32, taken: usize) -> usize {
        let Some(extra) = &mut self.connections[slot].extra else { return 0 };
        let planned = extra.out.len() - extra.out_sent;
        extra.out_sent += taken;
        if extra.out_sent == extra.out.len() {
            // Big answers are rare; their memory goes back at once.
            extra.out = Vec::new();
            extra.out_sent = 0;
        }
        planned
    }

    fn account_heartbeat(&mut self, slot: u32, taken: usize) -> usize {
        self.counters.heartbeats += 1;
        let connection = &mut self.connections[slot];
        connection.flags.clear(Flags::HEARTBEAT);
        let bytes = heartbeat(connection);
        if taken < bytes.len() {
            let rest = bytes[taken..].to_vec();
            connection.put_first(&rest);
        }
        bytes.len()
    }

    /// Once everyone has read a log, keeps of it only what makes resumes cheap and is within the budget.
    pub(super) fn settle(&mut self, lane: u32) {
        let cell = &self.channels.lanes[lane];
        if cell.log.is_empty() || !self.channels.is_read(lane) {
            return;
        }
        let cost = self.channels.kept_bytes + self.aging_logs.len() as u64 * LOG_OVERHEAD;
        if cost > self.settings.config.limits.retained as u64 {
            self.channels.clear_log(lane);
        } else if cell.log.kept_bytes() > RETAINED_PER_LOG {
            let floor = cell.log.floor(self.max_lag(lane).min(RETAINED_PER_LOG));
            self.channels.trim(lane, floor);
        }
    }

    pub(super) fn max_lag(&self, lane: u32) -> u64 {
        let channel = self.channels.lanes[lane].channel;
        self.policies.get(self.channels.channels[channel].policy).max_lag
    }
}

fn as_fd(connection: &Connection) -> Option<BorrowedFd<'_>> {
    connection.fd.as_ref().map(|fd| fd.as_fd())
}

fn waiting(connection: &Connection) -> &[u8] {
    connection.extra.as_ref().map_or(&[], |extra| &extra.out[extra.out_sent..])
}

fn heartbeat(connection: &Connection) -> &'static [u8] {
    match connection.state {
        State::WebSocket => ws::PING_FRAME,
        _ if connection.dialect.is_chunked() => dialect::SSE_HEARTBEAT_CHUNK,
        _ => dialect::SSE_HEARTBEAT,
    }
}
