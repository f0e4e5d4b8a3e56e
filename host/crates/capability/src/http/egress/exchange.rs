//! One request and its response over the network, bounded in time and size.

use std::error::Error as StdError;
use std::io;

use patchbay_model::capability::{Fields, HttpError, TimeoutPhase};
use reqwest::header::CONTENT_ENCODING;
use reqwest::tls::TlsInfo;
use tokio::time::{Instant, timeout_at};

use super::client::EgressClient;
use super::request::Outgoing;
use super::resolver::ResolutionError;

/// What becomes of the body of a response. Limits count after decompression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is held whole, up to so many bytes.
    Whole(u64),
    /// One of more than [`WHOLE_BYTES`] is passed on in pieces, up to so many bytes.
    Pieces(u64),
}

/// Up to here, a response that is passed on is read and searched whole.
pub(super) const WHOLE_BYTES: u64 = 1 << 20;
/// Statuses whose body is passed on.
const WITH_CONTENT: [u16; 2] = [200, 206];

/// A response and its body, as far as it has been read.
pub(super) struct Exchanged {
    pub(super) status: u16,
    pub(super) headers: Fields,
    pub(super) body: Vec<u8>,
    /// The announced length of the body.
    pub(super) length: Option<u64>,
    /// Longest body.
    pub(super) max_bytes: u64,
    /// Gives the rest of the body.
    pub(super) rest: Option<reqwest::Response>,
}

/// Sends the request unchanged. The deadline covers everything up to the last byte that is read
/// here.
pub(super) async fn exchange(
    client: &EgressClient,
    request: Outgoing,
    deadline: Instant,
    reading: Reading,
) -> Result<Exchanged, HttpError> {
    let mut outgoing = client
        .http
        .request(request.method, request.url)
        .headers(request.headers);
    if let Some(body) = request.body {
        outgoing = outgoing.body(body);
    }
    // Unknown whether it was still connecting. The cautious answer: it may have been sent.
    let sent = timeout_at(deadline, outgoing.send()).await;
    let mut response = sent
        .map_err(|_| HttpError::Timeout(TimeoutPhase::AwaitingResponse))?
        .map_err(|e| classify(&e))?;
    client.certificates.note(response.url(), || {
        Some(
            response
                .extensions()
                .get::<TlsInfo>()?
                .peer_certificate()?
                .to_vec(),
        )
    });
    // The client removes this header when it decompresses.
    let still_encoded = response
        .headers()
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| coding != "identity");
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let headers = headers.collect();
    let length = response.content_length();
    let mut exchanged = Exchanged {
        status,
        headers,
        body: Vec::new(),
        length,
        max_bytes: match reading {
            Reading::Whole(max_bytes) | Reading::Pieces(max_bytes) => max_bytes,
        },
        rest: None,
    };
    let max_bytes = exchanged.max_bytes;
    match reading {
        Reading::Whole(_) => {}
        Reading::Pieces(_) if !WITH_CONTENT.contains(&status) => return Ok(exchanged),
        Reading::Pieces(_) => {
            if length.is_some_and(|length| length > max_bytes) {
                return Err(HttpError::TooLarge(max_bytes));
            }
            if still_encoded {
                return Err(not_asked_for());
            }
        }
    }
    let is_passed_on = matches!(reading, Reading::Pieces(_));
    if is_passed_on && length.is_some_and(|length| length > WHOLE_BYTES) {
        exchanged.rest = Some(response);
        return Ok(exchanged);
    }
    let body = &mut exchanged.body;
    loop {
        let chunk = timeout_at(deadline, response.chunk()).await;
        let chunk = chunk.map_err(|_| HttpError::Timeout(TimeoutPhase::ReadingBody))?;
        let Some(chunk) = chunk.map_err(|_| HttpError::Interrupted(true))? else {
            break;
        };
        if (body.len() + chunk.len()) as u64 > max_bytes {
            return Err(HttpError::TooLarge(max_bytes));
        }
        body.extend_from_slice(&chunk);
        if is_passed_on && body.len() as u64 > WHOLE_BYTES {
            exchanged.rest = Some(response);
            return Ok(exchanged);
        }
    }
    if still_encoded && !body.is_empty() {
        return Err(not_asked_for());
    }
    // Announced or not, it is known now.
    exchanged.length = Some(body.len() as u64);
    Ok(exchanged)
}

fn not_asked_for() -> HttpError {
    HttpError::Other("the response has a content coding that was not asked for".into())
}

/// Classifies by the cause in reqwest's chain. Leaves out URLs: they may contain credentials.
fn classify(error: &reqwest::Error) -> HttpError {
    let mut source = StdError::source(error);
    while let Some(cause) = source {
        if let Some(resolution) = cause.downcast_ref::<ResolutionError>() {
            return match resolution {
                ResolutionError::Blocked(_) => HttpError::Denied(resolution.to_string()),
                ResolutionError::NotFound(_) => HttpError::Dns(resolution.to_string()),
            };
        }
        if let Some(tls) = tls_error(cause) {
            return HttpError::Tls(tls.to_string());
        }
        source = cause.source();
    }
    if error.is_connect() {
        HttpError::Connect(chain(error))
    } else if error.is_builder() {
        HttpError::Invalid("the request cannot be written as HTTP".into())
    } else {
        HttpError::Interrupted(true)
    }
}

/// An I/O error does not return the error that it wraps as source, and may wrap an I/O error.
fn tls_error<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = cause.downcast_ref() {
        return Some(tls);
    }
    let wrapped = cause.downcast_ref::<io::Error>()?.get_ref()?;
    tls_error(wrapped)
}

pub(super) fn chain(error: &dyn StdError) -> String {
    let mut source = error.source();
    let mut text = String::new();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if text.is_empty() {
        "the request failed".into()
    } else {
        text
    }
}
