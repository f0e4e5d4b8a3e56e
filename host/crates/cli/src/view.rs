//! Answers of the host as text: fields of their JSON, and the sentences that several commands make of it.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

pub(super) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

/// As precise as the host says it.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// As many digits as people compare.
pub fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// Key ids, with what is to be known about each.
pub(super) fn signers(signatures: &Value) -> String {
    let signer = |signature: &Value| match signature["standing"].as_str() {
        Some("trusted") => text(signature, "keyId"),
        standing => format!("{} ({})", text(signature, "keyId"), standing.unwrap_or("unchecked").replace('-', " ")),
    };
    let all: Vec<String> = items(signatures).map(signer).collect();
    if all.is_empty() { "nobody".into() } else { all.join(", ") }
}

pub(super) fn describe(activated: &Value) -> String {
    if activated["changed"] == false {
        return format!(
            "active already: {} {} {}{}",
            text(activated, "plugin"),
            text(activated, "version"),
            short(&text(activated, "digest")),
            elsewhere(activated)
        );
    }
    let previous = match activated["previous"].as_str() {
        Some(previous) => format!(
            "it replaces {}; back with: patchbay plugin rollback {}",
            short(previous),
            text(activated, "plugin")
        ),
        None => "none was active before".into(),
    };
    let granted: String =
        items(&activated["newlyGranted"]).filter_map(Value::as_str).map(|ask| format!("granted: {ask}\n")).collect();
    format!(
        "active: {} {} {}\n{granted}{previous}{}",
        text(activated, "plugin"),
        text(activated, "version"),
        short(&text(activated, "digest")),
        elsewhere(activated),
    )
}

/// What other processes have not done yet; nothing to say when all follow.
fn elsewhere(activated: &Value) -> String {
    let hosts: Vec<&Value> = items(&activated["hosts"]).collect();
    let behind: Vec<&&Value> = hosts.iter().filter(|host| host["isCurrent"] != true).collect();
    if behind.is_empty() {
        return String::new();
    }
    let lines: String = behind.iter().map(|host| format!("\n  {}: {}", text(host, "host"), host_state(host))).collect();
    format!(
        "\nincomplete: it runs on {} of {} hosts; look again with: patchbay plugin status {}{lines}",
        hosts.len() - behind.len(),
        hosts.len(),
        text(activated, "plugin"),
    )
}

/// How a plugin fares in one process, in words.
pub(super) fn host_state(host: &Value) -> String {
    let running = host["running"].as_str().map_or_else(|| "nothing".into(), short);
    match (host["silentS"].as_u64(), host["failure"].as_str()) {
        (Some(silent), _) => format!("runs {running} and has been silent for {silent} s: killed, or cut off"),
        (None, Some(failure)) => format!("runs {running}: {failure}"),
        (None, None) if host["isCurrent"] == true => format!("runs {running}"),
        (None, None) => format!("runs {running} still"),
    }
}
