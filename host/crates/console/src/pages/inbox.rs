//! The inbox: requests of vendors to webhooks, and what became of each.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use patchbay_api::body::NoBody;
use patchbay_api::inbox::{
    InboxContent, InboxDetails, InboxErase, InboxItem, InboxList, InboxPath, InboxReplay,
    InboxShow, InboxVerdict, InboxVerify, ListInbox, ReplayInbox, VerifyInbox, WebhookView,
    WebhooksList,
};
use patchbay_api::inbox_many::InboxVerifyMany;
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::reveal::Reveal;
use patchbay_model::webhook::InboxState;
use serde::Deserialize;

use super::parts::{
    NOT_TYPED, ago_or, bytes, choice, digest, first_digits, moment_of, older, reveal_reason,
};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("inbox/{{id}}{rest}"));
    router
        .route(&address(&["inbox"]), get(list))
        .route(&of(""), get(request))
        .route(&of("/reveal"), post(reveal))
        .route(&of("/verify"), post(verify))
        .route(&of("/replay"), post(replay))
        .route(&of("/erase"), get(ask_erase).post(erase))
}

fn page_of(id: &str) -> String {
    address(&["inbox", id])
}

/// Which requests a page is about. Ids of events are not among it: they may be personal, and would
/// stand in the address.
#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct Which {
    #[serde(default)]
    pub(crate) webhook: String,
    #[serde(default)]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) after: String,
    #[serde(default)]
    pub(crate) before: String,
    /// Of many at once: what is found is also written down, or those that were processed are meant, too.
    #[serde(default)]
    pub(crate) more: String,
    #[serde(default)]
    cursor: Option<String>,
}

impl Which {
    pub(crate) fn pairs(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("webhook", self.webhook.trim()),
            ("state", self.state.trim()),
            ("code", self.code.trim()),
            ("kind", self.kind.trim()),
            ("after", self.after.trim()),
            ("before", self.before.trim()),
        ];
        all.into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    pub(crate) fn is_more(&self) -> bool {
        !self.more.is_empty()
    }

    pub(crate) fn state(&self) -> Option<InboxState> {
        InboxState::ALL
            .into_iter()
            .find(|state| state.as_str() == self.state)
    }
}

