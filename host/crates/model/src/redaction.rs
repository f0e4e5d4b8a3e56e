//! What is hidden of a job until somebody asks for it.
//!
//! Hidden are the values at the paths that a manifest redacts, the values of names that always mean
//! a secret ([`is_secret`]), and copies of both elsewhere: in the rest of the data, in results,
//! failures, backtraces, logs. Texts in which nothing is hidden stay unchanged.

mod credentials;
mod mask;
mod names;
mod open_document;

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use self::credentials::{without_credentials, without_values_of_lines};
use self::mask::assignments;
pub use self::mask::{Mask, forms, spellings};
pub use self::names::is_secret;
use self::names::{holds_secrets, is_sensitive};
pub use self::open_document::closed;
use crate::DataPath;
use crate::confidential::is_confidential;

/// Replaces a hidden value.
pub const REDACTED: &str = "[redacted]";

/// Nothing deeper is shown: reading it level by level would take too long.
const MAX_DEPTH: usize = 64;

/// What is hidden of the jobs of one queue, or of data of unknown origin.
#[derive(Debug, Clone, Default)]
pub struct Redaction {
    paths: Vec<DataPath>,
    is_strict: bool,
    hides_all: bool,
}

/// A redacted document.
#[derive(Debug)]
pub struct Shown<'t> {
    /// Unchanged where nothing is hidden.
    pub text: Cow<'t, str>,
    /// Number of hidden values.
    pub hidden: usize,
}

impl Redaction {
    /// Hides these paths, and names that mean a secret.
    pub fn new(paths: &[DataPath]) -> Self {
        Self {
            paths: paths.to_vec(),
            ..Self::default()
        }
    }

    /// For data of which nothing is known but what it says itself: also hides names that mean a key
    /// or a person, and texts that look like credentials.
    pub fn strict() -> Self {
        Self {
            is_strict: true,
            ..Self::default()
        }
    }

    /// Hides these paths, too.
    #[must_use]
    pub fn with_paths(mut self, paths: &[DataPath]) -> Self {
        self.paths.extend_from_slice(paths);
        self
    }

    /// What is hidden of the job with this id: everything of a confidential one.
    #[must_use]
    pub fn of_job(self, id: &str) -> Self {
        Self {
            hides_all: self.hides_all || is_confidential(id),
            ..self
        }
    }

    /// Whether a value of this name is hidden.
    pub fn hides_name(&self, name: &str) -> bool {
        match self.is_strict {
            true => is_sensitive(name),
            false => is_secret(name),
        }
    }

    /// Whether a value at this path is hidden.
    pub fn covers(&self, path: &str) -> bool {
        let is_below = |known: &DataPath| {
            path.strip_prefix(known.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        };
        path.split('.').any(|name| self.hides_name(name))
            || self
                .paths
                .iter()
                .any(|known| known.as_str() == path || is_below(known))
    }

    /// A job's data, and the mask that finds its hidden values in other texts. If anything is
    /// hidden, data that is not JSON, or a bare text or number, is hidden whole: no path names it.
    pub fn data<'t>(&self, data: &'t str) -> (Shown<'t>, Mask) {
        self.data_with_others(data, Vec::new())
    }

