//! `patchbay history …`

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;
use patchbay_api::body::{Json, NoBody};
use patchbay_api::history::{
    DefaultRetention, Erasure, HistoryBodies, HistoryErase, HistoryErasures, HistoryPrune,
    HistoryResetRetention, HistoryRetention, HistorySetRetention, HistoryStatus, ListErasures,
    Places, Prune, Pruned,
};
use patchbay_api::jobs::JobPath;
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::{filled, with_query};
use patchbay_api::queues::QueuePath;
use patchbay_api::searches::HistoryExport;
use patchbay_model::words::counted as count;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;

use super::client::{Client, ClientArgs, RevealArgs};
use super::output::{Output, time};
use super::paging::Paging;
use super::refusal::{Consent, Refusal, Why, confirmed};
use super::{input, names};

#[derive(Subcommand)]
pub enum HistoryCommand {
    /// Show what waits in Redis, what Postgres holds and since when, and whether data and results
    /// are kept
    Status,
    /// Show and change how long attempts are kept
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Delete attempts past their retention now; the host also does so once an hour
    Prune {
        /// Only show what would be deleted
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Erase the data of a person or of a job: from Redis, the history, undo copies, events, and
    /// texts of operators
    Erase(EraseArgs),
    /// List erasures: who asked, why, and whether they have ended
    Erasures(Paging),
    /// Show data and results of a job, with values that its queue's manifest redacts hidden; each
    /// read is recorded
    Body {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Id of the job
        id: String,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Export attempts to a file; docs/operations/history.md describes the filter
    Export(ExportArgs),
}

#[derive(Subcommand)]
pub enum RetentionCommand {
    /// Show the retention in force
    List,
    /// Set how many days the attempts of a queue are kept
    Set {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Only attempts with this outcome: completed, failed, trapped, deadline, memory-limit,
        /// invalid-result or host-fault
        #[arg(long)]
        outcome: Option<String>,
        /// Days, 1 to 36500: a number, or one with a unit, such as 30d
        #[arg(long, value_parser = input::days)]
        days: u32,
        #[command(flatten)]
        why: Why,
    },
    /// Reset the retention of a queue to the configured default
    Reset {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Only the setting for this outcome
        #[arg(long)]
        outcome: Option<String>,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Args)]
pub struct EraseArgs {
    /// For a person: path of the value in the data of jobs, for example customer.phone; a manifest
    /// must declare it searchable
    #[arg(long, required_unless_present = "job")]
    path: Option<String>,
    /// The value; better given on standard input, where no shell records it
    #[arg(long, requires = "path")]
    value: Option<String>,
    /// Only jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only the job with this id
    #[arg(long, requires = "queue")]
    job: Option<String>,
    /// Also erase unfinished jobs: they are removed and never run
    #[arg(long)]
    unfinished: bool,
    /// Why, for the record: for example the number of a request, and no personal data
    #[arg(long)]
    reason: String,
    /// Erase; without this, only show what would be erased
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
    /// One JSON document per line, or comma-separated values
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Output file; it appears once the export is complete [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Include data and results, with values that manifests redact hidden
    #[arg(long)]
    bodies: bool,
    /// Include values that manifests redact, and secrets; this is recorded
    #[arg(long, requires = "bodies")]
    reveal: bool,
    /// Filter, for example queue=emailQueue outcome=failed from=2026-01-01T00:00:00Z
    /// data.lead.id=42; none: all attempts
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// Ended at this time or later: an age such as 90s, 30m, 24h or 7d, or a time such as
    /// 2026-11-24T00:00:00Z
    #[arg(long, value_parser = input::point_in_time)]
    since: Option<DateTime<Utc>>,
    /// Ended before this time, in the same forms
    #[arg(long, value_parser = input::point_in_time)]
    until: Option<DateTime<Utc>>,
}

/// An export can take far longer than an ordinary request.
const EXPORT_LIMIT: Duration = Duration::from_secs(24 * 3_600);

/// Maximum number of jobs in Redis that are listed for people.
const MOST_SHOWN: usize = 10;

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("must be KEY=VALUE, for example outcome=failed")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl HistoryCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Status | Self::Erasures(_) | Self::Retention(RetentionCommand::List)
        )
    }

