//! The scenarios, and what each of them is held to.

use std::time::{Duration, Instant};

use super::args::{
    ClientArgs, Common, FanoutArgs, Format, IdleArgs, IngestArgs, LimitForm, ManyArgs, Reading, SaturateArgs, Scenario,
    Sides, StormArgs, Transport,
};
use super::clients::{Load, Subscription};
use super::publisher::{Plan, flood, publish};
use super::report::{ScenarioReport, Side, number};
use super::target::{Kind, Target};
use super::{BenchError, io_error, payload, procfs};
use crate::sys::load::run_on;

/// How long clients may take to connect: 300,000 of them on two cores take about a minute.
const CONNECT_MAX: Duration = Duration::from_secs(240);
/// How long the last deliveries may take after the last event.
const DELIVER_MAX: Duration = Duration::from_secs(60);
const CLOSE_MAX: Duration = Duration::from_secs(60);

/// Runs one scenario or all.
pub(super) fn run(common: &Common, scenario: &Scenario) -> Result<Vec<ScenarioReport>, BenchError> {
    let bench = Bench { common };
    let quick = common.quick;
    Ok(match scenario {
        Scenario::Limit(args) => {
            let common = Common { sides: Sides::Limit, ..common.clone() };
            let bench = Bench { common: &common };
            let wants = |form| args.form.is_none_or(|only| only == form);
            let mut reports = Vec::new();
            if wants(LimitForm::Fanout) {
                reports.push(bench.fanout(&fanout(quick))?);
            }
            if wants(LimitForm::Saturate) {
                reports.push(bench.saturate(&saturate(quick))?);
            }
            if wants(LimitForm::Storm) {
                reports.push(bench.storm(&storm(quick))?);
            }
            reports
        }
        Scenario::Fanout(args) => vec![bench.fanout(args)?],
        Scenario::Saturate(args) => vec![bench.saturate(args)?],
        Scenario::Idle(args) => match args.transport {
            Some(transport) => vec![bench.idle(args, transport, args.own_channels)?],
            None => vec![
                bench.idle(args, Transport::Sse, args.own_channels)?,
                bench.idle(args, Transport::Ws, args.own_channels)?,
            ],
        },
        Scenario::Storm(args) => vec![bench.storm(args)?],
        Scenario::Many(args) => vec![bench.many(args)?],
        Scenario::Ingest(args) => vec![bench.ingest(args)?],
        Scenario::All => {
            let idle = if quick { IdleArgs { connections: 3000, ..IdleArgs::default() } } else { IdleArgs::default() };
            let mut reports = vec![bench.fanout(&fanout(quick))?, bench.saturate(&saturate(quick))?];
            for own_channels in [false, true] {
                for transport in [Transport::Sse, Transport::Ws] {
                    reports.push(bench.idle(&idle, transport, own_channels)?);
                }
            }
            reports.push(bench.storm(&storm(quick))?);
            reports.push(bench.ingest(&ingest(quick))?);
            reports.push(bench.many(&many(quick))?);
            reports
        }
        Scenario::LimitServer(_) => Vec::new(),
    })
}

fn fanout(quick: bool) -> FanoutArgs {
    let args = FanoutArgs::default();
    if quick { FanoutArgs { subscribers: 2000, events: 10, ..args } } else { args }
}

fn saturate(quick: bool) -> SaturateArgs {
    let args = SaturateArgs::default();
    if quick { SaturateArgs { subscribers: 1000, seconds: 2, ..args } } else { args }
}

fn storm(quick: bool) -> StormArgs {
    let args = StormArgs::default();
    if quick { StormArgs { connections: 3000, ..args } } else { args }
}

fn ingest(quick: bool) -> IngestArgs {
    let args = IngestArgs::default();
    if quick { IngestArgs { events: 100_000, ..args } } else { args }
}

fn many(quick: bool) -> ManyArgs {
    let args = ManyArgs::default();
    if quick { ManyArgs { connections: 20_000, ..args } } else { args }
}

struct Bench<'a> {
    common: &'a Common,
}

