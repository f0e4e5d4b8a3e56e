//! Errors of commands before they call a host: unusable input, and destructive operations without
//! confirmation.

use std::io::{BufRead, IsTerminal, Write};

use patchbay_api::operation::{Effect, Endpoint};

/// Nothing was done; the user must change the input.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(super) String);

/// The target of a command does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotFound(pub(super) String);

/// Returns if `yes` is set or the user confirms on a terminal; otherwise fails. `consequence` is a
/// clause: `this forgets every job of q`.
pub(super) fn confirmed(yes: bool, consequence: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        eprint!("{consequence}. Go on? [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            return Ok(());
        }
        return Err(Refusal("nothing was done".into()).into());
    }
    Err(Refusal(format!(
        "nothing was done: {consequence}; say --yes if that is meant"
    ))
    .into())
}

/// As `confirmed`, for an operation that destroys something of `target`; the table of operations
/// has the clause.
pub(super) fn confirmed_for<E: Endpoint>(yes: bool, target: &str) -> anyhow::Result<()> {
    match E::OPERATION.effect {
        Effect::Destroys(clause) => confirmed(yes, &format!("{clause} in {target}")),
        Effect::Reads | Effect::Changes => Ok(()),
    }
}
