//! `patchbay secret …`. Values come from a prompt, standard input or a file, never from an
//! argument, because other users of the machine can see arguments.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use patchbay_api::body::{NoBody, SecretJson};
use patchbay_api::operation::NoQuery;
use patchbay_api::plugins::PluginPath;
use patchbay_api::secrets::{
    NewValue, Rotation, Secret, SecretPath, SecretText, SecretVersion, SecretsList, SecretsRekey,
    SecretsRemove, SecretsRotate, SecretsSet,
};
use patchbay_model::words::counted;
use serde_json::json;
use zeroize::Zeroizing;

use super::client::{Client, ClientArgs};
use super::input::duration;
use super::names;
use super::output::Output;
use super::refusal::{Consent, Refusal, Why};

#[derive(Subcommand)]
pub enum SecretCommand {
    /// List the secrets of a plugin: who set them, when, and their last use; values are never shown
    List {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
    },
    /// Set a secret; earlier versions expire at once
    Set {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Name of the secret, as in the manifest
        name: String,
        #[command(flatten)]
        value: ValueSource,
        #[command(flatten)]
        why: Why,
    },
    /// Rotate a secret: set a new value, and keep the present one valid for a while
    Rotate {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Name of the secret
        name: String,
        /// How long the present version stays valid, for example 24h, 30m or 7d
        #[arg(long, value_parser = duration)]
        overlap: Duration,
        #[command(flatten)]
        value: ValueSource,
        #[command(flatten)]
        why: Why,
    },
    /// Remove a secret with all its versions
    Remove {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Name of the secret
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Reseal every secret with the newest master key; needed once after that key has changed, and
    /// may be repeated
    Rekey {
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Args)]
pub struct ValueSource {
    /// File with the value [default: standard input, or a prompt on a terminal]
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

impl ValueSource {
    /// Removes the line break at the end, which editors and `echo` add.
    pub fn read(&self, name: &str) -> anyhow::Result<Zeroizing<String>> {
        let mut value = match &self.from_file {
            Some(file) => read_file(file)?,
            None if std::io::stdin().is_terminal() => {
                hidden_line(&format!("value of {name} (not shown): "))?
            }
            None => {
                Zeroizing::new(std::io::read_to_string(std::io::stdin()).context("standard input")?)
            }
        };
        if value.ends_with('\n') {
            value.pop();
            if value.ends_with('\r') {
                value.pop();
            }
        }
        if value.is_empty() {
            return Err(Refusal("The value is empty".into()).into());
        }
        Ok(value)
    }
}

fn read_file(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    std::fs::read_to_string(file)
        .map(Zeroizing::new)
        .with_context(|| format!("cannot read {}", file.display()))
}

/// Asks on the terminal without echo. The answer has its line break.
pub(super) fn hidden_line(question: &str) -> anyhow::Result<Zeroizing<String>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    eprint!("{question}");
    std::io::stderr().flush()?;
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).context("the terminal")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&stdin, OptionalActions::Flush, &silent).context("the terminal")?;
    let mut line = Zeroizing::new(String::new());
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Now, &before).context("the terminal")?;
    read.context("the terminal")?;
    Ok(line)
}

