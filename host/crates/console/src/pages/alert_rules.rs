//! Alert rules: when each fires, and what operators have changed of it.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::alerts::{
    AlertRule, AlertRulesList, AlertRulesReset, AlertRulesSet, ChangedRule, RuleChange, RulePath,
    RuleScope, Threshold,
};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::path::unescaped;

use super::alerts::{link, measured, pages};
use super::parts::choice;
use crate::entry::{Posted, whole};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["alert-rules"]), get(rules))
        .route(&below_root("alert-rules/{rule}"), get(rule).post(change))
        .route(&below_root("alert-rules/{rule}/reset"), post(reset))
}

async fn rules(visit: Visit) -> Result<Response, Problem> {
    let rules = visit.ask_shared::<AlertRulesList>((), NoQuery {}).await?;
    let main = html! {
        (pages("alert-rules"))
        div class="table" tabindex="0" role="group" aria-label="Rules" {
            table class="rows" {
                thead { tr { th scope="col" { "Rule" } th scope="col" { "Fires" } th scope="col" { "Severity" } th scope="col" class="n" { "Threshold" } th scope="col" { "Changed" } } }
                tbody {
                    @for rule in &rules {
                        @let place = address(&["alert-rules", &rule.rule]);
                        tr data-href=(place) {
                            th scope="row" { a href=(place) { (show::text(&rule.rule)) } }
                            td class="message" { (show::text(&rule.about)) }
                            td { @if rule.enabled { (show::state(rule.severity.as_str())) } @else { (show::state("off")) } }
                            td class="n" { @match rule.threshold { Some(value) => { (measured(value, rule.unit.as_deref())) } None => { span class="dim" { "none" } } } }
                            td { @if rule.changes.is_empty() { span class="dim" { "as built in" } } @else { (show::counted(rule.changes.len() as u64, "change")) } }
                        }
                    }
                }
            }
        }
    };
    let path = [(address(&["alerts"]), "Alerts")];
    let head = Head::new(Section::Alerts, "Alert rules").below(&path);
    Ok(frame::page(&visit, &head, main))
}

