//! What of a job nobody is shown without asking for it.
//!
//! Hidden are the values at the paths that a manifest redacts, the values of names that always mean a secret ([`is_secret`]), and both of
//! them wherever they turn up again: in results, failures, backtraces, logs. Texts in which nothing is hidden stay as they were written.

use std::borrow::Cow;
use std::fmt;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::DataPath;
use crate::data_path::addresses;

/// What stands in place of a value that is not shown.
pub const REDACTED: &str = "[redacted]";

/// Deeper than that nothing is shown: reading it level by level would take for ever.
const MAX_DEPTH: usize = 64;
/// Values of one job that are looked for in texts.
const MAX_NEEDLES: usize = 256;
/// Shorter values are in every text, and tell nothing.
const LEAST_CHARS: usize = 4;
/// Values up to this length count only as whole words: a code of four digits is a part of many numbers.
const WHOLE_WORD_BYTES: usize = 8;
/// Of longer values the beginning is looked for, and hides all that follows it.
const MAX_NEEDLE_BYTES: usize = 128;

const IN_A_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Words that mean a secret wherever they stand in a name.
const SECRET_WORDS: [&str; 12] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "secrets",
    "authorization",
    "credential",
    "credentials",
    "otp",
    "cvv",
];
/// Words that do so at the end of a name: `accessToken` is one, `tokenCount` is none.
const SECRET_ENDS: [&str; 5] = ["token", "cookie", "pin", "cvc", "jwt"];
/// Two words that do so together.
const SECRET_PAIRS: [[&str; 2]; 5] =
    [["api", "key"], ["access", "key"], ["private", "key"], ["signing", "key"], ["pass", "word"]];
/// The same written as one word.
const SECRET_JOINED: [&str; 8] =
    ["apikey", "accesskey", "privatekey", "signingkey", "accesstoken", "authtoken", "refreshtoken", "sessiontoken"];

/// Whether a value of this name is a secret, whoever named it: `password`, `newPassword`, `SMTP_PASS_WORD`, `x-api-key`, `accessToken`.
pub fn is_secret(name: &str) -> bool {
    let words = words(name);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.iter().any(|word| SECRET_WORDS.contains(word) || SECRET_JOINED.contains(word))
        || words.last().is_some_and(|word| SECRET_ENDS.contains(word))
        || words.windows(2).any(|pair| SECRET_PAIRS.iter().any(|known| known == pair))
}

/// Whether an object of this name is nothing but secrets.
fn holds_secrets(name: &str) -> bool {
    words(name)
        .iter()
        .any(|word| ["secret", "secrets", "credential", "credentials", "authorization"].contains(&word.as_str()))
}

/// In lower case, parted where letters and digits end and where a capital follows a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_small = false;
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || (after_small && c.is_uppercase());
        if begins && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        after_small = c.is_lowercase() || c.is_ascii_digit();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What is hidden of the jobs of one queue.
#[derive(Debug, Clone, Default)]
pub struct Redaction {
    paths: Vec<DataPath>,
}

/// A document as it is shown.
#[derive(Debug)]
pub struct Shown<'t> {
    /// As it was written where nothing is hidden.
    pub text: Cow<'t, str>,
    /// How many values are hidden.
    pub hidden: usize,
}

impl Redaction {
    /// By these paths, and by names that mean a secret.
    pub fn new(paths: &[DataPath]) -> Self {
        Self { paths: paths.to_vec() }
    }

