//! Hostile clients, unusual jobs and absent services must not break a host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine;
use patchbay_model::RevisionDigest;
use redis::AsyncCommands;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cable::Cable;
use crate::harness::{
    Host, PASSWORD, USER, World, email_plugin, hostile_plugin, repository, until, variant,
};
use crate::operators::run;

#[tokio::test]
async fn one_record_that_postgres_refuses_does_not_hold_up_the_others() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let mut database = world.database().await?;
    database
        .execute("alter table patchbay.attempts add check (name <> 'refused')")
        .await?;
    let mut redis = world.redis().await?;
    let mut ids = Vec::new();
    for name in ["before", "refused", "odd", "after"] {
        ids.push(
            host.add(
                "hostileQueue",
                json!({ "name": name, "data": {}, "delayMs": 3_600_000 }),
            )
            .await?,
        );
    }
    // As any BullMQ client might write it.
    let odd = format!("{}:hostileQueue:{}", world.prefix, ids[2]);
    let _: () = redis
        .hset_multiple(
            &odd,
            &[
                ("timestamp", u64::MAX.to_string()),
                ("ats", 3_000_000_000_u32.to_string()),
            ],
        )
        .await?;
    for id in &ids {
        world.promote("hostileQueue", id).await?;
    }
    until(
        Duration::from_secs(30),
        "the other three are remembered",
        async || {
            let query = sqlx::query_scalar(
                "select name from patchbay.attempts group by name order by name",
            );
            let names: Vec<String> = query.fetch_all(&mut database).await?;
            Ok((names == ["after", "before", "odd"]).then_some(()))
        },
    )
    .await
}

/// Removing this many takes a while.
const MANY: usize = 20_000;

