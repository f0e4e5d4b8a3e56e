//! Removes jobs from Redis, and then from the history.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use patchbay_api::history::{LiveJob, Places};
use patchbay_model::QueueName;
use patchbay_model::job::{JobKey, JobState};
use patchbay_model::redaction::Mask;
use patchbay_queue::{Copy, EraseOutcome as Fate};
use patchbay_store::{Erased, ErasedJob};

use super::{EraseError, Erasing, is_ended, key_of};

/// Longest wait for the recorder to copy what has just ended.
const RECORDER_LIMIT: Duration = Duration::from_secs(3);
const RECORDER_PAUSE: Duration = Duration::from_millis(50);

impl Erasing<'_> {
    /// Removes jobs from Redis, then from the history. Jobs that stay in Redis lose only their rows
    /// in the history.
    pub(super) async fn erase_jobs(
        &self,
        erasure: i64,
        jobs: &[ErasedJob],
        unfinished: bool,
        mask: &Mask,
        places: &mut Places,
    ) -> Result<(Erased, Vec<LiveJob>), EraseError> {
        let (mut gone, mut left, mut fates) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            let Some(key) = key_of(job) else {
                // Redis can have no such job.
                gone.push(job.clone());
                fates.push((job, Fate::Gone));
                continue;
            };
            let before = self
                .queues
                .locate(&key.queue, &key.id)
                .await?
                .filter(|located| located.key == key);
            let fate = self.queues.erase_job(&key, unfinished).await?;
            fates.push((job, fate));
            let state = before.as_ref().map(|located| located.state);
            let why = match fate {
                Fate::Gone => {
                    match state {
                        Some(state) if is_ended(state) => places.redis_ended += 1,
                        Some(_) => places.redis_unfinished += 1,
                        None => {}
                    }
                    gone.push(job.clone());
                    continue;
                }
                Fate::Runs => "running",
                Fate::Unfinished(_) => "unfinished",
                Fate::OfSchedule => "of-schedule",
            };
            let (queue, id, state) = (
                job.queue.clone(),
                job.job_id.clone(),
                state.unwrap_or(JobState::Unknown),
            );
            left.push(LiveJob {
                queue,
                id,
                state,
                why: why.to_owned(),
            });
        }
        // Every job that has ended by now has its record in the stream.
        let recorded = self.recorded_since(Instant::now()).await?;
        let erased = self.store.erase(jobs).await?;
        let spared: HashSet<String> = jobs
            .iter()
            .filter(|job| !gone.contains(job))
            .filter_map(key_of)
            .map(|key| key.idempotency_key())
            .collect();
        self.elsewhere(places, &gone, &spared, mask, false).await?;
        for (job, fate) in fates {
            let state = match fate {
                Fate::Gone if recorded => "done",
                // The record of a job that has just ended may still come to the history.
                Fate::Gone => "pending",
                Fate::Runs => "running",
                Fate::Unfinished(_) => "unfinished",
                Fate::OfSchedule => "of-schedule",
            };
            self.store.settle_erased_job(erasure, job, state).await?;
        }
        Ok((erased, left))
    }

    /// Waits until Postgres has the attempts that had ended at `began`. Returns whether it has
    /// them.
    async fn recorded_since(&self, began: Instant) -> Result<bool, EraseError> {
        loop {
            // By Redis's clock, hence an age instead of a time.
            let oldest = self.queues.attempts_waiting_for().await?;
            if oldest.is_none_or(|oldest| oldest < began.elapsed()) {
                return Ok(true);
            }
            if began.elapsed() > RECORDER_LIMIT {
                return Ok(false);
            }
            tokio::time::sleep(RECORDER_PAUSE).await;
        }
    }

    /// Erases what Redis has of these jobs outside of them.
    pub(super) async fn elsewhere(
        &self,
        places: &mut Places,
        jobs: &[ErasedJob],
        spared: &HashSet<String>,
        mask: &Mask,
        only_count: bool,
    ) -> Result<(), EraseError> {
        if jobs.is_empty() && mask.is_empty() {
            return Ok(());
        }
        let mut by_queue: BTreeMap<QueueName, HashSet<String>> = BTreeMap::new();
        for key in jobs.iter().filter_map(key_of) {
            by_queue
                .entry(key.queue)
                .or_default()
                .insert(key.id.to_string());
        }
        if !mask.is_empty() {
            // A parent may be gone while its event is still there.
            for queue in self.queues.list().await? {
                by_queue.entry(queue).or_default();
            }
        }
        for (queue, ids) in &by_queue {
            places.events += self
                .queues
                .erase_events(queue, ids, mask, only_count)
                .await?;
        }
        let keys: Vec<JobKey> = jobs.iter().filter_map(key_of).collect();
        places.flow_results += self
            .queues
            .erase_child_results(&keys, mask, only_count)
            .await?;
        let keys: HashSet<String> = keys.iter().map(JobKey::idempotency_key).collect();
        places.key_value += self
            .queues
            .erase_deduplication_data(&keys, spared, mask, only_count)
            .await?;
        let names: HashSet<String> = jobs
            .iter()
            .map(|job| format!("{}:{}", job.queue, job.job_id))
            .collect();
        places.set_aside += self
            .queues
            .erase_set_aside(&names, mask, only_count)
            .await?;
        if !only_count {
            let made: HashSet<(String, i64)> = jobs
                .iter()
                .map(|job| (format!("{}:{}", job.queue, job.job_id), job.job_created_ms))
                .collect();
            let is_meant = |copy: &Copy| {
                let at = copy.created_ms.and_then(|at| i64::try_from(at).ok());
                at.is_some_and(|at| made.contains(&(copy.job.clone(), at)))
            };
            let copies = self.queues.copies(is_meant).await?;
            places.undo_copies += self.forget_copies(&copies).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_copies(&self, copies: &[Copy]) -> Result<u64, EraseError> {
        self.queues.delete_copies(copies).await?;
        for copy in copies {
            self.store.mark_removed_lost(copy.bulk, &copy.job).await?;
        }
        Ok(copies.len() as u64)
    }
}
