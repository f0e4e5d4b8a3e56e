//! What commands answer where something was done before, was removed, or is mistyped.

use std::time::Duration;

use anyhow::Context;
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::bulk::{broken_plugin, bulk_in, failed_jobs};
use crate::commands::json_of;
use crate::harness::{Host, PASSWORD, USER, World, binary, until};
use crate::operators::{QUEUE, run, with_jobs};

/// Runs a command, and checks its exit code and that its output has all these parts.
async fn says(host: &Host, args: &[&str], code: i32, parts: &[&str]) -> anyhow::Result<()> {
    let printed = run(host, args).await?;
    let text = format!("{}{}", printed.out, printed.err);
    anyhow::ensure!(
        printed.code == Some(code),
        "{args:?}: {:?} {text}",
        printed.code
    );
    for part in parts {
        anyhow::ensure!(text.contains(part), "{args:?} lacks {part:?}: {text}");
    }
    Ok(())
}

/// Removes a waiting job by a bulk operation, and returns the operation's number.
async fn remove(host: &Host, id: &str) -> anyhow::Result<Value> {
    let filter = json!({ "queue": QUEUE, "job": id });
    let request = json!({ "kind": "remove", "state": "waiting", "filter": filter });
    let (_, begun) = host.post("/api/admin/bulk", request).await?;
    let bulk = begun["data"]["id"].clone();
    bulk_in(host, &bulk, &["done"]).await?;
    Ok(bulk)
}

/// Waits until the history has so many failed jobs.
async fn recorded(host: &Host, jobs: u64) -> anyhow::Result<()> {
    let count = "/api/admin/history/count?queue=hostileQueue&verdict=fail";
    until(
        Duration::from_secs(30),
        "the history of the jobs",
        async || {
            let (_, counted) = host.get(count).await?;
            Ok((counted["data"]["jobs"] == jobs).then_some(()))
        },
    )
    .await
}

/// Waiting and removed jobs, and the age of the oldest waiting one.
async fn counts(host: &Host) -> anyhow::Result<(u64, u64, Option<u64>)> {
    let (_, queue) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
    let counts = &queue["data"]["counts"];
    Ok((
        counts["waiting"].as_u64().context("a count")?,
        counts["removed"].as_u64().unwrap_or(0),
        queue["data"]["oldestWaitingMs"].as_u64(),
    ))
}

#[tokio::test]
async fn removed_waiting_jobs_are_counted_apart_and_survive_a_clean_and_a_drain()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 5).await?;
    let first = remove(&host, &ids[0]).await?;
    let (waiting, removed, _) = counts(&host).await?;
    assert_eq!((waiting, removed), (4, 1));
    says(&host, &["queue", "list"], 0, &["1 removed"]).await?;
    says(
        &host,
        &["queue", "show", QUEUE],
        0,
        &["waiting 4", "until a worker drops them: 1"],
    )
    .await?;
    // It is the oldest: the age is that of the next one.
    let mut redis = world.redis().await?;
    let job = format!("{}:{QUEUE}:{}", world.prefix, ids[0]);
    let made: String = redis.hget(&job, "timestamp").await?;
    redis.hset::<_, _, _, ()>(&job, "timestamp", "1000").await?;
    let (_, _, age) = counts(&host).await?;
    redis.hset::<_, _, _, ()>(&job, "timestamp", made).await?;
    assert!(age.is_some_and(|age| age < 600_000), "{age:?}");

    let clean = ["queue", "clean", QUEUE, "waiting"];
    says(
        &host,
        &[&clean[..], &["--dry-run"]].concat(),
        0,
        &["Would be removed: 4 waiting jobs of plainQueue. 1 more was removed by a bulk operation before: patchbay bulk undo still restores it"],
    )
    .await?;
    says(
        &host,
        &[&clean[..], &["--limit", "1", "--yes"]].concat(),
        0,
        &["Removed: 1 waiting job of plainQueue"],
    )
    .await?;
    let second = remove(&host, &ids[4]).await?;
    let drain = ["queue", "drain", QUEUE];
    says(
        &host,
        &drain,
        4,
        &[
            "This removes 2 waiting jobs of plainQueue",
            "1 more was removed",
        ],
    )
    .await?;
    let drained = [&drain[..], &["--yes"]].concat();
    says(
        &host,
        &drained,
        0,
        &["Removed: 2 waiting jobs of plainQueue"],
    )
    .await?;
    assert_eq!(counts(&host).await?, (0, 0, None));
    for (bulk, id) in [(second, &ids[4]), (first, &ids[0])] {
        host.post(&format!("/api/admin/bulk/{bulk}/undo"), json!({}))
            .await?;
        assert_eq!(bulk_in(&host, &bulk, &["undone"]).await?["restored"], 1);
        host.job_in(QUEUE, id, "waiting").await?;
    }
    assert_eq!(counts(&host).await?.0, 2);
    Ok(())
}

