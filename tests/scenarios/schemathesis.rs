//! The API against its own document: schemathesis makes requests of it, right ones and wrong ones,
//! and holds each answer to what is promised.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row;

use crate::harness::{
    Host, PASSWORD, USER, World, answers_plugin_with, clerk_plugin, full_length, hostile_plugin,
    repository, seed, until,
};
use crate::openapi::{interop, printed_with, served};
use crate::people::{PEOPLE, verified};
use crate::redis_server::RedisServer;

const QUEUE: &str = "hostileQueue";
const PAUSED: &str = "pausedQueue";

/// What a run of the short form draws from. The full form draws anew each time, and prints what.
const SEED: u64 = 1;
/// Of each kind, per operation.
const EXAMPLES: u64 = 3;
const FULL_EXAMPLES: u64 = 30;
const FULL_RUNS: u64 = 3;

async fn ask(host: &Host, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
    let url = format!("{}/api/admin/{path}", host.url);
    let (status, answer) = host
        .request(host.http.request(method.clone(), url).json(&body))
        .await?;
    ensure!(status == 200, "{method} {path}: {status} {answer}");
    Ok(answer["data"].clone())
}

/// Names of what is there, by the dictionaries of schemathesis.toml.
type Names = BTreeMap<&'static str, Vec<String>>;

/// Something of everything that there can be.
async fn furnish(host: &Host) -> anyhow::Result<Names> {
    let trail = json!({ "schema": { "type": "object" }, "description": "of everything" });
    ask(host, Method::PUT, "audit/trails/lead_activity_log", trail).await?;
    let mut digests = vec![host.deploy("hostile", hostile_plugin()?).await?];
    digests.push(host.deploy("clerk", clerk_plugin()?).await?);
    for version in ["0.1.0", "0.2.0"] {
        let plugin = answers_plugin_with(|manifest| {
            manifest.replace("version = \"0.1.0\"", &format!("version = {version:?}"))
        })?;
        digests.push(host.deploy("answers", plugin).await?);
    }
    ask(
        host,
        Method::PUT,
        "plugins/hostile/secrets/TOKEN",
        json!({ "value": "s3cret" }),
    )
    .await?;

    let mut jobs = vec![
        host.add(QUEUE, json!({ "name": "echo", "data": { "n": 1 } }))
            .await?,
    ];
    host.job_in(QUEUE, &jobs[0], "completed").await?;
    jobs.push(
        host.add(
            QUEUE,
            json!({ "name": "fail", "data": { "retry": "never", "message": "no lead" } }),
        )
        .await?,
    );
    host.job_in(QUEUE, &jobs[1], "failed").await?;
    for queue in [QUEUE, PAUSED] {
        jobs.push(
            host.add(
                queue,
                json!({ "name": "echo", "id": "later", "delayMs": 3_600_000 }),
            )
            .await?,
        );
    }
    for job in [
        json!({ "name": "echo" }),
        json!({ "name": "echo", "id": "first", "priority": 7 }),
    ] {
        jobs.push(host.add(PAUSED, job).await?);
    }
    host.add("doomedQueue", json!({ "name": "echo" })).await?;
    ask(
        host,
        Method::POST,
        &format!("queues/{PAUSED}/pause"),
        Value::Null,
    )
    .await?;
    let flow = json!({
        "queue": PAUSED, "job": { "name": "parent" }, "children": [{ "queue": PAUSED, "job": { "name": "child" } }],
    });
    let flow = ask(host, Method::POST, "flows", flow).await?;
    jobs.extend(
        flow["jobs"]
            .as_array()
            .context("jobs")?
            .iter()
            .filter_map(|job| Some(job["id"].as_str()?.to_owned())),
    );
    let other = json!({ "id": "nightly", "queue": PAUSED, "name": "echo", "cron": "0 3 * * *", "tz": "Asia/Kolkata" });
    ask(host, Method::POST, "schedules", other).await?;
    let every = json!({ "id": "often", "queue": PAUSED, "name": "echo", "everyMs": 3_600_000 });
    ask(host, Method::POST, "schedules", every).await?;
    ask(
        host,
        Method::PUT,
        "history/searches/mine",
        json!({ "filter": { "queue": QUEUE } }),
    )
    .await?;
    let live = json!({ "filter": { "queue": QUEUE }, "state": "failed" });
    ask(host, Method::PUT, "history/searches/live", live).await?;
    let silence = json!({ "rule": "failure-rate", "forS": 3_600, "reason": "a test" });
    ask(host, Method::POST, "alerts/silences", silence).await?;
    let keep = json!({ "outcome": "completed", "days": 7 });
    ask(
        host,
        Method::PUT,
        &format!("history/retention/{QUEUE}"),
        keep,
    )
    .await?;
    let bulk =
        json!({ "kind": "remove", "filter": { "queue": PAUSED }, "state": "waiting", "first": 1 });
    ask(host, Method::POST, "bulk", bulk).await?;
    until(
        Duration::from_secs(30),
        "the dead letter is recorded",
        async || {
            let (_, groups) = host.get("/api/admin/dead-letters").await?;
            Ok(groups["data"]
                .as_array()
                .is_some_and(|groups| !groups.is_empty())
                .then_some(()))
        },
    )
    .await?;

    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    Ok(BTreeMap::from([
        ("queues", texts(&[QUEUE, PAUSED])),
        ("jobs", jobs),
        ("plugins", texts(&["hostile", "answers", "clerk"])),
        ("searches", texts(&["mine", "live"])),
        ("secrets", texts(&["TOKEN"])),
        ("trails", texts(&["lead_activity_log"])),
        ("digests", digests),
        ("schedules", texts(&["nightly", "often"])),
        // What stands in many places.
        (
            "words",
            texts(&[
                "echo",
                "fail",
                "failed",
                "retry",
                "all",
                QUEUE,
                "answers",
                "Asia/Kolkata",
            ]),
        ),
    ]))
}

