//! Counts what a filter matches, before an operation on it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::{Postgres, QueryBuilder};

use super::condition::{Resolved, Window};
use super::{Selection, is_timeout, milliseconds};
use crate::{Store, StoreError};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Each job once.
    pub jobs: u64,
    pub attempts: u64,
    /// False: the count ran out of time, and there are at least this many.
    pub exact: bool,
    /// Postgres's estimate of the number of attempts, when they were not all counted.
    pub estimate: Option<u64>,
}

/// The first portion. Each next one is twice as large, unless the time of its rows matters.
const PORTION: usize = 128;
const LARGEST: usize = 8_192;

#[derive(Default)]
struct Counted {
    jobs: HashSet<i64>,
    attempts: u64,
}

impl Counted {
    fn add(&mut self, hashes: Vec<i64>) {
        self.attempts += hashes.len() as u64;
        self.jobs.extend(hashes);
    }
}

impl Store {
    /// Counts for at most this time.
    pub async fn count(
        &self,
        selection: Selection<'_>,
        most: Duration,
    ) -> Result<Count, StoreError> {
        let began = Instant::now();
        let _place = self.searching().await?;
        let resolved = self.resolve(selection).await?;
        let Some((from, to)) = self.bounds(&resolved, most).await? else {
            return Ok(Count {
                exact: true,
                ..Count::default()
            });
        };
        let window = Window {
            from,
            to,
            behind: None,
        };
        // In portions, because a single `count` of Postgres would return nothing when its time is
        // over. A hash is enough to count distinct jobs.
        let mut query = QueryBuilder::new(
            "declare matching no scroll cursor for \
             select hashtextextended(a.queue || '/' || a.job_id || '/' || a.job_created_ms, 0) from ",
        );
        resolved.push(&mut query, "a", &window);
        let mut counted = Counted::default();
        let mut transaction = self.bounded(most).await?;
        query
            .build()
            .persistent(false)
            .execute(&mut *transaction)
            .await?;
        let mut portion = PORTION;
        let exact = loop {
            let left = most.saturating_sub(began.elapsed());
            if left.is_zero() {
                break false;
            }
            let limit = sqlx::query("select set_config('statement_timeout', $1, true)")
                .bind(milliseconds(left));
            limit.execute(&mut *transaction).await?;
            let fetch = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
                "fetch {portion} from matching"
            )));
            portion = (portion * 2).min(LARGEST);
            match fetch.fetch_all(&mut *transaction).await {
                Ok(hashes) if hashes.is_empty() => break true,
                Ok(hashes) => counted.add(hashes),
                Err(error) if is_timeout(&error) => break false,
                Err(error) => return Err(error.into()),
            }
        };
        transaction.rollback().await?;
        let Counted { jobs, attempts } = counted;
        let estimate = if exact {
            None
        } else {
            Some(self.estimate(&resolved, &window).await?.max(attempts))
        };
        Ok(Count {
            jobs: jobs.len() as u64,
            attempts,
            exact,
            estimate,
        })
    }

    async fn estimate(
        &self,
        resolved: &Resolved<'_>,
        window: &Window<'_>,
    ) -> Result<u64, StoreError> {
        let mut explain: QueryBuilder<Postgres> =
            QueryBuilder::new("explain (format json) select 1 from ");
        resolved.push(&mut explain, "a", window);
        let plan: serde_json::Value = explain
            .build_query_scalar()
            .persistent(false)
            .fetch_one(&self.pool)
            .await?;
        Ok(plan[0]["Plan"]["Plan Rows"].as_f64().unwrap_or(0.0) as u64)
    }
}
