//! Shards: one thread per core, each with its own listeners, connections, logs, heartbeats and ring.
//!
//! Where a client's byte goes: `accept` takes the connection, `intake` reads, `request` decides what it
//! is, `subscribe` gives it its place in a lane (`channels`), `messages` hears a WebSocket out. Where an
//! event goes: `inbox` appends its frame to the lanes, `walk` visits their readers, `deliver` sends. Everything
//! happens in turns of `Shard::turn`, which never blocks; between two turns the thread waits for its ring.

mod accept;
mod access;
mod admission;
mod asking;
mod channels;
mod closing;
mod connection;
mod deliver;
mod drain;
#[cfg(feature = "faults")]
mod faults;
mod identities;
mod inbox;
mod intake;
mod lagging;
mod merge;
mod messages;
mod poll;
mod proxied;
mod rates;
mod request;
mod settings;
mod subscribe;
mod survey;
mod time;
mod upstream;
mod walk;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::figures::{Counters, Measure, Measures, ShardFigures};
use crate::link::{ConnectionId, FromHub, ToHub};
use crate::logic::auth::{Keyring, Revoked};
use crate::logic::cells::Cells;
use crate::logic::id::Id;
use crate::logic::wheel::{Tick, Wheel};
use crate::sys::readiness::Readiness;
use crate::sys::ring::{self, Completion, Ring};
use crate::sys::{affinity, fdtable};

use accept::Reserve;
use channels::Channels;
use connection::Connection;
use deliver::Batch;
use drain::Drain;
use identities::Identities;
use rates::Talk;
use settings::{Policies, Settings, TICK_MS};
use survey::Surveys;
use time::{Hint, LineBudget};
use upstream::Upstream;
use walk::Walks;

pub use admission::Admission;

/// What a shard listens on.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port that it shares with the other shards, each with a queue of its own.
    Tcp(std::net::TcpListener),
    /// A Unix socket whose one queue all shards take from.
    Unix(Arc<std::os::unix::net::UnixListener>),
    /// A socket that the service manager has opened and keeps: who comes while the server is away waits there.
    Inherited(Arc<socket2::Socket>),
    /// A Unix socket for this process alone: who connects there may see the server's own channel.
    Own(std::os::unix::net::UnixListener),
}

/// Everything a shard is made of.
pub struct ShardParts {
    /// Its number, from 0 on.
    pub index: u16,
    /// The core to run on, if it is to be pinned.
    pub core: Option<usize>,
    /// The configuration.
    pub config: Arc<Config>,
    /// What it listens on.
    pub listeners: Vec<Listener>,
    /// Its end of the queue from the hub.
    pub from_hub: FromHub,
    /// Its end of the queue to the hub.
    pub to_hub: ToHub,
    /// What it shares with the other shards.
    pub room: Arc<Admission>,
    /// Where it publishes its figures.
    pub figures: Arc<ShardFigures>,
    /// The keys by which tokens are verified; without any, none are asked for.
    pub keyring: Option<Arc<Keyring>>,
    /// The tokens that were revoked before the start.
    pub revoked: Revoked,
    /// What is shown at `/`, if anything is.
    pub page: Option<&'static str>,
    /// Told once the shard serves, or why it cannot.
    pub started: crossbeam_channel::Sender<Result<(), String>>,
}

/// Bytes that one `recv` takes at most.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Completions that one turn looks at.
const COMPLETIONS_PER_TURN: usize = 1024;
/// The most completions that wait in the ring's own queue; more wait in the kernel.
const COMPLETION_QUEUE: u32 = 16 * 1024;
/// How long the engine goes on before it lets the thread's other tasks run.
const SLICE: Duration = Duration::from_millis(2);
/// Descriptors of a shard's table that are no connections, with room to spare for refusals.
const OTHER_DESCRIPTORS: u64 = 128;

/// What a parked connection is polled for.
const POLLED: u32 = ring::POLL_IN | ring::POLL_RDHUP;
/// Generations are kept below what is needed of `user_data` for other things.
const GENERATION_MASK: u32 = 0x0fff_ffff;
/// Part of the `user_data` of polls for room.
const FOR_ROOM: u64 = 1 << 60;
/// `user_data` of what belongs to no connection: no slot has this number in its lower half.
const INBOX: u64 = u32::MAX as u64;
const NUDGE: u64 = 1 << 32 | u32::MAX as u64;

/// A connection's name for the outside.
fn connection_id(shard: u16, slot: u32, generation: u32) -> ConnectionId {
    ConnectionId { shard, slot, generation }
}

