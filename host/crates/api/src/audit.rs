//! The host's audit trails, and what plugins have written into them.

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
    /// What plugins have written into audit trails, the newest first.
    AuditEntries = "audit.entries": GET "/api/admin/audit" ((), EntriesQuery, NoBody) -> List<AuditEntry>,
        Operator, Reads, errors [];
    /// Every audit trail.
    AuditTrailsList = "audit_trails.list": GET "/api/admin/audit/trails" ((), NoQuery, NoBody) -> List<AuditTrail>,
        Operator, Reads, errors [];
    /// Make an audit trail, or change it for entries to come; those that are there stay as they are.
    AuditTrailsSet = "audit_trails.set": PUT "/api/admin/audit/trails/{trail}" (TrailPath, NoQuery, Json<TrailChange>) -> Data<AuditTrail>,
        Operator, Changes, audit "audit.set-trail", errors [];
    /// Remove an audit trail: plugins cannot append to it any more. Its entries stay.
    AuditTrailsRemove = "audit_trails.remove": DELETE "/api/admin/audit/trails/{trail}" (TrailPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "audit.remove-trail", errors [];
}

/// Which entries.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EntriesQuery {
    /// Of this trail.
    pub trail: Option<String>,
    /// Written by this plugin.
    pub plugin: Option<String>,
    /// Of jobs of this queue.
    pub queue: Option<String>,
    /// Of the job with this id.
    pub job: Option<String>,
    /// Written at this time or later (RFC 3339).
    pub since: Option<DateTime<Utc>>,
    /// Behind the page whose `nextCursor` this is.
    pub cursor: Option<String>,
    /// 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// An entry.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Rises with time.
    pub id: i64,
    /// Where it was written.
    pub trail: String,
    /// Tells the entries of one job apart.
    pub entry_key: String,
    /// Who wrote it.
    pub plugin: String,
    /// Digest of the revision.
    pub revision: String,
    /// Of the job that wrote it; absent outside of jobs.
    pub queue: Option<String>,
    /// Of the job that wrote it; absent outside of jobs.
    pub job_id: Option<String>,
    /// Of the request that caused it.
    pub correlation_id: Option<String>,
    /// When, by Postgres's clock.
    pub at: DateTime<Utc>,
    /// What the plugin wrote.
    pub entry: Value,
}

/// A trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditTrail {
    /// What plugins ask for.
    pub name: String,
    /// One line.
    pub description: String,
    /// JSON Schema, draft 2020-12, of its entries.
    pub schema: Value,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Who made it.
    pub created_by: String,
    /// Last change.
    pub changed_at: DateTime<Utc>,
    /// Of the last change.
    pub changed_by: String,
}

/// What a trail is to be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrailChange {
    /// JSON Schema of its entries; at most 64 KiB.
    #[schema(value_type = Object)]
    pub schema: Value,
    /// One line; absent leaves the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}
