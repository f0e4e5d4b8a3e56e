//! `patchbay audit export`, `retention`, `expire`, `import` and `harden`.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use futures::StreamExt;
use patchbay_api::audit::{
    AuditExpire, AuditExport, AuditImport, AuditProtection, AuditRetentionList,
    AuditRetentionReset, AuditRetentionSet, ImportRequest, RetentionChange, TrailPath,
};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::{filled, with_query};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::Client;
use crate::input::point_in_time;
use crate::output::Output;
use crate::refusal::{Consent, Why};
use crate::view::time;

/// A download can take far longer than an ordinary request.
const EXPORT_LIMIT: Duration = Duration::from_secs(24 * 3_600);

#[derive(Args)]
pub struct ExportArgs {
    /// Only entries of this trail
    #[arg(long)]
    trail: Option<String>,
    /// Only entries of this actor: id or name of a user or an operator, or a plugin
    #[arg(long)]
    actor: Option<String>,
    /// Only entries with this action, for example login
    #[arg(long)]
    action: Option<String>,
    /// Only entries about this
    #[arg(long)]
    entity: Option<String>,
    /// Only entries written since then: a time, or an age such as 30m, 24h or 7d
    #[arg(long, value_parser = point_in_time)]
    since: Option<DateTime<Utc>>,
    /// Only entries written before then, in the same form
    #[arg(long, value_parser = point_in_time)]
    until: Option<DateTime<Utc>>,
}

#[derive(Subcommand)]
pub enum RetentionCommand {
    /// List the trails whose entries are not kept for ever
    List,
    /// Say how long the entries of a trail are kept; nothing is deleted by this
    Set {
        /// Name of the trail
        trail: String,
        /// In days, at least 90
        #[arg(long)]
        days: i32,
        #[command(flatten)]
        why: Why,
    },
    /// Keep the entries of a trail for ever again
    Reset {
        /// Name of the trail
        trail: String,
        #[command(flatten)]
        why: Why,
    },
}

impl RetentionCommand {
    pub(super) fn why(&self) -> Why {
        match self {
            Self::List => Why::default(),
            Self::Set { why, .. } | Self::Reset { why, .. } => why.clone(),
        }
    }
}

#[derive(Args)]
pub struct ExpireArgs {
    /// Name of the trail
    trail: String,
    #[command(flatten)]
    pub(super) consent: Consent,
}

#[derive(Args)]
pub struct ImportArgs {
    /// Name of the trail
    trail: String,
    /// The table, as SCHEMA.TABLE [default: public. and the trail's name]
    #[arg(long)]
    table: Option<String>,
    /// Column with the primary key of the table [default: id]
    #[arg(long)]
    id_column: Option<String>,
    #[command(flatten)]
    pub(super) why: Why,
}

pub(super) async fn export(args: ExportArgs, client: &Client) -> anyhow::Result<()> {
    let at = |at: Option<DateTime<Utc>>| at.map(time);
    let query = [
        ("format", Some("csv".to_owned())),
        ("trail", args.trail),
        ("actor", args.actor),
        ("action", args.action),
        ("entity", args.entity),
        ("since", at(args.since)),
        ("until", at(args.until)),
    ];
    let query: Vec<(&str, String)> = query
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let query = query.iter().map(|(name, value)| (*name, value.as_str()));
    let path = with_query(&filled(AuditExport::OPERATION.path, &[]), query);
    let response = client.get_raw(&path, EXPORT_LIMIT).await?;
    let (mut chunks, mut out) = (response.bytes_stream(), tokio::io::stdout());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.context("the export was interrupted and is incomplete")?;
        out.write_all(&chunk).await?;
    }
    out.flush().await?;
    Ok(())
}

