//! Redis holds data that BullMQ would not have written: the damage is reported, hides nothing else
//! and loses nothing. Input that would cause such damage is refused.

use std::time::Duration;

use anyhow::Context;
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::harness::{Host, PASSWORD, USER, World, binary, hostile_plugin, until};

const QUEUE: &str = "hostileQueue";
/// A queue that nobody works on.
const IDLE: &str = "idleQueue";

async fn world_with_host() -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    Ok((world, host))
}

fn path(queue: &str, rest: &str) -> String {
    format!("/api/admin/queues/{queue}/{rest}")
}

/// Status and code of a refusal; its message must contain the words.
async fn refused(
    answer: anyhow::Result<(u16, Value)>,
    words: &str,
) -> anyhow::Result<(u16, String)> {
    let (status, answer) = answer?;
    let message = answer["message"]
        .as_str()
        .with_context(|| format!("no refusal: {status} {answer}"))?;
    anyhow::ensure!(message.contains(words), "{words:?} is not in {answer}");
    Ok((
        status,
        answer["code"].as_str().context("a code")?.to_owned(),
    ))
}

fn damaged() -> (u16, String) {
    (500, "damaged-data".into())
}

#[tokio::test]
async fn a_damaged_queue_is_named_and_the_others_are_shown_and_paused() -> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    let mut redis = world.redis().await?;
    redis
        .set::<_, _, ()>(format!("{}:broken:meta", world.prefix), "x")
        .await?;
    redis
        .hset::<_, _, _, ()>(format!("{}:odd:meta", world.prefix), "concurrency", "x")
        .await?;
    redis
        .set::<_, _, ()>([world.prefix.as_bytes(), b":\xff\xfe:meta"].concat(), "x")
        .await?;
    host.add(QUEUE, json!({ "name": "noop", "delayMs": 3_600_000 }))
        .await?;

    let (status, queues) = host.get("/api/admin/queues").await?;
    assert_eq!(status, 200, "{queues}");
    let queue = |name: &str| {
        let all = queues["data"].as_array().context("a list")?;
        all.iter()
            .find(|queue| queue["name"] == name)
            .context("the queue")
            .cloned()
    };
    assert_eq!(queue(QUEUE)?["counts"]["delayed"], 1);
    assert_eq!(queue(QUEUE)?["error"], Value::Null);
    for (name, words) in [
        ("broken", "broken:meta: WRONGTYPE"),
        ("odd", "concurrency is not a number"),
    ] {
        let error = queue(name)?["error"]
            .as_str()
            .context("an error")?
            .to_owned();
        assert!(error.contains(words), "{error}");
        let (_, why) = host.get(&path(name, "why")).await?;
        assert_eq!(why["data"][0]["code"], "damaged-data", "{why}");
    }
    let list = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command
            .args(args)
            .env("PATCHBAY_URL", &host.url)
            .env("PATCHBAY_USER", USER)
            .env("PATCHBAY_PASSWORD", PASSWORD);
        command.output().await
    };
    let listed = String::from_utf8(list(&["queue", "list"]).await?.stdout)?;
    assert!(listed.contains("broken:meta: WRONGTYPE"), "{listed}");

    for (action, paused) in [("pause", true), ("resume", false)] {
        let (status, done) = host
            .post(
                &format!("/api/admin/queues/{action}"),
                json!({ "all": true }),
            )
            .await?;
        assert_eq!(
            (status, &done["data"]["failures"][0]["queue"]),
            (200, &json!("broken")),
            "{done}"
        );
        assert_eq!(
            done["data"]["failures"].as_array().map(Vec::len),
            Some(1),
            "{done}"
        );
        let (_, story) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
        assert_eq!(story["data"]["counts"]["paused"], paused, "{story}");
    }
    assert!(
        !list(&["queue", "pause", "--all"]).await?.status.success(),
        "not every queue is paused"
    );
    assert_eq!(
        refused(
            host.post(&path("broken", "pause"), json!({})).await,
            "WRONGTYPE"
        )
        .await?,
        damaged()
    );
    Ok(())
}

