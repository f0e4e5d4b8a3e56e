//! Operators who were made here, and sign in by the provider too.

use super::*;

const OWN_PASSWORD: &str = "a long enough password";

/// Makes an operator here who can log in with a password.
async fn made_here(host: &Host, name: &str, role: &str) -> anyhow::Result<()> {
    let body = json!({ "name": name, "role": role });
    let (status, made) = host.post("/api/admin/operators", body).await?;
    assert_eq!(status, 200, "{made}");
    let body = json!({ "link": made["data"]["link"], "password": OWN_PASSWORD });
    let (status, done) = host.post("/api/admin/enrolment/complete", body).await?;
    assert_eq!(status, 200, "{done}");
    Ok(())
}

async fn log_in(host: &Host, name: &str) -> anyhow::Result<Browser> {
    let mut browser = Browser::new(host)?;
    let body = json!({ "name": name, "password": OWN_PASSWORD });
    let seen = browser.post("/api/admin/session", body).await?;
    anyhow::ensure!(seen.status == 200, "{seen:?}");
    Ok(browser)
}

async fn link(browser: &mut Browser) -> anyhow::Result<Seen> {
    let seen = browser
        .post("/api/admin/oidc/link?return_to=/me", json!({}))
        .await?;
    if seen.status != 200 {
        return Ok(seen);
    }
    let address = seen.json()["data"]["address"]
        .as_str()
        .context("an address")?
        .to_owned();
    assert!(
        address.contains("prompt=login") && address.contains("max_age=0"),
        "{address}"
    );
    let callback = browser.at_provider(address).await?;
    browser.send("GET", &callback, None).await
}

#[tokio::test]
async fn an_operator_links_a_person_from_a_fresh_session_and_keeps_the_role() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    made_here(&host, "carol", "operator").await?;
    let mut carol = log_in(&host, "carol").await?;
    let seen = link(&mut carol).await?;
    assert_eq!(
        (seen.status, seen.location.as_str()),
        (303, "/me"),
        "{seen:?}"
    );
    assert!(!seen.sets(SESSION), "the session that began it goes on");
    let shown = carol.get("/api/admin/oidc").await?.json();
    assert_eq!(shown["data"]["identities"][0]["subject"], "ada", "{shown}");
    // The person's groups say owner; the role was given here.
    let mut elsewhere = Browser::new(&host)?;
    assert_eq!(elsewhere.sign_in("").await?.status, 303);
    let who = elsewhere.who().await?;
    assert_eq!(
        (&who["name"], &who["role"]),
        (&json!("carol"), &json!("operator"))
    );
    // A session that the provider has opened links nobody.
    let seen = link(&mut elsewhere).await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (403, "reauthenticate"),
        "{seen:?}"
    );
    // Nobody else becomes that person.
    made_here(&host, "dora", "viewer").await?;
    let mut dora = log_in(&host, "dora").await?;
    let seen = link(&mut dora).await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (409, "conflict"),
        "{seen:?}"
    );
    let seen = carol
        .send("DELETE", &format!("{HERE}/api/admin/oidc/link"), None)
        .await?;
    assert_eq!(
        (seen.status, &seen.json()["data"]["count"]),
        (200, &json!(1)),
        "{seen:?}"
    );
    let seen = carol
        .send("DELETE", &format!("{HERE}/api/admin/oidc/link"), None)
        .await?;
    assert_eq!(seen.status, 404, "{seen:?}");
    assert_eq!(link(&mut dora).await?.status, 303);
    let done = actions(&world, "carol").await?;
    for action in [
        "operator.identity-linked",
        "operator.link-identity",
        "operator.unlink-identity",
    ] {
        assert!(
            done.iter().any(|known| known == action),
            "{action}: {done:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_person_who_has_not_logged_in_anew_at_the_provider_is_not_linked() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    made_here(&host, "carol", "operator").await?;
    let mut carol = log_in(&host, "carol").await?;
    for bend in ["auth-time-old", "no-auth-time"] {
        provider.set(json!({ "bend": bend })).await?;
        let seen = link(&mut carol).await?;
        assert_eq!(
            (seen.status, seen.code().as_str()),
            (400, "sign-in-failed"),
            "{bend}: {seen:?}"
        );
        let shown = carol.get("/api/admin/oidc").await?.json();
        assert_eq!(shown["data"]["identities"], json!([]), "{bend}: {shown}");
    }
    provider.set(json!({})).await?;
    assert_eq!(link(&mut carol).await?.status, 303);
    // To sign in, an older login at the provider is enough.
    provider.set(json!({ "bend": "auth-time-old" })).await?;
    assert_eq!(Browser::new(&host)?.sign_in("").await?.status, 303);
    Ok(())
}

#[tokio::test]
async fn who_found_an_open_browser_links_nobody() -> anyhow::Result<()> {
    let world = World::new().await?;
    let provider = Provider::start().await?;
    let host = world.host(&with(&provider.issuer, &[])).await?;
    made_here(&host, "carol", "operator").await?;
    let mut carol = log_in(&host, "carol").await?;
    let mut database = world.database().await?;
    sqlx::query(
        "update patchbay.operator_sessions set authenticated_at = now() - interval '11 minutes'",
    )
    .execute(&mut database)
    .await?;
    let seen = link(&mut carol).await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (403, "reauthenticate"),
        "{seen:?}"
    );
    // Nor does a page of another site, nor the shared login.
    let mut carol = log_in(&host, "carol").await?;
    let cookie = format!("{SESSION}={}", carol.cookies[&(true, SESSION.to_owned())]);
    let forged = carol
        .http
        .post(format!("{}/api/admin/oidc/link", host.url))
        .header("cookie", cookie)
        .header("sec-fetch-site", "cross-site")
        .send()
        .await?;
    assert_eq!(forged.status(), 403);
    let (status, body) = host.post("/api/admin/oidc/link", json!({})).await?;
    assert_eq!(
        (status, &body["code"]),
        (403, &json!("forbidden")),
        "{body}"
    );
    // One who comes from the provider has nothing to unlink.
    let mut ada = Browser::new(&host)?;
    ada.sign_in("").await?;
    let seen = ada
        .send("DELETE", &format!("{HERE}/api/admin/oidc/link"), None)
        .await?;
    assert_eq!(
        (seen.status, seen.code().as_str()),
        (409, "conflict"),
        "{seen:?}"
    );
    assert_eq!(link(&mut ada).await?.status, 409);
    assert_eq!(
        link(&mut carol).await?.status,
        409,
        "ada is somebody else already"
    );
    Ok(())
}
