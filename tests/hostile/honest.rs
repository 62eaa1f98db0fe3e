//! The honest load beside an attack: clients of every transport, each on a channel of its own, and a publisher with a
//! fixed plan that checks every answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringcast::feed::client::{FeedClient, FeedError};
use serde_json::json;

use super::follower::{Follower, Told, Transport};

/// Two clients of each transport.
const CLIENTS: usize = 6;
/// The time between two events. The publisher keeps to its plan: an event's latency counts from the time at which the
/// event was due, so an event that a standing server kept from being published counts as late.
const PERIOD: Duration = Duration::from_millis(25);
/// Every so many events one goes to a channel that is new.
const FRESH_EVERY: u64 = 10;
/// The address of the honest clients.
const SOURCE: [u8; 4] = [127, 0, 0, 1];

/// A running honest load.
pub struct Honest {
    stop: Arc<AtomicBool>,
    epoch: Instant,
    publisher: JoinHandle<Vec<String>>,
    clients: Vec<JoinHandle<Result<Vec<Arrival>, String>>>,
}

/// An event that a client has got: when it was due, and how much later it came.
#[derive(Clone, Copy)]
struct Arrival {
    due: Duration,
    late: Duration,
}

/// What the honest load has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The latencies of the events that were due within the attack, sorted.
    pub latencies: Vec<Duration>,
    /// Publishes that were refused, by code.
    pub refused: Vec<String>,
    /// Events lost, doubled or out of order, and connections that ended.
    pub broken: Vec<String>,
}

impl Seen {
    /// The latency that a share of the events did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let index = ((self.latencies.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.latencies.get(index).copied().unwrap_or(Duration::MAX)
    }
}

fn channel(client: usize) -> String {
    format!("honest:{client}")
}

impl Honest {
    /// Connects all clients and begins to publish.
    pub fn start(front: SocketAddr, feed_path: PathBuf) -> Honest {
        let epoch = Instant::now();
        let clients = (0..CLIENTS).map(|client| {
            let transport = Transport::ALL[client % 3];
            let mut follower = Follower::new(front, SOURCE, transport, channel(client), Duration::from_secs(60));
            follower.connect().expect("an honest client connects before the attack");
            std::thread::spawn(move || follow(follower, client, epoch))
        });
        let clients = clients.collect();
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let publisher = std::thread::spawn(move || publish(&feed_path, epoch, &until));
        Honest { stop, epoch, publisher, clients }
    }

    /// Ends the load: waits until every client has got its last event, and says what was seen of an attack.
    pub fn stop(self, begun: Instant, ended: Instant) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Seen::default();
        match self.publisher.join() {
            Ok(refused) => seen.refused = refused,
            Err(_) => seen.broken.push("the publisher panicked".into()),
        }
        let (begun, ended) = (begun - self.epoch, ended - self.epoch);
        let deadline = Instant::now() + Duration::from_secs(40);
        for (number, client) in self.clients.into_iter().enumerate() {
            while !client.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !client.is_finished() {
                seen.broken.push(format!("client {number} did not get its last event"));
                continue;
            }
            match client.join() {
                Ok(Ok(arrivals)) => seen.latencies.extend(
                    arrivals.iter().filter(|one| (begun..=ended).contains(&one.due)).map(|arrival| arrival.late),
                ),
                Ok(Err(error)) => seen.broken.push(format!("client {number}: {error}")),
                Err(_) => seen.broken.push(format!("client {number} panicked")),
            }
        }
        seen.latencies.sort();
        seen
    }
}

/// Follows a channel to its last event. The data of an event is its number and the time at which it was due.
fn follow(mut follower: Follower, client: usize, epoch: Instant) -> Result<Vec<Arrival>, String> {
    let mut arrivals = Vec::new();
    let mut next = 0;
    loop {
        for told in follower.next().map_err(|error| format!("was cut after event {next}: {error}"))? {
            let Told::Event { channel: name, data, .. } = told else { return Err("was told of a gap".into()) };
            if data == "end" {
                return Ok(arrivals);
            }
            let (number, due) = data.split_once(' ').ok_or("got an event that nobody published")?;
            if name != channel(client) || number.parse() != Ok(next) {
                return Err(format!("got event {number} of {name} in place of {next}"));
            }
            next += 1;
            let due = Duration::from_micros(due.parse().map_err(|_| "got half an event")?);
            arrivals.push(Arrival { due, late: epoch.elapsed().saturating_sub(due) });
        }
    }
}

/// Publishes by the plan until the end; returns the codes of refusals.
fn publish(feed_path: &std::path::Path, epoch: Instant, stop: &AtomicBool) -> Vec<String> {
    let mut refused = Vec::new();
    let mut feed = None;
    let mut numbers = [0u64; CLIENTS];
    let mut call = |command: serde_json::Value, feed: &mut Option<FeedClient>| {
        if feed.is_none() {
            *feed = FeedClient::connect(feed_path).ok();
        }
        let Some(client) = feed else {
            refused.push("no connection".to_owned());
            std::thread::sleep(Duration::from_millis(100));
            return false;
        };
        match client.call(command) {
            Ok(_) => return true,
            Err(FeedError::Refused { code, .. }) => refused.push(code),
            Err(error) => {
                refused.push(error.to_string());
                *feed = None;
            }
        }
        false
    };
    let begun = Instant::now();
    for tick in 0u64.. {
        let due = begun + PERIOD * tick as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let client = tick as usize % CLIENTS;
        let data = format!("{} {}", numbers[client], (due - epoch).as_micros());
        let command = json!({ "op": "publish", "channel": channel(client), "data": data });
        numbers[client] += u64::from(call(command, &mut feed));
        if tick % FRESH_EVERY == 0 {
            call(json!({ "op": "publish", "channel": format!("fresh:{tick}"), "data": "x" }), &mut feed);
        }
    }
    for client in 0..CLIENTS {
        let command = json!({ "op": "publish", "channel": channel(client), "data": "end" });
        while !call(command.clone(), &mut feed) && begun.elapsed() < Duration::from_secs(600) {}
    }
    refused
}
