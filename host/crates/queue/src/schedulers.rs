//! Job schedulers as BullMQ keeps them: who is there, putting one in its place, taking one away, running one now.
//!
//! A scheduler is a member of the queue's `repeat` set, scored by its next tick, with a hash of its definition and one job for that tick.
//! The job makes the next one when it starts (see `worker::schedule`); a scheduler whose job is gone has died, and only
//! [`Queues::put_scheduler`] brings it back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bullmq::QueueKeys;
use patchbay_model::job::JobState;
use patchbay_model::schedule::{Rhythm, ScheduleId};
use patchbay_model::{JobId, QueueName};
use redis::AsyncCommands;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::scripts::{self, Call};
use crate::worker::unwritable;
use crate::{JobView, QueueError, Queues};

/// What a scheduler makes, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerSpec {
    /// Its id; the same again replaces it.
    pub id: ScheduleId,
    /// Name of its jobs.
    pub name: String,
    /// Their data, one JSON document.
    pub data: String,
    /// When.
    pub rhythm: Rhythm,
    /// Whether a tick that nobody could run in its time is left out.
    pub skip_missed: bool,
}

/// A scheduler in Redis, whoever put it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerView {
    /// Its id, or the key of a legacy repeatable.
    pub id: String,
    /// The next tick, Unix milliseconds.
    pub next_at: u64,
    /// Name of its jobs.
    pub name: Option<String>,
    /// Their data.
    pub data: Option<String>,
    /// Milliseconds between ticks.
    pub every_ms: Option<u64>,
    /// Or a cron expression.
    pub pattern: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// Milliseconds after each full interval.
    pub offset_ms: Option<u64>,
    /// Whether its next tick will come: its job is there and has not ended.
    pub alive: bool,
    /// Made by `repeat` options before BullMQ had schedulers: it has no definition of its own.
    pub legacy: bool,
}

impl SchedulerSpec {
    /// Whether the scheduler in Redis is this one, and alive: then putting it again would only move its next tick.
    pub fn stands_as(&self, there: &SchedulerView) -> bool {
        let rhythm = match &self.rhythm {
            Rhythm::Every(every) => there.every_ms == Some(every.as_millis() as u64),
            Rhythm::Cron { pattern, zone } => there.pattern.as_ref() == Some(pattern) && &there.zone == zone,
        };
        rhythm
            && there.alive
            && !there.legacy
            && there.name.as_deref() == Some(self.name.as_str())
            && there.data.as_deref() == Some(self.data.as_str())
    }
}

impl Queues {
    /// Every scheduler of a queue, the next to tick first.
    pub async fn schedulers(&self, queue: &QueueName) -> Result<Vec<SchedulerView>, QueueError> {
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        let ticks: Vec<(String, f64)> = connection.zrange_withscores(keys.repeat(), 0, -1).await?;
        let mut pipe = redis::pipe();
        for (id, tick) in &ticks {
            pipe.hgetall(format!("{}:{id}", keys.repeat()));
            pipe.hmget(keys.job_key(&format!("repeat:{id}:{tick}")), &["timestamp", "finishedOn"]);
        }
        if ticks.is_empty() {
            return Ok(Vec::new());
        }
        type Pair = (HashMap<String, String>, (Option<u64>, Option<u64>));
        let flat: Vec<redis::Value> = pipe.query_async(&mut connection).await?;
        let mut schedulers = Vec::with_capacity(ticks.len());
        for ((id, tick), pair) in ticks.into_iter().zip(flat.chunks(2)) {
            let (mut fields, (made, ended)): Pair =
                redis::from_redis_value(redis::Value::Array(pair.to_vec())).map_err(redis::RedisError::from)?;
            let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
            schedulers.push(SchedulerView {
                next_at: tick as u64,
                legacy: fields.is_empty(),
                name: fields.remove("name"),
                data: fields.remove("data"),
                every_ms: number(fields.remove("every")),
                pattern: fields.remove("pattern"),
                zone: fields.remove("tz"),
                offset_ms: number(fields.remove("offset")),
                alive: made.is_some() && ended.is_none(),
                id,
            });
        }
        Ok(schedulers)
    }

