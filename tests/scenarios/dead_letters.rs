//! Dead letters, from the first failure to the last job repaired.

use std::time::Duration;

use anyhow::Context;
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::bulk::{broken_plugin, bulk_in, failed_jobs, mended_plugin};
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, hostile_plugin_with, until, variant};

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

async fn failed_jobs_more(host: &Host, count: usize) -> anyhow::Result<()> {
    for n in 0..count {
        let data = json!({ "n": n, "retry": "never", "message": format!("lead {n} is missing") });
        let id = host
            .add(QUEUE, json!({ "name": "fail", "data": data }))
            .await?;
        host.job_in(QUEUE, &id, "failed").await?;
    }
    Ok(())
}

const SOON: Duration = Duration::from_secs(60);

/// The group when it is as expected.
async fn group(
    host: &Host,
    id: &Value,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let id = id.to_string();
    until(SOON, what, async || {
        let shown = json_of(host, &["--json", "dead-letter", "show", &id]).await?;
        Ok(is(&shown).then_some(shown))
    })
    .await
}

/// All groups when there are as many.
async fn groups(host: &Host, count: usize) -> anyhow::Result<Vec<Value>> {
    until(SOON, &format!("{count} groups"), async || {
        let listed = json_of(host, &["--json", "dead-letter", "list", "--all"]).await?;
        let listed = listed.as_array().context("a list")?.clone();
        Ok((listed.len() == count).then_some(listed))
    })
    .await
}

/// Jobs, failing, waiting, repaired, removed, failing elsewhere, failures.
fn counts(group: &Value) -> [i64; 7] {
    let names = [
        "jobs",
        "failing",
        "waiting",
        "repaired",
        "removed",
        "failingElsewhere",
        "failures",
    ];
    names.map(|name| group[name].as_i64().unwrap_or(-1))
}

async fn said(host: &Host, args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = patchbay(host, args).await?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

async fn retry(host: &Host, job: &str) -> anyhow::Result<()> {
    let path = format!("/api/admin/queues/{QUEUE}/jobs/{job}/retry");
    let (status, answer) = host.post(&path, json!({})).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_group_counts_each_job_once_closes_by_itself_and_opens_with_the_next_failure()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 2).await?;
    let id = groups(&host, 1).await?[0]["id"].clone();
    group(&host, &id, "both fail", |group| {
        counts(group) == [2, 2, 0, 0, 0, 0, 2] && group["state"] == "open"
    })
    .await?;

    retry(&host, &ids[0]).await?;
    group(&host, &id, "the retry failed again", |group| {
        counts(group) == [2, 2, 0, 0, 0, 0, 3]
    })
    .await?;

    let queue = format!("/api/admin/queues/{QUEUE}");
    host.post(&format!("{queue}/pause"), json!({})).await?;
    retry(&host, &ids[0]).await?;
    retry(&host, &ids[1]).await?;
    let number = id.to_string();
    let shown = json_of(&host, &["--json", "dead-letter", "show", &number]).await?;
    assert_eq!(
        counts(&shown),
        [2, 0, 2, 0, 0, 0, 3],
        "at once after the retry: {shown}"
    );
    let (_, text) = said(&host, &["dead-letter", "show", &number]).await?;
    assert!(
        text.contains("2 jobs: 2 waiting or running")
            && text.contains(&format!("Next: patchbay queue why {QUEUE}")),
        "{text}"
    );
    let (code, text) = said(&host, &["dead-letter", "retry", &number, "--yes"]).await?;
    assert_eq!(code, Some(3));
    assert!(
        text.contains("2 waiting") && text.contains("queue why"),
        "{text}"
    );

    host.deploy("hostile", mended_plugin()?).await?;
    host.post(&format!("{queue}/resume"), json!({})).await?;
    let closed = group(&host, &id, "the group is closed", |group| {
        group["state"] == "closed"
    })
    .await?;
    assert_eq!(counts(&closed), [2, 0, 0, 2, 0, 0, 3], "{closed}");
    assert!(closed["closedAt"].is_string(), "{closed}");
    let (_, text) = said(&host, &["dead-letter", "show", &number]).await?;
    assert!(text.contains("Nothing needs to be done"), "{text}");
    let (_, text) = said(&host, &["dead-letter", "list"]).await?;
    assert!(
        text.contains("1 closed group not shown: patchbay dead-letter list --closed"),
        "{text}"
    );
    for (state, count) in [
        ("", 0),
        ("?state=open", 0),
        ("?acknowledged=false", 0),
        ("?state=closed", 1),
        ("?state=all", 1),
    ] {
        let (_, answer) = host.get(&format!("/api/admin/dead-letters{state}")).await?;
        assert_eq!(
            answer["data"].as_array().map(Vec::len),
            Some(count),
            "{state}: {answer}"
        );
    }
    let listed = json_of(&host, &["--json", "dead-letter", "list", "--closed"]).await?;
    assert_eq!(listed[0]["id"], id, "{listed}");
    let (_, answer) = host.get("/api/admin/dead-letter-counts").await?;
    assert_eq!(
        answer["data"],
        json!({ "open": 0, "acknowledged": 0, "closed": 1 })
    );
    let open = format!("patchbay_dead_letters{{queue=\"{QUEUE}\"}}");
    assert!(host.metrics().await?.contains(&format!("{open} 0")));

    json_of(&host, &["--json", "plugin", "rollback", "hostile"]).await?;
    failed_jobs_more(&host, 1).await?;
    let again = group(&host, &id, "the group is open again", |group| {
        group["state"] == "open"
    })
    .await?;
    assert_eq!(counts(&again), [3, 1, 0, 2, 0, 0, 4], "{again}");
    assert!(again["closedAt"].is_null(), "{again}");
    assert!(host.metrics().await?.contains(&format!("{open} 1")));
    Ok(())
}

