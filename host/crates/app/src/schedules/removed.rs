//! Schedules that were removed, and can be restored.

use std::collections::HashMap;

use patchbay_api::schedules::RemovedSchedule;
use patchbay_store::ActionRow;

use super::Schedules;
use crate::error::Error;

impl Schedules {
    /// Lists what can be restored, the newest removal first. Without data, as lists are.
    pub async fn list_removed(&self) -> Result<Vec<RemovedSchedule>, Error> {
        let rows = self.store.removed_schedules().await?;
        let ids: Vec<&str> = rows.iter().map(|row| row.schedule.id.as_str()).collect();
        let removals = match ids.is_empty() {
            true => Vec::new(),
            false => self.store.last_actions(&["schedule.remove"], &ids).await?,
        };
        let mut removals: HashMap<String, ActionRow> = removals
            .into_iter()
            .map(|removal| (removal.target.clone(), removal))
            .collect();
        let removed = rows.into_iter().map(|row| {
            let schedule = row.schedule;
            let removal = removals.remove(&schedule.id);
            let (removed_by, reason) = match removal {
                Some(removal) => (Some(removal.actor), removal.reason),
                None => (None, None),
            };
            RemovedSchedule {
                id: schedule.id,
                queue: schedule.queue,
                name: schedule.name,
                every_ms: schedule.every_ms,
                cron: schedule.cron,
                tz: schedule.tz,
                description: schedule.description,
                removed_at: row.removed_at,
                removed_by,
                reason,
                restorable_until: row.restorable_until,
            }
        });
        Ok(removed.collect())
    }
}
