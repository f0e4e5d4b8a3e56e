//! `[[webhooks]]`: requests from vendors that the plugin verifies, and that become its jobs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::webhook_check::{TokenCheck, TokenPlace, WebhookCheck};
use super::{HttpMethod, Manifest, ManifestError, RoutePath, invalid};
use crate::DataPath;
use crate::id::QueueName;

const MAX_WEBHOOKS: usize = 20;
const MAX_NAME: usize = 64;
const MAX_BODY_BYTES: u64 = 4 << 20;
const DEFAULT_BODY_BYTES: u64 = 256 << 10;
const DEFAULT_STATUS: u16 = 200;
const MAX_CONTENT_TYPES: usize = 8;
const DEFAULT_ACK_MS: u64 = 3_000;
const DEFAULT_DAYS: u32 = 30;
const MAX_RATE: u32 = 20_000;
const MAX_REDACTED: usize = 64;
const MAX_SEARCHABLE: usize = 8;
/// A path that is given to a vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSpec {
    /// The name that `verify` gets and operators see.
    pub name: String,
    /// Under `/api/`, without parameters.
    pub path: RoutePath,
    /// Default POST.
    #[serde(default = "post", skip_serializing_if = "is_post")]
    pub methods: Vec<HttpMethod>,
    /// Methods by which the vendor only tries the URL; default none. Never kept unjudged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handshake_methods: Vec<HandshakeMethod>,
    /// Default 256 KiB.
    #[serde(
        default = "default_body_bytes",
        skip_serializing_if = "is_default_body_bytes"
    )]
    pub max_body_bytes: u64,
    /// Default 200.
    #[serde(default = "default_status", skip_serializing_if = "is_default_status")]
    pub success_status: u16,
    /// One of the plugin's own queues.
    pub queue: QueueName,
    /// What the host compares before the plugin sees the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<WebhookCheck>,
    /// Media types that are taken, in lower case and without parameters; default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_types: Vec<String>,
    /// After this time, the vendor takes the request for failed; default 3 s.
    #[serde(default = "default_ack_ms", skip_serializing_if = "is_default_ack_ms")]
    pub ack_ms: u64,
    /// What is answered while the plugin cannot judge requests.
    #[serde(default, skip_serializing_if = "is_accept")]
    pub when_unavailable: WhenUnavailable,
    /// How many requests a process takes; default 1000 in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<WebhookRate>,
    /// How many requests a process takes from one network; default 200 in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_rate: Option<WebhookRate>,
    /// For how long the ids of events are remembered; default 30 days.
    #[serde(default = "default_days", skip_serializing_if = "is_default_days")]
    pub dedupe_days: u32,
    /// For how long the content of requests is kept; default 30 days.
    #[serde(default = "default_days", skip_serializing_if = "is_default_days")]
    pub retention_days: u32,
    /// Parts of JSON and form bodies, and of the query, whose values requests are found by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searchable: Vec<DataPath>,
    /// Parts of JSON and form bodies that are never shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<DataPath>,
    /// An alert tells when no request was accepted for so long; default: for longer than is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_after_s: Option<u64>,
}

/// A method by which a vendor tries a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HandshakeMethod {
    /// Also one of the webhook's methods.
    Get,
    /// Answered without content.
    Head,
}

/// What is answered while the plugin cannot judge requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnavailable {
    /// Success: the request is kept, and judged later.
    #[default]
    Accept,
    /// 503: the vendor sends it again.
    Refuse,
}

/// Requests in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookRate {
    pub max: u32,
    pub per_ms: u64,
}

fn default_ack_ms() -> u64 {
    DEFAULT_ACK_MS
}

fn is_default_ack_ms(ms: &u64) -> bool {
    *ms == DEFAULT_ACK_MS
}

fn is_accept(when: &WhenUnavailable) -> bool {
    *when == WhenUnavailable::Accept
}

fn default_days() -> u32 {
    DEFAULT_DAYS
}

fn is_default_days(days: &u32) -> bool {
    *days == DEFAULT_DAYS
}

fn post() -> Vec<HttpMethod> {
    vec![HttpMethod::Post]
}

fn is_post(methods: &Vec<HttpMethod>) -> bool {
    *methods == post()
}