#[tokio::test]
async fn an_invalid_state_of_groups_is_refused_with_what_to_say() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for (query, says) in [
        ("state=solved", "solved"),
        ("state=open&acknowledged=true", "acknowledged"),
    ] {
        let (status, answer) = host
            .get(&format!("/api/admin/dead-letters?{query}"))
            .await?;
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.contains(says)),
            "{answer}"
        );
    }
    let both = patchbay(&host, &["dead-letter", "list", "--closed", "--all"]).await?;
    assert!(!both.status.success());
    Ok(())
}

#[tokio::test]
async fn a_retry_of_jobs_that_redis_has_forgotten_names_the_command_that_adds_them_again()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let key = "11".repeat(16) + &"22".repeat(16);
    let host = world.host(&[("PATCHBAY_SECRETS_KEY", &key)]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 3).await?;
    let id = groups(&host, 1).await?[0]["id"].clone();
    group(&host, &id, "all fail", |group| group["failing"] == 3).await?;
    host.post(
        &format!("/api/admin/queues/{QUEUE}/clean"),
        json!({ "state": "failed" }),
    )
    .await?;
    let number = id.to_string();
    let shown = json_of(&host, &["--json", "dead-letter", "show", &number]).await?;
    assert_eq!(counts(&shown), [3, 0, 0, 0, 3, 0, 3], "{shown}");
    assert_eq!(
        (&shown["restorable"], &shown["state"]),
        (&json!(3), &json!("closed"))
    );

    host.deploy("hostile", mended_plugin()?).await?;
    let command = format!("bulk retry dead-letter={number} --from-history --keep-key");
    for args in [
        vec!["dead-letter", "retry", &number, "--yes"],
        vec!["bulk", "retry", &format!("dead-letter={number}"), "--yes"],
    ] {
        let (code, text) = said(&host, &args).await?;
        assert_eq!(code, Some(3), "{text}");
        assert!(
            text.contains("3 jobs: 3 removed") && text.contains(&format!("patchbay {command}")),
            "{text}"
        );
    }
    let command: Vec<&str> = command.split(' ').collect();
    let ended = json_of(
        &host,
        &[&["--json"], &command[..], &["--yes", "--watch"]].concat(),
    )
    .await?;
    assert_eq!(ended["done"], 3, "{ended}");
    group(&host, &id, "all are repaired", |group| {
        counts(group) == [3, 0, 0, 3, 0, 0, 3]
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_undone_removal_opens_its_group_again() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 2).await?;
    let id = groups(&host, 1).await?[0]["id"].clone();
    group(&host, &id, "both fail", |group| group["failing"] == 2).await?;
    let filter = format!("dead-letter={id}");
    let removed = json_of(
        &host,
        &["--json", "bulk", "remove", &filter, "--yes", "--watch"],
    )
    .await?;
    let number = id.to_string();
    let shown = json_of(&host, &["--json", "dead-letter", "show", &number]).await?;
    assert_eq!(
        (counts(&shown), &shown["state"]),
        ([2, 0, 0, 0, 2, 0, 2], &json!("closed")),
        "{shown}"
    );
    let (_, text) = said(&host, &["dead-letter", "show", &number]).await?;
    let bulk = removed["id"].to_string();
    assert!(
        text.contains(&format!("To bring them back: patchbay bulk undo {bulk}")),
        "the history has kept nothing, and the removal can be undone: {text}"
    );
    json_of(&host, &["--json", "bulk", "undo", &bulk, "--watch"]).await?;
    let shown = json_of(&host, &["--json", "dead-letter", "show", &number]).await?;
    assert_eq!(
        (counts(&shown), &shown["state"]),
        ([2, 2, 0, 0, 0, 0, 2], &json!("open")),
        "{shown}"
    );
    Ok(())
}

