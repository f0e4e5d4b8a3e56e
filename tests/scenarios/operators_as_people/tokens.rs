//! Tokens of programs.

use super::*;

/// Creates a token with a session, and returns its secret.
async fn token(host: &Host, cookie: &str, body: Value) -> anyhow::Result<String> {
    let (status, made) = with(host, cookie, "POST", "/api/admin/tokens", Some(body)).await?;
    assert_eq!(status, 200, "{made}");
    Ok(text(&made["data"]["secret"]))
}

async fn by(host: &Host, token: &str, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let request = host
        .http
        .request(method.parse()?, host.url.clone() + path)
        .bearer_auth(token);
    let response = request.send().await?;
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    Ok((status, text(&body["code"])))
}

#[tokio::test]
async fn a_token_opens_what_its_scopes_name_and_acts_under_its_operators_name() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", true).await?;
    let cookie = session(&host, &mut ada).await?;
    host.add("q", json!({ "name": "a", "data": {} })).await?;
    let secret = token(
        &host,
        &cookie,
        json!({ "name": "ci", "scopes": ["queues:write", "metrics:read"] }),
    )
    .await?;
    assert!(
        secret.starts_with("pbt_") && secret.len() == 56,
        "{}",
        secret.len()
    );
    for (method, path, expected) in [
        ("GET", "/api/admin/queues", (200, "")),
        ("POST", "/api/admin/queues/q/pause", (200, "")),
        (
            "POST",
            "/api/admin/queues/none/pause",
            (404, "unknown-queue"),
        ),
        ("GET", "/api/admin/plugins", (403, "forbidden")),
        (
            "POST",
            "/api/admin/queues/none/obliterate",
            (403, "forbidden"),
        ),
        ("GET", "/api/admin/operators", (403, "forbidden")),
        ("POST", "/api/admin/tokens", (403, "forbidden")),
        ("GET", "/api/admin/session", (200, "")),
        ("DELETE", "/api/admin/session", (403, "forbidden")),
        (
            "GET",
            "/api/admin/queues/q/jobs/1?reveal=true",
            (403, "data-hidden"),
        ),
    ] {
        let (status, code) = by(&host, &secret, method, path).await?;
        assert_eq!((status, code.as_str()), expected, "{method} {path}");
    }
    let (status, _) = by(&host, &secret, "GET", "/metrics").await?;
    assert_eq!(status, 200);
    let (_, activity) = host
        .get("/api/admin/activity?actor=ada&action=queue")
        .await?;
    assert_eq!(activity["data"][0]["details"]["token"], "ci", "{activity}");
    let owner = token(
        &host,
        &cookie,
        json!({ "name": "keys", "role": "owner", "scopes": ["owner:secrets"] }),
    )
    .await?;
    let (status, code) = by(&host, &owner, "POST", "/api/admin/secrets/rekey").await?;
    assert_eq!((status, code.as_str()), (200, ""));
    let (status, _) = by(&host, &owner, "GET", "/api/admin/queues").await?;
    assert_eq!(status, 403, "another group");
    Ok(())
}

