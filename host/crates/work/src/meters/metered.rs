//! Capabilities with a clock: passes everything on, counts what reaches outside, and opens a span for it where somebody traces. What the
//! guest's end cuts short is counted, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use patchbay_model::capability::{
    Capabilities, CapabilityError, Envelope, HashKind, HttpError, HttpRequest, HttpResponse, LogLevel, SmtpFailure,
    SmtpReceipt,
};
use patchbay_model::flow::{ChildResult, Flow};
use patchbay_model::job::{NewJob, Trace};
use patchbay_model::sql::{SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction};
use patchbay_telemetry::metrics::known_method;
use patchbay_telemetry::traces::{Kind, Step, Traces};

use super::revision::{HostCall, RevisionMeters, STATUSES, abandoned, status_of};

/// Spans of one call's outside calls; a guest that makes thousands fills nobody's storage with them.
const MAX_STEPS: u32 = 128;

/// The capabilities of one call, measured.
pub struct Metered {
    inner: Arc<dyn Capabilities>,
    meters: Arc<RevisionMeters>,
    steps: Arc<Steps>,
}

/// Where the outside calls of one call belong.
struct Steps {
    traces: Traces,
    /// Of the guest's call.
    trace: Trace,
    opened: AtomicU32,
}

impl Metered {
    /// Counts into `meters`; `trace` is that of the guest's call.
    pub fn new(inner: Arc<dyn Capabilities>, meters: Arc<RevisionMeters>, traces: Traces, trace: Trace) -> Arc<Self> {
        let steps = Arc::new(Steps { traces, trace, opened: AtomicU32::new(0) });
        Arc::new(Self { inner, meters, steps })
    }

    fn clock(&self, kind: HostCall) -> Clock<'_> {
        Clock::start(&self.meters, &self.steps, kind)
    }

    async fn timed<T, E>(&self, kind: HostCall, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        timed(self.clock(kind), call).await
    }
}

async fn timed<T, E>(mut clock: Clock<'_>, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let answer = call.await;
    clock.ended(if answer.is_ok() { None } else { Some("error") });
    answer
}

impl Steps {
    fn open(&self, kind: HostCall) -> Step {
        if self.opened.fetch_add(1, Ordering::Relaxed) >= MAX_STEPS {
            return Traces::default().step(Kind::Outside, String::new, &self.trace);
        }
        let (what, name) = match kind {
            HostCall::Enqueue => (Kind::Enqueue, "enqueue"),
            kind => (Kind::Outside, kind.as_str()),
        };
        self.traces.step(what, || name.to_owned(), &self.trace)
    }
}

/// Counts when it is dropped: at the end of the host call, or with the guest.
struct Clock<'a> {
    meters: &'a RevisionMeters,
    kind: HostCall,
    started: Instant,
    step: Step,
    /// Until then, the guest's end has cut it short.
    has_ended: bool,
}

impl<'a> Clock<'a> {
    fn start(meters: &'a RevisionMeters, steps: &Steps, kind: HostCall) -> Self {
        Self { meters, kind, started: Instant::now(), step: steps.open(kind), has_ended: false }
    }

    /// Well, or by something of a closed list.
    fn ended(&mut self, failed: Option<&'static str>) {
        self.has_ended = true;
        if let Some(why) = failed {
            self.step.failed(why);
        }
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        self.meters.count_host_call(self.kind, self.started.elapsed());
        if !self.has_ended {
            self.step.failed("abandoned");
        }
    }
}

struct Request<'a> {
    meters: &'a RevisionMeters,
    place: usize,
    status: usize,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.meters.count_request(self.place, self.status);
    }
}

struct Mail<'a> {
    meters: &'a RevisionMeters,
    phase: &'static str,
}

impl Drop for Mail<'_> {
    fn drop(&mut self) {
        self.meters.count_mail(self.phase);
    }
}

/// A transaction of a guest: each of its statements, its jobs and its commit are calls of their own.
struct MeteredTransaction {
    inner: Arc<dyn SqlTransaction>,
    meters: Arc<RevisionMeters>,
    steps: Arc<Steps>,
}

impl MeteredTransaction {
    fn clock(&self) -> Clock<'_> {
        Clock::start(&self.meters, &self.steps, HostCall::Sql)
    }
}

#[async_trait]
impl SqlTransaction for MeteredTransaction {
    async fn run(&self, statement: SqlStatement) -> Result<SqlAnswer, SqlError> {
        timed(self.clock(), self.inner.run(statement)).await
    }

    async fn enqueue(&self, jobs: SqlJobs) -> Result<(), SqlError> {
        timed(self.clock(), self.inner.enqueue(jobs)).await
    }

    async fn commit(&self) -> Result<(), SqlError> {
        timed(self.clock(), self.inner.commit()).await
    }

    fn is_open(&self) -> bool {
        self.inner.is_open()
    }
}

