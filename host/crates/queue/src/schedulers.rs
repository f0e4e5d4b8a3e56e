//! Job schedulers as BullMQ keeps them: list, put, remove, and make the next tick.
//!
//! A scheduler is a member of the queue's `repeat` set, scored by its next tick, with a hash of its
//! definition and one job for that tick. The job makes the next one when it starts (see
//! `worker::schedule`). A scheduler whose job is gone is dead, and only [`Broker::put_scheduler`]
//! revives it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bullmq::QueueKeys;
use patchbay_model::job::JobState;
use patchbay_model::queue::SchedulerView;
use patchbay_model::schedule::{Rhythm, ScheduleId};
use patchbay_model::shell::arguments;
use patchbay_model::{JobId, QueueName};
use redis::AsyncCommands;
use serde_json::{Map, Value, json};

use crate::repeat::{Moment, next_opts, of_hash};
use crate::repeatables::is_legacy;
use crate::scripts::{self, Call, unwritable};
use crate::{Broker, JobView, QueueError, damage};

#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerSpec {
    /// The scheduler's id. Another put with the same id replaces it.
    pub id: ScheduleId,
    pub name: String,
    /// Data of its jobs, one JSON document.
    pub data: String,
    pub rhythm: Rhythm,
    /// Whether to skip a tick that no worker could run in time.
    pub skip_missed: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Scheduler {
    /// The next tick, or the last one that was made.
    pub(crate) tick: f64,
    pub(crate) fields: HashMap<String, String>,
    is_ours: bool,
}

impl Scheduler {
    /// Id of the job of its tick.
    pub(crate) fn job_id(&self, id: &str) -> String {
        format!("repeat:{id}:{}", self.tick)
    }

    /// Its definition in the form of a job's `repeat` options.
    pub(crate) fn repeat(&self) -> Map<String, Value> {
        of_hash(
            self.fields
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_str())),
        )
    }

    /// When the next tick is due and the options of its job; `None` if the last tick was the final
    /// one. Fails with what is wrong.
    fn next(&self, moment: Moment) -> Result<Option<(u64, Value)>, String> {
        let mut opts: Map<String, Value> = self
            .fields
            .get("opts")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let repeat = self.repeat();
        opts.insert("repeat".into(), Value::Object(repeat.clone()));
        next_opts(opts, &repeat, moment)
    }
}

impl SchedulerSpec {
    /// Whether the scheduler in Redis is equal to this one and alive. Putting it again would then
    /// only move its next tick.
    pub fn stands_as(&self, there: &SchedulerView) -> bool {
        let rhythm = match &self.rhythm {
            Rhythm::Every(every) => there.every_ms == Some(every.as_millis() as u64),
            Rhythm::Cron { pattern, zone } => {
                there.pattern.as_ref() == Some(pattern) && &there.zone == zone
            }
        };
        rhythm
            && there.alive
            && !there.legacy
            && there.name.as_deref() == Some(self.name.as_str())
            && there.data.as_deref() == Some(self.data.as_str())
            && there.skip_missed == self.skip_missed
    }
}

impl Broker {
    /// Every scheduler of a queue, ordered by next tick.
    pub async fn schedulers(&self, queue: &QueueName) -> Result<Vec<SchedulerView>, QueueError> {
        let all = self.all_schedulers(queue).await?;
        Ok(all
            .into_iter()
            .map(|(id, scheduler, alive)| self.view(queue, id, &scheduler, alive))
            .collect())
    }

    fn view(
        &self,
        queue: &QueueName,
        id: String,
        scheduler: &Scheduler,
        alive: bool,
    ) -> SchedulerView {
        let text = |name: &str| scheduler.fields.get(name).cloned();
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        let legacy = is_legacy(&id, &scheduler.fields);
        let next = scheduler.next(self.moment(scheduler));
        let trouble = match next {
            _ if legacy && !alive => Some(format!(
                "a repeatable of BullMQ 5 or older, whose ticks only BullMQ 5 makes: patchbay queue migrate-repeatables {}",
                arguments(&[queue.as_str()])
            )),
            _ if legacy && scheduler.fields.is_empty() => None,
            Err(reason) => Some(reason),
            Ok(Some(_)) if !alive => Some("the job of its next tick is missing".into()),
            Ok(_) => None,
        };
        SchedulerView {
            next_at: scheduler.tick as u64,
            legacy,
            name: text("name"),
            data: text("data"),
            every_ms: number("every"),
            pattern: text("pattern"),
            zone: text("tz"),
            offset_ms: number("offset"),
            skip_missed: text("opts").is_some_and(|opts| {
                let template: Value = serde_json::from_str(&opts).unwrap_or_default();
                template["skipMissed"] == true
            }),
            alive,
            trouble,
            id,
        }
    }

