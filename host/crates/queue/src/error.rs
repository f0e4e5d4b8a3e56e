//! What can go wrong with a queue, by what the caller does next.

use patchbay_model::job::JobState;

/// Errors of this crate. The text is safe for clients: no URLs, no data.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis does not answer: try again.
    #[error("Redis does not answer")]
    Unavailable(#[source] redis::RedisError),
    /// No such job: give up.
    #[error("{queue} has no job {id}")]
    NotFound {
        /// The queue.
        queue: String,
        /// The job.
        id: String,
    },
    /// The job is not in a state that allows this.
    #[error("the job is {state:?}; only completed and failed jobs can be retried")]
    WrongState {
        /// Where it is.
        state: JobState,
    },
    /// The caller's mistake.
    #[error("{0}")]
    Invalid(String),
    /// Redis is nearly full; running jobs still settle, new ones are refused.
    #[error("{0}")]
    MemoryFull(String),
    /// BullMQ's script refused.
    #[error("BullMQ refused")]
    BullMq(#[source] bullmq::Error),
}

impl From<redis::RedisError> for QueueError {
    fn from(error: redis::RedisError) -> Self {
        Self::Unavailable(error)
    }
}

impl From<bullmq::Error> for QueueError {
    fn from(error: bullmq::Error) -> Self {
        match error {
            bullmq::Error::Redis(error) => Self::Unavailable(error),
            bullmq::Error::InvalidConfig(message) => Self::Invalid(message),
            other => Self::BullMq(other),
        }
    }
}
