//! What hostile clients, odd jobs and absent services must not break.

use std::time::Duration;

use base64::Engine;
use redis::AsyncCommands;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Host, PASSWORD, USER, World, hostile_plugin, until};

#[tokio::test]
async fn one_record_that_postgres_refuses_does_not_hold_up_the_others() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let mut database = world.database().await?;
    database.execute("alter table patchbay.attempts add check (name <> 'refused')").await?;
    let mut redis = world.redis().await?;
    let mut ids = Vec::new();
    for name in ["before", "refused", "odd", "after"] {
        ids.push(host.add("hostileQueue", json!({ "name": name, "data": {}, "delayMs": 3_600_000 })).await?);
    }
    // As any BullMQ client might write it.
    let odd = format!("{}:hostileQueue:{}", world.prefix, ids[2]);
    let _: () = redis
        .hset_multiple(&odd, &[("timestamp", u64::MAX.to_string()), ("ats", 3_000_000_000_u32.to_string())])
        .await?;
    for id in &ids {
        world.promote("hostileQueue", id).await?;
    }
    until(Duration::from_secs(30), "the other three are remembered", async || {
        let query = sqlx::query_scalar("select name from patchbay.attempts group by name order by name");
        let names: Vec<String> = query.fetch_all(&mut database).await?;
        Ok((names == ["after", "before", "odd"]).then_some(()))
    })
    .await
}

/// Enough that removing them takes a while.
const MANY: usize = 20_000;

/// As raw as a client can be.
fn raw(method: &str, path: &str, body: &str) -> String {
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nauthorization: Basic {credentials}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn connect(host: &Host) -> anyhow::Result<TcpStream> {
    Ok(TcpStream::connect(host.url.trim_start_matches("http://")).await?)
}

/// A queue with many jobs, and a client that has it obliterated and leaves as soon as the host has begun.
async fn obliterate_and_leave(world: &World, host: &Host) -> anyhow::Result<()> {
    host.add("bigQueue", json!({ "name": "first", "data": {}, "delayMs": 3_600_000 })).await?;
    let key = |name: &str| format!("{}:bigQueue:{name}", world.prefix);
    let mut redis = world.redis().await?;
    for some in (0..MANY).collect::<Vec<_>>().chunks(1_000) {
        let mut pipe = redis::pipe();
        for n in some {
            let id = format!("many-{n}");
            let fields = [("name", "noop"), ("data", "{}"), ("opts", "{}"), ("timestamp", "1")];
            pipe.hset_multiple(key(&id), &fields).ignore().zadd(key("delayed"), id, *n).ignore();
        }
        let () = pipe.query_async(&mut redis).await?;
    }
    let mut client = connect(host).await?;
    client
        .write_all(raw("POST", "/api/admin/queues/bigQueue/obliterate", r#"{"confirm":"bigQueue"}"#).as_bytes())
        .await?;
    until(Duration::from_secs(10), "it has begun", async || {
        Ok((redis.zcard::<_, usize>(key("delayed")).await? <= MANY).then_some(()))
    })
    .await?;
    let left: usize = redis.zcard(key("delayed")).await?;
    assert!(left > 0, "it is not done yet");
    Ok(())
}

async fn keys_of(world: &World, queue: &str) -> anyhow::Result<Vec<String>> {
    Ok(world.redis().await?.keys(format!("{}:{queue}:*", world.prefix)).await?)
}

/// Error and result of the only such action, once it has ended.
async fn ended(world: &World, action: &str) -> anyhow::Result<(Option<String>, Value)> {
    let mut database = world.database().await?;
    until(Duration::from_secs(20), &format!("{action} has ended"), async || {
        let query = sqlx::query_as(
            "select error, result from patchbay.operator_actions where action = $1 and ended_at is not null",
        );
        Ok(query.bind(action).fetch_optional(&mut database).await?)
    })
    .await
}

#[tokio::test]
async fn an_operation_goes_on_when_its_client_leaves() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    obliterate_and_leave(&world, &host).await?;
    assert_eq!(ended(&world, "queue.obliterate").await?, (None, json!({ "count": MANY + 1 })));
    assert_eq!(keys_of(&world, "bigQueue").await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_stopped_first_ends_what_operators_began() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    obliterate_and_leave(&world, &host).await?;
    assert!(host.stop().await?.success());
    assert_eq!(ended(&world, "queue.obliterate").await?, (None, json!({ "count": MANY + 1 })));
    assert_eq!(keys_of(&world, "bigQueue").await?, Vec::<String>::new());
    Ok(())
}
