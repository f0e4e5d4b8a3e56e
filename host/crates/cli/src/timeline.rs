//! `patchbay job timeline …` as text for people: at most 80 columns, fewer on a narrow terminal.

use patchbay_api::timeline::{EventKind, Life, Timeline};
use patchbay_model::words::counted;
use serde_json::Value;

use super::output::terminal_width;
use super::view::{job_of_key, short};

/// Longer lines are hard to read, also on a wide terminal.
const MOST_WIDTH: usize = 80;
/// Less is left to the terminal: the times alone need 14.
const LEAST_WIDTH: usize = 40;
/// As wide as the time in front of an event.
const INDENT: &str = "              ";

pub(super) fn describe(timeline: &Timeline) -> String {
    let lives = &timeline.lives;
    let mut out = Vec::new();
    for (n, life) in lives.iter().enumerate() {
        if lives.len() > 1 {
            out.push(format!(
                "{}{} of {} jobs that had this id",
                if n > 0 { "\n" } else { "" },
                n + 1,
                lives.len()
            ));
        }
        describe_life(timeline, life, &mut out);
    }
    out.join("\n")
}

fn describe_life(timeline: &Timeline, life: &Life, out: &mut Vec<String>) {
    let state = life.state.as_deref().unwrap_or("no longer in Redis");
    wrap(
        "",
        "  ",
        &[&timeline.queue, &timeline.id, &life.name, state].join("  "),
        out,
    );
    let origin = [
        ("request", &life.correlation_id),
        ("platform", &life.platform),
        ("parent", &life.parent.as_deref().map(job_of_key)),
    ];
    for (label, value) in origin {
        if let Some(value) = value {
            wrap("", "  ", &format!("{label}: {value}"), out);
        }
    }
    for (label, others) in [
        ("children", &life.children),
        ("same request", &life.same_request),
    ] {
        let others: Vec<String> = others
            .iter()
            .map(|(key, state)| format!("{} ({state})", job_of_key(key)))
            .collect();
        if !others.is_empty() {
            wrap("", "  ", &format!("{label}: {}", others.join(", ")), out);
        }
    }
    let mut day = String::new();
    for event in &life.events {
        let date = event.at.format("%Y-%m-%d").to_string();
        if date != day {
            out.push(format!("{date} (UTC)"));
            day = date;
        }
        let mut lines = lines(&event.kind).into_iter();
        let first = lines.next().unwrap_or_default();
        wrap(
            &format!("{:<14}", event.at.format("%H:%M:%S%.3f").to_string()),
            INDENT,
            &first,
            out,
        );
        for line in lines {
            wrap(INDENT, &format!("{INDENT}  "), &line, out);
        }
    }
    if !life.logs.is_empty() {
        out.push("log:".into());
        life.logs
            .iter()
            .for_each(|line| wrap("  ", "    ", line, out));
    }
}

