//! Backup and restore, as docs/operations/backup.md describes it: a dump of Postgres, a copy of
//! Redis's append-only file, and the master key. Everything else is lost.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use redis::AsyncCommands;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::commands::json_of;
use crate::harness::{Host, World, hostile_plugin_with, statements_plugin, until};
use crate::postgres_server::{PostgresServer, programs};
use crate::redis_server::RedisServer;
use crate::sql;

const QUEUE: &str = "hostileQueue";
const KEY: (&str, &str) = (
    "PATCHBAY_SECRETS_KEY",
    "0404040404040404040404040404040404040404040404040404040404040405",
);

async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
    Command::new(programs()?.join(program))
        .args(arguments)
        .output()
        .await
        .with_context(|| program.to_owned())
}

/// A host on new machines, with only the backup. It cannot reach anything of the old machines.
async fn restored(
    dump: &Path,
    redis_files: &Path,
    prefix: &str,
) -> anyhow::Result<(World, PostgresServer, RedisServer)> {
    let dir = tempfile::tempdir()?;
    // Postgres runs as another user.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    std::fs::create_dir(dir.path().join("redis"))?;
    copy(redis_files, &dir.path().join("redis/appendonlydir")).await?;
    let redis = RedisServer::start_new(dir.path()).await?;
    let postgres = PostgresServer::start_new(dir.path()).await?;
    // Only the administrator needs no password: plugins' logins must get the right one again.
    let access = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(dir.path().join("postgres/pg_hba.conf"), access)?;
    let reloaded = run(
        "psql",
        &["--command", "select pg_reload_conf()", &postgres.url],
    )
    .await?;
    ensure!(
        reloaded.status.success(),
        "{}",
        String::from_utf8_lossy(&reloaded.stderr)
    );
    let created = run("createdb", &["--maintenance-db", &postgres.url, "restored"]).await?;
    ensure!(
        created.status.success(),
        "{}",
        String::from_utf8_lossy(&created.stderr)
    );
    let mut database_url: reqwest::Url = postgres.url.parse()?;
    database_url.set_path("restored");
    let restore = run(
        "pg_restore",
        &[
            "--dbname",
            database_url.as_str(),
            dump.to_str().context("a path")?,
        ],
    )
    .await?;
    let said = String::from_utf8_lossy(&restore.stderr);
    println!("{said}");
    // The only allowed errors are rights of logins that this server does not have.
    let wrong: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("ERROR:"))
        .collect();
    ensure!(
        !wrong.is_empty() && wrong.iter().all(|line| line.contains("role \"pb_")),
        "{said}"
    );
    let mail = patchbay::dev::MailCatcher::start(&dir.path().join("mail")).await?;
    let (database_url, redis_url) = (database_url.into(), redis.url.clone());
    Ok((
        World {
            database_url,
            redis_url,
            prefix: prefix.to_owned(),
            mail,
            dir,
            _own_database: None,
        },
        postgres,
        redis,
    ))
}

async fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    ensure!(
        Command::new("cp")
            .arg("-rT")
            .arg(from)
            .arg(to)
            .status()
            .await?
            .success(),
        "cp {}",
        from.display()
    );
    Ok(())
}

async fn get(host: &Host, path: &str) -> anyhow::Result<Value> {
    let (status, answer) = host.get(&format!("/api/admin/{path}")).await?;
    ensure!(status == 200, "{path}: {answer}");
    Ok(answer["data"].clone())
}

/// Operators' settings, which must be the same after the restore.
async fn what_is_set(host: &Host) -> anyhow::Result<Value> {
    let mut set = json!({});
    let plugins = get(host, "plugins").await?;
    let active = plugins
        .as_array()
        .into_iter()
        .flatten()
        .map(|plugin| json!([plugin["name"], plugin["digest"]]));
    set["active"] = active.collect();
    set["schedule"] = get(host, "schedules/nightly").await?["cron"].clone();
    set["searches"] = json_of(host, &["--json", "search", "saved"]).await?;
    set["rules"] = json_of(host, &["--json", "alert", "rules"]).await?;
    set["retention"] = json_of(host, &["--json", "history", "retention", "list"]).await?;
    Ok(set)
}

