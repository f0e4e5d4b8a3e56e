//! Lists of jobs, including damaged ones: one damaged job must not hide the others.
//!
//! A page starts at an offset, or after the last job of the previous page. Offsets shift while jobs
//! come and go. After a job, nothing that stays in its state is skipped.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use patchbay_model::QueueName;
use patchbay_model::job::JobState;
use redis::{AsyncCommands, RedisResult, Value};

use crate::damage::{read, text};
use crate::queue_stats::due_at;
use crate::transaction::transaction;
use crate::view::job_view;
use crate::{Broker, JobView, QueueError};

/// Limit for the jobs of one page.
pub const MAX_LISTED: u64 = 200;
/// Redis counts offsets in 64 bits, and walks step by step to the middle of a list.
const MAX_OFFSET: u64 = 1 << 31;
/// How often a page is read again if jobs before it left while its offset was looked up.
const TRIES: usize = 5;

#[derive(Debug, Clone)]
pub enum Start {
    /// At this offset, counted from 0.
    Place(u64),
    /// After the last job of a page.
    Behind(Cursor),
}

/// The last job of a page. Its text form is opaque to clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Cursor {
    pub(crate) state: JobState,
    /// Its score, if the state is a sorted set.
    pub(crate) score: Option<f64>,
    pub(crate) id: Vec<u8>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let score = self
            .score
            .map(|score| score.to_string())
            .unwrap_or_default();
        let plain = [format!("{} {score} ", self.state).as_bytes(), &self.id].concat();
        f.write_str(&URL_SAFE_NO_PAD.encode(plain))
    }
}

impl FromStr for Cursor {
    type Err = QueueError;

    fn from_str(encoded: &str) -> Result<Self, QueueError> {
        let unknown = || {
            QueueError::Invalid(
                "cursor: not valid. Use `nextCursor` of the page before, or leave it out for the first page".into(),
            )
        };
        let plain = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| unknown())?;
        let mut parts = plain.splitn(3, |byte| *byte == b' ');
        let mut part = || parts.next().ok_or_else(unknown);
        let (state, score, id) = (part()?, part()?, part()?.to_vec());
        let state = serde_json::from_value(text(state).into()).map_err(|_| unknown())?;
        let score: Option<f64> = match text(score).as_str() {
            "" => None,
            score => Some(score.parse().map_err(|_| unknown())?),
        };
        let in_a_list = matches!(state, JobState::Waiting | JobState::Active);
        // No sorted set holds NaN. Infinity occurs when a delay is larger than a number can hold.
        if in_a_list == score.is_some() || score.is_some_and(f64::is_nan) {
            return Err(unknown());
        }
        Ok(Self { state, score, id })
    }
}

#[derive(Debug)]
pub struct Page {
    /// The next job to run comes first; among finished jobs, the newest.
    pub jobs: Vec<JobView>,
    /// Where the next page begins; `None` if this page was not full.
    pub next: Option<Cursor>,
}

/// Where Redis keeps the jobs of a state, and in which order they are listed.
pub(crate) struct StateIndex {
    key: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Filled from the left and taken from the right.
    List,
    Ascending,
    Descending,
}

pub(crate) type Entry = (Vec<u8>, Option<f64>);

impl Broker {
    /// Jobs in one state. `limit` is 1 to [`MAX_LISTED`].
    pub async fn jobs(
        &self,
        queue: &QueueName,
        state: JobState,
        start: Start,
        limit: u64,
    ) -> Result<Page, QueueError> {
        if !(1..=MAX_LISTED).contains(&limit) {
            return Err(QueueError::Invalid(format!(
                "limit: must be from 1 to {MAX_LISTED}"
            )));
        }
        let shelf = self.shelf(queue, state).await?;
        let entries = match start {
            Start::Place(place) if place > MAX_OFFSET => {
                return Err(QueueError::Invalid(format!(
                    "offset: must be at most {MAX_OFFSET}"
                )));
            }
            Start::Place(place) => self.entries(&shelf, place, limit).await?,
            Start::Behind(cursor) if cursor.state != state => {
                let message = format!(
                    "cursor: it belongs to jobs in state {}, not {state}",
                    cursor.state
                );
                return Err(QueueError::Invalid(message));
            }
            Start::Behind(cursor) => self.entries_behind(&shelf, &cursor, limit).await?.1,
        };
        let last = entries.last().filter(|_| entries.len() as u64 == limit);
        let next = last.map(|(id, score)| Cursor {
            state,
            score: *score,
            id: id.clone(),
        });
        if entries.is_empty() {
            return Ok(Page {
                jobs: Vec::new(),
                next,
            });
        }
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for (id, _) in &entries {
            pipe.hgetall([keys.key_prefix().as_bytes(), id].concat());
        }
        let hashes: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let view = |((id, score), hash): (Entry, _)| {
            Ok(JobView {
                due_at: score.filter(|_| state == JobState::Delayed).map(due_at),
                ..job_view(text(&id), state, read(hash)?)
            })
        };
        let jobs = entries
            .into_iter()
            .zip(hashes)
            .map(view)
            .collect::<Result<_, QueueError>>()?;
        Ok(Page { jobs, next })
    }

