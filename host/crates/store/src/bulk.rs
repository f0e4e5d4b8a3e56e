//! Bulk operations: their filters, the jobs that were chosen, and the result for each job.
//!
//! Operators begin, pause and cancel them from any host; the leader works them off
//! ([`Leadership`]). Counts are updated in the same statement as the items that they count.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::attempts::without_nul;
use crate::{Leadership, Store, StoreError};

/// How long a removal or an edit can be undone.
const UNDO: &str = "interval '1 hour'";
/// The kinds of operations that can be undone.
const CAN_BE_UNDONE: &str = "kind in ('remove', 'edit-and-retry')";
/// How long items are kept, for questions about one job's result.
const ITEMS_STAY: &str = "interval '30 days'";

#[derive(Debug, Clone)]
pub struct NewBulk<'a> {
    pub id: i64,
    pub prefix: &'a str,
    pub kind: &'a str,
    pub source: &'a str,
    pub job_state: String,
    pub filter: Value,
    pub identity: Option<&'a str>,
    pub edits: Option<String>,
    pub actor: &'a str,
    pub reason: Option<&'a str>,
    pub stop_after: Option<i64>,
}

#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct BulkRow {
    pub id: i64,
    pub kind: String,
    pub source: String,
    pub job_state: String,
    pub filter: Value,
    /// For jobs that are added anew: `keep` or `new`.
    pub identity: Option<String>,
    #[serde(skip)]
    pub edits: Option<String>,
    pub actor: String,
    pub reason: Option<String>,
    pub state: String,
    #[serde(skip)]
    pub place: Option<Value>,
    /// The operation pauses once it has handled this many jobs.
    pub stop_after: Option<i64>,
    pub error: Option<String>,
    pub matched: i64,
    pub done: i64,
    pub skipped: i64,
    pub failed: i64,
    /// Jobs that were put back, or got their data back, when the operation was undone.
    pub restored: i64,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Only for a removal or an edit.
    pub undo_until: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "id, kind, source, job_state, filter, identity, edits, actor, reason, state, place, stop_after, error, matched, done, \
    skipped, failed, restored, created_at, ended_at, undo_until";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct BulkItem {
    pub n: i64,
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
    pub job_state: String,
    pub finished_on: Option<i64>,
    /// `pending`, `done`, `skipped` or `failed`; after an undo also `restored`, `lost` or
    /// `not-undone`.
    pub state: String,
    /// Why the job was skipped, failed or not undone.
    pub reason: Option<String>,
    /// The new id of a job that was added anew.
    pub new_id: Option<String>,
    pub score: Option<f64>,
}

/// An item that an undo left as it is has the state `skipped` and a time of undoing.
const ITEM_STATE: &str =
    "case when state = 'skipped' and undone_at is not null then 'not-undone' else state end";
const ITEM_COLUMNS: &str =
    "n, queue, job_id, job_created_ms, job_state, finished_on, reason, new_id, score";

#[derive(Debug, Clone, Serialize)]
pub struct NewBulkItem {
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
    pub job_state: String,
    pub finished_on: Option<i64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BulkOutcome {
    pub n: i64,
    /// `done`, `skipped` or `failed`; when undoing, `restored`, `lost`, `not-undone` or `failed`.
    pub state: String,
    pub reason: Option<String>,
    pub new_id: Option<String>,
    pub score: Option<f64>,
}

/// How many jobs have one state for one reason.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct BulkReason {
    /// `skipped`, `failed`, `lost` or `not-undone`.
    pub state: String,
    /// A text for people.
    pub reason: String,
    pub jobs: i64,
}

