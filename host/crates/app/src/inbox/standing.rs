//! How many requests are kept, by webhook and state. Those that something is left to do for are few,
//! and counted each time. Of the others there may be millions: their number is up to a minute old.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use patchbay_model::webhook::InboxState;
use patchbay_store::{InboxStanding, StoreError};
use tokio::sync::Mutex;

use super::InboxParts;

/// How old a count may be.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// A count that was made so fast is made each time.
const FAST: Duration = Duration::from_millis(20);

/// By plugin, webhook and state.
type Settled = HashMap<(String, String, InboxState), i64>;

/// What was counted last.
#[derive(Default)]
pub(super) struct Standing(Mutex<Option<Counted>>);

struct Counted {
    at: Instant,
    took: Duration,
    settled: Settled,
}

/// Requests of a webhook in one state.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub standing: InboxStanding,
    pub rows: i64,
}

impl InboxParts {
    /// How requests stand, by webhook and state.
    pub(crate) async fn standing(&self) -> Result<Vec<Kept>, StoreError> {
        let standing = self.store.inbox_standing().await?;
        let is_known = standing.iter().all(|of| of.rows.is_some());
        let settled = match is_known {
            true => Settled::new(),
            false => self.settled().await?,
        };
        let kept = |standing: InboxStanding| {
            let key = (
                standing.plugin.clone(),
                standing.webhook.clone(),
                standing.state,
            );
            // One that has come since then is at least one.
            let known = settled.get(&key).copied().unwrap_or(1);
            Kept {
                rows: standing.rows.unwrap_or(known),
                standing,
            }
        };
        Ok(standing.into_iter().map(kept).collect())
    }

    /// Of several that ask at once, one counts.
    async fn settled(&self) -> Result<Settled, StoreError> {
        let mut known = self.standing.0.lock().await;
        if let Some(counted) = &*known
            && counted.took > FAST
            && counted.at.elapsed() < KNOWN_FOR
        {
            return Ok(counted.settled.clone());
        }
        let began = Instant::now();
        let rows = self.store.inbox_settled().await?;
        let rows = rows
            .into_iter()
            .map(|(plugin, webhook, state, count)| ((plugin, webhook, state), count));
        let settled: Settled = rows.collect();
        *known = Some(Counted {
            at: Instant::now(),
            took: began.elapsed(),
            settled: settled.clone(),
        });
        Ok(settled)
    }
}