/// The lines of an event; the first one is printed beside its time.
fn lines(event: &EventKind) -> Vec<String> {
    match event {
        EventKind::Added => vec!["added".into()],
        EventKind::Attempt { .. } => attempt(event),
        EventKind::WorkerLost { started, host } => {
            vec![
                format!("start {started} has no end: its worker was lost"),
                format!("on {host}"),
            ]
        }
        EventKind::Operator {
            actor,
            action,
            error,
            reason,
            like,
            added,
            schedule,
        } => {
            let why = reason.as_ref().map(|reason| format!(": {reason}"));
            let did = match (like, added, schedule) {
                (Some(original), ..) => format!("added as a copy of {}", job_of_key(original)),
                (None, Some(copy), _) => format!("duplicated as {}", job_of_key(copy)),
                (None, None, Some(schedule)) => format!("added for schedule {schedule}, run"),
                (None, None, None) => in_words(action).to_owned(),
            };
            let mut lines = vec![format!("{did} by {actor}{}", why.unwrap_or_default())];
            lines.extend(error.as_ref().map(|error| format!("refused: {error}")));
            lines
        }
        EventKind::Erased {
            actor,
            reason,
            erasure,
        } => {
            vec![format!(
                "its data was erased by {actor} (erasure {erasure}): {reason}"
            )]
        }
        EventKind::Bulk {
            bulk,
            action,
            actor,
            state,
            reason,
            added,
            like,
            because,
        } => {
            let added = added
                .as_ref()
                .map(|id| format!(", as {id}"))
                .unwrap_or_default();
            let like = like
                .as_ref()
                .map(|id| format!(" like {id}"))
                .unwrap_or_default();
            let what = match (action.as_str(), state.as_str()) {
                ("retry", "done") => "retried".to_owned(),
                ("remove", "done") => "removed".to_owned(),
                ("enqueue-again", "done") => format!("added again{like}"),
                ("edit-and-retry", "done") => "data changed and retried".to_owned(),
                (action, state) => format!("{action}{like}: {state}"),
            };
            let mut lines = vec![format!("bulk {bulk} by {actor}: {what}{added}")];
            lines.extend(reason.clone());
            lines.extend(because.as_ref().map(|because| format!("reason: {because}")));
            lines
        }
        EventKind::Undo {
            bulk,
            action,
            actor,
            state,
            reason,
        } => {
            let by = actor
                .as_ref()
                .map(|actor| format!(" by {actor}"))
                .unwrap_or_default();
            let is_edit = action.as_deref() == Some("edit-and-retry");
            let what = match (state.as_str(), is_edit) {
                ("restored", true) => "edit undone, the job has its data from before",
                ("restored", false) => "removal undone, the job is back",
                ("not-undone", true) => "edit not undone, the job stays as it is",
                ("not-undone", false) => "removal not undone, the job stays as it is",
                (_, true) => "edit could not be undone",
                (_, false) => "removal could not be undone",
            };
            let did = match state.as_str() {
                "restored" => "undone",
                _ => "undo",
            };
            let mut lines = vec![format!("bulk {bulk} {did}{by}: {what}")];
            lines.extend(reason.clone());
            lines
        }
        EventKind::Queue {
            actor,
            action,
            job_state,
            jobs,
            certain,
            reason,
        } => {
            let mut lines = whole_queue(actor, action, job_state.as_deref(), *jobs, *certain);
            lines.extend(reason.as_ref().map(|reason| format!("reason: {reason}")));
            lines
        }
        EventKind::Audit {
            trail,
            entry_key,
            plugin,
            by,
        } => {
            let by = by
                .as_ref()
                .map(|by| format!(" in {}", job_of_key(by)))
                .unwrap_or_default();
            vec![format!("audit {trail} {entry_key} by {plugin}{by}")]
        }
        EventKind::Log { line } => vec![format!("log: {line}")],
        EventKind::Other { kind, fields } => {
            let fields = fields.iter().map(|(name, value)| match value {
                Value::String(text) => format!("{name}: {text}"),
                value => format!("{name}: {value}"),
            });
            std::iter::once(kind.clone()).chain(fields).collect()
        }
    }
}

/// An operator's action on one job; one without words of its own by its name.
fn in_words(action: &str) -> &str {
    match action {
        "job.add" | "job.add-many" => "added",
        "flow.add" => "added with a flow",
        "job.retry" => "retried",
        "job.remove" => "removed",
        "job.duplicate" => "duplicated",
        "job.promote" => "delay ended",
        "job.kill" => "ended while it ran",
        "job.set-data" => "data changed",
        "job.set-delay" => "delay changed",
        "job.set-priority" => "priority changed",
        "job.reveal" => "hidden data shown",
        action => action,
    }
}

