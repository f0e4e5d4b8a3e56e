//! `patchbay queue …`

use std::borrow::Cow;

use anyhow::bail;
use clap::Subcommand;
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::{
    AllDone, Clean, Concurrency, Drain, EveryQueue, MigrateRepeatables, Obliterate, PutBack, Queue,
    QueueCounts, QueuePath, QueuesClean, QueuesConcurrency, QueuesDrain, QueuesList,
    QueuesMigrateRepeatables, QueuesObliterate, QueuesPause, QueuesPauseAll, QueuesPutBack,
    QueuesRateLimit, QueuesResume, QueuesResumeAll, QueuesShow, QueuesWhy, Rate,
};
use patchbay_model::job::JobState;
use patchbay_model::shell::word;
use serde_json::json;

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::refusal::confirmed_for;

#[derive(Subcommand)]
pub enum QueueCommand {
    /// List queues with the number of jobs in each state and the age of the oldest waiting job
    List,
    /// Show a queue: counts, limits, workers, and rates and durations per job name
    Show {
        /// Name of the queue
        queue: String,
    },
    /// Explain why a queue makes no progress, and what to do next
    Why {
        /// Name of the queue
        queue: String,
    },
    /// Pause a queue for all workers on all hosts; running jobs continue
    Pause {
        #[command(flatten)]
        which: Which,
    },
    /// Resume a queue: workers take its jobs again
    Resume {
        #[command(flatten)]
        which: Which,
    },
    /// Remove the waiting jobs of a queue
    Drain {
        /// Name of the queue
        queue: String,
        /// Also remove delayed jobs, except those of schedules
        #[arg(long)]
        delayed: bool,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Remove jobs in one state
    Clean {
        /// Name of the queue
        queue: String,
        /// State of the jobs: waiting, prioritized, delayed, completed or failed
        #[arg(value_parser = state)]
        state: JobState,
        /// Minimum age, in seconds
        #[arg(long, default_value_t = 0)]
        older_than_s: u64,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 10_000)]
        limit: u64,
    },
    /// Retry all failed (or completed) jobs: put them back into the queue
    RetryAll {
        /// Name of the queue
        queue: String,
        /// State of the jobs: failed or completed
        #[arg(long, default_value = "failed", value_parser = state)]
        state: JobState,
    },
    /// Run all delayed jobs now, except those of schedules
    PromoteAll {
        /// Name of the queue
        queue: String,
    },
    /// Remove a queue with all its jobs, finished ones included; its history is kept
    Obliterate {
        /// Name of the queue
        queue: String,
        /// Name of the queue, repeated as confirmation
        #[arg(long, value_name = "QUEUE")]
        confirm: String,
    },
    /// List repeatables from before BullMQ had job schedulers, with the schedules that would
    /// replace them; --apply converts them
    MigrateRepeatables {
        /// Name of the queue
        queue: String,
        /// Convert them
        #[arg(long)]
        apply: bool,
    },
    /// Limit how many jobs run at the same time, over all workers
    Concurrency {
        /// Name of the queue
        queue: String,
        /// Maximum number of jobs; absent: no limit
        max: Option<u32>,
    },
    /// Limit how many jobs start per period, over all workers
    RateLimit {
        /// Name of the queue
        queue: String,
        /// Maximum number of jobs; absent: no limit
        max: Option<u64>,
        /// Length of the period, in milliseconds
        #[arg(long, default_value_t = 1_000)]
        per_ms: u64,
    },
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Name of the queue
    queue: Option<String>,
    /// All queues
    #[arg(long)]
    all: bool,
}

impl Which {
    fn name(&self) -> Cow<'_, str> {
        self.queue.as_deref().map_or("every queue".into(), word)
    }
}

