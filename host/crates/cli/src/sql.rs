//! `patchbay plugin sql`

use patchbay_api::body::NoBody;
use patchbay_api::sql::{SqlActivity, SqlActivityQuery};

use super::Output;
use super::client::Client;

pub(crate) async fn run(
    plugin: Option<String>,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let activity = client
        .ask::<SqlActivity>((), SqlActivityQuery { plugin }, NoBody)
        .await?;
    if output.json {
        output.value("", &activity.raw);
        return Ok(());
    }
    let (raw, activity) = (activity.raw, activity.data);
    println!(
        "{} of {} connections of plugins are open on the host that answers",
        activity.connections, activity.max_connections
    );
    let rows = activity.plugins.iter().map(|plugin| {
        vec![
            plugin.plugin.clone(),
            plugin.login.clone(),
            format!("{} of {}", plugin.in_use, plugin.max_connections),
            seconds(plugin.longest_ms),
            plugin.waiting.to_string(),
            plugin.ended.to_string(),
            plugin.problem.clone().unwrap_or_default(),
        ]
    });
    let head = [
        "PLUGIN",
        "LOGIN",
        "IN USE",
        "LONGEST",
        "CALLS WAITING",
        "BACKENDS ENDED",
        "PROBLEM",
    ];
    output.table(&head, rows.collect(), &raw);
    let sessions = activity.plugins.into_iter().flat_map(|plugin| {
        let name = plugin.plugin;
        plugin.sessions.into_iter().map(move |session| {
            vec![
                name.clone(),
                session.pid.to_string(),
                session.state.unwrap_or_default(),
                session.transaction_ms.map_or_else(String::new, seconds),
                session.waits_for.unwrap_or_default(),
                session.blocks.to_string(),
                session.statement.unwrap_or_default(),
            ]
        })
    });
    println!();
    let head = [
        "PLUGIN",
        "PID",
        "STATE",
        "TRANSACTION",
        "WAITS FOR",
        "BLOCKS",
        "STATEMENT",
    ];
    output.table_or(
        "No plugin has an open session",
        &head,
        sessions.collect(),
        &raw,
    );
    Ok(())
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1_000.0)
}
