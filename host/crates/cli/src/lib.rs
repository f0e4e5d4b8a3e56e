//! Commands that call a host, as HTTP clients of `/api/admin`: they work from any machine and are
//! recorded like all other requests. The plugin commands `build`, `pack`, `wit`, `inspect`,
//! `keygen`, `sign`, `verify` and `publish` work on files only. All other commands are in the
//! binary crate.

mod activity;
mod add;
mod alert;
pub mod audit;
mod breaker;
mod build;
mod bulk;
pub mod client;
mod dead_letter_advice;
mod dead_letters;
mod exact;
mod history;
mod inbox;
mod input;
mod job;
mod kept_session;
mod key;
pub mod names;
mod oci;
mod operation;
pub mod operator;
mod operator_oidc;
mod output;
mod paging;
mod plugin;
mod private_file;
mod project;
mod push;
mod queue;
mod redis_keys;
mod refusal;
mod revisions;
mod route;
mod schedule;
mod search;
mod secret;
mod session;
mod signing;
mod sql;
mod status;
mod timeline;
mod token;
mod user;
mod vendor_key;
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
use output::Failure;
pub use output::{Output, plain};
pub use private_file::write_private;
pub use project::Project;
pub use refusal::NotFound;
use refusal::{NotConfirmed, Refusal};
pub use secret::ValueSource;
pub use signing::signatures_for;
pub use view::short;

/// A command that calls a host, or works on files of a plugin.
#[derive(Subcommand)]
pub enum Command {
    /// Show the state on one screen: health, alerts, queues in trouble, breakers, plugins, hosts
    Status,
    Activity(activity::ActivityArgs),
    /// Build, deploy and roll back plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Add, show and retry jobs
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Search finished attempts in the history, or jobs in Redis by their state; save searches
    Search(Box<search::SearchArgs>),
    /// Retry, remove, enqueue again or edit many jobs at once, with preview, progress, cancel and
    /// undo
    #[command(subcommand)]
    Bulk(bulk::BulkCommand),
    /// List, acknowledge, assign and retry jobs that failed for good, grouped by their failure
    #[command(subcommand)]
    DeadLetter(dead_letters::DeadLetterCommand),
    /// Show queues, and act on whole queues
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// List, show and remove keys of Redis, such as cached values
    #[command(subcommand)]
    Redis(redis_keys::RedisCommand),
    /// List and show the routes that plugins serve
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// List and show the webhooks that plugins have for their vendors
    #[command(subcommand)]
    Webhook(inbox::WebhookCommand),
    /// List, show, judge again, replay and erase what vendors have sent to webhooks
    #[command(subcommand)]
    Inbox(inbox::InboxCommand),
    /// Show the breakers of outside hosts; open and close them by hand
    #[command(subcommand)]
    Breaker(breaker::BreakerCommand),
    /// List, create, change, pause and run schedules
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Set, rotate, list and remove secrets of plugins; values are never shown
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Show and change audit trails, list their entries, and verify that they are whole
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Show alerts; change rules, set silences, test the delivery of messages
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// Create operators, give them roles, disable them; every person has a name of their own
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Create, list and revoke tokens of programs
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Log in as an operator; the session is kept for the next commands
    Login(session::LoginArgs),
    /// Log out: end the session that `patchbay login` keeps
    Logout,
    /// Show who you are to the host, and what you may do
    Whoami,
    /// List accounts of API clients; block them, change their role, end their sessions
    #[command(subcommand)]
    User(user::UserCommand),
    /// Issue, rotate and revoke keys of vendors, whose programs call the API; see their use
    #[command(subcommand)]
    VendorKey(vendor_key::VendorKeyCommand),
    /// List the keys that the host uses itself, and replace those of access tokens
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show the state of the history and its retention; erase and export data
    #[command(subcommand)]
    History(history::HistoryCommand),
}

impl Command {
    /// Whether it only reads from a host and ends by itself, so that `--watch` can repeat it.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Status => true,
            Self::Activity(args) => args.is_read(),
            Self::Plugin(command) => command.is_read(),
            Self::Job(command) => command.is_read(),
            Self::Search(args) => args.is_read(),
            Self::Bulk(command) => command.is_read(),
            Self::DeadLetter(command) => command.is_read(),
            Self::Queue(command) => command.is_read(),
            Self::Redis(command) => command.is_read(),
            Self::Route(command) => command.is_read(),
            Self::Webhook(command) => command.is_read(),
            Self::Inbox(command) => command.is_read(),
            Self::Breaker(command) => command.is_read(),
            Self::Schedule(command) => command.is_read(),
            Self::Secret(command) => command.is_read(),
            Self::Audit(command) => command.is_read(),
            Self::Alert(command) => command.is_read(),
            Self::User(command) => command.is_read(),
            Self::Operator(command) => command.is_read(),
            Self::Token(command) => command.is_read(),
            Self::Whoami => true,
            Self::Login(_) | Self::Logout => false,
            Self::VendorKey(command) => command.is_read(),
            Self::Key(command) => command.is_read(),
            Self::History(command) => command.is_read(),
        }
    }

    /// Whether it starts something long, which `--watch` follows.
    pub fn can_be_followed(&self) -> bool {
        match self {
            Self::Bulk(command) => command.can_be_followed(),
            Self::DeadLetter(command) => command.can_be_followed(),
            _ => false,
        }
    }
}

