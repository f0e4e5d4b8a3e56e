//! `patchbay schedule …`

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    ClientScheduler, ClientSchedulerPath, LastRun, Missed, Preview, RemovedSchedule,
    ScheduleChange, SchedulePath, ScheduleView, SchedulesChange, SchedulesCreate, SchedulesList,
    SchedulesListOfClients, SchedulesListRemoved, SchedulesPause, SchedulesPreview,
    SchedulesRemove, SchedulesRemoveOfClient, SchedulesRestore, SchedulesResume, SchedulesRun,
    SchedulesShow, SchedulesShowOfClient,
};
use patchbay_model::schedule::Zone;
use patchbay_model::shell::{self, arguments, arguments_with, option, word};
use patchbay_model::words::lasted;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, ClientError, Received, RevealArgs};
use super::exact::with_json_in;
use super::output::Output;
use super::refusal::{Consent, Refusal, Why};
use super::{input, names};

#[derive(Subcommand)]
pub enum ScheduleCommand {
    /// List schedules with their next tick, and job schedulers of BullMQ clients
    List {
        /// List the schedules that were removed and can be restored instead
        #[arg(long)]
        removed: bool,
    },
    /// Show a schedule with its next five ticks, or a job scheduler of a BullMQ client
    Show {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        of_client: OfClient,
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
    /// Remove an operator's schedule, or a job scheduler of a BullMQ client; pause a plugin's
    /// schedule instead
    Remove {
        /// Id of the schedule
        #[arg(add = names::schedules())]
        id: String,
        #[command(flatten)]
        of_client: OfClient,
        #[command(flatten)]
        consent: Consent,
    },
    /// Restore a schedule that was removed in the last 30 days: `schedule list --removed`
    Restore {
        /// Id of the schedule
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Show the next five ticks of a possible schedule; changes nothing
    Preview {
        #[command(flatten)]
        when: Rhythm,
    },
}

/// Where several queues have a job scheduler with one id.
#[derive(Args)]
pub struct OfClient {
    /// Queue of a job scheduler that a BullMQ client made; needed only where several queues have one
    /// with this id
    #[arg(long, add = names::queues())]
    queue: Option<String>,
}

#[derive(Args)]
pub struct Rhythm {
    /// Time between ticks: milliseconds, or with a unit, such as 90s or 2h
    #[arg(long, value_name = "MS", conflicts_with = "cron", value_parser = input::milliseconds(1_000, 315_360_000_000))]
    every_ms: Option<u64>,
    /// Cron expression: five fields, or six with seconds first
    #[arg(long)]
    cron: Option<String>,
    /// Time zone of the cron expression, for example Asia/Kolkata or UTC+5:30
    /// [default: schedule.default_zone]; in `schedule edit` without --cron: of the present one
    #[arg(long, conflicts_with = "every_ms")]
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
        matches!(
            self,
            Self::List { .. } | Self::Show { .. } | Self::Preview { .. }
        )
    }

    fn why(&self) -> Why {
        match self {
            Self::Add { why, .. }
            | Self::Edit { why, .. }
            | Self::Pause { why, .. }
            | Self::Resume { why, .. }
            | Self::Run { why, .. }
            | Self::Restore { why, .. } => why.clone(),
            Self::Remove { consent, .. } => consent.why.clone(),
            Self::List { .. } | Self::Show { .. } | Self::Preview { .. } => Why::default(),
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
        ScheduleCommand::List { removed: false } => list(&client, output).await?,
        ScheduleCommand::List { removed: true } => list_removed(&client, output).await?,
        ScheduleCommand::Show {
            id,
            of_client,
            reveal,
        } => {
            let reveal: Reveal = reveal.into();
            match find(&id, of_client, &reveal, &client).await? {
                Found::Ours(schedule) => tell(&schedule, output),
                Found::OfClient(scheduler) => {
                    let raw = with_json_in(&scheduler.raw, &["data"]);
                    output.value(&describe_of_client(&scheduler.data), &raw);
                }
            }
        }
        ScheduleCommand::Add {
            id,
            queue,
            name,
            when,
            rest,
            ..
        } => {
            if when.tz.is_some() && when.cron.is_none() {
                return Err(Refusal(
                    "--tz needs --cron: it is the zone of a cron expression".into(),
                )
                .into());
            }
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
            let is_nothing = when.every_ms.is_none()
                && when.cron.is_none()
                && when.tz.is_none()
                && rest.data.is_none()
                && rest.missed.is_none()
                && rest.description.is_none();
            if is_nothing {
                let nothing = "Nothing to change. Give at least one of --every-ms, --cron, --tz, --data, --missed and --description";
                return Err(Refusal(nothing.into()).into());
            }
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
                .ask::<SchedulesPause>(SchedulePath { id }, none, NoBody)
                .await?;
            let view = &schedule.data;
            let state = Line::from(view).state();
            let (name, undo) = (word(&view.id), arguments(&[&view.id]));
            let text = match view.already {
                true => format!(
                    "Schedule {name} was already paused. {state}. Undo: patchbay schedule resume {undo}"
                ),
                false => {
                    format!("Schedule {name}: {state}. Undo: patchbay schedule resume {undo}")
                }
            };
            output.done(&text, &schedule.raw);
        }
        ScheduleCommand::Resume { id, .. } => {
            let schedule = client
                .ask::<SchedulesResume>(SchedulePath { id }, none, NoBody)
                .await?;
            if schedule.data.already {
                output.note(&format!(
                    "Schedule {} was not paused; nothing has changed",
                    word(&schedule.data.id)
                ));
            }
            tell(&schedule, output);
        }
        ScheduleCommand::Run { id, .. } => {
            let job = client
                .ask::<SchedulesRun>(SchedulePath { id }, none, NoBody)
                .await?;
            let (queue, id) = (&job.data.queue, &job.data.id);
            let text = format!(
                "Added: {}\nSee: patchbay job show {}",
                shell::job(queue, id),
                arguments(&[queue, id])
            );
            output.made(&job.data.id, &text, &job.raw);
        }
        ScheduleCommand::Remove {
            id,
            of_client,
            consent,
        } => {
            let found = find(&id, of_client, &Reveal::default(), &client).await?;
            if let Found::OfClient(scheduler) = found {
                return remove_of_client(&scheduler.data, &consent, &client, output).await;
            }
            let name = word(&id).into_owned();
            consent.ask(&format!(
                "This removes schedule {name}. For 30 days it can be restored"
            ))?;
            let path = SchedulePath { id: id.clone() };
            client.ask::<SchedulesRemove>(path, none, NoBody).await?;
            let undo = format!("patchbay schedule restore {}", arguments(&[&id]));
            output.done(
                &format!("Removed: schedule {name}. Undo: {undo}"),
                &json!({ "id": id, "undo": undo }),
            );
        }
        ScheduleCommand::Restore { id, .. } => {
            let path = SchedulePath { id };
            let schedule = client.ask::<SchedulesRestore>(path, none, NoBody).await?;
            tell(&schedule, output);
            if schedule.data.data_erased {
                let id = &schedule.data.id;
                output.note(&format!(
                    "Paused: a value of its data was erased while it was removed ([erased]). Set its data, then resume it: patchbay schedule edit {}; patchbay schedule resume {}",
                    arguments_with(&[id], "--data JSON"),
                    arguments(&[id])
                ));
            }
        }
        ScheduleCommand::Preview {
            when: Rhythm { every_ms, cron, tz },
        } => {
            if tz.is_some() && cron.is_none() {
                return Err(Refusal(
                    "--tz needs --cron: it is the zone of a cron expression".into(),
                )
                .into());
            }
            let zone = tz.clone();
            let wanted = Json(Preview {
                id: None,
                every_ms,
                cron,
                tz,
            });
            let ticks = client.ask::<SchedulesPreview>((), none, wanted).await?;
            let shown = ticks.data.iter().map(|tick| moment(tick, zone.as_deref()));
            output.value(&shown.collect::<Vec<_>>().join("\n"), &ticks.raw);
        }
    }
    Ok(())
}

/// What an id means.
enum Found {
    Ours(Received<ScheduleView>),
    OfClient(Received<ClientScheduler>),
}

/// Finds a schedule, or the job scheduler of a BullMQ client that has this id.
async fn find(
    id: &str,
    of_client: OfClient,
    reveal: &Reveal,
    client: &Client,
) -> anyhow::Result<Found> {
    let queue = match of_client.queue {
        Some(queue) => queue,
        None => {
            let path = SchedulePath { id: id.to_owned() };
            let error = match client
                .ask::<SchedulesShow>(path, reveal.clone(), NoBody)
                .await
            {
                Ok(schedule) => return Ok(Found::Ours(schedule)),
                Err(error) => error,
            };
            match its_queues(&error) {
                Some(queues) => one_of(id, queues)?,
                None => return Err(error.into()),
            }
        }
    };
    let path = ClientSchedulerPath {
        queue,
        id: id.to_owned(),
    };
    let scheduler = client
        .ask::<SchedulesShowOfClient>(path, reveal.clone(), NoBody)
        .await?;
    Ok(Found::OfClient(scheduler))
}

/// The queues in which clients have made a job scheduler with the id that was asked for.
fn its_queues(error: &ClientError) -> Option<Vec<String>> {
    let ClientError::Refused { code, details, .. } = error else {
        return None;
    };
    let queues = details.as_ref()?["queues"].as_array()?;
    let queues = queues.iter().filter_map(Value::as_str).map(str::to_owned);
    (code == "made-by-client").then(|| queues.collect())
}

fn one_of(id: &str, mut queues: Vec<String>) -> Result<String, Refusal> {
    match (queues.pop(), queues.is_empty()) {
        (Some(queue), true) => Ok(queue),
        (last, _) => {
            let names = queues.iter().chain(&last).map(|queue| word(queue));
            Err(Refusal(format!(
                "BullMQ clients have made a job scheduler {} in several queues. Add --queue with one of them: {}",
                word(id),
                names.collect::<Vec<_>>().join(", ")
            )))
        }
    }
}

async fn remove_of_client(
    scheduler: &ClientScheduler,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let (queue, id) = (scheduler.queue.as_str(), &scheduler.view.id);
    let name = format!(
        "job scheduler {} of a BullMQ client in queue {}",
        word(id),
        word(queue)
    );
    consent.ask(&format!(
        "This removes {name} with its next tick, which cannot be undone here: only its client can make it again"
    ))?;
    let path = ClientSchedulerPath {
        queue: queue.to_owned(),
        id: id.clone(),
    };
    client
        .ask::<SchedulesRemoveOfClient>(path, NoQuery {}, NoBody)
        .await?;
    output.done(
        &format!("Removed: {name}. It comes back if the client makes it again"),
        &json!({ "id": id, "queue": queue }),
    );
    Ok(())
}

/// Lists what `schedule restore` can bring back.
async fn list_removed(client: &Client, output: Output) -> anyhow::Result<()> {
    let removed = client
        .ask::<SchedulesListRemoved>((), NoQuery {}, NoBody)
        .await?;
    let rows = removed.data.iter().map(|one| {
        let RemovedSchedule {
            id,
            queue,
            name,
            description,
            ..
        } = one;
        let every_ms = one.every_ms.and_then(|ms| u64::try_from(ms).ok());
        vec![
            id.clone(),
            queue.clone(),
            name.clone(),
            rhythm(every_ms, one.cron.as_deref(), one.tz.as_deref()),
            output.when(one.removed_at),
            one.removed_by.clone().unwrap_or_default(),
            one.reason.clone().unwrap_or_default(),
            output.when(one.restorable_until),
            description.clone(),
        ]
    });
    let head = [
        "ID",
        "QUEUE",
        "JOB",
        "WHEN",
        "REMOVED",
        "BY",
        "REASON",
        "RESTORABLE UNTIL",
        "DESCRIPTION",
    ];
    output.table(&head, rows.collect(), &removed.raw);
    match removed.data.is_empty() {
        true => output.note("No schedule was removed in the last 30 days"),
        false => output.note("Restore one: patchbay schedule restore ID"),
    }
    Ok(())
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
    let head = [
        "ID",
        "QUEUE",
        "JOB",
        "WHEN",
        "NEXT",
        "LAST RUN",
        "CREATED BY",
        "DESCRIPTION",
    ];
    let is_empty = all.is_empty();
    output.table(&head, rows, &all);
    if is_empty {
        output.note("No schedules. Add one: patchbay schedule add --help");
    }
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
    paused_at: Option<DateTime<Utc>>,
    paused_reason: Option<&'a str>,
    trouble: Option<&'a str>,
    overdue_ms: Option<u64>,
    next_at: Option<&'a str>,
    is_of_client: bool,
    plugin: Option<&'a str>,
    overridden: bool,
    last_run: Option<&'a LastRun>,
    description: &'a str,
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
            paused_at: schedule.paused_at,
            paused_reason: schedule.paused_reason.as_deref(),
            trouble: schedule.trouble.as_deref(),
            overdue_ms: schedule.overdue_ms,
            next_at: schedule.next_at.as_deref(),
            is_of_client: false,
            plugin: schedule.plugin.as_deref(),
            overridden: schedule.overridden,
            last_run: schedule.last_run.as_ref(),
            description: &schedule.description,
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
            paused_at: None,
            paused_reason: None,
            trouble: view.trouble.as_deref(),
            overdue_ms: scheduler.overdue_ms,
            next_at: scheduler.next_time.as_deref().filter(|_| view.alive),
            is_of_client: true,
            plugin: None,
            overridden: false,
            last_run: scheduler.last_run.as_ref(),
            description: "",
        }
    }
}

