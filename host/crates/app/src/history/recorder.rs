//! Copies finished attempts from the Redis stream to Postgres.
//!
//! On the way, data and results are sealed. Where the plugin's file has debug information,
//! backtraces get files and lines, both in Postgres and in the job's own `stacktrace`; the job has
//! settled by then, so nothing waits for that. The recorder acknowledges after the commit: a kill
//! at any point repeats a batch instead of losing it, and repeating changes nothing. While Postgres
//! is away or its disk is full, the stream grows and jobs go on. An entry that cannot be read or
//! stored is set aside in Redis, so that it blocks nothing and is not lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chrono::Datelike;
use patchbay_model::RevisionDigest;
use patchbay_model::attempt::AttemptRecord;
use patchbay_queue::{AttemptReader, Broker};
use patchbay_runtime::Symbols;
use patchbay_store::{NewAttempt, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::SealedBodies;
use crate::Parts;
use crate::service::Service;

/// Rows per insert: large enough to keep up with thousands of jobs per second, small enough to
/// commit in milliseconds.
const BATCH: usize = 500;
/// Bytes per insert, and about what is read at once.
const BATCH_BYTES: usize = 8 << 20;
/// Pause after a batch that was not full, so that the next one is worth its statement and commit: a
/// row in a small batch costs several times what it costs among hundreds, and the jobs pay for it.
/// This is also the longest delay that batching adds to an attempt.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after an error. Both clients reconnect by themselves meanwhile.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Revisions whose debug information is held. It takes megabytes per revision, and more of them
/// rarely fail at the same time.
const MAX_SYMBOLS: usize = 4;

/// Records until the end, and then what the drain has produced; anything beyond stays in the stream
/// for the next process.
pub fn recorder(parts: &Parts) -> Arc<dyn Service> {
    let bodies = Arc::clone(&parts.history.bodies);
    Arc::new(Recording {
        queues: parts.broker.clone(),
        store: parts.store.clone(),
        bodies,
    })
}

struct Recording {
    queues: Broker,
    store: Store,
    bodies: Arc<SealedBodies>,
}

#[async_trait]
impl Service for Recording {
    fn name(&self) -> &'static str {
        "recorder"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        run(
            self.queues.attempts(),
            self.store.clone(),
            Arc::clone(&self.bodies),
            stop,
        )
        .await;
        Ok(())
    }

    async fn finish(&self) -> anyhow::Result<()> {
        let flushed = flush(self.queues.attempts(), &self.store, &self.bodies).await;
        flushed
            .map(drop)
            .context("attempts stay in Redis until the next start")
    }
}

/// Runs until cancelled.
pub async fn run(
    stream: AttemptReader,
    store: Store,
    bodies: Arc<SealedBodies>,
    stop: CancellationToken,
) {
    let mut recorder = Recorder::new(stream, &store, &bodies);
    while !stop.is_cancelled() {
        let step = async {
            match recorder.copy(true).await {
                Ok(copied) if copied.is_full => {}
                Ok(_) => tokio::time::sleep(GATHER).await,
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "attempts not copied to Postgres; trying again"
                    );
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = step => {}
        }
    }
}

/// Copies what is in the stream, for the end of a drain and for tests. Returns the number of
/// entries taken.
pub async fn flush(
    stream: AttemptReader,
    store: &Store,
    bodies: &SealedBodies,
) -> anyhow::Result<usize> {
    let mut total = 0;
    let mut recorder = Recorder::new(stream, store, bodies);
    loop {
        match recorder.copy(false).await?.taken {
            0 => return Ok(total),
            n => total += n,
        }
    }
}

/// The result of one step.
struct Copied {
    taken: usize,
    /// Whether as many entries came as were asked for: there may be more.
    is_full: bool,
}

struct Recorder<'a> {
    stream: AttemptReader,
    store: &'a Store,
    bodies: &'a SealedBodies,
    backtraces: Backtraces<'a>,
    /// Months whose partitions exist.
    months: HashSet<(i32, u32)>,
    /// Entries to read at once. Fewer while they are large.
    batch: usize,
}

impl<'a> Recorder<'a> {
    fn new(stream: AttemptReader, store: &'a Store, bodies: &'a SealedBodies) -> Self {
        Self {
            stream,
            store,
            bodies,
            backtraces: Backtraces::new(store),
            months: HashSet::new(),
            batch: BATCH,
        }
    }

    async fn copy(&mut self, waits: bool) -> anyhow::Result<Copied> {
        let entries = self.stream.read(self.batch, waits).await?;
        let copied = Copied {
            taken: entries.len(),
            is_full: entries.len() >= self.batch,
        };
        if copied.taken > 0 {
            let done = self.copy_entries(entries).await;
            done.inspect_err(|_| self.stream.put_back())?;
        }
        Ok(copied)
    }

