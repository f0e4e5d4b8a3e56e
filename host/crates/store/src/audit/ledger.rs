//! Entries of the host itself: appended in the transaction of what they tell of.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use patchbay_model::audit::{ActorKind, LOGIN_LOGS, PLUGINS};
use serde_json::Value;
use sqlx::PgConnection;

use super::projection::{LOGINS, Written, project};
use crate::attempts::without_nul;
use crate::{Store, StoreError};

/// `idempotency_key` of every entry of the host, so that an entry key is unique within its trail.
pub(super) const HOST: &str = "host";

/// An entry that the host writes. Hold no password, code or token in it: it cannot be deleted.
#[derive(Debug, Clone)]
pub struct NewHostEntry<'a> {
    /// One of `patchbay_model::audit::HOST_TRAILS`, or another trail that the host writes.
    pub trail: &'a str,
    /// Unique within its trail: of two entries under one key, the first stands.
    pub entry_key: &'a str,
    pub actor_kind: ActorKind,
    pub actor_id: Option<&'a str>,
    pub actor_name: Option<&'a str>,
    /// For example `login`.
    pub action: &'a str,
    /// What it was done to.
    pub entity: Option<&'a str>,
    /// Of the client.
    pub address: Option<IpAddr>,
    pub platform: Option<&'a str>,
    pub correlation_id: Option<&'a str>,
    /// An object.
    pub entry: &'a Value,
}

/// Appends an entry in the transaction of `connection`, and to the table of the old backend that
/// the trail is also written to, if there is one. Returns false when the trail has an entry under
/// this key already.
pub async fn append_host_entry(
    connection: &mut PgConnection,
    entry: &NewHostEntry<'_>,
) -> Result<bool, StoreError> {
    let query = sqlx::query_as(
        "insert into audit_entries (trail, entry_key, idempotency_key, actor_kind, actor_id, actor_name, action, entity, address, \
         platform, correlation_id, entry) values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::inet, $10, $11, $12) \
         on conflict (trail, idempotency_key, entry_key) do nothing returning id, at",
    );
    let added: Option<(i64, DateTime<Utc>)> = query
        .bind(entry.trail)
        .bind(entry.entry_key)
        .bind(HOST)
        .bind(entry.actor_kind.as_str())
        // Clients choose these texts.
        .bind(entry.actor_id.map(without_nul))
        .bind(entry.actor_name.map(without_nul))
        .bind(entry.action)
        .bind(entry.entity.map(without_nul))
        .bind(entry.address.map(|address| address.to_string()))
        .bind(entry.platform)
        .bind(entry.correlation_id.map(without_nul))
        .bind(entry.entry)
        .fetch_optional(&mut *connection)
        .await?;
    let Some((id, at)) = added else {
        return Ok(false);
    };
    if entry.trail == LOGIN_LOGS {
        let written = Written {
            id,
            at,
            actor_id: entry.actor_id,
            actor_name: entry.actor_name,
            action: Some(entry.action),
            entity: entry.entity,
            address: entry.address,
            platform: entry.platform,
            plugin: None,
            job: None,
            correlation_id: entry.correlation_id,
            entry: entry.entry,
        };
        project(connection, &LOGINS, &written).await?;
    }
    Ok(true)
}

impl Store {
    /// Appends an entry in a transaction of its own; see [`append_host_entry`].
    pub async fn append_entry(&self, entry: &NewHostEntry<'_>) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let added = append_host_entry(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(added)
    }
}

/// Appends to the trail `plugins`. Every entry has a key of its own.
pub(crate) async fn plugin_event(
    connection: &mut PgConnection,
    plugin: &str,
    action: &str,
    actor: &str,
    entry: &Value,
) -> Result<(), StoreError> {
    let key = uuid::Uuid::now_v7().to_string();
    let entry = NewHostEntry {
        trail: PLUGINS,
        entry_key: &key,
        actor_kind: ActorKind::of_actor(actor),
        actor_id: Some(actor),
        actor_name: Some(actor),
        action,
        entity: Some(plugin),
        address: None,
        platform: None,
        correlation_id: None,
        entry,
    };
    append_host_entry(connection, &entry).await?;
    Ok(())
}
