//! Finds values in texts, in the spellings that programs give them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use patchbay_mailbox::{Address, parse_list};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use url::form_urlencoded;

use super::REDACTED;
use super::names::is_secret;
use crate::data_path::addresses;

/// Shorter values are in every text, and reveal nothing.
const LEAST_CHARS: usize = 4;
/// Values up to this length match only as whole words: four digits are part of many numbers.
const WHOLE_WORD_BYTES: usize = 8;
/// Only the beginning of longer values is searched for, and everything after it is hidden.
const MAX_NEEDLE_BYTES: usize = 128;
/// All spellings of all values together: some ten thousand mail addresses. A search for them takes
/// 50 MB and half a second of preparation.
const MAX_BYTES: usize = 2 << 20;
/// From this number of values on, the searcher is one that is built faster and searches slower.
const MANY: usize = 1_000;

/// RFC 3986: all but the unreserved characters.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// JavaScript's `encodeURIComponent`.
const COMPONENT: &AsciiSet = &STRICT
    .remove(b'!')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*');
/// JavaScript's `encodeURI`.
const WHOLE_URI: &AsciiSet = &COMPONENT
    .remove(b';')
    .remove(b',')
    .remove(b'/')
    .remove(b'?')
    .remove(b':')
    .remove(b'@')
    .remove(b'&')
    .remove(b'=')
    .remove(b'+')
    .remove(b'$')
    .remove(b'#');

/// Finds values in texts: hidden values of a job, or values of a person who is to be erased.
#[derive(Debug, Default)]
pub struct Mask {
    searcher: Option<AhoCorasick>,
    needles: Vec<Needle>,
    /// Every text is hidden whole: there are more values than can be searched for, or nothing of the
    /// job may be seen.
    hides_all: bool,
}

#[derive(Debug, Clone, Copy)]
struct Needle {
    whole_word: bool,
    /// Everything after the value is hidden.
    hides_rest: bool,
}

impl Mask {
    /// Searches for values, and mail addresses within them, in all spellings and letter cases.
    pub fn new(values: impl IntoIterator<Item = String>) -> Self {
        let (mut known, mut texts, mut needles, mut bytes) =
            (HashSet::new(), Vec::new(), Vec::new(), 0);
        for value in values.into_iter().flat_map(|value| forms(&value)) {
            let value = value.trim();
            if value.chars().take(LEAST_CHARS).count() < LEAST_CHARS || value == REDACTED {
                continue;
            }
            let cut = &value[..value.floor_char_boundary(MAX_NEEDLE_BYTES)];
            let needle = Needle {
                whole_word: value.len() <= WHOLE_WORD_BYTES,
                hides_rest: cut.len() < value.len(),
            };
            for spelling in spellings(cut) {
                let spelling = Folded::new(&spelling).text.into_owned();
                if known.insert(spelling.clone()) {
                    bytes += spelling.len();
                    texts.push(spelling);
                    needles.push(needle);
                }
            }
            if bytes > MAX_BYTES {
                return Self {
                    hides_all: true,
                    ..Self::default()
                };
            }
        }
        if needles.is_empty() {
            return Self::default();
        }
        let searcher = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .kind((needles.len() > MANY).then_some(AhoCorasickKind::NoncontiguousNFA))
            .build(&texts);
        // Building fails only for more data than is possible here; then everything is hidden.
        Self {
            hides_all: searcher.is_err(),
            searcher: searcher.ok(),
            needles,
        }
    }

    /// Hides every text whole.
    pub fn of_everything() -> Self {
        Self {
            hides_all: true,
            ..Self::default()
        }
    }

    /// Whether it searches for nothing. Short values are left out: every text has them.
    pub fn is_empty(&self) -> bool {
        self.searcher.is_none() && !self.hides_all
    }

    /// Whether nothing of the job is shown.
    pub(super) fn hides_all(&self) -> bool {
        self.hides_all
    }

    pub fn finds(&self, text: &str) -> bool {
        self.hits(&Folded::new(text), text).next().is_some()
    }

