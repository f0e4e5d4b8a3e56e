//! What runs in the background: each task is a [`Service`], and [`Services`] starts, watches and
//! stops them all.
//!
//! A service that ends although nobody has stopped it (it returns, fails or panics) is logged by
//! its name and started again after a pause that grows while it keeps ending. It shows in the
//! details of /readyz and counts in `patchbay_service_restarts_total`. It never makes the host not
//! ready: a balancer that turned away from every host whose mirror fails would turn a small fault
//! into an outage, and what jobs and requests need (Postgres, Redis, the clock, up-to-date plugins)
//! has readiness reasons of its own.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

const RESTARTING: Restarting = Restarting {
    first_pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(30),
    settled_after: Duration::from_secs(60),
};

/// How a service is restarted.
#[derive(Debug, Clone, Copy)]
struct Restarting {
    /// Doubled with each end in a row.
    first_pause: Duration,
    longest_pause: Duration,
    /// Having run so long, a service counts as well again.
    settled_after: Duration,
}

impl Restarting {
    fn pause(&self, ends_in_a_row: u32) -> Duration {
        self.first_pause
            .saturating_mul(1 << ends_in_a_row.saturating_sub(1).min(16))
            .min(self.longest_pause)
    }
}

/// One background task of the process.
#[async_trait]
pub trait Service: Send + Sync {
    /// Kebab-case, stable: it stands in the log, in /readyz and in /metrics.
    fn name(&self) -> &'static str;

    /// Works until `stop`. May be called again after it has ended early, so what must outlive a
    /// panic belongs to `self`.
    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()>;

    /// Takes nothing new and waits for what it has begun, while every service still runs.
    async fn drain(&self) -> Drained {
        Drained::default()
    }

    /// The last step: `run` has ended, and every service that was listed after this one is gone.
    async fn finish(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Asked while `run` runs.
    fn health(&self) -> ServiceHealth {
        ServiceHealth::Ok
    }
}

/// What a drain has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that still run.
    pub left: usize,
}

/// How a service that runs fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceHealth {
    Ok,
    /// It runs, and does not do its work. What that means, as a sentence without its full stop.
    Failing(&'static str),
}

/// A service that only runs.
pub(crate) fn task<F>(
    name: &'static str,
    run: impl Fn(CancellationToken) -> F + Send + Sync + 'static,
) -> Arc<dyn Service>
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(Task { name, run })
}

struct Task<R> {
    name: &'static str,
    run: R,
}

#[async_trait]
impl<F, R> Service for Task<R>
where
    F: Future<Output = ()> + Send + 'static,
    R: Fn(CancellationToken) -> F + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        (self.run)(stop).await;
        Ok(())
    }
}

/// How the services fare. Made before them, since some of them show it.
pub struct ServiceStatus {
    restarting: Restarting,
    watched: Mutex<Vec<Watched>>,
}

impl Default for ServiceStatus {
    fn default() -> Self {
        Self {
            restarting: RESTARTING,
            watched: Mutex::default(),
        }
    }
}

struct Watched {
    name: &'static str,
    /// Weak: the HTTP server shows this status, and is a service.
    service: Weak<dyn Service>,
    restarts: u64,
    /// Without a quiet time in between.
    ends: Ends,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    in_a_row: u32,
    last: Option<Instant>,
}

/// What is wrong with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceTrouble {
    /// It ends again and again, or has ended lately.
    Ends { times: u32, last_ago: Duration },
    /// See [`ServiceHealth::Failing`].
    Fails(&'static str),
}

impl ServiceStatus {
    /// Services in trouble, by name.
    pub fn troubles(&self) -> Vec<(&'static str, ServiceTrouble)> {
        let trouble =
            |watched: &Watched| match (watched.ends.last, watched.service.upgrade()?.health()) {
                (Some(last), _) if last.elapsed() < self.restarting.settled_after => {
                    Some(ServiceTrouble::Ends {
                        times: watched.ends.in_a_row,
                        last_ago: last.elapsed(),
                    })
                }
                (_, ServiceHealth::Failing(what)) => Some(ServiceTrouble::Fails(what)),
                (_, ServiceHealth::Ok) => None,
            };
        self.watched()
            .iter()
            .filter_map(|watched| Some((watched.name, trouble(watched)?)))
            .collect()
    }

