//! Jobs per second.

use std::time::{Duration, Instant};

use anyhow::bail;
use patchbay_model::job::NewJob;
use patchbay_queue::Broker;
use patchbay_work::body_budget::Recording;

use crate::statistics::{Spread, verdict};
use crate::world::{Copying, EVERYTHING, QUEUE, Who, World};

/// Adding in one go is bounded by the host's own limit on a transaction.
const CHUNK: usize = 500;

/// Name, milliseconds of computing, concurrency, jobs, targets for wasm/native and wasm/node.
type Case = (&'static str, u64, usize, usize, Option<f64>, Option<f64>);

const CASES: [Case; 4] = [
    ("no-op, concurrency 1", 0, 1, 600, Some(0.75), Some(1.0)),
    ("no-op, concurrency 10", 0, 10, 3_000, Some(0.85), Some(0.9)),
    (
        "no-op, concurrency 100",
        0,
        100,
        3_000,
        Some(0.85),
        Some(0.9),
    ),
    (
        "5 ms of computing, concurrency 10",
        5,
        10,
        300,
        None,
        Some(1.7),
    ),
];

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    println!("jobs per second (0.5 KB of data, attempts recorded)");
    for (name, ms, concurrency, jobs, native_target, node_target) in CASES {
        let everybody = [Who::Wasm, Who::Native, Who::Node];
        let mut rates: [Vec<f64>; 3] = Default::default();
        for pair in 0..=pairs {
            // Each goes first equally often.
            for turn in 0..3 {
                let i = (turn + pair) % 3;
                let rate = rate(world, everybody[i], ms, concurrency, jobs).await?;
                // The first round warms everything up.
                if pair > 0 {
                    rates[i].push(rate);
                }
            }
        }
        let ratio = |other: usize| {
            Spread::of(
                rates[0]
                    .iter()
                    .zip(&rates[other])
                    .map(|(wasm, other)| wasm / other)
                    .collect(),
            )
        };
        let [wasm, native, node] = [0, 1, 2].map(|i| Spread::of(rates[i].clone()));
        println!("  {name}");
        println!("    wasm {wasm}/s, native {native}/s, node {node}/s");
        let (to_native, to_node) = (ratio(1), ratio(2));
        let target = |ratio: Spread, target: Option<f64>| {
            target.map_or(String::new(), |t| {
                format!("  {}", verdict(ratio.median, t, true))
            })
        };
        println!(
            "    wasm / native {to_native}{}",
            target(to_native, native_target)
        );
        println!(
            "    wasm / node   {to_node}{}",
            target(to_node, node_target)
        );
    }
    Ok(())
}

/// No-ops by one side alone, for a profiler to watch: `PATCHBAY_BENCH_PROFILE=wasm`, `native` or
/// `node`.
pub async fn profile(world: &World, who: &str) -> anyhow::Result<()> {
    let who = match who {
        "wasm" => Who::Wasm,
        "native" => Who::Native,
        "node" => Who::Node,
        other => bail!("nobody is called {other}"),
    };
    for _ in 0..5 {
        let jobs = 30_000;
        let before = (world.redis_cpu()?, own_cpu()?);
        let rate = rate(world, who, 0, 10, jobs).await?;
        let per_job = |now: f64, before: f64| (now - before) * 1e6 / jobs as f64;
        let (redis, own) = (
            per_job(world.redis_cpu()?, before.0),
            per_job(own_cpu()?, before.1),
        );
        println!(
            "{who:?}: {rate:.0} jobs/s; processor time per job, adding included: Redis {redis:.0} µs, this process {own:.0} µs"
        );
    }
    Ok(())
}

fn own_cpu() -> anyhow::Result<f64> {
    cpu_seconds(std::process::id())
}

/// Of a process, since its start.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the command's name, which may hold anything: user and system time are the 12th and
    // 13th, in ticks of 10 ms.
    let fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|text| text.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 / 100.0)
}

/// From a tenth of the jobs on, so that starting a worker does not count.
async fn rate(
    world: &World,
    who: Who,
    ms: u64,
    concurrency: usize,
    jobs: usize,
) -> anyhow::Result<f64> {
    rate_recording(
        world,
        who,
        ms,
        concurrency,
        jobs,
        EVERYTHING,
        Copying::Meanwhile,
    )
    .await
}

/// The same, of which only so much is recorded.
pub async fn rate_recording(
    world: &World,
    who: Who,
    ms: u64,
    concurrency: usize,
    jobs: usize,
    recording: Recording,
    copying: Copying,
) -> anyhow::Result<f64> {
    let queues = world.fresh_queues().await?;
    add(&queues, ms, ms * world.wasm_per_ms, jobs).await?;
    let completed = format!("{}:{QUEUE}:completed", world.prefix(&queues));
    let mut redis = world.redis().await?;
    let worker = world
        .start_recording(who, &queues, concurrency, recording, copying)
        .await?;
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut first: Option<(Instant, usize)> = None;
    let rate = loop {
        let done: usize = redis::cmd("ZCARD")
            .arg(&completed)
            .query_async(&mut redis)
            .await?;
        let now = Instant::now();
        match first {
            None if done >= jobs / 10 => first = Some((now, done)),
            Some((since, before)) if done >= jobs => {
                break (done - before) as f64 / (now - since).as_secs_f64();
            }
            _ if now > deadline => {
                let failed: usize = redis::cmd("ZCARD")
                    .arg(completed.replace("completed", "failed"))
                    .query_async(&mut redis)
                    .await?;
                bail!("{who:?} completed {done} of {jobs} jobs in two minutes, and {failed} failed")
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    world.stop(worker).await?;
    world.flush().await?;
    Ok(rate)
}

pub fn job(ms: u64, iterations: u64) -> NewJob {
    let filler = "x".repeat(480);
    let name = if ms > 0 { "compute" } else { "noop" };
    let data = format!(r#"{{"ms":{ms},"iterations":{iterations},"filler":"{filler}"}}"#);
    // A neighbour on the machine can stop both processors for longer than the guest's deadline.
    let attempts = (ms > 0).then_some(3);
    NewJob {
        attempts,
        ..NewJob::new(QUEUE.parse().expect("a queue name"), name, data)
    }
}

pub async fn add(queues: &Broker, ms: u64, iterations: u64, jobs: usize) -> anyhow::Result<()> {
    for chunk in (0..jobs).collect::<Vec<_>>().chunks(CHUNK) {
        queues
            .add(chunk.iter().map(|_| job(ms, iterations)).collect())
            .await?;
    }
    Ok(())
}
