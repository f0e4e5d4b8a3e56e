//! Edits job data at given paths. Everything else stays as its producer wrote it, to the last
//! digit.

use std::fmt;
use std::str::FromStr;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// No real job has deeper data.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Edits {
    /// Paths and their new values. Missing objects on the way are made.
    pub set: Vec<(Path, Box<RawValue>)>,
    /// Paths that are removed where they exist.
    pub unset: Vec<Path>,
}

/// A place in a document: `lead.id`, or, for names that contain dots, the JSON Pointer `/lead/id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path(Vec<String>);

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<String> = match text.strip_prefix('/') {
            Some(pointer) => pointer
                .split('/')
                .map(|part| part.replace("~1", "/").replace("~0", "~"))
                .collect(),
            None => text.split('.').map(str::to_owned).collect(),
        };
        if parts.iter().any(String::is_empty) || parts.len() > MAX_DEPTH || text.contains('\0') {
            return Err(format!(
                "{text:?} is no path: write lead.id or /lead/id, at most {MAX_DEPTH} deep"
            ));
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|part| write!(f, "/{}", part.replace('~', "~0").replace('/', "~1")))
    }
}

impl Edits {
    /// The paths that are set and unset, for the record of the action. Values may be personal, so
    /// they are left out.
    pub fn paths(&self) -> (Vec<String>, Vec<String>) {
        let set = self.set.iter().map(|(path, _)| path.to_string());
        (
            set.collect(),
            self.unset.iter().map(ToString::to_string).collect(),
        )
    }

    /// Returns the changed document. The error says why it cannot be changed.
    pub fn apply(&self, data: &str) -> Result<String, String> {
        let mut data: Box<RawValue> =
            serde_json::from_str(data).map_err(|_| "its data is not JSON".to_owned())?;
        for (path, value) in &self.set {
            data = changed(&data, &path.0, Some(value))
                .ok_or_else(|| format!("its data has no place for {path}"))?;
        }
        for path in &self.unset {
            // A path that does not exist needs no removal.
            if let Some(without) = changed(&data, &path.0, None) {
                data = without;
            }
        }
        Ok(data.get().to_owned())
    }
}

/// `None` when the path leads through a value that has no members.
fn changed(data: &RawValue, path: &[String], value: Option<&RawValue>) -> Option<Box<RawValue>> {
    let Some((first, rest)) = path.split_first() else {
        return value.map(RawValue::to_owned);
    };
    let inner = |old: Option<&RawValue>| match (old, value) {
        _ if rest.is_empty() => value.map(RawValue::to_owned),
        (Some(old), _) => changed(old, rest, value),
        // Makes the missing objects on the way.
        (None, Some(value)) => changed(serde_json::from_str("{}").ok()?, rest, Some(value)),
        (None, None) => None,
    };
    if let Ok(mut members) = serde_json::from_str::<Members>(data.get()) {
        let place = members.0.iter().position(|(name, _)| name == first);
        match (place, inner(place.map(|place| &*members.0[place].1))) {
            (Some(place), Some(new)) => members.0[place].1 = new,
            (None, Some(new)) => members.0.push((first.clone(), new)),
            (Some(place), None) if rest.is_empty() => drop(members.0.remove(place)),
            _ => return None,
        }
        return serde_json::value::to_raw_value(&members).ok();
    }
    let mut items: Vec<Box<RawValue>> = serde_json::from_str(data.get()).ok()?;
    let place = first
        .parse::<usize>()
        .ok()
        .filter(|place| *place < items.len())?;
    match inner(Some(&items[place])) {
        Some(new) => items[place] = new,
        None if rest.is_empty() => drop(items.remove(place)),
        None => return None,
    }
    serde_json::value::to_raw_value(&items).ok()
}

/// The members of an object, in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(data: &str, set: &[(&str, &str)], unset: &[&str]) -> Result<String, String> {
        let set = set.iter().map(|(path, value)| {
            (
                path.parse().expect("a path"),
                serde_json::from_str(value).expect("JSON"),
            )
        });
        let unset = unset.iter().map(|path| path.parse().expect("a path"));
        Edits {
            set: set.collect(),
            unset: unset.collect(),
        }
        .apply(data)
    }

    #[test]
    fn only_what_is_named_changes_and_the_rest_stays_as_it_was_written() {
        let data = r#"{"z":123456789012345678901234567890,"lead":{"id":1.10,"tags":["a","b"]}, "a.b":null}"#;
        assert_eq!(
            edited(data, &[("lead.id", "2"), ("/a.b", "[1.0]"), ("lead.tags.1", "\"c\"")], &[]),
            Ok(r#"{"z":123456789012345678901234567890,"lead":{"id":2,"tags":["a","c"]},"a.b":[1.0]}"#.into())
        );
        assert_eq!(
            edited("{}", &[("a.b.c", "true")], &["x.y"]),
            Ok(r#"{"a":{"b":{"c":true}}}"#.into())
        );
        assert_eq!(
            edited(r#"{"a":1,"b":[1,2]}"#, &[], &["a", "/b/0", "c"]),
            Ok(r#"{"b":[2]}"#.into())
        );
    }

    #[test]
    fn a_path_that_leads_nowhere_is_an_error_and_no_change() {
        for data in [r#"{"a":1}"#, r#"{"a":[]}"#, "7", "nonsense"] {
            assert!(edited(data, &[("a.b", "1")], &[]).is_err(), "{data}");
        }
        for path in ["", ".", "a..b", "/", "/a/"] {
            assert!(path.parse::<Path>().is_err(), "{path}");
        }
    }
}
