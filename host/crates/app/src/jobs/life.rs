//! The timeline of one job, in the order in which things happened: a pure function of what Postgres
//! and Redis know.
//!
//! An id that was used again, for example after Redis was emptied, has several lives, told apart by
//! when the job was made.

use std::collections::BTreeMap;

use chrono::DateTime;
use patchbay_api::timeline::{Event, EventKind, Life, Timeline};
use patchbay_queue::{Family, JobView};
use patchbay_store::{
    ActionRow, FoundRow, JobAction, JobAudit, JobBulk, JobErasure, MAX_ATTEMPTS, Relative,
};

use super::steps::{self, puts_back};
use crate::history::views::calls;

/// The action that adds a copy of a job. Its target is the original.
pub(super) const COPYING: &str = "job.duplicate";
/// The action that adds a job of a schedule, which is its target.
pub(super) const RUNNING: &str = "schedule.run";

#[derive(Debug)]
pub(super) struct JobFacts {
    /// Its full name, `queue:id`.
    pub key: String,
    /// Oldest first, of all its lives.
    pub attempts: Vec<FoundRow>,
    pub actions: Vec<JobAction>,
    /// Bulk operations that chose or added the job.
    pub bulks: Vec<JobBulk>,
    /// Operations on the whole queue, oldest first.
    pub queue_actions: Vec<ActionRow>,
    pub audit: Vec<JobAudit>,
    /// Erasures that removed its data.
    pub erasures: Vec<JobErasure>,
    /// Jobs with the same correlation id.
    pub relatives: Vec<Relative>,
    /// Versions of revisions by digest.
    pub versions: BTreeMap<String, String>,
    /// From Redis, as it is now.
    pub job: Option<JobView>,
    /// From Redis, as it is now.
    pub family: Family,
    /// From Redis, as it is now.
    pub logs: Vec<String>,
}

