//! Database access of plugins: what they may do, what Postgres keeps them from, and what they leave behind.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

use crate::harness::{Host, World, statements_plugin, until};

const QUEUE: &str = "sqlQueue";
const GRANTS: &str = "/api/admin/plugins/statements/grants";
const SLEEPS: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and query like 'select pg_sleep%'";
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

async fn world() -> anyhow::Result<World> {
    let world = World::new().await?;
    world.database().await?.execute(sqlx::raw_sql(TABLES)).await?;
    Ok(world)
}

async fn world_and_host() -> anyhow::Result<(World, Host)> {
    let world = world().await?;
    let host = world.host(&[]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest)?).await?;
    Ok((world, host))
}

async fn run_in(host: &Host, queue: &str, name: &str, data: Value) -> anyhow::Result<Value> {
    let id = host.add(queue, json!({ "name": name, "data": data })).await?;
    let story = host.job_in(queue, &id, "completed").await?;
    Ok(serde_json::from_str(story["job"]["returnValue"].as_str().context("a return value")?)?)
}

/// Runs a job to its end; gives what its steps ended in.
async fn run(host: &Host, name: &str, data: Value) -> anyhow::Result<Value> {
    run_in(host, QUEUE, name, data).await
}

async fn query(host: &Host, text: &str) -> anyhow::Result<Value> {
    Ok(run(host, "each", json!([{ "query": text }])).await?[0].clone())
}

async fn count(connection: &mut PgConnection, text: &str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(text.to_owned())).fetch_one(connection).await?)
}

#[tokio::test]
async fn statements_are_counted_with_the_other_calls_of_a_revision() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    run(&host, "each", json!([{ "query": "select 1" }, { "query": "select 2" }])).await?;
    let page = host.metrics().await?;
    let series = "patchbay_host_call_duration_seconds_count{";
    let counted = page.lines().find(|line| line.starts_with(series) && line.contains("capability=\"sql\""));
    assert_eq!(counted.and_then(|line| line.rsplit(' ').next()), Some("2"), "{page}");
    Ok(())
}

