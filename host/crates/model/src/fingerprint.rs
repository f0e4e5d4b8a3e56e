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
    normalise(message, |_, _| None)
}

/// As [`normalised`], for the message of a crash: its place in the plugin's code (`lib.rs:12:5`,
/// `(+0x4f2)`) stays, because the same error in two places is two errors.
///
/// ```
/// # use patchbay_model::fingerprint::normalised_crash;
/// assert_eq!(normalised_crash("panicked at src/lib.rs:12:5: lead 7 has no phone"), "panicked at src/lib.rs:12:5: lead # has no phone");
/// ```
pub fn normalised_crash(message: &str) -> String {
    normalise(message, place)
}

/// Ends of the names of source files.
const SOURCES: [&str; 17] = [
    ".rs", ".py", ".js", ".mjs", ".cjs", ".ts", ".go", ".c", ".cc", ".cpp", ".cxx", ".h", ".hpp",
    ".zig", ".swift", ".kt", ".cs",
];

/// Length of the place in code with which `rest` begins, after `before`.
fn place(before: &str, rest: &str) -> Option<usize> {
    let digits =
        |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let hex = |text: &str| {
        text.len()
            - text
                .trim_start_matches(|c: char| c.is_ascii_hexdigit())
                .len()
    };
    if let Some(after) = rest.strip_prefix("(+0x") {
        let length = hex(after);
        return (length > 0 && after[length..].starts_with(')')).then_some(4 + length + 1);
    }
    // TinyGo: `panic: runtime error at 0x00002f: index out of range`.
    if let Some(after) = rest.strip_prefix("0x").filter(|_| before.ends_with(" at ")) {
        return Some(2 + hex(after)).filter(|length| *length > 2);
    }
    if !SOURCES.iter().any(|end| before.ends_with(end)) {
        return None;
    }
    // The C library: `Assertion failed: x (book.c: post: 41)`.
    if let Some((function, after)) = rest
        .strip_prefix(": ")
        .and_then(|rest| rest.split_once(": "))
        && function.chars().all(|c| c.is_alphanumeric() || c == '_')
        && digits(after) > 0
        && after[digits(after)..].starts_with(')')
    {
        return Some(2 + function.len() + 2 + digits(after));
    }
    let mut length = 0;
    for _ in 0..2 {
        let number = rest[length..].strip_prefix(':').map_or(0, digits);
        if number == 0 {
            break;
        }
        length += 1 + number;
    }
    (length > 0).then_some(length)
}

/// `kept` tells how many bytes at the beginning of its second text stay as they are; the first is
/// what stands before them.
fn normalise(message: &str, kept: impl Fn(&str, &str) -> Option<usize>) -> String {
    let mut out = String::new();
    let mut rest = message.lines().next().unwrap_or_default().trim();
    while let Some(c) = rest.chars().next()
        && out.len() < MAX_BYTES
    {
        let next = &rest[c.len_utf8()..];
        if let Some(length) = kept(&out, rest) {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
        } else if let ('"' | '\'' | '`', Some(end)) = (c, next.find(c)) {
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
    fn crashes_differ_by_their_place_and_not_by_their_values() {
        for (a, b) in [
            (
                "panicked at src/lib.rs:12:5: lead 7 has no phone",
                "panicked at src/lib.rs:12:5: lead 8 has no phone",
            ),
            (
                "KeyError: 'phone' at run (/0/app.py:12)",
                "KeyError: 'name' at run (/0/app.py:12)",
            ),
            (
                "cannot reach db.example.com:5432 (wasm trap: unreachable at run (+0x1f))",
                "cannot reach db.example.com:5433 (wasm trap: unreachable at run (+0x1f))",
            ),
        ] {
            assert_eq!(normalised_crash(a), normalised_crash(b));
        }
        for (a, b) in [
            (
                "panicked at src/lib.rs:12:5: no phone",
                "panicked at src/lib.rs:40:5: no phone",
            ),
            (
                "KeyError: 'phone' at run (/0/app.py:12)",
                "KeyError: 'phone' at run (/0/app.py:13)",
            ),
            (
                "Assertion failed: n (book.c: post: 41)",
                "Assertion failed: n (book.c: post: 42)",
            ),
            (
                "wasm trap: unreachable at function 7 (+0x1f)",
                "wasm trap: unreachable at function 7 (+0x2a)",
            ),
            (
                "panic: runtime error at 0x00002f: index out of range",
                "panic: runtime error at 0x00003f: index out of range",
            ),
        ] {
            assert_ne!(normalised_crash(a), normalised_crash(b));
        }
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
            "é.rs:é",
            ".rs:1:é",
            "(+0x",
            " at 0xé",
            ".c: é: 1",
            &format!("a.rs:{}", "1".repeat(5_000)),
        ] {
            assert!(normalised(text).len() <= MAX_BYTES, "{text:.10}");
            assert!(normalised_crash(text).len() <= MAX_BYTES, "{text:.10}");
        }
    }
}
