//! Operators' actions on jobs and queues, and harmful actions that the host refuses.

use std::time::{Duration, Instant};

use anyhow::Context;
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::harness::{Host, World, full_length, hostile_plugin, hostile_plugin_with, until};

const QUEUE: &str = "hostileQueue";

impl Host {
    /// The reasons why the queue does not move.
    async fn reasons(&self, queue: &str) -> anyhow::Result<Vec<Value>> {
        let (status, answer) = self.get(&format!("/api/admin/queues/{queue}/why")).await?;
        anyhow::ensure!(status == 200, "{answer}");
        Ok(answer["data"].as_array().context("reasons")?.clone())
    }

    /// The reason with this code.
    async fn reason(&self, queue: &str, code: &str) -> anyhow::Result<Value> {
        let reasons = self.reasons(queue).await?;
        let found = reasons.iter().find(|reason| reason["code"] == code);
        Ok(found.with_context(|| format!("{reasons:?}"))?.clone())
    }

    /// Codes of the reasons, without what operators changed last.
    async fn why(&self, queue: &str) -> anyhow::Result<Vec<String>> {
        let codes = self.reasons(queue).await?.into_iter();
        Ok(codes
            .filter_map(|reason| reason["code"].as_str().map(str::to_owned))
            .filter(|code| code != "last-change")
            .collect())
    }

    /// POST to the queue; returns the count in the answer.
    async fn act(&self, action: &str, body: Value) -> anyhow::Result<u64> {
        let (status, answer) = self
            .post(&format!("/api/admin/queues/{QUEUE}/{action}"), body)
            .await?;
        anyhow::ensure!(status == 200, "{action}: {answer}");
        answer["data"]["count"].as_u64().context("a count")
    }
}

async fn world_with_host(env: &[(&str, &str)]) -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    let host = world.host(env).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    Ok((world, host))
}

fn job(id: &str) -> String {
    format!("/api/admin/queues/{QUEUE}/jobs/{id}")
}

#[tokio::test]
async fn why_tells_who_paused_a_queue_until_it_is_resumed() -> anyhow::Result<()> {
    let (_world, host) = world_with_host(&[]).await?;
    assert_eq!(host.why(QUEUE).await?, ["empty"]);
    host.act("pause", json!({})).await?;
    let id = host.add(QUEUE, json!({ "name": "noop" })).await?;
    assert_eq!(host.why(QUEUE).await?, ["paused"]);
    let (_, answer) = host.get(&format!("/api/admin/queues/{QUEUE}/why")).await?;
    assert!(
        answer["data"][0]["message"]
            .as_str()
            .is_some_and(|text| text.contains("by operator at")),
        "{answer}"
    );
    let (_, queues) = host.get("/api/admin/queues").await?;
    let queue = queues["data"]
        .as_array()
        .and_then(|all| all.iter().find(|queue| queue["name"] == QUEUE));
    let queue = queue.context("the queue")?;
    assert_eq!(
        (&queue["counts"]["waiting"], &queue["counts"]["paused"]),
        (&json!(1), &json!(true))
    );
    assert!(queue["oldestWaitingMs"].is_u64(), "{queue}");
    host.act("resume", json!({})).await?;
    host.job_in(QUEUE, &id, "completed").await?;
    let (status, story) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
    assert_eq!(status, 200);
    assert_eq!(
        (
            &story["data"]["plugin"],
            story["data"]["workers"].as_array().map(Vec::len)
        ),
        (&json!("hostile"), Some(1))
    );
    until(Duration::from_secs(10), "statistics", async || {
        let (_, story) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
        Ok((story["data"]["jobs"][0]["lastMinute"] == 1).then_some(()))
    })
    .await?;

    host.post("/api/admin/plugins/hostile/deactivate", json!({}))
        .await?;
    until(Duration::from_secs(10), "no worker", async || {
        Ok((host.why(QUEUE).await? == ["plugin-deactivated"]).then_some(()))
    })
    .await?;
    assert_eq!(
        host.get("/api/admin/queues/emailQeue/why").await?.0,
        404,
        "a typo is no empty queue"
    );
    Ok(())
}

