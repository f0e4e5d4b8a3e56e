//! Calls what a component exports.

use std::time::Duration;

use async_trait::async_trait;
use patchbay_model::operation::{Answer, Body};
use patchbay_model::outcome::{Failure, Retry};
use patchbay_model::webhook::{Accepted, EventJob, EventReply, Rejected, Verdict};
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::types;
use super::{Exports, Returned, Wit};
use crate::fault::Phase;
use crate::report::{Entry, JobCall, OperationCall, VerifyCall};
use crate::state::State;

type Ended<T> = wasmtime::Result<Result<T, Failure>>;

/// The only place that distinguishes versions.
pub(crate) fn exports(wit: Wit, linked: InstancePre<State>) -> Box<dyn Exports> {
    match wit {
        Wit::V0_1 => Box::new(v0_1::Component::new(linked)),
        Wit::V0_2 => Box::new(v0_2::Component::new(linked)),
    }
}

/// A component for this version. Rust treats the generated types of two versions as different, even
/// if they are equal.
macro_rules! component {
    ($version:ident) => {
        mod $version {
            use super::*;
            use crate::wit::$version::exports::{jobs, lifecycle, operations, webhooks};
            use crate::wit::$version::job;

            /// The exports, looked up once. An export that the component does not have is `None`.
            pub(crate) struct Component {
                linked: InstancePre<State>,
                jobs: Option<jobs::GuestIndices>,
                operations: Option<operations::GuestIndices>,
                webhooks: Option<webhooks::GuestIndices>,
                lifecycle: Option<lifecycle::GuestIndices>,
            }

            impl Component {
                pub(crate) fn new(linked: InstancePre<State>) -> Self {
                    Self {
                        jobs: jobs::GuestIndices::new(&linked).ok(),
                        operations: operations::GuestIndices::new(&linked).ok(),
                        webhooks: webhooks::GuestIndices::new(&linked).ok(),
                        lifecycle: lifecycle::GuestIndices::new(&linked).ok(),
                        linked,
                    }
                }

                async fn start(&self, store: &mut Store<State>) -> wasmtime::Result<Instance> {
                    let instance = self.linked.instantiate_async(&mut *store).await?;
                    store.data_mut().phase = Phase::Running;
                    Ok(instance)
                }

                async fn run_job(
                    &self,
                    store: &mut Store<State>,
                    call: JobCall,
                    deadline: u64,
                ) -> Ended<String> {
                    let jobs = self.jobs.as_ref().ok_or_else(|| missing("jobs"))?;
                    let instance = self.start(store).await?;
                    let guest = jobs.load(&mut *store, &instance)?;
                    Ok(guest
                        .call_run(store, &job(call, deadline))
                        .await?
                        .map_err(failure))
                }

                async fn operate(
                    &self,
                    store: &mut Store<State>,
                    call: OperationCall,
                    deadline: u64,
                ) -> Ended<Answer> {
                    let operations = self
                        .operations
                        .as_ref()
                        .ok_or_else(|| missing("operations"))?;
                    let instance = self.start(store).await?;
                    let guest = operations.load(&mut *store, &instance)?;
                    Ok(guest
                        .call_call(store, &request(call, deadline))
                        .await?
                        .map(answer)
                        .map_err(failure))
                }

                /// Both answers of `verify` are what it is for; neither is a failure.
                async fn verify(
                    &self,
                    store: &mut Store<State>,
                    call: VerifyCall,
                ) -> wasmtime::Result<Verdict> {
                    let webhooks = self.webhooks.as_ref().ok_or_else(|| missing("webhooks"))?;
                    let instance = self.start(store).await?;
                    let guest = webhooks.load(&mut *store, &instance)?;
                    let said = guest.call_verify(store, &webhook_request(call)).await?;
                    Ok(said.map_or_else(rejected, accepted))
                }

                async fn test(&self, store: &mut Store<State>) -> Ended<()> {
                    let lifecycle = self
                        .lifecycle
                        .as_ref()
                        .ok_or_else(|| missing("lifecycle"))?;
                    let instance = self.start(store).await?;
                    let guest = lifecycle.load(&mut *store, &instance)?;
                    let failure = |message| Failure {
                        code: "self-test".into(),
                        message,
                        retry: Retry::Never,
                        details: None,
                    };
                    Ok(guest.call_self_test(store).await?.map_err(failure))
                }
            }

            #[async_trait]
            impl Exports for Component {
                async fn run(
                    &self,
                    store: &mut Store<State>,
                    entry: Entry,
                    deadline: u64,
                ) -> Ended<Returned> {
                    Ok(match entry {
                        Entry::Job(call) => self
                            .run_job(store, *call, deadline)
                            .await?
                            .map(Returned::Result),
                        Entry::Operation(call) => self
                            .operate(store, *call, deadline)
                            .await?
                            .map(Returned::Answer),
                        Entry::Verify(call) => {
                            Ok(Returned::Verdict(self.verify(store, *call).await?))
                        }
                        Entry::SelfTest => self.test(store).await?.map(|()| Returned::Passed),
                        Entry::Start { .. } => {
                            self.start(store).await.map(|_| Ok(Returned::Passed))?
                        }
                    })
                }
            }

            fn request(call: OperationCall, deadline: u64) -> operations::Request {
                let caller = call.caller;
                operations::Request {
                    operation: call.operation,
                    input: call.input,
                    headers: call.headers,
                    caller: operations::Caller {
                        user_id: caller.user_id,
                        email: caller.email,
                        role: caller.role,
                        platform: caller.platform,
                        ip: caller.ip,
                        correlation_id: caller.correlation_id,
                        idempotency_key: caller.idempotency_key,
                    },
                    deadline,
                }
            }

            fn webhook_request(call: VerifyCall) -> webhooks::Request {
                let request = call.request;
                webhooks::Request {
                    name: request.name,
                    method: request.method,
                    path: request.path,
                    query: request.query,
                    headers: request.headers,
                    body: request.body,
                    ip: request.ip,
                    received_at: request.received_at_ms,
                }
            }

            fn accepted(accepted: webhooks::Accepted) -> Verdict {
                let job = |job: webhooks::EventJob| EventJob {
                    name: job.name,
                    data: job.data,
                };
                let reply = |reply: webhooks::Reply| EventReply {
                    status: reply.status,
                    content_type: reply.content_type,
                    body: reply.body,
                };
                Verdict::Accepted(Accepted {
                    event_id: accepted.event_id,
                    kind: accepted.kind,
                    jobs: accepted.jobs.into_iter().map(job).collect(),
                    reply: accepted.reply.map(reply),
                })
            }

            fn rejected(rejected: webhooks::Rejected) -> Verdict {
                Verdict::Rejected(Rejected {
                    status: rejected.status,
                    code: rejected.code,
                    message: rejected.message,
                })
            }

            fn answer(answer: operations::Answer) -> Answer {
                let body = match answer.body {
                    operations::Body::Empty => Body::Empty,
                    operations::Body::Json(text) => Body::Json(text),
                    operations::Body::Bytes((content_type, content)) => Body::Bytes {
                        content_type,
                        content,
                    },
                    operations::Body::Relay(url) => Body::Relay(url),
                };
                Answer {
                    status: answer.status,
                    headers: answer.headers,
                    body,
                }
            }
        }
    };
}

component!(v0_1);
component!(v0_2);

/// Inspection has found the interface by the same name, so this is the host's fault.
fn missing(interface: &str) -> wasmtime::Error {
    wasmtime::format_err!("the component does not export {interface}")
}

fn failure(failure: types::Failure) -> Failure {
    Failure {
        code: failure.code,
        message: failure.message,
        retry: match failure.retry {
            types::Retry::Backoff => Retry::Backoff,
            types::Retry::AfterMs(ms) => Retry::After(Duration::from_millis(ms)),
            types::Retry::Never => Retry::Never,
            types::Retry::DeferMs(ms) => Retry::Defer(Duration::from_millis(ms)),
        },
        details: failure.details,
    }
}
