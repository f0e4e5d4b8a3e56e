//! Writes attempts to the history: many in one statement, each once.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, TimeZone, Utc};
use patchbay_model::PluginName;
use patchbay_model::attempt::{AttemptRecord, MAX_CALLS, OutsideCall, Source, VerdictKind};
use patchbay_model::fingerprint::fingerprint;
use sqlx::Row;
use sqlx::types::Json;

use crate::attempts::without_nul;
use crate::{Store, StoreError, Term};

/// Limits of texts, in bytes. The host's own texts are shorter. An entry of the stream that another
/// program has written may hold anything, and indexed texts must fit into their index.
const MAX_NAME: usize = 512;
const MAX_MESSAGE: usize = 8 << 10;
const MAX_STACK: usize = 64 << 10;

#[derive(Debug)]
pub struct NewAttempt {
    /// Its body and values are ignored; the fields below replace them.
    pub record: AttemptRecord,
    /// The job's data and result.
    pub body: Option<SealedBody>,
    /// The terms by which the job is found.
    pub terms: Vec<Term>,
}

/// A job's data and result, sealed: only the hosts can open them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBody {
    /// Id of the history key that sealed it.
    pub key: String,
    /// Includes nonce and tag.
    pub bytes: Vec<u8>,
}

/// A row as the table stores it. Producers choose texts and numbers; a value that Postgres cannot
/// hold is replaced by the nearest one that it can.
struct NewRow<'a> {
    prefix: Cow<'a, str>,
    queue: &'a str,
    job_id: &'a str,
    job_created_ms: i64,
    started: i32,
    attempt: i32,
    name: Cow<'a, str>,
    plugin: Option<&'a str>,
    revision: Option<String>,
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
    calls: Option<Json<Vec<&'a OutsideCall>>>,
    stalled: i32,
    body_key: Option<&'a str>,
    body: Option<&'a [u8]>,
    fingerprint: Option<[u8; 16]>,
    normalised: Option<String>,
}

impl<'a> From<&'a NewAttempt> for NewRow<'a> {
    fn from(new: &'a NewAttempt) -> Self {
        let record = &new.record;
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let (fingerprint, normalised) = record
            .dead_letter()
            .map(|(code, text)| (fingerprint(code, &text), without_nul(&text).into_owned()))
            .unzip();
        Self {
            prefix: fitting(&record.job.prefix, MAX_NAME),
            queue: record.job.queue.as_str(),
            job_id: record.job.id.as_str(),
            job_created_ms: i64::try_from(record.job.created_ms).unwrap_or(i64::MAX),
            started: number(record.started),
            attempt: number(record.attempt),
            name: fitting(&record.name, MAX_NAME),
            plugin: record.plugin.as_ref().map(PluginName::as_str),
            revision: record.revision.map(String::from),
            host: fitting(&record.host, MAX_NAME),
            started_at: within_range(record.started_at),
            finished_at: within_range(record.finished_at),
            outcome: record.outcome.as_str(),
            verdict: record.verdict.as_str(),
            code: record.code.as_deref().map(|text| fitting(text, MAX_NAME)),
            message: record
                .message
                .as_deref()
                .map(|text| fitting(text, MAX_MESSAGE)),
            stack: record.stack.as_deref().map(|text| fitting(text, MAX_STACK)),
            correlation_id: fitting(&record.correlation_id, MAX_NAME),
            source: record.source.as_str(),
            platform: record
                .platform
                .as_deref()
                .map(|text| fitting(text, MAX_NAME)),
            parent: record.parent.as_deref().map(|text| fitting(text, MAX_NAME)),
            calls: calls(&record.calls).map(Json),
            stalled: number(record.stalled),
            body_key: new.body.as_ref().map(|body| body.key.as_str()),
            body: new.body.as_ref().map(|body| body.bytes.as_slice()),
            fingerprint,
            normalised,
        }
    }
}

