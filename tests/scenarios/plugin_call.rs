//! Operators call operations of plugins: every kind of answer, and every way to get none.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::commands::{json_of, patchbay};
use crate::harness::{
    Host, PASSWORD, USER, World, answers_plugin, answers_plugin_with, binary, hostile_plugin,
    hostile_plugin_with, until,
};

const CALL: &str = "/api/admin/plugins/answers/call";
const TOKEN: &str = "t0ken-of-the-vendor";

/// A vendor with a recording behind a credential.
async fn vendor() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let recording = async |headers: HeaderMap| {
        let given = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        if given("authorization") != format!("Bearer {TOKEN}") {
            return (
                StatusCode::UNAUTHORIZED,
                [("content-type", "text/plain")],
                "who?".to_owned(),
            );
        }
        match given("range") {
            "bytes=0-3" => (
                StatusCode::PARTIAL_CONTENT,
                [("content-range", "bytes 0-3/9")],
                "reco".to_owned(),
            ),
            _ => (
                StatusCode::OK,
                [("content-type", "audio/mpeg")],
                "recording".to_owned(),
            ),
        }
    };
    let router = Router::new()
        .route("/recording", get(recording))
        .route(
            "/missing",
            get(async || {
                (
                    StatusCode::NOT_FOUND,
                    [("set-cookie", "a=b")],
                    "no such recording",
                )
            }),
        )
        .route(
            "/echo",
            get(async |headers: HeaderMap| format!("{:?}", headers.get("authorization"))),
        )
        .route("/large", get(async || "x".repeat((1 << 20) + 1)))
        .route("/broken", get(async || StatusCode::BAD_GATEWAY))
        .route("/never", get(std::future::pending::<()>));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn deployed(world: &World, vendor: SocketAddr) -> anyhow::Result<Host> {
    let host = world
        .host(&[("PATCHBAY_SECRET_ANSWERS_TOKEN", TOKEN)])
        .await?;
    host.deploy("answers", answers_plugin(vendor)?).await?;
    Ok(host)
}

async fn raw(
    host: &Host,
    operation: &str,
    input: Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<reqwest::Response> {
    let body = json!({ "operation": operation, "input": input });
    let mut request = host
        .http
        .post(host.url.clone() + CALL)
        .basic_auth(USER, Some(PASSWORD))
        .json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?)
}

fn header<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Status, code and message of an operation that has no answer.
async fn refused(
    host: &Host,
    operation: &str,
    input: Value,
) -> anyhow::Result<(u16, String, Value)> {
    let response = raw(host, operation, input, &[]).await?;
    assert_eq!(
        header(&response, "x-patchbay-answer"),
        "",
        "{operation}: not the plugin's answer"
    );
    let status = response.status().as_u16();
    let answer: Value = response.json().await?;
    println!("{operation}: {status} {answer}");
    Ok((
        status,
        answer["code"].as_str().context("a code")?.to_owned(),
        answer,
    ))
}

