//! `[[routes]]`: HTTP requests that an operation of the plugin answers.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Manifest, ManifestError, RoutePath, invalid};
use crate::operation;
use crate::role::Role;

const MAX_ROUTES: usize = 200;
const MAX_UNAVAILABLE_BYTES: usize = 16 << 10;
const MAX_BODY_BYTES: u64 = 1 << 20;
const DEFAULT_BODY_BYTES: u64 = 256 << 10;
const DEFAULT_DEADLINE_MS: u64 = 10_000;
const MAX_DEADLINE_MS: u64 = 60_000;
const DEFAULT_STATUS: u16 = 200;
const MAX_STATUSES: usize = 16;
const MAX_MEDIA_TYPES: usize = 8;
const MAX_HEADERS: usize = 16;
const MAX_HEADER_NAME: usize = 64;
const MAX_RATE: u32 = 100_000;
const DAY_MS: u64 = 86_400_000;
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
    /// How often it may be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RouteRate>,
    /// The answer while the plugin is unavailable; default 503 in the usual envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_unavailable: Option<UnavailableSpec>,
    /// For the OpenAPI document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
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

impl Manifest {
    pub(super) fn check_routes(&self) -> Result<(), ManifestError> {
        if self.routes.len() > MAX_ROUTES {
            return Err(invalid(
                "routes",
                format!("{} routes; the limit is {MAX_ROUTES}", self.routes.len()),
            ));
        }
        let mut ids = BTreeSet::new();
        for (i, route) in self.routes.iter().enumerate() {
            let wrong = |(field, reason)| invalid(format!("routes[{i}].{field}"), reason);
            route.check().map_err(wrong)?;
            if !ids.insert(route.id()) {
                let reason = format!(
                    "another route is called {}, too: give each an id of its own",
                    route.id()
                );
                return Err(wrong(("id", reason)));
            }
        }
        Ok(())
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

    /// The error names the field that is wrong, and what to write.
    fn check(&self) -> Result<(), (&'static str, String)> {
        if !operation::is_name(&self.operation) {
            return Err(("operation", not_a_name()));
        }
        if !operation::is_name(self.id()) {
            return Err(("id", not_a_name()));
        }
        self.check_guard()?;
        self.check_rate().map_err(|reason| ("rate", reason))?;
        if let Some(schema) = &self.input {
            self.check_input(schema)
                .map_err(|reason| ("input", reason))?;
        }
        self.check_answers()?;
        in_range("max_body_bytes", self.max_body_bytes, 1, MAX_BODY_BYTES)?;
        in_range("deadline_ms", self.deadline_ms, 1, MAX_DEADLINE_MS)?;
        check_headers(&self.request_headers, |name| {
            NOT_FOR_GUESTS.contains(&name)
                || name.starts_with("proxy-")
                || name.starts_with("x-forwarded-")
        })
        .map_err(|reason| ("request_headers", reason))?;
        check_headers(&self.response_headers, |name| {
            OF_HOST.contains(&name)
                || [
                    "access-control-",
                    "cross-origin-",
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
        .map_err(|reason| ("response_headers", reason))?;
        if let Some(answer) = &self.when_unavailable {
            in_range("when_unavailable.status", answer.status.into(), 200, 599)?;
            let bytes = answer.body.to_string().len();
            if bytes > MAX_UNAVAILABLE_BYTES {
                let reason = format!("{bytes} bytes; the limit is {MAX_UNAVAILABLE_BYTES}");
                return Err(("when_unavailable.body", reason));
            }
        }
        Ok(())
    }

    fn check_guard(&self) -> Result<(), (&'static str, String)> {
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

    fn check_answers(&self) -> Result<(), (&'static str, String)> {
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

fn not_a_name() -> String {
    format!(
        "must be 1 to {} letters, digits and - _ . :",
        operation::MAX_NAME
    )
}

fn in_range(
    field: &'static str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<(), (&'static str, String)> {
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