async fn has_ended(host: &Host, job: &str) -> anyhow::Result<Value> {
    host.job_in(QUEUE, job, "completed").await?;
    until(
        Duration::from_secs(60),
        &format!("job {job} in the history"),
        async || {
            let found = get(host, &format!("history/search?queue={QUEUE}&job={job}")).await?;
            Ok((found.as_array().map(Vec::len) > Some(0)).then_some(found))
        },
    )
    .await
}

async fn token_fits(host: &Host) -> anyhow::Result<bool> {
    let data = json!({ "candidates": ["value-4711"], "macs": [] });
    let id = host
        .add(QUEUE, json!({ "name": "secret", "data": data }))
        .await?;
    let story = host.job_in(QUEUE, &id, "completed").await?;
    let result: Value =
        serde_json::from_str(story["job"]["returnValue"].as_str().context("a result")?)?;
    Ok(result["fits"] == json!([true]))
}

#[tokio::test]
async fn what_was_backed_up_is_there_again_on_new_machines_and_every_waiting_job_runs_once()
-> anyhow::Result<()> {
    let mut world = sql::world().await?;
    let redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = redis.url.clone();
    let mut host = world.host(&[KEY]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest)?)
        .await?;
    let plugin = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 20_000")
            + "searchable = [\"lead.id\"]\n"
    });
    host.deploy("hostile", plugin?).await?;
    let secret = json!({ "value": "value-4711" });
    ensure!(
        host.put("/api/admin/plugins/hostile/secrets/TOKEN", secret)
            .await?
            .0
            == 200,
        "a secret"
    );
    let nightly = json!({ "id": "nightly", "queue": QUEUE, "name": "noop", "cron": "0 7 * * *" });
    let (status, answer) = host.post("/api/admin/schedules", nightly).await?;
    ensure!(status == 200, "{answer}");
    for args in [
        &["search", "save", "one lead", "data.lead.id=4711"][..],
        &[
            "alert",
            "rule",
            "set",
            "oldest-waiting",
            "--threshold",
            "3600",
        ],
        &[
            "history",
            "retention",
            "set",
            QUEUE,
            "--outcome",
            "completed",
            "--days",
            "30",
        ],
    ] {
        json_of(&host, &[&["--json"], args].concat()).await?;
    }
    assert!(token_fits(&host).await?);
    assert_eq!(
        sql::query(&host, "select id from crm.leads where id = 1").await?,
        json!([[1]])
    );
    let data = json!({ "lead": { "id": 4711 } });
    let before = host
        .add(QUEUE, json!({ "name": "echo", "data": data }))
        .await?;
    has_ended(&host, &before).await?;
    let set = what_is_set(&host).await?;
    assert!(
        set["schedule"].is_string() && set["active"][0].is_array(),
        "{set:#}"
    );

    // Postgres is dumped first. Then work goes on: one job ends, others wait.
    let files = tempfile::tempdir()?;
    let dump = files.path().join("patchbay.dump");
    let arguments = [
        "--format=custom",
        "--file",
        dump.to_str().context("a path")?,
        &world.database_url,
    ];
    let dumped = run("pg_dump", &arguments).await?;
    ensure!(
        dumped.status.success(),
        "{}",
        String::from_utf8_lossy(&dumped.stderr)
    );
    let between = host
        .add(
            QUEUE,
            json!({ "name": "echo", "data": { "lead": { "id": 2 } } }),
        )
        .await?;
    has_ended(&host, &between).await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let mut waiting = Vec::new();
    for lead in 10..15 {
        waiting.push(
            host.add(
                QUEUE,
                json!({ "name": "echo", "data": { "lead": { "id": lead } } }),
            )
            .await?,
        );
    }
    // Then Redis is copied, while it runs.
    copy(
        &world.dir.path().join("redis/appendonlydir"),
        &files.path().join("appendonlydir"),
    )
    .await?;
    host.child.kill().await?;
    drop(redis);

    let (world, _postgres, _redis) =
        restored(&dump, &files.path().join("appendonlydir"), &world.prefix).await?;
    let paused: Option<String> = world
        .redis()
        .await?
        .hget(format!("{}:{QUEUE}:meta", world.prefix), "paused")
        .await?;
    assert_eq!(
        paused.as_deref(),
        Some("1"),
        "what the document sets before any host starts"
    );
    let cache = world.dir.path().join("cache");
    let cache = (
        "PATCHBAY_RUNTIME_CACHE_DIR",
        cache.to_str().context("a path")?,
    );
    let host = world.host(&[KEY, cache]).await?;
    assert_eq!(what_is_set(&host).await?, set);
    host.post(&format!("/api/admin/queues/{QUEUE}/resume"), json!({}))
        .await?;
    for job in &waiting {
        let found = has_ended(&host, job).await?;
        assert_eq!(
            (found.as_array().map(Vec::len), &found[0]["started"]),
            (Some(1), &json!(1)),
            "{found}"
        );
    }
    assert!(
        token_fits(&host).await?,
        "sealed values are opened by the key that was kept apart"
    );
    assert_eq!(
        sql::query(&host, "select id from crm.leads where id = 1").await?,
        json!([[1]]),
        "a login made anew"
    );
    let bodies = get(&host, &format!("history/bodies/{QUEUE}/{before}")).await?;
    assert_eq!(bodies[0]["data"]["lead"]["id"], 4711, "{bodies}");
    let found = json_of(&host, &["--json", "search", "run", "one lead"]).await?;
    assert_eq!(
        (&found[0]["jobId"], found.as_array().map(Vec::len)),
        (&json!(before), Some(1))
    );
    // This job ended between the two copies: Redis knows that it is done, the history does not.
    assert_eq!(
        host.job_in(QUEUE, &between, "completed").await?["job"]["attemptsStarted"],
        1
    );
    let gap = get(
        &host,
        &format!("history/search?queue={QUEUE}&job={between}"),
    )
    .await?;
    assert_eq!(gap, json!([]));
    Ok(())
}

