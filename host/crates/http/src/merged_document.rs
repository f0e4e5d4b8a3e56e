//! The OpenAPI document as a host serves it: its own operations, and one per route of the plugins
//! that it serves now.

use std::sync::Arc;

use parking_lot::Mutex;
use patchbay_app::plugins::{Route, RouteTable, Webhook};
use patchbay_model::manifest::{BodyType, Envelope, Guard, Idempotency, RouteSpec};
use serde_json::{Map, Value, json};

const ERROR: &str = "#/components/schemas/ErrorBody";

/// Made anew when the table of routes has changed.
pub(super) struct MergedDocument {
    own: Value,
    last: Mutex<Option<(Arc<RouteTable>, Arc<str>)>>,
}

impl MergedDocument {
    /// `own`: the document of the host's operations.
    pub(super) fn new(own: Value) -> Self {
        Self {
            own,
            last: Mutex::default(),
        }
    }

    /// The text of the document with these routes.
    pub(super) fn with(&self, table: &Arc<RouteTable>) -> Arc<str> {
        let mut last = self.last.lock();
        if let Some((of, text)) = &*last
            && Arc::ptr_eq(of, table)
        {
            return Arc::clone(text);
        }
        let mut document = self.own.clone();
        for route in table.routes() {
            let path = in_document(&document, route);
            add(&mut document, route, &path);
        }
        for webhook in table.webhooks() {
            add_webhook(&mut document, webhook);
        }
        let text: Arc<str> = serde_json::to_string_pretty(&document)
            .unwrap_or_default()
            .into();
        *last = Some((Arc::clone(table), Arc::clone(&text)));
        text
    }
}

/// A path is there once, also where two of its routes name its parameters differently.
fn in_document(document: &Value, route: &Route) -> String {
    let paths = document["paths"].as_object().into_iter().flatten();
    let mut known = paths.map(|(path, _)| path);
    let path = &route.spec.path;
    let is_same = |known: &&String| known.parse().is_ok_and(|known| path.is_same_as(&known));
    known
        .find(is_same)
        .cloned()
        .unwrap_or_else(|| path.to_string())
}

fn add(document: &mut Value, route: &Route, path: &str) {
    let (spec, name) = (&route.spec, route.name());
    let mut schemas = Map::new();
    let mut input = spec.input.clone().unwrap_or_default();
    let mut output = spec.output.clone();
    take_definitions(&name, "input", &mut input, &mut schemas);
    if let Some(output) = &mut output {
        take_definitions(&name, "output", output, &mut schemas);
    }
    let operation = operation(route, path, &input, output);
    document["paths"][path][spec.method.as_str().to_ascii_lowercase()] = operation;
    let components = document["components"]["schemas"].as_object_mut();
    if let Some(components) = components {
        components.extend(schemas);
    }
}

/// What a vendor may send, and what it is answered.
fn add_webhook(document: &mut Value, webhook: &Webhook) {
    let spec = &webhook.spec;
    let types = match spec.content_types.as_slice() {
        [] => vec!["*/*".to_owned()],
        types => types.to_vec(),
    };
    let content: Map<String, Value> = types.into_iter().map(|kind| (kind, json!({}))).collect();
    let refusal = |meaning: &str| {
        json!({
            "description": meaning,
            "content": { "application/json": { "schema": { "$ref": ERROR } } },
        })
    };
    for method in spec.method_names() {
        let name = method.to_ascii_lowercase();
        let mut operation = json!({
            "operationId": match spec.method_names().count() {
                1 => webhook.name(),
                _ => format!("{}.{name}", webhook.name()),
            },
            "tags": [webhook.plugin.as_str()],
            "summary": format!("Requests of the vendor of {}", webhook.plugin),
            "security": [],
            "responses": {
                spec.success_status.to_string(): {
                    "description": "The request is kept, or its event is known; or what the plugin replies",
                },
                "4XX": refusal("The request is not the vendor's, or cannot be taken. The answer gives no reason; operators see it in the inbox"),
                "503": refusal("The request cannot be kept now: send it again"),
            },
            "x-patchbay-plugin": webhook.plugin.to_string(),
            "x-patchbay-webhook": spec.name,
            "x-patchbay-revision": webhook.digest.to_string(),
        });
        if !["get", "head"].contains(&name.as_str()) {
            operation["requestBody"] = json!({ "content": content });
        }
        document["paths"][spec.path.as_str()][name] = operation;
    }
}

/// Moves `$defs` to the components, under names of their own, and lets references point there. A
/// reference to another place of the schema says nothing in the document, since it is taken apart.
fn take_definitions(route: &str, part: &str, schema: &mut Value, into: &mut Map<String, Value>) {
    let prefix = format!("#/components/schemas/{route}.{part}.");
    let Some(keywords) = schema.as_object_mut() else {
        return;
    };
    keywords.remove("$schema");
    keywords.remove("$id");
    let definitions = keywords.remove("$defs");
    point(schema, &prefix);
    for (name, mut definition) in definitions
        .iter()
        .filter_map(Value::as_object)
        .flatten()
        .map(|(name, value)| (name, value.clone()))
    {
        point(&mut definition, &prefix);
        into.insert(format!("{route}.{part}.{}", component(name)), definition);
    }
}

