//! What operators do to a whole queue. Large queues are processed in batches, so that Redis serves
//! others in between. Each operation returns the number of jobs that it moved or removed.

use std::collections::HashSet;
use std::time::Duration;

use patchbay_model::QueueName;
use patchbay_model::job::JobState;
use redis::AsyncCommands;

use crate::scripts::{self, Call};
use crate::{Broker, Cleared, QueueError};

/// Jobs per call of a script. One call takes some milliseconds, during which Redis does nothing
/// else.
const BATCH: u64 = 1_000;
/// Highest rate over all workers. BullMQ's script checks each start against it.
const MAX_RATE: u64 = 1 << 31;
/// Longest time of a rate limit. A limit that is reached blocks the queue for this long; for
/// longer, pause the queue.
const MAX_RATE_TIME: Duration = Duration::from_secs(24 * 3_600);

impl Broker {
    /// Stops all workers everywhere from taking jobs of the queue. Running jobs continue.
    pub async fn pause(&self, queue: &QueueName) -> Result<(), QueueError> {
        let keys = self.keys(queue);
        self.pause_or_resume([keys.wait(), keys.paused()], "paused", queue)
            .await
            .map(drop)
    }

    /// Lets workers take jobs again, including jobs that a BullMQ 5 producer added to the paused
    /// list.
    pub async fn resume(&self, queue: &QueueName) -> Result<(), QueueError> {
        let keys = self.keys(queue);
        // Thousands of such jobs move back in several steps.
        while self
            .pause_or_resume([keys.paused(), keys.wait()], "resumed", queue)
            .await?
            > 0
        {}
        Ok(())
    }

    async fn pause_or_resume(
        &self,
        lists: [String; 2],
        to: &str,
        queue: &QueueName,
    ) -> Result<u64, QueueError> {
        let keys = self.keys(queue);
        let [from, into] = lists;
        let names = [
            from,
            into,
            keys.meta(),
            keys.prioritized(),
            keys.events(),
            keys.delayed(),
            keys.marker(),
        ];
        let call = Call::new(&scripts::PAUSE, &names).arg(to).arg("1");
        Ok(call.invoke(&mut self.connection.get()).await?)
    }

    /// What [`Self::drain`] would do, at most: delayed ticks of schedules are counted.
    pub async fn drainable(&self, queue: &QueueName, delayed: bool) -> Result<Cleared, QueueError> {
        // Ids in the set whose jobs wait no longer would make the count too small.
        let removed_before = self.marked(queue).await?.len() as u64;
        Ok(Cleared {
            removed: self.drained_by(queue, delayed).await?,
            removed_before,
        })
    }

    async fn drained_by(&self, queue: &QueueName, delayed: bool) -> Result<u64, QueueError> {
        let counts = self.counts(queue).await?;
        Ok(counts.waiting + counts.prioritized + if delayed { counts.delayed } else { 0 })
    }

    /// Removes waiting jobs, and delayed ones if `delayed` is set. Jobs of schedules stay. Jobs that
    /// a bulk operation has removed before leave Redis, too, with a copy for undoing.
    pub async fn drain(&self, queue: &QueueName, delayed: bool) -> Result<Cleared, QueueError> {
        let marked = self.begin_clearing(queue).await?;
        let removed = self.drain_all(queue, delayed).await;
        let ids = marked.iter().map(|marked| marked.id.as_str());
        self.end_clearing(queue, ids.take_while(|_| removed.is_ok()))
            .await?;
        Ok(Cleared {
            removed: removed?,
            removed_before: marked.len() as u64,
        })
    }

    async fn drain_all(&self, queue: &QueueName, delayed: bool) -> Result<u64, QueueError> {
        let keys = self.keys(queue);
        let before = self.drained_by(queue, delayed).await?;
        let names = [
            keys.wait(),
            keys.paused(),
            keys.delayed(),
            keys.prioritized(),
            keys.repeat(),
        ];
        let call = Call::new(&scripts::DRAIN, &names)
            .arg(keys.key_prefix())
            .arg(u8::from(delayed));
        call.invoke::<redis::Value>(&mut self.connection.get())
            .await?;
        Ok(before.saturating_sub(self.drained_by(queue, delayed).await?))
    }

