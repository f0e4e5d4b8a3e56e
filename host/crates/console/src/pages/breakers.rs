//! Breakers: which outside hosts plugins reach, and opening and closing the way to one.

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::Json;
use patchbay_api::breakers::{
    BreakerOrder, BreakerView, BreakersClose, BreakersList, BreakersOpen,
};
use patchbay_api::operation::NoQuery;

use super::parts::{ago_of, refused};
use crate::entry::{Fields, Posted};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["breakers"]), get(list))
        .route(&address(&["breakers", "open"]), post(open))
        .route(&address(&["breakers", "close"]), post(close))
}

async fn list(visit: Visit) -> Result<Response, Problem> {
    let mut breakers = visit.ask_shared::<BreakersList>((), NoQuery {}).await?;
    breakers.sort_by_key(BreakerView::is_closed);
    let closed = breakers
        .iter()
        .filter(|breaker| breaker.is_closed())
        .count();
    let main = html! {
        p { "While a breaker is open, calls to its host are refused at once, and jobs that need it wait without using up attempts." }
        div id="breakers" data-live {
            @if breakers.is_empty() { (frame::empty("No active plugin names an outside host.", html! { "A breaker stands here for each host that a plugin's manifest lets it reach." })) }
            @else {
                p class="dim" { (show::number(closed as u64)) " of " (show::counted(breakers.len() as u64, "breaker")) " closed, as the host that answers has them." }
                (table(&visit, &breakers))
            }
        }
        @if visit.may::<BreakersOpen>() && closed > 0 { (opener(&visit, &breakers)) }
    };
    let path = [(address(&["plugins"]), "Plugins")];
    let head = Head::new(Section::Plugins, "Breakers").below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

/// Both names in one field of a form.
fn both(breaker: &BreakerView) -> String {
    format!("{} {}", breaker.plugin, breaker.host)
}

fn opener(visit: &Visit, breakers: &[BreakerView]) -> Markup {
    let content = html! {
        label for="breaker" { "Host" }
        select id="breaker" name="breaker" {
            @for breaker in breakers.iter().filter(|breaker| breaker.is_closed()) {
                option value=(both(breaker)) { (breaker.plugin.as_str()) ": " (show::plain(&breaker.host)) }
            }
        }
        label for="open-reason" { "Reason" }
        input id="open-reason" name="reason" type="text" required maxlength="500" autocomplete="off" placeholder="for the next operator";
        button type="submit" { "Open: refuse calls" }
    };
    html! {
        details class="card" {
            summary { "Keep calls from a host" }
            p { "Until an operator closes it again. Nothing is lost: jobs that need the host wait." }
            (frame::form(visit, &address(&["breakers", "open"]), "bar", content))
        }
    }
}

/// The breakers of this list, with what can be done to those that are not closed.
pub(crate) fn table(visit: &Visit, breakers: &[BreakerView]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Breakers" {
            table {
                thead { tr {
                    th scope="col" { "Outside host" }
                    th scope="col" { "State" }
                    th scope="col" class="n" { "Failures" }
                    th scope="col" class="n" { "Opened" }
                    th scope="col" class="n" { "Jobs deferred" }
                    @if visit.may::<BreakersClose>() { th scope="col" { "Change" } }
                } }
                tbody { @for breaker in breakers { (row(visit, breaker)) } }
            }
        }
    }
}

fn row(visit: &Visit, breaker: &BreakerView) -> Markup {
    html! {
        tr {
            th scope="row" { code { (show::text(&breaker.host)) } br; a href=(address(&["plugin", breaker.plugin.as_str()])) { (breaker.plugin.as_str()) } }
            td class="message" {
                (show::state(&breaker.state))
                @if !breaker.is_closed() {
                    @if let Some(opened) = &breaker.opened_at { " since " (ago_of(visit, opened)) }
                    @if let Some(by) = &breaker.opened_by { " by " (show::text(by)) }
                    @if let Some(reason) = &breaker.reason { ": “" (show::text(reason)) "”" }
                    @if let Some(next) = &breaker.next_try_at { ". Next try " (ago_of(visit, next)) }
                }
                @if let Some(failure) = &breaker.last_failure { br; span class="dim" { "Last failure: " (show::text(failure)) } }
            }
            td class="n" { (show::number(breaker.failures)) span class="dim" { " of " (show::number(breaker.opens_at)) " in " (show::length(breaker.within_ms)) } }
            td class="n" { (show::counted(breaker.times_opened, "time")) }
            td class="n" { (show::number(breaker.deferred_jobs)) }
            @if visit.may::<BreakersClose>() {
                td {
                    @if !breaker.is_closed() {
                        (frame::button(visit, &address(&["breakers", "close"]), "Close", &[("breaker", &both(breaker)), ("reason", "closed in the console")]))
                    }
                }
            }
        }
    }
}

fn order(visit: &Visit, fields: &Fields) -> Result<Json<BreakerOrder>, Problem> {
    let Some((plugin, host)) = fields.raw("breaker").split_once(' ') else {
        return Err(refused(
            visit,
            "Nothing was done: the form names no breaker",
        ));
    };
    let Some(reason) = fields.reason() else {
        let message = "Nothing was done: say why, for the next operator";
        return Err(refused(visit, message));
    };
    Ok(Json(BreakerOrder {
        plugin: plugin.to_owned(),
        host: host.to_owned(),
        reason: reason.to_owned(),
    }))
}

async fn open(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["breakers"]));
    let body = order(&visit, &fields).map_err(back)?;
    let done = visit.change::<BreakersOpen>((), NoQuery {}, body, None);
    let breaker = done.await.map_err(back)?;
    let text = match breaker.already {
        true => "Nothing has changed: it was open already.".to_owned(),
        false => format!(
            "Calls of {} to {} are refused until somebody closes it.",
            breaker.plugin, breaker.host
        ),
    };
    Ok(visit.done(&address(&["breakers"]), &Notice::new(text)))
}

async fn close(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["breakers"]));
    let body = order(&visit, &fields).map_err(back)?;
    let done = visit.change::<BreakersClose>((), NoQuery {}, body, None);
    let breaker = done.await.map_err(back)?;
    let text = match breaker.already {
        true => "Nothing has changed: it was closed already.".to_owned(),
        false => format!(
            "Calls of {} to {} go through again.",
            breaker.plugin, breaker.host
        ),
    };
    Ok(visit.done(&address(&["breakers"]), &Notice::new(text)))
}
