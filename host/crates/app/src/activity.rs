//! Use cases of activity: who did what.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Datelike, Utc};
use patchbay_api::activity::{Activity, ActivityResult, ActorKind, ListActivity};
use patchbay_api::answer::Page;
use patchbay_model::QueueName;
use patchbay_model::shell::word;
use patchbay_store::{ActivityCursor, ActivityFilter, ActivityRow, Store};
use serde_json::{Value, json};

use crate::nearest::meant;
use crate::queues::Catalog;
use crate::{Error, Parts};

const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;
/// Longest text of a filter, in bytes.
const MAX_TEXT: usize = 1_024;
/// Most queues that the details of an action name.
const MOST_NAMED: usize = 100;
/// Characters of a digest, as other commands show it.
const SHORT: usize = 12;

/// Actions that no operation of the API records under its own name.
const OTHER_ACTIONS: [&str; 8] = [
    "audit.export",
    "audit.read",
    "bulk.retry",
    "bulk.remove",
    "bulk.enqueue-again",
    "bulk.edit-and-retry",
    "bulk.reveal",
    "plugin.quarantine",
];

#[derive(Clone)]
pub struct ActivityLog {
    store: Store,
    catalog: Catalog,
}

impl ActivityLog {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
        }
    }

    /// Newest first.
    pub async fn list(&self, asked: ListActivity) -> Result<Page<Activity>, Error> {
        let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(format!(
                "limit: must be from 1 to {MAX_LIMIT}"
            )));
        }
        for (name, time) in [("since", asked.since), ("until", asked.until)] {
            if time.is_some_and(|time| !(0..=9_999).contains(&time.year())) {
                return Err(Error::invalid(format!(
                    "{name}: the year must be from 0000 to 9999, for example 2026-11-30T00:00:00Z"
                )));
            }
        }
        let filter = ActivityFilter {
            actor: text("actor", asked.actor)?,
            action: text("action", asked.action)?,
            target: text("target", asked.target)?,
            kind: asked.kind.map(|kind| kind.as_str().to_owned()),
            result: asked.result.map(|result| result.as_str().to_owned()),
            since: asked.since,
            until: asked.until,
            before: asked.cursor.as_deref().map(cursor).transpose()?,
        };
        // One more row shows whether there is another page.
        let mut rows = self.store.activity(&filter, i64::from(limit) + 1).await?;
        if rows.is_empty() && filter.before.is_none() {
            self.check_names(&filter).await?;
        }
        let is_more = rows.len() > usize::from(limit);
        rows.truncate(limit.into());
        let next_cursor = rows.last().filter(|_| is_more).map(cursor_of);
        Ok(Page {
            items: rows.into_iter().map(view).collect(),
            next_cursor,
            partial: false,
        })
    }
}

