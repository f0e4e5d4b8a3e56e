//! `[log]`

use super::key::{key, section};
use super::kind::{one_of, text};

section! {
    /// Log lines.
    pub struct Log {
        /// json or text; default: text on a terminal, json elsewhere
        as_json: Option<bool> = key("log.format", one_of(&[("json", true), ("text", false)]));
        /// As in RUST_LOG, for example info,guest=debug
        filter: String = key("log.filter", text()).default("info");
    }
}
