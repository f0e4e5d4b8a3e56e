//! What is told and recorded of actions that change nothing, of what is undone, and of whom a change
//! comes from; and whether the next step that is named still helps.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::alerts;
use crate::bulk::{broken_plugin, failed_jobs};
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, PASSWORD, USER, World, binary, email_plugin, envelope, until};
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

#[tokio::test]
async fn who_set_a_limit_is_told_with_the_command_that_removes_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 2).await?;
    let one = ["queue", "concurrency", QUEUE, "1", "--reason", "INC-9"];
    says(&host, &one, 0, &[]).await?;
    // As a worker elsewhere takes one.
    let list = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let _taken: String = redis::cmd("LMOVE")
        .arg(list("wait"))
        .arg(list("active"))
        .arg("RIGHT")
        .arg("LEFT")
        .query_async(&mut world.redis().await?)
        .await?;
    let why = [
        "as many as the queue's limit over all workers allows (1). Set by operator at",
        ": INC-9",
        "patchbay queue concurrency plainQueue --none",
    ];
    let text = says(&host, &["queue", "why", QUEUE], 0, &why).await?;
    assert!(!text.contains("Last change"), "told already: {text}");
    says(&host, &["queue", "concurrency", QUEUE, "--none"], 0, &[]).await?;
    let removed = ["Last change: operator removed the limit of jobs at once"];
    says(&host, &["queue", "why", QUEUE], 0, &removed).await?;
    Ok(())
}

#[tokio::test]
async fn what_pausing_all_has_paused_is_found_afterwards_and_resuming_all_says_who_paused()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for queue in ["a", "b", "c"] {
        let job = json!({ "name": "work", "newQueue": true });
        host.add(queue, job).await?;
    }
    let own = ["queue", "pause", "c", "--reason", "INC-1"];
    says(&host, &own, 0, &["Paused: c"]).await?;
    let all = ["queue", "pause", "--all", "--yes", "--reason", "INC-2"];
    says(&host, &all, 0, &["Paused: 2 queues"]).await?;
    let list = [
        "--json",
        "activity",
        "--action",
        "queue.pause",
        "--limit",
        "1",
    ];
    let done = json_of(&host, &list).await?;
    assert_eq!(
        (&done[0]["details"]["queues"], &done[0]["count"]),
        (&json!(["a", "b"]), &json!(2)),
        "{done}"
    );
    let wide = ["-o", "wide", "activity", "--action", "queue.pause"];
    says(&host, &wide, 0, &[r#"{"queues":["a","b"]}"#]).await?;
    let paused = ["PAUSED BY", "operator", "INC-1", "INC-2"];
    says(&host, &["queue", "list", "--paused"], 0, &paused).await?;
    let several = ["queue", "resume", "a", "b"];
    says(&host, &several, 0, &["Resumed: a.", "Resumed: b."]).await?;
    let several = ["--json", "queue", "pause", "a", "b"];
    assert_eq!(json_of(&host, &several).await?["count"], 2);
    let unknown = ["queue", "pause", "a", "nosuch"];
    says(
        &host,
        &unknown,
        3,
        &["a was already paused", "No queue is called nosuch"],
    )
    .await?;
    let who = ["Resumed: 3 queues", "1 queue (c) by operator at", ": INC-1"];
    says(&host, &["queue", "resume", "--all", "--yes"], 0, &who).await?;
    Ok(())
}

#[tokio::test]
async fn jobs_with_their_old_data_back_wait_and_can_be_edited_again() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 2).await?;
    says(&host, &["queue", "pause", FAILING], 0, &[]).await?;
    let bulk = edited(&host).await?;
    let waits = ["2 restored", "--state waiting"];
    says(
        &host,
        &["bulk", "undo", &bulk, "--yes", "--watch"],
        0,
        &waits,
    )
    .await?;
    let again = [
        "--json",
        "bulk",
        "edit-and-retry",
        "queue=hostileQueue",
        "--state",
        "waiting",
        "--set",
        "message=again",
        "--yes",
        "--watch",
    ];
    let again = json_of(&host, &again).await?;
    assert_eq!(
        (&again["done"], &again["skipped"]),
        (&json!(2), &json!(0)),
        "{again}"
    );
    let shown = host.job_in(FAILING, &ids[0], "waiting").await?;
    assert!(
        shown["job"]["data"].to_string().contains("again"),
        "{shown}"
    );
    let undo = [
        "--json",
        "bulk",
        "undo",
        &again["id"].to_string(),
        "--watch",
    ];
    assert_eq!(json_of(&host, &undo).await?["restored"], 2);
    let shown = host.job_in(FAILING, &ids[0], "waiting").await?;
    assert!(
        shown["job"]["data"].to_string().contains("is missing"),
        "{shown}"
    );
    Ok(())
}

