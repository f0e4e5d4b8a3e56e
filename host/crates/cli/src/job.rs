//! `patchbay job …`

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use patchbay_api::body::{AnyDocument, Json, NoBody};
use patchbay_api::jobs::{
    CopyOf, Delay, DuplicateJob, Force, Job, JobPath, JobView, JobsDuplicate, JobsKill, JobsList,
    JobsPromote, JobsRemove, JobsRetry, JobsSetData, JobsSetDelay, JobsSetPriority, JobsShow,
    ListJobs, Priority, RedactedJob,
};
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::{QueueCounts, QueuePath, QueuesShow};
use patchbay_api::reveal::Reveal;
use patchbay_api::timeline::JobsTimeline;
use patchbay_model::job::{JobState, MAX_PRIORITY};
use patchbay_model::shell::{self, arguments, arguments_with, word};
use patchbay_model::words::{counted, lasted};
use serde_json::{Value, json};

use super::add::{self, AddArgs, LONGEST_MS};
use super::client::{Client, ClientArgs, RevealArgs};
use super::exact::with_json_in;
use super::input::{given_json, milliseconds, whole};
use super::output::{csv as comma_separated, relative, shortened, time};
use super::refusal::{Consent, Why};
use super::view::{job_of_key, short};
use super::{Output, names, timeline};

#[derive(Subcommand)]
pub enum JobCommand {
    /// Add a job
    Add(Box<AddArgs>),
    /// Add a tree of jobs: a parent runs after its children and can read their results
    Flow {
        /// JSON {"queue": …, "job": {"name": …, "data": …}, "onFailure": …, "children": [more of
        /// the same]}, @FILE, or - for standard input
        tree: String,
        /// Add it although active plugins do not declare some of its jobs, or other data for them;
        /// this is recorded
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Show a job: state, times, options, data, failure, log and attempts
    Show {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Add a new job like this one; everything that it does happens again
    Duplicate {
        #[command(flatten)]
        job: JobRef,
        /// Other data: JSON, @FILE, or - for standard input
        #[arg(long, value_name = "JSON")]
        data: Option<String>,
        /// Also if the data do not fit what the queue's plugin declares; this is recorded
        #[arg(long)]
        force: bool,
        /// Delay before the start: milliseconds, or with a unit, such as 90s or 2h
        #[arg(long, value_name = "MS", value_parser = milliseconds(0, LONGEST_MS))]
        delay_ms: Option<u64>,
        #[command(flatten)]
        why: Why,
    },
    /// Show the timeline of a job: every attempt with its outside calls, actions of operators, and
    /// related jobs; also after Redis has forgotten the job
    Timeline {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Retry a failed job: put it back into its queue; also a completed one, whose effects then
    /// happen again
    Retry {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        consent: Consent,
    },
    /// Remove a job that is not running; what it did stays in the history
    Remove {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        consent: Consent,
    },
    /// Run a delayed job now
    Promote {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        why: Why,
    },
    /// Kill a running job, in whichever host process it runs; it fails for good
    Kill {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        why: Why,
    },
    /// Replace the data of a job that is not running
    SetData {
        #[command(flatten)]
        job: JobRef,
        /// JSON, @FILE, or - for standard input
        data: String,
        /// Set it although the queue's active plugin declares other data for the job; this is
        /// recorded
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Change when a delayed job starts
    SetDelay {
        #[command(flatten)]
        job: JobRef,
        /// Delay from now: milliseconds, or with a unit, such as 90s or 2h
        #[arg(value_parser = milliseconds(0, LONGEST_MS))]
        delay_ms: u64,
        #[command(flatten)]
        why: Why,
    },
    /// Change the priority of a waiting job
    SetPriority {
        #[command(flatten)]
        job: JobRef,
        /// Priority, 1 (first) to 2097152; 0 comes before all of them
        #[arg(value_parser = whole::<u32>(0, MAX_PRIORITY.into()))]
        priority: u32,
        #[command(flatten)]
        why: Why,
    },
    /// List the jobs of a queue in one state
    List {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// State of the jobs
        #[arg(default_value = "failed", value_parser = PossibleValuesParser::new(LISTED).try_map(|text| listed(&text)))]
        state: JobState,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 20, value_parser = whole::<u64>(1, u64::MAX))]
        limit: u64,
        /// Skip this many jobs
        #[arg(long, default_value_t = 0, value_parser = whole::<u64>(0, 1 << 31))]
        offset: u64,
        /// List all jobs, page by page
        #[arg(long, conflicts_with_all = ["limit", "offset"])]
        all: bool,
        /// Print all jobs as comma-separated values; with --reveal, also their data
        #[arg(long, conflicts_with_all = ["limit", "offset"])]
        csv: bool,
        #[command(flatten)]
        reveal: RevealArgs,
    },
}

/// States that can be listed.
const LISTED: [&str; 7] = [
    "waiting",
    "prioritized",
    "delayed",
    "waiting-children",
    "active",
    "completed",
    "failed",
];
/// Maximum number of jobs per page that a host returns.
const PAGE: u64 = 200;

#[derive(clap::Args)]
pub struct JobRef {
    /// Name of the queue
    #[arg(add = names::queues())]
    queue: String,
    /// Id of the job
    id: String,
}

impl JobRef {
    fn value(&self) -> Value {
        json!({ "queue": self.queue, "id": self.id })
    }
}

impl From<&JobRef> for JobPath {
    fn from(job: &JobRef) -> Self {
        Self {
            queue: job.queue.clone(),
            id: job.id.clone(),
        }
    }
}

impl std::fmt::Display for JobRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shell::job(&self.queue, &self.id))
    }
}

