//! `patchbay audit …`

use std::path::PathBuf;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use patchbay_api::path::{api_path, with_query};
use patchbay_model::shell::word;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::input::duration;
use super::output::Output;
use super::refusal::{NotThere, confirmed};
use super::view::{items, short, text};

#[derive(Subcommand)]
pub enum AuditCommand {
    /// List what plugins have written, the newest first
    List(Which),
    /// The trails that there are, and what their entries must look like
    #[command(subcommand)]
    Trail(TrailCommand),
}

#[derive(Args)]
pub struct Which {
    /// Of this trail
    #[arg(long)]
    trail: Option<String>,
    /// Written by this plugin
    #[arg(long)]
    plugin: Option<String>,
    /// Of jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of the job with this id
    #[arg(long)]
    job: Option<String>,
    /// Written since then: a time such as 2026-11-24T00:00:00Z, or as long ago as 90s, 30m, 24h or 7d
    #[arg(long, value_parser = since)]
    since: Option<DateTime<Utc>>,
    /// All of them, page by page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// At most so many, 1 to 200
    #[arg(long, default_value_t = 50)]
    limit: u16,
}

#[derive(Subcommand)]
pub enum TrailCommand {
    /// List the trails
    List,
    /// Make a trail, or change it for entries to come
    Set {
        /// Its name, as manifests call it
        name: String,
        /// A file with the JSON Schema of its entries
        schema: PathBuf,
        /// One line for lists [default: as it is]
        #[arg(long)]
        description: Option<String>,
    },
    /// Take no more entries; those that are there stay
    Remove {
        /// Which
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let ago =
        duration(text).map_err(|_| "not a time such as 2026-11-24T00:00:00Z, nor 90s, 30m, 24h or 7d".to_owned())?;
    Utc::now()
        .checked_sub_signed(chrono::Duration::from_std(ago).map_err(|error| error.to_string())?)
        .ok_or_else(|| "too long ago".into())
}

pub(crate) async fn run(command: AuditCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        AuditCommand::List(which) => list(which, &client, output).await,
        AuditCommand::Trail(command) => trail(command, &client, output).await,
    }
}

async fn list(which: Which, client: &Client, output: Output) -> anyhow::Result<()> {
    let limit = if which.all { 200 } else { which.limit }.to_string();
    let since = which.since.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
    let query = [
        ("limit", Some(limit)),
        ("trail", which.trail),
        ("plugin", which.plugin),
        ("queue", which.queue),
        ("job", which.job),
        ("since", since),
    ];
    let path = with_query("audit", query.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let entries = if which.all { client.all(&path).await? } else { client.call(Method::GET, &path, None).await? };
    let rows = items(&entries).map(|entry| {
        let job = match (entry["queue"].as_str(), entry["jobId"].as_str()) {
            (Some(queue), Some(id)) => format!("{} {}", word(queue), word(id)),
            _ => "-".into(),
        };
        let writer = format!("{} {}", text(entry, "plugin"), short(&text(entry, "revision")));
        vec![text(entry, "at"), text(entry, "trail"), writer, job, text(entry, "entryKey"), entry["entry"].to_string()]
    });
    output.table(&["AT", "TRAIL", "PLUGIN", "JOB", "KEY", "ENTRY"], rows.collect(), &entries);
    Ok(())
}

async fn trail(command: TrailCommand, client: &Client, output: Output) -> anyhow::Result<()> {
    let path = |name: &str| api_path(&["audit", "trails", name]);
    match command {
        TrailCommand::List => {
            let trails = client.call(Method::GET, "audit/trails", None).await?;
            let rows = items(&trails).map(|trail| {
                vec![
                    text(trail, "name"),
                    text(trail, "description"),
                    text(trail, "changedAt"),
                    text(trail, "changedBy"),
                    trail["schema"].to_string(),
                ]
            });
            output.table(&["TRAIL", "DESCRIPTION", "CHANGED", "BY", "SCHEMA"], rows.collect(), &trails);
        }
        TrailCommand::Set { name, schema, description } => {
            let file = std::fs::read_to_string(&schema).with_context(|| format!("cannot read {}", schema.display()))?;
            let schema: Value =
                serde_json::from_str(&file).with_context(|| format!("{} is not JSON", schema.display()))?;
            let mut body = json!({ "schema": schema });
            if let Some(description) = description {
                body["description"] = description.into();
            }
            let trail = client.call(Method::PUT, &path(&name), Some(body)).await?;
            output.value(&format!("{name}: entries from now on must fit that schema"), &trail);
        }
        TrailCommand::Remove { name, yes } => {
            let trails = client.call(Method::GET, "audit/trails", None).await?;
            if !items(&trails).any(|trail| trail["name"] == name.as_str()) {
                return Err(NotThere(format!("there is no audit trail {name}; see: patchbay audit trail list")).into());
            }
            confirmed(yes, &format!("plugins could not append to {name} any more"))?;
            client.call(Method::DELETE, &path(&name), None).await?;
            output.value(&format!("{name} takes no more entries; those that are there stay"), &json!({ "name": name }));
        }
    }
    Ok(())
}
