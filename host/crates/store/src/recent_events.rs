//! Recent failures and actions, for the incident bundle: without jobs' ids, names and data.

use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

use crate::{Store, StoreError};

/// An attempt that did not complete its job.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct FailureRow {
    pub queue: String,
    pub plugin: Option<String>,
    pub revision: Option<String>,
    pub host: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub attempt: i32,
    pub outcome: String,
    pub verdict: String,
    pub code: Option<String>,
    pub message: Option<String>,
}

/// An operator's action without its details.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct RecentAction {
    pub actor: String,
    pub action: String,
    pub target: String,
    pub began_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
}

impl Store {
    /// Newest first. `prefix` is BullMQ's key prefix.
    pub async fn recent_failures(
        &self,
        prefix: &str,
        within: Duration,
        most: i64,
    ) -> Result<Vec<FailureRow>, StoreError> {
        let query = sqlx::query_as(
            "select queue, plugin, revision, host, started_at, finished_at, attempt, outcome, verdict, code, message from attempts \
             where prefix = $1 and finished_at > now() - make_interval(secs => $2) and outcome <> 'completed' \
             order by finished_at desc limit $3",
        );
        Ok(query
            .bind(prefix)
            .bind(within.as_secs_f64())
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Newest first.
    pub async fn recent_actions(
        &self,
        within: Duration,
        most: i64,
    ) -> Result<Vec<RecentAction>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, target, began_at, ended_at, error from operator_actions \
             where began_at > now() - make_interval(secs => $1) order by id desc limit $2",
        );
        Ok(query
            .bind(within.as_secs_f64())
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }
}
