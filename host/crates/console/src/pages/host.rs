//! The host that answers: whether it is fit for work, its keys, and a bundle for whoever analyses an
//! incident.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use maud::{Markup, html};
use patchbay_api::answer::Media;
use patchbay_api::body::NoBody;
use patchbay_api::history::{HistoryStatus, Status};
use patchbay_api::incident::{Bundle, IncidentBundle, IncidentQuery};
use patchbay_api::keys::{HostKey, HostKeyState, KeysList, KeysReplace, KeysRotate};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::secrets::SecretsRekey;
use patchbay_api::status::{Overview, StatusShow};

use super::parts::{NOT_TYPED, ago_or, refused, typed_length};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["host"]), get(host))
        .route(&address(&["host", "incident"]), post(incident))
        .route(&address(&["host", "rekey"]), post(rekey))
        .route(&address(&["host", "rotate-key"]), post(rotate_key))
        .route(
            &address(&["host", "replace-key"]),
            get(ask_replace_key).post(replace_key),
        )
}

async fn host(visit: Visit) -> Result<Response, Problem> {
    let (status, keys, history) = tokio::join!(
        visit.ask_shared::<StatusShow>((), NoQuery {}),
        visit.ask_shared::<KeysList>((), NoQuery {}),
        visit.ask_shared::<HistoryStatus>((), NoQuery {}),
    );
    let status = status?;
    let main = html! {
        div id="host" data-live {
            (fitness(&status))
            (hosts(&status))
            @if let Ok(history) = &history { (kept(&visit, history)) }
        }
        @match &keys {
            Ok(keys) => { (key_table(&visit, keys)) }
            Err(problem) => { p { (show::state("warning")) " Keys of the host are not known now: " (show::text(&problem.message)) } }
        }
        @if visit.may::<IncidentBundle>() { (bundle(&visit)) }
        section aria-labelledby="doctor" {
            h2 id="doctor" { "More checks" }
            p { "On the machine of the host, " code { "patchbay doctor" } " checks configuration, databases, clock and limits, and says what to do." }
        }
    };
    let head = Head::new(Section::Host, "Hosts").live();
    Ok(frame::page(&visit, &head, main))
}

fn fitness(status: &Overview) -> Markup {
    html! {
        section aria-labelledby="fitness" {
            h2 id="fitness" { "The host that answers" }
            p { @if status.ready { (show::state("ready")) } @else { (show::state("not ready")) } " " strong { (show::text(&status.host)) } ", Patchbay " (show::text(&status.version)) }
            @if status.reasons.is_empty() && status.unavailable.is_empty() { p class="all-well" { "It is ready for work, and every part answers." } }
            @else {
                ul class="wrongs" {
                    @for reason in &status.reasons {
                        li class="wrong bad" { p { code { (show::text(&reason.code)) } " " strong { (show::text(&reason.message)) } } p class="next" { (show::text(&reason.next)) } }
                    }
                    @for part in &status.unavailable { li class="wrong warn" { p { strong { "Not known now: " (show::text(&part.part)) } } p { (show::text(&part.reason)) } } }
                }
            }
        }
    }
}

