//! An operation of a plugin's active revision: whoever asked waits for the answer.
//!
//! The same sandbox, limits, slots and metrics as a job's call, and no queue: nothing is tried again, nothing is recorded as an attempt,
//! and the rule of quarantine, which counts different jobs, does not see it.

use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::{GuestCall, Refused};
use patchbay_model::capability::{Fields, HttpError, HttpRequest, HttpResponse, TimeoutPhase};
use patchbay_model::job::Trace;
use patchbay_model::operation::{self, Body, Caller};
use patchbay_model::outcome::Outcome;
use patchbay_model::redaction::Mask;
use patchbay_model::{PluginName, TraceParent};
use patchbay_runtime::{CallContext, CallReport, OperationCall};
use tracing::{Instrument, warn};

use super::{Entry, Invocation, Invoked, Invoker};

/// What is asked of a plugin.
#[derive(Debug)]
pub struct Operation {
    pub name: String,
    pub input: String,
    pub caller: Caller,
    /// Passed on with what is relayed.
    pub range: Option<Vec<u8>>,
}

/// What a plugin answers, ready for a client.
#[derive(Debug)]
pub struct Answer {
    /// Chosen by the plugin.
    pub status: Option<u16>,
    pub body: AnswerBody,
}

/// The content of an answer.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum AnswerBody {
    Empty,
    Json(String),
    Bytes {
        content_type: String,
        content: Vec<u8>,
    },
    /// What another server answered, whatever its status.
    Relayed(HttpResponse),
}

impl AnswerBody {
    /// `empty`, `json`, `bytes` or `relay`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Json(_) => "json",
            Self::Bytes { .. } => "bytes",
            Self::Relayed(_) => "relay",
        }
    }
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum CallFailure {
    /// No revision takes calls here.
    NotRunning,
    /// The active revision exports no operations.
    NoOperations,
    /// The call ended otherwise.
    Ended(Outcome),
    /// It failed by a breaker.
    BreakerOpen(Refused),
    /// What it relays could not be fetched.
    Relay(HttpError),
}

impl Invoker {
    /// Runs an operation to its end; the deadline of the plugin's calls bounds everything, what is relayed included.
    pub async fn operate(
        &self,
        plugin: &PluginName,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Answer, CallFailure> {
        let span = tracing::info_span!("operation", %plugin, name = operation.name);
        let operate = async {
            let Operation { name, input, caller, range } = operation;
            let revision = self.runtime.registry().get(plugin).ok_or(CallFailure::NotRunning)?;
            if !revision.has_operations() {
                return Err(CallFailure::NoOperations);
            }
            let trace = Trace {
                correlation_id: Some(caller.correlation_id.clone()),
                platform: Some(caller.platform.clone()),
                traceparent,
            };
            let call = OperationCall { operation: name, input, caller, occupancy: Arc::default() };
            let invocation = Invocation { entry: Entry::Operation(Box::new(call)), trace, job: None };
            self.invoke(&revision, invocation).await.answer(range).await
        };
        operate.instrument(span).await
    }
}

impl Invoked {
    /// What whoever waits for the call gets. Fetches what the plugin relays, through the gate that the guest's own calls passed and in the
    /// time that it left; `range` is asked of it.
    pub async fn answer(self, range: Option<Vec<u8>>) -> Result<Answer, CallFailure> {
        let Self { report, refused, rest, .. } = self;
        log_crash(&report);
        let Some(operation::Answer { status, body, .. }) = report.answer else {
            // No job, so that nothing says what of it is hidden.
            let mut outcome = report.outcome;
            outcome.cut(&Mask::default());
            return Err(failure(outcome, refused));
        };
        let body = match body {
            Body::Empty => AnswerBody::Empty,
            Body::Json(text) => AnswerBody::Json(text),
            Body::Bytes { content_type, content } => AnswerBody::Bytes { content_type, content },
            Body::Relay(url) => {
                let left = rest.revision.deadline().saturating_sub(report.duration);
                let fetched = fetch(rest.call, url, range, left).await;
                AnswerBody::Relayed(fetched.map_err(CallFailure::Relay)?)
            }
        };
        Ok(Answer { status, body })
    }
}

/// No attempt remembers the stack. What the guest printed may be personal, and is in its log.
fn log_crash(report: &CallReport) {
    if let Some(stack) = &report.stack {
        let frames: Vec<&str> = stack.lines().filter(|line| line.starts_with("    at ")).collect();
        let stack = frames.join("\n");
        warn!(outcome = report.outcome.kind().as_str(), stack, "the operation crashed");
    }
}

/// Held whole up to the rule's limit: what repeats a credential never leaves.
async fn fetch(
    call: Arc<GuestCall>,
    url: String,
    range: Option<Vec<u8>>,
    left: Duration,
) -> Result<HttpResponse, HttpError> {
    let headers: Fields = range.map(|range| ("range".to_owned(), range)).into_iter().collect();
    let request = HttpRequest { method: "GET".into(), url, headers, body: None, timeout: Some(left) };
    let fetched = tokio::time::timeout(left, call.http(request)).await;
    fetched.unwrap_or(Err(HttpError::Timeout(TimeoutPhase::AwaitingResponse)))
}

/// As with jobs: whatever a guest makes of an open breaker, that is why it failed.
fn failure(outcome: Outcome, refused: Option<Refused>) -> CallFailure {
    match (&outcome, refused) {
        (Outcome::Failed(_) | Outcome::Trapped(_) | Outcome::Deadline(_), Some(refused)) => {
            CallFailure::BreakerOpen(refused)
        }
        _ => CallFailure::Ended(outcome),
    }
}
