//! What Postgres knows of one job and its relatives.

use chrono::{DateTime, Utc};
use patchbay_model::job::trail_name;
use patchbay_model::{JobId, QueueName};
use serde_json::json;

use crate::attempts::COLUMNS;
use crate::{ActionRow, FoundRow, Store, StoreError};

/// Newest attempts of a job. For a job that ran more often, these are enough to see its problem.
pub const MAX_ATTEMPTS: i64 = 500;
/// The end of the year 9999, which Postgres can hold.
const LATEST_MS: i64 = 253_402_300_799_000;
/// Limit for operators' actions, and for audit entries.
const MAX_RECORDS: i64 = 200;
/// Actions among which the copy of a job is looked for.
const RECENT: i64 = 10_000;
/// Limit for jobs of the same request.
const MAX_RELATIVES: i64 = 200;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobAction {
    pub actor: String,
    pub action: String,
    /// The job, for an addition its queue, for the copy of a job its original, and for the run of a
    /// schedule the schedule.
    pub target: String,
    /// The job that the action added: its queue and id with `/` between them.
    pub added: Option<String>,
    pub began_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    /// In the words of whoever did it.
    pub reason: Option<String>,
}

/// What a bulk operation did to a job, or to the job from which it added this one.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobBulk {
    pub bulk: i64,
    pub kind: String,
    pub actor: String,
    /// When it was done; for a pending item, when the operation began.
    pub at: DateTime<Utc>,
    /// When a removal was undone.
    pub undone_at: Option<DateTime<Utc>>,
    /// Who undid it.
    pub undone_by: Option<String>,
    /// Id of the chosen job.
    pub job_id: String,
    pub job_created_ms: i64,
    /// State of the item: `pending`, `done`, `skipped`, `failed`, `restored`, `lost` or `not-undone`.
    pub state: String,
    /// Whether the operation can be undone now.
    pub can_be_undone: bool,
    pub reason: Option<String>,
    /// Why the operation was begun, in the operator's words.
    pub because: Option<String>,
    /// Id of the job that was added.
    pub new_id: Option<String>,
}

/// That a plugin wrote to an audit trail. The entry itself may be personal and is not read.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobAudit {
    pub at: DateTime<Utc>,
    pub trail: String,
    pub entry_key: String,
    pub plugin: String,
    /// Queue of the job that wrote it.
    pub queue: Option<String>,
    pub job_id: Option<String>,
}

/// Another job of the same request.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Relative {
    pub queue: String,
    pub job_id: String,
    pub name: String,
    pub parent: Option<String>,
    /// Of its newest attempt.
    pub outcome: String,
    pub finished_at: DateTime<Utc>,
}

impl Store {
    /// The newest attempts of jobs that had this id, oldest first. `prefix` is BullMQ's key prefix.
    pub async fn lives(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<Vec<FoundRow>, StoreError> {
        let query = format!(
            "select queue, job_id, job_created_ms, null::bigint as dead_letter, {COLUMNS} from attempts \
             where prefix = $1 and queue = $2 and job_id = $3 order by finished_at desc, started desc limit $4"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(prefix)
            .bind(queue.as_str())
            .bind(job.as_str());
        let mut rows: Vec<FoundRow> = query.bind(MAX_ATTEMPTS).fetch_all(&self.pool).await?;
        rows.reverse();
        Ok(rows)
    }

    /// Operators' actions on a job, and who added it. `created_ms` are the creation times (Unix
    /// milliseconds) of the jobs with this id. Oldest first.
    pub async fn job_actions(
        &self,
        queue: &QueueName,
        job: &JobId,
        created_ms: &[i64],
    ) -> Result<Vec<JobAction>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, target, began_at, ended_at, error, details ->> 'reason' as reason, \
             (result ->> 'queue') || '/' || (result ->> 'id') as added from (\
             (select * from operator_actions where target = $1 order by id desc limit $5) union \
             select a.* from unnest($2::bigint[]) made, lateral (select * from operator_actions \
             where began_at between to_timestamp(made / 1000.0) - interval '1 minute' and to_timestamp(made / 1000.0) + interval '1 minute' \
             and ((action = 'job.add' and target = $3 and result ->> 'id' = $4) \
             or (action = 'job.add-many' and target = $3 and result -> 'ids' ? $4) or (action = 'flow.add' and result -> 'jobs' @> $6) \
             or (action in ('job.duplicate', 'schedule.run') and result ->> 'queue' = $3 and result ->> 'id' = $4)) limit 10) a\
             ) actions order by began_at, id limit $5",
        );
        let target = trail_name(queue, job);
        let node = json!([{ "queue": queue.as_str(), "id": job.as_str() }]);
        // A producer may write any number; there are no actions outside of this range.
        let created_ms: Vec<i64> = created_ms
            .iter()
            .map(|ms| (*ms).clamp(0, LATEST_MS))
            .collect();
        let query = query
            .bind(target)
            .bind(created_ms)
            .bind(queue.as_str())
            .bind(job.as_str());
        Ok(query
            .bind(MAX_RECORDS)
            .bind(node)
            .fetch_all(&self.pool)
            .await?)
    }

