//! All queues: what each holds, which are paused and by whom, and which make no progress.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::Query;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::Json;
use patchbay_api::operation::NoQuery;
use patchbay_api::queues::{
    AllDone, EveryQueue, QueueOverview, QueuesList, QueuesPauseAll, QueuesResumeAll, Reason,
};
use patchbay_api::status::StatusShow;
use serde::Deserialize;

use super::overview::paused_by;
use crate::Site;
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with};
use crate::session::{Problem, Visit};
use crate::show;

/// Most rows of one page.
const ROWS: usize = 250;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["queues"]), get(list))
        .route(&address(&["all-queues", "pause"]), post(pause_all))
        .route(&address(&["all-queues", "resume"]), post(resume_all))
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    /// Part of the name.
    #[serde(default)]
    name: String,
    /// `waiting`, `failed`, `paused` or `stuck`; else all.
    #[serde(default)]
    only: String,
    /// `waiting`, `failed`, `running`, `oldest`; else by name.
    #[serde(default)]
    by: String,
}

const ONLY: [(&str, &str); 5] = [
    ("", "All"),
    ("waiting", "With waiting jobs"),
    ("failed", "With failed jobs"),
    ("paused", "Paused"),
    ("stuck", "Making no progress"),
];

fn waiting(queue: &QueueOverview) -> u64 {
    queue.counts.waiting + queue.counts.prioritized
}

impl Which {
    fn takes(&self, queue: &QueueOverview, reasons: &BTreeMap<String, Vec<Reason>>) -> bool {
        let name = queue.name.as_str();
        let is_named = name
            .to_lowercase()
            .contains(&self.name.trim().to_lowercase());
        is_named
            && match self.only.as_str() {
                "waiting" => waiting(queue) > 0,
                "failed" => queue.counts.failed > 0,
                "paused" => queue.counts.paused,
                "stuck" => reasons.get(name).is_some_and(|reasons| !reasons.is_empty()),
                _ => true,
            }
    }

    fn sort(&self, queues: &mut [QueueOverview]) {
        let key: fn(&QueueOverview) -> u64 = match self.by.as_str() {
            "waiting" => waiting,
            "failed" => |queue| queue.counts.failed,
            "running" => |queue| queue.counts.active,
            "oldest" => |queue| queue.oldest_waiting_ms.unwrap_or(0),
            _ => return,
        };
        queues.sort_by_key(|queue| std::cmp::Reverse(key(queue)));
    }

    fn address(&self, only: &str, by: &str) -> String {
        let pairs = [("name", self.name.trim()), ("only", only), ("by", by)];
        let given: Vec<_> = pairs
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        address_with(&["queues"], &given)
    }
}

async fn list(visit: Visit, Query(which): Query<Which>) -> Result<Response, Problem> {
    let (queues, status) = tokio::join!(
        visit.ask_shared::<QueuesList>((), NoQuery {}),
        visit.ask_shared::<StatusShow>((), NoQuery {}),
    );
    let mut queues = queues?;
    let mut reasons = BTreeMap::new();
    for queue in status
        .map(|status| status.queues_in_trouble)
        .unwrap_or_default()
    {
        reasons.insert(queue.overview.name.as_str().to_owned(), queue.reasons);
    }
    let total = queues.len();
    queues.retain(|queue| which.takes(queue, &reasons));
    which.sort(&mut queues);
    let main = html! {
        (filter(&which))
        div id="queues" data-live {
            p class="dim" role="status" {
                @if queues.len() == total { (show::counted(total as u64, "queue")) "." }
                @else { "Showing " (show::number(queues.len() as u64)) " of " (show::counted(total as u64, "queue")) "." }
                @if queues.len() > ROWS { " The first " (ROWS) " are listed: filter by name to see others." }
            }
            @if queues.is_empty() {
                (frame::empty("No queue matches.", html! {
                    @if total == 0 { "A queue appears with its first job: from a BullMQ producer, the API, or " code { "patchbay job add" } "." }
                    @else { a href=(address(&["queues"])) { "Show all queues" } }
                }))
            } @else {
                (table(&visit, &which, &queues[..queues.len().min(ROWS)], &reasons))
            }
        }
        @if visit.may::<QueuesPauseAll>() && total > 0 { (every_queue(&visit)) }
    };
    let head = Head::new(Section::Queues, "Queues").live();
    Ok(frame::page(&visit, &head, main))
}

fn filter(which: &Which) -> Markup {
    html! {
        form method="get" action=(address(&["queues"])) class="bar" role="search" aria-label="Queues by name" {
            label for="queue-name" { "Name contains" }
            input id="queue-name" name="name" type="search" value=(which.name) autocomplete="off" spellcheck="false";
            @if !which.only.is_empty() { input type="hidden" name="only" value=(which.only); }
            @if !which.by.is_empty() { input type="hidden" name="by" value=(which.by); }
            button type="submit" { "Filter" }
        }
        nav class="tabs" aria-label="Which queues" {
            ul {
                @for (only, label) in ONLY {
                    li { a href=(which.address(only, &which.by)) aria-current=[(only == which.only).then_some("true")] { (label) } }
                }
            }
        }
    }
}

