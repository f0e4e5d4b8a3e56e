//! Writes requests to Postgres, whatever waits in one transaction, and then their jobs to the
//! queue. A request is durable when its write returns.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::job::NewJob;
use patchbay_queue::{Broker, QueueError};
use patchbay_store::{Added, NewInboxRow, Store, StoreError};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{error, warn};
use uuid::Uuid;

use super::counts::Counts;

/// Rows that wait; more are refused.
const MAX_WAITING: usize = 1_000;
/// Sealed content of rows that wait, in KiB.
const MAX_WAITING_KIB: usize = 32 << 10;
/// Rows and bytes of one transaction.
const BATCH_ROWS: usize = 128;
const BATCH_BYTES: usize = 4 << 20;
/// Transactions at once.
const WRITERS: usize = 2;
/// Rejected requests that wait; more are only counted.
const MAX_REJECTED: usize = 256;
/// Events whose jobs wait to be added; the rest is left to the sweep.
const MAX_ENQUEUING: usize = 2_000;
const ENQUEUE_BATCH: usize = 200;
/// A transaction that takes longer counts as failed, whatever becomes of it.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Jobs of an accepted request.
#[derive(Debug, Clone)]
pub(super) struct Enqueuing {
    pub id: Uuid,
    /// When the request came: the time of its jobs.
    pub made_ms: u64,
    pub jobs: Vec<NewJob>,
}

/// Why a row was not written.
#[derive(Debug, Clone, Copy)]
pub(super) enum NotWritten {
    /// Too much waits.
    Full,
    /// Postgres did not take it; the log says why.
    Failed,
}

struct Waiting {
    row: NewInboxRow,
    jobs: Vec<NewJob>,
    done: oneshot::Sender<Result<Added, NotWritten>>,
    _bytes: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    rows: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    rejected: mpsc::Sender<NewInboxRow>,
    enqueuer: mpsc::Sender<Enqueuing>,
}

impl Writer {
    /// Its tasks end when it is dropped.
    pub(super) fn start(store: Store, broker: Broker, counts: Arc<Counts>) -> Self {
        let (rows, waiting) = mpsc::channel(MAX_WAITING);
        let (rejected, lossy) = mpsc::channel(MAX_REJECTED);
        let (enqueuer, enqueuing) = mpsc::channel(MAX_ENQUEUING);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..WRITERS {
            tokio::spawn(write(
                store.clone(),
                Arc::clone(&waiting),
                enqueuer.clone(),
                Arc::clone(&counts),
            ));
        }
        tokio::spawn(write_rejected(store.clone(), lossy));
        tokio::spawn(enqueue(store, broker, enqueuing));
        Self {
            rows,
            bytes: Arc::new(Semaphore::new(MAX_WAITING_KIB)),
            rejected,
            enqueuer,
        }
    }

    /// Adds a row, and after that its jobs, even if nobody waits any more.
    pub(super) async fn add(
        &self,
        row: NewInboxRow,
        jobs: Vec<NewJob>,
    ) -> Result<Added, NotWritten> {
        let kib = u32::try_from(row.sealed.len() / 1_024 + 1).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes)
            .try_acquire_many_owned(kib)
            .map_err(|_| NotWritten::Full)?;
        let (done, answer) = oneshot::channel();
        let waiting = Waiting {
            row,
            jobs,
            done,
            _bytes: bytes,
        };
        self.rows.try_send(waiting).map_err(|_| NotWritten::Full)?;
        answer.await.unwrap_or(Err(NotWritten::Failed))
    }

    /// Keeps a rejected request, if there is room.
    pub(super) fn add_rejected(&self, row: NewInboxRow) {
        self.rejected.try_send(row).ok();
    }

    /// Adds the jobs of a row that is accepted already.
    pub(super) fn enqueue(&self, enqueuing: Enqueuing) {
        self.enqueuer.try_send(enqueuing).ok();
    }
}

async fn write(
    store: Store,
    waiting: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    enqueuer: mpsc::Sender<Enqueuing>,
    counts: Arc<Counts>,
) {
    loop {
        let batch = {
            let mut waiting = waiting.lock().await;
            let Some(first) = waiting.recv().await else {
                return;
            };
            let mut bytes = first.row.sealed.len();
            let mut batch = vec![first];
            while batch.len() < BATCH_ROWS
                && bytes < BATCH_BYTES
                && let Ok(next) = waiting.try_recv()
            {
                bytes += next.row.sealed.len();
                batch.push(next);
            }
            batch
        };
        let rows: Vec<NewInboxRow> = batch.iter().map(|waiting| waiting.row.clone()).collect();
        let written = add(&store, &rows).await;
        match written {
            Ok(added) => tell(batch, added, &enqueuer, &counts),
            // One row that Postgres refuses must not cost the others.
            Err(error) if batch.len() > 1 && !error.is_passing() => {
                for waiting in batch {
                    match add(&store, std::slice::from_ref(&waiting.row)).await {
                        Ok(added) => tell(vec![waiting], added, &enqueuer, &counts),
                        Err(error) => fail(vec![waiting], error),
                    }
                }
            }
            Err(error) => fail(batch, error),
        }
    }
}

