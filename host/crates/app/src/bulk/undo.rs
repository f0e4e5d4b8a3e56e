//! Undoes bulk operations, job by job; and says beforehand where none of the jobs can be undone.

use std::collections::BTreeMap;

use chrono::Utc;
use patchbay_api::bulk::BulkKind;
use patchbay_model::words::counted;
use patchbay_queue::{Chosen, JobResult, NOTHING_TO_PUT_BACK, QueueError, Removed};
use patchbay_store::{BulkItem, BulkRow, Leadership};
use serde_json::json;

use super::{BATCH, BulkError, BulkJobs, outcome, readable};
use crate::Error;

/// Jobs that are looked at before an undo begins. An operation on more of them is undone without
/// that look, which would keep its operator waiting.
const LOOKED_AT: i64 = 1_000;

impl BulkJobs {
    pub(super) async fn undo(
        &self,
        lead: &mut Leadership<'_>,
        row: &BulkRow,
    ) -> Result<(), BulkError> {
        let items = lead.done_bulk_items(row.id, BATCH).await?;
        if items.is_empty() {
            return self.end(lead, row, "undone").await;
        }
        let (items, mut outcomes) = readable(self.queues.prefix(), items);
        let changed = changed(items);
        let since = Utc::now();
        let results = match is_edit(row) {
            true => self.queues.unedit_many(row.id, &jobs(&changed)).await?,
            false => self.queues.restore_many(row.id, &changed).await?,
        };
        outcomes.extend(
            changed
                .iter()
                .zip(results)
                .map(|(item, result)| undone(item.job.n, result)),
        );
        Ok(lead
            .record_bulk_items(row.id, "done", &outcomes, since)
            .await?)
    }

    /// The refusal of an undo that would put nothing back. `None` if it would, or if that is not
    /// known: the operation is too large to look at all its jobs, or cannot be undone at all.
    pub(super) async fn why_nothing_to_undo(
        &self,
        row: &BulkRow,
    ) -> Result<Option<Error>, BulkError> {
        let has_ended = ["done", "cancelled", "failed"].contains(&row.state.as_str());
        if !has_ended || row.undo_until.is_none_or(|until| until <= Utc::now()) {
            return Ok(None);
        }
        let items = self
            .store
            .bulk_items(row.id, Some("done"), 0, LOOKED_AT + 1)
            .await?;
        if i64::try_from(items.len()).unwrap_or(i64::MAX) > LOOKED_AT {
            return Ok(None);
        }
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for result in self.would_be_undone(row, items).await? {
            match result {
                JobResult::Done { .. } => return Ok(None),
                JobResult::Skipped(reason) => *reasons.entry(reason.into_owned()).or_default() += 1,
                JobResult::Failed(reason) => *reasons.entry(reason).or_default() += 1,
            }
        }
        Ok(Some(refusal(row.id, row.done, reasons)))
    }

    async fn would_be_undone(
        &self,
        row: &BulkRow,
        items: Vec<BulkItem>,
    ) -> Result<Vec<JobResult>, QueueError> {
        let (items, unreadable) = readable(self.queues.prefix(), items);
        let changed = changed(items);
        let mut results: Vec<JobResult> = unreadable
            .into_iter()
            .map(|item| JobResult::Failed(item.reason.unwrap_or_default()))
            .collect();
        results.extend(match is_edit(row) {
            true => {
                self.queues
                    .could_unedit_many(row.id, &jobs(&changed))
                    .await?
            }
            false => self.queues.could_restore_many(row.id, &changed).await?,
        });
        Ok(results)
    }
}

fn is_edit(row: &BulkRow) -> bool {
    row.kind == BulkKind::EditAndRetry.as_str()
}

fn changed(items: Vec<(Chosen, Option<f64>)>) -> Vec<Removed> {
    items
        .into_iter()
        .map(|(job, score)| Removed { job, score })
        .collect()
}

fn jobs(changed: &[Removed]) -> Vec<Chosen> {
    changed.iter().map(|item| item.job.clone()).collect()
}

/// A job that has nothing to be put back is lost; any other that is skipped stays as it is.
fn undone(n: i64, result: JobResult) -> patchbay_store::BulkOutcome {
    let skipped = match &result {
        JobResult::Skipped(reason) if NOTHING_TO_PUT_BACK.contains(&&**reason) => "lost",
        _ => "not-undone",
    };
    outcome(n, result, ["restored", skipped])
}

/// `done`: how many jobs the operation has changed. `reasons`: for each the number of jobs.
fn refusal(id: i64, done: i64, reasons: BTreeMap<String, u64>) -> Error {
    let jobs: u64 = reasons.values().sum();
    if jobs == 0 {
        let why = match done {
            0 => format!("bulk operation {id} has changed no job"),
            _ => format!("of no job that bulk operation {id} has changed anything is kept"),
        };
        return Error::conflict(format!(
            "Nothing was undone: {why}. See: patchbay bulk show {id}"
        ));
    }
    let mut reasons: Vec<(String, u64)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, jobs)| std::cmp::Reverse(*jobs));
    let told: Vec<String> = reasons
        .iter()
        .map(|(reason, jobs)| format!("{}: {reason}", counted(*jobs, "job")))
        .collect();
    let none = match jobs {
        1 => "the job".to_owned(),
        jobs => format!("none of the {jobs} jobs"),
    };
    let cannot = if jobs == 1 { "cannot" } else { "can" };
    let details: Vec<_> = reasons
        .iter()
        .map(|(reason, jobs)| json!({ "reason": reason, "jobs": jobs }))
        .collect();
    Error::conflict(format!(
        "Nothing was undone: {none} that bulk operation {id} has changed {cannot} be put back. {}",
        told.join(". ")
    ))
    .with_details(json!({ "reasons": details }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_with_the_number_of_jobs_for_each_reason() {
        let reasons = [("It is gone".to_owned(), 2), ("It has run".to_owned(), 8)];
        assert_eq!(
            refusal(4, 10, reasons.into()).message,
            "Nothing was undone: none of the 10 jobs that bulk operation 4 has changed can be put back. \
             8 jobs: It has run. 2 jobs: It is gone"
        );
        assert_eq!(
            refusal(4, 1, [("It has run".to_owned(), 1)].into()).message,
            "Nothing was undone: the job that bulk operation 4 has changed cannot be put back. 1 job: It has run"
        );
        let nothing = |done| refusal(4, done, BTreeMap::new()).message;
        assert!(nothing(0).contains("has changed no job"));
        assert!(nothing(3).contains("anything is kept"));
    }

    #[test]
    fn only_a_job_of_which_nothing_is_kept_is_lost() {
        let state = |reason: &'static str| undone(1, JobResult::Skipped(reason.into())).state;
        assert_eq!(state(NOTHING_TO_PUT_BACK[0]), "lost");
        assert_eq!(state(NOTHING_TO_PUT_BACK[1]), "lost");
        assert_eq!(state("The job has run since it was edited"), "not-undone");
    }
}