/// What accounts call. Logging out would end the session with which it asks.
const OF_ACCOUNTS: &str = "^/api/(users|audit)/|^/api/auth/(?!logout)";

/// Who asks, each what is meant for it.
#[derive(Clone, Copy)]
enum As<'a> {
    Operator,
    /// With this access token.
    Account(&'a str),
}

/// Runs schemathesis to its end, and gives what it did, as an HTTP archive.
async fn run(
    host: &Host,
    (names, who): (&Names, As<'_>),
    dir: &Path,
    seed: u64,
    examples: u64,
) -> anyhow::Result<Value> {
    std::fs::create_dir_all(dir)?;
    let file = served(&host.url, dir).await?;
    for part in ["schemathesis.toml", "schemathesis_hooks.py"] {
        std::fs::copy(interop()?.join("openapi").join(part), dir.join(part))?;
    }
    let bearer: String;
    let asks = match who {
        As::Operator => vec!["--exclude-path-regex", "^/api/(auth|users|audit)/"],
        As::Account(token) => {
            let config = std::fs::read_to_string(dir.join("schemathesis.toml"))?;
            let (head, rest) = config.split_once("[auth.basic]").context("the login")?;
            let (_, rest) = rest.split_once("\n[").context("what follows")?;
            std::fs::write(dir.join("schemathesis.toml"), format!("{head}[{rest}"))?;
            bearer = format!("Authorization: Bearer {token}");
            vec!["--include-path-regex", OF_ACCOUNTS, "--header", &bearer]
        }
    };
    for (dictionary, names) in names {
        let lines: String = names.iter().map(|name| format!("{name:?}\n")).collect();
        std::fs::write(dir.join(dictionary), lines)?;
    }
    let (seed, examples) = (seed.to_string(), examples.to_string());
    let what = [
        "run",
        &file,
        "--url",
        &host.url,
        "--seed",
        &seed,
        "--max-examples",
        &examples,
    ];
    let report = [
        "--report",
        "har",
        "--report-har-path",
        "report.har",
        "--no-color",
    ];
    let env = [("PATCHBAY_USER", USER), ("PATCHBAY_PASSWORD", PASSWORD)];
    let told = printed_with(
        ".venv/bin/schemathesis",
        &[&what[..], &asks, &report].concat(),
        dir,
        &env,
    )
    .await?;
    println!("{told}");
    Ok(serde_json::from_slice(&std::fs::read(
        dir.join("report.har"),
    )?)?)
}

/// An operation of the document.
struct Operation<'a> {
    method: String,
    path: &'a str,
    said: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten();
            methods.map(move |(method, said)| Operation {
                method: method.to_uppercase(),
                path,
                said,
            })
        })
        .collect()
}

