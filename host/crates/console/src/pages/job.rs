//! One job: what happened to it, its data and result, and what can be done with it.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use maud::{Markup, html};
use patchbay_api::body::NoBody;
use patchbay_api::history::{AttemptBody, HistoryBodies};
use patchbay_api::jobs::{
    Job, JobPath, JobView, JobsDuplicate, JobsKill, JobsPromote, JobsRemove, JobsRetry,
    JobsSetData, JobsShow, LastChange,
};
use patchbay_api::operation::Endpoint;
use patchbay_api::path::unescaped;
use patchbay_api::reveal::Reveal;
use patchbay_api::timeline::{JobsTimeline, Timeline};
use patchbay_model::job::JobState;
use patchbay_model::shell;

use super::events;
use crate::entry::{Fields, Posted};
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("job/{{queue}}/{{id}}{rest}"));
    router
        .route(&of(""), get(job))
        .route(&of("/reveal"), post(reveal))
        .route(&of("/bodies"), post(bodies))
}

/// Queue and id of a path.
pub(super) type Named = Path<(String, String)>;

/// Which job a request is about.
pub(super) struct Which {
    pub(super) queue: String,
    pub(super) id: String,
}

impl Which {
    pub(super) fn of(Path((queue, id)): Named) -> Self {
        Self {
            queue: unescaped(&queue).to_owned(),
            id: unescaped(&id).to_owned(),
        }
    }

    pub(super) fn path(&self) -> JobPath {
        JobPath {
            queue: self.queue.clone(),
            id: self.id.clone(),
        }
    }

    pub(super) fn page(&self) -> String {
        address(&["job", &self.queue, &self.id])
    }

    pub(super) fn action(&self, what: &str) -> String {
        address(&["job", &self.queue, &self.id, what])
    }

    pub(super) fn named(&self) -> String {
        format!("{} {}", self.queue, self.id)
    }
}

async fn job(visit: Visit, named: Named) -> Result<Response, Problem> {
    shown(&visit, &Which::of(named), Reveal::default()).await
}

/// Shows what is hidden, once: the answer to a form, so that no address and no refresh repeats it.
async fn reveal(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    let reveal = Reveal {
        reveal: true,
        reason: Some(reason_of(&visit, &which, &fields)?),
    };
    shown(&visit, &which, reveal).await
}

/// Revealing is recorded, with why.
pub(super) fn reason_of(visit: &Visit, which: &Which, fields: &Fields) -> Result<String, Problem> {
    fields.reason().map(str::to_owned).ok_or_else(|| {
        let message = "Nothing was shown: say why, for the record";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        visit
            .problem(status, "invalid-input", message)
            .back(which.page())
    })
}

async fn shown(visit: &Visit, which: &Which, reveal: Reveal) -> Result<Response, Problem> {
    let is_revealed = reveal.reveal;
    let (job, timeline) = tokio::join!(
        visit.ask::<JobsShow>(which.path(), reveal.clone(), NoBody),
        visit.ask::<JobsTimeline>(which.path(), reveal, NoBody),
    );
    let (job, gone) = match job {
        Ok(job) => (Some(job), None),
        // Redis has forgotten it, and the history may have it.
        Err(problem) if problem.status == StatusCode::NOT_FOUND && timeline.is_ok() => {
            (None, Some(problem))
        }
        Err(problem) => return Err(problem.back(address(&["queue", &which.queue]))),
    };
    let main = html! {
        @if let Some(gone) = &gone {
            section class="wrong warn" aria-label="It is gone" { p { (show::text(&gone.message)) } }
        }
        div id="job" data-live {
            @if let Some(job) = &job { (facts(visit, which, job)) }
        }
        @if let Some(job) = &job { (actions(visit, which, job)) }
        div class="columns" {
            div {
                @if let Some(job) = &job { (documents(visit, which, job, is_revealed)) }
                @else { (from_history(visit, which)) }
            }
            div id="timeline" data-live {
                section aria-labelledby="happened" {
                    h2 id="happened" { "What happened" }
                    @match &timeline {
                        Ok(timeline) => { (lives(visit, timeline)) }
                        Err(problem) => { p { (show::state("warning")) " Not known now: " (show::text(&problem.message)) } }
                    }
                }
            }
        }
        @if let Some(job) = &job { (outside(job)) (options(&job.job.job)) }
        (elsewhere(which))
    };
    let path = [
        (address(&["queues"]), "Queues"),
        (address(&["queue", &which.queue]), which.queue.as_str()),
    ];
    let title = format!("Job {}", which.id);
    let head = Head::new(Section::Queues, &title).below(&path);
    // A page that shows what is hidden stays as it is.
    let head = if is_revealed { head } else { head.live() };
    Ok(frame::page(visit, &head, main))
}

