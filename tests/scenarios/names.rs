//! Names that Node gives to queues and jobs: with any name, jobs run, are recorded and can be
//! reached in every way. Names with which a job would destroy its queue: the host refuses them, and
//! an existing one is reported and removed.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::AsyncCommands;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{
    Host, PASSWORD, USER, World, binary, hostile_plugin, hostile_plugin_with, repository, seed,
    server_of_node, until,
};

const QUEUE: &str = "hostileQueue";
/// A queue that nobody works on.
const IDLE: &str = "idleQueue";

fn odd_queues() -> Vec<String> {
    let names = [
        "my queue",
        "отчёты",
        "a/b",
        "100%",
        "a%2Fb",
        ".",
        "..",
        "~.",
        "pause",
        "-dash",
        "q'u\"o",
        "new\nline",
        "a?b#c&d",
        "😀",
        " edge ",
        "*",
        "\u{1b}[2J",
    ];
    names
        .into_iter()
        .map(str::to_owned)
        .chain(["x".repeat(200), "ü".repeat(256)])
        .collect()
}

fn odd_ids() -> Vec<String> {
    let ids = [
        ".",
        "..",
        "%2F",
        "a/b",
        "a?b",
        "a#b",
        "a b",
        "a+b",
        "two\nlines",
        "отчёт",
        "😀",
        "q'u\"o",
        "-x",
        "~.",
        "a:b:c",
        "retry",
        "\u{1b}[2J",
        "$x",
        "\\",
    ];
    ids.into_iter()
        .map(str::to_owned)
        .chain(["x".repeat(300), "é".repeat(512)])
        .collect()
}

