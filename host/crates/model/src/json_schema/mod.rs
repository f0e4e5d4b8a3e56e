//! JSON Schemas of settings, of job data and of audit entries.
//!
//! Only this module compiles schemas and validates documents. Both are bounded for every schema:
//! nothing is fetched, patterns take linear time, and a schema whose checks would take too long is
//! refused ([`expansion`]). A large document may still take tens of milliseconds: async callers use
//! a blocking thread.

mod expansion;
mod messages;
mod places;
mod reasons;
mod violations;

use std::panic::AssertUnwindSafe;
use std::thread;

use jsonschema::{PatternOptions, Validator};
use parking_lot::Mutex;
use serde_json::Value;

use self::places::Places;
pub use self::violations::{Violation, Violations};

/// Largest schema. The schema of a trail is read for each entry.
pub const MAX_BYTES: usize = 64 << 10;
/// Maximum nesting of a schema: clients' parsers must read lists of schemas, and stop at 128.
const MAX_LEVELS: usize = 100;
/// Limit of `values of a document × checks of a value`: some seconds.
const MAX_CHECKS: u64 = 20_000_000;
/// Above this product, the reasons are not listed: they would need more memory than the document.
const MAX_CHECKS_REPORTED: u64 = 100_000;
/// Compiled patterns of one schema together.
const MAX_PATTERN_BYTES: usize = 16 << 20;
/// The library recurses over schema and document, as deep as [`expansion`] allows.
const STACK_BYTES: usize = 64 << 20;
/// A schema whose subschemas lead at most so deep is validated on the caller's stack: whatever the
/// document, the library recurses no deeper.
const MAX_SHALLOW: usize = 32;
/// Checks that take well below a millisecond.
const MAX_QUICK: u64 = 5_000;

/// Only one schema is compiled at a time: many large ones at once must not take all cores.
static COMPILING: Mutex<()> = Mutex::new(());

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    /// Most checks of one value of a document.
    checks: u64,
    /// Whether the caller's stack suffices.
    is_shallow: bool,
}

/// Whether reasons contain the document's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// The reader wrote the values.
    Shown,
    /// The values may be personal.
    Withheld,
}

impl Schema {
    /// Returns why the schema cannot be used, and where.
    pub fn new(schema: &Value) -> Result<Self, String> {
        let bytes = schema.to_string().len();
        if bytes > MAX_BYTES {
            return Err(format!("{bytes} bytes; the limit is {MAX_BYTES}"));
        }
        if depth(schema) > MAX_LEVELS {
            return Err(format!("is nested more than {MAX_LEVELS} levels deep"));
        }
        let _alone = COMPILING.lock();
        on_a_deep_stack(|| {
            let places = Places::of(schema)?;
            let checks = expansion::checks(&places)?;
            let mut nameless = schema.clone();
            // The `$id` could be one that the library knows; references would then mean that
            // schema.
            nameless
                .as_object_mut()
                .map(|keywords| keywords.remove("$id"));
            jsonschema::meta::validate(&nameless).map_err(|error| messages::of_a_schema(&error))?;
            let patterns =
                PatternOptions::regex().size_limit(MAX_PATTERN_BYTES / places.patterns.max(1));
            let options = jsonschema::options()
                .offline()
                .with_pattern_options(patterns);
            let validator = options
                .build(&nameless)
                .map_err(|error| messages::of_a_schema(&error))?;
            let is_shallow = places.steps().is_some_and(|steps| steps <= MAX_SHALLOW);
            Ok(Self {
                validator,
                checks,
                is_shallow,
            })
        })?
    }

    /// Whether [`Schema::fits`] takes so little time that async callers need no blocking thread.
    pub fn is_quick_for(&self, document: &Value) -> bool {
        self.is_shallow && self.checks.saturating_mul(size(document)) <= MAX_QUICK
    }

    /// Validates a document. The error has up to `most` reasons, each with the path of its value.
    pub fn fits(&self, document: &Value, values: Values, most: usize) -> Result<(), Violations> {
        let checks = self.checks.saturating_mul(size(document));
        if checks > MAX_CHECKS {
            return Err(Violations::whole(
                "too large for this schema: it takes too many checks",
            ));
        }
        let check = || {
            if self.validator.is_valid(document) {
                return Ok(());
            }
            if checks > MAX_CHECKS_REPORTED {
                return Err(Violations::whole(
                    "does not fit, and is too large for the host to say where. Try a smaller value",
                ));
            }
            let violations = self.validator.iter_errors(document).map(|error| Violation {
                path: error.instance_path().to_string(),
                message: reasons::of_a_value(&error, values),
            });
            Err(Violations::first(violations, most))
        };
        let checked = match self.is_shallow {
            true => std::panic::catch_unwind(AssertUnwindSafe(check)).map_err(|_| fault()),
            false => on_a_deep_stack(check),
        };
        checked.unwrap_or_else(|reason| Err(Violations::whole(reason)))
    }
}

/// Returns why a document cannot be used as a JSON Schema.
pub fn check(schema: &Value) -> Result<(), String> {
    Schema::new(schema).map(drop)
}

/// Number of values in a document, itself included. A text, which patterns read, counts as more.
fn size(document: &Value) -> u64 {
    1 + match document {
        Value::String(text) => text.len() as u64 / 64,
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.values().map(size).sum(),
        _ => 0,
    }
}

/// Nesting of lists and objects.
pub fn depth(document: &Value) -> usize {
    match document {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// A stack overflow would end the host, so this runs on a large stack.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("json-schema".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("the host cannot start a thread: {error}"))?;
        thread.join().map_err(|_| fault())
    })
}

fn fault() -> String {
    "the schema cannot be used, because of a fault in the host".to_owned()
}

#[cfg(test)]
mod tests;
