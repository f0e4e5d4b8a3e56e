//! The main job on real input: a mail goes from a producer through the sandbox to a mail server.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{World, email_plugin, mail_job, until};

#[tokio::test]
async fn a_mail_job_reaches_the_mail_server_and_is_remembered() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let digest = host.deploy("email", email_plugin()?).await?;
    let id = host.add("emailQueue", json!({ "name": "send", "data": mail_job(1) })).await?;
    let story = host.job_in("emailQueue", &id, "completed").await?;
    let mails = world.mail.list();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].subject, "Message 1");
    let sent: Value = serde_json::from_str(story["job"]["returnValue"].as_str().context("return value")?)?;
    assert!(sent["messageId"].as_str().is_some_and(|id| id.contains('@')), "{sent}");
    let path = format!("/api/admin/queues/emailQueue/jobs/{id}");
    let attempt = until(Duration::from_secs(10), "the attempt in Postgres", async || {
        Ok(host.get(&path).await?.1["data"]["attempts"].get(0).cloned())
    })
    .await?;
    assert_eq!(attempt["outcome"], "completed");
    assert_eq!(attempt["revision"], digest);
    Ok(())
}

#[tokio::test]
async fn a_bad_payload_fails_at_once_and_names_the_field() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let id = host.add("emailQueue", json!({ "name": "send", "data": { "subject": "x", "text": "y" } })).await?;
    let story = host.job_in("emailQueue", &id, "failed").await?;
    let reason = story["job"]["failedReason"].as_str().context("reason")?;
    assert!(reason.starts_with("invalid-input") && reason.contains("to"), "{reason}");
    assert_eq!(story["job"]["attemptsMade"], 1);
    Ok(())
}

#[tokio::test]
async fn node_bullmq_and_bull_board_see_their_job_done() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let interop = format!("{}/interop", env!("CARGO_MANIFEST_DIR"));
    let node = |script: &str| {
        let mut command = Command::new("node");
        command
            .arg(script)
            .current_dir(&interop)
            .env("REDIS_URL", &world.redis_url)
            .env("PREFIX", &world.prefix)
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    let output = tokio::time::timeout(Duration::from_secs(60), node("add-email.mjs").output()).await??;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let added: Value = serde_json::from_slice(&output.stdout)?;
    assert!(added["returnvalue"]["messageId"].is_string(), "{added}");
    assert_eq!(world.mail.count(), 1);

    let mut board = node("bull-board.mjs").spawn()?;
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(board.stdout.take().context("stdout")?));
    let port = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await??.context("a port")?;
    let url = format!(
        "http://127.0.0.1:{}/admin/queues/api/queues?activeQueue=emailQueue&status=completed&page=1&jobsPerPage=10",
        port.trim()
    );
    let listed: Value = host.http.get(url).send().await?.json().await?;
    let job = &listed["queues"][0]["jobs"][0];
    assert_eq!(job["id"], added["id"], "{listed}");
    assert_eq!(listed["queues"][0]["counts"]["completed"], 1);
    board.kill().await?;
    Ok(())
}
