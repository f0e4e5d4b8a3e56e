//! Redacts jobs. Every job leaves this host through here, except for a reveal, which is recorded.
//! The rules are in [`patchbay_model::redaction`].

use patchbay_api::jobs::RedactedJob;
use patchbay_model::Redaction;
use patchbay_model::filter::Filter;
use patchbay_model::redaction::{Mask, REDACTED};
use patchbay_queue::JobView;
use patchbay_store::{AttemptRow, FoundRow};

/// Redacts a job of a queue, and returns the mask that finds its hidden values in other texts about
/// it. `told` are hidden values of its children, whose results it sees.
pub fn job(redaction: &Redaction, told: Vec<String>, mut job: JobView) -> (RedactedJob, Mask) {
    let (data, mask) = redaction.data_with_others(&job.data, told);
    let (text, mut hidden) = (data.text.into_owned(), data.hidden);
    job.data = text;
    // Options are BullMQ's, and contain none of the paths.
    let no_paths = Redaction::default();
    let results = job
        .progress
        .iter_mut()
        .chain(&mut job.return_value)
        .map(|text| (text, redaction));
    for (text, redaction) in results.chain([(&mut job.opts, &no_paths)]) {
        let shown = redaction.document(text, &mask);
        hidden += shown.hidden;
        *text = shown.text.into_owned();
    }
    hidden += mask.hide(job.failed_reason.iter_mut().chain(&mut job.stacktrace));
    (RedactedJob { job, hidden }, mask)
}

/// Redacts a recorded attempt with the mask of its job.
pub fn attempt(row: &mut AttemptRow, mask: &Mask) {
    mask.hide(row.message.iter_mut().chain(&mut row.stack));
}

/// Redacts attempts of a search. Their jobs' data is not known here. It was when they were
/// recorded.
pub fn found(mut rows: Vec<FoundRow>) -> Vec<FoundRow> {
    let mask = Mask::default();
    rows.iter_mut()
        .for_each(|row| attempt(&mut row.attempt, &mask));
    rows
}

/// Redacts values of job data in a filter. `redaction` is that of its queue.
pub fn filter(mut filter: Filter, redaction: &Redaction) -> Filter {
    for (path, value) in &mut filter.data {
        if redaction.covers(path) {
            *value = REDACTED.to_owned();
        }
    }
    filter
}
