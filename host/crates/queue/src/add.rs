//! Adds jobs with BullMQ's own scripts, so that options, trace and data arrive exactly as given.

use patchbay_model::job::NewJob;
use patchbay_model::{JobId, QueueName};

use crate::addition::{Addition, addition, script_for};
use crate::job_rules::check;
use crate::{Broker, QueueError};

impl Broker {
    /// Adds jobs, queue by queue: all jobs of one queue or none. Options that a job leaves out come
    /// from the manifests ([`Broker::set_defaults`]). Refused while Redis is nearly full.
    pub async fn add(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        let now = self.now_ms();
        let made_now = jobs.into_iter().map(|job| (job, now));
        self.add_made_at(made_now.collect()).await
    }

    /// As [`Broker::add`], for jobs that were made at another time, in Unix milliseconds: adding one
    /// again makes the same job, with the same idempotency key.
    pub async fn add_made_at(&self, jobs: Vec<(NewJob, u64)>) -> Result<Vec<JobId>, QueueError> {
        self.memory.refuse_when_full().await?;
        let mut by_queue: Vec<(QueueName, Vec<(usize, Addition)>)> = Vec::new();
        let mut ids: Vec<Option<JobId>> = vec![None; jobs.len()];
        // All jobs are checked before the first one is added.
        for (place, (mut job, made_ms)) in jobs.into_iter().enumerate() {
            self.fill(&mut job);
            let addition = (place, self.addition(&job, made_ms)?);
            match by_queue.iter_mut().find(|(name, _)| name == &job.queue) {
                Some((_, list)) => list.push(addition),
                None => by_queue.push((job.queue, vec![addition])),
            }
        }
        for (_, list) in by_queue {
            let (places, additions): (Vec<usize>, Vec<Addition>) = list.into_iter().unzip();
            for (place, id) in places.into_iter().zip(self.add_all(&additions, &[]).await?) {
                ids[place] = Some(id);
            }
        }
        ids.into_iter()
            .map(|id| id.ok_or_else(|| QueueError::Invalid("BullMQ returned no job id".into())))
            .collect()
    }

    /// Whether [`Broker::add`] would accept these jobs. For jobs that are added later.
    pub fn check(&self, jobs: &[NewJob]) -> Result<(), QueueError> {
        for job in jobs {
            let mut job = job.clone();
            self.fill(&mut job);
            self.addition(&job, self.now_ms())?;
        }
        Ok(())
    }

    fn addition(&self, job: &NewJob, made_ms: u64) -> Result<Addition, QueueError> {
        check(job, self.now_ms())?;
        let keys = self.keys(&job.queue);
        let (script, script_keys) = script_for(job, &keys);
        addition(
            script,
            &script_keys,
            &keys,
            job,
            job.id.clone(),
            made_ms,
            None,
        )
    }
}
