//! Alerts: every channel is notified once when a condition begins, even if a channel or the host
//! fails, and again when it ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cable::Cable;
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, hostile_plugin_calling, hostile_plugin_with, until};
use crate::metrics::scrape;

const SOON: Duration = Duration::from_secs(20);

/// A webhook receiver for any path.
pub struct Receiver {
    pub address: SocketAddr,
    /// The status of its answers. Only 200 counts as delivered.
    pub status: Arc<AtomicU16>,
    hangs: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(String, u16, Value)>>>,
}

impl Receiver {
    pub async fn new() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let receiver = Self {
            address: listener.local_addr()?,
            status: Arc::new(AtomicU16::new(200)),
            hangs: Arc::default(),
            seen: Arc::default(),
        };
        let (status, hangs) = (Arc::clone(&receiver.status), Arc::clone(&receiver.hangs));
        let seen = Arc::clone(&receiver.seen);
        let router = axum::Router::new().fallback(async move |uri: Uri, body: String| {
            let (path, body) = (
                uri.path().to_owned(),
                serde_json::from_str(&body).unwrap_or_default(),
            );
            let status = status.load(Ordering::SeqCst);
            let hangs = hangs.load(Ordering::SeqCst) && path == "/webhook";
            seen.lock()
                .expect("no panic")
                .push((path, if hangs { 0 } else { status }, body));
            if hangs {
                std::future::pending::<()>().await;
            }
            StatusCode::from_u16(status)
                .unwrap_or_default()
                .into_response()
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(receiver)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Messages on this path that got this status, oldest first.
    pub fn messages(&self, path: &str, status: u16) -> Vec<Value> {
        let seen = self.seen.lock().expect("no panic");
        seen.iter()
            .filter(|(p, s, _)| p == path && *s == status)
            .map(|(_, _, body)| body.clone())
            .collect()
    }

    /// The events that the webhook accepted for a subject, oldest first.
    pub fn told(&self, subject: &str) -> Vec<String> {
        let about = |body: &Value| {
            (body["subject"] == subject).then(|| body["event"].as_str().map(str::to_owned))
        };
        self.messages("/webhook", 200)
            .iter()
            .filter_map(|body| about(body).flatten())
            .collect()
    }

    pub async fn until_told(&self, subject: &str, events: &[&str]) -> anyhow::Result<()> {
        let what = format!("{events:?} of {subject}; so far: {:?}", self.told(subject));
        until(SOON, &what, async || {
            Ok((self.told(subject) == events).then_some(()))
        })
        .await
    }
}

/// A host that evaluates alerts often and sends them to the receiver.
pub async fn host(
    world: &World,
    receiver: &Receiver,
    more: &[(&str, &str)],
) -> anyhow::Result<Host> {
    let webhook = receiver.url("webhook");
    let mut env = vec![
        ("PATCHBAY_ALERTS_EVERY_MS", "100"),
        ("PATCHBAY_ALERTS_WEBHOOK_URL", webhook.as_str()),
    ];
    env.extend(more);
    world.host(&env).await
}

/// Makes a waiting job count as too old after a tenth of a second.
pub async fn impatient(host: &Host) -> anyhow::Result<()> {
    let set = [
        "--json",
        "alert",
        "rule",
        "set",
        "oldest-waiting",
        "--threshold",
        "0.1",
        "--for",
        "0s",
    ];
    let rule = json_of(host, &set).await?;
    ensure!(rule["threshold"] == 0.1 && rule["holdS"] == 0, "{rule}");
    Ok(())
}

async fn waits(host: &Host, queue: &str) -> anyhow::Result<String> {
    host.add(
        queue,
        json!({ "name": "job", "data": { "private": "p3rsonal" } }),
    )
    .await
}

async fn mend(host: &Host, queue: &str, job: &str) -> anyhow::Result<()> {
    let (status, answer) = host
        .delete(&format!("/api/admin/queues/{queue}/jobs/{job}"))
        .await?;
    ensure!(status == 200, "{answer}");
    Ok(())
}

async fn listed(host: &Host) -> anyhow::Result<Value> {
    Ok(host.get("/api/admin/alerts").await?.1["data"].clone())
}

async fn undelivered(host: &Host) -> anyhow::Result<Vec<Value>> {
    Ok(listed(host).await?["undelivered"]
        .as_array()
        .cloned()
        .unwrap_or_default())
}

#[tokio::test]
async fn an_alert_is_told_once_by_every_channel_and_its_end_too() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let (slack, ping) = (receiver.url("slack"), receiver.url("ping"));
    let more = [
        ("PATCHBAY_ALERTS_SLACK_URL", slack.as_str()),
        ("PATCHBAY_ALERTS_PING_URL", &ping),
        (
            "PATCHBAY_ALERTS_MAIL_TO",
            "ops@patchbay.example, Second <second@patchbay.example>",
        ),
    ];
    let host = host(&world, &receiver, &more).await?;
    impatient(&host).await?;
    // A queue that an operator has paused raises no alert.
    waits(&host, "pausedQueue").await?;
    assert_eq!(
        host.post("/api/admin/queues/pausedQueue/pause", json!({}))
            .await?
            .0,
        200
    );
    let job = waits(&host, "idleQueue").await?;
    receiver.until_told("idleQueue", &["firing"]).await?;
    let message = receiver
        .messages("/webhook", 200)
        .into_iter()
        .find(|body| body["subject"] == "idleQueue");
    let message = message.context("the message")?;
    println!("{}", serde_json::to_string_pretty(&message)?);
    assert_eq!(
        (&message["alert"], &message["severity"]),
        (&json!("oldest-waiting"), &json!("warning"))
    );
    assert_eq!(
        message["runbook"],
        "docs/operations/alerts.md#oldest-waiting"
    );
    let firing = scrape(&host)
        .await?
        .value("patchbay_alerts_firing", &[("rule", "oldest-waiting")])?;
    assert_eq!(firing, 1.0);
    println!(
        "{}",
        String::from_utf8(patchbay(&host, &["alert", "list"]).await?.stdout)?
    );

    // Many rounds later, at the next alert, the first one has not been sent again.
    waits(&host, "otherQueue").await?;
    receiver.until_told("otherQueue", &["firing"]).await?;
    assert_eq!(receiver.told("idleQueue"), ["firing"]);
    mend(&host, "idleQueue", &job).await?;
    receiver
        .until_told("idleQueue", &["firing", "recovered"])
        .await?;
    let recovered = receiver
        .messages("/webhook", 200)
        .into_iter()
        .find(|body| body["event"] == "recovered")
        .context("the recovery")?;
    assert!(recovered["lastedMs"].is_u64(), "{recovered}");
    let told = recovered["reason"].as_str().unwrap_or_default();
    assert!(
        told.starts_with("idleQueue: recovered after ")
            && told.contains("It was: 1 job waited, for "),
        "{recovered}"
    );
    until(SOON, "three mails", async || {
        Ok((world.mail.count() == 3).then_some(()))
    })
    .await?;
    let mails = world.mail.list();
    let subjects: Vec<&str> = mails.iter().map(|mail| mail.subject.as_str()).collect();
    assert!(
        subjects.contains(&"[development] WARNING oldest-waiting: idleQueue"),
        "{subjects:?}"
    );
    assert!(
        subjects.contains(&"[development] RECOVERED oldest-waiting: idleQueue"),
        "{subjects:?}"
    );
    assert_eq!(
        mails[0].to,
        ["ops@patchbay.example", "second@patchbay.example"]
    );
    assert_eq!(mails[0].from, "tests@patchbay.example");
    until(SOON, "Slack", async || {
        Ok((receiver.messages("/slack", 200).len() == 3).then_some(()))
    })
    .await?;
    let slack = receiver.messages("/slack", 200);
    assert!(
        slack[0]["text"]
            .as_str()
            .is_some_and(|text| text.contains("oldest-waiting: idleQueue")),
        "{slack:?}"
    );
    until(SOON, "the ping", async || {
        Ok((!receiver.messages("/ping", 200).is_empty()).then_some(()))
    })
    .await?;
    assert_eq!(receiver.told("pausedQueue"), Vec::<String>::new());
    assert!(!format!("{:?}", receiver.seen.lock().expect("no panic")).contains("p3rsonal"));
    let delivered = [("channel", "webhook"), ("result", "delivered")];
    assert_eq!(
        scrape(&host)
            .await?
            .value("patchbay_alert_deliveries_total", &delivered)?,
        3.0
    );
    let history = json_of(
        &host,
        &["--json", "alert", "history", "--rule", "oldest-waiting"],
    )
    .await?;
    assert_eq!(history[0]["lastedMs"], recovered["lastedMs"], "{history}");
    assert!(history[1]["lastedMs"].is_null(), "{history}");
    let history: Vec<String> = history
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| format!("{} {}", one["subject"], one["event"]))
        .collect();
    assert_eq!(
        history,
        [
            r#""idleQueue" "recovered""#,
            r#""otherQueue" "firing""#,
            r#""idleQueue" "firing""#
        ]
    );
    Ok(())
}