#[tokio::test]
async fn a_second_pause_or_resume_says_who_did_it_before_and_why() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    let pause = ["queue", "pause", QUEUE];
    let with_reason = [&pause[..], &["--reason", "INC-7"]].concat();
    says(&host, &with_reason, 0, &["Paused: plainQueue. Undo"]).await?;
    let again = [&pause[..], &["--reason", "another"]].concat();
    says(
        &host,
        &again,
        0,
        &[
            "plainQueue was already paused by operator at 20",
            ": INC-7. Undo",
        ],
    )
    .await?;
    says(
        &host,
        &["queue", "why", QUEUE],
        0,
        &["paused by operator", ": INC-7"],
    )
    .await?;
    says(
        &host,
        &["queue", "resume", QUEUE],
        0,
        &["Resumed: plainQueue"],
    )
    .await?;
    says(
        &host,
        &["queue", "resume", QUEUE],
        0,
        &["plainQueue was already resumed by operator at 20"],
    )
    .await?;

    let add = [
        "schedule",
        "add",
        "nightly",
        QUEUE,
        "work",
        "--every-ms",
        "2h",
    ];
    says(&host, &add, 0, &["every 2 h"]).await?;
    let pause = ["schedule", "pause", "nightly"];
    says(
        &host,
        &[&pause[..], &["--reason", "INC-8"]].concat(),
        0,
        &["Paused by operator since", ": INC-8. Undo"],
    )
    .await?;
    says(
        &host,
        &[&pause[..], &["--reason", "another"]].concat(),
        0,
        &["was already paused. Paused by operator since", ": INC-8"],
    )
    .await?;
    says(&host, &["schedule", "show", "nightly"], 0, &[": INC-8"]).await?;
    says(&host, &["schedule", "list", "-o", "wide"], 0, &[": INC-8"]).await?;
    says(&host, &["schedule", "resume", "nightly"], 0, &["Next: 20"]).await?;
    says(
        &host,
        &["schedule", "resume", "nightly"],
        0,
        &["was not paused; nothing has changed"],
    )
    .await?;
    // The next job is a tick, which cannot be promoted.
    says(&host, &["queue", "drain", QUEUE, "--yes"], 0, &[]).await?;
    says(
        &host,
        &["queue", "why", QUEUE],
        0,
        &[
            "a tick of schedule nightly",
            "wait, or: patchbay schedule run nightly",
        ],
    )
    .await
}

#[tokio::test]
async fn what_an_obliteration_removed_says_so_and_a_mistyped_name_is_suggested()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 2).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 1).await?;
    for (args, meant) in [
        (&["search", "queue=hostileQueu"][..], "hostileQueue"),
        (&["search", "plugin=hostle", "--count"], "hostile"),
        (
            &["dead-letter", "list", "--queue", "hostilQueue"],
            "hostileQueue",
        ),
        (&["dead-letter", "list", "--plugin", "hostille"], "hostile"),
        (
            &["activity", "--action", "plugin.activte"],
            "plugin.activate",
        ),
        (&["activity", "--actor", "operater"], "operator"),
    ] {
        let is_queue = meant == "hostileQueue";
        let meant = format!("Did you mean {meant}?");
        says(&host, args, if is_queue { 3 } else { 4 }, &[&meant]).await?;
    }
    says(
        &host,
        &["plugin", "revisions", "hostle"],
        3,
        &["Did you mean hostile?"],
    )
    .await?;
    says(
        &host,
        &[
            "queue",
            "obliterate",
            QUEUE,
            "--confirm",
            QUEUE,
            "--reason",
            "INC-9",
        ],
        0,
        &["with 2 jobs"],
    )
    .await?;
    says(
        &host,
        &["job", "show", QUEUE, &ids[0]],
        3,
        &[
            "There is no queue plainQueue any more: operator removed it with 2 jobs at 20",
            ": INC-9",
        ],
    )
    .await
}

