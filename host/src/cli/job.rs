//! `patchbay job …`

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::Output;
use super::add::{self, AddArgs};
use super::client::{Client, ClientArgs, segment};
use super::plugin::{items, text};

#[derive(Subcommand)]
pub(super) enum JobCommand {
    /// Add a job
    Add(Box<AddArgs>),
    /// Add a tree of jobs: a parent waits for its children and sees their results
    Flow {
        /// JSON: {"queue": …, "job": {"name": …, "data": …}, "onFailure": …, "children": [more of the same]}; `-` reads standard input
        tree: String,
    },
    /// Show a job: state, data, failure, log and attempts
    Show {
        /// The queue
        queue: String,
        /// The job's id
        id: String,
    },
    /// Put a failed or completed job back into its queue
    Retry {
        /// The queue
        queue: String,
        /// The job's id
        id: String,
    },
    /// List the jobs of a queue in one state
    List {
        /// The queue
        queue: String,
        /// waiting, prioritized, delayed, waiting-children, active, completed or failed
        #[arg(default_value = "failed")]
        state: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u64,
        /// Skip so many
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
}

pub(super) async fn run(command: JobCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        JobCommand::Add(args) => add::add(*args, &client, output).await?,
        JobCommand::Flow { tree } => add::flow(tree, &client, output).await?,
        JobCommand::Show { queue, id } => {
            let story =
                client.call(Method::GET, &format!("queues/{}/jobs/{}", segment(&queue), segment(&id)), None).await?;
            output.value(&describe(&queue, &story), &story);
        }
        JobCommand::Retry { queue, id } => {
            client.call(Method::POST, &format!("queues/{}/jobs/{}/retry", segment(&queue), segment(&id)), None).await?;
            output.value(&format!("{queue} {id} is waiting again"), &json!({ "queue": queue, "id": id }));
        }
        JobCommand::List { queue, state, limit, offset } => {
            let path =
                format!("queues/{}/jobs?state={}&limit={limit}&offset={offset}", segment(&queue), segment(&state));
            let jobs = client.call(Method::GET, &path, None).await?;
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
    let mut lines = vec![format!("{queue} {}  {}  {}", text(job, "id"), text(job, "name"), text(job, "state"))];
    for (label, name) in [("data", "data"), ("result", "returnValue"), ("failure", "failedReason")] {
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
            super::plugin::short(attempt["revision"].as_str().unwrap_or("-"))
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
    lines.join("\n")
}