    /// Whether a value at this path is hidden.
    pub fn covers(&self, path: &str) -> bool {
        let is_below = |known: &DataPath| path.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('.'));
        path.split('.').any(is_secret) || self.paths.iter().any(|known| known.as_str() == path || is_below(known))
    }

    /// A job's data, and what finds its hidden values in other texts. What is no JSON has no paths: it is hidden where there are any.
    pub fn data<'t>(&self, data: &'t str) -> (Shown<'t>, Mask) {
        let mut walk = Walk { mask: None, values: Some(Vec::new()), hidden: 0 };
        let shown = self.walk(data, &mut walk);
        (shown, Mask::new(walk.values.unwrap_or_default()))
    }

    /// Another document of a job: its result, its progress, its options.
    pub fn document<'t>(&self, document: &'t str, mask: &Mask) -> Shown<'t> {
        self.walk(document, &mut Walk { mask: Some(mask), values: None, hidden: 0 })
    }

    fn walk<'t>(&self, text: &'t str, walk: &mut Walk<'_>) -> Shown<'t> {
        let Ok(document) = serde_json::from_str::<&RawValue>(text) else {
            if self.paths.is_empty() || text.is_empty() {
                let shown = walk.mask.map_or_else(|| assignments(text), |mask| mask.text(text));
                return Shown { hidden: usize::from(shown != text), text: shown };
            }
            return Shown { text: REDACTED.into(), hidden: 1 };
        };
        let paths: Vec<Vec<&str>> = self.paths.iter().map(|path| path.as_str().split('.').collect()).collect();
        let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
        match walk.changed(document, &paths, 0) {
            Some(changed) => Shown { text: changed.into(), hidden: walk.hidden },
            None => Shown { text: text.into(), hidden: 0 },
        }
    }
}

/// One way through a document.
struct Walk<'a> {
    mask: Option<&'a Mask>,
    /// Hidden values, where somebody wants to know them.
    values: Option<Vec<String>>,
    hidden: usize,
}

impl Walk<'_> {
    /// The value as it is shown; nothing when it is shown as it is. `paths` are the keys that are left of each.
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
                let Members(members) = serde_json::from_str(value.get()).ok()?;
                let mut is_changed = false;
                let mut parts = Vec::with_capacity(members.len());
                for (name, member) in members {
                    let deeper: Vec<&[&str]> =
                        paths.iter().filter(|keys| keys.first() == Some(&&*name)).map(|keys| &keys[1..]).collect();
                    // A template may be called `otp`: what is in it is judged by its own names.
                    let is_group = member.get().starts_with('{') && !holds_secrets(&name);
                    let shown = if is_secret(&name) && tells(member) && !is_group {
                        Some(self.hide(member))
                    } else {
                        self.changed(member, &deeper, depth + 1)
                    };
                    is_changed |= shown.is_some();
                    let shown = shown.unwrap_or_else(|| member.get().to_owned());
                    parts.push(format!("{}:{shown}", Value::from(&*name)));
                }
                is_changed.then(|| format!("{{{}}}", parts.join(",")))
            }
            b'[' => {
                let elements: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                let shown: Vec<Option<String>> =
                    elements.iter().map(|element| self.changed(element, paths, depth + 1)).collect();
                let is_changed = shown.iter().any(Option::is_some);
                let parts =
                    shown.into_iter().zip(elements).map(|(new, old)| new.unwrap_or_else(|| old.get().to_owned()));
                is_changed.then(|| format!("[{}]", parts.collect::<Vec<_>>().join(",")))
            }
            b'"' => {
                let text: String = serde_json::from_str(value.get()).ok()?;
                let shown = self.mask.map_or_else(|| assignments(&text), |mask| mask.text(&text));
                if shown == text {
                    return None;
                }
                self.hidden += 1;
                Some(Value::from(shown).to_string())
            }
            b't' | b'f' => None,
            _ if self.mask.is_some_and(|mask| mask.text(value.get()) != value.get()) => Some(self.hide(value)),
            _ => None,
        }
    }

    fn hide(&mut self, value: &RawValue) -> String {
        self.hidden += 1;
        if let Some(values) = &mut self.values {
            collect(value, values, 0);
        }
        Value::from(REDACTED).to_string()
    }
}

/// Null, true, false and nothing at all are no secrets.
fn tells(value: &RawValue) -> bool {
    !matches!(value.get(), "null" | "true" | "false" | "\"\"" | "[]" | "{}")
}

