//! What hostile clients, odd jobs and absent services must not break.

use std::time::Duration;

use redis::AsyncCommands;
use serde_json::json;
use sqlx::Executor;

use crate::harness::{World, hostile_plugin, until};

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
    let _: () =
        redis.hset_multiple(&odd, &[("timestamp", u64::MAX.to_string()), ("ats", 3_000_000_000_u32.to_string())]).await?;
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
