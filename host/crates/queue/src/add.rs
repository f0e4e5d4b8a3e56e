//! Adding jobs, by BullMQ's own scripts, so that options, trace and data arrive exactly as they were given.

use std::time::{SystemTime, UNIX_EPOCH};

use bullmq::QueueKeys;
use patchbay_model::job::NewJob;
use patchbay_model::{JobId, QueueName};
use redis::Script;
use serde_json::value::RawValue;

use crate::scripts::{self, Call};
use crate::{QueueError, Queues, opts};

/// Largest job data, in bytes: BullMQ keeps it in Redis memory, and every reader loads it whole.
pub(crate) const MAX_DATA_BYTES: usize = 1 << 20;
/// BullMQ's: priorities are kept in the upper bits of a score.
const MAX_PRIORITY: u32 = 2_097_152;

impl Queues {
    /// Adds jobs; each queue's all or none, queues in order. Refused while Redis is nearly full.
    pub async fn add(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        self.memory.refuse_when_full().await?;
        let mut by_queue: Vec<(QueueName, Vec<(usize, Call)>)> = Vec::new();
        let mut ids: Vec<Option<JobId>> = vec![None; jobs.len()];
        // All are checked before the first one is added.
        for (place, job) in jobs.into_iter().enumerate() {
            let addition = (place, self.addition(&job)?);
            match by_queue.iter_mut().find(|(name, _)| name == &job.queue) {
                Some((_, list)) => list.push(addition),
                None => by_queue.push((job.queue, vec![addition])),
            }
        }
        for (_, list) in by_queue {
            let (places, additions): (Vec<usize>, Vec<Call>) = list.into_iter().unzip();
            for (place, id) in places.into_iter().zip(self.run(&additions).await?) {
                ids[place] = Some(id);
            }
        }
        ids.into_iter().map(|id| id.ok_or_else(|| QueueError::Invalid("BullMQ gave no id".into()))).collect()
    }

    async fn run(&self, additions: &[Call]) -> Result<Vec<JobId>, QueueError> {
        let mut connection = self.connection.get();
        let replies: Vec<redis::Value> = if let [one] = additions {
            vec![one.invoke(&mut connection).await?]
        } else {
            // All or none of the queue's jobs, so in one transaction; there a script that Redis does not know could not be sent after all.
            for script in [&*scripts::ADD_STANDARD, &*scripts::ADD_DELAYED, &*scripts::ADD_PRIORITIZED] {
                if let Some(addition) = additions.iter().find(|addition| addition.is_of(script)) {
                    addition.load(&mut connection).await?;
                }
            }
            let mut pipe = redis::pipe();
            pipe.atomic();
            for addition in additions {
                pipe.add_command(addition.command());
            }
            pipe.query_async(&mut connection).await?
        };
        replies.into_iter().map(id).collect()
    }

    fn addition(&self, job: &NewJob) -> Result<Call, QueueError> {
        check(job)?;
        let keys = self.keys(&job.queue);
        let (script, script_keys) = script_for(job, &keys);
        let deduplication = job.deduplication.as_ref().map(|once| format!("{}:de:{}", keys.base(), once.key));
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        // Prefix, id, name, time, three for a parent, scheduler, de-duplication.
        let nothing = None::<String>;
        let custom_id = job.id.as_ref().map_or("", JobId::as_str);
        let head = (
            keys.key_prefix(),
            custom_id,
            &job.name,
            timestamp,
            &nothing,
            &nothing,
            &nothing,
            &nothing,
            &deduplication,
        );
        let packed =
            |error: rmp_serde::encode::Error| QueueError::Invalid(format!("the job cannot be written: {error}"));
        Ok(Call::new(script, &script_keys)
            .arg(rmp_serde::to_vec(&head).map_err(packed)?)
            .arg(&job.data)
            .arg(rmp_serde::to_vec_named(&opts::encode(job)).map_err(packed)?))
    }
}

fn check(job: &NewJob) -> Result<(), QueueError> {
    let invalid = |message: String| Err(QueueError::Invalid(message));
    if job.name.is_empty() || job.name.len() > 256 {
        return invalid("a job's name has 1 to 256 bytes".into());
    }
    check_data(&job.data)?;
    if let Some(id) = &job.id {
        let text = id.as_str();
        // Whole numbers are BullMQ's own ids, and a colon separates the parts of its keys.
        if text.contains(':') || text.bytes().all(|byte| byte.is_ascii_digit()) {
            return invalid("a job's own id is no whole number and has no ':'".into());
        }
    }
    check_priority(job.priority.unwrap_or(0))?;
    if job.attempts == Some(0) {
        return invalid("a job needs at least one attempt".into());
    }
    Ok(())
}

pub(crate) fn check_data(data: &str) -> Result<(), QueueError> {
    if data.len() > MAX_DATA_BYTES {
        return Err(QueueError::Invalid(format!("the data is larger than {MAX_DATA_BYTES} bytes")));
    }
    match serde_json::from_str::<&RawValue>(data) {
        Ok(_) => Ok(()),
        Err(error) => Err(QueueError::Invalid(format!("the data is not JSON: {error}"))),
    }
}

pub(crate) fn check_priority(priority: u32) -> Result<(), QueueError> {
    if priority > MAX_PRIORITY {
        return Err(QueueError::Invalid(format!("a priority is at most {MAX_PRIORITY}")));
    }
    Ok(())
}

fn script_for(job: &NewJob, keys: &QueueKeys) -> (&'static Script, Vec<String>) {
    if job.delay.is_some_and(|delay| !delay.is_zero()) {
        let keys = vec![keys.marker(), keys.meta(), keys.id(), keys.delayed(), keys.completed(), keys.events()];
        (&scripts::ADD_DELAYED, keys)
    } else if job.priority.is_some_and(|priority| priority > 0) {
        let keys = vec![
            keys.marker(),
            keys.meta(),
            keys.id(),
            keys.prioritized(),
            keys.delayed(),
            keys.completed(),
            keys.active(),
            keys.events(),
            keys.pc(),
        ];
        (&scripts::ADD_PRIORITIZED, keys)
    } else {
        let keys = vec![
            keys.wait(),
            keys.paused(),
            keys.meta(),
            keys.id(),
            keys.completed(),
            keys.delayed(),
            keys.active(),
            keys.events(),
            keys.marker(),
        ];
        (&scripts::ADD_STANDARD, keys)
    }
}

fn id(reply: redis::Value) -> Result<JobId, QueueError> {
    if let redis::Value::Int(code) = reply
        && code < 0
    {
        return Err(QueueError::Invalid(format!("BullMQ refused the job (code {code})")));
    }
    let text: String = redis::from_redis_value(reply).map_err(|error| QueueError::Invalid(error.to_string()))?;
    text.parse().map_err(|error: patchbay_model::InvalidId| QueueError::Invalid(error.to_string()))
}
