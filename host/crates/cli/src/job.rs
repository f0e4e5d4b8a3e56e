//! `patchbay job …`

use clap::Subcommand;
use patchbay_api::path::{api_path, with_query};
use patchbay_model::shell::word;
use reqwest::Method;
use serde_json::{Value, json};

use super::add::{self, AddArgs};
use super::client::{Client, ClientArgs, RevealArgs};
use super::input::given_json;
use super::view::{items, short, text};
use super::{Output, timeline};

#[derive(Subcommand)]
pub enum JobCommand {
    /// Add a job
    Add(Box<AddArgs>),
    /// Add a tree of jobs: a parent waits for its children and sees their results
    Flow {
        /// JSON: {"queue": …, "job": {"name": …, "data": …}, "onFailure": …, "children": [more of the same]}, @FILE, or - for standard input
        tree: String,
    },
    /// Show a job: state, data, failure, log and attempts
    Show {
        /// The queue
        queue: String,
        /// The job's id
        id: String,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Show a job's life: every attempt with its outside calls, what operators did, its relatives; also after Redis has forgotten it
    Timeline {
        #[command(flatten)]
        job: JobRef,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Put a failed or completed job back into its queue
    Retry {
        #[command(flatten)]
        job: JobRef,
    },
    /// Forget a job that does not run; its history stays
    Remove {
        #[command(flatten)]
        job: JobRef,
    },
    /// Run a delayed job now
    Promote {
        #[command(flatten)]
        job: JobRef,
    },
    /// End a job that runs, in whichever host process it does; it fails for good
    Kill {
        #[command(flatten)]
        job: JobRef,
    },
    /// Replace the data of a job that does not run
    SetData {
        #[command(flatten)]
        job: JobRef,
        /// JSON, @FILE, or - for standard input
        data: String,
    },
    /// Change when a delayed job starts
    SetDelay {
        #[command(flatten)]
        job: JobRef,
        /// From now, milliseconds
        delay_ms: u64,
    },
    /// Change the priority of a job that waits
    SetPriority {
        #[command(flatten)]
        job: JobRef,
        /// 1 (first) to 2097152; 0 is before all of them
        priority: u32,
    },
    /// List the jobs of a queue in one state
    List {
        /// The queue
        queue: String,
        /// Of jobs
        #[arg(default_value = "failed", value_parser = LISTED)]
        state: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u64,
        /// Skip so many
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// All of them, page by page
        #[arg(long, conflicts_with_all = ["limit", "offset"])]
        all: bool,
        #[command(flatten)]
        reveal: RevealArgs,
    },
}

/// States whose jobs a list holds.
const LISTED: [&str; 7] = ["waiting", "prioritized", "delayed", "waiting-children", "active", "completed", "failed"];
/// Most jobs that a host lists at once.
const PAGE: u64 = 200;

/// One job.
#[derive(clap::Args)]
pub struct JobRef {
    /// Its queue
    queue: String,
    /// Its id
    id: String,
}

impl JobRef {
    fn path(&self, action: &[&str]) -> String {
        api_path(&[&["queues", &self.queue, "jobs", &self.id], action].concat())
    }

    fn value(&self) -> Value {
        json!({ "queue": self.queue, "id": self.id })
    }
}

impl std::fmt::Display for JobRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", word(&self.queue), word(&self.id))
    }
}

