//! One call: slot, fresh store, deadline, outcome.
//!
//! Three layers end a guest: the epoch callback (it spins), the timeout around the call (it waits), and dropping the store (it is gone).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use patchbay_model::capability::{Capabilities, LogLevel};
use patchbay_model::operation::{Answer, Caller, check_json};
use patchbay_model::outcome::{Outcome, truncate};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::Revision;
use crate::exports::Returned;
use crate::output::Output;
use crate::transactions::Transactions;
use crate::wasi_http::Hooks;

/// Longest guest backtrace that is kept, in frames: recursion has thousands, and the first ones tell the story.
const MAX_FRAMES: usize = 50;

/// What a call computes, in ticks of the epoch, before it counts as a long one.
const SHORT_TICKS: u32 = 16;
/// A long call computes in one round of four when others want to: short calls, which are nearly all, do not wait for a guest that spins.
const LONG_TURNS: u32 = 4;

/// A job for a guest.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct JobCall {
    pub id: String,
    pub queue: String,
    pub name: String,
    /// One JSON document.
    pub data: String,
    pub attempt: u32,
    pub max_attempts: u32,
    pub enqueued_at_ms: u64,
    pub idempotency_key: String,
    pub correlation_id: String,
    pub platform: String,
    pub schedule_id: Option<String>,
    /// When its first run was deferred.
    pub first_deferred_at_ms: Option<u64>,
    /// Counts the call while it waits and runs.
    pub occupancy: Arc<Occupancy>,
    /// Ends the call as a host fault.
    pub cancel: CancellationToken,
}

/// An operation for a guest.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct OperationCall {
    pub operation: String,
    /// One JSON document.
    pub input: String,
    pub caller: Caller,
    /// Counts the call while it waits and runs.
    pub occupancy: Arc<Occupancy>,
}

/// How a call went.
#[derive(Debug)]
pub struct CallReport {
    /// How it ended. Of an operation that completed, the result is `null`.
    pub outcome: Outcome,
    /// What an operation that completed has answered.
    pub answer: Option<Answer>,
    /// The guest's backtrace with function names.
    pub stack: Option<String>,
    /// Wall clock.
    pub duration: Duration,
    /// What its threads computed for it: instantiation, guest, and the host's side of its host calls up to handing them over. Measured
    /// by the thread's clock around each poll; the part of a tick (1 ms) in which a call is cancelled is missing.
    pub cpu: Duration,
    /// Largest linear memory; 0 when the call had no slot or was cancelled.
    pub peak_memory_bytes: u64,
    /// Lines beyond the log limit.
    pub dropped_log_lines: u64,
}

/// Calls of one revision by where they are now.
#[derive(Debug, Default)]
pub struct Occupancy {
    waiting: AtomicUsize,
    running: AtomicUsize,
}

