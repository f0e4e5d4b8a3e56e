//! Errors of use cases, safe for clients. The cause is logged once, here, and is not part of the
//! error.

use std::borrow::Cow;
use std::time::Duration;

use patchbay_model::InvalidId;
use patchbay_model::capability::CapabilityError;
use patchbay_model::filter::FilterError;
use patchbay_queue::QueueError;
use patchbay_store::StoreError;
use serde_json::Value;

use crate::quota::Quota;

/// The kind of an error: what it means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be used.
    Invalid,
    NotFound,
    /// It was there, and is gone for good.
    Gone,
    /// Nobody is logged in, or the credentials are wrong.
    Unauthorized,
    Forbidden,
    /// The request conflicts with the present state.
    Conflict,
    /// The request destroys something, and does not confirm that.
    Unconfirmed,
    /// The content is readable, but is not what is expected, for example a component or a document.
    Unprocessable,
    /// A fault of the host.
    Internal,
    /// Postgres or Redis cannot serve now; nothing was done.
    Unavailable,
    /// Redis has no memory left.
    RedisFull,
    TooLarge,
    RateLimited,
    /// An outside service did not answer as it should.
    Upstream,
    /// No answer within the deadline.
    Deadline,
}

#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    /// Stable, kebab-case.
    pub code: Cow<'static, str>,
    /// For people. It says what to do next where that is known.
    pub message: String,
    pub details: Option<Value>,
    /// After this time, the request may succeed.
    pub retry_after: Option<Duration>,
    /// The rate limit that refused it.
    pub quota: Option<Box<Quota>>,
    /// Whether the message comes from a plugin. Such a message goes only to the caller and is not
    /// stored, since it may be personal.
    pub is_private: bool,
    /// Whether it is the answer to an earlier request with the same idempotency key.
    pub is_replayed: bool,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Error {
    pub fn new(kind: Kind, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self {
            kind,
            code,
            message,
            details: None,
            retry_after: None,
            quota: None,
            is_private: false,
            is_replayed: false,
        }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, "not-found", message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, "invalid-input", message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, "conflict", message)
    }

    /// A document that does not fit what is declared for it; `details` names the violations.
    pub(crate) fn does_not_fit(message: impl Into<String>, details: Value) -> Self {
        Self::new(Kind::Unprocessable, "does-not-fit", message).with_details(details)
    }

    pub fn internal() -> Self {
        Self::new(Kind::Internal, "internal", "Internal Server Error")
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, "unavailable", message)
    }

    pub(crate) fn retry_after(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.retry_after = wait.into();
        self
    }

    /// Marks the message as a plugin's.
    pub(crate) fn private(mut self) -> Self {
        self.is_private = true;
        self
    }

    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

/// Logs an error with its causes.
pub(crate) fn log_chain(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    tracing::error!(error = %text, "request failed");
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NotFound(message) => Self::not_found(message.clone()),
            StoreError::Conflict(message) => Self::conflict(message.clone()),
            StoreError::Unavailable(_) | StoreError::ReadOnly(_) => {
                log_chain(&error);
                Self::unavailable(format!(
                    "{error}; try again. If it stays so: patchbay doctor"
                ))
            }
            StoreError::Unstorable(_) | StoreError::NoSuchTime(_) => {
                Self::invalid(error.to_string())
            }
            _ => {
                log_chain(&error);
                Self::internal()
            }
        }
    }
}

/// What a guest is told when Postgres does not do what a capability asked for.
pub(crate) fn for_guests(error: StoreError) -> CapabilityError {
    match error {
        StoreError::Conflict(message) => CapabilityError {
            code: "conflict",
            message,
            retryable: false,
        },
        StoreError::NotFound(_) | StoreError::Unstorable(_) | StoreError::NoSuchTime(_) => {
            CapabilityError::invalid(error.to_string())
        }
        StoreError::Unavailable(_) | StoreError::ReadOnly(_) => {
            CapabilityError::unavailable(error.to_string())
        }
        StoreError::Refused(_) => CapabilityError::invalid("Postgres does not accept a value"),
        other => {
            log_chain(&other);
            CapabilityError::unavailable("Postgres did not do it; the host's log says why")
        }
    }
}

impl From<QueueError> for Error {
    fn from(error: QueueError) -> Self {
        match &error {
            QueueError::NotFound { .. } => Self::not_found(error.to_string()),
            QueueError::WrongState { .. }
            | QueueError::Running { .. }
            | QueueError::Scheduled { .. }
            | QueueError::NotKilled { .. }
            | QueueError::Busy { .. } => Self::conflict(error.to_string()),
            QueueError::Invalid(message) => Self::invalid(message.clone()),
            QueueError::MemoryFull(message) => {
                Self::new(Kind::RedisFull, "redis-full", message.clone())
            }
            QueueError::Unavailable(_) => {
                log_chain(&error);
                Self::unavailable(
                    "Redis does not answer; try again. If it stays so: patchbay doctor",
                )
            }
            QueueError::CannotServe { .. } => {
                log_chain(&error);
                Self::unavailable(error.to_string())
            }
            QueueError::Damaged { .. } => {
                log_chain(&error);
                Self::new(Kind::Internal, "damaged-data", error.to_string())
            }
            _ => {
                log_chain(&error);
                Self::internal()
            }
        }
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Self {
        Self::invalid(error.to_string())
    }
}
