//! Many slots: two hosts share the work, in short transactions and little memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};

use super::{QUEUE, call, cleanup, ids, with_tables};
use crate::harness::{Host, World, full_length, slots_plugin, until};

/// So many slots, one every 20 s: of each hundred ninety have expired, the others begin tomorrow, and
/// every fifth is booked.
const FILL: &str = "insert into slots (\"startDateTime\", \"endDateTime\", \"mentorId\", \"isAvailable\", \"studentId\", status) \
    select t - interval '30 min', t, ('00000000-0000-4000-8000-' || lpad((g % 500)::text, 12, '0'))::uuid, g % 3 <> 0, \
      case when g % 5 = 0 then ('00000000-0000-4000-8000-' || lpad((g % 5000)::text, 12, '0'))::uuid end, \
      (case when g % 5 = 0 then 'confirmed' else 'tentative' end)::slots_status_enum \
    from generate_series(1, $1) as g, lateral (select now() + (g - $1 * 9 / 10) * interval '20 s' + case when g > $1 * 9 / 10 then interval '1 day' else interval '0' end as t) as x";

pub async fn fill(database: &mut PgConnection, slots: i32) -> anyhow::Result<()> {
    sqlx::query(FILL)
        .bind(slots)
        .execute(&mut *database)
        .await?;
    database.execute("vacuum analyze slots").await?;
    Ok(())
}

pub async fn expired_unbooked(database: &mut PgConnection) -> anyhow::Result<i64> {
    let count = sqlx::query_scalar(
        "select count(*) from slots where \"endDateTime\" < now() and \"studentId\" is null",
    );
    Ok(count.fetch_one(database).await?)
}

/// Waits until the completed jobs have deleted so many slots together; gives how many jobs that are.
pub async fn deleted_by_jobs(world: &World, host: &Host, expected: i64) -> anyhow::Result<usize> {
    let mut redis = world.redis().await?;
    until(Duration::from_secs(30), "all jobs have ended", async || {
        let (_, answer) = host
            .get(&format!("/api/admin/queues/{QUEUE}/jobs?state=failed"))
            .await?;
        anyhow::ensure!(
            answer["data"].as_array().is_none_or(Vec::is_empty),
            "{answer}"
        );
        let ids: Vec<String> = redis::cmd("zrange")
            .arg(format!("{}:{QUEUE}:completed", world.prefix))
            .arg(0)
            .arg(-1)
            .query_async(&mut redis)
            .await?;
        let mut deleted = 0;
        for id in &ids {
            let result: String = redis::cmd("hget")
                .arg(format!("{}:{QUEUE}:{id}", world.prefix))
                .arg("returnvalue")
                .query_async(&mut redis)
                .await?;
            let result: Value = serde_json::from_str(&result)?;
            deleted += result["deletedCount"].as_i64().context("a count")?;
        }
        anyhow::ensure!(deleted <= expected, "{deleted} of {expected}");
        Ok((deleted == expected).then_some(ids.len()))
    })
    .await
}

/// Peak and present memory of a process, in KiB.
fn memory(host: &Host) -> anyhow::Result<u64> {
    let pid = host.child.id().context("running")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("VmHWM")?.parse()?)
}

/// Whether no more runs than the processors can serve, with room for this test itself.
fn is_quiet() -> anyhow::Result<bool> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: f64 = load.split(' ').next().context("a load")?.parse()?;
    let processors = std::thread::available_parallelism()?.get();
    Ok(load < processors as f64 * 1.5)
}

/// Asks again and again, until told to stop, how old the oldest transaction of the plugin is.
async fn longest_transaction(url: String, stop: Arc<AtomicBool>) -> anyhow::Result<Duration> {
    let mut database = PgConnection::connect(&url).await?;
    let mut longest = 0.0_f64;
    while !stop.load(Ordering::SeqCst) {
        let age: f64 = sqlx::query_scalar(
            "select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 from pg_stat_activity \
             where datname = current_database() and application_name like 'patchbay plugin %' and state <> 'idle'",
        )
        .fetch_one(&mut database)
        .await?;
        longest = longest.max(age);
        tokio::task::yield_now().await;
    }
    Ok(Duration::from_secs_f64(longest))
}

