//! What commands say of queues.

use std::time::Duration;

use patchbay_api::queues::{
    AllDone, Already, Cleared, PausedBy, Queue, QueueCounts, QueueOverview, Switched,
};
use patchbay_model::shell::{arguments, word};
use patchbay_model::words::{counted, lasted};

use super::super::output::time;

pub(super) fn paused_one(queue: &str, done: &Switched) -> String {
    let (name, undo) = (word(queue), arguments(&[queue]));
    let undo = format!("Undo: patchbay queue resume {undo}");
    match &done.already {
        None => format!("Paused: {name}. {undo}"),
        Some(Already { by: None, .. }) => {
            format!(
                "{name} was already paused, by another BullMQ client such as Bull Board. {undo}"
            )
        }
        Some(already) => format!("{name} was already paused {}. {undo}", who(already)),
    }
}

pub(super) fn resumed_one(queue: &str, done: &Switched) -> String {
    let name = word(queue);
    match &done.already {
        None => format!("Resumed: {name}. Workers take its jobs"),
        Some(Already { by: None, .. }) => format!("{name} was not paused. Workers take its jobs"),
        Some(already) => format!(
            "{name} was already resumed {}. Workers take its jobs",
            who(already)
        ),
    }
}

/// Who had paused these queues: `2 queues (a, b) by ops at 2026-11-30T13:08:03Z: INC-7; 1 queue …`
pub(super) fn by_whom(queues: &[&QueueOverview]) -> String {
    let mut pauses: Vec<(Option<&PausedBy>, Vec<String>)> = Vec::new();
    for queue in queues {
        let (by, name) = (queue.paused_by.as_ref(), queue.name.to_string());
        match pauses.iter_mut().find(|(known, _)| *known == by) {
            Some((_, names)) => names.push(name),
            None => pauses.push((by, vec![name])),
        }
    }
    let line = |(by, names): &(Option<&PausedBy>, Vec<String>)| {
        let who = match by {
            Some(PausedBy { by, at, reason }) => {
                let reason = reason.as_ref().map(|reason| format!(": {reason}"));
                format!("by {by} at {}{}", time(*at), reason.unwrap_or_default())
            }
            None => "by nobody who is recorded, such as another BullMQ client".to_owned(),
        };
        format!("{} {who}", named(names))
    };
    pauses.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// Most names in a sentence.
pub(super) const MOST_NAMED: usize = 10;

/// `3 queues (a, b, c)`
pub(super) fn named(queues: &[String]) -> String {
    let names: Vec<_> = queues
        .iter()
        .take(MOST_NAMED)
        .map(|name| word(name))
        .collect();
    let more = queues.len().saturating_sub(MOST_NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let count = counted(queues.len() as u64, "queue");
    format!("{count} ({}{more})", names.join(", "))
}

pub(super) fn paused_all(done: &AllDone) -> String {
    let before = done.unchanged.len() as u64;
    if done.queues.is_empty() {
        return match (before, done.failures.is_empty()) {
            (0, _) => "No queue was paused".to_owned(),
            (_, true) => format!(
                "Nothing has changed: every queue was already paused, {}",
                named(&done.unchanged)
            ),
            (_, false) => format!(
                "Paused: no queue. Already paused: {}",
                named(&done.unchanged)
            ),
        };
    }
    let paused = format!("Paused: {}", named(&done.queues));
    match before {
        0 => format!("{paused}. Undo: patchbay queue resume --all"),
        _ => format!(
            "{paused}. Already paused before, and left as they were: {}. Undo: patchbay queue resume QUEUE, for each that was paused now: \
             --all would also resume the others",
            named(&done.unchanged)
        ),
    }
}

pub(super) fn resumed_all(done: &AllDone) -> String {
    match (done.queues.is_empty(), done.unchanged.len() as u64) {
        (true, 0) => "No queue was resumed".to_owned(),
        (true, open) => format!(
            "Nothing has changed: {} not paused",
            match open {
                1 => "1 queue was".to_owned(),
                open => format!("{open} queues were"),
            }
        ),
        (false, 0) => format!("Resumed: {}", named(&done.queues)),
        (false, open) => format!(
            "Resumed: {}. {} not paused",
            named(&done.queues),
            match open {
                1 => "1 was".to_owned(),
                open => format!("{open} were"),
            }
        ),
    }
}

/// `by ops at 2026-11-30T13:08:03Z: INC-7`
pub(super) fn who(already: &Already) -> String {
    let by = already.by.as_deref().unwrap_or("somebody");
    let at = already.at.map(|at| format!(" at {}", time(at)));
    let reason = already.reason.as_ref().map(|reason| format!(": {reason}"));
    format!(
        "by {by}{}{}",
        at.unwrap_or_default(),
        reason.unwrap_or_default()
    )
}
/// Jobs that are not counted, and what becomes of them.
pub(super) fn removed_before(cleared: &Cleared) -> String {
    match cleared.removed_before {
        0 => String::new(),
        1 => {
            ". 1 more was removed by a bulk operation before: patchbay bulk undo still restores it"
                .to_owned()
        }
        n => format!(
            ". {n} more were removed by a bulk operation before: patchbay bulk undo still restores them"
        ),
    }
}

/// `63 failed jobs of emailQueue`
pub(super) fn of_queue(count: u64, state: &str, queue: &str) -> String {
    format!("{} of {queue}", counted(count, &format!("{state} job")))
}

pub(super) fn states(counts: &QueueCounts) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("waiting", counts.waiting),
        ("active", counts.active),
        ("delayed", counts.delayed),
        ("prioritized", counts.prioritized),
        ("waitingChildren", counts.waiting_children),
        ("completed", counts.completed),
        ("failed", counts.failed),
    ]
    .into_iter()
}

