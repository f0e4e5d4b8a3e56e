//! What is wrong now, in words, and how the installation stands.

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::{QueueOverview, QueuesList};
use patchbay_api::status::{Overview, QueueInTrouble, StatusShow};

use crate::Site;
use crate::frame::{self, Head, Section, address, address_with};
use crate::session::{Problem, Visit};
use crate::show;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router.route(&address(&["overview"]), get(overview))
}

async fn overview(visit: Visit) -> Result<Response, Problem> {
    let (status, queues) = tokio::join!(
        visit.ask_shared::<StatusShow>((), NoQuery {}),
        visit.ask_shared::<QueuesList>((), NoQuery {}),
    );
    let status = status?;
    let main = html! {
        div id="overview" data-live {
            (wrong(&visit, &status, queues.as_deref().unwrap_or_default()))
            @if let Ok(queues) = &queues { (numbers(&status, queues)) }
            (trouble(&status))
            (hosts(&status))
        }
    };
    let head = Head::new(Section::Overview, "Overview").live();
    Ok(frame::page(&visit, &head, main))
}

/// Everything that needs somebody, the worst first.
fn wrong(visit: &Visit, status: &Overview, queues: &[QueueOverview]) -> Markup {
    let is_queue = |name: &str| queues.iter().any(|queue| queue.name.as_str() == name);
    let paused: Vec<&QueueInTrouble> = status
        .queues_in_trouble
        .iter()
        .filter(|queue| queue.overview.counts.paused)
        .collect();
    let count = status.reasons.len()
        + status.firing.len()
        + paused.len()
        + status.breakers.len()
        + status.plugins.len()
        + status.unavailable.len();
    html! {
        section aria-labelledby="wrong" {
            h2 id="wrong" {
                @if count > 0 { "What is wrong now" }
                @else if status.queues_in_trouble.is_empty() { "Nothing is wrong" }
                @else { "No alert" }
            }
            @if count == 0 {
                p class="all-well" { "No alert fires, no queue is paused, every breaker is closed, and every plugin runs." }
            } @else {
                ul class="wrongs" {
                    @for reason in &status.reasons {
                        li class="wrong bad" {
                            p { (show::state("critical")) " " strong { "This host: " (show::text(&reason.message)) } }
                            p class="next" { (show::text(&reason.next)) }
                        }
                    }
                    @for alert in &status.firing {
                        li class={ "wrong " @if alert.severity == "critical" { "bad" } @else { "warn" } } {
                            p {
                                (show::state(&alert.severity)) " "
                                strong { (show::text(alert.reason.as_deref().unwrap_or("The cause is gone"))) }
                            }
                            @if let Some(next) = &alert.next { p class="next" { (show::text(next)) } }
                            p class="dim" {
                                "Alert " code { (alert.rule) }
                                @if is_queue(&alert.subject) { " for " a href=(address(&["queue", &alert.subject])) { (show::text(&alert.subject)) } }
                                @else if !alert.subject.is_empty() { " for " (show::text(&alert.subject)) }
                                ", since " (show::ago(alert.since, visit.now()))
                                @if let Some(seconds) = alert.ends_within_s { ". It ends within " (show::length(seconds * 1000)) " if nothing changes" }
                                @if let Some(until) = alert.silenced_until {
                                    ". Silenced until " (show::moment(until))
                                    @if let Some(by) = &alert.silenced_by { " by " (show::text(by)) }
                                }
                            }
                        }
                    }
                    @for queue in paused {
                        @let name = queue.overview.name.as_str();
                        li class="wrong warn" {
                            p {
                                (show::state("paused")) " "
                                strong { a href=(address(&["queue", name])) { (show::text(name)) } " is paused" }
                                (paused_by(visit, &queue.overview))
                            }
                        }
                    }
                    @for breaker in &status.breakers {
                        li class="wrong warn" {
                            p {
                                (show::state(&breaker.state)) " "
                                strong { "The breaker of " (breaker.plugin.as_str()) " for " (show::text(&breaker.host)) " is " (show::text(&breaker.state)) }
                                @if let Some(by) = &breaker.opened_by { ", opened by " (show::text(by)) }
                                @if let Some(ms) = breaker.open_for_ms { " for " (show::length(ms)) }
                            }
                            @if let Some(failure) = &breaker.last_failure { p { "Last failure: " (show::text(failure)) } }
                            @if let Some(ms) = breaker.probe_in_ms { p class="next" { "A trial call is let through in " (show::length(ms)) ". Jobs wait without using up attempts." } }
                        }
                    }
                    @for plugin in &status.plugins {
                        li class="wrong bad" {
                            p { (show::state(&plugin.state)) " " strong { "Plugin " (show::text(&plugin.name)) } }
                            p { (show::text(&plugin.reason)) }
                        }
                    }
                    @for part in &status.unavailable {
                        li class="wrong warn" {
                            p { (show::state("warning")) " " strong { "Not known now: " (show::text(&part.part)) } }
                            p { (show::text(&part.reason)) }
                        }
                    }
                }
            }
            @if let Some(pending) = status.pending.filter(|pending| *pending > 0) {
                p class="dim" { (show::counted(pending as u64, "more alert")) " would fire if the cause stays." }
            }
        }
    }
}

/// Who paused a queue, and why.
pub(crate) fn paused_by(visit: &Visit, queue: &QueueOverview) -> Markup {
    html! {
        @match &queue.paused_by {
            Some(paused) => {
                " by " (show::text(&paused.by)) " " (show::ago(paused.at, visit.now()))
                @if let Some(reason) = &paused.reason { ": “" (show::text(reason)) "”" }
            }
            None => { " (by whom is not recorded)" }
        }
    }
}

