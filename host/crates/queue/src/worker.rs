//! Taking jobs: one BullMQ worker per queue, rebuilt when Redis comes back.
//!
//! Processor mode of the crate only. Every retry is ours (`moveToDelayed` by upstream's script, then `Err(Delayed)`), so the crate's own
//! retry rules never apply. Locks are renewed here, off the guest's threads; a lost lock cancels the guest.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bullmq::types::{KeepJobs, RemoveOnFinish};
use bullmq::{Job, QueueKeys, RateLimiterOptions, Worker, WorkerOptions};
use futures::FutureExt;
use patchbay_model::QueueName;
use patchbay_model::job::{JobKey, Trace};
use patchbay_model::retry::Backoff;
use redis::AsyncCommands;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::add::MAX_DATA_BYTES;
use crate::connection::Connection;
use crate::opts::JobOpts;
use crate::{Queues, scripts};

/// How often Redis is asked whether it is there; bounds how late its return is noticed.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Traces kept on a job, as in BullMQ's own default order of magnitude.
const MAX_TRACES: usize = 10;

/// How to work on a queue.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Which.
    pub queue: QueueName,
    /// Jobs at once.
    pub concurrency: usize,
    /// Lock on a job.
    pub lock: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// How often stalled jobs are looked for.
    pub stalled_interval: Duration,
    /// Stalls before a job fails.
    pub max_stalls: u32,
    /// Completed jobs to keep.
    pub keep_completed: Keep,
    /// Failed jobs to keep.
    pub keep_failed: Keep,
    /// At most so many per time; spread evenly.
    pub rate: Option<(u64, Duration)>,
    /// Name of this process in lists of workers.
    pub host: String,
}

/// Whichever is reached first; nothing set keeps all.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// No longer than this.
    pub age: Option<Duration>,
    /// No more than this.
    pub count: Option<u64>,
}

/// Runs jobs.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one to its end.
    async fn handle(&self, delivery: Delivery) -> Disposition;
}

/// BullMQ's own bound on its stream of events.
const MAX_EVENTS: u64 = 10_000;

/// A job that was taken.
#[derive(Debug)]
pub struct Delivery {
    /// Its identity.
    pub key: JobKey,
    /// Its kind.
    pub name: String,
    /// One JSON document.
    pub data: String,
    /// Why it must not run: its data or options cannot be read. They stay in Redis as they are.
    pub data_invalid: Option<String>,
    /// Attempts and backoff that the producer set.
    pub retry: (Option<u32>, Option<Backoff>),
    /// What caused it.
    pub trace: Trace,
    /// Counted attempts before this one.
    pub attempts_made: u32,
    /// Starts, this one included.
    pub started: u32,
    /// How often it stalled.
    pub stalled: u32,
    /// When it was first deferred, Unix milliseconds.
    pub first_deferred_at_ms: Option<u64>,
    /// The scheduler that made it.
    pub schedule_id: Option<String>,
    /// To write logs and progress.
    pub job: JobHandle,
    /// Cancelled when the lock is lost: another worker may have the job.
    pub lost: CancellationToken,
}

/// What to do with it now.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Disposition {
    /// Done; the value is JSON.
    Complete { value: String },
    /// Failed for good.
    Fail { reason: String, stack: Vec<String> },
    /// Again later; the attempt counts.
    Retry { delay: Duration, reason: String, stack: Vec<String> },
    /// Again later; the attempt does not count.
    Defer { delay: Duration, reason: String, stack: Vec<String> },
    /// Back to the front of the queue as if never taken.
    HandBack,
}

/// Writes to a running job.
#[derive(Clone)]
pub struct JobHandle {
    connection: Connection,
    job_key: String,
    events_key: String,
    id: String,
}

impl std::fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JobHandle").field(&self.id).finish()
    }
}

