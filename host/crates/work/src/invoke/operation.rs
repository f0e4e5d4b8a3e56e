//! Calls an operation of a plugin's active revision, while the caller waits for the answer.
//!
//! Sandbox, limits, slots and metrics are those of a job's call, but there is no queue: nothing is
//! retried, nothing is recorded as an attempt, and the quarantine rule, which counts different
//! jobs, ignores it.

use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::{GuestCall, NoPlace, Refused, RelayFailure, Relayed};
use patchbay_model::capability::{Fields, HttpError, HttpRequest, HttpResponse, TimeoutPhase};
use patchbay_model::job::Trace;
use patchbay_model::operation::{self, Body, Caller};
use patchbay_model::outcome::Outcome;
use patchbay_model::redaction::Mask;
use patchbay_model::{PluginName, TraceParent};
use patchbay_runtime::{CallContext, CallReport, OperationCall, Revision};
use tracing::{Instrument, warn};

use super::{Entry, Invocation, Invoked, Invoker};

#[derive(Debug)]
pub struct Operation {
    pub name: String,
    pub input: String,
    /// Request headers for the plugin.
    pub headers: Fields,
    pub caller: Caller,
    /// Limit of this call, besides the plugin's own.
    pub deadline: Option<Duration>,
    pub relay: RelayAs,
}

/// What becomes of a response that the plugin relays.
#[derive(Debug)]
pub enum RelayAs {
    /// It is held whole. With the `Range` header of the caller.
    Whole { range: Option<Vec<u8>> },
    /// It is passed on in pieces. With headers of the caller about what it has already, and who that
    /// is, where it is known.
    Pieces {
        conditions: Fields,
        client: Option<String>,
    },
}

#[derive(Debug)]
pub struct Answer {
    /// Chosen by the plugin.
    pub status: Option<u16>,
    /// As the plugin wrote them.
    pub headers: Fields,
    pub body: AnswerBody,
}

#[derive(Debug)]
pub enum AnswerBody {
    Empty,
    Json(String),
    Bytes {
        content_type: String,
        content: Vec<u8>,
    },
    /// The response of another server, whatever its status.
    Relayed(HttpResponse),
    /// The same, to be passed on in pieces.
    Pieces(Relayed),
}

impl AnswerBody {
    /// `empty`, `json`, `bytes` or `relay`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Json(_) => "json",
            Self::Bytes { .. } => "bytes",
            Self::Relayed(_) | Self::Pieces(_) => "relay",
        }
    }
}

#[derive(Debug)]
pub enum CallFailure {
    /// No revision of the plugin takes calls here.
    NotRunning,
    NoOperations,
    /// The call ended without an answer for any other reason.
    Ended(Outcome),
    /// The call failed because of an open breaker.
    BreakerOpen(Refused),
    /// The response that it relays could not be fetched.
    Relay(HttpError),
    /// As many responses as possible are relayed already, to all clients or to this one.
    TooManyRelays(NoPlace),
}

