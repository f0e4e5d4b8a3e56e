//! docs/operations/runbook-e.md as a drill: expired credentials, a schedule that is gone, a job that
//! cannot succeed, and no worker.

use anyhow::Context;
use serde_json::json;

use super::{CONFIGS, SOON, SYNC, Setting, learners, wanted};
use crate::alerts::{self, Receiver};
use crate::harness::{repository, until};
use crate::runbook::steps;

#[tokio::test]
async fn runbook_e_finds_and_mends_what_it_says() -> anyhow::Result<()> {
    let document = std::fs::read_to_string(repository().join("docs/operations/runbook-e.md"))?;
    let receiver = Receiver::new().await?;
    let webhook = receiver.url("webhook");
    let setting = Setting::with(&[
        ("PATCHBAY_ALERTS_EVERY_MS", "100"),
        ("PATCHBAY_ALERTS_WEBHOOK_URL", webhook.as_str()),
    ])
    .await?;
    setting
        .vendor
        .change_learners(|all| all.extend(learners(60, "rust")));
    let id = setting.config("rust", json!({})).await?;
    let other = setting.config("go", json!({})).await?;
    setting.sync(id).await?;
    let schedule = format!("mrlearn-sync-{id}");
    setting.ticking(&schedule).await?;
    let (_, plugins) = setting.host.get("/api/admin/plugins").await?;
    let digest = plugins["data"][0]["active"].as_str().unwrap_or_default();
    let digest = match digest {
        "" => {
            let path = "/api/admin/plugins/mrlearn/revisions";
            let (_, revisions) = setting.host.get(path).await?;
            let digest = revisions["data"][0]["digest"].as_str();
            digest.context("a digest")?.to_owned()
        }
        digest => digest.to_owned(),
    };
    let file = setting.world.dir.path().join("config.json");
    let mut body = wanted("rust", json!({}));
    body["credentials"]["key"] = json!("the-next-key");
    let input = json!({ "path": { "configId": id }, "body": body });
    std::fs::write(&file, input.to_string())?;
    let (file, number) = (file.to_string_lossy().into_owned(), id.to_string());
    let drill = async |letter: char, job: &str| {
        let names = [
            ("CONFIG", number.as_str()),
            ("FILE", file.as_str()),
            ("DIGEST", digest.as_str()),
            ("JOB", job),
        ];
        let steps = steps(&document, letter);
        anyhow::ensure!(!steps.is_empty(), "section {letter} has commands");
        for step in steps {
            step.run(&setting.host, &[], &names).await?;
        }
        anyhow::Ok(())
    };

    setting.vendor.set_key("the-next-key");
    let run = setting.sync(id).await?;
    assert_eq!(run["error"]["code"], "bad-credentials", "{run}");
    receiver.until_told("mrlearn", &["firing"]).await?;
    let messages = receiver.messages("/webhook", 200);
    let next = messages[0]["next"].as_str().unwrap_or_default().to_owned();
    assert!(next.contains(&format!("credential graphy-{id}")), "{next}");
    // Another config works with credentials of its own: that says nothing of this one.
    let mut body = wanted("go", json!({}));
    body["credentials"]["key"] = json!("the-next-key");
    let path = format!("{CONFIGS}/{other}");
    let (_, answer) = setting.asked("PUT", &path, body).await?;
    assert_eq!(answer["data"]["state"], "ok", "{answer}");
    let run = setting.sync(other).await?;
    assert_eq!(run["state"], "completed", "{run}");
    let recorded = format!(
        "select count(*) from patchbay.attempts where queue = '{SYNC}' and verdict = 'complete' \
         and calls @> '[{{\"credential\": \"graphy-{other}\"}}]'"
    );
    until(SOON, "the attempt in Postgres", async || {
        Ok((setting.count(&recorded).await? > 0).then_some(()))
    })
    .await?;
    // A round of the alerts has seen it when it tells of this.
    alerts::impatient(&setting.host).await?;
    let waits = json!({ "name": "job", "data": {} });
    setting.host.add("whatsappQueue", waits).await?;
    receiver.until_told("whatsappQueue", &["firing"]).await?;
    assert_eq!(receiver.told("mrlearn"), ["firing"]);
    drill('A', "").await?;
    assert_eq!(setting.state(id).await?, "ok");
    receiver
        .until_told("mrlearn", &["firing", "recovered"])
        .await?;

    let path = format!("/api/admin/schedules/{schedule}");
    let (status, answer) = setting.host.delete(&path).await?;
    assert_eq!(status, 200, "{answer}");
    drill('B', "").await?;

    let poison = json!({ "name": "sync", "data": { "configId": "seven" } });
    let job = setting.host.add(SYNC, poison).await?;
    setting.host.job_in(SYNC, &job, "failed").await?;
    drill('C', &job).await?;

    let stopped = "/api/admin/plugins/mrlearn/deactivate";
    let (status, answer) = setting.host.post(stopped, json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    let waiting = json!({ "name": "sync", "data": { "configId": id } });
    setting.host.add(SYNC, waiting).await?;
    drill('D', "").await?;
    setting.keeps_the_key().await
}
