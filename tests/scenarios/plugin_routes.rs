//! Plugins answer HTTP: who gets in, what reaches the plugin, what of its answer reaches the client,
//! and that a plugin is replaced without a failed request.

mod idempotency;
mod kept;
mod load;
mod relay;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use patchbay_model::manifest::Manifest;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, guest_component, repository, until};
use crate::people::{PEOPLE, verified};

/// The guest `answers` with these routes. An operation is the id, unless the route says more.
pub fn plugin(name: &str, routes: Value) -> anyhow::Result<Vec<u8>> {
    let file = repository().join("tests/guests/answers/plugin.toml");
    let base = Manifest::from_toml(&std::fs::read_to_string(file)?, |_| Err("no files".into()))?;
    let mut manifest = serde_json::to_value(base)?;
    manifest["name"] = json!(name);
    manifest["limits"]["deadline_ms"] = json!(30_000);
    manifest["routes"] = routes;
    let manifest = Manifest::from_packed(manifest.to_string().as_bytes())?;
    Ok(patchbay_runtime::pack(
        &guest_component("answers")?,
        &manifest,
    )?)
}

/// A public route: `GET /api/t/ID`, or what `more` says.
fn route(id: &str, operation: &str, more: Value) -> Value {
    let mut route = json!({
        "id": id, "method": "GET", "path": format!("/api/t/{id}"), "access": "public", "operation": operation,
        "rate": { "max": 100_000, "per_ms": 60_000, "by": "all" },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        route[key] = value.clone();
    }
    if let Some(keys) = route.as_object_mut() {
        if keys.contains_key("roles") {
            keys.remove("access");
        }
        keys.retain(|_, value| !value.is_null());
    }
    route
}

/// Query parameters of text, or any body.
fn texts(names: &[&str]) -> Value {
    let members = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "type": "string" })));
    json!({ "properties": { "query": { "properties": members.collect::<serde_json::Map<_, _>>() } } })
}

fn any_body() -> Value {
    json!({ "method": "POST", "input": { "properties": { "body": {} } } })
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

async fn sent(request: reqwest::RequestBuilder) -> anyhow::Result<Answered> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = String::from_utf8_lossy(&response.bytes().await?).into_owned();
    Ok(Answered {
        status,
        headers,
        text,
    })
}

async fn get(host: &Host, path: &str) -> anyhow::Result<Answered> {
    sent(host.http.get(host.url.clone() + path)).await
}

async fn post(host: &Host, path: &str, body: &str) -> anyhow::Result<Answered> {
    let request = host.http.post(host.url.clone() + path);
    sent(
        request
            .header("content-type", "application/json")
            .body(body.to_owned()),
    )
    .await
}

