//! Queues in Redis, as operators see them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::QueueName;

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueOverview {
    /// Its name.
    #[schema(value_type = String)]
    pub name: QueueName,
    /// Jobs per state.
    pub counts: QueueCounts,
    /// Age of the job that has waited longest, in milliseconds.
    pub oldest_waiting_ms: Option<u64>,
    /// When the next delayed job is due, Unix milliseconds.
    pub next_delayed_at: Option<u64>,
    /// Limit of concurrent jobs over all workers; absent when there is none.
    pub concurrency: Option<u64>,
    /// Rate limit over all workers, as jobs and milliseconds; absent when there is none.
    #[schema(value_type = Option<Vec<u64>>)]
    pub rate: Option<(u64, u64)>,
    /// How long a reached rate limit still applies, in milliseconds.
    pub rate_limited_ms: Option<u64>,
    /// Jobs that a BullMQ 5 producer moved aside while the queue was paused.
    pub put_aside: u64,
    /// Who paused the queue. Absent where it is not paused, where this is not recorded (another
    /// BullMQ client did it), and while Postgres cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_by: Option<PausedBy>,
    /// What could not be read of the queue, and why; it is not counted above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who paused a queue, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PausedBy {
    /// The operator.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Jobs per state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueCounts {
    pub waiting: u64,
    /// Waiting jobs that a bulk operation has removed, until a worker drops them. They are not
    /// among `waiting`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removed: u64,
    pub prioritized: u64,
    pub delayed: u64,
    pub active: u64,
    #[serde(rename = "waitingChildren")]
    pub waiting_children: u64,
    pub completed: u64,
    pub failed: u64,
    /// Paused by an operator, for every worker everywhere.
    pub paused: bool,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl QueueCounts {
    /// Jobs in all states. Those that a bulk operation has removed are not counted.
    pub fn total(&self) -> u64 {
        self.waiting
            + self.prioritized
            + self.delayed
            + self.active
            + self.waiting_children
            + self.completed
            + self.failed
    }
}

/// A legacy repeatable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LegacyRepeatable {
    /// Its key in the `repeat` set.
    pub key: String,
    /// Name of its jobs.
    pub name: String,
    /// The id that its producer gave it.
    pub id: Option<String>,
    /// Milliseconds between ticks.
    pub every_ms: Option<u64>,
    /// A cron expression, instead of an interval.
    pub pattern: Option<String>,
    /// Time zone of the cron expression.
    pub zone: Option<String>,
    /// When it ends, Unix milliseconds.
    pub ends_at: Option<u64>,
    /// Data of its next job, if it has one.
    pub data: Option<String>,
    /// Its delayed jobs.
    pub jobs: Vec<String>,
    /// Number of ticks after which it ends.
    pub limit: Option<u64>,
    /// It is not a repeatable but a job scheduler whose id looks like one.
    pub is_scheduler: bool,
}

/// A scheduler in Redis, made by any client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerView {
    /// Its id, or the key of a legacy repeatable.
    pub id: String,
    /// The next tick, Unix milliseconds.
    pub next_at: u64,
    /// Name of its jobs.
    pub name: Option<String>,
    /// Their data.
    pub data: Option<String>,
    /// Milliseconds between ticks.
    pub every_ms: Option<u64>,
    /// A cron expression, instead of an interval.
    pub pattern: Option<String>,
    /// Time zone of the cron expression.
    pub zone: Option<String>,
    /// Offset of the ticks from each full interval, in milliseconds.
    pub offset_ms: Option<u64>,
    /// Whether its next tick will come: the job for it exists and has not ended.
    pub alive: bool,
    /// Made with `repeat` options, as before BullMQ had schedulers.
    pub legacy: bool,
    /// Why no tick comes, or none after the next one, although it has not ended.
    pub trouble: Option<String>,
    /// Whether its jobs carry Patchbay's option to leave out ticks that were missed. Not part of
    /// the API: a schedule shows it as `missed`.
    #[serde(skip)]
    pub skip_missed: bool,
}
