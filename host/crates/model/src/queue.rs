//! Queues as they stand in Redis, as operators see them.

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
    /// Jobs at once over all workers, where that is limited.
    pub concurrency: Option<u64>,
    /// Jobs per milliseconds over all workers, where that is limited.
    #[schema(value_type = Option<Vec<u64>>)]
    pub rate: Option<(u64, u64)>,
    /// How long a reached rate limit still lasts, in milliseconds.
    pub rate_limited_ms: Option<u64>,
    /// Jobs that a BullMQ 5 producer has put aside while the queue was paused.
    pub put_aside: u64,
    /// What of it cannot be read, and why; that counts as nothing above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Jobs per state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueCounts {
    pub waiting: u64,
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

impl QueueCounts {
    /// Jobs in any state.
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
    /// As it stands in the `repeat` set.
    pub key: String,
    /// Name of its jobs.
    pub name: String,
    /// The id that its producer gave it.
    pub id: Option<String>,
    /// Milliseconds between ticks.
    pub every_ms: Option<u64>,
    /// Or a cron expression.
    pub pattern: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// When it ends, Unix milliseconds.
    pub ends_at: Option<u64>,
    /// Data of its next job, or of none.
    pub data: Option<String>,
    /// Its delayed jobs.
    pub jobs: Vec<String>,
    /// It ends after so many ticks.
    pub limit: Option<u64>,
    /// It only looks like one: it is a job scheduler that has such an id.
    pub is_scheduler: bool,
}

/// A scheduler in Redis, whoever put it there.
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
    /// Or a cron expression.
    pub pattern: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// Milliseconds after each full interval.
    pub offset_ms: Option<u64>,
    /// Whether its next tick will come: its job is there and has not ended.
    pub alive: bool,
    /// Made by `repeat` options before BullMQ had schedulers.
    pub legacy: bool,
    /// Why no tick comes, or none after the next, though it has not come to its end.
    pub trouble: Option<String>,
}
