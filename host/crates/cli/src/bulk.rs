//! `patchbay bulk …`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::bulk::{
    Bulk, BulkBegin, BulkBegun, BulkCancel, BulkChange, BulkDetails, BulkEditCounts, BulkItem,
    BulkItems, BulkList, BulkPath, BulkPreview, BulkReason, BulkResume, BulkShow, BulkUndo,
    ListBulkItems, ListBulks, ResumeBulk,
};
use patchbay_api::operation::NoQuery;
use patchbay_model::words::counted;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::client::{Client, ClientArgs, Received};
use super::dead_letter_advice;
use super::exact::{with_json_in, with_member};
use super::input::{number_in, point_in_time, whole};
use super::output::{Output, plain, shortened, time};
use super::paging::Paging;
use super::refusal::{Refusal, Why, confirmed};

/// Interval between progress requests.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Exit code for scripts: no job matched, so nothing was done.
const NOTHING_FOUND: u8 = 3;
/// Maximum number of jobs per page that a host returns.
const JOBS_OF_A_PAGE: u16 = 200;

#[derive(Subcommand)]
pub enum BulkCommand {
    /// Retry failed (or completed) jobs: put them back into their queues
    Retry {
        #[command(flatten)]
        which: JobSelection,
        #[command(flatten)]
        history: FromHistory,
    },
    /// Remove jobs; can be undone for an hour
    Remove {
        #[command(flatten)]
        which: JobSelection,
    },
    /// Add copies of jobs as new jobs
    EnqueueAgain {
        #[command(flatten)]
        which: JobSelection,
        #[command(flatten)]
        history: FromHistory,
    },
    /// Change the data of failed jobs, then retry them; with --state waiting, delayed or
    /// prioritized, only change the data. Jobs whose new data does not match the plugin's schema
    /// stay unchanged. Can be undone for an hour, of jobs that have not run since
    EditAndRetry {
        #[command(flatten)]
        which: JobSelection,
        /// Set a value at a path of the data: lead.id=42, or /lead/id="text"; a value that is not
        /// JSON is taken as text
        #[arg(long = "set", value_name = "PATH=JSON")]
        set: Vec<String>,
        /// Replace a text within the text at a path, or within each text of a list there: to " at "
        /// "@"; jobs without that text stay unchanged
        #[arg(
            long,
            num_args = 3,
            value_names = ["PATH", "FIND", "WITH"],
            allow_hyphen_values = true
        )]
        replace: Vec<String>,
        /// Remove a path from the data
        #[arg(long = "unset", value_name = "PATH")]
        unset: Vec<String>,
    },
    /// List bulk operations, the newest first
    List(Paging),
    /// Show a bulk operation: state, counts, and why jobs were left unchanged
    Show {
        /// Number of the operation
        #[arg(value_parser = number_in::<i64>("bulk list"))]
        id: i64,
        /// Also list its jobs: all, or those that are pending, done, skipped, failed, restored,
        /// lost or not-undone
        #[arg(long, value_name = "STATE", num_args = 0..=1, default_missing_value = "")]
        jobs: Option<String>,
    },
    /// Follow a bulk operation until it ends or pauses
    Watch {
        /// Number of the operation
        #[arg(value_parser = number_in::<i64>("bulk list"))]
        id: i64,
    },
    /// Cancel a bulk operation; jobs that were already handled stay as they are
    Cancel {
        /// Number of the operation
        #[arg(value_parser = number_in::<i64>("bulk list"))]
        id: i64,
        #[command(flatten)]
        sure: Sure,
    },
    /// Resume a bulk operation that has paused after its first jobs
    Resume {
        /// Number of the operation
        #[arg(value_parser = number_in::<i64>("bulk list"))]
        id: i64,
        /// Handle this many more jobs, then pause again
        #[arg(long, value_parser = whole::<u32>(1, u32::MAX.into()))]
        first: Option<u32>,
        #[command(flatten)]
        sure: Sure,
    },
    /// Undo a removal or an edit, within an hour of its end: put removed jobs back, or the data of
    /// edited jobs that have not run since; those wait on with it. Refused where that is possible
    /// for no job
    Undo {
        /// Number of the operation
        #[arg(value_parser = number_in::<i64>("bulk list"))]
        id: i64,
        #[command(flatten)]
        sure: Sure,
    },
}

