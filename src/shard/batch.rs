//! A batch of sends while it is put together: the planned sends, and the memory for copied frames. The memory is kept
//! from turn to turn.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::logic::cells::Slack;
use crate::logic::log::Position;

use super::connection::{Connection, Flags};
use super::context::Budget;
use super::frames::{Sent, Share};
use super::lanes::Lanes;
use super::slots::Slots;
use super::tls::Sealed;

/// The most bytes that are copied for one batch.
const ARENA_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The bytes of a batch beyond which no send is added: some milliseconds of the kernel's time.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The bytes that a connection is sent next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// Frames of one lane, from one position to another.
    Run { subscription: u32, lane: u32, start: Position, end: Position },
    /// The bytes that wait in the connection's `out`.
    Out,
    /// The connection's heartbeat.
    Heartbeat,
    /// Frames of several lanes, from one offset of the arena to another.
    Merged { start: usize, end: usize },
    /// What a connection that speaks HTTP/2 is sent, with frames of its streams.
    Carried(Carried),
}

/// A part of a batch's frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    /// The bytes' start and end among the batch's frames.
    pub(super) start: usize,
    pub(super) end: usize,
    /// The bytes of the connection's own `out`, which come first.
    pub(super) out: usize,
    /// The first of the frames in the batch's list, and their number.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Some streams are left out, because the send is long.
    pub(super) is_cut: bool,
}

/// One planned send to a connection.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) slot: u32,
    pub(super) piece: Piece,
}

impl Piece {
    /// The bytes of a piece that lies in a log or in the arena.
    fn bytes(self) -> u64 {
        match self {
            Piece::Run { start, end, .. } => end - start,
            Piece::Merged { start, end } | Piece::Carried(Carried { start, end, .. }) => (end - start) as u64,
            Piece::Out | Piece::Heartbeat => 0,
        }
    }
}

/// The planned sends and their copied bytes; see the module's documentation.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) plans: Vec<Plan>,
    /// The bytes of the planned sends, apart from answers and heartbeats.
    bytes: u64,
    /// The share of the present turn for merging frames and answering polls.
    pub(super) budget: Budget,
    /// Copied frames of several lanes, in the order in which they are sent.
    pub(super) arena: Vec<u8>,
    /// The cursors of the connection whose frames are being copied.
    pub(super) cursors: Vec<Position>,
    /// The records of the sends to connections that speak TLS, in the order of the plans.
    pub(super) records: Vec<u8>,
    /// The places of these sends' records.
    pub(super) sealed: Vec<Sealed>,
    /// The bytes for connections that speak HTTP/2, and the list of their frames.
    pub(super) frames: Vec<u8>,
    pub(super) sent: Vec<Sent>,
    /// What the kernel took of the streams of the connection that is accounted for.
    pub(super) shares: Vec<Share>,
}

impl Default for Batch {
    fn default() -> Batch {
        let budget = Budget::new((0, Duration::ZERO));
        Batch {
            plans: Vec::new(),
            bytes: 0,
            budget,
            arena: Vec::new(),
            cursors: Vec::new(),
            records: Vec::new(),
            sealed: Vec::new(),
            frames: Vec::new(),
            sent: Vec::new(),
            shares: Vec::new(),
        }
    }
}

impl Batch {
    /// Forgets the copied bytes of a batch that was sent.
    pub(super) fn clear(&mut self) {
        self.arena.clear();
        self.frames.clear();
        self.sent.clear();
    }

    /// Begins a batch.
    pub(super) fn begin(&mut self) {
        self.bytes = 0;
    }

    /// Adds a planned send.
    pub(super) fn add(&mut self, plan: Plan) {
        self.bytes += plan.piece.bytes();
        self.plans.push(plan);
    }

    /// Whether the batch takes no more sends, of which it may have `plans_max`.
    pub(super) fn is_full(&self, plans_max: usize) -> bool {
        self.plans.len() >= plans_max || self.bytes >= BYTES_MAX || self.budget.is_spent()
    }

    /// The number of planned sends.
    pub(super) fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether more bytes may be copied for this batch.
    pub(super) fn has_room_to_copy(&self) -> bool {
        self.arena.len() < ARENA_BYTES_MAX
    }

    /// Gives back memory of a batch that was large once. The batch is empty.
    pub(super) fn give_back_slack(&mut self) {
        debug_assert!(self.plans.is_empty(), "a batch is sent within its turn");
        self.plans.give_back_slack();
        self.arena.give_back_slack();
        self.cursors.give_back_slack();
        self.records.give_back_slack();
        self.sealed.give_back_slack();
        self.frames.give_back_slack();
        self.sent.give_back_slack();
    }

    /// Each planned send: the socket and its bytes.
    pub(super) fn sends<'a>(
        &'a self,
        slots: &'a Slots,
        lanes: &'a Lanes,
    ) -> impl Iterator<Item = (BorrowedFd<'a>, &'a [u8])> {
        let mut sealed = self.sealed.iter();
        self.plans.iter().filter_map(move |plan| {
            let connection = &slots[plan.slot];
            let bytes = if connection.flags.intersects(Flags::SEALED) {
                sealed.next().map_or(&[][..], |sealed| &self.records[sealed.start..sealed.end])
            } else {
                plain(plan.piece, connection, lanes, &self.arena, &self.frames)
            };
            Some((connection.fd.as_ref()?.as_fd(), bytes))
        })
    }

    /// Seals the sends to connections that speak TLS; returns the connections for which that failed.
    pub(super) fn seal(&mut self, slots: &mut Slots, lanes: &Lanes) -> Vec<u32> {
        let mut failed = Vec::new();
        self.records.clear();
        self.sealed.clear();
        let plans = if slots.tls.secured() > 0 { &self.plans[..] } else { &[] };
        for plan in plans {
            if slots[plan.slot].flags.intersects(Flags::SEALED) {
                let (connection, tls) = slots.with_tls(plan.slot);
                let plain = plain(plan.piece, connection, lanes, &self.arena, &self.frames);
                let sealed = tls.seal(plan.slot, plain, &mut self.records);
                self.sealed.push(sealed.unwrap_or_else(|_| {
                    failed.push(plan.slot);
                    Sealed::default()
                }));
            }
        }
        failed
    }
}

/// The bytes of a planned send, in plaintext.
pub(super) fn plain<'a>(
    piece: Piece,
    connection: &'a Connection,
    lanes: &'a Lanes,
    arena: &'a [u8],
    frames: &'a [u8],
) -> &'a [u8] {
    match piece {
        Piece::Run { lane, start, end, .. } => lanes[lane].log.bytes(start, end),
        Piece::Out => connection.out_bytes(),
        Piece::Heartbeat => heartbeat(connection),
        Piece::Merged { start, end } => &arena[start..end],
        Piece::Carried(Carried { start, end, .. }) => &frames[start..end],
    }
}

/// The bytes of a connection's heartbeat.
pub(super) fn heartbeat(connection: &Connection) -> &'static [u8] {
    connection.key.heartbeat().unwrap_or_default()
}