pub(super) fn describe(queue: &Queue) -> String {
    let overview = &queue.overview;
    let counts = states(&overview.counts).map(|(state, count)| format!("{state} {count}"));
    let mut lines = vec![
        word(overview.name.as_str()).into_owned(),
        format!("  {}", counts.collect::<Vec<_>>().join(", ")),
    ];
    if overview.counts.paused {
        lines.push(match &overview.paused_by {
            Some(PausedBy { by, at, reason }) => {
                let reason = reason.as_ref().map(|reason| format!(": {reason}"));
                format!(
                    "  paused by {by} at {}{}",
                    time(*at),
                    reason.unwrap_or_default()
                )
            }
            None => "  paused".to_owned(),
        });
    }
    if overview.counts.removed > 0 {
        lines.push(format!(
            "  removed by a bulk operation, until a worker drops them: {}",
            overview.counts.removed
        ));
    }
    if let Some(error) = &overview.error {
        lines.push(format!("  damaged: {error}"));
    }
    if let Some(ms) = overview.oldest_waiting_ms {
        lines.push(format!("  oldest has waited {}", age(ms)));
    }
    if let Some(max) = overview.concurrency {
        lines.push(format!("  at most {max} at once"));
    }
    if let Some((max, per)) = overview.rate {
        lines.push(format!("  at most {max} in {per} ms"));
    }
    lines.push(format!(
        "  plugin: {}",
        queue
            .plugin
            .as_deref()
            .unwrap_or("none active on this host")
    ));
    let workers = if queue.workers.is_empty() {
        "none".to_owned()
    } else {
        queue.workers.join(", ")
    };
    lines.push(format!("  workers: {workers}"));
    lines.extend(
        queue
            .unavailable
            .iter()
            .map(|why| format!("  attempts of the last day: unknown now ({why})")),
    );
    for job in &queue.jobs {
        lines.push(format!(
            "  {}: {} in the last minute, {} in 15 minutes, {} in a day ({} did not complete); {:.0} / {:.0} / {:.0} ms (p50 / p95 / p99)",
            word(&job.name),
            job.last_minute,
            job.last_15_minutes,
            job.last_day,
            job.not_completed,
            job.p50_ms,
            job.p95_ms,
            job.p99_ms
        ));
    }
    lines.join("\n")
}

pub(super) fn age(ms: u64) -> String {
    lasted(Duration::from_millis(ms))
}
