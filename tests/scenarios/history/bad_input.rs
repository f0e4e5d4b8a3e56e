//! Invalid entries, wrong clocks, a full disk: nothing is lost, and entries do not pile up.

use sqlx::Executor;

use super::*;

/// Waits until the stream is empty, and returns the ids in the history.
async fn all_copied(world: &World) -> anyhow::Result<Vec<String>> {
    let key = format!("{}-own:attempts", world.prefix);
    let mut redis = world.redis().await?;
    until(Duration::from_secs(30), "an empty stream", async || {
        let left: u64 = redis::cmd("XLEN").arg(&key).query_async(&mut redis).await?;
        Ok((left == 0).then_some(()))
    })
    .await?;
    let ids = sqlx::query_scalar("select job_id from patchbay.attempts order by job_id");
    Ok(ids.fetch_all(&mut world.database().await?).await?)
}

#[tokio::test]
async fn texts_of_any_length_and_clocks_of_any_year_are_kept_as_far_as_postgres_can()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host_that_has_pruned(&world, &[]).await?;
    let fail = |more: Value| {
        let mut fields =
            json!({ "outcome": "failed", "verdict": "fail", "code": "x", "message": "no" });
        if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
            fields.extend(more);
        }
        fields
    };
    let (large, long) = ("ü".repeat(5 << 20), "ü".repeat(10_000));
    for (id, fields) in [
        (
            "a-large",
            fail(
                json!({ "message": large, "stack": large, "name": long, "code": long, "correlation_id": long }),
            ),
        ),
        (
            "b-nul",
            fail(
                json!({ "message": "a\0b", "code": "\0", "name": "\0", "platform": "\0",
            "calls": [{ "kind": "http", "host": "\0", "result": "200", "afterMs": 1, "tookMs": 1 }] }),
            ),
        ),
        (
            "c-year-0",
            json!({ "finished_at": "0000-01-01T00:00:00Z", "started_at": "0000-01-01T00:00:00Z" }),
        ),
        (
            "d-year-9999",
            json!({ "finished_at": "9999-12-31T23:59:59Z" }),
        ),
        (
            "e-year-262000",
            json!({ "finished_at": "+262000-01-01T00:00:00Z" }),
        ),
        ("f-back", json!({ "started_at": "2100-01-01T00:00:00Z" })),
        (
            "g-surrogate",
            fail(json!({ "message": "\u{fffd}\u{10ffff}" })),
        ),
    ] {
        append(&world, &record(&world, id, fields)).await?;
    }
    // A time that chrono cannot hold, and an entry that is not a record.
    append(
        &world,
        &record(
            &world,
            "x",
            json!({ "finished_at": "+292277-01-01T00:00:00Z" }),
        ),
    )
    .await?;
    append(&world, &json!("nonsense")).await?;
    let ids = all_copied(&world).await?;
    assert_eq!(
        ids,
        [
            "a-large",
            "b-nul",
            "c-year-0",
            "d-year-9999",
            "e-year-262000",
            "f-back",
            "g-surrogate"
        ]
    );
    let status = get(&host, "status").await?;
    assert_eq!(status["stream"]["setAside"], 2, "{status}");
    let others = "select count(*) from patchbay.attempts_other";
    assert_eq!(
        count(&world, others).await?,
        3,
        "wrong clocks have their own place"
    );
    assert!(
        count(
            &world,
            "select max(octet_length(message))::bigint from patchbay.attempts"
        )
        .await?
            <= 8 << 10
    );
    Ok(())
}

#[tokio::test]
async fn a_partition_that_is_missing_is_made_and_nothing_is_lost() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host_that_has_pruned(&world, &[]).await?;
    append(&world, &record(&world, "before", json!({}))).await?;
    all_copied(&world).await?;
    let mut database = world.database().await?;
    for prefix in [
        "attempts_2",
        "attempts_other",
        "attempt_terms_2",
        "attempt_terms_other",
    ] {
        let tables: Vec<String> = sqlx::query_scalar(
            "select relname from pg_class where relkind = 'r' and starts_with(relname, $1) and relnamespace = 'patchbay'::regnamespace",
        )
        .bind(prefix)
        .fetch_all(&mut database)
        .await?;
        for table in tables {
            database
                .execute(sqlx::AssertSqlSafe(format!("drop table patchbay.{table}")))
                .await?;
        }
    }
    append(&world, &record(&world, "now", json!({}))).await?;
    append(
        &world,
        &record(
            &world,
            "long-ago",
            json!({ "finished_at": "2001-01-01T00:00:00Z" }),
        ),
    )
    .await?;
    assert_eq!(all_copied(&world).await?, ["long-ago", "now"]);
    assert_eq!(
        count(&world, "select count(*) from patchbay.attempts_other").await?,
        1
    );
    assert_eq!(get(&host, "status").await?["stream"]["setAside"], 0);
    Ok(())
}

