//! The inbox under load: a flood of forged requests beside genuine ones, and hosts that are killed
//! at any time. Short forms in every run; the full forms print figures.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use patchbay_store::{LeaderTask, Store, StoreConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::sync::RwLock;
use tokio::time::Instant;

use crate::harness::{Host, World, full_length, seed, until};
use crate::inbox::{KEY, SOON, TOKEN, plugin, set_secret};

/// What Postgres has committed in the database of this world.
async fn commits(world: &World) -> anyhow::Result<i64> {
    // What a connection has done is told when it is idle.
    Ok(sqlx::query_scalar(
        "select xact_commit from pg_stat_database where datname = current_database()",
    )
    .fetch_one(&mut world.database().await?)
    .await?)
}

fn memory_mib(host: &Host) -> anyhow::Result<u64> {
    let id = host.child.id().context("a process")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.context("memory")?.parse::<u64>()? / 1_024)
}

/// Sends a request on a connection that stays; the status.
async fn send(client: &reqwest::Client, url: &str, token: &str, id: &str) -> anyhow::Result<u16> {
    let request = client
        .post(format!("{url}/api/hooks/token?token={token}"))
        .header("content-type", "application/json")
        .body(json!({ "id": id, "kind": "flood" }).to_string());
    let response = request.send().await?;
    let status = response.status().as_u16();
    response.bytes().await?;
    Ok(status)
}

