//! Why a use case was refused or failed, safe for clients: the cause is logged once, here, and is not part of it.

use std::borrow::Cow;
use std::time::Duration;

use patchbay_model::InvalidId;
use patchbay_model::filter::FilterError;
use patchbay_model::grant::Ask;
use patchbay_queue::QueueError;
use patchbay_store::{RoleError, StoreError};
use serde_json::{Value, json};

use crate::bulk::BulkError;
use crate::history::{BodyError, EraseError};
use crate::plugins::{CallError, CallRefusalKind, PluginError};
use crate::selected::SelectError;
use crate::vault::VaultError;

/// What went wrong, by whose matter it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something that was asked cannot be used.
    Invalid,
    /// What it names is not there.
    NotFound,
    /// The caller may not.
    Forbidden,
    /// It clashes with the present state.
    Conflict,
    /// It is readable, and not what is wanted: a component, a document.
    Unprocessable,
    /// A fault of the host.
    Internal,
    /// Postgres or Redis cannot serve now; nothing was done.
    Unavailable,
    /// Redis has no memory left.
    RedisFull,
    /// It is larger than may be.
    TooLarge,
    /// Too many of them.
    RateLimited,
    /// An outside service did not answer as it should.
    Upstream,
    /// No answer within the deadline.
    Deadline,
}

/// Why a use case did not do what it was asked.
#[derive(Debug)]
pub struct Error {
    /// Whose matter it is.
    pub kind: Kind,
    /// Stable, kebab-case.
    pub code: Cow<'static, str>,
    /// For people; says what to do next where that is known.
    pub message: String,
    /// Machine-readable detail.
    pub details: Option<Value>,
    /// When it may work.
    pub retry_after: Option<Duration>,
    /// Its message is a plugin's: for whoever asked, and not to be kept, since it may be personal.
    pub is_private: bool,
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
        Self { kind, code, message, details: None, retry_after: None, is_private: false }
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

    pub fn internal() -> Self {
        Self::new(Kind::Internal, "internal", "Internal Server Error")
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, "unavailable", message)
    }

    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

fn log_chain(error: &dyn std::error::Error) {
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
                Self::unavailable(format!("{error}; try again"))
            }
            StoreError::Unstorable(_) => Self::invalid(error.to_string()),
            _ => {
                log_chain(&error);
                Self::internal()
            }
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
            QueueError::MemoryFull(message) => Self::new(Kind::RedisFull, "redis-full", message.clone()),
            QueueError::Unavailable(_) => {
                log_chain(&error);
                Self::unavailable("Redis does not answer; try again")
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

impl From<PluginError> for Error {
    fn from(error: PluginError) -> Self {
        match error {
            PluginError::Rejected(rejection) => Self::new(Kind::Unprocessable, "rejected", rejection.to_string()),
            PluginError::Untrusted(reason) => Self::new(Kind::Unprocessable, "untrusted", reason.to_string()),
            PluginError::Damaged(message) => Self::new(Kind::Conflict, "damaged", message),
            PluginError::NotFound(message) => Self::not_found(message),
            PluginError::Conflict(message) => Self::conflict(message),
            PluginError::NotGranted { ref plugin, ref missing } => {
                let message = format!(
                    "{error}; look at it, then activate with --grant, or: patchbay plugin grant {plugin} ASK; patchbay plugin grants {plugin}"
                );
                let missing: Vec<&str> = missing.iter().map(Ask::as_str).collect();
                Self::new(Kind::Conflict, "not-granted", message).with_details(json!({ "missing": missing }))
            }
            PluginError::Settings(violations) => {
                let message = format!("settings do not fit the plugin's schema: {}", violations.join("; "));
                Self::invalid(message).with_details(violations.into())
            }
            PluginError::Runtime(error) => {
                log_chain(&error);
                Self::internal()
            }
            PluginError::Sql(RoleError::NeedsAdministrator { ref statements, .. }) => {
                let details = json!({ "statements": statements });
                Self::new(Kind::Conflict, "database-rights", error.to_string()).with_details(details)
            }
            PluginError::Sql(RoleError::Refused(message)) => Self::new(Kind::Conflict, "database-rights", message),
            PluginError::Sql(RoleError::Store(error)) | PluginError::Store(error) => error.into(),
            PluginError::NotInEffectYet(_) => {
                log_chain(&error);
                Self::unavailable(error.to_string())
            }
        }
    }
}

impl From<BulkError> for Error {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Queue(error) => error.into(),
            BulkError::Store(error) => error.into(),
            BulkError::Stuck(message) => Self::invalid(message),
        }
    }
}

impl From<EraseError> for Error {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::Queue(error) => error.into(),
            EraseError::Store(error) => error.into(),
        }
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Queue(error) => error.into(),
            BodyError::Store(error) => error.into(),
        }
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<SelectError> for Error {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Undeclared { .. } => Self::invalid(error.to_string()),
            SelectError::Store(error) => error.into(),
        }
    }
}

impl From<VaultError> for Error {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoKey => Self::new(Kind::Conflict, "no-vault-key", error.to_string()),
            VaultError::Store(error) => error.into(),
        }
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let refusal = match error {
            CallError::Refused(refusal) => refusal,
            CallError::Store(error) => return error.into(),
        };
        let kind = match refusal.kind {
            CallRefusalKind::Invalid => Kind::Invalid,
            CallRefusalKind::Forbidden => Kind::Forbidden,
            CallRefusalKind::NotFound => Kind::NotFound,
            CallRefusalKind::Conflict => Kind::Conflict,
            CallRefusalKind::RateLimited => Kind::RateLimited,
            CallRefusalKind::Upstream => Kind::Upstream,
            CallRefusalKind::Unavailable => Kind::Unavailable,
            CallRefusalKind::Deadline => Kind::Deadline,
            CallRefusalKind::Internal => Kind::Internal,
        };
        let error = Self::new(kind, refusal.code, refusal.message);
        Self { details: refusal.details, retry_after: refusal.retry_after, is_private: refusal.is_private, ..error }
    }
}
