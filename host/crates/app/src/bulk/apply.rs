//! Applies a bulk operation to the jobs of one batch.

use patchbay_api::bulk::{BulkIdentity, BulkKind, BulkSource};
use patchbay_model::confidential::{REFUSAL, is_confidential};
use patchbay_model::job::{JobKey, NewJob, Trace};
use patchbay_queue::{Chosen, JobResult, PriorIdentity, ReAddition};
use patchbay_store::{BodyRow, Ended};

use super::edit::Edits;
use super::plan::Plan;
use super::{BulkError, BulkJobs};
use crate::history::Unopened;

/// Bodies that are searched for the job's. A job has several when its id was used again, or when it
/// was retried after its end.
const MOST_BODIES: i64 = 20;

impl BulkJobs {
    pub(super) async fn act(
        &self,
        bulk: i64,
        plan: &Plan,
        items: &[Chosen],
    ) -> Result<Vec<JobResult>, BulkError> {
        Ok(match (plan.kind, plan.source) {
            (BulkKind::Retry, BulkSource::Live) => {
                self.queues.retry_many(bulk, items, None).await?
            }
            (BulkKind::EditAndRetry, _) => {
                let edits = plan
                    .edits
                    .as_ref()
                    .ok_or_else(|| BulkError::Stuck("the stored operation has no edits".into()))?;
                let edit = |item: &Chosen, name: &str, data: &str| {
                    self.edited(edits, &item.key, name, data)
                };
                self.queues.retry_many(bulk, items, Some(&edit)).await?
            }
            (BulkKind::Remove, _) => self.queues.remove_many(bulk, items).await?,
            (BulkKind::EnqueueAgain, BulkSource::Live) => self.copy_jobs(bulk, items).await?,
            (BulkKind::EnqueueAgain, BulkSource::History) => {
                self.jobs_from_history(bulk, plan, items).await?
            }
            (BulkKind::Retry, BulkSource::History) => self.retry_or_add(bulk, plan, items).await?,
        })
    }

    /// The data of a job after the edits. The error says why the job is left as it is.
    pub(super) fn edited(
        &self,
        edits: &Edits,
        job: &JobKey,
        name: &str,
        data: &str,
    ) -> Result<String, String> {
        if is_confidential(job.id.as_str()) {
            return Err(REFUSAL.to_owned());
        }
        let data = edits.apply(data)?;
        self.declared
            .check_data(&job.queue, name, &data)
            .map_err(|misfit| misfit.of_edited_data())?;
        Ok(data)
    }

    /// Adds copies of jobs that are in Redis. They are not checked against what plugins declare: the
    /// jobs exist, and a copy must stay possible.
    async fn copy_jobs(&self, bulk: i64, items: &[Chosen]) -> Result<Vec<JobResult>, BulkError> {
        let like = self.queues.like(items).await?;
        let jobs = like
            .into_iter()
            .map(|job| job.map(|job| (job, None)).map_err(str::to_owned));
        self.add(bulk, items, jobs.collect()).await
    }

    /// Retries the jobs that are in Redis, and adds those anew that Redis has forgotten.
    async fn retry_or_add(
        &self,
        bulk: i64,
        plan: &Plan,
        items: &[Chosen],
    ) -> Result<Vec<JobResult>, BulkError> {
        let there = self.queues.still_there(items).await?;
        let mut fates: Vec<Option<JobResult>> = vec![None; items.len()];
        let (mut retried, mut forgotten) = (Vec::new(), Vec::new());
        for (place, there) in there.into_iter().enumerate() {
            match there {
                Some(there) => retried.push((place, there)),
                None => forgotten.push((place, items[place].clone())),
            }
        }
        for (group, is_there) in [(retried, true), (forgotten, false)] {
            let (places, group): (Vec<usize>, Vec<Chosen>) = group.into_iter().unzip();
            let done = match is_there {
                true => self.queues.retry_many(bulk, &group, None).await?,
                false => self.jobs_from_history(bulk, plan, &group).await?,
            };
            for (place, fate) in places.into_iter().zip(done) {
                fates[place] = Some(fate);
            }
        }
        Ok(fates.into_iter().flatten().collect())
    }

    /// Adds jobs as the history has them.
    async fn jobs_from_history(
        &self,
        bulk: i64,
        plan: &Plan,
        items: &[Chosen],
    ) -> Result<Vec<JobResult>, BulkError> {
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        let remembered = self.store.last_attempts(&keys).await?;
        let mut jobs = Vec::with_capacity(items.len());
        for (item, ended) in items.iter().zip(remembered) {
            jobs.push(match ended {
                None => Err("the history no longer has this job".to_owned()),
                Some(ended) if ended.parent.is_some() => {
                    Err("it belonged to a flow; add the whole flow again".to_owned())
                }
                Some(ended) => match self.data_of(&item.key).await? {
                    Ok(data) => {
                        let kept = PriorIdentity {
                            key: item.key.clone(),
                            started: ended.started.try_into().unwrap_or(0),
                        };
                        Ok((
                            remembered_job(item, ended, data),
                            (plan.key == Some(BulkIdentity::Keep)).then_some(kept),
                        ))
                    }
                    Err(reason) => Err(reason),
                },
            });
        }
        self.add(bulk, items, jobs).await
    }

    /// Reads a job's data. The inner error says why it is not known.
    pub(super) async fn data_of(&self, job: &JobKey) -> Result<Result<String, String>, BulkError> {
        if is_confidential(job.id.as_str()) {
            return Ok(Err(REFUSAL.to_owned()));
        }
        let rows = self
            .store
            .bodies(&job.prefix, &job.queue, &job.id, MOST_BODIES)
            .await?;
        let is_its = |row: &BodyRow| u64::try_from(row.job_created_ms) == Ok(job.created_ms);
        let Some(row) = rows.into_iter().find(is_its) else {
            return Ok(Err("the history has no data of this job".into()));
        };
        let started = row.started.try_into().unwrap_or(0);
        match self.bodies.open(job, started, &row.sealed()).await {
            Ok(body) => Ok(Ok(body.data)),
            Err(Unopened::Store(error)) => Err(error.into()),
            Err(closed) => Ok(Err(format!("its data in the history is {closed}"))),
        }
    }

    async fn add(
        &self,
        bulk: i64,
        items: &[Chosen],
        jobs: Vec<Result<(NewJob, Option<PriorIdentity>), String>>,
    ) -> Result<Vec<JobResult>, BulkError> {
        let mut fates: Vec<Option<JobResult>> = vec![None; items.len()];
        let (mut places, mut additions) = (Vec::new(), Vec::new());
        for (place, (item, job)) in items.iter().zip(jobs).enumerate() {
            match job {
                Ok((job, kept)) => {
                    places.push(place);
                    additions.push(ReAddition {
                        n: item.n,
                        job,
                        kept,
                    });
                }
                Err(reason) => fates[place] = Some(JobResult::Skipped(reason.into())),
            }
        }
        for (place, fate) in places
            .into_iter()
            .zip(self.queues.add_again(bulk, additions).await?)
        {
            fates[place] = Some(fate);
        }
        Ok(fates.into_iter().flatten().collect())
    }
}

/// Its options are the defaults of its queue: the history does not keep the producer's options.
fn remembered_job(item: &Chosen, ended: Ended, data: String) -> NewJob {
    let correlation_id = Some(ended.correlation_id).filter(|id| !id.is_empty());
    let trace = Trace {
        correlation_id,
        platform: ended.platform,
        ..Trace::default()
    };
    NewJob {
        trace,
        ..NewJob::new(item.key.queue.clone(), ended.name, data)
    }
}
