//! From adding a job to its completion, on an idle queue.

use std::time::{Duration, Instant};

use anyhow::Context;
use redis::AsyncCommands;
use redis::streams::{StreamReadOptions, StreamReadReply};

use crate::jobs::job;
use crate::statistics::{Spread, percentile, verdict};
use crate::world::{QUEUE, Who, World};

/// Jobs per sample.
const JOBS: usize = 100;

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    let mut ours = Vec::new();
    let mut node = Vec::new();
    for pair in 0..=pairs {
        let order = if pair % 2 == 0 {
            [Who::Wasm, Who::Node]
        } else {
            [Who::Node, Who::Wasm]
        };
        for who in order {
            let times = sample(world, who).await?;
            if pair > 0 {
                if who == Who::Wasm {
                    ours.push(times)
                } else {
                    node.push(times)
                }
            }
        }
    }
    let of = |samples: &[Vec<f64>], q: f64| -> Vec<f64> {
        samples
            .iter()
            .map(|times| percentile(times.clone(), q))
            .collect()
    };
    println!(
        "from adding to completion, concurrency 10, one job at a time ({JOBS} jobs per sample), ms"
    );
    for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
        let (a, b) = (of(&ours, q), of(&node, q));
        let ratio = Spread::of(a.iter().zip(&b).map(|(a, b)| a / b).collect());
        let target = if name == "p50" {
            format!("  {}", verdict(ratio.median, 0.7, false))
        } else {
            String::new()
        };
        println!(
            "  {name}: ours {}, node {}, ours / node {ratio}{target}",
            Spread::of(a),
            Spread::of(b)
        );
    }
    Ok(())
}

async fn sample(world: &World, who: Who) -> anyhow::Result<Vec<f64>> {
    let queues = world.fresh_queues().await?;
    let worker = world.start(who, &queues, 10).await?;
    let events = format!("{}:{QUEUE}:events", world.prefix(&queues));
    let mut redis = world.redis().await?;
    let mut last = "0".to_owned();
    let mut times = Vec::with_capacity(JOBS);
    // The first ten find out that a worker is there.
    for n in 0..JOBS + 10 {
        let started = Instant::now();
        queues.add(vec![job(0, 0)]).await?;
        last = completed(&mut redis, &events, last).await?;
        if n >= 10 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        // The worker is waiting again, as on an idle queue.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.stop(worker).await?;
    world.flush().await?;
    Ok(times)
}

/// The place in the stream behind the next `completed` event.
async fn completed(
    redis: &mut redis::aio::MultiplexedConnection,
    events: &str,
    mut last: String,
) -> anyhow::Result<String> {
    loop {
        let options = StreamReadOptions::default().block(400);
        let reply: Option<StreamReadReply> =
            redis.xread_options(&[events], &[&last], &options).await?;
        for entry in reply
            .into_iter()
            .flat_map(|reply| reply.keys)
            .flat_map(|key| key.ids)
        {
            last = entry.id.clone();
            let event: String = entry.get("event").context("an event")?;
            if event == "completed" {
                return Ok(last);
            }
        }
    }
}