/// A shard's state. One thread owns it; its tasks borrow it between their waits, never across them.
struct Shard {
    index: u16,
    settings: Settings,
    ring: Ring,
    listeners: Vec<Listener>,
    reserve: Reserve,
    connections: Cells<Connection>,
    /// Connections that this thread's descriptor table has room for.
    descriptors_max: usize,
    channels: Channels,
    policies: Policies,
    wheel: Wheel<Hint>,
    started: Instant,
    /// The present, in ticks since the start; 0 is before it.
    now: Tick,
    /// Every event on a followed channel up to this id has come through the queue.
    seen: Id,
    from_hub: FromHub,
    to_hub: ToHub,
    /// Something is in the queue to the hub that it has not been woken for.
    hub_waits: bool,
    inbox_waits: bool,
    /// A lane whose readers must be walked before more events are taken in.
    held_by: Option<u32>,
    room: Arc<Admission>,
    keyring: Option<Arc<Keyring>>,
    identities: Identities,
    talk: Talk,
    upstream: Upstream,
    page: Option<&'static str>,
    counters: Counters,
    measures: Measures,
    figures: Arc<ShardFigures>,
    /// Connections that may have something to send.
    ready: VecDeque<u32>,
    /// Lanes whose readers are being walked.
    walks: Walks,
    /// Connections whose input is read further.
    unread: VecDeque<u32>,
    /// Connections that the kernel had no memory for.
    starved: Vec<u32>,
    /// Slots to be freed that the ring knows nothing of.
    graves: Vec<u32>,
    batch: Batch,
    completions: Vec<Completion>,
    scratch: Vec<u8>,
    /// Lanes without users, and logs that may have grown old, each with when to look.
    unused_lanes: VecDeque<(Tick, u32)>,
    /// Pages of missed events that the hub has been asked for and that are not sent yet.
    pages_asked: usize,
    /// Who asks when fewer are: the slot, and the number of what it resumes.
    pages_waiting: VecDeque<(u32, u32)>,
    aging_logs: VecDeque<(Tick, u32)>,
    drain: Option<Drain>,
    surveys: Surveys,
    lines: LineBudget,
    /// Connections that are being told that there is no room.
    refusals: usize,
    rng: fastrand::Rng,
    /// The ring broke where nothing could be done about it.
    failure: Option<io::Error>,
}

/// What the engine does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// There is more to do.
    Go,
    /// Nothing to do until the ring says so.
    Wait,
    /// The shard is drained.
    Stop,
}

impl Shard {
    fn new(parts: ShardParts, descriptors: u64) -> io::Result<Shard> {
        let mut ring = Ring::new(COMPLETION_QUEUE)?;
        ring.arm_multishot_poll(parts.from_hub.wake.as_fd(), INBOX)?;
        let mut reserve = Reserve::default();
        reserve.refill();
        Ok(Shard {
            index: parts.index,
            lines: LineBudget::new(parts.config.log.connections_per_second),
            settings: Settings::new(parts.config),
            ring,
            listeners: parts.listeners,
            reserve,
            connections: Cells::new(),
            descriptors_max: descriptors.saturating_sub(OTHER_DESCRIPTORS) as usize,
            channels: Channels::new(),
            policies: Policies::default(),
            wheel: Wheel::new(1),
            started: Instant::now(),
            now: 1,
            seen: Id::ZERO,
            from_hub: parts.from_hub,
            to_hub: parts.to_hub,
            hub_waits: false,
            inbox_waits: true,
            held_by: None,
            room: parts.room,
            keyring: parts.keyring,
            identities: Identities::new(parts.revoked),
            talk: Talk::default(),
            upstream: Upstream::default(),
            page: parts.page,
            counters: Counters::default(),
            measures: Measures::default(),
            figures: parts.figures,
            ready: VecDeque::new(),
            walks: Walks::default(),
            unread: VecDeque::new(),
            starved: Vec::new(),
            graves: Vec::new(),
            batch: Batch::default(),
            completions: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            unused_lanes: VecDeque::new(),
            pages_asked: 0,
            pages_waiting: VecDeque::new(),
            aging_logs: VecDeque::new(),
            drain: None,
            surveys: Surveys::default(),
            refusals: 0,
            rng: fastrand::Rng::new(),
            failure: None,
        })
    }

    /// What the ring calls a connection.
    fn user_data(&self, slot: u32) -> u64 {
        u64::from(self.connections[slot].generation) << 32 | u64::from(slot)
    }

