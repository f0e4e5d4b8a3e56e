//! Accounts of API clients: blocking, roles, and ending sessions.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::people::{
    Account, AccountDetails, AccountPath, PeopleBlock, PeopleEndSessions, PeopleList, PeopleQuery,
    PeopleSetRole, PeopleShow, PeopleUnblock, RoleChange,
};
use serde::Deserialize;

use super::operators::pages;
use super::parts::{older, with_reason};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("people/{{account}}{rest}"));
    router
        .route(&address(&["people"]), get(list).post(search))
        .route(&of(""), get(account))
        .route(&of("/block"), post(block))
        .route(&of("/unblock"), post(unblock))
        .route(&of("/end-sessions"), post(end_sessions))
        .route(&of("/role"), post(set_role))
}

fn path_of(id: &str) -> AccountPath {
    AccountPath {
        account: id.to_owned(),
    }
}

fn page_of(id: &str) -> String {
    address(&["people", id])
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    #[serde(default)]
    role: String,
    /// `blocked`; else all.
    #[serde(default)]
    only: String,
    #[serde(default)]
    cursor: Option<String>,
}

async fn list(visit: Visit, Query(which): Query<Which>) -> Result<Response, Problem> {
    found(&visit, "", &which).await
}

/// What is searched is personal: it is posted, and stands in no address.
async fn search(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which {
        role: fields.text("role").unwrap_or_default().to_owned(),
        only: fields.text("only").unwrap_or_default().to_owned(),
        cursor: fields.text("cursor").map(str::to_owned),
    };
    found(&visit, fields.raw("text").trim(), &which).await
}

async fn found(visit: &Visit, text: &str, which: &Which) -> Result<Response, Problem> {
    visit.require::<PeopleList>()?;
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let query = PeopleQuery {
        text: some(text),
        role: some(which.role.trim()),
        blocked: (which.only == "blocked").then_some(true),
        cursor: which.cursor.clone(),
        limit: Some(50),
    };
    let page = match visit.page::<PeopleList, Account>((), query).await {
        Ok(page) => page,
        Err(problem) if problem.code == "accounts-off" => {
            let main = html! {
                (pages(visit, "people"))
                (frame::empty("This host serves no accounts.", html! { "They are switched on in the configuration: " code { "people.enabled" } "." }))
            };
            return Ok(frame::page(
                visit,
                &Head::new(Section::People, "Accounts"),
                main,
            ));
        }
        Err(problem) => return Err(problem.back(address(&["people"]))),
    };
    let further = html! {
        @if let Some(cursor) = &page.next_cursor {
            @if text.is_empty() {
                (older(Some(address_with(&["people"], &[("role", &which.role), ("only", &which.only), ("cursor", cursor)])), "More"))
            } @else {
                (frame::button(visit, &address(&["people"]), "More", &[("text", text), ("role", &which.role), ("only", &which.only), ("cursor", cursor)]))
            }
        }
    };
    let main = html! {
        (pages(visit, "people"))
        (filter(visit, text, which))
        @if page.items.is_empty() { (frame::empty("No account matches.", html! { a href=(address(&["people"])) { "Show all accounts" } })) }
        @else { (table(&page.items)) }
        (further)
    };
    Ok(frame::page(
        visit,
        &Head::new(Section::People, "Accounts"),
        main,
    ))
}

fn filter(visit: &Visit, text: &str, which: &Which) -> Markup {
    let content = html! {
        label for="text" { "Address or name" }
        input id="text" name="text" type="search" value=(text) autocomplete="off" spellcheck="false" maxlength="254";
        label for="role" { "Role" }
        input id="role" name="role" type="text" value=(which.role) autocomplete="off" spellcheck="false" maxlength="40";
        label class="check" { input id="only" name="only" type="checkbox" value="blocked" checked[which.only == "blocked"]; " Blocked only" }
        button type="submit" { "Search" }
    };
    frame::form(visit, &address(&["people"]), "bar", content)
}

fn table(accounts: &[Account]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Accounts" {
            table class="rows" {
                thead { tr { th scope="col" { "Account" } th scope="col" { "Name" } th scope="col" { "Role" } th scope="col" { "State" } } }
                tbody {
                    @for one in accounts {
                        tr data-href=(page_of(&one.id)) {
                            th scope="row" { a href=(page_of(&one.id)) { (show::text(&one.email)) } br; span class="dim" { (show::text(&one.id)) } }
                            td { @match &one.name { Some(name) => { (show::short(name, 60)) } None => { (show::unknown()) } } }
                            td { (show::text(&one.role)) @if !one.has_known_role { " " (show::state("without rights")) } }
                            td { (state(one)) }
                        }
                    }
                }
            }
        }
    }
}

fn state(one: &Account) -> Markup {
    html! {
        @if one.is_blocked { (show::state("blocked")) }
        @else if !one.is_verified { (show::state("not verified")) }
        @else { (show::state("active")) }
    }
}

