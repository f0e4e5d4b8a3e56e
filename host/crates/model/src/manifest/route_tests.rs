//! Valid and invalid routes and webhooks, as plugin.toml has them.

use serde_json::{Value, json};

use super::*;
use crate::role::Role;

const ROUTE: &str = "[[routes]]\nmethod = \"POST\"\npath = \"/api/leads/{leadId}/call\"\nroles = [\"sales\", \"admin\"]\noperation = \"connect-call\"\n";
const WEBHOOK: &str =
    "[[webhooks]]\nname = \"status\"\npath = \"/api/exotel/status\"\nqueue = \"exotelQueue\"\n";
const QUEUE: &str = "[[queues]]\nname = \"exotelQueue\"\n";

fn read(text: &str) -> Result<Manifest, ManifestError> {
    let head = "name = \"exotel\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n";
    Manifest::from_toml(&format!("{head}{text}"), |path| {
        match path {
        "call.json" => Ok(json!({
            "type": "object",
            "properties": {
                "path": { "type": "object", "properties": { "leadId": { "type": "string" } }, "required": ["leadId"] },
                "body": { "type": "object" },
            },
        })
        .to_string()),
        "header.json" => Ok(json!({ "properties": { "header": {} } }).to_string()),
        "other.json" => Ok(json!({ "properties": { "path": { "properties": { "id": {} } } } }).to_string()),
        "optional.json" => Ok(json!({ "properties": { "path": { "type": "object" } } }).to_string()),
        "broken.json" => Ok(json!({ "type": "objekt" }).to_string()),
        _ => Err("no such file".into()),
    }
    })
}

