//! Schedules: when each ticks next, what became of its last job, and the next day at a glance.

use std::collections::BTreeMap;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use patchbay_api::operation::NoQuery;
use patchbay_api::schedules::{
    ClientScheduler, RemovedSchedule, ScheduleView, SchedulesCreate, SchedulesList,
    SchedulesListOfClients, SchedulesListRemoved, SchedulesRestore,
};

use super::parts::moment_of;
use super::schedule_parts::{client_standing, last, next, page_of, rhythm, standing};
use crate::Site;
use crate::frame::{self, Head, Section, address};
use crate::session::{Problem, Visit};
use crate::show;

/// Most rows of one list.
const ROWS: usize = 250;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router.route(&address(&["schedules"]), get(list))
}

async fn list(visit: Visit) -> Result<Response, Problem> {
    let (schedules, clients, removed) = tokio::join!(
        visit.ask_shared::<SchedulesList>((), NoQuery {}),
        visit.ask_shared::<SchedulesListOfClients>((), NoQuery {}),
        visit.ask_shared::<SchedulesListRemoved>((), NoQuery {}),
    );
    let mut schedules = schedules?;
    // What is overdue or has no ticks stands first, then what ticks next.
    schedules.sort_by_cached_key(|one| {
        let is_late = one.trouble.is_some() || one.overdue_ms.is_some();
        let next = one.next_at.as_deref().and_then(moment_of);
        (!is_late, next.is_none(), next, one.id.clone())
    });
    let main = html! {
        @if visit.may::<SchedulesCreate>() { div class="actions" { a class="button" href=(address(&["schedule-new"])) { "New schedule" } } }
        div id="schedules" data-live {
            (calendar(&schedules, clients.as_deref().unwrap_or_default(), visit.now()))
            section aria-labelledby="own" {
                h2 id="own" { "Schedules" }
                @if schedules.is_empty() { (frame::empty("No schedule yet.", html! { "A schedule is declared by a plugin's manifest, or made here." })) }
                @else { (table(&visit, &schedules)) }
            }
            @match &clients {
                Err(problem) => { p { (show::state("warning")) " Job schedulers of BullMQ clients are not known now: " (show::text(&problem.message)) } }
                Ok(clients) if clients.is_empty() => {}
                Ok(clients) => {
                    section aria-labelledby="clients" {
                        h2 id="clients" { "Made by BullMQ clients" }
                        (client_table(&visit, clients))
                    }
                }
            }
        }
        @if let Ok(removed) = &removed && !removed.is_empty() {
            details { summary { "Removed in the last 30 days (" (removed.len()) ")" } (removed_table(&visit, removed)) }
        }
    };
    let head = Head::new(Section::Schedules, "Schedules").live();
    Ok(frame::page(&visit, &head, main))
}

fn table(visit: &Visit, schedules: &[ScheduleView]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-labelledby="own" {
            table class="rows" {
                thead { tr {
                    th scope="col" { "Schedule" }
                    th scope="col" { "Adds" }
                    th scope="col" { "When" }
                    th scope="col" { "Next" }
                    th scope="col" { "Last run" }
                    th scope="col" { "State" }
                } }
                tbody { @for one in schedules.iter().take(ROWS) { (row(visit, one)) } }
            }
        }
        @if schedules.len() > ROWS { p class="dim" { "Showing " (ROWS) " of " (show::number(schedules.len() as u64)) ". All of them: " code { "patchbay schedule list" } } }
    }
}

fn row(visit: &Visit, one: &ScheduleView) -> Markup {
    let place = page_of(&one.id);
    let every = one.every_ms.and_then(|ms| u64::try_from(ms).ok());
    html! {
        tr data-href=(place) {
            th scope="row" { a href=(place) { (show::text(&one.id)) } @if !one.description.is_empty() { br; span class="dim" { (show::short(&one.description, 80)) } } }
            td { a href=(address(&["queue", &one.queue])) { (show::text(&one.queue)) } " " (show::short(&one.name, 40)) }
            td { (rhythm(every, one.cron.as_deref(), one.zone.as_deref())) }
            td { (next(visit, one.next_at.as_deref(), one.next_at_local.as_deref())) }
            td { (last(visit, &one.queue, one.last_run.as_ref())) }
            td class="message" { (standing(visit, one)) }
        }
    }
}

