//! Keys of vendors: their life on several hosts, what they may do, how their use is counted, and
//! that nothing tells a key.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sqlx::Row;

use crate::commands::{json_of, patchbay};
use crate::fleet::proxied;
use crate::harness::{Host, World, until};
use crate::people::{PEOPLE, verified};
use crate::redis_server::RedisServer;

const OWN: &str = "/api/vendor/key";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A new key: its prefix, and the whole key.
async fn issue(host: &Host, more: Value) -> anyhow::Result<(String, String)> {
    let mut body = json!({ "name": "Acme", "scopes": ["leads:write"] });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let (status, issued) = host.post("/api/admin/vendor-keys", body).await?;
    ensure!(status == 200, "{status} {issued}");
    Ok((
        text(&issued["data"]["key"]["prefix"]),
        text(&issued["data"]["secret"]),
    ))
}

/// What an administrator does with a key.
async fn act(host: &Host, prefix: &str, action: &str, body: Value) -> anyhow::Result<(u16, Value)> {
    let confirm = match action {
        "revoke" => format!("?confirm={prefix}"),
        _ => String::new(),
    };
    let path = format!("/api/admin/vendor-keys/{prefix}/{action}{confirm}");
    host.post(&path, body).await
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok((status, response.json().await?))
}

async fn own(host: &Host, key: &str) -> anyhow::Result<(u16, Value)> {
    let request = host.http.get(host.url.clone() + OWN);
    answer(request.header("x-api-key", key)).await
}

async fn status(host: &Host, key: &str) -> anyhow::Result<u16> {
    Ok(own(host, key).await?.0)
}

/// On a host that is told by another one.
async fn soon(host: &Host, key: &str, expected: u16) -> anyhow::Result<()> {
    until(
        Duration::from_secs(1),
        "the change on the other host",
        async || Ok((status(host, key).await? == expected).then_some(())),
    )
    .await
}

