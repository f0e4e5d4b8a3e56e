//! One call of one plugin: its manifest's rights, its settings, its limits.

mod audit;
mod outside;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use patchbay_model::attempt::OutsideCall;
use patchbay_model::audit::AuditTrails;
use patchbay_model::breaker::BreakerSpec;
use patchbay_model::capability::{
    Capabilities, CapabilityError, Envelope, HashKind, HttpError, HttpRequest, HttpResponse, LogLevel,
    MAX_LOG_LINE_BYTES, SmtpFailure, SmtpReceipt,
};
use patchbay_model::flow::{ChildResult, Flow};
use patchbay_model::grant::{Ask, Granted};
use patchbay_model::job::{NewJob, Trace};
use patchbay_model::manifest::Manifest;
use patchbay_model::redaction::Mask;
use patchbay_model::sql::{PluginDatabase, SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction};
use patchbay_model::{QueueName, Redaction, RevisionDigest};
use patchbay_queue::{JobHandle, Kv, QueueError, Queues};
use serde_json::{Map, Value};
use tracing::{Span, debug, error, info, trace, warn};

use self::outside::OutsideCalls;
use crate::breaker::Admission;
use crate::job_output::JobOutput;
use crate::{Breaker, Breakers, Egress, GrantUses, MailTransport, Refused, SecretSource, SecretValue};

/// Guesses at a secret per call: enough for a rotation, too few to search.
const MAX_SECRET_TRIES: u32 = 8;
/// Jobs per `enqueue`: they are added in one atomic script, during which Redis does nothing else.
const MAX_JOBS: usize = 1_000;
/// Bytes per `enqueue` over all jobs' data.
const MAX_JOB_BYTES: usize = 8 << 20;
/// Largest value of a key.
const MAX_KV_VALUE_BYTES: usize = 1 << 20;
/// Longest key.
const MAX_KV_KEY_BYTES: usize = 512;
/// For values that a manifest gives no time to live.
const DEFAULT_KV_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longer times are shortened to it: what must stay longer belongs into Postgres, and Redis takes no time beyond its own range.
const MAX_KV_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// What all calls share.
pub struct Services {
    /// The host's threads: guests' threads do no I/O.
    pub host: tokio::runtime::Handle,
    /// Other queues.
    pub queues: Queues,
    /// Key-value.
    pub kv: Kv,
    /// Secrets.
    pub secrets: Arc<dyn SecretSource>,
    /// Postgres, under logins of the plugins.
    pub sql: Arc<dyn PluginDatabase>,
    /// The host's audit trails.
    pub audit: Arc<dyn AuditTrails>,
    /// Mail.
    pub mail: MailTransport,
    /// Outbound HTTP.
    pub egress: Egress,
    /// Of all plugins.
    pub breakers: Arc<Breakers>,
    /// Counted here.
    pub uses: Arc<GrantUses>,
}

/// Who calls, and within what.
pub struct Call {
    /// The revision's manifest.
    pub manifest: Arc<Manifest>,
    /// The revision.
    pub revision: RevisionDigest,
    /// One snapshot for the whole call.
    pub settings: Arc<Map<String, Value>>,
    /// Likewise.
    pub granted: Granted,
    /// To write the log and progress of the job, when the call runs one.
    pub job: Option<JobHandle>,
    /// What the job is about and what of that is hidden: the host's log has none of it.
    pub hidden: Option<(Redaction, String)>,
    /// Ends with the job's request and its guest.
    pub trace: Trace,
    /// When the call ends at the latest.
    pub deadline: Instant,
    /// Log lines and outside calls belong to it.
    pub span: Span,
}

/// The capabilities of one call.
pub struct GuestCall {
    services: Arc<Services>,
    call: Call,
    job: Option<JobHandle>,
    output: Option<JobOutput>,
    /// Made with the first line that is logged.
    mask: OnceLock<Mask>,
    secret_tries: AtomicU32,
    /// The call's one transaction, once it has been begun.
    transaction: Mutex<Option<Weak<dyn SqlTransaction>>>,
    /// What a breaker said to the last outside call.
    last: Mutex<Option<Asked>>,
    outside: OutsideCalls,
}