#[tokio::test]
async fn with_a_redis_older_than_the_database_a_job_runs_again_under_its_key_and_the_history_tells_of_both()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url = redis.url.clone();
    let mut host = world.host(&[]).await?;
    let plugin = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 20_000")
    })?;
    host.deploy("hostile", plugin).await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let job = host
        .add(QUEUE, json!({ "name": "echo", "data": {} }))
        .await?;
    let key = |story: &Value| -> anyhow::Result<Value> {
        let result: Value =
            serde_json::from_str(story["job"]["returnValue"].as_str().context("a result")?)?;
        Ok(result["key"].clone())
    };
    let old = world.dir.path().join("old");
    std::fs::create_dir_all(old.join("redis"))?;
    copy(
        &world.dir.path().join("redis/appendonlydir"),
        &old.join("redis/appendonlydir"),
    )
    .await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/resume"), json!({}))
        .await?;
    has_ended(&host, &job).await?;
    let first = key(&host.job_in(QUEUE, &job, "completed").await?)?;
    host.child.kill().await?;
    drop(redis);

    let redis = RedisServer::start_new(&old).await?;
    world.redis_url = redis.url.clone();
    let host = world.host(&[]).await?;
    host.post(&format!("/api/admin/queues/{QUEUE}/resume"), json!({}))
        .await?;
    let again = host.job_in(QUEUE, &job, "completed").await?;
    assert_eq!(
        key(&again)?,
        first,
        "effects that are idempotent happen once"
    );
    until(
        Duration::from_secs(30),
        "both runs in the history",
        async || {
            Ok((has_ended(&host, &job).await?.as_array().map(Vec::len) == Some(2)).then_some(()))
        },
    )
    .await?;
    Ok(())
}