#[tokio::test]
async fn a_key_lives_on_two_hosts_from_its_issue_to_its_end() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&[]).await?, world.host(&[]).await?);
    let command = [
        "--json",
        "vendor-key",
        "issue",
        "Acme leads",
        "--scope",
        "leads:write",
        "--scope",
        "leads:read",
        "--rate",
        "1000",
        "--assigned-to",
        "head@example.com",
        "--reason",
        "contract 7",
    ];
    let issued = json_of(&host, &command).await?;
    let (prefix, key) = (text(&issued["key"]["prefix"]), text(&issued["secret"]));
    assert_eq!(key.len(), 64);
    assert!(key.starts_with(&format!("vk_live_{prefix}.")), "{prefix}");
    assert_eq!(issued["key"]["state"], "active");

    let (first, seen) = own(&host, &key).await?;
    assert_eq!(first, 200, "{seen}");
    let expected = json!({
        "prefix": prefix, "name": "Acme leads", "scopes": ["leads:write", "leads:read"], "ratePerMin": 1000,
        "validUntil": null, "callsToday": 0, "refusedToday": 0,
    });
    assert_eq!(seen["data"], expected);
    let bearer = other.http.get(other.url.clone() + OWN).bearer_auth(&key);
    assert_eq!(answer(bearer).await?.0, 200, "as a bearer token");
    let with_scope = async |scope: &str| {
        let url = format!("{}{OWN}?scope={scope}", other.url);
        answer(other.http.get(url).header("x-api-key", &key)).await
    };
    assert_eq!(with_scope("leads:read").await?.0, 200);
    let (refused, body) = with_scope("invoices:read").await?;
    assert_eq!(
        (refused, &body["code"]),
        (403, &json!("scope-missing")),
        "{body}"
    );

    let edit = ["vendor-key", "edit", &prefix, "--scope", "invoices:read"];
    assert!(patchbay(&host, &edit).await?.status.success());
    until(Duration::from_secs(1), "the scope", async || {
        Ok((with_scope("invoices:read").await?.0 == 200).then_some(()))
    })
    .await?;
    assert_eq!(with_scope("leads:read").await?.0, 403);

    for (action, expected) in [("disable", 401), ("enable", 200)] {
        let command = ["vendor-key", action, &prefix, "--reason", "a test"];
        assert!(patchbay(&host, &command).await?.status.success());
        assert_eq!(status(&host, &key).await?, expected, "{action}: at once");
        soon(&other, &key, expected).await?;
    }
    let asked = patchbay(&host, &["vendor-key", "revoke", &prefix]).await?;
    assert_eq!(asked.status.code(), Some(4), "it asks first");
    assert_eq!(status(&host, &key).await?, 200);
    let command = ["vendor-key", "revoke", &prefix, "--yes"];
    assert!(patchbay(&host, &command).await?.status.success());
    assert_eq!(status(&host, &key).await?, 401);
    soon(&other, &key, 401).await?;
    let again = patchbay(&host, &["vendor-key", "revoke", &prefix]).await?;
    let said = String::from_utf8(again.stdout)?;
    assert!(said.contains("was already revoked"), "{said}");
    let unknown = patchbay(&host, &["vendor-key", "revoke", "aaaaaaaaaaaa"]).await?;
    assert_eq!(unknown.status.code(), Some(3), "it looks before it asks");
    let (conflict, _) = act(&host, &prefix, "enable", json!({})).await?;
    assert_eq!(conflict, 409, "for good");
    let listed = json_of(&host, &["--json", "vendor-key", "list"]).await?;
    assert_eq!(listed, json!([]), "it is over");
    let listed = json_of(&host, &["--json", "vendor-key", "list", "--over"]).await?;
    assert_eq!(listed[0]["state"], "revoked");
    Ok(())
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_refused_alike() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let (disabled, disabled_key) = issue(&host, json!({})).await?;
    act(&host, &disabled, "disable", json!({})).await?;
    let (revoked, revoked_key) = issue(&host, json!({})).await?;
    act(&host, &revoked, "revoke", json!({})).await?;
    let (replaced, replaced_key) = issue(&host, json!({})).await?;
    act(&host, &replaced, "rotate", json!({ "overlapMs": 0 })).await?;
    let (_, expiring) = issue(&host, json!({ "expiresInMs": 1_000 })).await?;
    until(Duration::from_secs(5), "the end of the key", async || {
        Ok((status(&host, &expiring).await? == 401).then_some(()))
    })
    .await?;
    let (_, right) = issue(&host, json!({})).await?;
    let wrong_secret = format!("{}{}", &right[..21], "A".repeat(43));
    let unknown = right.replacen(&right[8..20], "aaaaaaaaaaaa", 1);
    let mut answers = Vec::new();
    for key in [
        disabled_key,
        revoked_key,
        replaced_key,
        expiring,
        wrong_secret,
        unknown,
        "vk_live_".to_owned(),
        "x".repeat(10_000),
        format!("{right}x"),
        "e30.e30.e30".to_owned(),
    ] {
        let request = host.http.get(host.url.clone() + OWN);
        let response = request.header("x-api-key", &key).send().await?;
        let mut names: Vec<String> = response
            .headers()
            .keys()
            .map(|name| name.to_string())
            .collect();
        names.sort();
        answers.push((response.status(), names, response.text().await?));
    }
    let (first, body) = (&answers[0], serde_json::from_str::<Value>(&answers[0].2)?);
    assert_eq!(first.0.as_u16(), 401);
    assert_eq!(
        (&body["code"], &body["message"]),
        (&json!("invalid-api-key"), &json!("Invalid API key"))
    );
    for (place, answer) in answers.iter().enumerate() {
        assert_eq!(answer, first, "{place}");
    }
    let (missing, body) = answer(host.http.get(host.url.clone() + OWN)).await?;
    assert_eq!((missing, &body["code"]), (401, &json!("invalid-api-key")));
    // Nobody else is a vendor, and a vendor is nobody else.
    assert_eq!(host.get(OWN).await?.0, 401);
    for path in [
        "/api/admin/queues",
        "/api/admin/vendor-keys",
        "/api/redis/keys",
    ] {
        let request = host.http.get(host.url.clone() + path);
        let (status, _) = answer(request.header("x-api-key", &right)).await?;
        assert_eq!(status, 401, "{path}");
        let request = host.http.get(host.url.clone() + path).bearer_auth(&right);
        assert_eq!(answer(request).await?.0, 401, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn after_a_rotation_both_keys_go_on_until_the_overlap_ends() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&[]).await?, world.host(&[]).await?);
    let (old, old_key) = issue(
        &host,
        json!({ "ratePerMin": 77, "assignedTo": "head", "expiresInMs": 7_776_000_000_u64 }),
    )
    .await?;
    assert_eq!(status(&other, &old_key).await?, 200);
    for bad in [
        json!({ "overlapMs": 2_592_000_001_u64 }),
        json!({ "overlapMs": -1 }),
    ] {
        let (status, body) = act(&host, &old, "rotate", bad).await?;
        assert!([400, 422].contains(&status), "{body}");
    }
    let (rotated, body) = act(&host, &old, "rotate", json!({})).await?;
    assert_eq!(rotated, 200, "{body}");
    let (new, new_key) = (
        text(&body["data"]["key"]["prefix"]),
        text(&body["data"]["secret"]),
    );
    let kept = &body["data"]["key"];
    assert_eq!(
        (&kept["ratePerMin"], &kept["assignedTo"], &kept["scopes"]),
        (&json!(77), &json!("head"), &json!(["leads:write"]))
    );
    assert!(kept["expiresAt"].is_string(), "{kept}");
    for host in [&host, &other] {
        assert_eq!(status(host, &new_key).await?, 200);
        assert_eq!(status(host, &old_key).await?, 200, "for a day");
    }
    let (_, shown) = host.get(&format!("/api/admin/vendor-keys/{old}")).await?;
    let shown = &shown["data"]["key"];
    assert_eq!(
        (&shown["state"], &shown["replacedBy"]),
        (&json!("ending"), &json!(new))
    );
    let ends: chrono::DateTime<chrono::Utc> = text(&shown["endsAt"]).parse()?;
    let hours = (ends - chrono::Utc::now()).num_minutes() / 60;
    assert!((23..=24).contains(&hours), "{hours}");
    let (again, body) = act(&host, &old, "rotate", json!({})).await?;
    assert_eq!(again, 409, "{body}");
    assert!(text(&body["message"]).contains(&new), "{body}");
    // Without an overlap the key before ends at once, everywhere.
    let (rotated, body) = act(&host, &new, "rotate", json!({ "overlapMs": 0 })).await?;
    assert_eq!(rotated, 200, "{body}");
    assert_eq!(status(&host, &new_key).await?, 401);
    soon(&other, &new_key, 401).await?;
    assert_eq!(status(&other, &text(&body["data"]["secret"])).await?, 200);
    Ok(())
}

