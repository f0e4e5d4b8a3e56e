//! Audit trails: what plugins write down about what they did, for good. The trails belong to the host and its operators; a plugin may only
//! append.

use std::collections::BTreeSet;
use std::time::Instant;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::capability::CapabilityError;
use crate::id::{PluginName, RevisionDigest, TrailName};
use crate::job::JobKey;

/// Largest entry, in bytes of its JSON. It stays for ever, and says what happened; documents belong elsewhere.
pub const MAX_ENTRY_BYTES: usize = 64 << 10;
/// Lists and objects of an entry within each other. Parsers stop at 128, and one entry must not make a list of others unreadable.
pub const MAX_ENTRY_LEVELS: usize = 64;
/// Longest entry key, in bytes.
pub const MAX_ENTRY_KEY_BYTES: usize = 200;

/// Trails that a plugin asks to append to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSpec {
    pub trails: BTreeSet<TrailName>,
}

/// An entry of a plugin that may append to this trail.
#[derive(Debug, Clone)]
pub struct NewAuditEntry {
    pub trail: TrailName,
    /// Tells the entries of one job apart.
    pub entry_key: String,
    pub entry: String,
    pub plugin: PluginName,
    pub revision: RevisionDigest,
    /// The job that runs. Without one, the same entry may be written again.
    pub job: Option<JobKey>,
    /// Of the request that caused it.
    pub correlation_id: Option<String>,
}

#[async_trait]
pub trait AuditTrails: Send + Sync + 'static {
    /// Writes an entry that fits its trail. One that its job has written already under this key changes nothing, whatever it says.
    async fn append(&self, entry: NewAuditEntry, deadline: Instant) -> Result<(), CapabilityError>;
}
