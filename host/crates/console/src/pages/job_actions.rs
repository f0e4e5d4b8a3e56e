//! What is done to one job: retrying, running now, killing, copying, removing, and editing its data.

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use maud::{Markup, html};
use patchbay_api::body::{AnyDocument, Json, NoBody};
use patchbay_api::jobs::{
    DuplicateJob, Force, JobView, JobsDuplicate, JobsKill, JobsPromote, JobsRemove, JobsRetry,
    JobsSetData, JobsShow,
};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::reveal::Reveal;
use patchbay_model::job::JobState;
use serde_json::value::RawValue;

use super::job::{Named, Which, reason_of};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("job/{{queue}}/{{id}}{rest}"));
    router
        .route(&of("/retry"), post(retry))
        .route(&of("/promote"), post(promote))
        .route(&of("/kill"), post(kill))
        .route(&of("/duplicate"), post(duplicate))
        .route(&of("/remove"), get(ask_remove).post(remove))
        .route(&of("/edit"), get(ask_edit).post(edit))
        .route(&of("/edit/reveal"), post(edit_revealed))
}

async fn retry(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    let asked = visit.change::<JobsRetry>(which.path(), NoQuery {}, NoBody, fields.reason());
    asked.await.map_err(|problem| problem.back(which.page()))?;
    let notice = Notice::new(format!("{} is back in its queue.", which.named()));
    Ok(visit.done(&which.page(), &notice))
}

async fn promote(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    let asked = visit.change::<JobsPromote>(which.path(), NoQuery {}, NoBody, fields.reason());
    asked.await.map_err(|problem| problem.back(which.page()))?;
    let notice = Notice::new(format!(
        "{} runs as soon as a worker is free.",
        which.named()
    ));
    Ok(visit.done(&which.page(), &notice))
}

async fn kill(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    let asked = visit.change::<JobsKill>(which.path(), NoQuery {}, NoBody, fields.reason());
    asked.await.map_err(|problem| problem.back(which.page()))?;
    let notice = Notice::new(format!(
        "{} is being killed; it fails for good.",
        which.named()
    ));
    Ok(visit.done(&which.page(), &notice))
}

async fn duplicate(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    let body = Json(DuplicateJob::default());
    let asked = visit.change::<JobsDuplicate>(which.path(), NoQuery {}, body, fields.reason());
    let added = asked.await.map_err(|problem| problem.back(which.page()))?;
    let notice = Notice::new(format!(
        "Added {} {}, a copy of {}.",
        added.queue,
        added.id,
        which.named()
    ));
    Ok(visit.done(&address(&["job", &added.queue, &added.id]), &notice))
}

async fn ask_remove(visit: Visit, named: Named) -> Result<Response, Problem> {
    visit.require::<JobsRemove>()?;
    remove_page(&visit, &Which::of(named), None).await
}

