//! The inbox as operators see it, and what they change of it.

use chrono::{DateTime, Utc};
use patchbay_model::PluginName;
use patchbay_model::webhook::InboxState;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Row};

use super::EventKey;
use crate::rows::{self, damaged};
use crate::{Store, StoreError};

/// A kept request without its content.
#[derive(Debug, Clone)]
pub struct InboxRow {
    pub id: Uuid,
    pub received_at: DateTime<Utc>,
    pub plugin: PluginName,
    pub webhook: String,
    pub state: InboxState,
    pub code: Option<String>,
    pub message: Option<String>,
    pub kind: String,
    pub event_key: Option<Vec<u8>>,
    pub revision: Option<String>,
    pub verified_at: Option<DateTime<Utc>>,
    pub tries: i32,
    pub next_try_at: Option<DateTime<Utc>>,
    pub method: String,
    pub content_type: Option<String>,
    pub size: i32,
    pub source: Option<String>,
    pub host: String,
    pub correlation_id: String,
    pub via: String,
    pub jobs: i32,
    pub processing: i32,
    pub keep_until: DateTime<Utc>,
    pub erased_at: Option<DateTime<Utc>>,
}

/// Which requests to list.
#[derive(Debug, Clone, Default)]
pub struct InboxFilter {
    pub plugin: Option<String>,
    pub webhook: Option<String>,
    pub state: Option<InboxState>,
    pub code: Option<String>,
    pub kind: Option<String>,
    pub source: Option<String>,
    pub event_keys: Option<Vec<Vec<u8>>>,
    /// With all of these terms.
    pub terms: Vec<EventKey>,
    pub after: Option<DateTime<Utc>>,
    pub before: Option<DateTime<Utc>>,
    /// The last of the page before: later than the next.
    pub cursor: Option<(DateTime<Utc>, Uuid)>,
}

/// One more processing of a request.
#[derive(Debug, Clone)]
pub struct InboxReplayRow {
    pub number: i32,
    pub by: String,
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
    pub revision: Option<String>,
    pub outcome: String,
    pub jobs: i32,
    /// Jobs of the processing before it; absent in rows of versions before.
    pub jobs_before: Option<i32>,
}

/// A processing that begins.
#[derive(Debug, Clone)]
pub struct NewReplay<'a> {
    pub inbox_id: Uuid,
    /// Its number: one more than the last.
    pub number: i32,
    pub by: &'a str,
    pub reason: Option<&'a str>,
    pub revision: &'a str,
    pub jobs: i32,
    /// Sealed with the key that the row has.
    pub jobs_sealed: Option<Vec<u8>>,
}

/// Requests of a webhook, as they stand.
#[derive(Debug, Clone)]
pub struct InboxStanding {
    pub plugin: String,
    pub webhook: String,
    pub state: InboxState,
    /// Absent where it is not counted each time.
    pub rows: Option<i64>,
    pub oldest: Option<DateTime<Utc>>,
    pub newest: Option<DateTime<Utc>>,
}

/// Requests of a webhook in a time, by outcome and code.
#[derive(Debug, Clone)]
pub struct InboxCounted {
    pub plugin: String,
    pub webhook: String,
    pub outcome: String,
    pub code: String,
    pub count: i64,
}

fn listed(row: &PgRow) -> Result<InboxRow, StoreError> {
    Ok(InboxRow {
        id: row.try_get("id")?,
        received_at: row.try_get("received_at")?,
        plugin: rows::plugin(row)?,
        webhook: row.try_get("webhook")?,
        state: state(row)?,
        code: row.try_get("code")?,
        message: row.try_get("message")?,
        kind: row.try_get("kind")?,
        event_key: row.try_get("event_key")?,
        revision: row.try_get("revision")?,
        verified_at: row.try_get("verified_at")?,
        tries: row.try_get("tries")?,
        next_try_at: row.try_get("next_try_at")?,
        method: row.try_get("method")?,
        content_type: row.try_get("content_type")?,
        size: row.try_get("size")?,
        source: row.try_get("source")?,
        host: row.try_get("host")?,
        correlation_id: row.try_get("correlation_id")?,
        via: row.try_get("via")?,
        jobs: row.try_get("jobs")?,
        processing: row.try_get("processing")?,
        keep_until: row.try_get("keep_until")?,
        erased_at: row.try_get("erased_at")?,
    })
}

pub(super) fn state(row: &PgRow) -> Result<InboxState, StoreError> {
    row.try_get::<String, _>("state")?.parse().map_err(damaged)
}

