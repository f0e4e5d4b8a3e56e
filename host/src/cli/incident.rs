//! `patchbay incident …`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{Client, ClientArgs, ClientError};
use super::doctor;
use super::output::Output;
use super::secret::duration;
use crate::config::Config;
use crate::http::with_query;
use crate::incident::{Part, Title, archive, contents, plain};

#[derive(Subcommand)]
pub(super) enum IncidentCommand {
    /// Write one archive with versions, configuration, health, metrics, queues, plugins, recent failures and actions, and the host's
    /// last log lines; no secrets, no jobs' data
    Bundle(Bundle),
}

#[derive(Args)]
pub(super) struct Bundle {
    /// Where to; must not exist [default: patchbay-incident-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How far back failures and actions go, for example 30m or 6h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    since: Duration,
}

pub(super) async fn run(
    command: IncidentCommand,
    args: &ClientArgs,
    file: Option<&Path>,
    output: Output,
) -> anyhow::Result<()> {
    let IncidentCommand::Bundle(Bundle { out, since }) = command;
    let client = Client::from_args(args)?;
    let now = Utc::now();
    let out = out.unwrap_or_else(|| format!("patchbay-incident-{}.tar.gz", now.format("%Y%m%dT%H%M%SZ")).into());
    match client.bytes(&with_query("incident", [("since_s", since.as_secs().to_string())])).await {
        Ok(packed) => write(&out, &packed, output),
        Err(error @ ClientError::Unreachable { .. }) => {
            let title =
                Title { by: "the command line, since no host answered".into(), at: now, since: "not at all".into() };
            write(&out, &archive(&title, &without_host(file, &error).await)?, output)?;
            eprintln!(
                "No host answered: the bundle holds only what this machine can see.\n\
                 Look at the host's own log (`journalctl -u patchbay`, or the container's), and at `patchbay doctor` on its machine."
            );
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// What can be seen from here.
async fn without_host(file: Option<&Path>, error: &ClientError) -> Vec<Part> {
    let (config, problems) = Config::read_process(file);
    let shown: Vec<_> = config
        .shown()
        .into_iter()
        .filter_map(|shown| Some(json!({ "key": shown.key, "value": plain(&shown.value?), "source": shown.source })))
        .collect();
    let problems: Vec<String> = problems.iter().map(|problem| plain(problem)).collect();
    let findings = if problems.is_empty() {
        let mut findings = serde_json::to_value(doctor::examine(&config).await).unwrap_or_default();
        for finding in findings.as_array_mut().into_iter().flatten() {
            for name in ["message", "mend"] {
                if let Some(text) = finding[name].as_str() {
                    finding[name] = plain(text).into();
                }
            }
        }
        Ok(findings)
    } else {
        Err("the configuration cannot be used; see config.json".into())
    };
    let versions = json!({ "commandLine": env!("CARGO_PKG_VERSION"), "host": plain(&error.to_string()) });
    vec![
        Part::json("versions.json", "of this command; no host answered", Ok(versions)),
        Part::json(
            "config.json",
            "every key that is set here, secrets as (set), and what is wrong",
            Ok(json!({ "keys": shown, "problems": problems })),
        ),
        Part::json("doctor.json", "what `patchbay doctor` finds here", findings),
    ]
}

/// For its owner only; never over another file.
fn write(out: &Path, packed: &[u8], output: Output) -> anyhow::Result<()> {
    let entries = contents(packed).context("the host did not answer with a bundle")?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out);
    file.and_then(|mut file| file.write_all(packed)).with_context(|| format!("cannot write {}", out.display()))?;
    let rows = entries.iter().map(|entry| {
        let size = entry.bytes.map_or_else(|| "missing".to_owned(), |bytes| bytes.to_string());
        let missing = entry.missing.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        vec![entry.name.clone(), size, format!("{}{missing}", entry.about)]
    });
    output.table(&["FILE", "BYTES", "WHAT"], rows.collect(), &json!({ "file": out, "contents": entries }));
    if !output.json {
        println!("written: {} ({} bytes)", out.display(), packed.len());
    }
    Ok(())
}