#[tokio::test]
async fn an_undo_is_offered_only_where_something_can_be_undone_and_a_watch_of_it_ends()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 2).await?;
    let bulk = edited(&host).await?;
    for id in &ids {
        host.job_in(FAILING, id, "failed").await?;
    }
    let none = ["cannot be undone: none of the 2 jobs", "has run since"];
    let text = says(&host, &["bulk", "show", &bulk, "--watch"], 0, &none).await?;
    assert!(!text.contains("can be undone until"), "{text}");
    let nothing = [
        "bulk",
        "edit-and-retry",
        "queue=hostileQueue",
        "--replace",
        "nosuch",
        "a",
        "b",
        "--yes",
        "--watch",
    ];
    let text = says(&host, &nothing, 0, &["2 skipped"]).await?;
    assert!(!text.contains("can be undone"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_saved_search_keeps_both_ages() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    let save = ["search", "save", "old", "--since", "48h", "--until", "24h"];
    says(&host, &save, 0, &["Saved: old"]).await?;
    let both = ["--since 2d --until 1d"];
    says(&host, &["search", "saved"], 0, &both).await?;
    let saved = json_of(&host, &["--json", "search", "saved"]).await?;
    assert_eq!(
        (&saved[0]["untilMs"], &saved[0]["filter"]),
        (&json!(86_400_000), &json!({})),
        "{saved}"
    );
    says(&host, &["search", "run", "old"], 0, &["No results"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_reader_that_is_gone_ends_every_command_alike_and_silently() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 2).await?;
    for args in [
        &["activity", "--csv"][..],
        &["activity"],
        &["job", "list", QUEUE, "waiting", "--csv"],
        &["search", "--state", "waiting", "queue=plainQueue", "--csv"],
        &["--json", "queue", "list"],
        &["history", "export"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let ended = tokio::process::Command::new(binary())
            .args(args)
            .env("PATCHBAY_URL", &host.url)
            .env("PATCHBAY_USER", USER)
            .env("PATCHBAY_PASSWORD", PASSWORD)
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), &*said), (Some(0), ""), "{args:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_option_of_another_command_is_no_value_and_the_options_are_named() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    let undo = ["bulk", "undo", "1", "--everything"];
    let text = says(
        &host,
        &undo,
        2,
        &["options of patchbay bulk undo: --yes, --reason"],
    )
    .await?;
    assert!(!text.contains(" -- "), "{text}");
    let show = ["plugin", "show", "email"];
    says(&host, &show, 2, &["did you mean patchbay plugin status?"]).await?;
    Ok(())
}

#[tokio::test]
async fn revealed_jobs_are_listed_with_their_data_also_for_a_spreadsheet() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    let reveal = ["job", "list", QUEUE, "waiting", "--reveal"];
    says(&host, &reveal, 0, &["DATA", r#"{"n":0}"#]).await?;
    let csv = [&reveal[..], &["--csv"]].concat();
    says(
        &host,
        &csv,
        0,
        &["id,name,added,attempts,failure,data", r#""{""n"":0}""#],
    )
    .await?;
    let hidden = run(&host, &["job", "list", QUEUE, "waiting"]).await?;
    assert!(!hidden.out.contains("DATA"), "{}", hidden.out);
    Ok(())
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_no_empty_list_and_an_unknown_queue_has_one_exit_code()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    for args in [
        &["queue", "why", "PLAINQUEUE"][..],
        &["search", "queue=PLAINQUEUE"],
        &["dead-letter", "list", "--queue", "PLAINQUEUE"],
        &["bulk", "retry", "queue=PLAINQUEUE", "--dry-run"],
    ] {
        says(&host, args, 3, &["Did you mean plainQueue?"]).await?;
    }
    let target = ["activity", "--target", "planQueue"];
    says(&host, &target, 4, &["Did you mean plainQueue?"]).await?;
    let trail = ["audit", "list", "--trail", "operater"];
    says(&host, &trail, 4, &["Did you mean operators?"]).await?;
    let actor = ["audit", "list", "--actor", "operatro"];
    says(&host, &actor, 4, &["Did you mean operator?"]).await?;
    let rule = [
        "alert",
        "rule",
        "set",
        "stalled",
        "--subject",
        "plianQueue",
        "--off",
    ];
    says(&host, &rule, 0, &["Warning:", "Did you mean plainQueue?"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_group_lists_each_job_once_with_those_that_still_fail_first() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 2).await?;
    group(&host, |group| group["failing"] == 2).await?;
    says(&host, &["job", "retry", FAILING, &ids[0]], 0, &[]).await?;
    let failed_again = group(&host, |group| group["failures"] == 3).await?;
    let id = failed_again["id"].to_string();
    let shown = json_of(&host, &["--json", "dead-letter", "show", &id]).await?;
    let sample = shown["sample"].as_array().context("jobs")?;
    assert_eq!(sample.len(), 2, "{shown}");
    assert!(
        sample.iter().all(|job| job["state"] == "failing"),
        "{shown}"
    );
    says(&host, &["dead-letter", "show", &id], 0, &["still fails"]).await?;
    Ok(())
}
