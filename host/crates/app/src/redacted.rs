//! Redacts jobs. Every job leaves this host through here, except for a reveal, which is recorded.
//! The rules are in [`patchbay_model::redaction`].

use patchbay_api::jobs::RedactedJob;
use patchbay_model::Redaction;
use patchbay_model::confidential::is_confidential;
use patchbay_model::filter::Filter;
use patchbay_model::redaction::{Mask, REDACTED};
use patchbay_queue::JobView;
use patchbay_store::{AttemptRow, FoundRow};

/// Redacts a job of a queue, and returns the mask that finds its hidden values in other texts about
/// it. `told` are hidden values of its children, whose results it sees.
pub fn job(redaction: &Redaction, told: Vec<String>, mut job: JobView) -> (RedactedJob, Mask) {
    let redaction = &redaction.clone().of_job(&job.id);
    let (data, mask) = redaction.data_with_others(&job.data, told);
    let (text, mut hidden) = (data.text.into_owned(), data.hidden);
    job.data = text;
    // Options are BullMQ's, and contain none of the paths.
    let no_paths = Redaction::default();
    let no_values = Mask::default();
    let of_opts = match is_confidential(&job.id) {
        // They say nothing of what the job is about, and clients read them as JSON.
        true => &no_values,
        false => &mask,
    };
    let results = job
        .progress
        .iter_mut()
        .chain(&mut job.return_value)
        .map(|text| (text, redaction, &mask));
    for (text, redaction, mask) in results.chain([(&mut job.opts, &no_paths, of_opts)]) {
        let shown = redaction.document(text, mask);
        hidden += shown.hidden;
        *text = shown.text.into_owned();
    }
    hidden += mask.hide(job.failed_reason.iter_mut().chain(&mut job.stacktrace));
    (RedactedJob { job, hidden }, mask)
}

/// A job as a reveal shows it: whole, unless nobody may see it.
pub fn revealed(view: JobView) -> RedactedJob {
    match is_confidential(&view.id) {
        true => job(&Redaction::default(), Vec::new(), view).0,
        false => RedactedJob {
            job: view,
            hidden: 0,
        },
    }
}

/// The mask for what is told of a job whose data is not known.
pub fn mask_of(id: &str) -> Mask {
    match is_confidential(id) {
        true => Mask::of_everything(),
        false => Mask::default(),
    }
}

/// Redacts a recorded attempt with the mask of its job.
pub fn attempt(row: &mut AttemptRow, mask: &Mask) {
    mask.hide(row.message.iter_mut().chain(&mut row.stack));
}

/// Redacts attempts of a search. Their jobs' data is not known here. It was when they were
/// recorded.
pub fn found(mut rows: Vec<FoundRow>) -> Vec<FoundRow> {
    rows.iter_mut()
        .for_each(|row| attempt(&mut row.attempt, &mask_of(&row.job_id)));
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
