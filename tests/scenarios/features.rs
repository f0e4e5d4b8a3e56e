//! Features for producers and for running jobs, over HTTP, from the command line and from a guest.
//! Where two implementations must agree, npm's BullMQ is the other one.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use patchbay_model::flow::{MAX_DEPTH, MAX_NODES};
use patchbay_model::job::NewJob;
use patchbay_model::manifest::Manifest;
use patchbay_queue::{Broker, RedisConfig};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{
    Host, PASSWORD, USER, World, binary, full_length, hostile_component, hostile_plugin, until,
};

/// A queue that nobody works on.
const IDLE: &str = "idleQueue";

/// The hostile guest, with another end of its manifest.
fn hostile_with(queues: &str) -> anyhow::Result<Vec<u8>> {
    let text = format!(
        "name = \"hostile\"\nversion = \"0.1.0\"\nwit = \"0.1\"\n[kv]\n[[secrets]]\nname = \"TOKEN\"\n[enqueue]\nqueues = [\"otherQueue\"]\n\
         [[egress]]\nurl = \"http://127.0.0.1:9/**\"\nmethods = [\"GET\"]\n[limits]\ndeadline_ms = 20_000\n{queues}"
    );
    let manifest = Manifest::from_toml(&text, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(&hostile_component()?, &manifest)?)
}

pub fn node(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new("node");
    command
        .arg("features.mjs")
        .args(args)
        .current_dir(format!("{}/interop", env!("CARGO_MANIFEST_DIR")))
        .env("REDIS_URL", &world.redis_url)
        .env("PREFIX", &world.prefix)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn answer(mut command: Command) -> anyhow::Result<Value> {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await??;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn cli(host: &Host, args: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(binary());
    command
        .args(args)
        .arg("--json")
        .env("PATCHBAY_URL", &host.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD);
    let mut envelope = answer(command).await?;
    Ok(envelope["data"].take())
}

fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

fn parsed(text: &Value) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(text.as_str().context("a text")?)?)
}

#[tokio::test]
async fn node_reads_the_options_of_a_job_that_was_added_over_http_and_by_the_command_line()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let expires = now_ms() + 600_000;
    let id = host
        .add(
            IDLE,
            json!({
                "name": "n", "data": { "a": 1 }, "lifo": true, "attempts": 7, "expiresAtMs": expires,
                "backoff": { "type": "exponential", "delayMs": 100, "maxMs": 900, "jitter": 0.5 },
                "deduplication": { "id": "once", "ttlMs": 60_000 },
                "removeOnComplete": { "age": 60, "count": 5 }, "removeOnFail": false,
            }),
        )
        .await?;
    let shown = answer(node(&world, &["show", IDLE, &id, "once"])).await?;
    let opts = &shown["opts"];
    assert_eq!(opts["lifo"], true, "{shown}");
    assert_eq!(opts["attempts"], 7);
    assert_eq!(
        opts["backoff"],
        json!({ "type": "exponential", "delay": 100, "jitter": 0.5, "maxDelay": 900 })
    );
    assert_eq!(opts["removeOnComplete"], json!({ "age": 60, "count": 5 }));
    assert_eq!(opts["removeOnFail"], false);
    assert_eq!(opts["exp"], expires);
    assert_eq!(
        (&shown["deduplicationId"], &shown["holder"]),
        (&json!("once"), &json!(id))
    );

    let added = cli(
        &host,
        &[
            "job",
            "add",
            IDLE,
            "n",
            "{}",
            "--lifo",
            "--attempts",
            "3",
            "--backoff-ms",
            "50",
            "--deduplicate",
            "other",
            "--remove-on-complete",
            "true",
            "--remove-on-fail",
            "9",
        ],
    )
    .await?;
    let shown = answer(node(
        &world,
        &["show", IDLE, added["id"].as_str().context("id")?, "other"],
    ))
    .await?;
    let opts = &shown["opts"];
    assert_eq!(
        (&opts["removeOnComplete"], &opts["removeOnFail"]),
        (&json!(true), &json!(9)),
        "{shown}"
    );
    assert_eq!(opts["backoff"], json!({ "type": "fixed", "delay": 50 }));
    assert_eq!(shown["holder"], added["id"]);
    Ok(())
}

