//! Routes that plugins serve, as the answering host has them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::answer::{Data, List};
use crate::body::NoBody;
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// A route of a plugin.
    RouteParams {
        /// Name of the plugin and id of the route, such as `crm.call-lead`
        route: String,
    }
}

operations! {
    /// List the routes of active plugins, on the host that answers.
    RoutesList = "routes.list": GET "/api/admin/routes" ((), NoQuery, NoBody) -> List<RouteView>,
        Viewer, Reads, errors [];
    /// Show a route with its schemas and limits.
    RoutesShow = "routes.show": GET "/api/admin/routes/{route}" (RouteParams, NoQuery, NoBody) -> Data<RouteDetails>,
        Viewer, Reads, errors [404 "No active plugin has this route on this host"];
}

/// A route of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// Name of the plugin and id of the route: `crm.call-lead`.
    pub route: String,
    /// Name of the plugin.
    pub plugin: String,
    /// HTTP method. The host answers HEAD and OPTIONS itself.
    pub method: String,
    /// Path with its parameters: `/api/leads/{leadId}/call`.
    pub path: String,
    /// Who may call it: roles, `public`, `any-user`, or `vendor` with the scope.
    pub access: String,
    /// The operation that answers.
    pub operation: String,
    /// Digest of the revision that answers.
    pub revision: String,
    /// `active`, `quarantined`, `not loaded` or `not granted`. A route that nobody has granted answers
    /// 404; what is not active for another reason answers with 503, or as the route declares.
    pub state: String,
    /// Why it is not active, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A route with its schemas and limits.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteDetails {
    /// The route.
    #[serde(flatten)]
    pub route: RouteView,
    /// Status of an answer for which the plugin chooses none.
    pub success_status: u16,
    /// Other statuses that the plugin may choose.
    pub statuses: Vec<u16>,
    /// Media types of answers as bytes.
    pub produces: Vec<String>,
    /// Request headers that the plugin is given.
    pub request_headers: Vec<String>,
    /// Response headers that the plugin may set.
    pub response_headers: Vec<String>,
    /// Largest body, in bytes.
    pub max_body_bytes: u64,
    /// Limit of one call, in milliseconds.
    pub deadline_ms: u64,
    /// Calls at once on a host. Absent: as many as the host runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// How often it may be called.
    pub rate: RouteRateView,
    /// How the body is written: `json` or `form`.
    pub body_type: String,
    /// What `Idempotency-Key` means: `none`, `accepted` or `required`.
    pub idempotency: String,
    /// How long clients may keep an answer: `private, max-age=60`. Absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// Which pages of other origins may read an answer: `default`, `none` or `any`.
    pub cors: String,
    /// The action that the audit trail `routes` is told. Absent: it is told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
    /// JSON Schema of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// JSON Schema of the answer's `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
}

/// How often a route may be called.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRateView {
    /// Requests in `perMs`.
    pub max: u32,
    /// Milliseconds.
    pub per_ms: u64,
    /// Whose requests count together: `user`, `key`, `address` or `all`.
    pub by: String,
}
