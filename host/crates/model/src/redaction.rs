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
use crate::lossy_text::{LossyText, Members};

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
                let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(value.get()) else {
                    return Some(self.hide(value));
                };
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
                let Ok(LossyText(text)) = serde_json::from_str(value.get()) else {
                    return Some(self.hide(value));
                };
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
        let Ok(Members(members)) = serde_json::from_str(value.get()) else {
            return Some(self.hide(value));
        };
        let mut is_changed = false;
        let mut parts = Vec::with_capacity(members.len());
        for (name, member) in members {
            let deeper: Vec<&[&str]> = paths
                .iter()
                .filter(|keys| keys.first() == Some(&name.as_str()))
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
            let Ok(LossyText(text)) = serde_json::from_str(value.get()) else {
                return values.push(value.get().to_owned());
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
mod tests;
