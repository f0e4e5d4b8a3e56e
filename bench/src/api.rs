//! The API of clients beside an Express app that does the same work with the same caching: the
//! health check, and a route that needs an access token.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::host_process::{HostProcess, Services};
use crate::load;
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
    express_app("bench-api.mjs", services, env).await
}

/// Runs a file of `tests/interop` that prints its port.
pub async fn express_app(
    file: &str,
    services: &Services,
    env: &[(&str, &str)],
) -> anyhow::Result<(Child, SocketAddr)> {
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/interop");
    let mut child = Command::new("node")
        .arg(format!("{files}/{file}"))
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
    let request = request.as_bytes().to_vec();
    let (answered, took) = load::apart(move || {
        Box::pin(async move {
            let started = Instant::now();
            let next = move || request.clone();
            let answered = load::as_fast_as_possible(side, CONNECTIONS, lasts, next).await?;
            Ok((answered, started.elapsed().as_secs_f64()))
        })
    })
    .await?;
    if let Some(other) = answered.iter().find(|one| one.status != 200) {
        bail!("{side} has answered {}", other.status);
    }
    let times: Vec<f64> = answered.iter().map(|one| one.ms).collect();
    Ok(Sample {
        per_second: times.len() as f64 / took,
        p50_ms: percentile(times.clone(), 0.5),
        p99_ms: percentile(times, 0.99),
    })
}
