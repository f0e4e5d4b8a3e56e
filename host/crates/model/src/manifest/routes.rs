//! `[[routes]]`: HTTP requests that an operation of the plugin answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RoutePath;
use crate::role::Role;

const DEFAULT_BODY_BYTES: u64 = 256 << 10;
const DEFAULT_DEADLINE_MS: u64 = 10_000;
const DEFAULT_STATUS: u16 = 200;
const JSON: &str = "application/json";

/// A method and path, and the operation that answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// Its name within the plugin; the name of the operation where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The host answers HEAD and OPTIONS itself.
    pub method: HttpMethod,
    /// Under `/api/`.
    pub path: RoutePath,
    /// Roles of accounts that may call the route. Either this or `access`, since a forgotten guard
    /// must not open a route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Whoever else may call it, instead of `roles`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<RouteAccess>,
    /// The scope that a vendor's key needs; with `access = "vendor"` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Name of the operation, as in `patchbay plugin call`.
    pub operation: String,
    /// JSON Schema of `{"path":{..},"query":{..},"body":..}`: a path in plugin.toml, the document
    /// itself when packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// JSON Schema of the answer's `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Status of an answer for which the plugin chooses none; default 200.
    #[serde(default = "default_status", skip_serializing_if = "is_default_status")]
    pub success_status: u16,
    /// Other statuses that the plugin may choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
    /// Whether answers have the usual envelope.
    #[serde(default, skip_serializing_if = "is_standard")]
    pub envelope: Envelope,
    /// Media types of answers as bytes or by relay; default JSON.
    #[serde(default = "json_only", skip_serializing_if = "is_json_only")]
    pub produces: Vec<String>,
    /// Request headers that the plugin is given, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<String>,
    /// Response headers that the plugin may set, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
    /// Default 256 KiB.
    #[serde(
        default = "default_body_bytes",
        skip_serializing_if = "is_default_body_bytes"
    )]
    pub max_body_bytes: u64,
    /// Limit of one call, besides the plugin's own; default 10 s.
    #[serde(
        default = "default_deadline",
        skip_serializing_if = "is_default_deadline"
    )]
    pub deadline_ms: u64,
    /// Calls at once on a host; others wait for a second. Default: as many as the host runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// How often it may be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RouteRate>,
    /// How the body is written; default JSON.
    #[serde(default, skip_serializing_if = "is_json_body")]
    pub body_type: BodyType,
    /// What `Idempotency-Key` means; default `accepted`, and `none` for GET and public routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// How long the answer may be kept by browsers; default not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSpec>,
    /// Which pages of other origins may read the answer.
    #[serde(default, skip_serializing_if = "is_default_cors")]
    pub cors: Cors,
    /// What the audit trail is told of a request; default `route.<id>`, and nothing for GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<RouteAudit>,
    /// The answer while the plugin is unavailable; default 503 in the usual envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_unavailable: Option<UnavailableSpec>,
    /// For the OpenAPI document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Groups of the OpenAPI document that it is in; default: the plugin's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Who may call a route, where roles do not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteAccess {
    /// Anyone, without a login.
    Public,
    /// Every account, whatever its role.
    AnyUser,
    /// Programs of vendors whose key has the scope.
    Vendor,
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard<'a> {
    Public,
    AnyUser,
    /// Accounts with one of these roles, and with the role admin.
    Roles(&'a [Role]),
    /// Vendors with this scope.
    Vendor(&'a str),
}

/// As in grants: `sales,admin`, `public`, `any-user`, `vendor leads:write`.
impl fmt::Display for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::AnyUser => f.write_str("any-user"),
            Self::Roles(roles) => {
                let mut names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
                names.sort_unstable();
                f.write_str(&names.join(","))
            }
            Self::Vendor(scope) => write!(f, "vendor {scope}"),
        }
    }
}

/// Whether JSON answers are wrapped. Errors always are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Envelope {
    /// `{"success":true,"data":…}`
    #[default]
    Standard,
    /// The plugin's document as it is.
    None,
}

/// How often a route may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRate {
    /// Requests in `per_ms`.
    pub max: u32,
    /// Whole seconds, in milliseconds.
    pub per_ms: u64,
    /// Whose requests count together.
    pub by: RateBy,
}

/// Whose requests count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateBy {
    /// Of one account.
    User,
    /// Of one vendor's key.
    Key,
    /// Of one network.
    Address,
    All,
}

impl RateBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Address => "address",
            Self::All => "all",
        }
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BodyType {
    /// `application/json`, byte for byte to the plugin.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`: an object of texts, and of lists of texts.
    Form,
}

impl BodyType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Form => "form",
        }
    }
}

/// What `Idempotency-Key` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idempotency {
    /// The plugin is told the key; the host keeps no answer.
    None,
    /// A request with a key gets the same answer again.
    Accepted,
    /// As accepted, and a request without a key is refused.
    Required,
}

