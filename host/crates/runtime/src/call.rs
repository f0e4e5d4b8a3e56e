//! One call: slot, fresh store, deadline, outcome.
//!
//! Three layers end a guest: the epoch callback (it spins), the timeout around the call (it waits), and dropping the store (it is gone).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use patchbay_model::capability::{Capabilities, LogLevel, MAX_LOG_LINE_BYTES};
use patchbay_model::operation::{Answer, Caller, check_json};
use patchbay_model::outcome::{Failure, Outcome, truncate};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::Revision;
use crate::exports::Returned;
use crate::fault::{Broken, Ours, Phase};
use crate::memory::{Account, MAX_HANDLES};
use crate::output::Output;
use crate::transactions::Transactions;
use crate::wasi_http::{Hooks, weigh};

/// Bytes that a guest may hand over in one call of the host, counted as the host holds them. Enough for the largest request where the memory
/// limit is small; never more than the limit where that is large.
const HANDED_OVER: std::ops::RangeInclusive<usize> = 16 << 20..=128 << 20;
/// Weighing what the host holds takes time: at most one part of so many of a call's.
const WEIGHING: u32 = 4;

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
    /// Most memory that it held at once, the host's part for it included; 0 when the call had no slot or was cancelled.
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
    memory: Account,
    pub(crate) phase: Phase,
    /// wasi:http was called since the host's part of the memory was weighed last.
    is_heavier: bool,
    weigh_after: Instant,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.is_heavier = true;
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
        (&mut task.0).await.map_err(|error| match error.is_panic() {
            // Not marked as ours: this guest has found a way to it, and would find it again each second for a day.
            true => wasmtime::format_err!("{PANICKED}"),
            false => Ours("the host is shutting down").into(),
        })
    }

    /// Looks how much the host holds for the guest. What comes between two looks is bounded by what a guest can copy in that time.
    fn weigh(&mut self) {
        let now = Instant::now();
        if self.is_heavier && now >= self.weigh_after {
            self.is_heavier = false;
            self.memory.weigh(weigh(&mut self.table));
            self.weigh_after = now + now.elapsed() * WEIGHING;
        }
    }
}

const PANICKED: &str = "the host panicked in a call that this guest made; please report it";

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

/// Which export, with what.
pub(crate) enum Entry {
    Job(Box<JobCall>),
    Operation(Box<OperationCall>),
    SelfTest,
    /// None: the instance is made, and that is all. With so many bytes of memory.
    Start {
        memory: usize,
    },
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
    let memory = Account::new(match &entry {
        Entry::Start { memory } => *memory,
        _ => revision.memory_bytes(),
    });
    let host = revision.runtime.host.clone();
    let output = |level| Output::new(Arc::clone(&capabilities), Arc::clone(&log), level);
    let (stdout, stderr) = (output(LogLevel::Info), output(LogLevel::Warn));
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_HANDLES);
    let state = State {
        wasi: wasi(&stdout, &stderr),
        http: WasiHttpCtx::new(),
        hooks: Hooks::new(Arc::clone(&capabilities), host.clone(), memory.clone()),
        capabilities,
        host,
        log: Arc::clone(&log),
        table,
        transactions: Transactions::default(),
        memory: memory.clone(),
        phase: Phase::Starting,
        is_heavier: false,
        weigh_after: started,
    };
    let mut store = Store::new(revision.runtime.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(memory.limit().clamp(*HANDED_OVER.start(), *HANDED_OVER.end()));
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    let mut ticks = 0_u32;
    store.epoch_deadline_callback(move |mut store| {
        ticks += 1;
        store.data_mut().weigh();
        Ok(if Instant::now() >= deadline || store.data().memory.is_exceeded() {
            UpdateDeadline::Interrupt
        } else {
            let turns = if ticks <= SHORT_TICKS { 1 } else { LONG_TURNS };
            UpdateDeadline::YieldCustom(1, Box::pin(let_others_run(turns, deadline)))
        })
    });
    let deadline_ms = u64::try_from(now_ms().saturating_add(limit.as_millis())).unwrap_or(u64::MAX);
    let guest = async {
        tokio::select! {
            // What has ended has ended, also where its time ran out in the same moment.
            biased;
            ended = revision.exports.run(&mut store, entry, deadline_ms) => Ended::ByItself(ended),
            () = memory.exceeded() => Ended::OutOfMemory,
            () = tokio::time::sleep(limit) => Ended::Late,
        }
    };
    let ended = AssertUnwindSafe(measured(guest, &cpu_ns)).catch_unwind().await;
    let phase = store.data().phase;
    drop(store);
    let printed = last_printed(&stdout, &stderr);
    let mut answer = None;
    let (outcome, stack) = match ended {
        Ok(Ended::Late) => (Outcome::Deadline(limit), None),
        Ok(Ended::OutOfMemory) => (Outcome::MemoryLimit(memory.limit() as u64), None),
        Ok(Ended::ByItself(Ok(Ok(returned)))) => (accepted(returned, limits.max_result_bytes, &mut answer), None),
        Ok(Ended::ByItself(Ok(Err(failure)))) => (Outcome::Failed(failure.sanitized()), None),
        Ok(Ended::ByItself(Err(error))) => {
            Broken { error: &error, phase, memory: &memory, limit, printed: &printed }.judge()
        }
        // As with `State::outside`: the guest has found a way to it.
        Err(_) => (Outcome::Trapped(PANICKED.into()), None),
    };
    let peak_memory_bytes = memory.peak() as u64;
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

/// How the guest's part of a call ended.
enum Ended {
    ByItself(wasmtime::Result<Result<Returned, Failure>>),
    /// The host holds more for it than fits.
    OutOfMemory,
    Late,
}

/// Failures are written to standard error; a guest that has only one stream writes to that.
fn last_printed(stdout: &Output, stderr: &Output) -> String {
    let (out, err) = (stdout.finish(), stderr.finish());
    if err.is_empty() { out } else { err }
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

/// Nothing but clocks and randomness: no environment, no arguments, no files, no sockets, no names.
fn wasi(stdout: &Output, stderr: &Output) -> WasiCtx {
    WasiCtx::builder()
        .stdout(stdout.clone())
        .stderr(stderr.clone())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }))
        .max_random_size(1 << 20)
        .build()
}

/// Longest log line that is passed on. Who writes it down hides values in it, and then cuts it further.
const MAX_WHOLE_LINE_BYTES: usize = 2 * MAX_LOG_LINE_BYTES;

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
        truncate(&mut line, MAX_WHOLE_LINE_BYTES);
        capabilities.log(level, &line, fields);
    }
}
