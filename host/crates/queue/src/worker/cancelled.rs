//! Waiting jobs that a bulk operation has removed: the worker that takes one drops it.

use patchbay_model::JobId;
use redis::Value;
use tracing::{debug, warn};

use super::Inner;
use super::fetch::{Next, NextCheck, Taken};
use crate::job_fields::CANCELLED;
use crate::removal::{removal, taking_away};

/// The bulk operation that has removed the job.
pub(super) fn by(taken: &Taken) -> Option<i64> {
    taken.fields.get(CANCELLED)?.parse().ok()
}

impl Inner {
    /// A job that cannot be dropped now stalls, and the worker that takes it next drops it.
    pub(super) async fn drop_cancelled(&self, taken: &Taken, bulk: i64) -> Next {
        let queue = &self.config.queue;
        let Ok(id) = taken.id.parse::<JobId>() else {
            return Next::Nothing(NextCheck::Now);
        };
        let dropped = async {
            let mut connection = self.queues.connection.get();
            removal(&self.names.keys, &id).load(&mut connection).await?;
            let pipe = taking_away(
                &self.queues.config.own_prefix,
                bulk,
                &self.names.keys,
                queue,
                &id,
            );
            pipe.query_async::<Value>(&mut connection).await
        };
        match dropped.await {
            Ok(_) => debug!(%queue, job = %id, bulk, "dropped: a bulk operation has removed it"),
            Err(error) => {
                warn!(%error, %queue, job = %id, bulk, "A job that a bulk operation removed could not be deleted yet")
            }
        }
        Next::Nothing(NextCheck::Now)
    }
}
