//! Which operations on a whole queue changed one job. Pure.
//!
//! Their records have numbers of jobs and no ids. So it is inferred: from the state in which the job
//! was, and from whether it is still there.

use chrono::{DateTime, Utc};
use patchbay_api::timeline::{Event, EventKind, Life};
use patchbay_store::ActionRow;

/// How a job stood at some time, as far as its events tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It waited, or was delayed.
    Waiting,
    Running,
    Failed,
    Completed,
    Removed,
}

/// Adds the operation to the life, in its place among the sorted events, if it changed the job.
pub(super) fn add_queue_action(life: &mut Life, action: &ActionRow) {
    let Some(certain) = changed(life, action) else {
        return;
    };
    let kind = EventKind::Queue {
        actor: action.actor.clone(),
        action: action.action.clone(),
        job_state: action.details["state"].as_str().map(str::to_owned),
        jobs: jobs(action),
        certain,
        reason: action.reason.clone(),
    };
    let place = life
        .events
        .partition_point(|event| event.at <= action.began_at);
    let event = Event {
        at: action.began_at,
        kind,
    };
    life.events.insert(place, event);
}

fn jobs(action: &ActionRow) -> u64 {
    let count = action.result.as_ref().map(|result| &result["count"]);
    count.and_then(serde_json::Value::as_u64).unwrap_or(0)
}

/// `None`: it did not change this job. Else whether that is certain.
fn changed(life: &Life, action: &ActionRow) -> Option<bool> {
    let at = action.began_at;
    let is_later = |made: &DateTime<Utc>| *made > at;
    if jobs(action) == 0 || life.created_at.as_ref().is_some_and(is_later) {
        return None;
    }
    let standing = standing_at(&life.events, at);
    let ran_later = life
        .events
        .iter()
        .any(|event| event.at > at && matches!(event.kind, EventKind::Attempt { .. }));
    let is_gone = life.state.is_none() && !ran_later;
    let state = action.details["state"].as_str();
    let was_meant = match state {
        Some("failed") => standing == Standing::Failed,
        Some("completed") => standing == Standing::Completed,
        _ => standing == Standing::Waiting,
    };
    match action.action.as_str() {
        // It may have been removed by the queue's retention before.
        "queue.put-back" if was_meant => Some(!is_gone && state != Some("delayed")),
        // Only some of the jobs, by their age and by a limit.
        "queue.clean" | "queue.drain" if was_meant && is_gone => Some(false),
        "queue.obliterate" if standing != Standing::Removed && is_gone => Some(true),
        _ => None,
    }
}

fn standing_at(events: &[Event], at: DateTime<Utc>) -> Standing {
    let (mut now, mut before_removal) = (Standing::Waiting, Standing::Waiting);
    for event in events.iter().filter(|event| event.at <= at) {
        let next = match &event.kind {
            EventKind::Attempt { ended_at, .. } if *ended_at > at => Standing::Running,
            EventKind::Attempt { verdict, .. } => match verdict.as_str() {
                "fail" => Standing::Failed,
                "complete" => Standing::Completed,
                _ => Standing::Waiting,
            },
            EventKind::Undo { state, .. } if state == "restored" => before_removal,
            _ if removes(event) => Standing::Removed,
            _ if puts_back(event) => Standing::Waiting,
            _ => now,
        };
        if next == Standing::Removed && now != Standing::Removed {
            before_removal = now;
        }
        now = next;
    }
    now
}

/// Whether the event makes an ended job wait again.
pub(super) fn puts_back(event: &Event) -> bool {
    match &event.kind {
        EventKind::Operator { action, error, .. } => action == "job.retry" && error.is_none(),
        EventKind::Bulk {
            action,
            state,
            added,
            like,
            ..
        } => action != "remove" && state == "done" && added.is_none() && like.is_none(),
        EventKind::Queue {
            action, certain, ..
        } => action == "queue.put-back" && *certain,
        _ => false,
    }
}

