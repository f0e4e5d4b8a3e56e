//! Removes many jobs, and undoes it.
//!
//! A job in a sorted set is removed at once. Removing from the middle of a long list would cost
//! Redis milliseconds per job, so a waiting job is only marked, and the worker that takes it drops
//! it. A copy of each removed job stays beside BullMQ's keys until the removal can no longer be
//! undone. So personal data gets to no new place, and expires by itself.

use std::sync::LazyLock;

use patchbay_model::job::JobState;
use redis::{Cmd, RedisResult, Script, Value};

use super::{Chosen, JobResult, NO_LONGER_THERE, NOTES_STAY_S, PlannedChange, set_of};
use crate::job_fields::CANCELLED;
use crate::removal::{clearing_key, copy_key, copying, marked_key, removal};
use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Marks a waiting job. `KEYS`: job, set of marked jobs, key that exists while the queue is cleared.
/// `ARGV`: operation, when the job was created, id.
static MARK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local job = redis.call("HMGET", KEYS[1], "timestamp", "rjk", "parentKey", "pcx")
        if not job[1] then return -1 end
        if string.match(job[1], "^%d+") ~= ARGV[2] then return -2 end
        if job[2] then return -3 end
        if job[3] or redis.call("EXISTS", KEYS[1] .. ":dependencies", KEYS[1] .. ":processed") > 0 then return -4 end
        if redis.call("EXISTS", KEYS[1] .. ":lock") == 1 or redis.call("HEXISTS", KEYS[1], "finishedOn") == 1 then return -5 end
        if job[4] and job[4] ~= ARGV[1] then return -6 end
        if redis.call("EXISTS", KEYS[3]) == 1 then return -7 end
        redis.call("HSET", KEYS[1], "pcx", ARGV[1])
        redis.call("SADD", KEYS[2], ARGV[3])
        return 1"#,
    )
});

/// Removes a mark, or restores a copy. `KEYS`: job, copy, list or set, marker, events, set of marked
/// jobs, notes. `ARGV`: operation, id, score (empty for a list), name of the event, when the job was
/// created, the job's field in the notes, how long the notes stay, whether to change nothing. A note
/// tells a repeated call from a job that was brought back otherwise.
static RESTORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"if redis.call("HEXISTS", KEYS[7], ARGV[6]) == 1 then return 1 end
        local function note()
            redis.call("HSET", KEYS[7], ARGV[6], "1")
            redis.call("EXPIRE", KEYS[7], ARGV[7])
        end
        local mark = redis.call("HMGET", KEYS[1], "timestamp", "pcx")
        if mark[1] then
            if string.match(mark[1], "^%d+") ~= ARGV[5] then return -2 end
            if mark[2] ~= ARGV[1] then return -3 end
            if ARGV[8] == "1" then return 1 end
            redis.call("HDEL", KEYS[1], "pcx")
            redis.call("SREM", KEYS[6], ARGV[2])
            note()
            return 1
        end
        if redis.call("EXISTS", KEYS[2]) == 0 then return -1 end
        if ARGV[8] == "1" then return 1 end
        redis.call("RENAME", KEYS[2], KEYS[1])
        redis.call("PERSIST", KEYS[1])
        if redis.call("EXISTS", KEYS[2] .. ":logs") == 1 then
            redis.call("RENAME", KEYS[2] .. ":logs", KEYS[1] .. ":logs")
            redis.call("PERSIST", KEYS[1] .. ":logs")
        end
        redis.call("HDEL", KEYS[1], "pcx")
        if ARGV[3] == "" then
            redis.call("HDEL", KEYS[1], "processedOn", "pb")
            redis.call("LPUSH", KEYS[3], ARGV[2])
        else
            redis.call("ZADD", KEYS[3], ARGV[3], ARGV[2])
        end
        redis.call("ZADD", KEYS[4], 0, "0")
        redis.call("XADD", KEYS[5], "MAXLEN", "~", "10000", "*", "event", ARGV[4], "jobId", ARGV[2])
        note()
        return 1"#,
    )
});

/// A removed job that is to be restored.
#[derive(Debug, Clone)]
pub struct Removed {
    pub job: Chosen,
    /// Its score in its sorted set.
    pub score: Option<f64>,
}

