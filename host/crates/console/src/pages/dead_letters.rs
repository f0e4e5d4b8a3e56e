//! Jobs that failed for good, grouped by what their failure looks like.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::bulk::BulkBegin;
use patchbay_api::dead_letters::{
    Assignee, CountDeadLetters, DeadLetter, DeadLetterDetails, DeadLetterPath, DeadLetterState,
    DeadLettersAcknowledge, DeadLettersAssign, DeadLettersCount, DeadLettersList, DeadLettersNote,
    DeadLettersShow, DeadLettersUnacknowledge, FailedJob, ListDeadLetters, ListedDeadLetters, Note,
};
use patchbay_api::operation::NoQuery;
use serde::Deserialize;

use super::job::changed;
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

/// Groups of one page.
const ROWS: u16 = 100;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("dead-letters/{{id}}{rest}"));
    router
        .route(&below_root("dead-letters"), get(list))
        .route(&of(""), get(group))
        .route(&of("/acknowledge"), post(acknowledge))
        .route(&of("/unacknowledge"), post(unacknowledge))
        .route(&of("/note"), post(note))
        .route(&of("/assign"), post(assign))
}

fn page_of(id: i64) -> String {
    address(&["dead-letters", &id.to_string()])
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    #[serde(default)]
    state: String,
    #[serde(default)]
    queue: String,
}