async fn remove_page(
    visit: &Visit,
    which: &Which,
    refused: Option<&str>,
) -> Result<Response, Problem> {
    let job = visit.ask::<JobsShow>(which.path(), Reveal::default(), NoBody);
    let job = job
        .await
        .map_err(|problem| problem.back(which.page()))?
        .job
        .job;
    let about = html! {
        p { "One job: " strong { (show::text(&job.name)) } ", " (show::state(&job.state.to_string())) ", of " strong { (show::text(&which.queue)) } ". Its history is kept." }
        p { "To be able to undo it, use "
            a href=(address_with(&["bulk-new"], &[("kind", "remove"), ("queue", &which.queue), ("job", &which.id), ("state", &job.state.to_string())])) { "a bulk removal" } " instead." }
    };
    let confirm = Confirm {
        section: Section::Queues,
        title: "Remove the job",
        operation: const { &JobsRemove::OPERATION },
        name: &which.id,
        about,
        fields: frame::nothing(),
        action: &which.action("remove"),
        back: &which.page(),
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

async fn remove(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    if !is_typed(&fields, &which.id) {
        let refused = "Nothing was done: the id that was typed is another one.";
        return remove_page(&visit, &which, Some(refused)).await;
    }
    let asked = visit.destroy::<JobsRemove>(which.path(), NoQuery {}, NoBody, fields.reason());
    asked.await.map_err(|problem| problem.back(which.page()))?;
    let notice = Notice::new(format!("Removed {}.", which.named()));
    Ok(visit.done(&address(&["queue", &which.queue]), &notice))
}

async fn ask_edit(visit: Visit, named: Named) -> Result<Response, Problem> {
    visit.require::<JobsSetData>()?;
    edit_page(&visit, &Which::of(named), Reveal::default()).await
}

async fn edit_revealed(
    named: Named,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    visit.require::<JobsSetData>()?;
    let which = Which::of(named);
    let reveal = Reveal {
        reveal: true,
        reason: Some(reason_of(&visit, &which, &fields)?),
    };
    edit_page(&visit, &which, reveal).await
}

async fn edit_page(visit: &Visit, which: &Which, reveal: Reveal) -> Result<Response, Problem> {
    let is_revealed = reveal.reveal;
    let job = visit.ask::<JobsShow>(which.path(), reveal, NoBody);
    let job = job.await.map_err(|problem| problem.back(which.page()))?;
    let main = html! {
        @if job.job.hidden > 0 && !is_revealed {
            // Saved as it is shown, the data would lose what is hidden.
            section class="card" aria-label="Hidden values" {
                p { "The data has hidden values, and is edited whole: they must be shown first. That you looked, and why, is recorded." }
                (frame::form(visit, &address(&["job", &which.queue, &which.id, "edit", "reveal"]), "bar", html! {
                    label for="edit-reason" { "Why" }
                    input id="edit-reason" name="reason" type="text" required maxlength="500" autocomplete="off";
                    button type="submit" { "Show and edit" }
                }))
            }
        } @else { (editor(visit, which, &job.job.job)) }
    };
    let path = [(which.page(), "Job")];
    let title = format!("Edit the data of job {}", which.id);
    let head = Head::new(Section::Queues, &title).below(&path);
    Ok(frame::page(visit, &head, main))
}

fn editor(visit: &Visit, which: &Which, job: &JobView) -> Markup {
    let ended = matches!(job.state, JobState::Failed | JobState::Completed);
    let data = match serde_json::from_str::<&RawValue>(&job.data) {
        Ok(_) => show::editable(&job.data),
        Err(_) => job.data.clone(),
    };
    let content = html! {
        p {
            label for="new-data" { "Data, a JSON document" }
            // The first line break of a text area is not part of its value.
            textarea id="new-data" name="data" rows="20" spellcheck="false" autocomplete="off" required { "\n" (data) }
        }
        p {
            label class="check" { input type="checkbox" name="force" value="on"; "Also if it does not fit what the plugin declares (recorded)" }
        }
        p {
            label for="reason" { "Reason, for the record (no personal data)" }
            input id="reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        p { strong { "The present data is replaced. That cannot be undone." } }
        div class="actions" {
            @if ended { button type="submit" name="then" value="retry" class="primary" { "Save and retry" } }
            button type="submit" name="then" value="save" { "Save" }
            a class="button" href=(which.page()) { "Cancel" }
        }
    };
    frame::form(visit, &which.action("edit"), "stack card", content)
}

async fn edit(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    let back = |problem: Problem| problem.back(which.action("edit"));
    let data = RawValue::from_string(fields.raw("data").trim().to_owned()).map_err(|error| {
        let message = format!("Nothing was done: the data is no JSON: {error}");
        back(visit.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", message))
    })?;
    let force = Force {
        force: fields.is_on("force"),
    };
    let reason = fields.reason();
    let set = visit.destroy::<JobsSetData>(which.path(), force, AnyDocument(data), reason);
    set.await.map_err(back)?;
    if fields.raw("then") != "retry" {
        let notice = Notice::new(format!("The data of {} is replaced.", which.named()));
        return Ok(visit.done(&which.page(), &notice));
    }
    let retried = visit.change::<JobsRetry>(which.path(), NoQuery {}, NoBody, reason);
    retried.await.map_err(|mut problem| {
        problem.message = format!(
            "The data is replaced, but the job was not retried: {}",
            problem.message
        );
        problem.back(which.page())
    })?;
    let notice = Notice::new(format!(
        "The data of {} is replaced, and it is back in its queue.",
        which.named()
    ));
    Ok(visit.done(&which.page(), &notice))
}