#[tokio::test]
async fn a_token_ends_when_it_expires_is_revoked_or_its_operator_is_disabled() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let (host, other) = (world.host(&ENV).await?, world.host(&ENV).await?);
    enrolled(&host, "root", "owner", false).await?;
    let mut ada = enrolled(&host, "ada", "operator", false).await?;
    let cookie = session(&host, &mut ada).await?;
    let reads = |name: &str| json!({ "name": name, "scopes": ["all:read"] });
    let mut database = world.database().await?;
    let expired = token(&host, &cookie, reads("expired")).await?;
    sqlx::query("update patchbay.operator_tokens set expires_at = now() where name = 'expired'")
        .execute(&mut database)
        .await?;
    assert_eq!(
        by(&host, &expired, "GET", "/api/admin/queues").await?.0,
        401
    );
    let revoked = token(&host, &cookie, reads("revoked")).await?;
    for host in [&host, &other] {
        assert_eq!(by(host, &revoked, "GET", "/api/admin/queues").await?.0, 200);
    }
    let (status, done) = with(&host, &cookie, "DELETE", "/api/admin/tokens/revoked", None).await?;
    assert_eq!(status, 200, "{done}");
    assert_eq!(
        by(&host, &revoked, "GET", "/api/admin/queues").await?.0,
        401,
        "at once"
    );
    until(Duration::from_secs(1), "the other host", async || {
        Ok((by(&other, &revoked, "GET", "/api/admin/queues").await?.0 == 401).then_some(()))
    })
    .await?;
    let last = token(&host, &cookie, reads("revoked")).await?;
    assert_eq!(
        by(&host, &last, "GET", "/api/admin/queues").await?.0,
        200,
        "the name is free again"
    );
    let (_, demoted) = host
        .put("/api/admin/operators/ada/role", json!({ "role": "viewer" }))
        .await?;
    assert_eq!(demoted["data"]["role"], "viewer");
    assert_eq!(
        by(&host, &last, "POST", "/api/admin/queues/none/pause")
            .await?
            .0,
        403
    );
    host.post("/api/admin/operators/ada/disable", json!({}))
        .await?;
    assert_eq!(by(&host, &last, "GET", "/api/admin/queues").await?.0, 401);
    host.post("/api/admin/operators/ada/enable", json!({}))
        .await?;
    assert_eq!(
        by(&host, &last, "GET", "/api/admin/queues").await?.0,
        401,
        "for good"
    );
    for odd in [
        "pbt_",
        "pbt_aaaaaaaa_",
        &last.replace("pbt_", "pbt_x"),
        &format!("{last}x"),
    ] {
        assert_eq!(
            by(&host, odd, "GET", "/api/admin/queues").await?.0,
            401,
            "{odd}"
        );
    }
    let wrong = format!("{}{}", &last[..13], "A".repeat(43));
    assert_eq!(by(&host, &wrong, "GET", "/api/admin/queues").await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn a_token_gets_no_more_than_its_operator_has() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "operator", false).await?;
    let cookie = session(&host, &mut ada).await?;
    let scopes = json!(["queues:read"]);
    for (body, why) in [
        (
            json!({ "name": "a", "scopes": scopes, "role": "owner" }),
            "role",
        ),
        (
            json!({ "name": "a", "scopes": scopes, "maySeeData": true }),
            "maySeeData",
        ),
        (json!({ "name": "a", "scopes": [] }), "scopes"),
        (json!({ "name": "a", "scopes": ["queue:read"] }), "scopes"),
        (json!({ "name": "a", "scopes": ["owner:all"] }), "scopes"),
        (
            json!({ "name": "a", "scopes": scopes, "days": 366 }),
            "days",
        ),
        (
            json!({ "name": "a", "scopes": scopes, "networks": ["here"] }),
            "networks",
        ),
        (json!({ "name": "", "scopes": scopes }), "name"),
    ] {
        let (status, refused) = with(
            &host,
            &cookie,
            "POST",
            "/api/admin/tokens",
            Some(body.clone()),
        )
        .await?;
        assert_eq!(status, 400, "{body}: {refused}");
        assert!(
            text(&refused["message"]).starts_with(why),
            "{body}: {refused}"
        );
    }
    let (status, refused) = host
        .post(
            "/api/admin/tokens",
            json!({ "name": "a", "scopes": scopes }),
        )
        .await?;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("forbidden")),
        "the shared login"
    );
    let elsewhere = token(
        &host,
        &cookie,
        json!({ "name": "elsewhere", "scopes": scopes, "networks": ["192.0.2.0/24"] }),
    )
    .await?;
    assert_eq!(
        by(&host, &elsewhere, "GET", "/api/admin/queues").await?.0,
        401
    );
    let (status, refused) = with(
        &host,
        &cookie,
        "POST",
        "/api/admin/tokens",
        Some(json!({ "name": "elsewhere", "scopes": scopes })),
    )
    .await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("conflict")),
        "{refused}"
    );
    let (_, listed) = get(&host, &cookie, "/api/admin/tokens").await?;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    let (status, _) = get(&host, &cookie, "/api/admin/tokens?all=true").await?;
    assert_eq!(status, 403, "others' are for owners");
    let (_, listed) = host.get("/api/admin/tokens?all=true").await?;
    assert_eq!(listed["data"][0]["operator"], "ada", "{listed}");
    Ok(())
}
