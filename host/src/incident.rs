//! `patchbay incident …`, and what a host adds to a bundle.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use clap::{Args, Subcommand};
use futures::FutureExt;
use patchbay_api::incident::{IncidentBundle, IncidentQuery};
use patchbay_app::incident::{BundleFile, Sources, Title, archive, contents};
use patchbay_cli::client::{Client, ClientArgs, ClientError};
use patchbay_cli::{Output, duration};
use patchbay_telemetry::Logging;
use serde_json::json;

use crate::config::Config;
use crate::doctor;

#[derive(Subcommand)]
pub(crate) enum IncidentCommand {
    /// Write one archive with versions, configuration, health, metrics, queues, plugins, recent
    /// failures and actions, and the host's last log lines; no secrets, no jobs' data
    Bundle(Bundle),
}

#[derive(Args)]
pub(crate) struct Bundle {
    /// Archive to write; must not exist [default: patchbay-incident-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How far back failures and actions go, for example 30m or 6h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    since: Duration,
}

/// `seen_here` returns what is visible from this machine when no host answers.
pub(crate) async fn run(
    command: IncidentCommand,
    args: &ClientArgs,
    seen_here: impl AsyncFnOnce(&ClientError) -> Vec<BundleFile>,
    output: Output,
) -> anyhow::Result<()> {
    let IncidentCommand::Bundle(Bundle { out, since }) = command;
    let client = Client::from_args(args)?;
    let now = Utc::now();
    let out = out.unwrap_or_else(|| {
        format!("patchbay-incident-{}.tar.gz", now.format("%Y%m%dT%H%M%SZ")).into()
    });
    let query = IncidentQuery {
        since_s: Some(since.as_secs()),
    };
    match client.ask_for_file::<IncidentBundle>((), query).await {
        Ok(packed) => write(&out, &packed, output),
        Err(error @ ClientError::Unreachable { .. }) => {
            let title = Title {
                by: "the command line, since no host answered".into(),
                at: now,
                since: "not at all".into(),
            };
            write(&out, &archive(&title, &seen_here(&error).await)?, output)?;
            eprintln!(
                "No host answered: the bundle holds only what this machine can see.\n\
                 Look at the host's own log (`journalctl -u patchbay`, or the container's), and at `patchbay doctor` on its machine."
            );
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Only the owner can read the file. Never overwrites another file.
fn write(out: &Path, packed: &[u8], output: Output) -> anyhow::Result<()> {
    let entries = contents(packed).context("the host did not answer with a bundle")?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out);
    file.and_then(|mut file| file.write_all(packed))
        .with_context(|| format!("cannot write {}", out.display()))?;
    let rows = entries.iter().map(|entry| {
        let size = entry
            .bytes
            .map_or_else(|| "missing".to_owned(), |bytes| bytes.to_string());
        let missing = entry
            .missing
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        vec![
            entry.name.clone(),
            size,
            format!("{}{missing}", entry.about),
        ]
    });
    output.table(
        &["FILE", "BYTES", "WHAT"],
        rows.collect(),
        &json!({ "file": out, "contents": entries }),
    );
    output.note(&format!(
        "Written: {} ({} bytes)",
        out.display(),
        packed.len()
    ));
    Ok(())
}

/// What a host adds to its bundle: its configuration, what `patchbay doctor` finds, and its log.
pub(crate) fn sources(config: &Arc<Config>, logging: &Logging) -> Sources {
    let set = config
        .entries()
        .into_iter()
        .filter(|entry| entry.value.is_some());
    let configuration = set
        .map(|entry| json!({ "key": entry.key, "value": entry.value, "source": entry.source }))
        .collect();
    let config = Arc::clone(config);
    let findings = move || {
        let config = Arc::clone(&config);
        async move { serde_json::to_value(doctor::examine(&config).await).unwrap_or_default() }
            .boxed()
    };
    Sources {
        configuration,
        findings: Box::new(findings),
        lines: logging.lines.clone(),
    }
}
