//! `patchbay status`

use std::process::ExitCode;
use std::time::Duration;

use patchbay_api::alerts::Alert;
use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::status::{Overview, QueueInTrouble, StatusShow};
use patchbay_model::shell::{option, word};
use patchbay_model::words::{counted, lasted};

use super::breaker;
use super::client::{Client, ClientArgs};
use super::output::{Output, time};

/// Exit code of a host that is not ready: what it needs cannot be reached.
const NOT_READY: u8 = 5;

pub(crate) async fn run(args: &ClientArgs, output: Output) -> anyhow::Result<ExitCode> {
    let client = Client::from_args(args)?;
    let status = client.ask::<StatusShow>((), NoQuery {}, NoBody).await?;
    output.value(&describe(&status.data), &status.raw);
    Ok(match status.data.ready {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NOT_READY),
    })
}

fn describe(status: &Overview) -> String {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    let mut lines = vec![format!(
        "Host {} ({}): {ready}",
        status.host, status.version
    )];
    for reason in &status.reasons {
        lines.push(format!("  {}: {}", reason.code, reason.message));
        lines.push(format!("    Next: {}", reason.next));
    }
    let silent = status
        .hosts
        .iter()
        .filter(|host| host.silent_s.is_some())
        .count();
    lines.push(match silent {
        _ if is_unknown(status, "hosts") => "Hosts: unknown".to_owned(),
        0 => format!("Hosts: {}", status.hosts.len()),
        silent => format!("Hosts: {}, {silent} of them silent", status.hosts.len()),
    });
    for host in &status.hosts {
        if let Some(silent) = host.silent_s {
            let silent = lasted(Duration::from_secs(silent));
            lines.push(format!(
                "  {}: silent for {silent}; killed, or cut off",
                host.host
            ));
        }
    }
    lines.push(alerts(status));
    for alert in &status.firing {
        let reason = alert.reason.as_deref().unwrap_or_default();
        let silenced = alert.silenced_until.map(|until| {
            let by = alert.silenced_by.as_ref().map(|by| format!(" by {by}"));
            let why = alert.silence_reason.as_ref().map(|why| format!(": {why}"));
            let (by, why) = (by.unwrap_or_default(), why.unwrap_or_default());
            format!(" (silenced{by} until {}{why})", time(until))
        });
        lines.push(format!(
            "  {} {} {}: {reason}{}{}",
            alert.severity.to_uppercase(),
            alert.rule,
            alert.subject,
            ends(alert),
            silenced.unwrap_or_default()
        ));
        lines.extend(alert.next.as_ref().map(|next| format!("    Next: {next}")));
    }
    for alert in &status.pending_alerts {
        let reason = alert.reason.as_ref().map(|reason| format!(": {reason}"));
        lines.push(format!(
            "  pending since {}: {} {}{}{}",
            time(alert.since),
            alert.rule,
            alert.subject,
            reason.unwrap_or_default(),
            ends(alert)
        ));
    }
    let in_trouble = status.queues_in_trouble.len() + status.more_queues_in_trouble;
    lines.push(match status.queues {
        Some(queues) => format!("Queues: {queues}, {in_trouble} in trouble"),
        None => "Queues: unknown".to_owned(),
    });
    lines.extend(queues(status));
    if status.more_queues_in_trouble > 0 {
        let more = counted(status.more_queues_in_trouble as u64, "more queue");
        lines.push(format!("  … {more}: patchbay queue list"));
    }
    match status.open_dead_letters {
        Some(open) if open > 0 => lines.push(format!(
            "Dead letters: {}. Next: patchbay dead-letter list",
            counted(open, "open group")
        )),
        Some(_) => {}
        None => lines.push("Dead letters: unknown".to_owned()),
    }
    match status.paused_schedules {
        Some(paused) if paused > 0 => lines.push(format!(
            "Schedules: {paused} paused. Next: patchbay schedule list"
        )),
        Some(_) => {}
        None => lines.push("Schedules: unknown".to_owned()),
    }
    if !status.breakers.is_empty() {
        lines.push(format!("Breakers not closed: {}", status.breakers.len()));
        lines.extend(status.breakers.iter().map(|view| {
            let deferred = match view.deferred_jobs {
                0 => String::new(),
                1 => "; a job was deferred once".to_owned(),
                n => format!("; jobs were deferred {n} times since the host started"),
            };
            let state = breaker::state(view);
            format!("  {} {}: {state}{deferred}", view.plugin, view.host)
        }));
    }
    lines.push(match status.active_plugins {
        Some(active) => format!(
            "Plugins: {active} active, {} not running as they should",
            status.plugins.len()
        ),
        None => "Plugins: unknown".to_owned(),
    });
    lines.extend(
        status
            .plugins
            .iter()
            .map(|plugin| format!("  {} ({}): {}", plugin.name, plugin.state, plugin.reason)),
    );
    lines.extend(
        status
            .unavailable
            .iter()
            .map(|part| format!("Unknown now: {} ({})", part.part, part.reason)),
    );
    lines.join("\n")
}

