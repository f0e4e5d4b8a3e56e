//! Schedules: jobs that are added at fixed times or intervals.

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

path_params! {
    /// A job scheduler or repeatable that a BullMQ client made.
    ClientSchedulerPath {
        /// Name of its queue
        queue: String,
        /// Id of the job scheduler, or key of the repeatable
        id: String,
    }
}

operations! {
    /// List every schedule.
    SchedulesList = "schedules.list": GET "/api/admin/schedules" ((), NoQuery, NoBody) -> List<ScheduleView>,
        Viewer, Reads, data Shown(&["data"]), errors [];
    /// List the job schedulers and repeatables that BullMQ clients made, in every queue. `trouble`
    /// explains why one has no ticks.
    SchedulesListOfClients = "schedules.list_of_clients": GET "/api/admin/job-schedulers" ((), NoQuery, NoBody) -> List<ClientScheduler>,
        Viewer, Reads, data Shown(&["data"]), errors [];
    /// Show a job scheduler or repeatable that a BullMQ client made, with the data of its jobs.
    SchedulesShowOfClient = "schedules.show_of_client": GET "/api/admin/job-schedulers/{queue}/{id}" (ClientSchedulerPath, Reveal, NoBody) -> Data<ClientScheduler>,
        Viewer, Reads, audit "job-scheduler.reveal", data Shown(&["data"]), errors [409 "It is a schedule of Patchbay"];
    /// Remove a job scheduler that a BullMQ client made, as its `removeJobScheduler` does, or a
    /// repeatable, as `removeRepeatableByKey` does: its next tick is removed, and a tick that is due
    /// already still runs. It comes back if the client makes it again.
    SchedulesRemoveOfClient = "schedules.remove_of_client": DELETE "/api/admin/job-schedulers/{queue}/{id}" (ClientSchedulerPath, NoQuery, NoBody) -> Nothing,
        Operator, Destroys("removes the job scheduler"), audit "job-scheduler.remove", errors [409 "It is a schedule of Patchbay"];
    /// List the schedules that were removed in the last 30 days and can be restored, the newest
    /// removal first. One whose id is in use again is left out.
    SchedulesListRemoved = "schedules.list_removed": GET "/api/admin/removed-schedules" ((), NoQuery, NoBody) -> List<RemovedSchedule>,
        Viewer, Reads, errors [];
    /// Show a schedule with its next five ticks. Ids of job schedulers that BullMQ clients made have
    /// the code `made-by-client`, here and in the operations that follow.
    SchedulesShow = "schedules.show": GET "/api/admin/schedules/{id}" (SchedulePath, Reveal, NoBody) -> Data<ScheduleView>,
        Viewer, Reads, audit "schedule.reveal", data Shown(&["data"]), errors [];
    /// Create a schedule. Its jobs must fit what the queue's active plugin declares, unless `force`
    /// is true.
    SchedulesCreate = "schedules.create": POST "/api/admin/schedules" ((), NoQuery, Json<ScheduleChange>) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.create", data Shown(&["data"]), errors [
            404 "The queue is unknown",
            409 "The id is in use",
            422 "`does-not-fit`: the plugin of the queue declares no such job, or other data; or the body does not have the expected form",
        ];
    /// Change a schedule. Changes to a plugin's schedule survive updates of the plugin. A changed
    /// queue, name or data must fit as in a new schedule.
    SchedulesChange = "schedules.change": PATCH "/api/admin/schedules/{id}" (SchedulePath, NoQuery, Json<ScheduleChange>) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.change", data Shown(&["data"]), errors [
            422 "`does-not-fit`: the plugin of the queue declares no such job, or other data; or the body does not have the expected form",
        ];
    /// Remove an operator's schedule; for 30 days it can be restored. To stop a plugin's schedule, pause it or remove it from the
    /// manifest.
    SchedulesRemove = "schedules.remove": DELETE "/api/admin/schedules/{id}" (SchedulePath, NoQuery, NoBody) -> Nothing,
        Operator, Destroys("removes the schedule"), audit "schedule.remove", errors [409 "It belongs to a plugin"];
    /// Restore a schedule that was removed in the last 30 days, as it was.
    SchedulesRestore = "schedules.restore": POST "/api/admin/schedules/{id}/restore" (SchedulePath, NoQuery, NoBody) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.restore", data Shown(&["data"]), errors [409 "There is a schedule with this id again"];
    /// Pause a schedule: it stops ticking. A running job continues.
    SchedulesPause = "schedules.pause": POST "/api/admin/schedules/{id}/pause" (SchedulePath, NoQuery, NoBody) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.pause", data Shown(&["data"]), errors [];
    /// Resume a schedule: it ticks again.
    SchedulesResume = "schedules.resume": POST "/api/admin/schedules/{id}/resume" (SchedulePath, NoQuery, NoBody) -> Data<ScheduleView>,
        Operator, Changes, audit "schedule.resume", data Shown(&["data"]), errors [];
    /// Run a schedule's job now, in addition to its ticks.
    SchedulesRun = "schedules.run": POST "/api/admin/schedules/{id}/run" (SchedulePath, NoQuery, NoBody) -> Data<ScheduledJob>,
        Operator, Changes, audit "schedule.run", errors [];
    /// Show the next five ticks of a possible schedule; changes nothing.
    SchedulesPreview = "schedules.preview": POST "/api/admin/schedules/preview" ((), NoQuery, Json<Preview>) -> List<String>,
        Viewer, Reads, errors [];
}

