//! Audit trails: permanent records that plugins write about what they did. The trails belong to the
//! host and its operators; a plugin may only append.

use std::collections::BTreeSet;
use std::time::Instant;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::capability::CapabilityError;
use crate::id::{PluginName, RevisionDigest, TrailName};
use crate::job::JobKey;

/// Largest entry, in bytes of its JSON. Entries are kept forever and record what happened;
/// documents belong elsewhere.
pub const MAX_ENTRY_BYTES: usize = 64 << 10;
/// Deepest nesting of lists and objects in an entry. JSON parsers stop at 128 levels, and one entry
/// must not make a list of entries unreadable.
pub const MAX_ENTRY_LEVELS: usize = 64;
/// Longest entry key, in bytes.
pub const MAX_ENTRY_KEY_BYTES: usize = 200;

/// What operators do: when an action begins, and how it ended.
pub const OPERATORS: &str = "operators";
/// What happens to plugins: activations, quarantines, grants, names of secrets.
pub const PLUGINS: &str = "plugins";
/// Who has logged in and out.
pub const LOGIN_LOGS: &str = "login_logs";
/// Requests to routes of plugins that change something.
pub const ROUTES: &str = "routes";
/// Trails that the host writes. No plugin may append to them, and nobody can define them.
pub const HOST_TRAILS: [&str; 4] = [OPERATORS, PLUGINS, LOGIN_LOGS, ROUTES];

/// Whether only the host writes to a trail.
pub fn is_of_the_host(trail: &str) -> bool {
    HOST_TRAILS.contains(&trail)
}

/// Who did what an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    User,
    Operator,
    /// A program with an API key.
    Vendor,
    Plugin,
    Host,
    /// Nobody knows, for example at a failed login.
    Anonymous,
}

impl ActorKind {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
            Self::Vendor => "vendor",
            Self::Plugin => "plugin",
            Self::Host => "host",
            Self::Anonymous => "anonymous",
        }
    }

    /// Of an actor as actions name it: hosts act as `host NAME`, accounts as `user ID`, plugins as
    /// `plugin NAME`.
    pub fn of_actor(actor: &str) -> Self {
        match actor {
            "upgrade" => Self::Host,
            _ if actor.starts_with("host ") => Self::Host,
            _ if actor.starts_with("user ") => Self::User,
            _ if actor.starts_with("plugin ") => Self::Plugin,
            _ => Self::Operator,
        }
    }
}

/// Trails that a plugin asks to append to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSpec {
    pub trails: BTreeSet<TrailName>,
}

/// A new entry, from a plugin that may append to this trail.
#[derive(Debug, Clone)]
pub struct NewAuditEntry {
    pub trail: TrailName,
    /// Distinguishes the entries of one job.
    pub entry_key: String,
    pub entry: String,
    pub plugin: PluginName,
    pub revision: RevisionDigest,
    /// The running job. Without one, the same entry may be written again.
    pub job: Option<JobKey>,
    /// From the request that caused the entry.
    pub correlation_id: Option<String>,
}

#[async_trait]
pub trait AuditTrails: Send + Sync + 'static {
    /// Writes an entry that fits its trail's schema. If the job has already written an entry under
    /// this key, nothing changes, whatever the new entry says.
    async fn append(&self, entry: NewAuditEntry, deadline: Instant) -> Result<(), CapabilityError>;
}
