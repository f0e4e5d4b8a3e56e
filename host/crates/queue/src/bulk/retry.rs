//! Retries many finished jobs, with changed data if asked; changes the data of jobs that wait; and
//! undoes such a change of jobs that have not run since.
//!
//! The data before the change stays beside BullMQ's keys until the change can no longer be undone,
//! like the copies of removed jobs. An erasure finds it there.

use std::sync::LazyLock;

use bullmq::QueueKeys;
use patchbay_model::job::JobState;
use redis::{Cmd, Script, Value};

use super::{Chosen, CurrentJob, JobResult, NO_LONGER_THERE, NOTES_STAY_S, PlannedChange};
use crate::job_rules::check_data;
use crate::opts::JobOpts;
use crate::removal::{COPIES_STAY, copy_key, marked_key, reprocessing};
use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Gives a job back the data that it had before an edit. `KEYS`: job, what was kept of it, notes.
/// `ARGV`: when the job was created, the job's field in the notes, how long the notes stay, whether to
/// change nothing.
static UNEDIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"if redis.call("HEXISTS", KEYS[3], ARGV[2]) == 1 then return 1 end
        local job = redis.call("HMGET", KEYS[1], "timestamp", "data", "ats", "finishedOn")
        if not job[1] then return -1 end
        if string.match(job[1], "^%d+") ~= ARGV[1] then return -2 end
        local kept = redis.call("HMGET", KEYS[2], "data", "edited", "ats")
        if not kept[1] then return -3 end
        if (job[3] or "") ~= kept[3] or job[4] or redis.call("EXISTS", KEYS[1] .. ":lock") == 1 then return -4 end
        if redis.sha1hex(job[2] or "") ~= kept[2] then return -5 end
        if ARGV[4] == "1" then return 1 end
        redis.call("HSET", KEYS[1], "data", kept[1])
        redis.call("DEL", KEYS[2])
        redis.call("HSET", KEYS[3], ARGV[2], "1")
        redis.call("EXPIRE", KEYS[3], ARGV[3])
        return 1"#,
    )
});

/// Changes the data of a job that waits. `KEYS`: job. `ARGV`: when the job was created, the SHA-1 of
/// its data, how often it had started, the new data.
static EDIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local job = redis.call("HMGET", KEYS[1], "timestamp", "data", "ats", "finishedOn", "pcx")
        if not job[1] or job[5] then return -1 end
        if string.match(job[1], "^%d+") ~= ARGV[1] then return -2 end
        if (job[3] or "") ~= ARGV[3] or job[4] or redis.call("EXISTS", KEYS[1] .. ":lock") == 1 then return -2 end
        if redis.sha1hex(job[2] or "") ~= ARGV[2] then return -2 end
        redis.call("HSET", KEYS[1], "data", ARGV[4])
        return 1"#,
    )
});

/// From a job's name and data to its new data, or to why it stays unchanged.
pub type Edit<'a> = dyn Fn(&Chosen, &str, &str) -> Result<String, String> + Send + Sync + 'a;

/// Why a job cannot get its data back.
pub(super) const OLD_DATA_LOST: &str = "Its data before the edit is no longer in Redis";
const RUN_SINCE: &str = "The job was retried, or has run, since it was chosen";

impl Broker {
    /// Makes all attempts available again. Id, creation time and with them the idempotency key
    /// stay. Jobs that wait are only edited.
    pub async fn retry_many(
        &self,
        bulk: i64,
        items: &[Chosen],
        edit: Option<&Edit<'_>>,
    ) -> Result<Vec<JobResult>, QueueError> {
        self.memory.refuse_when_full().await?;
        let notes = self.notes(bulk, items.iter().map(|item| item.n)).await?;
        let fields = ["timestamp", "finishedOn", "opts", "name", "data", "ats"];
        let seen = self
            .see(
                items,
                if edit.is_some() {
                    &fields
                } else {
                    &fields[..3]
                },
            )
            .await?;
        let mut fates = vec![None; items.len()];
        let mut steps = Vec::new();
        for (place, (item, seen)) in items.iter().zip(seen).enumerate() {
            let keys = self.keys(&item.key.queue);
            let opts = JobOpts::parse(seen.text(2).unwrap_or_default()).unwrap_or_default();
            let fate = match seen.number(0) {
                _ if notes.contains_key(&item.n) => Some(JobResult::done()),
                None => Some(JobResult::skipped(NO_LONGER_THERE)),
                Some(created) if created != item.key.created_ms => {
                    Some(JobResult::skipped("Another job has this id now"))
                }
                Some(_) if has_left(item, &seen) => Some(JobResult::skipped(RUN_SINCE)),
                Some(_) => None,
            };
            let edited = match (&fate, edit) {
                (None, Some(edit)) => {
                    let text = |place| seen.text(place).unwrap_or_default();
                    edit(item, text(3), text(4)).and_then(|data| {
                        check_data(&data).map_err(|error| error.to_string())?;
                        Ok(Some(data))
                    })
                }
                _ => Ok(None),
            };
            let fate = match &edited {
                Err(reason) => Some(JobResult::Skipped(reason.clone().into())),
                Ok(_) => fate,
            };
            let call = match &edited {
                Ok(Some(data)) if waits(item.state) => {
                    Some(edit_in_place(&keys, item, &seen, data))
                }
                _ => reprocessing(&keys, &item.key.id, item.state, &opts),
            };
            fates[place] = match (&call, fate) {
                (_, Some(fate)) => Some(fate),
                (None, None) => Some(JobResult::skipped(
                    "Only completed and failed jobs can be retried",
                )),
                (Some(_), None) => None,
            };
            if let (None, Some(call)) = (&fates[place], call) {
                let job = keys.job_key(item.key.id.as_str());
                let id = item.key.id.as_str();
                let marked = marked_key(&self.config.own_prefix, &item.key.queue);
                let mut before = match waits(item.state) {
                    true => Vec::new(),
                    false => Vec::from(super::remove::without_mark(&marked, &job, id)),
                };
                if let Ok(Some(data)) = edited {
                    let old = seen.text(4).unwrap_or_default();
                    let kept =
                        copy_key(&self.config.own_prefix, bulk, &item.key.queue, &item.key.id);
                    let starts = seen.text(5).unwrap_or_default();
                    before.extend(keeping(&kept, item.key.created_ms, old, &data, starts));
                    // Of a job that waits, the call itself changes the data.
                    if !waits(item.state) {
                        // The same write as BullMQ's script, which checks only that the job exists.
                        let mut update = redis::cmd("HSET");
                        update.arg(&job).arg("data").arg(data);
                        before.push(update);
                    }
                }
                steps.push((
                    place,
                    PlannedChange {
                        n: item.n,
                        before,
                        call,
                        after: Vec::new(),
                        note: String::new(),
                    },
                ));
            }
        }
        self.finish(bulk, fates, steps, |code| match code {
            Value::Int(1) => JobResult::done(),
            Value::Int(-1) => JobResult::skipped(NO_LONGER_THERE),
            _ => JobResult::skipped(RUN_SINCE),
        })
        .await
    }

