//! What commands say of schedules.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_api::schedules::{ClientScheduler, LastRun, ScheduleView};
use patchbay_model::schedule::Zone;
use patchbay_model::shell::{arguments, arguments_with, option, word};
use patchbay_model::words::lasted;
use serde_json::Value;

/// A client's scheduler, with its fields renamed to those of a schedule.
pub(super) fn as_ours(other: &Value) -> Value {
    let mut one = other.clone();
    one["cron"] = one["pattern"].take();
    one["zone"] = one["zoneInForce"].take();
    one["nextAt"] = if one["alive"] == true {
        one["nextTime"].take()
    } else {
        Value::Null
    };
    one["madeBy"] = "client".into();
    one
}

/// A row of the list: a schedule or a client's scheduler.
pub(super) struct Line<'a> {
    id: &'a str,
    queue: &'a str,
    name: &'a str,
    every_ms: Option<u64>,
    cron: Option<&'a str>,
    zone: Option<&'a str>,
    paused_by: Option<&'a str>,
    paused_at: Option<DateTime<Utc>>,
    paused_reason: Option<&'a str>,
    trouble: Option<&'a str>,
    overdue_ms: Option<u64>,
    next_at: Option<&'a str>,
    is_of_client: bool,
    plugin: Option<&'a str>,
    overridden: bool,
    last_run: Option<&'a LastRun>,
    description: &'a str,
}

impl<'a> From<&'a ScheduleView> for Line<'a> {
    fn from(schedule: &'a ScheduleView) -> Self {
        Self {
            id: &schedule.id,
            queue: &schedule.queue,
            name: &schedule.name,
            every_ms: schedule.every_ms.and_then(|ms| u64::try_from(ms).ok()),
            cron: schedule.cron.as_deref(),
            zone: schedule.zone.as_deref(),
            paused_by: schedule.paused_by.as_deref(),
            paused_at: schedule.paused_at,
            paused_reason: schedule.paused_reason.as_deref(),
            trouble: schedule.trouble.as_deref(),
            overdue_ms: schedule.overdue_ms,
            next_at: schedule.next_at.as_deref(),
            is_of_client: false,
            plugin: schedule.plugin.as_deref(),
            overridden: schedule.overridden,
            last_run: schedule.last_run.as_ref(),
            description: &schedule.description,
        }
    }
}

impl<'a> From<&'a ClientScheduler> for Line<'a> {
    fn from(scheduler: &'a ClientScheduler) -> Self {
        let view = &scheduler.view;
        Self {
            id: &view.id,
            queue: scheduler.queue.as_str(),
            name: view.name.as_deref().unwrap_or_default(),
            every_ms: view.every_ms,
            cron: view.pattern.as_deref(),
            zone: scheduler.zone_in_force.as_deref(),
            paused_by: None,
            paused_at: None,
            paused_reason: None,
            trouble: view.trouble.as_deref(),
            overdue_ms: scheduler.overdue_ms,
            next_at: scheduler.next_time.as_deref().filter(|_| view.alive),
            is_of_client: true,
            plugin: None,
            overridden: false,
            last_run: scheduler.last_run.as_ref(),
            description: "",
        }
    }
}

impl Line<'_> {
    pub(super) fn cells(&self) -> [String; 8] {
        let [id, queue, name, description] =
            [self.id, self.queue, self.name, self.description].map(str::to_owned);
        let last_run = self.last_run();
        [
            id,
            queue,
            name,
            self.rhythm(),
            self.state(),
            last_run,
            self.owner(),
            description,
        ]
    }

    pub(super) fn rhythm(&self) -> String {
        rhythm(self.every_ms, self.cron, self.zone)
    }

    pub(super) fn state(&self) -> String {
        if let Some(who) = self.paused_by {
            let since = self
                .paused_at
                .map(|at| format!(" since {}", Zone::UTC.shown(at)));
            let reason = self.paused_reason.map(|reason| format!(": {reason}"));
            return format!(
                "Paused by {who}{}{}",
                since.unwrap_or_default(),
                reason.unwrap_or_default()
            );
        }
        let next = self.next_at.map(|next| moment(next, self.zone));
        match (self.trouble, self.overdue_ms, next) {
            (Some(trouble), _, Some(next)) => format!("{next}, then it STOPS: {trouble}"),
            (Some(trouble), _, None) => format!("STOPPED: {trouble}"),
            (None, Some(ms), _) => format!("OVERDUE for {}", lasted(Duration::from_millis(ms))),
            (None, None, Some(next)) => next,
            (None, None, None) if self.is_of_client => "ended".into(),
            (None, None, None) => "not in place yet".into(),
        }
    }

    pub(super) fn last_run(&self) -> String {
        self.last_run.map_or_else(
            || "none known".to_owned(),
            |run| {
                let why = run.code.as_ref().map(|code| format!(" ({code})"));
                let at = Zone::UTC.shown(run.at);
                format!("{at}: {}{}", run.state, why.unwrap_or_default())
            },
        )
    }

    pub(super) fn owner(&self) -> String {
        match (self.plugin, self.overridden) {
            _ if self.is_of_client => "a BullMQ client".into(),
            (Some(plugin), true) => format!("{plugin} (changed by an operator)"),
            (Some(plugin), false) => plugin.to_owned(),
            (None, _) => "operator".into(),
        }
    }
}

