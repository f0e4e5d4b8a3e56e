//! Rights of a plugin's login: granted, revoked, refused, or left to the administrator.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use super::{GRANTS, QUEUE, SLEEPS, count, query, run, world, world_and_host};
use crate::harness::{statements_plugin, until};

#[tokio::test]
async fn a_revoked_table_is_denied_on_the_next_call_and_back_after_a_grant() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let asks = json!({ "asks": ["sql select crm.leads(id, name)"] });
    assert_eq!(
        query(&host, "select id from crm.leads where id = 1").await?,
        json!([[1]])
    );
    assert_eq!(
        host.post(&format!("{GRANTS}/revoke"), asks.clone())
            .await?
            .0,
        200
    );
    assert_eq!(
        query(&host, "select id from crm.leads where id = 1").await?["code"],
        "42501"
    );
    assert_eq!(
        query(&host, "select count(*) from crm.calls").await?,
        json!([[0]]),
        "the others stand"
    );
    assert_eq!(host.post(GRANTS, asks).await?.0, 200);
    assert_eq!(
        query(&host, "select id from crm.leads where id = 1").await?,
        json!([[1]])
    );
    let all = json!({ "asks": ["sql select crm.leads(id, name)", "sql update crm.leads(name)", "sql select crm.calls", "sql insert crm.calls",
        "sql update crm.calls", "sql delete crm.calls"] });
    assert_eq!(host.post(&format!("{GRANTS}/revoke"), all).await?.0, 200);
    assert_eq!(query(&host, "select 1").await?["code"], "denied");
    Ok(())
}

#[tokio::test]
async fn a_schema_through_which_a_plugin_would_get_more_and_a_missing_table_are_refused_at_staging()
-> anyhow::Result<()> {
    let world = world().await?;
    let host = world.host(&[]).await?;
    let mut database = world.database().await?;
    for (make, undo, says) in [
        (
            "grant create on schema crm to public",
            "revoke create on schema crm from public",
            "revoke create on schema",
        ),
        (
            "create function crm.f() returns int language sql security definer as 'select 1'",
            "drop function crm.f()",
            "SECURITY DEFINER",
        ),
        (
            "alter table crm.calls rename to renamed",
            "alter table crm.renamed rename to calls",
            "no table crm.calls",
        ),
        (
            "alter table crm.leads rename name to renamed",
            "alter table crm.leads rename renamed to name",
            "no column name",
        ),
    ] {
        database.execute(make).await?;
        let (status, answer) = host.push(statements_plugin(|manifest| manifest)?).await?;
        assert_eq!(
            (status, &answer["code"]),
            (409, &json!("database-rights")),
            "{answer}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains(says)),
            "{answer}"
        );
        database.execute(undo).await?;
    }
    assert_eq!(
        host.push(statements_plugin(|manifest| manifest)?).await?.0,
        200
    );
    Ok(())
}

#[tokio::test]
async fn a_host_whose_login_may_not_grant_hands_the_statements_to_the_administrator()
-> anyhow::Result<()> {
    let world = world().await?;
    let mut database = world.database().await?;
    let login = format!("host_{}", world.prefix);
    for text in [
        format!("create role {login} login"),
        format!("grant create on database {} to {login}", world.prefix),
    ] {
        database.execute(sqlx::AssertSqlSafe(text)).await?;
    }
    let url = world
        .database_url
        .replace("postgres@", &format!("{login}@"));
    assert_ne!(url, world.database_url);
    let host = world.host(&[("DATABASE_URL", &url)]).await?;
    let (status, staged) = host.push(statements_plugin(|manifest| manifest)?).await?;
    assert_eq!(status, 200, "{staged}");
    let activate = json!({ "digest": staged["data"]["digest"], "grant": true });
    let path = "/api/admin/plugins/statements/activate";
    let (status, refused) = host.post(path, activate.clone()).await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("database-rights")),
        "{refused}"
    );
    let statements = refused["details"]["statements"]
        .as_array()
        .context("statements")?
        .clone();
    let texts: Vec<&str> = statements.iter().filter_map(Value::as_str).collect();
    assert!(
        texts[0].starts_with("create role \"pb_") && texts[0].contains("SCRAM-SHA-256$"),
        "{texts:?}"
    );
    assert!(
        texts[1..].iter().all(|text| text.starts_with("grant ")),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|text| text.starts_with("grant select (\"id\") on table \"crm\".\"leads\" to ")),
        "{texts:?}"
    );
    for statement in &statements {
        database
            .execute(sqlx::AssertSqlSafe(
                statement.as_str().context("text")?.to_owned(),
            ))
            .await?;
    }
    let (status, activated) = host.post(path, activate).await?;
    assert_eq!(status, 200, "{activated}");
    assert_eq!(
        query(&host, "select id from crm.leads where id = 1").await?,
        json!([[1]])
    );
    // The host may end backends of a login even without the right to grant.
    let timed_out = run(
        &host,
        "transaction",
        json!([{ "query": "select pg_sleep(8)" }]),
    )
    .await?;
    assert_eq!(timed_out[0]["code"], "timeout");
    until(Duration::from_secs(5), "no backend sleeps", async || {
        Ok((count(&mut database, SLEEPS).await? == 0).then_some(()))
    })
    .await?;
    database.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_host_that_owns_the_tables_and_may_create_logins_needs_no_administrator()