#[derive(Clone)]
enum Asked {
    Refused(Refused),
    /// It was let through to see whether the host is back.
    Probe(Arc<Breaker>),
}

impl Services {
    /// From any thread.
    pub fn for_call(self: &Arc<Self>, mut call: Call) -> Arc<GuestCall> {
        let job = call.job.take();
        let output = job.clone().map(|job| JobOutput::new(job, self.host.clone()));
        Arc::new(GuestCall {
            services: Arc::clone(self),
            call,
            job,
            output,
            mask: OnceLock::new(),
            secret_tries: AtomicU32::new(0),
            last: Mutex::default(),
            transaction: Mutex::default(),
            outside: OutsideCalls::new(),
        })
    }
}

impl GuestCall {
    /// Writes out what the guest logged. To be called when the guest has ended and before its job settles.
    pub async fn finish(&self) {
        if let Some(output) = &self.output {
            output.finish().await;
        }
    }

    fn mask(&self) -> &Mask {
        self.mask.get_or_init(|| {
            self.call.hidden.as_ref().map(|(redaction, data)| redaction.data(data).1).unwrap_or_default()
        })
    }

    /// Its outside calls so far, each given once.
    pub fn outside_calls(&self) -> Vec<OutsideCall> {
        self.outside.take()
    }

    /// The breaker that refused the last outside call of the guest, or whose probe that call was, in vain: if the guest failed, then by
    /// that.
    pub fn refused(&self) -> Option<Refused> {
        match self.asked()? {
            Asked::Refused(refused) => Some(refused),
            Asked::Probe(breaker) => breaker.refusal(),
        }
    }

    /// Asks the breaker of an outside host; gives how long it refuses.
    fn admit(&self, host: &str, spec: Option<BreakerSpec>) -> Result<Admission, Duration> {
        let breaker = self.services.breakers.of(&self.call.manifest.name, host);
        let admitted = breaker.admit(spec.unwrap_or_default().limits(), self.call.deadline);
        self.set_asked(match &admitted {
            Err(refused) => Some(Asked::Refused(refused.clone())),
            Ok(admission) => admission.is_probe().then_some(Asked::Probe(breaker)),
        });
        admitted.map_err(|refused| refused.retry_in)
    }