fn facts(visit: &Visit, which: &Which, job: &Job) -> Markup {
    let view = &job.job.job;
    let now = visit.now();
    html! {
        p { (show::state(&view.state.to_string())) " " strong { (show::text(&view.name)) } " in " a href=(address(&["queue", &which.queue])) { (show::text(&which.queue)) } }
        @if let Some(reason) = &view.failed_reason {
            section class="wrong bad" aria-label="Failure" { (show::block(reason)) }
        }
        @if let Some(damage) = &view.damage { p { (show::state("warning")) " " (show::text(damage)) } }
        @if let Some(unavailable) = &job.unavailable { p { (show::state("warning")) " " (show::text(unavailable)) } }
        dl class="facts" {
            dt { "Attempts" }
            dd {
                (view.attempts_made) " of " (job.retries.attempts)
                @if job.retries.left > 0 { ", " (job.retries.left) " left" }
                @if let Some(backoff) = &job.retries.backoff { ", backoff " (show::text(backoff)) }
                @if view.attempts_started > view.attempts_made { ", started " (view.attempts_started) " times" }
                @if view.stalled > 0 { ", its worker was lost " (view.stalled) " times" }
            }
            dt { "Added" } dd { (show::ago_ms(view.timestamp, now)) }
            @if let Some(due) = view.due_at { dt { "Due" } dd { (show::ago_ms(Some(due), now)) } }
            @if view.processed_on.is_some() { dt { "Last run began" } dd { (show::ago_ms(view.processed_on, now)) @if let Some(host) = &view.processed_by { " on " (show::text(host)) } } }
            @if view.finished_on.is_some() { dt { "Ended" } dd { (show::ago_ms(view.finished_on, now))
                @if let (Some(began), Some(ended)) = (view.processed_on, view.finished_on) { ", took " (show::length(ended.saturating_sub(began))) } } }
            @if let Some(priority) = view.priority.filter(|priority| *priority > 0) { dt { "Priority" } dd { (priority) } }
            @if let Some(progress) = &view.progress { dt { "Progress" } dd { (progress_of(progress)) } }
            @if let Some(schedule) = &view.schedule_id { dt { "Schedule" } dd { (show::text(schedule)) } }
            @if let Some(change) = &job.last_change { dt { "Last change" } dd { (changed(visit, change)) } }
            @if let Some(run) = &job.schedule_run { dt { "Added by" } dd { "running schedule " (show::text(&run.schedule)) ", " (show::text(&run.actor)) " " (show::ago(run.at, now)) } }
            @if let Some(copy) = &job.copy_of { dt { "Copy of" } dd { (other(&copy.job)) ", made by " (show::text(&copy.actor)) " " (show::ago(copy.at, now)) } }
            @for copy in &job.copies { dt { "Copied as" } dd { (other(&copy.job)) ", by " (show::text(&copy.actor)) " " (show::ago(copy.at, now)) } }
            @if let Some(bulk) = job.undo { dt { "Removed" } dd { "by " a href=(address(&["bulk", &bulk.to_string()])) { "bulk operation " (bulk) } ", which can be undone" } }
        }
    }
}

/// A job named as `queue/id`.
fn other(name: &str) -> Markup {
    match patchbay_model::job::in_trail(name) {
        Some((queue, id)) => {
            html! { a href=(address(&["job", &queue, id])) { (show::text(&queue)) " " (show::text(id)) } }
        }
        None => show::text(name),
    }
}

/// Who changed something last, and why.
pub(crate) fn changed(visit: &Visit, change: &LastChange) -> Markup {
    html! {
        code { (show::text(&change.action)) } " by " (show::text(&change.actor)) " " (show::ago(change.at, visit.now()))
        @if let Some(reason) = &change.reason { ": “" (show::text(reason)) "”" }
    }
}