fn text<'a>(reason: &'a Value, name: &str) -> &'a str {
    reason[name].as_str().unwrap_or_default()
}

#[tokio::test]
async fn why_names_who_deactivated_the_plugin_and_the_command_that_undoes_it() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let digest = host.deploy("hostile", hostile_plugin()?).await?;
    let last = host.reason(QUEUE, "last-change").await?;
    assert!(
        text(&last, "message").contains("operator activated revision"),
        "{last}"
    );
    host.post("/api/admin/plugins/hostile/deactivate", json!({}))
        .await?;
    host.add(QUEUE, json!({ "name": "noop" })).await?;
    let reason = until(Duration::from_secs(10), "the reason", async || {
        Ok(host.reason(QUEUE, "plugin-deactivated").await.ok())
    })
    .await?;
    assert!(
        text(&reason, "message").starts_with("Plugin hostile was deactivated by operator at 20"),
        "{reason}"
    );
    assert_eq!(
        text(&reason, "next"),
        format!("patchbay plugin activate hostile {}", &digest[..12])
    );
    assert_eq!(host.why(QUEUE).await?, ["plugin-deactivated"]);
    Ok(())
}

#[tokio::test]
async fn why_names_a_revoked_grant_a_paused_schedule_and_failed_jobs_of_an_empty_queue()
-> anyhow::Result<()> {
    let (_world, host) = world_with_host(&[]).await?;
    let revoke = json!({ "asks": ["secret TOKEN"] });
    let (status, answer) = host
        .post("/api/admin/plugins/hostile/grants/revoke", revoke)
        .await?;
    assert_eq!(status, 200, "{answer}");
    let missing = host.reason(QUEUE, "grant-missing").await?;
    assert!(
        text(&missing, "message").contains("\"secret TOKEN\", but operator revoked it at 20"),
        "{missing}"
    );
    assert_eq!(
        text(&missing, "next"),
        "patchbay plugin grant hostile 'secret TOKEN'"
    );
    let grant = json!({ "asks": ["secret TOKEN"] });
    assert_eq!(
        host.post("/api/admin/plugins/hostile/grants", grant)
            .await?
            .0,
        200
    );
    assert_eq!(host.why(QUEUE).await?, ["empty"]);

    let hourly = json!({ "id": "hourly", "queue": QUEUE, "name": "noop", "everyMs": 3_600_000 });
    let (status, answer) = host.post("/api/admin/schedules", hourly).await?;
    assert_eq!(status, 200, "{answer}");
    host.post("/api/admin/schedules/hourly/pause", json!({}))
        .await?;
    let paused = host.reason(QUEUE, "schedule-paused").await?;
    assert!(
        text(&paused, "message").contains("paused by operator since 20"),
        "{paused}"
    );
    assert_eq!(text(&paused, "next"), "patchbay schedule resume hourly");
    let remove = host
        .http
        .delete(format!("{}/api/admin/schedules/hourly", host.url));
    assert_eq!(host.request(remove).await?.0, 200);

    let id = host.add(QUEUE, json!({ "name": "panic" })).await?;
    host.job_in(QUEUE, &id, "failed").await?;
    let failed = until(Duration::from_secs(20), "the history", async || {
        Ok(host.reason(QUEUE, "failed-jobs").await.ok())
    })
    .await?;
    assert_eq!(
        text(&failed, "message"),
        "Nothing waiting. 1 job failed in the last hour; Redis holds 1 failed job of this queue"
    );
    assert_eq!(
        text(&failed, "next"),
        "patchbay dead-letter list --queue hostileQueue"
    );
    Ok(())
}

