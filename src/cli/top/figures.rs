//! Samples of a server's figures, and what happened between two of them.

use std::time::Instant;

use serde_json::Value;

use crate::figures::{HubFigures, ShardTable};

/// One sample of a server's figures.
pub(super) struct Figures {
    /// When the sample was taken.
    pub(super) at: Instant,
    /// The answer to `stats`.
    pub(super) stats: Value,
    /// The busiest channels.
    pub(super) channels: Vec<Value>,
    /// The connections furthest behind.
    pub(super) slowest: Vec<Value>,
}

impl Figures {
    /// The figures of each shard.
    pub(super) fn shards(&self) -> &[Value] {
        self.stats["shards"].as_array().map_or(&[], Vec::as_slice)
    }

    /// A counter, summed over the shards.
    pub(super) fn sum(&self, name: &str) -> u64 {
        debug_assert!(
            ShardTable::<u64>::FIGURES.iter().any(|figure| figure.name == name),
            "there is no counter {name}"
        );
        self.shards().iter().filter_map(|shard| shard[name].as_u64()).sum()
    }

    /// A counter of the hub, or the number of connections.
    pub(super) fn node(&self, name: &str) -> u64 {
        let is_known = name == "connections" || HubFigures::FIGURES.iter().any(|figure| figure.name == name);
        debug_assert!(is_known, "there is no counter {name}");
        self.stats["node"][name].as_u64().unwrap_or(0)
    }

    /// A figure of the process.
    pub(super) fn process(&self, name: &str) -> u64 {
        self.stats["process"][name].as_u64().unwrap_or(0)
    }

    /// Seconds since an earlier sample.
    pub(super) fn since(&self, before: &Figures) -> f64 {
        (self.at - before.at).as_secs_f64().max(0.001)
    }
}

/// By how much a total has grown per second.
pub(super) fn rate(now: u64, before: u64, seconds: f64) -> f64 {
    now.saturating_sub(before) as f64 / seconds
}

/// A quantile of the values that were counted between two samples, over all shards: the upper bound of its bucket. `None`
/// if none were counted.
pub(super) fn quantile(now: &[Value], before: &[Value], measure: &str, part: f64) -> Option<u64> {
    let counts = |shards: &[Value]| -> Vec<u64> {
        let mut sums = Vec::new();
        for shard in shards {
            let list = shard["measures"][measure]["counts"].as_array().into_iter().flatten();
            for (bucket, count) in list.enumerate() {
                if sums.len() <= bucket {
                    sums.push(0);
                }
                sums[bucket] += count.as_u64().unwrap_or(0);
            }
        }
        sums
    };
    let (now_counts, before_counts) = (counts(now), counts(before));
    let fresh: Vec<u64> =
        now_counts.iter().zip(&before_counts).map(|(now, before)| now.saturating_sub(*before)).collect();
    let all: u64 = fresh.iter().sum();
    let first = now.first()?["measures"][measure]["first"].as_u64()?;
    let mut seen = 0;
    fresh
        .iter()
        .position(|count| {
            seen += count;
            seen > 0 && seen as f64 >= part * all as f64
        })
        .map(|bucket| first << bucket)
}

/// A count that fits into a column.
pub(super) fn short(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.2} G", value / 1e9),
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// Bytes that fit into a column.
pub(super) fn bytes(value: u64) -> String {
    match value {
        value if value >= 1 << 30 => format!("{:.2} GiB", value as f64 / f64::from(1 << 30)),
        value if value >= 1 << 20 => format!("{:.1} MiB", value as f64 / f64::from(1 << 20)),
        value if value >= 1 << 10 => format!("{:.1} KiB", value as f64 / f64::from(1 << 10)),
        value => format!("{value} B"),
    }
}

/// A duration that fits into a column.
pub(super) fn time(ms: u64) -> String {
    match ms / 1000 {
        seconds if seconds >= 86_400 => format!("{} d", seconds / 86_400),
        seconds if seconds >= 3600 => format!("{} h", seconds / 3600),
        seconds if seconds >= 60 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantiles_are_of_what_is_new() {
        let shard =
            |counts: [u64; 4]| json!({ "measures": { "delivery_latency_ms": { "first": 1, "counts": counts } } });
        let (before, now) = ([shard([100, 0, 0, 0])], [shard([100, 98, 1, 1])]);
        assert_eq!(quantile(&now, &before, "delivery_latency_ms", 0.5), Some(2));
        assert_eq!(quantile(&now, &before, "delivery_latency_ms", 0.99), Some(4));
        assert_eq!(quantile(&now, &before, "delivery_latency_ms", 1.0), Some(8));
        assert_eq!(quantile(&before, &before, "delivery_latency_ms", 0.5), None);
        assert_eq!(quantile(&[], &[], "delivery_latency_ms", 0.5), None);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [short(0.0), short(9.25), short(1234.0), short(12_345.0), short(3.2e6)],
            ["0", "9.2", "1234", "12.3 k", "3.20 M"]
        );
        assert_eq!([bytes(5), bytes(2048), bytes(5 << 20)], ["5 B", "2.0 KiB", "5.0 MiB"]);
        assert_eq!([time(999), time(61_000), time(7_200_000)], ["0 s", "1 min", "2 h"]);
    }
}
