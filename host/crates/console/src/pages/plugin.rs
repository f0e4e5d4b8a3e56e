//! One plugin: its revisions and what changed between them, where it runs, and which one takes calls.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::body::NoBody;
use patchbay_api::breakers::{BreakerView, BreakersList};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::plugins::{
    Activation, Change, Difference, GrantView, HostView, PluginPath, PluginStatus, PluginsActivate,
    PluginsDeactivate, PluginsDelete, PluginsDiff, PluginsGrants, PluginsHistory, PluginsRelease,
    PluginsRollback, PluginsStatus, RevisionSummary, SignatureView, TwoRevisions,
};
use patchbay_api::secrets::{Secret, SecretsList};
use serde::Deserialize;

use super::breakers;
use super::parts::{ago_of, bytes, digest, first_digits, with_reason};
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("plugin/{{name}}{rest}"));
    router
        .route(&of(""), get(plugin))
        .route(&of("/diff"), get(diff))
}

pub(crate) fn path_of(name: &str) -> PluginPath {
    PluginPath {
        name: name.to_owned(),
    }
}

pub(crate) fn page_of(name: &str) -> String {
    address(&["plugin", name])
}

/// The pages of one plugin, of which one is shown.
pub(crate) fn parts(name: &str, shown: &str) -> Markup {
    let pages = [
        ("", "Revisions"),
        ("grants", "Grants"),
        ("settings", "Settings"),
        ("secrets", "Secrets"),
    ];
    html! {
        nav class="tabs" aria-label="Pages of the plugin" {
            ul {
                @for (place, label) in pages {
                    @let address = if place.is_empty() { page_of(name) } else { address(&["plugin", name, place]) };
                    li { a href=(address) aria-current=[(place == shown).then_some("page")] { (label) } }
                }
            }
        }
    }
}

