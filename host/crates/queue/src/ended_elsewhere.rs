//! Finds jobs that workers other than Patchbay's have ended, from the sets of finished jobs and
//! from the stream of events.
//!
//! The sets are ordered by the workers' clocks. Each scan starts a minute before the end of the
//! previous one, so that it also finds a job that arrives late or whose worker's clock is slow;
//! this machine's clock plays no part. Events are in Redis's order. They lead to jobs that a wrong
//! clock hides from the sets, and to jobs that were removed as they ended, of which nothing else is
//! left.
//!
//! A scan reads a limited number of pages; the next scan reads the rest. Best effort: what BullMQ
//! has deleted by then is lost.

use std::collections::HashMap;

use patchbay_model::job::JobState;
use patchbay_model::mirror_cursor::MirrorCursor;
use patchbay_model::{JobId, QueueName};
use redis::streams::StreamRangeReply;
use redis::{RedisResult, Value};

use crate::damage::{read, text};
use crate::js;
use crate::opts::JobOpts;
use crate::streams;
use crate::worker::WORKER_PREFIX;
use crate::{Broker, QueueError};

/// How far a scan starts before the end of the previous one.
const OVERLAP_MS: u64 = 60_000;
/// How far back the first scan of a queue starts.
const FIRST_MS: u64 = 5 * 60_000;
/// Jobs or ids per round trip.
const PAGE: usize = 200;
/// Limits per set and scan: ids listed, and jobs read.
const MOST_LISTED: usize = 20_000;
const MOST_READ: usize = 4_000;
/// Events per round trip, and pages per scan. BullMQ keeps about 10,000 events.
const EVENTS: usize = 500;
const EVENT_PAGES: usize = 20;
const FIELDS: [&str; 10] = [
    "name",
    "opts",
    "timestamp",
    "processedOn",
    "finishedOn",
    "atm",
    "ats",
    "pb",
    "parentKey",
    "failedReason",
];

#[derive(Debug)]
pub struct EndedElsewhere {
    pub id: JobId,
    pub name: String,
    pub created_ms: u64,
    pub started_ms: u64,
    pub ended_ms: u64,
    /// How often it was started, and how many attempts counted.
    pub started: u32,
    pub attempt: u32,
    /// The worker's name, if it has one.
    pub worker: Option<String>,
    /// Why it failed; `None` if it completed.
    pub failure: Option<String>,
    pub correlation_id: String,
    pub platform: Option<String>,
    /// The parent of a flow's child, as `queue:id`.
    pub parent: Option<String>,
}

/// A job that was removed as it ended. Its worker is unknown.
#[derive(Debug)]
pub struct RemovedAtEnd {
    pub id: JobId,
    pub ended_ms: u64,
    /// Why it failed; `None` if it completed.
    pub failure: Option<String>,
}

/// The result of one scan.
#[derive(Debug)]
pub struct MirrorScan {
    /// Jobs that still exist.
    pub ended: Vec<EndedElsewhere>,
    /// Jobs that no longer exist.
    pub gone: Vec<RemovedAtEnd>,
    /// Where the next scan starts, once these results are stored.
    pub place: MirrorCursor,
    /// Number of jobs and events read.
    pub read: usize,
}

/// Jobs that recent scans have read, with the time of their end, so that they are not read again.
/// The caller must drop it when the results were not stored.
#[derive(Debug, Default)]
pub struct SeenJobs(HashMap<Vec<u8>, u64>);

impl SeenJobs {
    fn has(&self, id: &[u8], ended_ms: u64) -> bool {
        self.0.get(id) == Some(&ended_ms)
    }
}

impl Broker {
    /// Finds what has ended since `place`. Without a `place`, this is the first scan of the queue.
    pub async fn ended_elsewhere(
        &self,
        queue: &QueueName,
        place: Option<&MirrorCursor>,
        sighted: &mut SeenJobs,
    ) -> Result<MirrorScan, QueueError> {
        let now_ms = self.now_ms();
        let first_ms = now_ms.saturating_sub(FIRST_MS);
        let first = || MirrorCursor {
            completed_from_ms: first_ms,
            failed_from_ms: first_ms,
            event: format!("{}-0", first_ms),
        };
        let is_first = place.is_none();
        let place = place.cloned().unwrap_or_else(first);
        let mut found = MirrorScan {
            ended: Vec::new(),
            gone: Vec::new(),
            place: place.clone(),
            read: 0,
        };
        let mut look = Look {
            queues: self,
            queue,
            now_ms,
            sighted,
            found: &mut found,
        };
        let completed_from_ms = look
            .at_set(JobState::Completed, place.completed_from_ms)
            .await?;
        let failed_from_ms = look.at_set(JobState::Failed, place.failed_from_ms).await?;
        let event = look.at_events(place.event, is_first).await?;
        let forgotten = completed_from_ms.min(failed_from_ms);
        sighted.0.retain(|_, ended_ms| *ended_ms >= forgotten);
        found.place = MirrorCursor {
            completed_from_ms,
            failed_from_ms,
            event,
        };
        Ok(found)
    }
}