#[tokio::test]
async fn when_nothing_fires_the_list_says_so_and_names_the_failures_of_the_last_hour()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let host = host(&world, &receiver, &[]).await?;
    let listed = async || -> anyhow::Result<String> {
        Ok(String::from_utf8(
            patchbay(&host, &["alert", "list"]).await?.stdout,
        )?)
    };
    until(SOON, "that nothing fires", async || {
        Ok((listed().await? == "No alert fires.\n").then_some(()))
    })
    .await?;
    host.deploy("hostile", crate::harness::hostile_plugin()?)
        .await?;
    let id = host.add("hostileQueue", json!({ "name": "panic" })).await?;
    host.job_in("hostileQueue", &id, "failed").await?;
    until(SOON, "the failure in the history", async || {
        let said = "No alert fires.\n1 job failed in the last hour in hostileQueue: patchbay dead-letter list\n";
        Ok((listed().await? == said).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_restart_of_the_plugin_does_not_reset_the_time_that_a_breaker_must_be_open()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let upstream = Receiver::new().await?;
    let host = host(&world, &receiver, &[]).await?;
    // Long enough to stay pending throughout the test; its plugin may be away for a minute.
    let hour = [
        "--json",
        "alert",
        "rule",
        "set",
        "breaker-open",
        "--for",
        "1h",
    ];
    json_of(&host, &hour).await?;
    let digest = host
        .deploy("hostile", hostile_plugin_calling(upstream.address)?)
        .await?;
    upstream.status.store(500, Ordering::SeqCst);
    for _ in 0..20 {
        let job = json!({ "name": "upstream", "data": { "url": upstream.url("x") } });
        host.add("hostileQueue", job).await?;
    }
    let pending = async || -> anyhow::Result<Option<Value>> {
        let alerts = listed(&host).await?["alerts"].clone();
        let all = alerts.as_array().into_iter().flatten();
        let mut all = all.filter(|alert| alert["rule"] == "breaker-open");
        Ok(all.next().cloned())
    };
    let held = async || -> anyhow::Result<(i64, i64)> {
        let sql = "select held_ms, quiet_ms from patchbay.alerts where rule = 'breaker-open'";
        let row: Option<(i64, i64)> = sqlx::query_as(sql)
            .fetch_optional(&mut world.database().await?)
            .await?;
        Ok(row.unwrap_or_default())
    };
    until(SOON, "that it has held for a while", async || {
        Ok((held().await?.0 > 300).then_some(()))
    })
    .await?;
    let before = pending().await?.context("it is pending")?;
    assert!(
        before["reason"]
            .as_str()
            .is_some_and(|text| text.starts_with("hostile gets errors from http://127.0.0.1:")),
        "{before}"
    );
    let plugin = "/api/admin/plugins/hostile";
    let (status, answer) = host
        .post(&format!("{plugin}/deactivate"), json!({}))
        .await?;
    ensure!(status == 200, "{answer}");
    until(SOON, "a round that does not see it", async || {
        Ok((held().await?.1 > 0).then_some(()))
    })
    .await?;
    let (status, answer) = host
        .post(&format!("{plugin}/activate"), json!({ "digest": digest }))
        .await?;
    ensure!(status == 200, "{answer}");
    until(SOON, "a round that sees it again", async || {
        Ok((held().await?.1 == 0).then_some(()))
    })
    .await?;
    let after = pending().await?.context("it is pending still")?;
    assert_eq!(
        (&after["state"], &after["since"]),
        (&json!("pending"), &before["since"])
    );
    assert!(held().await?.0 > 300, "the time that it had held counts on");
    Ok(())
}

#[tokio::test]
async fn a_silenced_alert_is_shown_and_told_when_the_silence_ends() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let host = host(&world, &receiver, &[]).await?;
    impatient(&host).await?;
    let silence = [
        "--json",
        "alert",
        "silence",
        "oldest-waiting",
        "--subject",
        "idle*",
        "--for",
        "2h",
        "--reason",
        "a drill",
    ];
    let id = json_of(&host, &silence).await?["id"].to_string();
    waits(&host, "idleQueue").await?;
    until(SOON, "that it fires", async || {
        let alerts = listed(&host).await?["alerts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let firing = alerts
            .into_iter()
            .find(|alert| alert["subject"] == "idleQueue" && alert["state"] == "firing");
        Ok(firing.filter(|alert| alert["silencedUntil"].is_string()))
    })
    .await?;
    println!(
        "{}",
        String::from_utf8(patchbay(&host, &["alert", "list"]).await?.stdout)?
    );
    println!(
        "{}",
        String::from_utf8(patchbay(&host, &["alert", "silences"]).await?.stdout)?
    );
    waits(&host, "otherQueue").await?;
    receiver.until_told("otherQueue", &["firing"]).await?;
    assert_eq!(receiver.told("idleQueue"), Vec::<String>::new());
    json_of(&host, &["--json", "alert", "unsilence", &id]).await?;
    receiver.until_told("idleQueue", &["firing"]).await?;
    assert_eq!(
        patchbay(&host, &["alert", "unsilence", &id])
            .await?
            .status
            .code(),
        Some(3),
        "it has ended"
    );
    Ok(())
}

#[tokio::test]
async fn a_receiver_that_fails_loses_nothing_and_gets_the_newest_state_only() -> anyhow::Result<()>
{
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let host = host(&world, &receiver, &[]).await?;
    impatient(&host).await?;
    receiver.status.store(500, Ordering::SeqCst);
    let mended = waits(&host, "mendedQueue").await?;
    waits(&host, "idleQueue").await?;
    let waiting = until(SOON, "tries that fail", async || {
        let waiting = undelivered(&host).await?;
        Ok(
            (waiting.len() == 2 && waiting.iter().all(|one| one["tries"].as_u64() >= Some(2)))
                .then_some(waiting),
        )
    })
    .await?;
    assert!(
        waiting[0]["lastError"]
            .as_str()
            .is_some_and(|error| error.contains("500")),
        "{waiting:?}"
    );
    println!(
        "{}",
        String::from_utf8(patchbay(&host, &["alert", "list"]).await?.stdout)?
    );
    mend(&host, "mendedQueue", &mended).await?;
    until(SOON, "the newer state in its place", async || {
        let waiting = undelivered(&host).await?;
        let events: Vec<String> = waiting
            .iter()
            .map(|one| format!("{} {}", one["subject"], one["event"]))
            .collect();
        Ok(
            (events.len() == 2 && events.contains(&r#""mendedQueue" "recovered""#.to_owned()))
                .then_some(()),
        )
    })
    .await?;
    receiver.status.store(200, Ordering::SeqCst);
    receiver.until_told("idleQueue", &["firing"]).await?;
    receiver.until_told("mendedQueue", &["recovered"]).await?;
    until(SOON, "nothing left", async || {
        Ok(undelivered(&host).await?.is_empty().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_no_other_channel_up() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let slack = receiver.url("slack");
    let host = host(&world, &receiver, &[("PATCHBAY_ALERTS_SLACK_URL", &slack)]).await?;
    impatient(&host).await?;
    receiver.hangs.store(true, Ordering::SeqCst);
    let slack_has = async |count: usize| {
        until(Duration::from_secs(4), "Slack", async || {
            Ok((receiver.messages("/slack", 200).len() == count).then_some(()))
        })
        .await
    };
    waits(&host, "firstQueue").await?;
    until(SOON, "a try that hangs", async || {
        Ok((!receiver.messages("/webhook", 0).is_empty()).then_some(()))
    })
    .await?;
    slack_has(1).await?;
    // Less than the five seconds that the other channel may take.
    waits(&host, "secondQueue").await?;
    until(SOON, "the second", async || {
        Ok((receiver.messages("/slack", 200).len() == 2).then_some(()))
    })
    .await?;
    let waiting = until(SOON, "the error", async || {
        let waiting = undelivered(&host).await?;
        Ok(waiting
            .iter()
            .any(|one| one["lastError"] == "no answer within 5 s")
            .then_some(waiting))
    })
    .await?;
    assert_eq!(waiting.len(), 2, "one row each: {waiting:?}");
    receiver.hangs.store(false, Ordering::SeqCst);
    receiver.until_told("firstQueue", &["firing"]).await?;
    receiver.until_told("secondQueue", &["firing"]).await
}

#[tokio::test]
async fn another_host_delivers_and_goes_on_when_the_one_that_evaluates_is_killed()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let mut first = host(&world, &receiver, &[]).await?;
    impatient(&first).await?;
    receiver.status.store(500, Ordering::SeqCst);
    let job = waits(&first, "idleQueue").await?;
    until(SOON, "that it fires", async || {
        Ok((!undelivered(&first).await?.is_empty()).then_some(()))
    })
    .await?;
    let second = host(&world, &receiver, &[]).await?;
    let evaluates = |host: &Host| {
        host.log
            .lock()
            .expect("no panic")
            .contains("evaluates the alerts of all hosts")
    };
    assert!(evaluates(&first));
    assert!(!evaluates(&second));
    first.child.kill().await?;
    receiver.status.store(200, Ordering::SeqCst);
    receiver.until_told("idleQueue", &["firing"]).await?;
    until(SOON, "that the other evaluates", async || {
        Ok(evaluates(&second).then_some(()))
    })
    .await?;
    mend(&second, "idleQueue", &job).await?;
    receiver
        .until_told("idleQueue", &["firing", "recovered"])
        .await
}

/// The only backend that holds the lock of the alerts.
const HOLDER: &str = "select l.pid from pg_locks l join pg_database d on d.oid = l.database where l.locktype = 'advisory' \
                      and d.datname = current_database() and l.granted and (l.classid::bigint << 32 | l.objid::bigint) = $1";
/// `patchbay_store::LeaderTask::Alerts`
const ALERTS_LOCK: i64 = 0x7061_7463_6800_0001;

#[tokio::test]
async fn one_host_evaluates_and_one_goes_on_when_its_session_ends() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let hosts = [
        host(&world, &receiver, &[]).await?,
        host(&world, &receiver, &[]).await?,
    ];
    impatient(&hosts[0]).await?;
    let job = waits(&hosts[0], "idleQueue").await?;
    receiver.until_told("idleQueue", &["firing"]).await?;
    let mut database = world.database().await?;
    let mut holder: i32 = sqlx::query_scalar(HOLDER)
        .bind(ALERTS_LOCK)
        .fetch_one(&mut database)
        .await?;
    for _ in 0..3 {
        sqlx::query("select pg_terminate_backend($1)")
            .bind(holder)
            .execute(&mut database)
            .await?;
        holder = until(SOON, "another session", async || {
            let holders: Vec<i32> = sqlx::query_scalar(HOLDER)
                .bind(ALERTS_LOCK)
                .fetch_all(&mut database)
                .await?;
            ensure!(holders.len() <= 1, "{holders:?}");
            Ok(holders.first().copied().filter(|other| *other != holder))
        })
        .await?;
    }
    waits(&hosts[1], "otherQueue").await?;
    receiver.until_told("otherQueue", &["firing"]).await?;
    assert_eq!(
        receiver.told("idleQueue"),
        ["firing"],
        "not repeated by whoever took over"
    );
    mend(&hosts[1], "idleQueue", &job).await?;
    receiver
        .until_told("idleQueue", &["firing", "recovered"])
        .await
}

#[tokio::test]
async fn without_postgres_the_evaluating_host_tells_of_it_directly_and_of_its_return()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let host = host(&world, &receiver, &[("DATABASE_URL", url.as_str())]).await?;
    json_of(
        &host,
        &["--json", "alert", "rule", "set", "health", "--for", "0s"],
    )
    .await?;
    impatient(&host).await?;
    let job = waits(&host, "idleQueue").await?;
    receiver.until_told("idleQueue", &["firing"]).await?;
    cable.cut.send_replace(true);
    let of_health = |event: &str| {
        let messages = receiver.messages("/webhook", 200);
        let of_health = messages
            .into_iter()
            .filter(|body| body["alert"] == "health" && body["event"] == event);
        of_health.collect::<Vec<Value>>()
    };
    let down = until(SOON, "that Postgres is away", async || {
        Ok(of_health("firing").first().cloned())
    })
    .await?;
    assert!(
        down["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("database")),
        "{down}"
    );
    cable.cut.send_replace(false);
    until(SOON, "that it is back", async || {
        Ok((of_health("recovered").len() == 1).then_some(()))
    })
    .await?;
    assert_eq!(of_health("firing").len(), 1);
    assert_eq!(
        receiver.told("idleQueue"),
        ["firing"],
        "nothing was forgotten, and nothing repeated"
    );
    mend(&host, "idleQueue", &job).await?;
    receiver
        .until_told("idleQueue", &["firing", "recovered"])
        .await?;
    let history = json_of(&host, &["--json", "alert", "history", "--rule", "health"]).await?;
    assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    Ok(())
}

#[tokio::test]
async fn jobs_that_fail_fire_an_alert_that_recovers_once_they_were_retried_and_completed()
-> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let upstream = Receiver::new().await?;
    let host = host(&world, &receiver, &[]).await?;
    let plugin = hostile_plugin_with(|manifest| {
        manifest
            .replace("127.0.0.1:9/", &format!("{}/", upstream.address))
            .replace(
                "timeout_ms = 60_000",
                "timeout_ms = 60_000\nbreaker = { failures = 1_000 }",
            )
            .replace("deadline_ms = 200", "deadline_ms = 5_000")
    })?;
    host.deploy("hostile", plugin).await?;
    upstream.status.store(500, Ordering::SeqCst);
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(
            host.add(
                "hostileQueue",
                json!({ "name": "upstream", "data": { "url": upstream.url("x") } }),
            )
            .await?,
        );
    }
    receiver.until_told("hostileQueue", &["firing"]).await?;
    let message = receiver.messages("/webhook", 200)[0].clone();
    println!("{}", serde_json::to_string_pretty(&message)?);
    assert_eq!(
        (&message["alert"], &message["value"]),
        (&json!("failure-rate"), &json!(100.0))
    );
    upstream.status.store(200, Ordering::SeqCst);
    for id in &ids {
        host.job_in("hostileQueue", id, "failed").await?;
    }
    let retried = patchbay(&host, &["queue", "retry-all", "hostileQueue", "--yes"]).await?;
    ensure!(
        retried.status.success(),
        "{}",
        String::from_utf8_lossy(&retried.stderr)
    );
    for id in &ids {
        host.job_in("hostileQueue", id, "completed").await?;
    }
    receiver
        .until_told("hostileQueue", &["firing", "recovered"])
        .await
}

#[tokio::test]
async fn an_open_breaker_an_overdue_tick_and_an_old_secret_fire() -> anyhow::Result<()> {
    const KEY: &str = "5f1d3c2b4a59687766554433221100ffeeddccbbaa99887766554433221100ab";
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let upstream = Receiver::new().await?;
    let host = host(&world, &receiver, &[("PATCHBAY_SECRETS_KEY", KEY)]).await?;
    for change in [
        &["breaker-open", "--for", "0s"][..],
        &["schedule-overdue", "--threshold", "1"],
        &["secret-age", "--threshold", "0"],
    ] {
        json_of(
            &host,
            &[&["--json", "alert", "rule", "set"], change].concat(),
        )
        .await?;
    }
    host.deploy("hostile", hostile_plugin_calling(upstream.address)?)
        .await?;
    assert_eq!(
        host.put(
            "/api/admin/plugins/hostile/secrets/TOKEN",
            json!({ "value": "value-4711" })
        )
        .await?
        .0,
        200
    );
    // Nobody works on that queue.
    host.add("idleQueue", json!({ "name": "job", "delayMs": 3_600_000 }))
        .await?;
    let often =
        json!({ "id": "often", "queue": "idleQueue", "name": "job", "cron": "* * * * * *" });
    let (status, answer) = host.post("/api/admin/schedules", often).await?;
    ensure!(status == 200, "{answer}");
    upstream.status.store(500, Ordering::SeqCst);
    for _ in 0..20 {
        host.add(
            "hostileQueue",
            json!({ "name": "upstream", "data": { "url": upstream.url("x") } }),
        )
        .await?;
    }
    let breaker = format!("hostile http://{}", upstream.address);
    for subject in [breaker.as_str(), "often", "hostile/TOKEN"] {
        receiver.until_told(subject, &["firing"]).await?;
    }
    let messages = receiver.messages("/webhook", 200);
    assert!(
        messages
            .iter()
            .any(|body| body["plugin"] == "hostile" && body["alert"] == "breaker-open"),
        "{messages:?}"
    );
    assert!(!format!("{messages:?}").contains("value-4711"));
    Ok(())
}

#[tokio::test]
async fn jobs_that_lost_their_worker_fire() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let locks = [
        ("PATCHBAY_WORK_LOCK_S", "3"),
        ("PATCHBAY_WORK_RENEW_S", "1"),
    ];
    let mut first = host(&world, &receiver, &locks).await?;
    let patient = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 60_000")
    })?;
    first.deploy("hostile", patient).await?;
    let id = first
        .add("hostileQueue", json!({ "name": "sleep" }))
        .await?;
    first.job_in("hostileQueue", &id, "active").await?;
    let _second = host(&world, &receiver, &locks).await?;
    first.child.kill().await?;
    receiver.until_told("hostileQueue", &["firing"]).await?;
    let messages = receiver.messages("/webhook", 200);
    let told = messages
        .iter()
        .find(|body| body["subject"] == "hostileQueue")
        .context("the alert")?;
    assert_eq!(told["alert"], "stalled");
    Ok(())
}

