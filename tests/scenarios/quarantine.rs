//! A plugin that crashes repeatedly is quarantined before it has used up its jobs' attempts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::StatusCode;
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::Row;
use tokio::net::TcpListener;

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, hostile_plugin_with, until};
use crate::metrics::scrape;

const QUEUE: &str = "hostileQueue";
/// Four crashes of two jobs lead to quarantine, so three may use up an attempt.
const RULE: [(&str, &str); 3] = [
    ("PATCHBAY_QUARANTINE_CRASHES", "4"),
    ("PATCHBAY_QUARANTINE_CALLS", "8"),
    ("PATCHBAY_QUARANTINE_JOBS", "2"),
];

/// An outside host without a breaker, whose failures crash the guest; it also receives the alerts.
struct Upstream {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    posted: Arc<Mutex<Vec<Value>>>,
}

impl Upstream {
    async fn new(status: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (status, posted) = (
            Arc::new(AtomicU16::new(status)),
            Arc::new(Mutex::<Vec<Value>>::default()),
        );
        let (answer, alerts) = (Arc::clone(&status), Arc::clone(&posted));
        let router = Router::new()
            .route(
                "/alerts",
                axum::routing::post(async move |Json(alert): Json<Value>| {
                    let mut alerts = alerts.lock().expect("no panic");
                    alerts.push(alert);
                    // The first try fails.
                    if alerts.len() == 1 {
                        StatusCode::BAD_GATEWAY
                    } else {
                        StatusCode::NO_CONTENT
                    }
                }),
            )
            .fallback(async move || {
                StatusCode::from_u16(answer.load(Ordering::SeqCst)).unwrap_or_default()
            });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            status,
            posted,
        })
    }

    fn posted(&self) -> Vec<Value> {
        self.posted.lock().expect("no panic").clone()
    }
}

fn plugin(address: &str, deadline_ms: u32) -> anyhow::Result<Vec<u8>> {
    hostile_plugin_with(|manifest| {
        manifest
            .replace("127.0.0.1:9/", &format!("{address}/"))
            .replace(
                "timeout_ms = 60_000",
                "timeout_ms = 60_000\nbreaker = { failures = 1_000 }",
            )
            .replace("deadline_ms = 200", &format!("deadline_ms = {deadline_ms}"))
            .replace("concurrency = 8", "concurrency = 4")
            .replace(
                "attempts = 1",
                "attempts = 3\nbackoff = { type = \"fixed\", delay_ms = 50 }",
            )
    })
}

async fn add(host: &Host, jobs: usize, job: Value) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..jobs {
        ids.push(host.add(QUEUE, job.clone()).await?);
    }
    Ok(ids)
}

async fn quarantined(host: &Host) -> anyhow::Result<Value> {
    until(
        Duration::from_secs(30),
        "a quarantined plugin",
        async || {
            let plugin = host.get("/api/admin/plugins").await?.1["data"][0].clone();
            Ok(plugin["quarantined"].is_object().then_some(plugin))
        },
    )
    .await
}

async fn why(host: &Host) -> anyhow::Result<Option<Value>> {
    let (_, answer) = host.get(&format!("/api/admin/queues/{QUEUE}/why")).await?;
    let reasons = answer["data"].as_array().cloned().unwrap_or_default();
    Ok(reasons
        .into_iter()
        .find(|reason| reason["code"] == "quarantined"))
}

/// Whether the plugin is quarantined, and how many quarantines this host has begun for this reason.
async fn on_the_page(host: &Host, reason: &str) -> anyhow::Result<(f64, f64)> {
    let page = scrape(host).await?;
    let plugin = ("plugin", "hostile");
    let begun = page.value("patchbay_quarantines_total", &[plugin, ("reason", reason)])?;
    Ok((page.value("patchbay_plugin_quarantined", &[plugin])?, begun))
}

async fn attempts_made(host: &Host, ids: &[String]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for id in ids {
        let job = host
            .get(&format!("/api/admin/queues/{QUEUE}/jobs/{id}"))
            .await?
            .1["data"]["job"]
            .clone();
        sum += job["attemptsMade"].as_u64().context("attempts")?;
    }
    Ok(sum)
}

