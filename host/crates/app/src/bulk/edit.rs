//! Edits job data at given paths. Everything else stays as its producer wrote it, to the last
//! digit.

use std::fmt;
use std::str::FromStr;

use patchbay_model::json_members::Members;
use patchbay_queue::MAX_DATA_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// No real job has deeper data.
const MAX_DEPTH: usize = 32;

/// What is done to the data of each job, in this order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Edits {
    /// Paths and their new values. Missing objects on the way are made.
    pub set: Vec<(Path, Box<RawValue>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replace: Vec<Replacement>,
    /// Paths that are removed where they exist.
    pub unset: Vec<Path>,
}

/// The edits of an operation in its row. A host of a version that knows no replacements must not
/// read the others without them: such edits stand where that host finds nothing, and it ends the
/// operation as failed before any job is changed.
#[derive(Serialize, Deserialize)]
struct Row<E> {
    edits: Option<E>,
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
                "{text:?} is not a path. Write lead.id or /lead/id, with at most {MAX_DEPTH} names"
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

impl Path {
    /// As an operator writes it: `lead.id`, or a JSON Pointer where that could mean something else.
    pub(super) fn written(&self) -> String {
        match self.0.iter().any(|part| part.contains(['.', '/'])) {
            true => self.to_string(),
            false => self.0.join("."),
        }
    }

    /// The place of the object or list in which this one is.
    fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        (!above.is_empty()).then(|| Self(above.to_vec()))
    }

    /// Whether the value at this place differs between two documents.
    pub(super) fn is_changed(&self, old: &str, new: &str) -> bool {
        let (old, new) = (self.value_in(old), self.value_in(new));
        old.as_deref().map(RawValue::get) != new.as_deref().map(RawValue::get)
    }

    /// The value at this place.
    pub(super) fn value_in(&self, data: &str) -> Option<Box<RawValue>> {
        let mut value: Box<RawValue> = serde_json::from_str(data).ok()?;
        for part in &self.0 {
            value = member(&value, part)?;
        }
        Some(value)
    }
}

/// The paths of edits by kind, for the record of the action.
#[derive(Debug, Default)]
pub struct Paths {
    pub set: Vec<String>,
    pub replace: Vec<String>,
    pub unset: Vec<String>,
}

impl Edits {
    /// Values may be personal, so they are left out.
    pub fn paths(&self) -> Paths {
        Paths {
            set: self.set.iter().map(|(path, _)| path.to_string()).collect(),
            replace: self.replace.iter().map(|it| it.path.to_string()).collect(),
            unset: self.unset.iter().map(ToString::to_string).collect(),
        }
    }

    /// Every path that may change, once.
    pub(super) fn touched(&self) -> Vec<&Path> {
        let set = self.set.iter().map(|(path, _)| path);
        let replaced = self.replace.iter().map(|it| &it.path);
        let mut touched: Vec<&Path> = Vec::new();
        for path in set.chain(replaced).chain(&self.unset) {
            if !touched.contains(&path) {
                touched.push(path);
            }
        }
        touched
    }

    /// The paths by which the changes of a document are shown. Where an item of a list is removed,
    /// this is the list, because the items behind move up.
    pub(super) fn shown(&self, old: &str) -> Vec<Path> {
        let list_of = |path: &Path| {
            let list = path.parent()?;
            let value = list.value_in(old)?;
            value.get().trim_start().starts_with('[').then_some(list)
        };
        let mut shown: Vec<Path> = Vec::new();
        for path in self.touched() {
            let is_removed = self.unset.contains(path);
            let list = is_removed.then(|| list_of(path)).flatten();
            let path = list.unwrap_or_else(|| path.clone());
            if !shown.contains(&path) {
                shown.push(path);
            }
        }
        shown
    }

    /// Whether the edits have changed nothing in a document.
    pub(super) fn is_unchanged(&self, old: &str, new: &str) -> bool {
        let shown = self.shown(old);
        !shown.iter().any(|path| path.is_changed(old, new))
    }

    pub fn to_row(&self) -> Result<String, serde_json::Error> {
        match self.replace.is_empty() {
            true => serde_json::to_string(self),
            false => serde_json::to_string(&Row { edits: Some(self) }),
        }
    }

    pub fn of_row(text: &str) -> Result<Self, serde_json::Error> {
        let row: Row<Self> = serde_json::from_str(text)?;
        row.edits.map_or_else(|| serde_json::from_str(text), Ok)
    }

