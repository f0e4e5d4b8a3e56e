//! The notification by which a process tells the others that an account, a session or a key has
//! changed. What they remember of it is dropped.

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
    VendorKey(String),
    /// Anything.
    All,
}

impl IdentityChange {
    fn parse(payload: &str) -> Self {
        match payload.split_once(':') {
            Some(("u", id)) => Self::User(id.to_owned()),
            Some(("s", id)) => Self::Session(id.to_owned()),
            Some(("v", id)) => Self::VendorKey(id.to_owned()),
            _ => Self::All,
        }
    }
}

/// What a process hears while it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Change(IdentityChange),
    /// Nothing for a while, but the connection answers. The time of Postgres, in milliseconds since
    /// 1970.
    Quiet {
        now_ms: i64,
    },
}

/// Tells that `kind` (`u` user, `s` session, `v` vendor key) `id` has changed, at the commit.
pub(super) async fn notify(
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
    /// Listens for changes of accounts.
    pub fn identity_changes(&self) -> IdentityChanges {
        IdentityChanges {
            pool: self.pool.clone(),
            listener: None,
        }
    }
}

/// A connection that hears changes of accounts.
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

    /// The next change, or that none came within `quiet`. An error when the connection does not
    /// answer within `patience`.
    pub async fn next(
        &mut self,
        quiet: Duration,
        patience: Duration,
    ) -> Result<Heard, StoreError> {
        let Some(listener) = &mut self.listener else {
            return Err(StoreError::no_answer());
        };
        let heard = tokio::time::timeout(quiet, listener.try_recv()).await;
        match heard {
            Ok(Ok(Some(notification))) => {
                Ok(Heard::Change(IdentityChange::parse(notification.payload())))
            }
            Ok(Ok(None)) => Err(StoreError::no_answer()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let ping = sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
                    .fetch_one(&mut *listener);
                match tokio::time::timeout(patience, ping).await {
                    Ok(Ok(now_ms)) => Ok(Heard::Quiet { now_ms }),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(StoreError::no_answer()),
                }
            }
        }
    }
}
