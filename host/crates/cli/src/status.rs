//! `patchbay status`

use std::time::Duration;

use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::status::{Overview, QueueInTrouble, StatusShow};
use patchbay_model::shell::arguments;
use patchbay_model::words::{counted, lasted};

use super::breaker;
use super::client::{Client, ClientArgs};
use super::output::{Output, time};

pub(crate) async fn run(args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let status = client.ask::<StatusShow>((), NoQuery {}, NoBody).await?;
    output.value(&describe(&status.data), &status.raw);
    Ok(())
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
        let silenced = alert
            .silenced_until
            .map(|until| format!(" (silenced until {})", time(until)));
        lines.push(format!(
            "  {} {} {}: {reason}{}",
            alert.severity.to_uppercase(),
            alert.rule,
            alert.subject,
            silenced.unwrap_or_default()
        ));
        lines.extend(alert.next.as_ref().map(|next| format!("    Next: {next}")));
    }
    let in_trouble = status.queues_in_trouble.len() + status.more_queues_in_trouble;
    lines.push(format!(
        "Queues: {}, {in_trouble} in trouble",
        status.queues
    ));
    lines.extend(status.queues_in_trouble.iter().flat_map(queue));
    if status.more_queues_in_trouble > 0 {
        let more = counted(status.more_queues_in_trouble as u64, "more queue");
        lines.push(format!("  … {more}: patchbay queue list"));
    }
    if status.open_dead_letters > 0 {
        let groups = counted(status.open_dead_letters, "open group");
        lines.push(format!(
            "Dead letters: {groups}. Next: patchbay dead-letter list"
        ));
    }
    if !status.breakers.is_empty() {
        lines.push(format!("Breakers not closed: {}", status.breakers.len()));
        lines.extend(
            status
                .breakers
                .iter()
                .map(|view| format!("  {} {}: {}", view.plugin, view.host, breaker::state(view))),
        );
    }
    lines.push(format!(
        "Plugins: {} active, {} not running as they should",
        status.active_plugins,
        status.plugins.len()
    ));
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

fn alerts(status: &Overview) -> String {
    let pending = match status.pending {
        0 => String::new(),
        pending => format!(", {pending} pending"),
    };
    match status.firing.len() {
        0 => format!("Alerts: none fires{pending}"),
        firing => format!("Alerts: {firing} firing{pending}"),
    }
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
    let name = arguments(&[overview.name.as_str()]);
    let mut lines = vec![format!("  {}: {}", overview.name, facts.join(", "))];
    for reason in &queue.reasons {
        lines.push(format!("    {}", reason.message));
        lines.push(format!("      Next: {}", reason.next));
    }
    if queue.reasons.is_empty() {
        lines.push(format!(
            "      Next: patchbay dead-letter list --queue {name}"
        ));
    }
    lines
}