impl ActivityLog {
    /// Fails when a filter that has matched nothing has a name that may be mistyped.
    async fn check_names(&self, filter: &ActivityFilter) -> Result<(), Error> {
        let mut actions: BTreeSet<&str> = patchbay_api::operations()
            .filter(|operation| operation.access.is_for_operators())
            .filter_map(|operation| operation.audit)
            .chain(OTHER_ACTIONS)
            .collect();
        let words: Vec<&str> = actions
            .iter()
            .filter_map(|action| action.split('.').next())
            .collect();
        actions.extend(words);
        let (actors, targets) = self.store.recent_actors_and_targets().await?;
        let actions: Vec<&str> = actions.into_iter().collect();
        let operators = self.store.operators().await?;
        let mut actors = texts(&actors);
        actors.extend(operators.iter().map(|row| row.name.as_str()));
        let mut targets = texts(&targets);
        // Without Redis, its queues are not known.
        let Ok(queues) = self.catalog.names().await else {
            return Ok(());
        };
        targets.extend(queues.iter().map(QueueName::as_str));
        let plugins = self.store.plugin_names().await?;
        targets.extend(texts(&plugins));
        // Trails are defined by operators, so not every action is known.
        let is_of_trail = |action: &&String| action.starts_with("audit.");
        let action = filter.action.as_ref().filter(|action| !is_of_trail(action));
        let asked = [
            ("action", action, actions),
            ("actor", filter.actor.as_ref(), actors),
            ("target", filter.target.as_ref(), targets),
        ];
        for (name, wanted, known) in asked {
            let Some(wanted) = wanted else { continue };
            // Of a queue also its jobs, and of a plugin its outside hosts.
            let whose = wanted.split(['/', ' ']).next().unwrap_or_default();
            if known.contains(&wanted.as_str()) || name == "target" && known.contains(&whose) {
                continue;
            }
            // Only what was recorded lately is known, so a name without a like one may be right.
            let suggestion = meant(wanted, known.into_iter());
            if !suggestion.is_empty() {
                return Err(Error::invalid(format!(
                    "{name}: nothing is recorded of {}.{suggestion}",
                    word(wanted)
                )));
            }
        }
        Ok(())
    }
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn text(name: &str, value: Option<String>) -> Result<Option<String>, Error> {
    match &value {
        Some(text) if text.len() > MAX_TEXT || text.contains('\0') => Err(Error::invalid(format!(
            "{name}: must have at most {MAX_TEXT} bytes and no NUL character"
        ))),
        _ => Ok(value),
    }
}

/// `microseconds.source.id`
fn cursor_of(row: &ActivityRow) -> String {
    format!("{}.{}.{}", row.at.timestamp_micros(), row.source, row.id)
}

fn cursor(text: &str) -> Result<ActivityCursor, Error> {
    let mut parts = text.splitn(3, '.');
    let mut read = || {
        let at: DateTime<Utc> = DateTime::from_timestamp_micros(parts.next()?.parse().ok()?)
            .filter(|at| (0..=9_999).contains(&at.year()))?;
        let source = parts
            .next()
            .filter(|source| ["action", "entry"].contains(source))?;
        let id = parts.next()?.parse().ok()?;
        Some(ActivityCursor {
            at,
            source: source.to_owned(),
            id,
        })
    };
    read().ok_or_else(|| {
        Error::invalid("cursor: not valid. Use `nextCursor` of the page before, or leave it out for the first page")
    })
}

fn view(row: ActivityRow) -> Activity {
    let mut details = row.details;
    let mut take = |name: &str| match details.as_object_mut()?.remove(name)? {
        Value::String(text) => Some(text),
        _ => None,
    };
    let (reason, from) = (take("reason"), take("from"));
    if let (Some(details), Some(result)) = (details.as_object_mut(), &row.result) {
        for (name, value) in of_result(&row.action, result) {
            details.entry(name).or_insert(value);
        }
    }
    let no_effect = row
        .result
        .as_ref()
        .and_then(|result| result["noEffect"].as_str());
    let result = match (&row.error, row.ended_at) {
        (Some(_), _) => ActivityResult::Failed,
        (None, None) => ActivityResult::Running,
        (None, Some(_)) if no_effect.is_some() => ActivityResult::NoEffect,
        (None, Some(_)) => ActivityResult::Done,
    };
    let no_effect = no_effect.map(str::to_owned);
    Activity {
        id: format!("{}-{}", row.source, row.id),
        at: row.at,
        ended_at: row.ended_at,
        kind: match row.kind.as_str() {
            "host" => ActorKind::Host,
            "plugin" => ActorKind::Plugin,
            _ => ActorKind::Operator,
        },
        actor: row.actor,
        action: row.action,
        target: row.target,
        result,
        no_effect,
        count: row.result.as_ref().and_then(count),
        reason,
        from,
        error: row.error,
        details,
    }
}

/// What of the recorded result says what was done: the queues of an action on all queues, and the
/// revisions between which a plugin was switched.
fn of_result(action: &str, result: &Value) -> Vec<(&'static str, Value)> {
    match action {
        "queue.pause" | "queue.resume" => {
            let queues = result["queues"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or(&[]);
            let names: Vec<&Value> = queues.iter().take(MOST_NAMED).collect();
            let more = queues.len() - names.len();
            let named = (!names.is_empty()).then(|| ("queues", json!(names)));
            let more = (more > 0).then(|| ("moreQueues", json!(more)));
            named.into_iter().chain(more).collect()
        }
        "plugin.rollback" | "plugin.activate" => {
            let revision = |version: &str, digest: &str| {
                let digest: String = result[digest].as_str()?.chars().take(SHORT).collect();
                let version = result[version]
                    .as_str()
                    .map(|version| format!("{version} "));
                Some(format!("{}{digest}", version.unwrap_or_default()))
            };
            let from = revision("previousVersion", "previous").map(|from| ("from", json!(from)));
            let to = revision("version", "digest").map(|to| ("to", json!(to)));
            from.into_iter().chain(to).collect()
        }
        _ => Vec::new(),
    }
}

/// The count in the recorded result of an action.
fn count(result: &Value) -> Option<i64> {
    match result {
        Value::Array(items) => i64::try_from(items.len()).ok(),
        _ => ["count", "done", "jobs", "attempts", "resealed"]
            .iter()
            .find_map(|name| match &result[name] {
                Value::Array(items) => i64::try_from(items.len()).ok(),
                value => value.as_i64(),
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(details: Value, result: Option<Value>, error: Option<&str>) -> ActivityRow {
        let at = DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time");
        ActivityRow {
            source: "action".into(),
            id: 7,
            at,
            ended_at: (result.is_some() || error.is_some()).then_some(at),
            kind: "operator".into(),
            actor: "ops".into(),
            action: "queue.clean".into(),
            target: "emailQueue".into(),
            details,
            result,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn a_reason_an_address_and_a_count_are_fields_of_their_own() {
        let shown = view(row(
            json!({ "state": "failed", "reason": "INC-7", "from": "10.0.0.1" }),
            Some(json!({ "count": 63 })),
            None,
        ));
        assert_eq!(
            (shown.reason.as_deref(), shown.from.as_deref(), shown.count),
            (Some("INC-7"), Some("10.0.0.1"), Some(63))
        );
        assert_eq!(shown.details, json!({ "state": "failed" }));
        assert_eq!(shown.result, ActivityResult::Done);
        assert_eq!(
            view(row(json!({}), None, None)).result,
            ActivityResult::Running
        );
        assert_eq!(
            view(row(json!({}), None, Some("no"))).result,
            ActivityResult::Failed
        );
    }

    #[test]
    fn an_action_on_all_queues_names_them_and_a_rollback_names_both_revisions() {
        let queues: Vec<String> = (0..101).map(|n| format!("q{n}")).collect();
        let mut all = row(
            json!({}),
            Some(json!({ "count": 101, "queues": queues })),
            None,
        );
        all.action = "queue.pause".into();
        let details = view(all).details;
        assert_eq!(details["queues"].as_array().map(Vec::len), Some(MOST_NAMED));
        assert_eq!(details["moreQueues"], 1);
        let mut back = row(
            json!({}),
            Some(
                json!({ "version": "0.1.0", "digest": "0123456789abcdef", "previous": "fedcba9876543210", "previousVersion": "0.2.0" }),
            ),
            None,
        );
        back.action = "plugin.rollback".into();
        assert_eq!(
            view(back).details,
            json!({ "from": "0.2.0 fedcba987654", "to": "0.1.0 0123456789ab" })
        );
    }

    #[test]
    fn what_has_changed_nothing_has_no_effect_with_the_reason() {
        let shown = view(row(
            json!({}),
            Some(json!({ "count": 0, "noEffect": "was already paused" })),
            None,
        ));
        assert_eq!(shown.result, ActivityResult::NoEffect);
        assert_eq!(
            (shown.count, shown.no_effect.as_deref()),
            (Some(0), Some("was already paused"))
        );
    }

    #[test]
    fn a_cursor_is_read_back_and_nonsense_is_refused() {
        let row = row(json!({}), None, None);
        let read = cursor(&cursor_of(&row)).expect("a cursor");
        assert_eq!(
            (read.at, read.source.as_str(), read.id),
            (row.at, "action", 7)
        );
        for bad in [
            "",
            "7",
            "1.action",
            "1.other.2",
            "x.action.1",
            "9223372036854775807.action.1",
        ] {
            assert!(cursor(bad).is_err(), "{bad}");
        }
    }
}
