//! Finds and replaces a person's value in texts that operators and the host have written.

use patchbay_model::filter::Filter;
use patchbay_model::redaction::Mask;
use serde_json::Value;
use sqlx::Executor;
use sqlx::types::Json;

use super::{ErasedJob, MOST_JOBS};
use crate::{SavedSearch, Store, StoreError};

/// Replaces the value in texts that stay.
pub(crate) const ERASED: &str = "[erased]";
/// A person waits for the answer, and searching all texts takes time.
const TEXTS_LIMIT: &str = "set local statement_timeout = '120s'";

/// How many texts hold the value, by place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    pub saved_searches: u64,
    pub bulk_operations: u64,
    pub dead_letters: u64,
    pub operator_actions: u64,
    pub alerts: u64,
    /// Entries of audit trails; they are never erased.
    pub audit_entries: u64,
    /// Bulk operations that are still active with the value. It is removed from them when this is
    /// called again after their end.
    pub active_bulk_operations: u64,
    /// Jobs that plugins enqueued in a transaction and that are in no queue yet.
    pub outbox: u64,
    pub schedules: u64,
    /// Reasons of other erasures, and of quarantines.
    pub reasons: u64,
}

impl Texts {
    /// How many of the texts can be erased.
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

/// The person to erase, as texts may name them.
#[derive(Debug)]
pub struct Person<'a> {
    /// A path in job data.
    pub path: &'a str,
    /// The value as it was given, and the other forms by which jobs are found.
    pub values: &'a [String],
    /// All spellings that texts may have.
    pub spellings: &'a [String],
    /// Finds the value in texts; empty when the value is too short to be recognised.
    pub mask: &'a Mask,
}

/// A search as its row has it, now or before its last change.
type Search = Option<Json<SavedSearch>>;

/// Name of a column, and whether it holds JSON.
type Columns = &'static [(&'static str, bool)];

/// Columns with texts, by place.
const TEXT_COLUMNS: [(&str, Columns, Place); 13] = [
    (
        "dead_letters",
        &[("message", false), ("note", false), ("assignee", false)],
        Place::DeadLetters,
    ),
    (
        "operator_actions",
        &[("details", true), ("result", true), ("error", false)],
        Place::Actions,
    ),
    (
        "bulks",
        &[("reason", false), ("error", false)],
        Place::BulkJobs,
    ),
    ("bulk_items", &[("reason", false)], Place::BulkJobs),
    ("alerts", &[("notice", true)], Place::Alerts),
    ("alert_events", &[("reason", false)], Place::Alerts),
    (
        "alert_deliveries",
        &[("body", true), ("last_error", false)],
        Place::Alerts,
    ),
    (
        "alert_silences",
        &[("subject", false), ("reason", false)],
        Place::Alerts,
    ),
    ("schedules", &[("description", false)], Place::Schedules),
    ("removed_schedules", &[("schedule", true)], Place::Schedules),
    ("erasures", &[("reason", false)], Place::Reasons),
    ("inbox_replays", &[("reason", false)], Place::Reasons),
    (
        "quarantines",
        &[("reason", false), ("end_reason", false)],
        Place::Reasons,
    ),
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
    /// A regular expression for Postgres that matches the value in all its spellings, and its
    /// replacement. In JSON, a value that looks like a number is matched only as a whole string.
    fn pattern(&self, is_json: bool) -> (String, String) {
        let value = self.values.first().map(String::as_str).unwrap_or_default();
        let is_number = value
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        if is_json && is_number {
            // A JSON number with the same digits must not be replaced.
            return (
                literal(&Value::from(value).to_string()),
                Value::from(ERASED).to_string(),
            );
        }
        // Text that is not valid within a JSON string would match JSON's own syntax.
        let stands = |text: &&String| {
            !is_json || serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok()
        };
        let spellings: Vec<String> = self
            .spellings
            .iter()
            .filter(stands)
            .map(|text| literal(text))
            .collect();
        (spellings.join("|"), ERASED.to_owned())
    }

    /// The filter without the value; `None` when the filter does not have it.
    fn forgotten(&self, filter: &Filter) -> Option<Filter> {
        let mut filter = filter.clone();
        let mut found = false;
        let data = format!("data.{}", self.path);
        for (path, value) in &mut filter.data {
            if (format!("data.{path}") == data && self.values.contains(value))
                || self.mask.finds(value)
            {
                *value = ERASED.to_owned();
                found = true;
            }
        }
        for text in [
            &mut filter.text,
            &mut filter.name,
            &mut filter.code,
            &mut filter.correlation_id,
            &mut filter.platform,
        ] {
            if let Some(value) = text.as_mut().filter(|value| self.mask.finds(value)) {
                *value = ERASED.to_owned();
                found = true;
            }
        }
        if filter
            .job
            .as_ref()
            .is_some_and(|id| self.mask.finds(id.as_str()))
        {
            filter.job = None;
            found = true;
        }
        found.then_some(filter)
    }
}

