//! A plugin's asks wait for an operator, and grants can be revoked.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::harness::{Host, World, hostile_plugin, hostile_plugin_with, until, variant};

const QUEUE: &str = "hostileQueue";
const ACTIVATE: &str = "/api/admin/plugins/hostile/activate";
const GRANTS: &str = "/api/admin/plugins/hostile/grants";

async fn staged(host: &Host, component: Vec<u8>) -> anyhow::Result<Value> {
    let (status, answer) = host.push(component).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok(answer["data"]["digest"].clone())
}

async fn grants(host: &Host) -> anyhow::Result<Vec<Value>> {
    Ok(host.get(GRANTS).await?.1["data"]
        .as_array()
        .context("a list")?
        .clone())
}

/// Runs a job that uses the key-value store; returns its failure, if any.
async fn kv(host: &Host) -> anyhow::Result<Option<String>> {
    let id = host.add(QUEUE, json!({ "name": "kv" })).await?;
    let path = format!("/api/admin/queues/{QUEUE}/jobs/{id}");
    until(Duration::from_secs(20), "its end", async || {
        let job = host.get(&path).await?.1["data"]["job"].clone();
        Ok(match job["state"].as_str() {
            Some("completed") => Some(None),
            Some("failed") => Some(job["failedReason"].as_str().map(str::to_owned)),
            _ => None,
        })
    })
    .await
}

#[tokio::test]
async fn a_revision_that_asks_for_more_waits_and_one_that_asks_for_the_same_does_not()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let first = staged(&host, hostile_plugin()?).await?;
    let (status, refused) = host.post(ACTIVATE, json!({ "digest": first })).await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("not-granted")),
        "{refused}"
    );
    let missing = json!([
        "enqueue otherQueue",
        "http GET http://127.0.0.1:9/** at 127.0.0.0/8",
        "kv",
        "secret TOKEN"
    ]);
    assert_eq!(refused["details"]["missing"], missing);
    let (status, activated) = host
        .post(ACTIVATE, json!({ "digest": first, "grant": true }))
        .await?;
    assert_eq!(
        (status, &activated["data"]["newlyGranted"]),
        (200, &missing),
        "{activated}"
    );

    let same = staged(&host, variant(&hostile_plugin()?, "same")).await?;
    let (status, activated) = host.post(ACTIVATE, json!({ "digest": same })).await?;
    assert_eq!(
        (status, &activated["data"]["newlyGranted"]),
        (200, &json!([])),
        "{activated}"
    );

    let more = hostile_plugin_with(|manifest| manifest + "\n[[secrets]]\nname = \"SECOND\"\n")?;
    let more = staged(&host, more).await?;
    let (status, refused) = host.post(ACTIVATE, json!({ "digest": more })).await?;
    assert_eq!(
        (status, &refused["details"]["missing"]),
        (409, &json!(["secret SECOND"])),
        "{refused}"
    );
    assert_eq!(
        host.get("/api/admin/plugins").await?.1["data"][0]["digest"],
        same,
        "the incumbent stays"
    );
    assert_eq!(
        host.post(GRANTS, json!({ "asks": ["secret THIRD"] }))
            .await?
            .0,
        404,
        "a typo grants nothing"
    );
    assert_eq!(
        host.post(GRANTS, json!({ "asks": ["secret SECOND"] }))
            .await?
            .0,
        200
    );
    assert_eq!(host.post(ACTIVATE, json!({ "digest": more })).await?.0, 200);

    let (status, answer) = host
        .post(
            &format!("{GRANTS}/revoke"),
            json!({ "asks": ["secret SECOND", "kv"] }),
        )
        .await?;
    assert_eq!(
        (status, &answer["data"]),
        (200, &json!(["kv", "secret SECOND"])),
        "{answer}"
    );
    assert_eq!(
        host.post(&format!("{GRANTS}/revoke"), json!({ "asks": ["kv"] }))
            .await?
            .0,
        404,
        "not granted any more"
    );
    let (status, refused) = host
        .post("/api/admin/plugins/hostile/rollback", json!({}))
        .await?;
    assert_eq!(
        (status, &refused["details"]["missing"]),
        (409, &json!(["kv"])),
        "{refused}"
    );
    Ok(())
}

#[tokio::test]
async fn a_revoked_grant_is_gone_from_the_next_call_on_here_and_on_other_hosts_within_a_second()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // With queues of its own, so that its calls can be counted separately.
    let prefix = format!("{}-other", world.prefix);
    let other = world.host(&[("PATCHBAY_REDIS_PREFIX", &prefix)]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    assert_eq!(kv(&host).await?, None);
    until(
        Duration::from_secs(10),
        "the other host has the plugin",
        async || Ok(kv(&other).await?.is_none().then_some(())),
    )
    .await?;

    let asks = json!({ "asks": ["kv"] });
    assert_eq!(
        host.post(&format!("{GRANTS}/revoke"), asks.clone())
            .await?
            .0,
        200
    );
    let revoked = Instant::now();
    let reason = kv(&host).await?.context("denied")?;
    assert!(
        reason.contains("an operator has not granted") && reason.contains("kv"),
        "{reason}"
    );
    until(
        Duration::from_secs(1),
        "denied on the other host",
        async || Ok(kv(&other).await?),
    )
    .await?;
    println!(
        "denied on the other host {:?} after the answer",
        revoked.elapsed()
    );

    assert_eq!(host.post(GRANTS, asks).await?.0, 200);
    assert_eq!(kv(&host).await?, None, "restored without a swap");
    Ok(())
}

#[tokio::test]
async fn grants_are_listed_with_who_asks_who_granted_and_how_often_they_were_used()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    kv(&host).await?;
    let used = until(Duration::from_secs(20), "the uses are stored", async || {
        Ok(grants(&host)
            .await?
            .into_iter()
            .find(|grant| grant["ask"] == "kv" && grant["uses"] != 0))
    })
    .await?;
    assert_eq!(
        (&used["grantedBy"], &used["askedByActive"]),
        (&json!("operator"), &json!(true))
    );
    assert!(used["lastUsed"].is_string(), "{used}");
    let unused = grants(&host)
        .await?
        .into_iter()
        .find(|grant| grant["ask"] == "secret TOKEN")
        .context("listed")?;
    assert_eq!(
        (&unused["uses"], &unused["lastUsed"]),
        (&json!(0), &Value::Null)
    );
    Ok(())
}