impl Line<'_> {
    fn cells(&self) -> [String; 8] {
        let [id, queue, name, description] =
            [self.id, self.queue, self.name, self.description].map(str::to_owned);
        let last_run = self.last_run();
        [
            id,
            queue,
            name,
            self.rhythm(),
            self.state(),
            last_run,
            self.owner(),
            description,
        ]
    }

    fn rhythm(&self) -> String {
        rhythm(self.every_ms, self.cron, self.zone)
    }

    fn state(&self) -> String {
        if let Some(who) = self.paused_by {
            let since = self
                .paused_at
                .map(|at| format!(" since {}", Zone::UTC.shown(at)));
            let reason = self.paused_reason.map(|reason| format!(": {reason}"));
            return format!(
                "Paused by {who}{}{}",
                since.unwrap_or_default(),
                reason.unwrap_or_default()
            );
        }
        let next = self.next_at.map(|next| moment(next, self.zone));
        match (self.trouble, self.overdue_ms, next) {
            (Some(trouble), _, Some(next)) => format!("{next}, then it STOPS: {trouble}"),
            (Some(trouble), _, None) => format!("STOPPED: {trouble}"),
            (None, Some(ms), _) => format!("OVERDUE for {}", lasted(Duration::from_millis(ms))),
            (None, None, Some(next)) => next,
            (None, None, None) if self.is_of_client => "ended".into(),
            (None, None, None) => "not in place yet".into(),
        }
    }

    fn last_run(&self) -> String {
        self.last_run.map_or_else(
            || "none known".to_owned(),
            |run| {
                let why = run.code.as_ref().map(|code| format!(" ({code})"));
                let at = Zone::UTC.shown(run.at);
                format!("{at}: {}{}", run.state, why.unwrap_or_default())
            },
        )
    }

    fn owner(&self) -> String {
        match (self.plugin, self.overridden) {
            _ if self.is_of_client => "a BullMQ client".into(),
            (Some(plugin), true) => format!("{plugin} (changed by an operator)"),
            (Some(plugin), false) => plugin.to_owned(),
            (None, _) => "operator".into(),
        }
    }
}

