//! The successor's side of a hand-over: the shard is made of what its predecessor sends, at the same slots and with the same
//! generations. No client is touched before the main thread says so.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use prost::Message;

use crate::link::handover::{Adopting, HandoverError, Incoming, Moved, Verdict};
use crate::link::{HubMessage, Listening};
use crate::logic::cells::NONE;
use crate::logic::handover::clients as record;
use crate::logic::handover::feeds;
use crate::logic::handover::{FormatError, Kind};
use crate::logic::id::Id;
use crate::logic::session::{Coding, LaneKey, Spoken};
use crate::logic::wheel::Tick;
use crate::sys::clock::unix_ms;

use super::super::connection::{Flags, State, Subscription};
use super::super::lanes::Reader;
use super::super::records;
use super::super::settings::TICK_MS;
use super::super::slots::GENERATION_MASK;
use super::super::subscriptions::note_coming;
use super::super::{Listener, ListenerKind};
use super::Shard;

/// The polls that are armed in one turn.
const ARMED_PER_TURN: u32 = 1024;
/// The most slots of a shard. A record with a greater number is damaged.
const SLOTS_MAX: u32 = 1 << 26;

/// The greatest position of a log: it takes centuries to come there.
const POSITION_MAX: u64 = 1 << 62;

/// Takes a predecessor's shard over; returns whether the shard is to serve. Otherwise the hand-over has failed.
pub(in crate::shard) fn adopt(shard: &mut Shard, adopting: &Adopting) -> bool {
    let taken = take_all(shard, Incoming::new(adopting.as_fd()));
    let _ = adopting.part.report.send(taken);
    adopting.part.await_verdict(|| {}) == Verdict::Go
}

/// Rebuilds the shard from a predecessor's records.
pub(in crate::shard) fn take_all(shard: &mut Shard, incoming: Incoming<'_>) -> Result<Moved, HandoverError> {
    let mut rebuilding = Rebuilding::default();
    incoming.read_all(|kind, body, right| rebuilding.take(shard, kind, body, right))?;
    rebuilding.end(shard)
}

/// What was rebuilt so far, by the places of the records.
#[derive(Default)]
struct Rebuilding {
    dialects: Vec<LaneKey>,
    channels: Vec<u32>,
    lanes: Vec<u32>,
    /// The slots whose connections have not come yet.
    missing: HashSet<u32>,
    connections: u64,
}

fn nonsense(what: &'static str) -> HandoverError {
    FormatError::Nonsense(what).into()
}

fn decode<T: Message + Default>(body: &[u8]) -> Result<T, HandoverError> {
    Ok(T::decode(body).map_err(FormatError::from)?)
}

impl Rebuilding {
    fn take(
        &mut self,
        shard: &mut Shard,
        kind: Kind,
        body: &[u8],
        right: Option<OwnedFd>,
    ) -> Result<(), HandoverError> {
        match (kind, right) {
            (Kind::Shard, None) => self.begin(shard, decode(body)?),
            (Kind::Revoked, None) => {
                let feeds::Revoked { id, until_s, .. } = decode(body)?;
                shard.access.identities.revoked.add(id.as_str().into(), until_s);
                Ok(())
            }
            (Kind::Listener, Some(socket)) => add_listener(shard, decode(body)?, socket),
            (Kind::Dialect, None) => self.add_dialect(&decode(body)?),
            (Kind::Channel, None) => self.add_channel(shard, &decode(body)?),
            (Kind::Lane, None) => self.add_lane(shard, &decode(body)?),
            (Kind::Frames, None) => self.add_frames(shard, &decode(body)?),
            (Kind::Connection, Some(socket)) => self.add_connection(shard, decode(body)?, socket),
            _ => Err(nonsense("a record that is no shard's, or has no descriptor")),
        }
    }

