//! What looking at queues costs: fifty at once, with the age of the oldest job of each.

use std::time::Instant;

use patchbay_model::QueueName;
use patchbay_model::job::NewJob;

use crate::statistics::{Spread, verdict};
use crate::world::World;

const QUEUES: usize = 50;
const JOBS: usize = 200;

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    let queues = world.fresh_queues().await?;
    let names: Vec<QueueName> = (0..QUEUES).map(|n| format!("queue{n}").parse()).collect::<Result<_, _>>()?;
    for name in &names {
        queues.add((0..JOBS).map(|_| NewJob::new(name.clone(), "noop", "{}")).collect()).await?;
    }
    let mut times = Vec::new();
    for _ in 0..pairs * 10 {
        let started = Instant::now();
        let overview = queues.overview(&names).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(
            overview.iter().all(|queue| queue.oldest_waiting_ms.is_some()),
            "every queue has an oldest job"
        );
    }
    let times = Spread::of(times);
    println!("counts and oldest ages of {QUEUES} queues: {times} ms  {}", verdict(times.median, 5.0, false));
    world.flush().await
}
