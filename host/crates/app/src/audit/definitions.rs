//! Trails that operators define, and packs: what entries look like, who may read them, and which old
//! table gets a copy.

use patchbay_api::audit::{
    AdoptedTrail, AuditAdopt, AuditTrail, AuditTrailsInstall, AuditTrailsRemove, AuditTrailsSet,
    ImportRequest, InstalledTrail, TrailChange,
};
use patchbay_model::audit::{LOGIN_LOGS, is_of_the_host};
use patchbay_model::trail_pack::{Projection, Source, TrailPack};
use patchbay_model::{TrailName, json_schema};
use patchbay_store::TrailRow;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::{Audit, keeping};
use crate::Error;
use crate::actions::Caller;

/// In characters.
const MAX_DESCRIPTION: usize = 500;

impl Audit {
    pub async fn trails(&self) -> Result<Vec<AuditTrail>, Error> {
        let rows = self.store.audit_trails(None).await?;
        Ok(rows.into_iter().map(trail).collect())
    }

    pub async fn trail(&self, name: &str) -> Result<AuditTrail, Error> {
        self.defined(&name.parse()?).await
    }

    async fn defined(&self, name: &TrailName) -> Result<AuditTrail, Error> {
        let rows = self.store.audit_trails(Some(name)).await?;
        let row = rows.into_iter().next().ok_or_else(|| {
            Error::not_found(format!(
                "There is no audit trail {name}. See: patchbay audit trail list"
            ))
        })?;
        Ok(trail(row))
    }

    pub async fn set_trail(
        &self,
        who: &Caller,
        name: &str,
        change: TrailChange,
    ) -> Result<AuditTrail, Error> {
        let name = definable(name)?;
        let TrailChange {
            schema,
            description,
        } = change;
        check_schema(&schema)?;
        if let Some(description) = &description {
            check_description(description)?;
        }
        let details = json!({ "schema": schema, "description": description });
        let act = async {
            self.store
                .set_audit_trail(&name, &schema, description.as_deref(), &who.actor)
                .await?;
            self.defined(&name).await
        };
        self.actions
            .record::<AuditTrailsSet, _>(who, name.as_str(), details, act)
            .await
    }

    /// Creates a trail as a pack says, or replaces what is said of it.
    pub async fn install_trail(
        &self,
        who: &Caller,
        pack: TrailPack,
    ) -> Result<InstalledTrail, Error> {
        let name = definable(&pack.name)?;
        check_schema(&pack.schema)?;
        check_description(&pack.description)?;
        pack.check()
            .map_err(|error| Error::invalid(error.to_string()))?;
        if let Some(keep_days) = pack.keep_days {
            keeping::check_days(keep_days)?;
        }
        let table = pack.projection.as_ref().map(|to| to.table.to_string());
        let is_of_accounts = |table: &String| self.accounts.as_deref() == Some(table.as_str());
        if let Some(table) = table.filter(is_of_accounts) {
            return Err(Error::invalid(format!(
                "projection.table: {table} holds the accounts; no plugin may add rows to it"
            )));
        }
        let details = serde_json::to_value(&pack).unwrap_or_default();
        let act = async {
            let table_made = self
                .store
                .install_audit_trail(&name, &pack, &who.actor)
                .await?;
            Ok(InstalledTrail {
                trail: self.defined(&name).await?,
                table_made,
            })
        };
        self.actions
            .record::<AuditTrailsInstall, _>(who, name.as_str(), details, act)
            .await
    }

    /// Removes the trail. Its entries stay.
    pub async fn remove_trail(&self, who: &Caller, name: &str) -> Result<(), Error> {
        let name: TrailName = name.parse()?;
        let act = async { Ok(self.store.remove_audit_trail(&name).await?) };
        self.actions
            .record::<AuditTrailsRemove, _>(who, name.as_str(), json!({}), act)
            .await
    }

    /// Takes over the rows of a trail's old table, and lets nobody change them any more.
    pub async fn adopt(&self, who: &Caller, name: &str) -> Result<AdoptedTrail, Error> {
        let name: TrailName = name.parse()?;
        let projection =
            match name.as_str() {
                LOGIN_LOGS => Projection::of_logins(),
                _ => self.defined(&name).await?.projection.ok_or_else(|| {
                    Error::not_found(format!("Audit trail {name} has no old table"))
                })?,
            };
        let table = projection.table.to_string();
        let id = projection
            .columns
            .iter()
            .find(|(_, column)| column.from == Source::Id)
            .map(|(name, _)| name.clone());
        let asked = ImportRequest {
            table: Some(table.clone()),
            id_column: id,
        };
        let details = json!({ "table": table });
        let act = async {
            // Guarded first: what the old backend writes afterwards is refused or imported.
            let is_new = self.store.guard_projection(&projection).await?;
            let imported = self.take_over(&name, &asked).await?;
            Ok(AdoptedTrail {
                table,
                read: imported.read,
                added: imported.added,
                was_guarded: !is_new,
            })
        };
        self.actions
            .record::<AuditAdopt, _>(who, name.as_str(), details, act)
            .await
    }
}

/// A name that operators may define.
fn definable(name: &str) -> Result<TrailName, Error> {
    let name: TrailName = name.parse()?;
    if is_of_the_host(name.as_str()) {
        return Err(Error::conflict(format!(
            "Only the host writes to the trail {name}. Choose another name"
        )));
    }
    Ok(name)
}

fn check_schema(schema: &Value) -> Result<(), Error> {
    block_in_place(|| json_schema::check(schema))
        .map_err(|reason| Error::invalid(format!("schema: {reason}")))
}

fn check_description(description: &str) -> Result<(), Error> {
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(Error::invalid(format!(
            "description: must have at most {MAX_DESCRIPTION} characters"
        )));
    }
    if description.contains(char::is_control) {
        return Err(Error::invalid(
            "description: must be one line without control characters",
        ));
    }
    Ok(())
}

fn trail(row: TrailRow) -> AuditTrail {
    AuditTrail {
        name: row.name,
        description: row.description,
        schema: row.schema,
        created_at: row.created_at,
        created_by: row.created_by,
        changed_at: row.changed_at,
        changed_by: row.changed_by,
        readers: row.readers,
        fields: row.fields.0,
        projection: row.projection.map(|projection| projection.0),
        table_state: row.table_state,
    }
}