pub(super) fn timeline(queue: &str, id: &str, known: JobFacts) -> Timeline {
    let is_cut_off = known.attempts.len() as i64 >= MAX_ATTEMPTS;
    let mut lives: BTreeMap<i64, Life> = BTreeMap::new();
    for row in &known.attempts {
        let life = lives
            .entry(row.job_created_ms)
            .or_insert_with(|| new_life(row.job_created_ms));
        life.name.clone_from(&row.attempt.name);
        life.correlation_id
            .get_or_insert_with(|| row.attempt.correlation_id.clone());
        life.platform = life
            .platform
            .take()
            .or_else(|| row.attempt.platform.clone());
        life.parent = life.parent.take().or_else(|| row.attempt.parent.clone());
        life.events.push(attempt(row, &known.versions));
    }
    if let Some(job) = known.job {
        let made = job
            .timestamp
            .and_then(|ms| i64::try_from(ms).ok())
            .unwrap_or(0);
        let life = lives.entry(made).or_insert_with(|| new_life(made));
        is_in_redis(life, job, known.family, known.logs);
    }
    for erasure in &known.erasures {
        // Of an erased job that never ran, nothing else is left.
        lives
            .entry(erasure.job_created_ms)
            .or_insert_with(|| new_life(erasure.job_created_ms));
    }
    for relative in &known.relatives {
        let key = format!("{}:{}", relative.queue, relative.job_id);
        for life in lives.values_mut() {
            if relative.parent.as_deref() == Some(&known.key) {
                life.children
                    .entry(key.clone())
                    .or_insert_with(|| relative.outcome.clone());
            } else {
                life.same_request
                    .insert(key.clone(), relative.outcome.clone());
            }
        }
    }
    for item in known.bulks {
        // The operation chose this job, or added it. A job that was added with the same id
        // continues its life.
        let adds = item.job_id != id;
        let place = if adds {
            made_at(&lives, item.at.timestamp_millis())
        } else {
            Some(item.job_created_ms)
        };
        if let Some(life) = place.and_then(|made| lives.get_mut(&made)) {
            life.events.push(Event {
                at: item.at,
                kind: bulk(&item, adds),
            });
            life.events.extend(undo(&item).filter(|_| !adds));
        }
    }
    for erasure in known.erasures {
        let JobErasure {
            erasure,
            job_created_ms,
            at,
            actor,
            reason,
        } = erasure;
        if let Some(life) = lives.get_mut(&job_created_ms) {
            life.events.push(Event {
                at,
                kind: EventKind::Erased {
                    actor,
                    reason,
                    erasure,
                },
            });
        }
    }
    let own = format!("{queue}/{id}");
    let actions = known.actions.into_iter().map(|action| {
        let JobAction {
            actor,
            action,
            target,
            began_at,
            error,
            reason,
            added,
            ..
        } = action;
        let (is_copying, is_run) = (action == COPYING, action == RUNNING);
        let is_original = is_copying && target == own;
        Event {
            at: began_at,
            kind: EventKind::Operator {
                actor,
                action,
                error,
                reason,
                like: (is_copying && !is_original).then(|| target.clone()),
                added: added.filter(|_| is_original),
                schedule: is_run.then_some(target),
            },
        }
    });
    let entries = known.audit.into_iter().map(|entry| {
        let by = entry
            .queue
            .zip(entry.job_id)
            .map(|(queue, id)| format!("{queue}:{id}"))
            .filter(|by| *by != known.key);
        let JobAudit {
            at,
            trail,
            entry_key,
            plugin,
            ..
        } = entry;
        Event {
            at,
            kind: EventKind::Audit {
                trail,
                entry_key,
                plugin,
                by,
            },
        }
    });
    for event in actions.chain(entries) {
        let at = event.at.timestamp_millis();
        let place = match adds(&event) {
            true => made_at(&lives, at),
            // Events before the first life (clocks differ) belong to the first.
            false => lives
                .range(..=at)
                .next_back()
                .or(lives.iter().next())
                .map(|(made, _)| *made),
        };
        if let Some(life) = place.and_then(|made| lives.get_mut(&made)) {
            life.events.push(event);
        }
    }
    for life in lives.values_mut() {
        // The time when a job was made has a precision of one millisecond.
        let rank = |event: &Event| match &event.kind {
            EventKind::Operator { .. } | EventKind::Bulk { .. } if adds(event) => 0,
            EventKind::Added => 1,
            _ => 2,
        };
        life.events
            .sort_by_key(|event| (event.at.timestamp_millis(), rank(event), event.at));
        for action in &known.queue_actions {
            steps::add_queue_action(life, action);
        }
        number_attempts(life, is_cut_off);
        compute_waits(life);
    }
    Timeline {
        queue: queue.to_owned(),
        id: id.to_owned(),
        lives: lives.into_values().collect(),
    }
}

/// The life that began nearest to this time. The time may come from the clock of another machine.
fn made_at(lives: &BTreeMap<i64, Life>, at: i64) -> Option<i64> {
    lives.keys().min_by_key(|made| made.abs_diff(at)).copied()
}

/// Whether the event made the job.
fn adds(event: &Event) -> bool {
    match &event.kind {
        EventKind::Operator {
            action,
            like,
            schedule,
            ..
        } => {
            action.ends_with(".add")
                || action == "job.add-many"
                || like.is_some()
                || schedule.is_some()
        }
        EventKind::Bulk { like, .. } => like.is_some(),
        _ => false,
    }
}

/// Numbers the attempts of a life on over its retries, at which BullMQ begins with 1 again. Where
/// the oldest are not known, BullMQ's count of starts tells how many there were.
fn number_attempts(life: &mut Life, is_cut_off: bool) {
    let mut last = None;
    for event in &mut life.events {
        if let EventKind::Attempt {
            number, started, ..
        } = &mut event.kind
        {
            let before = if is_cut_off { *started - 1 } else { 0 };
            *number = last.unwrap_or(before) + 1;
            last = Some(*number);
        }
    }
}

