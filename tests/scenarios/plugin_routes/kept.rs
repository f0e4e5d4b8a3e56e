//! What a route declares of caches, pages of other origins, forms, the audit trail and open
//! breakers, and what is counted.

use std::time::Duration;

use serde_json::{Value, json};

use super::{get, plugin, post, route, sent};
use crate::commands::json_of;
use crate::harness::{World, until};

#[tokio::test]
async fn answers_are_kept_and_read_by_pages_as_far_as_their_route_says() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_CORS_ORIGINS", "https://app.example")])
        .await?;
    let kept = |scope: &str| json!({ "cache": { "max_age_s": 60, "scope": scope } });
    let header = json!({ "properties": { "query": { "properties": { "name": { "type": "string" }, "value": { "type": "string" } } } } });
    let routes = json!([
        route(
            "plain",
            "stamp.1",
            json!({ "response_headers": ["x-stamp"] })
        ),
        route(
            "public",
            "stamp.1",
            json!({ "response_headers": ["x-stamp"], "cache": { "max_age_s": 60, "scope": "public" }, "cors": "any" })
        ),
        route("private", "stamp.1", {
            let mut more = kept("private");
            more["response_headers"] = json!(["x-stamp"]);
            more["cors"] = json!("none");
            more["request_headers"] = json!(["x-tenant"]);
            more
        }),
        route(
            "own",
            "header",
            json!({ "input": header, "response_headers": ["etag"] })
        ),
        route("failing", "fail", kept("public")),
        route(
            "posted",
            "stamp.1",
            json!({ "method": "POST", "response_headers": ["x-stamp"], "cors": "any" })
        ),
        route(
            "closed",
            "stamp.1",
            json!({ "method": "POST", "response_headers": ["x-stamp"] })
        ),
    ]);
    host.deploy("tester", plugin("tester", routes)?).await?;
    for (id, credential, cache) in [
        ("plain", false, "no-store"),
        ("public", false, "public, max-age=60"),
        ("public", true, "public, max-age=60"),
        ("private", true, "private, max-age=60"),
        ("failing", false, "no-store"),
    ] {
        let mut request = host.http.get(format!("{}/api/t/{id}", host.url));
        if credential {
            request = request.header("cookie", "token=x");
        }
        let answer = sent(request).await?;
        assert_eq!(
            answer.header("cache-control"),
            cache,
            "{id}: {}",
            answer.text
        );
        let vary = answer.headers.get_all("vary").iter();
        let vary: Vec<&str> = vary.filter_map(|line| line.to_str().ok()).collect();
        let vary = vary.join(", ");
        for name in ["authorization", "cookie", "x-api-key", "x-platform"] {
            assert_eq!(vary.contains(name), cache != "no-store", "{id}: {vary}");
        }
        // Whoever sends another value of it may get another answer.
        assert_eq!(vary.contains("x-tenant"), id == "private", "{id}: {vary}");
    }
    let first = get(&host, "/api/t/public").await?;
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 10, "{tag}");
    for (known, status) in [
        (tag.as_str(), 304),
        (&format!("\"x\", W/{tag}"), 304),
        ("*", 304),
        ("\"x\"", 200),
    ] {
        let request = host.http.get(format!("{}/api/t/public", host.url));
        let answer = sent(request.header("if-none-match", known)).await?;
        assert_eq!(answer.status, status, "{known}");
        assert_eq!(answer.text.is_empty(), status == 304);
        assert_eq!(answer.header("etag"), tag);
        assert_eq!(answer.header("cache-control"), "public, max-age=60");
    }
    let own = "/api/t/own?name=etag&value=%22mine%22";
    assert_eq!(get(&host, own).await?.header("etag"), "\"mine\"");
    let request = host.http.get(host.url.clone() + own);
    assert_eq!(
        sent(request.header("if-none-match", "\"mine\""))
            .await?
            .status,
        304
    );

    for (id, origin, allowed, credentials) in [
        (
            "plain",
            "https://app.example",
            "https://app.example",
            "true",
        ),
        ("plain", "https://evil.example", "", ""),
        ("public", "https://evil.example", "*", ""),
        ("public", "https://app.example", "*", ""),
        ("private", "https://app.example", "", ""),
    ] {
        let request = host.http.get(format!("{}/api/t/{id}", host.url));
        let answer = sent(request.header("origin", origin)).await?;
        assert_eq!(
            (
                answer.header("access-control-allow-origin"),
                answer.header("access-control-allow-credentials")
            ),
            (allowed, credentials),
            "{id} {origin}"
        );
    }
    let preflight = host
        .http
        .request(
            reqwest::Method::OPTIONS,
            format!("{}/api/t/public", host.url),
        )
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "GET");
    let preflight = sent(preflight).await?;
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
    assert_eq!(preflight.header("access-control-allow-methods"), "GET");
    for (id, status, allowed) in [("posted", 200, "*"), ("closed", 403, "")] {
        let request = host.http.post(format!("{}/api/t/{id}", host.url));
        let answer = sent(request.header("origin", "https://evil.example")).await?;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (status, allowed),
            "{id}: {}",
            answer.text
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_form_reaches_the_plugin_as_an_object() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let body = json!({ "type": "object", "required": ["CallSid"], "properties": {
        "CallSid": { "type": "string" }, "tag": { "type": "array", "items": { "type": "string" } } } });
    let more = json!({ "method": "POST", "body_type": "form", "input": { "required": ["body"], "properties": { "body": body } } });
    host.deploy(
        "tester",
        plugin("tester", json!([route("form", "echo", more)]))?,
    )
    .await?;
    let send = async |kind: &str, body: &str| {
        let request = host.http.post(format!("{}/api/t/form", host.url));
        sent(request.header("content-type", kind).body(body.to_owned())).await
    };
    let form = "application/x-www-form-urlencoded; charset=UTF-8";
    let answer = send(form, "CallSid=a+b%26&tag=x&other=1&other=2").await?;
    assert_eq!(
        answer.json()["data"]["input"]["body"],
        json!({ "CallSid": "a b&", "tag": ["x"], "other": ["1", "2"] }),
        "{}",
        answer.text
    );
    for (kind, body, status) in [
        (form, "tag=x", 400),
        (form, "CallSid=1&CallSid=2", 400),
        ("application/json", "{}", 415),
        (form, "", 400),
    ] {
        let answer = send(kind, body).await?;
        assert_eq!(answer.status, status, "{kind} {body}: {}", answer.text);
    }
    Ok(())
}

