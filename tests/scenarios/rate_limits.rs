//! Rate limits: shared by all hosts, by Redis's clock, told in headers.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use patchbay_queue::{Broker, FailureRule, RateLimits, RedisConfig};
use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::{Host, World, until};
use crate::metrics::scrape;
use crate::redis_server::RedisServer;

const SOON: Duration = Duration::from_secs(20);
/// So long that nothing comes back during a test.
const HOUR: Duration = Duration::from_secs(3_600);

/// As another host would have them.
async fn limits(world: &World) -> anyhow::Result<RateLimits> {
    let config = RedisConfig {
        url: world.redis_url.clone(),
        prefix: world.prefix.clone(),
        own_prefix: format!("{}-own", world.prefix),
        ..RedisConfig::default()
    };
    Ok(Broker::connect(config).await?.rate_limits())
}

#[tokio::test]
async fn many_at_once_on_two_hosts_take_exactly_what_there_is() -> anyhow::Result<()> {
    let world = World::new().await?;
    let hosts = [limits(&world).await?, limits(&world).await?];
    let asked = (0..300).map(|n| hosts[n % 2].take("test:a", 50, HOUR));
    let mut taken = 0;
    for answer in join_all(asked).await {
        let answer = answer?;
        taken += usize::from(answer.is_taken);
        ensure!(
            answer.next_in <= HOUR / 50 + Duration::from_secs(1),
            "{answer:?}"
        );
    }
    assert_eq!(taken, 50);
    assert!(
        hosts[0].take("test:b", 50, HOUR).await?.is_taken,
        "another key"
    );
    let key = format!("{}-own:limit:test:a", world.prefix);
    let left_ms: i64 = redis::cmd("PTTL")
        .arg(key)
        .query_async(&mut world.redis().await?)
        .await?;
    ensure!(
        (1..=3_600_000).contains(&left_ms),
        "it ends by itself: {left_ms}"
    );
    Ok(())
}

#[tokio::test]
async fn a_unit_comes_back_after_its_share_of_the_window() -> anyhow::Result<()> {
    let world = World::new().await?;
    let limits = limits(&world).await?;
    let take = async || limits.take("test:a", 7, Duration::from_secs(7)).await;
    let mut taken = 0;
    let refused = loop {
        let answer = take().await?;
        if !answer.is_taken {
            break answer;
        }
        taken += 1;
        ensure!(answer.remaining <= 6, "{answer:?}");
    };
    ensure!(taken >= 7, "{taken}");
    ensure!(
        refused.remaining == 0 && refused.next_in <= Duration::from_secs(1),
        "{refused:?}"
    );
    until(SOON, "one more", async || {
        Ok(take().await?.is_taken.then_some(()))
    })
    .await
}

