//! Erasing a person's data from the history: what was said goes, that it happened stays.

use serde::Serialize;
use sqlx::Row;

use crate::{Store, StoreError, Term};

/// Jobs per statement.
const BATCH: usize = 200;
/// Jobs per erasure; whoever needs more does it again.
const MOST_JOBS: i64 = 10_000;

/// A job with the value in its data.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ErasedJob {
    #[serde(skip)]
    pub prefix: String,
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
}

/// What was erased.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Erased {
    pub attempts: i64,
    pub bodies: i64,
}

impl Store {
    /// Jobs that are found by a term, and whether there are more.
    pub async fn jobs_with(&self, term: &Term, queue: Option<&str>) -> Result<(Vec<ErasedJob>, bool), StoreError> {
        let query = sqlx::query_as(
            "select distinct prefix, queue, job_id, job_created_ms from attempt_terms where term = $1 and ($2::text is null or queue = $2) \
             limit $3 + 1",
        );
        let mut jobs: Vec<ErasedJob> = query.bind(&term[..]).bind(queue).bind(MOST_JOBS).fetch_all(&self.pool).await?;
        let more = jobs.len() as i64 > MOST_JOBS;
        jobs.truncate(MOST_JOBS as usize);
        Ok((jobs, more))
    }

    /// What [`Store::erase`] would do.
    pub async fn erasable(&self, jobs: &[ErasedJob]) -> Result<Erased, StoreError> {
        let text = "select count(*) as attempts, count(body) as bodies from attempts \
            join unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as jobs (prefix, queue, job_id, job_created_ms) \
            using (prefix, queue, job_id, job_created_ms) where erased_at is null";
        self.of_jobs(text, jobs).await
    }

    /// Takes bodies, messages, backtraces, outside calls and terms of these jobs' attempts away. The rows stay, marked.
    pub async fn erase(&self, jobs: &[ErasedJob]) -> Result<Erased, StoreError> {
        // A group of dead letters keeps its words only while an attempt has them.
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
                .bind(jobs.iter().map(|job| job.job_created_ms).collect::<Vec<_>>());
            let row = query.fetch_one(&self.pool).await?;
            erased.attempts += row.try_get::<i64, _>("attempts")?;
            erased.bodies += row.try_get::<i64, _>("bodies")?;
        }
        Ok(erased)
    }
}
