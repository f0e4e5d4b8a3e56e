//! Searching attempts in the history and jobs in Redis, saved searches, and one job's timeline:
//! through the API and the command line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::Router;
use axum::http::StatusCode;
use redis::AsyncCommands;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::net::TcpListener;

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, hostile_plugin_with, until};

const QUEUE: &str = "hostileQueue";
const OTHER: &str = "secondQueue";
const SEARCH: &str = "/api/admin/history/search";

/// An outside server that answers with this status.
async fn server(status: u16) -> anyhow::Result<(SocketAddr, Arc<AtomicU16>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let status = Arc::new(AtomicU16::new(status));
    let answer = Arc::clone(&status);
    let handler = move || async move {
        StatusCode::from_u16(answer.load(Ordering::SeqCst)).unwrap_or_default()
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    Ok((address, status))
}

/// The guest that does what its jobs say, on two queues, with a path by which its jobs are found.
fn plugin(address: &str) -> anyhow::Result<Vec<u8>> {
    hostile_plugin_with(|manifest| {
        let queue =
            format!("searchable = [\"lead.id\"]\n\n[[queues]]\nname = \"{OTHER}\"\nattempts = 1\n");
        // A long deadline, since deadlines are not tested here.
        let manifest = manifest.replace("deadline_ms = 200", "deadline_ms = 20_000");
        manifest.replace("127.0.0.1:9/", &format!("{address}/")) + &queue
    })
}

async fn start() -> anyhow::Result<(World, Host)> {
    let world = World::new().await?;
    // A long retention, since pruning is not tested here.
    let host = world
        .host(&[("PATCHBAY_HISTORY_KEEP_DAYS", "36500")])
        .await?;
    host.deploy("hostile", plugin("127.0.0.1:9")?).await?;
    Ok((world, host))
}

/// Adds a job with these headers.
async fn add(
    host: &Host,
    queue: &str,
    correlation: &str,
    platform: &str,
    mut job: Value,
) -> anyhow::Result<String> {
    job["newQueue"] = true.into();
    let request = host
        .http
        .post(format!("{}/api/admin/queues/{queue}/jobs", host.url))
        .json(&job);
    let (status, answer) = host
        .request(
            request
                .header("x-correlation-id", correlation)
                .header("x-platform", platform),
        )
        .await?;
    ensure!(status == 200, "{answer}");
    Ok(answer["data"]["id"].as_str().context("an id")?.to_owned())
}

async fn get(host: &Host, path: &str, pairs: &[(&str, &str)]) -> anyhow::Result<(u16, Value)> {
    host.request(host.http.get(format!("{}{path}", host.url)).query(pairs))
        .await
}

/// `queue/id` of each match.
async fn found(host: &Host, pairs: &[(&str, &str)]) -> anyhow::Result<BTreeSet<String>> {
    let (status, answer) = get(host, SEARCH, pairs).await?;
    ensure!(status == 200, "{pairs:?}: {answer}");
    let rows = answer["data"].as_array().context("rows")?;
    let name = |row: &Value| {
        Some(format!(
            "{}/{}",
            row["queue"].as_str()?,
            row["jobId"].as_str()?
        ))
    };
    rows.iter().map(|row| name(row).context("a job")).collect()
}

async fn until_found(host: &Host, count: usize) -> anyhow::Result<()> {
    until(
        Duration::from_secs(30),
        &format!("{count} attempts in the history"),
        async || Ok((found(host, &[("limit", "200")]).await?.len() == count).then_some(())),
    )
    .await
}

#[tokio::test]
async fn each_part_of_a_filter_alone_and_with_others_finds_what_it_means() -> anyhow::Result<()> {
    let (world, host) = start().await?;
    let before = chrono::Utc::now().to_rfc3339();
    let one = add(
        &host,
        QUEUE,
        "req-1",
        "web",
        json!({ "name": "echo", "data": { "lead": { "id": 4711 } } }),
    )
    .await?;
    let fails = json!({ "name": "fail", "data": { "retry": "never", "lead": { "id": "2" } } });
    let two = add(&host, QUEUE, "req-2", "app", fails.clone()).await?;
    let three = add(
        &host,
        OTHER,
        "req-3",
        "app",
        json!({ "name": "panic", "data": {} }),
    )
    .await?;
    let odd = "100%_\\'\"; drop table attempts";
    let four = add(
        &host,
        OTHER,
        "req-2",
        "web",
        json!({ "name": odd, "data": {} }),
    )
    .await?;
    until_found(&host, 4).await?;
    let digest = host.get("/api/admin/plugins").await?.1["data"][0]["digest"]
        .as_str()
        .context("a digest")?
        .to_owned();
    let groups: Vec<(i64, String)> =
        sqlx::query_as("select id, code from patchbay.dead_letters order by id")
            .fetch_all(&mut world.database().await?)
            .await?;
    let group = groups
        .iter()
        .find(|(_, code)| code == "on-request")
        .context("a dead letter")?
        .0
        .to_string();
    let [one, two, three, four] = [
        format!("{QUEUE}/{one}"),
        format!("{QUEUE}/{two}"),
        format!("{OTHER}/{three}"),
        format!("{OTHER}/{four}"),
    ];
    let (all, none) = ([&one, &two, &three, &four].map(String::as_str), [""; 0]);
    let kilobyte = "x".repeat(1_024);
    let id_of_two = two.rsplit('/').next().context("an id")?.to_owned();
    for (pairs, expected) in [
        (&[][..], &all[..]),
        (&[("queue", QUEUE)], &[&one, &two]),
        (&[("queue", QUEUE), ("job", &id_of_two)], &[&two]),
        (&[("job", "no-such-job")], &none),
        (&[("name", "fail")], &[&two]),
        (&[("name", odd)], &[&four]),
        (&[("from", &before)], &all),
        (&[("to", &before)], &none),
        (
            &[
                ("from", "1970-01-01T00:00:00Z"),
                ("to", "9999-12-31T23:59:59Z"),
            ],
            &all,
        ),
        (&[("outcome", "completed")], &[&one]),
        (&[("outcome", "trapped")], &[&three]),
        (&[("verdict", "complete")], &[&one]),
        (
            &[("verdict", "fail"), ("outcome", "failed")],
            &[&two, &four],
        ),
        (&[("code", "on-request")], &[&two]),
        (&[("code", "trapped")], &[&three]),
        (&[("text", "FAILED ON REQUEST")], &[&two]),
        (&[("text", odd)], &[&four]),
        (&[("text", "%")], &[&four]),
        (&[("text", "_")], &[&four]),
        (&[("text", "\\")], &[&four]),
        (&[("text", "'\"")], &[&four]),
        (&[("text", "(a+)+$")], &none),
        (&[("text", &kilobyte)], &none),
        (&[("data.lead.id", "4711")], &[&one]),
        (
            &[
                ("data.lead.id", "2"),
                ("queue", QUEUE),
                ("outcome", "failed"),
            ],
            &[&two],
        ),
        (&[("data.lead.id", "2"), ("outcome", "completed")], &none),
        (&[("data.lead.id", "3")], &none),
        (&[("plugin", "hostile"), ("name", "panic")], &[&three]),
        (&[("revision", &digest)], &all),
        (
            &[("revision", &digest[..6]), ("code", "on-request")],
            &[&two],
        ),
        (&[("revision", "00000000")], &none),
        (&[("correlation-id", "req-2")], &[&two, &four]),
        (
            &[("correlation-id", "req-2"), ("platform", "web")],
            &[&four],
        ),
        (&[("platform", "app")], &[&two, &three]),
        (&[("dead-letter", &group)], &[&two]),
    ] {
        let expected: BTreeSet<String> = expected.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(found(&host, pairs).await?, expected, "{pairs:?}");
        let (_, count) = get(&host, "/api/admin/history/count", pairs).await?;
        let counted = json!({ "jobs": expected.len(), "attempts": expected.len(), "exact": true });
        assert_eq!(count["data"], counted, "{pairs:?}");
    }
    let (_, answer) = get(&host, SEARCH, &[("dead-letter", &group)]).await?;
    assert_eq!(answer["data"][0]["deadLetter"].to_string(), group);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_searched_for_is_refused_with_what_can() -> anyhow::Result<()> {
    let (_world, host) = start().await?;
    let long = "x".repeat(1_025);
    for (pairs, status, message) in [
        (
            &[("colour", "red")][..],
            400,
            "colour: is not a filter. Known filters: queue, job",
        ),
        (&[("queue", "a"), ("queue", "b")], 400, "queue: given twice"),
        (
            &[("queue", "noQueue")],
            404,
            "queue: No queue is called noQueue",
        ),
        (
            &[("plugin", "hostil")],
            400,
            "plugin: No plugin is called hostil. Did you mean hostile?",
        ),
        (&[("text", "a\0b")], 400, "without NUL"),
        (&[("text", &long)], 400, "1 to 1024 bytes"),
        (
            &[
                ("from", "2026-01-02T00:00:00Z"),
                ("to", "2026-01-01T00:00:00Z"),
            ],
            400,
            "to: must be later than from",
        ),
        (
            &[("data.customer.phone", "1")],
            400,
            "data.customer.phone: no active plugin declares it searchable; searchable paths: data.lead.id",
        ),
        (
            &[("data.lead.id", "1"), ("queue", OTHER)],
            400,
            "declares it searchable for secondQueue; no path is searchable",
        ),
        (
            &[("dead-letter", "999999")],
            404,
            "There is no group of dead letters 999999",
        ),
        (
            &[("revision", "latest")],
            400,
            "revision: must be 4 to 64 hexadecimal digits of a digest",
        ),
        (&[("cursor", "nonsense")], 400, "cursor: not valid"),
        (&[("limit", "0")], 400, "limit: must be from 1 to 200"),
        (&[("limit", "201")], 400, "limit: must be from 1 to 200"),
    ] {
        let (code, answer) = get(&host, SEARCH, pairs).await?;
        assert_eq!(code, status, "{pairs:?}: {answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.contains(message)),
            "{pairs:?}: {answer}"
        );
    }
    Ok(())
}

/// Attempts of long ago, today and a clock years ahead; some in a month without a partition.
const HISTORY: &str = "insert into patchbay.attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, host, started_at, \
    finished_at, outcome, verdict, correlation_id) select '{prefix}', 'oldQueue', (n % 500)::text, 0, n, 1, 'job', 'host', at, at, \
    'completed', 'complete', 'req' from (select n, case when n % 100 = 0 then now() + interval '3 years' \
    else date_trunc('second', now() - interval '1 day' * (n % 40) * (n % 40)) end as at from generate_series(1, 2000) n) rows";

#[tokio::test]
async fn pages_show_each_attempt_once_wherever_in_time_it_is_and_whatever_comes_meanwhile()
-> anyhow::Result<()> {
    let (world, host) = start().await?;
    let mut database = world.database().await?;
    database
        .execute(sqlx::AssertSqlSafe(
            HISTORY.replace("{prefix}", &world.prefix),
        ))
        .await?;
    let (mut seen, mut last, mut cursor, mut pages) =
        (BTreeSet::new(), None::<String>, None::<String>, 0);
    loop {
        let mut pairs = vec![("queue", "oldQueue"), ("limit", "170")];
        pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let (status, answer) = get(&host, SEARCH, &pairs).await?;
        ensure!(status == 200, "{answer}");
        for row in answer["data"].as_array().context("rows")? {
            let at = row["finishedAt"].as_str().context("a time")?.to_owned();
            assert!(
                last.as_ref().is_none_or(|last| *last >= at),
                "{last:?} is not older than {at}"
            );
            assert!(seen.insert(row["started"].as_i64()), "{row} comes twice");
            last = Some(at);
        }
        pages += 1;
        // Newer than everything on the page.
        let newer = "insert into patchbay.attempts select (jsonb_populate_record(a, jsonb_build_object('started', a.started + 10000 * $1, \
                     'finished_at', now() + interval '4 years'))).* from patchbay.attempts a where prefix = $2 and started <= 50";
        sqlx::query(newer)
            .bind(pages)
            .bind(&world.prefix)
            .execute(&mut database)
            .await?;
        match answer["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (2_000, 12));
    let (_, count) = get(
        &host,
        "/api/admin/history/count",
        &[("to", &chrono::Utc::now().to_rfc3339())],
    )
    .await?;
    assert_eq!(
        (&count["data"]["jobs"], &count["data"]["attempts"]),
        (&json!(495), &json!(1_980))
    );
    Ok(())
}

#[tokio::test]
async fn a_history_that_somebody_has_locked_is_an_error_within_seconds() -> anyhow::Result<()> {
    let (world, host) = start().await?;
    let mut database = world.database().await?;
    database
        .execute("begin; lock table patchbay.attempts in access exclusive mode")
        .await?;
    let began = Instant::now();
    let (status, answer) = get(&host, SEARCH, &[]).await?;
    assert_eq!(
        (status, &answer["code"]),
        (503, &json!("unavailable")),
        "{answer}"
    );
    let (status, _) = get(&host, "/api/admin/history/count", &[]).await?;
    assert_eq!(status, 503);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    database.execute("rollback").await?;
    assert_eq!(get(&host, SEARCH, &[]).await?.0, 200);
    Ok(())
}

/// Many jobs at once, as a BullMQ producer leaves them.
async fn waiting_jobs(world: &World, queue: &str, count: usize) -> anyhow::Result<()> {
    let mut redis = world.redis().await?;
    let key = |name: &str| format!("{}:{queue}:{name}", world.prefix);
    for from in (0..count).step_by(1_000) {
        let mut pipe = redis::pipe();
        for n in from..(from + 1_000).min(count) {
            let fields = [
                (
                    "name",
                    if n + 1 == count { "last" } else { "job" }.to_owned(),
                ),
                ("data", json!({ "list": [{ "n": n }] }).to_string()),
                ("opts", "{}".into()),
                ("timestamp", (1_700_000_000_000 + n).to_string()),
            ];
            pipe.hset_multiple(key(&format!("j{n}")), &fields)
                .ignore()
                .lpush(key("wait"), format!("j{n}"))
                .ignore();
        }
        pipe.query_async::<()>(&mut redis).await?;
    }
    redis::cmd("HSET")
        .arg(key("meta"))
        .arg("opts.maxLenEvents")
        .arg(10_000)
        .query_async::<()>(&mut redis)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_scan_of_jobs_that_wait_says_when_it_has_not_seen_all_and_goes_on_from_there()
-> anyhow::Result<()> {
    let (world, host) = start().await?;
    waiting_jobs(&world, "idleQueue", 20_500).await?;
    let path = "/api/admin/queues/idleQueue/search";
    let (mut cursor, mut ids, mut partial) = (None::<String>, Vec::new(), 0);
    loop {
        let mut pairs = vec![("state", "waiting"), ("name", "last")];
        pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let (status, answer) = get(&host, path, &pairs).await?;
        ensure!(status == 200, "{answer}");
        ids.extend(
            answer["data"]
                .as_array()
                .context("jobs")?
                .iter()
                .map(|job| job["id"].clone()),
        );
        partial += usize::from(answer["partial"] == true);
        match answer["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!((ids, partial > 0), (vec![json!("j20499")], true));
    let delayed =
        json!({ "name": "later", "data": { "a": { "b": [1, "x"] } }, "delayMs": 3_600_000 });
    let delayed = add(&host, "idleQueue", "req-9", "app", delayed).await?;
    let failed = json!({ "name": "fail", "data": { "retry": "never" } });
    let failed = add(&host, QUEUE, "req-10", "web", failed).await?;
    host.job_in(QUEUE, &failed, "failed").await?;
    for (queue, pairs, expected) in [
        (
            "idleQueue",
            &[("state", "waiting"), ("data.list.n", "17")][..],
            Some("j17"),
        ),
        (
            "idleQueue",
            &[("state", "waiting"), ("job", "j3"), ("queue", "idleQueue")],
            Some("j3"),
        ),
        (
            "idleQueue",
            &[("state", "waiting"), ("to", "2023-11-14T22:13:20.001Z")],
            Some("j0"),
        ),
        (
            "idleQueue",
            &[("state", "delayed"), ("data.a.b", "x"), ("platform", "app")],
            Some(&delayed),
        ),
        (
            "idleQueue",
            &[("state", "delayed"), ("correlation-id", "req-9")],
            Some(&delayed),
        ),
        (
            "idleQueue",
            &[("state", "delayed"), ("correlation-id", "req-8")],
            None,
        ),
        ("idleQueue", &[("state", "active")], None),
        (
            QUEUE,
            &[
                ("state", "failed"),
                ("code", "on-request"),
                ("text", "ON REQUEST"),
            ],
            Some(&failed),
        ),
        (QUEUE, &[("state", "failed"), ("code", "on")], None),
    ] {
        let (status, answer) =
            get(&host, &format!("/api/admin/queues/{queue}/search"), pairs).await?;
        ensure!(status == 200, "{answer}");
        let ids: Vec<&str> = answer["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|job| job["id"].as_str())
            .collect();
        assert_eq!(ids, expected.into_iter().collect::<Vec<_>>(), "{pairs:?}");
    }
    for (pairs, message) in [
        (&[][..], "state: must be waiting, prioritized"),
        (
            &[("state", "waiting"), ("outcome", "failed")],
            "outcome: only finished attempts have it",
        ),
        (
            &[("state", "waiting"), ("queue", "other")],
            "queue: must be idleQueue, whose jobs are searched",
        ),
        (&[("state", "waiting"), ("data.a..b", "1")], "is not a path"),
        (&[("state", "waiting"), ("cursor", "x")], "cursor: "),
    ] {
        let (status, answer) = get(&host, path, pairs).await?;
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.contains(message)),
            "{answer}"
        );
    }
    let (status, _) = get(
        &host,
        "/api/admin/queues/nobodysQueue/search",
        &[("state", "waiting")],
    )
    .await?;
    assert_eq!(status, 404);
    Ok(())
}

#[tokio::test]
async fn a_saved_search_is_run_changed_undone_and_forgotten_by_name() -> anyhow::Result<()> {
    let (world, host) = start().await?;
    let ok = add(
        &host,
        QUEUE,
        "req-1",
        "web",
        json!({ "name": "echo", "data": {} }),
    )
    .await?;
    let failed = add(
        &host,
        QUEUE,
        "req-2",
        "web",
        json!({ "name": "fail", "data": { "retry": "never" } }),
    )
    .await?;
    let idle = add(
        &host,
        "idleQueue",
        "req-3",
        "web",
        json!({ "name": "job", "data": {}, "delayMs": 3_600_000 }),
    )
    .await?;
    until_found(&host, 2).await?;
    let run = async || -> anyhow::Result<Vec<String>> {
        let page = json_of(&host, &["--json", "search", "run", "night watch"]).await?;
        let name = |row: &Value| {
            row["jobId"]
                .as_str()
                .or(row["id"].as_str())
                .unwrap_or_default()
                .to_owned()
        };
        Ok(page.as_array().context("rows")?.iter().map(name).collect())
    };
    let search =
        async |args: &[&str]| json_of(&host, &[&["--json", "search"], args].concat()).await;
    search(&["save", "night watch", "outcome=failed", "--since", "2h"]).await?;
    assert_eq!(run().await?, [failed.as_str()]);
    search(&["save", "night watch", "outcome=completed"]).await?;
    assert_eq!(run().await?, [ok.as_str()]);
    search(&["undo", "night watch"]).await?;
    assert_eq!(run().await?, [failed.as_str()]);
    search(&[
        "save",
        "night watch",
        "queue=idleQueue",
        "--state",
        "delayed",
    ])
    .await?;
    assert_eq!(run().await?, [idle.as_str()]);
    let listed = search(&["saved"]).await?;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["changedBy"]),
        (&json!("night watch"), &json!("operator"))
    );
    assert_eq!(
        (&listed[0]["state"], &listed[0]["filter"]),
        (&json!("delayed"), &json!({ "queue": "idleQueue" }))
    );
    search(&["forget", "night watch"]).await?;
    assert_eq!(search(&["saved"]).await?, json!([]));
    let gone = patchbay(&host, &["search", "run", "night watch"]).await?;
    assert_eq!(
        gone.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&gone.stderr)
    );
    search(&["undo", "night watch"]).await?;
    assert_eq!(run().await?, [idle.as_str()]);

    let path = "/api/admin/history/searches/bad";
    for (body, message) in [
        (
            json!({ "filter": { "data.phone": "1" } }),
            "no active plugin declares it searchable",
        ),
        (
            json!({ "filter": { "colour": "red" } }),
            "colour: is not a filter",
        ),
        (
            json!({ "filter": {}, "state": "delayed" }),
            "queue: must be given when state is given",
        ),
        (
            json!({ "filter": { "from": "2026-01-01T00:00:00Z" }, "sinceMs": 1 }),
            "sinceMs and from cannot be given together",
        ),
    ] {
        let (status, answer) = host.put(path, body).await?;
        assert!(status == 400 || status == 422, "{answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.contains(message)),
            "{answer}"
        );
    }
    let (status, answer) = host
        .put(
            "/api/admin/history/searches/%2Fetc",
            json!({ "filter": {} }),
        )
        .await?;
    assert_eq!(status, 400, "{answer}");
    // The values of a search are not recorded in the action.
    search(&["save", "one lead", "data.lead.id=4711"]).await?;
    let actions: Vec<(String, String, Value)> = sqlx::query_as(
        "select action, actor, details from patchbay.operator_actions where action like 'search.%' order by id",
    )
    .fetch_all(&mut world.database().await?)
    .await?;
    assert!(actions.iter().all(|(_, actor, _)| actor == "operator"));
    let last = actions.last().context("an action")?;
    assert_eq!(
        (last.0.as_str(), &last.2),
        (
            "search.save",
            &json!({ "filter": { "data.lead.id": "…" }, "from": "127.0.0.1" })
        )
    );
    Ok(())
}

async fn timeline(host: &Host, queue: &str, id: &str) -> anyhow::Result<Value> {
    let (status, answer) = host
        .get(&format!("/api/admin/queues/{queue}/jobs/{id}/timeline"))
        .await?;
    ensure!(status == 200, "{answer}");
    Ok(answer["data"].clone())
}

/// The events of a timeline, in short.
fn story(life: &Value) -> Vec<String> {
    let of = |event: &Value| match event["kind"].as_str().unwrap_or_default() {
        "operator" => format!("{} by {}", event["action"], event["actor"]).replace('"', ""),
        "attempt" => {
            format!("{} {}", event["outcome"], event["calls"][0]["result"]).replace('"', "")
        }
        kind => kind.to_owned(),
    };
    life["events"]
        .as_array()
        .into_iter()
        .flatten()
        .map(of)
        .collect()
}

#[tokio::test]
async fn a_timeline_tells_a_jobs_life_from_its_request_to_its_removal() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let (address, status) = server(503).await?;
    host.deploy("hostile", plugin(&address.to_string())?)
        .await?;
    let child = json!({ "name": "upstream", "data": { "url": format!("http://{address}/secret?token=1") }, "attempts": 1 });
    let flow = json!({ "queue": QUEUE, "job": { "name": "children", "data": {} }, "children": [{ "queue": OTHER, "job": child }] });
    let request = host
        .http
        .post(format!("{}/api/admin/flows", host.url))
        .json(&flow);
    let (code, added) = host
        .request(
            request
                .header("x-correlation-id", "req-77")
                .header("x-platform", "app"),
        )
        .await?;
    ensure!(code == 200, "{added}");
    let id = |n: usize| {
        added["data"]["jobs"][n]["id"]
            .as_str()
            .map(str::to_owned)
            .context("an id")
    };
    let (parent, child) = (id(0)?, id(1)?);
    host.job_in(OTHER, &child, "failed").await?;
    status.store(200, Ordering::SeqCst);
    let (code, answer) = host
        .post(
            &format!("/api/admin/queues/{OTHER}/jobs/{child}/retry"),
            json!({}),
        )
        .await?;
    ensure!(code == 200, "{answer}");
    host.job_in(OTHER, &child, "completed").await?;
    host.job_in(QUEUE, &parent, "completed").await?;
    until_found(&host, 2).await?;
    let told = until(
        Duration::from_secs(20),
        "both attempts in the history",
        async || {
            let told = timeline(&host, OTHER, &child).await?;
            Ok((story(&told["lives"][0]).len() == 5).then_some(told))
        },
    )
    .await?;
    let life = &told["lives"][0];
    let expected = [
        "flow.add by operator",
        "added",
        "failed 503",
        "job.retry by operator",
        "completed 200",
    ];
    assert_eq!(story(life), expected, "{told:#}");
    assert_eq!(
        (&life["correlationId"], &life["platform"]),
        (&json!("req-77"), &json!("app"))
    );
    assert_eq!(
        (&life["parent"], &life["state"]),
        (&json!(format!("{QUEUE}:{parent}")), &json!("completed"))
    );
    let failed = &life["events"][2];
    assert_eq!(
        (&failed["code"], &failed["verdict"], &failed["version"]),
        (&json!("upstream"), &json!("fail"), &json!("0.1.0"))
    );
    assert!(
        failed["tookMs"].is_u64() && failed["waitedMs"].is_u64() && failed["host"].is_string(),
        "{failed}"
    );
    assert!(
        !told.to_string().contains("token"),
        "of an outside call no path: {told}"
    );
    let parents = timeline(&host, QUEUE, &parent).await?;
    assert_eq!(
        parents["lives"][0]["children"],
        json!({ format!("{OTHER}:{child}"): "completed" }),
        "{parents:#}"
    );

    let text = String::from_utf8(
        patchbay(&host, &["job", "timeline", OTHER, &child])
            .await?
            .stdout,
    )?;
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    for part in [
        "request: req-77",
        "attempt 1: failed, failed for good",
        "retried by operator",
        "attempt 2 (BullMQ's attempt 1): completed",
        "http GET 127.0.0.1",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }

    for (queue, id) in [(OTHER, &child), (QUEUE, &parent)] {
        let (code, answer) = host
            .delete(&format!("/api/admin/queues/{queue}/jobs/{id}"))
            .await?;
        ensure!(code == 200, "{answer}");
    }
    let told = timeline(&host, OTHER, &child).await?;
    let life = &told["lives"][0];
    assert_eq!(
        story(life),
        [&expected[..], &["job.remove by operator"]].concat(),
        "{told:#}"
    );
    assert!(life["state"].is_null());
    assert_eq!(
        (&life["parent"], &life["platform"]),
        (&json!(format!("{QUEUE}:{parent}")), &json!("app"))
    );
    let parents = timeline(&host, QUEUE, &parent).await?;
    assert_eq!(
        parents["lives"][0]["children"],
        json!({ format!("{OTHER}:{child}"): "completed" }),
        "{parents:#}"
    );
    Ok(())
}

#[tokio::test]
async fn jobs_that_had_the_same_id_have_lives_of_their_own() -> anyhow::Result<()> {
    let (world, host) = start().await?;
    for round in 1..=2 {
        let job = json!({ "name": "echo", "data": { "round": round }, "id": "again" });
        assert_eq!(
            add(&host, QUEUE, &format!("req-{round}"), "web", job).await?,
            "again"
        );
        host.job_in(QUEUE, "again", "completed").await?;
        until(
            Duration::from_secs(20),
            "its attempt in the history",
            async || {
                let lives = timeline(&host, QUEUE, "again").await?["lives"].clone();
                let all = lives.as_array().is_some_and(|lives| {
                    lives.len() == round && lives.iter().all(|life| story(life).len() >= 3)
                });
                Ok(all.then_some(()))
            },
        )
        .await?;
        let (code, answer) = host
            .delete(&format!("/api/admin/queues/{QUEUE}/jobs/again"))
            .await?;
        ensure!(code == 200, "{answer}");
    }
    let told = timeline(&host, QUEUE, "again").await?;
    for (n, life) in told["lives"]
        .as_array()
        .context("lives")?
        .iter()
        .enumerate()
    {
        let expected = [
            "job.add by operator",
            "added",
            "completed null",
            "job.remove by operator",
        ];
        assert_eq!(story(life), expected, "{told:#}");
        assert_eq!(life["correlationId"], json!(format!("req-{}", n + 1)));
    }
    let (status, _) = host
        .get(&format!("/api/admin/queues/{QUEUE}/jobs/never/timeline"))
        .await?;
    assert_eq!(status, 404);
    // With any creation time that a producer wrote.
    let delayed = json!({ "name": "echo", "data": {}, "id": "far", "delayMs": 3_600_000 });
    add(&host, QUEUE, "req-far", "web", delayed).await?;
    let _: () = world
        .redis()
        .await?
        .hset(
            format!("{}:{QUEUE}:far", world.prefix),
            "timestamp",
            u64::MAX,
        )
        .await?;
    timeline(&host, QUEUE, "far").await?;
    Ok(())
}
