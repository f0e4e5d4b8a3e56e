//! Use cases of schedules. Their ticks are made by `scheduling`.

mod of_clients;
mod removed;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    LastRun, Preview, ScheduleChange, ScheduleView, ScheduledJob, SchedulerView, SchedulesChange,
    SchedulesCreate, SchedulesPause, SchedulesRemove, SchedulesRestore, SchedulesResume,
    SchedulesRun, SchedulesShow,
};
use patchbay_model::QueueName;
use patchbay_model::job::NewJob;
use patchbay_model::schedule::{Rhythm, ScheduleId};
use patchbay_model::shell::arguments;
use patchbay_queue::{Broker, QueueError, check_job};
use patchbay_store::{ActionRow, LastRunRow, ScheduleFields, ScheduleRow, Store, StoreError};
use patchbay_telemetry::traces::Traces;
use serde_json::{Value, json};

use self::of_clients::Use;
use self::view::{last_run, local_time, time, to_view};
use crate::actions::{Actions, Caller};
use crate::declared_jobs::{DeclaredJobs, Forcing, is_forced, with_forced};
use crate::error::{Error, Kind};
use crate::jobs::check_name;
use crate::nearest::suggesting;
use crate::plugins::Plugins;
use crate::queues::Catalog;
use crate::scheduling::{Reconciler, rhythm, spec, word};
use crate::{Parts, enqueue_span, reveal};

/// Next ticks that are shown.
const PREVIEW: usize = 5;

#[derive(Clone)]
pub struct Schedules {
    store: Store,
    broker: Broker,
    plugins: Arc<Plugins>,
    reconciler: Arc<Reconciler>,
    actions: Actions,
    catalog: Catalog,
    traces: Traces,
    declared: Arc<DeclaredJobs>,
}

