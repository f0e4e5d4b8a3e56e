//! The commands of `patchbay`. Those for this machine are here, others in [`patchbay_cli`].

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use patchbay_app::incident::BundleFile;
use patchbay_app::vault::KeyError;
use patchbay_cli::Output;
use patchbay_cli::client::{ClientArgs, ClientError};
use patchbay_store::Store;
use patchbay_telemetry::redact_own;
use serde_json::json;

use crate::boot::Host;
use crate::config::{Config, ConfigEntry, ConfigError};
use crate::dev_state::DevState;
use crate::{dev, doctor, incident};

/// Long enough for a database that is just starting.
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
    client: ClientArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a host on this machine without any configuration: private Postgres and Redis, and a mail
    /// catcher
    Dev(dev::DevArgs),
    /// Run the host
    Serve,
    /// Bring the database schema up to date (safe while other hosts do the same)
    Migrate {
        /// Only list the pending migrations; exit code 1 if there are any
        #[arg(long)]
        check: bool,
    },
    /// Check configuration, Postgres, Redis, mail and plugins, and say how to repair what is wrong
    Doctor,
    /// Show every configuration key with its value and its source
    Config,
    #[command(flatten)]
    Host(patchbay_cli::Command),
    /// Collect information about an incident for somebody elsewhere
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// List and show the mails that `patchbay dev` has caught
    #[command(subcommand)]
    Mail(dev::MailCommand),
    /// Print a completion script for a shell, for example: patchbay completions bash >
    /// /etc/bash_completion.d/patchbay
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
    /// Compile one component (the host runs this itself)
    #[command(name = "__compile", hide = true)]
    Compile {
        #[arg(num_args = 3)]
        arguments: Vec<std::ffi::OsString>,
    },
}

pub fn main() -> ExitCode {
    let mut cli = Cli::parse();
    // Before any thread or runtime exists: the child must be as small as possible.
    if let Command::Compile { arguments } = cli.command {
        return patchbay_runtime::compile_child(arguments.into_iter());
    }
    cli.client = cli.client.or(|| DevState::find().map(DevState::connection));
    let output = Output { json: cli.json };
    if !matches!(cli.command, Command::Dev(_) | Command::Serve) {
        end_quietly_when_nobody_reads();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
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
            patchbay_telemetry::last_words(move || output.error(&error));
            code
        }
    }
}

