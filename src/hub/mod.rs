//! The hub: the single writer of order, ids and history. One thread.
//!
//! The `driver` waits for the hub's inputs, and calls `core` for a turn when there is work. A turn is the only place
//! where the hub's state changes. A publisher's line comes in through `publishers`, is carried out in
//! `core`, and its event leaves through the queues to the shards that follow its channel (`channels`).

mod accounts;
mod answers;
mod bare;
mod busiest;
mod census;
mod channels;
mod cluster;
mod core;
mod driver;
pub mod ids;
mod keys;
mod listeners;
mod looks;
mod memory;
pub mod order;
mod outbox;
mod presence;
mod publishers;
mod questions;
pub mod revocations;
mod roles;
mod routes;
mod shards;
mod state_file;
mod trace;
mod watch;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use crate::figures::Stats;
use crate::link::handover::Adopting;
use crate::link::{HubInbox, ToShard};
use crate::logic::line_budget::LineBudget;
use crate::sys::fdtable::raise_descriptor_limit;

use census::ChannelLimits;
use core::{Core, LOG_TICKS_PER_SECOND, Ports};
use ids::IdSource;
use keys::Keys;
use listeners::Listeners;
use publishers::Publishers;
use revocations::Revocations;
use roles::Admission;

pub use crate::figures::HubFigures;
pub use bare::{BareHub, SentAhead};
pub use channels::HistoryPolicy;
pub use memory::memory_max;

/// The source of the order of events.
#[derive(Debug)]
pub enum Order {
    /// This process gives ids itself.
    Local(IdSource),
    /// A log that several nodes read gives ids.
    Log(Box<order::LogOrder>),
}

/// Everything that a hub is made of.
pub struct HubParts {
    /// The feed's listener; `None` if it comes from a predecessor.
    pub listener: Option<UnixListener>,
    /// The hub's part if it takes a predecessor's over.
    pub adopting: Option<Adopting>,
    /// Connections of the server's own, which are publishers like others.
    pub own: Vec<UnixStream>,
    /// Users that may publish, by their ids; empty for all that the socket's mode lets in.
    pub allowed_users: Vec<u32>,
    /// Users that may only look, by their ids.
    pub readers: Vec<u32>,
    /// The longest line of a publisher, in bytes.
    pub max_line: usize,
    /// The most connections of publishers, beside the server's own.
    pub publishers_max: usize,
    /// The most channels that publishers may create.
    pub channels_max: usize,
    /// The most channels that only clients have brought into being.
    pub followed_max: usize,
    /// The bytes of names, histories, answers and lines for listeners.
    pub memory_max: u64,
    /// The time in which a listener must answer a question about a client.
    pub ask_timeout: Duration,
    /// The most log lines about publishers per second.
    pub log_lines_per_second: u32,
    /// The time for which a publish's idempotency key is remembered.
    pub idempotency_window: Duration,
    /// The most idempotency keys that are remembered.
    pub idempotency_keys: usize,
    /// The limits of each channel's history.
    pub history: HistoryPolicy,
    /// The source of the order.
    pub order: Order,
    /// The tokens that were revoked before, and the file that keeps them.
    pub revocations: Revocations,
    /// The hub's end of the queue from the shards.
    pub inbox: HubInbox,
    /// The hub's ends of the queues to the shards.
    pub shards: Vec<ToShard>,
    /// The server's figures. The hub counts in its own part, and answers `stats` with all.
    pub stats: Arc<Stats>,
    /// The channel on which the hub reports the number of cut connections, once all shards are drained.
    pub drained: crossbeam_channel::Sender<u64>,
}

/// Runs the hub on the calling thread until it is told to stop.
///
/// # Errors
/// If the runtime cannot be made, or can no longer watch the feed or the queue from the shards.
pub fn run(parts: HubParts) -> io::Result<()> {
    let mut core = Core::new(parts.order, parts.shards, parts.history);
    core.keys = Keys::new(parts.idempotency_window, parts.idempotency_keys);
    core.publishers = Publishers::new(parts.max_line);
    core.publishers.limit_to(usize::try_from(parts.memory_max / 4).unwrap_or(usize::MAX));
    core.listeners = Listeners::new(parts.ask_timeout.as_millis() as u64);
    core.log_lines = LineBudget::new(parts.log_lines_per_second, LOG_TICKS_PER_SECOND);
    core.admission = Admission {
        allowed_users: parts.allowed_users,
        readers: parts.readers,
        publishers_max: parts.publishers_max,
        descriptors_max: raise_descriptor_limit()?,
    };
    core.figures = parts.stats.hub.clone();
    core.stats = parts.stats;
    core.revocations = parts.revocations;
    core.channels.census.limit_to(ChannelLimits {
        published_max: parts.channels_max,
        followed_max: parts.followed_max,
        memory_max: parts.memory_max,
    });
    for stream in parts.own {
        core.open_own(stream.into());
    }
    let adopted = parts.adopting.as_ref().and_then(|adopting| core.adopt(adopting, &parts.inbox));
    let Some(listener) = parts.listener.or(adopted) else { return Ok(()) };
    driver::run(core, Ports { listener, inbox: parts.inbox, drained: parts.drained })
}