impl JobHandle {
    /// Appends lines to the job's log and sets its progress (JSON), in one round trip. Best effort: losing them must not fail a job.
    pub async fn write(&self, log_lines: &[String], progress: Option<&str>) {
        let mut pipe = redis::pipe();
        if !log_lines.is_empty() {
            pipe.rpush(format!("{}:logs", self.job_key), log_lines).ignore();
        }
        if let Some(json) = progress {
            pipe.hset(&self.job_key, "progress", json).ignore();
            pipe.cmd("XADD")
                .arg(&self.events_key)
                .arg("MAXLEN")
                .arg("~")
                .arg(MAX_EVENTS)
                .arg("*")
                .arg("event")
                .arg("progress")
                .arg("jobId")
                .arg(&self.id)
                .arg("data")
                .arg(json)
                .ignore();
        }
        let written: redis::RedisResult<()> = pipe.query_async(&mut self.connection.get()).await;
        if let Err(error) = written {
            warn!(%error, job = self.id, "job output lost");
        }
    }
}

struct Inner {
    queues: Queues,
    config: WorkerConfig,
    handler: Arc<dyn Handler>,
    keys: QueueKeys,
    current: Mutex<Option<Arc<Worker>>>,
    locks: Mutex<HashMap<String, Lock>>,
    running: AtomicUsize,
    paused: AtomicBool,
    healthy: AtomicBool,
    concurrency: AtomicUsize,
    stop: CancellationToken,
}

struct Lock {
    token: String,
    lost: CancellationToken,
}

/// A running worker.
pub struct WorkerHandle {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

impl WorkerHandle {
    pub(crate) fn spawn(queues: Queues, config: WorkerConfig, handler: Arc<dyn Handler>) -> Self {
        let inner = Arc::new(Inner {
            keys: queues.keys(&config.queue),
            concurrency: AtomicUsize::new(config.concurrency.max(1)),
            queues,
            config,
            handler,
            current: Mutex::default(),
            locks: Mutex::default(),
            running: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            healthy: AtomicBool::new(true),
            stop: CancellationToken::new(),
        });
        let tasks = vec![tokio::spawn(watch(Arc::clone(&inner))), tokio::spawn(renew(Arc::clone(&inner)))];
        Self { inner, tasks }
    }

    /// Which queue.
    pub fn queue(&self) -> &QueueName {
        &self.inner.config.queue
    }

    /// Takes no more jobs; running ones go on. Local: other workers are not affected.
    pub fn pause(&self) {
        self.inner.paused.store(true, Ordering::Release);
        if let Some(worker) = self.inner.current() {
            worker.pause();
        }
    }

    /// Takes jobs again.
    pub fn resume(&self) {
        self.inner.paused.store(false, Ordering::Release);
        if let Some(worker) = self.inner.current() {
            worker.resume();
        }
    }

    /// Jobs that run now.
    pub fn active(&self) -> usize {
        self.inner.running.load(Ordering::Acquire)
    }

    /// Changes how many run at once.
    pub fn set_concurrency(&self, concurrency: usize) {
        self.inner.concurrency.store(concurrency.max(1), Ordering::Release);
        // The crate grows only to its initial number of loops, so the worker is rebuilt by the watch.
        self.inner.healthy.store(false, Ordering::Release);
    }

    /// Whether Redis answered lately.
    pub fn healthy(&self) -> bool {
        self.inner.healthy.load(Ordering::Acquire)
    }

