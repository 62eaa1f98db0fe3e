//! `handover`: a successor takes every connection from the running server.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::clients::{Subscription, Tally};
use super::super::progress::Progress;
use super::super::publisher::Plan;
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::HandoverArgs;
use super::super::target::{Kind, Place};
use super::super::{BenchError, io_error};
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, await_events, publish_aside, settle, subscription};

const CLIENTS: ClientArgs = ClientArgs { transport: Transport::Sse, format: Format::Json, reading: Reading::Verify };
/// Connections of one shard if `--shards` is not given: its descriptor table holds 20,000.
const PER_SHARD: u32 = 18_000;
/// Small channels of one subscriber each, and the events per second on all of them together.
const SMALL: u32 = 1_000;
const SMALL_RATE: f64 = 100.0;
/// Events per second to all the other clients.
const RATE: f64 = 0.5;
/// The time from one hand-over to the next, and before the first one.
const EVERY: Duration = Duration::from_secs(4);
/// Commands that a publisher has under way.
const PIPELINE: u64 = 16;
/// The time that a publisher waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

impl Bench<'_> {
    /// Measures what clients and publishers notice while successors take over, one after the other.
    pub(super) fn handover(&self, args: &HandoverArgs) -> Result<ScenarioReport, BenchError> {
        let shards = self.common.shards.unwrap_or((args.connections + SMALL).div_ceil(PER_SHARD));
        let mut report = ScenarioReport::new("handover")
            .set("connections", args.connections)
            .set("shards", shards)
            .set("times", args.times);
        let progress = Progress::begin("handover", u64::from(args.times) + 1);
        let kind = Kind { shards, place: Place::Anywhere, ..self.kind(Side::Server, CLIENTS) };
        let (mut target, load) = self.start(&kind, args.connections)?;
        let small = self.load(&kind, SMALL, None, false)?;
        progress.doing("connecting");
        load.connect(subscription(&target, CLIENTS), args.connections as usize, CONNECT_MAX)?;
        let own = Subscription { own_channels: 1, first_thread: 100, ..subscription(&target, CLIENTS) };
        small.connect(own.clone(), SMALL as usize, CONNECT_MAX)?;
        settle();
        progress.step("handover: connected");
        load.reset(Reading::Verify, Sample::Every)?;
        small.reset(Reading::Verify, Sample::Every)?;
        let seconds = EVERY.as_secs_f64() * (f64::from(args.times) + 1.0);
        let events = (RATE * seconds).ceil() as u32;
        let small_events = (SMALL_RATE * seconds).ceil() as u32;
        let memory = target.memory()?;
        let to_all = publish_aside(&target.feed, Plan::new(events, RATE, 128));
        let channels = small.own_channels(&own, SMALL as usize);
        let to_small = publish_aside(&target.feed, Plan { channels, ..Plan::new(small_events, SMALL_RATE, 128) });
        let asker = Asker::start(target.feed_path())?;
        let mut took = Duration::ZERO;
        for round in 1..=args.times {
            std::thread::sleep(EVERY);
            let begun = Instant::now();
            target.succeed(self.common, &kind)?;
            took = took.max(begun.elapsed());
            progress.step(&format!("handover {round}: {} s with the successor's start", number(took.as_secs_f64())));
        }
        to_all.wait()?;
        to_small.wait()?;
        let expected = [u64::from(events) * u64::from(args.connections), u64::from(small_events)];
        // Missing deliveries are reported as a figure, so the errors are dropped.
        let _ = await_events(&load, expected[0]);
        let _ = await_events(&small, expected[1]);
        let asked = asker.stop()?;
        let (all, few) = (load.tally()?, small.tally()?);
        let grown = target.memory()? as f64 / memory.max(1) as f64 - 1.0;
        let seen =
            Seen { all, few, expected: expected.iter().sum(), lost: load.lost() + small.lost(), asked, took, grown };
        seen.report(&mut report);
        load.close(true, CLOSE_MAX)?;
        small.close(true, CLOSE_MAX)?;
        Ok(report)
    }
}

