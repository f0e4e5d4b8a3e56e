//! What is told and recorded of actions that change nothing, of what is undone, and of whom a change
//! comes from; and whether the next step that is named still helps.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::alerts;
use crate::bulk::{broken_plugin, failed_jobs};
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, email_plugin, envelope, until};
use crate::operators::{QUEUE, run, with_jobs};
use crate::truthful::says;

const FAILING: &str = "hostileQueue";
const SOON: Duration = Duration::from_secs(60);

/// Action, result and count of each recorded action, the oldest first.
async fn recorded(host: &Host, args: &[&str]) -> anyhow::Result<Vec<(String, String, Value)>> {
    let list = json_of(host, &[&["--json", "activity"], args].concat()).await?;
    let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = list
        .as_array()
        .context("a list")?
        .iter()
        .map(|one| {
            (
                text(one, "action"),
                text(one, "result"),
                one["count"].clone(),
            )
        })
        .collect();
    all.reverse();
    Ok(all)
}

async fn actions(host: &Host, args: &[&str]) -> anyhow::Result<Vec<String>> {
    let all = recorded(host, args).await?;
    Ok(all.into_iter().map(|(action, ..)| action).collect())
}

/// The only group of dead letters.
async fn group(host: &Host, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    until(SOON, "the group of dead letters", async || {
        let groups = json_of(host, &["--json", "dead-letter", "list", "--all"]).await?;
        Ok(Some(groups[0].clone()).filter(|group| group.is_object() && is(group)))
    })
    .await
}

async fn edited(host: &Host) -> anyhow::Result<String> {
    let edit = [
        "--json",
        "bulk",
        "edit-and-retry",
        "queue=hostileQueue",
        "--set",
        "message=other",
        "--yes",
        "--watch",
    ];
    let edited = json_of(host, &edit).await?;
    anyhow::ensure!(edited["done"] == 2, "{edited}");
    Ok(edited["id"].to_string())
}

#[tokio::test]
async fn an_undo_that_would_put_nothing_back_is_refused_with_the_reasons() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 2).await?;
    let bulk = edited(&host).await?;
    for id in &ids {
        // It runs with the new data, and fails again.
        host.job_in(FAILING, id, "failed").await?;
    }
    let reasons = [
        "Nothing was undone: none of the 2 jobs",
        "2 jobs: The job has run since it was edited",
    ];
    says(&host, &["bulk", "undo", &bulk], 4, &reasons).await?;
    let refused = patchbay(&host, &["--json", "bulk", "undo", &bulk]).await?;
    let refused = envelope(&refused.stderr)?;
    assert_eq!(refused["code"], "conflict", "{refused}");
    assert_eq!(refused["details"]["reasons"][0]["jobs"], 2, "{refused}");
    let shown = json_of(&host, &["--json", "bulk", "show", &bulk, "--jobs", "lost"]).await?;
    assert_eq!(
        (&shown["state"], &shown["jobs"]),
        (&json!("done"), &json!([])),
        "{shown}"
    );
    assert_eq!(
        recorded(&host, &["--target", FAILING, "--action", "bulk.undo"]).await?[0].1,
        "failed"
    );
    Ok(())
}

#[tokio::test]
async fn what_an_undo_leaves_as_it_is_is_not_lost() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 2).await?;
    says(&host, &["queue", "pause", FAILING], 0, &[]).await?;
    let bulk = edited(&host).await?;
    let other = ["job", "set-data", FAILING, &ids[1], r#"{"n":7}"#, "--yes"];
    says(&host, &other, 0, &[]).await?;
    let told = [
        "0 failed, 1 restored",
        "1 not undone: Its data was changed again since it was edited",
    ];
    says(&host, &["bulk", "undo", &bulk, "--watch"], 0, &told).await?;
    let list = ["--json", "bulk", "show", &bulk, "--jobs", "not-undone"];
    let shown = json_of(&host, &list).await?;
    assert_eq!(shown["jobs"][0]["jobId"], ids[1].as_str(), "{shown}");
    assert_eq!(
        shown["skipped"], 0,
        "the operation has skipped none: {shown}"
    );
    let timeline = ["job", "timeline", FAILING, &ids[1]];
    says(&host, &timeline, 0, &["edit not undone, the job stays as"]).await?;
    let last = "gave 1 job of the queue the data from before an edit back (bulk operation";
    says(&host, &["queue", "why", FAILING], 0, &[last]).await?;
    Ok(())
}