struct Look<'a> {
    queues: &'a Broker,
    queue: &'a QueueName,
    now_ms: u64,
    sighted: &'a mut SeenJobs,
    found: &'a mut MirrorScan,
}

impl Look<'_> {
    /// Returns where the next scan of this set starts.
    async fn at_set(&mut self, state: JobState, from_ms: u64) -> Result<u64, QueueError> {
        let settled_ms = self.now_ms.saturating_sub(OVERLAP_MS);
        // If Redis's clock was put back, the time behind it has not been scanned.
        let from_ms = from_ms.min(settled_ms);
        let keys = self.queues.keys(self.queue);
        let key = if state == JobState::Completed {
            keys.completed()
        } else {
            keys.failed()
        };
        let (mut at, mut at_same, mut listed, mut fresh_ones) = (from_ms as f64, 0, 0, 0);
        loop {
            let mut command = redis::cmd("ZRANGEBYSCORE");
            command
                .arg(&key)
                .arg(at)
                .arg("+inf")
                .arg("WITHSCORES")
                .arg("LIMIT")
                .arg(at_same)
                .arg(PAGE);
            let page: Vec<(Vec<u8>, f64)> = command
                .query_async(&mut self.queues.connection.get())
                .await?;
            for (_, score) in &page {
                at_same = if *score == at { at_same + 1 } else { 1 };
                at = *score;
            }
            let is_fresh = |(id, score): &&(Vec<u8>, f64)| !self.sighted.has(id, *score as u64);
            let fresh: Vec<(Vec<u8>, JobState)> = page
                .iter()
                .filter(is_fresh)
                .map(|(id, _)| (id.clone(), state))
                .collect();
            listed += page.len();
            fresh_ones += fresh.len();
            self.read_jobs(fresh).await?;
            if page.len() < PAGE {
                return Ok(settled_ms);
            }
            if listed >= MOST_LISTED || fresh_ones >= MOST_READ {
                let reached = (at as u64).min(settled_ms);
                // Always move on, even if more jobs than the limit ended in one millisecond.
                return Ok(if reached > from_ms {
                    reached
                } else {
                    settled_ms.min(from_ms + 1)
                });
            }
        }
    }

    /// Returns the id of the last event that was read.
    async fn at_events(&mut self, mut place: String, is_first: bool) -> Result<String, QueueError> {
        let key = self.queues.keys(self.queue).events();
        let mut connection = self.queues.connection.get();
        let mut newest = redis::cmd("XREVRANGE");
        newest.arg(&key).arg("+").arg("-").arg("COUNT").arg(1);
        let newest: StreamRangeReply = streams::read(newest.query_async(&mut connection).await?)?;
        let Some(newest) = newest.ids.into_iter().next() else {
            return Ok(place);
        };
        if order(&newest.id) < order(&place) {
            if is_first {
                return Ok(newest.id);
            }
            // Stream ids only rise, so a lower newest id means another stream, made after the clock
            // was put back.
            place = "0-0".to_owned();
        }
        for _ in 0..EVENT_PAGES {
            let mut command = redis::cmd("XRANGE");
            command
                .arg(&key)
                .arg(format!("({place}"))
                .arg("+")
                .arg("COUNT")
                .arg(EVENTS);
            let page: StreamRangeReply =
                streams::read(command.query_async(&mut connection).await?)?;
            let (count, Some(last)) = (
                page.ids.len(),
                page.ids.last().map(|entry| entry.id.clone()),
            ) else {
                break;
            };
            self.found.read += count;
            let ends: Vec<RemovedAtEnd> = page.ids.into_iter().filter_map(end).collect();
            self.follow(ends).await?;
            place = last;
            if count < EVENTS {
                break;
            }
        }
        Ok(place)
    }

    /// Reads the jobs that the events name, if they still exist and no set has led to them.
    async fn follow(&mut self, ends: Vec<RemovedAtEnd>) -> Result<(), QueueError> {
        let keys = self.queues.keys(self.queue);
        let mut left = ends;
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(PAGE));
            let page = std::mem::replace(&mut left, rest);
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for end in &page {
                let id = end.id.as_str();
                pipe.zscore(keys.completed(), id)
                    .zscore(keys.failed(), id)
                    .hget(keys.job_key(id), "timestamp");
            }
            let replies: Vec<RedisResult<Value>> =
                pipe.query_async(&mut self.queues.connection.get()).await?;
            let mut replies = replies.into_iter();
            let mut next = || -> Result<Option<f64>, QueueError> {
                Ok(read(replies.next().unwrap_or(Ok(Value::Nil)))?
                    .ok()
                    .flatten())
            };
            let mut there = HashMap::new();
            for end in page {
                let (completed, failed, created) = (next()?, next()?, next()?);
                let id = end.id.as_str().as_bytes();
                match (completed, failed) {
                    (Some(score), _) if !self.sighted.has(id, score as u64) => {
                        there.insert(id.to_vec(), JobState::Completed);
                    }
                    (None, Some(score)) if !self.sighted.has(id, score as u64) => {
                        there.insert(id.to_vec(), JobState::Failed);
                    }
                    (None, None) if created.is_none_or(|created| created > end.ended_ms as f64) => {
                        self.found.gone.push(end);
                    }
                    // The job is already known, or it runs again: then its next end has its own
                    // event.
                    _ => {}
                }
            }
            self.read_jobs(there.into_iter().collect()).await?;
        }
        Ok(())
    }

    /// Reads the jobs; those that another worker ran are added to the results.
    async fn read_jobs(&mut self, jobs: Vec<(Vec<u8>, JobState)>) -> Result<(), QueueError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let prefix = self.queues.keys(self.queue).key_prefix();
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for (id, _) in &jobs {
            pipe.hmget([prefix.as_bytes(), id].concat(), &FIELDS[..]);
        }
        let replies: Vec<RedisResult<Value>> =
            pipe.query_async(&mut self.queues.connection.get()).await?;
        self.found.read += jobs.len();
        for ((id, state), reply) in jobs.into_iter().zip(replies) {
            let values: Vec<Option<Vec<u8>>> = read(reply)?.unwrap_or_default();
            let values = values
                .into_iter()
                .map(|value| value.map(|value| text(&value)))
                .collect();
            let own = &self.queues.config.prefix;
            let Some(job) = ended(own, self.queue, &text(&id), state, values) else {
                continue;
            };
            self.sighted.0.insert(id, job.ended_ms);
            if !job
                .worker
                .as_deref()
                .is_some_and(|worker| worker.starts_with(WORKER_PREFIX))
            {
                self.found.ended.push(job);
            }
        }
        Ok(())
    }
}

