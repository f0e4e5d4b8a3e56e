//! What operators changed last of a queue, its plugin and its schedules. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_api::queues::Reason;
use patchbay_model::QueueName;
use patchbay_model::shell::{arguments, arguments_with, word};
use patchbay_model::words::counted;
use patchbay_store::ActionRow;
use serde_json::Value;

use super::reason::{reason, time};

/// An older change explains nothing of today.
const RECENT: TimeDelta = TimeDelta::days(1);

/// Actions on a queue, or on all queues, that may explain how it stands.
pub(super) const OF_QUEUE: [&str; 8] = [
    "queue.pause",
    "queue.resume",
    "queue.drain",
    "queue.clean",
    "queue.put-back",
    "queue.obliterate",
    "queue.concurrency",
    "queue.rate-limit",
];
/// Actions on the queue's plugin.
pub(super) const OF_PLUGIN: [&str; 7] = [
    "plugin.activate",
    "plugin.deactivate",
    "plugin.rollback",
    "plugin.grant",
    "plugin.revoke",
    "plugin.quarantine",
    "plugin.release",
];
/// Actions on schedules of the queue.
pub(super) const OF_SCHEDULE: [&str; 2] = ["schedule.pause", "schedule.resume"];

/// Codes of reasons that say already who did this.
const TOLD_BY: [(&str, &str); 7] = [
    ("queue.pause", "paused"),
    ("queue.rate-limit", "rate-limited"),
    ("queue.concurrency", "concurrency-reached"),
    ("plugin.deactivate", "plugin-deactivated"),
    ("plugin.revoke", "grant-missing"),
    ("plugin.quarantine", "quarantined"),
    ("schedule.pause", "schedule-paused"),
];

/// The action that paused the queue, if the last one did.
pub(super) fn paused_by(changes: &[ActionRow]) -> Option<&ActionRow> {
    let mut changes = changes.iter();
    let last =
        changes.find(|change| ["queue.pause", "queue.resume"].contains(&change.action.as_str()))?;
    (last.action == "queue.pause").then_some(last)
}

/// The action that set a limit of the queue, if the last one did not remove it.
pub(super) fn limited_by<'a>(changes: &'a [ActionRow], action: &str) -> Option<&'a ActionRow> {
    let last = changes.iter().find(|change| change.action == action)?;
    (!last.details["max"].is_null()).then_some(last)
}

/// The action that paused the schedule, if the last one on it did.
pub(super) fn schedule_paused_by<'a>(changes: &'a [ActionRow], id: &str) -> Option<&'a ActionRow> {
    let mut changes = changes.iter().filter(|change| change.target == id);
    let last = changes
        .find(|change| ["schedule.pause", "schedule.resume"].contains(&change.action.as_str()))?;
    (last.action == "schedule.pause").then_some(last)
}

pub(super) fn revoked_by<'a>(changes: &'a [ActionRow], ask: &str) -> Option<&'a ActionRow> {
    let names = |change: &ActionRow| {
        let asks = change.details["asks"].as_array();
        asks.is_some_and(|asks| asks.iter().any(|one| one == ask))
    };
    let mut changes = changes.iter();
    changes.find(|change| change.action == "plugin.revoke" && names(change))
}

/// Whether somebody has removed jobs of the queue lately, so that it is empty on purpose.
pub(super) fn has_removed(changes: &[ActionRow], now: DateTime<Utc>) -> bool {
    const REMOVALS: [&str; 3] = ["queue.drain", "queue.clean", "bulk.remove"];
    changes.first().is_some_and(|last| {
        REMOVALS.contains(&last.action.as_str())
            && last.details["state"] != "completed"
            && now - last.began_at <= RECENT
    })
}

/// The last change, if it is recent and none of the reasons `told` says it. `changes` are the newest
/// first; `since`: what is known first of the queue.
pub(super) fn last(
    queue: &QueueName,
    changes: &[ActionRow],
    since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    told: &[&str],
) -> Option<Reason> {
    // A change of all queues that is older than the queue has not changed it.
    let concerns = |change: &&ActionRow| {
        change.target != "*" || since.is_none_or(|since| since <= change.began_at)
    };
    let last = changes.iter().find(concerns)?;
    let is_told = |(action, code): &(&str, &str)| last.action == *action && told.contains(code);
    if now - last.began_at > RECENT || TOLD_BY.iter().any(is_told) {
        return None;
    }
    let message = format!(
        "Last change: {} {} at {}{}",
        last.actor,
        what(last),
        time(last.began_at),
        last.because()
    );
    Some(reason("last-change", message, next(queue, last)))
}

