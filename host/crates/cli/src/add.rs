//! `patchbay job add` and `patchbay job flow`: their arguments, and the request bodies made from
//! them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use patchbay_api::body::Json;
use patchbay_api::flows::FlowsAdd;
use patchbay_api::jobs::{
    AddJob, AddJobs, Added, BackoffBody, DeduplicationBody, Force, JobsAdd, JobsAddMany,
};
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::QueuePath;
use patchbay_model::job::MAX_PRIORITY;
use patchbay_model::retry::{self, MAX_DELAY};
use patchbay_model::serde_errors;
use patchbay_model::shell::{self, arguments, word};
use patchbay_model::words::counted;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::input::{decimal, given_json, milliseconds, whole};
use super::refusal::{Refusal, Why};
use super::{Output, names};

/// The longest delay of a job, in milliseconds.
pub(super) const LONGEST_MS: u64 = MAX_DELAY.as_secs() * 1_000;

#[derive(Args)]
pub struct AddArgs {
    /// Name of the queue, for example emailQueue
    #[arg(add = names::queues())]
    queue: String,
    /// Name of the job, for example send
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// Data of the job: JSON, @FILE, or - for standard input
    #[arg(default_value = "{}")]
    data: String,
    /// Id of the job: a second job with this id is not added while the first is known
    #[arg(long)]
    id: Option<String>,
    /// Delay before the start: milliseconds, or with a unit, such as 90s or 2h
    #[arg(long, value_name = "MS", value_parser = milliseconds(0, LONGEST_MS))]
    delay_ms: Option<u64>,
    /// Priority, 1 (first) to 2097152. Jobs without a priority come first; 0 overrides the
    /// manifest's priority
    #[arg(long, value_parser = whole::<u32>(0, MAX_PRIORITY.into()))]
    priority: Option<u32>,
    /// Put it before all waiting jobs without a priority
    #[arg(long)]
    lifo: bool,
    /// Maximum number of attempts
    #[arg(long, value_parser = whole::<u32>(0, u32::MAX.into()))]
    attempts: Option<u32>,
    /// How the delay between attempts grows
    #[arg(long, value_enum, requires = "backoff_ms")]
    backoff: Option<BackoffKind>,
    /// First delay between attempts: milliseconds, or with a unit, such as 30s; fixed unless
    /// --backoff says otherwise
    #[arg(long, value_name = "MS", value_parser = milliseconds(0, LONGEST_MS))]
    backoff_ms: Option<u64>,
    /// Longest delay between attempts: milliseconds, or with a unit, such as 1h
    #[arg(long, value_name = "MS", requires = "backoff_ms", value_parser = milliseconds(0, LONGEST_MS))]
    backoff_max_ms: Option<u64>,
    /// Random share of the delay, 0.0 to 1.0
    #[arg(long, value_name = "SHARE", requires = "backoff_ms", value_parser = decimal(0.0, 1.0))]
    backoff_jitter: Option<f64>,
    /// Add only one job per this id while that job is unfinished
    #[arg(long, value_name = "ID")]
    deduplicate: Option<String>,
    /// Add only one job per this id within this time: milliseconds, or with a unit, such as 10m
    #[arg(long, value_name = "MS", requires = "deduplicate", value_parser = milliseconds(0, LONGEST_MS))]
    deduplicate_ttl_ms: Option<u64>,
    /// Restart the time window of --deduplicate-ttl-ms at each repeat
    #[arg(long, requires = "deduplicate_ttl_ms")]
    deduplicate_extend: bool,
    /// Replace the first job as long as it is delayed
    #[arg(long, requires = "deduplicate")]
    deduplicate_replace: bool,
    /// Keep a repeat that arrives while the first job runs, and run it afterwards
    #[arg(long, requires = "deduplicate")]
    deduplicate_keep_last: bool,
    /// Latest start, Unix milliseconds
    #[arg(long, value_name = "UNIX_MS", value_parser = whole::<u64>(0, u64::MAX))]
    expires_at_ms: Option<u64>,
    /// Retention once completed: true removes the job, false keeps it, or a number of jobs to keep,
    /// or {"age": seconds, "count": jobs}
    #[arg(long, value_name = "JSON")]
    remove_on_complete: Option<String>,
    /// Retention once failed for good; values as in --remove-on-complete
    #[arg(long, value_name = "JSON")]
    remove_on_fail: Option<String>,
    /// Add the jobs of a file instead (`-`: standard input): one JSON object per line with the fields
    /// of the API, for example {"name":"send","data":{"to":"x@example.com"},"delayMs":1000}; all
    /// are checked before the first is added
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "data", "id", "delay_ms", "priority", "lifo", "attempts", "backoff_ms",
        "deduplicate", "expires_at_ms", "remove_on_complete", "remove_on_fail"])]
    file: Option<PathBuf>,
    /// Create the queue if it is unknown
    #[arg(long)]
    new_queue: bool,
    /// Add it although the queue's active plugin does not declare this job, or other data for it;
    /// this is recorded
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub(super) why: Why,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackoffKind {
    Fixed,
    Exponential,
}