#[tokio::test]
async fn values_of_every_type_go_in_and_come_out_as_the_contract_says() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let one = |text: &str, parameters: Value| json!({ "query": text, "parameters": parameters });
    let cases = [
        (one("select $1::int2, $2::int4, $3::int8, $4::numeric", json!([1, 2, 3, 4])), json!([[1, 2, 3, "4"]])),
        (
            one("select $1::bool, $2::float8, $3::float4", json!([true, 1.5, 2.5])),
            json!([[true, {"float": 1.5}, {"float": 2.5}]]),
        ),
        (
            one("select $1::text, $2::varchar(3), $3::bytea", json!(["é", "abc", [0, 255]])),
            json!([["é", "abc", [0, 255]]]),
        ),
        (
            one("select $1::numeric(20, 4), $2::numeric", json!(["-12345678901234.5", "1e-7"])),
            json!([["-12345678901234.5000", "0.0000001"]]),
        ),
        (
            one("select $1::uuid", json!(["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"])),
            json!([["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]]),
        ),
        (
            one(
                "select $1::timestamptz, $2::timestamp, $3::date, $4::time",
                json!(["2026-01-02T03:04:05.5+05:30", "2026-01-02T03:04:05", "2026-01-02", "03:04:05"]),
            ),
            json!([["2026-01-01T21:34:05.500Z", "2026-01-02T03:04:05", "2026-01-02", "03:04:05"]]),
        ),
        (
            one("select $1::interval, $2::inet, $3::cidr", json!(["1 day 2 hours", "10.0.0.1", "10.0.0.0/8"])),
            json!([["P1DT2H", "10.0.0.1", "10.0.0.0/8"]]),
        ),
        (
            one("select $1::jsonb, $2::json", json!([{"json": {"b": [1]}}, {"json": 5}])),
            json!([[{"json": {"b": [1]}}, {"json": 5}]]),
        ),
        (
            one("select $1::int4[], $2::text[]", json!([{"json": [1, null]}, {"json": ["a,b", "\""]}])),
            json!([[{"json": [1, null]}, {"json": ["a,b", "\""]}]]),
        ),
        (one("select $1::text, $2::int4", json!([null, null])), json!([[null, null]])),
        (
            one("select id from crm.leads where id = any($1) order by id limit $2", json!([{"json": [2, 1]}, 5])),
            json!([[1], [2]]),
        ),
        (one("values ($1), ('b')", json!(["a"])), json!([["a"], ["b"]])),
        (one("with a as (select 1) select * from a", json!([])), json!([[1]])),
        (
            json!({"types": "select 1::int8 as a, now() as b, array['x'] as c"}),
            json!(["int8", "timestamptz", "text[]"]),
        ),
    ];
    let (steps, expected): (Vec<Value>, Vec<Value>) = cases.into_iter().unzip();
    let results = run(&host, "each", json!(steps)).await?;
    for (place, wanted) in expected.iter().enumerate() {
        assert_eq!(&results[place], wanted, "{}", steps[place]);
    }
    let wrong = run(
        &host,
        "each",
        json!([
            one("select $1::int2", json!([70000])),
            one("select $1::uuid", json!(["no"])),
            one("select 1", json!([1])),
            one("select $1::int4", json!([[1]])),
        ]),
    )
    .await?;
    let codes: Vec<&Value> = (0..4).map(|n| &wrong[n]["code"]).collect();
    assert_eq!(codes, [&json!("invalid"), &json!("22P02"), &json!("invalid"), &json!("invalid")], "{wrong}");
    Ok(())
}

#[tokio::test]
async fn a_plugin_does_to_tables_what_is_granted_and_hears_of_constraints_without_rows_of_others() -> anyhow::Result<()>
{
    let (_world, host) = world_and_host().await?;
    let insert = |note: &str| json!({ "execute": "insert into crm.calls (lead, note) values ($1, $2)", "parameters": [1, note] });
    let results = run(
        &host,
        "each",
        json!([
            insert("first"), insert("first"), insert("far longer than twenty characters"),
            { "execute": "update crm.leads set name = 'Asha K' where id = 1" },
            { "query": "select name from crm.leads where id = 1" },
            { "query": "insert into crm.calls (lead, note) values (2, 'x') returning note" },
            { "execute": "delete from crm.calls" },
        ]),
    )
    .await?;
    assert_eq!(results[0], 1, "{results}");
    assert_eq!((&results[1]["code"], &results[1]["constraint"]), (&json!("23505"), &json!("calls_lead_note_key")));
    assert!(!results[1].to_string().contains("first"), "Postgres's detail quotes rows: {results}");
    assert_eq!((&results[2]["code"], &results[2]["constraint"]), (&json!("23514"), &json!("note_is_short")));
    assert_eq!(
        (&results[3], &results[4], &results[5], &results[6]),
        (&json!(1), &json!([["Asha K"]]), &json!([["x"]]), &json!(2))
    );
    let too_many = query(&host, "select * from generate_series(1, 20000)").await?;
    assert_eq!(too_many["code"], "too-large", "{too_many}");
    assert_eq!(query(&host, "select repeat('x', 5000000)").await?["code"], "too-large");
    assert_eq!(query(&host, "select 1").await?, json!([[1]]), "the next one has a connection");
    Ok(())
}

#[tokio::test]
async fn sql_that_reaches_for_more_is_denied_by_the_host_or_by_postgres() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let installation: String =
        sqlx::query_scalar("select left(id::text, 8) from patchbay.installation").fetch_one(&mut database).await?;
    let cases = [
        ("select phone from crm.leads", "42501"),
        ("select * from crm.leads", "42501"),
        ("insert into crm.leads values (3)", "42501"),
        ("update crm.leads set phone = '' where id = 1", "42501"),
        ("select * from other.private", "42501"),
        ("select other.powerful()", "42501"),
        ("select * from patchbay.revisions", "42501"),
        ("select key from patchbay.installation", "42501"),
        ("select * from patchbay_outbox.jobs", "42501"),
        ("delete from patchbay_outbox.jobs", "42501"),
        ("select rolpassword from pg_authid", "42501"),
        ("select pg_read_file('/etc/passwd')", "42501"),
        ("select lo_import('/etc/passwd')", "42501"),
        ("select set_config('role', 'postgres', false)", "42501"),
        ("select set_config('session_authorization', 'postgres', false)", "42501"),
        ("select set_config('log_statement', 'none', false)", "42501"),
        ("select 1 into crm.made", "42501"),
        ("set role postgres", "denied"),
        ("reset role", "denied"),
        ("commit", "denied"),
        ("/* select */ commit", "denied"),
        ("begin", "denied"),
        ("copy crm.leads to program 'true'", "denied"),
        ("copy crm.leads to stdout", "denied"),
        ("do $$ begin commit; end $$", "denied"),
        ("create table crm.made ()", "denied"),
        ("explain analyze delete from crm.calls", "denied"),
        ("select 1; commit", "42601"),
        ("select 1; select 2", "42601"),
        ("select 'a\0b'", "invalid"),
    ];
    let steps: Vec<Value> = cases.iter().map(|(text, _)| json!({ "query": text })).collect();
    let results = run(&host, "each", json!(steps)).await?;
    for (place, (text, code)) in cases.iter().enumerate() {
        assert_eq!(results[place]["code"], *code, "{text}: {}", results[place]);
    }
    let role = format!("pb_{installation}_statements");
    assert_eq!(query(&host, "select current_user, session_user").await?, json!([[role, role]]));
    let facts = format!(
        "select count(*) from pg_roles r where rolname = '{role}' and rolcanlogin and not rolinherit and not rolsuper \
         and not exists (select from pg_auth_members where member = r.oid)"
    );
    assert_eq!(count(&mut database, &facts).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_statement_past_the_deadline_ends_on_the_server_and_its_place_is_free_again() -> anyhow::Result<()> {
    let world = world().await?;
    let host = world.host(&[]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest.replace("10_000", "500"))?).await?;
    // Four at once, on two connections; the guests lift Postgres's own limit first.
    let mut ids = Vec::new();
    for _ in 0..4 {
        let text = "select pg_sleep(60) from (select set_config('statement_timeout', '0', true)) as unlimited";
        ids.push(host.add(QUEUE, json!({ "name": "each", "data": [{ "query": text }] })).await?);
    }
    let mut database = world.database().await?;
    for id in ids {
        until(Duration::from_secs(20), "its end", async || {
            let job = host.get(&format!("/api/admin/queues/{QUEUE}/jobs/{id}")).await?.1["data"]["job"].clone();
            Ok(matches!(job["state"].as_str(), Some("completed" | "failed")).then_some(()))
        })
        .await?;
    }
    let ended = Instant::now();
    until(Duration::from_secs(5), "no backend sleeps", async || {
        Ok((count(&mut database, SLEEPS).await? == 0).then_some(()))
    })
    .await?;
    println!("the last backend ended {:?} after the last job", ended.elapsed());
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
    assert_eq!(count(&mut database, "select count(*) from pg_class where relname = 'leftover'").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_revoked_table_is_denied_on_the_next_call_and_back_after_a_grant() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let asks = json!({ "asks": ["sql select crm.leads(id, name)"] });
    assert_eq!(query(&host, "select id from crm.leads where id = 1").await?, json!([[1]]));
    assert_eq!(host.post(&format!("{GRANTS}/revoke"), asks.clone()).await?.0, 200);
    assert_eq!(query(&host, "select id from crm.leads where id = 1").await?["code"], "42501");
    assert_eq!(query(&host, "select count(*) from crm.calls").await?, json!([[0]]), "the others stand");
    assert_eq!(host.post(GRANTS, asks).await?.0, 200);
    assert_eq!(query(&host, "select id from crm.leads where id = 1").await?, json!([[1]]));
    let all = json!({ "asks": ["sql select crm.leads(id, name)", "sql update crm.leads(name)", "sql select crm.calls", "sql insert crm.calls",
        "sql update crm.calls", "sql delete crm.calls"] });
    assert_eq!(host.post(&format!("{GRANTS}/revoke"), all).await?.0, 200);
    assert_eq!(query(&host, "select 1").await?["code"], "denied");
    Ok(())
}

#[tokio::test]
async fn more_statements_than_connections_wait_within_the_plugins_two_and_the_hosts_budget() -> anyhow::Result<()> {
    let world = world().await?;
    let host = world.host(&[("PATCHBAY_SQL_MAX_CONNECTIONS", "3")]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest)?).await?;
    let other = statements_plugin(|manifest| {
        manifest.replace("\"statements\"", "\"others\"").replace("sqlQueue", "othersQueue")
    })?;
    host.deploy("others", other).await?;
    let mut ids = Vec::new();
    for _ in 0..6 {
        for queue in [QUEUE, "othersQueue"] {
            let data = json!([{ "query": "select pg_sleep(0.3)" }]);
            ids.push((queue, host.add(queue, json!({ "name": "each", "data": data })).await?));
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
            let job = host.get(&format!("/api/admin/queues/{queue}/jobs/{id}")).await?.1["data"]["job"].clone();
            anyhow::ensure!(job["state"] != "failed", "{job}");
            if job["state"] == "completed" {
                assert_eq!(job["returnValue"], "[[[null]]]");
            }
            Ok((job["state"] == "completed").then_some(()))
        })
        .await?;
    }
    assert!(most <= 3 && most_of_one <= 2, "{most} connections, {most_of_one} of one plugin");
    assert!(most == 3, "the budget is used: {most}");
    Ok(())
}

#[tokio::test]
async fn a_batch_is_done_whole_with_its_jobs_or_not_at_all() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let insert =
        |note: &str| json!({ "text": "insert into crm.calls (lead, note) values (1, $1)", "parameters": [note] });
    let jobs = json!([{ "name": "noop" }, { "name": "noop", "queue": "otherQueue" }]);
    let good = run(
        &host,
        "batch",
        json!({ "statements": [insert("a"), { "text": "select note from crm.calls" }], "jobs": jobs }),
    )
    .await?;
    assert_eq!(good, json!([[], [["a"]]]));
    let other = async |n: i64| {
        until(Duration::from_secs(10), "the jobs", async || {
            let queue = host.get("/api/admin/queues/otherQueue/jobs?state=waiting").await?.1;
            let found = queue["data"]["jobs"].as_array().or(queue["data"].as_array()).map_or(0, Vec::len) as i64;
            Ok((found == n).then_some(()))
        })
        .await
    };
    other(1).await?;
    for (bad, code) in [
        (json!({ "statements": [insert("b"), insert("a")], "jobs": jobs }), "23505"),
        (
            json!({ "statements": [insert("c"), { "text": "update crm.leads set name = 'x' where id > 0", "expect": 1 }], "jobs": jobs }),
            "P0002",
        ),
        (json!({ "statements": [insert("d")], "jobs": [{ "queue": "forbiddenQueue" }] }), "denied"),
        (json!({ "statements": [insert("e"), { "text": "commit" }], "jobs": jobs }), "denied"),
    ] {
        let refused = run(&host, "batch", bad.clone()).await?;
        assert_eq!(refused["code"], code, "{bad}: {refused}");
    }
    assert_eq!(count(&mut database, "select count(*) from crm.calls").await?, 1);
    assert_eq!(count(&mut database, "select count(*) from crm.leads where name = 'x'").await?, 0);
    assert_eq!(count(&mut database, "select count(*) from patchbay_outbox.jobs").await?, 0);
    other(1).await
}