/// A target with its clients connected.
struct World {
    target: Target,
    load: Load,
    connected_in: Duration,
}

impl Bench<'_> {
    fn rounds(&self) -> u32 {
        if self.common.quick { 1 } else { self.common.rounds }
    }

    /// The sides of one round, the yardstick first.
    fn sides(&self) -> &'static [Side] {
        match self.common.sides {
            Sides::Both => &[Side::Limit, Side::Server],
            Sides::Server => &[Side::Server],
            Sides::Limit => &[Side::Limit],
        }
    }

    fn subscription(&self, target: &Target, clients: ClientArgs, own_channels: bool) -> Subscription {
        Subscription {
            target: target.address,
            transport: clients.transport,
            format: clients.format,
            own_channels,
            last_event_id: None,
            generation: 1,
        }
    }

    /// With one shard the server has the first core to itself and the harness the others.
    fn kind(&self, side: Side, clients: ClientArgs) -> Kind {
        let shards = self.common.shards.unwrap_or(1);
        Kind { side, clients, shards, pin: shards == 1 && procfs::cores().len() > 1 }
    }

    fn start(&self, kind: &Kind, clients: u32) -> Result<(Target, Load), BenchError> {
        let target = Target::start(self.common, kind)?;
        let cores = procfs::cores();
        run_on(if kind.pin { &cores[1..] } else { &cores }).map_err(io_error("placing the harness"))?;
        let load = Load::start(clients as usize, self.common.threads);
        // Targets that are started later may run anywhere again.
        run_on(&cores).map_err(io_error("placing the harness"))?;
        Ok((target, load?))
    }

    fn connect(&self, side: Side, clients: ClientArgs, count: u32) -> Result<World, BenchError> {
        let (target, load) = self.start(&self.kind(side, clients), count)?;
        let subscription = self.subscription(&target, clients, false);
        let connected_in = load.connect(subscription, count as usize, CONNECT_MAX)?;
        Ok(World { target, load, connected_in })
    }

    fn say(&self, report: &ScenarioReport, round: u32, side: Side, text: &str) {
        eprintln!("{} {}/{} {side}: {text}", report.scenario, round + 1, self.rounds());
    }

    fn fanout(&self, args: &FanoutArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("fanout")
            .set("subscribers", args.subscribers)
            .set("events", args.events)
            .set("per second", args.rate)
            .set("bytes", args.size)
            .set("transport", args.clients.transport.name());
        let plan = Plan { events: args.events, per_second: args.rate, size: args.size as usize };
        for round in 0..self.rounds() {
            for side in self.sides() {
                let world = self.connect(*side, args.clients, args.subscribers)?;
                let measured = world.deliver(plan, args.subscribers, args.clients.reading, args.sample)?;
                let per_delivery = measured.cpu_ns as f64 / 1000.0 / measured.delivered.max(1) as f64;
                report.add(*side, "processor per delivery", "µs", per_delivery);
                measured.report(&mut report, *side);
                self.say(&report, round, *side, &format!("{} µs per delivery", number(per_delivery)));
            }
        }
        report.note("target: processor per delivery at most 1.15 times the bare loop's");
        Ok(report)
    }

    fn saturate(&self, args: &SaturateArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("saturate")
            .set("subscribers", args.subscribers)
            .set("per second", args.rate)
            .set("seconds", args.seconds)
            .set("bytes", args.size)
            .set("transport", args.clients.transport.name());
        let events = (args.rate * f64::from(args.seconds)) as u32;
        let plan = Plan { events, per_second: args.rate, size: args.size as usize };
        for round in 0..self.rounds() {
            for side in self.sides() {
                let world = self.connect(*side, args.clients, args.subscribers)?;
                let measured = world.deliver(plan, args.subscribers, args.clients.reading, args.sample)?;
                let rate = measured.delivered as f64 / f64::from(args.seconds);
                report.add(*side, "deliveries per second", "", rate);
                report.add(*side, "processor", "%", measured.cpu_ns as f64 / 1e7 / measured.elapsed.as_secs_f64());
                report.add(*side, "behind at the end", "ms", measured.behind_us as f64 / 1000.0);
                measured.report(&mut report, *side);
                self.say(&report, round, *side, &format!("{} deliveries per second", number(rate)));
            }
        }
        report.note("latency is from the time an event was due to its arrival, of the newest event in each read");
        report.note("target: all delivered, latency p99 at most 150 ms and 1.5 times the bare loop's");
        Ok(report)
    }

    fn idle(&self, args: &IdleArgs, transport: Transport, own_channels: bool) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("idle")
            .set("connections", args.connections)
            .set("transport", transport.name())
            .set("channels", if own_channels { "one each" } else { "one for all" });
        let clients = ClientArgs { transport, ..ClientArgs::default() };
        for round in 0..self.rounds() {
            // The bare loop keeps a number per client; it is no yardstick for memory.
            let side = Side::Server;
            let (target, load) = self.start(&self.kind(side, clients), args.connections + args.warm_up)?;
            let subscription = self.subscription(&target, clients, own_channels);
            load.connect(subscription.clone(), args.warm_up as usize, CONNECT_MAX)?;
            settle();
            let before = target.memory()?;
            load.connect(subscription, args.connections as usize, CONNECT_MAX)?;
            settle();
            let after = target.memory()?;
            let each = after.saturating_sub(before) as f64 / f64::from(args.connections);
            report.add(side, "memory per connection", "B", each);
            self.say(&report, round, side, &format!("{} B per connection", number(each)));
            load.close(true, CLOSE_MAX)?;
        }
        let target = if own_channels { 450 } else { 256 };
        report.note("memory is resident anonymous memory of the process (RssAnon); the kernel's sockets are beside it");
        report.note(format!("target: at most {target} B"));
        Ok(report)
    }

    fn storm(&self, args: &StormArgs) -> Result<ScenarioReport, BenchError> {
        let mut report =
            ScenarioReport::new("storm").set("connections", args.connections).set("transport", args.transport.name());
        let clients = ClientArgs { transport: args.transport, ..ClientArgs::default() };
        for round in 0..self.rounds() {
            for side in self.sides() {
                let (target, load) = self.start(&self.kind(*side, clients), args.connections)?;
                let before = target.cpu_ns()?;
                let subscription = self.subscription(&target, clients, false);
                let elapsed = load.connect(subscription, args.connections as usize, CONNECT_MAX)?;
                let cpu = (target.cpu_ns()? - before) as f64 / 1000.0 / f64::from(args.connections);
                report.add(*side, "processor per connection", "µs", cpu);
                report.add(*side, "connections per second", "", f64::from(args.connections) / elapsed.as_secs_f64());
                self.say(&report, round, *side, &format!("{} µs per connection", number(cpu)));
                load.close(true, CLOSE_MAX)?;
            }
        }
        report.note("from the first SYN to the last answer's head");
        report.note("target: processor per connection at most 25 µs");
        Ok(report)
    }

    fn ingest(&self, args: &IngestArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("ingest").set("events", args.events).set("bytes", args.size);
        for round in 0..self.rounds() {
            for (name, per_line) in [("single lines", 1), ("batches of 100", 100)] {
                let (target, load) = self.start(&self.kind(Side::Server, ClientArgs::default()), 1)?;
                let before = target.cpu_ns()?;
                let elapsed = flood(target.feed_path(), args.events, args.size as usize, per_line)?;
                let rate = f64::from(args.events) / elapsed.as_secs_f64();
                let cpu = (target.cpu_ns()? - before) as f64 / f64::from(args.events);
                report.add(Side::Server, &format!("events per second, {name}"), "", rate);
                report.add(Side::Server, &format!("processor per event, {name}"), "ns", cpu);
                self.say(&report, round, Side::Server, &format!("{} events per second, {name}", number(rate)));
                drop(load);
            }
        }
        report.note("over 100 channels without subscribers, until the last event is acknowledged");
        Ok(report)
    }

    fn many(&self, args: &ManyArgs) -> Result<ScenarioReport, BenchError> {
        let shards = self.common.shards.unwrap_or(20);
        let mut report = ScenarioReport::new("many")
            .set("connections", args.connections)
            .set("shards", shards)
            .set("transport", args.transport.name());
        let clients = ClientArgs { transport: args.transport, reading: Reading::Verify, format: Format::Json };
        let kind = Kind { side: Side::Server, clients, shards, pin: false };
        let (target, load) = self.start(&kind, args.connections)?;
        let before = target.memory()?;
        let subscription = self.subscription(&target, clients, false);
        let connected_in = load.connect(subscription, args.connections as usize, CONNECT_MAX)?;
        settle();
        let each = target.memory()?.saturating_sub(before) as f64 / f64::from(args.connections);
        report.add(Side::Server, "connected", "", f64::from(args.connections));
        report.add(Side::Server, "connecting took", "s", connected_in.as_secs_f64());
        report.add(Side::Server, "memory per connection", "B", each);
        let world = World { target, load, connected_in };
        let plan = Plan { events: args.events, per_second: 0.2, size: 128 };
        let measured = world.deliver(plan, args.connections, clients.reading, super::args::Sample::Every)?;
        let per_delivery = measured.cpu_ns as f64 / 1000.0 / measured.delivered.max(1) as f64;
        report.add(Side::Server, "processor per delivery", "µs", per_delivery);
        measured.report(&mut report, Side::Server);
        self.say(&report, 0, Side::Server, &format!("{} connections", number(f64::from(args.connections))));
        report.note("target: 300,000 connections in one process, and an event reaches all of them");
        Ok(report)
    }
}

