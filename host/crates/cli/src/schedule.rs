//! `patchbay schedule …`

mod text;

use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    ClientScheduler, ClientSchedulerPath, Missed, Preview, RemovedSchedule, ScheduleChange,
    SchedulePath, ScheduleView, SchedulesChange, SchedulesCreate, SchedulesList,
    SchedulesListOfClients, SchedulesListRemoved, SchedulesPause, SchedulesPreview,
    SchedulesRemove, SchedulesRemoveOfClient, SchedulesRestore, SchedulesResume, SchedulesRun,
    SchedulesShow, SchedulesShowOfClient,
};
use patchbay_model::shell::{self, arguments, arguments_with, word};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use self::text::{Line, as_ours, describe, describe_of_client, moment, rhythm};
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

fn tell(schedule: &Received<ScheduleView>, output: Output) {
    let raw = with_json_in(&schedule.raw, &["data"]);
    output.value(&describe(&schedule.data), &raw);
}

#[cfg(test)]
mod tests;
