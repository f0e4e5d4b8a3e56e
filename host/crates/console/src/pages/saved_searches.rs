//! Searches under a name: listing, saving, running, deleting, undoing.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::searches::{
    Found, NamedSearch, RunSearch, SavedSearch, SearchPath, SearchesForget, SearchesList,
    SearchesRun, SearchesSave, SearchesUndo,
};
use patchbay_model::filter::Filter;

use super::found::{ROWS, attempts, jobs};
use super::queue::state_of;
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::qualifiers::{Pairs, Wanted};
use crate::session::{PageOf, Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&below_root("search-save"), post(save))
        .route(&below_root("saved-search/{name}"), get(run))
        .route(&below_root("saved-search/{name}/forget"), post(forget))
        .route(&below_root("saved-search/{name}/undo"), post(undo))
}

pub(super) fn saved_list(visit: &Visit, saved: Result<Vec<NamedSearch>, Problem>) -> Markup {
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
