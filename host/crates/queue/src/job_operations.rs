//! What operators do to one job. Each operation is one of BullMQ's scripts, so nothing is done by
//! half. If the job changes state in between, the operation is refused and the job is not harmed.

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
    /// Moves a finished job back to waiting, with all attempts available again.
    pub async fn retry(&self, queue: &QueueName, id: &JobId) -> Result<(), QueueError> {
        const RULE: &str = "only completed and failed jobs can be retried";
        let job = self.known_job(queue, id).await?;
        let opts = JobOpts::parse(&job.opts).unwrap_or_default();
        let call = reprocessing(&self.keys(queue), id, job.state, &opts);
        let call = call.ok_or_else(|| wrong_state(job.state, RULE))?;
        let code: i64 = call.invoke(&mut self.connection.get()).await?;
        self.moved(code, 1, queue, id, RULE).await
    }

    /// Removes a job that is not running.
    pub async fn remove(&self, queue: &QueueName, id: &JobId) -> Result<(), QueueError> {
        let job = self.known_job(queue, id).await?;
        let keys = self.keys(queue);
        // The job's id is the name of one of the queue's own keys. The script would delete that
        // key, and leave the id in the lists.
        if let Some((key, wanted)) = damage::shape(&keys)
            .into_iter()
            .find(|(key, _)| key == &keys.job_key(id.as_str()))
        {
            return self
                .remove_from_own_key(&keys, &job, id, (&key, wanted))
                .await;
        }
        // BullMQ's script answers the same for a job that somebody else has just removed. A damaged
        // one may have had no hash before.
        let hash = keys.job_key(id.as_str());
        let is_damaged = job.damage.is_some();
        let call = removal(&keys, id);
        call.load(&mut self.connection.get()).await?;
        let answered = transaction::<(bool, i64)>(self.connection.get(), |pipe| {
            pipe.exists(&hash).add_command(call.command());
        });
        match answered.await.map_err(QueueError::from) {
            Ok((false, _)) if !is_damaged => Err(not_found(queue, id)),
            Ok((_, 1)) => Ok(()),
            Ok((_, OF_A_SCHEDULE)) => Err(QueueError::Scheduled { id: id.to_string() }),
            Ok((_, _)) => Err(QueueError::Running { id: id.to_string() }),
            // The script checks the job's lock before anything that can stop it in the middle, so
            // no worker runs this job.
            Err(error) if error.is_damage() => self.remove_by_hand(&keys, id, true).await,
            Err(error) => Err(error),
        }
    }

    /// The key may hold the job, because it was added under that name, or the queue's own value.
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
        let found: String = redis::cmd("TYPE")
            .arg(key)
            .query_async(&mut connection)
            .await?;
        self.remove_by_hand(keys, id, wanted != "hash" && found == "hash")
            .await?;
        if wanted == "hash" && found == "hash" {
            // One hash holds both. The queue's own fields stay.
            redis::cmd("HDEL")
                .arg(key)
                .arg(&job_fields::BULLMQ)
                .exec_async(&mut connection)
                .await?;
        }
        Ok(())
    }

    async fn remove_by_hand(
        &self,
        keys: &QueueKeys,
        id: &JobId,
        with_keys: bool,
    ) -> Result<(), QueueError> {
        tracing::warn!(job = %id, queue = keys.name(), "A job's data in Redis is damaged; the job is removed without BullMQ's script");
        let taken = transaction::<redis::Value>(self.connection.get(), |pipe| {
            pipe.ignore_errors();
            damage::take_away(pipe, keys, id.as_str().as_bytes(), with_keys);
        });
        taken.await?;
        Ok(())
    }

    /// Makes a delayed job run now. Refused for a tick of a schedule: the tick would run early and
    /// then be skipped.
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
        let call = Call::new(&scripts::PROMOTE, &names)
            .arg(keys.key_prefix())
            .arg(id.as_str());
        let code = call.invoke(&mut self.connection.get()).await?;
        self.moved(code, 0, queue, id, "only delayed jobs can be promoted")
            .await
    }

    /// Makes a delayed job start after `delay` from now.
    pub async fn set_delay(
        &self,
        queue: &QueueName,
        id: &JobId,
        delay: Duration,
    ) -> Result<(), QueueError> {
        check_delay("The delay", delay)?;
        let job = self.known_job(queue, id).await?;
        if job.schedule_id.is_some() {
            return Err(QueueError::Scheduled { id: id.to_string() });
        }
        let keys = self.keys(queue);
        let names = [keys.delayed(), keys.meta(), keys.marker(), keys.events()];
        let call = Call::new(&scripts::CHANGE_DELAY, &names)
            .arg(delay.as_millis() as u64)
            .arg(self.now_ms());
        let call = call.arg(id.as_str()).arg(keys.job_key(id.as_str()));
        let code = call.invoke(&mut self.connection.get()).await?;
        self.moved(
            code,
            0,
            queue,
            id,
            "only delayed jobs have a delay to change",
        )
        .await
    }

    /// Priority 0 puts the job before all prioritized jobs.
    pub async fn set_priority(
        &self,
        queue: &QueueName,
        id: &JobId,
        priority: u32,
    ) -> Result<(), QueueError> {
        const RULE: &str = "only waiting, prioritized and delayed jobs have a priority to change";
        check_priority(priority)?;
        let job = self.known_job(queue, id).await?;
        if !matches!(
            job.state,
            JobState::Waiting | JobState::Prioritized | JobState::Delayed
        ) {
            return Err(wrong_state(job.state, RULE));
        }
        let keys = self.keys(queue);
        let names = [
            keys.wait(),
            keys.paused(),
            keys.meta(),
            keys.prioritized(),
            keys.active(),
            keys.pc(),
            keys.marker(),
        ];
        let call = Call::new(&scripts::CHANGE_PRIORITY, &names)
            .arg(priority)
            .arg(keys.key_prefix())
            .arg(id.as_str());
        let code = call.arg("0").invoke(&mut self.connection.get()).await?;
        self.moved(code, 0, queue, id, RULE).await
    }

    /// Replaces a job's data (one JSON document). No effect on a running attempt, which has already
    /// read its data.
    pub async fn set_data(
        &self,
        queue: &QueueName,
        id: &JobId,
        data: &str,
    ) -> Result<(), QueueError> {
        const RULE: &str = "a running job has read its data already";
        check_data(data)?;
        let job = self.known_job(queue, id).await?;
        if job.state == JobState::Active {
            return Err(wrong_state(job.state, RULE));
        }
        let call = Call::new(
            &scripts::UPDATE_DATA,
            &[self.keys(queue).job_key(id.as_str())],
        )
        .arg(data);
        let code = call.invoke(&mut self.connection.get()).await?;
        self.moved(code, 0, queue, id, RULE).await
    }

    async fn known_job(&self, queue: &QueueName, id: &JobId) -> Result<JobView, QueueError> {
        self.job(queue, id)
            .await?
            .ok_or_else(|| not_found(queue, id))
    }

    /// Maps a script's return code: done, not found, or no longer in a state that the script
    /// accepts.
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
    QueueError::NotFound {
        queue: queue.to_string(),
        id: id.to_string(),
    }
}

fn wrong_state(state: JobState, rule: &'static str) -> QueueError {
    QueueError::WrongState { state, rule }
}