/// Every text and number in it.
fn collect(value: &RawValue, values: &mut Vec<String>, depth: usize) {
    if depth > MAX_DEPTH || values.len() >= MAX_NEEDLES {
        return;
    }
    match value.get().as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(value.get()).unwrap_or_default();
            members.iter().for_each(|(_, member)| collect(member, values, depth + 1));
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
            elements.iter().for_each(|element| collect(element, values, depth + 1));
        }
        Some(b'"') => values.extend(serde_json::from_str::<String>(value.get())),
        Some(b'0'..=b'9' | b'-') => values.push(value.get().to_owned()),
        _ => {}
    }
}

/// An object in its own order, names that come twice included.
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

/// Finds values in texts: those of a job that are hidden, or those of a person who is to be forgotten.
#[derive(Debug, Default)]
pub struct Mask {
    searcher: Option<AhoCorasick>,
    /// By needle: only as a whole word, or hiding all that follows.
    needles: Vec<(bool, bool)>,
}

impl Mask {
    /// Of these values, and of the mail addresses within them, in the spellings that texts give them; upper and lower case alike.
    pub fn new(values: impl IntoIterator<Item = String>) -> Self {
        let mut needles: Vec<(String, bool, bool)> = Vec::new();
        for value in values {
            let within = addresses(&value).map(str::to_owned).filter(|address| *address != value).collect::<Vec<_>>();
            for value in std::iter::once(value).chain(within) {
                let value = value.trim();
                if value.chars().count() < LEAST_CHARS || value == REDACTED {
                    continue;
                }
                let cut = &value[..value.floor_char_boundary(MAX_NEEDLE_BYTES)];
                let escaped = Value::from(cut).to_string();
                for spelling in [
                    cut.to_owned(),
                    escaped[1..escaped.len() - 1].to_owned(),
                    utf8_percent_encode(cut, IN_A_URL).to_string(),
                ] {
                    let is_known = needles.iter().any(|(known, ..)| *known == spelling);
                    if !is_known && needles.len() < MAX_NEEDLES {
                        needles.push((spelling, value.len() <= WHOLE_WORD_BYTES, cut.len() < value.len()));
                    }
                }
            }
        }
        if needles.is_empty() {
            return Self::default();
        }
        let searcher = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .build(needles.iter().map(|(needle, ..)| needle));
        Self { searcher: searcher.ok(), needles: needles.into_iter().map(|(_, whole, long)| (whole, long)).collect() }
    }

    /// Whether it looks for anything: too short a value is found in every text.
    pub fn is_empty(&self) -> bool {
        self.searcher.is_none()
    }

    /// Whether one of the values is in a text.
    pub fn finds(&self, text: &str) -> bool {
        self.hits(text, true).next().is_some()
    }

    /// A text without the values, and without what it calls a secret itself (`password=…`, `"token": …`, `Bearer …`).
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.replaced(text, REDACTED) {
            Cow::Borrowed(text) => assignments(text),
            Cow::Owned(text) => assignments(&text).into_owned().into(),
        }
    }

    /// A text with something else in place of the values.
    pub fn replaced<'t>(&self, text: &'t str, by: &str) -> Cow<'t, str> {
        let mut shown = String::new();
        let mut end = 0;
        for hit in self.hits(text, false) {
            if end == 0 || hit.start > end || shown.len() < by.len() {
                shown.push_str(&text[end..hit.start]);
                shown.push_str(by);
            }
            end = hit.end;
        }
        if end == 0 {
            return text.into();
        }
        shown.push_str(&text[end..]);
        shown.into()
    }

    fn hits<'m>(&'m self, text: &'m str, first_only: bool) -> impl Iterator<Item = std::ops::Range<usize>> + 'm {
        let mut at = 0;
        std::iter::from_fn(move || {
            let searcher = self.searcher.as_ref()?;
            while at < text.len() {
                let hit = searcher.find(Input::new(text).span(at..text.len()))?;
                let (whole_word, hides_rest) = self.needles[hit.pattern().as_usize()];
                if whole_word && !is_whole_word(text, hit.start(), hit.end()) {
                    at = text.ceil_char_boundary(hit.start() + 1);
                    continue;
                }
                let end = if hides_rest { text.len() } else { hit.end() };
                at = if first_only { text.len() } else { end };
                return Some(hit.start()..end);
            }
            None
        })
    }
}