impl AddArgs {
    fn body(self) -> anyhow::Result<AddJob> {
        let data = given_json(self.data, "the data")?;
        let kind = self.backoff.unwrap_or(BackoffKind::Fixed).into();
        let (max_ms, jitter) = (self.backoff_max_ms, self.backoff_jitter);
        let backoff = self.backoff_ms.map(|delay_ms| BackoffBody {
            kind,
            delay_ms,
            max_ms,
            jitter,
        });
        let deduplication = self.deduplicate.map(|id| DeduplicationBody {
            id,
            ttl_ms: self.deduplicate_ttl_ms,
            extend: self.deduplicate_extend,
            replace: self.deduplicate_replace,
            keep_last_if_active: self.deduplicate_keep_last,
        });
        let removal = |flag: &str, wish: Option<String>| {
            wish.map(|wish| serde_json::from_str::<Value>(&wish))
                .transpose()
                .with_context(|| format!("{flag} is not JSON"))
        };
        Ok(AddJob {
            name: self.name.unwrap_or_default(),
            data: Some(data),
            id: self.id,
            delay_ms: self.delay_ms,
            priority: self.priority,
            lifo: self.lifo,
            attempts: self.attempts,
            backoff,
            deduplication,
            expires_at_ms: self.expires_at_ms,
            remove_on_complete: removal("--remove-on-complete", self.remove_on_complete)?,
            remove_on_fail: removal("--remove-on-fail", self.remove_on_fail)?,
            new_queue: self.new_queue,
            force: self.force,
        })
    }
}

impl From<BackoffKind> for retry::BackoffKind {
    fn from(kind: BackoffKind) -> Self {
        match kind {
            BackoffKind::Fixed => Self::Fixed,
            BackoffKind::Exponential => Self::Exponential,
        }
    }
}

/// Jobs and bytes of one request; a host takes at most 1,000 jobs and 2 MiB.
const JOBS_AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 1 << 20;

/// Jobs that a host takes at once, and the line of each in its file.
#[derive(Default)]
struct Part {
    jobs: Vec<AddJob>,
    lines: Vec<usize>,
}

impl Part {
    /// The error with the line of the job that it is about.
    fn placed(&self, error: ClientError, file: &str) -> ClientError {
        let ClientError::Refused {
            status,
            code,
            message,
            details,
        } = error
        else {
            return error;
        };
        let number = details.as_ref().and_then(|details| details["job"].as_u64());
        let line = number.and_then(|number| {
            let place = usize::try_from(number).ok()?.checked_sub(1)?;
            Some((number, self.lines.get(place)?))
        });
        let message = match line {
            Some((number, line)) => {
                let reason = message.strip_prefix(&format!("Job {number}: "));
                format!("{file}, line {line}: {}", reason.unwrap_or(&message))
            }
            None => message,
        };
        ClientError::Refused {
            status,
            code,
            message,
            details,
        }
    }
}

/// The job of a line, or why it is none.
fn job_of(line: &str) -> Result<AddJob, String> {
    let value = serde_json::from_str(line)
        .map_err(|error| format!("is not JSON (column {})", error.column()))?;
    serde_errors::from_value(value)
}

/// The jobs of a file, in parts that a host takes at once.
fn parts(text: &str, file: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    let mut bytes = 0;
    for (place, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = place + 1;
        let job = job_of(line).map_err(|reason| {
            Refusal(format!(
                "Nothing was added. {file}, line {number}: {reason}"
            ))
        })?;
        bytes += line.len();
        let has_room = |part: &&mut Part| part.jobs.len() < JOBS_AT_ONCE && bytes <= BYTES_AT_ONCE;
        if parts.last_mut().filter(has_room).is_none() {
            bytes = line.len();
            parts.push(Part::default());
        }
        if let Some(part) = parts.last_mut() {
            part.jobs.push(job);
            part.lines.push(number);
        }
    }
    Ok(parts)
}

