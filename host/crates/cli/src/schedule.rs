//! `patchbay schedule …`

use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    ClientScheduler, Missed, Preview, ScheduleChange, SchedulePath, ScheduleView, SchedulesChange,
    SchedulesCreate, SchedulesList, SchedulesListOfClients, SchedulesPause, SchedulesPreview,
    SchedulesRemove, SchedulesResume, SchedulesRun, SchedulesShow,
};
use patchbay_model::shell::{arguments, word};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, Received, RevealArgs};
use super::exact::with_json_in;
use super::output::Output;
use super::refusal::{Consent, Why};
use super::{input, names};

#[derive(Subcommand)]
pub enum ScheduleCommand {
    /// List schedules with their next tick, and job schedulers of BullMQ clients
    List,
    /// Show a schedule with its next five ticks
    Show {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Create a schedule
    Add {
        /// Id of the schedule; stable, so that the same schedule is never made twice
        id: String,
        /// Queue of its jobs
        #[arg(add = names::queues())]
        queue: String,
        /// Name of its jobs
        name: String,
        #[command(flatten)]
        when: Rhythm,
        #[command(flatten)]
        rest: ScheduleFields,
        #[command(flatten)]
        why: Why,
    },
    /// Change a schedule; options that are not given stay as they are. Changes to a plugin's
    /// schedule survive updates of the plugin
    Edit {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        when: Rhythm,
        #[command(flatten)]
        rest: ScheduleFields,
        #[command(flatten)]
        why: Why,
    },
    /// Pause a schedule: it stops ticking; a running job continues
    Pause {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Resume a schedule: it ticks again
    Resume {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Run its job now, in addition to its ticks
    Run {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Remove an operator's schedule; pause a plugin's schedule instead
    Remove {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Show the next five ticks of a possible schedule; changes nothing
    Preview {
        #[command(flatten)]
        when: Rhythm,
    },
}

#[derive(Args)]
pub struct Rhythm {
    /// Milliseconds between ticks
    #[arg(long, conflicts_with = "cron")]
    every_ms: Option<u64>,
    /// Cron expression: five fields, or six with seconds first
    #[arg(long)]
    cron: Option<String>,
    /// Time zone of the cron expression, for example Asia/Kolkata or UTC+5:30
    /// [default: schedule.default_zone]
    #[arg(long, requires = "cron")]
    tz: Option<String>,
}

#[derive(Args)]
pub struct ScheduleFields {
    /// Data of its jobs, as JSON
    #[arg(long)]
    data: Option<String>,
    /// What happens to a tick that was missed by more than a minute: skip it, or run it once
    #[arg(long, value_parser = ["skip", "once"])]
    missed: Option<String>,
    /// Description in one line
    #[arg(long)]
    description: Option<String>,
    /// Store it although the queue's active plugin does not declare this job, or other data for it;
    /// this is recorded
    #[arg(long)]
    force: bool,
}

/// Absent fields stay as they are.
fn change(when: Rhythm, rest: ScheduleFields) -> anyhow::Result<ScheduleChange> {
    Ok(ScheduleChange {
        data: rest
            .data
            .map(|data| input::json(data, "the data"))
            .transpose()?,
        every_ms: when.every_ms,
        cron: when.cron,
        tz: when.tz,
        missed: rest.missed.map(|missed| {
            if missed == "once" {
                Missed::Once
            } else {
                Missed::Skip
            }
        }),
        description: rest.description,
        force: rest.force,
        ..ScheduleChange::default()
    })
}

impl ScheduleCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. } | Self::Preview { .. })
    }

    fn why(&self) -> Why {
        match self {
            Self::Add { why, .. }
            | Self::Edit { why, .. }
            | Self::Pause { why, .. }
            | Self::Resume { why, .. }
            | Self::Run { why, .. } => why.clone(),
            Self::Remove { consent, .. } => consent.why.clone(),
            Self::List | Self::Show { .. } | Self::Preview { .. } => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: ScheduleCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        ScheduleCommand::List => list(&client, output).await?,
        ScheduleCommand::Show { id, reveal } => {
            let schedule = client
                .ask::<SchedulesShow>(SchedulePath { id }, reveal.into(), NoBody)
                .await?;
            tell(&schedule, output);
        }
        ScheduleCommand::Add {
            id,
            queue,
            name,
            when,
            rest,
            ..
        } => {
            let change = change(when, rest)?;
            let wanted = ScheduleChange {
                id: Some(id),
                queue: Some(queue),
                name: Some(name),
                ..change
            };
            tell(
                &client
                    .ask::<SchedulesCreate>((), none, Json(wanted))
                    .await?,
                output,
            );
        }
        ScheduleCommand::Edit { id, when, rest, .. } => {
            let change = Json(change(when, rest)?);
            tell(
                &client
                    .ask::<SchedulesChange>(SchedulePath { id }, none, change)
                    .await?,
                output,
            );
        }
        ScheduleCommand::Pause { id, .. } => {
            let schedule = client
                .ask::<SchedulesPause>(SchedulePath { id: id.clone() }, none, NoBody)
                .await?;
            output.done(
                &format!("Paused: {id}. Resume with: patchbay schedule resume {id}"),
                &schedule.raw,
            );
        }
        ScheduleCommand::Resume { id, .. } => {
            tell(
                &client
                    .ask::<SchedulesResume>(SchedulePath { id }, none, NoBody)
                    .await?,
                output,
            );
        }
        ScheduleCommand::Run { id, .. } => {
            let job = client
                .ask::<SchedulesRun>(SchedulePath { id }, none, NoBody)
                .await?;
            let shown = arguments(&[&job.data.queue, &job.data.id]);
            let text = format!("Added: {shown}\nSee: patchbay job show {shown}");
            output.made(&job.data.id, &text, &job.raw);
        }
        ScheduleCommand::Remove { id, consent } => {
            let path = || SchedulePath { id: id.clone() };
            let there = client
                .ask::<SchedulesShow>(path(), Reveal::default(), NoBody)
                .await?;
            consent.ask(&format!("This removes schedule {id}"))?;
            client.ask::<SchedulesRemove>(path(), none, NoBody).await?;
            let again = again(&there.data);
            output.done(
                &format!("Removed: schedule {id}. To create it again: {again}"),
                &json!({ "id": id, "again": again }),
            );
        }
        ScheduleCommand::Preview {
            when: Rhythm { every_ms, cron, tz },
        } => {
            let wanted = Json(Preview {
                id: None,
                every_ms,
                cron,
                tz,
            });
            let ticks = client.ask::<SchedulesPreview>((), none, wanted).await?;
            output.value(&ticks.data.join("\n"), &ticks.raw);
        }
    }
    Ok(())
}

/// The command that creates the schedule.
fn again(schedule: &ScheduleView) -> String {
    let names = [&schedule.id, &schedule.queue, &schedule.name].map(String::as_str);
    let mut words = vec!["patchbay schedule add".to_owned(), arguments(&names)];
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name} {}", word(&value))));
    };
    option("every-ms", schedule.every_ms.map(|ms| ms.to_string()));
    option("cron", schedule.cron.clone());
    option("tz", schedule.tz.clone());
    option(
        "data",
        Some(schedule.data.clone()).filter(|data| data != "{}"),
    );
    option(
        "missed",
        Some(schedule.missed.clone()).filter(|missed| missed != "skip"),
    );
    option(
        "description",
        Some(schedule.description.clone()).filter(|text| !text.is_empty()),
    );
    words.join(" ")
}

