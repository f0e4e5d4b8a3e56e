//! Retries many finished jobs, with changed data if asked.

use redis::Value;

use super::{Chosen, JobResult, PlannedChange};
use crate::job_rules::check_data;
use crate::opts::JobOpts;
use crate::removal::{marked_key, reprocessing};
use crate::{Broker, QueueError};

/// From a job's name and data to its new data, or to why it stays unchanged.
pub type Edit<'a> = dyn Fn(&Chosen, &str, &str) -> Result<String, String> + Send + Sync + 'a;

const RUN_SINCE: &str = "The job was retried, or has run, since it was chosen";

impl Broker {
    /// Makes all attempts available again. Id, creation time and with them the idempotency key
    /// stay.
    pub async fn retry_many(
        &self,
        bulk: i64,
        items: &[Chosen],
        edit: Option<&Edit<'_>>,
    ) -> Result<Vec<JobResult>, QueueError> {
        self.memory.refuse_when_full().await?;
        let notes = self.notes(bulk, items.iter().map(|item| item.n)).await?;
        let fields = ["timestamp", "finishedOn", "opts", "name", "data"];
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
                None => Some(JobResult::skipped("The job is no longer in Redis")),
                Some(created) if created != item.key.created_ms => {
                    Some(JobResult::skipped("Another job has its id now"))
                }
                Some(_) if seen.score.is_none() || seen.number(1) != item.finished_on => {
                    Some(JobResult::skipped(RUN_SINCE))
                }
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
            let call = reprocessing(&keys, &item.key.id, item.state, &opts);
            fates[place] = match call {
                None => Some(JobResult::skipped(
                    "Only completed and failed jobs can be retried",
                )),
                Some(_) => fate,
            };
            if let (None, Some(call)) = (&fates[place], call) {
                let job = keys.job_key(item.key.id.as_str());
                let id = item.key.id.as_str();
                let marked = marked_key(&self.config.own_prefix, &item.key.queue);
                let mut before = Vec::from(super::remove::without_mark(&marked, &job, id));
                if let Ok(Some(data)) = edited {
                    // The same write as BullMQ's script, which checks only that the job exists.
                    let mut update = redis::cmd("HSET");
                    update.arg(&job).arg("data").arg(data);
                    before.push(update);
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
            Value::Int(-1) => JobResult::skipped("The job is no longer in Redis"),
            _ => JobResult::skipped(RUN_SINCE),
        })
        .await
    }
}
