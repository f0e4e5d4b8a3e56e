//! docs/operations/runbook-f.md as a drill: a new revision of one plugin leaks transactions and
//! locks and hangs, while another plugin works.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::sync::oneshot;

use crate::cable::Cable;
use crate::harness::{Host, World, full_length, repository, statements_plugin, until};
use crate::runbook::steps;

const LEAKY: &str = "sqlQueue";
const QUIET: &str = "quietQueue";
const TABLES: &str = "
    create schema crm;
    create table crm.leads (id int primary key, name text, phone text);
    insert into crm.leads values (1, 'Asha', '+91 1'), (2, 'Ravi', '+91 2');
    create table crm.calls (id serial primary key, lead int, note text);
";
/// The contract's limit of a transaction, plus the time to end it on two busy processors.
const LONGEST_TRANSACTION: Duration = Duration::from_millis(5_000 + 1_500);
/// Doubled times below this mean nothing: one delay by the two processors that guests, host and
/// Postgres share is enough. Waiting for another plugin's connection would take seconds.
const FLOOR: Duration = Duration::from_millis(5);

/// Postgres backends of the leaking plugin, by process id: the longest transaction time seen.
type Seen = BTreeMap<i32, Duration>;

/// Observes Postgres until `stop`.
async fn watch(world: &World, mut stop: oneshot::Receiver<()>) -> anyhow::Result<Seen> {
    let mut database = world.database().await?;
    let mut seen = Seen::new();
    while stop.try_recv().is_err() {
        let rows: Vec<(i32, f64)> = sqlx::query_as(
            "select pid, extract(epoch from clock_timestamp() - xact_start)::float8 from pg_stat_activity \
             where datname = current_database() and application_name = 'patchbay plugin statements' and xact_start is not null",
        )
        .fetch_all(&mut database)
        .await?;
        for (pid, seconds) in rows {
            let longest = seen.entry(pid).or_default();
            *longest = (*longest).max(Duration::from_secs_f64(seconds));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(seen)
}

/// The times of the quiet plugin's statements, as the plugin measures them, one after another.
async fn measure(host: &Host, during: Duration) -> anyhow::Result<Vec<Duration>> {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < during {
        let id = host
            .add(QUIET, json!({ "name": "timed", "data": { "times": 50 } }))
            .await?;
        let story = host.job_in(QUIET, &id, "completed").await?;
        let of_job: Vec<u64> =
            serde_json::from_str(story["job"]["returnValue"].as_str().context("times")?)?;
        times.extend(of_job.into_iter().map(Duration::from_micros));
    }
    times.sort_unstable();
    Ok(times)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

async fn sql_of(host: &Host, plugin: &str) -> anyhow::Result<Value> {
    let (status, answer) = host.get(&format!("/api/admin/sql?plugin={plugin}")).await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    Ok(answer["data"]["plugins"][0].clone())
}

#[tokio::test]
async fn runbook_f_finds_the_plugin_that_holds_connections_and_the_others_do_not_notice()
-> anyhow::Result<()> {
    let document = std::fs::read_to_string(repository().join("docs/operations/runbook-f.md"))?;
    let phase = Duration::from_secs(if full_length() { 60 } else { 8 });
    let world = World::new().await?;
    world
        .database()
        .await?
        .execute(sqlx::raw_sql(TABLES))
        .await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let env = [("DATABASE_URL", url.as_str())];
    // Quarantine would end the problem before it could be measured.
    let host = world
        .host(&[env[0], ("PATCHBAY_QUARANTINE_POLICY", "off")])
        .await?;
    let quiet = statements_plugin(|manifest| {
        manifest
            .replace("\"statements\"", "\"quiet\"")
            .replace("sqlQueue", QUIET)
    })?;
    host.deploy("quiet", quiet).await?;
    let many = |manifest: String| manifest.replace("concurrency = 8", "concurrency = 50");
    let good = host.deploy("statements", statements_plugin(many)?).await?;
    let before = measure(&host, phase).await?;

    let leaky =
        statements_plugin(|manifest| many(manifest).replace("default = false", "default = true"))?;
    let leaky = host.deploy("statements", leaky).await?;
    // Guests that compute are not part of this: they compete with all guests for the processors.
    let ways = ["sleeps in Postgres", "does nothing"];
    for n in 0..if full_length() { 600 } else { 200 } {
        host.add(
            LEAKY,
            json!({ "name": "sync", "data": { "how": ways[n % ways.len()] } }),
        )
        .await?;
    }
    until(
        Duration::from_secs(20),
        "it holds both of its connections and more calls wait",
        async || {
            let sql = sql_of(&host, "statements").await?;
            Ok((sql["inUse"] == 2 && sql["waiting"].as_u64() > Some(10)).then_some(()))
        },
    )
    .await?;
    let (stop, stopped) = oneshot::channel();
    let (during, seen) = tokio::try_join!(
        async {
            let times = measure(&host, phase).await;
            stop.send(()).ok();
            times
        },
        watch(&world, stopped),
    )?;
    let ended = sql_of(&host, "statements").await?["ended"]
        .as_u64()
        .context("ended")?;
    let page = host.metrics().await?;
    let counted = page.lines().find_map(|line| {
        line.strip_prefix("patchbay_sql_backends_ended_total{plugin=\"statements\"} ")
    });
    assert!(
        counted
            .and_then(|count| count.parse::<u64>().ok())
            .is_some_and(|count| count >= ended),
        "{counted:?}"
    );
    let mut longest: Vec<Duration> = seen.values().copied().collect();
    longest.sort_unstable();
    let figures = |times: &[Duration]| {
        format!(
            "{} statements, p50 {:?}, p99 {:?}",
            times.len(),
            percentile(times, 50),
            percentile(times, 99)
        )
    };
    println!("before: {}\nduring: {}", figures(&before), figures(&during));
    println!(
        "{} leaky backends in transactions of up to {longest:?}; the host has ended {ended}",
        seen.len()
    );
    let allowed = 2 * percentile(&before, 99).max(FLOOR);
    assert!(
        percentile(&during, 99) <= allowed,
        "{:?} > {allowed:?}",
        percentile(&during, 99)
    );
    assert!(
        longest
            .last()
            .is_some_and(|longest| *longest <= LONGEST_TRANSACTION),
        "{longest:?}"
    );
    // Two at a time, each for five seconds.
    let least = phase.as_secs() / 5;
    assert!(
        ended >= least && seen.len() as u64 > least,
        "{ended} ended, {} seen",
        seen.len()
    );

    let names = [
        ("QUEUE", LEAKY),
        ("PLUGIN", "statements"),
        ("DIGEST", &leaky[..12]),
        ("BEFORE", &good[..12]),
    ];
    let doctor_env = [
        env[0],
        ("REDIS_URL", world.redis_url.as_str()),
        ("PATCHBAY_REDIS_PREFIX", world.prefix.as_str()),
        ("PATCHBAY_RUNTIME_CACHE_DIR", "cache"),
    ];
    let drill = async |letter: char, is_wanted: &dyn Fn(bool) -> bool| {
        let steps = steps(&document, letter);
        anyhow::ensure!(!steps.is_empty(), "section {letter} has commands");
        let mended = steps
            .iter()
            .position(|step| step.shows("schema is up to date"))
            .unwrap_or(steps.len());
        for (place, step) in steps.iter().enumerate() {
            if is_wanted(place >= mended) {
                step.run(&host, &doctor_env, &names).await?;
            }
        }
        anyhow::Ok(())
    };
    drill('A', &|_| true).await?;
    drill('B', &|_| true).await?;
    cable.cut.send_replace(true);
    drill('C', &|after| !after).await?;
    cable.cut.send_replace(false);
    drill('C', &|after| after).await?;

    let locks = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7";
    let mut database = world.database().await?;
    let left: i64 = sqlx::query_scalar(locks).fetch_one(&mut database).await?;
    assert_eq!(left, 0, "no lock is left");
    Ok(())
}