#[tokio::test]
async fn every_mode_of_deduplication_does_what_bullmq_says() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy(
        "hostile",
        hostile_with("[[queues]]\nname = \"hostileQueue\"\n")?,
    )
    .await?;
    let add = async |queue: &str, data: Value, delay: u64, once: Value| {
        let name = if queue == IDLE { "n" } else { "spin" };
        let mut job = json!({ "name": name, "data": data, "deduplication": once });
        if delay > 0 {
            job["delayMs"] = delay.into();
        }
        host.add(queue, job).await
    };
    // Simple and throttled deduplication: the first job stays.
    for once in [
        json!({ "id": "simple" }),
        json!({ "id": "throttle", "ttlMs": 60_000 }),
    ] {
        let first = add(IDLE, json!({ "n": 1 }), 0, once.clone()).await?;
        assert_eq!(add(IDLE, json!({ "n": 2 }), 0, once).await?, first);
        assert_eq!(
            answer(node(&world, &["show", IDLE, &first])).await?["data"],
            json!({ "n": 1 })
        );
    }
    // Debounced: the newest job replaces the delayed one.
    let once = json!({ "id": "debounce", "ttlMs": 60_000, "extend": true, "replace": true });
    let first = add(IDLE, json!({ "n": 1 }), 50_000, once.clone()).await?;
    let second = add(IDLE, json!({ "n": 2 }), 50_000, once).await?;
    assert_ne!(first, second);
    assert_eq!(
        answer(node(&world, &["show", IDLE, &first])).await?["opts"],
        Value::Null
    );
    let shown = answer(node(&world, &["show", IDLE, &second, "debounce"])).await?;
    assert_eq!(
        (&shown["data"], &shown["holder"]),
        (&json!({ "n": 2 }), &json!(second))
    );
    // Kept while the first one runs: the last one runs after it.
    let once = json!({ "id": "last", "keepLastIfActive": true });
    let first = add("hostileQueue", json!({ "ms": 1_500 }), 0, once.clone()).await?;
    host.job_in("hostileQueue", &first, "active").await?;
    for n in [1, 2] {
        assert_eq!(
            add("hostileQueue", json!({ "ms": n }), 0, once.clone()).await?,
            first
        );
    }
    host.job_in("hostileQueue", &first, "completed").await?;
    let path = "/api/admin/queues/hostileQueue/jobs?state=completed";
    let all = until(Duration::from_secs(10), "one more job", async || {
        let all = host.get(path).await?.1["data"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok((all.len() >= 2).then_some(all))
    })
    .await?;
    assert_eq!(all.len(), 2);
    assert_eq!(parsed(&all[0]["data"])?, json!({ "ms": 2 }), "the last one");
    Ok(())
}

#[tokio::test]
async fn a_job_taken_after_its_time_fails_for_good_and_never_runs() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let expires_at = now_ms() + 300;
    let id = host
        .add(
            "hostileQueue",
            json!({ "name": "noop", "attempts": 3, "expiresAtMs": expires_at }),
        )
        .await?;
    let soon = host
        .add(
            "hostileQueue",
            json!({ "name": "noop", "expiresAtMs": now_ms() + 60_000 }),
        )
        .await?;
    until(Duration::from_secs(5), "its time", async || {
        Ok((now_ms() > expires_at).then_some(()))
    })
    .await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let story = host.job_in("hostileQueue", &id, "failed").await?;
    let reason = story["job"]["failedReason"].as_str().context("reason")?;
    assert!(
        reason.starts_with("expired: a worker took the job "),
        "{reason}"
    );
    assert_eq!(story["job"]["attemptsMade"], 1);
    host.job_in("hostileQueue", &soon, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn a_manifest_fills_attempts_backoff_priority_and_expiry_of_jobs_that_leave_them_out()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let queues = "[[queues]]\nname = \"hostileQueue\"\nattempts = 6\nbackoff = { type = \"fixed\", delay_ms = 70, jitter = 0.5 }\n\
                  [[queues.jobs]]\nname = \"noop\"\npriority = 40\nexpires_after_ms = 90_000\n";
    host.deploy("hostile", hostile_with(queues)?).await?;
    let opts = async |job: Value| {
        let id = host.add("hostileQueue", job).await?;
        let story = host.job_in("hostileQueue", &id, "completed").await?;
        parsed(&story["job"]["opts"])
    };
    let filled = opts(json!({ "name": "noop" })).await?;
    assert_eq!(
        (&filled["attempts"], &filled["priority"]),
        (&json!(6), &json!(40)),
        "{filled}"
    );
    assert_eq!(
        filled["backoff"],
        json!({ "type": "fixed", "delay": 70, "jitter": 0.5 })
    );
    assert!(
        filled["exp"]
            .as_u64()
            .is_some_and(|at| at > now_ms() + 60_000),
        "{filled}"
    );
    let own = opts(json!({ "name": "noop", "attempts": 2, "priority": 0 })).await?;
    assert_eq!(
        (&own["attempts"], &own["priority"]),
        (&json!(2), &json!(0)),
        "{own}"
    );
    Ok(())
}

