//! What hostile clients, odd jobs and absent services must not break.

use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine;
use redis::AsyncCommands;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Host, PASSWORD, USER, World, email_plugin, hostile_plugin, until};

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
        ("POST", format!("{queue}/jobs"), json!({ "name": "send", "data": { "text": nul } })),
        ("POST", format!("{queue}/jobs"), json!({ "name": "send", nul: 1 })),
        (
            "POST",
            "/api/admin/flows".into(),
            json!({ "queue": "emailQueue", "job": job("a"), "children": [{ "queue": "q", "job": job(nul) }] }),
        ),
        (
            "POST",
            "/api/admin/schedules".into(),
            json!({ "id": "s", "queue": "emailQueue", "name": nul, "everyMs": 60_000 }),
        ),
        ("POST", "/api/admin/plugins/email/activate".into(), digest),
        ("POST", "/api/admin/plugins/email/grants".into(), json!({ "asks": [nul] })),
        ("PUT", "/api/admin/plugins/email/settings".into(), json!({ "from": nul })),
        ("DELETE", "/api/admin/plugins/email/revisions/a%00b".into(), json!({})),
        ("DELETE", "/api/admin/plugins/email/revisions/a%FFb".into(), json!({})),
        ("DELETE", format!("{queue}/jobs/%ff"), json!({})),
        ("GET", format!("{queue}/jobs?state=%00"), json!({})),
        ("GET", "/api/admin/queues/%80/why".into(), json!({})),
        ("GET", "/api/admin/schedules/%C3%28".into(), json!({})),
    ] {
        let request = host.http.request(method.parse()?, host.url.clone() + &path).json(&body);
        let (status, answer) = host.request(request).await.with_context(|| format!("{method} {path}"))?;
        assert_eq!((status, &answer["code"]), (400, &json!("invalid-input")), "{method} {path}: {answer}");
        assert!(answer["success"] == false && answer["message"].is_string(), "{answer}");
    }
    let (_, schedules) = host.get("/api/admin/schedules").await?;
    assert_eq!(schedules["data"], json!([]));
    Ok(())
}

#[tokio::test]
async fn clients_that_dawdle_are_cut_off() -> anyhow::Result<()> {
    let world = World::new().await?;
    let limits = [("PATCHBAY_HTTP_HEADER_TIMEOUT_MS", "300"), ("PATCHBAY_HTTP_BODY_TIMEOUT_MS", "300")];
    let host = world.host(&limits).await?;
    let started = Instant::now();
    let cut_off = async |sent: String| {
        let mut client = connect(&host).await?;
        client.write_all(sent.as_bytes()).await?;
        let mut answer = String::new();
        // A reset is as good an end as any.
        tokio::time::timeout(Duration::from_secs(5), client.read_to_string(&mut answer)).await?.ok();
        anyhow::Ok(answer)
    };
    let unfinished = |path, content_type| {
        let request = raw("POST", path, r#"{"name":"a"}"#).replace("application/json", content_type);
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
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    for answer in [nothing, half_a_line, half_a_head] {
        assert_eq!(answer, "");
    }
    for answer in [job, plugin] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains(r#""success":false,"code":"request-timeout""#), "{answer}");
    }
    assert_eq!(host.get("/api/health").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_a_place() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[("PATCHBAY_HTTP_MAX_CONNECTIONS", "1")]).await?;
    let ask = async |client: &mut TcpStream| {
        client.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let mut first = connect(&host).await?;
    assert_eq!(&ask(&mut first).await?, b"HTTP/1.1 200");
    let mut second = connect(&host).await?;
    assert!(tokio::time::timeout(Duration::from_millis(200), ask(&mut second)).await.is_err(), "it waits");
    drop(first);
    let mut answer = [0; 12];
    second.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    Ok(())
}
