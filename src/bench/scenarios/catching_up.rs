//! The second half of `slow`: clients that are far behind and read on, beside other clients.

use std::time::{Duration, Instant};

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::clients::Subscription;
use super::super::progress::Progress;
use super::super::publisher::{Plan, publish};
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::SlowArgs;
use super::super::target::{Kind, Target};
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, await_events, publish_aside, settle, subscription};

const CLIENTS: ClientArgs = ClientArgs { transport: Transport::Sse, format: Format::Raw, reading: Reading::Verify };
/// A history that holds what the clients are behind.
const HISTORY: &str = "history_bytes = \"8MiB\"\nhistory_events = 8000\n";
/// The bytes by which clients fall behind, of which the kernel holds some hundred thousand for each: more than `max_lag`.
const BEHIND_BYTES: u32 = 2 << 20;
/// The other clients, each on a channel of its own, and the events per second to all of them.
const OTHERS: u32 = 500;
const OTHERS_PER_SECOND: f64 = 500.0;
/// The time that clients may take to catch up, and the time between two looks at whether they have.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// Shares of the clients that fall behind, in percent.
const SHARES: [u32; 4] = [0, 10, 50, 100];

impl Bench<'_> {
    /// Has a share of a channel's clients fall two megabytes behind and read on, and measures the latency of clients of other
    /// channels meanwhile.
    pub(super) fn catch_up(&self, args: &SlowArgs, report: &mut ScenarioReport) -> Result<(), BenchError> {
        let progress = Progress::begin("slow", u64::from(self.rounds()) * SHARES.len() as u64);
        for _ in 0..self.rounds() {
            for percent in SHARES {
                let p99 = self.catch_up_once(args, percent, report)?;
                progress.step(&format!("slow: {percent} % catch up: p99 of the others {} ms", number(p99)));
            }
        }
        report.note(format!(
            "catching up: clients of one channel are {BEHIND_BYTES} bytes behind and read on at once, while {OTHERS} clients of other \
             channels get {OTHERS_PER_SECOND} events per second; latency is that of these others"
        ));
        report.target("clients cut off, 100 % catch up", Bound::AtMost(0.0));
        Ok(())
    }

    fn catch_up_once(&self, args: &SlowArgs, percent: u32, report: &mut ScenarioReport) -> Result<f64, BenchError> {
        let count = (args.subscribers * percent / 100).max(1);
        let kind = Kind { config: HISTORY, ..self.kind(Side::Server, CLIENTS) };
        let (target, behind) = self.start(&kind, count)?;
        let others = self.load(&kind, OTHERS, None, true)?;
        let asked = subscription(&target, CLIENTS);
        behind.connect(asked.clone(), count as usize, CONNECT_MAX)?;
        let own = Subscription { own_channels: 1, first_thread: 100, ..asked };
        others.connect(own.clone(), OTHERS as usize, CONNECT_MAX)?;
        let channels = others.own_channels(&own, OTHERS as usize);
        let mut expected = target.shards_sum("deliveries")?;
        if percent > 0 {
            behind.reset(Reading::Never, Sample::Last)?;
            let events = BEHIND_BYTES / args.size + 1;
            publish(&target.feed, &Plan::new(events, 1e6, args.size), || ())?;
            expected += u64::from(events) * u64::from(count);
            settle();
            behind.reset(Reading::Count, Sample::Last)?;
        }
        others.reset(Reading::Verify, Sample::Every)?;
        let begun = Instant::now();
        let measured = (OTHERS_PER_SECOND * f64::from(args.seconds)) as u32;
        let plan = Plan { channels, ..Plan::new(measured, OTHERS_PER_SECOND, 128) };
        let publisher = publish_aside(&target.feed, plan);
        let all_came = await_caught_up(&target, expected)?;
        let took = begun.elapsed();
        publisher.wait()?;
        await_events(&others, measured.into())?;
        let p99 = others.tally()?.latency.value_at_quantile(0.99) as f64 / 1000.0;
        let figure = |figure: &str| format!("{figure}, {percent} % catch up");
        report.add(Side::Server, &figure("latency p99 of others"), "ms", p99);
        if percent > 0 {
            report.add(Side::Server, &figure("time until all have caught up"), "s", took.as_secs_f64());
            let went_on = target.shards_sum("slow_caught_up")? as f64 * 100.0 / f64::from(count);
            report.add(Side::Server, &figure("went on from history"), "%", went_on);
            let gaps = target.shards_sum("gaps")?;
            let cut = target.shards_sum("slow_disconnected")? + target.shards_sum("memory_disconnected")?;
            report.add(Side::Server, &figure("gaps"), "", gaps as f64);
            report.add(Side::Server, &figure("clients cut off"), "", cut as f64);
            if !all_came {
                report
                    .note(format!("{percent} %: not all of {expected} deliveries were made to those that were behind"));
            }
        }
        behind.close(true, CLOSE_MAX)?;
        others.close(true, CLOSE_MAX)?;
        Ok(p99)
    }
}

/// Waits until the server has made a number of deliveries, and clients have taken all of their bytes; returns whether that
/// was in time. The harness counts deliveries by bytes, which says nothing where the kernel held some of them before.
fn await_caught_up(target: &Target, expected: u64) -> Result<bool, BenchError> {
    let begun = Instant::now();
    while begun.elapsed() < CATCH_UP_MAX {
        if target.shards_sum("deliveries")? >= expected && target.shards_sum("output_bytes")? == 0 {
            return Ok(true);
        }
        std::thread::sleep(LOOK);
    }
    Ok(false)
}
