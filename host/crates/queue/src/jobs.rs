//! Reading jobs, damaged ones included: an operator must see what is wrong, and one odd job must not hide the others.

use patchbay_model::job::JobState;
use patchbay_model::{JobId, QueueName};
use redis::{AsyncCommands, RedisResult, Value};

use crate::damage::{read, text};
use crate::view::Hash;
use crate::{JobView, QueueError, Queues};

/// Most jobs that are listed at once.
pub const MAX_LISTED: u64 = 200;
/// Redis counts places in 64 bits, and walks to the middle of a list step by step.
const MAX_OFFSET: u64 = 1 << 31;
/// Fields that only a job's hash has, and no other hash of a queue.
const OF_A_JOB: [&str; 6] = ["timestamp", "processedOn", "finishedOn", "atm", "ats", "failedReason"];

impl Queues {
    /// One job; nothing when there is neither a hash nor a list or set that holds it.
    pub async fn job(&self, queue: &QueueName, id: &JobId) -> Result<Option<JobView>, QueueError> {
        let keys = self.keys(queue);
        let sets = [
            (keys.completed(), JobState::Completed),
            (keys.failed(), JobState::Failed),
            (keys.delayed(), JobState::Delayed),
            (keys.prioritized(), JobState::Prioritized),
            (keys.waiting_children(), JobState::WaitingChildren),
        ];
        let lists =
            [(keys.active(), JobState::Active), (keys.wait(), JobState::Waiting), (keys.paused(), JobState::Waiting)];
        // In one transaction, so that state and fields belong together: every list and set is asked, since only membership tells.
        let mut pipe = redis::pipe();
        pipe.atomic().ignore_errors().hgetall(keys.job_key(id.as_str()));
        for (set, _) in &sets {
            pipe.zscore(set, id.as_str());
        }
        for (list, _) in &lists {
            pipe.cmd("LPOS").arg(list).arg(id.as_str());
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let mut replies = replies.into_iter();
        let hash: Hash = read(replies.next().unwrap_or(Ok(Value::Nil)))?;
        let mut state = None;
        for (reply, (_, place)) in replies.zip(sets.into_iter().chain(lists)) {
            // What holds no jobs does not hold this one.
            let there = read::<Value>(reply)?.is_ok_and(|value| value != Value::Nil);
            state = state.or(there.then_some(place));
        }
        let is_job = hash.as_ref().is_ok_and(|fields| OF_A_JOB.iter().any(|name| fields.contains_key(name.as_bytes())));
        Ok(match state {
            None if !is_job => None,
            state => Some(JobView::new(id.to_string(), state.unwrap_or(JobState::Unknown), hash)),
        })
    }

    /// Log lines, oldest first.
    pub async fn job_logs(&self, queue: &QueueName, id: &JobId, most: u64) -> Result<Vec<String>, QueueError> {
        let key = format!("{}:logs", self.keys(queue).job_key(id.as_str()));
        let lines: RedisResult<Value> =
            redis::cmd("LRANGE").arg(key).arg(0).arg(most as isize - 1).query_async(&mut self.connection.get()).await;
        Ok(match read::<Vec<Vec<u8>>>(lines)? {
            Ok(lines) => lines.iter().map(|line| text(line)).collect(),
            Err(what) => vec![format!("(the log cannot be read: {what})")],
        })
    }

    /// Jobs in one state, 1 to [`MAX_LISTED`]: next to run first, or newest first when finished.
    pub async fn jobs(
        &self,
        queue: &QueueName,
        state: JobState,
        offset: u64,
        limit: u64,
    ) -> Result<Vec<JobView>, QueueError> {
        if !(1..=MAX_LISTED).contains(&limit) {
            return Err(QueueError::Invalid(format!("a list has 1 to {MAX_LISTED} jobs (limit)")));
        }
        if offset > MAX_OFFSET {
            return Err(QueueError::Invalid(format!("a list starts at most at place {MAX_OFFSET} (offset)")));
        }
        let keys = self.keys(queue);
        let (from, to) = (offset as isize, (offset + limit) as isize - 1);
        let mut connection = self.connection.get();
        let mut ids: Vec<Vec<u8>> = match state {
            // Lists are filled from the left and taken from the right.
            JobState::Waiting => connection.lrange(keys.wait(), -to - 1, -from - 1).await?,
            JobState::Active => connection.lrange(keys.active(), -to - 1, -from - 1).await?,
            JobState::Prioritized => connection.zrange(keys.prioritized(), from, to).await?,
            JobState::Delayed => connection.zrange(keys.delayed(), from, to).await?,
            JobState::WaitingChildren => connection.zrange(keys.waiting_children(), from, to).await?,
            JobState::Completed => connection.zrevrange(keys.completed(), from, to).await?,
            JobState::Failed => connection.zrevrange(keys.failed(), from, to).await?,
            JobState::Unknown => return Err(QueueError::Invalid("no list holds jobs in state unknown".into())),
        };
        if matches!(state, JobState::Waiting | JobState::Active) {
            // Redis gives them from left to right.
            ids.reverse();
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for id in &ids {
            pipe.hgetall([keys.key_prefix().as_bytes(), id].concat());
        }
        let hashes: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
        let view = |(id, hash): (Vec<u8>, _)| Ok(JobView::new(text(&id), state, read(hash)?));
        ids.into_iter().zip(hashes).map(view).collect()
    }
}
