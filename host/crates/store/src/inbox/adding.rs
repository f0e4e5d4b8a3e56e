//! Adding requests, in batches: of several with one event, in whatever processes, one is added.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::webhook::InboxState;
use patchbay_model::{DataPath, PluginName};
use sha2::Sha256;
use sqlx::Row;
use sqlx::types::Uuid;

use crate::{Store, StoreError};

/// The type of `inbox_events.event_key`.
pub type EventKey = [u8; 16];

/// Makes keys of events: hashes with a key of the installation.
#[derive(Clone)]
pub struct EventKeys([u8; 32]);

impl EventKeys {
    /// `key` is the installation's key.
    fn derived_from(key: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(b"events of the inbox");
        Self(mac.finalize().into_bytes().into())
    }

    /// To be sealed.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// What requests with this value are found by: of a body in JSON or a form, or of the query. In the same
    /// way for all webhooks.
    pub fn term(&self, path: &DataPath, value: &str) -> EventKey {
        self.of(&[b"term", path.as_str().as_bytes(), value.as_bytes()])
    }

    /// The same parts give the same key in every process.
    pub fn of(&self, parts: &[&[u8]]) -> EventKey {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // The length comes first, so that two different lists never give the same bytes.
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        key
    }
}

/// A request, as it is to be kept.
#[derive(Debug, Clone)]
pub struct NewInboxRow {
    pub id: Uuid,
    pub received_at: DateTime<Utc>,
    pub plugin: PluginName,
    pub webhook: String,
    pub state: InboxState,
    pub code: Option<String>,
    pub message: Option<String>,
    pub kind: String,
    /// Of an accepted one.
    pub event_key: Option<EventKey>,
    /// What it is found by.
    pub terms: Vec<EventKey>,
    pub revision: Option<String>,
    pub next_try_at: Option<DateTime<Utc>>,
    pub method: String,
    pub content_type: Option<String>,
    pub size: i32,
    pub source: Option<String>,
    pub host: String,
    pub correlation_id: String,
    /// It waited in Redis.
    pub is_from_redis: bool,
    pub jobs: i32,
    pub sealed: Vec<u8>,
    pub jobs_sealed: Option<Vec<u8>>,
    pub sealed_key: String,
    pub keep_until: DateTime<Utc>,
    pub remember_until: DateTime<Utc>,
}

impl NewInboxRow {
    /// The text form of an array.
    fn terms(&self) -> Option<String> {
        let terms: Vec<String> = self
            .terms
            .iter()
            .map(|term| format!("\"\\\\x{}\"", hex::encode(term)))
            .collect();
        (!terms.is_empty()).then(|| format!("{{{}}}", terms.join(",")))
    }
}

/// What became of a row that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is there, from now on or from an earlier try.
    New,
    /// The request with this id has brought its event before.
    Repeat(Uuid),
}

impl Store {
    /// The keys of events of this installation. To be asked for again after a failure.
    pub async fn event_keys(&self) -> Result<EventKeys, StoreError> {
        let key: Vec<u8> = sqlx::query_scalar("select key from installation")
            .fetch_one(&self.pool)
            .await?;
        Ok(EventKeys::derived_from(&key))
    }

    /// Adds requests, all in one transaction. Adding the same again changes nothing. It waits for
    /// other transactions that add the same events, and is durable when it returns.
    pub async fn add_to_inbox(&self, rows: &[NewInboxRow]) -> Result<Vec<Added>, StoreError> {
        let mut tx = self.pool.begin().await?;
        // A server may be told not to wait for its log; here, what is answered counts.
        sqlx::query(
            "select set_config('synchronous_commit', 'on', true) \
             where current_setting('synchronous_commit') in ('off', 'local')",
        )
        .execute(&mut *tx)
        .await?;
        let mut events: Vec<(EventKey, &NewInboxRow)> = rows
            .iter()
            .filter_map(|row| Some((row.event_key?, row)))
            .collect();
        // Always in this order: no two processes wait for each other.
        events.sort_by_key(|(key, _)| *key);
        let keys: Vec<&[u8]> = events.iter().map(|(key, _)| &key[..]).collect();
        let mut owners: HashMap<Vec<u8>, Uuid> = HashMap::new();
        if !events.is_empty() {
            let new = sqlx::query(
                "insert into inbox_events (event_key, plugin, webhook, inbox_id, received_at, expires_at) \
                 select * from unnest($1::bytea[], $2::text[], $3::text[], $4::uuid[], $5::timestamptz[], $6::timestamptz[]) \
                   as t (event_key, plugin, webhook, inbox_id, received_at, expires_at) \
                 order by t.event_key on conflict do nothing returning event_key, inbox_id",
            )
            .bind(&keys)
            .bind(events.iter().map(|(_, row)| row.plugin.as_str()).collect::<Vec<_>>())
            .bind(events.iter().map(|(_, row)| row.webhook.as_str()).collect::<Vec<_>>())
            .bind(events.iter().map(|(_, row)| row.id).collect::<Vec<_>>())
            .bind(events.iter().map(|(_, row)| row.received_at).collect::<Vec<_>>())
            .bind(events.iter().map(|(_, row)| row.remember_until).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?;
            for row in new {
                owners.insert(row.try_get("event_key")?, row.try_get("inbox_id")?);
            }
            // Mostly none: events come once.
            let others: Vec<&[u8]> = keys
                .into_iter()
                .filter(|key| !owners.contains_key(*key))
                .collect();
            if !others.is_empty() {
                let known = sqlx::query(
                    "select event_key, inbox_id from inbox_events where event_key = any($1)",
                )
                .bind(others)
                .fetch_all(&mut *tx)
                .await?;
                for row in known {
                    owners.insert(row.try_get("event_key")?, row.try_get("inbox_id")?);
                }
            }
        }
        let mut added = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(key) = row.event_key else {
                added.push(Added::New);
                continue;
            };
            match owners.get(&key[..]) {
                Some(owner) if *owner == row.id => added.push(Added::New),
                Some(owner) => added.push(Added::Repeat(*owner)),
                // Its time ended between the two statements: the next try adds it.
                None => return Err(StoreError::no_answer()),
            }
        }
        let new: Vec<&NewInboxRow> = rows
            .iter()
            .zip(&added)
            .filter_map(|(row, added)| (*added == Added::New).then_some(row))
            .collect();
        if !new.is_empty() {
            insert(&mut tx, &new).await?;
        }
        tx.commit().await?;
        Ok(added)
    }
}

