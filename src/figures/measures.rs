//! Distributions: how long, how far, how many. Recording a value is one addition: the bounds of buckets double, so the
//! bucket of a value follows from the number of its bits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of one distribution; the last one has no upper bound.
pub const BUCKETS: usize = 18;

/// The quantities that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Measure {
    /// How late a send was: from the id of its oldest event to the send, in milliseconds.
    Delivery,
    /// How far a client whose socket was full was behind when its channel was walked, in bytes.
    Lag,
    /// How long one turn of the shard took, in microseconds.
    Turn,
    /// How many sends one pass over a channel's readers made.
    Pass,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Measure; 4] = [Measure::Delivery, Measure::Lag, Measure::Turn, Measure::Pass];

    /// The name in figures, with the unit at its end.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Delivery => "delivery_latency_ms",
            Measure::Lag => "lag_bytes",
            Measure::Turn => "turn_us",
            Measure::Pass => "pass_sends",
        }
    }

    /// What is measured, as a sentence.
    pub fn about(self) -> &'static str {
        match self {
            Measure::Delivery => "Time from the id of a send's oldest event to the send.",
            Measure::Lag => "Bytes by which a client whose socket was full was behind when its channel was walked.",
            Measure::Turn => "Time that one turn of the shard took.",
            Measure::Pass => "Sends in one pass over a channel's readers.",
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

    /// The upper bound of a bucket, which belongs to the bucket; `None` for the last one.
    pub fn bound(self, bucket: usize) -> Option<u64> {
        (bucket + 1 < BUCKETS).then(|| 1 << (self.shift() + bucket as u32))
    }

    /// The bucket that a value belongs to.
    fn bucket(self, value: u64) -> usize {
        let above = value.saturating_sub(1) >> self.shift();
        ((u64::BITS - above.leading_zeros()) as usize).min(BUCKETS - 1)
    }
}

/// One distribution: how many values fell into each bucket, and the sum of all values.
#[derive(Clone, Debug, Default)]
struct Distribution<T> {
    counts: [T; BUCKETS],
    sum: T,
}

/// A shard's distributions since the start, as the shard itself counts.
#[derive(Clone, Debug, Default)]
pub struct Measures([Distribution<u64>; Measure::ALL.len()]);

impl Measures {
    /// Counts a value.
    pub fn record(&mut self, measure: Measure, value: u64) {
        let distribution = &mut self.0[measure as usize];
        distribution.counts[measure.bucket(value)] += 1;
        distribution.sum += value;
    }

    /// Copies the present state to where other threads read it.
    pub fn publish(&self, to: &SharedMeasures) {
        for (own, shared) in self.0.iter().zip(&to.0) {
            for (own, shared) in own.counts.iter().zip(&shared.counts) {
                shared.store(*own, Ordering::Relaxed);
            }
            shared.sum.store(own.sum, Ordering::Relaxed);
        }
    }
}

/// A shard's distributions for other threads to read.
#[derive(Debug, Default)]
pub struct SharedMeasures([Distribution<AtomicU64>; Measure::ALL.len()]);

impl SharedMeasures {
    /// How many values fell into each bucket, and the sum of all values.
    pub fn get(&self, measure: Measure) -> ([u64; BUCKETS], u64) {
        let distribution = &self.0[measure as usize];
        let counts = std::array::from_fn(|bucket| distribution.counts[bucket].load(Ordering::Relaxed));
        (counts, distribution.sum.load(Ordering::Relaxed))
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
    fn recorded_values_are_published() {
        let mut measures = Measures::default();
        for value in [0, 1, 2, 3, 1000] {
            measures.record(Measure::Delivery, value);
        }
        let shared = SharedMeasures::default();
        measures.publish(&shared);
        let (counts, sum) = shared.get(Measure::Delivery);
        assert_eq!((&counts[..4], counts[10], sum), (&[2, 1, 1, 0][..], 1, 1006));
        assert_eq!(shared.get(Measure::Lag), ([0; BUCKETS], 0));
    }
}
