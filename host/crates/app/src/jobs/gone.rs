//! Why a job is not in Redis: a pure function of what Postgres knows of it.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::shell::{arguments, word};
use patchbay_model::{JobId, QueueName};
use patchbay_store::{ActionRow, FoundRow, JobAction, JobBulk, JobErasure};
use serde_json::json;

use super::Jobs;
use crate::error::Error;

impl Jobs {
    /// The error for a job that Redis does not have. It says who removed it, or how it ended.
    pub(super) async fn why_gone(&self, queue: &QueueName, id: &JobId) -> Result<Error, Error> {
        let (store, prefix) = (&self.store, self.broker.prefix());
        let attempts = store.lives(prefix, queue, id).await?;
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
        let of_queue = match last_seen {
            Some(since) => store.queue_actions(queue, since.timestamp_millis()).await?,
            None => Vec::new(),
        };
        let end = end.map(|(at, how)| (at, how + &with_others(&attempts, &of_queue, at)));
        let (name, job) = (word(queue.as_str()), word(id.as_str()));
        let Some((at, how)) = end else {
            // It removes jobs of which nothing else is recorded.
            let queue = [queue.as_str()];
            let removals = store.last_actions(&["queue.obliterate"], &queue).await?;
            let removal = removals.first().map(|removal| {
                format!(
                    ". {} removed the queue with all its jobs at {}{}",
                    removal.actor,
                    time(removal.began_at),
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
        .filter(|action| action.action == "job.remove" && action.error.is_none())
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
            let how = format!(
                "bulk operation {0} of {1} removed it at {2} (patchbay bulk undo {0} brings it back, for an hour)",
                bulk.bulk,
                bulk.actor,
                time(bulk.at)
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

/// Of a job that ended at this time and that nobody removed by name: what else has removed it.
fn with_others(attempts: &[FoundRow], of_queue: &[ActionRow], ended: DateTime<Utc>) -> String {
    let Some(last) = attempts.iter().max_by_key(|row| row.attempt.finished_at) else {
        return String::new();
    };
    if last.attempt.finished_at != ended {
        return String::new();
    }
    let state = match last.attempt.verdict.as_str() {
        "complete" => "completed",
        "fail" => "failed",
        _ => "",
    };
    let may_have_removed = |action: &&ActionRow| match action.action.as_str() {
        "queue.clean" => action.details["state"] == state,
        "queue.drain" => state.is_empty(),
        "queue.obliterate" => true,
        _ => false,
    };
    match of_queue.iter().find(may_have_removed) {
        Some(action) => format!(
            ", and {} then removed {} jobs of the queue at {}, probably with this one{}",
            action.actor,
            match state {
                "" => "the waiting",
                state => state,
            },
            time(action.began_at),
            action.because()
        ),
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
    }
}
