//! How many a filter means, before something is done with them.

use std::time::Duration;

use serde::Serialize;
use sqlx::{Postgres, QueryBuilder, Row};

use super::Selection;
use super::condition::{Resolved, Window};
use crate::{Store, StoreError};

/// How many jobs and attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Each once.
    pub jobs: i64,
    /// All that the filter means.
    pub attempts: i64,
    /// Counted; else there are so many that counting takes too long, and this is Postgres's estimate.
    pub exact: bool,
}

impl Store {
    /// Counts for at most this time; what takes longer is estimated.
    pub async fn count(&self, selection: Selection<'_>, most: Duration) -> Result<Count, StoreError> {
        let _place = self.searching().await?;
        let resolved = self.resolve(selection).await?;
        let Some((from, to)) = self.bounds(&resolved).await? else {
            return Ok(Count { jobs: 0, attempts: 0, exact: true });
        };
        let mut counting = QueryBuilder::new(
            "select count(*) as jobs, coalesce(sum(attempts), 0)::bigint as attempts from (select count(*) as attempts from ",
        );
        let window = Window { from, to, behind: None };
        resolved.push(&mut counting, "a", &window);
        counting.push(" group by a.queue, a.job_id, a.job_created_ms) jobs");
        match self.within(most, counting).await? {
            Some(rows) => {
                let row = rows.first().ok_or(StoreError::Internal(sqlx::Error::RowNotFound))?;
                Ok(Count { jobs: row.try_get("jobs")?, attempts: row.try_get("attempts")?, exact: true })
            }
            None => self.estimate(&resolved, &window).await,
        }
    }

    async fn estimate(&self, resolved: &Resolved<'_>, window: &Window<'_>) -> Result<Count, StoreError> {
        let mut explain: QueryBuilder<Postgres> = QueryBuilder::new("explain (format json) select 1 from ");
        resolved.push(&mut explain, "a", window);
        let plan: serde_json::Value = explain.build_query_scalar().persistent(false).fetch_one(&self.pool).await?;
        let rows = plan[0]["Plan"]["Plan Rows"].as_f64().unwrap_or(0.0) as i64;
        Ok(Count { jobs: rows, attempts: rows, exact: false })
    }
}
