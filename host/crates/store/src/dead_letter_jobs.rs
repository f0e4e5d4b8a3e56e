//! Where the jobs of dead letters are now, and when a group is closed.
//!
//! The recorder writes what a new attempt says ([`Store::record_attempts`]); what Redis says is
//! written here, by the leader for all in turn, and by whoever is about to show some. What has
//! changed since it was read stays: the newer attempt knows better.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use crate::dead_letters::OF_A_GROUP;
use crate::{Leadership, Store, StoreError};

/// Failures of a group that one statement reads from the history.
const PAGE: i64 = 1_000;

/// Where a job of a dead letter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterJobState {
    /// In the failed state.
    Failing,
    /// To run again, or running.
    Waiting,
    /// It has completed since.
    Repaired,
    /// Redis does not have it any more, and it has not completed.
    Removed,
    /// Its last final failure is in another group.
    Elsewhere,
}

impl DeadLetterJobState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Waiting => "waiting",
            Self::Repaired => "repaired",
            Self::Removed => "removed",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// A job of a group, as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DeadLetterJob {
    pub dead_letter: i64,
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
    pub state: String,
    failed_at: DateTime<Utc>,
}

/// The place behind a job in the order in which all are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterJobCursor(i64, String, i64);

impl Store {
    /// Where these jobs of a group are: ids, and when each was created.
    pub async fn states_of_dead_letter_jobs(
        &self,
        dead_letter: i64,
        (ids, created_ms): (&[&str], &[i64]),
    ) -> Result<Vec<DeadLetterJob>, StoreError> {
        let query = sqlx::query_as(
            "select dead_letter, queue, job_id, job_created_ms, state, failed_at from dead_letter_jobs where dead_letter = $1 \
             and (job_id, job_created_ms) in (select * from unnest($2::text[], $3::bigint[]))",
        );
        let query = query.bind(dead_letter).bind(ids).bind(created_ms);
        Ok(query.fetch_all(&self.pool).await?)
    }
}

impl DeadLetterJob {
    pub fn cursor(&self) -> DeadLetterJobCursor {
        DeadLetterJobCursor(self.dead_letter, self.job_id.clone(), self.job_created_ms)
    }
}

/// How far the failures of a group have been read, newest first.
#[derive(Debug, Clone)]
pub struct Listing {
    dead_letter: i64,
    /// Failures that were not listed when this began.
    missing: i64,
    /// The oldest that was read: its end, job, creation and start.
    behind: Option<(DateTime<Utc>, String, i64, i32)>,
}

