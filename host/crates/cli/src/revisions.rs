//! `patchbay plugin status|history|diff`

use patchbay_api::path::{api_path, with_query};
use reqwest::Method;
use serde_json::{Value, json};

use super::Output;
use super::client::Client;
use super::output::plain;
use super::view::{host_state, items, short, signers, text};

pub(super) async fn status(plugin: &str, client: &Client, output: Output) -> anyhow::Result<()> {
    let status = client.call(Method::GET, &api_path(&["plugins", plugin, "status"]), None).await?;
    if output.json {
        output.value("", &status);
        return Ok(());
    }
    let digest = |name: &str| status[name].as_str().map_or_else(|| "none".into(), short);
    println!("active:  {}", digest("active"));
    println!("running: {} on this host", digest("running"));
    if let Some(failure) = status["failure"].as_str() {
        println!("failure: {}", plain(failure));
    }
    if status["quarantined"].is_object() {
        let quarantined = &status["quarantined"];
        println!(
            "quarantined at {} by {}: {}",
            text(quarantined, "since"),
            text(quarantined, "by"),
            plain(&text(quarantined, "reason"))
        );
    }
    for host in items(&status["hosts"]) {
        println!("  {} ({}): {}", text(host, "host"), text(host, "version"), plain(&host_state(host)));
    }
    println!();
    let rows = items(&status["revisions"]).map(|revision| {
        vec![
            short(&text(revision, "digest")),
            text(revision, "version"),
            text(revision, "state"),
            revision["attempts"].to_string(),
            text(revision, "createdAt"),
            signers(&revision["signatures"]),
        ]
    });
    output.table(&["DIGEST", "VERSION", "STATE", "ATTEMPTS", "PUSHED", "SIGNED BY"], rows.collect(), &status);
    Ok(())
}

pub(super) async fn history(plugin: &str, client: &Client, output: Output) -> anyhow::Result<()> {
    let history = client.call(Method::GET, &api_path(&["plugins", plugin, "history"]), None).await?;
    let rows = items(&history).map(|entry| {
        vec![
            text(entry, "at"),
            text(entry, "action"),
            short(&text(entry, "digest")),
            text(entry, "version"),
            text(entry, "actor"),
        ]
    });
    output.table(&["AT", "ACTION", "DIGEST", "VERSION", "BY"], rows.collect(), &history);
    Ok(())
}

pub(super) async fn diff(plugin: &str, from: &str, to: &str, client: &Client, output: Output) -> anyhow::Result<()> {
    let path = with_query(&api_path(&["plugins", plugin, "diff"]), [("from", from), ("to", to)]);
    let diff = client.call(Method::GET, &path, None).await?;
    let lines: Vec<String> = items(&diff["changes"]).map(line).collect();
    let nothing = "nothing but the code".to_owned();
    output.value(&if lines.is_empty() { nothing } else { lines.join("\n") }, &diff);
    Ok(())
}

pub(super) async fn prune(dry_run: bool, client: &Client, output: Output) -> anyhow::Result<()> {
    let pruned = client.call(Method::POST, "plugins/prune", Some(json!({ "dryRun": dry_run }))).await?;
    if !output.json && items(&pruned).next().is_none() {
        println!("no old revisions");
        return Ok(());
    }
    let rows = items(&pruned).map(|revision| {
        let kib = revision["sizeBytes"].as_i64().unwrap_or_default() / 1_024;
        vec![
            text(revision, "plugin"),
            short(&text(revision, "digest")),
            text(revision, "version"),
            format!("{kib} KiB"),
            if dry_run { "would be deleted" } else { "deleted" }.to_owned(),
        ]
    });
    output.table(&["PLUGIN", "DIGEST", "VERSION", "SIZE", ""], rows.collect(), &pruned);
    Ok(())
}

/// `+` new, `-` gone, `~` changed.
fn line(change: &Value) -> String {
    let what = format!("{} {}", text(change, "part"), text(change, "name"));
    let what = what.trim_end();
    // That it is there says it all for a name; anything else is worth reading.
    let value = |value: &Value| if value == true { String::new() } else { format!("  {value}") };
    match (&change["before"], &change["after"]) {
        (Value::Null, after) => format!("+ {what}{}", value(after)),
        (before, Value::Null) => format!("- {what}{}", value(before)),
        (before, after) => format!("~ {what}  {before} → {after}"),
    }
}
