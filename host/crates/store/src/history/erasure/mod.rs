//! Erases a person's data from Postgres: texts go, the record that something happened stays.
//!
//! An erasure is recorded with its jobs before the first of them is changed, so that any host can
//! finish what another one began. The value that identifies the person is never stored.

mod texts;

use chrono::{DateTime, Utc};
use patchbay_model::{JobId, QueueName};
use serde_json::Value;
use sqlx::Row;

pub(crate) use self::texts::ERASED;
pub use self::texts::{Person, Texts};
use crate::{Store, StoreError, Term};

const BATCH: usize = 200;
/// Jobs per erasure. To erase more, ask for another erasure.
const MOST_JOBS: i64 = 10_000;

/// A job whose data is to be erased.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::FromRow)]
pub struct ErasedJob {
    pub prefix: String,
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
}

/// Numbers of what was erased from the history.
#[derive(Debug, Clone, Default)]
pub struct Erased {
    pub attempts: i64,
    pub bodies: i64,
}

#[derive(Debug, Clone)]
pub struct NewErasure<'a> {
    pub prefix: &'a str,
    /// The path and term that identify a person.
    pub person: Option<(&'a str, Term)>,
    pub queue: Option<&'a str>,
    pub job_id: Option<&'a str>,
    pub unfinished: bool,
    pub actor: &'a str,
    pub reason: &'a str,
}

/// An erasure, for lists.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ErasureRow {
    pub id: i64,
    pub path: Option<String>,
    pub queue: Option<String>,
    pub job_id: Option<String>,
    pub unfinished: bool,
    pub actor: String,
    pub reason: String,
    pub began_at: DateTime<Utc>,
    /// Absent while the erasure has jobs left; and when it was interrupted before its jobs were
    /// known: ask for it again.
    pub ended_at: Option<DateTime<Utc>>,
    pub listed_at: Option<DateTime<Utc>>,
    /// Jobs that were erased.
    pub done: i64,
    /// Jobs that are running, or not reached yet.
    pub to_come: i64,
    /// Jobs that stay in Redis.
    pub left: i64,
    pub counts: Option<Value>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PendingErasure {
    pub erasure: i64,
    pub unfinished: bool,
    pub began_at: DateTime<Utc>,
    #[sqlx(flatten)]
    pub job: ErasedJob,
}

/// The record that a job's data was erased.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobErasure {
    pub erasure: i64,
    pub job_created_ms: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub reason: String,
}

impl Store {
    /// Jobs that have this term, and whether there are more.
    pub async fn jobs_with(
        &self,
        term: &Term,
        queue: Option<&str>,
    ) -> Result<(Vec<ErasedJob>, bool), StoreError> {
        let query = sqlx::query_as(
            "select distinct prefix, queue, job_id, job_created_ms from attempt_terms where term = $1 and ($2::text is null or queue = $2) \
             limit $3 + 1",
        );
        let mut jobs: Vec<ErasedJob> = query
            .bind(&term[..])
            .bind(queue)
            .bind(MOST_JOBS)
            .fetch_all(&self.pool)
            .await?;
        let more = jobs.len() as i64 > MOST_JOBS;
        jobs.truncate(MOST_JOBS as usize);
        Ok((jobs, more))
    }

    /// Parents of these jobs' attempts, each as a queue and an id.
    pub async fn parents_of(
        &self,
        jobs: &[ErasedJob],
    ) -> Result<Vec<(String, String)>, StoreError> {
        let mut parents = Vec::new();
        for jobs in jobs.chunks(BATCH) {
            let column = |of: fn(&ErasedJob) -> &str| jobs.iter().map(of).collect::<Vec<_>>();
            let query = sqlx::query_scalar(
                "select distinct parent from attempts join unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) \
                 as jobs (prefix, queue, job_id, job_created_ms) using (prefix, queue, job_id, job_created_ms) where parent is not null",
            );
            let query = query
                .bind(column(|job| &job.prefix))
                .bind(column(|job| &job.queue))
                .bind(column(|job| &job.job_id));
            let found: Vec<String> = query
                .bind(
                    jobs.iter()
                        .map(|job| job.job_created_ms)
                        .collect::<Vec<_>>(),
                )
                .fetch_all(&self.pool)
                .await?;
            let named = found.iter().filter_map(|parent| parent.split_once(':'));
            parents.extend(named.map(|(queue, id)| (queue.to_owned(), id.to_owned())));
        }
        Ok(parents)
    }

