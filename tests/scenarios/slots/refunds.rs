//! Refunds of meetings that were not held: which, how much, and once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{call, cleanup, person, set, slot, with_tables, world_and_host};
use crate::harness::{slots_plugin, until};

async fn execute(database: &mut PgConnection, text: String) -> anyhow::Result<()> {
    database.execute(sqlx::raw_sql(AssertSqlSafe(text))).await?;
    Ok(())
}

async fn wallet(database: &mut PgConnection, student: u32, tokens: i64) -> anyhow::Result<()> {
    let text = format!(
        "insert into tokens (\"userId\", token) values ('{}', {tokens})",
        person(student)
    );
    execute(database, text).await
}

async fn balance(database: &mut PgConnection, student: u32) -> anyhow::Result<i64> {
    let balance = sqlx::query_scalar("select token from tokens where \"userId\" = $1::uuid");
    Ok(balance.bind(person(student)).fetch_one(database).await?)
}

/// An entry of the slot: `meeting_booking` or `refund`.
async fn entry(
    database: &mut PgConnection,
    slot: &str,
    student: u32,
    kind: &str,
    tokens: i64,
) -> anyhow::Result<()> {
    let text = format!(
        "insert into token_usage (\"userId\", \"slotId\", \"usageType\", \"tokensUsed\", \"balanceBefore\", \"balanceAfter\") \
         values ('{}', '{slot}', '{kind}', {tokens}, 0, 0)",
        person(student)
    );
    execute(database, text).await
}

async fn paid(
    database: &mut PgConnection,
    ended_hours_ago: i32,
    student: u32,
    status: &str,
    tokens: i64,
) -> anyhow::Result<String> {
    let id = slot(database, ended_hours_ago, Some(student), status).await?;
    entry(database, &id, student, "meeting_booking", tokens).await?;
    Ok(id)
}

async fn statuses(database: &mut PgConnection) -> anyhow::Result<BTreeMap<String, String>> {
    let rows: Vec<(String, String)> = sqlx::query_as("select id::text, status::text from slots")
        .fetch_all(database)
        .await?;
    Ok(rows.into_iter().collect())
}

