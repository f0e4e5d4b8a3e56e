//! Adds many jobs again, from what Redis or the history knows of earlier ones.

use patchbay_model::InvalidNewId;
use patchbay_model::confidential::{REFUSAL, is_confidential};
use patchbay_model::job::{JobKey, JobState, NewJob};

use super::{Chosen, JobResult, PlannedChange};
use crate::addition::{addition, id_of_reply, script_for};
use crate::job_rules::check_values;
use crate::opts::JobOpts;
use crate::{Broker, QueueError};

#[derive(Debug, Clone)]
pub struct ReAddition {
    /// Its number within the operation.
    pub n: i64,
    /// The job to add. BullMQ chooses its id.
    pub job: NewJob,
    /// If set, the new job counts as the same job as before: its outside effects are not repeated.
    pub kept: Option<PriorIdentity>,
}

#[derive(Debug, Clone)]
pub struct PriorIdentity {
    pub key: JobKey,
    /// Starts that the history has recorded, so that new attempts are distinct from them.
    pub started: u32,
}

impl Broker {
    /// Adds the jobs. A job with a prior identity is added only if Redis no longer has it.
    pub async fn add_again(
        &self,
        bulk: i64,
        items: Vec<ReAddition>,
    ) -> Result<Vec<JobResult>, QueueError> {
        self.memory.refuse_when_full().await?;
        let notes = self.notes(bulk, items.iter().map(|item| item.n)).await?;
        let mut fates = vec![None; items.len()];
        let mut steps = Vec::new();
        for (place, mut item) in items.into_iter().enumerate() {
            if notes.contains_key(&item.n) {
                fates[place] = Some(JobResult::done());
                continue;
            }
            if let Some(kept) = &item.kept
                && let Some(reason) = self.cannot_be_the_same(kept).await?
            {
                fates[place] = Some(JobResult::skipped(reason));
                continue;
            }
            self.fill(&mut item.job);
            match self.addition_again(&item) {
                Ok(step) => steps.push((place, step)),
                Err(QueueError::Invalid(reason)) => {
                    fates[place] = Some(JobResult::Skipped(reason.into()))
                }
                Err(error) => return Err(error),
            }
        }
        self.finish(bulk, fates, steps, |reply| match id_of_reply(reply) {
            Ok(id) => JobResult::Done {
                new_id: Some(id),
                score: None,
            },
            Err(error) => JobResult::Failed(error.to_string()),
        })
        .await
    }

    /// Makes jobs to add from what Redis knows of these jobs, or returns why it knows too little.
    pub async fn like(
        &self,
        items: &[Chosen],
    ) -> Result<Vec<Result<NewJob, &'static str>>, QueueError> {
        let seen = self
            .see(items, &["timestamp", "name", "data", "opts", "priority"])
            .await?;
        let job = |(item, seen): (&Chosen, super::CurrentJob)| {
            if is_confidential(item.key.id.as_str()) {
                return Err(REFUSAL);
            }
            if seen.number(0) != Some(item.key.created_ms) {
                return Err("The job is no longer in Redis");
            }
            let text = |place| seen.text(place).unwrap_or_default();
            let opts = JobOpts::parse(text(3)).map_err(|_| "The job's options cannot be read")?;
            let (attempts, backoff) = opts.retry();
            Ok(NewJob {
                // BullMQ's producers write 0 if no number is set.
                attempts: attempts.filter(|&attempts| attempts > 0),
                backoff,
                priority: seen
                    .number(4)
                    .and_then(|priority| priority.try_into().ok())
                    .filter(|priority| *priority > 0),
                trace: opts.trace,
                ..NewJob::new(item.key.queue.clone(), text(1), text(2))
            })
        };
        Ok(items.iter().zip(seen).map(job).collect())
    }

    fn addition_again(&self, item: &ReAddition) -> Result<PlannedChange, QueueError> {
        check_values(&item.job, self.now_ms())?;
        if let Some(kept) = item.kept.as_ref().filter(|kept| kept.key.id.is_queue_key()) {
            return Err(QueueError::Invalid(
                InvalidNewId::QueueKey(kept.key.id.clone()).to_string(),
            ));
        }
        let keys = self.keys(&item.job.queue);
        let (script, names) = script_for(&item.job, &keys);
        let (id, created_ms) = match &item.kept {
            Some(kept) => (Some(kept.key.id.clone()), kept.key.created_ms),
            None => (None, self.now_ms()),
        };
        let call = addition(script, &names, &keys, &item.job, id, created_ms, None)?.call;
        let after = item.kept.iter().map(|kept| {
            let mut command = redis::cmd("HSET");
            command
                .arg(keys.job_key(kept.key.id.as_str()))
                .arg("ats")
                .arg(kept.started);
            command
        });
        Ok(PlannedChange {
            n: item.n,
            before: Vec::new(),
            call,
            after: after.collect(),
            note: String::new(),
        })
    }

    async fn cannot_be_the_same(
        &self,
        kept: &PriorIdentity,
    ) -> Result<Option<&'static str>, QueueError> {
        let keys = self.keys(&kept.key.queue);
        let item = Chosen {
            n: 0,
            key: kept.key.clone(),
            state: JobState::Unknown,
            finished_on: None,
        };
        let seen = self.see(&[item], &["timestamp"]).await?;
        match seen.first().and_then(|seen| seen.number(0)) {
            Some(created) if created == kept.key.created_ms => {
                return Ok(Some("The job is still in Redis: retry it instead"));
            }
            Some(_) => {
                return Ok(Some(
                    "Another job has this id now: enqueue it with a new key",
                ));
            }
            None => {}
        }
        if let Ok(number) = kept.key.id.as_str().parse::<u64>() {
            let counted: Option<u64> =
                redis::AsyncCommands::get(&mut self.connection.get(), keys.id()).await?;
            // Later, BullMQ would give this id to a new job, which would overwrite this one.
            if counted.unwrap_or(0) < number {
                return Ok(Some(
                    "BullMQ's counter of ids is lower than its id, so that another job would get this id: enqueue it with a new key",
                ));
            }
        }
        Ok(None)
    }
}
