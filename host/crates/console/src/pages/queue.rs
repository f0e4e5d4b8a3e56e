//! One queue: why it does not move, its jobs by state, and what is done to all of it.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::jobs::{JobView, JobsList, JobsPromote, JobsRetry, ListJobs, RedactedJob};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;
use patchbay_api::queues::{
    Queue, QueueCounts, QueuePath, QueuesDrain, QueuesObliterate, QueuesPause, QueuesResume,
    QueuesShow, QueuesWhy, Reason,
};
use patchbay_model::job::JobState;
use serde::Deserialize;

use super::overview::{paused_by, reasons};
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

/// Jobs of one page.
const ROWS: u64 = 50;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router.route(&below_root("queue/{queue}"), get(queue))
}

pub(super) fn path_of(name: &str) -> QueuePath {
    QueuePath {
        queue: name.to_owned(),
    }
}

pub(super) fn page_of(name: &str) -> String {
    address(&["queue", name])
}

/// The states in the order in which somebody looks at them.
const STATES: [JobState; 7] = [
    JobState::Failed,
    JobState::Active,
    JobState::Waiting,
    JobState::Prioritized,
    JobState::Delayed,
    JobState::WaitingChildren,
    JobState::Completed,
];

fn count(counts: &QueueCounts, state: JobState) -> u64 {
    match state {
        JobState::Waiting => counts.waiting,
        JobState::Prioritized => counts.prioritized,
        JobState::Delayed => counts.delayed,
        JobState::WaitingChildren => counts.waiting_children,
        JobState::Active => counts.active,
        JobState::Completed => counts.completed,
        JobState::Failed => counts.failed,
        JobState::Unknown => 0,
    }
}

