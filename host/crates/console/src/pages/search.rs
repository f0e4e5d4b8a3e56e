//! Finding jobs: in the history, or in Redis by their state; saved searches; comma-separated values.
//!
//! What is typed may be personal, so it is posted. Only what never names a person stands in an
//! address; everything else is found again by the name of a saved search.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::jobs::{QueuesLive, ScannedJob, SearchJobs};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::queues::QueuePath;
use patchbay_api::searches::{
    CountHistory, ExportHistory, Found, FoundAttempt, HistoryAttempts, HistoryCount, HistoryExport,
    NamedSearch, RunSearch, SavedSearch, SearchHistory, SearchPath, SearchesForget, SearchesList,
    SearchesRun, SearchesSave, SearchesUndo,
};
use patchbay_model::filter::Filter;

use super::queue::state_of;
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::qualifiers::{Pairs, Wanted, is_plain};
use crate::session::{PageOf, Problem, Visit};
use crate::{Site, show};

/// Results of one page.
const ROWS: &str = "50";

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&below_root("search"), get(by_address).post(by_form))
        .route(&below_root("search-csv"), post(csv))
        .route(&below_root("search-save"), post(save))
        .route(&below_root("saved-search/{name}"), get(run))
        .route(&below_root("saved-search/{name}/forget"), post(forget))
        .route(&below_root("saved-search/{name}/undo"), post(undo))
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

