//! Checks of the master keys, and of what they seal.

use patchbay_app::vault::{KeySource, Keys, readable_by_others};
use patchbay_model::words::counted;
use patchbay_store::{SecretRow, Store};

use super::{Findings, Level};
use crate::config::Config;

const SECRETS: &str = "secrets";

/// Returns the keys, when they can be read.
pub(super) fn check_master_key(config: &Config, findings: &mut Findings) -> Option<Keys> {
    for source in config.secrets.master_keys().into_iter().flatten() {
        if let KeySource::File { key, path } = source
            && readable_by_others(&path)
        {
            let message = format!(
                "{key} ({}) can be read by others than its owner",
                path.display()
            );
            findings.bad(
                SECRETS,
                Level::Warning,
                message,
                format!("chmod 600 {}", path.display()),
            );
        }
    }
    match Keys::load(config.secrets.master_keys()) {
        Ok(keys) => {
            match keys.id() {
                Some(id) => findings.ok(SECRETS, format!("sealed with key {id}")),
                None => findings.ok(
                    SECRETS,
                    "no master key: they come from the environment only",
                ),
            }
            Some(keys)
        }
        Err(error) => {
            let mend = "docs/operations/secrets.md says how to make a key, and how to change it";
            findings.bad(SECRETS, Level::Error, error.0.join("; "), mend);
            None
        }
    }
}

/// Returns the rows of the vault.
pub(super) async fn check_secrets(
    keys: Option<&Keys>,
    store: &Store,
    findings: &mut Findings,
) -> Vec<SecretRow> {
    // Before the first migration there is nothing to check; that was reported above.
    let Ok(rows) = store.secrets(None).await else {
        return Vec::new();
    };
    let Some(keys) = keys else { return rows };
    if keys.is_empty() {
        if !rows.is_empty() {
            let message = format!(
                "the vault holds {}, but no master key is configured: no value can be used",
                counted(rows.len(), "value")
            );
            findings.bad(
                SECRETS,
                Level::Error,
                message,
                "set secrets.key_file to the key that sealed them",
            );
        }
        return rows;
    }
    let unreadable: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let reason = keys.check(row).err()?;
            Some(format!(
                "{} {}, version {}: {reason} ({})",
                row.plugin, row.name, row.version, row.sealed.key_id
            ))
        })
        .collect();
    let outdated = rows
        .iter()
        .filter(|row| Some(row.sealed.key_id.as_str()) != keys.id())
        .count();
    if !unreadable.is_empty() {
        let mend = "configure that key as secrets.old_key_file, or set these secrets again";
        findings.bad(
            SECRETS,
            Level::Error,
            format!("cannot be opened: {}", unreadable.join("; ")),
            mend,
        );
    } else if outdated > 0 {
        let message = format!(
            "{outdated} of {} are sealed with the old master key",
            counted(rows.len(), "value")
        );
        findings.bad(
            SECRETS,
            Level::Warning,
            message,
            "run patchbay secret rekey; then remove the old key from the configuration",
        );
    } else {
        findings.ok(
            SECRETS,
            format!(
                "the vault holds {}, and all can be opened",
                counted(rows.len(), "value")
            ),
        );
    }
    check_history_keys(keys, store, findings).await;
    rows
}

/// Checks the keys that seal data and results of jobs.
async fn check_history_keys(keys: &Keys, store: &Store, findings: &mut Findings) {
    const CHECK: &str = "history";
    let rows = store.history_keys().await.unwrap_or_default();
    let closed = rows
        .iter()
        .filter(|row| keys.open_history_key(row).is_err())
        .count();
    let outdated = rows
        .iter()
        .filter(|row| Some(row.sealed.key_id.as_str()) != keys.id())
        .count();
    if closed > 0 {
        let message = format!(
            "{closed} of {} keys of the history cannot be opened: the data and results that they seal cannot be opened either",
            rows.len()
        );
        findings.bad(
            CHECK,
            Level::Warning,
            message,
            "set secrets.old_key_file to the previous master key, then run patchbay secret rekey",
        );
    } else if outdated > 0 {
        let message = "the key of the history's data and results is sealed with the old master key";
        findings.bad(
            CHECK,
            Level::Warning,
            message,
            "run patchbay secret rekey; then remove the old key from the configuration",
        );
    }
}
