//! `[audit]`: sealing of audit trails.

use std::path::PathBuf;
use std::time::Duration;

use patchbay_app::audit::AuditConfig;

use super::key::{key, section};
use super::kind::{milliseconds, text};

section! {
    /// Audit trails.
    pub struct Audit {
        /// File to which the newest batch of each trail is written each hour; keep it where nobody
        /// who can write to the database can change it
        anchor_file: Option<PathBuf> = key("audit.anchor_file", text());
        /// Time between two rounds that seal new entries
        seal_every: Duration = key("audit.seal_every_ms", milliseconds(100..=60_000)).default("1000");
    }
}

impl Audit {
    /// For the application.
    pub fn sealing(&self) -> AuditConfig {
        AuditConfig {
            anchor_file: self.anchor_file.clone(),
            seal_every: *self.seal_every,
        }
    }
}
