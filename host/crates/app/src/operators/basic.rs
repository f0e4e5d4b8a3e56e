//! What the login of the configuration still opens.
//!
//! It must work while Postgres is away, so the last mode that was read goes on. Where none was ever
//! read, it is on: what somebody then changes is refused all the same, because it cannot be
//! recorded.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use patchbay_api::operators::{self as api, OperatorBasicSet};
use patchbay_store::{BasicMode, BasicSet, Store};
use serde_json::json;

use super::Operators;
use crate::actions::Caller;
use crate::error::Error;
use crate::people::within;

/// The first request that comes before anything was read waits no longer.
const FIRST_READ: Duration = Duration::from_millis(500);

pub(super) struct Basic {
    store: Store,
    known: Arc<Mutex<Option<BasicMode>>>,
}

impl Basic {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            known: Arc::default(),
        }
    }

    async fn mode(&self) -> BasicMode {
        if let Some(known) = *self.known.lock() {
            return known;
        }
        let read = tokio::time::timeout(FIRST_READ, self.store.basic_mode()).await;
        let mode = match read {
            Ok(Ok(mode)) => mode,
            Ok(Err(_)) | Err(_) => BasicMode::On,
        };
        *self.known.lock().get_or_insert(mode)
    }

    /// Reads the mode again, in the background.
    pub(super) fn reread(&self) {
        let (store, known) = (self.store.clone(), Arc::clone(&self.known));
        tokio::spawn(async move {
            match store.basic_mode().await {
                Ok(mode) => *known.lock() = Some(mode),
                Err(error) => {
                    tracing::warn!(%error, "what admin.username opens could not be read again");
                }
            }
        });
    }
}

impl Operators {
    /// What the login of the configuration opens now.
    pub async fn basic_mode(&self) -> BasicMode {
        self.0.basic.mode().await
    }

    pub async fn show_basic(&self) -> Result<api::BasicLogin, Error> {
        let parts = &*self.0;
        let mode = within(parts.store.basic_mode()).await?;
        let (owners, seen) = within(parts.store.count_owners()).await?;
        Ok(basic(mode, owners, seen))
    }

    /// Sets what the login of the configuration opens. It opens less only when an owner has signed
    /// in, or nobody could undo it.
    pub async fn set_basic(
        &self,
        who: &Caller,
        body: api::BasicChange,
    ) -> Result<api::BasicLogin, Error> {
        let parts = &*self.0;
        let Some(mode) = BasicMode::parse(&body.mode) else {
            return Err(Error::invalid("mode: must be on, board or off"));
        };
        let act = async {
            let set = parts
                .store
                .set_basic_mode(mode, &who.actor, parts.config.require_totp);
            let set = within(set).await?;
            if set == BasicSet::Refused {
                return Err(Error::conflict(
                    "No owner with a second factor has signed in yet, so nobody could undo this. Make one first: patchbay operator create NAME \
                     --role owner; then, as that owner: patchbay login",
                ));
            }
            *parts.basic.known.lock() = Some(mode);
            let (owners, seen) = within(parts.store.count_owners()).await?;
            Ok(api::BasicLogin {
                already: set == BasicSet::Same,
                ..basic(mode, owners, seen)
            })
        };
        let details = json!({ "mode": mode.as_str() });
        parts
            .actions
            .record::<OperatorBasicSet, _>(who, "basic", details, act)
            .await
    }
}

fn basic(mode: BasicMode, owners: i64, seen: i64) -> api::BasicLogin {
    let count = |count: i64| u32::try_from(count).unwrap_or_default();
    api::BasicLogin {
        mode: mode.as_str().to_owned(),
        owners: count(owners),
        owners_signed_in: count(seen),
        already: false,
    }
}
