//! How many a filter means, before something is done with them.

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{Postgres, QueryBuilder, Row};

use super::condition::{Resolved, Window};
use super::{Selection, is_timeout};
use crate::{Store, StoreError};

/// How many jobs and attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Each once.
    pub jobs: u64,
    /// All that the filter means.
    pub attempts: u64,
    /// Counted to the end; else there are at least so many.
    pub exact: bool,
    /// What Postgres takes the number of attempts for, where they were not counted to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<u64>,
}

impl Store {
    /// Counts for at most this time.
    pub async fn count(&self, selection: Selection<'_>, most: Duration) -> Result<Count, StoreError> {
        let _place = self.searching().await?;
        let resolved = self.resolve(selection).await?;
        let Some((from, to)) = self.bounds(&resolved, most).await? else {
            return Ok(Count { exact: true, ..Count::default() });
        };
        let window = Window { from, to, behind: None };
        // Row by row and not by Postgres, which would have nothing to show when its time is over. A job is as good as its hash here.
        let mut query = QueryBuilder::new(
            "select hashtextextended(a.queue || '/' || a.job_id || '/' || a.job_created_ms, 0) from ",
        );
        resolved.push(&mut query, "a", &window);
        let (mut jobs, mut attempts, mut exact) = (HashSet::<i64>::new(), 0, true);
        let mut transaction = self.bounded(most).await?;
        let mut rows = query.build().persistent(false).fetch(&mut *transaction);
        loop {
            match rows.try_next().await {
                Ok(Some(row)) => {
                    attempts += 1;
                    jobs.insert(row.try_get(0)?);
                }
                Ok(None) => break,
                Err(error) if is_timeout(&error) => {
                    exact = false;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(rows);
        transaction.rollback().await?;
        let estimate = if exact { None } else { Some(self.estimate(&resolved, &window).await?.max(attempts)) };
        Ok(Count { jobs: jobs.len() as u64, attempts, exact, estimate })
    }

    async fn estimate(&self, resolved: &Resolved<'_>, window: &Window<'_>) -> Result<u64, StoreError> {
        let mut explain: QueryBuilder<Postgres> = QueryBuilder::new("explain (format json) select 1 from ");
        resolved.push(&mut explain, "a", window);
        let plan: serde_json::Value = explain.build_query_scalar().persistent(false).fetch_one(&self.pool).await?;
        Ok(plan[0]["Plan"]["Plan Rows"].as_f64().unwrap_or(0.0) as u64)
    }
}