fn numbers(status: &Overview, queues: &[QueueOverview]) -> Markup {
    let sum = |of: fn(&QueueOverview) -> u64| -> u64 { queues.iter().map(of).sum() };
    let waiting = sum(|queue| queue.counts.waiting + queue.counts.prioritized);
    let oldest = queues
        .iter()
        .filter_map(|queue| queue.oldest_waiting_ms)
        .max();
    let figures = [
        (
            "Waiting",
            Some(waiting),
            address_with(&["queues"], &[("only", "waiting")]),
        ),
        (
            "Running",
            Some(sum(|queue| queue.counts.active)),
            address(&["queues"]),
        ),
        (
            "Delayed",
            Some(sum(|queue| queue.counts.delayed)),
            address(&["queues"]),
        ),
        (
            "Failed",
            Some(sum(|queue| queue.counts.failed)),
            address_with(&["queues"], &[("only", "failed")]),
        ),
        (
            "Open dead letters",
            status.open_dead_letters.map(i64::unsigned_abs),
            address(&["dead-letters"]),
        ),
        (
            "Queues",
            status.queues.map(|count| count as u64),
            address(&["queues"]),
        ),
    ];
    html! {
        section aria-labelledby="numbers" {
            h2 id="numbers" { "Jobs now" }
            ul class="figures" {
                @for (name, count, place) in figures {
                    li { a href=(place) {
                        span class="figure" { @match count { Some(count) => { (show::number(count)) } None => { (show::unknown()) } } }
                        span { (name) }
                    } }
                }
            }
            p class="dim" {
                @match oldest {
                    Some(ms) => { "The job that has waited longest: " (show::length(ms)) "." }
                    None => { "No job waits." }
                }
            }
        }
    }
}

fn trouble(status: &Overview) -> Markup {
    html! {
        section aria-labelledby="trouble" {
            h2 id="trouble" { "Queues in trouble" }
            @if status.queues_in_trouble.is_empty() {
                (frame::empty("No queue is in trouble.", html! {
                    "A queue is listed here when some of its jobs failed in the last hour, or when it makes no progress. "
                    a href=(address(&["queues"])) { "All queues" }
                }))
            } @else {
                div class="table" tabindex="0" role="group" aria-labelledby="trouble" {
                    table class="rows stack" {
                        thead { tr {
                            th scope="col" { "Queue" }
                            th scope="col" class="n" { "Failed, last hour" }
                            th scope="col" class="n" { "Failed, all" }
                            th scope="col" class="n" { "Waiting" }
                            th scope="col" { "Why, and what to do" }
                        } }
                        tbody {
                            @for queue in &status.queues_in_trouble { (in_trouble(queue)) }
                        }
                    }
                }
                @if status.more_queues_in_trouble > 0 {
                    p { "Showing " (status.queues_in_trouble.len()) ". "
                        (show::counted(status.more_queues_in_trouble as u64, "further queue")) " in trouble: "
                        a href=(address_with(&["queues"], &[("only", "failed")])) { "queues with failed jobs" } }
                }
            }
        }
    }
}

fn in_trouble(queue: &QueueInTrouble) -> Markup {
    let name = queue.overview.name.as_str();
    let counts = &queue.overview.counts;
    html! {
        tr data-href=(address(&["queue", name])) {
            th scope="row" { a href=(address(&["queue", name])) { (show::text(name)) } @if counts.paused { " " (show::state("paused")) } }
            td class="n" data-label="Failed, last hour" { (show::number(queue.failed_last_hour)) }
            td class="n" data-label="Failed, all" {
                a href=(address_with(&["queue", name], &[("state", "failed")])) { (show::number(counts.failed)) }
                @if queue.acknowledged > 0 { span class="dim" { " (" (show::number(queue.acknowledged)) " acknowledged)" } }
            }
            td class="n" data-label="Waiting" { (show::number(counts.waiting + counts.prioritized)) }
            td class="message" { (reasons(&queue.reasons)) }
        }
    }
}

/// Why a queue makes no progress.
pub(crate) fn reasons(reasons: &[patchbay_api::queues::Reason]) -> Markup {
    html! {
        @match reasons {
            [] => { span class="dim" { "It works. Some of its jobs have failed." } }
            reasons => {
                ul class="plain" {
                    @for reason in reasons {
                        li { (show::text(&reason.message)) " " span class="next" { (show::text(&reason.next)) } }
                    }
                }
            }
        }
    }
}

fn hosts(status: &Overview) -> Markup {
    html! {
        section aria-labelledby="hosts" {
            h2 id="hosts" { "Hosts" }
            div class="table" tabindex="0" role="group" aria-labelledby="hosts" {
                table {
                    thead { tr { th scope="col" { "Host" } th scope="col" { "Version" } th scope="col" { "State" } } }
                    tbody {
                        @for host in &status.hosts {
                            tr {
                                th scope="row" { (show::text(&host.host)) @if host.host == status.host { span class="dim" { " (answers this page)" } } }
                                td { (show::text(&host.version)) }
                                td {
                                    @match host.silent_s {
                                        Some(seconds) => { (show::state("lost")) " silent for " (show::length(seconds * 1000)) }
                                        None => { (show::state("running")) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if let Some(count) = status.active_plugins {
                p class="dim" { (show::counted(count as u64, "active plugin")) "."
                    @if let Some(paused) = status.paused_schedules.filter(|count| *count > 0) { " " (show::counted(paused as u64, "schedule")) " paused." } }
            }
        }
    }
}
