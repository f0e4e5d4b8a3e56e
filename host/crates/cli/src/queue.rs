//! `patchbay queue …`

mod text;

use anyhow::bail;
use clap::Subcommand;
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::{
    AllDone, Clean, Concurrency, Done, Drain, EveryQueue, Failure, MigrateRepeatables, Obliterate,
    PutBack, QueueOverview, QueuePath, QueuesClean, QueuesConcurrency, QueuesDrain, QueuesList,
    QueuesMigrateRepeatables, QueuesObliterate, QueuesPause, QueuesPauseAll, QueuesPutBack,
    QueuesRateLimit, QueuesResume, QueuesResumeAll, QueuesShow, QueuesWhy, Rate, Switched,
};
use patchbay_model::job::JobState;
use patchbay_model::shell::word;
use patchbay_model::words::counted;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use self::text::{
    age, by_whom, describe, of_queue, paused_all, paused_one, removed_before, resumed_all,
    resumed_one, states,
};
use super::client::{Client, ClientArgs, ClientError, Received};
use super::input::{milliseconds, of_seconds, whole};
use super::names;
use super::output::{More, Output};
use super::refusal::{Consent, Why};

#[derive(Subcommand)]
pub enum QueueCommand {
    /// List queues with the number of jobs in each state and the age of the oldest waiting job
    List {
        /// Only paused queues
        #[arg(long)]
        paused: bool,
    },
    /// Show a queue: counts, limits, workers, and rates and durations per job name
    Show {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
    },
    /// Explain why a queue makes no progress, and what to do next
    Why {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
    },
    /// Pause a queue for all workers on all hosts; running jobs continue
    Pause {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        consent: Consent,
    },
    /// Resume a queue: workers take its jobs again
    Resume {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        consent: Consent,
    },
    /// Remove the waiting jobs of a queue; `patchbay bulk remove --state waiting` can be undone
    Drain {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Also remove delayed jobs, except those of schedules
        #[arg(long)]
        delayed: bool,
        #[command(flatten)]
        consent: Consent,
        /// Only count the jobs
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove jobs in one state; `patchbay bulk remove` can be undone
    Clean {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// State of the jobs: waiting, prioritized, delayed, completed or failed
        #[arg(value_parser = state)]
        state: JobState,
        /// Minimum age: seconds, or with a unit, such as 30m or 7d
        #[arg(long = "older-than-s", value_name = "SECONDS", default_value = "0", value_parser = of_seconds(0, u64::MAX))]
        older_than_ms: u64,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 10_000, value_parser = whole::<u64>(0, u64::MAX))]
        limit: u64,
        #[command(flatten)]
        consent: Consent,
        /// Only count the jobs
        #[arg(long)]
        dry_run: bool,
    },
    /// Retry all failed (or completed) jobs: put them back into the queue
    RetryAll {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// State of the jobs: failed, or completed (which run a second time)
        #[arg(long, default_value = "failed", value_parser = state)]
        state: JobState,
        #[command(flatten)]
        consent: Consent,
        /// Only count the jobs
        #[arg(long)]
        dry_run: bool,
    },
    /// Run all delayed jobs now, except those of schedules
    PromoteAll {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        #[command(flatten)]
        consent: Consent,
        /// Only count the jobs
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a queue with all its jobs, finished ones included; its history is kept
    Obliterate {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Name of the queue, repeated as confirmation
        #[arg(long, value_name = "QUEUE")]
        confirm: String,
        #[command(flatten)]
        why: Why,
    },
    /// List repeatables from before BullMQ had job schedulers, with the schedules that would
    /// replace them; --apply converts them
    MigrateRepeatables {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Convert them
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Limit how many jobs run at the same time, over all workers
    Concurrency {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Maximum number of jobs
        #[arg(required_unless_present = "none", conflicts_with = "none", value_parser = whole::<u32>(0, u32::MAX.into()))]
        max: Option<u32>,
        /// Remove the limit
        #[arg(long)]
        none: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Limit how many jobs start per period, over all workers
    RateLimit {
        /// Name of the queue
        #[arg(add = names::queues())]
        queue: String,
        /// Maximum number of jobs
        #[arg(required_unless_present = "none", conflicts_with = "none", value_parser = whole::<u64>(0, 1 << 31))]
        max: Option<u64>,
        /// Remove the limit
        #[arg(long)]
        none: bool,
        /// Length of the period, at most a day: milliseconds, or with a unit, such as 10s or 1m
        #[arg(long, value_name = "MS", default_value = "1000", value_parser = milliseconds(1, 86_400_000))]
        per_ms: u64,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// Names of queues
    #[arg(value_name = "QUEUE", add = names::queues())]
    queues: Vec<String>,
    /// All queues
    #[arg(long)]
    all: bool,
}

impl QueueCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::List { .. } | Self::Show { .. } | Self::Why { .. }
        )
    }

    fn why(&self) -> Why {
        match self {
            Self::Pause { consent, .. }
            | Self::Resume { consent, .. }
            | Self::Drain { consent, .. }
            | Self::Clean { consent, .. }
            | Self::RetryAll { consent, .. }
            | Self::PromoteAll { consent, .. } => consent.why.clone(),
            Self::Obliterate { why, .. }
            | Self::MigrateRepeatables { why, .. }
            | Self::Concurrency { why, .. }
            | Self::RateLimit { why, .. } => why.clone(),
            Self::List { .. } | Self::Show { .. } | Self::Why { .. } => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: QueueCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        QueueCommand::List { paused } => list(paused, &client, output).await?,
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
                .map(|reason| format!("{}\n  Next: {}", reason.message, reason.next));
            output.value(&lines.collect::<Vec<_>>().join("\n"), &reasons.raw);
        }
        QueueCommand::Pause { which, consent } => {
            if which.all {
                let queues = client.ask::<QueuesList>((), none, NoBody).await?;
                let open = queues.data.iter().filter(|queue| !queue.counts.paused);
                let open = open.count() as u64;
                if open > 0 {
                    let open = counted(open, "queue");
                    consent.ask(&format!("This pauses {open} on all hosts; their jobs wait"))?;
                }
                let done = client
                    .ask::<QueuesPauseAll>((), none, Json(EveryQueue { all: true }))
                    .await?;
                output.done(&paused_all(&done.data), &done.raw);
                return all_done(&done.data);
            }
            let act = async |queue: String| {
                let path = QueuePath { queue };
                client.ask::<QueuesPause>(path, none, NoBody).await
            };
            return switch(which.queues, act, paused_one, output).await;
        }
        QueueCommand::Resume { which, consent } => {
            if which.all {
                let queues = client.ask::<QueuesList>((), none, NoBody).await?;
                let held = |queue: &&QueueOverview| queue.counts.paused || queue.put_aside > 0;
                let paused: Vec<&QueueOverview> = queues.data.iter().filter(held).collect();
                if !paused.is_empty() {
                    let count = counted(paused.len() as u64, "paused queue");
                    let by = by_whom(&paused);
                    consent.ask(&format!(
                        "This resumes {count}; their jobs run at once. Paused were {by}"
                    ))?;
                }
                let done = client
                    .ask::<QueuesResumeAll>((), none, Json(EveryQueue { all: true }))
                    .await?;
                let resumed: Vec<&QueueOverview> = paused
                    .into_iter()
                    .filter(|queue| {
                        done.data
                            .queues
                            .iter()
                            .any(|name| name == queue.name.as_str())
                    })
                    .collect();
                let mut text = resumed_all(&done.data);
                if !resumed.is_empty() {
                    text.push_str(&format!("\nPaused were {}", by_whom(&resumed)));
                }
                output.done(&text, &done.raw);
                return all_done(&done.data);
            }
            let act = async |queue: String| {
                let path = QueuePath { queue };
                client.ask::<QueuesResume>(path, none, NoBody).await
            };
            return switch(which.queues, act, resumed_one, output).await;
        }
        QueueCommand::Drain {
            queue,
            delayed,
            consent,
            dry_run,
        } => {
            let act = async |dry_run| {
                let path = QueuePath {
                    queue: queue.clone(),
                };
                let what = Json(Drain { delayed, dry_run });
                client.ask::<QueuesDrain>(path, none, what).await
            };
            let what = if delayed {
                "waiting and delayed"
            } else {
                "waiting"
            };
            let name = word(&queue);
            let would = act(true).await?;
            let jobs = of_queue(would.data.count, what, &name);
            let before = removed_before(&would.data);
            if would.data.count == 0 {
                let text = format!("Nothing to remove: {name} has no {what} jobs{before}");
                output.done(&text, &would.raw);
                return Ok(());
            }
            if dry_run {
                let text = format!("Would be removed: {jobs}{before}.\n{FINAL}");
                output.value(&text, &would.raw);
                return Ok(());
            }
            consent.ask(&format!("This removes {jobs}, {FOR_GOOD}{before}"))?;
            let done = act(false).await?;
            let jobs = of_queue(done.data.count, what, &name);
            let before = removed_before(&done.data);
            output.done(
                &format!("Removed: {jobs}{before}.\n{DONE_FOR_GOOD}"),
                &done.raw,
            );
        }
        QueueCommand::Clean {
            queue,
            state,
            older_than_ms,
            limit,
            consent,
            dry_run,
        } => {
            let act = async |dry_run| {
                let path = QueuePath {
                    queue: queue.clone(),
                };
                let what = Clean {
                    state,
                    older_than_ms,
                    limit: Some(limit),
                    dry_run,
                };
                client.ask::<QueuesClean>(path, none, Json(what)).await
            };
            let name = word(&queue);
            let would = act(true).await?;
            // Only ended jobs are counted by their age.
            let is_ended = [JobState::Completed, JobState::Failed].contains(&state);
            let most = if older_than_ms > 0 && !is_ended {
                "up to "
            } else {
                ""
            };
            let jobs = of_queue(would.data.count, &state.to_string(), &name);
            let before = removed_before(&would.data);
            if would.data.count == 0 {
                let old = match older_than_ms {
                    0 => String::new(),
                    ms => format!(" that are {} old or older", age(ms)),
                };
                let text = format!("Nothing to remove: {name} has no {state} jobs{old}{before}");
                output.done(&text, &would.raw);
                return Ok(());
            }
            if dry_run {
                let text = format!("Would be removed: {most}{jobs}{before}.\n{FINAL}");
                output.value(&text, &would.raw);
                return Ok(());
            }
            consent.ask(&format!("This removes {most}{jobs}, {FOR_GOOD}{before}"))?;
            let done = act(false).await?;
            let jobs = of_queue(done.data.count, &state.to_string(), &name);
            let before = removed_before(&done.data);
            output.done(
                &format!("Removed: {jobs}{before}.\n{DONE_FOR_GOOD}"),
                &done.raw,
            );
        }
        QueueCommand::RetryAll {
            queue,
            state,
            consent,
            dry_run,
        } => {
            let again = match state {
                JobState::Completed => {
                    ". They have completed: everything that they do happens again"
                }
                _ => "",
            };
            let act = PutBackJobs {
                client: &client,
                queue,
                state,
            };
            let jobs = act.ask(dry_run, &consent, "retries", again, output).await?;
            if let Some(done) = jobs {
                let jobs = of_queue(done.data.count, &state.to_string(), &word(&act.queue));
                output.done(&format!("Retried: {jobs}; they wait again"), &done.raw);
            }
        }
        QueueCommand::PromoteAll {
            queue,
            consent,
            dry_run,
        } => {
            let act = PutBackJobs {
                client: &client,
                queue,
                state: JobState::Delayed,
            };
            let jobs = act.ask(dry_run, &consent, "runs now", "", output).await?;
            if let Some(done) = jobs {
                let jobs = of_queue(done.data.count, "delayed", &word(&act.queue));
                output.done(&format!("Promoted: {jobs}; they wait now"), &done.raw);
            }
        }
        QueueCommand::Obliterate { queue, confirm, .. } => {
            let name = word(&queue).into_owned();
            let done = client
                .ask::<QueuesObliterate>(
                    QueuePath { queue },
                    none,
                    Json(Obliterate {
                        confirm: Some(confirm),
                    }),
                )
                .await?;
            let jobs = counted(done.data.count, "job");
            output.done(
                &format!("Removed: queue {name} with {jobs}. Its history is kept"),
                &done.raw,
            );
        }
        QueueCommand::MigrateRepeatables { queue, apply, .. } => {
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
            output.table_or(
                "The queue has no repeatables from before BullMQ had job schedulers",
                &["REPEATABLE", if apply { "BECAME" } else { "WOULD BECOME" }],
                rows.collect(),
                &migrated.raw,
            );
        }
        QueueCommand::Concurrency { queue, max, .. } => {
            let path = || QueuePath {
                queue: queue.clone(),
            };
            let before = client.ask::<QueuesShow>(path(), none, NoBody).await?;
            client
                .ask::<QueuesConcurrency>(path(), none, Json(Concurrency { max }))
                .await?;
            let most = |max: Option<u32>| match max {
                Some(max) => format!("at most {} at the same time", counted(max, "job")),
                None => "no limit on jobs at the same time".to_owned(),
            };
            let before = before
                .data
                .overview
                .concurrency
                .map(|max| max.min(u32::MAX.into()) as u32);
            output.done(
                &format!("{}: {} (before: {})", word(&queue), most(max), most(before)),
                &json!({ "queue": queue, "max": max, "before": before }),
            );
        }
        QueueCommand::RateLimit {
            queue, max, per_ms, ..
        } => {
            let path = || QueuePath {
                queue: queue.clone(),
            };
            let before = client.ask::<QueuesShow>(path(), none, NoBody).await?;
            let rate = Json(Rate {
                max,
                per_ms: Some(per_ms),
            });
            client.ask::<QueuesRateLimit>(path(), none, rate).await?;
            let most = |rate: Option<(u64, u64)>| match rate {
                Some((max, per_ms)) => format!("at most {} in {per_ms} ms", counted(max, "job")),
                None => "no rate limit".to_owned(),
            };
            let now = most(max.map(|max| (max, per_ms)));
            let before = most(before.data.overview.rate);
            output.done(
                &format!("{}: {now} (before: {before})", word(&queue)),
                &json!({ "queue": queue, "max": max, "perMs": per_ms }),
            );
        }
    }
    Ok(())
}