/// A number of percent as a bar, anything else as it is.
fn progress_of(progress: &str) -> Markup {
    match progress.parse::<f64>() {
        Ok(share) if (0.0..=100.0).contains(&share) => html! {
            svg class="meter" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label={ (share) " percent" } {
                rect class="all" x="0" y="0" width="100" height="4" {}
                rect class="part" x="0" y="0" width=(share) height="4" {}
            }
            (share) " %"
        },
        _ => html! { code { (show::short(progress, 200)) } },
    }
}

fn actions(visit: &Visit, which: &Which, job: &Job) -> Markup {
    let state = job.job.job.state;
    let ended = matches!(state, JobState::Failed | JobState::Completed);
    let click = |what: &str, label: &str, key: Option<&str>| {
        let content = html! { button type="submit" data-key=[key] { (label) } };
        frame::form(visit, &which.action(what), "inline", content)
    };
    html! {
        div class="actions" role="group" aria-label="Actions" {
            @if ended && visit.may::<JobsRetry>() { (click("retry", "Retry", Some("r"))) }
            @if state == JobState::Delayed && visit.may::<JobsPromote>() { (click("promote", "Run now", Some("p"))) }
            @if state == JobState::Active && visit.may::<JobsKill>() { (click("kill", "Kill: it fails for good", None)) }
            @if state != JobState::Active && visit.may::<JobsSetData>() {
                a class="button" href=(which.action("edit")) { @if ended { "Edit and retry" } @else { "Edit the data" } }
            }
            @if visit.may::<JobsDuplicate>() { (click("duplicate", "Add a copy: all of it happens again", None)) }
            @if state != JobState::Active && visit.may::<JobsRemove>() { a class="button danger" href=(which.action("remove")) { "Remove" } }
        }
    }
}

fn documents(visit: &Visit, which: &Which, job: &Job, is_revealed: bool) -> Markup {
    let view = &job.job.job;
    html! {
        section aria-labelledby="data" {
            h2 id="data" { "Data" }
            @if is_revealed { p { (show::state("warning")) " Everything is shown. That you looked, and why, is recorded." } }
            (show::json(&view.data))
            @if !visit.may_see_data() { p class="dim" { "You may not see data of jobs. An owner gives that right: " code { "patchbay operator data NAME on" } } }
            @else if job.job.hidden > 0 && !is_revealed { (ask_reveal(visit, which, job.job.hidden)) }
        }
        @if let Some(result) = &view.return_value {
            section aria-labelledby="result" { h2 id="result" { "Result" } (show::json(result)) }
        }
        @if !view.stacktrace.is_empty() {
            section aria-labelledby="stacks" {
                h2 id="stacks" { "Stack of the last failure" }
                @if let Some(last) = view.stacktrace.last() { (show::block(last)) }
                @if view.stacktrace.len() > 1 {
                    details {
                        summary { (show::counted((view.stacktrace.len() - 1) as u64, "earlier stack")) }
                        @for stack in view.stacktrace.iter().rev().skip(1) { (show::block(stack)) }
                    }
                }
            }
        }
        @if !job.logs.is_empty() {
            section aria-labelledby="logs" {
                h2 id="logs" { "Log" }
                p class="dim" { "The newest " (show::counted(job.logs.len() as u64, "line")) ", the oldest of them first." }
                (show::block(&job.logs.join("\n")))
            }
        }
    }
}

fn ask_reveal(visit: &Visit, which: &Which, hidden: usize) -> Markup {
    let content = html! {
        label for="reveal-reason" { "Why" }
        input id="reveal-reason" name="reason" type="text" required maxlength="500" autocomplete="off" placeholder="for the record; no personal data";
        button type="submit" { "Show hidden values" }
    };
    html! {
        p class="dim" { (show::counted(hidden as u64, "value")) " hidden, as the manifest says or because it looks like a secret." }
        (frame::form(visit, &which.action("reveal"), "bar", content))
    }
}

fn from_history(visit: &Visit, which: &Which) -> Markup {
    let content = html! {
        p class="bar" {
            label for="bodies-reason" { "Why" }
            input id="bodies-reason" name="reason" type="text" required maxlength="500" autocomplete="off" placeholder="for the record; no personal data";
        }
        p { label class="check" { input type="checkbox" name="reveal" value="on"; "Also hidden values" } }
        button type="submit" { "Show data and results" }
    };
    html! {
        section aria-labelledby="kept" {
            h2 id="kept" { "Data and results in the history" }
            @if visit.may::<HistoryBodies>() {
                p { "Each time that they are shown is recorded." }
                (frame::form(visit, &which.action("bodies"), "stack", content))
            } @else { p class="dim" { "You may not see data of jobs." } }
        }
    }
}

