//! One call: slot, fresh store, deadline, outcome.
//!
//! Three layers end a guest: the epoch callback (it spins), the timeout around the call (it waits), and dropping the store (it is gone).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use patchbay_model::operation::{Answer, check_json};
use patchbay_model::outcome::{Failure, Outcome};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{Store, UpdateDeadline};

use crate::call_log::CallLog;
use crate::context::{CallContext, LogLevel};
use crate::fault::Broken;
use crate::memory::{Account, MAX_HANDLES};
use crate::output::Output;
use crate::report::{CallReport, Entry, Occupancy};
use crate::sandbox::Sandbox;
use crate::state::{PANICKED, State};
use crate::wit::{Exports, Returned};

/// Bytes that a guest may hand over in one call of the host, counted as the host holds them. Enough for the largest request where the memory
/// limit is small; never more than the limit where that is large.
const HANDED_OVER: std::ops::RangeInclusive<usize> = 16 << 20..=128 << 20;

/// What a call computes, in ticks of the epoch, before it counts as a long one.
const SHORT_TICKS: u32 = 16;
/// A long call computes in one round of four when others want to: short calls, which are nearly all, do not wait for a guest that spins.
const LONG_TURNS: u32 = 4;

/// What is called: a linked component, and what one call of it takes.
pub(crate) struct Callee {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) exports: Box<dyn Exports>,
    pub(crate) weight: u32,
    /// Calls of it at once, when its manifest limits them.
    pub(crate) concurrency: Option<Arc<Semaphore>>,
    pub(crate) memory_bytes: usize,
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

pub(crate) async fn run(
    callee: Arc<Callee>,
    entry: Entry,
    context: Option<Arc<dyn CallContext>>,
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
    let Ok(_slots) = tokio::time::timeout(limit, take_slots(&callee)).await else {
        return failed(Outcome::HostFault("no free slot for the call".into()));
    };
    let _running = Counted::new(&occupancy.running);
    drop(waiting);
    let guests = callee.sandbox.guests();
    let already_there = tokio::runtime::Handle::current().id() == guests.id();
    let call = call(callee, entry, context, limit, Arc::clone(&cpu_ns));
    let ended = async {
        if already_there {
            return call.await;
        }
        let called = AbortOnDropHandle::new(guests.spawn(call)).await;
        called.unwrap_or_else(|error| failed(Outcome::HostFault(format!("the call broke: {error}"))))
    };
    tokio::select! {
        report = ended => report,
        () = cancel.cancelled() => failed(Outcome::HostFault("the call was cancelled: its job is no longer ours, or was killed".into())),
    }
}

/// The plugin's own limit first: who waits for that one must not hold a place in the pool. Semaphores are never closed.
async fn take_slots(callee: &Callee) -> (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>) {
    let own = match &callee.concurrency {
        Some(concurrency) => Arc::clone(concurrency).acquire_owned().await.ok(),
        None => None,
    };
    (own, Arc::clone(&callee.sandbox.slots).acquire_many_owned(callee.weight).await.ok())
}

async fn call(
    callee: Arc<Callee>,
    entry: Entry,
    context: Option<Arc<dyn CallContext>>,
    limit: Duration,
    cpu_ns: Arc<AtomicU64>,
) -> CallReport {
    let started = Instant::now();
    let deadline = started + limit;
    let limits = &callee.sandbox.limits;
    let log = Arc::new(CallLog::new(context.clone(), limits.max_log_bytes));
    let memory = Account::new(match &entry {
        Entry::Start { memory } => *memory,
        _ => callee.memory_bytes,
    });
    let output = |level| Output::new(Arc::clone(&log), level);
    let (stdout, stderr) = (output(LogLevel::Info), output(LogLevel::Warn));
    let host = callee.sandbox.host.clone();
    let state = State::new(context, host, Arc::clone(&log), memory.clone(), (&stdout, &stderr));
    let mut store = Store::new(&callee.sandbox.engine, state);
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
            ended = callee.exports.run(&mut store, entry, deadline_ms) => Ended::ByItself(ended),
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
        dropped_log_lines: log.dropped(),
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