    /// As [`Self::data`], hiding values of other jobs, too: a parent sees its children's results.
    pub fn data_with_others<'t>(&self, data: &'t str, others: Vec<String>) -> (Shown<'t>, Mask) {
        let mask = if self.hides_all {
            Mask::of_everything()
        } else {
            let mut values = self.values(data);
            values.extend(others);
            Mask::new(values)
        };
        let mut walk = Walk {
            search: Search::Mask(&mask),
            redaction: self,
            hides_bare: self.hides_anything(),
            hidden: 0,
        };
        (self.walk(data, &mut walk), mask)
    }

    /// The hidden values of a job's data.
    pub fn values(&self, data: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.walk(
            data,
            &mut Walk {
                search: Search::Values(&mut values),
                redaction: self,
                hides_bare: self.hides_anything(),
                hidden: 0,
            },
        );
        values
    }

    /// Redacts another document of the job: its result, its progress, its options.
    pub fn document<'t>(&self, document: &'t str, mask: &Mask) -> Shown<'t> {
        self.walk(
            document,
            &mut Walk {
                search: Search::Mask(mask),
                redaction: self,
                hides_bare: false,
                hidden: 0,
            },
        )
    }

    fn hides_anything(&self) -> bool {
        !self.paths.is_empty()
    }

    fn walk<'t>(&self, text: &'t str, walk: &mut Walk<'_>) -> Shown<'t> {
        let hides_all = matches!(&walk.search, Search::Mask(mask) if mask.hides_all());
        let document = serde_json::from_str::<&RawValue>(text);
        if !text.is_empty() && (hides_all || (document.is_err() && self.hides_anything())) {
            walk.note(text.to_owned());
            return Shown {
                text: REDACTED.into(),
                hidden: 1,
            };
        }
        let Ok(document) = document else {
            let shown = walk.text(text);
            return Shown {
                hidden: usize::from(shown != text),
                text: shown,
            };
        };
        let paths: Vec<Vec<&str>> = self
            .paths
            .iter()
            .map(|path| path.as_str().split('.').collect())
            .collect();
        let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
        match walk.changed(document, &paths, 0) {
            Some(changed) => Shown {
                text: changed.into(),
                hidden: walk.hidden,
            },
            None => Shown {
                text: text.into(),
                hidden: 0,
            },
        }
    }
}

enum Search<'a> {
    /// Collects the hidden values.
    Values(&'a mut Vec<String>),
    /// Shows the document without them.
    Mask(&'a Mask),
}

struct Walk<'a> {
    search: Search<'a>,
    redaction: &'a Redaction,
    /// Whether texts and numbers outside of objects are hidden. They have no path.
    hides_bare: bool,
    hidden: usize,
}