fn default_body_bytes() -> u64 {
    DEFAULT_BODY_BYTES
}

fn is_default_body_bytes(bytes: &u64) -> bool {
    *bytes == DEFAULT_BODY_BYTES
}

fn default_status() -> u16 {
    DEFAULT_STATUS
}

fn is_default_status(status: &u16) -> bool {
    *status == DEFAULT_STATUS
}

impl Manifest {
    pub(super) fn check_webhooks(&self) -> Result<(), ManifestError> {
        if self.webhooks.len() > MAX_WEBHOOKS {
            return Err(invalid(
                "webhooks",
                format!(
                    "{} webhooks; the limit is {MAX_WEBHOOKS}",
                    self.webhooks.len()
                ),
            ));
        }
        let mut names = BTreeSet::new();
        for (i, webhook) in self.webhooks.iter().enumerate() {
            let wrong = |(field, reason)| invalid(format!("webhooks[{i}].{field}"), reason);
            webhook.check().map_err(wrong)?;
            if !names.insert(&webhook.name) {
                return Err(wrong((
                    "name",
                    format!("{:?} is named twice", webhook.name),
                )));
            }
            if self.queue(&webhook.queue).is_none() {
                let reason = format!(
                    "{} is not one of the plugin's own queues: add it to [[queues]]",
                    webhook.queue
                );
                return Err(wrong(("queue", reason)));
            }
            if let Some(secret) = webhook.check.as_ref().map(WebhookCheck::secret)
                && !self.secrets.iter().any(|known| known.name == secret)
            {
                let reason = format!(
                    "the secret {secret} is not one of the plugin's: add it to [[secrets]]"
                );
                return Err(wrong(("check", reason)));
            }
        }
        Ok(())
    }
}