#[tokio::test]
async fn the_activity_of_a_queue_includes_bulk_operations_on_its_jobs() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 3).await?;
    // Its filter does not name the queue.
    let job = format!("job={}", ids[0]);
    let remove = [
        "--json", "bulk", "remove", &job, "--state", "waiting", "--yes", "--watch",
    ];
    let first = json_of(&host, &remove).await?["id"].to_string();
    says(
        &host,
        &["bulk", "undo", &first, "--watch"],
        0,
        &["1 restored"],
    )
    .await?;
    let last = "Last change: operator put back 1 removed job of the queue (bulk operation";
    says(&host, &["queue", "why", QUEUE], 0, &[last]).await?;
    let some = [
        "--json",
        "bulk",
        "remove",
        "queue=plainQueue",
        "--state",
        "waiting",
        "--first",
        "1",
        "--yes",
        "--watch",
    ];
    let second = json_of(&host, &some).await?["id"].to_string();
    says(&host, &["bulk", "cancel", &second], 0, &["cancelled"]).await?;
    let of_queue = ["--target", QUEUE, "--action", "bulk"];
    assert_eq!(
        actions(&host, &of_queue).await?,
        ["bulk.remove", "bulk.undo", "bulk.remove", "bulk.cancel"]
    );
    let of_job = format!("{QUEUE}/{}", ids[0]);
    assert_eq!(
        actions(&host, &["--target", &of_job]).await?[..3],
        ["job.add", "bulk.remove", "bulk.undo"]
    );
    let (_, page) = host
        .get(&format!(
            "/api/admin/activity?target={QUEUE}&action=bulk.undo"
        ))
        .await?;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1), "{page}");
    Ok(())
}

#[tokio::test]
async fn what_changes_nothing_is_recorded_as_without_effect_and_is_no_last_change()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    for args in [
        &["queue", "pause", QUEUE][..],
        &["queue", "pause", QUEUE],
        &["queue", "resume", QUEUE],
        &["queue", "resume", QUEUE],
        &["queue", "concurrency", QUEUE, "3"],
        &["queue", "concurrency", QUEUE, "3"],
        &[
            "schedule",
            "add",
            "nightly",
            QUEUE,
            "work",
            "--cron",
            "0 3 * * *",
        ],
        &["schedule", "pause", "nightly"],
        &["schedule", "pause", "nightly"],
        &["schedule", "resume", "nightly"],
        &["schedule", "resume", "nightly"],
    ] {
        says(&host, args, 0, &[]).await?;
    }
    let clean = format!("/api/admin/queues/{QUEUE}/clean");
    let (status, cleaned) = host.post(&clean, json!({ "state": "failed" })).await?;
    anyhow::ensure!(status == 200, "{cleaned}");
    let of = async |action: &str| recorded(&host, &["--target", QUEUE, "--action", action]).await;
    let effects = |rows: Vec<(String, String, Value)>| {
        rows.into_iter()
            .map(|(_, result, _)| result)
            .collect::<Vec<_>>()
    };
    for action in [
        "queue.pause",
        "queue.resume",
        "queue.concurrency",
        "schedule.pause",
        "schedule.resume",
    ] {
        assert_eq!(
            effects(of(action).await?),
            ["done", "no-effect"],
            "{action}"
        );
    }
    let clean = of("queue.clean").await?;
    assert_eq!(
        (clean[0].1.as_str(), &clean[0].2),
        ("no-effect", &json!(0)),
        "{clean:?}"
    );
    let pauses = [
        "--json",
        "activity",
        "--result",
        "no-effect",
        "--action",
        "queue.pause",
    ];
    let pauses = json_of(&host, &pauses).await?;
    assert_eq!(pauses[0]["noEffect"], "was already paused", "{pauses}");
    let shown = run(&host, &["activity", "--action", "queue.pause"]).await?;
    assert!(
        shown.out.contains("no effect: was already paused"),
        "{}",
        shown.out
    );
    let why = says(&host, &["queue", "why", QUEUE], 0, &["Last change: "]).await?;
    assert!(
        why.contains("resumed schedule nightly") && !why.contains("removed 0"),
        "{why}"
    );
    Ok(())
}

