//! Finding jobs: in the history, or in Redis by their state; saved searches; comma-separated values.
//!
//! What is typed may be personal, so it is posted. Only what never names a person stands in an
//! address; everything else is found again by the name of a saved search.

use axum::Router;
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use maud::{Markup, html};
use patchbay_api::body::NoBody;
use patchbay_api::jobs::{QueuesLive, ScannedJob, SearchJobs};
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::QueuePath;
use patchbay_api::searches::{
    CountHistory, ExportHistory, FoundAttempt, HistoryAttempts, HistoryCount, HistoryExport,
    SearchHistory, SearchesList, SearchesSave,
};

use super::found::{ROWS, attempts, jobs};
use super::saved_searches::saved_list;
use crate::entry::Posted;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::qualifiers::{Pairs, Wanted, is_plain};
use crate::session::{PageOf, Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&below_root("search"), get(by_address).post(by_form))
        .route(&below_root("search-csv"), post(csv))
}

/// What was found.
enum Results {
    Attempts(PageOf<FoundAttempt>),
    Jobs(String, PageOf<ScannedJob>),
    /// Of one word: jobs with this id, and failures with it in their message.
    Both(PageOf<FoundAttempt>, Option<PageOf<FoundAttempt>>),
}

async fn by_address(visit: Visit, Query(pairs): Query<Pairs>) -> Result<Response, Problem> {
    let mut wanted = Wanted::default();
    for (name, value) in pairs
        .iter()
        .filter(|(name, value)| is_plain(name) && !value.is_empty())
    {
        wanted.add(name, value, visit.now());
    }
    let cursor = pairs.iter().find(|(name, _)| name == "cursor");
    let cursor = cursor.map(|(_, cursor)| cursor.as_str());
    respond(&visit, &wanted, cursor).await
}

async fn by_form(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let wanted = Wanted::read(fields.raw("q"), visit.now());
    if wanted.is_plain() && fields.text("cursor").is_none() {
        return Ok(frame::sent_on(&link(&wanted, None)));
    }
    respond(&visit, &wanted, fields.text("cursor")).await
}

/// The address of a search that holds nothing personal.
fn link(wanted: &Wanted, cursor: Option<&str>) -> String {
    let mut pairs: Vec<(&str, &str)> = wanted
        .filter
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    pairs.extend(wanted.state.iter().map(|state| ("state", state.as_str())));
    pairs.extend(cursor.map(|cursor| ("cursor", cursor)));
    address_with(&["search"], &pairs)
}

async fn find(visit: &Visit, wanted: &Wanted, cursor: Option<&str>) -> Result<Results, Problem> {
    let paged = |mut pairs: Pairs| {
        pairs.push(("limit".to_owned(), ROWS.to_owned()));
        pairs.extend(cursor.map(|cursor| ("cursor".to_owned(), cursor.to_owned())));
        pairs
    };
    if let Some(state) = &wanted.state {
        let queue = wanted.value("queue").map(str::to_owned).ok_or_else(|| {
            let message = "Jobs in Redis are searched queue by queue: add queue:NAME, or leave out state: to search the history of all queues";
            visit.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", message)
        })?;
        let mut pairs = wanted.pairs();
        pairs.retain(|(name, _)| name != "queue");
        pairs.push(("state".to_owned(), state.clone()));
        let path = QueuePath {
            queue: queue.clone(),
        };
        let found = visit.page::<QueuesLive, ScannedJob>(path, SearchJobs(paged(pairs)));
        return Ok(Results::Jobs(queue, found.await?));
    }
    let history =
        |pairs| visit.page::<HistoryAttempts, FoundAttempt>((), SearchHistory(paged(pairs)));
    let is_one_word = wanted.filter.is_empty() && wanted.words.len() == 1 && cursor.is_none();
    if is_one_word {
        let word = &wanted.words[0];
        let (by_id, by_text) = tokio::join!(
            history(vec![("job".to_owned(), word.clone())]),
            history(vec![("text".to_owned(), word.clone())]),
        );
        // Whoever may not see data cannot search messages.
        return match (by_id, by_text) {
            (Ok(by_id), by_text) => Ok(Results::Both(by_id, by_text.ok())),
            (Err(_), Ok(by_text)) => Ok(Results::Attempts(by_text)),
            (Err(problem), Err(_)) => Err(problem),
        };
    }
    Ok(Results::Attempts(history(wanted.pairs()).await?))
}

