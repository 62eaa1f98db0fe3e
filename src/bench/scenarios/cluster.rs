//! `cluster`: several nodes on one log. All of them, the broker and the clients share this machine, so processor time per
//! event says more than rates do.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::brokers::Broker;
use super::super::clients::{CHANNEL, Load, Subscription};
use super::super::progress::Progress;
use super::super::publisher::{Plan, Stamp, flood, publish};
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::{BrokerKind, ClusterArgs, ClusterPart};
use super::super::target::{Kind, Place, Target};
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, await_events, publish_aside, subscription};
use crate::feed::client::FeedClient;
use crate::sys::load::run_promptly;

pub(super) const CLIENTS: ClientArgs =
    ClientArgs { transport: Transport::Sse, format: Format::Raw, reading: Reading::Verify };
/// Bytes of an event.
const SIZE: u32 = 128;
/// The channels that `flood` publishes to.
const CHANNELS: u32 = 100;
/// The time that the last node has to deliver what the first one has taken.
const DELIVER_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(1);
/// Events per second while clients move.
const HOP_RATE: f64 = 1_000.0;
/// A history that holds what clients miss while they move, and channels whose histories stay small.
const HISTORY: &str = "history_bytes = \"8MiB\"\nhistory_events = 20000\n";
const SMALL_HISTORY: &str = "history_events = 100\n";

/// A broker and its nodes.
struct Cluster {
    // Nodes end before their broker.
    nodes: Vec<Target>,
    broker: Broker,
}

/// The kind of a node, for `Target::start`.
pub(super) fn node(broker: &Broker, name: &str, config: &'static str) -> Kind {
    let flags = ["--backplane", &broker.url, "--node", name].map(str::to_owned).to_vec();
    Kind { side: Side::Server, clients: CLIENTS, shards: 1, place: Place::Anywhere, config, flags }
}

impl Cluster {
    fn start(bench: &Bench<'_>, broker: BrokerKind, nodes: u32, config: &'static str) -> Result<Cluster, BenchError> {
        let broker = Broker::start(broker)?;
        let start = |number| Target::start(bench.common, &node(&broker, &format!("n{number}"), config));
        let nodes = (0..nodes).map(start).collect::<Result<Vec<_>, _>>()?;
        Ok(Cluster { nodes, broker })
    }

    fn first(&self) -> &Target {
        &self.nodes[0]
    }

    fn last(&self) -> &Target {
        &self.nodes[self.nodes.len() - 1]
    }

    /// Connects clients of all channels to a node.
    fn follow(&self, bench: &Bench<'_>, node: &Target, clients: u32, path: &str) -> Result<Load, BenchError> {
        let kind = Kind { place: Place::Anywhere, ..bench.kind(Side::Server, CLIENTS) };
        let load = bench.load(&kind, clients, None, true)?;
        let asked = Subscription { path: Some(path.to_owned()), ..subscription(node, CLIENTS) };
        load.connect(asked, clients as usize, CONNECT_MAX)?;
        Ok(load)
    }
}

/// The path of a client of all channels that `flood` publishes to.
fn all_channels() -> String {
    let names: Vec<String> = (0..CHANNELS).map(|number| format!("bench:{number}")).collect();
    format!("/sse?channel={}", names.join(","))
}