#[tokio::test]
async fn only_meetings_that_were_paid_and_not_held_are_refunded_and_only_once_that_is_set()
-> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let db = &mut world.database().await?;
    wallet(db, 1, 10).await?;
    let due = [
        paid(db, 5, 1, "confirmed", 1).await?,
        paid(db, 6, 1, "cancellation_requested", 2).await?,
    ];
    // Held, as far as anything says so.
    for (column, value) in [
        ("actualStartTime", "now() - interval '5 hours'"),
        ("actualEndTime", "now() - interval '5 hours'"),
        ("durationMinutes", "30"),
        ("earningsCredited", "true"),
    ] {
        let id = paid(db, 5, 1, "confirmed", 1).await?;
        execute(
            db,
            format!("update slots set \"{column}\" = {value} where id = '{id}'"),
        )
        .await?;
    }
    let rated = paid(db, 5, 1, "confirmed", 1).await?;
    execute(
        db,
        format!("insert into slots_feedback (\"slotId\", rating) values ('{rated}', 5)"),
    )
    .await?;
    // Over in another way, not over, within the grace, or too long ago.
    for (hours, status) in [
        (5, "completed"),
        (5, "cancelled"),
        (-5, "confirmed"),
        (0, "confirmed"),
        (24 * 9, "confirmed"),
    ] {
        paid(db, hours, 1, status, 1).await?;
    }
    // Free; given back already, with either sign; paid by another student.
    slot(db, 5, Some(1), "confirmed").await?;
    for tokens in [1, -1] {
        let refunded = paid(db, 5, 1, "confirmed", 1).await?;
        entry(db, &refunded, 1, "refund", tokens).await?;
    }
    let handed_over = slot(db, 5, Some(1), "confirmed").await?;
    entry(db, &handed_over, 2, "meeting_booking", 1).await?;
    // Without a wallet.
    paid(db, 5, 3, "confirmed", 1).await?;

    let before = statuses(db).await?;
    let (_, details) = cleanup(&host).await?;
    assert_eq!(details["refunds"], json!({ "enabled": false }));
    assert_eq!(
        (statuses(db).await?, balance(db, 1).await?),
        (before.clone(), 10)
    );
    let (_, preview) = call(&host, "preview").await?;
    let would = json!({ "enabled": false, "meetings": 3, "tokens": 4, "nothingOwed": 4 });
    assert_eq!(preview["data"]["wouldRefund"], would, "{preview}");

    set(&host, json!({ "refund": { "enabled": true } })).await?;
    let (_, details) = cleanup(&host).await?;
    let refunds = json!({ "enabled": true, "meetings": 2, "tokens": 3, "nothingOwed": 4, "withoutWallet": 1, "walletLocked": 0 });
    assert_eq!(details["refunds"], refunds, "{details}");
    let mut after = before;
    for id in &due {
        after.insert(id.clone(), "cancelled".to_owned());
    }
    assert_eq!((statuses(db).await?, balance(db, 1).await?), (after, 13));
    let entries: Vec<(String, i32, i32, i32)> = sqlx::query_as(
        "select \"slotId\"::text, \"tokensUsed\", \"balanceBefore\", \"balanceAfter\" from token_usage \
         where \"usageType\" = 'refund' and description is not null order by \"balanceBefore\"",
    )
    .fetch_all(&mut *db)
    .await?;
    let total: i32 = entries.iter().map(|entry| entry.1).sum();
    assert_eq!((entries.len(), total), (2, 3), "{entries:?}");
    assert!(entries.iter().all(|entry| entry.2 + entry.1 == entry.3));
    assert_eq!(
        (entries[0].2, entries[1].2, entries[1].3),
        (10, entries[0].3, 13)
    );
    let (_, details) = cleanup(&host).await?;
    assert_eq!(details["refunds"]["meetings"], 0, "{details}");
    assert_eq!(balance(db, 1).await?, 13);

    // A wallet of the third student turns up; amounts of refunds are negative here.
    wallet(db, 3, 0).await?;
    set(
        &host,
        json!({ "refund": { "enabled": true, "negativeAmounts": true, "newStatus": "completed" } }),
    )
    .await?;
    cleanup(&host).await?;
    assert_eq!(balance(db, 3).await?, 1);
    let last: (i32, i32) = sqlx::query_as(
        "select \"tokensUsed\", \"balanceAfter\" from token_usage where \"userId\" = $1::uuid and \"usageType\" = 'refund'",
    )
    .bind(person(3))
    .fetch_one(db)
    .await?;
    assert_eq!(last, (-1, 1));

    let settings = json!({ "refund": { "enabled": true, "newStatus": "confirmed" } });
    set(&host, settings).await?;
    let (status, answer) = call(&host, "cleanup").await?;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(
        status == 500 && message.contains("refund.newStatus"),
        "{answer}"
    );
    Ok(())
}