#[tokio::test]
async fn the_use_of_a_key_is_added_up_over_all_hosts_also_at_their_end() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&[]).await?, world.host(&[]).await?);
    let (prefix, key) = issue(&host, json!({ "ratePerMin": 1_000 })).await?;
    for _ in 0..3 {
        assert_eq!(status(&other, &key).await?, 200);
    }
    let url = format!("{}{OWN}?scope=other", other.url);
    let refused = answer(other.http.get(url).header("x-api-key", &key)).await?;
    assert_eq!(refused.0, 403);
    other.stop().await?;
    let uses = async || {
        let (_, shown) = host
            .get(&format!("/api/admin/vendor-keys/{prefix}"))
            .await?;
        anyhow::Ok(shown["data"].clone())
    };
    let shown = uses().await?;
    let used = &shown["uses"][0];
    assert_eq!(
        (&used["route"], &used["calls"], &used["refused"]),
        (&json!("GET /api/vendor/key"), &json!(4), &json!(1)),
        "{shown}"
    );
    assert!(shown["key"]["lastUsedAt"].is_string(), "{shown}");
    assert_eq!(status(&host, &key).await?, 200);
    act(&host, &prefix, "disable", json!({})).await?;
    assert_eq!(status(&host, &key).await?, 401);
    assert_eq!(status(&host, &format!("{}B", &key[..63])).await?, 401);
    until(Duration::from_secs(20), "the other uses", async || {
        let shown = uses().await?;
        let used = &shown["uses"][0];
        Ok((used["calls"] == 6 && used["refused"] == 2).then_some(()))
    })
    .await?;
    let printed = patchbay(&host, &["vendor-key", "show", &prefix]).await?;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.contains("6 requests, 2 refused"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn a_key_and_a_network_of_wrong_keys_have_limits_that_hosts_share() -> anyhow::Result<()> {
    let world = World::new().await?;
    let env = [("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")];
    let (host, other) = (world.host(&env).await?, world.host(&env).await?);
    let (_, slow) = issue(&host, json!({ "ratePerMin": 3 })).await?;
    let (_, right) = issue(&host, json!({})).await?;
    let ask = async |host: &Host, key: &str, network: &str| {
        let request = host
            .http
            .get(host.url.clone() + OWN)
            .header("x-api-key", key)
            .header("x-forwarded-for", network);
        let response = request.send().await?;
        let policy = response.headers().get("ratelimit-policy");
        let policy = policy.and_then(|value| value.to_str().ok().map(str::to_owned));
        anyhow::Ok((response.status().as_u16(), policy))
    };
    for host in [&host, &other, &host] {
        let (status, policy) = ask(host, &slow, "198.51.100.1").await?;
        assert_eq!(
            (status, policy.as_deref()),
            (200, Some(r#""vendor";q=3;w=60"#))
        );
    }
    for host in [&host, &other] {
        assert_eq!(ask(host, &slow, "198.51.100.1").await?.0, 429);
    }
    let crowd = "203.0.113.1";
    assert_eq!(ask(&host, &right, crowd).await?.0, 200);
    let mut statuses = Vec::new();
    for n in 0..30 {
        let wrong = format!("{}{n:02}{}", &right[..21], "A".repeat(41));
        let host = if n % 2 == 0 { &host } else { &other };
        statuses.push(ask(host, &wrong, crowd).await?.0);
    }
    assert_eq!(&statuses[..21], &[401; 21], "{statuses:?}");
    assert!(statuses[21..].contains(&429), "{statuses:?}");
    assert_eq!(
        ask(&host, &right, crowd).await?.0,
        200,
        "a key that is used"
    );
    let wrong = format!("{}{}", &right[..21], "B".repeat(43));
    assert_eq!(
        ask(&host, &wrong, "198.51.100.2").await?.0,
        401,
        "elsewhere"
    );
    Ok(())
}

#[tokio::test]
async fn administrators_issue_keys_and_others_do_not() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let ada = verified(&world, &host, "ada@example.com").await?;
    let root = verified(&world, &host, "root@example.com").await?;
    let id = text(&root["user"]["id"]);
    let role = json!({ "role": "admin" });
    host.put(&format!("/api/admin/people/{id}/role"), role)
        .await?;
    let issue_as = async |token: &Value| {
        let request = host
            .http
            .post(format!("{}/api/admin/vendor-keys?reason=asked", host.url))
            .bearer_auth(text(token))
            .json(&json!({ "name": "Acme", "scopes": ["leads:write"] }));
        answer(request).await
    };
    assert_eq!(issue_as(&ada["token"]).await?.0, 403);
    let (status_of_root, issued) = issue_as(&root["token"]).await?;
    assert_eq!(status_of_root, 200, "{issued}");
    assert_eq!(issued["data"]["key"]["createdBy"], format!("user {id}"));
    let nobody = host
        .http
        .post(format!("{}/api/admin/vendor-keys", host.url))
        .json(&json!({ "name": "Acme", "scopes": ["leads:write"] }));
    assert_eq!(answer(nobody).await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn nothing_tells_a_key_but_its_issue() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let (prefix, key) = issue(&host, json!({})).await?;
    let (_, rotated) = act(&host, &prefix, "rotate", json!({})).await?;
    let second = text(&rotated["data"]["secret"]);
    for key in [&key, &second] {
        assert_eq!(status(&host, key).await?, 200);
        // A pasted key in a path, a name and a reason.
        host.get(&format!("/api/admin/vendor-keys/{key}")).await?;
        let shown = patchbay(&host, &["vendor-key", "show", key]).await?;
        assert!(shown.status.success());
    }
    let secret_of = |key: &str| key.split_once('.').map(|(_, secret)| secret.to_owned());
    let secrets = [secret_of(&key), secret_of(&second)];
    let secrets = secrets.map(|secret| secret.context("a secret"));
    let mut database = world.database().await?;
    let tables = sqlx::query(
        "select table_name::text from information_schema.tables where table_schema = 'patchbay' and table_type = 'BASE TABLE'",
    );
    let tables = tables.fetch_all(&mut database).await?;
    let log = host.log.lock().expect("no writer panics").clone();
    let mut texts = vec![
        log,
        host.get("/api/admin/vendor-keys").await?.1.to_string(),
        host.get(&format!("/api/admin/vendor-keys/{prefix}"))
            .await?
            .1
            .to_string(),
        host.get("/api/admin/activity").await?.1.to_string(),
        host.metrics().await?,
    ];
    for table in &tables {
        let name: String = table.try_get(0)?;
        let rows = sqlx::AssertSqlSafe(format!("select t::text from patchbay.{name} t"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut database).await?;
        texts.extend(rows);
    }
    assert!(texts.iter().any(|text| text.contains(&prefix)), "searched");
    for secret in secrets {
        let secret = secret?;
        let found = texts.iter().find(|text| text.contains(&secret));
        assert_eq!(found, None);
    }
    let actions: Vec<(String, String)> = sqlx::query_as(
        "select action, target from patchbay.operator_actions where action like 'vendor-key.%' order by id",
    )
    .fetch_all(&mut database)
    .await?;
    let expected = ["vendor-key.issue", "vendor-key.rotate"];
    assert_eq!(
        actions,
        expected.map(|action| (action.to_owned(), prefix.clone()))
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_a_key_is_refused_with_what_to_write() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let good = json!({ "name": "Acme", "scopes": ["leads:write"] });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (body, named) in [
        (with("name", json!("")), "name"),
        (with("name", json!("a\nb")), "name"),
        (with("name", json!("x".repeat(101))), "name"),
        (with("scopes", json!([])), "scopes"),
        (with("scopes", json!(["Leads"])), "scopes[0]"),
        (with("scopes", json!(["a", "a"])), "scopes"),
        (with("scopes", json!(vec!["a"; 33])), "scopes"),
        (with("ratePerMin", json!(0)), "ratePerMin"),
        (with("ratePerMin", json!(60_001)), "ratePerMin"),
        (with("expiresInMs", json!(999)), "expiresInMs"),
        (with("assignedTo", json!(" ")), "assignedTo"),
    ] {
        let (status, answer) = host.post("/api/admin/vendor-keys", body.clone()).await?;
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(text(&answer["message"]).starts_with(named), "{answer}");
    }
    let (prefix, _) = issue(&host, json!({})).await?;
    let path = format!("{}/api/admin/vendor-keys/{prefix}", host.url);
    let edit = async |body: Value| host.request(host.http.patch(&path).json(&body)).await;
    assert_eq!(edit(json!({})).await?.0, 400);
    assert_eq!(edit(json!({ "scopes": [] })).await?.0, 400);
    let (status, edited) = edit(json!({ "name": " Acme 2 ", "assignedTo": "head" })).await?;
    assert_eq!(
        (
            status,
            &edited["data"]["name"],
            &edited["data"]["assignedTo"]
        ),
        (200, &json!("Acme 2"), &json!("head")),
        "{edited}"
    );
    let (_, edited) = edit(json!({ "assignedTo": "" })).await?;
    assert_eq!(edited["data"]["assignedTo"], Value::Null);
    for unknown in ["nobody", "aaaaaaaaaaaa", "..", "%00"] {
        let (status, _) = host
            .get(&format!("/api/admin/vendor-keys/{unknown}"))
            .await?;
        assert_eq!(status, 404, "{unknown}");
    }
    for query in ["limit=0", "limit=201", "cursor=x", "other=1"] {
        let (status, _) = host.get(&format!("/api/admin/vendor-keys?{query}")).await?;
        assert_eq!(status, 400, "{query}");
    }
    let (_, edited) = edit(json!({ "name": "Acme 2", "assignedTo": "" })).await?;
    assert_eq!(edited["data"]["already"], true, "{edited}");
    let (status, enabled) = act(&host, &prefix, "enable", json!({})).await?;
    assert_eq!((status, &enabled["data"]["already"]), (200, &json!(true)));
    let (_, activity) = host.get("/api/admin/activity?result=no-effect").await?;
    let rows = activity["data"].as_array().context("actions")?;
    let seen: Vec<_> = rows.iter().map(|row| &row["noEffect"]).collect();
    assert_eq!(seen, ["was not disabled", "was the same"], "{activity}");
    Ok(())
}

#[tokio::test]
async fn many_keys_are_listed_page_by_page_and_found_by_their_contact() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let mut issued = Vec::new();
    for n in 0..5 {
        let more =
            json!({ "name": format!("Vendor {n}"), "assignedTo": format!("head{n}@example.com") });
        issued.push(issue(&host, more).await?.0);
    }
    issued.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/admin/vendor-keys?limit=2{cursor}");
        let (status, page) = host.get(&path).await?;
        assert_eq!(status, 200, "{page}");
        let keys = page["data"].as_array().context("keys")?;
        assert!(keys.len() <= 2);
        seen.extend(keys.iter().map(|key| text(&key["prefix"])));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, issued, "the newest first");
    let (_, found) = host.get("/api/admin/vendor-keys?text=HEAD3").await?;
    assert_eq!(found["data"][0]["name"], "Vendor 3");
    assert_eq!(found["data"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn vendors_go_on_without_redis_and_are_told_that_postgres_is_away() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut server = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = format!("redis://127.0.0.1:{}/", server.port);
    let (proxy, database) = proxied(&world).await?;
    let env = [("DATABASE_URL", database.as_str())];
    let host = world.host(&env).await?;
    let (_, key) = issue(&host, json!({})).await?;
    assert_eq!(status(&host, &key).await?, 200);
    server.stop().await?;
    assert_eq!(status(&host, &key).await?, 200);
    assert_eq!(status(&host, "vk_live_x").await?, 401);
    server.start().await?;
    proxy.refuse(true);
    proxy.go_silent();
    until(
        Duration::from_secs(4),
        "the end of what is remembered",
        async || Ok((status(&host, &key).await? == 503).then_some(())),
    )
    .await?;
    let began = std::time::Instant::now();
    assert_eq!(status(&host, &key).await?, 503);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    proxy.refuse(false);
    until(Duration::from_secs(20), "Postgres is back", async || {
        Ok((status(&host, &key).await? == 200).then_some(()))
    })
    .await
}