#[tokio::test]
async fn a_job_fails_in_one_group_at_a_time() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let job = failed_jobs(&world, 1).await?.remove(0);
    let first = groups(&host, 1).await?[0]["id"].clone();
    host.deploy("hostile", variant(&broken_plugin()?, "second"))
        .await?;
    retry(&host, &job).await?;
    let both = groups(&host, 2).await?;
    let second = both
        .iter()
        .find(|group| group["id"] != first)
        .context("the second group")?["id"]
        .clone();
    group(&host, &second, "it fails there", |group| {
        counts(group) == [1, 1, 0, 0, 0, 0, 1]
    })
    .await?;
    let left = group(&host, &first, "it fails here no more", |group| {
        group["state"] == "closed"
    })
    .await?;
    assert_eq!(counts(&left), [1, 0, 0, 0, 0, 1, 1], "{left}");
    assert_eq!(left["elsewhere"][0]["id"], second, "{left}");
    host.deploy("hostile", mended_plugin()?).await?;
    retry(&host, &job).await?;
    for id in [first, second] {
        group(&host, &id, "it is repaired in both", |group| {
            counts(group) == [1, 0, 0, 1, 0, 0, 1] && group["state"] == "closed"
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn failures_of_an_older_version_get_their_jobs_and_what_nobody_looks_at_closes_too()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 3).await?;
    let id = groups(&host, 1).await?[0]["id"].clone();
    group(&host, &id, "all fail", |group| group["failing"] == 3).await?;
    let mut database = world.database().await?;
    // As an older version leaves it.
    for statement in [
        "delete from patchbay.dead_letter_jobs",
        "update patchbay.dead_letters set jobs_listed = 0",
    ] {
        sqlx::query(statement).execute(&mut database).await?;
    }
    until(SOON, "the jobs are listed", async || {
        let query = "select count(*) from patchbay.dead_letter_jobs where state = 'failing'";
        let listed: i64 = sqlx::query_scalar(query).fetch_one(&mut database).await?;
        Ok((listed == 3).then_some(()))
    })
    .await?;
    let mut redis = world.redis().await?;
    let failed = format!("{}:{QUEUE}:failed", world.prefix);
    let ids: Vec<String> = redis.zrange(&failed, 0, -1).await?;
    for job in ids {
        let () = redis.del(format!("{}:{QUEUE}:{job}", world.prefix)).await?;
        let () = redis.zrem(&failed, job).await?;
    }
    until(SOON, "the leader closes the group", async || {
        let query = "select closed_at is not null from patchbay.dead_letters";
        let closed: bool = sqlx::query_scalar(query).fetch_one(&mut database).await?;
        Ok(closed.then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn different_crashes_of_a_plugin_are_different_groups_and_values_in_their_texts_are_none()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let plugin = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 20_000") + "redact = [\"phone\"]\n"
    })?;
    host.deploy("hostile", plugin).await?;
    let phone = "+91 98765 43210";
    let crashes = [
        ("panic-saying", "lead 1 has no phone".to_owned()),
        ("panic-saying", "lead 2 has no phone".to_owned()),
        ("panic-saying-elsewhere", "lead 3 has no phone".to_owned()),
        ("abort-saying", "printer 4: out of ink".to_owned()),
        ("abort-saying", "printer 5: out of ink".to_owned()),
        ("abort-saying", "printer 6: out of paper".to_owned()),
        ("panic-saying", format!("no line to {phone}")),
    ];
    let mut reasons = Vec::new();
    for (name, message) in &crashes {
        let data = json!({ "message": message, "phone": phone });
        let id = host
            .add(QUEUE, json!({ "name": name, "data": data }))
            .await?;
        let job = host.job_in(QUEUE, &id, "failed").await?;
        reasons.push(
            job["job"]["failedReason"]
                .as_str()
                .context("a reason")?
                .to_owned(),
        );
    }
    assert!(
        reasons[0].starts_with("trapped: panicked at hostile/src/lib.rs:")
            && reasons[0].ends_with(": lead 1 has no phone"),
        "{reasons:?}"
    );
    assert!(
        reasons[3].starts_with("trapped: printer 4: out of ink (wasm trap: "),
        "{reasons:?}"
    );
    assert!(
        reasons[6].ends_with(": no line to [redacted]"),
        "{reasons:?}"
    );
    let groups = until(SOON, "all crashes are recorded", async || {
        let listed = groups(&host, 5).await?;
        let failures: i64 = listed
            .iter()
            .filter_map(|group| group["failures"].as_i64())
            .sum();
        Ok((failures == 7).then_some(listed))
    })
    .await?;
    let jobs = |text: &str| -> Vec<i64> {
        let is = |group: &&Value| {
            group["message"]
                .as_str()
                .is_some_and(|message| message.contains(text))
        };
        let mut jobs: Vec<i64> = groups
            .iter()
            .filter(is)
            .filter_map(|group| group["jobs"].as_i64())
            .collect();
        jobs.sort();
        jobs
    };
    assert_eq!(jobs("has no phone"), [1, 2], "by their places: {groups:#?}");
    assert_eq!(jobs("out of ink"), [2], "{groups:#?}");
    assert_eq!(jobs("out of paper"), [1], "{groups:#?}");
    assert!(!json!(groups).to_string().contains("98765"), "{groups:#?}");
    Ok(())
}
