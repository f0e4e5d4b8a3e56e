//! What commands are given as JSON: the text itself, `@FILE`, or `-` for standard input. No JSON begins with either.

use anyhow::Context;

pub(super) fn given(text: String) -> anyhow::Result<String> {
    match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {file}")),
        None if text == "-" => std::io::read_to_string(std::io::stdin()).context("cannot read standard input"),
        None => Ok(text),
    }
}
