//! What a running job writes: log lines and progress.

use patchbay_model::JobId;
use tracing::warn;

use crate::connection::Connection;

/// BullMQ's own bound on its stream of events.
const MAX_EVENTS: u64 = 10_000;

/// Writes to a running job.
#[derive(Clone)]
pub struct JobHandle {
    pub(super) connection: Connection,
    pub(super) job_key: String,
    pub(super) events_key: String,
    pub(super) id: JobId,
}

impl std::fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JobHandle").field(&self.id).finish()
    }
}

impl JobHandle {
    /// Appends lines to the job's log and sets its progress (JSON), in one round trip. Best effort: losing them must not fail a job.
    pub async fn write(&self, log_lines: &[String], progress: Option<&str>) {
        let mut pipe = redis::pipe();
        if !log_lines.is_empty() {
            pipe.rpush(format!("{}:logs", self.job_key), log_lines).ignore();
        }
        if let Some(json) = progress {
            pipe.hset(&self.job_key, "progress", json).ignore();
            pipe.cmd("XADD").arg(&self.events_key).arg(&["MAXLEN", "~"]).arg(MAX_EVENTS).arg("*");
            pipe.arg(&["event", "progress", "jobId", self.id.as_str(), "data", json]).ignore();
        }
        let written: redis::RedisResult<()> = pipe.query_async(&mut self.connection.get()).await;
        if let Err(error) = written {
            warn!(%error, job = %self.id, "job output lost");
        }
    }
}