#[tokio::test]
async fn a_route_answers_with_status_headers_and_content_that_it_declares_and_nothing_else()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let output =
        json!({ "type": "object", "properties": { "ok": { "const": true } }, "required": ["ok"] });
    let status_input =
        json!({ "properties": { "query": { "properties": { "status": { "type": "integer" } } } } });
    let routes = json!([
        route("plain", "echo", json!({ "envelope": "none" })),
        route(
            "wrapped",
            "status",
            json!({ "input": status_input, "statuses": [200, 202, 404], "output": output })
        ),
        route("broken", "echo", json!({ "output": output })),
        route(
            "header",
            "header",
            json!({ "input": texts(&["name", "value"]), "response_headers": ["x-total", "etag"] })
        ),
        route(
            "typed",
            "typed",
            json!({ "input": texts(&["type"]), "produces": ["image/png", "application/zip"] })
        ),
        route("empty", "empty", json!({})),
        route(
            "large",
            "bytes",
            json!({ "produces": ["application/octet-stream"],
            "input": { "properties": { "query": { "properties": { "length": { "type": "integer" } } } } } })
        ),
        route("fail", "fail", json!({ "input": texts(&["code"]) })),
        route("panic", "panic", json!({})),
        route("slow", "sleep", json!({ "deadline_ms": 200 })),
        route(
            "narrow",
            "sleep",
            json!({ "deadline_ms": 2_000, "max_concurrency": 1, "tags": ["odd"] })
        ),
    ]);
    host.deploy("tester", plugin("tester", routes)?).await?;
    // A slow route has no more places than it declares; the others go on.
    let (first, second, other) = tokio::try_join!(
        get(&host, "/api/t/narrow"),
        get(&host, "/api/t/narrow"),
        get(&host, "/api/t/plain")
    )?;
    let mut statuses = [(first.status, first.text), (second.status, second.text)];
    statuses.sort();
    assert_eq!((statuses[0].0, statuses[1].0), (503, 504), "{statuses:?}");
    assert!(statuses[0].1.contains(r#""code":"busy""#), "{statuses:?}");
    assert_eq!(other.status, 200);
    for (path, status, code, says) in [
        ("/api/t/wrapped", 500, "invalid-result", ""),
        (
            "/api/t/wrapped?status=200",
            200,
            "",
            r#"{"success":true,"data":{"ok":true}}"#,
        ),
        (
            "/api/t/wrapped?status=202",
            202,
            "",
            r#"{"success":true,"data":{"ok":true}}"#,
        ),
        (
            "/api/t/wrapped?status=404",
            404,
            "",
            r#"{"success":false,"data":{"ok":true}}"#,
        ),
        ("/api/t/wrapped?status=403", 500, "invalid-result", ""),
        ("/api/t/wrapped?status=500", 500, "invalid-result", ""),
        ("/api/t/wrapped/?status=200", 200, "", ""),
        ("/api/t/broken", 500, "invalid-result", ""),
        ("/api/t/header?name=X-Total&value=5", 200, "", ""),
        (
            "/api/t/header?name=x-total&value=5%0d%0aset-cookie:%20a=b",
            500,
            "invalid-result",
            "",
        ),
        (
            "/api/t/header?name=set-cookie&value=a",
            500,
            "invalid-result",
            "",
        ),
        (
            "/api/t/header?name=access-control-allow-origin&value=*",
            500,
            "invalid-result",
            "",
        ),
        (
            "/api/t/header?name=content-length&value=1",
            500,
            "invalid-result",
            "",
        ),
        ("/api/t/typed?type=text/html", 500, "invalid-result", ""),
        (
            "/api/t/typed?type=image/svg%2Bxml",
            500,
            "invalid-result",
            "",
        ),
        ("/api/t/typed?type=image/png", 200, "", ""),
        ("/api/t/empty", 204, "", ""),
        ("/api/t/large?length=17825792", 500, "invalid-result", ""),
        (
            "/api/t/fail?code=conflict",
            409,
            "conflict",
            "failed on request",
        ),
        ("/api/t/fail?code=rate-limited", 429, "rate-limited", ""),
        ("/api/t/panic", 500, "trapped", "The plugin failed."),
        ("/api/t/slow", 504, "deadline", ""),
        ("/api/t/nothing", 404, "route-not-found", ""),
        ("/api/t", 404, "route-not-found", ""),
    ] {
        let answer = get(&host, path).await?;
        let told = format!("{path}: {} {}", answer.status, answer.text);
        println!("{told}");
        assert_eq!(answer.status, status, "{told}");
        assert_eq!(
            answer.json()["code"].as_str().unwrap_or_default(),
            code,
            "{told}"
        );
        assert!(answer.text.contains(says), "{told}");
        assert!(
            !answer.text.contains("src/lib.rs"),
            "a crash says nothing of the code: {told}"
        );
        assert!(answer.headers.get("set-cookie").is_none());
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{told}");
    }
    let plain = get(&host, "/api/t/plain?x=1").await?;
    assert_eq!(
        plain.json()["input"],
        json!({ "path": {}, "query": {} }),
        "{}",
        plain.text
    );
    assert_eq!(
        get(&host, "/api/t/header?name=X-Total&value=5")
            .await?
            .header("x-total"),
        "5"
    );
    let image = get(&host, "/api/t/typed?type=image/png").await?;
    assert_eq!(
        (
            image.header("content-type"),
            image.header("content-disposition")
        ),
        ("image/png", "inline")
    );
    let archive = get(&host, "/api/t/typed?type=application/zip").await?;
    assert_eq!(archive.header("content-disposition"), "attachment");

    let url = format!("{}/api/t/plain", host.url);
    let head = sent(host.http.head(&url)).await?;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert_ne!(head.header("content-length"), "0");
    let options = sent(host.http.request(reqwest::Method::OPTIONS, &url)).await?;
    assert_eq!(
        (options.status, options.header("allow")),
        (204, "GET, HEAD, OPTIONS")
    );
    let other = sent(host.http.delete(&url)).await?;
    assert_eq!(
        (other.status, other.header("allow")),
        (405, "GET, HEAD, OPTIONS")
    );
    let page = host.metrics().await?;
    assert!(page.contains(r#"route="/api/t/plain""#), "{page}");
    Ok(())
}

#[tokio::test]
async fn what_a_request_brings_is_checked_and_errors_name_the_field_and_never_the_value()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let input = json!({
        "type": "object",
        "$defs": { "phone": { "type": "string", "pattern": "^[0-9]+$" } },
        "required": ["body"],
        "properties": {
            "path": { "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } } },
            "query": { "type": "object", "properties": {
                "limit": { "type": "integer", "default": 10, "maximum": 100 }, "tag": { "type": "array" },
            } },
            "body": { "type": "object", "required": ["phone"], "properties": { "phone": { "$ref": "#/$defs/phone" } } },
        },
    });
    let routes = json!([
        route(
            "call",
            "echo",
            json!({ "method": "POST", "path": "/api/leads/{id}/call", "input": input, "max_body_bytes": 1024 })
        ),
        route("raw", "raw", any_body()),
        route(
            "large",
            "raw",
            json!({ "method": "POST", "input": { "properties": { "body": {} } }, "max_body_bytes": 1 << 20 })
        ),
        route(
            "caller",
            "caller",
            json!({ "request_headers": ["x-source"] })
        ),
    ]);
    host.deploy("tester", plugin("tester", routes)?).await?;
    let answer = post(
        &host,
        "/api/leads/7/call?_=1&tag=a&tag=b",
        r#"{"phone":"123"}"#,
    )
    .await?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let expected = json!({ "path": { "id": 7 }, "query": { "limit": 10, "tag": ["a", "b"] }, "body": { "phone": "123" } });
    assert_eq!(answer.json()["data"]["input"], expected);
    // Byte for byte: neither the order nor a number that no double can hold is changed.
    let raw = post(
        &host,
        "/api/t/raw",
        r#"{ "b":12345678901234567890.5, "a":1 }"#,
    )
    .await?;
    assert_eq!(
        raw.text,
        r#"{"success":true,"data":{"path":{},"query":{},"body":{ "b":12345678901234567890.5, "a":1 }}}"#
    );
    let large = format!(r#"{{"phone":"{}"}}"#, "1".repeat(1024));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let secret = "Lovelace";
    for (path, body, status, says) in [
        (
            "/api/leads/seven/call",
            r#"{"phone":"1"}"#,
            400,
            "path.id: ",
        ),
        (
            "/api/leads/7/call?limit=101",
            r#"{"phone":"1"}"#,
            400,
            "query.limit: ",
        ),
        (
            "/api/leads/7/call?limit=Lovelace",
            r#"{"phone":"1"}"#,
            400,
            "query.limit: ",
        ),
        (
            "/api/leads/7/call?limit=1&limit=2",
            r#"{"phone":"1"}"#,
            400,
            "query.limit: is given more than once",
        ),
        (
            "/api/leads/7/call",
            r#"{"phone":"Lovelace"}"#,
            400,
            "body.phone: ",
        ),
        ("/api/leads/7/call", r"{}", 400, "body"),
        ("/api/leads/7/call", "", 400, "body"),
        ("/api/leads/7/call", "{", 400, "is not JSON"),
        ("/api/t/raw", r#"{"a":1,"a":2}"#, 400, "same key twice"),
        ("/api/t/raw", &deep, 400, "127 levels"),
        ("/api/leads/7/call", &large, 413, "larger than 1024 bytes"),
    ] {
        let answer = post(&host, path, body).await?;
        let told = format!("{path}: {} {}", answer.status, answer.text);
        println!("{told}");
        assert_eq!(answer.status, status, "{told}");
        assert!(answer.text.contains(says), "{told}");
        assert!(!answer.text.contains(secret), "{told}");
    }
    let url = format!("{}/api/t/raw", host.url);
    let form = host
        .http
        .post(&url)
        .header("content-type", "text/plain")
        .body("{}");
    assert_eq!(sent(form).await?.status, 415);
    let packed = host
        .http
        .post(&url)
        .header("content-type", "application/json")
        .header("content-encoding", "gzip");
    assert_eq!(sent(packed.body("{}")).await?.status, 415);

    bodies_have_a_bound(&host).await?;
    let request = host.http.get(format!("{}/api/t/caller", host.url));
    let request = request
        .header("x-source", "web")
        .header("x-other", "1")
        .header("x-platform", "mobile");
    let request = request
        .header("x-correlation-id", "c-1")
        .header("idempotency-key", "once")
        .bearer_auth("anything");
    let answer = sent(request).await?;
    let expected = json!({
        "userId": null, "email": null, "role": null, "platform": "mobile", "ip": "127.0.0.1", "correlationId": "c-1",
        "idempotencyKey": "once", "headers": [["x-source", "web"]],
    });
    assert_eq!(answer.json()["data"], expected, "{}", answer.text);
    Ok(())
}

/// Bodies that do not come to their end fill the share of their client, and nobody else's.
async fn bodies_have_a_bound(host: &Host) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt;
    let address = host.url.strip_prefix("http://").context("an address")?;
    let length = 1 << 20;
    let head = format!(
        "POST /api/t/large HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut open = Vec::new();
    // An eighth of 64 MiB, but for a byte each.
    for _ in 0..8 {
        let mut connection = tokio::net::TcpStream::connect(address).await?;
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(&vec![b' '; length - 1]).await?;
        open.push(connection);
    }
    let body = format!("\"{}\"", "x".repeat(1_000));
    let busy = until(Duration::from_secs(20), "no room", async || {
        let answer = post(host, "/api/t/large", &body).await?;
        Ok((answer.status != 200).then_some(answer))
    })
    .await?;
    assert_eq!(
        (busy.status, busy.json()["code"].as_str()),
        (503, Some("busy")),
        "{}",
        busy.text
    );
    assert_eq!(busy.header("retry-after"), "1");
    drop(open);
    until(Duration::from_secs(20), "room", async || {
        let answer = post(host, "/api/t/large", &body).await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await
}

#[tokio::test]
async fn each_kind_of_caller_gets_into_its_own_routes_and_no_spelling_of_a_path_goes_around_that()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let mut env = PEOPLE.to_vec();
    env.push(("PATCHBAY_HTTP_CORS_ORIGINS", "https://app.example"));
    let host = world.host(&env).await?;
    let guarded = |roles: &[&str]| json!({ "roles": roles, "rate": { "max": 3, "per_ms": 60_000, "by": "user" } });
    let vendor = json!({ "access": "vendor", "scope": "leads:write" });
    let routes = json!([
        route("public", "caller", json!({})),
        route("users", "caller", json!({ "access": "any-user" })),
        route("user", "caller", guarded(&["user"])),
        route("sales", "caller", json!({ "roles": ["sales"] })),
        route("vendors", "caller", vendor),
        route("any", "echo", json!({ "path": "/api/t/other/{any}" })),
        route(
            "write",
            "caller",
            json!({ "method": "POST", "access": "any-user" })
        ),
    ]);
    host.deploy("tester", plugin("tester", routes)?).await?;
    let signed_in = verified(&world, &host, "ada@example.com").await?;
    let token = signed_in["token"].as_str().context("a token")?;
    let body = json!({ "name": "Acme", "scopes": ["leads:write"] });
    let (_, issued) = host.post("/api/admin/vendor-keys", body).await?;
    let key = issued["data"]["secret"]
        .as_str()
        .context("a key")?
        .to_owned();
    let (_, issued) = host
        .post(
            "/api/admin/vendor-keys",
            json!({ "name": "Other", "scopes": ["leads:read"] }),
        )
        .await?;
    let other_key = issued["data"]["secret"]
        .as_str()
        .context("a key")?
        .to_owned();
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = host.http.get(format!("{}/api/t/{path}", host.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sent(request).await
    };
    let bearer = format!("Bearer {token}");
    let cookie = format!("token={token}");
    let two_cookies = format!("{cookie}; token=x");
    for (path, headers, status) in [
        ("public", &[][..], 200),
        ("users", &[], 401),
        ("users", &[("authorization", "Bearer x")], 401),
        ("users", &[("authorization", bearer.as_str())], 200),
        ("users", &[("cookie", cookie.as_str())], 200),
        ("users", &[("x-api-key", key.as_str())], 401),
        ("sales", &[("authorization", bearer.as_str())], 403),
        ("sales", &[], 401),
        ("vendors", &[], 401),
        ("vendors", &[("authorization", bearer.as_str())], 401),
        ("vendors", &[("x-api-key", other_key.as_str())], 403),
        ("vendors", &[("x-api-key", key.as_str())], 200),
        // Which of two a proxy has looked at is not known.
        (
            "users",
            &[
                ("authorization", bearer.as_str()),
                ("authorization", bearer.as_str()),
            ],
            400,
        ),
        (
            "public",
            &[
                ("authorization", "Basic x"),
                ("authorization", bearer.as_str()),
            ],
            400,
        ),
        (
            "vendors",
            &[
                ("x-api-key", other_key.as_str()),
                ("x-api-key", key.as_str()),
            ],
            400,
        ),
        // The header of an account's token goes before its cookie, and a vendor's key before that.
        (
            "users",
            &[("authorization", "Bearer x"), ("cookie", cookie.as_str())],
            401,
        ),
        (
            "users",
            &[("authorization", bearer.as_str()), ("cookie", "token=x")],
            200,
        ),
        (
            "vendors",
            &[
                ("authorization", bearer.as_str()),
                ("x-api-key", key.as_str()),
            ],
            200,
        ),
        (
            "vendors",
            &[
                ("authorization", bearer.as_str()),
                ("x-api-key", "vk_live_x"),
            ],
            401,
        ),
        (
            "users",
            &[("x-api-key", key.as_str()), ("cookie", cookie.as_str())],
            200,
        ),
        ("users", &[("cookie", two_cookies.as_str())], 401),
        ("user", &[("authorization", bearer.as_str())], 200),
        ("user", &[("authorization", bearer.as_str())], 200),
        ("user", &[("authorization", bearer.as_str())], 200),
        ("user", &[("authorization", bearer.as_str())], 429),
    ] {
        let answer = ask(path, headers).await?;
        assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.text);
        assert!(!answer.text.contains(token) && !answer.text.contains(&key));
    }
    let caller = ask("users", &[("authorization", &bearer)]).await?.json();
    assert_eq!(caller["data"]["email"], "ada@example.com", "{caller}");
    assert_eq!(caller["data"]["role"], "user");
    assert_eq!(caller["data"]["headers"], json!([]));
    assert_eq!(
        ask("vendors", &[("x-api-key", &key)]).await?.json()["data"]["role"],
        "vendor"
    );
    // An administrator passes wherever roles are asked for, and never as a vendor.
    let mut database = world.database().await?;
    sqlx::raw_sql("update users set role = 'admin'; select pg_notify('patchbay_changed', '')")
        .execute(&mut database)
        .await
        .ok();

    // Another spelling is another path or no path: it never reaches the guarded route.
    for path in [
        "sal%65s",
        "SALES",
        "./sales",
        "x/../sales",
        "%2e/sales",
        "/sales",
        "other%2Fsales",
        "other%5csales",
        "sales%00",
        "sales;x",
        "other/..%2fsales",
        "%73ales",
        "sales//",
        "sales%20",
        "other/%ff",
        "other/%",
        "other/%zz",
    ] {
        let raw = raw_get(&host, &format!("/api/t/{path}")).await?;
        assert!(["400", "404"].contains(&raw.as_str()), "{path}: {raw}");
    }
    assert_eq!(
        raw_get(&host, "/api/t/sales/").await?,
        "401",
        "one slash at the end is ignored"
    );

    // Pages of other origins.
    let page = ask(
        "users",
        &[
            ("authorization", &bearer),
            ("origin", "https://app.example"),
        ],
    )
    .await?;
    assert_eq!(
        page.header("access-control-allow-origin"),
        "https://app.example"
    );
    let page = ask(
        "vendors",
        &[("x-api-key", &key), ("origin", "https://app.example")],
    )
    .await?;
    assert_eq!(page.header("access-control-allow-origin"), "");
    let forged = host
        .http
        .post(format!("{}/api/t/write", host.url))
        .header("cookie", &cookie);
    let forged = sent(
        forged
            .header("origin", "https://evil.example")
            .header("sec-fetch-site", "cross-site"),
    )
    .await?;
    assert_eq!(
        (forged.status, &forged.json()["code"]),
        (403, &json!("cross-site"))
    );
    Ok(())
}

/// The status of a path that is sent as it stands.
async fn raw_get(host: &Host, path: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = host.url.strip_prefix("http://").context("an address")?;
    let mut connection = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.split(' ').nth(1).context("a status")?.to_owned())
}

fn stamped(n: usize) -> anyhow::Result<Vec<u8>> {
    let stamp = format!("stamp.{n}");
    let output = json!({ "properties": { "stamp": { "const": stamp } }, "required": ["stamp"] });
    let more = json!({ "output": output, "response_headers": ["x-stamp"] });
    plugin("tester", json!([route("stamp", &stamp, more)]))
}

#[tokio::test]
async fn ten_swaps_under_requests_answer_each_by_one_revision_and_fail_none() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = Arc::new(world.host(&[]).await?);
    host.deploy("tester", stamped(0)?).await?;
    let mut digests = Vec::new();
    for n in 1..=10 {
        let (status, staged) = host.push(stamped(n)?).await?;
        anyhow::ensure!(status == 200, "{status} {staged}");
        digests.push(staged["data"]["digest"].clone());
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (host, is_over) = (Arc::clone(&host), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut stamps = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let answer = get(&host, "/api/t/stamp").await?;
                    anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
                    let stamp = answer.json()["data"]["stamp"]
                        .as_str()
                        .context("a stamp")?
                        .to_owned();
                    anyhow::ensure!(
                        answer.header("x-stamp") == stamp,
                        "{stamp} {:?}",
                        answer.headers
                    );
                    stamps.push(stamp);
                }
                Ok(stamps)
            })
        })
        .collect();
    for digest in digests {
        let order = json!({ "digest": digest, "grant": true });
        let (status, answer) = host
            .post("/api/admin/plugins/tester/activate", order)
            .await?;
        anyhow::ensure!(status == 200, "{status} {answer}");
    }
    is_over.store(true, Ordering::Relaxed);
    let mut seen = std::collections::BTreeSet::new();
    let mut requests = 0;
    for client in clients {
        let stamps = client.await??;
        requests += stamps.len();
        seen.extend(stamps);
    }
    println!("{requests} requests by {} revisions", seen.len());
    assert!(seen.len() > 2, "{seen:?}");
    assert_eq!(
        get(&host, "/api/t/stamp").await?.header("x-stamp"),
        "stamp.10"
    );
    Ok(())
}

#[tokio::test]
async fn a_route_follows_its_plugin_on_every_host_through_quarantine_release_grants_and_rollback()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&[]).await?, world.host(&[]).await?);
    let when = json!({ "when_unavailable": { "status": 200, "body": { "enabled": false } } });
    let first = plugin(
        "tester",
        json!([route("a", "echo", json!({})), route("b", "echo", when)]),
    )?;
    host.deploy("tester", first).await?;
    let comes = async |host: &Host, path: &str, status: u16| {
        until(Duration::from_secs(20), "the status", async || {
            let answer = get(host, path).await?;
            Ok((answer.status == status).then_some(answer))
        })
        .await
    };
    comes(&other, "/api/t/a", 200).await?;

    let mut database = world.database().await?;
    sqlx::raw_sql(
        "insert into patchbay.quarantines (plugin, digest, reason, began_by)
         select plugin, digest, 'crashed', 'host elsewhere' from patchbay.revisions;
         update patchbay.revisions set state = 'quarantined';
         select pg_notify('patchbay_changed', '')",
    )
    .execute(&mut database)
    .await?;
    for host in [&host, &other] {
        let answer = comes(host, "/api/t/a", 503).await?;
        assert_eq!(
            (answer.json()["code"].as_str(), answer.header("retry-after")),
            (Some("quarantined"), "60")
        );
        assert_eq!(get(host, "/api/t/b").await?.text, r#"{"enabled":false}"#);
    }
    let listed = json_of(&host, &["--json", "route", "list"]).await?;
    assert_eq!(listed[0]["state"], "quarantined", "{listed}");
    host.post(
        "/api/admin/plugins/tester/release",
        json!({ "reason": "a drill" }),
    )
    .await?;
    assert_eq!(get(&host, "/api/t/a").await?.status, 200);
    comes(&other, "/api/t/a", 200).await?;

    // A route that opens wider waits for an operator's grant.
    let narrow = json!([route(
        "a",
        "echo",
        json!({ "access": "any-user", "rate": null })
    )]);
    let digest = host.push(plugin("tester", narrow)?).await?.1["data"]["digest"].clone();
    let path = "/api/admin/plugins/tester/activate";
    let (status, answer) = host.post(path, json!({ "digest": digest })).await?;
    assert_eq!(
        (status, &answer["details"]["missing"]),
        (409, &json!(["route GET /api/t/a for any-user"])),
        "{answer}"
    );
    host.post(path, json!({ "digest": digest, "grant": true }))
        .await?;
    assert_eq!(
        get(&host, "/api/t/b").await?.status,
        404,
        "the new revision has no such route"
    );
    comes(&other, "/api/t/b", 404).await?;
    host.post("/api/admin/plugins/tester/rollback", json!({}))
        .await?;
    assert_eq!(get(&host, "/api/t/a").await?.status, 200);
    comes(&other, "/api/t/b", 200).await?;
    let revoked = json!({ "asks": ["route GET /api/t/b for public"] });
    let (status, answer) = host
        .post("/api/admin/plugins/tester/grants/revoke", revoked)
        .await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        get(&host, "/api/t/b").await?.status,
        404,
        "that route alone"
    );
    assert_eq!(get(&host, "/api/t/a").await?.status, 200);
    let shown = json_of(&host, &["--json", "route", "show", "tester.b"]).await?;
    assert_eq!(shown["state"], "not granted", "{shown}");
    let listed = patchbay(&host, &["route", "list"]).await?;
    let told = format!(
        "{}{}",
        String::from_utf8_lossy(&listed.stdout),
        String::from_utf8_lossy(&listed.stderr)
    );
    let command = r#"patchbay plugin grant tester "route GET /api/t/b for public""#;
    assert!(
        told.contains("not granted") && told.contains(command),
        "{told}"
    );
    until(
        Duration::from_secs(20),
        "the uses of the grant",
        async || {
            let grants = json_of(&host, &["--json", "plugin", "grants", "tester"]).await?;
            let mut grants = grants.as_array().into_iter().flatten();
            let used = grants.find(|grant| grant["ask"] == "route GET /api/t/a for public");
            Ok((used.is_some_and(|grant| grant["uses"].as_u64() > Some(0))).then_some(()))
        },
    )
    .await?;
    json_of(
        &host,
        &["--json", "plugin", "deactivate", "tester", "--yes"],
    )
    .await?;
    assert_eq!(get(&host, "/api/t/a").await?.status, 404);
    comes(&other, "/api/t/a", 404).await?;
    Ok(())
}