pub(super) async fn retention(
    command: RetentionCommand,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let none = NoQuery {};
    match command {
        RetentionCommand::List => {
            let kept = client.ask::<AuditRetentionList>((), none, NoBody).await?;
            let rows = kept.data.iter().map(|kept| {
                vec![
                    kept.trail.clone(),
                    kept.keep_days.to_string(),
                    time(kept.changed_at),
                    kept.changed_by.clone(),
                ]
            });
            output.table(
                &["TRAIL", "DAYS", "CHANGED", "BY"],
                rows.collect(),
                &kept.raw,
            );
            output.note("All other trails are kept for ever");
        }
        RetentionCommand::Set { trail, days, .. } => {
            let path = TrailPath {
                trail: trail.clone(),
            };
            let change = Json(RetentionChange { keep_days: days });
            client.ask::<AuditRetentionSet>(path, none, change).await?;
            output.done(
                &format!(
                    "Changed: entries of {trail} are kept for {days} days. Delete older ones with: patchbay audit expire {trail}"
                ),
                &json!({ "trail": trail, "keepDays": days }),
            );
        }
        RetentionCommand::Reset { trail, .. } => {
            let path = TrailPath {
                trail: trail.clone(),
            };
            client
                .ask::<AuditRetentionReset>(path, none, NoBody)
                .await?;
            output.done(
                &format!("Changed: entries of {trail} are kept for ever"),
                &json!({ "trail": trail }),
            );
        }
    }
    Ok(())
}

pub(super) async fn expire(
    args: ExpireArgs,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let trail = args.trail;
    if args.consent.is_missing() {
        let kept = client
            .ask::<AuditRetentionList>((), NoQuery {}, NoBody)
            .await?;
        // Where nothing says how long, the host refuses.
        if let Some(kept) = kept.data.iter().find(|kept| kept.trail == trail) {
            let days = kept.keep_days;
            args.consent.ask(&format!(
                "This deletes the entries of audit trail {trail} that are older than {days} days, for ever"
            ))?;
        }
    }
    let path = TrailPath {
        trail: trail.clone(),
    };
    let expired = client.ask::<AuditExpire>(path, NoQuery {}, NoBody).await?;
    let more = if expired.data.more {
        ". There is more: run it again"
    } else {
        ""
    };
    let before = time(expired.data.before);
    output.done(
        &match expired.data.deleted {
            0 => format!("Nothing to delete: no entry of {trail} is from before {before}"),
            deleted => format!(
                "Deleted: {} of {trail} from before {before}. Their batches stay{more}",
                match deleted {
                    1 => "1 entry".to_owned(),
                    deleted => format!("{deleted} entries"),
                }
            ),
        },
        &expired.raw,
    );
    Ok(())
}

pub(super) async fn import(
    args: ImportArgs,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let trail = args.trail;
    let path = TrailPath {
        trail: trail.clone(),
    };
    let asked = ImportRequest {
        table: args.table,
        id_column: args.id_column,
    };
    let imported = client
        .ask::<AuditImport>(path, NoQuery {}, Json(asked))
        .await?;
    output.done(
        &match (imported.data.added, imported.data.read) {
            (_, 0) => "Nothing to import: the table has no rows".to_owned(),
            (0, read) => {
                format!("Nothing to import: all {read} rows were entries of {trail} already")
            }
            (added, read) if added == read => format!("Imported: all {read} rows"),
            (added, read) => format!(
                "Imported: {added} of {read} rows; the others were entries of {trail} already"
            ),
        },
        &imported.raw,
    );
    Ok(())
}

pub(super) async fn harden(client: &Client, output: Output) -> anyhow::Result<()> {
    let seen = client
        .ask::<AuditProtection>((), NoQuery {}, NoBody)
        .await?;
    if output.json {
        output.value("", &seen.raw);
        return Ok(());
    }
    output.note(&format!("{}: {}", seen.data.level, seen.data.meaning));
    for statement in &seen.data.statements {
        let end = if statement.starts_with("--") { "" } else { ";" };
        println!("{}{end}", crate::plain(statement));
    }
    if !seen.data.statements.is_empty() {
        output
            .note("Let an administrator of the database run these, as a superuser, in this order");
    }
    Ok(())
}