    fn asked(&self) -> Option<Asked> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_asked(&self, asked: Option<Asked>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    /// Counts the use, when it is granted.
    fn check(&self, ask: Ask) -> Result<(), String> {
        if !self.call.granted.contains(&ask) {
            return Err(format!("an operator has not granted {ask:?}", ask = ask.as_str()));
        }
        self.services.uses.count(&self.call.manifest.name, ask);
        Ok(())
    }

    /// While a transaction is open, nothing that it could not undo, and nothing that it would have to wait for.
    fn refuse_in_transaction(&self) -> Result<(), String> {
        let transaction = self.transaction.lock().unwrap_or_else(PoisonError::into_inner);
        let open = transaction.as_ref().and_then(Weak::upgrade).is_some_and(|transaction| transaction.is_open());
        if open { Err("not while a transaction is open".into()) } else { Ok(()) }
    }

    /// Something must be granted; what exactly, Postgres knows. Counts the grants that a statement names.
    fn check_sql(&self, statements: &[SqlStatement]) -> Result<(), SqlError> {
        let Some(spec) = &self.call.manifest.sql else {
            return Err(SqlError::denied("the manifest does not ask for sql"));
        };
        let granted = spec.accesses().filter(|(table, access)| self.call.granted.contains(&Ask::sql(table, access)));
        let granted: Vec<_> = granted.collect();
        if granted.is_empty() {
            return Err(SqlError::denied("an operator has not granted any table"));
        }
        for statement in statements {
            let text = statement.text.to_ascii_lowercase();
            for (table, access) in &granted {
                if text.contains(&table.table().to_ascii_lowercase()) && text.contains(access.privilege.as_str()) {
                    self.services.uses.count(&self.call.manifest.name, Ask::sql(table, access));
                }
            }
        }
        Ok(())
    }

    /// Jobs for a transaction: all that would be refused later is refused now.
    fn sql_jobs(&self, mut jobs: Vec<NewJob>) -> Result<SqlJobs, SqlError> {
        let refused = |error: CapabilityError| SqlError {
            retryable: error.retryable,
            ..SqlError::new(error.code, error.message)
        };
        if jobs.len() > MAX_JOBS {
            return Err(SqlError::new("too-large", format!("at most {MAX_JOBS} jobs at once")));
        }
        self.prepare(jobs.iter_mut()).map_err(refused)?;
        self.services.queues.check(&jobs).map_err(queue_error).map_err(refused)?;
        let mut grants: Vec<String> = jobs
            .iter()
            .filter(|job| self.call.manifest.queue(&job.queue).is_none())
            .map(|job| Ask::enqueue(&job.queue).to_string())
            .collect();
        grants.sort();
        grants.dedup();
        Ok(SqlJobs { jobs, grants })
    }

    /// Every current version, the newest first; at least one.
    fn secret(&self, name: &str) -> Result<Vec<SecretValue>, CapabilityError> {
        let manifest = &self.call.manifest;
        if !manifest.secrets.iter().any(|secret| secret.name == name) {
            return Err(CapabilityError::denied(format!("the manifest does not ask for the secret {name}")));
        }
        self.check(Ask::secret(name)).map_err(CapabilityError::denied)?;
        let versions = self.services.secrets.current(&manifest.name, name);
        if versions.is_empty() {
            return Err(CapabilityError {
                code: "not-configured",
                message: format!("the secret {name} has no value"),
                retryable: false,
            });
        }
        Ok(versions)
    }

    /// The plugin's own space, or a shared one that the manifest names.
    fn kv_key(&self, key: &str) -> Result<String, CapabilityError> {
        self.refuse_in_transaction().map_err(CapabilityError::denied)?;
        let manifest = &self.call.manifest;
        let Some(spec) = &manifest.kv else {
            return Err(CapabilityError::denied("the manifest does not ask for kv"));
        };
        if key.is_empty() || key.len() > MAX_KV_KEY_BYTES {
            return Err(CapabilityError::invalid(format!("a key has 1 to {MAX_KV_KEY_BYTES} bytes")));
        }
        if let Some(prefix) = spec.prefixes.iter().find(|prefix| key.starts_with(prefix.as_str())) {
            self.check(Ask::shared_kv(prefix)).map_err(CapabilityError::denied)?;
            return Ok(format!("shared:{key}"));
        }
        self.check(Ask::kv()).map_err(CapabilityError::denied)?;
        Ok(format!("plugin:{}:{key}", manifest.name))
    }

    fn ttl(&self, ttl_ms: Option<u64>) -> Duration {
        let default = self.call.manifest.kv.as_ref().and_then(|spec| spec.default_ttl_s).map(Duration::from_secs);
        ttl_ms.map(Duration::from_millis).or(default).unwrap_or(DEFAULT_KV_TTL).min(MAX_KV_TTL)
    }

    /// Checks a guest's jobs and ties them to what caused them.
    fn prepare<'a>(&self, jobs: impl Iterator<Item = &'a mut NewJob>) -> Result<(), CapabilityError> {
        let mut bytes = 0;
        for job in jobs {
            bytes += job.data.len();
            if bytes > MAX_JOB_BYTES {
                return Err(CapabilityError::too_large(format!("at most {MAX_JOB_BYTES} bytes of job data at once")));
            }
            self.may_add_to(&job.queue).map_err(CapabilityError::denied)?;
            // Whoever measures this call may have said where in the trace it is.
            let traceparent = job.trace.traceparent.or(self.call.trace.traceparent);
            job.trace = Trace { traceparent, ..self.call.trace.clone() };
        }
        Ok(())
    }

