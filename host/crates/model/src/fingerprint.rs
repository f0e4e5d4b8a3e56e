//! Finds failures that are alike: a message without the parts that differ from job to job.

use sha2::{Digest, Sha256};

/// Longest normalised message, in bytes: what follows does not help to distinguish failures.
const MAX_BYTES: usize = 512;

/// 16 bytes that are equal for failures of one kind.
pub type Fingerprint = [u8; 16];

/// The first line of a message. Numbers, ids (words with digits in them) and quoted values are
/// replaced by `#` and `'…'`.
///
/// ```
/// # use patchbay_model::fingerprint::normalised;
/// assert_eq!(normalised("lead 4711 of \"Asha\" not found (req a1b2-c3)"), "lead # of '…' not found (req #)");
/// ```
pub fn normalised(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message.lines().next().unwrap_or_default().trim();
    while let Some(c) = rest.chars().next()
        && out.len() < MAX_BYTES
    {
        let next = &rest[c.len_utf8()..];
        if let ('"' | '\'' | '`', Some(end)) = (c, next.find(c)) {
            out.push_str("'…'");
            rest = &next[end + 1..];
        } else if c.is_alphanumeric() {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && !matches!(c, '-' | '_'))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            out.push_str(if word.contains(|c: char| c.is_ascii_digit()) {
                "#"
            } else {
                word
            });
            rest = after;
        } else {
            out.push(c);
            rest = next;
        }
    }
    while out.len() > MAX_BYTES {
        out.pop();
    }
    out
}

/// Hash of a failure's code and [normalised] message.
pub fn fingerprint(code: &str, normalised: &str) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update(code.len().to_le_bytes());
    hash.update(code);
    hash.update(normalised);
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hash.finalize()[..16]);
    fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_job_to_job_does_not_tell_failures_apart() {
        for (a, b) in [
            ("user 12 not found", "user 99 not found"),
            ("cannot reach 10.0.0.1:443", "cannot reach 10.0.0.77:8443"),
            ("no lead 'Asha Rao'", "no lead 'Ravi'"),
            (
                "id 6b1f0f0e-aaaa-4bbb-8ccc-0123456789ab is gone",
                "id 11111111-aaaa-4bbb-8ccc-0123456789ab is gone",
            ),
            ("it's 5 late", "it's 6 late"),
            ("first\nsecond", "first\nother"),
        ] {
            assert_eq!(normalised(a), normalised(b));
        }
        assert_ne!(normalised("user not found"), normalised("lead not found"));
    }

    #[test]
    fn any_text_is_normalised_within_its_bound() {
        for text in [
            "",
            "\"",
            "'é'",
            "é'",
            "`é",
            &"é".repeat(4_000),
            &"\"".repeat(9_001),
            &"a\"".repeat(5_000),
        ] {
            assert!(normalised(text).len() <= MAX_BYTES, "{text:.10}");
        }
    }
}