/// Waits until what the last connections set off is over: no figure moves here, so time must do.
fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

/// What publishing to connected clients came to.
struct Measured {
    expected: u64,
    delivered: u64,
    disordered: u64,
    lost: usize,
    cpu_ns: u64,
    elapsed: Duration,
    behind_us: u64,
    connected_in: Duration,
    tally: super::clients::Tally,
}

impl World {
    fn deliver(
        self,
        plan: Plan,
        subscribers: u32,
        reading: Reading,
        sample: super::args::Sample,
    ) -> Result<Measured, BenchError> {
        let World { target, load, connected_in } = self;
        // One event to begin with, so that nothing is measured for the first time.
        load.reset(reading, sample)?;
        publish(target.feed_path(), Plan { events: 1, per_second: 1.0, ..plan })?;
        await_events(&load, u64::from(subscribers))?;
        load.reset(reading, sample)?;
        let expected = u64::from(plan.events) * u64::from(subscribers);
        let before = target.cpu_ns()?;
        let begun = Instant::now();
        let last_due = publish(target.feed_path(), plan)?;
        // A shortfall is a result, not a reason to print none.
        let _ = await_events(&load, expected);
        let elapsed = begun.elapsed();
        let cpu_ns = target.cpu_ns()? - before;
        let tally = load.tally()?;
        let measured = Measured {
            expected,
            delivered: tally.events,
            // The first event's number follows that of the one to begin with, which is 1 as well.
            disordered: tally.disordered.saturating_sub(u64::from(subscribers)),
            lost: load.lost(),
            cpu_ns,
            elapsed,
            behind_us: tally.last_us.saturating_sub(last_due),
            connected_in,
            tally,
        };
        load.close(true, CLOSE_MAX)?;
        Ok(measured)
    }
}

fn await_events(load: &Load, expected: u64) -> Result<(), BenchError> {
    let begun = Instant::now();
    while load.events() < expected {
        load.check()?;
        if begun.elapsed() > DELIVER_MAX {
            let what = format!("{expected} deliveries ({} came)", load.events());
            return Err(BenchError::Timeout { what, limit: DELIVER_MAX });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    debug_assert!(payload::now_us() > 0, "the stamps' clock runs");
    Ok(())
}

impl Measured {
    fn report(&self, report: &mut ScenarioReport, side: Side) {
        let share = self.delivered as f64 * 100.0 / self.expected.max(1) as f64;
        report.add(side, "delivered", "%", share);
        report.add(side, "connecting took", "s", self.connected_in.as_secs_f64());
        report.add_latency(side, &self.tally.latency);
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
