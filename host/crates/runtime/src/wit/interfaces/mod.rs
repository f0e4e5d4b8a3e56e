//! The interfaces that no minor version has changed: adapted to `Capabilities` of the model, whose calls run on the host's threads.
//!
//! Each version's module has this file as a module of its own (by `#[path]`), compiled against that version's generated types: those are
//! different types for Rust, however equal they are. What a version changes stands in its own file.

mod exports;
mod sql;

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::capability::{self as model, LogLevel};
use patchbay_model::flow::{ChildFailure, Flow};
use patchbay_model::job as model_job;
use patchbay_model::retry::{Backoff, BackoffKind};

pub(crate) use exports::Component;

use super::bindings::patchbay::plugin;
use crate::log_budget::log_line;
use crate::state::State;
use plugin::{audit, flows, http, kv, log, progress, queue, secrets, settings, smtp, types};

pub(super) fn error(error: model::CapabilityError) -> types::CapabilityError {
    types::CapabilityError { code: error.code.into(), message: error.message, retryable: error.retryable }
}

impl types::Host for State {}

impl log::Host for State {
    async fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        log_line(&*self.capabilities, &self.log, level, message, &fields);
        Ok(())
    }
}

impl progress::Host for State {
    async fn report(&mut self, value: String) -> wasmtime::Result<()> {
        self.capabilities.report_progress(value);
        Ok(())
    }
}

impl settings::Host for State {
    async fn get(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(self.capabilities.setting(&name))
    }
    async fn all(&mut self) -> wasmtime::Result<String> {
        Ok(self.capabilities.settings())
    }
}

fn hash(kind: secrets::Hash) -> model::HashKind {
    match kind {
        secrets::Hash::Sha1 => model::HashKind::Sha1,
        secrets::Hash::Sha256 => model::HashKind::Sha256,
        secrets::Hash::Sha512 => model::HashKind::Sha512,
    }
}

