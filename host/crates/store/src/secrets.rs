//! Secrets, stored sealed. This crate only moves ciphertext; the host seals and opens it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::{PluginName, SecretName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::audit::plugin_event;
use crate::notify::notify;
use crate::rows::{damaged, plugin};
use crate::{Store, StoreError};

const COLUMNS: &str = "select id, plugin, name, version, key_id, nonce, ciphertext, created_at, created_by, ends_at, last_used_at from secrets";

/// A value that only the master key opens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Id of the master key.
    pub key_id: String,
    /// 12 bytes.
    pub nonce: Vec<u8>,
    pub ciphertext: Vec<u8>,
}

/// One version of one secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct SecretRow {
    pub id: i64,
    pub plugin: PluginName,
    pub name: SecretName,
    pub version: i32,
    pub sealed: SealedSecret,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    /// Absent for the newest.
    pub ends_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// What happens to the previous versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// They end at once.
    AtOnce,
    /// The newest of them stays valid for this long. There must be exactly one that has not ended.
    After(Duration),
}

/// The result of one step of resealing.
pub struct Resealed {
    /// Where the next step begins; absent at the end.
    pub next: Option<i64>,
    /// Rows that were sealed again.
    pub done: u64,
    /// Rows that could not be opened; they are unchanged.
    pub failed: Vec<SecretRow>,
}

