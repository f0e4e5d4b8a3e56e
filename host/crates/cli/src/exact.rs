//! JSON that stays as its author wrote it: parsing would round its numbers.

use patchbay_model::json_members::Members;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// The document, in which each text under one of these names that holds JSON is replaced by that
/// JSON, at any depth. A text that is not JSON stays a text.
pub(super) fn with_json_in(document: &RawValue, names: &[&str]) -> Box<RawValue> {
    if let Ok(mut members) = serde_json::from_str::<Members>(document.get()) {
        for (name, value) in &mut members.0 {
            let inner = names
                .contains(&name.as_str())
                .then(|| inner(value))
                .flatten();
            *value = inner.unwrap_or_else(|| with_json_in(value, names));
        }
        return written(&members, document);
    }
    if document.get().starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<Box<RawValue>>>(document.get())
    {
        let items: Vec<_> = items.iter().map(|item| with_json_in(item, names)).collect();
        return written(&items, document);
    }
    document.to_owned()
}

fn inner(value: &RawValue) -> Option<Box<RawValue>> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    RawValue::from_string(text).ok()
}

fn written(value: &impl Serialize, otherwise: &RawValue) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| otherwise.to_owned())
}

/// The object with one more member.
pub(super) fn with_member(
    document: &RawValue,
    name: &str,
    value: &impl Serialize,
) -> Box<RawValue> {
    let member = to_raw_value(value).ok();
    match (serde_json::from_str::<Members>(document.get()), member) {
        (Ok(mut members), Some(member)) => {
            members.0.push((name.to_owned(), member));
            written(&members, document)
        }
        _ => document.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn json_in_texts_becomes_json_and_keeps_its_numbers() {
        let document = raw(
            r#"{"jobs":[{"id":"1","data":"{\"n\":123456789012345678901234567890,\"f\":1.10}"},{"id":"2","data":"{broken"}],"data":7}"#,
        );
        assert_eq!(
            with_json_in(&document, &["data"]).get(),
            r#"{"jobs":[{"id":"1","data":{"n":123456789012345678901234567890,"f":1.10}},{"id":"2","data":"{broken"}],"data":7}"#
        );
        assert_eq!(with_json_in(&raw("3.0"), &["data"]).get(), "3.0");
    }

    #[test]
    fn a_member_is_added_at_the_end() {
        assert_eq!(
            with_member(&raw(r#"{"a":1.0}"#), "b", &[2]).get(),
            r#"{"a":1.0,"b":[2]}"#
        );
    }
}
