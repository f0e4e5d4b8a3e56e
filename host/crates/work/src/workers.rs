//! Which queues this process works on: one worker per queue of an active plugin.
//!
//! This is a reconciler without input: [`Workers::reconcile`] compares the running workers with the
//! active manifests and removes the difference, whatever caused it. A swap that changes nothing
//! about a queue leaves its worker running.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use patchbay_model::QueueName;
use patchbay_model::manifest::{KeepSpec, QueueSpec};
use patchbay_queue::{Broker, Keep, WorkerConfig, WorkerHandle};
use patchbay_runtime::Runtime;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::AttemptHandler;
use crate::slots::Slots;

/// Defaults for what a queue's manifest leaves out, and settings that no manifest may choose.
#[derive(Debug, Clone)]
pub struct WorkerDefaults {
    /// How long a lock on a job lasts. Recovery from a crash takes about this time.
    pub lock: Duration,
    /// Interval of lock renewals.
    pub renew: Duration,
    /// How often a job may stall before it fails as `crashed-host`.
    pub max_stalls: u32,
    pub max_jobs: usize,
    /// Longest wait for the running jobs of a worker that stops.
    pub drain_limit: Duration,
    pub host: String,
}

/// How often to search for jobs without a lock, as a share of the lock time: every 5 s for a lock
/// of 30 s. After a crash, a host's jobs run again after at most the lock time and two of these
/// intervals: the first search marks them, the second takes them.
const LOOKS_PER_LOCK: u32 = 6;

/// Finished jobs kept in Redis when the manifest sets nothing: enough for Bull Board, and small
/// enough for Redis. Postgres keeps the history.
const KEEP_COMPLETED: Keep = Keep {
    age: Some(Duration::from_secs(24 * 3600)),
    count: Some(1_000),
};
const KEEP_FAILED: Keep = Keep {
    age: Some(Duration::from_secs(7 * 24 * 3600)),
    count: Some(5_000),
};

pub struct Workers {
    queues: Broker,
    handler: Arc<AttemptHandler>,
    slots: Arc<Slots>,
    runtime: Arc<Runtime>,
    defaults: WorkerDefaults,
    /// `None` from the start of the drain, which cannot be undone.
    workers: Mutex<Option<HashMap<QueueName, Running>>>,
}

struct Running {
    spec: QueueSpec,
    handle: Arc<WorkerHandle>,
    started: Instant,
}

/// The worker of one queue in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalWorker {
    /// Time since its start.
    pub age: Duration,
    /// Jobs that it runs now.
    pub active: usize,
    /// Whether the jobs of all workers use up the slots of this process.
    pub host_is_full: bool,
}

impl Workers {
    pub fn new(
        queues: Broker,
        handler: Arc<AttemptHandler>,
        runtime: Arc<Runtime>,
        defaults: WorkerDefaults,
    ) -> Self {
        let slots = Slots::new(defaults.max_jobs);
        Self {
            queues,
            handler,
            slots,
            runtime,
            defaults,
            workers: Mutex::new(Some(HashMap::new())),
        }
    }

    /// Makes the workers match the active manifests.
    pub async fn reconcile(&self) {
        let drain_limit = self.defaults.drain_limit;
        let wanted: HashMap<QueueName, QueueSpec> = self
            .runtime
            .registry()
            .snapshot()
            .iter()
            .flat_map(|revision| revision.manifest().queues.clone())
            .map(|spec| (spec.name.clone(), spec))
            .collect();
        self.queues.set_defaults(wanted.clone());
        let mut workers = self.workers.lock().await;
        let Some(workers) = workers.as_mut() else {
            return;
        };
        let outdated: Vec<QueueName> = workers
            .iter()
            .filter(|(name, running)| wanted.get(name) != Some(&running.spec))
            .map(|(name, _)| name.clone())
            .collect();
        for name in outdated {
            let Some(mut running) = workers.remove(&name) else {
                continue;
            };
            if let Some(spec) = wanted
                .get(&name)
                .filter(|spec| differs_only_in_concurrency(spec, &running.spec))
            {
                running.handle.set_concurrency(concurrency(spec));
                running.spec = spec.clone();
                workers.insert(name, running);
                continue;
            }
            // In the background: a job that takes minutes must not delay the swap, and its worker
            // fetches nothing more.
            info!(queue = %name, "worker stopping");
            running.handle.pause();
            tokio::spawn(async move { running.handle.drain(drain_limit).await });
        }
        for (name, spec) in wanted {
            workers.entry(name).or_insert_with(|| self.start(spec));
        }
    }

