//! `patchbay audit …`

mod keeping;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use patchbay_api::audit::{
    AuditAdopt, AuditEntries, AuditTrail, AuditTrailsInstall, AuditTrailsList, AuditTrailsRemove,
    AuditTrailsSet, AuditTrailsShow, EntriesQuery, TrailChange, TrailPath,
};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_model::shell::word;
use patchbay_model::trail_pack::TrailPack;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::input::point_in_time;
use super::output::Output;
use super::paging::Paging;
use super::refusal::{Consent, NotFound, Why};
use super::view::{short, time};

use self::keeping::{ExpireArgs, ExportArgs, ImportArgs, RetentionCommand};
pub use self::verify::{VerifyArgs, print_report};

#[derive(Subcommand)]
pub enum AuditCommand {
    /// List entries, the newest first
    List(Entries),
    /// Verify that no entry was changed, removed, added or moved
    Verify(VerifyArgs),
    /// Print the newest batch of each trail, to be kept outside of the database
    Anchor,
    /// Accept that entries are missing, because the database was restored from an older dump
    AcceptGap {
        /// Name of the trail
        trail: String,
        #[command(flatten)]
        why: Why,
    },
    /// Download entries as CSV to standard output
    Export(ExportArgs),
    /// Show and change how long entries are kept
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Delete entries that are older than their trail is kept
    Expire(ExpireArgs),
    /// Take over the old rows of a table of the old backend as entries
    Import(ImportArgs),
    /// Take over the rows of a trail's old table, and let nobody change them any more
    Adopt {
        /// Name of the trail
        trail: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Print the statements with which an administrator of the database keeps the host itself from
    /// changing entries
    Harden,
    /// Show and change the trails and the schemas of their entries
    #[command(subcommand)]
    Trail(TrailCommand),
}

#[derive(Args)]
pub struct Entries {
    /// Only entries of this trail
    #[arg(long)]
    trail: Option<String>,
    /// Only entries written by this plugin
    #[arg(long)]
    plugin: Option<String>,
    /// Only entries of jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only entries of the job with this id
    #[arg(long)]
    job: Option<String>,
    /// Only entries of this actor: id or name of a user or an operator, or a plugin
    #[arg(long)]
    actor: Option<String>,
    /// Only entries with this action, for example login
    #[arg(long)]
    action: Option<String>,
    /// Only entries about this, for example a plugin or a queue
    #[arg(long)]
    entity: Option<String>,
    /// Only entries written before then, in the same form as --since
    #[arg(long, value_parser = point_in_time)]
    until: Option<DateTime<Utc>>,
    /// Only entries written since then: a time such as 2026-11-24T00:00:00Z, or an age such as 90s,
    /// 30m, 24h or 7d
    #[arg(long, value_parser = point_in_time)]
    since: Option<DateTime<Utc>>,
    #[command(flatten)]
    much: Paging,
}

#[derive(Subcommand)]
pub enum TrailCommand {
    /// List the trails
    List,
    /// Show a trail: its schema, who may read it, and the old table that gets a copy
    Show {
        /// Name of the trail
        name: String,
    },
    /// Create a trail as a pack says, or replace what is said of it, for future entries
    Install {
        /// File with the pack, for example deploy/trails/gst_audit_log.json
        file: PathBuf,
        #[command(flatten)]
        why: Why,
    },
    /// Create a trail, or change it for future entries
    Set {
        /// Name of the trail, as in manifests
        name: String,
        /// File with the JSON Schema of its entries
        schema: PathBuf,
        /// Description in one line [default: the present one]
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Remove a trail: it accepts no more entries, and existing ones stay
    Remove {
        /// Name of the trail
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
}

impl AuditCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::List(_)
                | Self::Anchor
                | Self::Harden
                | Self::Retention(RetentionCommand::List)
                | Self::Trail(TrailCommand::List | TrailCommand::Show { .. })
        )
    }

