//! How long entries are kept, deleting old ones, and taking over old rows of the old backend.

use patchbay_api::audit::{
    AuditExpire, AuditImport, AuditRetentionReset, AuditRetentionSet, ExpiredEntries,
    ImportRequest, Imported, TrailRetention,
};
use patchbay_model::TrailName;
use serde_json::json;

use super::Audit;
use crate::Error;
use crate::actions::Caller;

/// Evidence is kept for a quarter at least.
const MIN_DAYS: i32 = 90;
const MAX_DAYS: i32 = 36_500;
/// Rows of one transaction of an import.
const IMPORT_STEP: i64 = 1_000;

impl Audit {
    pub async fn retention(&self) -> Result<Vec<TrailRetention>, Error> {
        let rows = self.store.audit_retention().await?;
        let view = |row: patchbay_store::RetainedTrail| TrailRetention {
            trail: row.trail,
            keep_days: row.keep_days,
            changed_at: row.changed_at,
            changed_by: row.changed_by,
        };
        Ok(rows.into_iter().map(view).collect())
    }

    pub async fn set_retention(
        &self,
        who: &Caller,
        name: &str,
        keep_days: i32,
    ) -> Result<(), Error> {
        let trail: TrailName = name.parse()?;
        check_days(keep_days)?;
        self.known(&trail).await?;
        let act = async {
            let set = self
                .store
                .set_audit_retention(trail.as_str(), keep_days, &who.actor);
            Ok(set.await?)
        };
        self.actions
            .record::<AuditRetentionSet, _>(
                who,
                trail.as_str(),
                json!({ "keepDays": keep_days }),
                act,
            )
            .await
    }

    pub async fn reset_retention(&self, who: &Caller, name: &str) -> Result<(), Error> {
        let trail: TrailName = name.parse()?;
        let act = async { Ok(self.store.reset_audit_retention(trail.as_str()).await?) };
        self.actions
            .record::<AuditRetentionReset, _>(who, trail.as_str(), json!({}), act)
            .await
    }

    /// Deletes what is older than the trail is kept.
    pub async fn expire(&self, who: &Caller, name: &str) -> Result<ExpiredEntries, Error> {
        let trail: TrailName = name.parse()?;
        let act = async {
            let expired = self
                .store
                .expire_audit(trail.as_str(), &who.actor, who.reason.as_deref())
                .await?;
            Ok(ExpiredEntries {
                deleted: expired.count,
                before: expired.before,
                more: expired.more,
            })
        };
        self.actions
            .record::<AuditExpire, _>(who, trail.as_str(), json!({}), act)
            .await
    }

    /// Takes over every row of an old table that is not an entry yet.
    pub async fn import(
        &self,
        who: &Caller,
        name: &str,
        asked: ImportRequest,
    ) -> Result<Imported, Error> {
        let trail: TrailName = name.parse()?;
        self.known(&trail).await?;
        let table = asked.table.unwrap_or_else(|| format!("public.{trail}"));
        let id = asked.id_column.unwrap_or_else(|| "id".to_owned());
        if [&table, &id]
            .iter()
            .any(|name| name.is_empty() || name.len() > 200 || name.contains('\0'))
        {
            return Err(Error::invalid(
                "table, idColumn: must be names of a table and a column",
            ));
        }
        let details = json!({ "table": table, "idColumn": id });
        let asked = ImportRequest {
            table: Some(table),
            id_column: Some(id),
        };
        let act = self.take_over(&trail, &asked);
        self.actions
            .record::<AuditImport, _>(who, trail.as_str(), details, act)
            .await
    }

    /// Makes entries of the rows of a table, step by step.
    pub(super) async fn take_over(
        &self,
        trail: &TrailName,
        asked: &ImportRequest,
    ) -> Result<Imported, Error> {
        let table = asked.table.as_deref().unwrap_or_default();
        let id = asked.id_column.as_deref().unwrap_or("id");
        let columns = self.store.audit_import_columns(table, id).await?;
        let mut imported = Imported { read: 0, added: 0 };
        let mut after: Option<String> = None;
        loop {
            let step = self
                .store
                .import_audit(trail.as_str(), &columns, after.as_deref(), IMPORT_STEP)
                .await?;
            imported.read += step.read;
            imported.added += step.added;
            match step.next {
                Some(next) => after = Some(next),
                None => return Ok(imported),
            }
        }
    }
}

pub(super) fn check_days(keep_days: i32) -> Result<(), Error> {
    match (MIN_DAYS..=MAX_DAYS).contains(&keep_days) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "keepDays: must be from {MIN_DAYS} to {MAX_DAYS}"
        ))),
    }
}
