//! Alerts: what fires, who is not told, which rules there are, and whether messages arrive.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::alerts::{
    Alert, AlertEvent, AlertHistoryQuery, AlertOverview, AlertRule, AlertRulesList,
    AlertSilencesList, AlertsHistory, AlertsList, AlertsSilence, AlertsTest, AlertsUnsilence,
    ChannelTest, NewSilence, Silence, SilencePath, UndeliveredMessage,
};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use serde::Deserialize;

use super::parts::{older, refused, typed_length};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["alerts"]), get(list))
        .route(&address(&["alerts-history"]), get(history))
        .route(&address(&["alerts-silence"]), post(silence))
        .route(&below_root("alerts-silence/{silence}/end"), post(unsilence))
        .route(&address(&["alerts-test"]), post(test))
}

pub(crate) fn pages(shown: &str) -> Markup {
    let pages = [
        ("alerts", "Now"),
        ("alert-rules", "Rules"),
        ("alerts-history", "History"),
    ];
    html! {
        nav class="tabs" aria-label="Pages of alerts" {
            ul { @for (place, label) in pages { li { a href=(address(&[place])) aria-current=[(place == shown).then_some("page")] { (label) } } } }
        }
    }
}

async fn list(visit: Visit) -> Result<Response, Problem> {
    let (overview, silences, rules) = tokio::join!(
        visit.ask_shared::<AlertsList>((), NoQuery {}),
        visit.ask_shared::<AlertSilencesList>((), NoQuery {}),
        visit.ask_shared::<AlertRulesList>((), NoQuery {}),
    );
    let (overview, silences) = (overview?, silences?);
    let main = html! {
        (pages("alerts"))
        div id="alerts" data-live {
            (firing(&visit, &overview))
            @if !overview.undelivered.is_empty() { (undelivered(&visit, &overview.undelivered)) }
            (silence_table(&visit, &silences))
        }
        @if visit.may::<AlertsSilence>() { (silencer(&visit, rules.as_deref().unwrap_or_default())) }
        @if visit.may::<AlertsTest>() {
            section aria-labelledby="test" {
                h2 id="test" { "Do messages arrive?" }
                p { "Sends a test message over every channel of the host that answers, now." }
                (frame::button(&visit, &address(&["alerts-test"]), "Send a test message", &[]))
            }
        }
    };
    let head = Head::new(Section::Alerts, "Alerts").live();
    Ok(frame::page(&visit, &head, main))
}

fn firing(visit: &Visit, overview: &AlertOverview) -> Markup {
    html! {
        section aria-labelledby="firing" {
            h2 id="firing" { "Firing and pending" }
            @if overview.alerts.is_empty() { p class="all-well" { "No alert is firing or pending." } }
            @else { ul class="wrongs" { @for alert in &overview.alerts { (one(visit, alert)) } } }
        }
    }
}

fn one(visit: &Visit, alert: &Alert) -> Markup {
    let is_bad = alert.severity == "critical" && alert.state == "firing";
    html! {
        li class={ "wrong " @if is_bad { "bad" } @else { "warn" } } {
            p {
                (show::state(&alert.severity)) " " (show::state(&alert.state)) " "
                strong { (show::text(alert.reason.as_deref().unwrap_or("The cause is gone"))) }
            }
            @if let Some(next) = &alert.next { p class="next" { (show::text(next)) } }
            p class="dim" {
                "Rule " a href=(address(&["alert-rules", &alert.rule])) { (show::text(&alert.rule)) }
                @if !alert.subject.is_empty() { " for " (show::text(&alert.subject)) }
                ", since " (show::ago(alert.since, visit.now()))
                @if let (Some(value), Some(threshold)) = (alert.value, alert.threshold) { ". " (measured(value, alert.unit.as_deref())) ", threshold " (measured(threshold, alert.unit.as_deref())) }
                @if let Some(seconds) = alert.ends_within_s { ". It ends within " (show::length(seconds * 1000)) " if nothing changes" }
                @if let Some(until) = alert.silenced_until {
                    ". Silenced until " (show::moment(until))
                    @if let Some(by) = &alert.silenced_by { " by " (show::text(by)) }
                    @if let Some(reason) = &alert.silence_reason { ": “" (show::text(reason)) "”" }
                }
                @if let Some(runbook) = alert.runbook.as_deref() { ". Runbook: " (link(runbook)) }
            }
        }
    }
}

