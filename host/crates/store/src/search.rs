//! Searching the history: newest first, in bounded time, whatever the filter.
//!
//! Time is looked through in windows, from the newest one on. A window that is answered quickly makes the next one wider, one that takes too
//! long makes it narrower. Whoever asks for too much gets what was found so far, and where to go on: never an error, never a long wait.

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

/// Most rows of a page.
pub const MAX_FOUND: usize = 200;
/// Most jobs of a batch.
pub const MAX_JOBS: usize = 1_000;
/// For the searches before it.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// For a window: four may take too long before the budget is spent.
const WINDOW_LIMIT: Duration = Duration::from_millis(500);
/// What was answered faster than that leaves room for more.
const QUICK: Duration = Duration::from_millis(60);
/// Ten minutes, then eighty, half a day, four days, a month, and half a year: six questions at most, where all are quick.
const FIRST_WIDTH_MS: i64 = 600_000;
const WIDER: i64 = 8;
/// Not narrower: a second's attempts can be read within any sensible time.
const LEAST_WIDTH_MS: i64 = 1_000;
/// Ten years: wider than any history, and far from an overflow.
const MOST_WIDTH_MS: i64 = 10 * 366 * 86_400_000;

/// At once in this process: the recorder must not wait for a connection because people look for something.
static SEARCHES: Semaphore = Semaphore::const_new(2);

/// Which attempts are meant.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// BullMQ's key prefix.
    pub prefix: &'a str,
    /// What must hold.
    pub filter: &'a Filter,
    /// One of each value of job data in the filter.
    pub terms: &'a [Term],
}

/// An attempt that was looked for.
#[derive(Debug, Clone, FromRow)]
pub struct FoundRow {
    /// Of the job.
    pub queue: String,
    /// Its id.
    pub job_id: String,
    /// When it was made, Unix milliseconds: with queue and id it names the job, also when the id was used again.
    pub job_created_ms: i64,
    /// The group of dead letters that it belongs to.
    pub dead_letter: Option<i64>,
    /// How it went.
    #[sqlx(flatten)]
    pub attempt: AttemptRow,
}

/// A page.
#[derive(Debug)]
pub struct Found<T> {
    /// Newest first.
    pub rows: Vec<T>,
    /// Where to go on; absent at the end.
    pub next: Option<SearchCursor>,
    /// It ends here because time ran out, and not because it is full: there may be more, or nothing at all.
    pub partial: bool,
}

/// A job, one of whose attempts was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, FromRow)]
pub struct FoundJob {
    /// Its queue.
    pub queue: String,
    /// Its id.
    pub job_id: String,
    /// When it was made, Unix milliseconds.
    pub job_created_ms: i64,
    /// Of its newest attempt that was looked for.
    pub finished_at: DateTime<Utc>,
    started: i32,
}

/// What stands at a place of the order.
trait HasCursor {
    fn place(&self, width_ms: i64) -> SearchCursor;
}

impl HasCursor for FoundRow {
    fn place(&self, width_ms: i64) -> SearchCursor {
        let at = &self.attempt;
        SearchCursor::behind(at.finished_at, &self.queue, &self.job_id, self.job_created_ms, at.started, width_ms)
    }
}

impl HasCursor for FoundJob {
    fn place(&self, width_ms: i64) -> SearchCursor {
        SearchCursor::behind(self.finished_at, &self.queue, &self.job_id, self.job_created_ms, self.started, width_ms)
    }
}

/// What is selected from `attempts a`.
struct Projection {
    columns: String,
    /// Only the newest of a job's attempts.
    once_a_job: bool,
}

impl Store {
    /// Attempts, 1 to [`MAX_FOUND`], looked for during about `most`.
    pub async fn search(
        &self,
        selection: Selection<'_>,
        after: Option<&SearchCursor>,
        limit: usize,
        most: Duration,
    ) -> Result<Found<FoundRow>, StoreError> {
        let columns: Vec<String> = COLUMNS.split(", ").map(|column| format!("a.{column}")).collect();
        let columns = format!(
            "a.queue, a.job_id, a.job_created_ms, {}, (select d.id from dead_letters d where d.prefix = a.prefix and d.queue = a.queue \
             and d.fingerprint = a.fingerprint and d.plugin = coalesce(a.plugin, '') and d.revision = coalesce(a.revision, '')) as dead_letter",
            columns.join(", ")
        );
        self.look(selection, &Projection { columns, once_a_job: false }, after, limit.clamp(1, MAX_FOUND), most).await
    }

