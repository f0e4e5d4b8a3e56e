//! The view of a schedule: its row, and its state in Redis.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_api::schedules::{LastRun, ScheduleView, SchedulerView};
use patchbay_model::schedule::Zone;
use patchbay_queue::Broker;
use patchbay_store::{LastRunRow, ScheduleRow};

use crate::scheduling::spec;

/// A tick that has been due for this long without starting is shown as overdue.
const OVERDUE_AFTER_MS: u64 = 60_000;

pub(super) fn time(ms: u64) -> Option<String> {
    Some(moment(ms)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The time by the clocks of a zone; `None` without a zone that is known.
pub(super) fn local_time(ms: u64, zone: Option<&str>) -> Option<String> {
    let zone: Zone = zone?.parse().ok()?;
    let local = zone.local(moment(ms)?);
    Some(local.to_rfc3339_opts(SecondsFormat::Millis, false))
}

fn moment(ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)
}

/// How long a tick has been due, if for long enough to be told.
pub(super) fn overdue(view: &SchedulerView, now_ms: u64) -> Option<u64> {
    let late = now_ms.saturating_sub(view.next_at);
    (view.alive && late > OVERDUE_AFTER_MS).then_some(late)
}

pub(super) fn last_run(row: LastRunRow) -> LastRun {
    // A tick that was skipped reaches no plugin; of one that ran elsewhere none is known.
    let is_skipped = row.plugin.is_none() && row.source == "host";
    let state = match row.verdict.as_str() {
        "complete" if is_skipped => "skipped",
        "complete" => "completed",
        "fail" => "failed",
        "retry" => "retrying",
        "defer" => "deferred",
        other => other,
    };
    LastRun {
        state: state.to_owned(),
        job_id: row.job_id,
        at: row.started_at,
        finished_at: row.finished_at,
        outcome: row.outcome,
        code: row.code,
    }
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
    let zone = row
        .cron
        .as_ref()
        .map(|_| row.tz.clone().unwrap_or_else(|| default_zone.to_string()));
    ScheduleView {
        next_at: scheduler.and_then(|view| time(view.next_at)),
        next_at_local: scheduler.and_then(|view| local_time(view.next_at, zone.as_deref())),
        overdue_ms: scheduler.and_then(|view| overdue(view, now_ms)),
        last_run: None,
        zone,
        trouble,
        next: Vec::new(),
        next_local: Vec::new(),
        id: row.id,
        queue: row.queue,
        name: row.name,
        data: row.data,
        every_ms: row.every_ms,
        cron: row.cron,
        tz: row.tz,
        missed: row.missed,
        description: row.description,
        at_run_time: row.owner.is_some(),
        plugin: row.plugin.or(row.owner),
        overridden: row.overridden,
        paused_by: row.paused_by,
        paused_at: row.paused_at,
        paused_reason: None,
        already: false,
        data_erased: false,
        updated_at: row.updated_at,
        updated_by: row.updated_by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_the_last_run_says_what_became_of_the_job() {
        let state = |verdict: &str, plugin: Option<&str>, source: &str| {
            let at = moment(1_795_000_000_000).expect("a time");
            let row = LastRunRow {
                queue: "q".into(),
                id: "nightly".into(),
                job_id: "repeat:nightly:1".into(),
                started_at: at,
                finished_at: at,
                outcome: "completed".into(),
                verdict: verdict.into(),
                code: None,
                plugin: plugin.map(str::to_owned),
                source: source.into(),
            };
            last_run(row).state
        };
        assert_eq!(state("complete", Some("email"), "host"), "completed");
        assert_eq!(state("complete", None, "host"), "skipped");
        assert_eq!(state("complete", None, "mirror"), "completed");
        assert_eq!(state("fail", Some("email"), "host"), "failed");
        assert_eq!(state("retry", Some("email"), "host"), "retrying");
    }

    #[test]
    fn a_time_of_a_zone_has_its_offset() {
        assert_eq!(
            local_time(1_796_095_800_000, Some("Asia/Kolkata")).as_deref(),
            Some("2026-12-01T09:00:00.000+05:30")
        );
        assert_eq!(local_time(1_796_095_800_000, None), None);
        assert_eq!(local_time(u64::MAX, Some("UTC")), None);
    }
}
