//! Bulk operations: retry, remove and undo, enqueue again, edit; killed in the middle, cancelled,
//! and with invalid input.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use patchbay_model::job::NewJob;
use patchbay_model::manifest::Manifest;
use patchbay_queue::{Broker, RedisConfig};
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::cable::Cable;
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, guest_component, hostile_component, repository, until};
use crate::redis_server::RedisServer;

const QUEUE: &str = "hostileQueue";

/// The hostile plugin, with longer deadlines.
pub fn broken_plugin() -> anyhow::Result<Vec<u8>> {
    packed(&hostile_component()?, "version = \"0.1.0\"", "")
}

/// The hostile plugin's manifest over another component: the same plugin, repaired.
pub fn mended_plugin() -> anyhow::Result<Vec<u8>> {
    packed(&guest_component("steady")?, "version = \"0.2.0\"", "")
}

fn packed(component: &[u8], version: &str, more: &str) -> anyhow::Result<Vec<u8>> {
    let manifest = std::fs::read_to_string(repository().join("tests/guests/hostile/plugin.toml"))?;
    // On a busy machine a call may take longer than the short deadline for misbehaving guests.
    let manifest = manifest.replace("deadline_ms = 200", "deadline_ms = 20_000");
    let manifest = manifest.replace("version = \"0.1.0\"", version) + more;
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer"}}}"#;
    let manifest = Manifest::from_toml(&manifest, |_| Ok(schema.to_owned()))?;
    Ok(patchbay_runtime::pack(component, &manifest)?)
}

/// Adds jobs that fail, and waits until all have failed.
pub async fn failed_jobs(world: &World, count: usize) -> anyhow::Result<Vec<String>> {
    // Adds directly to Redis, as another client: adding many jobs through the host takes too long.
    let queues = Broker::connect(RedisConfig {
        url: world.redis_url.clone(),
        prefix: world.prefix.clone(),
        own_prefix: format!("{}-own", world.prefix),
        ..RedisConfig::default()
    })
    .await?;
    let job = |n: usize| -> anyhow::Result<NewJob> {
        let data = json!({ "n": n, "retry": "never", "message": format!("lead {n} is missing") });
        Ok(NewJob::new(QUEUE.parse()?, "fail", data.to_string()))
    };
    let ids = queues
        .add((0..count).map(job).collect::<anyhow::Result<_>>()?)
        .await?;
    let ids = ids.into_iter().map(|id| id.to_string()).collect();
    in_state(world, "failed", count).await?;
    Ok(ids)
}

async fn in_state(world: &World, state: &str, count: usize) -> anyhow::Result<()> {
    let mut redis = world.redis().await?;
    let key = format!("{}:{QUEUE}:{state}", world.prefix);
    until(
        Duration::from_secs(60),
        &format!("{count} jobs are {state}"),
        async || Ok((redis.zcard::<_, usize>(&key).await? == count).then_some(())),
    )
    .await
}

/// Waits until the operation is in one of these states.
pub async fn bulk_in(host: &Host, id: &Value, states: &[&str]) -> anyhow::Result<Value> {
    until(
        Duration::from_secs(60),
        &format!("bulk {id} is {states:?}"),
        async || {
            let (_, answer) = host.get(&format!("/api/admin/bulk/{id}")).await?;
            let state = answer["data"]["state"].as_str().context("a state")?;
            Ok(states.contains(&state).then(|| answer["data"].clone()))
        },
    )
    .await
}

async fn begin(host: &Host, request: Value) -> anyhow::Result<Value> {
    let (status, answer) = host.post("/api/admin/bulk", request).await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    Ok(answer["data"]["id"].clone())
}

/// The timeline of a job whose id was used only once.
async fn one_life(host: &Host, id: &str) -> anyhow::Result<Vec<Value>> {
    let (_, answer) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/{id}/timeline"))
        .await?;
    let lives = answer["data"]["lives"].as_array().context("lives")?;
    anyhow::ensure!(lives.len() == 1, "{answer}");
    Ok(lives[0]["events"].as_array().context("events")?.clone())
}

