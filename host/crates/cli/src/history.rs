//! `patchbay history …`

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;
use patchbay_api::path::{api_path, with_query};
use reqwest::Method;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::client::{Client, ClientArgs, RevealArgs};
use super::output::Output;
use super::refusal::{Refusal, confirmed};
use super::view::{items, text};

#[derive(Subcommand)]
pub enum HistoryCommand {
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
    /// Erase a person's data, or a job: from Redis, the history, copies for undoing, events, and what operators have typed
    Erase(EraseArgs),
    /// List erasures: who asked, why, and whether they have ended
    Erasures {
        /// At most so many, 1 to 200
        #[arg(long, default_value_t = 50)]
        limit: u16,
    },
    /// Data and results of a job, without what its queue's manifest redacts; who reads them is recorded
    Body {
        /// Its queue
        queue: String,
        /// Its id
        id: String,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Write attempts into a file; docs/operations/history.md says what a filter can be
    Export(ExportArgs),
}

#[derive(Subcommand)]
pub enum RetentionCommand {
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
pub struct EraseArgs {
    /// Of a person: where the value stands in the data of jobs, for example customer.phone; a path that a manifest declares searchable
    #[arg(long, required_unless_present = "job")]
    path: Option<String>,
    /// The value; better on standard input, which no shell remembers
    #[arg(long, requires = "path")]
    value: Option<String>,
    /// Only jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only the job with this id
    #[arg(long, requires = "queue")]
    job: Option<String>,
    /// Also jobs that are still to run: they are removed and never run
    #[arg(long)]
    unfinished: bool,
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
pub struct ExportArgs {
    /// One JSON document a line, or comma-separated values
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Where to; it is there once all of it is [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
    /// With data and results, without what manifests redact
    #[arg(long)]
    bodies: bool,
    /// With what manifests redact and with secrets, too; that is recorded
    #[arg(long, requires = "bodies")]
    reveal: bool,
    /// Which, for example queue=emailQueue outcome=failed from=2026-01-01T00:00:00Z data.lead.id=42; none: all
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
}

/// A large history is larger than any usual limit on a request.
const EXPORT_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// Jobs in Redis that are named to people.
const MOST_SHOWN: usize = 10;

/// Data and results as they stand, since reading them would round their numbers.
#[derive(serde::Deserialize)]
struct Answer {
    data: Box<RawValue>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    finished_at: String,
    started: i64,
    withheld: Option<String>,
    data: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a name and a value with = between them")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(command: HistoryCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        HistoryCommand::Status => status(&client, output).await,
        HistoryCommand::Retention(command) => retention(command, &client, output).await,
        HistoryCommand::Prune { dry_run } => prune(dry_run, &client, output).await,
        HistoryCommand::Erase(args) => erase(args, &client, output).await,
        HistoryCommand::Erasures { limit } => erasures(limit, &client, output).await,
        HistoryCommand::Body { queue, id, reveal } => {
            let path = format!("{}{}", api_path(&["history", "bodies", &queue, &id]), reveal.query('?'));
            let answer: Answer = serde_json::from_slice(&client.bytes(&path).await?)?;
            let bodies: Vec<Body> = serde_json::from_str(answer.data.get())?;
            let rows = bodies.iter().map(|body| {
                let shown = |json: &Option<Box<RawValue>>| match (&body.withheld, json) {
                    (Some(reason), _) => format!("({reason})"),
                    (None, Some(json)) => json.get().to_owned(),
                    (None, None) => "null".to_owned(),
                };
                vec![body.finished_at.clone(), body.started.to_string(), shown(&body.data), shown(&body.result)]
            });
            output.table(&["FINISHED", "START", "DATA", "RESULT"], rows.collect(), &answer.data);
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
    let value = match (&args.path, args.value) {
        (None, _) => None,
        (Some(_), Some(value)) => Some(value),
        (Some(_), None) => Some(from_stdin()?),
    };
    let request = |dry_run: bool| {
        let body = json!({
            "path": args.path, "value": value, "queue": args.queue, "job": args.job, "reason": args.reason, "unfinished": args.unfinished,
            "dryRun": dry_run,
        });
        client.post_slow("history/erase", body, ERASE_LIMIT)
    };
    let would = request(true).await?;
    let is_nothing = would["attempts"] == 0 && PLACES.iter().all(|(place, _)| would["places"][*place] == 0);
    if !args.yes && (output.json || !std::io::stdin().is_terminal() || is_nothing) {
        output.value(&format!("would be erased: {}{}", counted(&would), left(&would)), &would);
        if !is_nothing {
            return Err(Refusal("nothing was erased; say --yes if that is meant".into()).into());
        }
        return Ok(());
    }
    confirmed(args.yes, &format!("this erases {}", counted(&would)))?;
    let done = request(false).await?;
    output.value(&format!("erased: {}{}", counted(&done), left(&done)), &done);
    Ok(())
}

/// Looking through all jobs and all texts takes its time.
const ERASE_LIMIT: Duration = Duration::from_secs(600);

/// Where something is erased beside the history.
const PLACES: [(&str, &str); 14] = [
    ("redisEnded", "jobs in Redis that have ended"),
    ("redisUnfinished", "jobs in Redis that were still to run"),
    ("flowResults", "results of children that parents in flows were told"),
    ("undoCopies", "copies for undoing removals"),
    ("events", "events of queues"),
    ("keyValue", "keys of plugins' key-value spaces"),
    ("setAside", "attempts that were set aside"),
    ("savedSearches", "saved searches (the value in them)"),
    ("bulkOperations", "bulk operations (the value in them)"),
    ("deadLetters", "dead letters (the value in them)"),
    ("operatorActions", "operators' actions (the value in them)"),
    ("alerts", "alerts and silences (the value in them)"),
    ("schedules", "descriptions of schedules (the value in them)"),
    ("reasons", "reasons of erasures and quarantines (the value in them)"),
];

/// What stays, and what to do about it.
const LEFT: [(&str, &str); 3] = [
    ("auditEntriesLeft", "entries of audit trails hold the value; they are kept for good (docs/plugins/audit.md)"),
    ("bulkOperationsLeft", "bulk operations go on with the value in their filter; ask again when they have ended"),
    ("outboxLeft", "jobs of plugins' transactions are not in their queues yet; ask again"),
];

fn counted(done: &Value) -> String {
    let more = if done["andMore"] == true { ", and there are more: do it again" } else { "" };
    let mut text =
        format!("{} attempts of {} jobs, {} of them with data{more}", done["attempts"], done["jobs"], done["bodies"]);
    for (place, what) in PLACES {
        if done["places"][place] != 0 {
            text += &format!("\n  {} {what}", done["places"][place]);
        }
    }
    text
}

/// What an erasure does not reach.
fn left(done: &Value) -> String {
    let mut left = String::new();
    if done["undeclared"] == true {
        left += "\nNo active plugin declares this path searchable: attempts that were recorded without that are not found, and keep their data";
    }
    if done["waiting"] != 0 {
        left += &format!(
            "\n{} attempts are not in Postgres yet; those of these jobs are erased once they are",
            done["waiting"]
        );
    }
    let live = &done["live"];
    if live["found"] != 0 {
        left += &format!("\n{} jobs in Redis are left:", live["found"]);
        for job in items(&live["jobs"]).take(MOST_SHOWN) {
            let why = match job["why"].as_str().unwrap_or_default() {
                "running" => ": it runs, and is erased when it has ended",
                "of-schedule" => ": it is the next tick of a schedule",
                "unfinished" => ": it is still to run; with --unfinished it is removed",
                _ => "",
            };
            left += &format!("\n  {} {} ({}){why}", text(job, "queue"), text(job, "id"), text(job, "state"));
        }
        if live["found"].as_u64() > Some(MOST_SHOWN as u64) {
            left += "\n  … the first hundred with --json";
        }
    }
    if live["complete"] == false {
        left += "\nNot every job in Redis was looked at: there are too many. Name a queue with --queue";
    }
    let schedules: Vec<&str> = items(&done["schedules"]).filter_map(Value::as_str).collect();
    if !schedules.is_empty() {
        left += &format!("\nSchedules that will have the value again: {}. Change or remove them", schedules.join(", "));
    }
    for (place, what) in LEFT {
        if done["places"][place] != 0 {
            left += &format!("\n{} {what}", done["places"][place]);
        }
    }
    let beyond: Vec<&str> = items(&done["beyond"]).filter_map(Value::as_str).collect();
    left += &format!("\nNot reached: {}", beyond.join("; "));
    left
}

async fn erasures(limit: u16, client: &Client, output: Output) -> anyhow::Result<()> {
    let erasures = client.call(Method::GET, &format!("history/erasures?limit={limit}"), None).await?;
    let rows = items(&erasures).map(|row| {
        let of = match (row["path"].as_str(), row["queue"].as_str(), row["jobId"].as_str()) {
            (None, Some(queue), Some(job)) => format!("{queue} {job}"),
            (Some(path), Some(queue), _) => format!("{path} in {queue}"),
            (path, ..) => path.unwrap_or_default().to_owned(),
        };
        let state = match (row["endedAt"].is_string(), row["listedAt"].is_string()) {
            (true, _) => "ended",
            (false, true) => "goes on",
            (false, false) => "cut short: ask again",
        };
        let counts = ["done", "toCome", "left"].map(|name| row[name].to_string());
        let head = [row["id"].to_string(), of, state.to_owned()];
        let tail = [text(row, "beganAt"), text(row, "actor"), text(row, "reason")];
        head.into_iter().chain(counts).chain(tail).collect()
    });
    let head = ["ID", "OF", "STATE", "ERASED", "TO COME", "LEFT", "BEGAN", "BY", "REASON"];
    output.table(&head, rows.collect(), &erasures);
    Ok(())
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
    let query = query.chain(args.reveal.then_some(("reveal", "true")));
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
