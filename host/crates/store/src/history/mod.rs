//! The history as a whole: partitions, retention, erasure and size.

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
pub(crate) use erasure::ERASED;
pub use erasure::{
    Erased, ErasedJob, ErasureRow, JobErasure, NewErasure, PendingErasure, Person, Texts,
};
pub use keys::HistoryKeyRow;
pub use pruning::{Prunable, Pruned};
pub use retention::{KeepAttempts, Retention, RetentionRow};
pub use status::{HistoryTables, PartitionRow, PrunedRow};

/// A time outside of this range comes from a wrong clock, and gets no partition of its own.
const BEHIND: Duration = Duration::days(400);
const AHEAD: Duration = Duration::days(62);

impl Store {
    /// Creates the missing partitions of these months, and the default partition; rows move out of
    /// the latter. Returns how many partitions were created.
    pub async fn make_partitions(&self, times: &[DateTime<Utc>]) -> Result<usize, StoreError> {
        let now = Utc::now();
        let is_near = |at: &DateTime<Utc>| (now - BEHIND..now + AHEAD).contains(at);
        let mut months: Vec<_> = times.iter().copied().filter(is_near).chain([now]).collect();
        months.sort();
        months.dedup_by_key(|at| (at.year(), at.month()));
        let mut made = 0;
        for month in months {
            let mut tx = self.pool.begin().await?;
            // Moving many rows takes long.
            sqlx::query("set local statement_timeout = 0")
                .execute(&mut *tx)
                .await?;
            let new: bool = sqlx::query_scalar("select make_history_partition($1)")
                .bind(month)
                .fetch_one(&mut *tx)
                .await?;
            tx.commit().await?;
            made += usize::from(new);
        }
        Ok(made)
    }
}
