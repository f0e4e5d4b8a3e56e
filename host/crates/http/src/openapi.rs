//! The OpenAPI 3.1 document of `/api/openapi.json`; the repository keeps a copy.
//!
//! The table of operations contains what is specific to an operation. This module adds what follows
//! from general rules: answers for failed authentication, for unreadable bodies and queries and for
//! an unavailable host, descriptions, and access.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

#[derive(OpenApi)]
#[openapi(
    info(title = "Patchbay", description = "Operations of a Patchbay host: health, queues and plugins. A name in a path is percent-encoded. The names `.`, `..`, `pause`, `resume` and `preview` get a `~` in front, and so does such a name that already has one."),
    modifiers(&BasicAuth),
)]
pub(super) struct Api;

struct BasicAuth;

impl utoipa::Modify for BasicAuth {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let basic = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Basic).build());
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("operator", basic);
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("pbt_")
            .description(Some(
                "Token of an operator's program, as /api/admin/tokens gives it",
            ))
            .build();
        let session = ApiKeyValue::with_description(
            "__Host-patchbay",
            "Session of an operator, as POST /api/admin/session sets it; on this machine without HTTPS: patchbay",
        );
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("operatorToken", SecurityScheme::Http(token));
        components.add_security_scheme(
            "operatorSession",
            SecurityScheme::ApiKey(ApiKey::Cookie(session)),
        );
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "Access token of an account, as /api/auth/login gives it",
            ))
            .build();
        let cookie =
            ApiKeyValue::with_description("token", "The same in a cookie; authToken is read, too");
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("user", SecurityScheme::Http(bearer));
        let key = ApiKeyValue::with_description("X-API-Key", "Key of a vendor, vk_live_…");
        components.add_security_scheme("vendor", SecurityScheme::ApiKey(ApiKey::Header(key)));
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The same"))
            .build();
        components.add_security_scheme("vendorBearer", SecurityScheme::Http(bearer));
        components
            .add_security_scheme("userCookie", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

/// The document of the host's own operations.
pub(super) fn complete(document: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    add_general(&mut document);
    document
}

fn add_general(document: &mut Value) {
    document["servers"] =
        json!([{ "url": "/", "description": "The host that serves this document" }]);
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        let methods = item.as_object_mut().into_iter().flatten();
        for operation in methods.filter_map(|(_, operation)| operation.as_object_mut()) {
            complete_operation(path, operation);
        }
    }
    drop_unused_schemas(document);
}

/// Answers contain their schemas inline in the envelopes, so nothing refers to the named ones.
fn drop_unused_schemas(document: &mut Value) {
    let Some(components) = document["components"].as_object_mut() else {
        return;
    };
    let Some(Value::Object(schemas)) = components.remove("schemas") else {
        return;
    };
    let mut used = BTreeSet::new();
    let mut open = referred_schemas(document);
    while let Some(name) = open.pop() {
        if let Some(schema) = schemas.get(&name)
            && used.insert(name)
        {
            open.extend(referred_schemas(schema));
        }
    }
    let schemas: Map<String, Value> = schemas
        .into_iter()
        .filter(|(name, _)| used.contains(name))
        .collect();
    document["components"]["schemas"] = Value::Object(schemas);
}

/// The names of the schemas that a value refers to.
fn referred_schemas(value: &Value) -> Vec<String> {
    const PREFIX: &str = "#/components/schemas/";
    match value {
        Value::String(text) => text
            .strip_prefix(PREFIX)
            .map(str::to_owned)
            .into_iter()
            .collect(),
        Value::Array(items) => items.iter().flat_map(referred_schemas).collect(),
        Value::Object(fields) => fields.values().flat_map(referred_schemas).collect(),
        _ => Vec::new(),
    }
}

