//! Random operations on a real queue, compared with a model of a few lines: counts after each step,
//! order and states at the end.
//!
//! Needs a Redis: `make test` sets PATCHBAY_TEST_REDIS_URL.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use patchbay_model::job::{JobState, NewJob};
use patchbay_model::{JobId, QueueName};
use patchbay_queue::{
    Broker, Delivery, Disposition, Gate, Handler, Keep, Pass, RedisConfig, Settlement, Start,
    Unlimited, WorkerConfig, WorkerHandle,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::watch;

/// Longer than any test, so such jobs never become due.
const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone)]
enum Op {
    Add { priority: u32 },
    AddDelayed { priority: u32 },
    Pause,
    Resume,
    Run(End),
    Promote(usize),
    Remove(usize),
    SetPriority(usize, u32),
    RetryFailed(usize),
    RetryCompleted(usize),
    RetryAll,
    Clean(bool),
    Drain { delayed: bool },
}

#[derive(Debug, Clone, Copy)]
enum End {
    Complete,
    Fail,
    Retry,
    HandBack,
}

fn op() -> impl Strategy<Value = Op> {
    let end = prop_oneof![
        Just(End::Complete),
        Just(End::Fail),
        Just(End::Retry),
        Just(End::HandBack)
    ];
    prop_oneof![
        4 => (0..3_u32).prop_map(|priority| Op::Add { priority }),
        2 => (0..2_u32).prop_map(|priority| Op::AddDelayed { priority }),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        6 => end.prop_map(Op::Run),
        1 => (0..8_usize).prop_map(Op::Promote),
        1 => (0..8_usize).prop_map(Op::Remove),
        1 => (0..8_usize, 0..3_u32).prop_map(|(place, priority)| Op::SetPriority(place, priority)),
        1 => (0..8_usize).prop_map(Op::RetryFailed),
        1 => (0..8_usize).prop_map(Op::RetryCompleted),
        1 => Just(Op::RetryAll),
        1 => any::<bool>().prop_map(Op::Clean),
        1 => any::<bool>().prop_map(|delayed| Op::Drain { delayed }),
    ]
}

/// What BullMQ promises, without Redis.
#[derive(Debug, Default)]
struct Model {
    /// The next to run comes first. Each job has its own priority, which counts again when it
    /// moves.
    waiting: VecDeque<(u32, String)>,
    /// In the same order, with priorities of 1 and more.
    prioritized: Vec<(u32, String)>,
    delayed: Vec<(u32, String)>,
    completed: Vec<(u32, String)>,
    failed: Vec<(u32, String)>,
    paused: bool,
}

impl Model {
    /// Puts the job at the end of its class.
    fn wait(&mut self, priority: u32, id: String) {
        if priority == 0 {
            return self.waiting.push_back((0, id));
        }
        let place = self
            .prioritized
            .iter()
            .position(|(other, _)| *other > priority)
            .unwrap_or(self.prioritized.len());
        self.prioritized.insert(place, (priority, id));
    }

    fn hand_back(&mut self, priority: u32, id: String) {
        if priority == 0 {
            return self.waiting.push_front((0, id));
        }
        let place = self
            .prioritized
            .iter()
            .position(|(other, _)| *other >= priority)
            .unwrap_or(self.prioritized.len());
        self.prioritized.insert(place, (priority, id));
    }

    fn take(&mut self) -> Option<(u32, String)> {
        if self.paused {
            return None;
        }
        let unprioritized = self.waiting.pop_front();
        unprioritized.or_else(|| (!self.prioritized.is_empty()).then(|| self.prioritized.remove(0)))
    }

    fn counts(&self) -> [u64; 5] {
        let lists = [
            &self.prioritized,
            &self.delayed,
            &self.completed,
            &self.failed,
        ];
        let mut counts = [self.waiting.len() as u64, 0, 0, 0, 0];
        for (count, list) in counts[1..].iter_mut().zip(lists) {
            *count = list.len() as u64;
        }
        counts
    }
}

/// Ends the one job that it gets as the test says, and takes no other.
#[derive(Default)]
struct OneAtATime {
    worker: Mutex<Option<Arc<WorkerHandle>>>,
    end: Mutex<Option<End>>,
    ran: Mutex<Vec<String>>,
}

#[async_trait]
impl Handler for OneAtATime {
    async fn handle(&self, delivery: Delivery) -> Settlement {
        if let Some(worker) = &*self.worker.lock() {
            worker.pause();
        }
        self.ran.lock().push(delivery.key.id.to_string());
        let (reason, stack) = (String::from("as the test says"), String::from("nowhere"));
        let disposition = match self.end.lock().take() {
            Some(End::Complete) => Disposition::Complete {
                value: "null".into(),
            },
            Some(End::Fail) => Disposition::Fail { reason, stack },
            Some(End::Retry) => Disposition::Retry {
                delay: HOUR,
                reason,
                stack,
            },
            Some(End::HandBack) | None => Disposition::HandBack,
        };
        Settlement {
            disposition,
            record: None,
            again_after: None,
        }
    }
}

