//! `patchbay job …`

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use patchbay_api::body::{AnyDocument, Json, NoBody};
use patchbay_api::jobs::{
    Delay, Force, Job, JobPath, JobsKill, JobsList, JobsPromote, JobsRemove, JobsRetry,
    JobsSetData, JobsSetDelay, JobsSetPriority, JobsShow, ListJobs, Priority, RedactedJob,
};
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::QueuePath;
use patchbay_api::timeline::JobsTimeline;
use patchbay_model::job::JobState;
use patchbay_model::shell::word;
use serde_json::{Value, json};

use super::add::{self, AddArgs};
use super::client::{Client, ClientArgs, RevealArgs};
use super::input::given_json;
use super::output::time;
use super::view::short;
use super::{Output, timeline};

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
    },
    /// Show a job: state, data, failure, log and attempts
    Show {
        /// Name of the queue
        queue: String,
        /// Id of the job
        id: String,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Show the timeline of a job: every attempt with its outside calls, actions of operators, and
    /// related jobs; also after Redis has forgotten the job
    Timeline {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Retry a failed or completed job: put it back into its queue
    Retry {
        #[command(flatten)]
        job: JobRef,
    },
    /// Remove a job that is not running; its history stays
    Remove {
        #[command(flatten)]
        job: JobRef,
    },
    /// Run a delayed job now
    Promote {
        #[command(flatten)]
        job: JobRef,
    },
    /// Kill a running job, in whichever host process it runs; it fails for good
    Kill {
        #[command(flatten)]
        job: JobRef,
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
    },
    /// Change when a delayed job starts
    SetDelay {
        #[command(flatten)]
        job: JobRef,
        /// Delay in milliseconds, from now
        delay_ms: u64,
    },
    /// Change the priority of a waiting job
    SetPriority {
        #[command(flatten)]
        job: JobRef,
        /// Priority, 1 (first) to 2097152; 0 comes before all of them
        priority: u32,
    },
    /// List the jobs of a queue in one state
    List {
        /// Name of the queue
        queue: String,
        /// State of the jobs
        #[arg(default_value = "failed", value_parser = PossibleValuesParser::new(LISTED).try_map(|text| listed(&text)))]
        state: JobState,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 20)]
        limit: u64,
        /// Skip this many jobs
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// List all jobs, page by page
        #[arg(long, conflicts_with_all = ["limit", "offset"])]
        all: bool,
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
        write!(f, "{} {}", word(&self.queue), word(&self.id))
    }
}

pub(crate) async fn run(
    command: JobCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let none = NoQuery {};
    match command {
        JobCommand::Add(args) => add::add(*args, &client, output).await?,
        JobCommand::Flow { tree, force } => add::flow(tree, force, &client, output).await?,
        JobCommand::Show { queue, id, reveal } => {
            let path = JobPath {
                queue: queue.clone(),
                id,
            };
            let job = client.ask::<JobsShow>(path, reveal.into(), NoBody).await?;
            output.value(&describe(&queue, &job.data), &job.raw);
        }
        JobCommand::Timeline { job, reveal } => {
            let told = client
                .ask::<JobsTimeline>((&job).into(), reveal.into(), NoBody)
                .await?;
            output.value(&timeline::describe(&told.data), &told.raw);
        }
        JobCommand::Retry { job } => {
            client.ask::<JobsRetry>((&job).into(), none, NoBody).await?;
            output.value(&format!("{job} is waiting again"), &job.value());
        }
        JobCommand::Remove { job } => {
            client
                .ask::<JobsRemove>((&job).into(), none, NoBody)
                .await?;
            output.value(
                &format!("{job} is removed; its history stays"),
                &job.value(),
            );
        }
        JobCommand::Promote { job } => {
            client
                .ask::<JobsPromote>((&job).into(), none, NoBody)
                .await?;
            output.value(&format!("{job} is due now"), &job.value());
        }
        JobCommand::Kill { job } => {
            client.ask::<JobsKill>((&job).into(), none, NoBody).await?;
            output.value(&format!("{job} was ended and has failed"), &job.value());
        }
        JobCommand::SetData { job, data, force } => {
            let data = AnyDocument(given_json(data, "the data")?);
            client
                .ask::<JobsSetData>((&job).into(), Force { force }, data)
                .await?;
            output.value(&format!("{job} has other data now"), &job.value());
        }
        JobCommand::SetDelay { job, delay_ms } => {
            client
                .ask::<JobsSetDelay>((&job).into(), none, Json(Delay { delay_ms }))
                .await?;
            output.value(&format!("{job} is due in {delay_ms} ms"), &job.value());
        }
        JobCommand::SetPriority { job, priority } => {
            client
                .ask::<JobsSetPriority>((&job).into(), none, Json(Priority { priority }))
                .await?;
            output.value(&format!("{job} has priority {priority} now"), &job.value());
        }
        JobCommand::List {
            queue,
            state,
            limit,
            offset,
            all,
            reveal,
        } => {
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
            let jobs = client
                .ask_pages::<JobsList, _>(&QueuePath { queue }, page)
                .await?;
            let rows = jobs.data.iter().map(|RedactedJob { job, .. }| {
                let reason = job
                    .failed_reason
                    .as_deref()
                    .unwrap_or_default()
                    .chars()
                    .take(60)
                    .collect();
                vec![
                    job.id.clone(),
                    job.name.clone(),
                    job.attempts_made.to_string(),
                    reason,
                ]
            });
            output.table(
                &["ID", "NAME", "ATTEMPTS", "FAILURE"],
                rows.collect(),
                &jobs.raw,
            );
        }
    }
    Ok(())
}

fn listed(text: &str) -> Result<JobState, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
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
    let texts = [
        ("data", Some(&job.data)),
        ("result", job.return_value.as_ref()),
        ("failure", job.failed_reason.as_ref()),
        ("damage", job.damage.as_ref()),
    ];
    lines.extend(
        texts
            .into_iter()
            .filter_map(|(label, text)| Some(format!("{label}: {}", text?))),
    );
    if !shown.attempts.is_empty() {
        lines.push("attempts:".into());
    }
    for attempt in &shown.attempts {
        let why = attempt
            .message
            .as_ref()
            .map(|message| format!("  {message}"))
            .unwrap_or_default();
        lines.push(format!(
            "  {}  {}  revision {}{why}",
            time(attempt.finished_at),
            attempt.outcome,
            short(attempt.revision.as_deref().unwrap_or("-"))
        ));
    }
    // The stack of an attempt has file names and lines if the component file has them; that of the
    // job only has function names.
    let remembered = shown
        .attempts
        .iter()
        .find_map(|attempt| attempt.stack.as_ref());
    if let Some(stack) = remembered.or_else(|| job.stacktrace.last()) {
        lines.push(format!("stack trace:\n{stack}"));
    }
    if !shown.logs.is_empty() {
        lines.push("log:".into());
        lines.extend(shown.logs.iter().map(|line| format!("  {line}")));
    }
    match hidden {
        0 => {}
        1 => lines.push("1 value is hidden. To see it, which is recorded: --reveal".into()),
        hidden => lines.push(format!(
            "{hidden} values are hidden. To see them, which is recorded: --reveal"
        )),
    }
    lines.join("\n")
}
