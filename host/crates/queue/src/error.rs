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
    #[error("the job is {state}; {rule}")]
    WrongState {
        /// Where it is.
        state: JobState,
        /// What the operation needs.
        rule: &'static str,
    },
    /// It runs: wait, or kill it first.
    #[error("job {id} runs now: kill it first, or wait for its end")]
    Running {
        /// The job.
        id: String,
    },
    /// A schedule made it, and counts on it.
    #[error("job {id} is the next tick of a schedule: run the schedule now, or change or remove it instead")]
    Scheduled {
        /// The job.
        id: String,
    },
    /// Nobody ended it in time.
    #[error("it still runs on {worker}, which is no Patchbay host or cannot be reached; end it there")]
    NotKilled {
        /// The worker's name.
        worker: String,
    },
    /// Jobs of the queue run: wait, or pause it first.
    #[error("{active} jobs of the queue run now: pause it and wait for their end, or kill them")]
    Busy {
        /// How many.
        active: u64,
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
