//! From a request and its verdict to what is kept and enqueued: keys, ids, and the sealed content.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use patchbay_model::DataPath;
use patchbay_model::capability::Fields;
use patchbay_model::data_path::{MAX_VALUE_BYTES, MAX_VALUES};
use patchbay_model::job::{NewJob, Trace};
use patchbay_model::manifest::{WebhookCheck, WebhookSpec};
use patchbay_model::webhook::{EventJob, WebhookRequest};
use patchbay_store::{EventKey, EventKeys};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::plugins::Webhook;

const JOB_ID_CHARACTERS: usize = 26;
/// Values that a request is found by. A stranger's request must not cost much.
const MAX_TERMS: usize = 64;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// What is sealed of a request: everything as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub request: WebhookRequest,
    /// As the plugin named it.
    pub event_id: Option<String>,
    pub platform: Option<String>,
    pub hides: Hides,
}

/// What the webhook hid when the request came. It stays hidden, whatever a later manifest says, and
/// when the webhook is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hides {
    pub check: Option<WebhookCheck>,
    pub redact: Vec<DataPath>,
}

impl Hides {
    pub(super) fn of(spec: &WebhookSpec) -> Self {
        Self {
            check: spec.check.clone(),
            redact: spec.redact.clone(),
        }
    }
}

/// The request without its body.
#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    method: String,
    path: String,
    query: String,
    /// Bytes as characters: values of headers need not be text.
    headers: Vec<(String, String)>,
    ip: String,
    at: u64,
    event: Option<String>,
    platform: Option<String>,
    #[serde(default)]
    hides: Hides,
}

impl Content {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let request = &self.request;
        let latin = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect();
        let head = Head {
            name: request.name.clone(),
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: request
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), latin(value)))
                .collect(),
            ip: request.ip.clone(),
            at: request.received_at_ms,
            event: self.event_id.clone(),
            platform: self.platform.clone(),
            hides: self.hides.clone(),
        };
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut bytes = Vec::with_capacity(4 + head.len() + request.body.len());
        bytes.extend((head.len() as u32).to_be_bytes());
        bytes.extend(head);
        bytes.extend(&request.body);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_at_checked(4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        let (head, body) = rest.split_at_checked(length)?;
        let head: Head = serde_json::from_slice(head).ok()?;
        let bytes_of = |text: String| -> Option<Vec<u8>> {
            text.chars().map(|c| u8::try_from(c).ok()).collect()
        };
        let headers: Option<Fields> = head
            .headers
            .into_iter()
            .map(|(name, value)| Some((name, bytes_of(value)?)))
            .collect();
        Some(Self {
            request: WebhookRequest {
                name: head.name,
                method: head.method,
                path: head.path,
                query: head.query,
                headers: headers?,
                body: body.to_vec(),
                ip: head.ip,
                received_at_ms: head.at,
            },
            event_id: head.event,
            platform: head.platform,
            hides: head.hides,
        })
    }
}

/// Equal for repeats. `request` is what the plugin was given: a token that changes makes no new
/// event.
pub(super) fn event_key(
    keys: &EventKeys,
    webhook: &Webhook,
    request: &WebhookRequest,
    event_id: Option<&str>,
) -> EventKey {
    match event_id {
        Some(id) => key_of_id(keys, webhook.plugin.as_str(), &request.name, id),
        None => keys.of(&[
            b"hash",
            webhook.plugin.as_str().as_bytes(),
            request.name.as_bytes(),
            proven_query(&webhook.spec, request).as_bytes(),
            &request.body,
        ]),
    }
}

/// The query, unless somebody who has seen a signed body could send it with any.
fn proven_query<'a>(spec: &WebhookSpec, request: &'a WebhookRequest) -> &'a str {
    match spec.check_of(&request.method) {
        Some(WebhookCheck::Hmac(_)) => "",
        Some(WebhookCheck::Token(_)) | None => &request.query,
    }
}