#[tokio::test]
async fn jobs_and_flows_that_make_no_sense_are_refused_and_nothing_is_added() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let with = |key: &str, value: Value| {
        let mut job = json!({ "name": "n", "newQueue": true });
        job[key] = value;
        job
    };
    let big = "x".repeat(5 << 20);
    for (job, reason) in [
        (json!({ "name": "n", "newQueue": true, "data": big }), ""),
        (
            json!({ "name": "n", "newQueue": true, "data": "x".repeat((1 << 20) + 1) }),
            "larger",
        ),
        (with("priority", 2_097_153.into()), "priority"),
        (with("priority", json!(-1)), "priority"),
        (
            with("backoff", json!({ "type": "mine", "delayMs": 1 })),
            "mine",
        ),
        (
            with(
                "backoff",
                json!({ "type": "fixed", "delayMs": 5, "maxMs": 1 }),
            ),
            "maximum",
        ),
        (
            with(
                "backoff",
                json!({ "type": "fixed", "delayMs": 5, "jitter": 2.0 }),
            ),
            "jitter",
        ),
        (with("deduplication", json!({ "ttlMs": 5 })), "id"),
        (with("deduplication", json!({ "id": "" })), "id"),
        (
            with("deduplication", json!({ "id": "k", "extend": true })),
            "extend",
        ),
        (with("expiresAtMs", (now_ms() - 1).into()), "expire"),
        (
            json!({ "name": "n", "newQueue": true, "delayMs": 60_000, "expiresAtMs": now_ms() + 1_000 }),
            "expire",
        ),
        (with("removeOnFail", json!("yes")), "removeOnFail"),
        (
            with("removeOnComplete", json!({ "age_s": 5 })),
            "removeOnComplete",
        ),
        (with("attempts", 0.into()), "attempt"),
        (with("delayMs", u64::MAX.into()), "five years"),
    ] {
        let (status, answer) = host
            .post(&format!("/api/admin/queues/{IDLE}/jobs"), job)
            .await?;
        assert!((400..500).contains(&status), "{reason}: {status} {answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains(reason)),
            "{reason}: {answer}"
        );
    }
    let leaf = || json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true } });
    let deep = (0..MAX_DEPTH).fold(
        leaf(),
        |child, _| json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true }, "children": [child] }),
    );
    let wide = |children: usize| {
        let children: Vec<Value> = (0..children).map(|_| leaf()).collect();
        json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true }, "children": children })
    };
    let twin = json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true, "id": "twin" } });
    let twins = json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true }, "children": [twin, twin] });
    let bad_child =
        json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true, "priority": 9_999_999 } });
    let once = json!({ "name": "n", "newQueue": true, "deduplication": { "id": "k" } });
    for (flow, reason) in [
        (deep, "levels"),
        (wide(MAX_NODES), "1000 jobs"),
        (wide(10_000), "1000 jobs"),
        (twins, "twice"),
        (
            json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true }, "children": [leaf(), bad_child] }),
            "priority",
        ),
        (
            json!({ "queue": IDLE, "job": once, "children": [leaf()] }),
            "de-duplicated",
        ),
        (
            json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true }, "onFailure": "explode" }),
            "explode",
        ),
        (
            json!({ "queue": "a:b", "job": { "name": "n", "newQueue": true } }),
            "",
        ),
    ] {
        let (status, answer) = host.post("/api/admin/flows", flow).await?;
        assert!((400..500).contains(&status), "{reason}: {status} {answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains(reason)),
            "{reason}: {answer}"
        );
    }
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}:*", world.prefix))
        .query_async(&mut world.redis().await?)
        .await?;
    assert_eq!(keys, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_guests_flow_runs_its_parent_last_and_gives_it_its_childrens_results()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy(
        "hostile",
        hostile_with("[[queues]]\nname = \"hostileQueue\"\nconcurrency = 3\n")?,
    )
    .await?;
    let id = host
        .add("hostileQueue", json!({ "name": "enqueue-flow" }))
        .await?;
    let ids = parsed(&host.job_in("hostileQueue", &id, "completed").await?["job"]["returnValue"])?;
    let id = |place: usize| ids[place].as_str().map(str::to_owned).context("an id");
    let parent = host.job_in("hostileQueue", &id(0)?, "completed").await?;
    let children = parsed(&parent["job"]["returnValue"])?;
    let children = children.as_array().context("a list")?;
    assert_eq!(children.len(), 2, "{children:?}");
    let of = |id: String| {
        children
            .iter()
            .find(|child| child["id"] == id.as_str())
            .context("the child")
    };
    let echo = of(id(1)?)?;
    assert_eq!(echo["queue"], "hostileQueue");
    assert_eq!(parsed(&echo["result"])?["data"], json!({ "name": "echo" }));
    assert!(
        of(id(2)?)?["failure"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("on-request")),
        "{children:?}"
    );
    // The parent is not listed before its child.
    let id = host
        .add(
            "hostileQueue",
            json!({ "name": "enqueue-flow", "data": { "parent": 2 } }),
        )
        .await?;
    let story = host.job_in("hostileQueue", &id, "failed").await?;
    let reason = story["job"]["failedReason"].as_str().context("reason")?;
    assert!(reason.starts_with("invalid: job 1 of the flow"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn node_finishes_the_children_of_our_flow_and_we_those_of_nodes() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy(
        "hostile",
        hostile_with("[[queues]]\nname = \"hostileQueue\"\nconcurrency = 3\n")?,
    )
    .await?;
    let child =
        |name: &str| json!({ "queue": "nodeQueue", "job": { "name": name, "newQueue": true } });
    let flow = json!({
        "queue": "hostileQueue", "job": { "name": "children" }, "children": [child("one"), child("two")]
    });
    let added = cli(&host, &["job", "flow", &flow.to_string()]).await?;
    let root = added["jobs"][0]["id"].as_str().context("id")?;
    host.job_in("hostileQueue", root, "waiting-children")
        .await?;
    answer(node(&world, &["work", "nodeQueue", "2"])).await?;
    let parent = host.job_in("hostileQueue", root, "completed").await?;
    let children = parsed(&parent["job"]["returnValue"])?;
    for place in [1, 2] {
        let id = &added["jobs"][place]["id"];
        let children = children.as_array().context("a list")?;
        let child = children
            .iter()
            .find(|child| child["id"] == *id)
            .with_context(|| format!("{children:?}"))?;
        assert_eq!(parsed(&child["result"])?["by"], "node");
    }
    let results = answer(node(&world, &["flow", "nodeParents", "hostileQueue"])).await?;
    let mut data: Vec<Value> = results
        .as_array()
        .context("a list")?
        .iter()
        .map(|result| result["data"].clone())
        .collect();
    data.sort_by_key(Value::to_string);
    assert_eq!(data, [json!({ "n": 1 }), json!({ "n": 2 })]);
    Ok(())
}

#[tokio::test]
async fn a_child_that_fails_for_good_fails_its_parent_where_the_flow_says_so() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy(
        "hostile",
        hostile_with("[[queues]]\nname = \"hostileQueue\"\nconcurrency = 3\n")?,
    )
    .await?;
    let child = |on_failure: &str| json!({ "queue": "hostileQueue", "job": { "name": "fail", "data": { "retry": "never" } }, "onFailure": on_failure });
    let parent_of = async |on_failure: &str| -> anyhow::Result<String> {
        let flow = json!({ "queue": "hostileQueue", "job": { "name": "children" }, "children": [child(on_failure)] });
        let (status, answer) = host.post("/api/admin/flows", flow).await?;
        anyhow::ensure!(status == 200, "{answer}");
        Ok(answer["data"]["jobs"][0]["id"]
            .as_str()
            .context("id")?
            .to_owned())
    };
    let failing = parent_of("fail-parent").await?;
    let story = host.job_in("hostileQueue", &failing, "failed").await?;
    let reason = story["job"]["failedReason"].as_str().context("reason")?;
    assert!(reason.starts_with("failed-by-flow"), "{reason}");
    for on_failure in ["ignore", "remove", "continue-parent"] {
        let parent = parent_of(on_failure).await?;
        host.job_in("hostileQueue", &parent, "completed").await?;
    }
    let waiting = parent_of("wait").await?;
    host.job_in("hostileQueue", &waiting, "waiting-children")
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_job_without_priority_starts_within_a_second_behind_a_long_backlog() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let queues = Broker::connect(RedisConfig {
        url: world.redis_url.clone(),
        prefix: world.prefix.clone(),
        own_prefix: "test".into(),
        ..RedisConfig::default()
    })
    .await?;
    let backlog = if full_length() { 50_000 } else { 5_000 };
    for _ in 0..backlog / 1_000 {
        let job = NewJob {
            priority: Some(1_000),
            ..NewJob::new("hostileQueue".parse()?, "spin", r#"{"ms":200}"#)
        };
        queues.add(vec![job; 1_000]).await?;
    }
    let host = world.host(&[]).await?;
    let manifest = "[[queues]]\nname = \"hostileQueue\"\nconcurrency = 2\n[[queues.jobs]]\nname = \"echo\"\npriority = 1\n";
    host.deploy("hostile", hostile_with(manifest)?).await?;
    until(Duration::from_secs(20), "all workers busy", async || {
        let path = "/api/admin/queues/hostileQueue/jobs?state=active";
        Ok((host.get(path).await?.1["data"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })
    .await?;
    // With a priority by the job's name, and without one.
    for name in ["echo", "noop"] {
        let id = host.add("hostileQueue", json!({ "name": name })).await?;
        let job = host.job_in("hostileQueue", &id, "completed").await?["job"].clone();
        let (added, started) = (
            job["timestamp"].as_u64().context("added")?,
            job["processedOn"].as_u64().context("started")?,
        );
        assert!(
            started - added < 1_000,
            "{name} started after {} ms",
            started - added
        );
    }
    Ok(())
}

#[tokio::test]
async fn no_queue_starves_under_a_host_wide_limit() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[("PATCHBAY_WORK_MAX_JOBS", "2")]).await?;
    let manifest = "[[queues]]\nname = \"greedyQueue\"\nconcurrency = 20\n[[queues]]\nname = \"smallQueue\"\nconcurrency = 1\n\
                    [[queues]]\nname = \"ownQueue\"\nconcurrency = 1\nreserved = 1\n";
    let queues = Broker::connect(RedisConfig {
        url: world.redis_url.clone(),
        prefix: world.prefix.clone(),
        own_prefix: "test".into(),
        ..RedisConfig::default()
    })
    .await?;
    queues
        .add(vec![
            NewJob::new(
                "greedyQueue".parse()?,
                "spin",
                r#"{"ms":100}"#
            );
            500
        ])
        .await?;
    host.deploy("hostile", hostile_with(manifest)?).await?;
    until(
        Duration::from_secs(20),
        "the greedy queue at work",
        async || {
            let path = "/api/admin/queues/greedyQueue/jobs?state=completed";
            Ok((host.get(path).await?.1["data"].as_array().map(Vec::len) > Some(2)).then_some(()))
        },
    )
    .await?;
    // One slot is reserved, so the greedy queue has only one; its other jobs stay in Redis.
    let active = host
        .get("/api/admin/queues/greedyQueue/jobs?state=active")
        .await?;
    assert!(
        active.1["data"]
            .as_array()
            .is_some_and(|jobs| jobs.len() <= 1),
        "{active:?}"
    );
    for queue in ["smallQueue", "ownQueue", "smallQueue"] {
        let begun = Instant::now();
        let id = host.add(queue, json!({ "name": "noop" })).await?;
        let job = host.job_in(queue, &id, "completed").await?["job"].clone();
        let waited = job["processedOn"].as_u64().context("started")?
            - job["timestamp"].as_u64().context("added")?;
        assert!(
            waited < 1_000,
            "{queue} waited {waited} ms ({:?} in all)",
            begun.elapsed()
        );
    }
    let left = host
        .get("/api/admin/queues/greedyQueue/jobs?state=waiting")
        .await?;
    assert!(
        left.1["data"]
            .as_array()
            .is_some_and(|jobs| !jobs.is_empty()),
        "the greedy queue had work all the time"
    );
    Ok(())
}