    async fn copy_entries(&mut self, entries: Vec<patchbay_queue::Entry>) -> anyhow::Result<()> {
        let mut ids = Vec::with_capacity(entries.len());
        let mut records = Vec::with_capacity(entries.len());
        let mut better = Vec::new();
        let mut bytes = 0;
        for (id, entry) in entries {
            match entry {
                Ok(record) => {
                    bytes += size(&record);
                    let (names_only, message) = (record.stack.clone(), record.message.clone());
                    let record = self.backtraces.resolve(record).await;
                    if let (Some(old), Some(message), Some(new)) =
                        (names_only, message, &record.stack)
                        && old != *new
                    {
                        let text = |stack: &str| format!("{message}\n{stack}");
                        better.push((record.job.clone(), text(&old), text(new)));
                    }
                    records.push(record);
                    ids.push(id);
                }
                // Not written by Patchbay. Keeping the entry would block the stream for ever.
                Err(reason) => {
                    error!(entry = id, %reason, "an entry of the attempt stream cannot be read, and is set aside");
                    self.stream.set_aside(&id, &reason).await?;
                }
            }
        }
        self.batch = if bytes > BATCH_BYTES {
            (self.batch / 2).max(1)
        } else {
            (self.batch * 2).min(BATCH)
        };
        self.make_months(&records).await?;
        let attempts = self.bodies.prepare(records).await?;
        for (attempts, ids) in pieces(&attempts, &ids) {
            let refused = record(self.store, attempts).await?;
            for (place, reason) in refused {
                self.stream.set_aside(&ids[place], &reason).await?;
            }
            self.stream.ack(ids).await?;
        }
        for (job, old, new) in better {
            // This trace is only for Bull Board: the record has it already.
            if let Err(error) = self.stream.replace_trace(&job, &old, &new).await {
                debug!(%error, job = %job.id, "its stack trace keeps names only");
                break;
            }
        }
        Ok(())
    }

    /// Makes partitions of months that the duty has not made. Without its own partition, a record
    /// would go to the one for records with wrong clocks.
    async fn make_months(&mut self, records: &[AttemptRecord]) -> Result<(), StoreError> {
        let month =
            |record: &AttemptRecord| (record.finished_at.year(), record.finished_at.month());
        let new = records
            .iter()
            .filter(|record| !self.months.contains(&month(record)));
        let times: Vec<_> = new.map(|record| record.finished_at).collect();
        if !times.is_empty() {
            if self.store.make_partitions(&times).await? > 0 {
                warn!("a partition of the history was missing, and was made");
            }
            self.months.extend(records.iter().map(month));
        }
        Ok(())
    }
}

/// About how many bytes a record takes in an insert.
fn size(record: &AttemptRecord) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    text(&record.message)
        + text(&record.stack)
        + record
            .body
            .as_ref()
            .map_or(0, patchbay_model::attempt::Body::bytes)
}

/// Splits into pieces of about [`BATCH_BYTES`].
fn pieces<'a>(
    mut attempts: &'a [NewAttempt],
    mut ids: &'a [String],
) -> impl Iterator<Item = (&'a [NewAttempt], &'a [String])> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |new: &&NewAttempt| {
            bytes += size(&new.record) + new.body.as_ref().map_or(0, |body| body.bytes.len());
            bytes <= BATCH_BYTES
        };
        let length = attempts
            .iter()
            .take_while(fits)
            .count()
            .max(1)
            .min(attempts.len());
        if length == 0 {
            return None;
        }
        let ((piece, attempts_left), (of_piece, ids_left)) =
            (attempts.split_at(length), ids.split_at(length));
        (attempts, ids) = (attempts_left, ids_left);
        Some((piece, of_piece))
    })
}

/// Records all in one statement. When Postgres refuses it for its content, records each by itself,
/// so that a record that can never be stored does not block the rest. Returns the positions of
/// those records, with the reason.
pub async fn record(
    store: &Store,
    attempts: &[NewAttempt],
) -> Result<Vec<(usize, String)>, StoreError> {
    match store.record_attempts(attempts).await {
        Err(StoreError::Refused(_) | StoreError::Unstorable(_) | StoreError::NoSuchTime(_)) => {}
        done => return done.map(|_| Vec::new()),
    }
    let mut refused = Vec::new();
    for (place, new) in attempts.iter().enumerate() {
        match store.record_attempts(std::slice::from_ref(new)).await {
            Err(
                StoreError::Refused(reason)
                | StoreError::Unstorable(reason)
                | StoreError::NoSuchTime(reason),
            ) => {
                let (queue, job) = (&new.record.job.queue, &new.record.job.id);
                error!(%queue, %job, started = new.record.started, %reason, "an attempt cannot be stored");
                refused.push((place, reason.to_string()));
            }
            done => drop(done?),
        }
    }
    Ok(refused)
}

/// Debug information of the revisions that failed lately.
struct Backtraces<'a> {
    store: &'a Store,
    known: HashMap<RevisionDigest, Option<Arc<Symbols>>>,
}

impl<'a> Backtraces<'a> {
    fn new(store: &'a Store) -> Self {
        Self {
            store,
            known: HashMap::new(),
        }
    }

    async fn resolve(&mut self, mut record: AttemptRecord) -> AttemptRecord {
        if let (Some(stack), Some(revision)) = (&record.stack, record.revision)
            && let Some(symbols) = self.symbols(revision).await
        {
            // This computes, up to fifty frames per panic of a batch, so it does not run on the
            // threads that answer health probes.
            let names = stack.clone();
            let resolved = tokio::task::spawn_blocking(move || symbols.resolve(&names)).await;
            record.stack = resolved.ok().or(record.stack);
        }
        record
    }

    /// `None` when the symbols cannot be had: the backtrace keeps its names, and the record is not
    /// lost.
    async fn symbols(&mut self, revision: RevisionDigest) -> Option<Arc<Symbols>> {
        if let Some(known) = self.known.get(&revision) {
            return known.clone();
        }
        let component = self.store.component(&revision).await.ok().flatten();
        let read = tokio::task::spawn_blocking(move || {
            component
                .and_then(|bytes| Symbols::of(&bytes))
                .map(Arc::new)
        });
        let symbols = read.await.ok().flatten();
        if self.known.len() >= MAX_SYMBOLS {
            self.known.clear();
        }
        self.known.insert(revision, symbols.clone());
        symbols
    }
}
