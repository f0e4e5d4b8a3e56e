//! Parameters, results, and what Postgres or the host refuses.

use serde_json::{Value, json};

use super::{count, query, run, world_and_host};

#[tokio::test]
async fn statements_are_counted_with_the_other_calls_of_a_revision() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    run(
        &host,
        "each",
        json!([{ "query": "select 1" }, { "query": "select 2" }]),
    )
    .await?;
    let page = host.metrics().await?;
    let series = "patchbay_host_call_duration_seconds_count{";
    let counted = page
        .lines()
        .find(|line| line.starts_with(series) && line.contains("capability=\"sql\""));
    assert_eq!(
        counted.and_then(|line| line.rsplit(' ').next()),
        Some("2"),
        "{page}"
    );
    for series in [
        "connections_in_use",
        "calls_waiting",
        "backends_ended_total",
    ] {
        assert!(
            page.contains(&format!(
                "patchbay_sql_{series}{{plugin=\"statements\"}} 0\n"
            )),
            "{series}: {page}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn values_of_every_type_go_in_and_come_out_as_the_contract_says() -> anyhow::Result<()> {
    let (_world, host) = world_and_host().await?;
    let one = |text: &str, parameters: Value| json!({ "query": text, "parameters": parameters });
    let cases = [
        (
            one(
                "select $1::int2, $2::int4, $3::int8, $4::numeric",
                json!([1, 2, 3, 4]),
            ),
            json!([[1, 2, 3, "4"]]),
        ),
        (
            one(
                "select $1::bool, $2::float8, $3::float4",
                json!([true, 1.5, 2.5]),
            ),
            json!([[true, {"float": 1.5}, {"float": 2.5}]]),
        ),
        (
            one(
                "select $1::text, $2::varchar(3), $3::bytea",
                json!(["é", "abc", [0, 255]]),
            ),
            json!([["é", "abc", [0, 255]]]),
        ),
        (
            one(
                "select $1::numeric(20, 4), $2::numeric",
                json!(["-12345678901234.5", "1e-7"]),
            ),
            json!([["-12345678901234.5000", "0.0000001"]]),
        ),
        (
            one(
                "select $1::uuid",
                json!(["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
            ),
            json!([["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]]),
        ),
        (
            one(
                "select $1::timestamptz, $2::timestamp, $3::date, $4::time",
                json!([
                    "2026-01-02T03:04:05.5+05:30",
                    "2026-01-02T03:04:05",
                    "2026-01-02",
                    "03:04:05"
                ]),
            ),
            json!([[
                "2026-01-01T21:34:05.500Z",
                "2026-01-02T03:04:05",
                "2026-01-02",
                "03:04:05"
            ]]),
        ),
        (
            one(
                "select $1::interval, $2::inet, $3::cidr",
                json!(["1 day 2 hours", "10.0.0.1", "10.0.0.0/8"]),
            ),
            json!([["P1DT2H", "10.0.0.1", "10.0.0.0/8"]]),
        ),
        (
            one(
                "select $1::jsonb, $2::json",
                json!([{"json": {"b": [1]}}, {"json": 5}]),
            ),
            json!([[{"json": {"b": [1]}}, {"json": 5}]]),
        ),
        (
            one(
                "select $1::int4[], $2::text[]",
                json!([{"json": [1, null]}, {"json": ["a,b", "\""]}]),
            ),
            json!([[{"json": [1, null]}, {"json": ["a,b", "\""]}]]),
        ),
        (
            one("select $1::text, $2::int4", json!([null, null])),
            json!([[null, null]]),
        ),
        (
            one(
                "select id from crm.leads where id = any($1) order by id limit $2",
                json!([{"json": [2, 1]}, 5]),
            ),
            json!([[1], [2]]),
        ),
        (
            one("values ($1), ('b')", json!(["a"])),
            json!([["a"], ["b"]]),
        ),
        (
            one("with a as (select 1) select * from a", json!([])),
            json!([[1]]),
        ),
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
    assert_eq!(
        codes,
        [
            &json!("invalid"),
            &json!("22P02"),
            &json!("invalid"),
            &json!("invalid")
        ],
        "{wrong}"
    );
    Ok(())
}

#[tokio::test]
async fn a_plugin_does_to_tables_what_is_granted_and_hears_of_constraints_without_rows_of_others()
-> anyhow::Result<()> {
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
    assert_eq!(
        (&results[1]["code"], &results[1]["constraint"]),
        (&json!("23505"), &json!("calls_lead_note_key"))
    );
    assert!(
        !results[1].to_string().contains("first"),
        "Postgres's detail quotes rows: {results}"
    );
    assert_eq!(
        (&results[2]["code"], &results[2]["constraint"]),
        (&json!("23514"), &json!("note_is_short"))
    );
    assert_eq!(
        (&results[3], &results[4], &results[5], &results[6]),
        (&json!(1), &json!([["Asha K"]]), &json!([["x"]]), &json!(2))
    );
    let too_many = query(&host, "select * from generate_series(1, 20000)").await?;
    assert_eq!(too_many["code"], "too-large", "{too_many}");
    assert_eq!(
        query(&host, "select repeat('x', 5000000)").await?["code"],
        "too-large"
    );
    assert_eq!(
        query(&host, "select 1").await?,
        json!([[1]]),
        "the next one has a connection"
    );
    Ok(())
}

#[tokio::test]
async fn sql_that_reaches_for_more_is_denied_by_the_host_or_by_postgres() -> anyhow::Result<()> {
    let (world, host) = world_and_host().await?;
    let mut database = world.database().await?;
    let installation: String =
        sqlx::query_scalar("select left(id::text, 8) from patchbay.installation")
            .fetch_one(&mut database)
            .await?;
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
        (
            "select set_config('session_authorization', 'postgres', false)",
            "42501",
        ),
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
    let steps: Vec<Value> = cases
        .iter()
        .map(|(text, _)| json!({ "query": text }))
        .collect();
    let results = run(&host, "each", json!(steps)).await?;
    for (place, (text, code)) in cases.iter().enumerate() {
        assert_eq!(results[place]["code"], *code, "{text}: {}", results[place]);
    }
    let role = format!("pb_{installation}_statements");
    assert_eq!(
        query(&host, "select current_user, session_user").await?,
        json!([[role, role]])
    );
    let facts = format!(
        "select count(*) from pg_roles r where rolname = '{role}' and rolcanlogin and not rolinherit and not rolsuper \
         and not exists (select from pg_auth_members where member = r.oid)"
    );
    assert_eq!(count(&mut database, &facts).await?, 1);
    Ok(())
}