impl Store {
    /// Reserves the id of a new operation, for the audit trail.
    pub async fn next_bulk_id(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("select nextval('bulk_ids')")
            .fetch_one(&self.pool)
            .await?)
    }

    /// Creates an operation; the leader begins with it.
    pub async fn begin_bulk(&self, new: &NewBulk<'_>) -> Result<BulkRow, StoreError> {
        // Each new operation deletes one old operation. So their number does not grow, and deleting
        // a large one that takes too long delays nobody.
        let forget = format!(
            "delete from bulks where id = (select min(id) from bulks where ended_at < now() - {ITEMS_STAY})"
        );
        sqlx::query(sqlx::AssertSqlSafe(forget))
            .execute(&self.pool)
            .await
            .ok();
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "insert into bulks (id, prefix, kind, source, job_state, filter, identity, edits, actor, reason, stop_after) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning {COLUMNS}"
        )));
        let query = query
            .bind(new.id)
            .bind(new.prefix)
            .bind(new.kind)
            .bind(new.source)
            .bind(&new.job_state);
        let query = query
            .bind(&new.filter)
            .bind(new.identity)
            .bind(&new.edits)
            .bind(new.actor)
            .bind(new.reason);
        Ok(query.bind(new.stop_after).fetch_one(&self.pool).await?)
    }

    /// Newest first.
    pub async fn bulks(
        &self,
        prefix: &str,
        before: Option<i64>,
        most: i64,
    ) -> Result<Vec<BulkRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from bulks where prefix = $1 and ($2::bigint is null or id < $2) order by id desc limit $3"
        )));
        Ok(query
            .bind(prefix)
            .bind(before)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    pub async fn bulk(&self, prefix: &str, id: i64) -> Result<BulkRow, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from bulks where prefix = $1 and id = $2"
        )));
        let row = query
            .bind(prefix)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        row.ok_or_else(|| {
            StoreError::NotFound(format!(
                "There is no bulk operation {id}. See: patchbay bulk list"
            ))
        })
    }

    /// Why jobs were skipped, failed, lost or not undone; the most frequent reason first.
    pub async fn bulk_reasons(&self, id: i64) -> Result<Vec<BulkReason>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {ITEM_STATE} as state, coalesce(reason, '') as reason, count(*) as jobs from bulk_items \
             where bulk = $1 and state in ('skipped', 'failed', 'lost') group by 1, 2 order by 3 desc, 2 limit 20"
        )));
        Ok(query.bind(id).fetch_all(&self.pool).await?)
    }

    /// In the order in which they were chosen.
    pub async fn bulk_items(
        &self,
        id: i64,
        state: Option<&str>,
        behind: i64,
        most: i64,
    ) -> Result<Vec<BulkItem>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {ITEM_COLUMNS}, {ITEM_STATE} as state from bulk_items where bulk = $1 and ($2::text is null or {ITEM_STATE} = $2) \
             and n > $3 order by n limit $4"
        )));
        Ok(query
            .bind(id)
            .bind(state)
            .bind(behind)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Whether the leader has something to do.
    pub async fn has_active_bulks(&self, prefix: &str) -> Result<bool, StoreError> {
        let query = "select exists (select from bulks where prefix = $1 and state in ('matching', 'running', 'undoing'))";
        Ok(sqlx::query_scalar(query)
            .bind(prefix)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Stops an operation where it is. Changes that were made stay.
    pub async fn cancel_bulk(&self, prefix: &str, id: i64) -> Result<BulkRow, StoreError> {
        let undo = format!("case when {CAN_BE_UNDONE} then now() + {UNDO} end");
        let set =
            format!("state = 'cancelled', ended_at = now(), edits = null, undo_until = {undo}");
        self.change_bulk(
            prefix,
            id,
            &set,
            "state in ('matching', 'running', 'paused')",
            "it has ended already",
        )
        .await
    }

    /// Resumes a paused operation, to its end or for `more` jobs.
    pub async fn resume_bulk(
        &self,
        prefix: &str,
        id: i64,
        more: Option<i64>,
    ) -> Result<BulkRow, StoreError> {
        let stop = more.map_or("null".to_owned(), |more| format!("done + failed + {more}"));
        let set = format!("state = 'running', stop_after = {stop}");
        self.change_bulk(prefix, id, &set, "state = 'paused'", "it is not paused")
            .await
    }

    /// Begins to put back the jobs that a removal has removed, or the data that an edit has changed.
    pub async fn undo_bulk(&self, prefix: &str, id: i64) -> Result<BulkRow, StoreError> {
        let condition = format!(
            "{CAN_BE_UNDONE} and state in ('done', 'cancelled', 'failed') and undo_until > now()"
        );
        let rule = "only a removal or an edit that has ended, or was cancelled, within the last hour can be undone";
        self.change_bulk(
            prefix,
            id,
            "state = 'undoing', ended_at = null",
            &condition,
            rule,
        )
        .await
    }

    async fn change_bulk(
        &self,
        prefix: &str,
        id: i64,
        set: &str,
        condition: &str,
        rule: &str,
    ) -> Result<BulkRow, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "update bulks set {set} where prefix = $1 and id = $2 and {condition} returning {COLUMNS}"
        )));
        match query
            .bind(prefix)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?
        {
            Some(row) => Ok(row),
            None => {
                let state = self.bulk(prefix, id).await?.state;
                Err(StoreError::Conflict(format!(
                    "Bulk operation {id} is {state}: {rule}"
                )))
            }
        }
    }
}