async fn add_file(
    file: &Path,
    queue: &str,
    (new_queue, force): (bool, bool),
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let name = file.display().to_string();
    let text = match name.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?,
        _ => std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?,
    };
    let all: usize = parts(&text, &name)?
        .iter()
        .map(|part| part.jobs.len())
        .sum();
    if all == 0 {
        return Err(Refusal(format!(
            "Nothing was added: {name} has no jobs. Write one JSON object per line"
        ))
        .into());
    }
    let mut added: Vec<Added> = Vec::with_capacity(all);
    for dry_run in [true, false] {
        let mut before = 0;
        for mut part in parts(&text, &name)? {
            let jobs = std::mem::take(&mut part.jobs);
            let count = jobs.len();
            let path = QueuePath {
                queue: queue.to_owned(),
            };
            let body = AddJobs {
                jobs,
                new_queue,
                force,
                dry_run,
            };
            let answer = client
                .ask::<JobsAddMany>(path, NoQuery {}, Json(body))
                .await;
            let answer = answer
                .map_err(|error| part.placed(error, &name))
                .with_context(|| match (dry_run, before) {
                    (true, _) => "Nothing was added".to_owned(),
                    (false, before) => format!("The first {before} of {all} jobs were added"),
                })?;
            before += count;
            added.extend(answer.data);
            if !dry_run && before < all {
                output.note(&format!("Added {before} of {all}"));
            }
        }
    }
    let known = added.iter().filter(|job| job.known).count();
    let new = counted((all - known) as u64, "job");
    let rest = match known {
        0 => String::new(),
        known => format!("; {known} had the id of a job that is there, and were not added"),
    };
    if output.quiet && !output.json {
        let ids = added.iter().map(|job| vec![job.id.clone()]).collect();
        output.table(&["ID"], ids, &added);
        return Ok(());
    }
    let text = format!("Added: {new} to {}{rest}", word(queue));
    output.value(&text, &added);
    Ok(())
}

pub(super) async fn add(args: AddArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    if let Some(file) = &args.file {
        let how = (args.new_queue, args.force);
        return add_file(file, &args.queue, how, client, output).await;
    }
    let queue = args.queue.clone();
    let path = QueuePath {
        queue: queue.clone(),
    };
    let added = client
        .ask::<JobsAdd>(path, NoQuery {}, Json(args.body()?))
        .await?;
    let id = &added.data.id;
    let (job, shown) = (shell::job(&queue, id), arguments(&[&queue, id]));
    let what = match added.data.known {
        true => "Nothing was added, because there is a job with this id",
        false => "Added",
    };
    let text = format!("{what}: {job}\nSee: patchbay job show {shown}");
    output.made(id, &text, &added.raw);
    Ok(())
}

pub(super) async fn flow(
    tree: String,
    force: bool,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let tree = given_json(tree, "the flow")?;
    // Sent exactly as it was written, so that the host reports what is wrong with it.
    let added = client
        .ask_with::<FlowsAdd>((), |request| request.query(&Force { force }).json(&tree))
        .await?;
    let rows = added
        .data
        .jobs
        .iter()
        .map(|job| vec![job.queue.clone(), job.id.clone()])
        .collect();
    output.table(&["QUEUE", "ID"], rows, &added.raw);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_misfit_is_told_with_the_line_of_its_file() {
        let text = "\n{\"name\":\"send\"}\n\n{\"name\":\"sned\"}\n";
        let mut parts = parts(text, "jobs.ndjson").expect("jobs");
        let part = parts.pop().expect("a part");
        assert_eq!((part.jobs.len(), &part.lines[..]), (2, &[2, 4][..]));
        let refused = |details| ClientError::Refused {
            status: 422,
            code: "does-not-fit".into(),
            message: "Job 2: unknown name".into(),
            details,
        };
        let placed = |details| part.placed(refused(details), "jobs.ndjson").to_string();
        assert_eq!(
            placed(Some(json!({ "job": 2 }))),
            "jobs.ndjson, line 4: unknown name (does-not-fit)"
        );
        for without in [None, Some(json!({ "job": 9 })), Some(json!({}))] {
            assert_eq!(placed(without), "Job 2: unknown name (does-not-fit)");
        }
    }

    #[test]
    fn a_line_that_is_no_job_is_told_with_its_number_and_what_is_wrong() {
        for (text, told) in [
            (
                "{\"name\":\"a\"}\n{\"name\":",
                "f, line 2: is not JSON (column 8)",
            ),
            ("{\"data\":{}}", "f, line 1: "),
            ("{\"name\":7}", "f, line 1: name"),
        ] {
            let refused = parts(text, "f").err().expect("refused").to_string();
            assert!(
                refused.starts_with("Nothing was added. ") && refused.contains(told),
                "{refused}"
            );
            assert!(!refused.contains("at line"), "{refused}");
        }
    }
}
