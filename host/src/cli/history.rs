//! `patchbay history …`

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::plugin::{items, text};
use super::refusal::{Refusal, confirmed};
use crate::http::{api_path, with_query};

#[derive(Subcommand)]
pub(super) enum HistoryCommand {
    /// What waits in Redis, what Postgres holds and since when, and whether data and results are kept
    Status,
    /// How long attempts are kept
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Forget now what is older than it is to be kept; otherwise that happens once an hour
    Prune {
        /// Only say what would be forgotten
        #[arg(long)]
        dry_run: bool,
    },
    /// Erase a person's data from the history: of jobs with this value go data, result, message, backtrace and outside calls
    Erase(EraseArgs),
    /// Data and results of a job, without what its queue's manifest redacts; who reads them is recorded
    Body {
        /// Its queue
        queue: String,
        /// Its id
        id: String,
    },
    /// Write attempts into a file; docs/operations/history.md says what a filter can be
    Export(ExportArgs),
}

#[derive(Subcommand)]
pub(super) enum RetentionCommand {
    /// What holds
    List,
    /// Keep a queue's attempts for so many days
    Set {
        /// The queue
        queue: String,
        /// Only attempts that ended so: completed, failed, trapped, deadline, memory-limit, invalid-result or host-fault
        #[arg(long)]
        outcome: Option<String>,
        /// 1 to 36500
        #[arg(long)]
        days: u32,
    },
    /// Keep a queue's attempts as long as the configuration says
    Reset {
        /// The queue
        queue: String,
        /// Only what was said of this outcome
        #[arg(long)]
        outcome: Option<String>,
    },
}

#[derive(Args)]
pub(super) struct EraseArgs {
    /// Where the value stands in the data of jobs, for example customer.phone; a path that a manifest declares searchable
    #[arg(long)]
    path: String,
    /// The value; better on standard input, which no shell remembers
    #[arg(long)]
    value: Option<String>,
    /// Only jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// For the record: a request's number, for example, and no personal data
    #[arg(long)]
    reason: String,
    /// Do it; otherwise only say what would be erased
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

#[derive(Args)]
pub(super) struct ExportArgs {
    /// One JSON document a line, or comma-separated values
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Where to; it is there once all of it is [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
    /// With data and results, without what manifests redact
    #[arg(long)]
    bodies: bool,
    /// Which, for example queue=emailQueue outcome=failed from=2026-01-01T00:00:00Z data.lead.id=42; none: all
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
}

/// A large history is larger than any usual limit on a request.
const EXPORT_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// Jobs in Redis that are named to people.
const MOST_SHOWN: usize = 10;

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a name and a value with = between them")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn run(command: HistoryCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        HistoryCommand::Status => status(&client, output).await,
        HistoryCommand::Retention(command) => retention(command, &client, output).await,
        HistoryCommand::Prune { dry_run } => prune(dry_run, &client, output).await,
        HistoryCommand::Erase(args) => erase(args, &client, output).await,
        HistoryCommand::Body { queue, id } => {
            let path = api_path(&["history", "bodies", &queue, &id]);
            let bodies = client.call(Method::GET, &path, None).await?;
            let rows = items(&bodies).map(|body| {
                let shown = |field: &str| match body["withheld"].as_str() {
                    Some(reason) => format!("({reason})"),
                    None => body[field].to_string(),
                };
                vec![text(body, "finishedAt"), body["started"].to_string(), shown("data"), shown("result")]
            });
            output.table(&["FINISHED", "START", "DATA", "RESULT"], rows.collect(), &bodies);
            Ok(())
        }
        HistoryCommand::Export(args) => export(args, &client, output).await,
    }
}

