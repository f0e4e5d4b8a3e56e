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

fn needles(secrets: &[SecretValue]) -> BTreeSet<Vec<u8>> {
    secrets
        .iter()
        .flat_map(|secret| spellings(secret.expose()))
        .collect()
}

pub(crate) fn repeats<'a>(
    texts: impl IntoIterator<Item = &'a [u8]>,
    secrets: &[SecretValue],
) -> bool {
    let needles = needles(secrets);
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

/// The text repeats a credential.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Repeats;

/// Finds what [`repeats`] finds in a text that comes in pieces. The end of what has come is held
/// back, as far as it could be the beginning of a credential.
pub(crate) struct Scanner {
    searcher: AhoCorasick,
    /// Of the longest spelling, less one.
    overlap: usize,
    /// The text as it is, and percent-decoded once, twice, three times.
    layers: [Layer; MAX_DECODINGS + 1],
    held: Vec<u8>,
}

#[derive(Default)]
struct Layer {
    /// The end of the text so far, in which a spelling may have begun.
    tail: Vec<u8>,
    /// An incomplete `%…` at the end, which the next layer does not have yet.
    pending: Vec<u8>,
    /// Before the first `%`, the next layer's text is the same.
    is_encoded: bool,
}

/// A byte that is percent-encoded, with its hex digits encoded again, and once more.
const MAX_EXPANSION: usize = 27;

impl Scanner {
    /// Nothing where there is nothing to find.
    pub(crate) fn new(secrets: &[SecretValue]) -> Result<Option<Self>, Repeats> {
        let needles = needles(secrets);
        let Some(longest) = needles.iter().map(Vec::len).max() else {
            return Ok(None);
        };
        // Fails only for gigabytes of needles.
        let searcher = AhoCorasick::new(needles).map_err(|_| Repeats)?;
        Ok(Some(Self {
            searcher,
            overlap: longest - 1,
            layers: Default::default(),
            held: Vec::new(),
        }))
    }

    /// Takes the next piece, and returns what may be passed on.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Vec<u8>, Repeats> {
        self.search(piece, false)?;
        self.held.extend_from_slice(piece);
        let kept = self.overlap.saturating_mul(MAX_EXPANSION);
        let passed = self.held.len().saturating_sub(kept);
        Ok(self.held.drain(..passed).collect())
    }

    /// After the last piece.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, Repeats> {
        self.search(&[], true)?;
        Ok(self.held)
    }

    fn search(&mut self, piece: &[u8], is_last: bool) -> Result<(), Repeats> {
        let mut text = Cow::Borrowed(piece);
        for place in 0..self.layers.len() {
            let layer = &mut self.layers[place];
            let before = layer.tail.len();
            layer.tail.extend_from_slice(&text);
            if self.searcher.is_match(&layer.tail) {
                return Err(Repeats);
            }
            if place == MAX_DECODINGS {
                layer.keep(self.overlap);
                break;
            }
            if !layer.is_encoded && !text.contains(&b'%') {
                layer.keep(self.overlap);
                break;
            }
            if !layer.is_encoded {
                layer.is_encoded = true;
                let same = layer.tail[..before].to_vec();
                self.layers[place + 1].tail = same;
            }
            let layer = &mut self.layers[place];
            layer.keep(self.overlap);
            text = layer.decoded(&text, is_last).into();
        }
        Ok(())
    }
}

impl Layer {
    fn keep(&mut self, bytes: usize) {
        let surplus = self.tail.len().saturating_sub(bytes);
        self.tail.drain(..surplus);
    }

    /// As `percent_encoding` decodes.
    fn decoded(&mut self, text: &[u8], is_last: bool) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.pending);
        input.extend_from_slice(text);
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let mut decoded = Vec::with_capacity(input.len());
        let mut rest = &input[..];
        while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
            decoded.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            if rest.len() < 3 && !is_last {
                self.pending = rest.to_vec();
                return decoded;
            }
            let pair = rest
                .get(1..3)
                .and_then(|pair| Some((digit(pair[0])?, digit(pair[1])?)));
            match pair {
                Some((high, low)) => {
                    decoded.push(high << 4 | low);
                    rest = &rest[3..];
                }
                None => {
                    decoded.push(b'%');
                    rest = &rest[1..];
                }
            }
        }
        decoded.extend_from_slice(rest);
        decoded
    }
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

    /// Whether a text that comes in pieces is let through, and that what is passed on is the text.
    fn passes(text: &[u8], sizes: &[usize]) -> bool {
        let secrets = [SecretValue::new(SECRET.into())];
        let mut scanner = Scanner::new(&secrets).expect("small").expect("a secret");
        let (mut passed, mut rest, mut sizes) = (Vec::new(), text, sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min(*sizes.next().expect("a size")));
            match scanner.push(piece) {
                Ok(part) => passed.extend(part),
                Err(Repeats) => return false,
            }
            rest = later;
        }
        match scanner.finish() {
            Ok(part) => passed.extend(part),
            Err(Repeats) => return false,
        }
        assert_eq!(passed, text);
        true
    }

    #[test]
    fn in_pieces_it_finds_what_it_finds_in_the_whole_wherever_the_pieces_end() {
        let around = "x".repeat(40);
        let every = |text: &str| {
            text.bytes()
                .map(|byte| format!("%{byte:02x}"))
                .collect::<String>()
        };
        let spelled = [
            SECRET.to_owned(),
            percent(SECRET, true),
            percent(&percent(SECRET, false), false),
            every(SECRET),
            every(&every(SECRET)),
            every(&every(&every(SECRET))),
            STANDARD_NO_PAD.encode(format!("xy{SECRET}z")),
            percent(&STANDARD_NO_PAD.encode(format!("user:{SECRET}")), false),
        ];
        for text in spelled {
            for sizes in [&[1][..], &[2], &[3], &[7, 1], &[64], &[10_000]] {
                assert!(found(format!("{around}{text}{around}")), "{text}");
                for text in [
                    format!("{around}{text}{around}"),
                    format!("%%4{text}%"),
                    text.clone(),
                ] {
                    assert!(!passes(text.as_bytes(), sizes), "{text} in {sizes:?}");
                }
            }
        }
        let binary: Vec<u8> = (0..200_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for text in [&b"100% of %4 and %zz%"[..], b"", &binary] {
            for sizes in [&[1][..], &[5, 3], &[8_192]] {
                assert!(passes(text, sizes));
            }
        }
    }

    #[test]
    fn what_could_be_the_beginning_of_a_secret_is_not_passed_on_before_its_end_is_known() {
        let secrets = [SecretValue::new(SECRET.into())];
        let mut scanner = Scanner::new(&secrets).expect("small").expect("a secret");
        let (begin, end) = SECRET.split_at(8);
        let before = "y".repeat(100_000);
        let passed = scanner
            .push(format!("{before}{begin}").as_bytes())
            .expect("no secret yet");
        assert!(before.as_bytes().starts_with(&passed) && passed.len() > 90_000);
        assert_eq!(scanner.push(end.as_bytes()), Err(Repeats));
        let nothing = Scanner::new(&[SecretValue::new("short".into())]).expect("small");
        assert!(nothing.is_none());
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
