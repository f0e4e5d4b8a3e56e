//! The inbox: requests of vendors to webhooks of plugins, and what became of them.

use chrono::{DateTime, Utc};
use patchbay_model::webhook::InboxState;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::answer::{Data, List};
use crate::body::NoBody;
use crate::operation::NoQuery;
use crate::reveal::Reveal;
use crate::{operations, path_params};

path_params! {
    /// A webhook of a plugin.
    WebhookPath {
        /// Name of the plugin and of the webhook, such as `crm.status`
        webhook: String,
    }
}

path_params! {
    /// A request in the inbox.
    InboxPath {
        /// The request's id
        id: String,
    }
}

operations! {
    /// List the webhooks that plugins have on the host that answers, and how each stands.
    WebhooksList = "webhooks.list": GET "/api/admin/webhooks" ((), NoQuery, NoBody) -> List<WebhookView>,
        Viewer, Reads, errors [];
    /// Show a webhook: what it takes, its limits, and its requests of the last 24 hours by outcome.
    WebhooksShow = "webhooks.show": GET "/api/admin/webhooks/{webhook}" (WebhookPath, NoQuery, NoBody) -> Data<WebhookDetails>,
        Viewer, Reads, errors [404 "no plugin has this webhook on this host"];
    /// List requests to webhooks, the newest first, without their content.
    InboxList = "inbox.list": GET "/api/admin/inbox" ((), ListInbox, NoBody) -> List<InboxItem>,
        Viewer, Reads, data Shown(&["message"]), errors [404 "no plugin has this webhook on this host, and no request to it is kept"];
    /// Count requests to webhooks by webhook and state, and those of the last 24 hours by outcome.
    InboxStats = "inbox.stats": GET "/api/admin/inbox-stats" ((), NoQuery, NoBody) -> Data<InboxStatistics>,
        Viewer, Reads, errors [];
    /// Show a request with its content, redacted. Credentials, and what the manifest redacts, are
    /// never shown.
    InboxShow = "inbox.show": GET "/api/admin/inbox/{id}" (InboxPath, Reveal, NoBody) -> Data<InboxDetails>,
        Viewer, Reads, audit "inbox.reveal", data Shown(&["address", "body", "eventId", "message", "query", "value"]), errors [];
    /// Judge a request again, at its original time, by the active revision and today's secrets. Only
    /// with `apply` is a rejected or deferred request then accepted.
    InboxVerify = "inbox.verify": POST "/api/admin/inbox/{id}/verify" (InboxPath, VerifyInbox, NoBody) -> Data<InboxVerdict>,
        Operator, Changes, audit "inbox.verify", data Shown(&["message"]), errors [
            409 "the plugin is not active on this host, or its content cannot be opened",
            410 "its content is erased",
        ];
    /// Process a request: judge it again, and add its jobs. One that was processed before is
    /// processed once more only with `again`: effects may then happen twice.
    InboxReplay = "inbox.replay": POST "/api/admin/inbox/{id}/replay" (InboxPath, ReplayInbox, NoBody) -> Data<InboxVerdict>,
        Operator, Changes, audit "inbox.replay", data Shown(&["message"]), errors [
            409 "it was processed before, or its jobs are being added, or the plugin is not active on this host",
            410 "its content is erased",
        ];
    /// Erase the content of a request for good. Its event stays known, so that it is not processed
    /// again when the vendor repeats it.
    InboxErase = "inbox.erase": DELETE "/api/admin/inbox/{id}" (InboxPath, NoQuery, NoBody) -> Data<InboxItem>,
        Operator, Destroys("erases the content of the request"), audit "inbox.erase", data Shown(&["message"]),
        errors [409 "its jobs are being added"];
}

/// A webhook of a plugin, and how it stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookView {
    /// Name of the plugin and of the webhook: `crm.status`.
    pub webhook: String,
    /// Name of the plugin.
    pub plugin: String,
    /// HTTP methods that it takes.
    pub methods: Vec<String>,
    /// Path that the vendor is given, after this host's address.
    pub path: String,
    /// Queue of its jobs.
    pub queue: String,
    /// What the host checks itself: `token`, `hmac` or `none`.
    pub check: String,
    /// Digest of the revision that judges.
    pub revision: String,
    /// `active`, `quarantined` or `not loaded`: requests to what is not active wait, or are refused,
    /// as the manifest says.
    pub state: String,
    /// When the last request came that was accepted and is still kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_accepted_at: Option<DateTime<Utc>>,
    /// Accepted requests whose jobs are not in the queue yet.
    pub accepted: i64,
    /// Requests that wait to be judged.
    pub deferred: i64,
    /// Rejected requests that are kept.
    pub rejected: i64,
}

/// A webhook with its limits and counts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookDetails {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: WebhookView,
    /// Why it is not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How the host itself checks requests, in words: where the proof stands, how it is made, by which secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_details: Option<String>,
    /// The secret of the host's own check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Status of the answer to a request that is kept.
    pub success_status: u16,
    /// Media types that it takes; empty: any.
    pub content_types: Vec<String>,
    /// Largest body, in bytes.
    pub max_body_bytes: u64,
    /// The vendor's limit, in milliseconds.
    pub ack_ms: u64,
    /// `accept` or `refuse`.
    pub when_unavailable: String,
    /// Paths whose values requests are found by.
    pub searchable: Vec<String>,
    /// For how many days events are remembered.
    pub dedupe_days: u32,
    /// For how many days requests are kept.
    pub retention_days: u32,
    /// When the oldest request came that waits to be judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_deferred_at: Option<DateTime<Utc>>,
    /// When the oldest accepted request came whose jobs are not in the queue yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_accepted_at: Option<DateTime<Utc>>,
    /// Requests of the last 24 hours by outcome and code.
    pub last_day: Vec<InboxCountView>,
}

