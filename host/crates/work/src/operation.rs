//! Runs an operation of a plugin's active revision: whoever asked waits for the answer.
//!
//! The same sandbox, limits, slots and metrics as a job's call, and no queue: nothing is tried again, nothing is recorded as an attempt,
//! and the rule of quarantine, which counts different jobs, does not see it.

use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::{GuestCall, Refused};
use patchbay_model::capability::{Fields, HttpError, HttpRequest, HttpResponse, TimeoutPhase};
use patchbay_model::job::Trace;
use patchbay_model::operation::{Answer, Body, Caller};
use patchbay_model::outcome::Outcome;
use patchbay_model::redaction::Mask;
use patchbay_model::{PluginName, TraceParent};
use patchbay_runtime::{CallContext, OperationCall};
use tracing::{Instrument, warn};

use crate::WasmExecutor;
use crate::wasm::ended;

/// What is asked of a plugin.
#[derive(Debug)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// One JSON document.
    pub input: String,
    /// On whose behalf.
    pub caller: Caller,
    /// Passed on with what is relayed.
    pub range: Option<Vec<u8>>,
}

/// What it answers.
#[derive(Debug)]
pub struct Reply {
    /// Chosen by the plugin.
    pub status: Option<u16>,
    /// What follows.
    pub content: Content,
}

/// The content of a reply.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Content {
    Empty,
    /// One JSON document.
    Json(String),
    Bytes {
        content_type: String,
        content: Vec<u8>,
    },
    /// What another server answered, whatever its status.
    Relayed(HttpResponse),
}

/// Why there is none.
#[derive(Debug)]
pub enum Unanswered {
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

impl WasmExecutor {
    /// Runs it to its end; the deadline of the plugin's calls bounds everything, what is relayed included.
    pub async fn operate(
        &self,
        plugin: &PluginName,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Reply, Unanswered> {
        let span = tracing::info_span!("operation", %plugin, name = operation.name);
        self.run(plugin, operation, traceparent).instrument(span).await
    }

    async fn run(
        &self,
        plugin: &PluginName,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Reply, Unanswered> {
        let Operation { name, input, caller, range } = operation;
        let revision = self.runtime.registry().get(plugin).ok_or(Unanswered::NotRunning)?;
        if !revision.has_operations() {
            return Err(Unanswered::NoOperations);
        }
        let trace = Trace {
            correlation_id: Some(caller.correlation_id.clone()),
            platform: Some(caller.platform.clone()),
            traceparent,
        };
        let mut step = self.step(&revision, &trace);
        let trace = step.causes(trace);
        let meters = self.meters.enter(&revision);
        let capabilities = self.capabilities(&revision, None, trace, &meters);
        let call = OperationCall { operation: name, input, caller, occupancy: meters.occupancy() };
        let report = revision.operate(call, Some(Arc::clone(&capabilities) as _)).await;
        ended(&mut step, &report);
        meters.count(&report);
        // No attempt remembers it. What the guest printed may be personal, and is in its log.
        if let Some(stack) = &report.stack {
            let frames: Vec<&str> = stack.lines().filter(|line| line.starts_with("    at ")).collect();
            let stack = frames.join("\n");
            warn!(outcome = report.outcome.kind().as_str(), stack, "the operation crashed");
        }
        let Some(Answer { status, body, .. }) = report.answer else {
            // No job, so that nothing says what of it is hidden.
            let mut outcome = report.outcome;
            outcome.cut(&Mask::default());
            return Err(unanswered(outcome, capabilities.refused()));
        };
        let content = match body {
            Body::Empty => Content::Empty,
            Body::Json(text) => Content::Json(text),
            Body::Bytes { content_type, content } => Content::Bytes { content_type, content },
            Body::Relay(url) => {
                let left = revision.deadline().saturating_sub(report.duration);
                Content::Relayed(fetch(capabilities, url, range, left).await.map_err(Unanswered::Relay)?)
            }
        };
        Ok(Reply { status, content })
    }
}

/// Through the gate that the guest's own calls pass, and held whole up to the rule's limit: what repeats a credential never leaves.
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
fn unanswered(outcome: Outcome, refused: Option<Refused>) -> Unanswered {
    match (&outcome, refused) {
        (Outcome::Failed(_) | Outcome::Trapped(_) | Outcome::Deadline(_), Some(refused)) => {
            Unanswered::BreakerOpen(refused)
        }
        _ => Unanswered::Ended(outcome),
    }
}