fn is_whole_word(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}

/// Without the values that a text itself calls secret: `password=…`, `"token": …`, `Bearer …`.
fn assignments(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut end = 0;
    let places = text.char_indices().filter(|(_, c)| matches!(c, '=' | ':' | ' '));
    for (place, c) in places {
        if place < end {
            continue;
        }
        let value = if c == ' ' { after_scheme(text, place) } else { assigned(text, place, c == ':') };
        if let Some(value) = value.filter(|value| value.start >= end && !text[value.clone()].starts_with(REDACTED)) {
            shown.push_str(&text[end..value.start]);
            shown.push_str(REDACTED);
            end = value.end;
        }
    }
    if end == 0 {
        return text.into();
    }
    shown.push_str(&text[end..]);
    shown.into()
}

/// What a secret name is given: behind `=`, or behind the colon of a quoted name. "password: is missing" is a sentence.
fn assigned(text: &str, place: usize, needs_quotes: bool) -> Option<std::ops::Range<usize>> {
    let before = text[..place].trim_end_matches(' ');
    let name = before.trim_end_matches(['"', '\'']).trim_end_matches('\\');
    if needs_quotes && name.len() == before.len() {
        return None;
    }
    let begin = name
        .rfind(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .map_or(0, |at| at + name[at..].chars().next().map_or(1, char::len_utf8));
    if !is_secret(&name[begin..]) {
        return None;
    }
    let rest = &text[place + 1..];
    let spaces = rest.len() - rest.trim_start_matches(' ').len();
    let (rest, start) = (&rest[spaces..], place + 1 + spaces);
    let quote = ["\\\"", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote));
    let (start, length) = match quote {
        Some(quote) => {
            let inner = &rest[quote.len()..];
            (start + quote.len(), end_of_quoted(inner, quote))
        }
        None => (start, rest.find(|c: char| c.is_whitespace() || ",;&)]}\"'".contains(c)).unwrap_or(rest.len())),
    };
    let value = &text[start..start + length];
    let tells = !value.is_empty() && !["null", "true", "false"].contains(&value) && !value.starts_with(['{', '[']);
    (tells || value.starts_with(REDACTED)).then(|| start..start + length)
}

fn end_of_quoted(text: &str, quote: &str) -> usize {
    let mut at = 0;
    while let Some(found) = text[at..].find(quote) {
        let place = at + found;
        // A quote of the value itself has a backslash more.
        if !text[..place].ends_with('\\') {
            return place;
        }
        at = place + quote.len();
    }
    text.len()
}

/// What stands behind the name of a scheme of HTTP authentication, when it looks like a credential.
fn after_scheme(text: &str, place: usize) -> Option<std::ops::Range<usize>> {
    let scheme = text[..place].rsplit(|c: char| !c.is_ascii_alphanumeric()).next()?;
    if !["bearer", "basic"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return None;
    }
    let rest = &text[place + 1..];
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let token = &rest[..length];
    (length >= 8 && token.contains(|c: char| c.is_ascii_digit() || c == '=')).then_some(place + 1..place + 1 + length)
}