fn counts(bulk: &Value) -> [i64; 4] {
    ["matched", "done", "skipped", "failed"].map(|name| bulk[name].as_i64().unwrap_or(-1))
}

#[tokio::test]
async fn removed_jobs_are_gone_and_come_back_as_they_were_within_the_hour() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 30).await?;
    let before = host.job_in(QUEUE, &ids[7], "failed").await?["job"].clone();
    let bulk = begin(
        &host,
        json!({ "kind": "remove", "filter": { "queue": QUEUE }, "reason": "a test" }),
    )
    .await?;
    let ended = bulk_in(&host, &bulk, &["done"]).await?;
    assert_eq!(counts(&ended), [30, 30, 0, 0], "{ended}");
    in_state(&world, "failed", 0).await?;
    assert_eq!(
        host.get(&format!("/api/admin/queues/{QUEUE}/jobs/{}", ids[7]))
            .await?
            .0,
        404
    );
    let id = bulk.to_string();
    let undone = json_of(&host, &["--json", "bulk", "undo", &id, "--watch"]).await?;
    assert_eq!(
        (&undone["state"], &undone["restored"]),
        (&json!("undone"), &json!(30)),
        "{undone}"
    );
    in_state(&world, "failed", 30).await?;
    let steps: Vec<Value> = one_life(&host, &ids[7])
        .await?
        .into_iter()
        .filter(|event| ["bulk", "undo"].contains(&event["kind"].as_str().unwrap_or_default()))
        .map(|event| json!([event["kind"], event["state"], event["actor"], event["bulk"]]))
        .collect();
    assert_eq!(
        steps,
        [
            json!(["bulk", "done", "operator", bulk]),
            json!(["undo", "restored", "operator", bulk])
        ],
        "the removal and its undoing are steps of their own"
    );
    assert_eq!(
        host.job_in(QUEUE, &ids[7], "failed").await?["job"],
        before,
        "as it was"
    );
    let twice = patchbay(&host, &["bulk", "undo", &id]).await?;
    assert_eq!(twice.status.code(), Some(4));
    // The copies for undoing are deleted from Redis.
    let keys: Vec<String> = world
        .redis()
        .await?
        .keys(format!("{}-own:bulk:*", world.prefix))
        .await?;
    assert_eq!(keys, Vec::<String>::new());
    let actions: Vec<(String, Option<i64>)> = sqlx::query_as(
        "select action, (result->>'restored')::bigint from patchbay.operator_actions where target = $1 and error is null order by id",
    )
    .bind(format!("bulk/{id}"))
    .fetch_all(&mut world.database().await?)
    .await?;
    assert_eq!(
        actions,
        [
            ("bulk.remove".into(), Some(0)),
            ("bulk.undo".into(), Some(30))
        ]
    );
    Ok(())
}

