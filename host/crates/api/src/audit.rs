//! Audit trails, and the entries that plugins write to them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, List, Nothing};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// An audit trail.
    TrailPath {
        /// Name of the trail
        trail: String,
    }
}

operations! {
    /// List the entries that plugins wrote to audit trails, the newest first.
    AuditEntries = "audit.entries": GET "/api/admin/audit" ((), EntriesQuery, NoBody) -> List<AuditEntry>,
        Operator, Reads, errors [];
    /// List every audit trail.
    AuditTrailsList = "audit_trails.list": GET "/api/admin/audit/trails" ((), NoQuery, NoBody) -> List<AuditTrail>,
        Operator, Reads, errors [];
    /// Create an audit trail, or change it for future entries; existing entries stay as they are.
    AuditTrailsSet = "audit_trails.set": PUT "/api/admin/audit/trails/{trail}" (TrailPath, NoQuery, Json<TrailChange>) -> Data<AuditTrail>,
        Operator, Changes, audit "audit.set-trail", errors [];
    /// Remove an audit trail: plugins can no longer append to it. Its entries stay.
    AuditTrailsRemove = "audit_trails.remove": DELETE "/api/admin/audit/trails/{trail}" (TrailPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "audit.remove-trail", errors [];
}

/// Which entries to list.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EntriesQuery {
    /// Only entries of this trail.
    pub trail: Option<String>,
    /// Only entries written by this plugin.
    pub plugin: Option<String>,
    /// Only entries of jobs of this queue.
    pub queue: Option<String>,
    /// Only entries of the job with this id.
    pub job: Option<String>,
    /// Only entries written at this time or later (RFC 3339).
    pub since: Option<DateTime<Utc>>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Entries per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// An entry of an audit trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Number of the entry; increases with time.
    pub id: i64,
    /// Name of the trail.
    pub trail: String,
    /// Distinguishes the entries of one job.
    pub entry_key: String,
    /// The plugin that wrote it.
    pub plugin: String,
    /// Digest of the revision that wrote it.
    pub revision: String,
    /// Queue of the job that wrote it; absent outside of jobs.
    pub queue: Option<String>,
    /// Id of the job that wrote it; absent outside of jobs.
    pub job_id: Option<String>,
    /// Correlation id of the request that caused it.
    pub correlation_id: Option<String>,
    /// When it was written, by the clock of Postgres.
    pub at: DateTime<Utc>,
    /// What the plugin wrote; matches the schema of the trail at that time.
    pub entry: Value,
}

/// An audit trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditTrail {
    /// The name that plugins ask for.
    pub name: String,
    /// Description in one line.
    pub description: String,
    /// JSON Schema (draft 2020-12) of its entries.
    pub schema: Value,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Who made it.
    pub created_by: String,
    /// When it was last changed.
    pub changed_at: DateTime<Utc>,
    /// Who last changed it.
    pub changed_by: String,
}

/// The definition of an audit trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrailChange {
    /// JSON Schema of its entries; at most 64 KiB.
    #[schema(value_type = Object)]
    pub schema: Value,
    /// Description in one line; absent keeps the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}