async fn plugin(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let (status, history, grants, secrets, breakers) = tokio::join!(
        visit.ask_shared::<PluginsStatus>(path_of(&name), NoQuery {}),
        visit.ask_shared::<PluginsHistory>(path_of(&name), NoQuery {}),
        visit.ask_shared::<PluginsGrants>(path_of(&name), NoQuery {}),
        visit.ask_shared::<SecretsList>(path_of(&name), NoQuery {}),
        visit.ask_shared::<BreakersList>((), NoQuery {}),
    );
    let back = |problem: Problem| problem.back(address(&["plugins"]));
    let status = status.map_err(back)?;
    let history = history.map_err(back)?;
    let breakers: Vec<BreakerView> = breakers
        .unwrap_or_default()
        .into_iter()
        .filter(|breaker| breaker.plugin.as_str() == name)
        .collect();
    let main = html! {
        (parts(&name, ""))
        div id="standing" data-live {
            (standing(&visit, &status))
            (lacks(&name, grants.as_deref().ok(), secrets.as_deref().ok()))
        }
        (actions(&visit, &status, &history))
        div id="revisions" data-live {
            (revisions(&visit, &status))
            (hosts(&status))
            @if !breakers.is_empty() {
                section aria-labelledby="breakers" {
                    h2 id="breakers" { "Breakers" }
                    (breakers::table(&visit, &breakers))
                }
            }
            (activations(&visit, &history))
        }
    };
    let path = [(address(&["plugins"]), "Plugins")];
    let head = Head::new(Section::Plugins, &name).below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

fn standing(visit: &Visit, status: &PluginStatus) -> Markup {
    html! {
        @if let Some(quarantine) = &status.quarantined {
            section class="wrong bad" aria-label="Quarantine" {
                p { (show::state("quarantined")) " " strong { "Its queues wait" } ", since " (ago_of(visit, &quarantine.since)) " by " (show::text(&quarantine.by)) }
                p { (show::text(&quarantine.reason)) }
                p class="next" { "Activate a repaired revision, or release this one: its jobs continue where they were." }
            }
        }
        @if let Some(failure) = &status.failure {
            section class="wrong bad" aria-label="Failure" {
                p { (show::state("failing")) " " strong { "The active revision does not run on this host" } }
                p { (show::text(failure)) }
            }
        }
        @match (&status.active, &status.running) {
            (Some(active), Some(running)) if active == running => {
                p { (show::state("active")) " Revision " (digest(active)) " takes calls." }
            }
            (Some(active), Some(running)) => {
                p { (show::state("behind")) " Revision " (digest(active)) " is active; " (digest(running)) " still takes calls on this host." }
            }
            (Some(active), None) => { p { "Revision " (digest(active)) " is active; none takes calls on this host." } }
            (None, _) if status.quarantined.is_some() => {}
            (None, _) => { p { (show::state("inactive")) " No revision is active: its queues wait, and its routes answer 503." } }
        }
    }
}

/// What keeps it from working although it is active.
fn lacks(name: &str, grants: Option<&[GrantView]>, secrets: Option<&[Secret]>) -> Markup {
    let ungranted = grants.unwrap_or_default().iter();
    let ungranted = ungranted
        .filter(|grant| {
            grant.granted_by.is_none() && (grant.asked_by_active || grant.asked_by_newest)
        })
        .count();
    let missing: Vec<&Secret> = secrets
        .unwrap_or_default()
        .iter()
        .filter(|secret| secret.asked && secret.source == "none")
        .collect();
    html! {
        @if ungranted > 0 {
            p { (show::state("warning")) " " a href=(address(&["plugin", name, "grants"])) { (show::counted(ungranted as u64, "ask")) } @if ungranted == 1 { " is" } @else { " are" } " not granted." }
        }
        @if !missing.is_empty() {
            p { (show::state("warning")) " No value for " a href=(address(&["plugin", name, "secrets"])) { (show::counted(missing.len() as u64, "secret")) } ": "
                @for (place, secret) in missing.iter().enumerate() { @if place > 0 { ", " } code { (show::text(&secret.name)) } }
                ". What needs them fails." }
        }
    }
}

fn actions(visit: &Visit, status: &PluginStatus, history: &[Activation]) -> Markup {
    let name = &status.name;
    let action = |what: &str| address(&["plugin", name, what]);
    // What was active before the present one, as far as it is kept.
    let before = history
        .iter()
        .filter_map(|activation| activation.digest.as_deref())
        .find(|digest| Some(*digest) != status.active.as_deref())
        .filter(|digest| {
            status
                .revisions
                .iter()
                .any(|revision| revision.digest == **digest)
        });
    html! {
        @if visit.may::<PluginsRelease>() && status.quarantined.is_some() {
            (with_reason(visit, &action("release"), "release-reason", "Release from quarantine", true))
        }
        @if visit.may::<PluginsRollback>() && status.active.is_some() && let Some(before) = before {
            (with_reason(visit, &action("rollback"), "rollback-reason", &format!("Roll back to {}", first_digits(before)), false))
        }
        @if visit.may::<PluginsDeactivate>() && (status.active.is_some() || status.quarantined.is_some()) {
            details {
                summary { "Deactivate" }
                p { "Its queues wait until a revision is activated. Running calls finish, and nothing is lost." }
                (with_reason(visit, &action("deactivate"), "deactivate-reason", "Deactivate", false))
            }
        }
    }
}

fn revisions(visit: &Visit, status: &PluginStatus) -> Markup {
    let name = &status.name;
    html! {
        section aria-labelledby="revisions-title" {
            h2 id="revisions-title" { "Revisions" }
            div class="table" tabindex="0" role="group" aria-labelledby="revisions-title" {
                table class="rows" {
                    thead { tr {
                        th scope="col" { "Revision" }
                        th scope="col" { "State" }
                        th scope="col" { "Pushed" }
                        th scope="col" { "Activated" }
                        th scope="col" class="n" { "Attempts" }
                        th scope="col" { "Signed" }
                        th scope="col" { "Compare and change" }
                    } }
                    tbody {
                        @for (place, revision) in status.revisions.iter().enumerate() {
                            (revision_row(visit, name, status, revision, status.revisions.get(place + 1)))
                        }
                    }
                }
            }
        }
    }
}

fn revision_row(
    visit: &Visit,
    name: &str,
    status: &PluginStatus,
    revision: &RevisionSummary,
    earlier: Option<&RevisionSummary>,
) -> Markup {
    let is_active = revision.state == "active";
    let compared = |from: &str| {
        address_with(
            &["plugin", name, "diff"],
            &[("from", from), ("to", &revision.digest)],
        )
    };
    html! {
        tr {
            th scope="row" { (show::text(&revision.version)) " " (digest(&revision.digest)) br; span class="dim" { (bytes(revision.size_bytes.unsigned_abs())) } }
            td { (show::state(&revision.state)) }
            td { (ago_of(visit, &revision.created_at)) " by " (show::text(&revision.created_by)) }
            td { @match &revision.activated_at { Some(at) => { (ago_of(visit, at)) } None => { span class="dim" { "never" } } } }
            td class="n" { (show::number(revision.attempts)) }
            td { (signed(&revision.signatures)) }
            td {
                @if !is_active && let Some(active) = &status.active { a href=(compared(active)) { "With the active one" } " " }
                @if let Some(earlier) = earlier && Some(&earlier.digest) != status.active.as_ref() { a href=(compared(&earlier.digest)) { "With the one before" } " " }
                @else if is_active && let Some(earlier) = earlier { a href=(compared(&earlier.digest)) { "With the one before" } " " }
                @if !is_active && visit.may::<PluginsActivate>() { a class="button" href=(address(&["plugin", name, "activate", &revision.digest])) { "Activate…" } " " }
                @if !is_active && visit.may::<PluginsDelete>() { a class="button danger" href=(address(&["plugin", name, "delete", &revision.digest])) { "Delete…" } }
            }
        }
    }
}

fn signed(signatures: &[SignatureView]) -> Markup {
    html! {
        @if signatures.is_empty() { span class="dim" { "not signed" } }
        @for signature in signatures {
            @let word = serde_json::to_value(signature.standing).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
            (show::state(&word)) " " code { (show::text(&signature.key_id)) } " by " (show::text(&signature.added_by)) " "
        }
    }
}

fn hosts(status: &PluginStatus) -> Markup {
    html! {
        @if !status.hosts.is_empty() {
            section aria-labelledby="hosts" {
                h2 id="hosts" { "Hosts" }
                (host_table(&status.hosts))
            }
        }
    }
}

fn host_table(hosts: &[HostView]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Hosts" {
            table {
                thead { tr { th scope="col" { "Host" } th scope="col" { "Runs" } th scope="col" { "State" } } }
                tbody {
                    @for host in hosts {
                        tr {
                            th scope="row" { (show::text(&host.host)) " " span class="dim" { (show::text(&host.version)) } }
                            td { @match &host.running { Some(running) => { (digest(&running.to_string())) } None => { span class="dim" { "no revision" } } } }
                            td class="message" {
                                @if let Some(seconds) = host.silent_s { (show::state("lost")) " silent for " (show::length(seconds * 1000)) }
                                @else if let Some(failure) = &host.failure { (show::state("failing")) " " (show::text(failure)) }
                                @else if host.is_current { (show::state("active")) }
                                @else { (show::state("behind")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn activations(visit: &Visit, history: &[Activation]) -> Markup {
    html! {
        section aria-labelledby="history" {
            h2 id="history" { "Who activated what" }
            @if history.is_empty() { p class="dim" { "No revision has been active yet." } }
            @else {
                ul class="timeline" {
                    @for activation in history.iter().take(30) {
                        li {
                            p {
                                (show::text(&activation.action)) " "
                                @if let Some(one) = &activation.digest { @if let Some(version) = &activation.version { (show::text(version)) " " } (digest(one)) }
                                " by " (show::text(&activation.actor)) " " (ago_of(visit, &activation.at))
                                @if let Some(reason) = &activation.reason { ": “" (show::text(reason)) "”" }
                            }
                        }
                    }
                }
                @if history.len() > 30 { p class="dim" { "The newest 30 of " (show::number(history.len() as u64)) "." } }
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Compared {
    from: String,
    to: String,
}

async fn diff(
    visit: Visit,
    Path(name): Path<String>,
    Query(compared): Query<Compared>,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let difference = difference(&visit, &name, &compared.from, &compared.to).await;
    let difference = difference.map_err(|problem| problem.back(page_of(&name)))?;
    let main = html! {
        p { "From " (digest(&difference.from)) " to " (digest(&difference.to)) ". "
            a href=(address_with(&["plugin", &name, "diff"], &[("from", &difference.to), ("to", &difference.from)])) { "The other way round" } }
        (changes(&difference))
        @if visit.may::<PluginsActivate>() {
            div class="actions" { a class="button" href=(address(&["plugin", &name, "activate", &difference.to])) { "Activate " (first_digits(&difference.to)) "…" } }
        }
    };
    let path = [
        (address(&["plugins"]), "Plugins"),
        (page_of(&name), name.as_str()),
    ];
    let head = Head::new(Section::Plugins, "What changed").below(&path);
    Ok(frame::page(&visit, &head, main))
}

pub(crate) async fn difference(
    visit: &Visit,
    name: &str,
    from: &str,
    to: &str,
) -> Result<Difference, Problem> {
    let two = TwoRevisions {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    visit.ask::<PluginsDiff>(path_of(name), two, NoBody).await
}

pub(crate) fn changes(difference: &Difference) -> Markup {
    html! {
        @if difference.changes.is_empty() {
            p { "Only the code differs: manifest, imports and exports are the same." }
        } @else {
            div class="table" tabindex="0" role="group" aria-label="Changes" {
                table {
                    thead { tr { th scope="col" { "Part" } th scope="col" { "Before" } th scope="col" { "After" } } }
                    tbody { @for change in &difference.changes { (changed(change)) } }
                }
            }
        }
    }
}

fn changed(change: &Change) -> Markup {
    let value = |value: Option<&serde_json::Value>, absent: &str| {
        html! {
            @match value {
                Some(serde_json::Value::String(text)) => { (show::text(text)) }
                Some(value @ (serde_json::Value::Array(_) | serde_json::Value::Object(_))) => { (show::json(&value.to_string())) }
                Some(value) => { code { (value.to_string()) } }
                None => { span class="dim" { (absent) } }
            }
        }
    };
    html! {
        tr {
            th scope="row" { (show::text(&change.part)) @if let Some(name) = &change.name { " " strong { (show::text(name)) } } }
            td class="wide" { (value(change.before.as_ref(), "not there")) }
            td class="wide" { (value(change.after.as_ref(), "removed")) }
        }
    }
}
