//! Takes jobs from one queue, runs them and settles them.
//!
//! The loop is Patchbay's; every transition is one of BullMQ's scripts. One round trip settles a
//! job, records its attempt and takes the next one ([`settle`]); only an idle worker waits
//! ([`driver`]). The handler decides every retry, so BullMQ's own retry rules never apply. Locks
//! are renewed outside of the guests' threads, and a lost lock cancels the guest ([`locks`]). When
//! Redis is away, settlements are retried while the lock lasts, and fetching continues as soon as
//! Redis is back.

mod cancelled;
mod damage;
mod delivery;
mod driver;
mod fetch;
mod gate;
mod job_handle;
mod locks;
mod schedule;
mod settle;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use patchbay_model::QueueName;
use patchbay_model::attempt::AttemptRecord;
pub use patchbay_model::job::Keep;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Broker;

pub use delivery::{Delivery, Refusal};
pub use gate::{Gate, Pass, Unlimited};
pub use job_handle::JobHandle;
pub use locks::End;

#[derive(Debug, Clone)]
pub struct WorkerConfig {
    pub queue: QueueName,
    pub concurrency: usize,
    /// How long a lock lasts without renewal.
    pub lock: Duration,
    /// Interval of lock renewals.
    pub renew: Duration,
    /// Interval of the search for stalled jobs.
    pub stalled_interval: Duration,
    /// How often a job may stall before it fails.
    pub max_stalls: u32,
    pub keep_completed: Keep,
    pub keep_failed: Keep,
    /// How many jobs may start per time, spread evenly.
    pub rate: Option<(u64, Duration)>,
    /// Name of this process in lists of workers.
    pub host: String,
    /// The runtime for jobs. The worker's own tasks stay on the runtime that started it, so that a
    /// job that computes delays no lock.
    pub threads: tokio::runtime::Handle,
    /// Asked for a slot before a job is taken.
    pub gate: Arc<dyn Gate>,
}

#[async_trait]
pub trait Handler: Send + Sync + 'static {
    async fn handle(&self, delivery: Delivery) -> Settlement;
}

/// How to settle a job whose call has ended, and the record of its attempt. Redis stores both or
/// neither.
#[derive(Debug)]
pub struct Settlement {
    pub disposition: Disposition,
    /// For the stream of finished attempts; `None` if nothing ran.
    pub record: Option<AttemptRecord>,
    /// BullMQ refuses to complete a job whose children are not done. The job then runs again after
    /// this delay; with `None` it fails for good.
    pub again_after: Option<Duration>,
}

#[derive(Debug)]
pub enum Disposition {
    /// Done. The value is JSON.
    Complete {
        value: String,
    },
    Fail {
        reason: String,
        stack: String,
    },
    /// Runs again later. The attempt counts.
    Retry {
        delay: Duration,
        reason: String,
        stack: String,
    },
    /// Runs again later. The attempt does not count. `deferrals` is the number in a row that the
    /// next delivery reports.
    Defer {
        delay: Duration,
        deferrals: u32,
        reason: String,
        stack: String,
    },
    /// Puts the job back to the front of the queue, as if it had never been taken.
    HandBack,
}

/// Prefix of the name under which a host takes jobs. BullMQ stores the name in the job, so it shows
/// which worker had the job last.
pub(crate) const WORKER_PREFIX: &str = "patchbay@";

struct Inner {
    /// Without spaces, which Redis refuses in names of connections.
    worker_name: String,
    queues: Broker,
    config: WorkerConfig,
    handler: Arc<dyn Handler>,
    names: fetch::Names,
    locks: locks::Locks,
    control: watch::Sender<Control>,
    /// One task per running job, including the jobs that settlements have fetched next.
    running: TaskTracker,
    id: Uuid,
    /// Whether to check the types of the queue's keys before taking a job: at the start, and after
    /// a script has stopped at them.
    suspicious: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct Control {
    concurrency: usize,
    paused: bool,
    stopping: bool,
}

pub struct WorkerHandle {
    inner: Arc<Inner>,
    /// The driver, which may be about to start one more job.
    driver: TaskTracker,
    tasks: Vec<JoinHandle<()>>,
}

impl Broker {
    /// Works on a queue until the handle is drained.
    pub fn spawn_worker(&self, config: WorkerConfig, handler: Arc<dyn Handler>) -> WorkerHandle {
        WorkerHandle::spawn(self.clone(), config, handler)
    }
}

impl WorkerHandle {
    fn spawn(queues: Broker, config: WorkerConfig, handler: Arc<dyn Handler>) -> Self {
        let inner = Arc::new(Inner {
            worker_name: format!(
                "{WORKER_PREFIX}{}",
                config.host.replace(char::is_whitespace, "-")
            ),
            names: fetch::Names::new(&queues.keys(&config.queue)),
            locks: locks::Locks::default(),
            control: watch::Sender::new(Control {
                concurrency: config.concurrency.max(1),
                paused: false,
                stopping: false,
            }),
            running: TaskTracker::new(),
            id: Uuid::new_v4(),
            suspicious: AtomicBool::new(true),
            queues,
            config,
            handler,
        });
        let driver = TaskTracker::new();
        let tasks = vec![
            driver.spawn(driver::drive(Arc::clone(&inner))),
            tokio::spawn(locks::renew(Arc::clone(&inner))),
            tokio::spawn(locks::rescue_stalled(Arc::clone(&inner))),
            tokio::spawn(locks::obey_kills(Arc::clone(&inner))),
        ];
        driver.close();
        Self {
            inner,
            driver,
            tasks,
        }
    }

    pub fn queue(&self) -> &QueueName {
        &self.inner.config.queue
    }

    /// Stops taking jobs; running ones continue. Other workers are not affected.
    pub fn pause(&self) {
        self.inner
            .control
            .send_modify(|control| control.paused = true);
    }

    pub fn resume(&self) {
        self.inner
            .control
            .send_modify(|control| control.paused = false);
    }

    pub fn active(&self) -> usize {
        self.inner.running.len()
    }

    /// Changes how many jobs run at once. Running ones continue.
    pub fn set_concurrency(&self, concurrency: usize) {
        self.inner
            .control
            .send_modify(|control| control.concurrency = concurrency.max(1));
    }

    /// Stops taking jobs and waits for running ones, up to `limit`. Returns how many still ran
    /// then; their locks are no longer renewed.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.inner
            .control
            .send_modify(|control| control.stopping = true);
        self.inner.running.close();
        let ended = async {
            self.driver.wait().await;
            self.inner.running.wait().await;
        };
        let _in_time = tokio::time::timeout(limit, ended).await;
        let left = self.active();
        self.abort();
        left
    }

    fn abort(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.inner
            .control
            .send_modify(|control| control.stopping = true);
        self.abort();
    }
}
