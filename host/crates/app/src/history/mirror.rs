//! The mirror: one process of the fleet copies to the history what workers that are no hosts have
//! ended. Best effort, final outcomes only.
//!
//! A job tells which worker had it last, and a host's name begins like no other, so what a host ran
//! is never copied: its own record comes with the settlement. Of a job that was removed as it ended
//! nobody can tell; those are copied only of queues that no plugin names. How far it has looked is
//! remembered after what it found, so a kill repeats a look, and repeating changes nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use patchbay_model::QueueName;
use patchbay_model::attempt::{AttemptRecord, Source, VerdictKind};
use patchbay_model::job::JobKey;
use patchbay_model::mirror_cursor::MirrorCursor;
use patchbay_model::outcome::OutcomeKind;
use patchbay_queue::{Broker, EndedElsewhere, QueueError, RemovedAtEnd, SeenJobs};
use patchbay_store::{LeaderTask, Leadership, NewAttempt, Store};
use tracing::debug;

use super::recorder;
use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::plugins::Plugins;
use crate::redacted::mask_of;
use crate::service::Service;

/// Looking for queues goes through all keys of Redis.
const ROUNDS_PER_WALK: u32 = 4;
const WALK_LIMIT: Duration = Duration::from_secs(20);
/// Jobs and events read per round; queues beyond wait for the next one.
const MOST_PER_ROUND: usize = 20_000;
const BATCH: usize = 500;
/// Between a worker's clock and Redis's: two ends of one job that are so close are one.
const CLOCKS_DIFFER_BY_S: f64 = 60.0;
/// Where nobody knows who ran it.
const SOMEBODY: &str = "elsewhere";
const FAILED: &str = "failed";

/// Copies what other workers ended; nothing where nobody is to look.
pub fn mirror(parts: &Parts) -> Option<Arc<dyn Service>> {
    let mirror = Mirror {
        store: parts.store.clone(),
        queues: parts.broker.clone(),
        plugins: Arc::clone(&parts.plugins),
        every: parts.history.mirror_every?,
        walked: None,
        turn: VecDeque::new(),
        sighted: HashMap::new(),
    };
    Some(Arc::new(Led::new(parts.store.clone(), mirror)))
}

struct Mirror {
    store: Store,
    queues: Broker,
    plugins: Arc<Plugins>,
    every: Duration,
    walked: Option<Instant>,
    /// Every queue; the first is the next to be looked at.
    turn: VecDeque<QueueName>,
    sighted: HashMap<QueueName, SeenJobs>,
}

#[async_trait]
impl LedTask for Mirror {
    const TASK: LeaderTask = LeaderTask::Mirror;
    const NAME: &'static str = "mirror";
    const FAILING: &'static str = "jobs that other workers ran are not copied to the history";

    fn every(&self) -> Duration {
        self.every
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        self.find_queues().await?;
        let places = lead.mirror_cursors(self.queues.prefix()).await?;
        let mut read = 0;
        for _ in 0..self.turn.len() {
            if read >= MOST_PER_ROUND {
                break;
            }
            let Some(queue) = self.turn.pop_front() else {
                break;
            };
            self.turn.push_back(queue.clone());
            // Until it is kept, what was seen counts as unseen.
            let mut sighted = self.sighted.remove(&queue).unwrap_or_default();
            read += self
                .look_at(&queue, places.get(&queue), &mut sighted, lead)
                .await?;
            self.sighted.insert(queue, sighted);
        }
        Ok(Next::Later)
    }
}

impl Mirror {
    async fn find_queues(&mut self) -> anyhow::Result<()> {
        if self
            .walked
            .is_some_and(|at| at.elapsed() < self.every * ROUNDS_PER_WALK)
        {
            return Ok(());
        }
        let found = tokio::time::timeout(WALK_LIMIT, self.queues.list()).await??;
        self.turn.retain(|queue| found.binary_search(queue).is_ok());
        let new: Vec<_> = found
            .into_iter()
            .filter(|queue| !self.turn.contains(queue))
            .collect();
        self.turn.extend(new);
        self.sighted.retain(|queue, _| self.turn.contains(queue));
        self.walked = Some(Instant::now());
        Ok(())
    }

