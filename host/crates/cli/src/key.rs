//! `patchbay key …`: keys that the host uses itself.

use clap::{Subcommand, ValueEnum};
use patchbay_api::body::NoBody;
use patchbay_api::keys::{HostKey, HostKeySource, HostKeyState, KeysList, KeysReplace, KeysRotate};
use patchbay_api::operation::NoQuery;

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::refusal::Consent;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// List the keys that the host uses itself; the keys are never shown
    List,
    /// Replace a key. The new one signs once every host knows it, and no client notices
    Rotate {
        /// What the key is for
        purpose: Purpose,
        /// For a leak: end the keys before at once. All clients must refresh their access tokens
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

/// Keys that can be replaced.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Purpose {
    /// Access tokens of accounts
    Jwt,
}

impl KeyCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List)
    }
}

pub(crate) async fn run(
    command: KeyCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        KeyCommand::List => list(&client, output).await?,
        KeyCommand::Rotate {
            purpose: Purpose::Jwt,
            now,
            consent,
        } => {
            let client = client.because(&consent.why);
            if now {
                consent.ask("This ends every access token: all clients must refresh theirs")?;
                let done = client.ask::<KeysReplace>((), NoQuery {}, NoBody).await?;
                let text = format!(
                    "Key {} signs access tokens; all keys before have ended",
                    done.data.kid
                );
                output.done(&text, &done.raw);
            } else {
                let done = client.ask::<KeysRotate>((), NoQuery {}, NoBody).await?;
                let text = format!(
                    "Made key {}. It signs once every host knows it, usually within a second. See: patchbay key list",
                    done.data.kid
                );
                output.done(&text, &done.raw);
            }
        }
    }
    Ok(())
}

async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let listed = client.ask::<KeysList>((), NoQuery {}, NoBody).await?;
    let rows = listed.data.iter().map(|key| {
        vec![
            key.kid.clone(),
            key.purpose.clone(),
            state(key, output),
            key.created_at
                .map_or_else(|| source(key).to_owned(), |at| output.when(at)),
        ]
    });
    let head = ["KEY", "PURPOSE", "STATE", "CREATED"];
    output.table(&head, rows.collect(), &listed.raw);
    for key in &listed.data {
        if !key.missing_on.is_empty() {
            output.note(&format!(
                "Key {} waits for hosts that do not know it yet: {}",
                key.kid,
                key.missing_on.join(", ")
            ));
        }
        if let Some(problem) = &key.problem {
            output.note(&format!(
                "The answering host cannot open key {}: {problem}",
                key.kid
            ));
        }
    }
    Ok(())
}

fn source(key: &HostKey) -> &'static str {
    match key.source {
        HostKeySource::Vault => "unknown",
        HostKeySource::Configuration => "in the configuration",
    }
}

fn state(key: &HostKey, output: Output) -> String {
    match (key.state, key.verifies_until) {
        (HostKeyState::Waits, _) => "waits".to_owned(),
        (HostKeyState::Signs, _) => "signs".to_owned(),
        (HostKeyState::Verifies, None) => "verifies".to_owned(),
        (HostKeyState::Verifies, Some(until)) => format!("verifies; ends {}", output.when(until)),
    }
}
