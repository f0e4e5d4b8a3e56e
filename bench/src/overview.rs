//! What looking at queues costs: fifty at once, with the age of the oldest job of each, when they
//! are deep and when they are shallow.

use std::time::Instant;

use patchbay_model::QueueName;
use patchbay_model::job::NewJob;
use patchbay_queue::Broker;

use crate::statistics::{Spread, verdict};
use crate::world::World;

const QUEUES: usize = 50;
/// Jobs per call while filling them.
const BULK: usize = 1_000;
/// Waiting jobs over all queues.
const DEEP: usize = 1_000_000;
const SHALLOW: usize = 10_000;

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    let names: Vec<QueueName> = (0..QUEUES)
        .map(|n| format!("queue{n}").parse())
        .collect::<Result<_, _>>()?;
    let sides = [world.fresh_queues().await?, world.fresh_queues().await?];
    for (queues, jobs) in sides.iter().zip([DEEP, SHALLOW]) {
        for name in &names {
            for _ in 0..(jobs / QUEUES).div_ceil(BULK) {
                let jobs =
                    (0..BULK.min(jobs / QUEUES)).map(|_| NewJob::new(name.clone(), "noop", "{}"));
                queues.add(jobs.collect()).await?;
            }
        }
    }
    let mut times = [Vec::new(), Vec::new()];
    for pair in 0..pairs * 10 {
        for turn in 0..2 {
            let i = (turn + pair) % 2;
            times[i].push(look(&sides[i], &names).await?);
        }
    }
    let ratio = Spread::of(
        times[0]
            .iter()
            .zip(&times[1])
            .map(|(deep, shallow)| deep / shallow)
            .collect(),
    );
    let [deep, shallow] = times.map(Spread::of);
    println!("counts and oldest ages of {QUEUES} queues, ms");
    println!(
        "  with {DEEP} waiting {deep}  {}; with {SHALLOW} waiting {shallow}; ratio {ratio}  {}",
        verdict(deep.median, 5.0, false),
        verdict(ratio.median, 1.2, false)
    );
    world.flush().await
}

async fn look(queues: &Broker, names: &[QueueName]) -> anyhow::Result<f64> {
    let started = Instant::now();
    let overview = queues.overview(names).await?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    anyhow::ensure!(
        overview
            .iter()
            .all(|queue| queue.oldest_waiting_ms.is_some()),
        "every queue has an oldest job"
    );
    Ok(took)
}
