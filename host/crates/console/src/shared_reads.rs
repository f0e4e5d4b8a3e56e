//! Answers that many open consoles look at: within a second, whoever sees the same gets the same
//! answer, so that fifty open pages ask once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How old a shared answer may be.
const FRESH: Duration = Duration::from_secs(1);
/// Most answers that are kept.
const MOST: usize = 512;

/// An answer of the API: its status and body.
pub(crate) type Answer = Arc<(http::StatusCode, Vec<u8>)>;

type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Answer)>>>;

/// By what was asked and what whoever asks may see.
#[derive(Default)]
pub(crate) struct SharedReads(Mutex<HashMap<String, Slot>>);

impl SharedReads {
    /// The answer of less than a second ago, or that of `ask`. Whoever asks meanwhile waits for it.
    pub(crate) async fn get(&self, key: String, ask: impl Future<Output = Answer>) -> Answer {
        let slot = self.slot(key);
        let mut kept = slot.lock().await;
        if let Some((at, answer)) = &*kept
            && at.elapsed() < FRESH
        {
            return Arc::clone(answer);
        }
        let answer = ask.await;
        // An error is not kept: the next one asks again.
        *kept = answer
            .0
            .is_success()
            .then(|| (Instant::now(), Arc::clone(&answer)));
        answer
    }

    fn slot(&self, key: String) -> Slot {
        let mut slots = self.0.lock();
        if slots.len() >= MOST && !slots.contains_key(&key) {
            // What is in use is held by its users, too.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::StatusCode;

    use super::*;

    #[tokio::test]
    async fn who_asks_the_same_at_once_shares_one_answer_and_errors_are_asked_again() {
        let (reads, asked) = (SharedReads::default(), AtomicU32::new(0));
        let ask = async |status: StatusCode| {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Arc::new((status, b"x".to_vec()))
        };
        let of = |key: &str, status| reads.get(key.to_owned(), ask(status));
        let (first, second) = tokio::join!(of("a", StatusCode::OK), of("a", StatusCode::OK));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        of("b", StatusCode::SERVICE_UNAVAILABLE).await;
        of("b", StatusCode::OK).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        for number in 0..2 * MOST {
            of(&format!("key {number}"), StatusCode::OK).await;
        }
        assert!(reads.0.lock().len() <= MOST);
    }
}