/// The leader's statements. They use its own connection, so a former leader cannot write.
impl Leadership<'_> {
    /// Operations that have something to do.
    pub async fn active_bulks(&mut self, prefix: &str) -> Result<Vec<BulkRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from bulks where prefix = $1 and state in ('matching', 'running', 'undoing') order by id"
        )));
        Ok(query.bind(prefix).fetch_all(&mut *self.0).await?)
    }

    /// Adds chosen jobs; a job that was chosen before is added once. `next` is the cursor for
    /// choosing more, absent when choosing is done.
    pub async fn choose_bulk_items(
        &mut self,
        id: i64,
        items: &[NewBulkItem],
        next: Option<Value>,
    ) -> Result<(), StoreError> {
        let rows = serde_json::to_value(items)
            .map_err(|error| StoreError::Internal(sqlx::Error::Encode(error.into())))?;
        let query = sqlx::query(
            "with added as (insert into bulk_items (bulk, queue, job_id, job_created_ms, job_state, finished_on) \
             select $1, queue, job_id, job_created_ms, job_state, finished_on from jsonb_to_recordset($2) \
             as rows (queue text, job_id text, job_created_ms bigint, job_state text, finished_on bigint) on conflict do nothing returning 1) \
             update bulks set matched = matched + (select count(*) from added), place = $3, \
             state = case when state = 'matching' and $3::jsonb is null then 'running' else state end where id = $1",
        );
        query
            .bind(id)
            .bind(rows)
            .bind(next)
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// The next jobs to handle.
    pub async fn pending_bulk_items(
        &mut self,
        id: i64,
        most: i64,
    ) -> Result<Vec<BulkItem>, StoreError> {
        self.items_in("pending", id, most).await
    }

    /// The next jobs to undo.
    pub async fn done_bulk_items(
        &mut self,
        id: i64,
        most: i64,
    ) -> Result<Vec<BulkItem>, StoreError> {
        self.items_in("done", id, most).await
    }

    async fn items_in(
        &mut self,
        state: &str,
        id: i64,
        most: i64,
    ) -> Result<Vec<BulkItem>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {ITEM_COLUMNS}, {ITEM_STATE} as state from bulk_items where bulk = $1 and state = '{state}' order by n limit $2"
        )));
        Ok(query.bind(id).bind(most).fetch_all(&mut *self.0).await?)
    }

    /// Records the results of a batch, once. The operation pauses after `stop_after` jobs. `since`
    /// is when the batch began: a job's attempts that this operation caused are later. Items that were
    /// `done` are being undone.
    pub async fn record_bulk_items(
        &mut self,
        id: i64,
        from: &str,
        outcomes: &[BulkOutcome],
        since: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let storable = |outcome: &BulkOutcome| BulkOutcome {
            reason: outcome
                .reason
                .as_deref()
                .map(|reason| without_nul(reason).into_owned()),
            ..outcome.clone()
        };
        let rows: Vec<BulkOutcome> = outcomes.iter().map(storable).collect();
        let rows = serde_json::to_value(rows)
            .map_err(|error| StoreError::Internal(sqlx::Error::Encode(error.into())))?;
        let query = sqlx::query(
            "with changed as (update bulk_items i set state = case o.state when 'not-undone' then 'skipped' else o.state end, \
             reason = o.reason, \
             acted_at = case when $3 = 'done' then i.acted_at else $4 end, \
             undone_at = case when $3 = 'done' then $4 else i.undone_at end, \
             new_id = coalesce(o.new_id, i.new_id), score = coalesce(o.score, i.score) from jsonb_to_recordset($2) \
             as o (n bigint, state text, reason text, new_id text, score float8) \
             where i.bulk = $1 and i.n = o.n and i.state = $3 returning i.state), \
             c as (select count(*) filter (where state = 'done') as done, \
             count(*) filter (where state = 'skipped' and $3 <> 'done') as skipped, \
             count(*) filter (where state = 'failed') as failed, count(*) filter (where state = 'restored') as restored from changed) \
             update bulks b set done = b.done + c.done, skipped = b.skipped + c.skipped, failed = b.failed + c.failed, \
             restored = b.restored + c.restored, state = case when b.state = 'running' \
             and b.done + b.failed + c.done + c.failed >= b.stop_after \
             and b.done + b.skipped + b.failed + c.done + c.skipped + c.failed < b.matched then 'paused' else b.state end \
             from c where b.id = $1",
        );
        query
            .bind(id)
            .bind(rows)
            .bind(from)
            .bind(since)
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Ends an operation that is still active, and returns it as it ended. The result is also
    /// written to the action of the operator who began it.
    pub async fn end_bulk(
        &mut self,
        id: i64,
        state: &str,
        error: Option<&str>,
    ) -> Result<Option<BulkRow>, StoreError> {
        let query = sqlx::query_as::<_, BulkRow>(sqlx::AssertSqlSafe(format!(
            "update bulks set state = $2, error = $3, ended_at = now(), edits = null, \
             undo_until = case when {CAN_BE_UNDONE} and $2 <> 'undone' then now() + {UNDO} end \
             where id = $1 and state in ('matching', 'running', 'undoing') returning {COLUMNS}"
        )));
        let ended = query
            .bind(id)
            .bind(state)
            .bind(error)
            .fetch_optional(&mut *self.0)
            .await?;
        if let Some(row) = &ended {
            let action = if state == "undone" {
                "bulk.undo".to_owned()
            } else {
                format!("bulk.{}", row.kind)
            };
            let mut result = serde_json::to_value(row).unwrap_or_default();
            // The filter's values may be personal, and the record of the action is kept.
            result.as_object_mut().map(|result| result.remove("filter"));
            match state {
                "undone" if row.restored == 0 => result["noEffect"] = "no job was put back".into(),
                "done" if row.done == 0 => result["noEffect"] = "no job was changed".into(),
                _ => {}
            }
            let query = sqlx::query(
                "update operator_actions set ended_at = now(), result = $3, error = $4 where id = \
                 (select max(id) from operator_actions where action = $1 and target = $2)",
            );
            let target = format!("bulk/{id}");
            query
                .bind(action)
                .bind(target)
                .bind(result)
                .bind(error)
                .execute(&mut *self.0)
                .await?;
        }
        Ok(ended)
    }
}
