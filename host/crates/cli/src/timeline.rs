//! `patchbay job timeline …`, for people: at most 80 columns.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::view::{items, short, text};

const WIDTH: usize = 80;
/// Below the time.
const INDENT: &str = "              ";

/// Everything that is known of a job.
pub(super) fn describe(timeline: &Value) -> String {
    let lives: Vec<&Value> = items(&timeline["lives"]).collect();
    let mut out = Vec::new();
    for (n, life) in lives.iter().enumerate() {
        if lives.len() > 1 {
            out.push(format!("{}{} of {} jobs that had this id", if n > 0 { "\n" } else { "" }, n + 1, lives.len()));
        }
        describe_life(timeline, life, &mut out);
    }
    out.join("\n")
}

fn describe_life(timeline: &Value, life: &Value, out: &mut Vec<String>) {
    let state = life["state"].as_str().unwrap_or("no longer in Redis");
    let title = [text(timeline, "queue"), text(timeline, "id"), text(life, "name"), state.to_owned()];
    wrap("", "  ", &title.join("  "), out);
    for (label, name) in [("request", "correlationId"), ("platform", "platform"), ("parent", "parent")] {
        if let Some(value) = life[name].as_str() {
            wrap("", "  ", &format!("{label}: {value}"), out);
        }
    }
    for (label, name) in [("children", "children"), ("same request", "sameRequest")] {
        let others = life[name].as_object().into_iter().flatten();
        let others: Vec<String> =
            others.map(|(key, state)| format!("{key} {}", state.as_str().unwrap_or_default())).collect();
        if !others.is_empty() {
            wrap("", "  ", &format!("{label}: {}", others.join(", ")), out);
        }
    }
    let mut day = String::new();
    for event in items(&life["events"]) {
        let at = time(event);
        let date = at.map(|at| at.format("%Y-%m-%d").to_string()).unwrap_or_default();
        if date != day {
            out.push(format!("{date} (UTC)"));
            day = date;
        }
        let clock = at.map(|at| at.format("%H:%M:%S%.3f").to_string()).unwrap_or_default();
        let mut lines = what(event).into_iter();
        wrap(&format!("{clock:<14}"), INDENT, &lines.next().unwrap_or_default(), out);
        for line in lines {
            wrap(INDENT, &format!("{INDENT}  "), &line, out);
        }
    }
    let logs: Vec<&str> = items(&life["logs"]).filter_map(Value::as_str).collect();
    if !logs.is_empty() {
        out.push("log:".into());
        logs.iter().for_each(|line| wrap("  ", "    ", line, out));
    }
}

fn time(event: &Value) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(event["at"].as_str()?).ok()?.to_utc())
}

/// An event in lines, the first of which stands beside its time.
fn what(event: &Value) -> Vec<String> {
    let of = |name: &str| event[name].as_str();
    match of("kind").unwrap_or_default() {
        "added" => vec!["added".into()],
        "attempt" => attempt(event),
        "worker-lost" => vec![
            format!("start {} has no end: its worker is gone", event["started"]),
            format!("on {}", of("host").unwrap_or("-")),
        ],
        "operator" => {
            let mut lines = vec![format!("{} by {}", text(event, "action"), text(event, "actor"))];
            lines.extend(of("error").map(|error| format!("refused: {error}")));
            lines
        }
        "erased" => {
            let (actor, reason) = (text(event, "actor"), text(event, "reason"));
            vec![format!("its data was erased by {actor} (erasure {}): {reason}", event["erasure"])]
        }
        "bulk" => {
            let added = of("added").map(|id| format!(", as {id}")).unwrap_or_default();
            let like = of("like").map(|id| format!(" like {id}")).unwrap_or_default();
            let (action, state) = (text(event, "action"), text(event, "state"));
            let mut lines =
                vec![format!("bulk {} by {}: {action}{like}, {state}{added}", event["bulk"], text(event, "actor"))];
            lines.extend(of("reason").map(str::to_owned));
            lines
        }
        "audit" => {
            let by = of("by").map(|by| format!(" in {by}")).unwrap_or_default();
            vec![format!("audit {} {} by {}{by}", text(event, "trail"), text(event, "entryKey"), text(event, "plugin"))]
        }
        "log" => vec![format!("log: {}", text(event, "line"))],
        other => vec![other.to_owned()],
    }
}

fn attempt(event: &Value) -> Vec<String> {
    let of = |name: &str| event[name].as_str();
    let then = match of("verdict") {
        Some("complete") => String::new(),
        Some("retry") => ", runs again".into(),
        Some("defer") => ", put off (no attempt used up)".into(),
        Some("fail") => ", failed for good".into(),
        other => format!(", {}", other.unwrap_or("-")),
    };
    let mut lines = vec![format!("attempt {}: {}{then}", event["attempt"], text(event, "outcome"))];
    let plugin = match (of("plugin"), of("revision")) {
        (Some(plugin), Some(revision)) => {
            let version = of("version").map(|version| format!(" {version}")).unwrap_or_default();
            format!("{plugin}{version} (revision {})", short(revision))
        }
        _ => "no plugin was reached".into(),
    };
    lines.push(plugin);
    let seen = if of("source") == Some("mirror") { ", seen from outside" } else { "" };
    let waited = event.get("waitedMs").map(|ms| format!("waited {}, ", lasted(ms))).unwrap_or_default();
    lines.push(format!("{waited}took {}, on {}{seen}", lasted(&event["tookMs"]), of("host").unwrap_or("-")));
    for call in items(&event["calls"]) {
        let method = call["method"].as_str().map(|method| format!("{method} ")).unwrap_or_default();
        let took = lasted(&call["tookMs"]);
        lines.push(format!(
            "{} {method}{}: {}, after {}, {took}",
            text(call, "kind"),
            text(call, "host"),
            text(call, "result"),
            lasted(&call["afterMs"])
        ));
    }
    lines.extend(of("message").map(|message| message.to_owned()));
    lines
}

fn lasted(ms: &Value) -> String {
    match ms.as_u64().unwrap_or(0) {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms @ 1_000..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        ms @ 120_000..7_200_000 => format!("{} min", ms / 60_000),
        ms => format!("{:.1} h", ms as f64 / 3.6e6),
    }
}

/// Broken between words where it can be.
fn wrap(first: &str, next: &str, line: &str, out: &mut Vec<String>) {
    let mut current = first.to_owned();
    let mut is_empty = true;
    let plain: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for word in plain.split(' ') {
        let mut word = word;
        loop {
            let room = WIDTH.saturating_sub(current.chars().count() + usize::from(!is_empty));
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
                // One word that is longer than a line.
                let cut = word.char_indices().nth(room.max(1)).map_or(word.len(), |(at, _)| at);
                current.push_str(&word[..cut]);
                word = &word[cut..];
            }
            out.push(std::mem::replace(&mut current, next.to_owned()).trim_end().to_owned());
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
            "message": long, "host": "h".repeat(100), "waitedMs": 90_000, "tookMs": 5,
            "calls": [{ "kind": "http", "method": "GET", "host": "a".repeat(90), "result": "200", "afterMs": 1, "tookMs": 7_300_000 }] });
        let life = json!({ "name": "n", "events": [attempt, { "kind": "added", "at": "2026-01-30T08:00:00Z" }], "logs": [long] });
        let text = describe(&json!({ "queue": "q", "id": "1", "lives": [life] }));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("08:00:00.000  attempt 1: failed, failed for good"), "{text}");
        assert!(text.contains("waited 90.0 s, took 5 ms") && text.contains("after 1 ms, 2.0 h"), "{text}");
    }
}
