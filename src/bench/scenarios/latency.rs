//! `latency`: the time of an event from its publisher to the clients while the server is idle but for that event.

use super::super::args::Sample;
use super::super::progress::Progress;
use super::super::publisher::{Plan, Stamp};
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::LatencyArgs;
use super::super::target::Target;
use super::super::{BenchError, io_error};
use super::Bench;
use super::world::{CONNECT_MAX, Measured, World, subscription};
use crate::sys::affinity::usable_cores;
use crate::sys::load::{run_on, run_promptly};

/// Events that are published before the measured ones, for caches and the processor's clock.
const WARM_UP_EVENTS: u32 = 50;

impl Bench<'_> {
    pub(super) fn latency(&self, args: &LatencyArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("latency")
            .set("per second", args.rate)
            .set("seconds", args.seconds)
            .set("bytes", args.size)
            .set("transport", args.clients.transport.name());
        let steps = args.subscribers.len() * self.sides.len() * self.rounds() as usize;
        let progress = Progress::begin("latency", steps as u64);
        for _ in 0..self.rounds() {
            for &subscribers in &args.subscribers {
                for side in &self.sides {
                    progress.doing(side.name());
                    let measured = self.latency_once(*side, args, subscribers)?;
                    let median = add(&mut report, *side, subscribers, &measured);
                    progress.step(&format!("latency {side}: {subscribers} subscribers: p50 {} µs", number(median)));
                }
            }
        }
        report.note("latency is from the publisher's write to the client's read, of every event and client");
        report.note("publisher and clients have a real-time priority: other programs delay the server alone");
        for &subscribers in &args.subscribers {
            report.target(&named("latency p50", subscribers), Bound::TimesLimit(1.25));
            report.target(&named("delivered", subscribers), Bound::AtLeast(100.0));
        }
        Ok(report)
    }

    fn latency_once(&self, side: Side, args: &LatencyArgs, subscribers: u32) -> Result<Measured, BenchError> {
        let kind = self.kind(side, args.clients);
        let target = Target::start(self.common, &kind)?;
        let load = self.load(&kind, subscribers, self.common.threads, true)?;
        let connected_in = load.connect(subscription(&target, args.clients), subscribers as usize, CONNECT_MAX)?;
        let world = World { target, load, connected_in };
        let events = (args.rate * f64::from(args.seconds)) as u32;
        let plan = Plan { stamp: Stamp::Written, ..Plan::new(events, args.rate, args.size) };
        let cores = usable_cores();
        let places = kind.place.of_load(&cores, kind.shards);
        // A thread of its own, because its core and its priority are for publishing alone.
        std::thread::scope(|scope| {
            let publishing = scope.spawn(|| {
                run_on(places).map_err(io_error("placing the publisher"))?;
                // Without CAP_SYS_NICE a busy host delays the publisher as well.
                let _ = run_promptly();
                world.deliver_after(WARM_UP_EVENTS, &plan, subscribers, args.clients.reading, Sample::Every)
            });
            publishing.join().unwrap_or_else(|_| Err(BenchError::Harness("the publisher has failed".to_owned())))
        })
    }
}

fn named(figure: &str, subscribers: u32) -> String {
    format!("{figure}, {subscribers} subscribers")
}

/// Adds one round's figures and returns the median latency in microseconds.
fn add(report: &mut ScenarioReport, side: Side, subscribers: u32, measured: &Measured) -> f64 {
    let at = |quantile| measured.tally.latency.value_at_quantile(quantile) as f64;
    report.add(side, &named("latency p50", subscribers), "µs", at(0.5));
    report.add(side, &named("latency p99", subscribers), "µs", at(0.99));
    let processor = measured.cpu_ns as f64 / 1e7 / measured.elapsed.as_secs_f64();
    report.add(side, &named("processor", subscribers), "%", processor);
    report.add(side, &named("delivered", subscribers), "%", measured.share());
    measured.remark(report, side);
    at(0.5)
}