#[tokio::test]
async fn an_edit_says_which_jobs_it_leaves_as_they_are() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 3).await?;
    let edit = ["bulk", "edit-and-retry", "queue=hostileQueue", "--dry-run"];
    says(
        &host,
        &[&edit[..], &["--set", "n=1"]].concat(),
        0,
        &["3 jobs", "Of these, 1 is retried with the data that it has"],
    )
    .await?;
    says(
        &host,
        &[&edit[..], &["--replace", "message", "lead 1", "lead 7"]].concat(),
        0,
        &["Of these, 2 are left as they are and not retried"],
    )
    .await?;
    let bulk = json_of(
        &host,
        &[
            "--json",
            "bulk",
            "edit-and-retry",
            "queue=hostileQueue",
            "data.n=1",
            "--set",
            "n=7",
            "--reason",
            "INC-3",
            "--yes",
            "--watch",
        ],
    )
    .await?;
    assert_eq!(bulk["done"], 1, "{bulk}");
    let (_, found) = host
        .get("/api/admin/queues/hostileQueue/search?state=failed&data.n=7")
        .await?;
    let id = found["data"][0]["id"].as_str().context("the job")?;
    says(
        &host,
        &["job", "show", "hostileQueue", id],
        0,
        &[
            "Last change: bulk.edit-and-retry by operator at 20",
            ": INC-3",
        ],
    )
    .await
}

