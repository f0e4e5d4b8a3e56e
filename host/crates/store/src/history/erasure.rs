//! Erasing a person's data from Postgres: what was said goes, that it happened stays.
//!
//! An erasure is written down with its jobs before the first of them is touched, so that any host can end what another one began. The value
//! that somebody is to be forgotten by is never written down.

use chrono::{DateTime, Utc};
use patchbay_model::filter::Filter;
use patchbay_model::redaction::Mask;
use patchbay_model::{JobId, QueueName};
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Executor, Row};

use crate::{SavedSearch, Store, StoreError, Term};

/// Jobs per statement.
const BATCH: usize = 200;
/// Jobs per erasure; whoever needs more does it again.
const MOST_JOBS: i64 = 10_000;
/// What stands in place of a value in texts that stay.
const ERASED: &str = "[erased]";
/// Somebody waits, and looking through all texts takes its time.
const TEXTS_LIMIT: &str = "set local statement_timeout = '120s'";

/// A job whose data is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ErasedJob {
    #[serde(skip)]
    pub prefix: String,
    pub queue: String,
    pub job_id: String,
    pub job_created_ms: i64,
}

/// What was erased of the history.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Erased {
    pub attempts: i64,
    pub bodies: i64,
}

/// An erasure to be.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct NewErasure<'a> {
    pub prefix: &'a str,
    /// Of a person.
    pub person: Option<(&'a str, Term)>,
    pub queue: Option<&'a str>,
    pub job_id: Option<&'a str>,
    pub unfinished: bool,
    pub actor: &'a str,
    pub reason: &'a str,
}

/// An erasure, for lists.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ErasureRow {
    pub id: i64,
    pub path: Option<String>,
    pub queue: Option<String>,
    pub job_id: Option<String>,
    pub unfinished: bool,
    pub actor: String,
    pub reason: String,
    pub began_at: DateTime<Utc>,
    /// Absent while jobs of it are still to be erased; and for one that was cut short before they were known: ask for it again.
    pub ended_at: Option<DateTime<Utc>>,
    pub listed_at: Option<DateTime<Utc>>,
    /// Jobs that were erased.
    pub done: i64,
    /// Jobs that run, or were not reached yet.
    pub to_come: i64,
    /// Jobs that stay in Redis.
    pub left: i64,
    pub counts: Option<Value>,
}

/// A job that is still to be erased.
#[derive(Debug, Clone, sqlx::FromRow)]
#[allow(missing_docs)]
pub struct PendingErasure {
    pub erasure: i64,
    pub unfinished: bool,
    pub began_at: DateTime<Utc>,
    #[sqlx(flatten)]
    pub job: ErasedJob,
}

/// That a job's data was erased.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct JobErasure {
    pub erasure: i64,
    pub job_created_ms: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub reason: String,
}

/// Texts that operators and the host have written, by place: how many hold the value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Texts {
    pub saved_searches: u64,
    pub bulk_operations: u64,
    pub dead_letters: u64,
    pub operator_actions: u64,
    pub alerts: u64,
    /// Kept for good: entries of audit trails.
    pub audit_entries: u64,
    /// Bulk operations that go on with it; it leaves them when this is asked again after their end.
    pub active_bulk_operations: u64,
    /// Jobs that plugins have enqueued with a transaction and that are in no queue yet.
    pub outbox: u64,
    /// Descriptions of schedules.
    pub schedules: u64,
    /// Reasons of other erasures, and of quarantines.
    pub reasons: u64,
}

impl Texts {
    /// Those that are erased.
    pub fn erasable(&self) -> u64 {
        self.saved_searches
            + self.bulk_operations
            + self.dead_letters
            + self.operator_actions
            + self.alerts
            + self.schedules
            + self.reasons
    }
}

/// Who is to be forgotten, as texts name them.
#[derive(Debug)]
pub struct Person<'a> {
    /// Of job data.
    pub path: &'a str,
    /// As it was given, and in the other ways that jobs are found by.
    pub values: &'a [String],
    /// In all spellings that texts may have.
    pub spellings: &'a [String],
    /// Finds it in texts; empty where it is too short to tell.
    pub mask: &'a Mask,
}

/// As a row has it, now or before its last change.
type Search = Option<Json<SavedSearch>>;

/// By name; `true`: JSON.
type Columns = &'static [(&'static str, bool)];

