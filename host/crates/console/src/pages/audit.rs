//! Audit trails: their entries, whether they are whole, and how long they are kept.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use maud::{Markup, html};
use patchbay_api::answer::Media;
use patchbay_api::audit::{
    AuditAcceptGap, AuditEntries, AuditEntry, AuditExpire, AuditExport, AuditProtection,
    AuditReport, AuditRetentionList, AuditRetentionReset, AuditRetentionSet, AuditTrail,
    AuditTrailsList, AuditTrailsRemove, AuditVerify, EntriesCsv, EntriesQuery, ExportQuery,
    LedgerProtection, RetentionChange, TrailPath, TrailReport, TrailRetention, Verdict, Verify,
};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use serde::Deserialize;

use super::activity::pages;
use super::inbox::{since, some};
use super::parts::{NOT_TYPED, older, refused};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::{Posted, whole};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("audit/{{trail}}{rest}"));
    router
        .route(&address(&["audit"]), get(trails))
        .route(&address(&["audit-verify"]), post(verify))
        .route(&of(""), get(trail))
        .route(&of("/export"), post(export))
        .route(&of("/keep"), post(keep))
        .route(&of("/keep-for-ever"), post(keep_for_ever))
        .route(&of("/expire"), get(ask_expire).post(expire))
        .route(&of("/accept-gap"), post(accept_gap))
        .route(&of("/remove"), post(remove))
}

/// Trails that every operator may read, also without the right to see data.
const OPEN: [&str; 2] = ["operators", "plugins"];

fn path_of(trail: &str) -> TrailPath {
    TrailPath {
        trail: trail.to_owned(),
    }
}

fn page_of(trail: &str) -> String {
    address(&["audit", trail])
}

async fn trails(visit: Visit) -> Result<Response, Problem> {
    let (trails, kept, protection) = tokio::join!(
        visit.ask_shared::<AuditTrailsList>((), NoQuery {}),
        visit.ask_shared::<AuditRetentionList>((), NoQuery {}),
        visit.ask_shared::<AuditProtection>((), NoQuery {}),
    );
    let (trails, kept) = (trails?, kept?);
    let main = html! {
        (pages("audit"))
        p { "Entries are never changed. Verifying reads every entry and says whether one was changed, removed, added or moved." }
        @if visit.may::<AuditVerify>() { div class="actions" { (frame::button(&visit, &address(&["audit-verify"]), "Verify every trail", &[])) } }
        (table(&trails, &kept))
        @match &protection {
            Ok(protection) => { (protected(protection)) }
            Err(problem) => { p { (show::state("warning")) " Who could change entries is not known now: " (show::text(&problem.message)) } }
        }
    };
    let head = Head::new(Section::Activity, "Audit trails");
    Ok(frame::page(&visit, &head, main))
}

fn table(trails: &[AuditTrail], kept: &[TrailRetention]) -> Markup {
    let of_host = OPEN
        .into_iter()
        .filter(|name| !trails.iter().any(|trail| trail.name == *name));
    html! {
        div class="table" tabindex="0" role="group" aria-label="Audit trails" {
            table class="rows" {
                thead { tr { th scope="col" { "Trail" } th scope="col" { "About" } th scope="col" { "Read by" } th scope="col" { "Kept" } } }
                tbody {
                    @for name in of_host {
                        tr data-href=(page_of(name)) {
                            th scope="row" { a href=(page_of(name)) { (name) } }
                            td class="message" { @if name == "operators" { "What operators did" } @else { "What happened to plugins" } }
                            td { "operators" }
                            td { (kept_for(kept, name)) }
                        }
                    }
                    @for trail in trails {
                        tr data-href=(page_of(&trail.name)) {
                            th scope="row" { a href=(page_of(&trail.name)) { (show::text(&trail.name)) } }
                            td class="message" { (show::text(&trail.description)) }
                            td { "operators" @if !trail.readers.is_empty() { " and accounts: " (show::text(&trail.readers.join(", "))) } }
                            td { (kept_for(kept, &trail.name)) }
                        }
                    }
                }
            }
        }
    }
}

fn kept_for(kept: &[TrailRetention], trail: &str) -> Markup {
    let found = kept.iter().find(|one| one.trail == trail);
    html! {
        @match found { Some(one) => { (show::counted(one.keep_days, "day")) " (" (show::text(&one.changed_by)) ")" } None => { span class="dim" { "for ever" } } }
    }
}

