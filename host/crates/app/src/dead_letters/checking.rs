//! Compares the jobs of dead letters with Redis: all in turn, by one process of the fleet, and
//! those of a few groups before they are shown.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use patchbay_model::job::JobKey;
use patchbay_queue::{Broker, CurrentState};
use patchbay_store::{
    DeadLetterJob, DeadLetterJobCursor, DeadLetterJobState, LeaderTask, Leadership, Listing, Store,
};
use tracing::debug;

use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::service::Service;

/// Between rounds; how long a group may say that a job fails which somebody has retried or removed.
const ROUND: Duration = Duration::from_secs(10);
/// Jobs that one round compares.
const CHECKED: usize = 4_000;
/// Pages of older failures that one round lists, of a thousand failures each.
const PAGES: usize = 10;
/// Jobs that are compared before groups are shown.
const REFRESHED: i64 = 2_000;
/// Of each group and state at least, if there are many groups.
const LEAST_REFRESHED: i64 = 10;
/// Then they are shown as they were compared last.
const REFRESH_LIMIT: Duration = Duration::from_secs(2);

/// Keeps groups true, and closes them.
pub fn checking(parts: &Parts) -> Arc<dyn Service> {
    let task = Checking {
        store: parts.store.clone(),
        queues: parts.broker.clone(),
        behind: None,
        listing: None,
    };
    Arc::new(Led::new(parts.store.clone(), task))
}

struct Checking {
    store: Store,
    queues: Broker,
    /// Where the last round ended; nothing where the next one begins anew.
    behind: Option<DeadLetterJobCursor>,
    listing: Option<Listing>,
}

#[async_trait]
impl LedTask for Checking {
    const TASK: LeaderTask = LeaderTask::DeadLetters;
    const NAME: &'static str = "dead-letters";
    const FAILING: &'static str = "dead letters are not compared with Redis";

    fn every(&self) -> Duration {
        ROUND
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        Ok(self
            .store
            .has_dead_letters_to_check(self.queues.prefix())
            .await?)
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        self.list_older(lead).await?;
        let prefix = self.queues.prefix();
        let most = i64::try_from(CHECKED)?;
        let jobs = lead
            .next_dead_letter_jobs(prefix, self.behind.as_ref(), most)
            .await?;
        let behind = jobs
            .last()
            .filter(|_| jobs.len() == CHECKED)
            .map(DeadLetterJob::cursor);
        lead.move_dead_letter_jobs(&moved(&self.queues, jobs).await?)
            .await?;
        self.behind = behind;
        lead.close_dead_letters(prefix).await?;
        Ok(Next::Later)
    }
}

impl Checking {
    async fn list_older(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<()> {
        for _ in 0..PAGES {
            let listing = match self.listing.take() {
                Some(listing) => listing,
                None => match lead.unlisted_dead_letter(self.queues.prefix()).await? {
                    Some(listing) => listing,
                    None => break,
                },
            };
            self.listing = lead.list_dead_letter_jobs(listing).await?;
        }
        Ok(())
    }
}

/// Compares the newest jobs of these groups. Showing them does not depend on it: without Redis,
/// they are shown as they were compared last.
pub(super) async fn refresh(store: &Store, queues: &Broker, groups: &[i64]) {
    if groups.is_empty() {
        return;
    }
    let done = tokio::time::timeout(REFRESH_LIMIT, try_refresh(store, queues, groups)).await;
    let error = match done {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("no answer within {} s", REFRESH_LIMIT.as_secs()),
    };
    debug!(
        error,
        "dead letters are shown as they were last compared with Redis"
    );
}

async fn try_refresh(store: &Store, queues: &Broker, groups: &[i64]) -> anyhow::Result<()> {
    let of_each = REFRESHED / i64::try_from(groups.len())?;
    let jobs = store
        .newest_dead_letter_jobs(groups, of_each.max(LEAST_REFRESHED), REFRESHED)
        .await?;
    store
        .move_dead_letter_jobs(&moved(queues, jobs).await?)
        .await?;
    Ok(store.close_dead_letters(queues.prefix(), groups).await?)
}

/// The jobs that are somewhere else than they were.
async fn moved(
    queues: &Broker,
    jobs: Vec<DeadLetterJob>,
) -> anyhow::Result<Vec<(DeadLetterJob, DeadLetterJobState)>> {
    let (keys, jobs): (Vec<JobKey>, Vec<DeadLetterJob>) = jobs
        .into_iter()
        .filter_map(|job| Some((key(queues.prefix(), &job)?, job)))
        .unzip();
    let states = queues.current_states(&keys).await?;
    let now = jobs.into_iter().zip(states.into_iter().map(state_of));
    Ok(now
        .filter(|(job, state)| job.state != state.as_str())
        .collect())
}

fn state_of(state: CurrentState) -> DeadLetterJobState {
    match state {
        CurrentState::Failed => DeadLetterJobState::Failing,
        CurrentState::Completed => DeadLetterJobState::Repaired,
        CurrentState::Unfinished => DeadLetterJobState::Waiting,
        CurrentState::Gone => DeadLetterJobState::Removed,
    }
}

fn key(prefix: &str, job: &DeadLetterJob) -> Option<JobKey> {
    Some(JobKey {
        prefix: prefix.to_owned(),
        queue: job.queue.parse().ok()?,
        id: job.job_id.parse().ok()?,
        created_ms: u64::try_from(job.job_created_ms).ok()?,
    })
}
