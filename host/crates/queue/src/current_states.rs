//! Where jobs that the history knows are now, many at once.

use patchbay_model::job::JobKey;
use redis::{RedisResult, Value};

use crate::damage::{read, text};
use crate::{Broker, QueueError, js};

/// Jobs per round trip, of three quick commands each.
const CHUNK: usize = 500;

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CurrentState {
    Failed,
    Completed,
    /// In any other state: to run, or running.
    Unfinished,
    /// Redis does not have it. Its id may be another job's.
    Gone,
}

impl Broker {
    /// In the order of `jobs`.
    pub async fn current_states(&self, jobs: &[JobKey]) -> Result<Vec<CurrentState>, QueueError> {
        let mut states = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for job in jobs {
                let (keys, id) = (self.keys(&job.queue), job.id.as_str());
                pipe.hget(keys.job_key(id), "timestamp");
                pipe.zscore(keys.failed(), id);
                pipe.zscore(keys.completed(), id);
            }
            let replies: Vec<RedisResult<Value>> =
                pipe.query_async(&mut self.connection.get()).await?;
            let mut replies = replies.into_iter();
            for job in jobs {
                let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
                // A value that is no hash is no job, and one that is no set has no members.
                let created = read::<Option<Vec<u8>>>(next())?.ok().flatten();
                let mut has = || Ok::<_, QueueError>(read::<Option<f64>>(next())?.ok().flatten());
                let (failed, completed) = (has()?.is_some(), has()?.is_some());
                let is_same =
                    created.and_then(|bytes| js::whole(&text(&bytes))) == Some(job.created_ms);
                states.push(state(is_same, failed, completed));
            }
        }
        Ok(states)
    }
}

fn state(is_same: bool, failed: bool, completed: bool) -> CurrentState {
    match (is_same, failed, completed) {
        (false, _, _) => CurrentState::Gone,
        (true, true, _) => CurrentState::Failed,
        (true, false, true) => CurrentState::Completed,
        (true, false, false) => CurrentState::Unfinished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_another_job_has_now_says_nothing_of_this_one() {
        assert_eq!(state(false, true, false), CurrentState::Gone);
        assert_eq!(state(false, false, false), CurrentState::Gone);
        assert_eq!(state(true, true, false), CurrentState::Failed);
        assert_eq!(state(true, false, true), CurrentState::Completed);
        assert_eq!(state(true, false, false), CurrentState::Unfinished);
    }
}