    fn begin(&mut self, shard: &mut Shard, numbers: record::Shard) -> Result<(), HandoverError> {
        let slots = numbers.slots;
        let is_in_order = slots.windows(2).all(|two| two[0] < two[1]);
        if shard.slots.used() > 0 || !is_in_order || slots.last().is_some_and(|last| *last >= SLOTS_MAX) {
            return Err(nonsense("the slots"));
        }
        if numbers.now > Tick::MAX / 2 || numbers.generation > GENERATION_MASK {
            return Err(nonsense("the time, or the generation"));
        }
        shard.cx.now = numbers.now.max(1);
        shard.deadlines.restore(shard.cx.now);
        shard.lanes.see(Id::from_bits(numbers.seen));
        shard.lanes.lost_until = Id::from_bits(numbers.lost_until);
        shard.cx.counters.questions = numbers.questions;
        shard.cx.counters.resumed_hub = numbers.resumes;
        shard.slots.make_room(&slots, numbers.generation);
        let is_set = |bit| numbers.listening & bit != 0;
        let listening = Listening { messages: is_set(1), connections: is_set(2), authorize: is_set(4) };
        shard.upstream.restore(usize::try_from(numbers.upstream).unwrap_or(0), listening);
        self.missing = slots.into_iter().collect();
        Ok(())
    }

    fn add_dialect(&mut self, dialect: &record::Dialect) -> Result<(), HandoverError> {
        let Some(spoken) = Spoken::from_name(&dialect.protocol) else {
            let message =
                format!("this version does not know the protocol {:?}, which clients speak", dialect.protocol);
            return Err(HandoverError::Refused(message));
        };
        self.dialects.push(LaneKey::new(spoken, if dialect.is_chunked { Coding::Chunked } else { Coding::Identity }));
        Ok(())
    }

    fn dialect(&self, place: u32) -> Result<LaneKey, HandoverError> {
        self.dialects.get(place as usize).copied().ok_or(nonsense("a dialect's place"))
    }

    /// Adds a channel, and has the hub route it here.
    fn add_channel(&mut self, shard: &mut Shard, channel: &record::Channel) -> Result<(), HandoverError> {
        let Shard { lanes, cx, .. } = shard;
        if lanes.find(&channel.name).is_some() {
            return Err(nonsense("a channel that comes twice"));
        }
        let policy = lanes.policy_number(cx.settings.policy(&channel.name));
        let name: crate::logic::event::ChannelName = channel.name.as_str().into();
        let local = lanes.add(name.clone(), policy);
        cx.tell_hub(HubMessage::Follow { shard: cx.index, local, name });
        self.channels.push(local);
        Ok(())
    }

    fn add_lane(&mut self, shard: &mut Shard, lane: &record::Lane) -> Result<(), HandoverError> {
        let key = self.dialect(lane.dialect)?;
        let channel = *self.channels.get(lane.channel as usize).ok_or(nonsense("a channel's place"))?;
        if shard.lanes.lanes_of(channel).any(|other| shard.lanes[other].key == key) {
            return Err(nonsense("a lane that comes twice"));
        }
        if lane.start > POSITION_MAX {
            return Err(nonsense("a log's position"));
        }
        let since = lane.since.map(Id::from_bits);
        let touched: Tick = lane.touched.min(shard.cx.now);
        self.lanes.push(shard.lanes.restore(channel, key, (lane.start, since), touched));
        Ok(())
    }

    fn add_frames(&mut self, shard: &mut Shard, frames: &record::Frames) -> Result<(), HandoverError> {
        let lane = *self.lanes.get(frames.lane as usize).ok_or(nonsense("a lane's place"))?;
        if frames.ids.len() != frames.lengths.len() || !shard.lanes.readers(lane).is_empty() {
            return Err(nonsense("a lane's frames"));
        }
        let mut rest = &frames.bytes[..];
        for (id, length) in frames.ids.iter().zip(&frames.lengths) {
            let (frame, after) = rest.split_at_checked(*length as usize).ok_or(nonsense("a frame's length"))?;
            let id = Id::from_bits(*id);
            let newest = shard.lanes[lane].log.id_before(shard.lanes[lane].log.head());
            if frame.is_empty() || newest.is_some_and(|newest| newest >= id) {
                return Err(nonsense("a frame"));
            }
            shard.lanes.append(lane, id, shard.cx.now, |out| out.extend_from_slice(frame));
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(nonsense("bytes of no frame")) }
    }

