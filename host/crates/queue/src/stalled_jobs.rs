//! Jobs that run again because their worker was lost: how many this process has found, and when.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use patchbay_model::QueueName;

/// Looks that are remembered per queue; there are a few a minute at most.
const MAX_REMEMBERED: usize = 1_000;

/// Of this process, since its start.
#[derive(Debug, Default)]
pub struct Stalls(Mutex<BTreeMap<QueueName, VecDeque<(Instant, usize)>>>);

impl Stalls {
    pub(crate) fn note(&self, queue: &QueueName, jobs: usize) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(queue.clone()).or_default();
        seen.push_back((Instant::now(), jobs));
        if seen.len() > MAX_REMEMBERED {
            seen.pop_front();
        }
    }

    /// Jobs per queue within so long; only queues that had any.
    pub fn within(&self, length: Duration) -> BTreeMap<QueueName, usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for seen in all.values_mut() {
            seen.retain(|(at, _)| at.elapsed() <= length);
        }
        all.retain(|_, seen| !seen.is_empty());
        all.iter().map(|(queue, seen)| (queue.clone(), seen.iter().map(|(_, jobs)| jobs).sum())).collect()
    }
}
