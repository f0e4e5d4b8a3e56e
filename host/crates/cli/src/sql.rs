//! `patchbay plugin sql`

use patchbay_api::path::with_query;
use reqwest::Method;
use serde_json::Value;

use super::Output;
use super::client::Client;
use super::view::{items, text};

pub(crate) async fn run(plugin: Option<&str>, client: &Client, output: Output) -> anyhow::Result<()> {
    let path = with_query("sql", plugin.map(|plugin| ("plugin", plugin)));
    let activity = client.call(Method::GET, &path, None).await?;
    if output.json {
        output.value("", &activity);
        return Ok(());
    }
    println!(
        "{} of {} connections of plugins are open on the host that answers",
        activity["connections"], activity["maxConnections"]
    );
    let rows = items(&activity["plugins"]).map(|plugin| {
        vec![
            text(plugin, "plugin"),
            text(plugin, "login"),
            format!("{} of {}", plugin["inUse"], plugin["maxConnections"]),
            seconds(&plugin["longestMs"]),
            plugin["waiting"].to_string(),
            plugin["ended"].to_string(),
            text(plugin, "problem"),
        ]
    });
    let head = ["PLUGIN", "LOGIN", "IN USE", "LONGEST", "CALLS WAITING", "BACKENDS ENDED", "PROBLEM"];
    output.table(&head, rows.collect(), &activity);
    let sessions = items(&activity["plugins"]).flat_map(|plugin| {
        items(&plugin["sessions"]).map(|session| {
            vec![
                text(plugin, "plugin"),
                session["pid"].to_string(),
                text(session, "state"),
                seconds(&session["transactionMs"]),
                text(session, "waitsFor"),
                session["blocks"].to_string(),
                text(session, "statement"),
            ]
        })
    });
    println!();
    let head = ["PLUGIN", "PID", "STATE", "TRANSACTION", "WAITS FOR", "BLOCKS", "STATEMENT"];
    output.table(&head, sessions.collect(), &activity);
    Ok(())
}

fn seconds(ms: &Value) -> String {
    ms.as_f64().map_or_else(String::new, |ms| format!("{:.1} s", ms / 1_000.0))
}
