//! Why a job is not in Redis: a pure function of what Postgres knows of it.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::shell::{arguments, word};
use patchbay_model::{JobId, QueueName};
use patchbay_store::{FoundRow, JobAction, JobBulk, JobErasure};
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
        let (name, job) = (word(queue.as_str()), word(id.as_str()));
        let Some((at, how)) = end else {
            return Ok(Error::not_found(format!(
                "Queue {name} has no job {job}, and nothing is recorded of one"
            )));
        };
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let next = arguments(&[queue.as_str(), id.as_str()]);
        let message = format!(
            "Job {job} of {name} is not in Redis any more: {how} at {at}. See: patchbay job timeline {next}"
        );
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
        .map(|action| (action.began_at, format!("{} removed it", action.actor)));
    let bulk_removals = bulks
        .iter()
        .filter(|bulk| bulk.kind == "remove" && bulk.job_id == id && bulk.state == "done")
        .map(|bulk| {
            let how = format!("bulk operation {} of {} removed it", bulk.bulk, bulk.actor);
            (bulk.at, how)
        });
    let erased = erasures
        .iter()
        .map(|erasure| (erasure.at, format!("{} erased it", erasure.actor)));
    let removed = removals
        .chain(bulk_removals)
        .chain(erased)
        .max_by_key(|(at, _)| *at);
    let ended = attempts
        .iter()
        .max_by_key(|row| row.attempt.finished_at)
        .map(|row| {
            let how = match row.attempt.verdict.as_str() {
                "complete" => "it completed, and completed jobs are not kept for longer",
                "fail" => "it failed for good, and failed jobs are not kept for longer",
                _ => "its last attempt ended, and somebody removed it afterwards",
            };
            (row.attempt.finished_at, how.to_owned())
        });
    match (removed, ended) {
        (Some(removed), Some(ended)) if ended.0 > removed.0 => Some(ended),
        (Some(removed), _) => Some(removed),
        (None, ended) => ended,
    }
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
        assert_eq!((at.timestamp(), how.as_str()), (7, "ops removed it"));
        assert!(end_of(&[], &[action("job.retry", 5)], &[], &[], "1").is_none());
    }
}
