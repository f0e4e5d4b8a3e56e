//! What operators do to many jobs, one batch at a time.
//!
//! Each job of a batch is checked again before it is changed, because it may be gone or have run
//! since it was chosen. The change and a note of it go to Redis in one transaction, so that a batch
//! with an unknown result can be repeated: what was done is not done twice. Transactions are short,
//! because Redis serves nobody else meanwhile.

mod again;
mod remove;
mod retry;

pub use again::{PriorIdentity, ReAddition};
pub use remove::Removed;
pub use retry::Edit;

use std::borrow::Cow;
use std::collections::HashMap;

use bullmq::QueueKeys;
use patchbay_model::JobId;
use patchbay_model::job::{JobKey, JobState};
use redis::{Cmd, RedisResult, Value};

use crate::damage::read;
use crate::js;
use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Jobs per transaction, which takes about a millisecond of Redis's time.
const CHUNK: usize = 20;
/// After a longer standstill, a bulk operation no longer knows what its last batch did.
const NOTES_STAY_S: i64 = 7 * 24 * 3_600;

/// Why a job is skipped that is gone.
pub const NO_LONGER_THERE: &str = "The job is no longer in Redis";

/// Why an undo skips a job of which it has nothing to put back; any other reason leaves the job as it
/// is.
pub const NOTHING_TO_PUT_BACK: [&str; 2] = [remove::COPY_LOST, retry::OLD_DATA_LOST];

