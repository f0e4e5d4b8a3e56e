//! A schema as a graph of its subschemas: which of them apply to which part of a document.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// Drafts that this module and the library understand in the same way.
const DRAFTS: [&str; 4] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
];
/// Their targets are known only while a document is validated.
const DYNAMIC: [&str; 4] = [
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
];

/// All subschemas of a schema; the root is the first.
pub(super) struct Places<'a> {
    pub(super) all: Vec<Place<'a>>,
    /// Number of regular expressions.
    pub(super) patterns: usize,
    by_path: HashMap<String, usize>,
    by_anchor: HashMap<&'a str, usize>,
    references: Vec<(usize, &'a str)>,
}

#[derive(Default)]
pub(super) struct Place<'a> {
    /// A JSON pointer after `#`.
    pub(super) path: String,
    /// Cost of its own keywords: a long `enum` costs more than `type`.
    pub(super) own: i64,
    /// Subschemas that apply to the same value.
    pub(super) same: Vec<usize>,
    /// Subschemas that apply to the values of an object.
    pub(super) fields: Members<'a>,
    /// Subschemas that apply to the items of a list.
    pub(super) items: Members<'a>,
    /// `unevaluated…`: the library checks everything again, to find out what has been evaluated.
    pub(super) again: bool,
}

/// Which subschemas apply to the members of a value.
#[derive(Default)]
pub(super) struct Members<'a> {
    /// To the member with this name or number.
    pub(super) named: HashMap<Label<'a>, usize>,
    /// To members that are not named.
    pub(super) rest: Option<usize>,
    /// To every member, named or not.
    pub(super) any: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Label<'a> {
    Name(&'a str),
    Number(usize),
}

impl<'a> Places<'a> {
    /// Returns what cannot be understood, and where.
    pub(super) fn of(schema: &'a Value) -> Result<Self, String> {
        let draft = schema
            .get("$schema")
            .map(|draft| draft.as_str().unwrap_or_default().trim_end_matches('#'));
        if draft.is_some_and(|draft| !DRAFTS.contains(&draft)) {
            return Err(format!("#/$schema: must be {:?}, or absent", DRAFTS[0]));
        }
        let mut places = Self {
            all: Vec::new(),
            patterns: 0,
            by_path: HashMap::new(),
            by_anchor: HashMap::new(),
            references: Vec::new(),
        };
        places.add(schema, String::new())?;
        for (from, reference) in std::mem::take(&mut places.references) {
            let to = places.find(reference);
            let to = to.map_err(|reason| {
                format!("#{}/$ref: {reference:?} {reason}", places.all[from].path)
            })?;
            places.all[from].same.push(to);
        }
        Ok(places)
    }

