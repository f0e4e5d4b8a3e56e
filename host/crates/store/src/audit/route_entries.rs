//! Entries about requests to routes of plugins, copied from Redis.

use patchbay_model::audit::ROUTES;
use serde_json::Value;

use super::ledger::HOST;
use crate::attempts::without_nul;
use crate::{Leadership, StoreError};

/// What the trail is told of a request. Hold nothing personal in it: it cannot be deleted.
#[derive(Debug, Clone)]
pub struct NewRouteEntry {
    /// Unique: of two entries under one key, the first stands.
    pub key: String,
    /// `user`, `vendor` or `anonymous`.
    pub actor_kind: String,
    pub actor_id: Option<String>,
    /// For example `route.call-lead`.
    pub action: String,
    /// What it was done to.
    pub target: Option<String>,
    /// Of the client; only what is an address.
    pub address: Option<String>,
    pub platform: Option<String>,
    pub correlation_id: Option<String>,
    pub plugin: String,
    pub revision: String,
    /// An object.
    pub entry: Value,
}

impl Leadership<'_> {
    /// Appends those entries that the trail does not have yet.
    pub async fn append_route_entries(
        &mut self,
        entries: &[NewRouteEntry],
    ) -> Result<(), StoreError> {
        let texts = |of: &dyn Fn(&NewRouteEntry) -> Option<&str>| -> Vec<Option<String>> {
            // Clients choose some of these texts.
            let text = |entry| of(entry).map(|text| without_nul(text).into_owned());
            entries.iter().map(text).collect()
        };
        sqlx::query(
            "insert into audit_entries (trail, idempotency_key, entry_key, actor_kind, actor_id, action, entity, address, platform, \
             correlation_id, plugin, revision, entry) \
             select $1, $2, key, kind, actor, action, entity, address::inet, platform, correlation, plugin, revision, entry::jsonb \
             from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], \
             $12::text[], $13::text[]) as new (key, kind, actor, action, entity, address, platform, correlation, plugin, revision, entry) \
             on conflict (trail, idempotency_key, entry_key) do nothing",
        )
        .bind(ROUTES)
        .bind(HOST)
        .bind(texts(&|entry| Some(&entry.key)))
        .bind(texts(&|entry| Some(&entry.actor_kind)))
        .bind(texts(&|entry| entry.actor_id.as_deref()))
        .bind(texts(&|entry| Some(&entry.action)))
        .bind(texts(&|entry| entry.target.as_deref()))
        .bind(texts(&|entry| entry.address.as_deref()))
        .bind(texts(&|entry| entry.platform.as_deref()))
        .bind(texts(&|entry| entry.correlation_id.as_deref()))
        .bind(texts(&|entry| Some(&entry.plugin)))
        .bind(texts(&|entry| Some(&entry.revision)))
        .bind(
            entries
                .iter()
                .map(|entry| entry.entry.to_string())
                .collect::<Vec<String>>(),
        )
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }
}