/// A request as raw text.
fn raw(method: &str, path: &str, body: &str) -> String {
    let credentials =
        base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nauthorization: Basic {credentials}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn connect(host: &Host) -> anyhow::Result<TcpStream> {
    Ok(TcpStream::connect(host.url.trim_start_matches("http://")).await?)
}

/// A queue with many jobs; a client requests its obliteration and leaves once the host has begun.
async fn obliterate_and_leave(world: &World, host: &Host) -> anyhow::Result<()> {
    host.add(
        "bigQueue",
        json!({ "name": "first", "data": {}, "delayMs": 3_600_000 }),
    )
    .await?;
    let key = |name: &str| format!("{}:bigQueue:{name}", world.prefix);
    let mut redis = world.redis().await?;
    for some in (0..MANY).collect::<Vec<_>>().chunks(1_000) {
        let mut pipe = redis::pipe();
        for n in some {
            let id = format!("many-{n}");
            let fields = [
                ("name", "noop"),
                ("data", "{}"),
                ("opts", "{}"),
                ("timestamp", "1"),
            ];
            pipe.hset_multiple(key(&id), &fields)
                .ignore()
                .zadd(key("delayed"), id, *n)
                .ignore();
        }
        let () = pipe.query_async(&mut redis).await?;
    }
    let mut client = connect(host).await?;
    client
        .write_all(
            raw(
                "POST",
                "/api/admin/queues/bigQueue/obliterate",
                r#"{"confirm":"bigQueue"}"#,
            )
            .as_bytes(),
        )
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
    Ok(world
        .redis()
        .await?
        .keys(format!("{}:{queue}:*", world.prefix))
        .await?)
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
    assert_eq!(
        ended(&world, "queue.obliterate").await?,
        (None, json!({ "count": MANY + 1 }))
    );
    assert_eq!(keys_of(&world, "bigQueue").await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_stopped_first_ends_what_operators_began() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    obliterate_and_leave(&world, &host).await?;
    assert!(host.stop().await?.success());
    assert_eq!(
        ended(&world, "queue.obliterate").await?,
        (None, json!({ "count": MANY + 1 }))
    );
    assert_eq!(keys_of(&world, "bigQueue").await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_read_or_stored_is_refused_in_the_one_error_shape() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("email", email_plugin()?).await?;
    let nul = "a\0b";
    let job = |name: &str| json!({ "name": name, "data": {} });
    let queue = "/api/admin/queues/emailQueue";
    let digest = json!({ "digest": nul });
    for (method, path, body) in [
        ("POST", format!("{queue}/jobs"), job(nul)),
        (
            "POST",
            "/api/admin/flows".into(),
            json!({ "queue": "emailQueue", "job": job(nul) }),
        ),
        (
            "POST",
            "/api/admin/schedules".into(),
            json!({ "id": "s", "queue": "emailQueue", "name": nul, "everyMs": 60_000 }),
        ),
        ("POST", "/api/admin/plugins/email/activate".into(), digest),
        (
            "POST",
            "/api/admin/plugins/email/grants".into(),
            json!({ "asks": [nul] }),
        ),
        (
            "PUT",
            "/api/admin/plugins/email/settings".into(),
            json!({ "from": nul }),
        ),
        (
            "DELETE",
            "/api/admin/plugins/email/revisions/a%00b".into(),
            json!({}),
        ),
        (
            "DELETE",
            "/api/admin/plugins/email/revisions/a%FFb".into(),
            json!({}),
        ),
        ("DELETE", format!("{queue}/jobs/%ff"), json!({})),
        ("GET", format!("{queue}/jobs?state=%00"), json!({})),
        ("GET", "/api/admin/queues/%80/why".into(), json!({})),
        ("GET", "/api/admin/schedules/%C3%28".into(), json!({})),
    ] {
        let request = host
            .http
            .request(method.parse()?, host.url.clone() + &path)
            .json(&body);
        let (status, answer) = host
            .request(request)
            .await
            .with_context(|| format!("{method} {path}"))?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{method} {path}: {answer}"
        );
        assert!(
            answer["success"] == false && answer["message"].is_string(),
            "{answer}"
        );
    }
    let (_, schedules) = host.get("/api/admin/schedules").await?;
    assert_eq!(schedules["data"], json!([]));
    let open: i64 =
        sqlx::query_scalar("select count(*) from patchbay.operator_actions where ended_at is null")
            .fetch_one(&mut world.database().await?)
            .await?;
    assert_eq!(open, 0);
    // Job data is stored in Redis, and may hold anything that Node's producers write.
    let id = host
        .add(
            "emailQueue",
            json!({ "name": "send", "data": { "text": nul }, "delayMs": 3_600_000 }),
        )
        .await?;
    let (_, story) = host
        .get(&format!(
            "/api/admin/queues/emailQueue/jobs/{id}?reveal=true"
        ))
        .await?;
    assert_eq!(story["data"]["job"]["data"], r#"{"text":"a\u0000b"}"#);
    Ok(())
}

#[tokio::test]
async fn a_request_with_no_host_or_two_is_refused() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for (head, status) in [
        (
            "GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
            400,
        ),
        ("GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        (
            "GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            200,
        ),
        ("GET /livez HTTP/1.0\r\n\r\n", 200),
    ] {
        let mut client = connect(&host).await?;
        client.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(5), client.read_to_string(&mut answer)).await??;
        assert_eq!(
            answer.split(' ').nth(1),
            Some(status.to_string().as_str()),
            "{head}: {answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn clients_that_dawdle_are_cut_off() -> anyhow::Result<()> {
    let world = World::new().await?;
    let limits = [
        ("PATCHBAY_HTTP_HEADER_TIMEOUT_MS", "300"),
        ("PATCHBAY_HTTP_BODY_TIMEOUT_MS", "300"),
    ];
    let host = world.host(&limits).await?;
    let started = Instant::now();
    let cut_off = async |sent: String| {
        let mut client = connect(&host).await?;
        client.write_all(sent.as_bytes()).await?;
        let mut answer = String::new();
        // A reset is also a valid end.
        tokio::time::timeout(Duration::from_secs(5), client.read_to_string(&mut answer))
            .await?
            .ok();
        anyhow::Ok(answer)
    };
    let unfinished = |path, content_type| {
        let request =
            raw("POST", path, r#"{"name":"a"}"#).replace("application/json", content_type);
        request[..request.len() - 1].to_owned()
    };
    let job = unfinished("/api/admin/queues/emailQueue/jobs", "application/json");
    let plugin = unfinished("/api/admin/plugins", "application/wasm");
    let half_a_line = "GET /api/hea".to_owned();
    let half_a_head = "GET /api/health HTTP/1.1\r\nhost: ".to_owned();
    let (nothing, half_a_line, half_a_head, job, plugin) = tokio::try_join!(
        cut_off(String::new()),
        cut_off(half_a_line),
        cut_off(half_a_head),
        cut_off(job),
        cut_off(plugin),
    )?;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    for answer in [nothing, half_a_line, half_a_head] {
        assert_eq!(answer, "");
    }
    for answer in [job, plugin] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(
            answer.contains(r#""success":false,"code":"request-timeout""#),
            "{answer}"
        );
    }
    assert_eq!(host.get("/api/health").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_a_place() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_MAX_CONNECTIONS", "1")])
        .await?;
    let ask = async |client: &mut TcpStream| {
        client
            .write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n")
            .await?;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let mut first = connect(&host).await?;
    assert_eq!(&ask(&mut first).await?, b"HTTP/1.1 200");
    let mut second = connect(&host).await?;
    assert!(
        tokio::time::timeout(Duration::from_millis(200), ask(&mut second))
            .await
            .is_err(),
        "it waits"
    );
    drop(first);
    let mut answer = [0; 12];
    second.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    Ok(())
}

/// One change that an operator may make.
struct Change {
    method: &'static str,
    /// The path in the OpenAPI document.
    route: &'static str,
    path: String,
    body: Vec<u8>,
    /// The expected status in this order of requests.
    expected: u16,
}

impl Change {
    async fn make(&self, host: &Host) -> anyhow::Result<(u16, Option<String>, Value)> {
        let kind = if self.body.starts_with(b"\0asm") {
            "application/wasm"
        } else {
            "application/json"
        };
        let request = host.http.request(
            self.method.to_uppercase().parse()?,
            host.url.clone() + &self.path,
        );
        let request = request
            .basic_auth(USER, Some(PASSWORD))
            .header("content-type", kind)
            .body(self.body.clone())
            .build()?;
        let response = host
            .http
            .execute(crate::harness::confirmed(request))
            .await?;
        let retry_after = response
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().map(str::to_owned));
        Ok((
            response.status().as_u16(),
            retry_after.transpose()?,
            response.json().await?,
        ))
    }
}

/// The vault accepts no value without a key.
const KEY: &str = "5f1d3c2b4a59687766554433221100ffeeddccbbaa99887766554433221100ab";
const WITH_KEY: [(&str, &str); 1] = [("PATCHBAY_SECRETS_KEY", KEY)];

/// Every change that the API offers, once, in an order in which each finds what it needs.
async fn every_change(world: &World, host: &Host) -> anyhow::Result<Vec<Change>> {
    let cached = format!("{}-cached", world.prefix);
    let _: () = world.redis().await?.set(&cached, 1).await?;
    let first = host.deploy("hostile", hostile_plugin()?).await?;
    let failed = host
        .add("hostileQueue", json!({ "name": "panic", "data": {} }))
        .await?;
    host.job_in("hostileQueue", &failed, "failed").await?;
    // Files and lines are written a moment after the job has settled.
    until(Duration::from_secs(10), "files and lines", async || {
        let (_, story) = host
            .get(&format!("/api/admin/queues/hostileQueue/jobs/{failed}"))
            .await?;
        Ok(story["data"]["job"]["stacktrace"][0]
            .as_str()
            .is_some_and(|stack| stack.contains("lib.rs:"))
            .then_some(()))
    })
    .await?;
    until(
        Duration::from_secs(10),
        "its group of dead letters",
        async || {
            let (_, groups) = host.get("/api/admin/dead-letters").await?;
            Ok((groups["data"][0]["id"] == 1).then_some(()))
        },
    )
    .await?;
    let delayed = host
        .add(
            "idleQueue",
            json!({ "name": "job", "data": {}, "delayMs": 3_600_000 }),
        )
        .await?;
    let second = variant(&hostile_plugin()?, "second");
    let digest = RevisionDigest::of(&second).to_string();
    let mut changes = Vec::new();
    let mut push = |method, route: &'static str, body: Vec<u8>, id: &str, expected| {
        let queue = if route.ends_with("/retry") {
            "hostileQueue"
        } else {
            "idleQueue"
        };
        let path = route.replace("{name}", "hostile").replace("{queue}", queue);
        let path = path
            .replace("{secret}", "TOKEN")
            .replace("{trail}", "leads")
            .replace("{rule}", "oldest-waiting")
            .replace("{silence}", "1")
            .replace("{digest}", &digest)
            .replace("{key}", &cached)
            .replace("{id}", id);
        changes.push(Change {
            method,
            route,
            path,
            body,
            expected,
        });
    };
    push("post", "/api/admin/plugins", second, "", 200);
    let job = json!({ "name": "job", "data": {} });
    let tree = json!({ "queue": "idleQueue", "job": &job, "children": [{ "queue": "idleQueue", "job": &job }] });
    let schedule =
        json!({ "id": "often", "queue": "idleQueue", "name": "job", "everyMs": 3_600_000 });
    let asks = json!({ "asks": ["kv"] });
    let breaker = json!({ "plugin": "hostile", "host": "http://127.0.0.1:9", "reason": "a look" });
    let silence = json!({ "rule": "oldest-waiting", "forS": 60, "reason": "a look" });
    let rotation = json!({ "value": "two", "overlapMs": 60_000 });
    for (method, route, body, id, expected) in [
        (
            "post",
            "/api/admin/plugins/{name}/activate",
            json!({ "digest": digest }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/plugins/prune",
            json!({ "dryRun": false }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/plugins/{name}/rollback",
            json!({}),
            "",
            200,
        ),
        (
            "delete",
            "/api/admin/plugins/{name}/revisions/{digest}",
            json!({}),
            "",
            200,
        ),
        (
            "put",
            "/api/admin/plugins/{name}/settings",
            json!({}),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/plugins/{name}/grants",
            asks.clone(),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/plugins/{name}/grants/revoke",
            asks,
            "",
            200,
        ),
        ("post", "/api/admin/breakers/open", breaker.clone(), "", 200),
        ("post", "/api/admin/breakers/close", breaker, "", 200),
        // The plugin has no operations.
        (
            "post",
            "/api/admin/plugins/{name}/call",
            json!({ "operation": "any" }),
            "",
            409,
        ),
        // The plugin is not quarantined.
        (
            "post",
            "/api/admin/plugins/{name}/release",
            json!({ "reason": "mended" }),
            "",
            409,
        ),
        (
            "post",
            "/api/admin/plugins/{name}/deactivate",
            json!({}),
            "",
            200,
        ),
        (
            "put",
            "/api/admin/alerts/rules/{rule}",
            json!({ "enabled": false }),
            "",
            200,
        ),
        (
            "delete",
            "/api/admin/alerts/rules/{rule}",
            json!({}),
            "",
            200,
        ),
        ("post", "/api/admin/alerts/silences", silence, "", 200),
        (
            "delete",
            "/api/admin/alerts/silences/{silence}",
            json!({}),
            "",
            200,
        ),
        // No channel is configured.
        ("post", "/api/admin/alerts/test", json!({}), "", 409),
        (
            "put",
            "/api/admin/history/searches/{name}",
            json!({ "filter": { "outcome": "failed" } }),
            "",
            200,
        ),
        (
            "delete",
            "/api/admin/history/searches/{name}",
            json!({}),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/history/searches/{name}/undo",
            json!({}),
            "",
            200,
        ),
        (
            "put",
            "/api/admin/audit/trails/{trail}",
            json!({ "schema": {} }),
            "",
            200,
        ),
        // Nothing is missing.
        (
            "post",
            "/api/admin/audit/trails/{trail}/accept-gap",
            json!({}),
            "",
            409,
        ),
        (
            "put",
            "/api/admin/audit/retention/{trail}",
            json!({ "keepDays": 90 }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/audit/trails/{trail}/expire",
            json!({}),
            "",
            200,
        ),
        (
            "delete",
            "/api/admin/audit/retention/{trail}",
            json!({}),
            "",
            200,
        ),
        // There is no such table.
        (
            "post",
            "/api/admin/audit/trails/{trail}/import",
            json!({}),
            "",
            404,
        ),
        (
            "delete",
            "/api/admin/audit/trails/{trail}",
            json!({}),
            "",
            200,
        ),
        (
            "put",
            "/api/admin/plugins/{name}/secrets/{secret}",
            json!({ "value": "one" }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/plugins/{name}/secrets/{secret}/rotate",
            rotation,
            "",
            200,
        ),
        ("post", "/api/admin/secrets/rekey", json!({}), "", 200),
        (
            "delete",
            "/api/admin/plugins/{name}/secrets/{secret}",
            json!({}),
            "",
            200,
        ),
        // The operation ends by itself before it can be paused or undone.
        (
            "post",
            "/api/admin/bulk",
            json!({ "kind": "retry", "filter": { "queue": "idleQueue" } }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/bulk/{id}/resume",
            json!({}),
            "4711",
            404,
        ),
        (
            "post",
            "/api/admin/bulk/{id}/cancel",
            json!({}),
            "4711",
            404,
        ),
        ("post", "/api/admin/bulk/{id}/undo", json!({}), "4711", 404),
        (
            "post",
            "/api/admin/dead-letters/{id}/acknowledge",
            json!({}),
            "1",
            200,
        ),
        (
            "post",
            "/api/admin/dead-letters/{id}/unacknowledge",
            json!({}),
            "1",
            200,
        ),
        (
            "put",
            "/api/admin/dead-letters/{id}/note",
            json!({ "note": "known" }),
            "1",
            200,
        ),
        (
            "put",
            "/api/admin/dead-letters/{id}/assignee",
            json!({ "assignee": "asha" }),
            "1",
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/add-jobs",
            json!({ "jobs": [&job, &job] }),
            "",
            200,
        ),
        ("post", "/api/admin/queues/{queue}/jobs", job, "", 200),
        ("post", "/api/admin/flows", tree, "", 200),
        (
            "post",
            "/api/admin/queues/{queue}/jobs/{id}/duplicate",
            json!({}),
            &delayed,
            200,
        ),
        (
            "put",
            "/api/admin/queues/{queue}/jobs/{id}/data",
            json!({ "new": true }),
            &delayed,
            200,
        ),
        (
            "put",
            "/api/admin/queues/{queue}/jobs/{id}/delay",
            json!({ "delayMs": 7_200_000 }),
            &delayed,
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/jobs/{id}/promote",
            json!({}),
            &delayed,
            200,
        ),
        (
            "put",
            "/api/admin/queues/{queue}/jobs/{id}/priority",
            json!({ "priority": 7 }),
            &delayed,
            200,
        ),
        // The job does not run.
        (
            "post",
            "/api/admin/queues/{queue}/jobs/{id}/kill",
            json!({}),
            &delayed,
            409,
        ),
        (
            "delete",
            "/api/admin/queues/{queue}/jobs/{id}",
            json!({}),
            &delayed,
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/jobs/{id}/retry",
            json!({}),
            &failed,
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/pause",
            json!({}),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/resume",
            json!({}),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/queues/pause",
            json!({ "all": true }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/queues/resume",
            json!({ "all": true }),
            "",
            200,
        ),
        (
            "put",
            "/api/admin/queues/{queue}/concurrency",
            json!({ "max": 3 }),
            "",
            200,
        ),
        (
            "put",
            "/api/admin/queues/{queue}/rate-limit",
            json!({ "max": 3 }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/clean",
            json!({ "state": "completed" }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/put-back",
            json!({ "state": "failed" }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/migrate-repeatables",
            json!({ "dryRun": false }),
            "",
            200,
        ),
        (
            "put",
            "/api/admin/history/retention/{queue}",
            json!({ "days": 7 }),
            "",
            200,
        ),
        (
            "delete",
            "/api/admin/history/retention/{queue}",
            json!({}),
            "",
            200,
        ),
        ("delete", "/api/redis/keys/{key}", json!({}), "", 200),
        ("post", "/api/admin/history/prune", json!({}), "", 200),
        (
            "post",
            "/api/admin/history/erase",
            json!({ "path": "lead.id", "value": "7", "reason": "a request" }),
            "",
            200,
        ),
        ("post", "/api/admin/schedules", schedule, "", 200),
        (
            "patch",
            "/api/admin/schedules/{id}",
            json!({ "description": "new" }),
            "often",
            200,
        ),
        (
            "post",
            "/api/admin/schedules/{id}/pause",
            json!({}),
            "often",
            200,
        ),
        (
            "post",
            "/api/admin/schedules/{id}/resume",
            json!({}),
            "often",
            200,
        ),
        (
            "post",
            "/api/admin/schedules/{id}/run",
            json!({}),
            "often",
            200,
        ),
        (
            "delete",
            "/api/admin/schedules/{id}",
            json!({}),
            "often",
            200,
        ),
        (
            "post",
            "/api/admin/schedules/{id}/restore",
            json!({}),
            "often",
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/drain",
            json!({ "delayed": true }),
            "",
            200,
        ),
        (
            "post",
            "/api/admin/queues/{queue}/obliterate",
            json!({ "confirm": "idleQueue" }),
            "",
            200,
        ),
    ] {
        push(method, route, body.to_string().into_bytes(), id, expected);
    }
    let document: Value =
        serde_json::from_slice(&std::fs::read(repository().join("docs/openapi.json"))?)?;
    let paths = document["paths"].as_object().context("paths")?;
    let documented = paths.iter().flat_map(|(route, methods)| {
        let methods = methods
            .as_object()
            .into_iter()
            .flat_map(|methods| methods.keys());
        methods.map(|method| (method.as_str(), route.as_str()))
    });
    // A preview and a verification change nothing. This host serves no accounts and has no master
    // key; the scenarios of accounts, operators, keys, packs of trails and schedules of clients
    // know their changes.
    let elsewhere = [
        "/api/auth/",
        "/api/admin/people/",
        "/api/admin/operators",
        "/api/admin/enrolment/",
        "/api/admin/session",
        "/api/admin/tokens",
        "/api/admin/basic",
        "/api/admin/oidc/",
        "/api/admin/keys/",
        "/api/admin/vendor-keys",
        "/api/admin/job-schedulers/",
        "/api/admin/inbox/",
    ];
    let documented: BTreeSet<_> = documented
        .filter(|(method, route)| {
            *method != "get"
                && !route.ends_with("/preview")
                && !route.ends_with("/audit/verify")
                && !route.ends_with("/adopt")
                && (*method, *route) != ("post", "/api/admin/audit/trails")
                && !elsewhere.iter().any(|start| route.starts_with(start))
        })
        .collect();
    let here: BTreeSet<_> = changes
        .iter()
        .map(|change| (change.method, change.route))
        .collect();
    assert_eq!(here, documented, "this test knows every change: {first}");
    Ok(changes)
}

#[tokio::test]
async fn every_change_leaves_one_row_that_says_who_what_and_how_it_ended() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&WITH_KEY).await?;
    let mut database = world.database().await?;
    for change in every_change(&world, &host).await? {
        let last: i64 = sqlx::query_scalar("select max(id) from patchbay.operator_actions")
            .fetch_one(&mut database)
            .await?;
        let (status, _, answer) = change.make(&host).await?;
        assert_eq!(
            status, change.expected,
            "{} {}: {answer}",
            change.method, change.path
        );
        let rows: Vec<(String, bool, Option<String>)> =
            sqlx::query_as("select actor, ended_at is not null, error from patchbay.operator_actions where id > $1")
                .bind(last)
                .fetch_all(&mut database)
                .await?;
        let error = answer["message"].as_str().map(str::to_owned);
        assert_eq!(
            rows,
            [(USER.to_owned(), true, error)],
            "{} {}",
            change.method,
            change.path
        );
    }
    Ok(())
}

/// The content of Redis, apart from heartbeats.
async fn queues_in_redis(world: &World) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut redis = world.redis().await?;
    let mut content = BTreeMap::new();
    for key in keys_of(world, "*").await? {
        // Workers write when they last looked for stalled jobs.
        if key.ends_with(":stalled-check") {
            continue;
        }
        let kind: String = redis.key_type(&key).await?;
        let dump: Option<Vec<u8>> = if kind == "hash" {
            // The order of its fields, which DUMP has, may change when they are read.
            let fields: BTreeMap<Vec<u8>, Vec<u8>> = redis.hgetall(&key).await?;
            Some(format!("{fields:?}").into_bytes())
        } else {
            redis::cmd("DUMP").arg(&key).query_async(&mut redis).await?
        };
        content.extend(dump.map(|dump| (key, dump)));
    }
    Ok(content)
}

#[tokio::test]
async fn without_postgres_every_change_is_refused_whole_and_says_when_to_try_again()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let host = world
        .host(&[WITH_KEY[0], ("DATABASE_URL", url.as_str())])
        .await?;
    let changes = every_change(&world, &host).await?;
    let mut database = world.database().await?;
    let mut state = async || -> anyhow::Result<(i64, BTreeMap<String, Vec<u8>>)> {
        let query = sqlx::query_scalar("select count(*) from patchbay.operator_actions");
        Ok((
            query.fetch_one(&mut database).await?,
            queues_in_redis(&world).await?,
        ))
    };
    let before = state().await?;
    cable.cut.send_replace(true);
    for change in &changes {
        let (status, retry_after, answer) = change.make(&host).await?;
        let place = format!("{} {}", change.method, change.path);
        assert_eq!(
            (status, &answer["code"]),
            (503, &json!("unavailable")),
            "{place}: {answer}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains("Postgres")),
            "{place}: {answer}"
        );
        assert!(
            retry_after.is_some_and(|seconds| seconds.parse::<u32>().is_ok()),
            "{place}"
        );
    }
    for (path, expected) in [
        ("/livez", 200),
        ("/readyz", 503),
        ("/api/health", 503),
        ("/api/admin/plugins", 503),
        ("/api/admin/plugins/hostile/grants", 503),
        ("/api/admin/plugins/hostile/settings", 503),
        // What Redis knows is shown without Postgres.
        ("/api/admin/queues", 200),
        ("/api/admin/queues/idleQueue", 200),
        ("/api/admin/status", 200),
        // It says what it knows without the record, and that the host is not ready.
        ("/api/admin/queues/idleQueue/why", 200),
        ("/api/admin/queues/idleQueue/jobs?state=delayed", 200),
        ("/api/admin/schedules", 503),
    ] {
        let request = host
            .http
            .get(host.url.clone() + path)
            .basic_auth(USER, Some(PASSWORD));
        assert_eq!(request.send().await?.status(), expected, "{path}");
    }
    let told = run(&host, &["status"]).await?;
    assert_eq!(told.code, Some(5), "{}{}", told.out, told.err);
    for part in [
        "Hosts: unknown",
        "Alerts: unknown",
        "Plugins: unknown",
        "Schedules: unknown",
        "Unknown now: hosts (Postgres does not answer",
    ] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let listed = run(&host, &["queue", "list"]).await?;
    assert!(
        listed.code == Some(0) && listed.err.contains("Not complete"),
        "{}{}",
        listed.out,
        listed.err
    );
    let after = state().await?;
    let keys = |content: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>| {
        let changed = content
            .iter()
            .filter(|(key, dump)| other.get(*key) != Some(dump));
        changed.map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (
            after.0,
            keys(&before.1, &after.1),
            keys(&after.1, &before.1)
        ),
        (before.0, vec![], vec![]),
        "nothing has changed"
    );
    cable.cut.send_replace(false);
    until(Duration::from_secs(20), "it works again", async || {
        Ok((host
            .post("/api/admin/queues/idleQueue/pause", json!({}))
            .await?
            .0
            == 200)
            .then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_change_that_is_stored_but_not_in_effect_yet_says_so() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let mut database = world.database().await?;
    // This table is read when the change takes effect, not when it is made.
    database
        .execute("alter table patchbay.grants rename to grants_away")
        .await?;
    let (status, answer) = host
        .post("/api/admin/plugins/hostile/deactivate", json!({}))
        .await?;
    assert_eq!(
        (status, &answer["code"]),
        (503, &json!("unavailable")),
        "{answer}"
    );
    assert!(
        answer["message"]
            .as_str()
            .is_some_and(|message| message.contains("is stored")),
        "{answer}"
    );
    let handler = async || {
        anyhow::Ok(host.get("/api/admin/queues/hostileQueue").await?.1["data"]["plugin"].clone())
    };
    assert_eq!(handler().await?, "hostile");
    database
        .execute("alter table patchbay.grants_away rename to grants")
        .await?;
    until(Duration::from_secs(30), "it is in effect", async || {
        Ok(handler().await?.is_null().then_some(()))
    })
    .await
}

#[tokio::test]
async fn an_operation_that_loses_postgres_half_way_is_carried_out_and_recorded_later()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let host = world.host(&[("DATABASE_URL", url.as_str())]).await?;
    obliterate_and_leave(&world, &host).await?;
    cable.cut.send_replace(true);
    until(Duration::from_secs(10), "the queue is gone", async || {
        Ok(keys_of(&world, "bigQueue").await?.is_empty().then_some(()))
    })
    .await?;
    let mut database = world.database().await?;
    let open: i64 =
        sqlx::query_scalar("select count(*) from patchbay.operator_actions where ended_at is null")
            .fetch_one(&mut database)
            .await?;
    assert_eq!(open, 1, "its end could not be recorded");
    cable.cut.send_replace(false);
    assert_eq!(
        ended(&world, "queue.obliterate").await?,
        (None, json!({ "count": MANY + 1 }))
    );
    Ok(())
}

#[tokio::test]
async fn a_wrong_name_and_a_wrong_password_are_answered_alike() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let mut answers = BTreeSet::new();
    for (name, password) in [
        ("nobody", PASSWORD),
        (USER, "wrong"),
        (USER, ""),
        ("", PASSWORD),
        ("nobody", "wrong"),
    ] {
        let request = host
            .http
            .get(format!("{}/api/admin/queues", host.url))
            .basic_auth(name, Some(password));
        let response = request.send().await?;
        answers.insert((response.status().as_u16(), response.text().await?));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers.first().map(|(status, _)| *status), Some(401));
    Ok(())
}
