//! Errors of a queue, by what the caller does next.

use patchbay_model::job::JobState;
use patchbay_model::shell::word;
use patchbay_model::words::counted;
use redis::ErrorKind;

use crate::transaction::refused_as_full;
use crate::trouble::{Trouble, said};

/// The text is safe for clients: it has no URLs and no data.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis does not answer: try again.
    #[error("Redis does not answer")]
    Unavailable(#[source] redis::RedisError),
    /// Redis answers but cannot serve any request: try again once that is repaired. The request
    /// itself was right.
    #[error("{trouble}. {}", .trouble.next())]
    CannotServe {
        trouble: Trouble,
        #[source]
        source: redis::RedisError,
    },
    /// The job does not exist: give up.
    #[error("{} has no job {}", word(queue), word(id))]
    NotFound { queue: String, id: String },
    /// The job's state does not allow this.
    #[error("The job is {state}; {rule}")]
    WrongState { state: JobState, rule: &'static str },
    /// The job runs: wait, or kill it first.
    #[error("Job {} is running: kill it first, or wait until it ends", word(id))]
    Running { id: String },
    /// A schedule made the job and depends on it.
    #[error(
        "Job {} is the next tick of a schedule: run the schedule now, or change or remove it instead",
        word(id)
    )]
    Scheduled { id: String },
    /// No worker ended the job in time.
    #[error(
        "The job still runs on {worker}, which is not a Patchbay host or cannot be reached: end it there"
    )]
    NotKilled { worker: String },
    /// Jobs of the queue run: wait, or pause it first.
    #[error("The queue has {} running: pause the queue and wait until no job runs, or kill the running jobs", counted(*active, "job"))]
    Busy { active: u64 },
    #[error("{0}")]
    Invalid(String),
    /// Redis is nearly full. Running jobs still settle; new ones are refused.
    #[error("{0}")]
    MemoryFull(String),
    /// Redis holds data that is not in BullMQ's format, because another program wrote it. Trying
    /// again does not help.
    #[error(
        "Data in Redis is damaged: {what}; it must be repaired or removed (patchbay queue list names damaged queues)"
    )]
    Damaged {
        /// What is wrong and, if known, where.
        what: String,
        /// Redis's error; absent if the host found the damage itself.
        #[source]
        source: Option<redis::RedisError>,
    },
    #[error("BullMQ refused the request")]
    BullMq(#[source] bullmq::Error),
}

impl QueueError {
    /// Whether the cause is outside of the request and passes or can be repaired. The same request
    /// may then be sent again.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::CannotServe { .. } | Self::MemoryFull(_)
        )
    }

    /// The trouble of Redis, if that is the cause.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Unavailable(_) => Some(Trouble::Away),
            Self::CannotServe { trouble, .. } => Some(trouble.clone()),
            _ => None,
        }
    }

    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    fn full() -> Self {
        Self::MemoryFull("Redis is full: remove finished jobs or raise maxmemory".into())
    }
}

impl From<redis::RedisError> for QueueError {
    fn from(error: redis::RedisError) -> Self {
        // Of the errors of a pipeline, the first one is the cause.
        if let Some((_, first)) = error
            .clone()
            .into_server_errors()
            .as_deref()
            .and_then(<[_]>::first)
        {
            let (code, detail) = (first.code(), first.details().unwrap_or_default());
            if refused_as_full(&error) {
                return Self::full();
            }
            if let Some(trouble) = Trouble::of_reply(code, detail) {
                return Self::CannotServe {
                    trouble,
                    source: error,
                };
            }
            // The caller loads an unknown script and calls it again. Here Redis forgot it between
            // the two.
            if code == "NOSCRIPT" {
                return Self::Unavailable(error);
            }
            return Self::Damaged {
                what: said(code, detail),
                source: Some(error),
            };
        }
        if let Some(trouble) = Trouble::of_kind(&error) {
            return Self::CannotServe {
                trouble,
                source: error,
            };
        }
        match error.kind() {
            // The text of such an error may quote the stored value.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Damaged {
                what: "a value does not have the expected form".into(),
                source: Some(error),
            },
            ErrorKind::Client => {
                Self::Invalid("a value of the request cannot be written to Redis".into())
            }
            _ => Self::Unavailable(error),
        }
    }
}

impl From<bullmq::Error> for QueueError {
    fn from(error: bullmq::Error) -> Self {
        match error {
            bullmq::Error::Redis(error) => error.into(),
            bullmq::Error::InvalidConfig(message) => Self::Invalid(message),
            other => Self::BullMq(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reply: &[u8]) -> QueueError {
        let reply = redis::parse_redis_value(reply).expect("a reply");
        reply.extract_error().expect_err("an error").into()
    }

    #[test]
    fn an_error_about_data_is_not_told_as_a_redis_that_cannot_serve() {
        for (reply, code) in [
            (&b"-LOADING Redis is loading the dataset in memory\r\n"[..], "loading"),
            (b"-READONLY You can't write against a read only replica.\r\n", "replica"),
            (b"-MASTERDOWN Link with MASTER is down\r\n", "replica"),
            (
                b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n",
                "replica",
            ),
            (b"-MISCONF Redis is configured to save RDB snapshots\r\n", "disk"),
            (b"-NOREPLICAS Not enough good replicas to write.\r\n", "too-few-replicas"),
            (b"-MOVED 3999 127.0.0.1:6381\r\n", "cluster"),
            (b"-CROSSSLOT Keys in request don't hash to the same slot\r\n", "cluster"),
            (b"-NOPERM this user has no permissions to run the 'del' command\r\n", "rights"),
            (b"-NOAUTH Authentication required.\r\n", "login"),
            (b"-ERR Protocol error: unauthenticated multibulk length\r\n", "login"),
            (b"-ERR Protocol error: unauthenticated bulk length\r\n", "login"),
            (b"-ERR unknown command 'EVALSHA', with args beginning with: \r\n", "refused"),
            (b"-ERR max number of clients reached\r\n", "too-many-clients"),
            (b"-ERR DB index is out of range\r\n", "database-number"),
            (b"-EXECABORT Transaction discarded because of previous errors.\r\n", "refused"),
        ] {
            let told = told(reply);
            let QueueError::CannotServe { trouble, .. } = &told else { panic!("{told}") };
            assert_eq!(trouble.code(), code, "{told}");
            assert!(!told.to_string().contains("damaged"), "{told}");
        }
        for reply in [
            &b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"[..],
            b"-ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed\r\n",
        ] {
            assert!(matches!(told(reply), QueueError::MemoryFull(_)), "{}", told(reply));
        }
        let wrong = told(
            b"-WRONGTYPE Operation against a key holding the wrong kind of value script: 1f, on @user_script:9.\r\n",
        );
        assert!(
            wrong.is_damage()
                && wrong
                    .to_string()
                    .contains("holding the wrong kind of value;"),
            "{wrong}"
        );
        assert!(told(b"-ERR hash value is not an integer\r\n").is_damage());
        let unreadable =
            redis::from_redis_value::<u64>(redis::Value::BulkString(b"secret".to_vec()));
        let unreadable =
            QueueError::from(redis::RedisError::from(unreadable.expect_err("no number")));
        assert!(
            unreadable.is_damage() && !unreadable.to_string().contains("secret"),
            "{unreadable}"
        );
        let away: redis::RedisError = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
        assert!(matches!(QueueError::from(away), QueueError::Unavailable(_)));
    }
}
