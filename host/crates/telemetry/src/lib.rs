//! The log, spans and metrics of a host, and the redaction of texts for them.

mod log;
pub mod metrics;
mod recent_lines;
mod redact;
pub mod traces;

pub use log::*;
pub use recent_lines::RecentLines;
pub use redact::{redact_foreign, redact_own};