#[tokio::test]
async fn who_changed_something_by_a_route_stands_in_the_audit_trail() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let lead = |more: Value| {
        let mut base = json!({ "method": "POST", "access": "vendor", "scope": "leads:write",
            "input": { "properties": { "path": { "required": ["id"], "properties": { "id": { "type": "integer" } } }, "body": {} } } });
        for (key, value) in more.as_object().into_iter().flatten() {
            base[key] = value.clone();
        }
        base
    };
    let routes = json!([
        route(
            "call",
            "echo",
            lead(
                json!({ "path": "/api/t/lead/{id}/call", "audit": { "action": "lead.called", "target": "path.id" } })
            )
        ),
        route(
            "fail",
            "fail",
            lead(json!({ "path": "/api/t/lead/{id}/fail" }))
        ),
        route(
            "quiet",
            "echo",
            lead(json!({ "path": "/api/t/lead/{id}/quiet", "audit": false }))
        ),
        route("read", "echo", json!({})),
    ]);
    host.deploy("crm", plugin("crm", routes)?).await?;
    let body = json!({ "name": "Acme", "scopes": ["leads:write"] });
    let (_, issued) = host.post("/api/admin/vendor-keys", body).await?;
    let key = issued["data"]["secret"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let prefix = issued["data"]["key"]["prefix"].clone();
    let call = async |id: &str, body: &str| {
        let request = host.http.post(format!("{}/api/t/lead/7/{id}", host.url));
        let request = request
            .header("x-api-key", &key)
            .header("x-correlation-id", "c-7")
            .header("content-type", "application/json");
        sent(request.body(body.to_owned())).await
    };
    assert_eq!(call("call", "{}").await?.status, 200);
    assert_eq!(call("fail", r#"{"code":"conflict"}"#).await?.status, 409);
    assert_eq!(call("quiet", "{}").await?.status, 200);
    assert_eq!(get(&host, "/api/t/read").await?.status, 200);
    // Refused before the call: nothing was changed.
    let stranger = host.http.post(format!("{}/api/t/lead/7/call", host.url));
    assert_eq!(sent(stranger).await?.status, 401);
    let listed = until(Duration::from_secs(20), "the entries", async || {
        let listed = json_of(&host, &["--json", "audit", "list", "--trail", "routes"]).await?;
        Ok((listed.as_array().map_or(0, Vec::len) >= 2).then_some(listed))
    })
    .await?;
    println!("{listed:#}");
    let entries = listed.as_array().cloned().unwrap_or_default();
    assert_eq!(entries.len(), 2, "{listed:#}");
    let of = |action: &str| {
        let found = entries.iter().find(|entry| entry["action"] == action);
        found.cloned().unwrap_or_default()
    };
    let called = of("lead.called");
    assert_eq!(called["entity"], "7", "{called:#}");
    assert_eq!(called["actorId"], prefix);
    assert_eq!(called["actorKind"], "vendor");
    assert_eq!(called["correlationId"], "c-7");
    assert_eq!(called["plugin"], "crm");
    assert_eq!(called["entry"]["status"], 200);
    assert_eq!(called["entry"]["key"], prefix, "the key that was used");
    let failed = of("route.fail");
    assert_eq!(
        (&failed["entity"], &failed["entry"]["code"]),
        (&json!("crm.fail"), &json!("conflict"))
    );
    assert!(!listed.to_string().contains(&key));
    let activity = json_of(&host, &["--json", "activity", "--actor", "crm"]).await?;
    println!("{activity:#}");
    let shown = activity.to_string();
    assert!(
        shown.contains("lead.called") && shown.contains("route.fail"),
        "{activity:#}"
    );
    // They are sealed like all others, and nothing waits in Redis.
    let verified = json_of(&host, &["--json", "audit", "verify", "--trail", "routes"]).await?;
    println!("{verified:#}");

    // An entry that Postgres cannot hold, and one of another program, keep none beside them back.
    let written = |action: &str, entry: &str| {
        let key = format!("k-{action}");
        format!(
            r#"{{"key":"{key}","kind":"anonymous","actor":null,"action":"{action}","target":null,"address":"nowhere","platform":null,"correlation":null,"plugin":"crm","revision":"r","entry":{entry}}}"#
        )
    };
    let stream = format!("{}-own:route-audit", world.prefix);
    let mut pipe = redis::pipe();
    pipe.atomic();
    for (field, value) in [
        ("e", written("made.first", "{}")),
        ("e", written("made.odd", r#"{"a":"\u0000"}"#)),
        ("other", "x".to_owned()),
        ("e", "{".to_owned()),
        ("e", written("made.last", "{}")),
    ] {
        pipe.cmd("XADD").arg(&stream).arg("*").arg(field).arg(value);
    }
    let mut redis = world.redis().await?;
    let _: Vec<String> = pipe.query_async(&mut redis).await?;
    let actions = until(Duration::from_secs(20), "the others", async || {
        let listed = json_of(&host, &["--json", "audit", "list", "--trail", "routes"]).await?;
        let listed = listed.as_array().cloned().unwrap_or_default();
        let actions = listed.iter().map(|entry| entry["action"].to_string());
        let actions: Vec<String> = actions.collect();
        let waiting: u64 = redis::cmd("XLEN")
            .arg(&stream)
            .query_async(&mut redis.clone())
            .await?;
        Ok((actions.len() >= 4 && waiting == 0).then_some(actions))
    })
    .await?;
    let actions = actions.join(" ");
    assert!(
        actions.contains("made.first") && actions.contains("made.last") && !actions.contains("odd"),
        "{actions}"
    );
    Ok(())
}

#[tokio::test]
async fn an_open_breaker_is_answered_as_the_route_declares_and_requests_are_counted_by_revision()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_SECRET_TESTER_TOKEN", "t0ken-of-nobody")])
        .await?;
    let url =
        json!({ "properties": { "query": { "properties": { "url": { "type": "string" } } } } });
    let when = json!({ "input": url, "when_unavailable": { "status": 200, "body": { "enabled": false } } });
    let routes = |text: &str| {
        json!([
            route("declared", "upstream", when.clone()),
            route("relayed", "relay", when.clone()),
            route("plain", "upstream", json!({ "input": url })),
            route("count", "echo", json!({ "summary": text })),
        ])
    };
    host.deploy("tester", plugin("tester", routes("one"))?)
        .await?;
    // Nobody listens there; after two failures the breaker is open.
    let ask = async |id: &str| get(&host, &format!("/api/t/{id}?url=http://127.0.0.1:9/")).await;
    until(Duration::from_secs(20), "the open breaker", async || {
        let answer = ask("plain").await?;
        Ok((answer.json()["code"] == "breaker-open").then_some(answer))
    })
    .await?;
    for id in ["declared", "relayed"] {
        let answer = ask(id).await?;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, r#"{"enabled":false}"#),
            "{id}"
        );
    }
    assert_eq!(ask("plain").await?.status, 503);

    for n in 0..3 {
        host.deploy(
            "tester",
            plugin("tester", routes(&format!("revision {n}")))?,
        )
        .await?;
        for _ in 0..=n {
            assert_eq!(get(&host, "/api/t/count").await?.status, 200);
        }
    }
    assert_eq!(post(&host, "/api/t/count", "{}").await?.status, 405);
    let page = host.metrics().await?;
    let counted: Vec<&str> = page
        .lines()
        .filter(|line| {
            line.starts_with("patchbay_route_requests_total{") && line.contains("route=\"count\"")
        })
        .collect();
    println!("{counted:#?}");
    assert_eq!(counted.len(), 2, "the two newest revisions: {counted:#?}");
    for end in ["status=\"200\"} 2", "status=\"200\"} 3"] {
        assert!(
            counted.iter().any(|line| line.ends_with(end)),
            "{end}: {counted:#?}"
        );
    }
    assert!(
        page.contains("patchbay_route_seconds_count{plugin=\"tester\",route=\"count\""),
        "{page}"
    );
    Ok(())
}

#[tokio::test]
async fn when_all_places_are_taken_a_request_is_refused_soon_and_asked_to_come_again()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = std::sync::Arc::new(world.host(&[]).await?);
    let routes = json!([
        route("slow", "sleep", json!({ "deadline_ms": 15_000 })),
        route("quick", "echo", json!({})),
    ]);
    host.deploy("tester", plugin("tester", routes)?).await?;
    let places = 4 * std::thread::available_parallelism()?.get();
    let slow: Vec<_> = (0..places)
        .map(|_| {
            let host = std::sync::Arc::clone(&host);
            tokio::spawn(async move { get(&host, "/api/t/slow").await })
        })
        .collect();
    let busy = until(Duration::from_secs(12), "the refusal", async || {
        let answer = get(&host, "/api/t/quick").await?;
        Ok((answer.status != 200).then_some(answer))
    })
    .await?;
    assert_eq!(
        (
            busy.status,
            busy.json()["code"].as_str(),
            busy.header("retry-after")
        ),
        (503, Some("busy"), "1"),
        "{}",
        busy.text
    );
    for slow in slow {
        assert_eq!(slow.await??.status, 504);
    }
    assert_eq!(get(&host, "/api/t/quick").await?.status, 200);
    Ok(())
}