impl NewRow<'_> {
    /// Whether the job may have failed for good before, and has completed. The same rule as in
    /// [`ENDED`].
    fn may_repair(&self) -> bool {
        self.verdict == VerdictKind::Complete.as_str()
            && (self.started > 1 || self.source == Source::Mirror.as_str())
    }
}

/// Without NUL, and at most `most` bytes; a cut is marked.
fn fitting(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return without_nul(text);
    }
    let mut cut =
        without_nul(&text[..text.floor_char_boundary(most - '…'.len_utf8())]).into_owned();
    cut.push('…');
    cut.into()
}

/// Limits a time to the years that Postgres's texts and other programs can hold. A clock that gave
/// another year was wrong anyway.
fn within_range(at: DateTime<Utc>) -> DateTime<Utc> {
    match at.year() {
        ..1970 => DateTime::UNIX_EPOCH,
        1970..10_000 => at,
        _ => Utc
            .with_ymd_and_hms(9999, 12, 31, 0, 0, 0)
            .single()
            .unwrap_or(DateTime::UNIX_EPOCH),
    }
}

/// The calls that Postgres's JSON can hold.
fn calls(calls: &[OutsideCall]) -> Option<Vec<&OutsideCall>> {
    let texts = |call: &OutsideCall| {
        [&call.kind, &call.host, &call.result]
            .into_iter()
            .chain(&call.method)
            .any(|text| text.contains('\0'))
    };
    // One more than the limit: its entry counts the calls beyond the limit.
    let calls: Vec<_> = calls
        .iter()
        .filter(|call| !texts(call))
        .take(MAX_CALLS + 1)
        .collect();
    (!calls.is_empty()).then_some(calls)
}

/// The values of the row itself; `$1` to `$27`.
const ROWS: &str = "with rows as (select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::integer[], $6::integer[], \
     $7::text[], $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::text[], $14::text[], $15::text[], \
     $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::jsonb[], $23::integer[], $24::text[], \
     $25::bytea[], $26::bytea[], $27::text[]) with ordinality as rows (prefix, queue, job_id, job_created_ms, started, attempt, name, \
     plugin, revision, host, started_at, finished_at, outcome, verdict, code, message, stack, correlation_id, source, platform, parent, \
     calls, stalled, body_key, body, fingerprint, normalised)), \
     added as (insert into attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, host, \
     started_at, finished_at, outcome, verdict, code, message, stack, correlation_id, source, platform, parent, calls, body_key, body, fingerprint) \
     select prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, host, started_at, finished_at, outcome, \
     verdict, code, message, stack, correlation_id, source, platform, parent, calls, body_key, body, fingerprint from rows \
     on conflict do nothing returning prefix, queue, job_id, job_created_ms, started, plugin, revision, finished_at, fingerprint, verdict, source), \
     counted as (insert into revision_attempts as known select plugin, revision, count(*) from added \
     where plugin is not null and revision is not null group by plugin, revision order by plugin, revision \
     on conflict (plugin, revision) do update set attempts = known.attempts + excluded.attempts)";
/// Jobs that failed for good: their groups, and each job once for each group.
const DEAD_LETTERS: &str = ", dead as (insert into dead_letters as known (prefix, queue, fingerprint, plugin, revision, code, message, jobs, \
     jobs_listed, first_seen, last_seen) \
     select a.prefix, a.queue, a.fingerprint, coalesce(a.plugin, ''), coalesce(a.revision, ''), min(r.code), min(r.normalised), count(*), \
     count(*), min(a.finished_at), max(a.finished_at) from added a join rows r using (prefix, queue, job_id, job_created_ms, started, finished_at) \
     where a.fingerprint is not null group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5 \
     on conflict (prefix, queue, fingerprint, plugin, revision) do update set jobs = known.jobs + excluded.jobs, \
     jobs_listed = known.jobs_listed + excluded.jobs_listed, closed_at = null, \
     first_seen = least(known.first_seen, excluded.first_seen), last_seen = greatest(known.last_seen, excluded.last_seen) \
     returning id, prefix, queue, fingerprint, plugin, revision), \
     fails as (select distinct on (d.id, a.job_id, a.job_created_ms) d.id as dead_letter, a.prefix, a.queue, a.job_id, a.job_created_ms, \
     a.started, a.finished_at from added a join dead d on d.prefix = a.prefix and d.queue = a.queue and d.fingerprint = a.fingerprint \
     and d.plugin = coalesce(a.plugin, '') and d.revision = coalesce(a.revision, '') \
     order by d.id, a.job_id, a.job_created_ms, a.started desc, a.finished_at desc)";
