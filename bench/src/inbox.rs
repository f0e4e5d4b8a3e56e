//! Taking a vendor's requests beside an Express receiver with BullMQ: the raw body, its HMAC, the id
//! of the event once in Postgres, a job with an id of its own, and then 200. Both use one Postgres
//! and one Redis, and both do the events' jobs, which are nothing, except where rates are compared.
//!
//! The host does more than the other: it runs the plugin in a fresh instance, keeps the request
//! sealed, answers as soon as that is durable, adds the job after that, and marks the row.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::manifest::Manifest;
use serde_json::json;
use sha2::Sha256;

use crate::api::{self, KEY, WARM_UP};
use crate::host_process::{HostProcess, Services};
use crate::load::{self, Answered, Connection};
use crate::statistics::{Spread, percentile, verdict};
use crate::world::World;

const PATH: &str = "/api/bench/events";
const QUEUE: &str = "benchEvents";
const SECRET: &str = "a signing secret of the benchmark";
const NAMES: [&str; 2] = ["ours", "express"];

/// Requests per second of the paced load.
const PACE: u32 = 500;
const PACED: Duration = Duration::from_secs(6);
const PACED_P99_MS: f64 = 50.0;

/// Connections and time of the fastest load.
const CONNECTIONS: usize = 64;
const FASTEST: Duration = Duration::from_secs(3);
const FASTER: f64 = 3.0;
/// The jobs of a sample must be in their queue so long after its end.
const ADDED: Duration = Duration::from_secs(60);

/// Genuine requests per second beside the forged ones.
const GENUINE: u32 = 50;
const FLOOD: Duration = Duration::from_secs(6);
const FLOOD_P99_MS: f64 = 250.0;

/// Makes requests with events that nobody has sent before.
#[derive(Clone)]
struct Events {
    next: Arc<AtomicU64>,
    secret: &'static str,
}

impl Events {
    fn request(&self) -> Vec<u8> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let note = "x".repeat(400);
        let body = format!(
            r#"{{"id":"evt-{n:012}","kind":"payment.captured","amount":129900,"currency":"INR","note":"{note}"}}"#
        );
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.secret.as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(body.as_bytes());
        let signature: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!(
            "POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nx-signature: sha256={signature}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

fn plugin() -> anyhow::Result<Vec<u8>> {
    let rate = json!({ "max": 20_000, "per_ms": 1_000 });
    let manifest = json!({
        "format": 1, "name": "hooks", "version": "1.0.0", "wit": "0.1",
        "queues": [{ "name": QUEUE, "concurrency": 10, "retention": { "completed": { "count": 1_000 } } }],
        "secrets": [{ "name": "SIGNING" }],
        "kv": { "prefixes": ["hooks:"] },
        "webhooks": [{
            "name": "events", "path": PATH, "queue": QUEUE, "rate": rate, "source_rate": rate,
            "check": { "hmac": {
                "header": "x-signature", "prefix": "sha256=", "hash": "sha256", "encoding": "hex", "secret": "SIGNING",
            } },
        }],
    });
    let manifest = Manifest::from_packed(manifest.to_string().as_bytes())?;
    let component = std::env::var("PATCHBAY_BENCH_HOOKS").context("run this with `make bench`")?;
    Ok(patchbay_runtime::pack(
        &std::fs::read(component)?,
        &manifest,
    )?)
}

/// Both receivers, with what they have taken so far.
struct Receivers {
    services: Services,
    host: HostProcess,
    _node: tokio::process::Child,
    sides: [SocketAddr; 2],
    accepted: [u64; 2],
    genuine: Events,
    forged: Events,
}

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    let mut receivers = Receivers::start(world).await?;
    println!("requests of vendors, 0.5 KB with an HMAC, events that are new");
    receivers.paced(pairs).await?;
    receivers.flooded(pairs).await?;
    receivers.as_fast_as_possible(pairs).await?;
    receivers.host.kill().await
}

impl Receivers {
    async fn start(world: &World) -> anyhow::Result<Self> {
        let services = Services::fresh("bench_inbox").await?;
        let settings = [("PATCHBAY_SECRETS_KEY", KEY.to_owned())];
        let host = HostProcess::start(&services, world.dir.path(), &settings, "/readyz").await?;
        let digest = host.push(plugin()?).await?;
        host.activate("hooks", &digest).await?;
        host.set_secret("hooks", "SIGNING", SECRET).await?;
        let (node, express) =
            api::express_app("bench-inbox.mjs", &services, &[("SIGNING", SECRET)]).await?;
        let events = |secret| Events {
            next: Arc::default(),
            secret,
        };
        let mut receivers = Self {
            sides: [host.address()?, express],
            services,
            host,
            _node: node,
            accepted: [0; 2],
            genuine: events(SECRET),
            forged: events("a secret that is wrong"),
        };
        receivers.settle_in().await?;
        Ok(receivers)
    }