fn removes(event: &Event) -> bool {
    match &event.kind {
        EventKind::Operator { action, error, .. } => action == "job.remove" && error.is_none(),
        EventKind::Bulk { action, state, .. } => action == "remove" && state == "done",
        EventKind::Queue {
            action, certain, ..
        } => action == "queue.obliterate" && *certain,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).expect("a time")
    }

    fn event(second: i64, more: Value) -> Event {
        let mut event = more;
        event["at"] = json!(at(second));
        serde_json::from_value(event).expect("an event")
    }

    fn attempt(second: i64, ended: i64, verdict: &str) -> Event {
        let attempt = json!({ "kind": "attempt", "started": 1, "attempt": 1, "endedAt": at(ended), "tookMs": 1, "host": "a:1",
            "outcome": "failed", "verdict": verdict, "calls": [], "source": "host" });
        let event = event(second, attempt);
        assert!(matches!(event.kind, EventKind::Attempt { .. }));
        event
    }

    fn life(state: Option<&str>, events: Vec<Event>) -> Life {
        Life {
            created_at: Some(at(0)),
            name: "send".into(),
            correlation_id: None,
            platform: None,
            parent: None,
            children: BTreeMap::new(),
            same_request: BTreeMap::new(),
            events,
            logs: Vec::new(),
            state: state.map(str::to_owned),
        }
    }

    fn action(action: &str, second: i64, state: Option<&str>, count: u64) -> ActionRow {
        ActionRow {
            actor: "ops".into(),
            action: action.into(),
            target: "emailQueue".into(),
            began_at: at(second),
            details: json!({ "state": state }),
            result: Some(json!({ "count": count })),
            reason: None,
        }
    }

    #[test]
    fn failed_jobs_that_were_put_back_are_those_that_had_failed_then() {
        let failed = |state| life(state, vec![attempt(1, 2, "fail")]);
        let put_back = |second, state| action("queue.put-back", second, Some(state), 3);
        assert_eq!(
            changed(&failed(Some("failed")), &put_back(5, "failed")),
            Some(true)
        );
        assert_eq!(
            changed(&failed(Some("failed")), &put_back(5, "completed")),
            None
        );
        assert_eq!(changed(&failed(None), &put_back(5, "failed")), Some(false));
        let before = life(Some("failed"), vec![attempt(10, 11, "fail")]);
        assert_eq!(changed(&before, &put_back(5, "failed")), None);
        let running = life(Some("failed"), vec![attempt(1, 9, "fail")]);
        assert_eq!(changed(&running, &put_back(5, "failed")), None);
        let nothing = action("queue.put-back", 5, Some("failed"), 0);
        assert_eq!(changed(&failed(Some("failed")), &nothing), None);
    }

    #[test]
    fn what_cleans_and_drains_may_have_removed_only_what_is_gone() {
        let completed = |state| life(state, vec![attempt(1, 2, "complete")]);
        let clean = action("queue.clean", 5, Some("completed"), 3);
        assert_eq!(changed(&completed(None), &clean), Some(false));
        assert_eq!(changed(&completed(Some("completed")), &clean), None);
        let drain = action("queue.drain", 5, None, 3);
        assert_eq!(changed(&life(None, Vec::new()), &drain), Some(false));
        assert_eq!(changed(&completed(None), &drain), None);
        let ran_later = life(None, vec![attempt(6, 7, "complete")]);
        assert_eq!(changed(&ran_later, &drain), None);
        let obliterate = action("queue.obliterate", 5, None, 3);
        assert_eq!(changed(&completed(None), &obliterate), Some(true));
    }

    #[test]
    fn a_job_that_was_removed_before_is_not_changed_unless_it_came_back() {
        let removed = json!({ "kind": "bulk", "bulk": 1, "action": "remove", "actor": "ops", "state": "done" });
        let undone = json!({ "kind": "undo", "bulk": 1, "actor": "ops", "state": "restored" });
        let put_back = action("queue.put-back", 9, Some("failed"), 3);
        let mut events = vec![attempt(1, 2, "fail"), event(3, removed)];
        assert_eq!(standing_at(&events, at(9)), Standing::Removed);
        assert_eq!(
            changed(
                &life(
                    None,
                    vec![
                        attempt(1, 2, "fail"),
                        event(
                            3,
                            json!({
            "kind": "operator", "actor": "ops", "action": "job.remove", "error": null })
                        )
                    ]
                ),
                &put_back
            ),
            None
        );
        events.push(event(4, undone));
        assert_eq!(
            changed(&life(Some("failed"), events), &put_back),
            Some(true)
        );
    }

    #[test]
    fn the_step_stands_in_its_place() {
        let mut told = life(
            Some("completed"),
            vec![attempt(1, 2, "fail"), attempt(6, 7, "complete")],
        );
        add_queue_action(&mut told, &action("queue.put-back", 5, Some("failed"), 3));
        let kinds: Vec<bool> = told
            .events
            .iter()
            .map(|event| matches!(event.kind, EventKind::Queue { certain: true, .. }))
            .collect();
        assert_eq!(kinds, [false, true, false]);
    }
}