fn what(change: &ActionRow) -> String {
    let (target, details) = (word(&change.target), &change.details);
    let queue = match change.target.as_str() {
        "*" => "the queue and others",
        _ => "the queue",
    };
    let of_state = |state: &Value| {
        let count = change.result.as_ref().map(|result| &result["count"]);
        let count = count.and_then(Value::as_u64).unwrap_or(0);
        match state.as_str() {
            Some(state) => counted(count, &format!("{state} job")),
            None => counted(count, "job"),
        }
    };
    match change.action.as_str() {
        "queue.pause" => format!("paused {queue}"),
        "queue.resume" => format!("resumed {queue}"),
        "queue.drain" => format!("drained the queue: {} removed", of_state(&Value::Null)),
        "queue.clean" => format!("removed {}", of_state(&details["state"])),
        "queue.put-back" => format!("put back {}", of_state(&details["state"])),
        "queue.obliterate" => format!("removed the queue with {}", of_state(&Value::Null)),
        "queue.concurrency" => match details["max"].as_u64() {
            Some(max) => format!("limited the queue to {} at once", counted(max, "job")),
            None => "removed the limit of jobs at once".to_owned(),
        },
        "queue.rate-limit" => match details["max"].as_u64() {
            Some(max) => format!(
                "limited the queue to {} per {} ms",
                counted(max, "job"),
                details["perMs"].as_u64().unwrap_or(1_000)
            ),
            None => "removed the rate limit".to_owned(),
        },
        "plugin.activate" => format!(
            "activated revision {} of plugin {target}",
            word(&short(activated(change).unwrap_or("unknown")))
        ),
        "plugin.deactivate" => format!("deactivated plugin {target}"),
        "plugin.rollback" => match change.result.as_ref().and_then(active) {
            Some(revision) => format!("rolled plugin {target} back to {revision}"),
            None => format!("rolled plugin {target} back"),
        },
        "breaker.open" => format!("opened the breaker of {target}"),
        "breaker.close" => format!("closed the breaker of {target}"),
        bulk if bulk.starts_with("bulk.") => {
            let bulk_id = change.target.trim_start_matches("bulk/");
            let count = details["jobs"].as_u64().unwrap_or(0);
            let jobs = counted(count, "job");
            let did = match bulk {
                "bulk.retry" => format!("retried {jobs} of the queue"),
                "bulk.remove" => format!("removed {jobs} of the queue"),
                "bulk.enqueue-again" => format!("added {jobs} of the queue again"),
                "bulk.edit-and-retry" => format!("edited and retried {jobs} of the queue"),
                "bulk.undo" if details["kind"] == "edit-and-retry" => {
                    format!("gave {jobs} of the queue the data from before an edit back")
                }
                "bulk.undo" => format!("put back {} of the queue", counted(count, "removed job")),
                other => format!("did {other} with {jobs} of the queue"),
            };
            format!("{did} (bulk operation {bulk_id})")
        }
        "plugin.grant" => format!("granted plugin {target} {}", asks(details)),
        "plugin.revoke" => format!("revoked {} from plugin {target}", asks(details)),
        "plugin.quarantine" => format!("quarantined plugin {target}"),
        "plugin.release" => format!("released plugin {target} from quarantine"),
        "schedule.pause" => format!("paused schedule {target}"),
        "schedule.resume" => format!("resumed schedule {target}"),
        other => format!("did {other}"),
    }
}

/// The digest of the revision that was activated; before its result was recorded, the part of it that
/// the operator typed.
fn activated(change: &ActionRow) -> Option<&str> {
    let result = change.result.as_ref();
    let whole = result.and_then(|result| result["digest"].as_str());
    whole.or(change.details["digest"].as_str())
}