impl SecretCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List { .. })
    }

    fn why(&self) -> Why {
        match self {
            Self::Remove { consent, .. } => consent.why.clone(),
            Self::Set { why, .. } | Self::Rotate { why, .. } | Self::Rekey { why } => why.clone(),
            Self::List { .. } => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: SecretCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    let path = |plugin: &str, name: &str| SecretPath {
        name: plugin.to_owned(),
        secret: name.to_owned(),
    };
    match command {
        SecretCommand::List { plugin } => {
            let secrets = client
                .ask::<SecretsList>(PluginPath { name: plugin }, none, NoBody)
                .await?;
            let rows = secrets.data.iter().flat_map(rows).collect();
            output.table_or(
                "The plugin asks for no secrets, and the vault holds none for it",
                &[
                    "SECRET", "FROM", "VERSION", "SET", "BY", "LAST USE", "STATE",
                ],
                rows,
                &secrets.raw,
            );
        }
        SecretCommand::Set {
            plugin,
            name,
            value,
            ..
        } => {
            let value = SecretJson(NewValue {
                value: SecretText(value.read(&name)?),
            });
            let secret = client
                .ask::<SecretsSet>(path(&plugin, &name), none, value)
                .await?;
            output.done(
                &format!("Set: secret {name} of {plugin}{}", unasked(&secret.data)),
                &secret.raw,
            );
        }
        SecretCommand::Rotate {
            plugin,
            name,
            overlap,
            value,
            ..
        } => {
            let value = SecretText(value.read(&name)?);
            let rotation = SecretJson(Rotation {
                value,
                overlap_ms: u64::try_from(overlap.as_millis())?,
            });
            let secret = client
                .ask::<SecretsRotate>(path(&plugin, &name), none, rotation)
                .await?;
            let end = secret
                .data
                .versions
                .get(1)
                .and_then(|version| version.ends_at)
                .map_or_else(String::new, short_time);
            let message = format!(
                "Rotated: secret {name} of {plugin}. The previous value is valid until {end}"
            );
            output.done(&format!("{message}{}", unasked(&secret.data)), &secret.raw);
        }
        SecretCommand::Remove {
            plugin,
            name,
            consent,
        } => {
            if consent.is_missing() {
                let path = PluginPath {
                    name: plugin.clone(),
                };
                let secrets = client.ask::<SecretsList>(path, none, NoBody).await?;
                let is_kept = |secret: &Secret| secret.name == name && !secret.versions.is_empty();
                // Of what the vault does not hold, the host says so, and which is meant.
                if secrets.data.iter().any(is_kept) {
                    consent.ask(&format!(
                        "This removes secret {name} of {plugin} with all its versions, which cannot be undone"
                    ))?;
                }
            }
            client
                .ask::<SecretsRemove>(path(&plugin, &name), none, NoBody)
                .await?;
            output.done(
                &format!("Removed: secret {name} of {plugin}"),
                &json!({ "plugin": plugin, "name": name }),
            );
        }
        SecretCommand::Rekey { .. } => {
            let done = client.ask::<SecretsRekey>((), none, NoBody).await?;
            output.done(
                &match (
                    done.data.resealed,
                    done.data.history_keys,
                    done.data.host_keys,
                ) {
                    (0, 0, 0) => format!(
                        "Nothing to reseal: everything that opens is sealed with key {}",
                        done.data.key_id
                    ),
                    (values, history, host) => format!(
                        "Resealed with key {}: {}, {}",
                        done.data.key_id,
                        counted(values, "value"),
                        counted(history + host, "key")
                    ),
                },
                &done.raw,
            );
            if !done.data.unreadable.is_empty() {
                bail!(
                    "No configured key opens: {}. Configure the key that sealed them as secrets.old_key_file and repeat this command, or set them again",
                    done.data.unreadable.join("; ")
                );
            }
        }
    }
    Ok(())
}

fn unasked(secret: &Secret) -> &'static str {
    if secret.asked {
        ""
    } else {
        ". The manifest of the plugin does not ask for it"
    }
}

/// One row per version; a single row for a secret without versions in the vault.
fn rows(secret: &Secret) -> Vec<Vec<String>> {
    let (name, source) = (secret.name.clone(), secret.source.clone());
    if secret.versions.is_empty() {
        let state = if source == "none" { "HAS NO VALUE" } else { "" };
        return vec![vec![
            name,
            source,
            "-".into(),
            "-".into(),
            "-".into(),
            "-".into(),
            state.into(),
        ]];
    }
    let row = |version: &SecretVersion| {
        vec![
            name.clone(),
            source.clone(),
            version.version.to_string(),
            short_time(version.set_at),
            version.set_by.clone(),
            version
                .last_used_at
                .map_or_else(|| "never".into(), short_time),
            state(secret, version),
        ]
    };
    secret.versions.iter().map(row).collect()
}

fn state(secret: &Secret, version: &SecretVersion) -> String {
    match (&version.unreadable, version.ends_at) {
        (Some(reason), _) => format!("UNREADABLE: {reason}"),
        (None, Some(end)) => format!("ends {}", short_time(end)),
        (None, None) if !secret.asked => "current; the manifest does not ask for it".into(),
        (None, None) => "current".into(),
    }
}

/// To the second; more precision is not needed here.
fn short_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}
