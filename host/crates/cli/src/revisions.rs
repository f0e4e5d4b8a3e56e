//! `patchbay plugin revisions|status|history|diff|prune`

use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::plugins::{
    Change, PluginPath, PluginsDiff, PluginsHistory, PluginsPrune, PluginsRevisions, PluginsStatus,
    Prune, TwoRevisions,
};
use patchbay_model::words::counted;
use serde_json::Value;

use super::Output;
use super::client::Client;
use super::output::plain;
use super::refusal::Consent;
use super::view::{host_state, short, signers};

pub(super) async fn list(plugin: String, client: &Client, output: Output) -> anyhow::Result<()> {
    let revisions = client
        .ask::<PluginsRevisions>(PluginPath { name: plugin }, NoQuery {}, NoBody)
        .await?;
    let rows = revisions.data.into_iter().map(|revision| {
        let signers = signers(&revision.signatures);
        vec![
            short(&revision.digest),
            revision.version,
            revision.state,
            revision.attempts.to_string(),
            revision.created_at,
            revision.created_by,
            signers,
        ]
    });
    let head = [
        "DIGEST",
        "VERSION",
        "STATE",
        "ATTEMPTS",
        "PUSHED",
        "BY",
        "SIGNED BY",
    ];
    output.table_or("No revisions", &head, rows.collect(), &revisions.raw);
    Ok(())
}

pub(super) async fn status(plugin: String, client: &Client, output: Output) -> anyhow::Result<()> {
    let status = client
        .ask::<PluginsStatus>(PluginPath { name: plugin }, NoQuery {}, NoBody)
        .await?;
    if output.json {
        output.value("", &status.raw);
        return Ok(());
    }
    let (raw, status) = (status.raw, status.data);
    let digest = |digest: Option<&str>| digest.map_or_else(|| "none".into(), short);
    println!("active:  {}", digest(status.active.as_deref()));
    println!(
        "running: {} on this host",
        digest(status.running.as_deref())
    );
    if let Some(failure) = &status.failure {
        println!("failure: {}", plain(failure));
    }
    if let Some(quarantined) = &status.quarantined {
        println!(
            "quarantined at {} by {}: {}",
            quarantined.since,
            quarantined.by,
            plain(&quarantined.reason)
        );
    }
    for host in &status.hosts {
        println!(
            "  {} ({}): {}",
            host.host,
            host.version,
            plain(&host_state(host))
        );
    }
    println!();
    let rows = status.revisions.into_iter().map(|revision| {
        let signers = signers(&revision.signatures);
        let attempts = revision.attempts.to_string();
        vec![
            short(&revision.digest),
            revision.version,
            revision.state,
            attempts,
            revision.created_at,
            signers,
        ]
    });
    output.table(
        &[
            "DIGEST",
            "VERSION",
            "STATE",
            "ATTEMPTS",
            "PUSHED",
            "SIGNED BY",
        ],
        rows.collect(),
        &raw,
    );
    Ok(())
}

pub(super) async fn history(plugin: String, client: &Client, output: Output) -> anyhow::Result<()> {
    let history = client
        .ask::<PluginsHistory>(PluginPath { name: plugin }, NoQuery {}, NoBody)
        .await?;
    let rows = history.data.into_iter().map(|entry| {
        let digest = entry.digest.as_deref().map_or_else(String::new, short);
        vec![
            entry.at,
            entry.action,
            digest,
            entry.version.unwrap_or_default(),
            entry.actor,
            entry.reason.unwrap_or_default(),
        ]
    });
    output.table_or(
        "Nothing is recorded of it",
        &["AT", "ACTION", "DIGEST", "VERSION", "BY", "REASON"],
        rows.collect(),
        &history.raw,
    );
    Ok(())
}

pub(super) async fn diff(
    plugin: String,
    revisions: TwoRevisions,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let diff = client
        .ask::<PluginsDiff>(PluginPath { name: plugin }, revisions, NoBody)
        .await?;
    let lines: Vec<String> = diff.data.changes.iter().map(line).collect();
    let nothing = "nothing but the code".to_owned();
    output.value(
        &if lines.is_empty() {
            nothing
        } else {
            lines.join("\n")
        },
        &diff.raw,
    );
    Ok(())
}

pub(super) async fn prune(
    dry_run: bool,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let act = async |dry_run| {
        client
            .ask::<PluginsPrune>((), NoQuery {}, Json(Prune { dry_run }))
            .await
    };
    let mut pruned = act(true).await?;
    if !output.json && pruned.data.is_empty() {
        output.note("No old revisions");
        return Ok(());
    }
    if !dry_run && !pruned.data.is_empty() {
        let old = counted(pruned.data.len() as u64, "old revision");
        consent.ask(&format!("This deletes {old}, which cannot be undone"))?;
        pruned = act(false).await?;
    }
    let rows = pruned.data.into_iter().map(|revision| {
        let size = format!("{} KiB", revision.size_bytes / 1_024);
        let what = if dry_run {
            "would be deleted"
        } else {
            "deleted"
        }
        .to_owned();
        vec![
            revision.plugin,
            short(&revision.digest),
            revision.version,
            size,
            what,
        ]
    });
    output.table(
        &["PLUGIN", "DIGEST", "VERSION", "SIZE", "RESULT"],
        rows.collect(),
        &pruned.raw,
    );
    Ok(())
}

/// A line with `+` (new), `-` (gone) or `~` (changed) in front.
fn line(change: &Change) -> String {
    let what = format!(
        "{} {}",
        change.part,
        change.name.as_deref().unwrap_or_default()
    );
    let what = what.trim_end();
    // `true` only means that the name exists; any other value is shown.
    let value = |value: &Value| {
        if value == true {
            String::new()
        } else {
            format!("  {value}")
        }
    };
    match (
        change.before.as_ref().unwrap_or(&Value::Null),
        change.after.as_ref().unwrap_or(&Value::Null),
    ) {
        (Value::Null, after) => format!("+ {what}{}", value(after)),
        (before, Value::Null) => format!("- {what}{}", value(before)),
        (before, after) => format!("~ {what}  {before} → {after}"),
    }
}
