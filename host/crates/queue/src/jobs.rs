//! Reads jobs, including damaged ones: an operator must see what is wrong.

use patchbay_model::job::JobState;
use patchbay_model::{JobId, QueueName};
use redis::{FromRedisValue, RedisResult, Value};

use crate::damage::{read, text};
use crate::queue_stats::due_at;
use crate::transaction::transaction;
use crate::view::{Hash, job_view};
use crate::{Broker, JobView, QueueError};

/// Fields that a job's hash has, and no other hash of a queue.
const OF_A_JOB: [&str; 6] = [
    "timestamp",
    "processedOn",
    "finishedOn",
    "atm",
    "ats",
    "failedReason",
];

/// Jobs whose data is read in one round trip. Each has up to 1 MiB of data.
const DATA_AT_ONCE: usize = 25;

impl Broker {
    /// Reads one job. `None` if it has no hash and is in no list or set.
    pub async fn job(&self, queue: &QueueName, id: &JobId) -> Result<Option<JobView>, QueueError> {
        let keys = self.keys(queue);
        let sets = [
            (keys.completed(), JobState::Completed),
            (keys.failed(), JobState::Failed),
            (keys.delayed(), JobState::Delayed),
            (keys.prioritized(), JobState::Prioritized),
            (keys.waiting_children(), JobState::WaitingChildren),
        ];
        let lists = [
            (keys.active(), JobState::Active),
            (keys.wait(), JobState::Waiting),
            (keys.paused(), JobState::Waiting),
        ];
        // One transaction, so that state and fields are consistent. Every list and set is asked,
        // because only membership tells the state.
        let asked = transaction(self.connection.get(), |pipe| {
            pipe.ignore_errors().hgetall(keys.job_key(id.as_str()));
            for (set, _) in &sets {
                pipe.zscore(set, id.as_str());
            }
            for (list, _) in &lists {
                pipe.cmd("LPOS").arg(list).arg(id.as_str());
            }
        });
        let replies: Vec<RedisResult<Value>> = asked.await?;
        let mut replies = replies.into_iter();
        let hash: Hash = read(replies.next().unwrap_or(Ok(Value::Nil)))?;
        let (mut state, mut due) = (None, None);
        for (reply, (_, place)) in replies.zip(sets.into_iter().chain(lists)) {
            // A key of a wrong type holds no jobs.
            let there = read::<Value>(reply)?
                .ok()
                .filter(|value| *value != Value::Nil);
            if let (JobState::Delayed, Some(score)) = (place, &there) {
                due = f64::from_redis_value(score.clone()).ok().map(due_at);
            }
            state = state.or(there.is_some().then_some(place));
        }
        let is_job = hash.as_ref().is_ok_and(|fields| {
            OF_A_JOB
                .iter()
                .any(|name| fields.contains_key(name.as_bytes()))
        });
        Ok(match state {
            None if !is_job => None,
            state => Some(JobView {
                due_at: due,
                ..job_view(id.to_string(), state.unwrap_or(JobState::Unknown), hash)
            }),
        })
    }

    /// The data of jobs, in the same order; empty where a job has none.
    pub async fn data_of(
        &self,
        queue: &QueueName,
        ids: &[&str],
    ) -> Result<Vec<String>, QueueError> {
        let keys = self.keys(queue);
        let mut data = Vec::with_capacity(ids.len());
        for ids in ids.chunks(DATA_AT_ONCE) {
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for id in ids {
                pipe.hget(keys.job_key(id), "data");
            }
            let replies: Vec<RedisResult<Value>> =
                pipe.query_async(&mut self.connection.get()).await?;
            for reply in replies {
                let bytes = read::<Option<Vec<u8>>>(reply)?.ok().flatten();
                data.push(bytes.map(|bytes| text(&bytes)).unwrap_or_default());
            }
        }
        Ok(data)
    }

    /// The job's log lines, oldest first.
    pub async fn job_logs(
        &self,
        queue: &QueueName,
        id: &JobId,
        most: u64,
    ) -> Result<Vec<String>, QueueError> {
        let key = format!("{}:logs", self.keys(queue).job_key(id.as_str()));
        let lines: RedisResult<Value> = redis::cmd("LRANGE")
            .arg(key)
            .arg(0)
            .arg(most as isize - 1)
            .query_async(&mut self.connection.get())
            .await;
        Ok(match read::<Vec<Vec<u8>>>(lines)? {
            Ok(lines) => lines.iter().map(|line| text(line)).collect(),
            Err(what) => vec![format!("(the log cannot be read: {what})")],
        })
    }
}