#[tokio::test]
async fn what_is_left_of_a_wider_limit_or_of_another_clock_does_not_lock_anybody_out()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let limits = limits(&world).await?;
    let key = format!("{}-own:limit:test:a", world.prefix);
    let mut redis = world.redis().await?;
    for left_over in ["99999999999999999", "nonsense", "-5", ""] {
        let _: () = redis::cmd("SET")
            .arg(&key)
            .arg(left_over)
            .query_async(&mut redis)
            .await?;
        let window = Duration::from_millis(200);
        until(SOON, left_over, async || {
            Ok(limits
                .take("test:a", 2, window)
                .await?
                .is_taken
                .then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn after_the_free_failures_each_one_doubles_the_wait_up_to_the_longest() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let hosts = [limits(&world).await?, limits(&world).await?];
    let rule = FailureRule {
        free: 2,
        longest: Duration::from_secs(3),
        forgotten_after: HOUR,
    };
    for _ in 0..2 {
        assert_eq!(hosts[0].begin("test:a", rule).await?, None);
        assert_eq!(
            hosts[0].fail("test:a", rule, Duration::ZERO).await?,
            Duration::ZERO
        );
    }
    let mut waits = Vec::new();
    for n in 0..4 {
        until(SOON, "an attempt", async || {
            Ok(hosts[n % 2]
                .begin("test:a", rule)
                .await?
                .is_none()
                .then_some(()))
        })
        .await?;
        waits.push(
            hosts[n % 2]
                .fail("test:a", rule, Duration::ZERO)
                .await?
                .as_secs(),
        );
        let wait = hosts[(n + 1) % 2].begin("test:a", rule).await?;
        let wait = wait.context("the other host makes it wait, too")?;
        ensure!(wait <= Duration::from_secs(waits[n]), "{wait:?}");
    }
    assert_eq!(waits, [1, 2, 3, 3]);
    assert_eq!(hosts[0].begin("test:b", rule).await?, None, "another key");
    hosts[1].forget("test:a").await?;
    assert_eq!(hosts[0].begin("test:a", rule).await?, None, "forgiven");
    Ok(())
}

#[tokio::test]
async fn attempts_at_the_same_moment_are_no_way_around_the_wait() -> anyhow::Result<()> {
    let world = World::new().await?;
    let limits = limits(&world).await?;
    let rule = FailureRule {
        free: 5,
        longest: HOUR,
        forgotten_after: HOUR,
    };
    let begun = join_all((0..200).map(|_| limits.begin("test:a", rule))).await;
    let begun: Vec<Option<Duration>> = begun.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(begun.iter().filter(|wait| wait.is_none()).count(), 5);
    // Those that end well make room, and leave nothing behind.
    for _ in 0..5 {
        limits.pass("test:a").await?;
    }
    for _ in 0..20 {
        assert_eq!(limits.begin("test:a", rule).await?, None);
        limits.pass("test:a").await?;
    }
    Ok(())
}

/// From any of this machine's addresses.
fn client(from: &str) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy();
    Ok(builder.local_address(from.parse::<IpAddr>()?).build()?)
}

async fn ask(host: &Host, from: &str, forwarded_for: Option<&str>) -> anyhow::Result<Response> {
    let mut request = client(from)?.get(format!("{}/nothing", host.url));
    if let Some(clients) = forwarded_for {
        request = request.header("x-forwarded-for", clients);
    }
    Ok(request.send().await?)
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap_or_default())
}

/// Asks until the limit is used up; returns the refusal.
async fn used_up(hosts: &[&Host], from: &str, clients: Option<&str>) -> anyhow::Result<Response> {
    for n in 0..40 {
        let response = ask(hosts[n % hosts.len()], from, clients).await?;
        if response.status() == 429 {
            return Ok(response);
        }
        assert_eq!(response.status(), 404);
        assert_eq!(
            header(&response, "ratelimit-policy"),
            r#""anonymous";q=2;w=60"#
        );
        ensure!(
            header(&response, "ratelimit").starts_with(r#""anonymous";r="#),
            "{response:?}"
        );
    }
    anyhow::bail!("it is not limited")
}

/// One more comes back after half a minute, which no test takes.
const TWO: (&str, &str) = ("PATCHBAY_HTTP_ANONYMOUS_PER_MINUTE", "2");

#[tokio::test]
async fn requests_without_a_login_are_limited_by_network_for_all_hosts_together()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (first, second) = (world.host(&[TWO]).await?, world.host(&[TWO]).await?);
    let refused = used_up(&[&first, &second], "127.0.0.1", None).await?;
    let retry_after: u64 = header(&refused, "retry-after").parse()?;
    ensure!((1..=30).contains(&retry_after), "{retry_after}");
    assert_eq!(
        header(&refused, "ratelimit-policy"),
        r#""anonymous";q=2;w=60"#
    );
    assert_eq!(
        header(&refused, "ratelimit"),
        format!(r#""anonymous";r=0;t={retry_after}"#)
    );
    let body: Value = refused.json().await?;
    let message = format!("Too many requests from this network. Try again in {retry_after} s");
    assert_eq!(
        body,
        json!({ "success": false, "code": "rate-limited", "message": message })
    );
    // Others, operators and probes do not notice.
    assert_eq!(ask(&first, "127.0.0.2", None).await?.status(), 404);
    for path in ["/livez", "/readyz", "/api/health", "/api/admin/breakers"] {
        let request = first.http.get(first.url.clone() + path);
        let request = request.basic_auth(crate::harness::USER, Some(crate::harness::PASSWORD));
        let response = request.send().await?;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(header(&response, "ratelimit"), "", "{path}");
    }
    let limited = first
        .http
        .get(format!("{}/api/openapi.json", second.url))
        .send()
        .await?;
    assert_eq!(limited.status(), 429);
    let refusals = scrape(&first)
        .await?
        .value("patchbay_rate_limited_total", &[("class", "anonymous")])?
        + scrape(&second)
            .await?
            .value("patchbay_rate_limited_total", &[("class", "anonymous")])?;
    assert_eq!(refusals, 2.0);
    // No address is in Redis.
    let mut redis = world.redis().await?;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(format!("{}-own:limit:*", world.prefix))
        .query_async(&mut redis)
        .await?;
    assert_eq!(keys.len(), 2, "{keys:?}");
    ensure!(keys.iter().all(|key| !key.contains("127")), "{keys:?}");
    Ok(())
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_a_limit_and_a_forged_address_changes_nothing()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let proxies = ("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.1");
    let host = world.host(&[TWO, proxies]).await?;
    used_up(&[&host], "127.0.0.1", Some("198.51.100.7")).await?;
    let forged = ask(&host, "127.0.0.1", Some("203.0.113.1, 198.51.100.7")).await?;
    assert_eq!(forged.status(), 429);
    let hundred = format!("{}198.51.100.7", "203.0.113.1, ".repeat(100));
    let response = ask(&host, "127.0.0.1", Some(&hundred)).await?;
    assert_eq!(response.status(), 429);
    let other = ask(&host, "127.0.0.1", Some("198.51.100.8")).await?;
    assert_eq!(other.status(), 404);
    // All addresses of an IPv6 /64 network are one client.
    used_up(&[&host], "127.0.0.1", Some("2001:db8:1:2::1")).await?;
    let hopping = ask(&host, "127.0.0.1", Some("2001:db8:1:2:ffff::9")).await?;
    assert_eq!(hopping.status(), 429);
    let other = ask(&host, "127.0.0.1", Some("2001:db8:1:3::1")).await?;
    assert_eq!(other.status(), 404);
    Ok(())
}

#[tokio::test]
async fn a_local_proxy_that_is_not_trusted_is_not_limited_and_an_alert_names_it()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[TWO, ("PATCHBAY_ALERTS_EVERY_MS", "100")])
        .await?;
    for _ in 0..30 {
        let response = ask(&host, "127.0.0.1", Some("198.51.100.7")).await?;
        assert_eq!(response.status(), 404);
        assert_eq!(header(&response, "ratelimit"), "");
    }
    let alert = until(SOON, "the alert", async || {
        let (_, answer) = host.get("/api/admin/alerts").await?;
        let alerts = answer["data"]["alerts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(alerts
            .into_iter()
            .find(|alert| alert["rule"] == "proxy-not-trusted"))
    })
    .await?;
    assert_eq!(alert["subject"], "127.0.0.1", "{alert}");
    let text = alert.to_string();
    ensure!(text.contains("http.trusted_proxies"), "{text}");
    Ok(())
}

