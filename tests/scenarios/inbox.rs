//! The inbox: what vendors send is kept before it is answered, judged by the host and by the plugin,
//! and becomes jobs exactly once, whoever dies in between.

use std::time::Duration;

use anyhow::Context;
use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::Row;

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, guest_component, repository, until};
use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;

pub const KEY: (&str, &str) = (
    "PATCHBAY_SECRETS_KEY",
    "1111111111111111111111111111111122222222222222222222222222222222",
);
const QUEUE: &str = "hookQueue";
pub const TOKEN: &str = "planted-token-9f27aa01";
const SIGNING: &str = "planted-signing-5be1c044";
pub const SOON: Duration = Duration::from_secs(30);

pub fn plugin(change: impl FnOnce(&mut Value)) -> anyhow::Result<Vec<u8>> {
    let file = repository().join("tests/guests/hooks/plugin.toml");
    let base = Manifest::from_toml(&std::fs::read_to_string(file)?, |_| Err("no files".into()))?;
    let mut manifest = serde_json::to_value(base)?;
    change(&mut manifest);
    let manifest = Manifest::from_packed(manifest.to_string().as_bytes())?;
    Ok(patchbay_runtime::pack(
        &guest_component("hooks")?,
        &manifest,
    )?)
}

pub async fn set_secret(host: &Host, name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/api/admin/plugins/hooks/secrets/{name}");
    let (status, answer) = host.put(&path, json!({ "value": value })).await?;
    anyhow::ensure!(status == 200, "{status} {answer}");
    Ok(())
}

