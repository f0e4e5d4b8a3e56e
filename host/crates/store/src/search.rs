//! Searches the history: newest first, in bounded time, for any filter.
//!
//! A search reads the time in windows, beginning with the newest. After a quick answer the next
//! window is wider; after a slow one it is narrower. A search that runs out of time returns what
//! was found so far and a cursor: never an error, never a long wait.

mod condition;
mod count;
mod cursor;

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_model::filter::Filter;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Postgres, QueryBuilder, Row, Transaction};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::condition::{Resolved, Window};
pub use self::count::Count;
pub use self::cursor::{SearchCursor, UnknownCursor};
use crate::attempts::{AttemptRow, COLUMNS};
use crate::{Store, StoreError, Term};

/// Rows of a page.
pub const MAX_FOUND: usize = 200;
/// Jobs of a batch.
pub const MAX_JOBS: usize = 1_000;
/// How long a search waits for other searches to end.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Time limit of one window: four windows may time out before the time of the search is spent.
const WINDOW_LIMIT: Duration = Duration::from_millis(500);
/// After an answer within this time, the next window is wider.
const QUICK: Duration = Duration::from_millis(60);
/// The widths are ten minutes, then eighty, half a day, four days, a month, and half a year: at
/// most six statements, if all are quick.
const FIRST_WIDTH_MS: i64 = 600_000;
const WIDER: i64 = 8;
/// Windows are not narrower: one second's attempts can always be read in time.
const MIN_WIDTH_MS: i64 = 1_000;
/// Ten years: wider than any history, and far from an overflow.
const MAX_WIDTH_MS: i64 = 10 * 366 * 86_400_000;

/// Concurrent searches in this process: the recorder must not wait for a connection.
static SEARCHES: Semaphore = Semaphore::const_new(2);

#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    pub prefix: &'a str,
    pub filter: &'a Filter,
    /// One for each value of job data in the filter.
    pub terms: &'a [Term],
}

#[derive(Debug, Clone, FromRow)]
pub struct FoundRow {
    pub queue: String,
    pub job_id: String,
    /// Unix milliseconds. With queue and id it identifies the job, even when the id was used again.
    pub job_created_ms: i64,
    /// Id of its dead-letter group.
    pub dead_letter: Option<i64>,
    #[sqlx(flatten)]
    pub attempt: AttemptRow,
}

#[derive(Debug)]
pub struct Found<T> {
    /// Newest first.
    pub rows: Vec<T>,
    /// Where to continue; absent at the end.
    pub next: Option<SearchCursor>,
    /// The page ends because time ran out, not because it is full: there may be more rows, or none.
    pub partial: bool,
}

/// A job with an attempt that matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, FromRow)]
pub struct FoundJob {
    pub queue: String,
    pub job_id: String,
    /// Unix milliseconds.
    pub job_created_ms: i64,
    /// Of its newest attempt that matches.
    pub finished_at: DateTime<Utc>,
    started: i32,
}

trait HasCursor {
    fn place(&self, width_ms: i64) -> SearchCursor;
}

impl HasCursor for FoundRow {
    fn place(&self, width_ms: i64) -> SearchCursor {
        let at = &self.attempt;
        SearchCursor::behind(
            at.finished_at,
            &self.queue,
            &self.job_id,
            self.job_created_ms,
            at.started,
            width_ms,
        )
    }
}

impl HasCursor for FoundJob {
    fn place(&self, width_ms: i64) -> SearchCursor {
        SearchCursor::behind(
            self.finished_at,
            &self.queue,
            &self.job_id,
            self.job_created_ms,
            self.started,
            width_ms,
        )
    }
}

/// The columns that are selected from `attempts a`.
struct Projection {
    columns: String,
    /// Select only the newest attempt of each job.
    once_a_job: bool,
}

