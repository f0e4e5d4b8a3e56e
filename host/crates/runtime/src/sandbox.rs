//! Where guests run: the engine, the guests' threads, the slots, and the host's limits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::Engine;

use crate::{RuntimeError, engine};

/// Defaults for what a manifest leaves out, and ceilings for what it sets.
#[derive(Debug, Clone)]
pub struct HostLimits {
    pub default_memory_mb: u32,
    pub max_memory_mb: u32,
    pub default_deadline: Duration,
    pub max_deadline: Duration,
    pub max_result_bytes: usize,
    pub max_log_bytes: usize,
    pub max_component_bytes: usize,
}

/// The pool of instances, counted in core instances. A call takes as many as its component has, and
/// at least four.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    pub slots: usize,
    pub free: usize,
}

/// Every revision holds it, so that it lives as long as any of them can be called.
pub(crate) struct Sandbox {
    pub(crate) limits: HostLimits,
    /// In core instances; see [`engine::LEAST_WEIGHT`].
    pub(crate) slots: Arc<Semaphore>,
    /// Likewise, for requests of vendors that are being verified.
    pub(crate) verify_slots: Arc<Semaphore>,
    capacity: usize,
    pub(crate) engine: Engine,
    /// Guests have their own threads, so that lock renewal, health and HTTP never wait for a
    /// spinning one. `None` only while dropping.
    guests: Option<tokio::runtime::Runtime>,
    /// The runtime for capabilities, because connections belong to the host's own threads.
    pub(crate) host: tokio::runtime::Handle,
}

impl Sandbox {
    /// Builds the engine and starts its epoch ticker. Must be called on the host's threads.
    pub(crate) fn new(
        max_calls: usize,
        threads: usize,
        limits: HostLimits,
    ) -> Result<Self, RuntimeError> {
        let calls = u32::try_from(max_calls.max(1)).unwrap_or(u32::MAX);
        let verifications = u32::try_from(threads.max(1)).unwrap_or(1).saturating_mul(2);
        let pooled = calls.saturating_add(engine::capacity(verifications) / engine::LEAST_WEIGHT);
        let engine = engine::runner(pooled, (limits.max_memory_mb as usize) << 20)?;
        engine::start_ticker(&engine)?;
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("guest")
            .on_thread_start(yield_to_host_threads)
            .enable_all()
            .build()
            .map_err(|source| RuntimeError::Io {
                what: "cannot start the guests' threads",
                source,
            })?;
        let capacity = engine::capacity(calls) as usize;
        Ok(Self {
            limits,
            slots: Arc::new(Semaphore::new(capacity)),
            verify_slots: Arc::new(Semaphore::new(engine::capacity(verifications) as usize)),
            capacity,
            engine,
            guests: Some(guests),
            host: tokio::runtime::Handle::current(),
        })
    }

    pub(crate) fn pool(&self) -> Pool {
        Pool {
            slots: self.capacity,
            free: self.slots.available_permits(),
        }
    }

    pub(crate) fn guests(&self) -> tokio::runtime::Handle {
        self.guests
            .as_ref()
            .map_or_else(|| self.host.clone(), |guests| guests.handle().clone())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The ordinary drop blocks, which an async thread must not do.
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

/// Lowers the priority of this thread. When processors are short, the kernel then prefers the
/// threads that answer probes and renew locks: 5 gives them about three times the share. On Linux,
/// priority belongs to a thread. Best effort: without it only latency under load suffers.
fn yield_to_host_threads() {
    let _ = rustix::process::nice(5);
}
