//! A response that the host passes on to a client: in pieces, no faster than the client takes them,
//! and never with a credential of the request in it.

use std::time::Duration;

use patchbay_model::capability::{Fields, HttpError, HttpRequest};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::{Caller, Egress, Exchanged};
use crate::credential_echo::Scanner;
use crate::secrets::SecretValue;

/// Responses that a process passes on at the same time.
pub(super) const MAX_RELAYS: usize = 64;
/// Longest silence of the server.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Longest response.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Headers that describe the content, and nothing else of a server.
const KEPT: [&str; 5] = [
    "content-type",
    "content-range",
    "accept-ranges",
    "etag",
    "last-modified",
];
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// A response to pass on.
#[derive(Debug)]
pub struct Relayed {
    pub status: u16,
    /// Lower-case names; only what describes the content.
    pub headers: Fields,
    /// Bytes of the content, where the server has announced it.
    pub length: Option<u64>,
    pub body: RelayBody,
}

/// The content of a [`Relayed`].
#[derive(Debug)]
pub struct RelayBody {
    /// What has been read and searched.
    whole: Option<Vec<u8>>,
    rest: Option<Box<Rest>>,
    max_bytes: u64,
    ends: Instant,
    /// Held until the last piece.
    _place: OwnedSemaphorePermit,
}

struct Rest {
    response: reqwest::Response,
    scanner: Option<Scanner>,
    bytes: u64,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rest")
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
}

/// What a request for a response to pass on leads to.
pub(crate) enum Followed {
    Relayed(Box<Relayed>),
    /// To this URL; the place is for the next request.
    Redirected(String, OwnedSemaphorePermit),
}

impl Egress {
    /// A place among the responses that are passed on; nothing while all are taken.
    pub(crate) fn relay_place(&self) -> Option<OwnedSemaphorePermit> {
        std::sync::Arc::clone(&self.relays).try_acquire_owned().ok()
    }

    /// One request of a relay. The place goes with the response.
    pub(crate) async fn relay(
        &self,
        caller: Caller<'_>,
        request: HttpRequest,
        place: OwnedSemaphorePermit,
    ) -> Result<Followed, HttpError> {
        let url = request.url.clone();
        let (response, guarded) = self.fetch(caller, request, true).await?;
        if REDIRECTS.contains(&response.status)
            && let Some(next) = location(&response, &url)
        {
            return Ok(Followed::Redirected(next, place));
        }
        let relayed = passed_on(response, &guarded, place)?;
        Ok(Followed::Relayed(Box::new(relayed)))
    }
}

fn location(response: &Exchanged, from: &str) -> Option<String> {
    let mut headers = response.headers.iter();
    let (_, value) = headers.find(|(name, _)| name == "location")?;
    let next = reqwest::Url::parse(from)
        .ok()?
        .join(std::str::from_utf8(value).ok()?);
    Some(next.ok()?.into())
}

fn passed_on(
    response: Exchanged,
    guarded: &[SecretValue],
    place: OwnedSemaphorePermit,
) -> Result<Relayed, HttpError> {
    let Exchanged {
        status,
        mut headers,
        body,
        length,
        max_bytes,
        rest,
    } = response;
    headers.retain(|(name, _)| KEPT.contains(&name.as_str()));
    let (whole, rest) = match rest {
        None => (Some(body), None),
        Some(response) => {
            let refused = |_| HttpError::Denied(super::ECHOED.into());
            let mut scanner = Scanner::new(guarded).map_err(refused)?;
            let bytes = body.len() as u64;
            let first = match &mut scanner {
                Some(scanner) => scanner.push(&body).map_err(refused)?,
                None => body,
            };
            let rest = Rest {
                response,
                scanner,
                bytes,
            };
            (Some(first), Some(Box::new(rest)))
        }
    };
    Ok(Relayed {
        status,
        headers,
        length,
        body: RelayBody {
            whole: whole.filter(|bytes| !bytes.is_empty()),
            rest,
            max_bytes,
            ends: Instant::now() + LIMIT,
            _place: place,
        },
    })
}

impl RelayBody {
    /// Whether all of it has been read and searched.
    pub fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// The next piece; nothing after the last. After an error there is no more, and the client must
    /// not take what it has for the whole.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, RelayAborted>> {
        if let Some(whole) = self.whole.take() {
            return Some(Ok(whole));
        }
        loop {
            let rest = self.rest.as_mut()?;
            let limit = self.ends.min(Instant::now() + SILENCE_LIMIT);
            let chunk = match timeout_at(limit, rest.response.chunk()).await {
                Err(_) => return Some(Err(self.aborted(RelayAborted::TooSlow))),
                Ok(Err(_)) => return Some(Err(self.aborted(RelayAborted::Interrupted))),
                Ok(Ok(chunk)) => chunk,
            };
            let Some(chunk) = chunk else {
                let scanner = self.rest.take().and_then(|rest| rest.scanner);
                return match scanner.map_or(Ok(Vec::new()), Scanner::finish) {
                    Ok(last) if last.is_empty() => None,
                    Ok(last) => Some(Ok(last)),
                    Err(_) => Some(Err(self.aborted(RelayAborted::Credential))),
                };
            };
            rest.bytes += chunk.len() as u64;
            if rest.bytes > self.max_bytes {
                return Some(Err(self.aborted(RelayAborted::TooLarge)));
            }
            let piece = match &mut rest.scanner {
                None => Ok(chunk.to_vec()),
                Some(scanner) => scanner.push(&chunk),
            };
            match piece {
                // All of it is held back.
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(_) => return Some(Err(self.aborted(RelayAborted::Credential))),
            }
        }
    }

    fn aborted(&mut self, why: RelayAborted) -> RelayAborted {
        let bytes = self.rest.take().map(|rest| rest.bytes);
        match why {
            RelayAborted::Credential => warn!(?bytes, %why, "a relayed response was cut off"),
            _ => debug!(?bytes, %why, "a relayed response was cut off"),
        }
        why
    }
}