/// In place of [`DEAD_LETTERS`], where jobs only completed.
const NO_DEAD_LETTERS: &str = ", fails as (select null::bigint as dead_letter, prefix, queue, job_id, job_created_ms, started, finished_at \
     from added where false)";
/// Where jobs of dead letters are now, by their last end in this batch. A job fails in one group at
/// a time; only a job that has been started before can complete after a failure.
const ENDED: &str = ", ended as (select distinct on (prefix, queue, job_id, job_created_ms) * from \
     (select dead_letter, prefix, queue, job_id, job_created_ms, started from fails union all \
     select null, prefix, queue, job_id, job_created_ms, started from added where verdict = 'complete' and (started > 1 or source = 'mirror')) e \
     order by prefix, queue, job_id, job_created_ms, started desc, dead_letter is null desc), \
     failed as (insert into dead_letter_jobs as known (dead_letter, prefix, queue, job_id, job_created_ms, started, failed_at, state) \
     select f.dead_letter, f.prefix, f.queue, f.job_id, f.job_created_ms, f.started, f.finished_at, case when e.dead_letter is null then 'repaired' \
     when e.dead_letter = f.dead_letter then 'failing' else 'elsewhere' end \
     from fails f join ended e using (prefix, queue, job_id, job_created_ms) order by f.dead_letter, f.job_id, f.job_created_ms \
     on conflict (dead_letter, job_id, job_created_ms) do update set started = excluded.started, failed_at = excluded.failed_at, \
     state = excluded.state, changed_at = now() where known.started <= excluded.started), \
     moved as (update dead_letter_jobs j set state = case when e.dead_letter is null then 'repaired' else 'elsewhere' end, changed_at = now() \
     from ended e where j.prefix = e.prefix and j.queue = e.queue and j.job_id = e.job_id and j.job_created_ms = e.job_created_ms \
     and j.started <= e.started and j.state <> case when e.dead_letter is null then 'repaired' else 'elsewhere' end \
     and not exists (select from fails f where f.dead_letter = j.dead_letter and f.job_id = j.job_id and f.job_created_ms = j.job_created_ms))";
/// Starts whose end may be missing.
const GAPS: &str = ", gaps as (insert into history_gaps (prefix, queue, job_id, job_created_ms, started, stalled, attempt, name, correlation_id, \
     platform) \
     select prefix, queue, job_id, job_created_ms, started, stalled, attempt, name, correlation_id, platform from rows \
     join added using (prefix, queue, job_id, job_created_ms, started, finished_at) where stalled > 0 and started > 1 on conflict do nothing)";
/// Terms; `$28` and `$29`.
const TERMS: &str = ", termed as (insert into attempt_terms (term, finished_at, prefix, queue, job_id, job_created_ms, started) \
     select t.term, finished_at, prefix, queue, job_id, job_created_ms, started from unnest($28::bigint[], $29::bytea[]) as t (place, term) \
     join rows on ordinality = place join added using (prefix, queue, job_id, job_created_ms, started, finished_at) on conflict do nothing)";