    /// Gives how much was read.
    async fn look_at(
        &self,
        queue: &QueueName,
        place: Option<&MirrorCursor>,
        sighted: &mut SeenJobs,
        lead: &mut Leadership<'_>,
    ) -> anyhow::Result<usize> {
        let found = match self.queues.ended_elsewhere(queue, place, sighted).await {
            Ok(found) => found,
            Err(error @ QueueError::Damaged { .. }) => {
                debug!(%queue, %error, "not mirrored");
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        };
        let prefix = self.queues.prefix();
        let ended = self.without_what_is_hidden(queue, found.ended).await?;
        self.keep(
            ended
                .into_iter()
                .map(|job| of_job(prefix, queue, job))
                .collect(),
        )
        .await?;
        if !found.gone.is_empty() && !self.store.may_be_worked_by_hosts(prefix, queue).await? {
            // An earlier look may have met them while they were there.
            let ends: Vec<_> = found
                .gone
                .iter()
                .map(|end| (&end.id, end.ended_ms))
                .collect();
            let known = self
                .store
                .known_ends(prefix, queue, &ends, CLOCKS_DIFFER_BY_S)
                .await?;
            let unknown = found
                .gone
                .into_iter()
                .enumerate()
                .filter(|(place, _)| !known.contains(place));
            self.keep(
                unknown
                    .map(|(_, end)| of_gone(prefix, queue, end))
                    .collect(),
            )
            .await?;
        }
        if found.read > 0 || place.is_none() {
            lead.remember_mirror_place(prefix, queue, &found.place)
                .await?;
        }
        Ok(found.read)
    }

    /// Their data is read for that, and not kept.
    async fn without_what_is_hidden(
        &self,
        queue: &QueueName,
        mut ended: Vec<EndedElsewhere>,
    ) -> anyhow::Result<Vec<EndedElsewhere>> {
        let failed: Vec<&mut EndedElsewhere> = ended
            .iter_mut()
            .filter(|job| job.failure.is_some())
            .collect();
        let ids: Vec<&str> = failed.iter().map(|job| job.id.as_str()).collect();
        let data = self.queues.data_of(queue, &ids).await?;
        let children = self.queues.children_data(queue, &ids).await?;
        let redaction = self.plugins.redaction(queue);
        for ((job, data), children) in failed.into_iter().zip(data).zip(children) {
            let (_, mask) = redaction
                .clone()
                .of_job(job.id.as_str())
                .data_with_others(&data, self.plugins.hidden_values(&children));
            mask.hide(&mut job.failure);
        }
        Ok(ended)
    }

    async fn keep(&self, records: Vec<AttemptRecord>) -> anyhow::Result<()> {
        let attempts: Vec<_> = records
            .into_iter()
            .map(|record| NewAttempt {
                record,
                body: None,
                terms: Vec::new(),
            })
            .collect();
        for attempts in attempts.chunks(BATCH) {
            // What Postgres refuses for what is in it is named in the log, and left out.
            recorder::record(&self.store, attempts).await?;
        }
        Ok(())
    }
}

fn of_job(prefix: &str, queue: &QueueName, job: EndedElsewhere) -> AttemptRecord {
    let key = JobKey {
        prefix: prefix.to_owned(),
        queue: queue.clone(),
        id: job.id,
        created_ms: job.created_ms,
    };
    AttemptRecord {
        started: job.started,
        attempt: job.attempt,
        name: job.name,
        host: job
            .worker
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| SOMEBODY.to_owned()),
        started_at: at(job.started_ms),
        correlation_id: job.correlation_id,
        platform: job.platform,
        parent: job.parent,
        ..record(key, job.ended_ms, job.failure)
    }
}

/// Without the time when it was made, which tells it from others of its id: the time of its end
/// does.
fn of_gone(prefix: &str, queue: &QueueName, end: RemovedAtEnd) -> AttemptRecord {
    let key = JobKey {
        prefix: prefix.to_owned(),
        queue: queue.clone(),
        id: end.id,
        created_ms: 0,
    };
    let mut failure = end.failure;
    mask_of(key.id.as_str()).hide(&mut failure);
    record(key, end.ended_ms, failure)
}

fn record(job: JobKey, ended_ms: u64, failure: Option<String>) -> AttemptRecord {
    let (outcome, verdict) = match failure {
        None => (OutcomeKind::Completed, VerdictKind::Complete),
        Some(_) => (OutcomeKind::Failed, VerdictKind::Fail),
    };
    AttemptRecord {
        started: 1,
        attempt: 1,
        name: String::new(),
        plugin: None,
        revision: None,
        host: SOMEBODY.to_owned(),
        started_at: at(ended_ms),
        finished_at: at(ended_ms),
        outcome,
        verdict,
        code: failure.is_some().then(|| FAILED.to_owned()),
        message: failure,
        stack: None,
        correlation_id: format!("job:{}:{}", job.queue, job.id),
        source: Source::Mirror,
        platform: None,
        parent: None,
        calls: Vec::new(),
        stalled: 0,
        values: Vec::new(),
        body: None,
        job,
    }
}

/// Workers' clocks may say anything; the store bounds what it keeps.
fn at(ms: u64) -> DateTime<Utc> {
    i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}
