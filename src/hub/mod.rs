//! The hub: the single writer of order, ids and history. One thread.
//!
//! An event comes in through `publishers`, gets its id and its place in history in `core`, and leaves
//! through the queues to the shards that follow its channel (`channels`). `looks` and `busiest` are for those who watch.

mod backend;
mod bare;
mod busiest;
mod channels;
mod core;
pub mod ids;
mod listeners;
mod looks;
mod notify;
mod presence;
mod publishers;
pub mod revocations;
mod state_file;
mod trace;

use std::cell::RefCell;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::figures::Stats;
use crate::link::{HubInbox, ToShard};
use crate::logic::idempotency::IdempotencyKeys;
use crate::sys::clock::unix_ms;
use crate::sys::memory;
use crate::sys::readiness::Readiness;

use core::Core;
use ids::IdSource;
use notify::Notify;
use revocations::Revocations;

pub use crate::figures::HubFigures;
pub use bare::BareHub;
pub use channels::HistoryPolicy;

/// Everything a hub is made of.
pub struct HubParts {
    /// The publishers' socket.
    pub listener: UnixListener,
    /// Feed connections of the server's own.
    pub own: Vec<UnixStream>,
    /// Who may connect to it, by user id; empty for all whom the socket's mode lets in.
    pub allowed_users: Vec<u32>,
    /// Who may connect to it and only look, by user id.
    pub readers: Vec<u32>,
    /// The longest command, in bytes.
    pub max_line: usize,
    /// Channels that publishers may bring into being.
    pub channels_max: usize,
    /// How long a publish's key is remembered.
    pub idempotency_window: Duration,
    /// How many keys are remembered.
    pub idempotency_keys: usize,
    /// What each channel's history may hold.
    pub history: HistoryPolicy,
    /// Where ids come from.
    pub ids: IdSource,
    /// What was revoked before, and where it is written down.
    pub revocations: Revocations,
    /// Its end of the queue from the shards.
    pub inbox: HubInbox,
    /// Its ends of the queues to the shards.
    pub shards: Vec<ToShard>,
    /// The server's figures: the hub counts in its own, and answers `stats` with all.
    pub stats: Arc<Stats>,
    /// Told how many connections were cut, once all shards have let their clients go.
    pub drained: crossbeam_channel::Sender<u64>,
}

/// What the hub's tasks share.
struct Hub {
    core: RefCell<Core>,
    inbox: HubInbox,
    /// Something was heard: a full queue may have room again.
    heard: Notify,
    answered: Rc<Notify>,
    allowed_users: Vec<u32>,
    readers: Vec<u32>,
    max_line: usize,
    drained: crossbeam_channel::Sender<u64>,
}

impl Hub {
    /// Works off everything the shards have said, and lets their answers out.
    fn hear_shards(&self) {
        let mut core = self.core.borrow_mut();
        let now = unix_ms();
        let drained_before = core.drained;
        while let Some(message) = self.inbox.next() {
            core.hear(message, now);
        }
        core.flush();
        if core.drained == core.shards.len() && drained_before < core.drained {
            let _ = self.drained.send(core.cut);
        }
    }

    /// Holds a publisher back until every shard's queue has room.
    async fn wait_for_room(&self) {
        let begun = Instant::now();
        let figures = self.core.borrow().figures.clone();
        HubFigures::add(&figures.congestions, 1);
        loop {
            self.core.borrow_mut().flush();
            let congested = self.core.borrow().shards.iter().position(ToShard::await_room);
            let Some(shard) = congested else { break };
            HubFigures::set(&figures.congested_shard, shard as u64);
            self.heard.wait().await;
        }
        HubFigures::add(&figures.congested_ms, begun.elapsed().as_millis() as u64);
    }
}

/// How often old events are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Runs the hub on the calling thread until it is told to stop.
///
/// # Errors
/// If the runtime cannot be made or the feed can no longer be accepted from.
pub fn run(parts: HubParts) -> io::Result<()> {
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(1024).enable_timer().build()?;
    let core = Core {
        keys: IdempotencyKeys::new(parts.idempotency_window.as_millis() as u64, parts.idempotency_keys),
        channels_max: parts.channels_max,
        figures: parts.stats.hub.clone(),
        stats: parts.stats,
        revocations: parts.revocations,
        ..Core::new(parts.ids, parts.shards, parts.history)
    };
    let answered = core.answered.clone();
    let hub = Rc::new(Hub {
        core: RefCell::new(core),
        inbox: parts.inbox,
        heard: Notify::default(),
        answered,
        allowed_users: parts.allowed_users,
        readers: parts.readers,
        max_line: parts.max_line,
        drained: parts.drained,
    });
    runtime.block_on(async move {
        monoio::spawn(guard(publishers::accept_loop(hub.clone(), parts.listener)));
        for stream in parts.own {
            monoio::spawn(publishers::serve_own(hub.clone(), stream));
        }
        monoio::spawn(sweep(hub.clone()));
        let readiness = Readiness::new(hub.inbox.wake.waitable()?)?;
        loop {
            readiness.wait().await?;
            hub.inbox.wake.clear();
            hub.hear_shards();
            hub.heard.notify();
            if hub.core.borrow().is_stopped {
                break;
            }
        }
        if let Err(error) = hub.core.borrow_mut().ids.close() {
            warn!(%error, "the last id could not be written; ids will run ahead of the clock for some seconds");
        }
        Ok(())
    })
}

/// A hub that accepts no publishers would look alive and not be.
async fn guard(task: impl Future<Output = io::Result<()>>) {
    if let Err(error) = task.await {
        error!(%error, "the hub cannot go on");
        std::process::exit(1);
    }
}

async fn sweep(hub: Rc<Hub>) {
    let mut ticks = monoio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        let mut core = hub.core.borrow_mut();
        core.channels.sweep(unix_ms());
        core.busiest.pass_time(unix_ms());
        core.publish_figures();
        HubFigures::add(&core.figures.rounds, 1);
        memory::give_back();
    }
}
