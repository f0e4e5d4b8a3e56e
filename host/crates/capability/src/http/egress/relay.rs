//! A response that the host passes on to a client: in pieces, no faster than the client takes them,
//! and never with a credential of the request in it.

use std::sync::Arc;
use std::time::Duration;

use patchbay_model::capability::{Fields, HttpError, HttpRequest};

use super::relay_body::RelayBody;
use super::relay_content::{Rest, Source, searched};
use super::relay_places::{NoPlace, Place, Relays};
use super::{Caller, Egress, Exchanged};
use crate::credential_echo::Scanner;
use crate::secrets::SecretValue;

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

/// What a request for a response to pass on leads to.
pub(crate) enum Followed {
    Relayed(Box<Relayed>),
    /// To this URL; the place is for the next request.
    Redirected(String, Place),
}

impl Egress {
    /// The responses that this process passes on.
    pub fn relays(&self) -> Arc<Relays> {
        Arc::clone(&self.relays)
    }

    /// A place among the responses that are passed on. `client`: who gets the response.
    pub(crate) fn relay_place(&self, client: Option<&str>) -> Result<Place, NoPlace> {
        self.relays.place(client)
    }

    /// One request of a relay. The place goes with the response.
    pub(crate) async fn relay(
        &self,
        caller: Caller<'_>,
        request: HttpRequest,
        place: Place,
    ) -> Result<Followed, HttpError> {
        let url = request.url.clone();
        let (response, guarded) = self.fetch(caller, request, true).await?;
        if REDIRECTS.contains(&response.status)
            && let Some(next) = location(&response, &url)
        {
            return Ok(Followed::Redirected(next, place));
        }
        let relayed = passed_on(response, &guarded, place).await?;
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

async fn passed_on(
    response: Exchanged,
    guarded: &[SecretValue],
    place: Place,
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
    let bytes = body.len() as u64;
    let (read, rest) = match rest {
        None => (body, None),
        Some(response) => {
            let refused = |_| HttpError::Denied(super::ECHOED.into());
            let mut scanner = Scanner::new(guarded).map_err(refused)?;
            let first = match &mut scanner {
                Some(scanner) => searched(scanner, &body).await.map_err(refused)?,
                None => body,
            };
            (first, Some(Rest { response, scanner }))
        }
    };
    let source = Source::new(read, rest, bytes, max_bytes);
    Ok(Relayed {
        status,
        headers,
        length,
        body: RelayBody::new(source, place, LIMIT),
    })
}
