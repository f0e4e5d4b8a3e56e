//! Previews: how many jobs match, and what would happen to some of them. Changes nothing.

use std::time::{Duration, Instant};

use patchbay_api::bulk::{
    BulkChange, BulkEditCounts, BulkKind, BulkPreview, BulkSample, BulkSource,
};
use patchbay_model::Redaction;
use patchbay_model::confidential::is_confidential;
use patchbay_model::redaction::{Mask, REDACTED};
use patchbay_queue::{Chosen, QueueError};
use serde_json::value::{RawValue, to_raw_value};

use super::edit::{Edits, Path};
use super::plan::Plan;
use super::selection::{Candidate, Chooser};
use super::{BulkError, BulkJobs};

/// How long a dry run counts: somebody waits for it. The history has too many to be counted to the
/// end anyway.
const COUNT_HISTORY_FOR: Duration = Duration::from_millis(800);
const COUNT_LIVE_FOR: Duration = Duration::from_secs(8);
/// Jobs shown by a dry run.
const SAMPLE: usize = 5;

/// What a preview shows of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Show {
    /// The whole data. What an edit changes is always shown.
    pub data: bool,
    /// Also what is hidden; to be recorded.
    pub hidden_values: bool,
}

/// A job's data as the operation would find it.
struct Found {
    /// The error says why it is not known.
    data: Result<String, String>,
    is_from_history: bool,
}

impl BulkJobs {
    pub async fn preview(&self, plan: &Plan, show: Show) -> Result<BulkPreview, BulkError> {
        let chooser = Chooser {
            store: &self.store,
            queues: &self.queues,
            plan,
        };
        let began = Instant::now();
        let count_for = match plan.source {
            BulkSource::History => COUNT_HISTORY_FOR,
            BulkSource::Live => COUNT_LIVE_FOR,
        };
        let mut place = Some(chooser.begin().await?);
        let mut preview = BulkPreview {
            matched: 0,
            complete: true,
            sample: Vec::new(),
            edit: plan.edits.as_ref().map(|_| BulkEditCounts::default()),
        };
        while let Some(here) = place {
            let (candidates, next) = chooser.page(here).await?;
            preview.matched += candidates.len() as u64;
            if let (Some(edits), Some(counts)) = (&plan.edits, &mut preview.edit) {
                for candidate in &candidates {
                    if began.elapsed() < count_for {
                        self.count_edit(plan, edits, candidate, counts).await?;
                    }
                }
            }
            let some = candidates.into_iter().take(SAMPLE - preview.sample.len());
            for candidate in some {
                preview
                    .sample
                    .push(self.sample(plan, candidate, show).await?);
            }
            preview.complete = next.is_none();
            place = next.filter(|_| began.elapsed() < count_for);
        }
        Ok(preview)
    }

    async fn count_edit(
        &self,
        plan: &Plan,
        edits: &Edits,
        candidate: &Candidate,
        counts: &mut BulkEditCounts,
    ) -> Result<(), BulkError> {
        let Candidate {
            chosen, name, data, ..
        } = candidate;
        let data = match data {
            Some(data) => Ok(data.clone()),
            None => self.find_data(plan, chosen).await?.data,
        };
        let new = data
            .as_ref()
            .map_err(String::clone)
            .and_then(|old| self.edited(edits, &chosen.key, name, old));
        counts.examined += 1;
        match (&data, new) {
            (Ok(old), Ok(new)) if edits.is_unchanged(old, &new) => counts.unchanged += 1,
            (_, Ok(_)) => {}
            (_, Err(_)) => counts.refused += 1,
        }
        Ok(())
    }

    async fn sample(
        &self,
        plan: &Plan,
        candidate: Candidate,
        show: Show,
    ) -> Result<BulkSample, BulkError> {
        let Candidate {
            chosen,
            name,
            mut failure,
            data,
        } = candidate;
        let queue = &chosen.key.queue;
        let found = match data {
            Some(data) => Found {
                data: Ok(data),
                is_from_history: false,
            },
            None => self.find_data(plan, &chosen).await?,
        };
        let edited = match (&plan.edits, &found.data) {
            (Some(edits), Ok(old)) => Some(self.edited(edits, &chosen.key, &name, old)),
            _ => None,
        };
        let refused = match (&edited, &found.data) {
            (Some(Err(reason)), _) => Some(reason.clone()),
            (_, Err(reason)) if needs_data(plan) => Some(reason.clone()),
            _ => None,
        };
        let new = edited.and_then(Result::ok);
        let children = self
            .queues
            .children_data(queue, &[chosen.key.id.as_str()])
            .await?
            .concat();
        let redaction = self.redactions.of(queue).of_job(chosen.key.id.as_str());
        let is_confidential = is_confidential(chosen.key.id.as_str());
        let mut hidden = self.redactions.values(&children);
        // Of the data before and after the edit: each may repeat a value of the other elsewhere.
        let versions = found.data.iter().chain(&new);
        hidden.extend(versions.flat_map(|data| redaction.values(data)));
        let shows_hidden = show.hidden_values && !is_confidential;
        if is_confidential {
            Mask::of_everything().hide(&mut failure);
        } else if !shows_hidden {
            Mask::new(hidden.clone()).hide(&mut failure);
        }
        let shown = Shown {
            redaction: &redaction,
            hidden: &hidden,
            shows_hidden,
        };
        let changes = match (&plan.edits, &found.data, &new) {
            (Some(edits), Ok(old), Some(new)) => shown.changes(edits, old, new),
            _ => Vec::new(),
        };
        let is_unknown_to_manifests =
            found.is_from_history && !show.hidden_values && !self.redactions.knows(queue);
        let data = match found.data {
            // As wherever the history shows data.
            Ok(_) if is_unknown_to_manifests => Err(format!(
                "no plugin has ever handled {queue} here, so it is unknown what of its jobs may be shown"
            )),
            Ok(old) => Ok(shown.document(&new.unwrap_or(old))),
            Err(reason) => Err(reason),
        };
        let (data, data_withheld) = match data {
            _ if !show.data => (None, None),
            Ok(data) => (Some(data), None),
            Err(reason) => (None, Some(reason)),
        };
        Ok(BulkSample {
            queue: queue.to_string(),
            id: chosen.key.id.to_string(),
            name,
            state: chosen.state.to_string(),
            failure,
            finished_on: chosen.finished_on,
            refused,
            data,
            data_withheld,
            changes,
        })
    }

