//! Searches the jobs of one state one by one, because Redis has no index of them. The search is
//! limited in jobs and in time, and reports when it ended early.
//!
//! It reads in pages, so that Redis serves others in between, and reads only the fields that the
//! filter needs.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use patchbay_model::confidential::is_confidential;
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use patchbay_model::job_view::ScannedJob;
use patchbay_model::{DataPath, QueueName};
use redis::{RedisResult, Value};

use crate::damage::{read, text};
use crate::job_pages::Entry;
use crate::js;
use crate::opts::JobOpts;
use crate::{Broker, Cursor, QueueError};

/// Most jobs that one request reads.
pub const MAX_SCANNED: usize = 20_000;
const PAGE: u64 = 200;
/// Page size if data is read: a job has up to 1 MiB of it.
const PAGE_WITH_DATA: u64 = 25;
/// `data` is last, and left out when the filter does not need it.
const FIELDS: [&str; 8] = [
    "name",
    "opts",
    "timestamp",
    "processedOn",
    "finishedOn",
    "atm",
    "failedReason",
    "data",
];

#[derive(Debug)]
pub struct Scanned {
    /// In the order of the state's list.
    pub jobs: Vec<ScannedJob>,
    /// Where to continue; `None` at the end.
    pub next: Option<Cursor>,
    /// The search stopped at its limit of jobs or of time. There may or may not be more.
    pub partial: bool,
    /// Number of jobs read.
    pub looked_at: usize,
}

struct Criteria<'a> {
    filter: &'a Filter,
    /// In lower case.
    text: Option<String>,
    data: Vec<(DataPath, &'a str)>,
}

impl<'a> Criteria<'a> {
    fn new(filter: &'a Filter, queue: &QueueName) -> Result<Self, QueueError> {
        let invalid = |message: String| Err(QueueError::Invalid(message));
        if let Some(key) = filter.only_of_attempts() {
            return invalid(format!(
                "{key}: only finished attempts have it; search the history instead, without a state"
            ));
        }
        if filter.queue.as_ref().is_some_and(|named| named != queue) {
            return invalid(format!("queue: must be {queue}, whose jobs are searched"));
        }
        let path = |(path, value): &'a (String, String)| Ok((path.parse()?, value.as_str()));
        let data: Result<Vec<_>, patchbay_model::data_path::InvalidPath> =
            filter.data.iter().map(path).collect();
        let data = data.map_err(|error| QueueError::Invalid(error.to_string()))?;
        Ok(Self {
            filter,
            text: filter.text.as_ref().map(|text| text.to_lowercase()),
            data,
        })
    }

    /// `data` is the job's data, if the filter has conditions on data.
    fn holds(&self, job: &ScannedJob, data: &str) -> bool {
        let Filter {
            job: id,
            name,
            code,
            correlation_id,
            platform,
            from,
            to,
            // Compared by `new`: the queue, keys that only attempts have, and what it has prepared.
            queue: _,
            text: _,
            data: _,
            outcome: _,
            verdict: _,
            plugin: _,
            revision: _,
            dead_letter: _,
        } = self.filter;
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        };
        // The end of a job that has ended, else its creation.
        let at = job
            .finished_on
            .or(job.timestamp)
            .and_then(|ms| i64::try_from(ms).ok());
        let reason = job.failed_reason.as_deref().unwrap_or_default();
        // An answer would tell what it says.
        let asks_for_content = self.text.is_some() || !self.data.is_empty();
        !(asks_for_content && is_confidential(&job.id))
            && id.as_ref().is_none_or(|id| id.as_str() == job.id)
            && is(name, &job.name)
            && is(correlation_id, &job.correlation_id)
            && is(platform, job.platform.as_deref().unwrap_or_default())
            && code
                .as_ref()
                .is_none_or(|code| reason.split(':').next() == Some(code))
            && from.is_none_or(|from| at.is_some_and(|at| at >= from.timestamp_millis()))
            && to.is_none_or(|to| at.is_some_and(|at| at < to.timestamp_millis()))
            && self
                .text
                .as_ref()
                .is_none_or(|text| reason.to_lowercase().contains(text))
            && self
                .data
                .iter()
                .all(|(path, value)| path.values(data).iter().any(|found| found == value))
    }
}