/// Stays shut until the worker has been told to pause. A fetch that began earlier would take the
/// first job.
#[derive(Debug)]
struct OpensLate(watch::Sender<bool>);

impl Gate for OpensLate {
    fn try_enter(&self) -> Option<Box<dyn Pass>> {
        self.0.borrow().then(|| Unlimited.try_enter()).flatten()
    }

    fn enter(&self) -> BoxFuture<'static, Box<dyn Pass>> {
        let mut open = self.0.subscribe();
        async move {
            open.wait_for(|open| *open)
                .await
                .expect("the gate is there as long as its worker");
            Unlimited.enter().await
        }
        .boxed()
    }
}

struct World {
    queues: Broker,
    queue: QueueName,
    handler: Arc<OneAtATime>,
    worker: Arc<WorkerHandle>,
    model: Model,
}

fn id(text: &str) -> JobId {
    text.parse().expect("BullMQ's own ids are valid")
}

impl World {
    async fn new(url: &str) -> Self {
        let prefix = format!("m{}", uuid::Uuid::new_v4().simple());
        let config = RedisConfig {
            url: url.to_owned(),
            own_prefix: format!("{prefix}-own"),
            prefix,
            ..RedisConfig::default()
        };
        let queues = Broker::connect(config).await.expect("Redis answers");
        let queue: QueueName = "q".parse().expect("a name");
        let handler = Arc::new(OneAtATime::default());
        let gate = Arc::new(OpensLate(watch::Sender::new(false)));
        let config = WorkerConfig {
            queue: queue.clone(),
            concurrency: 1,
            lock: Duration::from_secs(30),
            renew: Duration::from_secs(10),
            stalled_interval: Duration::from_secs(30),
            max_stalls: 1,
            keep_completed: Keep::default(),
            keep_failed: Keep::default(),
            rate: None,
            host: "model".into(),
            threads: tokio::runtime::Handle::current(),
            gate: Arc::clone(&gate) as _,
        };
        let worker = Arc::new(queues.spawn_worker(config, Arc::clone(&handler) as _));
        worker.pause();
        gate.0.send_replace(true);
        *handler.worker.lock() = Some(Arc::clone(&worker));
        Self {
            queues,
            queue,
            handler,
            worker,
            model: Model::default(),
        }
    }

    async fn add(&mut self, priority: u32, delay: Option<Duration>) -> String {
        let job = NewJob {
            priority: Some(priority),
            delay,
            ..NewJob::new(self.queue.clone(), "n", "{}")
        };
        self.queues
            .add(vec![job])
            .await
            .expect("added")
            .remove(0)
            .to_string()
    }

    async fn apply(&mut self, op: &Op) {
        let (queues, queue) = (self.queues.clone(), self.queue.clone());
        match *op {
            Op::Add { priority } => {
                let id = self.add(priority, None).await;
                self.model.wait(priority, id);
            }
            Op::AddDelayed { priority } => {
                let id = self.add(priority, Some(HOUR)).await;
                self.model.delayed.push((priority, id));
            }
            Op::Pause => {
                queues.pause(&queue).await.expect("paused");
                self.model.paused = true;
            }
            Op::Resume => {
                queues.resume(&queue).await.expect("resumed");
                self.model.paused = false;
            }
            Op::Run(end) => self.run(end).await,
            Op::Promote(place) => {
                if place < self.model.delayed.len() {
                    let (priority, job) = self.model.delayed.remove(place);
                    queues.promote(&queue, &id(&job)).await.expect("promoted");
                    self.model.wait(priority, job);
                }
            }
            Op::Remove(place) => self.remove(place).await,
            Op::SetPriority(place, priority) => {
                let job = if place < self.model.waiting.len() {
                    self.model.waiting.remove(place).map(|(_, job)| job)
                } else {
                    let place = place - self.model.waiting.len();
                    (place < self.model.prioritized.len())
                        .then(|| self.model.prioritized.remove(place).1)
                };
                if let Some(job) = job {
                    queues
                        .set_priority(&queue, &id(&job), priority)
                        .await
                        .expect("changed");
                    self.model.wait(priority, job);
                }
            }
            Op::RetryFailed(place) => {
                if place < self.model.failed.len() {
                    let (priority, job) = self.model.failed.remove(place);
                    queues.retry(&queue, &id(&job)).await.expect("retried");
                    self.model.wait(priority, job);
                }
            }
            Op::RetryCompleted(place) => {
                if place < self.model.completed.len() {
                    let (priority, job) = self.model.completed.remove(place);
                    queues.retry(&queue, &id(&job)).await.expect("retried");
                    self.model.wait(priority, job);
                }
            }
            Op::RetryAll => {
                let moved = queues
                    .move_all_to_wait(&queue, JobState::Failed)
                    .await
                    .expect("moved");
                assert_eq!(moved, self.model.failed.len() as u64);
                // All at once and without priorities, as BullMQ's script does it. Their order among
                // themselves is not promised.
                let mut jobs: Vec<(u32, String)> = self.model.failed.drain(..).collect();
                let waiting = self.ids(JobState::Waiting).await;
                jobs.sort_by_key(|(_, job)| waiting.iter().position(|other| other == job));
                self.model.waiting.extend(jobs);
            }
            Op::Clean(completed) => {
                let (state, list) = if completed {
                    (JobState::Completed, &mut self.model.completed)
                } else {
                    (JobState::Failed, &mut self.model.failed)
                };
                let cleaned = queues
                    .clean(&queue, state, Duration::ZERO, 1_000)
                    .await
                    .expect("cleaned");
                assert_eq!(cleaned.removed, list.len() as u64);
                list.clear();
            }
            Op::Drain { delayed } => {
                let waiting = self.model.waiting.len() + self.model.prioritized.len();
                let expected = waiting + if delayed { self.model.delayed.len() } else { 0 };
                let drained = queues.drain(&queue, delayed).await.expect("drained");
                assert_eq!(drained.removed, expected as u64);
                self.model.waiting.clear();
                self.model.prioritized.clear();
                if delayed {
                    self.model.delayed.clear();
                }
            }
        }
    }

