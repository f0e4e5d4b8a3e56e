//! The notification by which a process tells the others that an account, an operator or a session
//! has changed. What they remember of it is dropped.

use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool};

use crate::{Store, StoreError};

const CHANNEL: &str = "patchbay_identity";

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityChange {
    User(String),
    Session(String),
    /// Of an operator, with the sessions and tokens.
    Operator(String),
    /// By its prefix.
    VendorKey(String),
    /// Keys of the host for this purpose.
    HostKeys(String),
    /// Anything.
    All,
}

impl IdentityChange {
    fn parse(payload: &str) -> Self {
        match payload.split_once(':') {
            Some(("u", id)) => Self::User(id.to_owned()),
            Some(("s", id)) => Self::Session(id.to_owned()),
            Some(("o", id)) => Self::Operator(id.to_owned()),
            Some(("v", prefix)) => Self::VendorKey(prefix.to_owned()),
            Some(("k", purpose)) => Self::HostKeys(purpose.to_owned()),
            _ => Self::All,
        }
    }
}

/// Tells that `kind` (`u` user, `s` session of one, `o` operator, `v` key of a vendor, `k`
/// keys of the host, `*` anything) `id` has changed, at the commit.
pub(crate) async fn notify(
    connection: &mut PgConnection,
    kind: char,
    id: &str,
) -> Result<(), StoreError> {
    sqlx::query("select pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(format!("{kind}:{id}"))
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Listens for changes of accounts and operators.
    pub fn identity_changes(&self) -> IdentityChanges {
        IdentityChanges {
            pool: PgPool::clone(&self.pool),
            listener: None,
        }
    }
}

/// A connection that hears changes of accounts and operators.
pub struct IdentityChanges {
    pool: PgPool,
    listener: Option<PgListener>,
}

impl IdentityChanges {
    /// Connects. What has changed before that is not heard.
    pub async fn listen(&mut self) -> Result<(), StoreError> {
        self.listener = None;
        let mut listener = PgListener::connect_with(&self.pool).await?;
        // A lost connection is an error, and not repaired silently: what was remembered meanwhile
        // must be dropped.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        self.listener = Some(listener);
        Ok(())
    }

    /// The next change; `None` when none came within `quiet` and the connection answers. An error
    /// when it does not answer within `patience`.
    pub async fn next(
        &mut self,
        quiet: Duration,
        patience: Duration,
    ) -> Result<Option<IdentityChange>, StoreError> {
        let Some(listener) = &mut self.listener else {
            return Err(StoreError::no_answer());
        };
        let heard = tokio::time::timeout(quiet, listener.try_recv()).await;
        match heard {
            Ok(Ok(Some(notification))) => Ok(Some(IdentityChange::parse(notification.payload()))),
            Ok(Ok(None)) => Err(StoreError::no_answer()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let ping = sqlx::query("select 1").execute(&mut *listener);
                match tokio::time::timeout(patience, ping).await {
                    Ok(Ok(_)) => Ok(None),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(StoreError::no_answer()),
                }
            }
        }
    }
}
