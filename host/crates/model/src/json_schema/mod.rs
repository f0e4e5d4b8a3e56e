//! JSON Schemas that people write: of settings, of job data, of audit entries.
//!
//! The only place where they are compiled and documents are held against them. Both are bounded, whatever a schema says: nothing is
//! fetched, patterns take linear time, and what would take for ever is refused when the schema is checked ([`expansion`]). What is large
//! may still take tens of milliseconds: callers on async threads use a blocking one.

mod expansion;
mod places;
mod words;

use std::thread;

use jsonschema::{PatternOptions, ValidationError, Validator};
use parking_lot::Mutex;
use serde_json::Value;

use self::places::Places;

/// Largest schema. Of trails it is read for each entry.
pub const MAX_BYTES: usize = 64 << 10;
/// How deep a schema nests: lists of schemas must remain readable for clients, whose parsers stop at 128.
const MAX_LEVELS: usize = 100;
/// Largest `document values × checks of a value`: some seconds.
const MAX_CHECKS: u64 = 20_000_000;
/// Beyond this many of them, what does not fit is not told in detail: the reasons would need more memory than the document.
const MAX_CHECKS_TOLD: u64 = 100_000;
/// Compiled patterns of a schema together.
const MAX_PATTERN_BYTES: usize = 16 << 20;
/// The library recurses with schema and document, as deep as [`expansion`] allows.
const STACK_BYTES: usize = 64 << 20;

/// Schemas are compiled one at a time: many large ones at once must not take all cores.
static COMPILING: Mutex<()> = Mutex::new(());

/// A schema that can be used.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// How often one value of a document is looked at, at most.
    checks: u64,
}

/// Whether what does not fit is told with its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// They are of whoever reads it.
    Shown,
    /// They may be personal.
    Withheld,
}

impl Schema {
    /// Compiles it, or says why it cannot be used, and where.
    pub fn new(schema: &Value) -> Result<Self, String> {
        let bytes = schema.to_string().len();
        if bytes > MAX_BYTES {
            return Err(format!("{bytes} bytes, and at most {MAX_BYTES} are read"));
        }
        if depth(schema) > MAX_LEVELS {
            return Err(format!("nests more than {MAX_LEVELS} levels"));
        }
        let _alone = COMPILING.lock();
        on_a_deep_stack(|| {
            let places = Places::of(schema)?;
            let checks = expansion::checks(&places)?;
            let mut nameless = schema.clone();
            // It could take the name of something that the library knows, whose parts its references would then mean.
            nameless.as_object_mut().map(|keywords| keywords.remove("$id"));
            jsonschema::meta::validate(&nameless).map_err(|error| words::of_a_schema(&error))?;
            let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES / places.patterns.max(1));
            let options = jsonschema::options().offline().with_pattern_options(patterns);
            let validator = options.build(&nameless).map_err(|error| words::of_a_schema(&error))?;
            Ok(Self { validator, checks })
        })?
    }

    /// Whether the document fits: otherwise up to `most` reasons, each with the path of its value.
    pub fn fits(&self, document: &Value, values: Values, most: usize) -> Result<(), Vec<String>> {
        let checks = self.checks.saturating_mul(size(document));
        if checks > MAX_CHECKS {
            return Err(vec!["too large for this schema: it takes too many checks".into()]);
        }
        let told = |error: ValidationError| match values {
            Values::Shown => format!("{}: {error}", error.instance_path()),
            Values::Withheld => format!("{}: {}", error.instance_path(), error.masked()),
        };
        on_a_deep_stack(|| {
            if self.validator.is_valid(document) {
                return Ok(());
            }
            if checks > MAX_CHECKS_TOLD {
                return Err(vec!["does not fit, and is too large to say where: try it with less in it".into()]);
            }
            Err(self.validator.iter_errors(document).take(most).map(told).collect())
        })
        .unwrap_or_else(|reason| Err(vec![reason]))
    }
}

/// Why a document cannot be used as a JSON Schema, if so.
pub fn check(schema: &Value) -> Result<(), String> {
    Schema::new(schema).map(drop)
}

/// Values in a document, itself included; a text, which patterns read to its end, counts as more.
fn size(document: &Value) -> u64 {
    1 + match document {
        Value::String(text) => text.len() as u64 / 64,
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.values().map(size).sum(),
        _ => 0,
    }
}

/// Lists and objects within each other.
pub fn depth(document: &Value) -> usize {
    match document {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// An overflow of the stack would end the host.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("json-schema".into()).stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("this machine starts no further thread: {error}"))?;
        thread.join().map_err(|_| "the schema cannot be used: a fault of the host".to_owned())
    })
}

#[cfg(test)]
mod tests;
