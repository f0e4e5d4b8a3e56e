//! Paths into the data of jobs: what the history finds jobs by, and what it never shows.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::lossy_text::{LossyText, Members};

/// Longest path, in bytes.
const MAX_BYTES: usize = 128;
/// Longest path, in keys.
const MAX_KEYS: usize = 8;
/// Deepest nesting of lists. Real data has no more, and reading more would take too long.
const MAX_LISTS: usize = 4;
/// Longest value that a job is found by, in bytes; longer values are left out.
pub const MAX_VALUE_BYTES: usize = 1_024;
/// Most values of one path in one job. A mail to a hundred people is found by each of them.
pub const MAX_VALUES: usize = 128;

/// Keys joined by dots, as in `customer.phone`. A list on the way means each of its elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DataPath(String);

/// Why a text is not a path. Safe to show to its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a path. Write keys with dots between them, as in \"customer.phone\" (at most {MAX_KEYS} keys and {MAX_BYTES} bytes)"
)]
pub struct InvalidPath(String);

impl DataPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Texts, numbers and booleans at this path, as written in the data but without the quotes of a
    /// text: each value once, and only the first [`MAX_VALUES`]. A text that contains mail
    /// addresses also yields each address, in lower case and in the normal form of
    /// [`patchbay_mailbox::Address`]. Data that is not JSON, or has nothing there, yields none.
    pub fn values(&self, data: &str) -> Vec<String> {
        self.collected(data, MAX_VALUES)
    }

    /// Whether one of these values is at this path, no matter how many others are there.
    pub fn holds(&self, data: &str, wanted: &[String]) -> bool {
        let values = self.collected(data, usize::MAX);
        let mut values = values.iter();
        values.any(|found| {
            wanted
                .iter()
                .any(|value| value == found || value == found.trim())
        })
    }

    fn collected(&self, data: &str, most: usize) -> Vec<String> {
        let mut values = Values {
            all: Vec::new(),
            known: HashSet::new(),
            most,
        };
        let data = data.strip_prefix('\u{feff}').unwrap_or(data);
        if let Ok(data) = serde_json::from_str::<&RawValue>(data) {
            let keys: Vec<&str> = self.keys().collect();
            collect(data, &keys, MAX_LISTS, &mut values);
        }
        values.all
    }
}

/// Reads raw JSON, so that a long number keeps its digits. Goes only as deep as keys and lists.
fn collect(value: &RawValue, keys: &[&str], lists: usize, values: &mut Values) {
    if values.all.len() >= values.most {
        return;
    }
    match (value.get().as_bytes().first(), keys) {
        (Some(b'['), _) if lists > 0 => {
            let elements: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
            elements
                .into_iter()
                .for_each(|element| collect(element, keys, lists - 1, values));
        }
        (Some(b'{'), [key, rest @ ..]) => {
            let Members(fields) = serde_json::from_str(value.get()).unwrap_or_default();
            let named = fields.iter().filter(|(name, _)| name == key);
            named.for_each(|(_, field)| collect(field, rest, lists, values));
        }
        // Some producers encode twice.
        (Some(b'"'), [_, ..]) if lists > 0 => {
            let Ok(LossyText(text)) = serde_json::from_str(value.get()) else {
                return;
            };
            if let Ok(within) = serde_json::from_str::<&RawValue>(&text) {
                collect(within, keys, lists - 1, values);
            }
        }
        (Some(b'"'), []) => {
            let Ok(LossyText(text)) = serde_json::from_str(value.get()) else {
                return;
            };
            let mut within: Vec<String> = addresses(&text).map(str::to_lowercase).collect();
            if text.contains('@') {
                let mailboxes = patchbay_mailbox::parse_list(&text).unwrap_or_default();
                within.extend(
                    mailboxes
                        .iter()
                        .map(|mailbox| mailbox.address.to_string().to_lowercase()),
                );
            }
            values.add(text);
            within.into_iter().for_each(|address| values.add(address));
        }
        (Some(b'0'..=b'9' | b'-' | b't' | b'f'), []) => values.add(value.get().to_owned()),
        _ => {}
    }
}

/// Values without duplicates, in order.
struct Values {
    all: Vec<String>,
    known: HashSet<String>,
    most: usize,
}

impl Values {
    fn add(&mut self, value: String) {
        let fits = (1..=MAX_VALUE_BYTES).contains(&value.len()) && self.all.len() < self.most;
        if fits && self.known.insert(value.clone()) {
            self.all.push(value);
        }
    }
}