    async fn run(&mut self, end: End) {
        let Some((priority, expected)) = self.model.take() else {
            return;
        };
        *self.handler.end.lock() = Some(end);
        let before = self.handler.ran.lock().len();
        self.worker.resume();
        let ran = async {
            while self.handler.ran.lock().len() == before || self.worker.active() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ran)
            .await
            .expect("a job waits, so one runs");
        assert_eq!(
            self.handler.ran.lock()[before..],
            *std::slice::from_ref(&expected),
            "the next in line, and only that"
        );
        match end {
            End::Complete => self.model.completed.push((priority, expected)),
            End::Fail => self.model.failed.push((priority, expected)),
            End::Retry => self.model.delayed.push((priority, expected)),
            End::HandBack => self.model.hand_back(priority, expected),
        }
    }

    async fn remove(&mut self, mut place: usize) {
        let model = &mut self.model;
        let mut job = None;
        if place < model.waiting.len() {
            job = model.waiting.remove(place).map(|(_, job)| job);
        } else {
            place -= model.waiting.len();
            for list in [
                &mut model.prioritized,
                &mut model.delayed,
                &mut model.completed,
                &mut model.failed,
            ] {
                if place < list.len() {
                    job = Some(list.remove(place).1);
                    break;
                }
                place -= list.len();
            }
        }
        if let Some(job) = job {
            self.queues
                .remove(&self.queue, &id(&job))
                .await
                .expect("removed");
            assert!(
                self.queues
                    .job(&self.queue, &id(&job))
                    .await
                    .expect("an answer")
                    .is_none()
            );
        }
    }

    async fn ids(&self, state: JobState) -> Vec<String> {
        // Page by page, so that cursors are compared with the model's order, too.
        let (mut ids, mut start) = (Vec::new(), Start::Place(0));
        loop {
            let page = self
                .queues
                .jobs(&self.queue, state, start, 3)
                .await
                .expect("a list");
            ids.extend(page.jobs.into_iter().map(|job| job.id));
            match page.next {
                Some(next) => start = Start::Behind(next),
                None => return ids,
            }
        }
    }

    async fn compare_counts(&self, after: &Op) {
        let counts = self.queues.counts(&self.queue).await.expect("counts");
        let seen = [
            counts.waiting,
            counts.prioritized,
            counts.delayed,
            counts.completed,
            counts.failed,
        ];
        assert_eq!(
            (seen, counts.active, counts.paused),
            (self.model.counts(), 0, self.model.paused),
            "after {after:?}"
        );
    }

    async fn compare_order(&self) {
        let names =
            |list: &[(u32, String)]| list.iter().map(|(_, job)| job.clone()).collect::<Vec<_>>();
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list
        };
        assert_eq!(
            self.ids(JobState::Waiting).await,
            names(&Vec::from(self.model.waiting.clone()))
        );
        assert_eq!(
            self.ids(JobState::Prioritized).await,
            names(&self.model.prioritized)
        );
        for (state, list) in [
            (JobState::Delayed, &self.model.delayed),
            (JobState::Completed, &self.model.completed),
            (JobState::Failed, &self.model.failed),
        ] {
            // Within a millisecond, these sets are ordered by id.
            assert_eq!(
                sorted(self.ids(state).await),
                sorted(names(list)),
                "{state}"
            );
        }
    }
}

#[test]
fn random_operations_leave_the_queue_as_a_simple_model_says() {
    let Ok(url) = std::env::var("PATCHBAY_TEST_REDIS_URL") else {
        panic!("run `make test`, or set PATCHBAY_TEST_REDIS_URL");
    };
    let cases = if std::env::var_os("PATCHBAY_TEST_FULL").is_some() {
        1_000
    } else {
        100
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&proptest::collection::vec(op(), 1..40), |ops| {
        runtime.block_on(async {
            let mut world = World::new(&url).await;
            for op in &ops {
                world.apply(op).await;
                world.compare_counts(op).await;
            }
            world.compare_order().await;
            world.worker.drain(Duration::from_secs(5)).await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