pub(crate) async fn run(command: JobCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        JobCommand::Add(args) => add::add(*args, &client, output).await?,
        JobCommand::Flow { tree } => add::flow(tree, &client, output).await?,
        JobCommand::Show { queue, id, reveal } => {
            let path = format!("{}{}", api_path(&["queues", &queue, "jobs", &id]), reveal.query('?'));
            let story = client.call(Method::GET, &path, None).await?;
            output.value(&describe(&queue, &story), &story);
        }
        JobCommand::Timeline { job, reveal } => {
            let path = format!("{}{}", job.path(&["timeline"]), reveal.query('?'));
            let story = client.call(Method::GET, &path, None).await?;
            output.value(&timeline::describe(&story), &story);
        }
        JobCommand::Retry { job } => {
            client.call(Method::POST, &job.path(&["retry"]), None).await?;
            output.value(&format!("{job} is waiting again"), &job.value());
        }
        JobCommand::Remove { job } => {
            client.call(Method::DELETE, &job.path(&[]), None).await?;
            output.value(&format!("{job} is removed; its history stays"), &job.value());
        }
        JobCommand::Promote { job } => {
            client.call(Method::POST, &job.path(&["promote"]), None).await?;
            output.value(&format!("{job} is due now"), &job.value());
        }
        JobCommand::Kill { job } => {
            client.call(Method::POST, &job.path(&["kill"]), None).await?;
            output.value(&format!("{job} was ended and has failed"), &job.value());
        }
        JobCommand::SetData { job, data } => {
            let data = given_json(data, "the data")?;
            client.send_body(Method::PUT, &job.path(&["data"]), &data).await?;
            output.value(&format!("{job} has other data now"), &job.value());
        }
        JobCommand::SetDelay { job, delay_ms } => {
            client.call(Method::PUT, &job.path(&["delay"]), Some(json!({ "delayMs": delay_ms }))).await?;
            output.value(&format!("{job} is due in {delay_ms} ms"), &job.value());
        }
        JobCommand::SetPriority { job, priority } => {
            client.call(Method::PUT, &job.path(&["priority"]), Some(json!({ "priority": priority }))).await?;
            output.value(&format!("{job} has priority {priority} now"), &job.value());
        }
        JobCommand::List { queue, state, limit, offset, all, reveal } => {
            let path = with_query(&api_path(&["queues", &queue, "jobs"]), [("state", &state)]);
            let path = format!("{path}{}", reveal.query('&'));
            let jobs = match all {
                true => client.all(&format!("{path}&limit={PAGE}")).await?,
                false => client.first(&path, &format!("&offset={offset}"), limit, PAGE).await?,
            };
            let rows = items(&jobs).map(|job| {
                let reason = text(job, "failedReason").chars().take(60).collect();
                vec![text(job, "id"), text(job, "name"), job["attemptsMade"].to_string(), reason]
            });
            output.table(&["ID", "NAME", "ATTEMPTS", "FAILURE"], rows.collect(), &jobs);
        }
    }
    Ok(())
}

fn describe(queue: &str, story: &Value) -> String {
    let job = &story["job"];
    let mut lines = vec![format!(
        "{} {}  {}  {}",
        word(queue),
        word(&text(job, "id")),
        word(&text(job, "name")),
        text(job, "state")
    )];
    for (label, name) in
        [("data", "data"), ("result", "returnValue"), ("failure", "failedReason"), ("damage", "damage")]
    {
        if let Some(value) = job[name].as_str() {
            lines.push(format!("{label}: {value}"));
        }
    }
    let attempts: Vec<&Value> = items(&story["attempts"]).collect();
    if !attempts.is_empty() {
        lines.push("attempts:".into());
    }
    for attempt in attempts {
        let why = attempt["message"].as_str().map(|message| format!("  {message}")).unwrap_or_default();
        lines.push(format!(
            "  {}  {}  revision {}{why}",
            text(attempt, "finishedAt"),
            text(attempt, "outcome"),
            short(attempt["revision"].as_str().unwrap_or("-"))
        ));
    }
    // The remembered one names files and lines where the plugin's file does; the job's own names functions.
    let remembered = items(&story["attempts"]).find_map(|attempt| attempt["stack"].as_str());
    if let Some(stack) = remembered.or_else(|| items(&job["stacktrace"]).last().and_then(Value::as_str)) {
        lines.push(format!("stack trace:\n{stack}"));
    }
    let logs: Vec<&str> = items(&story["logs"]).filter_map(Value::as_str).collect();
    if !logs.is_empty() {
        lines.push("log:".into());
        lines.extend(logs.iter().map(|line| format!("  {line}")));
    }
    match job["hidden"].as_u64().unwrap_or(0) {
        0 => {}
        1 => lines.push("1 value is hidden. To see it, which is recorded: --reveal".into()),
        hidden => lines.push(format!("{hidden} values are hidden. To see them, which is recorded: --reveal")),
    }
    lines.join("\n")
}
