//! `check` of `[[webhooks]]`: what the host itself compares before the plugin sees a request.

use serde::{Deserialize, Serialize};

const MAX_PARAMETER: usize = 64;
const MAX_PREFIX: usize = 32;
/// Headers that say who sends a request, or how long it is, are no place for a vendor's token.
const NOT_FOR_TOKENS: [&str; 6] = [
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "transfer-encoding",
];

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

impl WebhookCheck {
    /// The secret that it compares with.
    pub fn secret(&self) -> &str {
        match self {
            Self::Token(token) => &token.secret,
            Self::Hmac(hmac) => &hmac.secret,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
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
