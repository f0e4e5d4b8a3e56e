//! Kinds of Redis: replica, cluster, Sentinel's port, one with eviction, a user with few rights,
//! TLS, sockets. And a machine with a wrong clock.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::Context;
use patchbay_queue::{Broker, RedisConfig, Right};
use serde_json::{Value, json};

use crate::commands::json_of;
use crate::harness::{
    Host, World, binary, email_plugin, hostile_plugin_with, mail_job, repository, steady_plugin,
    until,
};
use crate::redis_server::RedisServer;

/// `patchbay doctor` with this environment, plus Postgres's.
async fn doctor(world: &World, env: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(binary());
    command
        .args(["doctor"])
        .env_clear()
        .env("DATABASE_URL", &world.database_url)
        .env("PATCHBAY_REDIS_PREFIX", &world.prefix)
        .env("PATCHBAY_REDIS_OWN_PREFIX", format!("{}-own", world.prefix))
        .env(
            "PATCHBAY_RUNTIME_CACHE_DIR",
            std::env::temp_dir().join("patchbay-test-cache"),
        )
        .envs(env.iter().copied())
        .current_dir(world.dir.path());
    let Output { stdout, stderr, .. } = command.output().await?;
    Ok(String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// Waits until `/readyz` reports a problem of Redis with these words.
async fn trouble(host: &Host, words: &str) -> anyhow::Result<Value> {
    until(
        Duration::from_secs(20),
        &format!("not ready: {words}"),
        async || {
            let (status, body) = host.get("/readyz").await?;
            let found = body["details"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|detail| {
                    detail["message"]
                        .as_str()
                        .is_some_and(|message| message.contains(words))
                });
            Ok(found.filter(|_| status == 503).cloned())
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

fn log(host: &Host) -> String {
    host.log.lock().expect("no writer panics").clone()
}

#[tokio::test]
async fn a_host_on_a_redis_that_cannot_serve_is_not_ready_and_says_why() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let master = RedisServer::start_new(world.dir.path()).await?;
    let replica_of = format!("127.0.0.1 {}", master.port);
    let replica =
        RedisServer::start_with(world.dir.path(), "replica", &["--replicaof", &replica_of]).await?;
    let cluster =
        RedisServer::start_with(world.dir.path(), "cluster", &["--cluster-enabled", "yes"]).await?;
    cluster.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await?;
    let sentinel = RedisServer::start_sentinel(world.dir.path(), &master, "se-cret").await?;
    for (server, words) in [
        (&replica, "is a replica"),
        (&cluster, "is a cluster"),
        (&sentinel, "is the port of a Sentinel"),
    ] {
        world.redis_url.clone_from(&server.url);
        let said = doctor(&world, &[("REDIS_URL", &server.url)]).await?;
        assert!(said.contains(words) && !said.contains("damaged"), "{said}");
        let host = world.host(&[]).await?;
        let told = trouble(&host, words).await?;
        assert_eq!(told["code"], "redis", "{told}");
        host.deploy("email", email_plugin()?).await?;
        let (status, refused) = host
            .post(
                "/api/admin/queues/emailQueue/jobs",
                json!({ "name": "send", "data": mail_job(1), "newQueue": true }),
            )
            .await?;
        assert_eq!(
            (status, &refused["code"]),
            (503, &json!("unavailable")),
            "{words}: {refused}"
        );
        assert!(
            !log(&host).contains("damaged"),
            "{words}: nobody is invited to delete data"
        );
        assert!(log(&host).contains(words), "the log says it, too");
    }
    // A promoted replica is used without a restart.
    world.redis_url.clone_from(&replica.url);
    let host = world.host(&[]).await?;
    trouble(&host, "is a replica").await?;
    replica.ask::<()>("REPLICAOF NO ONE").await?;
    ready(&host).await?;
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(2) }))
        .await?;
    host.job_in("emailQueue", &id, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn an_eviction_policy_is_an_alert_and_no_secret_of_doctors() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let server = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url.clone_from(&server.url);
    let host = world.host(&[("PATCHBAY_ALERTS_EVERY_MS", "200")]).await?;
    ready(&host).await?;
    json_of(
        &host,
        &[
            "--json",
            "alert",
            "rule",
            "set",
            "redis-unfit",
            "--for",
            "0s",
        ],
    )
    .await?;
    for (policy, consequence) in [
        ("allkeys-lru", "deletes jobs"),
        ("volatile-lru", "locks of running jobs"),
    ] {
        server
            .ask::<()>(&format!("CONFIG SET maxmemory-policy {policy}"))
            .await?;
        let said = doctor(&world, &[("REDIS_URL", &server.url)]).await?;
        assert!(said.contains("maxmemory is not set"), "{said}");
        server.ask::<()>("CONFIG SET maxmemory 100mb").await?;
        let told = trouble(&host, consequence).await?;
        assert_eq!(
            (&told["code"], &told["next"]),
            (
                &json!("redis-evicts"),
                &json!("Set maxmemory-policy noeviction")
            )
        );
        assert_eq!(
            host.get("/api/health").await?.0,
            200,
            "it answers and takes writes"
        );
        let fires = |alerts: &Value| {
            alerts["data"]["alerts"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|alert| {
                    alert["rule"] == "redis-unfit"
                        && alert["reason"]
                            .as_str()
                            .is_some_and(|why| why.contains(policy))
                })
        };
        until(Duration::from_secs(30), "the alert", async || {
            Ok(fires(&host.get("/api/admin/alerts").await?.1).then_some(()))
        })
        .await?;
        let said = doctor(&world, &[("REDIS_URL", &server.url)]).await?;
        assert!(said.contains(consequence), "{said}");
        server.ask::<()>("CONFIG SET maxmemory 0").await?;
        ready(&host).await?;
    }
    Ok(())
}

/// The line of the documentation, for this world's prefixes.
fn documented_user(world: &World, password: &str) -> anyhow::Result<String> {
    let page = std::fs::read_to_string(repository().join("docs/operations/infrastructure.md"))?;
    let line = page
        .lines()
        .find(|line| line.starts_with("ACL SETUSER"))
        .context("the line")?;
    Ok(line
        .replace("PASSWORD", password)
        .replace("~bull:*", &format!("~{}:*", world.prefix))
        .replace("~patchbay:*", &format!("~{}-own:*", world.prefix))
        .replace("&patchbay:kill", &format!("&{}-own:kill", world.prefix)))
}

#[tokio::test]
async fn a_user_with_exactly_the_documented_rights_suffices_for_everything() -> anyhow::Result<()> {
    const PASSWORD: &str = "p@ss/w#rd%?:";
    let mut world = World::new().await?;
    let server = RedisServer::start_new(world.dir.path()).await?;
    server
        .ask::<()>(&documented_user(&world, PASSWORD)?)
        .await?;
    world.redis_url = String::new();
    let port = server.port.to_string();
    let access = [
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", port.as_str()),
        ("REDIS_USERNAME", "patchbay"),
        ("REDIS_PASSWORD", PASSWORD),
    ];
    let said = doctor(&world, &access).await?;
    assert!(said.contains("has every right"), "{said}");
    let host = world.host(&access).await?;
    host.deploy("email", email_plugin()?).await?;
    host.deploy(
        "hostile",
        hostile_plugin_with(|manifest| {
            manifest.replace("deadline_ms = 200", "deadline_ms = 60000")
        })?,
    )
    .await?;
    ready(&host).await?;
    let path = |queue: &str, rest: &str| format!("/api/admin/queues/{queue}/{rest}");

    let sent = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    host.job_in("emailQueue", &sent, "completed").await?;
    let failed = host
        .add("hostileQueue", json!({ "name": "panic", "attempts": 1 }))
        .await?;
    host.job_in("hostileQueue", &failed, "failed").await?;
    let runs = host
        .add(
            "hostileQueue",
            json!({ "name": "spin", "data": { "ms": 50_000 } }),
        )
        .await?;
    host.job_in("hostileQueue", &runs, "active").await?;
    let (status, killed) = host
        .post(
            &path("hostileQueue", &format!("jobs/{runs}/kill")),
            json!({}),
        )
        .await?;
    assert_eq!(status, 200, "{killed}");
    host.job_in("hostileQueue", &runs, "failed").await?;
    for (method, rest, body) in [
        ("POST", "pause", json!({})),
        ("GET", "why", Value::Null),
        ("GET", "jobs?state=failed", Value::Null),
        ("POST", "resume", json!({})),
        ("POST", "pause", json!({})),
        ("POST", "put-back", json!({ "state": "failed" })),
        ("POST", "drain", json!({ "delayed": true })),
        (
            "POST",
            "clean",
            json!({ "state": "completed", "olderThanMs": 0, "limit": 100 }),
        ),
        (
            "POST",
            "clean",
            json!({ "state": "failed", "olderThanMs": 0, "limit": 100 }),
        ),
    ] {
        let path = path("hostileQueue", rest);
        let (status, answer) = if method == "GET" {
            host.get(&path).await?
        } else {
            host.post(&path, body).await?
        };
        assert_eq!(status, 200, "{rest}: {answer}");
    }
    for arguments in [
        &["queue", "why", "emailQueue"][..],
        &["job", "add", "emailQueue", "send", "{}", "--delay", "1h"],
        &["job", "add", "emailQueue", "send", "{}", "--priority", "5"],
        &["queue", "concurrency", "emailQueue", "3"],
        &["queue", "obliterate", "hostileQueue", "--yes"],
        &["schedule", "list"],
        &["history", "list"],
    ] {
        let output = crate::commands::patchbay(&host, arguments).await?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !text.contains("right") && !text.contains("NOPERM"),
            "{arguments:?}: {text}"
        );
    }
    let (status, answer) = host
        .post(
            "/api/admin/schedules",
            json!({ "id": "tick", "queue": "emailQueue", "name": "send", "data": mail_job(3), "everyMs": 3_600_000 }),
        )
        .await?;
    assert!(status == 200 || status == 201, "{answer}");
    until(Duration::from_secs(20), "history", async || {
        let rows: i64 = sqlx::query_scalar("select count(*) from patchbay.attempts")
            .fetch_one(&mut world.database().await?)
            .await?;
        Ok((rows > 1).then_some(()))
    })
    .await?;
    assert!(!host.metrics().await?.is_empty());
    host.stop().await?;

    // Everything that was refused, even where the host continued without it.
    let refusals: Vec<Value> = acl_log(&server).await?;
    assert!(refusals.is_empty(), "{refusals:?}");
    server.ask::<()>("ACL SETUSER patchbay -zadd").await?;
    let said = doctor(&world, &access).await?;
    assert!(said.contains("ACL SETUSER <user> +zadd"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_right_that_is_taken_from_a_running_host_is_named_and_it_takes_no_jobs_until_it_is_back()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let server = RedisServer::start_new(world.dir.path()).await?;
    server.ask::<()>(&documented_user(&world, "pw")?).await?;
    world.redis_url = format!("redis://patchbay:pw@127.0.0.1:{}/", server.port);
    let host = world.host(&[]).await?;
    host.deploy("steady", steady_plugin()?).await?;
    ready(&host).await?;
    // Without the first right, no attempt could be recorded; without the second, only an operator's
    // answer is less complete.
    server
        .ask::<()>("ACL SETUSER patchbay -xadd -memory|usage")
        .await?;
    let told = trouble(&host, "lacks a right: +xadd").await?;
    assert_eq!(told["code"], "redis", "{told}");
    assert!(!told.to_string().contains("memory"), "{told}");
    let (status, why) = host.get("/api/admin/queues/steadyQueue/why").await?;
    assert!(status == 503 || why.to_string().contains("+xadd"), "{why}");
    server.ask::<()>("ACL SETUSER patchbay +xadd").await?;
    ready(&host).await?;
    let id = host
        .add("steadyQueue", json!({ "name": "nothing" }))
        .await?;
    host.job_in("steadyQueue", &id, "completed").await?;
    Ok(())
}

#[tokio::test]
async fn in_a_full_redis_jobs_keep_their_locks_and_settle_once_and_operators_look_and_remove()
-> anyhow::Result<()> {
    const QUEUE: &str = "steadyQueue";
    let mut world = World::new().await?;
    let server = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url.clone_from(&server.url);
    let host = world
        .host(&[
            ("PATCHBAY_WORK_LOCK_S", "3"),
            ("PATCHBAY_WORK_RENEW_S", "1"),
        ])
        .await?;
    host.deploy("steady", steady_plugin()?).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        // Longer than a lock lives.
        let id = host
            .add(QUEUE, json!({ "name": "nap", "data": { "ms": 7_000 } }))
            .await?;
        host.job_in(QUEUE, &id, "active").await?;
        ids.push(id);
    }
    server.ask::<()>("CONFIG SET maxmemory 100kb").await?;
    for id in &ids {
        let story = host.job_in(QUEUE, id, "completed").await?;
        assert_eq!(
            (&story["job"]["attemptsStarted"], &story["job"]["stalled"]),
            (&json!(1), &json!(0)),
            "{story}"
        );
    }
    let (_, refused) = host
        .post(
            &format!("/api/admin/queues/{QUEUE}/jobs"),
            json!({ "name": "nothing" }),
        )
        .await?;
    assert_eq!(refused["code"], "redis-full", "{refused}");
    for arguments in [
        vec!["job", "show", QUEUE, &ids[0]],
        vec!["job", "remove", QUEUE, &ids[0], "--yes"],
    ] {
        let output = crate::commands::patchbay(&host, &arguments).await?;
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let recorded = async || -> anyhow::Result<i64> {
        let rows = sqlx::query_scalar(
            "select count(*) from patchbay.attempts where outcome = 'completed'",
        );
        Ok(rows.fetch_one(&mut world.database().await?).await?)
    };
    until(Duration::from_secs(30), "the history", async || {
        Ok((recorded().await? == 3).then_some(()))
    })
    .await?;
    server.ask::<()>("CONFIG SET maxmemory 0").await?;
    let id = until(Duration::from_secs(20), "room", async || {
        Ok(host.add(QUEUE, json!({ "name": "nothing" })).await.ok())
    })
    .await?;
    host.job_in(QUEUE, &id, "completed").await?;
    until(Duration::from_secs(30), "the history", async || {
        Ok((recorded().await? == 4).then_some(()))
    })
    .await?;
    assert!(
        !log(&host).contains("lock lost") && !log(&host).contains("stalled:"),
        "each ran once"
    );
    Ok(())
}

/// Refused commands, except `CLIENT SETINFO`, which Redis 7.0 does not know.
async fn acl_log(server: &RedisServer) -> anyhow::Result<Vec<Value>> {
    let entries: Vec<std::collections::HashMap<String, redis::Value>> =
        server.ask("ACL LOG").await?;
    let text = |entry: &std::collections::HashMap<String, redis::Value>, name: &str| {
        entry
            .get(name)
            .and_then(|value| redis::from_redis_value::<String>(value.clone()).ok())
            .unwrap_or_default()
    };
    let told = entries.iter().map(|entry| json!({ "what": text(entry, "object"), "how": text(entry, "context"), "reason": text(entry, "reason") }));
    Ok(told
        .filter(|entry| {
            !entry["what"]
                .as_str()
                .is_some_and(|what| what.starts_with("client|setinfo"))
        })
        .collect())
}

#[tokio::test]
async fn doctor_names_each_right_that_is_missing() -> anyhow::Result<()> {
    let world = World::new().await?;
    let server = RedisServer::start_new(world.dir.path()).await?;
    let line = documented_user(&world, "pw")?;
    server.ask::<()>(&line).await?;
    let config = RedisConfig {
        url: format!("redis://patchbay:pw@{}/", server.address()),
        prefix: world.prefix.clone(),
        own_prefix: format!("{}-own", world.prefix),
        ..RedisConfig::default()
    };
    let queues = Broker::connect(config).await?;
    assert_eq!(queues.missing_rights().await?, []);
    for right in line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix('+'))
    {
        server
            .ask::<()>(&format!("ACL SETUSER patchbay -{right}"))
            .await?;
        let missing: Vec<String> = queues
            .missing_rights()
            .await?
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(missing, [format!("+{right}")]);
        server
            .ask::<()>(&format!("ACL SETUSER patchbay +{right}"))
            .await?;
    }
    server
        .ask::<()>("ACL SETUSER patchbay resetkeys resetchannels")
        .await?;
    let missing = queues.missing_rights().await?;
    let wanted = [
        Right::Keys(world.prefix.clone()),
        Right::Keys(format!("{}-own", world.prefix)),
        Right::Channel(format!("{}-own:kill", world.prefix)),
    ];
    assert_eq!(missing, wanted);
    let left: Vec<String> = server.ask("KEYS *").await?;
    assert!(left.is_empty(), "asking changes nothing: {left:?}");
    Ok(())
}

/// A private CA, and a certificate for this machine that it has signed, valid for clients too.
fn certificates(dir: &Path) -> anyhow::Result<()> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name
        .push(DnType::CommonName, "A private CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let key = KeyPair::generate()?;
    let signed = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?
        .signed_by(&key, &Issuer::new(ca, ca_key))?;
    std::fs::write(dir.join("redis.pem"), signed.pem())?;
    std::fs::write(dir.join("redis.key"), key.serialize_pem())?;
    Ok(())
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_with_a_private_ca_and_with_client_certificates()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    world.redis_url = String::new();
    certificates(world.dir.path())?;
    let file = |name: &str| world.dir.path().join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.pem"), file("redis.pem"), file("redis.key"));
    let tls = |clients: &'static str| {
        let usual = [
            "--port",
            "0",
            "--tls-port",
            "PORT",
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
        ];
        [
            &usual[..],
            &["--tls-ca-cert-file", &ca, "--tls-auth-clients", clients],
        ]
        .concat()
    };
    let open = RedisServer::start_with(world.dir.path(), "open", &tls("no")).await?;
    let strict = RedisServer::start_with(world.dir.path(), "strict", &tls("yes")).await?;

    let url = format!("rediss://localhost:{}/", open.port);
    let said = doctor(&world, &[("REDIS_URL", &url)]).await?;
    assert!(
        said.contains("TLS with Redis fails") && said.contains("UnknownIssuer"),
        "nobody trusts that CA: {said}"
    );
    let plain = RedisServer::start_new(world.dir.path()).await?;
    let by_plain = format!("rediss://{}/", plain.address());
    let said = doctor(&world, &[("REDIS_URL", &by_plain)]).await?;
    assert!(!said.contains("maxmemory-policy"), "{said}");
    let said = doctor(&world, &[("REDIS_URL", &url), ("SSL_CERT_FILE", &ca)]).await?;
    assert!(said.contains("maxmemory-policy is noeviction"), "{said}");
    let port = open.port.to_string();
    let parts = [
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", port.as_str()),
        ("REDIS_TLS", "true"),
    ];
    let said = doctor(
        &world,
        &[&parts[..], &[("PATCHBAY_REDIS_CA_FILE", ca.as_str())]].concat(),
    )
    .await?;
    assert!(said.contains("maxmemory-policy is noeviction"), "{said}");

    let port = strict.port.to_string();
    let host = world
        .host(&[
            ("REDIS_HOST", "localhost"),
            ("REDIS_PORT", &port),
            ("REDIS_TLS", "true"),
            ("PATCHBAY_REDIS_CA_FILE", &ca),
            ("PATCHBAY_REDIS_CERT_FILE", &certificate),
            ("PATCHBAY_REDIS_KEY_FILE", &key),
        ])
        .await?;
    host.deploy("email", email_plugin()?).await?;
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    host.job_in("emailQueue", &id, "completed").await?;
    ready(&host).await?;
    Ok(())
}

#[tokio::test]
async fn sockets_ipv6_databases_and_passwords_of_every_kind_are_understood() -> anyhow::Result<()> {
    let world = World::new().await?;
    let socket = world.dir.path().join("redis.sock").display().to_string();
    let server = RedisServer::start_with(
        world.dir.path(),
        "forms",
        &[
            "--requirepass",
            "p@s#/%",
            "--unixsocket",
            &socket,
            "--bind",
            "127.0.0.1",
            "-::1",
        ],
    )
    .await?;
    let port = server.port.to_string();
    let (by_path, by_old_path) = (
        format!("unix://{socket}?db=2&pass=p%40s%23%2F%25"),
        format!("redis+unix://{socket}?pass=p%40s%23%2F%25"),
    );
    let by_url = format!("redis://:p%40s%23%2F%25@127.0.0.1:{port}/3");
    let by_part = format!("redis://127.0.0.1:{port}/");
    let mut forms = vec![
        vec![("REDIS_URL", by_path.as_str())],
        vec![("REDIS_URL", &by_old_path)],
        vec![
            ("REDIS_HOST", &socket),
            ("REDIS_PASSWORD", "p@s#/%"),
            ("REDIS_DB", "1"),
        ],
        vec![("REDIS_URL", &by_url)],
        vec![
            ("REDIS_URL", &by_part),
            ("REDIS_USERNAME", "default"),
            ("REDIS_PASSWORD", "p@s#/%"),
        ],
    ];
    let by_ipv6 = format!("redis://:p%40s%23%2F%25@[::1]:{port}/");
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        forms.push(vec![("REDIS_URL", &by_ipv6)]);
        forms.push(vec![
            ("REDIS_HOST", "::1"),
            ("REDIS_PORT", &port),
            ("REDIS_PASSWORD", "p@s#/%"),
        ]);
    }
    for form in &forms {
        let said = doctor(&world, form).await?;
        assert!(
            said.contains("maxmemory-policy is noeviction"),
            "{form:?}: {said}"
        );
    }
    for (form, words) in [
        (
            vec![("REDIS_URL", by_part.as_str()), ("REDIS_PASSWORD", "wrong")],
            "refuses the login",
        ),
        (
            vec![("REDIS_URL", &by_url), ("REDIS_PASSWORD", "wrong")],
            "redis.url and redis.password contradict",
        ),
        (
            vec![("REDIS_URL", &by_url), ("REDIS_DB", "4")],
            "redis.url and redis.database contradict",
        ),
        (
            vec![
                ("REDIS_URL", &by_part),
                ("REDIS_PASSWORD", "p@s#/%"),
                ("REDIS_DB", "99"),
            ],
            "no database of the configured",
        ),
        (vec![("REDIS_URL", "redis://:p@s#/x@r/")], "Percent-encode"),
    ] {
        let said = doctor(&world, &form).await?;
        assert!(
            said.contains(words) && !said.contains("p@s"),
            "{form:?}: {said}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_host_with_a_wrong_clock_takes_no_jobs_until_it_is_right_and_what_it_adds_is_due_when_it_should_be()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let clock = world.dir.path().join("clock");
    std::fs::write(&clock, "+10m\n")?;
    let library = faketime()?;
    let skewed = world
        .host(&[
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().context("a path")?),
            ("FAKETIME_NO_CACHE", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ])
        .await?;
    let told = trouble(&skewed, "clock is").await?;
    assert_eq!(told["code"], "skewed");
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|message| message.contains("s ahead of Redis's")),
        "{told}"
    );
    skewed.deploy("email", email_plugin()?).await?;
    let adds = |delay_ms: u64| json!({ "name": "send", "data": mail_job(delay_ms as usize), "delayMs": delay_ms });
    let late = skewed.add("emailQueue", adds(120_000)).await?;
    let mut redis = world.redis().await?;
    let score: f64 = redis::cmd("ZSCORE")
        .arg(format!("{}:emailQueue:delayed", world.prefix))
        .arg(&late)
        .query_async(&mut redis)
        .await?;
    let (now, _): (f64, f64) = redis::cmd("TIME").query_async(&mut redis).await?;
    let due_in_s = score / 4096.0 / 1e3 - now;
    assert!(
        (110.0..=121.0).contains(&due_in_s),
        "due in {due_in_s} s by Redis's clock"
    );

    // Only the other host takes it, though the host with the wrong clock was there first.
    let right = world.host(&[]).await?;
    ready(&right).await?;
    for n in 1..=20 {
        let id = skewed
            .add("emailQueue", json!({ "name": "send", "data": mail_job(n) }))
            .await?;
        let story = right.job_in("emailQueue", &id, "completed").await?;
        let by = story["job"]["processedBy"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let pid = right.child.id().context("a process")?.to_string();
        assert!(
            by.ends_with(&format!(":{pid}")),
            "{by} has no wrong clock, {pid} is the right one's"
        );
    }
    assert!(right.stop().await?.success());
    let waits = skewed
        .add(
            "emailQueue",
            json!({ "name": "send", "data": mail_job(99) }),
        )
        .await?;
    let (_, why) = skewed.get("/api/admin/queues/emailQueue/why").await?;
    assert_eq!(why["data"][0]["code"], "host-not-ready", "{why}");
    assert!(
        why["data"][0]["message"]
            .as_str()
            .is_some_and(|message| message.contains("no jobs are taken")),
        "{why}"
    );
    std::fs::write(&clock, "+0\n")?;
    ready(&skewed).await?;
    skewed.job_in("emailQueue", &waits, "completed").await?;
    let (_, still) = skewed
        .get(&format!("/api/admin/queues/emailQueue/jobs/{late}"))
        .await?;
    assert_eq!(still["data"]["job"]["state"], "delayed", "{still}");
    Ok(())
}

/// Debian's `faketime` has the library for programs with threads.
fn faketime() -> anyhow::Result<String> {
    let machines = std::fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    let libraries = machines.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    let library = libraries
        .into_iter()
        .find(|file| file.exists())
        .context("install faketime: scripts/setup test")?;
    Ok(library.display().to_string())
}