    /// Reads the data of a job that the history selected, from where the operation would take it:
    /// jobs are enqueued again as the history has them, and all else is done to jobs in Redis while
    /// they are there.
    async fn find_data(&self, plan: &Plan, chosen: &Chosen) -> Result<Found, BulkError> {
        let is_copy = (plan.kind, plan.source) == (BulkKind::EnqueueAgain, BulkSource::History);
        if !is_copy {
            let there = match self.queues.job(&chosen.key.queue, &chosen.key.id).await {
                Err(QueueError::Damaged { .. }) => None,
                there => there?,
            };
            if let Some(job) = there.filter(|job| job.timestamp == Some(chosen.key.created_ms)) {
                return Ok(Found {
                    data: Ok(job.data),
                    is_from_history: false,
                });
            }
        }
        if plan.source == BulkSource::Live {
            return Ok(Found {
                data: Err("Redis no longer has this job".into()),
                is_from_history: false,
            });
        }
        Ok(Found {
            data: self.data_of(&chosen.key).await?,
            is_from_history: true,
        })
    }
}

/// Whether the operation leaves a job as it is whose data is not known.
fn needs_data(plan: &Plan) -> bool {
    plan.edits.is_some() || plan.source == BulkSource::History
}

/// How the values of one job are shown.
struct Shown<'a> {
    redaction: &'a Redaction,
    /// Values that are hidden wherever they stand.
    hidden: &'a [String],
    shows_hidden: bool,
}

impl Shown<'_> {
    fn document(&self, data: &str) -> String {
        if self.shows_hidden {
            return data.to_owned();
        }
        let (shown, _) = self.redaction.data_with_others(data, self.hidden.to_vec());
        shown.text.into_owned()
    }

    fn changes(&self, edits: &Edits, old: &str, new: &str) -> Vec<BulkChange> {
        let (old_shown, new_shown) = (self.document(old), self.document(new));
        let change = |path: Path| {
            let (before, after) = (path.value_in(old), path.value_in(new));
            path.is_changed(old, new).then(|| BulkChange {
                path: path.written(),
                before: before.and_then(|_| value_shown(&path, &old_shown)),
                after: after.and_then(|_| value_shown(&path, &new_shown)),
            })
        };
        edits.shown(old).into_iter().filter_map(change).collect()
    }
}

/// A value that exists, as the redacted document shows it. Where that has no such place, a value
/// above it is hidden.
fn value_shown(path: &Path, document: &str) -> Option<Box<RawValue>> {
    path.value_in(document)
        .or_else(|| to_raw_value(REDACTED).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(redact: &[&str], reveal: bool) -> Vec<(String, Option<String>, Option<String>)> {
        let paths: Vec<_> = redact
            .iter()
            .map(|path| path.parse().expect("a path"))
            .collect();
        let redaction = Redaction::new(&paths);
        let edits: Edits = Edits::of_row(
            r#"{"edits":{"set":[[["lead","id"],1.10],[["same"],7],[["note"],"x@example.com"]],
                "replace":[{"path":["to"],"find":" at ","with":"@"}],"unset":[["old"],["gone"]]}}"#,
        )
        .expect("edits");
        let old = r#"{"to":["x at example.com"],"lead":{"id":123456789012345678901},"same":7,"old":null}"#;
        let new = edits.apply(old).expect("it can be edited");
        let hidden = [redaction.values(old), redaction.values(&new)].concat();
        let shown = Shown {
            redaction: &redaction,
            hidden: &hidden,
            shows_hidden: reveal,
        };
        let text = |value: Option<Box<RawValue>>| value.map(|value| value.get().to_owned());
        shown
            .changes(&edits, old, &new)
            .into_iter()
            .map(|change| (change.path, text(change.before), text(change.after)))
            .collect()
    }

    #[test]
    fn changes_are_shown_exactly_with_what_was_before_and_what_comes() {
        let expected = |id: [&str; 2], note: &str, to: [&str; 2]| {
            let some = |text: &str| Some(text.to_owned());
            vec![
                ("lead.id".to_owned(), some(id[0]), some(id[1])),
                ("note".into(), None, some(note)),
                ("to".into(), some(to[0]), some(to[1])),
                ("old".into(), some("null"), None),
            ]
        };
        let plain = expected(
            ["123456789012345678901", "1.10"],
            r#""x@example.com""#,
            [r#"["x at example.com"]"#, r#"["x@example.com"]"#],
        );
        assert_eq!(changes(&[], false), plain);
        assert_eq!(changes(&["to", "lead"], true), plain, "revealed");
        let hidden = r#""[redacted]""#;
        assert_eq!(
            changes(&["to", "lead"], false),
            expected([hidden; 2], hidden, [hidden; 2]),
            "also the copy of a hidden value, and what is below a hidden one"
        );
    }
}