/// Sends a genuine request as vendors do: again, where the host has no time for it. How long that took,
/// and how often it was sent.
async fn accepted(
    client: &reqwest::Client,
    url: &str,
    id: &str,
) -> anyhow::Result<(Duration, u32)> {
    let (began, mut tries) = (Instant::now(), 0);
    loop {
        tries += 1;
        let status = send(client, url, TOKEN, id).await?;
        if status == 200 {
            return Ok((began.elapsed(), tries));
        }
        anyhow::ensure!([429, 503].contains(&status) && tries < 60, "{id}: {status}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn a_flood_of_forged_requests_costs_no_work_of_postgres_and_genuine_ones_pass()
-> anyhow::Result<()> {
    let (senders, lasts, genuine) = match full_length() {
        true => (96, Duration::from_secs(30), 1_500),
        false => (8, Duration::from_millis(1_500), 40),
    };
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    set_secret(&host, "TOKEN", TOKEN).await?;
    let url = host.url.clone();
    // The first call of a guest takes longest.
    assert_eq!(send(&host.http, &url, TOKEN, "first").await?, 200);
    let (before, memory) = (commits(&world).await?, memory_mib(&host)?);
    let (forged, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let began = Instant::now();
    let mut flood = tokio::task::JoinSet::new();
    for sender in 0..senders {
        let (url, forged, is_over) = (url.clone(), Arc::clone(&forged), Arc::clone(&is_over));
        flood.spawn(async move {
            let client = reqwest::Client::builder().no_proxy().build()?;
            while !is_over.load(Ordering::Relaxed) {
                let id = format!("forged-{sender}");
                let status = send(&client, &url, "wrong", &id).await?;
                anyhow::ensure!(status == 401, "{status}");
                forged.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    // At their pace, whether or not the answers keep up: otherwise a host without optimisation would be
    // sent ever fewer, and would not come to an end.
    let mut vendor = tokio::task::JoinSet::new();
    let mut pace = tokio::time::interval(lasts / genuine);
    for n in 0..genuine {
        pace.tick().await;
        let (client, url) = (host.http.clone(), url.clone());
        vendor.spawn(async move { accepted(&client, &url, &format!("genuine-{n}")).await });
    }
    let (mut times, mut again) = (Vec::new(), 0);
    while let Some(ended) = vendor.join_next().await {
        let (time, tries) = ended??;
        times.push(time);
        again += tries - 1;
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = flood.join_next().await {
        ended??;
    }
    let took = began.elapsed();
    let grown = memory_mib(&host)?.saturating_sub(memory);
    // All genuine ones are events: at most one was judged later, on a machine that is busy.
    until(SOON, "the genuine events", async || {
        let events: i64 = sqlx::query_scalar("select count(*) from patchbay.inbox_events")
            .fetch_one(&mut world.database().await?)
            .await?;
        Ok((events == i64::from(genuine) + 1).then_some(()))
    })
    .await?;
    let committed = commits(&world).await? - before;
    let rejected: i64 =
        sqlx::query_scalar("select count(*) from patchbay.inbox where state = 'rejected'")
            .fetch_one(&mut world.database().await?)
            .await?;
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    let forged = forged.load(Ordering::Relaxed);
    println!(
        "{forged} forged in {took:?} ({:.0}/s) beside {genuine} genuine: p50 {:?}, p99 {p99:?}, slowest {:?}, {again} sent again; \
         Postgres {committed} transactions, {rejected} rejected kept, {grown} MiB more",
        forged as f64 / took.as_secs_f64(),
        times[times.len() / 2],
        times.last().context("times")?,
    );
    // Times are meaningful only of an optimised host, where nothing else runs.
    if full_length() && std::env::var_os("PATCHBAY_BIN").is_some() {
        assert!(p99 <= Duration::from_millis(250), "{p99:?}");
        assert_eq!(again, 0, "all are accepted at once");
    }
    // Two of a second are kept of one source, and twice as many at once.
    let kept = 2 * took.as_secs() + 6;
    assert!(rejected.unsigned_abs() <= kept, "{rejected} of {forged}");
    // What a host does anyway, and some for each genuine one.
    let allowed = 400 + 60 * took.as_secs() + 8 * u64::from(genuine);
    assert!(committed.unsigned_abs() <= allowed, "{committed}");
    assert!(grown < 96, "{grown} MiB");
    many_rows_are_counted(&world, &host).await?;
    host.stop().await?;
    rejected_requests_have_a_bound_in_bytes(&world).await?;
    what_is_over_is_forgotten_in_batches(&world).await
}

/// Leads what one process forgets for all.
async fn forgets(world: &World) -> anyhow::Result<u64> {
    let config = StoreConfig {
        url: world.database_url.clone(),
        min_connections: 0,
        max_connections: 2,
        acquire_timeout: Duration::from_secs(5),
    };
    let store = Store::connect(config, Duration::from_secs(5)).await?;
    let mut elector = store.elector(LeaderTask::Inbox);
    until(SOON, "leading", async || {
        Ok(elector.try_lead().await?.map(|_| ()))
    })
    .await?;
    let mut lead = elector.try_lead().await?.context("still leading")?;
    let mut deleted = 0;
    loop {
        match lead.forget_inbox().await? {
            0 => return Ok(deleted),
            some => deleted += some,
        }
    }
}

/// Otherwise strangers would fill the disk with large ones. The newest stay.
async fn rejected_requests_have_a_bound_in_bytes(world: &World) -> anyhow::Result<()> {
    let mut database = world.database().await?;
    sqlx::query(
        "insert into patchbay.inbox (id, received_at, plugin, webhook, state, method, size, source, host, correlation_id, sealed, \
           sealed_key, keep_until, remember_until) \
         select gen_random_uuid(), now() - n * interval '1 s', 'hooks', 'large', 'rejected', 'POST', 1, \
           case when n <= 30 then '192.0.2.0/24' else '198.51.100.0/24' end, 'h', '', convert_to(repeat('a', 1048576), 'UTF8'), 'k', \
           now() + interval '1 day', now() \
         from generate_series(1, 40) n",
    )
    .execute(&mut database)
    .await?;
    // Eleven networks have forged more than is kept, after two requests of one that is known.
    sqlx::query(
        "insert into patchbay.inbox (id, received_at, plugin, webhook, state, method, size, source, host, correlation_id, sealed, \
           sealed_key, keep_until, remember_until) \
         select gen_random_uuid(), now() - n * interval '1 ms', 'hooks', 'many', 'rejected', 'POST', 1, \
           case when n > 10900 then '203.0.113.0/24' else '10.0.' || n % 11 || '.0/24' end, 'h', '', 'sealed', 'k', \
           now() + interval '1 day', now() \
         from generate_series(1, 10902) n",
    )
    .execute(&mut database)
    .await?;
    sqlx::query(
        "insert into patchbay.inbox_sources (plugin, webhook, network, last_accepted_at) values ('hooks', 'many', '203.0.113.0/24', now())",
    )
    .execute(&mut database)
    .await?;
    forgets(world).await?;
    let (kept, known): (i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where source = '203.0.113.0/24') from patchbay.inbox where webhook = 'many'",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!((kept, known), (10_000, 2));
    let left: Vec<i64> = sqlx::query_scalar(
        "select count(*) from patchbay.inbox where webhook = 'large' group by source order by source",
    )
    .fetch_all(&mut database)
    .await?;
    assert_eq!(left, [25, 10], "a tenth of 256 MiB of one network");
    Ok(())
}

async fn what_is_over_is_forgotten_in_batches(world: &World) -> anyhow::Result<()> {
    let mut database = world.database().await?;
    let over = sqlx::query(
        "update patchbay.inbox set keep_until = now() - interval '1 s' where webhook = 'signed'",
    )
    .execute(&mut database)
    .await?
    .rows_affected();
    sqlx::query("vacuum analyze patchbay.inbox")
        .execute(&mut database)
        .await?;
    let began = Instant::now();
    let deleted = forgets(world).await?;
    println!("{deleted} requests were forgotten in {:?}", began.elapsed());
    assert!(deleted >= over, "{deleted} of {over}");
    Ok(())
}

/// How requests stand is asked at each scrape, and by operators.
async fn many_rows_are_counted(world: &World, host: &Host) -> anyhow::Result<()> {
    let rows = if full_length() { 1_000_000 } else { 20_000 };
    let mut database = world.database().await?;
    sqlx::query(
        "insert into patchbay.inbox (id, received_at, plugin, webhook, state, method, size, host, correlation_id, sealed_key, \
           keep_until, remember_until) \
         select gen_random_uuid(), now() - n * interval '1 ms', 'hooks', 'signed', \
           case when n % 10 = 0 then 'recorded' else 'enqueued' end, 'POST', 1, 'h', '', 'k', now() + interval '1 day', now() \
         from generate_series(1, $1) n",
    )
    .bind(rows)
    .execute(&mut database)
    .await?;
    sqlx::query("vacuum analyze patchbay.inbox")
        .execute(&mut database)
        .await?;
    let mut times = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let (_, stats) = host.get("/api/admin/inbox-stats").await?;
        times.push(began.elapsed());
        let kept = stats["data"]["kept"].as_array().context("rows")?;
        let count = |state: &str| {
            let mut kept = kept.iter();
            let found = kept.find(|of| of["webhook"] == "hooks.signed" && of["state"] == state);
            found.and_then(|of| of["count"].as_i64())
        };
        assert_eq!(count("enqueued"), Some(rows - rows / 10), "{stats}");
        assert_eq!(count("recorded"), Some(rows / 10));
    }
    let (first, last) = (times[0], times[2]);
    println!("how {rows} more requests stand: {first:?}, then {last:?}");
    assert!(last < Duration::from_millis(250), "{times:?}");
    Ok(())
}

/// A host that is killed and replaced while requests are sent to it.
struct Vendor {
    url: RwLock<String>,
    next: AtomicU64,
    last: AtomicU64,
    answered: Mutex<BTreeSet<u64>>,
    tries: AtomicU64,
}

impl Vendor {
    /// Sends events until all have been answered with success, each twice. What is not answered is
    /// sent again, as vendors do.
    async fn send(&self, client: &reqwest::Client) -> anyhow::Result<()> {
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.last.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut successes = 0;
            while successes < 2 {
                let url = self.url.read().await.clone();
                self.tries.fetch_add(1, Ordering::Relaxed);
                let request = client
                    .post(format!("{url}/api/hooks/open"))
                    .header("content-type", "application/json")
                    .body(json!({ "id": format!("event-{n}") }).to_string());
                match request.send().await {
                    Ok(response) if response.status() == 200 => {
                        self.answered.lock().expect("no panic").insert(n);
                        successes += 1;
                    }
                    Ok(response) => {
                        let status = response.status().as_u16();
                        anyhow::ensure!([429, 503].contains(&status), "{status}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    // It was killed.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    }

    fn answered(&self) -> i64 {
        i64::try_from(self.answered.lock().expect("no panic").len()).unwrap_or(i64::MAX)
    }
}

#[tokio::test]
async fn every_request_that_was_answered_is_there_after_kills_at_random_points()
-> anyhow::Result<()> {
    let (kills, calm) = match full_length() {
        true => (50, 300..1_500),
        false => (2, 100..400),
    };
    let mut random = StdRng::seed_from_u64(seed());
    let world = World::new().await?;
    let mut host = world.host(&[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    let vendor = Arc::new(Vendor {
        url: RwLock::new(host.url.clone()),
        next: AtomicU64::new(0),
        last: AtomicU64::new(u64::MAX),
        answered: Mutex::default(),
        tries: AtomicU64::new(0),
    });
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let vendor = Arc::clone(&vendor);
        senders.spawn(async move {
            let client = reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(5))
                .build()?;
            vendor.send(&client).await
        });
    }
    for kill in 1..=kills {
        let before = vendor.answered();
        until(SOON, "some answers", async || {
            Ok((vendor.answered() > before).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(random.random_range(calm.clone()))).await;
        host.child.kill().await?;
        let answered = vendor.answered();
        // While Postgres is slow, some wait in Redis.
        let waiting: i64 = redis::cmd("XLEN")
            .arg(format!("{}-own:inbox-spill", world.prefix))
            .query_async(&mut world.redis().await?)
            .await?;
        let rows: i64 = sqlx::query_scalar("select count(*) from patchbay.inbox")
            .fetch_one(&mut world.database().await?)
            .await?;
        anyhow::ensure!(
            rows + waiting >= answered,
            "kill {kill}: {answered} answered, {rows} kept, {waiting} in Redis"
        );
        host = world.host(&[KEY]).await?;
        vendor.url.write().await.clone_from(&host.url);
    }
    vendor
        .last
        .store(vendor.next.load(Ordering::Relaxed), Ordering::Relaxed);
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    let events = vendor.answered();
    // Each event is accepted once; what was judged later may be a repeat then.
    until(SOON * 2, "one row of each event", async || {
        let counted: Vec<(String, i64)> =
            sqlx::query_as("select state, count(*) from patchbay.inbox group by state")
                .fetch_all(&mut world.database().await?)
                .await?;
        let enqueued = counted.iter().find(|(state, _)| state == "enqueued");
        let waiting: i64 = sqlx::query_scalar("select count(*) from patchbay.inbox_jobs")
            .fetch_one(&mut world.database().await?)
            .await?;
        let is_done = waiting == 0
            && counted
                .iter()
                .all(|(state, _)| state == "enqueued" || state == "repeat");
        Ok((is_done && enqueued.is_some_and(|(_, count)| *count == events)).then_some(()))
    })
    .await?;
    // Redis keeps only the newest of those that have completed; the history has all.
    until(SOON * 2, "one job of each event", async || {
        let jobs: i64 = sqlx::query_scalar(
            "select count(distinct job_id) from patchbay.attempts where queue = 'hookQueue' and outcome = 'completed'",
        )
        .fetch_one(&mut world.database().await?)
        .await?;
        Ok((jobs == events).then_some(()))
    })
    .await?;
    println!(
        "{kills} kills: {events} events in {} tries, each with one row and one job",
        vendor.tries.load(Ordering::Relaxed)
    );
    Ok(())
}