fn complete_operation(path: &str, operation: &mut Map<String, Value>) {
    let is_protected = operation.contains_key("security");
    // Stated explicitly, also if no authentication is needed.
    operation.entry("security").or_insert_with(|| json!([]));
    // Optional parameters are absent, never null.
    for parameter in operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let Some(kind) = parameter.pointer_mut("/schema/type") else {
            continue;
        };
        if let Some(one) = kind
            .as_array()
            .and_then(|kinds| kinds.iter().find(|kind| *kind != "null"))
            .cloned()
        {
            *kind = one;
        }
    }
    let has_body = operation.contains_key("requestBody");
    let has_parameters = operation
        .get("parameters")
        .and_then(Value::as_array)
        .is_some_and(|all| !all.is_empty());
    let mut statuses: Vec<&str> = Vec::new();
    let is_of_people = operation["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|tag| tag == "auth");
    let is_login_of_operators = !is_protected && path.starts_with("/api/admin/");
    if is_protected || is_of_people || is_login_of_operators {
        statuses.extend(["403", "429", "500", "503"]);
    }
    if is_protected {
        statuses.push("401");
    }
    // A host that serves no accounts.
    if is_of_people || path.starts_with("/api/users") {
        statuses.push("404");
    }
    if has_parameters || has_body {
        statuses.push("400");
    }
    if path.contains('{') {
        statuses.push("404");
    }
    if has_body {
        statuses.extend(["408", "413", "415", "422"]);
    }
    if adds_to_redis(operation) {
        statuses.push("507");
    }
    let responses = operation
        .entry("responses")
        .or_insert_with(|| json!({}))
        .as_object_mut();
    let Some(responses) = responses else { return };
    for status in statuses {
        responses.entry(status).or_insert_with(error);
    }
    for (status, response) in responses {
        let is_there = response["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty());
        if let Some(response) = response.as_object_mut().filter(|_| !is_there) {
            response.insert("description".into(), description(status).into());
        }
    }
}

/// Such a request is refused once Redis is full.
fn adds_to_redis(operation: &Map<String, Value>) -> bool {
    const DOMAINS: [&str; 5] = ["bulk", "flows", "jobs", "queues", "schedules"];
    let may_change = operation["x-patchbay-effect"] != "reads";
    let tags = operation["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    may_change && tags.into_iter().any(|tag| DOMAINS.contains(&tag))
}

fn error() -> Value {
    json!({ "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } } })
}

fn description(status: &str) -> &'static str {
    match status {
        "200" => "Done",
        "204" => "Done; the answer has no body",
        "400" => "Something in the request cannot be used; `message` names it",
        "401" => "Name, password or token is missing or wrong",
        "403" => {
            "Not allowed: `forbidden` names the role or the scope that is needed, `data-hidden` means that data of jobs may not be seen, `basic-closed` that the login of the configuration no longer opens this, `cross-site` that the request comes from a page of another site"
        }
        "404" => "It does not exist",
        "408" => "The body did not arrive in time",
        "409" => "It conflicts with the present state",
        "413" => "The body is too large",
        "415" => "The body is of another type",
        "422" => "The body is JSON, or a component, but its content is not accepted",
        "429" => {
            "Too many requests or failed logins, or no free slot for the plugin; see `Retry-After`"
        }
        "500" => {
            "A fault of the host; its log has the details under the `x-request-id` of the answer"
        }
        "502" => "The outside service did not answer as it should",
        "503" => "Postgres or Redis cannot serve now; nothing was done. See `Retry-After`",
        "504" => "No answer within the deadline",
        "507" => "Redis is full; nothing was done",
        _ => "See `message`",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn operations_have_an_id_each_and_say_what_they_may_answer() {
        let kept: Value =
            serde_json::from_str(include_str!("../../../../docs/openapi.json")).expect("JSON");
        let mut ids = BTreeSet::new();
        for (path, item) in kept["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("methods") {
                let id = operation["operationId"].as_str().expect("an id").to_owned();
                let is_named = id.split('.').count() == 2
                    && id
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'.');
                assert!(is_named, "{method} {path}: {id}");
                assert!(ids.insert(id.clone()), "{method} {path}: a second {id}");
                for (status, response) in operation["responses"].as_object().expect("responses") {
                    let description = response["description"].as_str().unwrap_or_default();
                    assert!(
                        !description.is_empty() && description != "See `message`",
                        "{id}: {status}"
                    );
                }
            }
        }
        assert!(
            ids.contains("queues.pause")
                && ids.contains("jobs.timeline")
                && ids.contains("plugins.activate")
        );
    }
}
