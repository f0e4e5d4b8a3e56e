//! The real Bull Board in a real browser, on queues that a host works on.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{World, hostile_plugin, repository, server_of_node, until};

const QUEUE: &str = "hostileQueue";

#[tokio::test]
async fn a_person_at_bull_board_sees_failures_logs_and_schedules_and_can_act_on_them()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let failed = host.add(QUEUE, json!({ "name": "panic" })).await?;
    let logged = host.add(QUEUE, json!({ "name": "print" })).await?;
    let delayed = host
        .add(QUEUE, json!({ "name": "noop", "delayMs": 3_600_000 }))
        .await?;
    let hourly = json!({ "id": "hourly", "queue": QUEUE, "name": "noop", "everyMs": 3_600_000 });
    host.post("/api/admin/schedules", hourly).await?;
    host.job_in(QUEUE, &logged, "completed").await?;
    // Files and lines are written a moment after the job has settled.
    until(Duration::from_secs(10), "files and lines", async || {
        let (_, story) = host
            .get(&format!("/api/admin/queues/{QUEUE}/jobs/{failed}"))
            .await?;
        Ok(story["data"]["job"]["stacktrace"][0]
            .as_str()
            .is_some_and(|stack| stack.contains("lib.rs:"))
            .then_some(()))
    })
    .await?;

    let shots = repository().join("target/bull-board");
    std::fs::create_dir_all(&shots)?;
    let env = [
        ("REDIS_URL", world.redis_url.as_str()),
        ("PREFIX", world.prefix.as_str()),
        ("QUEUE", QUEUE),
    ];
    let (mut board, port) = server_of_node("bull-board.mjs", &env).await?;
    let mut browser = Command::new("node");
    browser
        .arg("bull-board-browser.mjs")
        .current_dir(repository().join("tests/interop"))
        .envs(env)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    browser
        .args([&failed, &logged, &delayed])
        .env("SHOTS", shots.canonicalize()?);
    browser
        .env("BOARD", format!("http://127.0.0.1:{port}/admin/queues"))
        .stderr(Stdio::piped());
    let output = tokio::time::timeout(Duration::from_secs(150), browser.output()).await??;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    let shows = |page: &str, text: &str| {
        seen[page]
            .as_str()
            .is_some_and(|shown| shown.contains(text))
    };
    assert!(shows("overview", QUEUE), "{}", seen["overview"]);
    assert!(
        shows("failed", "panic") && shows("failed", "trapped: panicked at"),
        "{}",
        seen["failed"]
    );
    assert!(
        shows("job", "panic_here") && shows("job", "lib.rs:"),
        "the stack trace: {}",
        seen["job"]
    );
    assert!(
        shows("logs", "INFO line 0") && shows("logs", "WARN no newline"),
        "{}",
        seen["logs"]
    );
    assert!(
        shows("schedulers", "hourly") && shows("schedulers", "every 1h"),
        "{}",
        seen["schedulers"]
    );

    // Every click had its effect: promoted, run apart from its ticks, retried, cleaned. Bull
    // Board's clean may have removed the promoted job too; the record of its attempt stays.
    let mut database = world.database().await?;
    until(Duration::from_secs(10), "the promoted job, the schedule's job and the second attempt", async || {
        let of = "select count(*), count(*) filter (where name = 'panic'), count(*) filter (where job_id = $1) from patchbay.attempts";
        let (all, panics, promoted): (i64, i64, i64) =
            sqlx::query_as(of).bind(&delayed).fetch_one(&mut database).await?;
        Ok(((all, panics, promoted) == (5, 2, 1)).then_some(()))
    })
    .await?;
    let (status, story) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/{logged}"))
        .await?;
    assert!(
        status == 404 || story["data"]["job"].is_null(),
        "cleaned: {story}"
    );
    assert!(
        host.get("/api/admin/schedules/hourly").await?.1["data"]["nextAt"].is_string(),
        "it ticks on"
    );
    board.kill().await?;
    Ok(())
}