    fn add_connection(
        &mut self,
        shard: &mut Shard,
        mut record: record::Connection,
        socket: OwnedFd,
    ) -> Result<(), HandoverError> {
        let slot = record.slot;
        if !self.missing.remove(&slot) || record.generation > GENERATION_MASK {
            return Err(nonsense("a slot that was not announced, or comes twice"));
        }
        let key = self.dialect(record.dialect)?;
        let subscriptions = std::mem::take(&mut record.subscriptions);
        let (identity, mut tls, certified) = (record.identity.take(), record.tls.take(), record.certified.take());
        if let Some(tls) = &mut tls {
            tls.since = tls.since.min(shard.cx.now);
        }
        let (is_greeting, failures, mid) = (record.is_greeting, record.failed_tokens, record.mid);
        let (mut connection, state, must_read) = records::to_connection(record, &self.channels, &shard.cx)?;
        (connection.fd, connection.key) = (Some(socket), key);
        let is_counted = connection.flags.intersects(Flags::COUNTED);
        if !connection.flags.intersects(Flags::REFUSED) {
            shard.cx.admission.restore(is_counted.then(|| connection.peer.ip()));
        }
        shard.slots.restore(slot, connection, state);
        restore_tls(shard, slot, tls.as_deref(), is_greeting)?;
        let known = identity.map(|identity| {
            let expires = identity.ends_ms.map_or(Tick::MAX, |ends| {
                let left = ends.saturating_sub(unix_ms()).div_ceil(TICK_MS).clamp(1, (Tick::MAX / 2).into());
                shard.cx.now.saturating_add(left as Tick)
            });
            records::to_known(*identity, expires)
        });
        shard.access.restore(&shard.cx, slot, known, failures);
        if let Some(client) = certified {
            shard.access.certify(slot, records::to_client(*client));
        }
        self.add_subscriptions(shard, slot, &subscriptions)?;
        restore_mid(shard, slot, mid)?;
        settle(shard, slot, must_read);
        self.connections += 1;
        Ok(())
    }

    fn add_subscriptions(
        &self,
        shard: &mut Shard,
        slot: u32,
        subscriptions: &[record::Subscription],
    ) -> Result<(), HandoverError> {
        let Shard { slots, lanes, cx, .. } = shard;
        for (index, subscription) in subscriptions.iter().enumerate() {
            let lane = *self.lanes.get(subscription.lane as usize).ok_or(nonsense("a subscription's lane"))?;
            if lanes[lane].key != slots[slot].key || slots[slot].subscriptions_from(0).any(|other| other.lane == lane) {
                return Err(nonsense("a subscription"));
            }
            lanes.enter(lane);
            let (mut place, cursor) = (NONE, subscription.cursor.unwrap_or(0));
            if subscription.cursor.is_some() {
                if !(lanes[lane].log.tail()..=lanes[lane].log.head()).contains(&cursor) {
                    return Err(nonsense("a cursor"));
                }
                place = lanes.add_reader(lane, Reader { slot, subscription: index as u32 }, cursor);
            }
            slots[slot].add_subscription(Subscription { lane, place, cursor });
        }
        note_coming(slots, lanes, cx, slot, 0);
        shard.carry_out();
        Ok(())
    }

    /// Ends the rebuilding: walks begin where readers are behind, and pages are asked for.
    fn end(self, shard: &mut Shard) -> Result<Moved, HandoverError> {
        if !self.missing.is_empty() {
            return Err(nonsense("fewer connections than slots"));
        }
        let Shard { slots, lanes, cx, walks, resumes, access, deadlines, .. } = &mut *shard;
        for lane in &self.lanes {
            if !lanes.is_read(*lane) {
                walks.begin(lanes, *lane);
            }
        }
        for slot in 0..slots.capacity() {
            if slots[slot].resume().is_some_and(|resume| !resume.page_due) {
                resumes.ask_for_page(slots, cx, slot);
            }
        }
        deadlines.schedule_all(slots, cx, |slot| access.ends(slot));
        shard.carry_out();
        shard.upstream.ring();
        shard.unarmed = 0;
        Ok(Moved { connections: self.connections, left: 0 })
    }
}

