//! Revisions that take no calls until somebody decides.

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
    /// Of the revision, as JSON.
    pub manifest: Value,
    pub reason: String,
    pub began_at: DateTime<Utc>,
    /// Who saw it: `host NAME`.
    pub began_by: String,
    /// Whether the plugin stands still by it; false when another revision has been activated since.
    pub is_current: bool,
}
