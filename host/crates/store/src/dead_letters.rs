//! Dead letters: jobs that failed for good, grouped by what their failure looks like and by the
//! revision that ran them.
//!
//! The recorder counts them ([`Store::record_attempts`]); operators acknowledge, assign and
//! annotate them. This module also finds jobs of the history by an operator's filter, to repair
//! them.

use chrono::{DateTime, Utc};
use patchbay_model::QueueName;
use patchbay_model::job::JobKey;

use crate::{Store, StoreError};

/// How many jobs of a group are checked for later completion.
const MOST_LOOKED_AT: i64 = 10_000;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeadLetterRow {
    /// The value of `dead-letter` in a filter.
    pub id: i64,
    pub queue: String,
    /// Empty when no plugin was reached.
    pub plugin: String,
    /// Digest; empty when no plugin was reached.
    pub revision: String,
    /// Code of the failure.
    pub code: String,
    /// The failure's message, with numbers, ids and quoted values replaced.
    pub message: String,
    /// How often a job failed for good with this failure.
    pub jobs: i64,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    /// It stays set when more jobs fail in the same revision.
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub acknowledged_by: Option<String>,
    /// Failures since the acknowledgement.
    pub since_acknowledged: i64,
    pub assignee: Option<String>,
    pub note: Option<String>,
}

const COLUMNS: &str = "id, queue, plugin, revision, code, message, jobs, first_seen, last_seen, acknowledged_at, acknowledged_by, \
    greatest(jobs - coalesce(jobs_acknowledged, jobs), 0) as since_acknowledged, assignee, note";

/// Selects groups. An absent field does not restrict them.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters {
    pub queue: Option<QueueName>,
    pub plugin: Option<String>,
    pub acknowledged: Option<bool>,
}

/// The last attempt of a job, with which it ended.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Ended {
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
    pub name: String,
    pub started: i32,
    pub finished_at: DateTime<Utc>,
    pub message: Option<String>,
    pub stack: Option<String>,
    pub correlation_id: String,
    pub platform: Option<String>,
    pub parent: Option<String>,
}

const OF_A_JOB: &str = "queue, job_id, job_created_ms, name, started, finished_at, message, stack, correlation_id, platform, parent";