/// Which requests to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListInbox {
    /// Only of this webhook, such as `crm.status`, or of all webhooks of this plugin.
    pub webhook: Option<String>,
    /// Only in this state.
    #[param(inline)]
    pub state: Option<InboxState>,
    /// Only with this code of a rejection, or of why it could not be judged.
    pub code: Option<String>,
    /// Only of this kind, as the plugin names it.
    pub kind: Option<String>,
    /// Only the event with this id, as the plugin names it. Needs `webhook`.
    pub event_id: Option<String>,
    /// Only from this network, as the list shows it.
    pub source: Option<String>,
    /// Only with this value at `dataPath`.
    pub data_value: Option<String>,
    /// Path of a body in JSON, name of a form field or parameter: one that the webhook's manifest
    /// declares searchable.
    pub data_path: Option<String>,
    /// Only from this time on.
    pub after: Option<DateTime<Utc>>,
    /// Only before this time.
    pub before: Option<DateTime<Utc>>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Requests per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// A request to a webhook, without its content.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxItem {
    /// The request's id.
    pub id: Uuid,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// Name of the plugin and of the webhook.
    pub webhook: String,
    /// What became of it.
    pub state: InboxState,
    /// Why it was rejected, or could not be judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// As the plugin names it.
    pub kind: String,
    /// HTTP method.
    pub method: String,
    /// Media type of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Bytes of the body.
    pub size: i32,
    /// Network of the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Number of its jobs.
    pub jobs: i32,
    /// Digest of the revision that judged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Passed on to its jobs.
    pub correlation_id: String,
    /// When it is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<DateTime<Utc>>,
    /// Until when it is kept.
    pub keep_until: DateTime<Utc>,
}

/// A request with its content.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxDetails {
    /// The request.
    #[serde(flatten)]
    pub item: InboxItem,
    /// The process that took it.
    pub host: String,
    /// Whether Postgres or Redis had it first.
    pub via: String,
    /// When it was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<DateTime<Utc>>,
    /// How often it was judged in vain.
    pub tries: i32,
    /// How often its event came again.
    pub repeats: i64,
    /// When its event came last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_repeat_at: Option<DateTime<Utc>>,
    /// The request that brought the event first, where this one is a repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Uuid>,
    /// Ids of the jobs of its last processing, in the webhook's queue.
    pub job_ids: Vec<String>,
    /// Ids of the jobs of earlier processings, as far as is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_job_ids: Vec<String>,
    /// Why the content is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// Its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<InboxContent>,
    /// Further processings, the newest first.
    pub replays: Vec<InboxReplayView>,
}

/// The content of a request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxContent {
    /// As the plugin names the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Path without the query.
    pub path: String,
    /// As it was sent, without the token.
    pub query: String,
    /// Headers in the order in which they came.
    pub headers: Vec<InboxHeader>,
    /// Address of the sender.
    pub address: String,
    /// The body as text, or in base64 where it is none.
    pub body: String,
    /// Whether the body is in base64.
    pub is_base64: bool,
    /// Whether values are hidden that a reveal would show.
    pub is_redacted: bool,
}

/// A header of a request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxHeader {
    /// In lower case.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// One more processing of a request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxReplayView {
    /// 1 for the first after the request itself.
    pub number: i32,
    /// Who asked for it.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// Digest of the revision that judged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Number of its jobs.
    pub jobs: i32,
}

/// What to do with the verdict.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct VerifyInbox {
    /// True also writes the verdict down: a rejected or deferred request that is the vendor's is
    /// accepted, and its jobs are added.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apply: bool,
}

/// Whether to process a request once more.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReplayInbox {
    /// True also processes a request whose jobs were added before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// What the active revision says of a request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxVerdict {
    /// The request's id.
    pub id: Uuid,
    /// `accepted`, `rejected` or `deferred`: what is said now.
    pub verdict: String,
    /// Why it is not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Number of jobs of the event.
    pub jobs: i32,
    /// The state of the request now.
    pub state: InboxState,
    /// Whether anything was changed.
    pub applied: bool,
}

/// Requests of the last 24 hours.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxCountView {
    /// Name of the plugin and of the webhook.
    pub webhook: String,
    /// `accepted`, `repeat`, `rejected`, `deferred` or `refused`.
    pub outcome: String,
    /// Why; empty for what was accepted.
    pub code: String,
    /// How many.
    pub count: i64,
}

/// Requests that are kept.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxStandingView {
    /// Name of the plugin and of the webhook.
    pub webhook: String,
    /// Their state.
    pub state: InboxState,
    /// How many.
    pub count: i64,
    /// When the oldest came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<DateTime<Utc>>,
}

/// How the inbox stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxStatistics {
    /// Requests that are kept, by webhook and state.
    pub kept: Vec<InboxStandingView>,
    /// Requests of the last 24 hours, by webhook, outcome and code.
    pub last_day: Vec<InboxCountView>,
}