#[tokio::test]
async fn a_plugin_that_crashes_again_and_again_stands_still_everywhere_until_it_is_released()
-> anyhow::Result<()> {
    let (world, upstream) = (World::new().await?, Upstream::new(500).await?);
    let webhook = format!("http://{}/alerts", upstream.address);
    let mut env = RULE.to_vec();
    env.push(("PATCHBAY_ALERTS_WEBHOOK_URL", &webhook));
    let host = world.host(&env).await?;
    // With queues of its own, so that it sees none of the crashes.
    let prefix = format!("{}-other", world.prefix);
    let other = world.host(&[("PATCHBAY_REDIS_PREFIX", &prefix)]).await?;
    let digest = host
        .deploy("hostile", plugin(&upstream.address.to_string(), 5_000)?)
        .await?;
    let status = "/api/admin/plugins/hostile/status";
    until(
        Duration::from_secs(10),
        "the other host has it",
        async || Ok((other.get(status).await?.1["data"]["running"] == digest).then_some(())),
    )
    .await?;

    let job =
        json!({ "name": "brittle", "data": { "url": format!("http://{}/x", upstream.address) } });
    let ids = add(&host, 12, job).await?;
    let plugin = quarantined(&host).await?;
    let seen = Instant::now();
    until(
        Duration::from_secs(1),
        "the other host follows",
        async || {
            let running = other.get(status).await?.1["data"]["running"].clone();
            Ok((running.is_null() && why(&other).await?.is_some()).then_some(()))
        },
    )
    .await?;
    println!("the other host followed {:?} later", seen.elapsed());
    assert_eq!(
        (&plugin["active"], &plugin["digest"]),
        (&json!(false), &json!(digest))
    );
    let by = plugin["quarantined"]["by"].as_str().context("who")?;
    assert!(by.starts_with("host "), "{by}");
    let reason = plugin["quarantined"]["reason"].as_str().context("why")?;
    assert!(
        reason.starts_with("4 of the last 4 calls within 60 s crashed (4 trapped)"),
        "{reason}"
    );
    let listed = String::from_utf8(patchbay(&host, &["plugin", "list"]).await?.stdout)?;
    println!("{listed}");
    assert!(listed.contains("quarantined"), "{listed}");
    let reason = until(Duration::from_secs(10), "the reason", async || {
        why(&host).await
    })
    .await?;
    println!(
        "{}",
        String::from_utf8(patchbay(&host, &["queue", "why", QUEUE]).await?.stdout)?
    );
    assert!(
        reason["next"]
            .as_str()
            .is_some_and(|next| next.contains("patchbay plugin release hostile")),
        "{reason}"
    );

    assert_eq!(on_the_page(&host, "trapped").await?, (1.0, 1.0));
    assert_eq!(
        on_the_page(&other, "trapped").await?,
        (1.0, 0.0),
        "it stands still there, too, and was counted here"
    );
    assert_eq!(on_the_page(&host, "deadline").await?, (1.0, 0.0));

    // Nothing runs, and only the crashes before the last one have used up an attempt.
    let counts = until(
        Duration::from_secs(10),
        "a queue that stands still",
        async || {
            let queue = host.get(&format!("/api/admin/queues/{QUEUE}")).await?.1["data"].clone();
            let still = queue["counts"]["active"] == 0
                && queue["workers"].as_array().is_some_and(Vec::is_empty);
            Ok(still.then_some(queue["counts"].clone()))
        },
    )
    .await?;
    assert_eq!(
        counts["waiting"]
            .as_u64()
            .zip(counts["delayed"].as_u64())
            .map(|(a, b)| a + b),
        Some(12),
        "{counts}"
    );
    assert_eq!(attempts_made(&host, &ids).await?, 3);
    let alerts = until(
        Duration::from_secs(20),
        "the alert, tried again",
        async || Ok(Some(upstream.posted()).filter(|alerts| alerts.len() == 2)),
    )
    .await?;
    println!("{}", serde_json::to_string_pretty(&alerts[1])?);
    assert_eq!(alerts[0], alerts[1]);
    assert_eq!(
        (&alerts[1]["alert"], &alerts[1]["revision"]),
        (&json!("plugin-quarantined"), &json!(digest))
    );
    assert_eq!(
        host.post("/api/admin/plugins/hostile/rollback", json!({}))
            .await?
            .0,
        409,
        "there is no other"
    );
    let path = format!("{}/api/admin/plugins/hostile/revisions/{digest}", host.url);
    assert_eq!(
        host.request(host.http.delete(path)).await?.0,
        409,
        "it still is the plugin's own"
    );

    upstream.status.store(200, Ordering::SeqCst);
    let release = [
        "--json",
        "plugin",
        "release",
        "hostile",
        "--reason",
        "the vendor has mended it",
    ];
    assert_eq!(json_of(&host, &release).await?["digest"], digest);
    for id in &ids {
        host.job_in(QUEUE, id, "completed").await?;
    }
    assert_eq!(attempts_made(&host, &ids).await?, 12 + 3);
    let again = patchbay(&host, &["plugin", "release", "hostile"]).await?;
    assert_eq!(again.status.code(), Some(4), "it is not quarantined");
    until(
        Duration::from_secs(1),
        "the other host follows",
        async || Ok((other.get(status).await?.1["data"]["running"] == digest).then_some(())),
    )
    .await?;
    for host in [&host, &other] {
        assert_eq!(on_the_page(host, "trapped").await?.0, 0.0);
    }
    let mut database = world.database().await?;
    let row = sqlx::query("select began_by, ended_by, end_reason from patchbay.quarantines")
        .fetch_one(&mut database);
    let row = row.await?;
    let (began, ended, reason): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(
        (began.as_str(), ended.as_str(), reason.as_str()),
        (by, "operator", "the vendor has mended it")
    );
    let sql = "select actor || ' ' || action from patchbay.operator_actions where error is null and \
               action in ('plugin.quarantine', 'plugin.release') order by id";
    let trail: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut database).await?;
    assert_eq!(
        trail,
        [
            format!("{by} plugin.quarantine"),
            "operator plugin.release".into()
        ]
    );
    Ok(())
}

