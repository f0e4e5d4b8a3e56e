//! `[[schedules]]`: jobs that are made on a schedule, in the plugin's own queues.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Manifest, ManifestError, invalid};
use crate::id::{QueueName, ScheduleId};
use crate::schedule::{Missed, Rhythm};

/// A schedule and its jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Stable over revisions: a schedule replaces an earlier one with the same id.
    pub id: ScheduleId,
    /// One of the plugin's own queues.
    pub queue: QueueName,
    /// Name of its jobs.
    pub name: String,
    /// Data of its jobs; default `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// Milliseconds between ticks. Give either this or `cron`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Cron expression: five fields, or six with seconds first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// IANA time zone of `cron`; default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// What happens to a tick that no worker could run in its time.
    #[serde(default)]
    pub missed: Missed,
    /// One line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl ScheduleSpec {
    /// Refused are neither or both of `every_ms` and `cron`, and a date that never comes.
    pub fn rhythm(&self) -> Result<Rhythm, String> {
        let rhythm = match (self.every_ms, &self.cron) {
            (Some(ms), None) if self.tz.is_none() => Rhythm::Every(Duration::from_millis(ms)),
            (None, Some(pattern)) => Rhythm::Cron {
                pattern: pattern.clone(),
                zone: self.tz.clone(),
            },
            _ => return Err("must have either every_ms, or cron with an optional tz".into()),
        };
        rhythm
            .preview(&self.id, 0, 1)
            .map_err(|error| error.to_string())?;
        Ok(rhythm)
    }
}

impl Manifest {
    pub(super) fn check_schedules(&self) -> Result<(), ManifestError> {
        let mut ids = BTreeSet::new();
        for (i, schedule) in self.schedules.iter().enumerate() {
            let key = |field: &str| format!("schedules[{i}].{field}");
            if !ids.insert(&schedule.id) {
                return Err(invalid(
                    key("id"),
                    format!("{} is named twice", schedule.id),
                ));
            }
            if self.queue(&schedule.queue).is_none() {
                return Err(invalid(
                    key("queue"),
                    format!("{} is not one of the plugin's own queues", schedule.queue),
                ));
            }
            if schedule.name.is_empty() {
                return Err(invalid(key("name"), "must not be empty"));
            }
            schedule
                .rhythm()
                .map_err(|reason| invalid(format!("schedules[{i}]"), reason))?;
        }
        Ok(())
    }
}
