//! Plugins, revisions, activations and settings.

use chrono::{DateTime, Utc};
use patchbay_model::grant::Ask;
use patchbay_model::{PluginName, RevisionDigest};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::audit::plugin_event;
use crate::notify::notify;
use crate::rows::{damaged, digest, plugin};
use crate::{NewSignature, Store, StoreError, signatures};

const COLUMNS: &str = "select plugin, digest, version, manifest, state, created_at, created_by, activated_at, \
    octet_length(component)::bigint as size_bytes, \
    digest is not distinct from (select active from plugins where name = plugin) as is_current from revisions";

/// Advisory lock of activations, held until their transaction ends.
const ACTIVATION_LOCK: i64 = 0x7061_7463_6861_6374;

#[derive(Debug)]
pub struct NewRevision {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub version: String,
    pub manifest: Value,
    pub component: Vec<u8>,
    pub signatures: Vec<NewSignature>,
    pub actor: String,
}

/// A revision without its file.
#[derive(Debug, Clone)]
pub struct RevisionRow {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub version: String,
    pub manifest: Value,
    /// `staged`, `active`, `retired` or `quarantined`.
    pub state: String,
    /// Whether it is the plugin's current revision, active or quarantined.
    pub is_current: bool,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub activated_at: Option<DateTime<Utc>>,
    pub size_bytes: i64,
}

#[derive(Debug)]
pub struct Activation {
    /// The revision that was active before; perhaps the same.
    pub previous: Option<NamedRevision>,
    pub generation: i64,
    /// Whether the revision was quarantined, and is not any more.
    pub released: bool,
}

/// A revision as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRevision {
    pub digest: RevisionDigest,
    pub version: String,
}

impl std::fmt::Display for NamedRevision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.version, self.digest.short())
    }
}

fn named(row: &PgRow) -> Result<NamedRevision, StoreError> {
    Ok(NamedRevision {
        digest: digest(row, "digest")?,
        version: row.try_get("version")?,
    })
}

/// A change of a plugin's active revision.
#[derive(Debug)]
pub struct ActivationRow {
    /// Absent: the plugin was stopped.
    pub digest: Option<RevisionDigest>,
    /// Absent when the revision was deleted.
    pub version: Option<String>,
    pub grants: Value,
    pub actor: String,
    pub at: DateTime<Utc>,
    /// In the words of whoever did it.
    pub reason: Option<String>,
}

#[derive(Debug)]
pub struct ActiveRow {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub generation: i64,
    pub settings: Value,
    pub granted: Vec<Ask>,
    /// When the revision was last activated.
    pub activated_at: Option<DateTime<Utc>>,
    /// False for a plugin from before grants existed, until it has its own grants.
    pub grants_adopted: bool,
}

fn revision(row: PgRow) -> Result<RevisionRow, StoreError> {
    Ok(RevisionRow {
        plugin: plugin(&row)?,
        digest: digest(&row, "digest")?,
        version: row.try_get("version")?,
        manifest: row.try_get("manifest")?,
        state: row.try_get("state")?,
        is_current: row.try_get("is_current")?,
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
        activated_at: row.try_get("activated_at")?,
        size_bytes: row.try_get("size_bytes")?,
    })
}

impl Store {
    /// Stores a revision and its signatures. Returns false when this file was already stored: then
    /// the file is repaired if it was changed, missing signatures are added, and every process is
    /// notified, since one may have refused to load the revision.
    pub async fn put_revision(&self, new: NewRevision) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("insert into plugins (name) values ($1) on conflict do nothing")
            .bind(new.plugin.as_str())
            .execute(&mut *tx)
            .await?;
        // A stored file that was changed is replaced by the one that matches the digest.
        let written: Option<bool> = sqlx::query_scalar(
            "insert into revisions as kept (digest, plugin, version, manifest, component, created_by) \
             values ($1, $2, $3, $4, $5, $6) on conflict (digest) do update \
             set plugin = excluded.plugin, version = excluded.version, manifest = excluded.manifest, component = excluded.component \
             where (kept.plugin, kept.version, kept.manifest, kept.component) \
             is distinct from (excluded.plugin, excluded.version, excluded.manifest, excluded.component) \
             returning xmax = 0",
        )
        .bind(new.digest.to_string())
        .bind(new.plugin.as_str())
        .bind(new.version)
        .bind(new.manifest)
        .bind(new.component)
        .bind(&new.actor)
        .fetch_optional(&mut *tx)
        .await?;
        signatures::add(&mut tx, &new.digest, &new.signatures, &new.actor).await?;
        if written == Some(false) || !new.signatures.is_empty() {
            notify(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(written == Some(true))
    }

    /// Of every plugin that there ever was, sorted.
    pub async fn plugin_names(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar("select name from plugins order by name")
            .fetch_all(&self.pool)
            .await?)
    }

    /// For one plugin or for all; newest first.
    pub async fn revisions(
        &self,
        plugin: Option<&PluginName>,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        let text =
            format!("{COLUMNS} where $1::text is null or plugin = $1 order by created_at desc");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(plugin.map(PluginName::as_str))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(revision).collect()
    }

