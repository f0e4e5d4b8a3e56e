//! Use cases of erasing: checks and records what operators ask for.

use patchbay_api::history::{Erase, Erasure, HistoryErase, Places};
use patchbay_model::data_path::MAX_VALUE_BYTES;
use patchbay_model::redaction::Mask;
use serde_json::json;

use super::{EraseTarget, Erasing, History, Requester};
use crate::actions::Caller;
use crate::error::Error;
use crate::history_filter::unsearchable;

/// In characters.
const MAX_REASON: usize = 500;

impl History {
    /// Erases a person's data or a job, or previews that.
    pub async fn erase(&self, who: &Caller, request: Erase) -> Result<Erasure, Error> {
        let wanted = wanted(&request)?;
        if let Some(queue) = &wanted.queue {
            self.catalog.known(queue.as_str()).await?;
        }
        let searchable = self.plugins.searchable(wanted.queue.as_ref());
        let undeclared = wanted
            .person
            .as_ref()
            .is_some_and(|(path, _)| !searchable.contains(path));
        let erasing = Erasing {
            store: &self.store,
            queues: &self.broker,
            bodies: Some(&self.parts.bodies),
            inbox: Some(&self.inbox),
        };
        if request.dry_run {
            let done = Erasure {
                undeclared,
                ..erasing.preview(&wanted).await?
            };
            let is_nothing = done.jobs == 0
                && done.attempts == 0
                && done.live.found == 0
                && done.schedules.is_empty()
                && done.places == Places::default();
            return match &wanted.person {
                // It is probably a typo; nobody must believe that there is nothing to erase.
                Some((path, _)) if undeclared && is_nothing => Err(Error::invalid(unsearchable(
                    path,
                    wanted.queue.as_ref(),
                    &searchable,
                ))),
                _ => Ok(done),
            };
        }
        // The value is what must be erased, so the record holds only its keyed hash.
        let term = match &wanted.person {
            Some((path, value)) => {
                Some(hex::encode(self.store.term_key().await?.term(path, value)))
            }
            None => None,
        };
        let details = json!({
            "path": request.path, "valueHash": term, "queue": wanted.queue, "job": wanted.job, "unfinished": wanted.unfinished,
            "reason": request.reason,
        });
        let counts = |done: &Erasure| {
            json!({
                "erasure": done.erasure, "jobs": done.jobs, "attempts": done.attempts, "left": done.live.found, "places": done.places,
                "andMore": done.and_more,
            })
        };
        let target = match (&request.path, &wanted.queue, &wanted.job) {
            (Some(path), ..) => path.to_string(),
            (None, Some(queue), Some(job)) => format!("{queue}/{job}"),
            _ => "history".to_owned(),
        };
        let act = async {
            let asker = Requester {
                actor: &who.actor,
                reason: request.reason.trim(),
            };
            Ok(Erasure {
                undeclared,
                ..erasing.erase(&wanted, asker).await?
            })
        };
        self.actions
            .record_as::<HistoryErase, _>(who, &target, details, act, counts)
            .await
    }
}

fn wanted(asked: &Erase) -> Result<EraseTarget, Error> {
    let person = match (&asked.path, &asked.value) {
        (Some(path), Some(value))
            if (1..=MAX_VALUE_BYTES).contains(&value.len()) && !value.contains('\0') =>
        {
            Some((path.clone(), value.clone()))
        }
        (Some(_), Some(_)) => {
            return Err(Error::invalid(format!(
                "value: must have 1 to {MAX_VALUE_BYTES} bytes and no NUL character; longer values cannot be searched for"
            )));
        }
        (None, None) if asked.queue.is_some() && asked.job.is_some() => None,
        (None, None) => {
            return Err(Error::invalid(
                "Say what to erase: `path` and `value` of a person (for example customer.phone and 555-0100), or `queue` and `job`",
            ));
        }
        _ => {
            return Err(Error::invalid(
                "path and value belong together. Give both, or name a job",
            ));
        }
    };
    if asked.job.is_some() && asked.queue.is_none() {
        return Err(Error::invalid("job: also give the queue of this job"));
    }
    let reason = asked.reason.trim();
    if reason.is_empty() || asked.reason.chars().count() > MAX_REASON || reason.contains('\0') {
        return Err(Error::invalid(format!(
            "reason: is required, with at most {MAX_REASON} characters and no NUL character. It stays in the record of who did what"
        )));
    }
    let names = |value: &String| {
        reason.to_lowercase().contains(&value.to_lowercase())
            || Mask::new([value.clone()]).finds(reason)
    };
    if asked.value.as_ref().is_some_and(names) {
        return Err(Error::invalid(
            "reason: must not contain the value that is erased, because the reason stays in the record",
        ));
    }
    Ok(EraseTarget {
        person,
        queue: asked.queue.clone(),
        job: asked.job.clone(),
        unfinished: asked.unfinished,
    })
}
