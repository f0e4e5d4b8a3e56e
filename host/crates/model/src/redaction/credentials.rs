//! Texts that are credentials by their form, whatever they are called.

use std::borrow::Cow;

use super::REDACTED;

/// How credentials begin: a JSON Web Token (base64 of `{"`), a vendor's key, an operator's token.
const BEGINNINGS: [&str; 4] = ["eyJ", "vk_live_", "vk_test_", "pbt_"];
/// Shorter ones are words that only begin alike.
const LEAST_BYTES: usize = 12;

/// A text without credentials.
pub(super) fn without_credentials(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let (mut end, mut at) = (0, 0);
    while let Some(start) = next(text, at) {
        let length = text[start..]
            .find(|c| !is_part(c))
            .unwrap_or(text.len() - start);
        // The end of a sentence is no part of it.
        let length = text[start..start + length].trim_end_matches('.').len();
        at = start + length.max(1);
        if length >= LEAST_BYTES {
            shown.push_str(&text[end..start]);
            shown.push_str(REDACTED);
            end = at;
        }
    }
    if end == 0 {
        return text.into();
    }
    shown.push_str(&text[end..]);
    shown.into()
}

/// Where the next one may begin: not within a word.
fn next(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let found = BEGINNINGS
            .iter()
            .filter_map(|beginning| text[at..].find(beginning))
            .min()?
            + at;
        let is_within = text[..found].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if !is_within {
            return Some(found);
        }
        at = found + 1;
    }
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_known_by_its_form_and_words_stay() {
        for (text, expected) in [
            ("eyJhbGciOiJub25lIn0.eyJzdWIiOjF9.", "[redacted]."),
            ("\u{e9}eyJhbGciOiJub25lIn0", "\u{e9}[redacted]"),
            ("t=eyJhbGciOiJub25lIn0&x", "t=[redacted]&x"),
            (
                "keyJournal eyJ pbt_ vk_live_",
                "keyJournal eyJ pbt_ vk_live_",
            ),
            ("pbt_1a2b3c4d.", "[redacted]."),
            ("", ""),
        ] {
            assert_eq!(without_credentials(text), expected, "{text}");
        }
    }
}
