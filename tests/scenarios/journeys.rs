//! Journeys of people and programs from their beginning to their end: each step uses what the
//! previous one has shown.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::alerts::{Receiver, host};
use crate::bulk::bulk_in;
use crate::cable::Cable;
use crate::harness::{Host, World, as_hostile_plugin, guest_component, hostile_component, until};

const QUEUE: &str = "hostileQueue";
const JOBS: usize = 25;
const SOON: Duration = Duration::from_secs(60);
/// A load balancer and a person at a form wait no longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A revision whose jobs are found by their lead and by the import that made them.
fn revision(component: &[u8], version: &str, upstream: &Receiver) -> anyhow::Result<Vec<u8>> {
    as_hostile_plugin(component, |manifest| {
        let manifest = manifest.replace("version = \"0.1.0\"", &format!("version = \"{version}\""));
        let manifest = manifest.replace("127.0.0.1:9/", &format!("{}/", upstream.address));
        // No breaker opens: broken outside hosts and busy machines have other tests.
        let manifest = manifest.replace(
            "timeout_ms = 60_000",
            "timeout_ms = 60_000\nbreaker = { failures = 1_000 }",
        );
        manifest.replace("deadline_ms = 200", "deadline_ms = 20_000")
            + "searchable = [\"lead.id\", \"import\"]\n"
    })
}

async fn get(host: &Host, path: &str, pairs: &[(&str, &str)]) -> anyhow::Result<Value> {
    let request = host
        .http
        .get(format!("{}/api/admin/{path}", host.url))
        .query(pairs);
    let (status, answer) = host.request(request).await?;
    ensure!(status == 200, "{path} {pairs:?}: {answer}");
    Ok(answer["data"].clone())
}

async fn post(host: &Host, path: &str, body: Value) -> anyhow::Result<Value> {
    let (status, answer) = host.post(&format!("/api/admin/{path}"), body).await?;
    ensure!(status == 200, "{path}: {answer}");
    Ok(answer["data"].clone())
}

async fn add_lead(
    host: &Host,
    name: &str,
    import: &str,
    lead: usize,
    url: &str,
) -> anyhow::Result<String> {
    let data =
        json!({ "import": import, "lead": { "id": lead }, "url": url, "private": "p3rsonal" });
    host.add(QUEUE, json!({ "name": name, "data": data })).await
}

