//! Calls an operation of a plugin for a caller that waits: the answer, or a failure with its kind.
//!
//! Owns the only table from the end of a call to what its caller is told. Code that speaks a
//! protocol only translates the kinds.

use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::NoPlace;
use patchbay_model::capability::HttpError;
use patchbay_model::grant::Granted;
use patchbay_model::job::{JobKey, Trace};
use patchbay_model::outcome::{Failure, Outcome, OutcomeKind, Retry};
use patchbay_model::retry::MAX_AFTER;
use patchbay_model::webhook::WebhookRequest;
use patchbay_model::{PluginName, QueueName, TraceParent};
use patchbay_runtime::Revision;
use patchbay_work::CallFailure;
pub use patchbay_work::{Answer, AnswerBody, Operation, RelayAs, Unjudged, Verification};

use tracing::warn;

use super::Plugins;
use crate::error::{Error, Kind};
use crate::nearest::unknown_plugin;

/// An operator has to look first.
const QUARANTINE_WAIT: Duration = Duration::from_secs(60);

/// Why a route has no answer of its plugin.
#[derive(Debug)]
pub struct RouteFailure {
    pub error: Error,
    /// The plugin has said that another try would end in the same way.
    pub is_final: bool,
    /// An outside host is not asked for a while.
    pub is_refused_by_breaker: bool,
}