    /// Each scheduler with its id, and whether the job of its tick exists and has not ended.
    pub(crate) async fn all_schedulers(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<(String, Scheduler, bool)>, QueueError> {
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        let ticks: Vec<(Vec<u8>, f64)> = connection.zrange_withscores(keys.repeat(), 0, -1).await?;
        if ticks.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.known_schedules().await?;
        let mut pipe = redis::pipe();
        // One damaged scheduler must not hide the others.
        pipe.ignore_errors();
        for (id, tick) in &ticks {
            let job = [b"repeat:", id.as_slice(), format!(":{tick}").as_bytes()].concat();
            pipe.hgetall([keys.repeat().as_bytes(), b":", id].concat());
            pipe.hmget(
                [keys.key_prefix().as_bytes(), &job].concat(),
                &["timestamp", "finishedOn"],
            );
        }
        let replies: Vec<redis::RedisResult<redis::Value>> =
            pipe.query_async(&mut connection).await?;
        let mut replies = replies.into_iter();
        let mut all = Vec::with_capacity(ticks.len());
        for (id, tick) in ticks {
            let fields = damage::read::<Vec<(Vec<u8>, Vec<u8>)>>(
                replies.next().unwrap_or(Ok(redis::Value::Nil)),
            )?;
            let job = damage::read::<[Option<Vec<u8>>; 2]>(
                replies.next().unwrap_or(Ok(redis::Value::Nil)),
            )?;
            let id = damage::text(&id);
            let is_ours = known.contains(&(queue.clone(), id.clone()));
            let fields = fields
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (damage::text(&name), damage::text(&value)));
            let alive = matches!(job, Ok([Some(_), None]));
            all.push((
                id,
                Scheduler {
                    tick,
                    fields: fields.collect(),
                    is_ours,
                },
                alive,
            ));
        }
        Ok(all)
    }

    /// One scheduler; `None` if it was removed.
    pub(crate) async fn scheduler(
        &self,
        queue: &QueueName,
        id: &str,
    ) -> redis::RedisResult<Option<Scheduler>> {
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        pipe.zscore(keys.repeat(), id)
            .hgetall(format!("{}:{id}", keys.repeat()));
        pipe.sismember(self.schedules_key(), format!("{queue}:{id}"));
        type Reply = (Option<f64>, Vec<(Vec<u8>, Vec<u8>)>, bool);
        let (tick, fields, is_ours): Reply = pipe.query_async(&mut self.connection.get()).await?;
        let fields = fields
            .into_iter()
            .map(|(name, value)| (damage::text(&name), damage::text(&value)))
            .collect();
        Ok(tick.map(|tick| Scheduler {
            tick,
            fields,
            is_ours,
        }))
    }

    pub(crate) fn moment(&self, scheduler: &Scheduler) -> Moment {
        let (now, tick) = (self.now_ms(), scheduler.tick.max(0.0) as u64);
        Moment {
            last: tick,
            now,
            default_zone: self.default_zone(),
            is_ours: scheduler.is_ours,
        }
    }

    /// Makes the tick after that of the job `producer`. False if another worker was quicker: the
    /// script checks that `producer` is the scheduler's last tick. `tick` 0 means one interval
    /// later.
    pub(crate) async fn make_tick(
        &self,
        queue: &QueueName,
        id: &str,
        producer: &str,
        tick: u64,
        opts: &Value,
    ) -> redis::RedisResult<bool> {
        let keys = self.keys(queue);
        let mut names = places(&keys).to_vec();
        names.extend([keys.job_key(producer), keys.active()]);
        let made: Option<String> = Call::new(&scripts::UPDATE_JOB_SCHEDULER, &names)
            .arg(tick)
            .arg(id)
            // The script takes the template's data from the scheduler itself.
            .arg("{}")
            .arg(rmp_serde::to_vec_named(opts).map_err(unwritable)?)
            .arg(self.now_ms())
            .arg(keys.key_prefix())
            .arg(producer)
            .invoke(&mut self.connection.get())
            .await?;
        Ok(made.is_some())
    }

