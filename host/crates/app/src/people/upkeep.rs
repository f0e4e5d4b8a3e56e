//! What runs for accounts in the background.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{PeopleParts, address};
use crate::Parts;
use crate::error::Error;
use crate::service::{Service, task};

const EVERY: Duration = Duration::from_secs(60);
/// Accounts per step of noting the spelling of their addresses.
const STEP: i64 = 500;

/// Adds the mails about accounts to their queue. `None` on a host without accounts.
pub fn mail_service(parts: &Parts) -> Option<Arc<dyn Service>> {
    let people = parts.people.clone()?;
    Some(task("account-mails", move |stop| {
        let people = Arc::clone(&people);
        async move { people.relay_mails(stop).await }
    }))
}

/// Forgets what has ended, and notes the addresses of accounts that other programs have made. Each
/// host does so: the statements do no harm twice.
pub fn upkeep_service(parts: &Parts) -> Option<Arc<dyn Service>> {
    let people = parts.people.clone()?;
    Some(task("accounts", move |stop| {
        let people = Arc::clone(&people);
        async move { people.keep_up(stop).await }
    }))
}

impl PeopleParts {
    async fn keep_up(&self, stop: CancellationToken) {
        let rounds = async {
            loop {
                if let Err(error) = self.round().await {
                    warn!(
                        error = error.message,
                        "the upkeep of accounts failed; trying again"
                    );
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        stop.run_until_cancelled(rounds).await;
    }

    async fn round(&self) -> Result<(), Error> {
        let table = self.table().await?;
        self.store.sweep_people().await?;
        let left = self.store.bcrypt_left(table).await?;
        self.passwords.set_has_bcrypt(left > 0);
        self.bcrypt_left.store(left, Ordering::Relaxed);
        loop {
            let accounts = self.store.accounts_without_norm(table, STEP).await?;
            let is_last = accounts.len() < usize::try_from(STEP).unwrap_or_default();
            let norms: Vec<(String, Option<String>)> = accounts
                .into_iter()
                .map(|(id, email)| (id, address::norm(&email)))
                .collect();
            self.store.note_norms(&norms).await?;
            if is_last {
                return Ok(());
            }
        }
    }
}
