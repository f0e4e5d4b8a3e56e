//! Searching a long history: twenty million attempts in six months, each its own partition.
//! `PATCHBAY_BENCH_ATTEMPTS` for fewer.
//!
//! The rows are made by Postgres itself, into tables that get their indexes when they become
//! partitions: minutes instead of hours, and the schema in the end is the real one.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use patchbay_model::filter::Filter;
use patchbay_store::{SearchCursor, Selection, Store, StoreConfig, Term};
use sqlx::{Connection, Executor, PgConnection, Row};

use crate::statistics::{percentile, verdict};

const MONTHS: i64 = 6;
const PREFIX: &str = "bull";
/// Of each kind of search, each for something else.
const SAMPLES: i64 = 60;
const PAGE: usize = 50;
/// For a page; milliseconds.
const TARGET_MS: f64 = 200.0;
/// For the count before a bulk operation; milliseconds.
const COUNT_TARGET_MS: f64 = 1_000.0;
/// What the host gives a page.
const PAGE_LIMIT: Duration = Duration::from_secs(2);
/// What the host gives a count.
const COUNT_LIMIT: Duration = Duration::from_millis(800);

/// In a database of its own on the server of `url`, which is filled if it is not there from an
/// earlier run.
pub async fn run(url: &str) -> anyhow::Result<()> {
    let (server, _) = url.rsplit_once('/').context("a database's URL")?;
    let mut connection = PgConnection::connect(url).await?;
    let there: bool = sqlx::query_scalar(
        "select exists (select from pg_database where datname = 'bench_search')",
    )
    .fetch_one(&mut connection)
    .await?;
    if !there {
        connection.execute("create database bench_search").await?;
    }
    let url = format!("{server}/bench_search");
    let attempts: i64 =
        std::env::var("PATCHBAY_BENCH_ATTEMPTS").map_or(Ok(20_000_000), |text| text.parse())?;
    let config = StoreConfig {
        url: url.clone(),
        min_connections: 1,
        max_connections: 4,
        acquire_timeout: Duration::from_secs(5),
    };
    let store = Store::connect(config, Duration::from_secs(5)).await?;
    store.migrate().await?;
    let mut connection = PgConnection::connect(&url).await?;
    let began = Instant::now();
    let filled: bool = sqlx::query_scalar("select exists (select from patchbay.attempts)")
        .fetch_one(&mut connection)
        .await?;
    if !filled {
        fill(&mut connection, attempts).await?;
    }
    let size: String = text(
        &mut connection,
        "select pg_size_pretty(pg_database_size(current_database()))",
    )
    .await?;
    println!(
        "searching {attempts} attempts in {MONTHS} partitions ({size}, filled in {:.0?}); {SAMPLES} different ones of each kind, {PAGE} rows a page, ms",
        began.elapsed()
    );
    let days = sqlx::query_as(
        "select to_char(day, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), to_char(day + interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
         from generate_series(now() - interval '150 days', now() - interval '1 day', interval '1 day') day",
    );
    let days = days.fetch_all(&mut connection).await?;
    let world = World {
        store,
        attempts,
        days,
    };
    searches(&world, &mut connection).await?;
    pages(&world).await?;
    counts(&world, &mut connection).await?;
    world.store.close().await;
    Ok(())
}

struct World {
    store: Store,
    attempts: i64,
    /// Of the last half year: from and to.
    days: Vec<(String, String)>,
}

impl World {
    fn day(&self, n: i64) -> &(String, String) {
        &self.days[pick(n, self.days.len() as i64) as usize]
    }
}

