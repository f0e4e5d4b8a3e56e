//! Database access of plugins: what they may do, what Postgres refuses, and what they leave behind.

mod connections;
mod enqueue;
mod rights;
mod statements;
mod transactions;

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};

use crate::harness::{Host, World, statements_plugin};

const QUEUE: &str = "sqlQueue";
const GRANTS: &str = "/api/admin/plugins/statements/grants";
const SLEEPS: &str = "select count(*) from pg_stat_activity where datname = current_database() and query like 'select pg_sleep%'";
const TABLES: &str = "
    create schema crm;
    create type crm.stage as enum ('new', 'won');
    create table crm.leads (id int primary key, name text, phone text);
    insert into crm.leads values (1, 'Asha', '+91 1'), (2, 'Ravi', '+91 2');
    create table crm.calls (
        id serial primary key, lead int references crm.leads, note text constraint note_is_short check (length(note) < 20), unique (lead, note)
    );
    create schema other;
    create table other.private (id int);
    create function other.powerful() returns text language sql security definer as 'select rolpassword from pg_authid limit 1';
";

pub async fn world() -> anyhow::Result<World> {
    let world = World::new().await?;
    fill(&mut world.database().await?).await?;
    Ok(world)
}

/// Tables of another owner. The function `other.powerful` needs an administrator.
pub async fn fill(database: &mut PgConnection) -> anyhow::Result<()> {
    database.execute(sqlx::raw_sql(TABLES)).await?;
    Ok(())
}

async fn world_and_host() -> anyhow::Result<(World, Host)> {
    let world = world().await?;
    let host = world.host(&[]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest)?)
        .await?;
    Ok((world, host))
}

async fn run_in(host: &Host, queue: &str, name: &str, data: Value) -> anyhow::Result<Value> {
    let id = host
        .add(queue, json!({ "name": name, "data": data }))
        .await?;
    let story = host.job_in(queue, &id, "completed").await?;
    Ok(serde_json::from_str(
        story["job"]["returnValue"]
            .as_str()
            .context("a return value")?,
    )?)
}

/// Runs a job to its end; returns the results of its steps.
async fn run(host: &Host, name: &str, data: Value) -> anyhow::Result<Value> {
    run_in(host, QUEUE, name, data).await
}

pub async fn query(host: &Host, text: &str) -> anyhow::Result<Value> {
    Ok(run(host, "each", json!([{ "query": text }])).await?[0].clone())
}

async fn count(connection: &mut PgConnection, text: &str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(text.to_owned()))
        .fetch_one(connection)
        .await?)
}
