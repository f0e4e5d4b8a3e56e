//! Keys of vendors: what each may do, how it is used, and issuing one. A key is shown once.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::vendor_keys::{
    IssuedVendorKey, NewVendorKey, VendorKey, VendorKeyChange, VendorKeyDetails, VendorKeyPath,
    VendorKeyRotation, VendorKeyState, VendorKeysDisable, VendorKeysEdit, VendorKeysEnable,
    VendorKeysIssue, VendorKeysList, VendorKeysQuery, VendorKeysRevoke, VendorKeysRotate,
    VendorKeysShow,
};
use serde::Deserialize;

use super::operators::pages;
use super::parts::{NOT_TYPED, ago_or, older, refused, typed_length, with_reason, words};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::{Fields, Posted, whole};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("vendor-keys/{{key}}{rest}"));
    router
        .route(&address(&["vendor-keys"]), get(list).post(issue))
        .route(&of(""), get(key))
        .route(&of("/edit"), post(edit))
        .route(&of("/rotate"), post(rotate))
        .route(&of("/disable"), post(disable))
        .route(&of("/enable"), post(enable))
        .route(&of("/revoke"), get(ask_revoke).post(revoke))
}

fn path_of(key: &str) -> VendorKeyPath {
    VendorKeyPath {
        key: key.to_owned(),
    }
}

fn page_of(key: &str) -> String {
    address(&["vendor-keys", key])
}

fn word(state: VendorKeyState) -> &'static str {
    match state {
        VendorKeyState::Active => "active",
        VendorKeyState::Ending => "ending",
        VendorKeyState::Disabled => "disabled",
        VendorKeyState::Revoked => "revoked",
        VendorKeyState::Expired => "expired",
    }
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    /// `over` for keys that can never be used again.
    #[serde(default)]
    state: String,
    #[serde(default)]
    cursor: Option<String>,
}

async fn list(visit: Visit, Query(which): Query<Which>) -> Result<Response, Problem> {
    let is_over = which.state == "over";
    let query = VendorKeysQuery {
        over: Some(is_over),
        text: None,
        cursor: which.cursor,
        limit: Some(100),
    };
    let page = visit.page::<VendorKeysList, VendorKey>((), query).await;
    let page = page.map_err(|problem| problem.back(address(&["vendor-keys"])))?;
    let next = page.next_cursor.map(|cursor| {
        let state = if is_over { "over" } else { "" };
        address_with(&["vendor-keys"], &[("state", state), ("cursor", &cursor)])
    });
    let main = html! {
        (pages(&visit, "vendor-keys"))
        p { @if is_over { "Keys that can never be used again. " a href=(address(&["vendor-keys"])) { "Keys in use" } }
            @else { "Keys of programs of partners. " a href=(address_with(&["vendor-keys"], &[("state", "over")])) { "Keys that are over" } } }
        @if page.items.is_empty() { (frame::empty(if is_over { "No key is over." } else { "No vendor has a key." }, html! { "A vendor's program sends its key with each request to the routes that are open to vendors." })) }
        @else { (table(&visit, &page.items)) }
        (older(next, "Older"))
        @if visit.may::<VendorKeysIssue>() && !is_over { (issuer(&visit)) }
    };
    let head = Head::new(Section::People, "Vendor keys");
    Ok(frame::page(&visit, &head, main))
}

fn table(visit: &Visit, keys: &[VendorKey]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Vendor keys" {
            table class="rows" {
                thead { tr { th scope="col" { "Key" } th scope="col" { "State" } th scope="col" { "May" } th scope="col" class="n" { "Per minute" } th scope="col" { "Last used" } th scope="col" { "Ends" } } }
                tbody {
                    @for key in keys {
                        tr data-href=(page_of(&key.prefix)) {
                            th scope="row" { a href=(page_of(&key.prefix)) { (show::text(&key.name)) } br; code class="dim" { (show::text(&key.prefix)) "…" } }
                            td { (show::state(word(key.state))) }
                            td class="wide" { (show::text(&key.scopes.join(", "))) }
                            td class="n" { (show::number(key.rate_per_min)) }
                            td { (ago_or(visit, key.last_used_at, "never")) }
                            td { (ago_or(visit, key.ends_at.or(key.expires_at), "without an end")) }
                        }
                    }
                }
            }
        }
    }
}

fn field(id: &str, label: &str, value: &str, is_required: bool) -> Markup {
    html! {
        p {
            label for=(id) { (label) }
            input id=(id) name=(id) type="text" value=(value) required[is_required] maxlength="1000" autocomplete="off" spellcheck="false";
        }
    }
}