fn rhythm(every_ms: Option<u64>, cron: Option<&str>, zone: Option<&str>) -> String {
    match (every_ms, cron) {
        (Some(ms), _) if ms % 1_000 == 0 => {
            format!("every {}", lasted(Duration::from_millis(ms)))
        }
        (Some(ms), _) => format!("every {ms} ms"),
        (None, Some(cron)) => format!("{cron} {}", zone.unwrap_or_default())
            .trim_end()
            .to_owned(),
        (None, None) => "unknown".into(),
    }
}

/// A time of the API by the clocks of the schedule's zone, with UTC beside.
fn moment(time: &str, zone: Option<&str>) -> String {
    let zone = zone.and_then(|zone| zone.parse().ok()).unwrap_or(Zone::UTC);
    match DateTime::parse_from_rfc3339(time) {
        Ok(at) => zone.shown(at.to_utc()),
        Err(_) => time.to_owned(),
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
        description,
        ..
    } = schedule;
    let line = Line::from(schedule);
    let missed = match missed.as_str() {
        "once" => "run once, late",
        _ => "skipped",
    };
    let mut lines = vec![format!("{id}  {queue} {name}  {}", line.rhythm())];
    if !description.is_empty() {
        lines.push(format!("  {description}"));
    }
    let state = line.state();
    lines.push(match schedule.paused_by {
        Some(_) => format!(
            "  {state}\n  Next: patchbay schedule resume {}",
            arguments(&[id])
        ),
        None => format!("  Next: {state}"),
    });
    let later = schedule.next.iter().skip(1);
    lines.extend(later.map(|tick| format!("  Then: {}", moment(tick, line.zone))));
    lines.push(format!("  Last run: {}", line.last_run()));
    lines.extend(schedule.last_run.as_ref().map(|run| {
        format!(
            "    patchbay job timeline {}",
            arguments(&[queue, &run.job_id])
        )
    }));
    lines.push(format!(
        "  If missed: {missed}. Created by: {}",
        line.owner()
    ));
    lines.push(format!("  Data: {data}"));
    lines.join("\n")
}

