//! Turns legacy repeatables into schedules.

use std::collections::HashSet;

use patchbay_api::queues::MigratedRepeatable;
use patchbay_model::QueueName;
use patchbay_model::schedule::ScheduleId;
use patchbay_queue::LegacyRepeatable;
use patchbay_store::ScheduleFields;

use super::Queues;
use crate::Error;
use crate::scheduling::rhythm;

impl Queues {
    pub(super) async fn migrate(
        &self,
        actor: &str,
        queue: &QueueName,
        dry_run: bool,
    ) -> Result<Vec<MigratedRepeatable>, Error> {
        let redaction = self.plugins.redaction(queue);
        let mut migrated = Vec::new();
        let all = self.broker.schedulers(queue).await?;
        let live: HashSet<String> = all
            .into_iter()
            .filter(|view| !view.legacy)
            .map(|view| view.id)
            .collect();
        for repeatable in self.broker.legacy_repeatables(queue).await? {
            let (schedule, reason) = match self.schedule_of(queue, &repeatable, &live) {
                Err(reason) => (None, Some(reason)),
                Ok(fields) if dry_run => (Some(fields.id.to_string()), None),
                Ok(fields) => match self.store.create_schedule(&fields, actor).await {
                    Ok(()) => {
                        // The schedule is stored first: a crash in between leaves both, and a
                        // second try reports that.
                        self.broker.remove_legacy(queue, &repeatable).await?;
                        (Some(fields.id.to_string()), None)
                    }
                    Err(error) => (None, Some(Error::from(error).message)),
                },
            };
            let data = repeatable
                .data
                .as_ref()
                .map(|data| redaction.data(data).0.text.into_owned());
            migrated.push(MigratedRepeatable {
                repeatable: LegacyRepeatable { data, ..repeatable },
                schedule,
                reason,
            });
        }
        self.schedules.changed();
        Ok(migrated)
    }

    fn schedule_of(
        &self,
        queue: &QueueName,
        repeatable: &LegacyRepeatable,
        live: &HashSet<String>,
    ) -> Result<ScheduleFields, String> {
        if repeatable.is_scheduler {
            return Err(
                "it is a job scheduler whose id looks like a repeatable's key; it works here unchanged".into()
            );
        }
        if repeatable.ends_at.is_some() {
            return Err("it has an end time, which schedules cannot have".into());
        }
        if let Some(limit) = repeatable.limit {
            return Err(format!(
                "it ends after {limit} ticks, and schedules have no such limit"
            ));
        }
        let id = repeatable
            .id
            .clone()
            .unwrap_or_else(|| format!("{queue}-{}", repeatable.name));
        let id: ScheduleId = id
            .parse()
            .map_err(|error: patchbay_model::InvalidId| error.to_string())?;
        if live.contains(id.as_str()) {
            return Err(format!(
                "a schedule with the id {id} would replace the job scheduler with that id in this queue"
            ));
        }
        let zone = self.broker.default_zone();
        rhythm(
            repeatable.every_ms,
            repeatable.pattern.as_deref(),
            repeatable.zone.as_deref(),
            zone,
        )
        .and_then(|rhythm| rhythm.preview(&id, 0, 1))
        .map_err(|error| error.to_string())?;
        Ok(ScheduleFields {
            id,
            queue: queue.to_string(),
            name: repeatable.name.clone(),
            data: repeatable.data.clone().unwrap_or_else(|| "{}".into()),
            every_ms: repeatable.every_ms.and_then(|ms| i64::try_from(ms).ok()),
            cron: repeatable.pattern.clone(),
            tz: repeatable.zone.clone(),
            missed: "skip".into(),
            description: "was a repeatable of BullMQ".into(),
        })
    }
}
