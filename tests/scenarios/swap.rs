//! Plugins are replaced while jobs run, and nothing is lost.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use sqlx::Row;

use crate::harness::{World, email_plugin, full_length, mail_job, until, variant};

#[tokio::test]
async fn five_revisions_one_after_another_lose_and_fail_no_mail() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let plugin = email_plugin()?;
    let total = if full_length() { 5_000 } else { 1_000 };
    for n in 0..total {
        host.add("emailQueue", json!({ "name": "send", "data": mail_job(n) }))
            .await?;
    }
    // Staged beforehand, so that only the swaps happen while jobs run.
    let mut digests = Vec::new();
    for revision in 0..5 {
        let (status, staged) = host.push(variant(&plugin, &format!("r{revision}"))).await?;
        anyhow::ensure!(status == 200, "push: {status} {staged}");
        digests.push(
            staged["data"]["digest"]
                .as_str()
                .context("digest")?
                .to_owned(),
        );
    }
    for digest in &digests {
        let enough = world.mail.count() + total / 10;
        let (status, answer) = host
            .post(
                "/api/admin/plugins/email/activate",
                json!({ "digest": digest, "grant": true }),
            )
            .await?;
        anyhow::ensure!(status == 200, "activate: {status} {answer}");
        until(
            Duration::from_secs(120),
            "further completions",
            async || Ok((world.mail.count() >= enough).then_some(())),
        )
        .await?;
    }
    let ids = until(Duration::from_secs(300), "all mails", async || {
        let ids: HashSet<String> = world
            .mail
            .list()
            .into_iter()
            .map(|mail| mail.message_id)
            .collect();
        Ok((ids.len() >= total).then_some(ids))
    })
    .await?;
    assert_eq!(ids.len(), total);
    let mut database = world.database().await?;
    let rows = until(
        Duration::from_secs(30),
        "all attempts in Postgres",
        async || {
            let rows = sqlx::query(
                "select revision, outcome, count(*) as n from patchbay.attempts group by 1, 2",
            )
            .fetch_all(&mut database)
            .await?;
            let recorded: i64 = rows.iter().map(|row| row.get::<i64, _>("n")).sum();
            Ok((recorded >= total as i64).then_some(rows))
        },
    )
    .await?;
    assert!(
        rows.iter()
            .all(|row| row.get::<String, _>("outcome") == "completed")
    );
    let ran: HashSet<String> = rows.iter().map(|row| row.get("revision")).collect();
    assert_eq!(
        ran,
        digests.into_iter().collect(),
        "every revision has attempts"
    );
    let (_, queues) = host.get("/api/admin/queues").await?;
    assert_eq!(queues["data"][0]["counts"]["failed"], 0);
    Ok(())
}

#[tokio::test]
async fn rollback_goes_back_and_a_broken_file_never_harms_the_incumbent() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let plugin = email_plugin()?;
    let first = host.deploy("email", plugin.clone()).await?;
    let second = host.deploy("email", variant(&plugin, "second")).await?;
    let (status, answer) = host
        .post("/api/admin/plugins/email/rollback", json!({}))
        .await?;
    assert_eq!(
        (status, answer["data"]["digest"].as_str()),
        (200, Some(first.as_str())),
        "{answer}"
    );
    assert_eq!(answer["data"]["previous"], second);

    let (status, answer) = host.push(plugin[..plugin.len() / 2].to_vec()).await?;
    assert_eq!(
        (status, &answer["code"]),
        (422, &json!("rejected")),
        "{answer}"
    );
    let (_, plugins) = host.get("/api/admin/plugins").await?;
    assert_eq!(plugins["data"][0]["digest"], first);
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    host.job_in("emailQueue", &id, "completed").await?;
    Ok(())
}
