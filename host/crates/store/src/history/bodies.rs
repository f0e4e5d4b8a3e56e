//! Jobs' data and results, which are stored sealed.

use chrono::{DateTime, Utc};
use patchbay_model::{JobId, QueueName};
use sqlx::FromRow;

use crate::{FoundRow, SealedBody, Store, StoreError};

#[derive(Debug, Clone, FromRow)]
pub struct BodyRow {
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
    pub started: i32,
    pub finished_at: DateTime<Utc>,
    pub body: Vec<u8>,
    pub body_key: String,
}

impl BodyRow {
    pub fn sealed(self) -> SealedBody {
        SealedBody {
            key: self.body_key,
            bytes: self.body,
        }
    }
}

const COLUMNS: &str = "queue, job_id, job_created_ms, started, finished_at, body, body_key";

impl Store {
    /// The bodies of a job, newest first: several if its id was used again or it was retried later.
    pub async fn bodies(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
        most: i64,
    ) -> Result<Vec<BodyRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from attempts where prefix = $1 and queue = $2 and job_id = $3 and body is not null and body_key is not null \
             order by finished_at desc limit $4"
        )));
        Ok(query
            .bind(prefix)
            .bind(queue.as_str())
            .bind(job.as_str())
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// The bodies of these attempts; an attempt without one is left out.
    pub async fn bodies_of(
        &self,
        prefix: &str,
        attempts: &[FoundRow],
    ) -> Result<Vec<BodyRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from attempts join unnest($2::text[], $3::text[], $4::bigint[], $5::integer[], $6::timestamptz[]) \
             as wanted (queue, job_id, job_created_ms, started, finished_at) using (queue, job_id, job_created_ms, started, finished_at) \
             where prefix = $1 and body is not null and body_key is not null"
        )));
        let query = query
            .bind(prefix)
            .bind(
                attempts
                    .iter()
                    .map(|row| row.queue.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                attempts
                    .iter()
                    .map(|row| row.job_id.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                attempts
                    .iter()
                    .map(|row| row.job_created_ms)
                    .collect::<Vec<_>>(),
            )
            .bind(
                attempts
                    .iter()
                    .map(|row| row.attempt.started)
                    .collect::<Vec<_>>(),
            )
            .bind(
                attempts
                    .iter()
                    .map(|row| row.attempt.finished_at)
                    .collect::<Vec<_>>(),
            );
        Ok(query.fetch_all(&self.pool).await?)
    }
}