fn issuer(visit: &Visit) -> Markup {
    let content = html! {
        (field("key-name", "Whose key it is, and what for", "", true))
        (field("scopes", "What it may do, as leads:write", "", true))
        (field("contact", "Who looks after the vendor (may stay empty)", "", false))
        (field("rate", "Requests in a minute, at most", "600", false))
        (field("expires", "Expires in, such as 90 d (empty: never)", "", false))
        (field("reason", "Reason, for the record", "", false))
        div class="actions" { button type="submit" { "Issue the key" } }
    };
    html! {
        details class="card" {
            summary { "Issue a key" }
            p { "The whole key is shown once, to be given to the vendor." }
            (frame::form(visit, &address(&["vendor-keys"]), "stack", content))
        }
    }
}

/// A length of time of a form; `None` where it is empty.
fn length(visit: &Visit, fields: &Fields, name: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = fields.text(name) else {
        return Ok(None);
    };
    typed_length(text).map(Some).ok_or_else(|| {
        let message = "Nothing was done: a length of time has a unit, such as 36 h or 90 d";
        refused(visit, message)
    })
}

/// Shows a key, once: it is in no address, and no later page has it.
fn issued(visit: &Visit, issued: &IssuedVendorKey) -> Response {
    let main = html! {
        section class="card" aria-label="The key" {
            p { strong { "This key is shown only now." } " Give it to the vendor over a way that you trust." }
            pre id="secret" tabindex="0" { (show::text(&issued.secret.0)) }
            div class="actions" { button type="button" data-copy="secret" hidden { "Copy" } }
        }
        div class="actions" { a class="button" href=(page_of(&issued.key.prefix)) { "Done" } }
    };
    let path = [(address(&["vendor-keys"]), "Vendor keys")];
    let title = format!("Key of {}", issued.key.name);
    let head = Head::new(Section::People, &title).below(&path);
    frame::page(visit, &head, main)
}

async fn issue(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["vendor-keys"]));
    let body = Json(NewVendorKey {
        name: fields.text("key-name").unwrap_or_default().to_owned(),
        scopes: words(fields.raw("scopes")),
        assigned_to: fields.text("contact").map(str::to_owned),
        rate_per_min: whole(&visit, &fields, "rate", "Requests in a minute").map_err(back)?,
        expires_in_ms: length(&visit, &fields, "expires").map_err(back)?,
    });
    let done = visit.change::<VendorKeysIssue>((), NoQuery {}, body, fields.reason());
    Ok(issued(&visit, &done.await.map_err(back)?))
}