async fn account(visit: Visit, Path(id): Path<String>) -> Result<Response, Problem> {
    visit.require::<PeopleShow>()?;
    let id = unescaped(&id).to_owned();
    let details = visit.ask::<PeopleShow>(path_of(&id), NoQuery {}, NoBody);
    let details = details
        .await
        .map_err(|problem| problem.back(address(&["people"])))?;
    let main = html! {
        (facts(&visit, &details.account))
        (actions(&visit, &details.account))
        (sessions(&visit, &details))
    };
    let path = [(address(&["people"]), "Accounts")];
    let title = format!("Account {}", details.account.id);
    let head = Head::new(Section::People, &title).below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn facts(visit: &Visit, one: &Account) -> Markup {
    html! {
        dl class="facts" {
            dt { "State" } dd {
                (state(one))
                @if let Some(at) = one.blocked_at { " " (show::ago(at, visit.now())) }
                @if let Some(by) = &one.blocked_by { " by " (show::text(by)) }
                @if let Some(reason) = &one.block_reason { ": “" (show::text(reason)) "”" }
                @if one.is_blocked && one.blocked_at.is_none() { " by a column of its table" }
            }
            dt { "Mail" } dd { (show::text(&one.email)) @if !one.is_verified { " (not verified)" } }
            @if let Some(name) = &one.name { dt { "Name" } dd { (show::text(name)) } }
            dt { "Role" } dd { (show::text(&one.role)) @if !one.has_known_role { ": it is none of the ten roles, so the account has no rights" } }
            dt { "Signup" } dd { @match one.stage { 1 => { "signed up" } 2 => { "verified" } 3 => { "complete" } other => { (other) } } }
            dt { "Password" } dd { @if one.has_password { "set" } @else { "none" } }
        }
    }
}

fn actions(visit: &Visit, one: &Account) -> Markup {
    let action = |what: &str| address(&["people", &one.id, what]);
    let role = html! {
        label for="new-role" { "Role" }
        input id="new-role" name="role" type="text" required value=(one.role) autocomplete="off" spellcheck="false" maxlength="40";
        button type="submit" { "Set the role" }
    };
    html! {
        @if visit.may::<PeopleBlock>() && !one.is_blocked { (with_reason(visit, &action("block"), "block-reason", "Block", false)) }
        div class="actions" role="group" aria-label="Actions" {
            @if visit.may::<PeopleUnblock>() && one.is_blocked { (frame::button(visit, &action("unblock"), "Unblock", &[])) }
            @if visit.may::<PeopleEndSessions>() { (frame::button(visit, &action("end-sessions"), "End every session", &[])) }
        }
        @if visit.may::<PeopleSetRole>() { (frame::form(visit, &action("role"), "bar", role)) }
    }
}

fn sessions(visit: &Visit, details: &AccountDetails) -> Markup {
    html! {
        section aria-labelledby="sessions" {
            h2 id="sessions" { "Open sessions" }
            @if details.sessions.is_empty() { p class="dim" { "None." } }
            @else {
                div class="table" tabindex="0" role="group" aria-labelledby="sessions" {
                    table {
                        thead { tr { th scope="col" { "Began" } th scope="col" { "Last used" } th scope="col" { "By" } th scope="col" { "Where" } th scope="col" { "From" } } }
                        tbody {
                            @for session in &details.sessions {
                                tr {
                                    td { (show::ago(session.created_at, visit.now())) }
                                    td { (show::ago(session.last_seen_at, visit.now())) }
                                    td { (show::text(&session.method)) }
                                    td { (show::text(&session.platform)) }
                                    td { @match &session.address { Some(address) => { (show::text(address)) } None => { (show::unknown()) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn done(visit: &Visit, one: &Account, notice: Notice) -> Response {
    let notice = match one.already {
        true => Notice::new("Nothing has changed: it was so already."),
        false => notice,
    };
    visit.done(&page_of(&one.id), &notice)
}

async fn block(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let asked = visit.change::<PeopleBlock>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    let one = asked.await.map_err(|problem| problem.back(page_of(&id)))?;
    let notice = Notice::new("Blocked: its sessions have ended, and it cannot log in.")
        .undo("Unblock", address(&["people", &id, "unblock"]));
    Ok(done(&visit, &one, notice))
}

async fn unblock(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let asked = visit.change::<PeopleUnblock>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    let one = asked.await.map_err(|problem| problem.back(page_of(&id)))?;
    Ok(done(&visit, &one, Notice::new("It may log in again.")))
}

async fn end_sessions(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let asked =
        visit.change::<PeopleEndSessions>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    let ended = asked.await.map_err(|problem| problem.back(page_of(&id)))?;
    let notice = Notice::new(format!("Ended {}.", show::counted(ended.ended, "session")));
    Ok(visit.done(&page_of(&id), &notice))
}

async fn set_role(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let body = Json(RoleChange {
        role: fields.text("role").unwrap_or_default().to_owned(),
    });
    let asked = visit.change::<PeopleSetRole>(path_of(&id), NoQuery {}, body, fields.reason());
    let one = asked.await.map_err(|problem| problem.back(page_of(&id)))?;
    let notice = Notice::new(format!(
        "Its role is {} from its next request on.",
        one.role
    ));
    Ok(done(&visit, &one, notice))
}