/// Encoded as by a client that knows only our documentation.
fn segment(name: &str) -> String {
    let escape = if ["", ".", "..", "pause", "resume"].contains(&name.trim_start_matches('~')) {
        "~"
    } else {
        ""
    };
    format!("{escape}{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

fn queue_path(queue: &str, rest: &str) -> String {
    format!("/api/admin/queues/{}{rest}", segment(queue))
}

fn job_path(queue: &str, id: &str, rest: &str) -> String {
    queue_path(queue, &format!("/jobs/{}{rest}", segment(id)))
}

async fn node(world: &World, args: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new("node");
    command
        .arg("names.mjs")
        .args(args)
        .current_dir(repository().join("tests/interop"));
    command
        .env("REDIS_URL", &world.redis_url)
        .env("PREFIX", &world.prefix)
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await??;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn add_by_node(world: &World, jobs: Vec<Value>) -> anyhow::Result<Vec<String>> {
    let ids = node(world, &["add", &Value::Array(jobs).to_string()]).await?;
    serde_json::from_value(ids.clone()).with_context(|| format!("{ids}"))
}

async fn cli(host: &Host, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary());
    command
        .args(args)
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD);
    Ok(tokio::time::timeout(
        Duration::from_secs(60),
        command.stdin(Stdio::null()).output(),
    )
    .await??)
}

/// The output of a command that succeeds.
async fn said(host: &Host, args: &[&str]) -> anyhow::Result<String> {
    let output = cli(host, args).await?;
    anyhow::ensure!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let steers = |c: char| c.is_control() && c != '\n';
    anyhow::ensure!(
        !text.contains(steers),
        "{args:?} steers the terminal: {text:?}"
    );
    Ok(text)
}

async fn in_state(
    host: &Host,
    queue: &str,
    id: &str,
    state: &str,
    attempts: usize,
) -> anyhow::Result<Value> {
    until(
        Duration::from_secs(30),
        &format!("{queue:?} {id:?} in {state}"),
        async || {
            let (status, answer) = host.get(&job_path(queue, id, "")).await?;
            anyhow::ensure!(status == 200 || status == 404, "{answer}");
            let story = &answer["data"];
            let recorded = story["attempts"].as_array().map_or(0, Vec::len) >= attempts;
            Ok((story["job"]["state"] == state && recorded).then(|| story.clone()))
        },
    )
    .await
}

#[tokio::test]
async fn queues_that_node_names_oddly_are_worked_seen_and_reached_by_every_command()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let queues = odd_queues();
    host.deploy(
        "hostile",
        hostile_plugin_with(|manifest| {
            // TOML accepts JSON's quoted strings.
            let queues = queues
                .iter()
                .map(|name| format!("\n[[queues]]\nname = {}\nattempts = 1\n", json!(name)));
            manifest.replace("deadline_ms = 200", "deadline_ms = 20_000")
                + &queues.collect::<String>()
        })?,
    )
    .await?;
    let jobs = queues
        .iter()
        .map(|queue| json!({ "queue": queue, "name": "noop", "opts": { "jobId": "one" } }));
    add_by_node(&world, jobs.collect()).await?;
    let (_, listed) = host.get("/api/admin/queues").await?;
    for queue in &queues {
        in_state(&host, queue, "one", "completed", 1).await?;
        let is_listed = listed["data"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["name"] == **queue));
        assert!(is_listed, "{queue:?} is not listed: {listed}");
        let (status, why) = host.get(&queue_path(queue, "/why")).await?;
        assert_eq!(
            (status, &why["data"][0]["code"]),
            (200, &json!("empty")),
            "{why}"
        );
        let (_, found) = host
            .get(&format!(
                "/api/admin/history/search?queue={}",
                utf8_percent_encode(queue, NON_ALPHANUMERIC)
            ))
            .await?;
        assert_eq!(found["data"][0]["queue"], **queue, "{found}");
    }
    // One command of each kind that changes something and names no other queue.
    let (host, queues) = (&host, &queues);
    futures::stream::iter(queues)
        .map(|queue| async move {
            let paused = async || {
                anyhow::Ok(
                    host.get(&queue_path(queue, "")).await?.1["data"]["counts"]["paused"] == true,
                )
            };
            said(host, &["queue", "pause", "--", queue]).await?;
            anyhow::ensure!(paused().await?, "{queue:?} is not paused");
            let shown = said(host, &["queue", "why", "--", queue]).await?;
            // The next command that it prints works in a shell.
            let next = shown
                .lines()
                .find_map(|line| line.strip_prefix("  Next: "))
                .context("what to do next")?;
            let next = next.replacen("patchbay", &binary().display().to_string(), 1);
            let mut shell = Command::new("bash");
            shell.args(["-c", &next]).env("PATCHBAY_URL", &host.url);
            let output = shell
                .env("PATCHBAY_USER", USER)
                .env("PATCHBAY_PASSWORD", PASSWORD)
                .output()
                .await?;
            anyhow::ensure!(
                output.status.success(),
                "{next}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            anyhow::ensure!(!paused().await?, "{queue:?} is not resumed by {next}");
            anyhow::Ok(())
        })
        .buffer_unordered(3)
        .try_collect::<Vec<()>>()
        .await?;
    said(host, &["queue", "list"]).await?;

    // A client removes the dot; no queue is paused by that.
    let (status, answer) = host.post("/api/admin/queues/./pause", json!({})).await?;
    assert_eq!(
        (status, &answer["code"]),
        (400, &json!("invalid-input")),
        "{answer}"
    );
    let (_, listed) = host.get("/api/admin/queues").await?;
    assert!(
        listed["data"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["counts"]["paused"] == false)),
        "{listed}"
    );

    // In metrics, each name is within its quotation marks, on one line.
    let metrics = host.metrics().await?;
    for label in [
        r#"queue="new\nline""#,
        r#"queue="q'u\"o""#,
        r#"queue="my queue""#,
        r#"queue="отчёты""#,
    ] {
        assert!(metrics.contains(label), "{label} is not in {metrics}");
    }
    let bundle = host
        .http
        .get(format!("{}/api/admin/incident", host.url))
        .basic_auth(USER, Some(PASSWORD))
        .send()
        .await?;
    assert_eq!(bundle.status(), 200);

    // A new queue that an operator types must have a readable name.
    for (queue, refused) in [
        ("..", false),
        (" new", true),
        ("n\u{7}w", true),
        ("a:b", true),
        ("", true),
    ] {
        let job = json!({ "name": "noop", "newQueue": true, "delayMs": 3_600_000 });
        let (status, answer) = host.post(&queue_path(queue, "/jobs"), job).await?;
        assert_eq!(
            status,
            if refused { 400 } else { 200 },
            "{queue:?}: {answer}"
        );
    }
    said(host, &["queue", "drain", "--delayed", "--yes", ".."]).await?;
    for queue in queues {
        let (status, done) = host
            .post(
                &queue_path(queue, "/obliterate"),
                json!({ "confirm": queue }),
            )
            .await?;
        assert_eq!(status, 200, "{done}");
    }
    Ok(())
}

