//! Content of other servers that a route passes on: recordings and documents.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{get, route, sent};
use crate::harness::{Host, World, full_length, guest_component, repository};
use patchbay_model::manifest::Manifest;

const TOKEN: &str = "t0ken-of-the-vendor-of-recordings";
const PIECE: usize = 64 << 10;

/// A vendor: it answers only with the credential that the host adds.
async fn vendor(large: usize) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = Router::new().fallback(any(move |request: Request| answer(large, request)));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// Of a byte that tells its place, and never `%`: an unoptimised host decodes slowly.
fn byte(place: usize) -> u8 {
    (place % 200 + 50) as u8
}

fn recording(place: usize) -> Bytes {
    Bytes::from(vec![byte(place); PIECE])
}

/// Pieces of a body, as far as the client reads.
fn body(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(futures::stream::iter(pieces.map(Ok::<_, Infallible>)))
}

async fn answer(large: usize, request: Request) -> Response {
    let headers: &HeaderMap = request.headers();
    let given = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    // Nothing to search for, so a host without optimisation is as quick as its clients.
    if request.uri().path() == "/open/large" {
        let pieces = large / PIECE;
        return (
            [("content-type", "audio/mpeg")],
            body((0..pieces).map(recording)),
        )
            .into_response();
    }
    if given("authorization") != format!("Bearer {TOKEN}") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if given("accept-encoding") != "identity" {
        return StatusCode::NOT_ACCEPTABLE.into_response();
    }
    let audio = [
        ("content-type", "audio/mpeg"),
        ("accept-ranges", "bytes"),
        ("etag", "\"r1\""),
        ("last-modified", "Tue, 01 Sep 2026 10:00:00 GMT"),
        ("set-cookie", "session=of-the-vendor"),
        ("x-vendor", "secret-name"),
    ];
    match request.uri().path() {
        "/rec/large" => {
            let pieces = large / PIECE;
            let length = [("content-length", large.to_string())];
            (audio, length, body((0..pieces).map(recording))).into_response()
        }
        "/rec/small" => match given("range").as_str() {
            "bytes=2-5" if ["", "\"r1\""].contains(&given("if-range").as_str()) => {
                let range = [("content-range", "bytes 2-5/9")];
                (StatusCode::PARTIAL_CONTENT, audio, range, "cord").into_response()
            }
            "bytes=99-" => {
                let range = [("content-range", "bytes */9")];
                (
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    range,
                    "the vendor's words",
                )
                    .into_response()
            }
            _ if given("if-none-match") == "\"r1\"" || !given("if-modified-since").is_empty() => {
                (StatusCode::NOT_MODIFIED, audio).into_response()
            }
            _ => (audio, "recording").into_response(),
        },
        "/rec/moved" => (StatusCode::FOUND, [("location", "/rec/small")]).into_response(),
        "/rec/loop" => (StatusCode::FOUND, [("location", "/rec/loop")]).into_response(),
        "/rec/away" => {
            let outside = [("location", "http://192.0.2.1/secret-path")];
            (StatusCode::FOUND, outside).into_response()
        }
        "/rec/leak" => {
            // Across an edge, after so much that the beginning has left the host already.
            let (first, second) = TOKEN.split_at(12);
            let filler = (0..64).map(recording);
            let end = [
                Bytes::from(format!("xx{first}")),
                Bytes::from(format!("{second}yy")),
            ];
            let rest = (0..64).map(recording);
            (audio, body(filler.chain(end).chain(rest))).into_response()
        }
        "/rec/leak-small" => (audio, format!("you sent {TOKEN}")).into_response(),
        "/rec/broken" => {
            let length = [("content-length", (64 * PIECE).to_string())];
            (audio, length, body((0..40).map(recording))).into_response()
        }
        "/rec/endless" => (audio, body((0..).map(recording))).into_response(),
        "/rec/html" => ([("content-type", "text/html")], "<p>").into_response(),
        "/rec/forbidden" => StatusCode::FORBIDDEN.into_response(),
        "/rec/down" => (StatusCode::INTERNAL_SERVER_ERROR, "stack of the vendor").into_response(),
        _ => (StatusCode::NOT_FOUND, "no such recording of 4711").into_response(),
    }
}

