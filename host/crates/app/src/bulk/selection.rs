//! Selects the jobs that match a filter, a page at a time. No job is changed until the selection
//! has ended, so that the operation cannot select its own results.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_api::bulk::BulkSource;
use patchbay_model::attempt::VerdictKind;
use patchbay_model::confidential::is_confidential;
use patchbay_model::filter::Filter;
use patchbay_model::job::{JobKey, JobState};
use patchbay_model::{DataPath, QueueName};
use patchbay_queue::{Broker, Chosen, JobView, MAX_LISTED, Start, trace_of};
use patchbay_store::{FoundJob, Selection, Store, Term};
use serde::{Deserialize, Serialize};

use super::BulkError;
use super::plan::Plan;

/// Jobs per page of the history.
const PAGE: usize = 500;
/// Limit of one page. Other operations wait meanwhile.
const LOOK_FOR: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SelectionCursor {
    /// In Redis: the queues that are left. The cursor belongs to the first one.
    Live {
        queues: Vec<QueueName>,
        cursor: Option<String>,
    },
    /// In the history: attempts that had ended at `until`.
    History {
        until: DateTime<Utc>,
        cursor: Option<String>,
    },
}

/// A job that matches.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) chosen: Chosen,
    pub(super) name: String,
    pub(super) failure: Option<String>,
    /// `None` when the history selected the job. It is read where it is shown.
    pub(super) data: Option<String>,
}

pub(super) struct Chooser<'a> {
    pub(super) store: &'a Store,
    pub(super) queues: &'a Broker,
    pub(super) plan: &'a Plan,
}

impl Chooser<'_> {
    /// The cursor of the first page.
    pub(super) async fn begin(&self) -> Result<SelectionCursor, BulkError> {
        if self.plan.source == BulkSource::History || self.plan.filter.only_of_attempts().is_some()
        {
            return Ok(SelectionCursor::History {
                until: Utc::now(),
                cursor: None,
            });
        }
        let queues = match &self.plan.filter.queue {
            Some(queue) => vec![queue.clone()],
            None => self.queues.list().await?,
        };
        Ok(SelectionCursor::Live {
            queues,
            cursor: None,
        })
    }

    /// Returns a page and the next cursor. A page may be empty before the end.
    pub(super) async fn page(
        &self,
        place: SelectionCursor,
    ) -> Result<(Vec<Candidate>, Option<SelectionCursor>), BulkError> {
        match place {
            SelectionCursor::Live { queues, cursor } => self.live(queues, cursor).await,
            SelectionCursor::History { until, cursor } => self.history(until, cursor).await,
        }
    }

    async fn live(
        &self,
        mut left: Vec<QueueName>,
        cursor: Option<String>,
    ) -> Result<(Vec<Candidate>, Option<SelectionCursor>), BulkError> {
        let Some(queue) = left.first().cloned() else {
            return Ok((Vec::new(), None));
        };
        let start = match cursor {
            Some(cursor) => Start::Behind(cursor.parse()?),
            None => Start::Place(0),
        };
        let page = self
            .queues
            .jobs(&queue, self.plan.state, start, MAX_LISTED)
            .await?;
        let matching = page
            .jobs
            .into_iter()
            .filter(|job| matches(&self.plan.filter, job));
        let candidates = matching
            .filter_map(|job| self.candidate(&queue, job))
            .collect();
        let cursor = page.next.map(|cursor| cursor.to_string());
        if cursor.is_none() {
            left.remove(0);
        }
        Ok((
            candidates,
            (!left.is_empty()).then_some(SelectionCursor::Live {
                queues: left,
                cursor,
            }),
        ))
    }

    /// `None` when fields of the job are missing: an operator has to look at it.
    fn candidate(&self, queue: &QueueName, job: JobView) -> Option<Candidate> {
        let key = JobKey {
            prefix: self.queues.prefix().to_owned(),
            queue: queue.clone(),
            id: job.id.parse().ok()?,
            created_ms: job.timestamp?,
        };
        let chosen = Chosen {
            n: 0,
            key,
            state: self.plan.state,
            finished_on: job.finished_on,
        };
        Some(Candidate {
            chosen,
            name: job.name,
            failure: job.failed_reason,
            data: Some(job.data),
        })
    }

    async fn history(
        &self,
        until: DateTime<Utc>,
        cursor: Option<String>,
    ) -> Result<(Vec<Candidate>, Option<SelectionCursor>), BulkError> {
        let filter = self.of_state(until);
        let terms = self.terms(&filter).await?;
        let selection = Selection {
            prefix: self.queues.prefix(),
            filter: &filter,
            terms: &terms,
        };
        let unknown =
            |_| BulkError::Stuck("the stored position of the selection cannot be read".into());
        let after = cursor
            .map(|cursor| cursor.parse().map_err(unknown))
            .transpose()?;
        let found = self
            .store
            .matching_jobs(selection, after.as_ref(), PAGE, LOOK_FOR)
            .await?;
        let next = found.next.map(|place| SelectionCursor::History {
            until,
            cursor: Some(place.to_string()),
        });
        let jobs: Vec<(FoundJob, JobKey)> = found
            .rows
            .into_iter()
            .filter_map(|job| key(self.queues.prefix(), &job).map(|key| (job, key)))
            .collect();
        let keys: Vec<JobKey> = jobs.iter().map(|(_, key)| key.clone()).collect();
        let last = self.store.last_attempts(&keys).await?;
        let mut candidates = Vec::new();
        for ((job, key), last) in jobs.into_iter().zip(last) {
            // The job has run again since, so the attempt that matches is not its last one.
            let Some(last) = last.filter(|last| last.finished_at == job.finished_at) else {
                continue;
            };
            let finished_on = u64::try_from(last.finished_at.timestamp_millis()).ok();
            let chosen = Chosen {
                n: 0,
                key,
                state: self.plan.state,
                finished_on,
            };
            candidates.push(Candidate {
                chosen,
                name: last.name,
                failure: last.message,
                data: None,
            });
        }
        if self.plan.source == BulkSource::Live {
            let chosen: Vec<Chosen> = candidates
                .iter()
                .map(|candidate| candidate.chosen.clone())
                .collect();
            let there = self.queues.still_there(&chosen).await?;
            let both = candidates.into_iter().zip(there);
            candidates = both
                .filter_map(|(candidate, there)| {
                    Some(Candidate {
                        chosen: there?,
                        ..candidate
                    })
                })
                .collect();
        }
        Ok((candidates, next))
    }

    /// The filter for attempts whose jobs are in the plan's state.
    fn of_state(&self, until: DateTime<Utc>) -> Filter {
        let mut filter = self.plan.filter.clone();
        let verdict = match self.plan.state {
            JobState::Failed => Some(VerdictKind::Fail),
            JobState::Completed => Some(VerdictKind::Complete),
            _ => None,
        };
        filter.verdict = filter.verdict.or(verdict);
        // The pages keep their order only if no newer attempt comes in front of them.
        filter.to = Some(filter.to.map_or(until, |to| to.min(until)));
        filter
    }

    async fn terms(&self, filter: &Filter) -> Result<Vec<Term>, BulkError> {
        let mut terms = Vec::with_capacity(filter.data.len());
        for (path, value) in &filter.data {
            let path: DataPath = path.parse().map_err(|error| {
                BulkError::Stuck(format!("data.{path} is not a path of job data: {error}"))
            })?;
            terms.push(self.store.term_key().await?.term(&path, value));
        }
        Ok(terms)
    }
}

