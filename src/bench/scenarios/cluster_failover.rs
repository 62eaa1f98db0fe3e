//! `cluster`, its part `failover`: a Redis dies under load, and Sentinels make one of its replicas the primary.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::brokers::Broker;
use super::super::clients::CHANNEL;
use super::super::progress::Progress;
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::ClusterArgs;
use super::super::target::Target;
use super::super::{BenchError, io_error};
use super::Bench;
use super::cluster::node;
use crate::feed::client::FeedClient;

/// Seconds before and after the death.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(10);
/// The time for the last deliveries.
const REST: Duration = Duration::from_secs(3);
/// Answers that the publisher does not wait for.
const OPEN_MAX: usize = 20_000;

/// What one client has seen.
#[derive(Default)]
struct Seen {
    /// How often each event came.
    times: HashMap<u32, u32>,
    gaps: u32,
    /// The longest time without an event.
    silence: Duration,
}

/// Reads an event stream until `is_over`.
fn watch(address: SocketAddrV4, is_over: &AtomicBool) -> Result<Seen, BenchError> {
    let mut stream = TcpStream::connect(address).map_err(io_error("connecting a client"))?;
    stream.set_read_timeout(Some(Duration::from_millis(100))).map_err(io_error("connecting a client"))?;
    let request = format!("GET /sse?channel={CHANNEL} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(io_error("connecting a client"))?;
    let mut reader = BufReader::new(stream);
    let (mut seen, mut line, mut newest) = (Seen::default(), Vec::new(), None::<Instant>);
    while !is_over.load(Ordering::Relaxed) {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return Err(BenchError::Harness("a node has closed a client's connection".into())),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(io_error("reading a client's events")(error)),
        }
        let text = String::from_utf8_lossy(&line);
        if text.starts_with("event: ringcast.gap") {
            seen.gaps += 1;
        } else if let Some(number) = text.strip_prefix("data: n").and_then(|number| number.trim_end().parse().ok()) {
            *seen.times.entry(number).or_default() += 1;
            let now = Instant::now();
            seen.silence = newest.map_or(Duration::ZERO, |newest| now - newest).max(seen.silence);
            newest = Some(now);
        }
        line.clear();
    }
    Ok(seen)
}

/// What became of what was published.
#[derive(Default)]
struct Published {
    acknowledged: Vec<u32>,
    refused: u32,
    unsure: u32,
}

impl Published {
    fn note(&mut self, number: u32, answer: &Value) {
        match answer["error"]["code"].as_str().or(answer["code"].as_str()) {
            _ if answer["ok"] == true => self.acknowledged.push(number),
            Some("unsure") => self.unsure += 1,
            _ => self.refused += 1,
        }
    }
}

/// Publishes numbered events at a rate for a time. Answers are taken as they come, on the same connection.
fn publish(node: &Target, rate: f64, time: Duration) -> Result<Published, BenchError> {
    let wrong = |error: crate::feed::client::FeedError| BenchError::Harness(error.to_string());
    let mut feed = FeedClient::connect(node.feed_path()).map_err(wrong)?;
    let begun = Instant::now();
    let (mut sent, mut answered, mut published) = (0u32, 0u32, Published::default());
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_secs_f64() * rate) as u32;
        while sent < due && ((sent - answered) as usize) < OPEN_MAX {
            feed.send(json!({ "op": "publish", "channel": CHANNEL, "data": format!("n{sent}") })).map_err(wrong)?;
            sent += 1;
        }
        // While the broker is away no answer comes, and the events that are due wait for the publisher.
        while sent > answered && ((sent - answered) as usize) >= OPEN_MAX.min(rate as usize) {
            published.note(answered, &feed.receive().map_err(wrong)?);
            answered += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    while answered < sent {
        published.note(answered, &feed.receive().map_err(wrong)?);
        answered += 1;
    }
    Ok(published)
}

impl Bench<'_> {
    pub(super) fn cluster_failover(&self, args: &ClusterArgs) -> Result<ScenarioReport, BenchError> {
        let rate = args.rate / 2.0;
        let mut report =
            ScenarioReport::new("cluster, failover, Redis").set("nodes", args.nodes).set("per second", rate);
        let progress = Progress::begin("cluster", u64::from(self.rounds()));
        for _ in 0..self.rounds() {
            let mut broker = Broker::start_watched()?;
            let start = |number| Target::start(self.common, &node(&broker, &format!("n{number}"), ""));
            let nodes = (0..args.nodes).map(start).collect::<Result<Vec<_>, _>>()?;
            let is_over = Arc::new(AtomicBool::new(false));
            let watching: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let (address, is_over) = (node.address, is_over.clone());
                    std::thread::spawn(move || watch(address, &is_over))
                })
                .collect();
            let after = if self.common.quick { AFTER / 2 } else { AFTER };
            let published = std::thread::scope(|scope| {
                let publishing = scope.spawn(|| publish(&nodes[0], rate, BEFORE + after));
                std::thread::sleep(BEFORE);
                broker.kill_first();
                publishing.join().unwrap_or_else(|_| Err(BenchError::Harness("the publisher has failed".into())))
            })?;
            std::thread::sleep(REST);
            is_over.store(true, Ordering::Relaxed);
            let mut worst = 0.0f64;
            let (mut untold, mut doubled, mut gaps) = (0, 0, 0);
            for watching in watching {
                let seen =
                    watching.join().unwrap_or_else(|_| Err(BenchError::Harness("a client has failed".into())))?;
                worst = worst.max(seen.silence.as_secs_f64());
                let missing = published.acknowledged.iter().filter(|number| !seen.times.contains_key(number)).count();
                untold += if seen.gaps == 0 { missing } else { 0 };
                doubled += seen.times.values().filter(|times| **times > 1).count();
                gaps += seen.gaps;
            }
            report.add(Side::Server, "without delivery", "s", worst);
            report.add(Side::Server, "acknowledged", "", published.acknowledged.len() as f64);
            report.add(Side::Server, "acknowledged, not delivered and not told", "", untold as f64);
            report.add(Side::Server, "gaps told", "", f64::from(gaps));
            report.add(Side::Server, "doubled", "", doubled as f64);
            report.add(Side::Server, "refused as surely not published", "", f64::from(published.refused));
            report.add(Side::Server, "unsure", "", f64::from(published.unsure));
            progress.step(&format!("cluster: failover: {} s without delivery", number(worst)));
        }
        report.note("the primary of three servers is killed; Sentinels wait one second, and an event counts once a replica has it");
        for figure in ["acknowledged, not delivered and not told", "doubled"] {
            report.target(figure, Bound::AtMost(0.0));
        }
        Ok(report)
    }
}
