//! Requests that are judged again, and what is said of them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::PluginName;
use patchbay_model::QueueName;
use patchbay_model::webhook::InboxState;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;

use super::EventKey;
use crate::rows::{self, damaged};
use crate::{Store, StoreError};

/// A kept request with its sealed content.
#[derive(Debug, Clone)]
pub struct InboxRequest {
    pub id: Uuid,
    pub received_at: DateTime<Utc>,
    pub plugin: PluginName,
    pub webhook: String,
    pub state: InboxState,
    pub event_key: Option<EventKey>,
    /// Absent once it is erased.
    pub sealed: Option<Vec<u8>>,
    pub sealed_key: String,
    pub correlation_id: String,
    pub tries: i32,
    /// The number of its last processing; 0 is the first.
    pub processing: i32,
}

/// What is said of a request.
#[derive(Debug, Clone)]
pub enum Judgement {
    Accepted {
        event_key: EventKey,
        kind: String,
        revision: Option<String>,
        sealed: Vec<u8>,
        jobs_sealed: Option<Vec<u8>>,
        sealed_key: String,
        jobs: i32,
        keep_until: DateTime<Utc>,
        remember_until: DateTime<Utc>,
    },
    Rejected {
        code: String,
        message: String,
        revision: Option<String>,
    },
    /// It is judged again after the wait.
    Unjudged {
        code: String,
        message: String,
        wait: Duration,
        is_counted: bool,
    },
}

/// What a judgement has made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    State(InboxState),
    /// Somebody else has settled or erased it meanwhile: nothing was changed.
    Changed,
}

/// Deferred requests of one webhook from one source.
#[derive(Debug)]
pub struct DeferredCount {
    pub plugin: String,
    pub webhook: String,
    pub source: Option<String>,
    pub rows: i64,
    pub bytes: i64,
}

pub(super) fn request(row: &PgRow) -> Result<InboxRequest, StoreError> {
    let event_key: Option<Vec<u8>> = row.try_get("event_key")?;
    Ok(InboxRequest {
        id: row.try_get("id")?,
        received_at: row.try_get("received_at")?,
        plugin: rows::plugin(row)?,
        webhook: row.try_get("webhook")?,
        state: row
            .try_get::<String, _>("state")?
            .parse()
            .map_err(damaged)?,
        event_key: event_key
            .map(EventKey::try_from)
            .transpose()
            .map_err(|_| StoreError::Internal(sqlx::Error::ColumnNotFound("event_key".into())))?,
        sealed: row.try_get("sealed")?,
        sealed_key: row.try_get("sealed_key")?,
        correlation_id: row.try_get("correlation_id")?,
        tries: row.try_get("tries")?,
        processing: row.try_get("processing")?,
    })
}