    fn why(&self) -> Why {
        match self {
            Self::Prune { consent, .. } => consent.why.clone(),
            Self::Retention(
                RetentionCommand::Set { why, .. } | RetentionCommand::Reset { why, .. },
            ) => why.clone(),
            _ => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: HistoryCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    match command {
        HistoryCommand::Status => status(&client, output).await,
        HistoryCommand::Retention(command) => retention(command, &client, output).await,
        HistoryCommand::Prune { dry_run, consent } => {
            prune(dry_run, &consent, &client, output).await
        }
        HistoryCommand::Erase(args) => erase(args, &client, output).await,
        HistoryCommand::Erasures(much) => erasures(&much, &client, output).await,
        HistoryCommand::Body { queue, id, reveal } => {
            let path = JobPath { queue, id };
            let bodies = client
                .ask::<HistoryBodies>(path, reveal.into(), NoBody)
                .await?;
            let rows = bodies.data.iter().map(|body| {
                let shown = |json: &Option<Box<RawValue>>| match (&body.withheld, json) {
                    (Some(reason), _) => format!("({reason})"),
                    (None, Some(json)) => json.get().to_owned(),
                    (None, None) => "null".to_owned(),
                };
                vec![
                    time(body.finished_at),
                    body.started.to_string(),
                    shown(&body.data),
                    shown(&body.result),
                ]
            });
            output.table_or(
                "The history keeps no data of this job",
                &["FINISHED", "START", "DATA", "RESULT"],
                rows.collect(),
                &bodies.raw,
            );
            Ok(())
        }
        HistoryCommand::Export(args) => export(args, &client, output).await,
    }
}

async fn status(client: &Client, output: Output) -> anyhow::Result<()> {
    let received = client.ask::<HistoryStatus>((), NoQuery {}, NoBody).await?;
    let status = &received.data;
    let stream = &status.stream;
    let lag = stream.lag_ms.map_or("none".to_owned(), |ms| {
        format!("the oldest {} s old", ms / 1_000)
    });
    let kept = match &status.bodies.reason {
        Some(reason) => format!("not kept by this host: {reason}"),
        None => "kept, sealed".to_owned(),
    };
    let pruned = match &status.last_prune {
        None => "never".to_owned(),
        Some(last) => {
            let failed = last
                .error
                .as_ref()
                .map(|error| format!("; it failed: {error}"))
                .unwrap_or_default();
            let counts = format!(
                "{}, {}",
                count(last.attempts, "attempt"),
                count(last.partitions, "monthly table")
            );
            format!("{}: {counts}{failed}", time(last.started_at))
        }
    };
    let DefaultRetention {
        completed_days,
        other_days,
    } = status.retention.default;
    let exceptions = status.retention.queues.len();
    let keeps =
        format!("completed {completed_days} days, others {other_days}; {exceptions} exceptions");
    let recording = if status.enabled {
        "on"
    } else {
        "off on this host (history.enabled)"
    };
    let mut rows: Vec<Vec<String>> = [
        ("recording", recording.to_owned()),
        (
            "not in Postgres yet",
            format!("{}, {lag}", count(stream.attempts, "attempt")),
        ),
        ("in Redis", bytes(stream.bytes)),
        ("set aside", stream.set_aside.to_string()),
        ("data and results", kept),
        (
            "oldest attempt",
            status.oldest.map(time).unwrap_or_default(),
        ),
        ("keeps", keeps),
        ("last forgotten", pruned),
    ]
    .into_iter()
    .map(|(name, value)| vec![name.to_owned(), value])
    .collect();
    for partition in &status.partitions {
        let size = bytes(partition.bytes.unsigned_abs());
        rows.push(vec![
            partition.name.clone(),
            format!("about {}, {size}", count(partition.rows, "attempt")),
        ]);
    }
    output.table(&["HISTORY", ""], rows, &received.raw);
    Ok(())
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

async fn retention(
    command: RetentionCommand,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let received = match command {
        RetentionCommand::List => {
            client
                .ask::<HistoryRetention>((), NoQuery {}, NoBody)
                .await?
        }
        RetentionCommand::Set {
            queue,
            outcome,
            days,
            ..
        } => {
            let keep = json!({ "outcome": outcome, "days": days });
            client
                .ask_as_written::<HistorySetRetention>(QueuePath { queue }, &keep)
                .await?
        }
        RetentionCommand::Reset { queue, outcome, .. } => {
            let which = [("outcome", outcome)];
            client
                .ask_with::<HistoryResetRetention>(QueuePath { queue }, |request| {
                    request.query(&which)
                })
                .await?
        }
    };
    let retention = &received.data;
    let DefaultRetention {
        completed_days,
        other_days,
    } = retention.default;
    let mut rows = vec![
        vec![
            "*".to_owned(),
            "completed".into(),
            completed_days.to_string(),
            "history.keep_days".into(),
        ],
        vec![
            "*".to_owned(),
            "others".into(),
            other_days.to_string(),
            "history.keep_failed_days".into(),
        ],
    ];
    rows.extend(retention.queues.iter().map(|row| {
        let outcome = row.outcome.as_deref().unwrap_or("*").to_owned();
        vec![
            row.queue.clone(),
            outcome,
            row.days.to_string(),
            row.changed_by.clone(),
        ]
    }));
    output.table(&["QUEUE", "OUTCOME", "DAYS", "BY"], rows, &received.raw);
    Ok(())
}

async fn prune(
    dry_run: bool,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let act = async |dry_run| {
        client
            .ask::<HistoryPrune>((), NoQuery {}, Json(Prune { dry_run }))
            .await
    };
    let would = act(true).await?;
    let is_nothing = would.data.attempts == 0
        && would.data.dead_letters == 0
        && would.data.partitions.is_empty()
        && !would.data.and_more;
    if is_nothing {
        let text = "Nothing to delete: the history holds nothing that is older than it is kept";
        output.value(text, &would.raw);
        return Ok(());
    }
    if dry_run {
        let text = format!("Would be deleted: {}", pruned(&would.data));
        output.value(&text, &would.raw);
        return Ok(());
    }
    consent.ask(&format!(
        "This deletes {}, which cannot be undone",
        pruned(&would.data)
    ))?;
    let done = act(false).await?;
    output.done(&format!("Deleted: {}", pruned(&done.data)), &done.raw);
    Ok(())
}

fn pruned(done: &Pruned) -> String {
    let months = match done.partitions.is_empty() {
        true => "no whole month".to_owned(),
        false => format!(
            "{} (about {})",
            done.partitions.join(", "),
            count(done.attempts_in_partitions, "attempt")
        ),
    };
    let more = if done.and_more { " and more" } else { "" };
    format!(
        "{}{more}, {months}, {}",
        count(done.attempts, "attempt"),
        count(done.dead_letters, "dead-letter group")
    )
}

async fn erase(args: EraseArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let value = match (&args.path, args.value) {
        (None, _) => None,
        (Some(_), Some(value)) => Some(value),
        (Some(_), None) => Some(from_stdin()?),
    };
    let request = |dry_run: bool| {
        // Sent exactly as it was written, so that the host reports what is wrong with it.
        let body = json!({
            "path": args.path, "value": value, "queue": args.queue, "job": args.job, "reason": args.reason, "unfinished": args.unfinished,
            "dryRun": dry_run,
        });
        client.ask_with::<HistoryErase>((), move |request| request.timeout(ERASE_LIMIT).json(&body))
    };
    let would = request(true).await?;
    let is_nothing = would.data.attempts == 0
        && erased_places(&would.data.places)
            .iter()
            .all(|(count, ..)| *count == 0);
    if is_nothing && !args.yes {
        let sentence = format!("Nothing to erase{}", left(&would.data));
        output.value(&sentence, &would.raw);
        return Ok(());
    }
    if !args.yes && (output.json || !std::io::stdin().is_terminal()) {
        let sentence = format!(
            "Would be erased: {}{}",
            counted(&would.data),
            left(&would.data)
        );
        output.value(&sentence, &would.raw);
        return Err(Refusal("Nothing was erased. If you mean it, add --yes".into()).into());
    }
    confirmed(args.yes, &format!("This erases {}", counted(&would.data)))?;
    let done = request(false).await?;
    output.value(
        &format!("Erased: {}{}", counted(&done.data), left(&done.data)),
        &done.raw,
    );
    Ok(())
}

/// An erasure searches all jobs and all texts, which takes long.
const ERASE_LIMIT: Duration = Duration::from_secs(600);

/// What is erased outside the history: a count per place, and its label for one and for more.
fn erased_places(places: &Places) -> [(u64, &'static str, &'static str); 15] {
    [
        (
            places.redis_ended,
            "job in Redis that has ended",
            "jobs in Redis that have ended",
        ),
        (
            places.redis_unfinished,
            "job in Redis that was still to run",
            "jobs in Redis that were still to run",
        ),
        (
            places.flow_results,
            "result of a child that a parent in a flow holds",
            "results of children that parents in flows hold",
        ),
        (
            places.undo_copies,
            "copy for undoing a bulk operation",
            "copies for undoing bulk operations",
        ),
        (places.events, "event of a queue", "events of queues"),
        (
            places.key_value,
            "key of a plugin's key-value space",
            "keys of plugins' key-value spaces",
        ),
        (
            places.inbox,
            "request in the inbox of webhooks",
            "requests in the inbox of webhooks",
        ),
        (
            places.set_aside,
            "attempt that was set aside",
            "attempts that were set aside",
        ),
        (
            places.saved_searches,
            "saved search (the value in it)",
            "saved searches (the value in them)",
        ),
        (
            places.bulk_operations,
            "bulk operation (the value in it)",
            "bulk operations (the value in them)",
        ),
        (
            places.dead_letters,
            "dead letter (the value in it)",
            "dead letters (the value in them)",
        ),
        (
            places.operator_actions,
            "operator's action (the value in it)",
            "operators' actions (the value in them)",
        ),
        (
            places.alerts,
            "alert or silence (the value in it)",
            "alerts and silences (the value in them)",
        ),
        (
            places.schedules,
            "description of a schedule (the value in it)",
            "descriptions of schedules (the value in them)",
        ),
        (
            places.reasons,
            "reason of an erasure or quarantine (the value in it)",
            "reasons of erasures and quarantines (the value in them)",
        ),
    ]
}

/// What is kept: a count per place, with what to do about it.
fn places_left(places: &Places) -> [(u64, &'static str); 4] {
    [
        (
            places.audit_entries_left,
            "entries of audit trails hold the value; they are kept for good (docs/plugins/audit.md)",
        ),
        (
            places.bulk_operations_left,
            "bulk operations continue with the value in their filter; repeat this command when they have ended",
        ),
        (
            places.outbox_left,
            "jobs of plugins' transactions are not in their queues yet; repeat this command",
        ),
        (
            places.inbox_left,
            "requests in the inbox of webhooks have jobs that are being added, wait in Redis, cannot be opened, or were not looked at within a minute; repeat this command, with --queue if there are many",
        ),
    ]
}

fn counted(done: &Erasure) -> String {
    let more = if done.and_more {
        ", and there are more: repeat this command"
    } else {
        ""
    };
    let mut text = format!(
        "{} of {}, {} of them with data{more}",
        count(done.attempts, "attempt"),
        count(done.jobs, "job"),
        done.bodies
    );
    for (count, one, more) in erased_places(&done.places) {
        match count {
            0 => {}
            1 => text += &format!("\n  1 {one}"),
            count => text += &format!("\n  {count} {more}"),
        }
    }
    text
}

/// What an erasure does not reach.
fn left(done: &Erasure) -> String {
    let mut left = String::new();
    if done.undeclared {
        left += "\nNo active plugin declares this path searchable: attempts that were recorded while no plugin declared it are not found, and keep their data";
    }
    if done.waiting != 0 {
        left += &format!(
            "\n{} not in Postgres yet; those of these jobs are erased once they are",
            match done.waiting {
                1 => "1 attempt is".to_owned(),
                n => format!("{n} attempts are"),
            }
        );
    }
    let live = &done.live;
    if live.found != 0 {
        let jobs = match live.found {
            1 => "1 job in Redis is left".to_owned(),
            n => format!("{n} jobs in Redis are left"),
        };
        left += &format!("\n{jobs}:");
        for job in live.jobs.iter().take(MOST_SHOWN) {
            let why = match job.why.as_str() {
                "running" => ": it runs, and is erased when it has ended",
                "of-schedule" => ": it is the next tick of a schedule",
                "unfinished" => ": it is still to run; with --unfinished it is removed",
                _ => "",
            };
            left += &format!("\n  {} {} ({}){why}", job.queue, job.id, job.state);
        }
        if live.found > MOST_SHOWN {
            left += "\n  … the first hundred with --json";
        }
    }
    if !live.complete {
        left += "\nNot every job in Redis was searched, because there are too many. Name a queue with --queue";
    }
    if !done.schedules.is_empty() {
        let schedules = done.schedules.join(", ");
        left += &format!(
            "\nSchedules whose jobs will have the value again: {schedules}. Change or remove them"
        );
    }
    for (count, what) in places_left(&done.places) {
        if count != 0 {
            left += &format!("\n{count} {what}");
        }
    }
    left += &format!("\nNot reached: {}", done.beyond.join("; "));
    left
}

async fn erasures(much: &Paging, client: &Client, output: Output) -> anyhow::Result<()> {
    let query = |limit, cursor: Option<String>| ListErasures {
        cursor: cursor.and_then(|cursor| cursor.parse().ok()),
        limit: Some(limit),
    };
    let erasures = much.ask::<HistoryErasures, _>(client, &(), query).await?;
    let rows = erasures.items.iter().map(|row| {
        let of = match (&row.path, &row.queue, &row.job_id) {
            (None, Some(queue), Some(job)) => format!("{queue} {job}"),
            (Some(path), Some(queue), _) => format!("{path} in {queue}"),
            (path, ..) => path.clone().unwrap_or_default(),
        };
        let state = match (row.ended_at, row.listed_at) {
            (Some(_), _) => "ended",
            (None, Some(_)) => "in progress",
            (None, None) => "interrupted: repeat it",
        };
        let counts = [row.done, row.to_come, row.left].map(|count| count.to_string());
        let head = [row.id.to_string(), of, state.to_owned()];
        let tail = [time(row.began_at), row.actor.clone(), row.reason.clone()];
        head.into_iter().chain(counts).chain(tail).collect()
    });
    let head = [
        "ID", "OF", "STATE", "ERASED", "TO COME", "LEFT", "BEGAN", "BY", "REASON",
    ];
    output.list(&head, &[], rows.collect(), &erasures.raw, &erasures.more());
    erasures.note("erasure", output);
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
    let format = if matches!(args.format, Format::Csv) {
        "csv"
    } else {
        "jsonl"
    };
    let query = [("format", format)]
        .into_iter()
        .chain(args.bodies.then_some(("bodies", "true")));
    let query = query.chain(args.reveal.then_some(("reveal", "true")));
    let mut filter = args.filter;
    for (option, name, time) in [
        ("--since", "from", args.since),
        ("--until", "to", args.until),
    ] {
        let Some(time) = time else { continue };
        if filter.iter().any(|(known, _)| known == name) {
            let both = format!("{option} and {name}= cannot be given together");
            return Err(Refusal(both).into());
        }
        let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        filter.push((name.to_owned(), time));
    }
    let query = query.chain(
        filter
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let response = client
        .get_raw(
            &with_query(&filled(HistoryExport::OPERATION.path, &[]), query),
            EXPORT_LIMIT,
        )
        .await?;
    let mut chunks = response.bytes_stream();
    let broken = "the export was interrupted and is incomplete";
    match args.out {
        None => {
            let mut out = tokio::io::stdout();
            while let Some(chunk) = chunks.next().await {
                out.write_all(&chunk.context(broken)?).await?;
            }
            out.flush().await?;
        }
        Some(path) => {
            // A partial file must not be mistaken for a complete one.
            let part = part_of(&path)?;
            let (file, unfinished) = part.into_parts();
            let mut file = tokio::fs::File::from_std(file);
            let mut total = 0;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.context(broken)?;
                total += chunk.len();
                file.write_all(&chunk)
                    .await
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            file.sync_all().await?;
            unfinished
                .persist(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            output.value(
                &format!("{}: {}", path.display(), bytes(total as u64)),
                &json!({ "file": path, "bytes": total }),
            );
        }
    }
    Ok(())
}

/// A temporary file in the same directory, so that it can be renamed to `path`.
fn part_of(path: &Path) -> anyhow::Result<tempfile::NamedTempFile> {
    if path.is_dir() {
        bail!("{} is a directory: give the name of a file", path.display());
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write to {}", folder.display()))
}
