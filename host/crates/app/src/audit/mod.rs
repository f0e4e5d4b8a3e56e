//! Use cases of audit trails: operators define them, and read what plugins have written.

mod trails;

use chrono::Datelike;
use patchbay_api::answer::Page;
use patchbay_api::audit::{
    AuditEntry, AuditTrail, AuditTrailsRemove, AuditTrailsSet, EntriesQuery, TrailChange,
};
use patchbay_model::{TrailName, json_schema};
use patchbay_store::{AuditFilter, AuditRow, Store, TrailRow};
use serde_json::json;
use tokio::task::block_in_place;

pub use self::trails::Trails;
use crate::actions::{Actions, Caller};
use crate::{Error, Parts};

/// Default number of entries of a page.
const DEFAULT_LIMIT: u16 = 50;
/// An entry has up to 64 KiB.
const MAX_LIMIT: u16 = 200;
/// In characters.
const MAX_DESCRIPTION: usize = 500;

#[derive(Clone)]
pub struct Audit {
    store: Store,
    actions: Actions,
}

impl Audit {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            actions: parts.actions.clone(),
        }
    }

    /// Lists what plugins have written, newest first.
    pub async fn entries(&self, asked: EntriesQuery) -> Result<Page<AuditEntry>, Error> {
        let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(format!(
                "limit: must be from 1 to {MAX_LIMIT}"
            )));
        }
        if asked
            .since
            .is_some_and(|since| !(0..=9_999).contains(&since.year()))
        {
            return Err(Error::invalid(
                "since: the year must be from 0000 to 9999, for example 2026-11-30T00:00:00Z",
            ));
        }
        let unknown = |_| {
            Error::invalid(
                "cursor: not valid. Use `nextCursor` of the page before, or leave it out for the first page",
            )
        };
        let filter = AuditFilter {
            trail: asked.trail.map(|name| name.parse()).transpose()?,
            plugin: asked.plugin.map(|name| name.parse()).transpose()?,
            queue: asked.queue,
            job: asked.job,
            since: asked.since,
            before: asked
                .cursor
                .map(|cursor| cursor.parse())
                .transpose()
                .map_err(unknown)?,
        };
        // One more row shows whether there is another page.
        let mut rows = self
            .store
            .audit_entries(&filter, i64::from(limit) + 1)
            .await?;
        let is_more = rows.len() > usize::from(limit);
        rows.truncate(limit.into());
        let next_cursor = rows
            .last()
            .filter(|_| is_more)
            .map(|row| row.id.to_string());
        Ok(Page {
            items: rows.into_iter().map(entry).collect(),
            next_cursor,
            partial: false,
        })
    }

    pub async fn trails(&self) -> Result<Vec<AuditTrail>, Error> {
        Ok(self
            .store
            .audit_trails()
            .await?
            .into_iter()
            .map(trail)
            .collect())
    }

    pub async fn set_trail(
        &self,
        who: &Caller,
        name: &str,
        change: TrailChange,
    ) -> Result<AuditTrail, Error> {
        let name: TrailName = name.parse()?;
        let TrailChange {
            schema,
            description,
        } = change;
        block_in_place(|| json_schema::check(&schema))
            .map_err(|reason| Error::invalid(format!("schema: {reason}")))?;
        if description
            .as_ref()
            .is_some_and(|text| text.chars().count() > MAX_DESCRIPTION)
        {
            return Err(Error::invalid(format!(
                "description: must have at most {MAX_DESCRIPTION} characters"
            )));
        }
        if description
            .as_ref()
            .is_some_and(|text| text.contains(char::is_control))
        {
            return Err(Error::invalid(
                "description: must be one line without control characters",
            ));
        }
        let details = json!({ "schema": schema, "description": description });
        let act = async {
            let row = self
                .store
                .set_audit_trail(&name, &schema, description.as_deref(), &who.actor)
                .await?;
            Ok(trail(row))
        };
        self.actions
            .record::<AuditTrailsSet, _>(who, name.as_str(), details, act)
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
}

fn entry(row: AuditRow) -> AuditEntry {
    AuditEntry {
        id: row.id,
        trail: row.trail,
        entry_key: row.entry_key,
        plugin: row.plugin,
        revision: row.revision,
        queue: row.queue,
        job_id: row.job_id,
        correlation_id: row.correlation_id,
        at: row.at,
        entry: row.entry,
    }
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
    }
}