/// A mentor cancels: the backend locks the slot, then the wallet, and refunds what was paid.
async fn cancel(client: &mut PgConnection, slot: &str) -> anyhow::Result<bool> {
    let mut tx = client.begin().await?;
    let student: Option<String> = sqlx::query_scalar(
        "update slots set status = 'cancelled' where id = $1::uuid and status = 'confirmed' returning \"studentId\"::text",
    )
    .bind(slot)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(student) = student else {
        return Ok(false);
    };
    sqlx::query(
        "with w as (update tokens set token = token + 1 where \"userId\" = $1::uuid returning token) \
         insert into token_usage (\"userId\", \"slotId\", \"usageType\", \"tokensUsed\", \"balanceBefore\", \"balanceAfter\") \
         select $1::uuid, $2::uuid, 'refund', 1, token - 1, token from w",
    )
    .bind(student)
    .bind(slot)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meeting_is_refunded_once_although_two_runs_and_cancellations_compete()
-> anyhow::Result<()> {
    let world = with_tables(|tables| tables).await?;
    let hosts = [world.host(&[]).await?, world.host(&[]).await?];
    hosts[0].deploy("slots", slots_plugin()?).await?;
    set(&hosts[0], json!({ "refund": { "enabled": true } })).await?;
    let mut database = world.database().await?;
    let (students, meetings) = (10, 600);
    for student in 0..students {
        wallet(&mut database, student, 100).await?;
    }
    let mut slots = Vec::new();
    for n in 0..meetings {
        slots.push(
            paid(
                &mut database,
                2 + n as i32 % 100,
                n % students,
                "confirmed",
                1,
            )
            .await?,
        );
    }
    until(Duration::from_secs(20), "both hosts have it", async || {
        Ok((call(&hosts[1], "preview").await?.0 == 200).then_some(()))
    })
    .await?;
    let cancelling = tokio::spawn({
        let (url, some) = (world.database_url.clone(), slots.clone());
        async move {
            let mut client = PgConnection::connect(&url).await?;
            let mut cancelled = 0;
            for slot in some.iter().step_by(2) {
                cancelled += i64::from(cancel(&mut client, slot).await?);
            }
            anyhow::Ok(cancelled)
        }
    });
    let (first, second) = tokio::join!(cleanup(&hosts[0]), cleanup(&hosts[1]));
    let of = |details: &Value| details["refunds"]["meetings"].as_i64().unwrap_or_default();
    let (first, second) = (of(&first?.1), of(&second?.1));
    let cancelled = cancelling.await??;
    // What was locked is left to the next run.
    let last = of(&cleanup(&hosts[0]).await?.1);
    println!("{first} and {second} by two runs, {cancelled} by cancellations, {last} afterwards");
    assert_eq!(first + second + cancelled + last, i64::from(meetings));
    let wrong: i64 = sqlx::query_scalar(
        "select count(*) from slots s where status <> 'cancelled' \
           or (select count(*) from token_usage u where u.\"slotId\" = s.id and \"usageType\" = 'refund') <> 1",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(wrong, 0);
    // Each student's entries follow one another without a gap, up to what is in the wallet.
    let broken: i64 = sqlx::query_scalar(
        "select count(*) from (select \"balanceBefore\" as before, \"balanceAfter\" as after, \
             lag(\"balanceAfter\") over (partition by \"userId\" order by \"balanceAfter\") as previous \
           from token_usage where \"usageType\" = 'refund') as e \
         where after <> before + 1 or coalesce(previous, 100) <> before",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(broken, 0);
    let sum: i64 = sqlx::query_scalar("select sum(token)::int8 from tokens")
        .fetch_one(&mut database)
        .await?;
    assert_eq!(sum, i64::from(students) * 100 + i64::from(meetings));
    Ok(())
}

#[tokio::test]
async fn a_wallet_that_somebody_has_locked_is_left_to_the_next_run() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let db = &mut world.database().await?;
    for student in [1, 2] {
        wallet(db, student, 0).await?;
        paid(db, 5, student, "confirmed", 1).await?;
    }
    set(&host, json!({ "refund": { "enabled": true } })).await?;
    let mut client = world.database().await?;
    let mut purchase = client.begin().await?;
    sqlx::query("update tokens set token = token + 5 where \"userId\" = $1::uuid")
        .bind(person(1))
        .execute(&mut *purchase)
        .await?;
    let started = Instant::now();
    let (_, details) = cleanup(&host).await?;
    assert!(started.elapsed() < Duration::from_secs(5), "{details}");
    assert_eq!(
        (
            &details["refunds"]["meetings"],
            &details["refunds"]["walletLocked"]
        ),
        (&json!(1), &json!(1)),
        "{details}"
    );
    purchase.commit().await?;
    cleanup(&host).await?;
    assert_eq!((balance(db, 1).await?, balance(db, 2).await?), (6, 1));
    Ok(())
}

#[tokio::test]
async fn without_rights_to_wallets_slots_are_deleted_and_refunds_are_refused() -> anyhow::Result<()>
{
    let (world, host) = world_and_host().await?;
    let db = &mut world.database().await?;
    let revoke = json!({ "asks": ["sql update public.tokens(token)"] });
    let (status, answer) = host
        .post("/api/admin/plugins/slots/grants/revoke", revoke)
        .await?;
    assert_eq!(status, 200, "{answer}");
    wallet(db, 1, 0).await?;
    paid(db, 5, 1, "confirmed", 1).await?;
    slot(db, 5, None, "tentative").await?;
    assert_eq!(cleanup(&host).await?.0, 1);
    slot(db, 5, None, "tentative").await?;
    set(&host, json!({ "refund": { "enabled": true } })).await?;
    let (status, answer) = call(&host, "cleanup").await?;
    assert_eq!(
        (status, &answer["code"]),
        (500, &json!("not-granted")),
        "{answer}"
    );
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(message.contains("after 1 slots deleted"), "{answer}");
    assert_eq!(balance(db, 1).await?, 0);
    Ok(())
}