impl Invoker {
    /// Runs an operation to its end. The deadline of the plugin's calls covers everything,
    /// including a relayed request.
    pub async fn operate(
        &self,
        plugin: &PluginName,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Answer, CallFailure> {
        let revision = self.runtime.registry().get(plugin);
        let revision = revision.ok_or(CallFailure::NotRunning)?;
        self.operate_on(&revision, operation, traceparent).await
    }

    /// As [`Invoker::operate`], by a revision that the caller has chosen.
    pub async fn operate_on(
        &self,
        revision: &Arc<Revision>,
        operation: Operation,
        traceparent: Option<TraceParent>,
    ) -> Result<Answer, CallFailure> {
        let plugin = revision.plugin();
        let span = tracing::info_span!("operation", %plugin, name = operation.name);
        let operate = async {
            let Operation {
                name,
                input,
                headers,
                caller,
                deadline,
                relay,
            } = operation;
            if !revision.has_operations() {
                return Err(CallFailure::NoOperations);
            }
            let trace = Trace {
                correlation_id: Some(caller.correlation_id.clone()),
                platform: Some(caller.platform.clone()),
                traceparent,
            };
            let call = OperationCall {
                operation: name,
                input,
                headers,
                caller,
                deadline,
                occupancy: Arc::default(),
            };
            let invocation = Invocation {
                entry: Entry::Operation(Box::new(call)),
                trace,
                job: None,
            };
            self.invoke(revision, invocation).await.answer(relay).await
        };
        operate.instrument(span).await
    }
}

impl Invoked {
    /// The answer for the caller. Fetches what the plugin relays, through the same gate as the
    /// guest's own calls and in the time that the guest left. In pieces, that is the time until the
    /// first of them.
    pub async fn answer(self, relay: RelayAs) -> Result<Answer, CallFailure> {
        let Self {
            report,
            refused,
            rest,
            ..
        } = self;
        log_crash(&report);
        let Some(operation::Answer {
            status,
            headers,
            body,
        }) = report.answer
        else {
            // There is no job, so no manifest entry says what to redact.
            let mut outcome = report.outcome;
            outcome.cut(&Mask::default());
            return Err(failure(outcome, refused));
        };
        let body = match body {
            Body::Empty => AnswerBody::Empty,
            Body::Json(text) => AnswerBody::Json(text),
            Body::Bytes {
                content_type,
                content,
            } => AnswerBody::Bytes {
                content_type,
                content,
            },
            Body::Relay(url) => {
                let left = rest.limit.saturating_sub(report.duration);
                match relay {
                    RelayAs::Whole { range } => {
                        let fetched = fetch(rest.call, url, range, left).await;
                        AnswerBody::Relayed(fetched.map_err(CallFailure::Relay)?)
                    }
                    RelayAs::Pieces { conditions, client } => {
                        let client = client.as_deref();
                        let passed = pass_on(&rest.call, url, conditions, client, left).await;
                        AnswerBody::Pieces(passed.map_err(|failure| match failure {
                            RelayFailure::Busy(why) => CallFailure::TooManyRelays(why),
                            RelayFailure::Http(error) => CallFailure::Relay(error),
                        })?)
                    }
                }
            }
        };
        Ok(Answer {
            status,
            headers,
            body,
        })
    }
}

/// No attempt records the stack. Logs only its frames: what the guest printed may be personal data,
/// and is in the guest's log.
fn log_crash(report: &CallReport) {
    if let Some(stack) = &report.stack {
        let frames: Vec<&str> = stack
            .lines()
            .filter(|line| line.starts_with("    at "))
            .collect();
        let stack = frames.join("\n");
        warn!(
            outcome = report.outcome.kind().as_str(),
            stack, "The operation crashed"
        );
    }
}

/// The response is held whole, up to the rule's limit, so that one that repeats a credential is
/// never passed on.
async fn fetch(
    call: Arc<GuestCall>,
    url: String,
    range: Option<Vec<u8>>,
    left: Duration,
) -> Result<HttpResponse, HttpError> {
    let headers: Fields = range
        .map(|range| ("range".to_owned(), range))
        .into_iter()
        .collect();
    let request = HttpRequest {
        method: "GET".into(),
        url,
        headers,
        body: None,
        timeout: Some(left),
    };
    let fetched = tokio::time::timeout(left, call.http(request)).await;
    fetched.unwrap_or(Err(HttpError::Timeout(TimeoutPhase::AwaitingResponse)))
}

/// The response is passed on as it comes. What is asked for is never compressed, since ranges count
/// the bytes of the content.
async fn pass_on(
    call: &Arc<GuestCall>,
    url: String,
    conditions: Fields,
    client: Option<&str>,
    left: Duration,
) -> Result<Relayed, RelayFailure> {
    let request = HttpRequest {
        method: "GET".into(),
        url,
        headers: conditions,
        body: None,
        timeout: Some(left),
    };
    let passed = tokio::time::timeout(left, call.relay(request, client)).await;
    passed.unwrap_or(Err(
        HttpError::Timeout(TimeoutPhase::AwaitingResponse).into()
    ))
}

/// As with jobs: if a breaker refused, that is the reason, whatever the guest reported.
fn failure(outcome: Outcome, refused: Option<Refused>) -> CallFailure {
    match (&outcome, refused) {
        (Outcome::Failed(_) | Outcome::Trapped(_) | Outcome::Deadline(_), Some(refused)) => {
            CallFailure::BreakerOpen(refused)
        }
        _ => CallFailure::Ended(outcome),
    }
}