    /// Removes at most `most` jobs in one state that are at least `older_than` old. Jobs that a bulk
    /// operation has removed before leave Redis, too, with a copy for undoing, and do not count.
    pub async fn clean(
        &self,
        queue: &QueueName,
        state: JobState,
        older_than: Duration,
        most: u64,
    ) -> Result<Cleared, QueueError> {
        // The other states have no marked jobs: those are removed at once.
        if state != JobState::Waiting {
            let none = HashSet::new();
            let (removed, _) = self
                .clean_set(queue, state, older_than, most, &none)
                .await?;
            return Ok(Cleared {
                removed,
                removed_before: 0,
            });
        }
        let marked = self.begin_clearing(queue).await?;
        let ids: HashSet<&str> = marked.iter().map(|marked| marked.id.as_str()).collect();
        let cleaned = self.clean_set(queue, state, older_than, most, &ids).await;
        let gone = cleaned.as_ref().map_or(&[][..], |(_, gone)| &gone[..]);
        self.end_clearing(queue, gone.iter().map(String::as_str))
            .await?;
        let (removed, gone) = cleaned?;
        Ok(Cleared {
            removed,
            removed_before: gone.len() as u64,
        })
    }

    /// Number of removed jobs, and the ids of `marked` ones that were removed as well.
    async fn clean_set(
        &self,
        queue: &QueueName,
        state: JobState,
        older_than: Duration,
        most: u64,
        marked: &HashSet<&str>,
    ) -> Result<(u64, Vec<String>), QueueError> {
        let keys = self.keys(queue);
        let (set, name) = self.cleaned_set(queue, state)?;
        let before = self.now_ms().saturating_sub(older_than.as_millis() as u64);
        let (mut cleaned, mut gone) = (0, Vec::new());
        while cleaned < most {
            let batch = BATCH.min(most - cleaned);
            let call = Call::new(
                &scripts::CLEAN,
                &[set.clone(), keys.events(), keys.repeat()],
            );
            let call = call.arg(keys.key_prefix()).arg(before).arg(batch).arg(name);
            let removed: Vec<String> = call.invoke(&mut self.connection.get()).await?;
            let is_last = (removed.len() as u64) < batch;
            let (removed_before, removed): (Vec<String>, Vec<String>) = removed
                .into_iter()
                .partition(|id| marked.contains(id.as_str()));
            cleaned += removed.len() as u64;
            gone.extend(removed_before);
            if is_last {
                break;
            }
        }
        Ok((cleaned, gone))
    }

    /// What [`Self::clean`] would do, at most: only ended jobs are sorted by their age.
    pub async fn cleanable(
        &self,
        queue: &QueueName,
        state: JobState,
        older_than: Duration,
    ) -> Result<Cleared, QueueError> {
        let (set, _) = self.cleaned_set(queue, state)?;
        let before = self.now_ms().saturating_sub(older_than.as_millis() as u64);
        let mut connection = self.connection.get();
        let mut removed_before = 0;
        let removed = match state {
            JobState::Completed | JobState::Failed => {
                connection.zcount(&set, "-inf", before).await?
            }
            JobState::Waiting => {
                removed_before = self.marked(queue).await?.len() as u64;
                let counts = self.counts(queue).await?;
                counts.waiting
            }
            _ => connection.zcard(&set).await?,
        };
        Ok(Cleared {
            removed,
            removed_before,
        })
    }

    /// The key of a state whose jobs can be removed, and the name that BullMQ's script has for it.
    fn cleaned_set(
        &self,
        queue: &QueueName,
        state: JobState,
    ) -> Result<(String, &'static str), QueueError> {
        let keys = self.keys(queue);
        match state {
            JobState::Waiting => Ok((keys.wait(), "wait")),
            JobState::Prioritized => Ok((keys.prioritized(), "prioritized")),
            JobState::Delayed => Ok((keys.delayed(), "delayed")),
            JobState::Completed => Ok((keys.completed(), "completed")),
            JobState::Failed => Ok((keys.failed(), "failed")),
            JobState::Active | JobState::WaitingChildren | JobState::Unknown => {
                Err(QueueError::Invalid(format!(
                    "Jobs in state {state} cannot be removed by cleaning"
                )))
            }
        }
    }

    /// How many jobs [`Self::move_all_to_wait`] would move. Ticks of schedules are not moved.
    pub async fn movable_to_wait(
        &self,
        queue: &QueueName,
        state: JobState,
    ) -> Result<u64, QueueError> {
        let keys = self.keys(queue);
        let set = match state {
            JobState::Failed => keys.failed(),
            JobState::Completed => keys.completed(),
            JobState::Delayed => {
                let mut connection = self.connection.get();
                let ids: Vec<Vec<u8>> = connection.zrange(keys.delayed(), 0, -1).await?;
                let is_tick = |id: &&Vec<u8>| id.starts_with(b"repeat:");
                return Ok((ids.len() - ids.iter().filter(is_tick).count()) as u64);
            }
            other => return Err(not_movable(other)),
        };
        Ok(self.connection.get().zcard(set).await?)
    }

