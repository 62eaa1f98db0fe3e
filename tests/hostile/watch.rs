//! What is measured of a server while it is attacked: its memory and its longest turns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::follower::admin;

/// The time between two looks at the memory; every so many looks the figures are asked for.
const PERIOD: Duration = Duration::from_millis(20);
const FIGURES_EVERY: u32 = 10;

/// A turn's length, as far as the figures tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// No turn was longer.
    pub at_most: Duration,
    /// The longest turn was longer, because the figures only say which bucket it is in; equal to `at_most` where the
    /// figures have the length itself.
    pub above: Duration,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub memory_peak: u64,
    pub shard_turn: Turn,
    pub hub_turn: Option<Turn>,
    /// Requests to the admin listener that were not answered within five seconds.
    pub unanswered: usize,
    /// The longest time that one of the server's threads could have run and waited for a processor: how busy the machine
    /// was with other things.
    pub starved: Duration,
}

/// A thread that measures a server.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Measured>,
}

/// The anonymous memory of a process, in bytes.
pub fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// How long each thread of a process has waited for a processor (the second number of its `schedstat`).
fn waits(process: u32) -> Vec<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = tasks.map(|task| task.path().join("schedstat")).collect();
    paths.sort();
    let wait = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
    };
    paths.iter().map(wait).collect()
}

/// All figures, from the admin listener, which needs neither the hub nor a shard for them.
pub fn stats(address: SocketAddr) -> std::io::Result<Value> {
    Ok(serde_json::from_str(&admin(address, "/v1/stats")?)?)
}

/// A figure, summed over the shards.
pub fn sum(stats: &Value, pointer: &str) -> u64 {
    let shards = stats["shards"].as_array().into_iter().flatten();
    shards.filter_map(|shard| shard.pointer(pointer)?.as_u64()).sum()
}

impl Watch {
    pub fn start(process: u32, address: SocketAddr) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut measured = Measured::default();
            // Turns before this time, of a start for example, do not count.
            let before = stats(address).unwrap_or_default();
            let waits_before = waits(process);
            for round in 1u32.. {
                let begun = Instant::now();
                measured.memory_peak = measured.memory_peak.max(memory(process));
                let is_over = until.load(Ordering::Relaxed);
                if round.is_multiple_of(FIGURES_EVERY) || is_over {
                    match stats(address) {
                        Ok(now) => measured.look(&before, &now),
                        Err(_) => measured.unanswered += 1,
                    }
                }
                if is_over {
                    let waited = waits(process).into_iter().zip(&waits_before);
                    measured.starved =
                        waited.map(|(now, before)| now.saturating_sub(*before)).max().unwrap_or_default();
                    return measured;
                }
                std::thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
            }
            unreachable!()
        });
        Watch { stop, thread }
    }

    pub fn stop(self) -> Measured {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("measuring does not panic")
    }
}

impl Measured {
    fn look(&mut self, before: &Value, now: &Value) {
        let micros = |value: Option<u64>| value.map(Duration::from_micros);
        let exact = |length: Duration| Turn { at_most: length, above: length };
        let shards = now["shards"].as_array().into_iter().flatten();
        let longest = shards.clone().filter_map(|shard| shard["turn_longest_us"].as_u64()).max();
        let turn = match micros(longest) {
            Some(length) => exact(length),
            None => shards.zip(before["shards"].as_array().into_iter().flatten()).map(bucket).max().unwrap_or_default(),
        };
        self.shard_turn = self.shard_turn.max(turn);
        let node = &now["node"];
        let hub = node["turn_longest_us"].as_u64().or(node["hub_turn_longest_us"].as_u64());
        self.hub_turn = self.hub_turn.max(micros(hub).map(exact));
    }
}

/// The highest bucket of the distribution of turns that has got values since before.
fn bucket((now, before): (&Value, &Value)) -> Turn {
    let counts = |shard: &Value| -> Vec<u64> {
        let counts = shard["measures"]["turn_us"]["counts"].as_array().into_iter().flatten();
        counts.filter_map(Value::as_u64).collect()
    };
    let (now_counts, before_counts) = (counts(now), counts(before));
    let first = now["measures"]["turn_us"]["first"].as_u64().unwrap_or(1);
    let Some(last) = now_counts.iter().zip(&before_counts).rposition(|(now, before)| now > before) else {
        return Turn::default();
    };
    let bound = |bucket: usize| Duration::from_micros(first << bucket);
    let is_open = last + 1 == now_counts.len();
    Turn {
        at_most: if is_open { Duration::MAX } else { bound(last) },
        above: last.checked_sub(1).map(bound).unwrap_or_default(),
    }
}
