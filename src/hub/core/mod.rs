//! The hub's state, and the only place where it changes.
//!
//! `Core` holds the hub's parts. Each part owns its fields and knows no other part; `Core` passes the results of one
//! part to
//! another. `turn` is the order of work, `commands` carries out publishers' lines, `hear` carries out the shards'
//! messages,
//! and `apply` puts events into history and the shards' queues.

mod accept;
mod adopting;
mod ahead;
mod apply;
mod budget;
mod commands;
mod hear;
mod log;
mod nodes;
mod parting;
mod sweep;
mod turn;

use std::mem;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arcstr::ArcStr;

use crate::figures::{Longest, Stats};
use crate::link::{ShardMessage, ToShard};
use crate::logic::id::Id;
use crate::logic::line_budget::LineBudget;

use super::HubFigures;
use super::Order;
use super::accounts::Accounts;
use super::busiest::Busiest;
use super::channels::{HistoryPolicy, HubChannels};
use super::cluster::Cluster;
use super::ids::MarkError;
use super::keys::Keys;
use super::listeners::Listeners;
use super::presence::Presence;
use super::publishers::Publishers;
use super::questions::Questions;
use super::revocations::Revocations;
use super::roles::Admission;
use super::shards::Shards;
use super::trace::Traces;
use super::watch::Want;

use accept::Accepting;
use ahead::Ahead;
use apply::Applying;
use budget::{Clock, Now};

pub(super) use accept::LOG_TICKS_PER_SECOND;
pub(super) use ahead::Sent;
pub(super) use turn::Ports;

/// The hub's state: its parts, and the fields that belong to no part.
pub(super) struct Core {
    pub(super) order: Order,
    pub(super) cluster: Cluster,
    pub(super) channels: HubChannels,
    pub(super) keys: Keys,
    pub(super) busiest: Busiest,
    pub(super) presence: Presence,
    pub(super) traces: Traces,
    pub(super) listeners: Listeners,
    pub(super) accounts: Accounts,
    pub(super) questions: Questions,
    pub(super) revocations: Revocations,
    pub(super) publishers: Publishers,
    pub(super) admission: Admission,
    pub(super) shards: Shards,
    pub(super) figures: Arc<HubFigures>,
    /// The server's figures, the hub's own among them.
    pub(super) stats: Arc<Stats>,
    /// The id of the newest event that is in history and in the shards' queues.
    pub(super) applied: Id,
    /// The position that the shards were last told.
    announced: Id,
    /// The feed's new listener, until the driver has it.
    pub(in crate::hub) rebound: Option<UnixListener>,
    /// The wants of this turn, for the driver.
    pub(super) wants: Vec<Want>,
    clock: Clock,
    now: Now,
    accepting: Accepting,
    /// The number of the shards' messages that were heard since the start.
    heard: u64,
    /// Whether messages of the shards were left for the next turn.
    is_hearing: bool,
    /// The time since which publishers wait because a shard's queue is full.
    congested_since: Option<Instant>,
    /// The number of lines that were carried out since the last flush to the shards.
    unflushed_lines: usize,
    /// Connections that were accepted in this turn and are not watched yet.
    unwatched: u64,
    /// The long line that is being applied, if there is one.
    applying: Option<Box<Applying>>,
    /// The times of the next sweep, and of the next work that comes once a second.
    sweep_at: Instant,
    rounds_at: Instant,
    /// Channels that this sweep has not visited yet.
    sweep_left: u32,
    /// The time before which no memory is given back.
    give_back_at: Instant,
    /// The longest turn.
    longest: Longest,
    /// Whether ids run so far ahead of the clock that a warning was logged.
    are_ids_ahead: bool,
    /// The budget of log lines about publishers.
    pub(super) log_lines: LineBudget,
    /// The time at which the driver will mark the next tick.
    tick_at: Option<Instant>,
    /// Shards that have let all their clients go.
    drained: usize,
    /// Clients that these shards have cut off at the deadline.
    cut: u64,
    is_stopped: bool,
    /// The hub hears what a predecessor's shards follow: no limit holds for it, and nobody is told.
    is_adopting: bool,
    /// Histories that are being sent ahead to a successor.
    ahead: Option<Box<Ahead>>,
    /// The buffer for lines in the making.
    line: Vec<u8>,
}

