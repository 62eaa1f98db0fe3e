//! A giant channel and many small ones.

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::clients::Subscription;
use super::super::progress::Progress;
use super::super::publisher::Plan;
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::MixedArgs;
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, await_events, publish_aside, subscription};

impl Bench<'_> {
    /// How late small channels are, alone and beside a giant whose readers are walked all the time.
    pub(super) fn mixed(&self, args: &MixedArgs) -> Result<ScenarioReport, BenchError> {
        let mut report = ScenarioReport::new("mixed")
            .set("giant", args.giant)
            .set("giant per second", args.giant_rate)
            .set("small", args.small)
            .set("small per second", args.small_rate)
            .set("shards", self.common.shards.unwrap_or(1));
        let clients = ClientArgs { transport: Transport::Sse, format: Format::Json, reading: Reading::Verify };
        let progress = Progress::begin("mixed", u64::from(self.rounds()) * 2);
        for _ in 0..self.rounds() {
            for (name, giant_rate) in [("alone", 0.0), ("beside the giant", args.giant_rate)] {
                let kind = self.kind(Side::Server, clients);
                let (target, giant) = self.start(&kind, args.giant)?;
                let small = self.load(&kind, args.small, None, true)?;
                giant.connect(subscription(&target, clients), args.giant as usize, CONNECT_MAX)?;
                let own = Subscription { own_channels: 1, first_thread: 100, ..subscription(&target, clients) };
                small.connect(own.clone(), args.small as usize, CONNECT_MAX)?;
                let channels = small.own_channels(&own, args.small as usize);
                giant.reset(Reading::Count, Sample::Last)?;
                small.reset(Reading::Verify, Sample::Every)?;
                let seconds = f64::from(args.seconds);
                let plan = |per_second: f64, seconds: f64, channels| Plan {
                    events: (per_second * seconds) as u32,
                    per_second,
                    size: 128,
                    channels,
                };
                let before = target.cpu_ns()?;
                // The giant begins before and ends after the small ones.
                let giant_plan = plan(giant_rate, seconds + 2.0, Vec::new());
                let giant_publisher = (giant_rate > 0.0).then(|| publish_aside(&target.feed, giant_plan));
                std::thread::sleep(std::time::Duration::from_secs(1));
                let small_plan = plan(args.small_rate, seconds, channels);
                let expected = u64::from(small_plan.events);
                let published = publish_aside(&target.feed, small_plan).join();
                published.map_err(|_| BenchError::Harness("the publisher has failed".to_owned()))??;
                let all_came = await_events(&small, expected);
                if let Some(publisher) = giant_publisher {
                    publisher.join().map_err(|_| BenchError::Harness("the publisher has failed".to_owned()))??;
                    let events = (giant_rate * (seconds + 2.0)) as u64;
                    let giant_came = await_events(&giant, events * u64::from(args.giant));
                    let delivered = giant.tally()?.events as f64 / (seconds + 2.0);
                    report.add(Side::Server, "deliveries of the giant per second", "", delivered);
                    if giant_came.is_err() {
                        report.note("the giant's subscribers did not get everything");
                    }
                }
                let tally = small.tally()?;
                if all_came.is_err() {
                    report.note(format!("{name}: {} of {expected} events to small channels came", tally.events));
                }
                let cpu = (target.cpu_ns()? - before) as f64 / 1e7 / (seconds + 2.0);
                for (figure, quantile) in [("latency p50", 0.5), ("latency p99", 0.99), ("latency max", 1.0)] {
                    let value = tally.latency.value_at_quantile(quantile) as f64 / 1000.0;
                    report.add(Side::Server, &format!("{figure}, {name}"), "ms", value);
                }
                report.add(Side::Server, &format!("processor, {name}"), "%", cpu);
                let p99 = tally.latency.value_at_quantile(0.99) as f64 / 1000.0;
                progress.step(&format!("mixed: {name}: p99 {} ms", number(p99)));
                giant.close(true, CLOSE_MAX)?;
                small.close(true, CLOSE_MAX)?;
            }
        }
        report.note("latency is that of the small channels, each of one subscriber");
        report.note(
            "their clients and the publishers run before the giant's clients, so that it is the server's latency",
        );
        report.target("latency p99, beside the giant", Bound::AtMost(5.0));
        Ok(report)
    }
}