pub(crate) fn some(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A moment as a browser's field has it (UTC, to the minute), or with a zone.
pub(crate) fn since(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    moment_of(text).or_else(|| moment_of(&format!("{text}:00Z")))
}

pub(crate) fn pages(shown: &str) -> Markup {
    html! {
        nav class="tabs" aria-label="Pages of the inbox" {
            ul { @for (place, label) in [("inbox", "Requests"), ("webhooks", "Webhooks")] { li { a href=(address(&[place])) aria-current=[(place == shown).then_some("page")] { (label) } } } }
        }
    }
}

async fn list(visit: Visit, Query(which): Query<Which>) -> Result<Response, Problem> {
    let query = ListInbox {
        webhook: some(&which.webhook),
        state: which.state(),
        code: some(&which.code),
        kind: some(&which.kind),
        event_id: None,
        source: None,
        // A value of a person must not stand in an address.
        data_path: None,
        data_value: None,
        after: since(&which.after),
        before: since(&which.before),
        cursor: which.cursor.clone(),
        limit: Some(50),
    };
    let (page, webhooks) = tokio::join!(
        visit.page::<InboxList, InboxItem>((), query),
        visit.ask_shared::<WebhooksList>((), NoQuery {}),
    );
    let page = page.map_err(|problem| problem.back(address(&["inbox"])))?;
    let next = page.next_cursor.map(|cursor| {
        let mut query = which.pairs();
        query.push(("cursor", cursor.as_str()));
        address_with(&["inbox"], &query)
    });
    let is_filtered = !which.pairs().is_empty();
    let main = html! {
        (pages("inbox"))
        (filter(&which, webhooks.as_deref().unwrap_or_default()))
        @if visit.may::<InboxVerifyMany>() && is_filtered && !page.items.is_empty() {
            div class="actions" {
                @for (what, label) in [("verify", "Verify all that match…"), ("replay", "Replay all that match…"), ("erase", "Erase all that match…")] {
                    a class={ "button" @if what == "erase" { " danger" } } href=(address_with(&["inbox-many", what], &which.pairs())) { (label) }
                }
            }
        }
        div id="requests" data-live {
            @if page.items.is_empty() {
                (frame::empty(if is_filtered { "No request matches." } else { "No request yet." }, html! {
                    @if is_filtered { a href=(address(&["inbox"])) { "Show all requests" } }
                    @else { "Requests of vendors to webhooks of plugins appear here, also those that were rejected." }
                }))
            } @else { (table(&visit, &page.items)) }
        }
        (older(next, "Older"))
    };
    let head = Head::new(Section::Inbox, "Inbox");
    let head = if which.cursor.is_some() {
        head
    } else {
        head.live()
    };
    Ok(frame::page(&visit, &head, main))
}

fn filter(which: &Which, webhooks: &[WebhookView]) -> Markup {
    let states: Vec<(&str, &str)> = std::iter::once(("", "any"))
        .chain(InboxState::ALL.map(|state| (state.as_str(), state.as_str())))
        .collect();
    html! {
        form method="get" action=(address(&["inbox"])) class="bar" role="search" aria-label="Requests" {
            span class="field" {
                label for="webhook" { "Webhook" }
                input id="webhook" name="webhook" type="text" list="webhooks-known" value=(which.webhook) autocomplete="off" spellcheck="false";
                datalist id="webhooks-known" { @for webhook in webhooks { option value=(webhook.webhook) {} } }
            }
            span class="field" {
                label for="state" { "State" }
                (choice("state", "state", &states, &which.state))
            }
            span class="field" {
                label for="code" { "Code" }
                input id="code" name="code" type="text" value=(which.code) autocomplete="off" spellcheck="false";
            }
            span class="field" {
                label for="kind" { "Kind" }
                input id="kind" name="kind" type="text" value=(which.kind) autocomplete="off" spellcheck="false";
            }
            span class="field" {
                label for="after" { "From (UTC)" }
                input id="after" name="after" type="datetime-local" value=(which.after);
            }
            span class="field" {
                label for="before" { "Before (UTC)" }
                input id="before" name="before" type="datetime-local" value=(which.before);
            }
            button type="submit" { "Filter" }
        }
    }
}

pub(crate) fn table(visit: &Visit, items: &[InboxItem]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Requests" {
            table class="rows" {
                thead { tr { th scope="col" { "Came" } th scope="col" { "Webhook" } th scope="col" { "State" } th scope="col" { "Why" } th scope="col" class="n" { "Size" } th scope="col" class="n" { "Jobs" } } }
                tbody {
                    @for item in items {
                        @let place = page_of(&item.id.to_string());
                        tr data-href=(place) {
                            th scope="row" { a href=(place) { (show::ago(item.received_at, visit.now())) } }
                            td { (show::text(&item.webhook)) @if !item.kind.is_empty() { br; span class="dim" { (show::short(&item.kind, 60)) } } }
                            td { (show::state(item.state.as_str())) }
                            td class="message" { @if let Some(code) = &item.code { code { (show::text(code)) } " " } @if let Some(message) = &item.message { (show::short(message, 140)) } }
                            td class="n" { (bytes(u64::try_from(item.size).unwrap_or(0))) }
                            td class="n" { (show::number(item.jobs)) }
                        }
                    }
                }
            }
        }
    }
}

async fn request(visit: Visit, Path(id): Path<String>) -> Result<Response, Problem> {
    shown(&visit, unescaped(&id), Reveal::default(), None).await
}

/// Shows what is hidden, once: the answer to a form, so that no address and no refresh repeats it.
async fn reveal(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let reason = reveal_reason(&visit, &fields);
    let reveal = Reveal {
        reveal: true,
        reason: Some(reason.map_err(|problem| problem.back(page_of(&id)))?),
    };
    shown(&visit, &id, reveal, None).await
}

async fn shown(
    visit: &Visit,
    id: &str,
    asked: Reveal,
    verdict: Option<&InboxVerdict>,
) -> Result<Response, Problem> {
    let is_revealed = asked.reveal;
    let details = visit.ask::<InboxShow>(path_of(id), asked, NoBody).await;
    let details = details.map_err(|problem| problem.back(address(&["inbox"])))?;
    let main = html! {
        @if let Some(verdict) = verdict { (judged(verdict)) }
        div id="request" data-live { (facts(visit, &details)) }
        (actions(visit, &details))
        (content(visit, &details, is_revealed))
        @if !details.replays.is_empty() {
            section aria-labelledby="replays" {
                h2 id="replays" { "Processed again" }
                ul class="timeline" {
                    @for replay in &details.replays {
                        li { p { "No. " (replay.number) " by " (show::text(&replay.by)) " " (show::ago(replay.at, visit.now())) ", " (show::counted(replay.jobs, "job"))
                            @if let Some(reason) = &replay.reason { ": “" (show::text(reason)) "”" } } }
                    }
                }
            }
        }
    };
    let path = [(address(&["inbox"]), "Inbox")];
    let title = format!("Request to {}", details.item.webhook);
    let head = Head::new(Section::Inbox, &title).below(&path);
    let head = if is_revealed || verdict.is_some() {
        head
    } else {
        head.live()
    };
    Ok(frame::page(visit, &head, main))
}

