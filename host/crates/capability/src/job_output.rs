//! Log lines and progress of a running job, on their way to Redis.
//!
//! Guests write without waiting. One task per call, started by the first write, sends what has
//! gathered, at most every 100 ms. [`JobOutput::finish`] sends the rest before the job settles, so
//! that nothing is written to a job that BullMQ has removed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use patchbay_model::words::counted;
use patchbay_queue::JobHandle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Most log bytes per call that are kept with the job in Redis. The host's own log has all lines.
const MAX_LOG_BYTES: usize = 64 * 1024;
/// People read this: more often helps nobody and costs Redis.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct JobOutput {
    shared: Arc<Shared>,
}

struct Shared {
    job: JobHandle,
    host: tokio::runtime::Handle,
    pending: Mutex<Pending>,
    finish: Notify,
}

#[derive(Default)]
struct Pending {
    lines: Vec<String>,
    log_bytes: usize,
    dropped_lines: u64,
    /// Only the latest matters.
    progress: Option<String>,
    finishing: bool,
    writer: Option<JoinHandle<()>>,
}

impl JobOutput {
    /// `host` is the runtime of the host's threads, since guests' threads must not do I/O.
    pub(crate) fn new(job: JobHandle, host: tokio::runtime::Handle) -> Self {
        let shared = Shared {
            job,
            host,
            pending: Mutex::default(),
            finish: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn line(&self, line: String) {
        self.write(|pending| {
            pending.log_bytes += line.len();
            if pending.log_bytes <= MAX_LOG_BYTES {
                pending.lines.push(line);
            } else {
                pending.dropped_lines += 1;
            }
        });
    }

    pub(crate) fn progress(&self, json: String) {
        self.write(|pending| pending.progress = Some(json));
    }

    fn write(&self, put: impl FnOnce(&mut Pending)) {
        let mut pending = self.shared.pending.lock();
        put(&mut pending);
        if pending.writer.is_none() && !pending.finishing {
            pending.writer = Some(self.shared.host.spawn(send(Arc::clone(&self.shared))));
        }
    }

    /// Sends what is left. Later writes are dropped.
    pub(crate) async fn finish(&self) {
        let writer = {
            let mut pending = self.shared.pending.lock();
            pending.finishing = true;
            if pending.dropped_lines > 0 {
                let note = format!(
                    "{} left out here; see the host's log",
                    counted(pending.dropped_lines, "line")
                );
                pending.lines.push(note);
            }
            pending.writer.take()
        };
        if let Some(writer) = writer {
            self.shared.finish.notify_one();
            // The task ends by itself, and a panic in it loses only log lines.
            writer.await.ok();
        }
    }
}

async fn send(shared: Arc<Shared>) {
    loop {
        let (lines, progress, finishing) = {
            let mut pending = shared.pending.lock();
            (
                std::mem::take(&mut pending.lines),
                pending.progress.take(),
                pending.finishing,
            )
        };
        if !lines.is_empty() || progress.is_some() {
            shared.job.write(&lines, progress.as_deref()).await;
        }
        if finishing {
            return;
        }
        let _whichever_comes_first =
            tokio::time::timeout(AT_MOST_EVERY, shared.finish.notified()).await;
    }
}
