//! The commands of `patchbay`. Those for this machine are here, others in [`patchbay_cli`].

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::CompleteEnv;
use clap_complete::env::Shells;
use patchbay_app::incident::BundleFile;
use patchbay_app::people::hash_for_configuration;
use patchbay_app::vault::KeyError;
use patchbay_cli::audit::AuditCommand;
use patchbay_cli::client::{ClientArgs, ClientError};
use patchbay_cli::operator::OperatorCommand;
use patchbay_cli::{Output, print_error};
use patchbay_model::shell::word;
use patchbay_store::Store;
use patchbay_telemetry::redact_own;
use serde_json::json;

use crate::boot::Host;
use crate::config::{Config, ConfigEntry, ConfigError};
use crate::dev_state::DevState;
use crate::{dev, doctor, incident, ledger, recover};

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
    /// Print JSON for scripts: short for --output-format json
    #[arg(
        long,
        global = true,
        conflicts_with = "output_format",
        help_heading = "Output"
    )]
    json: bool,
    /// Form of the output
    #[arg(
        short = 'o',
        long = "output-format",
        id = "output_format",
        global = true,
        value_enum,
        help_heading = "Output"
    )]
    format: Option<Format>,
    /// Print only the first column of lists and the ids of what was added; nothing after other
    /// changes
    #[arg(short, long, global = true, help_heading = "Output")]
    quiet: bool,
    /// Repeat a command that reads, every two seconds or so often; for a bulk operation: follow it
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", help_heading = "Output")]
    // Text, because `patchbay dev` has an option of the same name, for folders, and clap reads both
    // as one type.
    watch: Option<String>,
    /// Configuration file [default: patchbay.toml here or in /etc/patchbay]
    #[arg(long, global = true, value_name = "FILE", env = "PATCHBAY_CONFIG", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    config: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// JSON for scripts, in one envelope for all commands
    Json,
    /// Tables that fit the terminal, with the most important columns
    Table,
    /// Tables with all columns, and exact times
    Wide,
}

impl Cli {
    fn output(&self) -> Output {
        Output {
            json: self.json || self.format == Some(Format::Json),
            wide: self.format == Some(Format::Wide),
            quiet: self.quiet,
            watch: self.watch.is_some() && !matches!(self.command, Command::Dev(_)),
        }
    }
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
    /// Print the hash of a password for people.master_password_hash
    HashPassword {
        #[command(flatten)]
        password: patchbay_cli::ValueSource,
    },
    /// Collect information about an incident for somebody elsewhere
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// List and show the mails that `patchbay dev` has caught
    #[command(subcommand)]
    Mail(dev::MailCommand),
    /// Print a completion script for a shell, which also completes names of queues, plugins,
    /// schedules and alert rules, for example: patchbay completions bash >
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
    patchbay_cli::names::find_dev_with(|| DevState::find().map(DevState::connection));
    // Ends the process if a shell asks for completions.
    CompleteEnv::with_factory(command).complete();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // Before any thread or runtime exists: the child must be as small as possible.
    if let Command::Compile { arguments } = cli.command {
        return patchbay_runtime::compile_child(arguments.into_iter());
    }
    let output = cli.output();
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
    let ended = match &cli.watch {
        Some(_) if matches!(cli.command, Command::Dev(_)) => runtime.block_on(run(cli, output)),
        Some(length) if cli.is_read() => match watch_every(length) {
            Some(every) => runtime.block_on(watch(cli, every, output)),
            None => Err(Usage("--watch: must be from 1 to 3600 seconds: a number, or one with a unit, such as 10s or 5m".into()).into()),
        },
        Some(_) if !cli.can_be_followed() => {
            Err(Usage("--watch repeats commands that only read, such as `patchbay status`, and follows bulk operations".into()).into())
        }
        _ => runtime.block_on(run(cli, output)),
    };
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            let code = exit_code(&error);
            patchbay_telemetry::last_words(move || print_error(output, &error, error_code(&error)));
            code
        }
    }
}

