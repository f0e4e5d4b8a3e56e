//! The command line. `dev`, `serve`, `migrate`, `doctor`, `config` and `plugin build|pack|inspect|keygen|sign|verify|publish` work here;
//! every other command is an HTTP client of `/api/admin`, so that it works from a laptop and is audited like everything else.

mod add;
mod alert;
mod audit;
mod breaker;
mod build;
mod bulk;
mod client;
mod dead_letters;
pub(crate) mod doctor;
mod history;
mod incident;
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

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use patchbay_model::manifest::ManifestError;
use patchbay_runtime::Rejection;
use patchbay_store::Store;

use crate::boot::Host;
use crate::config::{Config, ConfigError};
use crate::{dev, telemetry};

pub(crate) use client::Client;
use client::ClientError;
use oci::RegistryError;
use output::Output;
pub(crate) use output::plain;
pub(crate) use project::Project;
use refusal::{NotThere, Refusal};
pub(crate) use signing::signatures_for;
pub(crate) use view::short;

/// A database that is just starting is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  not found
  4  refused: invalid input, wrong credentials, or in conflict with the present state
  5  the host, or what it needs (Postgres, Redis, an outside service), cannot be reached";

/// A WebAssembly plugin host for integrations and jobs.
#[derive(Parser)]
#[command(name = "patchbay", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    /// Print JSON for scripts instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Configuration file [default: patchbay.toml here or in /etc/patchbay]
    #[arg(long, global = true, value_name = "FILE", env = "PATCHBAY_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    client: client::ClientArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a host on this machine without any configuration: private Postgres and Redis, and a mail catcher
    Dev(dev::DevArgs),
    /// Run the host
    Serve,
    /// Bring the database schema up to date (safe while other hosts do the same)
    Migrate {
        /// Only list what is to be done; exit code 1 if there is something
        #[arg(long)]
        check: bool,
    },
    /// Check configuration, Postgres, Redis, mail and plugins, and say how to mend what is wrong
    Doctor,
    /// Show every configuration key with its value and where it comes from
    Config,
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
    /// What somebody needs who looks into an incident elsewhere
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// Alerts: what fires, the rules, silences, and whether messages arrive
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// What happened: state of the history, how long it keeps what, erasing, exporting
    #[command(subcommand)]
    History(history::HistoryCommand),
    /// Look at the mails that `patchbay dev` has caught
    #[command(subcommand)]
    Mail(dev::MailCommand),
    /// Print a completion script for a shell, for example: patchbay completions bash > /etc/bash_completion.d/patchbay
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Compile one component (run by the host itself)
    #[command(name = "__compile", hide = true)]
    Compile {
        #[arg(num_args = 3)]
        arguments: Vec<std::ffi::OsString>,
    },
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread or runtime exists: the child must be as small as it can.
    if let Command::Compile { arguments } = cli.command {
        return patchbay_runtime::compile_child(arguments.into_iter());
    }
    let output = Output { json: cli.json };
    if !matches!(cli.command, Command::Dev(_) | Command::Serve) {
        end_quietly_when_nobody_reads();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(cli, output));
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => {
            let code = exit_code(&error);
            telemetry::last_words(move || output.error(&error));
            code
        }
    }
}

/// Whoever reads only the beginning (`patchbay queue list | head`) has what he wants; `println!` would panic.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(|text| text.contains("Broken pipe")) {
            // As if SIGPIPE had ended us, which Rust programs ignore.
            std::process::exit(141);
        }
        usual(panic);
    }));
}