    /// Stores the data, unless the scheduler has some.
    pub(crate) async fn keep_scheduler_data(
        &self,
        queue: &QueueName,
        id: &str,
        data: &str,
    ) -> redis::RedisResult<()> {
        self.connection
            .get()
            .hset_nx(format!("{}:{id}", self.keys(queue).repeat()), "data", data)
            .await
    }

    /// Makes the next tick of other clients' schedulers that have lost it, because it could not be
    /// computed until their definition was repaired, or because Redis was away at that moment.
    /// Returns their ids. Patchbay's own are put again by the reconciler. Schedulers that have come
    /// to their end stay ended.
    pub async fn revive_schedulers(&self, queue: &QueueName) -> Result<Vec<String>, QueueError> {
        let mut revived = Vec::new();
        for (id, scheduler, alive) in self.all_schedulers(queue).await? {
            if alive || scheduler.is_ours || !scheduler.fields.contains_key("ic") {
                continue;
            }
            let mut moment = self.moment(&scheduler);
            if moment.last > moment.now {
                // The lost tick was in the future: make the same tick again.
                moment.last = 0;
            } else if moment.now - moment.last < GRACE_MS {
                continue;
            }
            let Ok(Some((tick, opts))) = scheduler.next(moment) else {
                continue;
            };
            if self
                .make_tick(queue, &id, &scheduler.job_id(&id), tick, &opts)
                .await?
            {
                revived.push(id);
            }
        }
        Ok(revived)
    }

    /// Creates or replaces a scheduler, with the job of its next tick. Refused if it never ticks
    /// again.
    pub async fn put_scheduler(
        &self,
        queue: &QueueName,
        spec: &SchedulerSpec,
    ) -> Result<(), QueueError> {
        let keys = self.keys(queue);
        let now = self.now_ms();
        let next = spec
            .rhythm
            .next_after(&spec.id, now)
            .map_err(|error| QueueError::Invalid(error.to_string()))?;
        let next = next.ok_or_else(|| {
            QueueError::Invalid(format!("Schedule {} never matches a date", spec.id))
        })?;
        let mut definition = Map::from_iter([("name".into(), json!(spec.name))]);
        let mut repeat = Map::from_iter([("count".into(), json!(1))]);
        let rhythm = match &spec.rhythm {
            Rhythm::Every(every) => vec![
                ("every", json!(every.as_millis() as u64)),
                (
                    "offset",
                    json!(spec.rhythm.offset(&spec.id).as_millis() as u64),
                ),
            ],
            Rhythm::Cron { pattern, zone } => {
                let zone = zone.as_ref().map(|zone| ("tz", json!(zone)));
                std::iter::once(("pattern", json!(pattern)))
                    .chain(zone)
                    .collect()
            }
        };
        for (name, value) in rhythm {
            definition.insert(name.into(), value.clone());
            repeat.insert(name.into(), value);
        }
        let template = if spec.skip_missed {
            json!({ "skipMissed": true })
        } else {
            json!({})
        };
        let mut of_tick = template.clone();
        of_tick["repeat"] = Value::Object(repeat);
        of_tick["jobId"] = json!(format!("repeat:{}:{next}", spec.id));
        of_tick["delay"] = json!(next - now);
        of_tick["timestamp"] = json!(now);
        of_tick["prevMillis"] = json!(next);
        of_tick["repeatJobKey"] = json!(spec.id.as_str());
        let packed = |value: &Value| rmp_serde::to_vec_named(value).map_err(unwritable);
        let mut names = places(&keys).to_vec();
        names.push(keys.active());
        let call = Call::new(&scripts::ADD_JOB_SCHEDULER, &names)
            .arg(next)
            .arg(packed(&Value::Object(definition))?)
            .arg(spec.id.as_str())
            .arg(&spec.data)
            .arg(packed(&template)?)
            .arg(packed(&of_tick)?)
            .arg(now)
            .arg(keys.key_prefix())
            .arg("");
        match call
            .invoke::<redis::Value>(&mut self.connection.get())
            .await?
        {
            redis::Value::Int(code) if code < 0 => Err(QueueError::Invalid(format!(
                "The next tick of {} cannot be added: jobs of earlier ticks are in its place (code {code})",
                spec.id
            ))),
            _ => Ok(()),
        }
    }