impl Store {
    /// Requests, the newest first.
    pub async fn inbox(
        &self,
        filter: &InboxFilter,
        limit: i64,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let (cursor_at, cursor_id) = filter.cursor.unzip();
        // Each in words that its index is found by: few have a value.
        let of_terms = match filter.terms.is_empty() {
            true => "$13::bytea[] is not null",
            false => "terms @> $13::bytea[]",
        };
        // What waits for its jobs beside its row counts as accepted.
        let query = format!(
            "select id, received_at, plugin, webhook, \
               case when state = 'enqueued' and exists (select from inbox_jobs j where j.inbox_id = inbox.id) then 'accepted' \
                 else state end as state, \
               code, message, kind, event_key, revision, verified_at, tries, next_try_at, method, content_type, size, source, host, \
               correlation_id, via, jobs, processing, keep_until, erased_at \
             from inbox where ($1::text is null or plugin = $1) and ($2::text is null or webhook = $2) \
               and ($3::text is null or state = $3 or ($3 = 'accepted' and id = any(array(select inbox_id from inbox_jobs)))) \
               and ($3::text is null or $3 <> 'enqueued' or not exists (select from inbox_jobs j where j.inbox_id = inbox.id)) \
               and ($4::text is null or code = $4) and ($5::text is null or kind = $5) \
               and ($6::text is null or source = $6) and ($7::bytea[] is null or event_key = any($7)) \
               and ($8::timestamptz is null or received_at >= $8) and ($9::timestamptz is null or received_at < $9) \
               and ($10::timestamptz is null or (received_at, id) < ($10, $11::uuid)) and {of_terms} \
             order by received_at desc, id desc limit $12"
        );
        let terms: Vec<&[u8]> = filter.terms.iter().map(|term| &term[..]).collect();
        let found = sqlx::query(AssertSqlSafe(query))
            .bind(&filter.plugin)
            .bind(&filter.webhook)
            .bind(filter.state.map(InboxState::as_str))
            .bind(&filter.code)
            .bind(&filter.kind)
            .bind(&filter.source)
            .bind(&filter.event_keys)
            .bind(filter.after)
            .bind(filter.before)
            .bind(cursor_at)
            .bind(cursor_id)
            .bind(limit)
            .bind(terms)
            .fetch_all(&self.pool)
            .await?;
        found.iter().map(listed).collect()
    }