/// Options of a change of an operation. It can be taken back, so it does not ask.
#[derive(Args)]
pub struct Sure {
    /// Accepted as in the commands that begin an operation; this one does not ask
    #[arg(long = "yes", short = 'y')]
    _yes: bool,
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
pub struct JobSelection {
    /// Filter; all parts must match: queue=, job=, name=, from=, to=, code=, text=, data.PATH=,
    /// plugin=, revision=, correlation-id=, platform=, outcome=, verdict=, dead-letter=
    #[arg(value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Ended at this time or later, or, if not ended, added: an age such as 90s, 30m, 24h or 7d, or a
    /// time such as 2026-11-24T00:00:00Z
    #[arg(long, value_parser = point_in_time)]
    since: Option<DateTime<Utc>>,
    /// Ended or added before this time, in the same forms: `--until 2h` selects what is older than
    /// two hours
    #[arg(long, value_parser = point_in_time)]
    until: Option<DateTime<Utc>>,
    /// Select every job of every queue
    #[arg(long)]
    everything: bool,
    /// State of the jobs: failed, completed; for removals and edits also waiting, delayed or
    /// prioritized
    #[arg(long, default_value = "failed")]
    state: String,
    #[command(flatten)]
    how: BulkOptions,
}

#[derive(Args)]
pub struct BulkOptions {
    /// Only count the jobs and show a sample
    #[arg(long)]
    dry_run: bool,
    /// Show the data of the sample, with redacted values hidden
    #[arg(long)]
    with_data: bool,
    /// With --dry-run, and --with-data or an edit: show redacted values, too; this is recorded
    #[arg(long, requires = "dry_run")]
    reveal: bool,
    /// Handle this many jobs, then pause; `patchbay bulk resume` handles the rest
    #[arg(long, value_parser = whole::<u32>(1, u32::MAX.into()))]
    first: Option<u32>,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

impl JobSelection {
    fn put_into(&self, mut request: Value) -> Result<Value, Refusal> {
        let mut pairs = Map::new();
        for pair in &self.filter {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Refusal(format!("{pair}: must be KEY=VALUE")))?;
            if pairs.insert(key.to_owned(), value.into()).is_some() {
                return Err(Refusal(format!("{key}: given twice")));
            }
        }
        for (option, key, time) in [
            ("--since", "from", self.since),
            ("--until", "to", self.until),
        ] {
            let Some(time) = time else {
                continue;
            };
            if pairs.contains_key(key) {
                return Err(Refusal(format!(
                    "{option} and {key}= cannot be given together"
                )));
            }
            let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
            pairs.insert(key.to_owned(), time.into());
        }
        request["filter"] = pairs.into();
        request["everything"] = self.everything.into();
        request["state"] = self.state.as_str().into();
        Ok(request)
    }
}

/// Options for jobs that Redis may have forgotten.
#[derive(Args)]
pub struct FromHistory {
    /// Select jobs from the history, whether Redis still has them or not
    #[arg(long)]
    from_history: bool,
    /// Keep the identity of jobs that are added again: outside effects that they already had are
    /// not repeated
    #[arg(long, conflicts_with = "new_key")]
    keep_key: bool,
    /// Give jobs that are added again a new identity: all outside effects happen again
    #[arg(long)]
    new_key: bool,
}

impl FromHistory {
    fn put_into(&self, request: &mut Value) {
        request["source"] = if self.from_history { "history" } else { "live" }.into();
        if self.keep_key || self.new_key {
            request["key"] = if self.keep_key { "keep" } else { "new" }.into();
        }
    }
}

impl BulkCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List(_))
    }

    fn why(&self) -> Why {
        match self {
            Self::Cancel { sure, .. } | Self::Resume { sure, .. } | Self::Undo { sure, .. } => {
                sure.why.clone()
            }
            // The reason of a new one is part of it.
            _ => Why::default(),
        }
    }

    /// Whether it starts or shows something that can be followed to its end.
    pub(super) fn can_be_followed(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Cancel { .. })
    }
}

