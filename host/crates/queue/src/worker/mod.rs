//! Taking jobs from one queue, running them, settling them.
//!
//! The loop is ours, every transition is one of upstream's scripts. One round trip settles a job, records its attempt and takes the next
//! one ([`settle`]); only a worker without jobs waits ([`driver`]). Every retry is decided by the handler, so BullMQ's own retry rules never
//! apply. Locks are renewed off the guests' threads, and a lost lock cancels the guest ([`locks`]). When Redis is away, settlements are
//! tried again while the lock lasts, and fetching goes on as soon as it is back.

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

/// How to work on a queue.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
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
    /// Where jobs run. The worker's own duties stay where it was started, so that a job that computes holds up no lock.
    pub threads: tokio::runtime::Handle,
    /// Asked before a job is taken.
    pub gate: Arc<dyn Gate>,
}

#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one to its end.
    async fn handle(&self, delivery: Delivery) -> Settlement;
}

/// What to do with a job whose call has ended, and what to remember of it. Redis takes both or neither.
#[derive(Debug)]
pub struct Settlement {
    pub disposition: Disposition,
    /// For the stream of finished attempts; absent when nothing ran.
    pub record: Option<AttemptRecord>,
    /// When a job is completed whose children are not done, which BullMQ refuses: after how long it runs again. Absent: it fails for good.
    pub again_after: Option<Duration>,
}

/// What to do with a job now.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Disposition {
    /// Done; the value is JSON.
    Complete {
        value: String,
    },
    Fail {
        reason: String,
        stack: String,
    },
    /// Again later; the attempt counts.
    Retry {
        delay: Duration,
        reason: String,
        stack: String,
    },
    /// Again later; the attempt does not count. `deferrals`: how many in a row the next delivery is to tell.
    Defer {
        delay: Duration,
        deferrals: u32,
        reason: String,
        stack: String,
    },
    /// Back to the front of the queue as if never taken.
    HandBack,
}

/// Begins the name under which a host takes jobs, and which BullMQ leaves in them: so they tell which worker had them last.
pub(crate) const OURS: &str = "patchbay@";

/// What the worker's tasks share.
struct Inner {
    /// Redis takes no spaces in the names of connections.
    worker_name: String,
    queues: Broker,
    config: WorkerConfig,
    handler: Arc<dyn Handler>,
    names: fetch::Names,
    locks: locks::Locks,
    control: watch::Sender<Control>,
    /// One task per job that runs, or that a settlement has fetched next.
    running: TaskTracker,
    id: Uuid,
    /// Whether the types of the queue's keys are looked at before a job is taken: at first, and once a script has stopped at them.
    suspicious: AtomicBool,
}

/// What the worker may do now.
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
            worker_name: format!("{OURS}{}", config.host.replace(char::is_whitespace, "-")),
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
        Self { inner, driver, tasks }
    }

    pub fn queue(&self) -> &QueueName {
        &self.inner.config.queue
    }

    /// Takes no more jobs; running ones go on. Local: other workers are not affected.
    pub fn pause(&self) {
        self.inner.control.send_modify(|control| control.paused = true);
    }

    pub fn resume(&self) {
        self.inner.control.send_modify(|control| control.paused = false);
    }

    /// Jobs that run now.
    pub fn active(&self) -> usize {
        self.inner.running.len()
    }

    /// Changes how many run at once; those that run go on.
    pub fn set_concurrency(&self, concurrency: usize) {
        self.inner.control.send_modify(|control| control.concurrency = concurrency.max(1));
    }

    /// Stops taking jobs and waits for running ones. Gives how many still ran at the limit; they stop being renewed.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.inner.control.send_modify(|control| control.stopping = true);
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
        self.inner.control.send_modify(|control| control.stopping = true);
        self.abort();
    }
}