#[tokio::test]
async fn a_waiting_job_is_edited_promoted_and_removed() -> anyhow::Result<()> {
    let (_world, host) = world_with_host(&[]).await?;
    let hour = json!({ "name": "echo", "data": { "n": 1 }, "delayMs": 3_600_000 });
    let id = host.add(QUEUE, hour.clone()).await?;
    assert_eq!(host.why(QUEUE).await?, ["only-delayed"]);
    assert_eq!(
        host.put(&(job(&id) + "/data"), json!({ "n": 2 })).await?.0,
        200
    );
    assert_eq!(
        host.put(&(job(&id) + "/priority"), json!({ "priority": 3 }))
            .await?
            .0,
        200
    );
    assert_eq!(
        host.put(&(job(&id) + "/priority"), json!({ "priority": 2_097_153 }))
            .await?
            .0,
        400
    );
    assert_eq!(
        host.put(&(job(&id) + "/delay"), json!({ "delayMs": 7_200_000 }))
            .await?
            .0,
        200
    );
    assert_eq!(host.post(&(job(&id) + "/promote"), json!({})).await?.0, 200);
    let story = host.job_in(QUEUE, &id, "completed").await?;
    let result: Value =
        serde_json::from_str(story["job"]["returnValue"].as_str().context("a result")?)?;
    assert_eq!(
        result["data"],
        json!({ "n": 2 }),
        "it ran with its new data"
    );

    // Actions that make no sense are refused with the reason.
    let (status, answer) = host.post(&(job(&id) + "/promote"), json!({})).await?;
    assert_eq!(status, 409, "{answer}");
    assert_eq!(
        answer["message"],
        "The job is completed; only delayed jobs can be promoted"
    );
    assert_eq!(
        host.put(&(job(&id) + "/delay"), json!({ "delayMs": 1 }))
            .await?
            .0,
        409
    );
    assert_eq!(host.post(&(job(&id) + "/kill"), json!({})).await?.0, 409);
    assert_eq!(host.delete(&job(&id)).await?.0, 200);
    for gone in [
        host.delete(&job(&id)).await?,
        host.post(&(job(&id) + "/retry"), json!({})).await?,
    ] {
        assert_eq!(gone.0, 404, "{}", gone.1);
    }
    let big = json!({ "filler": "x".repeat(1 << 20) });
    let id = host.add(QUEUE, hour).await?;
    assert_eq!(
        host.put(&(job(&id) + "/data"), big).await?.0,
        400,
        "more than a job may carry"
    );
    Ok(())
}

#[tokio::test]
async fn the_next_tick_of_a_schedule_is_neither_promoted_nor_removed() -> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    // As any BullMQ client leaves it.
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let tick = 4_102_444_800_000_u64;
    let id = format!("repeat:nightly:{tick}");
    redis
        .zadd::<_, _, _, ()>(key("repeat"), "nightly", tick)
        .await?;
    redis
        .hset_multiple::<_, _, _, ()>(
            key("repeat:nightly"),
            &[("name", "noop"), ("every", "1000")],
        )
        .await?;
    let fields = [
        ("name", "noop"),
        ("data", "{}"),
        ("opts", "{}"),
        ("timestamp", "1"),
        ("rjk", "nightly"),
    ];
    redis
        .hset_multiple::<_, _, _, ()>(key(&id), &fields)
        .await?;
    redis
        .zadd::<_, _, _, ()>(key("delayed"), &id, tick * 4096)
        .await?;

    for refused in [
        host.post(&(job(&id) + "/promote"), json!({})).await?,
        host.delete(&job(&id)).await?,
    ] {
        assert_eq!(refused.0, 409, "{}", refused.1);
        assert!(
            refused.1["message"]
                .as_str()
                .is_some_and(|text| text.contains("next tick of a schedule"))
        );
    }
    assert_eq!(
        host.act("put-back", json!({ "state": "delayed" })).await?,
        0
    );
    assert_eq!(host.act("drain", json!({ "delayed": true })).await?, 0);
    host.job_in(QUEUE, &id, "delayed").await?;
    Ok(())
}

