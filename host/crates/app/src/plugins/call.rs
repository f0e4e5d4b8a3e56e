//! Calls an operation of a plugin for a caller that waits: the answer, or a failure with its kind.
//!
//! Owns the only table from the end of a call to what its caller is told. Code that speaks a
//! protocol only translates the kinds.

use std::borrow::Cow;
use std::time::Duration;

use patchbay_model::capability::HttpError;
use patchbay_model::outcome::{Failure, Outcome, Retry};
use patchbay_model::retry::MAX_AFTER;
use patchbay_model::{PluginName, TraceParent};
use patchbay_store::StoreError;
use patchbay_work::CallFailure;
pub use patchbay_work::{Answer, AnswerBody, Operation};
use serde_json::Value;

use super::Plugins;

/// An operator has to look first.
const QUARANTINE_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The plugin, or a service that it calls, is the reason.
    #[error("{}", .0.message)]
    Refused(CallRefusal),
    /// Postgres did not answer why the plugin does not run.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub struct CallRefusal {
    pub kind: CallRefusalKind,
    /// Stable, kebab-case. The plugin's own where it declared a failure.
    pub code: Cow<'static, str>,
    pub message: String,
    /// Machine-readable details of a declared failure.
    pub details: Option<Value>,
    /// After this time, the call may succeed.
    pub retry_after: Option<Duration>,
    /// Whether the message comes from the plugin. Such a message goes only to the caller and is not
    /// stored, since it may be personal.
    pub is_private: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallRefusalKind {
    Invalid,
    /// The caller is not allowed to do this.
    Forbidden,
    NotFound,
    /// The present state does not allow it.
    Conflict,
    RateLimited,
    /// A service behind the plugin failed.
    Upstream,
    /// It may work later.
    Unavailable,
    Deadline,
    /// A fault of the plugin.
    Internal,
}

impl Plugins {
    /// Calls the active revision of a plugin. Nothing is retried.
    pub async fn call(
        &self,
        plugin: &PluginName,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Answer, CallError> {
        if let Some(quarantined) = self.quarantined(plugin) {
            let message = format!(
                "{plugin} is quarantined since {}: {}",
                quarantined.since, quarantined.reason
            );
            let refusal = CallRefusal::new(CallRefusalKind::Unavailable, "quarantined", message);
            return Err(CallError::Refused(refusal.retry_after(QUARANTINE_WAIT)));
        }
        match self.invoker.operate(plugin, operation, traceparent).await {
            Ok(answer) => Ok(answer),
            Err(CallFailure::NotRunning) => Err(self.not_running(plugin).await),
            Err(failure) => Err(CallError::Refused(refusal(plugin, failure))),
        }
    }

    /// Why no revision of the plugin takes calls here.
    async fn not_running(&self, plugin: &PluginName) -> CallError {
        let refused =
            |kind, code, message| CallError::Refused(CallRefusal::new(kind, code, message));
        if let Some(reason) = self.failure(plugin) {
            let message = format!("{plugin} does not run on this host: {reason}");
            return refused(CallRefusalKind::Unavailable, "unavailable", message);
        }
        match self.store.revisions(Some(plugin)).await {
            Ok(rows) if rows.is_empty() => refused(
                CallRefusalKind::NotFound,
                "not-found",
                format!("no plugin is called {plugin}"),
            ),
            Ok(_) => {
                let message = format!(
                    "{plugin} has no active revision: patchbay plugin activate {plugin} DIGEST"
                );
                refused(CallRefusalKind::Conflict, "inactive", message)
            }
            Err(error) => error.into(),
        }
    }
}

impl CallRefusal {
    fn new(
        kind: CallRefusalKind,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        let (code, message) = (code.into(), message.into());
        Self {
            kind,
            code,
            message,
            details: None,
            retry_after: None,
            is_private: false,
        }
    }

    fn retry_after(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.retry_after = wait.into();
        self
    }

