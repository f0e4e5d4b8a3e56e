//! Keys of this Redis, whoever wrote them: listing them page by page, and removing one.
//!
//! `SCAN` finds them, in rounds, so that Redis serves others in between; `KEYS` never does. A page
//! is bounded in keys, rounds and time, and what is read of a value is bounded within Redis
//! (`read.lua`).

mod owner;
mod read;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use patchbay_model::key_pattern::KeyPattern;

pub use self::owner::KeyOwner;
pub use self::read::{StoredFields, StoredKey, StoredValue};
use crate::{Broker, QueueError, Trouble};

/// Callers answer within two seconds, whatever Redis does.
const LIMIT: Duration = Duration::from_millis(1_500);
/// After this time a page ends, although it is not full.
const SEARCH_LIMIT: Duration = Duration::from_millis(250);
const MAX_ROUNDS: usize = 20;
/// Most keys that one round looks at, about.
const MAX_COUNT: usize = 500;
const LEAST_COUNT: usize = 10;
/// Most bytes of names that a place holds: a client sends it in a URL.
const MAX_LEFT_BYTES: usize = 1_024;

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    /// As `SCAN` has given it; 0: only `left` is left.
    pub cursor: u64,
    /// Found already, and not told yet: a round finds a few keys more than asked for.
    pub left: Vec<Vec<u8>>,
}

/// Which keys to list.
#[derive(Debug, Clone)]
pub struct KeyQuery {
    /// All keys without it.
    pub pattern: Option<KeyPattern>,
    /// Only keys of this type, as the command `TYPE` names it.
    pub kind: Option<&'static str>,
    pub from: Option<KeyPlace>,
    pub limit: usize,
    pub with_values: bool,
}

/// One page of keys.
#[derive(Debug)]
pub struct KeyPage {
    /// In no order; each once. Across pages, a key may come twice if Redis resizes its table.
    pub keys: Vec<StoredKey>,
    /// `None` at the end.
    pub next: Option<KeyPlace>,
    /// The page ended at its limit of rounds or of time. There may or may not be more.
    pub partial: bool,
}

/// The names of a page.
struct Found {
    names: Vec<Vec<u8>>,
    next: Option<KeyPlace>,
}

impl Broker {
    /// Random, and the same for all who are connected to this Redis until it restarts. Until then
    /// the cursors of `SCAN` are valid.
    pub async fn server_run(&self) -> Result<String, QueueError> {
        let mut command = redis::cmd("INFO");
        command.arg("server");
        let info: String = in_time(command.query_async(&mut self.connection.get())).await?;
        let run = info
            .lines()
            .find_map(|line| line.trim().strip_prefix("run_id:"));
        Ok(run.unwrap_or_default().to_owned())
    }

    /// One page of keys, with the beginnings of their values if asked for. A key that expires
    /// meanwhile is left out.
    pub async fn keys_of_page(&self, query: &KeyQuery) -> Result<KeyPage, QueueError> {
        self.has_all_keys()?;
        let listing = async {
            let found = match &query.pattern {
                Some(KeyPattern::Key(key)) => Found {
                    names: vec![key.clone()],
                    next: None,
                },
                _ => self.find(query).await?,
            };
            let partial = found.next.is_some() && found.names.len() < query.limit;
            let mut keys = self.read_keys(&found.names, query.with_values).await?;
            // A key that is looked up has not passed SCAN's filter, and one that was replaced since
            // may have another type.
            if let Some(kind) = query.kind {
                keys.retain(|key| key.kind.as_deref().is_none_or(|found| found == kind));
            }
            Ok(KeyPage {
                keys,
                next: found.next,
                partial,
            })
        };
        tokio::time::timeout(LIMIT, listing)
            .await
            .map_err(|_| too_late())?
    }

    /// A key without its value; `None` if there is none.
    pub async fn key(&self, key: &[u8]) -> Result<Option<StoredKey>, QueueError> {
        self.has_all_keys()?;
        let keys = [key.to_vec()];
        let found = tokio::time::timeout(LIMIT, self.read_keys(&keys, false)).await;
        Ok(found.map_err(|_| too_late())??.pop())
    }

