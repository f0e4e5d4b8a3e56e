//! Why a value does not fit its schema, for people who do not know JSON Schema: what is expected,
//! and what was found.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::types::JsonType;
use serde_json::Value;

use super::Values;
use crate::words::counted;

/// Alternatives, and values of a list, that a reason names.
const MAX_ALTERNATIVES: usize = 4;
/// Reasons that are told of each alternative.
const MAX_REASONS: usize = 3;
/// Alternatives within alternatives that are told.
const MAX_LEVELS: usize = 2;
/// Characters of a value or of a part of a schema.
const MAX_TEXT: usize = 100;

/// The reason, without the path of the value.
pub(super) fn of_a_value(error: &ValidationError, values: Values) -> String {
    told(error, values, MAX_LEVELS)
}

fn told(error: &ValidationError, values: Values, levels: usize) -> String {
    let found = || found(error.instance(), values);
    if let Some(expected) = expected(error.kind()) {
        return format!("must be {expected}, and is {}", found());
    }
    match error.kind() {
        Kind::Required { property } => format!("{property} is missing"),
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            format!("{} not allowed here", names(unexpected))
        }
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            alternatives(error, context, values, levels)
        }
        Kind::OneOfMultipleValid { .. } => {
            "fits more than one of the alternatives, of which it must fit exactly one".to_owned()
        }
        Kind::Not { schema } => {
            format!(
                "must not be of this form: {}",
                shortened(&schema.to_string())
            )
        }
        Kind::FalseSchema => "is not allowed here".to_owned(),
        Kind::Contains => "has no item of the form that one must have".to_owned(),
        Kind::Format { format } => format!("must be a {format}"),
        Kind::Pattern { pattern } => {
            format!("must match the regular expression {}", shortened(pattern))
        }
        Kind::MinLength { limit } => format!("must have at least {}", counted(*limit, "character")),
        Kind::MaxLength { limit } => format!("must have at most {}", counted(*limit, "character")),
        Kind::MinItems { limit } => format!("must have at least {}", counted(*limit, "item")),
        Kind::MaxItems { limit } => format!("must have at most {}", counted(*limit, "item")),
        Kind::AdditionalItems { limit } => {
            format!("must have at most {}", counted(*limit as u64, "item"))
        }
        Kind::UnevaluatedItems { .. } => "has items that are not allowed here".to_owned(),
        Kind::MinProperties { limit } => format!("must have at least {}", counted(*limit, "field")),
        Kind::MaxProperties { limit } => format!("must have at most {}", counted(*limit, "field")),
        Kind::Minimum { limit } => format!("must be {limit} or more"),
        Kind::Maximum { limit } => format!("must be {limit} or less"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::UniqueItems => "has the same item twice".to_owned(),
        // A name may be personal, as a value may.
        Kind::PropertyNames { error } => {
            format!(
                "the name of a field does not fit: {}",
                told(error, values, levels)
            )
        }
        _ => match values {
            Values::Shown => error.to_string(),
            Values::Withheld => error.masked().to_string(),
        },
    }
}

/// What a value must be, if that is a matter of its type or of listed values.
fn expected(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Type {
            kind: TypeKind::Single(one),
        } => Some(type_name(*one).to_owned()),
        Kind::Type {
            kind: TypeKind::Multiple(types),
        } => Some(either(types.iter().map(|one| type_name(one).to_owned()))),
        Kind::Constant { expected_value } => Some(shortened(&expected_value.to_string())),
        Kind::Enum { options } => {
            let options = options.as_array().into_iter().flatten();
            Some(either(options.map(|one| shortened(&one.to_string()))))
        }
        _ => None,
    }
}

/// That a value fits none of its alternatives, with what each of them expects.
fn alternatives(
    error: &ValidationError,
    context: &[Vec<ValidationError<'static>>],
    values: Values,
    levels: usize,
) -> String {
    let place = error.instance_path().to_string();
    let about_itself = |reasons: &Vec<ValidationError<'static>>| match reasons.as_slice() {
        [one] if one.instance_path().to_string() == place => expected(one.kind()),
        _ => None,
    };
    let simple: Option<Vec<String>> = context.iter().map(about_itself).collect();
    if let Some(simple) = simple.filter(|simple| !simple.is_empty()) {
        return format!(
            "must be {}, and is {}",
            either(simple.into_iter()),
            found(error.instance(), values)
        );
    }
    let count = context.len() as u64;
    let head = format!("fits none of {}", counted(count, "alternative"));
    let Some(levels) = levels.checked_sub(1) else {
        return head;
    };
    let reason = |one: &ValidationError<'static>| {
        let path = one.instance_path().to_string();
        let path = path.strip_prefix(&place).unwrap_or(&path);
        let reason = told(one, values, levels);
        match path.is_empty() {
            true => reason,
            false => format!("{path} {reason}"),
        }
    };
    let shown = context.iter().take(MAX_ALTERNATIVES).enumerate();
    let mut parts: Vec<String> = shown
        .map(|(n, reasons)| {
            let told: Vec<String> = reasons.iter().take(MAX_REASONS).map(reason).collect();
            format!("({}) {}", n + 1, told.join(", "))
        })
        .collect();
    if context.len() > MAX_ALTERNATIVES {
        parts.push(format!("and {} more", context.len() - MAX_ALTERNATIVES));
    }
    format!("{head}: {}", parts.join("; "))
}

