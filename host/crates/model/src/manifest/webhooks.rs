//! `[[webhooks]]`: requests from vendors that the plugin verifies, and that become its jobs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

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
const MAX_PARAMETER: usize = 64;
const MAX_PREFIX: usize = 32;
const MAX_REDACTED: usize = 64;
/// Headers that say who sends a request, or how long it is, are no place for a vendor's token.
const NOT_FOR_TOKENS: [&str; 6] = [
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "transfer-encoding",
];

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
    /// Those of the methods by which the vendor only tries the URL; default none. Never kept unjudged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handshake_methods: Vec<HttpMethod>,
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
    /// Parts of JSON and form bodies that are never shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<DataPath>,
    /// An alert tells when no request was accepted for so long; default: for longer than is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_after_s: Option<u64>,
}

/// What the host compares, in constant time, before the plugin sees a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookCheck {
    /// The request has the value of a secret.
    Token(TokenCheck),
    /// The request has an HMAC over its raw body, by a secret.
    Hmac(HmacCheck),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCheck {
    #[serde(rename = "in")]
    pub place: TokenPlace,
    /// Of the query parameter or header.
    pub name: String,
    /// One of the manifest's secrets.
    pub secret: String,
    /// A query parameter. The token is then not the secret, but the hex HMAC-SHA256 of that
    /// parameter's value by the secret: a plugin can give each of its URLs a token of its own with
    /// `sign-hmac`, and never holds the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signs: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenPlace {
    Query,
    Header,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacCheck {
    /// The header that has the signature, in lower case.
    pub header: String,
    /// What stands before it, such as `sha256=`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    pub hash: HmacHash,
    pub encoding: HmacEncoding,
    /// One of the manifest's secrets.
    pub secret: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HmacHash {
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HmacEncoding {
    Hex,
    Base64,
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
        let fits = |of: &HttpMethod| *of == HttpMethod::Get && self.methods.contains(of);
        if !self.handshake_methods.iter().all(fits) {
            let reason = "only GET can be listed here, and methods must list GET, too";
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
        if let Some(seconds) = self.silent_after_s {
            in_range("silent_after_s", seconds, 60, 30 * 86_400)?;
        }
        Ok(())
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

    /// Whether a request of this method is a handshake.
    pub fn is_handshake(&self, method: &str) -> bool {
        method == HttpMethod::Get.as_str() && !self.handshake_methods.is_empty()
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

impl WebhookCheck {
    /// The secret that it compares with.
    pub fn secret(&self) -> &str {
        match self {
            Self::Token(token) => &token.secret,
            Self::Hmac(hmac) => &hmac.secret,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Token(TokenCheck {
                signs: Some(signed),
                name,
                place,
                ..
            }) if *place != TokenPlace::Query || signed == name => Err(
                "signs: names another query parameter than that of the token, with in = \"query\""
                    .into(),
            ),
            Self::Token(TokenCheck {
                place: TokenPlace::Query,
                name,
                signs,
                ..
            }) => {
                check_parameter("name", name)?;
                signs
                    .iter()
                    .try_for_each(|signed| check_parameter("signs", signed))
            }
            Self::Token(TokenCheck { name, .. }) if NOT_FOR_TOKENS.contains(&name.as_str()) => {
                Err(format!("name: {name} cannot hold a token"))
            }
            Self::Token(TokenCheck { name, .. }) => check_header("name", name),
            Self::Hmac(hmac) => {
                check_header("header", &hmac.header)?;
                let printable = hmac.prefix.bytes().all(|byte| (0x21..0x7f).contains(&byte));
                match printable && hmac.prefix.len() <= MAX_PREFIX {
                    true => Ok(()),
                    false => Err(format!(
                        "prefix: must be at most {MAX_PREFIX} printable characters without spaces"
                    )),
                }
            }
        }
    }
}

fn check_parameter(field: &str, name: &str) -> Result<(), String> {
    let is_name = (1..=MAX_PARAMETER).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    match is_name {
        true => Ok(()),
        false => Err(format!(
            "{field}: must be 1 to {MAX_PARAMETER} letters, digits and - _ ."
        )),
    }
}

fn check_header(field: &str, name: &str) -> Result<(), String> {
    let is_name = (1..=MAX_PARAMETER).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
        });
    match is_name {
        true => Ok(()),
        false => Err(format!(
            "{field}: must be 1 to {MAX_PARAMETER} lower-case letters, digits, '-' and '_'"
        )),
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
