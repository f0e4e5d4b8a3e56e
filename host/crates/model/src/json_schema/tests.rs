use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::*;

/// `a0`, which has `a0` to `a…` beside it, each made from its number.
fn definitions(count: usize, definition: impl Fn(usize) -> Value) -> Value {
    let all: Map<String, Value> = (0..count)
        .map(|i| (format!("a{i}"), definition(i)))
        .collect();
    json!({ "$ref": "#/$defs/a0", "$defs": all })
}

/// Each definition refers to the next, in the same shape; the last one is a text.
fn steps(count: usize, shape: impl Fn(Value) -> Value) -> Value {
    definitions(count, |i| {
        if i + 1 == count {
            json!({ "type": "string" })
        } else {
            shape(to(i + 1))
        }
    })
}

fn to(i: usize) -> Value {
    json!({ "$ref": format!("#/$defs/a{i}") })
}

fn refused(schema: &Value) -> String {
    let start = Instant::now();
    let reason = Schema::new(schema).expect_err("it is refused");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?} for {schema}",
        start.elapsed()
    );
    reason
}

#[test]
fn references_that_lead_back_without_descending_are_refused() {
    let mutual = |i| json!({ "unevaluatedProperties": false, "allOf": [to((i + 1) % 30), to((i + 2) % 30)] });
    for (schema, at) in [
        (json!({ "$ref": "#" }), "#: "),
        (json!({ "not": { "$ref": "#" } }), "#: "),
        (
            json!({ "properties": { "a": { "anyOf": [true, { "$ref": "#/properties/a" }] } } }),
            "#/properties/a: ",
        ),
        (
            json!({ "dependentSchemas": { "a": { "if": { "$ref": "#" } } } }),
            "#: ",
        ),
        (
            json!({ "$anchor": "here", "else": { "$ref": "#here" } }),
            "#: ",
        ),
        (definitions(30, mutual), "#/$defs/a0: "),
    ] {
        let reason = refused(&schema);
        assert!(
            reason.starts_with(at) && reason.contains("refers back to itself"),
            "{reason}"
        );
    }
}

#[test]
fn what_doubles_with_every_step_or_every_level_of_a_document_is_refused() {
    let times = "more than 10000 times";
    for (schema, words) in [
        (steps(20, |next| json!({ "allOf": [next, next] })), times),
        (
            steps(40, |next| json!({ "items": { "oneOf": [next, next] } })),
            times,
        ),
        (
            steps(
                40,
                |next| json!({ "unevaluatedProperties": next, "properties": { "a": next } }),
            ),
            times,
        ),
        (
            steps(
                40,
                |next| json!({ "allOf": [{ "additionalProperties": next }, { "properties": { "a": next } }] }),
            ),
            times,
        ),
        (steps(200, |next| next), "more than 50 nested schemas"),
        (
            json!({ "anyOf": [{ "items": { "$ref": "#" } }, { "contains": { "$ref": "#" } }] }),
            times,
        ),
        (
            json!({ "prefixItems": [{ "$ref": "#" }], "contains": { "$ref": "#" } }),
            times,
        ),
        (
            json!({ "patternProperties": { "a": { "$ref": "#" }, "b": { "$ref": "#" } } }),
            times,
        ),
        (
            definitions(
                40,
                |_| json!({ "anyOf": (0..30).map(|i| json!({ "items": to(i) })).collect::<Vec<_>>() }),
            ),
            times,
        ),
    ] {
        let reason = refused(&schema);
        assert!(reason.contains(words), "{reason}");
    }
    let mut nested = json!({ "properties": { "a": true } });
    for _ in 0..20 {
        nested = json!({ "unevaluatedProperties": false, "anyOf": [nested] });
    }
    assert!(refused(&nested).contains(times));
}