    /// Hides the values in each text; returns the number of texts that changed.
    pub fn hide<'t>(&self, texts: impl IntoIterator<Item = &'t mut String>) -> usize {
        let mut hidden = 0;
        for text in texts {
            let shown = self.text(text);
            if shown != *text {
                *text = shown.into_owned();
                hidden += 1;
            }
        }
        hidden
    }

    /// A text without the values, and without what the text itself calls a secret (`password=…`,
    /// `"token": …`, `Bearer …`).
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.replaced(text, REDACTED) {
            Cow::Borrowed(text) => assignments(text, is_secret),
            Cow::Owned(text) => assignments(&text, is_secret).into_owned().into(),
        }
    }

    /// A text with the values replaced.
    pub fn replaced<'t>(&self, text: &'t str, by: &str) -> Cow<'t, str> {
        if self.hides_all && !text.is_empty() {
            return by.to_owned().into();
        }
        let folded = Folded::new(text);
        let mut shown = String::new();
        let mut end = 0;
        for hit in self.hits(&folded, text) {
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

    /// Cuts a longer text, but not within a value: half a value would not be found any more.
    pub fn cut(&self, text: &mut String, max_bytes: usize) {
        if text.len() <= max_bytes {
            return;
        }
        let through = {
            let folded = Folded::new(text);
            let mut hits = self
                .hits(&folded, text)
                .take_while(|hit| hit.start < max_bytes);
            hits.find(|hit| hit.end > max_bytes)
        };
        text.truncate(text.floor_char_boundary(through.map_or(max_bytes, |hit| hit.start)));
    }

    fn hits<'m>(
        &'m self,
        folded: &'m Folded<'_>,
        text: &'m str,
    ) -> impl Iterator<Item = Range<usize>> + 'm {
        let mut at = 0;
        std::iter::from_fn(move || {
            let searcher = self.searcher.as_ref()?;
            while at < folded.text.len() {
                let found = searcher.find(Input::new(&*folded.text).span(at..folded.text.len()))?;
                let needle = self.needles[found.pattern().as_usize()];
                let hit = folded.place(text, found.start()..found.end());
                if needle.whole_word && !is_whole_word(text, &hit) {
                    at = folded.text.ceil_char_boundary(found.start() + 1);
                    continue;
                }
                at = if needle.hides_rest {
                    folded.text.len()
                } else {
                    found.end()
                };
                return Some(
                    hit.start..if needle.hides_rest {
                        text.len()
                    } else {
                        hit.end
                    },
                );
            }
            None
        })
    }
}

/// The value, and its mail addresses, as written and in all spellings of the same mailbox.
pub fn forms(value: &str) -> Vec<String> {
    let mut forms = vec![value.to_owned()];
    if !value.contains('@') {
        return forms;
    }
    let mut add = |form: String| {
        if form != value {
            forms.push(form);
        }
    };
    let of_list = parse_list(value).unwrap_or_default();
    let is_list = !of_list.is_empty();
    of_list
        .iter()
        .flat_map(|mailbox| mailbox.address.spellings())
        .for_each(&mut add);
    for part in addresses(value) {
        // The address may end a sentence.
        let part = part.trim_end_matches(['.', '!', '?']);
        if let (false, Ok(address)) = (is_list, part.parse::<Address>()) {
            address.spellings().into_iter().for_each(&mut add);
        }
        add(part.to_owned());
    }
    forms
}

/// How programs write a value: unchanged, in JSON (also nested), in URLs and forms, in HTML. The
/// first is the value itself.
pub fn spellings(value: &str) -> Vec<String> {
    let mut spellings = vec![value.to_owned()];
    let mut add = |spelling: String| {
        if !spellings.contains(&spelling) {
            spellings.push(spelling);
        }
    };
    for json in [in_json(value), ascii_json(value)] {
        let within = in_json(&json);
        add(json);
        add(within);
    }
    for set in [STRICT, COMPONENT, WHOLE_URI] {
        let encoded = utf8_percent_encode(value, set).to_string();
        add(encoded.replace("%20", "+"));
        add(encoded);
    }
    add(form_urlencoded::byte_serialize(value.as_bytes()).collect());
    if value.contains(['&', '<', '>', '"', '\'']) {
        let html = value
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        add(html.replace('"', "&quot;"));
        for apostrophe in ["&#39;", "&#x27;", "&apos;"] {
            add(html.replace('"', "&quot;").replace('\'', apostrophe));
        }
    }
    spellings
}

/// As in a JSON text, without the quotes around it.
fn in_json(value: &str) -> String {
    let quoted = Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// As Python writes JSON: only ASCII.
fn ascii_json(value: &str) -> String {
    let mut text = String::new();
    for c in in_json(value).chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            text.extend(
                c.encode_utf16(&mut units)
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}")),
            );
        }
    }
    text
}

/// A text with upper and lower case folded. ASCII is left to the searcher.
struct Folded<'t> {
    text: Cow<'t, str>,
    /// Where each byte's character begins in the original. Empty where both texts are the same.
    origins: Vec<usize>,
}

impl<'t> Folded<'t> {
    fn new(text: &'t str) -> Self {
        if text.is_ascii() {
            return Self {
                text: text.into(),
                origins: Vec::new(),
            };
        }
        let (mut folded, mut origins) = (
            String::with_capacity(text.len()),
            Vec::with_capacity(text.len()),
        );
        for (place, c) in text.char_indices() {
            match c {
                'ß' | 'ẞ' => folded.push_str("ss"),
                'ς' => folded.push('σ'),
                c => folded.extend(c.to_lowercase()),
            }
            origins.resize(folded.len(), place);
        }
        Self {
            text: folded.into(),
            origins,
        }
    }

