//! Texts that are credentials by their form, whatever they are called.

use std::borrow::Cow;

use super::REDACTED;

/// How credentials begin: a JSON Web Token (base64 of `{"`), a vendor's key, an operator's token.
const BEGINNINGS: [&str; 4] = ["eyJ", "vk_live_", "vk_test_", "pbt_"];
/// Shorter ones are words that only begin alike.
const LEAST_BYTES: usize = 12;

/// A text without credentials, and without passwords of addresses.
pub(super) fn without_credentials(text: &str) -> Cow<'_, str> {
    match without_passwords_of_addresses(text) {
        Cow::Borrowed(text) => without_tokens(text),
        Cow::Owned(text) => without_tokens(&text).into_owned().into(),
    }
}

/// Hides the values of lines such as `password: X`, as YAML and files of settings have them. In the
/// middle of a line it may be a sentence.
pub(super) fn without_values_of_lines(text: &str, is_hidden: fn(&str) -> bool) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut end = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = line.trim_end_matches(['\n', '\r']);
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let place = start + name.len() + 1;
        let name = name
            .trim()
            .trim_start_matches("- ")
            .trim_matches(['"', '\'', ' ']);
        let is_name = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || "_-.".contains(c));
        let spaces = value.len() - value.trim_start().len();
        let value = value.trim();
        let tells = !value.is_empty()
            && !["null", "~", "true", "false", "|", ">"].contains(&value)
            && !value.contains(REDACTED)
            && !value.starts_with(['{', '[']);
        // `name:value` without a space is a key of Redis, or a part of an address.
        if is_name && spaces > 0 && tells && is_hidden(name) {
            shown.push_str(&text[end..place + spaces]);
            shown.push_str(REDACTED);
            end = place + spaces + value.len();
        }
    }
    if end == 0 {
        return text.into();
    }
    shown.push_str(&text[end..]);
    shown.into()
}

/// `postgres://user:PASSWORD@host` without the password.
fn without_passwords_of_addresses(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut end = 0;
    for (place, separator) in text.match_indices("://") {
        let start = place + separator.len();
        if start < end {
            continue;
        }
        let rest = &text[start..];
        let word = &rest[..rest
            .find(|c: char| c.is_whitespace() || "\"'<>`\\".contains(c))
            .unwrap_or(rest.len())];
        // A password that is not percent-encoded may have any sign, and its address ends with the
        // last `@` before the path; a port and a path with `@` are no password.
        let authority = &word[..word.find(['/', '?', '#']).unwrap_or(word.len())];
        let login = authority.rsplit_once('@').or_else(|| {
            let (login, _) = word.rsplit_once('@')?;
            let (_, password) = login.split_once(':')?;
            let is_port = password
                .split(['/', '?', '#'])
                .next()
                .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
            (!is_port).then_some((login, ""))
        });
        let Some((user, password)) = login.and_then(|(login, _)| login.split_once(':')) else {
            continue;
        };
        if password.is_empty() || password == REDACTED {
            continue;
        }
        let from = start + user.len() + 1;
        shown.push_str(&text[end..from]);
        shown.push_str(REDACTED);
        end = from + password.len();
    }
    if end == 0 {
        return text.into();
    }
    shown.push_str(&text[end..]);
    shown.into()
}

fn without_tokens(text: &str) -> Cow<'_, str> {
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

    #[test]
    fn passwords_of_addresses_are_hidden_and_the_rest_of_them_stays() {
        for (text, expected) in [
            ("postgres://u:PASS@h/db", "postgres://u:[redacted]@h/db"),
            ("redis://:PASS@h:6379,x", "redis://:[redacted]@h:6379,x"),
            ("a smtp://u:p/a@s@h b", "a smtp://u:[redacted]@h b"),
            (
                "u=https://a:1@h and https://b:2@h",
                "u=https://a:[redacted]@h and https://b:[redacted]@h",
            ),
            ("http://h:8080/@x", "http://h:8080/@x"),
            ("https://user@h/a:b", "https://user@h/a:b"),
            ("http://h/a:b", "http://h/a:b"),
            ("amqp://u:[redacted]@h", "amqp://u:[redacted]@h"),
        ] {
            assert_eq!(without_credentials(text), expected, "{text}");
        }
    }

    #[test]
    fn values_of_lines_are_hidden_by_their_names() {
        let shown = |text: &str| {
            without_values_of_lines(text, super::super::names::is_sensitive).into_owned()
        };
        assert_eq!(
            shown("host: db\n  - password: a b c\r\npw: 'x'\npasswd:\n"),
            "host: db\n  - password: [redacted]\r\npw: [redacted]\npasswd:\n"
        );
        for text in [
            "the password: is missing",
            "otp:42",
            "password: null",
            "note: x",
        ] {
            assert_eq!(shown(text), text);
        }
    }
}
