//! Finds credentials in what a service answered: a service that echoes requests must not give a
//! guest the credentials that the host added.
//!
//! Headers and body, or the mail server's words, are searched as they are and percent-decoded
//! (repeatedly: a redirect to a login page carries the URL that it came from). Each secret is
//! searched raw, JSON-escaped and in base64: of the raw and of the URL-encoded secret, in both
//! alphabets, at all three alignments (so also inside a longer encoded text). This finds echoes,
//! not a server that conspires with the guest: a server that reverses or encrypts the secret is not
//! found, which is why a rule names the servers that get a credential.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::secrets::SecretValue;
use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use url::form_urlencoded;

/// Shorter secrets are in many texts, and protect nothing anyway.
const MIN_BYTES: usize = 6;
/// How often a text is percent-decoded: enough for a URL within a URL within a URL.
const MAX_DECODINGS: usize = 3;

pub(crate) fn repeats<'a>(
    texts: impl IntoIterator<Item = &'a [u8]>,
    secrets: &[SecretValue],
) -> bool {
    let needles: BTreeSet<Vec<u8>> = secrets
        .iter()
        .flat_map(|secret| spellings(secret.expose()))
        .collect();
    if needles.is_empty() {
        return false;
    }
    // Fails only for gigabytes of needles.
    let Ok(searcher) = AhoCorasick::new(needles) else {
        return true;
    };
    let found = |text: &[u8]| {
        let mut text = Cow::Borrowed(text);
        for _ in 0..MAX_DECODINGS {
            if searcher.is_match(text.as_ref()) || !text.contains(&b'%') {
                break;
            }
            text = percent_encoding::percent_decode(&text)
                .collect::<Vec<u8>>()
                .into();
        }
        searcher.is_match(text.as_ref())
    };
    texts.into_iter().any(found)
}

fn spellings(secret: &str) -> Vec<Vec<u8>> {
    if secret.len() < MIN_BYTES {
        return Vec::new();
    }
    let json = serde_json::to_string(secret).unwrap_or_default();
    let json = json
        .strip_prefix('"')
        .and_then(|json| json.strip_suffix('"'))
        .unwrap_or_default()
        .to_owned();
    let mut spellings: Vec<Vec<u8>> = [
        secret.to_owned(),
        json.replace('/', "\\/"),
        json,
        secret.replace(' ', "+"),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    let in_url: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    for (text, before) in [secret, &in_url]
        .into_iter()
        .flat_map(|text| (0..3).map(move |before| (text, before)))
    {
        spellings.push(within_base64(&STANDARD_NO_PAD, text, before));
        spellings.push(within_base64(&URL_SAFE_NO_PAD, text, before));
    }
    spellings.retain(|spelling| spelling.len() >= MIN_BYTES);
    spellings
}

/// The base64 characters that depend only on the secret when `before` bytes (modulo 3) precede it.
fn within_base64(alphabet: &impl Engine, secret: &str, before: usize) -> Vec<u8> {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(secret.as_bytes());
    let encoded = alphabet.encode(&bytes).into_bytes();
    // 8 bits per byte before, 6 per character, rounded up; without an incomplete last character.
    let first = (8 * before).div_ceil(6);
    let last = encoded.len() - usize::from(!bytes.len().is_multiple_of(3));
    encoded[first..last].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cr/t+\"é key?>~";

    fn found(body: impl AsRef<[u8]>) -> bool {
        repeats([body.as_ref()], &[SecretValue::new(SECRET.into())])
    }

    fn percent(text: &str, lower: bool) -> String {
        let encode = |byte: u8| {
            if lower {
                format!("%{byte:02x}")
            } else {
                format!("%{byte:02X}")
            }
        };
        let plain = |byte: u8| {
            byte.is_ascii_alphanumeric()
                .then(|| char::from(byte).to_string())
        };
        text.bytes()
            .map(|byte| plain(byte).unwrap_or_else(|| encode(byte)))
            .collect()
    }

    #[test]
    fn a_secret_is_found_raw_and_in_every_common_encoding() {
        assert!(found(SECRET));
        assert!(found(format!("…{SECRET}…")));
        assert!(found(serde_json::json!({ "key": SECRET }).to_string()));
        assert!(found(
            serde_json::json!({ "key": SECRET })
                .to_string()
                .replace('/', "\\/")
        ));
        assert!(found(format!("q={}", percent(SECRET, false))));
        assert!(found(format!("q={}", percent(SECRET, true))));
        assert!(found(percent(SECRET, false).replace("%20", "+")));
        assert!(
            found(
                SECRET
                    .bytes()
                    .map(|byte| format!("%{byte:02x}"))
                    .collect::<String>()
            ),
            "even letters"
        );
    }

    #[test]
    fn a_secret_is_found_in_base64_wherever_it_begins_in_the_encoded_text() {
        for before in ["", "x", "xy", "xyz", "user:"] {
            for after in ["", "1", "22", "333"] {
                let text = format!("{before}{SECRET}{after}");
                for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert!(found(format!("<{encoded}>")), "{before} {after}");
                    assert!(
                        found(percent(&encoded, false)),
                        "{before} {after}, and percent-encoded"
                    );
                }
            }
        }
    }

    #[test]
    fn a_secret_in_a_url_is_found_when_the_url_is_encoded_again() {
        let url = format!(
            "https://example.com/?key={}",
            form_urlencoded::byte_serialize(SECRET.as_bytes()).collect::<String>()
        );
        let twice = percent(&url, false);
        assert!(found(&twice) && found(percent(&twice, true)));
        assert!(found(STANDARD_NO_PAD.encode(&url)) && found(URL_SAFE_NO_PAD.encode(&url)));
    }

    #[test]
    fn other_texts_and_short_secrets_are_no_echo() {
        assert!(!found("an ordinary answer with 100% of what was asked for"));
        assert!(!found(&SECRET[1..]));
        assert!(!found(STANDARD_NO_PAD.encode(&SECRET[..8])));
        assert!(!repeats(
            [&b"admin"[..]],
            &[SecretValue::new("admin".into())]
        ));
        assert!(!repeats(
            [&b"admin"[..]],
            &[SecretValue::new(String::new())]
        ));
    }

    #[test]
    fn every_text_is_searched() {
        let last = format!("/x?key={}", percent(SECRET, false));
        assert!(repeats(
            [&b"first"[..], last.as_bytes()],
            &[SecretValue::new(SECRET.into())]
        ));
    }
}