async fn fill(connection: &mut PgConnection, attempts: i64) -> anyhow::Result<()> {
    connection
        .execute(
            "set timezone = 'UTC'; set maintenance_work_mem = '512MB'; set search_path = patchbay",
        )
        .await?;
    let months = sqlx::query(
        "select to_char(month, 'YYYY-MM-DD HH24:MI:SSOF') as first, to_char(month, 'YYYY_MM') as name \
         from generate_series(date_trunc('month', now()) - interval '5 months', now(), interval '1 month') month",
    );
    for (n, month) in (0..).zip(months.fetch_all(&mut *connection).await?) {
        let rows = attempts / MONTHS;
        let sql = include_str!("search.sql")
            .replace("{rows}", &rows.to_string())
            .replace("{first}", &(n * rows).to_string())
            .replace("{month}", &month.try_get::<String, _>("first")?)
            .replace("{table}", &month.try_get::<String, _>("name")?);
        connection.execute(sqlx::AssertSqlSafe(sql)).await?;
    }
    connection
        .execute(
            "insert into revision_attempts select plugin, revision, count(*) from attempts group by 1, 2; \
             insert into dead_letters (prefix, queue, fingerprint, plugin, revision, code, message, jobs, first_seen, last_seen) \
             select prefix, queue, fingerprint, plugin, revision, min(code), min(message), count(*), min(finished_at), max(finished_at) \
             from attempts where fingerprint is not null group by 1, 2, 3, 4, 5; analyze",
        )
        .await?;
    Ok(())
}