fn client_table(visit: &Visit, clients: &[ClientScheduler]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-labelledby="clients" {
            table class="rows" {
                thead { tr {
                    th scope="col" { "Job scheduler" }
                    th scope="col" { "Queue" }
                    th scope="col" { "When" }
                    th scope="col" { "Next" }
                    th scope="col" { "Last run" }
                    th scope="col" { "State" }
                } }
                tbody {
                    @for one in clients.iter().take(ROWS) {
                        @let place = address(&["job-scheduler", one.queue.as_str(), &one.view.id]);
                        tr data-href=(place) {
                            th scope="row" { a href=(place) { (show::short(&one.view.id, 80)) } }
                            td { a href=(address(&["queue", one.queue.as_str()])) { (show::text(one.queue.as_str())) } }
                            td { (rhythm(one.view.every_ms, one.view.pattern.as_deref(), one.zone_in_force.as_deref())) }
                            td { (next(visit, one.next_time.as_deref(), one.next_at_local.as_deref())) }
                            td { (last(visit, one.queue.as_str(), one.last_run.as_ref())) }
                            td class="message" { (client_standing(one)) }
                        }
                    }
                }
            }
        }
        @if clients.len() > ROWS { p class="dim" { "Showing " (ROWS) " of " (show::number(clients.len() as u64)) "." } }
    }
}

fn removed_table(visit: &Visit, removed: &[RemovedSchedule]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Removed schedules" {
            table {
                thead { tr { th scope="col" { "Schedule" } th scope="col" { "Adds" } th scope="col" { "Removed" } th scope="col" { "Until" } @if visit.may::<SchedulesRestore>() { th scope="col" { "Change" } } } }
                tbody {
                    @for one in removed {
                        tr {
                            th scope="row" { (show::text(&one.id)) }
                            td { (show::text(&one.queue)) " " (show::short(&one.name, 40)) }
                            td { (show::ago(one.removed_at, visit.now())) @if let Some(by) = &one.removed_by { " by " (show::text(by)) } @if let Some(reason) = &one.reason { ": “" (show::text(reason)) "”" } }
                            td { (show::moment(one.restorable_until)) }
                            @if visit.may::<SchedulesRestore>() { td { (frame::button(visit, &address(&["schedule", &one.id, "restore"]), "Restore", &[])) } }
                        }
                    }
                }
            }
        }
    }
}

/// When ticks are due within the next 24 hours, hour by hour. A cron expression is known by its next
/// tick only, so an hour shows at least what stands in it.
fn calendar(schedules: &[ScheduleView], clients: &[ClientScheduler], now: DateTime<Utc>) -> Markup {
    let mut hours: BTreeMap<i64, (u64, Vec<&str>)> = BTreeMap::new();
    let mut add = |id, next: Option<&str>, every: Option<u64>| {
        let Some(first) = next.and_then(moment_of) else {
            return;
        };
        let mut at = first.timestamp_millis();
        let end = now.timestamp_millis() + 86_400_000;
        while at < end {
            let from_now = at.saturating_sub(now.timestamp_millis()).max(0);
            let hour = hours.entry(from_now / 3_600_000).or_default();
            // An hour of an interval at a time: one of seconds has tens of thousands of ticks.
            let until = (from_now / 3_600_000 + 1) * 3_600_000 + now.timestamp_millis();
            let every = every
                .and_then(|ms| i64::try_from(ms).ok())
                .filter(|ms| *ms > 0);
            let ticks = every.map_or(1, |ms| (until - at + ms - 1).div_euclid(ms).max(1));
            hour.0 += ticks.unsigned_abs();
            hour.1.push(id);
            match every {
                Some(ms) => at += ms * ticks,
                None => break,
            }
        }
    };
    for one in schedules.iter().filter(|one| one.paused_at.is_none()) {
        let every = one.every_ms.and_then(|ms| u64::try_from(ms).ok());
        add(one.id.as_str(), one.next_at.as_deref(), every);
    }
    for one in clients.iter().filter(|one| one.view.alive) {
        add(
            one.view.id.as_str(),
            one.next_time.as_deref(),
            one.view.every_ms,
        );
    }
    let most = hours.values().map(|(ticks, _)| *ticks).max().unwrap_or(0);
    html! {
        @if most > 0 {
            section aria-labelledby="day" {
                h2 id="day" { "The next 24 hours" }
                (bars(&hours, most, now))
                details {
                    summary { "In words" }
                    ul {
                        @for (hour, (ticks, ids)) in &hours {
                            li {
                                (hour_of(now, *hour).format("%H:%M")) " UTC: " (show::counted(*ticks, "tick")) " of "
                                @for (place, id) in ids.iter().take(6).enumerate() { @if place > 0 { ", " } (show::text(id)) }
                                @if ids.len() > 6 { " and " (ids.len() - 6) " more" }
                            }
                        }
                    }
                    p class="dim" { "Of a cron expression the next tick only is counted; the page of the schedule lists five." }
                }
            }
        }
    }
}

