//! A call's log lines, within its log limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use patchbay_model::outcome::truncate;

use crate::context::{CallContext, LogLevel, MAX_LOG_LINE_BYTES};

/// Longest log line that is passed on. The writer redacts it and then cuts it further.
const MAX_WHOLE_LINE_BYTES: usize = 2 * MAX_LOG_LINE_BYTES;

/// One budget for the log lines, stdout and stderr of a call.
pub(crate) struct CallLog {
    context: Option<Arc<dyn CallContext>>,
    left: AtomicUsize,
    dropped: AtomicU64,
}

impl CallLog {
    pub(crate) fn new(context: Option<Arc<dyn CallContext>>, max_bytes: usize) -> Self {
        Self {
            context,
            left: AtomicUsize::new(max_bytes),
            dropped: AtomicU64::new(0),
        }
    }

    /// Whether a line of this length still fits. Counts it as dropped if not.
    fn take(&self, bytes: usize) -> bool {
        let fits = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok();
        if !fits {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// Number of lines that did not fit.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn line(&self, level: LogLevel, mut line: String, fields: &[(String, String)]) {
        let bytes = line.len()
            + fields
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>();
        if !self.take(bytes + 1) {
            return;
        }
        if let Some(context) = &self.context {
            truncate(&mut line, MAX_WHOLE_LINE_BYTES);
            context.log(level, &line, fields);
        }
    }
}