    /// Returns the changed document. The error says why it cannot be changed.
    pub fn apply(&self, data: &str) -> Result<String, String> {
        let mut data: Box<RawValue> =
            serde_json::from_str(data).map_err(|_| "its data is not JSON".to_owned())?;
        for (path, value) in &self.set {
            data = changed(&data, &path.0, Some(value)).ok_or_else(|| {
                format!("its data has no object or list in which {path} can be set")
            })?;
        }
        data = self.replaced(data)?;
        for path in &self.unset {
            // A path that does not exist needs no removal.
            if let Some(without) = changed(&data, &path.0, None) {
                data = without;
            }
        }
        Ok(data.get().to_owned())
    }
}

impl Edits {
    /// Fails when none of the replacements finds anything.
    fn replaced(&self, mut data: Box<RawValue>) -> Result<Box<RawValue>, String> {
        let (mut has_replaced, mut reasons) = (self.replace.is_empty(), Vec::new());
        for replacement in &self.replace {
            match replacement.apply(&data) {
                Ok(new) => {
                    data = new;
                    has_replaced = true;
                }
                Err(Unreplaced::Nothing(reason)) => reasons.push(reason),
                Err(Unreplaced::TooLarge) => {
                    return Err(format!(
                        "its data would be larger than {MAX_DATA_BYTES} bytes"
                    ));
                }
            }
        }
        match has_replaced {
            true => Ok(data),
            false => Err(reasons.join("; ")),
        }
    }
}

/// Replaces all occurrences of a text within a text, or within each text of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    pub path: Path,
    /// Not empty.
    pub find: String,
    pub with: String,
}

enum Unreplaced {
    /// Why nothing was replaced. Only the path is named: the texts may be personal.
    Nothing(String),
    TooLarge,
}

impl Replacement {
    fn apply(&self, data: &RawValue) -> Result<Box<RawValue>, Unreplaced> {
        let path = &self.path;
        let nothing = |reason: &str| Unreplaced::Nothing(format!("{reason} at {path}"));
        let old = path
            .value_in(data.get())
            .ok_or_else(|| nothing("its data has no text"))?;
        let mut left = MAX_DATA_BYTES;
        let new = match serde_json::from_str::<Vec<Box<RawValue>>>(old.get()) {
            Ok(items) => self.in_list(items, &mut left)?,
            Err(_) => {
                let text = text_of(&old).ok_or_else(|| nothing("its data has no text"))?;
                self.in_text(&text, &mut left)?
            }
        };
        let new = new.ok_or_else(|| nothing("its data has nothing to replace"))?;
        let data =
            changed(data, &path.0, Some(&new)).ok_or_else(|| nothing("its data has no text"))?;
        match data.get().len() > MAX_DATA_BYTES {
            true => Err(Unreplaced::TooLarge),
            false => Ok(data),
        }
    }

    fn in_list(
        &self,
        mut items: Vec<Box<RawValue>>,
        left: &mut usize,
    ) -> Result<Option<Box<RawValue>>, Unreplaced> {
        let mut has_replaced = false;
        for item in &mut items {
            let Some(text) = text_of(item) else { continue };
            if let Some(new) = self.in_text(&text, left)? {
                *item = new;
                has_replaced = true;
            }
        }
        Ok(has_replaced
            .then(|| serde_json::value::to_raw_value(&items).ok())
            .flatten())
    }

    /// `left`: bytes that may still be made. A short text can become gigabytes, so they are counted
    /// before they are made.
    fn in_text(&self, text: &str, left: &mut usize) -> Result<Option<Box<RawValue>>, Unreplaced> {
        let found = text.matches(&self.find).count();
        if found == 0 {
            return Ok(None);
        }
        let length = text.len() - found * self.find.len();
        let length = length.saturating_add(found.saturating_mul(self.with.len()));
        *left = left.checked_sub(length).ok_or(Unreplaced::TooLarge)?;
        let new = text.replace(&self.find, &self.with);
        Ok(serde_json::value::to_raw_value(&new).ok())
    }
}

fn text_of(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A member of an object, or an item of a list.
fn member(value: &RawValue, name: &str) -> Option<Box<RawValue>> {
    if let Ok(Members(members)) = serde_json::from_str(value.get()) {
        let found = members.into_iter().find(|(known, _)| known == name);
        return found.map(|(_, value)| value);
    }
    let mut items: Vec<Box<RawValue>> = serde_json::from_str(value.get()).ok()?;
    let place = name.parse::<usize>().ok()?;
    (place < items.len()).then(|| items.swap_remove(place))
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

#[cfg(test)]
mod tests;