impl Idempotency {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Accepted => "accepted",
            Self::Required => "required",
        }
    }
}

/// How long an answer may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSpec {
    /// Seconds.
    pub max_age_s: u32,
    pub scope: CacheScope,
}

/// Who may keep an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheScope {
    /// The client's own cache.
    Private,
    /// Caches that clients share.
    Public,
}

impl CacheScope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
        }
    }
}

/// As the header `cache-control`.
impl fmt::Display for CacheSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, max-age={}", self.scope.as_str(), self.max_age_s)
    }
}

/// Which pages of other origins may read an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cors {
    /// Those of the operator's list, where accounts or visitors call the route.
    #[default]
    Default,
    None,
    /// All, and never with credentials.
    Any,
}

impl Cors {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Any => "any",
        }
    }
}

/// What the audit trail is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RouteAudit {
    /// Only `false`: nothing.
    Switch(bool),
    Named(AuditNames),
}

/// What an audit entry says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditNames {
    /// Default `route.<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The value of the input that names what it is done to: `path.leadId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

fn is_json_body(kind: &BodyType) -> bool {
    *kind == BodyType::Json
}

fn is_default_cors(cors: &Cors) -> bool {
    *cors == Cors::Default
}

fn default_status() -> u16 {
    DEFAULT_STATUS
}

fn is_default_status(status: &u16) -> bool {
    *status == DEFAULT_STATUS
}

fn is_standard(envelope: &Envelope) -> bool {
    *envelope == Envelope::Standard
}

fn json_only() -> Vec<String> {
    vec![JSON.to_owned()]
}

fn is_json_only(types: &Vec<String>) -> bool {
    *types == json_only()
}

fn default_body_bytes() -> u64 {
    DEFAULT_BODY_BYTES
}

fn is_default_body_bytes(bytes: &u64) -> bool {
    *bytes == DEFAULT_BODY_BYTES
}

fn default_deadline() -> u64 {
    DEFAULT_DEADLINE_MS
}

fn is_default_deadline(ms: &u64) -> bool {
    *ms == DEFAULT_DEADLINE_MS
}

/// A method of routes and webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl HttpMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// The answer while the plugin is unavailable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnavailableSpec {
    /// 200 to 599.
    pub status: u16,
    /// Any JSON, sent unchanged.
    pub body: Value,
}

impl RouteSpec {
    /// Its name within the plugin.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.operation)
    }

    /// Who may call it.
    pub fn guard(&self) -> Guard<'_> {
        match self.access {
            Some(RouteAccess::Public) => Guard::Public,
            Some(RouteAccess::AnyUser) => Guard::AnyUser,
            Some(RouteAccess::Vendor) => Guard::Vendor(self.scope.as_deref().unwrap_or_default()),
            None => Guard::Roles(&self.roles),
        }
    }

    /// The declared limit, or the default of its guard.
    pub fn rate(&self) -> RouteRate {
        let per_minute = |max, by| RouteRate {
            max,
            per_ms: 60_000,
            by,
        };
        self.rate.unwrap_or_else(|| match self.guard() {
            Guard::Public => per_minute(60, RateBy::Address),
            Guard::AnyUser | Guard::Roles(_) => per_minute(600, RateBy::User),
            Guard::Vendor(_) => per_minute(600, RateBy::Key),
        })
    }

    /// The schema of one part of its input: `path`, `query` or `body`.
    pub fn part(&self, name: &str) -> Option<&Value> {
        self.input.as_ref()?.get("properties")?.get(name)
    }

    /// Whether a request has a body.
    pub fn takes_body(&self) -> bool {
        self.part("body").is_some()
    }

    /// Whether the plugin may answer with this status.
    pub fn may_answer(&self, status: u16) -> bool {
        status == self.success_status || self.statuses.contains(&status)
    }

    /// What the host does with `Idempotency-Key`.
    pub fn idempotency(&self) -> Idempotency {
        let is_repeatable = self.method == HttpMethod::Get || self.guard() == Guard::Public;
        let default = match is_repeatable {
            true => Idempotency::None,
            false => Idempotency::Accepted,
        };
        self.idempotency.unwrap_or(default)
    }

    /// The action that the audit trail is told, and the path of the input that names the target;
    /// `None` where it is told nothing.
    pub fn audit(&self) -> Option<(String, Option<&str>)> {
        let default = || format!("route.{}", self.id());
        match &self.audit {
            Some(RouteAudit::Switch(_)) => None,
            Some(RouteAudit::Named(names)) => Some((
                names.action.clone().unwrap_or_else(default),
                names.target.as_deref(),
            )),
            None => (self.method != HttpMethod::Get).then(|| (default(), None)),
        }
    }
}