fn restore_tls(
    shard: &mut Shard,
    slot: u32,
    tls: Option<&record::Tls>,
    is_greeting: bool,
) -> Result<(), HandoverError> {
    let tables = &mut shard.slots.tls;
    if is_greeting {
        tables.greet(slot);
    }
    if tls.is_some_and(|record| !tables.restore(slot, record)) {
        return Err(nonsense("the secrets of a TLS connection"));
    }
    if shard.slots[slot].flags.intersects(Flags::SEALED) != tls.is_some() {
        return Err(nonsense("a TLS connection without secrets"));
    }
    shard.slots.weigh_tls(slot);
    Ok(())
}

/// Notes the frame that is sent in part. No other cursor may stand within a frame.
fn restore_mid(shard: &mut Shard, slot: u32, mid: Option<u32>) -> Result<(), HandoverError> {
    let mid = mid.map(|index| index as usize);
    let within = |subscription: &Subscription| {
        let log = &shard.lanes[subscription.lane].log;
        subscription.place != NONE && log.frame_boundary(subscription.cursor) != subscription.cursor
    };
    let connection = &shard.slots[slot];
    let found: Vec<usize> =
        (0..connection.subscriptions()).filter(|index| connection.subscription(*index).is_some_and(within)).collect();
    // A frame of which the kernel took nothing yet counts as one that is sent in part, too.
    if found.iter().any(|index| Some(*index) != mid)
        || mid.is_some_and(|index| connection.subscription(index).is_none())
    {
        return Err(nonsense("a frame that is sent in part"));
    }
    if mid.is_some_and(|index| index > 0) {
        shard.slots[slot].extra();
    }
    shard.slots[slot].set_mid_frame(mid);
    Ok(())
}

/// Puts a connection into the lists in which it must stand.
fn settle(shard: &mut Shard, slot: u32, must_read: bool) {
    let Shard { slots, lanes, upstream, .. } = shard;
    slots.weigh(slot);
    slots.reschedule(slot);
    if must_read {
        slots.read_later(slot);
    }
    let connection = &slots[slot];
    if connection.holds().contains(super::super::waiting::Hold::UPSTREAM) {
        upstream.wait(slot, connection.generation);
    }
    let is_behind = |subscription: &Subscription| {
        subscription.place != NONE && subscription.cursor != lanes[subscription.lane].log.head()
    };
    let has_work = connection.extra.is_some()
        || connection.state == State::Closing
        || connection.flags.intersects(Flags::HEARTBEAT | Flags::MID_FRAME)
        || slots.tls.has_rest(slot)
        || connection.subscriptions_from(0).any(is_behind);
    if has_work {
        slots.queue(slot);
    }
}

fn add_listener(shard: &mut Shard, record: record::Listener, socket: OwnedFd) -> Result<(), HandoverError> {
    let kind = match record.kind {
        0 => ListenerKind::Tcp(socket.into()),
        1 => ListenerKind::Unix(Arc::new(UnixListener::from(socket))),
        2 => ListenerKind::Inherited(Arc::new(socket.into())),
        _ => return Err(nonsense("a listener's kind")),
    };
    if record.is_tls && shard.tls.is_none() {
        let message = "the running server has listeners for TLS, and this configuration has no certificate";
        return Err(HandoverError::Refused(message.into()));
    }
    shard.acceptor.add(Listener { kind, is_tls: record.is_tls });
    Ok(())
}

/// Has the ring watch some more of the predecessor's connections; returns whether there are more.
pub(super) fn arm_some(shard: &mut Shard) -> io::Result<bool> {
    if shard.unarmed == u32::MAX {
        return Ok(false);
    }
    let end = shard.unarmed.saturating_add(ARMED_PER_TURN).min(shard.slots.capacity());
    for slot in shard.unarmed..end {
        if !matches!(shard.slots[slot].state, State::Free | State::Dead) {
            shard.wire.await_input(&mut shard.slots, slot)?;
        }
    }
    shard.unarmed = if end == shard.slots.capacity() { u32::MAX } else { end };
    Ok(true)
}
