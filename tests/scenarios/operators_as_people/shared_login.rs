//! What the shared login of the configuration opens, and the way back in.

use super::*;
use crate::harness::{PASSWORD as SHARED, USER};

async fn metrics(host: &Host) -> anyhow::Result<u16> {
    let request = host
        .http
        .get(format!("{}/metrics", host.url))
        .basic_auth(USER, Some(SHARED));
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test]
async fn the_shared_login_is_closed_step_by_step_once_an_owner_has_logged_in() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let (host, other) = (world.host(&ENV).await?, world.host(&ENV).await?);
    let set = async |mode: &str| host.put("/api/admin/basic", json!({ "mode": mode })).await;
    let (status, refused) = set("board").await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("conflict")),
        "nobody: {refused}"
    );
    let (_, told) = world.output(&["doctor"], &ENV).await?;
    assert!(
        told.contains("No owner yet") && told.contains("patchbay operator create"),
        "{told}"
    );
    let mut ada = enrolled(&host, "ada", "owner", false).await?;
    let (status, _) = set("board").await?;
    assert_eq!(status, 409, "has not logged in");
    let cookie = session(&host, &mut ada).await?;
    let (status, refused) = set("shut").await?;
    assert_eq!(status, 400, "{refused}");
    let (status, shown) = set("board").await?;
    assert_eq!(
        (status, &shown["data"]["mode"]),
        (200, &json!("board")),
        "{shown}"
    );
    let (status, refused) = host.get("/api/admin/queues").await?;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("basic-closed")),
        "{refused}"
    );
    assert!(
        text(&refused["message"]).contains("patchbay login"),
        "{refused}"
    );
    assert_eq!(metrics(&host).await?, 200);
    until(Duration::from_secs(1), "the other host", async || {
        Ok((other.get("/api/admin/queues").await?.0 == 403).then_some(()))
    })
    .await?;
    let change = json!({ "mode": "off" });
    let (status, shown) = with(&host, &cookie, "PUT", "/api/admin/basic", Some(change)).await?;
    assert_eq!(
        (status, &shown["data"]["ownersSignedIn"]),
        (200, &json!(1)),
        "{shown}"
    );
    assert_eq!(metrics(&host).await?, 403);
    let later = world.host(&ENV).await?;
    assert_eq!(
        later.get("/api/admin/queues").await?.0,
        403,
        "also after a start"
    );
    let (_, activity) = get(&host, &cookie, "/api/admin/activity?action=operator.basic").await?;
    assert_eq!(activity["data"][0]["actor"], "ada", "{activity}");
    Ok(())
}

#[tokio::test]
async fn who_is_locked_out_gets_a_link_from_a_machine_with_database_and_master_key()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let mut ada = enrolled(&host, "ada", "owner", true).await?;
    let cookie = session(&host, &mut ada).await?;
    let body = json!({ "name": "ci", "scopes": ["all:read"] });
    let (_, made) = with(&host, &cookie, "POST", "/api/admin/tokens", Some(body)).await?;
    let token = text(&made["data"]["secret"]);
    let change = json!({ "mode": "off" });
    with(&host, &cookie, "PUT", "/api/admin/basic", Some(change)).await?;
    let (exit, told) = world
        .output(&["operator", "recover", "ada", "--yes"], &[])
        .await?;
    assert_ne!(exit, Some(0), "without the master key: {told}");
    let (exit, told) = world.output(&["operator", "recover", "ada"], &ENV).await?;
    assert_eq!(exit, Some(4), "not confirmed: {told}");
    let (exit, told) = world
        .output(&["operator", "recover", "nobody", "--yes"], &ENV)
        .await?;
    assert_eq!(exit, Some(3), "{told}");
    assert_eq!(get(&host, &cookie, "/api/admin/session").await?.0, 200);
    let (exit, told) = world
        .output(
            &[
                "--json",
                "operator",
                "recover",
                "ada",
                "--yes",
                "--basic-on",
            ],
            &ENV,
        )
        .await?;
    assert_eq!(exit, Some(0), "{told}");
    let printed: Value = serde_json::from_str(&told)?;
    until(
        Duration::from_secs(1),
        "the end of the session",
        async || Ok((get(&host, &cookie, "/api/admin/session").await?.0 == 401).then_some(())),
    )
    .await?;
    let request = host
        .http
        .get(format!("{}/api/admin/queues", host.url))
        .bearer_auth(&token);
    assert_eq!(request.send().await?.status(), 401);
    until(Duration::from_secs(1), "the shared login", async || {
        Ok((host.get("/api/admin/queues").await?.0 == 200).then_some(()))
    })
    .await?;
    let mut again = enrol(&host, &text(&printed["data"]["link"])).await?;
    assert_ne!(again.totp_secret, ada.totp_secret);
    session(&host, &mut again).await?;
    let noted = entries(&world, "operator.recover").await?;
    assert_eq!(noted.len(), 1);
    assert!(noted[0].0.starts_with("host "), "{noted:?}");
    Ok(())
}