fn plugin(address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let file = repository().join("tests/guests/answers/plugin.toml");
    let base = Manifest::from_toml(&std::fs::read_to_string(file)?, |_| Err("no files".into()))?;
    let mut manifest = serde_json::to_value(base)?;
    manifest["name"] = json!("calls");
    manifest["limits"]["deadline_ms"] = json!(30_000);
    manifest["egress"][0]["url"] = json!(format!("http://{address}/rec/**"));
    manifest["egress"][0]["max_relay_bytes"] = json!(2_u64 << 30);
    manifest["egress"][0]["breaker"] = Value::Null;
    if let Some(rule) = manifest["egress"][0].as_object_mut() {
        rule.remove("breaker");
    }
    let input =
        json!({ "properties": { "query": { "properties": { "url": { "type": "string" } } } } });
    let routes = [route(
        "recording",
        "relay",
        json!({ "input": input, "produces": ["audio/mpeg"] }),
    )];
    let bounded = json!({ "url": format!("http://{address}/rec/endless"), "methods": ["GET"], "max_relay_bytes": 4 << 20,
        "auth": manifest["egress"][0]["auth"], "allow_addresses": ["127.0.0.0/8"] });
    let open = json!({ "url": format!("http://{address}/open/**"), "methods": ["GET"], "max_relay_bytes": 1_u64 << 30,
        "allow_addresses": ["127.0.0.0/8"] });
    manifest["egress"]
        .as_array_mut()
        .context("rules")?
        .extend([bounded, open]);
    manifest["routes"] = json!(routes);
    let manifest = Manifest::from_packed(manifest.to_string().as_bytes())?;
    Ok(patchbay_runtime::pack(
        &guest_component("answers")?,
        &manifest,
    )?)
}

async fn started(world: &World, large: usize) -> anyhow::Result<(Host, SocketAddr)> {
    started_with(world, large, &[]).await
}

async fn started_with(
    world: &World,
    large: usize,
    more: &[(&str, &str)],
) -> anyhow::Result<(Host, SocketAddr)> {
    let mut env = vec![("PATCHBAY_SECRET_CALLS_TOKEN", TOKEN)];
    env.extend(more);
    let host = world.host(&env).await?;
    let address = vendor(large).await?;
    host.deploy("calls", plugin(address)?).await?;
    Ok((host, address))
}

fn path(address: SocketAddr, of: &str) -> String {
    format!("/api/t/recording?url=http://{address}/rec/{of}")
}

/// Kilobytes that a process holds.
fn resident(host: &Host) -> anyhow::Result<usize> {
    let id = host.child.id().context("it runs")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kilobytes.context("VmRSS")?.parse()?)
}

#[tokio::test]
async fn a_large_recording_passes_through_a_host_that_does_not_hold_it() -> anyhow::Result<()> {
    let large: usize = if full_length() { 1 << 30 } else { 256 << 20 };
    let world = World::new().await?;
    let (host, address) = started(&world, large).await?;
    // Whatever the first use of anything takes.
    let small = get(&host, &path(address, "small")).await?;
    assert_eq!(small.text, "recording");
    let before = resident(&host)?;
    let request = host.http.get(host.url.clone() + &path(address, "large"));
    let response = request.timeout(Duration::from_secs(300)).send().await?;
    assert_eq!(response.status(), 200);
    assert_eq!(response.content_length(), Some(large as u64));
    let (mut bytes, mut most, mut looked) = (0_usize, before, 0_usize);
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let expected = byte(bytes / PIECE);
        assert_eq!(piece.first(), Some(&expected), "at {bytes}");
        bytes += piece.len();
        if bytes - looked >= 8 << 20 {
            looked = bytes;
            most = most.max(resident(&host)?);
        }
    }
    assert_eq!(bytes, large);
    println!("{} MiB, {} KiB more memory", large >> 20, most - before);
    assert!(most - before < 32 << 10, "{} KiB", most - before);
    Ok(())
}

