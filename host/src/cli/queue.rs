//! `patchbay queue`.

use clap::Subcommand;
use reqwest::Method;

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::plugin::{items, text};

#[derive(Subcommand)]
pub(super) enum QueueCommand {
    /// List queues with the number of jobs in each state
    List,
}

pub(super) async fn run(command: QueueCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let QueueCommand::List = command;
    let queues = Client::from_args(args)?.call(Method::GET, "queues", None).await?;
    let states = ["waiting", "active", "delayed", "prioritized", "completed", "failed"];
    let rows = items(&queues).map(|queue| {
        let counts = states.iter().map(|state| queue["counts"][state].to_string());
        std::iter::once(text(queue, "name")).chain(counts).collect()
    });
    output.table(
        &["QUEUE", "WAITING", "ACTIVE", "DELAYED", "PRIORITIZED", "COMPLETED", "FAILED"],
        rows.collect(),
        &queues,
    );
    Ok(())
}
