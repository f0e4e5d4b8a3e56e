//! Whether a deep queue is slower than a shallow one.

use std::time::{Duration, Instant};

use anyhow::bail;
use patchbay_queue::Broker;

use crate::jobs::add;
use crate::statistics::{Spread, verdict};
use crate::world::{QUEUE, Who, World};

const DEEP: usize = 1_000_000;
const SHALLOW: usize = 10_000;
/// Jobs per sample; what is taken is put back.
const JOBS: usize = 2_000;

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    let queues = [world.fresh_queues().await?, world.fresh_queues().await?];
    for (queues, depth) in queues.iter().zip([DEEP, SHALLOW]) {
        add(queues, 0, 0, depth).await?;
    }
    let (mut deep, mut shallow) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let mut times = [0.0; 2];
        for turn in 0..2 {
            let i = (turn + pair) % 2;
            times[i] = sample(world, &queues[i]).await?;
        }
        if pair > 0 {
            deep.push(times[0]);
            shallow.push(times[1]);
        }
    }
    let ratio = Spread::of(
        deep.iter()
            .zip(&shallow)
            .map(|(deep, shallow)| deep / shallow)
            .collect(),
    );
    println!("taking and settling a job (native, concurrency 10), µs");
    println!(
        "  with {DEEP} waiting {}, with {SHALLOW} waiting {}, ratio {ratio}  {}",
        Spread::of(deep),
        Spread::of(shallow),
        verdict(ratio.median, 1.2, false)
    );
    world.flush().await
}

async fn sample(world: &World, queues: &Broker) -> anyhow::Result<f64> {
    let completed = format!("{}:{QUEUE}:completed", world.prefix(queues));
    let mut redis = world.redis().await?;
    let before: usize = redis::cmd("ZCARD")
        .arg(&completed)
        .query_async(&mut redis)
        .await?;
    let worker = world.start(Who::Native, queues, 10).await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut first: Option<(Instant, usize)> = None;
    let per_job = loop {
        let done: usize = redis::cmd("ZCARD")
            .arg(&completed)
            .query_async::<usize>(&mut redis)
            .await?
            - before;
        let now = Instant::now();
        match first {
            None if done > 0 => first = Some((now, done)),
            Some((since, at)) if done >= JOBS => {
                break (now - since).as_secs_f64() * 1e6 / (done - at) as f64;
            }
            _ if now > deadline => bail!("{done} of {JOBS} jobs in a minute"),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    world.stop(worker).await?;
    let after: usize = redis::cmd("ZCARD")
        .arg(&completed)
        .query_async(&mut redis)
        .await?;
    add(queues, 0, 0, after - before).await?;
    Ok(per_job)
}