/// Columns with texts, by place.
const TEXT_COLUMNS: [(&str, Columns, Place); 11] = [
    ("dead_letters", &[("message", false), ("note", false), ("assignee", false)], Place::DeadLetters),
    ("operator_actions", &[("details", true), ("result", true), ("error", false)], Place::Actions),
    ("bulks", &[("reason", false), ("error", false)], Place::BulkJobs),
    ("bulk_items", &[("reason", false)], Place::BulkJobs),
    ("alerts", &[("notice", true)], Place::Alerts),
    ("alert_events", &[("reason", false)], Place::Alerts),
    ("alert_deliveries", &[("body", true), ("last_error", false)], Place::Alerts),
    ("alert_silences", &[("subject", false), ("reason", false)], Place::Alerts),
    ("schedules", &[("description", false)], Place::Schedules),
    ("erasures", &[("reason", false)], Place::Reasons),
    ("quarantines", &[("reason", false), ("end_reason", false)], Place::Reasons),
];

#[derive(Debug, Clone, Copy)]
enum Place {
    DeadLetters,
    Actions,
    BulkJobs,
    Alerts,
    Schedules,
    Reasons,
}

impl Person<'_> {
    /// A regular expression of Postgres that is this text in any of its spellings, and what takes its place; in JSON also where it would be no
    /// text.
    fn pattern(&self, is_json: bool) -> (String, String) {
        let value = self.values.first().map(String::as_str).unwrap_or_default();
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        if is_json && is_number {
            // A number of its own must not become something else.
            return (literal(&Value::from(value).to_string()), Value::from(ERASED).to_string());
        }
        // What cannot stand within a text of JSON would be JSON's own.
        let stands = |text: &&String| !is_json || serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok();
        let spellings: Vec<String> = self.spellings.iter().filter(stands).map(|text| literal(text)).collect();
        (spellings.join("|"), ERASED.to_owned())
    }

    /// The filter without the value; nothing when it has none.
    fn forgotten(&self, filter: &Filter) -> Option<Filter> {
        let mut filter = filter.clone();
        let mut found = false;
        let data = format!("data.{}", self.path);
        for (path, value) in &mut filter.data {
            if (format!("data.{path}") == data && self.values.contains(value)) || self.mask.finds(value) {
                *value = ERASED.to_owned();
                found = true;
            }
        }
        for text in
            [&mut filter.text, &mut filter.name, &mut filter.code, &mut filter.correlation_id, &mut filter.platform]
        {
            if let Some(value) = text.as_mut().filter(|value| self.mask.finds(value)) {
                *value = ERASED.to_owned();
                found = true;
            }
        }
        if filter.job.as_ref().is_some_and(|id| self.mask.finds(id.as_str())) {
            filter.job = None;
            found = true;
        }
        found.then_some(filter)
    }
}

