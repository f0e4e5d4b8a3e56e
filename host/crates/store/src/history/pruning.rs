//! Deletes old attempts: a month of which nothing is kept is dropped as a whole; other attempts are
//! deleted in small steps with pauses between them.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{DateTime, Days, Months, NaiveDate, Utc};
use patchbay_model::outcome::OutcomeKind;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::retention::Retention;
use crate::leader::Leadership;
use crate::{Store, StoreError};

const STEP: i64 = 5_000;
/// Counting stops here: a count only has to show whether there is little or much.
const MOST_COUNTED: i64 = 1_000_000;
/// A month that is being read is dropped later: waiting for its lock would delay all others.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '2s'";

/// What was deleted, or would be.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// Months that were dropped as a whole.
    pub partitions: Vec<String>,
    /// Attempts in the dropped months: an estimate.
    pub attempts_in_partitions: i64,
    /// Attempts of other months, deleted one by one.
    pub attempts: i64,
    /// Whether there are more of those than `attempts` says.
    pub and_more: bool,
    /// Dead-letter groups that have no attempts left.
    pub dead_letters: i64,
}

pub type Prunable = Pruned;

/// One partition of the attempts.
struct Partition {
    name: String,
    /// First time included and first time excluded; absent for the default partition.
    month: Option<(DateTime<Utc>, DateTime<Utc>)>,
    rows: i64,
}

impl Store {
    /// What [`Store::prune_history`] would delete now.
    pub async fn prunable_history(&self, retention: &Retention) -> Result<Prunable, StoreError> {
        let mut connection = self.pool.acquire().await?;
        prune(&mut connection, retention, true).await
    }

    /// Deletes attempts that are older than their retention.
    pub async fn prune_history(&self, retention: &Retention) -> Result<Pruned, StoreError> {
        let mut connection = self.pool.acquire().await?;
        recorded(&mut connection, retention).await
    }
}

impl Leadership<'_> {
    /// Deletes attempts that are older than their retention.
    pub async fn prune_history(&mut self, retention: &Retention) -> Result<Pruned, StoreError> {
        recorded(self.0, retention).await
    }

    /// When the last pruning began.
    pub async fn pruned_at(&mut self) -> Result<Option<DateTime<Utc>>, StoreError> {
        Ok(sqlx::query_scalar("select started_at from history_pruned")
            .fetch_optional(&mut *self.0)
            .await?)
    }
}

async fn recorded(
    connection: &mut PgConnection,
    retention: &Retention,
) -> Result<Pruned, StoreError> {
    let begin = "insert into history_pruned (started_at) values (now()) on conflict (only_one) do update set started_at = now(), \
        ended_at = null, attempts = 0, partitions = 0, error = null";
    sqlx::query(begin).execute(&mut *connection).await?;
    let done = prune(connection, retention, false).await;
    let (attempts, partitions, error) = match &done {
        Ok(pruned) => (
            pruned.attempts + pruned.attempts_in_partitions,
            pruned.partitions.len() as i32,
            None,
        ),
        Err(error) => (0, 0, Some(error.to_string())),
    };
    let end = sqlx::query(
        "update history_pruned set ended_at = now(), attempts = $1, partitions = $2, error = $3",
    );
    end.bind(attempts)
        .bind(partitions)
        .bind(error)
        .execute(connection)
        .await?;
    done
}

async fn prune(
    connection: &mut PgConnection,
    retention: &Retention,
    dry_run: bool,
) -> Result<Pruned, StoreError> {
    let now = Utc::now();
    let before = |days: i32| {
        now.checked_sub_days(Days::new(days.unsigned_abs().into()))
            .unwrap_or(DateTime::UNIX_EPOCH)
    };
    let (nothing_left, something_old) = (before(retention.longest()), before(retention.shortest()));
    let mut pruned = Pruned::default();
    for partition in partitions(connection).await? {
        match partition.month {
            Some((_, end)) if end <= nothing_left => {
                if dry_run || drop_month(connection, &partition.name).await? {
                    pruned.attempts_in_partitions += partition.rows;
                    pruned.partitions.push(partition.name);
                }
            }
            Some((start, _)) if start >= something_old => {}
            _ => {
                for queue in queues(connection, &partition.name).await? {
                    for (days, outcomes) in by_days(retention, &queue) {
                        let old = Old {
                            partition: &partition.name,
                            queue: &queue,
                            before: before(days),
                            outcomes,
                        };
                        let (attempts, more) = if dry_run {
                            old.count(connection).await?
                        } else {
                            (old.delete(connection).await?, false)
                        };
                        pruned.attempts += attempts;
                        pruned.and_more |= more;
                    }
                }
            }
        }
    }
    let letters: Vec<String> = sqlx::query_scalar("select distinct queue from dead_letters")
        .fetch_all(&mut *connection)
        .await?;
    for queue in letters {
        let failures = OutcomeKind::ALL
            .iter()
            .filter(|outcome| **outcome != OutcomeKind::Completed);
        let days = failures
            .map(|outcome| retention.days(&queue, *outcome))
            .max()
            .unwrap_or(i32::MAX);
        let which = "dead_letters where queue = $1 and last_seen < $2";
        let text = if dry_run {
            format!("select count(*) from {which}")
        } else {
            format!("with gone as (delete from {which} returning 1) select count(*) from gone")
        };
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(text))
            .bind(&queue)
            .bind(before(days));
        pruned.dead_letters += query.fetch_one(&mut *connection).await?;
        if !dry_run {
            delete_ended_jobs(connection, &queue, before(days)).await?;
        }
    }
    Ok(pruned)
}

