//! `make bench`: ratios measured side by side in one run, as the median of interleaved pairs with its spread.
//!
//! Absolute figures belong to the machine; the ratios are what is claimed. Interleaving cancels what changes slowly (heat, neighbours).

mod deep;
mod enqueue;
mod instantiate;
mod jobs;
mod latency;
mod overview;
mod process;
mod statistics;
mod world;

use anyhow::Context;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Interleaved pairs per comparison; `PATCHBAY_BENCH_PAIRS` for a quick look.
fn pairs() -> usize {
    std::env::var("PATCHBAY_BENCH_PAIRS").ok().and_then(|text| text.parse().ok()).unwrap_or(15)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let pairs = pairs();
    let guest = std::fs::read(std::env::var("PATCHBAY_BENCH_GUEST").context("run this with `make bench`")?)?;
    if let Ok(who) = std::env::var("PATCHBAY_BENCH_PROFILE") {
        return jobs::profile(&world::World::new(true, &guest).await?, &who).await;
    }
    println!("{pairs} interleaved pairs per comparison; medians, and in brackets the quartiles");
    println!();
    instantiate::run(&guest, pairs).await?;
    for durable in [true, false] {
        let world = world::World::new(durable, &guest).await?;
        println!();
        println!("## Redis {}", if durable { "with an append-only file (everysec)" } else { "without persistence" });
        jobs::run(&world, pairs).await?;
        latency::run(&world, pairs).await?;
        if durable {
            enqueue::run(&world, pairs).await?;
            overview::run(&world, pairs).await?;
            deep::run(&world, pairs.min(5)).await?;
            process::run(&world, pairs).await?;
        }
    }
    Ok(())
}