#[tokio::test]
async fn jobs_with_damaged_bookkeeping_fail_with_the_reason_and_no_worker_is_held_up()
-> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    let mut redis = world.redis().await?;
    let key = |id: &str| format!("{}:{QUEUE}:{id}", world.prefix);
    for (field, value, reason) in [
        ("atm", "x", "its field atm is not a count"),
        ("atm", "4294967295", "its field atm is not a count"),
        ("ats", "x", "its field ats is not a count"),
        ("stc", "-", "its field stc is not a count"),
        ("parent", "{", "its field parent does not name a job"),
    ] {
        let id = host
            .add(QUEUE, json!({ "name": "noop", "delayMs": 3_600_000 }))
            .await?;
        redis.hset::<_, _, _, ()>(key(&id), field, value).await?;
        world.promote(QUEUE, &id).await?;
        let story = host.job_in(QUEUE, &id, "failed").await?;
        let failed = story["job"]["failedReason"].as_str().context("a reason")?;
        assert!(
            failed.starts_with("invalid-input") && failed.contains(reason),
            "{field}={value}: {failed}"
        );
    }
    // The job's hash has another type, or is gone: BullMQ's scripts cannot use it.
    for (id, gone) in [("list", false), ("gone", true)] {
        host.add(
            QUEUE,
            json!({ "name": "noop", "id": id, "delayMs": 3_600_000 }),
        )
        .await?;
        redis.del::<_, ()>(key(id)).await?;
        if !gone {
            redis.lpush::<_, _, ()>(key(id), "x").await?;
        }
        world.promote(QUEUE, id).await?;
        host.job_in(QUEUE, id, "failed").await?;
        assert_eq!(
            host.delete(&path(QUEUE, &format!("jobs/{id}"))).await?.0,
            200
        );
    }
    let id = host.add(QUEUE, json!({ "name": "noop" })).await?;
    host.job_in(QUEUE, &id, "completed").await?;
    let active: usize = redis.llen(key("active")).await?;
    assert_eq!(active, 0);
    Ok(())
}

#[tokio::test]
async fn a_flows_parent_learns_of_a_child_whose_link_to_it_was_damaged() -> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    let child = json!({ "queue": QUEUE, "job": { "name": "noop", "delayMs": 3_600_000 }, "onFailure": "fail-parent" });
    let flow = json!({ "queue": QUEUE, "job": { "name": "noop" }, "children": [child] });
    let (status, added) = host.post("/api/admin/flows", flow).await?;
    assert_eq!(status, 200, "{added}");
    let id = |place: usize| added["data"]["jobs"][place]["id"].as_str().context("an id");
    let mut redis = world.redis().await?;
    redis
        .hset::<_, _, _, ()>(
            format!("{}:{QUEUE}:{}", world.prefix, id(1)?),
            "parent",
            "nonsense",
        )
        .await?;
    world.promote(QUEUE, id(1)?).await?;
    host.job_in(QUEUE, id(1)?, "failed").await?;
    host.job_in(QUEUE, id(0)?, "failed").await?;
    Ok(())
}