/// The state of this name, which a request may ask for.
pub(crate) fn state_of(word: &str) -> Option<JobState> {
    STATES.into_iter().find(|state| state.to_string() == word)
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct View {
    #[serde(default)]
    pub(super) state: String,
    /// From 1.
    #[serde(default)]
    page: Option<u64>,
}

async fn queue(
    visit: Visit,
    Path(name): Path<String>,
    Query(view): Query<View>,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let (queue, why) = tokio::join!(
        visit.ask_shared::<QueuesShow>(path_of(&name), NoQuery {}),
        visit.ask_shared::<QueuesWhy>(path_of(&name), NoQuery {}),
    );
    let queue = queue.map_err(|problem| problem.back(address(&["queues"])))?;
    let counts = &queue.overview.counts;
    let first = STATES.into_iter().find(|state| count(counts, *state) > 0);
    let state = state_of(&view.state).or(first).unwrap_or(JobState::Waiting);
    let number = view.page.unwrap_or(1).clamp(1, 1 << 24);
    let query = ListJobs {
        state,
        offset: Some((number - 1) * ROWS),
        cursor: None,
        limit: Some(ROWS),
        reveal: false,
        reason: None,
    };
    let jobs = visit
        .page::<JobsList, RedactedJob>(path_of(&name), query)
        .await?;
    let main = html! {
        div id="why" data-live { (standing(&visit, &name, &queue, why.ok().as_deref())) }
        div id="switch" data-live { (switch(&visit, &name, counts.paused)) }
        div id="jobs" data-live {
            (tabs(&name, counts, state))
            (job_table(&visit, &name, state, &jobs.items))
            (pages(&name, state, number, count(counts, state)))
            (for_all(&visit, &name, state, count(counts, state)))
        }
        (kinds(&queue))
        (settings(&visit, &name, &queue))
    };
    let path = [(address(&["queues"]), "Queues")];
    let head = Head::new(Section::Queues, &name).below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

/// What is wrong with it, first of all.
fn standing(visit: &Visit, name: &str, queue: &Queue, why: Option<&[Reason]>) -> Markup {
    let overview = &queue.overview;
    html! {
        @if overview.counts.paused {
            p { (show::state("paused")) " Paused" (paused_by(visit, overview)) ". No worker takes its jobs." }
        }
        @match why {
            Some([]) => { p class="dim" { "It works: nothing keeps its jobs from running." } }
            Some(found) => {
                section class="wrong warn" aria-label="Why it does not move" { (reasons(found)) }
            }
            None => { p class="dim" { "Why it does or does not move is not known now." } }
        }
        @if let Some(error) = &overview.error { p { (show::state("warning")) " " (show::text(error)) } }
        @if let Some(unavailable) = &queue.unavailable { p { (show::state("warning")) " " (show::text(unavailable)) } }
        dl class="facts" {
            dt { "Workers" }
            dd {
                @if queue.workers.is_empty() { (show::state("warning")) " No worker" }
                @else { (show::counted(queue.workers.len() as u64, "worker")) ": "
                    @for (place, worker) in queue.workers.iter().take(5).enumerate() { @if place > 0 { ", " } (show::text(worker)) }
                    @if queue.workers.len() > 5 { " and " (queue.workers.len() - 5) " more" } }
            }
            dt { "Plugin" }
            dd { @match &queue.plugin { Some(plugin) => { (show::text(plugin)) } None => { span class="dim" { "No active plugin handles it" } } } }
            dt { "Waits longest" }
            dd { @match overview.oldest_waiting_ms { Some(ms) => { (show::length(ms)) } None => { span class="dim" { "No job waits" } } } }
            @if let Some(due) = overview.next_delayed_at { dt { "Next delayed job" } dd { (show::ago_ms(Some(due), visit.now())) } }
            @if let Some(limit) = overview.concurrency { dt { "Most at a time" } dd { (show::number(limit)) } }
            @if let Some((jobs, ms)) = overview.rate {
                dt { "Rate limit" }
                dd { (show::counted(jobs, "job")) " per " (show::length(ms))
                    @if let Some(left) = overview.rate_limited_ms { " (reached; " (show::length(left)) " left)" } }
            }
            @if overview.put_aside > 0 { dt { "Put aside" } dd { (show::counted(overview.put_aside, "job")) " by a BullMQ 5 producer, until the queue is resumed" } }
            @if overview.counts.removed > 0 { dt { "Removed" } dd { (show::counted(overview.counts.removed, "job")) " by bulk operations, until a worker drops them" } }
        }
        p class="hidden" { "Queue " (show::text(name)) }
    }
}

fn switch(visit: &Visit, name: &str, is_paused: bool) -> Markup {
    let reason = |label: &str| {
        html! {
            label for="switch-reason" { "Reason" }
            input id="switch-reason" name="reason" type="text" maxlength="500" autocomplete="off" placeholder="for the next operator";
            button type="submit" { (label) }
        }
    };
    html! {
        @if is_paused && visit.may::<QueuesResume>() {
            (frame::form(visit, &address(&["queue", name, "resume"]), "bar", reason("Resume")))
        }
        @if !is_paused && visit.may::<QueuesPause>() {
            (frame::form(visit, &address(&["queue", name, "pause"]), "bar", reason("Pause")))
        }
    }
}

fn tabs(name: &str, counts: &QueueCounts, state: JobState) -> Markup {
    html! {
        nav class="tabs" aria-label="Jobs by state" {
            ul {
                @for one in STATES {
                    @let word = one.to_string();
                    li {
                        a href=(address_with(&["queue", name], &[("state", &word)])) aria-current=[(one == state).then_some("true")] {
                            (word) " " span class="n" { (show::number(count(counts, one))) }
                        }
                    }
                }
            }
        }
    }
}

/// When something of note happened to a job in this state.
fn when(visit: &Visit, state: JobState, job: &JobView) -> Markup {
    match state {
        JobState::Failed | JobState::Completed => show::ago_ms(job.finished_on, visit.now()),
        JobState::Active => show::ago_ms(job.processed_on, visit.now()),
        _ => show::ago_ms(job.timestamp, visit.now()),
    }
}

fn job_table(visit: &Visit, name: &str, state: JobState, jobs: &[RedactedJob]) -> Markup {
    let ended = matches!(state, JobState::Failed | JobState::Completed);
    let time = match state {
        JobState::Failed => "Failed",
        JobState::Completed => "Completed",
        JobState::Active => "Began",
        _ => "Added",
    };
    let may_retry = ended && visit.may::<JobsRetry>();
    let may_promote = state == JobState::Delayed && visit.may::<JobsPromote>();
    html! {
        @if jobs.is_empty() {
            (frame::empty(&format!("No job is {state}."), html! { "Choose another state above, or " a href=(address_with(&["search"], &[("queue", name)])) { "search the history of this queue" } "." }))
        } @else {
            div class="table" tabindex="0" role="group" aria-label={ "Jobs: " (state) } {
                table class="rows stack" {
                    thead { tr {
                        th scope="col" { "Job" }
                        th scope="col" { "Name" }
                        th scope="col" { (time) }
                        th scope="col" class="n" { "Attempts" }
                        th scope="col" { @if state == JobState::Failed { "Failure" } @else { "Data" } }
                        @if may_retry || may_promote { th scope="col" { span class="hidden" { "Actions" } } }
                    } }
                    tbody {
                        @for RedactedJob { job, .. } in jobs {
                            @let place = address(&["job", name, &job.id]);
                            tr data-href=(place) {
                                th scope="row" { a href=(place) { (show::short(&job.id, 40)) } }
                                td { (show::short(&job.name, 60)) }
                                td { (when(visit, state, job)) }
                                td class="n" data-label="Attempts" { (job.attempts_made) }
                                td class="message" {
                                    @if let Some(damage) = &job.damage { (show::state("warning")) " " (show::text(damage)) " " }
                                    @match (&job.failed_reason, state) {
                                        (Some(reason), JobState::Failed) => { (show::short(reason, 160)) }
                                        _ => { code { (show::short(&job.data, 120)) } }
                                    }
                                    @if let Some(bulk) = job.removed_by { " " span class="dim" { "removed by " a href=(address(&["bulk", &bulk.to_string()])) { "bulk operation " (bulk) } } }
                                }
                                @if may_retry { td { (one_click(visit, &address(&["job", name, &job.id, "retry"]), "Retry", "r")) } }
                                @if may_promote { td { (one_click(visit, &address(&["job", name, &job.id, "promote"]), "Run now", "p")) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A button in a row, with the key that presses it.
pub(crate) fn one_click(visit: &Visit, action: &str, label: &str, key: &str) -> Markup {
    let content = html! { button type="submit" data-key=(key) { (label) } };
    frame::form(visit, action, "inline", content)
}

fn pages(name: &str, state: JobState, number: u64, total: u64) -> Markup {
    let last = total.div_ceil(ROWS).max(1);
    let word = state.to_string();
    let to = |page: u64| {
        address_with(
            &["queue", name],
            &[("state", &word), ("page", &page.to_string())],
        )
    };
    // The first, the last, and those around this one.
    let mut shown: Vec<u64> = [1, last]
        .into_iter()
        .chain(number.saturating_sub(2)..=number + 2)
        .filter(|page| (1..=last).contains(page))
        .collect();
    shown.sort_unstable();
    shown.dedup();
    let from = (number - 1) * ROWS;
    html! {
        @if total > 0 {
            nav class="pager" aria-label="Pages" {
                span class="dim" { "Showing " (show::number((from + 1).min(total))) " to " (show::number((from + ROWS).min(total))) " of " (show::number(total)) }
                @if last > 1 {
                    @for (place, page) in shown.iter().enumerate() {
                        @if place > 0 && shown[place - 1] + 1 < *page { span { "…" } }
                        @if *page == number { span aria-current="page" { strong { (show::number(*page)) } } }
                        @else { a href=(to(*page)) { (show::number(*page)) } }
                    }
                }
            }
        }
    }
}

/// What can be done to all jobs of the state.
fn for_all(visit: &Visit, name: &str, state: JobState, total: u64) -> Markup {
    let word = state.to_string();
    let bulk = |kind: &str| {
        address_with(
            &["bulk-new"],
            &[("kind", kind), ("queue", name), ("state", &word)],
        )
    };
    let may_bulk = visit.may::<patchbay_api::bulk::BulkBegin>();
    html! {
        @if total > 0 && may_bulk {
            div class="actions" {
                @match state {
                    JobState::Failed => { a class="button" href=(bulk("retry")) { "Retry all failed jobs" } a class="button" href=(bulk("edit-and-retry")) { "Edit and retry all" } }
                    JobState::Completed => { a class="button" href=(bulk("enqueue-again")) { "Run all of them again" } }
                    _ => {}
                }
                @if matches!(state, JobState::Failed | JobState::Completed | JobState::Delayed | JobState::Waiting | JobState::Prioritized) {
                    a class="button danger" href=(bulk("remove")) { "Remove all (can be undone for an hour)" }
                    a class="button danger" href=(address_with(&["queue", name, "clean"], &[("state", &word)])) { "Clean for good" }
                }
            }
        }
    }
}

/// Attempts of the last day, by the name of the jobs.
fn kinds(queue: &Queue) -> Markup {
    html! {
        @if !queue.jobs.is_empty() {
            section aria-labelledby="kinds" {
                h2 id="kinds" { "Attempts of the last day" }
                div class="table" tabindex="0" role="group" aria-labelledby="kinds" {
                    table {
                        thead { tr {
                            th scope="col" { "Name of the jobs" }
                            th scope="col" class="n" { "Last minute" } th scope="col" class="n" { "15 minutes" } th scope="col" class="n" { "Day" }
                            th scope="col" class="n" { "Not completed" }
                            th scope="col" class="n" { "Median" } th scope="col" class="n" { "p95" } th scope="col" class="n" { "p99" }
                        } }
                        tbody {
                            @for kind in &queue.jobs {
                                tr {
                                    th scope="row" { (show::text(&kind.name)) }
                                    td class="n" { (show::number(kind.last_minute)) }
                                    td class="n" { (show::number(kind.last_15_minutes)) }
                                    td class="n" { (show::number(kind.last_day)) }
                                    td class="n" { (show::number(kind.not_completed)) @if kind.last_day > 0 { span class="dim" { " (" (kind.not_completed * 100 / kind.last_day) " %)" } } }
                                    td class="n" { (duration(kind.p50_ms)) } td class="n" { (duration(kind.p95_ms)) } td class="n" { (duration(kind.p99_ms)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn duration(ms: f64) -> String {
    if ms < 10.0 {
        return format!("{ms:.1} ms");
    }
    // Durations of attempts are far below the limit of the type.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = ms.round() as u64;
    show::length(whole)
}

fn settings(visit: &Visit, name: &str, queue: &Queue) -> Markup {
    let limit = queue.overview.concurrency.map(|max| max.to_string());
    let (jobs, per_ms) = match queue.overview.rate {
        Some((jobs, ms)) => (jobs.to_string(), ms.to_string()),
        None => (String::new(), String::new()),
    };
    let limits = html! {
        p {
            label for="limit" { "Most jobs at a time, over all workers (empty: no limit)" }
            input id="limit" name="limit" type="number" min="1" value=(limit.unwrap_or_default());
        }
        p {
            label for="rate-jobs" { "Jobs that start per period (empty: no limit)" }
            input id="rate-jobs" name="rate-jobs" type="number" min="1" value=(jobs);
        }
        p {
            label for="rate-ms" { "Period, in milliseconds (empty: 1000)" }
            input id="rate-ms" name="rate-ms" type="number" min="1" value=(per_ms);
        }
        p {
            label for="limits-reason" { "Reason, for the record" }
            input id="limits-reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        div class="actions" { button type="submit" { "Set the limits" } }
    };
    html! {
        @if visit.may::<QueuesDrain>() {
            details class="card" {
                summary { "Limits, and emptying the queue" }
                (frame::form(visit, &address(&["queue", name, "limits"]), "stack", limits))
                div class="actions" {
                    a class="button danger" href=(address(&["queue", name, "drain"])) { "Remove the waiting jobs" }
                    @if visit.may::<QueuesObliterate>() { a class="button danger" href=(address(&["queue", name, "obliterate"])) { "Remove the whole queue" } }
                }
            }
        }
    }
}