fn is_unknown(status: &Overview, part: &str) -> bool {
    status
        .unavailable
        .iter()
        .any(|unknown| unknown.part == part)
}

fn alerts(status: &Overview) -> String {
    let pending = match status.pending {
        None => return "Alerts: unknown".to_owned(),
        Some(0) => String::new(),
        Some(pending) => format!(", {pending} pending"),
    };
    match status.firing.len() {
        0 => format!("Alerts: none fires{pending}"),
        firing => format!("Alerts: {firing} firing{pending}"),
    }
}

/// That the cause of an alert is gone, and when the alert ends.
fn ends(alert: &Alert) -> String {
    alert.ends_within_s.map_or_else(String::new, |seconds| {
        let within = lasted(Duration::from_secs(seconds));
        format!(" (the cause is gone; the alert ends within {within})")
    })
}

/// Of many paused queues only the first are told one by one.
const MOST_PAUSED: usize = 3;

fn queues(status: &Overview) -> Vec<String> {
    let all = &status.queues_in_trouble;
    let (paused, others): (Vec<&QueueInTrouble>, Vec<&QueueInTrouble>) =
        all.iter().partition(|queue| paused(queue).is_some());
    let mut lines: Vec<String> = others.into_iter().flat_map(queue).collect();
    lines.extend(paused.iter().copied().take(MOST_PAUSED).flat_map(queue));
    let rest = paused.len().saturating_sub(MOST_PAUSED);
    if rest > 0 {
        let more = counted(rest as u64, "more paused queue");
        lines.push(format!("  … and {more}: patchbay queue list --paused"));
        let mut why = paused.iter().map(|queue| self::paused(queue));
        let first = why.next();
        // One action paused them all, so one command resumes what it paused.
        if why.all(|why| Some(why) == first) && status.more_queues_in_trouble == 0 {
            lines.push("    All of them: patchbay queue resume --all".to_owned());
        }
    }
    lines
}

/// Why it is paused, if that holds it up.
fn paused(queue: &QueueInTrouble) -> Option<&str> {
    let mut reasons = queue.reasons.iter();
    let paused = reasons.find(|reason| reason.code == "paused");
    paused.map(|reason| reason.message.as_str())
}

