//! What of a plugin's answer reaches the client. An answer that breaks what its route declares is
//! logged and never sent.

use patchbay_capability::{RelayBody, Relayed};
use patchbay_model::capability::Fields;
use patchbay_model::json_schema::{Schema, Values, Violations};
use patchbay_model::manifest::{Envelope, RouteSpec};
use serde_json::Value;
use tokio::task::block_in_place;
use tracing::warn;

use crate::error::{Error, Kind};
use crate::plugins::{Answer, AnswerBody, Route};

/// Bytes of all headers of an answer, names and values.
const MAX_HEADER_BYTES: usize = 8 << 10;
/// Violations that are logged.
const MAX_VIOLATIONS: usize = 3;

/// An answer that may be sent.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Without line breaks, and without those that the host sets.
    pub headers: Fields,
    pub body: ReplyBody,
    /// Whether it is the answer to an earlier request with the same idempotency key.
    pub is_replayed: bool,
}

/// The content of a [`Reply`].
#[derive(Debug)]
pub enum ReplyBody {
    Empty,
    /// A whole document, with its envelope.
    Json(String),
    /// With its media type.
    Bytes(String, Vec<u8>),
    Relayed(RelayedContent),
}

/// Content that is passed on in pieces.
#[derive(Debug)]
pub struct RelayedContent {
    pub content_type: String,
    /// Bytes, where that is known.
    pub length: Option<u64>,
    pub body: RelayBody,
}

/// The answer as the client gets it.
pub(super) fn checked(route: &Route, answer: Answer) -> Result<Reply, Error> {
    let relayed = answer.body.kind() == "relay";
    match reply(route, answer) {
        Ok(reply) => Ok(reply),
        Err(Unfit::Upstream(kind, code)) => {
            let message = "The service that has the content did not give it";
            Err(Error::new(kind, code, message))
        }
        Err(Unfit::Invalid(reason)) => {
            let (plugin, revision) = (&route.plugin, route.digest.short());
            warn!(%plugin, route = route.spec.id(), revision, relayed, reason, "the answer of a route is invalid, and was not sent");
            let message = "The plugin's answer is not what its route declares, so it was not sent. The log of the host has the details, \
                           under the x-request-id of this answer";
            Err(Error::new(Kind::Internal, "invalid-result", message))
        }
    }
}

enum Unfit {
    /// The plugin's fault.
    Invalid(String),
    /// The relayed service's fault, with the code.
    Upstream(Kind, &'static str),
}

impl From<String> for Unfit {
    fn from(reason: String) -> Self {
        Self::Invalid(reason)
    }
}

fn reply(route: &Route, answer: Answer) -> Result<Reply, Unfit> {
    let spec = &route.spec;
    let status = answer.status.unwrap_or(spec.success_status);
    if !spec.may_answer(status) {
        return Err(
            format!("status {status} is neither success_status nor one of statuses").into(),
        );
    }
    let mut headers = allowed(spec, answer.headers)?;
    let is_success = status == spec.success_status;
    let body = match answer.body {
        AnswerBody::Empty if is_success && spec.output.is_some() && status != 204 => {
            return Err("no data, although the route declares its output"
                .to_owned()
                .into());
        }
        AnswerBody::Empty => {
            // A client reads nothing after 200, either.
            let status = if status == 200 { 204 } else { status };
            return Ok(Reply {
                status,
                headers,
                body: ReplyBody::Empty,
                is_replayed: false,
            });
        }
        AnswerBody::Json(_) | AnswerBody::Bytes { .. } if [204, 205].contains(&status) => {
            return Err(format!("content, although status {status} has none").into());
        }
        AnswerBody::Json(text) => {
            if is_success {
                check_output(route, &text)?;
            }
            ReplyBody::Json(match spec.envelope {
                Envelope::None => text,
                Envelope::Standard => {
                    format!("{{\"success\":{},\"data\":{text}}}", status < 400)
                }
            })
        }
        AnswerBody::Bytes {
            content_type,
            content,
        } => {
            check_media_type(spec, &content_type)?;
            ReplyBody::Bytes(content_type, content)
        }
        AnswerBody::Pieces(relayed) => return passed_on(spec, &mut headers, relayed),
        // Only operators get responses whole.
        AnswerBody::Relayed(_) => return Err("a response that was read whole".to_owned().into()),
    };
    Ok(Reply {
        status,
        headers,
        body,
        is_replayed: false,
    })
}

/// The status and what describes the content; what a service says of an error is not for the client.
fn passed_on(spec: &RouteSpec, headers: &mut Fields, relayed: Relayed) -> Result<Reply, Unfit> {
    match relayed.status {
        200 | 206 | 304 | 404 | 416 => {}
        401 | 403 => return Err(Unfit::Upstream(Kind::Upstream, "bad-credentials")),
        429 | 503 => return Err(Unfit::Upstream(Kind::Unavailable, "unavailable")),
        504 => return Err(Unfit::Upstream(Kind::Deadline, "deadline")),
        _ => return Err(Unfit::Upstream(Kind::Upstream, "upstream")),
    }
    let mut content_type = String::from("application/octet-stream");
    for (name, value) in relayed.headers {
        match name.as_str() {
            "content-type" => content_type = String::from_utf8(value).unwrap_or_default(),
            _ if relayed.status == 404 => {}
            _ => {
                headers.retain(|(own, _)| *own != name);
                headers.push((name, value));
            }
        }
    }
    let body = match relayed.status {
        200 | 206 => {
            check_media_type(spec, &content_type)?;
            ReplyBody::Relayed(RelayedContent {
                content_type,
                length: relayed.length,
                body: relayed.body,
            })
        }
        _ => ReplyBody::Empty,
    };
    Ok(Reply {
        status: relayed.status,
        headers: std::mem::take(headers),
        body,
        is_replayed: false,
    })
}

/// Large documents take some time, and some schemas a thread of their own.
pub(super) fn fits(schema: &Schema, document: &Value, most: usize) -> Result<(), Violations> {
    match schema.is_quick_for(document) {
        true => schema.fits(document, Values::Withheld, most),
        false => block_in_place(|| schema.fits(document, Values::Withheld, most)),
    }
}

fn check_output(route: &Route, text: &str) -> Result<(), String> {
    let Some(schema) = &route.schemas.output else {
        return Ok(());
    };
    let document: Value =
        serde_json::from_str(text).map_err(|error| format!("the data cannot be read: {error}"))?;
    fits(schema, &document, MAX_VIOLATIONS)
        .map_err(|violations| format!("the data does not fit the output schema: {violations}"))
}

/// A charset and the like may follow.
fn check_media_type(spec: &RouteSpec, text: &str) -> Result<(), String> {
    let kind = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    match is_plain && spec.produces.contains(&kind) {
        true => Ok(()),
        false => Err(format!("the media type {kind:?} is not one of produces")),
    }
}

/// Names in lower case. A header that the route does not declare breaks the answer, as one that
/// HTTP does not allow.
fn allowed(spec: &RouteSpec, headers: Fields) -> Result<Fields, String> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(format!(
            "{bytes} bytes of headers; the limit is {MAX_HEADER_BYTES}"
        ));
    }
    let mut checked = Fields::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if !spec.response_headers.contains(&name) {
            return Err(format!(
                "the header {name:?} is not one of response_headers"
            ));
        }
        let is_plain = |byte: &u8| *byte == b'\t' || (0x20..0x7f).contains(byte);
        if !value.iter().all(is_plain) {
            return Err(format!(
                "the header {name} has characters that no header may have"
            ));
        }
        checked.push((name, value));
    }
    Ok(checked)
}
