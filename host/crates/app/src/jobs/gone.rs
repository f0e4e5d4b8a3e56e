//! Why a job is not in Redis: a pure function of what Postgres knows of it.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::shell::{arguments, word};
use patchbay_model::{JobId, QueueName};
use patchbay_store::{ActionRow, FoundRow, JobAction, JobBulk, JobErasure};
use serde_json::{Value, json};

use super::Jobs;
use super::life::RUNNING;
use crate::error::Error;

impl Jobs {
    /// The error for a job that Redis does not have. It says who removed it, or how it ended.
    pub(super) async fn why_gone(&self, queue: &QueueName, id: &JobId) -> Result<Error, Error> {
        let (store, prefix) = (&self.store, self.broker.prefix());
        let attempts = store.lives(prefix, queue, id).await?;
        let addition = match attempts.is_empty() {
            true => store.addition(queue, id).await?,
            false => None,
        };
        let mut created: Vec<i64> = attempts.iter().map(|row| row.job_created_ms).collect();
        created.dedup();
        let end = end_of(
            &attempts,
            &store.job_actions(queue, id, &created).await?,
            &store.job_bulks(prefix, queue, id).await?,
            &store.job_erasures(prefix, queue, id).await?,
            id.as_str(),
        );
        let last_seen = attempts.iter().map(|row| row.attempt.finished_at).max();
        let last_seen = last_seen.or(addition.as_ref().map(|addition| addition.began_at));
        let of_queue = match last_seen {
            Some(since) => store.queue_actions(queue, since.timestamp_millis()).await?,
            None => Vec::new(),
        };
        // Of one that never ran, only its addition is known.
        let end = end.or_else(|| addition.as_ref().map(added));
        let last = last_state(&attempts, addition.as_ref());
        let end = end.map(|(at, how)| (at, how + &with_others(last, &of_queue, at)));
        let (name, job) = (word(queue.as_str()), word(id.as_str()));
        let Some((at, how)) = end else {
            // They remove jobs of which nothing else is recorded.
            let queue = [queue.as_str()];
            let kinds = ["queue.obliterate", "queue.drain", "queue.clean"];
            let removals = store.last_actions(&kinds, &queue).await?;
            let removal = removals.first().map(|removal| {
                let state = removal.details["state"].as_str().unwrap_or("waiting");
                let what = match removal.action.as_str() {
                    "queue.obliterate" => "the queue with all its jobs".to_owned(),
                    _ => format!("{state} jobs of the queue, perhaps with this one,"),
                };
                format!(
                    ". {} removed {what} at {} ({}){}",
                    removal.actor,
                    time(removal.began_at),
                    removal.action,
                    removal.because()
                )
            });
            return Ok(Error::not_found(format!(
                "Queue {name} has no job {job}, and nothing is recorded of one{}. A job that another client removed before it ran leaves no record",
                removal.unwrap_or_default()
            )));
        };
        let at = time(at);
        let next = arguments(&[queue.as_str(), id.as_str()]);
        // A job that never ran has no timeline.
        let see = match attempts.is_empty() {
            true => String::new(),
            false => format!(". See: patchbay job timeline {next}"),
        };
        let message = format!("Job {job} of {name} is not in Redis any more: {how}{see}");
        Ok(Error::not_found(message).with_details(json!({ "gone": how, "at": at })))
    }
}

/// When and how the job ended or was removed; the last of what is known.
fn end_of(
    attempts: &[FoundRow],
    actions: &[JobAction],
    bulks: &[JobBulk],
    erasures: &[JobErasure],
    id: &str,
) -> Option<(DateTime<Utc>, String)> {
    let removals = actions
        .iter()
        // One that has not ended is perhaps the one that asks.
        .filter(|action| action.action == "job.remove" && action.error.is_none())
        .filter(|action| action.ended_at.is_some())
        .map(|action| {
            let why = action.reason.as_ref().map(|reason| format!(": {reason}"));
            let (who, at) = (&action.actor, time(action.began_at));
            let how = format!("{who} removed it at {at}{}", why.unwrap_or_default());
            (action.began_at, how)
        });
    let bulk_removals = bulks
        .iter()
        .filter(|bulk| bulk.kind == "remove" && bulk.job_id == id && bulk.state == "done")
        .map(|bulk| {
            let (id, at) = (bulk.bulk, time(bulk.at));
            let back = match bulk.can_be_undone {
                true => format!(" (patchbay bulk undo {id} brings it back)"),
                false => String::new(),
            };
            let why = bulk.because.as_ref().map(|why| format!(": {why}"));
            let how = format!(
                "bulk operation {id} of {} removed it at {at}{back}{}",
                bulk.actor,
                why.unwrap_or_default()
            );
            (bulk.at, how)
        });
    let erased = erasures.iter().map(|erasure| {
        let how = format!("{} erased it at {}", erasure.actor, time(erasure.at));
        (erasure.at, how)
    });
    let removed = removals
        .chain(bulk_removals)
        .chain(erased)
        .max_by_key(|(at, _)| *at);
    let ended = attempts
        .iter()
        .max_by_key(|row| row.attempt.finished_at)
        .map(|row| {
            let ended = match row.attempt.verdict.as_str() {
                "complete" => "completed",
                "fail" => "failed for good",
                _ => "ended its last attempt",
            };
            let at = time(row.attempt.finished_at);
            (row.attempt.finished_at, format!("it {ended} at {at}"))
        });
    match (removed, ended) {
        (Some(removed), Some(ended)) if ended.0 > removed.0 => Some(ended),
        (Some(removed), _) => Some(removed),
        (None, ended) => ended,
    }
}

