//! Events of a job's timeline in words.

use maud::{Markup, html};
use patchbay_api::timeline::{Event, EventKind};
use patchbay_model::attempt::OutsideCall;

use crate::frame::address;
use crate::session::Visit;
use crate::show;

fn because(reason: Option<&String>) -> Markup {
    html! { @if let Some(reason) = reason { ": “" (show::text(reason)) "”" } }
}

fn bulk_link(id: i64) -> Markup {
    html! { a href=(address(&["bulk", &id.to_string()])) { "bulk operation " (id) } }
}

pub(crate) fn event(visit: &Visit, event: &Event) -> Markup {
    let at = show::ago(event.at, visit.now());
    let plain = |content: Markup| html! { li { p { (at) " · " (content) } } };
    match &event.kind {
        EventKind::Added => plain(html! { "Added" }),
        EventKind::Attempt { .. } => attempt(event, &at),
        EventKind::WorkerLost { started, host } => html! {
            li class="bad" { p { (at) " · Start " (started) ": its worker on " (show::text(host)) " is lost" } }
        },
        EventKind::Operator {
            actor,
            action,
            error,
            reason,
            ..
        } => plain(html! {
            strong { (show::text(actor)) } ": " code { (show::text(action)) } (because(reason.as_ref()))
            @if let Some(error) = error { " " (show::state("failed")) " " (show::text(error)) }
        }),
        EventKind::Bulk {
            bulk,
            action,
            actor,
            state,
            reason,
            because: why,
            ..
        } => plain(html! {
            strong { (show::text(actor)) } ": " (bulk_link(*bulk)) ", " (show::text(action)) " " (show::state(state)) (because(why.as_ref()))
            @if let Some(reason) = reason { " (" (show::text(reason)) ")" }
        }),
        EventKind::Undo {
            bulk,
            actor,
            state,
            reason,
            ..
        } => plain(html! {
            @if let Some(actor) = actor { strong { (show::text(actor)) } ": " }
            (bulk_link(*bulk)) " was undone: " (show::state(state))
            @if let Some(reason) = reason { " (" (show::text(reason)) ")" }
        }),
        EventKind::Queue {
            actor,
            action,
            jobs,
            certain,
            reason,
            ..
        } => plain(html! {
            strong { (show::text(actor)) } ": " code { (show::text(action)) } " of the whole queue, " (show::counted(*jobs, "job")) (because(reason.as_ref()))
            @if !certain { " (probably also this one: the record does not name its jobs)" }
        }),
        EventKind::Audit {
            trail, plugin, by, ..
        } => plain(html! {
            "Plugin " (show::text(plugin)) " wrote to the audit trail " (show::text(trail))
            @if let Some(by) = by { ", from " (show::text(by)) }
        }),
        EventKind::Erased { actor, reason, .. } => plain(html! {
            strong { (show::text(actor)) } " erased its data: “" (show::text(reason)) "”"
        }),
        EventKind::Log { line } => plain(html! { "Log: " (show::short(line, 400)) }),
        EventKind::Other { kind, fields } => plain(html! {
            (show::text(kind)) " " code { (show::short(&serde_json::Value::Object(fields.clone()).to_string(), 400)) }
        }),
    }
}

fn attempt(event: &Event, at: &Markup) -> Markup {
    let EventKind::Attempt {
        number,
        waited_ms,
        took_ms,
        host,
        plugin,
        revision,
        version,
        outcome,
        verdict,
        code,
        message,
        stack,
        calls,
        ..
    } = &event.kind
    else {
        return html! {};
    };
    let class = match verdict.as_str() {
        "complete" => "good",
        "fail" => "bad",
        _ => "warn",
    };
    html! {
        li class=(class) {
            p {
                (at) " · " strong { "Attempt " (number) } " " (show::state(outcome)) " "
                @match verdict.as_str() {
                    "complete" => { "completed" }
                    "retry" => { "runs again" }
                    "defer" => { "deferred, without using up an attempt" }
                    "fail" => { "failed for good" }
                    other => { (show::text(other)) }
                }
                ", took " (show::length(u64::try_from(*took_ms).unwrap_or(0)))
                @if let Some(waited) = waited_ms.and_then(|waited| u64::try_from(waited).ok()) { " after waiting " (show::length(waited)) }
            }
            @if code.is_some() || message.is_some() {
                p {
                    @if let Some(code) = code.as_ref().filter(|code| !message.as_ref().is_some_and(|message| message.starts_with(code.as_str()))) { code { (show::text(code)) } " " }
                    @if let Some(message) = message { (show::short(message, 500)) }
                }
            }
            p class="dim" {
                "On " (show::text(host))
                @if let Some(plugin) = plugin { ", plugin " (show::text(plugin)) }
                @if let Some(version) = version { " " (show::text(version)) }
                @if let Some(revision) = revision { " (" code { (show::text(&revision.chars().take(12).collect::<String>())) } ")" }
            }
            @if stack.is_some() || !calls.is_empty() {
                details {
                    summary {
                        @if calls.is_empty() { "Stack" } @else { (show::counted(calls.len() as u64, "outside call")) @if stack.is_some() { " and the stack" } }
                    }
                    @if !calls.is_empty() { (call_table(calls)) }
                    @if let Some(stack) = stack { (show::block(stack)) }
                }
            }
        }
    }
}

/// Outside calls as a table.
pub(crate) fn call_table(calls: &[OutsideCall]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Outside calls" {
            table {
                thead { tr { th scope="col" { "Call" } th scope="col" { "Result" } th scope="col" class="n" { "After" } th scope="col" class="n" { "Took" } } }
                tbody {
                    @for call in calls {
                        tr {
                            td class="wide" { (show::text(call.method.as_deref().unwrap_or(&call.kind))) " " (show::text(&call.host)) }
                            td { (show::text(&call.result)) }
                            td class="n" { (show::length(call.after_ms)) }
                            td class="n" { (show::length(call.took_ms)) }
                        }
                    }
                }
            }
        }
    }
}