impl Store {
    /// Deferred requests of these webhooks that are due: those that were tried least, one of each webhook and
    /// source before the second of any, so that a flood of one does not hold up the others. No other
    /// process takes them for the time of the lease.
    pub async fn take_deferred(
        &self,
        webhooks: &[(&str, &str)],
        limit: i64,
        lease: Duration,
    ) -> Result<Vec<InboxRequest>, StoreError> {
        let (plugins, names): (Vec<&str>, Vec<&str>) = webhooks.iter().copied().unzip();
        let found = sqlx::query(
            "update inbox set next_try_at = now() + make_interval(secs => $4) where id in ( \
               select inbox.id from inbox join ( \
                 select id, row_number() over (partition by plugin, webhook, source order by tries, received_at) as place \
                 from inbox where state = 'deferred' and next_try_at <= now() \
                   and (plugin, webhook) in (select * from unnest($1::text[], $2::text[])) \
               ) due using (id) where state = 'deferred' and next_try_at <= now() \
               order by tries, place, received_at limit $3 for update of inbox skip locked) \
             returning id, received_at, plugin, webhook, state, event_key, sealed, sealed_key, correlation_id, tries, processing",
        )
        .bind(plugins)
        .bind(names)
        .bind(limit)
        .bind(lease.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        found.iter().map(request).collect()
    }

    /// One request with its content.
    pub async fn inbox_request(&self, id: Uuid) -> Result<Option<InboxRequest>, StoreError> {
        let found = sqlx::query(
            "select id, received_at, plugin, webhook, \
               case when state = 'enqueued' and exists (select from inbox_jobs j where j.inbox_id = inbox.id) then 'accepted' \
                 else state end as state, \
               event_key, sealed, sealed_key, correlation_id, tries, processing \
             from inbox where id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        found.as_ref().map(request).transpose()
    }

    /// Writes down what is said of a deferred or rejected request.
    pub async fn settle(&self, id: Uuid, judgement: &Judgement) -> Result<Settled, StoreError> {
        let mut tx = self.pool.begin().await?;
        let state: Option<String> =
            sqlx::query_scalar("select state from inbox where id = $1 for update")
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?;
        let state: Option<InboxState> = state
            .map(|text| text.parse())
            .transpose()
            .map_err(damaged)?;
        if !matches!(state, Some(InboxState::Deferred | InboxState::Rejected)) {
            return Ok(Settled::Changed);
        }
        let settled = match judgement {
            Judgement::Accepted {
                event_key,
                kind,
                revision,
                sealed,
                jobs_sealed,
                sealed_key,
                jobs,
                keep_until,
                remember_until,
            } => {
                sqlx::query(
                    "insert into inbox_events (event_key, plugin, webhook, inbox_id, received_at, expires_at) \
                     select $2, plugin, webhook, id, received_at, $3 from inbox where id = $1 on conflict do nothing",
                )
                .bind(id)
                .bind(&event_key[..])
                .bind(remember_until)
                .execute(&mut *tx)
                .await?;
                let owner: Option<Uuid> =
                    sqlx::query_scalar("select inbox_id from inbox_events where event_key = $1")
                        .bind(&event_key[..])
                        .fetch_optional(&mut *tx)
                        .await?;
                let state = match (owner == Some(id), jobs_sealed) {
                    (false, _) => InboxState::Repeat,
                    (true, None) => InboxState::Recorded,
                    (true, Some(_)) => InboxState::Accepted,
                };
                let jobs_sealed = jobs_sealed
                    .as_deref()
                    .filter(|_| state == InboxState::Accepted);
                sqlx::query(
                    "update inbox set state = $2, code = null, message = null, kind = $3, event_key = $4, revision = $5, \
                       verified_at = now(), next_try_at = case when $2 = 'accepted' then now() + interval '5 s' end, tries = 0, \
                       sealed = $6, jobs_sealed = $7, sealed_key = $8, jobs = case when $2 = 'repeat' then 0 else $9 end, \
                       keep_until = greatest(keep_until, $10), remember_until = $11 where id = $1",
                )
                .bind(id)
                .bind(state.as_str())
                .bind(kind)
                .bind(&event_key[..])
                .bind(revision)
                .bind(sealed)
                .bind(jobs_sealed)
                .bind(sealed_key)
                .bind(jobs)
                .bind(keep_until)
                .bind(remember_until)
                .execute(&mut *tx)
                .await?;
                state
            }
            Judgement::Rejected {
                code,
                message,
                revision,
            } => {
                sqlx::query(
                    "update inbox set state = 'rejected', code = $2, message = $3, revision = $4, verified_at = now(), \
                       next_try_at = null where id = $1",
                )
                .bind(id)
                .bind(code)
                .bind(message)
                .bind(revision)
                .execute(&mut *tx)
                .await?;
                InboxState::Rejected
            }
            Judgement::Unjudged {
                code,
                message,
                wait,
                is_counted,
            } => {
                // One that was rejected stays rejected.
                sqlx::query(
                    "update inbox set code = $2, message = $3, next_try_at = now() + make_interval(secs => $4), \
                       tries = tries + case when $5 then 1 else 0 end where id = $1 and state = 'deferred'",
                )
                .bind(id)
                .bind(code)
                .bind(message)
                .bind(wait.as_secs_f64())
                .bind(is_counted)
                .execute(&mut *tx)
                .await?;
                state.unwrap_or(InboxState::Deferred)
            }
        };
        tx.commit().await?;
        Ok(Settled::State(settled))
    }

    /// How many requests wait to be judged.
    pub async fn deferred_counts(&self) -> Result<Vec<DeferredCount>, StoreError> {
        let found = sqlx::query(
            "select plugin, webhook, source, count(*) as rows, coalesce(sum(octet_length(sealed)), 0)::bigint as bytes \
             from inbox where state = 'deferred' group by plugin, webhook, source",
        )
        .fetch_all(&self.pool)
        .await?;
        let count = |row: &PgRow| -> Result<DeferredCount, StoreError> {
            Ok(DeferredCount {
                plugin: row.try_get("plugin")?,
                webhook: row.try_get("webhook")?,
                source: row.try_get("source")?,
                rows: row.try_get("rows")?,
                bytes: row.try_get("bytes")?,
            })
        };
        found.iter().map(count).collect()
    }

    /// Which of these jobs the history knows.
    pub async fn recorded_jobs(
        &self,
        prefix: &str,
        queue: &QueueName,
        ids: &[String],
    ) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query_scalar(
            "select distinct job_id from attempts where prefix = $1 and queue = $2 and job_id = any($3)",
        )
        .bind(prefix)
        .bind(queue.as_str())
        .bind(ids);
        Ok(query.fetch_all(&self.pool).await?)
    }
}
