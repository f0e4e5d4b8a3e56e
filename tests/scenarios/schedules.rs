//! Scheduled jobs: ticks cannot pile up, and they cannot stop.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::commands::{json_of, patchbay};
use crate::harness::{
    Host, World, echo_plugin, full_length, hostile_plugin, hostile_plugin_with, until,
};

const QUEUE: &str = "hostileQueue";
/// A crashed host's jobs come back after about two lock times instead of half a minute.
const SHORT_LOCKS: &[(&str, &str)] = &[
    ("PATCHBAY_WORK_LOCK_S", "3"),
    ("PATCHBAY_WORK_RENEW_S", "1"),
];

impl Host {
    async fn schedule(&self, id: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.get(&format!("/api/admin/schedules/{id}")).await?;
        anyhow::ensure!(status == 200, "{answer}");
        Ok(answer["data"].clone())
    }

    async fn schedules(&self) -> anyhow::Result<Vec<Value>> {
        let (_, answer) = self.get("/api/admin/schedules").await?;
        Ok(answer["data"].as_array().context("a list")?.clone())
    }
}

async fn world_with_host(env: &[(&str, &str)]) -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    let host = world.host(env).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    Ok((world, host))
}

fn every_second(id: &str) -> Value {
    json!({ "id": id, "queue": QUEUE, "name": "noop", "everyMs": 1_000 })
}

/// Completed ticks by job id, each with its number of completions.
async fn completed(world: &World, id: &str) -> anyhow::Result<HashMap<String, i64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select job_id, count(*) from patchbay.attempts where job_id like $1 and verdict = 'complete' group by job_id",
    )
    .bind(format!("repeat:{id}:%"))
    .fetch_all(&mut world.database().await?)
    .await?;
    Ok(rows.into_iter().collect())
}

async fn ticks(world: &World, id: &str, at_least: usize) -> anyhow::Result<()> {
    until(
        Duration::from_secs(30),
        &format!("{at_least} ticks of {id}"),
        async || Ok((completed(world, id).await?.len() >= at_least).then_some(())),
    )
    .await
}