#[test]
fn recursive_types_of_usual_shapes_are_accepted_and_checked_down_to_the_deepest_document() {
    let tree = json!({
        "type": "object", "required": ["name"],
        "properties": {
            "name": { "type": "string" }, "left": { "$ref": "#" }, "right": { "$ref": "#" },
            "children": { "type": "array", "items": { "$ref": "#" } },
        },
        "additionalProperties": { "$ref": "#" },
    });
    let expression = json!({ "oneOf": [
        { "type": "string" },
        { "properties": { "and": { "items": { "$ref": "#" } } }, "required": ["and"], "additionalProperties": false },
        { "properties": { "not": { "$ref": "#" } }, "required": ["not"], "additionalProperties": false },
    ] });
    let json = json!({ "$defs": { "any": { "anyOf": [
        { "type": ["string", "null"] },
        { "type": "array", "items": { "$ref": "#/$defs/any" } },
        { "type": "object", "additionalProperties": { "$ref": "#/$defs/any" } },
    ] } }, "$ref": "#/$defs/any" });
    let (mut branch, mut formula, mut lists) = (json!({ "name": 5 }), json!(5), json!(5));
    for _ in 0..60 {
        branch = json!({ "name": "n", "left": branch });
        formula = json!({ "not": formula });
        lists = json!([{ "a": lists }]);
    }
    for (schema, document) in [(tree, branch), (expression, formula), (json, lists)] {
        let schema = Schema::new(&schema).expect("a schema");
        let start = Instant::now();
        assert!(schema.fits(&document, Values::Withheld, 5).is_err());
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn the_deepest_schema_and_the_deepest_document_fit_the_stack() {
    // 49 nested schemas, for each of 126 levels.
    let again = definitions(24, |i| {
        if i == 23 {
            json!({ "items": to(0) })
        } else {
            json!({ "allOf": [to(i + 1)] })
        }
    });
    let document = format!("{}{}", "[".repeat(126), "]".repeat(126));
    let document = serde_json::from_str(&document).expect("JSON");
    assert_eq!(
        Schema::new(&again)
            .expect("a schema")
            .fits(&document, Values::Withheld, 5),
        Ok(())
    );
    // As many references in a row as a schema has room for.
    Schema::new(&steps(1_200, |next| json!({ "properties": { "a": next } }))).expect("a schema");
}

#[test]
fn large_documents_end_and_patterns_take_linear_time() {
    let variants: Vec<Value> = (0..400).map(|i| json!({ "const": i })).collect();
    let schema = Schema::new(&json!({ "items": { "anyOf": variants } })).expect("a schema");
    let document = |items: usize| Value::from(vec![-1; items]);
    let why = |items| {
        schema
            .fits(&document(items), Values::Withheld, 5)
            .expect_err("no variant")
            .listed[0]
            .to_string()
    };
    assert!(why(10).starts_with("/0: "), "{}", why(10));
    assert!(
        why(30_000).contains("too large for the host to say where"),
        "{}",
        why(30_000)
    );
    assert!(
        why(60_000).contains("too large for this schema"),
        "{}",
        why(60_000)
    );
    let schema = Schema::new(&json!({ "pattern": "^(a+)+$" })).expect("a schema");
    let start = Instant::now();
    assert!(
        schema
            .fits(
                &json!(format!("{}b", "a".repeat(50_000))),
                Values::Withheld,
                5
            )
            .is_err()
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn what_is_wrong_in_a_schema_is_said_with_its_place() {
    let many: Map<String, Value> = (0..2_000)
        .map(|i| (format!("a{{999}}{i}"), json!(true)))
        .collect();
    for (schema, words) in [
        (json!(5), "#: must be a schema"),
        (
            json!({ "type": "lead" }),
            "#/type: must be one of array, boolean",
        ),
        (
            json!({ "properties": { "a/b": { "required": "x" } } }),
            "#/properties/a~1b/required: must be a list of property names without repeats",
        ),
        (
            json!({ "items": { "minLength": -1 } }),
            "#/items/minLength: must be a whole number, 0 or more",
        ),
        (
            json!({ "allOf": [] }),
            "#/allOf: must be a list of at least one schema",
        ),
        (json!({ "allOf": [5] }), "#/allOf/0: must be a schema"),
        (
            json!({ "pattern": "(" }),
            "#/pattern: is not a supported regular expression",
        ),
        (
            json!({ "pattern": "(?=a)b" }),
            "#/pattern: is not a supported regular expression",
        ),
        (
            json!({ "pattern": "(a{1000}){1000}" }),
            "#/pattern: is not a supported regular expression",
        ),
        (
            json!({ "patternProperties": many }),
            "is not a supported regular expression",
        ),
        (
            json!({ "$ref": "#/nowhere" }),
            "#/$ref: \"#/nowhere\" does not exist",
        ),
        (
            json!({ "enum": [{}], "$ref": "#/enum/0" }),
            "does not exist: write #",
        ),
        (
            json!({ "$ref": "https://example.com/a.json" }),
            "is outside of this schema, and the host fetches no schemas",
        ),
        (
            json!({ "$ref": "file:///etc/passwd" }),
            "is outside of this schema, and the host fetches no schemas",
        ),
        (
            json!({ "$dynamicRef": "#a" }),
            "#/$dynamicRef: is not supported",
        ),
        (
            json!({ "items": { "$id": "https://example.com/" } }),
            "#/items/$id: only the whole schema may have $id",
        ),
        (
            json!({ "$schema": "https://example.com/meta" }),
            "#/$schema: must be",
        ),
        (
            json!({ "$anchor": "a", "not": { "$anchor": "a" } }),
            "$anchor of another schema, too",
        ),
        (
            (0..60).fold(
                json!(true),
                |inner, _| json!({ "properties": { "a": inner } }),
            ),
            "is nested more than 100 levels deep",
        ),
        (
            json!({ "description": "x".repeat(70_000) }),
            "the limit is 65536",
        ),
    ] {
        let reason = refused(&schema);
        assert!(reason.contains(words), "{words}: {reason}");
    }
}

#[test]
fn the_name_of_a_schema_does_not_change_what_its_references_mean() {
    let schema = json!({
        "$id": "https://json-schema.org/draft/2020-12/schema",
        "$ref": "#/$defs/a%20b", "$defs": { "a b": { "type": "string" } },
    });
    let schema = Schema::new(&schema).expect("a schema");
    assert_eq!(schema.fits(&json!("text"), Values::Shown, 1), Ok(()));
    assert_eq!(
        schema.fits(&json!(5), Values::Shown, 1),
        Err(Violations::whole("must be a text, and is 5"))
    );
}

#[test]
fn violations_are_listed_by_path_and_say_that_there_are_more() {
    let schema = json!({
        "type": "object", "required": ["to"], "propertyNames": { "maxLength": 9 },
        "additionalProperties": { "type": "integer" },
    });
    let schema = Schema::new(&schema).expect("a schema");
    let told = |document: Value, most| {
        let violations = schema.fits(&document, Values::Withheld, most);
        violations.expect_err("it does not fit").to_string()
    };
    assert_eq!(
        told(json!({ "b": "secret", "a": "secret" }), 5),
        "\"to\" is missing; /a: must be a whole number, and is a text; /b: must be a whole number, and is a text"
    );
    let few = told(json!({ "to": 1, "b": "secret", "a": "secret" }), 1);
    assert!(
        few.ends_with("(the first violation; there are more)"),
        "{few}"
    );
    let name = told(json!({ "to": 1, "asha@example.com": 1 }), 5);
    assert!(
        name.contains("name of a field") && !name.contains("asha"),
        "{name}"
    );
}

#[test]
fn only_a_schema_that_leads_back_to_itself_or_very_deep_needs_a_stack_of_its_own() {
    let nested = |levels: usize| {
        (0..levels).fold(
            json!({}),
            |inner, _| json!({ "properties": { "a": inner } }),
        )
    };
    for (schema, is_quick) in [
        (json!(true), true),
        (
            json!({ "$defs": { "p": { "type": "string" } }, "properties": { "a": { "$ref": "#/$defs/p" } } }),
            true,
        ),
        (nested(31), true),
        (nested(32), false),
        (json!({ "properties": { "a": { "$ref": "#" } } }), false),
        (
            json!({ "$defs": { "t": { "items": { "$ref": "#/$defs/t" } } }, "$ref": "#/$defs/t" }),
            false,
        ),
    ] {
        let compiled = Schema::new(&schema).expect("a schema");
        assert_eq!(
            compiled.is_quick_for(&json!({ "a": 1 })),
            is_quick,
            "{schema}"
        );
        // As deep as the host reads JSON.
        let deep = (0..120).fold(json!(1), |inner, _| json!({ "a": [inner] }));
        compiled.fits(&deep, Values::Withheld, 3).ok();
    }
    let compiled = Schema::new(&nested(31)).expect("a schema");
    assert!(
        !compiled.is_quick_for(&json!("x".repeat(1 << 20))),
        "a large document"
    );
}
