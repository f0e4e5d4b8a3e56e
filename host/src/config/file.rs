//! `patchbay.toml`.

use std::collections::BTreeMap;

use toml::Value;

use super::entry::{ConfigEntry, suggestion};
use super::kind::Form;

/// The values of a file by key: `work.lock_s` for `lock_s` in the section `[work]`.
#[derive(Default)]
pub(super) struct File(BTreeMap<String, Value>);

/// Sections within sections.
const INNER: [&str; 1] = ["operators.oidc"];

/// The values of an inner section by key; any other value under its own.
fn within(key: String, value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Table(keys) if INNER.contains(&key.as_str()) => keys
            .into_iter()
            .map(|(inner, value)| (format!("{key}.{inner}"), value))
            .collect(),
        value => vec![(key, value)],
    }
}

impl File {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            // The message quotes the line, which may hold a password; the line's number is enough.
            let line = error.span().map_or(0, |span| {
                text[..span.start.min(text.len())].lines().count().max(1)
            });
            format!("patchbay.toml, line {line}: {}", error.message())
        })?;
        let mut values = BTreeMap::new();
        for (section, value) in table {
            match value {
                Value::Table(keys) => {
                    values.extend(
                        keys.into_iter()
                            .flat_map(|(key, value)| within(format!("{section}.{key}"), value)),
                    );
                }
                value => {
                    values.insert(section, value);
                }
            }
        }
        Ok(Self(values))
    }

    /// The text of a value, and a problem if it has the wrong type.
    pub(super) fn get(&self, key: &str, form: Form) -> Option<(String, Option<String>)> {
        let text = match (self.0.get(key)?, form) {
            (Value::String(text), _) => text.clone(),
            (Value::Integer(number), _) => number.to_string(),
            (Value::Float(number), _) => number.to_string(),
            (Value::Boolean(answer), Form::Boolean) => answer.to_string(),
            (Value::Array(items), Form::Array) => {
                let items = items.iter().map(|item| {
                    item.as_str()
                        .map_or_else(|| item.to_string(), str::to_owned)
                });
                items.collect::<Vec<_>>().join(",")
            }
            (other, _) => {
                let expected = match form {
                    Form::Scalar => "a single value",
                    Form::Boolean => "true or false",
                    Form::Array => "a list of values",
                };
                let problem = format!(
                    "{key} (in patchbay.toml): must be {expected}, not of type {}",
                    other.type_str()
                );
                // Not its text: a value that was meant for another key may be a password.
                return Some((format!("({})", other.type_str()), Some(problem)));
            }
        };
        Some((text, None))
    }

    pub(super) fn unknown(&self, entries: &[&ConfigEntry]) -> Vec<String> {
        let unknown = self
            .0
            .keys()
            .filter(|key| !entries.iter().any(|entry| entry.key == *key));
        let problem = |key: &String| {
            format!(
                "{key} (in patchbay.toml) is not a known key{}",
                suggestion(key, entries)
            )
        };
        unknown.map(problem).collect()
    }
}