impl Broker {
    /// Jobs in one state that match the filter: at most `limit`, searching for about `most`. The
    /// filter's times apply to the job's end, or to its creation while it has not ended.
    pub async fn scan(
        &self,
        queue: &QueueName,
        state: JobState,
        filter: &Filter,
        after: Option<Cursor>,
        limit: usize,
        most: Duration,
    ) -> Result<Scanned, QueueError> {
        let began = Instant::now();
        let wanted = Criteria::new(filter, queue)?;
        if let Some(other) = after.as_ref().filter(|cursor| cursor.state != state) {
            let message = format!(
                "cursor: it belongs to jobs in state {}, not {state}",
                other.state
            );
            return Err(QueueError::Invalid(message));
        }
        let shelf = self.shelf(queue, state).await?;
        let page = if wanted.data.is_empty() {
            PAGE
        } else {
            PAGE_WITH_DATA
        };
        let mut scanned = Scanned {
            jobs: Vec::new(),
            next: after,
            partial: false,
            looked_at: 0,
        };
        // A job that moves during the search is met twice, and listed once.
        let mut seen = HashSet::new();
        let mut place = 0;
        loop {
            let entries = match &scanned.next {
                None => self.entries(&shelf, 0, page).await?,
                Some(cursor) => {
                    // Usually the last job is still at its place, which is quicker to check than to
                    // look up.
                    let mut entries = if place > 0 {
                        self.entries(&shelf, place - 1, page + 1).await?
                    } else {
                        Vec::new()
                    };
                    if entries.first().is_some_and(|(id, _)| *id == cursor.id) {
                        entries.remove(0);
                        entries
                    } else {
                        let (found, entries) = self.entries_behind(&shelf, cursor, page).await?;
                        place = found;
                        entries
                    }
                }
            };
            let is_last = (entries.len() as u64) < page;
            let jobs = self
                .look_at(queue, state, &entries, !wanted.data.is_empty())
                .await?;
            for ((id, score), (job, data)) in entries.into_iter().zip(jobs) {
                place += 1;
                scanned.looked_at += 1;
                if seen.insert(id.clone()) && wanted.holds(&job, &data) {
                    scanned.jobs.push(job);
                }
                scanned.next = Some(Cursor { state, score, id });
                if scanned.jobs.len() == limit {
                    return Ok(scanned);
                }
            }
            if is_last {
                scanned.next = None;
                return Ok(scanned);
            }
            if scanned.looked_at >= MAX_SCANNED || began.elapsed() >= most {
                scanned.partial = true;
                return Ok(scanned);
            }
        }
    }

    /// Reads these jobs, with their data if asked for. Damaged ones have empty fields.
    async fn look_at(
        &self,
        queue: &QueueName,
        state: JobState,
        entries: &[Entry],
        with_data: bool,
    ) -> Result<Vec<(ScannedJob, String)>, QueueError> {
        let fields = if with_data {
            &FIELDS[..]
        } else {
            &FIELDS[..FIELDS.len() - 1]
        };
        let prefix = self.keys(queue).key_prefix();
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for (id, _) in entries {
            pipe.hmget([prefix.as_bytes(), id].concat(), fields);
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let mut jobs = Vec::with_capacity(replies.len());
        for ((id, _), reply) in entries.iter().zip(replies) {
            let values: Vec<Option<Vec<u8>>> = read(reply)?.unwrap_or_default();
            let mut values = values
                .into_iter()
                .map(|value| value.map(|value| text(&value)));
            let mut next = || values.next().flatten();
            let id = text(id);
            let (name, opts) = (next().unwrap_or_default(), next());
            let trace = opts
                .and_then(|opts| JobOpts::parse(&opts).ok())
                .unwrap_or_default()
                .trace;
            let mut number = || next().and_then(|text| js::whole(&text));
            let (timestamp, processed_on, finished_on, attempts_made) =
                (number(), number(), number(), number());
            let job = ScannedJob {
                // The same rule as in the work path.
                correlation_id: trace
                    .correlation_id
                    .unwrap_or_else(|| format!("job:{queue}:{id}")),
                platform: trace.platform,
                id,
                name,
                state,
                timestamp,
                processed_on,
                finished_on,
                attempts_made: attempts_made
                    .and_then(|made| u32::try_from(made).ok())
                    .unwrap_or(0),
                failed_reason: next(),
            };
            jobs.push((job, next().unwrap_or_default()));
        }
        Ok(jobs)
    }
}
