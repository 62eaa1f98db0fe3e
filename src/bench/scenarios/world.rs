//! The parts that scenarios share: a target with its clients, publishing to them, and the measured figures.

use std::time::{Duration, Instant};

use super::super::args::{ClientArgs, Reading, Sample};
use super::super::clients::{Load, Subscription, Tally};
use super::super::publisher::{Feed, Plan, publish};
use super::super::report::{ScenarioReport, Side};
use super::super::target::{Kind, Place, Target};
use super::super::{BenchError, io_error};
use super::Bench;
use crate::sys::affinity::usable_cores;
use crate::sys::load::run_on;

/// The time that clients have to connect: a million of them on two cores take some minutes.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(600);
/// The time that the deliveries have after the last event.
const DELIVER_MAX: Duration = Duration::from_secs(60);
/// A silence of this length means that no more deliveries will come.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The time that closing all clients may take.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(60);

/// A target and its connected clients.
pub(super) struct World {
    pub(super) target: Target,
    pub(super) load: Load,
    pub(super) connected_in: Duration,
}

impl Bench<'_> {
    pub(super) fn rounds(&self) -> u32 {
        if self.common.quick { 1 } else { self.common.rounds }
    }

    /// The target of a side, with the shards of `--shards`.
    ///
    /// A single shard has the first core to itself and the harness the others; several shards share all cores with it.
    pub(super) fn kind(&self, side: Side, clients: ClientArgs) -> Kind {
        self.kind_of(side, clients, self.common.shards.unwrap_or(1))
    }

    /// The target of a side, with a given number of shards.
    pub(super) fn kind_of(&self, side: Side, clients: ClientArgs, shards: u32) -> Kind {
        let place = if shards == 1 && usable_cores().len() > 1 { Place::Apart } else { Place::Anywhere };
        Kind { side, clients, shards, place, config: "", flags: Vec::new() }
    }

    pub(super) fn start(&self, kind: &Kind, clients: u32) -> Result<(Target, Load), BenchError> {
        let target = Target::start(self.common, kind)?;
        let load = self.load(kind, clients, self.common.threads, false)?;
        Ok((target, load))
    }

    /// Starts threads for `clients` clients of a target; `prompt` ones have a real-time priority where that is allowed.
    pub(super) fn load(
        &self,
        kind: &Kind,
        clients: u32,
        threads: Option<u32>,
        prompt: bool,
    ) -> Result<Load, BenchError> {
        let cores = usable_cores();
        let places = kind.place.of_load(&cores, kind.shards);
        run_on(places).map_err(io_error("placing the harness"))?;
        let one_each = if kind.place == Place::Together { places } else { &[] };
        let load = Load::start(clients as usize, threads, one_each, prompt);
        // Targets inherit this thread's cores, and the next target may run on any.
        run_on(&cores).map_err(io_error("placing the harness"))?;
        load
    }

    pub(super) fn connect(&self, side: Side, clients: ClientArgs, count: u32) -> Result<World, BenchError> {
        self.connect_to(&self.kind(side, clients), count)
    }

    pub(super) fn connect_to(&self, kind: &Kind, count: u32) -> Result<World, BenchError> {
        let (target, load) = self.start(kind, count)?;
        let connected_in = load.connect(subscription(&target, kind.clients), count as usize, CONNECT_MAX)?;
        Ok(World { target, load, connected_in })
    }
}

/// The request of clients of the shared channel.
pub(super) fn subscription(target: &Target, clients: ClientArgs) -> Subscription {
    Subscription {
        target: target.address,
        transport: clients.transport,
        format: clients.format,
        path: target.path.clone(),
        own_channels: 0,
        shared_channels: 1,
        first_thread: 0,
        last_event_id: None,
        generation: 1,
        tls: target.tls.clone(),
    }
}

/// Waits for the server's work after the last connections; no figure shows the end of it.
pub(super) fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

/// The figures of publishing to connected clients.
pub(super) struct Measured {
    pub(super) expected: u64,
    pub(super) delivered: u64,
    pub(super) disordered: u64,
    pub(super) lost: usize,
    pub(super) cpu_ns: u64,
    pub(super) elapsed: Duration,
    pub(super) behind_us: u64,
    pub(super) connected_in: Duration,
    pub(super) tally: Tally,
}

impl World {
    /// Publishes, waits for the deliveries, and closes the clients.
    pub(super) fn deliver(
        self,
        plan: &Plan,
        subscribers: u32,
        reading: Reading,
        sample: Sample,
    ) -> Result<Measured, BenchError> {
        // One event is not measured: the first delivery makes tables and buffers.
        self.deliver_after(1, plan, subscribers, reading, sample)
    }

