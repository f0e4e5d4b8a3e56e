//! Requests that come again with the same `Idempotency-Key`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Answered, plugin, route, sent};
use crate::harness::{Host, World, until};
use crate::redis_server::RedisServer;

const MASTER: (&str, &str) = (
    "PATCHBAY_SECRETS_KEY",
    "7f1e0d2c3b4a59687786950a1b2c3d4e5f60718293a4b5c6d7e8f9010a2b3c4d",
);

/// Each call of its operation answers otherwise.
fn unique(more: Value) -> Value {
    let mut base = json!({
        "method": "POST", "access": "vendor", "scope": "leads:write",
        "input": { "properties": { "body": { "type": "object" } } },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        base[key] = value.clone();
    }
    route("unique", "unique", base)
}

async fn vendor(host: &Host, name: &str) -> anyhow::Result<String> {
    let body = json!({ "name": name, "scopes": ["leads:write"] });
    let (status, issued) = host.post("/api/admin/vendor-keys", body).await?;
    anyhow::ensure!(status == 200, "{status} {issued}");
    Ok(issued["data"]["secret"].as_str().unwrap_or_default().into())
}

async fn ask(
    host: &Host,
    id: &str,
    vendor: &str,
    key: Option<&str>,
    body: &str,
) -> anyhow::Result<Answered> {
    let mut request = host
        .http
        .post(format!("{}/api/t/{id}", host.url))
        .header("x-api-key", vendor)
        .header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    sent(request.body(body.to_owned())).await
}

fn told(answer: &Answered) -> String {
    format!("{} {}", answer.status, answer.text)
}

#[tokio::test]
async fn a_hundred_repeats_at_once_on_two_hosts_are_one_call_and_one_answer() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let hosts = [
        Arc::new(world.host(&[MASTER]).await?),
        Arc::new(world.host(&[MASTER]).await?),
    ];
    let [host, other] = &hosts;
    host.deploy("tester", plugin("tester", json!([unique(json!({}))]))?)
        .await?;
    let key = Arc::new(vendor(host, "Acme").await?);
    until(Duration::from_secs(20), "the route", async || {
        let answer = ask(other, "unique", &key, None, "{}").await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await?;
    let repeats: Vec<_> = (0..100)
        .map(|n| {
            let (host, key) = (Arc::clone(&hosts[n % 2]), Arc::clone(&key));
            tokio::spawn(async move {
                ask(
                    &host,
                    "unique",
                    &key,
                    Some("order-1"),
                    r#"{"ms":500,"a":[1]}"#,
                )
                .await
            })
        })
        .collect();
    let (mut texts, mut replayed) = (BTreeSet::new(), 0);
    for repeat in repeats {
        let answer = repeat.await??;
        assert_eq!(answer.status, 200, "{}", told(&answer));
        replayed += usize::from(answer.header("idempotent-replayed") == "true");
        texts.insert(answer.text);
    }
    assert_eq!((texts.len(), replayed), (1, 99), "{texts:?}");
    let first = texts.pop_first().unwrap_or_default();
    assert!(first.contains(r#""key":"order-1""#), "{first}");

    // Nothing of the answer stands in Redis in clear.
    let mut redis = world.redis().await?;
    let names: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}-own:idem:*", world.prefix))
        .query_async(&mut redis)
        .await?;
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(!names[0].contains("order-1"));
    let kept: Vec<Vec<u8>> = redis::cmd("HVALS")
        .arg(&names[0])
        .query_async(&mut redis)
        .await?;
    let kept = kept.concat();
    for part in ["order-1", "success", "call"] {
        assert!(!String::from_utf8_lossy(&kept).contains(part), "{part}");
    }
    let left: i64 = redis::cmd("TTL")
        .arg(&names[0])
        .query_async(&mut redis)
        .await?;
    assert!((86_000..=86_400).contains(&left), "{left}");

    // The same input in another order is the same, and another one is not.
    let same = ask(
        host,
        "unique",
        &key,
        Some("order-1"),
        r#"{ "a": [1], "ms": 500 }"#,
    )
    .await?;
    assert_eq!(same.text, first);
    for body in [r#"{"ms":500,"a":[2]}"#, "{}"] {
        let reused = ask(other, "unique", &key, Some("order-1"), body).await?;
        assert_eq!(
            (reused.status, reused.json()["code"].as_str()),
            (422, Some("idempotency-key-reused")),
            "{}",
            told(&reused)
        );
    }
    // Somebody else, or another platform, with the same key.
    let stranger = vendor(host, "Other").await?;
    let apart = ask(host, "unique", &stranger, Some("order-1"), "{}").await?;
    assert_eq!(apart.status, 200);
    assert!(apart.text != first && apart.header("idempotent-replayed").is_empty());
    let mobile = host
        .http
        .post(format!("{}/api/t/unique", host.url))
        .header("x-api-key", &*key)
        .header("x-platform", "mobile")
        .header("idempotency-key", "order-1")
        .json(&json!({ "ms": 500, "a": [1] }));
    let mobile = sent(mobile).await?;
    assert!(mobile.status == 200 && mobile.text != first);

    // The same vendor with another key, after two rotations.
    let mut rotated = key.to_string();
    for _ in 0..2 {
        let path = format!("/api/admin/vendor-keys/{}/rotate", &rotated[8..20]);
        let (status, issued) = host.post(&path, json!({})).await?;
        assert_eq!(status, 200, "{issued}");
        rotated = issued["data"]["secret"].as_str().unwrap_or_default().into();
        let body = r#"{"ms":500,"a":[1]}"#;
        let again = ask(other, "unique", &rotated, Some("order-1"), body).await?;
        assert_eq!(again.text, first, "{}", told(&again));
    }

    // A swap between repeats keeps the answer.
    host.deploy(
        "tester",
        plugin("tester", json!([unique(json!({ "summary": "new" }))]))?,
    )
    .await?;
    let again = ask(
        host,
        "unique",
        &key,
        Some("order-1"),
        r#"{"ms":500,"a":[1]}"#,
    )
    .await?;
    assert_eq!((again.text, again.status), (first, 200));
    Ok(())
}

#[tokio::test]
async fn only_what_a_repeat_would_not_change_is_kept_and_no_caller_fills_redis()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[
            MASTER,
            ("PATCHBAY_ROUTES_KEPT_ANSWERS_PER_CALLER_MB", "1"),
            ("PATCHBAY_ROUTES_KEPT_ANSWERS_MB", "2"),
        ])
        .await?;
    let of = |id: &str, operation: &str, more: Value| {
        let mut route = unique(more);
        route["id"] = json!(id);
        route["path"] = json!(format!("/api/t/{id}"));
        route["operation"] = json!(operation);
        route
    };
    let routes = json!([
        unique(json!({})),
        of("required", "unique", json!({ "idempotency": "required" })),
        of("none", "unique", json!({ "idempotency": "none" })),
        of("fail", "fail", json!({})),
        of("panic", "panic", json!({})),
        of("large", "large", json!({})),
        of("created", "created", json!({ "success_status": 201 })),
        of("broken", "echo", json!({ "output": { "type": "string" } })),
    ]);
    host.deploy("tester", plugin("tester", routes)?).await?;
    let vendor = vendor(&host, "Acme").await?;
    for (id, body, first, second, is_replayed) in [
        ("unique", "{}", 200, 200, true),
        ("created", "{}", 201, 201, true),
        ("none", "{}", 200, 200, false),
        ("fail", r#"{"code":"conflict"}"#, 409, 409, true),
        ("fail", r#"{"code":"not-found"}"#, 404, 404, true),
        (
            "fail",
            r#"{"code":"upstream","afterMs":5}"#,
            502,
            502,
            false,
        ),
        ("panic", "{}", 500, 500, false),
        ("broken", "{}", 500, 500, false),
        ("large", r#"{"length":300000}"#, 200, 409, false),
        ("unique", "[]", 400, 400, false),
    ] {
        let key = format!("{id}{body}");
        let answer = ask(&host, id, &vendor, Some(&key), body).await?;
        assert_eq!(answer.status, first, "{key}: {}", told(&answer));
        assert_eq!(answer.header("idempotent-replayed"), "", "{key}");
        let again = ask(&host, id, &vendor, Some(&key), body).await?;
        assert_eq!(again.status, second, "{key}: {}", told(&again));
        let replayed = again.header("idempotent-replayed") == "true";
        assert_eq!(replayed, is_replayed, "{key}");
        if is_replayed {
            assert_eq!(again.text, answer.text, "{key}");
        }
    }
    let kept = ask(
        &host,
        "large",
        &vendor,
        Some(r#"large{"length":300000}"#),
        r#"{"length":300000}"#,
    );
    assert_eq!(kept.await?.json()["code"], "answer-not-kept");
    let missing = ask(&host, "required", &vendor, None, "{}").await?;
    assert_eq!(
        (missing.status, missing.json()["code"].as_str()),
        (400, Some("idempotency-key-required"))
    );
    for key in ["x".repeat(256), "schl\u{fc}ssel".into()] {
        let refused = ask(&host, "unique", &vendor, Some(&key), "{}").await?;
        assert_eq!(refused.status, 400, "{}", told(&refused));
    }
    let twice = host.http.post(format!("{}/api/t/unique", host.url));
    let twice = twice.header("x-api-key", &vendor).json(&json!({}));
    let twice = twice.header("idempotency-key", "a");
    let twice = sent(twice.header("idempotency-key", "b")).await?;
    assert_eq!(twice.status, 400, "{}", told(&twice));
    assert!(
        twice.text.contains("must be there once"),
        "{}",
        told(&twice)
    );
    // What was refused before the call leaves no trace: the key can be used with a right input.
    let answer = ask(&host, "unique", &vendor, Some("unique[]"), "{}").await?;
    assert_eq!(answer.status, 200, "{}", told(&answer));
    fills(&world, &host, &vendor).await
}

/// Answers of 200,000 bytes: a caller may have 1 MiB of them, and all callers 2 MiB.
async fn fills(world: &World, host: &Host, first: &str) -> anyhow::Result<()> {
    let large = r#"{"length":200000}"#;
    // The status of a call and of its repeat.
    let twice = async |vendor: &str, key: &str| {
        let answer = ask(host, "large", vendor, Some(key), large).await?;
        let again = ask(host, "large", vendor, Some(key), large).await?;
        anyhow::Ok((answer.status, again.status))
    };
    let [second, third] = [vendor(host, "Second").await?, vendor(host, "Third").await?];
    for vendor in [first, second.as_str()] {
        for n in 0..5 {
            assert_eq!(twice(vendor, &format!("large-{n}")).await?, (200, 200));
        }
    }
    assert_eq!(
        twice(first, "large-5").await?,
        (200, 409),
        "beyond its share"
    );
    assert_eq!(twice(&third, "large-0").await?, (200, 409), "beyond all");
    let page = host.metrics().await?;
    for reason in ["size", "caller", "all"] {
        let line = format!(r#"patchbay_route_answers_not_kept_total{{reason="{reason}"}} 1"#);
        assert!(page.contains(&line), "{line}");
    }

    // The counts are of hours, and one that is over counts no more: nothing leaks when Redis forgets
    // the records.
    let mut redis = world.redis().await?;
    let counts: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}-own:idem-bytes:*", world.prefix))
        .query_async(&mut redis)
        .await?;
    assert_eq!(counts.len(), 4, "three callers and all: {counts:?}");
    let now = chrono::Utc::now().timestamp() / 3_600;
    for key in &counts {
        assert!(!key.contains(&first[8..20]), "no name of anybody: {key}");
        let hours: Vec<i64> = redis::cmd("HKEYS").arg(key).query_async(&mut redis).await?;
        assert!(
            hours.iter().all(|hour| (24..=25).contains(&(hour - now))),
            "{hours:?}"
        );
        for hour in hours {
            let bytes: i64 = redis::cmd("HGET")
                .arg(key)
                .arg(hour)
                .query_async(&mut redis)
                .await?;
            let _: i64 = redis::cmd("HDEL")
                .arg(key)
                .arg(hour)
                .query_async(&mut redis)
                .await?;
            let _: i64 = redis::cmd("HSET")
                .arg(key)
                .arg(now - 1)
                .arg(bytes)
                .query_async(&mut redis)
                .await?;
        }
    }
    assert_eq!(twice(first, "large-6").await?, (200, 200));
    assert_eq!(twice(&third, "large-1").await?, (200, 200));

    // Marks take room, too: beyond four times as much, new keys are refused, and known ones answered.
    for key in counts.iter().filter(|key| !key.ends_with(":all")) {
        let hours: Vec<i64> = redis::cmd("HKEYS").arg(key).query_async(&mut redis).await?;
        assert!(hours.iter().all(|hour| *hour >= now - 1));
        let _: i64 = redis::cmd("HINCRBY")
            .arg(key)
            .arg(now + 24)
            .arg(4 << 20)
            .query_async(&mut redis)
            .await?;
    }
    let refused = ask(host, "unique", first, Some("another"), "{}").await?;
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (429, Some("rate-limited")),
        "{}",
        told(&refused)
    );
    let wait: u64 = refused.header("retry-after").parse()?;
    assert!((82_000..=90_000).contains(&wait), "{wait}");
    let known = ask(host, "large", first, Some("large-6"), large).await?;
    assert_eq!(known.header("idempotent-replayed"), "true");
    let without = ask(host, "unique", first, None, "{}").await?;
    assert_eq!(without.status, 200, "{}", told(&without));
    Ok(())
}

#[tokio::test]
async fn without_redis_requests_with_a_key_are_refused_and_each_host_keeps_its_part_of_a_limit()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = redis.url.clone();
    let host = world.host(&[MASTER]).await?;
    let mut rated = unique(json!({ "rate": { "max": 3, "per_ms": 86_400_000, "by": "key" } }));
    rated["id"] = json!("rated");
    rated["path"] = json!("/api/t/rated");
    let routes = json!([unique(json!({})), rated]);
    host.deploy("tester", plugin("tester", routes)?).await?;
    let vendor = vendor(&host, "Acme").await?;
    let first = ask(&host, "unique", &vendor, Some("a"), "{}").await?;
    assert_eq!(first.status, 200, "{}", told(&first));
    redis.stop().await?;
    let refused = until(Duration::from_secs(20), "the refusal", async || {
        let answer = ask(&host, "unique", &vendor, Some("a"), "{}").await?;
        Ok((answer.status == 503).then_some(answer))
    })
    .await?;
    assert_eq!(refused.json()["code"], "unavailable", "{}", told(&refused));
    assert_ne!(refused.header("retry-after"), "");
    let answer = ask(&host, "unique", &vendor, None, "{}").await?;
    assert_eq!(answer.status, 200, "{}", told(&answer));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&host, "rated", &vendor, None, "{}").await?.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429], "neither open nor shut");
    redis.start().await?;
    let again = until(Duration::from_secs(20), "the answer", async || {
        let answer = ask(&host, "unique", &vendor, Some("a"), "{}").await?;
        Ok((answer.status == 200).then_some(answer))
    })
    .await?;
    assert_eq!(again.text, first.text, "it was kept");
    Ok(())
}

