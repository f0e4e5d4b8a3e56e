//! Connections under a plugin's login: deadlines, leftovers, and their number.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{QUEUE, SLEEPS, count, query, run, world, world_and_host};
use crate::harness::{hostile_plugin, statements_plugin, until};

#[tokio::test]
async fn a_statement_past_the_deadline_ends_on_the_server_and_its_place_is_free_again()
-> anyhow::Result<()> {
    let world = world().await?;
    let host = world.host(&[]).await?;
    host.deploy(
        "statements",
        statements_plugin(|manifest| manifest.replace("10_000", "500"))?,
    )
    .await?;
    // Four at once, on two connections; the guests first remove Postgres's own limit.
    let mut ids = Vec::new();
    for _ in 0..4 {
        let text = "select pg_sleep(60) from (select set_config('statement_timeout', '0', true)) as unlimited";
        ids.push(
            host.add(
                QUEUE,
                json!({ "name": "each", "data": [{ "query": text }] }),
            )
            .await?,
        );
    }
    let mut database = world.database().await?;
    for id in ids {
        until(Duration::from_secs(20), "its end", async || {
            let job = host
                .get(&format!("/api/admin/queues/{QUEUE}/jobs/{id}"))
                .await?
                .1["data"]["job"]
                .clone();
            Ok(matches!(job["state"].as_str(), Some("completed" | "failed")).then_some(()))
        })
        .await?;
    }
    let ended = Instant::now();
    until(Duration::from_secs(5), "no backend sleeps", async || {
        Ok((count(&mut database, SLEEPS).await? == 0).then_some(()))
    })
    .await?;
    println!(
        "the last backend ended {:?} after the last job",
        ended.elapsed()
    );
    assert_eq!(query(&host, "select 1").await?, json!([[1]]));
    Ok(())
}

#[tokio::test]
async fn nothing_that_a_call_leaves_in_its_session_is_there_for_the_next() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let pid = query(&host, "select pg_backend_pid()").await?;
    let left = run(&host, "each", json!([
        { "query": "select pg_advisory_lock(42)" },
        { "execute": "select 1 as a into temp leftover" },
        { "query": "select set_config('search_path', 'crm', false), set_config('statement_timeout', '1', false), set_config('my.secret', 's', false)" },
        { "query": "select pg_backend_pid()" },
    ])).await?;
    assert_eq!(left[3], pid, "one connection, used again: {left}");
    let next = run(
        &host,
        "each",
        json!([
            { "query": "select current_setting('search_path'), nullif(current_setting('my.secret', true), '')" },
            { "query": "select * from pg_temp.leftover" },
            { "query": "select count(*) from pg_locks where locktype = 'advisory' and objid = 42" },
            { "query": "select pg_sleep(0.05)" },
            { "query": "select pg_backend_pid()" },
        ]),
    )
    .await?;
    assert_eq!(next[0], json!([["pg_catalog", null]]));
    assert_eq!(
        (&next[1]["code"], &next[2], &next[3], &next[4]),
        (&json!("42P01"), &json!([[0]]), &json!([[null]]), &pid)
    );
    let mut database = world.database().await?;
    assert_eq!(
        count(
            &mut database,
            "select count(*) from pg_class where relname = 'leftover'"
        )
        .await?,
        0
    );
    Ok(())
}

#[tokio::test]
async fn more_statements_than_connections_wait_within_the_plugins_two_and_the_hosts_budget()
-> anyhow::Result<()> {
    let world = world().await?;
    let host = world.host(&[("PATCHBAY_SQL_MAX_CONNECTIONS", "3")]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest)?)
        .await?;
    let other = statements_plugin(|manifest| {
        manifest
            .replace("\"statements\"", "\"others\"")
            .replace("sqlQueue", "othersQueue")
    })?;
    host.deploy("others", other).await?;
    let mut ids = Vec::new();
    for _ in 0..6 {
        for queue in [QUEUE, "othersQueue"] {
            let data = json!([{ "query": "select pg_sleep(0.3)" }]);
            ids.push((
                queue,
                host.add(queue, json!({ "name": "each", "data": data }))
                    .await?,
            ));
        }
    }
    let mut database = world.database().await?;
    let of_plugins = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'patchbay plugin %'";
    let per_plugin = "select coalesce(max(n), 0) from (select count(*) as n from pg_stat_activity where datname = current_database() \
        and application_name like 'patchbay plugin %' group by application_name) as plugins";
    let (mut most, mut most_of_one) = (0, 0);
    for (queue, id) in ids {
        until(Duration::from_secs(30), "its end", async || {
            most = most.max(count(&mut database, of_plugins).await?);
            most_of_one = most_of_one.max(count(&mut database, per_plugin).await?);
            let job = host
                .get(&format!("/api/admin/queues/{queue}/jobs/{id}"))
                .await?
                .1["data"]["job"]
                .clone();
            anyhow::ensure!(job["state"] != "failed", "{job}");
            if job["state"] == "completed" {
                assert_eq!(job["returnValue"], "[[[null]]]");
            }
            Ok((job["state"] == "completed").then_some(()))
        })
        .await?;
    }
    assert!(
        most <= 3 && most_of_one <= 2,
        "{most} connections, {most_of_one} of one plugin"
    );
    assert!(most == 3, "the budget is used: {most}");
    Ok(())
}

#[tokio::test]
async fn who_holds_connections_is_told_of_each_plugin_with_a_login() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    query(&host, "select 1").await?;
    let (status, all) = host.get("/api/admin/sql").await?;
    assert_eq!(
        (status, all["data"]["plugins"].as_array().map(Vec::len)),
        (200, Some(1)),
        "{all}"
    );
    let (_, one) = host.get("/api/admin/sql?plugin=statements").await?;
    let plugin = &one["data"]["plugins"][0];
    assert_eq!(
        (&plugin["inUse"], &plugin["waiting"], &plugin["ended"]),
        (&json!(0), &json!(0), &json!(0)),
        "{one}"
    );
    assert_eq!(
        (&plugin["sessions"][0]["state"], &plugin["problem"]),
        (&json!("idle"), &json!(null)),
        "{one}"
    );
    for (which, expected) in [
        ("plugin=hostile", 404),
        ("plugin=nobody", 404),
        ("plugin=No%00", 400),
        ("other=1", 400),
    ] {
        let (status, answer) = host.get(&format!("/api/admin/sql?{which}")).await?;
        assert_eq!(status, expected, "{which}: {answer}");
    }
    Ok(())
}