-> anyhow::Result<()> {
    let world = world().await?;
    let mut database = world.database().await?;
    let login = format!("host_{}", world.prefix);
    for text in [
        format!("create role {login} login createrole"),
        format!("grant create on database {} to {login}", world.prefix),
        format!("alter schema crm owner to {login}"),
        format!("alter table crm.leads owner to {login}"),
        format!("alter table crm.calls owner to {login}"),
    ] {
        database.execute(sqlx::AssertSqlSafe(text)).await?;
    }
    let url = world
        .database_url
        .replace("postgres@", &format!("{login}@"));
    let host = world.host(&[("DATABASE_URL", &url)]).await?;
    host.deploy(
        "statements",
        statements_plugin(|manifest| manifest.replace("10_000", "500"))?,
    )
    .await?;
    let insert = json!({ "execute": "insert into crm.calls (lead, note) values (1, 'x')" });
    assert_eq!(run(&host, "each", json!([insert])).await?, json!([1]));
    assert_eq!(
        query(&host, "select phone from crm.leads").await?["code"],
        "42501"
    );
    host.add(QUEUE, json!({ "name": "each", "data": [{ "query": "select pg_sleep(60) from set_config('statement_timeout', '0', true)" }] }))
        .await?;
    until(Duration::from_secs(10), "it sleeps", async || {
        Ok((count(&mut database, SLEEPS).await? == 1).then_some(()))
    })
    .await?;
    until(Duration::from_secs(5), "it was ended", async || {
        Ok((count(&mut database, SLEEPS).await? == 0).then_some(()))
    })
    .await?;
    let asks = json!({ "asks": ["sql insert crm.calls"] });
    assert_eq!(host.post(&format!("{GRANTS}/revoke"), asks).await?.0, 200);
    assert_eq!(
        run(&host, "each", json!([insert])).await?[0]["code"],
        "42501"
    );
    Ok(())
}

#[tokio::test]
async fn a_new_revision_changes_the_rights_and_a_refused_one_leaves_the_old_ones()
-> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let swapped = "\"crm.leads\" = [\"select(id, phone)\"]";
    let change = |manifest: String| {
        manifest.replace(
            "\"crm.leads\" = [\"select(id, name)\", \"update(name)\"]",
            swapped,
        )
    };
    let second = statements_plugin(change)?;
    let (_, staged) = host.push(second).await?;
    database
        .execute("alter table crm.leads rename phone to renamed")
        .await?;
    let activate = json!({ "digest": staged["data"]["digest"], "grant": true });
    let path = "/api/admin/plugins/statements/activate";
    let (status, refused) = host.post(path, activate.clone()).await?;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("database-rights")),
        "{refused}"
    );
    assert_eq!(
        query(&host, "select name from crm.leads where id = 2").await?,
        json!([["Ravi"]])
    );
    database
        .execute("alter table crm.leads rename renamed to phone")
        .await?;
    assert_eq!(host.post(path, activate).await?.0, 200);
    assert_eq!(
        query(&host, "select phone from crm.leads where id = 2").await?,
        json!([["+91 2"]])
    );
    assert_eq!(
        query(&host, "select name from crm.leads where id = 2").await?["code"],
        "42501"
    );
    Ok(())
}
