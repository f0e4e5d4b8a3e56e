//! Outside hosts of active plugins and their breakers, as seen by the answering process.

use patchbay_model::PluginName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::{Data, List};
use crate::body::{Json, NoBody};
use crate::operation::NoQuery;
use crate::operations;

operations! {
    /// List every outside host that an active plugin names, with its breaker in this process.
    BreakersList = "breakers.list": GET "/api/admin/breakers" ((), NoQuery, NoBody) -> List<BreakerView>,
        Viewer, Reads, errors [];
    /// Open a breaker: refuse all calls to a host until the breaker is closed. Jobs that need the
    /// host wait without using up attempts.
    BreakersOpen = "breakers.open": POST "/api/admin/breakers/open" ((), NoQuery, Json<BreakerOrder>) -> Data<BreakerView>,
        Operator, Changes, audit "breaker.open", errors [404 "No outside host of an active plugin matches, or several do"];
    /// Close a breaker: let calls to a host through again, whether the breaker or an operator
    /// opened it.
    BreakersClose = "breakers.close": POST "/api/admin/breakers/close" ((), NoQuery, Json<BreakerOrder>) -> Data<BreakerView>,
        Operator, Changes, audit "breaker.close", errors [404 "No outside host of an active plugin matches, or several do"];
}

/// An outside host of a plugin, and its breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerView {
    /// The plugin whose calls it lets through or refuses.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// The outside host, as `scheme://host:port`.
    pub host: String,
    /// `closed` (calls go through), `open` (calls are refused) or `half-open` (one trial call at a
    /// time).
    pub state: String,
    /// When it entered this state; absent if it was never used.
    pub since: Option<String>,
    /// While open: milliseconds until a trial call is let through. Absent if an operator opened it.
    pub probe_in_ms: Option<u64>,
    /// While open: when a trial call is let through. Absent if an operator opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<String>,
    /// When it stopped letting calls through; trials that fail do not change it. Absent while it is
    /// closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<String>,
    /// Number of milliseconds since `openedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for_ms: Option<u64>,
    /// Number of failures that opened it. Absent while it is closed, and if an operator opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_after: Option<u32>,
    /// The operator who opened it; only an operator can close it then.
    pub opened_by: Option<String>,
    /// The reason that the operator gave.
    pub reason: Option<String>,
    /// Failures that count towards opening now; 0 while it is not closed.
    pub failures: u32,
    /// Number of failures that opens it.
    pub opens_at: u32,
    /// Time window in which failures count, in milliseconds.
    pub within_ms: u64,
    /// How long it stays open, in milliseconds.
    pub open_ms: u64,
    /// The last failure, if there was one.
    pub last_failure: Option<String>,
    /// How often it has opened since the host started.
    pub times_opened: u64,
    /// How many times a job was deferred because of it since the host started.
    pub deferred_jobs: u64,
    /// Only in the answer of opening and closing: nothing has changed, because an operator had opened
    /// it, or it was closed, already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

impl BreakerView {
    /// True only if calls go through without restriction.
    pub fn is_closed(&self) -> bool {
        self.state == "closed"
    }
}

/// Which breaker to open or close, and why.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerOrder {
    /// Name of the plugin.
    pub plugin: String,
    /// `scheme://host:port`, or any part of it that matches one host only, in any letter case.
    pub host: String,
    /// Why, for the next operator and the audit trail: 1 to 500 characters.
    pub reason: String,
}