async fn respond(
    visit: &Visit,
    wanted: &Wanted,
    cursor: Option<&str>,
) -> Result<Response, Problem> {
    let found = match wanted.is_empty() {
        true => None,
        false => Some(find(visit, wanted, cursor).await),
    };
    let saved = visit.ask::<SearchesList>((), NoQuery {}, NoBody).await;
    let (found, problem) = match found {
        Some(Ok(found)) => (Some(found), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    let main = html! {
        (question(visit, wanted))
        @if let Some(problem) = &problem {
            div class="problem" role="alert" { p { (show::text(&problem.message)) } p class="dim" { "Code " code { (show::text(&problem.code)) } } }
        }
        @if let Some(found) = &found {
            (results(visit, wanted, found))
            (keep(visit, wanted))
        }
        (saved_list(visit, saved))
        @if found.is_none() { (help()) }
    };
    let mut response = frame::page(visit, &Head::new(Section::Search, "Search"), main);
    if let Some(problem) = problem {
        *response.status_mut() = problem.status;
    }
    Ok(response)
}

fn question(visit: &Visit, wanted: &Wanted) -> Markup {
    let content = html! {
        label for="q" { "Find" }
        input id="q" name="q" type="search" value=(wanted.typed()) autocomplete="off" spellcheck="false" class="long"
            placeholder="queue:emailQueue outcome:failed since:2h";
        button type="submit" class="primary" { "Search" }
    };
    let quick = [
        ("Failed in the last hour", "verdict:fail since:1h"),
        ("Crashed today", "outcome:trapped since:24h"),
        ("Too slow today", "outcome:deadline since:24h"),
    ];
    html! {
        (frame::form(visit, &address(&["search"]), "bar", content))
        div class="actions" role="group" aria-label="Common searches" {
            @for (label, typed) in quick { (frame::button(visit, &address(&["search"]), label, &[("q", typed)])) }
        }
    }
}

fn results(visit: &Visit, wanted: &Wanted, found: &Results) -> Markup {
    html! {
        section aria-labelledby="found" {
            h2 id="found" { "Found" }
            @match found {
                Results::Attempts(page) => { (attempts(visit, page, "Attempts")) (more(visit, wanted, page.next_cursor.as_deref(), page.partial)) }
                Results::Jobs(queue, page) => { (jobs(visit, queue, page)) (more(visit, wanted, page.next_cursor.as_deref(), page.partial)) }
                Results::Both(by_id, by_text) => {
                    @if !by_id.items.is_empty() { h3 { "Jobs with this id" } (attempts(visit, by_id, "Jobs with this id")) }
                    @match by_text {
                        Some(page) => {
                            h3 { "Failures with this in their message" }
                            (attempts(visit, page, "Failures with this in their message"))
                            @if page.next_cursor.is_some() { p { "There are more: write " code { "text:…" } " to page through them." } }
                        }
                        None => { p class="dim" { "Messages were not searched: you may not see data of jobs." } }
                    }
                    @if by_id.items.is_empty() { p class="dim" { "No job has this id in the history. A job that has not ended yet is on the page of its queue." } }
                }
            }
        }
    }
}

/// The way to the next page, and whether the search has seen everything.
fn more(visit: &Visit, wanted: &Wanted, next: Option<&str>, partial: bool) -> Markup {
    html! {
        @if partial { p { (show::state("warning")) " The search is not complete: its time was over before the page was full. Go on to see the rest." } }
        @if let Some(cursor) = next {
            nav class="pager" aria-label="Pages" {
                @if wanted.is_plain() { a href=(link(wanted, Some(cursor))) { "More" } }
                @else { (frame::button(visit, &address(&["search"]), "More", &[("q", &wanted.typed()), ("cursor", cursor)])) }
            }
        }
    }
}

/// What can be done with the result: save it, count it, export it, do something to all of it.
fn keep(visit: &Visit, wanted: &Wanted) -> Markup {
    let typed = wanted.typed();
    let save = html! {
        input type="hidden" name="q" value=(typed);
        label for="save-name" { "Save as" }
        input id="save-name" name="name" type="text" required maxlength="100" autocomplete="off";
        button type="submit" { "Save" }
    };
    html! {
        section class="card" aria-label="With this search" {
            @if visit.may::<SearchesSave>() { (frame::form(visit, &address(&["search-save"]), "bar", save)) }
            @if wanted.state.is_none() {
                div class="actions" {
                    (frame::button(visit, &address(&["search-csv"]), "Comma-separated values (recorded)", &[("q", &typed)]))
                    (frame::button(visit, &address(&["search-csv"]), "Count", &[("q", &typed), ("count", "on")]))
                }
            }
            @if visit.may::<patchbay_api::bulk::BulkBegin>() && wanted.words.is_empty() {
                (frame::button(visit, &address(&["bulk-new"]), "Do something to all of them", &[
                    ("jobs", &typed_without_state(wanted)), ("state", wanted.state.as_deref().unwrap_or("failed")), ("kind", "retry"),
                    ("source", if wanted.state.is_some() { "live" } else { "history" })]))
            }
        }
    }
}

fn typed_without_state(wanted: &Wanted) -> String {
    let mut wanted = wanted.clone();
    wanted.state = None;
    wanted.typed()
}

fn help() -> Markup {
    let rows = [
        ("queue:emailQueue", "of this queue"),
        ("job:42", "with this id"),
        ("name:send", "with this name"),
        (
            "outcome:failed",
            "completed, failed, trapped, deadline, memory-limit, invalid-result or host-fault",
        ),
        (
            "verdict:fail",
            "what was done then: complete, retry, defer or fail (for good)",
        ),
        ("code:smtp-451", "with this error code"),
        (
            "text:\"connection refused\"",
            "with this in the message of the failure",
        ),
        (
            "data.to:ann@example.org",
            "with this value in the data, where a manifest declares the path searchable",
        ),
        (
            "since:2h until:1h",
            "that ended in this time; also from: and to: with a time",
        ),
        (
            "plugin:email revision:1a2b",
            "of this plugin, of this revision",
        ),
        ("correlation-id:…", "of one request"),
        (
            "state:waiting queue:emailQueue",
            "jobs in Redis in this state, instead of the history",
        ),
    ];
    html! {
        section aria-labelledby="how" {
            h2 id="how" { "What can be typed" }
            div class="table" tabindex="0" role="group" aria-labelledby="how" {
                table {
                    thead { tr { th scope="col" { "Typed" } th scope="col" { "Finds jobs" } } }
                    tbody { @for (typed, what) in rows { tr { td { code { (typed) } } td { (what) } } } }
                }
            }
            p class="dim" { "One word alone is looked for as an id and in messages of failures." }
        }
    }
}

async fn csv(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let wanted = Wanted::read(fields.raw("q"), visit.now());
    let mut pairs = wanted.pairs();
    let back = |problem: Problem| problem.back(address(&["search"]));
    if fields.is_on("count") {
        let count = visit.ask::<HistoryCount>((), CountHistory(pairs), NoBody);
        let count = count.await.map_err(back)?;
        let least = if count.exact { "" } else { "at least " };
        let main = html! {
            (question(&visit, &wanted))
            p class="figure" { (least) (show::counted(count.jobs, "job")) ", " (show::counted(count.attempts, "attempt")) }
            @if let Some(estimate) = count.estimate { p class="dim" { "Postgres estimates " (show::counted(estimate, "attempt")) "." } }
        };
        return Ok(frame::page(
            &visit,
            &Head::new(Section::Search, "Search"),
            main,
        ));
    }
    pairs.push(("format".to_owned(), "csv".to_owned()));
    let file = visit.file::<HistoryExport, _>((), ExportHistory(pairs));
    let file = file.await.map_err(back)?;
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8"),
        (CONTENT_DISPOSITION, "attachment; filename=\"attempts.csv\""),
    ];
    Ok((headers, file).into_response())
}