async fn status(client: &Client, output: Output) -> anyhow::Result<()> {
    let status = client.call(Method::GET, "history/status", None).await?;
    let stream = &status["stream"];
    let lag = stream["lagMs"].as_u64().map_or("none".to_owned(), |ms| format!("the oldest {} s old", ms / 1_000));
    let kept = match status["bodies"]["reason"].as_str() {
        Some(reason) => format!("not kept by this host: {reason}"),
        None => "kept, sealed".to_owned(),
    };
    let pruned = match &status["lastPrune"] {
        Value::Null => "never".to_owned(),
        last => {
            let failed = last["error"].as_str().map(|error| format!("; it failed: {error}")).unwrap_or_default();
            let counts = format!("{} attempts, {} of the months' tables", last["attempts"], last["partitions"]);
            format!("{}: {counts}{failed}", text(last, "startedAt"))
        }
    };
    let default = &status["retention"]["default"];
    let keeps = format!(
        "completed {} days, others {}; {} exceptions",
        default["completedDays"],
        default["otherDays"],
        status["retention"]["queues"].as_array().map_or(0, Vec::len)
    );
    let recording = if status["enabled"] == true { "on" } else { "off on this host (history.enabled)" };
    let mut rows: Vec<Vec<String>> = [
        ("recording", recording.to_owned()),
        ("not in Postgres yet", format!("{} attempts, {lag}", stream["attempts"])),
        ("in Redis", bytes(&stream["bytes"])),
        ("set aside", stream["setAside"].to_string()),
        ("data and results", kept),
        ("oldest attempt", text(&status, "oldest")),
        ("keeps", keeps),
        ("last forgotten", pruned),
    ]
    .into_iter()
    .map(|(name, value)| vec![name.to_owned(), value])
    .collect();
    for partition in items(&status["partitions"]) {
        let size = format!("about {} attempts, {}", partition["rows"], bytes(&partition["bytes"]));
        rows.push(vec![text(partition, "name"), size]);
    }
    output.table(&["HISTORY", ""], rows, &status);
    Ok(())
}