impl Operation<'_> {
    /// How many of its places this path fills, where it is one of its paths.
    fn places(&self, path: &str) -> Option<usize> {
        let (template, path): (Vec<&str>, Vec<&str>) =
            (self.path.split('/').collect(), path.split('/').collect());
        let is_place = |segment: &&str| segment.starts_with('{');
        let fits = template.len() == path.len()
            && template
                .iter()
                .zip(&path)
                .all(|(template, segment)| is_place(template) || template == segment);
        fits.then(|| template.iter().filter(|segment| is_place(segment)).count())
    }
}

/// How often each action was recorded to its good end.
async fn recorded(world: &World) -> anyhow::Result<BTreeMap<String, i64>> {
    let query = "select action, count(*) from patchbay.operator_actions \
                 where ended_at is not null and error is null group by action";
    let rows = sqlx::query(query)
        .fetch_all(&mut world.database().await?)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// Requests of one action that came to a good end.
#[derive(Debug, Default)]
struct Done {
    changes: i64,
    dry_runs: i64,
}

/// What a run did, by the names under which it is recorded.
fn done(document: &Value, archive: &Value) -> anyhow::Result<BTreeMap<String, Done>> {
    let operations = operations(document);
    let mut done = BTreeMap::<String, Done>::new();
    for entry in archive["log"]["entries"].as_array().context("entries")? {
        let (request, status) = (&entry["request"], &entry["response"]["status"]);
        let url: reqwest::Url = request["url"].as_str().context("a URL")?.parse()?;
        let candidates = operations
            .iter()
            .filter(|operation| request["method"] == operation.method);
        let places =
            candidates.filter_map(|operation| Some((operation.places(url.path())?, operation)));
        let Some((_, operation)) = places.min_by_key(|(places, _)| *places) else {
            continue;
        };
        let is_done = status
            .as_u64()
            .is_some_and(|status| (200..300).contains(&status));
        let body = request["postData"]["text"]
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok());
        let body: Value = body.unwrap_or_default();
        if is_done && operation.said["x-patchbay-effect"] != "reads" {
            let action = operation.said["x-patchbay-audit"]
                .as_str()
                .context("a name in the record")?;
            let action = action.replace("<kind>", body["kind"].as_str().unwrap_or_default());
            // Of many requests at once, the first call is a preview.
            let is_preview = action.ends_with("-many") && body["token"].is_null();
            let done = done.entry(action).or_default();
            match body["dryRun"] == true || is_preview {
                true => done.dry_runs += 1,
                false => done.changes += 1,
            }
        }
    }
    Ok(done)
}

/// Each request that has changed something is recorded once.
async fn check_record(
    world: &World,
    before: &BTreeMap<String, i64>,
    done: &BTreeMap<String, Done>,
) -> anyhow::Result<()> {
    let recorded = recorded(world).await?;
    for (action, done) in done {
        let rows = recorded.get(action).unwrap_or(&0) - before.get(action).unwrap_or(&0);
        // A bulk operation is recorded once more when it has ended. Some dry runs are recorded,
        // too, and some are not.
        let ends = if action.starts_with("bulk.") {
            done.changes
        } else {
            0
        };
        let expected = done.changes..=done.changes + done.dry_runs + ends;
        ensure!(
            expected.contains(&rows),
            "{action}: {done:?}, and {rows} rows"
        );
    }
    Ok(())
}

