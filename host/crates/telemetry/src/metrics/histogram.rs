//! A histogram of atomics. The library's own takes a lock per observation, which guests' threads
//! must not share with a scrape.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// From a call that does almost nothing to the longest time that clients of an API usually wait.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// From a queue without delays to one that stood still for a day.
const WAITS: &[f64] = &[
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
];

const MIB: f64 = 1_048_576.0;
/// From a small guest in Rust (about 1 MiB) to the host's default ceiling (512 MiB), and one more.
const MEMORY: &[f64] = &[
    MIB,
    2.0 * MIB,
    4.0 * MIB,
    8.0 * MIB,
    16.0 * MIB,
    32.0 * MIB,
    64.0 * MIB,
    128.0 * MIB,
    256.0 * MIB,
    512.0 * MIB,
    1024.0 * MIB,
];

/// Counts per bucket, and the sum in whole units (nanoseconds, bytes): one instruction to add.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// Base units (seconds, bytes) in one whole unit.
    scale: f64,
    /// One more than `bounds`.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a scrape reads. The count is the sum of the buckets, so that the two never disagree.
#[derive(Debug, Clone)]
pub struct Reading {
    pub sum: f64,
    pub count: u64,
    /// Upper bound and observations of that bucket alone.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub fn of_seconds() -> Self {
        Self::new(SECONDS, 1e-9)
    }

    pub fn of_waits() -> Self {
        Self::new(WAITS, 1e-9)
    }

    pub fn of_memory() -> Self {
        Self::new(MEMORY, 1.0)
    }

    fn new(bounds: &'static [f64], scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            bounds,
            scale,
            counts,
            sum: AtomicU64::new(0),
        }
    }

    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn observe(&self, units: u64) {
        let value = units as f64 * self.scale;
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(units, Ordering::Relaxed);
    }

    pub fn read(&self) -> Reading {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .zip(
                self.counts
                    .iter()
                    .map(|count| count.load(Ordering::Relaxed)),
            )
            .collect();
        Reading {
            sum: self.sum.load(Ordering::Relaxed) as f64 * self.scale,
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_the_bucket_that_it_closes() {
        let histogram = Histogram::of_seconds();
        for time in [
            Duration::from_millis(1),
            Duration::from_micros(1_001),
            Duration::from_secs(61),
        ] {
            histogram.observe_time(time);
        }
        let reading = histogram.read();
        assert_eq!(
            (reading.buckets[0].1, reading.buckets[1].1, reading.count),
            (1, 1, 3)
        );
        assert_eq!(
            reading
                .buckets
                .last()
                .map(|(bound, count)| (bound.is_infinite(), *count)),
            Some((true, 1))
        );
        assert!((reading.sum - 61.002_001).abs() < 1e-9, "{}", reading.sum);
    }
}