/// `a, b or c`; of many the first ones.
fn either(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = all.collect();
    all.dedup();
    if all.len() > MAX_ALTERNATIVES + 1 {
        let rest = all.len() - MAX_ALTERNATIVES;
        all.truncate(MAX_ALTERNATIVES);
        all.push(format!("one of {rest} others"));
    }
    match all.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => all.concat(),
    }
}

/// What is there: its type, or itself where its reader wrote it.
fn found(value: &Value, values: Values) -> String {
    match (values, value) {
        (Values::Shown, value) => shortened(&value.to_string()),
        (_, Value::Number(number)) => match number.as_f64().is_some_and(|n| n.fract() != 0.0) {
            true => "a number with a fraction".to_owned(),
            false => "a whole number".to_owned(),
        },
        (_, value) => type_name(JsonType::from(value)).to_owned(),
    }
}

fn type_name(of: JsonType) -> &'static str {
    match of {
        JsonType::Null => "null",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::String => "a text",
        JsonType::Array => "a list",
        JsonType::Object => "an object",
    }
}

/// `"a" and "b" are`.
fn names(unexpected: &[String]) -> String {
    let shown: Vec<String> = unexpected
        .iter()
        .take(MAX_ALTERNATIVES)
        .map(|name| format!("{:?}", shortened(name)))
        .collect();
    let rest = unexpected.len() - shown.len();
    match (unexpected.len(), rest) {
        (1, _) => format!("{} is", shown.concat()),
        (_, 0) => format!("{} are", shown.join(", ")),
        (_, rest) => format!("{} and {rest} more are", shown.join(", ")),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Schema;
    use super::*;

    fn why(schema: Value, document: Value, values: Values) -> String {
        let schema = Schema::new(&schema).expect("a schema");
        let violations = schema.fits(&document, values, 5).expect_err("a misfit");
        violations.to_string()
    }

    #[test]
    fn alternatives_are_told_with_what_is_expected_and_what_was_found() {
        let hidden = |schema, document| why(schema, document, Values::Withheld);
        let text_or_list =
            json!({ "anyOf": [{ "type": "string" }, { "type": "array", "minItems": 1 }] });
        assert_eq!(
            hidden(text_or_list.clone(), json!(7)),
            "must be a text or a list, and is a whole number"
        );
        assert_eq!(
            hidden(text_or_list, json!([])),
            "fits none of 2 alternatives: (1) must be a text, and is a list; (2) must have at least 1 item"
        );
        let by_kind = json!({ "oneOf": [
            { "required": ["to"], "properties": { "kind": { "const": "mail" } } },
            { "required": ["number"] },
        ] });
        assert_eq!(
            hidden(by_kind, json!({ "kind": "secret" })),
            "fits none of 2 alternatives: (1) \"to\" is missing, /kind must be \"mail\", and is a text; (2) \"number\" is missing"
        );
        let many: Vec<Value> = (0..400).map(|n| json!({ "const": n })).collect();
        assert_eq!(
            hidden(json!({ "anyOf": many }), json!(-1)),
            "must be 0, 1, 2, 3 or one of 396 others, and is a whole number"
        );
        let nested = json!({ "anyOf": [{ "anyOf": [{ "anyOf": [{ "minLength": 9 }] }] }] });
        assert_eq!(
            hidden(nested, json!("x")),
            "fits none of 1 alternative: (1) fits none of 1 alternative: (1) fits none of 1 alternative"
        );
        let both = json!({ "oneOf": [{ "type": "string" }, { "minLength": 1 }] });
        assert!(hidden(both, json!("x")).starts_with("fits more than one of the alternatives"));
    }

    #[test]
    fn reasons_are_plain_words_without_the_names_of_keywords() {
        for (schema, document, reason) in [
            (
                json!({ "required": ["to"] }),
                json!({}),
                "\"to\" is missing",
            ),
            (
                json!({ "properties": { "b": {} }, "additionalProperties": false }),
                json!({ "a": 1 }),
                "\"a\" is not allowed here",
            ),
            (
                json!({ "type": "integer" }),
                json!(1.5),
                "must be a whole number, and is a number with a fraction",
            ),
            (
                json!({ "type": ["null", "string"] }),
                json!(1),
                "must be null or a text, and is a whole number",
            ),
            (
                json!({ "enum": ["status", "owner"] }),
                json!("x"),
                "must be \"status\" or \"owner\", and is a text",
            ),
            (json!({ "minimum": 1 }), json!(0), "must be 1 or more"),
            (
                json!({ "maxLength": 1 }),
                json!("xx"),
                "must have at most 1 character",
            ),
            (
                json!({ "uniqueItems": true }),
                json!([1, 1]),
                "has the same item twice",
            ),
            (json!(false), json!(1), "is not allowed here"),
            (
                json!({ "contains": { "type": "string" } }),
                json!([]),
                "has no item of the form that one must have",
            ),
            (
                json!({ "not": { "type": "null" } }),
                json!(null),
                "must not be of this form: {\"type\":\"null\"}",
            ),
            (
                json!({ "pattern": "^a" }),
                json!("b"),
                "must match the regular expression ^a",
            ),
        ] {
            assert_eq!(why(schema, document, Values::Withheld), reason);
        }
        let shown = why(json!({ "type": "string" }), json!(5), Values::Shown);
        assert_eq!(shown, "must be a text, and is 5");
    }
}