pub(super) fn rhythm(every_ms: Option<u64>, cron: Option<&str>, zone: Option<&str>) -> String {
    match (every_ms, cron) {
        (Some(ms), _) if ms % 1_000 == 0 => {
            format!("every {}", lasted(Duration::from_millis(ms)))
        }
        (Some(ms), _) => format!("every {ms} ms"),
        (None, Some(cron)) => format!("{cron} {}", zone.unwrap_or_default())
            .trim_end()
            .to_owned(),
        (None, None) => "unknown".into(),
    }
}

/// A time of the API by the clocks of the schedule's zone, with UTC beside.
pub(super) fn moment(time: &str, zone: Option<&str>) -> String {
    let zone = zone.and_then(|zone| zone.parse().ok()).unwrap_or(Zone::UTC);
    match DateTime::parse_from_rfc3339(time) {
        Ok(at) => zone.shown(at.to_utc()),
        Err(_) => time.to_owned(),
    }
}

pub(super) fn describe(schedule: &ScheduleView) -> String {
    let ScheduleView {
        id,
        queue,
        name,
        missed,
        data,
        description,
        ..
    } = schedule;
    let line = Line::from(schedule);
    let missed = match missed.as_str() {
        "once" => "run once, late",
        _ => "skipped",
    };
    let mut lines = vec![format!("{id}  {queue} {name}  {}", line.rhythm())];
    if !description.is_empty() {
        lines.push(format!("  {description}"));
    }
    let state = line.state();
    lines.push(match schedule.paused_by {
        Some(_) => format!(
            "  {state}\n  Next: patchbay schedule resume {}",
            arguments(&[id])
        ),
        None => format!("  Next: {state}"),
    });
    let later = schedule.next.iter().skip(1);
    lines.extend(later.map(|tick| format!("  Then: {}", moment(tick, line.zone))));
    lines.push(format!("  Last run: {}", line.last_run()));
    lines.extend(schedule.last_run.as_ref().map(|run| {
        format!(
            "    patchbay job timeline {}",
            arguments(&[queue, &run.job_id])
        )
    }));
    lines.push(format!(
        "  If missed: {missed}. Created by: {}",
        line.owner()
    ));
    lines.push(format!("  Data: {data}"));
    lines.join("\n")
}

pub(super) fn describe_of_client(scheduler: &ClientScheduler) -> String {
    let (line, view) = (Line::from(scheduler), &scheduler.view);
    let (id, queue) = (&view.id, scheduler.queue.as_str());
    let mut lines = vec![
        format!(
            "{}  {} {}  {}",
            word(id),
            word(queue),
            word(line.name),
            line.rhythm()
        ),
        format!("  Next: {}", line.state()),
        format!("  Last run: {}", line.last_run()),
    ];
    lines.extend(scheduler.last_run.as_ref().map(|run| {
        format!(
            "    patchbay job timeline {}",
            arguments(&[queue, &run.job_id])
        )
    }));
    lines.push(match view.legacy {
        true => format!(
            "  Created by: a BullMQ client, as a repeatable. To make it a schedule: patchbay queue migrate-repeatables {}",
            arguments(&[queue])
        ),
        false => "  Created by: a BullMQ client, which alone can change it".to_owned(),
    });
    lines.extend(view.data.as_ref().map(|data| format!("  Data: {data}")));
    lines.push(format!(
        "  To remove it: patchbay schedule remove {}",
        arguments_with(&[id], &option("--queue", queue))
    ));
    lines.join("\n")
}