pub(crate) async fn run(
    command: QueueCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let none = NoQuery {};
    match command {
        QueueCommand::List => {
            let queues = client.ask::<QueuesList>((), none, NoBody).await?;
            let rows = queues.data.iter().map(|queue| {
                let paused = if queue.counts.paused { "paused" } else { "" };
                let notes = [paused, queue.error.as_deref().unwrap_or_default()];
                let notes = notes
                    .into_iter()
                    .filter(|note| !note.is_empty())
                    .collect::<Vec<_>>()
                    .join(", ");
                let counts = states(&queue.counts).map(|(_, count)| count.to_string());
                let age = queue.oldest_waiting_ms.map_or_else(String::new, age);
                std::iter::once(queue.name.to_string())
                    .chain(counts)
                    .chain([age, notes])
                    .collect()
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
            output.table(&head, rows.collect(), &queues.raw);
        }
        QueueCommand::Show { queue } => {
            let shown = client
                .ask::<QueuesShow>(QueuePath { queue }, none, NoBody)
                .await?;
            output.value(&describe(&shown.data), &shown.raw);
        }
        QueueCommand::Why { queue } => {
            let reasons = client
                .ask::<QueuesWhy>(QueuePath { queue }, none, NoBody)
                .await?;
            let lines = reasons
                .data
                .iter()
                .map(|reason| format!("{}\n  next: {}", reason.message, reason.next));
            output.value(&lines.collect::<Vec<_>>().join("\n"), &reasons.raw);
        }
        QueueCommand::Pause { which } => {
            let told = format!("paused: {}", which.name());
            let Some(queue) = which.queue else {
                let done = client
                    .ask::<QueuesPauseAll>((), none, Json(EveryQueue { all: true }))
                    .await?;
                output.value(&told, &done.raw);
                return all_done(&done.data);
            };
            let done = client
                .ask::<QueuesPause>(QueuePath { queue }, none, NoBody)
                .await?;
            output.value(&told, &done.raw);
        }
        QueueCommand::Resume { which } => {
            let told = format!("takes jobs again: {}", which.name());
            let Some(queue) = which.queue else {
                let done = client
                    .ask::<QueuesResumeAll>((), none, Json(EveryQueue { all: true }))
                    .await?;
                output.value(&told, &done.raw);
                return all_done(&done.data);
            };
            let done = client
                .ask::<QueuesResume>(QueuePath { queue }, none, NoBody)
                .await?;
            output.value(&told, &done.raw);
        }
        QueueCommand::Drain {
            queue,
            delayed,
            yes,
        } => {
            confirmed_for::<QueuesDrain>(yes, &word(&queue))?;
            let name = word(&queue).into_owned();
            let done = client
                .ask::<QueuesDrain>(QueuePath { queue }, none, Json(Drain { delayed }))
                .await?;
            output.value(
                &format!("{} jobs removed from {name}", done.data.count),
                &done.raw,
            );
        }
        QueueCommand::Clean {
            queue,
            state,
            older_than_s,
            limit,
        } => {
            let name = word(&queue).into_owned();
            let what = Clean {
                state,
                older_than_ms: older_than_s.saturating_mul(1_000),
                limit: Some(limit),
            };
            let done = client
                .ask::<QueuesClean>(QueuePath { queue }, none, Json(what))
                .await?;
            output.value(
                &format!("{} {} jobs removed from {name}", done.data.count, state),
                &done.raw,
            );
        }
        QueueCommand::RetryAll { queue, state } => {
            let name = word(&queue).into_owned();
            let done = client
                .ask::<QueuesPutBack>(QueuePath { queue }, none, Json(PutBack { state }))
                .await?;
            output.value(
                &format!("{} jobs of {name} wait again", done.data.count),
                &done.raw,
            );
        }
        QueueCommand::PromoteAll { queue } => {
            let name = word(&queue).into_owned();
            let what = Json(PutBack {
                state: JobState::Delayed,
            });
            let done = client
                .ask::<QueuesPutBack>(QueuePath { queue }, none, what)
                .await?;
            output.value(
                &format!("{} jobs of {name} are due now", done.data.count),
                &done.raw,
            );
        }
        QueueCommand::Obliterate { queue, confirm } => {
            let name = word(&queue).into_owned();
            let done = client
                .ask::<QueuesObliterate>(QueuePath { queue }, none, Json(Obliterate { confirm }))
                .await?;
            output.value(
                &format!(
                    "{name} is gone, with {} jobs; its history stays",
                    done.data.count
                ),
                &done.raw,
            );
        }
        QueueCommand::MigrateRepeatables { queue, apply } => {
            let how = Json(MigrateRepeatables { dry_run: !apply });
            let migrated = client
                .ask::<QueuesMigrateRepeatables>(QueuePath { queue }, none, how)
                .await?;
            let rows = migrated.data.iter().map(|one| {
                let becomes = match (&one.schedule, &one.reason) {
                    (Some(id), _) => format!("schedule {id}"),
                    (None, reason) => format!("stays: {}", reason.as_deref().unwrap_or_default()),
                };
                vec![one.repeatable.key.clone(), becomes]
            });
            output.table(
                &["REPEATABLE", if apply { "BECAME" } else { "WOULD BECOME" }],
                rows.collect(),
                &migrated.raw,
            );
        }
        QueueCommand::Concurrency { queue, max } => {
            let path = QueuePath {
                queue: queue.clone(),
            };
            client
                .ask::<QueuesConcurrency>(path, none, Json(Concurrency { max }))
                .await?;
            let said = max.map_or("no limit on jobs at once".to_owned(), |max| {
                format!("at most {max} jobs at once")
            });
            output.value(
                &format!("{}: {said}", word(&queue)),
                &json!({ "queue": queue, "max": max }),
            );
        }
        QueueCommand::RateLimit { queue, max, per_ms } => {
            let path = QueuePath {
                queue: queue.clone(),
            };
            client
                .ask::<QueuesRateLimit>(
                    path,
                    none,
                    Json(Rate {
                        max,
                        per_ms: Some(per_ms),
                    }),
                )
                .await?;
            let said = max.map_or("no rate limit".to_owned(), |max| {
                format!("at most {max} jobs in {per_ms} ms")
            });
            output.value(
                &format!("{}: {said}", word(&queue)),
                &json!({ "queue": queue, "max": max, "perMs": per_ms }),
            );
        }
    }
    Ok(())
}

fn state(text: &str) -> Result<JobState, String> {
    let states = [
        "waiting",
        "prioritized",
        "delayed",
        "waiting-children",
        "active",
        "completed",
        "failed",
    ];
    serde_json::from_value(text.into()).map_err(|_| format!("it is one of {}", states.join(", ")))
}

/// An operation on all queues may have failed for some of them, which is an error.
fn all_done(done: &AllDone) -> anyhow::Result<()> {
    if done.failures.is_empty() {
        return Ok(());
    }
    let failures = done
        .failures
        .iter()
        .map(|one| format!("{}: {}", word(&one.queue), one.message));
    bail!(
        "not done for {} queues:\n{}",
        done.failures.len(),
        failures.collect::<Vec<_>>().join("\n")
    );
}

fn states(counts: &QueueCounts) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("waiting", counts.waiting),
        ("active", counts.active),
        ("delayed", counts.delayed),
        ("prioritized", counts.prioritized),
        ("waitingChildren", counts.waiting_children),
        ("completed", counts.completed),
        ("failed", counts.failed),
    ]
    .into_iter()
}

