//! Distributions: how long, how far, how many. Recording is one addition; buckets double, so that choosing one is
//! counting bits.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::logic::id::write_decimal;

/// Buckets of one distribution; the last one has no upper bound.
pub const BUCKETS: usize = 18;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Measure {
    /// From an event's id to the send that brought it to a client, in milliseconds: of each send the oldest event.
    Delivery,
    /// By how many bytes a client that the kernel had no room for was behind when its channel was walked.
    Lag,
    /// How long one round of the engine took, in microseconds.
    Turn,
    /// Sends planned in one pass over a channel's readers.
    Pass,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 4] = [Measure::Delivery, Measure::Lag, Measure::Turn, Measure::Pass];

    /// The name in figures, with the unit.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Delivery => "delivery_ms",
            Measure::Lag => "lag_bytes",
            Measure::Turn => "turn_us",
            Measure::Pass => "pass_sends",
        }
    }

    /// The upper bound of the first bucket is two to the power of this.
    const fn shift(self) -> u32 {
        match self {
            Measure::Delivery => 0,
            Measure::Lag => 8,
            Measure::Turn => 3,
            Measure::Pass => 0,
        }
    }

    /// The upper bound of a bucket, itself included; `None` for the last one.
    pub fn bound(self, bucket: usize) -> Option<u64> {
        (bucket + 1 < BUCKETS).then(|| 1 << (self.shift() + bucket as u32))
    }

    /// The bucket that a value belongs to.
    fn bucket(self, value: u64) -> usize {
        let above = value.saturating_sub(1) >> self.shift();
        ((u64::BITS - above.leading_zeros()) as usize).min(BUCKETS - 1)
    }
}

/// One distribution.
#[derive(Clone, Copy, Debug, Default)]
struct Distribution {
    counts: [u64; BUCKETS],
    sum: u64,
}

/// A shard's distributions, all since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Measures([Distribution; Measure::ALL.len()]);

impl Measures {
    /// Counts a value.
    pub(super) fn record(&mut self, measure: Measure, value: u64) {
        let distribution = &mut self.0[measure as usize];
        distribution.counts[measure.bucket(value)] += 1;
        distribution.sum += value;
    }

    /// Makes the present state readable for others.
    pub(super) fn publish(&self, to: &PublishedMeasures) {
        for (from, to) in self.0.iter().zip(&to.0) {
            for (from, to) in from.counts.iter().zip(&to.counts) {
                to.store(*from, Ordering::Relaxed);
            }
            to.sum.store(from.sum, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct PublishedDistribution {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// The same, for other threads to read.
#[derive(Debug, Default)]
pub struct PublishedMeasures([PublishedDistribution; Measure::ALL.len()]);

impl PublishedMeasures {
    /// How many values fell into each bucket, and the sum of all values.
    pub fn get(&self, measure: Measure) -> ([u64; BUCKETS], u64) {
        let distribution = &self.0[measure as usize];
        let counts = std::array::from_fn(|bucket| distribution.counts[bucket].load(Ordering::Relaxed));
        (counts, distribution.sum.load(Ordering::Relaxed))
    }

    /// Appends `{"delivery_ms":{"first":1,"counts":[…],"sum":…},…}`; `first` is the first bucket's upper bound,
    /// each further one's is twice the one before, and the last one has none.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        for (index, measure) in Measure::ALL.into_iter().enumerate() {
            let (counts, sum) = self.get(measure);
            out.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
            out.extend_from_slice(measure.name().as_bytes());
            out.extend_from_slice(b"\":{\"first\":");
            write_decimal(1 << measure.shift(), out);
            out.extend_from_slice(b",\"counts\":[");
            for (bucket, count) in counts.into_iter().enumerate() {
                if bucket > 0 {
                    out.push(b',');
                }
                write_decimal(count, out);
            }
            out.extend_from_slice(b"],\"sum\":");
            write_decimal(sum, out);
            out.push(b'}');
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_within_its_bucket() {
        for measure in Measure::ALL {
            for value in (0..3000).chain([1 << 20, (1 << 20) + 1, u64::MAX]) {
                let bucket = measure.bucket(value);
                assert!(measure.bound(bucket).is_none_or(|bound| value <= bound), "{measure:?} {value}");
                let below = bucket.checked_sub(1).and_then(|bucket| measure.bound(bucket));
                assert!(below.is_none_or(|bound| value > bound), "{measure:?} {value}");
            }
        }
    }

    #[test]
    fn what_is_recorded_can_be_read() {
        let mut measures = Measures::default();
        for value in [0, 1, 2, 3, 1000] {
            measures.record(Measure::Delivery, value);
        }
        let published = PublishedMeasures::default();
        measures.publish(&published);
        let (counts, sum) = published.get(Measure::Delivery);
        assert_eq!((&counts[..4], counts[10], sum), (&[2, 1, 1, 0][..], 1, 1006));
        let mut out = Vec::new();
        published.write_json(&mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["delivery_ms"]["counts"][0], 2);
        assert_eq!(value["lag_bytes"]["first"], 256);
    }
}
