//! `mixed`: giant channels and many small ones.

use std::time::Duration;

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::clients::{Load, Subscription};
use super::super::progress::Progress;
use super::super::publisher::Plan;
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::MixedArgs;
use super::super::target::Target;
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, await_events, publish_aside, subscription};

/// The time for which events of the giant channels precede those of the small ones, and outlast them.
const AROUND: Duration = Duration::from_secs(1);
const CLIENTS: ClientArgs = ClientArgs { transport: Transport::Sse, format: Format::Json, reading: Reading::Verify };

/// The connected clients of the giant channels and of the small ones.
struct Both {
    target: Target,
    giant: Load,
    small: Load,
    /// The names of the giant channels.
    giants: Vec<String>,
    /// The names of the small channels.
    channels: Vec<String>,
}

impl Bench<'_> {
    /// Measures the latency of small channels, alone and beside giants whose readers are walked all the time.
    pub(super) fn mixed(&self, args: &MixedArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("mixed")
            .set("giant", args.giant)
            .set("giants", args.giants)
            .set("giant per second", args.giant_rate)
            .set("small", args.small)
            .set("small per second", args.small_rate)
            .set("shards", self.common.shards.unwrap_or(1));
        let progress = Progress::begin("mixed", u64::from(self.rounds()) * 2);
        for _ in 0..self.rounds() {
            for (name, giant_rate) in [("alone", 0.0), ("beside the giant", args.giant_rate)] {
                let both = self.connect_both(args)?;
                let p99 = both.measure(&MixedArgs { giant_rate, ..*args }, name, &mut report)?;
                progress.step(&format!("mixed: {name}: p99 {} ms", number(p99)));
            }
        }
        report.note("latency is that of the small channels, each of one subscriber");
        report
            .note("their clients and the publishers have a real-time priority: the giant's clients do not delay them");
        report.target("latency p99, beside the giant", Bound::AtMost(5.0));
        Ok(report)
    }

    fn connect_both(&self, args: &MixedArgs) -> Result<Both, BenchError> {
        let kind = self.kind(Side::Server, CLIENTS);
        let (target, giant) = self.start(&kind, args.giant)?;
        let small = self.load(&kind, args.small, None, true)?;
        let shared = Subscription { shared_channels: args.giants, ..subscription(&target, CLIENTS) };
        let giants = shared.shared_channels();
        giant.connect(shared, args.giant as usize, CONNECT_MAX)?;
        let own = Subscription { own_channels: 1, first_thread: 100, ..subscription(&target, CLIENTS) };
        small.connect(own.clone(), args.small as usize, CONNECT_MAX)?;
        let channels = small.own_channels(&own, args.small as usize);
        giant.reset(Reading::Count, Sample::Last)?;
        small.reset(Reading::Verify, Sample::Every)?;
        Ok(Both { target, giant, small, giants, channels })
    }
}

impl Both {
    /// Publishes to all channels, and returns the small channels' p99 latency in milliseconds.
    fn measure(self, args: &MixedArgs, name: &str, report: &mut ScenarioReport) -> Result<f64, BenchError> {
        let Both { target, giant, small, giants, channels } = self;
        let whole = f64::from(args.seconds) + 2.0 * AROUND.as_secs_f64();
        let before = target.cpu_ns()?;
        let giant_events = (args.giant_rate * whole) as u32;
        let plan = |events, per_second, channels| Plan { channels, ..Plan::new(events, per_second, 128) };
        let to_giant =
            (giant_events > 0).then(|| publish_aside(&target.feed, plan(giant_events, args.giant_rate, giants)));
        std::thread::sleep(AROUND);
        let expected = (args.small_rate * f64::from(args.seconds)) as u32;
        publish_aside(&target.feed, plan(expected, args.small_rate, channels)).wait()?;
        if await_events(&small, expected.into()).is_err() {
            report.note(format!("{name}: not all of {expected} events to small channels came"));
        }
        if let Some(publisher) = to_giant {
            publisher.wait()?;
            if await_events(&giant, u64::from(giant_events) * u64::from(args.giant)).is_err() {
                report.note("the giant's subscribers did not get everything");
            }
            let per_second = giant.tally()?.events as f64 / whole;
            report.add(Side::Server, "deliveries of the giant per second", "", per_second);
        }
        let latency = small.tally()?.latency;
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
        for (figure, quantile) in [("latency p50", 0.5), ("latency p99", 0.99), ("latency max", 1.0)] {
            report.add(Side::Server, &format!("{figure}, {name}"), "ms", at(quantile));
        }
        let cpu = (target.cpu_ns()? - before) as f64 / 1e7 / whole;
        report.add(Side::Server, &format!("processor, {name}"), "%", cpu);
        giant.close(true, CLOSE_MAX)?;
        small.close(true, CLOSE_MAX)?;
        Ok(at(0.99))
    }
}