impl Store {
    /// Returns 1 to [`MAX_FOUND`] attempts. The search takes about `most` time.
    pub async fn search(
        &self,
        selection: Selection<'_>,
        after: Option<&SearchCursor>,
        limit: usize,
        most: Duration,
    ) -> Result<Found<FoundRow>, StoreError> {
        let columns: Vec<String> = COLUMNS
            .split(", ")
            .map(|column| format!("a.{column}"))
            .collect();
        let columns = format!(
            "a.queue, a.job_id, a.job_created_ms, {}, (select d.id from dead_letters d where d.prefix = a.prefix and d.queue = a.queue \
             and d.fingerprint = a.fingerprint and d.plugin = coalesce(a.plugin, '') and d.revision = coalesce(a.revision, '')) as dead_letter",
            columns.join(", ")
        );
        self.look(
            selection,
            &Projection {
                columns,
                once_a_job: false,
            },
            after,
            limit.clamp(1, MAX_FOUND),
            most,
        )
        .await
    }

    /// Jobs with matching attempts, each once, 1 to [`MAX_JOBS`], newest first. The order is stable
    /// if the filter's `to` is in the past: then new attempts change neither the order nor what was
    /// already read. A page may have fewer jobs or none: the search has ended when there is no
    /// `next`. It takes about `most` time.
    pub async fn matching_jobs(
        &self,
        selection: Selection<'_>,
        after: Option<&SearchCursor>,
        limit: usize,
        most: Duration,
    ) -> Result<Found<FoundJob>, StoreError> {
        let columns = "a.queue, a.job_id, a.job_created_ms, a.started, a.finished_at".to_owned();
        self.look(
            selection,
            &Projection {
                columns,
                once_a_job: true,
            },
            after,
            limit.clamp(1, MAX_JOBS),
            most,
        )
        .await
    }

