//! `patchbay dead-letter …`

use std::process::ExitCode;

use clap::Subcommand;
use patchbay_api::path::{api_path, with_query};
use reqwest::Method;
use serde_json::{Value, json};

use super::bulk;
use super::client::{Client, ClientArgs};
use super::output::Output;
use super::view::{items, short, text};

#[derive(Subcommand)]
pub enum DeadLetterCommand {
    /// List groups of jobs that failed for good: open ones first, then by when they were seen last
    List {
        /// Of jobs of this queue
        #[arg(long)]
        queue: Option<String>,
        /// That happened in this plugin
        #[arg(long)]
        plugin: Option<String>,
        /// Only those that somebody has taken note of (true), or nobody has (false)
        #[arg(long)]
        acknowledged: Option<bool>,
        /// At most so many, 1 to 1000
        #[arg(long, default_value_t = 50)]
        limit: u16,
    },
    /// Show a group: its newest jobs, the stack of the newest, and the same failure in other revisions
    Show {
        /// Its number
        id: i64,
    },
    /// Take note of a group; in another revision the same failure is another group
    Ack {
        /// Its number
        id: i64,
        /// Open it again
        #[arg(long)]
        undo: bool,
    },
    /// Write down what is known of a group; nothing takes the note away
    Note {
        /// Its number
        id: i64,
        /// The note
        note: Option<String>,
    },
    /// Say whose a group is; nothing makes it nobody's
    Assign {
        /// Its number
        id: i64,
        /// A name
        to: Option<String>,
    },
    /// Retry the jobs of a group that are still failed: patchbay bulk retry dead-letter=ID
    Retry {
        /// Its number
        id: i64,
        #[command(flatten)]
        how: bulk::How,
    },
}

pub(crate) async fn run(command: DeadLetterCommand, args: &ClientArgs, output: Output) -> anyhow::Result<ExitCode> {
    let client = Client::from_args(args)?;
    match command {
        DeadLetterCommand::List { queue, plugin, acknowledged, limit } => {
            let acknowledged = acknowledged.map(|acknowledged| acknowledged.to_string());
            let limit = Some(limit.to_string());
            let query = [("limit", limit), ("queue", queue), ("plugin", plugin), ("acknowledged", acknowledged)];
            let query = query.into_iter().filter_map(|(name, value)| Some((name, value?)));
            let groups = client.call(Method::GET, &with_query("dead-letters", query), None).await?;
            let rows = items(&groups).map(|group| {
                vec![
                    group["id"].to_string(),
                    text(group, "queue"),
                    group["jobs"].to_string(),
                    text(group, "lastSeen"),
                    revision(group),
                    state(group) + if group["note"].is_string() { ", noted" } else { "" },
                    text(group, "assignee"),
                    text(group, "message").chars().take(80).collect(),
                ]
            });
            let head = ["ID", "QUEUE", "FAILED", "LAST SEEN", "REVISION", "STATE", "WHOSE", "FAILURE"];
            output.table(&head, rows.collect(), &groups);
        }
        DeadLetterCommand::Show { id } => {
            let story = client.call(Method::GET, &api_path(&["dead-letters", &id.to_string()]), None).await?;
            output.value(&describe(&story), &story);
        }
        DeadLetterCommand::Ack { id, undo } => {
            let action = if undo { "unacknowledge" } else { "acknowledge" };
            let group = client.call(Method::POST, &api_path(&["dead-letters", &id.to_string(), action]), None).await?;
            output.value(&format!("dead letter {id} is {}", state(&group)), &group);
        }
        DeadLetterCommand::Note { id, note } => {
            let group = client
                .call(Method::PUT, &api_path(&["dead-letters", &id.to_string(), "note"]), Some(json!({ "note": note })))
                .await?;
            let now = if group["note"].is_string() { "is noted" } else { "has no note any more" };
            output.value(&format!("dead letter {id} {now}"), &group);
        }
        DeadLetterCommand::Assign { id, to } => {
            let body = json!({ "assignee": to });
            let group =
                client.call(Method::PUT, &api_path(&["dead-letters", &id.to_string(), "assignee"]), Some(body)).await?;
            let whose = group["assignee"].as_str().unwrap_or("nobody");
            output.value(&format!("dead letter {id} belongs to {whose}"), &group);
        }
        DeadLetterCommand::Retry { id, how } => {
            let request = json!({ "kind": "retry", "state": "failed", "filter": { "dead-letter": id.to_string() } });
            return bulk::begin(request, how, "puts back into their queues", &client, output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn revision(group: &Value) -> String {
    match group["plugin"].as_str().unwrap_or_default() {
        "" => "-".into(),
        plugin => format!("{plugin} {}", short(group["revision"].as_str().unwrap_or("-"))),
    }
}

fn state(group: &Value) -> String {
    match (group["acknowledgedBy"].as_str(), group["sinceAcknowledged"].as_i64().unwrap_or(0)) {
        (None, _) => "open".into(),
        (Some(by), 0) => format!("acknowledged by {by}"),
        (Some(by), more) => format!("acknowledged by {by}, {more} since"),
    }
}

fn describe(story: &Value) -> String {
    let head = format!("dead letter {}  {}  {}  {}", story["id"], text(story, "queue"), revision(story), state(story));
    let mut lines = vec![head, format!("failure: {}", text(story, "message"))];
    lines.push(format!(
        "{} failed, from {} to {}; {} have completed since",
        story["jobs"],
        text(story, "firstSeen"),
        text(story, "lastSeen"),
        story["repaired"]
    ));
    for (label, name) in [("assignee", "assignee"), ("note", "note")] {
        lines.extend(story[name].as_str().map(|value| format!("{label}: {value}")));
    }
    for other in items(&story["elsewhere"]) {
        lines.push(format!("also: dead letter {}, {}, {} failed", other["id"], revision(other), other["jobs"]));
    }
    lines.push("newest jobs:".into());
    for job in items(&story["sample"]) {
        let message = text(job, "message").chars().take(80).collect::<String>();
        lines.push(format!(
            "  {}  {} {}  {}  {message}",
            text(job, "finishedAt"),
            text(job, "queue"),
            text(job, "jobId"),
            text(job, "name")
        ));
    }
    lines.extend(story["stack"].as_str().map(|stack| format!("stack trace:\n{stack}")));
    lines.push(format!("next: patchbay dead-letter retry {} --first 10", story["id"]));
    lines.join("\n")
}
