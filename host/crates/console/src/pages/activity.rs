//! Who did what: operators, plugins, and hosts on their own.

use axum::Router;
use axum::extract::Query;
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::activity::{Activity, ActivityList, ActivityResult, ActorKind, ListActivity};
use serde::Deserialize;

use super::inbox::{since, some};
use super::parts::{choice, older};
use crate::Site;
use crate::frame::{self, Head, Section, address, address_with};
use crate::session::{Problem, Visit};
use crate::show;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router.route(&address(&["activity"]), get(list))
}

/// The pages of this section, of which one is shown.
pub(crate) fn pages(shown: &str) -> Markup {
    html! {
        nav class="tabs" aria-label="Pages of the activity" {
            ul { @for (place, label) in [("activity", "Who did what"), ("audit", "Audit trails")] { li { a href=(address(&[place])) aria-current=[(place == shown).then_some("page")] { (label) } } } }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Which {
    #[serde(default)]
    actor: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    result: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    cursor: Option<String>,
}

const KINDS: [(&str, &str); 4] = [
    ("", "anybody"),
    ("operator", "operators"),
    ("plugin", "plugins"),
    ("host", "hosts"),
];
const RESULTS: [(&str, &str); 5] = [
    ("", "any"),
    ("done", "done"),
    ("no-effect", "no effect"),
    ("failed", "failed"),
    ("running", "running"),
];

impl Which {
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("actor", self.actor.trim()),
            ("action", self.action.trim()),
            ("target", self.target.trim()),
            ("kind", self.kind.trim()),
            ("result", self.result.trim()),
            ("since", self.since.trim()),
            ("until", self.until.trim()),
        ];
        all.into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    fn kind(&self) -> Option<ActorKind> {
        let all = [ActorKind::Operator, ActorKind::Plugin, ActorKind::Host];
        all.into_iter().find(|kind| kind.as_str() == self.kind)
    }

    fn result(&self) -> Option<ActivityResult> {
        let all = [
            ActivityResult::Done,
            ActivityResult::NoEffect,
            ActivityResult::Failed,
            ActivityResult::Running,
        ];
        all.into_iter()
            .find(|result| result.as_str() == self.result)
    }
}

async fn list(visit: Visit, Query(which): Query<Which>) -> Result<Response, Problem> {
    let query = ListActivity {
        actor: some(&which.actor),
        action: some(&which.action),
        target: some(&which.target),
        kind: which.kind(),
        result: which.result(),
        since: since(&which.since),
        until: since(&which.until),
        cursor: which.cursor.clone(),
        limit: Some(100),
    };
    let page = visit.page::<ActivityList, Activity>((), query).await;
    let page = page.map_err(|problem| problem.back(address(&["activity"])))?;
    let next = page.next_cursor.map(|cursor| {
        let mut query = which.pairs();
        query.push(("cursor", cursor.as_str()));
        address_with(&["activity"], &query)
    });
    let main = html! {
        (pages("activity"))
        (filter(&which))
        div id="activity" data-live {
            @if page.items.is_empty() { (frame::empty("Nobody did anything that matches.", html! { a href=(address(&["activity"])) { "Show everything" } })) }
            @else { (table(&visit, &page.items)) }
        }
        (older(next, "Older"))
    };
    let head = Head::new(Section::Activity, "Activity");
    let head = if which.cursor.is_some() {
        head
    } else {
        head.live()
    };
    Ok(frame::page(&visit, &head, main))
}

fn filter(which: &Which) -> Markup {
    let text = |id: &str, label: &str, value: &str| {
        html! {
            label for=(id) { (label) }
            input id=(id) name=(id) type="text" value=(value) autocomplete="off" spellcheck="false" maxlength="300";
        }
    };
    html! {
        form method="get" action=(address(&["activity"])) class="bar" role="search" aria-label="Activity" {
            span class="field" {
                label for="kind" { "By" }
                (choice("kind", "kind", &KINDS, &which.kind))
            }
            (text("actor", "Name", &which.actor))
            (text("action", "Action", &which.action))
            (text("target", "On", &which.target))
            span class="field" {
                label for="result" { "Result" }
                (choice("result", "result", &RESULTS, &which.result))
            }
            span class="field" {
                label for="since" { "From (UTC)" }
                input id="since" name="since" type="datetime-local" value=(which.since);
            }
            span class="field" {
                label for="until" { "Before (UTC)" }
                input id="until" name="until" type="datetime-local" value=(which.until);
            }
            button type="submit" { "Filter" }
        }
    }
}

fn table(visit: &Visit, items: &[Activity]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Who did what" {
            table {
                thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "On" } th scope="col" { "Result" } th scope="col" { "Details" } } }
                tbody { @for item in items { (row(visit, item)) } }
            }
        }
    }
}

fn row(visit: &Visit, item: &Activity) -> Markup {
    let has_details = item
        .details
        .as_object()
        .is_none_or(|details| !details.is_empty())
        && !item.details.is_null();
    html! {
        tr {
            td { (show::ago(item.at, visit.now())) }
            th scope="row" { a href=(address_with(&["activity"], &[("actor", &item.actor)])) { (show::text(&item.actor)) } @if let Some(from) = &item.from { br; span class="dim" { (show::text(from)) } } }
            td { a href=(address_with(&["activity"], &[("action", &item.action)])) { (show::text(&item.action)) } }
            td class="wide" { @if item.target.is_empty() { (show::unknown()) } @else { (show::short(&item.target, 80)) } }
            td {
                (show::state(item.result.as_str()))
                @if let Some(count) = item.count { " " (show::number(count)) }
                @if let Some(why) = &item.no_effect { " " (show::text(why)) }
            }
            td class="message" {
                @if let Some(reason) = &item.reason { "“" (show::text(reason)) "” " }
                @if let Some(error) = &item.error { (show::text(error)) " " }
                @if has_details { details { summary { "Details" } (show::json(&item.details.to_string())) } }
            }
        }
    }
}
