//! Other BullMQ clients on the host's queues: every check of tests/interop/checks.json, in both
//! directions, per client.
//!
//! One test and one host per client. The client's driver runs all checks at once, each on its own
//! queue, and prints one JSON line per check. When a check needs the host to be killed or started,
//! the driver asks for it. A feature that a client lacks is reported as such, and is not a failure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use patchbay_model::manifest::Manifest;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::harness::{Host, PASSWORD, USER, World, hostile_component};

/// For all checks of one client; each check has a shorter limit in the driver.
const LIMIT: Duration = Duration::from_secs(150);
/// Short locks, so that a killed worker is noticed soon.
const HOST: [(&str, &str); 2] = [
    ("PATCHBAY_WORK_LOCK_S", "4"),
    ("PATCHBAY_WORK_RENEW_S", "1"),
];

#[derive(Deserialize)]
struct Check {
    name: String,
    says: String,
    /// Whether the host works on the queue of this name.
    #[serde(default = "yes")]
    worked: bool,
    #[serde(default = "eight")]
    concurrency: u32,
}

fn yes() -> bool {
    true
}

fn eight() -> u32 {
    8
}

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}

fn checks() -> anyhow::Result<Vec<Check>> {
    Ok(serde_json::from_slice(&std::fs::read(
        interop().join("checks.json"),
    )?)?)
}

/// The test guest with one queue per check, and a deadline long enough to be killed before it.
fn plugin(checks: &[Check]) -> anyhow::Result<Vec<u8>> {
    let mut manifest = String::from(
        "name = \"hostile\"\nversion = \"0.1.0\"\nwit = \"0.1\"\ndescription = \"Works the checks (tests)\"\n\n[limits]\nmemory_mb = 64\ndeadline_ms = 60_000\n\n[kv]\n",
    );
    manifest.push_str("\n[[secrets]]\nname = \"TOKEN\"\n\n[enqueue]\nqueues = [\"otherQueue\"]\n");
    manifest.push_str(
        "\n[[egress]]\nurl = \"http://127.0.0.1:9/**\"\nmethods = [\"GET\"]\nallow_addresses = [\"127.0.0.0/8\"]\n",
    );
    for check in checks.iter().filter(|check| check.worked) {
        manifest.push_str(&format!(
            "\n[[queues]]\nname = \"{}\"\nconcurrency = {}\nattempts = 1\n",
            check.name, check.concurrency
        ));
    }
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(&hostile_component()?, &manifest)?)
}

async fn start(world: &World) -> anyhow::Result<Host> {
    world.host(&HOST).await
}

/// Runs a client's driver to its end, and checks the result of each check.
async fn run(client: &str, program: &[&str]) -> anyhow::Result<()> {
    let checks = checks()?;
    let world = World::new().await?;
    let mut host = start(&world).await?;
    host.deploy("hostile", plugin(&checks)?).await?;
    let (command, arguments) = program.split_first().context("a program")?;
    let mut driver = Command::new(command)
        .args(arguments)
        .current_dir(interop())
        .env("REDIS_URL", &world.redis_url)
        .env("PREFIX", &world.prefix)
        .env("HOST_URL", &host.url)
        .env("HOST_USER", USER)
        .env("HOST_PASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{command}: run `scripts/setup test`"))?;
    let mut answers = driver.stdin.take().context("stdin")?;
    let mut lines = BufReader::new(driver.stdout.take().context("stdout")?).lines();
    let mut verdicts = BTreeMap::new();
    let all = async {
        while let Some(line) = lines.next_line().await? {
            let line: Value = serde_json::from_str(&line)
                .with_context(|| format!("the driver printed {line:?}"))?;
            match line["ask"].as_str() {
                Some("kill-host") => host.child.kill().await?,
                Some("start-host") => host = start(&world).await?,
                Some(other) => anyhow::bail!("the driver asks for {other:?}"),
                None => {
                    let name = line["check"].as_str().context("a check's name")?.to_owned();
                    verdicts.insert(name, line);
                    continue;
                }
            }
            answers.write_all(b"done\n").await?;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, all)
        .await
        .with_context(|| format!("{client}: not done within {LIMIT:?}"))??;
    report(client, &checks, &verdicts)
}

fn report(
    client: &str,
    checks: &[Check],
    verdicts: &BTreeMap<String, Value>,
) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    println!("| check | {client} |\n|---|---|");
    for check in checks {
        let verdict = verdicts
            .get(&check.name)
            .with_context(|| format!("{client} gave no verdict on {}", check.name));
        let verdict = verdict?;
        let (word, reason) = (
            verdict["verdict"].as_str().unwrap_or("failed"),
            verdict["reason"].as_str(),
        );
        println!(
            "| {}: {} | {word}{} |",
            check.name,
            check.says,
            reason.map_or_else(String::new, |reason| format!(
                ": {}",
                reason.replace('\n', " ")
            ))
        );
        if word == "failed" {
            failed.push(format!("{}: {}", check.name, reason.unwrap_or("no reason")));
        }
    }
    ensure!(
        failed.is_empty(),
        "{client}: {} failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    Ok(())
}

#[tokio::test]
async fn npm_bullmq_6_and_the_host_understand_each_other() -> anyhow::Result<()> {
    run("npm bullmq 6.7", &["node", "client.mjs", "bullmq"]).await
}

#[tokio::test]
async fn npm_bullmq_5_and_the_host_understand_each_other() -> anyhow::Result<()> {
    run("npm bullmq 5.81", &["node", "client.mjs", "bullmq5"]).await
}

#[tokio::test]
async fn pypi_bullmq_and_the_host_understand_each_other() -> anyhow::Result<()> {
    run("PyPI bullmq 3.4", &[".venv/bin/python", "client.py"]).await
}