#[tokio::test]
async fn jobs_that_node_names_oddly_run_are_recorded_and_are_reached_by_every_command()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy(
        "hostile",
        hostile_plugin_with(|manifest| {
            manifest.replace("deadline_ms = 200", "deadline_ms = 20_000")
        })?,
    )
    .await?;
    let ids = odd_ids();
    let fails = |id: &String| json!({ "queue": QUEUE, "name": "fail", "data": { "retry": "never" }, "opts": { "jobId": id } });
    // Node also chooses the names of jobs.
    let names = ["", "two\nlines", &"n".repeat(300), "../..", "\u{1b}[2J"];
    let named = names
        .iter()
        .map(|name| json!({ "queue": QUEUE, "name": name }));
    let added = add_by_node(&world, ids.iter().map(fails).chain(named).collect()).await?;
    assert_eq!(added[..ids.len()], ids);
    for id in &added {
        in_state(&host, QUEUE, id, "failed", 1).await?;
    }
    let (_, listed) = host
        .get(&format!(
            "/api/admin/queues/{QUEUE}/jobs?state=failed&limit=200"
        ))
        .await?;
    for id in &added {
        let is_listed = listed["data"]
            .as_array()
            .is_some_and(|all| all.iter().any(|job| job["id"] == **id));
        assert!(is_listed, "{id:?} is not listed: {listed}");
    }
    let host = &host;
    futures::stream::iter(&added)
        .map(|id| async move {
            let (status, timeline) = host.get(&job_path(QUEUE, id, "/timeline")).await?;
            anyhow::ensure!(
                status == 200 && timeline["data"]["id"] == **id,
                "{timeline}"
            );
            said(host, &["job", "show", "--", QUEUE, id]).await?;
            let (status, answer) = host.post(&job_path(QUEUE, id, "/retry"), json!({})).await?;
            anyhow::ensure!(status == 200, "{answer}");
            in_state(host, QUEUE, id, "failed", 2).await?;
            let timeline = said(host, &["job", "timeline", "--", QUEUE, id]).await?;
            anyhow::ensure!(timeline.contains("retried by operator"), "{timeline}");
            said(host, &["job", "remove", "--yes", "--", QUEUE, id]).await?;
            let (status, _) = host.get(&job_path(QUEUE, id, "")).await?;
            anyhow::ensure!(status == 404, "{id:?} is still there");
            anyhow::Ok(())
        })
        .buffer_unordered(3)
        .try_collect::<Vec<()>>()
        .await?;
    let (_, left) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
    assert_eq!(left["data"]["counts"]["failed"], 0, "{left}");

    // Jobs in other states, and jobs that only the history has.
    let opts = |id: &str, delay: u64| json!({ "jobId": id, "delay": delay });
    let jobs = [
        ("..", "sleep", 0),
        ("two\nlines", "noop", 3_600_000),
        ("-x", "noop", 3_600_000),
    ];
    let jobs = jobs.map(
        |(id, name, delay)| json!({ "queue": QUEUE, "name": name, "data": { "ms": 15_000 }, "opts": opts(id, delay) }),
    );
    add_by_node(&world, jobs.to_vec()).await?;
    in_state(host, QUEUE, "..", "active", 0).await?;
    said(host, &["job", "kill", QUEUE, ".."]).await?;
    said(
        host,
        &["job", "set-data", "--yes", "--", QUEUE, "-x", "{\"a\":1}"],
    )
    .await?;
    said(host, &["job", "promote", "--", QUEUE, "-x"]).await?;
    in_state(host, QUEUE, "-x", "completed", 3).await?;
    said(host, &["job", "set-delay", QUEUE, "two\nlines", "0"]).await?;
    in_state(host, QUEUE, "two\nlines", "completed", 3).await?;
    let (_, found) = host
        .get(&format!(
            "/api/admin/history/search?job={}",
            segment("two\nlines")
        ))
        .await?;
    assert_eq!(found["data"].as_array().map(Vec::len), Some(3), "{found}");
    let csv = cli(
        host,
        &[
            "history",
            "export",
            "--format",
            "csv",
            &format!("queue={QUEUE}"),
        ],
    )
    .await?;
    let csv = String::from_utf8(csv.stdout)?;
    assert!(
        csv.contains("\"two\nlines\"") && csv.contains(&"x".repeat(300)),
        "{csv}"
    );
    for (name, state) in [("", "failed"), ("noop", "completed")] {
        let (_, found) = host
            .get(&format!(
                "/api/admin/history/search?queue={QUEUE}&name={name}&verdict=fail"
            ))
            .await?;
        assert_eq!(found["data"][0]["name"] == "", name.is_empty(), "{found}");
        let filter = json!({ "queue": QUEUE, "name": name });
        let body = json!({ "kind": "enqueue-again", "state": state, "source": "history", "key": "new", "filter": filter, "dryRun": true });
        let (status, preview) = host.post("/api/admin/bulk", body).await?;
        assert_eq!(status, 200, "{preview}");
    }
    Ok(())
}