fn refused(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

/// The route with one line replaced, or added if it has no such line.
fn route(line: &str) -> String {
    with_line(ROUTE, line)
}

fn webhook(line: &str) -> String {
    format!("{QUEUE}{}", with_line(WEBHOOK, line))
}

fn with_line(section: &str, line: &str) -> String {
    let key = line.split(' ').next().unwrap_or_default();
    let kept: String = section
        .lines()
        .filter(|old| !old.starts_with(key))
        .map(|old| format!("{old}\n"))
        .collect();
    format!("{kept}{line}\n")
}

fn manifest(name: &str, sections: Value) -> Manifest {
    let mut value = json!({ "format": 1, "name": name, "version": "1.0.0", "wit": "0.1" });
    value
        .as_object_mut()
        .expect("an object")
        .extend(sections.as_object().cloned().expect("an object"));
    Manifest::from_packed(value.to_string().as_bytes()).expect("valid")
}

fn with_routes(name: &str, routes: &[(&str, &str)]) -> Manifest {
    let routes: Vec<Value> = routes
        .iter()
        .enumerate()
        .map(|(n, (method, path))| json!({ "id": format!("r{n}"), "method": method, "path": path, "roles": ["user"], "operation": "any" }))
        .collect();
    manifest(name, json!({ "routes": routes }))
}

#[test]
fn routes_and_webhooks_are_read_with_their_defaults_and_packed_as_they_were() {
    let more =
        "input = \"call.json\"\nwhen_unavailable = { status = 503, body = { enabled = false } }\n";
    let manifest = read(&format!("{QUEUE}{ROUTE}{more}{WEBHOOK}")).expect("valid");
    let route = &manifest.routes[0];
    assert_eq!(
        (route.method, route.path.as_str()),
        (HttpMethod::Post, "/api/leads/{leadId}/call")
    );
    assert_eq!(
        (&route.roles[..], route.operation.as_str()),
        (&[Role::Sales, Role::Admin][..], "connect-call")
    );
    assert!(
        route.input.as_ref().is_some_and(Value::is_object),
        "the schema itself, and not its file's name"
    );
    let webhook = &manifest.webhooks[0];
    assert_eq!(
        (&webhook.methods[..], webhook.max_body_bytes),
        (&[HttpMethod::Post][..], 262_144)
    );
    assert_eq!(webhook.success_status, 200);
    assert_eq!(
        Manifest::from_packed(&manifest.to_packed()).expect("valid"),
        manifest
    );
    let declared: Vec<String> = manifest
        .endpoints()
        .map(|endpoint| endpoint.to_string())
        .collect();
    assert_eq!(
        declared,
        ["POST /api/leads/{leadId}/call", "POST /api/exotel/status"]
    );
    let exports: Vec<&str> = manifest
        .exports(&BuildSpec::default())
        .into_iter()
        .map(Export::as_str)
        .collect();
    assert_eq!(
        exports,
        ["jobs", "operations", "webhooks"],
        "what the host will call"
    );
}

#[test]
fn each_wrong_field_of_a_route_is_named_with_what_to_write() {
    for (line, error) in [
        (
            "method = \"HEAD\"",
            "routes[0].method: must be one of GET, POST, PUT, PATCH, DELETE, not \"HEAD\"",
        ),
        (
            "method = \"get\"",
            "routes[0].method: must be one of GET, POST, PUT, PATCH, DELETE, not \"get\"",
        ),
        (
            "path = \"/metrics\"",
            "routes[0].path: must be longer than /api/ and begin with it",
        ),
        (
            "path = \"/api/a/../b\"",
            "routes[0].path: has the segment \"..\"",
        ),
        ("path = \"/api/a%2Fb\"", "routes[0].path: has '%'"),
        (
            "path = \"/api/leads/\"",
            "routes[0].path: ends with '/': leave it out",
        ),
        ("path = \"/api/école\"", "routes[0].path: has 'é'"),
        ("path = 5", "routes[0].path: must be text"),
        (
            "path = \"/api/admin/leads\"",
            "routes[0].path: POST /api/admin/leads of exotel overlaps /api/admin of the host. Choose another path",
        ),
        ("path = \"/api/health\"", "overlaps /api/health of the host"),
        ("roles = []", "routes[0].roles: name at least one role"),
        (
            "roles = [\"sales\", \"sales\"]",
            "routes[0].roles: a role is named twice",
        ),
        (
            "roles = [\"boss\"]",
            "routes[0].roles[0]: must be one of user, admin, finance, expert, sales, sales_head, external_hr, batch_lead, super_mentor, community_manager, not \"boss\"",
        ),
        (
            "operation = \"\"",
            "routes[0].operation: must be 1 to 64 letters, digits and - _ . :",
        ),
        (
            "operation = \"a b\"",
            "routes[0].operation: must be 1 to 64",
        ),
        (
            "input = \"header.json\"",
            "routes[0].input: describes \"header\"; an input has only path, query and body",
        ),
        (
            "input = \"other.json\"",
            "routes[0].input: describes path.id, and /api/leads/{leadId}/call has no {id}",
        ),
        (
            "input = \"optional.json\"",
            "routes[0].input: must list \"leadId\" in the \"required\" of path",
        ),
        ("input = \"broken.json\"", "routes[0].input: "),
        (
            "input = \"missing.json\"",
            "routes[0].input: cannot use missing.json: no such file",
        ),
        (
            "when_unavailable = { status = 199, body = 1 }",
            "routes[0].when_unavailable.status: must be from 200 to 599, not 199",
        ),
        (
            "when_unavailable = { status = 503 }",
            "routes[0].when_unavailable.body is missing",
        ),
        (
            "when_unavailable = { status = 70000, body = 1 }",
            "routes[0].when_unavailable.status: must be a whole number from 0 to 65535",
        ),
        (
            "rolls = [\"sales\"]",
            "routes[0].rolls is not a known field; known: id, method, path, roles, access, scope, operation, input, output",
        ),
    ] {
        let message = refused(&route(line));
        assert!(message.contains(error), "{line}: {message}");
    }
    for key in ["method", "path", "operation"] {
        let without: String = ROUTE
            .lines()
            .filter(|line| !line.starts_with(key))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(
            refused(&without).ends_with(&format!("routes[0].{key} is missing")),
            "{}",
            refused(&without)
        );
    }
    let large = format!(
        "when_unavailable = {{ status = 503, body = \"{}\" }}",
        "x".repeat(16 << 10)
    );
    assert!(
        refused(&route(&large))
            .contains("routes[0].when_unavailable.body: 16386 bytes; the limit is 16384")
    );
    let many: String = (0..201)
        .map(|n| with_line(ROUTE, &format!("path = \"/api/r{n}\"")))
        .collect();
    assert!(refused(&many).contains("routes: 201 routes; the limit is 200"));
}

#[test]
fn each_wrong_field_of_a_webhook_is_named_with_what_to_write() {
    for (line, error) in [
        (
            "name = \"\"",
            "webhooks[0].name: must be 1 to 64 letters, digits and - _ .",
        ),
        ("name = \"a/b\"", "webhooks[0].name: must be 1 to 64"),
        (
            "path = \"/api/exotel/{call}\"",
            "webhooks[0].path: has the parameter {call}: a vendor is given one URL",
        ),
        (
            "path = \"/api/admin/exotel\"",
            "webhooks[0].path: POST /api/admin/exotel of exotel overlaps /api/admin of the host",
        ),
        (
            "path = \"/healthz\"",
            "webhooks[0].path: must be longer than /api/ and begin with it",
        ),
        (
            "methods = []",
            "webhooks[0].methods: name at least one, or leave it out for POST",
        ),
        (
            "methods = [\"DELETE\"]",
            "webhooks[0].methods: a webhook takes GET, POST, PUT and PATCH, not DELETE",
        ),
        (
            "methods = [\"GET\", \"GET\"]",
            "webhooks[0].methods: GET is named twice",
        ),
        (
            "handshake_methods = [\"GET\"]",
            "webhooks[0].handshake_methods: GET can only be listed here if methods lists it, too",
        ),
        (
            "handshake_methods = [\"HEAD\", \"HEAD\"]",
            "webhooks[0].handshake_methods: HEAD is named twice",
        ),
        (
            "handshake_methods = [\"POST\"]",
            "webhooks[0].handshake_methods[0]: must be one of GET, HEAD, not \"POST\"",
        ),
        (
            "max_body_bytes = 0",
            "webhooks[0].max_body_bytes: must be from 1 to 4194304, not 0",
        ),
        (
            "max_body_bytes = 4194305",
            "webhooks[0].max_body_bytes: must be from 1 to 4194304, not 4194305",
        ),
        (
            "max_body_bytes = 9223372036854775807",
            "webhooks[0].max_body_bytes: must be from 1 to 4194304, not 9223372036854775807",
        ),
        (
            "max_body_bytes = -1",
            "webhooks[0].max_body_bytes: must be a whole number, 0 or more",
        ),
        (
            "success_status = 302",
            "webhooks[0].success_status: must be from 200 to 299, not 302",
        ),
        (
            "queue = \"otherQueue\"",
            "webhooks[0].queue: otherQueue is not one of the plugin's own queues",
        ),
        (
            "searchable = [\"call..id\"]",
            "webhooks[0].searchable[0]: \"call..id\" is not a path",
        ),
        (
            "searchable = [\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]",
            "webhooks[0].searchable: 9 paths; the limit is 8",
        ),
        (
            "searchable = [\"call\", \"call\"]",
            "webhooks[0].searchable: call is named twice",
        ),
        (
            "searchable = [\"token\"]\ncheck = { token = { in = \"query\", name = \"token\", secret = \"T\" } }",
            "webhooks[0].searchable: token is the parameter of the token, which nobody may look for",
        ),
        ("secret = \"X\"", "webhooks[0].secret is not a known field"),
    ] {
        let message = refused(&webhook(line));
        assert!(message.contains(error), "{line}: {message}");
    }
    for key in ["name", "path", "queue"] {
        let without: String = WEBHOOK
            .lines()
            .filter(|line| !line.starts_with(key))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(
            refused(&format!("{QUEUE}{without}"))
                .ends_with(&format!("webhooks[0].{key} is missing"))
        );
    }
    let second = with_line(WEBHOOK, "path = \"/api/exotel/other\"");
    assert!(
        refused(&format!("{QUEUE}{WEBHOOK}{second}"))
            .contains("webhooks[1].name: \"status\" is named twice")
    );
    let many: String = (0..21)
        .map(|n| {
            format!(
                "[[webhooks]]\nname = \"w{n}\"\npath = \"/api/w{n}\"\nqueue = \"exotelQueue\"\n"
            )
        })
        .collect();
    assert!(refused(&format!("{QUEUE}{many}")).contains("webhooks: 21 webhooks; the limit is 20"));
}

#[test]
fn within_a_plugin_the_same_method_and_path_stand_once_and_a_literal_may_stand_beside_a_parameter()
{
    assert_eq!(
        refused(&format!("{ROUTE}{ROUTE}")),
        "routes[1].id: another route is called connect-call, too: give each an id of its own"
    );
    let second = with_line(ROUTE, "id = \"second\"");
    let twice = format!("{ROUTE}{second}");
    assert_eq!(
        refused(&twice),
        "routes[1]: POST /api/leads/{leadId}/call is the same as POST /api/leads/{leadId}/call of routes[0]: leave one out"
    );
    let renamed = with_line(&second, "path = \"/api/leads/{id}/call\"");
    assert!(
        refused(&format!("{ROUTE}{renamed}"))
            .starts_with("routes[1]: POST /api/leads/{id}/call is the same as")
    );
    let other_method = with_line(&renamed, "method = \"GET\"");
    let literal = with_line(ROUTE, "path = \"/api/leads/newest/call\"");
    let literal = with_line(&literal, "id = \"third\"");
    read(&format!("{ROUTE}{other_method}{literal}")).expect("valid");

    let same_path = with_line(ROUTE, "path = \"/api/exotel/status\"");
    assert!(
        refused(&format!("{QUEUE}{same_path}{WEBHOOK}"))
            .starts_with("webhooks[0]: POST /api/exotel/status is the same as POST /api/exotel/status of routes[0]")
    );
    let get = with_line(&same_path, "method = \"GET\"");
    read(&format!("{QUEUE}{get}{WEBHOOK}")).expect("valid");
    let tried = with_line(WEBHOOK, "handshake_methods = [\"HEAD\"]");
    assert!(
        refused(&format!("{QUEUE}{get}{tried}"))
            .starts_with("webhooks[0]: POST,HEAD /api/exotel/status is the same as GET /api/exotel/status of routes[0]"),
        "a route with GET answers HEAD"
    );
    let second = with_line(
        &with_line(WEBHOOK, "name = \"other\""),
        "methods = [\"GET\"]",
    );
    assert!(
        refused(&format!("{QUEUE}{WEBHOOK}{second}"))
            .starts_with("webhooks[1]: GET /api/exotel/status")
    );
}

#[test]
fn two_plugins_overlap_whatever_the_methods_and_the_message_names_both() {
    let exotel = with_routes("exotel", &[("POST", "/api/leads/{id}/call")]);
    let crm = with_routes(
        "crm",
        &[("GET", "/api/leads"), ("GET", "/api/leads/{leadId}/call")],
    );
    let overlap = exotel.overlap_with(&crm).expect("overlap");
    assert_eq!(
        overlap.with_standing("active, revision 3f2a").to_string(),
        "POST /api/leads/{id}/call of exotel overlaps GET /api/leads/{leadId}/call of crm (active, revision 3f2a). \
         Change one of them, or deactivate crm: patchbay plugin deactivate crm"
    );
    assert!(crm.overlap_with(&exotel).is_some());
    for (path, overlaps) in [
        ("/api/leads/newest/call", true),
        ("/api/{any}/x/call", true),
        ("/api/leads/{id}/sms", false),
        ("/api/leads/{id}", false),
        ("/api/Leads/{id}/call", false),
    ] {
        assert_eq!(
            with_routes("other", &[("PUT", path)])
                .overlap_with(&exotel)
                .is_some(),
            overlaps,
            "{path}"
        );
    }
    let webhook = manifest(
        "hook",
        json!({
            "queues": [{ "name": "q" }],
            "webhooks": [{ "name": "w", "path": "/api/leads/a/call", "queue": "q", "methods": ["GET", "POST"] }],
        }),
    );
    let overlap = webhook
        .overlap_with(&exotel)
        .expect("a webhook takes part")
        .to_string();
    assert!(overlap.starts_with(
        "GET,POST /api/leads/a/call of hook overlaps POST /api/leads/{id}/call of exotel"
    ));
}

#[test]
fn a_packed_manifest_with_a_path_of_the_host_is_read_so_that_the_host_can_say_so() {
    // A newer host may reserve a path that an older one let a plugin use: a stored manifest must
    // stay readable.
    for path in [
        "/api/admin",
        "/api/admin/{x}",
        "/api/openapi.json",
        "/api/{any}",
    ] {
        let overlap = with_routes("greedy", &[("GET", path)])
            .overlap_with_host()
            .expect(path)
            .to_string();
        assert!(
            overlap.starts_with(&format!("GET {path} of greedy overlaps /api/")),
            "{overlap}"
        );
        assert!(
            overlap.ends_with(" of the host. Choose another path"),
            "{overlap}"
        );
    }
    assert_eq!(
        with_routes("modest", &[("GET", "/api/leads")]).overlap_with_host(),
        None
    );
}

#[test]
fn a_plugin_may_not_set_headers_that_a_browser_applies_to_the_whole_origin() {
    for name in [
        "nel",
        "permissions-policy",
        "report-to",
        "service-worker-allowed",
        "strict-transport-security",
        "x-sourcemap",
    ] {
        let message = refused(&with_line(
            ROUTE,
            &format!("response_headers = [\"x-own\", \"{name}\"]"),
        ));
        assert!(
            message.contains(&format!(
                "routes[0].response_headers: {name} belongs to the host"
            )),
            "{message}"
        );
    }
}

#[test]
fn what_a_route_keeps_tells_and_lets_others_read_is_checked_against_its_guard() {
    for (line, error) in [
        (
            "idempotency = \"sometimes\"",
            "routes[0].idempotency: must be one of none, accepted, required",
        ),
        (
            "cache = { max_age_s = 60, scope = \"private\" }",
            "routes[0].cache: only answers to GET can be kept",
        ),
        (
            "max_concurrency = 0",
            "routes[0].max_concurrency: must be from 1 to 1000, not 0",
        ),
        (
            "tags = [\"\"]",
            "routes[0].tags: \"\": must be text of 1 to 64",
        ),
        ("tags = [\" a\"]", "without spaces around it"),
        ("tags = [\"a\", \"a\"]", "routes[0].tags: a is named twice"),
        (
            "tags = [\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]",
            "routes[0].tags: 9; the limit is 8",
        ),
        (
            "cors = \"any\"",
            "routes[0].cors: \"any\" is only for public routes",
        ),
        (
            "body_type = \"form\"",
            "routes[0].body_type: the input describes no body",
        ),
        (
            "body_type = \"multipart\"",
            "routes[0].body_type: must be one of json, form",
        ),
        ("audit = true", "routes[0].audit: write false, or { action"),
        (
            "audit = { action = \"a b\" }",
            "routes[0].audit.action: must be 1 to 64",
        ),
        (
            "audit = { target = \"path.id\" }",
            "/api/leads/{leadId}/call has no {id}",
        ),
        (
            "audit = { target = \"path\" }",
            "routes[0].audit.target: must be the path of a value",
        ),
        (
            "audit = { target = \"header.x\" }",
            "routes[0].audit.target: must be the path of a value",
        ),
        (
            "audit = { target = \"body.id\" }",
            "routes[0].audit.target: the input describes no body",
        ),
    ] {
        let told = refused(&route(line));
        assert!(told.contains(error), "{line}: {told}");
    }
    let public = |more: &str| {
        format!(
            "[[routes]]\nmethod = \"GET\"\npath = \"/api/x\"\naccess = \"public\"\noperation = \"x\"\n{more}\n"
        )
    };
    let told = refused(&public("idempotency = \"accepted\""));
    assert!(told.contains("cannot tell its clients apart"), "{told}");
    let guarded = public("cache = { max_age_s = 60, scope = \"public\" }")
        .replace("public\"\noperation", "any-user\"\noperation");
    let told = refused(&guarded);
    assert!(told.contains("routes[0].cache: scope: "), "{told}");
    let told = refused(&public(
        "cache = { max_age_s = 86_401, scope = \"public\" }",
    ));
    assert!(
        told.contains("max_age_s: must be from 1 to 86400"),
        "{told}"
    );

    let of = |text: &str| read(text).expect(text).routes.remove(0);
    let plain = of(ROUTE);
    assert_eq!(plain.idempotency(), Idempotency::Accepted);
    assert_eq!(plain.audit(), Some(("route.connect-call".into(), None)));
    let get = of(&public(
        "cors = \"any\"\ncache = { max_age_s = 60, scope = \"public\" }",
    ));
    assert_eq!((get.idempotency(), get.audit()), (Idempotency::None, None));
    assert_eq!(of(&route("audit = false")).audit(), None);
    let named = of(&route(
        "audit = { action = \"call\", target = \"path.leadId\" }",
    ));
    assert_eq!(named.audit(), Some(("call".into(), Some("path.leadId"))));
    assert_eq!(
        of(&public("audit = {}")).audit(),
        Some(("route.x".into(), None))
    );
}

#[test]
fn all_that_is_wrong_with_the_routes_of_a_manifest_is_told_at_once() {
    let second = "[[routes]]\nmethod = \"GET\"\npath = \"/api/x\"\noperation = \"a b\"\nsuccess_status = 99\ndeadline_ms = 0\n";
    let told = refused(&format!(
        "{}{second}",
        route("rate = { max = 0, per_ms = 1000, by = \"user\" }")
    ));
    for part in [
        "5 problems:\n",
        "\n  - routes[0].rate: max: must be from 1",
        "\n  - routes[1].operation: ",
        "\n  - routes[1].roles: name at least one role",
        "\n  - routes[1].success_status: ",
        "\n  - routes[1].deadline_ms: ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let unreadable = second.replace("\"GET\"", "\"HEAD\"");
    let told = refused(&format!("{}{unreadable}", route("path = \"/x\"")));
    assert!(
        told.contains("- routes[0].path: ") && told.contains("- routes[1].method: must be one of"),
        "{told}"
    );
}

#[test]
fn a_manifest_with_500_routes_is_refused_at_once_with_the_limit_and_one_with_200_is_read() {
    let of = |count: usize| {
        let route = |n: usize| {
            json!({ "id": format!("r{n}"), "method": "GET", "path": format!("/api/r/{n}/{{id}}"), "roles": ["user"],
                "operation": "any" })
        };
        let routes: Vec<Value> = (0..count).map(route).collect();
        let value = json!({ "format": 1, "name": "crm", "version": "1.0.0", "wit": "0.1", "routes": routes });
        Manifest::from_packed(value.to_string().as_bytes()).map_err(|error| error.to_string())
    };
    let read = of(200).expect("as many as there may be");
    assert_eq!((read.routes.len(), read.asks().len()), (200, 200));
    for count in [201, 500] {
        let told = of(count).expect_err("too many");
        let expected = format!("routes: {count} routes; the limit is 200");
        assert!(told.contains(&expected), "{told}");
    }
}

#[test]
fn a_schema_of_a_route_has_no_names_of_its_own() {
    let with = |schema: Value| {
        let value = json!({ "format": 1, "name": "crm", "version": "1.0.0", "wit": "0.1", "routes": [
            { "method": "GET", "path": "/api/x", "roles": ["user"], "operation": "x", "output": schema },
        ] });
        Manifest::from_packed(value.to_string().as_bytes()).map_err(|error| error.to_string())
    };
    for schema in [
        json!({ "$id": "https://a.example" }),
        json!({ "$anchor": "a" }),
        json!({ "properties": { "a": { "$anchor": "a" } } }),
        json!({ "$defs": { "a": { "$id": "b" } } }),
        json!({ "anyOf": [{ "$dynamicAnchor": "a" }] }),
        json!({ "$dynamicRef": "#a" }),
    ] {
        let told = with(schema.clone()).expect_err("a name");
        assert!(told.contains("routes[0].output: #"), "{schema}: {told}");
    }
    with(json!({ "properties": { "$id": { "type": "string" } }, "const": { "$anchor": "a" } }))
        .expect("a property may have any name");
}