#[tokio::test]
async fn from_the_alert_of_failing_jobs_to_the_fix_and_the_message_that_all_is_well()
-> anyhow::Result<()> {
    let (world, receiver, upstream) = (
        World::new().await?,
        Receiver::new().await?,
        Receiver::new().await?,
    );
    // Without quarantine, which has a test of its own.
    let host = host(&world, &receiver, &[("PATCHBAY_QUARANTINE_POLICY", "off")]).await?;
    let broken = host
        .deploy(
            "hostile",
            revision(&hostile_component()?, "0.1.0", &upstream)?,
        )
        .await?;

    // An outside server changes its answer in a way that the plugin does not expect.
    let url = upstream.url("leads?phone=p3rsonal");
    let fine = add_lead(&host, "brittle", "september", 1, &url).await?;
    host.job_in(QUEUE, &fine, "completed").await?;
    upstream.status.store(418, Ordering::SeqCst);
    let mut ids = Vec::new();
    for lead in 0..JOBS {
        ids.push(add_lead(&host, "brittle", "october", 100 + lead, &url).await?);
    }
    for id in &ids {
        host.job_in(QUEUE, id, "failed").await?;
    }

    // The alert arrives and names the subject.
    receiver.until_told(QUEUE, &["firing"]).await?;
    let alert = receiver.messages("/webhook", 200)[0].clone();
    assert_eq!(
        (&alert["alert"], &alert["subject"]),
        (&json!("failure-rate"), &json!(QUEUE)),
        "{alert}"
    );
    assert_eq!(alert["runbook"], "docs/operations/alerts.md#failure-rate");
    assert!(
        alert["next"]
            .as_str()
            .is_some_and(|next| next.contains("patchbay job list hostileQueue failed"))
    );

    // A search finds the jobs, by the failure and by the person.
    let filter = [
        ("queue", QUEUE),
        ("code", "trapped"),
        ("data.import", "october"),
        ("limit", "200"),
    ];
    let found = until(SOON, "all of them in the history", async || {
        let found = get(&host, "history/search", &filter).await?;
        Ok((found.as_array().map(Vec::len) == Some(JOBS)).then_some(found))
    })
    .await?;
    assert!(
        found
            .as_array()
            .is_some_and(|rows| rows.iter().all(|row| row["revision"] == *broken)),
        "{found}"
    );
    let one = get(&host, "history/search", &[("data.lead.id", "107")]).await?;
    assert_eq!(
        (one.as_array().map(Vec::len), &one[0]["jobId"]),
        (Some(1), &json!(ids[7])),
        "{one}"
    );

    // One job's timeline shows the place in the plugin, and the outside server's last answer.
    let told = get(
        &host,
        &format!("queues/{QUEUE}/jobs/{}/timeline", ids[7]),
        &[],
    )
    .await?;
    let attempt = told["lives"][0]["events"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|event| event["kind"] == "attempt");
    let attempt = attempt.context("an attempt")?;
    assert_eq!(
        (&attempt["outcome"], &attempt["revision"]),
        (&json!("trapped"), &json!(broken)),
        "{attempt}"
    );
    assert!(
        attempt["stack"]
            .as_str()
            .is_some_and(|stack| stack.contains("hostile")),
        "{attempt}"
    );
    let call = &attempt["calls"][0];
    assert_eq!(
        (&call["host"], &call["result"]),
        (&json!(upstream.address.to_string()), &json!("418")),
        "{attempt}"
    );
    assert!(call["tookMs"].is_u64(), "{call}");
    assert!(
        !told.to_string().contains("p3rsonal"),
        "neither data nor the path of a call: {told}"
    );

    // All failures are one dead-letter group.
    let letters = get(&host, "dead-letters", &[]).await?;
    assert_eq!(
        (letters.as_array().map(Vec::len), &letters[0]["jobs"]),
        (Some(1), &json!(JOBS)),
        "{letters}"
    );
    let letter = format!("dead-letters/{}", letters[0]["id"]);
    let shown = get(&host, &letter, &[]).await?;
    assert_eq!(
        (&shown["revision"], &shown["repaired"]),
        (&json!(broken), &json!(0)),
        "{shown}"
    );

    // Deployed without a restart; ten jobs are retried first, and then the rest.
    let fixed = host
        .deploy(
            "hostile",
            revision(&guest_component("steady")?, "0.2.0", &upstream)?,
        )
        .await?;
    let filter = json!({ "queue": QUEUE, "code": "trapped", "data.import": "october" });
    let retry = json!({ "kind": "retry", "filter": filter, "first": 10, "reason": "0.2.0 takes that answer" });
    let bulk = post(&host, "bulk", retry).await?["id"].clone();
    let paused = bulk_in(&host, &bulk, &["paused"]).await?;
    assert_eq!(
        (&paused["matched"], &paused["done"]),
        (&json!(JOBS), &json!(10)),
        "{paused}"
    );
    let completed = [
        ("queue", QUEUE),
        ("outcome", "completed"),
        ("data.import", "october"),
        ("limit", "200"),
    ];
    until(SOON, "ten are well", async || {
        let well = get(&host, "history/search", &completed).await?;
        Ok((well.as_array().map(Vec::len) == Some(10)).then_some(()))
    })
    .await?;
    assert_eq!(
        receiver.told(QUEUE),
        ["firing"],
        "more than half of them still are failed"
    );
    post(&host, &format!("bulk/{bulk}/resume"), json!({})).await?;
    let ended = bulk_in(&host, &bulk, &["done"]).await?;
    assert_eq!(
        (&ended["done"], &ended["skipped"], &ended["failed"]),
        (&json!(JOBS), &json!(0), &json!(0)),
        "{ended}"
    );
    for id in &ids {
        host.job_in(QUEUE, id, "completed").await?;
    }

    // All is well, and everybody who was notified of the problem is notified of its end.
    receiver.until_told(QUEUE, &["firing", "recovered"]).await?;
    until(SOON, "the dead letter is mended", async || {
        Ok((get(&host, &letter, &[]).await?["repaired"] == JOBS).then_some(()))
    })
    .await?;
    let told = get(
        &host,
        &format!("queues/{QUEUE}/jobs/{}/timeline", ids[7]),
        &[],
    )
    .await?;
    let attempts: Vec<Value> = told["lives"][0]["events"]
        .as_array()
        .context("events")?
        .clone();
    let revisions = attempts
        .iter()
        .filter(|event| event["kind"] == "attempt")
        .map(|event| event["revision"].as_str());
    assert_eq!(
        revisions.collect::<Vec<_>>(),
        [Some(broken.as_str()), Some(fixed.as_str())],
        "{told:#}"
    );
    Ok(())
}