#[tokio::test]
async fn while_the_disk_of_postgres_is_full_attempts_wait_in_redis() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[KEY]).await?;
    let mut database = world.database().await?;
    // With the error that Postgres itself reports.
    database
        .execute(
            "create function full_disk() returns trigger language plpgsql as $$ begin \
             raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$; \
             create trigger full_disk before insert on patchbay.attempts for each row execute function full_disk()",
        )
        .await?;
    let mut ids = Vec::new();
    for n in 0..3 {
        let id = host
            .add(QUEUE, json!({ "name": "noop", "data": lead(n) }))
            .await?;
        host.job_in(QUEUE, &id, "completed").await?;
        ids.push(id);
    }
    until(Duration::from_secs(20), "the log says so", async || {
        let log = host.log.lock().expect("no writer panics");
        Ok(log
            .contains("attempts not copied to Postgres; trying again")
            .then_some(()))
    })
    .await?;
    let status = get(&host, "status").await?;
    assert_eq!(status["stream"]["attempts"], 3, "{status}");
    assert!(
        status["stream"]["lagMs"]
            .as_u64()
            .is_some_and(|lag| lag > 0),
        "{status}"
    );
    database
        .execute("drop trigger full_disk on patchbay.attempts")
        .await?;
    assert_eq!(all_copied(&world).await?, ids);
    assert_eq!(
        count(&world, "select count(body) from patchbay.attempts").await?,
        3
    );
    Ok(())
}

#[tokio::test]
async fn what_a_dead_reader_had_taken_is_copied_once() -> anyhow::Result<()> {
    let world = World::new().await?;
    assert!(world.host(&[]).await?.stop().await?.success());
    let key = format!("{}-own:attempts", world.prefix);
    let records: Vec<Value> = (0..3)
        .map(|n| record(&world, &format!("taken-{n}"), json!({})))
        .collect();
    for record in &records {
        append(&world, record).await?;
    }
    // The first entry was written before the reader died, and was not acknowledged.
    let mut redis = world.redis().await?;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg("store")
        .arg("pid-0")
        .arg("STREAMS")
        .arg(&key)
        .arg(">");
    let taken: redis::streams::StreamReadReply = read.query_async(&mut redis).await?;
    let ids: Vec<String> = taken
        .keys
        .into_iter()
        .flat_map(|key| key.ids)
        .map(|entry| entry.id)
        .collect();
    let mut age = redis::cmd("XCLAIM");
    age.arg(&key)
        .arg("store")
        .arg("pid-0")
        .arg(0)
        .arg(&ids)
        .arg("IDLE")
        .arg(60_000);
    let () = age.query_async(&mut redis).await?;
    let _host = world.host(&[]).await?;
    append(&world, &records[0]).await?;
    assert_eq!(all_copied(&world).await?, ["taken-0", "taken-1", "taken-2"]);
    Ok(())
}

#[tokio::test]
async fn bodies_stay_out_while_the_stream_holds_its_share() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = host(&world, &[KEY, ("PATCHBAY_HISTORY_BUFFER_MB", "1")]).await?;
    let mut database = world.database().await?;
    // Locked as by a migration, or by somebody's session.
    database
        .execute("begin; lock table patchbay.attempts in exclusive mode")
        .await?;
    let text = "x".repeat(200 << 10);
    let mut ids = Vec::new();
    // Reported while the next body does not fit, until the stream is read again: a smaller one
    // would fit.
    let full = until(
        Duration::from_secs(60),
        "bodies stay out, and it is said",
        async || {
            let id = host
                .add(QUEUE, json!({ "name": "noop", "data": { "text": text } }))
                .await?;
            host.job_in(QUEUE, &id, "completed").await?;
            ids.push(id);
            let status = get(&host, "status").await?;
            let is_full = status["bodies"]["reason"]
                .as_str()
                .is_some_and(|why| why.contains("history.buffer_mb"));
            Ok((is_full && ids.len() >= 12).then_some(()))
        },
    );
    let full = full.await;
    database.execute("rollback").await?;
    full?;
    assert_eq!(all_copied(&world).await?.len(), ids.len());
    let kept = count(&world, "select count(body) from patchbay.attempts").await?;
    assert!((3..=6).contains(&kept), "{kept} of 200 KB each in 1 MiB");
    until(
        Duration::from_secs(20),
        "bodies are kept again",
        async || Ok((get(&host, "status").await?["bodies"]["kept"] == true).then_some(())),
    )
    .await
}
