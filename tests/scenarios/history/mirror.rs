//! The mirror of what other workers ended: the real npm worker, observed from outside.

use anyhow::Context;
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;

use super::*;
use crate::features::{answer, node};

const LOOKS: (&str, &str) = ("PATCHBAY_HISTORY_MIRROR_EVERY_S", "1");
const NODES: &str = "nodesQueue";

/// Node adds and works this many jobs; every second one fails. Returns their ids.
async fn run(
    world: &World,
    queue: &str,
    count: usize,
    worker: &str,
    keep: &str,
) -> anyhow::Result<Vec<String>> {
    Ok(serde_json::from_value(
        answer(node(
            world,
            &["run", queue, &count.to_string(), worker, keep],
        ))
        .await?,
    )?)
}

/// Waits until the mirror has read everything that has happened to the queue so far.
async fn has_looked(world: &World, queue: &str) -> anyhow::Result<()> {
    let key = format!("{}:{queue}:events", world.prefix);
    let newest: StreamRangeReply = world
        .redis()
        .await?
        .xrevrange_count(key, "+", "-", 1)
        .await?;
    let newest = newest.ids.first().context("an event")?.id.clone();
    let mut database = world.database().await?;
    until(
        Duration::from_secs(30),
        &format!("a look at {queue} up to {newest}"),
        async || {
            let query = sqlx::query_scalar::<_, String>(
                "select event from patchbay.mirror_places where queue = $1",
            );
            let event = query.bind(queue).fetch_optional(&mut database).await?;
            Ok((event.as_ref() == Some(&newest)).then_some(()))
        },
    )
    .await
}

/// Attempts of a queue from one source: number of rows, and number of jobs.
async fn rows(world: &World, queue: &str, source: &str) -> anyhow::Result<(i64, i64)> {
    let query = "select count(*), count(distinct job_id) from patchbay.attempts where queue = $1 and source = $2";
    Ok(sqlx::query_as(query)
        .bind(queue)
        .bind(source)
        .fetch_one(&mut world.database().await?)
        .await?)
}

async fn found(host: &Host, query: &str) -> anyhow::Result<Vec<Value>> {
    let (status, answer) = host
        .get(&format!("/api/admin/history/search?{query}"))
        .await?;
    anyhow::ensure!(status == 200, "{query}: {status} {answer}");
    Ok(answer["data"]
        .as_array()
        .with_context(|| answer.to_string())?
        .clone())
}

#[tokio::test]
async fn what_another_worker_ends_is_in_the_history_once_and_is_found() -> anyhow::Result<()> {
    let world = World::new().await?;
    let ids = run(&world, NODES, 6, "node-7", "keep").await?;
    let host = world.host(&[LOOKS]).await?;
    has_looked(&world, NODES).await?;
    assert_eq!(rows(&world, NODES, "mirror").await?, (6, 6));

    let failed = found(&host, &format!("queue={NODES}&outcome=failed")).await?;
    assert_eq!(failed.len(), 3, "{failed:?}");
    let one = failed
        .iter()
        .find(|one| one["jobId"] == ids[1].as_str())
        .with_context(|| format!("{failed:?}"))?;
    assert_eq!(
        (
            &one["source"],
            &one["host"],
            &one["name"],
            &one["code"],
            &one["message"],
            &one["verdict"]
        ),
        (
            &json!("mirror"),
            &json!("node-7"),
            &json!("noop"),
            &json!("failed"),
            &json!("no room for 1 on request"),
            &json!("fail")
        )
    );
    assert_eq!(
        found(&host, &format!("queue={NODES}&text=no+room"))
            .await?
            .len(),
        3
    );
    let letters = "select coalesce(sum(jobs), 0)::bigint from patchbay.dead_letters where queue = 'nodesQueue'";
    assert_eq!(
        count(&world, letters).await?,
        3,
        "they are dead letters, too"
    );

    // Another process does not know which jobs were read: it reads the whole last minute again.
    let looked = "select extract(epoch from looked_at)::float8 from patchbay.mirror_places where queue = 'nodesQueue'";
    let before: f64 = sqlx::query_scalar(looked)
        .fetch_one(&mut world.database().await?)
        .await?;
    assert!(host.stop().await?.success());
    let _host = world.host(&[LOOKS]).await?;
    until(Duration::from_secs(30), "another look", async || {
        let at: f64 = sqlx::query_scalar(looked)
            .fetch_one(&mut world.database().await?)
            .await?;
        Ok((at > before).then_some(()))
    })
    .await?;
    assert_eq!(
        (
            rows(&world, NODES, "mirror").await?,
            count(&world, letters).await?
        ),
        ((6, 6), 3)
    );
    Ok(())
}