/// Version and digest of the revision that an activation has made active.
fn active(result: &Value) -> Option<String> {
    let (version, digest) = (result["version"].as_str()?, result["digest"].as_str()?);
    Some(format!("{version} {}", short(digest)))
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn asks(details: &Value) -> String {
    let asks = details["asks"].as_array().into_iter().flatten();
    let asks: Vec<String> = asks
        .filter_map(Value::as_str)
        .map(|ask| format!("{ask:?}"))
        .collect();
    asks.join(", ")
}

fn next(queue: &QueueName, change: &ActionRow) -> String {
    let target = arguments(&[&change.target]);
    let undo = match change.action.as_str() {
        "queue.pause" => format!("patchbay queue resume {}", arguments(&[queue.as_str()])),
        "queue.concurrency" | "queue.rate-limit" if change.details["max"].is_null() => {
            return "nothing, if it was intended".to_owned();
        }
        "queue.concurrency" => format!(
            "patchbay queue concurrency {}",
            arguments_with(&[&change.target], "--none")
        ),
        "queue.rate-limit" => format!(
            "patchbay queue rate-limit {}",
            arguments_with(&[&change.target], "--none")
        ),
        "plugin.activate" | "plugin.rollback" => {
            let result = change.result.as_ref();
            let previous = result.and_then(|result| result["previous"].as_str());
            match previous {
                // No revision was active before.
                None => format!("patchbay plugin deactivate {target}"),
                Some(previous) => {
                    let version = result.and_then(|result| result["previousVersion"].as_str());
                    let version = version.map(|version| format!("{version} "));
                    let digest = short(previous);
                    return format!(
                        "nothing, if it was intended; otherwise back to {}{digest}: patchbay plugin activate {}",
                        version.unwrap_or_default(),
                        arguments(&[&change.target, &digest])
                    );
                }
            }
        }
        "plugin.revoke" => format!("patchbay plugin grants {target}"),
        "schedule.pause" => format!("patchbay schedule resume {target}"),
        _ => return "nothing, if it was intended".to_owned(),
    };
    format!("nothing, if it was intended; otherwise: {undo}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(action: &str, details: Value, result: Value) -> ActionRow {
        ActionRow {
            actor: "ops".into(),
            action: action.into(),
            target: "email".into(),
            began_at: DateTime::from_timestamp(1_795_000_000, 0).expect("a time"),
            details,
            result: Some(result),
            reason: None,
        }
    }

    fn queue() -> QueueName {
        "emailQueue".parse().expect("a name")
    }

    #[test]
    fn each_change_is_told_in_words_with_its_numbers() {
        let count = json!({ "count": 1 });
        for (action, details, words) in [
            ("queue.drain", json!({}), "drained the queue: 1 job removed"),
            (
                "queue.clean",
                json!({ "state": "failed" }),
                "removed 1 failed job",
            ),
            (
                "queue.put-back",
                json!({ "state": "failed" }),
                "put back 1 failed job",
            ),
            (
                "queue.concurrency",
                json!({ "max": 3 }),
                "limited the queue to 3 jobs at once",
            ),
            (
                "queue.concurrency",
                json!({ "max": null }),
                "removed the limit of jobs at once",
            ),
            (
                "queue.rate-limit",
                json!({ "max": 10, "perMs": 500 }),
                "limited the queue to 10 jobs per 500 ms",
            ),
            (
                "plugin.activate",
                json!({ "digest": "0123456789abcdef" }),
                "activated revision 0123456789ab of plugin email",
            ),
            (
                "plugin.revoke",
                json!({ "asks": ["smtp"] }),
                "revoked \"smtp\" from plugin email",
            ),
            ("schedule.resume", json!({}), "resumed schedule email"),
        ] {
            assert_eq!(what(&change(action, details, count.clone())), words);
        }
        let all = OF_QUEUE.iter().chain(&OF_PLUGIN).chain(&OF_SCHEDULE);
        for action in all {
            let told = what(&change(action, json!({}), json!({})));
            assert!(!told.starts_with("did "), "{action} has words of its own");
        }
    }

    #[test]
    fn an_old_change_is_not_told() {
        let changes = [change("queue.resume", json!({}), json!({}))];
        let at = changes[0].began_at;
        let an_hour_later = at + TimeDelta::hours(1);
        assert!(last(&queue(), &changes, None, an_hour_later, &[]).is_some());
        assert!(last(&queue(), &changes, None, at + TimeDelta::days(2), &[]).is_none());
        assert!(last(&queue(), &[], None, at, &[]).is_none());
    }

    #[test]
    fn an_undo_is_told_with_what_it_has_put_back() {
        let undo = |kind: &str, jobs: u64| {
            let mut undo = change(
                "bulk.undo",
                json!({ "kind": kind, "jobs": jobs }),
                Value::Null,
            );
            undo.target = "bulk/7".into();
            what(&undo)
        };
        assert_eq!(
            undo("remove", 3),
            "put back 3 removed jobs of the queue (bulk operation 7)"
        );
        assert_eq!(
            undo("edit-and-retry", 1),
            "gave 1 job of the queue the data from before an edit back (bulk operation 7)"
        );
    }

    #[test]
    fn a_change_of_all_queues_before_the_queue_was_there_is_not_told() {
        let mut of_all = change("queue.resume", json!({}), json!({}));
        of_all.target = "*".into();
        let at = of_all.began_at;
        let told = |since| last(&queue(), std::slice::from_ref(&of_all), since, at, &[]).is_some();
        assert!(told(None) && told(Some(at - TimeDelta::hours(1))));
        assert!(!told(Some(at + TimeDelta::minutes(1))));
    }

    #[test]
    fn a_rollback_names_its_target_and_the_way_back_the_revision_before() {
        let result = json!({ "version": "0.1.0", "digest": "0123456789abcdef", "previous": "fedcba98765432100", "previousVersion": "0.2.0" });
        let rollback = change("plugin.rollback", json!({}), result);
        assert_eq!(
            what(&rollback),
            "rolled plugin email back to 0.1.0 0123456789ab"
        );
        assert_eq!(
            next(&queue(), &rollback),
            "nothing, if it was intended; otherwise back to 0.2.0 fedcba987654: patchbay plugin activate email fedcba987654"
        );
    }
}
