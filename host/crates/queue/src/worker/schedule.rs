//! The next tick of a schedule, made at the start of this one: when it were made at the end, a process killed in between would end the
//! schedule for ever.

use patchbay_model::schedule::next_tick;
use serde_json::{Map, Value};
use tracing::warn;

use super::Inner;
use super::fetch::{Taken, unwritable};
use crate::schedulers::places;
use crate::scripts::{self, Call};

/// Options that belong to one tick and not to the next.
const OF_ONE_TICK: [&str; 4] = ["delay", "jobId", "timestamp", "prevMillis"];

impl Inner {
    /// Does nothing for a job that no scheduler made, or whose scheduler was removed or has made the next tick already (a second attempt).
    pub(super) async fn schedule_next_tick(&self, taken: &Taken) {
        let Some(scheduler) = taken.fields.get("rjk") else { return };
        let opts = taken.fields.get("opts").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let Some((tick, opts)) = next_opts(opts, self.queues.now_ms()) else { return };
        if let Err(error) = self.update_scheduler(scheduler, &taken.id, tick, &opts).await {
            // The reconciler mends it.
            warn!(%error, schedule = scheduler, queue = %self.config.queue, "the next tick is not scheduled yet");
        }
    }

    async fn update_scheduler(&self, id: &str, producer: &str, tick: u64, opts: &Value) -> redis::RedisResult<()> {
        let keys = &self.names.keys;
        let mut names = places(keys).to_vec();
        names.extend([keys.job_key(producer), keys.active()]);
        let _next_job: Option<String> = Call::new(&scripts::UPDATE_JOB_SCHEDULER, &names)
            .arg(tick)
            .arg(id)
            // The script takes the template's data from the scheduler itself.
            .arg("{}")
            .arg(rmp_serde::to_vec_named(opts).map_err(unwritable)?)
            .arg(self.queues.now_ms())
            .arg(&self.names.prefix)
            .arg(producer)
            .invoke(&mut self.queues.connection.get())
            .await?;
        Ok(())
    }
}

/// When the next tick is due (0: the script finds the interval's) and its job's options; nothing when this was the last.
fn next_opts(mut opts: Map<String, Value>, now_ms: u64) -> Option<(u64, Value)> {
    let tick_of_this = opts.get("prevMillis").and_then(Value::as_u64).unwrap_or(0);
    for name in OF_ONE_TICK {
        opts.remove(name);
    }
    let repeat = opts.entry("repeat").or_insert_with(|| Value::Object(Map::new())).as_object_mut()?;
    let count = repeat.get("count").and_then(Value::as_u64).unwrap_or(0) + 1;
    let over = repeat.get("limit").and_then(Value::as_u64).is_some_and(|limit| count > limit)
        || repeat.get("endDate").and_then(Value::as_u64).is_some_and(|end| now_ms > end);
    if over {
        return None;
    }
    let tick = match repeat.get("pattern").and_then(Value::as_str) {
        None => 0,
        Some(pattern) => {
            let zone = repeat.get("tz").and_then(Value::as_str);
            let start = repeat.get("startDate").and_then(Value::as_u64).unwrap_or(0);
            next_tick(pattern, zone, tick_of_this.max(now_ms).max(start)).ok()??
        }
    };
    repeat.insert("count".into(), count.into());
    if tick > 0 {
        opts.insert("prevMillis".into(), tick.into());
    }
    Some((tick, Value::Object(opts)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn next(opts: Value) -> Option<(u64, Value)> {
        let Value::Object(opts) = opts else { unreachable!("an object was given") };
        next_opts(opts, 1_000_000)
    }

    #[test]
    fn the_next_tick_keeps_the_jobs_options_and_counts() {
        let (tick, opts) = next(json!({
            "repeat": { "pattern": "* * * * *", "count": 3 }, "attempts": 2, "delay": 5, "jobId": "repeat:a:1", "prevMillis": 960_000
        }))
        .expect("there is a next one");
        assert_eq!(tick, 1_020_000);
        assert_eq!(
            opts,
            json!({ "repeat": { "pattern": "* * * * *", "count": 4 }, "attempts": 2, "prevMillis": 1_020_000 })
        );
    }

    #[test]
    fn a_schedule_ends_at_its_limit_and_at_its_end() {
        assert!(next(json!({ "repeat": { "every": 5, "count": 1, "limit": 2 } })).is_some());
        assert_eq!(next(json!({ "repeat": { "every": 5, "count": 2, "limit": 2 } })), None);
        assert_eq!(next(json!({ "repeat": { "every": 5, "endDate": 999_999 } })), None);
    }
}
