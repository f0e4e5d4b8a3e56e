//! What is called in a guest, and how the call went.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use patchbay_model::operation::{Answer, Caller};
use patchbay_model::outcome::Outcome;
use tokio_util::sync::CancellationToken;

/// A job for a guest.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
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
    pub input: String,
    pub caller: Caller,
    /// Counts the call while it waits and runs.
    pub occupancy: Arc<Occupancy>,
}

#[derive(Debug)]
pub struct CallReport {
    /// How it ended. Of an operation that completed, the result is `null`.
    pub outcome: Outcome,
    /// What an operation that completed has answered.
    pub answer: Option<Answer>,
    /// The guest's backtrace with function names.
    pub stack: Option<String>,
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
    pub(crate) waiting: AtomicUsize,
    pub(crate) running: AtomicUsize,
}

impl Occupancy {
    /// Wait for a place: the plugin's own limit, or a slot of the pool.
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
    SelfTest,
    /// None: the instance is made, and that is all. With so many bytes of memory.
    Start {
        memory: usize,
    },
}