    fn private(mut self) -> Self {
        self.is_private = true;
        self
    }
}

fn refusal(plugin: &PluginName, failure: CallFailure) -> CallRefusal {
    match failure {
        CallFailure::NotRunning | CallFailure::NoOperations => {
            let message = format!(
                "the active revision of {plugin} exports no operations; see: patchbay plugin status {plugin}"
            );
            CallRefusal::new(CallRefusalKind::Conflict, "no-operations", message)
        }
        CallFailure::BreakerOpen(refused) => {
            let message = format!(
                "calls to {} are refused while its breaker is open: patchbay breaker list",
                refused.breaker.host()
            );
            let refusal = CallRefusal::new(CallRefusalKind::Unavailable, "breaker-open", message);
            refusal.retry_after(refused.retry_in)
        }
        CallFailure::Ended(Outcome::Failed(failure)) => declared(failure).private(),
        CallFailure::Ended(outcome) => {
            let kind = match outcome {
                Outcome::Deadline(_) => CallRefusalKind::Deadline,
                Outcome::HostFault(_) => CallRefusalKind::Unavailable,
                _ => CallRefusalKind::Internal,
            };
            // The text of a panic comes from the plugin, too.
            CallRefusal::new(
                kind,
                outcome.kind().as_str(),
                outcome.reason().unwrap_or_default(),
            )
            .private()
        }
        CallFailure::Relay(error) => relay_error(&error).private(),
    }
}

/// Translates a declared failure, by the contract's table.
fn declared(failure: Failure) -> CallRefusal {
    let kind = match failure.code.as_str() {
        "invalid-input" => CallRefusalKind::Invalid,
        "forbidden" => CallRefusalKind::Forbidden,
        "not-found" => CallRefusalKind::NotFound,
        "conflict" => CallRefusalKind::Conflict,
        "rate-limited" => CallRefusalKind::RateLimited,
        "bad-credentials" | "upstream" => CallRefusalKind::Upstream,
        "unavailable" | "breaker-open" | "quarantined" => CallRefusalKind::Unavailable,
        "deadline" => CallRefusalKind::Deadline,
        _ => CallRefusalKind::Internal,
    };
    let wait = match failure.retry {
        Retry::After(wait) | Retry::Defer(wait) => Some(wait.min(MAX_AFTER)),
        Retry::Backoff | Retry::Never => None,
    };
    let details = failure
        .details
        .and_then(|details| serde_json::from_str(&details).ok());
    CallRefusal {
        details,
        ..CallRefusal::new(kind, failure.code, failure.message).retry_after(wait)
    }
}

fn relay_error(error: &HttpError) -> CallRefusal {
    let (kind, code) = match error {
        HttpError::Denied(_) | HttpError::Invalid(_) => (CallRefusalKind::Internal, "relay-denied"),
        HttpError::BreakerOpen(_) => (CallRefusalKind::Unavailable, "breaker-open"),
        HttpError::Timeout(_) => (CallRefusalKind::Deadline, "deadline"),
        _ => (CallRefusalKind::Upstream, "upstream"),
    };
    let wait = match error {
        HttpError::BreakerOpen(ms) => Some(Duration::from_millis(*ms)),
        _ => None,
    };
    CallRefusal::new(
        kind,
        code,
        format!("what the plugin relays cannot be fetched: {error}"),
    )
    .retry_after(wait)
}

impl From<CallError> for crate::Error {
    fn from(error: CallError) -> Self {
        let refusal = match error {
            CallError::Refused(refusal) => refusal,
            CallError::Store(error) => return error.into(),
        };
        let kind = match refusal.kind {
            CallRefusalKind::Invalid => crate::error::Kind::Invalid,
            CallRefusalKind::Forbidden => crate::error::Kind::Forbidden,
            CallRefusalKind::NotFound => crate::error::Kind::NotFound,
            CallRefusalKind::Conflict => crate::error::Kind::Conflict,
            CallRefusalKind::RateLimited => crate::error::Kind::RateLimited,
            CallRefusalKind::Upstream => crate::error::Kind::Upstream,
            CallRefusalKind::Unavailable => crate::error::Kind::Unavailable,
            CallRefusalKind::Deadline => crate::error::Kind::Deadline,
            CallRefusalKind::Internal => crate::error::Kind::Internal,
        };
        let error = Self::new(kind, refusal.code, refusal.message);
        Self {
            details: refusal.details,
            retry_after: refusal.retry_after,
            is_private: refusal.is_private,
            ..error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_declares_has_the_kind_of_the_contract_and_any_other_code_is_its_own_fault() {
        for (code, kind) in [
            ("invalid-input", CallRefusalKind::Invalid),
            ("forbidden", CallRefusalKind::Forbidden),
            ("not-found", CallRefusalKind::NotFound),
            ("conflict", CallRefusalKind::Conflict),
            ("rate-limited", CallRefusalKind::RateLimited),
            ("bad-credentials", CallRefusalKind::Upstream),
            ("upstream", CallRefusalKind::Upstream),
            ("unavailable", CallRefusalKind::Unavailable),
            ("breaker-open", CallRefusalKind::Unavailable),
            ("quarantined", CallRefusalKind::Unavailable),
            ("deadline", CallRefusalKind::Deadline),
            ("anything-else", CallRefusalKind::Internal),
        ] {
            let failure = Failure {
                code: code.into(),
                message: "m".into(),
                retry: Retry::Never,
                details: None,
            };
            assert_eq!(declared(failure).kind, kind, "{code}");
        }
    }

    #[test]
    fn details_that_are_no_json_are_left_out_and_a_deferral_says_when() {
        let declare = |details: &str, retry| {
            let details = Some(details.to_owned());
            declared(Failure {
                code: "unavailable".into(),
                message: "m".into(),
                retry,
                details,
            })
        };
        assert_eq!(declare("{", Retry::Never).details, None);
        let refusal = declare("{\"a\":1}", Retry::Defer(Duration::from_secs(5)));
        assert_eq!(refusal.details, Some(serde_json::json!({ "a": 1 })));
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(5)));
    }

    #[test]
    fn how_a_call_ends_has_its_kind_and_its_text_is_never_kept() {
        let plugin: PluginName = "answers".parse().expect("a name");
        for (failure, kind, code) in [
            (
                CallFailure::Ended(Outcome::Deadline(Duration::from_secs(1))),
                CallRefusalKind::Deadline,
                "deadline",
            ),
            (
                CallFailure::Ended(Outcome::HostFault("no slot".into())),
                CallRefusalKind::Unavailable,
                "host-fault",
            ),
            (
                CallFailure::Ended(Outcome::Trapped("panicked".into())),
                CallRefusalKind::Internal,
                "trapped",
            ),
            (
                CallFailure::Relay(HttpError::Denied("no rule".into())),
                CallRefusalKind::Internal,
                "relay-denied",
            ),
            (
                CallFailure::Relay(HttpError::BreakerOpen(5)),
                CallRefusalKind::Unavailable,
                "breaker-open",
            ),
        ] {
            let refusal = refusal(&plugin, failure);
            assert_eq!((refusal.kind, &*refusal.code), (kind, code));
            assert!(refusal.is_private);
        }
        let refusal = refusal(&plugin, CallFailure::NoOperations);
        assert_eq!(
            (refusal.kind, &*refusal.code, refusal.is_private),
            (CallRefusalKind::Conflict, "no-operations", false)
        );
    }
}
