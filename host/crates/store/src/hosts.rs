//! Which processes run, and what each reports of its plugins.

use std::collections::BTreeMap;
use std::time::Duration;

use patchbay_model::{PluginName, RevisionDigest};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::types::Json;

use crate::{Store, StoreError};

/// A process that is silent for longer was killed, or is cut off. They report every 3 seconds.
const SILENT_AFTER_S: f64 = 10.0;
/// A killed process does not say that it ended. One that is cut off continues with its last
/// snapshot, and must be visible.
const FORGOTTEN_AFTER_S: f64 = 600.0;

/// The state of an active plugin in one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The revision that takes the calls; absent when none does.
    pub digest: Option<RevisionDigest>,
    /// Why the active revision does not take them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// A revision that does not run, though it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub digest: RevisionDigest,
    pub reason: String,
}

pub type Report = BTreeMap<PluginName, Running>;

/// A process that runs, or ran until it fell silent.
#[derive(Debug, Clone)]
pub struct HostRow {
    /// `hostname:pid`.
    pub host: String,
    /// Version of the binary.
    pub version: String,
    pub plugins: Report,
    /// Time since its last report, when that is too long ago.
    pub silent_for: Option<Duration>,
}

impl Store {
    /// Returns how many processes run, this one with them.
    pub async fn report(
        &self,
        host: &str,
        version: &str,
        plugins: &Report,
    ) -> Result<usize, StoreError> {
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
        let query = sqlx::query_scalar::<_, i64>(
            "select count(*) from hosts where seen_at > now() - make_interval(secs => $1)",
        );
        let hosts = query.bind(SILENT_AFTER_S).fetch_one(&self.pool).await?;
        Ok(usize::try_from(hosts).unwrap_or(1))
    }

    /// Called when this process ends, so that nobody waits for it.
    pub async fn leave(&self, host: &str) -> Result<(), StoreError> {
        sqlx::query("delete from hosts where host = $1")
            .bind(host)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Notes which keys of access tokens a process verifies. False if the process has not reported
    /// itself yet.
    pub async fn report_token_keys(&self, host: &str, kids: &[String]) -> Result<bool, StoreError> {
        let noted = sqlx::query("update hosts set token_keys = $2 where host = $1")
            .bind(host)
            .bind(kids)
            .execute(&self.pool)
            .await?
            .rows_affected();
        Ok(noted > 0)
    }

    /// Running processes that verify access tokens, but not yet those of this key. Sorted by name.
    pub async fn hosts_without_token_key(&self, kid: &str) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query_scalar(
            "select host from hosts where seen_at > now() - make_interval(secs => $1) \
             and token_keys is not null and not token_keys @> array[$2::text] order by host",
        );
        Ok(query
            .bind(SILENT_AFTER_S)
            .bind(kid)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Sorted by name.
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
                    silent_for: (silent_s > SILENT_AFTER_S)
                        .then(|| Duration::from_secs_f64(silent_s)),
                })
            })
            .collect()
    }
}
