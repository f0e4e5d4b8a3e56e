//! Redis fails over, or is away for a while: accepted jobs are kept, refused ones are reported, and
//! work resumes by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use patchbay_model::job::NewJob;
use patchbay_queue::{Broker, RedisConfig};
use serde_json::{Value, json};

use crate::cable::Cable;
use crate::harness::{Host, PASSWORD, USER, World, email_plugin, mail_job, until};
use crate::redis_server::RedisServer;

/// The maximum time for a managed failover, from the moment when the name points to the new master.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);

/// Another client adds a job directly to this server; returns the time until its mail has arrived.
async fn time_to_work(world: &World, direct: &str) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let config = RedisConfig {
        url: direct.to_owned(),
        prefix: world.prefix.clone(),
        own_prefix: "test".into(),
        ..RedisConfig::default()
    };
    let queues = Broker::connect(config).await?;
    let subject = format!("direct {}", uuid::Uuid::new_v4());
    let data = json!({ "to": "d@example.com", "subject": subject, "text": "x" }).to_string();
    queues
        .add(vec![NewJob::new("emailQueue".parse()?, "send", data)])
        .await?;
    until(Duration::from_secs(60), "the mail", async || {
        Ok(world
            .mail
            .list()
            .iter()
            .any(|mail| mail.subject == subject)
            .then_some(()))
    })
    .await?;
    Ok(started.elapsed())
}

/// Waits until `/readyz` reports `redis` with a reason that contains these words.
async fn not_ready_because(host: &Host, words: &str) -> anyhow::Result<Value> {
    until(
        Duration::from_secs(20),
        &format!("not ready: {words}"),
        async || {
            let (status, body) = host.get("/readyz").await?;
            let is_told = body["details"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|detail| {
                    detail["code"]
                        .as_str()
                        .is_some_and(|code| code.starts_with("redis"))
                        && detail["message"]
                            .as_str()
                            .is_some_and(|message| message.contains(words))
                });
            Ok((status == 503 && is_told).then_some(body))
        },
    )
    .await
}

async fn ready(host: &Host) -> anyhow::Result<()> {
    until(Duration::from_secs(20), "ready", async || {
        Ok((host.get("/readyz").await?.0 == 200).then_some(()))
    })
    .await
}

fn is_free_of_damage(host: &Host) -> bool {
    let log = host.log.lock().expect("no writer panics");
    !log.contains("damaged") && !log.contains("damaged-data")
}