/// One array per column: binding and planning thousands of parameters costs more than inserting the
/// rows, and reading JSON takes twice as long. What depends on an attempt (counts, dead letters,
/// terms, gaps) is written in the same statement, from the new rows only: a batch that comes twice
/// counts once. Parts that no row of a batch needs are left out.
fn statement(rows: &[NewRow<'_>], has_terms: bool) -> String {
    let has_gaps = rows.iter().any(|row| row.stalled > 0 && row.started > 1);
    let has_dead_letters = rows.iter().any(|row| row.fingerprint.is_some());
    let may_repair = rows.iter().any(NewRow::may_repair);
    let parts = [
        (DEAD_LETTERS, has_dead_letters),
        (NO_DEAD_LETTERS, may_repair && !has_dead_letters),
        (ENDED, may_repair || has_dead_letters),
        (GAPS, has_gaps),
        (TERMS, has_terms),
    ];
    let parts = parts
        .into_iter()
        .filter_map(|(part, is_needed)| is_needed.then_some(part));
    let mut statement = ROWS.to_owned();
    statement.extend(parts.chain([" select count(*) from added"]));
    statement
}

impl Store {
    /// Writes attempts, all or none; known ones change nothing. Returns the number of new ones.
    pub async fn record_attempts(&self, attempts: &[NewAttempt]) -> Result<u64, StoreError> {
        if attempts.is_empty() {
            return Ok(0);
        }
        match self.insert(attempts).await {
            Err(error) if has_no_place(&error) => {
                let times: Vec<_> = attempts.iter().map(|new| new.record.finished_at).collect();
                self.make_partitions(&times).await?;
                self.insert(attempts).await.map_err(|error| match error {
                    // The row's content is not the reason, so the caller must retry, not drop it.
                    StoreError::Refused(source) if lacks_partition(&source) => {
                        StoreError::Internal(source)
                    }
                    other => other,
                })
            }
            done => done,
        }
    }

    async fn insert(&self, attempts: &[NewAttempt]) -> Result<u64, StoreError> {
        let rows: Vec<NewRow<'_>> = attempts.iter().map(NewRow::from).collect();
        let terms = attempts
            .iter()
            .zip(1_i64..)
            .flat_map(|(new, place)| new.terms.iter().map(move |term| (place, &term[..])));
        let (places, terms): (Vec<i64>, Vec<&[u8]>) = terms.unzip();
        let insert = sqlx::query(sqlx::AssertSqlSafe(statement(&rows, !terms.is_empty())))
            .bind(column(&rows, |row| &*row.prefix))
            .bind(column(&rows, |row| row.queue))
            .bind(column(&rows, |row| row.job_id))
            .bind(column(&rows, |row| row.job_created_ms))
            .bind(column(&rows, |row| row.started))
            .bind(column(&rows, |row| row.attempt))
            .bind(column(&rows, |row| &*row.name))
            .bind(column(&rows, |row| row.plugin))
            .bind(column(&rows, |row| row.revision.as_deref()))
            .bind(column(&rows, |row| &*row.host))
            .bind(column(&rows, |row| row.started_at))
            .bind(column(&rows, |row| row.finished_at))
            .bind(column(&rows, |row| row.outcome))
            .bind(column(&rows, |row| row.verdict))
            .bind(column(&rows, |row| row.code.as_deref()))
            .bind(column(&rows, |row| row.message.as_deref()))
            .bind(column(&rows, |row| row.stack.as_deref()))
            .bind(column(&rows, |row| &*row.correlation_id))
            .bind(column(&rows, |row| row.source))
            .bind(column(&rows, |row| row.platform.as_deref()))
            .bind(column(&rows, |row| row.parent.as_deref()))
            .bind(column(&rows, |row| row.calls.as_ref()))
            .bind(column(&rows, |row| row.stalled))
            .bind(column(&rows, |row| row.body_key))
            .bind(column(&rows, |row| row.body))
            .bind(column(&rows, |row| {
                row.fingerprint.as_ref().map(<[u8; 16]>::as_slice)
            }))
            .bind(column(&rows, |row| row.normalised.as_deref()));
        let insert = if terms.is_empty() {
            insert
        } else {
            insert.bind(places).bind(terms)
        };
        let added: i64 = insert.fetch_one(&self.pool).await?.try_get(0)?;
        Ok(added.unsigned_abs())
    }
}

fn column<'r, 'a, T>(rows: &'r [NewRow<'a>], of: impl Fn(&'r NewRow<'a>) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn has_no_place(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused(source) if lacks_partition(source))
}