/// A host whose Postgres and Redis can be cut off.
struct Cuttable {
    host: Host,
    postgres: Cable,
    redis: Cable,
}

impl Cuttable {
    async fn new(world: &World, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let cable = async |url: &str, default: u16| {
            let mut url: reqwest::Url = url.parse()?;
            let port = url.port().unwrap_or(default);
            let cable = Cable::to(format!("127.0.0.1:{port}")).await?;
            url.set_port(Some(cable.address.port())).ok();
            anyhow::Ok((cable, url.to_string()))
        };
        let (postgres, database_url) = cable(&world.database_url, 5432).await?;
        let (redis, redis_url) = cable(&world.redis_url, 6379).await?;
        let mut all = vec![
            ("DATABASE_URL", database_url.as_str()),
            ("REDIS_URL", redis_url.as_str()),
        ];
        all.extend(env);
        let host = world.host(&all).await?;
        Ok(Self {
            host,
            postgres,
            redis,
        })
    }
}

/// Status and body, within the patience of whoever asks.
async fn patiently(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let began = Instant::now();
    let response = request.send().await?;
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    let took = began.elapsed();
    ensure!(took < PATIENCE, "{status} after {took:?}: {body}");
    Ok((status, body))
}

#[tokio::test]
async fn a_load_balancer_routes_to_a_host_only_while_its_postgres_and_its_redis_answer()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let cuttable = Cuttable::new(&world, &[("NODE_ENV", "production")]).await?;
    let (host, postgres, redis) = (&cuttable.host, &cuttable.postgres, &cuttable.redis);
    let probe = async || patiently(host.http.get(format!("{}/api/health", host.url))).await;

    // Both connected: 200, with uptime and environment.
    let (status, body) = probe().await?;
    assert_eq!((status, &body["success"]), (200, &json!(true)), "{body}");
    let data = &body["data"];
    assert_eq!(
        (&data["status"], &data["environment"]),
        (&json!("OK"), &json!("production"))
    );
    assert!(data["uptime"].is_f64(), "{data}");

    // One of them away: 503, so that the switch is aborted. Back: 200 again.
    for (what, cable) in [("database", postgres), ("redis", redis)] {
        cable.cut.send_replace(true);
        let (status, body) = until(SOON, "that it is noticed", async || {
            let (status, body) = probe().await?;
            Ok((status != 200).then_some((status, body)))
        })
        .await?;
        assert_eq!(
            (status, &body["success"], &body["message"]),
            (503, &json!(false), &json!("Service unavailable")),
            "{what}: {body}"
        );
        assert_eq!(body["data"][what]["connected"], false, "{body}");
        cable.cut.send_replace(false);
        until(SOON, "that it is back", async || {
            Ok((probe().await?.0 == 200).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_administrator_finds_when_and_from_where_somebody_logged_in() -> anyhow::Result<()> {
    let world = World::new().await?;
    let proxies = [("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")];
    let env = [&crate::people::PEOPLE[..], &proxies].concat();
    let cuttable = Cuttable::new(&world, &env).await?;
    let (host, postgres, redis) = (&cuttable.host, &cuttable.postgres, &cuttable.redis);
    let ada = crate::people::verified(&world, host, "ada@example.com").await?;
    let root = crate::people::verified(&world, host, "root@example.com").await?;
    let id = |of: &Value| of["user"]["id"].as_str().unwrap_or_default().to_owned();
    let token = |of: &Value| of["token"].as_str().unwrap_or_default().to_owned();
    let role = format!("/api/admin/people/{}/role", id(&root));
    assert_eq!(host.put(&role, json!({ "role": "admin" })).await?.0, 200);
    let log_in = || {
        let request = host.http.post(format!("{}/api/auth/login", host.url));
        let request = request
            .header("x-forwarded-for", "203.0.113.7")
            .header("user-agent", "Phone/1.0");
        let password = crate::people::PASSWORD;
        request.json(&json!({ "email": "ada@example.com", "password": password }))
    };
    let logins = format!("{}/api/audit/login_logs?user={}", host.url, id(&ada));
    let look = || host.http.get(&logins).bearer_auth(token(&root));

    // Somebody signs in with credentials, and signs out.
    let before = chrono::Utc::now() - chrono::Duration::seconds(5);
    let (status, session) = patiently(log_in()).await?;
    assert_eq!(
        (status, &session["message"]),
        (200, &json!("Login successful")),
        "{session}"
    );
    let sign_out = host.http.post(format!("{}/api/auth/logout", host.url));
    let sign_out = sign_out.bearer_auth(token(&session));
    assert_eq!(patiently(sign_out).await?.0, 200);

    // Later, an administrator confirms time and address by the id of the account.
    let (status, found) = patiently(look()).await?;
    assert_eq!(status, 200, "{found}");
    let entries = found["data"].as_array().context("entries")?;
    let actions: Vec<&Value> = entries.iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["logout", "login", "login"], "{found}");
    let login = &entries[1];
    assert_eq!(
        (
            &login["actorId"],
            &login["address"],
            &login["entry"]["userAgent"]
        ),
        (&json!(id(&ada)), &json!("203.0.113.7"), &json!("Phone/1.0"))
    );
    let at: chrono::DateTime<chrono::Utc> = login["at"].as_str().context("a time")?.parse()?;
    assert!(at > before && at < chrono::Utc::now() + chrono::Duration::seconds(5));

    // Without Postgres nobody gets in, and nobody waits for it.
    postgres.cut.send_replace(true);
    for request in [log_in(), look()] {
        let (status, body) = patiently(request).await?;
        assert_eq!((status, &body["success"]), (503, &json!(false)), "{body}");
    }
    postgres.cut.send_replace(false);
    until(SOON, "Postgres", async || {
        Ok((patiently(look()).await?.0 == 200).then_some(()))
    })
    .await?;

    // Without Redis limits cannot be kept: no login; whoever is in reads on.
    redis.cut.send_replace(true);
    let (status, body) = patiently(log_in()).await?;
    assert_eq!((status, &body["success"]), (503, &json!(false)), "{body}");
    assert_eq!(patiently(look()).await?.0, 200);
    redis.cut.send_replace(false);
    until(SOON, "Redis", async || {
        Ok((patiently(log_in()).await?.0 == 200).then_some(()))
    })
    .await?;
    let (_, found) = patiently(look()).await?;
    let count = found["data"].as_array().map(Vec::len);
    assert_eq!(count, Some(4), "what was refused is no login: {found}");
    Ok(())
}
