//! What Postgres knows of one job and of those that it belongs to.

use chrono::{DateTime, Utc};
use patchbay_model::job::trail_name;
use patchbay_model::{JobId, QueueName};
use serde_json::json;

use crate::attempts::COLUMNS;
use crate::{FoundRow, Store, StoreError};

/// Newest attempts of a job: one that ran more often has a problem that these show.
const MAX_ATTEMPTS: i64 = 500;
/// The end of the year 9999, which Postgres holds.
const LATEST_MS: i64 = 253_402_300_799_000;
/// Most operators' actions and audit entries.
const MAX_RECORDS: i64 = 200;
/// Most jobs of the same request.
const MAX_RELATIVES: i64 = 200;

/// What an operator did.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobAction {
    pub actor: String,
    pub action: String,
    pub began_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
}

/// What a bulk operation did to a job, or to which one it added this job.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobBulk {
    pub bulk: i64,
    pub kind: String,
    pub actor: String,
    /// When it was done; for what is still to come, when the operation was begun.
    pub at: DateTime<Utc>,
    /// Of the job that was chosen.
    pub job_id: String,
    pub job_created_ms: i64,
    /// Of the item: `pending`, `done`, `skipped`, `failed`, `restored` or `lost`.
    pub state: String,
    pub reason: Option<String>,
    /// Of the job that was added.
    pub new_id: Option<String>,
}

/// What a plugin wrote into an audit trail; the entry itself may be personal and stays there.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobAudit {
    pub at: DateTime<Utc>,
    pub trail: String,
    pub entry_key: String,
    pub plugin: String,
    /// Of the job that wrote it.
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
    /// The newest attempts of a job and of others that had its id before, oldest first. `prefix` is BullMQ's.
    pub async fn lives(&self, prefix: &str, queue: &QueueName, job: &JobId) -> Result<Vec<FoundRow>, StoreError> {
        let query = format!(
            "select queue, job_id, job_created_ms, null::bigint as dead_letter, {COLUMNS} from attempts \
             where prefix = $1 and queue = $2 and job_id = $3 order by finished_at desc, started desc limit $4"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(prefix).bind(queue.as_str()).bind(job.as_str());
        let mut rows: Vec<FoundRow> = query.bind(MAX_ATTEMPTS).fetch_all(&self.pool).await?;
        rows.reverse();
        Ok(rows)
    }

    /// What operators did to a job, and who added it, at one of these times (Unix milliseconds); oldest first.
    pub async fn job_actions(
        &self,
        queue: &QueueName,
        job: &JobId,
        created_ms: &[i64],
    ) -> Result<Vec<JobAction>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, began_at, ended_at, error from (\
             (select * from operator_actions where target = $1 order by id desc limit $5) union \
             select a.* from unnest($2::bigint[]) made, lateral (select * from operator_actions \
             where began_at between to_timestamp(made / 1000.0) - interval '1 minute' and to_timestamp(made / 1000.0) + interval '1 minute' \
             and ((action = 'job.add' and target = $3 and result ->> 'id' = $4) or (action = 'flow.add' and result -> 'jobs' @> $6)) limit 10) a\
             ) actions order by began_at, id limit $5",
        );
        let target = trail_name(queue, job);
        let node = json!([{ "queue": queue.as_str(), "id": job.as_str() }]);
        // Producers may write any number; nobody did anything beyond these.
        let created_ms: Vec<i64> = created_ms.iter().map(|ms| (*ms).clamp(0, LATEST_MS)).collect();
        let query = query.bind(target).bind(created_ms).bind(queue.as_str()).bind(job.as_str());
        Ok(query.bind(MAX_RECORDS).bind(node).fetch_all(&self.pool).await?)
    }

    /// Bulk operations that chose the job or added it, oldest first.
    pub async fn job_bulks(&self, prefix: &str, queue: &QueueName, job: &JobId) -> Result<Vec<JobBulk>, StoreError> {
        let query = sqlx::query_as(
            "select b.id as bulk, b.kind, b.actor, coalesce(i.acted_at, b.created_at) as at, i.job_id, i.job_created_ms, i.state, \
             i.reason, i.new_id from bulk_items i join bulks b on b.id = i.bulk \
             where b.prefix = $1 and i.queue = $2 and (i.job_id = $3 or i.new_id = $3) order by b.id desc, i.n limit $4",
        );
        let query = query.bind(prefix).bind(queue.as_str()).bind(job.as_str()).bind(MAX_RECORDS);
        let mut items: Vec<JobBulk> = query.fetch_all(&self.pool).await?;
        items.reverse();
        Ok(items)
    }

    /// What the job wrote into audit trails, and what others wrote in the course of the same requests; oldest first.
    pub async fn job_audit(
        &self,
        queue: &QueueName,
        job: &JobId,
        correlation_ids: &[String],
    ) -> Result<Vec<JobAudit>, StoreError> {
        let query = sqlx::query_as(
            "select at, trail, entry_key, plugin, queue, job_id from audit_entries \
             where (queue = $1 and job_id = $2) or correlation_id = any($3) order by id desc limit $4",
        );
        let query = query.bind(queue.as_str()).bind(job.as_str()).bind(correlation_ids).bind(MAX_RECORDS);
        let mut entries: Vec<JobAudit> = query.fetch_all(&self.pool).await?;
        entries.reverse();
        Ok(entries)
    }

    /// Other jobs of these requests, by their newest attempt.
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
        let query = query.bind(prefix).bind(correlation_ids).bind(queue.as_str()).bind(job.as_str());
        Ok(query.bind(MAX_RELATIVES).fetch_all(&self.pool).await?)
    }

    /// Versions of revisions that are still kept, by digest.
    pub async fn versions(&self, digests: &[String]) -> Result<Vec<(String, String)>, StoreError> {
        let query = sqlx::query_as("select digest, version from revisions where digest = any($1)");
        Ok(query.bind(digests).fetch_all(&self.pool).await?)
    }
}
