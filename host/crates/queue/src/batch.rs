//! Writes several jobs: all or none. Redis does not roll a transaction back when a script fails in
//! the middle of it. So the types of all keys are checked first, and whatever a failed batch has
//! written is removed again.

use patchbay_model::words::counted;
use patchbay_model::{JobId, QueueName};
use redis::{RedisResult, Value};
use tracing::error;

use crate::addition::{Addition, id_of_reply};
use crate::damage::{read, shape, take_away};
use crate::removal::removal;
use crate::scripts::{self, Call};
use crate::transaction::transaction;
use crate::{Broker, QueueError};

/// A job that this batch created.
type Written = (QueueName, JobId);

impl Broker {
    /// Adds all jobs or none, then runs `releases`. Parents come before their children.
    pub(crate) async fn add_all(
        &self,
        additions: &[Addition],
        releases: &[Call],
    ) -> Result<Vec<JobId>, QueueError> {
        let calls: Vec<&Call> = additions
            .iter()
            .map(|addition| &addition.call)
            .chain(releases)
            .collect();
        let mut connection = self.connection.get();
        if let [_, _, ..] = calls[..] {
            self.check_types(&self.shape_of(additions)).await?;
            // Inside a transaction, a script that Redis does not know cannot be loaded and retried.
            let mut loaded: Vec<&Call> = Vec::new();
            for call in &calls {
                if !loaded.iter().any(|known| known.is_same_script(call)) {
                    call.load(&mut connection).await?;
                    loaded.push(call);
                }
            }
        }
        let (mut replies, mut written) = self.write(additions, &calls).await?;
        if let [Err(error)] = &replies[..]
            && scripts::is_unknown(error)
        {
            calls[0].load(&mut connection).await?;
            (replies, written) = self.write(additions, &calls).await?;
        }
        let mut ids = Vec::with_capacity(additions.len());
        for (place, reply) in replies.into_iter().enumerate() {
            let id = match reply.map_err(QueueError::from) {
                Ok(reply) if place < additions.len() => id_of_reply(reply),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match id {
                Ok(id) => ids.push(id),
                Err(error) => return Err(self.undo(additions, written, error).await),
            }
        }
        Ok(ids)
    }

    /// Runs one transaction. Besides the scripts' replies, returns the jobs that did not exist
    /// before.
    async fn write(
        &self,
        additions: &[Addition],
        calls: &[&Call],
    ) -> Result<(Vec<RedisResult<Value>>, Vec<Written>), QueueError> {
        let queues = queues(additions);
        let own: Vec<(&QueueName, &JobId)> = additions
            .iter()
            .filter_map(|addition| Some((&addition.queue, addition.id.as_ref()?)))
            .collect();
        let mut pipe = redis::pipe();
        pipe.atomic().ignore_errors();
        for queue in &queues {
            pipe.get(self.keys(queue).id());
        }
        for (queue, id) in &own {
            pipe.exists(self.keys(queue).job_key(id.as_str()));
        }
        for call in calls {
            pipe.add_command(call.command());
        }
        for queue in &queues {
            pipe.get(self.keys(queue).id());
        }
        let mut replies: Vec<RedisResult<Value>> =
            pipe.query_async(&mut self.connection.get()).await?;
        let after = replies.split_off(replies.len().saturating_sub(queues.len()));
        let answers = replies.split_off(queues.len() + own.len());
        let existed = replies.split_off(queues.len());
        let mut written: Vec<Written> = Vec::new();
        for ((queue, id), existed) in own.into_iter().zip(existed) {
            if read::<bool>(existed)? == Ok(false) {
                written.push((queue.clone(), id.clone()));
            }
        }
        // Inside a transaction nobody else increments the counter.
        for ((queue, before), after) in queues.into_iter().zip(replies).zip(after) {
            if let (Ok(before), Ok(Some(after))) =
                (read::<Option<u64>>(before)?, read::<Option<u64>>(after)?)
            {
                let counted = before.unwrap_or(0) + 1..=after;
                written.extend(
                    counted.filter_map(|id| Some((queue.clone(), id.to_string().parse().ok()?))),
                );
            }
        }
        Ok((answers, written))
    }

    /// Removes what a batch wrote before its error. Returns that error, with the damaged key if
    /// there is one.
    async fn undo(
        &self,
        additions: &[Addition],
        written: Vec<Written>,
        error: QueueError,
    ) -> QueueError {
        let mut left = 0;
        for (queue, id) in &written {
            left += match self.take_back(queue, id).await {
                Ok(true) => 0,
                Ok(false) => 1,
                Err(undone) => {
                    error!(error = %undone, %queue, job = %id, "A batch of jobs failed, and one of its jobs could not be removed again");
                    1
                }
            };
        }
        let found = if error.is_damage() {
            self.check_types(&self.shape_of(additions)).await.err()
        } else {
            None
        };
        match found.unwrap_or(error) {
            QueueError::Damaged { what, source } if left > 0 => QueueError::Damaged {
                what: format!(
                    "{what}; {} of the batch could not be removed again",
                    counted(left, "job")
                ),
                source,
            },
            error => error,
        }
    }

    /// Removes the job; false if a worker already has it.
    async fn take_back(&self, queue: &QueueName, id: &JobId) -> Result<bool, QueueError> {
        let keys = self.keys(queue);
        match removal(&keys, id)
            .invoke::<i64>(&mut self.connection.get())
            .await
            .map_err(QueueError::from)
        {
            // Either damaged data stops the script, or Redis is full: then the script can remove
            // the job but not write the event about it.
            Err(QueueError::Damaged { .. } | QueueError::MemoryFull(_)) => {
                let taken = transaction::<Value>(self.connection.get(), |pipe| {
                    pipe.ignore_errors();
                    take_away(pipe, &keys, id.as_str().as_bytes(), true);
                });
                taken.await?;
                Ok(true)
            }
            code => Ok(code? == 1),
        }
    }

    /// Every key that adding these jobs touches, with the type that BullMQ stores there.
    fn shape_of(&self, additions: &[Addition]) -> Vec<(String, &'static str)> {
        let mut all: Vec<_> = queues(additions)
            .into_iter()
            .flat_map(|queue| shape(&self.keys(queue)))
            .collect();
        for addition in additions {
            if let Some(id) = &addition.id {
                let key = self.keys(&addition.queue).job_key(id.as_str());
                all.push((format!("{key}:dependencies"), "set"));
                all.push((key, "hash"));
            }
            all.extend(addition.deduplication.clone().map(|key| (key, "string")));
        }
        all
    }
}

fn queues(additions: &[Addition]) -> Vec<&QueueName> {
    let mut names: Vec<&QueueName> = additions.iter().map(|addition| &addition.queue).collect();
    names.sort();
    names.dedup();
    names
}
