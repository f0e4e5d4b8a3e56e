//! `patchbay queue …`

use std::borrow::Cow;

use anyhow::bail;
use clap::Subcommand;
use patchbay_api::path::api_path;
use patchbay_model::shell::word;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::refusal::confirmed;
use super::view::{items, text};

#[derive(Subcommand)]
pub enum QueueCommand {
    /// List queues with the number of jobs in each state and the age of the oldest that waits
    List,
    /// Show a queue: counts, limits, workers; rates and durations by name of job
    Show {
        /// Which
        queue: String,
    },
    /// Say why a queue does not move, and what to do next
    Why {
        /// Which
        queue: String,
    },
    /// Stop all workers everywhere from taking jobs; running ones go on
    Pause {
        #[command(flatten)]
        which: Which,
    },
    /// Let workers take jobs again
    Resume {
        #[command(flatten)]
        which: Which,
    },
    /// Remove the jobs that wait
    Drain {
        /// Which
        queue: String,
        /// Delayed jobs, too; those of schedules stay
        #[arg(long)]
        delayed: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Remove jobs in one state
    Clean {
        /// Which
        queue: String,
        /// waiting, prioritized, delayed, completed or failed
        state: String,
        /// At least so old, in seconds
        #[arg(long, default_value_t = 0)]
        older_than_s: u64,
        /// At most so many
        #[arg(long, default_value_t = 10_000)]
        limit: u64,
    },
    /// Put all failed (or completed) jobs back into the queue
    RetryAll {
        /// Which
        queue: String,
        /// failed or completed
        #[arg(long, default_value = "failed")]
        state: String,
    },
    /// Run all delayed jobs now; those of schedules stay
    PromoteAll {
        /// Which
        queue: String,
    },
    /// Remove a queue with all its jobs, finished ones included; history stays
    Obliterate {
        /// Which
        queue: String,
        /// The queue's name, once more
        #[arg(long, value_name = "QUEUE")]
        confirm: String,
    },
    /// List repeatables from before BullMQ had job schedulers, and what they would become; make them schedules with --apply
    MigrateRepeatables {
        /// Which
        queue: String,
        /// Do it
        #[arg(long)]
        apply: bool,
    },
    /// Limit how many jobs run at once over all workers everywhere
    Concurrency {
        /// Which
        queue: String,
        /// So many; absent: no limit
        max: Option<u32>,
    },
    /// Limit how many jobs start per time over all workers everywhere
    RateLimit {
        /// Which
        queue: String,
        /// So many; absent: no limit
        max: Option<u64>,
        /// In so many milliseconds
        #[arg(long, default_value_t = 1_000)]
        per_ms: u64,
    },
}

/// One queue, or all of them.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Which
    queue: Option<String>,
    /// Every queue
    #[arg(long)]
    all: bool,
}

impl Which {
    fn path(&self, action: &str) -> String {
        match &self.queue {
            Some(queue) => api_path(&["queues", queue, action]),
            None => api_path(&["queues"]) + "/" + action,
        }
    }

    fn body(&self) -> Option<Value> {
        self.queue.is_none().then(|| json!({ "all": true }))
    }

    fn name(&self) -> Cow<'_, str> {
        self.queue.as_deref().map_or("every queue".into(), word)
    }
}

const STATES: [&str; 7] = ["waiting", "active", "delayed", "prioritized", "waitingChildren", "completed", "failed"];