fn path_of(id: &str) -> InboxPath {
    InboxPath { id: id.to_owned() }
}

fn facts(visit: &Visit, details: &InboxDetails) -> Markup {
    let item = &details.item;
    let now = visit.now();
    let queue_of = |id: &String| show::short(id, 60);
    html! {
        p {
            (show::state(item.state.as_str()))
            @if let Some(code) = &item.code { " " code { (show::text(code)) } }
            @if let Some(message) = &item.message { " " (show::text(message)) }
        }
        dl class="facts" {
            dt { "Webhook" } dd { a href=(address(&["webhooks", &item.webhook])) { (show::text(&item.webhook)) } }
            dt { "Came" } dd { (show::ago(item.received_at, now)) ", to host " (show::text(&details.host)) @if details.via != "postgres" { " (by way of " (show::text(&details.via)) ")" } }
            @if !item.kind.is_empty() { dt { "Kind" } dd { (show::text(&item.kind)) } }
            @if let Some(source) = &item.source { dt { "From network" } dd { (show::text(source)) } }
            dt { "Judged" } dd { (ago_or(visit, details.verified_at, "not yet")) @if details.tries > 0 { ", in vain " (show::counted(details.tries, "time")) } @if let Some(revision) = &item.revision { " by " (digest(revision)) } }
            @if let Some(next) = item.next_try_at { dt { "Next try" } dd { (show::ago(next, now)) } }
            dt { "Jobs" } dd {
                @if details.job_ids.is_empty() { (show::number(item.jobs)) }
                @for (place, id) in details.job_ids.iter().take(20).enumerate() { @if place > 0 { ", " } a href=(address_with(&["search"], &[("job", id)])) { (queue_of(id)) } }
                @if details.job_ids.len() > 20 { " and " (details.job_ids.len() - 20) " more" }
            }
            @if details.repeats > 0 { dt { "Came again" } dd { (show::counted(details.repeats, "time")) @if let Some(at) = details.last_repeat_at { ", last " (show::ago(at, now)) } } }
            @if let Some(first) = &details.first { dt { "First request" } dd { a href=(page_of(&first.to_string())) { (first) } } }
            dt { "Correlation id" } dd { code { (show::text(&item.correlation_id)) } }
            dt { "Kept until" } dd { (show::moment(item.keep_until)) }
        }
    }
}

fn actions(visit: &Visit, details: &InboxDetails) -> Markup {
    let id = details.item.id.to_string();
    let action = |what: &str| address(&["inbox", &id, what]);
    let is_processed = matches!(
        details.item.state,
        InboxState::Enqueued | InboxState::Recorded | InboxState::Accepted
    );
    let again = html! {
        label for="replay-reason" { "Reason" }
        input id="replay-reason" name="reason" type="text" required maxlength="500" autocomplete="off" placeholder="effects may happen twice";
        input type="hidden" name="again" value="on";
        button type="submit" { "Process once more" }
    };
    html! {
        @if details.item.state != InboxState::Erased {
            div class="actions" role="group" aria-label="Actions" {
                @if visit.may::<InboxVerify>() {
                    (frame::button(visit, &action("verify"), "Verify (changes nothing)", &[]))
                    @if matches!(details.item.state, InboxState::Rejected | InboxState::Deferred) { (frame::button(visit, &action("verify"), "Verify and accept", &[("apply", "on")])) }
                }
                @if visit.may::<InboxReplay>() && !is_processed { (frame::button(visit, &action("replay"), "Process", &[])) }
                @if visit.may::<InboxErase>() { a class="button danger" href=(action("erase")) { "Erase…" } }
            }
            @if visit.may::<InboxReplay>() && is_processed {
                details { summary { "Process it once more" } p { "Its jobs were added before: effects may then happen twice." } (frame::form(visit, &action("replay"), "bar", again)) }
            }
        }
    }
}

