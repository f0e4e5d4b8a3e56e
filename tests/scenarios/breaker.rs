//! An outside host fails and recovers: calls to it are refused at once, their jobs wait without
//! using up attempts, and nothing spins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, email_plugin, hostile_plugin_with, mail_job, until};
use crate::metrics::scrape;

const QUEUE: &str = "hostileQueue";

/// A vendor's API whose answers the test sets.
struct Upstream {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    /// False: requests get no answer until this is true.
    answers: watch::Sender<bool>,
    requests: Arc<AtomicUsize>,
}

impl Upstream {
    async fn new(status: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (status, requests) = (
            Arc::new(AtomicU16::new(status)),
            Arc::new(AtomicUsize::new(0)),
        );
        let answers = watch::Sender::new(true);
        let handler = {
            let (status, requests, answers) =
                (Arc::clone(&status), Arc::clone(&requests), answers.clone());
            move || async move {
                requests.fetch_add(1, Ordering::SeqCst);
                answers.subscribe().wait_for(|answers| *answers).await.ok();
                StatusCode::from_u16(status.load(Ordering::SeqCst)).unwrap_or_default()
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Ok(Self {
            address,
            status,
            answers,
            requests,
        })
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The guest that calls it from two queues, with a breaker that opens after three failures.
    fn plugin(&self, open_ms: u64, concurrency: u32) -> anyhow::Result<Vec<u8>> {
        hostile_plugin_with(|manifest| {
            let breaker =
                format!("timeout_ms = 60_000\nbreaker = {{ failures = 3, open_ms = {open_ms} }}");
            let queue = |name: &str| {
                format!(
                    "\n[[queues]]\nname = \"{name}\"\nconcurrency = {concurrency}\nattempts = 5\n\
                     backoff = {{ type = \"fixed\", delay_ms = 50 }}\n"
                )
            };
            let manifest = manifest
                .replace("127.0.0.1:9/", &format!("{}/", self.address))
                .replace("timeout_ms = 60_000", &breaker)
                .replace("deadline_ms = 200", "deadline_ms = 20_000");
            let (head, _) = manifest.split_once("[[queues]]").unwrap_or_default();
            format!("{head}{}{}", queue(QUEUE), queue("secondQueue"))
        })
    }

    async fn add(&self, host: &Host, queue: &str, jobs: usize) -> anyhow::Result<Vec<String>> {
        let job =
            json!({ "name": "upstream", "data": { "url": format!("http://{}/x", self.address) } });
        let mut ids = Vec::new();
        for _ in 0..jobs {
            ids.push(host.add(queue, job.clone()).await?);
        }
        Ok(ids)
    }
}

async fn breaker(host: &Host) -> anyhow::Result<Value> {
    Ok(host.get("/api/admin/breakers").await?.1["data"][0].clone())
}

async fn in_state(host: &Host, state: &str) -> anyhow::Result<Value> {
    until(
        Duration::from_secs(20),
        &format!("a breaker that is {state}"),
        async || Ok(Some(breaker(host).await?).filter(|breaker| breaker["state"] == state)),
    )
    .await
}

/// Closed, open and half-open, as Prometheus reads them.
async fn states(host: &Host, of: &[(&str, &str)]) -> anyhow::Result<[f64; 3]> {
    let page = scrape(host).await?;
    let value = |state| {
        page.value(
            "patchbay_breaker_state",
            &[of, &[("state", state)]].concat(),
        )
    };
    Ok([value("closed")?, value("open")?, value("half-open")?])
}

async fn reasons(host: &Host, queue: &str) -> anyhow::Result<Vec<Value>> {
    let (_, answer) = host.get(&format!("/api/admin/queues/{queue}/why")).await?;
    Ok(answer["data"].as_array().context("reasons")?.clone())
}

#[tokio::test]
async fn jobs_wait_for_a_host_that_fails_without_using_up_attempts_and_complete_when_it_is_back()
-> anyhow::Result<()> {
    let (world, upstream) = (World::new().await?, Upstream::new(503).await?);
    let host = world.host(&[]).await?;
    host.deploy("hostile", upstream.plugin(1_000, 1)?).await?;
    let ids = upstream.add(&host, QUEUE, 12).await?;
    let open = in_state(&host, "open").await?;
    assert_eq!(open["host"], format!("http://{}", upstream.address));
    assert_eq!(open["lastFailure"], "answered with status 503");
    assert_eq!(open["openedAfter"], 3, "{open}");
    assert!(
        open["openedAt"].is_string() && open["openForMs"].is_u64(),
        "{open}"
    );
    let reason = until(Duration::from_secs(10), "the reason", async || {
        Ok(reasons(&host, QUEUE)
            .await?
            .into_iter()
            .find(|reason| reason["code"] == "breaker-open"))
    })
    .await?;
    assert!(
        reason["message"].as_str().is_some_and(|text| {
            text.starts_with("hostile gets errors from http://127.0.0.1:")
                && text.contains("opened after 3 failures")
        }),
        "{reason}"
    );
    assert!(
        reason["next"]
            .as_str()
            .is_some_and(|next| next.contains("patchbay breaker close hostile")),
        "{reason}"
    );

    // Three calls opened it, then one trial per second: more trials than the job has attempts.
    let (opened, enough) = (Instant::now(), 3 + 6);
    until(Duration::from_secs(30), "six probes", async || {
        Ok((upstream.requests() >= enough).then_some(()))
    })
    .await?;
    assert!(
        opened.elapsed() > Duration::from_secs(5),
        "six probes within {:?}",
        opened.elapsed()
    );
    let sql =
        "select count(*) from patchbay.attempts where code = 'breaker-open' and verdict = 'defer'";
    let mut database = world.database().await?;
    let deferred: i64 = until(
        Duration::from_secs(10),
        "the refused attempts",
        async || {
            let n: i64 = sqlx::query_scalar(sql).fetch_one(&mut database).await?;
            Ok((n > 0).then_some(n))
        },
    )
    .await?;
    println!(
        "{deferred} attempts were handed back during {} probes",
        upstream.requests() - 3
    );
    assert!(
        deferred < 60,
        "its worker spins: {deferred} attempts for six probes"
    );

    upstream.status.store(200, Ordering::SeqCst);
    let mut burned = 0;
    for id in &ids {
        let job = host.job_in(QUEUE, id, "completed").await?["job"].clone();
        burned += job["attemptsMade"].as_u64().context("attempts")? - 1;
    }
    assert_eq!(burned, 3, "only the calls that opened it count");
    assert_eq!(breaker(&host).await?["state"], "closed");
    Ok(())
}

#[tokio::test]
async fn a_plugin_that_is_restarted_beside_an_open_breaker_has_no_missing_worker()
-> anyhow::Result<()> {
    let (world, upstream) = (World::new().await?, Upstream::new(503).await?);
    let host = world.host(&[]).await?;
    let digest = host.deploy("hostile", upstream.plugin(600_000, 1)?).await?;
    upstream.add(&host, QUEUE, 12).await?;
    in_state(&host, "open").await?;
    until(
        Duration::from_secs(10),
        "that its queue waits",
        async || {
            let reasons = reasons(&host, QUEUE).await?;
            Ok(reasons
                .iter()
                .any(|reason| reason["code"] == "breaker-open")
                .then_some(()))
        },
    )
    .await?;
    let plugin = "/api/admin/plugins/hostile";
    let (status, answer) = host
        .post(&format!("{plugin}/deactivate"), json!({}))
        .await?;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = host
        .post(&format!("{plugin}/activate"), json!({ "digest": digest }))
        .await?;
    assert_eq!(status, 200, "{answer}");
    for queue in [QUEUE, "secondQueue"] {
        let reasons = reasons(&host, queue).await?;
        let codes: Vec<&str> = reasons
            .iter()
            .filter_map(|reason| reason["code"].as_str())
            .collect();
        assert!(codes.contains(&"breaker-open"), "{queue}: {reasons:?}");
        assert!(!codes.contains(&"no-worker"), "{queue}: {reasons:?}");
    }
    Ok(())
}

#[tokio::test]
async fn half_open_lets_exactly_one_call_through_whatever_waits_in_which_queue()
-> anyhow::Result<()> {
    let (world, upstream) = (World::new().await?, Upstream::new(503).await?);
    let host = world.host(&[]).await?;
    host.deploy("hostile", upstream.plugin(2_000, 8)?).await?;
    let first = upstream.add(&host, QUEUE, 20).await?;
    in_state(&host, "open").await?;
    // Calls that were already running when the breaker opened.
    let begun = until(Duration::from_secs(10), "nothing under way", async || {
        let (before, open) = (
            upstream.requests(),
            breaker(&host).await?["state"] == "open",
        );
        let counts =
            host.get(&format!("/api/admin/queues/{QUEUE}")).await?.1["data"]["counts"].clone();
        Ok((open && counts["active"] == 0 && before == upstream.requests()).then_some(before))
    })
    .await?;
    upstream.answers.send_replace(false);
    until(Duration::from_secs(10), "the probe", async || {
        Ok((upstream.requests() > begun).then_some(()))
    })
    .await?;
    // The trial has no answer yet. Other calls are refused.
    let second = upstream.add(&host, "secondQueue", 5).await?;
    for id in &second[..3] {
        host.job_in("secondQueue", id, "delayed").await?;
    }
    assert_eq!(breaker(&host).await?["state"], "half-open");
    assert_eq!(upstream.requests(), begun + 1, "one call, and no other");
    upstream.status.store(200, Ordering::SeqCst);
    upstream.answers.send_replace(true);
    for (queue, ids) in [(QUEUE, &first), ("secondQueue", &second)] {
        for id in ids {
            let story = host.job_in(queue, id, "completed").await?;
            assert!(
                queue == QUEUE || story["job"]["attemptsMade"] == 1,
                "{story}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_operator_opens_and_closes_a_breaker_and_the_trail_says_who_and_why()
-> anyhow::Result<()> {
    let (world, upstream) = (World::new().await?, Upstream::new(200).await?);
    let host = world.host(&[]).await?;
    host.deploy("hostile", upstream.plugin(1_000, 2)?).await?;
    let place = upstream.address.to_string();
    let open = [
        "--json",
        "breaker",
        "open",
        "hostile",
        &place,
        "--reason",
        "maintenance at the vendor",
    ];
    let opened = json_of(&host, &open).await?;
    assert_eq!(
        (&opened["state"], &opened["openedBy"]),
        (&json!("open"), &json!("operator")),
        "{opened}"
    );
    let of = [("plugin", "hostile"), ("host", &format!("http://{place}"))];
    assert_eq!(states(&host, &of).await?, [0.0, 1.0, 0.0]);
    let ids = upstream.add(&host, QUEUE, 5).await?;
    let reason = until(Duration::from_secs(10), "the reason", async || {
        Ok(reasons(&host, QUEUE)
            .await?
            .into_iter()
            .find(|reason| reason["code"] == "breaker-open"))
    })
    .await?;
    assert!(
        reason["message"]
            .as_str()
            .is_some_and(|text| text.contains("maintenance at the vendor")),
        "{reason}"
    );
    host.job_in(QUEUE, &ids[0], "delayed").await?;
    assert_eq!(upstream.requests(), 0, "nothing goes out");
    let listed = patchbay(&host, &["breaker", "list"]).await?;
    let listed = String::from_utf8(listed.stdout)?;
    println!("{listed}");
    assert!(
        listed.contains("open, by operator: maintenance at the vendor"),
        "{listed}"
    );

    // Any part that matches one host only, in any letter case.
    let part = format!("HTTP://127.0.0.1:{}", upstream.address.port());
    let close = [
        "--json",
        "breaker",
        "close",
        "hostile",
        &part,
        "--reason",
        "it is back",
    ];
    assert_eq!(json_of(&host, &close).await?["state"], "closed");
    for id in &ids {
        assert_eq!(
            host.job_in(QUEUE, id, "completed").await?["job"]["attemptsMade"],
            1
        );
    }
    assert_eq!(states(&host, &of).await?, [1.0, 0.0, 0.0]);
    let page = scrape(&host).await?;
    assert_eq!(page.value("patchbay_breaker_opened_total", &of)?, 1.0);
    let deferred = page.value("patchbay_breaker_deferred_jobs_total", &of)?;
    assert!(deferred > 0.0, "{deferred}");
    let sql = "select count(*)::float8 from patchbay.attempts where code = 'breaker-open' and verdict = 'defer'";
    let mut database = world.database().await?;
    until(
        Duration::from_secs(10),
        "as many deferred attempts in the history",
        async || {
            let remembered: f64 = sqlx::query_scalar(sql).fetch_one(&mut database).await?;
            Ok((remembered == deferred).then_some(()))
        },
    )
    .await?;
    let sql = "select action || ' ' || target || ' ' || (details ->> 'reason') from patchbay.operator_actions \
               where action like 'breaker.%' order by id";
    let trail: Vec<String> = sqlx::query_scalar(sql)
        .fetch_all(&mut world.database().await?)
        .await?;
    let expected = [
        ("open", "maintenance at the vendor"),
        ("close", "it is back"),
    ];
    // Whatever part of the host's name was given.
    let expected =
        expected.map(|(what, why)| format!("breaker.{what} hostile http://{place} {why}"));
    assert_eq!(trail, expected);

    let body =
        |host: &str, reason: &str| json!({ "plugin": "hostile", "host": host, "reason": reason });
    let (status, refused) = host
        .post(
            "/api/admin/breakers/open",
            body("https://other.example:443", "why not"),
        )
        .await?;
    assert_eq!(status, 404, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|text| text.contains(&place)),
        "it names what there is: {refused}"
    );
    assert_eq!(
        host.post("/api/admin/breakers/open", body(&place, " "))
            .await?
            .0,
        400,
        "without a reason"
    );
    Ok(())
}

#[tokio::test]
async fn mail_waits_for_a_mail_server_that_is_down() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (listener, up) = (
        TcpListener::bind("127.0.0.1:0").await?,
        Arc::new(AtomicBool::new(false)),
    );
    let port = listener.local_addr()?.port().to_string();
    let (server, is_up) = (world.mail.address, Arc::clone(&up));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if is_up.load(Ordering::SeqCst) {
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        }
    });
    let host = world.host(&[("PATCHBAY_MAIL_PORT", &port)]).await?;
    host.deploy("email", email_plugin()?).await?;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(host.add("emailQueue", json!({ "name": "send", "data": mail_job(n), "attempts": 2, "backoff": { "type": "fixed", "delayMs": 60_000 } })).await?);
    }
    let open = in_state(&host, "open").await?;
    assert_eq!(open["host"], format!("smtp://127.0.0.1:{port}"));
    let reason = reasons(&host, "emailQueue").await?;
    assert!(
        reason.iter().any(|reason| reason["code"] == "breaker-open"),
        "{reason:?}"
    );
    up.store(true, Ordering::SeqCst);
    let close = json!({ "plugin": "email", "host": open["host"], "reason": "it is back" });
    assert_eq!(host.post("/api/admin/breakers/close", close).await?.0, 200);
    // The jobs that opened the breaker have used up one attempt each and wait for their backoff.
    until(
        Duration::from_secs(40),
        "the mails that had to wait",
        async || Ok((world.mail.count() >= 10).then_some(())),
    )
    .await?;
    let (_, failed) = host
        .get("/api/admin/queues/emailQueue/jobs?state=failed")
        .await?;
    assert_eq!(failed["data"].as_array().map(Vec::len), Some(0), "{failed}");
    Ok(())
}
