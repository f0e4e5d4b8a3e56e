//! Answers of the host as text, for several commands.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_api::plugins::{Activated, HostView, SignatureView, Standing};
use patchbay_model::job::in_trail;
use patchbay_model::shell;

/// With the precision of the answer.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The first 12 digits.
pub fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// A job that the API names in one text (`queue/id` in the record of actions, `queue:id` beside other
/// jobs), as commands take it.
pub(super) fn job_of_key(key: &str) -> String {
    // No name of a queue has a colon.
    let recorded = in_trail(key).filter(|(queue, _)| !queue.contains(':'));
    match (recorded, key.split_once(':')) {
        (Some((queue, id)), _) => shell::job(&queue, id),
        (None, Some((queue, id))) => shell::job(queue, id),
        (None, None) => key.to_owned(),
    }
}

/// The target of a recorded action, with a job as commands take it.
pub(super) fn target(action: &str, target: &str) -> String {
    match ["job.", "job-scheduler.", "history."]
        .iter()
        .any(|kind| action.starts_with(kind))
    {
        true if target.contains('/') => job_of_key(target),
        _ => target.to_owned(),
    }
}

/// Key ids, with the result of the check unless it is `trusted`.
pub(super) fn signers(signatures: &[SignatureView]) -> String {
    let signer = |signature: &SignatureView| {
        let standing = match signature.standing {
            Standing::Trusted => return signature.key_id.clone(),
            Standing::UnknownKey => "unknown key",
            Standing::Wrong => "wrong",
            Standing::Unchecked => "unchecked",
        };
        format!("{} ({standing})", signature.key_id)
    };
    let all: Vec<String> = signatures.iter().map(signer).collect();
    if all.is_empty() {
        "nobody".into()
    } else {
        all.join(", ")
    }
}

/// What to do about secrets that have no value yet; empty where there are none.
pub(super) fn without_value(plugin: &str, secrets: &[String]) -> String {
    if secrets.is_empty() {
        return String::new();
    }
    let commands = secrets
        .iter()
        .map(|secret| format!("\n  patchbay secret set {plugin} {secret}"));
    let commands: String = commands.collect();
    format!("\nwarning: secrets without a value, so what needs them fails. Set them:{commands}")
}

pub(super) fn describe(activated: &Activated) -> String {
    let Activated {
        plugin, version, ..
    } = activated;
    let (digest, elsewhere) = (short(&activated.digest.to_string()), elsewhere(activated));
    let secrets = without_value(plugin.as_str(), &activated.secrets_without_value);
    if !activated.changed {
        return format!(
            "{plugin} {version} {digest} was active already. Nothing was changed{secrets}{elsewhere}"
        );
    }
    let previous = match activated.previous {
        _ if activated.released => "This has ended its quarantine. It takes calls again".to_owned(),
        _ if activated.was_active => "it was active already".to_owned(),
        Some(previous) => {
            let previous = short(&previous.to_string());
            let version = activated.previous_version.as_ref();
            let version = version.map(|version| format!(" (version {version})"));
            format!(
                "it replaces {previous}{}; back to it: patchbay plugin activate {plugin} {previous}",
                version.unwrap_or_default()
            )
        }
        None => "none was active before".into(),
    };
    let granted: String = activated
        .newly_granted
        .iter()
        .map(|ask| format!("granted: {}\n", ask.as_str()))
        .collect();
    format!("active: {plugin} {version} {digest}\n{granted}{previous}{secrets}{elsewhere}")
}

/// Processes that have not followed yet; empty if all have.
fn elsewhere(activated: &Activated) -> String {
    let behind: Vec<&HostView> = activated
        .hosts
        .iter()
        .filter(|host| !host.is_current)
        .collect();
    if behind.is_empty() {
        return String::new();
    }
    let lines: String = behind
        .iter()
        .map(|host| format!("\n  {}: {}", host.host, host_state(host)))
        .collect();
    let all = activated.hosts.len();
    format!(
        "\nincomplete: it runs on {} of {all} hosts; look again with: patchbay plugin status {}{lines}",
        all - behind.len(),
        activated.plugin,
    )
}

/// State of a plugin in one process, in words.
pub(super) fn host_state(host: &HostView) -> String {
    let running = host
        .running
        .map_or_else(|| "nothing".into(), |digest| short(&digest.to_string()));
    match (host.silent_s, &host.failure) {
        (Some(silent), _) => {
            format!("runs {running} and has been silent for {silent} s: killed, or cut off")
        }
        (None, Some(failure)) => format!("runs {running}: {failure}"),
        (None, None) if host.is_current => format!("runs {running}"),
        (None, None) => format!("runs {running} still"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_one_form_in_texts_whatever_the_api_names_it_by() {
        for (key, told) in [
            ("emailQueue/7", "emailQueue 7"),
            ("emailQueue:7", "emailQueue 7"),
            ("a%2Fb/c", "a/b c"),
            ("emailQueue/repeat:x:1", "emailQueue repeat:x:1"),
            ("emailQueue:a/b", "emailQueue a/b"),
            ("my queue:7", "'my queue' 7"),
            ("7", "7"),
        ] {
            assert_eq!(job_of_key(key), told);
        }
        assert_eq!(target("job.retry", "emailQueue/7"), "emailQueue 7");
        assert_eq!(target("job.add", "emailQueue"), "emailQueue");
        assert_eq!(target("dead-letter.note", "dead-letter/7"), "dead-letter/7");
    }
}
