//! Texts of JSON that need not be characters. JSON may escape half of one, as Node writes of a text
//! that was cut within an emoji (`"\ud83d"`). Such a text is JSON for everybody, and no `String`.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A text, or the name of a member. Halves of characters become U+FFFD, so that the rest is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LossyText(pub String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsBytes;
        impl Visitor<'_> for AsBytes {
            type Value = LossyText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<LossyText, E> {
                Ok(LossyText(text.to_owned()))
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<LossyText, E> {
                Ok(LossyText(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        // Bytes, since serde_json refuses halves of characters only in what must be a `String`.
        deserializer.deserialize_bytes(AsBytes)
    }
}

/// The members of an object in order, repeated names included.
#[derive(Default)]
pub(crate) struct Members<'a>(pub Vec<(LossyText, &'a RawValue)>);

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
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_character_leaves_the_rest_of_a_text_readable() {
        for (json, text) in [
            (r#""aé\u00e9\n""#, "aéé\n"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""a\ud83d b""#, "a\u{fffd}\u{fffd}\u{fffd} b"),
        ] {
            let read: LossyText = serde_json::from_str(json).expect("a text");
            assert_eq!(read.0, text, "{json}");
        }
        assert!(serde_json::from_str::<LossyText>("7").is_err());
        assert!(serde_json::from_str::<LossyText>("[7]").is_err());
    }
}
