//! Jobs as the host sees them, whoever produced them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{JobId, QueueName};
use crate::retry::Backoff;
use crate::trace_parent::{TraceParent, lenient};

/// State of a job. BullMQ keeps it as membership of a list or sorted set; these are those sets.
///
/// ```text
/// add ─▶ Waiting | Prioritized | Delayed | WaitingChildren
/// Delayed ─(time)─▶ Waiting ─(worker takes it)─▶ Active ─▶ Completed | Failed | Delayed (retry, defer) | Waiting (handed back)
/// Failed | Completed ─(operator's retry)─▶ Waiting
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// In `wait` (or, from a v5 producer on a paused queue, in `paused`).
    Waiting,
    /// In `prioritized`: waiting, ordered by priority.
    Prioritized,
    /// In `delayed` until it is due.
    Delayed,
    /// The parent of a flow whose children have not finished.
    WaitingChildren,
    /// A worker holds it and renews its lock.
    Active,
    Completed,
    /// Failed for good; nothing more happens unless an operator retries it.
    Failed,
    /// The hash exists but no list or set holds it: the trace of a bug, or of mixed v5 and v6
    /// pauses. Requests cannot ask for it.
    #[serde(skip_deserializing)]
    Unknown,
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Prioritized => "prioritized",
            Self::Delayed => "delayed",
            Self::WaitingChildren => "waiting-children",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

/// BullMQ's limit: it keeps priorities in the upper bits of a score.
pub const MAX_PRIORITY: u32 = 2_097_152;

/// A job to be added. Options that are absent get the values from the manifest of the queue's
/// owner. [`NewJob::new`] sets none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewJob {
    pub queue: QueueName,
    pub name: String,
    /// One JSON document.
    pub data: String,
    /// A job is not added again while a job with this id is known. Not a whole number, no `:`.
    pub id: Option<JobId>,
    /// The job starts no earlier than after this time.
    pub delay: Option<Duration>,
    /// 1 (first) to 2097152 (last); absent means before all prioritized jobs, as in BullMQ.
    pub priority: Option<u32>,
    pub attempts: Option<u32>,
    pub backoff: Option<Backoff>,
    /// Keeps only one job per key while it waits, or for a given time.
    pub deduplication: Option<Deduplication>,
    /// Puts the job in front of everything that waits without priority, instead of behind it.
    pub lifo: bool,
    /// Unix milliseconds. If the job is taken after this time, it fails for good as `expired`.
    pub expires_at_ms: Option<u64>,
    /// How long the job stays in Redis after it has completed.
    pub keep_completed: Option<Keep>,
    /// How long the job stays in Redis after it has failed.
    pub keep_failed: Option<Keep>,
    /// Passed on with the job through queue, guest and outside calls.
    pub trace: Trace,
}

impl NewJob {
    pub fn new(queue: QueueName, name: impl Into<String>, data: impl Into<String>) -> Self {
        Self {
            queue,
            name: name.into(),
            data: data.into(),
            id: None,
            delay: None,
            priority: None,
            attempts: None,
            backoff: None,
            deduplication: None,
            lifo: false,
            expires_at_ms: None,
            keep_completed: None,
            keep_failed: None,
            trace: Trace::default(),
        }
    }
}

/// How long finished jobs stay in Redis. The first limit that is reached applies; none keeps all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    pub age: Option<Duration>,
    /// 0 keeps none.
    pub count: Option<u64>,
}

/// One job per key, in BullMQ's modes: without `ttl`, while the first job is unfinished; with
/// `ttl`, throttled; with `extend` and `replace`, debounced.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Deduplication {
    /// For example `kpi`.
    pub key: String,
    /// Absent means while the first job is unfinished.
    pub ttl: Option<Duration>,
    /// Each repeat restarts `ttl`.
    pub extend: bool,
    /// While the first job is still delayed, the newest one replaces it.
    pub replace: bool,
    /// A repeat that comes while the first job runs is kept, and runs after it.
    pub keep_last_if_active: bool,
}

/// What links a job to the request that caused it. Kept in BullMQ's telemetry option (`opts.tm`) as
/// a carrier of W3C trace context, as `bullmq-otel` writes and reads it, with our own fields added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Trace {
    /// One id from the HTTP request to outside calls. Absent on jobs of other producers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The value of `x-platform` that the job was made under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub traceparent: Option<TraceParent>,
}

/// A job's name in the trail of operators' actions: `queue/id`. Slashes in the queue's name are
/// escaped, so that no two jobs have the same name.
pub fn trail_name(queue: &QueueName, id: &JobId) -> String {
    format!(
        "{}/{id}",
        queue.as_str().replace('%', "%25").replace('/', "%2F")
    )
}

/// Queue and id of a job that [`trail_name`] has named; `None` for another text.
pub fn in_trail(name: &str) -> Option<(String, &str)> {
    let (queue, id) = name.split_once('/')?;
    Some((queue.replace("%2F", "/").replace("%25", "%"), id))
}

/// Identity of one job over time. Includes its creation: ids restart at 1 after a flush of Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobKey {
    /// BullMQ's key prefix, usually `bull`.
    pub prefix: String,
    pub queue: QueueName,
    pub id: JobId,
    /// Time of creation, Unix milliseconds (BullMQ's `timestamp`).
    pub created_ms: u64,
}

impl JobKey {
    /// 64 hexadecimal digits: the same for all attempts of this job, different for every job with
    /// another time of creation.
    pub fn idempotency_key(&self) -> String {
        self.idempotency_key_of(None)
    }

    /// As [`Self::idempotency_key`], where the time of creation does not distinguish jobs of one
    /// id: `addition` marks one addition of the job.
    pub fn idempotency_key_of(&self, addition: Option<&str>) -> String {
        let mut hash = Sha256::new();
        // Lengths first, so that two different keys never concatenate to the same bytes.
        for part in [&self.prefix, self.queue.as_str(), self.id.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(self.created_ms.to_be_bytes());
        hash.update(addition.unwrap_or_default());
        hex::encode(hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, created_ms: u64) -> JobKey {
        JobKey {
            prefix: "bull".into(),
            queue: "emailQueue".parse().expect("valid"),
            id: id.parse().expect("valid"),
            created_ms,
        }
    }

    #[test]
    fn no_two_jobs_have_one_name_in_the_trail() {
        let name = |queue: &str, id: &str| {
            trail_name(&queue.parse().expect("a name"), &id.parse().expect("an id"))
        };
        assert_eq!(name("emailQueue", "7"), "emailQueue/7");
        assert_ne!(name("a/b", "c"), name("a", "b/c"));
        assert_ne!(name("a%2Fb", "c"), name("a/b", "c"));
        for (queue, id) in [("emailQueue", "7"), ("a/b", "c"), ("a%2Fb", "c/d")] {
            assert_eq!(in_trail(&name(queue, id)), Some((queue.to_owned(), id)));
        }
        assert_eq!(in_trail("emailQueue"), None);
    }

    #[test]
    fn an_id_used_again_after_a_flush_gets_another_idempotency_key() {
        assert_eq!(key("1", 5).idempotency_key(), key("1", 5).idempotency_key());
        assert_ne!(key("1", 5).idempotency_key(), key("1", 6).idempotency_key());
        assert_ne!(key("1", 5).idempotency_key(), key("2", 5).idempotency_key());
        assert_eq!(
            key("1", 5).idempotency_key(),
            key("1", 5).idempotency_key_of(None)
        );
        assert_ne!(
            key("1", 5).idempotency_key_of(Some("a")),
            key("1", 5).idempotency_key_of(Some("b"))
        );
    }
}