#[tokio::test]
async fn clients_that_read_slowly_hold_the_vendor_back_and_a_share_of_the_places_each()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let proxy = [("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")];
    let (host, address) = started_with(&world, 1 << 30, &proxy).await?;
    let url = format!(
        "{}/api/t/recording?url=http://{address}/open/large",
        host.url
    );
    let from = |request: reqwest::RequestBuilder, network: u8| {
        request.header("x-forwarded-for", format!("192.0.2.{network}"))
    };
    let opened = async |network: u8, count: usize| {
        let mut open = Vec::new();
        // Each takes a place of a call until its guest has ended.
        for _ in 0..count / 4 {
            let asked = (0..4).map(|_| from(host.http.get(&url), network).send());
            open.extend(futures::future::try_join_all(asked).await?);
        }
        let statuses = open.iter().map(|response| response.status().as_u16());
        let statuses: Vec<u16> = statuses.collect();
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        anyhow::Ok(open)
    };
    let small = async |network: u8| {
        let request = host.http.get(host.url.clone() + &path(address, "small"));
        let answer = sent(from(request, network)).await?;
        let code = answer.json()["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        anyhow::Ok((answer.status, code))
    };
    // A quarter of the places, and more than there are places for calls.
    let mut open = opened(1, 16).await?;
    assert_eq!(small(1).await?, (429, "rate-limited".to_owned()));
    let before = resident(&host)?;
    assert_eq!(small(2).await?, (200, String::new()), "others go on");
    let more = resident(&host)?.saturating_sub(before);
    assert!(more < 32 << 10, "{more} KiB");
    // As many as a host passes on; then it says so.
    for network in 2..5 {
        open.extend(opened(network, 16).await?);
    }
    assert_eq!(small(5).await?, (503, "busy".to_owned()));
    drop(open);
    crate::harness::until(Duration::from_secs(20), "a place", async || {
        Ok((small(1).await?.0 == 200).then_some(()))
    })
    .await
}

/// A client that asks and never reads is cut off, although it asks for nothing more.
async fn never_reads(host: &Host, address: SocketAddr, large: usize) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = host.url.strip_prefix("http://").context("an address")?;
    let mut connection = tokio::net::TcpStream::connect(server).await?;
    let path = format!("/api/t/recording?url=http://{address}/open/large");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {server}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let cut_off = r#"patchbay_relays_cut_off_total{reason="slow-client"} 1"#;
    crate::harness::until(Duration::from_secs(30), "the end", async || {
        let page = host.metrics().await?;
        Ok((page.contains(cut_off) && page.contains("patchbay_relays 0")).then_some(()))
    })
    .await?;
    let mut bytes = Vec::new();
    // Reset, or closed before the end of the stream.
    let _ended = connection.read_to_end(&mut bytes).await;
    assert!(
        bytes.len() < large && !bytes.ends_with(b"0\r\n\r\n"),
        "{}",
        bytes.len()
    );
    Ok(())
}