fn protected(protection: &LedgerProtection) -> Markup {
    html! {
        section aria-labelledby="protection" {
            h2 id="protection" { "Who could change entries" }
            p { (show::state(&protection.level)) " " (show::text(&protection.meaning)) }
            p class="dim" { "The host logs in to Postgres as " code { (show::text(&protection.login)) } "; the tables belong to " code { (show::text(&protection.owner)) } "." }
            @if !protection.statements.is_empty() { details { summary { "Statements for an administrator of the database" } (show::block(&protection.statements.join("\n"))) } }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    #[serde(default)]
    action: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    cursor: Option<String>,
}

impl Which {
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("action", self.action.trim()),
            ("since", self.since.trim()),
            ("until", self.until.trim()),
        ];
        all.into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }
}

/// Who may read a trail: some hold data of people.
fn require_sight(visit: &Visit, trail: &str) -> Result<(), Problem> {
    if OPEN.contains(&trail) {
        return Ok(());
    }
    visit.require::<AuditEntries>()
}

async fn trail(
    visit: Visit,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(address(&["audit"]));
    let query = EntriesQuery {
        trail: Some(name.clone()),
        plugin: None,
        queue: None,
        job: None,
        actor: None,
        action: some(&which.action),
        entity: None,
        since: since(&which.since),
        until: since(&which.until),
        cursor: which.cursor.clone(),
        limit: Some(100),
    };
    let (page, kept) = tokio::join!(
        visit.page::<AuditEntries, AuditEntry>((), query),
        visit.ask_shared::<AuditRetentionList>((), NoQuery {}),
    );
    let (page, kept) = (page.map_err(back)?, kept.map_err(back)?);
    let kept = kept.into_iter().find(|one| one.trail == name);
    let next = page.next_cursor.map(|cursor| {
        let mut query = which.pairs();
        query.push(("cursor", cursor.as_str()));
        address_with(&["audit", &name], &query)
    });
    let exported = which.pairs();
    let main = html! {
        (filter(&name, &which))
        div class="actions" role="group" aria-label="Actions" {
            @if visit.may::<AuditVerify>() { (frame::button(&visit, &address(&["audit-verify"]), "Verify", &[("trail", &name)])) }
            @if visit.who().is_some() { (frame::button(&visit, &address(&["audit", &name, "export"]), "Comma-separated values (recorded)", &exported)) }
        }
        @if page.items.is_empty() { (frame::empty("No entry matches.", html! { "Entries appear here as they are written." })) }
        @else { (entries(&visit, &page.items)) }
        (older(next, "Older"))
        @if visit.may::<AuditRetentionSet>() { (keeping(&visit, &name, kept.as_ref())) }
    };
    let path = [(address(&["audit"]), "Audit trails")];
    let title = format!("Audit trail {name}");
    let head = Head::new(Section::Activity, &title).below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn filter(trail: &str, which: &Which) -> Markup {
    html! {
        form method="get" action=(page_of(trail)) class="bar" role="search" aria-label="Entries" {
            span class="field" {
                label for="action" { "Action" }
                input id="action" name="action" type="text" value=(which.action) autocomplete="off" spellcheck="false" maxlength="300";
            }
            span class="field" {
                label for="since" { "From (UTC)" }
                input id="since" name="since" type="datetime-local" value=(which.since);
            }
            span class="field" {
                label for="until" { "Before (UTC)" }
                input id="until" name="until" type="datetime-local" value=(which.until);
            }
            button type="submit" { "Filter" }
        }
    }
}

fn entries(visit: &Visit, entries: &[AuditEntry]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Entries" {
            table {
                thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "About" } th scope="col" { "Entry" } } }
                tbody {
                    @for entry in entries {
                        tr {
                            td { (show::ago(entry.at, visit.now())) @if entry.origin == "import" { br; span class="dim" { "taken over" } } }
                            th scope="row" {
                                (show::text(entry.actor_name.as_deref().or(entry.actor_id.as_deref()).or(entry.plugin.as_deref()).unwrap_or("the host")))
                                @if let Some(kind) = &entry.actor_kind { br; span class="dim" { (show::text(kind)) @if let Some(from) = &entry.address { " from " (show::text(from)) } } }
                            }
                            td { @match &entry.action { Some(action) => { (show::text(action)) } None => { (show::unknown()) } } }
                            td class="wide" {
                                @if let Some(entity) = &entry.entity { (show::short(entity, 80)) }
                                @if let (Some(queue), Some(job)) = (&entry.queue, &entry.job_id) { " " a href=(address(&["job", queue, job])) { "job " (show::short(job, 30)) } }
                            }
                            td class="message" { details { summary { "Entry " (entry.id) } (show::json(&entry.entry.to_string())) } }
                        }
                    }
                }
            }
        }
    }
}

