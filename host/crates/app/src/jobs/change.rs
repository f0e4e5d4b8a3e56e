//! What operators do to one job.

use std::time::Duration;

use patchbay_api::jobs::{
    Delay, JobPath, JobsKill, JobsPromote, JobsRemove, JobsRetry, JobsSetData, JobsSetDelay,
    JobsSetPriority, Priority,
};
use patchbay_api::operation::Endpoint;
use patchbay_model::job::trail_name;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::QueueError;
use patchbay_store::JobAction;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Jobs, removed};
use crate::actions::Caller;
use crate::declared_jobs::{Forcing, is_forced, with_forced};
use crate::error::Error;
use crate::reveal::{refuse_confidential, refuse_mark};

/// How often, and how many times, the record of a removal at the same time is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOKS: usize = 20;

impl Jobs {
    pub async fn retry(&self, who: &Caller, job: &JobPath) -> Result<(), Error> {
        let (queue, id) = self.named(job).await?;
        self.change::<JobsRetry>(who, &queue, &id, json!({}), self.broker.retry(&queue, &id))
            .await
    }

    pub async fn remove(&self, who: &Caller, job: &JobPath) -> Result<(), Error> {
        let (queue, id) = self.named(job).await?;
        self.change::<JobsRemove>(who, &queue, &id, json!({}), self.broker.remove(&queue, &id))
            .await
    }

    pub async fn promote(&self, who: &Caller, job: &JobPath) -> Result<(), Error> {
        let (queue, id) = self.named(job).await?;
        self.change::<JobsPromote>(
            who,
            &queue,
            &id,
            json!({}),
            self.broker.promote(&queue, &id),
        )
        .await
    }

    pub async fn kill(&self, who: &Caller, job: &JobPath) -> Result<(), Error> {
        let (queue, id) = self.named(job).await?;
        self.change::<JobsKill>(
            who,
            &queue,
            &id,
            json!({}),
            self.broker.kill(&queue, &id, &who.actor),
        )
        .await
    }

    pub async fn set_data(
        &self,
        who: &Caller,
        job: &JobPath,
        data: &RawValue,
        force: bool,
    ) -> Result<(), Error> {
        let (queue, id) = self.named(job).await?;
        refuse_mark("the data", data.get())?;
        refuse_confidential(&id)?;
        let checked = match self.broker.job(&queue, &id).await? {
            Some(job) => self.declared.check_data(&queue, &job.name, data.get()),
            // The change is refused, since there is no such job.
            None => Ok(()),
        };
        // Data may be personal: the record says that it was changed, not to what.
        let details = with_forced(
            json!({ "bytes": data.get().len() }),
            is_forced(checked, force, Forcing::SetData)?,
        );
        let act = self.broker.set_data(&queue, &id, data.get());
        self.change::<JobsSetData>(who, &queue, &id, details, act)
            .await
    }

    pub async fn set_delay(
        &self,
        who: &Caller,
        job: &JobPath,
        Delay { delay_ms }: Delay,
    ) -> Result<(), Error> {
        let (queue, id) = self.named(job).await?;
        let act = self
            .broker
            .set_delay(&queue, &id, Duration::from_millis(delay_ms));
        self.change::<JobsSetDelay>(who, &queue, &id, json!({ "delayMs": delay_ms }), act)
            .await
    }

    pub async fn set_priority(
        &self,
        who: &Caller,
        job: &JobPath,
        wish: Priority,
    ) -> Result<(), Error> {
        let (queue, id) = self.named(job).await?;
        let act = self.broker.set_priority(&queue, &id, wish.priority);
        self.change::<JobsSetPriority>(who, &queue, &id, json!({ "priority": wish.priority }), act)
            .await
    }

    /// Why the job is gone that was there a moment ago: whoever removed it meanwhile may not have
    /// recorded the end of that yet. `own`: removals that the caller has begun itself.
    async fn why_gone_just_now(
        &self,
        queue: &QueueName,
        id: &JobId,
        own: usize,
    ) -> Result<Error, Error> {
        for _ in 0..LOOKS {
            let actions = self.store.job_actions(queue, id, &[]).await?;
            let removes = |action: &JobAction| action.action == "job.remove";
            let last = actions
                .iter()
                .rfind(|action| removes(action) && action.ended_at.is_some());
            let under_way = actions
                .iter()
                .filter(|action| removes(action) && action.ended_at.is_none())
                .count();
            if last.is_some_and(|last| last.error.is_none()) || under_way <= own {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.why_gone(queue, id).await
    }

    async fn change<E: Endpoint>(
        &self,
        who: &Caller,
        queue: &QueueName,
        id: &JobId,
        details: Value,
        act: impl Future<Output = Result<(), QueueError>>,
    ) -> Result<(), Error> {
        let own = usize::from(E::OPERATION.id == JobsRemove::OPERATION.id);
        let act = async {
            // A job that cannot be read has its own error.
            match self.broker.job(queue, id).await {
                Ok(None) => return Err(self.why_gone_just_now(queue, id, own).await?),
                Ok(Some(job)) => {
                    if let Some(bulk) = job.removed_by {
                        return Err(removed(id.as_str(), bulk));
                    }
                }
                Err(_) => {}
            }
            match act.await {
                Err(QueueError::NotFound { .. }) => {
                    Err(self.why_gone_just_now(queue, id, own).await?)
                }
                done => Ok(done?),
            }
        };
        self.actions
            .record::<E, _>(who, &trail_name(queue, id), details, act)
            .await
    }
}