fn secret(row: PgRow) -> Result<SecretRow, StoreError> {
    Ok(SecretRow {
        id: row.try_get("id")?,
        plugin: plugin(&row)?,
        name: row.try_get::<String, _>("name")?.parse().map_err(damaged)?,
        version: row.try_get("version")?,
        sealed: SealedSecret {
            key_id: row.try_get("key_id")?,
            nonce: row.try_get("nonce")?,
            ciphertext: row.try_get("ciphertext")?,
        },
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
        ends_at: row.try_get("ends_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}

impl Store {
    /// All versions that have not ended, of one plugin or of all; the newest of each secret first.
    pub async fn secrets(&self, plugin: Option<&PluginName>) -> Result<Vec<SecretRow>, StoreError> {
        let text = format!(
            "{COLUMNS} where ($1::text is null or plugin = $1) and (ends_at is null or ends_at > now()) \
             order by plugin, name, version desc"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(plugin.map(PluginName::as_str));
        query
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(secret)
            .collect()
    }

    /// Stores a new version and notifies every process. `seal` gets its number, which is returned.
    pub async fn put_secret(
        &self,
        plugin: &PluginName,
        name: &SecretName,
        replace: Replace,
        actor: &str,
        seal: impl FnOnce(i32) -> SealedSecret,
    ) -> Result<i32, StoreError> {
        let mut tx = self.pool.begin().await?;
        let known: bool = sqlx::query_scalar("select exists (select from plugins where name = $1)")
            .bind(plugin.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if !known {
            return Err(StoreError::NotFound(format!(
                "No plugin is called {plugin}: push it first"
            )));
        }
        // Locks the name, so that changes of one secret run one after the other.
        let version: i32 = sqlx::query_scalar(
            "insert into secret_names as n (plugin, name, last_version) values ($1, $2, 1) \
             on conflict (plugin, name) do update set last_version = n.last_version + 1 returning last_version",
        )
        .bind(plugin.as_str())
        .bind(name.as_str())
        .fetch_one(&mut *tx)
        .await?;
        match replace {
            Replace::AtOnce => {
                delete(&mut tx, plugin, name).await?;
            }
            Replace::After(overlap) => end_newest(&mut tx, plugin, name, overlap).await?,
        }
        let sealed = seal(version);
        sqlx::query(
            "insert into secrets (plugin, name, version, key_id, nonce, ciphertext, created_by) \
             values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(plugin.as_str())
        .bind(name.as_str())
        .bind(version)
        .bind(sealed.key_id)
        .bind(sealed.nonce)
        .bind(sealed.ciphertext)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        let told = json!({ "secret": name.as_str(), "version": version });
        plugin_event(&mut tx, plugin.as_str(), "secret.set", actor, &told).await?;
        notify(&mut tx).await?;
        tx.commit().await?;
        Ok(version)
    }

    /// Deletes every version and notifies every process.
    pub async fn delete_secret(
        &self,
        plugin: &PluginName,
        name: &SecretName,
        actor: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        // Without this lock, a concurrent rotation would leave its new version behind.
        sqlx::query("select from secret_names where plugin = $1 and name = $2 for update")
            .bind(plugin.as_str())
            .bind(name.as_str())
            .execute(&mut *tx)
            .await?;
        if delete(&mut tx, plugin, name).await? == 0 {
            return Err(not_kept(plugin, name));
        }
        let told = json!({ "secret": name.as_str() });
        plugin_event(&mut tx, plugin.as_str(), "secret.remove", actor, &told).await?;
        notify(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Reseals up to `limit` rows, beginning at `from`, that a key other than `key_id` has sealed:
    /// all of them or none. Where `reseal` returns nothing, the row stays as it is.
    pub async fn reseal_secrets(
        &self,
        key_id: &str,
        from: i64,
        limit: i64,
        reseal: impl Fn(&SecretRow) -> Option<SealedSecret>,
    ) -> Result<Resealed, StoreError> {
        let mut tx = self.pool.begin().await?;
        let text =
            format!("{COLUMNS} where key_id <> $1 and id >= $2 order by id limit $3 for update");
        let query = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(key_id)
            .bind(from)
            .bind(limit);
        let rows: Vec<SecretRow> = query
            .fetch_all(&mut *tx)
            .await?
            .into_iter()
            .map(secret)
            .collect::<Result<_, _>>()?;
        let next = rows.last().map(|row| row.id + 1);
        let (mut done, mut failed) = (0, Vec::new());
        for row in rows {
            let Some(sealed) = reseal(&row) else {
                failed.push(row);
                continue;
            };
            sqlx::query(
                "update secrets set key_id = $2, nonce = $3, ciphertext = $4 where id = $1",
            )
            .bind(row.id)
            .bind(sealed.key_id)
            .bind(sealed.nonce)
            .bind(sealed.ciphertext)
            .execute(&mut *tx)
            .await?;
            done += 1;
        }
        if done > 0 {
            notify(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(Resealed { next, done, failed })
    }

    pub async fn secrets_were_used(&self, uses: &[(i64, DateTime<Utc>)]) -> Result<(), StoreError> {
        let (ids, times): (Vec<i64>, Vec<DateTime<Utc>>) = uses.iter().copied().unzip();
        sqlx::query(
            "update secrets set last_used_at = greatest(last_used_at, used.at) \
             from unnest($1::bigint[], $2::timestamptz[]) as used (id, at) where secrets.id = used.id",
        )
        .bind(ids)
        .bind(times)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Deletes versions that have ended; returns their number.
    pub async fn forget_ended_secrets(&self) -> Result<u64, StoreError> {
        Ok(sqlx::query("delete from secrets where ends_at <= now()")
            .execute(&self.pool)
            .await?
            .rows_affected())
    }
}

async fn delete(
    connection: &mut PgConnection,
    plugin: &PluginName,
    name: &SecretName,
) -> Result<u64, StoreError> {
    let query = sqlx::query("delete from secrets where plugin = $1 and name = $2");
    Ok(query
        .bind(plugin.as_str())
        .bind(name.as_str())
        .execute(connection)
        .await?
        .rows_affected())
}

async fn end_newest(
    connection: &mut PgConnection,
    plugin: &PluginName,
    name: &SecretName,
    overlap: Duration,
) -> Result<(), StoreError> {
    let earlier: Option<DateTime<Utc>> = sqlx::query_scalar(
        "select max(ends_at) from secrets where plugin = $1 and name = $2 and ends_at > now()",
    )
    .bind(plugin.as_str())
    .bind(name.as_str())
    .fetch_one(&mut *connection)
    .await?;
    if let Some(until) = earlier {
        let until = until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        return Err(StoreError::Conflict(format!(
            "Secret {name} of {plugin} is being rotated: its previous version is valid until {until}. Wait, or set a value, which ends all other versions at once. Was the new value wrong, and the other side still uses the one before? Set the one before, then rotate again"
        )));
    }
    let ended = sqlx::query(
        "update secrets set ends_at = now() + make_interval(secs => $3) where plugin = $1 and name = $2 and ends_at is null",
    )
    .bind(plugin.as_str())
    .bind(name.as_str())
    .bind(overlap.as_secs_f64())
    .execute(connection)
    .await?;
    if ended.rows_affected() == 0 {
        Err(not_kept(plugin, name))
    } else {
        Ok(())
    }
}

fn not_kept(plugin: &PluginName, name: &SecretName) -> StoreError {
    StoreError::NotFound(format!(
        "the vault holds no secret {name} of {plugin}. See: patchbay secret list {plugin}"
    ))
}