#[tokio::test]
async fn whole_queues_are_cleaned_drained_put_back_and_obliterated() -> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    let never = json!({ "name": "fail", "data": { "retry": "never" } });
    let ids = [
        host.add(QUEUE, never.clone()).await?,
        host.add(QUEUE, never).await?,
    ];
    for id in &ids {
        host.job_in(QUEUE, id, "failed").await?;
    }
    assert_eq!(host.act("put-back", json!({ "state": "failed" })).await?, 2);
    for id in &ids {
        until(Duration::from_secs(10), "a second attempt", async || {
            let (_, story) = host.get(&job(id)).await?;
            Ok((story["data"]["attempts"]
                .as_array()
                .is_some_and(|all| all.len() == 2))
            .then_some(()))
        })
        .await?;
    }
    assert_eq!(
        host.act(
            "clean",
            json!({ "state": "failed", "olderThanMs": 3_600_000 })
        )
        .await?,
        0
    );
    assert_eq!(host.act("clean", json!({ "state": "failed" })).await?, 2);
    let (status, _) = host
        .post(
            &format!("/api/admin/queues/{QUEUE}/clean"),
            json!({ "state": "asleep" }),
        )
        .await?;
    assert!((400..500).contains(&status), "{status}");

    host.act("pause", json!({})).await?;
    for n in 0..3 {
        host.add(QUEUE, json!({ "name": "noop", "priority": n }))
            .await?;
    }
    host.add(QUEUE, json!({ "name": "noop", "delayMs": 3_600_000 }))
        .await?;
    assert_eq!(host.act("drain", json!({})).await?, 3);
    assert_eq!(host.act("drain", json!({ "delayed": true })).await?, 1);
    host.add(QUEUE, json!({ "name": "noop" })).await?;
    let path = format!("/api/admin/queues/{QUEUE}/obliterate");
    assert_eq!(
        host.post(&path, json!({ "confirm": "hostile" })).await?.0,
        400,
        "not the queue's name"
    );
    assert_eq!(
        host.post(&path, json!({ "confirm": QUEUE })).await?.1["data"]["count"],
        1
    );
    let keys: Vec<String> = world
        .redis()
        .await?
        .keys(format!("{}:{QUEUE}:*", world.prefix))
        .await?;
    assert!(
        keys.iter().all(|key| key.ends_with(":stalled-check")),
        "{keys:?}"
    );

    // The queue stays with its plugin, and every action is recorded with its count.
    let id = host.add(QUEUE, json!({ "name": "noop" })).await?;
    host.job_in(QUEUE, &id, "completed").await?;
    let counts: Vec<(String, Option<i64>)> = sqlx::query_as(
        "select action, (result->>'count')::bigint from patchbay.operator_actions where action like 'queue.%' and error is null order by id",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    let of = |action: &str| {
        counts
            .iter()
            .filter(|(name, _)| name == action)
            .filter_map(|(_, n)| *n)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (of("queue.put-back"), of("queue.clean"), of("queue.drain")),
        (vec![2], vec![0, 2], vec![3, 1])
    );
    Ok(())
}