impl Store {
    /// Whether the leader has anything to check.
    pub async fn has_dead_letters_to_check(&self, prefix: &str) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(
            "select exists (select from dead_letter_jobs where prefix = $1 and state in ('failing', 'waiting', 'removed')) \
             or exists (select from dead_letters where prefix = $1 and (jobs_listed < jobs or closed_at is null))",
        );
        Ok(query.bind(prefix).fetch_one(&self.pool).await?)
    }

    /// The jobs of these groups that can still change, those that failed last first: at most `most`,
    /// and of each group and state at most `most_of_each`.
    pub async fn newest_dead_letter_jobs(
        &self,
        groups: &[i64],
        most_of_each: i64,
        most: i64,
    ) -> Result<Vec<DeadLetterJob>, StoreError> {
        let query = sqlx::query_as(
            "select j.* from unnest($1::bigint[]) g, unnest(array['failing', 'waiting', 'removed']) s, \
             lateral (select dead_letter, queue, job_id, job_created_ms, state, failed_at from dead_letter_jobs \
             where dead_letter = g and state = s and state in ('failing', 'waiting', 'removed') order by failed_at desc limit $2) j \
             order by j.failed_at desc limit $3",
        );
        Ok(query
            .bind(groups)
            .bind(most_of_each)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// As [`Leadership::move_dead_letter_jobs`].
    pub async fn move_dead_letter_jobs(
        &self,
        moved: &[(DeadLetterJob, DeadLetterJobState)],
    ) -> Result<(), StoreError> {
        move_jobs(&mut *self.pool.acquire().await?, moved).await
    }

    /// As [`Leadership::close_dead_letters`], of these groups.
    pub async fn close_dead_letters(&self, prefix: &str, groups: &[i64]) -> Result<(), StoreError> {
        close(&mut *self.pool.acquire().await?, prefix, Some(groups)).await
    }
}

impl Leadership<'_> {
    /// The next jobs, of all groups in turn, that can still change.
    pub async fn next_dead_letter_jobs(
        &mut self,
        prefix: &str,
        behind: Option<&DeadLetterJobCursor>,
        most: i64,
    ) -> Result<Vec<DeadLetterJob>, StoreError> {
        let query = sqlx::query_as(
            "select dead_letter, queue, job_id, job_created_ms, state, failed_at from dead_letter_jobs where prefix = $1 \
             and state in ('failing', 'waiting', 'removed') and (dead_letter, job_id, job_created_ms) > ($2, $3, $4) \
             order by dead_letter, job_id, job_created_ms limit $5",
        );
        let (group, job, created) = match behind {
            Some(DeadLetterJobCursor(group, job, created)) => (*group, job.as_str(), *created),
            None => (i64::MIN, "", i64::MIN),
        };
        Ok(query
            .bind(prefix)
            .bind(group)
            .bind(job)
            .bind(created)
            .bind(most)
            .fetch_all(&mut *self.0)
            .await?)
    }

    /// Notes where these jobs are now, unless an attempt has said more since they were read.
    pub async fn move_dead_letter_jobs(
        &mut self,
        moved: &[(DeadLetterJob, DeadLetterJobState)],
    ) -> Result<(), StoreError> {
        move_jobs(self.0, moved).await
    }

    /// Closes open groups of which no job fails or waits any more, and opens closed ones of which
    /// one does again.
    pub async fn close_dead_letters(&mut self, prefix: &str) -> Result<(), StoreError> {
        close(self.0, prefix, None).await
    }

    /// A group with failures of which this table does not have the jobs: they are older than the
    /// table, or were recorded by a host of an older version.
    pub async fn unlisted_dead_letter(
        &mut self,
        prefix: &str,
    ) -> Result<Option<Listing>, StoreError> {
        let query = sqlx::query_as::<_, (i64, i64)>(
            "select id, jobs - jobs_listed from dead_letters where prefix = $1 and jobs_listed < jobs order by last_seen desc limit 1",
        );
        let row = query.bind(prefix).fetch_optional(&mut *self.0).await?;
        Ok(row.map(|(dead_letter, missing)| Listing {
            dead_letter,
            missing,
            behind: None,
        }))
    }

    /// Writes the jobs of the next page of a group's failures. Returns how to go on; `None` at the
    /// end.
    pub async fn list_dead_letter_jobs(
        &mut self,
        listing: Listing,
    ) -> Result<Option<Listing>, StoreError> {
        let query = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with page as (select a.job_id, a.job_created_ms, a.started, a.finished_at, d.id, d.prefix, d.queue, d.fingerprint, d.plugin, \
             d.revision from attempts a join dead_letters d on {OF_A_GROUP} where d.id = $1 and a.finished_at <= coalesce($2, 'infinity'::timestamptz) \
             and ($2 is null or (a.finished_at, a.job_id, a.job_created_ms, a.started) < ($2, $3, $4, $5)) \
             order by a.finished_at desc, a.job_id desc, a.job_created_ms desc, a.started desc limit $6), \
             once as (select distinct on (job_id, job_created_ms) * from page order by job_id, job_created_ms, started desc), \
             listed as (insert into dead_letter_jobs as known (dead_letter, prefix, queue, job_id, job_created_ms, started, failed_at, state) \
             select o.id, o.prefix, o.queue, o.job_id, o.job_created_ms, o.started, o.finished_at, case when l.verdict = 'complete' then 'repaired' \
             when l.fingerprint = o.fingerprint and coalesce(l.plugin, '') = o.plugin and coalesce(l.revision, '') = o.revision then 'failing' \
             else 'elsewhere' end from once o, lateral (select b.verdict, b.fingerprint, b.plugin, b.revision from attempts b \
             where b.prefix = o.prefix and b.queue = o.queue and b.job_id = o.job_id and b.job_created_ms = o.job_created_ms \
             and b.verdict in ('complete', 'fail') order by b.started desc, b.finished_at desc limit 1) l \
             order by o.job_id, o.job_created_ms on conflict (dead_letter, job_id, job_created_ms) do update set started = excluded.started, \
             failed_at = excluded.failed_at, state = excluded.state, changed_at = now() where known.started < excluded.started) \
             select finished_at, job_id, job_created_ms, started, count(*) over () as rows from page \
             order by finished_at, job_id, job_created_ms, started limit 1"
        )));
        let behind = listing.behind.as_ref();
        let row: Option<PgRow> = query
            .bind(listing.dead_letter)
            .bind(behind.map(|place| place.0))
            .bind(behind.map(|place| place.1.as_str()))
            .bind(behind.map(|place| place.2))
            .bind(behind.map(|place| place.3))
            .bind(PAGE)
            .fetch_optional(&mut *self.0)
            .await?;
        if let Some(row) = row
            && row.try_get::<i64, _>("rows")? == PAGE
        {
            let behind = (
                row.try_get("finished_at")?,
                row.try_get("job_id")?,
                row.try_get("job_created_ms")?,
                row.try_get("started")?,
            );
            return Ok(Some(Listing {
                behind: Some(behind),
                ..listing
            }));
        }
        // Failures that were recorded meanwhile are counted by their recorder, or by the next time.
        let end =
            sqlx::query("update dead_letters set jobs_listed = jobs_listed + $2 where id = $1");
        end.bind(listing.dead_letter)
            .bind(listing.missing)
            .execute(&mut *self.0)
            .await?;
        Ok(None)
    }
}

