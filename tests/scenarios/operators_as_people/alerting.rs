//! Alerts on operators.

use super::*;
use crate::cable::Cable;

const SOON: Duration = Duration::from_secs(20);

/// The reason of the alert that fires for this rule and subject.
async fn firing(host: &Host, rule: &str, subject: &str) -> anyhow::Result<Option<String>> {
    let (status, body) = host.get("/api/admin/alerts").await?;
    assert_eq!(status, 200, "{body}");
    let alerts = body["data"]["alerts"].as_array().context("alerts")?;
    let found = alerts
        .iter()
        .find(|alert| alert["rule"] == rule && alert["subject"] == subject);
    Ok(found.map(|alert| text(&alert["reason"])))
}

async fn until_fires(host: &Host, rule: &str, subject: &str) -> anyhow::Result<String> {
    until(SOON, rule, async || firing(host, rule, subject).await).await
}

#[tokio::test]
async fn a_new_owner_and_a_change_by_the_shared_login_after_it_are_told_also_by_a_host_that_hears_of_no_changes()
-> anyhow::Result<()> {
    let world = World::new().await?;
    // As behind a pooler that shares sessions: everything works but LISTEN.
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    cable.refuses.send_replace("LISTEN \"patchbay_identity\"");
    let more = [
        ("PATCHBAY_ALERTS_EVERY_MS", "100"),
        ("DATABASE_URL", url.as_str()),
    ];
    let host = world.host(&[&ENV[..], &more].concat()).await?;
    let rule = "/api/admin/alerts/rules/identity-stale";
    let (status, answer) = host.put(rule, json!({ "holdS": 0 })).await?;
    assert_eq!(status, 200, "{answer}");
    let mut ada = enrolled(&host, "ada", "owner", true).await?;
    let reason = until_fires(&host, "operator-new-owner", "ada").await?;
    assert!(reason.starts_with("ada has become an owner at"), "{reason}");
    enrolled(&host, "bob", "operator", true).await?;
    assert_eq!(firing(&host, "operator-new-owner", "bob").await?, None);
    // What was needed to make the first owner is no alert.
    let cookie = session(&host, &mut ada).await?;
    let role = json!({ "role": "owner" });
    let (status, answer) = with(
        &host,
        &cookie,
        "PUT",
        "/api/admin/operators/bob/role",
        Some(role),
    )
    .await?;
    assert_eq!(status, 200, "{answer}");
    until_fires(&host, "operator-new-owner", "bob").await?;
    // By now, a round has looked at the changes of before.
    let shared = crate::harness::USER;
    assert_eq!(firing(&host, "shared-login-used", shared).await?, None);
    host.add("q", json!({ "name": "a", "data": {} })).await?;
    let reason = until_fires(&host, "shared-login-used", shared).await?;
    assert!(
        reason.starts_with("The shared login operator has made 1 change in the last hour"),
        "{reason}"
    );
    // The host's name is the subject; there is one host.
    let stale = async || {
        let (_, body) = host.get("/api/admin/alerts").await?;
        let alerts = body["data"]["alerts"].as_array().context("alerts")?;
        let found = alerts
            .iter()
            .find(|alert| alert["rule"] == "identity-stale");
        anyhow::Ok(found.map(|alert| text(&alert["reason"])))
    };
    let reason = until(SOON, "identity-stale", stale).await?;
    assert!(
        reason.contains("has not heard for"),
        "what it means: {reason}"
    );
    cable.refuses.send_replace("");
    until(SOON, "its end", async || {
        Ok(stale().await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_token_and_a_vendor_key_that_expire_within_a_week_are_told_until_they_are_replaced()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let quick = ("PATCHBAY_ALERTS_EVERY_MS", "100");
    let host = world.host(&[&ENV[..], &[quick]].concat()).await?;
    let mut ada = enrolled(&host, "ada", "owner", true).await?;
    let cookie = session(&host, &mut ada).await?;
    for (name, days) in [("deploys", 60), ("short", 5)] {
        let body = json!({ "name": name, "scopes": ["all:read"], "days": days });
        let (status, made) = with(&host, &cookie, "POST", "/api/admin/tokens", Some(body)).await?;
        assert_eq!(status, 200, "{made}");
    }
    let two_months = 60_u64 * 86_400_000;
    let key = json!({ "name": "partner", "scopes": ["leads:read"], "expiresInMs": two_months });
    let (status, issued) = host.post("/api/admin/vendor-keys", key).await?;
    assert_eq!(status, 200, "{issued}");
    let prefix = text(&issued["data"]["key"]["prefix"]);
    let mut database = world.database().await?;
    // As it will be in 57 days.
    for table in [
        "operator_tokens where name = 'deploys'",
        "vendor_keys where true",
    ] {
        let (table, only) = table.split_once(" where ").context("a condition")?;
        let sql = format!(
            "update patchbay.{table} set created_at = created_at - interval '57 days', \
             expires_at = expires_at - interval '57 days' where {only}"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut database)
            .await?;
    }
    let reason = until_fires(&host, "token-expiring", "ada deploys").await?;
    assert!(
        reason.starts_with("Token deploys of ada expires on ") && reason.ends_with(", in 3 days"),
        "{reason}"
    );
    assert_eq!(
        firing(&host, "token-expiring", "ada short").await?,
        None,
        "it was made for a few days"
    );
    let (status, done) = with(&host, &cookie, "DELETE", "/api/admin/tokens/deploys", None).await?;
    assert_eq!(status, 200, "{done}");
    let key = format!("vendor {prefix}");
    let reason = until_fires(&host, "token-expiring", &key).await?;
    assert!(reason.starts_with(&format!("Vendor key {prefix} expires on ")));
    let rotate = format!("/api/admin/vendor-keys/{prefix}/rotate");
    let (status, done) = host.post(&rotate, json!({})).await?;
    assert_eq!(status, 200, "{done}");
    for subject in ["ada deploys", key.as_str()] {
        until(SOON, "the end of the alert", async || {
            let reason = firing(&host, "token-expiring", subject).await?;
            Ok(reason.is_none().then_some(()))
        })
        .await?;
    }
    Ok(())
}
