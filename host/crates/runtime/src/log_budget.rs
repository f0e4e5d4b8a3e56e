//! How much a call may write into its log.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use patchbay_model::capability::{Capabilities, LogLevel, MAX_LOG_LINE_BYTES};
use patchbay_model::outcome::truncate;

/// Longest log line that is passed on. Who writes it down hides values in it, and then cuts it further.
const MAX_WHOLE_LINE_BYTES: usize = 2 * MAX_LOG_LINE_BYTES;

/// One budget for log lines, stdout and stderr of a call.
pub(crate) struct LogBudget {
    left: AtomicUsize,
    dropped: AtomicU64,
}

impl LogBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: AtomicUsize::new(bytes), dropped: AtomicU64::new(0) }
    }

    /// Whether a line of this length still fits; counts it if not.
    fn take(&self, bytes: usize) -> bool {
        let fits = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok();
        if !fits {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// Lines that did not fit.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One line under the call's budget.
pub(crate) fn log_line(
    capabilities: &dyn Capabilities,
    budget: &LogBudget,
    level: LogLevel,
    mut line: String,
    fields: &[(String, String)],
) {
    let bytes = line.len() + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if budget.take(bytes + 1) {
        truncate(&mut line, MAX_WHOLE_LINE_BYTES);
        capabilities.log(level, &line, fields);
    }
}
