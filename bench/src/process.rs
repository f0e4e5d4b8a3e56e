//! The host as a process: memory when idle, how long until it is healthy, and what many queues cost, beside Node.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use patchbay_model::manifest::Manifest;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::statistics::{Spread, verdict};
use crate::world::{Node, World};

const QUEUES: usize = 40;
const MANIFEST: &str = include_str!("../../tests/guests/hostile/plugin.toml");

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    // The first start compiles the plugin and fills the cache.
    activate(world, std::fs::read(world.guest_file.path())?).await?.kill().await?;

    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        let (mut host, _, until_healthy) = start(world).await?;
        starts.push(until_healthy.as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        memory.push(resident_mib(host.id().context("running")?)?);
        host.kill().await?;
    }
    let (starts, memory) = (Spread::of(starts), Spread::of(memory));
    println!("the process, with one active plugin and a warm cache");
    println!("  start to healthy: {starts} ms  {}", verdict(starts.median, 500.0, false));
    println!("  resident when idle: {memory} MiB  {}", verdict(memory.median, 80.0, false));
    many_queues(world).await
}

/// One process that works on [`QUEUES`] queues, ours and Node's.
async fn many_queues(world: &World) -> anyhow::Result<()> {
    let queues: String = (1..QUEUES).map(|n| format!("\n[[queues]]\nname = \"queue{n}\"\n")).collect();
    let text = MANIFEST.to_owned() + &queues;
    let manifest = Manifest::from_toml(&text, |file| Err(format!("{file} is not expected")))?;
    let component = std::fs::read(std::env::var("PATCHBAY_BENCH_COMPONENT").context("run this with `make bench`")?)?;
    let host = activate(world, patchbay_runtime::pack(&component, &manifest)?).await?;
    let mut node = Node::start(&world.redis_url)?;
    node.tell(&format!("idle {QUEUES} {QUEUES}")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("a process that works on {QUEUES} idle queues");
    for (who, pid) in [("ours", host.id().context("running")?), ("node", node.id()?)] {
        println!("  {who}: {} sockets, {:.0} MiB resident", sockets(pid)?, resident_mib(pid)?);
    }
    Ok(())
}

/// Of a process, open now.
fn sockets(pid: u32) -> anyhow::Result<usize> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    Ok(targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
}

/// A host on which this file is the active revision.
async fn activate(world: &World, component: Vec<u8>) -> anyhow::Result<Child> {
    let (host, url, _) = start(world).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let push = http.post(format!("{url}/api/admin/plugins")).basic_auth("bench", Some("bench")).body(component);
    let staged: serde_json::Value = serde_json::from_str(&push.send().await?.text().await?)?;
    let digest = staged["data"]["digest"].as_str().with_context(|| staged.to_string())?;
    let activate = http.post(format!("{url}/api/admin/plugins/hostile/activate")).basic_auth("bench", Some("bench"));
    let body = serde_json::json!({ "digest": digest, "grant": true }).to_string();
    activate.header("content-type", "application/json").body(body).send().await?.error_for_status()?;
    Ok(host)
}

async fn start(world: &World) -> anyhow::Result<(Child, String, Duration)> {
    let binary = std::env::current_exe()?.with_file_name("host");
    let started = Instant::now();
    let mut host = Command::new(binary)
        .arg("serve")
        .env_clear()
        .env("DATABASE_URL", &world.database_url)
        .env("REDIS_URL", &world.redis_url)
        .env("BULL_BOARD_USERNAME", "bench")
        .env("BULL_BOARD_PASSWORD", "bench")
        .env("PATCHBAY_HTTP_LISTEN", "127.0.0.1:0")
        .env("PATCHBAY_LOG_FORMAT", "json")
        .env("PATCHBAY_RUNTIME_CACHE_DIR", world.dir.path().join("host-cache"))
        .current_dir(world.dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(host.stdout.take().context("stdout")?).lines();
    let url = loop {
        let line = lines.next_line().await?.context("the host ended")?;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if line["message"] == "patchbay is up" {
            break format!("http://{}", line["address"].as_str().context("an address")?);
        }
    };
    // Its log must go somewhere.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let http = reqwest::Client::builder().no_proxy().build()?;
    loop {
        if http.get(format!("{url}/api/health")).send().await.is_ok_and(|response| response.status() == 200) {
            return Ok((host, url, started.elapsed()));
        }
        if started.elapsed() > Duration::from_secs(30) {
            bail!("the host does not become healthy");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