fn bytes(value: &Value) -> String {
    let bytes = value.as_u64().unwrap_or(0);
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

async fn retention(command: RetentionCommand, client: &Client, output: Output) -> anyhow::Result<()> {
    let path = |queue: &str| api_path(&["history", "retention", queue]);
    let retention = match command {
        RetentionCommand::List => client.call(Method::GET, "history/retention", None).await?,
        RetentionCommand::Set { queue, outcome, days } => {
            client.call(Method::PUT, &path(&queue), Some(json!({ "outcome": outcome, "days": days }))).await?
        }
        RetentionCommand::Reset { queue, outcome } => {
            let path = with_query(&path(&queue), outcome.map(|outcome| ("outcome", outcome)));
            client.call(Method::DELETE, &path, None).await?
        }
    };
    let default = &retention["default"];
    let mut rows = vec![
        vec!["*".to_owned(), "completed".into(), default["completedDays"].to_string(), "history.keep_days".into()],
        vec!["*".to_owned(), "others".into(), default["otherDays"].to_string(), "history.keep_failed_days".into()],
    ];
    rows.extend(items(&retention["queues"]).map(|row| {
        let outcome = row["outcome"].as_str().unwrap_or("*").to_owned();
        vec![text(row, "queue"), outcome, row["days"].to_string(), text(row, "changedBy")]
    }));
    output.table(&["QUEUE", "OUTCOME", "DAYS", "BY"], rows, &retention);
    Ok(())
}

async fn prune(dry_run: bool, client: &Client, output: Output) -> anyhow::Result<()> {
    let done = client.call(Method::POST, "history/prune", Some(json!({ "dryRun": dry_run }))).await?;
    let months: Vec<&str> = items(&done["partitions"]).filter_map(Value::as_str).collect();
    let months = if months.is_empty() { "no whole month".to_owned() } else { months.join(", ") };
    let sentence = format!(
        "{}: {}{} attempts, {months} (about {} attempts), {} groups of dead letters",
        if dry_run { "would be forgotten" } else { "forgotten" },
        done["attempts"],
        if done["andMore"] == true { " and more" } else { "" },
        done["attemptsInPartitions"],
        done["deadLetters"]
    );
    output.value(&sentence, &done);
    Ok(())
}

async fn erase(args: EraseArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let value = match args.value {
        Some(value) => value,
        None => from_stdin()?,
    };
    let request = |dry_run: bool| {
        let body = json!({
            "path": args.path, "value": value, "queue": args.queue, "reason": args.reason, "dryRun": dry_run,
        });
        client.call(Method::POST, "history/erase", Some(body))
    };
    let would = request(true).await?;
    let counted = |done: &Value| {
        let more = if done["andMore"] == true { ", and there are more: do it again" } else { "" };
        format!("{} attempts of {} jobs, {} of them with data{more}", done["attempts"], done["jobs"], done["bodies"])
    };
    if !args.yes && (output.json || !std::io::stdin().is_terminal() || would["attempts"] == 0) {
        output.value(&format!("would be erased: {}{}", counted(&would), left(&would)), &would);
        if would["attempts"] != 0 {
            return Err(Refusal("nothing was erased; say --yes if that is meant".into()).into());
        }
        return Ok(());
    }
    confirmed(args.yes, &format!("this erases {}", counted(&would)))?;
    let done = request(false).await?;
    output.value(&format!("erased: {}{}", counted(&done), left(&done)), &done);
    Ok(())
}

/// What an erasure does not reach.
fn left(done: &Value) -> String {
    let mut left = String::new();
    if done["undeclared"] == true {
        left += "\nno active plugin declares this path searchable: attempts that were recorded without that are not found, and keep their data";
    }
    if done["waiting"] != 0 {
        left += &format!("\n{} attempts are not in Postgres yet: do it again once they are", done["waiting"]);
    }
    let live = &done["live"];
    if live["found"] != 0 {
        left += &format!("\n{} jobs in Redis have the value, and stay as they are:", live["found"]);
        for job in items(&live["jobs"]).take(MOST_SHOWN) {
            left += &format!("\n  {} {} ({})", text(job, "queue"), text(job, "id"), text(job, "state"));
        }
        if live["found"].as_u64() > Some(MOST_SHOWN as u64) {
            left += "\n  … the first hundred with --json";
        }
    }
    if live["complete"] == false {
        left += "\nnot every job in Redis was looked at: there are too many";
    }
    left
}

fn from_stdin() -> anyhow::Result<String> {
    let mut value = String::new();
    if std::io::stdin().is_terminal() {
        eprint!("value: ");
        std::io::stdin().read_line(&mut value)?;
    } else {
        std::io::stdin().read_to_string(&mut value)?;
    }
    Ok(value.trim_end_matches(['\r', '\n']).to_owned())
}

async fn export(args: ExportArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let format = if matches!(args.format, Format::Csv) { "csv" } else { "jsonl" };
    let query = [("format", format)].into_iter().chain(args.bodies.then_some(("bodies", "true")));
    let query = query.chain(args.filter.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let response = client.get_raw(&with_query("history/export", query), EXPORT_LIMIT).await?;
    let mut chunks = response.bytes_stream();
    let broken = "the export broke off: what has arrived is not all";
    match args.out {
        None => {
            let mut out = tokio::io::stdout();
            while let Some(chunk) = chunks.next().await {
                out.write_all(&chunk.context(broken)?).await?;
            }
            out.flush().await?;
        }
        Some(path) => {
            // Nobody is to take a part for the whole.
            let part = part_of(&path)?;
            let (file, unfinished) = part.into_parts();
            let mut file = tokio::fs::File::from_std(file);
            let mut total = 0;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.context(broken)?;
                total += chunk.len();
                file.write_all(&chunk).await.with_context(|| format!("cannot write {}", path.display()))?;
            }
            file.sync_all().await?;
            unfinished.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
            output.value(
                &format!("{}: {}", path.display(), bytes(&json!(total))),
                &json!({ "file": path, "bytes": total }),
            );
        }
    }
    Ok(())
}

/// Beside the file, so that it can take its name.
fn part_of(path: &Path) -> anyhow::Result<tempfile::NamedTempFile> {
    if path.is_dir() {
        bail!("{} is a directory: name a file", path.display());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write to {}", folder.display()))
}
