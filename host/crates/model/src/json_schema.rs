//! JSON Schemas that people write: of settings, of job data, of audit entries.

use serde_json::Value;

/// Why a document cannot be used as a JSON Schema, if so. Compiled once here, so that a `$ref` that leads nowhere is found now.
pub fn check(schema: &Value) -> Result<(), String> {
    jsonschema::meta::validate(schema).map_err(|error| format!("not a JSON Schema: {error}"))?;
    jsonschema::validator_for(schema).map(drop).map_err(|error| error.to_string())
}
