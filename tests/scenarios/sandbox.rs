//! Guests that misbehave, and guests that use their grants: how the host handles both.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::Row;
use tokio::sync::oneshot::error::TryRecvError;

use crate::harness::{
    Host, World, curious_plugin, full_length, hostile_plugin, hostile_plugin_calling,
    hostile_plugin_with, until,
};

/// From the guest's plugin.toml.
const DEADLINE_MS: i64 = 200;

async fn world_with_hostile_guest(env: &[(&str, &str)]) -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    let host = world.host(env).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    Ok((world, host))
}

/// Runs one job to its end; returns the job.
async fn run(host: &Host, name: &str, data: Value, state: &str) -> anyhow::Result<Value> {
    let id = host
        .add("hostileQueue", json!({ "name": name, "data": data }))
        .await?;
    host.job_in("hostileQueue", &id, state).await
}

fn result(story: &Value) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(
        story["job"]["returnValue"]
            .as_str()
            .context("a return value")?,
    )?)
}

/// Anonymous memory of a process, in KiB: what it allocated, without files that it maps.
fn anonymous_kib(pid: u32) -> anyhow::Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .context("RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A process must have returned its freed memory after five seconds; there is no signal for it.
async fn quiet() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn hostile_guests_end_by_their_deadline_with_the_right_outcome_and_leave_nothing_behind()
-> anyhow::Result<()> {
    // Lines beyond the job's own log are not tested here.
    let world = World::new().await?;
    let host = world
        .host(&[
            ("PATCHBAY_LOG_FILTER", "info,guest=off"),
            ("PATCHBAY_QUARANTINE_POLICY", "off"),
        ])
        .await?;
    let silent = silent_server().await?;
    // With a breaker that never opens, because these calls get no answer.
    let patient = hostile_plugin_with(|manifest| {
        let breaker = "timeout_ms = 60_000\nbreaker = { failures = 1_000, within_ms = 1_000 }";
        manifest
            .replace("127.0.0.1:9/", &format!("{silent}/"))
            .replace("timeout_ms = 60_000", breaker)
    })?;
    host.deploy("hostile", patient).await?;
    let kinds: [(&str, &[&str]); 7] = [
        ("panic", &["trapped"]),
        ("loop", &["deadline"]),
        ("memory", &["memory-limit"]),
        ("recurse", &["trapped"]),
        ("outside", &["deadline"]),
        // A gigabyte of lines: whether it ends in time depends on the machine.
        ("log", &["completed", "deadline"]),
        ("big-result", &["invalid-result"]),
    ];
    let job = |kind: &str| json!({ "name": kind, "data": { "url": format!("http://{silent}/") } });
    let calls = if full_length() { 10_000 } else { 560 };
    // Warmed up first: threads, pools and caches that a process creates once are not leaks.
    for (kind, _) in kinds {
        host.add("hostileQueue", job(kind)).await?;
    }
    let mut database = world.database().await?;
    let mut finished = async |count: i64| {
        until(Duration::from_secs(600), "all attempts", async || {
            let n: i64 = sqlx::query_scalar("select count(*) from patchbay.attempts")
                .fetch_one(&mut database)
                .await?;
            Ok((n >= count).then_some(()))
        })
        .await
    };
    finished(7).await?;
    let pid = host.child.id().context("running")?;
    quiet().await;
    let before = anonymous_kib(pid)?;

    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let (http, url) = (host.http.clone(), format!("{}/api/health", host.url));
    let probe = tokio::spawn(async move {
        let mut slowest = (Duration::ZERO, String::new());
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            let started = Instant::now();
            let response = http.get(&url).send().await?.error_for_status()?;
            let took = started.elapsed();
            if took > slowest.0 {
                slowest = (took, response.text().await?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(slowest)
    });
    for n in 0..calls {
        host.add("hostileQueue", job(kinds[n % kinds.len()].0))
            .await?;
    }
    finished(calls as i64 + 7).await?;
    drop(stop);
    let (slowest_probe, answer) = probe.await??;

    let rows = sqlx::query(
        "select name, outcome, (extract(epoch from finished_at - started_at) * 1000)::float8 as ms from patchbay.attempts",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    let mut durations: HashMap<String, Vec<f64>> = HashMap::new();
    for row in &rows {
        let (name, outcome): (String, String) = (row.get("name"), row.get("outcome"));
        let expected = kinds
            .iter()
            .find(|(kind, _)| *kind == name)
            .context("a known kind")?
            .1;
        assert!(
            expected.contains(&outcome.as_str()),
            "{name} ended as {outcome}"
        );
        durations.entry(name).or_default().push(row.get("ms"));
    }
    let late = |ms: f64| ms - DEADLINE_MS as f64;
    for (name, ms) in &mut durations {
        ms.sort_by(f64::total_cmp);
        let (median, worst) = (ms[ms.len() / 2], ms[ms.len() - 1]);
        println!(
            "{name}: {} calls, median {median:.0} ms, worst {worst:.0} ms",
            ms.len()
        );
        assert!(
            late(median) <= 50.0 && late(worst) <= 150.0,
            "{name}: median {median} ms, worst {worst} ms"
        );
    }
    println!("slowest health probe: {slowest_probe:?}: {answer}");
    assert!(
        slowest_probe <= Duration::from_millis(100),
        "a health probe took {slowest_probe:?}: {answer}"
    );

    quiet().await;
    let grown = anonymous_kib(pid)? - before;
    println!("anonymous memory: {before} KiB before, {grown:+} KiB after");
    assert!(grown <= 20 * 1024, "{grown} KiB more than before");
    let story = run(&host, "noop", json!({}), "completed").await?;
    assert_eq!(story["job"]["attemptsMade"], 1, "slots are back");
    Ok(())
}

/// Accepts connections and never answers.
async fn silent_server() -> anyhow::Result<std::net::SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            open.push(connection);
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_guest_that_sleeps_is_ended_at_its_deadline_too() -> anyhow::Result<()> {
    let (_world, host) = world_with_hostile_guest(&[]).await?;
    let story = run(&host, "sleep", json!({}), "failed").await?;
    assert_eq!(
        story["job"]["failedReason"],
        "deadline: the call was ended after 200 ms"
    );
    Ok(())
}

#[tokio::test]
async fn a_panic_leaves_a_backtrace_with_names_in_the_jobs_stack_trace() -> anyhow::Result<()> {
    let (_world, host) = world_with_hostile_guest(&[]).await?;
    let story = run(&host, "panic", json!({}), "failed").await?;
    let trace = story["job"]["stacktrace"][0]
        .as_str()
        .context("a stack trace")?;
    assert!(trace.contains("panic_here"), "{trace}");
    let reason = story["job"]["failedReason"].as_str().context("a reason")?;
    assert!(
        reason.starts_with("trapped: panicked at hostile/src/lib.rs:"),
        "{reason}"
    );
    assert!(
        reason.ends_with(": on request") && trace.contains("\non request\n"),
        "its own words: {reason} {trace}"
    );
    let path = format!(
        "/api/admin/queues/hostileQueue/jobs/{}",
        story["job"]["id"].as_str().context("an id")?
    );
    let stack = until(
        Duration::from_secs(10),
        "the attempt in Postgres",
        async || {
            Ok(host.get(&path).await?.1["data"]["attempts"][0]["stack"]
                .as_str()
                .map(str::to_owned))
        },
    )
    .await?;
    let line = stack
        .lines()
        .find(|line| line.contains("panic_here"))
        .context("the frame")?;
    assert!(
        line.contains("hostile/src/lib.rs:"),
        "file and line from the debug information: {line}"
    );
    // BullMQ's stack trace, which Bull Board shows, has them too.
    until(
        Duration::from_secs(10),
        "file and line in the job's stack trace",
        async || {
            let job = host.get(&path).await?.1["data"]["job"].clone();
            Ok(job["stacktrace"][0]
                .as_str()
                .is_some_and(|trace| trace.contains("hostile/src/lib.rs:"))
                .then_some(()))
        },
    )
    .await?;
    let logs = story["logs"].to_string();
    assert!(
        logs.contains("on request"),
        "the panic's message is in the job's log: {logs}"
    );
    Ok(())
}

#[tokio::test]
async fn a_plugin_decides_how_its_jobs_are_retried() -> anyhow::Result<()> {
    let (_world, host) = world_with_hostile_guest(&[]).await?;
    // A job's own attempts override the manifest's single attempt.
    let job = json!({ "name": "fail", "data": { "retry": "after", "ms": 100 }, "attempts": 3 });
    let id = host.add("hostileQueue", job).await?;
    let story = host.job_in("hostileQueue", &id, "failed").await?;
    assert_eq!(
        (
            &story["job"]["attemptsMade"],
            &story["job"]["attemptsStarted"]
        ),
        (&json!(3), &json!(3))
    );
    assert_eq!(
        story["job"]["stacktrace"].as_array().map(Vec::len),
        Some(3),
        "one trace per attempt"
    );

    let job = json!({ "name": "fail", "data": { "retry": "never" }, "attempts": 3 });
    let id = host.add("hostileQueue", job).await?;
    let story = host.job_in("hostileQueue", &id, "failed").await?;
    assert_eq!(story["job"]["attemptsMade"], 1);

    let job = json!({ "name": "fail", "data": { "retry": "defer", "ms": 100 }, "attempts": 2 });
    let id = host.add("hostileQueue", job).await?;
    let path = format!("/api/admin/queues/hostileQueue/jobs/{id}");
    until(Duration::from_secs(20), "several deferrals", async || {
        let (_, story) = host.get(&path).await?;
        let job = &story["data"]["job"];
        assert_ne!(job["state"], "failed", "deferring uses up no attempt");
        Ok(
            (job["attemptsStarted"].as_u64() >= Some(3))
                .then(|| assert_eq!(job["attemptsMade"], 0)),
        )
    })
    .await
}

#[tokio::test]
async fn progress_and_output_of_a_guest_reach_its_job() -> anyhow::Result<()> {
    let (_world, host) = world_with_hostile_guest(&[]).await?;
    let story = run(&host, "progress", json!({}), "completed").await?;
    assert_eq!(
        story["job"]["progress"], "100",
        "the last one always arrives"
    );
    assert_eq!(story["logs"], json!(["INFO half way"]));
    let story = run(&host, "print", json!({}), "completed").await?;
    let logs: Vec<&str> = story["logs"]
        .as_array()
        .context("logs")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        logs,
        [
            "INFO line 0",
            "INFO line 1",
            "INFO line 2",
            "WARN no newline"
        ]
    );
    let story = run(&host, "log", json!({}), "failed").await;
    let logs = match story {
        Ok(story) => story["logs"].clone(),
        Err(_) => json!([]),
    };
    let last = logs
        .as_array()
        .and_then(|logs| logs.last())
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    assert!(
        last.ends_with("lines left out here; see the host's log"),
        "{last}"
    );
    Ok(())
}

#[tokio::test]
async fn one_correlation_id_goes_from_the_request_through_the_job_to_its_children()
-> anyhow::Result<()> {
    let (world, host) = world_with_hostile_guest(&[]).await?;
    let request = |name: &str| {
        host.http
            .post(format!("{}/api/admin/queues/hostileQueue/jobs", host.url))
            .basic_auth(crate::harness::USER, Some(crate::harness::PASSWORD))
            .header("x-correlation-id", "order-4711")
            .header("x-platform", "acme")
            .json(&json!({ "name": name, "data": { "exact": 12345678901234567890123u128.to_string() } }))
            .send()
    };
    let added: Value = request("echo").await?.json().await?;
    let id = added["data"]["id"].as_str().context("an id")?;
    let echoed = result(&host.job_in("hostileQueue", id, "completed").await?)?;
    assert_eq!(
        (&echoed["correlationId"], &echoed["platform"]),
        (&json!("order-4711"), &json!("acme"))
    );

    let added: Value = request("enqueue").await?.json().await?;
    let id = added["data"]["id"].as_str().context("an id")?;
    let children = result(&host.job_in("hostileQueue", id, "completed").await?)?;
    let child = children[1].as_str().context("two ids")?;
    let opts: String = redis::AsyncCommands::hget(
        &mut world.redis().await?,
        format!("{}:otherQueue:{child}", world.prefix),
        "opts",
    )
    .await?;
    assert!(opts.contains("order-4711"), "{opts}");

    let story = run(
        &host,
        "enqueue",
        json!({ "queue": "foreignQueue" }),
        "failed",
    )
    .await?;
    assert!(
        story["job"]["failedReason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("denied:")),
        "{story}"
    );
    Ok(())
}

#[tokio::test]
async fn key_value_and_secrets_give_what_was_asked_for_and_no_more() -> anyhow::Result<()> {
    let (_world, host) =
        world_with_hostile_guest(&[("PATCHBAY_SECRET_HOSTILE_TOKEN", "s3cret")]).await?;
    let kv = result(&run(&host, "kv", json!({}), "completed").await?)?;
    assert_eq!(
        kv,
        json!({ "first": true, "count": 2, "value": 1, "deleted": true })
    );
    let kv = result(&run(&host, "kv", json!({}), "completed").await?)?;
    assert_eq!(kv["count"], 4, "values outlive the instance");
    let secret = result(&run(&host, "secret", json!({}), "completed").await?)?;
    assert_eq!(
        secret,
        json!({ "configured": true, "other": "denied", "matches": 8 })
    );
    Ok(())
}

#[tokio::test]
async fn a_guest_finds_no_files_no_environment_no_sockets_and_no_names() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("curious", curious_plugin()?).await?;
    let id = host
        .add("curiousQueue", json!({ "name": "look", "data": {} }))
        .await?;
    let found = result(&host.job_in("curiousQueue", &id, "completed").await?)?;
    let refused = found["refused"].as_object().context("refused")?;
    assert!(
        refused.len() == 7 && refused.values().all(|refused| refused == true),
        "{found}"
    );
    assert_eq!(
        (&found["variables"], &found["arguments"]),
        (&json!(0), &json!(0)),
        "{found}"
    );
    Ok(())
}

#[tokio::test]
async fn options_that_are_no_json_and_data_that_is_too_large_fail_the_job_and_are_kept()
-> anyhow::Result<()> {
    let (world, host) = world_with_hostile_guest(&[]).await?;
    let mut redis = world.redis().await?;
    let id = host
        .add(
            "hostileQueue",
            json!({ "name": "echo", "delayMs": 3_600_000 }),
        )
        .await?;
    let key = format!("{}:hostileQueue:{id}", world.prefix);
    let _: () = redis::AsyncCommands::hset(&mut redis, &key, "opts", "{no json").await?;
    world.promote("hostileQueue", &id).await?;
    let story = host.job_in("hostileQueue", &id, "failed").await?;
    assert!(
        story["job"]["failedReason"]
            .as_str()
            .is_some_and(|reason| reason.contains("options cannot be read")),
        "{story}"
    );

    let id = host
        .add(
            "hostileQueue",
            json!({ "name": "echo", "delayMs": 3_600_000 }),
        )
        .await?;
    let key = format!("{}:hostileQueue:{id}", world.prefix);
    let large = json!({ "text": "x".repeat(10 << 20) }).to_string();
    let _: () = redis::AsyncCommands::hset(&mut redis, &key, "data", &large).await?;
    world.promote("hostileQueue", &id).await?;
    let path = format!("/api/admin/queues/hostileQueue/jobs/{id}");
    until(Duration::from_secs(30), "the failure", async || {
        Ok((host.get(&path).await?.1["data"]["job"]["state"] == "failed").then_some(()))
    })
    .await?;
    let kept: usize = redis::cmd("HSTRLEN")
        .arg(&key)
        .arg("data")
        .query_async(&mut redis)
        .await?;
    assert_eq!(kept, large.len(), "the data is kept as it was");
    Ok(())
}

/// Answers 200 under /allowed, to every request.
async fn answering_server() -> anyhow::Result<std::net::SocketAddr> {
    let app =
        axum::Router::new().route("/allowed/{*rest}", axum::routing::any(|| async { "hello" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

#[tokio::test]
async fn both_http_interfaces_go_through_the_same_gate() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let server = answering_server().await?;
    host.deploy("hostile", hostile_plugin_calling(server)?)
        .await?;
    let story = run(
        &host,
        "outside",
        json!({ "url": format!("http://{server}/allowed/x") }),
        "completed",
    )
    .await?;
    assert_eq!(result(&story)?, json!({ "status": 200, "body": "hello" }));
    let data = json!({ "authority": server.to_string(), "path": "/allowed/x", "times": 20 });
    for _ in 0..5 {
        let story = run(&host, "wasi-http", data.clone(), "completed").await?;
        assert_eq!(result(&story)?, json!(vec![200; 20]), "no request breaks");
    }
    let elsewhere = answering_server().await?;
    let story = run(
        &host,
        "wasi-http",
        json!({ "authority": elsewhere.to_string() }),
        "failed",
    )
    .await?;
    assert!(
        story["job"]["failedReason"]
            .as_str()
            .is_some_and(|reason| reason.contains("HttpRequestDenied")),
        "{story}"
    );
    let story = run(
        &host,
        "outside",
        json!({ "url": format!("http://{elsewhere}/allowed/x") }),
        "failed",
    )
    .await?;
    assert!(
        story["job"]["failedReason"]
            .as_str()
            .is_some_and(|reason| reason.contains("Denied")),
        "{story}"
    );
    Ok(())
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used_and_an_echoed_secret_reaches_neither_guest_nor_job()
-> anyhow::Result<()> {
    let echo = |headers: axum::http::HeaderMap| async move { format!("{headers:?}") };
    let app = axum::Router::new()
        .route("/echo", axum::routing::any(echo))
        .route("/fine", axum::routing::any(|| async { "fine" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let world = World::new().await?;
    // Nothing listens there: a host that used this proxy would fail.
    let proxy = "http://127.0.0.1:9";
    let env = [
        ("HTTP_PROXY", proxy),
        ("http_proxy", proxy),
        ("HTTPS_PROXY", proxy),
        ("ALL_PROXY", proxy),
        ("PATCHBAY_SECRET_HOSTILE_TOKEN", "s3cret-of-the-host"),
    ];
    let host = world.host(&env).await?;
    let plugin = hostile_plugin_with(|manifest| {
        let auth = "methods = [\"GET\"]\nauth = { bearer = { token = \"TOKEN\" } }";
        manifest
            .replace("127.0.0.1:9/", &format!("{server}/"))
            .replace("deadline_ms = 200", "deadline_ms = 2_000")
            .replacen("methods = [\"GET\"]", auth, 1)
    })?;
    host.deploy("hostile", plugin).await?;
    let story = run(
        &host,
        "outside",
        json!({ "url": format!("http://{server}/fine") }),
        "completed",
    )
    .await?;
    assert_eq!(result(&story)?, json!({ "status": 200, "body": "fine" }));
    let story = run(
        &host,
        "outside",
        json!({ "url": format!("http://{server}/echo") }),
        "failed",
    )
    .await?;
    let reason = story["job"]["failedReason"].as_str().context("a reason")?;
    assert!(reason.contains("repeats a credential"), "{reason}");
    assert!(!story.to_string().contains("s3cret-of-the-host"), "{story}");
    let data = json!({ "authority": server.to_string(), "path": "/echo" });
    let story = run(&host, "wasi-http", data, "failed").await?;
    assert!(
        story["job"]["failedReason"]
            .as_str()
            .is_some_and(|reason| reason.contains("HttpRequestDenied")),
        "{story}"
    );
    Ok(())
}

#[tokio::test]
async fn a_host_with_a_malformed_ca_file_does_not_start_and_names_the_key() -> anyhow::Result<()> {
    let world = World::new().await?;
    let file = world.dir.path().join("ca.pem");
    std::fs::write(&file, "no certificate")?;
    let output = tokio::process::Command::new(crate::harness::binary())
        .arg("serve")
        .env_clear()
        .env("DATABASE_URL", &world.database_url)
        .env("REDIS_URL", &world.redis_url)
        .env("PATCHBAY_HTTP_LISTEN", "127.0.0.1:0")
        .env("PATCHBAY_RUNTIME_CACHE_DIR", world.dir.path())
        .env("PATCHBAY_EGRESS_CA_FILE", &file)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), output).await??;
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && text.contains("egress.ca_file"),
        "{text}"
    );
    Ok(())
}