/// Seconds, or a duration with a unit.
fn watch_every(text: &str) -> Option<Duration> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    seconds
        .or_else(|| patchbay_cli::duration(text).ok())
        .filter(|every| (Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(every))
}

/// A wrong use of the command line that the parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// As clap derives it, but `-1` is a value and no option, so that the error says what is allowed;
/// and texts for people may begin with a dash.
fn command() -> clap::Command {
    fn with_dashes(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| match arg.get_action().takes_values() {
                true if TEXTS.contains(&arg.get_id().as_str()) => arg.allow_hyphen_values(true),
                true => arg.allow_negative_numbers(true),
                false => arg,
            })
            .mut_subcommands(with_dashes)
    }
    with_dashes(Cli::command())
}

/// Options that take any text.
const TEXTS: [&str; 2] = ["reason", "description"];

/// Names of commands that others have, and what it is called where they do not: the group, what was
/// written, and what is meant.
const MEANT: [(&str, &str, &str); 1] = [("plugin", "show", "status")];

/// What was meant: how to give a value that begins with a dash, or how a command is called.
fn tip_for(
    error: &clap::Error,
    mut command: clap::Command,
    arguments: &[String],
) -> Option<String> {
    match error.kind() {
        ErrorKind::InvalidValue => {
            let Some(ContextValue::String(about)) = error.get(ContextKind::InvalidArg) else {
                return None;
            };
            let option = about.split([' ', '=']).next()?;
            let at = arguments.iter().position(|argument| argument == option)?;
            let value = arguments
                .get(at + 1)
                .filter(|value| value.starts_with('-'))?;
            Some(tip_for_option(option, value))
        }
        ErrorKind::UnknownArgument => {
            // Another option is meant.
            if error.get(ContextKind::SuggestedArg).is_some() {
                return Some(String::new());
            }
            // Clap gives a tip where the command takes values.
            error.get(ContextKind::Suggested)?;
            command.build();
            if let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg)
                && let Some((option, value)) = option_before(&command, arguments, unknown)
            {
                return Some(tip_for_option(option, value));
            }
            let (value, line) = with_values_last(&command, arguments)?;
            if is_like_an_option(&command, &value) {
                return Some(options_of(&command, arguments));
            }
            Some(format!(
                "\ntip: {} is no option here. If it is a name, an id or data, write the options first, then --, then the values:\n       {line}\n",
                word(&value)
            ))
        }
        ErrorKind::InvalidSubcommand => {
            let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidSubcommand)
            else {
                return None;
            };
            let is_in = |group: &str| arguments.iter().any(|argument| argument == group);
            let (group, _, right) = MEANT
                .iter()
                .find(|(group, written, _)| written == wrong && is_in(group))?;
            Some(format!("\ntip: did you mean patchbay {group} {right}?\n"))
        }
        _ => None,
    }
}

/// Whether a value is rather an option that this command does not have: `--word`, or a short one that
/// another command has.
fn is_like_an_option(command: &clap::Command, value: &str) -> bool {
    if let Some(long) = value.strip_prefix("--") {
        let name = long.split('=').next().unwrap_or_default();
        let is_in_name = |c: char| c.is_ascii_lowercase() || c == '-';
        return name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_in_name);
    }
    fn has_short(command: &clap::Command, short: char) -> bool {
        let mut own = command.get_arguments();
        own.any(|arg| arg.get_short() == Some(short))
            || command.get_subcommands().any(|sub| has_short(sub, short))
    }
    let mut letters = value.trim_start_matches('-').chars();
    match (letters.next(), letters.next()) {
        (Some(short), None) => has_short(command, short),
        _ => false,
    }
}