#[tokio::test]
async fn a_schedule_is_made_changed_paused_run_and_removed() -> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    let (status, made) = host
        .post("/api/admin/schedules", every_second("beat"))
        .await?;
    assert_eq!(status, 200, "{made}");
    assert!(made["data"]["nextAt"].is_string(), "{made}");
    assert_eq!(
        host.post("/api/admin/schedules", every_second("beat"))
            .await?
            .0,
        409,
        "an id is taken once"
    );
    ticks(&world, "beat", 2).await?;
    assert_eq!(
        host.schedule("beat").await?["next"]
            .as_array()
            .map(Vec::len),
        Some(5)
    );

    let patch = host
        .http
        .patch(format!("{}/api/admin/schedules/beat", host.url));
    let nightly = json!({ "cron": "59 23 * * *", "tz": "Asia/Kolkata" });
    let (status, changed) = host.request(patch.json(&nightly)).await?;
    assert_eq!(status, 200, "{changed}");
    assert!(
        changed["data"]["nextAt"]
            .as_str()
            .is_some_and(|at| at.ends_with("T18:29:00.000Z")),
        "{changed}"
    );
    assert_eq!(changed["data"]["everyMs"], Value::Null);
    assert!(
        changed["data"]["nextAtLocal"]
            .as_str()
            .is_some_and(|at| at.ends_with("T23:59:00.000+05:30")),
        "{changed}"
    );
    let ran = &changed["data"]["lastRun"];
    assert!(
        ran["jobId"]
            .as_str()
            .is_some_and(|id| id.starts_with("repeat:beat:"))
            && ran["state"] == "completed"
            && ran["finishedAt"].is_string(),
        "{changed}"
    );
    let said = async |args: &[&str]| -> anyhow::Result<String> {
        Ok(String::from_utf8(patchbay(&host, args).await?.stdout)?)
    };
    let shown = said(&["schedule", "show", "beat"]).await?;
    for part in [
        " 23:59 IST (18:29 UTC)",
        "Last run: 20",
        ": completed",
        "If missed: skipped. Created by: operator",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    let (status, paused) = host
        .post("/api/admin/schedules/beat/pause", json!({}))
        .await?;
    assert_eq!(
        (
            status,
            &paused["data"]["pausedBy"],
            &paused["data"]["nextAt"]
        ),
        (200, &json!("operator"), &Value::Null)
    );
    assert!(
        host.schedule("beat").await?["next"].is_null(),
        "a paused schedule has no ticks"
    );
    let shown = said(&["schedule", "show", "beat"]).await?;
    assert!(
        shown.contains("Paused by operator since 20")
            && shown.contains("Next: patchbay schedule resume beat")
            && !shown.contains("Then:"),
        "{shown}"
    );
    let (_, ran) = host
        .post("/api/admin/schedules/beat/run", json!({}))
        .await?;
    host.job_in(
        QUEUE,
        ran["data"]["id"].as_str().context("an id")?,
        "completed",
    )
    .await?;
    let (_, resumed) = host
        .post("/api/admin/schedules/beat/resume", json!({}))
        .await?;
    assert!(resumed["data"]["nextAt"].is_string(), "{resumed}");

    let remove = host
        .http
        .delete(format!("{}/api/admin/schedules/beat", host.url));
    assert_eq!(host.request(remove).await?.0, 200);
    assert_eq!(host.get("/api/admin/schedules/beat").await?.0, 404);
    let left: Vec<String> = world
        .redis()
        .await?
        .zrange(format!("{}:{QUEUE}:repeat", world.prefix), 0, -1)
        .await?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn a_tick_that_waits_in_a_paused_queue_goes_with_its_schedule() -> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    for undo in ["pause", "remove"] {
        host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
            .await?;
        host.post("/api/admin/schedules", every_second("beat"))
            .await?;
        let wait = format!("{}:{QUEUE}:wait", world.prefix);
        let delayed: Vec<String> = world
            .redis()
            .await?
            .zrange(format!("{}:{QUEUE}:delayed", world.prefix), 0, -1)
            .await?;
        // As another host does when it is due.
        let tick = delayed.first().context("a tick")?;
        world.promote(QUEUE, tick).await?;
        assert_eq!(world.redis().await?.llen::<_, usize>(&wait).await?, 1);
        let url = format!("{}/api/admin/schedules/beat", host.url);
        if undo == "pause" {
            assert_eq!(
                host.post("/api/admin/schedules/beat/pause", json!({}))
                    .await?
                    .0,
                200
            );
        }
        if undo == "remove" {
            assert_eq!(host.request(host.http.delete(&url)).await?.0, 200);
        }
        assert_eq!(
            world.redis().await?.llen::<_, usize>(&wait).await?,
            0,
            "{undo}"
        );
        host.request(host.http.delete(&url)).await?;
        host.post(&format!("/api/admin/queues/{QUEUE}/resume"), json!({}))
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_never_comes_or_cannot_be_read_is_refused_and_nothing_is_stored() -> anyhow::Result<()>
{
    let (_world, host) = world_with_host(&[]).await?;
    let with = |change: Value| {
        let mut body = json!({ "id": "odd", "queue": QUEUE, "name": "noop" });
        body.as_object_mut()
            .expect("an object")
            .extend(change.as_object().expect("an object").clone());
        body
    };
    for (change, says) in [
        (json!({ "cron": "0 0 31 2 *" }), "never matches a date"),
        (
            json!({ "cron": "61 * * * *" }),
            "cannot read the cron expression",
        ),
        (
            json!({ "cron": "0 0 * * *", "tz": "Asia/Calcuta" }),
            "no time zone",
        ),
        (json!({ "everyMs": 10 }), "at least 1000 ms"),
        (
            json!({ "everyMs": 5_000, "cron": "* * * * *" }),
            "either an interval, or a cron expression",
        ),
        (json!({}), "either an interval, or a cron expression"),
        (json!({ "everyMs": 5_000, "id": "a:b" }), "schedule id"),
    ] {
        let (status, answer) = host.post("/api/admin/schedules", with(change)).await?;
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.contains(says)),
            "{says}: {answer}"
        );
    }
    let (status, answer) = host
        .post(
            "/api/admin/schedules",
            with(json!({ "queue": "nobodys", "everyMs": 5_000 })),
        )
        .await?;
    assert_eq!(status, 404, "{answer}");
    assert!(host.schedules().await?.is_empty());

    let never = hostile_plugin_with(|manifest| {
        manifest
            + "\n[[schedules]]\nid = \"x\"\nqueue = \"hostileQueue\"\nname = \"noop\"\ncron = \"0 0 30 2 *\"\n"
    });
    assert!(
        never.is_err_and(|error| error.to_string().contains("schedules[0]")),
        "the manifest is refused, and says where"
    );
    Ok(())
}

