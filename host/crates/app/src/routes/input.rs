//! The input of a route's operation: `{"path":{..},"query":{..},"body":..}`, checked against the
//! route's schema. Errors name the field, never its value.

use std::collections::HashSet;
use std::fmt;

use patchbay_model::json_schema::Violation;
use patchbay_model::manifest::BodyType;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::answer::fits;

use crate::error::Error;
use crate::plugins::Route;

/// Violations that are told at once.
const MAX_VIOLATIONS: usize = 5;
/// Steps from a reference to what it means.
const MAX_REFERENCES: usize = 8;

/// What an operation gets.
pub(super) struct Input {
    /// For the guest. The body is as it was sent, byte for byte.
    pub(super) text: String,
    path: Value,
    query: Value,
    body: Option<Value>,
}

impl Input {
    /// The value at `path.leadId`, `query.x` or `body.a.b`.
    pub(super) fn value(&self, path: &str) -> Option<Value> {
        let (part, steps) = path.split_once('.')?;
        let part = match part {
            "path" => &self.path,
            "query" => &self.query,
            _ => self.body.as_ref()?,
        };
        let found = steps
            .split('.')
            .try_fold(part, |value, step| value.get(step));
        found.cloned()
    }
}

pub(super) fn of(
    route: &Route,
    values: &[String],
    query: &str,
    body: Option<Vec<u8>>,
) -> Result<Input, Error> {
    let spec = &route.spec;
    let schema = Root(spec.input.as_ref().unwrap_or(&Value::Null));
    let path = path(schema, spec.path.parameters(), values);
    let query = self::query(schema, query)?;
    let body = body.map(text).transpose()?;
    let body = match spec.body_type {
        BodyType::Json => body,
        BodyType::Form => body.map(|body| form(schema, &body).to_string()),
    };
    let mut parsed = body.as_deref().map(parsed).transpose()?;
    if let Some(compiled) = &route.schemas.input {
        let mut document = Map::new();
        let parts = [
            ("path", Some(path.clone())),
            ("query", Some(query.clone())),
            ("body", parsed.take()),
        ];
        for (name, value) in parts {
            if let (Some(value), Some(_)) = (value, spec.part(name)) {
                document.insert(name.to_owned(), value);
            }
        }
        let mut document = Value::Object(document);
        fits(compiled, &document, MAX_VIOLATIONS).map_err(|violations| {
            let lines: Vec<String> = violations.listed.iter().map(line).collect();
            Error::invalid(lines.join("; "))
        })?;
        // Only a route whose schema describes it has a body.
        parsed = document.get_mut("body").map(Value::take);
    }
    let body = body.map_or_else(String::new, |body| format!(",\"body\":{body}"));
    Ok(Input {
        text: format!("{{\"path\":{path},\"query\":{query}{body}}}"),
        path,
        query,
        body: parsed,
    })
}

/// The fields of a form: texts, and lists where one is repeated or the schema says so.
fn form(schema: Root<'_>, text: &str) -> Value {
    let declared = schema.part("body");
    let mut fields: Map<String, Value> = Map::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        let value = Value::from(value.into_owned());
        match fields.get_mut(&*name) {
            Some(Value::Array(several)) => several.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
            None => {
                let member = declared.and_then(|part| schema.member(part, &name));
                let is_list =
                    member.is_some_and(|member| types(member).any(|name| name == "array"));
                let value = if is_list {
                    Value::Array(vec![value])
                } else {
                    value
                };
                fields.insert(name.into_owned(), value);
            }
        }
    }
    Value::Object(fields)
}

/// `body.lead.phone: must be text`
fn line(violation: &Violation) -> String {
    let field = violation.path.trim_start_matches('/').replace('/', ".");
    match field.is_empty() {
        true => violation.message.clone(),
        false => format!("{field}: {}", violation.message),
    }
}

fn text(body: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(body).map_err(|_| Error::invalid("body: is not UTF-8"))
}