    /// The longest way from the root through subschemas; `None` where one leads back to itself.
    pub(super) fn steps(&self) -> Option<usize> {
        // `Some(None)`: on the way.
        fn longest(
            places: &Places<'_>,
            at: usize,
            known: &mut [Option<Option<usize>>],
        ) -> Option<usize> {
            if let Some(known) = known[at] {
                return known;
            }
            known[at] = Some(None);
            let place = &places.all[at];
            let of_members = |members: &Members<'_>| {
                let named = members.named.values().copied();
                named
                    .chain(members.rest)
                    .chain(members.any.iter().copied())
                    .collect::<Vec<_>>()
            };
            let mut next = place.same.clone();
            next.extend(of_members(&place.fields));
            next.extend(of_members(&place.items));
            let mut most = 0;
            for to in next {
                most = most.max(longest(places, to, known)?);
            }
            known[at] = Some(Some(most + 1));
            Some(most + 1)
        }
        longest(self, 0, &mut vec![None; self.all.len()])
    }

    fn find(&self, reference: &str) -> Result<usize, &'static str> {
        let Some(fragment) = reference.strip_prefix('#') else {
            return Err(
                "is outside of this schema, and the host fetches no schemas: put it into $defs, and refer to #/$defs/NAME",
            );
        };
        let fragment = percent_decode_str(fragment).decode_utf8_lossy();
        let found = match fragment.starts_with('/') || fragment.is_empty() {
            true => self.by_path.get(&*fragment),
            false => self.by_anchor.get(&*fragment),
        };
        found.copied().ok_or(
            "does not exist: write #, #/$defs/NAME, another path to a schema, or # and an $anchor",
        )
    }

    fn add(&mut self, schema: &'a Value, path: String) -> Result<usize, String> {
        let place = self.all.len();
        self.by_path.insert(path.clone(), place);
        self.all.push(Place {
            path,
            own: 1,
            ..Place::default()
        });
        match schema {
            Value::Object(keywords) => keywords
                .iter()
                .try_for_each(|(name, value)| self.keyword(place, keywords, name, value))?,
            Value::Bool(_) => {}
            _ => {
                return Err(format!(
                    "#{}: must be a schema: an object, true or false",
                    self.all[place].path
                ));
            }
        }
        Ok(place)
    }

    fn keyword(
        &mut self,
        at: usize,
        keywords: &'a Map<String, Value>,
        name: &'a str,
        value: &'a Value,
    ) -> Result<(), String> {
        let path = format!("{}/{}", self.all[at].path, escaped(name));
        match (name, value) {
            ("$ref", Value::String(reference)) => self.references.push((at, reference)),
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                let added = self.add_list(schemas, &path)?;
                self.all[at].same.extend(added);
            }
            ("not" | "if" | "then" | "else", _) => {
                let added = self.add(value, path)?;
                self.all[at].same.push(added);
            }
            ("dependentSchemas" | "dependencies", Value::Object(schemas)) => {
                let schemas = schemas.iter().filter(|(_, schema)| !schema.is_array());
                let added = self.add_named(schemas, &path)?;
                self.all[at]
                    .same
                    .extend(added.into_iter().map(|(_, place)| place));
            }
            ("properties", Value::Object(schemas)) => {
                let added = self.add_named(schemas.iter(), &path)?;
                self.all[at].own += count(added.len());
                self.all[at].fields.named = added
                    .into_iter()
                    .map(|(name, place)| (Label::Name(name), place))
                    .collect();
            }
            ("patternProperties", Value::Object(schemas)) => {
                self.patterns += schemas.len();
                let added = self.add_named(schemas.iter(), &path)?;
                self.all[at]
                    .fields
                    .any
                    .extend(added.into_iter().map(|(_, place)| place));
            }
            ("additionalProperties", _) => self.all[at].fields.rest = Some(self.add(value, path)?),
            ("propertyNames", _) => {
                let added = self.add(value, path)?;
                self.all[at].fields.any.push(added);
            }
            ("unevaluatedProperties", _) => {
                let added = self.add(value, path)?;
                self.all[at].again = true;
                self.all[at].fields.any.push(added);
            }
            ("prefixItems" | "items", Value::Array(schemas)) => {
                let added = self.add_list(schemas, &path)?;
                for (i, place) in added.into_iter().enumerate() {
                    // No draft defines both together; which one applies depends on the draft.
                    let other = self.all[at].items.named.insert(Label::Number(i), place);
                    self.all[at].items.any.extend(other);
                }
            }
            ("items", _) => self.all[at].items.rest = Some(self.add(value, path)?),
            // Applies only beside a list of `items`.
            ("additionalItems", _) => {
                let added = self.add(value, path)?;
                if keywords.get("items").is_some_and(Value::is_array) {
                    self.all[at].items.rest = Some(added);
                }
            }
            ("contains", _) => {
                let added = self.add(value, path)?;
                self.all[at].items.any.push(added);
            }
            ("unevaluatedItems", _) => {
                let added = self.add(value, path)?;
                self.all[at].again = true;
                self.all[at].items.any.push(added);
            }
            ("$defs" | "definitions", Value::Object(schemas)) => {
                drop(self.add_named(schemas.iter(), &path)?)
            }
            // It describes the content of a text; it is not checked.
            ("contentSchema", _) => drop(self.add(value, path)?),
            ("pattern", _) => self.patterns += 1,
            ("$anchor", Value::String(anchor)) => {
                let taken = self.by_anchor.insert(anchor, at);
                if taken.is_some() {
                    return Err(format!(
                        "#{path}: {anchor:?} is the $anchor of another schema, too"
                    ));
                }
            }
            ("$id" | "$schema", _) if at != 0 => {
                return Err(format!("#{path}: only the whole schema may have {name}"));
            }
            _ if DYNAMIC.contains(&name) => {
                return Err(format!("#{path}: is not supported: use $ref and $anchor"));
            }
            (_, Value::Array(values)) => self.all[at].own += count(values.len()),
            (_, Value::Object(values)) => self.all[at].own += count(values.len()),
            _ => {}
        }
        Ok(())
    }

    fn add_list(&mut self, schemas: &'a [Value], path: &str) -> Result<Vec<usize>, String> {
        schemas
            .iter()
            .enumerate()
            .map(|(i, schema)| self.add(schema, format!("{path}/{i}")))
            .collect()
    }

    fn add_named(
        &mut self,
        schemas: impl Iterator<Item = (&'a String, &'a Value)>,
        path: &str,
    ) -> Result<Vec<(&'a str, usize)>, String> {
        schemas
            .map(|(name, schema)| {
                Ok((
                    name.as_str(),
                    self.add(schema, format!("{path}/{}", escaped(name)))?,
                ))
            })
            .collect()
    }
}

fn count(values: usize) -> i64 {
    values.try_into().unwrap_or(i64::MAX)
}

/// Escaped for a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