#[tokio::test]
async fn waiting_jobs_are_marked_dropped_when_they_are_taken_and_come_back() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let mut ids = BTreeMap::new();
    for name in ["noop", "echo", "echo", "noop", "echo"] {
        let id = host
            .add(
                QUEUE,
                json!({ "name": name, "data": { "secret": "personal" } }),
            )
            .await?;
        ids.insert(id, name);
    }
    let request = json!({ "kind": "remove", "state": "waiting", "filter": { "queue": QUEUE, "name": "echo" } });
    let bulk = begin(&host, request.clone()).await?;
    assert_eq!(
        counts(&bulk_in(&host, &bulk, &["done"]).await?),
        [3, 3, 0, 0]
    );
    let (_, listed) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs?state=waiting"))
        .await?;
    let removed = listed["data"]
        .as_array()
        .context("jobs")?
        .iter()
        .filter(|job| job["removedBy"] == bulk)
        .count();
    assert_eq!(removed, 3, "they wait, marked: {listed}");
    // Undone before a worker took the jobs: only the mark is removed.
    host.post(&format!("/api/admin/bulk/{bulk}/undo"), json!({}))
        .await?;
    assert_eq!(bulk_in(&host, &bulk, &["undone"]).await?["restored"], 3);

    let bulk = begin(&host, request).await?;
    bulk_in(&host, &bulk, &["done"]).await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/resume"), json!({}))
        .await?;
    in_state(&world, "completed", 2).await?;
    let path = |id: &str| format!("/api/admin/queues/{QUEUE}/jobs/{id}");
    for (id, name) in &ids {
        if *name == "noop" {
            host.job_in(QUEUE, id, "completed").await?;
        } else {
            until(Duration::from_secs(10), "it is dropped", async || {
                Ok((host.get(&path(id)).await?.0 == 404).then_some(()))
            })
            .await?;
        }
    }
    let ran: i64 = sqlx::query_scalar("select count(*) from patchbay.attempts where name = 'echo'")
        .fetch_one(&mut world.database().await?)
        .await?;
    assert_eq!(ran, 0, "none has run");
    host.post(&format!("/api/admin/bulk/{bulk}/undo"), json!({}))
        .await?;
    assert_eq!(bulk_in(&host, &bulk, &["undone"]).await?["restored"], 3);
    for (id, _) in ids.iter().filter(|(_, name)| **name == "echo") {
        host.job_in(QUEUE, id, "completed").await?;
        let (_, story) = host
            .get(&format!("/api/admin/queues/{QUEUE}/jobs/{id}?reveal=true"))
            .await?;
        let data = story["data"]["job"]["data"].as_str();
        assert!(
            data.is_some_and(|data| data.contains("personal")),
            "{story}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_host_killed_amid_a_bulk_goes_on_with_it_and_does_nothing_twice() -> anyhow::Result<()> {
    const JOBS: usize = 1_000;
    let world = World::new().await?;
    let mut host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, JOBS).await?;
    // Paused, so that nobody takes the retried jobs before they are counted.
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let bulk = begin(
        &host,
        json!({ "kind": "enqueue-again", "filter": { "queue": QUEUE }, "key": "new" }),
    )
    .await?;
    until(Duration::from_secs(30), "it is at it", async || {
        let (_, answer) = host.get(&format!("/api/admin/bulk/{bulk}")).await?;
        let done = answer["data"]["done"].as_u64().unwrap_or(0);
        Ok((done > 0 && done < JOBS as u64).then_some(()))
    })
    .await?;
    host.child.kill().await?;
    let host = world.host(&[]).await?;
    let ended = bulk_in(&host, &bulk, &["done"]).await?;
    assert_eq!(counts(&ended), [JOBS as i64, JOBS as i64, 0, 0], "{ended}");
    let waiting: usize = world
        .redis()
        .await?
        .llen(format!("{}:{QUEUE}:wait", world.prefix))
        .await?;
    assert_eq!(waiting, JOBS, "each once");
    Ok(())
}

#[tokio::test]
async fn a_removal_whose_host_was_killed_is_undone_to_the_last_job() -> anyhow::Result<()> {
    const JOBS: usize = 1_000;
    let world = World::new().await?;
    let mut host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, JOBS).await?;
    let key = format!("{}:{QUEUE}:failed", world.prefix);
    let mut redis = world.redis().await?;
    let before: Vec<(String, f64)> = redis.zrange_withscores(&key, 0, -1).await?;
    let bulk = begin(
        &host,
        json!({ "kind": "remove", "filter": { "queue": QUEUE } }),
    )
    .await?;
    // Read from Redis, which usually shows the middle of a batch.
    until(Duration::from_secs(30), "it is at it", async || {
        let left: usize = redis.zcard(&key).await?;
        Ok((left < JOBS && left > 0).then_some(()))
    })
    .await?;
    host.child.kill().await?;
    let host = world.host(&[]).await?;
    let ended = bulk_in(&host, &bulk, &["done"]).await?;
    assert_eq!(counts(&ended), [JOBS as i64, JOBS as i64, 0, 0], "{ended}");
    host.post(&format!("/api/admin/bulk/{bulk}/undo"), json!({}))
        .await?;
    assert_eq!(bulk_in(&host, &bulk, &["undone"]).await?["restored"], JOBS);
    let after: Vec<(String, f64)> = redis.zrange_withscores(&key, 0, -1).await?;
    assert!(before == after, "each where it stood");
    Ok(())
}

