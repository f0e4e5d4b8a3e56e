//! Texts of JSON documents that other systems wrote. JSON's grammar allows half a surrogate pair
//! (`"\ud83d"`, which Node writes where a text was cut within an emoji); such a text is no Unicode
//! string, and reading it as one fails. What looks for secrets or persons must read it all the same.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A text or the name of a member, with the replacement character in place of what is not Unicode.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LossyText(pub(crate) String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = LossyText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(LossyText(text.to_owned()))
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(LossyText(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        // As bytes, serde_json gives half a pair as three bytes instead of an error.
        deserializer.deserialize_bytes(Text)
    }
}

/// The members of an object in order, repeated names included.
#[derive(Default)]
pub(crate) struct Members<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((LossyText(name), member)) = map.next_entry()? {
                    members.push((name, member));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn half_a_pair_is_replaced_in_texts_and_names_and_all_else_stays() {
        let text = |json: &str| serde_json::from_str::<LossyText>(json).map(|text| text.0);
        assert_eq!(
            text(r#""a\u00fc\ud83d\ude00\n""#).expect("a text"),
            "aü😀\n"
        );
        let cut = text(r#""mail a@b.example \ud83d""#).expect("a text");
        assert!(cut.starts_with("mail a@b.example \u{fffd}"), "{cut}");
        let names: BTreeMap<LossyText, u8> =
            serde_json::from_str(r#"{"\ud800":1,"b":2}"#).expect("an object");
        assert_eq!(names.get(&LossyText("b".into())), Some(&2));
        assert!(text("1").is_err());
    }
}