    /// Removes exactly this key; false if there is none. Redis frees a large value in the
    /// background. The caller has looked at its owner.
    pub async fn remove_key(&self, key: &[u8]) -> Result<bool, QueueError> {
        if KeyOwner::of(key, &self.config).is_read_only() {
            return Err(QueueError::Invalid("the key is read-only".into()));
        }
        let mut command = redis::cmd("UNLINK");
        command.arg(key);
        let removed: u64 = in_time(command.query_async(&mut self.connection.get()))
            .await
            .map_err(|error| match read::is_about_key(&error) {
                true => read::no_access(error),
                false => error.into(),
            })?;
        Ok(removed > 0)
    }

    /// Fails on a server that has only a part of the keys, or an old copy: `SCAN` would not say so.
    fn has_all_keys(&self) -> Result<(), QueueError> {
        match self.connection.trouble() {
            Some(
                trouble @ (Trouble::Cluster
                | Trouble::Sentinel
                | Trouble::Replica
                | Trouble::Loading),
            ) => {
                let source = (
                    redis::ErrorKind::Client,
                    "Redis was not asked, because it did not answer the last check",
                )
                    .into();
                Err(QueueError::CannotServe { trouble, source })
            }
            _ => Ok(()),
        }
    }

    async fn find(&self, query: &KeyQuery) -> Result<Found, QueueError> {
        let began = Instant::now();
        let limit = query.limit.max(1);
        let (mut cursor, mut names) = match query.from.clone() {
            Some(place) => (place.cursor, place.left),
            None => (0, Vec::new()),
        };
        let mut is_at_end = cursor == 0 && query.from.is_some();
        let mut seen: HashSet<Vec<u8>> = names.iter().cloned().collect();
        let mut count = LEAST_COUNT;
        let mut rounds = 0;
        // Before the last round.
        let (mut names_before, mut cursor_before) = (names.len(), cursor);
        while names.len() < limit
            && !is_at_end
            && rounds < MAX_ROUNDS
            && (rounds == 0 || began.elapsed() < SEARCH_LIMIT)
        {
            let wanted = limit - names.len();
            // Few keys match: look at more of them in a round.
            count = if rounds > 0 && names.len() - names_before < wanted / 2 {
                (count * 4).min(MAX_COUNT)
            } else {
                wanted.clamp(LEAST_COUNT, MAX_COUNT)
            };
            (names_before, cursor_before) = (names.len(), cursor);
            let (next, found) = self.scan_keys(cursor, count, query).await?;
            rounds += 1;
            names.extend(found.into_iter().filter(|name| seen.insert(name.clone())));
            (cursor, is_at_end) = (next, next == 0);
        }
        let mut left = names.split_off(names.len().min(limit));
        if left.iter().map(Vec::len).sum::<usize>() > MAX_LEFT_BYTES {
            if rounds > 1 {
                // The next page does the last round again, which looks at fewer keys then.
                names.truncate(names_before);
                (cursor, is_at_end) = (cursor_before, false);
            } else {
                // Long names: the page has a few more than its limit.
                names.append(&mut left);
            }
            left.clear();
        }
        let next = (!is_at_end || !left.is_empty()).then_some(KeyPlace { cursor, left });
        Ok(Found { names, next })
    }

    async fn scan_keys(
        &self,
        cursor: u64,
        count: usize,
        query: &KeyQuery,
    ) -> Result<(u64, Vec<Vec<u8>>), QueueError> {
        let mut command = redis::cmd("SCAN");
        command.arg(cursor);
        if let Some(KeyPattern::Glob(pattern)) = &query.pattern {
            command.arg("MATCH").arg(pattern);
        }
        command.arg("COUNT").arg(count);
        if let Some(kind) = query.kind {
            command.arg("TYPE").arg(kind);
        }
        Ok(command.query_async(&mut self.connection.get()).await?)
    }
}

async fn in_time<T>(asked: impl Future<Output = redis::RedisResult<T>>) -> redis::RedisResult<T> {
    tokio::time::timeout(LIMIT, asked)
        .await
        .map_err(|_| redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))?
}

fn too_late() -> QueueError {
    redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)).into()
}
