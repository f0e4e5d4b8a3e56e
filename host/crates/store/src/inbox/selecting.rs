//! Many requests at once: those of a filter, as they stood at one moment.

use chrono::{DateTime, Utc};
use patchbay_model::PluginName;
use patchbay_model::webhook::InboxState;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;

use super::judging::{InboxRequest, request};
use super::reading::{InboxFilter, state};
use crate::rows;
use crate::{Store, StoreError};

/// Which requests are meant.
#[derive(Debug, Clone)]
pub struct InboxSelection<'a> {
    /// Its `state` and `cursor` do not count.
    pub filter: &'a InboxFilter,
    /// Only these.
    pub ids: Option<&'a [Uuid]>,
    /// Only in one of these states.
    pub states: &'a [InboxState],
    /// Only up to this one.
    pub newest: Option<(DateTime<Utc>, Uuid)>,
    /// Only those that nobody has judged since then.
    pub unchanged_since: Option<DateTime<Utc>>,
    /// Only after this one.
    pub cursor: Option<(DateTime<Utc>, Uuid)>,
}

/// A request that is meant.
#[derive(Debug, Clone)]
pub struct SelectedRequest {
    pub id: Uuid,
    pub received_at: DateTime<Utc>,
    pub plugin: PluginName,
    pub webhook: String,
    pub state: InboxState,
    pub event_key: Option<Vec<u8>>,
    pub processing: i32,
    pub jobs: i32,
    /// Postgres's time of the question.
    pub asked_at: DateTime<Utc>,
}

impl Store {
    /// Requests, the oldest first.
    pub async fn inbox_selected(
        &self,
        selection: &InboxSelection<'_>,
        limit: i64,
    ) -> Result<Vec<SelectedRequest>, StoreError> {
        let filter = selection.filter;
        let (newest_at, newest_id) = selection.newest.unzip();
        let (cursor_at, cursor_id) = selection.cursor.unzip();
        let states: Vec<&str> = selection.states.iter().map(|of| of.as_str()).collect();
        let found = sqlx::query(
            "select id, received_at, plugin, webhook, state, event_key, processing, jobs, now() as asked_at from inbox \
             where state = any($1) and ($2::uuid[] is null or id = any($2)) \
               and ($3::text is null or plugin = $3) and ($4::text is null or webhook = $4) \
               and ($5::text is null or code = $5) and ($6::text is null or kind = $6) and ($7::text is null or source = $7) \
               and ($8::timestamptz is null or received_at >= $8) and ($9::timestamptz is null or received_at < $9) \
               and ($10::timestamptz is null or (received_at, id) <= ($10, $11::uuid)) \
               and ($12::timestamptz is null or verified_at is null or verified_at <= greatest($12, received_at)) \
               and ($13::timestamptz is null or (received_at, id) > ($13, $14::uuid)) \
             order by received_at, id limit $15",
        )
        .bind(states)
        .bind(selection.ids)
        .bind(&filter.plugin)
        .bind(&filter.webhook)
        .bind(&filter.code)
        .bind(&filter.kind)
        .bind(&filter.source)
        .bind(filter.after)
        .bind(filter.before)
        .bind(newest_at)
        .bind(newest_id)
        .bind(selection.unchanged_since)
        .bind(cursor_at)
        .bind(cursor_id)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let selected = |row: &PgRow| -> Result<SelectedRequest, StoreError> {
            Ok(SelectedRequest {
                id: row.try_get("id")?,
                received_at: row.try_get("received_at")?,
                plugin: rows::plugin(row)?,
                webhook: row.try_get("webhook")?,
                state: state(row)?,
                event_key: row.try_get("event_key")?,
                processing: row.try_get("processing")?,
                jobs: row.try_get("jobs")?,
                asked_at: row.try_get("asked_at")?,
            })
        };
        found.iter().map(selected).collect()
    }

    /// Requests that still have their content, the oldest first.
    pub async fn inbox_sealed(
        &self,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: i64,
    ) -> Result<Vec<InboxRequest>, StoreError> {
        let (after_at, after_id) = after.unzip();
        let found = sqlx::query(
            "select id, received_at, plugin, webhook, state, event_key, sealed, sealed_key, correlation_id, tries, processing \
             from inbox where sealed is not null and ($1::timestamptz is null or (received_at, id) > ($1, $2::uuid)) \
             order by received_at, id limit $3",
        )
        .bind(after_at)
        .bind(after_id)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        found.iter().map(request).collect()
    }

    /// How many of them come after this one.
    pub async fn inbox_sealed_after(
        &self,
        after: Option<(DateTime<Utc>, Uuid)>,
    ) -> Result<u64, StoreError> {
        let (after_at, after_id) = after.unzip();
        let count: i64 = sqlx::query_scalar(
            "select count(*) from inbox where sealed is not null and ($1::timestamptz is null or (received_at, id) > ($1, $2::uuid))",
        )
        .bind(after_at)
        .bind(after_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(count.unsigned_abs())
    }

    /// Which of these jobs have completed, as far as the history knows.
    pub async fn completed_jobs(
        &self,
        prefix: &str,
        queue: &str,
        ids: &[String],
    ) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query_scalar(
            "select distinct job_id from attempts where prefix = $1 and queue = $2 and job_id = any($3) and outcome = 'completed'",
        )
        .bind(prefix)
        .bind(queue)
        .bind(ids);
        Ok(query.fetch_all(&self.pool).await?)
    }
}