    /// The schedulers that Patchbay has put, by queue and id. All others belong to other clients.
    pub async fn known_schedules(&self) -> Result<HashSet<(QueueName, String)>, QueueError> {
        let known: Vec<String> = self.connection.get().smembers(self.schedules_key()).await?;
        // Neither names nor ids contain a colon.
        let parse = |text: &String| {
            text.split_once(':')
                .and_then(|(queue, id)| Some((queue.parse().ok()?, id.to_owned())))
        };
        Ok(known.iter().filter_map(parse).collect())
    }

    pub async fn set_known_schedules(
        &self,
        known: &HashSet<(QueueName, String)>,
    ) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        pipe.atomic().del(self.schedules_key()).ignore();
        if !known.is_empty() {
            let known: Vec<String> = known
                .iter()
                .map(|(queue, id)| format!("{queue}:{id}"))
                .collect();
            pipe.sadd(self.schedules_key(), known).ignore();
        }
        Ok(pipe.query_async(&mut self.connection.get()).await?)
    }

    fn schedules_key(&self) -> String {
        format!("{}:schedules", self.config.own_prefix)
    }

    /// Returns whether it existed. Its next tick is removed, even one that is due and waits behind
    /// other jobs or in a paused queue. A running one continues.
    pub async fn remove_scheduler(&self, queue: &QueueName, id: &str) -> Result<bool, QueueError> {
        let repeat = self.keys(queue).repeat();
        let tick: Option<f64> = self.connection.get().zscore(repeat, id).await?;
        let existed = self.remove_as_bullmq(queue, id).await?;
        // BullMQ's script removes only a delayed tick.
        if let Some(tick) = tick.and_then(|tick| format!("repeat:{id}:{tick}").parse().ok()) {
            self.remove_if_it_waits(queue, &tick).await?;
        }
        Ok(existed)
    }

    /// As `removeJobScheduler` of BullMQ's clients: a tick that is due already still runs. Returns
    /// whether it existed.
    async fn remove_as_bullmq(&self, queue: &QueueName, id: &str) -> Result<bool, QueueError> {
        let keys = self.keys(queue);
        let call = Call::new(
            &scripts::REMOVE_JOB_SCHEDULER,
            &[keys.repeat(), keys.delayed(), keys.events()],
        );
        let code: i64 = call
            .arg(id)
            .arg(keys.key_prefix())
            .invoke(&mut self.connection.get())
            .await?;
        Ok(code == 0)
    }

    /// Removes what a client made: a job scheduler as `removeJobScheduler` does, a repeatable with
    /// its delayed jobs as `removeRepeatableByKey` does. Returns whether it existed.
    pub async fn remove_of_client(&self, queue: &QueueName, id: &str) -> Result<bool, QueueError> {
        let all = self.legacy_repeatables(queue).await?;
        let repeatable = all.iter().find(|one| one.key == id && !one.is_scheduler);
        match repeatable {
            Some(repeatable) => self.remove_legacy(queue, repeatable).await.map(|()| true),
            None => self.remove_as_bullmq(queue, id).await,
        }
    }

    async fn remove_if_it_waits(&self, queue: &QueueName, id: &JobId) -> Result<(), QueueError> {
        let waits = |job: &JobView| matches!(job.state, JobState::Waiting | JobState::Prioritized);
        if !self.job(queue, id).await?.as_ref().is_some_and(waits) {
            return Ok(());
        }
        match self.remove(queue, id).await {
            // A worker was quicker.
            Err(QueueError::Running { .. } | QueueError::NotFound { .. }) => Ok(()),
            done => done,
        }
    }
}

/// The keys that making a tick touches. The scripts expect them first, in this order.
pub(crate) fn places(keys: &QueueKeys) -> [String; 10] {
    [
        keys.repeat(),
        keys.delayed(),
        keys.wait(),
        keys.paused(),
        keys.meta(),
        keys.prioritized(),
        keys.marker(),
        keys.id(),
        keys.events(),
        keys.pc(),
    ]
}

/// Another worker may be about to make the tick that follows one that has just ended.
const GRACE_MS: u64 = 5_000;

/// Ticks that are later than this count as missed: the host, the plugin or Redis was away.
pub(crate) const MISSED_AFTER: Duration = Duration::from_secs(60);