/// Touches slots that are being deleted, as a booking would; gives the longest wait.
async fn longest_wait(
    url: String,
    slots: Vec<String>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<(Duration, u32)> {
    let mut database = PgConnection::connect(&url).await?;
    let (mut longest, mut touched) = (Duration::ZERO, 0);
    for id in slots.iter().cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let started = Instant::now();
        sqlx::query("update slots set \"isAvailable\" = \"isAvailable\" where id = $1::uuid")
            .bind(id)
            .execute(&mut database)
            .await?;
        longest = longest.max(started.elapsed());
        touched += 1;
    }
    Ok((longest, touched))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_delete_each_slot_once_and_nobody_waits_for_them_long() -> anyhow::Result<()> {
    let slots = if full_length() { 1_000_000 } else { 20_000 };
    let world = with_tables(|tables| tables).await?;
    let hosts = [world.host(&[]).await?, world.host(&[]).await?];
    hosts[0].deploy("slots", slots_plugin()?).await?;
    let mut database = world.database().await?;
    fill(&mut database, slots).await?;
    let expected = expired_unbooked(&mut database).await?;
    until(Duration::from_secs(20), "both hosts have it", async || {
        Ok((call(&hosts[1], "preview").await?.0 == 200).then_some(()))
    })
    .await?;

    let is_quiet = is_quiet()?;
    let mut times = Vec::new();
    for _ in 0..15 {
        let started = Instant::now();
        let (status, answer) = call(&hosts[0], "statistics").await?;
        times.push(started.elapsed());
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["data"]["data"]["total"], slots, "{answer}");
        assert_eq!(answer["data"]["data"]["expiredUnbooked"], expected);
    }
    times.sort();
    let mut lists = Vec::new();
    for filter in [
        "all",
        "available",
        "booked",
        "future",
        "expired",
        "expiredUnbooked",
    ] {
        let body =
            serde_json::json!({ "operation": "list", "input": { "path": { "filter": filter } } });
        let started = Instant::now();
        let (status, _) = hosts[0].post("/api/admin/plugins/slots/call", body).await?;
        assert_eq!(status, 200);
        lists.push(started.elapsed());
    }

    let before = [memory(&hosts[0])?, memory(&hosts[1])?];
    let stop = Arc::new(AtomicBool::new(false));
    let some: Vec<String> = sqlx::query_scalar(
        "select id::text from slots where \"studentId\" is null order by \"endDateTime\" limit 10000",
    )
    .fetch_all(&mut database)
    .await?;
    let watch = tokio::spawn(longest_transaction(
        world.database_url.clone(),
        Arc::clone(&stop),
    ));
    let booker = tokio::spawn(longest_wait(
        world.database_url.clone(),
        some,
        Arc::clone(&stop),
    ));
    let started = Instant::now();
    let (first, second) = tokio::join!(cleanup(&hosts[0]), cleanup(&hosts[1]));
    let (mut deleted, mut by_each) = (0, Vec::new());
    for (count, details) in [first?, second?] {
        deleted += count;
        by_each.push((count, details));
    }
    let took = started.elapsed();
    stop.store(true, Ordering::SeqCst);
    let (longest, (wait, touched)) = (watch.await??, booker.await??);
    let after = [memory(&hosts[0])?, memory(&hosts[1])?];
    // What a request had no time for is done by the job that it names, and a slot that was just
    // touched was left to the next run.
    until(Duration::from_secs(600), "nothing is left", async || {
        deleted += cleanup(&hosts[0]).await?.0;
        Ok((expired_unbooked(&mut database).await? == 0).then_some(()))
    })
    .await?;
    println!(
        "{slots} slots: {deleted} deleted in {took:?} by two hosts ({by_each:?}); the longest transaction took {longest:?}, \
         the longest of {touched} updates of slots waited {wait:?}; peak memory {before:?} → {after:?} KiB; \
         statistics {:?} (median of 15; {:?} to {:?}; quiet machine: {is_quiet}), lists {lists:?}",
        times[7], times[0], times[14]
    );
    // Each slot is counted once.
    deleted_by_jobs(&world, &hosts[0], expected - deleted).await?;
    assert_eq!(
        ids(&mut database).await?.len() as i64,
        i64::from(slots) - expected
    );
    // What the plugin's time limit for statements guarantees; usually it is some tens of milliseconds.
    let limit = Duration::from_secs(5);
    assert!(longest < limit && wait < limit, "{longest:?}, {wait:?}");
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before < 96 << 10, "{before} → {after} KiB");
    }
    // A pass over a million rows is work for the processors: beside other programs its time says
    // nothing.
    if full_length() && is_quiet {
        assert!(times[7] <= Duration::from_millis(200), "{times:?}");
    }
    Ok(())
}