/// A job that an operator's filter has chosen, as it was then.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its number within the operation.
    pub n: i64,
    pub key: JobKey,
    pub state: JobState,
    /// When it had ended, Unix milliseconds. Shows whether it has run since.
    pub finished_on: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum JobResult {
    /// It was done, now or by an earlier try.
    Done {
        /// The id of a job that was added.
        new_id: Option<JobId>,
        /// The score of a removed job in its sorted set.
        score: Option<f64>,
    },
    /// The job was left unchanged, and why.
    Skipped(Cow<'static, str>),
    /// The change failed, and why.
    Failed(String),
}

impl JobResult {
    fn done() -> Self {
        Self::Done {
            new_id: None,
            score: None,
        }
    }

    fn skipped(reason: &'static str) -> Self {
        Self::Skipped(reason.into())
    }
}

/// The commands for one job in a transaction. Another try of the batch reads the note.
struct PlannedChange {
    n: i64,
    before: Vec<Cmd>,
    call: Call,
    after: Vec<Cmd>,
    note: String,
}

struct CurrentJob {
    fields: Vec<Option<String>>,
    /// `None` if the job is not in the set of its state, or the state has no set.
    score: Option<f64>,
}

impl CurrentJob {
    fn number(&self, place: usize) -> Option<u64> {
        js::whole(self.fields.get(place)?.as_deref()?)
    }

    fn text(&self, place: usize) -> Option<&str> {
        self.fields.get(place)?.as_deref()
    }
}

impl Broker {
    /// For each job, its current time of end if it is still in its state, else `None`. Not for
    /// waiting jobs, whose list would have to be searched.
    pub async fn still_there(&self, items: &[Chosen]) -> Result<Vec<Option<Chosen>>, QueueError> {
        let seen = self.see(items, &["timestamp", "finishedOn"]).await?;
        let of = |(item, seen): (&Chosen, CurrentJob)| {
            let is_same = seen.number(0) == Some(item.key.created_ms) && seen.score.is_some();
            is_same.then(|| Chosen {
                finished_on: seen.number(1),
                ..item.clone()
            })
        };
        Ok(items.iter().zip(seen).map(of).collect())
    }

    /// Deletes the notes of an operation that has ended.
    pub async fn forget_notes(&self, bulk: i64) -> Result<(), QueueError> {
        Ok(redis::AsyncCommands::del(&mut self.connection.get(), self.notes_key(bulk)).await?)
    }

    async fn see(&self, items: &[Chosen], fields: &[&str]) -> Result<Vec<CurrentJob>, QueueError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for item in items {
            let keys = self.keys(&item.key.queue);
            pipe.hmget(keys.job_key(item.key.id.as_str()), fields);
            match set_of(&keys, item.state) {
                Some(set) => pipe.zscore(set, item.key.id.as_str()),
                None => pipe.cmd("ECHO").arg(""),
            };
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let mut replies = replies.into_iter();
        let mut seen = Vec::with_capacity(items.len());
        while let (Some(hash), Some(score)) = (replies.next(), replies.next()) {
            // A value that is no hash is no job.
            let fields = read::<Vec<Option<Vec<u8>>>>(hash)?.unwrap_or_default();
            let fields = fields
                .into_iter()
                .map(|field| field.map(|bytes| crate::damage::text(&bytes)))
                .collect();
            seen.push(CurrentJob {
                fields,
                score: read::<Option<f64>>(score)?.ok().flatten(),
            });
        }
        Ok(seen)
    }

    fn notes_key(&self, bulk: i64) -> String {
        format!("{}:bulk:{bulk}:notes", self.config.own_prefix)
    }

    /// The notes that earlier tries of a batch have left.
    async fn notes(
        &self,
        bulk: i64,
        numbers: impl Iterator<Item = i64>,
    ) -> Result<HashMap<i64, String>, QueueError> {
        let numbers: Vec<i64> = numbers.collect();
        if numbers.is_empty() {
            return Ok(HashMap::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.notes_key(bulk)).arg(&numbers);
        let notes: Vec<Option<String>> = command.query_async(&mut self.connection.get()).await?;
        Ok(numbers
            .into_iter()
            .zip(notes)
            .filter_map(|(n, note)| Some((n, note?)))
            .collect())
    }

    /// Runs each step together with its note: all or nothing, unless a script stops. Returns the
    /// scripts' replies, or why one stopped. After an error, only the notes know which steps were
    /// done.
    async fn carry_out(
        &self,
        bulk: i64,
        steps: &[PlannedChange],
    ) -> Result<Vec<Result<Value, String>>, QueueError> {
        let key = self.notes_key(bulk);
        let mut connection = self.connection.get();
        let mut loaded: Vec<&Call> = Vec::new();
        for step in steps {
            if !loaded.iter().any(|call| call.is_same_script(&step.call)) {
                // Inside a transaction, a script that Redis does not know cannot be loaded and
                // retried.
                step.call.load(&mut connection).await?;
                loaded.push(&step.call);
            }
        }
        let mut answers = Vec::with_capacity(steps.len());
        for chunk in steps.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            pipe.atomic().ignore_errors();
            for step in chunk {
                for command in step
                    .before
                    .iter()
                    .chain([&step.call.command()])
                    .chain(&step.after)
                {
                    pipe.add_command(command.clone());
                }
                pipe.hset(&key, step.n, &step.note);
            }
            pipe.expire(&key, NOTES_STAY_S);
            let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
            let mut replies = replies.into_iter();
            for step in chunk {
                let mut own = replies
                    .by_ref()
                    .take(step.before.len() + step.after.len() + 2)
                    .skip(step.before.len());
                answers.push(read::<Value>(own.next().unwrap_or(Ok(Value::Nil)))?);
                // Moves the shared iterator to the beginning of the next step.
                own.for_each(drop);
            }
        }
        Ok(answers)
    }

    /// Deletes the notes of jobs that were not changed after all.
    async fn take_notes_back(&self, bulk: i64, numbers: &[i64]) -> Result<(), QueueError> {
        if numbers.is_empty() {
            return Ok(());
        }
        Ok(
            redis::AsyncCommands::hdel(&mut self.connection.get(), self.notes_key(bulk), numbers)
                .await?,
        )
    }

    /// Runs the remaining steps of a batch and fills in the fates. `read` interprets a script's
    /// reply.
    async fn finish(
        &self,
        bulk: i64,
        mut fates: Vec<Option<JobResult>>,
        steps: Vec<(usize, PlannedChange)>,
        read: impl Fn(Value) -> JobResult,
    ) -> Result<Vec<JobResult>, QueueError> {
        let (places, steps): (Vec<usize>, Vec<PlannedChange>) = steps.into_iter().unzip();
        let answers = self.carry_out(bulk, &steps).await?;
        let mut undone = Vec::new();
        for ((place, step), answer) in places.into_iter().zip(&steps).zip(answers) {
            let fate = answer.map_or_else(JobResult::Failed, &read);
            if !matches!(fate, JobResult::Done { .. }) {
                undone.push(step.n);
            }
            fates[place] = Some(match fate {
                JobResult::Done { new_id, .. } => JobResult::Done {
                    new_id,
                    score: step.note.parse().ok(),
                },
                other => other,
            });
        }
        self.take_notes_back(bulk, &undone).await?;
        Ok(fates
            .into_iter()
            .map(|fate| {
                fate.unwrap_or_else(|| {
                    JobResult::Failed("Redis returned no answer for this job".into())
                })
            })
            .collect())
    }
}

fn set_of(keys: &QueueKeys, state: JobState) -> Option<String> {
    match state {
        JobState::Completed => Some(keys.completed()),
        JobState::Failed => Some(keys.failed()),
        JobState::Delayed => Some(keys.delayed()),
        JobState::Prioritized => Some(keys.prioritized()),
        JobState::WaitingChildren => Some(keys.waiting_children()),
        JobState::Waiting | JobState::Active | JobState::Unknown => None,
    }
}