#[tokio::test]
async fn a_plugins_schedules_come_change_and_go_with_its_revisions() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let scheduled = |every_ms: u64| {
        hostile_plugin_with(|manifest| {
            format!(
                "{manifest}\n[[schedules]]\nid = \"pulse\"\nqueue = \"{QUEUE}\"\nname = \"noop\"\nevery_ms = {every_ms}\n"
            )
        })
    };
    let every = async |ms: Option<u64>| {
        until(
            Duration::from_secs(10),
            &format!("every {ms:?}"),
            async || {
                let schedules = host.schedules().await?;
                let seen = schedules.first().and_then(|schedule| {
                    schedule["nextAt"].as_str()?;
                    schedule["everyMs"].as_u64()
                });
                Ok((seen == ms && schedules.len() == usize::from(ms.is_some())).then_some(()))
            },
        )
        .await
    };
    host.deploy("hostile", scheduled(1_000)?).await?;
    every(Some(1_000)).await?;
    ticks(&world, "pulse", 1).await?;
    host.deploy("hostile", scheduled(3_600_000)?).await?;
    every(Some(3_600_000)).await?;
    host.post("/api/admin/plugins/hostile/rollback", json!({}))
        .await?;
    every(Some(1_000)).await?;

    // A plugin's schedule cannot be removed, and an operator's change survives the next revision.
    let remove = host
        .http
        .delete(format!("{}/api/admin/schedules/pulse", host.url));
    assert_eq!(host.request(remove).await?.0, 409);
    let patch = host
        .http
        .patch(format!("{}/api/admin/schedules/pulse", host.url));
    assert_eq!(
        host.request(patch.json(&json!({ "everyMs": 2_000 })))
            .await?
            .0,
        200
    );
    host.deploy("hostile", scheduled(7_200_000)?).await?;
    every(Some(2_000)).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    every(None).await?;
    Ok(())
}

#[tokio::test]
async fn a_schedule_whose_tick_has_vanished_ticks_again() -> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    let hourly = json!({ "id": "hourly", "queue": QUEUE, "name": "noop", "everyMs": 3_600_000 });
    host.post("/api/admin/schedules", hourly).await?;
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let jobs: Vec<String> = redis.zrange(key("delayed"), 0, -1).await?;
    let [tick] = jobs.as_slice() else {
        anyhow::bail!("one tick: {jobs:?}")
    };
    redis.zrem::<_, _, ()>(key("delayed"), tick).await?;
    redis.del::<_, ()>(key(tick)).await?;
    // Any change wakes the reconciler; without one it runs within 30 s.
    host.post("/api/admin/schedules", every_second("other"))
        .await?;
    until(Duration::from_secs(10), "its tick", async || {
        let exists: bool = redis.exists(key(tick)).await?;
        let delayed: Vec<String> = redis.zrange(key("delayed"), 0, -1).await?;
        Ok((exists || delayed.iter().any(|id| id.starts_with("repeat:hourly:"))).then_some(()))
    })
    .await?;
    assert!(host.schedule("hourly").await?["nextAt"].is_string());
    Ok(())
}

