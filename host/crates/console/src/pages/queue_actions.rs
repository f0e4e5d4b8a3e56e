//! What is done to one whole queue: pausing, limits, emptying, removing.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::queues::{
    Clean, Concurrency, Drain, Obliterate, QueuesClean, QueuesConcurrency, QueuesDrain,
    QueuesObliterate, QueuesPause, QueuesRateLimit, QueuesResume, QueuesShow, Rate, Switched,
};
use patchbay_model::job::JobState;

use super::queue::{View, page_of, path_of, state_of};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::{Posted, whole};
use crate::form_token::Notice;
use crate::frame::{self, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("queue/{{queue}}{rest}"));
    router
        .route(&of("/pause"), post(pause))
        .route(&of("/resume"), post(resume))
        .route(&of("/limits"), post(set_limits))
        .route(&of("/drain"), get(ask_drain).post(drain))
        .route(&of("/clean"), get(ask_clean).post(clean))
        .route(&of("/obliterate"), get(ask_obliterate).post(obliterate))
}

fn switched(name: &str, done: &Switched, word: &str) -> Notice {
    match &done.already {
        None => Notice::new(format!("{name} is {word} now.")),
        Some(already) => {
            let by = already
                .by
                .as_ref()
                .map(|by| format!(", by {by}"))
                .unwrap_or_default();
            Notice::new(format!(
                "Nothing has changed: {name} was {word} already{by}."
            ))
        }
    }
}

async fn pause(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked = visit.change::<QueuesPause>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let done = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let undo = address(&["queue", &name, "resume"]);
    let notice = switched(&name, &done, "paused");
    let notice = match done.already {
        None => notice.undo("Resume", undo),
        Some(_) => notice,
    };
    Ok(visit.done(&page_of(&name), &notice))
}

async fn resume(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked = visit.change::<QueuesResume>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let done = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    Ok(visit.done(&page_of(&name), &switched(&name, &done, "running")))
}

async fn set_limits(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let max = whole(&visit, &fields, "limit", "Most jobs at a time").map_err(back)?;
    let rate = Rate {
        max: whole(&visit, &fields, "rate-jobs", "Jobs per period").map_err(back)?,
        per_ms: whole(&visit, &fields, "rate-ms", "Period").map_err(back)?,
    };
    let (path, reason) = (path_of(&name), fields.reason());
    let body = Json(Concurrency { max });
    let set = visit.change::<QueuesConcurrency>(path.clone(), NoQuery {}, body, reason);
    set.await.map_err(back)?;
    let set = visit.change::<QueuesRateLimit>(path, NoQuery {}, Json(rate), reason);
    set.await.map_err(|mut problem| {
        problem.message = format!(
            "The limit of jobs at a time was set. The rate was not: {}",
            problem.message
        );
        back(problem)
    })?;
    let notice = Notice::new(format!("The limits of {name} are set."));
    Ok(visit.done(&page_of(&name), &notice))
}

fn checkbox(name: &str, label: &str, is_on: bool) -> Markup {
    html! {
        p { label class="check" { input type="checkbox" name=(name) value="on" checked[is_on]; (label) } }
    }
}

async fn ask_drain(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    drain_page(&visit, unescaped(&name), false, None).await
}