    fn may_add_to(&self, queue: &QueueName) -> Result<(), String> {
        let manifest = &self.call.manifest;
        if manifest.queue(queue).is_some() {
            return Ok(());
        }
        if !manifest.enqueue.as_ref().is_some_and(|spec| spec.queues.contains(queue)) {
            return Err(format!("the manifest does not ask to add to the queue {queue}"));
        }
        self.check(Ask::enqueue(queue))
    }
}

fn queue_error(error: QueueError) -> CapabilityError {
    match error {
        QueueError::Invalid(message) => CapabilityError::invalid(message),
        QueueError::MemoryFull(message) => CapabilityError::unavailable(message),
        other => {
            warn!(error = %other, cause = ?std::error::Error::source(&other), "capability failed");
            match other {
                QueueError::CannotServe { trouble, .. } => CapabilityError::unavailable(trouble.to_string()),
                QueueError::Damaged { .. } => CapabilityError::unavailable("what Redis holds there is damaged"),
                _ => CapabilityError::unavailable("Redis does not answer"),
            }
        }
    }
}

fn value_fits(value: &[u8]) -> Result<(), CapabilityError> {
    if value.len() > MAX_KV_VALUE_BYTES {
        return Err(CapabilityError::too_large(format!("a value has at most {MAX_KV_VALUE_BYTES} bytes")));
    }
    Ok(())
}

