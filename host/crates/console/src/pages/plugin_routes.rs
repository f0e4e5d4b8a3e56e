//! Routes that plugins serve: who may call each, its limits and schemas.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::routes::{RouteDetails, RouteParams, RouteView, RoutesList, RoutesShow};

use super::parts::{bytes, digest};
use crate::Site;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::show;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["routes"]), get(list))
        .route(&below_root("routes/{route}"), get(route))
}

async fn list(visit: Visit) -> Result<Response, Problem> {
    let mut routes = visit.ask_shared::<RoutesList>((), NoQuery {}).await?;
    routes.sort_by_key(|route| route.state == "active");
    let main = html! {
        p { "As the host that answers has them." }
        div id="routes" data-live {
            @if routes.is_empty() { (frame::empty("No active plugin has a route.", html! { "A route is declared in a plugin's manifest: " code { "[[routes]]" } "." })) }
            @else { (table(&routes)) }
        }
    };
    let path = [(address(&["plugins"]), "Plugins")];
    let head = Head::new(Section::Plugins, "Routes").below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

fn table(routes: &[RouteView]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Routes" {
            table class="rows" {
                thead { tr { th scope="col" { "Route" } th scope="col" { "Address" } th scope="col" { "Who may call it" } th scope="col" { "State" } th scope="col" { "Revision" } } }
                tbody {
                    @for route in routes {
                        @let place = address(&["routes", &route.route]);
                        tr data-href=(place) {
                            th scope="row" { a href=(place) { (show::text(&route.route)) } }
                            td class="wide" { code { (show::text(&route.method)) " " (show::text(&route.path)) } }
                            td { (show::text(&route.access)) }
                            td class="message" { (show::state(&route.state)) @if let Some(reason) = &route.reason { " " (show::short(reason, 140)) } }
                            td { (digest(&route.revision)) }
                        }
                    }
                }
            }
        }
    }
}

async fn route(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let path = RouteParams {
        route: name.clone(),
    };
    let details = visit.ask_shared::<RoutesShow>(path, NoQuery {}).await;
    let details = details.map_err(|problem| problem.back(address(&["routes"])))?;
    let main = html! {
        p { (show::state(&details.route.state)) @if let Some(reason) = &details.route.reason { " " (show::text(reason)) } }
        (facts(&details))
        @if let Some(input) = &details.input { section aria-labelledby="input" { h2 id="input" { "Input: JSON Schema" } (show::json(&input.to_string())) } }
        @if let Some(output) = &details.output { section aria-labelledby="output" { h2 id="output" { "Answer: JSON Schema of " code { "data" } } (show::json(&output.to_string())) } }
    };
    let crumbs = [
        (address(&["plugins"]), "Plugins"),
        (address(&["routes"]), "Routes"),
    ];
    let head = Head::new(Section::Plugins, &name).below(&crumbs);
    Ok(frame::page(&visit, &head, main))
}

fn facts(details: &RouteDetails) -> Markup {
    let route = &details.route;
    let listed = |words: &[String], none: &str| match words {
        [] => none.to_owned(),
        words => words.join(", "),
    };
    html! {
        dl class="facts" {
            dt { "Address" } dd { code { (show::text(&route.method)) " " (show::text(&route.path)) } }
            dt { "Plugin" } dd { a href=(address(&["plugin", &route.plugin])) { (show::text(&route.plugin)) } " " (digest(&route.revision)) ", operation " code { (show::text(&route.operation)) } }
            dt { "Who may call it" } dd { (show::text(&route.access)) }
            dt { "Answers" } dd { (details.success_status) @if !details.statuses.is_empty() { ", or " (details.statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")) } }
            dt { "Body" } dd { (show::text(&details.body_type)) ", at most " (bytes(details.max_body_bytes)) }
            dt { "Takes at most" } dd { (show::length(details.deadline_ms)) @if let Some(most) = details.max_concurrency { ", " (show::counted(most, "call")) " at once on a host" } }
            dt { "How often" } dd { (show::counted(details.rate.max, "request")) " per " (show::length(details.rate.per_ms)) " by " (show::text(&details.rate.by)) }
            dt { "Idempotency-Key" } dd { (show::text(&details.idempotency)) }
            dt { "Request headers" } dd { (show::text(&listed(&details.request_headers, "none"))) }
            dt { "Answer headers" } dd { (show::text(&listed(&details.response_headers, "none"))) }
            @if !details.produces.is_empty() { dt { "Answers as bytes" } dd { (show::text(&details.produces.join(", "))) } }
            dt { "Kept by clients" } dd { (show::text(details.cache.as_deref().unwrap_or("not at all"))) }
            dt { "Other origins" } dd { (show::text(&details.cors)) }
            dt { "Audit" } dd { (show::text(details.audit.as_deref().unwrap_or("told nothing"))) }
        }
    }
}
