//! Bulk operations: what operators do to all jobs that a filter means.
//!
//! One host of the fleet works them off, the leader of this task; it is taken over at once from one
//! that is killed. The jobs are chosen first and written down; then they are worked off in batches,
//! a batch of each operation in turn, with rests in between and longer ones while Redis is slow.
//! Postgres knows which items are done, Redis what the last batch did: nothing is done twice, and
//! nothing is left out.

mod apply;
mod edit;
mod operations;
mod plan;
mod preview;
mod selection;
mod undo;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::Utc;
use parking_lot::Mutex;
use patchbay_api::bulk::BulkKind;
use patchbay_model::job::{JobKey, JobState};
use patchbay_queue::{Broker, Chosen, JobResult, NO_LONGER_THERE, QueueError};
use patchbay_store::{
    BulkItem, BulkOutcome, BulkRow, JobBulk, LeaderTask, Leadership, NewBulkItem, Store, StoreError,
};
use patchbay_work::redactions::Redactions;
use selection::{Candidate, Chooser, SelectionCursor};
use tokio::sync::Notify;
use tracing::{error, info};

use crate::Parts;
use crate::declared_jobs::DeclaredJobs;
use crate::history::SealedBodies;
use crate::leader::{Led, LedTask, Next};
use crate::service::Service;
pub use operations::BulkOperations;
pub use plan::{Plan, plan_of};
pub use preview::Show;

/// Jobs per batch: a crash repeats the look at so many, and a cancellation is heard as soon.
const BATCH: i64 = 100;
/// How late an operation is noticed that was made on another host, and that Redis or Postgres is
/// back.
const POLL: Duration = Duration::from_secs(1);
/// A batch is followed by a rest as long as itself, so that at most half of the time is ours; and
/// never by less.
const LEAST_REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Redis answers in less than a millisecond: one that takes so long has much to do for others.
const SLOW: Duration = Duration::from_millis(25);
/// Until it is asked again; at most so often, since an operation must end one day.
const WHILE_SLOW: Duration = Duration::from_millis(250);
const MOST_WAITS: usize = 8;
/// What becomes of an item.
const RESULTS: [&str; 3] = ["done", "skipped", "failed"];
/// Why an operation does not go on.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Trying again does not help.
    #[error("{0}")]
    Stuck(String),
}

impl BulkError {
    /// Whether it may go on later by itself.
    fn passes(&self) -> bool {
        match self {
            Self::Queue(error) => error.is_passing(),
            Self::Store(error) => {
                !matches!(error, StoreError::NotFound(_) | StoreError::Conflict(_))
            }
            Self::Stuck(_) => false,
        }
    }
}

/// The bulk operations of the fleet.
pub struct BulkJobs {
    store: Store,
    queues: Broker,
    declared: Arc<DeclaredJobs>,
    bodies: Arc<SealedBodies>,
    redactions: Arc<Redactions>,
    wake: Notify,
    handled: Mutex<BTreeMap<(BulkKind, &'static str), u64>>,
}

/// Works off what there is. Cut off anywhere, it goes on from there.
pub fn runner(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(Led::new(
        parts.store.clone(),
        Runner(Arc::clone(&parts.bulks)),
    ))
}

struct Runner(Arc<BulkJobs>);

#[async_trait]
impl LedTask for Runner {
    const TASK: LeaderTask = LeaderTask::Bulk;
    const NAME: &'static str = "bulk";
    const FAILING: &'static str = "bulk operations make no progress";

    fn every(&self) -> Duration {
        POLL
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        Ok(self
            .0
            .store
            .has_active_bulks(self.0.queues.prefix())
            .await?)
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        self.0.round(lead).await?;
        Ok(Next::AtOnce)
    }

    async fn woken(&self) {
        self.0.wake.notified().await;
    }
}

impl BulkJobs {
    pub(crate) fn new(
        store: Store,
        queues: Broker,
        declared: Arc<DeclaredJobs>,
        bodies: Arc<SealedBodies>,
        redactions: Arc<Redactions>,
    ) -> Arc<Self> {
        // Series that are there from the start show their first rise.
        let handled = BulkKind::ALL
            .iter()
            .flat_map(|kind| RESULTS.map(|result| ((*kind, result), 0)))
            .collect();
        Arc::new(Self {
            store,
            queues,
            declared,
            bodies,
            redactions,
            wake: Notify::new(),
            handled: Mutex::new(handled),
        })
    }