/// Adds jobs through the host, one after another, until `stop`; returns the subjects of the
/// accepted ones, and the number of the others.
fn produce(
    host: &Host,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<anyhow::Result<(BTreeSet<String>, usize)>> {
    let (url, http) = (
        format!("{}/api/admin/queues/emailQueue/jobs", host.url),
        host.http.clone(),
    );
    tokio::spawn(async move {
        let (mut accepted, mut refused) = (BTreeSet::new(), 0);
        for n in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let job = json!({ "name": "send", "data": mail_job(n) });
            let response = http
                .post(&url)
                .basic_auth(USER, Some(PASSWORD))
                .json(&job)
                .send()
                .await?;
            match response.status().as_u16() {
                200 => drop(accepted.insert(format!("Message {n}"))),
                503 => refused += 1,
                other => anyhow::bail!("{other}: {}", response.text().await?),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok((accepted, refused))
    })
}

#[tokio::test]
async fn behind_one_name_a_managed_failover_loses_nothing_and_work_resumes_within_five_seconds()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let old = RedisServer::start_with(
        world.dir.path(),
        "old",
        &["--repl-diskless-sync-delay", "0"],
    )
    .await?;
    let replica_of = format!("127.0.0.1 {}", old.port);
    let new =
        RedisServer::start_with(world.dir.path(), "new", &["--replicaof", &replica_of]).await?;
    until(Duration::from_secs(20), "the replica", async || {
        Ok(old
            .ask::<String>("INFO replication")
            .await?
            .contains("state=online")
            .then_some(()))
    })
    .await?;
    let name = Cable::to(old.address().to_string()).await?;
    world.redis_url = format!("redis://{}/", name.address);
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    time_to_work(&world, &old.url).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let producer = produce(&host, Arc::clone(&stop));
    until(Duration::from_secs(20), "mails", async || {
        Ok((world.mail.count() > 5).then_some(()))
    })
    .await?;

    // As a managed service does it: the master waits for its replica, hands over, and becomes a
    // replica under its old address.
    old.ask::<String>(&format!("FAILOVER TO 127.0.0.1 {}", new.port))
        .await?;
    let told = not_ready_because(&host, "is a replica").await?;
    assert!(
        told["details"][0]["next"]
            .as_str()
            .is_some_and(|next| next.contains("failover")),
        "{told}"
    );
    assert_eq!(host.get("/api/health").await?.0, 503);
    let (status, refused) = host
        .post("/api/admin/queues/emailQueue/pause", json!({}))
        .await?;
    assert_eq!(
        (status, &refused["code"]),
        (503, &json!("unavailable")),
        "{refused}"
    );
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|message| message.contains("replica")),
        "{refused}"
    );
    let (status, why) = host.get("/api/admin/queues/emailQueue/why").await?;
    assert_eq!(
        (status, &why["data"][0]["code"]),
        (200, &json!("host-not-ready")),
        "{why}"
    );
    assert!(!why.to_string().contains("no-worker"), "{why}");

    name.server.send_replace(new.address().to_string());
    let resumed = time_to_work(&world, &new.url).await?;
    println!("work resumed {resumed:?} after the name led to the new master");
    ready(&host).await?;
    stop.store(true, Ordering::SeqCst);
    let (accepted, refused) = producer.await??;
    println!(
        "{} jobs were accepted meanwhile, {refused} refused",
        accepted.len()
    );
    until(
        Duration::from_secs(30),
        "every accepted job's mail",
        async || {
            let sent: BTreeSet<String> = world
                .mail
                .list()
                .into_iter()
                .map(|mail| mail.subject)
                .collect();
            Ok(accepted.is_subset(&sent).then_some(()))
        },
    )
    .await?;
    // The queue works completely: its waiting connection, history and kills use the new master.
    let (_, queue) = host.get("/api/admin/queues/emailQueue").await?;
    assert_eq!(queue["data"]["counts"]["paused"], false, "{queue}");
    until(
        Duration::from_secs(20),
        "the host's connections",
        async || {
            let clients: String = new.ask("CLIENT LIST").await?;
            let has = |words: &str| clients.contains(words);
            Ok(
                (has("cmd=bzpopmin") && has("cmd=xreadgroup") && has("cmd=subscribe"))
                    .then_some(()),
            )
        },
    )
    .await?;
    assert!(
        is_free_of_damage(&host),
        "nobody is told that data is damaged"
    );
    assert!(resumed <= RESUMES_WITHIN, "{resumed:?}");
    Ok(())
}

#[tokio::test]
async fn sentinels_are_asked_for_the_master_at_each_connection() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let old = RedisServer::start_with(
        world.dir.path(),
        "old",
        &["--repl-diskless-sync-delay", "0"],
    )
    .await?;
    let replica_of = format!("127.0.0.1 {}", old.port);
    let new =
        RedisServer::start_with(world.dir.path(), "new", &["--replicaof", &replica_of]).await?;
    let sentinel = RedisServer::start_sentinel(world.dir.path(), &old, "se/cr#t").await?;
    until(
        Duration::from_secs(30),
        "the Sentinel to know the replica",
        async || {
            let masters: Vec<std::collections::HashMap<String, String>> =
                sentinel_ask(&sentinel, "SENTINEL MASTERS").await?;
            Ok(masters
                .iter()
                .any(|master| master.get("num-slaves").is_some_and(|n| n == "1"))
                .then_some(()))
        },
    )
    .await?;
    world.redis_url = String::new();
    // Nobody listens on the first address, as when a Sentinel is away.
    let sentinels = format!("127.0.0.1:1, {}", sentinel.address());
    let host = world
        .host(&[
            ("PATCHBAY_REDIS_SENTINELS", sentinels.as_str()),
            ("PATCHBAY_REDIS_SENTINEL_MASTER", "mymaster"),
            ("PATCHBAY_REDIS_SENTINEL_PASSWORD", "se/cr#t"),
        ])
        .await?;
    host.deploy("email", email_plugin()?).await?;
    time_to_work(&world, &old.url).await?;
    let answer: Value = until(
        Duration::from_secs(20),
        "the failover to begin",
        async || {
            // Refused until the replica is known to be in order.
            Ok(
                sentinel_ask::<String>(&sentinel, "SENTINEL FAILOVER mymaster")
                    .await
                    .ok()
                    .map(Value::from),
            )
        },
    )
    .await?;
    assert_eq!(answer, "OK");
    until(Duration::from_secs(30), "the new master", async || {
        Ok(new
            .ask::<String>("INFO replication")
            .await?
            .contains("role:master")
            .then_some(()))
    })
    .await?;
    let resumed = time_to_work(&world, &new.url).await?;
    println!("work resumed {resumed:?} after the promotion");
    ready(&host).await?;
    assert!(is_free_of_damage(&host));
    Ok(())
}

