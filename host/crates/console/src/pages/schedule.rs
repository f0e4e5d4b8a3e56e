//! One schedule: its next ticks in its zone and in UTC, running it now, pausing and changing it.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use chrono::DateTime;
use maud::{Markup, html};
use patchbay_api::body::NoBody;
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    ScheduleView, SchedulesChange, SchedulesPause, SchedulesRemove, SchedulesRestore,
    SchedulesResume, SchedulesRun, SchedulesShow,
};

use super::parts::{NOT_TYPED, moment_of, reveal_reason, with_reason};
use super::schedule_parts::{last, next, page_of, path_of, rhythm, standing};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("schedule/{{id}}{rest}"));
    router
        .route(&of(""), get(schedule))
        .route(&of("/reveal"), post(reveal))
        .route(&of("/pause"), post(pause))
        .route(&of("/resume"), post(resume))
        .route(&of("/run"), post(run))
        .route(&of("/remove"), get(ask_remove).post(remove))
        .route(&of("/restore"), post(restore))
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

pub(crate) fn data(visit: &Visit, data: &str, action: &str, is_revealed: bool) -> Markup {
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
