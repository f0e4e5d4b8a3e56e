//! Lists of jobs, page by page, while jobs come and go.

use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::commands::json_of;
use crate::harness::{Host, World, hostile_plugin};

const QUEUE: &str = "hostileQueue";

async fn world_with_host() -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    Ok((world, host))
}

/// Ids of one page, and the cursor of the next.
async fn page(host: &Host, query: &str) -> anyhow::Result<(Vec<String>, Option<String>)> {
    let (status, answer) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs?{query}"))
        .await?;
    anyhow::ensure!(status == 200, "{query}: {answer}");
    let ids = answer["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|job| job["id"].as_str());
    Ok((
        ids.map(str::to_owned).collect(),
        answer["nextCursor"].as_str().map(str::to_owned),
    ))
}

#[tokio::test]
async fn failed_jobs_are_listed_to_the_end_although_each_page_is_retried_before_the_next()
-> anyhow::Result<()> {
    let (_world, host) = world_with_host().await?;
    let mut failed = Vec::new();
    for _ in 0..7 {
        let id = host
            .add(
                QUEUE,
                json!({ "name": "fail", "data": { "retry": "never" } }),
            )
            .await?;
        host.job_in(QUEUE, &id, "failed").await?;
        failed.push(id);
    }
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (ids, next) = page(&host, &format!("state=failed&limit=3{cursor}")).await?;
        for id in &ids {
            let (status, answer) = host
                .post(
                    &format!("/api/admin/queues/{QUEUE}/jobs/{id}/retry"),
                    json!({}),
                )
                .await?;
            assert_eq!(status, 200, "{answer}");
        }
        seen.extend(ids);
        let Some(next) = next else { break };
        cursor = format!("&cursor={next}");
    }
    seen.reverse();
    assert_eq!(
        seen, failed,
        "newest first, each once, although none stayed where it was"
    );
    Ok(())
}

#[tokio::test]
async fn waiting_jobs_are_listed_to_the_end_although_the_first_ones_leave_and_others_come()
-> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(host.add(QUEUE, json!({ "name": "noop" })).await?);
    }
    let (first, cursor) = page(&host, "state=waiting&limit=2").await?;
    assert_eq!(first, ids[..2]);
    let cursor = cursor.unwrap_or_default();
    // The first job is removed, and another one comes at the end.
    host.delete(&format!("/api/admin/queues/{QUEUE}/jobs/{}", ids[0]))
        .await?;
    ids.push(host.add(QUEUE, json!({ "name": "noop" })).await?);
    let (second, _) = page(&host, &format!("state=waiting&limit=2&cursor={cursor}")).await?;
    assert_eq!(second, ids[2..4]);
    // The job that the cursor names is removed too: nothing is skipped.
    host.delete(&format!("/api/admin/queues/{QUEUE}/jobs/{}", ids[1]))
        .await?;
    let (rest, _) = page(&host, &format!("state=waiting&limit=9&cursor={cursor}")).await?;
    assert_eq!(rest, ids[2..]);
    let listed = json_of(&host, &["--json", "job", "list", QUEUE, "waiting", "--all"]).await?;
    assert_eq!(listed.as_array().map(Vec::len), Some(5));
    let some = json_of(
        &host,
        &[
            "--json", "job", "list", QUEUE, "waiting", "--offset", "1", "--limit", "3",
        ],
    )
    .await?;
    assert_eq!(some.as_array().map(Vec::len), Some(3));

    // BullMQ 5 pauses by renaming the list.
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    redis.rename::<_, _, ()>(key("wait"), key("paused")).await?;
    assert_eq!(page(&host, "state=waiting").await?.0, ids[2..]);
    Ok(())
}

#[tokio::test]
async fn a_cursor_that_the_host_did_not_give_is_refused() -> anyhow::Result<()> {
    let (_world, host) = world_with_host().await?;
    for _ in 0..2 {
        let id = host.add(QUEUE, json!({ "name": "noop" })).await?;
        host.job_in(QUEUE, &id, "completed").await?;
    }
    let cursor = page(&host, "state=completed&limit=1")
        .await?
        .1
        .unwrap_or_default();
    for query in [
        "state=failed&cursor=7".to_owned(),
        "state=failed&cursor=".to_owned(),
        format!("state=failed&cursor={cursor}"),
        format!("state=completed&offset=0&cursor={cursor}"),
        // "delayed NaN x", which Redis would refuse.
        "state=delayed&cursor=ZGVsYXllZCBOYU4geA".to_owned(),
    ] {
        let (status, answer): (u16, Value) = host
            .get(&format!("/api/admin/queues/{QUEUE}/jobs?{query}"))
            .await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{query}: {answer}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains("cursor")),
            "{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_command_lists_as_many_jobs_as_it_is_asked_for_and_adds_what_a_file_holds()
-> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    for _ in 0..205 {
        host.add(QUEUE, json!({ "name": "noop" })).await?;
    }
    let listed = async |limit: &str| -> anyhow::Result<Vec<String>> {
        let jobs = json_of(
            &host,
            &["--json", "job", "list", QUEUE, "waiting", "--limit", limit],
        )
        .await?;
        let ids = jobs
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|job| job["id"].as_str());
        Ok(ids.map(str::to_owned).collect())
    };
    let all = listed("300").await?;
    assert_eq!(all.len(), 205);
    assert_eq!(listed("203").await?, all[..203]);

    let file = world.dir.path().join("data.json");
    std::fs::write(&file, r#"{ "from": "a file" }"#)?;
    let data = format!("@{}", file.display());
    let added = json_of(
        &host,
        &[
            "--json",
            "job",
            "add",
            QUEUE,
            "noop",
            &data,
            "--delay-ms",
            "3600000",
        ],
    )
    .await?;
    let id = added["id"].as_str().unwrap_or_default();
    let story = json_of(&host, &["--json", "job", "show", QUEUE, id]).await?;
    assert_eq!(story["job"]["data"], json!({ "from": "a file" }), "{story}");
    Ok(())
}