    /// Stops fetching at once and waits for running jobs. Returns how many still ran at the limit;
    /// their locks expire and another process takes them.
    pub async fn drain(&self) -> usize {
        let limit = self.defaults.drain_limit;
        let workers: Vec<Running> = self
            .workers
            .lock()
            .await
            .take()
            .into_iter()
            .flatten()
            .map(|(_, running)| running)
            .collect();
        for running in &workers {
            running.handle.pause();
        }
        let left = join_all(workers.iter().map(|running| running.handle.drain(limit)))
            .await
            .into_iter()
            .sum();
        if left > 0 {
            warn!(
                jobs = left,
                "Jobs were still running at the drain limit; their locks expire and they run again"
            );
        }
        left
    }

    pub async fn active(&self) -> usize {
        self.workers
            .lock()
            .await
            .iter()
            .flatten()
            .map(|(_, running)| running)
            .map(|running| running.handle.active())
            .sum()
    }

    /// The worker of a queue. It may have no connection of its own in Redis: it opens one when it
    /// first waits for jobs, which a worker at its limit or in front of an open breaker does not.
    pub async fn local(&self, queue: &QueueName) -> Option<LocalWorker> {
        let workers = self.workers.lock().await;
        let workers = workers.as_ref()?;
        let running = workers.get(queue)?;
        let all: usize = workers.values().map(|other| other.handle.active()).sum();
        Some(LocalWorker {
            age: running.started.elapsed(),
            active: running.handle.active(),
            host_is_full: all >= self.defaults.max_jobs,
        })
    }

    /// Number of running jobs by queue. Empty from the start of the drain.
    pub async fn active_by_queue(&self) -> Vec<(QueueName, usize)> {
        let workers = self.workers.lock().await;
        workers
            .iter()
            .flatten()
            .map(|(name, running)| (name.clone(), running.handle.active()))
            .collect()
    }

    fn start(&self, spec: QueueSpec) -> Running {
        let retention = spec.retention.clone().unwrap_or_default();
        let config = WorkerConfig {
            queue: spec.name.clone(),
            concurrency: concurrency(&spec),
            lock: self.defaults.lock,
            renew: self.defaults.renew,
            stalled_interval: self.defaults.lock / LOOKS_PER_LOCK,
            max_stalls: self.defaults.max_stalls,
            keep_completed: keep(retention.completed, KEEP_COMPLETED),
            keep_failed: keep(retention.failed, KEEP_FAILED),
            rate: spec
                .rate
                .as_ref()
                .map(|rate| (rate.max, Duration::from_millis(rate.per_ms))),
            host: self.defaults.host.clone(),
            threads: self.runtime.guests(),
            gate: self.handler.gates.gate(
                &spec.name,
                self.slots
                    .of_queue(&spec.name, spec.reserved.unwrap_or(0) as usize),
            ),
        };
        info!(queue = %spec.name, concurrency = config.concurrency, "worker starting");
        let handle = Arc::new(
            self.queues
                .spawn_worker(config, Arc::clone(&self.handler) as _),
        );
        Running {
            spec,
            handle,
            started: Instant::now(),
        }
    }
}

fn concurrency(spec: &QueueSpec) -> usize {
    spec.concurrency.unwrap_or(1) as usize
}

fn keep(spec: Option<KeepSpec>, default: Keep) -> Keep {
    spec.map_or(default, |spec| Keep {
        age: spec.age_s.map(Duration::from_secs),
        count: spec.count,
    })
}

/// Whether a running worker can stay: only the concurrency differs, which can be changed while it
/// runs.
fn differs_only_in_concurrency(a: &QueueSpec, b: &QueueSpec) -> bool {
    // Lists every key, without `..`: a new key does not compile until somebody has decided whether
    // a worker is built from it.
    let QueueSpec {
        rate,
        reserved,
        retention,
        name: _,
        concurrency: _,
        attempts,
        backoff,
        searchable,
        redact,
        jobs,
    } = a;
    // These are read for each job or call.
    let _ = (attempts, backoff, searchable, redact, jobs);
    *rate == b.rate && *reserved == b.reserved && *retention == b.retention
}