#[tokio::test]
async fn a_plugin_answers_an_operator_with_json_bytes_a_relayed_response_or_nothing()
-> anyhow::Result<()> {
    let (world, vendor) = (World::new().await?, vendor().await?);
    let host = deployed(&world, vendor).await?;
    let url = |path: &str| json!({ "url": format!("http://{vendor}{path}") });

    let headers = [
        ("x-correlation-id", "c-1"),
        ("x-platform", "web"),
        ("idempotency-key", "once"),
    ];
    let response = raw(&host, "echo", json!({ "n": [1, null] }), &headers).await?;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "x-patchbay-answer")
        ),
        (200, "json")
    );
    let expected = json!({
        "input": { "n": [1, null] }, "role": "operator", "userId": null, "platform": "web", "correlationId": "c-1",
        "idempotencyKey": "once",
    });
    assert_eq!(
        response.json::<Value>().await?,
        json!({ "success": true, "data": expected })
    );
    // A number that no double can hold, in both directions.
    let body = r#"{"operation":"raw","input":{"id":12345678901234567890.5}}"#;
    let request = host
        .http
        .post(host.url.clone() + CALL)
        .basic_auth(USER, Some(PASSWORD));
    let response = request
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?;
    assert_eq!(
        response.text().await?,
        r#"{"success":true,"data":{"id":12345678901234567890.5}}"#
    );
    let (status, answer) = host.post(CALL, json!({ "operation": "echo" })).await?;
    assert_eq!(
        (status, &answer["data"]["input"]),
        (200, &json!({})),
        "input may be absent"
    );
    let response = raw(&host, "created", json!({}), &[]).await?;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "x-patchbay-status")
        ),
        (200, "201")
    );

    let response = raw(&host, "bytes", json!({}), &[]).await?;
    assert_eq!(
        (
            header(&response, "x-patchbay-answer"),
            header(&response, "content-type")
        ),
        ("bytes", "image/png")
    );
    assert_eq!(header(&response, "x-content-type-options"), "nosniff");
    assert_eq!(response.bytes().await?.as_ref(), [0, 159, 146, 150]);

    let response = raw(&host, "empty", json!({}), &[]).await?;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "x-patchbay-answer")
        ),
        (204, "empty")
    );

    let response = raw(&host, "relay", url("/recording"), &[]).await?;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "x-patchbay-answer")
        ),
        (200, "relay")
    );
    assert_eq!(header(&response, "content-type"), "audio/mpeg");
    assert_eq!(
        response.text().await?,
        "recording",
        "with the credential that the host puts in"
    );
    let response = raw(&host, "relay", url("/recording"), &[("range", "bytes=0-3")]).await?;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "content-range")
        ),
        (206, "bytes 0-3/9")
    );
    assert_eq!(response.text().await?, "reco");
    let response = raw(&host, "relay", url("/missing"), &[]).await?;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "x-patchbay-answer")
        ),
        (404, "relay")
    );
    assert_eq!(
        header(&response, "set-cookie"),
        "",
        "only what belongs to the content"
    );

    // Counted like jobs' calls; relayed calls are counted like any outside call.
    let page = host.metrics().await?;
    let count = |series: &str| {
        let line = page.lines().find(|line| {
            line.starts_with(series.split(' ').next().unwrap_or_default())
                && series.split(' ').all(|part| line.contains(part))
        });
        line.and_then(|line| line.rsplit(' ').next())
            .and_then(|value| value.parse::<f64>().ok())
    };
    assert_eq!(
        count("patchbay_calls_total plugin=\"answers\" outcome=\"completed\""),
        Some(9.0),
        "{page}"
    );
    assert_eq!(
        count("patchbay_egress_requests_total plugin=\"answers\" status=\"2xx\""),
        Some(2.0),
        "{page}"
    );
    Ok(())
}

