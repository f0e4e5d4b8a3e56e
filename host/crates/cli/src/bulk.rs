//! `patchbay bulk …`

mod text;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::bulk::{
    BulkBegin, BulkBegun, BulkCancel, BulkDetails, BulkItems, BulkList, BulkPath, BulkResume,
    BulkShow, BulkUndo, ListBulkItems, ListBulks, ResumeBulk,
};
use patchbay_api::operation::NoQuery;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use self::text::{
    OLD_DATA_WAITS, describe, describe_bulk, example, has_failed, meant, of_item, progress, spared,
};
use super::client::{Client, ClientArgs, Received};
use super::dead_letter_advice;
use super::exact::{with_json_in, with_member};
use super::input::{number_in, point_in_time, whole};
use super::output::{Output, plain};
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

/// The group whose failed jobs in Redis are asked for, if nothing else restricts them.
fn dead_letter_of(request: &Value) -> Option<i64> {
    let is = |name: &str, default: &str| request[name].as_str().unwrap_or(default) == default;
    let filter = request["filter"].as_object()?;
    let id = filter.get("dead-letter")?.as_str()?.parse().ok()?;
    (filter.len() == 1 && is("state", "failed") && is("source", "live")).then_some(id)
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

#[cfg(test)]
mod tests;