#[tokio::test]
async fn a_tick_that_was_missed_is_left_out_or_run_once_as_its_schedule_says() -> anyhow::Result<()>
{
    let (world, host) = world_with_host(&[]).await?;
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    for (id, opts) in [
        ("repeat:skips:1000", r#"{"skipMissed":true}"#),
        ("repeat:once:1000", "{}"),
    ] {
        let fields = [
            ("name", "echo"),
            ("data", "{}"),
            ("opts", opts),
            ("timestamp", "1000"),
        ];
        redis.hset_multiple::<_, _, _, ()>(key(id), &fields).await?;
        redis.lpush::<_, _, ()>(key("wait"), id).await?;
    }
    redis.zadd::<_, _, _, ()>(key("marker"), "0", 0).await?;
    let skipped = host.job_in(QUEUE, "repeat:skips:1000", "completed").await?;
    assert!(
        skipped["job"]["returnValue"]
            .as_str()
            .is_some_and(|text| text.contains("skips missed ticks"))
    );
    let ran = host.job_in(QUEUE, "repeat:once:1000", "completed").await?;
    assert!(
        ran["job"]["returnValue"]
            .as_str()
            .is_some_and(|text| text.contains("correlationId")),
        "{ran}"
    );
    Ok(())
}

#[tokio::test]
async fn a_change_of_nothing_but_missed_reaches_the_next_tick() -> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    let hourly = json!({ "id": "hourly", "queue": QUEUE, "name": "noop", "everyMs": 3_600_000 });
    host.post("/api/admin/schedules", hourly).await?;
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    for (missed, skips) in [("once", false), ("skip", true), ("once", false)] {
        let patch = host
            .http
            .patch(format!("{}/api/admin/schedules/hourly", host.url));
        let (status, answer) = host
            .request(patch.json(&json!({ "missed": missed })))
            .await?;
        assert_eq!(status, 200, "{answer}");
        until(Duration::from_secs(10), missed, async || {
            let jobs: Vec<String> = redis.zrange(key("delayed"), 0, -1).await?;
            let Some(tick) = jobs.first() else {
                return Ok(None);
            };
            let opts: Option<String> = redis.hget(key(tick), "opts").await?;
            Ok(opts
                .is_some_and(|opts| opts.contains("skipMissed") == skips)
                .then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn legacy_repeatables_are_listed_first_and_become_schedules_then() -> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    // As BullMQ 4 and early 5 leave them: the key is the definition, jobs are named after its hash.
    let soon = 4_102_444_800_000_u64;
    for (member, hash) in [
        ("noop:daily::Asia/Kolkata:59 23 * * *", "aa"),
        ("echo::::1000", "bb"),
        ("noop:x:99::5000", "cc"),
    ] {
        let job = format!("repeat:{hash}:{soon}");
        redis
            .zadd::<_, _, _, ()>(key("repeat"), member, soon)
            .await?;
        let fields = [
            ("name", "n"),
            ("data", r#"{"n":1}"#),
            ("opts", "{}"),
            ("timestamp", "1"),
            ("rjk", member),
        ];
        redis
            .hset_multiple::<_, _, _, ()>(key(&job), &fields)
            .await?;
        redis
            .zadd::<_, _, _, ()>(key("delayed"), &job, soon * 4096)
            .await?;
    }
    let path = format!("/api/admin/queues/{QUEUE}/migrate-repeatables");
    let (status, looked) = host.post(&path, json!({ "dryRun": true })).await?;
    assert_eq!(
        (status, looked["data"].as_array().map(Vec::len)),
        (200, Some(3)),
        "{looked}"
    );
    assert!(
        host.schedules().await?.is_empty(),
        "a dry run changes nothing"
    );
    let (_, done) = host.post(&path, json!({ "dryRun": false })).await?;
    let reasons: Vec<&Value> = done["data"]
        .as_array()
        .context("a list")?
        .iter()
        .filter(|one| one["schedule"].is_null())
        .collect();
    assert_eq!(reasons.len(), 1, "one ends at a certain time: {done}");
    ticks(&world, &format!("{QUEUE}-echo"), 1).await?;
    let daily = host.schedule("daily").await?;
    assert_eq!(
        (&daily["cron"], &daily["tz"], &daily["data"]),
        (
            &json!("59 23 * * *"),
            &json!("Asia/Kolkata"),
            &json!(r#"{"n":1}"#)
        )
    );
    let (_, left) = host.post(&path, json!({ "dryRun": true })).await?;
    assert_eq!(left["data"].as_array().map(Vec::len), Some(1), "{left}");
    Ok(())
}

#[tokio::test]
async fn the_placeholder_lists_the_schedules_of_the_old_backend_whose_plugins_do_not_exist_yet()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("echo", echo_plugin()?).await?;
    let schedules = until(
        Duration::from_secs(20),
        "twelve schedules in place",
        async || {
            let schedules = host.schedules().await?;
            Ok((schedules
                .iter()
                .filter(|schedule| schedule["nextAt"].is_string())
                .count()
                == 12)
                .then_some(schedules))
        },
    )
    .await?;
    let warnings = schedules
        .iter()
        .find(|schedule| schedule["id"] == "warning-processing")
        .context("warnings")?;
    assert_eq!(
        (&warnings["cron"], &warnings["tz"]),
        (&json!("59 23 * * *"), &json!("Asia/Kolkata"))
    );
    Ok(())
}

#[tokio::test]
async fn three_killed_hosts_lose_no_schedule_and_run_no_tick_twice() -> anyhow::Result<()> {
    let world = World::new().await?;
    let first = world.host(SHORT_LOCKS).await?;
    first.deploy("hostile", hostile_plugin()?).await?;
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        first.post("/api/admin/schedules", every_second(id)).await?;
    }
    let mut hosts = vec![
        first,
        world.host(SHORT_LOCKS).await?,
        world.host(SHORT_LOCKS).await?,
    ];
    let kills = if full_length() { 200 } else { 8 };
    for n in 0..kills {
        // At a random moment of a second with four ticks: the time itself is tested.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..700))).await;
        let mut killed = hosts.remove(n % 3);
        killed.child.kill().await?;
        hosts.push(world.host(SHORT_LOCKS).await?);
    }
    let last_kill = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_millis() as u64;
    for id in ids {
        until(
            Duration::from_secs(40),
            &format!("{id} ticks after the last kill"),
            async || {
                let done = completed(&world, id).await?;
                let newest = done
                    .keys()
                    .filter_map(|job| job.rsplit(':').next()?.parse::<u64>().ok())
                    .max();
                Ok(newest.is_some_and(|tick| tick > last_kill).then_some(()))
            },
        )
        .await?;
        let done = completed(&world, id).await?;
        let twice: Vec<_> = done.iter().filter(|(_, times)| **times > 1).collect();
        println!("{id}: {} ticks after {kills} kills", done.len());
        assert!(
            twice.is_empty(),
            "{id}: ticks that completed more than once: {twice:?}"
        );
    }
    Ok(())
}

/// A job scheduler as BullMQ's clients leave it, with a due tick.
async fn client_scheduler(world: &World, id: &str, fields: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let tick = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_millis() as u64;
    let repeat: serde_json::Map<String, Value> = fields
        .iter()
        .map(|(name, text)| ((*name).into(), json!(text)))
        .collect();
    let job = format!("repeat:{id}:{tick}");
    redis
        .hset_multiple::<_, _, _, ()>(
            key(&format!("repeat:{id}")),
            &[("name", "echo"), ("ic", "1"), ("data", r#"{"n":1}"#)],
        )
        .await?;
    redis
        .hset_multiple::<_, _, _, ()>(key(&format!("repeat:{id}")), fields)
        .await?;
    redis.zadd::<_, _, _, ()>(key("repeat"), id, tick).await?;
    let opts = json!({ "repeat": repeat, "prevMillis": tick }).to_string();
    let tick = tick.to_string();
    let of_job = [
        ("name", "echo"),
        ("data", r#"{"n":1}"#),
        ("opts", &opts),
        ("timestamp", &tick),
        ("rjk", id),
    ];
    redis
        .hset_multiple::<_, _, _, ()>(key(&job), &of_job)
        .await?;
    redis.lpush::<_, _, ()>(key("wait"), &job).await?;
    Ok(redis.zadd::<_, _, _, ()>(key("marker"), "0", 0).await?)
}

#[tokio::test]
async fn a_clients_scheduler_that_cannot_be_computed_is_told_everywhere_and_ticks_again_when_mended()
-> anyhow::Result<()> {
    let (world, host) = world_with_host(&[("PATCHBAY_ALERTS_EVERY_MS", "100")]).await?;
    json_of(
        &host,
        &[
            "--json",
            "alert",
            "rule",
            "set",
            "schedule-stopped",
            "--for",
            "0s",
        ],
    )
    .await?;
    for (id, fields) in [
        ("full:moon", [("pattern", "every full moon"), ("tz", "UTC")]),
        ("lost", [("pattern", "* * * * * *"), ("tz", "Mars/Phobos")]),
        ("odd", [("every", "often"), ("limit", "9")]),
    ] {
        client_scheduler(&world, id, &fields).await?;
        ticks(&world, id, 1).await?;
    }
    let listed = patchbay(&host, &["schedule", "list"]).await?;
    let listed = String::from_utf8(listed.stdout)?;
    for says in [
        "STOPPED: cannot read the cron expression",
        "no time zone \"Mars/Phobos\"",
        "its every is not a number",
        "a BullMQ client",
    ] {
        assert!(listed.contains(says), "{says}: {listed}");
    }
    let log = host.log.lock().expect("no panic").clone();
    assert!(
        log.contains("A schedule stops") && log.contains("full:moon"),
        "{log}"
    );
    until(Duration::from_secs(20), "an alert of each", async || {
        let (_, alerts) = host.get("/api/admin/alerts").await?;
        let subjects = ["full:moon", "lost", "odd"].map(|id| format!("{QUEUE} {id}"));
        Ok(subjects
            .iter()
            .all(|subject| alerts.to_string().contains(subject))
            .then_some(()))
    })
    .await?;
    let mut doctor = tokio::process::Command::new(crate::harness::binary());
    doctor
        .args(["--json", "doctor"])
        .env("DATABASE_URL", &world.database_url)
        .env("REDIS_URL", &world.redis_url);
    doctor
        .env("PATCHBAY_REDIS_PREFIX", &world.prefix)
        .env("PATCHBAY_REDIS_OWN_PREFIX", format!("{}-own", world.prefix));
    let found = String::from_utf8(doctor.output().await?.stdout)?;
    assert!(
        found.contains("without a next tick") && found.contains("full:moon"),
        "{found}"
    );

    let mut redis = world.redis().await?;
    let hash = |id: &str| format!("{}:{QUEUE}:repeat:{id}", world.prefix);
    redis
        .hset::<_, _, _, ()>(hash("full:moon"), "pattern", "0/1 * * * * *")
        .await?;
    redis
        .hset::<_, _, _, ()>(hash("lost"), "tz", "asia/kolkata")
        .await?;
    redis
        .hset::<_, _, _, ()>(hash("odd"), "every", "500")
        .await?;
    for id in ["full:moon", "lost", "odd"] {
        until(
            Duration::from_secs(30),
            &format!("{id} is brought back"),
            async || {
                // Any change wakes the reconciler; without one it runs within 30 s.
                host.post("/api/admin/schedules", every_second("other"))
                    .await?;
                host.request(
                    host.http
                        .delete(format!("{}/api/admin/schedules/other", host.url)),
                )
                .await?;
                Ok((completed(&world, id).await?.len() >= 2).then_some(()))
            },
        )
        .await?;
        ticks(&world, id, 4).await?;
    }
    let (_, left) = host.get("/api/admin/job-schedulers").await?;
    assert!(
        left["data"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["trouble"].is_null())),
        "{left}"
    );
    Ok(())
}

#[tokio::test]
async fn a_cron_expression_without_a_zone_has_the_configured_one_and_redis_says_so()
-> anyhow::Result<()> {
    let (world, host) = world_with_host(&[
        ("TZ", ":Europe/Berlin"),
        ("PATCHBAY_SCHEDULE_DEFAULT_ZONE", "asia/kolkata"),
    ])
    .await?;
    let daily = json!({ "id": "daily", "queue": QUEUE, "name": "noop", "cron": "59 23 * * *" });
    let (status, made) = host.post("/api/admin/schedules", daily).await?;
    assert_eq!(status, 200, "{made}");
    assert!(
        made["data"]["nextAt"]
            .as_str()
            .is_some_and(|at| at.ends_with("T18:29:00.000Z")),
        "{made}"
    );
    assert_eq!(
        (&made["data"]["zone"], &made["data"]["tz"]),
        (&json!("Asia/Kolkata"), &Value::Null)
    );
    let tz: String = world
        .redis()
        .await?
        .hget(format!("{}:{QUEUE}:repeat:daily", world.prefix), "tz")
        .await?;
    assert_eq!(tz, "Asia/Kolkata", "a worker on Node has another default");
    let (_, preview) = host
        .post(
            "/api/admin/schedules/preview",
            json!({ "cron": "59 23 * * *" }),
        )
        .await?;
    assert!(
        preview["data"][0]
            .as_str()
            .is_some_and(|at| at.ends_with("T18:29:00.000Z")),
        "{preview}"
    );
    Ok(())
}

#[tokio::test]
async fn a_live_scheduler_is_never_taken_for_a_repeatable_and_never_replaced_by_one()
-> anyhow::Result<()> {
    let (world, host) = world_with_host(&[]).await?;
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let soon = 4_102_444_800_000_u64;
    let schedulers = [
        "tenant:42:eu:Europe/Berlin:0 9 * * *",
        "tenant:42::UTC:0 9 * * *",
        "daily",
    ];
    for id in schedulers {
        let fields = [("name", "echo"), ("pattern", "0 9 * * *"), ("ic", "3")];
        redis
            .hset_multiple::<_, _, _, ()>(key(&format!("repeat:{id}")), &fields)
            .await?;
        redis.zadd::<_, _, _, ()>(key("repeat"), id, soon).await?;
        let job = format!("repeat:{id}:{soon}");
        let fields = [
            ("name", "echo"),
            ("data", "{}"),
            ("opts", "{}"),
            ("timestamp", "1"),
            ("rjk", id),
        ];
        redis
            .hset_multiple::<_, _, _, ()>(key(&job), &fields)
            .await?;
        redis
            .zadd::<_, _, _, ()>(key("delayed"), &job, soon * 4096)
            .await?;
    }
    // One whose schedule would take a live scheduler's id, and one of BullMQ 5 with its own hash.
    redis
        .zadd::<_, _, _, ()>(key("repeat"), "noop:daily::UTC:0 3 * * *", soon)
        .await?;
    let digest = "0123456789abcdef0123456789abcdef";
    redis
        .zadd::<_, _, _, ()>(key("repeat"), digest, soon)
        .await?;
    let fields = [
        ("name", "report"),
        ("pattern", "0 4 * * *"),
        ("tz", "Asia/Kolkata"),
    ];
    redis
        .hset_multiple::<_, _, _, ()>(key(&format!("repeat:{digest}")), &fields)
        .await?;
    let job = format!("repeat:{digest}:{soon}");
    let fields = [
        ("name", "report"),
        ("data", r#"{"n":5}"#),
        ("opts", "{}"),
        ("timestamp", "1"),
        ("rjk", digest),
    ];
    redis
        .hset_multiple::<_, _, _, ()>(key(&job), &fields)
        .await?;
    redis
        .zadd::<_, _, _, ()>(key("delayed"), &job, soon * 4096)
        .await?;

    let path = format!("/api/admin/queues/{QUEUE}/migrate-repeatables");
    for dry_run in [true, false] {
        let (_, answer) = host.post(&path, json!({ "dryRun": dry_run })).await?;
        let all = answer["data"].as_array().context("a list")?;
        let of = |id: &str| all.iter().find(|one| one["repeatable"]["key"] == id);
        assert!(
            of(schedulers[1]).is_some_and(|one| one["reason"]
                .as_str()
                .is_some_and(|why| why.contains("job scheduler"))),
            "{answer}"
        );
        assert!(
            of(schedulers[0]).is_none() && of(schedulers[2]).is_none(),
            "nobody could take them for one: {answer}"
        );
        let taken = of("noop:daily::UTC:0 3 * * *").context("the old one")?;
        assert!(
            taken["reason"]
                .as_str()
                .is_some_and(|why| why.contains("would replace")),
            "{answer}"
        );
        assert_eq!(
            of(digest).map(|one| &one["schedule"]),
            Some(&json!(format!("{QUEUE}-report"))),
            "{answer}"
        );
    }
    for id in schedulers {
        assert!(
            redis
                .zscore::<_, _, Option<f64>>(key("repeat"), id)
                .await?
                .is_some(),
            "{id}"
        );
        assert!(
            redis
                .exists::<_, bool>(key(&format!("repeat:{id}:{soon}")))
                .await?,
            "{id}"
        );
    }
    let report = host.schedule(&format!("{QUEUE}-report")).await?;
    assert_eq!(
        (&report["tz"], &report["data"]),
        (&json!("Asia/Kolkata"), &json!(r#"{"n":5}"#))
    );
    assert!(
        !redis
            .exists::<_, bool>(key(&format!("repeat:{digest}")))
            .await?,
        "it is taken out"
    );
    Ok(())
}
