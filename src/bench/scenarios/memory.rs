//! `idle`, `channels` and `many`: the memory of connections and channels without traffic.

use std::time::Instant;

use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::clients::Subscription;
use super::super::progress::Progress;
use super::super::publisher::Plan;
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::{ChannelsArgs, IdleArgs, ManyArgs};
use super::super::target::{Kind, Place};
use super::super::{BenchError, procfs};
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, World, settle, subscription};

impl Bench<'_> {
    pub(super) fn idle(
        &self,
        args: &IdleArgs,
        transport: Transport,
        own_channels: bool,
    ) -> Result<ScenarioReport, BenchError> {
        let channels = if own_channels { "own channels" } else { "one channel" };
        let mut report = ScenarioReport::new(format!("idle, {}, {channels}", transport.name()))
            .set("connections", args.connections)
            .set("transport", transport.name())
            .set("channels", if own_channels { "one each" } else { "one for all" });
        let clients = ClientArgs { transport, format: Format::Json, reading: Reading::Verify };
        // The bare loop keeps hardly anything for a client, so its memory is no limit to compare with.
        let sides: Vec<Side> = self.sides.iter().copied().filter(|side| *side != Side::Limit).collect();
        let progress = Progress::begin("idle", u64::from(self.rounds()) * sides.len() as u64);
        for _ in 0..self.rounds() {
            for side in &sides {
                let (target, load) = self.start(&self.kind(*side, clients), args.connections + args.warm_up)?;
                let asked = Subscription { own_channels: u32::from(own_channels), ..subscription(&target, clients) };
                load.connect(asked.clone(), args.warm_up as usize, CONNECT_MAX)?;
                settle();
                let (before, kernel_before) = (target.memory()?, procfs::kernel_bytes());
                load.connect(asked, args.connections as usize, CONNECT_MAX)?;
                settle();
                let kernel = procfs::kernel_bytes().saturating_sub(kernel_before);
                let each = target.memory()?.saturating_sub(before) as f64 / f64::from(args.connections);
                report.add(*side, "memory per connection", "B", each);
                let kernel = kernel as f64 / 2.0 / f64::from(args.connections);
                report.add(*side, "the kernel's share per socket", "B", kernel);
                progress.step(&format!("idle {side}: {} B per connection", number(each)));
                load.close(true, CLOSE_MAX)?;
            }
        }
        report.note("memory is resident anonymous memory of the process (RssAnon)");
        report.note("the kernel's share is of both ends of a connection, halved: slabs and TCP's buffers, of the host");
        report.target("memory per connection", Bound::AtMost(if own_channels { 350.0 } else { 200.0 }));
        Ok(report)
    }

    pub(super) fn channels(&self, args: &ChannelsArgs) -> Result<ScenarioReport, BenchError> {
        let mut report =
            ScenarioReport::new("channels").set("channels", args.channels).set("per connection", args.each);
        let clients = ClientArgs { transport: Transport::Ws, format: Format::Raw, reading: Reading::Verify };
        let connections = args.channels / args.each;
        let progress = Progress::begin("channels", u64::from(self.rounds()));
        for _ in 0..self.rounds() {
            let kind = Kind { config: "history_events = 0\n", ..self.kind(Side::Server, clients) };
            let (target, load) = self.start(&kind, connections + 1)?;
            let asked = Subscription { own_channels: args.each, ..subscription(&target, clients) };
            load.connect(asked.clone(), 1, CONNECT_MAX)?;
            settle();
            let (before, cpu_before) = (target.memory()?, target.cpu_ns()?);
            let begun = Instant::now();
            load.connect(asked, connections as usize, CONNECT_MAX)?;
            let elapsed = begun.elapsed();
            settle();
            let count = f64::from(connections) * f64::from(args.each);
            let each = target.memory()?.saturating_sub(before) as f64 / count;
            let cpu = (target.cpu_ns()? - cpu_before) as f64 / count;
            report.add(Side::Server, "memory per channel", "B", each);
            report.add(Side::Server, "processor per channel", "ns", cpu);
            report.add(Side::Server, "subscribing took", "s", elapsed.as_secs_f64());
            let known = target.stats()?["node"]["channels"].as_f64().unwrap_or(0.0);
            report.add(Side::Server, "channels known", "", known);
            progress.step(&format!("channels: {} B per channel", number(each)));
            load.close(true, CLOSE_MAX)?;
        }
        report.note("hub, shard and subscription together; each channel has one subscriber and no history");
        report.target("memory per channel", Bound::AtMost(200.0));
        report.target("channels known", Bound::AtLeast(f64::from(args.channels)));
        Ok(report)
    }

    pub(super) fn many(&self, args: &ManyArgs) -> Result<ScenarioReport, BenchError> {
        let shards = self.common.shards.unwrap_or(20);
        let mut report = ScenarioReport::new("many")
            .set("connections", args.connections)
            .set("shards", shards)
            .set("transport", args.transport.name());
        let clients = ClientArgs { transport: args.transport, reading: Reading::Verify, format: Format::Json };
        let kind = Kind { shards, place: Place::Anywhere, ..self.kind(Side::Server, clients) };
        let progress = Progress::begin("many", 1);
        let (target, load) = self.start(&kind, args.connections)?;
        let before = target.memory()?;
        progress.doing("connecting");
        let connected_in = load.connect(subscription(&target, clients), args.connections as usize, CONNECT_MAX)?;
        settle();
        let each = target.memory()?.saturating_sub(before) as f64 / f64::from(args.connections);
        report.add(Side::Server, "connected", "", f64::from(args.connections));
        report.add(Side::Server, "memory per connection", "B", each);
        progress.doing("delivering");
        let world = World { target, load, connected_in };
        let plan = Plan::new(args.events, 0.2, 128);
        let measured = world.deliver(&plan, args.connections, clients.reading, Sample::Every)?;
        report.add(Side::Server, "processor per delivery", "µs", measured.cpu_per_delivery());
        measured.report(&mut report, Side::Server);
        progress.step(&format!("many: {} connections", number(f64::from(args.connections))));
        report.target("delivered", Bound::AtLeast(100.0));
        Ok(report)
    }
}
