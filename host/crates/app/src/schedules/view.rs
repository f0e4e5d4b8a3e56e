//! The view of a schedule: its row, and its state in Redis.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_api::schedules::{ScheduleView, SchedulerView};
use patchbay_queue::Broker;
use patchbay_store::ScheduleRow;

use crate::scheduling::spec;

/// A tick that has been due for this long without starting is shown as overdue.
const OVERDUE_AFTER_MS: u64 = 60_000;

pub(super) fn time(ms: u64) -> Option<String> {
    let at: DateTime<Utc> = DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)?;
    Some(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The data is not redacted. Times are by Redis's clock, as the ticks are.
pub(super) fn to_view(
    row: ScheduleRow,
    in_redis: &[SchedulerView],
    broker: &Broker,
) -> ScheduleView {
    let (now_ms, default_zone) = (broker.now_ms(), broker.default_zone());
    let scheduler = in_redis.iter().find(|view| view.id == row.id && view.alive);
    let trouble = spec(&row, default_zone)
        .and_then(|(_, spec)| {
            spec.rhythm
                .preview(&spec.id, now_ms, 1)
                .map_err(|error| error.to_string())
        })
        .err()
        .filter(|_| row.paused_by.is_none());
    let late = scheduler.map(|view| now_ms.saturating_sub(view.next_at));
    ScheduleView {
        next_at: scheduler.and_then(|view| time(view.next_at)),
        overdue_ms: late.filter(|&ms| ms > OVERDUE_AFTER_MS),
        zone: row
            .cron
            .as_ref()
            .map(|_| row.tz.clone().unwrap_or_else(|| default_zone.to_string())),
        trouble,
        next: Vec::new(),
        id: row.id,
        queue: row.queue,
        name: row.name,
        data: row.data,
        every_ms: row.every_ms,
        cron: row.cron,
        tz: row.tz,
        missed: row.missed,
        description: row.description,
        plugin: row.plugin,
        overridden: row.overridden,
        paused_by: row.paused_by,
        paused_at: row.paused_at,
        updated_at: row.updated_at,
        updated_by: row.updated_by,
    }
}