#[tokio::test]
async fn the_request_of_a_killed_host_runs_again_after_its_lease_with_the_same_key()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (mut host, other) = (world.host(&[MASTER]).await?, world.host(&[MASTER]).await?);
    let routes = json!([unique(json!({ "deadline_ms": 1_500 }))]);
    other.deploy("tester", plugin("tester", routes)?).await?;
    let vendor = vendor(&other, "Acme").await?;
    until(Duration::from_secs(20), "the route", async || {
        let answer = ask(&host, "unique", &vendor, None, "{}").await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await?;
    let request = host
        .http
        .post(format!("{}/api/t/unique", host.url))
        .header("x-api-key", &vendor)
        .header("idempotency-key", "k")
        .json(&json!({ "ms": 1_200 }));
    let begun = tokio::spawn(request.send());
    let mut redis = world.redis().await?;
    until(Duration::from_secs(10), "the claim", async || {
        let names: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}-own:idem:*", world.prefix))
            .query_async(&mut redis.clone())
            .await?;
        Ok((!names.is_empty()).then_some(()))
    })
    .await?;
    host.child.kill().await?;
    assert!(begun.await?.is_err(), "its client sees a broken connection");
    let body = r#"{"ms":1200}"#;
    let waiting = ask(&other, "unique", &vendor, Some("k"), body).await?;
    assert_eq!(
        (waiting.status, waiting.json()["code"].as_str()),
        (409, Some("in-progress")),
        "{}",
        told(&waiting)
    );
    assert_eq!(waiting.header("retry-after"), "1");
    let another = ask(&other, "unique", &vendor, Some("k"), "{}").await?;
    assert_eq!(another.status, 422, "{}", told(&another));
    let answer = until(Duration::from_secs(30), "the answer", async || {
        let answer = ask(&other, "unique", &vendor, Some("k"), body).await?;
        Ok((answer.status == 200).then_some(answer))
    })
    .await?;
    assert_eq!(answer.json()["data"]["key"], "k");
    assert_eq!(answer.header("idempotent-replayed"), "");
    let _: () = redis::cmd("PING").query_async(&mut redis).await?;
    Ok(())
}