#[tokio::test]
async fn ranges_and_conditions_go_to_the_vendor_and_nothing_of_the_vendor_but_the_content_comes_back()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let large = 64 << 20;
    let slow = [("PATCHBAY_ROUTES_RELAY_SLOW_AFTER_S", "1")];
    let (host, address) = started_with(&world, large, &slow).await?;
    let ask = async |of: &str, headers: &[(&str, &str)]| {
        let mut request = host.http.get(host.url.clone() + &path(address, of));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sent(request).await
    };
    for (of, headers, status, text) in [
        ("small", &[][..], 200, "recording"),
        ("small", &[("range", "bytes=2-5")], 206, "cord"),
        (
            "small",
            &[("range", "bytes=2-5"), ("if-range", "\"r1\"")],
            206,
            "cord",
        ),
        (
            "small",
            &[("range", "bytes=2-5"), ("if-range", "\"old\"")],
            200,
            "recording",
        ),
        ("small", &[("range", "bytes=99-")], 416, ""),
        ("small", &[("if-none-match", "\"r1\"")], 304, ""),
        (
            "small",
            &[("if-modified-since", "Tue, 01 Sep 2026 10:00:00 GMT")],
            304,
            "",
        ),
        ("moved", &[], 200, "recording"),
        ("missing", &[], 404, ""),
    ] {
        let answer = ask(of, headers).await?;
        let told = format!("{of} {headers:?}: {} {}", answer.status, answer.text);
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (status, text),
            "{told}"
        );
        for name in ["set-cookie", "x-vendor", "location"] {
            assert!(answer.headers.get(name).is_none(), "{told} {name}");
        }
        if [200, 206].contains(&status) {
            assert_eq!(answer.header("content-type"), "audio/mpeg", "{told}");
            assert_eq!(answer.header("content-disposition"), "inline", "{told}");
            assert_eq!(
                answer.header("content-security-policy"),
                "sandbox",
                "{told}"
            );
            assert_eq!(answer.header("accept-ranges"), "bytes", "{told}");
            assert_eq!(
                answer.header("content-length"),
                text.len().to_string(),
                "{told}"
            );
        }
        if status != 404 && status != 416 {
            assert_eq!(answer.header("etag"), "\"r1\"", "{told}");
        }
    }
    assert_eq!(
        ask("small", &[("range", "bytes=2-5")])
            .await?
            .header("content-range"),
        "bytes 2-5/9"
    );
    assert_eq!(
        ask("small", &[("range", "bytes=99-")])
            .await?
            .header("content-range"),
        "bytes */9"
    );
    let head = sent(host.http.head(host.url.clone() + &path(address, "large"))).await?;
    assert_eq!(head.header("content-length"), large.to_string());

    for (of, status, code) in [
        ("away", 500, "relay-denied"),
        ("loop", 502, "upstream"),
        ("leak-small", 500, "relay-denied"),
        ("html", 500, "invalid-result"),
        ("forbidden", 502, "bad-credentials"),
        ("down", 502, "upstream"),
    ] {
        let answer = ask(of, &[]).await?;
        let told = format!("{of}: {} {}", answer.status, answer.text);
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (status, Some(code)),
            "{told}"
        );
        let text = format!("{:?} {}", answer.headers, answer.text);
        let port = address.port().to_string();
        for part in [
            TOKEN,
            "192.0.2.1",
            "secret-path",
            port.as_str(),
            "/rec/",
            "vendor",
        ] {
            assert!(!answer.text.contains(part), "{part}: {text}");
        }
    }
    never_reads(&host, address, large).await
}

/// Reads to the end; whether the client was told that it has the whole.
async fn read(host: &Host, path: &str) -> anyhow::Result<(Vec<u8>, bool)> {
    let response = host.http.get(host.url.clone() + path).send().await?;
    anyhow::ensure!(response.status() == 200, "{}", response.status());
    let (mut bytes, mut pieces) = (Vec::new(), response.bytes_stream());
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) => return Ok((bytes, false)),
        }
    }
    Ok((bytes, true))
}

#[tokio::test]
async fn what_must_not_or_cannot_be_passed_on_to_its_end_is_cut_off_so_that_the_client_sees_it()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (host, address) = started(&world, PIECE).await?;
    let (bytes, is_whole) = read(&host, &path(address, "leak")).await?;
    assert!(!is_whole && bytes.len() > 3 << 20, "{}", bytes.len());
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains(&TOKEN[..12]), "not even its beginning");
    let (bytes, is_whole) = read(&host, &path(address, "broken")).await?;
    assert!(!is_whole && bytes.len() <= 40 * PIECE, "{}", bytes.len());
    let (bytes, is_whole) = read(&host, &path(address, "endless")).await?;
    assert!(!is_whole && bytes.len() <= 4 << 20, "{}", bytes.len());
    assert_eq!(get(&host, &path(address, "small")).await?.status, 200);
    Ok(())
}