async fn drain_page(
    visit: &Visit,
    name: &str,
    delayed: bool,
    refused: Option<&str>,
) -> Result<Response, Problem> {
    let counted = |delayed| {
        let body = Json(Drain {
            delayed,
            dry_run: true,
        });
        visit.ask::<QueuesDrain>(path_of(name), NoQuery {}, body)
    };
    let (waiting, all) = tokio::join!(counted(false), counted(true));
    let back = page_of(name);
    let (waiting, all) = (
        waiting.map_err(|problem| problem.back(back.clone()))?,
        all.map_err(|problem| problem.back(back.clone()))?,
    );
    let about = html! {
        p { (show::counted(waiting.count, "job")) " of " strong { (show::text(name)) } " wait. With the delayed ones: " (show::number(all.count)) "." }
        p { "To be able to undo it, use "
            a href=(address_with(&["bulk-new"], &[("kind", "remove"), ("queue", name), ("state", "waiting")])) { "a bulk removal" } " instead." }
    };
    let confirm = Confirm {
        section: Section::Queues,
        title: "Remove the waiting jobs",
        operation: const { &QueuesDrain::OPERATION },
        name,
        about,
        fields: checkbox(
            "delayed",
            "Also the delayed jobs, except those of schedules",
            delayed,
        ),
        action: &address(&["queue", name, "drain"]),
        back: &back,
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

const NOT_TYPED: &str = "Nothing was done: the name that was typed is another one.";

async fn drain(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let delayed = fields.is_on("delayed");
    if !is_typed(&fields, &name) {
        return drain_page(&visit, &name, delayed, Some(NOT_TYPED)).await;
    }
    let body = Json(Drain {
        delayed,
        dry_run: false,
    });
    let asked = visit.destroy::<QueuesDrain>(path_of(&name), NoQuery {}, body, fields.reason());
    let done = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let notice = Notice::new(format!(
        "Removed {} of {name}.",
        show::counted(done.count, "job")
    ));
    Ok(visit.done(&page_of(&name), &notice))
}

async fn ask_clean(
    visit: Visit,
    Path(name): Path<String>,
    Query(view): Query<View>,
) -> Result<Response, Problem> {
    let state = state_of(&view.state).unwrap_or(JobState::Failed);
    clean_page(&visit, unescaped(&name), state, None).await
}

async fn clean_page(
    visit: &Visit,
    name: &str,
    state: JobState,
    refused: Option<&str>,
) -> Result<Response, Problem> {
    let back = address_with(&["queue", name], &[("state", &state.to_string())]);
    let body = Json(Clean {
        state,
        older_than_ms: 0,
        limit: None,
        dry_run: true,
    });
    let counted = visit.ask::<QueuesClean>(path_of(name), NoQuery {}, body);
    let counted = counted
        .await
        .map_err(|problem| problem.back(back.clone()))?;
    let about = html! {
        p { "At most " strong { (show::counted(counted.count, "job")) } " in the state " (show::state(&state.to_string())) " of " strong { (show::text(name)) } ", the oldest first; 10 000 at a time." }
        p { "To be able to undo it, use "
            a href=(address_with(&["bulk-new"], &[("kind", "remove"), ("queue", name), ("state", &state.to_string())])) { "a bulk removal" } " instead." }
    };
    let fields = html! {
        input type="hidden" name="state" value=(state);
        p {
            label for="older" { "Only those older than, in hours (0: all)" }
            input id="older" name="older" type="number" min="0" max="100000" value="0";
        }
    };
    let confirm = Confirm {
        section: Section::Queues,
        title: "Clean for good",
        operation: const { &QueuesClean::OPERATION },
        name,
        about,
        fields,
        action: &address(&["queue", name, "clean"]),
        back: &back,
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

async fn clean(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let Some(state) = state_of(fields.raw("state")) else {
        let message = "Nothing was done: the form names no state of jobs";
        return Err(back(visit.problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-input",
            message,
        )));
    };
    if !is_typed(&fields, &name) {
        return clean_page(&visit, &name, state, Some(NOT_TYPED)).await;
    }
    let hours: u64 = whole(&visit, &fields, "older", "Older than")
        .map_err(back)?
        .unwrap_or(0);
    let body = Json(Clean {
        state,
        older_than_ms: hours.saturating_mul(3_600_000),
        limit: None,
        dry_run: false,
    });
    let asked = visit.destroy::<QueuesClean>(path_of(&name), NoQuery {}, body, fields.reason());
    let done = asked.await.map_err(back)?;
    let notice = Notice::new(format!(
        "Removed {} in the state {state} of {name}.",
        show::counted(done.count, "job")
    ));
    Ok(visit.done(&page_of(&name), &notice))
}

async fn ask_obliterate(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    visit.require::<QueuesObliterate>()?;
    obliterate_page(&visit, unescaped(&name), None).await
}

async fn obliterate_page(
    visit: &Visit,
    name: &str,
    refused: Option<&str>,
) -> Result<Response, Problem> {
    let back = page_of(name);
    let queue = visit.ask::<QueuesShow>(path_of(name), NoQuery {}, NoBody);
    let queue = queue.await.map_err(|problem| problem.back(back.clone()))?;
    let about = html! {
        p { strong { (show::counted(queue.overview.counts.total(), "job")) } " of " strong { (show::text(name)) } " in all states. Its history is kept." }
    };
    let confirm = Confirm {
        section: Section::Queues,
        title: "Remove the whole queue",
        operation: const { &QueuesObliterate::OPERATION },
        name,
        about,
        fields: frame::nothing(),
        action: &address(&["queue", name, "obliterate"]),
        back: &back,
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

async fn obliterate(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    if !is_typed(&fields, &name) {
        return obliterate_page(&visit, &name, Some(NOT_TYPED)).await;
    }
    let body = Json(Obliterate {
        confirm: Some(name.clone()),
    });
    let asked =
        visit.destroy::<QueuesObliterate>(path_of(&name), NoQuery {}, body, fields.reason());
    let done = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let notice = Notice::new(format!(
        "Removed the queue {name} with {}.",
        show::counted(done.count, "job")
    ));
    Ok(visit.done(&address(&["queues"]), &notice))
}
