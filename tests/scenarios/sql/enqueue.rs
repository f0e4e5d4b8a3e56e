//! Rows and their jobs, enqueued in one transaction, while hosts are killed.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::Context;
use patchbay_model::job::{Keep, NewJob};
use patchbay_queue::{Broker, RedisConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use super::{QUEUE, count, run, world, world_and_host};
use crate::harness::{Host, World, full_length, seed, statements_plugin, until};

/// A killed host's jobs come back in seconds instead of half a minute.
const QUICK: [(&str, &str); 2] = [
    ("PATCHBAY_WORK_LOCK_S", "5"),
    ("PATCHBAY_WORK_RENEW_S", "2"),
];

/// One in ten of each kind fails after its row was written.
fn is_spoilt(key: i64) -> bool {
    key % 20 >= 18
}

/// Half of them use `batch`, half use `transaction`; half of the jobs have a chosen id.
fn booking(key: i64) -> anyhow::Result<NewJob> {
    let data = json!({ "key": key, "batch": key % 2 == 0, "named": key % 4 < 2, "spoilt": is_spoilt(key) });
    let mut job = NewJob::new(QUEUE.parse()?, "book", data.to_string());
    // A host that has just started may have no login for the plugin yet, and a backend that ends
    // with its host fails one call.
    job.attempts = Some(20);
    // All jobs are kept, to be counted at the end.
    (job.keep_completed, job.keep_failed) = (Some(Keep::default()), Some(Keep::default()));
    Ok(job)
}

/// A field of every job of a queue in a list or sorted set.
async fn field_of_each(
    world: &World,
    queue: &str,
    state: &str,
    field: &str,
) -> anyhow::Result<Vec<Option<String>>> {
    let key = |name: &str| format!("{}:{queue}:{name}", world.prefix);
    let mut redis = world.redis().await?;
    let command = if state == "wait" { "lrange" } else { "zrange" };
    let ids: Vec<String> = redis::cmd(command)
        .arg(key(state))
        .arg(0)
        .arg(-1)
        .query_async(&mut redis)
        .await?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipe = redis::pipe();
    for id in &ids {
        pipe.hget(key(id), field);
    }
    Ok(pipe.query_async(&mut redis).await?)
}

async fn unfinished(host: &Host) -> anyhow::Result<u64> {
    let (_, answer) = host.get(&format!("/api/admin/queues/{QUEUE}")).await?;
    let counts = &answer["data"]["counts"];
    let states = ["waiting", "prioritized", "active", "delayed"];
    states
        .iter()
        .map(|state| {
            counts[state]
                .as_u64()
                .with_context(|| format!("{state}: {answer}"))
        })
        .sum()
}

#[tokio::test]
async fn jobs_of_a_commit_reach_their_queue_although_the_host_is_killed_before_it_relays_them()
-> anyhow::Result<()> {
    let (world, mut host) = world_and_host().await?;
    let mut database = world.database().await?;
    // Only relays read this table; plugins do not.
    let mut gate = world.database().await?;
    let mut closed = gate.begin().await?;
    closed
        .execute("lock table patchbay.outbox_nonces in access exclusive mode")
        .await?;
    let batch = json!({ "statements": [], "jobs": [{ "name": "noop", "queue": "otherQueue" }] });
    assert_eq!(run(&host, "batch", batch).await?, json!([]));
    assert_eq!(
        count(&mut database, "select count(*) from patchbay_outbox.jobs").await?,
        1
    );
    host.child.kill().await?;
    let other = world.host(&[]).await?;
    closed.rollback().await?;
    until(Duration::from_secs(20), "the outbox is empty", async || {
        Ok(
            (count(&mut database, "select count(*) from patchbay_outbox.jobs").await? == 0)
                .then_some(()),
        )
    })
    .await?;
    let waiting = other
        .get("/api/admin/queues/otherQueue/jobs?state=waiting")
        .await?
        .1["data"]
        .to_string();
    assert_eq!(waiting.matches("\"id\":\"outbox-").count(), 1, "{waiting}");
    Ok(())
}

#[tokio::test]
async fn rows_and_jobs_agree_whenever_hosts_are_killed() -> anyhow::Result<()> {
    let (batches, kills) = if full_length() {
        (10_000, 60)
    } else {
        (400, 5)
    };
    let mut random = StdRng::seed_from_u64(seed());
    let world = world().await?;
    let mut database = world.database().await?;
    database
        .execute("create table crm.bookings (key bigint primary key)")
        .await?;
    let mut hosts = [world.host(&QUICK).await?, world.host(&QUICK).await?];
    let tables = "[sql.tables]\n\"crm.bookings\" = [\"insert\"]";
    hosts[0]
        .deploy(
            "statements",
            statements_plugin(|manifest| manifest.replace("[sql.tables]", tables))?,
        )
        .await?;

    let began = Instant::now();
    let config = RedisConfig {
        url: world.redis_url.clone(),
        prefix: world.prefix.clone(),
        own_prefix: format!("{}-own", world.prefix),
        ..RedisConfig::default()
    };
    let queues = Broker::connect(config).await?;
    let all: Vec<NewJob> = (0..batches).map(booking).collect::<anyhow::Result<_>>()?;
    for some in all.chunks(500) {
        queues.add(some.to_vec()).await?;
    }
    let mut moments: Vec<i64> = (0..kills)
        .map(|_| random.random_range(0..batches * 8 / 10))
        .collect();
    moments.sort_unstable();
    let mut relays_cut_short = 0;
    for rows in moments {
        until(Duration::from_secs(60), "further rows", async || {
            Ok(
                (count(&mut database, "select count(*) from crm.bookings").await? >= rows)
                    .then_some(()),
            )
        })
        .await?;
        // At any time within a batch, which takes some milliseconds.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        let (first, last) = [(0, 0), (1, 1), (0, 1)][random.random_range(0..3)];
        for host in &mut hosts[first..=last] {
            host.child.kill().await?;
        }
        relays_cut_short +=
            i64::from(count(&mut database, "select count(*) from patchbay_outbox.jobs").await? > 0);
        for host in &mut hosts[first..=last] {
            *host = world.host(&QUICK).await?;
        }
    }
    until(
        Duration::from_secs(120),
        "all batches are through",
        async || Ok((unfinished(&hosts[0]).await? == 0).then_some(())),
    )
    .await?;
    until(Duration::from_secs(20), "the outbox is empty", async || {
        Ok(
            (count(&mut database, "select count(*) from patchbay_outbox.jobs").await? == 0)
                .then_some(()),
        )
    })
    .await?;

    let mut ends: HashMap<String, usize> = HashMap::new();
    for end in field_of_each(&world, QUEUE, "completed", "returnvalue").await? {
        *ends.entry(end.context("a result")?).or_default() += 1;
    }
    let failures = field_of_each(&world, QUEUE, "failed", "failedReason").await?;
    let jobs = field_of_each(&world, "otherQueue", "wait", "data").await?;
    let mut of_jobs: Vec<i64> = Vec::new();
    for data in jobs {
        let data: Value = serde_json::from_str(&data.context("data")?)?;
        of_jobs.push(data["key"].as_i64().context("key")?);
    }
    of_jobs.sort_unstable();
    let of_rows: Vec<i64> = sqlx::query_scalar("select key from crm.bookings order by key")
        .fetch_all(&mut database)
        .await?;
    println!(
        "{batches} batches and {kills} kills in {:?}; they ended as {ends:?}; {relays_cut_short} kills left jobs in the outbox",
        began.elapsed()
    );
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(
        ends.values().sum::<usize>(),
        batches as usize,
        "each batch has ended once: {ends:?}"
    );
    let expected: Vec<i64> = (0..batches).filter(|&key| !is_spoilt(key)).collect();
    let without = |some: &[i64], others: &[i64]| -> Vec<i64> {
        let others: BTreeSet<_> = others.iter().collect();
        some.iter()
            .filter(|key| !others.contains(key))
            .copied()
            .collect()
    };
    assert_eq!(without(&of_rows, &of_jobs), [0; 0], "rows without a job");
    assert_eq!(without(&of_jobs, &of_rows), [0; 0], "jobs without a row");
    assert_eq!(
        of_rows, expected,
        "every batch that was not spoilt, and no other"
    );
    assert_eq!(of_jobs, expected, "one job each");
    Ok(())
}

#[tokio::test]
async fn a_transaction_enqueues_no_job_under_a_name_of_the_queues_own() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    for id in ["failed", "meta", "7", "de:x"] {
        let jobs = json!([{ "id": id }]);
        let batch = run(&host, "batch", json!({ "statements": [], "jobs": jobs })).await?;
        let steps = run(&host, "transaction", json!([{ "jobs": jobs }])).await?;
        for answer in [&batch, &steps[0]] {
            let message = answer["message"]
                .as_str()
                .with_context(|| format!("no refusal: {answer}"))?;
            assert!(
                answer["code"] == "invalid" && message.contains("a job's own id"),
                "{answer}"
            );
        }
    }
    Ok(())
}
