//! What operators do to one job. Each is one of upstream's scripts, so nothing is half-done; a job that changes state in between is
//! refused, not harmed.

use std::time::Duration;

use bullmq::QueueKeys;
use patchbay_model::job::JobState;
use patchbay_model::{JobId, QueueName};

use crate::job_rules::{check_data, check_delay, check_priority};
use crate::opts::JobOpts;
use crate::removal::{removal, reprocessing};
use crate::scripts::{self, Call};
use crate::transaction::transaction;
use crate::{Broker, JobView, QueueError, damage, job_fields};

impl Broker {
    /// Puts a finished job back, with fresh attempts.
    pub async fn retry(&self, queue: &QueueName, id: &JobId) -> Result<(), QueueError> {
        const RULE: &str = "only completed and failed jobs can be retried";
        let job = self.known_job(queue, id).await?;
        let opts = JobOpts::parse(&job.opts).unwrap_or_default();
        let call = reprocessing(&self.keys(queue), id, job.state, &opts);
        let call = call.ok_or_else(|| wrong_state(job.state, RULE))?;
        let code: i64 = call.invoke(&mut self.connection.get()).await?;
        self.moved(code, 1, queue, id, RULE).await
    }

    /// Forgets a job that does not run.
    pub async fn remove(&self, queue: &QueueName, id: &JobId) -> Result<(), QueueError> {
        let job = self.known_job(queue, id).await?;
        let keys = self.keys(queue);
        // Its name is one of the queue's own keys: the script would remove that, and leave the name in the lists.
        if let Some((key, wanted)) = damage::shape(&keys).into_iter().find(|(key, _)| key == &keys.job_key(id.as_str()))
        {
            return self.remove_from_own_key(&keys, &job, id, (&key, wanted)).await;
        }
        match removal(&keys, id).invoke::<i64>(&mut self.connection.get()).await.map_err(QueueError::from) {
            Ok(1) => Ok(()),
            Ok(OF_A_SCHEDULE) => Err(QueueError::Scheduled { id: id.to_string() }),
            Ok(_) => Err(QueueError::Running { id: id.to_string() }),
            // The script looks for the job's lock before anything that can stop it half-way, so nobody runs this one.
            Err(error) if error.is_damage() => self.remove_by_hand(&keys, id, true).await,
            Err(error) => Err(error),
        }
    }

    /// What stands there may be the job, since somebody has added it under that name, or what belongs there.
    async fn remove_from_own_key(
        &self,
        keys: &QueueKeys,
        job: &JobView,
        id: &JobId,
        (key, wanted): (&str, &str),
    ) -> Result<(), QueueError> {
        if job.state == JobState::Active {
            return Err(QueueError::Running { id: id.to_string() });
        }
        let mut connection = self.connection.get();
        let found: String = redis::cmd("TYPE").arg(key).query_async(&mut connection).await?;
        self.remove_by_hand(keys, id, wanted != "hash" && found == "hash").await?;
        if wanted == "hash" && found == "hash" {
            // Both in one: what is the queue's own stays.
            redis::cmd("HDEL").arg(key).arg(&job_fields::BULLMQ).exec_async(&mut connection).await?;
        }
        Ok(())
    }

    async fn remove_by_hand(&self, keys: &QueueKeys, id: &JobId, with_keys: bool) -> Result<(), QueueError> {
        tracing::warn!(job = %id, queue = keys.name(), "what Redis holds of the job is damaged: removed without BullMQ's script");
        let taken = transaction::<redis::Value>(self.connection.get(), |pipe| {
            pipe.ignore_errors();
            damage::take_away(pipe, keys, id.as_str().as_bytes(), with_keys);
        });
        taken.await?;
        Ok(())
    }

