//! What no well-behaved client sends: heads that two readers may understand differently, oversized
//! heads, odd paths, deep JSON, random bytes. And the headers of every answer.

use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Host, PASSWORD, USER, World, seed};

const LIMIT: Duration = Duration::from_secs(20);

/// Everything that the host answers until it closes the connection.
async fn answered(host: &Host, request: &[u8]) -> anyhow::Result<String> {
    let mut stream = connect(host).await?;
    // The host may close before it has read everything.
    let _sent = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .context("the connection stays open")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn connect(host: &Host) -> anyhow::Result<TcpStream> {
    let address = host.url.strip_prefix("http://").context("an address")?;
    Ok(TcpStream::connect(address).await?)
}

fn login() -> String {
    let pair = format!("{USER}:{PASSWORD}");
    base64::engine::general_purpose::STANDARD.encode(pair)
}

/// A request of the operator that closes the connection after its answer.
fn get(path: &str, fields: &str) -> String {
    let login = login();
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nConnection: close\r\n{fields}\r\n"
    )
}

#[tokio::test]
async fn a_request_whose_length_two_readers_may_take_differently_is_refused_and_the_connection_ends()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let smuggled = "0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    for fields in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "content-LENGTH: 46\r\ntransfer-ENCODING: Chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: identity\r\n",
        "X-Folded: a\r\n b\r\n",
        "X-Space : a\r\n",
    ] {
        let head = format!("POST /api/health HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        // As the first request, and after others on the same connection.
        let before = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n\
            POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        for (before, answers) in [("", 1), (before, 3)] {
            let answer = answered(&host, format!("{before}{head}{smuggled}").as_bytes()).await?;
            let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).collect();
            assert_eq!(statuses.len(), answers, "{fields}: {answer}");
            let last = statuses.last().context("an answer")?;
            ensure!(last.starts_with("400 "), "{fields}: {answer}");
        }
    }
    let two_lengths = "POST /api/health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
    let answer = answered(&host, two_lengths.as_bytes()).await?;
    ensure!(
        answer.contains(r#""code":"invalid-input""#) && answer.contains("send one of them"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn a_head_has_at_most_32_kib_100_fields_and_one_of_each_credential() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let status = async |fields: &str| -> anyhow::Result<String> {
        let answer = answered(&host, get("/livez", fields).as_bytes()).await?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        Ok(status.to_owned())
    };
    let padded = |bytes: usize| format!("X-Long: {}\r\n", "x".repeat(bytes));
    assert_eq!(status(&padded(31 << 10)).await?, "200");
    assert_eq!(status(&padded(33 << 10)).await?, "431");
    // The rest of such a head is not read, so its sender may see a reset in place of the answer.
    let status_of_endless = status(&padded(1 << 20)).await?;
    ensure!(["431", ""].contains(&status_of_endless.as_str()));
    // A credential that is there twice is refused at every way in.
    for (path, credential) in [
        ("/livez", "Authorization: Bearer pbt_x\r\n"),
        ("/api/admin/status", "authorization: Basic eDp5\r\n"),
        ("/metrics", "Authorization: Bearer x\r\n"),
        ("/api/vendor/key", "X-API-Key: a\r\nx-api-key: a\r\n"),
        ("/api/auth/me", "X-API-Key: a\r\nX-API-Key: b\r\n"),
        ("/nothing", "Authorization:\r\n"),
    ] {
        let answer = answered(&host, get(path, credential).as_bytes()).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("at most one"),
            "{path}: {answer}"
        );
    }
    // Three others are in each head.
    assert_eq!(status(&"X: y\r\n".repeat(97)).await?, "200");
    assert_eq!(status(&"X: y\r\n".repeat(98)).await?, "431");
    // A head that never ends is not collected for ever.
    let endless = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\nX: {}",
        "x".repeat(1 << 20)
    );
    let answer = answered(&host, endless.as_bytes()).await?;
    ensure!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn paths_that_another_reader_may_resolve_meet_no_route() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_ANONYMOUS_PER_MINUTE", "0")])
        .await?;
    for path in [
        "//api/admin/queues",
        "/api//admin/queues",
        "/api/admin//queues",
        "/api/admin/queues/",
        "/api/admin/queues/../queues",
        "/api/admin/queues/%2e%2e/queues",
        "/api/admin/queues/%2E",
        "/api/admin/x/..%2fqueues",
        "/api%2fadmin/queues",
        "/api/%61dmin/queues",
        "/API/admin/queues",
        "/api/admin%00/queues",
        "/api/admin/queues%00",
        "/api\\admin\\queues",
        "/api/admin/queues\\",
        "/api/admin/queues/a\\b",
        "/.",
        "/api/health/.",
    ] {
        let answer = answered(&host, get(path, "").as_bytes()).await?;
        ensure!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
        assert_eq!(
            serde_json::from_str::<Value>(body)?,
            json!({ "success": false, "code": "route-not-found", "message": "Route not found", "path": path })
        );
    }
    // Names may hold what looks the same.
    for name in ["a%2Fb", "~..", "a%5Cb", "%2e%2e%2e"] {
        let path = format!("/api/admin/queues/{name}/why");
        let answer = answered(&host, get(&path, "").as_bytes()).await?;
        ensure!(!answer.contains("Route not found"), "{path}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_has_at_most_20000_levels() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // The envelope of the request is one level.
    let add = async |levels: usize| {
        let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let body = format!(r#"{{"name":"n","newQueue":true,"data":{nested}}}"#);
        let request = host
            .http
            .post(format!("{}/api/admin/queues/deep/jobs", host.url))
            .header("content-type", "application/json");
        host.request(request.body(body)).await
    };
    let (status, answer) = add(10_000).await?;
    assert_eq!(status, 200, "{answer}");
    for levels in [20_000, 100_000] {
        let (status, answer) = add(levels).await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{answer}"
        );
        ensure!(answer.to_string().contains("20000 levels"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn random_requests_are_answered_or_cut_off_and_never_pass_the_login() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_ANONYMOUS_PER_MINUTE", "0")])
        .await?;
    let mut random = StdRng::seed_from_u64(seed());
    let pieces: [&[u8]; 24] = [
        b"GET ",
        b"POST ",
        b"OPTIONS ",
        b"CONNECT ",
        b"/api/admin/queues",
        b"/livez",
        b"//",
        b"/..",
        b"%2e",
        b"%2f",
        b"\\",
        b"\0",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/2.0",
        b"\r\n",
        b"\n",
        b"Host: x\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"\xff\xfe",
        b"Origin: https://evil.example\r\n",
    ];
    for _ in 0..500 {
        let mut request = match random.random_range(0..3) {
            0 => Vec::new(),
            1 => b"GET /api/admin/queues HTTP/1.1\r\nHost: x\r\n".to_vec(),
            _ => b"POST /api/admin/queues/pause HTTP/1.1\r\nHost: x\r\n".to_vec(),
        };
        for _ in 0..random.random_range(1..12) {
            request.extend_from_slice(pieces[random.random_range(0..pieces.len())]);
        }
        request.extend_from_slice(b"Connection: close\r\n\r\n");
        let mut stream = connect(&host).await?;
        let _sent = stream.write_all(&request).await;
        // Whoever waits for more bytes sees that there are none.
        let _closed = stream.shutdown().await;
        let mut answer = Vec::new();
        let _read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
            .await
            .with_context(|| format!("no end: {}", request.escape_ascii()))?;
        let answer = String::from_utf8_lossy(&answer);
        let is_success = answer.starts_with("HTTP/1.1 2");
        let of_probe = answer.contains("ok\n");
        ensure!(
            !is_success || of_probe,
            "{}\n{answer}",
            request.escape_ascii()
        );
        ensure!(
            !answer.contains("HTTP/1.1 5"),
            "{}\n{answer}",
            request.escape_ascii()
        );
    }
    assert_eq!(host.get("/readyz").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn every_answer_has_the_security_headers_and_names_no_software() -> anyhow::Result<()> {
    let world = World::new().await?;
    let url = ("PATCHBAY_HTTP_PUBLIC_URL", "https://api.example");
    let host = world.host(&[url]).await?;
    for (method, path) in [
        ("GET", "/livez"),
        ("GET", "/api/health"),
        ("GET", "/api/openapi.json"),
        ("GET", "/api/admin/queues"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("PATCH", "/livez"),
        ("OPTIONS", "/api/admin/queues"),
    ] {
        let request = host.http.request(method.parse()?, host.url.clone() + path);
        let response = request.send().await?;
        let headers = response.headers();
        let of = |name: &str| {
            headers
                .get(name)
                .map_or("", |value| value.to_str().unwrap_or_default())
        };
        assert_eq!(of("x-content-type-options"), "nosniff", "{method} {path}");
        assert_eq!(of("referrer-policy"), "no-referrer", "{method} {path}");
        assert_eq!(of("x-frame-options"), "DENY", "{method} {path}");
        assert_eq!(of("cross-origin-opener-policy"), "same-origin");
        let policy = of("content-security-policy");
        ensure!(policy.starts_with("default-src 'none'; frame-ancestors 'none'"));
        assert_eq!(of("cache-control"), "no-store", "{method} {path}");
        assert_eq!(of("strict-transport-security"), "max-age=31536000");
        for name in ["server", "x-powered-by"] {
            ensure!(!headers.contains_key(name), "{method} {path}: {name}");
        }
    }
    let plain = world.host(&[]).await?;
    let response = plain
        .http
        .get(format!("{}/livez", plain.url))
        .send()
        .await?;
    ensure!(!response.headers().contains_key("strict-transport-security"));
    Ok(())
}

#[tokio::test]
async fn no_operation_of_operators_tells_pages_of_other_origins_anything() -> anyhow::Result<()> {
    let world = World::new().await?;
    let origin = "https://app.example";
    let host = world.host(&[("SOCKET_CORS_ORIGIN", origin)]).await?;
    let login = format!("Basic {}", login());
    for path in [
        "/api/admin/queues",
        "/metrics",
        "/livez",
        "/api/openapi.json",
        "/nothing",
    ] {
        for (method, asked) in [
            ("GET", None),
            ("OPTIONS", Some("GET")),
            ("OPTIONS", Some("POST")),
        ] {
            let mut request = host
                .http
                .request(method.parse()?, host.url.clone() + path)
                .header("origin", origin);
            request = match asked {
                Some(asked) => request.header("access-control-request-method", asked),
                None => request.header("authorization", &login),
            };
            let response = request.send().await?;
            let told = response.headers().keys();
            let told: Vec<&str> = told
                .map(|name| name.as_str())
                .filter(|name| name.starts_with("access-control"))
                .collect();
            ensure!(told.is_empty(), "{method} {path}: {told:?}");
        }
    }
    // An origin for users gives no right to change anything as an operator.
    let request = host
        .http
        .post(format!("{}/api/admin/queues/pause", host.url))
        .header("origin", origin);
    let (status, answer) = host.request(request).await?;
    assert_eq!((status, &answer["code"]), (403, &json!("cross-site")));
    Ok(())
}

#[tokio::test]
async fn a_host_does_not_start_with_origins_that_would_open_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    for (origins, environment, said) in [
        ("*", "development", "http.cors_origins"),
        ("null", "development", "http.cors_origins"),
        ("https://app.example/path", "development", "no path"),
        ("https://app.example, *", "development", "no *"),
        ("http://app.example", "production", "only https:// origins"),
    ] {
        let env = [("SOCKET_CORS_ORIGIN", origins), ("NODE_ENV", environment)];
        let (code, text) = world.output(&["serve"], &env).await?;
        assert_ne!(code, Some(0), "{origins}");
        ensure!(text.contains(said), "{origins}: {text}");
    }
    for local in ["http://localhost:3000", "http://127.0.0.1:3001"] {
        let env = [("SOCKET_CORS_ORIGIN", local), ("NODE_ENV", "production")];
        drop(world.host(&env).await?);
    }
    Ok(())
}
