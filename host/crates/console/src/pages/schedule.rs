//! One schedule: its next ticks in its zone and in UTC, running it now, pausing and changing it.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use chrono::DateTime;
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    ClientSchedulerPath, Missed, Preview, ScheduleChange, SchedulePath, ScheduleView,
    SchedulesChange, SchedulesCreate, SchedulesPause, SchedulesPreview, SchedulesRemove,
    SchedulesRemoveOfClient, SchedulesRestore, SchedulesResume, SchedulesRun, SchedulesShow,
    SchedulesShowOfClient,
};
use serde_json::value::RawValue;

use super::parts::{NOT_TYPED, moment_of, refused, reveal_reason, typed_length, with_reason};
use super::schedules::{client_standing, last, next, rhythm, standing};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::{Fields, Posted};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("schedule/{{id}}{rest}"));
    let client = |rest: &str| below_root(&format!("job-scheduler/{{queue}}/{{id}}{rest}"));
    router
        .route(&below_root("schedule-new"), get(ask_new).post(create))
        .route(&of(""), get(schedule))
        .route(&of("/reveal"), post(reveal))
        .route(&of("/edit"), get(ask_edit).post(edit))
        .route(&of("/pause"), post(pause))
        .route(&of("/resume"), post(resume))
        .route(&of("/run"), post(run))
        .route(&of("/remove"), get(ask_remove).post(remove))
        .route(&of("/restore"), post(restore))
        .route(&client(""), get(of_client))
        .route(&client("/reveal"), post(reveal_of_client))
        .route(
            &client("/remove"),
            get(ask_remove_of_client).post(remove_of_client),
        )
}

fn path_of(id: &str) -> SchedulePath {
    SchedulePath { id: id.to_owned() }
}

pub(crate) fn page_of(id: &str) -> String {
    address(&["schedule", id])
}

async fn schedule(visit: Visit, Path(id): Path<String>) -> Result<Response, Problem> {
    shown(&visit, unescaped(&id), Reveal::default()).await
}

/// Shows hidden data once: the answer to a form, so that no address and no refresh repeats it.
async fn reveal(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let reason = reveal_reason(&visit, &fields);
    let reveal = Reveal {
        reveal: true,
        reason: Some(reason.map_err(|problem| problem.back(page_of(&id)))?),
    };
    shown(&visit, &id, reveal).await
}

async fn shown(visit: &Visit, id: &str, asked: Reveal) -> Result<Response, Problem> {
    let is_revealed = asked.reveal;
    let one = visit.ask::<SchedulesShow>(path_of(id), asked, NoBody);
    let one = one
        .await
        .map_err(|problem| problem.back(address(&["schedules"])))?;
    let main = html! {
        div id="schedule" data-live {
            p { (standing(visit, &one)) }
            @if !one.description.is_empty() { p { (show::text(&one.description)) } }
            (facts(visit, &one))
        }
        (actions(visit, &one))
        (data(visit, &one.data, &address(&["schedule", id, "reveal"]), is_revealed))
    };
    let path = [(address(&["schedules"]), "Schedules")];
    let head = Head::new(Section::Schedules, id).below(&path);
    // What was shown on purpose stays until somebody leaves the page.
    let head = if is_revealed { head } else { head.live() };
    Ok(frame::page(visit, &head, main))
}

fn facts(visit: &Visit, one: &ScheduleView) -> Markup {
    let every = one.every_ms.and_then(|ms| u64::try_from(ms).ok());
    html! {
        dl class="facts" {
            dt { "Adds" } dd { code { (show::text(&one.name)) } " to " a href=(address(&["queue", &one.queue])) { (show::text(&one.queue)) } }
            dt { "When" } dd { (rhythm(every, one.cron.as_deref(), one.zone.as_deref())) }
            dt { "Next" } dd { (next(visit, one.next_at.as_deref(), one.next_at_local.as_deref())) }
            dt { "Last run" } dd { (last(visit, &one.queue, one.last_run.as_ref())) }
            dt { "If a tick is missed" } dd { @if one.missed == "once" { "it runs once, late" } @else { "it is skipped" } " (missed by more than a minute)" }
            dt { "Made by" } dd {
                @match &one.plugin {
                    Some(plugin) => { "plugin " a href=(address(&["plugin", plugin])) { (show::text(plugin)) } @if one.at_run_time { ", at run time" } @else { ", in its manifest" } @if one.overridden { "; changed by an operator since" } }
                    None => { "an operator" }
                }
            }
            dt { "Changed" } dd { (show::ago(one.updated_at, visit.now())) " by " (show::text(&one.updated_by)) }
        }
        @if !one.next.is_empty() { (ticks(visit, &one.next, &one.next_local)) }
    }
}

