//! Many requests of the inbox at once: a preview, then exactly its requests in parts.

use chrono::{DateTime, Utc};
use patchbay_model::webhook::InboxState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::answer::Data;
use crate::body::Json;
use crate::inbox::InboxItem;
use crate::operation::NoQuery;
use crate::operations;

operations! {
    /// Judge many requests again, at their original time. Without `token`: a preview. With the token
    /// of a preview: a part of exactly those requests; `nextCursor` leads to the next part.
    InboxVerifyMany = "inbox.verify_many": POST "/api/admin/inbox/verify" ((), NoQuery, Json<InboxMany>) -> Data<InboxManyAnswer>,
        Operator, Changes, audit "inbox.verify-many", data Shown(&["message"]), errors [409 "too many requests match"];
    /// Process many requests: judge them again, and add their jobs. As `inbox.verify_many` in parts,
    /// after a preview.
    InboxReplayMany = "inbox.replay_many": POST "/api/admin/inbox/replay" ((), NoQuery, Json<InboxMany>) -> Data<InboxManyAnswer>,
        Operator, Changes, audit "inbox.replay-many", data Shown(&["message"]), errors [409 "too many requests match"];
    /// Erase the content of many requests for good. As `inbox.verify_many` in parts, after a preview.
    InboxEraseMany = "inbox.erase_many": POST "/api/admin/inbox/erase" ((), NoQuery, Json<InboxMany>) -> Data<InboxManyAnswer>,
        Operator, Destroys("erases the content of these requests"), audit "inbox.erase-many", data Shown(&["message"]),
        errors [409 "too many requests match"];
}

/// Which requests: by id, or by filter. Or the token of a preview.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InboxMany {
    /// Only these requests; at most 200.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Uuid>,
    /// Only of this webhook, such as `crm.status`, or of all webhooks of this plugin.
    pub webhook: Option<String>,
    /// Only in this state.
    #[schema(inline)]
    pub state: Option<InboxState>,
    /// Only with this code of a rejection, or of why it could not be judged.
    pub code: Option<String>,
    /// Only of this kind, as the plugin names it.
    pub kind: Option<String>,
    /// Only from this network, as the list shows it.
    pub source: Option<String>,
    /// Only from this time on.
    pub after: Option<DateTime<Utc>>,
    /// Only before this time.
    pub before: Option<DateTime<Utc>>,
    /// To verify: also write the verdict down.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub apply: bool,
    /// To replay: also requests whose jobs were added before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// `token` of a preview: its requests are handled, a part at a time. Nothing else but `cursor`
    /// may be given then.
    pub token: Option<String>,
    /// `nextCursor` of the part before.
    pub cursor: Option<String>,
}

/// A preview, or what became of a part.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InboxManyAnswer {
    /// Without `token`: what is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<InboxPreview>,
    /// With `token`: what became of this part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<InboxProgress>,
    /// Where the next part begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Requests that are meant.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InboxPreview {
    /// How many.
    pub total: i64,
    /// How many, by webhook and state.
    pub groups: Vec<InboxGroup>,
    /// Of how many a job has completed, as far as the history knows.
    pub completed: i64,
    /// The five oldest.
    pub samples: Vec<InboxItem>,
    /// To be sent to handle them, within an hour; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Requests of a webhook in one state.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InboxGroup {
    /// Name of the plugin and of the webhook.
    pub webhook: String,
    /// Their state.
    pub state: InboxState,
    /// How many.
    pub count: i64,
}

/// What became of requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InboxProgress {
    /// All of them.
    pub handled: i64,
    /// Accepted; without `apply`: would be.
    pub accepted: i64,
    /// Another request had brought their event.
    pub repeats: i64,
    /// Still rejected.
    pub rejected: i64,
    /// Nobody could judge them.
    pub deferred: i64,
    /// Without content now.
    pub erased: i64,
    /// Left as they were, such as those whose plugin is not active.
    pub skipped: i64,
    /// Why requests were rejected, deferred or skipped, the most frequent first.
    pub reasons: Vec<InboxReason>,
}

/// A reason, and how many requests have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InboxReason {
    /// `rejected`, `deferred` or `skipped`.
    pub result: String,
    /// A code, or a sentence.
    pub reason: String,
    /// How many.
    pub count: i64,
}