#[async_trait]
impl Capabilities for GuestCall {
    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        let plugin = self.call.manifest.name.as_str();
        let mut message = message.to_owned();
        if message.len() > MAX_LOG_LINE_BYTES {
            self.mask().cut(&mut message, MAX_LOG_LINE_BYTES);
        }
        let fields = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect::<String>();
        let (shown, shown_fields) = (self.mask().text(&message), self.mask().text(fields.trim_start()));
        self.call.span.in_scope(|| match level {
            LogLevel::Trace => trace!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
            LogLevel::Debug => debug!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
            LogLevel::Info => info!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
            LogLevel::Warn => warn!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
            LogLevel::Error => error!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
        });
        let label = match level {
            LogLevel::Trace | LogLevel::Debug => return,
            LogLevel::Info => "INFO",
            LogLevel::Warn => "WARN",
            LogLevel::Error => "ERROR",
        };
        if let Some(output) = &self.output {
            output.line(format!("{label} {message}{fields}"));
        }
    }

    fn report_progress(&self, value: String) {
        // BullMQ takes a number or an object; anything else would break its readers.
        let usable = matches!(serde_json::from_str::<Value>(&value), Ok(Value::Number(_) | Value::Object(_)));
        if let (Some(output), true) = (&self.output, usable) {
            output.progress(value);
        }
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.call.settings.get(name).map(Value::to_string)
    }

    fn settings(&self) -> String {
        serde_json::to_string(&*self.call.settings).unwrap_or_else(|_| "{}".into())
    }

    fn secret_is_configured(&self, name: &str) -> bool {
        self.secret(name).is_ok()
    }

    fn verify_hmac(&self, name: &str, hash: HashKind, data: &[u8], mac: &[u8]) -> Result<bool, CapabilityError> {
        let versions = self.secret(name)?;
        // Each is tried, so that the time does not tell which one fits.
        Ok(versions.iter().fold(false, |fits, version| fits | version.verify(hash, data, mac)))
    }

    fn sign_hmac(&self, name: &str, hash: HashKind, data: &[u8]) -> Result<Vec<u8>, CapabilityError> {
        Ok(self.secret(name)?[0].sign(hash, data))
    }

    fn secret_matches(&self, name: &str, candidate: &[u8]) -> Result<bool, CapabilityError> {
        let versions = self.secret(name)?;
        if self.secret_tries.fetch_add(1, Ordering::Relaxed) >= MAX_SECRET_TRIES {
            return Err(CapabilityError::denied(format!("at most {MAX_SECRET_TRIES} tries per call")));
        }
        Ok(versions.iter().fold(false, |fits, version| fits | version.matches(candidate)))
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let place = self.outside.begin("http", Some(&request.method), &outside::host_of(&request.url));
        let answer = self.send_http(request).await;
        self.outside.end(&place, outside::http_result(&answer));
        answer
    }

    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, CapabilityError> {
        self.services.kv.get(&self.kv_key(key)?).await.map_err(queue_error)
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<(), CapabilityError> {
        value_fits(&value)?;
        self.services.kv.set(&self.kv_key(key)?, &value, self.ttl(ttl_ms)).await.map_err(queue_error)
    }

    async fn kv_set_if_absent(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<bool, CapabilityError> {
        value_fits(&value)?;
        self.services.kv.set_if_absent(&self.kv_key(key)?, &value, self.ttl(ttl_ms)).await.map_err(queue_error)
    }

    async fn kv_delete(&self, key: &str) -> Result<bool, CapabilityError> {
        self.services.kv.delete(&self.kv_key(key)?).await.map_err(queue_error)
    }

    async fn kv_increment(&self, key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, CapabilityError> {
        self.services.kv.increment(&self.kv_key(key)?, by, self.ttl(ttl_ms)).await.map_err(queue_error)
    }

    async fn enqueue(&self, mut jobs: Vec<NewJob>) -> Result<Vec<String>, CapabilityError> {
        self.refuse_in_transaction().map_err(CapabilityError::denied)?;
        if jobs.len() > MAX_JOBS {
            return Err(CapabilityError::too_large(format!("at most {MAX_JOBS} jobs at once")));
        }
        self.prepare(jobs.iter_mut())?;
        let ids = self.services.queues.add(jobs).await.map_err(queue_error)?;
        Ok(ids.into_iter().map(|id| id.to_string()).collect())
    }

    async fn enqueue_flow(&self, mut flow: Flow) -> Result<Vec<String>, CapabilityError> {
        self.refuse_in_transaction().map_err(CapabilityError::denied)?;
        self.prepare(flow.jobs_mut().into_iter())?;
        let added = self.services.queues.add_flow(flow).await.map_err(queue_error)?;
        Ok(added.into_iter().map(|(_, id)| id.to_string()).collect())
    }

    async fn children(&self) -> Result<Vec<ChildResult>, CapabilityError> {
        self.refuse_in_transaction().map_err(CapabilityError::denied)?;
        let Some(job) = &self.job else { return Ok(Vec::new()) };
        job.children().await.map_err(queue_error)
    }

    async fn sql_run(&self, statements: Vec<SqlStatement>, jobs: Vec<NewJob>) -> Result<Vec<SqlAnswer>, SqlError> {
        self.refuse_in_transaction().map_err(SqlError::denied)?;
        self.check_sql(&statements)?;
        let jobs = if jobs.is_empty() { None } else { Some(self.sql_jobs(jobs)?) };
        let (name, deadline) = (&self.call.manifest.name, self.call.deadline);
        let run = self.services.sql.run(name, deadline, statements, jobs);
        tracing::Instrument::instrument(run, self.call.span.clone()).await
    }

    async fn sql_begin(&self) -> Result<Arc<dyn SqlTransaction>, SqlError> {
        self.check_sql(&[])?;
        if self.transaction.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(SqlError::denied("one transaction per call"));
        }
        let transaction = self.services.sql.begin(&self.call.manifest.name, self.call.deadline).await?;
        let known = Arc::downgrade(&transaction);
        *self.transaction.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(transaction)
    }

    async fn sql_enqueue(&self, transaction: Arc<dyn SqlTransaction>, jobs: Vec<NewJob>) -> Result<(), SqlError> {
        transaction.enqueue(self.sql_jobs(jobs)?).await
    }

    async fn append_audit(&self, trail: &str, entry_key: String, entry: String) -> Result<(), CapabilityError> {
        self.append(trail, entry_key, entry).await
    }

    async fn send_mail(&self, envelope: Envelope, mime: Vec<u8>) -> Result<SmtpReceipt, SmtpFailure> {
        let server = self.services.mail.server().unwrap_or_default();
        let place = self.outside.begin("mail", None, server.trim_start_matches("smtp://"));
        let answer = self.hand_over(envelope, mime).await;
        self.outside.end(&place, outside::mail_result(&answer));
        answer
    }
}
