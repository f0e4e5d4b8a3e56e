//! Reading jobs.

use std::collections::HashMap;

use patchbay_model::job::JobState;
use patchbay_model::{JobId, QueueName};
use redis::AsyncCommands;

use crate::{JobView, QueueError, Queues};

impl Queues {
    /// One job.
    pub async fn job(&self, queue: &QueueName, id: &JobId) -> Result<Option<JobView>, QueueError> {
        let keys = self.keys(queue);
        // In one transaction, so that state and fields belong together: every list and set is asked, since only membership tells.
        let mut pipe = redis::pipe();
        pipe.atomic().hgetall(keys.job_key(id.as_str()));
        for set in [keys.completed(), keys.failed(), keys.delayed(), keys.prioritized(), keys.waiting_children()] {
            pipe.zscore(set, id.as_str());
        }
        for list in [keys.active(), keys.wait(), keys.paused()] {
            pipe.cmd("LPOS").arg(list).arg(id.as_str());
        }
        type Score = Option<f64>;
        type Place = Option<i64>;
        type Reply = (HashMap<String, String>, Score, Score, Score, Score, Score, Place, Place, Place);
        let (fields, completed, failed, delayed, prioritized, children, active, wait, paused): Reply =
            pipe.query_async(&mut self.connection.get()).await?;
        if !fields.contains_key("timestamp") {
            return Ok(None);
        }
        let states = [
            (completed.is_some(), JobState::Completed),
            (failed.is_some(), JobState::Failed),
            (delayed.is_some(), JobState::Delayed),
            (prioritized.is_some(), JobState::Prioritized),
            (children.is_some(), JobState::WaitingChildren),
            (active.is_some(), JobState::Active),
            (wait.is_some() || paused.is_some(), JobState::Waiting),
        ];
        let state = states.into_iter().find_map(|(there, state)| there.then_some(state)).unwrap_or(JobState::Unknown);
        Ok(Some(JobView::new(id.to_string(), state, fields)))
    }

    /// Log lines, oldest first.
    pub async fn job_logs(&self, queue: &QueueName, id: &JobId, most: u64) -> Result<Vec<String>, QueueError> {
        let key = format!("{}:logs", self.keys(queue).job_key(id.as_str()));
        Ok(self.connection.get().lrange(key, 0, most as isize - 1).await?)
    }

    /// Jobs in one state: next to run first, or newest first when finished.
    pub async fn jobs(
        &self,
        queue: &QueueName,
        state: JobState,
        offset: u64,
        limit: u64,
    ) -> Result<Vec<JobView>, QueueError> {
        let keys = self.keys(queue);
        let (from, to) = (offset as isize, (offset + limit) as isize - 1);
        let mut connection = self.connection.get();
        let mut ids: Vec<String> = match state {
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
        for id in &ids {
            pipe.hgetall(keys.job_key(id));
        }
        let hashes: Vec<HashMap<String, String>> = pipe.query_async(&mut connection).await?;
        Ok(ids.into_iter().zip(hashes).map(|(id, fields)| JobView::new(id, state, fields)).collect())
    }
}
