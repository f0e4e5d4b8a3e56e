//! `[[routes]]`: HTTP requests that an operation of the plugin answers.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Manifest, Problem, RoutePath};
use crate::operation;
use crate::role::Role;
use crate::serde_errors;

const MAX_ROUTES: usize = 200;
const MAX_UNAVAILABLE_BYTES: usize = 16 << 10;
const MAX_BODY_BYTES: u64 = 1 << 20;
const DEFAULT_BODY_BYTES: u64 = 256 << 10;
const DEFAULT_DEADLINE_MS: u64 = 10_000;
const MAX_DEADLINE_MS: u64 = 60_000;
const MAX_CONCURRENCY: u32 = 1_000;
const MAX_TAGS: usize = 8;
/// Characters.
const MAX_TAG: usize = 64;
const DEFAULT_STATUS: u16 = 200;
const MAX_STATUSES: usize = 16;
const MAX_MEDIA_TYPES: usize = 8;
const MAX_HEADERS: usize = 16;
const MAX_HEADER_NAME: usize = 64;
const MAX_RATE: u32 = 100_000;
const DAY_MS: u64 = 86_400_000;
const MAX_AGE_S: u32 = 86_400;
/// Of the path of a value.
const MAX_TARGET_BYTES: usize = 256;
/// Names that a schema gives itself or its parts.
const NAMES: [&str; 3] = ["$id", "$anchor", "$dynamicAnchor"];
const JSON: &str = "application/json";
/// Parts of an operation's input.
const INPUT: [&str; 3] = ["path", "query", "body"];
/// Request headers that never reach a guest: credentials, what proxies say, and what the host reads
/// itself.
const NOT_FOR_GUESTS: [&str; 11] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "idempotency-key",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
];
/// Response headers that the host alone sets.
const OF_HOST: [&str; 25] = [
    "alt-svc",
    "cache-control",
    "clear-site-data",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "keep-alive",
    "location",
    "origin-agent-cluster",
    "refresh",
    "referrer-policy",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
];

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

