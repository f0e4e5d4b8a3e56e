//! Audit trails, their entries, and whether they are whole.

use chrono::{DateTime, Utc};
use patchbay_model::audit_chain::Anchor;
use patchbay_model::trail_pack::{EntryFields, Projection, TrailPack};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::answer::{Data, File, List, Media, Nothing};
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
    /// List the entries of audit trails, the newest first: what plugins wrote, what operators did
    /// (trail `operators`), and what happened to plugins (trail `plugins`).
    AuditEntries = "audit.entries": GET "/api/admin/audit" ((), EntriesQuery, NoBody) -> List<AuditEntry>,
        Viewer, Reads, data NeededUnless("trail", &["operators", "plugins"]), errors [];
    /// List every audit trail.
    AuditTrailsList = "audit_trails.list": GET "/api/admin/audit/trails" ((), NoQuery, NoBody) -> List<AuditTrail>,
        Viewer, Reads, errors [];
    /// Show an audit trail: its schema, who may read it, and the old table that gets a copy.
    AuditTrailsShow = "audit_trails.show": GET "/api/admin/audit/trails/{trail}" (TrailPath, NoQuery, NoBody) -> Data<AuditTrail>,
        Viewer, Reads, errors [404 "`not-found`: there is no such trail"];
    /// Create an audit trail as a pack says, or replace what is said of it, for future entries. If the
    /// pack names an old table that is absent, the host makes it, and lets nobody change its rows.
    AuditTrailsInstall = "audit_trails.install": POST "/api/admin/audit/trails" ((), NoQuery, Json<TrailPack>) -> Data<InstalledTrail>,
        Owner, Changes, audit "audit.install-trail", errors [409 "`conflict`: only the host writes to that trail, or the host's login may not make the table"];
    /// At the cut-over from the old backend: take over the rows of a trail's old table as entries, and
    /// refuse from then on every change of the table but new rows.
    AuditAdopt = "audit.adopt": POST "/api/admin/audit/trails/{trail}/adopt" (TrailPath, NoQuery, NoBody) -> Data<AdoptedTrail>,
        Owner, Changes, audit "audit.adopt", errors [404 "`not-found`: there is no such trail, it has no old table, or the table is absent", 409 "`conflict`: the host's login may not guard the table, or the table has no key by which its rows can be read in order"];
    /// Create an audit trail, or change it for future entries; existing entries stay as they are.
    AuditTrailsSet = "audit_trails.set": PUT "/api/admin/audit/trails/{trail}" (TrailPath, NoQuery, Json<TrailChange>) -> Data<AuditTrail>,
        Owner, Changes, audit "audit.set-trail", errors [];
    /// Remove an audit trail: plugins can no longer append to it. Its entries stay.
    AuditTrailsRemove = "audit_trails.remove": DELETE "/api/admin/audit/trails/{trail}" (TrailPath, NoQuery, NoBody) -> Nothing,
        Owner, Changes, audit "audit.remove-trail", errors [];
    /// Download entries as CSV, the newest first. A cell that a spreadsheet would take for a formula
    /// begins with an apostrophe. Each download is recorded.
    AuditExport = "audit.export": GET "/api/admin/audit/export" ((), ExportQuery, NoBody) -> File<EntriesCsv>,
        Viewer, Reads, data NeededUnless("trail", &["operators", "plugins"]), errors [];
    /// Verify audit trails: that no entry was changed, removed, added or moved. Reads every entry.
    /// The result is kept, and alerts follow it, unless `anchors` are given: nobody vouches for
    /// those, so only the answer tells what they show. Each verification is recorded.
    AuditVerify = "audit.verify": POST "/api/admin/audit/verify" ((), NoQuery, Json<Verify>) -> Data<AuditReport>,
        Viewer, Reads, audit "audit.verify", errors [404 "the trail has no entries"];
    /// Show the newest batch of each trail, to be kept outside of Postgres.
    AuditAnchors = "audit.anchors": GET "/api/admin/audit/anchors" ((), NoQuery, NoBody) -> List<Anchor>,
        Viewer, Reads, errors [];
    /// Accept that entries of a trail are missing, because the database was restored from an older
    /// dump. Sealing goes on in a new epoch, which begins with an entry that says so. Needs a
    /// reason.
    AuditAcceptGap = "audit.accept_gap": POST "/api/admin/audit/trails/{trail}/accept-gap" (TrailPath, NoQuery, NoBody) -> Data<AcceptedGap>,
        Owner, Changes, audit "audit.accept-gap", errors [409 "the trail is not behind its anchor"];
    /// List the trails whose entries are not kept for ever.
    AuditRetentionList = "audit_retention.list": GET "/api/admin/audit/retention" ((), NoQuery, NoBody) -> List<TrailRetention>,
        Viewer, Reads, errors [];
    /// Say how long the entries of a trail are kept. Nothing is deleted by this.
    AuditRetentionSet = "audit_retention.set": PUT "/api/admin/audit/retention/{trail}" (TrailPath, NoQuery, Json<RetentionChange>) -> Nothing,
        Owner, Changes, audit "audit.set-retention", errors [];
    /// Keep the entries of a trail for ever again.
    AuditRetentionReset = "audit_retention.reset": DELETE "/api/admin/audit/retention/{trail}" (TrailPath, NoQuery, NoBody) -> Nothing,
        Owner, Changes, audit "audit.reset-retention", errors [];
    /// Delete the entries of a trail that are older than it is kept. Their batches stay, so that the
    /// rest can still be verified.
    AuditExpire = "audit.expire": POST "/api/admin/audit/trails/{trail}/expire" (TrailPath, NoQuery, NoBody) -> Data<ExpiredEntries>,
        Owner, Destroys("deletes entries of the audit trail"), audit "audit.expire", errors [409 "the trail is kept for ever, or the host may not delete"];
    /// Take over the old rows of a table of the old backend as entries. Rows that were taken over
    /// before are left alone.
    AuditImport = "audit.import": POST "/api/admin/audit/trails/{trail}/import" (TrailPath, NoQuery, Json<ImportRequest>) -> Data<Imported>,
        Owner, Changes, audit "audit.import", errors [404 "there is no such table", 409 "the column that identifies a row is no number, UUID or text"];
    /// Show who could change entries, and the statements with which an administrator of the
    /// database prevents it.
    AuditProtection = "audit.protection": GET "/api/admin/audit/protection" ((), NoQuery, NoBody) -> Data<LedgerProtection>,
        Viewer, Reads, errors [];
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
    /// Only entries of this actor: id or name of a user or an operator, or a plugin.
    pub actor: Option<String>,
    /// Only entries with this action, for example `login`.
    pub action: Option<String>,
    /// Only entries about this, for example a plugin or a queue.
    pub entity: Option<String>,
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
    /// The plugin that wrote it; absent if the host did.
    pub plugin: Option<String>,
    /// Digest of the revision that wrote it.
    pub revision: Option<String>,
    /// Queue of the job that wrote it; absent outside of jobs.
    pub queue: Option<String>,
    /// Id of the job that wrote it; absent outside of jobs.
    pub job_id: Option<String>,
    /// Correlation id of the request that caused it.
    pub correlation_id: Option<String>,
    /// When it was written, by the clock of Postgres.
    pub at: DateTime<Utc>,
    /// What was written; matches the schema of the trail at that time.
    pub entry: Value,
    /// Who did it: `user`, `operator`, `vendor`, `plugin`, `host` or `anonymous`; absent in entries
    /// of earlier versions.
    pub actor_kind: Option<String>,
    /// Id of whoever did it.
    pub actor_id: Option<String>,
    /// Name of whoever did it.
    pub actor_name: Option<String>,
    /// What was done.
    pub action: Option<String>,
    /// What it was done to.
    pub entity: Option<String>,
    /// Address of the client.
    pub address: Option<String>,
    /// Platform of the client.
    pub platform: Option<String>,
    /// `live`, or `import` for a row of the old backend that was taken over at `at`.
    pub origin: String,
}

