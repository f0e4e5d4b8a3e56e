//! Judges callbacks.
//!
//! The vendor signs nothing, so the URL that it is given proves who sends: its `token` is a MAC of
//! `reference`, which names our row. A token is worth only the one call or message that it was made
//! for. The host has compared it (`check` in the manifest) before this code runs, and the secret never
//! leaves the host.

use patchbay_plugin::secrets::{self, Hash};
use patchbay_plugin::webhooks::{Accepted, EventJob, Rejected, Request};

use crate::event::{self, Event};
use crate::pairs;
use crate::settings::WEBHOOK_TOKEN;

/// The token for callbacks about this row. `None` without the secret.
pub fn token(reference: &str) -> Option<String> {
    let mac = secrets::sign_hmac(WEBHOOK_TOKEN, Hash::Sha256, reference.as_bytes()).ok()?;
    Some(hex::encode(mac))
}

pub fn verify(request: &Request) -> Result<Accepted, Rejected> {
    let reference = reference(&request.query)?;
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

fn event(request: &Request, reference: String) -> Result<Event, Rejected> {
    let malformed = |reason: String| Rejected::new(400, "malformed", reason);
    let content_type = request
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
        .unwrap_or_default();
    let pairs = pairs::read(content_type, &request.body).map_err(malformed)?;
    let received_at = i64::try_from(request.received_at).unwrap_or(0);
    // What the URL says is proven; what the body says (`CustomField`, the vendor's id) is not.
    event::read(&pairs, reference, received_at).map_err(malformed)
}

/// The row that the token was made for.
fn reference(query: &str) -> Result<String, Rejected> {
    let mut values = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "reference")
        .map(|(_, value)| value.into_owned());
    match (values.next(), values.next()) {
        (Some(reference), None) if event::is_reference(&reference) => Ok(reference),
        _ => Err(Rejected::new(
            401,
            "bad-reference",
            "the reference in the URL is none of ours",
        )),
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