async fn rule(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let rules = visit.ask_shared::<AlertRulesList>((), NoQuery {}).await?;
    let Some(rule) = rules.iter().find(|rule| rule.rule == name) else {
        let message = format!("There is no alert rule {name}");
        let problem = visit.problem(http::StatusCode::NOT_FOUND, "not-found", message);
        return Err(problem.back(address(&["alert-rules"])));
    };
    let main = html! {
        p { (show::text(&rule.about)) "." }
        (facts(rule))
        (changes(&visit, rule))
        @if visit.may::<AlertRulesSet>() { (editor(&visit, rule)) }
        p { a href=(address_with(&["alerts-history"], &[("rule", &rule.rule)])) { "When it fired" } }
    };
    let path = [
        (address(&["alerts"]), "Alerts"),
        (address(&["alert-rules"]), "Rules"),
    ];
    let head = Head::new(Section::Alerts, &rule.rule).below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn facts(rule: &AlertRule) -> Markup {
    html! {
        dl class="facts" {
            dt { "State" } dd { @if rule.enabled { (show::state("on")) } @else { (show::state("off")) } }
            dt { "Severity" } dd { (show::state(rule.severity.as_str())) }
            dt { "Looked at for" } dd { "each " (show::text(&rule.subjects)) }
            dt { "Threshold" } dd { @match rule.threshold { Some(value) => { (measured(value, rule.unit.as_deref())) @if rule.is_floor { " or below" } @else { " or above" } } None => { span class="dim" { "it measures no value" } } } }
            dt { "Sent after" } dd { (show::length(rule.hold_s * 1000)) }
            @if rule.at_least > 0 { dt { "Needs at least" } dd { (show::counted(rule.at_least, "case")) } }
            dt { "Runbook" } dd { (link(&rule.runbook)) }
        }
    }
}

fn changes(visit: &Visit, rule: &AlertRule) -> Markup {
    let reset = address(&["alert-rules", &rule.rule, "reset"]);
    html! {
        @if !rule.changes.is_empty() {
            section aria-labelledby="changes" {
                h2 id="changes" { "Changed by operators" }
                div class="table" tabindex="0" role="group" aria-labelledby="changes" {
                    table {
                        thead { tr { th scope="col" { "For" } th scope="col" { "Change" } @if visit.may::<AlertRulesReset>() { th scope="col" { "Undo" } } } }
                        tbody {
                            @for change in &rule.changes {
                                tr {
                                    th scope="row" { @if change.subject.is_empty() { "all" } @else { (show::text(&change.subject)) } }
                                    td { (show::text(&changed(change, rule.unit.as_deref()))) }
                                    @if visit.may::<AlertRulesReset>() { td { (frame::button(visit, &reset, "Back to the built-in values", &[("subject", &change.subject)])) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn changed(change: &ChangedRule, unit: Option<&str>) -> String {
    let parts = [
        change
            .enabled
            .map(|enabled| if enabled { "on" } else { "off" }.to_owned()),
        change
            .threshold
            .map(|value| format!("threshold {}", measured(value, unit))),
        change
            .hold_s
            .map(|seconds| format!("sent after {seconds} s")),
        change
            .at_least
            .map(|cases| format!("at least {cases} cases")),
        change.severity.clone(),
        change
            .runbook
            .clone()
            .map(|runbook| format!("runbook {runbook}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn editor(visit: &Visit, rule: &AlertRule) -> Markup {
    let text = |id: &str, label: &str, about: &str| {
        html! {
            p {
                label for=(id) { (label) }
                input id=(id) name=(id) type="text" maxlength="300" autocomplete="off" spellcheck="false";
                @if !about.is_empty() { br; span class="dim" { (about) } }
            }
        }
    };
    let content = html! {
        (text("subject", "Only for", "A queue, plugin, host or schedule, or a prefix with *. Empty: for all."))
        p {
            label for="enabled" { "State" }
            (choice("enabled", "enabled", &[("", "as it is"), ("on", "on"), ("off", "off")], ""))
        }
        @if rule.threshold.is_some() { (text("threshold", "Threshold", "A number in the unit of the rule, or with a unit, such as 5m, 36h or 90%.")) }
        p {
            label for="severity" { "Severity" }
            (choice("severity", "severity", &[("", "as it is"), ("warning", "warning"), ("critical", "critical")], ""))
        }
        (text("hold", "Sent after, in seconds", ""))
        @if rule.at_least > 0 { (text("at-least", "Needs at least this many cases", "")) }
        (text("runbook", "Runbook, a web address", ""))
        (text("reason", "Reason, for the record", ""))
        div class="actions" { button type="submit" { "Change the rule" } }
    };
    html! {
        details class="card" {
            summary { "Change" }
            p { "What is left empty stays as it is." }
            (frame::form(visit, &address(&["alert-rules", &rule.rule]), "stack", content))
        }
    }
}

async fn change(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let place = address(&["alert-rules", &name]);
    let back = |problem: Problem| problem.back(place.clone());
    let threshold = fields.text("threshold").map(|text| match text.parse() {
        Ok(number) => Threshold::Number(number),
        Err(_) => Threshold::Text(text.to_owned()),
    });
    let enabled = match fields.raw("enabled") {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    };
    let body = Json(RuleChange {
        subject: fields.text("subject").unwrap_or_default().to_owned(),
        enabled,
        threshold,
        hold_s: whole(&visit, &fields, "hold", "Sent after").map_err(back)?,
        at_least: whole(&visit, &fields, "at-least", "Needs at least").map_err(back)?,
        severity: fields.text("severity").map(str::to_owned),
        runbook: fields.text("runbook").map(str::to_owned),
    });
    let path = RulePath { rule: name.clone() };
    let done = visit.change::<AlertRulesSet>(path, NoQuery {}, body, fields.reason());
    let rule = done.await.map_err(back)?;
    let mut text = format!("Changed the rule {name}.");
    if let Some(warning) = &rule.warning {
        text.push_str(&format!(" {warning}."));
    }
    Ok(visit.done(&place, &Notice::new(text)))
}

async fn reset(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let place = address(&["alert-rules", &name]);
    let scope = RuleScope {
        subject: fields.raw("subject").to_owned(),
    };
    let path = RulePath { rule: name.clone() };
    let done = visit.change::<AlertRulesReset>(path, scope, NoBody, fields.reason());
    done.await.map_err(|problem| problem.back(place.clone()))?;
    let notice = Notice::new(format!(
        "The rule {name} has its built-in values there again."
    ));
    Ok(visit.done(&place, &notice))
}