#[tokio::test]
async fn a_test_says_of_each_channel_whether_it_works() -> anyhow::Result<()> {
    let (world, receiver) = (World::new().await?, Receiver::new().await?);
    let none = world.host(&[]).await?;
    let refused = patchbay(&none, &["alert", "test"]).await?;
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("alerts.webhook_url"));
    none.stop().await?;

    let host = host(
        &world,
        &receiver,
        &[("PATCHBAY_ALERTS_MAIL_TO", "ops@patchbay.example")],
    )
    .await?;
    let tested = patchbay(&host, &["alert", "test"]).await?;
    println!("{}", String::from_utf8_lossy(&tested.stdout));
    assert_eq!(tested.status.code(), Some(0));
    assert_eq!(
        world.mail.list()[0].subject,
        format!(
            "[development] TEST test: {}",
            receiver.messages("/webhook", 200)[0]["host"]
                .as_str()
                .context("host")?
        )
    );
    receiver.status.store(503, Ordering::SeqCst);
    let tested = patchbay(&host, &["alert", "test"]).await?;
    println!("{}", String::from_utf8_lossy(&tested.stdout));
    assert_eq!(tested.status.code(), Some(1));
    let said = String::from_utf8(tested.stdout)? + &String::from_utf8(tested.stderr)?;
    assert!(
        said.contains("FAILED: it answered with 503") && said.contains("1 of 2 channels failed"),
        "{said}"
    );
    assert!(!said.contains("/webhook"), "an address is a secret: {said}");
    Ok(())
}