impl Schedules {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            broker: parts.broker.clone(),
            plugins: Arc::clone(&parts.plugins),
            reconciler: Arc::clone(&parts.schedules),
            actions: parts.actions.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
            traces: parts.traces.clone(),
            declared: Arc::clone(&parts.declared_jobs),
        }
    }

    /// Lists every schedule, redacted as the jobs of its queue.
    pub async fn list(&self) -> Result<Vec<ScheduleView>, Error> {
        let rows = self.store.schedules().await?;
        let mut in_redis: HashMap<String, Vec<SchedulerView>> = HashMap::new();
        for row in &rows {
            if let (false, Ok(queue)) = (
                in_redis.contains_key(&row.queue),
                row.queue.parse::<QueueName>(),
            ) {
                let schedulers = match self.broker.schedulers(&queue).await {
                    // No schedule is in place in a damaged queue. The list of queues says why.
                    Err(QueueError::Damaged { .. }) => Vec::new(),
                    schedulers => schedulers?,
                };
                in_redis.insert(row.queue.clone(), schedulers);
            }
        }
        let known: Vec<(&str, &str)> = rows
            .iter()
            .map(|row| (row.queue.as_str(), row.id.as_str()))
            .collect();
        let mut ran = self.last_runs(&known).await?;
        let mut reasons = self.pause_reasons(&rows).await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let paused_reason = reasons.remove(&row.id);
                let schedulers = in_redis.get(&row.queue).map_or(&[][..], Vec::as_slice);
                let last_run = ran.remove(&(row.queue.clone(), row.id.clone()));
                ScheduleView {
                    last_run,
                    paused_reason,
                    ..self.redacted(to_view(row, schedulers, &self.broker))
                }
            })
            .collect())
    }

    /// Why schedules are paused, by id; those without a reason are left out.
    async fn pause_reasons(&self, rows: &[ScheduleRow]) -> Result<HashMap<String, String>, Error> {
        let paused: HashMap<&str, DateTime<Utc>> = rows
            .iter()
            .filter_map(|row| Some((row.id.as_str(), row.paused_at?)))
            .collect();
        if paused.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<&str> = paused.keys().copied().collect();
        let pauses = self.store.last_actions(&["schedule.pause"], &ids).await?;
        // An earlier pause has another reason. The schedule is paused while the action is carried
        // out.
        let is_meant = |pause: &ActionRow| {
            let at = paused.get(pause.target.as_str());
            at.is_some_and(|at| *at - pause.began_at < TimeDelta::minutes(1))
        };
        Ok(pauses
            .into_iter()
            .filter(is_meant)
            .filter_map(|pause| Some((pause.target, pause.reason?)))
            .collect())
    }

    async fn pause_reason(&self, row: &ScheduleRow) -> Result<Option<String>, Error> {
        let reasons = self.pause_reasons(std::slice::from_ref(row)).await?;
        Ok(reasons.into_values().next())
    }

    /// The last runs of some schedulers, by queue and id.
    async fn last_runs(
        &self,
        schedulers: &[(&str, &str)],
    ) -> Result<HashMap<(String, String), LastRun>, Error> {
        let prefix = self.broker.prefix();
        let rows = self.store.last_runs(prefix, schedulers).await?;
        let run = |row: LastRunRow| ((row.queue.clone(), row.id.clone()), last_run(row));
        Ok(rows.into_iter().map(run).collect())
    }

    async fn last_run(&self, queue: &str, id: &str) -> Result<Option<LastRun>, Error> {
        Ok(self.last_runs(&[(queue, id)]).await?.into_values().next())
    }

    /// Shows a schedule with its next ticks.
    pub async fn show(
        &self,
        who: &Caller,
        id: &str,
        asked: &Reveal,
    ) -> Result<ScheduleView, Error> {
        reveal::check(asked)?;
        if !asked.reveal {
            return Ok(self.redacted(self.with_ticks(id).await?));
        }
        let (act, nothing) = (self.with_ticks(id), |_: &ScheduleView| Value::Null);
        self.actions
            .record_as::<SchedulesShow, _>(who, id, reveal::details(asked), act, nothing)
            .await
    }

    async fn with_ticks(&self, id: &str) -> Result<ScheduleView, Error> {
        let row = self.own(id, Use::Show).await?;
        let last_run = self.last_run(&row.queue, &row.id).await?;
        let paused_reason = self.pause_reason(&row).await?;
        let Ok((queue, spec)) = spec(&row, self.broker.default_zone()) else {
            return Ok(ScheduleView {
                last_run,
                paused_reason,
                ..to_view(row, &[], &self.broker)
            });
        };
        // A paused schedule has no ticks.
        let ticks = match row.paused_by {
            Some(_) => Vec::new(),
            None => spec
                .rhythm
                .preview(&spec.id, self.broker.now_ms(), PREVIEW)
                .unwrap_or_default(),
        };
        let view = to_view(row, &self.broker.schedulers(&queue).await?, &self.broker);
        let local = |tick: &u64| local_time(*tick, view.zone.as_deref());
        Ok(ScheduleView {
            next_local: ticks.iter().filter_map(local).collect(),
            next: ticks.into_iter().filter_map(time).collect(),
            last_run,
            paused_reason,
            ..view
        })
    }

    pub async fn create(
        &self,
        who: &Caller,
        wanted: ScheduleChange,
    ) -> Result<ScheduleView, Error> {
        let fields = ScheduleFields {
            id: required(wanted.id, "id")?.parse()?,
            queue: required(wanted.queue, "queue")?,
            name: required(wanted.name, "name")?,
            data: wanted
                .data
                .map_or_else(|| "{}".to_owned(), |data| data.get().to_owned()),
            every_ms: wanted.every_ms.map(milliseconds).transpose()?,
            cron: wanted.cron,
            tz: wanted.tz,
            missed: word(wanted.missed.unwrap_or_default()).to_owned(),
            description: wanted.description.unwrap_or_default(),
        };
        let queue = self.check(&fields).await?;
        let is_forced = self.is_forced(&queue, &fields, wanted.force)?;
        let act = async {
            self.store.create_schedule(&fields, &who.actor).await?;
            self.in_place(&fields.id).await
        };
        let details = with_forced(json!({ "queue": fields.queue }), is_forced);
        self.actions
            .record_as::<SchedulesCreate, _>(who, fields.id.as_str(), details, act, to_record)
            .await
    }

    pub async fn change(
        &self,
        who: &Caller,
        id: &str,
        change: ScheduleChange,
    ) -> Result<ScheduleView, Error> {
        if change.id.is_some() {
            return Err(Error::invalid(
                "id: cannot be changed. Create another schedule instead",
            ));
        }
        let row = self.own(id, Use::Change).await?;
        let id: ScheduleId = row.id.parse()?;
        // An interval and a cron expression replace each other.
        let (every_ms, cron, tz) = match (change.every_ms, change.cron) {
            (None, None) if change.tz.is_some() && row.cron.is_none() => {
                return Err(Error::invalid(format!(
                    "tz: schedule {id} has an interval, and a time zone is only of use to a cron expression. Give a cron expression, too"
                )));
            }
            (None, None) => (row.every_ms, row.cron, change.tz.or(row.tz)),
            (Some(ms), cron) => (Some(milliseconds(ms)?), cron, change.tz),
            (None, Some(cron)) => (None, Some(cron), change.tz.or(row.tz)),
        };
        // Another time does not ask again about jobs that are made already.
        let makes_other_jobs =
            change.queue.is_some() || change.name.is_some() || change.data.is_some();
        let fields = ScheduleFields {
            id: id.clone(),
            queue: change.queue.unwrap_or(row.queue),
            name: change.name.unwrap_or(row.name),
            data: change.data.map_or(row.data, |data| data.get().to_owned()),
            every_ms,
            cron,
            tz,
            missed: change
                .missed
                .map_or(row.missed, |missed| word(missed).to_owned()),
            description: change.description.unwrap_or(row.description),
        };
        let queue = self.check(&fields).await?;
        let is_forced = makes_other_jobs && self.is_forced(&queue, &fields, change.force)?;
        let details = with_forced(json!({}), is_forced);
        let act = async {
            self.store.change_schedule(&fields, &who.actor).await?;
            self.in_place(&id).await
        };
        self.actions
            .record_as::<SchedulesChange, _>(who, id.as_str(), details, act, to_record)
            .await
    }

    pub async fn remove(&self, who: &Caller, id: &str) -> Result<(), Error> {
        let id: ScheduleId = self.own(id, Use::Remove).await?.id.parse()?;
        let act = async {
            self.store.delete_schedule(&id).await?;
            self.reconcile().await
        };
        self.actions
            .record::<SchedulesRemove, _>(who, id.as_str(), json!({}), act)
            .await
    }

    /// Creates a removed schedule again.
    pub async fn restore(&self, who: &Caller, id: &str) -> Result<ScheduleView, Error> {
        let id = self.own_id(id, Use::Restore).await?;
        let act = async {
            let is_erased = match self.store.restore_schedule(&id, &who.actor).await {
                Err(StoreError::NotFound(message)) => {
                    return Err(self.why_not_restorable(&id, message).await);
                }
                restored => restored?,
            };
            Ok(ScheduleView {
                data_erased: is_erased,
                ..self.in_place(&id).await?
            })
        };
        self.actions
            .record_as::<SchedulesRestore, _>(who, id.as_str(), json!({}), act, to_record)
            .await
    }

    /// The error for a schedule that was not removed: it may be there.
    async fn why_not_restorable(&self, id: &ScheduleId, message: String) -> Error {
        if self.store.schedule(id).await.is_err() {
            let removed = self.store.removed_schedules().await.unwrap_or_default();
            let ids = removed.iter().map(|removed| removed.schedule.id.as_str());
            return Error::not_found(suggesting(message, id.as_str(), ids));
        }
        let actions = ["schedule.create", "schedule.restore"];
        let since = self.store.last_actions(&actions, &[id.as_str()]).await;
        let since = since.unwrap_or_default().into_iter().next().map(|made| {
            let how = match made.action.as_str() {
                "schedule.restore" => "restored",
                _ => "created",
            };
            let at = made.began_at.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!(": {how} by {} at {at}", made.actor)
        });
        Error::conflict(format!(
            "Schedule {id} exists{}. There is nothing to restore. See: patchbay schedule show {}",
            since.unwrap_or_default(),
            arguments(&[id.as_str()])
        ))
    }

    pub async fn pause(&self, who: &Caller, id: &str) -> Result<ScheduleView, Error> {
        let id: ScheduleId = self.own(id, Use::Pause).await?.id.parse()?;
        let act = async {
            let is_new = self.store.pause_schedule(&id, true, &who.actor).await?;
            let view = self.in_place(&id).await?;
            Ok(ScheduleView {
                already: !is_new,
                // This action is not recorded as done yet.
                paused_reason: match is_new {
                    true => who.reason.clone(),
                    false => view.paused_reason,
                },
                ..view
            })
        };
        self.actions
            .record_as::<SchedulesPause, _>(who, id.as_str(), json!({}), act, to_record)
            .await
    }

    pub async fn resume(&self, who: &Caller, id: &str) -> Result<ScheduleView, Error> {
        let id: ScheduleId = self.own(id, Use::Resume).await?.id.parse()?;
        let act = async {
            let is_new = self.store.pause_schedule(&id, false, &who.actor).await?;
            Ok(ScheduleView {
                already: !is_new,
                ..self.in_place(&id).await?
            })
        };
        self.actions
            .record_as::<SchedulesResume, _>(who, id.as_str(), json!({}), act, to_record)
            .await
    }

    /// Adds the job of a schedule now, in addition to its ticks. It is not checked, as the jobs of
    /// the ticks are not: the schedule was.
    pub async fn run(&self, who: &Caller, id: &str) -> Result<ScheduledJob, Error> {
        let row = self.own(id, Use::Run).await?;
        let (queue, spec) = spec(&row, self.broker.default_zone()).map_err(Error::invalid)?;
        let (span, trace) = enqueue_span::begin(&self.traces, &queue, who.trace.clone());
        let job = NewJob {
            trace,
            ..NewJob::new(queue.clone(), spec.name, spec.data)
        };
        let act = async {
            let ids = enqueue_span::end(span, self.broker.add(vec![job]).await)?;
            let id = ids.into_iter().next().ok_or_else(Error::internal)?;
            Ok(ScheduledJob {
                queue: queue.to_string(),
                id: id.to_string(),
            })
        };
        self.actions
            .record::<SchedulesRun, _>(who, id, json!({}), act)
            .await
    }

    /// The next ticks of a schedule that need not exist.
    pub fn preview(&self, wanted: &Preview) -> Result<Vec<String>, Error> {
        let id: ScheduleId = wanted.id.as_deref().unwrap_or("preview").parse()?;
        let (cron, tz) = (wanted.cron.as_deref(), wanted.tz.as_deref());
        let ticks = rhythm(wanted.every_ms, cron, tz, self.broker.default_zone())
            .and_then(|rhythm: Rhythm| rhythm.preview(&id, self.broker.now_ms(), PREVIEW))
            .map_err(|error| Error::invalid(error.to_string()))?;
        Ok(ticks.into_iter().filter_map(time).collect())
    }

    /// Checks that it ticks at least once more, that its queue exists, and that its jobs could be
    /// added. Returns the queue.
    async fn check(&self, fields: &ScheduleFields) -> Result<QueueName, Error> {
        check_name(&fields.name)?;
        reveal::refuse_mark("data", &fields.data)?;
        let queue: QueueName = fields.queue.parse()?;
        self.catalog.refuse_unknown(&queue).await?;
        // Each tick adds such a job.
        let now_ms = self.broker.now_ms();
        check_job(
            &NewJob::new(queue.clone(), fields.name.as_str(), fields.data.as_str()),
            now_ms,
        )?;
        let every = fields.every_ms.and_then(|ms| u64::try_from(ms).ok());
        rhythm(
            every,
            fields.cron.as_deref(),
            fields.tz.as_deref(),
            self.broker.default_zone(),
        )
        .and_then(|rhythm| rhythm.preview(&fields.id, now_ms, 1))
        .map_err(|error| Error::invalid(error.to_string()))?;
        Ok(queue)
    }

    /// Whether its jobs are made although they do not fit what the plugin of the queue declares.
    fn is_forced(
        &self,
        queue: &QueueName,
        fields: &ScheduleFields,
        force: bool,
    ) -> Result<bool, Error> {
        let checked = self.declared.check(queue, &fields.name, &fields.data);
        is_forced(checked, force, Forcing::Schedule)
    }

    /// Puts the change into effect before the caller gets its answer.
    async fn reconcile(&self) -> Result<(), Error> {
        self.reconciler.reconcile().await.map_err(|error| {
            tracing::error!(
                error = format!("{error:#}"),
                "a changed schedule is not in place yet"
            );
            let message =
                "The change is stored, and takes effect as soon as Postgres and Redis answer";
            Error::new(Kind::Unavailable, "unavailable", message)
        })
    }

    async fn in_place(&self, id: &ScheduleId) -> Result<ScheduleView, Error> {
        self.reconcile().await?;
        let row = self.store.schedule(id).await?;
        let queue: QueueName = row.queue.parse()?;
        let last_run = self.last_run(&row.queue, &row.id).await?;
        let paused_reason = self.pause_reason(&row).await?;
        let schedulers = self.broker.schedulers(&queue).await?;
        Ok(ScheduleView {
            last_run,
            paused_reason,
            ..self.redacted(to_view(row, &schedulers, &self.broker))
        })
    }

    /// Redacts the data as that of the queue's jobs.
    fn redacted(&self, mut view: ScheduleView) -> ScheduleView {
        if let Ok(queue) = view.queue.parse::<QueueName>() {
            view.data = self
                .plugins
                .redaction(&queue)
                .data(&view.data)
                .0
                .text
                .into_owned();
        }
        view
    }
}

/// What is recorded. The data is left out, since it may be personal.
fn to_record(view: &ScheduleView) -> Value {
    let mut result = json!({ "id": view.id, "queue": view.queue, "nextAt": view.next_at });
    if view.already {
        result["already"] = true.into();
    }
    result
}

fn required(value: Option<String>, name: &str) -> Result<String, Error> {
    value.ok_or_else(|| Error::invalid(format!("{name} is missing")))
}

fn milliseconds(ms: u64) -> Result<i64, Error> {
    i64::try_from(ms).map_err(|_| Error::invalid("everyMs: too large"))
}