    /// How often each was restarted since the start of the process.
    pub fn restarts(&self) -> Vec<(&'static str, u64)> {
        self.watched()
            .iter()
            .map(|watched| (watched.name, watched.restarts))
            .collect()
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.watched.lock()
    }

    /// Gives the number of ends in a row, this one included.
    fn ended(&self, place: usize, ran_for: Duration) -> u32 {
        let mut all = self.watched();
        let Some(watched) = all.get_mut(place) else {
            return 1;
        };
        watched.restarts += 1;
        let before = if ran_for >= self.restarting.settled_after {
            0
        } else {
            watched.ends.in_a_row
        };
        watched.ends = Ends {
            in_a_row: before.saturating_add(1),
            last: Some(Instant::now()),
        };
        watched.ends.in_a_row
    }
}

/// Every service of a process, in the order in which they are started; drained and stopped from the
/// last to the first.
pub struct Services {
    status: Arc<ServiceStatus>,
    listed: Vec<Arc<dyn Service>>,
}

impl Services {
    pub fn new(status: Arc<ServiceStatus>) -> Self {
        Self {
            status,
            listed: Vec::new(),
        }
    }

    /// Lists a service, if there is one.
    #[must_use]
    pub fn and(mut self, service: impl Into<Option<Arc<dyn Service>>>) -> Self {
        self.listed.extend(service.into());
        self
    }

    pub fn start(self) -> RunningServices {
        let stop = CancellationToken::new();
        let watched = self.listed.iter().map(|service| Watched {
            name: service.name(),
            service: Arc::downgrade(service),
            restarts: 0,
            ends: Ends::default(),
        });
        *self.status.watched() = watched.collect();
        let start = |(place, service): (usize, Arc<dyn Service>)| {
            let task = keep_running(
                Arc::clone(&service),
                place,
                Arc::clone(&self.status),
                stop.clone(),
            );
            (service, tokio::spawn(task))
        };
        RunningServices {
            running: self.listed.into_iter().enumerate().map(start).collect(),
            stop,
        }
    }
}

/// Services that were started.
pub struct RunningServices {
    running: Vec<(Arc<dyn Service>, JoinHandle<()>)>,
    stop: CancellationToken,
}

impl RunningServices {
    /// Drains one after the other, from the last to the first.
    pub async fn drain(&self) -> Drained {
        let mut all = Drained::default();
        for (service, _) in self.running.iter().rev() {
            all.left += service.drain().await.left;
        }
        all
    }

    /// Tells all to stop at once. Then each, from the last to the first, has so long to end and to
    /// finish; one that takes longer is named in the log and left behind.
    pub async fn stop(self, within: Duration) {
        self.stop.cancel();
        for (service, mut running) in self.running.into_iter().rev() {
            let end = async {
                (&mut running).await.ok();
                AssertUnwindSafe(service.finish())
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|panic| Err(panicked(&*panic)))
            };
            match tokio::time::timeout(within, end).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(
                        service = service.name(),
                        error = format!("{error:#}"),
                        "a service could not finish its work"
                    );
                }
                Err(_) => {
                    running.abort();
                    warn!(
                        service = service.name(),
                        "a service did not end in time and was aborted"
                    );
                }
            }
        }
    }
}

async fn keep_running(
    service: Arc<dyn Service>,
    place: usize,
    status: Arc<ServiceStatus>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let began = Instant::now();
        let ended = AssertUnwindSafe(service.run(stop.clone()))
            .catch_unwind()
            .await;
        let ended = ended.unwrap_or_else(|panic| Err(panicked(&*panic)));
        if stop.is_cancelled() {
            if let Err(error) = ended {
                warn!(
                    service = service.name(),
                    error = format!("{error:#}"),
                    "a service has failed while it stopped"
                );
            }
            return;
        }
        let why = ended.map_or_else(
            |error| format!("{error:#}"),
            |()| "it has returned".to_owned(),
        );
        let times = status.ended(place, began.elapsed());
        let pause = status.restarting.pause(times);
        error!(
            service = service.name(),
            error = why,
            times,
            pause_s = pause.as_secs(),
            "a service has ended; it is restarted"
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => info!(service = service.name(), "a service is restarted"),
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    anyhow::anyhow!(
        "it has panicked: {}",
        text.unwrap_or("for an unknown reason")
    )
}

#[cfg(test)]
mod tests;