    /// Jobs in the history with this queue and id.
    pub async fn jobs_named(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<Vec<ErasedJob>, StoreError> {
        let query = sqlx::query_as(
            "select distinct prefix, queue, job_id, job_created_ms from attempts where prefix = $1 and queue = $2 and job_id = $3 limit $4",
        );
        let query = query.bind(prefix).bind(queue.as_str()).bind(job.as_str());
        Ok(query.bind(MOST_JOBS).fetch_all(&self.pool).await?)
    }

    /// Marks a removed job as impossible to put back, because its copy was deleted.
    pub async fn mark_removed_lost(&self, bulk: i64, job: &str) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update bulk_items set state = 'lost', reason = 'its data was erased' where bulk = $1 and queue || ':' || job_id = $2 \
             and state in ('done', 'pending')",
        );
        query.bind(bulk).bind(job).execute(&self.pool).await?;
        Ok(())
    }

    pub async fn begin_erasure(&self, new: &NewErasure<'_>) -> Result<i64, StoreError> {
        let (path, term) = new.person.map(|(path, term)| (path, term.to_vec())).unzip();
        let query = sqlx::query_scalar(
            "insert into erasures (prefix, path, term, queue, job_id, unfinished, actor, reason) values ($1, $2, $3, $4, $5, $6, $7, $8) \
             returning id",
        );
        let query = query
            .bind(new.prefix)
            .bind(path)
            .bind(term)
            .bind(new.queue)
            .bind(new.job_id)
            .bind(new.unfinished);
        Ok(query
            .bind(new.actor)
            .bind(new.reason)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Records all jobs of an erasure. From then on any host can finish it.
    pub async fn list_erased_jobs(
        &self,
        erasure: i64,
        jobs: &[ErasedJob],
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let column = |of: fn(&ErasedJob) -> &str| jobs.iter().map(of).collect::<Vec<_>>();
        let query = sqlx::query(
            "insert into erased_jobs (erasure, queue, job_id, job_created_ms) \
             select $1, * from unnest($2::text[], $3::text[], $4::bigint[]) on conflict do nothing",
        );
        let query = query
            .bind(erasure)
            .bind(column(|job| &job.queue))
            .bind(column(|job| &job.job_id));
        query
            .bind(
                jobs.iter()
                    .map(|job| job.job_created_ms)
                    .collect::<Vec<_>>(),
            )
            .execute(&mut *transaction)
            .await?;
        sqlx::query("update erasures set listed_at = now() where id = $1")
            .bind(erasure)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Jobs that are still to be erased; jobs of older erasures come first.
    pub async fn pending_erasures(
        &self,
        prefix: &str,
        most: i64,
    ) -> Result<Vec<PendingErasure>, StoreError> {
        let query = sqlx::query_as(
            "select j.erasure, e.unfinished, e.began_at, e.prefix, j.queue, j.job_id, j.job_created_ms from erased_jobs j \
             join erasures e on e.id = j.erasure where e.prefix = $1 and e.ended_at is null and e.listed_at is not null \
             and j.state in ('pending', 'running') order by j.erasure, j.at limit $2",
        );
        Ok(query.bind(prefix).bind(most).fetch_all(&self.pool).await?)
    }

    /// Records the result for a job of an erasure.
    pub async fn settle_erased_job(
        &self,
        erasure: i64,
        job: &ErasedJob,
        state: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update erased_jobs set state = $5, at = now() where erasure = $1 and queue = $2 and job_id = $3 and job_created_ms = $4",
        );
        let query = query
            .bind(erasure)
            .bind(&job.queue)
            .bind(&job.job_id)
            .bind(job.job_created_ms)
            .bind(state);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Ends erasures that have nothing left to do.
    pub async fn end_erasures(&self, prefix: &str) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "update erasures e set ended_at = now() where e.prefix = $1 and e.ended_at is null and e.listed_at is not null \
             and not exists (select from erased_jobs j where j.erasure = e.id and j.state in ('pending', 'running'))",
        );
        Ok(query
            .bind(prefix)
            .execute(&self.pool)
            .await?
            .rows_affected())
    }

    /// Stores what the erasure found, by place.
    pub async fn count_erasure(&self, erasure: i64, counts: &Value) -> Result<(), StoreError> {
        let query = sqlx::query("update erasures set counts = $2 where id = $1")
            .bind(erasure)
            .bind(counts);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Newest first.
    pub async fn erasures(
        &self,
        prefix: &str,
        before: Option<i64>,
        most: i64,
    ) -> Result<Vec<ErasureRow>, StoreError> {
        let query = sqlx::query_as(
            "select e.id, e.path, e.queue, e.job_id, e.unfinished, e.actor, e.reason, e.began_at, e.ended_at, e.listed_at, e.counts, \
             count(*) filter (where j.state = 'done') as done, count(*) filter (where j.state in ('pending', 'running')) as to_come, \
             count(*) filter (where j.state in ('unfinished', 'of-schedule')) as \"left\" \
             from erasures e left join erased_jobs j on j.erasure = e.id where e.prefix = $1 and ($2::bigint is null or e.id < $2) \
             group by e.id order by e.id desc limit $3",
        );
        Ok(query
            .bind(prefix)
            .bind(before)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// When and by whom a job's data was erased, oldest first.
    pub async fn job_erasures(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<Vec<JobErasure>, StoreError> {
        let query = sqlx::query_as(
            "select j.erasure, j.job_created_ms, j.at, e.actor, e.reason from erased_jobs j join erasures e on e.id = j.erasure \
             where e.prefix = $1 and j.queue = $2 and j.job_id = $3 and j.state = 'done' order by j.at limit 100",
        );
        Ok(query
            .bind(prefix)
            .bind(queue.as_str())
            .bind(job.as_str())
            .fetch_all(&self.pool)
            .await?)
    }

    /// What [`Store::erase`] would erase.
    pub async fn erasable(&self, jobs: &[ErasedJob]) -> Result<Erased, StoreError> {
        let text = "select count(*) as attempts, count(body) as bodies from attempts \
            join unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as jobs (prefix, queue, job_id, job_created_ms) \
            using (prefix, queue, job_id, job_created_ms) where erased_at is null";
        self.of_jobs(text, jobs).await
    }

    /// Deletes bodies, messages, backtraces, outside calls and terms of these jobs' attempts. The
    /// rows stay and are marked.
    pub async fn erase(&self, jobs: &[ErasedJob]) -> Result<Erased, StoreError> {
        // A dead-letter group keeps its message only while an attempt of it has one.
        let text = "with found as (select a.prefix, a.queue, a.job_id, a.job_created_ms, a.started, a.finished_at, a.body is not null as has_body, \
            a.fingerprint from attempts a join unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as jobs (prefix, queue, job_id, \
            job_created_ms) using (prefix, queue, job_id, job_created_ms)), \
            gone as (update attempts a set body = null, body_key = null, message = null, stack = null, calls = null, erased_at = now() \
            from found f where a.prefix = f.prefix and a.queue = f.queue and a.job_id = f.job_id and a.job_created_ms = f.job_created_ms \
            and a.started = f.started and a.finished_at = f.finished_at returning 1), \
            terms as (delete from attempt_terms t using found f where t.queue = f.queue and t.finished_at = f.finished_at \
            and t.prefix = f.prefix and t.job_id = f.job_id and t.job_created_ms = f.job_created_ms and t.started = f.started), \
            dead as (update dead_letters d set message = '(erased)' from found f where f.fingerprint is not null \
            and d.prefix = f.prefix and d.queue = f.queue and d.fingerprint = f.fingerprint and not exists (select from attempts other \
            where other.fingerprint = d.fingerprint and other.queue = d.queue and other.erased_at is null \
            and not exists (select from found where found.job_id = other.job_id and found.started = other.started \
            and found.finished_at = other.finished_at))) \
            select (select count(*) from gone) as attempts, (select count(*) from found where has_body) as bodies";
        self.of_jobs(text, jobs).await
    }

    async fn of_jobs(&self, text: &'static str, jobs: &[ErasedJob]) -> Result<Erased, StoreError> {
        let mut erased = Erased::default();
        for jobs in jobs.chunks(BATCH) {
            let column = |of: fn(&ErasedJob) -> &str| jobs.iter().map(of).collect::<Vec<_>>();
            let query = sqlx::query(text)
                .bind(column(|job| &job.prefix))
                .bind(column(|job| &job.queue))
                .bind(column(|job| &job.job_id))
                .bind(
                    jobs.iter()
                        .map(|job| job.job_created_ms)
                        .collect::<Vec<_>>(),
                );
            let row = query.fetch_one(&self.pool).await?;
            erased.attempts += row.try_get::<i64, _>("attempts")?;
            erased.bodies += row.try_get::<i64, _>("bodies")?;
        }
        Ok(erased)
    }
}
