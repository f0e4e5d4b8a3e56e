//! The same generated programs run on BullMQ's own worker and on the host. A difference is a bug,
//! unless docs/operations/features.md lists it.
//!
//! The programs, both sides and the comparison are in tests/interop/differential.mjs; this file has
//! the host, the seed and the check of the result.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use patchbay_model::manifest::Manifest;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{PASSWORD, USER, World, full_length, hostile_component, repository, seed};

/// Queues on which programs run concurrently; each queue runs one program at a time.
const LANES: usize = 8;
const PROGRAMS: u32 = 100;
/// For `make chaos`.
const PROGRAMS_AT_FULL_LENGTH: u32 = 3_000;

fn plugin() -> anyhow::Result<Vec<u8>> {
    let mut manifest =
        std::fs::read_to_string(repository().join("tests/guests/hostile/plugin.toml"))?;
    for lane in 0..LANES {
        // One job at a time, so that their order is the queue's.
        manifest.push_str(&format!(
            "\n[[queues]]\nname = \"lane-{lane}\"\nconcurrency = 1\n"
        ));
    }
    let manifest = manifest.replace("deadline_ms = 200", "deadline_ms = 10_000");
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(&hostile_component()?, &manifest)?)
}

#[tokio::test]
async fn bullmqs_own_worker_and_the_hosts_work_the_same_programs_alike() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", plugin()?).await?;
    let programs = if full_length() {
        PROGRAMS_AT_FULL_LENGTH
    } else {
        PROGRAMS
    };
    // The short form always runs the same programs. A new difference is found at full length only,
    // so it does not block unrelated changes.
    let is_drawn = full_length() || std::env::var_os("PATCHBAY_TEST_SEED").is_some();
    let seed = if is_drawn { seed() } else { 1 };
    let driver = Command::new("node")
        .args(["differential.mjs", "bullmq"])
        .current_dir(repository().join("tests/interop"))
        .env("REDIS_URL", &world.redis_url)
        .env("PREFIX", &world.prefix)
        .env("HOST_URL", &host.url)
        .env("HOST_USER", USER)
        .env("HOST_PASSWORD", PASSWORD)
        .env("SEED", seed.to_string())
        .env("PROGRAMS", programs.to_string())
        .env("LANES", LANES.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    // A program takes a quarter of a second on a lane; a loaded machine takes longer.
    let limit = Duration::from_secs(120 + u64::from(programs));
    let output = tokio::time::timeout(limit, driver)
        .await
        .with_context(|| format!("not done within {limit:?}"))??;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let (last, differing) = told
        .trim_end()
        .rsplit_once('\n')
        .map_or((told.trim_end(), ""), |(all, last)| (last, all));
    let summary: Value =
        serde_json::from_str(last).with_context(|| format!("the driver printed {told:?}"))?;
    println!("{summary}");
    ensure!(
        differing.is_empty() && summary["differing"] == 0,
        "they differ:\n{differing}\n{summary}"
    );
    ensure!(summary["programs"] == programs, "{summary}");
    let documented =
        std::fs::read_to_string(repository().join("docs/operations/features.md"))?.to_lowercase();
    for named in summary["onPurpose"].as_array().context("names")? {
        let named = named.as_str().context("a name")?;
        ensure!(
            documented.contains(named),
            "docs/operations/features.md does not say what differs on purpose: {named}"
        );
    }
    Ok(())
}