/// Which entries to download.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// Format of the file; `csv`.
    pub format: Option<String>,
    /// Only entries of this trail.
    pub trail: Option<String>,
    /// Only entries of this actor: id or name of a user or an operator, or a plugin.
    pub actor: Option<String>,
    /// Only entries with this action.
    pub action: Option<String>,
    /// Only entries about this.
    pub entity: Option<String>,
    /// Only entries written at this time or later (RFC 3339).
    pub since: Option<DateTime<Utc>>,
    /// Only entries written before this time (RFC 3339).
    pub until: Option<DateTime<Utc>>,
}

/// Entries as CSV.
#[derive(Debug)]
pub enum EntriesCsv {}

impl Media for EntriesCsv {
    const TYPE: &'static str = "text/csv; charset=utf-8";
    const ABOUT: &'static str = "The first line names the columns. Each other line is one entry";
}

/// What to verify.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Only this trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trail: Option<String>,
    /// Newest batches that were noted elsewhere, at most 1,000. Those that the host has noted itself
    /// are always compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anchors: Vec<Anchor>,
}

/// The result of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything fits.
    Whole,
    /// What is there fits, but batches are missing at the end.
    Shorter,
    /// Something was changed, removed, added or moved.
    Broken,
}

/// What a verification found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditReport {
    /// The worst result of all trails.
    pub result: Verdict,
    /// Whether MACs were checked: `checked`, or `no-master-key`. Without them, whoever can write to
    /// the database can compute a chain that fits.
    pub macs: String,
    /// Each trail.
    pub trails: Vec<TrailReport>,
}