/// Of a field, with what to write.
type Wrong = (&'static str, String);

/// Every problem of routes as they are written, also of those that cannot be read.
pub(super) fn problems_of(routes: &Value) -> Vec<Problem> {
    let routes = routes.as_array().into_iter().flatten();
    let of_one = |(i, route): (usize, &Value)| -> Vec<Problem> {
        match serde_errors::from_value::<RouteSpec>(route.clone()) {
            Ok(route) => {
                let keyed = |(field, reason)| (format!("routes[{i}].{field}"), reason);
                route.problems().into_iter().map(keyed).collect()
            }
            Err(reason) => {
                let is_field = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
                vec![
                    match reason.split_once(": ").filter(|(field, _)| is_field(field)) {
                        Some((field, reason)) => {
                            (format!("routes[{i}].{field}"), reason.to_owned())
                        }
                        None => (format!("routes[{i}]"), reason),
                    },
                ]
            }
        }
    };
    routes.enumerate().flat_map(of_one).collect()
}

impl Manifest {
    /// Every problem of the routes, each with its key.
    pub(super) fn route_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.routes.len() > MAX_ROUTES {
            let reason = format!("{} routes; the limit is {MAX_ROUTES}", self.routes.len());
            problems.push(("routes".to_owned(), reason));
        }
        let mut ids = BTreeSet::new();
        for (i, route) in self.routes.iter().enumerate() {
            let mut wrong = route.problems();
            if !ids.insert(route.id()) {
                let reason = format!(
                    "another route is called {}, too: give each an id of its own",
                    route.id()
                );
                wrong.push(("id", reason));
            }
            let keyed = |(field, reason)| (format!("routes[{i}].{field}"), reason);
            problems.extend(wrong.into_iter().map(keyed));
        }
        problems
    }

    pub(super) fn route_schemas(&self) -> impl Iterator<Item = (String, &Value)> {
        self.routes.iter().enumerate().flat_map(|(i, route)| {
            let schemas = [("input", &route.input), ("output", &route.output)];
            schemas.into_iter().filter_map(move |(key, schema)| {
                Some((format!("routes[{i}].{key}"), schema.as_ref()?))
            })
        })
    }
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

    /// Every field that is wrong, with what to write.
    fn problems(&self) -> Vec<Wrong> {
        let mut problems = Vec::new();
        if !operation::is_name(&self.operation) {
            problems.push(("operation", not_a_name()));
        } else if !operation::is_name(self.id()) {
            problems.push(("id", not_a_name()));
        }
        let is_guarded = self.check_guard();
        // What depends on the guard cannot be judged without it.
        let of_guard = match is_guarded.is_ok() {
            true => vec![
                self.check_rate().map_err(|reason| ("rate", reason)),
                self.check_idempotency(),
                self.check_cache(),
                self.check_cors(),
            ],
            false => vec![is_guarded],
        };
        let of_input = self.input.as_ref().map_or(Ok(()), |schema| {
            self.check_input(schema).map_err(|reason| ("input", reason))
        });
        let others = [
            of_input,
            self.check_body_type(),
            self.check_statuses(),
            self.check_media_types(),
            in_range("max_body_bytes", self.max_body_bytes, 1, MAX_BODY_BYTES),
            in_range("deadline_ms", self.deadline_ms, 1, MAX_DEADLINE_MS),
            self.check_concurrency(),
            self.check_tags(),
            self.check_request_headers(),
            self.check_response_headers(),
            self.check_audit(),
            self.check_unavailable(),
        ];
        let schemas = [("input", &self.input), ("output", &self.output)];
        let named = schemas.into_iter().map(|(field, schema)| {
            let reason = schema.as_ref().and_then(names_itself);
            reason.map_or(Ok(()), |reason| Err((field, reason)))
        });
        let all = of_guard.into_iter().chain(others).chain(named);
        problems.extend(all.filter_map(Result::err));
        problems
    }

    fn check_idempotency(&self) -> Result<(), Wrong> {
        let keeps = self.idempotency() != Idempotency::None;
        match self.guard() {
            // Without an account, one client could read what another was answered.
            Guard::Public if keeps => Err((
                "idempotency",
                "a public route cannot tell its clients apart; write none, or leave it out".into(),
            )),
            _ => Ok(()),
        }
    }

    fn check_cache(&self) -> Result<(), Wrong> {
        let Some(cache) = self.cache else {
            return Ok(());
        };
        let wrong = |reason: String| Err(("cache", reason));
        if self.method != HttpMethod::Get {
            return wrong("only answers to GET can be kept".into());
        }
        if !(1..=MAX_AGE_S).contains(&cache.max_age_s) {
            return wrong(format!(
                "max_age_s: must be from 1 to {MAX_AGE_S}, not {}",
                cache.max_age_s
            ));
        }
        match (cache.scope, self.guard()) {
            (CacheScope::Private, _) | (_, Guard::Public) => Ok(()),
            (CacheScope::Public, _) => wrong(
                "scope: caches that clients share may keep only answers of public routes; write private".into(),
            ),
        }
    }

    fn check_cors(&self) -> Result<(), Wrong> {
        match (self.cors, self.guard()) {
            (Cors::Default | Cors::None, _) | (Cors::Any, Guard::Public) => Ok(()),
            (Cors::Any, _) => Err((
                "cors",
                "\"any\" is only for public routes; the origins of pages with credentials are the operator's setting".into(),
            )),
        }
    }

    fn check_body_type(&self) -> Result<(), Wrong> {
        match self.body_type {
            BodyType::Form if !self.takes_body() => {
                Err(("body_type", "the input describes no body".into()))
            }
            BodyType::Json | BodyType::Form => Ok(()),
        }
    }

    fn check_audit(&self) -> Result<(), Wrong> {
        let names = match &self.audit {
            None | Some(RouteAudit::Switch(false)) => return Ok(()),
            Some(RouteAudit::Switch(true)) => {
                let reason = "write false, or { action = \"...\", target = \"path....\" }";
                return Err(("audit", reason.into()));
            }
            Some(RouteAudit::Named(names)) => names,
        };
        if names
            .action
            .as_deref()
            .is_some_and(|name| !operation::is_name(name))
        {
            return Err(("audit.action", not_a_name()));
        }
        let Some(target) = names.target.as_deref() else {
            return Ok(());
        };
        let wrong = |reason: String| Err(("audit.target", reason));
        let mut steps = target.split('.');
        let part = steps.next().unwrap_or_default();
        let is_path = INPUT.contains(&part) && target.len() <= MAX_TARGET_BYTES;
        if !is_path || steps.clone().next().is_none() || steps.clone().any(str::is_empty) {
            return wrong(format!(
                "must be the path of a value of the input, such as path.leadId, with at most {MAX_TARGET_BYTES} bytes"
            ));
        }
        let name = steps.next().unwrap_or_default();
        match part {
            "path" if !self.path.parameters().any(|parameter| parameter == name) => {
                wrong(format!("{} has no {{{name}}}", self.path))
            }
            "body" if !self.takes_body() => wrong("the input describes no body".into()),
            _ => Ok(()),
        }
    }

    fn check_concurrency(&self) -> Result<(), Wrong> {
        match self.max_concurrency {
            Some(most) => in_range("max_concurrency", most.into(), 1, MAX_CONCURRENCY.into()),
            None => Ok(()),
        }
    }

    fn check_tags(&self) -> Result<(), Wrong> {
        if self.tags.len() > MAX_TAGS {
            let reason = format!("{}; the limit is {MAX_TAGS}", self.tags.len());
            return Err(("tags", reason));
        }
        let is_tag = |tag: &str| {
            (1..=MAX_TAG).contains(&tag.chars().count())
                && tag.trim() == tag
                && !tag.contains(char::is_control)
        };
        let mut seen = BTreeSet::new();
        for tag in &self.tags {
            if !is_tag(tag) {
                let reason = format!(
                    "{tag:?}: must be text of 1 to {MAX_TAG} characters, without spaces around it"
                );
                return Err(("tags", reason));
            }
            if !seen.insert(tag) {
                return Err(("tags", format!("{tag} is named twice")));
            }
        }
        Ok(())
    }

    fn check_request_headers(&self) -> Result<(), Wrong> {
        check_headers(&self.request_headers, |name| {
            NOT_FOR_GUESTS.contains(&name)
                || name.starts_with("proxy-")
                || name.starts_with("x-forwarded-")
        })
        .map_err(|reason| ("request_headers", reason))
    }

    fn check_response_headers(&self) -> Result<(), Wrong> {
        check_headers(&self.response_headers, |name| {
            OF_HOST.contains(&name)
                || [
                    "access-control-",
                    "cross-origin-",
                    "idempoten",
                    "proxy-",
                    "ratelimit",
                    "sec-",
                    "x-content-",
                    "x-frame-",
                    "x-request-id",
                    "x-patchbay-",
                ]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .map_err(|reason| ("response_headers", reason))
    }

    fn check_unavailable(&self) -> Result<(), Wrong> {
        let Some(answer) = &self.when_unavailable else {
            return Ok(());
        };
        in_range("when_unavailable.status", answer.status.into(), 200, 599)?;
        let bytes = answer.body.to_string().len();
        if bytes > MAX_UNAVAILABLE_BYTES {
            let reason = format!("{bytes} bytes; the limit is {MAX_UNAVAILABLE_BYTES}");
            return Err(("when_unavailable.body", reason));
        }
        Ok(())
    }

    fn check_guard(&self) -> Result<(), Wrong> {
        match (self.roles.is_empty(), self.access) {
            (true, None) => {
                return Err((
                    "roles",
                    "name at least one role, or write access = \"public\", \"any-user\" or \"vendor\"".into(),
                ));
            }
            (false, Some(_)) => {
                return Err(("access", "write either roles or access, not both".into()));
            }
            _ => {}
        }
        let mut roles = BTreeSet::new();
        if !self.roles.iter().all(|role| roles.insert(role)) {
            return Err(("roles", "a role is named twice".into()));
        }
        let is_of_vendors = self.access == Some(RouteAccess::Vendor);
        match &self.scope {
            None if is_of_vendors => Err((
                "scope",
                "name the scope that a vendor's key needs, such as leads:write".into(),
            )),
            Some(_) if !is_of_vendors => Err(("scope", "is only for access = \"vendor\"".into())),
            Some(scope) if !operation::is_name(scope) => Err(("scope", not_a_name())),
            _ => Ok(()),
        }
    }

    fn check_rate(&self) -> Result<(), String> {
        let Some(rate) = self.rate else { return Ok(()) };
        if !(1..=MAX_RATE).contains(&rate.max) {
            return Err(format!(
                "max: must be from 1 to {MAX_RATE}, not {}",
                rate.max
            ));
        }
        if !(1_000..=DAY_MS).contains(&rate.per_ms) || rate.per_ms % 1_000 != 0 {
            return Err(format!(
                "per_ms: must be whole seconds from 1000 to {DAY_MS}, not {}",
                rate.per_ms
            ));
        }
        match (rate.by, self.guard()) {
            (RateBy::User, Guard::Public | Guard::Vendor(_)) => {
                Err("by: this route has no users; write address, key or all".into())
            }
            (RateBy::Key, Guard::Public | Guard::AnyUser | Guard::Roles(_)) => {
                Err("by: only vendors have keys; write user, address or all".into())
            }
            _ => Ok(()),
        }
    }

    fn check_statuses(&self) -> Result<(), Wrong> {
        in_range("success_status", self.success_status.into(), 200, 299)?;
        if self.statuses.len() > MAX_STATUSES {
            let reason = format!("{}; the limit is {MAX_STATUSES}", self.statuses.len());
            return Err(("statuses", reason));
        }
        let is_possible = |status: &u16| matches!(status, 200..=299 | 400..=499);
        if let Some(odd) = self.statuses.iter().find(|status| !is_possible(status)) {
            let reason = format!("must be from 200 to 299 or from 400 to 499, not {odd}");
            return Err(("statuses", reason));
        }
        Ok(())
    }

    fn check_media_types(&self) -> Result<(), Wrong> {
        if self.produces.is_empty() || self.produces.len() > MAX_MEDIA_TYPES {
            let reason = format!("name from 1 to {MAX_MEDIA_TYPES} media types");
            return Err(("produces", reason));
        }
        let wrong = self.produces.iter().find_map(|kind| {
            let reason = media_type(kind).err()?;
            Some(format!("{kind:?} {reason}"))
        });
        wrong.map_or(Ok(()), |reason| Err(("produces", reason)))
    }

    /// The schema may describe only parts of the input and path parameters that exist. Where it
    /// describes `path`, it must require every parameter.
    fn check_input(&self, schema: &Value) -> Result<(), String> {
        let properties = |schema: &Value| -> Vec<String> {
            schema["properties"]
                .as_object()
                .into_iter()
                .flat_map(|names| names.keys().cloned())
                .collect()
        };
        if let Some(unknown) = properties(schema)
            .iter()
            .find(|name| !INPUT.contains(&name.as_str()))
        {
            return Err(format!(
                "describes {unknown:?}; an input has only path, query and body"
            ));
        }
        if self.method == HttpMethod::Get && self.takes_body() {
            return Err("describes a body, and a GET has none".into());
        }
        let Some(path) = schema["properties"]
            .get("path")
            .filter(|path| path.is_object())
        else {
            return Ok(());
        };
        let parameters: Vec<&str> = self.path.parameters().collect();
        if let Some(unknown) = properties(path)
            .iter()
            .find(|name| !parameters.contains(&name.as_str()))
        {
            return Err(format!(
                "describes path.{unknown}, and {} has no {{{unknown}}}",
                self.path
            ));
        }
        let required: Vec<&str> = path["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        match parameters.iter().find(|name| !required.contains(name)) {
            Some(missing) => Err(format!(
                "must list {missing:?} in the \"required\" of path: {} has it",
                self.path
            )),
            None => Ok(()),
        }
    }
}

/// The OpenAPI document has the schemas under names of its own, where a name within a schema would
/// mean something else.
fn names_itself(schema: &Value) -> Option<String> {
    fn found(schema: &Value, path: &str) -> Option<String> {
        match schema {
            Value::Object(keywords) => keywords.iter().find_map(|(name, value)| {
                // A property may have any name.
                let is_map = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"]
                    .contains(&name.as_str());
                if NAMES.contains(&name.as_str()) && value.is_string() {
                    return Some(format!("#{path}/{name}: is not supported here: put the schema into $defs, and refer to #/$defs/NAME"));
                }
                if ["const", "enum", "default", "examples", "example"].contains(&name.as_str()) {
                    return None;
                }
                match (is_map, value) {
                    (true, Value::Object(members)) => members.iter().find_map(|(member, schema)| {
                        found(schema, &format!("{path}/{name}/{member}"))
                    }),
                    _ => found(value, &format!("{path}/{name}")),
                }
            }),
            Value::Array(items) => {
                let mut items = items.iter().enumerate();
                items.find_map(|(i, item)| found(item, &format!("{path}/{i}")))
            }
            _ => None,
        }
    }
    found(schema, "")
}

fn not_a_name() -> String {
    format!(
        "must be 1 to {} letters, digits and - _ . :",
        operation::MAX_NAME
    )
}

fn in_range(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), Wrong> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err((
            field,
            format!("must be from {least} to {most}, not {value}"),
        )),
    }
}