    /// Moves every failed or completed job to waiting, or every delayed one that no schedule made.
    pub async fn move_all_to_wait(
        &self,
        queue: &QueueName,
        state: JobState,
    ) -> Result<u64, QueueError> {
        let keys = self.keys(queue);
        let (set, name) = match state {
            JobState::Failed => (keys.failed(), "failed"),
            JobState::Completed => (keys.completed(), "completed"),
            JobState::Delayed => return self.promote_all(queue).await,
            other => return Err(not_movable(other)),
        };
        // Jobs that fail again meanwhile are not moved a second time.
        let until = self.now_ms();
        let mut moved = 0;
        loop {
            let there: u64 = self.connection.get().zcount(&set, 0, until).await?;
            let names = [
                keys.key_prefix(),
                keys.events(),
                set.clone(),
                keys.wait(),
                keys.paused(),
                keys.meta(),
                keys.active(),
                keys.marker(),
            ];
            let call = Call::new(&scripts::MOVE_JOBS_TO_WAIT, &names)
                .arg(BATCH)
                .arg(until)
                .arg(name);
            let unfinished: u64 = call.invoke(&mut self.connection.get()).await?;
            moved += there.min(BATCH);
            if unfinished == 0 || there <= BATCH {
                return Ok(moved);
            }
        }
    }

    /// Promotes one by one, because the script for all would include jobs of schedules and ignore
    /// priorities.
    async fn promote_all(&self, queue: &QueueName) -> Result<u64, QueueError> {
        let keys = self.keys(queue);
        let ids: Vec<String> = self.connection.get().zrange(keys.delayed(), 0, -1).await?;
        let mut promoted = 0;
        for id in ids {
            let Ok(id) = id.parse() else { continue };
            match self.promote(queue, &id).await {
                Ok(()) => promoted += 1,
                // It has started or was removed meanwhile, or belongs to a schedule.
                Err(
                    QueueError::Scheduled { .. }
                    | QueueError::NotFound { .. }
                    | QueueError::WrongState { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(promoted)
    }

    /// Removes the queue with all its jobs, including finished ones. The history stays. Refused
    /// while jobs run.
    pub async fn obliterate(&self, queue: &QueueName) -> Result<u64, QueueError> {
        let keys = self.keys(queue);
        let counts = self.counts(queue).await?;
        if counts.active > 0 {
            return Err(QueueError::Busy {
                active: counts.active,
            });
        }
        self.pause(queue).await?;
        loop {
            let call = Call::new(&scripts::OBLITERATE, &[keys.meta(), keys.base() + ":"])
                .arg(BATCH)
                .arg("");
            match call.invoke::<i64>(&mut self.connection.get()).await? {
                0 => {
                    self.forget_marks(queue).await?;
                    return Ok(counts.total());
                }
                code if code < 0 => {
                    // A job was taken between the count and the pause.
                    if !counts.paused {
                        self.resume(queue).await?;
                    }
                    return Err(QueueError::Busy { active: 1 });
                }
                _ => {}
            }
        }
    }

    /// Limits how many jobs of the queue run at once over all workers everywhere. `None` removes
    /// the limit.
    pub async fn set_concurrency(
        &self,
        queue: &QueueName,
        most: Option<u32>,
    ) -> Result<(), QueueError> {
        let meta = self.keys(queue).meta();
        let mut connection = self.connection.get();
        match most {
            Some(0) => {
                return Err(QueueError::Invalid(
                    "A limit of 0 would stop the queue: pause it instead".into(),
                ));
            }
            Some(most) => {
                connection
                    .hset::<_, _, _, ()>(meta, "concurrency", most)
                    .await?
            }
            None => connection.hdel::<_, _, ()>(meta, "concurrency").await?,
        }
        Ok(())
    }

    /// Limits how many jobs of the queue start per time over all workers everywhere. `None` leaves
    /// only the workers' own limits.
    pub async fn set_rate(
        &self,
        queue: &QueueName,
        rate: Option<(u64, Duration)>,
    ) -> Result<(), QueueError> {
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        // Starts under the old rate no longer count. Otherwise its time would have to end first.
        pipe.atomic().del(keys.limiter()).ignore();
        match rate {
            Some((max, per))
                if !(1..=MAX_RATE).contains(&max)
                    || per.as_millis() == 0
                    || per > MAX_RATE_TIME =>
            {
                let text = format!(
                    "A rate must be 1 to {MAX_RATE} jobs in 1 ms to one day; to stop the queue, pause it"
                );
                return Err(QueueError::Invalid(text));
            }
            Some((max, per)) => {
                let fields = [("max", max), ("duration", per.as_millis() as u64)];
                pipe.hset_multiple(keys.meta(), &fields).ignore();
            }
            None => {
                pipe.hdel(keys.meta(), &["max", "duration"]).ignore();
            }
        }
        pipe.query_async::<()>(&mut self.connection.get()).await?;
        Ok(())
    }
}

fn not_movable(state: JobState) -> QueueError {
    QueueError::Invalid(format!(
        "Jobs in state {state} cannot be put back; only failed, completed and delayed jobs can"
    ))
}
