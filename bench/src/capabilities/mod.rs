//! What a capability costs a guest: so many calls within one call of the plugin, timed by the
//! guest, beside the same calls in native Rust with the same client library against the same
//! servers.

mod native;

use std::time::Duration;

use anyhow::{Context, bail};
use patchbay_model::job::NewJob;
use patchbay_model::manifest::Manifest;
use patchbay_queue::Broker;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use serde_json::{Value, json};

use self::native::Native;
use crate::environment;
use crate::host_process::{HostProcess, Services};
use crate::servers::Servers;
use crate::statistics::Spread;

const MANIFEST: &str = include_str!("../../../tests/guests/capabilities/plugin.toml");
const SCHEMA: &str = include_str!("../../../tests/guests/capabilities/settings.schema.json");
const QUEUE: &str = "benchCalls";
const SECRET: &str = "a secret of some thirty-two chars";

/// Capability and calls per sample: some milliseconds of them.
const CASES: [(&str, u32); 15] = [
    ("log.write", 500),
    ("progress.report", 1_000),
    ("settings.get", 1_000),
    ("secrets.sign-hmac", 1_000),
    ("secrets.verify-hmac", 1_000),
    // With the one that does not count, as many as a call of a plugin may.
    ("secrets.matches", 7),
    ("http.send", 100),
    ("kv.get", 200),
    ("kv.set", 200),
    ("queue.enqueue", 200),
    ("flows.enqueue", 100),
    ("sql.query", 100),
    ("sql.execute", 100),
    ("sql.batch", 50),
    ("smtp.send", 50),
];

pub async fn run(pairs: usize) -> anyhow::Result<()> {
    let services = Services::fresh("capabilities").await?;
    let dir = tempfile::tempdir()?;
    let payload = "x".repeat(500);
    let servers = Servers::start(payload.clone(), &dir.path().join("mail"))?;
    native::make_table(&services).await?;
    let mut settings = servers.mail_settings().to_vec();
    settings.push(("PATCHBAY_SECRET_TOKEN", SECRET.into()));
    let host = HostProcess::start(&services, dir.path(), &settings, "/readyz").await?;
    let text = MANIFEST.replace("127.0.0.1:9/", &format!("{}/", servers.http));
    let manifest = Manifest::from_toml(&text, |_| Ok(SCHEMA.to_owned()))?;
    let component = std::fs::read(environment("PATCHBAY_BENCH_CAPABILITIES")?)?;
    let digest = host
        .push(patchbay_runtime::pack(&component, &manifest)?)
        .await?;
    host.activate("capabilities", &digest).await?;

    let url = format!("http://{}/data", servers.http);
    let mut guest = Guest {
        queues: services.queues().await?,
        redis: services.redis().await?,
        last: "0".into(),
    };
    let mut native =
        Native::connect(&services, &servers, url.clone(), payload.clone(), SECRET).await?;
    println!(
        "calls of capabilities, µs per call (0.5 KB of data; a new job, a guest's one call, for each sample)"
    );
    for (capability, calls) in CASES {
        let (mut ours, mut natives) = (Vec::new(), Vec::new());
        for pair in 0..=pairs {
            let mut times = [Duration::ZERO; 2];
            for turn in 0..2 {
                let i = (turn + pair) % 2;
                times[i] = if i == 0 {
                    let asked = json!({ "calls": calls, "url": url, "payload": payload });
                    guest
                        .sample(capability, &asked)
                        .await
                        .with_context(|| format!("{capability} by the guest"))?
                } else {
                    // On a thread of the pool, as the host's.
                    let sample = tokio::spawn(async move {
                        let took = native.sample(capability, calls).await;
                        (native, took)
                    });
                    let took;
                    (native, took) = sample.await?;
                    took.with_context(|| format!("{capability} natively"))?
                };
            }
            if pair > 0 {
                let per_call = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(calls);
                ours.push(per_call(times[0]));
                natives.push(per_call(times[1]));
            }
        }
        let pairwise = |f: fn(f64, f64) -> f64| {
            Spread::of(ours.iter().zip(&natives).map(|(a, b)| f(*a, *b)).collect())
        };
        let (ratio, more) = (pairwise(|a, b| a / b), pairwise(|a, b| a - b));
        let (ours, native) = (Spread::of(ours.clone()), Spread::of(natives.clone()));
        println!(
            "  {capability}: guest {ours}, native {native}, guest / native {ratio}, {more} more"
        );
    }
    Ok(())
}

/// The plugin on the host.
struct Guest {
    queues: Broker,
    redis: MultiplexedConnection,
    /// Place in the queue's stream of events.
    last: String,
}

impl Guest {
    async fn sample(&mut self, capability: &str, asked: &Value) -> anyhow::Result<Duration> {
        self.queues
            .add(vec![NewJob::new(
                QUEUE.parse()?,
                capability,
                asked.to_string(),
            )])
            .await?;
        let result: Value = serde_json::from_str(&self.result().await?)?;
        Ok(Duration::from_nanos(
            result["ns"].as_u64().context("a time")?,
        ))
    }

    /// Of the next job that ends.
    async fn result(&mut self) -> anyhow::Result<String> {
        loop {
            let options = StreamReadOptions::default().block(400);
            let events = format!("bull:{QUEUE}:events");
            let reply: Option<StreamReadReply> = self
                .redis
                .xread_options(&[events], &[&self.last], &options)
                .await?;
            for entry in reply
                .into_iter()
                .flat_map(|reply| reply.keys)
                .flat_map(|key| key.ids)
            {
                self.last.clone_from(&entry.id);
                let field = |name| entry.get::<String>(name).unwrap_or_default();
                match field("event").as_str() {
                    "completed" => return Ok(field("returnvalue")),
                    "failed" => bail!("{}", field("failedReason")),
                    _ => {}
                }
            }
        }
    }
}
