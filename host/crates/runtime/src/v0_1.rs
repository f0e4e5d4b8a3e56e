//! WIT 0.1: the generated bindings, adapted once to `Capabilities` of the model.

mod sql;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use patchbay_model::capability::{self as model, Capabilities, LogLevel};
use patchbay_model::flow::{ChildFailure, Flow};
use patchbay_model::job as model_job;
use patchbay_model::outcome::{Failure, Retry};
use patchbay_model::retry::{Backoff, BackoffKind};
use tokio::io::AsyncWrite;
use wasmtime::Store;
use wasmtime::component::{HasSelf, InstancePre, Linker};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::call::{Entry, JobCall, LogBudget, State, log_line};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../../wit/v0.1",
        world: "job-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod tested {
    wasmtime::component::bindgen!({
        path: "../../../wit/v0.1",
        world: "tested-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "patchbay:plugin/types": super::bindings::patchbay::plugin::types,
            "patchbay:plugin/log": super::bindings::patchbay::plugin::log,
            "patchbay:plugin/progress": super::bindings::patchbay::plugin::progress,
            "patchbay:plugin/settings": super::bindings::patchbay::plugin::settings,
            "patchbay:plugin/secrets": super::bindings::patchbay::plugin::secrets,
            "patchbay:plugin/http": super::bindings::patchbay::plugin::http,
            "patchbay:plugin/sql": super::bindings::patchbay::plugin::sql,
            "patchbay:plugin/kv": super::bindings::patchbay::plugin::kv,
            "patchbay:plugin/queue": super::bindings::patchbay::plugin::queue,
            "patchbay:plugin/flows": super::bindings::patchbay::plugin::flows,
            "patchbay:plugin/smtp": super::bindings::patchbay::plugin::smtp,
            "patchbay:plugin/audit": super::bindings::patchbay::plugin::audit,
        },
    });
}

pub(crate) use sql::Transactions;

use bindings::exports::patchbay::plugin::jobs::Job;
use bindings::patchbay::plugin::{audit, flows, http, kv, log, progress, queue, secrets, settings, smtp, types};

/// Everything that a component may import.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    bindings::JobPlugin::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
}

/// What a component exports of this version, ready to be instantiated.
pub(crate) struct Exports {
    jobs: bindings::JobPluginPre<State>,
    lifecycle: Option<tested::TestedPluginPre<State>>,
}

impl Exports {
    pub(crate) fn new(linked: InstancePre<State>, is_tested: bool) -> wasmtime::Result<Self> {
        let lifecycle = is_tested.then(|| tested::TestedPluginPre::new(linked.clone())).transpose()?;
        Ok(Self { jobs: bindings::JobPluginPre::new(linked)?, lifecycle })
    }

    pub(crate) fn is_tested(&self) -> bool {
        self.lifecycle.is_some()
    }

    /// Instantiates and calls. A self-test gives `null`.
    pub(crate) async fn run(
        &self,
        store: &mut Store<State>,
        entry: Entry,
        deadline: u64,
    ) -> wasmtime::Result<Result<String, Failure>> {
        match entry {
            Entry::Job(job) => self.run_job(store, *job, deadline).await,
            Entry::SelfTest => {
                let Some(lifecycle) = &self.lifecycle else { return Ok(Ok("null".into())) };
                let instance = lifecycle.instantiate_async(&mut *store).await?;
                let result = instance.patchbay_plugin_lifecycle().call_self_test(store).await?;
                let failure =
                    |message| Failure { code: "self-test".into(), message, retry: Retry::Never, details: None };
                Ok(result.map(|()| "null".into()).map_err(failure))
            }
        }
    }

    async fn run_job(
        &self,
        store: &mut Store<State>,
        job: JobCall,
        deadline: u64,
    ) -> wasmtime::Result<Result<String, Failure>> {
        let instance = self.jobs.instantiate_async(&mut *store).await?;
        let job = Job {
            id: job.id,
            queue: job.queue,
            name: job.name,
            data: job.data,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            enqueued_at: job.enqueued_at_ms,
            deadline,
            idempotency_key: job.idempotency_key,
            correlation_id: job.correlation_id,
            platform: job.platform,
            schedule_id: job.schedule_id,
        };
        let result = instance.patchbay_plugin_jobs().call_run(store, &job).await?;
        Ok(result.map_err(|failure| Failure {
            code: failure.code,
            message: failure.message,
            retry: match failure.retry {
                types::Retry::Backoff => Retry::Backoff,
                types::Retry::AfterMs(ms) => Retry::After(Duration::from_millis(ms)),
                types::Retry::Never => Retry::Never,
                types::Retry::DeferMs(ms) => Retry::Defer(Duration::from_millis(ms)),
            },
            details: failure.details,
        }))
    }
}

fn error(error: model::CapabilityError) -> types::CapabilityError {
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

type Answer<T> = wasmtime::Result<Result<T, types::CapabilityError>>;

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

/// Stdout or stderr of a guest, line by line into its log.
pub(crate) struct Output {
    capabilities: Arc<dyn Capabilities>,
    budget: Arc<LogBudget>,
    level: LogLevel,
    partial: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    pub(crate) fn new(capabilities: Arc<dyn Capabilities>, budget: Arc<LogBudget>, level: LogLevel) -> Self {
        Self { capabilities, budget, level, partial: Arc::default() }
    }

    fn line(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let line = String::from_utf8_lossy(bytes).into_owned();
            log_line(&*self.capabilities, &self.budget, self.level, line, &[]);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Self {
            capabilities: Arc::clone(&self.capabilities),
            budget: Arc::clone(&self.budget),
            level: self.level,
            partial: Arc::clone(&self.partial),
        })
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            partial.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            // A guest that never ends its line must not fill our memory.
            if piece.ends_with(b"\n") || partial.len() > 8 * 1024 {
                self.line(&partial);
                partial.clear();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = std::mem::take(&mut *partial);
        drop(partial);
        self.line(&rest);
    }
}
