//! Jobs that run again because their worker was lost: how many this process has found, and when.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::QueueName;

/// Entries kept per queue. There are a few per minute at most.
const MAX_REMEMBERED: usize = 1_000;

/// Of this process, since its start.
#[derive(Debug, Default)]
pub struct Stalls(Mutex<BTreeMap<QueueName, VecDeque<(Instant, usize)>>>);

impl Stalls {
    pub(crate) fn note(&self, queue: &QueueName, jobs: usize) {
        let mut all = self.0.lock();
        let seen = all.entry(queue.clone()).or_default();
        seen.push_back((Instant::now(), jobs));
        if seen.len() > MAX_REMEMBERED {
            seen.pop_front();
        }
    }

    /// Stalled jobs per queue within the last `length`. Only queues that had any.
    pub fn within(&self, length: Duration) -> BTreeMap<QueueName, usize> {
        let mut all = self.0.lock();
        for seen in all.values_mut() {
            seen.retain(|(at, _)| at.elapsed() <= length);
        }
        all.retain(|_, seen| !seen.is_empty());
        all.iter()
            .map(|(queue, seen)| (queue.clone(), seen.iter().map(|(_, jobs)| jobs).sum()))
            .collect()
    }
}