/// Characters that often break names.
const TRICKY: [&str; 24] = [
    ".", "..", "/", "%", "%2F", "%2e", "~", "?", "#", "&", "=", "+", " ", "\n", "\t", "'", "\"",
    "\\", "-", "é", "😀", "a", "7", "\u{202e}",
];

#[tokio::test]
async fn every_name_that_node_can_make_comes_back_through_http_and_the_command_line()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let mut random = StdRng::seed_from_u64(seed());
    let mut name = || -> String {
        let length = random.random_range(1..=6);
        (0..length)
            .map(|_| TRICKY[random.random_range(0..TRICKY.len())])
            .collect()
    };
    // BullMQ reserves ids that are whole numbers.
    let jobs: Vec<(String, String)> = (0..16)
        .map(|n| (name(), format!("{}{n}x", name())))
        .collect();
    let added = jobs
        .iter()
        .map(|(queue, id)| json!({ "queue": queue, "name": "n", "opts": { "jobId": id, "delay": 3_600_000 } }));
    add_by_node(&world, added.collect()).await?;
    let host = &host;
    futures::stream::iter(&jobs)
        .map(|(queue, id)| async move {
            let (status, story) = host.get(&job_path(queue, id, "")).await?;
            anyhow::ensure!(
                status == 200 && story["data"]["job"]["id"] == **id,
                "{queue:?} {id:?}: {story}"
            );
            let shown: Value = serde_json::from_str(
                &said(host, &["job", "show", "--json", "--", queue, id]).await?,
            )?;
            anyhow::ensure!(
                shown["data"]["job"]["id"] == **id,
                "{queue:?} {id:?}: {shown}"
            );
            said(host, &["job", "remove", "--yes", "--", queue, id]).await?;
            let gone = cli(host, &["job", "show", "--", queue, id]).await?;
            anyhow::ensure!(gone.status.code() == Some(3), "{queue:?} {id:?}: {gone:?}");
            anyhow::Ok(())
        })
        .buffer_unordered(3)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