    /// One request without its content.
    pub async fn inbox_row(&self, id: Uuid) -> Result<Option<InboxRow>, StoreError> {
        let found = sqlx::query(
            "select id, received_at, plugin, webhook, \
               case when state = 'enqueued' and exists (select from inbox_jobs j where j.inbox_id = inbox.id) then 'accepted' \
                 else state end as state, \
               code, message, kind, event_key, revision, verified_at, tries, next_try_at, method, content_type, size, source, host, \
               correlation_id, via, jobs, processing, keep_until, erased_at \
             from inbox where id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        found.as_ref().map(listed).transpose()
    }

    /// How often the event of a request came again, and when last.
    pub async fn inbox_repeats(
        &self,
        event_key: &[u8],
    ) -> Result<Option<(Uuid, i64, Option<DateTime<Utc>>)>, StoreError> {
        let found = sqlx::query_as(
            "select inbox_id, repeats, last_repeat_at from inbox_events where event_key = $1",
        )
        .bind(event_key);
        Ok(found.fetch_optional(&self.pool).await?)
    }

    /// Further processings of a request, the newest first.
    pub async fn inbox_replays(&self, id: Uuid) -> Result<Vec<InboxReplayRow>, StoreError> {
        let found = sqlx::query(
            "select number, by, reason, at, revision, outcome, jobs, jobs_before from inbox_replays where inbox_id = $1 \
             order by number desc limit 100",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?;
        let replay = |row: &PgRow| -> Result<InboxReplayRow, StoreError> {
            Ok(InboxReplayRow {
                number: row.try_get("number")?,
                by: row.try_get("by")?,
                reason: row.try_get("reason")?,
                at: row.try_get("at")?,
                revision: row.try_get("revision")?,
                outcome: row.try_get("outcome")?,
                jobs: row.try_get("jobs")?,
                jobs_before: row.try_get("jobs_before")?,
            })
        };
        found.iter().map(replay).collect()
    }

    /// Makes a processed request accepted once more. False where somebody else has changed it.
    pub async fn begin_replay(&self, replay: &NewReplay<'_>) -> Result<bool, StoreError> {
        let begun = sqlx::query(
            "with before as (select jobs from inbox where id = $1), \
             changed as ( \
               update inbox set state = case when $3::bytea is null then 'recorded' else 'accepted' end, processing = $2, \
                 jobs_sealed = $3, jobs = $4, next_try_at = case when $3::bytea is null then null else now() + interval '5 s' end, \
                 tries = 0, revision = $5, verified_at = now() \
               where id = $1 and processing = $2 - 1 and state in ('enqueued', 'recorded') \
                 and not exists (select from inbox_jobs j where j.inbox_id = inbox.id) returning id) \
             insert into inbox_replays (id, inbox_id, number, by, reason, revision, outcome, jobs, jobs_before) \
             select $6, changed.id, $2, $7, $8, $5, 'accepted', $4, before.jobs from changed, before",
        )
        .bind(replay.inbox_id)
        .bind(replay.number)
        .bind(&replay.jobs_sealed)
        .bind(replay.jobs)
        .bind(replay.revision)
        .bind(Uuid::now_v7())
        .bind(replay.by)
        .bind(replay.reason)
        .execute(&self.pool)
        .await?;
        Ok(begun.rows_affected() > 0)
    }

    /// Removes the content of a request; its event stays known. The state that it had; `None` where
    /// there is no such request. One that is accepted keeps its content: its jobs are being added.
    pub async fn erase_from_inbox(&self, id: Uuid) -> Result<Option<InboxState>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let found = sqlx::query(
            "select case when state = 'enqueued' and exists (select from inbox_jobs j where j.inbox_id = inbox.id) then 'accepted' \
               else state end as state from inbox where id = $1 for update",
        )
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = found else {
            return Ok(None);
        };
        let state = state(&row)?;
        if !matches!(state, InboxState::Accepted | InboxState::Erased) {
            sqlx::query(
                "update inbox set state = 'erased', erased_at = now(), sealed = null, jobs_sealed = null, terms = null, code = null, \
                   message = null, kind = '', source = null, content_type = null, next_try_at = null where id = $1",
            )
            .bind(id)
            .execute(&mut *tx)
            .await?;
            sqlx::query("update inbox_replays set reason = null where inbox_id = $1")
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(Some(state))
    }

    /// How requests stand, by webhook and state. `rows` is absent where counting takes long: of those
    /// that nothing is left to do for. Takes a few steps in an index per webhook and state.
    pub async fn inbox_standing(&self) -> Result<Vec<InboxStanding>, StoreError> {
        let found = sqlx::query(
            "with recursive kinds as ( \
               (select plugin, webhook, state from inbox order by plugin, webhook, state limit 1) \
               union all \
               select next.* from kinds e, lateral ( \
                 select i.plugin, i.webhook, i.state from inbox i \
                 where (i.plugin, i.webhook, i.state) > (e.plugin, e.webhook, e.state) \
                 order by i.plugin, i.webhook, i.state limit 1) next) \
             select e.plugin, e.webhook, e.state, \
               (select i.received_at from inbox i where i.plugin = e.plugin and i.webhook = e.webhook and i.state = e.state \
                 order by i.received_at limit 1) as oldest, \
               (select i.received_at from inbox i where i.plugin = e.plugin and i.webhook = e.webhook and i.state = e.state \
                 order by i.received_at desc limit 1) as newest, \
               case when e.state in ('accepted', 'deferred', 'rejected') then \
                 (select count(*) from inbox i where i.plugin = e.plugin and i.webhook = e.webhook and i.state = e.state) \
               end as rows \
             from kinds e",
        )
        .fetch_all(&self.pool)
        .await?;
        let standing = |row: &PgRow| -> Result<InboxStanding, StoreError> {
            Ok(InboxStanding {
                plugin: row.try_get("plugin")?,
                webhook: row.try_get("webhook")?,
                state: state(row)?,
                rows: row.try_get("rows")?,
                oldest: row.try_get("oldest")?,
                newest: row.try_get("newest")?,
            })
        };
        found.iter().map(standing).collect()
    }

    /// How many requests are kept that nothing is left to do for, by plugin, webhook and state. Reads
    /// the whole of an index.
    pub async fn inbox_settled(
        &self,
    ) -> Result<Vec<(String, String, InboxState, i64)>, StoreError> {
        let found = sqlx::query(
            "select plugin, webhook, state, count(*) as rows from inbox \
             where state not in ('accepted', 'deferred', 'rejected') group by plugin, webhook, state",
        )
        .fetch_all(&self.pool)
        .await?;
        let counted = |row: &PgRow| -> Result<(String, String, InboxState, i64), StoreError> {
            Ok((
                row.try_get("plugin")?,
                row.try_get("webhook")?,
                state(row)?,
                row.try_get("rows")?,
            ))
        };
        found.iter().map(counted).collect()
    }

    /// How many requests came since then, by webhook, outcome and code.
    pub async fn inbox_counted(
        &self,
        since: DateTime<Utc>,
    ) -> Result<Vec<InboxCounted>, StoreError> {
        let found = sqlx::query(
            "select plugin, webhook, outcome, code, sum(count)::bigint as count from inbox_counts where hour >= $1 and plugin <> '' \
             group by plugin, webhook, outcome, code order by plugin, webhook, outcome, code",
        )
        .bind(since)
        .fetch_all(&self.pool)
        .await?;
        let counted = |row: &PgRow| -> Result<InboxCounted, StoreError> {
            Ok(InboxCounted {
                plugin: row.try_get("plugin")?,
                webhook: row.try_get("webhook")?,
                outcome: row.try_get("outcome")?,
                code: row.try_get("code")?,
                count: row.try_get("count")?,
            })
        };
        found.iter().map(counted).collect()
    }
}
