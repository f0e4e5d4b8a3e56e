//! Batches and transactions apply completely or not at all; forged outbox rows never become jobs.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};

use super::{count, run, world_and_host};
use crate::harness::until;

#[tokio::test]
async fn a_batch_is_done_whole_with_its_jobs_or_not_at_all() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let insert = |note: &str| json!({ "text": "insert into crm.calls (lead, note) values (1, $1)", "parameters": [note] });
    let jobs = json!([{ "name": "noop" }, { "name": "noop", "queue": "otherQueue" }]);
    let good = run(
        &host,
        "batch",
        json!({ "statements": [insert("a"), { "text": "select note from crm.calls" }], "jobs": jobs }),
    )
    .await?;
    assert_eq!(good, json!([[], [["a"]]]));
    let other = async |n: i64| {
        until(Duration::from_secs(10), "the jobs", async || {
            let queue = host
                .get("/api/admin/queues/otherQueue/jobs?state=waiting")
                .await?
                .1;
            let found = queue["data"]["jobs"]
                .as_array()
                .or(queue["data"].as_array())
                .map_or(0, Vec::len) as i64;
            Ok((found == n).then_some(()))
        })
        .await
    };
    other(1).await?;
    for (bad, code) in [
        (
            json!({ "statements": [insert("b"), insert("a")], "jobs": jobs }),
            "23505",
        ),
        (
            json!({ "statements": [insert("c"), { "text": "update crm.leads set name = 'x' where id > 0", "expect": 1 }], "jobs": jobs }),
            "P0002",
        ),
        (
            json!({ "statements": [insert("d")], "jobs": [{ "queue": "forbiddenQueue" }] }),
            "denied",
        ),
        (
            json!({ "statements": [insert("e"), { "text": "commit" }], "jobs": jobs }),
            "denied",
        ),
    ] {
        let refused = run(&host, "batch", bad.clone()).await?;
        assert_eq!(refused["code"], code, "{bad}: {refused}");
    }
    assert_eq!(
        count(&mut database, "select count(*) from crm.calls").await?,
        1
    );
    assert_eq!(
        count(
            &mut database,
            "select count(*) from crm.leads where name = 'x'"
        )
        .await?,
        0
    );
    assert_eq!(
        count(&mut database, "select count(*) from patchbay_outbox.jobs").await?,
        0
    );
    other(1).await
}

#[tokio::test]
async fn a_transaction_holds_until_its_commit_keeps_everything_else_out_and_ends_by_itself()
-> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let insert = |note: &str| json!({ "execute": "insert into crm.calls (lead, note) values (1, $1)", "parameters": [note] });
    let kept = run(&host, "transaction", json!([
        insert("kept"), { "query": "select note from crm.calls" }, { "outside": true }, { "second": true },
        { "jobs": [{ "name": "noop", "queue": "otherQueue" }] }, { "commit": true }, { "outside": true }, { "second": true }, insert("late"),
    ])).await?;
    assert_eq!(
        (&kept[0], &kept[1], &kept[2], &kept[4]),
        (
            &json!(1),
            &json!([["kept"]]),
            &json!("denied"),
            &Value::Null
        ),
        "{kept}"
    );
    assert_eq!(
        (&kept[3]["code"], &kept[5], &kept[6], &kept[7]["code"]),
        (
            &json!("denied"),
            &json!("committed"),
            &json!("allowed"),
            &json!("denied")
        )
    );
    assert_eq!(kept[8]["code"], "denied", "{kept}");
    until(Duration::from_secs(10), "the job", async || {
        let queue = host
            .get("/api/admin/queues/otherQueue/jobs?state=waiting")
            .await?
            .1;
        Ok(queue["data"].to_string().contains("outbox-").then_some(()))
    })
    .await?;

    let dropped = run(
        &host,
        "transaction",
        json!([insert("dropped"), { "jobs": [{ "name": "noop" }] }]),
    )
    .await?;
    assert_eq!(dropped, json!([1, null]));
    let failed = run(
        &host,
        "transaction",
        json!([insert("failed"), insert("failed"), { "commit": true }]),
    )
    .await?;
    assert_eq!(
        (&failed[1]["code"], &failed[2]["code"]),
        (&json!("23505"), &json!("25P02")),
        "{failed}"
    );
    let slow = run(
        &host,
        "transaction",
        json!([insert("slow"), { "sleep": 5_400 }, { "outside": true }, { "commit": true }]),
    )
    .await?;
    assert_eq!(
        (&slow[2], &slow[3]["code"]),
        (&json!("allowed"), &json!("denied")),
        "{slow}"
    );
    let busy = run(
        &host,
        "transaction",
        json!([insert("busy"), { "query": "select pg_sleep(8)" }, { "commit": true }]),
    )
    .await?;
    assert_eq!(
        (&busy[1]["code"], &busy[2]["code"]),
        (&json!("timeout"), &json!("denied")),
        "{busy}"
    );
    assert_eq!(
        count(&mut database, "select count(*) from crm.calls").await?,
        1
    );
    until(Duration::from_secs(5), "no transaction is left open", async || {
        let open = "select count(*) from pg_stat_activity where application_name like 'patchbay plugin%' and datname = current_database() and xact_start is not null";
        Ok((count(&mut database, open).await? == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn forged_and_replayed_rows_of_the_outbox_are_dropped_and_add_no_job() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    // A replayed row: a copy of a valid row, made before the relay deletes that row.
    database
        .execute(sqlx::raw_sql(
            "create table other.copies as select * from patchbay_outbox.jobs with no data; \
             create function other.copy() returns trigger language plpgsql security definer as \
               'begin insert into other.copies values (new.*); return new; end'; \
             create trigger copy after insert on patchbay_outbox.jobs for each row execute function other.copy();",
        ))
        .await?;
    let once = json!({ "statements": [], "jobs": [{ "name": "noop", "queue": "otherQueue" }] });
    assert_eq!(run(&host, "batch", once).await?, json!([]));
    let empty = async |database: &mut PgConnection| {
        until(Duration::from_secs(10), "the outbox is empty", async || {
            Ok(
                (count(database, "select count(*) from patchbay_outbox.jobs").await? == 0)
                    .then_some(()),
            )
        })
        .await
    };
    empty(&mut database).await?;
    let before = host
        .get("/api/admin/queues/otherQueue/jobs?state=waiting")
        .await?
        .1["data"]
        .clone();
    assert!(before.to_string().contains("outbox-"), "{before}");

    let columns =
        "insert into patchbay_outbox.jobs (plugin, nonce, issued_ms, grants, payload, mac)";
    let forged =
        "values ('statements', gen_random_uuid(), 1, '', '[]', decode(repeat('00', 32), 'hex'))";
    let forged = run(
        &host,
        "each",
        json!([{ "execute": format!("{columns} {forged}") }]),
    )
    .await?;
    assert_eq!(
        forged,
        json!([1]),
        "the login may insert, and gains nothing by it"
    );
    empty(&mut database).await?;
    for change in [
        "nonce, issued_ms, grants, payload",
        "gen_random_uuid(), issued_ms, grants, payload",
        "nonce, issued_ms, grants, replace(payload, 'noop', 'evil')",
        "nonce, issued_ms, 'enqueue payQueue', payload",
    ] {
        let text = format!("{columns} select plugin, {change}, mac from other.copies limit 1");
        database.execute(sqlx::AssertSqlSafe(text)).await?;
        empty(&mut database).await?;
    }
    let after = host
        .get("/api/admin/queues/otherQueue/jobs?state=waiting")
        .await?
        .1["data"]
        .clone();
    assert_eq!(before, after, "nothing was added");
    Ok(())
}