/// Pauses or resumes queues, one after the other. One queue is answered as the host answers it;
/// several are summed up as all queues are.
async fn switch(
    queues: Vec<String>,
    act: impl AsyncFn(String) -> Result<Received<Switched>, ClientError>,
    in_words: impl Fn(&str, &Switched) -> String,
    output: Output,
) -> anyhow::Result<()> {
    if let [queue] = &queues[..] {
        let done = act(queue.clone()).await?;
        output.done(&in_words(queue, &done.data), &done.raw);
        return Ok(());
    }
    let (mut all, mut lines, mut errors) = (AllDone::default(), Vec::new(), Vec::new());
    for queue in queues {
        match act(queue.clone()).await {
            Ok(done) => {
                lines.push(in_words(&queue, &done.data));
                all.count += done.data.count;
                match done.data.already {
                    Some(_) => all.unchanged.push(queue),
                    None => all.queues.push(queue),
                }
            }
            Err(error) => {
                all.failures.push(Failure {
                    queue,
                    message: error.to_string(),
                });
                errors.push(error);
            }
        }
    }
    output.done(&lines.join("\n"), &all);
    match errors.len() {
        1 => Err(errors.remove(0).into()),
        _ => all_done(&all),
    }
}

/// Queues that are paused, and who paused them.
fn list_paused(queues: &[QueueOverview], raw: &RawValue, more: &More<'_>, output: Output) {
    let row = |queue: &QueueOverview| {
        let by = queue.paused_by.as_ref();
        let counts = &queue.counts;
        vec![
            queue.name.to_string(),
            (counts.waiting + counts.prioritized).to_string(),
            counts.active.to_string(),
            counts.delayed.to_string(),
            by.map_or_else(|| "unknown".to_owned(), |by| by.by.clone()),
            by.map_or_else(|| "-".to_owned(), |by| output.when(by.at)),
            by.and_then(|by| by.reason.clone())
                .unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let head = [
        "QUEUE",
        "WAITING",
        "ACTIVE",
        "DELAYED",
        "PAUSED BY",
        "PAUSED",
        "REASON",
    ];
    output.list(&head, &[], queues.iter().map(row).collect(), &raw, more);
}

async fn list(only_paused: bool, client: &Client, output: Output) -> anyhow::Result<()> {
    let mut queues = client.ask_page::<QueuesList, _>(&(), &NoQuery {}).await?;
    if only_paused {
        let raw: Vec<Box<RawValue>> = serde_json::from_str(queues.raw.get())?;
        let raw = raw.into_iter().zip(&queues.items);
        let raw = raw.filter(|(_, queue)| queue.counts.paused);
        queues.raw = to_raw_value(&raw.map(|(raw, _)| raw).collect::<Vec<_>>())?;
        queues.items.retain(|queue| queue.counts.paused);
        list_paused(&queues.items, &queues.raw, &queues.more(), output);
        if queues.partial {
            output.note("Postgres cannot be reached, so who paused the queues is unknown. Next: patchbay doctor");
        } else if queues.items.is_empty() {
            output.note("No queue is paused");
        } else if queues.items.iter().any(|queue| queue.paused_by.is_none()) {
            output.note("Unknown: another BullMQ client, such as Bull Board, paused the queue");
        }
        return Ok(());
    }
    let rows = queues.items.iter().map(|queue| {
        let paused = if queue.counts.paused { "paused" } else { "" };
        // They are not among the waiting ones.
        let removed = match queue.counts.removed {
            0 => String::new(),
            removed => format!("{removed} removed"),
        };
        let notes = [paused, &removed, queue.error.as_deref().unwrap_or_default()];
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
        "NOTES",
    ];
    let mut rows: Vec<Vec<String>> = rows.collect();
    if queues.items.len() > 1 && !output.json && !output.quiet {
        rows.push(total(&queues.items));
    }
    output.list(&head, &[], rows, &queues.raw, &queues.more());
    if queues.partial {
        output.note(
            "Not complete: Postgres cannot be reached, so queues that are only in the history are missing. Next: patchbay doctor",
        );
    }
    match queues.items.is_empty() {
        true => output.note("No queues. The first job of a queue makes it: patchbay job add --help"),
        false => output.note(
            "Completed and failed: those that Redis still keeps. All of them: patchbay search --count queue=QUEUE",
        ),
    }
    Ok(())
}

fn total(queues: &[QueueOverview]) -> Vec<String> {
    let sum = |place: usize| {
        let counts = queues
            .iter()
            .filter_map(|queue| states(&queue.counts).nth(place));
        counts.map(|(_, count)| count).sum::<u64>().to_string()
    };
    let counts = (0..7).map(sum);
    std::iter::once("(all)".to_owned())
        .chain(counts)
        .chain([String::new(), String::new()])
        .collect()
}

/// All jobs of a queue in one state, which are put back.
struct PutBackJobs<'a> {
    client: &'a Client,
    queue: String,
    state: JobState,
}

impl PutBackJobs<'_> {
    /// Counts the jobs, asks, and puts them back; `None` after a dry run, or where there are none.
    async fn ask(
        &self,
        dry_run: bool,
        consent: &Consent,
        does: &str,
        mind: &str,
        output: Output,
    ) -> anyhow::Result<Option<Received<Done>>> {
        let would = self.put_back(true).await?;
        if would.data.count == 0 {
            let text = format!(
                "Nothing to do: {} has no {} jobs",
                word(&self.queue),
                self.state
            );
            output.done(&text, &would.raw);
            return Ok(None);
        }
        let jobs = of_queue(
            would.data.count,
            &self.state.to_string(),
            &word(&self.queue),
        );
        if dry_run {
            output.value(&format!("This {does} {jobs}"), &would.raw);
            return Ok(None);
        }
        consent.ask(&format!("This {does} {jobs}{mind}"))?;
        Ok(Some(self.put_back(false).await?))
    }

    async fn put_back(&self, dry_run: bool) -> Result<Received<Done>, ClientError> {
        let path = QueuePath {
            queue: self.queue.clone(),
        };
        let what = Json(PutBack {
            state: self.state,
            dry_run,
        });
        self.client
            .ask::<QueuesPutBack>(path, NoQuery {}, what)
            .await
    }
}

const FINAL: &str = "This cannot be undone";
const DONE_FOR_GOOD: &str = "They cannot be brought back";
const FOR_GOOD: &str =
    "which cannot be undone. What patchbay bulk remove removes can be brought back for an hour";

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
    serde_json::from_value(text.into()).map_err(|_| format!("must be one of {}", states.join(", ")))
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
        "Not done for {}:\n{}",
        counted(done.failures.len() as u64, "queue"),
        failures.collect::<Vec<_>>().join("\n")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_all_queues_says_which_it_has_paused_and_which_were_paused_before() {
        let names = |count: usize| (0..count).map(|n| format!("q{n}")).collect::<Vec<_>>();
        let all = |queues: Vec<String>, unchanged: Vec<String>| AllDone {
            count: queues.len() as u64,
            queues,
            unchanged,
            failures: Vec::new(),
        };
        assert_eq!(
            paused_all(&all(names(2), Vec::new())),
            "Paused: 2 queues (q0, q1). Undo: patchbay queue resume --all"
        );
        let some = paused_all(&all(names(12), vec!["my queue".into()]));
        assert!(
            some.starts_with("Paused: 12 queues (q0, q1, q2, q3, q4, q5, q6, q7, q8, q9 and 2 more). Already paused before")
                && some.contains("1 queue ('my queue')")
                && some.contains("patchbay queue resume QUEUE"),
            "{some}"
        );
        assert_eq!(
            paused_all(&all(Vec::new(), names(1))),
            "Nothing has changed: every queue was already paused, 1 queue (q0)"
        );
        assert_eq!(
            resumed_all(&all(names(1), names(2))),
            "Resumed: 1 queue (q0). 2 were not paused"
        );
        assert_eq!(
            resumed_all(&all(Vec::new(), names(1))),
            "Nothing has changed: 1 queue was not paused"
        );
    }
}
