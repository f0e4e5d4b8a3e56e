//! The history of attempts.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use patchbay_model::attempt::{AttemptRecord, OutsideCall};
use patchbay_model::fingerprint::fingerprint;
use patchbay_model::{JobId, PluginName, QueueName, RevisionDigest};
use serde::Serialize;
use sqlx::Row;

use crate::revisions::damaged;
use crate::{Store, StoreError};

/// One remembered attempt.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct AttemptRow {
    pub started: i32,
    pub attempt: i32,
    pub name: String,
    pub plugin: Option<String>,
    pub revision: Option<String>,
    pub host: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub outcome: String,
    pub verdict: String,
    pub code: Option<String>,
    pub message: Option<String>,
    pub stack: Option<String>,
    pub correlation_id: String,
    pub source: String,
    pub platform: Option<String>,
    pub parent: Option<String>,
    pub calls: Option<serde_json::Value>,
}

/// The columns of [`AttemptRow`].
pub(crate) const COLUMNS: &str = "started, attempt, name, plugin, revision, host, started_at, finished_at, outcome, verdict, code, message, \
    stack, correlation_id, source, platform, parent, calls";

/// As the table has it. Producers choose texts and numbers; what Postgres cannot hold becomes the nearest that it can.
#[derive(Serialize)]
struct NewRow<'a> {
    prefix: Cow<'a, str>,
    queue: &'a str,
    job_id: &'a str,
    job_created_ms: i64,
    started: i32,
    attempt: i32,
    name: Cow<'a, str>,
    plugin: Option<&'a PluginName>,
    revision: Option<RevisionDigest>,
    host: Cow<'a, str>,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
    outcome: &'static str,
    verdict: &'static str,
    code: Option<Cow<'a, str>>,
    message: Option<Cow<'a, str>>,
    stack: Option<Cow<'a, str>>,
    correlation_id: Cow<'a, str>,
    source: &'static str,
    platform: Option<Cow<'a, str>>,
    parent: Option<Cow<'a, str>>,
    calls: Option<&'a [OutsideCall]>,
    /// Hexadecimal.
    fingerprint: Option<String>,
    normalised: Option<String>,
}

impl<'a> From<&'a AttemptRecord> for NewRow<'a> {
    fn from(record: &'a AttemptRecord) -> Self {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let (fingerprint, normalised) = record
            .dead_letter()
            .map(|(code, text)| (hex::encode(fingerprint(code, &text)), without_nul(&text).into_owned()))
            .unzip();
        Self {
            prefix: without_nul(&record.job.prefix),
            queue: record.job.queue.as_str(),
            job_id: record.job.id.as_str(),
            job_created_ms: i64::try_from(record.job.created_ms).unwrap_or(i64::MAX),
            started: number(record.started),
            attempt: number(record.attempt),
            name: without_nul(&record.name),
            plugin: record.plugin.as_ref(),
            revision: record.revision,
            host: without_nul(&record.host),
            started_at: record.started_at,
            finished_at: record.finished_at,
            outcome: record.outcome.as_str(),
            verdict: record.verdict.as_str(),
            code: record.code.as_deref().map(without_nul),
            message: record.message.as_deref().map(without_nul),
            stack: record.stack.as_deref().map(without_nul),
            correlation_id: without_nul(&record.correlation_id),
            source: record.source.as_str(),
            platform: record.platform.as_deref().map(without_nul),
            parent: record.parent.as_deref().map(without_nul),
            calls: (!record.calls.is_empty()).then_some(&record.calls),
            fingerprint,
            normalised,
        }
    }
}

/// Postgres refuses NUL in texts.
pub(crate) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

