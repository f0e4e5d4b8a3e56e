//! Explains why a document does not fit, to people who do not know serde: the field, and what it
//! may be.
//!
//! serde gives its reasons only as texts. A text that is not recognised stays unchanged.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a value; the error names the field and what is allowed there.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| plain_reason(&error.to_string()))
}

/// Rewrites serde's `path: reason` in plain words.
pub fn plain_reason(text: &str) -> String {
    // The position in the text means little to somebody whose program made it.
    let text = text.split(" at line ").next().unwrap_or_default();
    const REASONS: [&str; 7] = [
        "unknown field `",
        "missing field `",
        "duplicate field `",
        "unknown variant `",
        "invalid type: ",
        "invalid value: ",
        "invalid digit found in string",
    ];
    let found = REASONS
        .iter()
        .filter_map(|start| text.find(start).map(|at| (at, *start)))
        .min();
    let Some((at, kind)) = found else {
        return text.to_owned();
    };
    let (path, rest) = (text[..at].trim_end_matches(": "), &text[at + kind.len()..]);
    let (named, expected) = rest.split_once("expected ").unwrap_or((rest, ""));
    let name = named.split('`').next().unwrap_or_default();
    let field = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let at = if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    };
    match kind {
        // The path already ends with the unknown field if serde knows it.
        "unknown field `" => {
            let field = if path.rsplit('.').next() == Some(name) {
                path.to_owned()
            } else {
                field(name)
            };
            match names(expected) {
                known if known.is_empty() => {
                    format!("{field} is not a known field; no field is allowed here")
                }
                known => format!("{field} is not a known field; known: {known}"),
            }
        }
        "missing field `" => format!("{} is missing", field(name)),
        "duplicate field `" => format!("{} is given twice", field(name)),
        "unknown variant `" => format!("{at}must be one of {}, not {name:?}", names(expected)),
        "invalid digit found in string" => format!("{at}must be a whole number"),
        _ => match (wanted(expected), given(named)) {
            (wanted, "a number") if wanted.contains("number") => format!("{at}must be {wanted}"),
            (wanted, given) => format!("{at}must be {wanted}, not {given}"),
        },
    }
}

/// The names in ``one of `a`, `b` ``, without quotes.
fn names(expected: &str) -> String {
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .collect::<Vec<_>>()
        .join(", ")
}

fn wanted(expected: &str) -> String {
    let range = |most: u64| format!("a whole number from 0 to {most}");
    match expected.trim() {
        "u8" => range(u8::MAX.into()),
        "u16" => range(u16::MAX.into()),
        "u32" => range(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "i32" | "i64" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a string" | "string" => "text".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        text if text.starts_with("struct ") => "an object".into(),
        text => text.to_owned(),
    }
}

/// The kind of the given value. Never the value itself, which may be long or private.
fn given(named: &str) -> &str {
    let kinds = [
        ("string", "text"),
        ("integer", "a number"),
        ("floating point", "a number"),
        ("boolean", "true or false"),
        ("null", "null"),
        ("sequence", "a list"),
        ("map", "an object"),
    ];
    let known = kinds.iter().find(|(kind, _)| named.starts_with(kind));
    known.map_or_else(|| named.trim_end_matches(", "), |(_, word)| word)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        kind: Kind,
        count: Option<u32>,
        on: Option<bool>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Fixed,
        Exponential,
    }

    fn refused(value: Value) -> String {
        from_value::<Outer>(value).expect_err("does not fit")
    }

    #[test]
    fn each_misfit_names_its_field_and_what_may_stand_there() {
        let inner =
            |value: Value| refused(json!({ "name": "a", "inner": [{ "kind": "fixed" }, value] }));
        assert_eq!(refused(json!({})), "name is missing");
        assert_eq!(
            refused(json!({ "name": 5 })),
            "name: must be text, not a number"
        );
        assert_eq!(
            refused(json!({ "name": "a", "nmae": 1 })),
            "nmae is not a known field; known: name, inner"
        );
        assert_eq!(refused(json!("text")), "must be an object, not text");
        assert_eq!(inner(json!({})), "inner[1].kind is missing");
        assert_eq!(
            inner(json!({ "kind": "linear" })),
            "inner[1].kind: must be one of fixed, exponential, not \"linear\""
        );
        let negative = inner(json!({ "kind": "fixed", "count": -1 }));
        assert_eq!(
            negative,
            "inner[1].count: must be a whole number from 0 to 4294967295"
        );
        assert_eq!(
            inner(json!({ "kind": "fixed", "on": null, "x": 1 })),
            "inner[1].x is not a known field; known: kind, count, on"
        );
        assert_eq!(
            inner(json!({ "kind": "fixed", "on": "yes" })),
            "inner[1].on: must be true or false, not text"
        );
    }

    #[test]
    fn what_is_not_recognised_stays_as_it_is_without_its_place() {
        assert_eq!(
            plain_reason("queue: not a queue name: 1 to 128 at line 1 column 7"),
            "queue: not a queue name: 1 to 128"
        );
        assert_eq!(
            plain_reason("limit: invalid digit found in string"),
            "limit: must be a whole number"
        );
    }
}
