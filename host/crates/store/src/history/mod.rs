//! The history as a whole: its partitions, what it keeps for how long, erasing from it, its state.

mod bodies;
mod erasure;
mod gaps;
mod keys;
mod pruning;
mod retention;
mod status;

use chrono::{DateTime, Datelike, Duration, Utc};

use crate::{Store, StoreError};

pub use bodies::BodyRow;
pub use erasure::{Erased, ErasedJob, ErasureRow, JobErasure, NewErasure, PendingErasure, Person, Texts};
pub use keys::HistoryKeyRow;
pub use pruning::{Prunable, Pruned};
pub use retention::{KeepAttempts, Retention, RetentionRow};
pub use status::{HistoryTables, PartitionRow, PrunedRow};

/// What is older than that, or lies further ahead, is told by a clock that is wrong, and gets no partition of its own.
const BEHIND: Duration = Duration::days(400);
const AHEAD: Duration = Duration::days(62);

impl Store {
    /// Makes the partitions of the months of these times where they are missing, and the one for all others. Rows that went elsewhere move in.
    /// Gives how many were made.
    pub async fn make_partitions(&self, times: &[DateTime<Utc>]) -> Result<usize, StoreError> {
        let now = Utc::now();
        let is_near = |at: &DateTime<Utc>| (now - BEHIND..now + AHEAD).contains(at);
        let mut months: Vec<_> = times.iter().copied().filter(is_near).chain([now]).collect();
        months.sort();
        months.dedup_by_key(|at| (at.year(), at.month()));
        let mut made = 0;
        for month in months {
            let mut tx = self.pool.begin().await?;
            // Rows that move in may be many.
            sqlx::query("set local statement_timeout = 0").execute(&mut *tx).await?;
            let new: bool =
                sqlx::query_scalar("select make_history_partition($1)").bind(month).fetch_one(&mut *tx).await?;
            tx.commit().await?;
            made += usize::from(new);
        }
        Ok(made)
    }
}
