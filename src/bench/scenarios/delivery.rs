//! Scenarios that deliver events to many clients: `fanout` (one event at a time), `saturate` (more than one send for
//! each delivery would allow), `ingest`, `slow` (some clients never read) and `shards`.

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::progress::Progress;
use super::super::publisher::{Plan, flood};
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::{FanoutArgs, IngestArgs, SaturateArgs, ShardsArgs, SlowArgs};
use super::super::target::{Kind, Place};
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, World, settle, subscription};

/// Subscribers and payload sizes of a fan-out sweep.
const FANOUT_SUBSCRIBERS: [u32; 4] = [1_000, 4_000, 8_000, 15_000];
const FANOUT_SIZES: [u32; 3] = [128, 1_024, 8_192];
/// Events per second of a saturation sweep.
const SATURATE_RATES: [f64; 8] = [50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 4_000.0, 8_000.0];
/// The p99 latency, in milliseconds, from which on a side does not keep up; a saturation sweep ends there.
const KEEPS_UP_MS: f64 = 1_000.0;

impl Bench<'_> {
    pub(super) fn fanout(&self, args: &FanoutArgs) -> Result<ScenarioReport, BenchError> {
        let transport = args.clients.transport.name();
        let mut report = ScenarioReport::new(format!("fanout, {transport}"))
            .set("subscribers", args.subscribers)
            .set("events", args.events)
            .set("per second", args.rate)
            .set("bytes", args.size)
            .set("transport", transport);
        let plan = Plan::new(args.events, args.rate, args.size);
        let progress = Progress::begin("fanout", u64::from(self.rounds()) * self.sides.len() as u64);
        for _ in 0..self.rounds() {
            for side in &self.sides {
                progress.doing(side.name());
                let world = self.connect(*side, args.clients, args.subscribers)?;
                let measured = world.deliver(&plan, args.subscribers, args.clients.reading, args.sample)?;
                report.add(*side, "processor per delivery", "µs", measured.cpu_per_delivery());
                measured.report(&mut report, *side);
                progress.step(&format!("fanout {side}: {} µs per delivery", number(measured.cpu_per_delivery())));
            }
        }
        report.target("processor per delivery", Bound::TimesLimit(1.08));
        report.target("delivered", Bound::AtLeast(100.0));
        Ok(report)
    }

    pub(super) fn fanout_sweep(&self, args: &FanoutArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("fanout, sweep")
            .along("subscribers")
            .set("events", args.events)
            .set("transport", args.clients.transport.name());
        let subscribers = if self.common.quick { &FANOUT_SUBSCRIBERS[..1] } else { &FANOUT_SUBSCRIBERS[..] };
        let steps = subscribers.len() * FANOUT_SIZES.len() * self.sides.len() * self.rounds() as usize;
        let progress = Progress::begin("fanout", steps as u64);
        for _ in 0..self.rounds() {
            for (count, size) in subscribers.iter().flat_map(|count| FANOUT_SIZES.map(|size| (*count, size))) {
                let plan = Plan::new(args.events, args.rate, size);
                for side in &self.sides {
                    let world = self.connect(*side, args.clients, count)?;
                    let measured = world.deliver(&plan, count, args.clients.reading, args.sample)?;
                    let cpu = measured.cpu_per_delivery();
                    let name = format!("processor per delivery, {size} B");
                    report.add_at(*side, f64::from(count), &name, "µs", cpu);
                    measured.remark(&mut report, *side);
                    progress.step(&format!("fanout {side}: {count} × {size} B: {} µs", number(cpu)));
                }
            }
        }
        Ok(report)
    }

    pub(super) fn saturate(&self, args: &SaturateArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new(format!("saturate, {} × {}", args.subscribers, number(args.rate)))
            .set("subscribers", args.subscribers)
            .set("per second", args.rate)
            .set("seconds", args.seconds)
            .set("bytes", args.size)
            .set("transport", args.clients.transport.name());
        let progress = Progress::begin("saturate", u64::from(self.rounds()) * self.sides.len() as u64);
        for _ in 0..self.rounds() {
            for side in &self.sides {
                progress.doing(side.name());
                let measured = self.saturate_once(*side, args)?;
                let rate = measured.delivered as f64 / f64::from(args.seconds);
                report.add(*side, "deliveries per second", "", rate);
                report.add(*side, "processor", "%", measured.cpu_ns as f64 / 1e7 / measured.elapsed.as_secs_f64());
                report.add(*side, "behind at the end", "ms", measured.behind_us as f64 / 1000.0);
                measured.report(&mut report, *side);
                progress.step(&format!("saturate {side}: {} deliveries per second", number(rate)));
            }
        }
        if args.sample == Sample::Last {
            report.note("latency is that of the newest event in each read");
        }
        report.target("delivered", Bound::AtLeast(100.0));
        report.target("latency p99", Bound::TimesLimit(1.2));
        report.target("processor", Bound::TimesLimit(1.0));
        Ok(report)
    }

    fn saturate_once(&self, side: Side, args: &SaturateArgs) -> Result<super::world::Measured, BenchError> {
        let events = (args.rate * f64::from(args.seconds)) as u32;
        let plan = Plan::new(events, args.rate, args.size);
        let world = self.connect(side, args.clients, args.subscribers)?;
        world.deliver(&plan, args.subscribers, args.clients.reading, args.sample)
    }

    /// Measures growing rates, for each side up to the first one that it does not keep up with. Clients count bytes
    /// only, so that they are not the limit.
    pub(super) fn saturate_sweep(&self, args: &SaturateArgs) -> Result<ScenarioReport, BenchError> {
        let seconds = args.seconds.min(5);
        let mut report = ScenarioReport::new("saturate, sweep")
            .along("events/s")
            .set("subscribers", args.subscribers)
            .set("seconds", seconds)
            .set("bytes", args.size)
            .set("transport", args.clients.transport.name());
        let clients = ClientArgs { reading: Reading::Count, ..args.clients };
        let rates = if self.common.quick { &SATURATE_RATES[..3] } else { &SATURATE_RATES[..] };
        let progress = Progress::begin("saturate", rates.len() as u64 * self.sides.len() as u64);
        let mut best = vec![0.0; self.sides.len()];
        for (nth, side) in self.sides.iter().enumerate() {
            for rate in rates {
                let args = SaturateArgs { rate: *rate, seconds, clients, ..*args };
                let measured = self.saturate_once(*side, &args)?;
                let p99 = measured.tally.latency.value_at_quantile(0.99) as f64 / 1000.0;
                let took = f64::from(seconds) + measured.behind_us as f64 / 1e6;
                let per_second = measured.delivered as f64 / took;
                report.add_at(*side, *rate, "deliveries per second", "", per_second);
                report.add_at(*side, *rate, "processor per delivery", "µs", measured.cpu_per_delivery());
                report.add_at(*side, *rate, "latency p99", "ms", p99);
                measured.remark(&mut report, *side);
                progress.step(&format!("saturate {side}: {} /s, p99 {} ms", number(per_second), number(p99)));
                let keeps_up = measured.delivered == measured.expected && p99 < KEEPS_UP_MS;
                if keeps_up {
                    best[nth] = per_second.max(best[nth]);
                } else {
                    report.note(format!("{side} does not keep up with {} events per second", number(*rate)));
                    break;
                }
            }
        }
        for (side, best) in self.sides.iter().zip(best) {
            report.add(*side, "most that it keeps up with", "/s", best);
        }
        report.target("most that it keeps up with", Bound::AtLeast(10e6));
        Ok(report)
    }

    pub(super) fn ingest(&self, args: &IngestArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("ingest").set("events", args.events).set("bytes", args.size);
        let forms = [("single lines", 1, 400_000.0), ("batches of 100", 100, 1_000_000.0)];
        let clients = ClientArgs { transport: Transport::Sse, format: Format::Raw, reading: Reading::Count };
        let progress = Progress::begin("ingest", u64::from(self.rounds()) * 4);
        for _ in 0..self.rounds() {
            for (name, per_line, _) in forms {
                let (target, load) = self.start(&self.kind(Side::Server, clients), 1)?;
                let before = target.cpu_ns()?;
                let elapsed = flood(target.feed_path(), args.events, args.size as usize, per_line)?;
                let rate = f64::from(args.events) / elapsed.as_secs_f64();
                let cpu = (target.cpu_ns()? - before) as f64 / f64::from(args.events);
                report.add(Side::Server, &format!("events per second, {name}"), "", rate);
                report.add(Side::Server, &format!("processor per event, {name}"), "ns", cpu);
                progress.step(&format!("ingest: {} events per second, {name}", number(rate)));
                drop(load);
            }
            // A shard with subscribers slows the feed down to the rate of its deliveries.
            for subscribers in [1, 1_000] {
                let (target, load) = self.start(&self.kind(Side::Server, clients), subscribers)?;
                let mut asked = subscription(&target, clients);
                asked.path = Some("/sse?channel=bench:0".to_owned());
                load.connect(asked, subscribers as usize, CONNECT_MAX)?;
                load.reset(Reading::Count, Sample::Last)?;
                let events = args.events / 10;
                let elapsed = flood(target.feed_path(), events, args.size as usize, 100)?;
                let rate = f64::from(events) / elapsed.as_secs_f64();
                let name = format!("events per second, one channel in 100 has {subscribers} subscribers");
                report.add(Side::Server, &name, "", rate);
                progress.step(&format!("ingest: {} events per second, {subscribers} subscribers", number(rate)));
                load.close(true, CLOSE_MAX)?;
            }
        }
        report.note("over 100 channels, until the last event is acknowledged");
        for (name, _, least) in forms {
            report.target(&format!("events per second, {name}"), Bound::AtLeast(least));
        }
        Ok(report)
    }

    /// Measures the clients that read, without and with clients that never read.
    pub(super) fn slow(&self, args: &SlowArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("slow")
            .set("subscribers", args.subscribers)
            .set("per second", args.rate)
            .set("seconds", args.seconds)
            .set("bytes", args.size);
        let clients = ClientArgs { transport: Transport::Sse, format: Format::Raw, reading: Reading::Verify };
        let events = (args.rate * f64::from(args.seconds)) as u32;
        let plan = Plan::new(events, args.rate, args.size);
        let progress = Progress::begin("slow", u64::from(self.rounds()) * 2);
        for _ in 0..self.rounds() {
            for (name, percent) in [("all read", 0), ("some never read", args.percent)] {
                let deaf = args.subscribers * percent / 100;
                let reading = args.subscribers - deaf;
                let kind = self.kind(Side::Server, clients);
                let (target, load) = self.start(&kind, reading)?;
                let others = self.load(&kind, deaf.max(1), None, false)?;
                let asked = subscription(&target, clients);
                let connected_in = load.connect(asked.clone(), reading as usize, CONNECT_MAX)?;
                let aside = super::super::clients::Subscription { first_thread: 100, ..asked };
                others.connect(aside, deaf as usize, CONNECT_MAX)?;
                others.reset(Reading::Never, Sample::Last)?;
                settle();
                let before = target.memory()?;
                let world = World { target, load, connected_in };
                let measured = world.deliver_more(&plan, reading, Reading::Verify, Sample::Every)?;
                let grown = world.target.memory()?.saturating_sub(before) as f64 / 1e6;
                let dropped = world.target.shards_sum("closed.slow")?;
                let figure = |figure: &str| format!("{figure}, {name}");
                let p99 = measured.tally.latency.value_at_quantile(0.99) as f64 / 1000.0;
                report.add(Side::Server, &figure("latency p99"), "ms", p99);
                report.add(Side::Server, &figure("delivered to those who read"), "%", measured.share());
                report.add(Side::Server, &figure("processor per delivery"), "µs", measured.cpu_per_delivery());
                report.add(Side::Server, &figure("memory grew by"), "MB", grown);
                report.add(Side::Server, &figure("slow clients disconnected"), "", dropped as f64);
                progress.step(&format!("slow: {name}: p99 {} ms", number(p99)));
                others.close(true, CLOSE_MAX)?;
                world.load.close(true, CLOSE_MAX)?;
            }
        }
        report.note(format!("{} in 100 clients never read", args.percent));
        report.target("delivered to those who read, some never read", Bound::AtLeast(100.0));
        self.catch_up(args, &mut report)?;
        Ok(report)
    }

    /// Measures the same deliveries by one shard and by several.
    pub(super) fn shards(&self, args: &ShardsArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("shards")
            .set("subscribers", args.subscribers)
            .set("events", args.events)
            .set("shards", args.against_one);
        let clients = ClientArgs { transport: Transport::Sse, format: Format::Raw, reading: Reading::Count };
        // Each event is delivered before the next one is due, by one shard as by several.
        let plan = Plan::new(args.events, 5.0, 128);
        let sides = || self.sides.iter().copied().filter(|side| matches!(side, Side::Server | Side::Limit));
        let progress = Progress::begin("shards", u64::from(self.rounds()) * 2 * sides().count() as u64);
        for _ in 0..self.rounds() {
            for side in sides() {
                let mut cost = Vec::new();
                for shards in [1, args.against_one] {
                    // In both cases clients share the core of their shard, so that only the number of shards differs.
                    let kind = Kind { shards, place: Place::Together, ..self.kind(side, clients) };
                    let world = self.connect_to(&kind, args.subscribers)?;
                    let measured = world.deliver(&plan, args.subscribers, Reading::Count, Sample::Last)?;
                    let name = if shards == 1 { "one shard".to_owned() } else { format!("{shards} shards") };
                    let per_second = measured.delivered as f64 / measured.elapsed.as_secs_f64();
                    let cpu = measured.cpu_per_delivery();
                    report.add(side, &format!("processor per delivery, {name}"), "µs", cpu);
                    report.add(side, &format!("deliveries per second, {name}"), "", per_second);
                    progress.step(&format!("shards: {}, {name}: {} µs per delivery", side.name(), number(cpu)));
                    cost.push(cpu);
                }
                if let [one, several] = cost[..] {
                    let gain = one / several * f64::from(args.against_one);
                    report.add(side, "deliveries for the same time of each core", "×", gain);
                }
            }
        }
        report.note("the bare loop: one per shard, each a thread with its part of the clients");
        report.note("each shard has a core with its part of the clients, whose packets arrive there (steer)");
        report.note(
            "the rate leaves one shard idle at times: a busy one would send several events at once, each for less",
        );
        if args.against_one == 2 {
            report.target("deliveries for the same time of each core", Bound::AtLeast(1.8));
        }
        Ok(report)
    }
}
