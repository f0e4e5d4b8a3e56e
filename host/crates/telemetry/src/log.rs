//! Log lines: JSON for machines, text for a terminal. Also keeps the last lines in memory.
//!
//! No working thread writes to standard output itself: its reader may stop, and a full pipe blocks
//! the writer as long. A separate thread writes; lines that it cannot accept are dropped and
//! counted, and a line says so when it continues. Messages of panics go the same way.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use serde_json::json;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::recent_lines::RecentLines;

/// Enough for seconds of a busy host; a megabyte or two.
const BUFFERED_LINES: usize = 4_096;
/// Limit for writing the last lines, at the end of the process.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// Shortest time between notes about dropped lines, while a reader is slow again and again.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Counts lines that were dropped because nobody read them in time.
#[derive(Clone, Default)]
pub struct DroppedLines(Arc<OnceLock<ErrorCounter>>);

impl DroppedLines {
    /// Since the start of the process.
    pub fn count(&self) -> u64 {
        self.0
            .get()
            .map_or(0, |counter| counter.dropped_lines() as u64)
    }
}

/// What the caller of [`start`] gets.
pub struct Logging {
    /// The last lines. They do not depend on the filter: an incident needs them even if somebody
    /// wanted less output.
    pub lines: RecentLines,
    pub dropped: DroppedLines,
    guard: Option<WorkerGuard>,
}

impl Logging {
    /// Writes the lines that are left, for at most 2 s. Call it at the end of the process.
    pub fn flush(&mut self) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        // A thread that may be left behind: the guard prints to stdout when it cannot flush.
        at_most(FLUSH_WITHIN, move || drop(guard));
    }
}

/// Starts logging to standard output. If `as_json` is absent: text on a terminal, JSON elsewhere.
pub fn start(as_json: Option<bool>, filter: &str) -> anyhow::Result<Logging> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| anyhow::anyhow!("log.filter: {error}"))?;
    let is_terminal = io::stdout().is_terminal();
    let as_json = as_json.unwrap_or(!is_terminal);
    let (lines, dropped) = (RecentLines::default(), DroppedLines::default());
    // Not `Stdout`: the writing thread would hold its lock while it waits.
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let writer = Writer {
        output,
        dropped: dropped.clone(),
        as_json,
        told: 0,
        told_at: None,
    };
    let builder = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(BUFFERED_LINES)
        .thread_name("log");
    let (buffer, guard) = builder.finish(writer);
    // Cannot fail: it was never set before.
    let _set = dropped.0.set(buffer.error_counter());
    let layer = if as_json {
        fmt::layer()
            .with_writer(buffer)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_filter(filter)
            .boxed()
    } else {
        fmt::layer()
            .with_writer(buffer)
            .with_ansi(is_terminal)
            .with_filter(filter)
            .boxed()
    };
    tracing_subscriber::registry()
        .with(layer)
        .with(
            lines
                .clone()
                .with_filter(tracing::level_filters::LevelFilter::INFO),
        )
        .try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Logging {
        lines,
        dropped,
        guard: Some(guard),
    })
}

/// Prints the last words of a process, which ends even if its reader does not read.
pub fn last_words(print: impl FnOnce() + Send + 'static) {
    at_most(FLUSH_WITHIN, print);
}

fn at_most(limit: Duration, act: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::sync_channel(1);
    let spawned = std::thread::Builder::new()
        .name("flush".into())
        .spawn(move || {
            act();
            done.send(()).ok();
        });
    if spawned.is_ok() {
        // An error means that the thread has ended.
        is_done.recv_timeout(limit).ok();
    }
}

/// Replaces the standard hook, which writes to standard error and blocks on a full pipe.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("(not a text)");
    let location = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::force_capture();
    tracing::error!(panic = message, location, thread, %backtrace, "A thread of the host panicked, which is a fault of the host");
}

/// The end of the buffer. Runs on the writing thread only.
struct Writer {
    output: File,
    dropped: DroppedLines,
    as_json: bool,
    told: u64,
    told_at: Option<Instant>,
}

impl Writer {
    /// Called after a line was written: says how many lines before it were dropped.
    fn log_dropped(&mut self) -> io::Result<()> {
        let dropped = self.dropped.count();
        if dropped == self.told || self.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return Ok(());
        }
        let missing = dropped - self.told;
        (self.told, self.told_at) = (dropped, Some(Instant::now()));
        let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let message = "Log lines are missing here: standard output was not read fast enough, and the buffer was full";
        let target = module_path!();
        let line = if self.as_json {
            json!({ "timestamp": timestamp, "level": "WARN", "message": message, "dropped": missing, "target": target })
                .to_string()
        } else {
            format!("{timestamp}  WARN {target}: {message} dropped={missing}")
        };
        self.output.write_all(format!("{line}\n").as_bytes())
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // All of it: each call writes one line.
        self.output.write_all(line)?;
        self.log_dropped()?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