    /// One round of everything: what the ring reports, what the hub says, what is to be sent. Never blocks.
    fn turn(&mut self) -> io::Result<Next> {
        self.counters.turns += 1;
        self.look_at_clock();
        let more_completions = self.take_completions()?;
        self.read_unread();
        if self.inbox_waits && self.held_by.is_none() {
            self.take_inbox();
        }
        let more_to_send = self.deliver()?;
        let more_to_show = self.go_on_looking();
        self.bury_all();
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.ring.submit()?;
        if std::mem::take(&mut self.hub_waits) {
            self.to_hub.ring();
        }
        // What the ring reported while sends were under way would not end a wait.
        let more_completions = more_completions || self.ring.has_stashed();
        let more = more_completions || more_to_send || more_to_show || self.inbox_waits || !self.unread.is_empty();
        Ok(match more {
            true => Next::Go,
            false if self.is_drained() => Next::Stop,
            false => Next::Wait,
        })
    }

    /// Turns, until there is nothing to do or the slice is used up.
    fn turns(&mut self) -> io::Result<Next> {
        let begun = Instant::now();
        let mut turn_begun = begun;
        loop {
            let next = self.turn()?;
            let now = Instant::now();
            self.measures.record(Measure::Turn, (now - turn_begun).as_micros() as u64);
            turn_begun = now;
            if next != Next::Go {
                self.counters.busy_us += (now - begun).as_micros() as u64;
                self.publish();
                return Ok(next);
            }
            if now - begun >= SLICE {
                self.counters.busy_us += (now - begun).as_micros() as u64;
                // Waiting for the ring is then but a chance for the other tasks.
                self.call_engine()?;
                self.publish();
                return Ok(Next::Go);
            }
        }
    }

    fn publish(&mut self) {
        self.counters.slots = self.connections.used() as u64;
        self.counters.identified = self.identities.len() as u64;
        self.counters.channels = self.channels.channels.used() as u64;
        self.counters.log_bytes = self.channels.kept_bytes;
        self.counters.queued_bytes = self.from_hub.waiting_bytes() as u64;
        self.counters.descriptors_max = self.descriptors_max as u64;
        let ring = self.ring.counters();
        self.counters.ring_enters = ring.enters;
        self.counters.ring_submissions = ring.submissions;
        self.counters.ring_overflows = ring.overflows;
        self.counters.publish(&self.figures);
    }

    /// The clock's tick.
    fn tick(&mut self) -> io::Result<()> {
        #[cfg(feature = "faults")]
        faults::stall_if_asked(self.index);
        self.look_at_clock();
        self.pass_time();
        self.measures.publish(&self.figures.measures);
        // Whatever that set off is done by the engine.
        self.call_engine()
    }

    /// Makes the ring readable, so that the engine has another turn.
    fn call_engine(&mut self) -> io::Result<()> {
        self.ring.nudge(NUDGE)?;
        self.ring.submit()
    }
}

/// Runs a shard on the calling thread until it is drained.
///
/// # Errors
/// If it cannot start, which is also said through [`ShardParts::started`], or if its ring breaks.
pub fn run(parts: ShardParts) -> io::Result<()> {
    let started = parts.started.clone();
    let shard = match start(parts) {
        Ok(shard) => shard,
        Err(error) => {
            let _ = started.send(Err(ring::explain_setup_error(&error)));
            return Err(error);
        }
    };
    // A ring of its own for what is few: accepting and the clock.
    let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(256).enable_timer().build();
    let mut runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(ring::explain_setup_error(&error)));
            return Err(error);
        }
    };
    let _ = started.send(Ok(()));
    runtime.block_on(async move {
        let listeners = shard.listeners.len();
        let engine_ready = Readiness::new(shard.ring.waitable()?)?;
        let shard = Rc::new(RefCell::new(shard));
        for listener in 0..listeners {
            monoio::spawn(guard(accept::accept_loop(shard.clone(), listener)));
        }
        monoio::spawn(guard(clock(shard.clone())));
        loop {
            let next = shard.borrow_mut().turns()?;
            if next == Next::Stop {
                return Ok(());
            }
            engine_ready.wait().await?;
        }
    })
}

fn start(parts: ShardParts) -> io::Result<Shard> {
    if let Some(core) = parts.core {
        affinity::pin_to(core);
    }
    let descriptors = fdtable::raise_descriptor_limit()?;
    {
        let mut keep: Vec<_> = parts.listeners.iter().map(Listener::as_fd).collect();
        keep.extend(parts.from_hub.descriptors());
        keep.push(parts.to_hub.descriptor());
        fdtable::isolate(&keep)?;
    }
    Shard::new(parts, descriptors)
}

/// A shard without its accept task or its clock would look alive and not be.
async fn guard(task: impl Future<Output = io::Result<()>>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a shard cannot go on");
        std::process::exit(1);
    }
}

async fn clock(shard: Rc<RefCell<Shard>>) -> io::Result<()> {
    let mut ticks = monoio::time::interval(Duration::from_millis(TICK_MS));
    loop {
        ticks.tick().await;
        shard.borrow_mut().tick()?;
    }
}

#[cfg(test)]
mod tests;