impl Store {
    /// Open groups first, then those that were seen last.
    pub async fn dead_letters(
        &self,
        prefix: &str,
        which: &DeadLetters,
        most: i64,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from dead_letters where prefix = $1 and ($2::text is null or queue = $2) \
             and ($3::text is null or plugin = $3) and ($4::boolean is null or (acknowledged_at is not null) = $4) \
             order by acknowledged_at is not null, last_seen desc, id limit $5"
        )));
        let query = query
            .bind(prefix)
            .bind(which.queue.as_ref().map(QueueName::as_str))
            .bind(&which.plugin);
        Ok(query
            .bind(which.acknowledged)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    pub async fn dead_letter(&self, prefix: &str, id: i64) -> Result<DeadLetterRow, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from dead_letters where prefix = $1 and id = $2"
        )));
        found(
            query
                .bind(prefix)
                .bind(id)
                .fetch_optional(&self.pool)
                .await?,
            id,
        )
    }

    /// Groups of the same failure in other revisions, newest first.
    pub async fn dead_letter_siblings(
        &self,
        prefix: &str,
        id: i64,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from dead_letters where prefix = $1 and id <> $2 and (queue, fingerprint) = \
             (select queue, fingerprint from dead_letters where prefix = $1 and id = $2) order by last_seen desc limit 20"
        )));
        Ok(query.bind(prefix).bind(id).fetch_all(&self.pool).await?)
    }

    /// The newest failures of the group.
    pub async fn dead_letter_jobs(
        &self,
        prefix: &str,
        id: i64,
        most: i64,
    ) -> Result<Vec<Ended>, StoreError> {
        let columns = OF_A_JOB
            .split(", ")
            .map(|column| format!("a.{column}"))
            .collect::<Vec<_>>()
            .join(", ");
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {columns} from attempts a join dead_letters d on {OF_A_GROUP} where d.prefix = $1 and d.id = $2 \
             order by a.finished_at desc limit $3"
        )));
        Ok(query
            .bind(prefix)
            .bind(id)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// How many jobs of the group have completed since, among the 10,000 that failed last.
    pub async fn dead_letter_repaired(&self, prefix: &str, id: i64) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select count(*) from (select a.queue, a.job_id, a.job_created_ms, max(a.finished_at) as at \
             from attempts a join dead_letters d on {OF_A_GROUP} where d.prefix = $1 and d.id = $2 \
             group by 1, 2, 3 order by 4 desc limit $3) j where exists (select from attempts b where b.prefix = $1 and b.queue = j.queue \
             and b.job_id = j.job_id and b.job_created_ms = j.job_created_ms and b.verdict = 'complete' and b.finished_at > j.at)"
        )));
        Ok(query
            .bind(prefix)
            .bind(id)
            .bind(MOST_LOOKED_AT)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Acknowledges a group, or withdraws the acknowledgement.
    pub async fn acknowledge_dead_letter(
        &self,
        prefix: &str,
        id: i64,
        by: Option<&str>,
    ) -> Result<DeadLetterRow, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "update dead_letters set acknowledged_by = $3::text, acknowledged_at = case when $3::text is not null then now() end, \
             jobs_acknowledged = case when $3::text is not null then jobs end where prefix = $1 and id = $2 returning {COLUMNS}"
        )));
        found(
            query
                .bind(prefix)
                .bind(id)
                .bind(by)
                .fetch_optional(&self.pool)
                .await?,
            id,
        )
    }

    pub async fn note_dead_letter(
        &self,
        prefix: &str,
        id: i64,
        note: Option<&str>,
    ) -> Result<DeadLetterRow, StoreError> {
        self.set_of_dead_letter(prefix, id, "note", note).await
    }

    pub async fn assign_dead_letter(
        &self,
        prefix: &str,
        id: i64,
        to: Option<&str>,
    ) -> Result<DeadLetterRow, StoreError> {
        self.set_of_dead_letter(prefix, id, "assignee", to).await
    }

    async fn set_of_dead_letter(
        &self,
        prefix: &str,
        id: i64,
        column: &'static str,
        value: Option<&str>,
    ) -> Result<DeadLetterRow, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "update dead_letters set {column} = $3 where prefix = $1 and id = $2 returning {COLUMNS}"
        )));
        found(
            query
                .bind(prefix)
                .bind(id)
                .bind(value)
                .fetch_optional(&self.pool)
                .await?,
            id,
        )
    }

    /// Number of groups that nobody has acknowledged, by queue.
    pub async fn open_dead_letters(&self, prefix: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let query = sqlx::query_as(
            "select queue, count(*) filter (where acknowledged_at is null) from dead_letters where prefix = $1 group by 1 order by 1",
        );
        Ok(query.bind(prefix).fetch_all(&self.pool).await?)
    }

    /// The last attempt of each job in the history, in the order of `jobs`.
    pub async fn last_attempts(&self, jobs: &[JobKey]) -> Result<Vec<Option<Ended>>, StoreError> {
        let Some(first) = jobs.first() else {
            return Ok(Vec::new());
        };
        let (queues, ids): (Vec<&str>, Vec<&str>) = jobs
            .iter()
            .map(|job| (job.queue.as_str(), job.id.as_str()))
            .unzip();
        let created: Vec<i64> = jobs
            .iter()
            .map(|job| i64::try_from(job.created_ms).unwrap_or(i64::MAX))
            .collect();
        let query = sqlx::query_as::<_, Ended>(sqlx::AssertSqlSafe(format!(
            "select a.* from unnest($2::text[], $3::text[], $4::bigint[]) as j (q, i, c), lateral (select {OF_A_JOB} from attempts \
             where prefix = $1 and queue = j.q and job_id = j.i and job_created_ms = j.c order by started desc, finished_at desc limit 1) a"
        )));
        let rows = query
            .bind(&first.prefix)
            .bind(&queues)
            .bind(&ids)
            .bind(&created)
            .fetch_all(&self.pool)
            .await?;
        let of = |(queue, id, created): (&&str, &&str, &i64)| {
            rows.iter()
                .find(|row| {
                    row.queue == **queue && row.job_id == **id && row.job_created_ms == *created
                })
                .cloned()
        };
        Ok(queues
            .iter()
            .zip(&ids)
            .zip(&created)
            .map(|((queue, id), created)| of((queue, id, created)))
            .collect())
    }
}

const OF_A_GROUP: &str = "a.prefix = d.prefix and a.queue = d.queue and a.fingerprint = d.fingerprint \
    and coalesce(a.plugin, '') = d.plugin and coalesce(a.revision, '') = d.revision";

fn found(row: Option<DeadLetterRow>, id: i64) -> Result<DeadLetterRow, StoreError> {
    row.ok_or_else(|| {
        StoreError::NotFound(format!(
            "there is no group of dead letters {id}; see: patchbay dead-letter list"
        ))
    })
}
