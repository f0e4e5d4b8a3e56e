//! What commands answer of jobs that are gone, of revisions that are active already, and of changes
//! that are undone.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use crate::bulk::{broken_plugin, bulk_in, failed_jobs};
use crate::commands::json_of;
use crate::harness::{Host, World, email_plugin, until, variant};
use crate::operators::{QUEUE, run, with_jobs};

const FAILING: &str = "hostileQueue";

/// Runs a command, and checks its exit code and that its output has all these parts.
pub async fn says(host: &Host, args: &[&str], code: i32, parts: &[&str]) -> anyhow::Result<String> {
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
    Ok(text)
}

#[tokio::test]
async fn a_job_that_never_ran_is_told_with_who_drained_or_removed_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 3).await?;
    let [removed, drained] = [&ids[0], &ids[1]].map(String::as_str);
    let remove = [
        "job", "remove", QUEUE, removed, "--yes", "--reason", "INC-7",
    ];
    let told = says(&host, &remove, 0, &["It had never run"]).await?;
    assert!(!told.contains("history"), "{told}");
    says(&host, &remove, 3, &["removed it at", "INC-7"]).await?;
    let drain = ["queue", "drain", QUEUE];
    says(
        &host,
        &[&drain[..], &["--dry-run"]].concat(),
        0,
        &["cannot be undone"],
    )
    .await?;
    let reason = ["--yes", "--reason", "INC-8"];
    says(
        &host,
        &[&drain[..], &reason].concat(),
        0,
        &["Removed: 2 waiting jobs", "cannot be brought back"],
    )
    .await?;
    for command in ["show", "timeline"] {
        let told = says(
            &host,
            &["job", command, QUEUE, drained],
            3,
            &["(queue.drain), probably with this one: INC-8"],
        )
        .await?;
        assert!(!told.contains("nothing is recorded"), "{told}");
        says(
            &host,
            &["job", command, QUEUE, removed],
            3,
            &["removed it at", "INC-7"],
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn of_two_removals_at_once_only_one_has_removed_the_job() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 8).await?;
    for id in &ids {
        let path = format!("/api/admin/queues/{QUEUE}/jobs/{id}");
        let (one, other) = tokio::join!(host.delete(&path), host.delete(&path));
        let mut statuses = [one?, other?];
        statuses.sort_by_key(|(status, _)| *status);
        assert_eq!(
            statuses.clone().map(|(status, _)| status),
            [200, 404],
            "{statuses:?}"
        );
        let message = statuses[1].1["message"].as_str().context("a message")?;
        assert!(message.contains("removed it at"), "{message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_copy_names_its_original_and_a_read_is_no_change() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, ids) = with_jobs(&world, 1).await?;
    let original = ids[0].as_str();
    let copy = json_of(
        &host,
        &[
            "--json",
            "job",
            "duplicate",
            QUEUE,
            original,
            "--reason",
            "INC-9",
        ],
    )
    .await?;
    let copy = copy["id"].as_str().context("an id")?;
    let origin = format!("Copy of: {QUEUE} {original}, made by operator at ");
    says(
        &host,
        &["job", "show", QUEUE, copy],
        0,
        &[&origin, ": INC-9"],
    )
    .await?;
    let origin = format!("added as a copy of {QUEUE} {original} by operator: INC-9");
    says(&host, &["job", "timeline", QUEUE, copy], 0, &[&origin]).await?;
    says(
        &host,
        &["job", "set-priority", QUEUE, original, "9"],
        0,
        &[],
    )
    .await?;
    let reveal = ["job", "show", QUEUE, original, "--reveal"];
    says(&host, &reveal, 0, &[]).await?;
    says(&host, &reveal, 0, &["Last change: job.set-priority"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_revision_never_replaces_itself_and_the_way_back_is_named() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let plugin = email_plugin()?;
    let mut digests = Vec::new();
    for revision in ["r1", "r2"] {
        let (status, staged) = host.push(variant(&plugin, revision)).await?;
        anyhow::ensure!(status == 200, "{staged}");
        let digest = staged["data"]["digest"].as_str().context("a digest")?;
        digests.push(digest[..12].to_owned());
    }
    let [first, second] = [&digests[0], &digests[1]];
    let of = |digest| ["plugin", "activate", "email", digest, "--grant"];
    let ungranted = ["plugin", "activate", "email", first.as_str()];
    let next = format!("patchbay plugin activate email {first} --grant");
    says(&host, &ungranted, 4, &[&next, "stays staged"]).await?;
    says(&host, &of(first), 0, &["none was active before"]).await?;
    says(&host, &of(first), 0, &["was active already"]).await?;
    let back = format!("patchbay plugin activate email {first}");
    says(&host, &of(second), 0, &[&back]).await?;
    let forward = format!("patchbay plugin activate email {second}");
    says(
        &host,
        &["plugin", "rollback", "email", "--reason", "INC-1"],
        0,
        &[&forward],
    )
    .await?;
    says(
        &host,
        &["queue", "why", "emailQueue"],
        0,
        &[&forward, "back to"],
    )
    .await?;
    let history = json_of(&host, &["--json", "plugin", "history", "email"]).await?;
    assert_eq!(history.as_array().map(Vec::len), Some(3), "{history}");
    assert_eq!(history[0]["reason"], "INC-1");
    for command in ["rollback", "deactivate", "release"] {
        let args = ["plugin", command, "emial"];
        let yes = ["--yes"];
        let more: &[&str] = if command == "deactivate" { &yes } else { &[] };
        says(
            &host,
            &[&args[..], more].concat(),
            3,
            &["Did you mean email?"],
        )
        .await?;
    }
    let deactivate = [
        "plugin",
        "deactivate",
        "email",
        "--yes",
        "--reason",
        "INC-2",
    ];
    says(&host, &deactivate, 0, &[]).await?;
    says(&host, &["queue", "why", "emailQueue"], 0, &["INC-2"]).await?;
    Ok(())
}

#[tokio::test]
async fn an_edit_is_undone_of_jobs_that_have_not_run_since() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 3).await?;
    says(&host, &["queue", "pause", FAILING], 0, &[]).await?;
    let before = host.job_in(FAILING, &ids[0], "failed").await?["job"]["data"].clone();
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
    let edited = json_of(&host, &edit).await?;
    assert_eq!(edited["done"], 3, "{edited}");
    assert!(edited["undoUntil"].is_string(), "{edited}");
    let changed = host.job_in(FAILING, &ids[0], "waiting").await?["job"]["data"].clone();
    assert_ne!(changed, before);
    says(
        &host,
        &["job", "set-data", FAILING, &ids[2], r#"{"n":7}"#, "--yes"],
        0,
        &[],
    )
    .await?;
    let bulk = edited["id"].to_string();
    let undo = ["--json", "bulk", "undo", bulk.as_str(), "--watch"];
    let undone = json_of(&host, &undo).await?;
    assert_eq!(undone["restored"], 2, "{undone}");
    let reasons = undone["reasons"].to_string();
    assert!(reasons.contains("changed again since"), "{reasons}");
    let now = host.job_in(FAILING, &ids[0], "waiting").await?["job"]["data"].clone();
    assert_eq!(now, before);
    let timeline = ["job", "timeline", FAILING, &ids[0]];
    says(&host, &timeline, 0, &["edit undone"]).await?;
    Ok(())
}

#[tokio::test]
async fn an_undo_skips_jobs_that_were_brought_back_otherwise() -> anyhow::Result<()> {
    let world = World::new().await?;
    // Without a key the history keeps no data.
    let key = "0f1e2d3c".repeat(8);
    let host = world.host(&[("PATCHBAY_SECRETS_KEY", &key)]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 2).await?;
    until(
        Duration::from_secs(30),
        "both are in the history",
        async || {
            let groups = json_of(&host, &["--json", "dead-letter", "list", "--all"]).await?;
            Ok((groups[0]["jobs"] == 2).then_some(()))
        },
    )
    .await?;
    let filter = json!({ "queue": FAILING });
    let request = json!({ "kind": "remove", "state": "failed", "filter": filter });
    let (_, begun) = host.post("/api/admin/bulk", request).await?;
    let bulk = begun["data"]["id"].clone();
    bulk_in(&host, &bulk, &["done"]).await?;
    // The group of these jobs knows the way back.
    let groups = json_of(&host, &["--json", "dead-letter", "list", "--all"]).await?;
    let group = groups[0]["id"].to_string();
    let undo = format!("patchbay bulk undo {bulk}");
    says(&host, &["dead-letter", "show", &group], 0, &[&undo]).await?;
    let job = format!("job={}", ids[0]);
    let again = [
        "bulk",
        "retry",
        "queue=hostileQueue",
        &job,
        "--from-history",
        "--keep-key",
        "--yes",
        "--watch",
    ];
    says(&host, &again, 0, &["1 done"]).await?;
    host.post(&format!("/api/admin/bulk/{bulk}/undo"), json!({}))
        .await?;
    let undone = bulk_in(&host, &bulk, &["undone"]).await?;
    assert_eq!(undone["restored"], 1, "{undone}");
    let reasons = undone["reasons"].to_string();
    assert!(reasons.contains("brought back in another way"), "{reasons}");
    Ok(())
}

#[tokio::test]
async fn a_list_ends_without_a_next_page_and_a_pipe_gets_whole_texts() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 5).await?;
    let list = ["job", "list", QUEUE, "waiting"];
    let some = says(
        &host,
        &[&list[..], &["--limit", "3"]].concat(),
        0,
        &["Next page"],
    )
    .await?;
    assert!(some.contains("--offset 3"), "{some}");
    for rest in [
        &["--limit", "5"][..],
        &["--offset", "3"],
        &["--limit", "20"],
    ] {
        let all = says(&host, &[&list[..], rest].concat(), 0, &[]).await?;
        assert!(!all.contains("Next page"), "{rest:?}: {all}");
    }
    says(
        &host,
        &[
            "schedule",
            "add",
            "hourly",
            QUEUE,
            "work",
            "--every-ms",
            "1h",
        ],
        0,
        &[],
    )
    .await?;
    says(
        &host,
        &["schedule", "edit", "hourly"],
        4,
        &["Nothing to change"],
    )
    .await?;
    let restore = ["schedule", "restore", "hourly"];
    says(&host, &restore, 4, &["exists: created by operator"]).await?;
    says(&host, &["alert", "test"], 4, &["No channel is configured"]).await?;
    let tests = json_of(&host, &["--json", "activity", "--action", "alert.test"]).await?;
    assert_eq!(tests[0]["result"], "failed", "{tests}");
    let silence = [
        "alert",
        "silence",
        "oldest-waiting",
        "--subject",
        "plainQeue",
        "--for",
        "1h",
        "--reason",
        "x",
    ];
    says(&host, &silence, 0, &["Did you mean plainQueue?"]).await?;
    let erase = [
        "history", "erase", "--path", "lead.idd", "--value", "4711", "--reason", "x",
    ];
    says(&host, &erase, 4, &["declares lead.idd searchable"]).await?;
    Ok(())
}

#[tokio::test]
async fn the_jobs_of_a_file_are_all_checked_before_the_first_is_added() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, _) = with_jobs(&world, 1).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("jobs.ndjson");
    let path = file.display().to_string();
    let add = ["job", "add", QUEUE, "--file", path.as_str()];
    let jobs: String = (0..1_200)
        .map(|n| format!("{{\"name\":\"work\",\"data\":{{\"n\":{n}}}}}\n"))
        .collect();
    let wrong = r#"{"name":"work","attempts":-1}"#;
    std::fs::write(&file, format!("{jobs}{wrong}\n"))?;
    let place = format!("Nothing was added. {path}, line 1201: attempts");
    says(&host, &add, 4, &[&place]).await?;
    let wrong = r#"{"name":"work","id":"7"}"#;
    std::fs::write(&file, format!("{jobs}{wrong}\n"))?;
    let place = format!("Nothing was added: {path}, line 1201: a job's own id");
    let told = says(&host, &add, 4, &[&place]).await?;
    anyhow::ensure!(!told.contains("Job 201"), "{told}");
    let waiting = ["--json", "queue", "show", QUEUE];
    assert_eq!(json_of(&host, &waiting).await?["counts"]["waiting"], 1);
    let last = r#"{"name":"work","id":"last"}"#;
    std::fs::write(&file, format!("{jobs}\n{last}\n{last}\n"))?;
    let parts = [
        "Added: 1201 jobs to plainQueue; 1 had the id",
        "Added 1000 of 1202",
    ];
    says(&host, &add, 0, &parts).await?;
    assert_eq!(json_of(&host, &waiting).await?["counts"]["waiting"], 1_202);
    says(
        &host,
        &["job", "timeline", QUEUE, "last"],
        0,
        &["added by operator"],
    )
    .await?;
    Ok(())
}