fn added(addition: &JobAction) -> (DateTime<Utc>, String) {
    let (who, at) = (&addition.actor, time(addition.began_at));
    let how = match addition.action.as_str() {
        RUNNING => format!("{who} ran schedule {} at {at}", word(&addition.target)),
        _ => format!("{who} added it at {at}"),
    };
    (addition.began_at, how)
}

/// When the job was last seen and in which state; empty: it waited.
fn last_state(
    attempts: &[FoundRow],
    addition: Option<&JobAction>,
) -> Option<(DateTime<Utc>, &'static str)> {
    let last = attempts.iter().max_by_key(|row| row.attempt.finished_at);
    let last = last.map(|row| {
        let state = match row.attempt.verdict.as_str() {
            "complete" => "completed",
            "fail" => "failed",
            _ => "",
        };
        (row.attempt.finished_at, state)
    });
    last.or_else(|| addition.map(|addition| (addition.began_at, "")))
}

/// Of a job that was last seen at this time and that nobody removed by name: what else has removed
/// it.
fn with_others(
    last: Option<(DateTime<Utc>, &'static str)>,
    of_queue: &[ActionRow],
    seen: DateTime<Utc>,
) -> String {
    let Some((_, state)) = last.filter(|(at, _)| *at == seen) else {
        return String::new();
    };
    let waits = |state: &Value| {
        let states = ["waiting", "prioritized", "delayed"];
        state.as_str().is_some_and(|state| states.contains(&state))
    };
    let may_have_removed = |action: &&ActionRow| match action.action.as_str() {
        "queue.clean" if state.is_empty() => waits(&action.details["state"]),
        "queue.clean" => action.details["state"] == state,
        "queue.drain" => state.is_empty(),
        "queue.obliterate" => true,
        _ => false,
    };
    match of_queue.iter().find(may_have_removed) {
        Some(action) => format!(
            ", and {} then removed {} jobs of the queue at {} ({}), probably with this one{}",
            action.actor,
            match state {
                "" => "the waiting",
                state => state,
            },
            time(action.began_at),
            action.action,
            action.because()
        ),
        None if state.is_empty() => {
            ", and it was removed before it ran: by another client of Redis".to_owned()
        }
        None => ", and was removed later: by the retention of the queue (removeOnComplete, \
                 removeOnFail) or by another client of Redis"
            .to_owned(),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(action: &str, at: i64) -> JobAction {
        let at = DateTime::from_timestamp(at, 0).expect("a time");
        JobAction {
            actor: "ops".into(),
            action: action.into(),
            target: "emailQueue/1".into(),
            added: None,
            began_at: at,
            ended_at: Some(at),
            error: None,
            reason: None,
        }
    }

    #[test]
    fn a_removal_is_told_with_who_and_when() {
        let actions = [action("job.retry", 5), action("job.remove", 7)];
        let (at, how) = end_of(&[], &actions, &[], &[], "1").expect("an end");
        assert_eq!(
            (at.timestamp(), how.as_str()),
            (7, "ops removed it at 1970-01-01T00:00:07Z")
        );
        assert!(end_of(&[], &[action("job.retry", 5)], &[], &[], "1").is_none());
        let mut under_way = action("job.remove", 7);
        under_way.ended_at = None;
        assert!(end_of(&[], &[under_way], &[], &[], "1").is_none());
    }

    #[test]
    fn a_job_that_was_drained_before_it_ran_is_told_with_its_drain() {
        let addition = action("job.add", 5);
        let (at, how) = added(&addition);
        let drain = ActionRow {
            actor: "kim".into(),
            action: "queue.drain".into(),
            target: "emailQueue".into(),
            began_at: DateTime::from_timestamp(9, 0).expect("a time"),
            details: json!({ "delayed": false }),
            result: Some(json!({ "count": 2 })),
            reason: Some("INC-7".into()),
        };
        let last = last_state(&[], Some(&addition));
        assert_eq!(
            how + &with_others(last, &[drain], at),
            "ops added it at 1970-01-01T00:00:05Z, and kim then removed the waiting jobs of the queue at \
             1970-01-01T00:00:09Z (queue.drain), probably with this one: INC-7"
        );
        assert!(with_others(last, &[], at).contains("before it ran"));
    }
}
