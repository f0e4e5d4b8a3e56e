//! One call: slot, fresh store, deadline, outcome.
//!
//! Three layers end a guest: the epoch callback if it spins, the timeout around the call if it
//! waits, and dropping the store in any case.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use patchbay_model::operation::{Answer, check_json};
use patchbay_model::outcome::{Failure, Outcome};
use patchbay_model::webhook::Verdict;
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

/// Bytes that a guest may pass in one host call, counted as the host holds them. Enough for the
/// largest request where the memory limit is small; never more than the limit where that is large.
const HANDED_OVER: std::ops::RangeInclusive<usize> = 16 << 20..=128 << 20;

/// A call that has computed for more ticks of the epoch counts as long.
const SHORT_TICKS: u32 = 16;
/// A long call computes in one round of four while others want to run. So short calls, which are
/// nearly all, do not wait for a guest that spins.
const LONG_TURNS: u32 = 4;

/// The linked component that is called, and what one call of it takes.
pub(crate) struct CallTarget {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) exports: Box<dyn Exports>,
    pub(crate) weight: u32,
    /// The plugin's own limit on concurrent calls, if its manifest sets one.
    pub(crate) concurrency: Option<Arc<Semaphore>>,
    pub(crate) memory_bytes: usize,
}

/// Counts a call while this value lives, so that a dropped call is no longer counted.
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
    callee: Arc<CallTarget>,
    entry: Entry,
    context: Option<Arc<dyn CallContext>>,
    limit: Duration,
    cancel: CancellationToken,
    occupancy: &Occupancy,
) -> CallReport {
    let started = Instant::now();
    // Shared, so that the CPU time of a cancelled call is still counted.
    let cpu_ns = Arc::new(AtomicU64::new(0));
    let failed = |outcome| CallReport {
        outcome,
        answer: None,
        verdict: None,
        stack: None,
        duration: started.elapsed(),
        cpu: Duration::from_nanos(cpu_ns.load(Ordering::Relaxed)),
        peak_memory_bytes: 0,
        dropped_log_lines: 0,
    };
    let waiting = Counted::new(&occupancy.waiting);
    // Waits before it uses the pool, so that a full pool means waiting and not an error. The wait
    // is limited.
    let slots = async {
        match &entry {
            Entry::Verify(_) => take_verify_slot(&callee).await,
            _ => take_slots(&callee).await,
        }
    };
    let Ok(_slots) = tokio::time::timeout(limit, slots).await else {
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
        called.unwrap_or_else(|error| {
            failed(Outcome::HostFault(format!(
                "the task of the call failed: {error}"
            )))
        })
    };
    tokio::select! {
        report = ended => report,
        () = cancel.cancelled() => failed(Outcome::HostFault("the call was cancelled, because the job's lock was lost or the job was killed".into())),
    }
}

/// Takes the plugin's own limit first, because a call that waits for it must not occupy the pool.
/// The semaphores are never closed.
async fn take_slots(
    callee: &CallTarget,
) -> (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>) {
    let own = match &callee.concurrency {
        Some(concurrency) => Arc::clone(concurrency).acquire_owned().await.ok(),
        None => None,
    };
    (
        own,
        Arc::clone(&callee.sandbox.slots)
            .acquire_many_owned(callee.weight)
            .await
            .ok(),
    )
}

/// Requests of vendors have slots of their own: jobs that fill the pool do not keep them waiting.
async fn take_verify_slot(
    callee: &CallTarget,
) -> (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>) {
    let slots = Arc::clone(&callee.sandbox.verify_slots);
    (None, slots.acquire_many_owned(callee.weight).await.ok())
}