/// What clients and publishers have noticed.
struct Seen {
    all: Tally,
    few: Tally,
    expected: u64,
    /// Clients that were disconnected.
    lost: usize,
    asked: Asked,
    /// The longest time of a successor's start and its hand-over.
    took: Duration,
    /// The part by which the server's memory has grown.
    grown: f64,
}

impl Seen {
    fn report(&self, report: &mut ScenarioReport) {
        let ms = |us: u64| us as f64 / 1000.0;
        let Seen { all, few, asked, .. } = self;
        let mut add = |figure: &str, unit: &str, value: f64| report.add(Side::Server, figure, unit, value);
        add("latest delivery, all", "ms", ms(all.latency.max()));
        add("latest delivery, small channels", "ms", ms(few.latency.max()));
        add("latency p50, small channels", "ms", ms(few.latency.value_at_quantile(0.5)));
        add("delivered", "%", (all.events + few.events) as f64 * 100.0 / self.expected as f64);
        add("out of order or doubled", "", (all.disordered + few.disordered) as f64);
        add("disconnected", "", self.lost as f64);
        add("commands answered once", "%", asked.answered as f64 * 100.0 / asked.asked.max(1) as f64);
        add("latest answer", "ms", asked.latest.as_secs_f64() * 1000.0);
        add("successor's start and hand-over", "s", self.took.as_secs_f64());
        add("memory grew by", "%", self.grown * 100.0);
        report.note("a delivery's lateness is counted from the time at which its event was due");
        report.target("latest delivery, all", Bound::AtMost(1000.0));
        report.target("delivered", Bound::AtLeast(100.0));
        report.target("out of order or doubled", Bound::AtMost(0.0));
        report.target("disconnected", Bound::AtMost(0.0));
        report.target("commands answered once", Bound::AtLeast(100.0));
    }
}

/// What a publisher that pipelines commands has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    asked: u64,
    /// Answers that came in the order of their commands.
    answered: u64,
    /// The longest time that an answer took.
    latest: Duration,
}

/// A publisher that pipelines commands, each with a `ref`, until it is told to stop.
struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Asked, BenchError>>,
}

impl Asker {
    fn start(feed: &Path) -> Result<Asker, BenchError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, feed) = (stop.clone(), PathBuf::from(feed));
        let thread = std::thread::spawn(move || ask(&feed, &until));
        Ok(Asker { stop, thread })
    }

    fn stop(self) -> Result<Asked, BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| BenchError::Harness("the pipelining publisher has failed".to_owned()))?
    }
}

fn ask(feed: &Path, until: &AtomicBool) -> Result<Asked, BenchError> {
    let doing = "pipelining commands to the feed";
    let stream = UnixStream::connect(feed).map_err(io_error(doing))?;
    stream.set_read_timeout(Some(ANSWER_MAX)).map_err(io_error(doing))?;
    let mut reader = BufReader::new(stream.try_clone().map_err(io_error(doing))?);
    let (mut asked, mut line) = (Asked::default(), String::new());
    while !until.load(Ordering::Relaxed) {
        let (first, begun) = (asked.asked, Instant::now());
        let lines = (first..first + PIPELINE).map(|number| {
            format!("{{\"op\":\"publish\",\"channel\":\"bench:asked\",\"data\":{number},\"ref\":{number}}}\n")
        });
        (&stream).write_all(lines.collect::<String>().as_bytes()).map_err(io_error(doing))?;
        asked.asked += PIPELINE;
        for number in first..asked.asked {
            line.clear();
            reader.read_line(&mut line).map_err(io_error(doing))?;
            let answer: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            asked.answered += u64::from(answer["ref"] == number && answer["ok"] == true);
        }
        asked.latest = asked.latest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(asked)
}
