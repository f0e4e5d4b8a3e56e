//! Reads what Postgres and Redis know of a job, for its timeline.

use patchbay_api::jobs::JobPath;
use patchbay_api::reveal::Reveal;
use patchbay_api::timeline::{JobsTimeline, Timeline};
use patchbay_model::confidential::is_confidential;
use patchbay_model::job::trail_name;
use patchbay_model::{JobId, QueueName};
use serde_json::Value;

use super::Jobs;
use super::life::{JobFacts, timeline};
use crate::actions::Caller;
use crate::error::Error;
use crate::{redacted, reveal};

/// Log lines of a job.
const MAX_LOGS: u64 = 500;

impl Jobs {
    /// The timeline of a job, also after Redis has removed it.
    pub async fn timeline(
        &self,
        who: &Caller,
        job: &JobPath,
        reveal: Reveal,
    ) -> Result<Timeline, Error> {
        reveal::check(&reveal)?;
        let (queue, id) = self.named(job).await?;
        let told = self.life(&queue, &id, reveal.reveal);
        if !reveal.reveal {
            return told.await;
        }
        let target = trail_name(&queue, &id);
        self.actions
            .record_as::<JobsTimeline, _>(who, &target, reveal::details(&reveal), told, |_| {
                Value::Null
            })
            .await
    }

    async fn life(&self, queue: &QueueName, id: &JobId, reveal: bool) -> Result<Timeline, Error> {
        let (store, prefix) = (&self.store, self.broker.prefix());
        let mut job = self.broker.job(queue, id).await?;
        let family = self.broker.family(queue, id).await?;
        let mut logs = self.broker.job_logs(queue, id, MAX_LOGS).await?;
        let mut attempts = store.lives(prefix, queue, id).await?;
        let erasures = store.job_erasures(prefix, queue, id).await?;
        if !reveal || is_confidential(id.as_str()) {
            let mask;
            (job, mask) = match job {
                None => (None, redacted::mask_of(id.as_str())),
                Some(job) => {
                    let told = self.hidden_of_children(queue, id).await?;
                    let (shown, mask) = redacted::job(&self.plugins.redaction(queue), told, job);
                    (Some(shown.job), mask)
                }
            };
            mask.hide(&mut logs);
            attempts
                .iter_mut()
                .for_each(|row| redacted::attempt(&mut row.attempt, &mask));
        }
        if job.is_none() && attempts.is_empty() && erasures.is_empty() {
            return Err(self.why_gone(queue, id).await?);
        }
        let mut created: Vec<i64> = attempts.iter().map(|row| row.job_created_ms).collect();
        created.extend(
            job.as_ref()
                .and_then(|job| job.timestamp)
                .and_then(|ms| i64::try_from(ms).ok()),
        );
        let mut requests: Vec<String> = attempts
            .iter()
            .map(|row| row.attempt.correlation_id.clone())
            .collect();
        requests.extend(family.correlation_id.clone());
        let mut digests: Vec<String> = attempts
            .iter()
            .filter_map(|row| row.attempt.revision.clone())
            .collect();
        for list in [&mut requests, &mut digests] {
            list.sort();
            list.dedup();
        }
        created.sort_unstable();
        created.dedup();
        let known = JobFacts {
            key: format!("{queue}:{id}"),
            actions: store.job_actions(queue, id, &created).await?,
            bulks: store.job_bulks(prefix, queue, id).await?,
            queue_actions: match created.first() {
                Some(since_ms) => store.queue_actions(queue, *since_ms).await?,
                None => Vec::new(),
            },
            audit: store.job_audit(queue, id, &requests).await?,
            relatives: store.relatives(prefix, queue, id, &requests).await?,
            versions: store.versions(&digests).await?.into_iter().collect(),
            erasures,
            attempts,
            job,
            family,
            logs,
        };
        Ok(timeline(queue.as_str(), id.as_str(), known))
    }
}
