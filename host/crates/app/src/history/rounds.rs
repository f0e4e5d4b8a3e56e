//! A duty of the fleet, a round at a time.

use std::time::Duration;

use async_trait::async_trait;
use patchbay_store::{Lead, Singleton};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// A duty.
#[async_trait]
pub(super) trait Rounds: Send {
    /// One round of it.
    async fn round(&mut self, lead: &mut Lead<'_>) -> anyhow::Result<()>;
}

/// Does rounds wherever this process is the one that has the duty, until cancelled. One that fails is told once, as `failing`, and tried again
/// with the next.
pub(super) async fn run(
    mut claim: Singleton,
    every: Duration,
    failing: &str,
    stop: CancellationToken,
    mut duty: impl Rounds,
) {
    let mut is_failing = false;
    loop {
        let leading = async {
            match claim.try_lead().await? {
                Some(mut lead) => duty.round(&mut lead).await,
                None => Ok(()),
            }
        };
        // A statement that is cut short is undone.
        let done = tokio::select! {
            () = stop.cancelled() => break,
            done = leading => done,
        };
        match done {
            Ok(()) => is_failing = false,
            Err(error) if !is_failing => {
                is_failing = true;
                error!(error = format!("{error:#}"), "{failing}; trying again");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(every) => {}
        }
    }
    claim.resign().await;
}
