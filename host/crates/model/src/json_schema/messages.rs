//! Explains why a document is not a JSON Schema: where, and what is allowed there.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;

const A_SCHEMA: &str = "must be a schema: an object, true or false";

/// Formatted as `#/path: sentence`.
pub(super) fn of_a_schema(error: &ValidationError) -> String {
    let path = error.instance_path().to_string();
    let keyword = path
        .rsplit('/')
        .find(|part| part.parse::<usize>().is_err())
        .unwrap_or_default();
    let sentence = match error.kind() {
        ValidationErrorKind::Format { format } if format == "regex" => {
            "is not a supported regular expression: look-around, back-references and very large expressions are not supported"
        }
        ValidationErrorKind::Referencing(_) => "refers to a schema that does not exist",
        _ => wanted(keyword),
    };
    format!("not a JSON Schema: #{path}: {sentence}")
}

fn wanted(keyword: &str) -> &'static str {
    match keyword {
        "type" => {
            "must be one of array, boolean, integer, null, number, object and string, or a list of them without repeats"
        }
        "enum" | "examples" => "must be a list of values",
        "required" => "must be a list of property names without repeats",
        "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas"
        | "dependencies" => "must be an object of schemas, by name",
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => "must be a list of at least one schema",
        "items" => {
            "must be a schema: an object, true or false (for a list of schemas, use prefixItems)"
        }
        "additionalProperties" | "propertyNames" | "contains" | "not" | "if" | "then" | "else" => {
            A_SCHEMA
        }
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
        | "minContains" | "maxContains" => "must be a whole number, 0 or more",
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => "must be a number",
        "multipleOf" => "must be a number greater than 0",
        "uniqueItems" | "deprecated" | "readOnly" | "writeOnly" => "must be true or false",
        "dependentRequired" => "must be an object of lists of names",
        "$ref" | "$anchor" | "$comment" | "title" | "description" | "pattern" | "format" => {
            "must be text"
        }
        "" => A_SCHEMA,
        _ => "has a value that JSON Schema does not allow here",
    }
}
