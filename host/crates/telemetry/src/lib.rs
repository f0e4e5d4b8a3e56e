//! The log, spans and numbers of a host, and what they share: hiding secrets in texts.

mod log;
pub mod metrics;
mod recent_lines;
mod redact;
pub mod traces;

pub use log::*;
pub use recent_lines::RecentLines;
pub use redact::{redact_foreign, redact_own};
