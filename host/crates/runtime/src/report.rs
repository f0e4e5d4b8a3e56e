//! What is called in a guest, and the report of how the call went.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use patchbay_model::capability::Fields;
use patchbay_model::operation::{Answer, Caller};
use patchbay_model::outcome::Outcome;
use patchbay_model::webhook::{Verdict, WebhookRequest};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub struct JobCall {
    pub id: String,
    pub queue: String,
    pub name: String,
    pub data: String,
    pub attempt: u32,
    pub max_attempts: u32,
    pub enqueued_at_ms: u64,
    pub idempotency_key: String,
    pub correlation_id: String,
    pub platform: String,
    pub schedule_id: Option<String>,
    /// When the job was first deferred, Unix milliseconds.
    pub first_deferred_at_ms: Option<u64>,
    /// Counts the call while it waits and while it runs.
    pub occupancy: Arc<Occupancy>,
    /// Cancelling it ends the call as a host fault.
    pub cancel: CancellationToken,
}

#[derive(Debug, Clone)]
pub struct OperationCall {
    pub operation: String,
    pub input: String,
    /// Request headers for the guest.
    pub headers: Fields,
    pub caller: Caller,
    /// Limit of this call, where it is shorter than the revision's.
    pub deadline: Option<Duration>,
    /// Counts the call while it waits and while it runs.
    pub occupancy: Arc<Occupancy>,
}

#[derive(Debug, Clone)]
pub struct VerifyCall {
    pub request: WebhookRequest,
    /// Limit of this call, where it is shorter than the revision's.
    pub deadline: Duration,
    /// Counts the call while it waits and while it runs.
    pub occupancy: Arc<Occupancy>,
}

#[derive(Debug)]
pub struct CallReport {
    /// The result of a completed operation is `null` here; see `answer`.
    pub outcome: Outcome,
    /// The answer of a completed operation.
    pub answer: Option<Answer>,
    /// What a completed `verify` says.
    pub verdict: Option<Verdict>,
    /// The guest's backtrace with function names.
    pub stack: Option<String>,
    pub duration: Duration,
    /// CPU time of the call: instantiation, guest, and the host's part of host calls up to their
    /// hand-over. Measured by the thread's clock around each poll. If a call is cancelled, the part
    /// of its last tick (1 ms) is missing.
    pub cpu: Duration,
    /// Peak memory, including the host's part; 0 if the call had no slot or was cancelled.
    pub peak_memory_bytes: u64,
    /// Number of lines beyond the log limit.
    pub dropped_log_lines: u64,
}

#[derive(Debug, Default)]
pub struct Occupancy {
    pub(crate) waiting: AtomicUsize,
    pub(crate) running: AtomicUsize,
}

impl Occupancy {
    /// Calls that wait for the plugin's own limit or for a slot of the pool.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}

pub(crate) enum Entry {
    Job(Box<JobCall>),
    Operation(Box<OperationCall>),
    Verify(Box<VerifyCall>),
    SelfTest,
    /// Makes an instance and calls nothing, with this many bytes of memory.
    Start {
        memory: usize,
    },
}
