//! Bulk operations: what one would do, its progress, cancelling and undoing.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::bulk::{
    Bulk, BulkBegin, BulkCancel, BulkDetails, BulkItem, BulkItems, BulkList, BulkPath, BulkResume,
    BulkShow, BulkUndo, ListBulkItems, ListBulks, ResumeBulk,
};
use patchbay_api::operation::NoQuery;
use serde::Deserialize;

use crate::entry::{Posted, whole};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("bulk/{{id}}{rest}"));
    router
        .route(&below_root("bulk"), get(list))
        .route(&of(""), get(operation))
        .route(&of("/cancel"), post(cancel))
        .route(&of("/resume"), post(resume))
        .route(&of("/undo"), post(undo))
}

pub(crate) fn page_of(id: i64) -> String {
    address(&["bulk", &id.to_string()])
}

#[derive(Debug, Default, Deserialize)]
struct Paged {
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    state: Option<String>,
}

/// The filter as somebody would type it.
fn filter(bulk: &Bulk) -> String {
    let pairs: Vec<String> = bulk
        .filter
        .iter()
        .map(|(name, value)| format!("{name}:{value}"))
        .collect();
    match pairs.is_empty() {
        true => "every job".to_owned(),
        false => pairs.join(" "),
    }
}

/// What an operation does, in words.
pub(crate) fn kind(word: &str) -> &str {
    match word {
        "retry" => "Retry",
        "remove" => "Remove",
        "enqueue-again" => "Run again",
        "edit-and-retry" => "Edit and retry",
        other => other,
    }
}

async fn list(visit: Visit, Query(paged): Query<Paged>) -> Result<Response, Problem> {
    let query = ListBulks {
        cursor: paged.cursor,
        limit: Some(50),
    };
    let page = visit.page::<BulkList, Bulk>((), query).await;
    let page = page.map_err(|problem| problem.back(address(&["bulk"])))?;
    let main = html! {
        @if visit.may::<BulkBegin>() { div class="actions" { a class="button" href=(address(&["bulk-new"])) { "New bulk operation" } } }
        div id="bulks" data-live {
            @if page.items.is_empty() {
                (frame::empty("No bulk operation yet.", html! { "One begins from a queue, a group of dead letters or a search: it shows first what it would do, and can stop after the first jobs." }))
            } @else {
                div class="table" tabindex="0" role="group" aria-label="Bulk operations" {
                    table class="rows stack" {
                        thead { tr { th scope="col" { "Operation" } th scope="col" { "Jobs" } th scope="col" { "State" } th scope="col" class="n" { "Done" } th scope="col" class="n" { "Skipped" } th scope="col" class="n" { "Failed" } th scope="col" { "By" } } }
                        tbody { @for bulk in &page.items { (row(&visit, bulk)) } }
                    }
                }
                @if let Some(cursor) = &page.next_cursor { nav class="pager" aria-label="Pages" { a href=(address_with(&["bulk"], &[("cursor", cursor)])) { "Older" } } }
            }
        }
    };
    let head = Head::new(Section::Bulk, "Bulk operations").live();
    Ok(frame::page(&visit, &head, main))
}

fn row(visit: &Visit, bulk: &Bulk) -> Markup {
    html! {
        tr data-href=(page_of(bulk.id)) {
            th scope="row" { a href=(page_of(bulk.id)) { (bulk.id) " " (kind(&bulk.kind)) } }
            td class="message" { (bulk.job_state) " · " (show::short(&filter(bulk), 100)) }
            td { (show::state(&bulk.state)) }
            td class="n" data-label="Done" { (show::number(bulk.done)) " of " (show::number(bulk.matched)) }
            td class="n" data-label="Skipped" { (show::number(bulk.skipped)) }
            td class="n" data-label="Failed" { (show::number(bulk.failed)) }
            td { (show::text(&bulk.actor)) " " (show::ago(bulk.created_at, visit.now())) }
        }
    }
}

