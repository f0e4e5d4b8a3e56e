//! `patchbay bulk …`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use patchbay_api::path::{api_path, with_query};
use reqwest::Method;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::refusal::{Refusal, confirmed};
use super::view::{items, text};

/// Between looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For scripts: nothing was meant, so nothing was done.
const NOTHING_FOUND: u8 = 3;

#[derive(Subcommand)]
pub enum BulkCommand {
    /// Put failed (or completed) jobs back into their queues
    Retry {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        history: FromHistory,
    },
    /// Remove jobs; can be undone for an hour
    Remove {
        #[command(flatten)]
        which: Which,
    },
    /// Add new jobs like these
    EnqueueAgain {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        history: FromHistory,
    },
    /// Change the data of failed jobs, then retry them; what would not fit the plugin's schema is left as it is
    EditAndRetry {
        #[command(flatten)]
        which: Which,
        /// A value at a path of the data: lead.id=42, or /lead/id="text"; what is no JSON is taken as text
        #[arg(long = "set", value_name = "PATH=JSON")]
        set: Vec<String>,
        /// Take a path out of the data
        #[arg(long = "unset", value_name = "PATH")]
        unset: Vec<String>,
    },
    /// List bulk operations, the newest first
    List,
    /// Show one: state, counts, and why jobs were left as they are
    Show {
        /// Its number
        id: i64,
        /// Its jobs, too: all, or those that are pending, done, skipped, failed, restored or lost
        #[arg(long, value_name = "STATE", num_args = 0..=1, default_missing_value = "")]
        jobs: Option<String>,
    },
    /// Follow one until it ends or pauses
    Watch {
        /// Its number
        id: i64,
    },
    /// Stop one where it is; what is done stays done
    Cancel {
        /// Its number
        id: i64,
    },
    /// Let one go on that has paused after its first jobs
    Resume {
        /// Its number
        id: i64,
        /// So many more, then pause again
        #[arg(long)]
        first: Option<u32>,
        /// Follow it
        #[arg(long)]
        watch: bool,
    },
    /// Put back what a removal has removed, within an hour of its end
    Undo {
        /// Its number
        id: i64,
        /// Follow it
        #[arg(long)]
        watch: bool,
    },
}

/// Which jobs, and how.
#[derive(Args)]
pub struct Which {
    /// queue=, job=, name=, from=, to=, code=, text=, data.PATH=, plugin=, revision=, correlation-id=, platform=, outcome=, verdict=, dead-letter=; all must hold
    #[arg(value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Every job of every queue
    #[arg(long)]
    everything: bool,
    /// Jobs in this state: failed, completed; to remove also delayed, waiting or prioritized
    #[arg(long, default_value = "failed")]
    state: String,
    #[command(flatten)]
    how: How,
}

/// How it is gone about.
#[derive(Args)]
pub struct How {
    /// Only count, and show some
    #[arg(long)]
    dry_run: bool,
    /// Show the data of those, too, without what is hidden
    #[arg(long)]
    with_data: bool,
    /// With --dry-run --with-data: show what is hidden, too; that is recorded
    #[arg(long, requires_all = ["dry_run", "with_data"])]
    reveal: bool,
    /// Do so many, then pause; `patchbay bulk resume` does the rest
    #[arg(long)]
    first: Option<u32>,
    /// For the record
    #[arg(long)]
    reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Follow it
    #[arg(long)]
    watch: bool,
}

impl Which {
    fn put_into(&self, mut request: Value) -> Result<Value, Refusal> {
        let mut pairs = Map::new();
        for pair in &self.filter {
            let (key, value) = pair.split_once('=').ok_or_else(|| Refusal(format!("{pair}: write KEY=VALUE")))?;
            if pairs.insert(key.to_owned(), value.into()).is_some() {
                return Err(Refusal(format!("{key}: given twice")));
            }
        }
        request["filter"] = pairs.into();
        request["everything"] = self.everything.into();
        request["state"] = self.state.as_str().into();
        Ok(request)
    }
}