fn hosts(status: &Overview) -> Markup {
    html! {
        section aria-labelledby="hosts" {
            h2 id="hosts" { "Every host" }
            div class="table" tabindex="0" role="group" aria-labelledby="hosts" {
                table {
                    thead { tr { th scope="col" { "Host" } th scope="col" { "Version" } th scope="col" { "State" } } }
                    tbody {
                        @for host in &status.hosts {
                            tr {
                                th scope="row" { (show::text(&host.host)) }
                                td { (show::text(&host.version)) @if host.version != status.version { " " (show::state("other version")) } }
                                td { @match host.silent_s { Some(seconds) => { (show::state("lost")) " silent for " (show::length(seconds * 1000)) } None => { (show::state("active")) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What the history holds.
fn kept(visit: &Visit, history: &Status) -> Markup {
    let stream = &history.stream;
    html! {
        section aria-labelledby="history" {
            h2 id="history" { "The history" }
            dl class="facts" {
                dt { "Attempts" } dd { @if history.enabled { "recorded" } @else { (show::state("off")) " This host records none." } }
                dt { "Not in Postgres yet" } dd { (show::counted(stream.attempts, "attempt")) @if let Some(lag) = stream.lag_ms { ", the oldest for " (show::length(lag)) } }
                @if stream.set_aside > 0 { dt { "Set aside" } dd { (show::state("warning")) " " (show::counted(stream.set_aside, "attempt")) " that cannot be read or stored" } }
                dt { "Data and results" } dd { @if history.bodies.kept { "kept" } @else { "not kept" } @if let Some(reason) = &history.bodies.reason { ": " (show::text(reason)) } }
                dt { "The oldest attempt" } dd { (ago_or(visit, history.oldest, "none")) }
            }
        }
    }
}

fn key_table(visit: &Visit, keys: &[HostKey]) -> Markup {
    let has_jwt = keys.iter().any(|key| key.purpose == "jwt");
    html! {
        section aria-labelledby="keys" {
            h2 id="keys" { "Keys of the host" }
            @if keys.is_empty() { p class="dim" { "None yet." } }
            @else {
                div class="table" tabindex="0" role="group" aria-labelledby="keys" {
                    table {
                        thead { tr { th scope="col" { "Key" } th scope="col" { "For" } th scope="col" { "State" } th scope="col" { "Made" } th scope="col" { "Verifies until" } } }
                        tbody {
                            @for key in keys {
                                tr {
                                    th scope="row" { code { (show::text(&key.kid)) } }
                                    td { (show::text(&key.purpose)) }
                                    td class="message" {
                                        @match key.state { HostKeyState::Waits => { (show::state("waits")) } HostKeyState::Signs => { (show::state("signs")) } HostKeyState::Verifies => { (show::state("verifies")) } }
                                        @if !key.missing_on.is_empty() { " for " (show::text(&key.missing_on.join(", "))) }
                                        @if let Some(problem) = &key.problem { " " (show::state("critical")) " " (show::text(problem)) }
                                    }
                                    td { (ago_or(visit, key.created_at, "in the configuration")) }
                                    td { (ago_or(visit, key.verifies_until, "without an end")) }
                                }
                            }
                        }
                    }
                }
            }
            div class="actions" role="group" aria-label="Keys" {
                @if visit.may::<KeysRotate>() && has_jwt { (frame::button(visit, &address(&["host", "rotate-key"]), "Rotate the key of access tokens", &[])) }
                @if visit.may::<SecretsRekey>() { (frame::button(visit, &address(&["host", "rekey"]), "Reseal every secret with the newest master key", &[])) }
                @if visit.may::<KeysReplace>() && has_jwt { a class="button danger" href=(address(&["host", "replace-key"])) { "Replace the key of access tokens after a leak…" } }
            }
        }
    }
}

fn bundle(visit: &Visit) -> Markup {
    let content = html! {
        label for="since" { "Failures and actions of the last" }
        input id="since" name="since" type="text" value="1 h" required maxlength="20" autocomplete="off";
        button type="submit" { "Download the bundle" }
    };
    html! {
        section aria-labelledby="bundle" {
            h2 id="bundle" { "Incident bundle" }
            p { "One archive with what helps to understand an incident elsewhere. Hidden values stay hidden in it, and the download is recorded." }
            (frame::form(visit, &address(&["host", "incident"]), "bar", content))
        }
    }
}

async fn incident(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["host"]));
    let Some(ms) = typed_length(fields.raw("since")) else {
        let message = "Nothing was done: a length of time has a unit, such as 30 min, 4 h or 2 d";
        return Err(back(refused(&visit, message)));
    };
    let query = IncidentQuery {
        since_s: Some(ms.div_ceil(1000)),
    };
    let file = visit.file::<IncidentBundle, Bundle>((), query).await;
    let file = file.map_err(back)?;
    let name = format!(
        "attachment; filename=\"patchbay-incident-{}.tar.gz\"",
        visit.now().format("%Y%m%d-%H%M%S")
    );
    let headers = [
        (CONTENT_TYPE, Bundle::TYPE.to_owned()),
        (CONTENT_DISPOSITION, name),
    ];
    Ok((headers, file).into_response())
}

async fn rekey(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let done = visit.change::<SecretsRekey>((), NoQuery {}, NoBody, fields.reason());
    let done = done
        .await
        .map_err(|problem| problem.back(address(&["host"])))?;
    let mut text = format!(
        "Key {} seals now. Resealed: {}, {} of the history, {} of the host.",
        done.key_id,
        show::counted(done.resealed, "secret version"),
        show::counted(done.history_keys, "key"),
        show::counted(done.host_keys, "key"),
    );
    if !done.unreadable.is_empty() {
        text.push_str(&format!(" No key opens: {}.", done.unreadable.join(", ")));
    }
    Ok(visit.done(&address(&["host"]), &Notice::new(text)))
}

async fn rotate_key(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let done = visit.change::<KeysRotate>((), NoQuery {}, NoBody, fields.reason());
    let key = done
        .await
        .map_err(|problem| problem.back(address(&["host"])))?;
    let notice = Notice::new(format!(
        "Key {} signs as soon as every running host knows it. Clients need to do nothing.",
        key.kid
    ));
    Ok(visit.done(&address(&["host"]), &notice))
}

async fn ask_replace_key(visit: Visit) -> Result<Response, Problem> {
    visit.require::<KeysReplace>()?;
    Ok(replace_page(&visit, None))
}

fn replace_page(visit: &Visit, refused: Option<&str>) -> Response {
    let confirm = Confirm {
        section: Section::Host,
        title: "Replace the key of access tokens",
        operation: const { &KeysReplace::OPERATION },
        name: "all",
        about: html! { p { "For a leak. Refresh tokens go on: clients that refresh notice nothing else. To replace a key without a leak, rotate it." } },
        fields: frame::nothing(),
        action: &address(&["host", "replace-key"]),
        back: &address(&["host"]),
        refused,
    };
    confirm::page(visit, confirm)
}

async fn replace_key(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    if !is_typed(&fields, "all") {
        return Ok(replace_page(&visit, Some(NOT_TYPED)));
    }
    let done = visit.destroy::<KeysReplace>((), NoQuery {}, NoBody, fields.reason());
    let key = done
        .await
        .map_err(|problem| problem.back(address(&["host"])))?;
    let notice = Notice::new(format!(
        "Key {} signs now. Every access token before has ended.",
        key.kid
    ));
    Ok(visit.done(&address(&["host"]), &notice))
}
