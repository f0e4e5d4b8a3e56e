//! Tables of jobs that a search has found.

use maud::{Markup, html};
use patchbay_api::jobs::ScannedJob;
use patchbay_api::searches::FoundAttempt;

use crate::frame::{self, address};
use crate::session::{PageOf, Visit};
use crate::show;

/// Results of one page.
pub(super) const ROWS: &str = "50";

pub(super) fn attempts(visit: &Visit, page: &PageOf<FoundAttempt>, label: &str) -> Markup {
    html! {
        @if page.items.is_empty() {
            (frame::empty("Nothing matches.", html! { "The history has finished attempts only, within its retention. For jobs that wait or run, add " code { "state:waiting queue:NAME" } "." }))
        } @else {
            div class="table" tabindex="0" role="group" aria-label=(label) {
                table class="rows stack" {
                    thead { tr { th scope="col" { "Job" } th scope="col" { "Name" } th scope="col" { "Ended" } th scope="col" { "Outcome" } th scope="col" { "Failure" } } }
                    tbody {
                        @for found in &page.items {
                            @let place = address(&["job", &found.queue, &found.job_id]);
                            tr data-href=(place) {
                                th scope="row" { a href=(place) { (show::text(&found.queue)) " " (show::short(&found.job_id, 40)) } }
                                td { (show::short(&found.attempt.name, 60)) }
                                td { (show::ago(found.attempt.finished_at, visit.now())) }
                                td { (show::state(&found.attempt.outcome)) " " span class="dim" { (show::text(&found.attempt.verdict)) } }
                                td class="message" {
                                    @if let Some(code) = &found.attempt.code { code { (show::text(code)) } " " }
                                    @if let Some(message) = &found.attempt.message { (show::short(message, 160)) }
                                    @if let Some(id) = found.dead_letter { " " a href=(address(&["dead-letters", &id.to_string()])) { "dead letters " (id) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn jobs(visit: &Visit, queue: &str, page: &PageOf<ScannedJob>) -> Markup {
    html! {
        @if page.items.is_empty() { (frame::empty("No job matches.", html! { "Jobs of another state are searched with another " code { "state:" } "." })) }
        @else {
            div class="table" tabindex="0" role="group" aria-label="Jobs" {
                table class="rows stack" {
                    thead { tr { th scope="col" { "Job" } th scope="col" { "Name" } th scope="col" { "State" } th scope="col" { "Added" } th scope="col" class="n" { "Attempts" } th scope="col" { "Failure" } } }
                    tbody {
                        @for job in &page.items {
                            @let place = address(&["job", queue, &job.id]);
                            tr data-href=(place) {
                                th scope="row" { a href=(place) { (show::text(queue)) " " (show::short(&job.id, 40)) } }
                                td { (show::short(&job.name, 60)) }
                                td { (show::state(&job.state.to_string())) }
                                td { (show::ago_ms(job.timestamp, visit.now())) }
                                td class="n" data-label="Attempts" { (job.attempts_made) }
                                td class="message" { @if let Some(reason) = &job.failed_reason { (show::short(reason, 160)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