fn new_life(created_ms: i64) -> Life {
    let created_at = DateTime::from_timestamp_millis(created_ms);
    let added = created_at.map(|at| Event {
        at,
        kind: EventKind::Added,
    });
    Life {
        created_at,
        name: String::new(),
        correlation_id: None,
        platform: None,
        parent: None,
        children: BTreeMap::new(),
        same_request: BTreeMap::new(),
        events: added.into_iter().collect(),
        logs: Vec::new(),
        state: None,
    }
}

/// Computes how long the job had waited for each attempt. The events before it must be complete.
fn compute_waits(life: &mut Life) {
    let mut since = None;
    for event in &mut life.events {
        if puts_back(event) || matches!(event.kind, EventKind::Added) {
            since = Some(event.at);
        }
        if let EventKind::Attempt {
            waited_ms,
            ended_at,
            verdict,
            ..
        } = &mut event.kind
        {
            // A clock that was set back must not make the wait negative.
            *waited_ms = since.map(|since| (event.at - since).num_milliseconds().max(0));
            let is_over = ["fail", "complete"].contains(&verdict.as_str());
            since = (!is_over).then_some(*ended_at);
        }
    }
}

fn is_in_redis(life: &mut Life, job: JobView, family: Family, logs: Vec<String>) {
    life.name = job.name;
    life.state = Some(job.state.to_string());
    life.correlation_id = life.correlation_id.take().or(family.correlation_id);
    life.platform = life.platform.take().or(family.platform);
    life.parent = life.parent.take().or(family.parent);
    life.children = family
        .children
        .into_iter()
        .map(|(key, state)| (key, state.to_owned()))
        .collect();
    for line in logs {
        let time = line
            .split_whitespace()
            .next()
            .and_then(|word| DateTime::parse_from_rfc3339(word).ok());
        match time {
            Some(at) => life.events.push(Event {
                at: at.to_utc(),
                kind: EventKind::Log { line },
            }),
            None => life.logs.push(line),
        }
    }
}

/// Whether it was undone what the operation did to the item, or was tried to be.
fn is_undone(item: &JobBulk) -> bool {
    ["restored", "lost", "not-undone"].contains(&item.state.as_str())
}

fn undo(item: &JobBulk) -> Option<Event> {
    let kind = EventKind::Undo {
        bulk: item.bulk,
        action: Some(item.kind.clone()),
        actor: item.undone_by.clone(),
        state: item.state.clone(),
        reason: item.reason.clone(),
    };
    let at = item.undone_at.filter(|_| is_undone(item))?;
    Some(Event { at, kind })
}

fn bulk(item: &JobBulk, adds: bool) -> EventKind {
    let is_undone = is_undone(item);
    EventKind::Bulk {
        bulk: item.bulk,
        action: item.kind.clone(),
        actor: item.actor.clone(),
        state: match is_undone {
            true => "done".to_owned(),
            false => item.state.clone(),
        },
        // Of one that is undone it is the undoing's.
        reason: item.reason.clone().filter(|_| !is_undone),
        added: item
            .new_id
            .clone()
            .filter(|new| !adds && *new != item.job_id),
        like: adds.then(|| item.job_id.clone()),
        because: item.because.clone(),
    }
}

fn attempt(row: &FoundRow, versions: &BTreeMap<String, String>) -> Event {
    let at = row.attempt.clone();
    if at.source == "worker-lost" {
        return Event {
            at: at.started_at,
            kind: EventKind::WorkerLost {
                started: at.started,
                host: at.host,
            },
        };
    }
    let kind = EventKind::Attempt {
        number: 0,
        started: at.started,
        attempt: at.attempt,
        ended_at: at.finished_at,
        waited_ms: None,
        took_ms: (at.finished_at - at.started_at).num_milliseconds().max(0),
        version: at
            .revision
            .as_ref()
            .and_then(|digest| versions.get(digest).cloned()),
        host: at.host,
        plugin: at.plugin,
        revision: at.revision,
        outcome: at.outcome,
        verdict: at.verdict,
        code: at.code,
        message: at.message,
        stack: at.stack,
        calls: at.calls.map(calls).unwrap_or_default(),
        source: at.source,
    };
    Event {
        at: at.started_at,
        kind,
    }
}
