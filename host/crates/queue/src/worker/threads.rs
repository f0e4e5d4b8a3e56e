//! Where jobs run.

use tokio::runtime::Handle;

use crate::connection::Connection;
use crate::{QueueError, Queues};

/// Threads for jobs, with a connection to Redis that is served there, too: settling a job then wakes no other thread, which costs as much as
/// a small job. A connection that jobs hold up is good enough for their own settlements; locks are renewed over the shared one.
#[derive(Clone)]
pub struct JobThreads {
    pub(super) handle: Handle,
    pub(super) connection: Connection,
}

impl std::fmt::Debug for JobThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobThreads")
    }
}

impl Queues {
    /// One per process is enough. Connects; fails when Redis is away.
    pub async fn job_threads(&self, handle: Handle) -> Result<JobThreads, QueueError> {
        let client = self.connection.client().clone();
        match handle.spawn(Connection::open(client)).await {
            Ok(connection) => Ok(JobThreads { handle, connection: connection? }),
            // Nothing of it panics, and nobody aborts it: the threads are gone, and the process with them.
            Err(gone) => Err(QueueError::Invalid(format!("the threads for jobs do not run: {gone}"))),
        }
    }
}