/// What a request is found by: keyed hashes of the values at these paths, in equal parts.
pub(super) fn terms(
    keys: &EventKeys,
    paths: &[DataPath],
    request: &WebhookRequest,
) -> Vec<EventKey> {
    let most = MAX_TERMS / paths.len().max(1);
    let of_path = |path: &DataPath| -> Vec<EventKey> {
        let values = values(path, request).into_iter().take(most);
        values.map(|value| keys.term(path, &value)).collect()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Values at this path of a body in JSON, or in the form field or parameter of this name.
fn values(path: &DataPath, request: &WebhookRequest) -> BTreeSet<String> {
    let body = std::str::from_utf8(&request.body).unwrap_or_default();
    let pairs = |text: &str| -> Vec<String> {
        url::form_urlencoded::parse(text.as_bytes())
            .filter(|(name, value)| {
                name == path.as_str() && (1..=MAX_VALUE_BYTES).contains(&value.len())
            })
            .map(|(_, value)| value.into_owned())
            .take(MAX_VALUES)
            .collect()
    };
    let of_body = match is_form(request) {
        true => pairs(body),
        false => path.values(body),
    };
    of_body.into_iter().chain(pairs(&request.query)).collect()
}

pub(super) fn is_form(request: &WebhookRequest) -> bool {
    request.headers.iter().any(|(name, value)| {
        name == "content-type" && value.starts_with(b"application/x-www-form-urlencoded")
    })
}

/// The jobs of an event: the same for each try, others for each later processing.
pub(super) fn jobs(
    spec: &WebhookSpec,
    event: &EventKey,
    processing: u32,
    jobs: Vec<EventJob>,
    trace: &Trace,
) -> Vec<NewJob> {
    let stem = stem(event, processing);
    let job = |(place, job): (usize, EventJob)| NewJob {
        id: format!("wh-{stem}-{place}").parse().ok(),
        trace: trace.clone(),
        ..NewJob::new(spec.queue.clone(), job.name, job.data)
    };
    jobs.into_iter().enumerate().map(job).collect()
}

/// Ids of the jobs of a processing.
pub(super) fn job_ids(event: &EventKey, processing: i32, count: i32) -> Vec<String> {
    let stem = stem(event, u32::try_from(processing).unwrap_or_default());
    (0..count)
        .map(|place| format!("wh-{stem}-{place}"))
        .collect()
}

/// Whether a job came of an event, in this processing or an earlier one.
pub(super) fn has_job(event: &EventKey, processing: i32, jobs: &HashSet<String>) -> bool {
    (0..=u32::try_from(processing).unwrap_or_default()).any(|number| {
        let stem = format!("wh-{}-", stem(event, number));
        jobs.iter().any(|id| id.starts_with(&stem))
    })
}

/// The key of an event with an id that the plugin has named.
pub(super) fn key_of_id(keys: &EventKeys, plugin: &str, webhook: &str, id: &str) -> EventKey {
    keys.of(&[b"id", plugin.as_bytes(), webhook.as_bytes(), id.as_bytes()])
}

fn stem(event: &EventKey, processing: u32) -> String {
    let mut digest = Sha256::new();
    digest.update(b"job of an event");
    digest.update(event);
    digest.update(processing.to_be_bytes());
    let digest = digest.finalize();
    let character = |place: usize| {
        let (byte, bit) = (place * 5 / 8, place * 5 % 8);
        let next = digest.get(byte + 1).copied().unwrap_or_default();
        let pair = u16::from_be_bytes([digest[byte], next]);
        char::from(BASE32[usize::from((pair >> (11 - bit)) & 31)])
    };
    (0..JOB_ID_CHARACTERS).map(character).collect()
}

/// The network that is kept in clear of a sender: /24 or /48.
pub(super) fn source(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::new(address, 24).map(|net| net.trunc().to_string()),
        IpAddr::V6(address) => Ipv6Net::new(address, 48).map(|net| net.trunc().to_string()),
    }
    .unwrap_or_default()
}

/// Sortable, and unique over all processes.
pub(super) fn new_id() -> Uuid {
    Uuid::now_v7()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_read_as_it_was_received_byte_for_byte() {
        let content = Content {
            request: WebhookRequest {
                name: "status".into(),
                method: "POST".into(),
                path: "/api/v/status".into(),
                query: "a=%C3%A9".into(),
                headers: vec![("x-a".into(), (0..=255).collect())],
                body: (0..=255).rev().collect(),
                ip: "::1".into(),
                received_at_ms: 7,
            },
            event_id: Some("é".into()),
            platform: None,
            hides: Hides {
                check: None,
                redact: vec!["card.number".parse().expect("a path")],
            },
        };
        let bytes = content.to_bytes();
        assert_eq!(Content::from_bytes(&bytes), Some(content));
        assert_eq!(Content::from_bytes(&bytes[..9]), None);
    }

    #[test]
    fn ids_of_jobs_follow_from_event_and_processing_and_can_be_used() {
        let (one, other) = (stem(&[1; 16], 0), stem(&[1; 16], 1));
        assert_eq!(one.len(), 26);
        assert_ne!(one, other);
        assert_ne!(one, stem(&[2; 16], 0));
        assert!(one.bytes().all(|byte| BASE32.contains(&byte)));
        let jobs = HashSet::from([format!("wh-{one}-3")]);
        assert!(has_job(&[1; 16], 0, &jobs) && has_job(&[1; 16], 4, &jobs));
        assert!(!has_job(&[2; 16], 4, &jobs));
        assert!(
            format!("wh-{one}-0")
                .parse::<patchbay_model::JobId>()
                .is_ok()
        );
    }

    #[test]
    fn requests_are_found_by_values_of_json_forms_and_the_query_and_a_forged_one_costs_little() {
        let keys = EventKeys::from_bytes([7; 32]);
        let paths: Vec<DataPath> = ["call.id", "phone"]
            .map(|path| path.parse().expect("a path"))
            .into();
        let request = |kind: &str, query: &str, body: &str| WebhookRequest {
            name: "w".into(),
            method: "POST".into(),
            path: "/api/v/w".into(),
            query: query.into(),
            headers: vec![("content-type".into(), kind.into())],
            body: body.into(),
            ip: "::1".into(),
            received_at_ms: 1,
        };
        let wanted = [keys.term(&paths[0], "7"), keys.term(&paths[1], "+1 5")];
        let form = "application/x-www-form-urlencoded";
        for (kind, query, body) in [
            (
                "application/json",
                "",
                r#"{"call":{"id":7},"phone":["+1 5"]}"#,
            ),
            (form, "", "call.id=7&phone=%2B1+5&phone="),
            (
                "application/json",
                "phone=%2B1%205",
                r#"{"call":[{"id":"7"}]}"#,
            ),
            ("text/plain", "call.id=7&phone=%2B1%205", "phone=9"),
        ] {
            let found = terms(&keys, &paths, &request(kind, query, body));
            assert_eq!(found, wanted, "{kind} {query} {body}");
        }
        assert!(terms(&keys, &[], &request(form, "", "phone=1")).is_empty());
        let many: Vec<String> = (0..1_000).map(|n| format!("phone={n}")).collect();
        let found = terms(
            &keys,
            &paths,
            &request(form, &many.join("&"), &many.join("&")),
        );
        assert_eq!(found.len(), MAX_TERMS / 2);
        let other = keys.term(&paths[0], "+1 5");
        assert_ne!(wanted[1], other, "a value counts at its path only");
    }

    #[test]
    fn a_signed_body_is_one_event_whatever_query_comes_with_it() {
        let spec = |check: serde_json::Value| -> WebhookSpec {
            let spec = serde_json::json!({
                "name": "w", "path": "/api/v/w", "queue": "q", "methods": ["POST", "GET"],
                "handshake_methods": ["GET"], "check": check,
            });
            serde_json::from_value(spec).expect("a webhook")
        };
        let hmac = spec(serde_json::json!({
            "hmac": { "header": "x-s", "hash": "sha256", "encoding": "hex", "secret": "S" }
        }));
        let token =
            spec(serde_json::json!({ "token": { "in": "header", "name": "x-t", "secret": "T" } }));
        let request = |method: &str| WebhookRequest {
            name: "w".into(),
            method: method.into(),
            path: "/api/v/w".into(),
            query: "n=1".into(),
            headers: Vec::new(),
            body: b"{}".to_vec(),
            ip: "::1".into(),
            received_at_ms: 1,
        };
        assert_eq!(proven_query(&hmac, &request("POST")), "");
        assert_eq!(proven_query(&hmac, &request("GET")), "n=1", "a challenge");
        assert_eq!(proven_query(&token, &request("POST")), "n=1");
    }

    #[test]
    fn only_the_network_of_a_sender_is_kept_in_clear() {
        for (address, network) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ] {
            assert_eq!(source(address.parse().expect("an address")), network);
        }
    }
}