impl Store {
    /// Remembers attempts, all or none; those that are known already change nothing. Gives the number of new ones.
    pub async fn record_attempts(&self, records: &[AttemptRecord]) -> Result<u64, StoreError> {
        if records.is_empty() {
            return Ok(0);
        }
        let rows: Vec<NewRow<'_>> = records.iter().map(NewRow::from).collect();
        let rows =
            serde_json::to_string(&rows).map_err(|error| StoreError::Internal(sqlx::Error::Encode(error.into())))?;
        // One parameter for all rows: thousands of them cost more to bind and to plan than to insert.
        // What each revision ran is counted in the same statement: a batch that comes twice counts once.
        let insert = sqlx::query(
            "with rows as (select * from json_to_recordset($1::json) as rows (prefix text, queue text, job_id text, job_created_ms bigint, \
             started integer, attempt integer, name text, plugin text, revision text, host text, started_at timestamptz, \
             finished_at timestamptz, outcome text, verdict text, code text, message text, stack text, correlation_id text, source text, \
             platform text, parent text, calls jsonb, fingerprint text, normalised text)), \
             added as (insert into attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, host, \
             started_at, finished_at, outcome, verdict, code, message, stack, correlation_id, source, platform, parent, calls, fingerprint) \
             select prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, host, started_at, finished_at, outcome, \
             verdict, code, message, stack, correlation_id, source, platform, parent, calls, decode(fingerprint, 'hex') from rows \
             on conflict do nothing returning prefix, queue, job_id, job_created_ms, started, plugin, revision, finished_at, fingerprint), \
             counted as (insert into revision_attempts as known select plugin, revision, count(*) from added \
             where plugin is not null and revision is not null group by plugin, revision order by plugin, revision \
             on conflict (plugin, revision) do update set attempts = known.attempts + excluded.attempts), \
             dead as (insert into dead_letters as known (prefix, queue, fingerprint, plugin, revision, code, message, jobs, first_seen, last_seen) \
             select a.prefix, a.queue, a.fingerprint, coalesce(a.plugin, ''), coalesce(a.revision, ''), min(r.code), min(r.normalised), count(*), \
             min(a.finished_at), max(a.finished_at) from added a join rows r using (prefix, queue, job_id, job_created_ms, started, finished_at) \
             where a.fingerprint is not null group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5 \
             on conflict (prefix, queue, fingerprint, plugin, revision) do update set jobs = known.jobs + excluded.jobs, \
             first_seen = least(known.first_seen, excluded.first_seen), last_seen = greatest(known.last_seen, excluded.last_seen)) \
             select count(*) from added",
        );
        let added: i64 = insert.bind(rows).fetch_one(&self.pool).await?.try_get(0)?;
        Ok(added.unsigned_abs())
    }

    /// The newest attempts of a job, oldest first. `prefix` is BullMQ's key prefix.
    pub async fn attempts(
        &self,
        prefix: &str,
        queue: &QueueName,
        job: &JobId,
        most: i64,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select * from (select {COLUMNS} from attempts where prefix = $1 and queue = $2 and job_id = $3 \
             order by started_at desc limit $4) a order by started_at"
        )));
        let query = query.bind(prefix).bind(queue.as_str()).bind(job.as_str()).bind(most);
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// How many attempts each revision of a plugin ran.
    pub async fn attempts_by_revision(&self, plugin: &PluginName) -> Result<Vec<(RevisionDigest, i64)>, StoreError> {
        let query = sqlx::query("select revision, attempts as n from revision_attempts where plugin = $1");
        let rows = query.bind(plugin.as_str()).fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| Ok((row.try_get::<String, _>("revision")?.parse().map_err(damaged)?, row.try_get("n")?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use patchbay_model::attempt::{Source, VerdictKind};
    use patchbay_model::job::JobKey;
    use patchbay_model::outcome::OutcomeKind;

    use super::*;

    #[test]
    fn what_postgres_cannot_hold_becomes_the_nearest_that_it_can() -> anyhow::Result<()> {
        let now = Utc::now();
        let job = JobKey { prefix: "bull".into(), queue: "q".parse()?, id: "1".parse()?, created_ms: u64::MAX };
        let record = AttemptRecord {
            job,
            started: u32::MAX,
            attempt: u32::MAX,
            name: "a\0b".into(),
            plugin: None,
            revision: None,
            host: "host:1".into(),
            started_at: now,
            finished_at: now,
            outcome: OutcomeKind::Completed,
            verdict: VerdictKind::Fail,
            code: Some("\0".into()),
            message: Some("no \\u0000 but its name".into()),
            stack: None,
            correlation_id: String::new(),
            source: Source::Host,
            platform: None,
            parent: None,
            calls: Vec::new(),
            body: None,
        };
        let row = serde_json::to_value(NewRow::from(&record))?;
        assert_eq!((&row["job_created_ms"], &row["started"]), (&i64::MAX.into(), &i32::MAX.into()));
        assert_eq!(row["attempt"], i32::MAX);
        assert_eq!((&row["name"], &row["code"]), (&"a\u{fffd}b".into(), &"\u{fffd}".into()));
        assert_eq!(row["message"], "no \\u0000 but its name");
        Ok(())
    }
}
