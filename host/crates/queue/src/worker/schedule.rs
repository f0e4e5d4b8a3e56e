//! Makes the next tick of a schedule when the present one starts. If it were made at the end, a
//! process killed in between would end the schedule for ever.

use patchbay_model::shell::arguments;
use tracing::{error, info, warn};

use super::Inner;
use super::fetch::Taken;
use crate::repeat::next_opts;
use crate::repeatables::has_legacy_shape;

impl Inner {
    /// Does nothing for a job that no scheduler made, or whose scheduler was removed or has already
    /// made the next tick (on a second attempt).
    pub(super) async fn schedule_next_tick(&self, taken: &Taken) {
        let Some(scheduler) = taken.fields.get("rjk") else {
            return;
        };
        if let Err(error) = self.try_next_tick(scheduler, taken).await {
            // The reconciler repairs this.
            warn!(%error, schedule = scheduler, queue = %self.config.queue, "The next tick of a schedule could not be added yet");
        }
    }

    async fn try_next_tick(&self, scheduler: &str, taken: &Taken) -> redis::RedisResult<()> {
        let (queue, queues) = (&self.config.queue, &self.queues);
        let Some(found) = queues.scheduler(queue, scheduler).await? else {
            return Ok(());
        };
        let is_scheduler = found.fields.contains_key("ic");
        if taken.id != found.job_id(scheduler) {
            // The jobs of such a repeatable are named after a hash of its key.
            let is_its_tick = taken.id.ends_with(&format!(":{}", found.tick));
            if !is_scheduler && has_legacy_shape(scheduler) && is_its_tick {
                error!(
                    %queue, repeatable = scheduler,
                    "A repeatable of BullMQ 5 or older stops after this job: only BullMQ 5 makes its ticks. \
                     Make it a schedule: patchbay queue migrate-repeatables {}",
                    arguments(&[queue.as_str()])
                );
            }
            return Ok(());
        }
        if let (false, Some(data)) = (is_scheduler, taken.fields.get("data")) {
            // A repeatable of BullMQ 5 keeps its data only in its job, but the script reads the
            // scheduler's data.
            queues.keep_scheduler_data(queue, scheduler, data).await?;
        }
        let opts = taken
            .fields
            .get("opts")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        match next_opts(opts, &found.repeat(), queues.moment(&found)) {
            Ok(Some((tick, opts))) => queues
                .make_tick(queue, scheduler, &taken.id, tick, &opts)
                .await
                .map(drop),
            Ok(None) => {
                info!(%queue, schedule = scheduler, "A schedule has ended");
                Ok(())
            }
            Err(reason) => {
                error!(
                    %queue, schedule = scheduler, reason,
                    "A schedule stops: its next tick cannot be computed. This job still runs. The schedule ticks again within 30 s of its repair"
                );
                Ok(())
            }
        }
    }
}