impl Core {
    /// A hub without idempotency keys, revocations on disk and a bound of channels, whose figures nobody else has.
    pub(super) fn new(order: Order, shards: Vec<ToShard>, history: HistoryPolicy) -> Core {
        let clock = budget::clock();
        let now = clock();
        // The position in a log is known when its first entry is.
        let (floor, mark) = match &order {
            Order::Local(ids) => (ids.last(), ArcStr::new()),
            Order::Log(log) => (Id::ZERO, log.parts.mark.clone()),
        };
        Core {
            channels: HubChannels::new(shards.len(), floor, history),
            accounts: Accounts::new(shards.len()),
            applied: floor,
            announced: floor,
            order,
            cluster: Cluster::new(mark),
            shards: Shards::new(shards),
            keys: Keys::new(Duration::ZERO, 0),
            busiest: Busiest::default(),
            presence: Presence::default(),
            traces: Traces::default(),
            listeners: Listeners::default(),
            questions: Questions::default(),
            revocations: Revocations::default(),
            publishers: Publishers::new(0),
            admission: Admission::default(),
            figures: Arc::default(),
            stats: Arc::default(),
            wants: vec![Want::Listener, Want::Inbox],
            clock,
            now,
            accepting: Accepting::Awaited,
            rebound: None,
            heard: 0,
            is_hearing: false,
            congested_since: None,
            unflushed_lines: 0,
            unwatched: 0,
            applying: None,
            sweep_at: now.instant,
            rounds_at: now.instant,
            sweep_left: 0,
            give_back_at: now.instant,
            longest: Longest::default(),
            are_ids_ahead: false,
            log_lines: LineBudget::new(100, LOG_TICKS_PER_SECOND),
            tick_at: None,
            drained: 0,
            cut: 0,
            is_stopped: false,
            is_adopting: false,
            ahead: None,
            line: Vec::new(),
        }
    }

    /// The time `now_ms` on both clocks, for a hub that is driven by hand.
    pub(super) fn at(&self, now_ms: u64) -> Now {
        Now { unix_ms: now_ms, steady_ms: now_ms, ..self.now }
    }

    /// Gives every shard its batch of messages, with the number of bytes that are off its account.
    pub(super) fn flush(&mut self) {
        self.unflushed_lines = 0;
        // A shard that has room again rings the hub, and the next turn looks here again.
        if self.accounts.has_held() && self.shards.await_room().is_none() {
            self.accounts.release_held();
        }
        for (shard, bytes) in self.accounts.take_repaid() {
            self.shards.stage(shard, ShardMessage::Heard(bytes));
        }
        self.shards.flush();
        if let Order::Log(log) = &mut self.order {
            log.ring();
        }
    }

    /// Brings the figures up to date that are not counted as things happen.
    pub(super) fn publish_figures(&self) {
        HubFigures::set(&self.figures.channels, self.channels.used() as u64);
        HubFigures::set(&self.figures.channels_followed, self.channels.census.followed() as u64);
        HubFigures::set(&self.figures.memory_bytes, self.channels.memory() + self.publishers.waiting_bytes() as u64);
        HubFigures::set(&self.figures.history_dropped, self.channels.dropped_for_memory);
        HubFigures::set(&self.figures.history_events, self.channels.history_events);
        HubFigures::set(&self.figures.history_bytes, self.channels.history_bytes);
        HubFigures::set(&self.figures.queued_bytes, self.shards.waiting_bytes() as u64);
    }

    /// Writes the last id down, for a clean stop.
    pub(super) fn close_ids(&mut self) -> Result<(), MarkError> {
        match &mut self.order {
            Order::Local(ids) => ids.close(),
            Order::Log(_) => Ok(()),
        }
    }

    /// The buffer for a line, empty; it is to be put back into `line`.
    fn take_line(&mut self) -> Vec<u8> {
        let mut line = mem::take(&mut self.line);
        line.clear();
        line
    }
}

#[cfg(test)]
mod tests;
