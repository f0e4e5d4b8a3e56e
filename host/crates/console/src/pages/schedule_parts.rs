//! What the pages of schedules say of one.

use chrono::DateTime;
use maud::{Markup, html};
use patchbay_api::schedules::{ClientScheduler, LastRun, SchedulePath, ScheduleView};

use super::parts::moment_of;
use crate::frame::address;
use crate::session::Visit;
use crate::show;

pub(crate) fn page_of(id: &str) -> String {
    address(&["schedule", id])
}

pub(crate) fn path_of(id: &str) -> SchedulePath {
    SchedulePath { id: id.to_owned() }
}

/// How often it ticks, in words.
pub(crate) fn rhythm(every_ms: Option<u64>, cron: Option<&str>, zone: Option<&str>) -> Markup {
    html! {
        @if let Some(ms) = every_ms { "every " (show::length(ms)) }
        @if let Some(cron) = cron { code { (show::text(cron)) } @if let Some(zone) = zone { " " span class="dim" { (show::text(zone)) } } }
    }
}

/// The next tick, and its time by the clocks of the schedule's zone.
pub(crate) fn next(visit: &Visit, at: Option<&str>, local: Option<&str>) -> Markup {
    html! {
        @match at.and_then(moment_of) {
            Some(at) => { (show::ago(at, visit.now())) br; span class="dim" { (at.format("%m-%d %H:%M:%S")) " UTC" @if let Some(local) = local.and_then(clock) { ", there " (local) } } }
            None => { (show::unknown()) }
        }
    }
}

/// The clock time of a moment with its offset, as its zone has it.
fn clock(local: &str) -> Option<String> {
    let at = DateTime::parse_from_rfc3339(local).ok()?;
    Some(at.format("%H:%M:%S (%:z)").to_string())
}

/// What became of its last job.
pub(crate) fn last(visit: &Visit, queue: &str, run: Option<&LastRun>) -> Markup {
    html! {
        @match run {
            Some(run) => { (show::state(&run.state)) " " a href=(address(&["job", queue, &run.job_id])) { (show::ago(run.at, visit.now())) } @if let Some(code) = &run.code { " " code { (show::text(code)) } } }
            None => { span class="dim" { "not yet" } }
        }
    }
}

/// Whether it ticks, and why not.
pub(crate) fn standing(visit: &Visit, one: &ScheduleView) -> Markup {
    html! {
        @if let Some(at) = one.paused_at {
            (show::state("paused")) @if let Some(by) = &one.paused_by { " by " (show::text(by)) } " " (show::ago(at, visit.now()))
            @if let Some(reason) = &one.paused_reason { ": “" (show::text(reason)) "”" }
        } @else if let Some(trouble) = &one.trouble { (show::state("failing")) " " (show::text(trouble)) }
        @else if let Some(ms) = one.overdue_ms { (show::state("overdue")) " for " (show::length(ms)) }
        @else { (show::state("ticking")) }
        @if one.overridden { " " span class="dim" { "changed by " (show::text(&one.updated_by)) } }
    }
}

/// As [`standing`], of a schedule that BullMQ clients have made.
pub(crate) fn client_standing(one: &ClientScheduler) -> Markup {
    html! {
        @if let Some(trouble) = &one.view.trouble { (show::state("failing")) " " (show::text(trouble)) }
        @else if let Some(ms) = one.overdue_ms { (show::state("overdue")) " for " (show::length(ms)) }
        @else if one.view.alive { (show::state("ticking")) }
        @else { (show::state("ended")) }
    }
}
