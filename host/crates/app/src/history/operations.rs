//! Use cases of the history, except for searching and erasing.

use std::sync::Arc;

use patchbay_api::answer::Page;
use patchbay_api::history::{
    AttemptBody, BodiesKept, HistoryBodies, HistoryPrune, HistoryResetRetention,
    HistorySetRetention, Keep, ListErasures, Prune, Pruned, RecordedErasure, ResetRetention,
    Retention, Status, StreamStatus,
};
use patchbay_api::jobs::JobPath;
use patchbay_api::reveal::Reveal;
use patchbay_model::job::trail_name;
use patchbay_model::shell::word;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::Broker;
use patchbay_store::Store;
use patchbay_work::body_budget::Recording;
use serde_json::json;

use super::views::{erasure_view, last_prune_view, partition_view, pruned_view, retention_view};
use super::{HistoryParts, Reader, RedactedBody};
use crate::actions::{Actions, Caller};
use crate::error::Error;
use crate::inbox::InboxParts;
use crate::plugins::Plugins;
use crate::queues::Catalog;
use crate::{Parts, reveal};

const MOST_DAYS: i32 = 36_500;
/// Of one job. It has one body, and one more for each retry after its end.
const MOST_BODIES: i64 = 20;
/// Erasures of a page.
const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;

#[derive(Clone)]
pub struct History {
    pub(super) broker: Broker,
    pub(super) store: Store,
    pub(super) plugins: Arc<Plugins>,
    pub(super) parts: Arc<HistoryParts>,
    pub(super) actions: Actions,
    pub(super) catalog: Catalog,
    pub(super) inbox: Arc<InboxParts>,
}

impl History {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            store: parts.store.clone(),
            plugins: Arc::clone(&parts.plugins),
            parts: Arc::clone(&parts.history),
            actions: parts.actions.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
            inbox: Arc::clone(&parts.inbox),
        }
    }

    /// Shows how many attempts wait, what the history holds, and its retention.
    pub async fn status(&self) -> Result<Status, Error> {
        let Recording {
            attempts: enabled, ..
        } = self.parts.budget.recording();
        let no_bodies = self.parts.budget.no_bodies();
        let lag = self.broker.attempts_waiting_for().await?;
        let stream = StreamStatus {
            attempts: self.broker.attempts_waiting().await?,
            bytes: self.broker.attempts_bytes().await?,
            lag_ms: lag.map(|lag| lag.as_millis() as u64),
            set_aside: self.broker.attempts_set_aside().await?,
        };
        let tables = self.store.history_tables().await?;
        Ok(Status {
            enabled,
            stream,
            bodies: BodiesKept {
                kept: no_bodies.is_none(),
                reason: no_bodies.map(|why| why.reason().to_owned()),
            },
            partitions: tables.partitions.into_iter().map(partition_view).collect(),
            oldest: tables.oldest,
            last_prune: tables.last_prune.map(last_prune_view),
            retention: self.retention().await?,
        })
    }

    pub async fn retention(&self) -> Result<Retention, Error> {
        Ok(retention_view(self.store.retention(self.parts.keep).await?))
    }

    pub async fn set_retention(
        &self,
        who: &Caller,
        queue: &str,
        keep: Keep,
    ) -> Result<Retention, Error> {
        let Keep { outcome, days } = keep;
        let queue = self.catalog.known(queue).await?;
        if !(1..=MOST_DAYS).contains(&days) {
            return Err(Error::invalid(format!(
                "days: must be from 1 to {MOST_DAYS}"
            )));
        }
        let act = async {
            self.store
                .set_retention(&queue, outcome, days, &who.actor)
                .await?;
            self.retention().await
        };
        let details = json!({ "outcome": outcome, "days": days });
        self.actions
            .record::<HistorySetRetention, _>(who, queue.as_str(), details, act)
            .await
    }

    pub async fn reset_retention(
        &self,
        who: &Caller,
        queue: &str,
        what: ResetRetention,
    ) -> Result<Retention, Error> {
        let queue: QueueName = queue.parse()?;
        let act = async {
            self.store.reset_retention(&queue, what.outcome).await?;
            self.retention().await
        };
        let details = json!({ "outcome": what.outcome });
        self.actions
            .record::<HistoryResetRetention, _>(who, queue.as_str(), details, act)
            .await
    }

    /// Deletes what is older than the retention allows, or previews that.
    pub async fn prune(&self, who: &Caller, Prune { dry_run }: Prune) -> Result<Pruned, Error> {
        let retention = self.store.retention(self.parts.keep).await?;
        if dry_run {
            return Ok(pruned_view(self.store.prunable_history(&retention).await?));
        }
        let act = async { Ok(pruned_view(self.store.prune_history(&retention).await?)) };
        let details = json!({ "retention": retention_view(retention.clone()) });
        self.actions
            .record::<HistoryPrune, _>(who, "history", details, act)
            .await
    }

    /// Newest first.
    pub async fn erasures(&self, part: ListErasures) -> Result<Page<RecordedErasure>, Error> {
        let limit = part.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(format!(
                "limit: must be from 1 to {MAX_LIMIT}"
            )));
        }
        let mut rows = self
            .store
            .erasures(self.broker.prefix(), part.cursor, i64::from(limit) + 1)
            .await?;
        let more = rows.len() > usize::from(limit);
        rows.truncate(limit.into());
        let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
        Ok(Page {
            items: rows.into_iter().map(erasure_view).collect(),
            next_cursor,
            partial: false,
        })
    }

    /// Reads data and results of a job. A reveal is recorded.
    pub async fn bodies(
        &self,
        who: &Caller,
        job: &JobPath,
        reveal: Reveal,
    ) -> Result<Vec<AttemptBody>, Error> {
        reveal::check(&reveal)?;
        let (queue, id): (QueueName, JobId) =
            (self.catalog.known(&job.queue).await?, job.id.parse()?);
        let act = async {
            let mut reader = Reader::new(
                &self.parts.bodies,
                &self.plugins,
                &self.broker,
                reveal.reveal,
            );
            let mut bodies = Vec::new();
            for row in self
                .store
                .bodies(self.broker.prefix(), &queue, &id, MOST_BODIES)
                .await?
            {
                let (job_created_ms, started, finished_at) =
                    (row.job_created_ms, row.started, row.finished_at);
                let RedactedBody {
                    data,
                    result,
                    withheld,
                } = reader.show(row).await?;
                bodies.push(AttemptBody {
                    job_created_ms,
                    started,
                    finished_at,
                    data,
                    result,
                    withheld,
                });
            }
            if bodies.is_empty() {
                let [id, queue] = [id.as_str(), queue.as_str()].map(word);
                return Err(Error::not_found(format!(
                    "The history holds no data of job {id} of {queue}"
                )));
            }
            Ok(bodies)
        };
        let count = |bodies: &Vec<AttemptBody>| json!({ "bodies": bodies.len() });
        let details = json!({ "reveal": reveal.reveal, "reason": reveal.reason });
        let target = trail_name(&queue, &id);
        self.actions
            .record_as::<HistoryBodies, _>(who, &target, details, act, count)
            .await
    }
}
