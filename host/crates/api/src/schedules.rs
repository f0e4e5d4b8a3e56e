//! Schedules: jobs that come by themselves.

use chrono::{DateTime, Utc};
use patchbay_model::QueueName;
pub use patchbay_model::queue::SchedulerView;
pub use patchbay_model::schedule::Missed;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::answer::{Data, List, Nothing};
use crate::body::{Json, NoBody};
use crate::jobs::given;
use crate::operation::NoQuery;
use crate::reveal::Reveal;
use crate::{operations, path_params};

path_params! {
    /// A schedule.
    SchedulePath {
        /// Id of the schedule
        id: String,
    }
}

operations! {
    /// Every schedule.
    SchedulesList = "schedules.list": GET "/api/admin/schedules" ((), NoQuery, NoBody) -> List<ScheduleView>,
        Operator, Reads, errors [];
    /// Job schedulers and repeatables that BullMQ's clients made, in every queue. `trouble` says why one has no ticks.
    SchedulesListOfClients = "schedules.list_of_clients": GET "/api/admin/job-schedulers" ((), NoQuery, NoBody) -> List<ClientScheduler>,
        Operator, Reads, errors [];
    /// Show a schedule with its next five ticks.
    SchedulesShow = "schedules.show": GET "/api/admin/schedules/{id}" (SchedulePath, Reveal, NoBody) -> Data<ScheduleView>,
        Operator, Reads, audit "schedule.reveal", errors [];
    /// Make a schedule.
    SchedulesCreate = "schedules.create": POST "/api/admin/schedules" ((), NoQuery, Json<ScheduleChange>) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.create", errors [404 "Nobody knows the queue", 409 "The id is taken"];
    /// Change a schedule. A plugin's stays changed when the plugin is updated.
    SchedulesChange = "schedules.change": PATCH "/api/admin/schedules/{id}" (SchedulePath, NoQuery, Json<ScheduleChange>) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.change", errors [];
    /// Remove an operator's schedule. A plugin's is paused instead, or taken out of its manifest.
    SchedulesRemove = "schedules.remove": DELETE "/api/admin/schedules/{id}" (SchedulePath, NoQuery, NoBody) -> Nothing,
        Operator, Destroys("this forgets the schedule"), audit "schedule.remove", errors [409 "It is a plugin's"];
    /// Stop a schedule's ticks; one that runs goes on.
    SchedulesPause = "schedules.pause": POST "/api/admin/schedules/{id}/pause" (SchedulePath, NoQuery, NoBody) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.pause", errors [];
    /// Let a schedule tick again.
    SchedulesResume = "schedules.resume": POST "/api/admin/schedules/{id}/resume" (SchedulePath, NoQuery, NoBody) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.resume", errors [];
    /// Run a schedule's job now, besides its ticks.
    SchedulesRun = "schedules.run": POST "/api/admin/schedules/{id}/run" (SchedulePath, NoQuery, NoBody) -> Data<ScheduledJob>,
        Operator, Changes, audit "schedule.run", errors [];
    /// The next five ticks of what might be scheduled; changes nothing.
    SchedulesPreview = "schedules.preview": POST "/api/admin/schedules/preview" ((), NoQuery, Json<Preview>) -> List<String>,
        Operator, Reads, errors [];
}

/// A schedule, and how it stands in Redis.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleView {
    /// Stable: it names the schedule in Redis, too.
    pub id: String,
    /// Where its jobs go.
    pub queue: String,
    /// What its jobs are called.
    pub name: String,
    /// Of its jobs: one JSON document as text.
    pub data: String,
    /// Milliseconds between ticks; this or `cron`.
    pub every_ms: Option<i64>,
    /// Cron expression.
    pub cron: Option<String>,
    /// The zone that was asked for; see `zone`.
    pub tz: Option<String>,
    /// `skip` or `once`: what becomes of a tick that nobody could run within a minute.
    pub missed: String,
    /// One line.
    pub description: String,
    /// The plugin whose manifest names it; absent for an operator's.
    pub plugin: Option<String>,
    /// An operator has changed what the manifest says.
    pub overridden: bool,
    /// Absent while it ticks.
    pub paused_by: Option<String>,
    /// Absent while it ticks.
    pub paused_at: Option<DateTime<Utc>>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
    /// Of the last change.
    pub updated_by: String,
    /// The next tick; absent while paused, or not yet in place.
    pub next_at: Option<String>,
    /// How long its tick has been due without starting, milliseconds.
    pub overdue_ms: Option<u64>,
    /// The time zone of its cron expression: its own, or the default.
    pub zone: Option<String>,
    /// Why it has no ticks, though it is not paused.
    pub trouble: Option<String>,
    /// The ticks after now; of a single schedule that is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

/// A job scheduler or repeatable that a BullMQ client made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientScheduler {
    /// Where its jobs go.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// As it stands in Redis, without its data.
    #[serde(flatten)]
    pub view: SchedulerView,
    /// The next tick, as a time.
    pub next_time: Option<String>,
    /// The time zone of its cron expression: its own, or the default.
    pub zone_in_force: Option<String>,
}

/// A schedule. For a change, what is absent stays.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleChange {
    /// Its id; only for a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where its jobs go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// What they are called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Their data.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub data: Option<Box<RawValue>>,
    /// Milliseconds between ticks, 1000 to 315360000000 (ten years); this or `cron`.
    #[schema(minimum = 1000, maximum = 315_360_000_000_u64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Five fields, or six with seconds first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// IANA time zone, or an offset such as UTC+5:30; the default is `schedule.default_zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// `skip` (default) or `once`: what becomes of a tick that nobody could run within a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub missed: Option<Missed>,
    /// One line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A job of a schedule.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduledJob {
    /// Where it is.
    pub queue: String,
    /// Its id there.
    pub id: String,
}

/// What might be scheduled.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preview {
    /// The id that it would have: intervals are spread by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Milliseconds between ticks; this or `cron`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Five fields, or six with seconds first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// IANA time zone, or an offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
}
