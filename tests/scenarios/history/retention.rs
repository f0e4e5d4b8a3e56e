//! Pruning by age, and erasure by value.

use anyhow::Context;
use sqlx::Executor;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::commands::{json_of, patchbay};
use crate::harness::{PASSWORD, USER, binary};

/// A completed and a failed attempt in each of two queues, this many days ago.
async fn fill(world: &World, days: &[i32]) -> anyhow::Result<()> {
    let mut database = world.database().await?;
    for days in days {
        sqlx::query("select patchbay.make_history_partition(now() - make_interval(days => $1))")
            .bind(days)
            .execute(&mut database)
            .await?;
        sqlx::query(
            "with made as (insert into patchbay.attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, host, started_at, \
             finished_at, outcome, verdict, correlation_id) select $2, queue, outcome || '-' || $1, 1, 1, 1, 'n', 'h', at, at, outcome, \
             'fail', '-' from unnest(array['a', 'b']) queue, unnest(array['completed', 'failed']) outcome, \
             (select now() - make_interval(days => $1) as at) t returning *) \
             insert into patchbay.attempt_terms (term, finished_at, prefix, queue, job_id, job_created_ms, started) \
             select decode(md5(job_id), 'hex'), finished_at, prefix, queue, job_id, job_created_ms, started from made",
        )
        .bind(days)
        .bind(&world.prefix)
        .execute(&mut database)
        .await?;
    }
    Ok(())
}

async fn left(world: &World, table: &str) -> anyhow::Result<Vec<String>> {
    let query = format!("select queue || ' ' || job_id from patchbay.{table} order by 1");
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .fetch_all(&mut world.database().await?)
        .await?)
}

#[tokio::test]
async fn what_is_older_than_it_is_to_be_kept_is_forgotten_and_nothing_else() -> anyhow::Result<()> {
    let world = World::new().await?;
    let days = [
        ("PATCHBAY_HISTORY_KEEP_DAYS", "90"),
        ("PATCHBAY_HISTORY_KEEP_FAILED_DAYS", "200"),
    ];
    let host = host_that_has_pruned(&world, &days).await?;
    fill(&world, &[1, 40, 150, 250, 500]).await?;
    let mut database = world.database().await?;
    database
        .execute(
            "insert into patchbay.dead_letters (prefix, queue, fingerprint, code, message, jobs, first_seen, last_seen) \
             select 'bull', 'a', decode(md5(days::text), 'hex'), 'x', 'no', 1, now() - make_interval(days => days), \
             now() - make_interval(days => days) from unnest(array[150, 250]) days",
        )
        .await?;
    let set = json_of(
        &host,
        &[
            "history",
            "retention",
            "set",
            "b",
            "--outcome",
            "completed",
            "--days",
            "30",
            "--json",
        ],
    );
    assert_eq!(set.await?["queues"][0]["days"], 30);

    let would = json_of(&host, &["history", "prune", "--dry-run", "--json"]).await?;
    let before = left(&world, "attempts").await?;
    let done = json_of(&host, &["history", "prune", "--json", "--yes"]).await?;
    assert_eq!(before.len(), 20, "a dry run forgets nothing");
    for field in ["attempts", "partitions", "deadLetters"] {
        assert_eq!(would[field], done[field], "{field}");
    }
    let expected = [
        "a completed-1",
        "a completed-40",
        "a failed-1",
        "a failed-150",
        "a failed-40",
        "b completed-1",
        "b failed-1",
        "b failed-150",
        "b failed-40",
    ];
    assert_eq!(left(&world, "attempts").await?, expected);
    assert_eq!(
        left(&world, "attempt_terms").await?,
        expected,
        "terms go with their attempts"
    );
    assert_eq!(
        count(&world, "select count(*) from patchbay.dead_letters").await?,
        1
    );
    let months = done["partitions"].as_array().context("partitions")?;
    assert!(
        !months.is_empty(),
        "500 days ago is a month of its own: {done}"
    );
    let month = months[0].as_str().context("a name")?;
    let gone = "select to_regclass('patchbay.' || $1) is null and to_regclass('patchbay.' || replace($1, 'attempts', 'attempt_terms')) is null";
    assert!(
        sqlx::query_scalar::<_, bool>(gone)
            .bind(month)
            .fetch_one(&mut database)
            .await?
    );

    let status = get(&host, "status").await?;
    assert!(
        status["lastPrune"]["endedAt"].is_string() && status["lastPrune"]["error"].is_null(),
        "{status}"
    );
    let reset = json_of(&host, &["history", "retention", "reset", "b", "--json"]).await?;
    assert_eq!(reset["queues"], json!([]));
    assert_eq!(
        patchbay(&host, &["history", "retention", "reset", "b"])
            .await?
            .status
            .code(),
        Some(3)
    );
    assert_eq!(
        patchbay(&host, &["history", "retention", "set", "b", "--days", "0"])
            .await?
            .status
            .code(),
        Some(2)
    );
    Ok(())
}

