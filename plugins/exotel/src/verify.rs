//! Judges callbacks.
//!
//! The vendor signs nothing, so the URL that it is given proves who sends: its `token` is a MAC of
//! `reference`, which names our row. A token is worth only the one call or message that it was made
//! for, and the secret itself never leaves the host. A URL without `reference`, as an operator may
//! enter it at the vendor, has the secret as its token.

use patchbay_plugin::secrets::{self, Hash};
use patchbay_plugin::webhooks::{Accepted, EventJob, Rejected, Request};

use crate::event::{self, Event};
use crate::pairs;
use crate::settings::WEBHOOK_TOKEN;

/// How a candidate token is compared, in constant time.
pub trait Tokens {
    fn signs(&self, reference: &str, mac: &[u8]) -> Result<bool, String>;
    fn is(&self, candidate: &[u8]) -> Result<bool, String>;
}

struct Host;

impl Tokens for Host {
    fn signs(&self, reference: &str, mac: &[u8]) -> Result<bool, String> {
        let data = signed(reference);
        secrets::verify_hmac(WEBHOOK_TOKEN, Hash::Sha256, data.as_bytes(), mac)
            .map_err(|error| error.message)
    }

    fn is(&self, candidate: &[u8]) -> Result<bool, String> {
        secrets::matches(WEBHOOK_TOKEN, candidate).map_err(|error| error.message)
    }
}

fn signed(reference: &str) -> String {
    format!("exotel callback of {reference}")
}

/// The token for callbacks about this row. `None` without the secret.
pub fn token(reference: &str) -> Option<String> {
    let data = signed(reference);
    let mac = secrets::sign_hmac(WEBHOOK_TOKEN, Hash::Sha256, data.as_bytes()).ok()?;
    Some(hex::encode(mac))
}

pub fn verify(request: &Request) -> Result<Accepted, Rejected> {
    accepted(request, &Host)
}

fn accepted(request: &Request, tokens: &impl Tokens) -> Result<Accepted, Rejected> {
    let reference = authentic(&request.query, tokens)?;
    let event = event(request, reference)?;
    let data = serde_json::to_string(&event)
        .map_err(|error| Rejected::new(422, "malformed", error.to_string()))?;
    Ok(Accepted {
        event_id: Some(event.id()),
        kind: event.name(),
        jobs: vec![EventJob {
            name: "event".into(),
            data,
        }],
        reply: None,
    })
}

fn event(request: &Request, reference: Option<String>) -> Result<Event, Rejected> {
    let malformed = |reason: String| Rejected::new(400, "malformed", reason);
    let content_type = request
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
        .unwrap_or_default();
    let pairs = pairs::read(content_type, &request.body).map_err(malformed)?;
    let received_at = i64::try_from(request.received_at).unwrap_or(0);
    let mut event = event::read(&pairs, received_at).map_err(malformed)?;
    // What the URL says is proven; what the body says is not.
    if reference.is_some() {
        event.reference = reference;
    }
    Ok(event)
}

/// The row that the token was made for, if it was made for one.
fn authentic(query: &str, tokens: &impl Tokens) -> Result<Option<String>, Rejected> {
    let only = |name: &str| {
        let mut values = form_urlencoded::parse(query.as_bytes())
            .filter(|(field, _)| field == name)
            .map(|(_, value)| value.into_owned());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Rejected::new(
                401,
                "bad-token",
                format!("{name} is in the URL twice"),
            )),
        }
    };
    let bad = |message: &str| Rejected::new(401, "bad-token", message);
    let token = only("token")?.ok_or_else(|| bad("the URL has no token"))?;
    let unknown = |reason: String| Rejected::new(401, "token-unknown", reason);
    match only("reference")? {
        Some(reference) => {
            if !event::is_reference(&reference) {
                return Err(bad("the reference in the URL is none of ours"));
            }
            let mac = hex::decode(&token)
                .map_err(|_| bad("the token in the URL is not the one for its reference"))?;
            if !tokens.signs(&reference, &mac).map_err(unknown)? {
                return Err(bad("the token in the URL is not the one for its reference"));
            }
            Ok(Some(reference))
        }
        None => {
            if !tokens.is(token.as_bytes()).map_err(unknown)? {
                return Err(bad("the token in the URL is not EXOTEL_WEBHOOK_TOKEN"));
            }
            Ok(None)
        }
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
