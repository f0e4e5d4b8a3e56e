//! What a guest prints: line by line into its log.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use patchbay_model::capability::{Capabilities, LogLevel};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::call::{LogBudget, log_line};

/// Stdout or stderr.
pub(crate) struct Output {
    capabilities: Arc<dyn Capabilities>,
    budget: Arc<LogBudget>,
    level: LogLevel,
    partial: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    pub(crate) fn new(capabilities: Arc<dyn Capabilities>, budget: Arc<LogBudget>, level: LogLevel) -> Self {
        Self { capabilities, budget, level, partial: Arc::default() }
    }

    fn line(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let line = String::from_utf8_lossy(bytes).into_owned();
            log_line(&*self.capabilities, &self.budget, self.level, line, &[]);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Self {
            capabilities: Arc::clone(&self.capabilities),
            budget: Arc::clone(&self.budget),
            level: self.level,
            partial: Arc::clone(&self.partial),
        })
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            partial.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            // A guest that never ends its line must not fill our memory.
            if piece.ends_with(b"\n") || partial.len() > 8 * 1024 {
                self.line(&partial);
                partial.clear();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = std::mem::take(&mut *partial);
        drop(partial);
        self.line(&rest);
    }
}