impl Which {
    fn address(&self, state: &str) -> String {
        let pairs = [("state", state), ("queue", self.queue.as_str())];
        let given: Vec<_> = pairs
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        address_with(&["dead-letters"], &given)
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

async fn list(visit: Visit, Query(which): Query<Which>) -> Result<Response, Problem> {
    let (word, state) = match which.state.as_str() {
        "acknowledged" => ("acknowledged", ListedDeadLetters::Acknowledged),
        "closed" => ("closed", ListedDeadLetters::Closed),
        "all" => ("all", ListedDeadLetters::All),
        _ => ("open", ListedDeadLetters::Open),
    };
    let query = ListDeadLetters {
        queue: some(&which.queue),
        plugin: None,
        state: Some(state),
        acknowledged: None,
        limit: Some(ROWS),
    };
    let counted = CountDeadLetters {
        queue: some(&which.queue),
        plugin: None,
    };
    let (groups, counts) = tokio::join!(
        visit.ask_shared::<DeadLettersList>((), query),
        visit.ask_shared::<DeadLettersCount>((), counted),
    );
    let groups = groups.map_err(|problem| problem.back(address(&["dead-letters"])))?;
    let counts = counts.ok();
    let tabs = [
        ("open", counts.map(|counts| counts.open)),
        ("acknowledged", counts.map(|counts| counts.acknowledged)),
        ("closed", counts.map(|counts| counts.closed)),
        ("all", None),
    ];
    let main = html! {
        @if !which.queue.trim().is_empty() {
            p { "Of queue " strong { (show::text(which.queue.trim())) } ". " a href=(address(&["dead-letters"])) { "All queues" } }
        }
        div id="groups" data-live {
            nav class="tabs" aria-label="Groups by state" {
                ul {
                    @for (one, count) in tabs {
                        li { a href=(which.address(one)) aria-current=[(one == word).then_some("true")] {
                            (one) @if let Some(count) = count { " " span class="n" { (show::number(count)) } }
                        } }
                    }
                }
            }
            @if groups.is_empty() {
                (frame::empty(
                    &match word { "all" => "No job has failed for good.".to_owned(), word => format!("No group is {word}.") },
                    html! { "A group stands here as soon as a job has used up its attempts. It closes by itself when its jobs have completed or are gone." },
                ))
            } @else {
                (table(&visit, &groups))
                @if groups.len() == usize::from(ROWS) { p class="dim" { "Showing the first " (ROWS) ". For others, filter by queue: " code { "patchbay dead-letter list --queue NAME" } } }
            }
        }
    };
    let head = Head::new(Section::DeadLetters, "Dead letters").live();
    Ok(frame::page(&visit, &head, main))
}

fn word(state: DeadLetterState) -> &'static str {
    match state {
        DeadLetterState::Open => "open",
        DeadLetterState::Acknowledged => "acknowledged",
        DeadLetterState::Closed => "closed",
    }
}

fn table(visit: &Visit, groups: &[DeadLetter]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Groups of dead letters" {
            table class="rows stack" {
                thead { tr {
                    th scope="col" { "Failure" }
                    th scope="col" { "Queue" }
                    th scope="col" class="n" { "Still failing" }
                    th scope="col" class="n" { "Jobs" }
                    th scope="col" { "Last" }
                    th scope="col" { "Who looks at it" }
                } }
                tbody {
                    @for group in groups {
                        tr data-href=(page_of(group.id)) {
                            td class="message" {
                                a href=(page_of(group.id)) { code { @if group.code.is_empty() { "(no code)" } @else { (show::text(&group.code)) } } }
                                " " (show::short(&group.message, 160))
                            }
                            th scope="row" { a href=(address(&["queue", &group.queue])) { (show::text(&group.queue)) } }
                            td class="n" data-label="Still failing" { (show::number(group.failing)) }
                            td class="n" data-label="Jobs" { (show::number(group.jobs)) }
                            td { (show::ago(group.last_seen, visit.now())) }
                            td {
                                (show::state(word(group.state)))
                                @if let Some(assignee) = &group.assignee { " " (show::text(assignee)) }
                                @if let Some(note) = &group.note { " " span class="dim" { (show::short(note, 60)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

async fn group(visit: Visit, Path(id): Path<i64>) -> Result<Response, Problem> {
    let details = visit.ask::<DeadLettersShow>(DeadLetterPath { id }, NoQuery {}, NoBody);
    let details = details
        .await
        .map_err(|problem| problem.back(address(&["dead-letters"])))?;
    let main = html! {
        div id="group" data-live { (facts(&visit, &details)) (repair(&visit, &details)) }
        (care(&visit, &details.group))
        div id="jobs" data-live { (sample(&visit, &details)) }
        @if let Some(stack) = &details.stack {
            section aria-labelledby="stack" { h2 id="stack" { "Stack of the newest failure" } (show::block(stack)) }
        }
        @if !details.elsewhere.is_empty() {
            section aria-labelledby="elsewhere" {
                h2 id="elsewhere" { "The same failure in other revisions" }
                (table(&visit, &details.elsewhere))
            }
        }
    };
    let path = [(address(&["dead-letters"]), "Dead letters")];
    let title = format!("Dead letters {id}");
    let head = Head::new(Section::DeadLetters, &title).below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

fn facts(visit: &Visit, details: &DeadLetterDetails) -> Markup {
    let group = &details.group;
    let now = visit.now();
    let figures = [
        ("Still failing", group.failing),
        ("Waiting or running", group.waiting),
        ("Repaired", group.repaired),
        ("Removed", group.removed),
        ("Failing elsewhere", group.failing_elsewhere),
    ];
    html! {
        section class="wrong bad" aria-label="Failure" {
            p { (show::state(word(group.state))) " " code { (show::text(&group.code)) } }
            p { (show::text(&group.message)) }
            @if details.permanent { p class="next" { "The plugin takes it for permanent: it was not retried although attempts were left. Repair the cause, or edit the data, before a retry." } }
        }
        ul class="figures" {
            @for (name, count) in figures {
                li { div { span class="figure" { (show::number(count)) } span { (name) } } }
            }
        }
        dl class="facts" {
            dt { "Queue" } dd { a href=(address(&["queue", &group.queue])) { (show::text(&group.queue)) } }
            dt { "Plugin" }
            dd { @if group.plugin.is_empty() { span class="dim" { "No plugin was reached" } }
                 @else { (show::text(&group.plugin)) " (revision " code { (show::text(&group.revision.chars().take(12).collect::<String>())) } ")" } }
            dt { "Jobs" } dd { (show::number(group.jobs)) ", which failed for good " (show::number(group.failures)) " times" }
            dt { "First, last" } dd { (show::ago(group.first_seen, now)) ", " (show::ago(group.last_seen, now)) }
            @if let Some(at) = group.acknowledged_at {
                dt { "Acknowledged" }
                dd { @if let Some(by) = &group.acknowledged_by { "by " (show::text(by)) " " } (show::ago(at, now))
                    @if group.since_acknowledged > 0 { ", " (show::number(group.since_acknowledged)) " failures since" } }
            }
            @if let Some(at) = group.closed_at { dt { "Closed" } dd { (show::ago(at, now)) } }
            @if let Some(assignee) = &group.assignee { dt { "Assigned to" } dd { (show::text(assignee)) } }
            @if let Some(note) = &group.note { dt { "Note" } dd { (show::text(note)) } }
            @if let Some(removal) = &details.removal { dt { "Last removal" } dd { (changed(visit, removal)) } }
        }
    }
}

/// What can be done about its jobs.
fn repair(visit: &Visit, details: &DeadLetterDetails) -> Markup {
    let id = details.group.id.to_string();
    let bulk = |more: &[(&str, &str)]| {
        let mut query = vec![("dead-letter", id.as_str())];
        query.extend_from_slice(more);
        address_with(&["bulk-new"], &query)
    };
    html! {
        @if visit.may::<BulkBegin>() {
            div class="actions" {
                @if details.group.failing > 10 { a class="button primary" href=(bulk(&[("kind", "retry"), ("first", "10")])) data-key="r" { "Retry the first 10, then the rest" } }
                @if details.group.failing > 0 {
                    a class="button" href=(bulk(&[("kind", "retry")])) data-key=[(details.group.failing <= 10).then_some("r")] { "Retry all " (show::number(details.group.failing)) }
                    a class="button" href=(bulk(&[("kind", "edit-and-retry")])) { "Edit and retry" }
                    a class="button danger" href=(bulk(&[("kind", "remove")])) { "Remove (can be undone for an hour)" }
                }
                @if details.restorable > 0 { a class="button" href=(bulk(&[("kind", "retry"), ("source", "history")])) { "Add " (show::counted(details.restorable, "removed job")) " again" } }
                @if let Some(bulk) = details.undo { a class="button" href=(address(&["bulk", &bulk.to_string()])) { "Undo the removal" } }
            }
        }
    }
}

fn care(visit: &Visit, group: &DeadLetter) -> Markup {
    let id = group.id.to_string();
    let action = |what: &str| address(&["dead-letters", &id, what]);
    let me = visit.who().map_or("", |who| who.name.as_str());
    let assigned = html! {
        label for="assignee" { "Assigned to" }
        input id="assignee" name="assignee" type="text" maxlength="100" autocomplete="off" value=(group.assignee.as_deref().unwrap_or(me));
        button type="submit" { "Assign" }
    };
    let noted = html! {
        p {
            label for="note" { "Note for the next operator (empty: none)" }
            textarea id="note" name="note" rows="3" maxlength="2000" { "\n" (group.note.as_deref().unwrap_or_default()) }
        }
        div class="actions" { button type="submit" { "Save the note" } }
    };
    html! {
        @if visit.may::<DeadLettersAcknowledge>() {
            section class="card" aria-labelledby="care" {
                h2 id="care" { "Who looks at it" }
                div class="actions" { @if group.state == DeadLetterState::Open { (frame::button(visit, &action("acknowledge"), "Acknowledge: I know of it", &[])) }
                @if group.state == DeadLetterState::Acknowledged { (frame::button(visit, &action("unacknowledge"), "Reopen", &[])) } }
                (frame::form(visit, &action("assign"), "bar", assigned))
                details open[group.note.is_some()] { summary { "Note" } (frame::form(visit, &action("note"), "stack", noted)) }
            }
        }
    }
}

fn sample(visit: &Visit, details: &DeadLetterDetails) -> Markup {
    html! {
        section aria-labelledby="newest" {
            h2 id="newest" { "Newest jobs" }
            @if details.sample.is_empty() { p class="dim" { "The history has no job of it any more." } }
            @else {
                div class="table" tabindex="0" role="group" aria-labelledby="newest" {
                    table class="rows stack" {
                        thead { tr { th scope="col" { "Job" } th scope="col" { "Name" } th scope="col" { "Failed" } th scope="col" { "Now" } th scope="col" { "Message" } } }
                        tbody { @for job in &details.sample { (failed(visit, job)) } }
                    }
                }
                p { "Showing " (details.sample.len()) " of " (show::number(details.group.jobs)) ". "
                    a href=(address_with(&["search"], &[("dead-letter", &details.group.id.to_string())])) { "All of them in the history" } }
            }
        }
    }
}

fn failed(visit: &Visit, job: &FailedJob) -> Markup {
    let place = address(&["job", &job.queue, &job.job_id]);
    html! {
        tr data-href=(place) {
            th scope="row" { a href=(place) { (show::short(&job.job_id, 40)) } }
            td { (show::short(&job.name, 60)) }
            td { (show::ago(job.finished_at, visit.now())) }
            td { @match &job.state { Some(state) => { (show::state(state)) } None => { (show::unknown()) } } }
            td class="message" { @if let Some(message) = &job.message { (show::short(message, 160)) } }
        }
    }
}

fn done(visit: &Visit, group: &DeadLetter, did: &str) -> Response {
    let text = match group.already {
        true => "Nothing has changed: it was so already.".to_owned(),
        false => format!("{did}."),
    };
    visit.done(&page_of(group.id), &Notice::new(text))
}

async fn acknowledge(
    Path(id): Path<i64>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let path = DeadLetterPath { id };
    let asked = visit.change::<DeadLettersAcknowledge>(path, NoQuery {}, NoBody, fields.reason());
    let group = asked.await.map_err(|problem| problem.back(page_of(id)))?;
    Ok(done(&visit, &group, "Acknowledged"))
}

async fn unacknowledge(
    Path(id): Path<i64>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let path = DeadLetterPath { id };
    let asked = visit.change::<DeadLettersUnacknowledge>(path, NoQuery {}, NoBody, fields.reason());
    let group = asked.await.map_err(|problem| problem.back(page_of(id)))?;
    Ok(done(&visit, &group, "Reopened"))
}

async fn note(Path(id): Path<i64>, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let body = Json(Note {
        note: fields.text("note").map(str::to_owned),
    });
    let path = DeadLetterPath { id };
    let asked = visit.change::<DeadLettersNote>(path, NoQuery {}, body, fields.reason());
    let group = asked.await.map_err(|problem| problem.back(page_of(id)))?;
    Ok(done(&visit, &group, "Saved the note"))
}

async fn assign(
    Path(id): Path<i64>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let body = Json(Assignee {
        assignee: fields.text("assignee").map(str::to_owned),
    });
    let path = DeadLetterPath { id };
    let asked = visit.change::<DeadLettersAssign>(path, NoQuery {}, body, fields.reason());
    let group = asked.await.map_err(|problem| problem.back(page_of(id)))?;
    let did = match &group.assignee {
        Some(assignee) => format!("Assigned to {assignee}"),
        None => "Assigned to nobody".to_owned(),
    };
    Ok(done(&visit, &group, &did))
}