#[tokio::test]
async fn numbers_and_durations_say_what_they_may_be_and_empty_variables_are_not_set()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for (args, part) in [
        (
            &["activity", "--limit", "99999999999999999999"][..],
            "must be a whole number from 1 to 200",
        ),
        (
            &["activity", "--limit", "-1"],
            "must be a whole number from 1 to 200",
        ),
        (&["bulk", "show", "x"], "as `patchbay bulk list` shows it"),
        (
            &[
                "alert",
                "rule",
                "set",
                "oldest-waiting",
                "--threshold",
                "-1",
            ],
            "must be a number, 0 or more",
        ),
        (
            &["job", "set-delay", QUEUE, "1", "2 hours"],
            "a number of milliseconds, or one with a unit, such as 1500ms, 90s, 30m, 2h or 7d",
        ),
    ] {
        says(&host, args, 2, &[part]).await?;
    }
    let added = json_of(
        &host,
        &[
            "--json",
            "job",
            "add",
            QUEUE,
            "work",
            "--new-queue",
            "--delay-ms",
            "2h",
        ],
    )
    .await?;
    let id = added["id"].as_str().context("an id")?;
    let job = host.job_in(QUEUE, id, "delayed").await?["job"].clone();
    let [due, made] = ["dueAt", "timestamp"].map(|time| job[time].as_u64().unwrap_or(0));
    assert_eq!(due - made, 7_200_000, "{job}");
    says(
        &host,
        &["job", "list", QUEUE, "prioritized", "-o", "wide"],
        0,
        &["PRIORITY"],
    )
    .await?;
    let head = run(&host, &["job", "list", QUEUE, "prioritized", "-o", "wide"]).await?;
    assert_eq!(head.out.matches("PRIORITY").count(), 1, "{}", head.out);

    let (_, page) = host
        .get("/api/admin/alerts/history?limit=1&cursor=0")
        .await?;
    assert_eq!(page["data"], json!([]), "{page}");
    let (status, _) = host.get("/api/admin/alerts/history?cursor=x").await?;
    assert_eq!(status, 400);

    // Of another directory, so that no `patchbay dev` is found.
    let output = tokio::process::Command::new(binary())
        .args(["queue", "list"])
        .current_dir(world.dir.path())
        .env("PATCHBAY_URL", "")
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD)
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("is not the address of a host"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_mistyped_name_of_anything_is_answered_with_the_one_that_may_be_meant()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 1).await?;
    recorded(&host, 1).await?;
    let (_, groups) = host.get("/api/admin/dead-letters").await?;
    let group = groups["data"][0]["id"].as_i64().context("a group")?;
    let [near, filter] = [format!("{group}0"), format!("dead-letter={group}0")];
    let silence = [
        "--json", "alert", "silence", "all", "--for", "1h", "--reason", "x",
    ];
    let silence = json_of(&host, &silence).await?["id"]
        .as_i64()
        .context("a silence")?;
    let silence_near = format!("{silence}0");
    for args in [
        &["search", "save", "failed jobs", "outcome=failed"][..],
        &[
            "alert",
            "rule",
            "set",
            "oldest-waiting",
            "--subject",
            "plainQueue",
            "--off",
        ],
    ] {
        says(&host, args, 0, &[]).await?;
    }
    for (args, meant) in [
        (&["search", "run", "faild jobs"][..], "'failed jobs'"),
        (&["search", "forget", "failed job"], "'failed jobs'"),
        (&["search", "undo", "failed-jobs"], "'failed jobs'"),
        (
            &["alert", "rule", "set", "oldest-wating", "--off"],
            "oldest-waiting",
        ),
        (
            &[
                "alert",
                "rule",
                "reset",
                "oldest-waiting",
                "--subject",
                "plainQeue",
            ],
            "plainQueue",
        ),
        (&["alert", "history", "--rule", "healt"], "health"),
        (&["alert", "unsilence", &silence_near], &silence.to_string()),
        (&["dead-letter", "show", &near], &group.to_string()),
        (&["search", &filter], &group.to_string()),
        (&["bulk", "retry", &filter, "--dry-run"], &group.to_string()),
        (
            &["breaker", "close", "hostil", "x", "--reason", "y"],
            "hostile",
        ),
        (
            &["secret", "remove", "hostil", "API_KEY", "--yes"],
            "hostile",
        ),
    ] {
        let printed = run(&host, args).await?;
        let text = format!("{}{}", printed.out, printed.err);
        let meant = format!("Did you mean {meant}?");
        assert!(
            printed.code != Some(0) && text.contains(&meant),
            "{args:?}: {text}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn names_and_values_that_begin_with_a_dash_can_be_given_and_are_printed_as_they_run()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let add = [
        "job",
        "add",
        "--new-queue",
        "--id",
        "a-1",
        "--",
        "-x",
        "work",
        "-5",
    ];
    says(
        &host,
        &add,
        0,
        &["Added: -x a-1\n", "See: patchbay job show -- -x a-1"],
    )
    .await?;
    says(
        &host,
        &["queue", "pause", "--reason", "-7 days", "--", "-x"],
        0,
        &["Paused: -x. Undo: patchbay queue resume -- -x"],
    )
    .await?;
    says(
        &host,
        &["queue", "why", "--", "-x"],
        0,
        &["patchbay queue resume -- -x", "-7 days"],
    )
    .await?;
    says(
        &host,
        &["job", "remove", "-x", "a-1", "--yes"],
        2,
        &[
            "-x is no option here",
            "patchbay job remove --yes -- -x a-1",
        ],
    )
    .await?;
    says(
        &host,
        &["job", "remove", "--yes", "--", "-x", "a-1"],
        0,
        &["Removed: -x a-1"],
    )
    .await?;
    says(
        &host,
        &["job", "list", "--", "-x", "waiting"],
        0,
        &["-x has no waiting jobs"],
    )
    .await?;
    says(
        &host,
        &["queue", "resume", "--", "-x"],
        0,
        &["Resumed: -x."],
    )
    .await
}