    /// The newest recorded addition of a job with this id, also of one that never ran; of copies and
    /// of runs of schedules, only recent ones are looked at.
    pub async fn addition(
        &self,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<Option<JobAction>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, target, began_at, ended_at, error, details ->> 'reason' as reason, \
             (result ->> 'queue') || '/' || (result ->> 'id') as added from (\
             (select * from operator_actions where target = $1 and ((action = 'job.add' and result ->> 'id' = $2) \
             or (action = 'job.add-many' and result -> 'ids' ? $2)) order by id desc limit 1) union \
             (select * from (select * from operator_actions order by id desc limit $3) recent \
             where action in ('job.duplicate', 'schedule.run') \
             and result ->> 'queue' = $1 and result ->> 'id' = $2 order by id desc limit 1)) additions order by id desc limit 1",
        );
        let query = query.bind(queue.as_str()).bind(job.as_str());
        Ok(query.bind(RECENT).fetch_optional(&self.pool).await?)
    }

    /// What operators did to the whole queue since a time (Unix milliseconds) and may have changed the
    /// job with it, oldest first.
    pub async fn queue_actions(
        &self,
        queue: &QueueName,
        since_ms: i64,
    ) -> Result<Vec<ActionRow>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, target, began_at, details, result, details ->> 'reason' as reason from operator_actions where target = $1 \
             and action in ('queue.put-back', 'queue.clean', 'queue.drain', 'queue.obliterate') \
             and began_at >= to_timestamp($2::bigint / 1000.0) and ended_at is not null and error is null \
             and not coalesce(result ? 'noEffect', false) order by id desc limit $3",
        );
        let query = query
            .bind(queue.as_str())
            .bind(since_ms.clamp(0, LATEST_MS))
            .bind(MAX_RECORDS);
        let mut actions: Vec<ActionRow> = query.fetch_all(&self.pool).await?;
        actions.reverse();
        Ok(actions)
    }

    /// Bulk operations that chose the job or added it, oldest first.
    pub async fn job_bulks(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<Vec<JobBulk>, StoreError> {
        let query = sqlx::query_as(
            "select b.id as bulk, b.kind, b.actor, i.job_id, i.job_created_ms, i.reason, b.reason as because, i.new_id, \
             case when i.state = 'skipped' and i.undone_at is not null then 'not-undone' else i.state end as state, \
             b.state in ('done', 'cancelled', 'failed') and coalesce(b.undo_until > now(), false) as can_be_undone, \
             case when i.state in ('restored', 'lost') and i.undone_at is null then b.created_at \
             else coalesce(i.acted_at, b.created_at) end as at, \
             case when i.state in ('restored', 'lost') then coalesce(i.undone_at, i.acted_at) else i.undone_at end as undone_at, \
             (select actor from operator_actions where action = 'bulk.undo' and target = 'bulk/' || b.id \
             order by id desc limit 1) as undone_by \
             from bulk_items i join bulks b on b.id = i.bulk \
             where b.prefix = $1 and i.queue = $2 and (i.job_id = $3 or i.new_id = $3) order by b.id desc, i.n limit $4",
        );
        let query = query
            .bind(prefix)
            .bind(queue.as_str())
            .bind(job.as_str())
            .bind(MAX_RECORDS);
        let mut items: Vec<JobBulk> = query.fetch_all(&self.pool).await?;
        items.reverse();
        Ok(items)
    }

    /// Entries that the job wrote to audit trails, and entries that others wrote for the same
    /// requests; oldest first.
    pub async fn job_audit(
        &self,
        queue: &QueueName,
        job: &JobId,
        correlation_ids: &[String],
    ) -> Result<Vec<JobAudit>, StoreError> {
        let query = sqlx::query_as(
            "select at, trail, entry_key, plugin, queue, job_id from audit_entries \
             where plugin is not null and ((queue = $1 and job_id = $2) or correlation_id = any($3)) order by id desc limit $4",
        );
        let query = query
            .bind(queue.as_str())
            .bind(job.as_str())
            .bind(correlation_ids)
            .bind(MAX_RECORDS);
        let mut entries: Vec<JobAudit> = query.fetch_all(&self.pool).await?;
        entries.reverse();
        Ok(entries)
    }

    /// Other jobs of these requests, each with its newest attempt.
    pub async fn relatives(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
        correlation_ids: &[String],
    ) -> Result<Vec<Relative>, StoreError> {
        let query = sqlx::query_as(
            "select * from (select distinct on (queue, job_id) queue, job_id, name, parent, outcome, finished_at from attempts \
             where prefix = $1 and correlation_id = any($2) and not (queue = $3 and job_id = $4) \
             order by queue, job_id, finished_at desc) jobs order by finished_at limit $5",
        );
        let query = query
            .bind(prefix)
            .bind(correlation_ids)
            .bind(queue.as_str())
            .bind(job.as_str());
        Ok(query.bind(MAX_RELATIVES).fetch_all(&self.pool).await?)
    }

    /// Versions of revisions that are still stored, by digest.
    pub async fn versions(&self, digests: &[String]) -> Result<Vec<(String, String)>, StoreError> {
        let query = sqlx::query_as("select digest, version from revisions where digest = any($1)");
        Ok(query.bind(digests).fetch_all(&self.pool).await?)
    }
}