impl JobCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::List { .. } | Self::Show { .. } | Self::Timeline { .. }
        )
    }

    fn why(&self) -> Why {
        match self {
            Self::Duplicate { why, .. }
            | Self::Promote { why, .. }
            | Self::Kill { why, .. }
            | Self::SetDelay { why, .. }
            | Self::SetPriority { why, .. }
            | Self::Flow { why, .. } => why.clone(),
            Self::Remove { consent, .. }
            | Self::Retry { consent, .. }
            | Self::SetData { consent, .. } => consent.why.clone(),
            Self::Add(args) => args.why.clone(),
            Self::Show { .. } | Self::Timeline { .. } | Self::List { .. } => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: JobCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        JobCommand::Add(args) => add::add(*args, &client, output).await?,
        JobCommand::Flow { tree, force, .. } => add::flow(tree, force, &client, output).await?,
        JobCommand::Show { job, reveal } => {
            let shown = client
                .ask::<JobsShow>((&job).into(), reveal.into(), NoBody)
                .await?;
            let raw = with_json_in(&shown.raw, JSON_TEXTS);
            output.value(&describe(&job.queue, &shown.data), &raw);
        }
        JobCommand::Duplicate {
            job,
            data,
            force,
            delay_ms,
            ..
        } => {
            let data = data.map(|data| given_json(data, "--data")).transpose()?;
            let change = Json(DuplicateJob {
                data,
                force,
                delay_ms,
            });
            let added = client
                .ask::<JobsDuplicate>((&job).into(), none, change)
                .await?;
            let (queue, id) = (&added.data.queue, &added.data.id);
            let text = format!(
                "Added: {}, a copy of {job}. See: patchbay job show {}",
                shell::job(queue, id),
                arguments(&[queue, id])
            );
            output.made(&added.data.id, &text, &added.raw);
        }
        JobCommand::Timeline { job, reveal } => {
            let told = client
                .ask::<JobsTimeline>((&job).into(), reveal.into(), NoBody)
                .await?;
            output.value(&timeline::describe(&told.data), &told.raw);
        }
        JobCommand::Retry { job, consent } => {
            let shown = client
                .ask::<JobsShow>((&job).into(), Reveal::default(), NoBody)
                .await?;
            if shown.data.job.job.state == JobState::Completed {
                consent.ask(&format!(
                    "Job {job} has completed. It runs again with the same data and the same idempotency key: everything that it does happens \
                     again, except where the plugin or the outside service recognises the key"
                ))?;
            }
            client.ask::<JobsRetry>((&job).into(), none, NoBody).await?;
            output.done(&format!("Retried: {job} waits again"), &job.value());
        }
        JobCommand::Remove { job, consent } => {
            let shown = client
                .ask::<JobsShow>((&job).into(), Reveal::default(), NoBody)
                .await?;
            let state = shown.data.job.job.state;
            // One that another worker runs may have no attempt in the history yet.
            let has_run =
                !shown.data.attempts.is_empty() || shown.data.job.job.processed_on.is_some();
            consent.ask(&format!(
                "This removes the {state} job {job}, which cannot be undone"
            ))?;
            client
                .ask::<JobsRemove>((&job).into(), none, NoBody)
                .await?;
            let rest = match has_run {
                true => "What it did stays in the history",
                false => "It had never run",
            };
            output.done(&format!("Removed: {job}. {rest}"), &job.value());
        }
        JobCommand::Promote { job, .. } => {
            client
                .ask::<JobsPromote>((&job).into(), none, NoBody)
                .await?;
            output.done(&format!("Promoted: {job} waits now"), &job.value());
        }
        JobCommand::Kill { job, .. } => {
            client.ask::<JobsKill>((&job).into(), none, NoBody).await?;
            output.done(&format!("Killed: {job} has failed for good"), &job.value());
        }
        JobCommand::SetData {
            job,
            data,
            force,
            consent,
        } => {
            let data = AnyDocument(given_json(data, "the data")?);
            consent.ask(&format!(
                "This replaces the data of {job}; the present data is not kept"
            ))?;
            client
                .ask::<JobsSetData>((&job).into(), Force { force }, data)
                .await?;
            output.done(&format!("Changed: the data of {job}"), &job.value());
        }
        JobCommand::SetDelay { job, delay_ms, .. } => {
            client
                .ask::<JobsSetDelay>((&job).into(), none, Json(Delay { delay_ms }))
                .await?;
            let due = lasted(Duration::from_millis(delay_ms));
            output.done(&format!("Changed: {job} is due in {due}"), &job.value());
        }
        JobCommand::SetPriority { job, priority, .. } => {
            client
                .ask::<JobsSetPriority>((&job).into(), none, Json(Priority { priority }))
                .await?;
            output.done(
                &format!("Changed: {job} has priority {priority}"),
                &job.value(),
            );
        }
        JobCommand::List {
            queue,
            state,
            limit,
            offset,
            all,
            csv,
            reveal,
        } => {
            let (all, output) = match csv {
                true => (
                    true,
                    Output {
                        wide: true,
                        ..output
                    },
                ),
                false => (all, output),
            };
            let page = |cursor: Option<String>, so_far: u64| {
                let left = if all {
                    PAGE
                } else {
                    limit.saturating_sub(so_far)
                };
                (left > 0 || cursor.is_none()).then(|| ListJobs {
                    state,
                    offset: (!all && cursor.is_none()).then_some(offset),
                    cursor,
                    limit: Some(left.min(PAGE)),
                    reveal: reveal.reveal,
                    reason: reveal.reason.clone(),
                })
            };
            let path = QueuePath {
                queue: queue.clone(),
            };
            let jobs = client.ask_up_to::<JobsList, _>(&path, page).await?;
            let mut columns = head(state);
            if reveal.reveal {
                columns.push("DATA");
            }
            let rows = jobs
                .items
                .iter()
                .map(|job| {
                    let mut cells = row(&job.job, state, output);
                    if reveal.reveal {
                        cells.insert(columns.len() - 1, job.job.data.clone());
                    }
                    cells
                })
                .collect();
            if csv {
                let names: Vec<String> = columns
                    .iter()
                    .chain(&wide(state))
                    .map(|name| name.to_lowercase())
                    .collect();
                return Ok(comma_separated(names.iter().map(String::as_str), rows)?);
            }
            let (raw, shown) = (with_json_in(&jobs.raw, JSON_TEXTS), jobs.items.len() as u64);
            output.list(&columns, &wide(state), rows, &raw, &jobs.more());
            let (first, last) = (offset + 1, offset + shown);
            if shown > 0 && jobs.next_cursor.is_none() {
                if offset > 0 {
                    output.note(&format!(
                        "Jobs {first} to {last}, the last ones of the list"
                    ));
                }
            } else if shown == 0 && offset == 0 {
                output.note(&format!("{} has no {state} jobs", word(&queue)));
            } else {
                let counts = client.ask::<QueuesShow>(path, none, NoBody).await?;
                let of = in_state(&counts.data.overview.counts, state);
                if shown == 0 {
                    let there = match of {
                        0 => format!("{} has none that are {state}", word(&queue)),
                        of => format!("there are {}", counted(of, &format!("{state} job"))),
                    };
                    output.note(&format!("No jobs behind the first {offset}: {there}"));
                } else if last < of {
                    let next =
                        arguments_with(&[&queue, &state.to_string()], &format!("--offset {last}"));
                    output.note(&format!(
                        "Jobs {first} to {last} of {of}. Next page: patchbay job list {next}; all: --all"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Fields of a job whose texts are JSON.
const JSON_TEXTS: &[&str] = &["data", "opts", "progress", "returnValue"];
const HEAD: [&str; 5] = ["ID", "NAME", "ADDED", "ATTEMPTS", "FAILURE"];
const WIDE: [&str; 4] = ["STARTED", "ENDED", "PRIORITY", "WORKER"];
/// Place of the priority among all cells.
const PRIORITY: usize = HEAD.len() + 2;

/// The priority of prioritized jobs is always shown.
fn wide(state: JobState) -> Vec<&'static str> {
    let is_new = |column: &&str| state != JobState::Prioritized || *column != "PRIORITY";
    WIDE.into_iter().filter(is_new).collect()
}

/// With what jobs in this state wait for.
fn head(state: JobState) -> Vec<&'static str> {
    let mut head = HEAD.to_vec();
    match state {
        JobState::Delayed => head.insert(3, "DUE"),
        JobState::Prioritized => head.insert(3, "PRIORITY"),
        _ => {}
    }
    head
}

fn row(job: &JobView, state: JobState, output: Output) -> Vec<String> {
    let when = |ms: Option<u64>| at(ms).map_or_else(String::new, |at| output.when(at));
    let removed = job
        .removed_by
        .map(|bulk| format!("removed by bulk operation {bulk}"));
    let failure = removed.as_deref().or(job.failed_reason.as_deref());
    let failure = failure.unwrap_or_default();
    let failure = match output.wide {
        true => failure.to_owned(),
        false => shortened(failure, 60),
    };
    let mut cells = vec![
        job.id.clone(),
        job.name.clone(),
        when(job.timestamp),
        job.attempts_made.to_string(),
        failure,
        when(job.processed_on),
        when(job.finished_on),
        job.priority.unwrap_or(0).to_string(),
        job.processed_by.clone().unwrap_or_default(),
    ];
    match state {
        JobState::Delayed => cells.insert(3, when(job.due_at)),
        JobState::Prioritized => {
            let priority = cells.remove(PRIORITY);
            cells.insert(3, priority);
        }
        _ => {}
    }
    cells
}

fn in_state(counts: &QueueCounts, state: JobState) -> u64 {
    match state {
        // The list shows removed ones, too.
        JobState::Waiting => counts.waiting + counts.removed,
        JobState::Prioritized => counts.prioritized,
        JobState::Delayed => counts.delayed,
        JobState::WaitingChildren => counts.waiting_children,
        JobState::Active => counts.active,
        JobState::Completed => counts.completed,
        JobState::Failed => counts.failed,
        JobState::Unknown => 0,
    }
}

fn at(ms: Option<u64>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(ms?).ok()?)
}

fn listed(text: &str) -> Result<JobState, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// The options without `tm`, in which a producer sends what follows a job through the systems; its
/// correlation id has a line of its own.
fn options(opts: &str) -> Vec<String> {
    let Ok(serde_json::Value::Object(mut options)) = serde_json::from_str(opts) else {
        return match opts {
            "" => Vec::new(),
            _ => vec![format!("Options: {opts}")],
        };
    };
    let metadata = options.remove("tm").unwrap_or_default();
    let metadata: serde_json::Value =
        serde_json::from_str(metadata.as_str().unwrap_or_default()).unwrap_or_default();
    let mut lines = Vec::new();
    if let Some(id) = metadata["correlationId"].as_str() {
        lines.push(format!("Correlation id: {}", word(id)));
    }
    if !options.is_empty() {
        lines.push(format!("Options: {}", serde_json::Value::Object(options)));
    }
    lines
}

fn describe(queue: &str, shown: &Job) -> String {
    let RedactedJob { job, hidden } = &shown.job;
    let mut lines = vec![format!(
        "{} {}  {}  {}",
        word(queue),
        word(&job.id),
        word(&job.name),
        job.state
    )];
    lines.extend(job.removed_by.map(|bulk| match shown.undo {
        Some(undo) => {
            format!("Removed by bulk operation {bulk}. Undo: patchbay bulk undo {undo}")
        }
        None => format!("Removed by bulk operation {bulk}"),
    }));
    lines.extend(times(job));
    lines.push(format!("Attempts: {}", attempts(shown)));
    if let Some(priority) = job.priority.filter(|priority| *priority > 0) {
        lines.push(format!("Priority: {priority}"));
    }
    if let Some(schedule) = &job.schedule_id {
        lines.push(format!("Schedule: {schedule}"));
    }
    if let Some(run) = &shown.schedule_run {
        let who = by(&run.actor, run.at, run.reason.as_ref());
        lines.push(format!("Schedule: {}, run {who}", word(&run.schedule)));
    }
    lines.extend(options(&job.opts));
    let copy = |copy: &CopyOf| {
        let who = by(&copy.actor, copy.at, copy.reason.as_ref());
        format!("{}, made {who}", job_of_key(&copy.job))
    };
    lines.extend(
        shown
            .copy_of
            .iter()
            .map(|original| format!("Copy of: {}", copy(original))),
    );
    lines.extend(
        shown
            .copies
            .iter()
            .map(|made| format!("Copied to: {}", copy(made))),
    );
    lines.extend(
        shown
            .unavailable
            .iter()
            .map(|why| format!("Attempts and last change: unknown now ({why})")),
    );
    if let Some(change) = &shown.last_change {
        let who = by(&change.actor, change.at, change.reason.as_ref());
        lines.push(format!("Last change: {} {who}", change.action));
    }
    let texts = [
        ("Data", Some(&job.data)),
        ("Result", job.return_value.as_ref()),
        ("Failure", job.failed_reason.as_ref()),
        ("Damage", job.damage.as_ref()),
    ];
    lines.extend(
        texts
            .into_iter()
            .filter_map(|(label, text)| Some(format!("{label}: {}", text?))),
    );
    if !shown.attempts.is_empty() {
        lines.push("History of attempts, newest first:".into());
    }
    for attempt in shown.attempts.iter().rev() {
        let why = attempt
            .message
            .as_ref()
            .map(|message| format!("  {message}"))
            .unwrap_or_default();
        let took = (attempt.finished_at - attempt.started_at).to_std();
        lines.push(format!(
            "  {}  {}  took {}  revision {}{why}",
            time(attempt.finished_at),
            attempt.outcome,
            lasted(took.unwrap_or_default()),
            short(attempt.revision.as_deref().unwrap_or("-"))
        ));
    }
    // The stack of an attempt has file names and lines if the component file has them; that of the
    // job only has function names.
    let remembered = shown
        .attempts
        .iter()
        .rev()
        .find_map(|attempt| attempt.stack.as_ref());
    if let Some(stack) = remembered.or_else(|| job.stacktrace.last()) {
        let of = match job.state {
            JobState::Failed => "",
            _ => " of the last failed attempt",
        };
        lines.push(format!("Stack trace{of}:\n{stack}"));
    }
    if !shown.logs.is_empty() {
        lines.push("Log:".into());
        lines.extend(shown.logs.iter().map(|line| format!("  {line}")));
    }
    if *hidden > 0 {
        let values = counted(*hidden as u64, "value");
        lines.push(format!(
            "Hidden: {values}. --reveal shows them; that is recorded"
        ));
    }
    lines.join("\n")
}

/// `by ops at 2026-11-30T13:08:03Z: INC-7`
fn by(actor: &str, at: DateTime<Utc>, reason: Option<&String>) -> String {
    let why = reason.map(|why| format!(": {why}")).unwrap_or_default();
    format!("by {actor} at {}{why}", time(at))
}

/// When it was added, is due, has started and has ended, with how long each step took.
fn times(job: &JobView) -> Vec<String> {
    let now = Utc::now();
    let (added, due) = (at(job.timestamp), at(job.due_at));
    let (started, ended) = (at(job.processed_on), at(job.finished_on));
    let between = |from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>| {
        (to? - from?).to_std().ok().map(lasted)
    };
    let mut lines = Vec::new();
    if let Some(added) = added {
        lines.push(format!("Added: {} ({})", time(added), relative(added, now)));
    }
    if let Some(due) = due {
        lines.push(format!("Due: {} ({})", time(due), relative(due, now)));
    }
    if let Some(started) = started {
        let waited = between(added, Some(started));
        let waited = waited.map_or_else(String::new, |waited| {
            format!(", {waited} after it was added")
        });
        lines.push(format!(
            "Last started: {} ({}{waited})",
            time(started),
            relative(started, now)
        ));
    }
    if let Some(ended) = ended {
        let took = between(started, Some(ended));
        let took = took.map_or_else(String::new, |took| format!(", took {took}"));
        lines.push(format!(
            "Ended: {} ({}{took})",
            time(ended),
            relative(ended, now)
        ));
    }
    lines
}

/// `1 of 3 made, 2 left, backoff exponential from 1 s`
fn attempts(shown: &Job) -> String {
    let (job, retries) = (&shown.job.job, &shown.retries);
    let mut text = format!("{} of {} made", job.attempts_made, retries.attempts);
    if job.finished_on.is_none() {
        text += &format!(", {} left", retries.left);
    } else if job.state == JobState::Failed && retries.left > 0 {
        text += "; failed for good: this failure is not retried";
    }
    if let Some(backoff) = retries.backoff.as_ref().filter(|_| retries.attempts > 1) {
        text += &format!(", backoff {backoff}");
    }
    if job.stalled > 0 {
        text += &format!("; its worker was lost {}", counted(job.stalled, "time"));
    }
    text
}
