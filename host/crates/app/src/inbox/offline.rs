//! What keeping requests needs of Postgres, in the snapshot, so that a host that starts while
//! Postgres is away takes them: the key of events, and the key that seals. Both are sealed by the
//! master key.

use chrono::Utc;
use patchbay_store::{EventKeys, SealedKeyRow, SealedSecret};
use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::Zeroizing;

use super::InboxParts;
use super::seal::PURPOSE;
use crate::error::Error;

/// Name of the snapshot.
const COPY: &str = "inbox.json";
/// What the key of events is sealed for.
const EVENTS: &str = "inbox-events";

#[derive(Serialize, Deserialize)]
struct Copied {
    kid: String,
    seals: SealedSecret,
    events: SealedSecret,
}

impl InboxParts {
    /// Reads what requests need of Postgres, so that they need not ask, and once writes it to the
    /// snapshot.
    pub(super) async fn warm_up(&self) -> Result<(), Error> {
        let events = self.event_keys().await?;
        let keys = self.vault.keys();
        if keys.is_empty() {
            return Ok(());
        }
        let keep = || async {
            let (kid, key) = self.seals.current_bytes().await?;
            let seals = keys.seal_host_key(PURPOSE, &kid, &hex::encode(*key));
            let events = Zeroizing::new(hex::encode(events.as_bytes()));
            let events = keys.seal_host_key(EVENTS, EVENTS, &events);
            if let (Some(seals), Some(events)) = (seals, events) {
                let copied = Copied { kid, seals, events };
                let copy = self.copy.clone();
                tokio::task::spawn_blocking(move || copy.save(COPY, &copied))
                    .await
                    .ok();
            }
            Ok::<_, Error>(())
        };
        self.copied.get_or_try_init(keep).await?;
        Ok(())
    }

    /// Takes the keys of the snapshot, for a start while Postgres is away.
    pub(crate) fn resume(&self) {
        let Some(copied) = self.copy.load::<Copied>(COPY) else {
            return;
        };
        let kid = copied.kid.clone();
        let seals = self.opened(PURPOSE, &copied.kid, copied.seals);
        let events = self.opened(EVENTS, EVENTS, copied.events);
        let (Some(seals), Some(events)) = (seals, events) else {
            warn!(
                "the keys of the inbox in the snapshot cannot be opened: requests to webhooks are refused until Postgres is back"
            );
            return;
        };
        self.seals.hold(kid, &seals);
        self.event_keys.set(EventKeys::from_bytes(*events)).ok();
    }

    fn opened(
        &self,
        purpose: &str,
        kid: &str,
        sealed: SealedSecret,
    ) -> Option<Zeroizing<[u8; 32]>> {
        let row = SealedKeyRow {
            purpose: purpose.to_owned(),
            kid: kid.to_owned(),
            sealed,
            signs_from: Utc::now(),
            verifies_until: None,
            created_at: Utc::now(),
        };
        let text = self.vault.keys().open_host_key(&row).ok()?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.as_bytes(), &mut *key).ok()?;
        Some(key)
    }
}