    fn why(&self) -> Why {
        match self {
            Self::Trail(TrailCommand::Remove { consent, .. }) => consent.why.clone(),
            Self::Trail(TrailCommand::Set { why, .. } | TrailCommand::Install { why, .. }) => {
                why.clone()
            }
            Self::Adopt { consent, .. } => consent.why.clone(),
            Self::AcceptGap { why, .. } => why.clone(),
            Self::Retention(command) => command.why(),
            Self::Expire(args) => args.consent.why.clone(),
            Self::Import(args) => args.why.clone(),
            Self::Trail(TrailCommand::List | TrailCommand::Show { .. })
            | Self::List(_)
            | Self::Verify(_)
            | Self::Anchor
            | Self::Export(_)
            | Self::Harden => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: AuditCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let client = Client::from_args(args)?.because(&command.why());
    match command {
        AuditCommand::List(entries) => list(entries, &client, output).await?,
        AuditCommand::Trail(command) => trail(command, &client, output).await?,
        AuditCommand::Verify(args) => return verify::run(args, &client, output).await,
        AuditCommand::Anchor => verify::anchor(&client, output).await?,
        AuditCommand::AcceptGap { trail, .. } => {
            verify::accept_gap(trail, &client, output).await?;
        }
        AuditCommand::Export(args) => keeping::export(args, &client).await?,
        AuditCommand::Retention(command) => keeping::retention(command, &client, output).await?,
        AuditCommand::Expire(args) => keeping::expire(args, &client, output).await?,
        AuditCommand::Import(args) => keeping::import(args, &client, output).await?,
        AuditCommand::Adopt { trail, consent } => adopt(trail, &consent, &client, output).await?,
        AuditCommand::Harden => keeping::harden(&client, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(wanted: Entries, client: &Client, output: Output) -> anyhow::Result<()> {
    let query = |limit, cursor| EntriesQuery {
        trail: wanted.trail.clone(),
        plugin: wanted.plugin.clone(),
        queue: wanted.queue.clone(),
        job: wanted.job.clone(),
        actor: wanted.actor.clone(),
        action: wanted.action.clone(),
        entity: wanted.entity.clone(),
        since: wanted.since,
        until: wanted.until,
        cursor,
        limit: Some(limit),
    };
    let entries = wanted
        .much
        .ask::<AuditEntries, _>(client, &(), query)
        .await?;
    let rows = entries.items.iter().map(|entry| {
        let job = match (&entry.queue, &entry.job_id) {
            (Some(queue), Some(id)) => format!("{} {}", word(queue), word(id)),
            _ => "-".into(),
        };
        // The host writes what clients did through a plugin's routes.
        let is_written_by_plugin = entry.trail != patchbay_model::audit::ROUTES;
        let writer = match (&entry.plugin, &entry.revision) {
            (Some(plugin), Some(revision)) if is_written_by_plugin => {
                format!("{plugin} {}", short(revision))
            }
            _ => entry
                .actor_name
                .clone()
                .or_else(|| entry.actor_id.clone())
                .unwrap_or_else(|| "-".into()),
        };
        vec![
            output.when(entry.at),
            entry.trail.clone(),
            writer,
            entry.action.clone().unwrap_or_else(|| "-".into()),
            entry.entity.clone().unwrap_or_else(|| "-".into()),
            job,
            entry.entry_key.clone(),
            entry.entry.to_string(),
            entry.address.clone().unwrap_or_else(|| "-".into()),
        ]
    });
    let head = [
        "WHEN", "TRAIL", "WHO", "ACTION", "ABOUT", "JOB", "KEY", "ENTRY",
    ];
    output.list(
        &head,
        &["ADDRESS"],
        rows.collect(),
        &entries.raw,
        &entries.more(),
    );
    entries.note("row", output);
    Ok(())
}

fn or_dash(text: &str) -> String {
    match text {
        "" => "-".into(),
        text => text.to_owned(),
    }
}

/// The old table that gets a copy, with its state.
fn table_of(trail: &AuditTrail) -> String {
    match (&trail.projection, &trail.table_state) {
        (Some(to), Some(state)) => format!("{} ({state})", to.table),
        _ => "-".into(),
    }
}

fn described(trail: &AuditTrail) -> String {
    let fields = [
        &trail.fields.actor,
        &trail.fields.action,
        &trail.fields.entity,
    ];
    let [actor, action, entity] = fields.map(|field| field.as_deref().unwrap_or("-"));
    let schema = serde_json::to_string_pretty(&trail.schema).unwrap_or_default();
    format!(
        "{}: {}\nReaders: {}\nActor: {actor}  action: {action}  entity: {entity}  unique: {}\nTable: {}\nChanged: {} by {}\nSchema: {schema}",
        trail.name,
        trail.description,
        match trail.readers.as_slice() {
            [] => "operators only".to_owned(),
            readers => readers.join(", "),
        },
        or_dash(&trail.fields.unique.join(", ")),
        table_of(trail),
        time(trail.changed_at),
        trail.changed_by,
    )
}

fn read_pack(path: &Path) -> anyhow::Result<TrailPack> {
    let file =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&file).with_context(|| format!("{} is not a pack", path.display()))
}

async fn adopt(
    trail: String,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    if consent.is_missing() {
        let trails = client
            .ask::<AuditTrailsList>((), NoQuery {}, NoBody)
            .await?;
        let known = trails.data.iter().find(|known| known.name == trail);
        // Trails of the host's own are not in the list.
        let table = match known.and_then(|known| known.projection.as_ref()) {
            Some(projection) => projection.table.to_string(),
            None => format!("the old table of {trail}"),
        };
        consent.ask(&format!(
            "This makes the rows of {table} entries of {trail}, and refuses every change of the table but new rows. Do it when the old backend writes there no more"
        ))?;
    }
    let path = TrailPath {
        trail: trail.clone(),
    };
    let adopted = client.ask::<AuditAdopt>(path, NoQuery {}, NoBody).await?;
    let guarded = match adopted.data.was_guarded {
        true => "was guarded already",
        false => "takes nothing but new rows from now on",
    };
    output.done(
        &format!(
            "Adopted: {} of {} rows of {} are new entries of {trail}; the table {guarded}",
            adopted.data.added, adopted.data.read, adopted.data.table
        ),
        &adopted.raw,
    );
    Ok(())
}

async fn trail(command: TrailCommand, client: &Client, output: Output) -> anyhow::Result<()> {
    let none = NoQuery {};
    match command {
        TrailCommand::List => {
            let trails = client.ask::<AuditTrailsList>((), none, NoBody).await?;
            let rows = trails.data.iter().map(|trail| {
                vec![
                    trail.name.clone(),
                    trail.description.clone(),
                    or_dash(&trail.readers.join(", ")),
                    table_of(trail),
                    time(trail.changed_at),
                    trail.changed_by.clone(),
                    trail.schema.to_string(),
                ]
            });
            output.table(
                &[
                    "TRAIL",
                    "DESCRIPTION",
                    "READERS",
                    "TABLE",
                    "CHANGED",
                    "BY",
                    "SCHEMA",
                ],
                rows.collect(),
                &trails.raw,
            );
        }
        TrailCommand::Show { name } => {
            let path = TrailPath { trail: name };
            let shown = client.ask::<AuditTrailsShow>(path, none, NoBody).await?;
            output.value(&described(&shown.data), &shown.raw);
        }
        TrailCommand::Install { file, .. } => {
            let pack = read_pack(&file)?;
            let installed = client
                .ask::<AuditTrailsInstall>((), none, Json(pack))
                .await?;
            let trail = &installed.data.trail;
            let table = match (&trail.projection, installed.data.table_made) {
                (Some(to), true) => format!(
                    "; the table {} was made, and takes nothing but new rows",
                    to.table
                ),
                (Some(to), false) => format!("; its entries are also written to {}", to.table),
                (None, _) => String::new(),
            };
            output.done(
                &format!("Installed: audit trail {}{table}", trail.name),
                &installed.raw,
            );
        }
        TrailCommand::Set {
            name,
            schema,
            description,
            ..
        } => {
            let file = std::fs::read_to_string(&schema)
                .with_context(|| format!("cannot read {}", schema.display()))?;
            let schema: Value = serde_json::from_str(&file)
                .with_context(|| format!("{} is not JSON", schema.display()))?;
            let path = TrailPath {
                trail: name.clone(),
            };
            let trail = client
                .ask::<AuditTrailsSet>(
                    path,
                    none,
                    Json(TrailChange {
                        schema,
                        description,
                    }),
                )
                .await?;
            output.done(
                &format!("Changed: new entries of {name} must fit the schema"),
                &trail.raw,
            );
        }
        TrailCommand::Remove { name, consent } => {
            let trails = client.ask::<AuditTrailsList>((), none, NoBody).await?;
            if !trails.data.iter().any(|trail| trail.name == name) {
                return Err(NotFound(format!(
                    "No audit trail is called {name}. See: patchbay audit trail list"
                ))
                .into());
            }
            consent.ask(&format!(
                "This removes audit trail {name}: plugins cannot append to it any more. Its entries are kept"
            ))?;
            client
                .ask::<AuditTrailsRemove>(
                    TrailPath {
                        trail: name.clone(),
                    },
                    none,
                    NoBody,
                )
                .await?;
            output.done(
                &format!("Removed: audit trail {name}. Its entries are kept"),
                &json!({ "name": name }),
            );
        }
    }
    Ok(())
}