/// What a browser would run under the host's own origin is no media type of a plugin.
fn media_type(text: &str) -> Result<(), &'static str> {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-+.".contains(&byte)
            })
    };
    let is_type = text
        .split_once('/')
        .is_some_and(|(kind, name)| is_token(kind) && is_token(name));
    if !is_type {
        return Err(
            "is not a media type, such as audio/mpeg, in lower case and without parameters",
        );
    }
    let runs = ["html", "script", "svg", "xml", "xsl", "multipart"];
    match runs.iter().any(|word| text.contains(word)) {
        true => Err("cannot be served: a browser could run it as a page of this host"),
        false => Ok(()),
    }
}

fn check_headers(names: &[String], is_of_host: impl Fn(&str) -> bool) -> Result<(), String> {
    if names.len() > MAX_HEADERS {
        return Err(format!(
            "{} headers; the limit is {MAX_HEADERS}",
            names.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        let is_name = (1..=MAX_HEADER_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_name {
            return Err(format!(
                "{name:?}: must be 1 to {MAX_HEADER_NAME} lower-case letters, digits and '-'"
            ));
        }
        if is_of_host(name) {
            return Err(format!("{name} belongs to the host"));
        }
        if !seen.insert(name) {
            return Err(format!("{name} is named twice"));
        }
    }
    Ok(())
}