#[tokio::test]
async fn rules_are_shown_changed_refused_and_put_back() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let rule = |rules: &Value, name: &str| {
        rules
            .as_array()
            .into_iter()
            .flatten()
            .find(|rule| rule["rule"] == name)
            .cloned()
            .unwrap_or_default()
    };
    let before = json_of(&host, &["--json", "alert", "rules"]).await?;
    let oldest = rule(&before, "oldest-waiting");
    assert_eq!(
        (&oldest["enabled"], &oldest["threshold"], &oldest["holdS"]),
        (&json!(true), &json!(900.0), &json!(60))
    );
    for change in [
        &[
            "oldest-waiting",
            "--threshold",
            "3600",
            "--for",
            "5m",
            "--severity",
            "critical",
        ][..],
        &["oldest-waiting", "--subject", "reminderQueue", "--off"],
        &[
            "failure-rate",
            "--at-least",
            "1",
            "--runbook",
            "https://wiki.example/failures",
        ],
    ] {
        let changed = patchbay(&host, &[&["alert", "rule", "set"], change].concat()).await?;
        ensure!(
            changed.status.success(),
            "{change:?}: {}",
            String::from_utf8_lossy(&changed.stderr)
        );
    }
    println!(
        "{}",
        String::from_utf8(patchbay(&host, &["alert", "rules"]).await?.stdout)?
    );
    let after = json_of(&host, &["--json", "alert", "rules"]).await?;
    let oldest = rule(&after, "oldest-waiting");
    assert_eq!(
        (&oldest["threshold"], &oldest["severity"]),
        (&json!(3_600.0), &json!("critical"))
    );
    assert_eq!(oldest["changes"][1]["subject"], "reminderQueue");
    assert_eq!(
        rule(&after, "failure-rate")["runbook"],
        "https://wiki.example/failures"
    );

    for (args, code) in [
        (&["alert", "rule", "set", "no-such-rule", "--off"][..], 3),
        (
            &["alert", "rule", "set", "breaker-open", "--threshold", "5"],
            4,
        ),
        (
            &["alert", "rule", "set", "oldest-waiting", "--threshold=-1"],
            2,
        ),
        (
            &["alert", "rule", "set", "failure-rate", "--threshold", "200"],
            4,
        ),
        (
            &[
                "alert",
                "rule",
                "set",
                "oldest-waiting",
                "--runbook",
                "javascript:alert(1)",
            ],
            4,
        ),
        (&["alert", "rule", "set", "oldest-waiting"], 2),
        (
            &["alert", "rule", "set", "oldest-waiting", "--at-least", "3"],
            4,
        ),
        (&["alert", "rule", "reset", "redis-full"], 3),
        (
            &[
                "alert",
                "silence",
                "oldest-waiting",
                "--for",
                "31d",
                "--reason",
                "too long",
            ],
            2,
        ),
        (
            &[
                "alert",
                "silence",
                "oldest-waiting",
                "--for",
                "1h",
                "--reason",
                " ",
            ],
            4,
        ),
        (
            &[
                "alert",
                "silence",
                "no-such-rule",
                "--for",
                "1h",
                "--reason",
                "why",
            ],
            3,
        ),
        (&["alert", "history", "--rule", "no-such-rule"], 3),
    ] {
        let refused = patchbay(&host, args).await?;
        assert_eq!(
            refused.status.code(),
            Some(code),
            "{args:?}: {}",
            String::from_utf8_lossy(&refused.stderr)
        );
    }
    for args in [
        &["alert", "rule", "reset", "oldest-waiting"][..],
        &[
            "alert",
            "rule",
            "reset",
            "oldest-waiting",
            "--subject",
            "reminderQueue",
        ],
        &["alert", "rule", "reset", "failure-rate"],
    ] {
        ensure!(patchbay(&host, args).await?.status.success(), "{args:?}");
    }
    assert_eq!(json_of(&host, &["--json", "alert", "rules"]).await?, before);
    Ok(())
}
