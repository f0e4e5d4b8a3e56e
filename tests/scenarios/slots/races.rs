//! Bookings and locks of others while a cleanup runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use super::{cleanup, ids, person, set, slot, with_tables, world_and_host};
use crate::harness::{seed, slots_plugin, until};

const BOOK: &str = "update slots set \"studentId\" = $2::uuid, status = 'confirmed' where id = $1::uuid and \"studentId\" is null";

#[tokio::test]
async fn a_slot_that_is_being_booked_is_left_to_its_booking() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let booked = slot(&mut database, 1, None, "tentative").await?;
    let given_up = slot(&mut database, 1, None, "tentative").await?;
    slot(&mut database, 1, None, "tentative").await?;

    let mut client = world.database().await?;
    let mut booking = client.begin().await?;
    for id in [&booked, &given_up] {
        let updated = sqlx::query(BOOK).bind(id).bind(person(5));
        updated.execute(&mut *booking).await?;
    }
    let started = Instant::now();
    let (deleted, details) = cleanup(&host).await?;
    assert_eq!(
        (deleted, &details["leftLocked"]),
        (1, &json!(0)),
        "{details}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it waits for nobody"
    );
    sqlx::query("update slots set \"studentId\" = null, status = 'tentative' where id = $1::uuid")
        .bind(&given_up)
        .execute(&mut *booking)
        .await?;
    booking.commit().await?;
    assert_eq!(cleanup(&host).await?.0, 1, "the one without a student");
    assert_eq!(ids(&mut database).await?, [booked]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_booking_that_was_confirmed_is_lost_to_two_cleanups_that_run_meanwhile()
-> anyhow::Result<()> {
    let world = with_tables(|tables| tables).await?;
    let hosts = [world.host(&[]).await?, world.host(&[]).await?];
    hosts[0].deploy("slots", slots_plugin()?).await?;
    set(&hosts[0], json!({ "batchSize": 10 })).await?;
    let mut database = world.database().await?;
    let slots = 1_500;
    for n in 0..slots {
        slot(&mut database, 1 + n / 100, None, "tentative").await?;
    }
    until(Duration::from_secs(20), "both hosts have it", async || {
        Ok((super::call(&hosts[1], "preview").await?.0 == 200).then_some(()))
    })
    .await?;
    let mut all = ids(&mut database).await?;
    all.shuffle(&mut StdRng::seed_from_u64(seed()));
    let stop = Arc::new(AtomicBool::new(false));
    let bookers = all.chunks(slots as usize / 3).map(|some| {
        let (url, some, stop) = (world.database_url.clone(), some.to_vec(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut client = PgConnection::connect(&url).await?;
            let mut booked = Vec::new();
            for id in some {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let mut booking = client.begin().await?;
                let changed = sqlx::query(BOOK).bind(&id).bind(person(5));
                let changed = changed.execute(&mut *booking).await?.rows_affected();
                booking.commit().await?;
                if changed == 1 {
                    booked.push(id);
                }
            }
            anyhow::Ok(booked)
        })
    });
    let bookers: Vec<_> = bookers.collect();
    let (first, second) = tokio::join!(cleanup(&hosts[0]), cleanup(&hosts[1]));
    stop.store(true, Ordering::SeqCst);
    let mut deleted = first?.0 + second?.0;
    let mut booked = Vec::new();
    for booker in bookers {
        booked.extend(booker.await??);
    }
    deleted += cleanup(&hosts[0]).await?.0;
    booked.sort();
    println!("{} booked, {deleted} deleted", booked.len());
    assert_eq!(ids(&mut database).await?, booked);
    assert_eq!(booked.len() as i64 + deleted, i64::from(slots));
    let with_student: i64 =
        sqlx::query_scalar("select count(*) from slots where \"studentId\" is not null")
            .fetch_one(&mut database)
            .await?;
    assert_eq!(with_student, booked.len() as i64);
    Ok(())
}

#[tokio::test]
async fn a_lock_on_what_refers_to_a_slot_stops_the_cleanup_of_no_other_slot() -> anyhow::Result<()>
{
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    for n in 0..60 {
        let id = slot(&mut database, 100 - n, None, "tentative").await?;
        if n == 20 {
            let entry = "insert into token_usage (\"userId\", \"slotId\", \"usageType\", \"tokensUsed\", \"balanceBefore\", \"balanceAfter\") \
                values ($2::uuid, $1::uuid, 'bonus', 1, 0, 1)";
            let entry = sqlx::query(entry).bind(&id).bind(person(5));
            entry.execute(&mut database).await?;
        }
    }
    let mut client = world.database().await?;
    let mut forgotten = client.begin().await?;
    forgotten
        .execute("select from token_usage for update")
        .await?;
    let (deleted, details) = cleanup(&host).await?;
    assert_eq!(
        (deleted, &details["leftLocked"], &details["complete"]),
        (59, &json!(1), &json!(true)),
        "{details}"
    );
    forgotten.rollback().await?;
    assert_eq!(cleanup(&host).await?.0, 1);
    let slot: Option<String> = sqlx::query_scalar("select \"slotId\"::text from token_usage")
        .fetch_one(&mut database)
        .await?;
    assert_eq!(slot, None, "the entry stays, as the old backend left it");
    Ok(())
}