    async fn look<T>(
        &self,
        selection: Selection<'_>,
        wanted: &Projection,
        after: Option<&SearchCursor>,
        limit: usize,
        most: Duration,
    ) -> Result<Found<T>, StoreError>
    where
        T: HasCursor + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let began = Instant::now();
        let _place = self.searching().await?;
        let resolved = self.resolve(selection).await?;
        let mut found = Found {
            rows: Vec::new(),
            next: None,
            partial: false,
        };
        let Some((oldest, newest)) = self.bounds(&resolved, most).await? else {
            return Ok(found);
        };
        let mut behind = after.filter(|place| place.row.is_some());
        let mut edge = after.map_or(newest, |place| place.time.min(newest));
        let first = if resolved.is_pointed() {
            MAX_WIDTH_MS
        } else {
            FIRST_WIDTH_MS
        };
        let mut width_ms = after
            .map_or(first, |place| place.width_ms)
            .clamp(MIN_WIDTH_MS, MAX_WIDTH_MS);
        while edge > oldest || (behind.is_some() && edge >= oldest) {
            let from = edge
                .checked_sub_signed(TimeDelta::milliseconds(width_ms))
                .unwrap_or(oldest)
                .max(oldest);
            let window = Window {
                from,
                to: edge,
                behind,
            };
            let query = query(&resolved, wanted, &window, limit - found.rows.len());
            let (asked, left) = (Instant::now(), most.saturating_sub(began.elapsed()));
            // The narrowest window gets all the time that is left, since there is no other way.
            let limit_of_window = if width_ms == MIN_WIDTH_MS {
                most
            } else {
                left.min(WINDOW_LIMIT)
            };
            let rows = self.within(limit_of_window, query).await?;
            for row in rows.iter().flatten() {
                found.rows.push(T::from_row(row)?);
            }
            if found.rows.len() == limit {
                found.next = found.rows.last().map(|row| row.place(width_ms));
                break;
            }
            if rows.is_none() {
                width_ms =
                    (width_ms.min((edge - from).num_milliseconds()) / WIDER).max(MIN_WIDTH_MS);
            } else {
                // An empty window may be followed only by emptiness: a clock that was years ahead
                // must not make the next window as wide.
                let is_empty = rows.is_some_and(|rows| rows.is_empty());
                (edge, behind) = (
                    if is_empty {
                        self.end_before(from, oldest, most).await?
                    } else {
                        from
                    },
                    None,
                );
                if asked.elapsed() < QUICK {
                    width_ms = (width_ms * WIDER).min(MAX_WIDTH_MS);
                }
            }
            let more = edge > oldest || behind.is_some();
            if more && began.elapsed() >= most {
                found.next = Some(behind.map_or_else(
                    || SearchCursor::before(edge, width_ms),
                    |row| row.with_width(width_ms),
                ));
                found.partial = true;
                break;
            }
        }
        Ok(found)
    }

    async fn searching(&self) -> Result<SemaphorePermit<'static>, StoreError> {
        let waiting = tokio::time::timeout(LONGEST_WAIT, SEARCHES.acquire());
        match waiting.await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(StoreError::no_answer()),
        }
    }

    /// The time from the first attempt to just after the last one, within the limits of the filter.
    async fn bounds(
        &self,
        resolved: &Resolved<'_>,
        most: Duration,
    ) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, StoreError> {
        let query = QueryBuilder::new(
            "select min(finished_at) as oldest, max(finished_at) as newest from attempts",
        );
        let rows = self
            .within(most, query)
            .await?
            .ok_or_else(StoreError::no_answer)?;
        let row = rows
            .first()
            .ok_or(StoreError::Internal(sqlx::Error::RowNotFound))?;
        let (oldest, newest): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
            (row.try_get("oldest")?, row.try_get("newest")?);
        let Some((oldest, newest)) = oldest.zip(newest) else {
            return Ok(None);
        };
        let filter = resolved.selection.filter;
        let newest = newest + TimeDelta::microseconds(1);
        let bounds = (
            filter.from.map_or(oldest, |from| from.max(oldest)),
            filter.to.map_or(newest, |to| to.min(newest)),
        );
        Ok((bounds.0 < bounds.1 && !resolved.is_nothing()).then_some(bounds))
    }

    /// Just after the newest attempt before that time, whether it matches or not.
    async fn end_before(
        &self,
        time: DateTime<Utc>,
        oldest: DateTime<Utc>,
        most: Duration,
    ) -> Result<DateTime<Utc>, StoreError> {
        let mut query =
            QueryBuilder::new("select max(finished_at) from attempts where finished_at < ");
        query.push_bind(time);
        let rows = self
            .within(most, query)
            .await?
            .ok_or_else(StoreError::no_answer)?;
        let newest: Option<DateTime<Utc>> = rows
            .first()
            .map(|row| row.try_get(0))
            .transpose()?
            .flatten();
        Ok(newest.map_or(oldest, |newest| {
            (newest + TimeDelta::microseconds(1)).max(oldest)
        }))
    }

    /// The rows, or `None` when there was no answer within this time.
    async fn within(
        &self,
        most: Duration,
        mut query: QueryBuilder<Postgres>,
    ) -> Result<Option<Vec<PgRow>>, StoreError> {
        let mut transaction = self.bounded(most).await?;
        // The statement is planned with its values: the number of rows that have a value matters,
        // and differs between values.
        let rows = query
            .build()
            .persistent(false)
            .fetch_all(&mut *transaction)
            .await;
        match rows {
            Ok(rows) => {
                transaction.commit().await?;
                Ok(Some(rows))
            }
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn bounded(&self, most: Duration) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        // Compiling a statement takes longer than running it. A search reads few rows in many
        // places, which without spinning discs costs little more than reading them in sequence. And
        // all rows of the cursor are read.
        let settings = "select set_config('statement_timeout', $1, true), set_config('jit', 'off', true), \
                        set_config('random_page_cost', '1.1', true), set_config('cursor_tuple_fraction', '1', true)";
        sqlx::query(settings)
            .bind(milliseconds(most))
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

fn is_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "57014")
}

fn query(
    resolved: &Resolved<'_>,
    wanted: &Projection,
    window: &Window<'_>,
    limit: usize,
) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!("select {} from ", wanted.columns));
    resolved.push(&mut query, "a", window);
    if wanted.once_a_job {
        query.push(" and not exists (select from ");
        let later = Window {
            from: window.from,
            to: resolved
                .selection
                .filter
                .to
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
            behind: None,
        };
        resolved.push(&mut query, "n", &later);
        query.push(
            " and n.queue = a.queue and n.job_id = a.job_id and n.job_created_ms = a.job_created_ms \
             and (n.finished_at, n.started) > (a.finished_at, a.started) and n.finished_at >= a.finished_at)",
        );
    }
    query.push(
        " order by a.finished_at desc, a.queue desc, a.job_id desc, a.job_created_ms desc, a.started desc limit ",
    );
    query.push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    query
}
