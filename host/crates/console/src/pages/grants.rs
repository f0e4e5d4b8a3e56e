//! What a plugin asks for, what it is granted, and what it has used.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::Json;
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::plugins::{Asks, GrantView, PluginsGrant, PluginsGrants, PluginsRevoke};
use patchbay_model::grant::Ask;

use super::parts::{ago_of, refused};
use super::plugin::{page_of, parts, path_of};
use crate::entry::{Fields, Posted};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&below_root("plugin/{name}/grants"), get(grants))
        .route(&below_root("plugin/{name}/grant"), post(grant))
        .route(&below_root("plugin/{name}/revoke"), post(revoke))
}

async fn grants(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let grants = visit.ask_shared::<PluginsGrants>(path_of(&name), NoQuery {});
    let grants = grants
        .await
        .map_err(|problem| problem.back(address(&["plugins"])))?;
    let missing: Vec<&Ask> = grants
        .iter()
        .filter(|grant| grant.granted_by.is_none() && is_asked(grant))
        .map(|grant| &grant.ask)
        .collect();
    let unused = grants
        .iter()
        .filter(|grant| grant.granted_by.is_some() && grant.uses == 0)
        .count();
    let main = html! {
        (parts(&name, "grants"))
        p { "A plugin reaches nothing but what is granted here. A grant holds from the next call on; what is revoked is refused on every host within a second." }
        @if visit.may::<PluginsGrant>() && missing.len() > 1 {
            div class="actions" {
                (frame::button(&visit, &address(&["plugin", &name, "grant"]), &format!("Grant all {} that are missing", missing.len()), &[("asks", &listed(&missing))]))
            }
        }
        div id="grants" data-live {
            @if unused > 0 { p class="dim" { (show::counted(unused as u64, "grant")) " unused in the last 30 days." } }
            @if grants.is_empty() { (frame::empty("It asks for nothing.", html! { "Its manifest names no outside host, secret, queue or table." })) }
            @else { (table(&visit, &name, &grants)) }
        }
    };
    let path = [
        (address(&["plugins"]), "Plugins"),
        (page_of(&name), name.as_str()),
    ];
    let title = format!("Grants of {name}");
    let head = Head::new(Section::Plugins, &title).below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

fn is_asked(grant: &GrantView) -> bool {
    grant.asked_by_active || grant.asked_by_newest
}

/// Asks in a field of a form.
fn listed(asks: &[&Ask]) -> String {
    serde_json::to_string(asks).unwrap_or_default()
}

fn table(visit: &Visit, name: &str, grants: &[GrantView]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Grants" {
            table {
                thead { tr {
                    th scope="col" { "What" }
                    th scope="col" { "Asked for by" }
                    th scope="col" { "Granted" }
                    th scope="col" class="n" { "Uses in 30 days" }
                    th scope="col" { "Last used" }
                    @if visit.may::<PluginsRevoke>() { th scope="col" { "Change" } }
                } }
                tbody { @for grant in grants { (row(visit, name, grant)) } }
            }
        }
    }
}

fn row(visit: &Visit, name: &str, grant: &GrantView) -> Markup {
    let one = listed(&[&grant.ask]);
    let action = |what: &str| address(&["plugin", name, what]);
    html! {
        tr {
            th scope="row" class="wide" { code { (show::text(grant.ask.as_str())) } }
            td {
                @match (grant.asked_by_active, grant.asked_by_newest) {
                    (true, true) => { "the active and the newest revision" }
                    (true, false) => { "the active revision" }
                    (false, true) => { "the newest revision" }
                    (false, false) => { span class="dim" { "no present revision" } }
                }
            }
            td {
                @match (&grant.granted_by, &grant.granted_at) {
                    (Some(by), at) => { "by " (show::text(by)) " " @if let Some(at) = at { (ago_of(visit, at)) } }
                    (None, _) => { (show::state("not granted")) }
                }
            }
            td class="n" { (show::number(grant.uses)) }
            td { @match &grant.last_used { Some(day) => { (show::text(day)) } None => { span class="dim" { "not in 30 days" } } } }
            @if visit.may::<PluginsRevoke>() {
                td {
                    @if grant.granted_by.is_some() { (frame::button(visit, &action("revoke"), "Revoke", &[("asks", &one)])) }
                    @else if visit.may::<PluginsGrant>() && is_asked(grant) { (frame::button(visit, &action("grant"), "Grant", &[("asks", &one)])) }
                }
            }
        }
    }
}

fn asks(visit: &Visit, fields: &Fields) -> Result<Vec<Ask>, Problem> {
    serde_json::from_str(fields.raw("asks"))
        .map_err(|_| refused(visit, "Nothing was done: the form names no asks"))
}

async fn grant(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let place = address(&["plugin", &name, "grants"]);
    let back = |problem: Problem| problem.back(place.clone());
    let asks = asks(&visit, &fields).map_err(back)?;
    let text = match asks.as_slice() {
        [one] => format!("Granted: {}. It holds from the next call on.", one.as_str()),
        many => format!(
            "Granted {} asks. They hold from the next call on.",
            many.len()
        ),
    };
    let body = Json(Asks { asks });
    let done = visit.change::<PluginsGrant>(path_of(&name), NoQuery {}, body, fields.reason());
    done.await.map_err(back)?;
    Ok(visit.done(&place, &Notice::new(text)))
}

async fn revoke(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let place = address(&["plugin", &name, "grants"]);
    let back = |problem: Problem| problem.back(place.clone());
    let body = Json(Asks {
        asks: asks(&visit, &fields).map_err(back)?,
    });
    let done = visit.change::<PluginsRevoke>(path_of(&name), NoQuery {}, body, fields.reason());
    let revoked = done.await.map_err(back)?;
    let text = format!(
        "Revoked: {}. The next call that needs it is refused. An owner can grant it again here.",
        revoked.join(", ")
    );
    Ok(visit.done(&place, &Notice::new(text)))
}