fn queue(queue: &QueueInTrouble) -> Vec<String> {
    let overview = &queue.overview;
    let waiting = counted(overview.counts.waiting + overview.counts.prioritized, "job");
    let mut facts = vec![format!("{waiting} waiting")];
    if overview.counts.removed > 0 {
        facts.push(format!("{} removed", overview.counts.removed));
    }
    if let Some(ms) = overview.oldest_waiting_ms {
        facts.push(format!(
            "the oldest for {}",
            lasted(Duration::from_millis(ms))
        ));
    }
    if queue.failed_last_hour > 0 {
        facts.push(format!(
            "{} failed in the last hour",
            queue.failed_last_hour
        ));
    }
    if queue.acknowledged > 0 {
        facts.push(format!(
            "{} of {} in acknowledged groups",
            queue.acknowledged,
            counted(overview.counts.failed, "failed job")
        ));
    }
    let name = overview.name.as_str();
    let mut lines = vec![format!("  {}: {}", word(name), facts.join(", "))];
    for reason in &queue.reasons {
        lines.push(format!("    {}", reason.message));
        lines.push(format!("      Next: {}", reason.next));
    }
    if queue.reasons.is_empty() {
        lines.push(format!(
            "      Next: patchbay dead-letter list {}",
            option("--queue", name)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_unknown_and_not_zero() {
        let parts = [
            "alerts",
            "queues",
            "dead-letters",
            "plugins",
            "schedules",
            "hosts",
        ];
        let unavailable: Vec<_> = parts
            .iter()
            .map(|part| json!({ "part": part, "reason": "Postgres does not answer" }))
            .collect();
        let status = json!({ "host": "a:1", "version": "1", "ready": false, "reasons": [], "firing": [], "pending": null,
            "queues": null, "queuesInTrouble": [], "moreQueuesInTrouble": 0, "openDeadLetters": null, "breakers": [],
            "plugins": [], "activePlugins": null, "hosts": [], "unavailable": unavailable });
        let told = describe(&serde_json::from_value(status).expect("an overview"));
        for part in [
            "Hosts",
            "Alerts",
            "Queues",
            "Dead letters",
            "Plugins",
            "Schedules",
        ] {
            assert!(told.contains(&format!("{part}: unknown")), "{part}: {told}");
        }
        assert!(!told.contains('0'), "{told}");
    }

    #[test]
    fn of_many_paused_queues_the_first_are_told_and_one_command_resumes_all() {
        let counts = json!({ "waiting": 1, "active": 0, "delayed": 0, "prioritized": 0, "waitingChildren": 0, "completed": 0,
            "failed": 0, "paused": true });
        let queue = |name: String, why: &str| {
            json!({ "overview": { "name": name, "counts": counts, "putAside": 0 }, "failedLastHour": 0, "reasons": [{
                "code": "paused", "message": why, "next": format!("patchbay queue resume {name}") }] })
        };
        let told = |queues: Vec<serde_json::Value>| {
            let status = json!({ "host": "a:1", "version": "1", "ready": true, "reasons": [], "firing": [], "pending": 0,
                "queues": 20, "queuesInTrouble": queues, "moreQueuesInTrouble": 0, "openDeadLetters": 0,
                "breakers": [], "plugins": [], "activePlugins": 1, "hosts": [], "unavailable": [] });
            describe(&serde_json::from_value(status).expect("an overview"))
        };
        let by_one = told((0..14).map(|n| queue(format!("q{n}"), "by ops")).collect());
        assert_eq!(
            by_one.matches("patchbay queue resume q").count(),
            3,
            "{by_one}"
        );
        assert!(
            by_one.contains("… and 11 more paused queues: patchbay queue list --paused\n    All of them: patchbay queue resume --all"),
            "{by_one}"
        );
        let by_many = told(
            (0..5)
                .map(|n| queue(format!("q{n}"), &format!("by {n}")))
                .collect(),
        );
        assert!(
            by_many.contains("… and 2 more paused queues") && !by_many.contains("--all"),
            "{by_many}"
        );
        let few = told((0..3).map(|n| queue(format!("-q{n}"), "by ops")).collect());
        assert!(!few.contains("more paused"), "{few}");
    }

    #[test]
    fn an_alert_whose_cause_is_gone_says_so_and_names_no_next_step() {
        let gone = json!({ "rule": "oldest-waiting", "subject": "q", "severity": "warning", "state": "firing",
            "since": "2026-11-24T12:00:00Z", "reason": "1 job waited, for 20 min", "endsWithinS": 45 });
        let status = json!({ "host": "a:1", "version": "1", "ready": true, "reasons": [], "firing": [gone], "pending": 0,
            "queues": 1, "queuesInTrouble": [], "moreQueuesInTrouble": 0, "openDeadLetters": 0,
            "breakers": [], "plugins": [], "activePlugins": 1, "hosts": [], "unavailable": [] });
        let told = describe(&serde_json::from_value(status).expect("an overview"));
        assert!(
            told.contains("WARNING oldest-waiting q: 1 job waited, for 20 min (the cause is gone; the alert ends within 45 s)"),
            "{told}"
        );
        assert!(!told.contains("Next:"), "{told}");
    }

    #[test]
    fn a_silence_is_told_with_who_and_why_and_pending_alerts_by_name() {
        let alert = |state: &str| {
            json!({ "rule": "stalled", "subject": "q", "severity": "critical", "state": state,
            "since": "2026-11-24T12:00:00Z", "reason": "it stands", "silencedUntil": "2026-11-24T13:00:00Z",
            "silencedBy": "ada", "silenceReason": "INC-7" })
        };
        let status = json!({ "host": "a:1", "version": "1", "ready": true, "reasons": [], "firing": [alert("firing")], "pending": 1,
            "pendingAlerts": [alert("pending")], "queues": 1, "queuesInTrouble": [], "moreQueuesInTrouble": 0, "openDeadLetters": 0,
            "breakers": [], "plugins": [], "activePlugins": 1, "pausedSchedules": 2, "hosts": [], "unavailable": [] });
        let told = describe(&serde_json::from_value(status).expect("an overview"));
        for part in [
            "(silenced by ada until 2026-11-24T13:00:00Z: INC-7)",
            "pending since 2026-11-24T12:00:00Z: stalled q: it stands",
            "Schedules: 2 paused",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
