//! A start with many plugins whose compiled code is cached.

use std::time::Duration;

use crate::email;
use crate::host_process::{HostProcess, Services};
use crate::statistics::{Spread, verdict};

const PLUGINS: usize = 20;

pub async fn run(pairs: usize) -> anyhow::Result<()> {
    let services = Services::fresh("many_plugins").await?;
    let dir = tempfile::tempdir()?;
    let start = || HostProcess::start(&services, dir.path(), &[], "/readyz");
    let host = start().await?;
    let mut bytes = 0;
    for n in 0..PLUGINS {
        let plugin = format!("email{n}");
        let component = email::revision(&plugin, &format!("emailQueue{n}"), 0)?;
        bytes = component.len();
        let digest = host.push(component).await?;
        host.activate(&plugin, &digest).await?;
    }
    host.kill().await?;

    let (mut starts, mut memory) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let host = start().await?;
        let until_ready = host.until_up;
        tokio::time::sleep(Duration::from_secs(1)).await;
        if pair > 0 {
            starts.push(until_ready.as_secs_f64() * 1e3);
            memory.push(host.resident_mib()?);
        }
        host.kill().await?;
    }
    let (starts, memory) = (Spread::of(starts), Spread::of(memory));
    println!(
        "the process, with {PLUGINS} active plugins of {} KiB and a warm cache",
        bytes >> 10
    );
    println!(
        "  start to ready: {starts} ms  {}",
        verdict(starts.median, 500.0, false)
    );
    println!("  resident when idle: {memory} MiB");
    Ok(())
}
