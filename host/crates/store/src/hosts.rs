//! Which processes run, and what each says of its plugins.

use std::collections::BTreeMap;
use std::time::Duration;

use patchbay_model::{PluginName, RevisionDigest};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::types::Json;

use crate::{Store, StoreError};

/// A process that has said nothing for this long was killed, or is cut off. They report every 3 seconds.
const SILENT_AFTER_S: f64 = 10.0;
/// A process that was killed leaves no word; one that is cut off runs on with what it last saw, and must be seen.
const FORGOTTEN_AFTER_S: f64 = 600.0;

/// How an active plugin fares in one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The revision that takes its calls; absent when none does.
    pub digest: Option<RevisionDigest>,
    /// Why the active revision does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// A revision that does not run, though it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub digest: RevisionDigest,
    /// Why.
    pub reason: String,
}

/// What a process says of its plugins.
pub type Report = BTreeMap<PluginName, Running>;

/// A process that runs, or did until it fell silent.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// `hostname:pid`.
    pub host: String,
    /// Of the binary.
    pub version: String,
    /// Its plugins.
    pub plugins: Report,
    /// Since when nothing was heard of it, if that is too long.
    pub silent_for: Option<Duration>,
}

impl Store {
    /// Says what this process runs.
    pub async fn report(&self, host: &str, version: &str, plugins: &Report) -> Result<(), StoreError> {
        sqlx::query(
            "insert into hosts (host, version, plugins) values ($1, $2, $3) \
             on conflict (host) do update set version = $2, plugins = $3, seen_at = now()",
        )
        .bind(host)
        .bind(version)
        .bind(Json(plugins))
        .execute(&self.pool)
        .await?;
        sqlx::query("delete from hosts where seen_at < now() - make_interval(secs => $1)")
            .bind(FORGOTTEN_AFTER_S)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// This process ends: nobody shall wait for it.
    pub async fn leave(&self, host: &str) -> Result<(), StoreError> {
        sqlx::query("delete from hosts where host = $1").bind(host).execute(&self.pool).await?;
        Ok(())
    }

    /// By name.
    pub async fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        let rows = sqlx::query(
            "select host, version, plugins, extract(epoch from now() - seen_at)::float8 as silent_s from hosts \
             where seen_at > now() - make_interval(secs => $1) order by host",
        )
        .bind(FORGOTTEN_AFTER_S)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let Json(plugins) = row.try_get("plugins")?;
                let silent_s: f64 = row.try_get("silent_s")?;
                Ok(HostRow {
                    host: row.try_get("host")?,
                    version: row.try_get("version")?,
                    plugins,
                    silent_for: (silent_s > SILENT_AFTER_S).then(|| Duration::from_secs_f64(silent_s)),
                })
            })
            .collect()
    }
}