#[tokio::test]
async fn limits_over_all_workers_hold_and_why_names_them() -> anyhow::Result<()> {
    let (_world, host) = world_with_host(&[]).await?;
    let path = |limit: &str| format!("/api/admin/queues/{QUEUE}/{limit}");
    assert_eq!(
        host.put(&path("rate-limit"), json!({ "max": 1, "perMs": 60_000 }))
            .await?
            .0,
        200
    );
    assert_eq!(
        host.put(&path("rate-limit"), json!({ "max": 0 })).await?.0,
        400
    );
    assert_eq!(
        host.put(&path("concurrency"), json!({ "max": 0 })).await?.0,
        400
    );
    let first = host.add(QUEUE, json!({ "name": "noop" })).await?;
    host.job_in(QUEUE, &first, "completed").await?;
    let second = host.add(QUEUE, json!({ "name": "noop" })).await?;
    until(Duration::from_secs(5), "the limit", async || {
        Ok((host.why(QUEUE).await? == ["rate-limited"]).then_some(()))
    })
    .await?;
    assert_eq!(host.put(&path("rate-limit"), json!({})).await?.0, 200);
    host.job_in(QUEUE, &second, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn a_running_job_is_killed_by_another_host_than_the_one_that_runs_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let patient = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 60_000")
    })?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", patient).await?;
    let id = host.add(QUEUE, json!({ "name": "sleep" })).await?;
    host.job_in(QUEUE, &id, "active").await?;
    // This host's worker has no jobs to take; the running job belongs to the first host.
    let other = world.host(&[]).await?;
    let started = Instant::now();
    let (status, answer) = other.post(&(job(&id) + "/kill"), json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        started.elapsed()
    );
    let story = host.job_in(QUEUE, &id, "failed").await?;
    assert_eq!(story["job"]["failedReason"], "killed: ended by operator");
    until(Duration::from_secs(10), "its attempt", async || {
        let (_, story) = host.get(&job(&id)).await?;
        Ok((story["data"]["attempts"][0]["code"] == "killed").then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn beside_bullmq_5_pausing_is_refused_and_jobs_it_put_aside_come_back() -> anyhow::Result<()>
{
    let (world, host) = world_with_host(&[("PATCHBAY_REDIS_NODE_BULLMQ_MAJOR", "5")]).await?;
    let (status, answer) = host
        .post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("mixed-fleet")),
        "{answer}"
    );
    assert_eq!(
        host.post("/api/admin/queues/pause", json!({ "all": true }))
            .await?
            .0,
        409
    );
    // As BullMQ 5 pauses: waiting jobs move to `paused`, and new ones go there.
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    redis
        .hset::<_, _, _, ()>(key("meta"), "paused", "1")
        .await?;
    let id = host.add(QUEUE, json!({ "name": "noop" })).await?;
    redis.rename::<_, _, ()>(key("wait"), key("paused")).await?;
    redis.hdel::<_, _, ()>(key("meta"), "paused").await?;
    assert_eq!(host.why(QUEUE).await?, ["put-aside"]);
    host.act("resume", json!({})).await?;
    host.job_in(QUEUE, &id, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn an_urgent_job_starts_within_a_second_behind_tens_of_thousands_of_others()
-> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    let waiting = if full_length() { 50_000 } else { 5_000 };
    host.act("pause", json!({})).await?;
    let queues = patchbay_queue::Broker::connect(patchbay_queue::RedisConfig {
        url: world.redis_url.clone(),
        prefix: world.prefix.clone(),
        own_prefix: format!("{}-own", world.prefix),
        ..patchbay_queue::RedisConfig::default()
    })
    .await?;
    let new = patchbay_model::job::NewJob::new;
    let reminder = patchbay_model::job::NewJob {
        priority: Some(10),
        ..new(QUEUE.parse()?, "spin", r#"{"ms":20}"#)
    };
    for _ in 0..waiting / 500 {
        queues.add(vec![reminder.clone(); 500]).await?;
    }
    host.act("resume", json!({})).await?;
    until(
        Duration::from_secs(10),
        "all workers are busy",
        async || {
            let (_, story) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
            Ok((story["data"]["counts"]["active"].as_u64() >= Some(8)).then_some(()))
        },
    )
    .await?;
    assert_eq!(host.why(QUEUE).await?, ["busy"]);
    let started = Instant::now();
    let otp = host.add(QUEUE, json!({ "name": "noop" })).await?;
    host.job_in(QUEUE, &otp, "completed").await?;
    let took = started.elapsed();
    println!("it was done after {took:?}, behind {waiting} others");
    assert!(took < Duration::from_secs(1), "{took:?}");
    Ok(())
}
