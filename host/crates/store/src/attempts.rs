//! The history of attempts.

use chrono::{DateTime, Utc};
use patchbay_model::attempt::AttemptRecord;
use patchbay_model::{JobId, PluginName, QueueName, RevisionDigest};
use serde::Serialize;
use sqlx::{Postgres, QueryBuilder, Row};

use crate::revisions::damaged;
use crate::{Store, StoreError};

/// One remembered attempt.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
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
}

impl Store {
    /// Remembers attempts; those that are known already change nothing. Gives the number of new ones.
    pub async fn record_attempts(&self, records: &[AttemptRecord]) -> Result<u64, StoreError> {
        if records.is_empty() {
            return Ok(0);
        }
        let mut insert: QueryBuilder<Postgres> = QueryBuilder::new(
            "insert into attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, \
             host, started_at, finished_at, outcome, verdict, code, message, stack, correlation_id) ",
        );
        // Postgres refuses NUL in text, and no record may block the ones behind it.
        let clean = |text: &str| text.replace('\0', "\u{fffd}");
        insert.push_values(records, |mut row, record| {
            row.push_bind(record.job.prefix.clone())
                .push_bind(record.job.queue.to_string())
                .push_bind(record.job.id.to_string())
                .push_bind(record.job.created_ms as i64)
                .push_bind(record.started as i32)
                .push_bind(record.attempt as i32)
                .push_bind(clean(&record.name))
                .push_bind(record.plugin.as_ref().map(ToString::to_string))
                .push_bind(record.revision.map(|digest| digest.to_string()))
                .push_bind(clean(&record.host))
                .push_bind(record.started_at)
                .push_bind(record.finished_at)
                .push_bind(record.outcome.as_str())
                .push_bind(record.verdict.as_str())
                .push_bind(record.code.as_deref().map(clean))
                .push_bind(record.message.as_deref().map(clean))
                .push_bind(record.stack.as_deref().map(clean))
                .push_bind(clean(&record.correlation_id));
        });
        insert.push(" on conflict do nothing");
        Ok(insert.build().execute(&self.pool).await?.rows_affected())
    }

    /// The newest attempts of a job, oldest first.
    pub async fn attempts(&self, queue: &QueueName, job: &JobId, most: i64) -> Result<Vec<AttemptRow>, StoreError> {
        let query = sqlx::query_as(
            "select * from (select * from attempts where queue = $1 and job_id = $2 order by started_at desc limit $3) a \
             order by started_at",
        );
        Ok(query.bind(queue.as_str()).bind(job.as_str()).bind(most).fetch_all(&self.pool).await?)
    }

    /// How many attempts each revision of a plugin ran.
    pub async fn attempts_by_revision(&self, plugin: &PluginName) -> Result<Vec<(RevisionDigest, i64)>, StoreError> {
        let query = sqlx::query(
            "select revision, count(*) as n from attempts where plugin = $1 and revision is not null group by revision",
        );
        let rows = query.bind(plugin.as_str()).fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| Ok((row.try_get::<String, _>("revision")?.parse().map_err(damaged)?, row.try_get("n")?)))
            .collect()
    }
}
