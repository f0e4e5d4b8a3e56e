//! Adding jobs, one after another and in bulk, beside Node's producer.

use std::time::{Duration, Instant};

use crate::jobs::job;
use crate::statistics::Spread;
use crate::world::World;

/// Name, jobs, jobs at once.
const CASES: [(&str, usize, usize); 2] =
    [("one at a time", 1_000, 1), ("500 at a time", 10_000, 500)];

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    println!("adding jobs per second (0.5 KB of data)");
    for (name, jobs, bulk) in CASES {
        let (mut ours, mut node) = (Vec::new(), Vec::new());
        for pair in 0..=pairs {
            let mut times = [Duration::ZERO; 2];
            for turn in 0..2 {
                let i = (turn + pair) % 2;
                let queues = world.fresh_queues().await?;
                times[i] = if i == 0 {
                    let started = Instant::now();
                    for _ in 0..jobs / bulk {
                        queues.add((0..bulk).map(|_| job(0, 0)).collect()).await?;
                    }
                    started.elapsed()
                } else {
                    world.add_by_node(&queues, jobs, bulk).await?
                };
                world.flush().await?;
            }
            if pair > 0 {
                ours.push(jobs as f64 / times[0].as_secs_f64());
                node.push(jobs as f64 / times[1].as_secs_f64());
            }
        }
        let ratio = Spread::of(
            ours.iter()
                .zip(&node)
                .map(|(ours, node)| ours / node)
                .collect(),
        );
        println!(
            "  {name}: ours {}/s, node {}/s, ours / node {ratio}",
            Spread::of(ours),
            Spread::of(node)
        );
    }
    Ok(())
}
