//! The outside hosts of active plugins with their breakers, of the process that answers.

use patchbay_model::PluginName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::operations;

operations! {
    /// Every outside host that an active plugin names, with its breaker in this process.
    BreakersList = "breakers.list": GET "/api/admin/breakers" ((), NoQuery, NoBody) -> List<BreakerView>,
        Operator, Reads, errors [];
    /// Refuse all calls to a host until it is closed again. Jobs that need it wait without using up attempts.
    BreakersOpen = "breakers.open": POST "/api/admin/breakers/open" ((), NoQuery, Json<BreakerOrder>) -> Data<BreakerView>,
        Operator, Changes, audit "breaker.open", errors [404 "No active plugin names such a host, or it names several"];
    /// Let calls to a host through again, whoever opened its breaker.
    BreakersClose = "breakers.close": POST "/api/admin/breakers/close" ((), NoQuery, Json<BreakerOrder>) -> Data<BreakerView>,
        Operator, Changes, audit "breaker.close", errors [404 "No active plugin names such a host, or it names several"];
}

/// An outside host of a plugin, and its breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerView {
    /// Whose calls it lets through or refuses.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Where to: `scheme://host:port`.
    pub host: String,
    /// `closed` (calls go through), `open` (they are refused) or `half-open` (one tries).
    pub state: String,
    /// Since when; absent when it was never used.
    pub since: Option<String>,
    /// While open: when a call may try. Absent when an operator has opened it.
    pub probe_in_ms: Option<u64>,
    /// The operator who has opened it, and must close it.
    pub opened_by: Option<String>,
    /// The operator's words.
    pub reason: Option<String>,
    /// Failures that count now.
    pub failures: u32,
    /// So many failures open it.
    pub opens_at: u32,
    /// Within so many milliseconds.
    pub within_ms: u64,
    /// It stays open for so many milliseconds.
    pub open_ms: u64,
    /// What the last failure was, if there was one.
    pub last_failure: Option<String>,
    /// How often it has opened since the host started.
    pub times_opened: u64,
    /// How often a job was deferred because of it since then.
    pub deferred_jobs: u64,
}

impl BreakerView {
    /// Whether calls go through without a doubt.
    pub fn is_closed(&self) -> bool {
        self.state == "closed"
    }
}

/// Which breaker, and why.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerOrder {
    /// Name of the plugin.
    pub plugin: String,
    /// `scheme://host:port`, or a part of it that names one host only.
    pub host: String,
    /// For the next operator and the audit trail: 1 to 500 characters.
    pub reason: String,
}