async fn insert(tx: &mut sqlx::PgConnection, rows: &[&NewInboxRow]) -> Result<(), StoreError> {
    fn each<'a, T>(rows: &[&'a NewInboxRow], get: impl Fn(&'a NewInboxRow) -> T) -> Vec<T> {
        rows.iter().map(|row| get(row)).collect()
    }
    // The row is not written again when the jobs are in the queue. Until then a row beside it says so; one
    // that is there from an earlier try gets none.
    sqlx::query(
        "with given as (select * \
           from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
             $9::bytea[], $10::text[], $11::timestamptz[], $12::text[], $13::text[], $14::int[], $15::text[], $16::text[], \
             $17::text[], $18::bool[], $19::int[], $20::bytea[], $21::bytea[], $22::text[], $23::timestamptz[], $24::timestamptz[], \
             $25::text[]) \
             as t (id, received_at, plugin, webhook, state, code, message, kind, event_key, revision, next_try_at, method, \
               content_type, size, source, host, correlation_id, from_redis, jobs, sealed, jobs_sealed, sealed_key, keep_until, \
               remember_until, terms)), \
         added as (insert into inbox (id, received_at, plugin, webhook, state, code, message, kind, event_key, revision, \
             verified_at, next_try_at, method, content_type, size, source, host, correlation_id, via, jobs, sealed, sealed_key, \
             keep_until, remember_until, terms) \
           select id, received_at, plugin, webhook, case state when 'accepted' then 'enqueued' else state end, code, message, kind, \
             event_key, revision, case when revision is not null then received_at end, \
             case when state <> 'accepted' then next_try_at end, method, content_type, size, source, host, correlation_id, \
             case when from_redis then 'redis' else 'postgres' end, jobs, sealed, sealed_key, keep_until, remember_until, \
             terms::bytea[] \
           from given on conflict (id) do nothing returning id) \
         insert into inbox_jobs (inbox_id, due_at, jobs_sealed) \
         select g.id, g.next_try_at, g.jobs_sealed from given g join added on added.id = g.id where g.state = 'accepted'",
    )
    .bind(each(rows, |row| row.id))
    .bind(each(rows, |row| row.received_at))
    .bind(each(rows, |row| row.plugin.as_str()))
    .bind(each(rows, |row| row.webhook.as_str()))
    .bind(each(rows, |row| row.state.as_str()))
    .bind(each(rows, |row| row.code.as_deref()))
    .bind(each(rows, |row| row.message.as_deref()))
    .bind(each(rows, |row| row.kind.as_str()))
    .bind(each(rows, |row| row.event_key.map(|key| key.to_vec())))
    .bind(each(rows, |row| row.revision.as_deref()))
    .bind(each(rows, |row| row.next_try_at))
    .bind(each(rows, |row| row.method.as_str()))
    .bind(each(rows, |row| row.content_type.as_deref()))
    .bind(each(rows, |row| row.size))
    .bind(each(rows, |row| row.source.as_deref()))
    .bind(each(rows, |row| row.host.as_str()))
    .bind(each(rows, |row| row.correlation_id.as_str()))
    .bind(each(rows, |row| row.is_from_redis))
    .bind(each(rows, |row| row.jobs))
    .bind(each(rows, |row| row.sealed.as_slice()))
    .bind(each(rows, |row| row.jobs_sealed.as_deref()))
    .bind(each(rows, |row| row.sealed_key.as_str()))
    .bind(each(rows, |row| row.keep_until))
    .bind(each(rows, |row| row.remember_until))
    .bind(each(rows, NewInboxRow::terms))
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_events_differ_by_every_part_and_by_the_key() {
        let key = |key: u8, parts: &[&[u8]]| EventKeys([key; 32]).of(parts);
        assert_eq!(key(1, &[b"a", b"b"]), key(1, &[b"a", b"b"]));
        for other in [
            key(2, &[b"a", b"b"]),
            key(1, &[b"ab", b""]),
            key(1, &[b"a", b"b", b""]),
        ] {
            assert_ne!(key(1, &[b"a", b"b"]), other);
        }
    }
}