    /// There may be something to do.
    pub fn changed(&self) {
        self.wake.notify_one();
    }

    /// Jobs that this process has handled, by kind of operation and how it went.
    pub fn handled(&self) -> Vec<(&'static str, &'static str, u64)> {
        let handled = self.handled.lock();
        handled
            .iter()
            .map(|((kind, state), jobs)| (kind.as_str(), *state, *jobs))
            .collect()
    }

    /// A step of each operation.
    async fn round(&self, lead: &mut Leadership<'_>) -> Result<(), BulkError> {
        for row in lead.active_bulks(self.queues.prefix()).await? {
            self.wait_while_redis_is_slow().await?;
            let began = Instant::now();
            match self.step(lead, &row).await {
                Ok(()) => {}
                Err(error) if error.passes() => return Err(error),
                Err(error) => {
                    error!(bulk = row.id, %error, "a bulk operation has failed and does not continue");
                    lead.end_bulk(row.id, "failed", Some(&error.to_string()))
                        .await?;
                }
            }
            tokio::time::sleep(began.elapsed().clamp(LEAST_REST, LONGEST_REST)).await;
        }
        Ok(())
    }

    async fn wait_while_redis_is_slow(&self) -> Result<(), BulkError> {
        for _ in 0..MOST_WAITS {
            if self.queues.ping().await? < SLOW {
                break;
            }
            tokio::time::sleep(WHILE_SLOW).await;
        }
        Ok(())
    }

    async fn step(&self, lead: &mut Leadership<'_>, row: &BulkRow) -> Result<(), BulkError> {
        match row.state.as_str() {
            "matching" => self.choose(lead, row).await,
            "undoing" => self.undo(lead, row).await,
            _ => self.work_off(lead, row).await,
        }
    }

    async fn choose(&self, lead: &mut Leadership<'_>, row: &BulkRow) -> Result<(), BulkError> {
        let plan = Plan::of(row).map_err(BulkError::Stuck)?;
        let chooser = Chooser {
            store: &self.store,
            queues: &self.queues,
            plan: &plan,
        };
        let place = match row
            .place
            .clone()
            .map(serde_json::from_value::<SelectionCursor>)
        {
            Some(Ok(place)) => place,
            // Chosen twice is chosen once.
            Some(Err(_)) | None => chooser.begin().await?,
        };
        let (candidates, next) = chooser.page(place).await?;
        let item = |candidate: Candidate| NewBulkItem {
            queue: candidate.chosen.key.queue.to_string(),
            job_id: candidate.chosen.key.id.to_string(),
            job_created_ms: candidate
                .chosen
                .key
                .created_ms
                .try_into()
                .unwrap_or(i64::MAX),
            job_state: candidate.chosen.state.to_string(),
            finished_on: candidate
                .chosen
                .finished_on
                .and_then(|at| at.try_into().ok()),
        };
        let items: Vec<NewBulkItem> = candidates.into_iter().map(item).collect();
        let next = next.and_then(|place| serde_json::to_value(place).ok());
        Ok(lead.choose_bulk_items(row.id, &items, next).await?)
    }

    async fn work_off(&self, lead: &mut Leadership<'_>, row: &BulkRow) -> Result<(), BulkError> {
        let plan = Plan::of(row).map_err(BulkError::Stuck)?;
        let left = row
            .stop_after
            .map_or(BATCH, |stop| (stop - row.done - row.failed).clamp(1, BATCH));
        let items = lead.pending_bulk_items(row.id, left).await?;
        if items.is_empty() {
            return self.end(lead, row, "done").await;
        }
        let (items, mut outcomes) = readable(self.queues.prefix(), items);
        let chosen: Vec<Chosen> = items.iter().map(|(chosen, _)| chosen.clone()).collect();
        let since = Utc::now();
        let mut fates = self.act(row.id, &plan, &chosen).await?;
        self.name_removals(&chosen, &mut fates).await?;
        outcomes.extend(
            chosen
                .iter()
                .zip(fates)
                .map(|(chosen, fate)| outcome(chosen.n, fate, ["done", "skipped"])),
        );
        lead.record_bulk_items(row.id, "pending", &outcomes, since)
            .await?;
        self.count(plan.kind, &outcomes);
        Ok(())
    }

