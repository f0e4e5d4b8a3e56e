//! What a guest prints. Each line goes to the guest's log. The last lines are kept, because a
//! crashing guest prints there why.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::call_log::CallLog;
use crate::context::{LogLevel, MAX_LOG_LINE_BYTES};

/// How much of the end of a stream is kept.
const MAX_TAIL_BYTES: usize = 8 * 1024;
/// Limit for a single write by the guest.
const MAX_WRITE_BYTES: usize = 64 * 1024;

/// Stdout or stderr of one call. All handles that the guest opens on it are one stream. Writes are
/// synchronous, so nothing is lost if the guest crashes right after.
#[derive(Clone)]
pub(crate) struct Output(Arc<Stream>);

struct Stream {
    log: Arc<CallLog>,
    level: LogLevel,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    /// A line that has not ended yet.
    partial: Vec<u8>,
    /// The last lines, even if the log had no room for them.
    tail: VecDeque<String>,
    tail_bytes: usize,
}

impl Output {
    pub(crate) fn new(log: Arc<CallLog>, level: LogLevel) -> Self {
        Self(Arc::new(Stream {
            log,
            level,
            written: Mutex::default(),
        }))
    }

    fn take(&self, bytes: &[u8]) {
        let mut written = self.0.written.lock();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in piece
                .strip_suffix(b"\n")
                .unwrap_or(piece)
                .chunks(MAX_LOG_LINE_BYTES)
            {
                // A guest that never ends its line must not fill the host's memory.
                if written.partial.len() + part.len() > MAX_LOG_LINE_BYTES {
                    self.0.end_line(&mut written);
                }
                written.partial.extend_from_slice(part);
            }
            if piece.ends_with(b"\n") {
                self.0.end_line(&mut written);
            }
        }
    }

    /// Logs a line without an end, and returns the last lines, joined. To be called at the end of
    /// the call.
    pub(crate) fn finish(&self) -> String {
        let mut written = self.0.written.lock();
        self.0.end_line(&mut written);
        let tail: Vec<String> = std::mem::take(&mut written.tail).into();
        tail.join("\n").trim().to_owned()
    }
}

impl Stream {
    fn end_line(&self, written: &mut Written) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut written.partial)).into_owned();
        written.tail_bytes += line.len() + 1;
        written.tail.push_back(line.clone());
        while written.tail_bytes > MAX_TAIL_BYTES
            && let Some(first) = written.tail.pop_front()
        {
            written.tail_bytes -= first.len() + 1;
        }
        if !line.is_empty() {
            self.log.line(self.level, line, &[]);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// For WASI 0.3, which is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE_BYTES)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}
