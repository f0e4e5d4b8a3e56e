//! `patchbay dead-letter …`

use std::process::ExitCode;

use clap::Subcommand;
use patchbay_api::body::{Json, NoBody};
use patchbay_api::dead_letters::{
    Assignee, CountDeadLetters, DeadLetter, DeadLetterCounts, DeadLetterDetails, DeadLetterPath,
    DeadLetterState, DeadLettersAcknowledge, DeadLettersAssign, DeadLettersCount, DeadLettersList,
    DeadLettersNote, DeadLettersShow, DeadLettersUnacknowledge, ListDeadLetters, ListedDeadLetters,
    Note,
};
use patchbay_api::operation::NoQuery;
use patchbay_model::words::counted;
use serde_json::json;

use super::bulk;
use super::client::{Client, ClientArgs};
use super::dead_letter_advice::{next, whereabouts};
use super::input::{number_in, whole};
use super::names;
use super::output::{Output, shortened, time};
use super::refusal::Why;
use super::view::short;

#[derive(Subcommand)]
pub enum DeadLetterCommand {
    /// List groups of jobs that failed for good: open groups first, then the most recently seen;
    /// groups of which no job fails or waits any more are closed, and left out
    List {
        /// Only groups of jobs of this queue
        #[arg(long, add = names::queues())]
        queue: Option<String>,
        /// Only failures in this plugin
        #[arg(long, add = names::plugins())]
        plugin: Option<String>,
        /// Only acknowledged groups (true) or open ones (false)
        #[arg(long, conflicts_with_all = ["closed", "all"])]
        acknowledged: Option<bool>,
        /// Only closed groups
        #[arg(long, conflicts_with = "all")]
        closed: bool,
        /// Closed groups, too
        #[arg(long)]
        all: bool,
        /// Maximum number of groups, 1 to 1000
        #[arg(long, default_value_t = 50, value_parser = whole::<u16>(1, 1_000))]
        limit: u16,
    },
    /// Show a group: its newest jobs, the stack of the newest, and the same failure in other
    /// revisions
    Show {
        /// Number of the group
        #[arg(value_parser = number_in::<i64>("dead-letter list"))]
        id: i64,
    },
    /// Acknowledge a group; the same failure in another revision is another group
    Ack {
        /// Number of the group
        #[arg(value_parser = number_in::<i64>("dead-letter list"))]
        id: i64,
        /// Reopen the group
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Set the note of a group; without a text, remove it
    Note {
        /// Number of the group
        #[arg(value_parser = number_in::<i64>("dead-letter list"))]
        id: i64,
        /// Text of the note
        note: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Assign a group to somebody; without a name, remove the assignment
    Assign {
        /// Number of the group
        #[arg(value_parser = number_in::<i64>("dead-letter list"))]
        id: i64,
        /// Name of the responsible person
        to: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Retry the jobs of a group that are still failed: patchbay bulk retry dead-letter=ID
    Retry {
        /// Number of the group
        #[arg(value_parser = number_in::<i64>("dead-letter list"))]
        id: i64,
        #[command(flatten)]
        how: bulk::BulkOptions,
    },
}

impl DeadLetterCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. })
    }

    fn why(&self) -> Why {
        match self {
            Self::Ack { why, .. } | Self::Note { why, .. } | Self::Assign { why, .. } => {
                why.clone()
            }
            Self::List { .. } | Self::Show { .. } | Self::Retry { .. } => Why::default(),
        }
    }

    /// Whether it starts something that can be followed.
    pub(super) fn can_be_followed(&self) -> bool {
        matches!(self, Self::Retry { .. })
    }
}

