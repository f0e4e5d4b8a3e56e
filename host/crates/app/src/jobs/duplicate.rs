//! Adds a job like another one.

use std::time::Duration;

use patchbay_api::jobs::{Added, DuplicateJob, JobPath, JobsDuplicate};
use patchbay_model::job::{JobKey, trail_name};
use patchbay_queue::Chosen;
use serde_json::json;

use super::{Jobs, removed};
use crate::actions::Caller;
use crate::declared_jobs::{Forcing, is_forced, with_forced};
use crate::error::Error;
use crate::reveal::refuse_mark;

impl Jobs {
    /// Adds a new job with the name, data, priority and attempts of this one.
    pub async fn duplicate(
        &self,
        who: &Caller,
        job: &JobPath,
        change: DuplicateJob,
    ) -> Result<Added, Error> {
        let (queue, id) = self.named(job).await?;
        if let Some(data) = &change.data {
            refuse_mark("data", data.get())?;
        }
        let Some(view) = self.broker.job(&queue, &id).await? else {
            return Err(self.why_gone(&queue, &id).await?);
        };
        if let Some(bulk) = view.removed_by {
            return Err(removed(id.as_str(), bulk));
        }
        let Some(created_ms) = view.timestamp else {
            return Err(Error::conflict(format!(
                "Job {id} cannot be copied: the time when it was added is missing or damaged. Add a new job with its data: patchbay job add"
            )));
        };
        let original = Chosen {
            n: 0,
            key: JobKey {
                prefix: self.broker.prefix().to_owned(),
                queue: queue.clone(),
                id: id.clone(),
                created_ms,
            },
            state: view.state,
            finished_on: view.finished_on,
        };
        let like = self.broker.like(&[original]).await?.into_iter().next();
        let mut copy = like
            .ok_or_else(Error::internal)?
            .map_err(|reason| Error::conflict(format!("Job {id} cannot be copied: {reason}")))?;
        let mut details = json!({});
        if let Some(data) = change.data {
            copy.data = data.get().to_owned();
            let checked = self.declared.check(&queue, &copy.name, &copy.data);
            details = with_forced(details, is_forced(checked, change.force, Forcing::Add)?);
        }
        copy.delay = change.delay_ms.map(Duration::from_millis);
        let act = async {
            let ids = self.broker.add(vec![copy]).await?;
            let id = ids.into_iter().next().ok_or_else(Error::internal)?;
            Ok(Added {
                queue: queue.to_string(),
                id: id.to_string(),
                known: false,
            })
        };
        self.actions
            .record::<JobsDuplicate, _>(who, &trail_name(&queue, &id), details, act)
            .await
    }
}