async fn operation(
    visit: Visit,
    Path(id): Path<i64>,
    Query(paged): Query<Paged>,
) -> Result<Response, Problem> {
    let items = ListBulkItems {
        state: paged.state.clone().filter(|state| !state.is_empty()),
        cursor: paged.cursor,
        limit: Some(50),
    };
    let (details, items) = tokio::join!(
        visit.ask::<BulkShow>(BulkPath { id }, NoQuery {}, NoBody),
        visit.page::<BulkItems, BulkItem>(BulkPath { id }, items),
    );
    let back = |problem: Problem| problem.back(address(&["bulk"]));
    let (details, items) = (details.map_err(back)?, items.map_err(back)?);
    let main = html! {
        div id="operation" data-live {
            (standing(&visit, &details))
            (actions(&visit, &details))
            (left(&details))
            section aria-labelledby="items" {
                h2 id="items" { "Jobs" }
                @if items.items.is_empty() { p class="dim" { "No job yet." } }
                @else { (item_table(&items.items)) }
                @if let Some(cursor) = &items.next_cursor {
                    nav class="pager" aria-label="Pages" { a href=(address_with(&["bulk", &id.to_string()], &[("cursor", cursor), ("state", paged.state.as_deref().unwrap_or_default())])) { "More jobs" } }
                }
            }
        }
    };
    let path = [(address(&["bulk"]), "Bulk operations")];
    let title = format!("Bulk operation {id}: {}", kind(&details.bulk.kind));
    let head = Head::new(Section::Bulk, &title).below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

fn standing(visit: &Visit, details: &BulkDetails) -> Markup {
    let bulk = &details.bulk;
    let handled = bulk.done + bulk.skipped + bulk.failed;
    let share = match bulk.matched {
        0 => 0,
        matched => (handled * 100 / matched).clamp(0, 100),
    };
    html! {
        p { (show::state(&bulk.state)) " " (show::number(handled)) " of " (show::counted(bulk.matched, "job")) " handled" }
        svg class="meter" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label={ (share) " percent handled" } {
            rect class="all" x="0" y="0" width="100" height="4" {}
            rect class="part" x="0" y="0" width=(share) height="4" {}
        }
        @if let Some(error) = &bulk.error { section class="wrong bad" aria-label="Why it does not go on" { p { (show::text(error)) } } }
        dl class="facts" {
            dt { "Done" } dd { (show::number(bulk.done)) }
            dt { "Skipped" } dd { (show::number(bulk.skipped)) }
            dt { "Failed" } dd { (show::number(bulk.failed)) }
            @if bulk.restored > 0 { dt { "Put back" } dd { (show::number(bulk.restored)) } }
            dt { "Jobs" } dd { (bulk.job_state) ", " @if bulk.source == "history" { "in the history, " } (show::text(&filter(bulk))) }
            @if let Some(first) = bulk.stop_after { dt { "Pauses after" } dd { (show::counted(first, "job")) } }
            dt { "Begun" } dd { "by " (show::text(&bulk.actor)) " " (show::ago(bulk.created_at, visit.now())) @if let Some(reason) = &bulk.reason { ": “" (show::text(reason)) "”" } }
            @if let Some(at) = bulk.ended_at { dt { "Ended" } dd { (show::ago(at, visit.now())) } }
            @if let Some(until) = bulk.undo_until { dt { "Can be undone" } dd { "until " (show::moment(until)) } }
            @if let Some(nothing) = &details.nothing_to_undo { dt { "Undo" } dd { (show::text(nothing)) } }
        }
    }
}

fn actions(visit: &Visit, details: &BulkDetails) -> Markup {
    let bulk = &details.bulk;
    let id = bulk.id.to_string();
    let action = |what: &str| address(&["bulk", &id, what]);
    let is_open = ["matching", "running", "paused"].contains(&bulk.state.as_str());
    let can_undo = bulk.undo_until.is_some_and(|until| until > visit.now())
        && details.nothing_to_undo.is_none()
        && !is_open;
    html! {
        @if visit.may::<BulkCancel>() {
            div class="actions" role="group" aria-label="Actions" {
                @if bulk.state == "paused" {
                    (frame::button(visit, &action("resume"), "Go on with the rest", &[]))
                    (frame::button(visit, &action("resume"), "Go on with 10 more", &[("first", "10")]))
                }
                @if is_open { (frame::button(visit, &action("cancel"), "Cancel: the rest stays as it is", &[])) }
                @if can_undo { (frame::button(visit, &action("undo"), "Undo", &[])) }
            }
        }
    }
}

/// Why jobs were left as they were.
fn left(details: &BulkDetails) -> Markup {
    html! {
        @if !details.reasons.is_empty() {
            section aria-labelledby="left" {
                h2 id="left" { "Why some jobs were not changed" }
                ul { @for reason in &details.reasons { li { (show::state(&reason.state)) " " (show::counted(reason.jobs, "job")) ": " (show::text(&reason.reason)) } } }
            }
        }
    }
}

fn item_table(items: &[BulkItem]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-labelledby="items" {
            table class="rows stack" {
                thead { tr { th scope="col" class="n" { "No." } th scope="col" { "Job" } th scope="col" { "Was" } th scope="col" { "Result" } th scope="col" { "Why" } } }
                tbody {
                    @for item in items {
                        @let place = address(&["job", &item.queue, &item.job_id]);
                        tr data-href=(place) {
                            td class="n" { (show::number(item.n)) }
                            th scope="row" { a href=(place) { (show::text(&item.queue)) " " (show::short(&item.job_id, 40)) } }
                            td { (show::text(&item.job_state)) }
                            td { (show::state(&item.state)) @if let Some(id) = &item.new_id { " as " a href=(address(&["job", &item.queue, id])) { (show::short(id, 40)) } } }
                            td class="message" { @if let Some(reason) = &item.reason { (show::text(reason)) } }
                        }
                    }
                }
            }
        }
    }
}

async fn cancel(
    Path(id): Path<i64>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let asked = visit.change::<BulkCancel>(BulkPath { id }, NoQuery {}, NoBody, fields.reason());
    asked.await.map_err(|problem| problem.back(page_of(id)))?;
    let notice = Notice::new("Cancelled. What was already done to jobs is kept.");
    Ok(visit.done(&page_of(id), &notice))
}

async fn resume(
    Path(id): Path<i64>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(page_of(id));
    let first = whole(&visit, &fields, "first", "First jobs").map_err(back)?;
    let body = Json(ResumeBulk { first });
    let asked = visit.change::<BulkResume>(BulkPath { id }, NoQuery {}, body, fields.reason());
    asked.await.map_err(back)?;
    Ok(visit.done(&page_of(id), &Notice::new("It goes on.")))
}

async fn undo(Path(id): Path<i64>, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let asked = visit.change::<BulkUndo>(BulkPath { id }, NoQuery {}, NoBody, fields.reason());
    asked.await.map_err(|problem| problem.back(page_of(id)))?;
    let notice = Notice::new("It is being undone.");
    Ok(visit.done(&page_of(id), &notice))
}