impl Occupancy {
    /// Wait for a place: the plugin's own limit, or a slot of the pool.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Have one.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}

/// Counts for as long as it lives, so that a call that is dropped is counted out, too.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A store's data.
pub(crate) struct State {
    pub(crate) capabilities: Arc<dyn Capabilities>,
    /// Where capabilities run: connections belong to the host's own threads.
    pub(crate) host: tokio::runtime::Handle,
    pub(crate) log: Arc<LogBudget>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    pub(crate) transactions: Transactions,
    memory: Memory,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

impl State {
    /// Runs a capability on the host's threads; it ends when the guest's call does.
    pub(crate) async fn outside<T: Send + 'static>(
        &mut self,
        act: impl Future<Output = T> + Send + 'static,
    ) -> wasmtime::Result<T> {
        let mut task = AbortOnDrop(self.host.spawn(act));
        Ok((&mut task.0).await?)
    }
}

pub(crate) struct AbortOnDrop<T>(pub(crate) tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One budget for log lines, stdout and stderr of a call.
pub(crate) struct LogBudget {
    left: AtomicUsize,
    dropped: AtomicU64,
}

impl LogBudget {
    /// Whether a line of this length still fits; counts it if not.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let fits = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok();
        if !fits {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }
}

/// Grants memory up to the limit, and remembers that it refused: guests abort on a refusal, which then is no ordinary trap.
struct Memory {
    limit: usize,
    peak: usize,
    refused: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = desired <= self.limit;
        self.refused |= !granted;
        if granted {
            self.peak = self.peak.max(desired);
        }
        Ok(granted)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

/// Which export, with what.
pub(crate) enum Entry {
    Job(Box<JobCall>),
    Operation(Box<OperationCall>),
    SelfTest,
}

pub(crate) async fn run(
    revision: Arc<Revision>,
    entry: Entry,
    capabilities: Arc<dyn Capabilities>,
    limit: Duration,
    cancel: CancellationToken,
    occupancy: &Occupancy,
) -> CallReport {
    let started = Instant::now();
    // Shared, so that a call that is cancelled has its share counted.
    let cpu_ns = Arc::new(AtomicU64::new(0));
    let failed = |outcome| CallReport {
        outcome,
        answer: None,
        stack: None,
        duration: started.elapsed(),
        cpu: Duration::from_nanos(cpu_ns.load(Ordering::Relaxed)),
        peak_memory_bytes: 0,
        dropped_log_lines: 0,
    };
    let waiting = Counted::new(&occupancy.waiting);
    // Before the pool, so that a full pool is a wait and not an error; bounded, so that the wait is not for ever.
    let Ok(_slots) = tokio::time::timeout(limit, take_slots(&revision)).await else {
        return failed(Outcome::HostFault("no free slot for the call".into()));
    };
    let _running = Counted::new(&occupancy.running);
    drop(waiting);
    let guests = revision.runtime.guests();
    let already_there = tokio::runtime::Handle::current().id() == guests.id();
    let call = call(revision, entry, capabilities, limit, Arc::clone(&cpu_ns));
    let ended = async {
        if already_there {
            return call.await;
        }
        let mut task = AbortOnDrop(guests.spawn(call));
        (&mut task.0).await.unwrap_or_else(|error| failed(Outcome::HostFault(format!("the call broke: {error}"))))
    };
    tokio::select! {
        report = ended => report,
        () = cancel.cancelled() => failed(Outcome::HostFault("the call was cancelled: its job is no longer ours, or was killed".into())),
    }
}

/// The plugin's own limit first: who waits for that one must not hold a place in the pool. Semaphores are never closed.
async fn take_slots(revision: &Revision) -> (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>) {
    let own = match &revision.concurrency {
        Some(concurrency) => Arc::clone(concurrency).acquire_owned().await.ok(),
        None => None,
    };
    (own, Arc::clone(&revision.runtime.slots).acquire_many_owned(revision.weight).await.ok())
}

async fn call(
    revision: Arc<Revision>,
    entry: Entry,
    capabilities: Arc<dyn Capabilities>,
    limit: Duration,
    cpu_ns: Arc<AtomicU64>,
) -> CallReport {
    let started = Instant::now();
    let deadline = started + limit;
    let limits = &revision.runtime.config.limits;
    let log = Arc::new(LogBudget { left: AtomicUsize::new(limits.max_log_bytes), dropped: AtomicU64::new(0) });
    let memory_limit = revision.memory_bytes();
    let host = revision.runtime.host.clone();
    let state = State {
        wasi: wasi(&capabilities, &log),
        http: WasiHttpCtx::new(),
        hooks: Hooks { capabilities: Arc::clone(&capabilities), host: host.clone() },
        capabilities,
        host,
        log: Arc::clone(&log),
        table: ResourceTable::new(),
        transactions: Transactions::default(),
        memory: Memory { limit: memory_limit, peak: 0, refused: false },
    };
    let mut store = Store::new(revision.runtime.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_epoch_deadline(1);
    let mut ticks = 0_u32;
    store.epoch_deadline_callback(move |_| {
        ticks += 1;
        Ok(if Instant::now() >= deadline {
            UpdateDeadline::Interrupt
        } else {
            let turns = if ticks <= SHORT_TICKS { 1 } else { LONG_TURNS };
            UpdateDeadline::YieldCustom(1, Box::pin(let_others_run(turns, deadline)))
        })
    });
    let deadline_ms = u64::try_from(now_ms().saturating_add(limit.as_millis())).unwrap_or(u64::MAX);
    let ended = tokio::time::timeout(limit, revision.exports.run(&mut store, entry, deadline_ms));
    let ended = measured(ended, &cpu_ns).await;
    let refused = store.data().memory.refused;
    let peak_memory_bytes = store.data().memory.peak as u64;
    drop(store);
    let mut answer = None;
    let (outcome, stack) = match ended {
        Err(_) => (Outcome::Deadline(limit), None),
        Ok(Ok(Ok(returned))) => (accepted(returned, limits.max_result_bytes, &mut answer), None),
        Ok(Ok(Err(failure))) => (Outcome::Failed(failure.sanitized()), None),
        Ok(Err(error)) => broken(&error, refused, memory_limit, limit),
    };
    CallReport {
        outcome,
        answer,
        stack,
        duration: started.elapsed(),
        cpu: Duration::from_nanos(cpu_ns.load(Ordering::Relaxed)),
        peak_memory_bytes,
        dropped_log_lines: log.dropped.load(Ordering::Relaxed),
    }
}

/// Lets the other calls of this thread go first, so many times; without others it takes no time. From the deadline on it lets the guest go
/// on, which then ends with a backtrace. Not wasmtime's own `Yield`: that starves tokio's timers.
async fn let_others_run(turns: u32, deadline: Instant) {
    for _ in 0..turns {
        if Instant::now() >= deadline {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Adds up what this thread computes while it polls. A poll stays on one thread, the guest's stack included, and lasts one tick at most
/// when the guest spins; the clock costs two system calls per poll.
async fn measured<F: Future>(future: F, cpu_ns: &AtomicU64) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let before = thread_cpu_ns();
        let polled = future.as_mut().poll(context);
        cpu_ns.fetch_add(thread_cpu_ns().saturating_sub(before), Ordering::Relaxed);
        polled
    })
    .await
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn now_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_millis())
}

/// The result, or the answer beside it, if it can be passed on.
fn accepted(returned: Returned, max_bytes: usize, answer: &mut Option<Answer>) -> Outcome {
    let nothing = || "null".to_owned();
    let checked = match returned {
        Returned::Result(value) => check_json(&value, max_bytes).map(|()| value),
        Returned::Answer(given) => given.check(max_bytes).map(|()| {
            *answer = Some(given);
            nothing()
        }),
        Returned::Passed => Ok(nothing()),
    };
    checked.map_or_else(Outcome::InvalidResult, Outcome::Completed)
}

fn broken(error: &wasmtime::Error, refused: bool, memory: usize, limit: Duration) -> (Outcome, Option<String>) {
    let trap = error.downcast_ref::<Trap>();
    let stack = error.downcast_ref::<WasmBacktrace>().map(frames);
    let outcome = match trap {
        Some(Trap::Interrupt) => Outcome::Deadline(limit),
        _ if refused => Outcome::MemoryLimit(memory as u64),
        Some(trap) => {
            let place = stack.as_deref().and_then(|stack| stack.lines().next()).unwrap_or_default().trim().to_owned();
            Outcome::Trapped(format!("{trap} {place}").trim().to_owned())
        }
        // Not the guest: an instance could not be made, or a capability's task broke.
        None => Outcome::HostFault(format!("{error:#}").lines().next().unwrap_or_default().to_owned()),
    };
    (outcome, stack)
}

fn frames(backtrace: &WasmBacktrace) -> String {
    let lines = backtrace.frames().iter().take(MAX_FRAMES).map(|frame| {
        let name = frame.func_name().map_or_else(
            || format!("function {}", frame.func_index()),
            |name| rustc_demangle::demangle(name).to_string(),
        );
        format!("    at {name} (+0x{:x})", frame.module_offset().unwrap_or_default())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Nothing but clocks and randomness: no environment, no arguments, no files, no sockets, no names.
fn wasi(capabilities: &Arc<dyn Capabilities>, log: &Arc<LogBudget>) -> WasiCtx {
    let output = |level| Output::new(Arc::clone(capabilities), Arc::clone(log), level);
    WasiCtx::builder()
        .stdout(output(LogLevel::Info))
        .stderr(output(LogLevel::Warn))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }))
        .max_random_size(1 << 20)
        .build()
}

/// Longest log line.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// One line under the call's budget.
pub(crate) fn log_line(
    capabilities: &dyn Capabilities,
    budget: &LogBudget,
    level: LogLevel,
    mut line: String,
    fields: &[(String, String)],
) {
    let bytes = line.len() + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if budget.take(bytes + 1) {
        truncate(&mut line, MAX_LINE_BYTES);
        capabilities.log(level, &line, fields);
    }
}