async fn key(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let details = visit.ask::<VendorKeysShow>(path_of(&name), NoQuery {}, NoBody);
    let details = details
        .await
        .map_err(|problem| problem.back(address(&["vendor-keys"])))?;
    let main = html! {
        (facts(&visit, &details.key))
        (actions(&visit, &details.key))
        (uses(&details))
    };
    let path = [(address(&["vendor-keys"]), "Vendor keys")];
    let head = Head::new(Section::People, &details.key.name).below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn facts(visit: &Visit, key: &VendorKey) -> Markup {
    let now = visit.now();
    html! {
        dl class="facts" {
            dt { "State" } dd { (show::state(word(key.state))) @if let Some(ends) = key.ends_at { " until " (show::moment(ends)) } }
            dt { "Key" } dd { code { "vk_live_" (show::text(&key.prefix)) ".…" } }
            dt { "May" } dd { (show::text(&key.scopes.join(", "))) }
            dt { "Requests in a minute" } dd { (show::number(key.rate_per_min)) }
            @if let Some(contact) = &key.assigned_to { dt { "Looked after by" } dd { (show::text(contact)) } }
            dt { "Issued" } dd { (show::ago(key.created_at, now)) " by " (show::text(&key.created_by)) }
            dt { "Changed" } dd { (show::ago(key.changed_at, now)) " by " (show::text(&key.changed_by)) }
            dt { "Expires" } dd { (ago_or(visit, key.expires_at, "never")) }
            @if let Some(other) = &key.replaced_by { dt { "Replaced by" } dd { a href=(page_of(other)) { code { (show::text(other)) } } } }
            dt { "Last used" } dd { (ago_or(visit, key.last_used_at, "never")) }
        }
    }
}

fn actions(visit: &Visit, key: &VendorKey) -> Markup {
    let action = |what: &str| address(&["vendor-keys", &key.prefix, what]);
    let is_usable = matches!(key.state, VendorKeyState::Active | VendorKeyState::Ending);
    let edited = html! {
        (field("name", "Name", &key.name, true))
        (field("scopes", "What it may do", &key.scopes.join(", "), true))
        (field("contact", "Who looks after the vendor", key.assigned_to.as_deref().unwrap_or_default(), false))
        (field("rate", "Requests in a minute, at most", &key.rate_per_min.to_string(), true))
        (field("reason", "Reason, for the record", "", false))
        div class="actions" { button type="submit" { "Save" } }
    };
    let rotated = html! {
        label for="overlap" { "The present key goes on for" }
        input id="overlap" name="overlap" type="text" value="1 d" maxlength="20" autocomplete="off";
        label for="rotate-reason" { "Reason" }
        input id="rotate-reason" name="reason" type="text" maxlength="500" autocomplete="off";
        button type="submit" { "Issue another key in its place" }
    };
    html! {
        @if visit.may::<VendorKeysEdit>() {
            @if key.state == VendorKeyState::Disabled { div class="actions" { (frame::button(visit, &action("enable"), "Enable", &[])) } }
            @if is_usable {
                (with_reason(visit, &action("disable"), "disable-reason", "Disable", false))
                @if key.replaced_by.is_none() { details { summary { "Rotate" } (frame::form(visit, &action("rotate"), "bar", rotated)) } }
            }
            @if !matches!(key.state, VendorKeyState::Revoked | VendorKeyState::Expired) {
                details { summary { "Change" } (frame::form(visit, &action("edit"), "stack", edited)) }
                div class="actions" { a class="button danger" href=(action("revoke")) { "Revoke…" } }
            }
        }
    }
}

fn uses(details: &VendorKeyDetails) -> Markup {
    html! {
        section aria-labelledby="uses" {
            h2 id="uses" { "Requests of the last 30 days" }
            @if details.uses.is_empty() { p class="dim" { "None." } }
            @else {
                div class="table" tabindex="0" role="group" aria-labelledby="uses" {
                    table {
                        thead { tr { th scope="col" { "Day (UTC)" } th scope="col" { "Route" } th scope="col" class="n" { "Requests" } th scope="col" class="n" { "Refused" } } }
                        tbody { @for one in details.uses.iter().take(200) { tr { td { (one.day) } td class="wide" { code { (show::text(&one.route)) } } td class="n" { (show::number(one.calls)) } td class="n" { (show::number(one.refused)) } } } }
                    }
                }
                @if details.uses.len() > 200 { p class="dim" { "Showing the newest 200 of " (show::number(details.uses.len() as u64)) "." } }
            }
        }
    }
}

fn done(visit: &Visit, key: &VendorKey, notice: Notice) -> Response {
    let notice = match key.already {
        true => Notice::new("Nothing has changed: it was so already."),
        false => notice,
    };
    visit.done(&page_of(&key.prefix), &notice)
}

async fn edit(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let body = Json(VendorKeyChange {
        name: fields.text("name").map(str::to_owned),
        scopes: Some(words(fields.raw("scopes"))),
        assigned_to: Some(fields.raw("contact").trim().to_owned()),
        rate_per_min: whole(&visit, &fields, "rate", "Requests in a minute").map_err(back)?,
    });
    let asked = visit.change::<VendorKeysEdit>(path_of(&name), NoQuery {}, body, fields.reason());
    let key = asked.await.map_err(back)?;
    Ok(done(
        &visit,
        &key,
        Notice::new("Saved. Its next request has it."),
    ))
}

async fn rotate(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let body = Json(VendorKeyRotation {
        overlap_ms: length(&visit, &fields, "overlap").map_err(back)?,
    });
    let asked = visit.change::<VendorKeysRotate>(path_of(&name), NoQuery {}, body, fields.reason());
    Ok(issued(&visit, &asked.await.map_err(back)?))
}

async fn disable(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked =
        visit.change::<VendorKeysDisable>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let key = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let notice = Notice::new("Switched off until it is enabled again.")
        .undo("Enable", address(&["vendor-keys", &name, "enable"]));
    Ok(done(&visit, &key, notice))
}

async fn enable(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked =
        visit.change::<VendorKeysEnable>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let key = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    Ok(done(&visit, &key, Notice::new("It can be used again.")))
}

async fn ask_revoke(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    visit.require::<VendorKeysRevoke>()?;
    revoke_page(&visit, unescaped(&name), None).await
}

async fn revoke_page(
    visit: &Visit,
    name: &str,
    refused: Option<&str>,
) -> Result<Response, Problem> {
    let back = page_of(name);
    let details = visit.ask::<VendorKeysShow>(path_of(name), NoQuery {}, NoBody);
    let details = details
        .await
        .map_err(|problem| problem.back(back.clone()))?;
    let calls: u64 = details.uses.iter().map(|one| one.calls).sum();
    let about = html! { p { "The key of " strong { (show::text(&details.key.name)) } ", with " (show::counted(calls, "request")) " in the last 30 days. Its next request is refused. To keep it off for a while, disable it instead." } };
    let confirm = Confirm {
        section: Section::People,
        title: "Revoke the key",
        operation: const { &VendorKeysRevoke::OPERATION },
        name,
        about,
        fields: frame::nothing(),
        action: &address(&["vendor-keys", name, "revoke"]),
        back: &back,
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

async fn revoke(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    if !is_typed(&fields, &name) {
        return revoke_page(&visit, &name, Some(NOT_TYPED)).await;
    }
    let asked =
        visit.destroy::<VendorKeysRevoke>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let key = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    Ok(done(&visit, &key, Notice::new("Revoked, for good.")))
}
