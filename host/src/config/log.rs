//! `[log]`

use super::key::{key, section};
use super::kind::{one_of, text};

section! {
    /// Log lines.
    pub struct Log {
        /// json or text; default: text on a terminal, json elsewhere
        format: Option<LogFormat> = key("log.format", one_of(&[("json", LogFormat::Json), ("text", LogFormat::Text)]));

        /// As in RUST_LOG, for example info,guest=debug
        filter: String = key("log.filter", text()).default("info");
    }
}

/// What log lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogFormat {
    Json,
    Text,
}

impl Log {
    /// Whether lines are JSON; absent: decided by whether there is a terminal.
    pub fn as_json(&self) -> Option<bool> {
        self.format.map(|format| format == LogFormat::Json)
    }
}