    /// Revisions of a plugin whose digest begins with `prefix`.
    pub async fn find_revisions(
        &self,
        plugin: &PluginName,
        prefix: &str,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        let text = format!("{COLUMNS} where plugin = $1 and starts_with(digest, $2)");
        let query = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(plugin.as_str())
            .bind(prefix);
        query
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(revision)
            .collect()
    }

    /// The actual digest of the file that is stored under this digest.
    pub async fn component_digest(
        &self,
        digest: &RevisionDigest,
    ) -> Result<Option<RevisionDigest>, StoreError> {
        let query = sqlx::query_scalar(
            "select encode(sha256(component), 'hex') from revisions where digest = $1",
        );
        let found: Option<String> = query
            .bind(digest.to_string())
            .fetch_optional(&self.pool)
            .await?;
        found
            .map(|found| found.parse().map_err(damaged))
            .transpose()
    }

    pub async fn component(&self, digest: &RevisionDigest) -> Result<Option<Vec<u8>>, StoreError> {
        let query = sqlx::query_scalar("select component from revisions where digest = $1")
            .bind(digest.to_string());
        Ok(query.fetch_optional(&self.pool).await?)
    }

    /// Makes a revision the active one, adds the grants that are given with it, and notifies every
    /// process. `refuse` gets the active revisions of all other plugins and may return a conflict
    /// with one of them. A lock serialises activations of all hosts, so no two can conflict unseen.
    pub async fn activate(
        &self,
        plugin: &PluginName,
        digest: &RevisionDigest,
        grants: &Value,
        newly_granted: &[Ask],
        actor: &str,
        refuse: impl FnOnce(&[RevisionRow]) -> Result<(), String> + Send,
    ) -> Result<Activation, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(ACTIVATION_LOCK)
            .execute(&mut *tx)
            .await?;
        let text = format!(
            "{COLUMNS} where plugin <> $1 and digest = (select active from plugins where name = plugin) order by plugin"
        );
        let others = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(plugin.as_str())
            .fetch_all(&mut *tx)
            .await?;
        let others: Vec<RevisionRow> =
            others.into_iter().map(revision).collect::<Result<_, _>>()?;
        refuse(&others).map_err(StoreError::Conflict)?;
        let row = sqlx::query("select active from plugins where name = $1 for update")
            .bind(plugin.as_str())
            .fetch_optional(&mut *tx)
            .await?
            .ok_or_else(|| StoreError::NotFound(format!("No plugin is called {plugin}")))?;
        let previous: Option<String> = row.try_get("active")?;
        let previous = match previous {
            None => None,
            Some(previous) => {
                let query = sqlx::query("select digest, version from revisions where digest = $1");
                let row = query.bind(previous).fetch_optional(&mut *tx).await?;
                row.as_ref().map(named).transpose()?
            }
        };
        sqlx::query(
            "update revisions set state = 'retired' where plugin = $1 and state = 'active'",
        )
        .bind(plugin.as_str())
        .execute(&mut *tx)
        .await?;
        let released: Option<bool> = sqlx::query_scalar(
            "select state = 'quarantined' from revisions where plugin = $1 and digest = $2",
        )
        .bind(plugin.as_str())
        .bind(digest.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        let found = sqlx::query(
            "update revisions set state = 'active', activated_at = now() where plugin = $1 and digest = $2",
        )
        .bind(plugin.as_str())
        .bind(digest.to_string())
        .execute(&mut *tx)
        .await?;
        if found.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!(
                "{plugin} has no revision {digest}. See: patchbay plugin revisions {plugin}"
            )));
        }
        let generation: i64 = sqlx::query_scalar(
            "update plugins set active = $2, generation = generation + 1 where name = $1 returning generation",
        )
        .bind(plugin.as_str())
        .bind(digest.to_string())
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query(
            "insert into activations (plugin, digest, grants, actor) values ($1, $2, $3, $4)",
        )
        .bind(plugin.as_str())
        .bind(digest.to_string())
        .bind(grants)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        crate::redactions::note(&mut tx, plugin, digest).await?;
        crate::quarantine::end(&mut tx, digest, actor, "activated").await?;
        crate::grants::grant(&mut tx, plugin, newly_granted, actor).await?;
        let replaces = previous
            .as_ref()
            .map(|previous| previous.digest.to_string());
        let told = json!({ "digest": digest, "replaces": replaces });
        plugin_event(&mut tx, plugin.as_str(), "activate", actor, &told).await?;
        notify(&mut tx).await?;
        tx.commit().await?;
        Ok(Activation {
            previous,
            generation,
            released: released == Some(true),
        })
    }

    /// The last active revision before the present one that is still stored and not quarantined.
    pub async fn rollback_target(
        &self,
        plugin: &PluginName,
    ) -> Result<Option<NamedRevision>, StoreError> {
        let target = sqlx::query(
            "select a.digest, r.version from activations a join plugins p on p.name = a.plugin \
             join revisions r on r.digest = a.digest \
             where a.plugin = $1 and a.digest is distinct from p.active and r.state <> 'quarantined' order by a.id desc limit 1",
        )
        .bind(plugin.as_str())
        .fetch_optional(&self.pool)
        .await?;
        target.as_ref().map(named).transpose()
    }

    /// Stops a plugin on all hosts: it takes no more jobs.
    pub async fn deactivate(&self, plugin: &PluginName, actor: &str) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let stopped = sqlx::query(
            "update plugins set active = null, generation = generation + 1 where name = $1 and active is not null",
        )
        .bind(plugin.as_str())
        .execute(&mut *tx)
        .await?;
        if stopped.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!(
                "Plugin {plugin} is not active; nothing was changed. See: patchbay plugin history {plugin}"
            )));
        }
        sqlx::query(
            "update revisions set state = 'retired' where plugin = $1 and state = 'active'",
        )
        .bind(plugin.as_str())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into activations (plugin, digest, grants, actor) values ($1, null, '{}', $2)",
        )
        .bind(plugin.as_str())
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        plugin_event(&mut tx, plugin.as_str(), "deactivate", actor, &json!({})).await?;
        notify(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Deletes a revision that is not the plugin's current one.
    pub async fn delete_revision(
        &self,
        digest: &RevisionDigest,
        _actor: &str,
    ) -> Result<(), StoreError> {
        let state: Option<String> = sqlx::query_scalar(
            "delete from revisions where digest = $1 and not exists (select from plugins where active = $1) returning state",
        )
        .bind(digest.to_string())
        .fetch_optional(&self.pool)
        .await?;
        if state.is_some() {
            // A plugin that is pushed again later under this name begins without grants.
            sqlx::query("delete from grants where not exists (select from revisions r where r.plugin = grants.plugin)")
                .execute(&self.pool)
                .await?;
            return Ok(());
        }
        match self.component(digest).await? {
            Some(_) => Err(StoreError::Conflict(
                "This is the plugin's active revision: activate another one first".into(),
            )),
            None => Err(StoreError::NotFound("There is no such revision".into())),
        }
    }

    /// All activations and stops of a plugin, oldest first.
    pub async fn activations(&self, plugin: &PluginName) -> Result<Vec<ActivationRow>, StoreError> {
        let query = sqlx::query(
            "select a.digest, a.grants, a.actor, a.at, r.version, (select o.details ->> 'reason' from operator_actions o \
             where o.target = a.plugin and o.action in ('plugin.activate', 'plugin.rollback', 'plugin.deactivate') \
             and a.at between o.began_at and coalesce(o.ended_at, now()) and o.error is null order by o.id desc limit 1) as reason \
             from activations a left join revisions r using (digest) where a.plugin = $1 order by a.id",
        );
        let rows = query.bind(plugin.as_str()).fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| {
                let digest: Option<String> = row.try_get("digest")?;
                Ok(ActivationRow {
                    digest: digest
                        .map(|text| text.parse().map_err(damaged))
                        .transpose()?,
                    version: row.try_get("version")?,
                    grants: row.try_get("grants")?,
                    actor: row.try_get("actor")?,
                    at: row.try_get("at")?,
                    reason: row.try_get("reason")?,
                })
            })
            .collect()
    }

    /// The revisions that should run.
    pub async fn active_set(&self) -> Result<Vec<ActiveRow>, StoreError> {
        let query = sqlx::query(
            "select name as plugin, active as digest, generation, settings, grants_adopted, \
             array(select ask from grants where plugin = name) as granted, \
             (select activated_at from revisions where digest = active) as activated_at \
             from plugins where active is not null \
             and not exists (select from revisions where digest = active and state = 'quarantined')",
        );
        let rows = query.fetch_all(&self.pool).await?;
        rows.into_iter()
            .map(|row| {
                Ok(ActiveRow {
                    plugin: plugin(&row)?,
                    digest: digest(&row, "digest")?,
                    generation: row.try_get("generation")?,
                    settings: row.try_get("settings")?,
                    granted: row
                        .try_get::<Vec<String>, _>("granted")?
                        .into_iter()
                        .map(Ask::new)
                        .collect(),
                    activated_at: row.try_get("activated_at")?,
                    grants_adopted: row.try_get("grants_adopted")?,
                })
            })
            .collect()
    }

    pub async fn settings(&self, plugin: &PluginName) -> Result<Value, StoreError> {
        let query = sqlx::query_scalar("select settings from plugins where name = $1")
            .bind(plugin.as_str());
        let found: Option<Value> = query.fetch_optional(&self.pool).await?;
        found.ok_or_else(|| StoreError::NotFound(format!("No plugin is called {plugin}")))
    }

    /// Replaces all settings and notifies every process.
    pub async fn set_settings(
        &self,
        plugin: &PluginName,
        settings: &Value,
        _actor: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("update plugins set settings = $2 where name = $1")
            .bind(plugin.as_str())
            .bind(settings)
            .execute(&mut *tx)
            .await?;
        notify(&mut tx).await?;
        Ok(tx.commit().await?)
    }
}