#[tokio::test]
async fn another_host_takes_over_from_a_killed_one() -> anyhow::Result<()> {
    const JOBS: usize = 1_000;
    let world = World::new().await?;
    let mut first = world.host(&[]).await?;
    first.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, JOBS).await?;
    let second = world.host(&[]).await?;
    second
        .post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let bulk = begin(
        &first,
        json!({ "kind": "retry", "filter": { "queue": QUEUE } }),
    )
    .await?;
    first.child.kill().await?;
    let ended = bulk_in(&second, &bulk, &["done"]).await?;
    assert_eq!(counts(&ended), [JOBS as i64, JOBS as i64, 0, 0], "{ended}");
    let waiting: usize = world
        .redis()
        .await?
        .llen(format!("{}:{QUEUE}:wait", world.prefix))
        .await?;
    assert_eq!(waiting, JOBS, "each once");
    Ok(())
}

#[tokio::test]
async fn redis_is_away_amid_a_bulk_which_goes_on_when_it_is_back() -> anyhow::Result<()> {
    const JOBS: usize = 1_000;
    let mut world = World::new().await?;
    let mut server = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = server.url.clone();
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, JOBS).await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let bulk = begin(
        &host,
        json!({ "kind": "retry", "filter": { "queue": QUEUE } }),
    )
    .await?;
    until(Duration::from_secs(30), "it is at it", async || {
        let (_, answer) = host.get(&format!("/api/admin/bulk/{bulk}")).await?;
        Ok((answer["data"]["done"].as_u64() > Some(0)).then_some(()))
    })
    .await?;
    server.stop().await?;
    let path = format!("/api/admin/bulk/{bulk}");
    until(Duration::from_secs(20), "it waits", async || {
        Ok(host
            .log
            .lock()
            .expect("no writer panics")
            .contains("bulk operations make no progress")
            .then_some(()))
    })
    .await?;
    assert_eq!(host.get(&path).await?.1["data"]["state"], "running");
    server.start().await?;
    let ended = bulk_in(&host, &bulk, &["done"]).await?;
    assert_eq!(counts(&ended), [JOBS as i64, JOBS as i64, 0, 0], "{ended}");
    let waiting: usize = world
        .redis()
        .await?
        .llen(format!("{}:{QUEUE}:wait", world.prefix))
        .await?;
    assert_eq!(waiting, JOBS, "each once");
    Ok(())
}

#[tokio::test]
async fn postgres_is_away_amid_a_bulk_which_goes_on_when_it_is_back() -> anyhow::Result<()> {
    const JOBS: usize = 1_000;
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let host = world.host(&[("DATABASE_URL", url.as_str())]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, JOBS).await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let bulk = begin(
        &host,
        json!({ "kind": "retry", "filter": { "queue": QUEUE } }),
    )
    .await?;
    let mut redis = world.redis().await?;
    let waiting = format!("{}:{QUEUE}:wait", world.prefix);
    until(Duration::from_secs(30), "it is at it", async || {
        Ok((redis.llen::<_, usize>(&waiting).await? > 0).then_some(()))
    })
    .await?;
    cable.cut.send_replace(true);
    until(Duration::from_secs(30), "it waits", async || {
        Ok(host
            .log
            .lock()
            .expect("no writer panics")
            .contains("bulk operations make no progress")
            .then_some(()))
    })
    .await?;
    cable.cut.send_replace(false);
    let ended = bulk_in(&host, &bulk, &["done"]).await?;
    assert_eq!(counts(&ended), [JOBS as i64, JOBS as i64, 0, 0], "{ended}");
    assert_eq!(redis.llen::<_, usize>(&waiting).await?, JOBS, "each once");
    Ok(())
}