fn key(prefix: &str, job: &FoundJob) -> Option<JobKey> {
    Some(JobKey {
        prefix: prefix.to_owned(),
        queue: job.queue.parse().ok()?,
        id: job.job_id.parse().ok()?,
        created_ms: u64::try_from(job.job_created_ms).ok()?,
    })
}

/// Whether a job in Redis matches. Its queue does already, and keys that only attempts have were
/// looked up in the history.
fn matches(filter: &Filter, job: &JobView) -> bool {
    let Filter {
        queue: _,
        job: id,
        name,
        from,
        to,
        code,
        text,
        data,
        correlation_id,
        platform,
        outcome: _,
        verdict: _,
        plugin: _,
        revision: _,
        dead_letter: _,
    } = filter;
    let failure = job.failed_reason.as_deref().unwrap_or_default();
    // For a job that has not ended, the time when it was made.
    let at = job
        .finished_on
        .or(job.timestamp)
        .and_then(|ms| DateTime::from_timestamp_millis(ms.try_into().ok()?));
    let trace = trace_of(job);
    let is = |wanted: &Option<String>, value: Option<&str>| {
        wanted.is_none() || wanted.as_deref() == value
    };
    // An answer would tell what it says.
    let asks_for_content = text.is_some() || !data.is_empty();
    job.removed_by.is_none()
        && !(asks_for_content && is_confidential(&job.id))
        && id.as_ref().is_none_or(|id| id.as_str() == job.id)
        && is(name, Some(&job.name))
        && from.is_none_or(|from| at.is_some_and(|at| at >= from))
        && to.is_none_or(|to| at.is_some_and(|at| at < to))
        && is(code, failure.split_once(": ").map(|(code, _)| code))
        && text
            .as_ref()
            .is_none_or(|text| failure.to_lowercase().contains(&text.to_lowercase()))
        && is(correlation_id, trace.correlation_id.as_deref())
        && is(platform, trace.platform.as_deref())
        && data.iter().all(|(path, value)| {
            path.parse::<DataPath>()
                .is_ok_and(|path| path.values(&job.data).iter().any(|found| found == value))
        })
}
