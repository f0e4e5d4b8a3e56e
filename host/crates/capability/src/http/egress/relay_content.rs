//! What a server sends, piece by piece, searched for the credentials of the request.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::credential_echo::{Repeats, Scanner};

/// What is searched or handed to a client at once.
const STEP: usize = 64 << 10;
/// Longest silence of the server.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// What comes of the server, searched.
pub(super) struct Source {
    /// What has been read and searched.
    read: VecDeque<u8>,
    rest: Option<Rest>,
    /// What the server has sent so far.
    bytes: u64,
    max_bytes: u64,
    /// Until the first piece.
    #[cfg(test)]
    silence: Duration,
}

/// What the server has not sent yet.
pub(super) struct Rest {
    pub(super) response: reqwest::Response,
    pub(super) scanner: Option<Scanner>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Why a response ends before its end. It says nothing of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayAborted {
    #[error("the response repeats a credential that the host put in")]
    Credential,
    #[error("the response is larger than the rule's max_relay_bytes")]
    TooLarge,
    #[error("the server was silent for too long, or took too long in all")]
    TooSlow,
    #[error("the connection to the server broke")]
    Interrupted,
    #[error("the client took too little of it for too long")]
    SlowClient,
}

impl RelayAborted {
    /// As in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::TooLarge => "too-large",
            Self::TooSlow => "slow-server",
            Self::Interrupted => "interrupted",
            Self::SlowClient => "slow-client",
        }
    }
}

/// In steps, between which other requests get their turn: a search of a step takes about a
/// millisecond at most.
pub(super) async fn searched(scanner: &mut Scanner, bytes: &[u8]) -> Result<Vec<u8>, Repeats> {
    let mut passed = Vec::with_capacity(bytes.len());
    for (n, step) in bytes.chunks(STEP).enumerate() {
        if n > 0 {
            tokio::task::yield_now().await;
        }
        passed.append(&mut scanner.push(step)?);
    }
    Ok(passed)
}

impl Source {
    /// `read`: what has been read and searched; `bytes`: what the server has sent so far.
    pub(super) fn new(read: Vec<u8>, rest: Option<Rest>, bytes: u64, max_bytes: u64) -> Self {
        Self {
            read: read.into(),
            rest,
            bytes,
            max_bytes,
            #[cfg(test)]
            silence: Duration::ZERO,
        }
    }

    /// What the server has sent so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next piece; nothing after the last. `ends`: when the whole must have been passed on.
    pub(super) async fn next(&mut self, ends: Instant) -> Option<Result<Vec<u8>, RelayAborted>> {
        #[cfg(test)]
        tokio::time::sleep(std::mem::take(&mut self.silence)).await;
        // A client that reads slowly must not take all of it at once into the host's buffers.
        if !self.read.is_empty() {
            let piece = self.read.len().min(STEP);
            return Some(Ok(self.read.drain(..piece).collect()));
        }
        loop {
            let rest = self.rest.as_mut()?;
            let limit = ends.min(Instant::now() + SILENCE_LIMIT);
            let chunk = match timeout_at(limit, rest.response.chunk()).await {
                Err(_) => return Some(Err(RelayAborted::TooSlow)),
                Ok(Err(_)) => return Some(Err(RelayAborted::Interrupted)),
                Ok(Ok(chunk)) => chunk,
            };
            let Some(chunk) = chunk else {
                let scanner = self.rest.take().and_then(|rest| rest.scanner);
                return match scanner.map_or(Ok(Vec::new()), Scanner::finish) {
                    Ok(last) if last.is_empty() => None,
                    Ok(last) => Some(Ok(last)),
                    Err(_) => Some(Err(RelayAborted::Credential)),
                };
            };
            self.bytes += chunk.len() as u64;
            if self.bytes > self.max_bytes {
                return Some(Err(RelayAborted::TooLarge));
            }
            let piece = match &mut rest.scanner {
                None => Ok(chunk.to_vec()),
                Some(scanner) => searched(scanner, &chunk).await,
            };
            match piece {
                // All of it is held back.
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(_) => return Some(Err(RelayAborted::Credential)),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        Self::whole_after(bytes, Duration::ZERO)
    }

    #[cfg(test)]
    pub(super) fn whole_after(bytes: Vec<u8>, silence: Duration) -> Self {
        Self {
            bytes: bytes.len() as u64,
            max_bytes: bytes.len() as u64,
            read: bytes.into(),
            rest: None,
            silence,
        }
    }
}