fn describe_of_client(scheduler: &ClientScheduler) -> String {
    let (line, view) = (Line::from(scheduler), &scheduler.view);
    let (id, queue) = (&view.id, scheduler.queue.as_str());
    let mut lines = vec![
        format!(
            "{}  {} {}  {}",
            word(id),
            word(queue),
            word(line.name),
            line.rhythm()
        ),
        format!("  Next: {}", line.state()),
        format!("  Last run: {}", line.last_run()),
    ];
    lines.extend(scheduler.last_run.as_ref().map(|run| {
        format!(
            "    patchbay job timeline {}",
            arguments(&[queue, &run.job_id])
        )
    }));
    lines.push(match view.legacy {
        true => format!(
            "  Created by: a BullMQ client, as a repeatable. To make it a schedule: patchbay queue migrate-repeatables {}",
            arguments(&[queue])
        ),
        false => "  Created by: a BullMQ client, which alone can change it".to_owned(),
    });
    lines.extend(view.data.as_ref().map(|data| format!("  Data: {data}")));
    lines.push(format!(
        "  To remove it: patchbay schedule remove {}",
        arguments_with(&[id], &option("--queue", queue))
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(more: Value) -> ScheduleView {
        let mut view = json!({ "id": "nightly", "queue": "emailQueue", "name": "send", "data": "{}", "cron": "0 9 * * *",
            "zone": "Asia/Kolkata", "missed": "skip", "description": "The report", "overridden": false,
            "updatedAt": "2026-11-24T12:00:00Z", "updatedBy": "ops", "nextAt": "2026-12-01T03:30:00.000Z" });
        for (name, value) in more.as_object().into_iter().flatten() {
            view[name] = value.clone();
        }
        serde_json::from_value(view).expect("a schedule")
    }

    #[test]
    fn a_schedule_is_told_by_its_own_clocks_with_its_last_run() {
        let run = json!({ "jobId": "repeat:nightly:1", "at": "2026-11-30T03:30:00Z", "finishedAt": "2026-11-30T03:30:01Z",
            "state": "failed", "outcome": "failed", "code": "upstream" });
        let ticks = json!(["2026-12-01T03:30:00.000Z", "2026-12-02T03:30:00.000Z"]);
        let text = describe(&schedule(json!({ "lastRun": run, "next": ticks })));
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "nightly  emailQueue send  0 9 * * * Asia/Kolkata",
                "  The report",
                "  Next: 2026-12-01 09:00 IST (03:30 UTC)",
                "  Then: 2026-12-02 09:00 IST (03:30 UTC)",
                "  Last run: 2026-11-30 03:30 UTC: failed (upstream)",
                "    patchbay job timeline emailQueue repeat:nightly:1",
                "  If missed: skipped. Created by: operator",
                "  Data: {}",
            ]
        );
    }

    #[test]
    fn what_a_client_made_is_told_with_the_command_that_removes_it() {
        let scheduler = json!({ "queue": "my queue", "id": "-x", "nextAt": 1_796_095_800_000_u64, "name": "send", "data": "{}",
            "pattern": "0 9 * * *", "zone": "Asia/Kolkata", "alive": true, "legacy": false, "nextTime": "2026-12-01T03:30:00.000Z",
            "zoneInForce": "Asia/Kolkata" });
        let told = describe_of_client(&serde_json::from_value(scheduler).expect("a scheduler"));
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [
                "-x  'my queue' send  0 9 * * * Asia/Kolkata",
                "  Next: 2026-12-01 09:00 IST (03:30 UTC)",
                "  Last run: none known",
                "  Created by: a BullMQ client, which alone can change it",
                "  Data: {}",
                "  To remove it: patchbay schedule remove --queue 'my queue' -- -x",
            ]
        );
    }

    #[test]
    fn of_several_queues_one_must_be_named() {
        let of = |queues: &[&str]| one_of("x", queues.iter().map(|q| (*q).to_owned()).collect());
        assert_eq!(of(&["a"]).expect("one"), "a");
        let refused = of(&["a", "b"]).expect_err("two").to_string();
        assert!(refused.ends_with("one of them: a, b"), "{refused}");
    }

    #[test]
    fn a_paused_one_says_who_and_how_to_resume_it_and_a_late_one_for_how_long() {
        let paused =
            json!({ "pausedBy": "ops", "pausedAt": "2026-11-24T12:00:00Z", "nextAt": null });
        let text = describe(&schedule(paused));
        assert!(
            text.contains("\n  Paused by ops since 2026-11-24 12:00 UTC\n  Next: patchbay schedule resume nightly\n"),
            "{text}"
        );
        let late = schedule(json!({ "overdueMs": 605_000 }));
        assert_eq!(Line::from(&late).state(), "OVERDUE for 10 min");
        assert_eq!(Line::from(&late).last_run(), "none known");
    }
}
