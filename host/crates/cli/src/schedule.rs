//! `patchbay schedule …`

use clap::{Args, Subcommand};
use patchbay_api::path::api_path;
use patchbay_model::shell::arguments;
use reqwest::Method;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, RevealArgs};
use super::input;
use super::output::Output;
use super::view::{items, text};

#[derive(Subcommand)]
pub enum ScheduleCommand {
    /// List schedules with their next tick, and job schedulers that BullMQ's clients made
    List,
    /// Show a schedule with its next five ticks
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Make a schedule
    Add {
        /// Its id; stable, so that the same schedule is never made twice
        id: String,
        /// Where its jobs go
        queue: String,
        /// What they are called
        name: String,
        #[command(flatten)]
        when: When,
        #[command(flatten)]
        rest: Rest,
    },
    /// Change a schedule; what is not named stays. A plugin's stays changed when the plugin is updated
    Edit {
        /// Its id
        id: String,
        #[command(flatten)]
        when: When,
        #[command(flatten)]
        rest: Rest,
    },
    /// Stop its ticks; one that runs goes on
    Pause {
        /// Its id
        id: String,
    },
    /// Let it tick again
    Resume {
        /// Its id
        id: String,
    },
    /// Run its job now, besides its ticks
    Run {
        /// Its id
        id: String,
    },
    /// Remove an operator's schedule; a plugin's is paused instead
    Remove {
        /// Its id
        id: String,
    },
    /// Show the next five ticks of what might be scheduled; changes nothing
    Preview {
        #[command(flatten)]
        when: When,
    },
}

/// When it ticks.
#[derive(Args)]
pub struct When {
    /// Milliseconds between ticks
    #[arg(long, conflicts_with = "cron")]
    every_ms: Option<u64>,
    /// Cron expression: five fields, or six with seconds first
    #[arg(long)]
    cron: Option<String>,
    /// Time zone of the cron expression, for example Asia/Kolkata or UTC+5:30 [default: schedule.default_zone]
    #[arg(long, requires = "cron")]
    tz: Option<String>,
}

/// What else there is to say.
#[derive(Args)]
pub struct Rest {
    /// The jobs' data, JSON
    #[arg(long)]
    data: Option<String>,
    /// What becomes of a tick that nobody could run within a minute: skip or once
    #[arg(long, value_parser = ["skip", "once"])]
    missed: Option<String>,
    /// One line for lists
    #[arg(long)]
    description: Option<String>,
}

#[derive(serde::Serialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(flatten)]
    others: Value,
}

