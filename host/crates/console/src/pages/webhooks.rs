//! Webhooks of plugins: how each stands, and what it takes.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::inbox::{
    InboxCountView, WebhookDetails, WebhookPath, WebhookView, WebhooksList, WebhooksShow,
};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;

use super::inbox::pages;
use super::parts::{ago_or, bytes, digest};
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["webhooks"]), get(webhooks))
        .route(&below_root("webhooks/{webhook}"), get(webhook))
}

async fn webhooks(visit: Visit) -> Result<Response, Problem> {
    let webhooks = visit.ask_shared::<WebhooksList>((), NoQuery {}).await?;
    let main = html! {
        (pages("webhooks"))
        div id="webhooks" data-live {
            @if webhooks.is_empty() { (frame::empty("No active plugin has a webhook.", html! { "A webhook is declared in a plugin's manifest: " code { "[[webhooks]]" } "." })) }
            @else { (webhook_table(&visit, &webhooks)) }
        }
    };
    let path = [(address(&["inbox"]), "Inbox")];
    let head = Head::new(Section::Inbox, "Webhooks").below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

fn webhook_table(visit: &Visit, webhooks: &[WebhookView]) -> Markup {
    let of = |webhook: &str, state: &str, count: i64| {
        html! {
            td class="n" {
                @if count == 0 { span class="dim" { "0" } }
                @else { a href=(address_with(&["inbox"], &[("webhook", webhook), ("state", state)])) { (show::number(count)) } }
            }
        }
    };
    html! {
        div class="table" tabindex="0" role="group" aria-label="Webhooks" {
            table class="rows" {
                thead { tr { th scope="col" { "Webhook" } th scope="col" { "State" } th scope="col" { "Path" } th scope="col" { "Last accepted" } th scope="col" class="n" { "Accepted" } th scope="col" class="n" { "Deferred" } th scope="col" class="n" { "Rejected" } } }
                tbody {
                    @for webhook in webhooks {
                        @let place = address(&["webhooks", &webhook.webhook]);
                        tr data-href=(place) {
                            th scope="row" { a href=(place) { (show::text(&webhook.webhook)) } br; a class="dim" href=(address(&["queue", &webhook.queue])) { (show::text(&webhook.queue)) } }
                            td { (show::state(&webhook.state)) }
                            td class="wide" { code { (show::text(&webhook.methods.join(" "))) " " (show::text(&webhook.path)) } }
                            td { (ago_or(visit, webhook.last_accepted_at, "none kept")) }
                            (of(&webhook.webhook, "accepted", webhook.accepted))
                            (of(&webhook.webhook, "deferred", webhook.deferred))
                            (of(&webhook.webhook, "rejected", webhook.rejected))
                        }
                    }
                }
            }
        }
    }
}

async fn webhook(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let path = WebhookPath {
        webhook: name.clone(),
    };
    let details = visit.ask_shared::<WebhooksShow>(path, NoQuery {}).await;
    let details = details.map_err(|problem| problem.back(address(&["webhooks"])))?;
    let main = html! {
        div id="webhook" data-live {
            p { (show::state(&details.webhook.state)) @if let Some(reason) = &details.reason { " " (show::text(reason)) } }
            (webhook_facts(&visit, &details))
            (last_day(&details.last_day))
        }
        p { a href=(address_with(&["inbox"], &[("webhook", &name)])) { "Its requests" } }
    };
    let crumbs = [
        (address(&["inbox"]), "Inbox"),
        (address(&["webhooks"]), "Webhooks"),
    ];
    let head = Head::new(Section::Inbox, &name).below(&crumbs).live();
    Ok(frame::page(&visit, &head, main))
}

fn webhook_facts(visit: &Visit, details: &WebhookDetails) -> Markup {
    let webhook = &details.webhook;
    html! {
        dl class="facts" {
            dt { "Plugin" } dd { a href=(address(&["plugin", &webhook.plugin])) { (show::text(&webhook.plugin)) } " " (digest(&webhook.revision)) }
            dt { "Address" } dd { code { (show::text(&webhook.methods.join(" "))) " " (show::text(&webhook.path)) } }
            dt { "Queue of its jobs" } dd { a href=(address(&["queue", &webhook.queue])) { (show::text(&webhook.queue)) } }
            dt { "Host's check" } dd { (show::text(&webhook.check)) @if let Some(check) = &details.check_details { ": " (show::text(check)) } @if let Some(secret) = &details.secret { ", secret " code { (show::text(secret)) } } }
            dt { "Last accepted" } dd { (ago_or(visit, webhook.last_accepted_at, "none kept")) }
            dt { "Accepted, not in the queue" } dd { (show::number(webhook.accepted)) @if let Some(oldest) = details.oldest_accepted_at { ", the oldest " (show::ago(oldest, visit.now())) } }
            dt { "Waits to be judged" } dd { (show::number(webhook.deferred)) @if let Some(oldest) = details.oldest_deferred_at { ", the oldest " (show::ago(oldest, visit.now())) } }
            dt { "Rejected and kept" } dd { (show::number(webhook.rejected)) }
            dt { "Answer" } dd { (details.success_status) " within " (show::length(details.ack_ms)) "; while the plugin is unavailable: " (show::text(&details.when_unavailable)) }
            dt { "Takes" } dd { @if details.content_types.is_empty() { "any media type" } @else { (show::text(&details.content_types.join(", "))) } ", at most " (bytes(details.max_body_bytes)) }
            dt { "Kept" } dd { "requests " (show::counted(details.retention_days, "day")) ", events " (show::counted(details.dedupe_days, "day")) }
        }
    }
}

fn last_day(counts: &[InboxCountView]) -> Markup {
    html! {
        section aria-labelledby="last-day" {
            h2 id="last-day" { "The last 24 hours" }
            @if counts.is_empty() { p class="dim" { "No request." } }
            @else {
                div class="table" tabindex="0" role="group" aria-labelledby="last-day" {
                    table {
                        thead { tr { th scope="col" { "Outcome" } th scope="col" { "Code" } th scope="col" class="n" { "Requests" } } }
                        tbody { @for count in counts { tr { td { (show::state(&count.outcome)) } td { code { (show::text(&count.code)) } } td class="n" { (show::number(count.count)) } } } }
                    }
                }
            }
        }
    }
}
