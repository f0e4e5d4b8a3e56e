//! Translates a filter to an SQL condition. Every value is bound.

use chrono::{DateTime, Utc};
use patchbay_model::attempt::VerdictKind;
use patchbay_model::filter::Filter;
use patchbay_model::fingerprint::Fingerprint;
use sqlx::{Postgres, QueryBuilder, Row};

use super::{SearchCursor, Selection};
use crate::{Store, StoreError};

/// A selection, with the values that are looked up once for all its windows.
pub(super) struct Resolved<'a> {
    pub(super) selection: Selection<'a>,
    /// Set where the index has the queue before the job's id.
    queues: Option<Vec<String>>,
    /// Digests that begin as the filter says.
    revisions: Option<Vec<String>>,
    group: Option<Group>,
}

struct Group {
    queue: String,
    fingerprint: Fingerprint,
    plugin: String,
    revision: String,
}

/// A range of time: the first is included, the second excluded. With a row, only what comes after
/// that row, and the second is included.
pub(super) struct Window<'a> {
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
    pub(super) behind: Option<&'a SearchCursor>,
}

impl Store {
    pub(super) async fn resolve<'a>(
        &self,
        selection: Selection<'a>,
    ) -> Result<Resolved<'a>, StoreError> {
        let filter = selection.filter;
        if filter.data.len() != selection.terms.len() {
            // Without a value's term, the condition would select more than was asked for.
            return Err(StoreError::Conflict(
                "A filter by job data needs a term for each of its values".into(),
            ));
        }
        let queues = match (&filter.queue, &filter.job) {
            (None, Some(_)) => Some(self.queues_with_history(selection.prefix).await?),
            _ => None,
        };
        let revisions = match &filter.revision {
            Some(digits) => {
                let query = sqlx::query_scalar(
                    "select distinct revision from revision_attempts where starts_with(revision, $1) limit 1000",
                );
                Some(query.bind(digits).fetch_all(&self.pool).await?)
            }
            None => None,
        };
        let group = match filter.dead_letter {
            Some(id) => Some(self.group(selection.prefix, id).await?),
            None => None,
        };
        let queues = queues.map(|queues| queues.iter().map(ToString::to_string).collect());
        Ok(Resolved {
            selection,
            queues,
            revisions,
            group,
        })
    }

    async fn group(&self, prefix: &str, id: i64) -> Result<Group, StoreError> {
        let query = sqlx::query(
            "select queue, fingerprint, plugin, revision from dead_letters where id = $1 and prefix = $2",
        );
        let row = query
            .bind(id)
            .bind(prefix)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| {
                StoreError::NotFound(format!(
                    "There is no group of dead letters {id}. See: patchbay dead-letter list"
                ))
            })?;
        Ok(Group {
            queue: row.try_get("queue")?,
            fingerprint: row.try_get("fingerprint")?,
            plugin: row.try_get("plugin")?,
            revision: row.try_get("revision")?,
        })
    }
}