    /// Puts a scheduler in its place, with the job of its next tick. One that never ticks again is refused.
    pub async fn put_scheduler(&self, queue: &QueueName, spec: &SchedulerSpec) -> Result<(), QueueError> {
        let keys = self.keys(queue);
        let now = self.now_ms();
        let next = spec.rhythm.next_after(&spec.id, now).map_err(|error| QueueError::Invalid(error.to_string()))?;
        let next = next.ok_or_else(|| QueueError::Invalid(format!("schedule {} never comes", spec.id)))?;
        let mut definition = Map::from_iter([("name".into(), json!(spec.name))]);
        let mut repeat = Map::from_iter([("count".into(), json!(1))]);
        let rhythm = match &spec.rhythm {
            Rhythm::Every(every) => vec![
                ("every", json!(every.as_millis() as u64)),
                ("offset", json!(spec.rhythm.offset(&spec.id).as_millis() as u64)),
            ],
            Rhythm::Cron { pattern, zone } => {
                let zone = zone.as_ref().map(|zone| ("tz", json!(zone)));
                std::iter::once(("pattern", json!(pattern))).chain(zone).collect()
            }
        };
        for (name, value) in rhythm {
            definition.insert(name.into(), value.clone());
            repeat.insert(name.into(), value);
        }
        let template = if spec.skip_missed { json!({ "skipMissed": true }) } else { json!({}) };
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
        match call.invoke::<redis::Value>(&mut self.connection.get()).await? {
            redis::Value::Int(code) if code < 0 => Err(QueueError::Invalid(format!(
                "the tick of {} cannot be made: jobs of earlier ticks are in its place (code {code})",
                spec.id
            ))),
            _ => Ok(()),
        }
    }

    /// The schedulers that are ours, by queue and id: the others are another client's business.
    pub async fn known_schedules(&self) -> Result<HashSet<(QueueName, String)>, QueueError> {
        let known: Vec<String> = self.connection.get().smembers(self.schedules_key()).await?;
        // Neither names nor ids have a colon.
        let parse =
            |text: &String| text.split_once(':').and_then(|(queue, id)| Some((queue.parse().ok()?, id.to_owned())));
        Ok(known.iter().filter_map(parse).collect())
    }

    /// Remembers them.
    pub async fn set_known_schedules(&self, known: &HashSet<(QueueName, String)>) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        pipe.atomic().del(self.schedules_key()).ignore();
        if !known.is_empty() {
            let known: Vec<String> = known.iter().map(|(queue, id)| format!("{queue}:{id}")).collect();
            pipe.sadd(self.schedules_key(), known).ignore();
        }
        Ok(pipe.query_async(&mut self.connection.get()).await?)
    }

    fn schedules_key(&self) -> String {
        format!("{}:schedules", self.config.own_prefix)
    }

    /// Whether it was there. Its next tick does not come, not even one that is due and waits behind other jobs or in a paused queue; one
    /// that runs goes on.
    pub async fn remove_scheduler(&self, queue: &QueueName, id: &str) -> Result<bool, QueueError> {
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        let tick: Option<f64> = connection.zscore(keys.repeat(), id).await?;
        let call = Call::new(&scripts::REMOVE_JOB_SCHEDULER, &[keys.repeat(), keys.delayed(), keys.events()]);
        let code: i64 = call.arg(id).arg(keys.key_prefix()).invoke(&mut connection).await?;
        // BullMQ's script takes out a tick that is delayed only.
        if let Some(tick) = tick.and_then(|tick| format!("repeat:{id}:{tick}").parse().ok()) {
            self.remove_if_it_waits(queue, &tick).await?;
        }
        Ok(code == 0)
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

/// The keys that making a tick touches, in the order in which the scripts want them first.
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

/// Ticks that are later than this were missed: the host, the plugin or Redis was away.
pub(crate) const MISSED_AFTER: Duration = Duration::from_secs(60);
