//! Requests about the same thing take turns within this process: a hundred with one refresh token
//! must not each hold a connection to wait for the same row, and many right logins at once must not
//! look like guesses.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::passwords::{LONGEST_WAIT, busy};
use super::tokens::token_hash;
use crate::error::Error;

/// Beyond this many, those that nobody waits for are dropped.
const KEPT: usize = 1_000;

pub(crate) struct Turns {
    at_once: usize,
    waiting: Mutex<HashMap<[u8; 32], Arc<Semaphore>>>,
}

impl Turns {
    /// So many requests about one thing go on at once.
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            at_once,
            waiting: Mutex::default(),
        }
    }

    /// Waits for a turn, which ends when the permit is dropped; refused when others take too long.
    pub(crate) async fn take(&self, thing: &str) -> Result<OwnedSemaphorePermit, Error> {
        let turns = {
            let mut waiting = self.waiting.lock();
            if waiting.len() > KEPT {
                waiting.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            let turns = waiting
                .entry(token_hash(thing))
                .or_insert_with(|| Arc::new(Semaphore::new(self.at_once)));
            Arc::clone(turns)
        };
        tokio::time::timeout(LONGEST_WAIT, turns.acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|_| Error::internal())
    }
}
