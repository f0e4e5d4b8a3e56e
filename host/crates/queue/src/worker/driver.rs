//! One task per worker. It starts jobs while there is room, and otherwise waits for the first of
//! these: a marker in Redis, the end of a rate limit or delay, the end of a job of this worker, a
//! slot under a limit shared with other workers, or an order. While Redis cannot serve or this
//! machine's clock is wrong, it behaves as if paused.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::fetch::{IDLE, Next, NextCheck, Taken};
use super::{Control, Inner, Pass};

/// Between retries while Redis is away. Bounds how late its return is noticed.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// If a reply is late by more than this beyond the blocking time, the connection is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn drive(inner: Arc<Inner>) {
    let mut control = inner.control.subscribe();
    let mut replacements = inner.queues.connection.replacements();
    let mut standings = inner.queues.connection.standings();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut marker = Marker::new(Arc::clone(&inner));
    let mut running = 0;
    let mut look = NextCheck::Now;
    let mut chains: u64 = 0;
    let mut away = false;
    // A slot under the shared limit: one that this worker has (`pass`), or its place in the line
    // for one (`entering`).
    let mut pass = None;
    let mut entering = None;
    loop {
        let Control {
            concurrency,
            paused,
            stopping,
        } = *control.borrow_and_update();
        if stopping {
            break;
        }
        let takes_jobs = standings.borrow_and_update().takes_jobs();
        let room = !paused && takes_jobs && running < concurrency;
        let wants = room && is_due(look);
        if !wants {
            (pass, entering) = (None, None);
        } else if pass.is_none() && entering.is_none() {
            pass = inner.config.gate.try_enter();
            if pass.is_none() {
                entering = Some(inner.config.gate.enter());
            }
        }
        if let Some(entered) = pass.take() {
            chains += 1;
            let token = format!("{}:{chains}", inner.id);
            match inner.fetch(&token).await {
                Ok(Next::Job(taken)) => {
                    running += 1;
                    let ended = Ended(ended.clone(), NextCheck::Now);
                    let jobs = chain(Arc::clone(&inner), token, taken, ended, entered);
                    inner.running.spawn_on(jobs, &inner.config.threads);
                }
                Ok(Next::Nothing(later)) => look = later,
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        warn!(%error, queue = %inner.config.queue, "The worker cannot take jobs; trying again");
                    }
                    marker.reset();
                    tokio::time::sleep(RETRY_EVERY).await;
                    continue;
                }
            }
            if std::mem::take(&mut away) {
                info!(queue = %inner.config.queue, "The worker can take jobs again");
            }
            continue;
        }
        // While it waits for a slot, it leaves markers to workers that have one.
        let looks = room && !wants;
        tokio::select! {
            entered = enter(&mut entering), if wants => {
                pass = Some(entered);
                entering = None;
            }
            changed = control.changed() => {
                if changed.is_err() {
                    break;
                }
                look = NextCheck::Now;
            }
            Some(after) = ends.recv() => {
                running -= 1;
                look = sooner(look, after);
            }
            popped = marker.wait(), if looks || marker.is_waiting() => match popped {
                Ok(true) if looks => look = NextCheck::Now,
                Ok(true) => inner.pass_marker_on().await,
                Ok(false) => {}
                Err(_) => {
                    marker.reset();
                    tokio::time::sleep(RETRY_EVERY).await;
                    look = NextCheck::Now;
                }
            },
            Ok(()) = replacements.changed() => {
                marker.reset();
                look = NextCheck::Now;
            }
            Ok(()) = standings.changed() => look = NextCheck::Now,
            () = sleep_until(look), if looks => look = NextCheck::Now,
        }
    }
    // The wait may have consumed a marker while this worker was stopping. Another worker must not
    // miss it.
    if marker.is_waiting() {
        drop(marker);
        inner.pass_marker_on().await;
    }
}

async fn enter(entering: &mut Option<BoxFuture<'static, Box<dyn Pass>>>) -> Box<dyn Pass> {
    match entering {
        Some(entering) => entering.await,
        None => std::future::pending().await,
    }
}

