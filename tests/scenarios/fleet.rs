//! Several hosts: all follow an activation or report why not; one starts while Postgres is away.

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::Url;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::harness::{Host, World, hostile_plugin, until, variant};
use crate::redis_server::SilentProxy;

const QUEUE: &str = "hostileQueue";

async fn push(host: &Host, component: Vec<u8>) -> anyhow::Result<String> {
    let (status, staged) = host.push(component).await?;
    anyhow::ensure!(status == 200, "push: {status} {staged}");
    Ok(staged["data"]["digest"]
        .as_str()
        .context("digest")?
        .to_owned())
}

async fn activate(host: &Host, digest: &str) -> anyhow::Result<Value> {
    let body = json!({ "digest": digest, "grant": true });
    let (status, answer) = host
        .post("/api/admin/plugins/hostile/activate", body)
        .await?;
    anyhow::ensure!(status == 200, "activate: {status} {answer}");
    Ok(answer["data"].clone())
}

async fn status(host: &Host) -> anyhow::Result<Value> {
    Ok(host.get("/api/admin/plugins/hostile/status").await?.1["data"].clone())
}

async fn running(host: &Host) -> anyhow::Result<Value> {
    Ok(status(host).await?["running"].clone())
}

/// A cache directory of its own, for a host whose snapshot matters to the test.
fn cache_of(world: &World, name: &str) -> String {
    world.dir.path().join(name).to_string_lossy().into_owned()
}

/// A proxy to Postgres, which can be cut.
pub async fn proxied(world: &World) -> anyhow::Result<(SilentProxy, String)> {
    let mut url: Url = world.database_url.parse()?;
    let server = (url.host_str().context("host")?, url.port().context("port")?);
    let proxy = SilentProxy::start(
        tokio::net::lookup_host(server)
            .await?
            .next()
            .context("an address")?,
    )
    .await?;
    url.set_port(Some(proxy.address.port())).ok();
    Ok((proxy, url.into()))
}

#[tokio::test]
async fn three_processes_follow_an_activation_within_a_second_and_also_when_the_notification_is_lost()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let hosts = [
        world.host(&[]).await?,
        world.host(&[]).await?,
        world.host(&[]).await?,
    ];
    let first = hosts[0].deploy("hostile", hostile_plugin()?).await?;
    let second = push(&hosts[0], variant(&hostile_plugin()?, "second")).await?;

    let started = Instant::now();
    let answer = activate(&hosts[0], &second).await?;
    let took = started.elapsed();
    let states = answer["hosts"].as_array().context("hosts")?;
    assert_eq!(states.len(), 3, "{answer}");
    assert!(
        states.iter().all(|host| host["isCurrent"] == true),
        "{answer}"
    );
    for host in &hosts {
        assert_eq!(running(host).await?, second.as_str());
    }
    eprintln!("three processes run another revision {took:?} after the request");
    assert!(took < Duration::from_secs(1), "{took:?}");

    // Another process writes this without a notification.
    let mut database = world.database().await?;
    let mut tx = database.begin().await?;
    for statement in [
        "update patchbay.revisions set state = 'retired' where state = 'active'",
        "update patchbay.revisions set state = 'active' where digest = $1",
        "update patchbay.plugins set active = $1, generation = generation + 1",
    ] {
        let query = sqlx::query(statement);
        if statement.contains("$1") {
            query.bind(&first)
        } else {
            query
        }
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    let started = Instant::now();
    for host in &hosts {
        until(Duration::from_secs(10), "the first revision", async || {
            Ok((running(host).await? == first.as_str()).then_some(()))
        })
        .await?;
    }
    eprintln!(
        "without a notification {:?} after the commit",
        started.elapsed()
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );

    // Nobody waits for a host that ended, or was killed before another started on this machine.
    let [one, mut two, three] = hosts;
    assert!(three.stop().await?.success());
    let answer = activate(&one, &second).await?;
    assert_eq!(
        answer["hosts"].as_array().map(Vec::len),
        Some(2),
        "{answer}"
    );
    two.child.kill().await?;
    let _another = world.host(&[]).await?;
    let hosts = status(&one).await?["hosts"].clone();
    assert_eq!(hosts.as_array().map(Vec::len), Some(2), "{hosts}");
    Ok(())
}

#[tokio::test]
async fn a_process_that_cannot_load_a_revision_says_why_and_the_activation_shows_as_incomplete()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (one, small) = (
        world.host(&[]).await?,
        world
            .host(&[("PATCHBAY_RUNTIME_MAX_COMPONENT_MB", "1")])
            .await?,
    );
    let digest = push(&one, hostile_plugin()?).await?;
    let answer = activate(&one, &digest).await?;
    let states = answer["hosts"].as_array().context("hosts")?;
    let failed: Vec<&Value> = states
        .iter()
        .filter(|host| host["isCurrent"] == false)
        .collect();
    assert_eq!((states.len(), failed.len()), (2, 1), "{answer}");
    let reason = failed[0]["failure"].as_str().context("a reason")?;
    assert!(
        reason.contains("1 MiB") || reason.contains("large"),
        "{reason}"
    );

    let (_, list) = small.get("/api/admin/plugins").await?;
    assert_eq!(
        list["data"][0]["hosts"],
        json!({ "running": 1, "of": 2 }),
        "{list}"
    );
    assert_eq!(status(&one).await?["hosts"], answer["hosts"]);
    // It differs from a host that has not tried yet.
    assert_eq!(status(&small).await?["failure"], failed[0]["failure"]);
    Ok(())
}

