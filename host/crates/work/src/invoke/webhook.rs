//! Asks a plugin whether a request is its vendor's.
//!
//! The call has no effects: it reaches only secrets, settings and the log. Whatever keeps the plugin
//! from judging is not a "no": the request is judged again later.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::job::Trace;
use patchbay_model::outcome::Outcome;
use patchbay_model::webhook::{Accepted, Rejected, Verdict, WebhookRequest};
use patchbay_runtime::{Revision, VerifyCall};
use tracing::{Instrument, warn};

use super::{Entry, Invocation, Invoker};

/// Limit of one verification, the wait for a slot included.
const LIMIT: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub enum Verification {
    Accepted(Accepted),
    /// Sanitized.
    Rejected(Rejected),
    Unjudged(Unjudged),
}

/// Why a plugin could not judge a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unjudged {
    /// `secret-missing`, `verify-trapped`, `verify-slow`, `verify-invalid` or `verify-failed`.
    pub code: &'static str,
    /// For operators. It has no text of the guest.
    pub message: String,
}

impl Invoker {
    pub async fn verify(
        &self,
        revision: &Arc<Revision>,
        request: WebhookRequest,
        trace: Trace,
    ) -> Verification {
        let plugin = revision.plugin();
        let span = tracing::info_span!("verify", %plugin, webhook = request.name);
        let verify = async {
            let call = VerifyCall {
                request,
                deadline: LIMIT,
                occupancy: Arc::default(),
            };
            let invocation = Invocation {
                entry: Entry::Verify(Box::new(call)),
                trace,
                job: None,
            };
            let invoked = self.invoke(revision, invocation).await;
            let lacks_secret = invoked.rest.call.lacks_secret();
            match (invoked.report.verdict, invoked.report.outcome) {
                (Some(Verdict::Accepted(accepted)), _) => Verification::Accepted(accepted),
                (Some(Verdict::Rejected(_)), _) if lacks_secret => unjudged(
                    "secret-missing",
                    "A secret that verify needs has no value, or is not granted",
                ),
                (Some(Verdict::Rejected(rejected)), _) => {
                    Verification::Rejected(rejected.sanitized())
                }
                (None, outcome) => {
                    let unjudged = of_outcome(&outcome);
                    warn!(
                        code = unjudged.code,
                        reason = outcome.reason().unwrap_or_default(),
                        "the plugin could not judge a request to its webhook"
                    );
                    Verification::Unjudged(unjudged)
                }
            }
        };
        verify.instrument(span).await
    }
}

fn unjudged(code: &'static str, message: impl Into<String>) -> Verification {
    Verification::Unjudged(Unjudged {
        code,
        message: message.into(),
    })
}

fn of_outcome(outcome: &Outcome) -> Unjudged {
    let (code, message) = match outcome {
        Outcome::Deadline(limit) => (
            "verify-slow",
            format!("verify did not end within {} ms", limit.as_millis()),
        ),
        Outcome::HostFault(_) => ("verify-failed", "The host could not call verify".into()),
        Outcome::InvalidResult(reason) => (
            "verify-invalid",
            format!("The host cannot use what verify returned: {reason}"),
        ),
        Outcome::MemoryLimit(_) => (
            "verify-trapped",
            "verify needs more memory than it may have".into(),
        ),
        _ => (
            "verify-trapped",
            "verify crashed. The host's log says how: look for \"could not judge a request\""
                .into(),
        ),
    };
    Unjudged { code, message }
}
