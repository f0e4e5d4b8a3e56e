//! Dead letters: jobs that failed for good, grouped by what their failure looks like and by the
//! revision that ran them.
//!
//! The recorder counts them ([`Store::record_attempts`]); operators acknowledge, assign and
//! annotate them. Where their jobs are now, and when a group is closed, is `dead_letter_jobs`'s.
//! This module also finds jobs of the history by an operator's filter, to repair them.

use chrono::{DateTime, Utc};
use patchbay_model::QueueName;
use patchbay_model::job::JobKey;

use crate::{ActionRow, Store, StoreError};

/// How many removed jobs of a group are looked up in the history.
const MOST_LOOKED_AT: i64 = 1_000;

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
    pub failures: i64,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    /// It stays set when more jobs fail in the same revision.
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub acknowledged_by: Option<String>,
    /// Failures since the acknowledgement.
    pub since_acknowledged: i64,
    /// When no job of it failed or waited any more.
    pub closed_at: Option<DateTime<Utc>>,
    pub assignee: Option<String>,
    pub note: Option<String>,
    /// Distinct jobs, and where they are now; the other counts add up to this one.
    pub jobs: i64,
    pub failing: i64,
    pub waiting: i64,
    pub repaired: i64,
    pub removed: i64,
    /// Jobs whose last final failure is in another group.
    pub failing_elsewhere: i64,
}

/// `d` has the groups.
const COLUMNS: &str = "d.id, d.queue, d.plugin, d.revision, d.code, d.message, d.jobs as failures, d.first_seen, d.last_seen, d.acknowledged_at, \
    d.acknowledged_by, greatest(d.jobs - coalesce(d.jobs_acknowledged, d.jobs), 0) as since_acknowledged, d.closed_at, d.assignee, d.note, \
    c.jobs, c.failing, c.waiting, c.repaired, c.removed, c.failing_elsewhere";
/// Where the jobs of each group in `d` are, as `c`.
const COUNTS: &str = "cross join lateral (select count(*) as jobs, count(*) filter (where j.state = 'failing') as failing, \
    count(*) filter (where j.state = 'waiting') as waiting, count(*) filter (where j.state = 'repaired') as repaired, \
    count(*) filter (where j.state = 'removed') as removed, count(*) filter (where j.state = 'elsewhere') as failing_elsewhere \
    from dead_letter_jobs j where j.dead_letter = d.id) c";

/// Numbers of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct DeadLetterCounts {
    /// Neither acknowledged nor closed.
    pub open: i64,
    /// Acknowledged, and not closed.
    pub acknowledged: i64,
    pub closed: i64,
}