#[tokio::test]
async fn operators_see_routes_by_command_and_in_the_document() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let empty = patchbay(&host, &["route", "list"]).await?;
    assert!(
        String::from_utf8_lossy(&empty.stderr).contains("No plugin serves a route"),
        "{empty:?}"
    );
    let input = json!({
        "$defs": { "phone": { "type": "string" } },
        "properties": {
            "path": { "required": ["id"], "properties": { "id": { "type": "integer" } } },
            "query": { "properties": { "dry": { "type": "boolean" } } },
            "body": { "properties": { "phone": { "$ref": "#/$defs/phone" } } },
        },
    });
    let more = json!({ "method": "POST", "path": "/api/leads/{id}/call", "roles": ["sales", "admin"], "rate": null, "input": input });
    // Its secret has no value yet, which is told at each step.
    let file = world.dir.path().join("crm.wasm");
    let routes = json!([route("call-lead", "echo", more)]);
    std::fs::write(&file, plugin("crm", routes)?)?;
    let file = file.to_str().context("a path")?;
    let pushed = json_of(&host, &["--json", "plugin", "push", file]).await?;
    assert_eq!(pushed["secretsWithoutValue"], json!(["TOKEN"]), "{pushed}");
    let digest = pushed["digest"].as_str().context("a digest")?;
    for command in [
        &["plugin", "push", file][..],
        &["plugin", "activate", "crm", digest, "--grant"],
    ] {
        let told = patchbay(&host, command).await?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(
            told.contains("warning: secrets without a value")
                && told.contains("patchbay secret set crm TOKEN"),
            "{told}"
        );
    }
    let listed = patchbay(&host, &["route", "list"]).await?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    println!("{listed}");
    assert!(
        listed.contains("crm.call-lead") && listed.contains("admin,sales"),
        "{listed}"
    );
    let shown = patchbay(&host, &["route", "show", "crm.call-lead"]).await?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    println!("{shown}");
    assert!(shown.contains("600 in 60 s by user"), "{shown}");
    let missed = patchbay(&host, &["route", "show", "crm.call-laed"]).await?;
    let told = String::from_utf8_lossy(&missed.stderr).into_owned();
    assert_eq!(missed.status.code(), Some(3), "{told}");
    assert!(told.contains("Did you mean crm.call-lead?"), "{told}");
    let text = host
        .http
        .get(format!("{}/api/openapi.json", host.url))
        .send()
        .await?
        .text()
        .await?;
    let document: Value = serde_json::from_str(&text)?;
    let operation = &document["paths"]["/api/leads/{id}/call"]["post"];
    assert_eq!(operation["operationId"], "crm.call-lead");
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(
        body["properties"]["phone"]["$ref"],
        "#/components/schemas/crm.call-lead.input.phone"
    );
    crate::openapi::validate(&host.url, world.dir.path()).await?;
    json_of(&host, &["--json", "plugin", "deactivate", "crm", "--yes"]).await?;
    let text = host
        .http
        .get(format!("{}/api/openapi.json", host.url))
        .send()
        .await?
        .text()
        .await?;
    let document: Value = serde_json::from_str(&text)?;
    assert!(document["paths"]["/api/leads/{id}/call"].is_null());
    assert!(!text.contains("crm.call-lead.input"), "its schemas");
    Ok(())
}
