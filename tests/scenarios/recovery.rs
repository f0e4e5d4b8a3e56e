//! Jobs survive when a host is killed or cut off.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{World, email_plugin, full_length, mail_job, until};
use crate::redis_server::{RedisServer, SilentProxy};

#[tokio::test]
async fn a_killed_host_loses_no_job_and_repeats_only_those_in_flight() -> anyhow::Result<()> {
    const JOBS: usize = 1_000;
    // The plugin's concurrency on its queue: at most this many jobs ran when the host was killed.
    const IN_FLIGHT: usize = 10;
    let world = World::new().await?;
    let mut host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    for n in 0..JOBS {
        host.add("emailQueue", json!({ "name": "send", "data": mail_job(n) }))
            .await?;
    }
    until(Duration::from_secs(60), "some mails", async || {
        Ok((world.mail.count() > 100).then_some(()))
    })
    .await?;
    host.child.kill().await?;
    let killed = Instant::now();
    let host = world.host(&[]).await?;
    until(Duration::from_secs(60), "all jobs completed", async || {
        let (_, answer) = host.get("/api/admin/queues").await?;
        let counts = &answer["data"][0]["counts"];
        let open = ["waiting", "active", "delayed"]
            .iter()
            .map(|state| counts[state].as_u64().unwrap_or(0))
            .sum::<u64>();
        Ok((open == 0).then_some(()))
    })
    .await?;
    let mut copies: HashMap<String, usize> = HashMap::new();
    for mail in world.mail.list() {
        *copies.entry(mail.message_id).or_default() += 1;
    }
    let twice = copies.values().filter(|&&n| n > 1).count();
    println!(
        "recovered {:?} after the kill; {twice} of {JOBS} jobs ran twice",
        killed.elapsed()
    );
    assert_eq!(copies.len(), JOBS);
    assert!(twice <= IN_FLIGHT, "{twice} ran twice");
    Ok(())
}

/// Another client adds a mail job directly to Redis; returns the time until its mail has arrived.
async fn time_to_work(world: &World, direct: &str) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let queues = patchbay_queue::Broker::connect(patchbay_queue::RedisConfig {
        url: direct.to_owned(),
        prefix: world.prefix.clone(),
        own_prefix: "test".into(),
        ..patchbay_queue::RedisConfig::default()
    })
    .await?;
    let before = world.mail.count();
    queues
        .add(vec![patchbay_model::job::NewJob::new(
            "emailQueue".parse()?,
            "send",
            mail_job(before).to_string(),
        )])
        .await?;
    until(Duration::from_secs(60), "the mail", async || {
        Ok((world.mail.count() > before).then_some(()))
    })
    .await?;
    Ok(started.elapsed())
}

async fn survives_an_outage(away: Duration, resumes_within: Duration) -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut server = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = server.url.clone();
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    time_to_work(&world, &server.url).await?;

    server.stop().await?;
    let (status, body) = until(
        Duration::from_secs(10),
        "the health check to notice",
        async || {
            let answer = host.get("/api/health").await?;
            Ok((answer.0 == 503).then_some(answer))
        },
    )
    .await?;
    assert_eq!(
        (
            status,
            &body["data"]["redis"]["connected"],
            &body["data"]["database"]["connected"]
        ),
        (503, &json!(false), &json!(true))
    );
    let (status, body) = host
        .post(
            "/api/admin/queues/emailQueue/jobs",
            json!({ "name": "send", "data": mail_job(1) }),
        )
        .await?;
    assert_eq!(
        (status, &body["code"]),
        (503, &json!("unavailable")),
        "told, not swallowed"
    );
    tokio::time::sleep(away).await;
    server.start().await?;
    let resumed = time_to_work(&world, &server.url).await?;
    println!("Redis was away for {away:?}; work resumed {resumed:?} after its return");
    assert!(resumed <= resumes_within, "{resumed:?}");
    until(
        Duration::from_secs(10),
        "the health check to recover",
        async || Ok((host.get("/api/health").await?.0 == 200).then_some(())),
    )
    .await?;
    assert!(host.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn redis_restarts_and_work_resumes_within_two_seconds() -> anyhow::Result<()> {
    survives_an_outage(Duration::from_secs(3), Duration::from_secs(2)).await
}

#[tokio::test]
async fn redis_is_away_for_a_minute_and_work_resumes_within_six_seconds() -> anyhow::Result<()> {
    let away = if full_length() { 60 } else { 12 };
    survives_an_outage(Duration::from_secs(away), Duration::from_secs(6)).await
}

#[tokio::test]
async fn redis_connections_that_go_silent_are_replaced_within_twenty_seconds() -> anyhow::Result<()>
{
    let mut world = World::new().await?;
    let server = RedisServer::start_new(world.dir.path()).await?;
    let proxy = SilentProxy::start(server.address()).await?;
    world.redis_url = format!("redis://{}/", proxy.address);
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    time_to_work(&world, &server.url).await?;
    proxy.go_silent();
    let resumed = time_to_work(&world, &server.url).await?;
    println!("connections went silent; work resumed after {resumed:?}");
    assert!(resumed <= Duration::from_secs(20), "{resumed:?}");
    Ok(())
}
