//! The form of a schedule: making one, changing one, and looking at its next ticks before.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use maud::html;
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    Missed, Preview, ScheduleChange, ScheduleView, SchedulesChange, SchedulesCreate,
    SchedulesPreview, SchedulesShow,
};
use serde_json::value::RawValue;

use super::parts::{moment_of, refused, typed_length};
use super::schedule_parts::{page_of, path_of};
use crate::entry::{Fields, Posted};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&below_root("schedule-new"), get(ask_new).post(create))
        .route(&below_root("schedule/{id}/edit"), get(ask_edit).post(edit))
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
            p { label class="check" { input id="force" name="force" type="checkbox" value="on"; " Store it although the plugin declares no such job or data (recorded)" } }
        }
        div class="actions" {
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
