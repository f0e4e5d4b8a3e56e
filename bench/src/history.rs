//! The history: how fast attempts get from Redis to Postgres, and what recording costs the jobs.

use std::time::Instant;

use patchbay_model::attempt::{AttemptRecord, Source, VerdictKind};
use patchbay_model::job::JobKey;
use patchbay_model::outcome::OutcomeKind;
use patchbay_work::body_budget::Recording;

use crate::jobs::rate_recording;
use crate::statistics::{Spread, verdict};
use crate::world::{Copying, EVERYTHING, QUEUE, Who, World};

const OFF: Recording = Recording {
    attempts: false,
    ..EVERYTHING
};
/// Attempts per round of copying.
const ATTEMPTS: u64 = 20_000;
/// Attempts per second that copying is to keep up with.
const INGEST: f64 = 5_000.0;

/// Name, milliseconds of computing, concurrency, jobs, target for on/off.
const CASES: [(&str, u64, usize, usize, f64); 2] = [
    ("no-op, concurrency 10", 0, 10, 20_000, 0.75),
    ("5 ms of computing, concurrency 10", 5, 10, 400, 0.95),
];

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    for (name, has_body) in [
        ("outcomes", false),
        ("outcomes, and 0.5 KB of data and a result, sealed", true),
    ] {
        let mut rates = Vec::new();
        for round in 0..=pairs {
            let rate = ingest(world, has_body, round as u64).await?;
            // The first round warms everything up.
            if round > 0 {
                rates.push(rate);
            }
        }
        let rate = Spread::of(rates);
        println!("attempts from the stream to Postgres per second: {name}");
        println!("  {rate}/s  {}", verdict(rate.median, INGEST, true));
    }
    println!("jobs per second, history on (data and results kept) and off");
    for (name, ms, concurrency, jobs, target) in CASES {
        let ways = [
            (EVERYTHING, Copying::Meanwhile),
            (EVERYTHING, Copying::Never),
            (OFF, Copying::Never),
        ];
        let mut rates: [Vec<f64>; 3] = Default::default();
        for pair in 0..=pairs {
            for turn in 0..3 {
                let i = (turn + pair) % 3;
                let (recording, copying) = ways[i];
                let rate =
                    rate_recording(world, Who::Wasm, ms, concurrency, jobs, recording, copying)
                        .await?;
                if pair > 0 {
                    rates[i].push(rate);
                }
            }
        }
        let to_off = |i: usize| {
            Spread::of(
                rates[i]
                    .iter()
                    .zip(&rates[2])
                    .map(|(on, off)| on / off)
                    .collect(),
            )
        };
        let (all, own) = (to_off(0), to_off(1));
        let [on, uncopied, off] = rates.map(Spread::of);
        println!("  {name}");
        println!("    on {on}/s, on and not copied {uncopied}/s, off {off}/s");
        println!("    on / off {all}  {}", verdict(all.median, target, true));
        println!("    of that without copying: {own}");
    }
    Ok(())
}

/// Fills a stream as settlements do, and copies it.
async fn ingest(world: &World, has_body: bool, round: u64) -> anyhow::Result<f64> {
    let queues = world.fresh_queues().await?;
    let mut redis = world.redis().await?;
    // What `fresh_queues` has just numbered: its own prefix differs from BullMQ's by the first
    // letter.
    let key = format!("{}:attempts", queues.prefix().replacen('b', "p", 1));
    let data = format!(r#"{{"ms":0,"filler":"{}"}}"#, "x".repeat(480));
    for some in (0..ATTEMPTS).collect::<Vec<_>>().chunks(1_000) {
        let mut pipe = redis::pipe();
        for n in some {
            let add = pipe
                .cmd("XADD")
                .arg(&key)
                .arg("*")
                .arg("r")
                .arg(serde_json::to_string(&record(&queues, *n, round)?)?);
            if has_body {
                add.arg("d").arg(&data).arg("v").arg("null");
            }
            add.ignore();
        }
        let () = pipe.query_async(&mut redis).await?;
    }
    let started = Instant::now();
    let copied =
        patchbay_app::history::recorder::flush(queues.attempts(), &world.store, &world.bodies)
            .await?;
    let rate = copied as f64 / started.elapsed().as_secs_f64();
    anyhow::ensure!(
        copied as u64 == ATTEMPTS,
        "{copied} of {ATTEMPTS} attempts were copied"
    );
    world.flush().await?;
    Ok(rate)
}

/// One of twenty has failed.
fn record(queues: &patchbay_queue::Broker, n: u64, round: u64) -> anyhow::Result<AttemptRecord> {
    let now = std::time::SystemTime::now().into();
    let failed = n.is_multiple_of(20);
    Ok(AttemptRecord {
        job: JobKey {
            prefix: queues.prefix().to_owned(),
            queue: QUEUE.parse()?,
            id: n.to_string().parse()?,
            created_ms: round,
        },
        started: 1,
        attempt: 1,
        name: "noop".into(),
        plugin: Some("hostile".parse()?),
        revision: Some(patchbay_model::RevisionDigest::of(b"bench")),
        host: "bench:1".into(),
        started_at: now,
        finished_at: now,
        outcome: if failed {
            OutcomeKind::Failed
        } else {
            OutcomeKind::Completed
        },
        verdict: if failed {
            VerdictKind::Fail
        } else {
            VerdictKind::Complete
        },
        code: failed.then(|| "bench".into()),
        message: failed.then(|| format!("lead {n} is not there")),
        stack: None,
        correlation_id: format!("job:{QUEUE}:{n}"),
        source: Source::Host,
        platform: None,
        parent: None,
        calls: Vec::new(),
        stalled: 0,
        values: Vec::new(),
        body: None,
    })
}