#[tokio::test]
async fn a_transaction_holds_until_its_commit_keeps_everything_else_out_and_ends_by_itself() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let insert =
        |note: &str| json!({ "execute": "insert into crm.calls (lead, note) values (1, $1)", "parameters": [note] });
    let kept = run(&host, "transaction", json!([
        insert("kept"), { "query": "select note from crm.calls" }, { "outside": true }, { "second": true },
        { "jobs": [{ "name": "noop", "queue": "otherQueue" }] }, { "commit": true }, { "outside": true }, { "second": true }, insert("late"),
    ])).await?;
    assert_eq!(
        (&kept[0], &kept[1], &kept[2], &kept[4]),
        (&json!(1), &json!([["kept"]]), &json!("denied"), &Value::Null),
        "{kept}"
    );
    assert_eq!(
        (&kept[3]["code"], &kept[5], &kept[6], &kept[7]["code"]),
        (&json!("denied"), &json!("committed"), &json!("allowed"), &json!("denied"))
    );
    assert_eq!(kept[8]["code"], "denied", "{kept}");
    until(Duration::from_secs(10), "the job", async || {
        let queue = host.get("/api/admin/queues/otherQueue/jobs?state=waiting").await?.1;
        Ok(queue["data"].to_string().contains("outbox-").then_some(()))
    })
    .await?;

    let dropped = run(&host, "transaction", json!([insert("dropped"), { "jobs": [{ "name": "noop" }] }])).await?;
    assert_eq!(dropped, json!([1, null]));
    let failed = run(&host, "transaction", json!([insert("failed"), insert("failed"), { "commit": true }])).await?;
    assert_eq!((&failed[1]["code"], &failed[2]["code"]), (&json!("23505"), &json!("25P02")), "{failed}");
    let slow =
        run(&host, "transaction", json!([insert("slow"), { "sleep": 5_400 }, { "outside": true }, { "commit": true }]))
            .await?;
    assert_eq!((&slow[2], &slow[3]["code"]), (&json!("allowed"), &json!("denied")), "{slow}");
    let busy =
        run(&host, "transaction", json!([insert("busy"), { "query": "select pg_sleep(8)" }, { "commit": true }]))
            .await?;
    assert_eq!((&busy[1]["code"], &busy[2]["code"]), (&json!("timeout"), &json!("denied")), "{busy}");
    assert_eq!(count(&mut database, "select count(*) from crm.calls").await?, 1);
    until(Duration::from_secs(5), "no transaction is left open", async || {
        let open = "select count(*) from pg_stat_activity where application_name like 'patchbay plugin%' and datname = current_database() and xact_start is not null";
        Ok((count(&mut database, open).await? == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn forged_and_replayed_rows_of_the_outbox_are_dropped_and_add_no_job() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    // What the relay will see once more: a copy of a true row, made before the relay deletes it.
    database
        .execute(sqlx::raw_sql(
            "create table other.copies as select * from patchbay_outbox.jobs with no data; \
             create function other.copy() returns trigger language plpgsql security definer as \
               'begin insert into other.copies values (new.*); return new; end'; \
             create trigger copy after insert on patchbay_outbox.jobs for each row execute function other.copy();",
        ))
        .await?;
    let once = json!({ "statements": [], "jobs": [{ "name": "noop", "queue": "otherQueue" }] });
    assert_eq!(run(&host, "batch", once).await?, json!([]));
    let empty = async |database: &mut PgConnection| {
        until(Duration::from_secs(10), "the outbox is empty", async || {
            Ok((count(database, "select count(*) from patchbay_outbox.jobs").await? == 0).then_some(()))
        })
        .await
    };
    empty(&mut database).await?;
    let before = host.get("/api/admin/queues/otherQueue/jobs?state=waiting").await?.1["data"].clone();
    assert!(before.to_string().contains("outbox-"), "{before}");

    let columns = "insert into patchbay_outbox.jobs (plugin, nonce, issued_ms, grants, payload, mac)";
    let forged = "values ('statements', gen_random_uuid(), 1, '', '[]', decode(repeat('00', 32), 'hex'))";
    let forged = run(&host, "each", json!([{ "execute": format!("{columns} {forged}") }])).await?;
    assert_eq!(forged, json!([1]), "the login may insert, and gains nothing by it");
    empty(&mut database).await?;
    for change in [
        "nonce, issued_ms, grants, payload",
        "gen_random_uuid(), issued_ms, grants, payload",
        "nonce, issued_ms, grants, replace(payload, 'noop', 'evil')",
        "nonce, issued_ms, 'enqueue payQueue', payload",
    ] {
        let text = format!("{columns} select plugin, {change}, mac from other.copies limit 1");
        database.execute(sqlx::AssertSqlSafe(text)).await?;
        empty(&mut database).await?;
    }
    let after = host.get("/api/admin/queues/otherQueue/jobs?state=waiting").await?.1["data"].clone();
    assert_eq!(before, after, "nothing was added");
    Ok(())
}

#[tokio::test]
async fn a_schema_through_which_a_plugin_would_get_more_and_a_missing_table_are_refused_at_staging()
-> anyhow::Result<()> {
    let world = world().await?;
    let host = world.host(&[]).await?;
    let mut database = world.database().await?;
    for (make, undo, says) in [
        ("grant create on schema crm to public", "revoke create on schema crm from public", "revoke create on schema"),
        (
            "create function crm.f() returns int language sql security definer as 'select 1'",
            "drop function crm.f()",
            "SECURITY DEFINER",
        ),
        ("alter table crm.calls rename to renamed", "alter table crm.renamed rename to calls", "no table crm.calls"),
        (
            "alter table crm.leads rename name to renamed",
            "alter table crm.leads rename renamed to name",
            "no column name",
        ),
    ] {
        database.execute(make).await?;
        let (status, answer) = host.push(statements_plugin(|manifest| manifest)?).await?;
        assert_eq!((status, &answer["code"]), (409, &json!("database-rights")), "{answer}");
        assert!(answer["message"].as_str().is_some_and(|message| message.contains(says)), "{answer}");
        database.execute(undo).await?;
    }
    assert_eq!(host.push(statements_plugin(|manifest| manifest)?).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_host_whose_login_may_not_grant_hands_the_statements_to_the_administrator() -> anyhow::Result<()> {
    let world = world().await?;
    let mut database = world.database().await?;
    let login = format!("host_{}", world.prefix);
    for text in [format!("create role {login} login"), format!("grant create on database {} to {login}", world.prefix)]
    {
        database.execute(sqlx::AssertSqlSafe(text)).await?;
    }
    let url = world.database_url.replace("postgres@", &format!("{login}@"));
    assert_ne!(url, world.database_url);
    let host = world.host(&[("DATABASE_URL", &url)]).await?;
    let (status, staged) = host.push(statements_plugin(|manifest| manifest)?).await?;
    assert_eq!(status, 200, "{staged}");
    let activate = json!({ "digest": staged["data"]["digest"], "grant": true });
    let path = "/api/admin/plugins/statements/activate";
    let (status, refused) = host.post(path, activate.clone()).await?;
    assert_eq!((status, &refused["code"]), (409, &json!("database-rights")), "{refused}");
    let statements = refused["details"]["statements"].as_array().context("statements")?.clone();
    let texts: Vec<&str> = statements.iter().filter_map(Value::as_str).collect();
    assert!(texts[0].starts_with("create role \"pb_") && texts[0].contains("SCRAM-SHA-256$"), "{texts:?}");
    assert!(texts[1..].iter().all(|text| text.starts_with("grant ")), "{texts:?}");
    assert!(
        texts.iter().any(|text| text.starts_with("grant select (\"id\") on table \"crm\".\"leads\" to ")),
        "{texts:?}"
    );
    for statement in &statements {
        database.execute(sqlx::AssertSqlSafe(statement.as_str().context("text")?.to_owned())).await?;
    }
    let (status, activated) = host.post(path, activate).await?;
    assert_eq!(status, 200, "{activated}");
    assert_eq!(query(&host, "select id from crm.leads where id = 1").await?, json!([[1]]));
    // The host may end what it may not grant.
    let timed_out = run(&host, "transaction", json!([{ "query": "select pg_sleep(8)" }])).await?;
    assert_eq!(timed_out[0]["code"], "timeout");
    until(Duration::from_secs(5), "no backend sleeps", async || {
        Ok((count(&mut database, SLEEPS).await? == 0).then_some(()))
    })
    .await?;
    database.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_host_that_owns_the_tables_and_may_create_logins_needs_no_administrator() -> anyhow::Result<()> {
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
    let url = world.database_url.replace("postgres@", &format!("{login}@"));
    let host = world.host(&[("DATABASE_URL", &url)]).await?;
    host.deploy("statements", statements_plugin(|manifest| manifest.replace("10_000", "500"))?).await?;
    let insert = json!({ "execute": "insert into crm.calls (lead, note) values (1, 'x')" });
    assert_eq!(run(&host, "each", json!([insert])).await?, json!([1]));
    assert_eq!(query(&host, "select phone from crm.leads").await?["code"], "42501");
    host.add(QUEUE, json!({ "name": "each", "data": [{ "query": "select pg_sleep(60) from set_config('statement_timeout', '0', true)" }] }))
        .await?;
    until(Duration::from_secs(10), "it sleeps", async || Ok((count(&mut database, SLEEPS).await? == 1).then_some(())))
        .await?;
    until(
        Duration::from_secs(5),
        "it was ended",
        async || Ok((count(&mut database, SLEEPS).await? == 0).then_some(())),
    )
    .await?;
    let asks = json!({ "asks": ["sql insert crm.calls"] });
    assert_eq!(host.post(&format!("{GRANTS}/revoke"), asks).await?.0, 200);
    assert_eq!(run(&host, "each", json!([insert])).await?[0]["code"], "42501");
    Ok(())
}

#[tokio::test]
async fn a_new_revision_changes_the_rights_and_a_refused_one_leaves_the_old_ones() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let swapped = "\"crm.leads\" = [\"select(id, phone)\"]";
    let change =
        |manifest: String| manifest.replace("\"crm.leads\" = [\"select(id, name)\", \"update(name)\"]", swapped);
    let second = statements_plugin(change)?;
    let (_, staged) = host.push(second).await?;
    database.execute("alter table crm.leads rename phone to renamed").await?;
    let activate = json!({ "digest": staged["data"]["digest"], "grant": true });
    let path = "/api/admin/plugins/statements/activate";
    let (status, refused) = host.post(path, activate.clone()).await?;
    assert_eq!((status, &refused["code"]), (409, &json!("database-rights")), "{refused}");
    assert_eq!(query(&host, "select name from crm.leads where id = 2").await?, json!([["Ravi"]]));
    database.execute("alter table crm.leads rename renamed to phone").await?;
    assert_eq!(host.post(path, activate).await?.0, 200);
    assert_eq!(query(&host, "select phone from crm.leads where id = 2").await?, json!([["+91 2"]]));
    assert_eq!(query(&host, "select name from crm.leads where id = 2").await?["code"], "42501");
    Ok(())
}

#[tokio::test]
async fn jobs_of_a_commit_reach_their_queue_although_the_host_is_killed_before_it_relays_them() -> anyhow::Result<()> {
    let (world, mut host) = world_and_host().await?;
    let mut database = world.database().await?;
    // Relays read this table; plugins do not.
    let mut gate = world.database().await?;
    let mut closed = gate.begin().await?;
    closed.execute("lock table patchbay.outbox_nonces in access exclusive mode").await?;
    let batch = json!({ "statements": [], "jobs": [{ "name": "noop", "queue": "otherQueue" }] });
    assert_eq!(run(&host, "batch", batch).await?, json!([]));
    assert_eq!(count(&mut database, "select count(*) from patchbay_outbox.jobs").await?, 1);
    host.child.kill().await?;
    let other = world.host(&[]).await?;
    closed.rollback().await?;
    until(Duration::from_secs(20), "the outbox is empty", async || {
        Ok((count(&mut database, "select count(*) from patchbay_outbox.jobs").await? == 0).then_some(()))
    })
    .await?;
    let waiting = other.get("/api/admin/queues/otherQueue/jobs?state=waiting").await?.1["data"].to_string();
    assert_eq!(waiting.matches("\"id\":\"outbox-").count(), 1, "{waiting}");
    Ok(())
}