#[tokio::test]
async fn nobody_adds_a_job_under_a_name_of_the_queues_own() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let mut redis = world.redis().await?;
    // BullMQ itself lists the keys that it has beside jobs.
    let keys: Vec<String> = serde_json::from_value(node(&world, &["keys"]).await?)?;
    assert!(keys.len() > 15, "{keys:?}");
    let ours = [
        "dn",
        "metrics",
        "priority",
        "7",
        "-7",
        "NaN",
        "7:lock",
        "repeat:a:1",
        "de:x",
        "metrics:completed",
        "a\nb",
        "..",
    ];
    for id in keys.iter().map(String::as_str).chain(ours) {
        let job = json!({ "name": "n", "id": id, "newQueue": true });
        let (status, answer) = host.post(&queue_path(IDLE, "/jobs"), job.clone()).await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{id}: {answer}"
        );
        let says_why = answer["message"]
            .as_str()
            .is_some_and(|text| text.contains("a job's own id"));
        assert!(says_why, "{id}: {answer}");
        for at_root in [true, false] {
            let plain = json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true } });
            let odd = json!({ "queue": IDLE, "job": job });
            let (mut tree, leaf) = if at_root { (odd, plain) } else { (plain, odd) };
            tree["children"] = json!([leaf]);
            let (status, answer) = host.post("/api/admin/flows", tree).await?;
            assert_eq!(status, 400, "{id}: {answer}");
        }
    }
    for id in ["failed", "active", "meta", "7:lock"] {
        let refused = cli(
            &host,
            &["job", "add", IDLE, "n", "{}", "--new-queue", "--id", id],
        )
        .await?;
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        let tree = json!({ "queue": IDLE, "job": { "name": "n", "newQueue": true, "id": id } })
            .to_string();
        assert_eq!(
            cli(&host, &["job", "flow", &tree]).await?.status.code(),
            Some(4),
            "{id}"
        );
        // From a plugin, to another plugin's queue and to its own.
        for name in ["enqueue", "enqueue-flow"] {
            let job = host
                .add(QUEUE, json!({ "name": name, "data": { "id": id } }))
                .await?;
            let story = host.job_in(QUEUE, &job, "failed").await?;
            let reason = story["job"]["failedReason"].as_str().context("a reason")?;
            assert!(reason.contains("a job's own id"), "{id}: {reason}");
        }
    }
    let left: Vec<String> = redis.keys(format!("{}:{IDLE}:*", world.prefix)).await?;
    assert_eq!(left, Vec::<String>::new(), "nothing was written");
    let left: Vec<String> = redis.keys(format!("{}:otherQueue:*", world.prefix)).await?;
    assert_eq!(
        left,
        Vec::<String>::new(),
        "nothing was written, not even the job before it"
    );
    // A similar id that is harmless.
    host.add(IDLE, json!({ "name": "n", "id": "job-failed" }))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_stands_in_the_place_of_a_key_is_named_and_taken_away_and_the_queue_works_again()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let job = |id: &str| json!({ "queue": IDLE, "name": "n", "data": { "kept": id }, "opts": { "jobId": id } });
    for id in [
        "failed",
        "prioritized",
        "completed",
        "pc",
        "limiter",
        "stalled",
    ] {
        add_by_node(&world, vec![job(id)]).await?;
        let (_, why) = host.get(&queue_path(IDLE, "/why")).await?;
        let reason = &why["data"][0];
        assert_eq!(reason["code"], "damaged-data", "{id}: {why}");
        let next = reason["next"].as_str().context("what to do")?;
        assert!(
            next.contains(&format!("patchbay job remove {IDLE} {id}")),
            "{next}"
        );
        assert!(
            said(&host, &["job", "show", IDLE, id])
                .await?
                .contains("\"kept\""),
            "{id}"
        );
        let mut doctor = Command::new(binary());
        doctor
            .args(["--json", "doctor"])
            .env("DATABASE_URL", &world.database_url)
            .env("REDIS_URL", &world.redis_url);
        let found = doctor
            .env("PATCHBAY_REDIS_PREFIX", &world.prefix)
            .current_dir(world.dir.path())
            .output()
            .await?;
        let found = String::from_utf8(found.stdout)?;
        assert!(
            found.contains(&format!("patchbay job remove {IDLE} {id}")),
            "{found}"
        );
        said(&host, &["job", "remove", "--yes", IDLE, id]).await?;
        let (_, why) = host.get(&queue_path(IDLE, "/why")).await?;
        assert_ne!(why["data"][0]["code"], "damaged-data", "{id}: {why}");
        let (_, story) = host.get(&queue_path(IDLE, "")).await?;
        assert_eq!(story["data"]["counts"]["waiting"], 0, "{story}");
    }
    // In one hash, beside the queue's own fields.
    let mut redis = world.redis().await?;
    let meta = format!("{}:{IDLE}:meta", world.prefix);
    redis.del::<_, ()>(&meta).await?;
    redis
        .hset_multiple::<_, _, _, ()>(
            &meta,
            &[
                ("name", "n"),
                ("data", "{}"),
                ("opts", "{}"),
                ("timestamp", "1"),
            ],
        )
        .await?;
    redis.hset::<_, _, _, ()>(&meta, "paused", 1).await?;
    said(&host, &["job", "remove", "--yes", IDLE, "meta"]).await?;
    let left: Vec<String> = redis.hkeys(&meta).await?;
    assert_eq!(left, ["paused"]);
    // Not a job: only its owner knows what it is.
    redis
        .set::<_, _, ()>(format!("{}:{IDLE}:stalled", world.prefix), "x")
        .await?;
    let (_, why) = host.get(&queue_path(IDLE, "/why")).await?;
    let next = why["data"][0]["next"].as_str().context("what to do")?;
    assert!(
        next.contains("redis-cli RENAME") && next.contains(":stalled"),
        "{why}"
    );
    Ok(())
}

#[tokio::test]
async fn bull_board_shows_the_same_oddly_named_queue() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let queue = "мои отчёты";
    add_by_node(
        &world,
        vec![json!({ "queue": queue, "name": "n", "opts": { "jobId": "two\nlines" } })],
    )
    .await?;
    let env = [
        ("REDIS_URL", world.redis_url.as_str()),
        ("PREFIX", world.prefix.as_str()),
        ("QUEUE", queue),
    ];
    let (mut board, port) = server_of_node("bull-board.mjs", &env).await?;
    let of_queue = utf8_percent_encode(queue, NON_ALPHANUMERIC);
    let url = format!(
        "http://127.0.0.1:{port}/admin/queues/api/queues?activeQueue={of_queue}&status=latest&page=1"
    );
    let shown: Value = host.http.get(url).send().await?.json().await?;
    assert_eq!(shown["queues"][0]["jobs"][0]["id"], "two\nlines", "{shown}");
    board.kill().await?;
    let (_, ours) = host.get(&queue_path(queue, "/jobs?state=waiting")).await?;
    assert_eq!(ours["data"][0]["id"], "two\nlines", "{ours}");
    Ok(())
}