#[tokio::test]
async fn pausing_all_queues_keeps_who_paused_one_before_and_names_those_that_it_paused()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    host.add("otherQueue", json!({ "name": "work" })).await?;
    let first = ["queue", "pause", QUEUE, "--reason", "INC-7"];
    says(&host, &first, 0, &[]).await?;
    let all = ["queue", "pause", "--all", "--yes", "--reason", "night"];
    let parts = [
        "Paused: 1 queue (otherQueue)",
        "left as they were: 1 queue (plainQueue)",
        "patchbay queue resume QUEUE",
    ];
    let told = says(&host, &all, 0, &parts).await?;
    assert!(!told.contains("every queue"), "{told}");
    let why = says(&host, &["queue", "why", QUEUE], 0, &[": INC-7"]).await?;
    assert!(!why.contains("night"), "{why}");
    says(&host, &["queue", "why", "otherQueue"], 0, &[": night"]).await?;
    let parts = ["Nothing has changed: every queue was already paused"];
    says(&host, &all, 0, &parts).await?;
    says(&host, &["queue", "why", "otherQueue"], 0, &[": night"]).await?;
    for (queue, pauses) in [(QUEUE, 1), ("otherQueue", 1)] {
        let of = ["--target", queue, "--action", "queue.pause"];
        assert_eq!(recorded(&host, &of).await?.len(), pauses, "{queue}");
    }
    let resume = ["queue", "resume", "--all", "--yes"];
    says(&host, &resume, 0, &["Resumed: 2 queues"]).await?;
    says(&host, &resume, 0, &["Nothing has changed: 2 queues were"]).await?;
    let every = recorded(&host, &["--target", "*"]).await?;
    let results: Vec<(&str, &Value)> = every
        .iter()
        .map(|(_, result, count)| (result.as_str(), count))
        .collect();
    assert_eq!(
        results,
        [
            ("done", &json!(1)),
            ("no-effect", &json!(0)),
            ("done", &json!(2)),
            ("no-effect", &json!(0))
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_push_is_recorded_under_the_name_of_its_plugin() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let plugin = email_plugin()?;
    let (status, staged) = host.push(plugin.clone()).await?;
    anyhow::ensure!(status == 200, "{staged}");
    let (status, _) = host.push(plugin[..2_000].to_vec()).await?;
    anyhow::ensure!(status != 200, "a broken file");
    let pushes = json_of(&host, &["--json", "activity", "--action", "plugin.push"]).await?;
    assert_eq!(
        (&pushes[1]["target"], &pushes[0]["target"]),
        (&json!("email"), &pushes[0]["details"]["digest"]),
        "what cannot be read has only its digest: {pushes}"
    );
    let of = json_of(&host, &["--json", "activity", "--target", "email"]).await?;
    assert_eq!(of[0]["details"]["digest"], staged["data"]["digest"], "{of}");
    Ok(())
}

#[tokio::test]
async fn a_job_names_the_schedule_whose_run_has_added_it_and_an_original_its_copies()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 1).await?;
    let add = [
        "schedule",
        "add",
        "nightly",
        QUEUE,
        "work",
        "--cron",
        "0 3 * * *",
    ];
    says(&host, &add, 0, &[]).await?;
    let ran = ["--json", "schedule", "run", "nightly", "--reason", "INC-5"];
    let ran = json_of(&host, &ran).await?;
    let id = ran["id"].as_str().context("an id")?;
    let parts = ["Schedule: nightly, run by operator at 20", ": INC-5"];
    says(&host, &["job", "show", QUEUE, id], 0, &parts).await?;
    let parts = ["added for schedule nightly, run by operator: INC-5"];
    says(&host, &["job", "timeline", QUEUE, id], 0, &parts).await?;
    let job = format!("{QUEUE}/{id}");
    assert_eq!(actions(&host, &["--target", &job]).await?, ["schedule.run"]);

    let original = ids[0].as_str();
    let copy = ["--json", "job", "duplicate", QUEUE, original];
    let copy = json_of(&host, &copy).await?;
    let copy = copy["id"].as_str().context("an id")?;
    let parts = [format!("Copied to: {QUEUE} {copy}, made by operator at 20")];
    let parts = parts.each_ref().map(String::as_str);
    says(&host, &["job", "show", QUEUE, original], 0, &parts).await?;
    let parts = [format!("duplicated as {QUEUE} {copy} by operator")];
    let parts = parts.each_ref().map(String::as_str);
    says(&host, &["job", "timeline", QUEUE, original], 0, &parts).await?;
    Ok(())
}