    /// Stops taking jobs and waits for running ones. Gives how many still ran at the limit; they stop being renewed.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.pause();
        self.inner.stop.cancel();
        if let Some(worker) = self.inner.take_current() {
            tokio::select! {
                closed = worker.close(limit.as_millis() as u64) => if let Err(error) = closed {
                    warn!(%error, queue = %self.queue(), "worker did not close cleanly");
                },
                () = self.inner.wake_fetcher() => {}
            }
        }
        let left = self.active();
        for task in &self.tasks {
            task.abort();
        }
        left
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.inner.stop.cancel();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Inner {
    fn current(&self) -> Option<Arc<Worker>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_current(&self) -> Option<Arc<Worker>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A worker without jobs waits in Redis for a marker, for seconds, and notices nothing else: this marker wakes it. To other
    /// workers it costs one look into an empty queue. Never returns.
    async fn wake_fetcher(&self) {
        loop {
            let woken: redis::RedisResult<()> = self.queues.connection.get().zadd(self.keys.marker(), "0", 0).await;
            if let Err(error) = woken {
                warn!(%error, queue = %self.config.queue, "cannot wake the worker");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn build(self: &Arc<Self>) -> Result<(), bullmq::Error> {
        let config = &self.config;
        let mut options = WorkerOptions::new()
            .connection(self.queues.connection_options())
            .prefix(self.queues.config.prefix.clone())
            .name(config.host.clone())
            .concurrency(self.concurrency.load(Ordering::Acquire))
            .lock_duration(config.lock)
            .max_stalled_count(config.max_stalls)
            .stalled_interval(config.stalled_interval)
            .run_retry_delay(Duration::from_secs(1))
            .remove_on_complete(keep(&config.keep_completed))
            .remove_on_fail(keep(&config.keep_failed))
            .skip_lock_renewal();
        if let Some((max, per)) = config.rate {
            // Even: BullMQ's window lets almost twice the limit through at its edge.
            options =
                options.limiter(RateLimiterOptions { max: 1, duration: (per.as_millis() as u64 / max.max(1)).max(1) });
        }
        let inner = Arc::clone(self);
        let processor = move |job: Job, _cancel| {
            let inner = Arc::clone(&inner);
            async move { inner.process(job).await }
        };
        let worker = Arc::new(Worker::with_options(config.queue.as_str(), processor, options).await?);
        if self.paused.load(Ordering::Acquire) {
            worker.pause();
        }
        // The crate's channel of events is unbounded: somebody must empty it.
        let events = Arc::downgrade(&worker);
        let queue = config.queue.clone();
        tokio::spawn(async move {
            while let Some(worker) = events.upgrade() {
                let event = tokio::time::timeout(Duration::from_secs(5), worker.next_event()).await;
                match event {
                    Ok(Some(bullmq::worker::WorkerEvent::Error(error))) => warn!(%queue, %error, "worker"),
                    Ok(Some(bullmq::worker::WorkerEvent::Stalled { job_id })) => {
                        warn!(%queue, job = job_id, "job stalled")
                    }
                    Ok(Some(bullmq::worker::WorkerEvent::Closed) | None) => return,
                    Ok(Some(_)) | Err(_) => {}
                }
            }
        });
        let old = self.current.lock().unwrap_or_else(PoisonError::into_inner).replace(worker);
        if let Some(old) = old {
            // Its running jobs end in it; it takes no new ones.
            tokio::spawn(async move { old.close(24 * 3_600_000).await.ok() });
        }
        Ok(())
    }

    async fn process(self: Arc<Self>, job: Job) -> Result<serde_json::Value, bullmq::Error> {
        self.running.fetch_add(1, Ordering::AcqRel);
        let _running = Running(&self);
        let id = job.id().to_owned();
        let lost = CancellationToken::new();
        if let Some(token) = job.token() {
            let lock = Lock { token: token.to_owned(), lost: lost.clone() };
            self.locks.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), lock);
        }
        let _lock = Unlock { inner: &self, id: &id };
        let delivery = match self.delivery(&job, lost).await {
            Ok(delivery) => delivery,
            // Redis went away under us: the lock expires and the job is delivered again.
            Err(error) => {
                warn!(%error, job = id, "cannot read a job that was just taken");
                return Err(bullmq::Error::Delayed);
            }
        };
        let name = delivery.name.clone();
        let handled = AssertUnwindSafe(self.handler.handle(delivery)).catch_unwind().await;
        // A panic of ours would leave the job active for ever, with its lock renewed.
        let disposition = handled.unwrap_or_else(|_| {
            error!(job = id, name, "the host panicked while running a job");
            let reason = "host-fault: the host panicked".to_owned();
            Disposition::Defer { delay: Duration::from_secs(5), stack: vec![reason.clone()], reason }
        });
        self.settle(&job, disposition).await
    }

    async fn delivery(&self, job: &Job, lost: CancellationToken) -> Result<Delivery, redis::RedisError> {
        let job_key = self.keys.job_key(job.id());
        // From the raw texts: the crate's reader turns data that is not JSON into null, rounds large numbers, and replaces all
        // options by defaults when one of them is odd.
        let (data, opts, stalled, first_deferred): (Option<String>, Option<String>, Option<u32>, Option<u64>) =
            self.queues.connection.get().hmget(&job_key, &["data", "opts", "stc", "pfd"]).await?;
        let mut data = data.unwrap_or_default();
        let mut invalid = None;
        let opts = JobOpts::parse(opts.as_deref().unwrap_or("{}")).unwrap_or_else(|reason| {
            invalid = Some(reason);
            JobOpts::default()
        });
        if let Err(error) = serde_json::from_str::<&RawValue>(&data) {
            invalid = Some(format!("the job's data is not JSON: {error}"));
        }
        if data.len() > MAX_DATA_BYTES {
            invalid = Some(format!("the job's data is larger than {MAX_DATA_BYTES} bytes"));
            data = String::new();
        }
        let unusable = |error| redis::RedisError::from((redis::ErrorKind::Client, "job id", format!("{error}")));
        Ok(Delivery {
            key: JobKey {
                prefix: self.queues.config.prefix.clone(),
                queue: self.config.queue.clone(),
                id: job.id().parse().map_err(unusable)?,
                created_ms: job.timestamp(),
            },
            name: job.name().to_owned(),
            data,
            data_invalid: invalid,
            retry: (opts.attempts, opts.backoff),
            trace: opts.trace,
            attempts_made: job.attempts_made(),
            started: job.attempts_started(),
            stalled: stalled.unwrap_or(0),
            first_deferred_at_ms: first_deferred,
            schedule_id: job.repeat_job_key().map(str::to_owned),
            job: JobHandle {
                connection: self.queues.connection.clone(),
                job_key,
                events_key: self.keys.events(),
                id: job.id().to_owned(),
            },
            lost,
        })
    }

    async fn settle(&self, job: &Job, disposition: Disposition) -> Result<serde_json::Value, bullmq::Error> {
        match disposition {
            Disposition::Complete { value } => Ok(serde_json::from_str(&value)?),
            Disposition::Fail { reason, stack } => {
                let traces = self.traces(job, stack).await?;
                let _: redis::Value = scripts::SAVE_STACKTRACE
                    .key(self.keys.job_key(job.id()))
                    .arg(traces)
                    .arg(&reason)
                    .invoke_async(&mut self.queues.connection.get())
                    .await?;
                Err(bullmq::Error::Unrecoverable(reason))
            }
            Disposition::Retry { delay, reason, stack } => self.delay(job, delay, &reason, stack, true).await,
            Disposition::Defer { delay, reason, stack } => {
                let key = self.keys.job_key(job.id());
                let _: bool = self.queues.connection.get().hset_nx(key, "pfd", now_ms()).await?;
                self.delay(job, delay, &reason, stack, false).await
            }
            Disposition::HandBack => {
                job.move_to_wait(job.token()).await?;
                Err(bullmq::Error::Delayed)
            }
        }
    }

    async fn delay(
        &self,
        job: &Job,
        delay: Duration,
        reason: &str,
        stack: Vec<String>,
        counts: bool,
    ) -> Result<serde_json::Value, bullmq::Error> {
        let traces = self.traces(job, stack).await?;
        let keys = &self.keys;
        let fields = rmp_serde::to_vec(&["failedReason", reason, "stacktrace", &traces])
            .map_err(|error| bullmq::Error::InvalidConfig(error.to_string()))?;
        let code: i64 = scripts::MOVE_TO_DELAYED
            .key(keys.marker())
            .key(keys.active())
            .key(keys.prioritized())
            .key(keys.delayed())
            .key(keys.job_key(job.id()))
            .key(keys.events())
            .key(keys.meta())
            .key(keys.stalled())
            .key(keys.wait())
            .key(keys.limiter())
            .key(keys.pc())
            .arg(keys.key_prefix())
            .arg(now_ms())
            .arg(job.id())
            .arg(job.token().unwrap_or_default())
            .arg(delay.as_millis() as u64)
            .arg(if counts { "0" } else { "1" })
            .arg(fields)
            .arg("0")
            .arg("")
            .invoke_async(&mut self.queues.connection.get())
            .await?;
        if code < 0 {
            warn!(job = job.id(), code, "the job could not be delayed; its lock was lost");
        }
        Err(bullmq::Error::Delayed)
    }

    /// The job's stack traces with this one added, as BullMQ stores them.
    async fn traces(&self, job: &Job, stack: Vec<String>) -> Result<String, bullmq::Error> {
        let known: Option<String> = if job.attempts_started() > 1 {
            self.queues.connection.get().hget(self.keys.job_key(job.id()), "stacktrace").await?
        } else {
            None
        };
        let mut traces: Vec<String> = known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        traces.extend(stack);
        let surplus = traces.len().saturating_sub(MAX_TRACES);
        Ok(serde_json::to_string(&traces[surplus..])?)
    }
}

struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Unlock<'a> {
    inner: &'a Inner,
    id: &'a str,
}

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        self.inner.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
    }
}