/// Mail addresses in a text such as `Asha <asha@example.com>, ravi@example.com`.
pub(crate) fn addresses(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|c: char| c.is_whitespace() || ",;:<>()[]\"'".contains(c));
    parts.filter(|part| {
        part.split_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
    })
}

impl FromStr for DataPath {
    type Err = InvalidPath;
    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        let keys = || text.split('.');
        let is_path = text.len() <= MAX_BYTES
            && keys().count() <= MAX_KEYS
            && keys().all(|key| !key.is_empty() && !key.contains(char::is_control));
        if is_path {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPath(text.chars().take(MAX_BYTES).collect()))
        }
    }
}

text_form!(DataPath);

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> DataPath {
        text.parse().expect("a path")
    }

    #[test]
    fn values_are_those_that_were_written() {
        let data = r#"{"lead": {"id": 123456789012345678901234567890, "ok": true, "none": null, "in": {}},
            "people": [{"phone": "+91 1"}, {"phone": ["+91 2", "+91 \u0031"]}, 5], "rate": 1.50, "a.b": 1}"#;
        for (at, expected) in [
            ("lead.id", &["123456789012345678901234567890"][..]),
            ("lead.ok", &["true"]),
            ("lead.none", &[]),
            ("lead.in", &[]),
            ("lead", &[]),
            ("people.phone", &["+91 1", "+91 2"]),
            ("rate", &["1.50"]),
            ("a.b", &[]),
            ("missing.deeper", &[]),
        ] {
            assert_eq!(path(at).values(data), expected, "{at}");
        }
        assert_eq!(
            path("a").values("{\"a\": 1"),
            [""; 0],
            "no JSON has no values"
        );
        let many = json!({ "a": (0..1_000).collect::<Vec<_>>() }).to_string();
        assert_eq!(path("a").values(&many).len(), MAX_VALUES);
        assert!(
            path("a")
                .values(&json!({ "a": "x".repeat(MAX_VALUE_BYTES + 1) }).to_string())
                .is_empty()
        );
        let nested =
            |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(path("a").values(&nested(MAX_LISTS)), ["1"]);
        assert!(
            path("a").values(&nested(100_000)).is_empty(),
            "and no overflow of the stack"
        );
    }

    #[test]
    fn a_person_is_found_however_a_document_was_written() {
        let wanted = ["555".to_owned()];
        for data in [
            r#"{"phone":"555","\ud800":1}"#,
            r#"{"phone":"555","phone":"1"}"#,
            r#"{"phone":"1","phone":"\u0035\u0035\u0035"}"#,
            "\u{feff}{\"phone\":555}",
            r#"{"phone":" 555"}"#,
            r#"["{\"phone\":\"555\"}"]"#,
        ] {
            assert!(path("phone").holds(data, &wanted), "{data}");
        }
        assert!(path("d.phone").holds(r#"{"d":"{\"phone\":\"555\"}"}"#, &wanted));
        assert!(!path("phone").holds(r#"{"phone":"5555","other":"555"}"#, &wanted));
    }

    #[test]
    fn a_text_with_mail_addresses_has_each_of_them_as_a_value() {
        let data = r#"{"to": "Asha <Asha@Example.com>, ravi@example.com", "cc": ["x@y.z"]}"#;
        let all = "Asha <Asha@Example.com>, ravi@example.com";
        assert_eq!(
            path("to").values(data),
            [all, "asha@example.com", "ravi@example.com"]
        );
        assert_eq!(path("cc").values(data), ["x@y.z"]);
        let other = r#"{"to": "Asha <X@Bücher.example>", "quoted": "A <\"a..b\"@y.z>"}"#;
        assert_eq!(
            path("to").values(other)[1..],
            ["x@bücher.example", "x@xn--bcher-kva.example"]
        );
        assert!(path("quoted").holds(other, &["\"a..b\"@y.z".into()]));
        let many = json!({ "to": (0..1_000).map(|n| format!("p{n}@y.z")).collect::<Vec<_>>() })
            .to_string();
        assert!(
            path("to").holds(&many, &["p999@y.z".into()])
                && !path("to").holds(&many, &["p1000@y.z".into()])
        );
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a\nb",
            "a\0b",
            "a.b.c.d.e.f.g.h.i",
            &"x".repeat(129),
        ] {
            assert!(text.parse::<DataPath>().is_err(), "{text:?}");
        }
    }
}
