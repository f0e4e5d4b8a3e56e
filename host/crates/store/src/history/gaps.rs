//! Gaps: starts of jobs without a recorded end. They become rows with the source `worker-lost`.
//!
//! A stalled job has lost its worker, or the worker was too slow to renew the lock and records its
//! attempt later. So a gap is filled only after all earlier records have arrived, and an inferred
//! row is deleted when the real record arrives.

use std::time::Duration;

use sqlx::Row;

use crate::StoreError;
use crate::leader::Leadership;

const BATCH: i64 = 200;
/// How many starts before the one that reports a stall are checked.
const MAX_STARTS: i32 = 100;
/// For this long a recorded attempt replaces an inferred one.
const GIVES_WAY_DAYS: i32 = 2;

impl Leadership<'_> {
    /// Fills gaps that were noted longer than `after` ago. Returns the number of rows, and whether
    /// there may be more gaps.
    pub async fn fill_gaps(&mut self, after: Duration) -> Result<(u64, bool), StoreError> {
        // Nearly always there are none.
        let noted =
            sqlx::query_scalar("select exists (select from history_gaps)").fetch_one(&mut *self.0);
        if !noted.await? {
            return Ok((0, false));
        }
        // The last stall of a job counts all earlier ones. Of the missing starts, the latest are
        // taken, as many as the job stalled: the others were handed back.
        let fill = sqlx::query(
            "with due as (delete from history_gaps where ctid = any(array(select ctid from history_gaps \
             where noted_at < now() - make_interval(secs => $1) limit $2)) returning *), \
             last as (select distinct on (prefix, queue, job_id, job_created_ms) * from due \
             order by prefix, queue, job_id, job_created_ms, started desc), \
             missing as (select l.*, n as lost, row_number() over (partition by prefix, queue, job_id, job_created_ms order by n desc) as place, \
             (select min(a.started_at) from attempts a where a.prefix = l.prefix and a.queue = l.queue and a.job_id = l.job_id \
             and a.job_created_ms = l.job_created_ms and a.started > n) as ended, \
             (select count(*) from attempts a where a.prefix = l.prefix and a.queue = l.queue and a.job_id = l.job_id \
             and a.job_created_ms = l.job_created_ms and a.source = 'worker-lost') as known \
             from last l, generate_series(greatest(1, l.started - $3), l.started - 1) n \
             where not exists (select from attempts a where a.prefix = l.prefix and a.queue = l.queue and a.job_id = l.job_id \
             and a.job_created_ms = l.job_created_ms and a.started = n)), \
             filled as (insert into attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, host, started_at, finished_at, \
             outcome, verdict, code, message, correlation_id, source, platform) \
             select prefix, queue, job_id, job_created_ms, lost, attempt, name, '-', ended, ended, 'host-fault', 'defer', 'worker-lost', \
             'its worker ended, or lost its lock, without telling how the attempt did', correlation_id, 'worker-lost', platform \
             from missing where place <= stalled - known and ended is not null on conflict do nothing returning 1) \
             select (select count(*) from filled) as filled, (select count(*) from due) as due",
        );
        let row = fill
            .bind(after.as_secs_f64())
            .bind(BATCH)
            .bind(MAX_STARTS)
            .fetch_one(&mut *self.0)
            .await?;
        let (filled, due): (i64, i64) = (row.try_get("filled")?, row.try_get("due")?);
        Ok((filled.unsigned_abs(), due == BATCH))
    }

    /// Deletes inferred rows whose attempt has been recorded since.
    pub async fn give_way(&mut self) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "delete from attempts lost where source = 'worker-lost' and finished_at > now() - make_interval(days => $1) \
             and exists (select from attempts told where told.prefix = lost.prefix and told.queue = lost.queue and told.job_id = lost.job_id \
             and told.job_created_ms = lost.job_created_ms and told.started = lost.started and told.source = 'host')",
        );
        Ok(query
            .bind(GIVES_WAY_DAYS)
            .execute(&mut *self.0)
            .await?
            .rows_affected())
    }
}