    /// Runs a delayed job now. Not one of a schedule: that would run the tick early and skip it later.
    pub async fn promote(&self, queue: &QueueName, id: &JobId) -> Result<(), QueueError> {
        let job = self.known_job(queue, id).await?;
        if job.schedule_id.is_some() {
            return Err(QueueError::Scheduled { id: id.to_string() });
        }
        let keys = self.keys(queue);
        let names = [
            keys.delayed(),
            keys.wait(),
            keys.paused(),
            keys.meta(),
            keys.prioritized(),
            keys.active(),
            keys.pc(),
            keys.events(),
            keys.marker(),
        ];
        let call = Call::new(&scripts::PROMOTE, &names).arg(keys.key_prefix()).arg(id.as_str());
        let code = call.invoke(&mut self.connection.get()).await?;
        self.moved(code, 0, queue, id, "only delayed jobs can be promoted").await
    }

    /// Starts a delayed job so long from now.
    pub async fn set_delay(&self, queue: &QueueName, id: &JobId, delay: Duration) -> Result<(), QueueError> {
        check_delay("a delay", delay)?;
        let job = self.known_job(queue, id).await?;
        if job.schedule_id.is_some() {
            return Err(QueueError::Scheduled { id: id.to_string() });
        }
        let keys = self.keys(queue);
        let names = [keys.delayed(), keys.meta(), keys.marker(), keys.events()];
        let call = Call::new(&scripts::CHANGE_DELAY, &names).arg(delay.as_millis() as u64).arg(self.now_ms());
        let call = call.arg(id.as_str()).arg(keys.job_key(id.as_str()));
        let code = call.invoke(&mut self.connection.get()).await?;
        self.moved(code, 0, queue, id, "only delayed jobs have a delay to change").await
    }

    /// 0 is before all prioritized jobs.
    pub async fn set_priority(&self, queue: &QueueName, id: &JobId, priority: u32) -> Result<(), QueueError> {
        const RULE: &str = "only waiting, prioritized and delayed jobs have a priority to change";
        check_priority(priority)?;
        let job = self.known_job(queue, id).await?;
        if !matches!(job.state, JobState::Waiting | JobState::Prioritized | JobState::Delayed) {
            return Err(wrong_state(job.state, RULE));
        }
        let keys = self.keys(queue);
        let names =
            [keys.wait(), keys.paused(), keys.meta(), keys.prioritized(), keys.active(), keys.pc(), keys.marker()];
        let call = Call::new(&scripts::CHANGE_PRIORITY, &names).arg(priority).arg(keys.key_prefix()).arg(id.as_str());
        let code = call.arg("0").invoke(&mut self.connection.get()).await?;
        self.moved(code, 0, queue, id, RULE).await
    }

    /// Replaces a job's data (one JSON document). A running job has read its own already.
    pub async fn set_data(&self, queue: &QueueName, id: &JobId, data: &str) -> Result<(), QueueError> {
        const RULE: &str = "a running job has read its data already";
        check_data(data)?;
        let job = self.known_job(queue, id).await?;
        if job.state == JobState::Active {
            return Err(wrong_state(job.state, RULE));
        }
        let call = Call::new(&scripts::UPDATE_DATA, &[self.keys(queue).job_key(id.as_str())]).arg(data);
        let code = call.invoke(&mut self.connection.get()).await?;
        self.moved(code, 0, queue, id, RULE).await
    }

    async fn known_job(&self, queue: &QueueName, id: &JobId) -> Result<JobView, QueueError> {
        self.job(queue, id).await?.ok_or_else(|| not_found(queue, id))
    }

    /// What a script's code means: done, gone, or no longer in the state that it takes jobs from.
    async fn moved(
        &self,
        code: i64,
        done: i64,
        queue: &QueueName,
        id: &JobId,
        rule: &'static str,
    ) -> Result<(), QueueError> {
        match code {
            code if code == done => Ok(()),
            MISSING => Err(not_found(queue, id)),
            _ => Err(wrong_state(self.known_job(queue, id).await?.state, rule)),
        }
    }
}

const MISSING: i64 = -1;
const OF_A_SCHEDULE: i64 = -8;

fn not_found(queue: &QueueName, id: &JobId) -> QueueError {
    QueueError::NotFound { queue: queue.to_string(), id: id.to_string() }
}

fn wrong_state(state: JobState, rule: &'static str) -> QueueError {
    QueueError::WrongState { state, rule }
}