impl Broker {
    /// Marks waiting jobs, and removes others at once.
    pub async fn remove_many(
        &self,
        bulk: i64,
        items: &[Chosen],
    ) -> Result<Vec<JobResult>, QueueError> {
        self.memory.refuse_when_full().await?;
        let notes = self.notes(bulk, items.iter().map(|item| item.n)).await?;
        let seen = self
            .see(items, &["timestamp", "finishedOn", "parentKey"])
            .await?;
        let mut fates = vec![None; items.len()];
        let (mut marks, mut steps) = (Vec::new(), Vec::new());
        for (place, (item, seen)) in items.iter().zip(seen).enumerate() {
            let keys = self.keys(&item.key.queue);
            let job = keys.job_key(item.key.id.as_str());
            if let Some(note) = notes.get(&item.n) {
                fates[place] = Some(JobResult::Done {
                    new_id: None,
                    score: note.parse().ok(),
                });
            } else if item.state == JobState::Waiting {
                let own = &self.config.own_prefix;
                let names = [
                    job,
                    marked_key(own, &item.key.queue),
                    clearing_key(own, &item.key.queue),
                ];
                let call = Call::new(&MARK, &names)
                    .arg(bulk)
                    .arg(item.key.created_ms)
                    .arg(item.key.id.as_str());
                marks.push((place, call));
            } else {
                let refused = match (seen.number(0), seen.score) {
                    (None, _) => Some(NO_LONGER_THERE),
                    (Some(created), _) if created != item.key.created_ms => {
                        Some("Another job has this id now")
                    }
                    (Some(_), None) => Some("The job has left its state since it was chosen"),
                    (Some(_), _) if seen.number(1) != item.finished_on => {
                        Some("The job has run since it was chosen")
                    }
                    _ if seen.text(2).is_some() => Some(IN_A_FLOW),
                    _ => None,
                };
                match (refused, seen.score) {
                    (None, Some(score)) => {
                        let before = copying(
                            &self.config.own_prefix,
                            bulk,
                            &item.key.queue,
                            &item.key.id,
                            &job,
                        );
                        let call = removal(&keys, &item.key.id);
                        steps.push((
                            place,
                            PlannedChange {
                                n: item.n,
                                before,
                                call,
                                after: Vec::new(),
                                note: score.to_string(),
                            },
                        ));
                    }
                    (reason, _) => {
                        fates[place] = Some(JobResult::skipped(reason.unwrap_or_default()))
                    }
                }
            }
        }
        let marked = self
            .invoke_all(&marks.iter().map(|(_, call)| call).collect::<Vec<_>>())
            .await?;
        for ((place, _), code) in marks.iter().zip(marked) {
            fates[*place] = Some(code.map_or_else(JobResult::Failed, |code| match code {
                1 => JobResult::done(),
                -1 => JobResult::skipped(NO_LONGER_THERE),
                -2 => JobResult::skipped("Another job has this id now"),
                -3 => JobResult::skipped(OF_A_SCHEDULE),
                -4 => JobResult::skipped(IN_A_FLOW),
                -6 => JobResult::skipped("Another bulk operation has removed the job"),
                -7 => JobResult::skipped("The waiting jobs of the queue are being removed"),
                _ => JobResult::skipped("The job is running, or has run since it was chosen"),
            }));
        }
        self.finish(bulk, fates, steps, |code| match code {
            Value::Int(1) => JobResult::done(),
            Value::Int(-8) => JobResult::skipped(OF_A_SCHEDULE),
            _ => JobResult::skipped("The job is running"),
        })
        .await
    }

    /// Restores removed jobs where they were; waiting ones go behind all that wait. A repeated call
    /// changes nothing.
    pub async fn restore_many(
        &self,
        bulk: i64,
        items: &[Removed],
    ) -> Result<Vec<JobResult>, QueueError> {
        self.memory.refuse_when_full().await?;
        self.restore(bulk, items, false).await
    }

    /// What [`Self::restore_many`] would do. Changes nothing.
    pub async fn could_restore_many(
        &self,
        bulk: i64,
        items: &[Removed],
    ) -> Result<Vec<JobResult>, QueueError> {
        self.restore(bulk, items, true).await
    }

    async fn restore(
        &self,
        bulk: i64,
        items: &[Removed],
        dry_run: bool,
    ) -> Result<Vec<JobResult>, QueueError> {
        let mut calls = Vec::with_capacity(items.len());
        for Removed {
            job: Chosen { n, key, state, .. },
            score,
        } in items
        {
            let keys = self.keys(&key.queue);
            let place = set_of(&keys, *state).unwrap_or_else(|| keys.wait());
            let copy = copy_key(&self.config.own_prefix, bulk, &key.queue, &key.id);
            let names = [
                keys.job_key(key.id.as_str()),
                copy,
                place,
                keys.marker(),
                keys.events(),
                marked_key(&self.config.own_prefix, &key.queue),
                self.notes_key(bulk),
            ];
            let event = match state {
                JobState::Waiting | JobState::Prioritized => "waiting".to_owned(),
                other => other.to_string(),
            };
            let score = score.map(|score| score.to_string()).unwrap_or_default();
            calls.push(
                Call::new(&RESTORE, &names)
                    .arg(bulk)
                    .arg(key.id.as_str())
                    .arg(score)
                    .arg(event)
                    .arg(key.created_ms)
                    .arg(format!("restored:{n}"))
                    .arg(NOTES_STAY_S)
                    .arg(i32::from(dry_run)),
            );
        }
        let codes = self.invoke_all(&calls.iter().collect::<Vec<_>>()).await?;
        let fate = |code: Result<i64, String>| {
            code.map_or_else(JobResult::Failed, |code| match code {
                1 => JobResult::done(),
                -1 => JobResult::skipped(COPY_LOST),
                -3 => JobResult::skipped(
                    "The job is in Redis again: it was brought back in another way meanwhile",
                ),
                _ => JobResult::skipped("Another job has this id now"),
            })
        };
        Ok(codes.into_iter().map(fate).collect())
    }

    /// Calls one of this folder's own scripts for each job. The calls may be repeated.
    pub(super) async fn invoke_all(
        &self,
        calls: &[&Call],
    ) -> Result<Vec<Result<i64, String>>, QueueError> {
        let Some(first) = calls.first() else {
            return Ok(Vec::new());
        };
        let mut connection = self.connection.get();
        first.load(&mut connection).await?;
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for call in calls {
            pipe.add_command(call.command());
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
        replies
            .into_iter()
            .map(crate::damage::read::<i64>)
            .collect()
    }
}

/// Why a removed job cannot come back.
pub(super) const COPY_LOST: &str = "The copy of the removed job is no longer in Redis";
const IN_A_FLOW: &str =
    "The job belongs to a flow: remove it by itself, so that its parent is informed";
const OF_A_SCHEDULE: &str =
    "The job is a tick of a schedule: change or remove the schedule instead";

/// A retry cancels an earlier removal: the job must run.
pub(super) fn without_mark(marked: &str, job: &str, id: &str) -> [Cmd; 2] {
    let (mut field, mut member) = (redis::cmd("HDEL"), redis::cmd("SREM"));
    field.arg(job).arg(CANCELLED);
    member.arg(marked).arg(id);
    [field, member]
}
