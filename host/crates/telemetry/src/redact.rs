//! Removes from texts what may be personal or secret.

use std::borrow::Cow;

use chrono::DateTime;

const MAX_CHARS: usize = 1_000;
/// Digits in a row that may be a telephone number or an account.
const LONG_NUMBER: usize = 7;

/// For our own words: removes mail addresses, long numbers, quoted text, and queries of URLs.
pub fn redact_own(text: &str) -> String {
    let mut out = String::new();
    let mut quoted = text.split('"');
    out.extend(quoted.next().map(unquoted));
    while let Some(_hidden) = quoted.next() {
        out.push_str("\"…\"");
        out.extend(quoted.next().map(unquoted));
    }
    if out.chars().count() > MAX_CHARS {
        out = out.chars().take(MAX_CHARS).chain(['…']).collect();
    }
    out
}

fn unquoted(text: &str) -> String {
    let word = |word: &str| -> Cow<'_, str> {
        if word.contains('@') {
            return "<address>".into();
        }
        let word: Cow<'_, str> = match word.split_once('?') {
            Some((url, query)) if url.contains("://") && !query.is_empty() => {
                format!("{url}?…").into()
            }
            _ => word.to_owned().into(),
        };
        let is_digest = word.len() >= 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_time = DateTime::parse_from_rfc3339(&word).is_ok();
        if !is_digest && !is_time && longest_number(&word) >= LONG_NUMBER {
            "<number>".into()
        } else {
            word
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Counts across the separators that people put into numbers.
fn longest_number(word: &str) -> usize {
    let (mut longest, mut current) = (0, 0);
    for c in word.chars() {
        match c {
            '0'..='9' => current += 1,
            '-' | '.' | '(' | ')' | '+' | '/' => {}
            _ => current = 0,
        }
        longest = longest.max(current);
    }
    longest
}

/// For anybody's words: keeps only what could be in a dictionary, and short abbreviations and
/// numbers. Removes names, ids and addresses.
pub fn redact_foreign(text: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| ".,:;!?()[]".contains(c));
        let all = |test: fn(char) -> bool| !bare.is_empty() && bare.chars().all(test);
        let common = all(|c| c.is_ascii_lowercase() || "'-".contains(c)) && bare.len() <= 20;
        let abbreviation = all(|c| c.is_ascii_uppercase()) && bare.len() <= 5;
        let number = all(|c| c.is_ascii_digit()) && bare.len() <= 3;
        if common || abbreviation || number {
            words.push(word);
        } else if words.last() != Some(&"…") {
            words.push("…");
        }
    }
    words.join(" ").chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_personal_goes_and_the_rest_stays() {
        for (text, left) in [
            (
                "cannot reach smtp.example.com:587",
                "cannot reach smtp.example.com:587",
            ),
            ("asha@example.com is unknown", "<address> is unknown"),
            ("call +91-98765-43210 back", "call <number> back"),
            (
                "due at 2026-11-26T05:48:40.123Z",
                "due at 2026-11-26T05:48:40.123Z",
            ),
            (
                "revision 4a0cf6eb3387 of \"Asha\" took 12.5 s",
                "revision 4a0cf6eb3387 of \"…\" took 12.5 s",
            ),
            (
                "GET https://api.example.com/v1?key=x failed",
                "GET https://api.example.com/v1?… failed",
            ),
            ("an open \"quote", "an open \"…\""),
        ] {
            assert_eq!(redact_own(text), left);
        }
    }

    #[test]
    fn of_a_plugin_s_message_the_sentence_stays_and_not_whom_it_is_about() {
        assert_eq!(
            redact_foreign("Asha Verma is not enrolled in c-4711: HTTP 404."),
            "… is not enrolled in … HTTP 404."
        );
        assert_eq!(redact_foreign("панель token=abc"), "…");
    }
}