/// `values` are in the order of [`FIELDS`]. `None` for a job that nobody ran, such as a parent that
/// failed with its children, and for damaged jobs.
fn ended(
    prefix: &str,
    queue: &QueueName,
    id: &str,
    state: JobState,
    values: Vec<Option<String>>,
) -> Option<EndedElsewhere> {
    let [
        name,
        opts,
        created,
        started,
        ended,
        attempt,
        starts,
        worker,
        parent,
        reason,
    ] = values.try_into().ok()?;
    let ms = |text: Option<String>| js::whole(&text?);
    let count = |text: Option<String>| {
        text.and_then(|text| text.parse().ok())
            .unwrap_or(0_u32)
            .max(1)
    };
    let trace = opts
        .and_then(|opts| JobOpts::parse(&opts).ok())
        .unwrap_or_default()
        .trace;
    let attempt = count(attempt);
    Some(EndedElsewhere {
        id: id.parse().ok()?,
        name: name?,
        created_ms: ms(created)?,
        started_ms: ms(started)?,
        ended_ms: ms(ended)?,
        started: count(starts).max(attempt),
        attempt,
        worker,
        failure: (state == JobState::Failed).then(|| reason.unwrap_or_default()),
        // The same rule as in the work path.
        correlation_id: trace
            .correlation_id
            .unwrap_or_else(|| format!("job:{queue}:{id}")),
        platform: trace.platform,
        // Both ids and prefixes may contain colons. For a parent under another prefix, only the
        // full key says where it is.
        parent: parent.map(|key| {
            let own = key
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix(':'))
                .map(str::to_owned);
            own.unwrap_or(key)
        }),
    })
}

/// Reads an event, if it is about the end of a job.
fn end(entry: redis::streams::StreamId) -> Option<RemovedAtEnd> {
    let field = |name: &str| {
        Some(text(
            &redis::from_redis_value::<Vec<u8>>(entry.map.get(name)?.clone()).ok()?,
        ))
    };
    let failure = match field("event")?.as_str() {
        "completed" => None,
        "failed" => Some(field("failedReason").unwrap_or_default()),
        _ => return None,
    };
    Some(RemovedAtEnd {
        id: field("jobId")?.parse().ok()?,
        ended_ms: order(&entry.id).0,
        failure,
    })
}

/// Splits a stream id into its milliseconds and its sequence number.
fn order(id: &str) -> (u64, u64) {
    let (ms, place) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), place.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_nobody_ran_is_no_attempt() {
        let queue = "q".parse().expect("a name");
        let fields = |started: Option<&str>| {
            let all = [
                Some("n"),
                None,
                Some("1"),
                started,
                Some("3"),
                Some("2"),
                None,
                None,
                Some("a:b:p:7"),
                None,
            ];
            all.into_iter()
                .map(|text| text.map(str::to_owned))
                .collect()
        };
        assert!(ended("a:b", &queue, "1", JobState::Failed, fields(None)).is_none());
        let job =
            ended("a:b", &queue, "1", JobState::Failed, fields(Some("2"))).expect("an attempt");
        assert_eq!(
            (job.started, job.attempt, job.parent.as_deref()),
            (2, 2, Some("p:7"))
        );
        assert_eq!(
            (job.failure.as_deref(), job.correlation_id.as_str()),
            (Some(""), "job:q:1")
        );
    }

    #[test]
    fn entries_of_a_stream_are_in_order_of_their_numbers() {
        assert!(
            order("9-10") > order("9-9") && order("10-0") > order("9-10") && order("x") == (0, 0)
        );
    }
}
