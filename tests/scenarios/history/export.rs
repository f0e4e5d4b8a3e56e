//! Export of the history to a file.

use anyhow::Context;
use sqlx::Executor;

use super::*;
use crate::commands::patchbay;
use crate::harness::{PASSWORD, USER};

async fn fill(world: &World, attempts: usize) -> anyhow::Result<()> {
    let fill = format!(
        "insert into patchbay.attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, host, started_at, finished_at, outcome, \
         verdict, code, message, correlation_id) select '{}', '{QUEUE}', n::text, 1, 1, 1, '=cmd()', 'h', now(), \
         now() - make_interval(secs => n), 'failed', 'fail', 'x', '@SUM(1) \"q\",' || n, '-' from generate_series(1, {attempts}) n",
        world.prefix
    );
    world
        .database()
        .await?
        .execute(sqlx::AssertSqlSafe(fill))
        .await?;
    Ok(())
}

fn path(world: &World, name: &str) -> anyhow::Result<String> {
    Ok(world
        .dir
        .path()
        .join(name)
        .to_str()
        .context("a path")?
        .to_owned())
}

#[tokio::test]
async fn an_export_has_every_attempt_once_and_no_cell_that_a_spreadsheet_would_run()
-> anyhow::Result<()> {
    const MANY: usize = 1_003;
    let world = World::new().await?;
    let host = host(&world, &[]).await?;
    fill(&world, MANY).await?;
    let (jsonl, csv) = (path(&world, "history.jsonl")?, path(&world, "history.csv")?);
    let exported = patchbay(&host, &["history", "export", "--out", &jsonl]).await?;
    assert!(
        exported.status.success(),
        "{}",
        String::from_utf8_lossy(&exported.stderr)
    );
    let mut ids = std::collections::BTreeSet::new();
    for line in std::fs::read_to_string(&jsonl)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        assert!(row["data"].is_null() && row["outcome"] == "failed", "{row}");
        ids.insert(row["jobId"].as_str().context("an id")?.to_owned());
    }
    assert_eq!(ids.len(), MANY);
    assert_eq!(std::fs::read_to_string(&jsonl)?.lines().count(), MANY);

    let exported = patchbay(
        &host,
        &[
            "history", "export", "--format", "csv", "--out", &csv, "job=7",
        ],
    )
    .await?;
    assert!(
        exported.status.success(),
        "{}",
        String::from_utf8_lossy(&exported.stderr)
    );
    let text = std::fs::read_to_string(&csv)?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("finishedAt,startedAt,queue,jobId"),
        "{text}"
    );
    assert!(
        lines[1].contains("\"'=cmd()\"") && lines[1].contains("\"'@SUM(1) \"\"q\"\",7\""),
        "{text}"
    );

    let refused = patchbay(
        &host,
        &[
            "history",
            "export",
            "--out",
            &path(&world, "no")?,
            "quene=x",
        ],
    )
    .await?;
    assert_eq!(refused.status.code(), Some(4));
    assert!(!world.dir.path().join("no").exists());
    Ok(())
}

#[tokio::test]
async fn data_is_exported_only_when_asked_for_opened_and_redacted_and_that_is_recorded()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[KEY]).await?;
    ran(&world, &host, "noop", lead(1)).await?;
    ran(&world, &host, "noop", lead(2)).await?;
    let file = path(&world, "with-data")?;
    let exported = patchbay(
        &host,
        &[
            "history",
            "export",
            "--bodies",
            "--out",
            &file,
            "data.lead.id=2",
        ],
    )
    .await?;
    assert!(
        exported.status.success(),
        "{}",
        String::from_utf8_lossy(&exported.stderr)
    );
    let text = std::fs::read_to_string(&file)?;
    let row: Value = serde_json::from_str(text.trim())?;
    assert_eq!(
        (&row["data"]["lead"], &row["result"]),
        (&json!({ "id": 2, "phone": "[redacted]" }), &Value::Null)
    );
    let mut database = world.database().await?;
    let (details, result): (Value, Value) = until(Duration::from_secs(10), "the record", async || {
        let query = "select details, result from patchbay.operator_actions where action = 'history.export' and result is not null";
        Ok(sqlx::query_as(query).fetch_optional(&mut database).await?)
    })
    .await?;
    assert_eq!(
        (&details["bodies"], &result["attempts"]),
        (&json!(true), &json!(1))
    );
    Ok(())
}

#[tokio::test]
async fn an_export_of_a_dead_letter_that_is_not_there_is_refused_before_it_begins()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let (status, answer) = host.get("/api/admin/history/export?dead-letter=7").await?;
    assert_eq!(
        (status, &answer["code"]),
        (404, &json!("not-found")),
        "{answer}"
    );
    let count = "select count(*) from patchbay.operator_actions";
    assert_eq!(
        sqlx::query_scalar::<_, i64>(count)
            .fetch_one(&mut world.database().await?)
            .await?,
        0
    );
    Ok(())
}

#[tokio::test]
async fn an_export_ends_with_its_client() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    fill(&world, 60_000).await?;
    let request = host
        .http
        .get(format!("{}/api/admin/history/export", host.url))
        .basic_auth(USER, Some(PASSWORD));
    let mut response = request.send().await?;
    assert_eq!(response.status(), 200);
    response.chunk().await?.context("a beginning")?;
    drop(response);
    let mut database = world.database().await?;
    let error: String = until(Duration::from_secs(20), "the export has ended", async || {
        let query =
            "select error from patchbay.operator_actions where action = 'history.export' and ended_at is not null";
        Ok(sqlx::query_scalar::<_, Option<String>>(query).fetch_optional(&mut database).await?.flatten())
    })
    .await?;
    assert!(error.starts_with("the client left after"), "{error}");
    Ok(())
}