fn point(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Object(keywords) => {
            let target = keywords
                .get("$ref")
                .and_then(Value::as_str)
                .map(str::to_owned);
            if let Some(target) = target {
                match target
                    .strip_prefix("#/$defs/")
                    .filter(|name| !name.contains('/'))
                {
                    Some(name) => {
                        keywords
                            .insert("$ref".into(), format!("{prefix}{}", component(name)).into());
                    }
                    None => {
                        keywords.remove("$ref");
                    }
                }
            }
            keywords.values_mut().for_each(|value| point(value, prefix));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| point(item, prefix)),
        _ => {}
    }
}

/// Names of components have only these characters.
fn component(name: &str) -> String {
    name.replace(
        |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)),
        "_",
    )
}

fn operation(route: &Route, path: &str, input: &Value, output: Option<Value>) -> Value {
    let spec = &route.spec;
    let default = format!("{} of {}", spec.operation, route.plugin);
    let tags = match spec.tags.as_slice() {
        [] => vec![route.plugin.as_str()],
        tags => tags.iter().map(String::as_str).collect(),
    };
    let mut operation = json!({
        "operationId": route.name(),
        "tags": tags,
        "summary": spec.summary.as_deref().unwrap_or(&default),
        "security": security(spec.guard()),
        "responses": responses(spec, output),
        "x-patchbay-plugin": route.plugin.as_str(),
        "x-patchbay-revision": route.digest.to_string(),
    });
    let parameters = parameters(spec, path, input);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if spec.takes_body() {
        let required = input["required"].as_array().into_iter().flatten();
        let kind = match spec.body_type {
            BodyType::Json => "application/json",
            BodyType::Form => "application/x-www-form-urlencoded",
        };
        operation["requestBody"] = json!({
            "required": required.into_iter().any(|name| name == "body"),
            "content": { kind: { "schema": input["properties"]["body"] } },
        });
    }
    operation
}

fn security(guard: Guard<'_>) -> Value {
    match guard {
        Guard::Public => json!([]),
        Guard::AnyUser | Guard::Roles(_) => json!([{ "user": [] }, { "userCookie": [] }]),
        Guard::Vendor(_) => json!([{ "vendor": [] }, { "vendorBearer": [] }]),
    }
}

/// `path`: as it stands in the document.
fn parameters(spec: &RouteSpec, path: &str, input: &Value) -> Vec<Value> {
    let names = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let declared = &input["properties"]["path"]["properties"];
    let of_path = names.zip(spec.path.parameters()).map(|(name, own)| {
        let schema = declared
            .get(own)
            .cloned()
            .unwrap_or_else(|| json!({ "type": "string" }));
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let query = &input["properties"]["query"];
    let required = |name: &str| {
        query["required"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|known| known == name)
    };
    let of_query = query["properties"].as_object().into_iter().flatten();
    let of_query = of_query.map(|(name, schema)| {
        json!({ "name": name, "in": "query", "required": required(name), "schema": schema })
    });
    let key = json!({
        "name": "Idempotency-Key", "in": "header", "required": spec.idempotency() == Idempotency::Required,
        "description": "The same for a request that is sent again: it gets the first answer", "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
    });
    let key = (spec.idempotency() != Idempotency::None).then_some(key);
    of_path.chain(of_query).chain(key).collect()
}

fn responses(spec: &RouteSpec, output: Option<Value>) -> Value {
    let mut responses = Map::new();
    let data = output.unwrap_or_else(|| json!({}));
    let document = match spec.envelope {
        Envelope::None => data,
        Envelope::Standard => json!({
            "type": "object",
            "required": ["success", "data"],
            "properties": { "success": { "type": "boolean" }, "data": data },
        }),
    };
    let mut content = Map::new();
    for kind in &spec.produces {
        content.insert(kind.clone(), json!({}));
    }
    content.insert("application/json".into(), json!({ "schema": document }));
    let mut success = json!({ "description": "The plugin's answer" });
    if spec.success_status != 204 {
        success["content"] = Value::Object(content);
    }
    responses.insert(spec.success_status.to_string(), success);
    let mut add = |status: u16, about: &str| {
        responses.entry(status.to_string()).or_insert_with(|| {
            json!({ "description": about, "content": { "application/json": { "schema": { "$ref": ERROR } } } })
        });
    };
    for status in &spec.statuses {
        add(*status, "The plugin's answer");
    }
    let guarded = spec.guard() != Guard::Public;
    let errors = [
        (
            true,
            400,
            "`invalid-input` or `invalid-path`: something in the request cannot be used; `message` names it",
        ),
        (guarded, 401, "The token or the key is missing or wrong"),
        (guarded, 403, "Not allowed"),
        (true, 404, "It does not exist"),
        (true, 409, "It conflicts with the present state"),
        (spec.takes_body(), 408, "The body did not arrive in time"),
        (spec.takes_body(), 413, "The body is too large"),
        (
            spec.takes_body(),
            415,
            "The body is of another media type, or is compressed",
        ),
        (
            spec.idempotency() != Idempotency::None,
            422,
            "`idempotency-key-reused`: the key was sent with another input",
        ),
        (true, 429, "Too many requests; see `Retry-After`"),
        (true, 500, "The plugin failed, or its answer was invalid"),
        (true, 502, "An outside service did not answer as it should"),
        (true, 503, "The plugin cannot answer now; see `Retry-After`"),
        (true, 504, "The plugin did not answer in time"),
    ];
    for (_, status, about) in errors.into_iter().filter(|(applies, ..)| *applies) {
        add(status, about);
    }
    Value::Object(responses)
}
