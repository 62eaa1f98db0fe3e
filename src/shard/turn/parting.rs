//! The running server's side of a hand-over: the shard comes to rest, and sends everything that its successor needs.
//!
//! All of it happens within one turn, which touches no client. If the hand-over fails, the turn goes on as if nothing had been.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::link::handover::{HandoverError, Moved, Outgoing, Part, Verdict};
use crate::link::{HubMessage, Listening, ShardMessage};
use crate::logic::cells::NONE;
use crate::logic::handover::Kind;
use crate::logic::handover::clients as record;
use crate::logic::handover::feeds;
use crate::logic::session::{Coding, LaneKey};
use crate::sys::clock::unix_ms;

use super::super::ListenerKind;
use super::super::context::Budget;
use super::super::records::{self, Places, number_of};
use super::super::settings::TICK_MS;
use super::{Shard, orders, sweep};

/// The pause between two looks at an empty queue.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// The bytes of frames in one record, about.
const FRAMES_BYTES: usize = 32 * 1024;

/// Takes part in a hand-over: returns if it has failed, and never if it has succeeded.
pub(super) fn part(shard: &mut Shard, part: &Part) {
    let carrier = match shard.mailbox.as_mut().map(|mailbox| mailbox.take(part.number)) {
        Some(Ok(carrier)) => carrier,
        Some(Err(error)) => return drop(part.report.send(Err(error.into()))),
        None => return drop(part.report.send(Err(HandoverError::Refused("a shard has no mailbox".into())))),
    };
    settle(shard);
    shard.upstream.send(HubMessage::Quiet { attempt: part.number });
    shard.upstream.ring();
    let figures = shard.figures.clone();
    let beat = || {
        figures.counters.turns.fetch_add(1, Ordering::Relaxed);
    };
    if !hear_the_last(shard, part, beat) {
        return;
    }
    let sent = send_all(shard, carrier.as_fd(), beat);
    // A main thread that has ended decides nothing.
    let _ = part.report.send(sent);
    while part.await_verdict(beat) == Verdict::Go {
        // The successor has the clients. This process is about to end, and must touch nothing.
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Brings everything to its end that is spread over turns.
pub(in crate::shard) fn settle(shard: &mut Shard) {
    shard.acceptor.place_comers(&mut shard.slots, &shard.cx);
    while shard.go_on_with_surveys() {}
    shard.carry_out();
}

/// Works off the hub's messages up to the last one. Returns whether it has come: else the hand-over was called off.
fn hear_the_last(shard: &mut Shard, part: &Part, beat: impl Fn()) -> bool {
    loop {
        match shard.upstream.next() {
            Some(ShardMessage::Part) => return true,
            Some(message) => {
                if !hear(shard, message, || part.is_called_off()) {
                    return false;
                }
            }
            None if part.is_called_off() => return false,
            None => {
                shard.upstream.ring();
                beat();
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// Works off one message of the hub to its end; returns whether it has come to that before the hand-over `is_called_off`.
pub(in crate::shard) fn hear(shard: &mut Shard, message: ShardMessage, is_called_off: impl Fn() -> bool) -> bool {
    orders::carry_out(shard, message);
    shard.carry_out();
    while shard.order.is_some() {
        if is_called_off() {
            return false;
        }
        sweep::go_on(shard, &mut Budget::new(orders::MESSAGES));
        // An order about many connections waits while memory is short.
        shard.give_back();
        shard.carry_out();
    }
    true
}

/// Sends the shard's state and its descriptors.
pub(in crate::shard) fn send_all(
    shard: &Shard,
    carrier: BorrowedFd<'_>,
    beat: impl FnMut(),
) -> Result<Moved, HandoverError> {
    let mut outgoing = Outgoing::new(carrier, beat)?;
    let (slots, left) = movable(shard);
    outgoing.add(Kind::Shard, &numbers(shard, &slots), None)?;
    for (id, until_s) in shard.access.identities.revoked.iter() {
        let record = feeds::Revoked { id: id.to_string(), until_s, is_unwritten: false };
        outgoing.add(Kind::Revoked, &record, None)?;
    }
    for listener in shard.acceptor.listeners() {
        let kind = match listener.kind {
            ListenerKind::Tcp(_) => 0,
            ListenerKind::Unix(_) => 1,
            ListenerKind::Inherited(_) => 2,
        };
        let record = record::Listener { kind, is_tls: listener.is_tls };
        outgoing.add(Kind::Listener, &record, Some(listener.as_fd()))?;
    }
    let mut sender = Sender { outgoing, dialects: vec![None; 256], dialects_sent: 0, lanes: Default::default() };
    let places = sender.send_lanes(shard)?;
    for slot in &slots {
        sender.send_connection(shard, *slot, &places)?;
    }
    sender.outgoing.end()?;
    Ok(Moved { connections: slots.len() as u64, left })
}

/// The slots whose connections are handed over, and the number of connections that are not: handshakes of TLS that are under way, and
/// connections that speak HTTP/2 with their streams.
fn movable(shard: &Shard) -> (Vec<u32>, u64) {
    let all = (0..shard.slots.capacity()).filter(|slot| number_of(shard.slots[*slot].state).is_some());
    let stays = |slot: &u32| shard.slots.tls.is_shaking_hands(*slot) || shard.slots.h2.carrier_of(*slot).is_some();
    let (left, moved): (Vec<u32>, Vec<u32>) = all.partition(stays);
    (moved, (left.len() + shard.slots.h2.carriers()) as u64)
}

fn numbers(shard: &Shard, slots: &[u32]) -> record::Shard {
    let Listening { messages, connections, authorize } = shard.upstream.listening;
    let listening = [(messages, 1), (connections, 2), (authorize, 4)];
    record::Shard {
        now: shard.cx.now,
        seen: shard.lanes.seen.bits(),
        lost_until: shard.lanes.lost_until.bits(),
        questions: shard.cx.counters.questions,
        resumes: shard.cx.counters.resumed_hub,
        generation: shard.slots.next_generation(),
        listening: listening.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum(),
        upstream: shard.upstream.account() as u64,
        slots: slots.to_vec(),
    }
}

/// The records in the making, with the places of those that others name.
struct Sender<'a> {
    outgoing: Outgoing<'a>,
    /// By the dialect's key, its place among the records.
    dialects: Vec<Option<u32>>,
    dialects_sent: u32,
    /// By the lane's number, its place among the records.
    lanes: std::collections::HashMap<u32, u32>,
}

impl<'a> Sender<'a> {
    /// The place of a dialect, which is sent if it was not.
    fn dialect(&mut self, key: LaneKey) -> Result<u32, HandoverError> {
        let known = &mut self.dialects[usize::from(key.number())];
        if let Some(place) = known {
            return Ok(*place);
        }
        let place = self.dialects_sent;
        (*known, self.dialects_sent) = (Some(place), place + 1);
        let protocol = key.protocol().name().to_owned();
        let is_chunked = key.coding() == Coding::Chunked;
        self.outgoing.add(Kind::Dialect, &record::Dialect { protocol, is_chunked }, None)?;
        Ok(place)
    }

    /// Sends the lanes that have subscriptions, with their channels; returns the channels' places.
    fn send_lanes(&mut self, shard: &Shard) -> Result<Places, HandoverError> {
        let lanes = &shard.lanes;
        let mut places = Places::new();
        let used = (0..lanes.capacity()).filter(|lane| lanes[*lane].channel != NONE && !lanes[*lane].is_unused());
        for lane in used {
            let cell = &lanes[lane];
            let next = places.len() as u32;
            let channel = *places.entry(cell.channel).or_insert(next);
            if channel == next {
                let name = lanes.name(cell.channel).to_owned();
                self.outgoing.add(Kind::Channel, &record::Channel { name }, None)?;
            }
            let dialect = self.dialect(cell.key)?;
            let place = self.lanes.len() as u32;
            self.lanes.insert(lane, place);
            self.send_lane(
                shard,
                lane,
                record::Lane { channel, dialect, touched: cell.touched, ..Default::default() },
            )?;
        }
        Ok(places)
    }

    /// Sends one lane, with the frames that some reader does not have.
    fn send_lane(&mut self, shard: &Shard, lane: u32, record: record::Lane) -> Result<(), HandoverError> {
        let lanes = &shard.lanes;
        let log = &lanes[lane].log;
        let cursors = lanes.readers(lane).iter().filter_map(|reader| {
            shard.slots[reader.slot].subscription(reader.subscription as usize).map(|subscription| subscription.cursor)
        });
        let lowest = cursors.min().unwrap_or(log.head());
        let (start, frames) = log.frames_from(lowest);
        // A log without frames is complete since the newest event that this shard has had.
        let since = if start == log.head() { log.since().map(|_| lanes.seen) } else { log.id_until(start) };
        let record = record::Lane { start, since: since.map(|id| id.bits()), ..record };
        self.outgoing.add(Kind::Lane, &record, None)?;
        let place = self.lanes[&lane];
        let mut batch = record::Frames { lane: place, ..record::Frames::default() };
        for (id, bytes) in frames {
            batch.ids.push(id.bits());
            batch.lengths.push(bytes.len() as u32);
            batch.bytes.extend_from_slice(bytes);
            if batch.bytes.len() >= FRAMES_BYTES {
                self.outgoing.add(Kind::Frames, &batch, None)?;
                batch = record::Frames { lane: place, ..record::Frames::default() };
            }
        }
        if batch.ids.is_empty() { Ok(()) } else { self.outgoing.add(Kind::Frames, &batch, None) }
    }

    fn send_connection(&mut self, shard: &'a Shard, slot: u32, places: &Places) -> Result<(), HandoverError> {
        let connection = &shard.slots[slot];
        let subscriptions = connection.subscriptions_from(0).map(|subscription| record::Subscription {
            lane: self.lanes.get(&subscription.lane).copied().unwrap_or(u32::MAX),
            cursor: (subscription.place != NONE).then_some(subscription.cursor),
        });
        let subscriptions = subscriptions.collect();
        let identity = shard.access.identities.get(slot).map(|known| {
            let left = shard.access.ends(slot).map(|end| u64::from(end.saturating_sub(shard.cx.now)) * TICK_MS);
            Box::new(records::of_identity(known, left.map(|left| unix_ms() + left)))
        });
        let record = record::Connection {
            slot,
            dialect: self.dialect(connection.key)?,
            subscriptions,
            identity,
            tls: shard.slots.tls.record(slot).map(Box::new),
            is_greeting: shard.slots.tls.is_greeting(slot),
            failed_tokens: shard.access.failures(slot),
            certified: shard.access.certified(slot).map(|client| Box::new(records::of_client(client))),
            ..records::of_connection(connection, places)
        };
        let Some(fd) = &connection.fd else { return Ok(()) };
        let sent = self.outgoing.add(Kind::Connection, &record, Some(fd.as_fd()));
        if let Some(tls) = record.tls {
            tls.wipe();
        }
        sent
    }
}