fn table(
    visit: &Visit,
    which: &Which,
    queues: &[QueueOverview],
    reasons: &BTreeMap<String, Vec<Reason>>,
) -> Markup {
    let heading = |label: &str, by: &str| {
        let sorted = (by == which.by).then_some(if by.is_empty() {
            "ascending"
        } else {
            "descending"
        });
        html! {
            th scope="col" class=[(!by.is_empty()).then_some("n")] aria-sort=[sorted] { a href=(which.address(&which.only, by)) { (label) } }
        }
    };
    html! {
        div class="table" tabindex="0" role="group" aria-label="Queues" {
            table class="rows" {
                thead { tr {
                    (heading("Queue", ""))
                    (heading("Waiting", "waiting"))
                    (heading("Running", "running"))
                    th scope="col" class="n" { "Delayed" }
                    (heading("Failed", "failed"))
                    th scope="col" class="n" { "Completed" }
                    (heading("Oldest waits", "oldest"))
                    th scope="col" { "State" }
                } }
                tbody { @for queue in queues { (row(visit, queue, reasons)) } }
            }
        }
    }
}

fn row(visit: &Visit, queue: &QueueOverview, reasons: &BTreeMap<String, Vec<Reason>>) -> Markup {
    let name = queue.name.as_str();
    let counts = &queue.counts;
    let of = |state: &str, count: u64| {
        html! {
            td class="n" {
                @if count == 0 { span class="dim" { "0" } }
                @else { a href=(address_with(&["queue", name], &[("state", state)])) { (show::number(count)) } }
            }
        }
    };
    html! {
        tr data-href=(address(&["queue", name])) {
            th scope="row" { a href=(address(&["queue", name])) { (show::text(name)) } }
            (of(if counts.waiting == 0 && counts.prioritized > 0 { "prioritized" } else { "waiting" }, waiting(queue)))
            (of("active", counts.active))
            (of("delayed", counts.delayed))
            (of("failed", counts.failed))
            (of("completed", counts.completed))
            td class="n" { @match queue.oldest_waiting_ms { Some(ms) => { (show::length(ms)) } None => { (show::unknown()) } } }
            td {
                @if counts.paused { (show::state("paused")) (paused_by(visit, queue)) }
                @if let Some(error) = &queue.error { (show::state("warning")) " " (show::text(error)) }
                @if let Some([first, ..]) = reasons.get(name).map(Vec::as_slice) {
                    @if !counts.paused { (show::state("warning")) " " (show::text(&first.message)) " " }
                    a href=(address(&["queue", name])) { "Why" }
                }
            }
        }
    }
}

fn every_queue(visit: &Visit) -> Markup {
    let reason = html! {
        label for="all-reason" { "Reason, for the record" }
        input id="all-reason" name="reason" type="text" maxlength="500" autocomplete="off";
        button type="submit" class="danger" { "Pause every queue" }
    };
    html! {
        details class="card" {
            summary { "Every queue at once" }
            p { "No worker on any host takes jobs of a paused queue. Running jobs continue, and nothing is lost." }
            (frame::form(visit, &address(&["all-queues", "pause"]), "bar", reason))
            (frame::button(visit, &address(&["all-queues", "resume"]), "Resume every queue", &[]))
        }
    }
}

fn all_done(done: &AllDone, did: &str) -> Notice {
    let mut text = format!("{did} {}.", show::counted(done.count, "queue"));
    if !done.unchanged.is_empty() {
        let count = show::counted(done.unchanged.len() as u64, "queue");
        text.push_str(&format!(" {count} stayed as they were."));
    }
    for failure in &done.failures {
        text.push_str(&format!(" {}: {}.", failure.queue, failure.message));
    }
    Notice::new(text)
}

async fn pause_all(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let body = Json(EveryQueue { all: true });
    let asked = visit.change::<QueuesPauseAll>((), NoQuery {}, body, fields.reason());
    let done = asked.await?;
    let undo = address(&["all-queues", "resume"]);
    let notice = all_done(&done, "Paused").undo("Resume every queue", undo);
    Ok(visit.done(&address(&["queues"]), &notice))
}

async fn resume_all(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let body = Json(EveryQueue { all: true });
    let asked = visit.change::<QueuesResumeAll>((), NoQuery {}, body, fields.reason());
    let notice = all_done(&asked.await?, "Resumed");
    Ok(visit.done(&address(&["queues"]), &notice))
}
