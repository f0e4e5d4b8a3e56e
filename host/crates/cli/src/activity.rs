//! `patchbay activity`

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use patchbay_api::activity::{Activity, ActivityList, ActivityResult, ActorKind, ListActivity};
use patchbay_model::job::trail_name;

use super::client::{Client, ClientArgs};
use super::input::point_in_time;
use super::names;
use super::output::{Output, csv, time};
use super::paging::Paging;
use super::view;

/// Maximum number of rows per page that a host returns.
const LARGEST_PAGE: u16 = 200;
/// Between two looks of `--follow`.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How far back `--follow` looks again: what a plugin writes in a transaction is visible only once
/// that has ended.
const OVERLAP: TimeDelta = TimeDelta::seconds(10);

const EXAMPLES: &str = "\
Examples:
  patchbay activity --since 2h
  patchbay activity --target emailQueue --action queue
  patchbay activity --actor ops --result failed
  patchbay activity --since 2026-11-01T00:00:00Z --csv > activity.csv
  patchbay activity --follow";

/// Show who did what: operators, plugins, and hosts on their own
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ActivityArgs {
    /// Only of this operator, plugin or host
    #[arg(long)]
    actor: Option<String>,
    /// Only this action (queue.pause), or all that begin with this word (queue)
    #[arg(long)]
    action: Option<String>,
    /// Only on this target: a queue with its jobs, bulk operations and schedules, QUEUE ID for one
    /// job, a plugin, a schedule …
    #[arg(long, num_args = 1..=2, add = names::queues())]
    target: Vec<String>,
    /// Only by operators, plugins or hosts
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only actions with this result
    #[arg(long, value_enum)]
    result: Option<Ended>,
    /// Only since then: a time such as 2026-11-24T00:00:00Z, or an age such as 90s, 30m, 24h or 7d
    #[arg(long, value_parser = point_in_time)]
    since: Option<DateTime<Utc>>,
    /// Only before then, written as in --since
    #[arg(long, value_parser = point_in_time)]
    until: Option<DateTime<Utc>>,
    #[command(flatten)]
    much: Paging,
    /// Follow: show what is done from now on, until Ctrl-C
    #[arg(long, conflicts_with_all = ["all", "cursor", "until", "csv"])]
    follow: bool,
    /// Print all rows as comma-separated values
    #[arg(long, conflicts_with_all = ["limit", "cursor"])]
    csv: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Operator,
    Plugin,
    Host,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ended {
    Done,
    NoEffect,
    Failed,
    Running,
}

impl ActivityArgs {
    fn query(&self, limit: u16, cursor: Option<String>) -> ListActivity {
        ListActivity {
            actor: self.actor.clone(),
            action: self.action.clone(),
            target: self.target(),
            kind: self.kind.map(|kind| match kind {
                Kind::Operator => ActorKind::Operator,
                Kind::Plugin => ActorKind::Plugin,
                Kind::Host => ActorKind::Host,
            }),
            result: self.result.map(|result| match result {
                Ended::Done => ActivityResult::Done,
                Ended::NoEffect => ActivityResult::NoEffect,
                Ended::Failed => ActivityResult::Failed,
                Ended::Running => ActivityResult::Running,
            }),
            since: self.since,
            until: self.until,
            cursor,
            limit: Some(limit),
        }
    }

    /// As it is recorded.
    fn target(&self) -> Option<String> {
        let job = match self.target.as_slice() {
            [queue, id] => queue.parse().ok().zip(id.parse().ok()),
            _ => None,
        };
        match job {
            Some((queue, id)) => Some(trail_name(&queue, &id)),
            None if self.target.is_empty() => None,
            None => Some(self.target.join(" ")),
        }
    }

    /// Whether it ends by itself, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        !self.follow
    }
}

pub(crate) async fn run(
    args: ActivityArgs,
    client: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(client)?;
    if args.follow {
        return follow(&args, &client, output).await;
    }
    let query = |limit, cursor| args.query(limit, cursor);
    if args.csv {
        let page = |cursor, _| Some(query(LARGEST_PAGE, cursor));
        let all = client.ask_up_to::<ActivityList, _>(&(), page).await?;
        let head = [
            "at", "actor", "action", "target", "count", "result", "reason", "from", "details", "id",
        ];
        let rows = all.items.iter().map(|item| cells(item).to_vec());
        return Ok(csv(head, rows)?);
    }
    let page = args
        .much
        .ask::<ActivityList, _>(&client, &(), query)
        .await?;
    let rows = page.items.iter().map(|item| row(item, output)).collect();
    output.list(&HEAD, &WIDE, rows, &page.raw, &page.more());
    page.note("recorded action", output);
    Ok(())
}

const HEAD: [&str; 7] = [
    "WHEN", "WHO", "ACTION", "TARGET", "COUNT", "RESULT", "REASON",
];
const WIDE: [&str; 3] = ["FROM", "DETAILS", "ID"];

fn row(item: &Activity, output: Output) -> Vec<String> {
    let mut cells = cells(item);
    cells[0] = output.when(item.at);
    cells.to_vec()
}

fn cells(item: &Activity) -> [String; 10] {
    let result = match (item.result, &item.error) {
        (ActivityResult::Done, _) => "done".to_owned(),
        (ActivityResult::NoEffect, _) => match &item.no_effect {
            Some(why) => format!("no effect: {why}"),
            None => "no effect".to_owned(),
        },
        (ActivityResult::Running, _) => "running".to_owned(),
        (ActivityResult::Failed, error) => {
            format!("failed: {}", error.as_deref().unwrap_or("unknown"))
        }
    };
    let details = match item.details.as_object() {
        Some(details) if details.is_empty() => String::new(),
        _ => item.details.to_string(),
    };
    [
        time(item.at),
        item.actor.clone(),
        item.action.clone(),
        view::target(&item.action, &item.target),
        item.count
            .map(|count| count.to_string())
            .unwrap_or_default(),
        result,
        item.reason.clone().unwrap_or_default(),
        item.from.clone().unwrap_or_default(),
        details,
        item.id.clone(),
    ]
}

/// Prints what was done, the oldest first, until somebody ends the command.
async fn follow(args: &ActivityArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let mut since = args.since.unwrap_or_else(Utc::now);
    let mut printed: HashSet<String> = HashSet::new();
    loop {
        let query = |cursor| ListActivity {
            since: Some(since),
            ..args.query(LARGEST_PAGE, cursor)
        };
        let mut page = client
            .ask_up_to::<ActivityList, _>(&(), |cursor, _| Some(query(cursor)))
            .await?;
        page.items.reverse();
        for item in page
            .items
            .iter()
            .filter(|item| item.result != ActivityResult::Running)
        {
            if !printed.insert(item.id.clone()) {
                continue;
            }
            if output.json {
                let lines = Output {
                    watch: true,
                    ..output
                };
                lines.value("", item);
            } else {
                let [at, actor, action, target, count, result, reason, ..] = cells(item);
                let count = if count.is_empty() {
                    count
                } else {
                    format!("  {count}")
                };
                let reason = if reason.is_empty() {
                    reason
                } else {
                    format!("  ({reason})")
                };
                println!(
                    "{}",
                    super::plain(&format!(
                        "{at}  {actor}  {action}  {target}{count}  {result}{reason}"
                    ))
                );
            }
        }
        let newest = page.items.last().map_or(since, |item| item.at);
        if newest - OVERLAP > since {
            since = newest - OVERLAP;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