/// The options of the command that the arguments name, without those that every command has.
fn options_of(command: &clap::Command, arguments: &[String]) -> String {
    let (mut command, mut words) = (command, vec!["patchbay"]);
    for text in arguments {
        if let Some(sub) = command.find_subcommand(text) {
            command = sub;
            words.push(sub.get_name());
        }
    }
    let own = command.get_arguments();
    let own = own.filter(|arg| !arg.is_global_set() && !arg.is_hide_set());
    let names: Vec<String> = own
        .filter_map(|arg| arg.get_long())
        .filter(|name| *name != "help")
        .map(|name| format!("--{name}"))
        .collect();
    let words = words.join(" ");
    match names.is_empty() {
        true => format!("\ntip: {words} has no options of its own\n"),
        false => format!("\ntip: options of {words}: {}\n", names.join(", ")),
    }
}

fn tip_for_option(option: &str, value: &str) -> String {
    format!(
        "\ntip: to give {option} a value that begins with a dash, write {}\n",
        word(&format!("{option}={value}"))
    )
}

/// The option that stands before an argument which nothing takes, and its value if it is that.
fn option_before<'a>(
    command: &clap::Command,
    arguments: &'a [String],
    unknown: &str,
) -> Option<(&'a str, &'a str)> {
    let mut command = command;
    for (text, next) in arguments.iter().zip(arguments.iter().skip(1)) {
        if text == "--" {
            return None;
        } else if let Some(option) = option_of(command, text) {
            let waits =
                option.get_action().takes_values() && text.starts_with("--") && !text.contains('=');
            if waits && next.starts_with(unknown) {
                return Some((text, next));
            }
        } else if let Some(sub) = command.find_subcommand(text) {
            command = sub;
        }
    }
    None
}

/// The first value that begins with a dash, and the command line that has it as a value: with the
/// options first. `command` is built.
fn with_values_last(command: &clap::Command, arguments: &[String]) -> Option<(String, String)> {
    let mut command = command;
    let (mut words, mut values) = (vec!["patchbay".to_owned()], Vec::new());
    let mut rest = arguments.iter().peekable();
    while let Some(text) = rest.next() {
        if text == "--" {
            values.extend(rest.by_ref().cloned());
        } else if let Some(option) = option_of(command, text) {
            let name = option.get_long().unwrap_or_default();
            let hides = name == "password";
            words.push(match hides && text.contains('=') {
                true => "--password=PASSWORD".to_owned(),
                false => word(text).into_owned(),
            });
            let has_its_value = text.contains('=') || (!text.starts_with("--") && text.len() > 2);
            let takes = option.get_num_args().unwrap_or_default();
            if !option.get_action().takes_values()
                || has_its_value
                || option.is_require_equals_set()
            {
                continue;
            }
            for place in 0..takes.max_values() {
                let is_next = |next: &&String| place < takes.min_values() || !next.starts_with('-');
                match rest.next_if(|next| is_next(next)) {
                    Some(_) if hides => words.push("PASSWORD".to_owned()),
                    Some(value) => words.push(word(value).into_owned()),
                    None => break,
                }
            }
        } else if let (true, Some(sub)) = (values.is_empty(), command.find_subcommand(text)) {
            command = sub;
            words.push(text.clone());
        } else {
            values.push(text.clone());
        }
    }
    let dashed = values.iter().find(|value| value.starts_with('-'))?.clone();
    let values: Vec<_> = values.iter().map(|value| word(value)).collect();
    Some((
        dashed,
        format!("{} -- {}", words.join(" "), values.join(" ")),
    ))
}

/// The option that an argument gives; of several short ones in one argument, the first.
fn option_of<'a>(command: &'a clap::Command, text: &str) -> Option<&'a clap::Arg> {
    let short = |c: char| {
        let mut all = command.get_arguments();
        all.find(|arg| arg.get_short() == Some(c))
    };
    if let Some(long) = text.strip_prefix("--") {
        let long = long.split('=').next();
        let mut all = command.get_arguments();
        return all.find(|arg| arg.get_long().is_some() && arg.get_long() == long);
    }
    let mut letters = text.strip_prefix('-')?.chars();
    let first = short(letters.next()?)?;
    let takes_the_rest = first.get_action().takes_values();
    let all_known = letters.all(|c| short(c).is_some());
    (takes_the_rest || all_known).then_some(first)
}