fn attempts(visit: &Visit, page: &PageOf<FoundAttempt>, label: &str) -> Markup {
    html! {
        @if page.items.is_empty() {
            (frame::empty("Nothing matches.", html! { "The history has finished attempts only, within its retention. For jobs that wait or run, add " code { "state:waiting queue:NAME" } "." }))
        } @else {
            div class="table" tabindex="0" role="group" aria-label=(label) {
                table class="rows stack" {
                    thead { tr { th scope="col" { "Job" } th scope="col" { "Name" } th scope="col" { "Ended" } th scope="col" { "Outcome" } th scope="col" { "Failure" } } }
                    tbody {
                        @for found in &page.items {
                            @let place = address(&["job", &found.queue, &found.job_id]);
                            tr data-href=(place) {
                                th scope="row" { a href=(place) { (show::text(&found.queue)) " " (show::short(&found.job_id, 40)) } }
                                td { (show::short(&found.attempt.name, 60)) }
                                td { (show::ago(found.attempt.finished_at, visit.now())) }
                                td { (show::state(&found.attempt.outcome)) " " span class="dim" { (show::text(&found.attempt.verdict)) } }
                                td class="message" {
                                    @if let Some(code) = &found.attempt.code { code { (show::text(code)) } " " }
                                    @if let Some(message) = &found.attempt.message { (show::short(message, 160)) }
                                    @if let Some(id) = found.dead_letter { " " a href=(address(&["dead-letters", &id.to_string()])) { "dead letters " (id) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn jobs(visit: &Visit, queue: &str, page: &PageOf<ScannedJob>) -> Markup {
    html! {
        @if page.items.is_empty() { (frame::empty("No job matches.", html! { "Jobs of another state are searched with another " code { "state:" } "." })) }
        @else {
            div class="table" tabindex="0" role="group" aria-label="Jobs" {
                table class="rows stack" {
                    thead { tr { th scope="col" { "Job" } th scope="col" { "Name" } th scope="col" { "State" } th scope="col" { "Added" } th scope="col" class="n" { "Attempts" } th scope="col" { "Failure" } } }
                    tbody {
                        @for job in &page.items {
                            @let place = address(&["job", queue, &job.id]);
                            tr data-href=(place) {
                                th scope="row" { a href=(place) { (show::text(queue)) " " (show::short(&job.id, 40)) } }
                                td { (show::short(&job.name, 60)) }
                                td { (show::state(&job.state.to_string())) }
                                td { (show::ago_ms(job.timestamp, visit.now())) }
                                td class="n" data-label="Attempts" { (job.attempts_made) }
                                td class="message" { @if let Some(reason) = &job.failed_reason { (show::short(reason, 160)) } }
                            }
                        }
                    }
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

fn saved_list(visit: &Visit, saved: Result<Vec<NamedSearch>, Problem>) -> Markup {
    html! {
        section aria-labelledby="saved" {
            h2 id="saved" { "Saved searches" }
            @match &saved {
                Err(problem) => { p { (show::state("warning")) " " (show::text(&problem.message)) } }
                Ok(saved) if saved.is_empty() => { p class="dim" { "None yet. A saved search has an address that can be passed on: it holds only its name." } }
                Ok(saved) => {
                    ul class="plain" {
                        @for search in saved {
                            li class="bar" {
                                a href=(address(&["saved-search", &search.name])) { (show::text(&search.name)) }
                                code { (show::short(&typed_of(search), 100)) }
                                span class="dim" { "by " (show::text(&search.changed_by)) }
                                @if visit.may::<SearchesForget>() { (frame::button(visit, &address(&["saved-search", &search.name, "forget"]), "Delete", &[])) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn typed_of(search: &NamedSearch) -> String {
    let mut wanted = Wanted {
        filter: search
            .filter
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        state: search.state.map(|state| state.to_string()),
        words: Vec::new(),
    };
    if let Some(ms) = search.since_ms {
        wanted
            .words
            .push(format!("(the last {})", show::length(ms)));
    }
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

async fn save(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["search"]));
    let refuse = |message: String| {
        back(visit.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", message))
    };
    let name = fields
        .text("name")
        .ok_or_else(|| refuse("Nothing was saved: the search needs a name".to_owned()))?;
    let wanted = Wanted::read(fields.raw("q"), visit.now());
    let state = match &wanted.state {
        Some(word) => Some(
            state_of(word)
                .ok_or_else(|| refuse(format!("Nothing was saved: {word} is no state of jobs")))?,
        ),
        None => None,
    };
    let filter = Filter::from_pairs(wanted.pairs()).map_err(|error| refuse(error.to_string()))?;
    let body = Json(SavedSearch {
        filter,
        state,
        since_ms: None,
        until_ms: None,
    });
    let path = SearchPath {
        name: name.to_owned(),
    };
    let saved = visit.change::<SearchesSave>(path, NoQuery {}, body, None);
    let saved = saved.await.map_err(back)?;
    let notice = Notice::new(format!("Saved as {}.", saved.name))
        .undo("Undo", address(&["saved-search", &saved.name, "undo"]));
    Ok(visit.done(&address(&["saved-search", &saved.name]), &notice))
}

async fn run(
    visit: Visit,
    Path(name): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let cursor = pairs.into_iter().find(|(key, _)| key == "cursor");
    let mut query = vec![("limit".to_owned(), ROWS.to_owned())];
    query.extend(cursor);
    let path = SearchPath { name: name.clone() };
    let (found, saved) = tokio::join!(
        visit.page::<SearchesRun, Found>(path, RunSearch(query)),
        visit.ask::<SearchesList>((), NoQuery {}, NoBody),
    );
    let found = found.map_err(|problem| problem.back(address(&["search"])))?;
    let saved = saved.unwrap_or_default();
    let known = saved.iter().find(|search| search.name == name);
    let queue = known
        .and_then(|search| search.filter.get("queue"))
        .cloned()
        .unwrap_or_default();
    let (mut history, mut live) = (Vec::new(), Vec::new());
    for one in found.items {
        match one {
            Found::Attempt(attempt) => history.push(*attempt),
            Found::Job(job) => live.push(job),
        }
    }
    let is_live = known.is_some_and(|search| search.state.is_some());
    let page = |items| PageOf {
        items,
        next_cursor: None,
        partial: false,
    };
    let main = html! {
        @if let Some(search) = known { p { code { (show::text(&typed_of(search))) } } }
        @if is_live {
            (jobs(&visit, &queue, &PageOf { items: live, next_cursor: None, partial: false }))
        } @else { (attempts(&visit, &page(history), "Attempts")) }
        @if found.partial { p { (show::state("warning")) " The search is not complete: its time was over before the page was full." } }
        @if let Some(cursor) = &found.next_cursor {
            nav class="pager" aria-label="Pages" { a href=(address_with(&["saved-search", &name], &[("cursor", cursor)])) { "More" } }
        }
    };
    let path = [(address(&["search"]), "Search")];
    let head = Head::new(Section::Search, &name).below(&path);
    Ok(frame::page(&visit, &head, main))
}

async fn forget(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name);
    let path = SearchPath {
        name: name.to_owned(),
    };
    let forgotten = visit.change::<SearchesForget>(path, NoQuery {}, NoBody, fields.reason());
    forgotten
        .await
        .map_err(|problem| problem.back(address(&["search"])))?;
    let notice = Notice::new(format!("Deleted the search {name}."))
        .undo("Undo", address(&["saved-search", name, "undo"]));
    Ok(visit.done(&address(&["search"]), &notice))
}

async fn undo(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let path = SearchPath { name: name.clone() };
    let undone = visit.change::<SearchesUndo>(path, NoQuery {}, NoBody, fields.reason());
    let undone = undone
        .await
        .map_err(|problem| problem.back(address(&["search"])))?;
    let text = match undone.0 {
        Some(_) => format!("The search {name} is as it was before."),
        None => format!("The search {name} is gone, as it was before."),
    };
    Ok(visit.done(&address(&["search"]), &Notice::new(text)))
}