impl Walk<'_> {
    /// The value as shown; nothing when unchanged. `paths` are the remaining keys of each path.
    fn changed(&mut self, value: &RawValue, paths: &[&[&str]], depth: usize) -> Option<String> {
        let first = value.get().as_bytes().first().copied().unwrap_or_default();
        if first == b'n' {
            return None;
        }
        if depth > MAX_DEPTH || paths.iter().any(|keys| keys.is_empty()) {
            return Some(self.hide(value));
        }
        match first {
            b'{' => {
                let hides_bare = std::mem::take(&mut self.hides_bare);
                let changed = self.changed_object(value, paths, depth);
                self.hides_bare = hides_bare;
                changed
            }
            b'[' => {
                let elements: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                let shown: Vec<Option<String>> = elements
                    .iter()
                    .map(|element| self.changed(element, paths, depth + 1))
                    .collect();
                let is_changed = shown.iter().any(Option::is_some);
                let parts = shown
                    .into_iter()
                    .zip(elements)
                    .map(|(new, old)| new.unwrap_or_else(|| old.get().to_owned()));
                is_changed.then(|| format!("[{}]", parts.collect::<Vec<_>>().join(",")))
            }
            b't' | b'f' => None,
            _ if self.hides_bare && tells(value) => Some(self.hide(value)),
            b'"' => {
                let text: String = serde_json::from_str(value.get()).ok()?;
                let within = nested_document(&text)
                    .and_then(|within| self.changed(within, paths, depth + 1));
                // Values that are hidden inside were counted there.
                let (shown, hidden) = match &within {
                    Some(within) => (self.text(within), 0),
                    None => (self.text(&text), 1),
                };
                if shown == text {
                    return None;
                }
                self.hidden += hidden;
                Some(Value::from(shown).to_string())
            }
            _ => match &self.search {
                Search::Mask(mask) if mask.text(value.get()) != value.get() => {
                    Some(self.hide(value))
                }
                _ => None,
            },
        }
    }

    fn changed_object(
        &mut self,
        value: &RawValue,
        paths: &[&[&str]],
        depth: usize,
    ) -> Option<String> {
        let Members(members) = serde_json::from_str(value.get()).ok()?;
        let mut is_changed = false;
        let mut parts = Vec::with_capacity(members.len());
        for (name, member) in members {
            let deeper: Vec<&[&str]> = paths
                .iter()
                .filter(|keys| keys.first() == Some(&&*name))
                .map(|keys| &keys[1..])
                .collect();
            // A template may be called `otp`: an object's values are judged by their own names.
            let is_group = member.get().starts_with('{') && !holds_secrets(&name);
            let shown = if self.redaction.hides_name(&name) && tells(member) && !is_group {
                Some(self.hide(member))
            } else {
                self.changed(member, &deeper, depth + 1)
            };
            let shown_name = self.text(&name);
            if shown_name != name {
                self.hidden += 1;
                is_changed = true;
            }
            is_changed |= shown.is_some();
            let shown = shown.unwrap_or_else(|| member.get().to_owned());
            parts.push(format!("{}:{shown}", Value::from(&*shown_name)));
        }
        is_changed.then(|| format!("{{{}}}", parts.join(",")))
    }

    fn hide(&mut self, value: &RawValue) -> String {
        self.hidden += 1;
        if let Search::Values(values) = &mut self.search {
            collect(value, values, 0);
        }
        Value::from(REDACTED).to_string()
    }

    fn note(&mut self, text: String) {
        if let Search::Values(values) = &mut self.search {
            values.push(text);
        }
    }

    fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let shown = match &self.search {
            Search::Values(_) => assignments(text, is_secret),
            Search::Mask(mask) => mask.text(text),
        };
        if !self.redaction.is_strict {
            return shown;
        }
        let strict = assignments(&shown, is_sensitive);
        let strict = without_values_of_lines(&strict, is_sensitive);
        let strict = without_credentials(&strict);
        match strict == text {
            true => text.into(),
            false => strict.into_owned().into(),
        }
    }
}

/// The document in a text: some producers encode twice.
fn nested_document(text: &str) -> Option<&RawValue> {
    if !text.trim_start().starts_with(['{', '[', '"']) {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Null, true, false and empty values are no secrets.
fn tells(value: &RawValue) -> bool {
    !matches!(
        value.get(),
        "null" | "true" | "false" | "\"\"" | "[]" | "{}"
    )
}

/// Collects all texts and numbers, including those in documents within texts.
fn collect(value: &RawValue, values: &mut Vec<String>, depth: usize) {
    if depth > MAX_DEPTH {
        values.push(value.get().to_owned());
        return;
    }
    match value.get().as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(value.get()).unwrap_or_default();
            members
                .iter()
                .for_each(|(_, member)| collect(member, values, depth + 1));
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
            elements
                .iter()
                .for_each(|element| collect(element, values, depth + 1));
        }
        Some(b'"') => {
            let Ok(text) = serde_json::from_str::<String>(value.get()) else {
                return;
            };
            if let Some(within) = nested_document(&text) {
                collect(within, values, depth + 1);
            }
            values.push(text);
        }
        Some(b'0'..=b'9' | b'-') => values.push(value.get().to_owned()),
        _ => {}
    }
}

/// The members of an object in order, repeated names included.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((member.0.into(), member.1));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// JSON Pointer to a [`REDACTED`] in a document: somebody copied redacted data.
pub fn mark_in(document: &str) -> Option<String> {
    if !document.contains(REDACTED) {
        return None;
    }
    let found = serde_json::from_str::<Value>(document)
        .ok()
        .and_then(|value| place_of_mark(&value));
    Some(found.unwrap_or_else(|| "/".into()))
}