/// The arguments of this process. Errors are printed, for scripts in the envelope of all others.
fn parse() -> Result<Cli, ExitCode> {
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let mut cli = parsed.map_err(|error| {
        let mut error = error.format(&mut command());
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let tip = tip_for(&error, command(), &arguments);
        if tip.is_some() {
            // With clap's own tip, an option that follows the value would be taken for one, too.
            error.remove(ContextKind::Suggested);
        }
        let tip = tip.unwrap_or_default();
        let wants_json = std::env::args_os().any(|argument| {
            ["--json", "-ojson", "--output-format=json"]
                .iter()
                .any(|json| argument == *json)
        });
        if wants_json && error.use_stderr() {
            let text = error.render().to_string();
            let text = text
                .strip_prefix("error: ")
                .unwrap_or(&text)
                .trim()
                .to_owned()
                + &tip;
            let output = Output {
                json: true,
                ..Output::default()
            };
            print_error(output, &Usage(text).into(), USAGE);
        } else {
            // Nothing is left to do if that fails.
            let _ = error.print();
            eprint!("{tip}");
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })?;
    // An empty variable is one that is not set.
    cli.config = cli.config.filter(|file| !file.as_os_str().is_empty());
    cli.client = cli.client.or(|| DevState::find().map(DevState::connection));
    Ok(cli)
}

impl Cli {
    fn is_read(&self) -> bool {
        match &self.command {
            Command::Host(command) => command.is_read(),
            Command::Doctor | Command::Config | Command::Mail(_) => true,
            _ => false,
        }
    }

    fn can_be_followed(&self) -> bool {
        matches!(&self.command, Command::Host(command) if command.can_be_followed())
    }
}

/// Repeats a command until somebody ends it. While the host is away, the error is shown instead.
async fn watch(mut cli: Cli, every: Duration, output: Output) -> anyhow::Result<ExitCode> {
    let clears = !output.json && std::io::stdout().is_terminal();
    loop {
        if clears {
            // Clears the screen, and puts the cursor at its beginning.
            print!("\u{1b}[2J\u{1b}[H");
        }
        if !output.json {
            let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
            println!("{now}, every {} s; Ctrl-C ends\n", every.as_secs());
        }
        if let Err(error) = run(cli, output).await {
            // Only what another look may change is worth another look.
            if exit_code(&error) != ExitCode::from(UNREACHABLE) {
                return Err(error);
            }
            print_error(output, &error, error_code(&error));
        }
        tokio::time::sleep(every).await;
        cli = match parse() {
            Ok(cli) => cli,
            Err(code) => return Ok(code),
        };
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
            std::process::exit(BROKEN_PIPE.into());
        }
        let unwritten = panic
            .payload_as_str()
            .and_then(|text| text.strip_prefix("failed printing to stdout: "));
        if let Some(why) = unwritten {
            eprintln!("error: cannot write the output: {why}");
            std::process::exit(1);
        }
        usual(panic);
    }));
}

