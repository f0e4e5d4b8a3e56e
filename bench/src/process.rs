//! The host as a process: memory when idle, how long until it is healthy, and what many queues
//! cost, beside Node.

use std::time::Duration;

use patchbay_model::manifest::Manifest;

use crate::environment;
use crate::host_process::{HostProcess, Services, resident_mib};
use crate::statistics::{Spread, verdict};
use crate::world::{Node, World};

const QUEUES: usize = 40;
const MANIFEST: &str = include_str!("../../tests/guests/hostile/plugin.toml");

pub async fn run(world: &World, pairs: usize) -> anyhow::Result<()> {
    // The first start compiles the plugin and fills the cache.
    activate(world, std::fs::read(world.guest_file.path())?)
        .await?
        .kill()
        .await?;

    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        let host = start(world).await?;
        starts.push(host.until_up.as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        memory.push(host.resident_mib()?);
        host.kill().await?;
    }
    let (starts, memory) = (Spread::of(starts), Spread::of(memory));
    println!("the process, with one active plugin and a warm cache");
    println!(
        "  start to healthy: {starts} ms  {}",
        verdict(starts.median, 500.0, false)
    );
    println!(
        "  resident when idle: {memory} MiB  {}",
        verdict(memory.median, 80.0, false)
    );
    many_queues(world).await
}

/// One process that works on [`QUEUES`] queues, ours and Node's.
async fn many_queues(world: &World) -> anyhow::Result<()> {
    let queues: String = (1..QUEUES)
        .map(|n| format!("\n[[queues]]\nname = \"queue{n}\"\n"))
        .collect();
    let text = MANIFEST.to_owned() + &queues;
    let manifest = Manifest::from_toml(&text, |file| Err(format!("{file} is not expected")))?;
    let component = std::fs::read(environment("PATCHBAY_BENCH_COMPONENT")?)?;
    let host = activate(world, patchbay_runtime::pack(&component, &manifest)?).await?;
    let mut node = Node::start(&world.redis_url)?;
    node.tell(&format!("idle {QUEUES} {QUEUES}")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("a process that works on {QUEUES} idle queues");
    for (who, pid) in [("ours", host.pid()?), ("node", node.id()?)] {
        println!(
            "  {who}: {} sockets, {:.0} MiB resident",
            sockets(pid)?,
            resident_mib(pid)?
        );
    }
    Ok(())
}

/// Of a process, open now.
fn sockets(pid: u32) -> anyhow::Result<usize> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    Ok(targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count())
}

/// A host on which this file is the active revision.
async fn activate(world: &World, component: Vec<u8>) -> anyhow::Result<HostProcess> {
    let host = start(world).await?;
    let digest = host.push(component).await?;
    host.activate("hostile", &digest).await?;
    Ok(host)
}

async fn start(world: &World) -> anyhow::Result<HostProcess> {
    let services = Services {
        database_url: world.database_url.clone(),
        redis_url: world.redis_url.clone(),
    };
    HostProcess::start(&services, world.dir.path(), &[], "/api/health").await
}