/// Ends the process when the reader of its output is gone (`patchbay queue list | head`);
/// `println!` would panic.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic
            .payload_as_str()
            .is_some_and(|text| text.contains("Broken pipe"))
        {
            // The exit code of a process that SIGPIPE ended. Rust programs ignore that signal.
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
            let mut logging = patchbay_telemetry::start(*config.log.as_json, &config.log.filter)?;
            let ended = async {
                Host::start(config, &logging)
                    .await?
                    .run_until_signal()
                    .await
            }
            .await;
            logging.flush();
            ended?;
        }
        Command::Migrate { check } => return migrate(config()?, check, output).await,
        Command::Doctor => return doctor::run(cli.config.as_deref(), output).await,
        Command::Config => {
            let (entries, problems) = shown_configuration(cli.config.as_deref());
            let rows = entries.iter().map(|key| {
                let value = key.value.clone().unwrap_or_else(|| "-".into());
                vec![
                    key.key.to_owned(),
                    value,
                    key.source.clone().unwrap_or_default(),
                    key.about.to_owned(),
                ]
            });
            output.table(
                &["KEY", "VALUE", "FROM", "MEANING"],
                rows.collect(),
                &entries,
            );
            if !problems.is_empty() {
                return Err(ConfigError(problems).into());
            }
        }
        Command::Incident(command) => {
            let seen_here =
                async |error: &ClientError| without_host(cli.config.as_deref(), error).await;
            incident::run(command, &cli.client, seen_here, output).await?;
        }
        Command::Host(command) => return patchbay_cli::run(command, &cli.client, output).await,
        Command::Mail(command) => dev::run_mail(command, output.json)?,
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "patchbay",
                &mut std::io::stdout(),
            );
        }
        Command::Compile { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Every key, and what is wrong: of the host of `patchbay dev` that runs here, unless a file is
/// named; else of this process.
fn shown_configuration(file: Option<&Path>) -> (Vec<ConfigEntry>, Vec<String>) {
    let dev = DevState::running().filter(|dev| file.is_none() && !dev.given.is_empty());
    let Some(dev) = dev else {
        let (config, problems) = Config::read_process(file);
        return (config.entries().into_iter().cloned().collect(), problems);
    };
    eprintln!(
        "The configuration of `patchbay dev`, which runs in {}:",
        dev.dir.display()
    );
    let variables = dev.inherited.iter().chain(&dev.given);
    let variables = variables
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let (config, problems) = Config::read_as_started(dev.config_file, &variables);
    let named = |entry: &ConfigEntry| {
        let mut entry = entry.clone();
        let by_dev = |source: &String| dev.given.contains_key(source);
        if entry.source.as_ref().is_some_and(by_dev) {
            entry.source = Some("patchbay dev".to_owned());
        }
        entry
    };
    (config.entries().into_iter().map(named).collect(), problems)
}

async fn migrate(config: Config, check: bool, output: Output) -> anyhow::Result<ExitCode> {
    let store = Store::connect(config.database.store(), CONNECT_LIMIT)
        .await
        .context("cannot use Postgres")?;
    if check {
        let pending = store.pending_migrations().await?;
        let text = if pending.is_empty() {
            "up to date".to_owned()
        } else {
            format!("to be applied: {}", pending.join(", "))
        };
        output.value(&text, &json!({ "pending": pending }));
        return Ok(if pending.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let report = store
        .migrate()
        .await
        .context("cannot migrate the database")?;
    let text = if report.applied.is_empty() {
        "up to date".to_owned()
    } else {
        format!("applied: {}", report.applied.join(", "))
    };
    output.value(&text, &json!({ "applied": report.applied }));
    Ok(ExitCode::SUCCESS)
}

/// Contents of an incident bundle when no host answers: what is visible from this machine.
async fn without_host(file: Option<&Path>, error: &ClientError) -> Vec<BundleFile> {
    let (config, problems) = Config::read_process(file);
    let shown: Vec<_> = config
        .entries()
        .into_iter()
        .filter_map(|entry| {
            let value = redact_own(entry.value.as_ref()?);
            Some(json!({ "key": entry.key, "value": value, "source": entry.source }))
        })
        .collect();
    let problems: Vec<String> = problems.iter().map(|problem| redact_own(problem)).collect();
    let findings = if problems.is_empty() {
        let mut findings = serde_json::to_value(doctor::examine(&config).await).unwrap_or_default();
        for finding in findings.as_array_mut().into_iter().flatten() {
            for name in ["message", "mend"] {
                if let Some(text) = finding[name].as_str() {
                    finding[name] = redact_own(text).into();
                }
            }
        }
        Ok(findings)
    } else {
        Err("the configuration cannot be used; see config.json".into())
    };
    let versions =
        json!({ "commandLine": env!("CARGO_PKG_VERSION"), "host": redact_own(&error.to_string()) });
    vec![
        BundleFile::json(
            "versions.json",
            "of this command; no host answered",
            Ok(versions),
        ),
        BundleFile::json(
            "config.json",
            "every key that is set here, secrets as (set), and what is wrong",
            Ok(json!({ "keys": shown, "problems": problems })),
        ),
        BundleFile::json("doctor.json", "what `patchbay doctor` finds here", findings),
    ]
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_configuration = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ConfigError>() || cause.is::<KeyError>()
    };
    if error.chain().any(is_configuration) {
        return ExitCode::from(4);
    }
    if let Some(code) = patchbay_cli::exit_code(error) {
        return ExitCode::from(code);
    }
    let is_unreachable = error.chain().any(|cause| {
        cause
            .downcast_ref()
            .is_some_and(patchbay_store::StoreError::is_passing)
            || cause
                .downcast_ref()
                .is_some_and(patchbay_queue::QueueError::is_passing)
    });
    if is_unreachable {
        ExitCode::from(5)
    } else {
        ExitCode::FAILURE
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