    pub(crate) async fn shelf(
        &self,
        queue: &QueueName,
        state: JobState,
    ) -> Result<StateIndex, QueueError> {
        let keys = self.keys(queue);
        let (key, kind) = match state {
            JobState::Waiting => {
                let (waiting, put_aside): (u64, u64) = redis::pipe()
                    .llen(keys.wait())
                    .llen(keys.paused())
                    .query_async(&mut self.connection.get())
                    .await?;
                // BullMQ 5 pauses a queue by renaming its list.
                (
                    if waiting == 0 && put_aside > 0 {
                        keys.paused()
                    } else {
                        keys.wait()
                    },
                    Kind::List,
                )
            }
            JobState::Active => (keys.active(), Kind::List),
            JobState::Prioritized => (keys.prioritized(), Kind::Ascending),
            JobState::Delayed => (keys.delayed(), Kind::Ascending),
            JobState::WaitingChildren => (keys.waiting_children(), Kind::Ascending),
            JobState::Completed => (keys.completed(), Kind::Descending),
            JobState::Failed => (keys.failed(), Kind::Descending),
            JobState::Unknown => {
                return Err(QueueError::Invalid(
                    "Jobs in state unknown cannot be listed".into(),
                ));
            }
        };
        Ok(StateIndex { key, kind })
    }

    pub(crate) async fn entries(
        &self,
        shelf: &StateIndex,
        place: u64,
        count: u64,
    ) -> Result<Vec<Entry>, QueueError> {
        let (from, to) = (place as isize, (place + count) as isize - 1);
        let mut connection = self.connection.get();
        if shelf.kind == Kind::List {
            let ids: Vec<Vec<u8>> = connection.lrange(&shelf.key, -to - 1, -from - 1).await?;
            // Redis returns them from left to right.
            return Ok(ids.into_iter().rev().map(|id| (id, None)).collect());
        }
        let scored: Vec<(Vec<u8>, f64)> = match shelf.kind {
            Kind::Descending => {
                connection
                    .zrevrange_withscores(&shelf.key, from, to)
                    .await?
            }
            _ => connection.zrange_withscores(&shelf.key, from, to).await?,
        };
        Ok(scored
            .into_iter()
            .map(|(id, score)| (id, Some(score)))
            .collect())
    }

    /// Also returns the offset of the first entry.
    pub(crate) async fn entries_behind(
        &self,
        shelf: &StateIndex,
        cursor: &Cursor,
        count: u64,
    ) -> Result<(u64, Vec<Entry>), QueueError> {
        for _ in 0..TRIES {
            let Some(place) = self.place_of(shelf, cursor).await? else {
                break;
            };
            // Includes the cursor's own job, to check that no other job has taken its offset
            // meanwhile.
            let mut entries = self.entries(shelf, place, count + 1).await?;
            if entries.first().is_some_and(|(id, _)| *id == cursor.id) {
                entries.remove(0);
                return Ok((place + 1, entries));
            }
        }
        // The cursor's job has left its state. In a list, the jobs before it have mostly run, so
        // the list starts again; in a set, its score gives the offset.
        let place = match cursor.score {
            None => 0,
            Some(score) => {
                let (least, most) = match shelf.kind {
                    Kind::Descending => (format!("({score}"), "+inf".to_owned()),
                    _ => ("-inf".to_owned(), format!("({score}")),
                };
                self.connection
                    .get()
                    .zcount(&shelf.key, least, most)
                    .await?
            }
        };
        Ok((place, self.entries(shelf, place, count).await?))
    }

    async fn place_of(
        &self,
        shelf: &StateIndex,
        cursor: &Cursor,
    ) -> Result<Option<u64>, QueueError> {
        let mut connection = self.connection.get();
        Ok(match shelf.kind {
            Kind::List => {
                let asked = transaction(connection, |pipe| {
                    pipe.llen(&shelf.key)
                        .cmd("LPOS")
                        .arg(&shelf.key)
                        .arg(&cursor.id);
                });
                let (length, from_left): (u64, Option<u64>) = asked.await?;
                from_left.map(|from_left| length - 1 - from_left)
            }
            Kind::Ascending => connection.zrank(&shelf.key, &cursor.id).await?,
            Kind::Descending => connection.zrevrank(&shelf.key, &cursor.id).await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_way_through_a_client() {
        for (state, score, id) in [
            (JobState::Waiting, None, b"7".to_vec()),
            (
                JobState::Prioritized,
                Some(9_007_199_254_740_991.0),
                b"a b \xff".to_vec(),
            ),
            (JobState::Delayed, Some(7_214_233_600_123.5), Vec::new()),
        ] {
            let cursor = Cursor { state, score, id };
            assert_eq!(
                cursor.to_string().parse::<Cursor>().expect("readable"),
                cursor
            );
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in ["", "7", "!", "d2FpdGluZw"]
            .map(str::to_owned)
            .into_iter()
            .chain(
                [
                    "nowhere  1",
                    "failed x 1",
                    "delayed NaN 1",
                    "failed -nan 1",
                    "delayed  1",
                    "waiting 5 1",
                    "active NaN 1",
                ]
                .map(|plain| URL_SAFE_NO_PAD.encode(plain)),
            )
        {
            let text = text.as_str();
            let error = text.parse::<Cursor>().expect_err(text).to_string();
            assert!(error.contains("cursor: "), "{error}");
        }
    }
}