/// The next ticks: how soon, in UTC, and by the clocks of the schedule's zone.
fn ticks(visit: &Visit, next: &[String], local: &[String]) -> Markup {
    let there = |text: &String| {
        DateTime::parse_from_rfc3339(text)
            .map(|at| at.format("%a %Y-%m-%d %H:%M:%S (%:z)").to_string())
            .unwrap_or_default()
    };
    html! {
        section aria-labelledby="next" {
            h2 id="next" { "Next ticks" }
            div class="table" tabindex="0" role="group" aria-labelledby="next" {
                table {
                    thead { tr { th scope="col" { "In" } th scope="col" { "UTC" } @if !local.is_empty() { th scope="col" { "In the schedule's zone" } } } }
                    tbody {
                        @for (place, at) in next.iter().enumerate() {
                            tr {
                                td { @match moment_of(at) { Some(at) => { (show::ago(at, visit.now())) } None => { (show::text(at)) } } }
                                td { @match moment_of(at) { Some(at) => { (at.format("%a %Y-%m-%d %H:%M:%S")) } None => { (show::unknown()) } } }
                                @if !local.is_empty() { td { @if let Some(local) = local.get(place) { (there(local)) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn actions(visit: &Visit, one: &ScheduleView) -> Markup {
    let action = |what: &str| address(&["schedule", &one.id, what]);
    html! {
        div class="actions" role="group" aria-label="Actions" {
            @if visit.may::<SchedulesRun>() { (frame::button(visit, &action("run"), "Run now", &[])) }
            @if visit.may::<SchedulesResume>() && one.paused_at.is_some() { (frame::button(visit, &action("resume"), "Resume", &[])) }
            @if visit.may::<SchedulesChange>() { a class="button" href=(action("edit")) { "Change…" } }
            @if visit.may::<SchedulesRemove>() && one.plugin.is_none() { a class="button danger" href=(action("remove")) { "Remove…" } }
        }
        @if visit.may::<SchedulesPause>() && one.paused_at.is_none() { (with_reason(visit, &action("pause"), "pause-reason", "Pause", false)) }
    }
}

fn data(visit: &Visit, data: &str, action: &str, is_revealed: bool) -> Markup {
    let reason = html! {
        label for="reveal-reason" { "Reason" }
        input id="reveal-reason" name="reason" type="text" required maxlength="500" autocomplete="off";
        button type="submit" { "Show hidden values (recorded)" }
    };
    html! {
        section aria-labelledby="data" {
            h2 id="data" { "Data of its jobs" }
            @if data.is_empty() { p class="dim" { "Not shown without the right to see data of jobs." } }
            @else { (show::json(data)) }
            @if visit.may_see_data() && !is_revealed { (frame::form(visit, action, "bar", reason)) }
        }
    }
}

/// What a form of a schedule holds.
#[derive(Debug, Default, Clone)]
struct Typed {
    id: String,
    queue: String,
    name: String,
    data: String,
    every: String,
    cron: String,
    tz: String,
    missed: String,
    description: String,
}

impl Typed {
    fn of(fields: &Fields) -> Self {
        let text = |name: &str| fields.raw(name).trim().to_owned();
        Self {
            id: text("id"),
            queue: text("queue"),
            name: text("name"),
            data: text("data"),
            every: text("every"),
            cron: text("cron"),
            tz: text("tz"),
            missed: text("missed"),
            description: text("description"),
        }
    }

    fn from_view(one: &ScheduleView) -> Self {
        Self {
            id: one.id.clone(),
            queue: one.queue.clone(),
            name: one.name.clone(),
            data: one.data.clone(),
            every: one
                .every_ms
                .map(|ms| format!("{ms} ms"))
                .unwrap_or_default(),
            cron: one.cron.clone().unwrap_or_default(),
            tz: one.tz.clone().unwrap_or_default(),
            missed: one.missed.clone(),
            description: one.description.clone(),
        }
    }

    fn every_ms(&self, visit: &Visit) -> Result<Option<u64>, Problem> {
        if self.every.is_empty() {
            return Ok(None);
        }
        typed_length(&self.every).map(Some).ok_or_else(|| {
            let message =
                "Nothing was done: an interval has a unit, such as 30 s, 5 min, 36 h or 2 d";
            refused(visit, message)
        })
    }

    /// What differs from `was`; everything of a new one.
    fn change(&self, visit: &Visit, was: Option<&Self>) -> Result<ScheduleChange, Problem> {
        let nothing = Self::default();
        let before = was.unwrap_or(&nothing);
        let changed = |now: &String, was: &String| (now != was).then(|| now.clone());
        let data = changed(&self.data, &before.data)
            .map(RawValue::from_string)
            .transpose()
            .map_err(|error| {
                refused(
                    visit,
                    format!("Nothing was done: the data is no JSON ({error})"),
                )
            })?;
        let every_ms = match self.every == before.every {
            true => None,
            false => self.every_ms(visit)?,
        };
        let missed = changed(&self.missed, &before.missed).map(|word| match word.as_str() {
            "once" => Missed::Once,
            _ => Missed::Skip,
        });
        Ok(ScheduleChange {
            id: was.is_none().then(|| self.id.clone()),
            queue: changed(&self.queue, &before.queue),
            name: changed(&self.name, &before.name),
            data,
            every_ms,
            cron: changed(&self.cron, &before.cron).filter(|cron| !cron.is_empty()),
            tz: changed(&self.tz, &before.tz).filter(|tz| !tz.is_empty()),
            missed,
            description: changed(&self.description, &before.description),
            force: false,
        })
    }
}

async fn ask_new(visit: Visit) -> Result<Response, Problem> {
    visit.require::<SchedulesCreate>()?;
    let typed = Typed {
        data: "{}".to_owned(),
        missed: "skip".to_owned(),
        ..Typed::default()
    };
    Ok(form_page(&visit, None, &typed, None))
}

/// What a form led to: its ticks, or what is wrong with it.
enum Outcome<'a> {
    Ticks(&'a [String]),
    Refused(&'a Problem),
}

fn form_page(
    visit: &Visit,
    id: Option<&str>,
    typed: &Typed,
    outcome: Option<Outcome<'_>>,
) -> Response {
    let action = match id {
        Some(id) => address(&["schedule", id, "edit"]),
        None => address(&["schedule-new"]),
    };
    let back = id.map_or_else(|| address(&["schedules"]), page_of);
    let does_not_fit =
        matches!(&outcome, Some(Outcome::Refused(problem)) if problem.code == "does-not-fit");
    let text = |id: &str, label: &str, value: &str, about: &str, is_required: bool| {
        html! {
            p {
                label for=(id) { (label) }
                input id=(id) name=(id) type="text" value=(value) required[is_required] autocomplete="off" spellcheck="false" maxlength="1000";
                @if !about.is_empty() { br; span class="dim" { (about) } }
            }
        }
    };
    let content = html! {
        @if id.is_none() { (text("id", "Id", &typed.id, "It stays, and names the schedule everywhere.", true)) }
        (text("queue", "Queue", &typed.queue, "", true))
        (text("name", "Name of its jobs", &typed.name, "", true))
        (text("cron", "Cron expression", &typed.cron, "Minute, hour, day, month, weekday; with six fields, seconds first. “0 9 * * 1-5” is 9:00 on weekdays. Either this or an interval.", false))
        (text("tz", "Time zone of the cron expression", &typed.tz, "As Asia/Kolkata or UTC+5:30. Empty: the host's default.", false))
        (text("every", "Interval", &typed.every, "Such as 30 s, 5 min or 12 h.", false))
        p {
            label for="missed" { "If a tick is missed by more than a minute" }
            (super::parts::choice("missed", "missed", &[("skip", "skip it"), ("once", "run once, late")], &typed.missed))
        }
        p {
            label for="data" { "Data of its jobs, a JSON document" }
            textarea id="data" name="data" rows="8" spellcheck="false" { "\n" (typed.data) }
        }
        (text("description", "Description", &typed.description, "", false))
        (text("reason", "Reason, for the record", "", "", false))
        @if does_not_fit {
            p { label class="check" for="force" { input id="force" name="force" type="checkbox" value="on"; " Store it although the plugin declares no such job or data (recorded)" } }
        }
        p class="actions" {
            button type="submit" class="primary" { @if id.is_some() { "Save" } @else { "Create" } }
            button type="submit" name="preview" value="on" { "Show its next ticks" }
            a class="button" href=(back) { "Cancel" }
        }
    };
    let main = html! {
        @match &outcome {
            Some(Outcome::Refused(problem)) => {
                div class="problem" role="alert" {
                    p { (show::text(&problem.message)) }
                    @if let Some(details) = &problem.details { (show::json(&details.to_string())) }
                }
            }
            Some(Outcome::Ticks(next)) => {
                div class="notice" role="status" {
                    div {
                        p { strong { "Not stored yet. Next ticks:" } }
                        @if next.is_empty() { p { "None." } }
                        ul { @for at in *next { li { @match moment_of(at) { Some(at) => { (show::moment(at)) " (" (show::ago(at, visit.now())) ")" } None => { (show::text(at)) } } } } }
                    }
                }
            }
            None => {}
        }
        section class="card" aria-label="Schedule" { (frame::form(visit, &action, "stack", content)) }
    };
    let title = id.map_or_else(|| "New schedule".to_owned(), |id| format!("Change {id}"));
    let mut path = vec![(address(&["schedules"]), "Schedules")];
    if let Some(id) = id {
        path.push((page_of(id), id));
    }
    let head = Head::new(Section::Schedules, &title).below(&path);
    let mut response = frame::page(visit, &head, main);
    if let Some(Outcome::Refused(problem)) = outcome {
        *response.status_mut() = problem.status;
    }
    response
}

/// Answers the button that shows the next ticks.
async fn previewed(visit: &Visit, id: Option<&str>, typed: &Typed) -> Response {
    let every_ms = match typed.every_ms(visit) {
        Ok(every_ms) => every_ms,
        Err(problem) => return form_page(visit, id, typed, Some(Outcome::Refused(&problem))),
    };
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let body = Json(Preview {
        id: some(&typed.id),
        every_ms,
        cron: some(&typed.cron),
        tz: some(&typed.tz),
    });
    match visit.ask::<SchedulesPreview>((), NoQuery {}, body).await {
        Ok(next) => form_page(visit, id, typed, Some(Outcome::Ticks(&next))),
        Err(problem) => form_page(visit, id, typed, Some(Outcome::Refused(&problem))),
    }
}

async fn create(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let typed = Typed::of(&fields);
    if fields.is_on("preview") {
        return Ok(previewed(&visit, None, &typed).await);
    }
    let created = async {
        let mut change = typed.change(&visit, None)?;
        change.force = fields.is_on("force");
        let body = Json(change);
        visit
            .change::<SchedulesCreate>((), NoQuery {}, body, fields.reason())
            .await
    };
    match created.await {
        Ok(one) => {
            let notice = Notice::new(format!("Schedule {} is made.", one.id));
            Ok(visit.done(&page_of(&one.id), &notice))
        }
        Err(problem) => {
            let outcome = Outcome::Refused(&problem);
            Ok(form_page(&visit, None, &typed, Some(outcome)))
        }
    }
}

async fn ask_edit(visit: Visit, Path(id): Path<String>) -> Result<Response, Problem> {
    visit.require::<SchedulesChange>()?;
    let id = unescaped(&id).to_owned();
    let one = visit.ask::<SchedulesShow>(path_of(&id), Reveal::default(), NoBody);
    let one = one.await.map_err(|problem| problem.back(page_of(&id)))?;
    let mut typed = Typed::from_view(&one);
    typed.data = show::editable(&typed.data);
    Ok(form_page(&visit, Some(&id), &typed, None))
}

async fn edit(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let mut typed = Typed::of(&fields);
    typed.id.clone_from(&id);
    if fields.is_on("preview") {
        return Ok(previewed(&visit, Some(&id), &typed).await);
    }
    let one = visit.ask::<SchedulesShow>(path_of(&id), Reveal::default(), NoBody);
    let one = one.await.map_err(|problem| problem.back(page_of(&id)))?;
    let mut was = Typed::from_view(&one);
    was.data = show::editable(&was.data);
    let changed = async {
        let mut change = typed.change(&visit, Some(&was))?;
        change.force = fields.is_on("force");
        let body = Json(change);
        visit
            .change::<SchedulesChange>(path_of(&id), NoQuery {}, body, fields.reason())
            .await
    };
    match changed.await {
        Ok(_) => Ok(visit.done(&page_of(&id), &Notice::new("Saved."))),
        Err(problem) => {
            let outcome = Outcome::Refused(&problem);
            Ok(form_page(&visit, Some(&id), &typed, Some(outcome)))
        }
    }
}

async fn pause(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let done = visit.change::<SchedulesPause>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    let one = done.await.map_err(|problem| problem.back(page_of(&id)))?;
    let notice = match one.already {
        true => Notice::new("Nothing has changed: it was paused already."),
        false => Notice::new(format!("{id} is paused. A running job continues."))
            .undo("Resume", address(&["schedule", &id, "resume"])),
    };
    Ok(visit.done(&page_of(&id), &notice))
}

async fn resume(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let done = visit.change::<SchedulesResume>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    let one = done.await.map_err(|problem| problem.back(page_of(&id)))?;
    let text = match one.already {
        true => "Nothing has changed: it was not paused.".to_owned(),
        false => format!("{id} ticks again."),
    };
    Ok(visit.done(&page_of(&id), &Notice::new(text)))
}

async fn run(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let done = visit.change::<SchedulesRun>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    let job = done.await.map_err(|problem| problem.back(page_of(&id)))?;
    let notice = Notice::new(format!("Schedule {id} has added this job."));
    Ok(visit.done(&address(&["job", &job.queue, &job.id]), &notice))
}

async fn ask_remove(visit: Visit, Path(id): Path<String>) -> Result<Response, Problem> {
    visit.require::<SchedulesRemove>()?;
    Ok(remove_page(&visit, unescaped(&id), None))
}

fn remove_page(visit: &Visit, id: &str, refused: Option<&str>) -> Response {
    let about = html! { p { "Schedule " strong { (show::text(id)) } ". A job that is in its queue already still runs. For 30 days the schedule can be restored from the list of schedules." } };
    let confirm = Confirm {
        section: Section::Schedules,
        title: "Remove the schedule",
        operation: const { &SchedulesRemove::OPERATION },
        name: id,
        about,
        fields: frame::nothing(),
        action: &address(&["schedule", id, "remove"]),
        back: &page_of(id),
        refused,
    };
    confirm::page(visit, confirm)
}

async fn remove(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    if !is_typed(&fields, &id) {
        return Ok(remove_page(&visit, &id, Some(NOT_TYPED)));
    }
    let done = visit.destroy::<SchedulesRemove>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    done.await.map_err(|problem| problem.back(page_of(&id)))?;
    let undo = address(&["schedule", &id, "restore"]);
    let notice = Notice::new(format!("Removed schedule {id}.")).undo("Restore it", undo);
    Ok(visit.done(&address(&["schedules"]), &notice))
}

async fn restore(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let done = visit.change::<SchedulesRestore>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    let one = done
        .await
        .map_err(|problem| problem.back(address(&["schedules"])))?;
    let text = match one.data_erased {
        true => format!(
            "Restored {id}. A value of its data was erased meanwhile, so it is paused: change its data, then resume it."
        ),
        false => format!("Restored {id}, as it was."),
    };
    Ok(visit.done(&page_of(&id), &Notice::new(text)))
}

/// Queue and id of a path.
type Named = Path<(String, String)>;

fn client_path(Path((queue, id)): Named) -> ClientSchedulerPath {
    ClientSchedulerPath {
        queue: unescaped(&queue).to_owned(),
        id: unescaped(&id).to_owned(),
    }
}

fn client_page(path: &ClientSchedulerPath) -> String {
    address(&["job-scheduler", &path.queue, &path.id])
}

async fn of_client(visit: Visit, named: Named) -> Result<Response, Problem> {
    client_shown(&visit, client_path(named), Reveal::default()).await
}

async fn reveal_of_client(
    named: Named,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let path = client_path(named);
    let reason = reveal_reason(&visit, &fields);
    let reveal = Reveal {
        reveal: true,
        reason: Some(reason.map_err(|problem| problem.back(client_page(&path)))?),
    };
    client_shown(&visit, path, reveal).await
}

async fn client_shown(
    visit: &Visit,
    path: ClientSchedulerPath,
    asked: Reveal,
) -> Result<Response, Problem> {
    let is_revealed = asked.reveal;
    let action = |what: &str| address(&["job-scheduler", &path.queue, &path.id, what]);
    let one = visit.ask::<SchedulesShowOfClient>(path.clone(), asked, NoBody);
    let one = one
        .await
        .map_err(|problem| problem.back(address(&["schedules"])))?;
    let main = html! {
        div id="schedule" data-live {
            p { (client_standing(&one)) }
            dl class="facts" {
                dt { "Adds" } dd { @if let Some(name) = &one.view.name { code { (show::text(name)) } " to " } a href=(address(&["queue", &path.queue])) { (show::text(&path.queue)) } }
                dt { "When" } dd { (rhythm(one.view.every_ms, one.view.pattern.as_deref(), one.zone_in_force.as_deref())) }
                dt { "Next" } dd { (next(visit, one.next_time.as_deref(), one.next_at_local.as_deref())) }
                dt { "Last run" } dd { (last(visit, &path.queue, one.last_run.as_ref())) }
                dt { "Made by" } dd { "a BullMQ client" @if one.view.legacy { ", with " code { "repeat" } " options" } }
            }
        }
        p class="dim" { "It is changed where it is made: in the program that adds its jobs." }
        @if visit.may::<SchedulesRemoveOfClient>() { p class="actions" { a class="button danger" href=(action("remove")) { "Remove…" } } }
        (data(visit, one.view.data.as_deref().unwrap_or_default(), &action("reveal"), is_revealed))
    };
    let crumbs = [(address(&["schedules"]), "Schedules")];
    let head = Head::new(Section::Schedules, &path.id).below(&crumbs);
    let head = if is_revealed { head } else { head.live() };
    Ok(frame::page(visit, &head, main))
}

async fn ask_remove_of_client(visit: Visit, named: Named) -> Result<Response, Problem> {
    visit.require::<SchedulesRemoveOfClient>()?;
    Ok(remove_client_page(&visit, &client_path(named), None))
}

fn remove_client_page(
    visit: &Visit,
    path: &ClientSchedulerPath,
    refused: Option<&str>,
) -> Response {
    let about = html! { p { "Job scheduler " strong { (show::text(&path.id)) } " of " strong { (show::text(&path.queue)) } ". Its next tick is removed; one that is due already still runs. It comes back if the client makes it again." } };
    let confirm = Confirm {
        section: Section::Schedules,
        title: "Remove the job scheduler",
        operation: const { &SchedulesRemoveOfClient::OPERATION },
        name: &path.id,
        about,
        fields: frame::nothing(),
        action: &address(&["job-scheduler", &path.queue, &path.id, "remove"]),
        back: &client_page(path),
        refused,
    };
    confirm::page(visit, confirm)
}

async fn remove_of_client(
    named: Named,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let path = client_path(named);
    if !is_typed(&fields, &path.id) {
        return Ok(remove_client_page(&visit, &path, Some(NOT_TYPED)));
    }
    let done =
        visit.destroy::<SchedulesRemoveOfClient>(path.clone(), NoQuery {}, NoBody, fields.reason());
    done.await
        .map_err(|problem| problem.back(client_page(&path)))?;
    let notice = Notice::new(format!("Removed job scheduler {}.", path.id));
    Ok(visit.done(&address(&["schedules"]), &notice))
}