fn place_of_mark(value: &Value) -> Option<String> {
    let escape = |name: &str| name.replace('~', "~0").replace('/', "~1");
    match value {
        Value::String(text) => text.contains(REDACTED).then(String::new),
        Value::Array(elements) => {
            let mut places = elements.iter().enumerate();
            places.find_map(|(n, element)| Some(format!("/{n}{}", place_of_mark(element)?)))
        }
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, field)| Some(format!("/{}{}", escape(name), place_of_mark(field)?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction(paths: &[&str]) -> Redaction {
        Redaction::new(
            &paths
                .iter()
                .map(|path| path.parse().expect("a path"))
                .collect::<Vec<_>>(),
        )
    }

    fn shown(paths: &[&str], data: &str) -> String {
        redaction(paths).data(data).0.text.into_owned()
    }

    #[test]
    fn what_is_redacted_is_hidden_and_everything_else_stays_as_it_was_written() {
        let data = r#"{ "z": 1.50, "to": "asha@example.com", "deep": {"Password": "hunter2", "ok": true, "otp": null}, "n": 12345678901234567890123 }"#;
        assert_eq!(
            shown(&["to"], data),
            r#"{"z":1.50,"to":"[redacted]","deep":{"Password":"[redacted]","ok":true,"otp":null},"n":12345678901234567890123}"#
        );
        let plain = r#"{ "b" : 1e5, "a":[ 1 ] , "a": 2}"#;
        assert_eq!(
            shown(&["to"], plain),
            plain,
            "spaces, order, numbers and names that come twice"
        );
        assert_eq!(
            shown(
                &["list.phone", "none"],
                r#"{"list":[{"phone":[1,2]},3],"none":null}"#
            ),
            r#"{"list":[{"phone":"[redacted]"},3],"none":null}"#
        );
        let groups = r#"{"otp":{"subject":"Your code","token":"t1"},"credentials":{"user":"u"}}"#;
        assert_eq!(
            shown(&[], groups),
            r#"{"otp":{"subject":"Your code","token":"[redacted]"},"credentials":"[redacted]"}"#
        );
        assert_eq!(
            shown(&["a"], "{\"a"),
            REDACTED,
            "what is no JSON has no paths"
        );
        assert_eq!(shown(&[], "{\"a"), "{\"a");
        let deep = format!("{}\"hunter2\"{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(
            !shown(&[], &deep).contains("hunter2"),
            "and no overflow of the stack"
        );
    }

    #[test]
    fn hidden_values_are_hidden_wherever_they_turn_up_again() {
        let redaction = redaction(&["to", "text"]);
        let long = "x".repeat(1_000);
        let data =
            serde_json::json!({ "to": "Asha <asha@example.com>", "password": "hunter2", "otp": 4711, "text": long })
                .to_string();
        let (_, mask) = redaction.data(&data);
        for (text, expected) in [
            (
                "no mailbox ASHA@example.com here",
                "no mailbox [redacted] here",
            ),
            ("GET /?to=asha%40example.com", "GET /?to=[redacted]"),
            ("said hunter2.", "said [redacted]."),
            (
                "after 47110 ms, code 4711",
                "after 47110 ms, code [redacted]",
            ),
            ("nothing of it", "nothing of it"),
            (
                "password=abc&x=1 \"token\": \"a\\\"b\", done",
                "password=[redacted]&x=1 \"token\": \"[redacted]\", done",
            ),
            (
                "Authorization: Bearer abc.def1",
                "Authorization: Bearer [redacted]",
            ),
            ("password: is missing", "password: is missing"),
            ("Basic authentication failed", "Basic authentication failed"),
        ] {
            assert_eq!(mask.text(text), expected);
        }
        assert!(!mask.text(&format!("it was {long}")).contains("xxx"));
        let result = r#"{"input":{"to":"Asha <asha@example.com>"},"accepted":["asha@example.com"],"code":4711,"n":4712}"#;
        assert_eq!(
            redaction.document(result, &mask).text,
            r#"{"input":{"to":"[redacted]"},"accepted":["[redacted]"],"code":"[redacted]","n":4712}"#
        );
        assert!(mask.finds("x hunter2") && !mask.finds("hunter23"));
        assert_eq!(
            mask.replaced("hunter2 hunter2", "[erased]"),
            "[erased] [erased]"
        );
    }

    #[test]
    fn data_that_has_no_paths_is_hidden_whole_where_anything_is() {
        let twice = serde_json::json!(r#"{"to":"ada@example.com","lines":["Grace Hopper"],"n":1}"#)
            .to_string();
        let (shown_twice, mask) = redaction(&["to"]).data(&twice);
        assert_eq!(
            (&*shown_twice.text, shown_twice.hidden),
            (r#""[redacted]""#, 1)
        );
        assert_eq!(
            mask.text("no mailbox Ada@example.com for Grace Hopper"),
            "no mailbox [redacted] for [redacted]"
        );
        for (data, expected) in [
            (r#""ada@example.com""#, r#""[redacted]""#),
            ("4711", r#""[redacted]""#),
            (
                r#"["ada@example.com",[4711],true,null,{"n":1}]"#,
                r#"["[redacted]",["[redacted]"],true,null,{"n":1}]"#,
            ),
            ("ada@example.com", REDACTED),
        ] {
            let (shown, mask) = redaction(&["to"]).data(data);
            assert_eq!(shown.text, expected, "{data}");
            let said = mask.text("sent to ada@example.com, code 4711").into_owned();
            assert!(
                said.contains(REDACTED) && (!data.contains("ada") || !said.contains("ada")),
                "{data}: {said}"
            );
        }
        for data in ["true", "null", r#""""#, "{}", "[]"] {
            assert_eq!(redaction(&["to"]).data(data).0.text, data);
        }
        assert_eq!(
            shown(&[], r#""ada@example.com""#),
            r#""ada@example.com""#,
            "nothing is to be hidden"
        );
        assert_eq!(
            redaction(&["to"]).document("50", &Mask::default()).text,
            "50",
            "progress and results are no data"
        );
    }

    #[test]
    fn documents_within_texts_are_read_as_documents() {
        let data = serde_json::json!({ "body": r#"{"to":"ada@example.com","password":"hunter2","n":1}"#, "n": 1 });
        assert_eq!(
            shown(&["body.to"], &data.to_string()),
            r#"{"body":"{\"to\":\"[redacted]\",\"password\":\"[redacted]\",\"n\":1}","n":1}"#
        );
        let hidden =
            serde_json::json!({ "body": r#"{"to":["ada@example.com"],"code":4711}"# }).to_string();
        let (shown, mask) = redaction(&["body"]).data(&hidden);
        assert_eq!(shown.text, r#"{"body":"[redacted]"}"#);
        assert_eq!(mask.text("ada@example.com 4711"), "[redacted] [redacted]");
    }

    #[test]
    fn hidden_values_are_hidden_in_keys_and_in_the_rest_of_the_data() {
        let data = r#"{"to":"dup@example.com","x":"for dup@example.com","otp":4711,"n":[4711,4712],"by":{"DUP@example.com":1},"ok":true}"#;
        let (shown, mask) = redaction(&["to"]).data(data);
        assert_eq!(
            shown.text,
            r#"{"to":"[redacted]","x":"for [redacted]","otp":"[redacted]","n":["[redacted]",4712],"by":{"[redacted]":1},"ok":true}"#
        );
        assert_eq!(shown.hidden, 5);
        let shown = redaction(&["to"]).document(r#"{"dup@example.com":1}"#, &mask);
        assert_eq!((&*shown.text, shown.hidden), (r#"{"[redacted]":1}"#, 1));
    }

    #[test]
    fn every_one_of_many_values_is_hidden_and_too_many_hide_everything() {
        let people = |count: usize| {
            (0..count)
                .map(|n| format!("person{n}@example.com"))
                .collect::<Vec<_>>()
        };
        let few = people(3_000);
        let data = serde_json::json!({ "n": 1, "to": few }).to_string();
        let (shown, mask) = redaction(&["to"]).data(&data);
        assert_eq!(shown.text, r#"{"n":1,"to":"[redacted]"}"#);
        let result = serde_json::json!({ "accepted": few }).to_string();
        let shown = redaction(&[]).document(&result, &mask);
        assert_eq!(shown.hidden, few.len());
        assert!(!shown.text.contains("example.com"));

        let data = serde_json::json!({ "to": people(60_000), "n": 1 }).to_string();
        let (shown, mask) = redaction(&["to"]).data(&data);
        assert_eq!(
            (&*shown.text, &*redaction(&[]).document(&result, &mask).text),
            (REDACTED, REDACTED)
        );
        assert_eq!(
            (mask.text("sent"), mask.text("")),
            (REDACTED.into(), "".into())
        );
        assert!(
            !mask.is_empty() && !mask.finds("sent"),
            "nobody is erased by it"
        );
    }

    #[test]
    fn texts_of_any_kind_are_cut_at_whole_characters() {
        let (_, mask) = Redaction::default().data(r#"{"secret":"éèü€"}"#);
        for text in [
            "éèü€",
            "xéèü€é",
            "é=é",
            "\"sécret\":\"é",
            "password=",
            "=",
            ":",
            "Bearer é",
            "secret='é",
            "=\"",
            "token=\\\"",
        ] {
            let _ = mask.text(text);
        }
        assert_eq!(mask.text("(éèü€)"), "([redacted])");
    }

    #[test]
    fn a_document_that_holds_the_mark_is_known_by_the_place() {
        assert_eq!(mark_in(r#"{"a":1}"#), None);
        assert_eq!(
            mark_in(r#"{"a/b":[1,{"c":"x [redacted]"}]}"#).as_deref(),
            Some("/a~1b/1/c")
        );
    }

    #[test]
    fn a_path_is_covered_by_itself_its_parent_and_its_name() {
        let redaction = redaction(&["lead.phone", "to"]);
        for (path, is_covered) in [
            ("to", true),
            ("to.x", true),
            ("lead.phone", true),
            ("lead.id", false),
            ("a.password", true),
        ] {
            assert_eq!(redaction.covers(path), is_covered, "{path}");
        }
    }

    #[test]
    fn of_unknown_data_keys_persons_and_credentials_are_hidden_too() {
        let shown = |text: &str| {
            Redaction::strict()
                .document(text, &Mask::default())
                .text
                .into_owned()
        };
        let data = r#"{"emailsSent":12,"userEmail":"a@b.example","phoneNumber":98765,"cacheKey":"k1","hash":"h","keyboard":"qwerty","n":1}"#;
        assert_eq!(
            shown(data),
            r#"{"emailsSent":12,"userEmail":"[redacted]","phoneNumber":"[redacted]","cacheKey":"[redacted]","hash":"[redacted]","keyboard":"qwerty","n":1}"#
        );
        assert_eq!(
            shown(r#"{"total":1250,"at":"2026-11-30"}"#),
            r#"{"total":1250,"at":"2026-11-30"}"#
        );
        assert_eq!(shown("email=a@b.example&n=1"), "email=[redacted]&n=1");
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjQyfQ.c2lnbmF0dXJl";
        assert_eq!(shown(jwt), REDACTED);
        assert_eq!(
            shown(&format!(r#"["ok",{{"x":"go {jwt}, now"}}]"#)),
            r#"["ok",{"x":"go [redacted], now"}]"#
        );
        assert_eq!(
            shown("vk_live_abcdEFGH1234 pbt_1a2b3c4d_secret"),
            "[redacted] [redacted]"
        );
    }
}