    /// Until both sides take requests, and for some time after that.
    async fn settle_in(&mut self) -> anyhow::Result<()> {
        for side in 0..2 {
            let mut connection = Connection::open(self.sides[side]).await?;
            let started = Instant::now();
            while connection.ask(&self.genuine.request()).await? != 200 {
                let name = NAMES[side];
                ensure!(started.elapsed() < ADDED, "{name} takes no requests");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.accepted[side] += 1;
            // Both must refuse what is forged.
            let status = connection.ask(&self.forged.request()).await?;
            ensure!(status == 401, "{} answers {status}", NAMES[side]);
            self.fastest(side, WARM_UP * 2).await?;
            self.until_added().await?;
        }
        Ok(())
    }

    /// Sends as fast as it can; gives requests per second and the times.
    async fn fastest(
        &mut self,
        side: usize,
        lasts: Duration,
    ) -> anyhow::Result<(f64, Vec<Answered>)> {
        let (address, events) = (self.sides[side], self.genuine.clone());
        let (answered, took) = load::apart(move || {
            Box::pin(async move {
                let started = Instant::now();
                let next = move || events.request();
                let answered = load::as_fast_as_possible(address, CONNECTIONS, lasts, next).await?;
                Ok((answered, started.elapsed().as_secs_f64()))
            })
        })
        .await?;
        self.count(side, &answered)?;
        Ok((answered.len() as f64 / took, answered))
    }

    /// All must be accepted.
    fn count(&mut self, side: usize, answered: &[Answered]) -> anyhow::Result<()> {
        if let Some(other) = answered.iter().find(|one| one.status != 200) {
            let name = NAMES[side];
            anyhow::bail!("{name} has answered {} to a genuine request", other.status);
        }
        self.accepted[side] += answered.len() as u64;
        Ok(())
    }

    /// Waits until the jobs of all that was accepted are in their queue, and looks whether each
    /// request that was answered is kept; gives how long the jobs took.
    async fn until_added(&self) -> anyhow::Result<Duration> {
        let mut postgres = self.services.postgres().await?;
        let started = Instant::now();
        loop {
            let (kept, waiting): (i64, i64) = sqlx::query_as(
                "select count(*), count(*) filter (where state = 'accepted') + (select count(*) from patchbay.inbox_jobs) \
                 from patchbay.inbox where state <> 'rejected'",
            )
            .fetch_one(&mut postgres)
            .await?;
            if waiting == 0 {
                let accepted = self.accepted[0];
                ensure!(
                    kept as u64 == accepted,
                    "{accepted} were accepted, {kept} are kept"
                );
                break;
            }
            ensure!(
                started.elapsed() < ADDED,
                "{waiting} jobs are not in their queue"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = started.elapsed();
        let kept: i64 = sqlx::query_scalar("select count(*) from webhook_events")
            .fetch_one(&mut postgres)
            .await?;
        let accepted = self.accepted[1];
        ensure!(
            kept as u64 == accepted,
            "{accepted} were accepted by Express, {kept} are kept"
        );
        Ok(took)
    }

    async fn paced(&mut self, pairs: usize) -> anyhow::Result<()> {
        let mut middles: [Vec<f64>; 2] = Default::default();
        let mut tails: [Vec<f64>; 2] = Default::default();
        for pair in 0..pairs {
            for turn in 0..2 {
                let i = (turn + pair) % 2;
                let (side, events) = (self.sides[i], self.genuine.clone());
                let answered = load::apart(move || {
                    Box::pin(load::paced(side, PACE, PACED, move || events.request()))
                })
                .await?;
                self.count(i, &answered)?;
                let times: Vec<f64> = answered.iter().map(|one| one.ms).collect();
                middles[i].push(percentile(times.clone(), 0.5));
                tails[i].push(percentile(times, 0.99));
                self.until_added().await?;
            }
        }
        let [ours, theirs] = middles.map(Spread::of);
        let [our_tail, their_tail] = tails.map(Spread::of);
        println!("  {PACE}/s, jobs done beside them");
        println!("    p50: ours {ours} ms, express {theirs} ms");
        println!(
            "    p99: ours {our_tail} ms, express {their_tail} ms  {}",
            verdict(our_tail.median, PACED_P99_MS, false)
        );
        Ok(())
    }

    async fn flooded(&mut self, pairs: usize) -> anyhow::Result<()> {
        let mut tails: [Vec<f64>; 2] = Default::default();
        let mut floods: [Vec<f64>; 2] = Default::default();
        for pair in 0..pairs {
            for turn in 0..2 {
                let i = (turn + pair) % 2;
                let (side, genuine, forged) =
                    (self.sides[i], self.genuine.clone(), self.forged.clone());
                let (flood, answered) = load::apart(move || {
                    Box::pin(async move {
                        tokio::try_join!(
                            load::as_fast_as_possible(side, CONNECTIONS, FLOOD, move || forged
                                .request()),
                            load::paced(side, GENUINE, FLOOD, move || genuine.request()),
                        )
                    })
                })
                .await?;
                self.count(i, &answered)?;
                let passed = flood.iter().filter(|one| one.status == 200).count();
                ensure!(passed == 0, "{} takes forged requests", NAMES[i]);
                floods[i].push(flood.len() as f64 / FLOOD.as_secs_f64());
                tails[i].push(percentile(
                    answered.iter().map(|one| one.ms).collect(),
                    0.99,
                ));
                self.until_added().await?;
            }
        }
        let [ours, theirs] = floods.map(Spread::of);
        let [our_tail, their_tail] = tails.map(Spread::of);
        println!(
            "  {GENUINE}/s beside forged ones on {CONNECTIONS} connections; all genuine ones were accepted"
        );
        println!("    forged: ours {ours}/s, express {theirs}/s");
        println!(
            "    p99 of the genuine: ours {our_tail} ms, express {their_tail} ms  {}",
            verdict(our_tail.median, FLOOD_P99_MS, false)
        );
        Ok(())
    }

    /// The jobs wait meanwhile, on both sides.
    async fn as_fast_as_possible(&mut self, pairs: usize) -> anyhow::Result<()> {
        self.host.pause(QUEUE, true).await?;
        let mut connection = Connection::open(self.sides[1]).await?;
        let pause = b"POST /pause HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n";
        ensure!(
            connection.ask(pause).await? == 200,
            "Express does not pause"
        );
        let mut rates: [Vec<f64>; 2] = Default::default();
        let mut tails: [Vec<f64>; 2] = Default::default();
        let mut delays = Vec::new();
        for pair in 0..pairs {
            for turn in 0..2 {
                let i = (turn + pair) % 2;
                let (rate, answered) = self.fastest(i, FASTEST).await?;
                rates[i].push(rate);
                tails[i].push(percentile(
                    answered.iter().map(|one| one.ms).collect(),
                    0.99,
                ));
                let delay = self.until_added().await?;
                if i == 0 {
                    delays.push(delay.as_secs_f64() * 1e3);
                }
            }
        }
        let ratio = Spread::of(rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b).collect());
        let [ours, theirs] = rates.map(Spread::of);
        let [our_tail, their_tail] = tails.map(Spread::of);
        println!("  as fast as possible, {CONNECTIONS} connections");
        println!("    ours {ours}/s, express {theirs}/s");
        println!(
            "    ours / express {ratio}  {}",
            verdict(ratio.median, FASTER, true)
        );
        println!("    p99: ours {our_tail} ms, express {their_tail} ms");
        println!(
            "    ours: the last jobs were in their queue {} ms after the end of a sample",
            Spread::of(delays)
        );
        Ok(())
    }
}