impl WebhookSpec {
    /// The error names the field that is wrong, and what to write.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let is_name = (1..=MAX_NAME).contains(&self.name.len())
            && self
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_name {
            return Err((
                "name",
                format!("must be 1 to {MAX_NAME} letters, digits and - _ ."),
            ));
        }
        if let Some(name) = self.path.parameters().next() {
            let reason = format!(
                "has the parameter {{{name}}}: a vendor is given one URL, so write a path without any"
            );
            return Err(("path", reason));
        }
        if self.methods.is_empty() {
            return Err((
                "methods",
                "name at least one, or leave it out for POST".into(),
            ));
        }
        if self.methods.contains(&HttpMethod::Delete) {
            return Err((
                "methods",
                "a webhook takes GET, POST, PUT and PATCH, not DELETE".into(),
            ));
        }
        let mut methods = BTreeSet::new();
        if let Some(twice) = self.methods.iter().find(|method| !methods.insert(**method)) {
            return Err(("methods", format!("{} is named twice", twice.as_str())));
        }
        let mut handshakes = BTreeSet::new();
        let mut tried = self.handshake_methods.iter();
        if let Some(twice) = tried.find(|method| !handshakes.insert(**method)) {
            let reason = format!("{} is named twice", twice.as_str());
            return Err(("handshake_methods", reason));
        }
        if handshakes.contains(&HandshakeMethod::Get) && !self.methods.contains(&HttpMethod::Get) {
            let reason = "GET can only be listed here if methods lists it, too";
            return Err(("handshake_methods", reason.into()));
        }
        if !(1..=MAX_BODY_BYTES).contains(&self.max_body_bytes) {
            return Err((
                "max_body_bytes",
                format!(
                    "must be from 1 to {MAX_BODY_BYTES}, not {}",
                    self.max_body_bytes
                ),
            ));
        }
        if !(200..=299).contains(&self.success_status) {
            return Err((
                "success_status",
                format!("must be from 200 to 299, not {}", self.success_status),
            ));
        }
        if let Some(check) = &self.check {
            check.check().map_err(|reason| ("check", reason))?;
        }
        self.check_content_types()
            .map_err(|reason| ("content_types", reason))?;
        in_range("ack_ms", self.ack_ms, 500, 30_000)?;
        check_rate("rate", self.rate)?;
        check_rate("source_rate", self.source_rate)?;
        in_range("dedupe_days", self.dedupe_days.into(), 1, 400)?;
        in_range("retention_days", self.retention_days.into(), 1, 90)?;
        if self.redact.len() > MAX_REDACTED {
            let reason = format!("{} paths; the limit is {MAX_REDACTED}", self.redact.len());
            return Err(("redact", reason));
        }
        self.check_searchable()
            .map_err(|reason| ("searchable", reason))?;
        if let Some(seconds) = self.silent_after_s {
            in_range("silent_after_s", seconds, 60, 30 * 86_400)?;
        }
        Ok(())
    }

    fn check_searchable(&self) -> Result<(), String> {
        let count = self.searchable.len();
        if count > MAX_SEARCHABLE {
            return Err(format!("{count} paths; the limit is {MAX_SEARCHABLE}"));
        }
        let mut paths = BTreeSet::new();
        if let Some(twice) = self.searchable.iter().find(|path| !paths.insert(*path)) {
            return Err(format!("{twice} is named twice"));
        }
        match &self.check {
            Some(WebhookCheck::Token(TokenCheck {
                place: TokenPlace::Query,
                name,
                ..
            })) if paths.iter().any(|path| path.as_str() == name) => Err(format!(
                "{name} is the parameter of the token, which nobody may look for"
            )),
            _ => Ok(()),
        }
    }

    fn check_content_types(&self) -> Result<(), String> {
        if self.content_types.len() > MAX_CONTENT_TYPES {
            return Err(format!(
                "{} media types; the limit is {MAX_CONTENT_TYPES}",
                self.content_types.len()
            ));
        }
        let is_token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-+.".contains(&byte)
                })
        };
        let is_type = |text: &&String| {
            text.split_once('/')
                .is_some_and(|(kind, name)| is_token(kind) && is_token(name))
        };
        match self.content_types.iter().find(|text| !is_type(text)) {
            Some(odd) => Err(format!(
                "{odd:?} is not a media type, such as application/json, in lower case and without parameters"
            )),
            None => Ok(()),
        }
    }

    /// The methods of all requests that it takes, handshakes included.
    pub fn method_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let head = self.takes_head().then_some(HandshakeMethod::Head.as_str());
        let methods = self.methods.iter();
        methods.map(|method| method.as_str()).chain(head)
    }

    /// Whether a vendor may try it with HEAD.
    pub(super) fn takes_head(&self) -> bool {
        self.handshake_methods.contains(&HandshakeMethod::Head)
    }

    /// Whether a request of this method is a handshake.
    pub fn is_handshake(&self, method: &str) -> bool {
        let mut handshakes = self.handshake_methods.iter();
        handshakes.any(|handshake| handshake.as_str() == method)
    }

    /// The check of a request of this method. A handshake has no body that could be signed.
    pub fn check_of(&self, method: &str) -> Option<&WebhookCheck> {
        let is_signed = matches!(self.check, Some(WebhookCheck::Hmac(_)));
        self.check
            .as_ref()
            .filter(|_| !(is_signed && self.is_handshake(method)))
    }

    /// What a process takes.
    pub fn rate(&self) -> WebhookRate {
        self.rate.unwrap_or(WebhookRate {
            max: 1_000,
            per_ms: 1_000,
        })
    }

    /// What a process takes of one network.
    pub fn source_rate(&self) -> WebhookRate {
        self.source_rate.unwrap_or(WebhookRate {
            max: 200,
            per_ms: 1_000,
        })
    }
}

impl HandshakeMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

fn in_range(
    field: &'static str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<(), (&'static str, String)> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err((
            field,
            format!("must be from {least} to {most}, not {value}"),
        )),
    }
}

fn check_rate(
    field: &'static str,
    rate: Option<WebhookRate>,
) -> Result<(), (&'static str, String)> {
    let Some(WebhookRate { max, per_ms }) = rate else {
        return Ok(());
    };
    if !(1..=MAX_RATE).contains(&max) {
        return Err((
            field,
            format!("max: must be from 1 to {MAX_RATE}, not {max}"),
        ));
    }
    if !(1_000..=60_000).contains(&per_ms) {
        return Err((
            field,
            format!("per_ms: must be from 1000 to 60000, not {per_ms}"),
        ));
    }
    Ok(())
}
