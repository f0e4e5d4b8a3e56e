//! Revisions that take no calls until an operator decides.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{PluginName, RevisionDigest};

/// A quarantine that has not ended.
#[derive(Debug, Clone)]
pub struct Quarantine {
    pub plugin: PluginName,
    /// The revision that crashed.
    pub digest: RevisionDigest,
    pub version: String,
    /// The revision's manifest, as JSON.
    pub manifest: Value,
    pub reason: String,
    pub began_at: DateTime<Utc>,
    /// The host that saw the crashes: `host NAME`.
    pub began_by: String,
    /// Whether it stops the plugin; false when another revision has been activated since.
    pub is_current: bool,
}
