//! Needles: pieces of planted values, in every encoding that a program could have given them.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rand::distr::{Alphanumeric, SampleString};

/// A planted value, and the pieces to search for: finding one piece is a leak.
#[derive(Clone)]
pub struct Planted {
    pub name: &'static str,
    pub value: String,
    pieces: Vec<Vec<u8>>,
}

impl Planted {
    /// Two random pieces with `between` in the middle. The pieces are letters and digits, which
    /// look the same in URLs, JSON and HTML; the text between them does not.
    pub fn new(name: &'static str, between: &str) -> Self {
        let pieces = [(); 2].map(|()| Alphanumeric.sample_string(&mut rand::rng(), 20));
        let value = pieces.join(between);
        Self {
            name,
            value,
            pieces: pieces.map(String::into_bytes).to_vec(),
        }
    }

    /// A given value: text of letters and digits, or bytes in hexadecimal digits.
    pub fn given(name: &'static str, value: &str) -> Self {
        let mut pieces = vec![value.as_bytes().to_vec()];
        pieces.extend(hex::decode(value));
        Self {
            name,
            value: value.to_owned(),
            pieces,
        }
    }

    pub fn spellings(&self) -> BTreeSet<Vec<u8>> {
        self.pieces
            .iter()
            .flat_map(|piece| spellings(piece))
            .collect()
    }
}

fn spellings(piece: &[u8]) -> Vec<Vec<u8>> {
    let each =
        |format: fn(&u8) -> String| piece.iter().map(format).collect::<String>().into_bytes();
    let mut spellings = vec![
        piece.to_vec(),
        each(|byte| format!("{byte:02x}")),
        each(|byte| format!("{byte:02X}")),
        each(|byte| format!("%{byte:02x}")),
        each(|byte| format!("%{byte:02X}")),
        // As Rust and JSON print lists of bytes.
        piece
            .iter()
            .map(u8::to_string)
            .collect::<Vec<_>>()
            .join(", ")
            .into_bytes(),
        piece
            .iter()
            .map(u8::to_string)
            .collect::<Vec<_>>()
            .join(",")
            .into_bytes(),
    ];
    for before in 0..3 {
        spellings.push(within_base64(&STANDARD_NO_PAD, piece, before));
        spellings.push(within_base64(&URL_SAFE_NO_PAD, piece, before));
    }
    spellings
}

/// The base64 characters that depend only on the piece, when `before` bytes (modulo 3) precede it.
fn within_base64(alphabet: &impl Engine, piece: &[u8], before: usize) -> Vec<u8> {
    let bytes = [&[0; 2][..before], piece].concat();
    let encoded = alphabet.encode(&bytes).into_bytes();
    let last = encoded.len() - usize::from(!bytes.len().is_multiple_of(3));
    encoded[(8 * before).div_ceil(6)..last].to_vec()
}

/// All needles, ready for a search.
pub struct Needles {
    names: Vec<&'static str>,
    searcher: AhoCorasick,
}

impl Needles {
    pub fn new(planted: &[Planted]) -> anyhow::Result<Self> {
        let (names, spellings): (Vec<_>, Vec<_>) = planted
            .iter()
            .flat_map(|one| {
                one.spellings()
                    .into_iter()
                    .map(|spelling| (one.name, spelling))
            })
            .unzip();
        // A DFA is fast to search and slow to build; the texts are long.
        let searcher = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .build(&spellings)?;
        Ok(Self { names, searcher })
    }

    /// The names of the needles in the text, each with the text around it.
    pub fn found_in(&self, text: &[u8]) -> Vec<(&'static str, String)> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for hit in self.searcher.find_iter(text) {
            let name = self.names[hit.pattern().as_usize()];
            if found.iter().all(|(known, _)| *known != name) {
                let around = hit.start().saturating_sub(120)..(hit.end() + 60).min(text.len());
                found.push((name, String::from_utf8_lossy(&text[around]).into_owned()));
            }
        }
        found
    }
}

#[test]
fn a_needle_is_found_in_every_spelling() -> anyhow::Result<()> {
    let planted = Planted::new("it", "+/=%& é");
    let needles = Needles::new(std::slice::from_ref(&planted))?;
    let form = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let value = planted.value.as_str();
    for text in [
        value.to_owned(),
        form(value),
        serde_json::json!({ "key": value }).to_string(),
        format!("{value:?}"),
        format!("{:?}", value.as_bytes()),
        serde_json::json!(value.as_bytes()).to_string(),
        hex::encode(value),
        hex::encode_upper(value),
        value.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        value[..20].to_owned(),
        value[value.len() - 20..].to_owned(),
    ] {
        assert_eq!(
            needles.found_in(format!("…{text}…").as_bytes()).len(),
            1,
            "{text}"
        );
    }
    for before in ["", "x", "xy", "xyz", "user:"] {
        let text = format!("{before}{value}after");
        for text in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            assert_eq!(
                needles.found_in(format!("<{text}>").as_bytes()).len(),
                1,
                "{text}"
            );
        }
    }
    assert!(needles.found_in(&value.as_bytes()[1..19]).is_empty());
    assert!(
        needles.found_in(value.to_uppercase().as_bytes()).is_empty(),
        "another value, even if it looks alike"
    );
    Ok(())
}