#[tokio::test]
async fn a_host_starts_while_postgres_is_away_with_what_it_last_saw_and_follows_when_it_is_back()
-> anyhow::Result<()> {
    const KEY: &str = "5f1d3c2b4a59687766554433221100ffeeddccbbaa99887766554433221100ab";
    let world = World::new().await?;
    let (proxy, url) = proxied(&world).await?;
    let cache = cache_of(&world, "cache");
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("PATCHBAY_RUNTIME_CACHE_DIR", cache.as_str()),
        ("PATCHBAY_SECRETS_KEY", KEY),
    ];
    let host = world.host(&env).await?;
    let first = host.deploy("hostile", hostile_plugin()?).await?;
    let put = host.http.put(format!(
        "{}/api/admin/plugins/hostile/secrets/TOKEN",
        host.url
    ));
    assert_eq!(
        host.request(put.json(&json!({ "value": "value-4711" })))
            .await?
            .0,
        200
    );
    let second = push(&host, variant(&hostile_plugin()?, "second")).await?;
    assert!(host.stop().await?.success());

    proxy.refuse(true);
    let host = world.host(&env).await?;
    let (code, ready) = host.get("/readyz").await?;
    assert_eq!(
        (code, &ready["reasons"]),
        (503, &json!(["database", "stale"])),
        "{ready}"
    );
    // As any BullMQ client adds it; the guest has its grants, its settings and its secret.
    let mut redis = world.redis().await?;
    let job = json!({ "candidates": ["value-4711", "other"], "macs": [] }).to_string();
    let key = |name: &str| format!("{}:{QUEUE}:{name}", world.prefix);
    let _: () = redis::pipe()
        .hset_multiple(
            key("by-hand"),
            &[
                ("name", "secret"),
                ("data", &job),
                ("opts", "{}"),
                ("timestamp", "1"),
                ("delay", "0"),
                ("priority", "0"),
            ],
        )
        .lpush(key("wait"), "by-hand")
        .zadd(key("marker"), "0", 0)
        .query_async(&mut redis)
        .await?;
    let answer: String = until(Duration::from_secs(20), "the end of the job", async || {
        Ok(redis::cmd("HGET")
            .arg(key("by-hand"))
            .arg("returnvalue")
            .query_async(&mut redis)
            .await?)
    })
    .await?;
    assert_eq!(
        serde_json::from_str::<Value>(&answer)?["fits"],
        json!([true, false]),
        "{answer}"
    );

    proxy.refuse(false);
    until(Duration::from_secs(20), "readiness", async || {
        Ok((host.get("/readyz").await?.0 == 200).then_some(()))
    })
    .await?;
    assert_eq!(running(&host).await?, first.as_str());
    activate(&host, &second).await?;
    assert_eq!(running(&host).await?, second.as_str());
    Ok(())
}

#[tokio::test]
async fn a_host_that_never_saw_postgres_does_not_start_without_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (proxy, url) = proxied(&world).await?;
    proxy.refuse(true);
    let cache = cache_of(&world, "cache");
    let env = [
        ("DATABASE_URL", url.as_str()),
        ("PATCHBAY_RUNTIME_CACHE_DIR", cache.as_str()),
    ];
    let started = world.host(&env).await;
    assert!(started.is_err());
    Ok(())
}

#[tokio::test]
async fn a_process_that_is_cut_off_serves_on_says_that_it_is_stale_and_is_shown_as_silent()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (proxy, url) = proxied(&world).await?;
    let one = world.host(&[]).await?;
    let cut = world.host(&[("DATABASE_URL", &url)]).await?;
    let first = one.deploy("hostile", hostile_plugin()?).await?;
    until(Duration::from_secs(10), "both run it", async || {
        Ok((running(&cut).await? == first.as_str()).then_some(()))
    })
    .await?;

    proxy.refuse(true);
    proxy.go_silent();
    let second = push(&one, variant(&hostile_plugin()?, "second")).await?;
    let answer = activate(&one, &second).await?;
    let behind = |answer: &Value| {
        let hosts = answer["hosts"].as_array().into_iter().flatten().cloned();
        hosts
            .filter(|host| host["isCurrent"] == false)
            .collect::<Vec<Value>>()
    };
    assert_eq!(behind(&answer).len(), 1, "{answer}");
    until(Duration::from_secs(30), "that it is stale", async || {
        let (_, ready) = cut.get("/readyz").await?;
        let reasons = ready["reasons"].as_array().into_iter().flatten();
        Ok(reasons
            .into_iter()
            .any(|reason| reason == "stale")
            .then_some(()))
    })
    .await?;
    let alive = cut.http.get(format!("{}/livez", cut.url)).send().await?;
    assert_eq!(alive.status(), 200);
    let silent = behind(&status(&one).await?);
    assert!(
        silent.len() == 1 && silent[0]["silentS"].as_u64() >= Some(10),
        "{silent:?}"
    );

    proxy.refuse(false);
    until(Duration::from_secs(30), "that it follows", async || {
        Ok((running(&cut).await.ok() == Some(json!(second))).then_some(()))
    })
    .await?;
    Ok(())
}