#[tokio::test]
async fn a_cancelled_bulk_leaves_the_rest_as_it_is() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 30).await?;
    let request = json!({ "kind": "remove", "filter": { "queue": QUEUE }, "first": 10 });
    let bulk = begin(&host, request).await?;
    assert_eq!(
        counts(&bulk_in(&host, &bulk, &["paused"]).await?),
        [30, 10, 0, 0]
    );
    let id = bulk.to_string();
    json_of(&host, &["--json", "bulk", "cancel", &id]).await?;
    let refused = patchbay(&host, &["bulk", "resume", &id]).await?;
    assert_eq!(
        refused.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
    in_state(&world, "failed", 20).await?;
    let pending = json_of(&host, &["--json", "bulk", "show", &id, "--jobs", "pending"]).await?;
    assert_eq!(pending["jobs"].as_array().map(Vec::len), Some(20));
    json_of(&host, &["--json", "bulk", "undo", &id, "--watch"]).await?;
    in_state(&world, "failed", 30).await
}

#[tokio::test]
async fn what_is_edited_fits_the_schema_or_stays_as_it_is() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let schema = "\n[[queues.jobs]]\nname = \"fail\"\nschema = \"fail.json\"\n";
    host.deploy(
        "hostile",
        packed(&hostile_component()?, "version = \"0.1.0\"", schema)?,
    )
    .await?;
    let ids = failed_jobs(&world, 3).await?;
    let queue = format!("queue={QUEUE}");
    let wrong = [
        "--json",
        "bulk",
        "edit-and-retry",
        &queue,
        "--set",
        "n=many",
        "--yes",
        "--watch",
    ];
    let wrong = json_of(&host, &wrong).await?;
    assert_eq!(counts(&wrong), [3, 0, 3, 0], "{wrong}");
    assert!(
        wrong["reasons"][0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("/n")),
        "{wrong}"
    );
    assert_eq!(
        host.job_in(QUEUE, &ids[0], "failed").await?["job"]["attemptsStarted"],
        1,
        "not touched"
    );

    host.deploy(
        "hostile",
        packed(&guest_component("steady")?, "version = \"0.2.0\"", schema)?,
    )
    .await?;
    let right = [
        "--json",
        "bulk",
        "edit-and-retry",
        &queue,
        "data.n=1",
        "--set",
        "lead.id=42",
        "--unset",
        "message",
    ];
    let right = json_of(&host, &[&right[..], &["--yes", "--watch"]].concat()).await?;
    assert_eq!(counts(&right), [1, 1, 0, 0], "{right}");
    let job = host.job_in(QUEUE, &ids[1], "completed").await?["job"].clone();
    assert_eq!(job["data"], r#"{"n":1,"retry":"never","lead":{"id":42}}"#);
    let mut database = world.database().await?;
    let kept: i64 =
        sqlx::query_scalar("select count(*) from patchbay.bulks where edits is not null")
            .fetch_one(&mut database)
            .await?;
    assert_eq!(
        kept, 0,
        "values may be personal: they end with the operation"
    );
    Ok(())
}