fn content(visit: &Visit, details: &InboxDetails, is_revealed: bool) -> Markup {
    let reason = html! {
        label for="reveal-reason" { "Reason" }
        input id="reveal-reason" name="reason" type="text" required maxlength="500" autocomplete="off";
        button type="submit" { "Show hidden values (recorded)" }
    };
    html! {
        section aria-labelledby="content" {
            h2 id="content" { "What was sent" }
            @match (&details.content, &details.unavailable) {
                (Some(content), _) => {
                    (sent(details, content))
                    @if content.is_redacted && !is_revealed && visit.may_see_data() {
                        (frame::form(visit, &address(&["inbox", &details.item.id.to_string(), "reveal"]), "bar", reason))
                    }
                }
                (None, Some(why)) => { p class="dim" { (show::text(why)) } }
                (None, None) => { p class="dim" { "Not shown." } }
            }
        }
    }
}

fn sent(details: &InboxDetails, content: &InboxContent) -> Markup {
    let query = if content.query.is_empty() {
        String::new()
    } else {
        format!("?{}", content.query)
    };
    html! {
        dl class="facts" {
            dt { "Request" } dd { code { (show::text(&details.item.method)) " " (show::text(&content.path)) (show::text(&query)) } }
            @if !content.address.is_empty() { dt { "From" } dd { (show::text(&content.address)) } }
            @if let Some(event) = &content.event_id { dt { "Event" } dd { (show::text(event)) } }
        }
        details {
            summary { (show::counted(content.headers.len() as u64, "header")) }
            dl class="facts" { @for header in &content.headers { dt { (show::text(&header.name)) } dd { (show::text(&header.value)) } } }
        }
        @if content.body.is_empty() { p class="dim" { "No body." } }
        @else if content.is_base64 { p class="dim" { "The body is not text; it is in base64." } (show::block(&content.body)) }
        @else { (show::json(&content.body)) }
    }
}

/// What the active revision says of a request.
fn judged(verdict: &InboxVerdict) -> Markup {
    html! {
        div class="notice" role="status" {
            p {
                "Judged now: " (show::state(&verdict.verdict))
                @if let Some(code) = &verdict.code { " " code { (show::text(code)) } }
                @if let Some(message) = &verdict.message { " " (show::text(message)) }
                ". " (show::counted(verdict.jobs, "job")) ". "
                @if verdict.applied { "This was written down." } @else { "Nothing was changed." }
            }
        }
    }
}

async fn verify(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let query = VerifyInbox {
        apply: fields.is_on("apply"),
    };
    let done = visit.change::<InboxVerify>(path_of(&id), query, NoBody, fields.reason());
    let verdict = done.await.map_err(|problem| problem.back(page_of(&id)))?;
    shown(&visit, &id, Reveal::default(), Some(&verdict)).await
}

async fn replay(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    let query = ReplayInbox {
        again: fields.is_on("again"),
    };
    let done = visit.change::<InboxReplay>(path_of(&id), query, NoBody, fields.reason());
    let verdict = done.await.map_err(|problem| problem.back(page_of(&id)))?;
    shown(&visit, &id, Reveal::default(), Some(&verdict)).await
}

async fn ask_erase(visit: Visit, Path(id): Path<String>) -> Result<Response, Problem> {
    visit.require::<InboxErase>()?;
    erase_page(&visit, unescaped(&id), None).await
}

async fn erase_page(visit: &Visit, id: &str, refused: Option<&str>) -> Result<Response, Problem> {
    let back = page_of(id);
    let details = visit.ask::<InboxShow>(path_of(id), Reveal::default(), NoBody);
    let item = details
        .await
        .map_err(|problem| problem.back(back.clone()))?
        .item;
    let about = html! { p { "The request to " strong { (show::text(&item.webhook)) } " that came " (show::ago(item.received_at, visit.now())) ". Its event stays known, so that it is not processed again when the vendor repeats it." } };
    let first = first_digits(id);
    let confirm = Confirm {
        section: Section::Inbox,
        title: "Erase the request",
        operation: const { &InboxErase::OPERATION },
        name: &first,
        about,
        fields: frame::nothing(),
        action: &address(&["inbox", id, "erase"]),
        back: &back,
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

async fn erase(
    Path(id): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let id = unescaped(&id).to_owned();
    if !is_typed(&fields, &first_digits(&id)) {
        return erase_page(&visit, &id, Some(NOT_TYPED)).await;
    }
    let done = visit.destroy::<InboxErase>(path_of(&id), NoQuery {}, NoBody, fields.reason());
    done.await.map_err(|problem| problem.back(page_of(&id)))?;
    let notice = Notice::new("Erased the content of the request.");
    Ok(visit.done(&page_of(&id), &notice))
}
