//! Errors of commands before they call a host: unusable input, and operations that need a
//! confirmation and have none.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

/// Nothing was done; the user must change the input.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(super) String);

/// The target of a command does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(pub String);

/// The user did not confirm.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotConfirmed(String);

/// Options of a command that changes something.
#[derive(Debug, Default, Clone, Args)]
pub struct Why {
    /// Why, for the record of who did what (`patchbay activity`); no personal data
    #[arg(long, value_name = "TEXT", value_parser = short_reason, allow_hyphen_values = true)]
    pub(super) reason: Option<String>,
}

/// The host has the same limit, but a longer URL may not reach it.
fn short_reason(text: &str) -> Result<String, String> {
    const MAX: usize = 500;
    match text.chars().count() {
        0..=MAX => Ok(text.to_owned()),
        length => Err(format!(
            "must have at most {MAX} characters; it has {length}"
        )),
    }
}

/// Options of a command that asks before it acts.
#[derive(Debug, Default, Clone, Args)]
pub struct Consent {
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) why: Why,
}

impl Consent {
    /// Whether the user has to be asked. Then a command first looks whether its target exists: nobody
    /// should confirm what cannot be done.
    pub(super) fn is_missing(&self) -> bool {
        !self.yes
    }

    /// Returns if `--yes` was given or the user confirms on a terminal; otherwise fails.
    /// `consequence` is a sentence without its full stop: `This removes 63 failed jobs of q`.
    pub(super) fn ask(&self, consequence: &str) -> anyhow::Result<()> {
        confirmed(self.yes, consequence)
    }
}

/// As [`Consent::ask`].
pub(super) fn confirmed(yes: bool, consequence: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        eprint!("{}. Continue? [y/N] ", super::plain(consequence));
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            return Ok(());
        }
        return Err(NotConfirmed("Nothing was done".into()).into());
    }
    Err(NotConfirmed(format!(
        "Nothing was done. {consequence}. If you mean it, add --yes"
    ))
    .into())
}