impl Bench<'_> {
    pub(super) fn cluster(&self, args: &ClusterArgs) -> Result<Vec<ScenarioReport>, BenchError> {
        let args = &match self.common.quick {
            true => ClusterArgs { events: 20_000, rate: 2_000.0, seconds: 1, clients: 500, ..args.clone() },
            false => args.clone(),
        };
        let mut reports = Vec::new();
        for broker in &args.broker {
            for part in &args.part {
                reports.extend(match part {
                    ClusterPart::Ingest => Some(self.cluster_ingest(args, *broker)?),
                    ClusterPart::Latency => Some(self.cluster_latency(args, *broker)?),
                    ClusterPart::CatchUp => Some(self.cluster_catch_up(args, *broker)?),
                    ClusterPart::Hop => Some(self.cluster_hop(args, *broker)?),
                    ClusterPart::Failover if *broker == BrokerKind::Redis => Some(self.cluster_failover(args)?),
                    ClusterPart::Failover => None,
                });
            }
        }
        Ok(reports)
    }

    fn cluster_report(&self, part: &str, args: &ClusterArgs, broker: BrokerKind) -> ScenarioReport {
        let mut report = ScenarioReport::new(format!("cluster, {part}, {}", broker.name())).set("nodes", args.nodes);
        report.note("broker, nodes, publisher and clients share this machine");
        report
    }

    fn cluster_ingest(&self, args: &ClusterArgs, broker: BrokerKind) -> Result<ScenarioReport, BenchError> {
        let mut report = self.cluster_report("ingest", args, broker).set("events", args.events).set("bytes", SIZE);
        let progress = Progress::begin("cluster", u64::from(self.rounds()));
        for _ in 0..self.rounds() {
            let cluster = Cluster::start(self, broker, args.nodes, SMALL_HISTORY)?;
            let (first, last) = (cluster.first(), cluster.last());
            let loads = [first, last].map(|node| cluster.follow(self, node, 1, &all_channels()));
            let [of_first, of_last] = loads;
            let loads = [of_first?, of_last?];
            for load in &loads {
                load.reset(Reading::Count, Sample::Last)?;
            }
            let parts = |cluster: &Cluster| -> Result<[u64; 4], BenchError> {
                let (first, last) = (cluster.first(), cluster.last());
                Ok([
                    cluster.broker.cpu_ns()?,
                    first.thread_cpu_ns("backplane")?,
                    last.thread_cpu_ns("backplane")?,
                    first.thread_cpu_ns("hub")?,
                ])
            };
            let before = parts(&cluster)?;
            let delivered = last.shards_sum("deliveries")?;
            let begun = Instant::now();
            let acknowledged = flood(first.feed_path(), args.events, SIZE as usize, 1)?;
            await_deliveries(last, delivered + u64::from(args.events))?;
            let all = begun.elapsed();
            let after = parts(&cluster)?;
            let events = f64::from(args.events);
            let rate = events / all.as_secs_f64();
            report.add(Side::Server, "events per second, delivered at the last node", "", rate);
            report.add(Side::Server, "events per second, acknowledged", "", events / acknowledged.as_secs_f64());
            let names = ["broker", "backplane thread of the first node", "backplane thread of the last node", "hub"];
            for (name, (after, before)) in names.into_iter().zip(after.into_iter().zip(before)) {
                let cost = (after - before) as f64 / 1000.0 / events;
                report.add(Side::Server, &format!("processor per event, {name}"), "µs", cost);
            }
            progress.step(&format!("cluster: {}: {} events per second", broker.name(), number(rate)));
        }
        let least = if broker == BrokerKind::Redis { 100_000.0 } else { 60_000.0 };
        report.target("events per second, delivered at the last node", Bound::AtLeast(least));
        report.target("processor per event, backplane thread of the last node", Bound::AtMost(2.0));
        Ok(report)
    }

    fn cluster_latency(&self, args: &ClusterArgs, broker: BrokerKind) -> Result<ScenarioReport, BenchError> {
        let report = self.cluster_report("latency", args, broker);
        let mut report = report.set("per second", args.rate).set("seconds", args.seconds).set("bytes", SIZE);
        let progress = Progress::begin("cluster", u64::from(self.rounds()));
        let path = format!("/sse?channel={CHANNEL}");
        for _ in 0..self.rounds() {
            let cluster = Cluster::start(self, broker, args.nodes, SMALL_HISTORY)?;
            let same = cluster.follow(self, cluster.first(), 1, &path)?;
            let other = cluster.follow(self, cluster.last(), 1, &path)?;
            let events = (args.rate * f64::from(args.seconds)) as u32;
            let plan = |events| Plan { stamp: Stamp::Written, ..Plan::new(events, args.rate, SIZE) };
            let both = |count: u64| await_events(&same, count).and_then(|()| await_events(&other, count));
            // The first events make tables and buffers.
            publish(&cluster.first().feed, &plan(100), || both(100))?.1?;
            for load in [&same, &other] {
                load.reset(Reading::Verify, Sample::Every)?;
            }
            let feed = &cluster.first().feed;
            std::thread::scope(|scope| {
                let publishing = scope.spawn(|| {
                    let _ = run_promptly();
                    publish(feed, &plan(events), || both(u64::from(events)))?.1
                });
                publishing.join().unwrap_or_else(|_| Err(BenchError::Harness("the publisher has failed".into())))
            })?;
            let mut p99 = 0.0;
            for (load, name) in [(&same, "same node"), (&other, "other node")] {
                let latency = load.tally()?.latency;
                for (quantile, figure) in [(0.5, "p50"), (0.99, "p99"), (1.0, "max")] {
                    p99 = latency.value_at_quantile(quantile) as f64 / 1000.0;
                    report.add(Side::Server, &format!("latency {figure}, {name}"), "ms", p99);
                }
            }
            progress.step(&format!("cluster: {}: latency max {} ms", broker.name(), number(p99)));
        }
        report.target("latency p99, other node", Bound::AtMost(5.0));
        Ok(report)
    }

    fn cluster_catch_up(&self, args: &ClusterArgs, broker: BrokerKind) -> Result<ScenarioReport, BenchError> {
        let mut report = self.cluster_report("catch-up", args, broker).set("entries", args.events).set("bytes", SIZE);
        let progress = Progress::begin("cluster", u64::from(self.rounds()));
        for _ in 0..self.rounds() {
            let start = |cluster: &Cluster| -> Result<(Target, Duration), BenchError> {
                let begun = Instant::now();
                let node = Target::start(self.common, &node(&cluster.broker, "late", SMALL_HISTORY))?;
                Ok((node, begun.elapsed()))
            };
            // What a start costs with an empty log is not the log's. It has a broker of its own, as a node that was there
            // would be waited for.
            let (_, idle) = start(&Cluster::start(self, broker, 1, SMALL_HISTORY)?)?;
            let cluster = Cluster::start(self, broker, 1, SMALL_HISTORY)?;
            flood(cluster.first().feed_path(), args.events, SIZE as usize, 1)?;
            let before = cluster.broker.cpu_ns()?;
            let (late, took) = start(&cluster)?;
            let entries = f64::from(args.events);
            let rate = entries / took.saturating_sub(idle).max(LOOK).as_secs_f64();
            report.add(Side::Server, "entries per second", "", rate);
            report.add(Side::Server, "time until ready", "s", took.as_secs_f64());
            let cost = |ns: u64| ns as f64 / 1000.0 / entries;
            report.add(Side::Server, "processor per entry, node", "µs", cost(late.cpu_ns()?));
            report.add(Side::Server, "processor per entry, broker", "µs", cost(cluster.broker.cpu_ns()? - before));
            progress.step(&format!("cluster: {}: {} entries per second", broker.name(), number(rate)));
        }
        report.note("a start with an empty log is taken off the time of the rate");
        report.target("entries per second", Bound::AtLeast(300_000.0));
        Ok(report)
    }

    fn cluster_hop(&self, args: &ClusterArgs, broker: BrokerKind) -> Result<ScenarioReport, BenchError> {
        let report = self.cluster_report("hop", args, broker);
        let mut report = report.set("clients", args.clients).set("per second", HOP_RATE).set("bytes", SIZE);
        let progress = Progress::begin("cluster", u64::from(self.rounds()));
        for _ in 0..self.rounds() {
            let cluster = Cluster::start(self, broker, args.nodes, HISTORY)?;
            let (first, last) = (cluster.first(), cluster.last());
            let path = format!("/sse?channel={CHANNEL}");
            let before = cluster.follow(self, first, args.clients, &path)?;
            let kind = Kind { place: Place::Anywhere, ..self.kind(Side::Server, CLIENTS) };
            let after = self.load(&kind, args.clients, None, false)?;
            after.reset(Reading::Verify, Sample::Every)?;
            let position = last_id(first)?;
            let events = (HOP_RATE * f64::from(args.seconds)) as u32;
            let publisher = publish_aside(&first.feed, Plan::new(events, HOP_RATE, SIZE));
            let begun = Instant::now();
            let asked =
                Subscription { last_event_id: Some(position), first_thread: 100, ..subscription(last, CLIENTS) };
            let connected = std::thread::scope(|scope| {
                let closing = scope.spawn(|| before.close(true, CLOSE_MAX));
                let connected = after.connect(asked, args.clients as usize, CONNECT_MAX);
                closing.join().unwrap_or_else(|_| Err(BenchError::Harness("closing has failed".into())))?;
                connected
            })?;
            publisher.wait()?;
            let expected = u64::from(events) * u64::from(args.clients);
            // Missing deliveries are reported as a figure, so the error is dropped.
            let _ = await_events(&after, expected);
            let all = begun.elapsed();
            let tally = after.tally()?;
            report.add(Side::Server, "connecting to the other node", "s", connected.as_secs_f64());
            report.add(Side::Server, "until all had all events", "s", all.as_secs_f64());
            report.add(Side::Server, "lost", "", expected.saturating_sub(tally.events) as f64);
            report.add(Side::Server, "doubled", "", tally.events.saturating_sub(expected) as f64);
            report.add(Side::Server, "out of order", "", tally.disordered as f64);
            report.add(Side::Server, "falsely told gaps", "", last.shards_sum("gaps")? as f64);
            progress.step(&format!("cluster: {}: {} clients moved", broker.name(), args.clients));
            after.close(true, CLOSE_MAX)?;
        }
        for figure in ["lost", "doubled", "out of order", "falsely told gaps"] {
            report.target(figure, Bound::AtMost(0.0));
        }
        Ok(report)
    }
}

/// The id of an event that is published now, which the node has read back.
fn last_id(node: &Target) -> Result<String, BenchError> {
    let call = || {
        FeedClient::connect(node.feed_path())?.call(json!({ "op": "publish", "channel": CHANNEL, "data": "position" }))
    };
    let answer = call().map_err(|error| BenchError::Harness(error.to_string()))?;
    answer["id"].as_str().map(str::to_owned).ok_or_else(|| BenchError::Harness("a publish was given no id".into()))
}

fn await_deliveries(node: &Target, expected: u64) -> Result<(), BenchError> {
    let begun = Instant::now();
    loop {
        let made = node.shards_sum("deliveries")?;
        if made >= expected {
            return Ok(());
        }
        if begun.elapsed() > DELIVER_MAX {
            let what = format!("{expected} deliveries at the last node ({made} were made)");
            return Err(BenchError::Timeout { what, limit: DELIVER_MAX });
        }
        std::thread::sleep(LOOK);
    }
}
