//! `patchbay breaker …`

use clap::{Args, Subcommand};
use patchbay_api::path::api_path;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::view::{items, text};

#[derive(Subcommand)]
pub enum BreakerCommand {
    /// List the outside hosts of the active plugins with their breakers, as the host that answers has them
    List,
    /// Refuse all calls of a plugin to a host until the breaker is closed; jobs that need it wait
    Open(Which),
    /// Let calls through again
    Close(Which),
}

#[derive(Args)]
pub struct Which {
    /// The plugin
    plugin: String,
    /// As `breaker list` shows it, or a part that names one host only
    host: String,
    /// For the next operator and the audit trail
    #[arg(long)]
    reason: String,
}

pub(crate) async fn run(command: BreakerCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        BreakerCommand::List => {
            let breakers = client.call(Method::GET, "breakers", None).await?;
            let rows = items(&breakers).map(|breaker| {
                let failures = format!("{} of {}", breaker["failures"], breaker["opensAt"]);
                vec![
                    text(breaker, "plugin"),
                    text(breaker, "host"),
                    state(breaker),
                    failures,
                    text(breaker, "lastFailure"),
                ]
            });
            output.table(&["PLUGIN", "HOST", "STATE", "FAILURES", "LAST FAILURE"], rows.collect(), &breakers);
        }
        BreakerCommand::Open(which) => act(&client, "open", which, output).await?,
        BreakerCommand::Close(which) => act(&client, "close", which, output).await?,
    }
    Ok(())
}

async fn act(client: &Client, action: &str, which: Which, output: Output) -> anyhow::Result<()> {
    let body = json!({ "plugin": which.plugin, "host": which.host, "reason": which.reason });
    let breaker = client.call(Method::POST, &api_path(&["breakers", action]), Some(body)).await?;
    let message = format!(
        "{} {}: {}, on the host that answered",
        text(&breaker, "plugin"),
        text(&breaker, "host"),
        state(&breaker)
    );
    output.value(&message, &breaker);
    Ok(())
}

fn state(breaker: &Value) -> String {
    match (breaker["openedBy"].as_str(), breaker["probeInMs"].as_u64()) {
        (Some(by), _) => format!("open, by {by}: {}", text(breaker, "reason")),
        (None, Some(ms)) => format!("open for {} s more", ms.div_ceil(1_000)),
        (None, None) => text(breaker, "state"),
    }
}