/// The exit code when nobody reads the rest of the output. Whether the end was still written depends
/// on when the reader closes; a script must not see that, so it is as if all was written.
const BROKEN_PIPE: u8 = 0;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let error = cause.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
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
        Command::HashPassword { password } => {
            let hash = hash_for_configuration(&password.read("the password")?)?;
            output.value(&hash, &json!({ "hash": hash }));
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
        Command::Host(patchbay_cli::Command::Audit(AuditCommand::Verify(args)))
            if args.database =>
        {
            return ledger::verify_database(args, cli.config.as_deref(), output).await;
        }
        Command::Host(patchbay_cli::Command::Operator(OperatorCommand::Recover(args))) => {
            recover::recover(args, cli.config.as_deref(), output).await?;
        }
        Command::Host(command) => return patchbay_cli::run(command, &cli.client, output).await,
        Command::Mail(command) => dev::run_mail(command, output)?,
        Command::Completions { shell } => {
            let shells = Shells::builtins();
            let completer = shells.completer(&shell.to_string());
            let completer = completer.context("this shell is not supported")?;
            let (name, binary) = ("patchbay", "patchbay");
            completer.write_registration(
                "COMPLETE",
                name,
                binary,
                binary,
                &mut std::io::stdout(),
            )?;
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
    let variables = dev.variables();
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
    if error.is::<Usage>() {
        return ExitCode::from(2);
    }
    if let Some(code) = patchbay_cli::exit_code(error) {
        return ExitCode::from(code);
    }
    if is_unreachable(error) {
        ExitCode::from(UNREACHABLE)
    } else {
        ExitCode::FAILURE
    }
}

/// The exit code if the host, or what it needs, cannot be reached.
const UNREACHABLE: u8 = 5;
/// The code for a wrong use of the command line.
const USAGE: &str = "usage";

fn is_unreachable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref()
            .is_some_and(patchbay_store::StoreError::is_passing)
            || cause
                .downcast_ref()
                .is_some_and(patchbay_queue::QueueError::is_passing)
    })
}

/// The stable code of an error, for scripts.
fn error_code(error: &anyhow::Error) -> &str {
    if error.is::<Usage>() {
        return USAGE;
    }
    let is_configuration = error
        .chain()
        .any(|cause| cause.is::<ConfigError>() || cause.is::<KeyError>());
    match patchbay_cli::code(error) {
        _ if is_configuration => "invalid-configuration",
        Some(code) => code,
        None if is_unreachable(error) => "unavailable",
        None => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_value_that_begins_with_a_dash_is_moved_behind_the_options() {
        let tip = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let words = std::iter::once("patchbay".to_owned()).chain(arguments.clone());
            let error = command().try_get_matches_from(words).err()?;
            let error = error.format(&mut command());
            tip_for(&error, command(), &arguments)
        };
        for (line, corrected) in [
            (
                "job remove q -x --yes --reason r",
                "patchbay job remove --yes --reason r -- q -x",
            ),
            (
                "--password p job show -q/1 -é",
                "patchbay --password PASSWORD job show -- -q/1 -é",
            ),
            (
                "job set-data q -xy {}",
                "patchbay job set-data -- q -xy '{}'",
            ),
            ("queue pause -x -ojson", "patchbay queue pause -ojson -- -x"),
        ] {
            let tip = tip(line).expect("a tip");
            assert!(tip.ends_with(&format!("{corrected}\n")), "{line}: {tip}");
        }
        for line in [
            "bulk resume 1 --everything",
            "bulk resume 1 -o -k --everything=1",
        ] {
            let tip = tip(line).unwrap_or_default();
            assert!(!tip.contains(" -- "), "{line}: {tip}");
        }
        assert_eq!(
            tip("bulk resume 1 --everything").as_deref(),
            Some("\ntip: options of patchbay bulk resume: --first, --yes, --reason\n")
        );
        assert_eq!(tip("queue show q --jsn").as_deref(), Some(""));
        assert_eq!(tip("status -x"), None);
        assert_eq!(
            tip("plugin show email").as_deref(),
            Some("\ntip: did you mean patchbay plugin status?\n")
        );
        let tip = tip("job duplicate q 1 --data -x").expect("a tip");
        assert!(tip.ends_with("write --data=-x\n"), "{tip}");
    }

    #[test]
    fn texts_and_numbers_may_begin_with_a_dash() {
        for line in [
            "job remove q -5 --reason -x",
            "job show q 1 --reveal --reason -x",
            "job add q send -5",
            "job duplicate q 1 --data -5",
            "bulk retry --everything --reason -x",
            "alert silence all --for 1h --reason -x",
            "schedule edit s --description -x",
        ] {
            let words = std::iter::once("patchbay").chain(line.split(' '));
            let parsed = command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("refused"));
        }
    }
}