#[tokio::test]
async fn schemathesis_finds_no_answer_that_the_document_does_not_have() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    // Any key of Redis can be removed, also one of another test.
    let redis = RedisServer::start_new(world.dir.path()).await?;
    world.redis_url.clone_from(&redis.url);
    let host = world.host(&PEOPLE).await?;
    let names = furnish(&host).await?;
    let document: Value = reqwest::get(format!("{}/api/openapi.json", host.url))
        .await?
        .json()
        .await?;
    let (first, runs, examples) = match full_length() {
        true => (seed() >> 1, FULL_RUNS, FULL_EXAMPLES),
        false => (SEED, 1, EXAMPLES),
    };
    for seed in first..first + runs {
        let dir = world.dir.path().join(format!("seed-{seed}"));
        let before = recorded(&world).await?;
        let archive = run(&host, (&names, As::Operator), &dir, seed, examples).await?;
        let done = done(&document, &archive)?;
        ensure!(done.len() > 30, "hardly anything was changed: {done:?}");
        check_record(&world, &before, &done).await?;
    }
    // The same with an account's token, of what accounts call.
    let account = verified(&world, &host, "root@example.com").await?;
    let id = account["user"]["id"].as_str().context("an id")?;
    let role = json!({ "role": "admin" });
    ask(&host, Method::PUT, &format!("people/{id}/role"), role).await?;
    let pack = std::fs::read_to_string(repository().join("deploy/trails/gst_audit_log.json"))?;
    ask(
        &host,
        Method::POST,
        "audit/trails",
        serde_json::from_str(&pack)?,
    )
    .await?;
    let mut names = names;
    let trails = ["gst_audit_log", "login_logs", "operators"];
    names.insert("trails", trails.map(str::to_owned).to_vec());
    let token = account["token"].as_str().context("a token")?;
    let dir = world.dir.path().join("account");
    // They are few, so each gets more.
    let examples = examples * 4;
    let archive = run(&host, (&names, As::Account(token)), &dir, first, examples).await?;
    let entries = archive["log"]["entries"].as_array().context("entries")?;
    let of_trails = entries.iter().filter(|entry| {
        let url = entry["request"]["url"].as_str();
        url.is_some_and(|url| url.contains("/api/audit/"))
    });
    let mut answers: BTreeMap<i64, usize> = BTreeMap::new();
    for entry in of_trails {
        let status = entry["response"]["status"].as_i64().context("a status")?;
        *answers.entry(status).or_default() += 1;
    }
    let read = answers.get(&200).copied().unwrap_or_default();
    ensure!(read > 3, "hardly any entry was read: {answers:?}");
    Ok(())
}

#[tokio::test]
async fn no_operation_of_operators_answers_anybody_else() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let document: Value = reqwest::get(format!("{}/api/openapi.json", host.url))
        .await?
        .json()
        .await?;
    let mut asked = 0;
    for operation in operations(&document) {
        let security = operation.said["security"].as_array().context("security")?;
        let names = security.iter().filter_map(Value::as_object);
        let mut names = names.map(|one| one.keys().next().map_or("", String::as_str));
        if !names.all(|name| name.starts_with("operator")) || security.is_empty() {
            continue;
        }
        let path: Vec<&str> = operation
            .path
            .split('/')
            .map(|part| if part.starts_with('{') { "1" } else { part })
            .collect();
        for password in [None, Some("guess")] {
            let url = format!("{}{}", host.url, path.join("/"));
            let request = host
                .http
                .request(operation.method.parse()?, url)
                .json(&json!({}));
            let request = password.into_iter().fold(request, |request, given| {
                request.basic_auth(USER, Some(given))
            });
            let response = request.send().await?;
            let id = &operation.said["operationId"];
            ensure!(
                response.headers().contains_key("www-authenticate"),
                "{id}: {response:?}"
            );
            let (status, answer): (_, Value) = (response.status().as_u16(), response.json().await?);
            assert_eq!(
                (status, &answer["code"]),
                (401, &json!("unauthorized")),
                "{id}"
            );
            asked += 1;
        }
    }
    assert!(asked > 200, "{asked}");
    assert_eq!(recorded(&world).await?, BTreeMap::new());
    Ok(())
}