fn whole_queue(
    actor: &str,
    action: &str,
    state: Option<&str>,
    jobs: u64,
    certain: bool,
) -> Vec<String> {
    let jobs = match state {
        Some(state) => counted(jobs, &format!("{state} job")),
        None => counted(jobs, "job"),
    };
    let what = match action {
        "queue.put-back" => format!("{jobs} of the queue put back"),
        "queue.clean" => format!("{jobs} removed from the queue"),
        "queue.drain" => format!("queue drained, {jobs} removed"),
        "queue.obliterate" => format!("queue removed, with {jobs}"),
        other => format!("{other} of {jobs}"),
    };
    let mut lines = vec![format!("{what} by {actor}")];
    if !certain {
        lines.push("probably with this job: the record does not name the jobs".into());
    }
    lines
}

fn attempt(event: &EventKind) -> Vec<String> {
    let EventKind::Attempt {
        number,
        attempt,
        waited_ms,
        took_ms,
        host,
        plugin,
        revision,
        version,
        outcome,
        verdict,
        message,
        calls,
        source,
        ..
    } = event
    else {
        return Vec::new();
    };
    let then = match verdict.as_str() {
        "complete" => String::new(),
        "retry" => ", runs again".into(),
        "defer" => ", put off (no attempt used up)".into(),
        "fail" => ", failed for good".into(),
        other => format!(", {other}"),
    };
    let (number, of_bullmq) = match *number {
        // A host of the version before does not number them on.
        0 => (*attempt, String::new()),
        number if number == *attempt => (number, String::new()),
        number => (number, format!(" (BullMQ's attempt {attempt})")),
    };
    let mut lines = vec![format!("attempt {number}{of_bullmq}: {outcome}{then}")];
    let by = match (plugin, revision) {
        (Some(plugin), Some(revision)) => {
            let version = version
                .as_ref()
                .map(|version| format!(" {version}"))
                .unwrap_or_default();
            format!("{plugin}{version} (revision {})", short(revision))
        }
        _ => "no plugin was reached".into(),
    };
    lines.push(by);
    let seen = if source == "mirror" {
        ", run by another worker"
    } else {
        ""
    };
    let waited = waited_ms
        .map(|ms| format!("waited {}, ", lasted(ms.unsigned_abs())))
        .unwrap_or_default();
    lines.push(format!(
        "{waited}took {}, on {host}{seen}",
        lasted(took_ms.unsigned_abs())
    ));
    for call in calls {
        let method = call
            .method
            .as_ref()
            .map(|method| format!("{method} "))
            .unwrap_or_default();
        let (after, took) = (lasted(call.after_ms), lasted(call.took_ms));
        lines.push(format!(
            "{} {method}{}: {}, after {after}, {took}",
            call.kind, call.host, call.result
        ));
    }
    lines.extend(message.clone());
    lines
}

fn lasted(ms: u64) -> String {
    match ms {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms @ 1_000..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        ms @ 120_000..7_200_000 => format!("{} min", ms / 60_000),
        ms => format!("{:.1} h", ms as f64 / 3.6e6),
    }
}