pub(crate) async fn run(command: QueueCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let post = async |path: String, body: Option<Value>| client.call(Method::POST, &path, body).await;
    match command {
        QueueCommand::List => {
            let queues = client.call(Method::GET, "queues", None).await?;
            let rows = items(&queues).map(|queue| {
                let counts = STATES.iter().map(|state| queue["counts"][state].to_string());
                let paused = if queue["counts"]["paused"] == true { "paused" } else { "" };
                let notes = [paused, queue["error"].as_str().unwrap_or_default()];
                let notes = notes.into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join(", ");
                let age = queue["oldestWaitingMs"].as_u64().map_or_else(String::new, age);
                std::iter::once(text(queue, "name")).chain(counts).chain([age, notes]).collect()
            });
            let head = [
                "QUEUE",
                "WAITING",
                "ACTIVE",
                "DELAYED",
                "PRIORITIZED",
                "CHILDREN",
                "COMPLETED",
                "FAILED",
                "OLDEST",
                "",
            ];
            output.table(&head, rows.collect(), &queues);
        }
        QueueCommand::Show { queue } => {
            let story = client.call(Method::GET, &api_path(&["queues", &queue]), None).await?;
            output.value(&describe(&story), &story);
        }
        QueueCommand::Why { queue } => {
            let reasons = client.call(Method::GET, &api_path(&["queues", &queue, "why"]), None).await?;
            let lines: Vec<String> = items(&reasons)
                .map(|reason| format!("{}\n  next: {}", text(reason, "message"), text(reason, "next")))
                .collect();
            output.value(&lines.join("\n"), &reasons);
        }
        QueueCommand::Pause { which } => {
            let done = post(which.path("pause"), which.body()).await?;
            output.value(&format!("paused: {}", which.name()), &done);
            all_done(&done)?;
        }
        QueueCommand::Resume { which } => {
            let done = post(which.path("resume"), which.body()).await?;
            output.value(&format!("takes jobs again: {}", which.name()), &done);
            all_done(&done)?;
        }
        QueueCommand::Drain { queue, delayed, yes } => {
            confirmed(yes, &format!("this forgets every job that waits in {}", word(&queue)))?;
            let done = post(api_path(&["queues", &queue, "drain"]), Some(json!({ "delayed": delayed }))).await?;
            output.value(&format!("{} jobs removed from {}", done["count"], word(&queue)), &done);
        }
        QueueCommand::Clean { queue, state, older_than_s, limit } => {
            let body = json!({ "state": state, "olderThanMs": older_than_s.saturating_mul(1_000), "limit": limit });
            let done = post(api_path(&["queues", &queue, "clean"]), Some(body)).await?;
            output.value(&format!("{} {state} jobs removed from {}", done["count"], word(&queue)), &done);
        }
        QueueCommand::RetryAll { queue, state } => {
            let done = post(api_path(&["queues", &queue, "put-back"]), Some(json!({ "state": state }))).await?;
            output.value(&format!("{} jobs of {} wait again", done["count"], word(&queue)), &done);
        }
        QueueCommand::PromoteAll { queue } => {
            let body = json!({ "state": "delayed" });
            let done = post(api_path(&["queues", &queue, "put-back"]), Some(body)).await?;
            output.value(&format!("{} jobs of {} are due now", done["count"], word(&queue)), &done);
        }
        QueueCommand::Obliterate { queue, confirm } => {
            let body = json!({ "confirm": confirm });
            let done = post(api_path(&["queues", &queue, "obliterate"]), Some(body)).await?;
            output.value(&format!("{} is gone, with {} jobs; its history stays", word(&queue), done["count"]), &done);
        }
        QueueCommand::MigrateRepeatables { queue, apply } => {
            let path = api_path(&["queues", &queue, "migrate-repeatables"]);
            let migrated = post(path, Some(json!({ "dryRun": !apply }))).await?;
            let rows = items(&migrated).map(|one| {
                let becomes = match (one["schedule"].as_str(), one["reason"].as_str()) {
                    (Some(id), _) => format!("schedule {id}"),
                    (None, reason) => format!("stays: {}", reason.unwrap_or_default()),
                };
                vec![text(&one["repeatable"], "key"), becomes]
            });
            output.table(&["REPEATABLE", if apply { "BECAME" } else { "WOULD BECOME" }], rows.collect(), &migrated);
        }
        QueueCommand::Concurrency { queue, max } => {
            let path = api_path(&["queues", &queue, "concurrency"]);
            client.call(Method::PUT, &path, Some(json!({ "max": max }))).await?;
            let said = max.map_or("no limit on jobs at once".to_owned(), |max| format!("at most {max} jobs at once"));
            output.value(&format!("{}: {said}", word(&queue)), &json!({ "queue": queue, "max": max }));
        }
        QueueCommand::RateLimit { queue, max, per_ms } => {
            let path = api_path(&["queues", &queue, "rate-limit"]);
            client.call(Method::PUT, &path, Some(json!({ "max": max, "perMs": per_ms }))).await?;
            let said = max.map_or("no rate limit".to_owned(), |max| format!("at most {max} jobs in {per_ms} ms"));
            output.value(&format!("{}: {said}", word(&queue)), &json!({ "queue": queue, "max": max, "perMs": per_ms }));
        }
    }
    Ok(())
}

/// Of every queue, some may not have been.
fn all_done(done: &Value) -> anyhow::Result<()> {
    let failures: Vec<String> = items(&done["failures"])
        .map(|one| format!("{}: {}", word(&text(one, "queue")), text(one, "message")))
        .collect();
    if !failures.is_empty() {
        bail!("not done for {} queues:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

fn describe(story: &Value) -> String {
    let counts = STATES.iter().map(|state| format!("{state} {}", story["counts"][state]));
    let mut lines =
        vec![word(&text(story, "name")).into_owned(), format!("  {}", counts.collect::<Vec<_>>().join(", "))];
    if story["counts"]["paused"] == true {
        lines.push("  paused".into());
    }
    if let Some(error) = story["error"].as_str() {
        lines.push(format!("  damaged: {error}"));
    }
    if let Some(ms) = story["oldestWaitingMs"].as_u64() {
        lines.push(format!("  oldest has waited {}", age(ms)));
    }
    if let Some(max) = story["concurrency"].as_u64() {
        lines.push(format!("  at most {max} at once"));
    }
    if let [Value::Number(max), Value::Number(per)] = story["rate"].as_array().map_or(&[][..], Vec::as_slice) {
        lines.push(format!("  at most {max} in {per} ms"));
    }
    lines.push(format!("  plugin: {}", story["plugin"].as_str().unwrap_or("none active on this host")));
    let workers: Vec<&str> = items(&story["workers"]).filter_map(Value::as_str).collect();
    lines.push(format!("  workers: {}", if workers.is_empty() { "none".into() } else { workers.join(", ") }));
    for job in items(&story["jobs"]) {
        let ms = |name: &str| job[name].as_f64().unwrap_or(0.0);
        lines.push(format!(
            "  {}: {} in the last minute, {} in 15 minutes, {} in a day ({} did not complete); {:.0} / {:.0} / {:.0} ms (p50 / p95 / p99)",
            word(&text(job, "name")),
            job["lastMinute"],
            job["last15Minutes"],
            job["lastDay"],
            job["notCompleted"],
            ms("p50Ms"),
            ms("p95Ms"),
            ms("p99Ms")
        ));
    }
    lines.join("\n")
}

/// Rounded to what an operator decides by.
fn age(ms: u64) -> String {
    match ms / 1_000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_are_rounded() {
        assert_eq!([5_000, 130_000, 7_300_000, 200_000_000].map(age), ["5 s", "2 min", "2 h", "2 d"]);
    }
}
