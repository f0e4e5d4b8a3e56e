//! Stores how often plugins use what they are granted.

use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::GrantUses;
use patchbay_store::Store;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Parts;
use crate::service::{Service, task};

/// How late a use appears in `patchbay plugin grants`, and how much is lost when a process is
/// killed.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Stores uses every few seconds, and once more at the end.
pub fn grant_uses(parts: &Parts) -> Arc<dyn Service> {
    let (uses, store) = (Arc::clone(&parts.grant_uses), parts.store.clone());
    task("grant-uses", move |stop| {
        count_uses(Arc::clone(&uses), store.clone(), stop)
    })
}

async fn count_uses(uses: Arc<GrantUses>, store: Store, stop: CancellationToken) {
    loop {
        let stopped = tokio::time::timeout(COUNT_EVERY, stop.cancelled())
            .await
            .is_ok();
        let taken = uses.take();
        if !taken.is_empty()
            && let Err(error) = store.count_uses(&taken).await
        {
            warn!(%error, "uses of grants are counted later");
            uses.put_back(taken);
        }
        if stopped {
            return;
        }
    }
}