fn describe(queue: &Queue) -> String {
    let overview = &queue.overview;
    let counts = states(&overview.counts).map(|(state, count)| format!("{state} {count}"));
    let mut lines = vec![
        word(overview.name.as_str()).into_owned(),
        format!("  {}", counts.collect::<Vec<_>>().join(", ")),
    ];
    if overview.counts.paused {
        lines.push("  paused".into());
    }
    if let Some(error) = &overview.error {
        lines.push(format!("  damaged: {error}"));
    }
    if let Some(ms) = overview.oldest_waiting_ms {
        lines.push(format!("  oldest has waited {}", age(ms)));
    }
    if let Some(max) = overview.concurrency {
        lines.push(format!("  at most {max} at once"));
    }
    if let Some((max, per)) = overview.rate {
        lines.push(format!("  at most {max} in {per} ms"));
    }
    lines.push(format!(
        "  plugin: {}",
        queue
            .plugin
            .as_deref()
            .unwrap_or("none active on this host")
    ));
    let workers = if queue.workers.is_empty() {
        "none".to_owned()
    } else {
        queue.workers.join(", ")
    };
    lines.push(format!("  workers: {workers}"));
    for job in &queue.jobs {
        lines.push(format!(
            "  {}: {} in the last minute, {} in 15 minutes, {} in a day ({} did not complete); {:.0} / {:.0} / {:.0} ms (p50 / p95 / p99)",
            word(&job.name),
            job.last_minute,
            job.last_15_minutes,
            job.last_day,
            job.not_completed,
            job.p50_ms,
            job.p95_ms,
            job.p99_ms
        ));
    }
    lines.join("\n")
}

/// Rounded to the precision that an operator needs.
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
        assert_eq!(
            [5_000, 130_000, 7_300_000, 200_000_000].map(age),
            ["5 s", "2 min", "2 h", "2 d"]
        );
    }
}