/// Breaks a line between words if possible.
fn wrap(first: &str, next: &str, line: &str, out: &mut Vec<String>) {
    let width = terminal_width().map_or(MOST_WIDTH, |width| width.clamp(LEAST_WIDTH, MOST_WIDTH));
    let mut current = first.to_owned();
    let mut is_empty = true;
    let plain: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    for word in plain.split(' ') {
        let mut word = word;
        loop {
            let room = width.saturating_sub(current.chars().count() + usize::from(!is_empty));
            let length = word.chars().count();
            if length <= room {
                if !is_empty {
                    current.push(' ');
                }
                current.push_str(word);
                is_empty = false;
                break;
            }
            if is_empty {
                // A single word that is longer than a line.
                let cut = word
                    .char_indices()
                    .nth(room.max(1))
                    .map_or(word.len(), |(at, _)| at);
                current.push_str(&word[..cut]);
                word = &word[cut..];
            }
            out.push(
                std::mem::replace(&mut current, next.to_owned())
                    .trim_end()
                    .to_owned(),
            );
            is_empty = true;
        }
    }
    out.push(current.trim_end().to_owned());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_line_is_longer_than_a_terminal_is_wide_whatever_the_job_says() {
        let long = format!("{} {}", "wörd ".repeat(60), "x".repeat(500));
        let attempt = json!({ "kind": "attempt", "at": "2026-01-31T08:00:00Z", "attempt": 1, "outcome": "failed", "verdict": "fail",
            "message": long, "host": "h".repeat(100), "waitedMs": 90_000, "tookMs": 5, "started": 1, "endedAt": "2026-01-31T08:00:01Z", "source": "host",
            "calls": [{ "kind": "http", "method": "GET", "host": "a".repeat(90), "result": "200", "afterMs": 1, "tookMs": 7_300_000 }] });
        let life = json!({ "name": "n", "children": {}, "sameRequest": {}, "events": [attempt, { "kind": "added", "at": "2026-01-30T08:00:00Z" }], "logs": [long] });
        let told = json!({ "queue": "q", "id": "1", "lives": [life] });
        let text = describe(&serde_json::from_value(told).expect("a timeline"));
        assert!(
            text.lines().all(|line| line.chars().count() <= MOST_WIDTH),
            "{text}"
        );
        assert!(
            text.contains("08:00:00.000  attempt 1: failed, failed for good"),
            "{text}"
        );
        assert!(
            text.contains("waited 90.0 s, took 5 ms") && text.contains("after 1 ms, 2.0 h"),
            "{text}"
        );
    }

    fn told(event: Value) -> String {
        let life = json!({ "name": "n", "children": {}, "sameRequest": {}, "events": [event], "logs": [] });
        let told = json!({ "queue": "q", "id": "1", "lives": [life] });
        describe(&serde_json::from_value(told).expect("a timeline"))
    }

    #[test]
    fn an_event_of_a_newer_host_is_printed_plainly() {
        let text = told(
            json!({ "at": "2026-01-31T08:00:00Z", "kind": "moved-elsewhere", "to": "other", "count": 2 }),
        );
        assert!(
            text.contains("08:00:00.000  moved-elsewhere")
                && text.contains("to: other")
                && text.contains("count: 2"),
            "{text}"
        );
    }

    #[test]
    fn attempts_are_numbered_on_beside_the_number_of_bullmq() {
        let attempt = |more: Value| {
            let mut event = json!({ "kind": "attempt", "at": "2026-01-31T08:00:00Z", "attempt": 1, "outcome": "failed", "verdict": "fail",
                "host": "a:1", "tookMs": 5, "started": 3, "endedAt": "2026-01-31T08:00:01Z", "source": "host", "calls": [] });
            event["number"] = more;
            told(event)
        };
        assert!(
            attempt(json!(3)).contains("attempt 3 (BullMQ's attempt 1): failed, failed for good")
        );
        assert!(attempt(json!(1)).contains("attempt 1: failed"));
        assert!(
            attempt(json!(0)).contains("attempt 1: failed"),
            "an older host"
        );
    }

    #[test]
    fn steps_say_who_did_what() {
        for (event, words) in [
            (
                json!({ "kind": "operator", "actor": "ops", "action": "job.retry" }),
                "retried by ops",
            ),
            (
                json!({ "kind": "bulk", "bulk": 3, "actor": "ops", "action": "remove", "state": "done" }),
                "bulk 3 by ops: removed",
            ),
            (
                json!({ "kind": "undo", "bulk": 3, "actor": "ada", "state": "restored" }),
                "bulk 3 undone by ada: removal undone, the job is back",
            ),
            (
                json!({ "kind": "queue", "actor": "ops", "action": "queue.put-back", "jobState": "failed", "jobs": 1, "certain": true }),
                "1 failed job of the queue put back by ops",
            ),
        ] {
            let mut event = event;
            event["at"] = "2026-01-31T08:00:00Z".into();
            let text = told(event);
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
