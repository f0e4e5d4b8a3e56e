//! What runs for operators in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::OperatorParts;
use crate::Parts;
use crate::service::{Service, task};

const EVERY: Duration = Duration::from_secs(60);
/// Rounds between two deletions of what ended long ago.
const SWEEP_EVERY: u32 = 60;

/// Notes what was only counted, and forgets what ended long ago. Each host does so: the statements do
/// no harm twice.
pub fn upkeep_service(parts: &Parts) -> Arc<dyn Service> {
    let operators = Arc::clone(&parts.operators);
    task("operators", move |stop| {
        let operators = Arc::clone(&operators);
        async move { operators.keep_up(stop).await }
    })
}

impl OperatorParts {
    async fn keep_up(&self, stop: CancellationToken) {
        let rounds = async {
            let mut round = 0_u32;
            loop {
                tokio::time::sleep(EVERY).await;
                self.refusals.note_left_out().await;
                round = round.wrapping_add(1);
                if round.is_multiple_of(SWEEP_EVERY)
                    && let Err(error) = self.store.sweep_operators().await
                {
                    warn!(%error, "the upkeep of operators failed; trying again in an hour");
                }
            }
        };
        stop.run_until_cancelled(rounds).await;
    }
}