    /// The same range in the original text.
    fn place(&self, text: &str, found: Range<usize>) -> Range<usize> {
        if self.origins.is_empty() {
            return found;
        }
        let last = self.origins[found.end - 1];
        self.origins[found.start]..text.ceil_char_boundary(last + 1)
    }
}

/// Letters, digits and `_` continue a word, except where they belong to an escape before it, such
/// as `%20` or `\n`.
fn is_whole_word(text: &str, hit: &Range<usize>) -> bool {
    let continues = |c: char| c.is_alphanumeric() || c == '_';
    let before = &text[..hit.start];
    let is_begin = !before.ends_with(continues) || ends_with_escape(before);
    is_begin && !text[hit.end..].starts_with(continues)
}

fn ends_with_escape(text: &str) -> bool {
    let hexadecimal = |digits: usize, mark: &str| {
        let place = text
            .len()
            .checked_sub(digits)
            .filter(|place| text.is_char_boundary(*place));
        place.is_some_and(|place| {
            text[..place].ends_with(mark)
                && text[place..].bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    ["\\n", "\\r", "\\t", "\\b", "\\f"]
        .iter()
        .any(|escape| text.ends_with(escape))
        || hexadecimal(2, "%")
        || hexadecimal(4, "\\u")
}

/// Hides values that the text itself gives a hidden name, and credentials: `password=…`,
/// `"token": …`, `Bearer …`.
pub(super) fn assignments(text: &str, is_hidden: fn(&str) -> bool) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut end = 0;
    let places = text
        .char_indices()
        .filter(|(_, c)| matches!(c, '=' | ':' | ' '));
    for (place, c) in places {
        if place < end {
            continue;
        }
        let value = if c == ' ' {
            after_scheme(text, place)
        } else {
            assigned(text, place, c == ':', is_hidden)
        };
        if let Some(value) =
            value.filter(|value| value.start >= end && !text[value.clone()].starts_with(REDACTED))
        {
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

/// The value of a hidden name: after `=`, or after the colon of a quoted name. "password: is
/// missing" is a sentence.
fn assigned(
    text: &str,
    place: usize,
    needs_quotes: bool,
    is_hidden: fn(&str) -> bool,
) -> Option<std::ops::Range<usize>> {
    let before = text[..place].trim_end_matches(' ');
    let name = before.trim_end_matches(['"', '\'']).trim_end_matches('\\');
    if needs_quotes && name.len() == before.len() {
        return None;
    }
    let begin = name
        .rfind(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .map_or(0, |at| {
            at + name[at..].chars().next().map_or(1, char::len_utf8)
        });
    if !is_hidden(&name[begin..]) {
        return None;
    }
    let rest = &text[place + 1..];
    let spaces = rest.len() - rest.trim_start_matches(' ').len();
    let (rest, start) = (&rest[spaces..], place + 1 + spaces);
    let quote = ["\\\"", "\"", "'"]
        .into_iter()
        .find(|quote| rest.starts_with(quote));
    let (start, length) = match quote {
        Some(quote) => {
            let inner = &rest[quote.len()..];
            (start + quote.len(), end_of_quoted(inner, quote))
        }
        None => (
            start,
            rest.find(|c: char| c.is_whitespace() || ",;&)]}\"'".contains(c))
                .unwrap_or(rest.len()),
        ),
    };
    let value = &text[start..start + length];
    let tells = !value.is_empty()
        && !["null", "true", "false"].contains(&value)
        && !value.starts_with(['{', '[']);
    (tells || value.starts_with(REDACTED)).then(|| start..start + length)
}

fn end_of_quoted(text: &str, quote: &str) -> usize {
    let mut at = 0;
    while let Some(found) = text[at..].find(quote) {
        let place = at + found;
        // A quote inside the value has one more backslash.
        if !text[..place].ends_with('\\') {
            return place;
        }
        at = place + quote.len();
    }
    text.len()
}

/// The text after the name of an HTTP authentication scheme, if it looks like a credential.
fn after_scheme(text: &str, place: usize) -> Option<std::ops::Range<usize>> {
    let scheme = text[..place]
        .rsplit(|c: char| !c.is_ascii_alphanumeric())
        .next()?;
    if !["bearer", "basic"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return None;
    }
    let rest = &text[place + 1..];
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let token = &rest[..length];
    (length >= 8 && token.contains(|c: char| c.is_ascii_digit() || c == '='))
        .then_some(place + 1..place + 1 + length)
}

#[cfg(test)]
mod tests;