#[tokio::test]
async fn where_proxies_are_configured_another_peer_that_names_a_client_is_limited_and_told()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let proxies = ("PATCHBAY_HTTP_TRUSTED_PROXIES", "203.0.113.0/24");
    let every = ("PATCHBAY_ALERTS_EVERY_MS", "100");
    let host = world.host(&[TWO, proxies, every]).await?;
    used_up(&[&host], "127.0.0.1", Some("198.51.100.7")).await?;
    let other_claim = ask(&host, "127.0.0.1", Some("198.51.100.8")).await?;
    assert_eq!(other_claim.status(), 429);
    until(SOON, "the alert", async || {
        let (_, answer) = host.get("/api/admin/alerts").await?;
        let alerts = answer["data"]["alerts"].as_array();
        let is_told = alerts.is_some_and(|alerts| {
            let mut alerts = alerts.iter();
            alerts.any(|alert| alert["rule"] == "proxy-not-trusted")
        });
        Ok(is_told.then_some(()))
    })
    .await
}

#[tokio::test]
async fn without_redis_requests_pass_and_at_once() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = redis.url.clone();
    let host = world.host(&[TWO]).await?;
    used_up(&[&host], "127.0.0.1", None).await?;
    redis.stop().await?;
    until(SOON, "the host has noticed", async || {
        Ok((ask(&host, "127.0.0.1", None).await?.status() == 404).then_some(()))
    })
    .await?;
    for _ in 0..20 {
        assert_eq!(ask(&host, "127.0.0.1", None).await?.status(), 404);
    }
    Ok(())
}

#[tokio::test]
async fn a_limit_of_zero_is_none() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_ANONYMOUS_PER_MINUTE", "0")])
        .await?;
    let response = ask(&host, "127.0.0.1", None).await?;
    assert_eq!(response.status(), 404);
    assert_eq!(header(&response, "ratelimit"), "");
    Ok(())
}
