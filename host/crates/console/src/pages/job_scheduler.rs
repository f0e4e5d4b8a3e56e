//! One job scheduler that a BullMQ client made: it is shown, and can be removed.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::html;
use patchbay_api::body::NoBody;
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    ClientSchedulerPath, SchedulesRemoveOfClient, SchedulesShowOfClient,
};

use super::parts::{NOT_TYPED, reveal_reason};
use super::schedule::data;
use super::schedule_parts::{client_standing, last, next, rhythm};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let client = |rest: &str| below_root(&format!("job-scheduler/{{queue}}/{{id}}{rest}"));
    router
        .route(&client(""), get(of_client))
        .route(&client("/reveal"), post(reveal_of_client))
        .route(
            &client("/remove"),
            get(ask_remove_of_client).post(remove_of_client),
        )
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
        @if visit.may::<SchedulesRemoveOfClient>() { div class="actions" { a class="button danger" href=(action("remove")) { "Remove…" } } }
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