/// Never waits for a row: the recorder has the right of way, and the next check finds the job.
async fn move_jobs(
    connection: &mut PgConnection,
    moved: &[(DeadLetterJob, DeadLetterJobState)],
) -> Result<(), StoreError> {
    if moved.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(
        "update dead_letter_jobs j set state = n.next, changed_at = now() from (select l.dead_letter, l.job_id, l.job_created_ms, k.next \
         from unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::timestamptz[], $6::text[]) \
         as k (dead_letter, job_id, job_created_ms, state, failed_at, next) join dead_letter_jobs l on l.dead_letter = k.dead_letter \
         and l.job_id = k.job_id and l.job_created_ms = k.job_created_ms and l.state = k.state and l.failed_at = k.failed_at \
         for no key update of l skip locked) n \
         where j.dead_letter = n.dead_letter and j.job_id = n.job_id and j.job_created_ms = n.job_created_ms",
    );
    let jobs = || moved.iter().map(|(job, _)| job);
    query
        .bind(jobs().map(|job| job.dead_letter).collect::<Vec<_>>())
        .bind(jobs().map(|job| job.job_id.as_str()).collect::<Vec<_>>())
        .bind(jobs().map(|job| job.job_created_ms).collect::<Vec<_>>())
        .bind(jobs().map(|job| job.state.as_str()).collect::<Vec<_>>())
        .bind(jobs().map(|job| job.failed_at).collect::<Vec<_>>())
        .bind(
            moved
                .iter()
                .map(|(_, state)| state.as_str())
                .collect::<Vec<_>>(),
        )
        .execute(connection)
        .await?;
    Ok(())
}

/// Each group by a statement of its own: several locks at once could wait for a recorder that waits
/// for them.
async fn close(
    connection: &mut PgConnection,
    prefix: &str,
    groups: Option<&[i64]>,
) -> Result<(), StoreError> {
    let query = sqlx::query_as::<_, (i64, i64, bool)>(
        "select d.id, d.jobs, a.has_active from dead_letters d cross join lateral (select exists (select from dead_letter_jobs j \
         where j.dead_letter = d.id and j.state in ('failing', 'waiting')) as has_active) a where d.prefix = $1 \
         and ($2::bigint[] is null or d.id = any($2)) and d.jobs_listed >= d.jobs and a.has_active = (d.closed_at is not null)",
    );
    let wrong = query
        .bind(prefix)
        .bind(groups)
        .fetch_all(&mut *connection)
        .await?;
    for (id, failures, has_active) in wrong {
        // A failure that was recorded in between has raised their number, and opened the group.
        let query = sqlx::query(
            "update dead_letters set closed_at = case when not $3 then now() end where id = $1 and jobs = $2 \
             and (closed_at is not null) = $3",
        );
        query
            .bind(id)
            .bind(failures)
            .bind(has_active)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