#[tokio::test]
async fn a_job_that_its_worker_removes_at_once_is_seen_by_its_event() -> anyhow::Result<()> {
    let world = World::new().await?;
    run(&world, NODES, 4, "", "remove").await?;
    let host = world.host(&[LOOKS]).await?;
    has_looked(&world, NODES).await?;
    assert_eq!(rows(&world, NODES, "mirror").await?, (4, 4));
    let failed = found(&host, &format!("queue={NODES}&outcome=failed")).await?;
    let mut messages: Vec<_> = failed
        .iter()
        .filter_map(|one| one["message"].as_str())
        .collect();
    messages.sort_unstable();
    assert_eq!(
        messages,
        ["no room for 1 on request", "no room for 3 on request"]
    );
    assert!(
        failed.iter().all(|one| one["host"] == "elsewhere"),
        "{failed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_a_host_ran_is_never_mirrored_though_another_worker_shares_its_queue()
-> anyhow::Result<()> {
    const JOBS: usize = 30;
    let world = World::new().await?;
    let host = host(&world, &[LOOKS]).await?;
    let mut theirs = node(&world, &["run", QUEUE, &JOBS.to_string(), "node-7", "keep"]).spawn()?;
    for n in 0..JOBS {
        host.add(QUEUE, json!({ "name": "noop", "data": { "n": n } }))
            .await?;
    }
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let ids = until(Duration::from_secs(60), "the end of all jobs", async || {
        let completed: Vec<String> = redis.zrange(key("completed"), 0, -1).await?;
        let failed: Vec<String> = redis.zrange(key("failed"), 0, -1).await?;
        let ids = [completed, failed].concat();
        Ok((ids.len() == 2 * JOBS).then_some(ids))
    })
    .await?;
    // The Node program would wait for ever for jobs that the host has taken.
    theirs.kill().await?;
    // And a job of the host that leaves only its event.
    let removed = json!({ "name": "noop", "data": {}, "removeOnComplete": true });
    let removed = host.add(QUEUE, removed).await?;
    has_ended(&world, QUEUE, &removed).await?;
    has_looked(&world, QUEUE).await?;

    let mut database = world.database().await?;
    for id in &ids {
        has_ended(&world, QUEUE, id).await?;
    }
    let by_host: Vec<String> =
        sqlx::query_scalar("select job_id from patchbay.attempts where source = 'host'")
            .fetch_all(&mut database)
            .await?;
    let mirrored: Vec<String> =
        sqlx::query_scalar("select job_id from patchbay.attempts where source = 'mirror'")
            .fetch_all(&mut database)
            .await?;
    assert!(by_host.contains(&removed) && !mirrored.contains(&removed));
    assert!(
        by_host.len() > 1 && !mirrored.is_empty(),
        "both have worked: {by_host:?}, {mirrored:?}"
    );
    for id in &ids {
        let worker: String = redis.hget(key(id), "pb").await?;
        let times = |list: &[String]| list.iter().filter(|one| *one == id).count();
        let expected = if worker == "node-7" { (0, 1) } else { (1, 0) };
        assert_eq!(
            (times(&by_host), times(&mirrored)),
            expected,
            "{id}, which {worker} ran"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_killed_as_it_looks_leaves_no_gap_and_no_double() -> anyhow::Result<()> {
    const JOBS: usize = 400;
    let world = World::new().await?;
    let mut first = world.host(&[LOOKS]).await?;
    let mut second = world.host(&[LOOKS]).await?;
    let (kept, removed, killed) = tokio::join!(
        run(&world, NODES, JOBS, "node-7", "keep"),
        run(&world, "goneQueue", JOBS, "", "remove"),
        async {
            until(Duration::from_secs(60), "the first of them", async || {
                Ok(
                    (count(&world, "select count(*) from patchbay.attempts").await? > 0)
                        .then_some(()),
                )
            })
            .await?;
            first.child.kill().await.context("kill")
        }
    );
    killed?;
    assert_eq!((kept?.len(), removed?.len()), (JOBS, JOBS));
    // For a while no mirror runs.
    second.child.kill().await?;
    run(&world, NODES, 10, "node-8", "keep").await?;
    let _third = world.host(&[LOOKS]).await?;
    has_looked(&world, NODES).await?;
    has_looked(&world, "goneQueue").await?;
    let all = i64::try_from(JOBS)?;
    assert_eq!(rows(&world, NODES, "mirror").await?, (all + 10, all + 10));
    assert_eq!(rows(&world, "goneQueue", "mirror").await?, (all, all));
    Ok(())
}

#[tokio::test]
async fn a_clock_that_was_put_back_hides_nothing() -> anyhow::Result<()> {
    let world = World::new().await?;
    for (jobs, places) in [
        (
            4,
            "update patchbay.mirror_places set completed_from_ms = 9e12, failed_from_ms = 9e12, \
        event = '9000000000000-0'",
        ),
        (8, "select 1"),
    ] {
        run(&world, NODES, 4, "node-7", "keep").await?;
        run(&world, "goneQueue", 4, "", "remove").await?;
        let host = world.host(&[LOOKS]).await?;
        has_looked(&world, NODES).await?;
        has_looked(&world, "goneQueue").await?;
        assert!(host.stop().await?.success());
        assert_eq!(rows(&world, NODES, "mirror").await?, (jobs, jobs));
        assert_eq!(rows(&world, "goneQueue", "mirror").await?, (jobs, jobs));
        // As if all this had ended in the year 2255.
        sqlx::query(places)
            .execute(&mut world.database().await?)
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn with_the_mirror_off_nobody_looks() -> anyhow::Result<()> {
    let world = World::new().await?;
    run(&world, NODES, 2, "node-7", "keep").await?;
    let host = host(&world, &[LOOKS, ("PATCHBAY_HISTORY_MIRROR", "false")]).await?;
    ran(&world, &host, "noop", json!({})).await?;
    assert_eq!(
        count(&world, "select count(*) from patchbay.mirror_places").await?,
        0
    );
    assert_eq!(rows(&world, NODES, "mirror").await?, (0, 0));
    Ok(())
}
