//! `patchbay dead-letter …`

use std::process::ExitCode;

use clap::Subcommand;
use patchbay_api::body::{Json, NoBody};
use patchbay_api::dead_letters::{
    Assignee, DeadLetter, DeadLetterDetails, DeadLetterPath, DeadLettersAcknowledge,
    DeadLettersAssign, DeadLettersList, DeadLettersNote, DeadLettersShow, DeadLettersUnacknowledge,
    ListDeadLetters, Note,
};
use patchbay_api::operation::NoQuery;
use serde_json::json;

use super::bulk;
use super::client::{Client, ClientArgs};
use super::names;
use super::output::{Output, time};
use super::view::short;

#[derive(Subcommand)]
pub enum DeadLetterCommand {
    /// List groups of jobs that failed for good: open groups first, then the most recently seen
    List {
        /// Only groups of jobs of this queue
        #[arg(long, add = names::queues())]
        queue: Option<String>,
        /// Only failures in this plugin
        #[arg(long, add = names::plugins())]
        plugin: Option<String>,
        /// Only acknowledged groups (true) or open ones (false)
        #[arg(long)]
        acknowledged: Option<bool>,
        /// Maximum number of groups, 1 to 1000
        #[arg(long, default_value_t = 50)]
        limit: u16,
    },
    /// Show a group: its newest jobs, the stack of the newest, and the same failure in other
    /// revisions
    Show {
        /// Number of the group
        id: i64,
    },
    /// Acknowledge a group; the same failure in another revision is another group
    Ack {
        /// Number of the group
        id: i64,
        /// Reopen the group
        #[arg(long)]
        undo: bool,
    },
    /// Set the note of a group; without a text, remove it
    Note {
        /// Number of the group
        id: i64,
        /// Text of the note
        note: Option<String>,
    },
    /// Assign a group to somebody; without a name, remove the assignment
    Assign {
        /// Number of the group
        id: i64,
        /// Name of the responsible person
        to: Option<String>,
    },
    /// Retry the jobs of a group that are still failed: patchbay bulk retry dead-letter=ID
    Retry {
        /// Number of the group
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
    let client = Client::from_args(args)?;
    let none = NoQuery {};
    match command {
        DeadLetterCommand::List {
            queue,
            plugin,
            acknowledged,
            limit,
        } => {
            let which = ListDeadLetters {
                queue,
                plugin,
                acknowledged,
                limit: Some(limit),
            };
            let groups = client.ask::<DeadLettersList>((), which, NoBody).await?;
            let rows = groups.data.iter().map(|group| {
                vec![
                    group.id.to_string(),
                    group.queue.clone(),
                    group.jobs.to_string(),
                    time(group.last_seen),
                    revision(group),
                    state(group) + if group.note.is_some() { ", noted" } else { "" },
                    group.assignee.clone().unwrap_or_default(),
                    group.message.chars().take(80).collect(),
                ]
            });
            let head = [
                "ID",
                "QUEUE",
                "FAILED",
                "LAST SEEN",
                "REVISION",
                "STATE",
                "WHOSE",
                "FAILURE",
            ];
            output.table(&head, rows.collect(), &groups.raw);
        }
        DeadLetterCommand::Show { id } => {
            let group = client
                .ask::<DeadLettersShow>(DeadLetterPath { id }, none, NoBody)
                .await?;
            output.value(&describe(&group.data), &group.raw);
        }
        DeadLetterCommand::Ack { id, undo } => {
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
                &format!("dead letter {id} is {}", state(&group.data)),
                &group.raw,
            );
        }
        DeadLetterCommand::Note { id, note } => {
            let group = client
                .ask::<DeadLettersNote>(DeadLetterPath { id }, none, Json(Note { note }))
                .await?;
            let now = if group.data.note.is_some() {
                "is noted"
            } else {
                "has no note any more"
            };
            output.value(&format!("dead letter {id} {now}"), &group.raw);
        }
        DeadLetterCommand::Assign { id, to } => {
            let to = Json(Assignee { assignee: to });
            let group = client
                .ask::<DeadLettersAssign>(DeadLetterPath { id }, none, to)
                .await?;
            let whose = group.data.assignee.as_deref().unwrap_or("nobody");
            output.value(&format!("dead letter {id} belongs to {whose}"), &group.raw);
        }
        DeadLetterCommand::Retry { id, how } => {
            let request = json!({ "kind": "retry", "state": "failed", "filter": { "dead-letter": id.to_string() } });
            return bulk::begin(request, how, "puts back into their queues", &client, output).await;
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

fn state(group: &DeadLetter) -> String {
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
    lines.push(format!(
        "{} failed, from {} to {}; {} have completed since",
        group.jobs,
        time(group.first_seen),
        time(group.last_seen),
        details.repaired
    ));
    lines.extend(
        group
            .assignee
            .as_ref()
            .map(|assignee| format!("assignee: {assignee}")),
    );
    lines.extend(group.note.as_ref().map(|note| format!("note: {note}")));
    for other in &details.elsewhere {
        lines.push(format!(
            "also: dead letter {}, {}, {} failed",
            other.id,
            revision(other),
            other.jobs
        ));
    }
    lines.push("newest jobs:".into());
    for job in &details.sample {
        let message = job
            .message
            .as_deref()
            .unwrap_or_default()
            .chars()
            .take(80)
            .collect::<String>();
        lines.push(format!(
            "  {}  {} {}  {}  {message}",
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
    lines.push(format!(
        "next: patchbay dead-letter retry {} --first 10",
        group.id
    ));
    lines.join("\n")
}