async fn call(
    callee: Arc<CallTarget>,
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
    let state = State::new(
        context,
        host,
        Arc::clone(&log),
        memory.clone(),
        (&stdout, &stderr),
    );
    let mut store = Store::new(&callee.sandbox.engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(
        memory
            .limit()
            .clamp(*HANDED_OVER.start(), *HANDED_OVER.end()),
    );
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    let mut ticks = 0_u32;
    store.epoch_deadline_callback(move |mut store| {
        ticks += 1;
        store.data_mut().weigh();
        Ok(
            if Instant::now() >= deadline || store.data().memory.is_exceeded() {
                UpdateDeadline::Interrupt
            } else {
                let turns = if ticks <= SHORT_TICKS { 1 } else { LONG_TURNS };
                UpdateDeadline::YieldCustom(1, Box::pin(let_others_run(turns, deadline)))
            },
        )
    });
    let deadline_ms = u64::try_from(now_ms().saturating_add(limit.as_millis())).unwrap_or(u64::MAX);
    let guest = async {
        tokio::select! {
            // A call that ended counts as ended, even if its time ran out at the same moment.
            biased;
            ended = callee.exports.run(&mut store, entry, deadline_ms) => Ended::ByItself(ended),
            () = memory.exceeded() => Ended::OutOfMemory,
            () = tokio::time::sleep(limit) => Ended::Late,
        }
    };
    let ended = AssertUnwindSafe(measured(guest, &cpu_ns))
        .catch_unwind()
        .await;
    let phase = store.data().phase;
    drop(store);
    let (stdout, stderr) = (stdout.finish(), stderr.finish());
    // Failures are written to stderr. A guest that has only one stream writes to that.
    let printed = if stderr.is_empty() { &stdout } else { &stderr };
    let (mut answer, mut verdict) = (None, None);
    let (outcome, stack) = match ended {
        Ok(Ended::Late) => (Outcome::Deadline(limit), None),
        Ok(Ended::OutOfMemory) => (Outcome::MemoryLimit(memory.limit() as u64), None),
        Ok(Ended::ByItself(Ok(Ok(returned)))) => (
            accepted(returned, limits.max_result_bytes, &mut answer, &mut verdict),
            None,
        ),
        Ok(Ended::ByItself(Ok(Err(failure)))) => (Outcome::Failed(failure.sanitized()), None),
        Ok(Ended::ByItself(Err(error))) => Broken {
            error: &error,
            phase,
            memory: &memory,
            limit,
            printed,
            stderr: &stderr,
        }
        .judge(),
        // As in `State::outside`: the guest has found a way to cause the panic.
        Err(_) => (Outcome::Trapped(PANICKED.into()), None),
    };
    let peak_memory_bytes = memory.peak() as u64;
    CallReport {
        outcome,
        answer,
        verdict,
        stack,
        duration: started.elapsed(),
        cpu: Duration::from_nanos(cpu_ns.load(Ordering::Relaxed)),
        peak_memory_bytes,
        dropped_log_lines: log.dropped(),
    }
}

enum Ended {
    ByItself(wasmtime::Result<Result<Returned, Failure>>),
    /// The host holds more for the guest than its memory limit allows.
    OutOfMemory,
    Late,
}

/// Yields this many times to the other calls of this thread, which takes no time if there are none.
/// After the deadline it returns at once, so that the guest continues and then ends with a
/// backtrace. wasmtime's own `Yield` would starve tokio's timers.
async fn let_others_run(turns: u32, deadline: Instant) {
    for _ in 0..turns {
        if Instant::now() >= deadline {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Adds up the CPU time of this thread while it polls. A poll stays on one thread, including the
/// guest's stack, and lasts at most one tick if the guest spins. The clock costs two system calls
/// per poll.
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
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn now_ms() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_millis())
}

/// Checks the result, or stores the answer or verdict beside it, if it can be passed on.
fn accepted(
    returned: Returned,
    max_bytes: usize,
    answer: &mut Option<Answer>,
    verdict: &mut Option<Verdict>,
) -> Outcome {
    let nothing = || "null".to_owned();
    let checked = match returned {
        Returned::Result(value) => check_json(&value, max_bytes).map(|()| value),
        Returned::Answer(given) => given.check(max_bytes).map(|()| {
            *answer = Some(given);
            nothing()
        }),
        Returned::Verdict(said) => said.check().map(|()| {
            *verdict = Some(said);
            nothing()
        }),
        Returned::Passed => Ok(nothing()),
    };
    checked.map_or_else(Outcome::InvalidResult, Outcome::Completed)
}
