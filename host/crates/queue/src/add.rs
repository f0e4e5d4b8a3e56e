//! Adding jobs, by BullMQ's own scripts, so that options, trace and data arrive exactly as they were given.

use std::time::Duration;

use bullmq::QueueKeys;
use patchbay_model::job::{Deduplication, MAX_PRIORITY, NewJob};
use patchbay_model::{JobId, QueueName};
use redis::Script;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::now_ms;
use crate::scripts::{self, Call};
use crate::{QueueError, Queues, opts};

/// Largest job data, in bytes: BullMQ keeps it in Redis memory, and every reader loads it whole.
pub(crate) const MAX_DATA_BYTES: usize = 1 << 20;
/// Longest wait before a job starts: BullMQ keeps times times 4,096 as floating-point numbers, which are exact for some years to come.
const MAX_DELAY: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// Longest key of a de-duplication: it becomes part of a Redis key.
const MAX_DEDUPLICATION_BYTES: usize = 512;

impl Queues {
    /// Adds jobs; each queue's all or none, queues in order. What they leave out comes from the manifests ([`Queues::set_defaults`]).
    /// Refused while Redis is nearly full.
    pub async fn add(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        self.memory.refuse_when_full().await?;
        let mut by_queue: Vec<(QueueName, Vec<(usize, Call)>)> = Vec::new();
        let mut ids: Vec<Option<JobId>> = vec![None; jobs.len()];
        // All are checked before the first one is added.
        for (place, mut job) in jobs.into_iter().enumerate() {
            self.fill(&mut job);
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

    /// Whether [`Queues::add`] would take them, for jobs that are added later.
    pub fn check(&self, jobs: &[NewJob]) -> Result<(), QueueError> {
        for job in jobs {
            let mut job = job.clone();
            self.fill(&mut job);
            self.addition(&job)?;
        }
        Ok(())
    }

    async fn run(&self, additions: &[Call]) -> Result<Vec<JobId>, QueueError> {
        let replies = match additions {
            [one] => vec![one.invoke(&mut self.connection.get()).await?],
            all => self.transaction(all).await?,
        };
        replies.into_iter().map(id).collect()
    }

    /// All or none, in one transaction; there a script that Redis does not know could not be sent after all.
    pub(crate) async fn transaction(&self, calls: &[Call]) -> Result<Vec<redis::Value>, QueueError> {
        let mut connection = self.connection.get();
        let mut loaded: Vec<&Call> = Vec::new();
        for call in calls {
            if !loaded.iter().any(|known| known.is_same_script(call)) {
                call.load(&mut connection).await?;
                loaded.push(call);
            }
        }
        let mut pipe = redis::pipe();
        pipe.atomic();
        for call in calls {
            pipe.add_command(call.command());
        }
        Ok(pipe.query_async(&mut connection).await?)
    }

    fn addition(&self, job: &NewJob) -> Result<Call, QueueError> {
        check(job)?;
        let keys = self.keys(&job.queue);
        let (script, script_keys) = script_for(job, &keys);
        let id = job.id.as_ref().map_or("", JobId::as_str);
        call(script, &script_keys, &keys, job, id, None)
    }
}

/// A job's parent in a flow.
pub(crate) struct Parent {
    /// `prefix:queue`
    pub(crate) queue_key: String,
    pub(crate) id: JobId,
    /// BullMQ's short option names of what the child's failure means.
    pub(crate) on_failure: Option<&'static str>,
}

/// A call of one of the scripts that add a job.
pub(crate) fn call(
    script: &'static Script,
    script_keys: &[String],
    keys: &QueueKeys,
    job: &NewJob,
    id: &str,
    parent: Option<&Parent>,
) -> Result<Call, QueueError> {
    let deduplication = job.deduplication.as_ref().map(|once| format!("{}:de:{}", keys.base(), once.key));
    let mut opts = opts::encode(job);
    let parent_key = parent.map(|parent| format!("{}:{}", parent.queue_key, parent.id));
    let described = parent.map(|parent| {
        opts["parent"] = serde_json::json!({ "id": parent.id.as_str(), "queue": parent.queue_key });
        let mut described = serde_json::json!({ "id": parent.id.as_str(), "queueKey": parent.queue_key });
        if let Some(name) = parent.on_failure {
            described[name] = true.into();
            opts[name] = true.into();
        }
        described
    });
    // Prefix, id, name, time, three for a parent, scheduler, de-duplication; and whether more of a flow follows.
    let head = (
        keys.key_prefix(),
        id,
        &job.name,
        now_ms(),
        &parent_key,
        parent_key.as_ref().map(|key| format!("{key}:dependencies")),
        described,
        None::<String>,
        &deduplication,
        parent.is_some(),
    );
    let packed = |error: rmp_serde::encode::Error| QueueError::Invalid(format!("the job cannot be written: {error}"));
    Ok(Call::new(script, script_keys)
        .arg(rmp_serde::to_vec(&head).map_err(packed)?)
        .arg(&job.data)
        .arg(rmp_serde::to_vec_named::<Value>(&opts).map_err(packed)?))
}

pub(crate) fn check(job: &NewJob) -> Result<(), QueueError> {
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
    if job.delay.is_some_and(|delay| delay > MAX_DELAY) {
        return invalid("a delay is at most five years".into());
    }
    if let Some(backoff) = &job.backoff {
        if backoff.jitter.is_some_and(|jitter| !(0.0..=1.0).contains(&jitter)) {
            return invalid("a backoff's jitter is between 0.0 and 1.0".into());
        }
        if backoff.max.is_some_and(|max| max < backoff.delay) {
            return invalid("a backoff's maximum is less than its delay".into());
        }
    }
    if let Some(at) = job.expires_at_ms {
        let starts = now_ms().saturating_add(job.delay.map_or(0, |delay| delay.as_millis() as u64));
        if at <= starts {
            return invalid("the job would expire before it could start".into());
        }
    }
    job.deduplication.as_ref().map_or(Ok(()), check_deduplication)
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

fn check_deduplication(once: &Deduplication) -> Result<(), QueueError> {
    let reason = if once.key.is_empty() || once.key.len() > MAX_DEDUPLICATION_BYTES {
        "a de-duplication's id has 1 to 512 bytes"
    } else if once.ttl.is_some_and(|ttl| ttl.as_millis() == 0) {
        "a de-duplication's time is at least 1 ms"
    } else if once.extend && once.ttl.is_none() {
        "a de-duplication can only extend a time that it has"
    } else {
        return Ok(());
    };
    Err(QueueError::Invalid(reason.into()))
}

pub(crate) fn script_for(job: &NewJob, keys: &QueueKeys) -> (&'static Script, Vec<String>) {
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

pub(crate) fn id(reply: redis::Value) -> Result<JobId, QueueError> {
    if let redis::Value::Int(code) = reply
        && code < 0
    {
        return Err(QueueError::Invalid(format!("BullMQ refused the job (code {code})")));
    }
    let text: String = redis::from_redis_value(reply).map_err(|error| QueueError::Invalid(error.to_string()))?;
    text.parse().map_err(|error: patchbay_model::InvalidId| QueueError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use patchbay_model::retry::{Backoff, BackoffKind};

    use super::*;

    fn job() -> NewJob {
        NewJob::new("q".parse().expect("a name"), "n", "{}")
    }

    #[test]
    fn options_that_make_no_sense_are_refused_with_the_reason() {
        let once = |change: fn(&mut Deduplication)| {
            let mut once = Deduplication { key: "k".into(), ..Deduplication::default() };
            change(&mut once);
            NewJob { deduplication: Some(once), ..job() }
        };
        let backoff = |jitter, max| {
            let (delay, max) = (Duration::from_millis(5), Some(Duration::from_millis(max)));
            NewJob { backoff: Some(Backoff { kind: BackoffKind::Fixed, delay, max, jitter: Some(jitter) }), ..job() }
        };
        for (job, reason) in [
            (NewJob { priority: Some(MAX_PRIORITY + 1), ..job() }, "priority"),
            (NewJob { attempts: Some(0), ..job() }, "attempt"),
            (NewJob { delay: Some(MAX_DELAY * 2), ..job() }, "five years"),
            (NewJob { expires_at_ms: Some(1), ..job() }, "expire"),
            (NewJob { data: "nonsense".into(), ..job() }, "JSON"),
            (once(|once| once.key.clear()), "id"),
            (once(|once| once.extend = true), "extend"),
            (once(|once| once.ttl = Some(Duration::ZERO)), "1 ms"),
            (backoff(1.5, 10), "jitter"),
            (backoff(0.5, 1), "maximum"),
        ] {
            let refused = check(&job).expect_err("refused").to_string();
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(check(&job()).is_ok());
    }
}
