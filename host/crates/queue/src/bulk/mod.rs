//! What operators do to many jobs, a batch at a time.
//!
//! Each job of a batch is looked at again before it is touched: what was chosen may be gone, or have run since. Whatever is done to a job
//! and a note of it go to Redis in one transaction, so that a batch whose end nobody has seen may be given again: what was done is not
//! done twice. Transactions are short, since Redis serves nobody else meanwhile.

mod again;
mod remove;
mod retry;

pub use again::{Again, PriorIdentity};
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

/// Jobs per transaction: about a millisecond of Redis's time.
const CHUNK: usize = 20;
/// A bulk operation that stands still for longer forgets what its last batch did.
const NOTES_STAY_S: i64 = 7 * 24 * 3_600;

/// A job that an operator's filter has chosen, and what it was like then.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its number within the operation.
    pub n: i64,
    pub key: JobKey,
    pub state: JobState,
    /// When it had ended, Unix milliseconds; tells whether it has run since.
    pub finished_on: Option<u64>,
}

/// What became of a job of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It was done, now or before.
    Done {
        /// Of a job that was added.
        new_id: Option<JobId>,
        /// Where a removed job stood in its sorted set.
        score: Option<f64>,
    },
    /// Left as it is, and why.
    Skipped(Cow<'static, str>),
    /// It could not be done, and why.
    Failed(String),
}

impl Fate {
    fn done() -> Self {
        Self::Done { new_id: None, score: None }
    }

    fn skipped(reason: &'static str) -> Self {
        Self::Skipped(reason.into())
    }
}

/// What one job costs in a transaction; the note is what another try would learn.
struct PlannedChange {
    n: i64,
    before: Vec<Cmd>,
    call: Call,
    after: Vec<Cmd>,
    note: String,
}

/// A job as it is now.
struct CurrentJob {
    fields: Vec<Option<String>>,
    /// Absent when it is not in the set of its state, or its state has none.
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
    /// Whether these jobs are still in their states, with the time of their end; absent for those that are not. Not for waiting jobs,
    /// whose list would have to be searched.
    pub async fn still_there(&self, items: &[Chosen]) -> Result<Vec<Option<Chosen>>, QueueError> {
        let seen = self.see(items, &["timestamp", "finishedOn"]).await?;
        let of = |(item, seen): (&Chosen, CurrentJob)| {
            let is_same = seen.number(0) == Some(item.key.created_ms) && seen.score.is_some();
            is_same.then(|| Chosen { finished_on: seen.number(1), ..item.clone() })
        };
        Ok(items.iter().zip(seen).map(of).collect())
    }

    /// Forgets the notes of an operation that has ended.
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
            // What is no hash is no job.
            let fields = read::<Vec<Option<Vec<u8>>>>(hash)?.unwrap_or_default();
            let fields = fields.into_iter().map(|field| field.map(|bytes| crate::damage::text(&bytes))).collect();
            seen.push(CurrentJob { fields, score: read::<Option<f64>>(score)?.ok().flatten() });
        }
        Ok(seen)
    }

    fn notes_key(&self, bulk: i64) -> String {
        format!("{}:bulk:{bulk}:notes", self.config.own_prefix)
    }

    /// What earlier tries of a batch have done.
    async fn notes(&self, bulk: i64, numbers: impl Iterator<Item = i64>) -> Result<HashMap<i64, String>, QueueError> {
        let numbers: Vec<i64> = numbers.collect();
        if numbers.is_empty() {
            return Ok(HashMap::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.notes_key(bulk)).arg(&numbers);
        let notes: Vec<Option<String>> = command.query_async(&mut self.connection.get()).await?;
        Ok(numbers.into_iter().zip(notes).filter_map(|(n, note)| Some((n, note?))).collect())
    }

    /// Each with its note, all or nothing of it unless a script stops; gives what the scripts answered, or why one stopped. An error means
    /// that nobody knows which were done: the notes do.
    async fn carry_out(&self, bulk: i64, steps: &[PlannedChange]) -> Result<Vec<Result<Value, String>>, QueueError> {
        let key = self.notes_key(bulk);
        let mut connection = self.connection.get();
        let mut loaded: Vec<&Call> = Vec::new();
        for step in steps {
            if !loaded.iter().any(|call| call.is_same_script(&step.call)) {
                // In a transaction, a script that Redis does not know cannot be sent after all.
                step.call.load(&mut connection).await?;
                loaded.push(&step.call);
            }
        }
        let mut answers = Vec::with_capacity(steps.len());
        for chunk in steps.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            pipe.atomic().ignore_errors();
            for step in chunk {
                for command in step.before.iter().chain([&step.call.command()]).chain(&step.after) {
                    pipe.add_command(command.clone());
                }
                pipe.hset(&key, step.n, &step.note);
            }
            pipe.expire(&key, NOTES_STAY_S);
            let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
            let mut replies = replies.into_iter();
            for step in chunk {
                let mut own = replies.by_ref().take(step.before.len() + step.after.len() + 2).skip(step.before.len());
                answers.push(read::<Value>(own.next().unwrap_or(Ok(Value::Nil)))?);
                // The iterator of all has to come to the next step's beginning.
                own.for_each(drop);
            }
        }
        Ok(answers)
    }

    /// Of those that were not done after all.
    async fn take_notes_back(&self, bulk: i64, numbers: &[i64]) -> Result<(), QueueError> {
        if numbers.is_empty() {
            return Ok(());
        }
        Ok(redis::AsyncCommands::hdel(&mut self.connection.get(), self.notes_key(bulk), numbers).await?)
    }

    /// Carries out what is left of a batch and fills in the fates; `read` tells what a script's code means.
    async fn finish(
        &self,
        bulk: i64,
        mut fates: Vec<Option<Fate>>,
        steps: Vec<(usize, PlannedChange)>,
        read: impl Fn(Value) -> Fate,
    ) -> Result<Vec<Fate>, QueueError> {
        let (places, steps): (Vec<usize>, Vec<PlannedChange>) = steps.into_iter().unzip();
        let answers = self.carry_out(bulk, &steps).await?;
        let mut undone = Vec::new();
        for ((place, step), answer) in places.into_iter().zip(&steps).zip(answers) {
            let fate = answer.map_or_else(Fate::Failed, &read);
            if !matches!(fate, Fate::Done { .. }) {
                undone.push(step.n);
            }
            fates[place] = Some(match fate {
                Fate::Done { new_id, .. } => Fate::Done { new_id, score: step.note.parse().ok() },
                other => other,
            });
        }
        self.take_notes_back(bulk, &undone).await?;
        Ok(fates.into_iter().map(|fate| fate.unwrap_or_else(|| Fate::Failed("nothing was answered".into()))).collect())
    }
}

/// The sorted set of a state.
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