async fn bodies(named: Named, Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let which = Which::of(named);
    let reveal = Reveal {
        reveal: fields.is_on("reveal"),
        reason: Some(reason_of(&visit, &which, &fields)?),
    };
    let found = visit.page::<HistoryBodies, AttemptBody>(which.path(), reveal);
    let found = found
        .await
        .map_err(|problem| problem.back(which.page()))?
        .items;
    let main = html! {
        @if found.is_empty() { (frame::empty("The history has no data of this job.", html! { "Whether it keeps data is a setting: see " code { "patchbay history status" } "." })) }
        @for body in &found {
            section class="card" aria-label={ "Start " (body.started) } {
                h2 { "Start " (body.started) ", ended " (show::moment(body.finished_at)) }
                @if let Some(withheld) = &body.withheld { p { (show::state("warning")) " " (show::text(withheld)) } }
                @if let Some(data) = &body.data { h3 { "Data" } (show::json(data.get())) }
                @if let Some(result) = &body.result { h3 { "Result" } (show::json(result.get())) }
            }
        }
    };
    let title = format!("Data of job {}", which.id);
    let path = [(which.page(), "Job")];
    let head = Head::new(Section::Queues, &title).below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn lives(visit: &Visit, timeline: &Timeline) -> Markup {
    html! {
        @if timeline.lives.is_empty() { p class="dim" { "Nothing is recorded of it." } }
        @for (place, life) in timeline.lives.iter().enumerate().rev() {
            @if timeline.lives.len() > 1 { h3 { "Job " (place + 1) " of this id: " (show::text(&life.name)) } }
            ol class="timeline" {
                @for event in &life.events { (events::event(visit, event)) }
            }
            @if let Some(id) = &life.correlation_id {
                p class="dim" { "Request " a href=(address_with(&["search"], &[("correlation-id", id)])) { (show::text(id)) }
                    @if let Some(platform) = &life.platform { ", platform " (show::text(platform)) } }
            }
            @if let Some(parent) = &life.parent { p { "Child of " (flow(parent)) } }
            @if !life.children.is_empty() {
                h3 { "Children" }
                ul { @for (child, state) in &life.children { li { (flow(child)) " " (show::state(state)) } } }
            }
            @if !life.same_request.is_empty() {
                h3 { "Other jobs of the same request" }
                ul { @for (job, outcome) in &life.same_request { li { (flow(job)) " " (show::state(outcome)) } } }
            }
        }
    }
}

/// A job named as `queue:id`; names of queues have no colon.
fn flow(name: &str) -> Markup {
    match name.split_once(':') {
        Some((queue, id)) => {
            html! { a href=(address(&["job", queue, id])) { (show::text(queue)) " " (show::text(id)) } }
        }
        None => show::text(name),
    }
}

/// Outside calls of the newest attempt.
fn outside(job: &Job) -> Markup {
    let newest = job
        .attempts
        .iter()
        .max_by_key(|attempt| attempt.finished_at);
    let calls = newest
        .and_then(|attempt| attempt.calls.as_deref())
        .unwrap_or_default();
    html! {
        @if !calls.is_empty() {
            section aria-labelledby="calls" {
                h2 id="calls" { "Outside calls of the newest attempt" }
                (events::call_table(calls))
            }
        }
    }
}

fn options(job: &JobView) -> Markup {
    html! {
        details { summary { "Options, as BullMQ keeps them" } (show::json(&job.opts)) }
    }
}

/// The same on the command line and with curl.
fn elsewhere(which: &Which) -> Markup {
    let command = format!("patchbay job show {}", shell::job(&which.queue, &which.id));
    let path = patchbay_api::path::filled(
        JobsShow::OPERATION.path,
        &[which.queue.clone(), which.id.clone()],
    );
    let curl = format!(
        "curl -H \"Authorization: Bearer $PATCHBAY_TOKEN\" \"$PATCHBAY_URL\"{}",
        shell::word(&path)
    );
    html! {
        details {
            summary { "On the command line" }
            @for (id, text) in [("cli", &command), ("curl", &curl)] {
                p class="bar" { code id=(id) { (show::text(text)) } button type="button" data-copy=(id) hidden { "Copy" } }
            }
        }
    }
}
