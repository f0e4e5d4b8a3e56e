//! Postgres: the record of what happened, and the plugins and schedules that should run.
//!
//! Owns sqlx and the schema `patchbay`. Never knows Redis or wasm. Errors are distinguished by what
//! the caller does next, and their texts contain neither SQL nor connection strings.

mod activity;
mod alert_deliveries;
mod alerts;
mod attempts;
mod audit;
mod blind_index;
mod bulk;
mod connections;
mod deactivated;
mod dead_letter_jobs;
mod dead_letters;
mod error;
mod grants;
mod history;
mod hosts;
mod identity_changes;
mod inbox;
mod leader;
mod mirror;
mod notify;
mod operators;
mod people;
mod plugin_sql;
mod pool;
mod quarantine;
mod recent_events;
mod recording;
mod redactions;
mod revision_pruning;
mod revisions;
mod rows;
mod runtime_schedules;
mod saved_searches;
mod schedules;
mod sealed_keys;
mod search;
mod secrets;
mod signatures;
mod statistics;
mod timeline;
mod vendor_keys;

pub use activity::{ActivityCursor, ActivityFilter, ActivityRow, NewAction};
pub use alert_deliveries::{DueDelivery, UndeliveredRow};
pub use alerts::{
    AlertChange, AlertEventRow, AlertRow, AlertRuleRow, SilenceRow, StoredAlertEvent,
};
pub use attempts::AttemptRow;
pub use audit::{
    AuditFilter, AuditRow, AuditSnapshot, BatchRow, Expired, ExpiryRow, ImportColumns, ImportStep,
    NewBatch, NewHostEntry, NewRouteEntry, PendingAge, Protection, RetainedTrail, Sealable, Sealed,
    StoredEntry, TrailDefinition, TrailRow, VerificationRow, append_host_entry,
};
pub use blind_index::{Term, TermKey};
pub use bulk::{BulkItem, BulkOutcome, BulkReason, BulkRow, NewBulk, NewBulkItem};
pub use deactivated::DeactivatedRow;
pub use dead_letter_jobs::{DeadLetterJob, DeadLetterJobCursor, DeadLetterJobState, Listing};
pub use dead_letters::{DeadLetterCounts, DeadLetterRow, DeadLetters, Ended};
pub use error::{ReadOnly, StoreError};
pub use grants::{GrantRow, USES_DAYS};
pub use history::{
    BodyRow, Erased, ErasedJob, ErasureRow, HistoryKeyRow, HistoryTables, JobErasure, KeepAttempts,
    NewErasure, PartitionRow, PendingErasure, Person, Prunable, Pruned, PrunedRow, Retention,
    RetentionRow, Texts,
};
pub use hosts::{Failure, HostRow, Report, Running};
pub use identity_changes::{IdentityChange, IdentityChanges};
pub use inbox::{
    Added, DeferredCount, EventKey, EventKeys, InboxBatch, InboxCount, InboxCounted, InboxFilter,
    InboxHour, InboxReplayRow, InboxRequest, InboxRow, InboxSelection, InboxSilence, InboxSource,
    InboxStanding, InboxWaiting, Judgement, KnownRejected, MOST_COUNTED, NewInboxRow, NewReplay,
    PendingJobs, RepeatCount, SelectedRequest, Settled, ToldSilence,
};
pub use leader::{Elector, LeaderTask, Leadership};
pub use operators::{
    BasicMode, BasicSet, EnrolLink, Enrolment, ExpiringRow, IdentityRow, LinkPurpose, NewLink,
    NewOperator, NewOperatorSession, NewOperatorToken, NewOwnerRow, NewSignIn, OperatorKey,
    OperatorMethod, OperatorRow, OperatorSessionRow, OperatorSessionView, OperatorSource,
    OperatorState, OperatorTokenRow, OperatorTokenView, Provisioned, SharedLoginRow, SignIn,
    TotpSalt, WaitingSignIn,
};
pub use people::{
    CodePurpose, CodeRow, EmergencyLoginRow, MailBatch, NewCode, NewLogin, NewSession, NewSignup,
    OutgoingMail, Refreshed, Replaces, SessionMethod, SessionRow, SessionView, UserKey,
    UserListing, UserRow, UsersTable, password_mark,
};
pub use plugin_sql::{
    OutboxBatch, OutboxEntry, PlacesTaken, PluginActivity, PluginSql, RoleError, SqlActivity,
    SqlSession, Wanted,
};
pub use pool::{
    Changes, DatabaseFacts, MigrationReport, PoolUsage, Store, StoreConfig, StoreProbe,
};
pub use recent_events::{FailureRow, RecentAction};
pub use recording::{NewAttempt, SealedBody};
pub use redactions::RedactionRow;
pub use revision_pruning::{Keep, PrunedRevision};
pub use revisions::{
    Activation, ActivationRow, ActiveRow, NamedRevision, NewRevision, RevisionRow,
};
pub use saved_searches::{MAX_SAVED_SEARCHES, SavedSearch, SavedSearchRow};
pub use schedules::{LastRunRow, RemovedScheduleRow, ScheduleFields, ScheduleRow};
pub use sealed_keys::{KeyWork, SealedKeyRow};
pub use search::{
    Count, Found, FoundJob, FoundRow, MAX_FOUND, MAX_JOBS, SearchCursor, Selection, UnknownCursor,
};
pub use secrets::{Replace, Resealed, SealedSecret, SecretRow};
pub use signatures::{NewSignature, SignatureRow};
pub use statistics::{ActionRow, FailureRate, JobStatistics, MOST_FAILURES, RefusedLogin};
pub use timeline::{JobAction, JobAudit, JobBulk, MAX_ATTEMPTS, Relative};
pub use vendor_keys::{
    NewVendorKey, VendorCalls, VendorKeyChange, VendorKeyCheck, VendorKeyListing, VendorKeyRow,
    VendorKeyUse,
};