/// A regular expression of Postgres that is this text. Upper and lower case are alike: of ASCII by `~*`, of the rest here, since the collation
/// may know no other letters.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            pattern.push(c);
        } else if c.is_ascii() {
            pattern.extend(['\\', c]);
        } else {
            let mut cases = vec![c.to_string(), c.to_lowercase().collect(), c.to_uppercase().collect()];
            cases.dedup();
            pattern.push_str(&format!("(?:{})", cases.join("|")));
        }
    }
    pattern
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

    /// Parents of these jobs' attempts, each as its queue and id.
    pub async fn parents_of(&self, jobs: &[ErasedJob]) -> Result<Vec<(String, String)>, StoreError> {
        let mut parents = Vec::new();
        for jobs in jobs.chunks(BATCH) {
            let column = |of: fn(&ErasedJob) -> &str| jobs.iter().map(of).collect::<Vec<_>>();
            let query = sqlx::query_scalar(
                "select distinct parent from attempts join unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) \
                 as jobs (prefix, queue, job_id, job_created_ms) using (prefix, queue, job_id, job_created_ms) where parent is not null",
            );
            let query =
                query.bind(column(|job| &job.prefix)).bind(column(|job| &job.queue)).bind(column(|job| &job.job_id));
            let found: Vec<String> =
                query.bind(jobs.iter().map(|job| job.job_created_ms).collect::<Vec<_>>()).fetch_all(&self.pool).await?;
            let named = found.iter().filter_map(|parent| parent.split_once(':'));
            parents.extend(named.map(|(queue, id)| (queue.to_owned(), id.to_owned())));
        }
        Ok(parents)
    }

    /// Jobs that the history has under a name.
    pub async fn jobs_named(&self, prefix: &str, queue: &QueueName, job: &JobId) -> Result<Vec<ErasedJob>, StoreError> {
        let query = sqlx::query_as(
            "select distinct prefix, queue, job_id, job_created_ms from attempts where prefix = $1 and queue = $2 and job_id = $3 limit $4",
        );
        let query = query.bind(prefix).bind(queue.as_str()).bind(job.as_str());
        Ok(query.bind(MOST_JOBS).fetch_all(&self.pool).await?)
    }

    /// Jobs whose failures say it, such as those that other workers ran: nothing else tells what they were about.
    pub async fn jobs_saying(
        &self,
        prefix: &str,
        queue: Option<&str>,
        person: &Person<'_>,
    ) -> Result<Vec<ErasedJob>, StoreError> {
        if person.mask.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.pool.begin().await?;
        transaction.execute(TEXTS_LIMIT).await?;
        let query = sqlx::query_as(
            "select distinct prefix, queue, job_id, job_created_ms from attempts where outcome <> 'completed' and prefix = $1 \
             and ($2::text is null or queue = $2) and (message ~* $3 or stack ~* $3) limit $4",
        );
        let query = query.bind(prefix).bind(queue).bind(person.pattern(false).0).bind(MOST_JOBS);
        let jobs = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(jobs)
    }

    /// Texts that hold the value lose it, or are only counted. Filters of bulk operations that go on keep it until they have ended.
    pub async fn forget_texts(&self, prefix: &str, person: &Person<'_>, only_count: bool) -> Result<Texts, StoreError> {
        let mut texts = Texts::default();
        let mut transaction = self.pool.begin().await?;
        transaction.execute(TEXTS_LIMIT).await?;
        let saved: Vec<(String, Search, Search)> =
            sqlx::query_as("select name, search, previous from saved_searches where prefix = $1")
                .bind(prefix)
                .fetch_all(&mut *transaction)
                .await?;
        for (name, search, previous) in saved {
            let forgotten = |search: &Search| {
                let filter = person.forgotten(&search.as_ref()?.filter)?;
                Some(Json(SavedSearch { filter, ..search.as_ref()?.0.clone() }))
            };
            let (new_search, new_previous) = (forgotten(&search), forgotten(&previous));
            if new_search.is_none() && new_previous.is_none() {
                continue;
            }
            texts.saved_searches += 1;
            if !only_count {
                sqlx::query("update saved_searches set search = $3, previous = $4 where prefix = $1 and name = $2")
                    .bind(prefix)
                    .bind(name)
                    .bind(new_search.or(search))
                    .bind(new_previous.or(previous))
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        // What is put into jobs goes with the end of an operation.
        let bulks: Vec<(i64, Value, Option<String>, bool)> = sqlx::query_as(
            "select id, filter, edits, state in ('matching', 'running', 'paused', 'undoing') from bulks where prefix = $1 and (filter <> '{}' or edits is not null) for update",
        )
        .bind(prefix)
        .fetch_all(&mut *transaction)
        .await?;
        for (id, filter, edits, is_active) in bulks {
            let filter = serde_json::from_value(filter).ok().and_then(|filter| person.forgotten(&filter));
            if is_active && filter.is_none() && edits.is_some_and(|edits| person.mask.finds(&edits)) {
                texts.active_bulk_operations += 1;
            }
            let Some(filter) = filter else { continue };
            if is_active {
                texts.active_bulk_operations += 1;
                continue;
            }
            texts.bulk_operations += 1;
            if !only_count {
                let query = sqlx::query("update bulks set filter = $2 where id = $1").bind(id);
                query.bind(Json(filter)).execute(&mut *transaction).await?;
            }
        }
        if !person.mask.is_empty() {
            for (table, columns, place) in TEXT_COLUMNS {
                let count = match place {
                    Place::DeadLetters => &mut texts.dead_letters,
                    Place::Actions => &mut texts.operator_actions,
                    Place::BulkJobs => &mut texts.bulk_operations,
                    Place::Alerts => &mut texts.alerts,
                    Place::Schedules => &mut texts.schedules,
                    Place::Reasons => &mut texts.reasons,
                };
                for (column, is_json) in columns {
                    let (pattern, by) = person.pattern(*is_json);
                    let (as_text, back) = if *is_json { ("::text", "::jsonb") } else { ("", "") };
                    let condition = format!("where {column}{as_text} ~* $1");
                    let found = if only_count {
                        let query = format!("select count(*) from {table} {condition}");
                        let query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(query)).bind(pattern);
                        query.fetch_one(&mut *transaction).await?.unsigned_abs()
                    } else {
                        let query = format!(
                            "update {table} set {column} = regexp_replace({column}{as_text}, $1, $2, 'gi'){back} {condition}"
                        );
                        let query = sqlx::query(sqlx::AssertSqlSafe(query)).bind(pattern).bind(by);
                        query.execute(&mut *transaction).await?.rows_affected()
                    };
                    *count += found;
                }
            }
            let count = |text: &'static str| sqlx::query_scalar::<_, i64>(text).bind(person.pattern(true).0);
            let kept = count("select count(*) from audit_entries where entry::text ~* $1 or entry_key ~* $1");
            texts.audit_entries = kept.fetch_one(&mut *transaction).await?.unsigned_abs();
            let outbox = count("select count(*) from patchbay_outbox.jobs where payload ~* $1");
            texts.outbox = outbox.fetch_one(&mut *transaction).await?.unsigned_abs();
        }
        transaction.commit().await?;
        Ok(texts)
    }

    /// Jobs that were removed, and whose copies are gone, cannot be put back: says so.
    pub async fn forget_removed(&self, bulk: i64, job: &str) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update bulk_items set state = 'lost', reason = 'its data was erased' where bulk = $1 and queue || ':' || job_id = $2 \
             and state in ('done', 'pending')",
        );
        query.bind(bulk).bind(job).execute(&self.pool).await?;
        Ok(())
    }

    /// Writes down that somebody is to be forgotten.
    pub async fn begin_erasure(&self, new: &NewErasure<'_>) -> Result<i64, StoreError> {
        let (path, term) = new.person.map(|(path, term)| (path, term.to_vec())).unzip();
        let query = sqlx::query_scalar(
            "insert into erasures (prefix, path, term, queue, job_id, unfinished, actor, reason) values ($1, $2, $3, $4, $5, $6, $7, $8) \
             returning id",
        );
        let query = query.bind(new.prefix).bind(path).bind(term).bind(new.queue).bind(new.job_id).bind(new.unfinished);
        Ok(query.bind(new.actor).bind(new.reason).fetch_one(&self.pool).await?)
    }

    /// Its jobs, all of them: from now on any host can end it.
    pub async fn list_erased_jobs(&self, erasure: i64, jobs: &[ErasedJob]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let column = |of: fn(&ErasedJob) -> &str| jobs.iter().map(of).collect::<Vec<_>>();
        let query = sqlx::query(
            "insert into erased_jobs (erasure, queue, job_id, job_created_ms) \
             select $1, * from unnest($2::text[], $3::text[], $4::bigint[]) on conflict do nothing",
        );
        let query = query.bind(erasure).bind(column(|job| &job.queue)).bind(column(|job| &job.job_id));
        query.bind(jobs.iter().map(|job| job.job_created_ms).collect::<Vec<_>>()).execute(&mut *transaction).await?;
        sqlx::query("update erasures set listed_at = now() where id = $1")
            .bind(erasure)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Jobs that are still to be erased, those of older erasures first.
    pub async fn pending_erasures(&self, prefix: &str, most: i64) -> Result<Vec<PendingErasure>, StoreError> {
        let query = sqlx::query_as(
            "select j.erasure, e.unfinished, e.began_at, e.prefix, j.queue, j.job_id, j.job_created_ms from erased_jobs j \
             join erasures e on e.id = j.erasure where e.prefix = $1 and e.ended_at is null and e.listed_at is not null \
             and j.state in ('pending', 'running') order by j.erasure, j.at limit $2",
        );
        Ok(query.bind(prefix).bind(most).fetch_all(&self.pool).await?)
    }

    /// What became of a job of an erasure.
    pub async fn settle_erased_job(&self, erasure: i64, job: &ErasedJob, state: &str) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update erased_jobs set state = $5, at = now() where erasure = $1 and queue = $2 and job_id = $3 and job_created_ms = $4",
        );
        let query = query.bind(erasure).bind(&job.queue).bind(&job.job_id).bind(job.job_created_ms).bind(state);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Ends those that have nothing left to do.
    pub async fn end_erasures(&self, prefix: &str) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "update erasures e set ended_at = now() where e.prefix = $1 and e.ended_at is null and e.listed_at is not null \
             and not exists (select from erased_jobs j where j.erasure = e.id and j.state in ('pending', 'running'))",
        );
        Ok(query.bind(prefix).execute(&self.pool).await?.rows_affected())
    }

    /// What it found, by place.
    pub async fn count_erasure(&self, erasure: i64, counts: &Value) -> Result<(), StoreError> {
        let query = sqlx::query("update erasures set counts = $2 where id = $1").bind(erasure).bind(counts);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// The newest first.
    pub async fn erasures(&self, prefix: &str, before: Option<i64>, most: i64) -> Result<Vec<ErasureRow>, StoreError> {
        let query = sqlx::query_as(
            "select e.id, e.path, e.queue, e.job_id, e.unfinished, e.actor, e.reason, e.began_at, e.ended_at, e.listed_at, e.counts, \
             count(*) filter (where j.state = 'done') as done, count(*) filter (where j.state in ('pending', 'running')) as to_come, \
             count(*) filter (where j.state in ('unfinished', 'of-schedule')) as \"left\" \
             from erasures e left join erased_jobs j on j.erasure = e.id where e.prefix = $1 and ($2::bigint is null or e.id < $2) \
             group by e.id order by e.id desc limit $3",
        );
        Ok(query.bind(prefix).bind(before).bind(most).fetch_all(&self.pool).await?)
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
        Ok(query.bind(prefix).bind(queue.as_str()).bind(job.as_str()).fetch_all(&self.pool).await?)
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
