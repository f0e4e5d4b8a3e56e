//! Compares two revisions of a plugin: a pure function of what their files declare.

use std::collections::BTreeMap;

use patchbay_api::plugins::Change;
use patchbay_model::manifest::Manifest;
use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub struct Described {
    pub manifest: Manifest,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

/// All changes, sorted by part and name. For a part that is in both, only the fields that differ.
pub fn between(before: &Described, after: &Described) -> Vec<Change> {
    let (mut old, new) = (parts(before), parts(after));
    let mut changes = Vec::new();
    for ((part, name), after) in new {
        let before = old.remove(&(part.clone(), name.clone()));
        if before.as_ref() == Some(&after) {
            continue;
        }
        let (before, after) = match before {
            Some(before) => {
                let (before, after) = narrowed(before, after);
                (Some(before), after)
            }
            None => (None, after),
        };
        changes.push(Change {
            part,
            name,
            before,
            after: Some(after),
        });
    }
    changes.extend(old.into_iter().map(|((part, name), before)| Change {
        part,
        name,
        before: Some(before),
        after: None,
    }));
    changes.sort_by(|a, b| (&a.part, &a.name).cmp(&(&b.part, &b.name)));
    changes
}

/// Everything that an operator may want to compare, by part and name.
fn parts(described: &Described) -> BTreeMap<(String, Option<String>), Value> {
    let Ok(Value::Object(manifest)) = serde_json::to_value(&described.manifest) else {
        return BTreeMap::new();
    };
    let mut parts = BTreeMap::new();
    for (part, value) in manifest {
        match (part.as_str(), value) {
            (_, Value::Array(items)) => {
                for (at, item) in items.into_iter().enumerate() {
                    parts.insert(
                        (
                            part.clone(),
                            Some(name_of(&item).unwrap_or_else(|| at.to_string())),
                        ),
                        item,
                    );
                }
            }
            // Each queue and trail is a part of its own, so that adding one is one change.
            ("enqueue" | "audit", Value::Object(fields)) => {
                let names = fields.values().filter_map(Value::as_array).flatten();
                parts.extend(names.map(|name| {
                    (
                        (part.clone(), name.as_str().map(str::to_owned)),
                        json!(true),
                    )
                }));
            }
            ("limits", Value::Object(fields)) => {
                parts.extend(
                    fields
                        .into_iter()
                        .map(|(field, value)| ((part.clone(), Some(field)), value)),
                );
            }
            (_, value) => {
                parts.insert((part, None), value);
            }
        }
    }
    for (part, names) in [
        ("imports", &described.imports),
        ("exports", &described.exports),
    ] {
        parts.extend(
            names
                .iter()
                .map(|name| ((part.to_owned(), Some(name.clone())), json!(true))),
        );
    }
    parts
}

fn name_of(item: &Value) -> Option<String> {
    let text = |key: &str| item[key].as_str().map(str::to_owned);
    let route = || Some(format!("{} {}", text("method")?, text("path")?));
    let named = text("id").or_else(|| text("url")).or_else(|| text("name"));
    named
        .or_else(route)
        .or_else(|| item.as_str().map(str::to_owned))
}

fn narrowed(before: Value, after: Value) -> (Value, Value) {
    let (Value::Object(mut before), Value::Object(mut after)) = (before.clone(), after.clone())
    else {
        return (before, after);
    };
    let same: Vec<String> = before
        .iter()
        .filter(|(key, value)| after.get(*key) == Some(*value))
        .map(|(key, _)| key.clone())
        .collect();
    for key in same {
        before.remove(&key);
        after.remove(&key);
    }
    (before.into(), after.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(toml: &str, imports: &[&str]) -> Described {
        let text = format!("name = \"demo\"\nwit = \"0.1\"\n{toml}");
        let manifest = Manifest::from_toml(&text, |file| Err(file.to_owned())).expect("a manifest");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Described {
            manifest,
            imports: names(imports),
            exports: names(&["patchbay:plugin/jobs@0.1.0"]),
        }
    }

    #[test]
    fn a_revision_does_not_differ_from_itself() {
        let one = described(
            "version = \"1.0.0\"\n[[queues]]\nname = \"q\"\n",
            &["wasi:io/streams@0.2.6"],
        );
        assert_eq!(between(&one, &one), []);
    }

    #[test]
    fn what_is_new_gone_and_changed_is_named_with_the_fields_that_differ() {
        let before = described(
            "version = \"1.0.0\"\n[limits]\nmemory_mb = 64\n[[secrets]]\nname = \"OLD\"\n[enqueue]\nqueues = [\"a\"]\n\
             [[queues]]\nname = \"q\"\nconcurrency = 5\nattempts = 3\n",
            &["patchbay:plugin/kv@0.1.0"],
        );
        let after = described(
            "version = \"1.1.0\"\n[limits]\nmemory_mb = 128\n[enqueue]\nqueues = [\"a\", \"b\"]\n[audit]\ntrails = [\"leads\"]\n\
             [[egress]]\nurl = \"https://example.com/**\"\nmethods = [\"GET\"]\n\
             [[queues]]\nname = \"q\"\nconcurrency = 9\nattempts = 3\n\
             [[routes]]\nmethod = \"GET\"\npath = \"/api/a\"\nroles = [\"user\"]\noperation = \"a\"\n",
            &[],
        );
        let shown: Vec<String> = between(&before, &after)
            .into_iter()
            .map(|change| {
                let text = |value: Option<Value>| {
                    value.map_or_else(|| "-".into(), |value| value.to_string())
                };
                format!(
                    "{} {} {} {}",
                    change.part,
                    change.name.unwrap_or_default(),
                    text(change.before),
                    text(change.after)
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "audit leads - true",
                r#"egress https://example.com/** - {"methods":["GET"],"url":"https://example.com/**"}"#,
                "enqueue b - true",
                "imports patchbay:plugin/kv@0.1.0 true -",
                "limits memory_mb 64 128",
                r#"queues q {"concurrency":5} {"concurrency":9}"#,
                r#"routes GET /api/a - {"method":"GET","operation":"a","path":"/api/a","roles":["user"]}"#,
                r#"secrets OLD {"name":"OLD"} -"#,
                r#"version  "1.0.0" "1.1.0""#,
            ]
        );
    }
}