async fn text(connection: &mut PgConnection, sql: &'static str) -> anyhow::Result<String> {
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// The `n`th different number below `most`.
fn pick(n: i64, most: i64) -> i64 {
    (n * 7_919 + 13) % most
}

/// Names and values of a filter, and the texts whose hashes are its terms.
struct Wanted(Vec<(String, String)>, Vec<String>);

fn of(pairs: &[(&str, String)]) -> Wanted {
    Wanted(
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect(),
        Vec::new(),
    )
}

impl Wanted {
    fn on(mut self, (from, to): &(String, String)) -> Self {
        self.0.extend([
            ("from".to_owned(), from.clone()),
            ("to".to_owned(), to.clone()),
        ]);
        self
    }

    fn with_data(mut self, path: &str, value: &str) -> Self {
        self.0.push((format!("data.{path}"), value.to_owned()));
        self.1.push(format!("{path}-{value}"));
        self
    }

    async fn read(&self, connection: &mut PgConnection) -> anyhow::Result<(Filter, Vec<Term>)> {
        let mut terms = Vec::new();
        for text in &self.1 {
            let query = sqlx::query_scalar("select decode(md5($1), 'hex')").bind(text);
            let term: Vec<u8> = query.fetch_one(&mut *connection).await?;
            terms.push(Term::try_from(term).ok().context("16 bytes")?);
        }
        Ok((Filter::from_pairs(self.0.clone())?, terms))
    }
}

/// What it is called, whether it has a target, and the `n`th of its kind.
type Kind<'a> = (&'a str, bool, Box<dyn Fn(i64) -> Wanted + 'a>);

async fn searches(world: &World, connection: &mut PgConnection) -> anyhow::Result<()> {
    let attempts = world.attempts;
    let queue = |n: i64| format!("queue-{}", pick(n, 30));
    let code = |n: i64| format!("code-{}", pick(n, 200));
    let id = |n: i64| pick(n * 104_729, attempts);
    let revisions: Vec<String> =
        sqlx::query_scalar("select revision from patchbay.revision_attempts order by revision")
            .fetch_all(&mut *connection)
            .await?;
    let groups: Vec<i64> = sqlx::query_scalar("select id from patchbay.dead_letters order by id")
        .fetch_all(&mut *connection)
        .await?;
    let mut ids = Vec::new();
    for n in 0..SAMPLES {
        let query = sqlx::query_as(
            "select correlation_id, queue from patchbay.attempts where correlation_id = md5($1)::uuid::text",
        );
        let found: (String, String) = query
            .bind(id(n).to_string())
            .fetch_one(&mut *connection)
            .await?;
        ids.push(found);
    }
    let at = |list: &Vec<String>, n: i64| list[pick(n, list.len() as i64) as usize].clone();
    let kinds: Vec<Kind<'_>> = vec![
        ("everything", true, Box::new(|_| of(&[]))),
        ("queue", true, Box::new(|n| of(&[("queue", queue(n))]))),
        (
            "queue, a day",
            true,
            Box::new(|n| of(&[("queue", queue(n))]).on(world.day(n))),
        ),
        (
            "name",
            true,
            Box::new(|n| of(&[("name", format!("job-{}-{}", pick(n, 30), n % 3))])),
        ),
        (
            "outcome=failed",
            true,
            Box::new(|_| of(&[("outcome", "failed".into())])),
        ),
        (
            "outcome=trapped, a day",
            true,
            Box::new(|n| of(&[("outcome", "trapped".into())]).on(world.day(n))),
        ),
        (
            "verdict=fail, queue, a day",
            true,
            Box::new(|n| of(&[("verdict", "fail".into()), ("queue", queue(n))]).on(world.day(n))),
        ),
        ("code", true, Box::new(|n| of(&[("code", code(n))]))),
        (
            "code, queue, a day",
            true,
            Box::new(|n| of(&[("code", code(n)), ("queue", queue(n))]).on(world.day(n))),
        ),
        (
            "revision, failed",
            true,
            Box::new(|n| {
                of(&[
                    ("revision", at(&revisions, n)),
                    ("outcome", "failed".into()),
                ])
            }),
        ),
        (
            "dead letter",
            true,
            Box::new(|n| {
                of(&[(
                    "dead-letter",
                    groups[pick(n, groups.len() as i64) as usize].to_string(),
                )])
            }),
        ),
        (
            "correlation id",
            true,
            Box::new(|n| of(&[("correlation-id", ids[n as usize].0.clone())])),
        ),
        (
            "job, queue",
            true,
            Box::new(|n| {
                of(&[
                    ("job", id(n).to_string()),
                    ("queue", ids[n as usize].1.clone()),
                ])
            }),
        ),
        ("job", true, Box::new(|n| of(&[("job", id(n).to_string())]))),
        (
            "data, a value of ten",
            true,
            Box::new(|n| of(&[]).with_data("lead.id", &(id(n) / 20).to_string())),
        ),
        (
            "data, a value of millions",
            true,
            Box::new(|n| of(&[]).with_data("country", &(n % 8).to_string())),
        ),
        (
            "data, queue, failed",
            true,
            Box::new(|n| {
                of(&[("queue", queue(n)), ("outcome", "failed".into())])
                    .with_data("country", &(n % 8).to_string())
            }),
        ),
        (
            "text, a day",
            true,
            Box::new(|n| {
                of(&[("text", format!("PARTNER {} refused", pick(n, 200)))]).on(world.day(n))
            }),
        ),
        (
            "text, anywhere",
            false,
            Box::new(|n| of(&[("text", format!("partner {} refused", pick(n, 200)))])),
        ),
        (
            "text, of one",
            false,
            Box::new(|n| of(&[("text", format!("lead {}:", id(n)))])),
        ),
        (
            "text, of none",
            false,
            Box::new(|n| of(&[("text", format!("no such text {n}"))])),
        ),
        (
            "revision",
            false,
            Box::new(|n| of(&[("revision", at(&revisions, n))])),
        ),
        (
            "plugin, platform",
            false,
            Box::new(|n| {
                of(&[
                    ("plugin", format!("plugin-{}", n % 10)),
                    ("platform", "partner".into()),
                ])
            }),
        ),
    ];
    for (name, has_target, wanted) in &kinds {
        let (mut times, mut found, mut partial) = (Vec::new(), 0, 0);
        for n in 0..SAMPLES {
            let (filter, terms) = wanted(n).read(connection).await?;
            let began = Instant::now();
            let page = world
                .store
                .search(
                    Selection {
                        prefix: PREFIX,
                        filter: &filter,
                        terms: &terms,
                    },
                    None,
                    PAGE,
                    PAGE_LIMIT,
                )
                .await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            found += page.rows.len();
            partial += usize::from(page.partial);
        }
        let target = if *has_target { Some(TARGET_MS) } else { None };
        report(
            name,
            times,
            target,
            &format!(
                "{:.0} rows, {partial} partial",
                found as f64 / SAMPLES as f64
            ),
        );
    }
    Ok(())
}

