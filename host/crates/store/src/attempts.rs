//! The history of attempts.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use patchbay_model::{JobId, PluginName, QueueName, RevisionDigest};
use sqlx::Row;

use crate::rows::damaged;
use crate::{Store, StoreError};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AttemptRow {
    pub started: i32,
    pub attempt: i32,
    pub name: String,
    pub plugin: Option<String>,
    pub revision: Option<String>,
    pub host: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub outcome: String,
    pub verdict: String,
    pub code: Option<String>,
    pub message: Option<String>,
    pub stack: Option<String>,
    pub correlation_id: String,
    pub source: String,
    pub platform: Option<String>,
    pub parent: Option<String>,
    pub calls: Option<serde_json::Value>,
    pub erased_at: Option<DateTime<Utc>>,
}

/// The columns of [`AttemptRow`].
pub(crate) const COLUMNS: &str = "started, attempt, name, plugin, revision, host, started_at, finished_at, outcome, verdict, code, message, \
    stack, correlation_id, source, platform, parent, calls, erased_at";

/// Postgres refuses NUL in texts.
pub(crate) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

impl Store {
    /// The newest attempts of a job, in the order oldest first. `prefix` is BullMQ's key prefix.
    pub async fn attempts(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
        most: i64,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select * from (select {COLUMNS} from attempts where prefix = $1 and queue = $2 and job_id = $3 \
             order by started_at desc limit $4) a order by started_at"
        )));
        let query = query
            .bind(prefix)
            .bind(queue.as_str())
            .bind(job.as_str())
            .bind(most);
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// How many attempts each revision of a plugin ran.
    pub async fn attempts_by_revision(
        &self,
        plugin: &PluginName,
    ) -> Result<Vec<(RevisionDigest, i64)>, StoreError> {
        let query =
            sqlx::query("select revision, attempts as n from revision_attempts where plugin = $1");
        let rows = query.bind(plugin.as_str()).fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| {
                Ok((
                    row.try_get::<String, _>("revision")?
                        .parse()
                        .map_err(damaged)?,
                    row.try_get("n")?,
                ))
            })
            .collect()
    }
}