#[tokio::test]
async fn a_bulk_that_cannot_be_meant_is_refused_and_one_that_means_nothing_says_so()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    failed_jobs(&world, 2).await?;
    let queue = format!("queue={QUEUE}");
    for (args, code, says) in [
        (&["bulk", "retry", "--yes"][..], 4, "--everything"),
        (
            &["bulk", "retry", "queue=nobodysQueue", "--yes"],
            3,
            "No queue is called",
        ),
        (&["bulk", "retry", "dead-letter=4711", "--yes"], 3, "4711"),
        (&["bulk", "retry", "quene=x", "--yes"], 4, "quene"),
        (&["bulk", "retry", &queue], 4, "--yes"),
        (
            &["bulk", "retry", &queue, "--from-history", "--yes"],
            4,
            "--keep-key",
        ),
        (&["bulk", "enqueue-again", &queue, "--yes"], 4, "--new-key"),
        (
            &["bulk", "remove", &queue, "--state", "active", "--yes"],
            4,
            "not active",
        ),
        (&["bulk", "show", "4711"], 3, "4711"),
    ] {
        let output = patchbay(&host, args).await?;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
    let filter = json!({ "queue": QUEUE });
    let many: serde_json::Map<String, Value> =
        (0..33).map(|n| (format!("path-{n}"), json!(1))).collect();
    for edit in [
        json!({ "set": many }),
        json!({ "set": { "a": "x".repeat(65 << 10) } }),
        json!({ "set": {} }),
    ] {
        let mut request = json!({ "kind": "edit-and-retry", "filter": filter });
        request["set"] = edit["set"].clone();
        let (status, answer) = host.post("/api/admin/bulk", request).await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{answer}"
        );
    }
    let nothing = patchbay(
        &host,
        &["bulk", "retry", &queue, "text=never said", "--yes"],
    )
    .await?;
    assert_eq!(nothing.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&nothing.stdout).contains("nothing was done"));
    let look = json_of(
        &host,
        &[
            "--json",
            "bulk",
            "retry",
            &queue,
            "text=LEAD 1 is",
            "--dry-run",
        ],
    )
    .await?;
    assert_eq!(
        (&look["matched"], &look["sample"][0]["data"]),
        (&json!(1), &Value::Null),
        "{look}"
    );
    let everything = json_of(
        &host,
        &[
            "--json",
            "bulk",
            "remove",
            "--everything",
            "--dry-run",
            "--with-data",
        ],
    )
    .await?;
    assert_eq!(everything["matched"], 2);
    assert!(everything["sample"][0]["data"].is_object(), "{everything}");
    let made = json_of(&host, &["--json", "bulk", "list"]).await?;
    assert_eq!(made, json!([]), "nothing of this has made one");
    Ok(())
}

