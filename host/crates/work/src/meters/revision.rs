//! The counters of one revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use patchbay_capability::OutsideMeters;
use patchbay_model::RevisionDigest;
use patchbay_model::outcome::OutcomeKind;
use patchbay_runtime::{CallReport, Occupancy, Revision};
use patchbay_telemetry::metrics::histogram::Histogram;

#[derive(Debug)]
pub struct RevisionMeters {
    pub plugin: String,
    pub digest: RevisionDigest,
    /// The beginning of its digest.
    pub revision: String,
    pub version: String,
    pub outcomes: [AtomicU64; OutcomeKind::ALL.len()],
    pub duration: Histogram,
    pub cpu_ns: AtomicU64,
    pub peak_memory: Histogram,
    pub occupancy: Arc<Occupancy>,
    pub outside: Arc<OutsideMeters>,
    /// Number of calls that will still be counted here.
    open: AtomicUsize,
}

impl RevisionMeters {
    pub fn new(revision: &Revision) -> Self {
        let manifest = revision.manifest();
        Self {
            plugin: revision.plugin().to_string(),
            digest: revision.digest(),
            revision: revision.digest().short(),
            version: manifest.version.to_string(),
            outcomes: Default::default(),
            duration: Histogram::of_seconds(),
            cpu_ns: AtomicU64::new(0),
            peak_memory: Histogram::of_memory(),
            occupancy: Arc::default(),
            outside: Arc::new(OutsideMeters::new(manifest)),
            open: AtomicUsize::new(0),
        }
    }

    pub fn count(&self, report: &CallReport) {
        self.outcomes[report.outcome.kind() as usize].fetch_add(1, Ordering::Relaxed);
        self.duration.observe_time(report.duration);
        self.cpu_ns.fetch_add(
            u64::try_from(report.cpu.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        // A call without an instance has used no memory.
        if report.peak_memory_bytes > 0 {
            self.peak_memory.observe(report.peak_memory_bytes);
        }
    }

    pub fn occupancy(&self) -> Arc<Occupancy> {
        Arc::clone(&self.occupancy)
    }

    pub fn open(&self) -> &AtomicUsize {
        &self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_stand_where_their_index_says() {
        assert!(
            OutcomeKind::ALL
                .iter()
                .enumerate()
                .all(|(place, outcome)| *outcome as usize == place)
        );
    }
}