/// A regular expression for Postgres that matches this text. It ignores case: `~*` does so for
/// ASCII; other letters are listed here, since the collation may not know them.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            pattern.push(c);
        } else if c.is_ascii() {
            pattern.extend(['\\', c]);
        } else {
            let mut cases = vec![
                c.to_string(),
                c.to_lowercase().collect(),
                c.to_uppercase().collect(),
            ];
            cases.dedup();
            pattern.push_str(&format!("(?:{})", cases.join("|")));
        }
    }
    pattern
}

impl Store {
    /// Jobs whose failures contain the value, such as jobs that other workers ran. Nothing else
    /// connects those to the person.
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
        let query = query
            .bind(prefix)
            .bind(queue)
            .bind(person.pattern(false).0)
            .bind(MOST_JOBS);
        let jobs = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(jobs)
    }

    /// Removes the value from texts, or only counts those that hold it. Filters of active bulk
    /// operations keep it until these have ended.
    pub async fn forget_texts(
        &self,
        prefix: &str,
        person: &Person<'_>,
        only_count: bool,
    ) -> Result<Texts, StoreError> {
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
                Some(Json(SavedSearch {
                    filter,
                    ..search.as_ref()?.0.clone()
                }))
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
        // The data that an operation puts into jobs is deleted at its end.
        let bulks: Vec<(i64, Value, Option<String>, bool)> = sqlx::query_as(
            "select id, filter, edits, state in ('matching', 'running', 'paused', 'undoing') from bulks where prefix = $1 and (filter <> '{}' or edits is not null) for update",
        )
        .bind(prefix)
        .fetch_all(&mut *transaction)
        .await?;
        for (id, filter, edits, is_active) in bulks {
            let filter = serde_json::from_value(filter)
                .ok()
                .and_then(|filter| person.forgotten(&filter));
            if is_active && filter.is_none() && edits.is_some_and(|edits| person.mask.finds(&edits))
            {
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
                    let (as_text, back) = if *is_json {
                        ("::text", "::jsonb")
                    } else {
                        ("", "")
                    };
                    let condition = format!("where {column}{as_text} ~* $1");
                    let found = if only_count {
                        let query = format!("select count(*) from {table} {condition}");
                        let query =
                            sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(query)).bind(pattern);
                        query.fetch_one(&mut *transaction).await?.unsigned_abs()
                    } else {
                        let query = format!(
                            "update {table} set {column} = regexp_replace({column}{as_text}, $1, $2, 'gi'){back} {condition}"
                        );
                        let query = sqlx::query(sqlx::AssertSqlSafe(query))
                            .bind(pattern)
                            .bind(by);
                        query.execute(&mut *transaction).await?.rows_affected()
                    };
                    *count += found;
                }
            }
            let count = |text: &'static str| {
                sqlx::query_scalar::<_, i64>(text).bind(person.pattern(true).0)
            };
            let kept = count(
                "select count(*) from audit_entries where entry::text ~* $1 or entry_key ~* $1 or actor_id ~* $1 or actor_name ~* $1 or entity ~* $1",
            );
            texts.audit_entries = kept.fetch_one(&mut *transaction).await?.unsigned_abs();
            let outbox = count("select count(*) from patchbay_outbox.jobs where payload ~* $1");
            texts.outbox = outbox.fetch_one(&mut *transaction).await?.unsigned_abs();
        }
        transaction.commit().await?;
        Ok(texts)
    }
}