fn body(when: When, rest: Option<Rest>) -> anyhow::Result<Body> {
    let mut data = None;
    let mut body = json!({ "everyMs": when.every_ms, "cron": when.cron, "tz": when.tz });
    if let Some(rest) = rest {
        data = rest.data.map(|data| input::json(data, "the data")).transpose()?;
        body["missed"] = rest.missed.into();
        body["description"] = rest.description.into();
    }
    // What is absent stays.
    if let Value::Object(fields) = &mut body {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(Body { data, others: body })
}

pub(crate) async fn run(command: ScheduleCommand, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let path = |id: &str, action: &[&str]| api_path(&[&["schedules", id], action].concat());
    match command {
        ScheduleCommand::List => {
            let ours = client.call(Method::GET, "schedules", None).await?;
            let others = client.call(Method::GET, "job-schedulers", None).await?;
            let as_ours = |other: &Value| {
                let mut one = other.clone();
                one["cron"] = one["pattern"].take();
                one["zone"] = one["zoneInForce"].take();
                one["nextAt"] = if one["alive"] == true { one["nextTime"].take() } else { Value::Null };
                one["madeBy"] = "client".into();
                one
            };
            let all: Vec<Value> = items(&ours).cloned().chain(items(&others).map(as_ours)).collect();
            let rows = all.iter().map(|schedule| {
                let cells = ["id", "queue", "name"].map(|name| text(schedule, name));
                cells.into_iter().chain([rhythm(schedule), state(schedule), owner(schedule)]).collect()
            });
            output.table(&["ID", "QUEUE", "JOB", "WHEN", "NEXT", "OF"], rows.collect(), &Value::from(all.clone()));
        }
        ScheduleCommand::Show { id, reveal } => {
            let path = format!("{}{}", path(&id, &[]), reveal.query('?'));
            let schedule = client.call(Method::GET, &path, None).await?;
            output.value(&describe(&schedule), &schedule);
        }
        ScheduleCommand::Add { id, queue, name, when, rest } => {
            let mut body = body(when, Some(rest))?;
            let others = &mut body.others;
            (others["id"], others["queue"], others["name"]) = (id.into(), queue.into(), name.into());
            let schedule = client.send_body(Method::POST, "schedules", &body).await?;
            output.value(&describe(&schedule), &schedule);
        }
        ScheduleCommand::Edit { id, when, rest } => {
            let schedule = client.send_body(Method::PATCH, &path(&id, &[]), &body(when, Some(rest))?).await?;
            output.value(&describe(&schedule), &schedule);
        }
        ScheduleCommand::Pause { id } => {
            let schedule = client.call(Method::POST, &path(&id, &["pause"]), None).await?;
            output.value(&format!("{id} ticks no more; again with: patchbay schedule resume {id}"), &schedule);
        }
        ScheduleCommand::Resume { id } => {
            let schedule = client.call(Method::POST, &path(&id, &["resume"]), None).await?;
            output.value(&describe(&schedule), &schedule);
        }
        ScheduleCommand::Run { id } => {
            let job = client.call(Method::POST, &path(&id, &["run"]), None).await?;
            let (queue, job_id) = (text(&job, "queue"), text(&job, "id"));
            let shown = arguments(&[&queue, &job_id]);
            output.value(&format!("added: {shown}\nlook at it with: patchbay job show {shown}"), &job);
        }
        ScheduleCommand::Remove { id } => {
            client.call(Method::DELETE, &path(&id, &[]), None).await?;
            output.value(&format!("{id} is removed"), &json!({ "id": id }));
        }
        ScheduleCommand::Preview { when } => {
            let ticks = client.send_body(Method::POST, "schedules/preview", &body(when, None)?).await?;
            let lines: Vec<&str> = items(&ticks).filter_map(Value::as_str).collect();
            output.value(&lines.join("\n"), &ticks);
        }
    }
    Ok(())
}

fn rhythm(schedule: &Value) -> String {
    match (schedule["everyMs"].as_u64(), schedule["cron"].as_str()) {
        (Some(ms), _) if ms % 60_000 == 0 => format!("every {} min", ms / 60_000),
        (Some(ms), _) => format!("every {ms} ms"),
        (None, Some(cron)) => format!("{cron} {}", text(schedule, "zone")),
        (None, None) => "unknown".into(),
    }
}

fn state(schedule: &Value) -> String {
    if let Some(who) = schedule["pausedBy"].as_str() {
        return format!("paused by {who}");
    }
    match (schedule["trouble"].as_str(), schedule["overdueMs"].as_u64(), schedule["nextAt"].as_str()) {
        (Some(trouble), _, Some(next)) => format!("{next}, then it STOPS: {trouble}"),
        (Some(trouble), _, None) => format!("STOPPED: {trouble}"),
        (None, Some(ms), _) => format!("OVERDUE since {} s", ms / 1_000),
        (None, None, Some(next)) => next.to_owned(),
        (None, None, None) if schedule["madeBy"] == "client" => "ended".into(),
        (None, None, None) => "not in place yet".into(),
    }
}

fn owner(schedule: &Value) -> String {
    if schedule["madeBy"] == "client" {
        return "a BullMQ client".into();
    }
    match (schedule["plugin"].as_str(), schedule["overridden"] == true) {
        (Some(plugin), true) => format!("{plugin} (changed by an operator)"),
        (Some(plugin), false) => plugin.to_owned(),
        (None, _) => "operators".into(),
    }
}

fn describe(schedule: &Value) -> String {
    let name = |name| text(schedule, name);
    let mut lines = vec![
        format!("{}  {} {}  {}", name("id"), name("queue"), name("name"), rhythm(schedule)),
        format!("  next: {}", state(schedule)),
    ];
    lines.extend(items(&schedule["next"]).filter_map(Value::as_str).map(|tick| format!("  then: {tick}")).skip(1));
    lines.push(format!("  missed ticks: {}, of: {}", name("missed"), owner(schedule)));
    lines.push(format!("  data: {}", name("data")));
    lines.join("\n")
}