#[tokio::test]
async fn by_policy_the_revision_before_takes_over_and_the_jobs_complete() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut env = RULE.to_vec();
    env.push(("PATCHBAY_QUARANTINE_POLICY", "previous"));
    let host = world.host(&env).await?;
    let patient = host
        .deploy("hostile", plugin("127.0.0.1:9", 20_000)?)
        .await?;
    let hasty = host.deploy("hostile", plugin("127.0.0.1:9", 50)?).await?;
    let ids = add(&host, 10, json!({ "name": "spin", "data": { "ms": 300 } })).await?;
    for id in &ids {
        host.job_in(QUEUE, id, "completed").await?;
    }
    assert_eq!(
        attempts_made(&host, &ids).await?,
        10 + 3,
        "three crashes counted"
    );
    let (_, status) = host.get("/api/admin/plugins/hostile/status").await?;
    assert_eq!(
        (&status["data"]["active"], &status["data"]["running"]),
        (&json!(patient), &json!(patient)),
        "{status}"
    );
    let of = |digest: &str| {
        let revisions = status["data"]["revisions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        revisions
            .into_iter()
            .find(|revision| revision["digest"] == digest)
            .map(|revision| revision["state"].clone())
    };
    assert_eq!(
        (of(&patient), of(&hasty)),
        (Some(json!("active")), Some(json!("quarantined")))
    );
    assert_eq!(on_the_page(&host, "deadline").await?, (0.0, 1.0));
    let (_, history) = host.get("/api/admin/plugins/hostile/history").await?;
    assert!(
        history["data"][0]["actor"]
            .as_str()
            .is_some_and(|actor| actor.starts_with("host ")),
        "{history}"
    );
    assert_eq!(
        host.post("/api/admin/plugins/hostile/rollback", json!({}))
            .await?
            .0,
        409,
        "not back to the broken one"
    );
    Ok(())
}
