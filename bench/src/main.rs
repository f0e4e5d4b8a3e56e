//! `make bench`: ratios measured side by side in one run, as the median of interleaved pairs with
//! its spread.
//!
//! Absolute figures belong to the machine; the ratios are what is claimed. Interleaving cancels
//! what changes slowly (heat, neighbours).

mod api;
mod capabilities;
mod deep;
mod email;
mod enqueue;
mod history;
mod host_process;
mod inbox;
#[cfg(feature = "extism")]
mod instantiate;
mod job_call;
mod jobs;
mod latency;
mod load;
mod many_plugins;
mod overview;
mod process;
mod push;
mod routes;
mod search;
mod servers;
mod statistics;
mod world;

use anyhow::{Context, ensure};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Those that need no Redis of their own.
const ALONE: [&str; 4] = ["instantiate", "capabilities", "push", "start"];
/// Only when it is named: it fills a database for minutes.
const ON_REQUEST: &str = "search";
/// Those that are measured with Redis set up in two ways; all but the first two in the first only.
const WITH_REDIS: [&str; 10] = [
    "jobs", "latency", "enqueue", "overview", "deep", "process", "history", "api", "routes",
    "inbox",
];

/// Interleaved pairs per comparison; `PATCHBAY_BENCH_PAIRS` for a quick look.
fn pairs() -> usize {
    std::env::var("PATCHBAY_BENCH_PAIRS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(15)
}

fn environment(name: &str) -> anyhow::Result<String> {
    std::env::var(name).context("run this with `make bench`")
}

/// What to measure: all, or what `PATCHBAY_BENCH_ONLY` names, separated by commas.
struct Sections(Option<Vec<String>>);

impl Sections {
    fn chosen() -> anyhow::Result<Self> {
        let Ok(text) = std::env::var("PATCHBAY_BENCH_ONLY") else {
            return Ok(Self(None));
        };
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        let known = |name: &String| {
            name == ON_REQUEST || ALONE.iter().chain(&WITH_REDIS).any(|known| known == name)
        };
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            anyhow::bail!(
                "PATCHBAY_BENCH_ONLY: there is no {unknown:?}, but {}, {}, {ON_REQUEST}",
                ALONE.join(", "),
                WITH_REDIS.join(", ")
            );
        }
        Ok(Self(Some(names)))
    }

    fn names(&self, section: &str) -> bool {
        self.0
            .as_ref()
            .is_some_and(|names| names.iter().any(|name| name == section))
    }

    fn wants(&self, section: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name == section))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if std::env::args().nth(1).as_deref() == Some(routes::NATIVE) {
        return routes::serve_natively().await;
    }
    let (pairs, sections) = (pairs(), Sections::chosen()?);
    let guest = std::fs::read(environment("PATCHBAY_BENCH_GUEST")?)?;
    if let Ok(who) = std::env::var("PATCHBAY_BENCH_PROFILE") {
        return jobs::profile(&world::World::new(true, &guest).await?, &who).await;
    }
    ensure!(pairs > 0, "PATCHBAY_BENCH_PAIRS is at least 1");
    println!("{pairs} interleaved pairs per comparison; medians, and in brackets the quartiles");
    println!();
    if sections.wants("instantiate") {
        #[cfg(feature = "extism")]
        instantiate::run(&guest, pairs).await?;
        #[cfg(not(feature = "extism"))]
        println!("instantiate: not measured, since this was built without Extism");
    }
    if sections.wants("capabilities") {
        capabilities::run(pairs).await?;
    }
    if sections.wants("push") {
        push::run(pairs).await?;
    }
    if sections.wants("start") {
        many_plugins::run(pairs).await?;
    }
    if sections.names(ON_REQUEST) {
        search::run(&environment("PATCHBAY_TEST_DATABASE_URL")?).await?;
    }
    for durable in [true, false] {
        let here = if durable {
            &WITH_REDIS[..]
        } else {
            &WITH_REDIS[..2]
        };
        if !here.iter().any(|section| sections.wants(section)) {
            continue;
        }
        let world = world::World::new(durable, &guest).await?;
        println!();
        println!(
            "## Redis {}",
            if durable {
                "with an append-only file (everysec)"
            } else {
                "without persistence"
            }
        );
        for section in here.iter().filter(|section| sections.wants(section)) {
            match *section {
                "jobs" => jobs::run(&world, pairs).await?,
                "latency" => latency::run(&world, pairs).await?,
                "enqueue" => enqueue::run(&world, pairs).await?,
                "overview" => overview::run(&world, pairs).await?,
                "history" => history::run(&world, pairs).await?,
                "api" => api::run(&world, pairs).await?,
                "routes" => routes::run(&world, pairs).await?,
                "inbox" => inbox::run(&world, pairs).await?,
                "deep" => deep::run(&world, pairs.min(5)).await?,
                _ => process::run(&world, pairs).await?,
            }
        }
    }
    Ok(())
}