fn report(name: &str, times: Vec<f64>, target_ms: Option<f64>, more: &str) {
    let [p50, p95, most] = [0.5, 0.95, 1.0].map(|q| percentile(times.clone(), q));
    let target = target_ms
        .map(|target| format!("  {}", verdict(p95, target, false)))
        .unwrap_or_default();
    println!("  {name:<28} p50 {p50:>7.1}  p95 {p95:>7.1}  most {most:>7.1}  ({more}){target}");
}

/// One page after the other.
async fn pages(world: &World) -> anyhow::Result<()> {
    for (name, filter) in [
        ("next page, everything", of(&[])),
        (
            "next page, outcome=failed",
            of(&[("outcome", "failed".into())]),
        ),
    ] {
        let filter = Filter::from_pairs(filter.0)?;
        let selection = Selection {
            prefix: PREFIX,
            filter: &filter,
            terms: &[],
        };
        let (mut times, mut after): (_, Option<SearchCursor>) = (Vec::new(), None);
        for _ in 0..SAMPLES {
            let began = Instant::now();
            let page = world
                .store
                .search(selection, after.as_ref(), PAGE, PAGE_LIMIT)
                .await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            ensure!(page.rows.len() == PAGE, "a page is not full");
            after = page.next;
        }
        report(name, times, Some(TARGET_MS), "one after the other");
        let (mut times, mut jobs, mut after) = (Vec::new(), 0, None);
        for _ in 0..10 {
            let began = Instant::now();
            let page = world
                .store
                .matching_jobs(selection, after.as_ref(), 1_000, PAGE_LIMIT)
                .await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            jobs += page.rows.len();
            after = page.next;
        }
        report(
            &name.replace("next page", "1000 jobs"),
            times,
            None,
            &format!("{jobs} jobs"),
        );
    }
    Ok(())
}

async fn counts(world: &World, connection: &mut PgConnection) -> anyhow::Result<()> {
    let kinds: Vec<Kind<'_>> = vec![
        (
            "count, code",
            true,
            Box::new(|n| of(&[("code", format!("code-{}", pick(n, 200)))])),
        ),
        (
            "count, code, queue, a day",
            true,
            Box::new(|n| {
                of(&[
                    ("code", format!("code-{}", pick(n, 200))),
                    ("queue", format!("queue-{}", n % 30)),
                ])
                .on(world.day(n))
            }),
        ),
        (
            "count, failed, a day",
            true,
            Box::new(|n| of(&[("verdict", "fail".into())]).on(world.day(n))),
        ),
        (
            "count, failed",
            true,
            Box::new(|_| of(&[("verdict", "fail".into())])),
        ),
        (
            "count, data of millions",
            true,
            Box::new(|n| of(&[]).with_data("country", &(n % 8).to_string())),
        ),
        (
            "count, text",
            true,
            Box::new(|n| of(&[("text", format!("partner {} refused", pick(n, 200)))])),
        ),
        ("count, everything", true, Box::new(|_| of(&[]))),
    ];
    for (name, _, wanted) in &kinds {
        let (mut times, mut exact, mut jobs) = (Vec::new(), 0, 0);
        for n in 0..SAMPLES / 3 {
            let (filter, terms) = wanted(n).read(connection).await?;
            let began = Instant::now();
            let count = world
                .store
                .count(
                    Selection {
                        prefix: PREFIX,
                        filter: &filter,
                        terms: &terms,
                    },
                    COUNT_LIMIT,
                )
                .await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            exact += usize::from(count.exact);
            jobs = count.jobs;
        }
        report(
            name,
            times,
            Some(COUNT_TARGET_MS),
            &format!("{exact} of {} to the end; last {jobs} jobs", SAMPLES / 3),
        );
    }
    Ok(())
}