fn keeping(visit: &Visit, trail: &str, kept: Option<&TrailRetention>) -> Markup {
    let action = |what: &str| address(&["audit", trail, what]);
    let days = html! {
        label for="days" { "Keep entries for days (at least 90)" }
        input id="days" name="days" type="number" min="90" max="36500" required value=(kept.map(|kept| kept.keep_days.to_string()).unwrap_or_default());
        button type="submit" { "Set" }
    };
    let gap = html! {
        label for="gap-reason" { "Reason" }
        input id="gap-reason" name="reason" type="text" required maxlength="500" autocomplete="off";
        button type="submit" { "Accept the gap" }
    };
    html! {
        details class="card" {
            summary { "How long it is kept, and gaps" }
            p { @match kept { Some(kept) => { "Entries are kept for " (show::counted(kept.keep_days, "day")) ", as " (show::text(&kept.changed_by)) " said " (show::ago(kept.changed_at, visit.now())) "." } None => { "Entries are kept for ever." } } }
            (frame::form(visit, &action("keep"), "bar", days))
            @if kept.is_some() {
                div class="actions" {
                    (frame::button(visit, &action("keep-for-ever"), "Keep for ever again", &[]))
                    a class="button danger" href=(action("expire")) { "Delete what is older…" }
                }
            }
            p { "After the database was restored from an older dump, entries are missing at the end. Accepting that begins a new epoch, and is recorded." }
            (frame::form(visit, &action("accept-gap"), "bar", gap))
            @if !OPEN.contains(&trail) && visit.may::<AuditTrailsRemove>() {
                p { "A trail that is removed takes no new entries; those that it has stay." }
                div class="actions" { (frame::button(visit, &action("remove"), "Remove the trail", &[])) }
            }
        }
    }
}

async fn verify(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let trail = fields.text("trail").map(str::to_owned);
    let back = trail
        .as_deref()
        .map_or_else(|| address(&["audit"]), page_of);
    let body = Json(Verify {
        trail,
        anchors: Vec::new(),
    });
    let report = visit.ask::<AuditVerify>((), NoQuery {}, body).await;
    let report = report.map_err(|problem| problem.back(back.clone()))?;
    let main = html! {
        (reported(&report))
        div class="actions" { a class="button" href=(back) { "Back" } }
    };
    let path = [(address(&["audit"]), "Audit trails")];
    let head = Head::new(Section::Activity, "Verification").below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Whole => "whole",
        Verdict::Shorter => "shorter",
        Verdict::Broken => "broken",
    }
}

fn reported(report: &AuditReport) -> Markup {
    html! {
        section class={ "wrong " @if report.result == Verdict::Whole { "good" } @else { "bad" } } aria-label="Result" {
            p { (show::state(word(report.result))) " " @match report.result {
                Verdict::Whole => { strong { "Every entry is as it was written." } }
                Verdict::Shorter => { strong { "What is there fits, but entries are missing at the end." } " If the database was restored from an older dump, an owner can accept the gap." }
                Verdict::Broken => { strong { "Something was changed, removed, added or moved." } " Keep the database as it is, and look at who has had access to it." }
            } }
            @if report.macs != "checked" { p { "Codes were not checked, because no master key is configured: whoever can write to the database could compute a chain that fits." } }
        }
        div class="table" tabindex="0" role="group" aria-label="Trails" {
            table {
                thead { tr { th scope="col" { "Trail" } th scope="col" { "Result" } th scope="col" class="n" { "Entries" } th scope="col" class="n" { "Batches" } th scope="col" class="n" { "Not sealed yet" } th scope="col" class="n" { "Expired" } } }
                tbody { @for trail in &report.trails { (reported_row(trail)) } }
            }
        }
        @for trail in report.trails.iter().filter(|trail| !trail.problems.is_empty() || trail.missing.is_some()) {
            section aria-label={ "Problems of " (trail.trail) } {
                h2 { (show::text(&trail.trail)) }
                ul {
                    @if let Some(missing) = &trail.missing { li { (show::text(&missing.message)) } }
                    @for problem in &trail.problems { li { code { (show::text(&problem.kind)) } " " (show::text(&problem.message)) } }
                    @if trail.more_problems > 0 { li { "and " (show::counted(trail.more_problems, "more problem")) } }
                }
            }
        }
    }
}

