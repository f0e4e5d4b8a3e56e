//! A reader that stops reading delays nobody else: of standard output, or a client of HTTP.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::{Host, PASSWORD, USER, World, binary, until};

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

#[tokio::test]
async fn a_full_pipe_of_the_log_stops_neither_work_nor_the_end_and_what_was_dropped_is_told()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let binary = binary();
    let arguments = [binary.to_str().context("a path")?, "serve"];
    // Enough output to fill the pipe and the buffer within seconds.
    let env = [
        ("PATCHBAY_HTTP_LISTEN", address.as_str()),
        ("PATCHBAY_LOG_FILTER", "trace"),
    ];
    let mut child = world.command("setsid", &arguments, &env).spawn()?;
    // Both stay open, and nobody reads them.
    let (stdout, _stderr) = (
        child.stdout.take().context("stdout")?,
        child.stderr.take().context("stderr")?,
    );
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()?;
    let get = async |path: &str| {
        let request = http
            .get(format!("http://{address}{path}"))
            .basic_auth(USER, Some(PASSWORD));
        let response = request.send().await?;
        anyhow::Ok((response.status().as_u16(), response.text().await?))
    };
    until(
        Duration::from_secs(60),
        "a host that is ready",
        async || {
            Ok(get("/readyz")
                .await
                .ok()
                .filter(|(status, _)| *status == 200))
        },
    )
    .await?;
    let dropped = async || {
        let (_, page) = get("/metrics").await?;
        let line = page
            .lines()
            .find(|line| line.starts_with("patchbay_log_lines_dropped_total"));
        let count = line
            .and_then(|line| line.rsplit_once(' '))
            .context("the metric")?
            .1;
        anyhow::Ok(count.parse::<f64>()?)
    };
    let drops_more_than = async |before: f64| {
        until(Duration::from_secs(90), "lines are dropped", async || {
            let probes = (0..200).map(|_| async {
                ensure!(get("/livez").await?.0 == 200, "a probe");
                anyhow::Ok(())
            });
            futures::future::try_join_all(probes).await?;
            Ok(Some(dropped().await?).filter(|count| *count > before))
        })
        .await
    };
    let first = drops_more_than(0.0).await?;

    let mut lines = BufReader::new(stdout).lines();
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("Log lines are missing here") {
                return Ok(line);
            }
        }
        anyhow::bail!("the host has ended")
    });
    let told: serde_json::Value = serde_json::from_str(&told.await??)?;
    ensure!(
        told["level"] == "WARN" && told["dropped"].as_u64() > Some(0),
        "{told}"
    );

    // Nobody reads until the end.
    drops_more_than(first).await?;
    let pid = rustix::process::Pid::from_raw(child.id().context("running")?.try_into()?)
        .context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait())
        .await
        .context("it ends")??;
    ensure!(status.success(), "{status}");
    drop(lines);
    Ok(())
}

/// Sends many large requests and reads nothing.
async fn deaf_client(host: &Host) -> anyhow::Result<TcpStream> {
    let mut client = TcpStream::connect(host.url.trim_start_matches("http://")).await?;
    let request = "GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(400);
    client.write_all(request.as_bytes()).await?;
    Ok(client)
}

#[tokio::test]
async fn clients_that_never_read_lose_their_connections() -> anyhow::Result<()> {
    let world = World::new().await?;
    let limits = [
        ("PATCHBAY_HTTP_MAX_CONNECTIONS", "3"),
        ("PATCHBAY_HTTP_WRITE_TIMEOUT_MS", "500"),
    ];
    let host = world.host(&limits).await?;
    let mut deaf = Vec::new();
    for _ in 0..3 {
        deaf.push(deaf_client(&host).await?);
    }
    // All connections are taken until these clients are disconnected: then as many others are
    // served at the same time.
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = TcpStream::connect(host.url.trim_start_matches("http://")).await?;
        other
            .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            .await?;
        let mut answer = [0; 1_024];
        let read = tokio::time::timeout(Duration::from_secs(20), other.read(&mut answer))
            .await
            .context("a place")??;
        ensure!(read > 0, "an answer");
        others.push(other);
    }
    for mut client in deaf {
        // The data that the system had buffered; then the end, or a reset.
        let mut rest = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut rest)).await;
        ensure!(ended.is_ok(), "the connection is still open");
    }
    Ok(())
}

#[tokio::test]
async fn one_network_never_has_all_connections_and_those_without_a_request_end()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[
            ("PATCHBAY_HTTP_MAX_CONNECTIONS_PER_NETWORK", "8"),
            ("PATCHBAY_HTTP_FIRST_HEAD_TIMEOUT_MS", "1500"),
        ])
        .await?;
    let address = host.url.trim_start_matches("http://");
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(b"GET /livez HTTP/1.1\r\n").await?;
        held.push(client);
    }
    let ended = async |client: &mut TcpStream| {
        let mut rest = Vec::new();
        let read = client.read_to_end(&mut rest);
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .context("the connection is still open")
    };
    // The ninth: its end, or a reset.
    let mut further = TcpStream::connect(address).await?;
    let _end = ended(&mut further).await?;
    for client in &mut held {
        let _end = ended(client).await?;
    }
    let (status, _) = host.get("/api/admin/status").await?;
    ensure!(status == 200, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_that_goes_on_reading_gets_everything() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_WRITE_TIMEOUT_MS", "1000")])
        .await?;
    let mut client = TcpStream::connect(host.url.trim_start_matches("http://")).await?;
    let request = "GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(40)
        + "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).await?;
    let (mut all, mut part) = (Vec::new(), vec![0; 1 << 20]);
    let mut pauses = tokio::time::interval(Duration::from_millis(100));
    loop {
        pauses.tick().await;
        let read = client.read(&mut part).await?;
        if read == 0 {
            break;
        }
        all.extend_from_slice(&part[..read]);
    }
    ensure!(
        all.ends_with(b"\r\n\r\nok\n"),
        "it broke off after {} bytes",
        all.len()
    );
    Ok(())
}