/// Where a document holds [`REDACTED`], as a JSON Pointer: somebody has copied what was shown.
pub fn mark_in(document: &str) -> Option<String> {
    if !document.contains(REDACTED) {
        return None;
    }
    let found = serde_json::from_str::<Value>(document).ok().and_then(|value| place_of_mark(&value));
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
        Value::Object(fields) => {
            fields.iter().find_map(|(name, field)| Some(format!("/{}{}", escape(name), place_of_mark(field)?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction(paths: &[&str]) -> Redaction {
        Redaction::new(&paths.iter().map(|path| path.parse().expect("a path")).collect::<Vec<_>>())
    }

    fn shown(paths: &[&str], data: &str) -> String {
        redaction(paths).data(data).0.text.into_owned()
    }

    #[test]
    fn names_that_mean_a_secret_are_known_in_every_spelling_and_others_are_not() {
        for name in [
            "password",
            "Password",
            "PASSWD",
            "newPassword",
            "smtp_password",
            "passwordHash",
            "client-secret",
            "otp",
            "otpCode",
            "Authorization",
            "api_key",
            "apiKey",
            "APIKEY",
            "x-api-key",
            "accessToken",
            "token",
            "reset_token",
            "credentials",
            "pin",
            "set-cookie",
            "private_key",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "to",
            "subject",
            "tokenCount",
            "maxTokens",
            "shipping",
            "key",
            "keyword",
            "compass",
            "option",
            "author",
            "spin",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn what_is_redacted_is_hidden_and_everything_else_stays_as_it_was_written() {
        let data = r#"{ "z": 1.50, "to": "asha@example.com", "deep": {"Password": "hunter2", "ok": true, "otp": null}, "n": 12345678901234567890123 }"#;
        assert_eq!(
            shown(&["to"], data),
            r#"{"z":1.50,"to":"[redacted]","deep":{"Password":"[redacted]","ok":true,"otp":null},"n":12345678901234567890123}"#
        );
        let plain = r#"{ "b" : 1e5, "a":[ 1 ] , "a": 2}"#;
        assert_eq!(shown(&["to"], plain), plain, "spaces, order, numbers and names that come twice");
        assert_eq!(
            shown(&["list.phone", "none"], r#"{"list":[{"phone":[1,2]},3],"none":null}"#),
            r#"{"list":[{"phone":"[redacted]"},3],"none":null}"#
        );
        let groups = r#"{"otp":{"subject":"Your code","token":"t1"},"credentials":{"user":"u"}}"#;
        assert_eq!(
            shown(&[], groups),
            r#"{"otp":{"subject":"Your code","token":"[redacted]"},"credentials":"[redacted]"}"#
        );
        assert_eq!(shown(&["a"], "{\"a"), REDACTED, "what is no JSON has no paths");
        assert_eq!(shown(&[], "{\"a"), "{\"a");
        let deep = format!("{}\"hunter2\"{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(!shown(&[], &deep).contains("hunter2"), "and no overflow of the stack");
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
            ("no mailbox ASHA@example.com here", "no mailbox [redacted] here"),
            ("GET /?to=asha%40example.com", "GET /?to=[redacted]"),
            ("said hunter2.", "said [redacted]."),
            ("after 47110 ms, code 4711", "after 47110 ms, code [redacted]"),
            ("nothing of it", "nothing of it"),
            ("password=abc&x=1 \"token\": \"a\\\"b\", done", "password=[redacted]&x=1 \"token\": \"[redacted]\", done"),
            ("Authorization: Bearer abc.def1", "Authorization: Bearer [redacted]"),
            ("password: is missing", "password: is missing"),
            ("Basic authentication failed", "Basic authentication failed"),
        ] {
            assert_eq!(mask.text(text), expected);
        }
        assert!(!mask.text(&format!("it was {long}")).contains("xxx"));
        let result =
            r#"{"input":{"to":"Asha <asha@example.com>"},"accepted":["asha@example.com"],"code":4711,"n":4712}"#;
        assert_eq!(
            redaction.document(result, &mask).text,
            r#"{"input":{"to":"[redacted]"},"accepted":["[redacted]"],"code":"[redacted]","n":4712}"#
        );
        assert!(mask.finds("x hunter2") && !mask.finds("hunter23"));
        assert_eq!(mask.replaced("hunter2 hunter2", "[erased]"), "[erased] [erased]");
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
        assert_eq!(mark_in(r#"{"a/b":[1,{"c":"x [redacted]"}]}"#).as_deref(), Some("/a~1b/1/c"));
    }

    #[test]
    fn a_path_is_covered_by_itself_its_parent_and_its_name() {
        let redaction = redaction(&["lead.phone", "to"]);
        for (path, is_covered) in
            [("to", true), ("to.x", true), ("lead.phone", true), ("lead.id", false), ("a.password", true)]
        {
            assert_eq!(redaction.covers(path), is_covered, "{path}");
        }
    }
}