#[tokio::test]
async fn jobs_that_redis_has_forgotten_come_back_from_the_history_as_they_were_or_as_new_ones()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let key = "11".repeat(16) + &"22".repeat(16);
    let host = world.host(&[("PATCHBAY_SECRETS_KEY", &key)]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let ids = failed_jobs(&world, 5).await?;
    let before = host.job_in(QUEUE, &ids[3], "failed").await?["job"].clone();
    let mut database = world.database().await?;
    let mut recorded = async |outcome: &str, count: i64| {
        until(Duration::from_secs(20), &format!("{count} {outcome} are recorded with their data"), async || {
            let query = "select count(*) from patchbay.attempts where outcome = $1 and body is not null";
            let there: i64 = sqlx::query_scalar(query).bind(outcome).fetch_one(&mut database).await?;
            Ok((there == count).then_some(()))
        })
        .await
    };
    recorded("failed", 5).await?;
    host.post(
        &format!("/api/admin/queues/{QUEUE}/clean"),
        json!({ "state": "failed" }),
    )
    .await?;
    in_state(&world, "failed", 0).await?;
    host.deploy("hostile", mended_plugin()?).await?;

    let queue = format!("queue={QUEUE}");
    let again = [
        "--json",
        "bulk",
        "retry",
        &queue,
        "--from-history",
        "--keep-key",
        "--yes",
        "--watch",
    ];
    let ended = json_of(&host, &again).await?;
    assert_eq!(counts(&ended), [5, 5, 0, 0], "{ended}");
    let job = host.job_in(QUEUE, &ids[3], "completed").await?["job"].clone();
    for same in ["id", "timestamp", "data", "name"] {
        assert_eq!(
            job[same], before[same],
            "{same} is the same, and with it the idempotency key"
        );
    }
    assert_eq!(
        job["attemptsStarted"], 2,
        "the history tells this start from the one before"
    );
    recorded("completed", 5).await?;
    let life = one_life(&host, &ids[3]).await?;
    let kinds: Vec<&str> = life
        .iter()
        .filter_map(|event| event["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["added", "attempt", "bulk", "attempt"], "{life:#?}");
    assert_eq!(
        (&life[2]["bulk"], &life[2]["state"]),
        (&ended["id"], &json!("done")),
        "{life:#?}"
    );
    let at = |n: usize| -> anyhow::Result<i64> {
        let at = life[n]["at"].as_str().context("a time")?;
        Ok(chrono::DateTime::parse_from_rfc3339(at)?.timestamp_millis())
    };
    let waited = life[3]["waitedMs"].as_i64().context("a wait")?;
    assert!(
        waited <= at(3)? - at(2)? + 1,
        "since it was put back, not since it had failed: {life:#?}"
    );

    host.post(
        &format!("/api/admin/queues/{QUEUE}/clean"),
        json!({ "state": "completed" }),
    )
    .await?;
    let new = [
        "--json",
        "bulk",
        "enqueue-again",
        &queue,
        "--from-history",
        "--state",
        "completed",
    ];
    let ended = json_of(
        &host,
        &[&new[..], &["--new-key", "--yes", "--watch"]].concat(),
    )
    .await?;
    assert_eq!(counts(&ended), [5, 5, 0, 0], "{ended}");
    in_state(&world, "completed", 5).await?;
    let listed = json_of(
        &host,
        &["--json", "bulk", "show", &ended["id"].to_string(), "--jobs"],
    )
    .await?;
    for job in listed["jobs"].as_array().context("jobs")? {
        assert!(
            job["newId"].is_string() && !ids.iter().any(|id| job["newId"] == **id),
            "{job}"
        );
    }
    let (old, new) = (
        &listed["jobs"][0]["jobId"],
        listed["jobs"][0]["newId"].as_str().context("an id")?,
    );
    let life = one_life(&host, new).await?;
    assert_eq!(
        (&life[0]["bulk"], &life[0]["like"]),
        (&ended["id"], old),
        "{life:#?}"
    );
    let text = String::from_utf8(
        patchbay(&host, &["job", "timeline", QUEUE, new])
            .await?
            .stdout,
    )?;
    assert!(text.contains(&format!("bulk {} by", ended["id"])), "{text}");

    // As after a flush: ids would be used again.
    let mut redis = world.redis().await?;
    let _: () = redis.set(format!("{}:{QUEUE}:id", world.prefix), 2).await?;
    let old = format!("job={}", ids[3]);
    let kept = [
        "--json",
        "bulk",
        "enqueue-again",
        &queue,
        &old,
        "--from-history",
        "--state",
        "completed",
    ];
    let ended = json_of(
        &host,
        &[&kept[..], &["--keep-key", "--yes", "--watch"]].concat(),
    )
    .await?;
    assert_eq!(counts(&ended), [1, 0, 1, 0], "{ended}");
    assert!(
        ended["reasons"][0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("new key")),
        "{ended}"
    );
    Ok(())
}

#[tokio::test]
async fn delayed_jobs_are_removed_at_once_and_come_back_with_their_time() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", broken_plugin()?).await?;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(
            host.add(
                QUEUE,
                json!({ "name": "noop", "data": { "n": n }, "delayMs": 3_600_000 }),
            )
            .await?,
        );
    }
    let mut redis = world.redis().await?;
    let key = format!("{}:{QUEUE}:delayed", world.prefix);
    let before: Vec<(String, f64)> = redis.zrange_withscores(&key, 0, -1).await?;
    let flow = json!({ "queue": QUEUE, "job": { "name": "noop" },
        "children": [{ "queue": QUEUE, "job": { "name": "noop", "delayMs": 3_600_000 } }] });
    let (status, answer) = host.post("/api/admin/flows", flow).await?;
    assert_eq!(status, 200, "{answer}");
    let bulk = begin(
        &host,
        json!({ "kind": "remove", "state": "delayed", "filter": { "queue": QUEUE } }),
    )
    .await?;
    let ended = bulk_in(&host, &bulk, &["done"]).await?;
    assert_eq!(
        counts(&ended),
        [4, 3, 1, 0],
        "a flow's child is its parent's business: {ended}"
    );
    assert_eq!(redis.zcard::<_, usize>(&key).await?, 1);
    host.post(&format!("/api/admin/bulk/{bulk}/undo"), json!({}))
        .await?;
    assert_eq!(bulk_in(&host, &bulk, &["undone"]).await?["restored"], 3);
    let after: Vec<(String, f64)> = redis.zrange_withscores(&key, 0, -1).await?;
    assert!(
        before.iter().all(|job| after.contains(job)),
        "{before:?} {after:?}"
    );
    Ok(())
}
