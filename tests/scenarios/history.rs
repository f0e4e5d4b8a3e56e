//! The history: what is recorded, for how long, who may read it, and what must not break it.

mod bad_input;
mod export;
mod mirror;
mod recorded;
mod retention;

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Host, World, hostile_plugin_with, until};

const QUEUE: &str = "hostileQueue";
const KEY: (&str, &str) = (
    "PATCHBAY_SECRETS_KEY",
    "0101010101010101010101010101010101010101010101010101010101010102",
);
const PHONE: &str = "+91 98765 43210";

/// The hostile guest. Jobs of its queue are found by two paths, and phone numbers are redacted.
fn plugin(change: impl FnOnce(String) -> String) -> anyhow::Result<Vec<u8>> {
    hostile_plugin_with(|manifest| {
        change(manifest + "searchable = [\"lead.id\", \"lead.phone\"]\nredact = [\"lead.phone\"]\n")
    })
}

async fn host(world: &World, env: &[(&str, &str)]) -> anyhow::Result<Host> {
    let host = world.host(env).await?;
    host.deploy("hostile", plugin(|manifest| manifest)?).await?;
    Ok(host)
}

/// A host that has done its pruning at the start; the next one is an hour later.
async fn host_that_has_pruned(world: &World, env: &[(&str, &str)]) -> anyhow::Result<Host> {
    let host = world.host(env).await?;
    until(Duration::from_secs(20), "the first time", async || {
        Ok(get(&host, "status").await?["lastPrune"]["endedAt"]
            .is_string()
            .then_some(()))
    })
    .await?;
    Ok(host)
}

fn lead(id: u64) -> Value {
    json!({ "lead": { "id": id, "phone": PHONE } })
}

/// Runs a job to its end, and waits until the history has it.
async fn ran(world: &World, host: &Host, name: &str, data: Value) -> anyhow::Result<String> {
    let id = host
        .add(QUEUE, json!({ "name": name, "data": data }))
        .await?;
    has_ended(world, QUEUE, &id).await?;
    Ok(id)
}

async fn has_ended(world: &World, queue: &str, id: &str) -> anyhow::Result<()> {
    let ended = "select count(*) from patchbay.attempts where queue = $1 and job_id = $2 and verdict in ('complete', 'fail')";
    let mut database = world.database().await?;
    until(
        Duration::from_secs(60),
        &format!("the end of job {id} in the history"),
        async || {
            let count: i64 = sqlx::query_scalar(ended)
                .bind(queue)
                .bind(id)
                .fetch_one(&mut database)
                .await?;
            Ok((count > 0).then_some(()))
        },
    )
    .await
}

async fn count(world: &World, what: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(what)
        .fetch_one(&mut world.database().await?)
        .await?)
}

async fn get(host: &Host, path: &str) -> anyhow::Result<Value> {
    let (status, answer) = host.get(&format!("/api/admin/history/{path}")).await?;
    anyhow::ensure!(status == 200, "{path}: {status} {answer}");
    Ok(answer["data"].clone())
}

/// Appends an entry to the stream of finished attempts, as any program with access to Redis may.
async fn append(world: &World, record: &Value) -> anyhow::Result<()> {
    let mut add = redis::cmd("XADD");
    add.arg(format!("{}-own:attempts", world.prefix))
        .arg("*")
        .arg("r")
        .arg(record.to_string());
    // Sending ten megabytes takes time.
    let config =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let client = redis::Client::open(world.redis_url.as_str())?;
    Ok(add
        .query_async(
            &mut client
                .get_multiplexed_async_connection_with_config(&config)
                .await?,
        )
        .await?)
}

/// Recent enough that the pruning at a host's start does not delete it.
fn record(world: &World, id: &str, fields: Value) -> Value {
    let now = sqlx::types::chrono::Utc::now();
    let mut record = json!({
        "job": { "prefix": world.prefix, "queue": QUEUE, "id": id, "created_ms": 1_700_000_000_000_u64 },
        "started": 1, "attempt": 1, "name": "foreign", "plugin": null, "revision": null, "host": "foreign:1",
        "started_at": now, "finished_at": now, "outcome": "completed",
        "verdict": "complete", "code": null, "message": null, "stack": null, "correlation_id": "test",
    });
    if let (Some(record), Value::Object(fields)) = (record.as_object_mut(), fields) {
        record.extend(fields);
    }
    record
}
