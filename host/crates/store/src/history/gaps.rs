//! Starts of jobs that nobody has told the end of: rows with the source `worker-lost`.
//!
//! A job that stalled lost a worker, or a worker was too slow to keep its lock and tells of its attempt later. So a gap is looked at only
//! once everything that came before is here, and a row that was inferred gives way to one that was told.

use std::time::Duration;

use sqlx::Row;

use crate::StoreError;
use crate::leader::Leadership;

/// Gaps per statement.
const BATCH: i64 = 200;
/// Starts before the one that tells of a stall that are looked at.
const MAX_STARTS: i32 = 100;
/// For so long a told attempt takes the place of one that was inferred.
const GIVES_WAY_DAYS: i32 = 2;

impl Leadership<'_> {
    /// Fills gaps that were noted longer than `after` ago; gives the number of rows, and whether there may be more gaps.
    pub async fn fill_gaps(&mut self, after: Duration) -> Result<(u64, bool), StoreError> {
        // Nearly always there is none.
        let noted = sqlx::query_scalar("select exists (select from history_gaps)").fetch_one(&mut *self.0);
        if !noted.await? {
            return Ok((0, false));
        }
        // A job's latest stall tells of all before it. Of its missing starts the latest are taken, as many as it stalled: others were handed back.
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
        let row = fill.bind(after.as_secs_f64()).bind(BATCH).bind(MAX_STARTS).fetch_one(&mut *self.0).await?;
        let (filled, due): (i64, i64) = (row.try_get("filled")?, row.try_get("due")?);
        Ok((filled.unsigned_abs(), due == BATCH))
    }

    /// Takes out what was inferred where somebody has told it since.
    pub async fn give_way(&mut self) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "delete from attempts lost where source = 'worker-lost' and finished_at > now() - make_interval(days => $1) \
             and exists (select from attempts told where told.prefix = lost.prefix and told.queue = lost.queue and told.job_id = lost.job_id \
             and told.job_created_ms = lost.job_created_ms and told.started = lost.started and told.source = 'host')",
        );
        Ok(query.bind(GIVES_WAY_DAYS).execute(&mut *self.0).await?.rows_affected())
    }
}
