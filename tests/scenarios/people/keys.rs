//! Replacing the keys of access tokens.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::commands::{json_of, patchbay};

/// The `kid` of a token.
fn kid(token: &str) -> anyhow::Result<String> {
    let header = token.split('.').next().context("a header")?;
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header)?;
    Ok(text(&serde_json::from_slice::<Value>(&header)?["kid"]))
}

/// Keys of access tokens, the youngest first.
async fn keys(host: &Host) -> anyhow::Result<Vec<Value>> {
    let (status, listed) = host.get("/api/admin/keys").await?;
    anyhow::ensure!(status == 200, "{listed}");
    let listed = listed["data"].as_array().context("keys")?.iter();
    Ok(listed
        .filter(|key| key["purpose"] == "jwt")
        .cloned()
        .collect())
}

async fn signs(host: &Host, kid: &str) -> anyhow::Result<()> {
    until(Duration::from_secs(10), "the key signs", async || {
        let keys = keys(host).await?;
        let signs = keys
            .iter()
            .any(|key| key["kid"] == kid && key["state"] == "signs");
        Ok(signs.then_some(()))
    })
    .await
}

/// Wakes whoever looks after the keys.
async fn wake(world: &World) -> anyhow::Result<()> {
    let mut database = world.database().await?;
    database
        .execute("select pg_notify('patchbay_identity', 'k:jwt')")
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_rotation_is_noticed_by_no_client_on_any_host() -> anyhow::Result<()> {
    let world = World::new().await?;
    let hosts = [world.host(&PEOPLE).await?, world.host(&PEOPLE).await?];
    let host = &hosts[0];
    let body = verified(&world, host, "ada@example.com").await?;
    let old_token = text(&body["token"]);
    let old = kid(&old_token)?;
    // Clients that log in on one host, and go to the other one at once.
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = async |place: usize| {
        let (mut token, mut kids) = (old_token.clone(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            for host in &hosts {
                let status = profile(host, &token).await?;
                anyhow::ensure!(status == 200, "{status} with a token of {}", kid(&token)?);
                asked.fetch_add(1, Ordering::Relaxed);
            }
            let (status, body) = log_in(&hosts[place], "ada@example.com", PASSWORD).await?;
            anyhow::ensure!(status == 200, "{body}");
            token = text(&body["token"]);
            kids.push(kid(&token)?);
        }
        anyhow::Ok(kids)
    };
    let rotate = async {
        let command = ["--json", "key", "rotate", "jwt", "--reason", "a test"];
        let new = text(&json_of(host, &command).await?["kid"]);
        signs(host, &new).await?;
        let before = asked.load(Ordering::Relaxed);
        until(Duration::from_secs(20), "more requests", async || {
            Ok((asked.load(Ordering::Relaxed) > before + 40).then_some(()))
        })
        .await?;
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(new)
    };
    let (one, two, new) = futures::future::try_join3(client(0), client(1), rotate).await?;
    assert_ne!(new, old);
    for kids in [one, two] {
        assert_eq!(kids.last(), Some(&new), "new tokens are of the new key");
    }
    for host in &hosts {
        assert_eq!(profile(host, &old_token).await?, 200, "until it ends");
    }
    let listed = keys(host).await?;
    let before = listed.iter().find(|key| key["kid"] == old.as_str());
    let before = before.context("the key before")?;
    assert_eq!(before["state"], "verifies");
    let until_then: chrono::DateTime<chrono::Utc> = text(&before["verifiesUntil"]).parse()?;
    let minutes = (until_then - chrono::Utc::now()).num_seconds() / 60;
    assert!((14..=16).contains(&minutes), "{minutes}");
    // Once its last token has ended, it goes.
    let mut database = world.database().await?;
    sqlx::query("update patchbay.sealed_keys set verifies_until = now() where kid = $1")
        .bind(&old)
        .execute(&mut database)
        .await?;
    wake(&world).await?;
    until(Duration::from_secs(10), "the end of the key", async || {
        let is_gone = keys(host)
            .await?
            .iter()
            .all(|key| key["kid"] != old.as_str());
        Ok(is_gone.then_some(()))
    })
    .await?;
    assert_eq!(profile(host, &old_token).await?, 401);
    Ok(())
}

#[tokio::test]
async fn a_new_key_waits_for_a_host_that_does_not_know_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let old = kid(&text(
        &verified(&world, &host, "ada@example.com").await?["token"],
    ))?;
    let mut database = world.database().await?;
    database
        .execute("insert into patchbay.hosts (host, version, plugins, token_keys) values ('elsewhere:1', '0', '{}', '{}')")
        .await?;
    let (status, made) = host.post("/api/admin/keys/jwt/rotate", json!({})).await?;
    assert_eq!(
        (status, &made["data"]["state"]),
        (200, &json!("waits")),
        "{made}"
    );
    until(Duration::from_secs(10), "only that host", async || {
        let listed = keys(&host).await?;
        let made = listed
            .iter()
            .find(|key| key["kid"] == made["data"]["kid"])
            .context("the key")?;
        assert_eq!(made["state"], "waits", "{made}");
        Ok((made["missingOn"] == json!(["elsewhere:1"])).then_some(()))
    })
    .await?;
    let (status, again) = host.post("/api/admin/keys/jwt/rotate", json!({})).await?;
    assert_eq!(
        (status, &again["code"]),
        (409, &json!("conflict")),
        "{again}"
    );
    let (_, body) = log_in(&host, "ada@example.com", PASSWORD).await?;
    assert_eq!(
        kid(&text(&body["token"]))?,
        old,
        "the old one signs meanwhile"
    );
    database
        .execute("update patchbay.hosts set seen_at = now() - interval '1 minute' where host = 'elsewhere:1'")
        .await?;
    signs(&host, &text(&made["data"]["kid"])).await?;
    Ok(())
}

#[tokio::test]
async fn after_a_leak_all_keys_before_end_at_once_and_sessions_go_on() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, other) = (world.host(&PEOPLE).await?, world.host(&PEOPLE).await?);
    let body = verified(&world, &host, "ada@example.com").await?;
    let (token, refresh) = (text(&body["token"]), text(&body["refreshToken"]));
    for host in [&host, &other] {
        assert_eq!(profile(host, &token).await?, 200);
    }
    let refused = patchbay(&host, &["key", "rotate", "jwt", "--now"]).await?;
    assert_eq!(refused.status.code(), Some(4), "it asks first");
    assert_eq!(profile(&host, &token).await?, 200);
    let command = ["--json", "key", "rotate", "jwt", "--now", "--yes"];
    let made = json_of(&host, &command).await?;
    assert_eq!(profile(&host, &token).await?, 401, "at once");
    until(
        Duration::from_secs(1),
        "the end on the other host",
        async || Ok((profile(&other, &token).await? == 401).then_some(())),
    )
    .await?;
    let (status, body) = post(
        &other,
        "/api/auth/refresh",
        json!({ "refreshToken": refresh }),
    )
    .await?;
    assert_eq!(status, 200, "{body}");
    let token = text(&body["token"]);
    assert_eq!(kid(&token)?, text(&made["kid"]));
    assert_eq!(profile(&host, &token).await?, 200);
    let listed = keys(&host).await?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let forged = host.post("/api/admin/keys/jwt/replace?confirm=jwt", json!({}));
    assert_eq!(forged.await?.0, 400, "the confirmation is `all`");
    Ok(())
}