    /// Like [`World::deliver`], after `warm_up` events that are not measured.
    pub(super) fn deliver_after(
        self,
        warm_up: u32,
        plan: &Plan,
        subscribers: u32,
        reading: Reading,
        sample: Sample,
    ) -> Result<Measured, BenchError> {
        self.load.reset(reading, sample)?;
        let first = Plan { events: warm_up, ..plan.clone() };
        let expected = u64::from(warm_up) * u64::from(subscribers);
        publish(&self.target.feed, &first, || await_events(&self.load, expected))?.1?;
        let measured = self.deliver_more(plan, subscribers, reading, sample)?;
        self.load.close(true, CLOSE_MAX)?;
        Ok(measured)
    }

    /// Like [`World::deliver`], on clients that have had an event already and stay connected.
    pub(super) fn deliver_more(
        &self,
        plan: &Plan,
        subscribers: u32,
        reading: Reading,
        sample: Sample,
    ) -> Result<Measured, BenchError> {
        let World { target, load, connected_in } = self;
        load.reset(reading, sample)?;
        let expected = u64::from(plan.events) * u64::from(subscribers);
        let before = target.cpu_ns()?;
        let begun = Instant::now();
        // Missing deliveries are reported as a figure, so the error is dropped.
        let (last_due, _) = publish(&target.feed, plan, || await_events(load, expected))?;
        let elapsed = begun.elapsed();
        let cpu_ns = target.cpu_ns()? - before;
        let tally = load.tally()?;
        Ok(Measured {
            expected,
            delivered: tally.events,
            // The numbers of these events and of the earlier ones both begin at 1, so each client sees one step back.
            disordered: tally.disordered.saturating_sub(u64::from(subscribers)),
            lost: load.lost(),
            cpu_ns,
            elapsed,
            behind_us: tally.last_us.saturating_sub(last_due),
            connected_in: *connected_in,
            tally,
        })
    }
}

/// A thread that publishes.
pub(super) struct Publisher(std::thread::JoinHandle<Result<u64, BenchError>>);

impl Publisher {
    /// Waits for the end of publishing, and returns the time at which the last event was due.
    pub(super) fn wait(self) -> Result<u64, BenchError> {
        self.0.join().map_err(|_| BenchError::Harness("the publisher has failed".to_owned()))?
    }
}

/// Publishes on a thread of its own, with a real-time priority where that is allowed.
pub(super) fn publish_aside(feed: &Feed, plan: Plan) -> Publisher {
    let feed = feed.clone();
    Publisher(std::thread::spawn(move || {
        // Without CAP_SYS_NICE events may leave late, which counts as latency.
        let _ = crate::sys::load::run_promptly();
        publish(&feed, &plan, || ()).map(|(due, ())| due)
    }))
}

/// Waits for `expected` deliveries, for as long as deliveries come.
pub(super) fn await_events(load: &Load, expected: u64) -> Result<(), BenchError> {
    let begun = Instant::now();
    let mut newest = (0, Instant::now());
    loop {
        let events = load.events();
        if events >= expected {
            return Ok(());
        }
        load.check()?;
        if events > newest.0 {
            newest = (events, Instant::now());
        }
        if begun.elapsed() > DELIVER_MAX || newest.1.elapsed() > SILENCE_MAX {
            let what = format!("{expected} deliveries ({events} came)");
            return Err(BenchError::Timeout { what, limit: begun.elapsed() });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Measured {
    pub(super) fn share(&self) -> f64 {
        self.delivered as f64 * 100.0 / self.expected.max(1) as f64
    }

    /// Microseconds of the server's processor time for each delivery.
    pub(super) fn cpu_per_delivery(&self) -> f64 {
        self.cpu_ns as f64 / 1000.0 / self.delivered.max(1) as f64
    }

    pub(super) fn report(&self, report: &mut ScenarioReport, side: Side) {
        report.add(side, "delivered", "%", self.share());
        report.add(side, "connecting took", "s", self.connected_in.as_secs_f64());
        report.add_latency(side, &self.tally.latency);
        self.remark(report, side);
    }

    pub(super) fn remark(&self, report: &mut ScenarioReport, side: Side) {
        if self.delivered != self.expected {
            report.note(format!("{side}: {} of {} deliveries came", self.delivered, self.expected));
        }
        if self.disordered > 0 {
            report.note(format!("{side}: {} events came out of order", self.disordered));
        }
        if self.lost > 0 {
            report.note(format!("{side}: {} clients were disconnected", self.lost));
        }
    }
}
