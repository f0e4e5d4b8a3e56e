//! The API of clients beside an Express app that does the same work with the same caching: the
//! health check, and a route that needs an access token.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::host_process::{HostProcess, Services};
use crate::statistics::{Spread, percentile, verdict};
use crate::world::World;

/// Connections that each have one request under way.
pub const CONNECTIONS: usize = 32;
pub const SAMPLE: Duration = Duration::from_secs(2);
pub const WARM_UP: Duration = Duration::from_millis(500);
const LOGINS: usize = 20;
pub const JWT_SECRET: &str = "a secret of the benchmark, 32 bytes or more";
pub const KEY: &str = "8f3c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const EMAIL: &str = "ada@example.com";
const PASSWORD: &str = "correct horse battery";

/// One sample of one side.
pub struct Sample {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    let services = Services::fresh("bench_api").await?;
    let settings = [
        ("PATCHBAY_PEOPLE_ENABLED", "true".to_owned()),
        ("PATCHBAY_SECRETS_KEY", KEY.to_owned()),
        ("JWT_SECRET", JWT_SECRET.to_owned()),
    ];
    let host = HostProcess::start(&services, world.dir.path(), &settings, "/readyz").await?;
    let token = account(&services, &host).await?;
    let (_node, node) = express(&services, &[]).await?;
    let sides = [host.address()?, node];

    println!("requests of the API, {CONNECTIONS} connections");
    for path in ["/api/health", "/api/users/profile"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        for side in sides {
            load(side, &request, WARM_UP).await?;
        }
        let (mut rates, mut tails) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for pair in 0..pairs {
            for turn in 0..2 {
                let i = (turn + pair) % 2;
                let sample = load(sides[i], &request, SAMPLE).await?;
                rates[i].push(sample.per_second);
                tails[i].push(sample.p99_ms);
            }
        }
        let ratio =
            |of: &[Vec<f64>; 2]| Spread::of(of[0].iter().zip(&of[1]).map(|(a, b)| a / b).collect());
        let (faster, tail) = (ratio(&rates), ratio(&tails));
        let ([ours, theirs], [our_tail, their_tail]) =
            (rates.map(Spread::of), tails.map(Spread::of));
        println!("  GET {path}");
        println!("    ours {ours}/s, express {theirs}/s");
        println!(
            "    ours / express {faster}  {}",
            verdict(faster.median, 5.0, true)
        );
        println!(
            "    p99: ours {our_tail} ms, express {their_tail} ms, ours / express {tail}  {}",
            verdict(tail.median, 1.0, false)
        );
    }
    let mut logins = Vec::new();
    for _ in 0..LOGINS {
        let started = Instant::now();
        log_in(&host).await?;
        logins.push(started.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "  POST /api/auth/login: {} ms, one at a time; bound by argon2id (19 MiB, 2 passes, 1 lane)",
        Spread::of(logins)
    );
    host.kill().await
}

/// A verified account in the host's table; gives an access token that both sides accept.
pub async fn account(services: &Services, host: &HostProcess) -> anyhow::Result<String> {
    let hash = patchbay_app::people::hash_for_configuration(PASSWORD)?;
    let mut postgres = services.postgres().await?;
    // The host makes the table after it is up.
    let started = Instant::now();
    while !sqlx::query_scalar::<_, bool>("select to_regclass('users') is not null")
        .fetch_one(&mut postgres)
        .await?
    {
        ensure!(
            started.elapsed() < Duration::from_secs(30),
            "no table of accounts"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sqlx::query(
        r#"insert into users ("email", "password", "fullName", "isVerified", "isProfileComplete", "stage")
           values ($1, $2, 'Ada Lovelace', true, true, 3)"#,
    )
    .bind(EMAIL)
    .bind(hash)
    .execute(&mut postgres)
    .await?;
    log_in(host).await
}

async fn log_in(host: &HostProcess) -> anyhow::Result<String> {
    let body = json!({ "email": EMAIL, "password": PASSWORD });
    let answer: Value = host.post_json("/api/auth/login", &body).await?;
    let token = answer["token"].as_str();
    Ok(token.with_context(|| answer.to_string())?.to_owned())
}

pub async fn express(
    services: &Services,
    env: &[(&str, &str)],
) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new("node")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/interop/bench-api.mjs"
        ))
        .env("DATABASE_URL", &services.database_url)
        .env("REDIS_URL", &services.redis_url)
        .env("JWT_SECRET", JWT_SECRET)
        .env("NODE_ENV", "production")
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("node")?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let port = lines.next_line().await?.context("Express has ended")?;
    Ok((child, format!("127.0.0.1:{port}").parse()?))
}

/// Sends the request over and over on every connection; each must be answered with 200.
pub async fn load(side: SocketAddr, request: &str, lasts: Duration) -> anyhow::Result<Sample> {
    let started = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| tokio::spawn(client(side, request.to_owned(), started + lasts)))
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    let took = started.elapsed().as_secs_f64();
    ensure!(!times.is_empty(), "{side} has answered nothing");
    Ok(Sample {
        per_second: times.len() as f64 / took,
        p50_ms: percentile(times.clone(), 0.5),
        p99_ms: percentile(times, 0.99),
    })
}

/// As little as HTTP needs, so that the load takes little of the processors; milliseconds of each
/// request.
async fn client(side: SocketAddr, request: String, until: Instant) -> anyhow::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(side).await?;
    stream.set_nodelay(true)?;
    let (mut buffer, mut times) = (vec![0; 16 << 10], Vec::new());
    while Instant::now() < until {
        let started = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "{side} has closed a connection");
            filled += read;
            if is_whole(&buffer[..filled])? {
                break;
            }
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Whether this is a whole answer; an error if it is another than 200.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(false);
    };
    let text = std::str::from_utf8(&answer[..head])?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(answer.len() >= head + 4 + length.context("a content-length")?)
}