/// Lists schedules, and job schedulers of BullMQ clients.
async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let ours = client.ask::<SchedulesList>((), NoQuery {}, NoBody).await?;
    let others = client
        .ask::<SchedulesListOfClients>((), NoQuery {}, NoBody)
        .await?;
    let lines = ours
        .data
        .iter()
        .map(Line::from)
        .chain(others.data.iter().map(Line::from));
    let rows = lines.map(|line| line.cells().to_vec()).collect();
    let others: Vec<Value> = serde_json::from_str(others.raw.get())?;
    let mut all: Vec<Box<RawValue>> =
        serde_json::from_str(with_json_in(&ours.raw, &["data"]).get())?;
    for other in &others {
        all.push(to_raw_value(&as_ours(other))?);
    }
    output.table(&["ID", "QUEUE", "JOB", "WHEN", "NEXT", "OF"], rows, &all);
    Ok(())
}

/// A client's scheduler, with its fields renamed to those of a schedule.
fn as_ours(other: &Value) -> Value {
    let mut one = other.clone();
    one["cron"] = one["pattern"].take();
    one["zone"] = one["zoneInForce"].take();
    one["nextAt"] = if one["alive"] == true {
        one["nextTime"].take()
    } else {
        Value::Null
    };
    one["madeBy"] = "client".into();
    one
}