#[tokio::test]
async fn more_than_one_step_of_old_attempts_goes_too() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host_that_has_pruned(&world, &[]).await?;
    fill(&world, &[100]).await?;
    world
        .database()
        .await?
        .execute(
            "insert into patchbay.attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, host, started_at, finished_at, \
             outcome, verdict, correlation_id) select 'bull', 'a', n::text, 1, 1, 1, 'n', 'h', now(), now() - interval '100 days', \
             'completed', 'complete', '-' from generate_series(1, 12000) n",
        )
        .await?;
    let done = json_of(&host, &["history", "prune", "--json", "--yes"]).await?;
    assert_eq!(done["attempts"], 12_002, "{done}");
    assert_eq!(
        left(&world, "attempts").await?,
        ["a failed-100", "b failed-100"]
    );
    Ok(())
}

/// The value goes to standard input, where neither the shell nor the process list shows it.
async fn erase(host: &Host, value: &str, more: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = tokio::process::Command::new(binary());
    command
        .args([
            "history",
            "erase",
            "--path",
            "lead.phone",
            "--reason",
            "request 7",
        ])
        .args(more);
    command
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER)
        .env("PATCHBAY_PASSWORD", PASSWORD);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(format!("{value}\n").as_bytes())
        .await?;
    let output = child.wait_with_output().await?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

#[tokio::test]
async fn a_persons_data_is_erased_and_what_happened_stays() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[KEY]).await?;
    let mut failing = lead(1);
    failing["retry"] = "never".into();
    let asha = ran(&world, &host, "fail", failing).await?;
    ran(&world, &host, "noop", lead(2)).await?;
    let mut other = lead(3);
    other["lead"]["phone"] = "+1".into();
    let ravi = ran(&world, &host, "noop", other).await?;
    let waiting = host
        .add(
            QUEUE,
            json!({ "name": "noop", "data": lead(4), "delayMs": 3_600_000 }),
        )
        .await?;

    let (code, said) = erase(&host, PHONE, &[]).await?;
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains("Would be erased: 2 attempts of 2 jobs, 2 of them with data"),
        "{said}"
    );
    assert_eq!(
        count(
            &world,
            "select count(*) from patchbay.attempts where erased_at is not null"
        )
        .await?,
        0
    );

    let (code, said) = erase(&host, PHONE, &["--yes"]).await?;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("Erased: 2 attempts of 2 jobs")
            && said.contains(&format!("{QUEUE} {waiting} (delayed)")),
        "{said}"
    );
    let story = "select outcome, message, stack, calls, body from patchbay.attempts where job_id = $1 and erased_at is not null";
    let mut database = world.database().await?;
    type Row = (
        String,
        Option<String>,
        Option<String>,
        Option<Value>,
        Option<Vec<u8>>,
    );
    let row: Row = sqlx::query_as(story)
        .bind(&asha)
        .fetch_one(&mut database)
        .await?;
    assert_eq!(row, ("failed".into(), None, None, None, None));
    let message: String = sqlx::query_scalar("select message from patchbay.dead_letters")
        .fetch_one(&mut database)
        .await?;
    assert_eq!(message, "(erased)", "nobody else failed like that");
    assert_eq!(
        count(&world, "select count(*) from patchbay.attempt_terms").await?,
        2,
        "the other one's"
    );
    assert_eq!(
        get(&host, &format!("bodies/{QUEUE}/{ravi}")).await?[0]["data"]["lead"]["id"],
        3
    );

    let actions: Vec<String> = sqlx::query_scalar(
        "select row_to_json(a)::text from patchbay.operator_actions a where action = 'history.erase'",
    )
    .fetch_all(&mut database)
    .await?;
    assert_eq!(actions.len(), 1);
    assert!(
        actions[0].contains("request 7") && !actions[0].contains("98765"),
        "{}",
        actions[0]
    );
    assert!(!host.log.lock().expect("no writer panics").contains("98765"));
    let (code, said) = erase(&host, PHONE, &[]).await?;
    assert_eq!(code, Some(0), "nothing is left: {said}");
    Ok(())
}