pub(crate) async fn run(
    command: DeadLetterCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        DeadLetterCommand::List {
            queue,
            plugin,
            acknowledged,
            closed,
            all,
            limit,
        } => {
            let state = listed(acknowledged, closed, all);
            let which = ListDeadLetters {
                queue: queue.clone(),
                plugin: plugin.clone(),
                state,
                acknowledged: None,
                limit: Some(limit),
            };
            let groups = client.ask::<DeadLettersList>((), which, NoBody).await?;
            output.table_or(
                "No such group of dead letters",
                &HEAD,
                groups.data.iter().map(|group| row(group, output)).collect(),
                &groups.raw,
            );
            if !output.json {
                let which = CountDeadLetters { queue, plugin };
                let counts = client.ask::<DeadLettersCount>((), which, NoBody).await?;
                for line in left_out(groups.data.len(), state, &counts.data) {
                    println!("{line}");
                }
            }
        }
        DeadLetterCommand::Show { id } => {
            let group = client
                .ask::<DeadLettersShow>(DeadLetterPath { id }, none, NoBody)
                .await?;
            output.value(&describe(&group.data), &group.raw);
        }
        DeadLetterCommand::Ack { id, undo, .. } => {
            let path = DeadLetterPath { id };
            let group = match undo {
                true => {
                    client
                        .ask::<DeadLettersUnacknowledge>(path, none, NoBody)
                        .await?
                }
                false => {
                    client
                        .ask::<DeadLettersAcknowledge>(path, none, NoBody)
                        .await?
                }
            };
            output.value(
                &with_effect(acknowledged(&group.data), &group.data),
                &group.raw,
            );
        }
        DeadLetterCommand::Note { id, note, .. } => {
            let group = client
                .ask::<DeadLettersNote>(DeadLetterPath { id }, none, Json(Note { note }))
                .await?;
            let now = if group.data.note.is_some() {
                "has a new note"
            } else {
                "no longer has a note"
            };
            let now = match group.data.already {
                true => "has this note, or none, already; nothing has changed",
                false => now,
            };
            output.value(&format!("dead letter {id} {now}"), &group.raw);
        }
        DeadLetterCommand::Assign { id, to, .. } => {
            let to = Json(Assignee { assignee: to });
            let group = client
                .ask::<DeadLettersAssign>(DeadLetterPath { id }, none, to)
                .await?;
            let whose = group.data.assignee.as_deref().unwrap_or("nobody");
            let text = format!("dead letter {id} belongs to {whose}");
            output.value(&with_effect(text, &group.data), &group.raw);
        }
        DeadLetterCommand::Retry { id, how } => {
            let request = json!({ "kind": "retry", "state": "failed", "filter": { "dead-letter": id.to_string() } });
            return bulk::begin(request, how, "retries", &client, output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn revision(group: &DeadLetter) -> String {
    match group.plugin.as_str() {
        "" => "-".into(),
        plugin => format!("{plugin} {}", short(&group.revision)),
    }
}

const HEAD: [&str; 13] = [
    "ID",
    "QUEUE",
    "JOBS",
    "FAILING",
    "WAITING",
    "REPAIRED",
    "REMOVED",
    "ELSEWHERE",
    "LAST SEEN",
    "REVISION",
    "STATE",
    "WHOSE",
    "FAILURE",
];

fn row(group: &DeadLetter, output: Output) -> Vec<String> {
    let counts = [
        group.jobs,
        group.failing,
        group.waiting,
        group.repaired,
        group.removed,
        group.failing_elsewhere,
    ];
    let mut row = vec![group.id.to_string(), group.queue.clone()];
    row.extend(counts.iter().map(i64::to_string));
    row.extend([
        output.when(group.last_seen),
        revision(group),
        state(group) + if group.note.is_some() { ", noted" } else { "" },
        group.assignee.clone().unwrap_or_default(),
        shortened(&group.message, 80),
    ]);
    row
}

fn listed(acknowledged: Option<bool>, closed: bool, all: bool) -> Option<ListedDeadLetters> {
    match (acknowledged, closed, all) {
        (_, _, true) => Some(ListedDeadLetters::All),
        (_, true, _) => Some(ListedDeadLetters::Closed),
        (Some(true), ..) => Some(ListedDeadLetters::Acknowledged),
        (Some(false), ..) => Some(ListedDeadLetters::Open),
        (None, ..) => None,
    }
}

/// What a list of `shown` groups does not show, with the command that does.
fn left_out(
    shown: usize,
    state: Option<ListedDeadLetters>,
    counts: &DeadLetterCounts,
) -> Vec<String> {
    let DeadLetterCounts {
        open,
        acknowledged,
        closed,
    } = *counts;
    let asked_for = match state {
        Some(ListedDeadLetters::All) => open + acknowledged + closed,
        Some(ListedDeadLetters::Closed) => closed,
        Some(ListedDeadLetters::Acknowledged) => acknowledged,
        Some(ListedDeadLetters::Open) => open,
        None => open + acknowledged,
    };
    let shown = i64::try_from(shown).unwrap_or(i64::MAX);
    let mut lines = Vec::new();
    if shown < asked_for {
        lines.push(format!(
            "showing {shown} of {}; show more: --limit N, at most 1000",
            counted(asked_for, "group")
        ));
    }
    if closed > 0 && state.is_none() {
        lines.push(format!(
            "{} not shown: patchbay dead-letter list --closed",
            counted(closed, "closed group")
        ));
    }
    lines
}

fn state(group: &DeadLetter) -> String {
    match group.state {
        DeadLetterState::Closed => "closed".into(),
        DeadLetterState::Open | DeadLetterState::Acknowledged => acknowledgement(group),
    }
}

fn with_effect(text: String, group: &DeadLetter) -> String {
    match group.already {
        true => format!("{text}. Nothing has changed: it was so already"),
        false => text,
    }
}

/// A closed group keeps its acknowledgement for when it opens again.
fn acknowledged(group: &DeadLetter) -> String {
    let id = group.id;
    match (group.state, &group.acknowledged_by) {
        (DeadLetterState::Closed, None) => {
            format!("dead letter {id} is closed, and not acknowledged")
        }
        (DeadLetterState::Closed, Some(_)) => {
            format!("dead letter {id} is closed, and {}", acknowledgement(group))
        }
        (DeadLetterState::Open | DeadLetterState::Acknowledged, _) => {
            format!("dead letter {id} is {}", acknowledgement(group))
        }
    }
}

fn acknowledgement(group: &DeadLetter) -> String {
    match (&group.acknowledged_by, group.since_acknowledged) {
        (None, _) => "open".into(),
        (Some(by), 0) => format!("acknowledged by {by}"),
        (Some(by), more) => format!("acknowledged by {by}, {more} since"),
    }
}

fn describe(details: &DeadLetterDetails) -> String {
    let group = &details.group;
    let head = format!(
        "dead letter {}  {}  {}  {}",
        group.id,
        group.queue,
        revision(group),
        state(group)
    );
    let mut lines = vec![head, format!("failure: {}", group.message)];
    lines.push(whereabouts(group));
    lines.push(format!(
        "{}, from {} to {}",
        counted(group.failures, "final failure"),
        time(group.first_seen),
        time(group.last_seen),
    ));
    lines.extend(group.closed_at.map(|at| format!("closed at {}", time(at))));
    lines.extend(
        group
            .assignee
            .as_ref()
            .map(|assignee| format!("assignee: {assignee}")),
    );
    lines.extend(group.note.as_ref().map(|note| format!("note: {note}")));
    for other in &details.elsewhere {
        lines.push(format!(
            "also: dead letter {}, {}, {}",
            other.id,
            revision(other),
            whereabouts(other)
        ));
    }
    lines.push("newest failures, a line for each job, those that still fail first:".into());
    for job in &details.sample {
        let message = shortened(job.message.as_deref().unwrap_or_default(), 80);
        let state = match job.state.as_deref() {
            Some("failing") => "still fails",
            Some("elsewhere") => "fails in another group",
            Some(state) => state,
            None => "-",
        };
        lines.push(format!(
            "  {}  {} {}  {}  {state}  {message}",
            time(job.finished_at),
            job.queue,
            job.job_id,
            job.name
        ));
    }
    lines.extend(
        details
            .stack
            .as_ref()
            .map(|stack| format!("stack trace:\n{stack}")),
    );
    lines.extend(next(details));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_it_left_out() {
        let counts = DeadLetterCounts {
            open: 3,
            acknowledged: 1,
            closed: 1,
        };
        assert_eq!(
            left_out(4, None, &counts),
            ["1 closed group not shown: patchbay dead-letter list --closed"]
        );
        let lines = left_out(2, Some(ListedDeadLetters::All), &counts);
        assert_eq!(
            lines,
            ["showing 2 of 5 groups; show more: --limit N, at most 1000"]
        );
        assert!(left_out(1, Some(ListedDeadLetters::Closed), &counts).is_empty());
    }
}