#[tokio::test]
async fn a_key_that_has_signed_for_thirty_days_is_replaced_by_the_leader() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    let old = kid(&text(
        &verified(&world, &host, "ada@example.com").await?["token"],
    ))?;
    let mut database = world.database().await?;
    database
        .execute("update patchbay.sealed_keys set signs_from = now() - interval '31 days' where purpose = 'jwt'")
        .await?;
    wake(&world).await?;
    let new = until(Duration::from_secs(20), "another key", async || {
        let keys = keys(&host).await?;
        let new = keys.iter().find(|key| key["state"] == "signs");
        let new = new.map(|key| text(&key["kid"]));
        Ok(new.filter(|kid| *kid != old))
    })
    .await?;
    let (actor, result): (String, Value) = sqlx::query_as(
        "select actor, result from patchbay.operator_actions where action = 'key.rotate'",
    )
    .fetch_one(&mut database)
    .await?;
    assert!(actor.starts_with("host "), "{actor}");
    assert_eq!(result["kid"], new.as_str());
    Ok(())
}

#[tokio::test]
async fn configured_keys_are_listed_and_not_replaced() -> anyhow::Result<()> {
    let world = World::new().await?;
    let secrets = "k1:0123456789abcdef0123456789abcdef-one,k2:0123456789abcdef0123456789abcdef-two";
    let env = [("PATCHBAY_PEOPLE_JWT_SECRETS", secrets)];
    let host = world.host(&with(&env)).await?;
    for path in ["rotate", "replace?confirm=all"] {
        let path = format!("/api/admin/keys/jwt/{path}");
        let (status, refused) = host.post(&path, json!({})).await?;
        assert_eq!(
            (status, &refused["code"]),
            (409, &json!("keys-configured")),
            "{refused}"
        );
        assert!(text(&refused["message"]).contains("people.jwt_secrets"));
    }
    let listed = keys(&host).await?;
    let listed: Vec<_> = listed
        .iter()
        .map(|key| (text(&key["kid"]), text(&key["state"])))
        .collect();
    let expected = [("k1", "signs"), ("k2", "verifies")];
    let expected = expected.map(|(kid, state)| (kid.to_owned(), state.to_owned()));
    assert_eq!(listed, expected);
    let printed = patchbay(&host, &["key", "list"]).await?;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.contains("in the configuration"), "{printed}");
    assert!(!printed.contains("0123456789"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn a_host_without_accounts_lists_its_keys_and_replaces_none() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    assert_eq!(host.get("/api/admin/keys").await?.0, 200);
    let (status, refused) = host.post("/api/admin/keys/jwt/rotate", json!({})).await?;
    assert_eq!((status, &refused["code"]), (404, &json!("accounts-off")));
    Ok(())
}