async fn add(store: &Store, rows: &[NewInboxRow]) -> Result<Vec<Added>, StoreError> {
    tokio::time::timeout(WRITE_LIMIT, store.add_to_inbox(rows))
        .await
        .unwrap_or_else(|_| Err(StoreError::no_answer()))
}

fn tell(
    batch: Vec<Waiting>,
    added: Vec<Added>,
    enqueuer: &mpsc::Sender<Enqueuing>,
    counts: &Counts,
) {
    for (waiting, added) in batch.into_iter().zip(added) {
        match (added, waiting.row.event_key) {
            (Added::Repeat(_), Some(event)) => counts.note_repeat(event),
            (Added::New, _) if !waiting.jobs.is_empty() => {
                let enqueuing = Enqueuing {
                    id: waiting.row.id,
                    made_ms: made_ms(&waiting.row),
                    jobs: waiting.jobs,
                };
                // Where that is full, the sweep adds them.
                enqueuer.try_send(enqueuing).ok();
            }
            _ => {}
        }
        waiting.done.send(Ok(added)).ok();
    }
}

fn made_ms(row: &NewInboxRow) -> u64 {
    u64::try_from(row.received_at.timestamp_millis()).unwrap_or_default()
}

fn fail(batch: Vec<Waiting>, error: StoreError) {
    if error.is_passing() {
        warn!(%error, requests = batch.len(), "requests to webhooks could not be written to Postgres");
    } else {
        error!(%error, cause = ?std::error::Error::source(&error), requests = batch.len(), "requests to webhooks could not be written to Postgres");
    }
    for waiting in batch {
        waiting.done.send(Err(NotWritten::Failed)).ok();
    }
}

/// What cannot be written is lost: it was only counted, and answered.
async fn write_rejected(store: Store, mut rows: mpsc::Receiver<NewInboxRow>) {
    let mut batch = Vec::new();
    while rows.recv_many(&mut batch, BATCH_ROWS).await > 0 {
        if let Err(error) = add(&store, &batch).await {
            warn!(%error, requests = batch.len(), "rejected requests to webhooks could not be kept");
        }
        batch.clear();
    }
}

async fn enqueue(store: Store, broker: Broker, mut waiting: mpsc::Receiver<Enqueuing>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, ENQUEUE_BATCH).await > 0 {
        let enqueued = add_jobs(&broker, &std::mem::take(&mut batch)).await;
        if enqueued.is_empty() {
            continue;
        }
        if let Err(error) = store.inbox_enqueued(&enqueued).await {
            // The sweep finds that the jobs are there.
            warn!(%error, "requests to webhooks could not be marked as enqueued; trying again");
        }
    }
}

/// Adds jobs to their queues, and returns whose jobs are there. The rest is left to the sweep.
pub(super) async fn add_jobs(broker: &Broker, batch: &[Enqueuing]) -> Vec<Uuid> {
    let jobs_of = |enqueuing: &Enqueuing| -> Vec<(NewJob, u64)> {
        let jobs = enqueuing.jobs.iter().cloned();
        jobs.map(|job| (job, enqueuing.made_ms)).collect()
    };
    let all = batch.iter().flat_map(jobs_of).collect();
    let ids = |batch: &[Enqueuing]| batch.iter().map(|enqueuing| enqueuing.id).collect();
    match broker.add_made_at(all).await {
        Ok(_) => return ids(batch),
        Err(error) => {
            warn!(%error, events = batch.len(), "jobs of webhooks could not be added to their queues; trying again");
            let is_of_some = matches!(error, QueueError::Invalid(_) | QueueError::Damaged { .. });
            if batch.len() == 1 || !is_of_some {
                return Vec::new();
            }
        }
    }
    // One queue that cannot be used must not cost the others.
    let mut enqueued = Vec::new();
    for enqueuing in batch {
        match broker.add_made_at(jobs_of(enqueuing)).await {
            Ok(_) => enqueued.push(enqueuing.id),
            Err(error) => {
                warn!(%error, "jobs of a webhook could not be added to their queue; trying again");
            }
        }
    }
    enqueued
}
