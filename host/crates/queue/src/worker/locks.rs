//! Locks on the jobs that run here, and the rescue of jobs whose worker has died.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Inner;
use crate::scripts::{self, Call, unwritable};
use crate::transaction::refused_as_full;

#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<String, Lock>>);

#[derive(Clone)]
struct Lock {
    token: String,
    end: End,
}

/// Signals that a running call must end, and why.
#[derive(Debug, Clone, Default)]
pub struct End {
    /// Cancelled when the lock was lost, so that another worker may have the job, or when an
    /// operator killed the job.
    pub now: CancellationToken,
    killed_by: Arc<OnceLock<String>>,
}

impl End {
    pub fn killed_by(&self) -> Option<&str> {
        self.killed_by.get().map(String::as_str)
    }

    /// If so, this worker must not settle the job.
    pub(super) fn lock_is_lost(&self) -> bool {
        self.now.is_cancelled() && self.killed_by().is_none()
    }

    fn kill(&self, by: &str) {
        // The first order counts.
        self.killed_by.set(by.to_owned()).ok();
        self.now.cancel();
    }
}

/// The lock is renewed until this is dropped.
pub(super) struct Held<'a> {
    locks: &'a Locks,
    id: &'a str,
}

impl Locks {
    pub(super) fn hold<'a>(&'a self, id: &'a str, token: &str, end: End) -> Held<'a> {
        self.with(|locks| {
            locks.insert(
                id.to_owned(),
                Lock {
                    token: token.to_owned(),
                    end,
                },
            )
        });
        Held { locks: self, id }
    }

    fn all(&self) -> Vec<(String, Lock)> {
        self.with(|locks| {
            locks
                .iter()
                .map(|(id, lock)| (id.clone(), lock.clone()))
                .collect()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Lock>) -> T) -> T {
        act(&mut self.0.lock())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.locks.with(|locks| locks.remove(self.id));
    }
}

/// Renews every lock of this worker in one round trip.
pub(super) async fn renew(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(inner.config.renew).await;
        let held = inner.locks.all();
        if held.is_empty() {
            continue;
        }
        let extended = match extend(&inner, &held).await {
            // BullMQ's script writes each lock again, which a full Redis refuses. Extending its
            // expiry takes no memory.
            Err(error) if refused_as_full(&error) => extend_when_full(&inner, &held).await,
            extended => extended,
        };
        match extended {
            Ok(refused) => {
                for (id, lock) in held.iter().filter(|(id, _)| refused.contains(id)) {
                    // A job that settled meanwhile has no lock either, and nobody to notify.
                    if inner.locks.with(|locks| locks.contains_key(id)) {
                        warn!(job = id, queue = %inner.config.queue, "A job lost its lock; its call is cancelled");
                        lock.end.now.cancel();
                    }
                }
            }
            // While Redis is away, no other worker can take the jobs either.
            Err(error) => {
                warn!(%error, queue = %inner.config.queue, "Locks of running jobs could not be renewed")
            }
        }
    }
}

async fn extend(inner: &Inner, held: &[(String, Lock)]) -> redis::RedisResult<Vec<String>> {
    let tokens: Vec<&str> = held.iter().map(|(_, lock)| lock.token.as_str()).collect();
    let ids: Vec<&str> = held.iter().map(|(id, _)| id.as_str()).collect();
    Call::new(&scripts::EXTEND_LOCKS, &[inner.names.keys.stalled()])
        .arg(&inner.names.prefix)
        .arg(rmp_serde::to_vec(&tokens).map_err(unwritable)?)
        .arg(rmp_serde::to_vec(&ids).map_err(unwritable)?)
        .arg(inner.config.lock.as_millis() as u64)
        .invoke(&mut inner.queues.connection.get())
        .await
}

/// Does what BullMQ's script does, with commands that take no memory. Not atomic: if a lock passes
/// to another worker between the check and the renewal, that worker's lock is extended instead.
async fn extend_when_full(
    inner: &Inner,
    held: &[(String, Lock)],
) -> redis::RedisResult<Vec<String>> {
    let mut connection = inner.queues.connection.get();
    let keys = &inner.names.keys;
    let key = |id: &str| format!("{}:lock", keys.job_key(id));
    let mut look = redis::pipe();
    for (id, _) in held {
        look.get(key(id));
    }
    let tokens: Vec<Option<String>> = look.query_async(&mut connection).await?;
    let (ours, lost): (Vec<_>, Vec<_>) = held
        .iter()
        .zip(tokens)
        .partition(|((_, lock), token)| token.as_ref() == Some(&lock.token));
    let mut renew = redis::pipe();
    for ((id, _), _) in ours {
        renew
            .pexpire(key(id), inner.config.lock.as_millis() as i64)
            .ignore()
            .srem(keys.stalled(), id)
            .ignore();
    }
    renew.query_async::<()>(&mut connection).await?;
    Ok(lost.into_iter().map(|((id, _), _)| id.clone()).collect())
}

pub(super) async fn obey_kills(inner: Arc<Inner>) {
    let mut kills = inner.queues.kills();
    loop {
        match kills.recv().await {
            Ok(order) if order.queue == inner.config.queue => {
                let end = inner
                    .locks
                    .with(|locks| locks.get(order.id.as_str()).map(|lock| lock.end.clone()));
                if let Some(end) = end {
                    warn!(job = %order.id, queue = %order.queue, by = order.by, "An operator killed a job");
                    end.kill(&order.by);
                }
            }
            // The order is for another queue; or orders came too fast, and their senders notice
            // that.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Moves jobs whose lock has expired back to waiting. This takes two runs: the first marks active
/// jobs, the second moves those that are still marked.
pub(super) async fn rescue_stalled(inner: Arc<Inner>) {
    let keys = &inner.names.keys;
    let names = [
        keys.stalled(),
        keys.wait(),
        keys.active(),
        keys.stalled_check(),
        keys.meta(),
        keys.paused(),
        keys.marker(),
        keys.events(),
        keys.repeat(),
    ];
    loop {
        let call = Call::new(&scripts::MOVE_STALLED_TO_WAIT, &names)
            .arg(inner.config.max_stalls)
            .arg(&inner.names.prefix)
            .arg(inner.queues.now_ms())
            .arg(inner.config.stalled_interval.as_millis() as u64);
        match call
            .invoke::<Vec<String>>(&mut inner.queues.connection.get())
            .await
        {
            Ok(ids) if ids.is_empty() => {}
            Ok(ids) => {
                inner.queues.stalls.note(&inner.config.queue, ids.len());
                warn!(queue = %inner.config.queue, jobs = ?ids, "Jobs stalled, because their worker died or lost Redis; they run again")
            }
            Err(error) => {
                warn!(%error, queue = %inner.config.queue, "Stalled jobs could not be looked for")
            }
        }
        tokio::time::sleep(inner.config.stalled_interval).await;
    }
}
