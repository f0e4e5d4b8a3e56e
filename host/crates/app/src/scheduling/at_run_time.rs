//! Schedules that plugins make at run time: checked as those of operators are, stored as rows, and
//! put in place by the reconciler.

use async_trait::async_trait;
use patchbay_capability::{RuntimeSchedule, RuntimeScheduleState, RuntimeSchedules};
use patchbay_model::PluginName;
use patchbay_model::capability::CapabilityError;
use patchbay_model::job::NewJob;
use patchbay_model::manifest::RuntimeSchedulesSpec;
use patchbay_model::schedule::{Missed, ScheduleId};
use patchbay_queue::{QueueError, check_job};
use patchbay_store::{ScheduleFields, ScheduleRow};

use super::reconcile::Reconciler;
use super::rhythm::{rhythm, word};
use crate::error::for_guests;

/// Ticks of a cron expression that are compared with the shortest interval that was granted.
const COMPARED_TICKS: usize = 20;

impl Reconciler {
    /// Checks that it ticks, not too often, and that its jobs could be added.
    fn check(
        &self,
        spec: &RuntimeSchedulesSpec,
        wanted: &RuntimeSchedule,
    ) -> Result<(), CapabilityError> {
        let queues = self.queues();
        if wanted.name.is_empty() {
            return Err(CapabilityError::invalid("the name must not be empty"));
        }
        let now_ms = queues.now_ms();
        let job = NewJob::new(
            wanted.queue.clone(),
            wanted.name.as_str(),
            wanted.data.as_str(),
        );
        check_job(&job, now_ms).map_err(|error| CapabilityError::invalid(error.to_string()))?;
        let (cron, tz) = (wanted.cron.as_deref(), wanted.tz.as_deref());
        let ticks = rhythm(wanted.every_ms, cron, tz, queues.default_zone())
            .and_then(|rhythm| rhythm.preview(&wanted.id, now_ms, COMPARED_TICKS))
            .map_err(|error| CapabilityError::invalid(error.to_string()))?;
        let shortest = ticks.windows(2).map(|pair| pair[1] - pair[0]).min();
        let least = spec.min_every_ms();
        if shortest.is_some_and(|shortest| shortest < least) {
            return Err(CapabilityError::invalid(format!(
                "it ticks more often than every {least} ms, which is what the manifest asks for"
            )));
        }
        Ok(())
    }

    /// The next tick of each of these rows, as it stands in Redis.
    async fn with_next_ticks(
        &self,
        rows: Vec<ScheduleRow>,
    ) -> Result<Vec<RuntimeScheduleState>, QueueError> {
        let mut states = Vec::with_capacity(rows.len());
        let mut seen = std::collections::HashMap::new();
        for row in rows {
            let Some(schedule) = as_guests_see(&row) else {
                continue;
            };
            if !seen.contains_key(&schedule.queue) {
                let there = match self.queues().schedulers(&schedule.queue).await {
                    Err(QueueError::Damaged { .. }) => Vec::new(),
                    there => there?,
                };
                seen.insert(schedule.queue.clone(), there);
            }
            let there = seen.get(&schedule.queue).map_or(&[][..], Vec::as_slice);
            let ticking = there.iter().find(|view| view.id == row.id && view.alive);
            states.push(RuntimeScheduleState {
                schedule,
                is_paused: row.paused_by.is_some(),
                next_at_ms: ticking.map(|view| view.next_at),
            });
        }
        Ok(states)
    }
}

/// Nothing for a row that another program has changed to what no schedule is.
fn as_guests_see(row: &ScheduleRow) -> Option<RuntimeSchedule> {
    Some(RuntimeSchedule {
        id: row.id.parse().ok()?,
        queue: row.queue.parse().ok()?,
        name: row.name.clone(),
        data: row.data.clone(),
        every_ms: row.every_ms.and_then(|ms| u64::try_from(ms).ok()),
        cron: row.cron.clone(),
        tz: row.tz.clone(),
        missed: match row.missed == word(Missed::Once) {
            true => Missed::Once,
            false => Missed::Skip,
        },
        description: row.description.clone(),
    })
}

#[async_trait]
impl RuntimeSchedules for Reconciler {
    async fn put(
        &self,
        plugin: &PluginName,
        spec: &RuntimeSchedulesSpec,
        wanted: RuntimeSchedule,
    ) -> Result<bool, CapabilityError> {
        self.check(spec, &wanted)?;
        let every_ms = wanted.every_ms.map(i64::try_from).transpose();
        let fields = ScheduleFields {
            id: wanted.id,
            queue: wanted.queue.to_string(),
            name: wanted.name,
            data: wanted.data,
            every_ms: every_ms.map_err(|_| CapabilityError::invalid("every-ms is too large"))?,
            cron: wanted.cron,
            tz: wanted.tz,
            missed: word(wanted.missed).to_owned(),
            description: wanted.description,
        };
        let put = self
            .store()
            .put_runtime_schedule(plugin, &fields, spec.max());
        let has_changed = put.await.map_err(for_guests)?;
        if has_changed {
            self.changed();
        }
        Ok(has_changed)
    }

    async fn remove(&self, plugin: &PluginName, id: &ScheduleId) -> Result<bool, CapabilityError> {
        let removed = self.store().remove_runtime_schedule(plugin, id).await;
        let was_there = removed.map_err(for_guests)?;
        if was_there {
            self.changed();
        }
        Ok(was_there)
    }

    async fn page(
        &self,
        plugin: &PluginName,
        after: &str,
        limit: u32,
    ) -> Result<Vec<RuntimeScheduleState>, CapabilityError> {
        let rows = self
            .store()
            .runtime_schedules(plugin, after, i64::from(limit))
            .await
            .map_err(for_guests)?;
        self.with_next_ticks(rows)
            .await
            .map_err(|_| CapabilityError::unavailable("Redis does not answer"))
    }
}