/// A link of a rule: only web addresses are links, whatever an operator has typed.
pub(crate) fn link(target: &str) -> Markup {
    html! {
        @if target.starts_with("https://") || target.starts_with("http://") { a href=(target) rel="noreferrer" { (show::short(target, 100)) } }
        @else { (show::text(target)) }
    }
}

pub(crate) fn measured(value: f64, unit: Option<&str>) -> String {
    let value = (value * 100.0).round() / 100.0;
    match unit {
        Some(unit) => format!("{value} {unit}"),
        None => value.to_string(),
    }
}

fn undelivered(visit: &Visit, messages: &[UndeliveredMessage]) -> Markup {
    html! {
        section aria-labelledby="undelivered" {
            h2 id="undelivered" { "Messages that did not arrive" }
            div class="table" tabindex="0" role="group" aria-labelledby="undelivered" {
                table {
                    thead { tr { th scope="col" { "Alert" } th scope="col" { "Channel" } th scope="col" { "Due" } th scope="col" class="n" { "Tries" } th scope="col" { "Why" } } }
                    tbody {
                        @for message in messages {
                            tr {
                                th scope="row" { (show::text(&message.rule)) " " (show::text(&message.subject)) @if let Some(event) = &message.event { " (" (show::text(event)) ")" } }
                                td { (show::text(&message.channel)) }
                                td { (show::ago(message.since, visit.now())) }
                                td class="n" { (message.tries) }
                                td class="message" {
                                    @if message.given_up_at.is_some() { (show::state("given up")) " " } @else { (show::state("retry")) " " }
                                    @if let Some(error) = &message.last_error { (show::text(error)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn silence_table(visit: &Visit, silences: &[Silence]) -> Markup {
    html! {
        section aria-labelledby="silences" {
            h2 id="silences" { "Silences" }
            @if silences.is_empty() { p class="dim" { "No silence is in force: every alert is sent." } }
            @else {
                div class="table" tabindex="0" role="group" aria-labelledby="silences" {
                    table {
                        thead { tr { th scope="col" { "Alerts" } th scope="col" { "Ends" } th scope="col" { "By" } th scope="col" { "Why" } @if visit.may::<AlertsUnsilence>() { th scope="col" { "Change" } } } }
                        tbody {
                            @for silence in silences {
                                tr {
                                    th scope="row" { @if silence.rule == "all" { "every rule" } @else { (show::text(&silence.rule)) } @if !silence.subject.is_empty() { " for " (show::text(&silence.subject)) } }
                                    td { (show::ago(silence.ends_at, visit.now())) }
                                    td { (show::text(&silence.created_by)) " " (show::ago(silence.created_at, visit.now())) }
                                    td class="message" { (show::text(&silence.reason)) }
                                    @if visit.may::<AlertsUnsilence>() { td { (frame::button(visit, &address(&["alerts-silence", &silence.id.to_string(), "end"]), "End", &[])) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn silencer(visit: &Visit, rules: &[AlertRule]) -> Markup {
    let content = html! {
        p {
            label for="rule" { "Rule" }
            select id="rule" name="rule" {
                option value="all" { "every rule" }
                @for rule in rules { option value=(rule.rule) { (rule.rule) } }
            }
        }
        p {
            label for="subject" { "Only for (a queue, plugin, host or schedule; a prefix with *; empty: for all)" }
            input id="subject" name="subject" type="text" maxlength="300" autocomplete="off" spellcheck="false";
        }
        p {
            label for="for" { "For how long, such as 30 min, 4 h or 2 d" }
            input id="for" name="for" type="text" required value="1 h" maxlength="20" autocomplete="off";
        }
        p {
            label for="silence-reason" { "Reason, for the next operator" }
            input id="silence-reason" name="reason" type="text" required maxlength="500" autocomplete="off";
        }
        div class="actions" { button type="submit" { "Silence" } }
    };
    html! {
        details class="card" {
            summary { "Silence alerts for a while" }
            p { "No messages are sent. Alerts are still evaluated and shown here, and whoever was told of one is told when it is over." }
            (frame::form(visit, &address(&["alerts-silence"]), "stack", content))
        }
    }
}

async fn silence(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["alerts"]));
    let Some(ms) = typed_length(fields.raw("for")) else {
        let message = "Nothing was done: a length of time has a unit, such as 30 min, 4 h or 2 d";
        return Err(back(refused(&visit, message)));
    };
    let body = Json(NewSilence {
        rule: fields.text("rule").unwrap_or("all").to_owned(),
        subject: fields.text("subject").unwrap_or_default().to_owned(),
        for_s: ms.div_ceil(1000),
        reason: fields.reason().unwrap_or_default().to_owned(),
    });
    let done = visit.change::<AlertsSilence>((), NoQuery {}, body, None);
    let silence = done.await.map_err(back)?;
    let mut text = format!("Silenced for {}.", show::length(ms));
    if let Some(warning) = &silence.warning {
        text.push_str(&format!(" {warning}."));
    }
    let undo = address(&["alerts-silence", &silence.id.to_string(), "end"]);
    let notice = Notice::new(text).undo("End the silence", undo);
    Ok(visit.done(&address(&["alerts"]), &notice))
}

async fn unsilence(
    Path(silence): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let path = SilencePath { silence };
    let done = visit.change::<AlertsUnsilence>(path, NoQuery {}, NoBody, fields.reason());
    done.await
        .map_err(|problem| problem.back(address(&["alerts"])))?;
    let notice =
        Notice::new("The silence has ended. Alerts that fire and were never sent are sent now.");
    Ok(visit.done(&address(&["alerts"]), &notice))
}

async fn test(Posted { visit, .. }: Posted) -> Result<Response, Problem> {
    let done = visit.change::<AlertsTest>((), NoQuery {}, NoBody, None);
    let channels = done
        .await
        .map_err(|problem| problem.back(address(&["alerts"])))?;
    let main = html! {
        (tested(&channels))
        div class="actions" { a class="button" href=(address(&["alerts"])) { "Back to the alerts" } }
    };
    let path = [(address(&["alerts"]), "Alerts")];
    let head = Head::new(Section::Alerts, "Test messages").below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn tested(channels: &[ChannelTest]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Channels" {
            table {
                thead { tr { th scope="col" { "Channel" } th scope="col" { "Result" } th scope="col" class="n" { "Took" } } }
                tbody {
                    @for channel in channels {
                        tr {
                            th scope="row" { (show::text(&channel.channel)) }
                            td class="message" { @if channel.delivered { (show::state("delivered")) } @else { (show::state("failed")) } @if let Some(error) = &channel.error { " " (show::text(error)) } }
                            td class="n" { (show::length(channel.ms)) }
                        }
                    }
                }
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Paged {
    #[serde(default)]
    rule: String,
    #[serde(default)]
    cursor: Option<String>,
}

async fn history(visit: Visit, Query(paged): Query<Paged>) -> Result<Response, Problem> {
    let rule = Some(paged.rule.trim()).filter(|rule| !rule.is_empty());
    let query = AlertHistoryQuery {
        rule: rule.map(str::to_owned),
        cursor: paged.cursor,
        limit: Some(100),
    };
    let page = visit.page::<AlertsHistory, AlertEvent>((), query).await;
    let page = page.map_err(|problem| problem.back(address(&["alerts-history"])))?;
    let next = page.next_cursor.map(|cursor| {
        let mut query = vec![("cursor", cursor.as_str())];
        query.extend(rule.map(|rule| ("rule", rule)));
        address_with(&["alerts-history"], &query)
    });
    let main = html! {
        (pages("alerts-history"))
        @if let Some(rule) = rule { p { "Of rule " strong { (show::text(rule)) } ". " a href=(address(&["alerts-history"])) { "All rules" } } }
        @if page.items.is_empty() { (frame::empty("Nothing has fired in the last 90 days.", html! { "What fires and recovers is kept here for 90 days." })) }
        @else { (events(&visit, &page.items)) }
        (older(next, "Older"))
    };
    let path = [(address(&["alerts"]), "Alerts")];
    let head = Head::new(Section::Alerts, "History of alerts").below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn events(visit: &Visit, events: &[AlertEvent]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="What fired and recovered" {
            table {
                thead { tr { th scope="col" { "When" } th scope="col" { "Alert" } th scope="col" { "Event" } th scope="col" { "What was wrong" } } }
                tbody {
                    @for event in events {
                        tr {
                            td { (show::ago(event.at, visit.now())) }
                            th scope="row" { a href=(address_with(&["alerts-history"], &[("rule", &event.rule)])) { (show::text(&event.rule)) } " " (show::text(&event.subject)) }
                            td {
                                (show::state(&event.event)) " " @if event.event != "recovered" { (show::state(&event.severity)) }
                                @if let Some(ms) = event.lasted_ms.and_then(|ms| u64::try_from(ms).ok()) { " after " (show::length(ms)) }
                                @if event.silenced { " " span class="dim" { "silenced" } }
                            }
                            td class="message" { (show::text(&event.reason)) }
                        }
                    }
                }
            }
        }
    }
}