fn hour_of(now: DateTime<Utc>, hour: i64) -> DateTime<Utc> {
    now + chrono::TimeDelta::hours(hour)
}

fn bars(hours: &BTreeMap<i64, (u64, Vec<&str>)>, most: u64, now: DateTime<Utc>) -> Markup {
    let scale = |ticks: u64| {
        // A root, so that one tick is seen beside a schedule of every second.
        #[allow(clippy::cast_precision_loss)]
        let share = (ticks as f64 / most as f64).sqrt();
        format!("{:.1}", (share * 44.0).max(3.0))
    };
    let total: u64 = hours.values().map(|(ticks, _)| *ticks).sum();
    let about = format!("{} in the next 24 hours", show::counted(total, "tick"));
    html! {
        svg class="day" viewBox="0 0 480 64" role="img" aria-label=(about) {
            @for hour in 0..24_i64 {
                @let ticks = hours.get(&hour).map_or(0, |(ticks, _)| *ticks);
                @if ticks > 0 {
                    @let height = scale(ticks);
                    rect class="part" x=(hour * 20 + 2) y=(format!("{:.1}", 48.0 - height.parse::<f64>().unwrap_or(3.0))) width="16" height=(height) {
                        title { (hour_of(now, hour).format("%H:%M")) " UTC and on: " (show::counted(ticks, "tick")) }
                    }
                }
                @if hour % 4 == 0 {
                    text x=(hour * 20 + 2) y="61" { (hour_of(now, hour).format("%H:%M")) }
                }
            }
            line x1="0" y1="48" x2="480" y2="48" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_counted_in_every_hour_and_a_time_of_day_once() {
        let now = DateTime::from_timestamp(1_767_225_600, 0).expect("a time");
        let view = |id: &str, every: Option<u64>, next: i64| {
            let value = serde_json::json!({
                "id": id, "queue": "q", "name": "n", "data": "{}", "everyMs": every,
                "cron": null, "tz": null, "missed": "skip", "description": "", "plugin": null,
                "overridden": false, "pausedBy": null, "pausedAt": null,
                "updatedAt": now, "updatedBy": "x", "overdueMs": null, "zone": null, "trouble": null,
                "nextAt": (now + chrono::TimeDelta::seconds(next)).to_rfc3339(),
            });
            serde_json::from_value::<ScheduleView>(value).expect("a schedule")
        };
        let all = [
            view("each-minute", Some(60_000), 30),
            view("once", None, 7_200),
        ];
        let shown = calendar(&all, &[], now).into_string();
        assert!(shown.contains("1\u{202f}441 ticks"), "{shown}");
        assert!(
            shown.contains("02:00 UTC: 61 ticks of each-minute, once"),
            "{shown}"
        );
    }
}