#[tokio::test]
async fn a_settlement_that_stops_half_way_leaves_the_job_among_the_failed() -> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    let mut redis = world.redis().await?;
    // Read only when a job ends, after the script has removed it from the active jobs.
    redis
        .set::<_, _, ()>(format!("{}:{QUEUE}:completed", world.prefix), "x")
        .await?;
    let ids = [
        host.add(QUEUE, json!({ "name": "noop" })).await?,
        host.add(QUEUE, json!({ "name": "noop" })).await?,
    ];
    for id in &ids {
        let story = host.job_in(QUEUE, id, "failed").await?;
        let reason = story["job"]["failedReason"].as_str().context("a reason")?;
        assert!(
            reason.starts_with("damaged-data") && reason.ends_with("the job had completed"),
            "{reason}"
        );
    }
    redis
        .del::<_, ()>(format!("{}:{QUEUE}:completed", world.prefix))
        .await?;
    assert_eq!(
        host.post(&path(QUEUE, "put-back"), json!({ "state": "failed" }))
            .await?
            .0,
        200
    );
    for id in &ids {
        host.job_in(QUEUE, id, "completed").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_takes_nothing_from_a_queue_whose_lists_are_none_and_loses_nothing()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let id = host
        .add(QUEUE, json!({ "name": "noop", "delayMs": 1 }))
        .await?;
    let mut redis = world.redis().await?;
    let wait = format!("{}:{QUEUE}:wait", world.prefix);
    redis.set::<_, _, ()>(&wait, "x").await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    // The first thing that a worker writes.
    until(Duration::from_secs(10), "a worker", async || {
        let there: bool = redis
            .exists(format!("{}:{QUEUE}:stalled-check", world.prefix))
            .await?;
        Ok(there.then_some(()))
    })
    .await?;
    host.job_in(QUEUE, &id, "delayed").await?;
    redis.del::<_, ()>(&wait).await?;
    host.job_in(QUEUE, &id, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn a_flow_or_job_for_a_damaged_queue_leaves_nothing_behind() -> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    let mut redis = world.redis().await?;
    let key = |queue: &str, name: &str| format!("{}:{queue}:{name}", world.prefix);
    redis.set::<_, _, ()>(key(IDLE, "wait"), "x").await?;
    // It has the right type, but BullMQ's script still cannot use it.
    redis
        .hset::<_, _, _, ()>(key("odd", "meta"), "concurrency", "x")
        .await?;
    for (queue, words) in [
        (IDLE, "wait is a string, and BullMQ keeps a list there"),
        ("odd", "ERR"),
    ] {
        let child =
            |queue: &str| json!({ "queue": queue, "job": { "name": "n", "newQueue": true } });
        let flow = json!({
            "queue": "parents", "job": { "name": "n", "id": "root", "newQueue": true }, "children": [child("parents"), child(queue)]
        });
        let answer = host.post("/api/admin/flows", flow).await;
        assert_eq!(refused(answer, words).await?, damaged());
        let alone = host
            .post(
                &path(queue, "jobs"),
                json!({ "name": "n", "newQueue": true }),
            )
            .await;
        assert_eq!(refused(alone, words).await?, damaged());
        let named = json!({ "name": "n", "id": "mine", "newQueue": true });
        assert_eq!(
            refused(host.post(&path(queue, "jobs"), named).await, words).await?,
            damaged()
        );
        for queue in ["parents", queue] {
            for list in ["waiting-children", "marker"] {
                let there: usize = redis.zcard(key(queue, list)).await?;
                assert!(list == "marker" || there == 0, "{queue} {list}");
            }
            let keys: Vec<String> = redis.keys(key(queue, "*")).await?;
            let known = ["meta", "id", "events", "wait", "marker"];
            let stray = keys
                .iter()
                .filter(|key| !known.iter().any(|name| key.ends_with(&format!(":{name}"))));
            assert_eq!(
                stray.collect::<Vec<_>>(),
                Vec::<&String>::new(),
                "after {words}"
            );
        }
    }
    let waiting: usize = redis.llen(key("parents", "wait")).await?;
    assert_eq!(waiting, 0);
    Ok(())
}

#[tokio::test]
async fn jobs_that_cannot_be_read_are_shown_beside_the_others_and_removed() -> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let failed = host
        .add(
            QUEUE,
            json!({ "name": "fail", "data": { "retry": "never" } }),
        )
        .await?;
    host.job_in(QUEUE, &failed, "failed").await?;
    for (id, score) in [("ghost", 1), ("bytes", 2), ("number", 3), ("meta", 4)] {
        redis.zadd::<_, _, _, ()>(key("failed"), id, score).await?;
    }
    redis
        .zadd::<_, _, _, ()>(key("failed"), &b"\xff\xfe"[..], 5)
        .await?;
    redis
        .hset::<_, _, _, ()>(key("bytes"), "data", &b"{\"a\":\"\xff\"}"[..])
        .await?;
    redis
        .hset::<_, _, _, ()>(key("bytes"), "timestamp", "1")
        .await?;
    redis.set::<_, _, ()>(key("number"), 5).await?;
    let (status, list) = host.get(&path(QUEUE, "jobs?state=failed")).await?;
    assert_eq!(
        (status, list["data"].as_array().map(Vec::len)),
        (200, Some(6)),
        "{list}"
    );
    let meta_before: usize = redis.hlen(key("meta")).await?;
    for (id, damage) in [
        ("ghost", "hash is missing"),
        ("bytes", ""),
        ("number", "WRONGTYPE"),
        ("meta", "incomplete"),
    ] {
        let job = path(QUEUE, &format!("jobs/{id}"));
        let (status, story) = host.get(&job).await?;
        assert_eq!(
            (status, &story["data"]["job"]["state"]),
            (200, &json!("failed")),
            "{story}"
        );
        assert!(
            story["data"]["job"]["damage"]
                .as_str()
                .unwrap_or_default()
                .contains(damage),
            "{story}"
        );
        let (status, answer) = host.delete(&job).await?;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(host.get(&job).await?.0, 404, "{id}");
    }
    let meta_after: usize = redis.hlen(key("meta")).await?;
    assert_eq!(meta_before, meta_after, "the queue's own key is no job's");

    for (page, words) in [
        ("jobs?state=failed&limit=0", "limit"),
        ("jobs?state=failed&offset=18446744073709551615", "offset"),
        (
            "jobs?state=waiting&offset=9223372036854775807&limit=200",
            "offset",
        ),
    ] {
        assert_eq!(
            refused(host.get(&path(QUEUE, page)).await, words).await?,
            (400, "invalid-input".into())
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_new_rate_counts_at_once_and_absurd_ones_are_refused() -> anyhow::Result<()> {
    let (_world, host) = world_with_host().await?;
    let rate = path(QUEUE, "rate-limit");
    for absurd in [
        json!({ "max": 1, "perMs": u64::MAX }),
        json!({ "max": 1, "perMs": 86_400_001_u64 }),
        json!({ "max": (1_u64 << 31) + 1 }),
        json!({ "max": 1, "perMs": 0 }),
    ] {
        assert_eq!(
            refused(host.put(&rate, absurd).await, "one day").await?.0,
            400
        );
    }
    assert_eq!(
        host.put(&rate, json!({ "max": 1, "perMs": 86_400_000 }))
            .await?
            .0,
        200
    );
    let first = host.add(QUEUE, json!({ "name": "noop" })).await?;
    host.job_in(QUEUE, &first, "completed").await?;
    let second = host.add(QUEUE, json!({ "name": "noop" })).await?;
    until(Duration::from_secs(5), "the limit", async || {
        let (_, why) = host.get(&path(QUEUE, "why")).await?;
        Ok((why["data"][0]["code"] == "rate-limited").then_some(()))
    })
    .await?;
    assert_eq!(
        host.put(&rate, json!({ "max": 1_000, "perMs": 1_000 }))
            .await?
            .0,
        200
    );
    host.job_in(QUEUE, &second, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn times_beyond_bounds_are_refused() -> anyhow::Result<()> {
    let (_world, host) = world_with_host().await?;
    for (option, value) in [
        ("delayMs", json!(u64::MAX)),
        ("expiresAtMs", json!(u64::MAX)),
        ("deduplication", json!({ "id": "k", "ttlMs": u64::MAX })),
        ("removeOnFail", json!({ "age": u64::MAX })),
        ("backoff", json!({ "type": "fixed", "delayMs": u64::MAX })),
    ] {
        let mut job = json!({ "name": "noop" });
        job[option] = value;
        assert_eq!(
            refused(host.post(&path(QUEUE, "jobs"), job).await, "five years")
                .await?
                .0,
            400
        );
    }
    let id = host
        .add(QUEUE, json!({ "name": "noop", "delayMs": 3_600_000 }))
        .await?;
    let delay = path(QUEUE, &format!("jobs/{id}/delay"));
    assert_eq!(
        refused(
            host.put(&delay, json!({ "delayMs": u64::MAX })).await,
            "five years"
        )
        .await?
        .0,
        400
    );

    let schedule = |id: &str, every: u64, name: &str, data: Value| json!({ "id": id, "queue": QUEUE, "everyMs": every, "name": name, "data": data });
    for (schedule, words) in [
        (
            schedule("a", i64::MAX as u64, "noop", json!({})),
            "ten years",
        ),
        (schedule("b", u64::MAX, "noop", json!({})), "too large"),
        (schedule("c", 60_000, &"n".repeat(257), json!({})), "name"),
        (
            schedule("d", 60_000, "noop", json!("x".repeat(1 << 20))),
            "larger",
        ),
    ] {
        assert_eq!(
            refused(host.post("/api/admin/schedules", schedule).await, words)
                .await?
                .0,
            400
        );
    }
    let preview = host
        .post(
            "/api/admin/schedules/preview",
            json!({ "everyMs": i64::MAX }),
        )
        .await;
    assert_eq!(refused(preview, "ten years").await?.0, 400);
    let (status, schedules) = host.get("/api/admin/schedules").await?;
    assert_eq!(
        (status, &schedules["data"]),
        (200, &json!([])),
        "nothing was stored"
    );
    Ok(())
}

#[tokio::test]
async fn a_queue_that_nobody_knows_is_a_typo_unless_it_is_meant() -> anyhow::Result<()> {
    let (world, host) = world_with_host().await?;
    let unknown = (404, "unknown-queue".to_owned());
    for rest in ["jobs?state=waiting", "jobs/1", "why"] {
        assert_eq!(
            refused(host.get(&path("nope", rest)).await, "nope").await?,
            unknown
        );
    }
    for action in ["jobs/1/retry", "jobs/1/promote", "jobs/1/kill", "pause"] {
        assert_eq!(
            refused(host.post(&path("nope", action), json!({})).await, "nope").await?,
            unknown
        );
    }
    let job = json!({ "name": "n", "data": null });
    assert_eq!(
        refused(
            host.post(&path("nope", "jobs"), job.clone()).await,
            "--new-queue"
        )
        .await?,
        unknown
    );
    let child = json!({ "queue": "nope", "job": { "name": "n" } });
    let flow = json!({ "queue": QUEUE, "job": { "name": "noop" }, "children": [child] });
    assert_eq!(
        refused(host.post("/api/admin/flows", flow).await, "nope").await?,
        unknown
    );
    let keys: Vec<String> = world
        .redis()
        .await?
        .keys(format!("{}:nope:*", world.prefix))
        .await?;
    assert_eq!(keys, Vec::<String>::new());

    let id = host.add("nope", job.clone()).await?;
    let (_, story) = host.get(&path("nope", &format!("jobs/{id}"))).await?;
    assert_eq!(story["data"]["job"]["data"], "null", "as BullMQ stores it");
    assert_eq!(
        host.post(&path("nope", "jobs"), job).await?.0,
        200,
        "now it is known"
    );
    Ok(())
}