/// The password may contain characters that a URL cannot.
async fn sentinel_ask<T: redis::FromRedisValue>(
    sentinel: &RedisServer,
    command: &str,
) -> anyhow::Result<T> {
    use redis::IntoConnectionInfo;
    let info = format!("redis://{}", sentinel.address()).into_connection_info()?;
    let info =
        info.set_redis_settings(redis::RedisConnectionInfo::default().set_password("se/cr#t"));
    let mut connection = redis::Client::open(info)?
        .get_multiplexed_async_connection()
        .await?;
    let mut words = command.split_whitespace();
    let mut asked = redis::cmd(words.next().context("a command")?);
    for word in words {
        asked.arg(word);
    }
    Ok(asked.query_async(&mut connection).await?)
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_for_a_while_is_named_and_work_goes_on_when_it_does_again()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut server = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = server.url.clone();
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    time_to_work(&world, &server.url).await?;

    server
        .ask::<()>("CONFIG SET min-replicas-to-write 1")
        .await?;
    not_ready_because(&host, "min-replicas-to-write").await?;
    let (status, refused) = host
        .post(
            "/api/admin/queues/emailQueue/jobs",
            json!({ "name": "send", "data": mail_job(1) }),
        )
        .await?;
    assert_eq!(status, 503, "{refused}");
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|message| message.contains("replicas")),
        "{refused}"
    );
    server
        .ask::<()>("CONFIG SET min-replicas-to-write 0")
        .await?;
    ready(&host).await?;

    // Its snapshot cannot be written, because a directory has that name.
    std::fs::create_dir_all(server.dir.join("dump.rdb"))?;
    for command in ["CONFIG SET appendonly no", "CONFIG SET save 900", "BGSAVE"] {
        let command = if command.ends_with("900") {
            "CONFIG SET save 900\u{a0}1"
        } else {
            command
        };
        let mut connection = world.redis().await?;
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().context("a command")?);
        for word in words {
            asked.arg(word.replace("\u{a0}", " "));
        }
        asked.query_async::<()>(&mut connection).await?;
    }
    not_ready_because(&host, "could not write to its disk").await?;
    std::fs::remove_dir(server.dir.join("dump.rdb"))?;
    server.ask::<()>("BGSAVE").await?;
    ready(&host).await?;
    server.ask::<()>("CONFIG SET appendonly yes").await?;
    until(Duration::from_secs(20), "its file", async || {
        Ok(server
            .ask::<String>("INFO persistence")
            .await?
            .contains("aof_rewrite_in_progress:0")
            .then_some(()))
    })
    .await?;
    time_to_work(&world, &server.url).await?;

    // It restarts with another password: a refused login is reported as such.
    server.stop().await?;
    server.start().await?;
    time_to_work(&world, &server.url).await?;
    server.ask::<()>("CONFIG SET requirepass changed").await?;
    server.url = format!("redis://:changed@127.0.0.1:{}/", server.port);
    server.ask::<()>("CLIENT KILL TYPE normal").await.ok();
    not_ready_because(&host, "refuses the login").await?;
    assert!(is_free_of_damage(&host));
    Ok(())
}