pub async fn run(
    command: Command,
    client: &ClientArgs,
    output: Output,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status => return status::run(client, output).await,
        Command::Activity(args) => activity::run(args, client, output).await?,
        Command::Plugin(command) => plugin::run(command, client, output).await?,
        Command::Job(command) => job::run(command, client, output).await?,
        Command::Search(args) => search::run(*args, client, output).await?,
        Command::Bulk(command) => return bulk::run(command, client, output).await,
        Command::DeadLetter(command) => return dead_letters::run(command, client, output).await,
        Command::Queue(command) => queue::run(command, client, output).await?,
        Command::Redis(command) => redis_keys::run(command, client, output).await?,
        Command::Route(command) => route::run(command, client, output).await?,
        Command::Webhook(command) => inbox::run_webhook(command, client, output).await?,
        Command::Inbox(command) => inbox::run(command, client, output).await?,
        Command::Breaker(command) => breaker::run(command, client, output).await?,
        Command::Schedule(command) => schedule::run(command, client, output).await?,
        Command::Secret(command) => secret::run(command, client, output).await?,
        Command::Audit(command) => return audit::run(command, client, output).await,
        Command::User(command) => user::run(command, client, output).await?,
        Command::Operator(command) => operator::run(command, client, output).await?,
        Command::Token(command) => token::run(command, client, output).await?,
        Command::Login(args) => session::log_in(args, client, output).await?,
        Command::Logout => session::log_out(client, output).await?,
        Command::Whoami => session::who_am_i(client, output).await?,
        Command::VendorKey(command) => vendor_key::run(command, client, output).await?,
        Command::Key(command) => key::run(command, client, output).await?,
        Command::Alert(command) => alert::run(command, client, output).await?,
        Command::History(command) => history::run(command, client, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code for an error of a command in this crate; `None` if the error has none.
pub fn exit_code(error: &anyhow::Error) -> Option<u8> {
    let is_input = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Refusal>()
            || cause.is::<NotConfirmed>()
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
    if error.is::<NotFound>() {
        return Some(3);
    }
    match error.downcast_ref::<ClientError>()? {
        ClientError::Refused { status: 404, .. } => Some(3),
        ClientError::Refused { status, .. } if *status < 500 => Some(4),
        ClientError::Unreachable { .. } | ClientError::Untrusted { .. } => Some(5),
        ClientError::Refused {
            status: 503, code, ..
        } if code == "unavailable" => Some(5),
        _ => None,
    }
}

/// The stable code for an error of a command in this crate; `None` if the error has none.
pub fn code(error: &anyhow::Error) -> Option<&str> {
    match error.downcast_ref() {
        Some(ClientError::Refused { code, .. }) => return Some(code),
        Some(ClientError::Unreachable { .. } | ClientError::Untrusted { .. }) => {
            return Some("unreachable");
        }
        Some(ClientError::NotPatchbay { .. }) => return Some("not-patchbay"),
        None => {}
    }
    let any = |is: fn(&(dyn std::error::Error + 'static)) -> bool| error.chain().any(is);
    if error.is::<NotFound>() {
        Some("not-found")
    } else if error.is::<NotConfirmed>() {
        Some("not-confirmed")
    } else if any(|cause| cause.is::<ManifestError>()) {
        Some("invalid-manifest")
    } else if any(|cause| cause.is::<Rejection>()) {
        Some("rejected")
    } else if any(|cause| cause.is::<RegistryError>()) {
        Some("registry")
    } else if any(|cause| cause.is::<Refusal>() || cause.is::<serde_json::Error>()) {
        Some("invalid-input")
    } else {
        None
    }
}

/// Prints why a command failed. `code` is stable, in kebab-case.
pub fn print_error(output: Output, error: &anyhow::Error, code: &str) {
    let text = format!("{error:#}");
    let (message, details) = match error.downcast_ref() {
        // For scripts, its code is a field of its own.
        Some(ClientError::Refused {
            message, details, ..
        }) => (message.clone(), details.as_ref()),
        _ => (text.clone(), None),
    };
    let failure = Failure {
        success: false,
        code,
        message,
        details,
    };
    output.failure(&text, &failure);
}