pub(crate) async fn run(
    command: BulkCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        BulkCommand::Retry { which, history } => {
            let mut request = json!({ "kind": "retry" });
            history.put_into(&mut request);
            return begin(
                which.put_into(request)?,
                which.how,
                "retries",
                &client,
                output,
            )
            .await;
        }
        BulkCommand::Remove { which } => {
            let request = which.put_into(json!({ "kind": "remove" }))?;
            return begin(request, which.how, "removes", &client, output).await;
        }
        BulkCommand::EnqueueAgain { which, history } => {
            let mut request = json!({ "kind": "enqueue-again" });
            history.put_into(&mut request);
            return begin(
                which.put_into(request)?,
                which.how,
                "adds new jobs like",
                &client,
                output,
            )
            .await;
        }
        BulkCommand::EditAndRetry {
            which,
            set,
            replace,
            unset,
        } => {
            let mut values = BTreeMap::new();
            for pair in set {
                let (path, value) = pair
                    .split_once('=')
                    .ok_or_else(|| Refusal(format!("{pair}: must be PATH=JSON")))?;
                // Kept as written; a value that is not JSON is sent as a text.
                let json = RawValue::from_string(value.trim().to_owned());
                values.insert(path.to_owned(), json.or_else(|_| to_raw_value(value))?);
            }
            let replace = replacements(&replace)?;
            let edits = json!({ "kind": "edit-and-retry", "replace": replace, "unset": unset });
            let does = match which.state.as_str() {
                "failed" => "changes and retries",
                _ => "changes the data of",
            };
            let request = which.put_into(edits)?;
            return begin_with(request, values, which.how, does, &client, output).await;
        }
        BulkCommand::List(much) => {
            let query = |limit, cursor| ListBulks {
                cursor,
                limit: Some(limit),
            };
            let bulks = much.ask::<BulkList, _>(&client, &(), query).await?;
            let rows = bulks.items.iter().map(|bulk| {
                let counts = [bulk.matched, bulk.done, bulk.skipped, bulk.failed]
                    .map(|count| count.to_string());
                let head = [bulk.id.to_string(), bulk.kind.clone(), bulk.state.clone()];
                let reason = bulk.reason.as_deref().unwrap_or("-").to_owned();
                let tail = [
                    output.when(bulk.created_at),
                    bulk.actor.clone(),
                    meant(bulk),
                    reason,
                ];
                head.into_iter().chain(counts).chain(tail).collect()
            });
            let head = [
                "ID", "KIND", "STATE", "MATCHED", "DONE", "SKIPPED", "FAILED", "CREATED", "BY",
                "JOBS", "REASON",
            ];
            output.list(&head, &[], rows.collect(), &bulks.raw, &bulks.more());
            bulks.note("operation", output);
        }
        BulkCommand::Show { id, jobs } => {
            let bulk = match output.watch {
                true => ended(id, &client, output).await?,
                false => {
                    client
                        .ask::<BulkShow>(BulkPath { id }, none, NoBody)
                        .await?
                }
            };
            let code = match output.watch && has_failed(&bulk.data.bulk) {
                true => ExitCode::FAILURE,
                false => ExitCode::SUCCESS,
            };
            let (mut text, mut raw) = (describe(&bulk.data), bulk.raw);
            if let Some(state) = jobs {
                let state = (!state.is_empty()).then_some(state);
                let page = |cursor, _| {
                    Some(ListBulkItems {
                        state: state.clone(),
                        cursor,
                        limit: Some(JOBS_OF_A_PAGE),
                    })
                };
                let items = client
                    .ask_pages::<BulkItems, _>(&BulkPath { id }, page)
                    .await?;
                text.extend(items.data.iter().map(|item| format!("\n{}", of_item(item))));
                raw = with_member(&raw, "jobs", &items.raw);
            }
            output.value(&text, &raw);
            return Ok(code);
        }
        BulkCommand::Watch { id } => return watch(id, &client, output).await,
        BulkCommand::Cancel { id, .. } => {
            let bulk = client
                .ask::<BulkCancel>(BulkPath { id }, none, NoBody)
                .await?;
            output.value(
                &format!("cancelled: {}", describe_bulk(&bulk.data, &[])),
                &bulk.raw,
            );
        }
        BulkCommand::Resume { id, first, .. } => {
            let bulk = client
                .ask::<BulkResume>(BulkPath { id }, none, Json(ResumeBulk { first }))
                .await?;
            let text = format!("Resumed: bulk operation {id}");
            return go_on(id, &text, &bulk.raw, &client, output).await;
        }
        BulkCommand::Undo { id, .. } => {
            let bulk = client
                .ask::<BulkUndo>(BulkPath { id }, none, NoBody)
                .await?;
            let wait = match bulk.data.kind.as_str() {
                "edit-and-retry" => format!(". {OLD_DATA_WAITS}"),
                _ => String::new(),
            };
            let text =
                format!("Undoing: bulk operation {id}. Follow it: patchbay bulk watch {id}{wait}");
            return go_on(id, &text, &bulk.raw, &client, output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Of each three values; clap counts them.
fn replacements(values: &[String]) -> Result<Vec<Value>, Refusal> {
    // Where a value was forgotten, the next option would be taken for it.
    if let Some(option) = values.iter().find(|value| value.starts_with("--")) {
        return Err(Refusal(format!(
            "--replace takes three values, PATH FIND WITH, and {option} looks like an option. Nothing was done. Give an empty WITH as \"\""
        )));
    }
    let replacement = |it: &[String]| json!({ "path": it[0], "find": it[1], "with": it[2] });
    Ok(values.chunks_exact(3).map(replacement).collect())
}

/// Shows a preview, asks for confirmation, and starts the operation.
pub(super) async fn begin(
    request: Value,
    how: BulkOptions,
    does: &str,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    begin_with(request, BTreeMap::new(), how, does, client, output).await
}

/// Contains values of job data, which stay exactly as the operator wrote them.
#[derive(serde::Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    set: &'a BTreeMap<String, Box<RawValue>>,
    #[serde(flatten)]
    request: &'a Value,
}

async fn begin_with(
    mut request: Value,
    set: BTreeMap<String, Box<RawValue>>,
    how: BulkOptions,
    does: &str,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let BulkOptions {
        dry_run,
        with_data,
        reveal,
        first,
        reason,
        yes,
    } = how;
    request["first"] = json!(first);
    request["reason"] = json!(reason);
    let mut look = request.clone();
    look["dryRun"] = true.into();
    look["withData"] = with_data.into();
    look["reveal"] = reveal.into();
    let body = Body {
        set: &set,
        request: &look,
    };
    let looked = client.ask_as_written::<BulkBegin>((), &body).await?;
    let raw = with_json_in(&looked.raw, &["data"]);
    let BulkBegun::Preview(preview) = &looked.data else {
        bail!(
            "The host began the operation, although only a preview was requested. See: patchbay bulk list"
        )
    };
    let matched = preview.matched;
    if matched == 0 && preview.complete {
        let why = match dead_letter_of(&request) {
            Some(id) => dead_letter_advice::nothing_failed(client, id).await?,
            None => None,
        };
        let text = why.unwrap_or_else(|| "No job matches; nothing was done".into());
        output.value(&text, &raw);
        return Ok(ExitCode::from(NOTHING_FOUND));
    }
    let jobs = if matched == 1 { "job" } else { "jobs" };
    let spared = preview.edit.map(|edit| spared(&edit, matched, &request));
    let spared = spared.unwrap_or_default();
    let count = format!(
        "{}{matched} {jobs}",
        if preview.complete { "" } else { "at least " }
    );
    let example = format!("{}{spared}", example(&count, preview));
    if dry_run {
        output.value(&example, &raw);
        return Ok(ExitCode::SUCCESS);
    }
    if !output.json && !output.quiet {
        println!("{}", plain(&example));
    }
    let pause = first.filter(|first| u64::from(*first) < matched);
    let pause = pause
        .map(|first| format!(", the first {first} now: then it pauses"))
        .unwrap_or_default();
    let mind = match request["kind"].as_str() {
        Some("edit-and-retry") => {
            ". A job that runs with the new data keeps it: patchbay bulk undo, for an hour, reaches only jobs that have not run"
        }
        _ => "",
    };
    confirmed(yes, &format!("This {does} {count}{pause}{mind}"))?;
    let begun = client
        .ask_as_written::<BulkBegin>(
            (),
            &Body {
                set: &set,
                request: &request,
            },
        )
        .await?;
    let BulkBegun::Bulk(bulk) = &begun.data else {
        bail!("The host returned a preview and did not begin the operation")
    };
    let id = bulk.id;
    let done = format!("Started: bulk operation {id}. Follow it: patchbay bulk watch {id}");
    go_on(id, &done, &begun.raw, client, output).await
}

/// What the edit leaves alone, on lines of its own; empty if it changes every job.
fn spared(edit: &BulkEditCounts, matched: u64, request: &Value) -> String {
    let is_retried = request["state"]
        .as_str()
        .is_none_or(|state| state == "failed");
    let of = match edit.examined < matched {
        true => format!("Of the first {}", counted(edit.examined, "job")),
        false => "Of these".to_owned(),
    };
    let jobs = |n: u64, one: &str, more: &str| {
        let does = if n == 1 { one } else { more };
        (n > 0).then(|| format!("{n} {does}"))
    };
    let parts = match is_retried {
        true => [
            jobs(
                edit.unchanged,
                "is retried with the data that it has: the edit changes nothing in it",
                "are retried with the data that they have: the edit changes nothing in them",
            ),
            jobs(
                edit.refused,
                "is left as it is and not retried",
                "are left as they are and not retried",
            ),
        ],
        false => [
            jobs(
                edit.unchanged,
                "has the data already: the edit changes nothing in it",
                "have the data already: the edit changes nothing in them",
            ),
            jobs(edit.refused, "is left as it is", "are left as they are"),
        ],
    };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("\n{of}, {}", parts.join("; ")),
    }
}

/// The group whose failed jobs in Redis are asked for, if nothing else restricts them.
fn dead_letter_of(request: &Value) -> Option<i64> {
    let is = |name: &str, default: &str| request[name].as_str().unwrap_or(default) == default;
    let filter = request["filter"].as_object()?;
    let id = filter.get("dead-letter")?.as_str()?.parse().ok()?;
    (filter.len() == 1 && is("state", "failed") && is("source", "live")).then_some(id)
}

fn example(count: &str, preview: &BulkPreview) -> String {
    let mut lines = vec![format!("{count}, for example:")];
    for job in &preview.sample {
        let why = job
            .failure
            .as_ref()
            .map(|why| format!("  {}", shortened(why, 80)));
        let refused = job
            .refused
            .as_ref()
            .map(|why| format!("\n    would be left as it is: {why}"));
        let changes = job
            .changes
            .iter()
            .map(|change| format!("\n    {}", of_change(change)));
        let data = job.data.as_ref().map(|data| format!("\n    {data}"));
        let withheld = job
            .data_withheld
            .as_ref()
            .map(|why| format!("\n    data is not shown: {why}"));
        let name = format!("  {} {}  {}", job.queue, job.id, job.name);
        lines.push(
            [Some(name), why, refused]
                .into_iter()
                .flatten()
                .chain(changes)
                .chain(data)
                .chain(withheld)
                .collect(),
        );
    }
    lines.join("\n")
}

/// For example `to: "x at example.com" -> "x@example.com"`.
fn of_change(change: &BulkChange) -> String {
    let shown = |value: &Option<Box<RawValue>>| {
        value
            .as_ref()
            .map_or_else(|| "(none)".to_owned(), |value| value.get().to_owned())
    };
    let (before, after) = (shown(&change.before), shown(&change.after));
    match before == after {
        true => format!(
            "{}: changes, hidden by the plugin's redaction (--dry-run --reveal shows it)",
            change.path
        ),
        false => format!("{}: {before} -> {after}", change.path),
    }
}

async fn go_on(
    id: i64,
    sentence: &str,
    bulk: &RawValue,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    if output.watch {
        return watch(id, client, output).await;
    }
    output.made(&id.to_string(), sentence, &bulk);
    Ok(ExitCode::SUCCESS)
}

async fn watch(id: i64, client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let shown = ended(id, client, output).await?;
    output.value(&describe(&shown.data), &shown.raw);
    Ok(match has_failed(&shown.data.bulk) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// Waits until the operation ends or pauses, and prints its progress meanwhile.
async fn ended(id: i64, client: &Client, output: Output) -> anyhow::Result<Received<BulkDetails>> {
    let mut last = String::new();
    loop {
        let shown = client
            .ask::<BulkShow>(BulkPath { id }, NoQuery {}, NoBody)
            .await?;
        let bulk = &shown.data.bulk;
        if !["matching", "running", "undoing"].contains(&bulk.state.as_str()) {
            return Ok(shown);
        }
        let line = progress(bulk);
        if !output.json && line != last {
            println!("{line}");
            last = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn has_failed(bulk: &Bulk) -> bool {
    bulk.state == "failed" || bulk.failed > 0 || is_undone_in_vain(bulk)
}

/// What becomes of jobs that got the data from before an edit back.
const OLD_DATA_WAITS: &str = "Its jobs wait with the data from before the edit, and workers run them with it. To keep them from that: \
     patchbay queue pause QUEUE; then change them again: patchbay bulk edit-and-retry queue=QUEUE --state waiting";

/// Whether the undo has put nothing back.
fn is_undone_in_vain(bulk: &Bulk) -> bool {
    bulk.state == "undone" && bulk.restored == 0
}

fn progress(bulk: &Bulk) -> String {
    let counts = [
        ("matched", bulk.matched),
        ("done", bulk.done),
        ("skipped", bulk.skipped),
        ("failed", bulk.failed),
        ("restored", bulk.restored),
    ];
    let counts = counts
        .iter()
        .filter(|(name, count)| *name != "restored" || *count != 0 || bulk.state == "undone");
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    format!(
        "bulk {}  {}  {}  {}",
        bulk.id,
        bulk.kind,
        bulk.state,
        counts.join(", ")
    )
}

/// For example `failed of the history, queue=emailQueue`.
fn meant(bulk: &Bulk) -> String {
    let pairs: Vec<String> = bulk
        .filter
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let pairs = if pairs.is_empty() {
        "everything".into()
    } else {
        pairs.join(" ")
    };
    let from = if bulk.source == "history" {
        " of the history"
    } else {
        ""
    };
    format!("{}{from}, {pairs}", bulk.job_state)
}

fn describe(details: &BulkDetails) -> String {
    let mut text = describe_bulk(&details.bulk, &details.reasons);
    if let Some(why) = &details.nothing_to_undo {
        text.push_str(&format!("\ncannot be undone: {why}"));
    }
    text
}

fn describe_bulk(bulk: &Bulk, reasons: &[BulkReason]) -> String {
    let mut lines = vec![progress(bulk), format!("jobs: {}", meant(bulk))];
    let by = format!("by {} at {}", bulk.actor, time(bulk.created_at));
    lines.push(
        bulk.reason
            .as_ref()
            .map_or(by.clone(), |reason| format!("{by}: {reason}")),
    );
    lines.extend(bulk.error.as_ref().map(|error| format!("error: {error}")));
    lines.extend(reasons.iter().map(|reason| {
        format!(
            "{} {}: {}",
            reason.jobs,
            in_words(&reason.state),
            reason.reason
        )
    }));
    if is_undone_in_vain(bulk) {
        lines.push("Nothing was undone: no job was put back, for the reasons above".to_owned());
    }
    if bulk.state == "undone" && bulk.kind == "edit-and-retry" && bulk.restored > 0 {
        lines.push(OLD_DATA_WAITS.to_owned());
    }
    if bulk.state == "done" && bulk.done == 0 && bulk.skipped > 0 {
        lines.push("Nothing was done: every job was skipped, for the reasons above".to_owned());
    }
    match (bulk.state.as_str(), bulk.undo_until) {
        ("paused", _) => lines.push(format!(
            "Next: patchbay bulk resume {0}\nOr: patchbay bulk cancel {0}",
            bulk.id
        )),
        ("done" | "cancelled" | "failed", Some(until)) => {
            let which = match bulk.kind.as_str() {
                "edit-and-retry" => ", for jobs that have not run since",
                _ => "",
            };
            lines.push(format!(
                "can be undone until {}{which}: patchbay bulk undo {}",
                time(until),
                bulk.id
            ));
        }
        _ => {}
    }
    lines.join("\n")
}

/// The state of an item.
fn in_words(state: &str) -> &str {
    match state {
        "not-undone" => "not undone",
        state => state,
    }
}

fn of_item(item: &BulkItem) -> String {
    let notes = [
        item.new_id.as_ref().map(|id| format!("now {id}")),
        item.reason.clone(),
    ];
    let notes = notes.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let state = in_words(&item.state);
    format!("  {} {}  {state}  {notes}", item.queue, item.job_id)
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_have_three_values_and_an_option_is_none_of_them() {
        let values = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let read = replacements(&values(&["to", " at ", "@", "a", "-", ""])).expect("two");
        assert_eq!(
            read,
            [
                json!({ "path": "to", "find": " at ", "with": "@" }),
                json!({ "path": "a", "find": "-", "with": "" })
            ]
        );
        let refused = replacements(&values(&["to", "a", "--dry-run"])).expect_err("an option");
        assert!(refused.to_string().contains("--dry-run looks like"));
    }

    #[test]
    fn an_undo_that_puts_nothing_back_says_so_with_the_reasons() {
        let bulk: Bulk = serde_json::from_value(json!({
            "id": 4, "kind": "edit-and-retry", "source": "live", "jobState": "failed", "filter": { "queue": "q" }, "actor": "ops",
            "state": "undone", "matched": 10, "done": 10, "skipped": 0, "failed": 0, "restored": 0, "createdAt": "2026-11-24T12:00:00Z",
        }))
        .expect("an operation");
        let reason = BulkReason {
            state: "not-undone".into(),
            reason: "The job has run since it was edited".into(),
            jobs: 10,
        };
        let text = describe_bulk(&bulk, &[reason]);
        for part in [
            "undone  10 matched, 10 done, 0 skipped, 0 failed, 0 restored",
            "\n10 not undone: The job has run since it was edited\n",
            "Nothing was undone",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_change_is_shown_with_both_values() {
        let value = |text: &str| RawValue::from_string(text.to_owned()).ok();
        let change = |before, after| {
            of_change(&BulkChange {
                path: "to".into(),
                before,
                after,
            })
        };
        assert_eq!(
            change(value(r#""x at b""#), value(r#""x@b""#)),
            r#"to: "x at b" -> "x@b""#
        );
        assert_eq!(change(None, value("1.10")), "to: (none) -> 1.10");
        assert_eq!(change(value("null"), None), "to: null -> (none)");
        let hidden = || value(r#""[redacted]""#);
        assert_eq!(
            change(hidden(), hidden()),
            "to: changes, hidden by the plugin's redaction (--dry-run --reveal shows it)"
        );
    }
}