/// No partition takes the row. Postgres reports this as a failed check, but names no constraint.
fn lacks_partition(error: &sqlx::Error) -> bool {
    let database = error.as_database_error();
    database.is_some_and(|error| {
        error.code().as_deref() == Some("23514") && error.constraint().is_none()
    })
}

#[cfg(test)]
mod tests {
    use patchbay_model::job::JobKey;
    use patchbay_model::outcome::OutcomeKind;

    use super::*;

    fn attempt() -> anyhow::Result<NewAttempt> {
        let now = Utc::now();
        let job = JobKey {
            prefix: "bull".into(),
            queue: "q".parse()?,
            id: "1".parse()?,
            created_ms: u64::MAX,
        };
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
            stalled: 0,
            values: Vec::new(),
            body: None,
        };
        Ok(NewAttempt {
            record,
            body: None,
            terms: Vec::new(),
        })
    }

    #[test]
    fn what_postgres_cannot_hold_becomes_the_nearest_that_it_can() -> anyhow::Result<()> {
        let attempt = attempt()?;
        let row = NewRow::from(&attempt);
        assert_eq!(
            (row.job_created_ms, row.started, row.attempt),
            (i64::MAX, i32::MAX, i32::MAX)
        );
        assert_eq!(
            (&*row.name, row.code.as_deref()),
            ("a\u{fffd}b", Some("\u{fffd}"))
        );
        assert_eq!(row.message.as_deref(), Some("no \\u0000 but its name"));
        Ok(())
    }

    #[test]
    fn only_a_batch_that_may_concern_dead_letters_pays_for_them() -> anyhow::Result<()> {
        let mut new = attempt()?;
        (new.record.verdict, new.record.code) = (VerdictKind::Complete, None);
        new.record.started = 1;
        let parts = |new: &NewAttempt| {
            let text = statement(&[NewRow::from(new)], false);
            (text.contains(" dead as "), text.contains(" ended as "))
        };
        assert_eq!(parts(&new), (false, false), "a first start that completed");
        new.record.started = 2;
        assert_eq!(parts(&new), (false, true), "a later one");
        (new.record.started, new.record.source) = (1, Source::Mirror);
        assert_eq!(parts(&new), (false, true), "other workers may not count");
        (new.record.verdict, new.record.code) = (VerdictKind::Fail, Some("x".into()));
        assert_eq!(parts(&new), (true, true), "a final failure");
        Ok(())
    }

    #[test]
    fn a_text_of_any_length_and_a_clock_of_any_year_leave_a_row_that_fits() -> anyhow::Result<()> {
        let mut new = attempt()?;
        new.record.message = Some("é".repeat(5 << 20));
        new.record.name = "é".repeat(1_000);
        new.record.started_at = "0000-01-01T00:00:00Z".parse()?;
        new.record.finished_at = "+262000-01-01T00:00:00Z".parse()?;
        let row = NewRow::from(&new);
        let message = row.message.as_deref().map_or(0, str::len);
        assert!(message <= MAX_MESSAGE && message > MAX_MESSAGE - 4);
        assert!(row.name.len() <= MAX_NAME && row.name.ends_with('…'));
        let times = [row.started_at, row.finished_at].map(|at| at.to_rfc3339());
        assert_eq!(
            times,
            ["1970-01-01T00:00:00+00:00", "9999-12-31T00:00:00+00:00"]
        );
        Ok(())
    }
}