/// A row of the list: a schedule or a client's scheduler.
struct Line<'a> {
    id: &'a str,
    queue: &'a str,
    name: &'a str,
    every_ms: Option<u64>,
    cron: Option<&'a str>,
    zone: Option<&'a str>,
    paused_by: Option<&'a str>,
    trouble: Option<&'a str>,
    overdue_ms: Option<u64>,
    next_at: Option<&'a str>,
    is_of_client: bool,
    plugin: Option<&'a str>,
    overridden: bool,
}

impl<'a> From<&'a ScheduleView> for Line<'a> {
    fn from(schedule: &'a ScheduleView) -> Self {
        Self {
            id: &schedule.id,
            queue: &schedule.queue,
            name: &schedule.name,
            every_ms: schedule.every_ms.and_then(|ms| u64::try_from(ms).ok()),
            cron: schedule.cron.as_deref(),
            zone: schedule.zone.as_deref(),
            paused_by: schedule.paused_by.as_deref(),
            trouble: schedule.trouble.as_deref(),
            overdue_ms: schedule.overdue_ms,
            next_at: schedule.next_at.as_deref(),
            is_of_client: false,
            plugin: schedule.plugin.as_deref(),
            overridden: schedule.overridden,
        }
    }
}

impl<'a> From<&'a ClientScheduler> for Line<'a> {
    fn from(scheduler: &'a ClientScheduler) -> Self {
        let view = &scheduler.view;
        Self {
            id: &view.id,
            queue: scheduler.queue.as_str(),
            name: view.name.as_deref().unwrap_or_default(),
            every_ms: view.every_ms,
            cron: view.pattern.as_deref(),
            zone: scheduler.zone_in_force.as_deref(),
            paused_by: None,
            trouble: view.trouble.as_deref(),
            overdue_ms: None,
            next_at: scheduler.next_time.as_deref().filter(|_| view.alive),
            is_of_client: true,
            plugin: None,
            overridden: false,
        }
    }
}

impl Line<'_> {
    fn cells(&self) -> [String; 6] {
        let [id, queue, name] = [self.id, self.queue, self.name].map(str::to_owned);
        [id, queue, name, self.rhythm(), self.state(), self.owner()]
    }

    fn rhythm(&self) -> String {
        match (self.every_ms, self.cron) {
            (Some(ms), _) if ms % 60_000 == 0 => format!("every {} min", ms / 60_000),
            (Some(ms), _) => format!("every {ms} ms"),
            (None, Some(cron)) => format!("{cron} {}", self.zone.unwrap_or_default()),
            (None, None) => "unknown".into(),
        }
    }

    fn state(&self) -> String {
        if let Some(who) = self.paused_by {
            return format!("paused by {who}");
        }
        match (self.trouble, self.overdue_ms, self.next_at) {
            (Some(trouble), _, Some(next)) => format!("{next}, then it STOPS: {trouble}"),
            (Some(trouble), _, None) => format!("STOPPED: {trouble}"),
            (None, Some(ms), _) => format!("OVERDUE since {} s", ms / 1_000),
            (None, None, Some(next)) => next.to_owned(),
            (None, None, None) if self.is_of_client => "ended".into(),
            (None, None, None) => "not in place yet".into(),
        }
    }

    fn owner(&self) -> String {
        match (self.plugin, self.overridden) {
            _ if self.is_of_client => "a BullMQ client".into(),
            (Some(plugin), true) => format!("{plugin} (changed by an operator)"),
            (Some(plugin), false) => plugin.to_owned(),
            (None, _) => "operators".into(),
        }
    }
}

fn tell(schedule: &Received<ScheduleView>, output: Output) {
    let raw = with_json_in(&schedule.raw, &["data"]);
    output.value(&describe(&schedule.data), &raw);
}

fn describe(schedule: &ScheduleView) -> String {
    let ScheduleView {
        id,
        queue,
        name,
        missed,
        data,
        ..
    } = schedule;
    let line = Line::from(schedule);
    let mut lines = vec![
        format!("{id}  {queue} {name}  {}", line.rhythm()),
        format!("  next: {}", line.state()),
    ];
    lines.extend(
        schedule
            .next
            .iter()
            .map(|tick| format!("  then: {tick}"))
            .skip(1),
    );
    lines.push(format!("  missed ticks: {missed}, of: {}", line.owner()));
    lines.push(format!("  data: {data}"));
    lines.join("\n")
}