#[tokio::test]
async fn an_operation_without_an_answer_says_why_and_whether_to_try_again() -> anyhow::Result<()> {
    let (world, vendor) = (World::new().await?, vendor().await?);
    let host = deployed(&world, vendor).await?;
    for (code, status) in [
        ("invalid-input", 400),
        ("forbidden", 403),
        ("upstream", 502),
        ("something", 500),
    ] {
        let (found, named, answer) = refused(&host, "fail", json!({ "code": code })).await?;
        assert_eq!((found, named.as_str()), (status, code));
        assert_eq!(
            (&answer["message"], &answer["details"]),
            (&json!("failed on request"), &json!({ "field": "to" }))
        );
    }
    let response = raw(
        &host,
        "fail",
        json!({ "code": "rate-limited", "afterMs": 6_500 }),
        &[],
    )
    .await?;
    assert_eq!(
        (response.status().as_u16(), header(&response, "retry-after")),
        (429, "7")
    );
    for (operation, status, code) in [
        ("nothing-like-it", 404, "not-found"),
        ("panic", 500, "trapped"),
        ("memory", 500, "memory-limit"),
        ("large-json", 500, "invalid-result"),
        ("not-json", 500, "invalid-result"),
        ("odd-status", 500, "invalid-result"),
        ("odd-type", 500, "invalid-result"),
    ] {
        let (found, named, _) = refused(&host, operation, json!({})).await?;
        assert_eq!((found, named.as_str()), (status, code), "{operation}");
    }
    let started = Instant::now();
    let (status, code, _) = refused(&host, "sleep", json!({})).await?;
    assert_eq!((status, code.as_str()), (504, "deadline"));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );

    let url = |path: &str| json!({ "url": format!("http://{vendor}{path}") });
    for (url, status, code) in [
        (json!({ "url": "http://192.0.2.1/" }), 500, "relay-denied"),
        (url("/echo"), 500, "relay-denied"),
        (url("/large"), 502, "upstream"),
        (url("/never"), 504, "deadline"),
    ] {
        let (found, named, answer) = refused(&host, "relay", url).await?;
        assert_eq!((found, named.as_str()), (status, code));
        assert!(!answer.to_string().contains(TOKEN), "{answer}");
    }
    // Two failures open this plugin's breaker; from then on the vendor gets no requests.
    for _ in 0..2 {
        raw(&host, "upstream", url("/broken"), &[]).await?;
    }
    for (operation, url) in [
        ("upstream", url("/recording")),
        ("relay", url("/recording")),
    ] {
        let response = raw(&host, operation, url, &[]).await?;
        let wait: u64 = header(&response, "retry-after").parse()?;
        assert!((1..=60).contains(&wait), "{wait}");
        let answer: Value = response.json().await?;
        assert_eq!(answer["code"], "breaker-open", "{operation}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn bytes_have_a_limit_of_their_own() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // Copying this much takes a host without optimisation a second.
    let patient = |manifest: String| manifest.replace("deadline_ms = 500", "deadline_ms = 30_000");
    host.deploy("answers", answers_plugin_with(patient)?)
        .await?;
    let response = raw(&host, "bytes", json!({ "length": 16 << 20 }), &[]).await?;
    assert_eq!(
        (response.status().as_u16(), response.bytes().await?.len()),
        (200, 16 << 20)
    );
    let (status, code, answer) =
        refused(&host, "bytes", json!({ "length": (16 << 20) + 1 })).await?;
    assert_eq!((status, code.as_str()), (500, "invalid-result"));
    assert!(
        answer["message"]
            .as_str()
            .is_some_and(|message| message.contains("the limit is 16777216")),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn what_asks_no_operation_of_a_plugin_is_refused_before_it_runs() -> anyhow::Result<()> {
    let (world, vendor) = (World::new().await?, vendor().await?);
    let host = deployed(&world, vendor).await?;
    let post = async |path: &str, body: &str| -> anyhow::Result<(u16, Value)> {
        let request = host
            .http
            .post(format!("{}/api/admin/plugins/{path}/call", host.url));
        host.request(
            request
                .header("content-type", "application/json")
                .body(body.to_owned()),
        )
        .await
    };
    let call = r#"{"operation":"echo"}"#;
    let large = format!(
        r#"{{"operation":"echo","input":"{}"}}"#,
        "x".repeat(1 << 20)
    );
    let padded = format!(r#"{{"operation":"echo"{}}}"#, " ".repeat(3 << 20));
    for (path, body, status, code) in [
        ("nobody", call, 404, "not-found"),
        ("No-Name", call, 400, "invalid-input"),
        ("answers", "{", 400, "invalid-input"),
        (
            "answers",
            r#"{"operation":"echo","input":}"#,
            400,
            "invalid-input",
        ),
        ("answers", r#"{"input":{}}"#, 422, "invalid-input"),
        (
            "answers",
            r#"{"operation":"echo","inputs":{}}"#,
            422,
            "invalid-input",
        ),
        (
            "answers",
            r#"{"operation":"a b\u0000"}"#,
            400,
            "invalid-input",
        ),
        ("answers", r#"{"operation":""}"#, 400, "invalid-input"),
        ("answers", large.as_str(), 413, "too-large"),
        ("answers", padded.as_str(), 413, "too-large"),
    ] {
        let (found, answer) = post(path, body).await?;
        println!("{path} {}: {found} {answer}", &body[..body.len().min(60)]);
        assert_eq!(
            (found, &answer["code"]),
            (status, &json!(code)),
            "{path} {answer}"
        );
    }
    host.deploy("hostile", hostile_plugin()?).await?;
    let (status, answer) = post("hostile", call).await?;
    println!("{answer}");
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("no-operations")),
        "{answer}"
    );
    let without = hostile_plugin_with(|manifest| {
        manifest
            .replace("name = \"hostile\"", "name = \"other\"")
            .replace("hostileQueue", "q")
    })?;
    assert_eq!(host.push(without).await?.0, 200);
    let (status, answer) = post("other", call).await?;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("inactive")),
        "{answer}"
    );
    let anonymous = host
        .http
        .post(host.url.clone() + CALL)
        .json(&json!({ "operation": "echo" }))
        .send()
        .await?;
    assert_eq!(anonymous.status(), 401);

    // The action records which operation was called, but neither its input nor its answer.
    post(
        "answers",
        r#"{"operation":"echo","input":{"name":"Ada Lovelace"}}"#,
    )
    .await?;
    post(
        "answers",
        r#"{"operation":"panic","input":{"name":"Ada Lovelace"}}"#,
    )
    .await?;
    let sql = "select target, details::text, result::text, error from patchbay.operator_actions \
               where action = 'plugin.call' order by id desc limit 2";
    let rows: Vec<(String, String, Option<String>, Option<String>)> = sqlx::query_as(sql)
        .fetch_all(&mut world.database().await?)
        .await?;
    println!("{rows:?}");
    let details: Vec<Value> = rows
        .iter()
        .filter_map(|row| serde_json::from_str(&row.1).ok())
        .collect();
    assert_eq!(
        details,
        [
            json!({ "operation": "panic", "from": "127.0.0.1" }),
            json!({ "operation": "echo", "from": "127.0.0.1" })
        ]
    );
    assert!(
        rows[0]
            .3
            .as_deref()
            .is_some_and(|error| error.starts_with("trapped"))
    );
    assert!(
        rows.iter()
            .all(|row| row.0 == "answers" && !format!("{row:?}").contains("Lovelace")),
        "{rows:?}"
    );
    // Nor does it record the plugin's message about a failure: only the caller gets that.
    let (status, answer) = post(
        "answers",
        r#"{"operation":"fail","input":{"code":"conflict"}}"#,
    )
    .await?;
    assert_eq!(
        (status, &answer["message"]),
        (409, &json!("failed on request"))
    );
    let row: (Option<String>,) = sqlx::query_as(
        "select error from patchbay.operator_actions where action = 'plugin.call' order by id desc limit 1",
    )
    .fetch_one(&mut world.database().await?)
    .await?;
    assert_eq!(row.0.as_deref(), Some("conflict"));
    Ok(())
}

#[tokio::test]
async fn a_quarantined_plugin_answers_503_until_it_is_released_and_operations_do_not_quarantine_it()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let rule = [
        ("PATCHBAY_QUARANTINE_CRASHES", "4"),
        ("PATCHBAY_QUARANTINE_CALLS", "8"),
        ("PATCHBAY_QUARANTINE_JOBS", "2"),
    ];
    let host = world.host(&rule).await?;
    host.deploy("answers", answers_plugin("127.0.0.1:9".parse()?)?)
        .await?;
    for _ in 0..12 {
        assert_eq!(refused(&host, "panic", json!({})).await?.0, 500);
    }
    assert_eq!(
        host.post(CALL, json!({ "operation": "echo" })).await?.0,
        200,
        "an operator's tries stop nothing"
    );
    let mut database = world.database().await?;
    // As another process does that has seen the plugin's jobs crash.
    sqlx::raw_sql(
        "insert into patchbay.quarantines (plugin, digest, reason, began_by)
         select plugin, digest, 'crashed', 'host elsewhere' from patchbay.revisions;
         update patchbay.revisions set state = 'quarantined';
         select pg_notify('patchbay_changed', '')",
    )
    .execute(&mut database)
    .await?;
    let answer = until(Duration::from_secs(20), "the quarantine", async || {
        let (status, answer) = host.post(CALL, json!({ "operation": "echo" })).await?;
        Ok((status == 503).then_some(answer))
    })
    .await?;
    assert_eq!(answer["code"], "quarantined", "{answer}");
    let release = json!({ "reason": "a drill" });
    assert_eq!(
        host.post("/api/admin/plugins/answers/release", release)
            .await?
            .0,
        200
    );
    assert_eq!(
        host.post(CALL, json!({ "operation": "echo" })).await?.0,
        200
    );
    Ok(())
}

#[tokio::test]
async fn operations_by_commands() -> anyhow::Result<()> {
    let (world, vendor) = (World::new().await?, vendor().await?);
    let host = deployed(&world, vendor).await?;
    let call = ["plugin", "call", "answers"];
    let printed = async |args: &[&str]| -> anyhow::Result<Vec<u8>> {
        let output = patchbay(&host, &[&call, args].concat()).await?;
        anyhow::ensure!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    };
    let echoed: Value =
        serde_json::from_slice(&printed(&["echo", "--input", r#"{"n":1}"#]).await?)?;
    assert_eq!(echoed["input"], json!({ "n": 1 }));
    let file = world.dir.path().join("input.json");
    std::fs::write(&file, r#"{"from":"a file"}"#)?;
    let echoed: Value = serde_json::from_slice(
        &printed(&["echo", "--input", &format!("@{}", file.display())]).await?,
    )?;
    assert_eq!(echoed["input"], json!({ "from": "a file" }));
    let mut command = tokio::process::Command::new(binary());
    command
        .args(call)
        .args(["echo", "--input", "-"])
        .env("PATCHBAY_URL", &host.url)
        .env("PATCHBAY_USER", USER);
    let mut child = command
        .env("PATCHBAY_PASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(b"[\"from standard input\"]\n")
        .await?;
    let output = child.wait_with_output().await?;
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("from standard input"),
        "{output:?}"
    );

    assert_eq!(printed(&["bytes"]).await?, [0, 159, 146, 150]);
    let file = world.dir.path().join("answer.png");
    printed(&["bytes", "--output", file.to_str().context("a path")?]).await?;
    assert_eq!(std::fs::read(&file)?, [0, 159, 146, 150]);
    assert_eq!(printed(&["empty"]).await?, b"");
    let url = json!({ "url": format!("http://{vendor}/recording") }).to_string();
    assert_eq!(printed(&["relay", "--input", &url]).await?, b"recording");

    let as_json =
        async |args: &[&str]| json_of(&host, &[&["--json"], call.as_slice(), args].concat()).await;
    assert_eq!(
        as_json(&["created"]).await?,
        json!({ "kind": "json", "status": 201, "contentType": "application/json", "data": { "id": 7 } })
    );
    assert_eq!(
        as_json(&["bytes"]).await?,
        json!({ "kind": "bytes", "status": null, "contentType": "image/png", "base64": "AJ+Slg==" })
    );
    assert_eq!(
        as_json(&["empty"]).await?,
        json!({ "kind": "empty", "status": null })
    );

    let missing = json!({ "url": format!("http://{vendor}/missing") }).to_string();
    for (args, code, says) in [
        (
            vec!["nothing-like-it"],
            3,
            "no operation is called nothing-like-it (not-found)",
        ),
        (vec!["echo", "--input", "{"], 4, "--input is not JSON"),
        (
            vec!["echo", "--input", "@/no/such/file"],
            1,
            "cannot read /no/such/file",
        ),
        (
            vec!["fail", "--input", r#"{"code":"conflict"}"#],
            4,
            "failed on request (conflict)",
        ),
        (vec!["panic"], 1, "trapped"),
        (
            vec!["relay", "--input", &missing],
            1,
            "answered with HTTP status 404",
        ),
    ] {
        let output = patchbay(&host, &[&call, args.as_slice()].concat()).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        print!("{error}");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(says), "{args:?}: {error}");
    }
    let output = patchbay(
        &host,
        &[
            "--json",
            "plugin",
            "call",
            "answers",
            "fail",
            "--input",
            r#"{"code":"conflict"}"#,
        ],
    )
    .await?;
    let error = crate::harness::envelope(&output.stderr)?;
    assert_eq!(
        (&error["code"], &error["details"]),
        (&json!("conflict"), &json!({ "field": "to" }))
    );
    let output = patchbay(&host, &["plugin", "call", "nobody", "echo"]).await?;
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