fn is_due(look: NextCheck) -> bool {
    matches!(look, NextCheck::Now)
}

fn sooner(a: NextCheck, b: NextCheck) -> NextCheck {
    match (a, b) {
        (NextCheck::At(a), NextCheck::At(b)) => NextCheck::At(a.min(b)),
        _ => NextCheck::Now,
    }
}

async fn sleep_until(look: NextCheck) {
    if let NextCheck::At(at) = look {
        tokio::time::sleep_until(at).await;
    }
}

/// Runs jobs one after another, each fetched by the settlement of the previous one, until there is
/// none.
async fn chain(
    inner: Arc<Inner>,
    token: String,
    mut taken: Box<Taken>,
    mut ended: Ended,
    pass: Box<dyn Pass>,
) {
    ended.1 = loop {
        match inner.process(&token, *taken, &*pass).await {
            Next::Job(next) => taken = next,
            Next::Nothing(look) => break look,
        }
    };
}

/// Tells the driver that a chain ended, even after a panic, and when to fetch again.
struct Ended(mpsc::UnboundedSender<NextCheck>, NextCheck);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send(self.1).ok();
    }
}

impl Inner {
    async fn pass_marker_on(&self) {
        let mut command = redis::cmd("ZADD");
        command.arg(&self.names.marker).arg(0).arg("0");
        let passed: redis::RedisResult<()> =
            command.query_async(&mut self.queues.connection.get()).await;
        if let Err(error) = passed {
            warn!(%error, queue = %self.config.queue, "Another worker may take a job late");
        }
    }
}

type Popped = (Option<MultiplexedConnection>, redis::RedisResult<bool>);

/// The blocking wait for a marker. Uses its own connection, which has the worker's name in Redis's
/// list of clients.
struct Marker {
    inner: Arc<Inner>,
    connection: Option<MultiplexedConnection>,
    waiting: Option<BoxFuture<'static, Popped>>,
}

impl Marker {
    fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            connection: None,
            waiting: None,
        }
    }

    /// Closes the connection, and with it the wait in Redis.
    fn reset(&mut self) {
        self.waiting = None;
        self.connection = None;
    }

    fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether there was a marker within [`IDLE`]. Cancel-safe: after a drop, the next call
    /// continues the wait.
    async fn wait(&mut self) -> redis::RedisResult<bool> {
        let waiting = self
            .waiting
            .get_or_insert_with(|| pop(Arc::clone(&self.inner), self.connection.take()).boxed());
        let (connection, popped) = waiting.await;
        self.waiting = None;
        self.connection = connection;
        popped
    }
}

async fn pop(inner: Arc<Inner>, connection: Option<MultiplexedConnection>) -> Popped {
    let mut connection = match connection {
        Some(connection) => connection,
        None => match connect(&inner).await {
            Ok(connection) => connection,
            Err(error) => return (None, Err(error)),
        },
    };
    let mut command = redis::cmd("BZPOPMIN");
    command.arg(&inner.names.marker).arg(IDLE.as_secs());
    let popped: redis::RedisResult<redis::Value> = command.query_async(&mut connection).await;
    (
        Some(connection),
        popped.map(|value| value != redis::Value::Nil),
    )
}

async fn connect(inner: &Inner) -> redis::RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_response_timeout(Some(IDLE + SILENCE_LIMIT))
        .set_connection_timeout(Some(SILENCE_LIMIT));
    let mut connection = inner
        .queues
        .connection
        .client()
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    // BullMQ's `getWorkers` and Bull Board find workers by this name.
    let name = inner
        .names
        .keys
        .client_name(&format!(":w:{}", inner.worker_name));
    redis::cmd("CLIENT")
        .arg("SETNAME")
        .arg(name)
        .query_async::<()>(&mut connection)
        .await?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_sooner_look_wins() {
        let now = Instant::now();
        let later = now + IDLE;
        assert_eq!(
            sooner(NextCheck::At(later), NextCheck::At(now)),
            NextCheck::At(now)
        );
        assert_eq!(sooner(NextCheck::At(now), NextCheck::Now), NextCheck::Now);
    }
}