/// Selects groups. An absent field does not restrict them.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters {
    pub queue: Option<QueueName>,
    pub plugin: Option<String>,
    pub acknowledged: Option<bool>,
    pub closed: Option<bool>,
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
    /// Open groups first, then acknowledged ones, then closed ones; of each the last seen first.
    pub async fn dead_letters(
        &self,
        prefix: &str,
        which: &DeadLetters,
        most: i64,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        // Only the jobs of the groups that are shown are counted.
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from (select * from dead_letters where prefix = $1 and ($2::text is null or queue = $2) \
             and ($3::text is null or plugin = $3) and ($4::boolean is null or (acknowledged_at is not null) = $4) \
             and ($5::boolean is null or (closed_at is not null) = $5) \
             order by closed_at is not null, acknowledged_at is not null, last_seen desc, id limit $6) d {COUNTS} \
             order by d.closed_at is not null, d.acknowledged_at is not null, d.last_seen desc, d.id"
        )));
        let query = query
            .bind(prefix)
            .bind(which.queue.as_ref().map(QueueName::as_str))
            .bind(&which.plugin);
        Ok(query
            .bind(which.acknowledged)
            .bind(which.closed)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// How many groups there are, of a queue and a plugin.
    pub async fn count_dead_letters(
        &self,
        prefix: &str,
        queue: Option<&QueueName>,
        plugin: Option<&str>,
    ) -> Result<DeadLetterCounts, StoreError> {
        let query = sqlx::query_as(
            "select count(*) filter (where closed_at is null and acknowledged_at is null) as open, \
             count(*) filter (where closed_at is null and acknowledged_at is not null) as acknowledged, \
             count(*) filter (where closed_at is not null) as closed from dead_letters where prefix = $1 \
             and ($2::text is null or queue = $2) and ($3::text is null or plugin = $3)",
        );
        let query = query.bind(prefix).bind(queue.map(QueueName::as_str));
        Ok(query.bind(plugin).fetch_one(&self.pool).await?)
    }

    /// Numbers of groups, those with the newest failures first.
    pub async fn dead_letter_ids(&self, prefix: &str, most: i64) -> Result<Vec<i64>, StoreError> {
        let query = sqlx::query_scalar(
            "select id from dead_letters where prefix = $1 order by last_seen desc limit $2",
        );
        Ok(query.bind(prefix).bind(most).fetch_all(&self.pool).await?)
    }

    pub async fn dead_letter(&self, prefix: &str, id: i64) -> Result<DeadLetterRow, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from dead_letters d {COUNTS} where d.prefix = $1 and d.id = $2"
        )));
        let row: Option<DeadLetterRow> = query
            .bind(prefix)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        row.ok_or_else(|| unknown(id))
    }

    /// Groups of the same failure in other revisions, newest first. Its place in the code does not
    /// count: it moves from revision to revision.
    pub async fn dead_letter_siblings(
        &self,
        prefix: &str,
        id: i64,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS} from (select o.* from dead_letters g join dead_letters o on o.prefix = g.prefix and o.queue = g.queue \
             and (o.plugin, o.revision) <> (g.plugin, g.revision) and (o.fingerprint = g.fingerprint or o.code = g.code \
             and o.message <> '(erased)' and {PLACELESS_O} = {PLACELESS_G}) where g.prefix = $1 and g.id = $2 \
             order by o.last_seen desc limit 20) d {COUNTS} order by d.last_seen desc"
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

    /// How many of the group's removed jobs can be added again from the history: it has kept their
    /// data, and they were no children of a flow. Looks at the 1,000 that failed last.
    pub async fn restorable_dead_letter_jobs(
        &self,
        prefix: &str,
        id: i64,
    ) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(
            "select count(*) from (select * from dead_letter_jobs where prefix = $1 and dead_letter = $2 and state = 'removed' \
             order by failed_at desc limit $3) j where exists (select from attempts a where a.prefix = j.prefix and a.queue = j.queue \
             and a.job_id = j.job_id and a.job_created_ms = j.job_created_ms and a.body is not null and a.parent is null)",
        );
        Ok(query
            .bind(prefix)
            .bind(id)
            .bind(MOST_LOOKED_AT)
            .fetch_one(&self.pool)
            .await?)
    }

    /// The last bulk operation that has removed jobs of the group and can be undone.
    pub async fn removal_of_dead_letter(
        &self,
        prefix: &str,
        id: i64,
    ) -> Result<Option<i64>, StoreError> {
        let query = sqlx::query_scalar(
            "select b.id from bulks b where b.prefix = $1 and b.kind = 'remove' and b.undo_until > now() \
             and b.state in ('done', 'cancelled', 'failed') and exists (select from dead_letter_jobs j join bulk_items i \
             on i.bulk = b.id and i.queue = j.queue and i.job_id = j.job_id and i.job_created_ms = j.job_created_ms \
             where j.dead_letter = $2 and j.state = 'removed' and i.state = 'done') order by b.id desc limit 1",
        );
        Ok(query
            .bind(prefix)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// The operator's action that last removed jobs of the group, or may have: one on the whole queue
    /// does not name its jobs.
    pub async fn removal_by_operator(
        &self,
        prefix: &str,
        id: i64,
    ) -> Result<Option<ActionRow>, StoreError> {
        let query = sqlx::query_as(
            "select * from (select o.actor, o.action, o.target, o.began_at, o.details, o.result, o.details ->> 'reason' as reason \
             from dead_letters d join operator_actions o on o.began_at > d.first_seen and o.ended_at is not null and o.error is null \
             and not coalesce(o.result ? 'noEffect', false) and ((o.target = d.queue and (o.action = 'queue.obliterate' \
             or (o.action = 'queue.clean' and o.details ->> 'state' = 'failed'))) or (o.action = 'job.remove' and exists (\
             select from dead_letter_jobs j where j.dead_letter = d.id and j.state = 'removed' and o.target = j.queue || '/' || j.job_id))) \
             where d.prefix = $1 and d.id = $2 union all \
             select b.actor, 'bulk.remove', 'bulk/' || b.id, b.created_at, '{}'::jsonb, null::jsonb, b.reason from bulks b \
             where b.prefix = $1 and b.kind = 'remove' and exists (select from dead_letter_jobs j join bulk_items i on i.bulk = b.id \
             and i.queue = j.queue and i.job_id = j.job_id and i.job_created_ms = j.job_created_ms and i.state = 'done' \
             where j.dead_letter = $2 and j.state = 'removed')) removals order by began_at desc limit 1",
        );
        let query = query.bind(prefix).bind(id);
        Ok(query.fetch_optional(&self.pool).await?)
    }

    /// Acknowledges a group, or withdraws the acknowledgement.
    pub async fn acknowledge_dead_letter(
        &self,
        prefix: &str,
        id: i64,
        by: Option<&str>,
    ) -> Result<DeadLetterRow, StoreError> {
        let query = sqlx::query(
            "update dead_letters set acknowledged_by = $3::text, acknowledged_at = case when $3::text is not null then now() end, \
             jobs_acknowledged = case when $3::text is not null then jobs end where prefix = $1 and id = $2",
        );
        query
            .bind(prefix)
            .bind(id)
            .bind(by)
            .execute(&self.pool)
            .await?;
        self.dead_letter(prefix, id).await
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
        let query = sqlx::query(sqlx::AssertSqlSafe(format!(
            "update dead_letters set {column} = $3 where prefix = $1 and id = $2"
        )));
        query
            .bind(prefix)
            .bind(id)
            .bind(value)
            .execute(&self.pool)
            .await?;
        self.dead_letter(prefix, id).await
    }

    /// Number of groups that are neither acknowledged nor closed, by queue.
    pub async fn open_dead_letters(&self, prefix: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let query = sqlx::query_as(
            "select queue, count(*) filter (where acknowledged_at is null and closed_at is null) from dead_letters where prefix = $1 \
             group by 1 order by 1",
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

/// Whether `a`, an attempt, is a failure of the group `d`.
pub(crate) const OF_A_GROUP: &str = "a.prefix = d.prefix and a.queue = d.queue and a.fingerprint = d.fingerprint \
    and coalesce(a.plugin, '') = d.plugin and coalesce(a.revision, '') = d.revision";

/// The messages of `o` and `g` without places in code: nothing else in them has digits (see
/// `model::fingerprint`).
const PLACELESS_O: &str = "regexp_replace(o.message, '0x[0-9a-f]+|[0-9]+', '#', 'g')";
const PLACELESS_G: &str = "regexp_replace(g.message, '0x[0-9a-f]+|[0-9]+', '#', 'g')";

fn unknown(id: i64) -> StoreError {
    StoreError::NotFound(format!(
        "There is no group of dead letters {id}. See: patchbay dead-letter list"
    ))
}