/// A schedule with its state in Redis.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleView {
    /// Id of the schedule; stable, and also used in Redis.
    pub id: String,
    /// Queue of its jobs.
    pub queue: String,
    /// Name of its jobs.
    pub name: String,
    /// Data of its jobs: one JSON document as text.
    pub data: String,
    /// Milliseconds between ticks; either this or `cron`.
    pub every_ms: Option<i64>,
    /// Cron expression; either this or `everyMs`.
    pub cron: Option<String>,
    /// The requested time zone; see `zone` for the effective one.
    pub tz: Option<String>,
    /// What happens to a tick that was missed by more than a minute: `skip` or `once` (run it
    /// once).
    pub missed: String,
    /// Description in one line.
    pub description: String,
    /// The plugin whose manifest declares it, or that has made it at run time; absent for an operator's
    /// schedule.
    pub plugin: Option<String>,
    /// Whether a plugin has made it at run time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_run_time: bool,
    /// Whether an operator has changed the values of the manifest.
    pub overridden: bool,
    /// Who paused it; absent while it ticks.
    pub paused_by: Option<String>,
    /// When it was paused; absent while it ticks.
    pub paused_at: Option<DateTime<Utc>>,
    /// Why it was paused, in the operator's words; absent if none was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_reason: Option<String>,
    /// Only in the answer of pausing and resuming: nothing has changed, because it was paused, or
    /// not paused, already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
    /// Only in the answer of restoring: a value of its data was erased meanwhile, so it is paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub data_erased: bool,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// Who changed it last.
    pub updated_by: String,
    /// Time of the next tick; absent while paused or not yet in Redis.
    pub next_at: Option<String>,
    /// `nextAt` by the clocks of `zone`, with their offset; only with a cron expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at_local: Option<String>,
    /// The newest job that has run of those that its ticks, or operators with `schedules.run`, added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
    /// How long its tick has been overdue, in milliseconds.
    pub overdue_ms: Option<u64>,
    /// Effective time zone of the cron expression: its own or the default.
    pub zone: Option<String>,
    /// Why it has no ticks although it is not paused.
    pub trouble: Option<String>,
    /// The next ticks; only when a single schedule is shown. Empty while it is paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// `next` by the clocks of `zone`, with their offset; only with a cron expression.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_local: Vec<String>,
}

/// The newest attempt of the newest job of a schedule that the history knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    /// Id of the job.
    pub job_id: String,
    /// When the attempt started.
    pub at: DateTime<Utc>,
    /// When the attempt ended.
    pub finished_at: DateTime<Utc>,
    /// What the job did then: `completed`, `skipped` (the tick was missed), `failed` (for good),
    /// `retrying` or `deferred`.
    pub state: String,
    /// How the attempt ended: `completed`, `failed`, `trapped`, `deadline`, `memory-limit`,
    /// `invalid-result` or `host-fault`.
    pub outcome: String,
    /// Code of the failure; absent if it completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A job scheduler or repeatable that a BullMQ client made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientScheduler {
    /// Queue of its jobs.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// The scheduler in Redis; in lists without its data.
    #[serde(flatten)]
    pub view: SchedulerView,
    /// Time of the next tick.
    pub next_time: Option<String>,
    /// Effective time zone of the cron expression: its own or the default.
    pub zone_in_force: Option<String>,
    /// `nextTime` by the clocks of that zone, with their offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at_local: Option<String>,
    /// How long its tick has been overdue, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_ms: Option<u64>,
    /// The newest job that a tick of it added and that has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
}

/// A schedule that was removed, and can be restored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemovedSchedule {
    /// Id of the schedule.
    pub id: String,
    /// Queue of its jobs.
    pub queue: String,
    /// Name of its jobs.
    pub name: String,
    /// Milliseconds between ticks; either this or `cron`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<i64>,
    /// Cron expression; either this or `everyMs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The requested time zone of the cron expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// Description in one line.
    pub description: String,
    /// When it was removed.
    pub removed_at: DateTime<Utc>,
    /// Who removed it; absent if the record of that was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_by: Option<String>,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when it can be restored.
    pub restorable_until: DateTime<Utc>,
}

/// A schedule to create or change. In a change, absent fields stay as they are.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleChange {
    /// Id; only for a new schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Queue of its jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Name of its jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Data of its jobs.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Value>)]
    pub data: Option<Box<RawValue>>,
    /// Milliseconds between ticks, 1000 to 315360000000 (ten years); either this or `cron`.
    #[schema(minimum = 1000, maximum = 315_360_000_000_u64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Cron expression: five fields, or six with seconds first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// IANA time zone, or an offset such as UTC+5:30; the default is `schedule.default_zone`. In a
    /// change without `cron`: the zone of the cron expression that the schedule has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// What happens to a tick that was missed by more than a minute: `skip` (default) or `once`
    /// (run it once).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub missed: Option<Missed>,
    /// Description in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Store it although the queue's active plugin does not declare the job's name, or other data;
    /// this is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A job that a schedule added.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduledJob {
    /// Queue of the job.
    pub queue: String,
    /// Id of the job.
    pub id: String,
}

/// A possible schedule.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preview {
    /// Id that it would have; intervals are offset by it, to spread the ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Milliseconds between ticks; either this or `cron`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Cron expression: five fields, or six with seconds first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// IANA time zone, or an offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
}