impl secrets::Host for State {
    async fn is_configured(&mut self, name: String) -> wasmtime::Result<bool> {
        Ok(self.capabilities.secret_is_configured(&name))
    }
    async fn verify_hmac(
        &mut self,
        name: String,
        kind: secrets::Hash,
        data: Vec<u8>,
        mac: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, types::CapabilityError>> {
        Ok(self.capabilities.verify_hmac(&name, hash(kind), &data, &mac).map_err(error))
    }
    async fn sign_hmac(
        &mut self,
        name: String,
        kind: secrets::Hash,
        data: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::CapabilityError>> {
        Ok(self.capabilities.sign_hmac(&name, hash(kind), &data).map_err(error))
    }
    async fn matches(
        &mut self,
        name: String,
        candidate: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, types::CapabilityError>> {
        Ok(self.capabilities.secret_matches(&name, &candidate).map_err(error))
    }
}

impl http::Host for State {
    async fn send(&mut self, request: http::Request) -> wasmtime::Result<Result<http::Response, http::Error>> {
        let request = model::HttpRequest {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: request.body,
            timeout: request.timeout_ms.map(Duration::from_millis),
        };
        let capabilities = Arc::clone(&self.capabilities);
        let answer = self.outside(async move { capabilities.http(request).await }).await?;
        Ok(match answer {
            Ok(response) => {
                Ok(http::Response { status: response.status, headers: response.headers, body: response.body })
            }
            Err(error) => Err(match error {
                model::HttpError::Denied(text) => http::Error::Denied(text),
                model::HttpError::Timeout(phase) => http::Error::Timeout(match phase {
                    model::TimeoutPhase::Connecting => http::TimeoutPhase::Connecting,
                    model::TimeoutPhase::AwaitingResponse => http::TimeoutPhase::AwaitingResponse,
                    model::TimeoutPhase::ReadingBody => http::TimeoutPhase::ReadingBody,
                }),
                model::HttpError::Dns(text) => http::Error::Dns(text),
                model::HttpError::Connect(text) => http::Error::Connect(text),
                model::HttpError::Tls(text) => http::Error::Tls(text),
                model::HttpError::TooLarge(bytes) => http::Error::TooLarge(bytes),
                model::HttpError::BreakerOpen(ms) => http::Error::BreakerOpen(ms),
                model::HttpError::Invalid(text) => http::Error::Invalid(text),
                model::HttpError::Interrupted(sent) => http::Error::Interrupted(sent),
                model::HttpError::Other(text) => http::Error::Other(text),
            }),
        })
    }
}

pub(super) type Answer<T> = wasmtime::Result<Result<T, types::CapabilityError>>;

impl kv::Host for State {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        let capabilities = Arc::clone(&self.capabilities);
        Ok(self.outside(async move { capabilities.kv_get(&key).await }).await?.map_err(error))
    }
    async fn set(&mut self, key: String, value: Vec<u8>, ttl: Option<u64>) -> Answer<()> {
        let capabilities = Arc::clone(&self.capabilities);
        Ok(self.outside(async move { capabilities.kv_set(&key, value, ttl).await }).await?.map_err(error))
    }
    async fn set_if_absent(&mut self, key: String, value: Vec<u8>, ttl: Option<u64>) -> Answer<bool> {
        let capabilities = Arc::clone(&self.capabilities);
        Ok(self.outside(async move { capabilities.kv_set_if_absent(&key, value, ttl).await }).await?.map_err(error))
    }
    async fn delete(&mut self, key: String) -> Answer<bool> {
        let capabilities = Arc::clone(&self.capabilities);
        Ok(self.outside(async move { capabilities.kv_delete(&key).await }).await?.map_err(error))
    }
    async fn increment(&mut self, key: String, by: i64, ttl: Option<u64>) -> Answer<i64> {
        let capabilities = Arc::clone(&self.capabilities);
        Ok(self.outside(async move { capabilities.kv_increment(&key, by, ttl).await }).await?.map_err(error))
    }
}

fn new_job(job: types::NewJob) -> Result<model_job::NewJob, model::CapabilityError> {
    let invalid = |error: patchbay_model::InvalidId| model::CapabilityError::invalid(error.to_string());
    Ok(model_job::NewJob {
        queue: job.queue.parse().map_err(invalid)?,
        name: job.name,
        data: job.data,
        id: job.id.map(|id| id.parse()).transpose().map_err(invalid)?,
        delay: job.delay_ms.map(Duration::from_millis),
        priority: job.priority,
        attempts: job.attempts,
        backoff: job.backoff.map(backoff).transpose()?,
        deduplication: job.deduplication.map(|once| model_job::Deduplication {
            key: once.key,
            ttl: once.ttl_ms.map(Duration::from_millis),
            extend: once.extend,
            replace: once.replace,
            keep_last_if_active: once.keep_last_if_active,
        }),
        lifo: job.lifo,
        expires_at_ms: job.expires_at,
        keep_completed: job.keep_completed.map(keep),
        keep_failed: job.keep_failed.map(keep),
        trace: model_job::Trace::default(),
    })
}

fn backoff(backoff: types::Backoff) -> Result<Backoff, model::CapabilityError> {
    let kind = match backoff.kind.as_str() {
        "fixed" => BackoffKind::Fixed,
        "exponential" => BackoffKind::Exponential,
        other => return Err(model::CapabilityError::invalid(format!("no kind of backoff: {other}"))),
    };
    Ok(Backoff {
        kind,
        delay: Duration::from_millis(backoff.delay_ms),
        max: backoff.max_ms.map(Duration::from_millis),
        jitter: Some(f64::from(backoff.jitter)),
    })
}

fn keep(retention: types::Retention) -> model_job::Keep {
    model_job::Keep { age: retention.age_ms.map(Duration::from_millis), count: retention.count }
}

fn flow(nodes: Vec<flows::Node>) -> Result<Flow, model::CapabilityError> {
    let invalid = |text: String| model::CapabilityError::invalid(text);
    let node = |node: flows::Node| {
        let on_failure = match node.on_failure {
            None => ChildFailure::default(),
            Some(name) => ChildFailure::parse(&name).ok_or_else(|| invalid(format!("no on-failure: {name}")))?,
        };
        Ok((new_job(node.job)?, on_failure, node.parent.map(|place| place as usize)))
    };
    let list = nodes.into_iter().map(node).collect::<Result<Vec<_>, model::CapabilityError>>()?;
    Flow::from_list(list).map_err(|error| invalid(error.to_string()))
}

impl flows::Host for State {
    async fn enqueue(&mut self, nodes: Vec<flows::Node>) -> Answer<Vec<String>> {
        let flow = match flow(nodes) {
            Ok(flow) => flow,
            Err(invalid) => return Ok(Err(error(invalid))),
        };
        let capabilities = Arc::clone(&self.capabilities);
        Ok(self.outside(async move { capabilities.enqueue_flow(flow).await }).await?.map_err(error))
    }

    async fn children(&mut self) -> Answer<Vec<flows::Child>> {
        let capabilities = Arc::clone(&self.capabilities);
        let children = self.outside(async move { capabilities.children().await }).await?;
        let child = |child: patchbay_model::flow::ChildResult| flows::Child {
            id: child.id,
            queue: child.queue,
            outcome: child.outcome,
        };
        Ok(children.map(|all| all.into_iter().map(child).collect()).map_err(error))
    }
}

impl queue::Host for State {
    async fn enqueue(&mut self, jobs: Vec<types::NewJob>) -> Answer<Vec<String>> {
        let jobs = match jobs.into_iter().map(new_job).collect::<Result<Vec<_>, _>>() {
            Ok(jobs) => jobs,
            Err(invalid) => return Ok(Err(error(invalid))),
        };
        let capabilities = Arc::clone(&self.capabilities);
        Ok(self.outside(async move { capabilities.enqueue(jobs).await }).await?.map_err(error))
    }
}

fn refusals(refused: Vec<model::SmtpRefusal>) -> Vec<smtp::Refusal> {
    refused
        .into_iter()
        .map(|refusal| smtp::Refusal {
            recipient: refusal.recipient,
            reply_code: refusal.reply_code,
            enhanced_code: refusal.enhanced_code,
            text: refusal.text,
        })
        .collect()
}

impl smtp::Host for State {
    async fn send(
        &mut self,
        envelope: smtp::Envelope,
        mime: Vec<u8>,
    ) -> wasmtime::Result<Result<smtp::Receipt, smtp::SmtpFailure>> {
        let envelope = model::Envelope { sender: envelope.sender, recipients: envelope.recipients };
        let capabilities = Arc::clone(&self.capabilities);
        let answer = self.outside(async move { capabilities.send_mail(envelope, mime).await }).await?;
        Ok(answer.map(|receipt| smtp::Receipt { reply: receipt.reply, refused: refusals(receipt.refused) }).map_err(
            |failure| smtp::SmtpFailure {
                phase: failure.phase.into(),
                reply_code: failure.reply_code,
                enhanced_code: failure.enhanced_code,
                text: failure.text,
                ambiguous: failure.ambiguous,
                refused: refusals(failure.refused),
            },
        ))
    }
}

impl audit::Host for State {
    async fn append(&mut self, trail: String, entry_key: String, entry: String) -> Answer<()> {
        let capabilities = Arc::clone(&self.capabilities);
        let append = async move { capabilities.append_audit(&trail, entry_key, entry).await };
        Ok(self.outside(append).await?.map_err(error))
    }
}
