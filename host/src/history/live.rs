//! Jobs that are still in Redis with a value in their data: erasing it from the history does not reach them.

use patchbay_model::job::JobState;
use patchbay_model::{DataPath, QueueName};
use patchbay_queue::{MAX_LISTED, QueueError, Queues, Start};
use serde::Serialize;

/// Jobs looked at, over all queues.
const MOST_LOOKED_AT: usize = 20_000;
/// Jobs named.
const MOST_NAMED: usize = 100;
const STATES: [JobState; 7] = [
    JobState::Waiting,
    JobState::Prioritized,
    JobState::Delayed,
    JobState::WaitingChildren,
    JobState::Active,
    JobState::Completed,
    JobState::Failed,
];

/// One of them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveJob {
    /// Its queue.
    pub queue: QueueName,
    /// Its id.
    pub id: String,
    /// Where it is.
    pub state: JobState,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// The first hundred.
    pub jobs: Vec<LiveJob>,
    /// All that were found.
    pub found: usize,
    /// Whether every job of these queues was looked at.
    pub complete: bool,
}

/// Looks through the newest jobs of each queue and state.
pub async fn live(queues: &Queues, which: &[QueueName], path: &DataPath, value: &str) -> Result<Live, QueueError> {
    let mut live = Live { complete: true, ..Live::default() };
    let mut left = MOST_LOOKED_AT;
    for queue in which {
        for state in STATES {
            let mut start = Start::Place(0);
            loop {
                if left == 0 {
                    live.complete = false;
                    return Ok(live);
                }
                let page = queues.jobs(queue, state, start, MAX_LISTED.min(left as u64)).await?;
                left -= page.jobs.len().min(left);
                for job in page.jobs {
                    if path.values(&job.data).iter().any(|found| found == value) {
                        live.found += 1;
                        if live.jobs.len() < MOST_NAMED {
                            live.jobs.push(LiveJob { queue: queue.clone(), id: job.id, state });
                        }
                    }
                }
                match page.next {
                    Some(cursor) => start = Start::Behind(cursor),
                    None => break,
                }
            }
        }
    }
    Ok(live)
}
