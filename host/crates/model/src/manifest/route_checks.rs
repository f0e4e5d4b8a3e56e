//! What may be wrong with `[[routes]]`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::routes::{
    BodyType, CacheScope, Cors, Guard, HttpMethod, Idempotency, RateBy, RouteAccess, RouteAudit,
    RouteSpec,
};
use super::{Manifest, Problem};
use crate::operation;
use crate::serde_errors;

const MAX_ROUTES: usize = 200;
const MAX_UNAVAILABLE_BYTES: usize = 16 << 10;
const MAX_BODY_BYTES: u64 = 1 << 20;
const MAX_DEADLINE_MS: u64 = 60_000;
const MAX_CONCURRENCY: u32 = 1_000;
const MAX_TAGS: usize = 8;
/// Characters.
const MAX_TAG: usize = 64;
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
const OF_HOST: [&str; 44] = [
    "accept-ch",
    "accept-ranges",
    "age",
    "alt-svc",
    "cache-control",
    "clear-site-data",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-security-policy",
    "content-type",
    "critical-ch",
    "date",
    "expect-ct",
    "expires",
    "keep-alive",
    "location",
    "nel",
    "origin-agent-cluster",
    "origin-trial",
    "permissions-policy",
    "pragma",
    "public-key-pins",
    "referrer-policy",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "retry-after",
    "server",
    "service-worker-allowed",
    "set-cookie",
    "set-login",
    "sourcemap",
    "speculation-rules",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-sourcemap",
];

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
    /// Every field that is wrong, with what to write.
    pub(super) fn problems(&self) -> Vec<Wrong> {
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
