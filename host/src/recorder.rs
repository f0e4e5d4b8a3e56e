//! Copies finished attempts from the Redis stream to Postgres.
//!
//! On the way, backtraces get files and lines where the plugin's file carries debug information, in Postgres and in the job's own
//! `stacktrace`: the job has settled by then, and nobody
//! waits. Acknowledges after the commit, so a kill at any point repeats a batch instead of losing it, and repeating changes nothing.
//! While Postgres is away the stream grows; jobs go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use patchbay_model::RevisionDigest;
use patchbay_model::attempt::AttemptRecord;
use patchbay_queue::AttemptReader;
use patchbay_runtime::Symbols;
use patchbay_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// Rows per insert: large enough to keep up with thousands of jobs per second, small enough to commit in milliseconds.
const BATCH: usize = 500;
/// How long one read waits for the first entry.
const BLOCK: Duration = Duration::from_secs(2);
/// Wait after an error; both sides reconnect by themselves meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Debug information is megabytes per revision; more revisions than this rarely fail at the same time.
const MAX_SYMBOLS: usize = 4;

/// Runs until cancelled.
pub async fn run(mut stream: AttemptReader, store: Store, stop: CancellationToken) {
    let mut backtraces = Backtraces::new(&store);
    while !stop.is_cancelled() {
        let step = async {
            if let Err(error) = copy(&mut stream, &mut backtraces, BLOCK).await {
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
pub async fn flush(mut stream: AttemptReader, store: &Store) -> anyhow::Result<usize> {
    let mut total = 0;
    let mut backtraces = Backtraces::new(store);
    loop {
        match copy(&mut stream, &mut backtraces, Duration::ZERO).await? {
            0 => return Ok(total),
            n => total += n,
        }
    }
}

async fn copy(stream: &mut AttemptReader, backtraces: &mut Backtraces<'_>, block: Duration) -> anyhow::Result<usize> {
    let entries = stream.read(BATCH, block).await?;
    if entries.is_empty() {
        return Ok(0);
    }
    let mut ids = Vec::with_capacity(entries.len());
    let mut records = Vec::with_capacity(entries.len());
    let mut better = Vec::new();
    for (id, entry) in entries {
        match entry {
            Ok(record) => {
                let (names_only, message) = (record.stack.clone(), record.message.clone());
                let record = backtraces.resolve(record).await;
                if let (Some(old), Some(message), Some(new)) = (names_only, message, &record.stack)
                    && old != *new
                {
                    let text = |stack: &str| format!("{message}\n{stack}");
                    better.push((record.job.clone(), text(&old), text(new)));
                }
                records.push(record);
            }
            // Written by something else than a Patchbay: keeping it would block the stream for ever.
            Err(reason) => error!(%reason, "an entry of the attempt stream cannot be read and is dropped"),
        }
        ids.push(id);
    }
    if let Err(error) = record(backtraces.store, &records).await {
        stream.put_back();
        return Err(error.into());
    }
    stream.ack(&ids).await?;
    for (job, old, new) in better {
        // Only Bull Board's view of it: the record has it already.
        if let Err(error) = stream.replace_trace(&job, &old, &new).await {
            debug!(%error, job = %job.id, "its stack trace keeps names only");
            break;
        }
    }
    Ok(ids.len())
}

/// In one statement. When Postgres refuses that for what is in it, each by itself, without the bad ones: a record that nobody will ever be
/// able to store must not hold up the rest.
async fn record(store: &Store, records: &[AttemptRecord]) -> Result<(), StoreError> {
    match store.record_attempts(records).await {
        Err(StoreError::Refused(_) | StoreError::Unstorable(_)) => {}
        done => return done.map(drop),
    }
    for record in records {
        match store.record_attempts(std::slice::from_ref(record)).await {
            Err(StoreError::Refused(reason) | StoreError::Unstorable(reason)) => {
                let (queue, job) = (&record.job.queue, &record.job.id);
                error!(%queue, %job, started = record.started, %reason, "an attempt cannot be stored and is dropped");
            }
            done => drop(done?),
        }
    }
    Ok(())
}

/// Debug information of the revisions that failed lately.
struct Backtraces<'a> {
    store: &'a Store,
    known: HashMap<RevisionDigest, Option<Arc<Symbols>>>,
}

impl<'a> Backtraces<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, known: HashMap::new() }
    }

    async fn resolve(&mut self, mut record: AttemptRecord) -> AttemptRecord {
        if let (Some(stack), Some(revision)) = (&record.stack, record.revision)
            && let Some(symbols) = self.symbols(revision).await
        {
            // Computing, fifty frames each for a batch of panics: not on the threads that answer health probes.
            let names = stack.clone();
            let resolved = tokio::task::spawn_blocking(move || symbols.resolve(&names)).await;
            record.stack = resolved.ok().or(record.stack);
        }
        record
    }

    /// Without them a backtrace keeps its names: no reason to lose the record.
    async fn symbols(&mut self, revision: RevisionDigest) -> Option<Arc<Symbols>> {
        if let Some(known) = self.known.get(&revision) {
            return known.clone();
        }
        let component = self.store.component(&revision).await.ok().flatten();
        let read = tokio::task::spawn_blocking(move || component.and_then(|bytes| Symbols::of(&bytes)).map(Arc::new));
        let symbols = read.await.ok().flatten();
        if self.known.len() >= MAX_SYMBOLS {
            self.known.clear();
        }
        self.known.insert(revision, symbols.clone());
        symbols
    }
}
