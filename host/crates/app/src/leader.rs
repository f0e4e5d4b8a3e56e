//! Tasks that one process of the fleet does for all: rounds wherever this process leads, as a
//! [`Service`] of every process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use patchbay_store::{Elector, LeaderTask, Leadership, Store};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::service::{Service, ServiceHealth};

/// At the end. The others find out by themselves.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// When the next round is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    AtOnce,
    /// After [`LedTask::every`], or when the task is woken.
    Later,
}

/// A task of the leader. Every process has one; only the leader's does rounds.
#[async_trait]
pub(crate) trait LedTask: Send + Sync {
    const TASK: LeaderTask;
    const NAME: &'static str;
    /// What failing rounds mean, for the log and for /readyz: a sentence without its full stop.
    const FAILING: &'static str;

    fn every(&self) -> Duration;

    /// Before each election: whether there may be anything to do. A process that has nothing to do
    /// holds no connection for it.
    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        Ok(true)
    }

    /// In the leader. Dropped at a stop: a statement that is cut short is undone.
    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next>;

    async fn follow(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// After anything of a round has failed, the election included.
    async fn on_error(&mut self, _error: &anyhow::Error) {}

    /// Ends the wait for the next round early.
    async fn woken(&self) {
        std::future::pending().await
    }

    /// At the end, beside the resignation.
    async fn farewell(&mut self) {}
}

/// Does the rounds of a task.
pub(crate) struct Led<T> {
    store: Store,
    task: Mutex<T>,
    is_failing: AtomicBool,
}

impl<T: LedTask> Led<T> {
    pub(crate) fn new(store: Store, task: T) -> Self {
        Self {
            store,
            task: Mutex::new(task),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Of what fails, the first is told, and that it works again.
    fn tell(&self, ended: &anyhow::Result<Next>) {
        let was_failing = self.is_failing.swap(ended.is_err(), Ordering::Relaxed);
        match ended {
            Err(error) if !was_failing => {
                error!(error = format!("{error:#}"), "{}; trying again", T::FAILING)
            }
            Ok(_) if was_failing => info!(service = T::NAME, "works again"),
            _ => {}
        }
    }
}

#[async_trait]
impl<T: LedTask> Service for Led<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut task = self.task.lock().await;
        let mut elector = self.store.elector(T::TASK);
        let rounds = async {
            loop {
                let ended = round(&mut elector, &mut *task).await;
                self.tell(&ended);
                if let Err(error) = &ended {
                    // Another process may fare better.
                    elector.resign().await;
                    task.on_error(error).await;
                }
                if !matches!(ended, Ok(Next::AtOnce)) {
                    tokio::select! {
                        () = tokio::time::sleep(task.every()) => {}
                        () = task.woken() => {}
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = rounds => {}
        }
        let farewell = async { tokio::join!(elector.resign(), task.farewell()) };
        tokio::time::timeout(FAREWELL_LIMIT, farewell).await.ok();
        Ok(())
    }

    fn health(&self) -> ServiceHealth {
        if self.is_failing.load(Ordering::Relaxed) {
            ServiceHealth::Failing(T::FAILING)
        } else {
            ServiceHealth::Ok
        }
    }
}

async fn round<T: LedTask>(elector: &mut Elector, task: &mut T) -> anyhow::Result<Next> {
    if !task.is_needed().await? {
        elector.resign().await;
        return Ok(Next::Later);
    }
    match elector.try_lead().await? {
        Some(mut lead) => task.round(&mut lead).await,
        None => task.follow().await.map(|()| Next::Later),
    }
}