#[async_trait]
impl Capabilities for Metered {
    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        self.inner.log(level, message, fields);
    }

    fn report_progress(&self, value: String) {
        self.inner.report_progress(value);
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.inner.setting(name)
    }

    fn settings(&self) -> String {
        self.inner.settings()
    }

    fn secret_is_configured(&self, name: &str) -> bool {
        self.inner.secret_is_configured(name)
    }

    fn verify_hmac(&self, name: &str, hash: HashKind, data: &[u8], mac: &[u8]) -> Result<bool, CapabilityError> {
        self.inner.verify_hmac(name, hash, data, mac)
    }

    fn sign_hmac(&self, name: &str, hash: HashKind, data: &[u8]) -> Result<Vec<u8>, CapabilityError> {
        self.inner.sign_hmac(name, hash, data)
    }

    fn secret_matches(&self, name: &str, candidate: &[u8]) -> Result<bool, CapabilityError> {
        self.inner.secret_matches(name, candidate)
    }

    async fn http(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut clock = self.clock(HostCall::Http);
        let place = self.meters.place_of(&request.url);
        let host = self.meters.host(place);
        clock.step.set("http.request.method", request.method.parse().map_or("other", |method| known_method(&method)));
        clock.step.set("server.address", host.to_owned());
        if let Some(here) = clock.step.place().filter(|_| self.steps.traces.propagates_to(host)) {
            request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("traceparent"));
            request.headers.push(("traceparent".into(), here.to_string().into()));
        }
        let mut counted = Request { meters: &self.meters, place, status: abandoned() };
        let answer = self.inner.http(request).await;
        counted.status = status_of(answer.as_ref().map(|response| response.status));
        if let Ok(response) = &answer {
            clock.step.set("http.response.status_code", i64::from(response.status));
        }
        let failed = !matches!(&answer, Ok(response) if response.status < 400);
        clock.ended(failed.then_some(STATUSES[counted.status]));
        answer
    }

    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, CapabilityError> {
        self.timed(HostCall::Kv, self.inner.kv_get(key)).await
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<(), CapabilityError> {
        self.timed(HostCall::Kv, self.inner.kv_set(key, value, ttl_ms)).await
    }

    async fn kv_set_if_absent(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<bool, CapabilityError> {
        self.timed(HostCall::Kv, self.inner.kv_set_if_absent(key, value, ttl_ms)).await
    }

    async fn kv_delete(&self, key: &str) -> Result<bool, CapabilityError> {
        self.timed(HostCall::Kv, self.inner.kv_delete(key)).await
    }

    async fn kv_increment(&self, key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, CapabilityError> {
        self.timed(HostCall::Kv, self.inner.kv_increment(key, by, ttl_ms)).await
    }

    async fn enqueue(&self, mut jobs: Vec<NewJob>) -> Result<Vec<String>, CapabilityError> {
        let clock = self.clock(HostCall::Enqueue);
        jobs.iter_mut().for_each(|job| job.trace.traceparent = clock.step.place());
        timed(clock, self.inner.enqueue(jobs)).await
    }

    async fn enqueue_flow(&self, mut flow: Flow) -> Result<Vec<String>, CapabilityError> {
        let clock = self.clock(HostCall::Enqueue);
        flow.jobs_mut().into_iter().for_each(|job| job.trace.traceparent = clock.step.place());
        timed(clock, self.inner.enqueue_flow(flow)).await
    }

    async fn children(&self) -> Result<Vec<ChildResult>, CapabilityError> {
        self.timed(HostCall::Children, self.inner.children()).await
    }

    async fn sql_run(&self, statements: Vec<SqlStatement>, jobs: Vec<NewJob>) -> Result<Vec<SqlAnswer>, SqlError> {
        self.timed(HostCall::Sql, self.inner.sql_run(statements, jobs)).await
    }

    async fn sql_begin(&self) -> Result<Arc<dyn SqlTransaction>, SqlError> {
        let inner = self.timed(HostCall::Sql, self.inner.sql_begin()).await?;
        let (meters, steps) = (Arc::clone(&self.meters), Arc::clone(&self.steps));
        Ok(Arc::new(MeteredTransaction { inner, meters, steps }))
    }

    async fn sql_enqueue(&self, transaction: Arc<dyn SqlTransaction>, jobs: Vec<NewJob>) -> Result<(), SqlError> {
        // Counted by the transaction.
        self.inner.sql_enqueue(transaction, jobs).await
    }

    async fn append_audit(&self, trail: &str, entry_key: String, entry: String) -> Result<(), CapabilityError> {
        self.timed(HostCall::Audit, self.inner.append_audit(trail, entry_key, entry)).await
    }

    async fn send_mail(&self, envelope: Envelope, mime: Vec<u8>) -> Result<SmtpReceipt, SmtpFailure> {
        let mut clock = self.clock(HostCall::Mail);
        let mut counted = Mail { meters: &self.meters, phase: "abandoned" };
        let answer = self.inner.send_mail(envelope, mime).await;
        counted.phase = match &answer {
            Ok(_) => "sent",
            // Whatever its phase: somebody should look whether it arrived.
            Err(failure) if failure.ambiguous => "ambiguous",
            Err(failure) => failure.phase,
        };
        clock.ended(answer.is_err().then_some(counted.phase));
        answer
    }
}
