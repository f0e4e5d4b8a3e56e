//! What operators grant to a plugin and revoke.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use patchbay_api::plugins::GrantView;
use patchbay_model::PluginName;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::Manifest;
use patchbay_store::{RevisionRow, RoleError, StoreError, Wanted};

use super::conflicts::manifest_of;
use super::{PluginError, Plugins};

impl Plugins {
    /// Lists what the plugin asks for, what is granted, and what it uses.
    pub async fn grants(&self, plugin: &PluginName) -> Result<Vec<GrantView>, PluginError> {
        let rows = self.known(plugin).await?;
        let asks = |row: Option<&RevisionRow>| {
            row.map(manifest_of)
                .transpose()
                .map(|m| m.map(|m| m.asks()).unwrap_or_default())
        };
        let (active, newest) = (
            asks(rows.iter().find(|row| row.is_current))?,
            asks(rows.first())?,
        );
        let mut views: BTreeMap<Ask, GrantView> = BTreeMap::new();
        let mut view = |ask: Ask, fill: &dyn Fn(&mut GrantView)| {
            fill(views.entry(ask.clone()).or_insert_with(|| GrantView {
                asked_by_active: active.contains(&ask),
                asked_by_newest: newest.contains(&ask),
                ask,
                granted_by: None,
                granted_at: None,
                uses: 0,
                last_used: None,
            }));
        };
        for row in self.store.grants(plugin).await? {
            view(row.ask.clone(), &|view| {
                view.granted_by.clone_from(&row.granted_by);
                view.granted_at = row.granted_at.map(|at| at.to_rfc3339());
                view.uses = row.uses;
                view.last_used = row.last_used.map(|day| day.to_string());
            });
        }
        for ask in active.union(&newest) {
            view(ask.clone(), &|_| {});
        }
        Ok(views.into_values().collect())
    }

    /// Refuses what no revision asks for, since it is a typo. Takes effect with the next call.
    pub async fn grant(
        &self,
        plugin: &PluginName,
        asks: &[Ask],
        actor: &str,
    ) -> Result<(), PluginError> {
        let mut asked = BTreeSet::new();
        for row in self.known(plugin).await? {
            asked.extend(manifest_of(&row)?.asks());
        }
        if let Some(unknown) = asks.iter().find(|ask| !asked.contains(ask)) {
            return Err(PluginError::NotFound(format!(
                "No revision of {plugin} asks for {unknown:?}. See: patchbay plugin grants {plugin}",
                unknown = unknown.as_str()
            )));
        }
        self.store.grant(plugin, asks, actor).await?;
        self.take_effect().await?;
        self.sql_in_order(plugin)
    }

    /// Calls that have begun keep their grants.
    pub async fn revoke(
        &self,
        plugin: &PluginName,
        asks: &[Ask],
        actor: &str,
    ) -> Result<Vec<Ask>, PluginError> {
        self.known(plugin).await?;
        let granted = self.store.granted(plugin).await?;
        if let Some(unknown) = asks.iter().find(|ask| !granted.contains(ask)) {
            return Err(PluginError::NotFound(format!(
                "{plugin} is not granted {:?}",
                unknown.as_str()
            )));
        }
        let revoked = self.store.revoke(plugin, asks, actor).await?;
        self.take_effect().await?;
        self.sql_in_order(plugin)?;
        Ok(revoked)
    }

    /// Whether the plugin's database login agrees with its grants. If not, the plugin runs no
    /// statement; the grants stay.
    fn sql_in_order(&self, plugin: &PluginName) -> Result<(), PluginError> {
        self.sql.problem(plugin).map_or(Ok(()), |reason| {
            Err(PluginError::Sql(RoleError::Refused(format!(
                "{plugin} cannot run SQL until this is solved: {reason}"
            ))))
        })
    }

    /// The asks that are not granted.
    pub(super) async fn missing(&self, manifest: &Manifest) -> Result<Vec<Ask>, StoreError> {
        let granted: HashSet<Ask> = self
            .store
            .granted(&manifest.name)
            .await?
            .into_iter()
            .collect();
        Ok(manifest
            .asks()
            .into_iter()
            .filter(|ask| !granted.contains(ask))
            .collect())
    }
}

/// The tables of a manifest, as far as they are granted.
pub(super) fn tables(manifest: &Manifest, is_granted: impl Fn(&Ask) -> bool) -> Wanted {
    let accesses = manifest.sql.iter().flat_map(|spec| spec.accesses());
    let granted = accesses.filter(|(table, access)| is_granted(&Ask::sql(table, access)));
    granted
        .map(|(table, access)| (table.clone(), access.clone()))
        .collect()
}