#[tokio::test]
async fn thresholds_ages_and_saved_searches_take_the_forms_that_others_take() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 2).await?;
    recorded(&host, 2).await?;
    let set = |rule: &'static str, threshold: &'static str| {
        ["alert", "rule", "set", rule, "--threshold", threshold]
    };
    for (rule, threshold, told) in [
        ("oldest-waiting", "5m", "≥ 5m for 1m"),
        ("oldest-waiting", "90", "≥ 90s for 1m"),
        ("failure-rate", "90%", "≥ 90% of at least 5"),
        ("certificate", "14d", "≤ 14d"),
        ("stalled", "1", "≥ 1 job"),
    ] {
        says(&host, &set(rule, threshold), 0, &[told]).await?;
    }
    says(
        &host,
        &["alert", "rules"],
        0,
        &["≥ 90s for 1m", "≥ 90%", "≤ 14d"],
    )
    .await?;
    for (rule, threshold, told) in [
        (
            "oldest-waiting",
            "90%",
            "a number of seconds, or one with a unit: 90s, 5m or 2h",
        ),
        ("failure-rate", "5m", "90% or 90"),
        ("failure-rate", "101%", "at most 100"),
    ] {
        says(&host, &set(rule, threshold), 4, &[told]).await?;
    }
    let rule = "/api/admin/alerts/rules/oldest-waiting";
    for (threshold, number) in [(json!("2m"), 120.0), (json!(60), 60.0)] {
        let (status, set) = host.put(rule, json!({ "threshold": threshold })).await?;
        assert_eq!((status, &set["data"]["threshold"]), (200, &json!(number)));
    }
    let (status, refused) = host.put(rule, json!({ "threshold": true })).await?;
    assert!(
        status == 422 && refused.to_string().contains("with a unit"),
        "{refused}"
    );

    says(
        &host,
        &[
            "bulk",
            "retry",
            "queue=hostileQueue",
            "--until",
            "2h",
            "--dry-run",
        ],
        3,
        &["No job matches"],
    )
    .await?;
    says(
        &host,
        &[
            "bulk",
            "retry",
            "queue=hostileQueue",
            "--since",
            "2h",
            "--dry-run",
        ],
        0,
        &["2 jobs"],
    )
    .await?;
    says(
        &host,
        &[
            "bulk",
            "retry",
            "from=2026-01-01T00:00:00Z",
            "--since",
            "2h",
            "--dry-run",
        ],
        4,
        &["--since and from= cannot be given together"],
    )
    .await?;
    says(
        &host,
        &["search", "save", "mine", "queue=hostileQueue"],
        0,
        &[],
    )
    .await?;
    let csv = run(&host, &["search", "run", "mine", "--csv"]).await?;
    let mut lines = csv.out.lines();
    assert_eq!(
        lines.next(),
        Some("finished,queue,job,name,outcome,code,message")
    );
    assert!(lines.count() >= 2, "{}", csv.out);
    says(&host, &["search", "saved"], 0, &["mine"]).await?;
    says(
        &host,
        &["search", "queue=hostileQueue", "code=none"],
        0,
        &["No results"],
    )
    .await
}

#[tokio::test]
async fn of_many_paused_queues_the_status_names_the_first_and_one_command_for_all()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for n in 0..6 {
        let job = json!({ "name": "work", "newQueue": true });
        host.add(&format!("q{n}"), job).await?;
    }
    says(
        &host,
        &["queue", "pause", "--all", "--yes"],
        0,
        &["Paused: 6 queues"],
    )
    .await?;
    let status = run(&host, &["status"]).await?.out;
    assert_eq!(
        status.matches("patchbay queue resume q").count(),
        3,
        "{status}"
    );
    assert!(
        status.contains("… and 3 more paused queues: patchbay queue list --paused\n    All of them: patchbay queue resume --all"),
        "{status}"
    );
    let paused = json_of(&host, &["--json", "queue", "list", "--paused"]).await?;
    assert_eq!(paused.as_array().map(Vec::len), Some(6), "{paused}");
    says(
        &host,
        &["queue", "pause", "--all"],
        0,
        &["every queue was already paused"],
    )
    .await?;
    says(
        &host,
        &["queue", "resume", "--all", "--yes"],
        0,
        &["Resumed: 6 queues"],
    )
    .await?;
    says(
        &host,
        &["queue", "list", "--paused"],
        0,
        &["No queue is paused"],
    )
    .await
}
