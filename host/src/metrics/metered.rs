//! Capabilities with a clock: passes everything on, and counts what reaches outside. What the guest's end cuts short is counted, too.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use patchbay_model::capability::{
    Capabilities, CapabilityError, Envelope, HashKind, HttpError, HttpRequest, HttpResponse, LogLevel, SmtpFailure,
    SmtpReceipt,
};
use patchbay_model::flow::{ChildResult, Flow};
use patchbay_model::job::NewJob;
use patchbay_model::sql::{SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction};

use super::revision::{HostCall, RevisionMeters, abandoned, status_of};

/// The capabilities of one call, measured.
pub struct Metered {
    inner: Arc<dyn Capabilities>,
    meters: Arc<RevisionMeters>,
}

impl Metered {
    /// Counts into `meters`.
    pub fn new(inner: Arc<dyn Capabilities>, meters: Arc<RevisionMeters>) -> Arc<Self> {
        Arc::new(Self { inner, meters })
    }

    fn clock(&self, kind: HostCall) -> Clock<'_> {
        Clock::start(&self.meters, kind)
    }
}

/// Counts when it is dropped: at the end of the host call, or with the guest.
struct Clock<'a> {
    meters: &'a RevisionMeters,
    kind: HostCall,
    started: Instant,
}

impl<'a> Clock<'a> {
    fn start(meters: &'a RevisionMeters, kind: HostCall) -> Self {
        Self { meters, kind, started: Instant::now() }
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        self.meters.count_host_call(self.kind, self.started.elapsed());
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
}

#[async_trait]
impl SqlTransaction for MeteredTransaction {
    async fn run(&self, statement: SqlStatement) -> Result<SqlAnswer, SqlError> {
        let _clock = Clock::start(&self.meters, HostCall::Sql);
        self.inner.run(statement).await
    }

    async fn enqueue(&self, jobs: SqlJobs) -> Result<(), SqlError> {
        let _clock = Clock::start(&self.meters, HostCall::Sql);
        self.inner.enqueue(jobs).await
    }

    async fn commit(&self) -> Result<(), SqlError> {
        let _clock = Clock::start(&self.meters, HostCall::Sql);
        self.inner.commit().await
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

    async fn http(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let _clock = self.clock(HostCall::Http);
        let place = self.meters.place_of(&request.url);
        let mut counted = Request { meters: &self.meters, place, status: abandoned() };
        let answer = self.inner.http(request).await;
        counted.status = status_of(answer.as_ref().map(|response| response.status));
        answer
    }

    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, CapabilityError> {
        let _clock = self.clock(HostCall::Kv);
        self.inner.kv_get(key).await
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<(), CapabilityError> {
        let _clock = self.clock(HostCall::Kv);
        self.inner.kv_set(key, value, ttl_ms).await
    }

    async fn kv_set_if_absent(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<bool, CapabilityError> {
        let _clock = self.clock(HostCall::Kv);
        self.inner.kv_set_if_absent(key, value, ttl_ms).await
    }

    async fn kv_delete(&self, key: &str) -> Result<bool, CapabilityError> {
        let _clock = self.clock(HostCall::Kv);
        self.inner.kv_delete(key).await
    }

    async fn kv_increment(&self, key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, CapabilityError> {
        let _clock = self.clock(HostCall::Kv);
        self.inner.kv_increment(key, by, ttl_ms).await
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<String>, CapabilityError> {
        let _clock = self.clock(HostCall::Enqueue);
        self.inner.enqueue(jobs).await
    }

    async fn enqueue_flow(&self, flow: Flow) -> Result<Vec<String>, CapabilityError> {
        let _clock = self.clock(HostCall::Enqueue);
        self.inner.enqueue_flow(flow).await
    }

    async fn children(&self) -> Result<Vec<ChildResult>, CapabilityError> {
        let _clock = self.clock(HostCall::Children);
        self.inner.children().await
    }

    async fn sql_run(&self, statements: Vec<SqlStatement>, jobs: Vec<NewJob>) -> Result<Vec<SqlAnswer>, SqlError> {
        let _clock = self.clock(HostCall::Sql);
        self.inner.sql_run(statements, jobs).await
    }

    async fn sql_begin(&self) -> Result<Arc<dyn SqlTransaction>, SqlError> {
        let _clock = self.clock(HostCall::Sql);
        let inner = self.inner.sql_begin().await?;
        Ok(Arc::new(MeteredTransaction { inner, meters: Arc::clone(&self.meters) }))
    }

    async fn sql_enqueue(&self, transaction: Arc<dyn SqlTransaction>, jobs: Vec<NewJob>) -> Result<(), SqlError> {
        // Counted by the transaction.
        self.inner.sql_enqueue(transaction, jobs).await
    }

    async fn append_audit(&self, trail: &str, entry_key: String, entry: String) -> Result<(), CapabilityError> {
        let _clock = self.clock(HostCall::Audit);
        self.inner.append_audit(trail, entry_key, entry).await
    }

    async fn send_mail(&self, envelope: Envelope, mime: Vec<u8>) -> Result<SmtpReceipt, SmtpFailure> {
        let _clock = self.clock(HostCall::Mail);
        let mut counted = Mail { meters: &self.meters, phase: "abandoned" };
        let answer = self.inner.send_mail(envelope, mime).await;
        counted.phase = match &answer {
            Ok(_) => "sent",
            // Whatever its phase: somebody should look whether it arrived.
            Err(failure) if failure.ambiguous => "ambiguous",
            Err(failure) => failure.phase,
        };
        answer
    }
}