/// Builds the worker, and builds it again when Redis was away: the crate's own reconnect backs off to seconds and is private.
async fn watch(inner: Arc<Inner>) {
    inner.healthy.store(false, Ordering::Release);
    let mut replaced = 0;
    while !inner.stop.is_cancelled() {
        let answered = inner.queues.ping().await.is_ok();
        let now_replaced = inner.queues.connection.times_replaced();
        let was_healthy = inner.healthy.load(Ordering::Acquire) && now_replaced == replaced;
        replaced = now_replaced;
        if !answered {
            inner.healthy.store(false, Ordering::Release);
        } else if !was_healthy {
            match inner.build().await {
                Ok(()) => {
                    inner.healthy.store(true, Ordering::Release);
                    info!(queue = %inner.config.queue, "worker connected");
                }
                Err(error) => warn!(%error, queue = %inner.config.queue, "worker cannot start"),
            }
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Renews every lock of this worker in one round trip.
async fn renew(inner: Arc<Inner>) {
    let lock_ms = inner.config.lock.as_millis() as u64;
    loop {
        tokio::time::sleep(inner.config.renew).await;
        let held: Vec<(String, String, CancellationToken)> = {
            let locks = inner.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.iter().map(|(id, lock)| (id.clone(), lock.token.clone(), lock.lost.clone())).collect()
        };
        if held.is_empty() {
            continue;
        }
        let tokens: Vec<&str> = held.iter().map(|(_, token, _)| token.as_str()).collect();
        let ids: Vec<&str> = held.iter().map(|(id, ..)| id.as_str()).collect();
        let (Ok(packed_tokens), Ok(packed_ids)) = (rmp_serde::to_vec(&tokens), rmp_serde::to_vec(&ids)) else {
            continue;
        };
        let refused: redis::RedisResult<Vec<String>> = scripts::EXTEND_LOCKS
            .key(inner.keys.stalled())
            .arg(inner.keys.key_prefix())
            .arg(packed_tokens)
            .arg(packed_ids)
            .arg(lock_ms)
            .invoke_async(&mut inner.queues.connection.get())
            .await;
        match refused {
            Ok(refused) => {
                for (id, _, lost) in held.iter().filter(|(id, ..)| refused.contains(id)) {
                    warn!(job = id, queue = %inner.config.queue, "lock lost: the call is cancelled");
                    lost.cancel();
                }
            }
            // Redis is away: nobody else can take the jobs either.
            Err(error) => warn!(%error, queue = %inner.config.queue, "locks not renewed"),
        }
    }
}

fn keep(keep: &Keep) -> RemoveOnFinish {
    if keep.age.is_none() && keep.count.is_none() {
        return RemoveOnFinish::Bool(false);
    }
    // Seconds, whatever the crate's documentation says: the script multiplies by 1,000.
    let age = keep.age.map(|age| age.as_secs());
    RemoveOnFinish::Options(KeepJobs { age, count: keep.count.map(|count| count as usize), limit: None })
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