    /// Jobs with such attempts, each once, 1 to [`MAX_JOBS`], the newest first. The order is stable as long as the filter's `to` lies in the
    /// past: then what happens meanwhile changes neither the order nor what was gone through already. A page may have fewer jobs or none:
    /// it ends when there is no `next`. They are looked for during about `most`.
    pub async fn matching_jobs(
        &self,
        selection: Selection<'_>,
        after: Option<&SearchCursor>,
        limit: usize,
        most: Duration,
    ) -> Result<Found<FoundJob>, StoreError> {
        let columns = "a.queue, a.job_id, a.job_created_ms, a.started, a.finished_at".to_owned();
        self.look(selection, &Projection { columns, once_a_job: true }, after, limit.clamp(1, MAX_JOBS), most).await
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
        let mut found = Found { rows: Vec::new(), next: None, partial: false };
        let Some((oldest, newest)) = self.bounds(&resolved, most).await? else { return Ok(found) };
        let mut behind = after.filter(|place| place.row.is_some());
        let mut edge = after.map_or(newest, |place| place.time.min(newest));
        let first = if resolved.is_pointed() { MOST_WIDTH_MS } else { FIRST_WIDTH_MS };
        let mut width_ms = after.map_or(first, |place| place.width_ms).clamp(LEAST_WIDTH_MS, MOST_WIDTH_MS);
        while edge > oldest || (behind.is_some() && edge >= oldest) {
            let from = edge.checked_sub_signed(TimeDelta::milliseconds(width_ms)).unwrap_or(oldest).max(oldest);
            let window = Window { from, to: edge, behind };
            let query = query(&resolved, wanted, &window, limit - found.rows.len());
            let (asked, left) = (Instant::now(), most.saturating_sub(began.elapsed()));
            // The narrowest gets all the time there is: nothing else is left to try.
            let limit_of_window = if width_ms == LEAST_WIDTH_MS { most } else { left.min(WINDOW_LIMIT) };
            let rows = self.within(limit_of_window, query).await?;
            for row in rows.iter().flatten() {
                found.rows.push(T::from_row(row)?);
            }
            if found.rows.len() == limit {
                found.next = found.rows.last().map(|row| row.place(width_ms));
                break;
            }
            if rows.is_none() {
                width_ms = (width_ms.min((edge - from).num_milliseconds()) / WIDER).max(LEAST_WIDTH_MS);
            } else {
                // Nothing there may mean that nothing at all is there: a clock that was years ahead must not make the next window as wide.
                let is_empty = rows.is_some_and(|rows| rows.is_empty());
                (edge, behind) = (if is_empty { self.end_before(from, oldest, most).await? } else { from }, None);
                if asked.elapsed() < QUICK {
                    width_ms = (width_ms * WIDER).min(MOST_WIDTH_MS);
                }
            }
            let more = edge > oldest || behind.is_some();
            if more && began.elapsed() >= most {
                found.next =
                    Some(behind.map_or_else(|| SearchCursor::before(edge, width_ms), |row| row.with_width(width_ms)));
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

    /// The time from the first to behind the last attempt, as far as the filter allows.
    async fn bounds(
        &self,
        resolved: &Resolved<'_>,
        most: Duration,
    ) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, StoreError> {
        let query = QueryBuilder::new("select min(finished_at) as oldest, max(finished_at) as newest from attempts");
        let rows = self.within(most, query).await?.ok_or_else(StoreError::no_answer)?;
        let row = rows.first().ok_or(StoreError::Internal(sqlx::Error::RowNotFound))?;
        let (oldest, newest): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
            (row.try_get("oldest")?, row.try_get("newest")?);
        let Some((oldest, newest)) = oldest.zip(newest) else { return Ok(None) };
        let filter = resolved.selection.filter;
        let newest = newest + TimeDelta::microseconds(1);
        let bounds =
            (filter.from.map_or(oldest, |from| from.max(oldest)), filter.to.map_or(newest, |to| to.min(newest)));
        Ok((bounds.0 < bounds.1 && !resolved.is_nothing()).then_some(bounds))
    }

    /// Behind the newest attempt before that time, whatever it is.
    async fn end_before(
        &self,
        time: DateTime<Utc>,
        oldest: DateTime<Utc>,
        most: Duration,
    ) -> Result<DateTime<Utc>, StoreError> {
        let mut query = QueryBuilder::new("select max(finished_at) from attempts where finished_at < ");
        query.push_bind(time);
        let rows = self.within(most, query).await?.ok_or_else(StoreError::no_answer)?;
        let newest: Option<DateTime<Utc>> = rows.first().map(|row| row.try_get(0)).transpose()?.flatten();
        Ok(newest.map_or(oldest, |newest| (newest + TimeDelta::microseconds(1)).max(oldest)))
    }

    /// The answer, or nothing when there was none within this time.
    async fn within(
        &self,
        most: Duration,
        mut query: QueryBuilder<Postgres>,
    ) -> Result<Option<Vec<PgRow>>, StoreError> {
        let mut transaction = self.bounded(most).await?;
        // Planned with its values: how many rows have them is what matters, and it differs from value to value.
        let rows = query.build().persistent(false).fetch_all(&mut *transaction).await;
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
        // Compiling a statement takes longer than running these. A search touches few rows in many places, which costs little more than in
        // a row where discs do not turn. And of a cursor all rows are wanted.
        let settings = "select set_config('statement_timeout', $1, true), set_config('jit', 'off', true), \
                        set_config('random_page_cost', '1.1', true), set_config('cursor_tuple_fraction', '1', true)";
        sqlx::query(settings).bind(milliseconds(most)).execute(&mut *transaction).await?;
        Ok(transaction)
    }
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

fn is_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "57014")
}

fn query(resolved: &Resolved<'_>, wanted: &Projection, window: &Window<'_>, limit: usize) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!("select {} from ", wanted.columns));
    resolved.push(&mut query, "a", window);
    if wanted.once_a_job {
        query.push(" and not exists (select from ");
        let later = Window {
            from: window.from,
            to: resolved.selection.filter.to.unwrap_or(DateTime::<Utc>::MAX_UTC),
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
