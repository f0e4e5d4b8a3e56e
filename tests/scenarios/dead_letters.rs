//! Dead letters, from the first failure to the last job repaired.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bulk::{broken_plugin, bulk_in, failed_jobs, mended_plugin};
use crate::commands::{json_of, patchbay};
use crate::harness::{World, until, variant};

const QUEUE: &str = "hostileQueue";

#[tokio::test]
async fn a_group_of_failures_is_read_mended_and_retried_ten_first() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let broken = host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 25).await?;
    host.add(QUEUE, json!({ "name": "panic", "data": {} }))
        .await?;
    let groups = until(
        Duration::from_secs(60),
        "both groups are recorded",
        async || {
            let groups = json_of(&host, &["--json", "dead-letter", "list"]).await?;
            Ok(
                (groups.as_array().map(Vec::len) == Some(2) && groups[1]["jobs"] == 25)
                    .then_some(groups),
            )
        },
    )
    .await?;
    assert_eq!(
        (&groups[0]["code"], &groups[1]["message"]),
        (&json!("trapped"), &json!("on-request: lead # is missing"))
    );
    let panics = json_of(
        &host,
        &[
            "--json",
            "dead-letter",
            "show",
            &groups[0]["id"].to_string(),
        ],
    )
    .await?;
    assert!(
        panics["stack"]
            .as_str()
            .is_some_and(|stack| stack.contains("panic_here")),
        "{panics}"
    );
    let id = groups[1]["id"].to_string();
    let shown = json_of(&host, &["--json", "dead-letter", "show", &id]).await?;
    assert_eq!(
        (&shown["revision"], &shown["repaired"]),
        (&json!(broken), &json!(0))
    );
    assert_eq!(shown["sample"].as_array().map(Vec::len), Some(10));
    json_of(&host, &["--json", "dead-letter", "assign", &id, "asha"]).await?;
    json_of(
        &host,
        &[
            "--json",
            "dead-letter",
            "note",
            &id,
            "the leads come tomorrow",
        ],
    )
    .await?;
    let acknowledged = json_of(&host, &["--json", "dead-letter", "ack", &id]).await?;
    assert_eq!(
        (
            &acknowledged["assignee"],
            &acknowledged["sinceAcknowledged"]
        ),
        (&json!("asha"), &json!(0))
    );

    host.deploy("hostile", mended_plugin()?).await?;
    let begun = json_of(
        &host,
        &[
            "--json",
            "dead-letter",
            "retry",
            &id,
            "--first",
            "10",
            "--yes",
            "--watch",
        ],
    )
    .await?;
    assert_eq!(
        (&begun["state"], &begun["matched"], &begun["done"]),
        (&json!("paused"), &json!(25), &json!(10))
    );
    json_of(
        &host,
        &["--json", "bulk", "resume", &begun["id"].to_string()],
    )
    .await?;
    let ended = bulk_in(&host, &begun["id"], &["done"]).await?;
    assert_eq!(
        (&ended["done"], &ended["skipped"]),
        (&json!(25), &json!(0)),
        "{ended}"
    );
    for job in &ids {
        host.job_in(QUEUE, job, "completed").await?;
    }
    until(
        Duration::from_secs(60),
        "the group is repaired",
        async || {
            let shown = json_of(&host, &["--json", "dead-letter", "show", &id]).await?;
            Ok((shown["repaired"] == 25).then_some(()))
        },
    )
    .await?;
    let again = patchbay(&host, &["dead-letter", "retry", &id, "--yes"]).await?;
    assert_eq!(
        again.status.code(),
        Some(3),
        "none of them is failed any more"
    );
    Ok(())
}

#[tokio::test]
async fn an_acknowledged_group_stays_so_and_another_revision_is_another_group() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 1).await?;
    let listed = async |count: usize, ready: &dyn Fn(&Value) -> bool| {
        until(
            Duration::from_secs(60),
            "the groups are recorded",
            async || {
                let (_, answer) = host.get("/api/admin/dead-letters").await?;
                let groups = answer["data"].clone();
                Ok(
                    (groups.as_array().map(Vec::len) == Some(count) && ready(&groups))
                        .then_some(groups),
                )
            },
        )
        .await
    };
    let id = listed(1, &|_| true).await?[0]["id"].clone();
    host.post(
        &format!("/api/admin/dead-letters/{id}/acknowledge"),
        json!({}),
    )
    .await?;
    failed_jobs_more(&host, 1).await?;
    let groups = listed(1, &|groups| groups[0]["jobs"] == 2).await?;
    assert_eq!(groups[0]["sinceAcknowledged"], 1, "{groups}");
    let open = format!("patchbay_dead_letters{{queue=\"{QUEUE}\"}}");
    assert!(host.metrics().await?.contains(&format!("{open} 0")));
    host.deploy("hostile", variant(&broken_plugin()?, "second"))
        .await?;
    failed_jobs_more(&host, 1).await?;
    let groups = listed(2, &|_| true).await?;
    assert!(
        groups[0]["acknowledgedAt"].is_null() && groups[1]["id"] == id,
        "open ones first: {groups}"
    );
    assert!(host.metrics().await?.contains(&format!("{open} 1")));
    let (_, shown) = host.get(&format!("/api/admin/dead-letters/{id}")).await?;
    assert_eq!(
        shown["data"]["elsewhere"][0]["id"], groups[0]["id"],
        "{shown}"
    );
    let (_, reopened) = host
        .post(
            &format!("/api/admin/dead-letters/{id}/unacknowledge"),
            json!({}),
        )
        .await?;
    assert!(reopened["data"]["acknowledgedAt"].is_null(), "{reopened}");
    let long = "x".repeat(3_000);
    let (status, _) = host
        .put(
            &format!("/api/admin/dead-letters/{id}/note"),
            json!({ "note": long }),
        )
        .await?;
    assert_eq!(status, 400);
    Ok(())
}

async fn failed_jobs_more(host: &crate::harness::Host, count: usize) -> anyhow::Result<()> {
    for n in 0..count {
        let data = json!({ "n": n, "retry": "never", "message": format!("lead {n} is missing") });
        let id = host
            .add(QUEUE, json!({ "name": "fail", "data": data }))
            .await?;
        host.job_in(QUEUE, &id, "failed").await?;
    }
    Ok(())
}
