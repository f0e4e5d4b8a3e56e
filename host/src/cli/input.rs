//! What commands are given as JSON: the text itself, `@FILE`, or `-` for standard input. No JSON begins with either.

use anyhow::Context;
use serde_json::value::RawValue;

/// As it was written: reading it would round its numbers, and sort its keys.
pub(super) fn given_json(text: String, what: &str) -> anyhow::Result<Box<RawValue>> {
    json(given(text)?, what)
}

/// Likewise, of the text itself.
pub(super) fn json(text: String, what: &str) -> anyhow::Result<Box<RawValue>> {
    RawValue::from_string(text.trim().to_owned()).with_context(|| format!("{what} is not JSON"))
}

pub(super) fn given(text: String) -> anyhow::Result<String> {
    match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {file}")),
        None if text == "-" => std::io::read_to_string(std::io::stdin()).context("cannot read standard input"),
        None => Ok(text),
    }
}