impl Resolved<'_> {
    /// Whether the filter can match nothing.
    pub(super) fn is_nothing(&self) -> bool {
        self.queues.as_ref().is_some_and(Vec::is_empty)
            || self.revisions.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether an index leads to few rows, independent of their time.
    pub(super) fn is_pointed(&self) -> bool {
        self.selection.filter.job.is_some() || self.selection.filter.correlation_id.is_some()
    }

    /// Tables and condition of a `from`; `a` is the alias of the attempts.
    pub(super) fn push(&self, query: &mut QueryBuilder<Postgres>, a: &str, window: &Window<'_>) {
        let Selection {
            prefix,
            filter,
            terms,
        } = self.selection;
        query.push(format!("attempts {a}"));
        for n in 0..terms.len() {
            query.push(format!(
                " join attempt_terms {a}{n} on {a}{n}.prefix = {a}.prefix and {a}{n}.queue = {a}.queue and {a}{n}.job_id = {a}.job_id \
                 and {a}{n}.job_created_ms = {a}.job_created_ms and {a}{n}.started = {a}.started and {a}{n}.finished_at = {a}.finished_at"
            ));
        }
        query
            .push(format!(" where {a}.prefix = "))
            .push_bind(prefix.to_owned());
        // The condition is repeated for the terms, because the planner does not infer it.
        let tables =
            std::iter::once(a.to_owned()).chain((0..terms.len()).map(|n| format!("{a}{n}")));
        for table in tables {
            query
                .push(format!(" and {table}.finished_at >= "))
                .push_bind(window.from);
            let until = if window.behind.is_some() { "<=" } else { "<" };
            query
                .push(format!(" and {table}.finished_at {until} "))
                .push_bind(window.to);
        }
        for (n, term) in terms.iter().enumerate() {
            query
                .push(format!(" and {a}{n}.term = "))
                .push_bind(term.to_vec());
        }
        if let Some((place, row)) = window
            .behind
            .and_then(|place| Some((place, place.row.as_ref()?)))
        {
            query.push(format!(
                " and ({a}.finished_at, {a}.queue, {a}.job_id, {a}.job_created_ms, {a}.started) < ("
            ));
            query
                .push_bind(place.time)
                .push(", ")
                .push_bind(row.queue.clone())
                .push(", ")
                .push_bind(row.job_id.clone());
            query
                .push(", ")
                .push_bind(row.job_created_ms)
                .push(", ")
                .push_bind(row.started)
                .push(")");
        }
        let Filter {
            queue,
            job,
            name,
            outcome,
            verdict,
            code,
            text,
            plugin,
            correlation_id,
            platform,
            // The window, the terms, `revisions` and `group` are made from these.
            from: _,
            to: _,
            data: _,
            revision: _,
            dead_letter: _,
        } = filter;
        let mut is = |column: &str, value: Option<String>| {
            if let Some(value) = value {
                query.push(format!(" and {a}.{column} = ")).push_bind(value);
            }
        };
        is("queue", queue.as_ref().map(ToString::to_string));
        is("job_id", job.as_ref().map(ToString::to_string));
        is("name", name.clone());
        is("outcome", outcome.map(|kind| kind.as_str().to_owned()));
        is("verdict", verdict.map(|kind| kind.as_str().to_owned()));
        is("code", code.clone());
        is("plugin", plugin.as_ref().map(ToString::to_string));
        is("correlation_id", correlation_id.clone());
        is("platform", platform.clone());
        if let Some(group) = &self.group {
            is("queue", Some(group.queue.clone()));
            query
                .push(format!(" and {a}.fingerprint = "))
                .push_bind(group.fingerprint.to_vec());
            query
                .push(format!(" and coalesce({a}.plugin, '') = "))
                .push_bind(group.plugin.clone());
            query
                .push(format!(" and coalesce({a}.revision, '') = "))
                .push_bind(group.revision.clone());
        }
        if let Some(queues) = &self.queues {
            query
                .push(format!(" and {a}.queue = any("))
                .push_bind(queues.clone())
                .push(")");
        }
        if let Some(revisions) = &self.revisions {
            // The index has only the beginnings of digests.
            let beginning = |revision: &String| revision.chars().take(8).collect::<String>();
            // Within `case`, the planner ignores the condition. Otherwise it would treat the whole
            // digest and its beginning as two independent rare conditions, expect a few rows, and
            // read all failures for them.
            query
                .push(format!(" and case when {a}.revision = any("))
                .push_bind(revisions.clone());
            query.push(") then true else false end");
            // For one revision the index gives rows ordered by time, for several not (PostgreSQL
            // 15).
            if let [revision] = &revisions[..] {
                query
                    .push(format!(" and left({a}.revision, 8) = "))
                    .push_bind(beginning(revision));
            } else {
                let beginnings: Vec<String> = revisions.iter().map(beginning).collect();
                query
                    .push(format!(" and left({a}.revision, 8) = any("))
                    .push_bind(beginnings)
                    .push(")");
            }
        }
        if let Some(text) = text {
            query
                .push(format!(" and strpos(lower({a}.message), lower("))
                .push_bind(text.clone())
                .push(")) > 0");
        }
        if self.is_of_failures() {
            // Redundant, but it lets the planner use the indexes of failures.
            query.push(format!(" and {a}.outcome <> 'completed'"));
        }
    }

    /// False where an outcome says it: with both, the planner would expect a thirtieth of the rows.
    fn is_of_failures(&self) -> bool {
        let filter = self.selection.filter;
        if filter.outcome.is_some() {
            return false;
        }
        filter.code.is_some()
            || filter.text.is_some()
            || filter
                .verdict
                .is_some_and(|verdict| verdict != VerdictKind::Complete)
            || self.group.is_some()
    }
}