    /// Gives jobs back the data that they had before an edit. A repeated call changes nothing.
    pub async fn unedit_many(
        &self,
        bulk: i64,
        items: &[Chosen],
    ) -> Result<Vec<JobResult>, QueueError> {
        self.memory.refuse_when_full().await?;
        self.unedit(bulk, items, false).await
    }

    /// What [`Self::unedit_many`] would do. Changes nothing.
    pub async fn could_unedit_many(
        &self,
        bulk: i64,
        items: &[Chosen],
    ) -> Result<Vec<JobResult>, QueueError> {
        self.unedit(bulk, items, true).await
    }

    async fn unedit(
        &self,
        bulk: i64,
        items: &[Chosen],
        dry_run: bool,
    ) -> Result<Vec<JobResult>, QueueError> {
        let call = |Chosen { n, key, .. }: &Chosen| {
            let names = [
                self.keys(&key.queue).job_key(key.id.as_str()),
                copy_key(&self.config.own_prefix, bulk, &key.queue, &key.id),
                self.notes_key(bulk),
            ];
            Call::new(&UNEDIT, &names)
                .arg(key.created_ms)
                .arg(format!("restored:{n}"))
                .arg(NOTES_STAY_S)
                .arg(i32::from(dry_run))
        };
        let calls: Vec<Call> = items.iter().map(call).collect();
        let codes = self.invoke_all(&calls.iter().collect::<Vec<_>>()).await?;
        let fate = |code: Result<i64, String>| {
            code.map_or_else(JobResult::Failed, |code| match code {
                1 => JobResult::done(),
                -1 => JobResult::skipped(NO_LONGER_THERE),
                -2 => JobResult::skipped("Another job has this id now"),
                -3 => JobResult::skipped(OLD_DATA_LOST),
                -4 => JobResult::skipped("The job has run since it was edited"),
                _ => JobResult::skipped("Its data was changed again since it was edited"),
            })
        };
        Ok(codes.into_iter().map(fate).collect())
    }
}

/// Whether a job in this state waits for a worker, and is not retried after an edit.
fn waits(state: JobState) -> bool {
    matches!(
        state,
        JobState::Waiting | JobState::Prioritized | JobState::Delayed
    )
}

/// Whether the job is no longer in the state in which it was chosen. Waiting jobs are in a list, which
/// is not searched: those that have run since are found by the script that edits them.
fn has_left(item: &Chosen, seen: &CurrentJob) -> bool {
    let is_missing = seen.score.is_none() && item.state != JobState::Waiting;
    is_missing || seen.number(1) != item.finished_on
}

fn edit_in_place(keys: &QueueKeys, item: &Chosen, seen: &CurrentJob, data: &str) -> Call {
    let old = Script::new(seen.text(4).unwrap_or_default());
    Call::new(&EDIT, &[keys.job_key(item.key.id.as_str())])
        .arg(item.key.created_ms)
        .arg(old.get_hash())
        .arg(seen.text(5).unwrap_or_default())
        .arg(data)
}

/// Keeps what undoing an edit needs: the data before it, by what the data after it is known, and how
/// often the job had started.
fn keeping(key: &str, created_ms: u64, old: &str, new: &str, starts: &str) -> [Cmd; 2] {
    let mut keep = redis::cmd("HSET");
    keep.arg(key).arg("timestamp").arg(created_ms);
    keep.arg("data").arg(old).arg("ats").arg(starts);
    // The client's own SHA-1 of a text, by which Redis knows scripts.
    keep.arg("edited").arg(Script::new(new).get_hash());
    let mut expire = redis::cmd("EXPIRE");
    expire.arg(key).arg(COPIES_STAY.as_secs());
    [keep, expire]
}
