//! `soak`: many connections that are held for long.

use std::time::{Duration, Instant};

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading, Sample};
use super::super::progress::Progress;
use super::super::publisher::Plan;
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::SoakArgs;
use super::super::target::Kind;
use super::Bench;
use super::world::{CLOSE_MAX, settle};

/// Connections of one shard if `--shards` is not given: its descriptor table holds 20,000.
const PER_SHARD: u32 = 18_000;

/// A short heartbeat: at the default pace none would be due between two events.
const HEARTBEATS: &str = "[heartbeat]\nsse = \"5s\"\nws = \"5s\"\n";

impl Bench<'_> {
    pub(super) fn soak(&self, args: &SoakArgs) -> Result<ScenarioReport, BenchError> {
        let shards = self.common.shards.unwrap_or(args.connections.div_ceil(PER_SHARD));
        let mut report = ScenarioReport::new("soak")
            .along("minutes")
            .set("connections", args.connections)
            .set("minutes", args.minutes)
            .set("seconds between events", args.every)
            .set("shards", shards)
            .set("transport", args.transport.name());
        let clients = ClientArgs { transport: args.transport, format: Format::Json, reading: Reading::Verify };
        let kind = Kind { config: HEARTBEATS, ..self.kind_of(Side::Server, clients, shards) };
        let rounds = (args.minutes * 60.0 / args.every).ceil() as u64;
        let progress = Progress::begin("soak", rounds + 1);
        progress.doing("connecting");
        let world = self.connect_to(&kind, args.connections)?;
        let took = world.connected_in.as_secs_f64();
        progress.step(&format!("soak: {} connections in {} s", number(args.connections.into()), number(took)));
        settle();
        let plan = Plan::new(1, 1.0, 128);
        let (mut expected, mut delivered, mut memory) = (0, 0, Vec::new());
        let begun = Instant::now();
        let heartbeats = world.target.shards_sum("heartbeats")?;
        for round in 0..rounds {
            let measured = world.deliver_more(&plan, args.connections, Reading::Verify, Sample::Every)?;
            (expected, delivered) = (expected + measured.expected, delivered + measured.delivered);
            let minute = begun.elapsed().as_secs_f64() / 60.0;
            let bytes = world.target.memory()? as f64;
            memory.push(bytes);
            let max = measured.tally.latency.max() as f64 / 1000.0;
            report.add_at(Side::Server, minute, "memory", "MB", bytes / 1e6);
            report.add_at(Side::Server, minute, "latency max", "ms", max);
            measured.remark(&mut report, Side::Server);
            progress.step(&format!("soak: {} MB, slowest delivery {} ms", number(bytes / 1e6), number(max)));
            let next = Duration::from_secs_f64(args.every) * (round as u32 + 1);
            std::thread::sleep(next.saturating_sub(begun.elapsed()));
        }
        let each = |bytes: f64| bytes / f64::from(args.connections);
        let (first, last) = (memory.first().copied().unwrap_or(0.0), memory.last().copied().unwrap_or(0.0));
        report.add(Side::Server, "connected", "", f64::from(args.connections));
        report.add(Side::Server, "connecting took", "s", took);
        report.add(Side::Server, "held for", "min", begun.elapsed().as_secs_f64() / 60.0);
        report.add(Side::Server, "delivered", "%", delivered as f64 * 100.0 / expected.max(1) as f64);
        report.add(Side::Server, "disconnected", "", world.load.lost() as f64);
        report.add(Side::Server, "memory per connection, first", "B", each(first));
        report.add(Side::Server, "memory per connection, last", "B", each(last));
        report.add(Side::Server, "memory grew by", "%", (last / first.max(1.0) - 1.0) * 100.0);
        let heartbeats = world.target.shards_sum("heartbeats")? - heartbeats;
        report.add(Side::Server, "heartbeats", "", heartbeats as f64);
        report.target("delivered", Bound::AtLeast(100.0));
        report.target("disconnected", Bound::AtMost(0.0));
        report.target("memory grew by", Bound::AtMost(1.0));
        world.load.close(true, CLOSE_MAX)?;
        Ok(report)
    }
}
