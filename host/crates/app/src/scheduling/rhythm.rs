//! Translates a stored schedule into its rhythm and its job scheduler in Redis.

use std::time::Duration;

use patchbay_model::QueueName;
use patchbay_model::manifest::{Manifest, ScheduleSpec};
use patchbay_model::schedule::{InvalidSchedule, Missed, Rhythm, Zone};
use patchbay_queue::SchedulerSpec;
use patchbay_store::{ScheduleFields, ScheduleRow};

/// The row was checked when it was stored. Fails for rows that another program wrote.
pub fn spec(row: &ScheduleRow, default_zone: Zone) -> Result<(QueueName, SchedulerSpec), String> {
    let every_ms = row.every_ms.and_then(|ms| u64::try_from(ms).ok());
    let rhythm = rhythm(
        every_ms,
        row.cron.as_deref(),
        row.tz.as_deref(),
        default_zone,
    );
    let rhythm = rhythm.map_err(|error| error.to_string())?;
    let spec = SchedulerSpec {
        id: row
            .id
            .parse()
            .map_err(|error: patchbay_model::InvalidId| error.to_string())?,
        name: row.name.clone(),
        data: row.data.clone(),
        rhythm,
        skip_missed: row.missed == word(Missed::Skip),
    };
    let queue = row
        .queue
        .parse()
        .map_err(|error: patchbay_model::InvalidId| error.to_string())?;
    Ok((queue, spec))
}

/// Either an interval or a cron expression. The zone is stored in Redis even if it is the default,
/// since a worker on Node has another default.
pub fn rhythm(
    every_ms: Option<u64>,
    cron: Option<&str>,
    tz: Option<&str>,
    default_zone: Zone,
) -> Result<Rhythm, InvalidSchedule> {
    match (every_ms, cron) {
        (Some(ms), None) if tz.is_none() => Ok(Rhythm::Every(Duration::from_millis(ms))),
        (None, Some(pattern)) => {
            let zone = tz.map_or_else(|| default_zone.to_string(), str::to_owned);
            Ok(Rhythm::Cron {
                pattern: pattern.to_owned(),
                zone: Some(zone),
            })
        }
        _ => Err(InvalidSchedule::Ambiguous),
    }
}

pub fn word(missed: Missed) -> &'static str {
    match missed {
        Missed::Skip => "skip",
        Missed::Once => "once",
    }
}

/// The rows of a manifest's schedules.
pub(super) fn wanted(manifest: &Manifest) -> Vec<ScheduleFields> {
    let fields = |spec: &ScheduleSpec| ScheduleFields {
        id: spec.id.clone(),
        queue: spec.queue.to_string(),
        name: spec.name.clone(),
        data: spec
            .data
            .as_ref()
            .map_or_else(|| "{}".to_owned(), ToString::to_string),
        every_ms: spec.every_ms.and_then(|ms| i64::try_from(ms).ok()),
        cron: spec.cron.clone(),
        tz: spec.tz.clone(),
        missed: word(spec.missed).to_owned(),
        description: spec.description.clone(),
    };
    manifest.schedules.iter().map(fields).collect()
}
