//! Watches Redis's memory. When it is nearly full, new jobs and values are refused, so that running
//! jobs can still settle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::QueueError;
use crate::connection::Connection;

/// Share of `maxmemory` above which new jobs and values are refused.
const FULL: f64 = 0.85;
/// How long a result is cached: memory fills slowly, and asking costs a round trip.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Memory {
    connection: Connection,
    last: Arc<Mutex<Option<(Instant, bool)>>>,
}

impl Memory {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            last: Arc::default(),
        }
    }

    pub(crate) async fn refuse_when_full(&self) -> Result<(), QueueError> {
        if self.is_full().await? {
            let text = "Redis is nearly full, so new jobs are refused: remove finished jobs or raise maxmemory";
            return Err(QueueError::MemoryFull(text.into()));
        }
        Ok(())
    }

    pub(crate) async fn is_full(&self) -> Result<bool, QueueError> {
        let last = *self.last.lock();
        let full = match last {
            Some((at, full)) if at.elapsed() < LOOK_EVERY => full,
            _ => {
                let full = self.share().await?.is_some_and(|share| share > FULL);
                *self.last.lock() = Some((Instant::now(), full));
                full
            }
        };
        Ok(full)
    }

    /// The used share of `maxmemory` now; `None` without such a limit.
    pub(crate) async fn share(&self) -> Result<Option<f64>, QueueError> {
        let info: String = redis::cmd("INFO")
            .arg("memory")
            .query_async(&mut self.connection.get())
            .await?;
        Ok(share(&info))
    }
}

fn share(info: &str) -> Option<f64> {
    let (used, limit) = used_and_limit(info).filter(|(_, limit)| *limit > 0)?;
    Some(used as f64 / limit as f64)
}

/// Both in bytes. A limit of 0 means no limit.
pub(crate) fn used_and_limit(info: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        info.lines().find_map(|line| {
            line.trim()
                .strip_prefix(name)?
                .strip_prefix(':')?
                .parse()
                .ok()
        })
    };
    field("used_memory").zip(field("maxmemory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_relative_to_a_limit_and_no_limit_is_never_full() {
        let is_full = |info| share(info).is_some_and(|share| share > FULL);
        assert!(is_full("used_memory:90\r\nmaxmemory:100\r\n"));
        assert!(!is_full("used_memory:80\r\nmaxmemory:100\r\n"));
        assert!(!is_full("used_memory:80\r\nmaxmemory:0\r\n"));
    }
}
