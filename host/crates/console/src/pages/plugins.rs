//! All plugins: which revision takes calls, where, and what keeps one from it.

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::body::Json;
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::plugins::{PluginSummary, PluginsList, PluginsPrune, Prune, PrunedRevision};

use super::parts::{NOT_TYPED, ago_of, bytes, digest};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["plugins"]), get(list))
        .route(&address(&["plugins-prune"]), get(ask_prune).post(prune))
}

/// How a plugin stands, in one word.
pub(crate) fn standing(plugin: &PluginSummary) -> &'static str {
    if plugin.quarantined.is_some() {
        "quarantined"
    } else if plugin.failure.is_some() {
        "failing"
    } else if !plugin.active {
        "inactive"
    } else if plugin.hosts.running < plugin.hosts.of {
        "behind"
    } else {
        "active"
    }
}

async fn list(visit: Visit) -> Result<Response, Problem> {
    let mut plugins = visit.ask_shared::<PluginsList>((), NoQuery {}).await?;
    // What needs somebody stands first.
    plugins.sort_by_key(|plugin| standing(plugin) == "active");
    let main = html! {
        div class="actions" {
            a class="button" href=(address(&["routes"])) { "Routes" }
            a class="button" href=(address(&["breakers"])) { "Breakers" }
            @if visit.may::<PluginsPrune>() { a class="button" href=(address(&["plugins-prune"])) { "Delete old revisions" } }
        }
        div id="plugins" data-live {
            @if plugins.is_empty() {
                (frame::empty("No plugin yet.", html! { "Push one: " code { "patchbay plugin push FILE" } ". It appears here and takes calls once a revision is activated." }))
            } @else { (table(&visit, &plugins)) }
        }
    };
    let head = Head::new(Section::Plugins, "Plugins").live();
    Ok(frame::page(&visit, &head, main))
}

fn table(visit: &Visit, plugins: &[PluginSummary]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Plugins" {
            table class="rows" {
                thead { tr {
                    th scope="col" { "Plugin" }
                    th scope="col" { "State" }
                    th scope="col" { "Revision" }
                    th scope="col" class="n" { "Hosts" }
                    th scope="col" { "Handles" }
                    th scope="col" class="n" { "Revisions" }
                } }
                tbody { @for plugin in plugins { (row(visit, plugin)) } }
            }
        }
    }
}

fn row(visit: &Visit, plugin: &PluginSummary) -> Markup {
    let place = address(&["plugin", &plugin.name]);
    html! {
        tr data-href=(place) {
            th scope="row" {
                a href=(place) { (show::text(&plugin.name)) }
                @if !plugin.description.is_empty() { br; span class="dim" { (show::short(&plugin.description, 90)) } }
            }
            td class="message" {
                (show::state(standing(plugin)))
                @if let Some(quarantine) = &plugin.quarantined { " " (ago_of(visit, &quarantine.since)) ": " (show::short(&quarantine.reason, 160)) }
                @if let Some(failure) = &plugin.failure { " " (show::short(failure, 160)) }
            }
            td { (show::text(&plugin.version)) " " (digest(&plugin.digest)) }
            td class="n" { @if plugin.active { (plugin.hosts.running) " of " (plugin.hosts.of) } @else { (show::unknown()) } }
            td {
                @for (place, queue) in plugin.queues.iter().take(3).enumerate() {
                    @if place > 0 { ", " } a href=(address(&["queue", queue])) { (show::text(queue)) }
                }
                @if plugin.queues.len() > 3 { " and " (show::counted(plugin.queues.len() as u64 - 3, "more queue")) }
                @if !plugin.routes.is_empty() { @if !plugin.queues.is_empty() { "; " } (show::counted(plugin.routes.len() as u64, "route")) }
                @if !plugin.webhooks.is_empty() { "; " (show::counted(plugin.webhooks.len() as u64, "webhook")) }
            }
            td class="n" { (show::number(plugin.revisions as u64)) }
        }
    }
}

async fn ask_prune(visit: Visit) -> Result<Response, Problem> {
    visit.require::<PluginsPrune>()?;
    prune_page(&visit, None).await
}

async fn prune_page(visit: &Visit, refused: Option<&str>) -> Result<Response, Problem> {
    let back = address(&["plugins"]);
    let body = Json(Prune { dry_run: true });
    let meant = visit.ask::<PluginsPrune>((), NoQuery {}, body).await;
    let meant = meant.map_err(|problem| problem.back(back.clone()))?;
    if meant.is_empty() {
        let main = frame::empty(
            "No revision is old enough.",
            html! { "The newest of each plugin, active and quarantined ones, and those in recent use are kept." },
        );
        let path = [(back, "Plugins")];
        let head = Head::new(Section::Plugins, "Delete old revisions").below(&path);
        return Ok(frame::page(visit, &head, main));
    }
    let confirm = Confirm {
        section: Section::Plugins,
        title: "Delete old revisions",
        operation: const { &PluginsPrune::OPERATION },
        name: "all",
        about: pruned(&meant),
        fields: frame::nothing(),
        action: &address(&["plugins-prune"]),
        back: &back,
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

fn pruned(meant: &[PrunedRevision]) -> Markup {
    let size: i64 = meant.iter().map(|revision| revision.size_bytes).sum();
    html! {
        p { strong { (show::counted(meant.len() as u64, "revision")) } ", " (bytes(size.unsigned_abs())) ". Kept are the newest of each plugin, active and quarantined ones, and those in recent use." }
        ul {
            @for revision in meant.iter().take(50) {
                li { (show::text(&revision.plugin)) " " (show::text(&revision.version)) " " (digest(&revision.digest)) }
            }
            @if meant.len() > 50 { li { "and " (show::number(meant.len() as u64 - 50)) " more" } }
        }
    }
}

async fn prune(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    if !is_typed(&fields, "all") {
        return prune_page(&visit, Some(NOT_TYPED)).await;
    }
    let body = Json(Prune { dry_run: false });
    let done = visit.destroy::<PluginsPrune>((), NoQuery {}, body, fields.reason());
    let done = done
        .await
        .map_err(|problem| problem.back(address(&["plugins"])))?;
    let deleted = show::counted(done.len() as u64, "old revision");
    let notice = Notice::new(format!("Deleted {deleted}."));
    Ok(visit.done(&address(&["plugins"]), &notice))
}