/// The host's parser and the guest's must read the same document, so no key may be there twice.
fn parsed(body: &str) -> Result<Value, Error> {
    let value = serde_json::from_str(body).map_err(|error| {
        Error::invalid(format!(
            "body: is not JSON, or nested more than 127 levels deep (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    serde_json::from_str::<Unrepeated>(body)
        .map_err(|_| Error::invalid("body: has an object with the same key twice"))?;
    Ok(value)
}

/// Any document without an object that has a key twice.
struct Unrepeated;

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Unrepeated;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unrepeated, A::Error> {
                let mut keys = HashSet::new();
                while let Some((key, Unrepeated)) = map.next_entry::<String, Unrepeated>()? {
                    if !keys.insert(key) {
                        return Err(A::Error::custom("a key is repeated"));
                    }
                }
                Ok(Unrepeated)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unrepeated, A::Error> {
                while items.next_element::<Unrepeated>()?.is_some() {}
                Ok(Unrepeated)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Unrepeated, E> {
                Ok(Unrepeated)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Unrepeated, E> {
                Ok(Unrepeated)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Unrepeated, E> {
                Ok(Unrepeated)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Unrepeated, E> {
                Ok(Unrepeated)
            }
            fn visit_str<E>(self, _: &str) -> Result<Unrepeated, E> {
                Ok(Unrepeated)
            }
            fn visit_unit<E>(self) -> Result<Unrepeated, E> {
                Ok(Unrepeated)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

fn path<'a>(schema: Root<'_>, names: impl Iterator<Item = &'a str>, values: &[String]) -> Value {
    let declared = schema.part("path");
    let converted = names.zip(values).map(|(name, value)| {
        let value = schema.converted(value, declared.and_then(|part| schema.member(part, name)));
        (name.to_owned(), value)
    });
    Value::Object(converted.collect())
}

/// Only declared parameters, so that a cache buster breaks no client; the others, too, where the
/// schema allows none (`additionalProperties: false`), and so refuses them by name. Absent ones get
/// their default.
fn query(schema: Root<'_>, text: &str) -> Result<Value, Error> {
    let mut read = Map::new();
    let part = schema.part("query");
    let declared = part.and_then(|part| part["properties"].as_object());
    if part.is_some_and(|part| part["additionalProperties"] == Value::Bool(false)) {
        let sent = url::form_urlencoded::parse(text.as_bytes());
        let sent = sent.map(|(name, value)| (name.into_owned(), Value::from(value)));
        read.extend(
            sent.filter(|(name, _)| !declared.is_some_and(|known| known.contains_key(name))),
        );
    }
    for (name, member) in declared.into_iter().flatten() {
        let given: Vec<String> = url::form_urlencoded::parse(text.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .collect();
        let member = schema.resolved(member);
        let value = match given.as_slice() {
            [] => match member.get("default") {
                Some(default) => default.clone(),
                None => continue,
            },
            several if types(member).any(|name| name == "array") => {
                let items = member.get("items").map(|items| schema.resolved(items));
                several
                    .iter()
                    .map(|one| schema.converted(one, items))
                    .collect()
            }
            [one] => schema.converted(one, Some(member)),
            _ => {
                let message = format!("query.{name}: is given more than once; give it once");
                return Err(Error::invalid(message));
            }
        };
        read.insert(name.clone(), value);
    }
    Ok(Value::Object(read))
}

/// The schema of a whole input.
#[derive(Clone, Copy)]
struct Root<'s>(&'s Value);

impl<'s> Root<'s> {
    fn part(self, name: &str) -> Option<&'s Value> {
        let part = self.0.get("properties")?.get(name)?;
        Some(self.resolved(part))
    }

    fn member(self, part: &'s Value, name: &str) -> Option<&'s Value> {
        Some(self.resolved(part.get("properties")?.get(name)?))
    }

    /// What a reference within the schema means.
    fn resolved(self, mut schema: &'s Value) -> &'s Value {
        for _ in 0..MAX_REFERENCES {
            let target = schema["$ref"]
                .as_str()
                .and_then(|text| text.strip_prefix('#'));
            match target.and_then(|pointer| self.0.pointer(pointer)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// As the schema's type says; as text where it does not fit, and the schema then says why.
    fn converted(self, text: &str, schema: Option<&Value>) -> Value {
        let read = |name: &str| -> Option<Value> {
            match name {
                "string" => Some(text.into()),
                "boolean" => text.parse::<bool>().ok().map(Value::Bool),
                "integer" | "number" => {
                    let number: Value = serde_json::from_str(text).ok()?;
                    let is_plain = number.is_number() && text.trim() == text;
                    let fits = name == "number" || number.is_i64() || number.is_u64();
                    (is_plain && fits).then_some(number)
                }
                _ => None,
            }
        };
        let mut names = schema.into_iter().flat_map(types);
        names.find_map(read).unwrap_or_else(|| text.into())
    }
}

/// The types that a schema names.
fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let named = &schema["type"];
    let several = named
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    named.as_str().into_iter().chain(several)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn path_and_query_have_the_types_of_the_schema_and_undeclared_parameters_are_dropped() {
        let schema = json!({
            "$defs": { "page": { "type": "integer", "default": 1 } },
            "properties": {
                "path": { "properties": { "id": { "type": "integer" } } },
                "query": { "properties": {
                    "page": { "$ref": "#/$defs/page" },
                    "tag": { "type": "array", "items": { "type": "string" } },
                    "open": { "type": "boolean" },
                    "least": { "type": "number" },
                    "text": { "type": ["string", "null"] },
                } },
            },
        });
        let root = Root(&schema);
        let path = |value: &str| path(root, ["id"].into_iter(), &[value.to_owned()]);
        assert_eq!(path("7"), json!({ "id": 7 }));
        for text in ["07", "7.0", " 7", "+7", "seven", "1e3", "0x7"] {
            assert_eq!(path(text), json!({ "id": text }), "{text}");
        }
        let read = |text: &str| query(root, text).map_err(|error| error.message);
        assert_eq!(read("_=1&x=2"), Ok(json!({ "page": 1 })));
        assert_eq!(
            read("page=2&tag=a&tag=b%26&open=true&least=1.5&text=5"),
            Ok(json!({ "page": 2, "tag": ["a", "b&"], "open": true, "least": 1.5, "text": "5" }))
        );
        assert_eq!(read("tag=1"), Ok(json!({ "page": 1, "tag": ["1"] })));
        assert_eq!(read("open=yes"), Ok(json!({ "page": 1, "open": "yes" })));
        let mut strict = schema.clone();
        strict["properties"]["query"]["additionalProperties"] = json!(false);
        assert_eq!(
            query(Root(&strict), "page=2&dryrun=true").ok(),
            Some(json!({ "page": 2, "dryrun": "true" })),
            "for the schema to refuse"
        );
        assert_eq!(
            read("page=1&page=2"),
            Err("query.page: is given more than once; give it once".into())
        );
    }

    #[test]
    fn a_form_is_an_object_of_texts_and_of_lists_where_a_field_comes_again_or_the_schema_says_so() {
        let schema =
            json!({ "properties": { "body": { "properties": { "tag": { "type": "array" } } } } });
        let read = |text: &str| form(Root(&schema), text);
        assert_eq!(
            read("a=1&b=x+y%26&b=&tag=t&c"),
            json!({ "a": "1", "b": ["x y&", ""], "tag": ["t"], "c": "" })
        );
        assert_eq!(read(""), json!({}));
    }

    #[test]
    fn a_body_that_two_parsers_may_read_differently_is_refused() {
        for (body, says) in [
            (r#"{"a":1,"a":2}"#, "same key twice"),
            (r#"{"a":1,"\u0061":2}"#, "same key twice"),
            (r#"[{"b":[{"a":1,"a":1}]}]"#, "same key twice"),
            ("{", "line 1, column 1"),
            ("{} {}", "is not JSON"),
            (&"[".repeat(200), "127 levels"),
        ] {
            let error = parsed(body).expect_err(body);
            assert!(error.message.contains(says), "{body}: {}", error.message);
        }
        assert!(parsed(r#"{"a":{"a":[1,1.5,-2,true,null,"x"]}}"#).is_ok());
    }
}