impl Plugins {
    /// Calls the active revision of a plugin. Nothing is retried.
    pub async fn call(
        &self,
        plugin: &PluginName,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Answer, Error> {
        if let Some(quarantined) = self.quarantined(plugin) {
            let message = format!(
                "{plugin} has been quarantined since {}: {}",
                quarantined.since, quarantined.reason
            );
            let refusal = Error::new(Kind::Unavailable, "quarantined", message);
            return Err(refusal.retry_after(QUARANTINE_WAIT));
        }
        match self.invoker.operate(plugin, operation, traceparent).await {
            Ok(answer) => Ok(answer),
            Err(CallFailure::NotRunning) => Err(self.not_running(plugin).await),
            Err(failure) => Err(refusal(plugin, failure)),
        }
    }

    /// Calls the revision of a route. Only what the plugin declares is told to the caller: the texts
    /// of crashes stay in the log.
    pub async fn call_route(
        &self,
        revision: &Arc<Revision>,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Answer, RouteFailure> {
        let called = self.invoker.operate_on(revision, operation, traceparent);
        let failure = match called.await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let declared = match &failure {
            CallFailure::Ended(Outcome::Failed(failure)) => Some(&failure.retry),
            _ => None,
        };
        let is_final = declared == Some(&Retry::Never);
        let is_declared = declared.is_some();
        let is_refused_by_breaker = matches!(
            &failure,
            CallFailure::BreakerOpen(_) | CallFailure::Relay(HttpError::BreakerOpen(_))
        );
        let failed = |error| RouteFailure {
            error,
            is_final,
            is_refused_by_breaker,
        };
        let is_of_client = matches!(failure, CallFailure::TooManyRelays(NoPlace::OfClient));
        let refusal = refusal(revision.plugin(), failure);
        if is_declared || is_of_client {
            return Err(failed(refusal));
        }
        warn!(code = %refusal.code, reason = refusal.message, "a request to a route failed");
        let message = match refusal.kind {
            Kind::Deadline => "The plugin did not answer in time. Try again",
            Kind::Unavailable => "The plugin cannot answer now. Try again",
            Kind::Upstream => "An outside service did not answer as it should",
            _ => {
                "The plugin failed. The log of the host has the details, under the x-request-id of this answer"
            }
        };
        Err(failed(Error {
            message: message.into(),
            ..refusal
        }))
    }

    /// Asks the revision of a webhook whether a request is its vendor's.
    pub async fn verify(
        &self,
        revision: &Arc<Revision>,
        request: WebhookRequest,
        trace: Trace,
    ) -> Verification {
        self.invoker.verify(revision, request, trace).await
    }

    /// Counts a verdict for the quarantine: whether `verify` crashed. Only of requests that have passed
    /// a check of the host.
    pub fn note_verification(
        &self,
        revision: &Revision,
        queue: &QueueName,
        trace: &Trace,
        verified: &Verification,
    ) {
        let kind = match verified {
            Verification::Accepted(_) | Verification::Rejected(_) => OutcomeKind::Completed,
            Verification::Unjudged(unjudged) if unjudged.code == "verify-trapped" => {
                OutcomeKind::Trapped
            }
            // It may be slow because the host is.
            Verification::Unjudged(_) => return,
        };
        let id = trace.correlation_id.as_deref().unwrap_or("unknown");
        let Ok(id) = id.parse() else { return };
        let request = JobKey {
            prefix: String::new(),
            queue: queue.clone(),
            id,
            created_ms: 0,
        };
        let (plugin, digest) = (revision.plugin(), revision.digest());
        self.quarantine
            .note_verification(plugin, digest, &request, kind);
    }

    /// What this process knows to be granted to a plugin.
    pub fn granted(&self, plugin: &PluginName) -> Granted {
        self.grants.of(plugin)
    }

    /// Why no revision of the plugin takes calls here.
    async fn not_running(&self, plugin: &PluginName) -> Error {
        if let Some(reason) = self.failure(plugin) {
            let message = format!("{plugin} does not run on this host: {reason}");
            return Error::new(Kind::Unavailable, "unavailable", message);
        }
        match self.store.revisions(Some(plugin)).await {
            Ok(rows) if rows.is_empty() => Error::new(
                Kind::NotFound,
                "not-found",
                unknown_plugin(&self.store, plugin).await,
            ),
            Ok(_) => {
                let message = format!(
                    "{plugin} has no active revision: patchbay plugin activate {plugin} DIGEST"
                );
                Error::new(Kind::Conflict, "inactive", message)
            }
            Err(error) => error.into(),
        }
    }
}

fn refusal(plugin: &PluginName, failure: CallFailure) -> Error {
    match failure {
        CallFailure::NotRunning | CallFailure::NoOperations => {
            let message = format!(
                "The active revision of {plugin} exports no operations. See: patchbay plugin status {plugin}"
            );
            Error::new(Kind::Conflict, "no-operations", message)
        }
        CallFailure::BreakerOpen(refused) => {
            let message = format!(
                "Calls to {} are refused while its breaker is open. See: patchbay breaker list",
                refused.breaker.host()
            );
            let refusal = Error::new(Kind::Unavailable, "breaker-open", message);
            refusal.retry_after(refused.retry_in)
        }
        CallFailure::Ended(Outcome::Failed(failure)) => declared(failure).private(),
        CallFailure::Ended(outcome) => {
            let kind = match outcome {
                Outcome::Deadline(_) => Kind::Deadline,
                Outcome::HostFault(_) => Kind::Unavailable,
                _ => Kind::Internal,
            };
            // The text of a panic comes from the plugin, too.
            Error::new(
                kind,
                outcome.kind().as_str(),
                outcome.reason().unwrap_or_default(),
            )
            .private()
        }
        CallFailure::Relay(error) => relay_error(&error).private(),
        CallFailure::TooManyRelays(NoPlace::OfClient) => {
            let message = "You are being sent as many answers of other services at once as you may have. Read them to their end, then try again";
            let refusal = Error::new(Kind::RateLimited, "rate-limited", message);
            refusal.retry_after(Duration::from_secs(1))
        }
        CallFailure::TooManyRelays(NoPlace::All) => {
            let message = "This host relays as many responses as it can. Try again";
            let refusal = Error::new(Kind::Unavailable, "busy", message);
            refusal.retry_after(Duration::from_secs(1))
        }
    }
}

/// Translates a declared failure, by the contract's table.
fn declared(failure: Failure) -> Error {
    let kind = match failure.code.as_str() {
        "invalid-input" => Kind::Invalid,
        "forbidden" => Kind::Forbidden,
        "not-found" => Kind::NotFound,
        "conflict" => Kind::Conflict,
        "rate-limited" => Kind::RateLimited,
        "bad-credentials" | "upstream" => Kind::Upstream,
        "unavailable" | "breaker-open" | "quarantined" => Kind::Unavailable,
        "deadline" => Kind::Deadline,
        _ => Kind::Internal,
    };
    let wait = match failure.retry {
        Retry::After(wait) | Retry::Defer(wait) => Some(wait.min(MAX_AFTER)),
        Retry::Backoff | Retry::Never => None,
    };
    let details = failure
        .details
        .and_then(|details| serde_json::from_str(&details).ok());
    Error {
        details,
        ..Error::new(kind, failure.code, failure.message).retry_after(wait)
    }
}

fn relay_error(error: &HttpError) -> Error {
    let (kind, code) = match error {
        HttpError::Denied(_) | HttpError::Invalid(_) => (Kind::Internal, "relay-denied"),
        HttpError::BreakerOpen(_) => (Kind::Unavailable, "breaker-open"),
        HttpError::Timeout(_) => (Kind::Deadline, "deadline"),
        _ => (Kind::Upstream, "upstream"),
    };
    let wait = match error {
        HttpError::BreakerOpen(ms) => Some(Duration::from_millis(*ms)),
        _ => None,
    };
    Error::new(
        kind,
        code,
        format!("The answer that the plugin relays could not be fetched: {error}"),
    )
    .retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_declares_has_the_kind_of_the_contract_and_any_other_code_is_its_own_fault() {
        for (code, kind) in [
            ("invalid-input", Kind::Invalid),
            ("forbidden", Kind::Forbidden),
            ("not-found", Kind::NotFound),
            ("conflict", Kind::Conflict),
            ("rate-limited", Kind::RateLimited),
            ("bad-credentials", Kind::Upstream),
            ("upstream", Kind::Upstream),
            ("unavailable", Kind::Unavailable),
            ("breaker-open", Kind::Unavailable),
            ("quarantined", Kind::Unavailable),
            ("deadline", Kind::Deadline),
            ("anything-else", Kind::Internal),
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
                Kind::Deadline,
                "deadline",
            ),
            (
                CallFailure::Ended(Outcome::HostFault("no slot".into())),
                Kind::Unavailable,
                "host-fault",
            ),
            (
                CallFailure::Ended(Outcome::Trapped("panicked".into())),
                Kind::Internal,
                "trapped",
            ),
            (
                CallFailure::Relay(HttpError::Denied("no rule".into())),
                Kind::Internal,
                "relay-denied",
            ),
            (
                CallFailure::Relay(HttpError::BreakerOpen(5)),
                Kind::Unavailable,
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
            (Kind::Conflict, "no-operations", false)
        );
    }
}