    /// Of jobs that were skipped because they are gone: says which bulk operation has removed them.
    async fn name_removals(
        &self,
        chosen: &[Chosen],
        fates: &mut [JobResult],
    ) -> Result<(), BulkError> {
        for (item, fate) in chosen.iter().zip(fates) {
            let JobResult::Skipped(reason) = fate else {
                continue;
            };
            if reason != NO_LONGER_THERE {
                continue;
            }
            let (queue, id) = (&item.key.queue, &item.key.id);
            let bulks = self.store.job_bulks(self.queues.prefix(), queue, id);
            let bulks = bulks.await?;
            let removes = |bulk: &&JobBulk| {
                bulk.kind == BulkKind::Remove.as_str()
                    && bulk.state == "done"
                    && u64::try_from(bulk.job_created_ms) == Ok(item.key.created_ms)
            };
            if let Some(removal) = bulks.iter().rfind(removes) {
                let (id, actor) = (removal.bulk, &removal.actor);
                let back = match removal.can_be_undone {
                    true => format!(". To bring it back: patchbay bulk undo {id}"),
                    false => String::new(),
                };
                *reason =
                    format!("Bulk operation {id} of {actor} has removed the job{back}").into();
            }
        }
        Ok(())
    }

    async fn end(
        &self,
        lead: &mut Leadership<'_>,
        row: &BulkRow,
        state: &str,
    ) -> Result<(), BulkError> {
        if let Some(row) = lead.end_bulk(row.id, state, None).await? {
            let BulkRow {
                id,
                kind,
                matched,
                done,
                skipped,
                failed,
                restored,
                ..
            } = row;
            info!(
                bulk = id,
                kind,
                matched,
                done,
                skipped,
                failed,
                restored,
                "a bulk operation has ended: {state}"
            );
        }
        Ok(self.queues.forget_notes(row.id).await?)
    }

    fn count(&self, kind: BulkKind, outcomes: &[BulkOutcome]) {
        let mut handled = self.handled.lock();
        for outcome in outcomes {
            let result = RESULTS.into_iter().find(|result| *result == outcome.state);
            *handled
                .entry((kind, result.unwrap_or("failed")))
                .or_default() += 1;
        }
    }
}

/// Items as the queues know them; those whose names no queue can have are done with.
fn readable(prefix: &str, items: Vec<BulkItem>) -> (Vec<(Chosen, Option<f64>)>, Vec<BulkOutcome>) {
    let mut unreadable = Vec::new();
    let read = |item: &BulkItem| {
        let key = JobKey {
            prefix: prefix.to_owned(),
            queue: item.queue.parse().ok()?,
            id: item.job_id.parse().ok()?,
            created_ms: item.job_created_ms.try_into().ok()?,
        };
        let state: JobState = serde_json::from_value(item.job_state.as_str().into()).ok()?;
        let finished_on = item.finished_on.and_then(|at| at.try_into().ok());
        Some((
            Chosen {
                n: item.n,
                key,
                state,
                finished_on,
            },
            item.score,
        ))
    };
    let mut chosen = Vec::with_capacity(items.len());
    for item in items {
        match read(&item) {
            Some(readable) => chosen.push(readable),
            None => unreadable.push(outcome(
                item.n,
                JobResult::Failed("its queue or id cannot be read".into()),
                ["", ""],
            )),
        }
    }
    (chosen, unreadable)
}

/// `[done, skipped]`: what these are called.
fn outcome(n: i64, fate: JobResult, [done, skipped]: [&'static str; 2]) -> BulkOutcome {
    let (state, reason, new_id, score) = match fate {
        JobResult::Done { new_id, score } => (done, None, new_id.map(|id| id.to_string()), score),
        JobResult::Skipped(reason) => (skipped, Some(reason), None, None),
        JobResult::Failed(reason) => ("failed", Some(Cow::from(reason)), None, None),
    };
    BulkOutcome {
        n,
        state: state.into(),
        reason: reason.map(Into::into),
        new_id,
        score,
    }
}

impl From<BulkError> for crate::Error {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Queue(error) => error.into(),
            BulkError::Store(error) => error.into(),
            BulkError::Stuck(message) => Self::invalid(message),
        }
    }
}
