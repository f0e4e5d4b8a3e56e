//! `[[queues]]`: queues whose jobs the plugin handles, and defaults for what producers left out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Manifest, ManifestError, invalid};
use crate::data_path::DataPath;
use crate::id::QueueName;
use crate::job::MAX_PRIORITY;
use crate::retry::{Backoff, BackoffKind};

/// Each searchable path costs a row per attempt.
const MAX_SEARCHABLE: usize = 8;
/// With more paths than this, nothing of the data would be shown.
const MAX_REDACTED: usize = 64;

/// A queue whose jobs the plugin handles. Its values are defaults for what producers left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSpec {
    /// The queue's name.
    pub name: QueueName,
    /// Concurrent jobs, per process; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Places of the host-wide job limit for this queue alone; default 0, at most `concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<u32>,
    /// Attempts in all; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Delays between attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<BackoffSpec>,
    /// Most jobs per time, spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateSpec>,
    /// How long BullMQ keeps finished jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
    /// Paths of job data by which the history finds jobs. It keeps a keyed hash of each value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searchable: Vec<DataPath>,
    /// Paths of job data and results whose values the history keeps, but never shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<DataPath>,
    /// Its jobs. Once there is one, operators add jobs of other names only by force; jobs of plugins
    /// and of BullMQ's clients are not checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobSpec>,
}

/// A kind of job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The job's name.
    pub name: String,
    /// One line.
    #[serde(default)]
    pub description: String,
    /// Priority of jobs whose producer set none: 1 (first) to 2097152 (last). Jobs without a
    /// priority come before all that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// A job fails as `expired` if it has not started this long after it could have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_ms: Option<u64>,
    /// JSON Schema of its data: a path in plugin.toml, the document itself when packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// Backoff as the manifest writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackoffSpec {
    /// `fixed` or `exponential`.
    #[serde(rename = "type")]
    pub kind: BackoffKind,
    /// The first delay.
    pub delay_ms: u64,
    /// Longest delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<u64>,
    /// Random share of the delay, 0.0 to 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
}

impl From<&BackoffSpec> for Backoff {
    fn from(spec: &BackoffSpec) -> Self {
        Self {
            kind: spec.kind,
            delay: Duration::from_millis(spec.delay_ms),
            max: spec.max_ms.map(Duration::from_millis),
            jitter: spec.jitter,
        }
    }
}

/// A rate limit: at most `max` jobs in `per_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateSpec {
    /// Most jobs in `per_ms`.
    pub max: u64,
    /// Length of the time window.
    pub per_ms: u64,
}

/// How long finished jobs stay in Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionSpec {
    /// Completed jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<KeepSpec>,
    /// Failed jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<KeepSpec>,
}

/// Limits for finished jobs. The one that is reached first applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepSpec {
    /// Longest age, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    /// Most jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Manifest {
    pub(super) fn check_queues(&self) -> Result<(), ManifestError> {
        let mut names = BTreeSet::new();
        for (i, queue) in self.queues.iter().enumerate() {
            let key = |field: &str| format!("queues[{i}].{field}");
            if !names.insert(&queue.name) {
                return Err(invalid(
                    key("name"),
                    format!("{} is named twice", queue.name),
                ));
            }
            if queue.concurrency == Some(0) {
                return Err(invalid(key("concurrency"), "must be at least 1"));
            }
            if let (Some(most), Some(wanted)) = (self.limits.max_concurrency, queue.concurrency)
                && wanted > most
            {
                return Err(invalid(
                    key("concurrency"),
                    format!("{wanted} is more than limits.max_concurrency = {most}"),
                ));
            }
            let concurrency = queue.concurrency.unwrap_or(1);
            if let Some(reserved) = queue.reserved.filter(|&reserved| reserved > concurrency) {
                return Err(invalid(
                    key("reserved"),
                    format!("{reserved} is more than concurrency = {concurrency}"),
                ));
            }
            if queue.attempts == Some(0) {
                return Err(invalid(key("attempts"), "must be at least 1"));
            }
            if let Some(backoff) = &queue.backoff {
                if backoff.jitter.is_some_and(|j| !(0.0..=1.0).contains(&j)) {
                    return Err(invalid(
                        key("backoff.jitter"),
                        "must be between 0.0 and 1.0",
                    ));
                }
                if backoff.max_ms.is_some_and(|max| max < backoff.delay_ms) {
                    return Err(invalid(key("backoff.max_ms"), "must be at least delay_ms"));
                }
            }
            if queue
                .rate
                .as_ref()
                .is_some_and(|rate| rate.max == 0 || rate.per_ms == 0)
            {
                return Err(invalid(key("rate"), "max and per_ms must be at least 1"));
            }
            for (field, paths, most) in [
                ("searchable", &queue.searchable, MAX_SEARCHABLE),
                ("redact", &queue.redact, MAX_REDACTED),
            ] {
                if paths.len() > most {
                    return Err(invalid(
                        key(field),
                        format!("must have at most {most} paths"),
                    ));
                }
                let mut seen = BTreeSet::new();
                if let Some(twice) = paths.iter().find(|path| !seen.insert(*path)) {
                    return Err(invalid(key(field), format!("{twice} is named twice")));
                }
            }
            for (j, job) in queue.jobs.iter().enumerate() {
                if job
                    .priority
                    .is_some_and(|priority| !(1..=MAX_PRIORITY).contains(&priority))
                {
                    return Err(invalid(
                        key(&format!("jobs[{j}].priority")),
                        format!("must be from 1 to {MAX_PRIORITY}"),
                    ));
                }
                if job.expires_after_ms == Some(0) {
                    return Err(invalid(
                        key(&format!("jobs[{j}].expires_after_ms")),
                        "must be at least 1",
                    ));
                }
            }
            let mut jobs = BTreeSet::new();
            if let Some(twice) = queue.jobs.iter().find(|job| !jobs.insert(&job.name)) {
                return Err(invalid(
                    key("jobs"),
                    format!("{} is named twice", twice.name),
                ));
            }
        }
        Ok(())
    }
}