async fn run(cli: Cli, output: Output) -> anyhow::Result<ExitCode> {
    let config = || Config::from_process(cli.config.as_deref());
    match cli.command {
        Command::Dev(args) => dev::run(args, cli.config.as_deref()).await?,
        Command::Serve => {
            let config = config()?;
            let mut logging = telemetry::start(config.log_as_json(), &config.log_filter())?;
            let ended = async { Host::start(config, &logging).await?.run_until_signal().await }.await;
            logging.flush();
            ended?;
        }
        Command::Migrate { check } => return migrate(config()?, check, output).await,
        Command::Doctor => return doctor::run(cli.config.as_deref(), output).await,
        Command::Config => {
            let (config, problems) = Config::read_process(cli.config.as_deref());
            let shown = config.shown();
            let rows = shown.iter().map(|key| {
                let value = key.value.clone().unwrap_or_else(|| "-".into());
                vec![key.key.to_owned(), value, key.source.clone().unwrap_or_default(), key.about.to_owned()]
            });
            output.table(&["KEY", "VALUE", "FROM", "MEANING"], rows.collect(), &shown);
            if !problems.is_empty() {
                return Err(ConfigError(problems).into());
            }
        }
        Command::Plugin(command) => plugin::run(command, &cli.client, output).await?,
        Command::Job(command) => job::run(command, &cli.client, output).await?,
        Command::Search(args) => search::run(*args, &cli.client, output).await?,
        Command::Bulk(command) => return bulk::run(command, &cli.client, output).await,
        Command::DeadLetter(command) => return dead_letters::run(command, &cli.client, output).await,
        Command::Queue(command) => queue::run(command, &cli.client, output).await?,
        Command::Breaker(command) => breaker::run(command, &cli.client, output).await?,
        Command::Schedule(command) => schedule::run(command, &cli.client, output).await?,
        Command::Secret(command) => secret::run(command, &cli.client, output).await?,
        Command::Audit(command) => audit::run(command, &cli.client, output).await?,
        Command::Incident(command) => {
            incident::run(command, &cli.client, cli.config.as_deref(), output).await?;
        }
        Command::Alert(command) => alert::run(command, &cli.client, output).await?,
        Command::History(command) => history::run(command, &cli.client, output).await?,
        Command::Mail(command) => dev::run_mail(command, output.json)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "patchbay", &mut std::io::stdout());
        }
        Command::Compile { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn migrate(config: Config, check: bool, output: Output) -> anyhow::Result<ExitCode> {
    let store = Store::connect(config.store(), CONNECT_LIMIT).await.context("cannot use Postgres")?;
    if check {
        let pending = store.pending_migrations().await?;
        let text =
            if pending.is_empty() { "up to date".to_owned() } else { format!("to be applied: {}", pending.join(", ")) };
        output.value(&text, &serde_json::json!({ "pending": pending }));
        return Ok(if pending.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let report = store.migrate().await.context("cannot migrate the database")?;
    let text = if report.applied.is_empty() {
        "up to date".to_owned()
    } else {
        format!("applied: {}", report.applied.join(", "))
    };
    output.value(&text, &serde_json::json!({ "applied": report.applied }));
    Ok(ExitCode::SUCCESS)
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_input = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ConfigError>()
            || cause.is::<Refusal>()
            || cause.is::<serde_json::Error>()
            || cause.is::<ManifestError>()
            || cause.is::<Rejection>()
    };
    if error.chain().any(is_input) {
        return ExitCode::from(4);
    }
    if let Some(error) = error.downcast_ref::<RegistryError>() {
        return ExitCode::from(error.exit_code());
    }
    let unreachable = error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(patchbay_store::StoreError::is_passing)
            || cause.downcast_ref().is_some_and(patchbay_queue::QueueError::is_passing)
    });
    if error.is::<NotThere>() {
        return ExitCode::from(3);
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused { status: 404, .. }) => ExitCode::from(3),
        Some(ClientError::Refused { status, .. }) if *status < 500 => ExitCode::from(4),
        Some(ClientError::Unreachable { .. }) => ExitCode::from(5),
        Some(ClientError::Refused { status: 503, code, .. }) if code == "unavailable" => ExitCode::from(5),
        _ if unreachable => ExitCode::from(5),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
