//! Audit trails, read by accounts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::answer::{File, List};
use crate::audit::{AuditEntry, EntriesCsv, TrailPath};
use crate::body::NoBody;
use crate::operations;

operations! {
    /// List the entries of an audit trail, the newest first. Who may read a trail is said where it is
    /// defined. `login_logs`: administrators read all of it, every other account what it did itself.
    TrailsEntries = "trails.entries": GET "/api/audit/{trail}" (TrailPath, TrailQuery, NoBody) -> List<AuditEntry>,
        User, Reads, errors [404 "`not-found`: there is no such trail, or the account may not read it"];
    /// Download the entries of an audit trail as CSV, the newest first. Each download is recorded.
    TrailsExport = "trails.export": GET "/api/audit/{trail}/export" (TrailPath, TrailExportQuery, NoBody) -> File<EntriesCsv>,
        User, Reads, errors [404 "`not-found`: there is no such trail, or the account may not read it"];
}

/// Which entries to list.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TrailQuery {
    /// Only what this account did: its id or address.
    pub user: Option<String>,
    /// Only entries about this.
    pub entity: Option<String>,
    /// Only entries with this action, for example `login`.
    pub action: Option<String>,
    /// Only entries written at this time or later (RFC 3339).
    pub since: Option<DateTime<Utc>>,
    /// Only entries written before this time (RFC 3339).
    pub until: Option<DateTime<Utc>>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Entries per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// Which entries to download.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TrailExportQuery {
    /// Only what this account did: its id or address.
    pub user: Option<String>,
    /// Only entries about this.
    pub entity: Option<String>,
    /// Only entries with this action, for example `login`.
    pub action: Option<String>,
    /// Only entries written at this time or later (RFC 3339).
    pub since: Option<DateTime<Utc>>,
    /// Only entries written before this time (RFC 3339).
    pub until: Option<DateTime<Utc>>,
}
