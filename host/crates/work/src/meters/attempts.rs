//! Attempts by queue: their outcomes and verdicts, their durations, and how long jobs had waited
//! before.
//!
//! Counted by queue, not by revision, because what a queue's users notice outlives a deployment.
//! Names of queues come from manifests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use patchbay_model::QueueName;
use patchbay_model::attempt::{AttemptRecord, VerdictKind};
use patchbay_model::outcome::OutcomeKind;
use patchbay_telemetry::metrics::histogram::Histogram;

pub const VERDICTS: [VerdictKind; 4] = [
    VerdictKind::Complete,
    VerdictKind::Retry,
    VerdictKind::Defer,
    VerdictKind::Fail,
];

/// The attempts of every queue of this process since its start.
#[derive(Debug, Default)]
pub struct AttemptMeters {
    queues: RwLock<HashMap<QueueName, Arc<QueueMeters>>>,
}

#[derive(Debug)]
pub struct QueueMeters {
    pub outcomes: [AtomicU64; OutcomeKind::ALL.len()],
    pub verdicts: [AtomicU64; VERDICTS.len()],
    pub duration: Histogram,
    pub wait: Histogram,
}

impl AttemptMeters {
    /// Counts an attempt that has ended. `waited` is the time since its job could run, for a first
    /// attempt.
    pub fn count(&self, record: &AttemptRecord, waited: Option<Duration>) {
        let meters = self.of(&record.job.queue);
        meters.outcomes[record.outcome as usize].fetch_add(1, Ordering::Relaxed);
        meters.verdicts[record.verdict as usize].fetch_add(1, Ordering::Relaxed);
        meters.duration.observe_time(
            (record.finished_at - record.started_at)
                .to_std()
                .unwrap_or_default(),
        );
        if let Some(waited) = waited {
            meters.wait.observe_time(waited);
        }
    }

    pub fn of(&self, queue: &QueueName) -> Arc<QueueMeters> {
        if let Some(known) = self.queues.read().get(queue) {
            return Arc::clone(known);
        }
        let mut queues = self.queues.write();
        Arc::clone(
            queues
                .entry(queue.clone())
                .or_insert_with(|| Arc::new(QueueMeters::new())),
        )
    }

    /// Every queue that has had an attempt, in order.
    pub fn read(&self) -> Vec<(QueueName, Arc<QueueMeters>)> {
        let queues = self.queues.read();
        let mut all: Vec<_> = queues
            .iter()
            .map(|(name, meters)| (name.clone(), Arc::clone(meters)))
            .collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

impl QueueMeters {
    fn new() -> Self {
        Self {
            outcomes: Default::default(),
            verdicts: Default::default(),
            duration: Histogram::of_seconds(),
            wait: Histogram::of_waits(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_stand_where_their_index_says() {
        assert!(
            VERDICTS
                .iter()
                .enumerate()
                .all(|(place, verdict)| *verdict as usize == place)
        );
    }
}