/// What a verification found of one trail.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrailReport {
    /// Name of the trail.
    pub trail: String,
    /// The result.
    pub result: Verdict,
    /// Number of entries that were verified.
    pub entries: u64,
    /// Number of batches.
    pub batches: u64,
    /// Number of entries that are not sealed yet.
    pub pending: u64,
    /// Number of entries that were deleted after their time, as an operator decided.
    pub expired: u64,
    /// Number of batches without a MAC, because no master key was configured when they were sealed.
    pub without_mac: u64,
    /// Number of batches whose MAC could not be checked, because its key cannot be opened.
    pub unchecked_macs: u64,
    /// The newest batch.
    pub head: Option<Anchor>,
    /// What is wrong, at most 100 of it.
    pub problems: Vec<AuditProblem>,
    /// Number of further problems.
    pub more_problems: u64,
    /// Batches that were noted elsewhere and are not there.
    pub missing: Option<MissingBatches>,
    /// Gaps that an operator has accepted.
    pub accepted_gaps: Vec<AcceptedGap>,
}

/// Something that is wrong with a trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditProblem {
    /// Stable, in kebab-case: `entry-changed`, `entry-missing`, `entry-unsealed`, `entry-moved`,
    /// `entry-twice`, `batch-missing`, `batch-changed`, `chain-broken`, `mac-wrong`, `mac-missing`,
    /// `mac-unchecked`, `anchor-differs`, `epoch-unexplained` or `expiry-unrecorded`.
    pub kind: String,
    /// Epoch of the batch.
    pub epoch: Option<i32>,
    /// Number of the batch.
    pub batch: Option<i64>,
    /// Number of the entry.
    pub entry: Option<i64>,
    /// What it means, for people.
    pub message: String,
}

/// Batches that are missing at the end of a trail.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingBatches {
    /// Number of missing batches; absent if it is not known.
    pub batches: Option<i64>,
    /// The batch that was noted.
    pub anchor: Anchor,
    /// In words.
    pub message: String,
}

/// A gap that was accepted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedGap {
    /// Name of the trail.
    pub trail: String,
    /// The newest batch of the restored database; absent if it had none.
    pub present: Option<Anchor>,
    /// The newest batch that was noted elsewhere.
    pub lost: Anchor,
    /// The epoch that began.
    pub epoch: i32,
}

/// How long the entries of a trail are kept.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrailRetention {
    /// Name of the trail.
    pub trail: String,
    /// In days.
    pub keep_days: i32,
    /// When it was said.
    pub changed_at: DateTime<Utc>,
    /// Who said it.
    pub changed_by: String,
}

/// How long to keep the entries of a trail.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetentionChange {
    /// In days; at least 90.
    #[schema(minimum = 90, maximum = 36500)]
    pub keep_days: i32,
}

/// The result of an expiry.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpiredEntries {
    /// Number of deleted entries.
    pub deleted: i64,
    /// They were sealed before this time.
    pub before: DateTime<Utc>,
    /// Whether there is more to delete: repeat the request.
    pub more: bool,
}

/// What to import.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportRequest {
    /// The table, as `schema.table`; default: the trail's name in the schema `public`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The column with its primary key; default: `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_column: Option<String>,
}

/// The result of an import.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Number of rows that were read.
    pub read: u64,
    /// Number of rows that were not entries before.
    pub added: u64,
}

/// Who could change entries.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerProtection {
    /// `unguarded`: a trigger or a right is not as it should be. `superuser`: the host's login is a
    /// superuser, which only triggers stop. `own-login`: the host's login has no right to change
    /// entries, but owns the tables and could take it. `separate-owner`: it cannot.
    pub level: String,
    /// What that means, for people.
    pub meaning: String,
    /// The host's login.
    pub login: String,
    /// Owner of the tables.
    pub owner: String,
    /// Statements for an administrator of the database, as a superuser.
    pub statements: Vec<String>,
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
    /// Roles of accounts that may read it; empty: operators only.
    pub readers: Vec<String>,
    /// Properties of its entries that are their actor, action and entity.
    pub fields: EntryFields,
    /// The old table that gets a copy of each entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<Projection>,
    /// State of that table: `absent`, `open` (the old backend may change its rows) or `guarded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_state: Option<String>,
}

/// The result of an installation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstalledTrail {
    /// The trail.
    pub trail: AuditTrail,
    /// Whether the host has made the old table.
    pub table_made: bool,
}

/// The result of an adoption.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdoptedTrail {
    /// Name of the table.
    pub table: String,
    /// Number of rows that were read.
    pub read: u64,
    /// Number of rows that were not entries before.
    pub added: u64,
    /// Whether the table was guarded before.
    pub was_guarded: bool,
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