/// Of groups that stay, deletes jobs that have ended and whose failure is as old as the attempts
/// that are deleted. A job that fails or waits stays: it is what the group is there for.
async fn delete_ended_jobs(
    connection: &mut PgConnection,
    queue: &str,
    before: DateTime<Utc>,
) -> Result<(), StoreError> {
    loop {
        let query = sqlx::query(
            "delete from dead_letter_jobs where ctid = any(array(select j.ctid from dead_letters d join dead_letter_jobs j \
             on j.dead_letter = d.id where d.queue = $1 and j.failed_at < $2 and j.state not in ('failing', 'waiting') limit $3))",
        );
        let query = query.bind(queue).bind(before).bind(STEP);
        let gone = query.execute(&mut *connection).await?.rows_affected();
        if gone < STEP.unsigned_abs() {
            return Ok(());
        }
    }
}

/// Outcomes grouped by their retention in days.
fn by_days(retention: &Retention, queue: &str) -> BTreeMap<i32, Vec<&'static str>> {
    let mut groups = BTreeMap::<i32, Vec<&'static str>>::new();
    for outcome in OutcomeKind::ALL {
        groups
            .entry(retention.days(queue, outcome))
            .or_default()
            .push(outcome.as_str());
    }
    groups
}

async fn partitions(connection: &mut PgConnection) -> Result<Vec<Partition>, StoreError> {
    let query = sqlx::query(
        "select c.relname, greatest(c.reltuples, 0)::bigint as rows from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'attempts'::regclass order by c.relname",
    );
    let rows = query.fetch_all(connection).await?;
    rows.into_iter()
        .map(|row| {
            let name: String = row.try_get("relname")?;
            Ok(Partition {
                month: month(&name),
                name,
                rows: row.try_get("rows")?,
            })
        })
        .collect()
}

/// The month of a name such as `attempts_2026_01`.
pub(super) fn month(name: &str) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let (year, month) = name.strip_prefix("attempts_")?.split_once('_')?;
    let start = NaiveDate::from_ymd_opt(year.parse().ok()?, month.parse().ok()?, 1)?;
    let at = |date: NaiveDate| Some(date.and_hms_opt(0, 0, 0)?.and_utc());
    Some((at(start)?, at(start.checked_add_months(Months::new(1))?)?))
}

/// Returns whether the month was dropped; false while somebody reads it.
async fn drop_month(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
    let terms = name.replacen("attempts", "attempt_terms", 1);
    for table in [name, &terms] {
        match sqlx::query(AssertSqlSafe(format!(
            "drop table if exists patchbay.{table}"
        )))
        .execute(&mut *tx)
        .await
        {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
                return Ok(false);
            }
            done => {
                done?;
            }
        }
    }
    tx.commit().await?;
    Ok(true)
}

/// The queues in a partition, found by one index lookup each.
async fn queues(connection: &mut PgConnection, partition: &str) -> Result<Vec<String>, StoreError> {
    let text = format!(
        "with recursive known as (select min(queue) as queue from patchbay.{partition} union all \
         select (select min(queue) from patchbay.{partition} p where p.queue > known.queue) from known where queue is not null) \
         select queue from known where queue is not null"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(text))
        .fetch_all(connection)
        .await?)
}

/// Attempts of a queue that are older than their retention.
struct Old<'a> {
    partition: &'a str,
    queue: &'a str,
    before: DateTime<Utc>,
    outcomes: Vec<&'static str>,
}

impl Old<'_> {
    fn which(&self) -> String {
        format!(
            "patchbay.{} where queue = $1 and finished_at < $2 and outcome = any($3)",
            self.partition
        )
    }

    /// The count, and whether there are more than were counted.
    async fn count(&self, connection: &mut PgConnection) -> Result<(i64, bool), StoreError> {
        let old = self.which();
        let text = format!("select count(*) from (select from {old} limit $4 + 1) as counted");
        let query = sqlx::query_scalar(AssertSqlSafe(text))
            .bind(self.queue)
            .bind(self.before)
            .bind(&self.outcomes);
        let counted: i64 = query.bind(MOST_COUNTED).fetch_one(connection).await?;
        Ok((counted.min(MOST_COUNTED), counted > MOST_COUNTED))
    }

    async fn delete(&self, connection: &mut PgConnection) -> Result<i64, StoreError> {
        let (partition, old) = (self.partition, self.which());
        let text = format!(
            "with gone as (delete from patchbay.{partition} where ctid = any(array(select ctid from {old} order by finished_at limit $4)) \
             returning prefix, queue, job_id, job_created_ms, started, finished_at), \
             terms as (delete from attempt_terms t using gone g where t.queue = g.queue and t.finished_at = g.finished_at \
             and t.prefix = g.prefix and t.job_id = g.job_id and t.job_created_ms = g.job_created_ms and t.started = g.started) \
             select count(*) from gone"
        );
        let mut total = 0;
        loop {
            let begun = Instant::now();
            let query = sqlx::query_scalar(AssertSqlSafe(text.clone()));
            let query = query
                .bind(self.queue)
                .bind(self.before)
                .bind(&self.outcomes)
                .bind(STEP);
            let gone: i64 = query.fetch_one(&mut *connection).await?;
            total += gone;
            if gone < STEP {
                return Ok(total);
            }
            // Sleeps as long as the step took, so that recording never falls below half its speed.
            tokio::time::sleep(begun.elapsed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_known_by_its_month() {
        let (start, end) = month("attempts_2025_12").expect("a month");
        assert_eq!(
            (start.to_rfc3339(), end.to_rfc3339()),
            (
                "2025-12-01T00:00:00+00:00".into(),
                "2026-01-01T00:00:00+00:00".into()
            )
        );
        for name in [
            "attempts_other",
            "attempts_2025_13",
            "attempts",
            "attempt_terms_2025_12",
        ] {
            assert!(month(name).is_none(), "{name}");
        }
    }
}
