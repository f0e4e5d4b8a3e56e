//! Commands that ask a host: HTTP clients of `/api/admin`, so that they work from a laptop and are audited like everything else. Of those for
//! plugins, `build`, `pack`, `wit`, `inspect`, `keygen`, `sign`, `verify` and `publish` work on files. The other commands are
//! the binary's own.

mod add;
mod alert;
mod audit;
mod breaker;
mod build;
mod bulk;
pub mod client;
mod dead_letters;
mod history;
mod input;
mod job;
mod oci;
mod operation;
mod output;
mod plugin;
mod project;
mod push;
mod queue;
mod refusal;
mod revisions;
mod schedule;
mod search;
mod secret;
mod signing;
mod sql;
mod timeline;
mod view;
mod world;

use std::process::ExitCode;

use clap::Subcommand;
use patchbay_model::manifest::ManifestError;
use patchbay_runtime::Rejection;

pub use client::{Client, Connection};
use client::{ClientArgs, ClientError};
pub use input::duration;
use oci::RegistryError;
pub use output::{Output, plain};
pub use project::Project;
use refusal::{NotThere, Refusal};
pub use signing::signatures_for;
pub use view::short;

/// A command that asks a host, or works on a plugin's files.
#[derive(Subcommand)]
pub enum Command {
    /// Make, deploy and roll back plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Add, show and retry jobs
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Find finished attempts in the history, or jobs in Redis by their state; save searches
    Search(Box<search::SearchArgs>),
    /// Repair many jobs at once: retry, remove, enqueue again, edit; with a preview, progress, cancel and undo
    #[command(subcommand)]
    Bulk(bulk::BulkCommand),
    /// Jobs that failed for good, by what their failure looks like: read, acknowledge, assign, retry
    #[command(subcommand)]
    DeadLetter(dead_letters::DeadLetterCommand),
    /// Look at queues, and act on whole ones
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Which outside hosts are left alone because they failed; open and close by hand
    #[command(subcommand)]
    Breaker(breaker::BreakerCommand),
    /// Jobs that come by themselves: list, make, change, pause, run now
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Secrets of plugins: set, rotate, list, remove; nothing shows a value
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Audit trails: what plugins have written down, and what they may write
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Alerts: what fires, the rules, silences, and whether messages arrive
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// What happened: state of the history, how long it keeps what, erasing, exporting
    #[command(subcommand)]
    History(history::HistoryCommand),
}

pub async fn run(command: Command, client: &ClientArgs, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Plugin(command) => plugin::run(command, client, output).await?,
        Command::Job(command) => job::run(command, client, output).await?,
        Command::Search(args) => search::run(*args, client, output).await?,
        Command::Bulk(command) => return bulk::run(command, client, output).await,
        Command::DeadLetter(command) => return dead_letters::run(command, client, output).await,
        Command::Queue(command) => queue::run(command, client, output).await?,
        Command::Breaker(command) => breaker::run(command, client, output).await?,
        Command::Schedule(command) => schedule::run(command, client, output).await?,
        Command::Secret(command) => secret::run(command, client, output).await?,
        Command::Audit(command) => audit::run(command, client, output).await?,
        Command::Alert(command) => alert::run(command, client, output).await?,
        Command::History(command) => history::run(command, client, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Of an error that a command of this module ends with; none where it says nothing of that.
pub fn exit_code(error: &anyhow::Error) -> Option<u8> {
    let is_input = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Refusal>()
            || cause.is::<serde_json::Error>()
            || cause.is::<ManifestError>()
            || cause.is::<Rejection>()
    };
    if error.chain().any(is_input) {
        return Some(4);
    }
    if let Some(error) = error.downcast_ref::<RegistryError>() {
        return Some(error.exit_code());
    }
    if error.is::<NotThere>() {
        return Some(3);
    }
    match error.downcast_ref::<ClientError>()? {
        ClientError::Refused { status: 404, .. } => Some(3),
        ClientError::Refused { status, .. } if *status < 500 => Some(4),
        ClientError::Unreachable { .. } => Some(5),
        ClientError::Refused { status: 503, code, .. } if code == "unavailable" => Some(5),
        _ => None,
    }
}