fn reported_row(trail: &TrailReport) -> Markup {
    html! {
        tr {
            th scope="row" { a href=(page_of(&trail.trail)) { (show::text(&trail.trail)) } }
            td { (show::state(word(trail.result))) @if trail.unchecked_macs > 0 { " " (show::number(trail.unchecked_macs)) " codes not checked" } }
            td class="n" { (show::number(trail.entries)) }
            td class="n" { (show::number(trail.batches)) }
            td class="n" { (show::number(trail.pending)) }
            td class="n" { (show::number(trail.expired)) }
        }
    }
}

async fn export(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    require_sight(&visit, &name)?;
    let query = ExportQuery {
        format: None,
        trail: Some(name.clone()),
        actor: None,
        action: fields.text("action").map(str::to_owned),
        entity: None,
        since: since(fields.raw("since")),
        until: since(fields.raw("until")),
    };
    let file = visit.file::<AuditExport, EntriesCsv>((), query).await;
    let file = file.map_err(|problem| problem.back(page_of(&name)))?;
    let headers = [
        (CONTENT_TYPE, EntriesCsv::TYPE),
        (CONTENT_DISPOSITION, "attachment; filename=\"audit.csv\""),
    ];
    Ok((headers, file).into_response())
}

async fn keep(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let days = whole(&visit, &fields, "days", "Days").map_err(back)?;
    let Some(keep_days) = days else {
        return Err(back(refused(
            &visit,
            "Nothing was done: say for how many days",
        )));
    };
    let body = Json(RetentionChange { keep_days });
    let done = visit.change::<AuditRetentionSet>(path_of(&name), NoQuery {}, body, fields.reason());
    done.await.map_err(back)?;
    let notice = Notice::new(format!(
        "Entries of {name} are kept for {keep_days} days. Nothing was deleted."
    ))
    .undo("Keep for ever", address(&["audit", &name, "keep-for-ever"]));
    Ok(visit.done(&page_of(&name), &notice))
}

async fn keep_for_ever(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let reason = fields.reason();
    let done = visit.change::<AuditRetentionReset>(path_of(&name), NoQuery {}, NoBody, reason);
    done.await.map_err(|problem| problem.back(page_of(&name)))?;
    let notice = Notice::new(format!("Entries of {name} are kept for ever."));
    Ok(visit.done(&page_of(&name), &notice))
}

async fn ask_expire(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    visit.require::<AuditExpire>()?;
    Ok(expire_page(&visit, unescaped(&name), None))
}

fn expire_page(visit: &Visit, name: &str, refused: Option<&str>) -> Response {
    let about = html! { p { "Entries of " strong { (show::text(name)) } " that are older than it is kept. Their batches stay, so that the rest can still be verified." } };
    let confirm = Confirm {
        section: Section::Activity,
        title: "Delete old entries",
        operation: const { &AuditExpire::OPERATION },
        name,
        about,
        fields: frame::nothing(),
        action: &address(&["audit", name, "expire"]),
        back: &page_of(name),
        refused,
    };
    confirm::page(visit, confirm)
}

async fn expire(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    if !is_typed(&fields, &name) {
        return Ok(expire_page(&visit, &name, Some(NOT_TYPED)));
    }
    let done = visit.destroy::<AuditExpire>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let done = done.await.map_err(|problem| problem.back(page_of(&name)))?;
    let mut text = match done.deleted {
        1 => "Deleted one entry.".to_owned(),
        count => format!("Deleted {} entries.", show::number(count)),
    };
    if done.more {
        text.push_str(" There are more: delete again.");
    }
    Ok(visit.done(&page_of(&name), &Notice::new(text)))
}

async fn accept_gap(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let done = visit.change::<AuditAcceptGap>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let gap = done.await.map_err(|problem| problem.back(page_of(&name)))?;
    let notice = Notice::new(format!("Epoch {} of {name} has begun.", gap.epoch));
    Ok(visit.done(&page_of(&name), &notice))
}

async fn remove(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let reason = fields.reason();
    let done = visit.change::<AuditTrailsRemove>(path_of(&name), NoQuery {}, NoBody, reason);
    done.await.map_err(|problem| problem.back(page_of(&name)))?;
    let notice = Notice::new(format!(
        "Removed the trail {name}: it takes no new entries. Those that it has stay."
    ));
    Ok(visit.done(&address(&["audit"]), &notice))
}
