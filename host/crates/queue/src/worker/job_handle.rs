//! What a running job writes and reads: log lines, progress, its children's results.

use std::collections::HashMap;

use patchbay_model::flow::ChildResult;
use patchbay_model::job::JobKey;
use tracing::warn;

use crate::QueueError;
use crate::connection::Connection;

/// BullMQ's own limit for its stream of events.
const MAX_EVENTS: u64 = 10_000;

#[derive(Clone)]
pub struct JobHandle {
    pub(super) connection: Connection,
    pub(super) job_key: String,
    pub(super) events_key: String,
    pub(super) key: JobKey,
    /// How many of the newest log lines are kept; `None` means all.
    pub(super) keep_logs: Option<usize>,
}

impl std::fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JobHandle").field(&self.key.id).finish()
    }
}

impl JobHandle {
    pub fn key(&self) -> &JobKey {
        &self.key
    }

    /// Results of the job's children, and failures that its flow said to ignore, ordered by key.
    pub async fn children(&self) -> Result<Vec<ChildResult>, QueueError> {
        let mut pipe = redis::pipe();
        for part in ["processed", "failed"] {
            pipe.hgetall(format!("{}:{part}", self.job_key));
        }
        type Hash = HashMap<String, String>;
        let (processed, failed): (Hash, Hash) =
            pipe.query_async(&mut self.connection.get()).await?;
        let done = processed.into_iter().map(|(key, value)| (key, Ok(value)));
        let mut outcomes: Vec<_> = done
            .chain(failed.into_iter().map(|(key, reason)| (key, Err(reason))))
            .collect();
        outcomes.sort();
        let result = |(key, outcome): (String, Result<String, String>)| {
            // Format: `prefix:queue:id`. A queue's name has no colon; a prefix and a child's id may
            // have. A key under another prefix cannot be split.
            let own = key
                .strip_prefix(self.key.prefix.as_str())
                .and_then(|rest| rest.strip_prefix(':'));
            let (queue, id) = own
                .and_then(|rest| rest.split_once(':'))
                .unwrap_or_else(|| {
                    let mut parts = key.rsplitn(3, ':');
                    let id = parts.next().unwrap_or_default();
                    (parts.next().unwrap_or_default(), id)
                });
            ChildResult {
                id: id.to_owned(),
                queue: queue.to_owned(),
                outcome,
            }
        };
        Ok(outcomes.into_iter().map(result).collect())
    }

    /// Appends log lines and sets the progress (JSON) in one round trip. Best effort: a failure
    /// here must not fail the job.
    pub async fn write(&self, log_lines: &[String], progress: Option<&str>) {
        let mut pipe = redis::pipe();
        if !log_lines.is_empty() {
            let logs = format!("{}:logs", self.job_key);
            pipe.rpush(&logs, log_lines).ignore();
            if let Some(most) = self.keep_logs {
                pipe.ltrim(&logs, -isize::try_from(most).unwrap_or(isize::MAX), -1)
                    .ignore();
            }
        }
        if let Some(json) = progress {
            pipe.hset(&self.job_key, "progress", json).ignore();
            pipe.cmd("XADD")
                .arg(&self.events_key)
                .arg(&["MAXLEN", "~"])
                .arg(MAX_EVENTS)
                .arg("*");
            pipe.arg(&[
                "event",
                "progress",
                "jobId",
                self.key.id.as_str(),
                "data",
                json,
            ])
            .ignore();
        }
        let written: redis::RedisResult<()> = pipe.query_async(&mut self.connection.get()).await;
        if let Err(error) = written {
            warn!(%error, job = %self.key.id, "Progress or log lines of a job could not be written and are lost");
        }
    }
}
