//! Copies finished attempts from the Redis stream to Postgres.
//!
//! Acknowledges after the commit, so a kill at any point repeats a batch instead of losing it, and repeating changes nothing.
//! While Postgres is away the stream grows; jobs go on.

use std::time::Duration;

use patchbay_queue::AttemptStream;
use patchbay_store::Store;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Rows per insert: large enough to keep up with thousands of jobs per second, small enough to commit in milliseconds.
const BATCH: usize = 500;
/// How long one read waits for the first entry.
const BLOCK: Duration = Duration::from_secs(2);
/// Wait after an error; both sides reconnect by themselves meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Runs until cancelled.
pub async fn run(stream: AttemptStream, store: Store, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let step = async {
            if let Err(error) = copy_batch(&stream, &store).await {
                warn!(error = format!("{error:#}"), "attempts not copied to Postgres; trying again");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = step => {}
        }
    }
}

/// Copies what is there, for the end of a drain and for tests. Gives the number of entries taken from the stream.
pub async fn flush(stream: &AttemptStream, store: &Store) -> anyhow::Result<usize> {
    let mut total = 0;
    loop {
        match copy(stream, store, Duration::ZERO).await? {
            0 => return Ok(total),
            n => total += n,
        }
    }
}

async fn copy_batch(stream: &AttemptStream, store: &Store) -> anyhow::Result<()> {
    copy(stream, store, BLOCK).await.map(drop)
}

async fn copy(stream: &AttemptStream, store: &Store, block: Duration) -> anyhow::Result<usize> {
    let entries = stream.read(BATCH, block).await?;
    if entries.is_empty() {
        return Ok(0);
    }
    let mut ids = Vec::with_capacity(entries.len());
    let mut records = Vec::with_capacity(entries.len());
    for (id, entry) in entries {
        match entry {
            Ok(record) => records.push(record),
            // Written by something else than a Patchbay: keeping it would block the stream for ever.
            Err(reason) => error!(%reason, "an entry of the attempt stream cannot be read and is dropped"),
        }
        ids.push(id);
    }
    store.record_attempts(&records).await?;
    stream.ack(&ids).await?;
    Ok(ids.len())
}