/// A host with the plugin and both secrets.
async fn ready(world: &World) -> anyhow::Result<Host> {
    let host = world.host(&[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    set_secret(&host, "TOKEN", TOKEN).await?;
    set_secret(&host, "SIGNING", SIGNING).await?;
    Ok(host)
}

pub struct Answered {
    pub status: u16,
    retry_after: bool,
    content_type: String,
    pub text: String,
}

async fn sent(request: reqwest::RequestBuilder) -> anyhow::Result<Answered> {
    let response = request.send().await?;
    let header = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    Ok(Answered {
        status: response.status().as_u16(),
        retry_after: header("retry-after").is_some(),
        content_type: header("content-type").unwrap_or_default(),
        text: response.text().await?,
    })
}

fn request(host: &Host, path: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
    host.http
        .post(format!("{}/api/hooks/{path}", host.url))
        .header("content-type", "application/json")
        .body(body)
}

pub async fn post(host: &Host, path: &str, body: &Value) -> anyhow::Result<Answered> {
    sent(request(host, path, body.to_string())).await
}

fn signature(body: &str, secret: &str) -> anyhow::Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(body.as_bytes());
    Ok(format!(
        "sha256={}",
        hex::encode(mac.finalize().into_bytes())
    ))
}

/// State, code, kind and number of jobs of all requests, oldest first.
async fn rows(world: &World) -> anyhow::Result<Vec<(String, String, String, i32)>> {
    let found = sqlx::query(
        "select case when exists (select from patchbay.inbox_jobs j where j.inbox_id = i.id) then 'accepted' else state end as state, \
           coalesce(code, '') as code, kind, jobs from patchbay.inbox i order by received_at, id",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    found
        .iter()
        .map(|row| {
            Ok((
                row.try_get("state")?,
                row.try_get("code")?,
                row.try_get("kind")?,
                row.try_get("jobs")?,
            ))
        })
        .collect()
}

async fn states(world: &World) -> anyhow::Result<Vec<String>> {
    Ok(rows(world).await?.into_iter().map(|row| row.0).collect())
}

/// Waits until the requests are in these states, in any order.
pub async fn wait_for(world: &World, wanted: &[&str]) -> anyhow::Result<()> {
    let mut wanted: Vec<String> = wanted.iter().map(|state| (*state).to_owned()).collect();
    wanted.sort();
    let what = format!("{wanted:?}");
    until(SOON, &what, async || {
        let mut states = states(world).await?;
        states.sort();
        Ok((states == wanted).then_some(()))
    })
    .await
}

/// Ids of all jobs of the queue that Redis knows.
async fn jobs(world: &World) -> anyhow::Result<Vec<String>> {
    let pattern = format!("{}:{QUEUE}:wh-*", world.prefix);
    let mut keys: Vec<String> = redis::cmd("KEYS")
        .arg(&pattern)
        .query_async(&mut world.redis().await?)
        .await?;
    keys.retain(|key| !key.ends_with(":lock") && !key.ends_with(":logs"));
    keys.sort();
    Ok(keys
        .into_iter()
        .filter_map(|key| key.rsplit(':').next().map(str::to_owned))
        .collect())
}

/// Data of a job that has completed.
async fn completed(host: &Host, id: &str) -> anyhow::Result<Value> {
    let job = host.revealed_job_in(QUEUE, id, "completed").await?;
    let data = &job["job"]["data"];
    Ok(match data {
        Value::String(text) => serde_json::from_str(text)?,
        other => other.clone(),
    })
}

#[tokio::test]
async fn a_request_is_kept_sealed_and_becomes_jobs_once_and_its_repeats_do_nothing()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = ready(&world).await?;
    let body = json!({ "id": "call-1", "kind": "call.ended", "jobs": 2, "phone": "+15550101" });
    let path = format!("token?a=1&token={TOKEN}&b=2");
    let first = post(&host, &path, &body).await?;
    assert_eq!(
        (first.status, first.text.as_str()),
        (200, r#"{"success":true}"#)
    );
    wait_for(&world, &["enqueued"]).await?;
    assert_eq!(
        rows(&world).await?,
        [("enqueued".into(), String::new(), "call.ended".into(), 2)]
    );
    // It is written once: to mark it afterwards would write each of its indexes again.
    let is_written_once: bool = sqlx::query_scalar(
        "select i.xmin = e.xmin from patchbay.inbox i join patchbay.inbox_events e on e.inbox_id = i.id",
    )
    .fetch_one(&mut world.database().await?)
    .await?;
    assert!(is_written_once);
    let ids = jobs(&world).await?;
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert!(ids[0].ends_with("-0") && ids[1].ends_with("-1"), "{ids:?}");
    let data = completed(&host, &ids[0]).await?;
    assert_eq!(data["id"], "call-1");
    assert_eq!(data["query"], "a=1&b=2", "the plugin never sees the token");
    for _ in 0..5 {
        let repeat = post(&host, &path, &body).await?;
        assert_eq!(
            (repeat.status, repeat.text.as_str()),
            (200, r#"{"success":true}"#)
        );
    }
    // The same id of another webhook is another event.
    let other = post(&host, "open", &body).await?;
    assert_eq!(other.status, 200, "{}", other.text);
    wait_for(&world, &["enqueued", "enqueued"]).await?;
    assert_eq!(jobs(&world).await?.len(), 4);
    // Without an id, the content counts.
    for _ in 0..2 {
        assert_eq!(
            post(&host, "open", &json!({ "kind": "no id", "jobs": 0 }))
                .await?
                .status,
            200
        );
    }
    wait_for(&world, &["enqueued", "enqueued", "recorded"]).await?;
    let sealed: Vec<u8> =
        sqlx::query_scalar("select sealed from patchbay.inbox order by received_at limit 1")
            .fetch_one(&mut world.database().await?)
            .await?;
    let sealed = String::from_utf8_lossy(&sealed).into_owned();
    assert!(!sealed.contains("call-1") && !sealed.contains(TOKEN));
    // It is found by a value that the manifest of its webhook declares searchable, which is not shown.
    let found = async |query: &str| -> anyhow::Result<(u16, Value)> {
        host.get(&format!("/api/admin/inbox?{query}")).await
    };
    let by_phone = "dataPath=phone&dataValue=%2B15550101";
    for (query, count) in [
        (by_phone.to_owned(), 1),
        (format!("{by_phone}&webhook=hooks.token&state=enqueued"), 1),
        (format!("{by_phone}&state=accepted"), 0),
        ("dataPath=phone&dataValue=15550101".to_owned(), 0),
    ] {
        let (status, listed) = found(&query).await?;
        let ids = listed["data"].as_array().map(Vec::len);
        assert_eq!((status, ids), (200, Some(count)), "{query}: {listed}");
    }
    for (query, reason) in [
        (
            "dataPath=kind&dataValue=1",
            "dataPath: no such webhook on this host declares it searchable; searchable paths: phone",
        ),
        (
            "dataPath=phone&dataValue=1&webhook=hooks.open",
            "no path is (in plugin.toml: searchable",
        ),
        ("dataPath=phone", "dataPath and dataValue belong together"),
        ("dataPath=phone&dataValue=", "dataValue: must have 1 to"),
    ] {
        let (status, refused) = found(query).await?;
        let message = refused["message"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{query}: {refused}");
        assert!(message.contains(reason), "{query}: {refused}");
    }
    // A person is erased here, too; the event stays known.
    let person =
        json!({ "path": "phone", "value": "+15550101", "reason": "request 7", "unfinished": true });
    for (is_dry, inbox) in [(true, 2), (false, 2), (false, 0)] {
        let mut asked = person.clone();
        asked["dryRun"] = json!(is_dry);
        let (status, erased) = host.post("/api/admin/history/erase", asked).await?;
        assert_eq!(
            (status, &erased["data"]["places"]["inbox"]),
            (200, &json!(inbox)),
            "{erased}"
        );
    }
    wait_for(&world, &["erased", "erased", "recorded"]).await?;
    assert_eq!(post(&host, &path, &body).await?.status, 200);
    wait_for(&world, &["erased", "erased", "recorded"]).await?;
    assert_eq!(found(by_phone).await?.1["data"], json!([]));
    // Counts are written when the host ends.
    host.stop().await?;
    let counted: Vec<(String, i64)> = sqlx::query_as(
        "select outcome, sum(count)::bigint from patchbay.inbox_counts where plugin <> '' group by outcome order by outcome",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    assert_eq!(counted, [("accepted".into(), 3), ("repeat".into(), 7)]);
    let repeats: i64 = sqlx::query_scalar("select sum(repeats)::bigint from patchbay.inbox_events")
        .fetch_one(&mut world.database().await?)
        .await?;
    assert_eq!(repeats, 7);
    Ok(())
}

#[tokio::test]
async fn what_is_not_the_vendors_is_refused_with_a_status_and_kept_with_the_reason()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = ready(&world).await?;
    let good = json!({ "id": "e" }).to_string();
    for (path, status, code) in [
        ("token", 401, "missing-token"),
        ("token?token=", 401, "bad-token"),
        ("token?token=wrong", 401, "bad-token"),
        (
            &format!("token?token={TOKEN}&token={TOKEN}"),
            401,
            "missing-token",
        ),
        ("signed", 401, "missing-signature"),
    ] {
        let before = rows(&world).await?.len();
        // Two of a second are kept of one source.
        let refused = until(SOON, code, async || {
            let refused = sent(request(&host, path, good.clone())).await?;
            let rows = rows(&world).await?;
            Ok((rows.len() > before).then_some((refused, rows)))
        })
        .await?;
        let (refused, rows) = refused;
        assert_eq!(refused.status, status, "{path}: {}", refused.text);
        assert!(
            !refused.text.contains(code),
            "the sender learns nothing: {}",
            refused.text
        );
        let last = rows.last().context("a row")?;
        assert_eq!(
            (last.0.as_str(), last.1.as_str()),
            ("rejected", code),
            "{path}"
        );
    }
    let signed = |body: &str, signature: String| {
        request(&host, "signed", body.to_owned()).header("x-signature", signature)
    };
    let right = sent(signed(&good, signature(&good, SIGNING)?)).await?;
    assert_eq!(right.status, 202, "{}", right.text);
    let wrong = sent(signed(&good, signature(&good, "another")?)).await?;
    assert_eq!(wrong.status, 401);
    let changed = sent(signed(
        &json!({ "id": "f" }).to_string(),
        signature(&good, SIGNING)?,
    ))
    .await?;
    assert_eq!(changed.status, 401, "the signature covers the bytes");
    for (body, status) in [
        (
            json!({ "do": "reject", "status": 410, "code": "gone" }),
            410,
        ),
        (json!({ "do": "reject", "status": 302, "code": "odd" }), 400),
        (json!({ "do": "reach" }), 400),
        (json!({ "do": "secret", "value": "wrong" }), 401),
    ] {
        let refused = post(&host, "open", &body).await?;
        assert_eq!(refused.status, status, "{body}: {}", refused.text);
        assert!(
            refused.text.contains("webhook-rejected"),
            "{}",
            refused.text
        );
    }
    let accepted = post(
        &host,
        "open",
        &json!({ "do": "secret", "value": SIGNING, "id": "s" }),
    )
    .await?;
    assert_eq!(accepted.status, 200, "{}", accepted.text);
    let handshake = sent(
        host.http
            .get(format!("{}/api/hooks/open?challenge=42", host.url)),
    )
    .await?;
    assert_eq!(
        (
            handshake.status,
            handshake.text.as_str(),
            handshake.content_type.as_str()
        ),
        (200, "challenge=42", "text/plain")
    );
    let head = sent(
        host.http
            .head(format!("{}/api/hooks/open?challenge=42", host.url)),
    )
    .await?;
    assert_eq!(
        (head.status, head.text.as_str(), head.content_type.as_str()),
        (200, "", "text/plain")
    );
    Ok(())
}

#[tokio::test]
async fn odd_requests_are_refused_before_anything_is_kept() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = ready(&world).await?;
    let url = |path: &str| format!("{}/api/hooks/{path}", host.url);
    let with = |name: &str, value: &str| request(&host, "open", "{}").header(name, value);
    let many = (0..120).fold(request(&host, "open", "{}"), |request, n| {
        request.header(format!("x-header-{n}"), "1")
    });
    let large_header = request(&host, "open", "{}").header("x-large", "a".repeat(40_000));
    let chunked = |bytes: usize| {
        let chunks = futures::stream::iter(
            (0..bytes / 1_000).map(|_| Ok::<_, std::io::Error>(vec![b'a'; 1_000])),
        );
        reqwest::Body::wrap_stream(chunks)
    };
    // 64 MiB of zeros in a few bytes, said to be compressed or not: nothing is ever inflated.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![0; 64 << 20])?;
    let bomb = bomb.finish()?;
    let as_type = |kind: &str| {
        host.http
            .post(url("token"))
            .header("content-type", kind)
            .body("{}")
    };
    let almost_many = (0..90).fold(request(&host, "open", "{"), |request, n| {
        request.header(format!("x-header-{n}"), "1")
    });
    for (what, request, status) in [
        (
            "a bomb that is said to be compressed",
            request(&host, "open", bomb.clone()).header("content-encoding", "gzip"),
            415,
        ),
        (
            "a bomb that is not said to be one",
            request(&host, "open", bomb),
            422,
        ),
        ("another type", as_type("text/plain"), 415),
        ("no real type", as_type(";;"), 415),
        ("a type like it", as_type("application/json5"), 415),
        (
            "the type in capitals, with a parameter",
            as_type("Application/JSON; charset=utf-8"),
            401,
        ),
        ("90 more headers", almost_many, 422),
        ("a wrong method", host.http.put(url("open")), 405),
        ("HEAD", host.http.head(url("signed")), 405),
        ("no such webhook", host.http.post(url("nothing")), 404),
        ("gzip", with("content-encoding", "gzip"), 415),
        (
            "two codings",
            with("content-encoding", "identity, gzip"),
            415,
        ),
        (
            "a form",
            host.http
                .post(url(&format!("token?token={TOKEN}")))
                .header("content-type", "application/x-www-form-urlencoded")
                .body("a=1"),
            415,
        ),
        (
            "no type",
            host.http
                .post(url(&format!("token?token={TOKEN}")))
                .body("{}"),
            415,
        ),
        (
            "too long",
            request(&host, "signed", "a".repeat(65_537)),
            413,
        ),
        (
            "too long in chunks",
            request(&host, "signed", chunked(66_000)),
            413,
        ),
        (
            "endless chunks",
            request(&host, "open", chunked(3_000_000)),
            413,
        ),
        ("many headers", many, 431),
        ("a large header", large_header, 431),
        ("not JSON", request(&host, "open", "{"), 422),
    ] {
        let answer = sent(request).await.with_context(|| what.to_owned())?;
        println!("{what}: {} {}", answer.status, answer.text);
        assert_eq!(answer.status, status, "{what}: {}", answer.text);
    }
    // 1 GB is refused by its announced length, before it is sent.
    let mut stream = tokio::net::TcpStream::connect(host.url.trim_start_matches("http://")).await?;
    let head = "POST /api/hooks/open HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await?;
    let mut answer = vec![0; 4_096];
    let length = tokio::time::timeout(
        SOON,
        tokio::io::AsyncReadExt::read(&mut stream, &mut answer),
    )
    .await??;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let kept = rows(&world).await?;
    assert!(
        kept.iter()
            .all(|row| row.1 == "malformed" || row.1 == "missing-token"),
        "{kept:?}"
    );
    assert!(jobs(&world).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn one_event_that_reaches_two_hosts_at_once_a_hundred_times_has_one_row_and_one_set_of_jobs()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let one = ready(&world).await?;
    let other = world.host(&[KEY]).await?;
    let send = |n: usize| {
        let host = if n.is_multiple_of(2) { &one } else { &other };
        // Pairs of events, in both orders.
        let id = format!("event-{}", (n / 2 + n) % 4);
        async move { post(host, "open", &json!({ "id": id, "jobs": 2 })).await }
    };
    let answers = futures::future::try_join_all((0..100).map(send)).await?;
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // On a machine that is busy, some are judged later, and are repeats then.
    until(SOON, "four accepted and the rest repeats", async || {
        let states = states(&world).await?;
        let enqueued = states.iter().filter(|state| *state == "enqueued").count();
        let is_done = states
            .iter()
            .all(|state| state == "enqueued" || state == "repeat");
        Ok((enqueued == 4 && is_done).then_some(()))
    })
    .await?;
    let ids = jobs(&world).await?;
    assert_eq!(ids.len(), 8, "{ids:?}");
    for id in &ids {
        completed(&one, id).await?;
    }
    let attempts = until(SOON, "the history of each job", async || {
        let attempts: i64 =
            sqlx::query_scalar("select count(*) from patchbay.attempts where queue = $1")
                .bind(QUEUE)
                .fetch_one(&mut world.database().await?)
                .await?;
        Ok((attempts >= 8).then_some(attempts))
    })
    .await?;
    assert_eq!(attempts, 8, "each job ran once");
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_killed_after_its_answer_and_before_the_jobs_loses_nothing()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url.clone_from(&redis.url);
    let mut host = ready(&world).await?;
    redis.stop().await?;
    for n in 0..5 {
        let answer = post(&host, "open", &json!({ "id": format!("event-{n}") })).await?;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    host.child.kill().await?;
    assert_eq!(states(&world).await?, ["accepted"; 5]);
    redis.start().await?;
    let host = world.host(&[KEY]).await?;
    wait_for(&world, &["enqueued"; 5]).await?;
    let ids = jobs(&world).await?;
    assert_eq!(ids.len(), 5, "{ids:?}");
    for id in &ids {
        completed(&host, id).await?;
    }
    // The vendor, who may not have seen the answer, sends it again.
    assert_eq!(
        post(&host, "open", &json!({ "id": "event-0" }))
            .await?
            .status,
        200
    );
    assert_eq!(states(&world).await?, ["enqueued"; 5]);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_judged_now_is_kept_and_judged_later_at_its_original_time()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    let path = format!("token?token={TOKEN}");
    // The host's check has no secret yet, nor has the plugin's own.
    let first = post(&host, &path, &json!({ "id": "by-check" })).await?;
    assert_eq!(
        (first.status, first.text.as_str()),
        (200, r#"{"success":true}"#)
    );
    let body = json!({ "id": "by-plugin", "do": "secret", "value": SIGNING });
    assert_eq!(post(&host, "open", &body).await?.status, 200);
    let strict = post(&host, "strict", &body).await?;
    assert_eq!(strict.status, 503, "{}", strict.text);
    assert!(
        strict.retry_after && !strict.text.contains("secret"),
        "{}",
        strict.text
    );
    let kept = rows(&world).await?;
    assert_eq!(kept.len(), 2, "the strict one is not kept");
    assert!(
        kept.iter()
            .all(|row| row.0 == "deferred" && row.1 == "secret-missing"),
        "{kept:?}"
    );
    let received: Vec<i64> = sqlx::query_scalar("select (extract(epoch from received_at) * 1000)::bigint from patchbay.inbox order by received_at")
        .fetch_all(&mut world.database().await?)
        .await?;
    set_secret(&host, "TOKEN", TOKEN).await?;
    set_secret(&host, "SIGNING", SIGNING).await?;
    wait_for(&world, &["enqueued", "enqueued"]).await?;
    let ids = jobs(&world).await?;
    let mut at = Vec::new();
    for id in &ids {
        at.push(
            completed(&host, id).await?["receivedAt"]
                .as_i64()
                .context("a time")?,
        );
    }
    at.sort_unstable();
    assert!(
        at.iter()
            .zip(&received)
            .all(|(at, received)| at.abs_diff(*received) <= 1),
        "{at:?} {received:?}"
    );
    // A crash, no end and a verdict beyond the limits are not a "no".
    for (what, code) in [
        ("trap", "verify-trapped"),
        ("spin", "verify-slow"),
        ("many", "verify-invalid"),
    ] {
        let answer = post(&host, "open", &json!({ "do": what })).await?;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text);
        let kept = rows(&world).await?;
        let last = kept.last().context("a row")?;
        assert_eq!(
            (last.0.as_str(), last.1.as_str()),
            ("deferred", code),
            "{what}"
        );
    }
    // What was accepted meanwhile makes a deferred one a repeat.
    let again = post(&host, &path, &json!({ "id": "by-check" })).await?;
    assert_eq!(again.status, 200);
    assert_eq!(jobs(&world).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn webhooks_of_a_deactivated_plugin_stay_also_on_a_host_that_starts_without_postgres()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let server = PostgresServer::start_new(world.dir.path()).await?;
    world.database_url.clone_from(&server.url);
    let cache = world.dir.path().join("cache").display().to_string();
    let env = [KEY, ("PATCHBAY_RUNTIME_CACHE_DIR", cache.as_str())];
    let host = world.host(&env).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    // The same plugin under another name and other paths.
    let stopped = |manifest: &mut Value| {
        let text = manifest.to_string();
        let text = text.replace("/api/hooks/", "/api/stopped/");
        let text = text.replace(QUEUE, "stoppedQueue");
        *manifest = serde_json::from_str(&text).unwrap_or_default();
        manifest["name"] = json!("stopped");
    };
    let digest = host.deploy("stopped", plugin(stopped)?).await?;
    for name in ["hooks", "stopped"] {
        let path = format!("/api/admin/plugins/{name}/secrets/TOKEN");
        let (status, answer) = host.put(&path, json!({ "value": TOKEN })).await?;
        assert_eq!(status, 200, "{answer}");
    }
    let change = |what: &str| format!("/api/admin/plugins/stopped/{what}");
    let (status, answer) = host.post(&change("deactivate"), json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    let answers = async |host: &Host, id: &str| -> anyhow::Result<()> {
        for (path, status) in [
            (format!("token?token={TOKEN}"), 200),
            ("token?token=wrong".to_owned(), 401),
            ("open".to_owned(), 200),
            ("strict".to_owned(), 503),
        ] {
            let request = host.http.post(format!("{}/api/stopped/{path}", host.url));
            let request = request.header("content-type", "application/json");
            let answer = sent(request.body(json!({ "id": id }).to_string())).await?;
            anyhow::ensure!(answer.status == status, "{path} {id}: {}", answer.text);
        }
        // A handshake needs its answer now: nothing of it is kept.
        for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
            let url = format!("{}/api/stopped/open?a=1", host.url);
            let status = sent(host.http.request(method, url)).await?.status;
            anyhow::ensure!(status == 503, "a handshake: {status}");
        }
        Ok(())
    };
    answers(&host, "stopped").await?;
    let mut kept = rows(&world).await?;
    kept.retain(|row| row.0 == "deferred");
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().all(|row| row.1 == "deactivated"), "{kept:?}");
    let (_, shown) = host.get("/api/admin/webhooks/stopped.token").await?;
    assert_eq!(shown["data"]["state"], "deactivated", "{shown}");
    let reason = shown["data"]["reason"].to_string();
    assert!(reason.contains("deactivated since"), "{reason}");
    host.stop().await?;
    server.stop().await?;
    let host = world.host(&env).await?;
    answers(&host, "without Postgres").await?;
    let judged = post(&host, "open", &json!({ "id": "judged" })).await?;
    assert_eq!(judged.status, 200, "{}", judged.text);
    server.start().await?;
    until(SOON, "the activation", async || {
        let body = json!({ "digest": digest });
        let (status, _) = host.post(&change("activate"), body).await?;
        Ok((status == 200).then_some(()))
    })
    .await?;
    until(SOON, "five accepted events", async || {
        let states = states(&world).await?;
        let enqueued = states.iter().filter(|state| *state == "enqueued").count();
        Ok((enqueued == 5).then_some(()))
    })
    .await?;
    // Once it is removed, its paths are nobody's.
    let (status, answer) = host.post(&change("deactivate"), json!({})).await?;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = host.delete(&change(&format!("revisions/{digest}"))).await?;
    assert_eq!(status, 200, "{answer}");
    until(SOON, "404", async || {
        let gone = host.http.post(format!("{}/api/stopped/open", host.url));
        Ok((sent(gone).await?.status == 404).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_plugin_with_webhooks_needs_a_master_key() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let refused = host.deploy("hooks", plugin(|_| {})?).await;
    let reason = format!("{:#}", refused.expect_err("refused"));
    assert!(
        reason.contains("409") && reason.contains("secrets.key_file"),
        "{reason}"
    );
    Ok(())
}

/// Ids of all requests, oldest first.
async fn request_ids(world: &World) -> anyhow::Result<Vec<String>> {
    Ok(
        sqlx::query_scalar("select id::text from patchbay.inbox order by received_at, id")
            .fetch_all(&mut world.database().await?)
            .await?,
    )
}

#[tokio::test]
async fn operators_find_why_a_request_was_rejected_mend_it_and_process_and_erase_it()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    host.deploy("hooks", plugin(|_| {})?).await?;
    // The vendor has another secret than this host.
    set_secret(&host, "SIGNING", "an old value").await?;
    let body = json!({ "id": "call-7", "kind": "call", "phone": "+15550101" }).to_string();
    let signed =
        request(&host, "signed", body.clone()).header("x-signature", signature(&body, SIGNING)?);
    assert_eq!(sent(signed).await?.status, 401);
    wait_for(&world, &["rejected"]).await?;
    let id = request_ids(&world).await?.remove(0);
    let path = format!("/api/admin/inbox/{id}");
    let (status, listed) = host
        .get("/api/admin/inbox?webhook=hooks.signed&state=rejected")
        .await?;
    assert_eq!(
        (status, &listed["data"][0]["code"]),
        (200, &json!("bad-signature")),
        "{listed}"
    );
    // It says what is said, and changes nothing.
    let verify = format!("{path}/verify");
    let (_, said) = host.post(&verify, json!({})).await?;
    assert_eq!(
        (&said["data"]["verdict"], &said["data"]["applied"]),
        (&json!("rejected"), &json!(false)),
        "{said}"
    );
    set_secret(&host, "SIGNING", SIGNING).await?;
    let (_, said) = host.post(&verify, json!({})).await?;
    assert_eq!(
        (&said["data"]["verdict"], &said["data"]["state"]),
        (&json!("accepted"), &json!("rejected")),
        "{said}"
    );
    let (status, said) = host
        .post(&format!("{verify}?apply=true"), json!({}))
        .await?;
    assert_eq!(
        (status, &said["data"]["applied"]),
        (200, &json!(true)),
        "{said}"
    );
    wait_for(&world, &["enqueued"]).await?;
    let (_, shown) = host.get(&path).await?;
    let job = shown["data"]["jobIds"][0]
        .as_str()
        .context("a job")?
        .to_owned();
    assert_eq!(jobs(&world).await?, std::slice::from_ref(&job));
    let data = completed(&host, &job).await?;
    assert_eq!(data["id"], "call-7");
    // Values are hidden, and shown to whoever asks for them; that is recorded.
    let text = shown.to_string();
    assert!(
        !text.contains("15550101") && text.contains(r#""eventId":"[redacted]""#),
        "{text}"
    );
    let (_, revealed) = host
        .get(&format!("{path}?reveal=true&reason=a%20look"))
        .await?;
    assert!(revealed.to_string().contains("call-7"), "{revealed}");
    let (_, found) = host
        .get("/api/admin/inbox?webhook=hooks.signed&eventId=call-7")
        .await?;
    assert_eq!(found["data"][0]["id"], json!(id), "{found}");
    // What was processed is processed once more only on request, under other ids.
    let replay = format!("{path}/replay");
    let (status, refused) = host.post(&replay, json!({})).await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("conflict")),
        "{refused}"
    );
    let (status, again) = host
        .post(&format!("{replay}?again=true"), json!({}))
        .await?;
    assert_eq!(
        (status, &again["data"]["applied"]),
        (200, &json!(true)),
        "{again}"
    );
    wait_for(&world, &["enqueued"]).await?;
    assert_eq!(jobs(&world).await?.len(), 2);
    let (_, shown) = host.get(&path).await?;
    assert_eq!(shown["data"]["replays"][0]["number"], 1, "{shown}");
    // Erased: its content is gone, and its event is known all the same.
    let (status, erased) = host.delete(&path).await?;
    assert_eq!(
        (status, &erased["data"]["state"]),
        (200, &json!("erased")),
        "{erased}"
    );
    for gone in [format!("{replay}?again=true"), verify.clone()] {
        let (status, answer) = host.post(&gone, json!({})).await?;
        assert_eq!(
            (status, &answer["code"]),
            (410, &json!("erased")),
            "{answer}"
        );
    }
    let repeated =
        request(&host, "signed", body.clone()).header("x-signature", signature(&body, SIGNING)?);
    assert_eq!(sent(repeated).await?.status, 202);
    assert_eq!(states(&world).await?, ["erased"]);
    let (status, _) = host
        .get("/api/admin/inbox/01a22b27-2b6e-7749-86bd-b9a38734f699")
        .await?;
    assert_eq!(status, 404);
    let actions: Vec<String> = sqlx::query_scalar(
        "select action from patchbay.operator_actions where action like 'inbox.%' and error is null order by id",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    assert_eq!(
        actions,
        [
            "inbox.verify",
            "inbox.verify",
            "inbox.verify",
            "inbox.reveal",
            "inbox.replay",
            "inbox.erase"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn the_commands_show_webhooks_and_requests_and_say_what_to_do_next() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = ready(&world).await?;
    let body = json!({ "id": "call-8", "kind": "call" });
    assert_eq!(
        post(&host, &format!("token?token={TOKEN}"), &body)
            .await?
            .status,
        200
    );
    assert_eq!(post(&host, "token?token=wrong", &body).await?.status, 401);
    wait_for(&world, &["enqueued", "rejected"]).await?;
    let ids = request_ids(&world).await?;
    let said = async |arguments: &[&str]| -> anyhow::Result<String> {
        let output = patchbay(&host, arguments).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        println!("$ patchbay {}\n{text}", arguments.join(" "));
        Ok(text)
    };
    let webhooks = said(&["webhook", "list"]).await?;
    assert!(webhooks.contains("hooks.token") && webhooks.contains("/api/hooks/token"));
    let shown = said(&["webhook", "show", "hooks.token"]).await?;
    assert!(
        shown.contains("token in the ")
            && shown.contains("by the secret TOKEN")
            && shown.contains("--state rejected")
    );
    let unknown = said(&["webhook", "show", "hooks.tokn"]).await?;
    assert!(unknown.contains("Did you mean hooks.token"), "{unknown}");
    let listed = said(&["inbox", "list", "--webhook", "hooks.token"]).await?;
    assert!(listed.contains("bad-token") && listed.contains("enqueued"));
    let shown = said(&["inbox", "show", &ids[0]]).await?;
    assert!(shown.contains("--reveal shows them") && shown.contains("wh-"));
    let verdict = said(&["inbox", "verify", &ids[1]]).await?;
    assert!(
        verdict.contains("rejected (bad-token)") && verdict.contains("Its state is still rejected")
    );
    let replay = said(&["inbox", "replay", &ids[0]]).await?;
    assert!(replay.contains("--again"), "{replay}");
    let unconfirmed = said(&["inbox", "erase", &ids[0]]).await?;
    assert!(unconfirmed.contains("--yes"), "{unconfirmed}");
    let erased = said(&["inbox", "erase", &ids[0], "--yes"]).await?;
    assert!(erased.contains("Erased"), "{erased}");
    let stats = json_of(&host, &["inbox", "stats", "--json"]).await?;
    assert_eq!(stats["kept"].as_array().map(Vec::len), Some(2), "{stats}");
    // What was planted is nowhere.
    let mut places = vec![(
        "the log",
        host.log
            .lock()
            .expect("no writer panics")
            .clone()
            .into_bytes(),
    )];
    for path in [
        "/api/admin/inbox".to_owned(),
        "/api/admin/webhooks".to_owned(),
        "/api/admin/activity".to_owned(),
        format!("/api/admin/inbox/{}?reveal=true", ids[1]),
    ] {
        places.push((
            "an answer",
            host.get(&path).await?.1.to_string().into_bytes(),
        ));
    }
    places.push(("a metric", host.metrics().await?.into_bytes()));
    places.push(("a table", crate::leak::places::dump(&world).await?));
    // Those of all tests: names of others need not be text.
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut world.redis().await?)
        .await?;
    places.push(("a key", keys.join(&b'\n')));
    for id in jobs(&world).await? {
        places.push((
            "a job",
            completed(&host, &id).await?.to_string().into_bytes(),
        ));
    }
    for (place, content) in places {
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains(TOKEN) && !text.contains(SIGNING), "{place}");
    }
    let metrics = host.metrics().await?;
    for line in [
        r#"patchbay_inbox_requests_total{plugin="hooks",webhook="token",outcome="accepted"} 1"#,
        r#"patchbay_inbox_requests_total{plugin="hooks",webhook="token",outcome="rejected"} 1"#,
        r#"patchbay_inbox_ack_seconds_count{plugin="hooks",webhook="token"} 2"#,
        "patchbay_inbox_spill_entries 0",
        "patchbay_inbox_spill_bytes 0",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn while_postgres_is_away_requests_wait_in_redis_and_become_jobs_once_afterwards()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let server = PostgresServer::start_new(world.dir.path()).await?;
    world.database_url.clone_from(&server.url);
    let host = ready(&world).await?;
    assert_eq!(
        post(&host, "open", &json!({ "id": "before" }))
            .await?
            .status,
        200
    );
    wait_for(&world, &["enqueued"]).await?;
    server.stop().await?;
    for n in 0..3 {
        // The vendor repeats each.
        for _ in 0..2 {
            let answer = post(&host, "open", &json!({ "id": format!("away-{n}") })).await?;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
    assert_eq!(
        jobs(&world).await?.len(),
        1,
        "no job runs before its row is in Postgres"
    );
    // What cannot be read, and what Postgres will refuse, holds up nothing.
    let stream = format!("{}-own:inbox-spill", world.prefix);
    let mut redis = world.redis().await?;
    let waiting: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
        .arg(&stream)
        .arg("-")
        .arg("+")
        .query_async(&mut redis)
        .await?;
    let first = waiting.ids.first().context("an entry")?;
    let text: String = first.get("e").context("its content")?;
    let mut refused: Value = serde_json::from_str(&text)?;
    refused["id"] = json!("01a22b27-2b6e-7749-86bd-b9a38734f699");
    refused["event_key"] = Value::Null;
    refused["next_try_at"] = Value::Null;
    for content in ["unreadable".to_owned(), refused.to_string()] {
        let _: () = redis::cmd("XADD")
            .arg(&stream)
            .arg("*")
            .arg("e")
            .arg(content)
            .query_async(&mut redis)
            .await?;
    }
    server.start().await?;
    wait_for(&world, &["enqueued"; 4]).await?;
    let ids = jobs(&world).await?;
    assert_eq!(ids.len(), 4, "{ids:?}");
    for id in &ids {
        completed(&host, id).await?;
    }
    let by_redis: i64 =
        sqlx::query_scalar("select count(*) from patchbay.inbox where via = 'redis'")
            .fetch_one(&mut world.database().await?)
            .await?;
    assert_eq!(by_redis, 3);
    until(SOON, "only what is refused", async || {
        let left: u64 = redis::cmd("XLEN")
            .arg(&stream)
            .query_async(&mut redis)
            .await?;
        Ok((left == 2).then_some(()))
    })
    .await
}