#[tokio::test]
async fn failed_jobs_of_acknowledged_groups_are_told_apart_and_a_second_one_changes_nothing()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 2).await?;
    let id = group(&host, |group| group["failing"] == 2).await?["id"].to_string();
    let why = ["queue", "why", FAILING];
    says(&host, &why, 0, &["2 jobs failed in the last hour"]).await?;
    let ack = ["dead-letter", "ack", &id];
    says(&host, &ack, 0, &["is acknowledged by operator\n"]).await?;
    says(&host, &ack, 0, &["Nothing has changed"]).await?;
    let told = "Redis holds 2 failed jobs of this queue, all of them in acknowledged groups";
    let text = says(&host, &why, 0, &[told]).await?;
    assert!(!text.contains("none of the last hour"), "{text}");
    let of = ["--target", FAILING, "--action", "dead-letter"];
    let results: Vec<String> = recorded(&host, &of)
        .await?
        .into_iter()
        .map(|row| row.1)
        .collect();
    assert_eq!(results, ["done", "no-effect"]);
    // Somebody removes them, and nobody is told to add them again.
    let clean = [
        "queue", "clean", FAILING, "failed", "--yes", "--reason", "INC-4",
    ];
    says(&host, &clean, 0, &["Removed: 2 failed jobs"]).await?;
    let show = ["dead-letter", "show", &id];
    let parts = [
        "operator removed failed jobs of the queue at 20",
        "(queue.clean): INC-4",
    ];
    let text = says(&host, &show, 0, &parts).await?;
    assert!(!text.contains("add them again"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_breaker_that_somebody_holds_open_keeps_who_and_why() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let open = |why| ["breaker", "open", "email", "smtp", "--reason", why];
    let close = ["breaker", "close", "email", "smtp", "--reason", "it works"];
    says(&host, &open("INC-1"), 0, &["open, by operator: INC-1"]).await?;
    let parts = ["open, by operator: INC-1", "Nothing has changed"];
    says(&host, &open("INC-2"), 0, &parts).await?;
    says(&host, &close, 0, &["closed"]).await?;
    says(&host, &close, 0, &["closed", "Nothing has changed"]).await?;
    let of = ["--target", "email", "--action", "breaker"];
    let results: Vec<String> = recorded(&host, &of)
        .await?
        .into_iter()
        .map(|row| row.1)
        .collect();
    assert_eq!(results, ["done", "no-effect", "done", "no-effect"]);
    Ok(())
}

#[tokio::test]
async fn where_the_same_data_fails_again_the_next_step_is_to_change_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let mail = json!({ "to": "x at example.com", "subject": "Hello", "text": "It works" });
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail }))
        .await?;
    host.job_in("emailQueue", &id, "failed").await?;
    let group = group(&host, |group| group["failing"] == 1).await?;
    assert_eq!(group["code"], "invalid-input", "{group}");
    let parts = [
        "With the same data these jobs fail again (invalid-input)",
        "patchbay bulk edit-and-retry dead-letter=",
    ];
    let show = ["dead-letter", "show", &group["id"].to_string()];
    says(&host, &show, 0, &parts).await?;
    Ok(())
}

#[tokio::test]
async fn an_alert_whose_cause_is_gone_says_so_at_once() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, alerts::Receiver::new().await?);
    let host = alerts::host(&world, &receiver, &[]).await?;
    let set = [
        "alert",
        "rule",
        "set",
        "oldest-waiting",
        "--threshold",
        "0.1",
        "--for",
        "5s",
    ];
    says(&host, &set, 0, &[]).await?;
    let id = host.add("idleQueue", json!({ "name": "work" })).await?;
    let listed = async || {
        let overview = json_of(&host, &["--json", "alert", "list"]).await?;
        anyhow::Ok(overview["alerts"][0].clone())
    };
    let firing = until(SOON, "it fires", async || {
        let alert = listed().await?;
        Ok((alert["state"] == "firing").then_some(alert))
    })
    .await?;
    assert_eq!(firing["next"], "patchbay queue why idleQueue", "{firing}");
    assert!(firing["endsWithinS"].is_null(), "{firing}");
    let path = format!("/api/admin/queues/idleQueue/jobs/{id}");
    let (status, answer) = host.delete(&path).await?;
    anyhow::ensure!(status == 200, "{answer}");
    let gone = listed().await?;
    assert!(
        gone["endsWithinS"].as_u64() <= Some(6) && gone["endsWithinS"].is_number(),
        "{gone}"
    );
    assert!(gone["next"].is_null(), "{gone}");
    assert!(
        gone["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("1 job waited")),
        "{gone}"
    );
    let status = run(&host, &["status"]).await?;
    assert!(
        status.out.contains("the cause is gone") || !status.out.contains("oldest-waiting"),
        "{}",
        status.out
    );
    until(SOON, "it has ended", async || {
        Ok(listed().await?.is_null().then_some(()))
    })
    .await
}
