//! Accepted requests whose jobs are not in the queue yet. One that was just accepted has a row in
//! `inbox_jobs` beside its own, which is enqueued already. Few become due there: those of processes
//! that ended, or while Redis is away. They go back to their own row, where all others are.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::PluginName;
use sqlx::types::Uuid;
use sqlx::{Postgres, Row, Transaction};

use crate::rows;
use crate::{Store, StoreError};

/// Rows per transaction of the sweep.
const BATCH: i64 = 100;

/// An accepted request, with its jobs still sealed.
#[derive(Debug)]
pub struct PendingJobs {
    pub id: Uuid,
    pub received_at: DateTime<Utc>,
    pub plugin: PluginName,
    pub webhook: String,
    /// Absent where there is nothing to add.
    pub jobs_sealed: Option<Vec<u8>>,
    pub sealed_key: String,
    pub correlation_id: String,
    pub tries: i32,
}

/// Rows that this process has locked. When the batch is dropped, they are free again.
pub struct InboxBatch {
    tx: Transaction<'static, Postgres>,
    pub rows: Vec<PendingJobs>,
}

impl Store {
    /// Notes that the jobs of these requests are in their queue.
    pub async fn inbox_enqueued(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        // The row itself is only written where the sweep had it, or an operator replayed it.
        sqlx::query(
            "with just as (delete from inbox_jobs where inbox_id = any($1)) \
             update inbox set state = 'enqueued', jobs_sealed = null, next_try_at = null \
             where id = any($1) and state = 'accepted'",
        )
        .bind(ids)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The oldest requests that were left accepted, and that no other process has locked; `None`
    /// when there are none.
    pub async fn take_accepted(&self) -> Result<Option<InboxBatch>, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "with due as (delete from inbox_jobs where inbox_id in ( \
               select inbox_id from inbox_jobs where due_at <= now() order by due_at limit $1 for update skip locked) \
               returning inbox_id, jobs_sealed) \
             update inbox set state = 'accepted', next_try_at = now(), jobs_sealed = due.jobs_sealed from due \
             where inbox.id = due.inbox_id and inbox.state = 'enqueued'",
        )
        .bind(BATCH)
        .execute(&mut *tx)
        .await?;
        let found = sqlx::query(
            "select id, received_at, plugin, webhook, jobs_sealed, sealed_key, correlation_id, tries from inbox \
             where state = 'accepted' and next_try_at <= now() order by next_try_at limit $1 for update skip locked",
        )
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await?;
        if found.is_empty() {
            tx.commit().await?;
            return Ok(None);
        }
        let mut pending = Vec::with_capacity(found.len());
        for row in found {
            pending.push(PendingJobs {
                id: row.try_get("id")?,
                received_at: row.try_get("received_at")?,
                plugin: rows::plugin(&row)?,
                webhook: row.try_get("webhook")?,
                jobs_sealed: row.try_get("jobs_sealed")?,
                sealed_key: row.try_get("sealed_key")?,
                correlation_id: row.try_get("correlation_id")?,
                tries: row.try_get("tries")?,
            });
        }
        Ok(Some(InboxBatch { tx, rows: pending }))
    }
}

impl InboxBatch {
    /// `added`: their jobs are in the queue. `later`: they are tried again after this time.
    pub async fn done(
        mut self,
        added: &[Uuid],
        later: &[(Uuid, Duration)],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update inbox set state = 'enqueued', jobs_sealed = null, next_try_at = null where id = any($1)",
        )
        .bind(added)
        .execute(&mut *self.tx)
        .await?;
        let (ids, waits): (Vec<Uuid>, Vec<f64>) = later
            .iter()
            .map(|(id, wait)| (*id, wait.as_secs_f64()))
            .unzip();
        sqlx::query(
            "update inbox set tries = tries + 1, next_try_at = now() + make_interval(secs => t.wait) \
             from unnest($1::uuid[], $2::float8[]) as t (id, wait) where inbox.id = t.id",
        )
        .bind(ids)
        .bind(waits)
        .execute(&mut *self.tx)
        .await?;
        Ok(self.tx.commit().await?)
    }
}