/// Jobs that Redis may have forgotten.
#[derive(Args)]
pub struct FromHistory {
    /// Jobs that the history remembers, whether Redis still has them or not
    #[arg(long)]
    from_history: bool,
    /// Jobs that are added anew are the same as before: outside effects that they have had are not repeated
    #[arg(long, conflicts_with = "new_key")]
    keep_key: bool,
    /// Jobs that are added anew are other ones, and do everything again
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

pub(crate) async fn run(command: BulkCommand, args: &ClientArgs, output: Output) -> anyhow::Result<ExitCode> {
    let client = Client::from_args(args)?;
    let post = async |path: String, body: Value| client.call(Method::POST, &path, Some(body)).await;
    match command {
        BulkCommand::Retry { which, history } => {
            let mut request = json!({ "kind": "retry" });
            history.put_into(&mut request);
            return begin(which.put_into(request)?, which.how, "puts back into their queues", &client, output).await;
        }
        BulkCommand::Remove { which } => {
            let request = which.put_into(json!({ "kind": "remove" }))?;
            return begin(request, which.how, "removes", &client, output).await;
        }
        BulkCommand::EnqueueAgain { which, history } => {
            let mut request = json!({ "kind": "enqueue-again" });
            history.put_into(&mut request);
            return begin(which.put_into(request)?, which.how, "adds new jobs like", &client, output).await;
        }
        BulkCommand::EditAndRetry { which, set, unset } => {
            let mut values = BTreeMap::new();
            for pair in set {
                let (path, value) = pair.split_once('=').ok_or_else(|| Refusal(format!("{pair}: write PATH=JSON")))?;
                // As it was written; what is no JSON is a text.
                let json = RawValue::from_string(value.trim().to_owned());
                values.insert(path.to_owned(), json.or_else(|_| to_raw_value(value))?);
            }
            let request = which.put_into(json!({ "kind": "edit-and-retry", "unset": unset }))?;
            return begin_with(request, values, which.how, "changes and retries", &client, output).await;
        }
        BulkCommand::List => {
            let bulks = client.call(Method::GET, "bulk", None).await?;
            let rows = items(&bulks).map(|bulk| {
                let counts = ["matched", "done", "skipped", "failed"].map(|name| bulk[name].to_string());
                let head = [bulk["id"].to_string(), text(bulk, "kind"), text(bulk, "state")];
                let reason = bulk["reason"].as_str().unwrap_or("-").to_owned();
                let tail = [text(bulk, "createdAt"), text(bulk, "actor"), meant(bulk), reason];
                head.into_iter().chain(counts).chain(tail).collect()
            });
            let head =
                ["ID", "KIND", "STATE", "MATCHED", "DONE", "SKIPPED", "FAILED", "CREATED", "BY", "JOBS", "REASON"];
            output.table(&head, rows.collect(), &bulks);
        }
        BulkCommand::Show { id, jobs } => {
            let mut bulk = client.call(Method::GET, &api_path(&["bulk", &id.to_string()]), None).await?;
            if let Some(state) = jobs {
                let state = (!state.is_empty()).then_some(("state", state.as_str()));
                let query = [("limit", "200")].into_iter().chain(state);
                bulk["jobs"] = client.all(&with_query(&api_path(&["bulk", &id.to_string(), "items"]), query)).await?;
            }
            output.value(&describe(&bulk), &bulk);
        }
        BulkCommand::Watch { id } => return watch(id, &client, output).await,
        BulkCommand::Cancel { id } => {
            let bulk = post(api_path(&["bulk", &id.to_string(), "cancel"]), json!({})).await?;
            output.value(&format!("cancelled: {}", describe(&bulk)), &bulk);
        }
        BulkCommand::Resume { id, first, watch: follow } => {
            let bulk = post(api_path(&["bulk", &id.to_string(), "resume"]), json!({ "first": first })).await?;
            return go_on(id, follow, &format!("bulk {id} goes on"), &bulk, &client, output).await;
        }
        BulkCommand::Undo { id, watch: follow } => {
            let bulk = post(api_path(&["bulk", &id.to_string(), "undo"]), json!({})).await?;
            return go_on(id, follow, &format!("bulk {id} is being undone"), &bulk, &client, output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what is meant, asks, and begins.
pub(super) async fn begin(
    request: Value,
    how: How,
    does: &str,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    begin_with(request, BTreeMap::new(), how, does, client, output).await
}

/// With values of job data, which stay as the operator wrote them.
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
    how: How,
    does: &str,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let How { dry_run, with_data, reveal, first, reason, yes, watch: follow } = how;
    request["first"] = json!(first);
    request["reason"] = json!(reason);
    let mut look = request.clone();
    look["dryRun"] = true.into();
    look["withData"] = with_data.into();
    look["reveal"] = reveal.into();
    let preview = client.send_body(Method::POST, "bulk", &Body { set: &set, request: &look }).await?;
    let matched = preview["matched"].as_u64().unwrap_or(0);
    if matched == 0 && preview["complete"] == true {
        output.value("no job is meant by this filter; nothing was done", &preview);
        return Ok(ExitCode::from(NOTHING_FOUND));
    }
    let jobs = if matched == 1 { "job" } else { "jobs" };
    let count = format!("{}{matched} {jobs}", if preview["complete"] == true { "" } else { "at least " });
    if dry_run {
        output.value(&shown(&count, &preview), &preview);
        return Ok(ExitCode::SUCCESS);
    }
    if !output.json {
        println!("{}", shown(&count, &preview));
    }
    let pause = first.filter(|first| u64::from(*first) < matched);
    let pause = pause.map(|first| format!(", the first {first} now: then it pauses")).unwrap_or_default();
    confirmed(yes, &format!("this {does} {count}{pause}"))?;
    let bulk = client.send_body(Method::POST, "bulk", &Body { set: &set, request: &request }).await?;
    let id = bulk["id"].as_i64().unwrap_or_default();
    let done = format!("bulk {id} has begun; follow it: patchbay bulk watch {id}");
    go_on(id, follow, &done, &bulk, client, output).await
}

fn shown(count: &str, preview: &Value) -> String {
    let mut lines = vec![format!("{count}, for example:")];
    for job in items(&preview["sample"]) {
        let why = job["failure"].as_str().map(|why| format!("  {}", why.chars().take(80).collect::<String>()));
        let refused = job["refused"].as_str().map(|why| format!("\n    would be left as it is: {why}"));
        let data = job["data"].as_str().map(|data| format!("\n    {data}"));
        let name = format!("  {} {}  {}", text(job, "queue"), text(job, "id"), text(job, "name"));
        lines.push([Some(name), why, refused, data].into_iter().flatten().collect());
    }
    lines.join("\n")
}

async fn go_on(
    id: i64,
    follow: bool,
    sentence: &str,
    bulk: &Value,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    if follow {
        return watch(id, client, output).await;
    }
    output.value(sentence, bulk);
    Ok(ExitCode::SUCCESS)
}

async fn watch(id: i64, client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let mut last = String::new();
    loop {
        let bulk = client.call(Method::GET, &api_path(&["bulk", &id.to_string()]), None).await?;
        match bulk["state"].as_str().unwrap_or_default() {
            "matching" | "running" | "undoing" => {
                let line = progress(&bulk);
                if !output.json && line != last {
                    println!("{line}");
                    last = line;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            state => {
                let has_failed = state == "failed" || bulk["failed"].as_u64().unwrap_or(0) > 0;
                output.value(&describe(&bulk), &bulk);
                return Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
            }
        }
    }
}

fn progress(bulk: &Value) -> String {
    let counts = ["matched", "done", "skipped", "failed", "restored"];
    let counts = counts.iter().filter(|name| **name != "restored" || bulk[**name] != 0);
    let counts: Vec<String> = counts.map(|name| format!("{} {name}", bulk[*name])).collect();
    format!("bulk {}  {}  {}  {}", bulk["id"], text(bulk, "kind"), text(bulk, "state"), counts.join(", "))
}

/// Which jobs: `failed of the history, queue=emailQueue`.
fn meant(bulk: &Value) -> String {
    let pairs = bulk["filter"].as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let pairs = if pairs.is_empty() { "everything".into() } else { pairs.join(" ") };
    let from = if bulk["source"] == "history" { " of the history" } else { "" };
    format!("{}{from}, {pairs}", text(bulk, "jobState"))
}

fn describe(bulk: &Value) -> String {
    let mut lines = vec![progress(bulk), format!("jobs: {}", meant(bulk))];
    let by = format!("by {} at {}", text(bulk, "actor"), text(bulk, "createdAt"));
    lines.push(bulk["reason"].as_str().map_or(by.clone(), |reason| format!("{by}: {reason}")));
    lines.extend(bulk["error"].as_str().map(|error| format!("error: {error}")));
    for reason in items(&bulk["reasons"]) {
        lines.push(format!("{} {}: {}", reason["jobs"], text(reason, "state"), text(reason, "reason")));
    }
    match (bulk["state"].as_str(), bulk["undoUntil"].as_str()) {
        (Some("paused"), _) => lines.push(format!("next: patchbay bulk resume {}, or cancel", bulk["id"])),
        (Some("done" | "cancelled" | "failed"), Some(until)) => {
            lines.push(format!("can be undone until {until}: patchbay bulk undo {}", bulk["id"]));
        }
        _ => {}
    }
    for job in items(&bulk["jobs"]) {
        let notes = [job["newId"].as_str().map(|id| format!("now {id}")), job["reason"].as_str().map(str::to_owned)];
        let notes = notes.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let line = format!("  {} {}  {}  {notes}", text(job, "queue"), text(job, "jobId"), text(job, "state"));
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}
